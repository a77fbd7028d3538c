#!/usr/bin/env bash
# Builds the programs and prints the table; see README.md in this folder, or `run.sh --help`.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# In the main build's target folder, which keeps Burn's outputs between runs.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$here/../../target}/peers"
exec "${PYTHON:-python3}" "$here/compare.py" "$@"
