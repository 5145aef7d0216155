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
gives "a prompt that spells a control token" 0 align generate -m "$MODEL" -p '<|end|>a' --max-tokens 2
has "it is said" 'spells control tokens: they are read as letters, 9 tokens .*--parse-special.*: 3' \
    "$T/err"
refuses "unknown chat template" 64 "chat-template" \
    align generate -m "$MODEL" -p a --chat-template nothing

# Texts that end an answer: it is cut before them, and a stream shows no part of them.
gives "an answer" 0 align generate -m "$MODEL" -p ab -n 40 -s 3
cp "$T/out" "$T/whole"
stop=$(cut -c 9-11 "$T/whole" | head -n 1)
gives "--stop" 0 align generate -m "$MODEL" -p ab -n 40 -s 3 --stop "never there" --stop "$stop" -q
first=$(awk -v stop="$stop" '{ print substr($0, 1, index($0, stop) - 1); exit }' "$T/whole")
printf '%s\n' "$first" >"$T/want"
same "--stop" "$T/want" "$T/out"
printf 'ab\n' | $ALIGN chat -m "$MODEL" -n 40 -s 3 --stop "$stop" -q >"$T/got" 2>"$T/err"
same "--stop in a chat" "$T/want" "$T/got"
printf '{"stop":["never there","%s"]}' "$stop" >"$T/stop.json"
gives "--stop of a file" 0 align generate -m "$MODEL" -p ab -n 40 -s 3 --config "$T/stop.json" -q
same "--stop of a file" "$T/want" "$T/out"
refuses "--stop without a text" 64 '--stop: found "", allowed is a text that is not empty' \
    align generate -m "$MODEL" -p a --stop ""

# Chat: a line in, an answer out; what was said before is part of the prompt.
printf 'ab\n/reset\nab\n\n/exit\nnever\n' >"$T/said"
$ALIGN chat -m "$MODEL" -n 5 --temperature 0 <"$T/said" >"$T/out" 2>"$T/err"
[ $? -eq 0 ] && pass || fail "chat" "$T/err"
gives "the first answer" 0 align generate -m "$MODEL" -p ab -n 5 --temperature 0
cat "$T/out" "$T/out" >"$T/want"
$ALIGN chat -m "$MODEL" -n 5 --temperature 0 -q <"$T/said" >"$T/got" 2>"$T/err"
same "chat answers as generate does, twice" "$T/want" "$T/got"
check "--quiet chat" test ! -s "$T/err"

# ---- a terminal is not driven by what a model, a file or a user wrote; a pipe gets every byte
odd=$(printf 'a\302\233b\342\200\256c\033[2Jd\rz')
# What is no model, or no adapter, is named; what its files ask for in vain, too.
mkdir "$T/run" "$T/slow"
cp -r "$MODEL" "$T/asks"
echo '{"vocab":0}' >"$T/slow/vocab.json"
echo '{"repetition_penalty":1.3,"min_length":0,"num_beams":1,"stop_strings":["."],"suppress_tokens":null,"bad_words_ids":[],"eos_token_id":257}' \
    >"$T/asks/generation_config.json"
refuses "a model that is not there" 66 'none: there is no such directory; a model is' \
    align generate -m "$T/none" -p a
refuses "a file as a model" 65 'config.json: is neither a GGUF file nor a directory with config' \
    align generate -m "$MODEL/config.json" -p a
refuses "a slow tokenizer's files" 66 'slow: has vocab.json, but no tokenizer.json: python3 -c' \
    align generate -m "$T/slow" -p a
refuses "an empty directory" 66 'run/tokenizer.json: cannot open' align generate -m "$T/run" -p a
cp -r "$MODEL" "$T/run/adapter"
echo '{}' >"$T/run/adapter/adapter_config.json"
refuses "a run as an adapter" 66 'run: is no adapter, but holds one: .*run/adapter$' \
    align generate -m "$MODEL" --adapter "$T/run" -p a
gives "a model that asks for more" 0 align generate -m "$T/asks" -p a -n 1
has "a model that asks for more" \
    'asks/generation_config.json: not followed, .*: repetition_penalty, stop_strings \(--stop' "$T/err"
gives "a model that asks for nothing" 0 align generate -m "$MODEL" -p a -n 1
check "a model that asks for nothing" sh -c "! grep 'not followed' '$T/err'"

raw() { # FILE: does it hold one of the bytes that a terminal would take?
    LC_ALL=C tr -d '\r\n' <"$1" | LC_ALL=C grep -q "$(printf '\033\\|\302\233\\|\342\200\256')"
}
export odd MODEL
gives "a pipe gets every byte" 0 align generate -m "$MODEL" -p "$odd" -n 2
if script -qec true /dev/null </dev/null >/dev/null 2>&1; then
    # shellcheck disable=SC2016
    for command in 'generate -m "$MODEL" -p "$odd" -q -n 40 --temperature 9' \
        'generate -m "$MODEL" -p "$odd" -q -n 40 --temperature 9 --json' \
        'generate -m "$MODEL" -p "$odd" -q -n 40 --temperature 9 -o /dev/tty' \
        'tokenize -m "$MODEL" -p "$odd"' \
        "$odd" 'score -m "$MODEL" --data "$odd"' 'evaluate --data "$odd"' 'inspect "$odd"'; do
        script -qec "$ALIGN $command" /dev/null </dev/null >"$T/typed" 2>/dev/null
        check "a terminal sees something: $command" test -s "$T/typed"
        if raw "$T/typed"; then fail "a terminal is driven: $command" "$T/typed"; else pass; fi
    done
    i=0
    while [ $i -lt 30 ]; do
        printf "q$i\n/reset\n"
        i=$((i + 1))
    done >"$T/asked"
    # shellcheck disable=SC2016
    script -qec "$ALIGN chat -q -m \"\$MODEL\" -n 120 --temperature 9 <$T/asked" /dev/null \
        </dev/null >"$T/typed" 2>/dev/null
    check "a chat answers" test "$(wc -c <"$T/typed")" -gt 200
    if raw "$T/typed"; then fail "a chat drives the terminal" "$T/typed"; else pass; fi
else
    echo "skipped: script makes no terminal here"
fi
finish
