#!/usr/bin/env bash
# Damages files and watches their readers: bounded time, bounded memory, a clear error. Needs only stable Rust.
#
#   tools/fuzz.sh run [--target NAME]… [--seconds N] [--seed S]    every target for N seconds; a seed fixes the inputs
#   tools/fuzz.sh replay --target NAME FILE…                       messages of a target for files
#   tools/fuzz.sh images [--count N] [--embed N] [--seed S]        damaged images for the decoder and `lat-wgpu embed`
#   tools/fuzz.sh libfuzzer NAME [SECONDS]                         the targets guided by coverage; needs a C++ compiler
#   tools/fuzz.sh check                                            format, lints, and a short run; for CI
#
# Findings are saved under target/fuzz/findings, and fixed in the reader; tests/fuzz_findings.rs repeats them.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# = 0 ]; then
    sed -n 's/^#   /  /p' "$0" >&2
    exit 2
fi
target="$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)"
manifest=tools/fuzz/Cargo.toml
work="$target/fuzz"
mkdir -p "$work"
command="$1"
shift

build() {
    CARGO_TARGET_DIR="$target" cargo build --quiet --locked --manifest-path "$manifest"
}

case "$command" in
    run)
        build
        "$target/debug/lat-fuzz" run --out "$work/findings" "$@"
        ;;
    replay)
        build
        "$target/debug/lat-fuzz" replay "$@"
        ;;
    images)
        build
        # With a test program, so that the dependencies are those that the tests compiled.
        cargo build --quiet --bin lat-wgpu --test tidy
        "$target/debug/lat-fuzz" images --program "$target/debug/lat-wgpu" "$@"
        ;;
    libfuzzer)
        name="${1:?NAME is missing: tools/fuzz.sh libfuzzer NAME [SECONDS]}"
        build
        "$target/debug/lat-fuzz" seeds "$work/seeds"
        # As cargo-fuzz does, but without its sanitizer, which needs nightly Rust.
        triple="$(rustc -vV | sed -n 's/^host: //p')"
        coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
        coverage+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
        RUSTFLAGS="--cfg fuzzing $coverage" CARGO_TARGET_DIR="$work/coverage" cargo build --quiet --locked --target "$triple" \
            --features libfuzzer --bin libfuzzer --manifest-path "$manifest"
        mkdir -p "$work/corpus/$name" "$work/findings/$name"
        files="$(mktemp -d)"
        trap 'rm -rf "$files"' EXIT
        LAT_FUZZ_TARGET="$name" LAT_FUZZ_DIR="$files" "$work/coverage/$triple/debug/libfuzzer" -max_total_time="${2:-60}" \
            -timeout=10 -rss_limit_mb=6000 -max_len=65536 -dict="$work/seeds/$name.dict" \
            -artifact_prefix="$work/findings/$name/" "$work/corpus/$name" "$work/seeds/$name"
        ;;
    check)
        (cd tools/fuzz && cargo fmt --check)
        CARGO_TARGET_DIR="$target" cargo clippy --quiet --locked --all-targets --manifest-path "$manifest" -- -D warnings
        build
        "$target/debug/lat-fuzz" run --out "$work/findings" --seconds 3
        cargo build --quiet --bin lat-wgpu --test tidy
        "$target/debug/lat-fuzz" images --program "$target/debug/lat-wgpu" --count 20000 --embed 200
        ;;
    *)
        sed -n 's/^#   /  /p' "$0" >&2
        exit 2
        ;;
esac
