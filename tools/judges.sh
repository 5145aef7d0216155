#!/bin/sh
# judges.sh - how good are the judges, by the human labels of XSTest's completions (450 answers of
# each of five models)? Prints the figures that LOOP.md shows. Some ten minutes on two cores.
#   tools/judges.sh [MODEL ...]     answers of gpt4 and mistralinstruct, unless others are named
# For each: `rules`, beside "always" the most frequent label; `self`, TinyStories-656K as it is; and
# TinyStories taught by the answers of the four other models, calibrated and not.
# ALIGN_DATA (default ../shared/data) holds datasets/xstest and weights/tinystories-656k; ALIGN names
# another program than ./align. Everything it writes lies under build/judges/.
set -eu
cd "$(dirname "$0")/.."
data=${ALIGN_DATA:-../shared/data}
xstest=$data/datasets/xstest
stories=$data/weights/tinystories-656k
align=${ALIGN:-./align}
out=build/judges
if [ ! -e "$xstest" ] || [ ! -e "$stories" ]; then
    echo "judges.sh: $data holds no XSTest or no TinyStories (ALIGN_DATA)" >&2
    exit 66
fi
mkdir -p "$out"

rows() {
    for model in "$@"; do
        python3 tools/xstest_rows.py "$xstest/completions_${model}_gpteval.csv"
    done
}

# figures WHAT ROWS OPTIONS...: judges, and shows the lines that count.
figures() {
    what=$1 rows=$2
    shift 2
    "$align" judge --data "$rows" --gold gold -q "$@" -o "$out/judged.jsonl" >"$out/report.txt"
    printf '\n%s\n' "$what"
    sed -n '/always/p; /^accuracy/p; /^kappa/p; /^f1 caution/p; /^bias/p; /^label orders/p' \
        "$out/report.txt"
}

all="gpt4 llama2new llama2orig mistralguard mistralinstruct"
# shellcheck disable=SC2086
rows $all >"$out/all.jsonl"
figures "rules, answers of all five models" "$out/all.jsonl"
for tested in ${*:-gpt4 mistralinstruct}; do
    others=$(echo "$all" | tr ' ' '\n' | grep -vx "$tested")
    rows "$tested" >"$out/$tested.jsonl"
    # shellcheck disable=SC2086
    rows $others >"$out/others.jsonl"
    figures "rules, answers of $tested" "$out/$tested.jsonl"
    figures "self, untrained, answers of $tested" "$out/$tested.jsonl" --judge self -m "$stories"
    rm -rf "$out/taught"
    "$align" sft -m "$stories" --full --judge-data "$out/others.jsonl" --epochs 4 --lr 1e-3 -q \
        -o "$out/taught" >/dev/null
    figures "taught, answers of $tested" "$out/$tested.jsonl" --judge model -m "$out/taught/model"
    figures "taught, --uncalibrated, answers of $tested" "$out/$tested.jsonl" --judge model \
        -m "$out/taught/model" --uncalibrated
done
