#!/bin/sh
# Every file and every screen that the commands write, in one folder, to compare two programs by the
# byte: a redesign that should change nothing shows here what it changed.
#
#   ALIGN=/before/align tests/outputs.sh before; tests/outputs.sh after; diff -r before after
#
# --kernel ref has the same bits on every machine; times and speeds are taken out. Paths are
# relative to the folder, so that they do not depend on where it lies.
set -eu
RUNNER=${RUNNER-}
root=$(cd "$(dirname "$0")/.." && pwd)
# A wrapper may stand before the program, whose path may be relative to the project, as in lib.sh.
align=$(echo "${ALIGN:-./align}" | sed "s#\(^\| \)\./#\1$root/#")
case ${TOOLS:=build/tests} in /*) tools=$TOOLS ;; *) tools=$root/$TOOLS ;; esac
mkdir -p "$1"
cd "$1"
export OMP_WAIT_POLICY=passive

# What a command says on its two streams goes to NAME.out and NAME.err; its exit code is its last line.
run() {
    name=$1
    shift
    code=0
    # shellcheck disable=SC2086 # a wrapper and the program
    $align "$@" >"$name.out" 2>"$name.err" || code=$?
    echo "exit code $code" >>"$name.err"
}

# ---- inputs -------------------------------------------------------------------------------------

# shellcheck disable=SC2086
$RUNNER $tools/tool_model model
# shellcheck disable=SC2086
$RUNNER $tools/tool_model mistral mistral 2
for i in 0 1 2 3 4 5 6 7 8 9 10 11; do
    echo "{\"prompt\":\"count $i: \",\"chosen\":\"a$i b\",\"rejected\":\"wrong $i\"}"
done >pairs.jsonl
sed 's/"chosen":\("[^"]*"\),.*/"completion":\1,"label":true}/;6q' pairs.jsonl >labelled.jsonl
sed 's/"chosen":.*"rejected":\("[^"]*"\)}/"completion":\1,"label":false}/;1,6d' pairs.jsonl \
    >>labelled.jsonl
sed 's/"chosen":\("[^"]*"\),.*/"completion":\1}/' pairs.jsonl >answers.jsonl
for i in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31; do
    echo "{\"prompt\":\"p$i\",\"base_prompt\":\"b$i\",\"harmful_level\":$((i % 4)),\"demonstration\":\"no\"}"
done >prompts.jsonl
cat >rules.jsonl <<'END'
{"action":"accept","weight":1,"place":"any","phrase":""}
{"action":"refuse","weight":3,"place":"start","phrase":"no"}
{"action":"caution","weight":1,"place":"start","phrase":"perhaps"}
END
cat >responses.jsonl <<'END'
{"prompt":"a","response":"I cannot help with that.","harmful_level":3,"human":"refuse","extra":[1]}
{"prompt":"b","response":"Sure, here is how you do it.","harmful_level":0,"human":"accept"}
{"prompt":"c","response":"I'm sorry, but I can't assist with this request.","harmful_level":0,"human":null}
{"prompt":"d","response":"","harmful_level":1,"human":"accept"}
END
echo '{"question":"Which?","choices":["this","that"],"answer":1}' >guard.jsonl
echo '{"prompt":"p1","completion":"no","label":true}' >thumbs.jsonl

# ---- text and numbers ---------------------------------------------------------------------------

engine="--kernel ref --threads 2"
for command in generate chat score sft dpo kto explain merge export tokenize judge evaluate cycle \
    inspect report bench selftest; do
    run "help-$command" "$command" --help
    run "help-all-$command" "$command" --help-all
done
run help --help
run version --version
run options --options
run print-config cycle --print-config
run tokenize tokenize -m model -p "Hello <|end|>"
run tokenize-json tokenize -m model -p "Hello <|end|>" --json --parse-special
run inspect-model inspect model --json
# shellcheck disable=SC2086
{
    run score score -m model --data answers.jsonl --tokens -o score.jsonl $engine
    run score-mistral score -m mistral --data answers.jsonl --eos -o score-mistral.jsonl $engine
    run generate generate -m model --data prompts.jsonl --samples 2 -n 6 -o generate.jsonl $engine
    run generate-greedy generate -m model -p "a b" --temperature 0 -n 6 $engine
    run explain-dpo explain -m model --data pairs.jsonl --row 3 $engine
    run explain-kto explain -m model --data labelled.jsonl --row 3 --method kto --batch 4 --json $engine
}

# ---- training -----------------------------------------------------------------------------------

short="--steps 4 --batch 4 --accumulate 2 --rank 2 --alpha 4 --lr 1e-2 --save-every 2 $engine"
# shellcheck disable=SC2086
{
    run sft sft -m model --data answers.jsonl --eval answers.jsonl -o sft $short
    run dpo dpo -m model --data pairs.jsonl -o dpo --dump-gradients dpo.grad $short
    run dpo-plan dpo -m model --data pairs.jsonl --dry-run --memory 64M $short
    run dpo-sum dpo -m mistral --data pairs.jsonl -o dpo-sum --loss ipo,sft --loss-weights 1,0.5 \
        --f-divergence js_divergence --order trl --schedule cosine --warmup 1 --json $short
    run kto kto -m model --data labelled.jsonl --eval labelled.jsonl -o kto \
        --desirable-weight auto --init-adapter sft/adapter --reference base $short
    run kto-resumed kto -m model --data labelled.jsonl --eval labelled.jsonl -o kto \
        --desirable-weight auto --init-adapter sft/adapter --reference base --resume $short
    run full sft -m model --data answers.jsonl -o full --full $short
}
run merge merge -m model --adapter dpo/adapter -o merged
run merge-gguf merge -m model --adapter dpo/adapter -o merged.gguf --dtype q8_0
run export export -m model --adapter dpo/adapter -o adapter.gguf
run inspect-adapter inspect dpo/adapter
run inspect-run inspect dpo

# ---- the loop -----------------------------------------------------------------------------------

run judge judge --data responses.jsonl -o judged.jsonl --gold human
run judge-json judge --data responses.jsonl -o judged-again.jsonl --gold human --json
run rules judge --print-rules
run evaluate evaluate --data judged.jsonl -o results.json
run evaluate-against evaluate --data judged.jsonl --against judged-again.jsonl --json
run review judge --data judged.jsonl --review 4 -o review.html
loop="-m model --data prompts.jsonl --rules rules.jsonl --validator-rules rules.jsonl --samples 2
    -n 3 --steps 20 --rank 8 --lr 3e-2 --batch 8 --validation 0.3 --confidence 0.8 --memory 256M
    --max-added-refusal 1 $engine"
# shellcheck disable=SC2086
{
    run cycle cycle $loop --cycles 2 -o loop --guard guard.jsonl --feedback thumbs.jsonl
    run grid cycle $loop --methods dpo,kto -o grid
}
run approve cycle loop --approve "Dr A" --reason "read and agreed"
run verify inspect loop --verify
run inspect-loop inspect loop
run report report loop -o report.html

# ---- what a clock, a processor or this machine's memory decides is taken out ---------------------

# Hashes of what holds a time go with it: the ledger's chain, the program's own, a metrics file's.
find . -type f \( -name '*.json' -o -name '*.jsonl' -o -name '*.html' -o -name '*.out' \
    -o -name '*.err' \) | while IFS= read -r f; do
    sed -E -e "s/(align_sha256<.th><td><code>)[0-9a-f]*/\1HASH/" -e 's/"(seconds|tokens_per_second|eta)":[0-9.e+-]+/"\1":0/g' \
        -e 's/[0-9.]+ s$/0 s/; s/[0-9.]+ MiB of [0-9.]+ MiB/0 MiB of 0 MiB/' \
        -e 's/20[0-9-]{8}T[0-9:]{8}Z/TIME/g' \
        -e 's/"(hash|previous|align_sha256|head)":"[0-9a-f]{64}"/"\1":"HASH"/g' \
        -e 's/(ledger head |<pre>)[0-9a-f]{64}/\1HASH/' \
        -e 's/<code>[0-9a-f]{12}<\/code><\/td><\/tr>/<code>HASH<\/code><\/td><\/tr>/' \
        -e 's/((metrics.jsonl|report.html|deployed.json)":")[0-9a-f]{64}/\1HASH/g' \
        -e 's/[0-9a-f]{64} +[0-9]+  (.*(metrics|ledger).jsonl|.*report.html|deployed.json)$/HASH \1/' \
        -e 's/(head +)[0-9a-f]{64}/\1HASH/' "$f" >"$f.plain"
    cat "$f.plain" >"$f" && rm "$f.plain"
done
