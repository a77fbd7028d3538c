#!/usr/bin/env bash
# Tests training and adapting by several processes: on this host, then on two network namespaces as two hosts. Needs
# Open MPI (Debian and Ubuntu: apt install libopenmpi-dev openmpi-bin); the second part also root and iproute2.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -w "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR="$(mktemp -d)"
    export XDG_RUNTIME_DIR
fi
# Under a name of its own: other steps take the program without the feature from the usual place.
program="${CARGO_TARGET_DIR:-target}/debug/lat-wgpu-mpi"
cargo test --features mpi --test mpi -- --test-threads 1
cp "${CARGO_TARGET_DIR:-target}/debug/lat-wgpu" "$program"
# The program without the feature again.
cargo test --no-run --test cli

# Containers may allow none of these.
two_hosts_work() {
    ip netns add lat-probe &&
        ip link add lat-a netns lat-probe type veth peer name lat-b netns lat-probe &&
        ip netns exec lat-probe unshare --uts hostname lat-probe
}
works=yes
two_hosts_work 2>/dev/null || works=no
ip netns del lat-probe 2>/dev/null || true
if [ "$works" = no ]; then
    echo "no network namespaces here: two hosts are not tested"
    exit
fi
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$program" synth "$folder/figures" --persons 8 --cameras 2 --seed 3 --quiet
run=(train --backbone tests/goldens/plain.model.safetensors --heads 2 --data "$folder/figures" --batch-size 8 --epochs 2 --quiet)
"$program" "${run[@]}" --micro-batch 4 --out "$folder/one"
tools/two_hosts.sh "$program" "${run[@]}" --out "$folder/two"
for file in best.safetensors last.safetensors; do cmp "$folder/one/$file" "$folder/two/$file"; done
echo "two hosts give the bits of one process"
