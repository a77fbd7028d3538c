#!/usr/bin/env bash
# Opens the pages in headless Chromium and uses them as people do: tools/browser/*.mjs, each with the program as its
# argument. Needs Rust, a Vulkan or Metal driver, Node and Chromium ($CHROMIUM, or what is installed).
set -euo pipefail
cd "$(dirname "$0")/.."

source tools/browser/setup.sh axe-core puppeteer-core

for page in tools/browser/*.mjs; do
    echo "$page"
    node "$page" "$program"
done
