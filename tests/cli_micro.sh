#!/bin/sh
# tools/micro.c, the whole of DPO and KTO in one file, and the engine compute the same numbers: from
# one model, one adapter and the same rows, 20 steps of each method.
. "$(dirname "$0")/lib.sh"

# A compiler builds it by itself, and it learns.
check "it builds with a bare compiler" ${CC:-cc} -std=c11 tools/micro.c -lm -o "$T/micro"
gives "it runs" 0 "$T/micro"
awk '$1 == "DPO" || $1 == "KTO" { method = $1; next }
     NF == 3 && $1 == 1 { first[method] = $2 }
     NF == 3 { last[method] = $2; margin[method] = $3 }
     END { exit !(first["DPO"] == 0.693147 && first["KTO"] == 0.5 && last["DPO"] < 0.1 &&
                  last["KTO"] < 0.1 && margin["DPO"] > 1 && margin["KTO"] > 1) }' "$T/out"
check "losses begin at ln 2 and a half, and fall" test $? -eq 0
check "it has at most 300 lines" test "$(wc -l <tools/micro.c)" -le 300
check "it has no macros" sh -c '! grep -n "^ *# *define" tools/micro.c'

# Its model, adapter and rows as files: the tokenizer is that of the tiny model.
steps=20
cp -R "$MODEL" "$T/tiny"
# shellcheck disable=SC2086
check "its model is written" $RUNNER "$TOOLS/tool_micro" "$T/tiny" $steps

# compare METHOD: loss and margin of each step, to 1e-5 and 1e-4.
compare() {
    sed 's/.*"step":\([0-9]*\),"loss":\([^,]*\),.*"rewards\/margins":\([^,}]*\).*/\1 \2 \3/' \
        "$T/$1/metrics.jsonl" >"$T/$1.engine"
    lines "$1: a line for each step" $steps "$T/$1.engine"
    paste -d ' ' "$T/tiny/$1.losses" "$T/$1.engine" | awk -v n=$steps '
        function apart(a, b) { return a > b ? a - b : b - a }
        { loss = apart($2, $5); margin = apart($3, $6)
          if (!(NF == 6 && $1 == $4 && loss <= 1e-5 && margin <= 1e-4)) bad++
          if (loss > worst) worst = loss }
        END { printf "largest difference of %d losses: %.2g\n", NR, worst; exit !(NR == n && !bad) }
    ' >"$T/$1.compared"
    same_numbers=$?
    check "$1: losses and margins are the engine's ($(cat "$T/$1.compared"))" \
        test $same_numbers -eq 0
}

common="--init-adapter $T/tiny/start --reference base --order file --batch 2 --steps $steps --beta 0.1
    --lr 0.005 --schedule constant --weight-decay 0.01 --max-grad-norm 0.5 --precision f32 -q"
# shellcheck disable=SC2086
gives "dpo" 0 align dpo -m "$T/tiny" --data "$T/tiny/dpo.jsonl" -o "$T/dpo" $common
compare dpo
# shellcheck disable=SC2086
gives "kto" 0 align kto -m "$T/tiny" --data "$T/tiny/kto.jsonl" -o "$T/kto" --kl-pairing trl $common
compare kto

finish
