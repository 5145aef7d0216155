#!/bin/sh
# Every command that reads rows names the columns that it does not read, once for a file, with their
# number and first line. Columns that a row only takes along to the next command are not named.
. "$(dirname "$0")/lib.sh"

# tells WHAT PATTERN COMMAND...: the command ends well, and exactly one line matches.
tells() {
    what=$1 pattern=$2
    shift 2
    gives "$what" 0 "$@"
    grep -E -- "not read" "$T/err" | grep -E -- "$pattern" >"$T/told" || :
    lines "$what: told once" 1 "$T/told"
}

# A column is "x" from line 2 on; what the loop's commands read themselves is there, too.
cat >"$T/judged.jsonl" <<'END'
{"prompt":"a","response":"b","harmful_level":0,"method":"m","action":"accept","index":0}
{"prompt":[{"role":"user","content":"a","name":"N"}],"response":"c","harmful_level":3,"action":"refuse","x":1,"gold":"refuse","label":"accept"}
{"prompt":"c","response":"d","harmful_level":1,"action":"refuse","x":{},"label":"refuse"}
END
two='"x" .2 rows, first: line 2'
turn='"name" of turns .1 rows, first: line 2'
tells judge "judged.jsonl: not read, only taken along: $turn.*, $two.*, \"gold\" .*\"label\" .2 rows, first: line 2.\$" \
    align judge --data "$T/judged.jsonl" -o "$T/again.jsonl"
tells "judge --gold" "along: $turn.*, $two.*\"label\" .2 rows, first: line 2.\$" \
    align judge --data "$T/judged.jsonl" -o "$T/again.jsonl" --gold gold
tells evaluate "judged.jsonl: not read: $turn.*, $two" align evaluate --data "$T/judged.jsonl"
sed 's/"x"/"y"/' "$T/judged.jsonl" >"$T/before.jsonl"
tells "evaluate --against" 'before.jsonl: not read: .*"y" .2 rows' \
    align evaluate --data "$T/judged.jsonl" --against "$T/before.jsonl"
grep '"prompt":"' "$T/judged.jsonl" >"$T/asked.jsonl"
tells generate 'asked.jsonl: not read, only taken along: "x" .1 rows.*, "label" .1 rows' \
    align generate -m "$MODEL" --data "$T/asked.jsonl" -n 1 -o "$T/answers.jsonl"
check "generate passes what others read" \
    sh -c "! grep -E 'not read.*\"(action|index|method)\"' '$T/err'"

# What the template in use reads is not named; a text has no template.
cat >"$T/texts.jsonl" <<'END'
{"text":"a","messages":[],"x":1}
{"messages":[{"role":"user","content":"a","name":"N","tool_calls":[]}],"add_generation_prompt":false,"tools":[],"x":2}
END
tells tokenize 'texts.jsonl: not read: "messages" .1 rows.*, "x" .2 rows.*, "name" of turns .1 rows, first: line 2., "tools" .1 rows, first: line 2.$' \
    align tokenize -m "$MODEL" --data "$T/texts.jsonl" --chat-template chatml
sed 's/"x"/"add_generation_prompt"/' "$T/texts.jsonl" | head -n 1 >"$T/plain.jsonl"
tells "tokenize a text" 'plain.jsonl: not read: .*"add_generation_prompt" .1 rows' \
    align tokenize -m "$MODEL" --data "$T/plain.jsonl"

prompts 40 no | sed '3s/"prompt"/"x":1,"prompt"/' >"$T/prompts.jsonl"
printf '{"prompt":"q","completion":"yes","label":true}\n%s\n' \
    '{"prompt":"r","completion":"no","label":0,"user":"u","action":"accept"}' >"$T/thumbs.jsonl"
echo '{"question":"q","prompt":"p","choices":["a","b"],"answer":1,"topic":"t"}' >"$T/guard.jsonl"
loop="-m $MODEL --data $T/prompts.jsonl --samples 2 -n 3 --steps 1 --rank 2 --validation 0.4
    --prompts-per-cycle 4 --feedback $T/thumbs.jsonl --guard $T/guard.jsonl --cycles 1"
for dry in --dry-run --kernel=ref; do
    # shellcheck disable=SC2086
    tells "cycle $dry" 'prompts.jsonl: not read, only taken along: "x" .1 rows, first: line 3' \
        align cycle $loop -o "$T/run" $dry
    has "cycle $dry: feedback" \
        'thumbs.jsonl: not read: "user" .1 rows, first: line 2., "action" .1 rows' "$T/err"
    has "cycle $dry: guard" 'guard.jsonl: not read: "prompt" .1 rows.*, "topic" .1 rows' "$T/err"
done
check "cycle: what it wrote itself is not named" sh -c "! grep -E '(kto|dpo).jsonl: not read' '$T/err'"
for file in prompts thumbs guard; do
    grep -c "$file.jsonl: not read" "$T/err" >"$T/count"
    has "cycle: $file told once" '^1$' "$T/count"
done

finish
