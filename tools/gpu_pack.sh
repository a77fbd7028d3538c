#!/usr/bin/env bash
# Packs tools/gpu_report.sh for a machine without Rust, network or this repository.
#
#   tools/gpu_pack.sh DIR [--with-loader]
#
#   DIR            new folder for programs, scripts, SPIR-V of every variant and demo weights; also writes DIR.tar.xz
#   --with-loader  adds this system's libvulkan.so.1, for machines with a driver but no Vulkan loader
#
# Builds for this system: on Linux the other machine's C library must be at least as new as this one's. LAT_PROGRAM
# names a lat-wgpu that is already built.
set -euo pipefail
most=25000000

help() { sed -n 's/^#   /  /p' "$0"; }
usage() {
    help >&2
    exit 2
}
fail() {
    echo "error: $1" >&2
    exit 1
}

dir="" loader=""
for argument in "$@"; do
    case "$argument" in
        --with-loader) loader=1 ;;
        --help | -h)
            help
            exit 0
            ;;
        -*) usage ;;
        *)
            [ -z "$dir" ] || usage
            dir="$argument"
            ;;
    esac
done
[ -n "$dir" ] || usage
[ ! -e "$dir" ] || fail "$dir already exists: remove it, or give another folder"
parent="$(mkdir -p "$(dirname "$dir")" && cd "$(dirname "$dir")" && pwd)"
dir="$parent/$(basename "$dir")"
program="${LAT_PROGRAM:-}"
if [ -n "$program" ]; then
    [ -f "$program" ] || fail "no program $program"
    program="$(cd "$(dirname "$program")" && pwd)/$(basename "$program")"
fi
cd "$(dirname "$0")/.."
target="$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)"
exe=""
case "$(uname -s)" in MINGW* | MSYS* | CYGWIN*) exe=.exe ;; esac

# Checked before the build, which takes minutes.
found=""
if [ -n "$loader" ]; then
    for path in $(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | sed -n 's/.*libvulkan\.so\.1 .*64.*=> //p'); do
        found="${found:-$path}"
    done
    [ -n "$found" ] || fail "no libvulkan.so.1 on this system"
fi
for tool in strip xz; do
    command -v "$tool" >/dev/null || fail "no $tool on this system"
done

if [ -z "$program" ]; then
    cargo build --release --locked
    program="$target/release/lat-wgpu$exe"
fi
CARGO_TARGET_DIR="$target/isa_report" cargo build --release --locked --manifest-path tools/isa_report/Cargo.toml
shaders="$target/pack_shaders"
rm -rf "$shaders"
LAT_SHADER_OUT="$shaders" cargo test --quiet --test shader_contract every_variant_translates >/dev/null

# DIR appears only when complete.
part="$dir.part"
trap 'rm -rf "$part" "$dir.tar.xz.part"' EXIT
rm -rf "$part"
mkdir "$part"
cp "$program" "$part/lat-wgpu$exe"
cp "$target/isa_report/release/isa_report$exe" "$part"
strip "$part/lat-wgpu$exe" "$part/isa_report$exe"
cp tools/gpu_report.sh tools/flat_json.awk benches/peers/torch_peer.py weights/demo.safetensors LICENSE "$part"
mkdir "$part/shaders"
cp "$shaders"/*.spv "$shaders/list.txt" "$part/shaders"
if [ -n "$loader" ]; then
    mkdir "$part/lib"
    cp -L "$found" "$part/lib/libvulkan.so.1"
fi
cat >"$part/README.txt" <<'TEXT'
Measures lat-wgpu on this machine's GPU. Nothing is installed or sent.

    ./gpu_report.sh report            nine minutes
    ./gpu_report.sh report --quick    under three minutes, checks that everything runs

Send report/report.md and report/report.json. They name the GPU, its driver and the system, but no user or file.
On Windows run it in Git Bash, on macOS in Terminal. ./gpu_report.sh --help lists the options.
TEXT

mv "$part" "$dir"

# Sorted, since similar shaders next to each other compress better.
(cd "$(dirname "$dir")" && find "$(basename "$dir")" -type f | LC_ALL=C sort | tar -cf - -T - | xz -9 -T 1 >"$dir.tar.xz.part")
mv "$dir.tar.xz.part" "$dir.tar.xz"
size=$(wc -c <"$dir.tar.xz")
[ "$size" -le "$most" ] || fail "$dir.tar.xz has $size bytes, more than $most"
echo "$dir.tar.xz: $((size / 1000)) KB"
