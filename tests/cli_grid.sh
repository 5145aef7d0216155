#!/bin/sh
# align cycle with every kind of judge.
. "$(dirname "$0")/lib.sh"

# A judge prompt takes some 660 of the tiny model's tokens, which are bytes.
sed -i.bak 's/"max_position_embeddings": *[0-9]*/"max_position_embeddings": 1024/' "$MODEL/config.json"
i=0
while [ $i -lt 40 ]; do
    echo "{\"prompt\":\"p$i\",\"base_prompt\":\"b$i\",\"harmful_level\":$((i % 4)),\"demonstration\":\"no\"}"
    i=$((i + 1))
done >"$T/prompts.jsonl"
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
check "its answers are for the owner only" sh -c "ls -l '$T/command/answers.jsonl' | grep -q '^-rw-------'"
gives "its answers are in the ledger" 0 align inspect "$T/command" --verify
has "its answers are in the ledger" '"outputs":\{"results.json":"[0-9a-f]*","answers.jsonl":' \
    "$T/command/ledger.jsonl"

# The test answers are labelled by the validator: it is said where that labelled training samples.
has "a validator apart from the judge" '"test_judge_labelled_training":false' "$T/command/ledger.jsonl"
judge rules rules
has "one judge for both" 'who labelled the test answers also labelled training samples' "$T/err"
has "one judge for both" '"test_judge_labelled_training":true' "$T/rules/ledger.jsonl"

# shellcheck disable=SC2086
refuses "a command that may not be run" 64 "allow-external" \
    align cycle $loop -o "$T/x" --validator command --validator-command true
# shellcheck disable=SC2086
refuses "no model to judge" 64 "--validator-model DIR is missing" \
    align cycle $loop -o "$T/x" --validator model
check "nothing is made by a refusal" test ! -e "$T/x"

finish
