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

# What a run wrote down of itself: a training run's is a file of options, a loop's says what to do.
gives "a training run's config.json" 0 align dpo --config "$T/loop/cycle-1/dpo/config.json" \
    -o "$T/again"
refuses "a loop's config.json" 64 'loop/config.json: is what a run of align cycle recorded of itself, not a file of options: --resume .*--print-config makes' \
    align cycle --config "$T/loop/config.json" -o "$T/again2"
refuses "a loop's config.json for dpo" 64 'recorded of itself, not a file of options$' \
    align dpo --config "$T/loop/config.json" -o "$T/again2"

gives "report of a training run" 0 align report "$T/loop/cycle-1/dpo" -o "$T/dpo.html"
has "curves" '2 optimiser steps' "$T/dpo.html"
gives "report into the run" 0 align report "$T/loop/cycle-1/dpo"
same "report into the run" "$T/dpo.html" "$T/loop/cycle-1/dpo/report.html"

mkdir "$T/skips" && cp "$T/loop/cycle-1/dpo/config.json" "$T/skips"
sed '2s/"seconds"/"skipped":1,"seconds"/' "$T/loop/cycle-1/dpo/metrics.jsonl" \
    >"$T/skips/metrics.jsonl"
gives "report of a run with a skipped step" 0 align report "$T/skips" -o "$T/skips.html"
has "skipped steps" '2 optimiser steps; loss .*; 1 skipped, for their numbers' "$T/skips.html"
check "no skipped step is told of others" sh -c "! grep -q skipped, '$T/dpo.html'"

# A run that was killed while it wrote a line: its page shows the entries before.
cp "$T/loop/ledger.jsonl" "$T/ledger.kept"
head -c -9 "$T/ledger.kept" >"$T/loop/ledger.jsonl"
gives "report of a torn ledger" 0 align report "$T/loop" -o "$T/torn.html"
has "report says so" 'loop/ledger.jsonl: the last line is cut off, and left out' "$T/err"
has "the page says so" 'The last line of the file is cut off, and left out' "$T/torn.html"
has "the page has the rest" "$(($(wc -l <"$T/ledger.kept") - 1)) entries, whose chain" "$T/torn.html"
sed 's/"event":"split"/"event":"spill"/' "$T/ledger.kept" | head -c -9 >"$T/loop/ledger.jsonl"
refuses "a torn ledger that was changed, too" 65 "ledger.jsonl .entry 1 was changed" \
    align report "$T/loop" -o "$T/x.html"
head -c 50 "$T/ledger.kept" >"$T/loop/ledger.jsonl"
refuses "a ledger without a whole line" 65 "ledger.jsonl .entry 0 is not complete" \
    align report "$T/loop" -o "$T/x.html"
cp "$T/ledger.kept" "$T/loop/ledger.jsonl"

refuses "no run" 66 "no run" align report "$T" -o "$T/x.html"
refuses "nowhere to write" 73 "none" align report "$T/loop" -o "$T/none/x.html"
echo >>"$T/loop/cycle-1/judged.jsonl"
refuses "a changed file" 65 "cycle-1/judged.jsonl" align report "$T/loop" -o "$T/x.html"
check "nothing is left of a fault" test ! -e "$T/x.html"

finish
