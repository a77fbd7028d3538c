#!/usr/bin/env bash
# Runs all tests on the adapter, then those that use it again with WebGPU's default limits and no optional feature.
# Needs Rust and a Vulkan or Metal driver, but neither Python nor Node.
set -euo pipefail
cd "$(dirname "$0")/.."

# Vulkan's software driver writes files there, and some logins lack this folder.
if [ ! -w "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR="$(mktemp -d)"
    export XDG_RUNTIME_DIR
    trap 'rm -rf "$XDG_RUNTIME_DIR"' EXIT
fi

cargo test --no-run
if ! "${CARGO_TARGET_DIR:-target}/debug/lat-wgpu" info; then
    echo "error: the tests need a graphics adapter; a software one will do" >&2
    echo "hint: on Debian and Ubuntu: apt install libvulkan1 mesa-vulkan-drivers" >&2
    exit 1
fi
cargo test

# Test programs that run kernels in other sizes or orders than the others.
LAT_LIMITS=default cargo test --test kernels --test model --test training --test train --test neighbours --test eval --test reduce --test explain --test precision --test bench --test guarded --test selftest --test export
