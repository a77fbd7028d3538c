#!/usr/bin/env bash
# Exports networks for the browser and runs them there: in Node with Dawn, Chrome's WebGPU, and through the page in
# headless Chromium on its software adapter; every vector is compared with the native one. Needs Rust, a Vulkan or Metal
# driver, Node and Chromium ($CHROMIUM, or what is installed).
set -euo pipefail
cd "$(dirname "$0")/.."

source tools/browser/setup.sh axe-core puppeteer-core webgpu

# Dawn takes no Mesa software driver before 23; Chromium brings one that it takes.
code=0
node tools/web_test/dawn.mjs "$program" || code=$?
if [ "$code" = 3 ]; then
    software=""
    for folder in "$(dirname "$(readlink -f "$(command -v "$CHROMIUM")")")" /usr/lib/chromium /usr/lib/chromium-browser /opt/google/chrome; do
        if [ -f "$folder/vk_swiftshader_icd.json" ]; then software="$folder/vk_swiftshader_icd.json"; break; fi
    done
    if [ -z "$software" ]; then
        echo "hint: VK_DRIVER_FILES=FILE.json names a driver of Vulkan 1.1 or later that Dawn takes" >&2
        exit 1
    fi
    echo "once more on Chromium's software adapter"
    # The program itself stays on the adapter that it had.
    node tools/web_test/dawn.mjs "$program" "$software"
elif [ "$code" != 0 ]; then
    exit "$code"
fi
node tools/web_test/page.mjs "$program"
