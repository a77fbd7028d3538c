#!/usr/bin/env bash
# Checks that a training run loses nothing: runs the same seed twice, stops a run at 20 random steps and resumes it, and
# kills a run 100 times at random moments, at least a quarter of them inside a save. Takes minutes; not a part of
# tools/test.sh.
#
#   tools/soak.sh                        builds the program first
#   tools/soak.sh PROGRAM [SEED]         uses a built one; SEED decides steps and moments, as far as timing allows
#
# Everything is written under target/soak, and removed on success.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# = 0 ]; then
    cargo build --release
    program="${CARGO_TARGET_DIR:-target}/release/lat-wgpu"
else
    program="$1"
fi
program="$(realpath "$program")"
seed="${2:-$(date +%s)}"
RANDOM="$seed"
if [ ! -w "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR="$(mktemp -d)"
    export XDG_RUNTIME_DIR
    trap 'rm -rf "$XDG_RUNTIME_DIR"' EXIT
fi
backbone="$PWD/tests/goldens/plain.model.safetensors"
work="${CARGO_TARGET_DIR:-target}/soak"
rm -rf "$work"
mkdir -p "$work"
cd "$work"

readonly SAME_STEPS=50 STOPS=20 STOPPED_STEPS=150 KILLS=100 INSIDE=25

fail() {
    echo "soak: $*" >&2
    echo "soak: seed $seed; files are kept in $PWD" >&2
    exit 1
}

# Trains a tiny model on synthetic images, with dropout and flips: `train OUT STEPS SAVE_EVERY …`.
train() {
    local out="$1" steps="$2" every="$3"
    shift 3
    exec "$program" train --backbone "$backbone" --heads 2 --data figures --out "$out" --preset full --lr 0.003 \
        --batch-size 7 --epochs 100000 --max-steps "$steps" --save-every "$every" "$@" >>"$out.log" 2>&1
}

finish() { (train "$@") || fail "train $* failed: see $1.log"; }

same() { cmp --silent "$1" "$2" || fail "$1 differs from $2"; }

# Prints the number of steps in the log of a run.
steps_of() {
    local count
    count="$(grep --count '"step":' "$1/log.jsonl" 2>/dev/null || true)"
    echo "${count:-0}"
}

# Waits until the log of a run has a step; fails if process `child` ends before.
wait_for_step() {
    while [ "$(steps_of "$1")" -lt "$2" ]; do
        kill -0 "$child" 2>/dev/null || fail "$1 ended before step $2: see $1.log"
        sleep 0.01
    done
}

# Sends a signal to `child`, waits for its end, and sets `code` to its exit status. It may have ended just before.
stop() {
    kill "-$1" "$child" 2>/dev/null || true
    code=0
    wait "$child" 2>/dev/null || code=$?
}

has_temporary() { compgen -G "$1/.lat-wgpu-*" >/dev/null; }

"$program" synth figures --persons 4 --cameras 2 --images 3 --seed 3 >synth.log 2>&1 || fail "synth failed: see synth.log"

# 1. The same seed twice.
for run in once again; do
    finish "$run" "$SAME_STEPS" 0
done
same once/last.safetensors again/last.safetensors
echo "same seed twice: last.safetensors is the same to the bit after $SAME_STEPS steps"

# 2. Signals at random steps. A killed run resumes from its last save, a terminated one from its current step.
finish whole "$STOPPED_STEPS" 0
mapfile -t targets < <(
    for ((i = 0; i < STOPS; i++)); do echo $((1 + RANDOM % (STOPPED_STEPS - 2 * STOPS))); done | sort --numeric-sort
)
terminated=0 killed=0
for target in "${targets[@]}"; do
    # Beyond the steps in the log; otherwise the signal would come before the run resumes.
    logged="$(steps_of stopped)"
    if [ "$target" -le "$logged" ]; then target=$((logged + 1)); fi
    train stopped "$STOPPED_STEPS" 3 --resume &
    child=$!
    wait_for_step stopped "$target"
    if [ $((RANDOM % 2)) = 0 ]; then
        stop TERM
        [ "$code" = 143 ] || fail "terminated at step $target, but the exit status is $code"
        terminated=$((terminated + 1))
    else
        stop KILL
        [ "$code" = 137 ] || fail "killed at step $target, but the exit status is $code"
        killed=$((killed + 1))
    fi
done
finish stopped "$STOPPED_STEPS" 3 --resume
for name in last best; do
    same "stopped/$name.safetensors" "whole/$name.safetensors"
done
has_temporary stopped && fail "stopped: a temporary is left"
echo "stopped at $STOPS random steps ($terminated SIGTERM, $killed SIGKILL) and resumed:" \
    "the same to the bit after $STOPPED_STEPS steps"

# 3. kill -9 at random moments: half of them within two seconds of the start, half as soon as the save of a later step
# starts. A kill inside a save leaves a temporary file.
finish beaten 1 1
inside=0 swept=0
for ((i = 0; i < KILLS; i++)); do
    logged="$(steps_of beaten)"
    train beaten 1000000 1 --resume &
    child=$!
    if [ $((i % 2)) = 0 ]; then
        sleep "$(printf '%d.%03d' $((RANDOM % 2)) $((RANDOM % 1000)))"
    else
        wait_for_step beaten $((logged + 1))
        sleep "0.$(printf '%03d' $((RANDOM % 200)))"
        until has_temporary beaten; do
            kill -0 "$child" 2>/dev/null || fail "beaten ended by itself: see beaten.log"
        done
    fi
    stop KILL
    [ "$code" = 137 ] || fail "kill $i: the exit status is $code: see beaten.log"
    left=0
    if has_temporary beaten; then left=1; fi
    inside=$((inside + left))
    for model in beaten/last.safetensors beaten/best.safetensors; do
        if [ -e "$model" ] && ! "$program" inspect "$model" >inspect.log 2>&1; then
            fail "kill $i: $model is unreadable: see inspect.log"
        fi
    done
    # The next start reads the whole state, and ends at once because the run is past step 0.
    finish beaten 0 1 --resume
    has_temporary beaten && fail "kill $i: a temporary is left after the next start"
    swept=$((swept + left))
done
reached="$(steps_of beaten)"
finish beaten $((reached + 1)) 1 --resume
finish unbeaten $((reached + 1)) 0
same beaten/last.safetensors unbeaten/last.safetensors
echo "kill -9 at $KILLS random moments, $inside of them inside a save: every checkpoint readable," \
    "$swept of $inside temporaries swept at the next start, then the same to the bit after $((reached + 1)) steps"
[ "$inside" -ge "$INSIDE" ] || fail "only $inside kills came inside a save, wanted $INSIDE"

cd ..
rm -rf soak
echo "soak: passed ($SECONDS s, seed $seed)"
