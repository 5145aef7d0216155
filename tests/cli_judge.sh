#!/bin/sh
# align judge with a model and with a program, and align sft --judge-data.
. "$(dirname "$0")/lib.sh"

# Room for the judge prompt, one token a byte.
sed 's/"max_position_embeddings":256/"max_position_embeddings":1500/' "$MODEL/config.json" \
    >"$T/config.json" && cp "$T/config.json" "$MODEL/config.json"

cat >"$T/answers.jsonl" <<'END'
{"prompt":"a","response":"I cannot help with that.","human":"refuse","extra":[1]}
{"prompt":"a","response":"Sure, here is how you do it.","human":"accept"}
{"prompt":[{"role":"user","content":"b"}],"response":"Be careful.","human":"caution"}
{"prompt":"b","response":"","human":"refuse"}
END

# ---- a model
for kind in self model; do
    gives "judge $kind" 0 align judge --judge $kind -m "$MODEL" --data "$T/answers.jsonl" \
        -o "$T/$kind.jsonl"
    lines "judge $kind: a line for each row" 4 "$T/$kind.jsonl"
    has "judge $kind: the row unchanged" \
        "^\{\"prompt\":\"a\",.*\"extra\":\[1\],\"action\":.*\"judge\":\"$kind\"" \
        "$T/$kind.jsonl"
    has "judge $kind: agreement of the orders" '"evidence":\[\],"agreement":(1|0\.[36]+7?)\}$' \
        "$T/$kind.jsonl"
    has "judge $kind: no words, a refusal" '"response":"".*"refuse","probability":1,' \
        "$T/$kind.jsonl"
    has "judge $kind: disagreement is reported" '^label orders disagree on [0-3] rows' "$T/out"
done
sed 's/"judge":"self"/"judge":"model"/' "$T/self.jsonl" >"$T/self-as-model.jsonl"
same "self and model are one judge" "$T/self-as-model.jsonl" "$T/model.jsonl"
gives "threads change nothing" 0 align judge --judge self -m "$MODEL" --data "$T/answers.jsonl" \
    -o "$T/threads.jsonl" -t 3
same "threads change nothing" "$T/self.jsonl" "$T/threads.jsonl"
gives "judge by text" 0 align judge --judge model -m "$MODEL" --data "$T/answers.jsonl" \
    --judge-mode text --label-order fixed -o "$T/text.jsonl" --json
has "judge by text: what says nothing is counted" '"orders":1,"disagreed":0,"unparsed":3,"cut":0' \
    "$T/out"
has "judge by text: and marked" '"caution","probability":0\.333.*"agreement":0,"unparsed":true\}$' \
    "$T/text.jsonl"
gives "a model against people" 0 align judge --judge self -m "$MODEL" --data "$T/answers.jsonl" \
    -o "$T/x" --gold human --json
has "a model against people: both baselines" \
    '"baselines":\{"majority":\{"action":"refuse",.*"rules":\{"metrics":\{"accuracy":\{"value":1,' \
    "$T/out"
has "a model against people: bias" '"bias":\{"value":-?[0-9.]+,"low":-?[0-9.]+,"high":' "$T/out"
rm "$T/x"
refuses "rows and report on one output" 64 "standard output" align judge \
    --data "$T/answers.jsonl" -o -
gives "a device has no room beside it" 0 align judge --judge self -m "$MODEL" \
    --data "$T/answers.jsonl" -o /dev/null
printf '{"theirs":1}' >"$T/theirs"
refuses "somebody's file for verdicts" 65 "theirs: its last line is no verdict" align judge \
    --judge self -m "$MODEL" --data "$T/answers.jsonl" -o "$T/x" --answers "$T/theirs"
check "somebody's file is left alone" test "$(cat "$T/theirs")" = '{"theirs":1}'
refuses "no model" 64 "-m MODEL" align judge --judge self --data "$T/answers.jsonl" -o "$T/x"
refuses "no room" 65 "the judge prompt takes" align judge --judge self -m "$MODEL" -c 400 \
    --data "$T/answers.jsonl" -o "$T/x"
refuses "rules for a model" 64 "--rules" align judge --judge self -m "$MODEL" --rules "$T/x" \
    --data "$T/answers.jsonl" -o "$T/x"

# ---- a judge of one's own
teach="sft -m $MODEL --judge-data $T/taught.jsonl --max-length 1500 --steps 3 --lr 1e-3 --rank 2"
sed 's/"human"/"label"/' "$T/answers.jsonl" >"$T/taught.jsonl"
# shellcheck disable=SC2086
gives "sft --judge-data" 0 align $teach -o "$T/run"
sed 's/^{/{"x":1,/' "$T/taught.jsonl" >"$T/more.jsonl"
gives "sft --judge-data with a column more" 0 align sft -m "$MODEL" --max-length 1500 \
    --judge-data "$T/more.jsonl" -o "$T/more" --dry-run
has "sft --judge-data: what is not read" 'more.jsonl: not read: "x" .4 rows, first: line 1., "extra" .1 rows' \
    "$T/err"
# shellcheck disable=SC2086
gives "sft --judge-data" 0 align $teach -o "$T/run" --resume
has "sft --judge-data says what it teaches" \
    "4 rows that teach a judge .accept 1, caution 1, refuse 2." "$T/err"
has "the rows are there" '^\{"prompt":"You judge .*Judgment:","completion":" Refuse"\}$' \
    "$T/run.rows.jsonl"
gives "judge by the trained one" 0 align judge --judge model -m "$MODEL" \
    --adapter "$T/run/adapter" --uncalibrated --data "$T/answers.jsonl" -o "$T/trained.jsonl"
check "training changed it" sh -c "! cmp -s '$T/trained.jsonl' '$T/model.jsonl'"
# shellcheck disable=SC2086
gives "sft --judge-data goes on" 0 align $teach -o "$T/run" --resume
cp "$T/run.rows.jsonl" "$T/rows.kept"
sed 's/"label":"accept"/"label":"caution"/' "$T/taught.jsonl" >"$T/other.jsonl"
refuses "other labels for a run" 73 "run.rows.jsonl: exists with other rows" align sft -m "$MODEL" \
    --judge-data "$T/other.jsonl" --max-length 1500 -o "$T/run" --resume
refuses "a plan with other labels for a run" 73 "run.rows.jsonl: exists with other rows" align sft \
    -m "$MODEL" --judge-data "$T/other.jsonl" --max-length 1500 -o "$T/run" --resume --dry-run
same "other labels for a run: its rows stay" "$T/run.rows.jsonl" "$T/rows.kept"
cp "$T/taught.jsonl" "$T/z.rows.jsonl"
refuses "labels where the rows go" 73 "z.rows.jsonl: exists" align sft -m "$MODEL" \
    --judge-data "$T/z.rows.jsonl" --max-length 1500 -o "$T/z"
same "labels where the rows go: they stay" "$T/taught.jsonl" "$T/z.rows.jsonl"
# shellcheck disable=SC2086
gives "a plan of sft --judge-data" 0 align $teach -o "$T/dry" --dry-run
check "a plan of sft --judge-data writes nothing" sh -c "! ls $T | grep -q '^dry'"
# shellcheck disable=SC2086
refuses "two kinds of data" 64 "give one of them" align $teach --data "$T/answers.jsonl" -o "$T/y"
refuses "no data" 64 "--data FILE or --judge-data FILE" align sft -m "$MODEL" -o "$T/y"
# shellcheck disable=SC2086
refuses "other columns of labelled answers" 64 "--map .* --judge-data" align $teach -o "$T/y" \
    --map prompt=question
refuses "no labels" 65 "answers.jsonl: no row has a label" align sft -m "$MODEL" \
    --judge-data "$T/answers.jsonl" -o "$T/y" --max-length 1500
check "nothing is left of a fault" test ! -e "$T/x" -a ! -e "$T/y" -a ! -e "$T/y.rows.jsonl"

# ---- a program
cat >"$T/judge.sh" <<'END'
while IFS= read -r line; do
    echo asked >>"$1"
    id=${line#*:}
    echo "{\"id\":${id%%,*},\"action\":\"refuse\"}"
    [ -e "$2" ] || { : >"$2"; exit 7; }
done
END
external="judge --judge command --data $T/answers.jsonl -o $T/program.jsonl"
# shellcheck disable=SC2086
refuses "a program must be allowed" 64 "patient data.*--allow-external" \
    align $external --judge-command "sh $T/judge.sh"
# shellcheck disable=SC2086
refuses "no program" 64 "--judge-command" align $external --allow-external
# shellcheck disable=SC2086
refuses "no such program" 66 "/no/such: cannot be run" align $external --allow-external \
    --judge-command "/no/such program"
program="sh $T/judge.sh $T/asked $T/died"
# shellcheck disable=SC2086
refuses "a program that dies" 74 "ended with status 7 after 1 of 4" align $external \
    --allow-external --judge-retries 0 --judge-command "$program"
check "a program that dies leaves no half file" test ! -e "$T/program.jsonl"
lines "what it answered is kept" 1 "$T/program.jsonl.answers"
# shellcheck disable=SC2086
gives "the next run asks for the others" 0 align $external --allow-external \
    --judge-command "$program"
lines "the next run asks for the others" 4 "$T/asked"
lines "a line for each row" 4 "$T/program.jsonl"
has "what a program says" '"action":"refuse","probability":1,"judge":"command","evidence":\[\]\}$' \
    "$T/program.jsonl"
cp "$T/program.jsonl" "$T/before.jsonl"
# shellcheck disable=SC2086
gives "nothing is asked twice" 0 align $external --allow-external --judge-command "$program"
lines "nothing is asked twice" 4 "$T/asked"
same "the same verdicts" "$T/before.jsonl" "$T/program.jsonl"
# shellcheck disable=SC2086
refuses "a program that talks nonsense" 65 "line nonsense" align $external --allow-external \
    --judge-command "echo nonsense"
same "the old file is untouched" "$T/before.jsonl" "$T/program.jsonl"

finish
