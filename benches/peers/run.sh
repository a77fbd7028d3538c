#!/usr/bin/env bash
# Builds what is compared and prints the table: see README.md beside this file, or `run.sh --help`.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# Beside the main build's outputs: Burn's are kept from one run to the next.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$here/../../target}/peers"
exec "${PYTHON:-python3}" "$here/compare.py" "$@"
