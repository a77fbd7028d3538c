#!/usr/bin/env bash
# Exports networks for the browser and runs them there: in Node with Dawn, Chrome's WebGPU, and through the page in
# headless Chromium on its software adapter; every vector is compared with the native one. Needs Rust, a Vulkan or Metal
# driver, Node and Chromium ($CHROMIUM, or what is installed).
set -euo pipefail
cd "$(dirname "$0")/.."

CHROMIUM="${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}"
export CHROMIUM
for tool in node npm "${CHROMIUM:-chromium}"; do
    if ! command -v "$tool" >/dev/null; then
        echo "error: no $tool" >&2
        echo "hint: on Debian and Ubuntu: apt install nodejs npm chromium; elsewhere CHROMIUM=PATH tools/web_test.sh" >&2
        exit 1
    fi
done
if [ ! -w "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR="$(mktemp -d)"
    export XDG_RUNTIME_DIR
    trap 'rm -rf "$XDG_RUNTIME_DIR"' EXIT
fi

# Versions are pinned in package.json; no scripts of packages are run.
for package in axe-core puppeteer-core webgpu; do
    wanted="$(node --print "require('./tools/package.json').dependencies['$package']")"
    found="$(node --print "require('./tools/node_modules/$package/package.json').version" 2>/dev/null || true)"
    if [ "$found" != "$wanted" ]; then
        (cd tools && npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error)
    fi
done

cargo build
program="$(cd "${CARGO_TARGET_DIR:-target}/debug" && pwd)/lat-wgpu"

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
