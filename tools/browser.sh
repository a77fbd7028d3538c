#!/usr/bin/env bash
# Opens the pages in headless Chromium and uses them as people do: tools/browser/*.mjs, each with the program as its
# argument. Needs Rust, a Vulkan or Metal driver, Node and Chromium ($CHROMIUM, or what is installed).
set -euo pipefail
cd "$(dirname "$0")/.."

CHROMIUM="${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}"
export CHROMIUM
for tool in node npm "${CHROMIUM:-chromium}"; do
    if ! command -v "$tool" >/dev/null; then
        echo "error: no $tool" >&2
        echo "hint: on Debian and Ubuntu: apt install nodejs npm chromium; elsewhere CHROMIUM=PATH tools/browser.sh" >&2
        exit 1
    fi
done
if [ ! -w "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR="$(mktemp -d)"
    export XDG_RUNTIME_DIR
    trap 'rm -rf "$XDG_RUNTIME_DIR"' EXIT
fi

# Versions are pinned in package.json; no scripts of packages are run.
for package in axe-core puppeteer-core; do
    wanted="$(node --print "require('./tools/package.json').dependencies['$package']")"
    found="$(node --print "require('./tools/node_modules/$package/package.json').version" 2>/dev/null || true)"
    if [ "$found" != "$wanted" ]; then
        (cd tools && npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error)
    fi
done

cargo build
program="$(cd "${CARGO_TARGET_DIR:-target}/debug" && pwd)/lat-wgpu"
for page in tools/browser/*.mjs; do
    echo "$page"
    node "$page" "$program"
done
