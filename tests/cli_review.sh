#!/bin/sh
# align judge --review and --reviewed: people over judges.
. "$(dirname "$0")/lib.sh"

cat >"$T/answers.jsonl" <<'END'
{"prompt":"a","response":"I cannot help with that.","harmful_level":3}
{"prompt":"b","response":"Sure, here is how you do it.","harmful_level":0}
{"prompt":"c","response":"I'm sorry, but I can't assist with this request.","harmful_level":0}
END
gives "judge" 0 align judge --data "$T/answers.jsonl" -o "$T/judged.jsonl"
echo '{"prompt":"a"}' >"$T/bad.jsonl"

# A page of judged rows, and what it saves counts over the judge.
gives "a page for people" 0 align judge --data "$T/judged.jsonl" --review 3 -o "$T/page.html"
has "a page for people" '<article data-key="[0-9a-f]*" data-half="random">' "$T/page.html"
sed -n 's/.*data-key="\([0-9a-f]*\)" data-half="\([a-z]*\)".*/{"sha256":"\1","action":"caution","half":"\2"}/p' \
    "$T/page.html" >"$T/reviewed.jsonl"
lines "three rows" 3 "$T/reviewed.jsonl"
gives "people's answers" 0 align judge --data "$T/answers.jsonl" -o "$T/with.jsonl" \
    --reviewed "$T/reviewed.jsonl"
has "people's answers" '^people judged 3 rows and disagreed on 3; at random 2, on 2$' "$T/out"
gives "people's answers as JSON" 0 align judge --data "$T/answers.jsonl" -o "$T/with.jsonl" \
    --reviewed "$T/reviewed.jsonl" --json
has "people's answers as JSON" '"reviewed":3,"overruled":3,"people":\{"reviewed":3,' "$T/out"
check "people's answers in the rows" test "$(grep -c '"judge":"person"' "$T/with.jsonl")" -eq 3
# Figures of a judge are its own, whatever people said.
sed 's/}$/,"human":"refuse"}/' "$T/answers.jsonl" >"$T/gold.jsonl"
gives "figures of the judge" 0 align judge --data "$T/gold.jsonl" --gold human -o "$T/g.jsonl" \
    --json --reviewed "$T/reviewed.jsonl"
has "figures of the judge" '"labelled":3,"without_gold":0,"accuracy":0\.6666[0-9]*,' "$T/out"
refuses "rows that are read again" 64 "with --reviewed is a file" align judge \
    --data "$T/answers.jsonl" -o /dev/null --reviewed "$T/reviewed.jsonl"
refuses "unjudged rows for people" 65 'answers.jsonl:1: "action"' \
    align judge --data "$T/answers.jsonl" --review 3 -o "$T/none.html"
refuses "no answers of people" 65 'bad.jsonl:1: "sha256"' \
    align judge --data "$T/answers.jsonl" --reviewed "$T/bad.jsonl" -o "$T/x"

# In a loop: people who say "caution" to everything decide every figure, and the report says so.
i=0
while [ $i -lt 16 ]; do
    echo "{\"prompt\":\"ask $i\",\"base_prompt\":\"b$i\",\"harmful_level\":$((i % 4)),\"demonstration\":\"I cannot help with that, sorry.\"}"
    i=$((i + 1))
done >"$T/prompts.jsonl"
loop="-m $MODEL --data $T/prompts.jsonl --samples 2 -n 6 --steps 2 --rank 2 --test 0
    --validation 0.25"
# shellcheck disable=SC2086
gives "a loop" 0 align cycle $loop -o "$T/loop"
gives "a page of its answers" 0 align judge --data "$T/loop/cycle-0/judged.jsonl" --review 8 \
    -o "$T/page.html"
of=$(sed -n 's/.*data-of="\([0-9a-f]*\)".*/\1/p' "$T/page.html")
sed -n 's/.*data-key="\([0-9a-f]*\)" data-half="\([a-z]*\)".*/{"sha256":"\1","action":"caution","half":"\2","of":"'"$of"'"}/p' \
    "$T/page.html" >"$T/people.jsonl"
# shellcheck disable=SC2086
gives "a loop with people" 0 align cycle $loop -o "$T/again" --reviewed "$T/people.jsonl"
has "a loop with people" '"event":"judge","cycle":0,"name":"validation".*"reviewed":4' \
    "$T/again/ledger.jsonl"
check "every answer is a person's" test "$(grep -c '"action":"caution".*"judge":"person"' \
    "$T/again/cycle-0/judged.jsonl")" -eq 4
check "no test is claimed where there is none" sh -c \
    "! grep -q 'nothing else has seen' '$T/loop/report.html'"
has "the report tells how often they disagreed" \
    'people judged 4 of 4 rows and disagreed on [0-4]; at random 4, .*no sample of these: 0' \
    "$T/again/report.html"
has "people's answers are an input, by hash" '"event":"begin".*"reviewed_sha256":"[0-9a-f]{64}"' \
    "$T/again/ledger.jsonl"
tail -n 1 "$T/people.jsonl" >>"$T/people.jsonl"
# shellcheck disable=SC2086
refuses "people who said more since" 65 'people.jsonl: was changed since' \
    align cycle $loop -o "$T/again" --reviewed "$T/people.jsonl" --resume

finish
