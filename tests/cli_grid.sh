#!/bin/sh
# align cycle with every kind of judge.
. "$(dirname "$0")/lib.sh"

# A judge prompt takes some 660 of the tiny model's tokens, which are bytes.
sed -i.bak 's/"max_position_embeddings": *[0-9]*/"max_position_embeddings": 1024/' \
    "$MODEL/config.json"
prompts 40 no >"$T/prompts.jsonl"
loop="-m $MODEL --data $T/prompts.jsonl --samples 2 -n 3 --steps 2 --rank 2 --batch 8
    --prompts-per-cycle 8 --max-length 64"

# judge KIND RUN OPTION...: a loop of which this judge labels the training samples.
judge() {
    kind=$1 run=$2
    shift 2
    # shellcheck disable=SC2086
    gives "judge $kind" 0 align cycle $loop -o "$T/$run" --judge "$kind" "$@"
    has "judge $kind: in the ledger" "\"event\":\"judge\",\"cycle\":1,.*\"judge\":\"$kind\"" \
        "$T/$run/ledger.jsonl"
}
# The program refuses all; it must not be asked twice for the same answer.
cat >"$T/refuses.sh" <<'END'
while IFS= read -r line; do
    echo asked >>"$1"
    id=${line#*\"id\":}
    echo "{\"id\":${id%%,*},\"action\":\"refuse\"}"
done
END
judge self self
judge model other --judge-model "$MODEL" --judge-order fixed
has "judge model: in config.json" '"judge": \{"kind": "model", "model": .*"label-order": "fixed"' \
    "$T/other/config.json"
judge command command --judge-command "sh $T/refuses.sh $T/asked" --allow-external
check "a command is not asked twice" \
    test "$(wc -l <"$T/asked")" -eq "$(sort -u "$T/command/answers.jsonl" | wc -l)"
check "its answers are for the owner only" \
    sh -c "ls -l '$T/command/answers.jsonl' | grep -q '^-rw-------'"
gives "its answers are in the ledger" 0 align inspect "$T/command" --verify
has "its answers are in the ledger" '"outputs":\{"results.json":"[0-9a-f]*","answers.jsonl":' \
    "$T/command/ledger.jsonl"

# The test answers are labelled by the validator: it is said where that labelled training samples.
has "a validator apart from the judge" '"test_judge_labelled_training":false' \
    "$T/command/ledger.jsonl"
judge rules rules
has "one judge for both" 'who labelled the test answers also labelled training samples' "$T/err"
has "one judge for both" '"test_judge_labelled_training":true' "$T/rules/ledger.jsonl"

# A judge that dies half-way ends the loop; what it said is kept, and the loop goes on from there.
cat >"$T/dies.sh" <<'END'
while IFS= read -r line; do
    echo asked >>"$1"
    [ "$(wc -l <"$1")" -ne 5 ] || exit 7
    id=${line#*\"id\":}
    echo "{\"id\":${id%%,*},\"action\":\"refuse\"}"
done
END
dies="--judge command --judge-retries 0 --allow-external -o $T/dies"
# shellcheck disable=SC2086
refuses "a judge that dies half-way" 74 "ended with status 7 after 4 of" \
    align cycle $loop $dies --judge-command "sh $T/dies.sh $T/asked2"
check "a judge that dies half-way" test ! -e "$T/dies/cycle-1/judged.jsonl" -a \
    ! -e "$T/dies/results.json"
lines "what it said is kept" 4 "$T/dies/answers.jsonl"
# shellcheck disable=SC2086
gives "the loop goes on" 0 align cycle $loop $dies --judge-command "sh $T/dies.sh $T/asked2" \
    --resume
check "the loop goes on: nothing is asked twice" \
    test "$(wc -l <"$T/asked2")" -eq "$(($(wc -l <"$T/dies/answers.jsonl") + 1))"
same "the loop goes on: as if it had not died" "$T/command/cycle-1/judged.jsonl" \
    "$T/dies/cycle-1/judged.jsonl"
# shellcheck disable=SC2086
gives "a plan asks no command" 0 align cycle $loop -o "$T/x" --judge command --allow-external \
    --judge-command "sh $T/refuses.sh $T/asked3" --dry-run
has "a plan asks no command" '^judge +16 answers by command: not timed' "$T/out"
check "a plan asks no command" test ! -e "$T/asked3"

# shellcheck disable=SC2086
refuses "a command that may not be run" 64 "allow-external" \
    align cycle $loop -o "$T/x" --validator command --validator-command true
# shellcheck disable=SC2086
refuses "no model to judge" 64 "--validator-model DIR is missing" \
    align cycle $loop -o "$T/x" --validator model
check "nothing is made by a refusal" test ! -e "$T/x"

# ---- the grid: every judge with every validator and choice of methods
no_refuses >"$T/rules.jsonl"
# Every answer is the demonstration, a refusal, after training; the rule of promotion allows that.
# The file has what the phrases and the model read: each run of the grid takes its part.
echo "{\"rules\":\"$T/rules.jsonl\",\"validator-rules\":\"$T/rules.jsonl\",
    \"judge-order\":\"fixed\",\"validator-order\":\"fixed\"}" >"$T/grid.json"
grid="-m $MODEL --data $T/prompts.jsonl --config $T/grid.json
    --samples 2 -n 3 --steps 40 --rank 8 --lr 3e-2 --batch 8 --dpo-loss sft --cycles 2
    --max-length 64 --validation 0.4 --prompts-per-cycle 8 --confidence 0.8 --max-added-refusal 1
    --guard $T/questions.jsonl"
echo '{"question":"a","choices":["b","c"],"answer":0}' >"$T/questions.jsonl"
axes="--judges rules,self --validators rules,self --methods both"
# shellcheck disable=SC2086
gives "grid" 0 align cycle $grid $axes -o "$T/grid"
lines "grid: a line for each run, two of head, one of self, two of choices, two of hash" 11 "$T/out"
hash=$(sed -n 's/^grid.json sha256 //p' "$T/out")
check "grid: its hash covers the heads" test "$hash" = \
    "$(sha256sum <"$T/grid/grid.json" | cut -d ' ' -f 1)"
has "grid: figures by each validator" \
    '^rules-rules-both +[0-9.]+ / [0-9.]+ +[0-9.]+ / [0-9.]+ +[dkp]' "$T/out"
has "grid: was self-judging good enough" \
    '^self-judging against rules \(validator rules, both\): ' "$T/out"
has "grid: how the validator moved the choice" \
    '^the validator (moved|did not move) the choice \(judge rules, both\): rules [dkp][a-z ]*; self ' \
    "$T/out"
for cell in rules-rules-both rules-self-both self-self-both; do
    gives "grid: $cell is a run of its own" 0 align inspect "$T/grid/grid-$cell" --verify
done
has "grid.json" '"run":"grid-self-rules-both","judge":"self","validator":"rules","methods":"both"' \
    "$T/grid/grid.json"
has "whose validator labelled training, too" \
    '"judge":"rules","validator":"rules",[^{]*"test_judge_labelled_training":true' \
    "$T/grid/grid.json"
has "whose validator is apart" \
    '"judge":"self","validator":"rules",[^{]*"test_judge_labelled_training":false' \
    "$T/grid/grid.json"
# What was shared is what the run computes by itself.
# shellcheck disable=SC2086
gives "a run of the grid, alone" 0 align cycle $grid --judge self --validator rules \
    -o "$T/alone"
for f in results.json cycle-1/kto/adapter/adapter_model.safetensors cycle-2/judged.jsonl \
    cycle-2/selection.json test-last/responses.jsonl cycle-0/guard.jsonl; do
    same "shared as computed: $f" "$T/alone/$f" "$T/grid/grid-self-rules-both/$f"
done
shared=$(find "$T/grid/shared" -name '*.adapter_model.safetensors' | wc -l)
trained=$(find "$T/grid" -path '*/adapter/*' -name adapter_model.safetensors | \
    grep -c '/[kd][tp]o/')
check "candidates are trained once for all" test "$shared" -lt "$trained"
check "no answer is judged twice by one judge" \
    test -z "$(sed 's/","action.*//' "$T/grid/shared/answers.jsonl" | sort | uniq -d)"
shared=$(find "$T/grid/shared" -name '*.guard.jsonl' | wc -l)
check "the first policy's guard is scored once" \
    test "$shared" -lt "$(find "$T/grid" -path '*/*/*/guard.jsonl' | wc -l)"

gives "inspect a grid" 0 align inspect "$T/grid" --verify
has "inspect a grid" '^  grid-self-self-both +[0-9a-f]{64}$' "$T/out"
gives "inspect a grid, for machines" 0 align inspect "$T/grid" --json
has "inspect a grid, for machines" \
    '"kind":"grid of cycle runs","runs":\[\{"run":"grid-[a-z-]*","ledger_head":"[0-9a-f]*","agrees":true\},' \
    "$T/out"
cp -R "$T/grid" "$T/changed"
echo >>"$T/changed/grid-self-rules-both/cycle-1/judged.jsonl"
refuses "a changed file of a grid shows" 65 "grid-self-rules-both.*cycle-1/judged.jsonl" \
    align inspect "$T/changed" --verify
has "a changed file of a grid is named on a line" '^grid-self-rules-both/cycle-1/judged.jsonl: ' \
    "$T/out"
# shellcheck disable=SC2086
gives "a grid that has ended, for machines" 0 align cycle $grid $axes -o "$T/grid" --resume --json
same "a grid that has ended, for machines" "$T/grid/grid.json" "$T/out"
# shellcheck disable=SC2086
gives "the plan of a grid" 0 align cycle $grid $axes -o "$T/x" --dry-run
has "the plan of a grid" '^that is one run of 4 in the grid' "$T/out"
has "the plan of a grid: the guard" '^guard +5 questions, all policies together: [0-9.]+ s$' \
    "$T/out"
# shellcheck disable=SC2086
refuses "nobody signs a whole grid" 64 "auto.*one run" align cycle $grid $axes -o "$T/x" --auto
check "nothing is made by a plan" test ! -e "$T/x"
# shellcheck disable=SC2086
refuses "a grid that exists" 73 "exists" align cycle $grid $axes -o "$T/grid"
# shellcheck disable=SC2086
refuses "a grid without test prompts" 64 "test prompts" align cycle $grid $axes --test 0 -o "$T/x"

# Killed at any time, it goes on to the same files. Each run is given a little more time.
small="--judges rules --validators rules --methods kto,dpo,both"
files() {
    (cd "$1" && find . -name '*.jsonl' -o -name '*.json' -o -name '*.safetensors' |
        grep -v 'ledger\|metrics\|config\|checkpoints\|grid.json\|shared' | sort | xargs sha256sum)
}
# shellcheck disable=SC2086
gives "a small grid" 0 align cycle $grid $small -o "$T/whole"
has "a small grid: methods" '^rules-rules-dpo .*  dpo' "$T/out"
tries=0
while [ $tries -lt 60 ]; do
    # shellcheck disable=SC2086
    (exec $ALIGN cycle $grid $small -o "$T/killed" --resume >"$T/out" 2>"$T/err") &
    pid=$!
    sleep "$((tries / 10)).$((tries % 10))5"
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null && break
    tries=$((tries + 1))
done
check "the grid was killed at least twice, and ended" test $tries -ge 2 -a $tries -lt 60
check "a killed grid ends with the same files" test "$(files "$T/whole")" = "$(files "$T/killed")"

finish
