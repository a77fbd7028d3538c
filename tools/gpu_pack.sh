#!/usr/bin/env bash
# Packs what tools/gpu_report.sh needs on a machine without Rust, network or this repository.
#
#   tools/gpu_pack.sh DIR [--with-loader]
#
#   DIR            is made: programs, scripts, SPIR-V of every variant, demo weights; and beside it DIR.tar.xz
#   --with-loader  puts this system's libvulkan.so.1 in as well, for machines with a driver but no Vulkan loader
#
# Builds for this system. LAT_PROGRAM names a lat-wgpu that is built already.
set -euo pipefail
most=25000000

usage() {
    sed -n 's/^#   /  /p' "$0" >&2
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
        -*) usage ;;
        *)
            [ -z "$dir" ] || usage
            dir="$argument"
            ;;
    esac
done
[ -n "$dir" ] || usage
[ ! -e "$dir" ] || fail "$dir is there already: remove it, or give another folder"
mkdir -p "$dir"
dir="$(cd "$dir" && pwd)"
cd "$(dirname "$0")/.."
target="$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)"
exe=""
case "$(uname -s)" in MINGW* | MSYS* | CYGWIN*) exe=.exe ;; esac

program="${LAT_PROGRAM:-}"
if [ -z "$program" ]; then
    cargo build --release --locked
    program="$target/release/lat-wgpu$exe"
fi
CARGO_TARGET_DIR="$target/isa_report" cargo build --release --locked --manifest-path tools/isa_report/Cargo.toml
shaders="$target/pack_shaders"
rm -rf "$shaders"
LAT_SHADER_OUT="$shaders" cargo test --quiet --test shader_contract every_variant_becomes >/dev/null

cp "$program" "$target/isa_report/release/isa_report$exe" "$dir"
strip "$dir/lat-wgpu$exe" "$dir/isa_report$exe"
cp tools/gpu_report.sh tools/flat_json.awk benches/peers/torch_peer.py weights/demo.safetensors LICENSE "$dir"
mkdir "$dir/shaders"
cp "$shaders"/*.spv "$shaders/list.txt" "$dir/shaders"
if [ -n "$loader" ]; then
    found="$(/sbin/ldconfig -p | sed -n 's/.*libvulkan\.so\.1 .*x86-64.*=> //p' | head -n 1)"
    [ -n "$found" ] || fail "no libvulkan.so.1 on this system"
    mkdir "$dir/lib"
    cp -L "$found" "$dir/lib/libvulkan.so.1"
fi
cat >"$dir/README.txt" <<'TEXT'
Measures what lat-wgpu does on this machine's graphics card. Nothing is installed, nothing is sent.

    ./gpu_report.sh report            nine minutes
    ./gpu_report.sh report --quick    under three minutes, shows whether everything runs

Send report/report.md and report/report.json. They name the card, its driver and the system, no user and no file.
On Windows run it in Git Bash, on macOS in Terminal. ./gpu_report.sh --help says what else can be set.
TEXT

# Made apart, so that it appears when it is whole; sorted, so that shaders of one kernel stand together.
(cd "$(dirname "$dir")" && find "$(basename "$dir")" -type f | LC_ALL=C sort | tar -cf - -T - | xz -9 -T 1 >"$dir.tar.xz.part")
mv "$dir.tar.xz.part" "$dir.tar.xz"
size=$(wc -c <"$dir.tar.xz")
[ "$size" -le "$most" ] || fail "$dir.tar.xz has $size bytes, more than $most"
echo "$dir.tar.xz: $((size / 1000)) KB"
