#!/usr/bin/env bash
# Rehearses every failure of the adapter in training: each buffer in turn finds no memory, and the device is lost before 50
# launches drawn at random. Every run must end with the files of the one that nothing happened to, to the bit. Takes about
# ten minutes on a software adapter; tests/faults.rs tries a few of these.
#
#   tools/rehearse.sh [PROGRAM]      PROGRAM: a lat-wgpu that is built already; else one is
set -euo pipefail
cd "$(dirname "$0")/.."

program="${1:-}"
if [ -z "$program" ]; then
    cargo build --quiet --release
    program="${CARGO_TARGET_DIR:-target}/release/lat-wgpu"
fi
program="$(realpath "$program")"
model="$PWD/tests/goldens/plain.model.safetensors"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"

"$program" draw figures --persons 4 --cameras 2 --images 2
train() {
    rm -rf run
    LAT_REHEARSE="$1" "$program" train --backbone "$model" --heads 2 --data figures --out run --preset paper \
        --epochs 3 --batch-size 4 --set schedule.save_every=1 2>said.txt || {
        echo "$1: the run failed" >&2
        cat said.txt >&2
        exit 1
    }
}
compare() {
    for file in last.safetensors best.safetensors; do
        cmp "whole/$file" "run/$file" || {
            echo "$1: $file differs" >&2
            exit 1
        }
    done
}
train ""
mv run whole

buffers=0
while true; do
    train "refuse@$((buffers + 1))"
    compare "refuse@$((buffers + 1))"
    grep -q "as rehearsed" said.txt || break
    buffers=$((buffers + 1))
done
echo "each of $buffers buffers found no memory once: the same files"

RANDOM=7
lost=0
while [ "$lost" -lt 50 ]; do
    number=$((1 + RANDOM % 320))
    train "lose@$number"
    compare "lose@$number"
    if grep -q "as rehearsed" said.txt; then
        lost=$((lost + 1))
    fi
done
echo "the device was lost before a launch drawn at random in $lost runs: the same files"
[ "$buffers" -gt 10 ] || {
    echo "too few failures came about" >&2
    exit 1
}
