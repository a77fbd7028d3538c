#!/usr/bin/env bash
# From a fresh Debian or Ubuntu machine with Rust to a report: a software driver if no adapter is found, build, `lat-wgpu demo`.
# LAT_PROGRAM names a program that is built already. Output goes to target/; only the driver is installed on the machine.
# Arguments go to the demo, such as --seed 1.
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
    echo "[1/2] Building lat-wgpu: about 10 minutes on two cores, once; later runs take seconds"
    cargo build --release
    program="$target/release/lat-wgpu"
fi

if ! "$program" info >/dev/null 2>&1; then
    echo "No graphics adapter is found: a software Vulkan driver (Mesa's) is installed"
    if ! command -v apt-get >/dev/null; then
        echo "error: no apt-get here: install a Vulkan driver by hand" >&2
        exit 1
    fi
    root=()
    if [ "$(id -u)" != 0 ]; then root=(sudo); fi
    "${root[@]}" apt-get update
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends libvulkan1 mesa-vulkan-drivers
fi

# Debian 12's Mesa is an old one.
if grep -qs '^VERSION_ID="12"' /etc/os-release && grep -qs '^ID=debian' /etc/os-release &&
    "$program" info 2>/dev/null | sed -n '/^\*/,/^    CPU/p' | grep -q 'llvmpipe Mesa 22'; then
    echo "note: a newer Mesa's software adapter is about 1.5 times as fast. To fetch Debian's newest and run on it:"
    echo "      tools/adapters.sh && tools/adapters.sh lavapipe-newest $program demo --out $target/demo-newest"
fi

echo "[2/2] Drawing, training, scoring: about a minute on two cores; the report comes to $target/demo"
rm -rf "$target/demo"
"$program" demo --out "$target/demo" "$@"
