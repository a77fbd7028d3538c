#!/usr/bin/env bash
# Shows every assembled shader to readers other than naga: its SPIR-V to spirv-val (Debian: spirv-tools), its WGSL to
# Tint (npm package webgpu, no GPU needed). Both are first shown something wrong, which they must refuse.
set -euo pipefail
cd "$(dirname "$0")/.."

out="$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)/shaders"
for tool in spirv-val node npm; do
    if ! command -v "$tool" >/dev/null; then
        echo "error: no $tool" >&2
        echo "hint: on Debian and Ubuntu: apt install spirv-tools nodejs npm" >&2
        exit 1
    fi
done

rm -rf "$out"
LAT_SHADER_OUT="$out" cargo test --quiet --test shader_contract

# Storage and subgroup rules are those of Vulkan 1.1, the least that the engine uses.
valid() { spirv-val --target-env vulkan1.1 "$1"; }

count=0
for file in "$out"/*.spv; do
    # Matrix units are younger than Debian's spirv-val.
    [[ "$file" == *gemm_cooperative* ]] && continue
    valid "$file"
    count=$((count + 1))
done
echo "spirv-val: $count pipelines accepted"

# The last one without its last instruction, OpFunctionEnd (one word).
head --bytes=-4 "$file" >"$out/cut.bad"
if valid "$out/cut.bad" 2>/dev/null; then
    echo "self-test: spirv-val accepts a module without its end" >&2
    exit 1
fi

# The version is pinned in package.json; no scripts of packages are run.
wanted="$(node --print 'require("./tools/package.json").dependencies.webgpu')"
found="$(node --print 'require("./tools/node_modules/webgpu/package.json").version' 2>/dev/null || true)"
if [ "$found" != "$wanted" ]; then
    (cd tools && npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error)
fi
node tools/tint_check.mjs "$out"
