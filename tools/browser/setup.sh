# Sourced by tests in a browser, from the repository's root, with the names of npm packages. Sets up Chromium in
# $CHROMIUM, a folder for Vulkan's software driver, the packages, and the program in $program.

CHROMIUM="${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}"
export CHROMIUM
for tool in node npm "${CHROMIUM:-chromium}"; do
    if ! command -v "$tool" >/dev/null; then
        echo "error: no $tool" >&2
        echo "hint: on Debian and Ubuntu: apt install nodejs npm chromium; elsewhere CHROMIUM=PATH $0" >&2
        exit 1
    fi
done
if [ ! -w "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR="$(mktemp -d)"
    export XDG_RUNTIME_DIR
    trap 'rm -rf "$XDG_RUNTIME_DIR"' EXIT
fi

# Versions are pinned in package.json; no scripts of packages are run.
for package in "$@"; do
    wanted="$(node --print "require('./tools/package.json').dependencies['$package']")"
    found="$(node --print "require('./tools/node_modules/$package/package.json').version" 2>/dev/null || true)"
    if [ "$found" != "$wanted" ]; then
        (cd tools && npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error)
    fi
done

# With a test program, so that the dependencies are those that the tests compiled.
cargo build --bin lat-wgpu --test tidy
program="$(cd "${CARGO_TARGET_DIR:-target}/debug" && pwd)/lat-wgpu"
