#!/usr/bin/env bash
# Builds the Python wheel of tools/python and compares it with the command line, bit for bit, on synthetic images. Runs
# examples/own_photos.py. Also runs files of `export --to onnx` by ONNX Runtime and OpenVINO, reads a run's event file by
# TensorBoard, and sends `lat-wgpu serve` what its OpenAPI file allows and forbids, by Schemathesis. Needs Rust, a Vulkan
# or Metal driver and Python with venv ($PYTHON, or python3); installs packages into a virtual environment in the target
# folder.
set -euo pipefail
cd "$(dirname "$0")/.."

# The engine and the wheel share compiled dependencies.
CARGO_TARGET_DIR="$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)"
export CARGO_TARGET_DIR
environment="$CARGO_TARGET_DIR/python_environment"
if [ ! -w "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR="$(mktemp -d)"
    export XDG_RUNTIME_DIR
    trap 'rm -rf "$XDG_RUNTIME_DIR"' EXIT
fi

packages=("maturin>=1.9,<2" numpy pillow pytest onnx onnxruntime openvino safetensors schemathesis tensorboard)
if [ "$(cat "$environment/packages.txt" 2>/dev/null)" != "${packages[*]}" ]; then
    "${PYTHON:-python3}" -m venv --clear "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
    echo "${packages[*]}" >"$environment/packages.txt"
fi
cargo fmt --check --manifest-path tools/python/Cargo.toml
cargo clippy --quiet --locked --manifest-path tools/python/Cargo.toml -- -D warnings
# With a test program, so that the dependencies are those that the tests compiled.
cargo build --quiet --bin lat-wgpu --test tidy
wheels="$(mktemp -d)"
"$environment/bin/maturin" build --quiet --locked --profile dev --manifest-path tools/python/Cargo.toml --out "$wheels" \
    --interpreter "$environment/bin/python"
"$environment/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps "$wheels"/*.whl
rm -r "$wheels"
LAT_PROGRAM="$CARGO_TARGET_DIR/debug/lat-wgpu" LAT_DEMO="$PWD/weights/demo.safetensors" \
    "$environment/bin/python" -m pytest --quiet -p no:cacheprovider tools/python/tests

photos="$(mktemp -d)"
"$CARGO_TARGET_DIR/debug/lat-wgpu" synth "$photos/drawn" --persons 4 --cameras 2 --images 2 --quiet
queries=("$photos/drawn/query/"*)
"$environment/bin/python" examples/own_photos.py "$photos/drawn/bounding_box_test" "${queries[0]}" >"$photos/ranking"
cat "$photos/ranking"
# A line for the model, one for the photo, and its five matches.
[ "$(wc -l <"$photos/ranking")" = 7 ]
rm -r "$photos"
