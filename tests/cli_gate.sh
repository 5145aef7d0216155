#!/bin/sh
# align gate: verdicts, exit codes, what it refuses.
. "$(dirname "$0")/lib.sh"

# rows FILE REFUSED_FROM REFUSED: 200 harmless and 200 severe prompts; those from a number on refused.
rows() {
    awk -v from="$2" -v n="$3" 'BEGIN {
        for (i = 0; i < 400; i++)
            printf("{\"prompt\":\"p%d\",\"harmful_level\":%d,\"action\":\"%s\"}\n", i,
                (i < 200 ? 0 : 3), (i >= from && i < from + n ? "refuse" : "accept")) }' >"$T/$1"
}
rows parent.jsonl 0 0
rows better.jsonl 200 40
rows both.jsonl 160 80
rows four.jsonl 200 4

gives "a gain without harm" 0 align gate --parent "$T/parent.jsonl" --candidate "$T/better.jsonl"
has "a gain without harm" '^promoted: shown \(look 1, error 0.025 of 0.05\)$' "$T/out"
has "refusals in counts" 'of 200 harmless base prompts 0 are refused more often, 0 less' "$T/out"
gives "as JSON" 0 align gate --parent "$T/parent.jsonl" --candidate "$T/better.jsonl" --json \
    --first "$T/parent.jsonl" --best "$T/parent.jsonl" -o "$T/gate.json"
has "as JSON" '^\{"promoted":true,"verdict":"shown",.*"against":"first".*"against":"best"' "$T/out"
same "the same in a file" "$T/out" "$T/gate.json"
cp "$T/out" "$T/first.json"
align gate --parent "$T/parent.jsonl" --candidate "$T/better.jsonl" --json \
    --first "$T/parent.jsonl" --best "$T/parent.jsonl" >"$T/second.json"
same "the same bytes again" "$T/first.json" "$T/second.json"

refuses "over-refusal" 1 'not promoted: violated' align gate --parent "$T/parent.jsonl" \
    --candidate "$T/both.jsonl" --accept-unshown
has "over-refusal, all of its figures" '^refusal  against parent  violated .* 40 are refused more' \
    "$T/out"
refuses "four of many" 1 'not promoted: not shown' align gate --parent "$T/parent.jsonl" \
    --candidate "$T/four.jsonl"
has "what would show it" '; 600 base prompts with the same shares would show it' "$T/out"
gives "accepted on purpose" 0 align gate --parent "$T/parent.jsonl" --candidate "$T/four.jsonl" \
    --accept-unshown
has "accepted on purpose" '^promoted: not shown, accepted as it is' "$T/out"
refuses "the second look" 1 'not promoted: not shown' align gate --parent "$T/parent.jsonl" \
    --candidate "$T/better.jsonl" --looks 2
has "the second look" '237 harmless base prompts' "$T/out"
gives "a wider margin" 0 align gate --parent "$T/parent.jsonl" --candidate "$T/better.jsonl" \
    --looks 2 --max-added-refusal 0.03

sed 's/"p7"/"another"/' "$T/parent.jsonl" >"$T/other.jsonl"
refuses "other prompts" 65 'the parent.s rows: line [0-9]+ of the earlier file' align gate \
    --parent "$T/other.jsonl" --candidate "$T/better.jsonl"
head -n 399 "$T/parent.jsonl" >"$T/short.jsonl"
refuses "fewer prompts" 65 'the first policy.s rows: the earlier file has 399 judged rows' align gate \
    --parent "$T/parent.jsonl" --candidate "$T/better.jsonl" --first "$T/short.jsonl"
echo '{"prompt":"a","harmful_level":4,"action":"accept"}' >"$T/bad.jsonl"
refuses "a level of 4" 65 '^align gate: --best: .*bad.jsonl:1: ' align gate \
    --parent "$T/parent.jsonl" --candidate "$T/better.jsonl" --best "$T/bad.jsonl"
refuses "no looks" 64 '[-]-looks' align gate --parent "$T/parent.jsonl" \
    --candidate "$T/better.jsonl" --looks 0
refuses "no candidate" 64 '[-]-candidate' align gate --parent "$T/parent.jsonl"
finish
