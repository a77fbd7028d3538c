#!/usr/bin/env bash
# Reports on the AMD machine code of the shaders, without a GPU: compiles every variant by naga and Mesa's RADV for a
# null device, with the drivers of tools/adapters.sh. With --any, reports the statistics of the installed driver.
#
#   tools/isa_report.sh --check               fails if a hot kernel spills or is worse than its row in TABLE.md
#   tools/isa_report.sh --write               writes the table again
#   tools/isa_report.sh --show FAMILY NAME    one kernel's statistics and machine code; without a name: all names
#   tools/isa_report.sh --any [--json] [--adapter NAME] [--seconds S]
#                                             registers, stack and spills of every pipeline on the installed driver,
#                                             if it has VK_KHR_pipeline_executable_properties
set -euo pipefail
cd "$(dirname "$0")/.."
table=tools/isa_report/TABLE.md

usage() {
    sed -n 's/^#   /  /p' "$0" >&2
    exit 2
}
case "${1:-} $#" in
    "--check 1" | "--write 1" | "--show 2" | "--show 3" | "--any "*) ;;
    *) usage ;;
esac
if [ "$1" != --any ] && [[ "$(tools/adapters.sh --list)" == *"radv: not there"* ]]; then
    echo "error: no driver that compiles for AMD GPUs" >&2
    echo "hint: tools/adapters.sh fetches it" >&2
    exit 1
fi

target="$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)"
shaders="$target/isa_shaders"
rm -rf "$shaders"
LAT_SHADER_OUT="$shaders" cargo test --quiet --test shader_contract every_variant_translates >/dev/null
CARGO_TARGET_DIR="$target/isa_report" cargo build --quiet --locked --manifest-path tools/isa_report/Cargo.toml

# Mesa complains that a null device has no PCI bus.
report() {
    MESA_SHADER_CACHE_DISABLE=true tools/adapters.sh radv "$target/isa_report/debug/isa_report" "$shaders" "$@" \
        2> >(grep -v "invalid pci bus info" >&2 || true)
}

case "$1" in
    --any) "$target/isa_report/debug/isa_report" "$shaders" any "${@:2}" ;;
    --check) report check "$table" ;;
    --write)
        {
            sed '/^Driver: /,$d' "$table"
            report write
        } >"$table.part"
        mv "$table.part" "$table"
        echo "$table"
        ;;
    --show)
        if [ $# = 2 ]; then
            sed -nE 's/ [^ ]* (plain|fragments)[^ ]* */+/p' "$shaders/list.txt" | sed 's/ /+/g; s/+$//'
        else
            report show "$2" "$3"
        fi
        ;;
esac
