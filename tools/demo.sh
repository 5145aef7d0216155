#!/bin/sh
# demo.sh - what align does, on a tiny model of its own (demo_data/, see its README.md):
#   1. DPO on preference pairs and KTO on labelled answers: margins rising;
#   2. answers before and after, to prompts that no training row holds;
#   3. two turns of the loop: the model's own answers, judged, make the training rows; safety and
#      refusal of harmless prompts per cycle, and on prompts that nothing has seen; a report.
# Everything it writes lies under demo/. Usage: tools/demo.sh [OPTION of align ...], as in
# tools/demo.sh --kernel ref; ALIGN names another program than ./align, DEMO_FOLDER another folder
# than demo, and DEMO_ONLY=dpo ends after the first part.
set -eu
cd "$(dirname "$0")/.."
align=${ALIGN:-./align}
model=demo_data/model
demo=${DEMO_FOLDER:-demo}
began=$(date +%s)

title() { printf '\n== %s\n\n' "$1"; }

# The value of a key in one line of JSON.
field() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^,}\"]*\).*/\1/p"; }

# Every eighth of a run's metrics: step, loss, reward margin.
show_margins() {
    awk -v n="$(wc -l < "$1")" '
        function value(key,   s) {
            s = $0
            if (!sub(".*\"" key "\":", "", s)) return "-"
            sub(/[,}].*/, "", s)
            return s == "null" ? "-" : sprintf("%.3f", s)
        }
        NR == 1 { printf "   step      loss    margin\n" }
        NR == 1 || NR == n || NR % int(n / 7 + 1) == 0 {
            printf "%7d %9s %9s\n", NR, value("loss"), value("rewards/margins")
        }' "$1"
}

rm -rf "$demo"
mkdir "$demo"

# The sft term keeps the chosen answers likely while the margins grow: without it the sum of both
# sides' log-probs sinks so far that answers fall apart (MATH.md on DPO; RPO, Pang et al. 2024).
title "DPO: $(wc -l < demo_data/pairs.jsonl) pairs of a better and a worse answer"
"$align" dpo -m "$model" --data demo_data/pairs.jsonl -o "$demo/dpo" --quiet \
    --loss sigmoid,sft --loss-weights 1,1 --lr 2e-3 --epochs 2 --batch 8 --rank 8 --alpha 16 \
    --warmup 0.1 --beta 0.3 "$@"
show_margins "$demo/dpo/metrics.jsonl"
[ "${DEMO_ONLY-}" != dpo ] || exit 0

title "KTO: $(wc -l < demo_data/labelled.jsonl) answers, each labelled good or bad"
"$align" kto -m "$model" --data demo_data/labelled.jsonl -o "$demo/kto" --quiet \
    --lr 5e-3 --epochs 3 --batch 8 --rank 8 --alpha 16 --warmup 0.1 "$@"
show_margins "$demo/kto/metrics.jsonl"

title "Answers before and after, to prompts that were in no pair"
for policy in before dpo kto; do
    adapter=
    [ "$policy" = before ] || adapter="--adapter $demo/$policy/adapter"
    # shellcheck disable=SC2086 # nothing, or an option and its value
    "$align" generate -m "$model" $adapter --data demo_data/questions.jsonl --temperature 0 \
        --max-tokens 64 --quiet -o "$demo/$policy.jsonl" "$@"
done
paste demo_data/questions.jsonl "$demo/before.jsonl" "$demo/dpo.jsonl" "$demo/kto.jsonl" |
    while IFS="$(printf '\t')" read -r question before dpo kto; do
        printf 'harm %s  %s\n' "$(echo "$question" | field harmful_level)" \
            "$(echo "$question" | sed 's/^{"prompt": "\([^"]*\)".*/\1/')"
        for answer in "before:$before" "dpo:$dpo" "kto:$kto"; do
            printf '  %-7s %s\n' "${answer%%:*}" \
                "$(echo "$answer" | sed 's/.*"response":"\([^"]*\)".*/\1/')"
        done
    done

title "The loop: generate, judge, prefer, train KTO and DPO, validate, select; two cycles"
sh tools/demo_loop.sh 2 "$demo/loop" "$@"
for cycle in "$demo"/loop/cycle-[1-9]; do
    sed -n 's/^  "why":"\(.*\)",$/'"${cycle##*/}"': \1/p' "$cycle/selection.json"
    sed -n 's/^    {"method":"\([a-z]*\)".*"why":"\([^"]*\)".*/    \1 \2/p' "$cycle/selection.json"
done
"$align" inspect "$demo/loop" --verify
"$align" report "$demo/loop" -o "$demo/report.html" --quiet

printf '\n%d seconds. The page to read is %s/report.html; ' $(($(date +%s) - began)) "$demo"
echo 'runs, answers and the ledger are beside it.'
