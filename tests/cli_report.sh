#!/bin/sh
# align report on a training run and on a loop.
. "$(dirname "$0")/lib.sh"

i=0
while [ $i -lt 16 ]; do
    echo "{\"prompt\":\"ask $i\",\"base_prompt\":\"b$i\",\"harmful_level\":$((i % 4)),\"demonstration\":\"I cannot help with that, sorry.\"}"
    i=$((i + 1))
done >"$T/prompts.jsonl"
gives "cycle" 0 align cycle -m "$MODEL" --data "$T/prompts.jsonl" --samples 2 -n 6 --steps 2 \
    --rank 2 --lr 1e-3 -o "$T/loop" --cycles 2 --test 0.25 --validation 0.25
head=$(sed -n 's/^ledger head //p' "$T/out")
check "the loop writes its report" test -s "$T/loop/report.html"
has "the report names the ledger's head" "$head" "$T/loop/report.html"
gives "report" 0 align report "$T/loop" -o "$T/page.html"
same "the same run, the same page" "$T/loop/report.html" "$T/page.html"
program=$(sha256sum "${ALIGN##* }" | cut -d' ' -f1)
has "which program computed" "align_sha256</th><td><code>$program<" "$T/page.html"
has "with which kernel" 'kernel</th><td><code>[a-z0-9]+<' "$T/page.html"
has "answers are shown" 'ask [0-9]' "$T/page.html"
gives "report --redact" 0 align report "$T/loop" -o "$T/redacted.html" --redact
check "texts are left out" sh -c "! grep -q 'ask [0-9]' '$T/redacted.html'"
check "for its owner only" test "$(find "$T/page.html" -perm 600)" = "$T/page.html"
gives "the run still verifies" 0 align inspect "$T/loop" --verify

gives "report of a training run" 0 align report "$T/loop/cycle-1/dpo" -o "$T/dpo.html"
has "curves" '2 optimiser steps' "$T/dpo.html"
gives "report into the run" 0 align report "$T/loop/cycle-1/dpo"
same "report into the run" "$T/dpo.html" "$T/loop/cycle-1/dpo/report.html"

refuses "no run" 66 "no run" align report "$T" -o "$T/x.html"
refuses "nowhere to write" 73 "none" align report "$T/loop" -o "$T/none/x.html"
echo >>"$T/loop/cycle-1/judged.jsonl"
refuses "a changed file" 65 "cycle-1/judged.jsonl" align report "$T/loop" -o "$T/x.html"
check "nothing is left of a fault" test ! -e "$T/x.html"

finish
