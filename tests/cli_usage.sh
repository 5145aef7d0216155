#!/bin/sh
# The command line: help, unknown names, values out of range, configuration files, exit codes.
. "$(dirname "$0")/lib.sh"

# Help.
gives "help" 0 align --help
cp "$T/out" "$T/help"
commands=$(sed -n 's/^  \([a-z]*\)  .*/\1/p' "$T/help")
for c in $commands; do
    gives "help of $c" 0 align "$c" --help
    has "help of $c names it" "^align $c - " "$T/out"
    has "help of $c: --config" "--config FILE" "$T/out"
    cp "$T/out" "$T/long"
    gives "align help $c" 0 align help "$c"
    same "align help $c is align $c --help" "$T/out" "$T/long"
    check "help of $c fits a screen" test "$(wc -l <"$T/long")" -le 48
    gives "all of $c" 0 align "$c" --help-all
    sed -n 's/^  .\{3\} --\([a-z0-9-]*\).*/\1/p' "$T/out" | sort >"$T/all"
    sed -n 's/^  .\{3\} --\([a-z0-9-]*\).*/\1/p' "$T/long" | sort >"$T/first"
    check "help of $c: at most 15 options, or all" \
        test "$(grep -vcx 'config\|help\|help-all' "$T/first")" -le 15
    comm -23 "$T/all" "$T/first" >"$T/rest"
    [ ! -s "$T/rest" ] || has "help of $c names the rest" "^align $c --help-all" "$T/long"
    [ "$c" != cycle ] || check "help of cycle leaves some out" grep -qx undesirable-weight "$T/rest"
done
for c in score tokenize inspect; do
    has "help lists $c" "^  $c  " "$T/help"
done
gives "version" 0 align --version
gives "table of options" 0 align --options
has "table of options" '^\| `--model`, `-m` \| ' "$T/out"

# Unknown names, with the nearest.
refuses "no command" 64 "align --help" align
refuses "unknown command" 64 'unknown command "scroe"; nearest: score' align scroe
refuses "unknown option" 64 'align score: .*"--toknes"; nearest: tokens' align score --toknes
refuses "unknown short option" 64 '"-x"' align score -x
refuses "stray operand" 64 '"stray"' align score -m "$MODEL" stray

# Values.
refuses "missing value at the end" 64 "--model: its value is missing" align score -m
refuses "missing value before an option" 64 "--model: its value is missing" align score -m --tokens
refuses "required option" 64 "--model is missing" align score --tokens
for v in 0 -1 100000 abc nan 1.5 ""; do
    refuses "--threads $v" 64 '--threads: found .*\[1,1024\]' align score -m "$MODEL" --threads "$v"
done
refuses "--precision" 64 'nearest: bf16' align score -m "$MODEL" --precision fb16
refuses "value for a flag" 64 '--tokens: found "7"' align score -m "$MODEL" --tokens=7

# Configuration files.
printf '{"model": "%s", "prompt": "ab", "json": true}' "$MODEL" >"$T/config.json"
gives "a file supplies options" 0 align tokenize --config "$T/config.json"
has "a file supplies options" '^\{"ids":\[256,97,98\]' "$T/out"
gives "a flag beats the file" 0 align tokenize --config "$T/config.json" -p c
has "a flag beats the file" '^\{"ids":\[256,99\]' "$T/out"
printf '{"modle": "x"}' >"$T/config.json"
refuses "unknown key" 64 'config.json: unknown key "modle"; nearest: model' \
    align tokenize --config "$T/config.json"
printf '{"model": "x"' >"$T/config.json"
refuses "broken file" 65 "config.json" align tokenize --config "$T/config.json"
refuses "missing file" 66 "none.json" align tokenize --config "$T/none.json"

# An option given twice.
gives "given twice" 0 align tokenize -m nowhere -m "$MODEL" -p a
has "given twice" "warning: --model is given twice" "$T/err"

# The locale changes no number.
gives "a German locale" 0 env LC_ALL=de_DE.UTF-8 $ALIGN tokenize -m "$MODEL" -p a --json
has "a German locale" '"ids":\[256,97\]' "$T/out"

# Paths.
long=$(printf '%5000s' "" | tr ' ' x)
refuses "a path too long" 64 "--model" align tokenize -m "$long" -p a
mkdir "$T/mö del"
cp "$MODEL"/* "$T/mö del"
gives "spaces and UTF-8 in a path" 0 align tokenize -m "$T/mö del" -p a

# The program checks itself.
gives "selftest" 0 align selftest
has "selftest" '^[1-9][0-9]* passed, 0 failed$' "$T/out"

# An input is never written over.
printf '{"text":"a"}\n' >"$T/in.jsonl"
ln -s in.jsonl "$T/link.jsonl"
cp "$T/in.jsonl" "$T/kept.jsonl"
refuses "output onto input" 64 '--output .*link.jsonl is also --data' \
    align tokenize -m "$MODEL" --data "$T/in.jsonl" -o "$T/link.jsonl"
refuses "a run onto the model" 64 'is also --model' \
    align dpo -m "$MODEL" --data "$T/in.jsonl" -o "$MODEL/"
refuses "gradients onto the rows" 64 '--dump-gradients .* is also --data' align dpo -m "$MODEL" \
    --data "$T/in.jsonl" -o "$T/run" --dump-gradients "$T/in.jsonl"
refuses "verdicts onto the rows" 64 '--answers .* is also --data' align judge --judge self \
    -m "$MODEL" --data "$T/in.jsonl" -o "$T/judged" --answers "$T/in.jsonl"
refuses "output onto a file of the model" 64 'config.json is a file of --model' \
    align tokenize -m "$MODEL" --data "$T/in.jsonl" -o "$MODEL/config.json"
refuses "gradients into the model" 64 'is a file of --model' align dpo -m "$MODEL" \
    --data "$T/in.jsonl" -o "$T/run" --dump-gradients "$MODEL/model.safetensors"
same "output onto input" "$T/in.jsonl" "$T/kept.jsonl"
gives "the model is whole" 0 align inspect "$MODEL"
check "nothing is made by a refusal" test ! -e "$T/run" -a ! -e "$T/judged"
# What the choice of another option leaves unread is refused; a file may hold it, for other choices.
refuses "a validator's model" 64 '--validator-model: not read with --validator rules, allowed with --validator model' \
    align cycle -m "$MODEL" --data x -o "$T/x" --validator-model "$MODEL"
refuses "a program's patience" 64 '--judge-timeout: not read with --judge self, allowed with --judge command' \
    align judge --data x -o "$T/x" -m "$MODEL" --judge self --judge-timeout 5
refuses "KTO's rate where only DPO is trained" 64 '--kto-lr: not read with --methods dpo' \
    align cycle -m "$MODEL" --data x -o "$T/x" --methods dpo --kto-lr 1e-3
refuses "a rate that no candidate has" 64 '--lr: not read with --dpo-lr' \
    align cycle -m "$MODEL" --data x -o "$T/x" --methods dpo --dpo-lr 1e-3 --lr 1e-4
refuses "alpha of another divergence" 64 '--f-alpha: not read with --f-divergence reverse_kl' \
    align dpo -m "$MODEL" --data x -o "$T/x" --f-alpha 2
refuses "a partner without z0" 66 'nowhere' align kto -m "$MODEL" --data "$T/nowhere" -o "$T/x" \
    --loss apo_zero_unpaired --kl-pairing trl
has "a partner without z0" 'warning: --kl-pairing: not read with --loss apo_zero_unpaired' "$T/err"
refuses "DPO's variant of KTO" 64 '--wpo: not read with --method kto' \
    align explain -m "$MODEL" --data x --method kto --wpo
refuses "a signature reads no judge" 64 '--judge: not read with --approve' \
    align cycle "$T" --approve A --reason r --judge self
gives "greedy" 0 align generate -m "$MODEL" -p a -n 1 --temperature 0 --top-p 0.5
has "greedy" 'warning: --top-p: not read with --temperature 0$' "$T/err"
echo '{"judge":"command","judge-command":"x","judge-timeout":60}' >"$T/kinds.json"
refuses "a file for several judges" 66 '/nowhere' align judge --config "$T/kinds.json" --judge rules \
    --data "$T/nowhere" -o "$T/x"
has "a file for several judges" 'warning: --judge-command: not read with --judge rules' "$T/err"
check "a file for several judges: only what it says" sh -c "! grep judge-timeout '$T/err'"
refuses "no such adapter" 66 "nowhere" \
    align score -m "$MODEL" --adapter "$T/nowhere" --data "$T/in.jsonl"

# Standard output that cannot be written.
if [ -w /dev/full ]; then
    $ALIGN --help >/dev/full 2>"$T/err"
    [ $? -eq 74 ] && pass || fail "full standard output" "$T/err"
    has "full standard output" "^align: standard output: " "$T/err"
fi
$ALIGN --options 2>"$T/err" | head -n 1 >"$T/out"
lines "a closed pipe is quiet" 0 "$T/err"

finish
