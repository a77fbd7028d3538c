#!/usr/bin/env bash
# Exports networks for the web and runs them in Node with Dawn, Chrome's WebGPU, and in the page in headless Chromium
# with its software adapter. Compares every embedding with the native one. Needs Rust, a Vulkan or Metal driver, Node
# and Chromium ($CHROMIUM, or the installed one).
set -euo pipefail
cd "$(dirname "$0")/.."

source tools/browser/setup.sh axe-core puppeteer-core webgpu

# Dawn refuses Mesa's software driver before version 23, but accepts that of Chromium.
code=0
node tools/web_test/dawn.mjs "$program" || code=$?
if [ "$code" = 3 ]; then
    software=""
    for folder in "$(dirname "$(readlink -f "$(command -v "$CHROMIUM")")")" /usr/lib/chromium /usr/lib/chromium-browser /opt/google/chrome; do
        if [ -f "$folder/vk_swiftshader_icd.json" ]; then software="$folder/vk_swiftshader_icd.json"; break; fi
    done
    if [ -z "$software" ]; then
        echo "hint: VK_DRIVER_FILES=FILE.json names a driver of Vulkan 1.1 or later for Dawn" >&2
        exit 1
    fi
    echo "again on Chromium's software adapter"
    # The program itself keeps its adapter.
    node tools/web_test/dawn.mjs "$program" "$software"
elif [ "$code" != 0 ]; then
    exit "$code"
fi
node tools/web_test/page.mjs "$program"
