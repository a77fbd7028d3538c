#!/usr/bin/env bash
# Simulates failures of the adapter. In training, each buffer in turn fails to allocate, and the device is lost before
# 50 random dispatches; then before 50 random dispatches of embedding. Every run must end with the same bits as an
# undisturbed one. Takes about ten minutes on a software adapter; tests/lost_adapter.rs tries a few of these.
#
#   tools/rehearse.sh [PROGRAM [SEED]]      PROGRAM: a built lat-wgpu; otherwise builds one
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

"$program" synth figures --persons 4 --cameras 2 --images 2
train() {
    rm -rf run
    LAT_REHEARSE="$1" "$program" train --backbone "$model" --heads 2 --data figures --out run --preset paper \
        --epochs 3 --batch-size 4 --set schedule.save_every=1 2>said.txt || {
        echo "$1: the run failed" >&2
        cat said.txt >&2
        exit 1
    }
}
# Compares files of the run with those of the undisturbed one: `compare WHAT FILE…`.
compare() {
    local what="$1" file
    shift
    for file in "$@"; do
        cmp "whole/$file" "run/$file" || {
            echo "$what: $file differs" >&2
            exit 1
        }
    done
}
train ""
mv run whole

buffers=0
while true; do
    train "refuse@$((buffers + 1))"
    compare "refuse@$((buffers + 1))" last.safetensors best.safetensors
    grep -q "as rehearsed" said.txt || break
    buffers=$((buffers + 1))
done
echo "each of $buffers buffers failed once: the same files"

[ "$buffers" -gt 10 ] || {
    echo "too few failures happened" >&2
    exit 1
}

embed() {
    rm -rf run
    mkdir run
    LAT_REHEARSE="$1" "$program" embed --model "$model" --heads 2 figures --batch-size 2 --out run/rows.npy 2>said.txt || {
        echo "$1: the embedding failed" >&2
        cat said.txt >&2
        exit 1
    }
}

# Succeeds if a run of `train` or `embed` reaches a dispatch.
reaches() {
    "$1" "lose@$2"
    grep -q "as rehearsed" said.txt
}

# Loses the device before 50 dispatches of `train` or `embed`, and compares files: `lose WORK FILE…`.
lose() {
    local work="$1" low=1 high=2 number
    shift
    # Finds the last dispatch by bisection.
    while reaches "$work" "$high"; do
        low="$high"
        high=$((2 * high))
    done
    while [ $((high - low)) -gt 1 ]; do
        number=$(((low + high) / 2))
        if reaches "$work" "$number"; then low="$number"; else high="$number"; fi
    done
    for ((i = 0; i < 50; i++)); do
        number=$((1 + (RANDOM * 32768 + RANDOM) % low))
        reaches "$work" "$number" || {
            echo "$work with lose@$number lost no device" >&2
            exit 1
        }
        compare "$work with lose@$number" "$@"
    done
    echo "$work lost the device before 50 random ones of its $low dispatches: the same files"
}

seed="${2:-7}"
RANDOM="$seed"
lose train last.safetensors best.safetensors
rm -rf whole
embed ""
mv run whole
lose embed rows.npy rows.paths.txt
echo "rehearse: passed ($SECONDS s, seed $seed)"
