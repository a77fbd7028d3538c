#!/usr/bin/env bash
# Fetches Vulkan drivers that need no GPU from Debian's archive into .adapters/, which git ignores, without changing the
# system. Needs apt and Debian's archive keys.
#
#   tools/adapters.sh                    fetches missing drivers, then lists all
#   tools/adapters.sh --list             lists them only
#   tools/adapters.sh NAME COMMAND…      runs a command with one of them as the only Vulkan driver
#
#   lavapipe         Mesa's software adapter, newer than Debian 12's
#   lavapipe-newest  Debian's newest, with its own C library and loader; has matrix units (8x8x8, f16)
#   swiftshader      Google's software adapter: no f16, subgroups of 4, 256 invocations, 10 storage buffers
#   radv             Mesa's driver for AMD GPUs, which only compiles; see tools/isa_report.sh
#
# Under lavapipe-newest, a program, the tests that cargo runs and the programs that tests/common/program.rs starts use the
# loader of that release. Any other program uses the system's loader, which can't load the driver.
set -euo pipefail
cd_before="$PWD"
cd "$(dirname "$0")/.."
folder="$PWD/.adapters"

# The Debian release of the packages, and the version of Mesa for tools/isa_report/TABLE.md.
release=bookworm
mesa=25.0.7-2~bpo12+1

# Debian's newest release, and the version of Mesa from it, or the newest if the archive no longer has it.
newest_release=sid
newest_mesa=26.2.6-1

fail() {
    echo "error: $1" >&2
    echo "hint: $2" >&2
    exit 1
}

# Prints the library of a driver below .adapters/.
library() {
    case "$1" in
        lavapipe) echo mesa/usr/lib/x86_64-linux-gnu/libvulkan_lvp.so ;;
        lavapipe-newest) echo newest/usr/lib/x86_64-linux-gnu/libvulkan_lvp.so ;;
        radv) echo mesa/usr/lib/x86_64-linux-gnu/libvulkan_radeon.so ;;
        swiftshader) echo swiftshader/usr/lib/chromium/libvk_swiftshader.so ;;
    esac
}

# Writes the file by which the Vulkan loader finds a driver, with a relative path.
describe() {
    cat >"$folder/$1.json" <<DRIVER
{ "file_format_version": "1.0.0", "ICD": { "library_path": "./$(library "$1")", "api_version": "1.3.0" } }
DRIVER
}

# Downloads packages and unpacks them into a folder below .adapters/, which appears only when complete. After
# --with-dependencies, also downloads their dependencies, including the C library.
unpack() {
    local into="$1"
    shift
    local work="$folder/$into.part"
    rm -rf "$work" "${folder:?}/$into"
    mkdir -p "$work/packages/partial" "$work/tree"
    if [ "$1" = --with-dependencies ]; then
        shift
        apt-get "${apt[@]}" --quiet --yes --no-install-recommends --download-only -o Debug::NoLocking=1 \
            -o "Dir::Cache::archives=$work/packages" install "$@" >/dev/null
    else
        (cd "$work/packages" && apt-get "${apt[@]}" --quiet download "$@")
    fi
    local package
    for package in "$work"/packages/*.deb; do
        # Only the driver from the browser's package.
        if [ "$into" = swiftshader ]; then
            dpkg-deb --fsys-tarfile "$package" | tar --extract --directory "$work/tree" --wildcards './usr/lib/chromium/*swiftshader*'
        else
            dpkg-deb --extract "$package" "$work/tree"
        fi
        # The names of packages include their versions.
        basename "$package" .deb >>"$work/tree/packages.txt"
    done
    mv "$work/tree" "$folder/$into"
    rm -rf "$work"
}

# Reads the archive's lists of these releases, apart from the system's, without root. No package counts as installed.
# Expired lists are accepted, since a mirror may be old.
lists() {
    local mirror="$1"
    shift
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    rm -rf "$folder/apt"
    mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
    printf "deb [signed-by=$keys] $mirror %s main\n" "$@" >"$folder/apt/sources.list"
    apt=(-o "Dir::State=$folder/apt" -o Dir::State::status=/dev/null -o "Dir::Cache=$folder/apt/cache"
        -o "Dir::Etc::sourcelist=$folder/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o APT::Sandbox::User="$(id -un)" -o Acquire::Check-Valid-Until=false)
    apt-get "${apt[@]}" --quiet update
}

fetch() {
    [ "$(uname -m)" = x86_64 ] || fail "no packages for $(uname -m)" "the drivers are for x86_64 only"
    command -v apt-get >/dev/null || fail "no apt-get" "on another system unpack the packages of Debian $release into $folder yourself"
    # The mirror in use on this machine.
    local mirror
    mirror="$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian //p' | head -n 1)"
    [ -n "$mirror" ] || fail "apt knows no mirror of Debian" "the drivers come from Debian $release; on another system unpack them into $folder yourself"
    lists "$mirror" "$release" "$release-backports"
    if [ ! -e "$folder/swiftshader" ]; then
        unpack swiftshader chromium-common
        describe swiftshader
    fi
    if [ ! -e "$folder/mesa" ]; then
        # The system's libdrm may be too old for the driver.
        unpack mesa mesa-vulkan-drivers="$mesa" {libdrm2,libdrm-amdgpu1}/"$release-backports" libllvm15
        describe lavapipe
        describe radv
    fi
    if [ ! -e "$folder/newest" ]; then
        lists "$mirror" "$newest_release"
        local driver=mesa-vulkan-drivers
        if apt-cache "${apt[@]}" show "$driver=$newest_mesa" >/dev/null 2>&1; then driver="$driver=$newest_mesa"; fi
        unpack newest --with-dependencies "$driver" libvulkan1
        describe lavapipe-newest
    fi
    rm -rf "$folder/apt"
}

there() { [ -e "$folder/$1.json" ] && [ -e "$folder/$(library "$1")" ]; }

list() {
    local name
    for name in lavapipe lavapipe-newest radv swiftshader; do
        local package=mesa-vulkan-drivers from=mesa
        if [ "$name" = lavapipe-newest ]; then from=newest; fi
        if [ "$name" = swiftshader ]; then package=chromium-common from=swiftshader; fi
        if there "$name"; then
            echo "$name: $(sed -n "s/^${package}_\(.*\)_.*/$package \1/p" "$folder/$from/packages.txt")"
        else
            echo "$name: not there"
        fi
    done
}

case "${1:-}" in
    "")
        if ! there lavapipe || ! there lavapipe-newest || ! there radv || ! there swiftshader; then fetch; fi
        list
        ;;
    --list) list ;;
    lavapipe | lavapipe-newest | radv | swiftshader)
        name="$1"
        shift
        there "$name" || fail "no driver $name in $folder" "run tools/adapters.sh without arguments to fetch it"
        [ $# -gt 0 ] || fail "no command to run on $name" "tools/adapters.sh $name COMMAND…"
        # Older loaders know only the second variable.
        export VK_DRIVER_FILES="$folder/$name.json" VK_ICD_FILENAMES="$folder/$name.json"
        case "$name" in
            lavapipe | radv)
                export LD_LIBRARY_PATH="$folder/mesa/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
                ;;
            lavapipe-newest)
                libraries="$folder/newest/usr/lib/x86_64-linux-gnu"
                run=("$libraries/ld-linux-x86-64.so.2" --library-path "$libraries")
                export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="${run[*]}"
                cd "$cd_before"
                if [ "$(basename "$1")" = cargo ]; then exec "$@"; fi
                program="$(command -v "$1")" || fail "no program $1" "give its path"
                exec "${run[@]}" "$program" "${@:2}"
                ;;
        esac
        cd "$cd_before"
        exec "$@"
        ;;
    *)
        sed -n 's/^#   /  /p' "$0" >&2
        exit 2
        ;;
esac
