#!/usr/bin/env bash
# Runs all measurements of lat-wgpu on an adapter, with programs that are already built, and writes a report.
#
#   gpu_report.sh OUT [--quick] [--minutes 9]
#
#   OUT          folder for report.md, report.json and report.log; without --quick also the lab's tiles-f32.toml and
#                tiles-f16.toml
#   --quick      runs every step at its smallest, in 2.7 minutes
#   --minutes N  total time; each step may use a share of the time left
#
# Environment variables:
#   LAT_PROGRAMS  folder with lat-wgpu and isa_report [this script's, else target/release, else target/debug]
#   LAT_PROGRAM   lat-wgpu itself
#   LAT_RUNNER    prefix of every command, such as "tools/adapters.sh lavapipe-newest"
#   LAT_SHADERS   folder with the SPIR-V of every variant [shaders beside this script, else target/isa_shaders]
#   LAT_ADAPTER   part of the adapter's name, if there are several
#   DATA          a data set to train on and score, such as Market-1501
#   WEIGHTS       backbone for DATA; EPOCHS: number of epochs [2]
#   PYTHON        a Python with torch, safetensors and Pillow, for ratios [python3]
#
# Runs in bash 3.2 and later with awk and sed, on Linux, macOS and in Git Bash on Windows. Writes the report again after
# every step, so that an interrupted run leaves its results.
# Exit code: 0 if every step succeeded, was left out or ran out of time; 1 if a step failed or found a wrong result, or
# without an adapter; 2 for bad usage; 130 or 143 after a signal. Except for 2, the report is written.
set -u
export LC_ALL=C
here="$(cd "$(dirname "$0")" && pwd)"

help() { sed -n 's/^#   /  /p' "$0"; }
usage() {
    help >&2
    exit 2
}

# ---- Arguments

out="" quick="" minutes=""
while [ $# -gt 0 ]; do
    case "$1" in
        --quick) quick=1 ;;
        --minutes)
            [ $# -gt 1 ] || usage
            minutes="$2"
            shift
            ;;
        --help | -h)
            help
            exit 0
            ;;
        -*) usage ;;
        *)
            [ -z "$out" ] || usage
            out="$1"
            ;;
    esac
    shift
done
[ -n "$out" ] || usage
[ -n "$minutes" ] || minutes=$([ -n "$quick" ] && echo 2.7 || echo 9)
total=$(awk -v m="$minutes" 'BEGIN { if (m !~ /^[0-9]+([.][0-9]+)?$/ || m * 60 < 30 || m > 1440) exit 1; print int(m * 60) }') || {
    echo "error: --minutes $minutes is not a number from 0.5 to 1440" >&2
    exit 2
}
# Without leading zeros, which JSON forbids.
minutes=$(awk -v m="$minutes" 'BEGIN { print m + 0 }')
mkdir -p "$out" && out="$(cd "$out" && pwd)" && : >"$out/report.log" || exit 2

# ---- Files

exe=""
case "$(uname -s)" in MINGW* | MSYS* | CYGWIN*) exe=.exe ;; esac
repository="$(dirname "$here")"
target="${CARGO_TARGET_DIR:-$repository/target}"
# Prints the first of these files, or folders of SPIR-V, that exists; else the first.
first_there() {
    local path
    for path in "$@"; do
        if [ -e "$path" ] && { [ ! -d "$path" ] || [ -e "$path/list.txt" ]; }; then
            echo "$path"
            return
        fi
    done
    echo "$1"
}
programs="${LAT_PROGRAMS:-}"
program="${LAT_PROGRAM:-}"
if [ -z "$program" ]; then
    if [ -n "$programs" ]; then
        program="$programs/lat-wgpu$exe"
    else
        program=$(first_there "$here/lat-wgpu$exe" "$target/release/lat-wgpu$exe" "$target/debug/lat-wgpu$exe")
    fi
fi
folder="$(cd "$(dirname "$program")" 2>/dev/null && pwd)" && program="$folder/$(basename "$program")"
isa=$(first_there "${programs:-$here}/isa_report$exe" "$(dirname "$program")/isa_report$exe" "$target/isa_report/debug/isa_report$exe")
shaders="${LAT_SHADERS:-$(first_there "$here/shaders" "$target/isa_shaders")}"
demo_weights=$(first_there "$here/demo.safetensors" "$repository/weights/demo.safetensors")
peer=$(first_there "$here/torch_peer.py" "$repository/benches/peers/torch_peer.py")
python="${PYTHON:-python3}"
runner="${LAT_RUNNER:-}"
if [ ! -f "$program" ] || [ ! -x "$program" ]; then
    echo "error: no program $program" >&2
    echo "hint: LAT_PROGRAMS=DIR names the folder with lat-wgpu; \`cargo build --release\` builds it" >&2
    exit 2
fi

scratch="$(mktemp -d "${TMPDIR:-/tmp}/gpu_report.XXXXXX")" || exit 2
running=""
finish() {
    if [ -n "$running" ]; then kill -KILL -- "-$running" 2>/dev/null; fi
    rm -rf "$scratch"
}
trap finish EXIT
if [ ! -w "${XDG_RUNTIME_DIR:-}" ] && [ "$(uname -s)" = Linux ]; then
    mkdir -m 700 "$scratch/runtime"
    export XDG_RUNTIME_DIR="$scratch/runtime"
fi
# A packed Vulkan loader is used if the system has none.
if [ -d "$here/lib" ]; then export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$here/lib"; fi
# Containers often have NVIDIA's driver without the file that the loader needs.
nvidia=/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json
if [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] ||
    cat /usr/share/vulkan/icd.d/*nvidia*.json /etc/vulkan/icd.d/*nvidia*.json 2>/dev/null | grep -q .; then
    : # The driver is found, or another one is wanted.
elif [ -e "$nvidia" ]; then
    export VK_DRIVER_FILES="$nvidia" VK_ICD_FILENAMES="$nvidia"
elif PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null | grep -q libGLX_nvidia.so.0; then
    echo '{"file_format_version": "1.0.0", "ICD": {"library_path": "libGLX_nvidia.so.0", "api_version": "1.3.0"}}' >"$scratch/nvidia.json"
    export VK_DRIVER_FILES="$scratch/nvidia.json" VK_ICD_FILENAMES="$scratch/nvidia.json"
fi

# ---- Texts

# The report names no user and no file: folders are replaced by these names.
: >"$scratch/names.sed"
while read -r name path; do
    case "$path" in
        /??*)
            printf '%s\n' "$path"
            cygpath -m "$path" 2>/dev/null
            ;;
    esac | sed "s/[][\\.*^\$|]/\\\\&/g; s/.*/s|&|$name|g/" >>"$scratch/names.sed"
done <<NAMES
SCRATCH $scratch
DATA ${DATA:-}
WEIGHTS ${WEIGHTS:-}
OUT $out
HERE $here
REPOSITORY $repository
HOME ${HOME:-}
NAMES
named() {
    if [ -s "$1" ]; then sed -f "$scratch/names.sed" "$1" >"$scratch/named" && mv "$scratch/named" "$1"; fi
}

# Drops bytes that aren't UTF-8.
utf8() { if command -v iconv >/dev/null; then iconv -c -f UTF-8 -t UTF-8 2>/dev/null; else tr -d '\200-\377'; fi; }
# Escapes standard input for a JSON text, in one line.
escaped() {
    utf8 | sed "s/$(printf '\033')\[[0-9;]*[A-Za-z]//g" | tr '\t\r' '  ' | tr -d '\000-\010\013-\037' | sed 's/\\/\\\\/g; s/"/\\"/g' |
        awk '{ printf "%s%s", (NR > 1 ? "\\n" : ""), $0 }'
}
quoted() { printf '"%s"' "$(printf '%s' "$1" | escaped)"; }
# Makes one line for a cell of a table.
cell() { printf '%s' "$1" | tr '\n|' '  '; }
flat() { [ -s "$1" ] && awk -f "$here/flat_json.awk" "$1"; }
# Succeeds if a file is complete JSON, judged by the brackets outside of texts.
whole() {
    [ -s "$1" ] && awk '
        { gsub(/\\./, ""); gsub(/"[^"]*"/, ""); left = $0; depth += gsub(/[[{]/, "", left) - gsub(/[]}]/, "", left) }
        /"/ || depth < 0 || (NR > 1 && ended && NF) || (NR == 1 && !/^[[{]/) { bad = 1; exit }
        depth == 0 { ended = 1 }
        END { exit bad || depth != 0 }' "$1"
}
# Prints the value at the first path that matches a pattern.
value() { flat "$1" | awk -F '\t' -v at="$2" '$1 ~ at { print $2; exit }'; }

# ---- Steps: name and share of the time, in order

if [ -n "$quick" ]; then
    plan="info:2 isa:6 selftest:22 overheads:4 bench-f32:12 bench-f16:12 lab-f32:10 attention-f32:6 steps-f32:26 steps-f16:26
        embed-1:5 embed-2:5 embed-3:5 torch-fp32:14 demo:12 train:20 eval:10"
else
    plan="info:1 isa:5 selftest:12 overheads:3 bench-f32:7 bench-f16:5 lab-f32:11 lab-f16:7 attention-f32:3 attention-f16:3
        steps-f32:4 steps-f16:4 steps-large-f32:4 steps-large-f16:4 embed-1:3 embed-2:3 embed-3:3
        torch-fp32:5 torch-tf32:3 torch-bf16:3 demo:4 train:9 eval:5 torch-bf16-compiled:6"
fi
started=$(date -u +%Y-%m-%dT%H:%M:%SZ)
steps_md="" steps_json="" details="" results="" failed="" complete=false current="" step_start=0

# Prints the seconds that a step may take: its share of the time left.
share() {
    local left=$((total - SECONDS)) name="$1" weights=0 own=0 entry seen=""
    for entry in $plan; do
        if [ "${entry%:*}" = "$name" ]; then
            seen=1
            own=${entry#*:}
        fi
        # Steps without a data set or PyTorch don't count.
        case "${entry%:*}" in
            train | eval) [ -n "${DATA:-}" ] || continue ;;
            torch-fp32) [ -n "$torch_device" ] || continue ;;
            torch-*) [ "$torch_device" = cuda ] || continue ;;
        esac
        if [ -n "$seen" ]; then weights=$((weights + ${entry#*:})); fi
    done
    # Every step gets enough time to start.
    local seconds=$((weights > 0 ? left * own / weights : 0))
    echo $((seconds > 5 ? seconds : 5))
}

# Runs a command with a time limit in seconds, and writes its output to files. Sets `code`, to 124 at the limit.
limited() {
    local limit="$1" stdout="$2" stderr="$3" end
    shift 3
    # In its own process group, so that its children end with it.
    set -m
    "$@" >"$stdout" 2>"$stderr" </dev/null &
    running=$!
    set +m
    end=$((SECONDS + limit))
    code=""
    while kill -0 "$running" 2>/dev/null; do
        if [ "$SECONDS" -ge "$end" ]; then
            code=124
            kill -TERM -- "-$running" 2>/dev/null
            local grace=$((SECONDS + 3))
            while kill -0 "$running" 2>/dev/null && [ "$SECONDS" -lt "$grace" ]; do sleep 0.2; done
            kill -KILL -- "-$running" 2>/dev/null
            break
        fi
        sleep 0.1
    done
    wait "$running" 2>/dev/null
    local ended=$?
    running=""
    if [ -z "$code" ]; then code=$ended; fi
}

# Sets the hard and the soft limit of a step. Fails if no time is left.
begin() {
    if [ "$SECONDS" -gt $((total - 5)) ]; then
        skip "$1" "no time was left"
        return 1
    fi
    current="$1"
    step_start=$SECONDS
    seconds=$(share "$1")
    # Everything depends on this step, and the first start of a driver takes a while.
    if [ "$1" = info ]; then seconds=$((total < 60 ? total / 2 : 30)); fi
    # A run that stops by itself has more results than one that is killed.
    soft=$((seconds > 12 ? seconds - seconds / 6 - 2 : seconds - 2))
    printf '%s (%s s at most)\n' "$1" "$seconds" >&2
}

# Records the end of a step with its output and result, and writes the report again.
end() {
    local name="$1" status="$2" reason="$3" stdout="$4" stderr="$5" result="$6"
    local took=$((SECONDS - step_start)) last=""
    named "$stdout"
    named "$stderr"
    case "$status" in
        failed | "timed out" | interrupted)
            last=$(tail -n 12 "$stderr" 2>/dev/null | tail -c 4000 | tr '\r' '\n' | tail -n 12 | utf8)
            ;;
    esac
    if [ "$status" = failed ]; then failed=1; fi
    steps_md="$steps_md| $name | $status$([ -n "$reason" ] && printf ': %s' "$(cell "$reason")") | $took |
"
    steps_json="$steps_json${steps_json:+,
    }{\"name\": \"$name\", \"status\": \"$status\", \"reason\": $(quoted "$reason"), \"seconds\": $took, \"limit\": ${seconds:-0}, \"last_lines\": $(quoted "$last")}"
    {
        echo "==== $name: $status${reason:+: $reason} ($took s)"
        tail -c 200000 "$stdout" 2>/dev/null
        tail -c 100000 "$stderr" 2>/dev/null
    } >>"$out/report.log"
    if [ -n "$result" ] && whole "$result"; then
        named "$result"
        if [ "$(wc -c <"$result")" -gt 3000000 ]; then
            echo "{\"left_out\": \"over 3 MB\"}" >"$result"
        fi
        results="$results $name"
    elif [ -n "$result" ]; then
        rm -f "$result"
    fi
    details="$details $name"
    if [ -n "$last" ]; then printf '%s\n' "$last" >"$scratch/$name.last"; fi
    current=""
    write
}

skip() {
    step_start=$SECONDS seconds=0
    end "$1" "left out" "$2" /dev/null /dev/null ""
}

# Runs a step of the program that writes JSON: NAME ARGUMENTS…
measure() {
    local name="$1"
    shift
    begin "$name" || return 0
    # shellcheck disable=SC2086 # a command with its arguments
    limited "$seconds" "$scratch/$name.txt" "$scratch/$name.err" $runner "$program" "$@" --json "$scratch/$name.json"
    conclude "$name"
}

# The same for `bench`, which stops by itself when its time is up.
bench() {
    local name="$1"
    shift
    begin "$name" || return 0
    # shellcheck disable=SC2086
    limited "$seconds" "$scratch/$name.txt" "$scratch/$name.err" $runner "$program" bench "$@" ${quick:+--quick} \
        --seconds "$soft" --json "$scratch/$name.json"
    conclude "$name"
}

conclude() {
    local name="$1" status="done" reason=""
    case "$code" in
        0)
            if [ -s "$scratch/$name.json" ] && ! whole "$scratch/$name.json"; then
                status=failed reason="its result is no JSON"
            elif [ "$(value "$scratch/$name.json" '^complete$')" = false ]; then
                reason="its time was up before the last row"
            fi
            ;;
        124) status="timed out" reason="after $seconds s" ;;
        129 | 1[3-9][0-9]) status=failed reason="ended by signal $((code - 128))" ;;
        *) status=failed reason="exit code $code" ;;
    esac
    end "$name" "$status" "$reason" "$scratch/$name.txt" "$scratch/$name.err" "$scratch/$name.json"
}

# ---- Figures

# Prints rows of a result of bench or steps: name, seconds, percent of the roof.
rows() {
    flat "$scratch/$1.json" | awk -F '\t' '
        match($1, /^rows\.[0-9]+\./) {
            at = substr($1, 6, RLENGTH - 6); key = substr($1, RLENGTH + 1); got[at, key] = $2
            if (at + 0 >= count) count = at + 1
        }
        END { for (i = 0; i < count; i++) if (got[i, "seconds"] > 0)
            printf "%s\t%s\t%s\n", got[i, "name"], got[i, "seconds"], got[i, "percent_of_roof"] }'
}

# Prints the percent of the roof of matching rows, weighted by time, with minimum and maximum.
percent() {
    rows "$1" | awk -F '\t' -v name="$2" '$1 ~ name && $3 != "" {
            sum += $2 * $3; time += $2; n++
            if (n == 1 || $3 < least) least = $3
            if ($3 > most) most = $3
        }
        END { if (n) printf "%.1f %%, %d row%s (%.1f to %.1f)", sum / time, n, (n > 1 ? "s" : ""), least, most; else printf "not measured" }'
}

# Prints PyTorch's rows: name, median seconds.
peers() {
    [ -s "$scratch/$1.lines" ] && awk '
        match($0, /"row": "[^"]*"/) {
            name = substr($0, RSTART + 8, RLENGTH - 9)
            if (!match($0, /"seconds": \[[^]]*\]/)) next
            n = split(substr($0, RSTART + 12, RLENGTH - 13), s, /, */)
            for (i = 2; i <= n; i++) for (j = i; j > 1 && s[j] + 0 < s[j - 1] + 0; j--) { t = s[j]; s[j] = s[j - 1]; s[j - 1] = t }
            print name "\t" s[int((n + 1) / 2)]
        }' "$scratch/$1.lines"
}

# Prints our names and PyTorch's rows of the same work at a batch: name<tab>row.
same_work() {
    awk -v batch="$1" 'BEGIN {
        split("vit-s 384 vit-b 768", models, " ")
        for (i = 1; i < 4; i += 2) {
            model = models[i]; d = models[i + 1]; rows = 197 * batch
            split("qkv fc1 fc2 proj", layers, " ")
            n["qkv"] = 3 * d; k["qkv"] = d; n["proj"] = d; k["proj"] = d; n["fc1"] = 4 * d; k["fc1"] = d; n["fc2"] = d; k["fc2"] = 4 * d
            for (l = 1; l <= 4; l++) {
                layer = layers[l]; name = "gemm " model " " layer
                print name "\tgemm:nt:" rows "x" k[layer] "x" n[layer]
                print name " input gradient\tgemm:nn:" rows "x" n[layer] "x" k[layer]
                print name " weight gradient\tgemm:tn:" n[layer] "x" rows "x" k[layer]
            }
            print "attention " model "\tattention:forward:" model ":" batch ":197"
            print "attention " model " backward\tattention:backward:" model ":" batch ":197"
            print "training step " model " 1 block\tstep:" model ":1:" batch
            print "training step " model " all\tstep:" model ":all:" batch
        }
        print "forward vit-s\tforward:vit-s:" batch
    }'
}

# Prints our rows that PyTorch has too, by storage: name, seconds.
ours() {
    rows "bench-$1"
    rows "steps-$1"
    if [ "$1" = f32 ] && [ -s "$scratch/forward" ]; then cat "$scratch/forward"; fi
}

# ratios TORCH STORAGE prints name, our seconds, PyTorch's seconds, and our speed relative to PyTorch's.
ratios() {
    [ -s "$scratch/$1.lines" ] || return 0
    {
        ours "$2" | sed 's/^/ours	/'
        same_work "$(value "$scratch/bench-$2.json" '^batch$')" | sed 's/^/same	/'
        peers "$1" | sed 's/^/torch	/'
    } | awk -F '\t' '
        $1 == "ours" { seconds[$2] = $3 }
        $1 == "same" { name[$3] = $2 }
        $1 == "torch" && name[$2] != "" && seconds[name[$2]] > 0 {
            printf "%s\t%s\t%s\t%.3f\n", name[$2], seconds[name[$2]], $3, $3 / seconds[name[$2]]
        }'
}

mean_ratio() {
    ratios "$1" "$2" | awk -F '\t' '{ sum += log($4); n++; if (n == 1 || $4 < least) least = $4; if ($4 > most) most = $4 }
        END { if (n) printf "%.2f, geometric mean of %d rows (%.2f to %.2f)", exp(sum / n), n, least, most; else printf "not measured" }'
}

# Prints the goals, one per line: name<tab>wanted<tab>measured.
goals() {
    local idle
    printf 'f32 product\tat least 60 %% of its roof\t%s\n' "$(percent bench-f32 '^gemm vit-[sb] (qkv|proj|fc1|fc2)$')"
    printf 'f32 gradient of the input\tnone set\t%s\n' "$(percent bench-f32 '^gemm .* input gradient$')"
    printf 'f32 gradient of the weight\tat least 45 %%\t%s\n' "$(percent bench-f32 '^gemm .* weight gradient$')"
    printf 'attention forward\tat least 40 %%\t%s\n' "$(percent bench-f32 '^attention vit-[sb]$')"
    printf 'attention backward\tat least 30 %%\t%s\n' "$(percent bench-f32 '^attention vit-[sb] backward$')"
    printf 'whole step of ViT-B, all blocks training\tat least 45 %% at batch 32\t%s\n' "$(percent steps-f32 '^training step vit-b all$')"
    idle=$(cat "$scratch"/embed-*.idle 2>/dev/null | tail -n 1)
    printf 'adapter idle in embed\tbelow 5 %%\t%s\n' "${idle:-not measured}"
    printf 'speed over eager f32 PyTorch\tat least 0.8\t%s\n' "$(mean_ratio torch-fp32 f32)"
}

# ---- The report

write() {
    local name
    {
        printf '{\n  "format": 1,\n  "complete": %s,\n  "quick": %s,\n  "minutes": %s,\n' "$complete" "$([ -n "$quick" ] && echo true || echo false)" "$minutes"
        printf '  "started": "%s",\n  "seconds": %s,\n  "system": %s,\n  "program": %s,\n' "$started" "$SECONDS" "$(quoted "$(uname -srm)")" "$(quoted "$version")"
        printf '  "adapter": %s,\n  "driver": %s,\n' "$(quoted "$adapter")" "$(quoted "$driver")"
        printf '  "steps": [\n    %s\n  ],\n' "$steps_json"
        printf '  "goals": [\n%s\n  ],\n' "$(goals | awk -F '\t' '{ gsub(/"/, "\\\""); printf "%s    {\"goal\": \"%s\", \"wanted\": \"%s\", \"measured\": \"%s\"}", (NR > 1 ? ",\n" : ""), $1, $2, $3 }')"
        printf '  "ratios": [\n%s\n  ],\n' "$(all_ratios | awk -F '\t' '{ printf "%s    {\"torch\": \"%s\", \"precision\": \"%s\", \"row\": \"%s\", \"seconds\": %s, \"torch_seconds\": %s, \"speed_over_torch\": %s}", (NR > 1 ? ",\n" : ""), $1, $2, $3, $4, $5, $6 }')"
        printf '  "results": {'
        local comma=""
        for name in $results; do
            printf '%s\n    "%s": ' "$comma" "$name"
            cat "$scratch/$name.json"
            comma=","
        done
        printf '\n  }\n}\n'
    } >"$scratch/report.json"
    {
        summary
        for name in $details; do
            if [ -s "$scratch/$name.last" ]; then
                printf '\n## %s: its last lines\n\n```text\n%s\n```\n' "$name" "$(cat "$scratch/$name.last")"
            fi
            if [ -s "$scratch/$name.txt" ]; then
                printf '\n## %s\n\n```text\n%s\n```\n' "$name" "$(head -c 60000 "$scratch/$name.txt")"
            fi
        done
    } >"$scratch/report.md"
    # Each file appears only when complete.
    for name in report.json report.md; do
        cp "$scratch/$name" "$out/.$name" && mv "$out/.$name" "$out/$name"
    done
}

all_ratios() {
    ratios torch-fp32 f32 | sed 's/^/eager f32	f32	/'
    ratios torch-tf32 f32 | sed 's/^/eager TF32	f32	/'
    ratios torch-bf16 f16 | sed 's/^/eager bf16	f16	/'
    ratios torch-bf16-compiled f16 | sed 's/^/compiled bf16	f16	/'
}

summary() {
    printf '# %s\n\n' "${adapter:-No adapter}"
    printf '%s, %s; %s; %s, %s s%s.\n' "${driver:-no driver}" "$(uname -srm)" "$version" "$started" "$SECONDS" "$([ -n "$quick" ] && echo ', quick: shapes are small, figures mean little')"
    if [ "$complete" = false ]; then printf '\n**Not complete**: the run has not reached its end.\n'; fi
    printf '\n| step | result | s |\n|---|---|---|\n%s' "$steps_md"
    printf '\n| goal on a GPU | wanted | measured |\n|---|---|---|\n'
    goals | awk -F '\t' '{ printf "| %s | %s | %s |\n", $1, $2, $3 }'
    all_ratios >"$scratch/ratios"
    if [ -s "$scratch/ratios" ]; then
        printf '\nSpeed relative to PyTorch on the same machine, above 1 if lat-wgpu is faster (f16 compared with bf16):\n\n'
        printf '| work | here | ms | PyTorch | ms | ratio |\n|---|---|---|---|---|---|\n'
        awk -F '\t' '{ printf "| %s | %s | %.3f | %s | %.3f | %.2f |\n", $3, $2, 1e3 * $4, $1, 1e3 * $5, $6 }' "$scratch/ratios"
    fi
    if [ -s "$scratch/isa.md" ]; then cat "$scratch/isa.md"; fi
}

adapter="" driver="" version="" torch_device=""
interrupted() {
    local signal="$1"
    if [ -n "$running" ]; then
        kill -TERM -- "-$running" 2>/dev/null
        sleep 1
        kill -KILL -- "-$running" 2>/dev/null
        running=""
    fi
    trap - INT TERM
    if [ -n "$current" ]; then
        end "$current" interrupted "by a signal" "$scratch/$current.txt" "$scratch/$current.err" "$scratch/$current.json"
    fi
    write
    echo "interrupted: the results so far are in $out" >&2
    exit $((128 + signal))
}
trap 'interrupted 2' INT
trap 'interrupted 15' TERM

# Runs a preparation, such as making files, with a limit in seconds; its output goes to the log.
prepare() {
    local left=$((total > SECONDS + 3 ? total - SECONDS : 3))
    limited $(($1 < left ? $1 : left)) "$scratch/prepare.txt" "$scratch/prepare.err" "${@:2}"
    named "$scratch/prepare.err"
    cat "$scratch/prepare.err" >>"$out/report.log"
}

# ---- Adapter

# shellcheck disable=SC2086 # a command with its arguments
prepare 10 $runner "$program" --version
version=$(head -n 1 "$scratch/prepare.txt" | head -c 100 | utf8)
begin info
# shellcheck disable=SC2086
limited "$seconds" "$scratch/info.txt" "$scratch/info.err" $runner "$program" info
if [ "$code" = 0 ]; then
    # shellcheck disable=SC2086
    limited "$seconds" "$scratch/info.more" "$scratch/info.err" $runner "$program" info --json "$scratch/info.json"
fi
conclude info
if [ ! -s "$scratch/info.json" ]; then
    summary
    echo "error: lat-wgpu finds no adapter: see $out/report.md" >&2
    exit 1
fi
# The adapter in use: that of LAT_ADAPTER, else the first.
at=$(flat "$scratch/info.json" | awk -F '\t' -v wanted="${LAT_ADAPTER:-}" 'tolower($1) ~ /(^|\.)[0-9]+\.name$/ && (wanted == "" || index(tolower($2), tolower(wanted))) { sub(/name$/, "", $1); print $1; exit }')
at="${at//./[.]}"
adapter="$(value "$scratch/info.json" "^${at}name\$")"
driver="$(value "$scratch/info.json" "^${at}driver\$")"
on_cpu=""
if [ "$(value "$scratch/info.json" "^${at}kind\$")" = CPU ]; then on_cpu=1; fi
# Batch sizes: of the rows, of the larger steps, and three for embedding.
small=32 large=128 batches="32 128 512"
if [ -n "$on_cpu" ]; then small=2 large=4 batches="1 2 8"; fi
# PyTorch on a GPU can't be compared with a CPU adapter.
prepare 30 "$python" -c 'import sys, torch, safetensors, PIL
print("cuda" if torch.cuda.is_available() and not sys.argv[1] else "cpu")' "$on_cpu"
if [ "$code" = 0 ]; then torch_device=$(cat "$scratch/prepare.txt"); fi
case "$torch_device" in cuda | cpu) ;; *) torch_device="" ;; esac

# ---- Registers, stack and spills

if [ ! -x "$isa" ] || [ ! -e "$shaders/list.txt" ]; then
    skip isa "no isa_report or no SPIR-V beside this script; tools/isa_report.sh builds both"
elif begin isa; then
    # shellcheck disable=SC2086
    limited "$seconds" "$scratch/isa.json" "$scratch/isa.err" $runner "$isa" "$shaders" any --json --adapter "$adapter" --seconds "$soft"
    if [ "$code" = 0 ] && ! whole "$scratch/isa.json"; then
        conclude isa
    elif [ "$code" = 0 ] && [ "$(value "$scratch/isa.json" '^available$')" = false ]; then
        end isa "left out" "$(value "$scratch/isa.json" '^reason$')" /dev/null "$scratch/isa.err" "$scratch/isa.json"
    elif [ "$code" = 0 ]; then
        {
            printf '\n## Registers, stack and spills\n\n'
            flat "$scratch/isa.json" | awk -F '\t' '{ got[$1] = $2 } END {
                printf "%s of %s pipelines have register counts: %s with spills, %s with a stack, %s failed.\n", got["with_registers"], got["pipelines_wanted"], got["with_spills"], got["with_stack"], got["failed"] }'
            awk -F '"' '
                function number(key) { return match($0, "\"" key "\": [0-9]+") ? substr($0, RSTART + length(key) + 4, RLENGTH - length(key) - 4) : "–" }
                /^    \{"name"/ && $4 !~ /[+]/ && $4 ~ /^(gemm_tiled|gemm_cooperative|attention_cooperative|attention-|patch_embed-|distance-)/ {
                    leaks = number("stack_bytes") + 0 > 0 || number("spills") + 0 > 0
                    print leaks "\t" number("registers") "\t| " $4 " | " number("registers") " | " number("spills") " | " number("stack_bytes") " | " number("shared_bytes") " |"
                }' "$scratch/isa.json" | sort -t '	' -k 1,1nr -k 2,2nr | cut -f 3 >"$scratch/isa.hot"
            printf '\nOf %s rows of hot kernels, those with spills or a stack, then those with most registers; report.json has all.\n' "$(wc -l <"$scratch/isa.hot" | tr -d ' ')"
            printf '\n| hot kernel | registers | spills | stack B | shared B |\n|---|---|---|---|---|\n'
            head -n 60 "$scratch/isa.hot"
        } >"$scratch/isa.md"
        # Most of it are the driver's own statistics.
        if [ "$(wc -c <"$scratch/isa.json")" -gt 3000000 ]; then
            sed 's/, "executables": .*\]}\(,*\)$/}\1/' "$scratch/isa.json" >"$scratch/isa.less" && mv "$scratch/isa.less" "$scratch/isa.json"
        fi
        conclude isa
    else
        rm -f "$scratch/isa.json"
        conclude isa
    fi
fi

# ---- Selftest, f32 and f16 concurrently

selftests() {
    local kind
    for kind in f32 f16; do
        {
            # shellcheck disable=SC2086
            $runner "$program" selftest --precision $kind ${quick:+--quick} --json "$scratch/selftest-$kind.json" \
                >"$scratch/selftest-$kind.txt" 2>"$scratch/selftest-$kind.err"
            echo $? >"$scratch/selftest-$kind.code"
        } &
    done
    wait
}
if begin selftest; then
    limited "$seconds" /dev/null /dev/null selftests
    for kind in f32 f16; do
        code=$(cat "$scratch/selftest-$kind.code" 2>/dev/null || echo 124)
        # Keeps the failed rows and the last line; the JSON has all rows.
        if [ -s "$scratch/selftest-$kind.txt" ]; then
            cp "$scratch/selftest-$kind.txt" "$scratch/rows"
            awk 'NR <= 5 || /FAILED/ || failed && /^    / || / passed$/ { print } { failed = /FAILED/ || failed && /^    / }' "$scratch/rows" >"$scratch/selftest-$kind.txt"
        fi
        if [ "$code" = 1 ] && [ -s "$scratch/selftest-$kind.json" ]; then
            end "selftest-$kind" failed "$(tail -n 1 "$scratch/selftest-$kind.txt")" "$scratch/selftest-$kind.txt" "$scratch/selftest-$kind.err" "$scratch/selftest-$kind.json"
        elif [ "$code" = 0 ]; then
            end "selftest-$kind" "done" "$(tail -n 1 "$scratch/selftest-$kind.txt")" "$scratch/selftest-$kind.txt" "$scratch/selftest-$kind.err" "$scratch/selftest-$kind.json"
        else
            conclude "selftest-$kind"
        fi
    done
fi

# ---- Dispatches, roofs, kernels, tiles, steps

bench overheads --overheads
if [ -n "$quick" ]; then sizes="" large_sizes=""; else sizes="--batch-size $small" large_sizes="--batch-size $large"; fi
# shellcheck disable=SC2086
{
    bench bench-f32 $sizes
    bench bench-f16 $sizes --precision f16
    if [ -n "$quick" ]; then
        bench lab-f32 --lab
    else
        bench lab-f32 --lab --write-tiles "$out/tiles-f32.toml"
        bench lab-f16 --lab --precision f16 --write-tiles "$out/tiles-f16.toml"
    fi
    bench attention-f32 $sizes --match attention --tokens 33,129,197,257
    if [ -z "$quick" ]; then bench attention-f16 $sizes --match attention --tokens 33,129,197,257 --precision f16; fi
    bench steps-f32 --steps $sizes
    bench steps-f16 --steps $sizes --precision f16
    if [ -z "$quick" ]; then
        bench steps-large-f32 --steps $large_sizes
        bench steps-large-f16 --steps $large_sizes --precision f16
    fi
}

# ---- Embedding, end to end

persons=8 weights="$demo_weights"
if [ -z "$quick" ]; then
    persons=$([ -n "$on_cpu" ] && echo 4 || echo 400)
    weights="$scratch/vit-s.safetensors"
    # shellcheck disable=SC2086
    prepare 30 $runner "$program" init --out "$weights" --size 224x224 --dim 384 --depth 12 --heads 6
fi
# shellcheck disable=SC2086
prepare 30 $runner "$program" synth "$scratch/figures" --persons "$persons" --cameras 4 --images 2
number=0
for batch in $batches; do
    number=$((number + 1))
    name="embed-$number"
    begin "$name" || continue
    # shellcheck disable=SC2086
    limited "$seconds" "$scratch/$name.txt" "$scratch/$name.err" $runner "$program" embed --model "$weights" "$scratch/figures" \
        --out "$scratch/$name.safetensors" --batch-size "$batch" --profile="$scratch/trace.json" --json "$scratch/$name.json"
    # The tables of the profile are on stderr.
    tr '\r' '\n' <"$scratch/$name.err" | awk '/^(embedded|profile|kernel|layer|launch)/ { on = 1 } /^trace/ { on = 0 } on' >"$scratch/$name.txt"
    together=$(awk '/^profile of a batch/ { for (i = 1; i < NF; i++) if ($(i + 2) == "together" && $(i + 1) == "ms") print $i }' "$scratch/$name.txt")
    if [ -n "$together" ] && [ -s "$scratch/$name.json" ]; then
        flat "$scratch/$name.json" | awk -F '\t' -v ms="$together" '{ got[$1] = $2 } END {
            batch = got["batch"]; rest = got["images"] - batch; time = got["seconds"] - got["first_vector_seconds"]
            if (rest > 0 && time > 0) { idle = 100 * (1 - ms / 1e3 / batch * rest / time); printf "%.1f %% after the first vector, batch %d, %.1f images/s\n", idle < 0 ? 0 : idle, batch, rest / time }
        }' >"$scratch/$name.idle"
        if [ -z "$quick" ] && [ "$batch" = "$small" ]; then
            awk -v ms="$together" 'BEGIN { printf "forward vit-s\t%.6f\t\n", ms / 1e3 }' >"$scratch/forward"
        fi
    fi
    conclude "$name"
done

# ---- PyTorch on the same machine

# Prints PyTorch's rows with the same work as ours: BATCH STORAGE.
torch_rows() {
    # The most important rows come first, with --quick the shortest, since the time may be up before the rest.
    {
        ours "$2" | sed 's/^/ours	/'
        same_work "$1" | sed 's/^/same	/'
    } | awk -F '\t' '$1 == "ours" { have[$2] = 1 } $1 == "same" && have[$2] { print $3 }' | awk -v quick="$quick" '
        quick && /^step/ { print "8 " $0; next }
        /^forward/ { print "0 " $0 } /^step:vit-s:all/ { print "1 " $0 } /^step:vit-b:all/ { print "2 " $0 } /^step:.*:1:[0-9]+$/ { print "7 " $0 }
        /^attention/ { print "3 " $0 } /^gemm:nt/ { print "4 " $0 } /^gemm:tn/ { print "5 " $0 } /^gemm:nn/ { print "6 " $0 }' |
        sort -s -k 1,1 | cut -d " " -f 2
}
# NAME STORAGE FLAGS…
torch() {
    local name="$1" storage="$2" rows
    shift 2
    if [ -z "$torch_device" ]; then
        skip "$name" "no torch, safetensors and Pillow in $python"
        return
    elif [ "$torch_device" = cpu ] && [ -z "$on_cpu" ]; then
        skip "$name" "PyTorch has no device for this adapter"
        return
    elif [ "$torch_device" = cpu ] && [ "$name" != torch-fp32 ]; then
        skip "$name" "on a CPU only f32 is compared"
        return
    fi
    rows=$(torch_rows "$(value "$scratch/bench-$storage.json" '^batch$')" "$storage")
    if [ -z "$rows" ]; then
        skip "$name" "no row with the same work as PyTorch was measured"
        return
    fi
    begin "$name" || return 0
    mkdir -p "$scratch/peer"
    # shellcheck disable=SC2086
    limited "$seconds" "$scratch/$name.lines" "$scratch/$name.err" "$python" "$peer" --device "$torch_device" "$@" 3 "$scratch/peer" \
        $rows
    # Removes single values.
    sed 's/, "values": \[[^]]*\]//' "$scratch/$name.lines" >"$scratch/lines" && mv "$scratch/lines" "$scratch/$name.lines"
    awk '/^\{.*\}$/ { printf "%s%s", (n++ ? ",\n" : "[\n"), $0 } END { if (n) print "\n]" }' "$scratch/$name.lines" >"$scratch/$name.json"
    conclude "$name"
}
torch torch-fp32 f32 --precision fp32
if [ -z "$quick" ]; then
    torch torch-tf32 f32 --precision tf32
    torch torch-bf16 f16 --precision bf16
fi

# ---- Demo, training and scores

if begin demo; then
    # shellcheck disable=SC2086
    limited "$seconds" "$scratch/demo.txt" "$scratch/demo.err" $runner "$program" demo --out "$scratch/demo" ${quick:+--persons 8 --epochs 1}
    conclude demo
fi

if [ -z "${DATA:-}" ]; then
    skip train "DATA names no data set"
elif begin train; then
    backbone="${WEIGHTS:-$demo_weights}"
    # shellcheck disable=SC2086
    limited "$seconds" "$scratch/train.txt" "$scratch/train.err" $runner "$program" train --backbone "$backbone" --data "$DATA" \
        --out "$scratch/run" --unfreeze-every 1 --val-fraction 0 --epochs "${EPOCHS:-$([ -n "$quick" ] && echo 1 || echo 2)}" \
        ${WEIGHTS:+--size 224x112}
    grep '"kind":"epoch"' "$scratch/run/log.jsonl" 2>/dev/null | awk '{ printf "%s%s", (n++ ? ",\n" : "[\n"), $0 } END { if (n) print "\n]" }' >"$scratch/train.json"
    conclude train
    if [ -e "$scratch/run/last.safetensors" ]; then
        measure eval eval --model "$scratch/run/last.safetensors" --data "$DATA"
    else
        skip eval "training saved no model"
    fi
fi
if [ -z "$quick" ]; then torch torch-bf16-compiled f16 --precision bf16 --compile; fi

complete=true
write
summary
echo "report: $out/report.md, $out/report.json, $out/report.log" >&2
[ -z "$failed" ]
