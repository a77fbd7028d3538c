#!/usr/bin/env bash
# Further Vulkan drivers that need no graphics card, beside the system's own and without touching it: fetched from
# Debian's archive and unpacked into .adapters/, which git ignores. Needs apt and Debian's archive keys.
#
#   tools/adapters.sh                    fetches what is missing, then prints which drivers are there
#   tools/adapters.sh --list             prints them only
#   tools/adapters.sh NAME COMMAND…      runs a command with one of them as the only Vulkan driver
#
#   lavapipe         Mesa's software adapter, a newer one than Debian 12's
#   lavapipe-newest  that of Debian's newest release, with its own C library and loader; has matrix units (8x8x8, f16)
#   swiftshader      Google's software adapter: no f16, subgroups of 4, 256 invocations, 10 storage buffers
#   radv             Mesa's driver for AMD cards: compiles, runs nothing; see tools/isa_report.sh
#
# Under lavapipe-newest a program runs by the loader of that release, and so do the tests that cargo runs. A program that
# such a test starts runs by the system's own, where the driver can't be loaded.
set -euo pipefail
cd_before="$PWD"
cd "$(dirname "$0")/.."
folder="$PWD/.adapters"

# The Debian release whose packages are taken, and the Mesa that tools/isa_report/TABLE.md holds for.
release=bookworm
mesa=25.0.7-2~bpo12+1

# Debian's newest release, and the Mesa that is wanted from it; where the archive no longer has it, the newest is taken.
newest_release=sid
newest_mesa=26.2.6-1

fail() {
    echo "error: $1" >&2
    echo "hint: $2" >&2
    exit 1
}

# The library of a driver below .adapters/.
library() {
    case "$1" in
        lavapipe) echo mesa/usr/lib/x86_64-linux-gnu/libvulkan_lvp.so ;;
        lavapipe-newest) echo newest/usr/lib/x86_64-linux-gnu/libvulkan_lvp.so ;;
        radv) echo mesa/usr/lib/x86_64-linux-gnu/libvulkan_radeon.so ;;
        swiftshader) echo swiftshader/usr/lib/chromium/libvk_swiftshader.so ;;
    esac
}

# What the Vulkan loader reads to find a driver, with a path that holds wherever the repository lies.
describe() {
    cat >"$folder/$1.json" <<DRIVER
{ "file_format_version": "1.0.0", "ICD": { "library_path": "./$(library "$1")", "api_version": "1.3.0" } }
DRIVER
}

# Downloads packages and unpacks them into a folder below .adapters/ that appears only when it is whole. With
# --with-dependencies in front, what they depend on comes too, the C library included.
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
        # Of the browser's package the driver alone.
        if [ "$into" = swiftshader ]; then
            dpkg-deb --fsys-tarfile "$package" | tar --extract --directory "$work/tree" --wildcards './usr/lib/chromium/*swiftshader*'
        else
            dpkg-deb --extract "$package" "$work/tree"
        fi
        # The packages' names hold their versions.
        basename "$package" .deb >>"$work/tree/packages.txt"
    done
    mv "$work/tree" "$folder/$into"
    rm -rf "$work"
}

# Reads the archive's lists for these releases, apart from the system's: neither root nor a change to the system is needed,
# and no package counts as installed. A copy of the archive may be older than its lists say they are valid.
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
    [ "$(uname -m)" = x86_64 ] || fail "no packages for $(uname -m)" "the drivers are taken for x86_64 only"
    command -v apt-get >/dev/null || fail "no apt-get" "on another system unpack the packages of Debian $release into $folder yourself"
    # The mirror that this machine uses.
    local mirror
    mirror="$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian //p' | head -n 1)"
    [ -n "$mirror" ] || fail "apt knows no mirror of Debian" "these drivers are taken from Debian $release; on another system unpack them into $folder yourself"
    lists "$mirror" "$release" "$release-backports"
    if [ ! -e "$folder/swiftshader" ]; then
        unpack swiftshader chromium-common
        describe swiftshader
    fi
    if [ ! -e "$folder/mesa" ]; then
        # libdrm: the system's may be too old for the driver.
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
        # Both names of the variable: older loaders know the second only.
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
