#!/usr/bin/env bash
# Tests the pages in headless Chromium: runs tools/browser/*.mjs with the program as their argument. Needs Rust, a
# Vulkan or Metal driver, Node and Chromium ($CHROMIUM, or the installed one).
set -euo pipefail
cd "$(dirname "$0")/.."

source tools/browser/setup.sh axe-core puppeteer-core

for page in tools/browser/*.mjs; do
    echo "$page"
    node "$page" "$program"
done
