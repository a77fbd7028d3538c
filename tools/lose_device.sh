#!/usr/bin/env bash
# Loses the device in the driver: a Vulkan layer reports it as lost at a wait or a submission. `embed` and `train` must
# open it anew and end with the same bits as an undisturbed run. Takes seconds on a software adapter. Needs a C compiler
# and Vulkan's headers (Debian: libvulkan-dev). tools/rehearse.sh tries far more failures, but simulates them in the
# program.
#
#   tools/lose_device.sh [PROGRAM]      PROGRAM: a built lat-wgpu; otherwise builds one
set -euo pipefail
cd "$(dirname "$0")/.."

program="${1:-}"
if [ -z "$program" ]; then
    # With a test program, so that the dependencies are those that the tests compiled.
    cargo build --quiet --bin lat-wgpu --test tidy
    program="${CARGO_TARGET_DIR:-target}/debug/lat-wgpu"
fi
program="$(realpath "$program")"
model="$PWD/tests/goldens/plain.model.safetensors"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cc -shared -fPIC -O1 -Wall -Werror -o "$folder/liblose_device.so" tools/lose_device.c
cd "$folder"
cat >lose_device.json <<'LAYER'
{
    "file_format_version": "1.1.2",
    "layer": {
        "name": "VK_LAYER_lat_wgpu_lose_device", "type": "GLOBAL", "library_path": "./liblose_device.so",
        "api_version": "1.3.0", "implementation_version": "1", "description": "Loses the device"
    }
}
LAYER
export VK_LAYER_PATH="$folder" VK_INSTANCE_LAYERS=VK_LAYER_lat_wgpu_lose_device LOSE_NOTE="$folder/note"

embed() { "$program" embed --model "$model" --heads 2 figures --batch-size 2 --out "$1.npy"; }
train() {
    "$program" train --backbone "$model" --heads 2 --data figures --out "$1" --preset paper --epochs 3 --batch-size 4 \
        --set schedule.save_every=1
}
fail() {
    echo "lose_device: $1" >&2
    cat said.txt >&2
    exit 1
}

"$program" synth figures --persons 4 --cameras 2 --images 2
embed whole 2>said.txt || fail "embed failed without a loss"
train whole 2>said.txt || fail "train failed without a loss"
tries=0
for place in LOSE_AT_WAIT LOSE_AT_SUBMIT; do
    for number in 1 2 5 7; do
        for work in embed train; do
            what="$work with $place=$number"
            rm -rf run run.npy run.paths.txt note
            (export "$place=$number" && "$work" run) 2>said.txt || fail "$what failed"
            [ -e note ] || fail "$what lost no device"
            grep -q "opened again" said.txt || fail "$what opened no device again"
            if grep -q panicked said.txt; then fail "$what panicked"; fi
            if [ "$work" = embed ]; then
                cmp whole.npy run.npy && cmp whole.paths.txt run.paths.txt || fail "$what: other embeddings"
            else
                cmp whole/last.safetensors run/last.safetensors || fail "$what: another network"
            fi
            tries=$((tries + 1))
        done
    done
done
echo "the driver lost the device in $tries runs of embed and train: the same files"
