#!/usr/bin/env bash
# From a fresh Debian or Ubuntu machine with Rust to embeddings: driver if none is there, build, weights, figures, vectors,
# nearest pairs. Everything it writes is under target/demo and weights/; only the driver is installed on the machine.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v python3 >/dev/null; then
    echo "error: no python3, which fetches the weights and compares the vectors" >&2
    echo "hint: on Debian and Ubuntu: apt install python3" >&2
    exit 1
fi
if [ ! -w "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR="$(mktemp -d)"
    export XDG_RUNTIME_DIR
    trap 'rm -rf "$XDG_RUNTIME_DIR"' EXIT
fi

say() { printf '\n== %s\n' "$*"; }

say "Build"
cargo build --release
program="${CARGO_TARGET_DIR:-target}/release/lat-wgpu"

if ! "$program" info >/dev/null 2>&1; then
    say "No graphics adapter is found: a software Vulkan driver (Mesa's) is installed"
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
"$program" info

say "Weights"
weights=weights/dinov2-s14.safetensors
if [ -e "$weights" ]; then
    echo "$weights is there"
else
    python3 tools/fetch_weights.py dinov2-s14
fi

demo="${CARGO_TARGET_DIR:-target}/demo"
rm -rf "$demo"
mkdir -p "$demo"

say "Figures: a small data set, of which 8 persons for training, each seen by 2 cameras"
"$program" draw "$demo/figures" --persons 16 --cameras 2 --images 1 --seed 1
"$program" data "$demo/figures"

say "Embed"
"$program" embed --model "$weights" "$demo/figures/bounding_box_train" --out "$demo/embeddings.safetensors"

say "Nearest pairs: the other camera's picture that looks most alike"
python3 tools/nearest_pairs.py "$demo/embeddings.safetensors"
echo "The weights are general picture features, not trained to tell persons apart."
