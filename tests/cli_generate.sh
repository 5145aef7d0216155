#!/bin/sh
# align generate and align chat on the tiny model.
. "$(dirname "$0")/lib.sh"

cat >"$T/prompts.jsonl" <<'END'
{"prompt":"ab","harmful_level":2,"sample":"theirs"}
{"prompt":"a longer one"}
{"prompt":""}
END
gives "answers" 0 align generate -m "$MODEL" --data "$T/prompts.jsonl" --samples 3 -n 6 \
    -o "$T/answers.jsonl"
lines "a line for each prompt and sample" 9 "$T/answers.jsonl"
has "a row" '^\{"index":0,"sample":1,"prompt":"ab","response":".*","token_ids":\[[0-9,]*\],"finish":"(stop|length)","harmful_level":2\}$' \
    "$T/answers.jsonl"
check "in order" \
    sh -c "sed 's/{\"index\":\([0-9]*\),\"sample\":\([0-9]*\),.*/\1 \2/' $T/answers.jsonl |
    sort -c -n"

# The same text in any company, threads, kernel; another seed, another text.
for args in "--at-once 1" "--at-once 4 -t 3" "--kernel ref -t 1" "--no-mmap"; do
    # shellcheck disable=SC2086
    gives "$args" 0 align generate -m "$MODEL" --data "$T/prompts.jsonl" --samples 3 -n 6 $args \
        -o "$T/other.jsonl"
    same "$args" "$T/answers.jsonl" "$T/other.jsonl"
done
gives "another seed" 0 align generate -m "$MODEL" --data "$T/prompts.jsonl" --samples 3 -n 6 -s 7 \
    -o "$T/other.jsonl"
check "another seed" sh -c "! cmp -s $T/answers.jsonl $T/other.jsonl"
gives "greedy" 0 align generate -m "$MODEL" --data "$T/prompts.jsonl" --temperature 0 --samples 2 \
    -n 4 -o "$T/greedy.jsonl"
check "greedy samples are alike" sh -c "sed -n 's/.*\"sample\":0,//p' $T/greedy.jsonl >$T/a
    sed -n 's/.*\"sample\":1,//p' $T/greedy.jsonl >$T/b; cmp $T/a $T/b"

# One prompt.
gives "a text" 0 align generate -m "$MODEL" -p ab -n 4 --temperature 0
lines "a text" 1 "$T/out"
gives "a text as JSON" 0 align generate -m "$MODEL" -p ab -n 6 --samples 3 --json
head -n 3 "$T/answers.jsonl" | sed 's/,"harmful_level":2//' >"$T/want"
same "a text is drawn like row 0 of a file" "$T/want" "$T/out"

# Other columns, other names.
sed 's/"prompt"/"question"/' "$T/prompts.jsonl" >"$T/questions.jsonl"
gives "--map" 0 align generate -m "$MODEL" --data "$T/questions.jsonl" --map prompt=question \
    --samples 3 -n 6 -o "$T/other.jsonl"
same "--map" "$T/answers.jsonl" "$T/other.jsonl"

# Faults.
refuses "neither prompt nor data" 64 "--prompt TEXT or --data FILE" align generate -m "$MODEL"
refuses "--temperature" 64 '--temperature: found "-1".*\[0,100\]' \
    align generate -m "$MODEL" -p a --temperature -1
refuses "--top-p" 64 '--top-p: found "1.5"' align generate -m "$MODEL" -p a --top-p 1.5
refuses "-n 0" 64 '--max-tokens: found "0"' align generate -m "$MODEL" -p a -n 0
refuses "no column" 65 'questions.jsonl:1: no column "prompt"' \
    align generate -m "$MODEL" --data "$T/questions.jsonl" -o "$T/fault.jsonl"
check "nothing is left of a fault" test ! -e "$T/fault.jsonl"
refuses "unknown chat template" 64 "chat-template" \
    align generate -m "$MODEL" -p a --chat-template nothing

# Chat: a line in, an answer out; what was said before is part of the prompt.
printf 'ab\n/reset\nab\n\n/exit\nnever\n' >"$T/said"
$ALIGN chat -m "$MODEL" -n 5 --temperature 0 <"$T/said" >"$T/out" 2>"$T/err"
[ $? -eq 0 ] && pass || fail "chat" "$T/err"
gives "the first answer" 0 align generate -m "$MODEL" -p ab -n 5 --temperature 0
cat "$T/out" "$T/out" >"$T/want"
$ALIGN chat -m "$MODEL" -n 5 --temperature 0 -q <"$T/said" >"$T/got" 2>"$T/err"
same "chat answers as generate does, twice" "$T/want" "$T/got"
check "--quiet chat" test ! -s "$T/err"

finish
