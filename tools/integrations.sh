#!/usr/bin/env bash
# Tracks drawn persons with BoxMOT, Ultralytics and Roboflow's trackers, each from the Python index and with an export of
# the bundled model. It checks that the packages take the exports, not how well they track. Needs the program, $LAT_PROGRAM
# or target/debug/lat-wgpu, a Vulkan or Metal driver and Python with venv ($PYTHON, or python3). The packages, with
# PyTorch, take 7 GB in a folder that is removed at the end; $LAT_TRACKERS names an environment that has them.
set -euo pipefail
cd "$(dirname "$0")/.."

program="$(realpath "${LAT_PROGRAM:-${CARGO_TARGET_DIR:-target}/debug/lat-wgpu}")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
environment="${LAT_TRACKERS:-$work/environment}"
if [ ! -x "$environment/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir 'boxmot[onnx]' ultralytics trackers
fi
# Both write settings into the home folder.
export HOME="$work" YOLO_CONFIG_DIR="$work"

track() {
    local name="$1"
    shift
    echo "== $name"
    "$program" export --model weights/demo.safetensors --to onnx "$@" --out "$work/lat_wgpu_$name.onnx" --quiet
    "$environment/bin/python" "tools/integrations/${name}_track.py" "$program" "$work/lat_wgpu_$name.onnx"
}
track boxmot --for boxmot
track ultralytics --for ultralytics
track roboflow --input u8
