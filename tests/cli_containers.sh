#!/bin/sh
# Two containers that share a folder and a host name: both programs are process 1 there, and only a
# record lock tells them apart. Without the right to make namespaces that part says so and ends.
. "$(dirname "$0")/lib.sh"

i=0
while [ $i -lt 40 ]; do
    echo "{\"prompt\":\"p$i\",\"chosen\":\"good $i\",\"rejected\":\"bad $i\",\"response\":\"r\"}"
    i=$((i + 1))
done >"$T/rows.jsonl"
printf '{"prompt":"p","response":"r"}\n{"prompt":"q","response":"s"}\n' >"$T/said.jsonl"

# contained COMMAND...: in a process namespace of its own, where the program is process 1.
contained() { unshare -pf --mount-proc "$@"; }
if ! contained true 2>/dev/null; then
    echo "skipped: unshare -pf is not permitted here"
    finish
fi

# wait_for FILE: at most ten seconds.
wait_for() {
    n=0
    while [ ! -s "$1" ] && [ $n -lt 500 ]; do
        sleep 0.02
        n=$((n + 1))
    done
    test -s "$1"
}

# first NAME LOCK FILE COMMAND...: runs it contained, and stopped as soon as it holds LOCK and has
# written FILE, so that what follows meets a holder that lives.
first() {
    name=$1 lock=$2 written=$3
    shift 3
    # shellcheck disable=SC2086
    unshare -pf --mount-proc $ALIGN "$@" >"$T/first.out" 2>"$T/first.err" &
    outer=$! # unshare, whose one child is process 1
    check "$name: writes $written" wait_for "$written"
    holder=$(pgrep -P $outer)
    kill -STOP "$holder"
    check "$name: the holder is process 1" grep -q '^1 ' "$lock"
}
first_ends() {
    kill -CONT "$holder"
    wait $outer
    status=$?
    check "$name: the first one ends well" test $status -eq 0
}

# ---- a training run
train="dpo -m $MODEL --data $T/rows.jsonl --steps 1500 --batch 4 --save-every 700 -o $T/run"
# shellcheck disable=SC2086
first "dpo" "$T/run/LOCK" "$T/run/LOCK" $train
# shellcheck disable=SC2086
refuses "dpo twice" 73 'LOCK: in use by process 1 on .*; wait until it ends' \
    contained $ALIGN $train --resume
first_ends
lines "dpo twice: every step once" 1500 "$T/run/metrics.jsonl"
check "dpo twice: no lock stays" test ! -e "$T/run/LOCK"

# killed: its lock is that of a dead process 1, and whoever comes next is process 1, too
rm -rf "$T/run"
# shellcheck disable=SC2086
first "dpo killed" "$T/run/LOCK" "$T/run/LOCK" $train
kill -KILL "$holder"
wait $outer
check "dpo killed: the lock stays" test -s "$T/run/LOCK"
sed 's/^1 [^ ]* /1 0123456789ab /' "$T/run/LOCK" >"$T/renamed" # a new container has a new name
cat "$T/renamed" >"$T/run/LOCK"
# shellcheck disable=SC2086
gives "dpo killed: taken over" 0 contained $ALIGN $train --resume
lines "dpo killed: every step once" 1500 "$T/run/metrics.jsonl"
echo "17 elsewhere 7f9d" >"$T/run/LOCK"
# shellcheck disable=SC2086
refuses "a lock of another machine" 73 'process 17 on elsewhere.*if that process is gone, remove' \
    align $train --resume
rm "$T/run/LOCK"

# ---- the loop, its signatures, a grid
prompts 40 no >"$T/prompts.jsonl"
no_refuses >"$T/rules.jsonl"
loop="cycle -m $MODEL --data $T/prompts.jsonl --rules $T/rules.jsonl --samples 2 -n 3 --steps 80
    --rank 8 --lr 3e-2 --batch 8 --methods dpo --dpo-loss sft --validation 0.4 --test 0.1
    --prompts-per-cycle 8 --confidence 0.8 --max-added-refusal 1"
# shellcheck disable=SC2086
first "cycle" "$T/loop/LOCK" "$T/loop/ledger.jsonl" $loop -o "$T/loop"
# shellcheck disable=SC2086
refuses "cycle twice" 73 'loop/LOCK: in use by process 1' contained $ALIGN $loop -o "$T/loop" \
    --resume
for action in "--approve A" "--rollback 0 --approve A"; do
    # shellcheck disable=SC2086
    refuses "$action meanwhile" 73 'loop/LOCK: in use by process 1' contained $ALIGN cycle \
        "$T/loop" $action --reason x
done
first_ends
gives "cycle: its ledger is right" 0 align inspect "$T/loop" --verify
# shellcheck disable=SC2086
first "grid" "$T/grid/LOCK" "$T/grid/LOCK" $loop -o "$T/grid" --judges rules --validators rules
# shellcheck disable=SC2086
refuses "grid twice" 73 'grid/LOCK: in use by process 1' contained $ALIGN $loop -o "$T/grid" \
    --judges rules --validators rules --resume
first_ends

# ---- two judges that keep their verdicts in one file
cat >"$T/slow.sh" <<'END'
while IFS= read -r line; do
    sleep 0.2
    id=${line#*\"id\":}
    echo "{\"id\":${id%%,*},\"action\":\"accept\"}"
done
END
judge="judge --judge command --allow-external --data $T/said.jsonl --answers $T/answers.jsonl"
# shellcheck disable=SC2086
first "judge" "$T/answers.jsonl.lock" "$T/answers.jsonl.lock" $judge \
    --judge-command "sh $T/slow.sh" -o "$T/judged-1.jsonl"
# shellcheck disable=SC2086
refuses "two judges" 73 'answers.jsonl.lock: in use by process 1' contained $ALIGN $judge \
    --judge-command "sh $T/slow.sh" -o "$T/judged-2.jsonl"
first_ends
check "two judges: no lock stays" test ! -e "$T/answers.jsonl.lock"
lines "two judges: each verdict once" 2 "$T/answers.jsonl"
finish
