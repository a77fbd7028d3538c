#!/usr/bin/env bash
# Runs `lat-wgpu demo` on a fresh Debian or Ubuntu machine with Rust: installs a software driver if no adapter is found,
# and builds the program unless LAT_PROGRAM names one. Output goes to target/. Arguments, such as --seed 1, go to the
# demo.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -w "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR="$(mktemp -d)"
    export XDG_RUNTIME_DIR
    trap 'rm -rf "$XDG_RUNTIME_DIR"' EXIT
fi

target="${CARGO_TARGET_DIR:-target}"
program="${LAT_PROGRAM:-}"
if [ -z "$program" ]; then
    echo "[1/2] Building lat-wgpu: about 6 minutes on two cores, once; later runs take seconds"
    cargo build --release
    program="$target/release/lat-wgpu"
fi

if ! "$program" info >/dev/null 2>&1; then
    echo "No graphics adapter found: installing Mesa's software Vulkan driver"
    if ! command -v apt-get >/dev/null; then
        echo "error: no apt-get: install a Vulkan driver by hand" >&2
        exit 1
    fi
    root=()
    if [ "$(id -u)" != 0 ]; then root=(sudo); fi
    "${root[@]}" apt-get update
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends libvulkan1 mesa-vulkan-drivers
fi

# Debian 12's Mesa is old.
if grep -qs '^VERSION_ID="12"' /etc/os-release && grep -qs '^ID=debian' /etc/os-release &&
    "$program" info 2>/dev/null | sed -n '/^\*/,/^    CPU/p' | grep -q 'llvmpipe Mesa 22'; then
    echo "note: the software adapter of a newer Mesa is about 1.3 times as fast. To fetch and use Debian's newest:"
    echo "      tools/adapters.sh && tools/adapters.sh lavapipe-newest $program demo --out $target/demo-newest"
fi

echo "[2/2] Drawing, training, scoring: about a minute on two cores; the report will be in $target/demo"
rm -rf "$target/demo"
"$program" demo --out "$target/demo" "$@"
