#!/usr/bin/env bash
# Compiles every assembled shader as HLSL with Microsoft's compilers under Wine: DXC, and FXC for shader model 5.1,
# called as wgpu does on Windows. Then compares arrays in registers that are indexed by a variable, which drivers may
# keep in memory, with tools/hlsl/INDEXED.md. Takes about four minutes on two cores; not a part of .ci/run.
#
#   tools/check_hlsl.sh                  fails if a shader is refused or a kernel has more such arrays than its row
#   tools/check_hlsl.sh --write          writes the table again
#   tools/check_hlsl.sh --only PATTERN   variants with names that start with a pattern of grep -E, without the table
#
# Needs Debian's wine64, gcc-mingw-w64-x86-64 and libz-mingw-w64, and npm: the compilers are in the package webgpu.
set -euo pipefail
cd "$(dirname "$0")/.."
table=tools/hlsl/INDEXED.md
# Time limit of a shader; the slowest takes six seconds in FXC.
readonly SECONDS_EACH=120

pattern=""
case "${1:-} $#" in
    " 0" | "--write 1") ;;
    "--only 2") pattern="$2" ;;
    *)
        sed -n 's/^#   /  /p' "$0" >&2
        exit 2
        ;;
esac

wine=""
for program in /usr/lib/wine/wine64 wine64 wine; do
    if command -v "$program" >/dev/null; then
        wine="$program"
        break
    fi
done
zlib=/usr/x86_64-w64-mingw32/lib/zlib1.dll
if [ -z "$wine" ] || [ ! -f "$zlib" ] || ! command -v x86_64-w64-mingw32-gcc npm >/dev/null; then
    echo "error: no Wine, no mingw or no npm" >&2
    echo "hint: on Debian and Ubuntu: apt install wine64 gcc-mingw-w64-x86-64 libz-mingw-w64 npm" >&2
    exit 1
fi
if [ ! -f tools/node_modules/webgpu/dist/win32-x64/dxcompiler.dll ]; then
    (cd tools && npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error)
fi

target="$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)"
host="$target/hlsl"
shaders="$host/shaders"
rm -rf "$shaders"
mkdir -p "$host"
LAT_SHADER_OUT="$shaders" cargo test --quiet --test shader_contract every_variant_translates >/dev/null
x86_64-w64-mingw32-gcc -std=c17 -O1 -Wall -Wextra -Werror -o "$host/host.exe" tools/hlsl/host.c
cp tools/node_modules/webgpu/dist/win32-x64/{dxcompiler,d3dcompiler_47}.dll "$zlib" "$host"

# Compiles pipelines with the same text once. FXC reads shader model 5.1, DXC 6.0 and later.
cd "$shaders"
sha256sum -- *.hlsl |
    awk 'NR == FNR { text[$2] = $1; next } !seen[text[$1]]++' - hlsl.txt |
    { grep -E "^($pattern)" || true; } |
    awk '{ if ($2 == "cs_5_1") { print "fxc", $0; $2 = "cs_6_0" } print "dxc", $0 }' >jobs.txt
if [ ! -s jobs.txt ]; then
    echo "error: no variant's name starts with \`$pattern\`" >&2
    exit 1
fi

# Uses Microsoft's d3dcompiler instead of Wine's, and disables dialogs.
export WINEPREFIX="$host/prefix" WINEDEBUG=-all WINEDLLOVERRIDES="d3dcompiler_47=n;mscoree,mshtml="
SECONDS=0
code=0
"$wine" "$host/host.exe" jobs.txt results.txt "$(nproc)" "$SECONDS_EACH" || code=$?
if [ "$code" -gt 1 ]; then
    # After any error, the next run starts afresh.
    rm -rf "$WINEPREFIX"
    exit 1
fi

for compiler in fxc dxc; do
    awk -v compiler="$compiler" -v pipelines="$(wc -l <hlsl.txt)" '
        $1 == compiler { count[$2]++; all++; took += $3; if ($3 > longest) { longest = $3; slowest = $6 } }
        END {
            printf "%s: %d of %d different shaders accepted (of %d pipelines), %d refused, %d timed out; %.0f s of work, ", \
                compiler, count["accepted"], all, pipelines, count["refused"], count["late"], took / 1000
            printf "longest %.1f s: %s\n", longest / 1000, slowest
        }' results.txt
done
echo "$SECONDS s in Wine"

# The worst of each kernel and compiler, `| kernel | compiler | arrays | places |`, without those that have none.
awk '$4 + $5 > 0 {
    split($6, word, "-"); sub(/[+.].*/, "", word[2])
    row = "| " word[1] " " word[2] " | " $1 " |"
    if ($4 > arrays[row]) arrays[row] = $4
    if ($5 > places[row]) places[row] = $5
} END { for (row in arrays) print row, arrays[row] + 0, "|", places[row] + 0, "|" }' results.txt | LC_ALL=C sort >indexed.txt
cd - >/dev/null

if [ "$code" != 0 ]; then
    echo "hint: the refused sources are in $shaders" >&2
    exit 1
fi
if [ -n "$pattern" ]; then
    cat "$shaders/indexed.txt"
elif [ "${1:-}" = "--write" ]; then
    {
        sed '/^| --- /q' "$table"
        cat "$shaders/indexed.txt"
    } >"$table.part"
    mv "$table.part" "$table"
    echo "$table"
else
    awk -F '|' '
        NR == FNR { arrays[$2, $3] = $4; places[$2, $3] = $5; next }
        $4 + 0 > arrays[$2, $3] + 0 || $5 + 0 > places[$2, $3] + 0 {
            printf "%s,%s: %d arrays in registers are indexed at %d places, its row says %d and %d\n", \
                $2, $3, $4, $5, arrays[$2, $3], places[$2, $3]
            worse = 1
        }
        END { exit worse }' "$table" "$shaders/indexed.txt" || {
        echo "hint: if this is intended, run tools/check_hlsl.sh --write" >&2
        exit 1
    }
    echo "no kernel has more indexed arrays than its row in $table"
fi
