#!/bin/sh
# -m FILE.gguf in every command: the same results as from the directory with the same weights.
. "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2086
check "the tool" $RUNNER "$TOOLS/tool_gguf" "$T"
DIR=$T/tiny FILE=$T/tiny.gguf
cat >"$T/rows.jsonl" <<'END'
{"prompt":"the sky","completion":" there","chosen":" there","rejected":" bees","label":true}
{"prompt":"a red","completion":" bear","chosen":" bear","rejected":" the","label":false}
END
printf '{"prompt":"the sky"}\n{"prompt":"red"}\n' >"$T/prompts.jsonl"

# both NAME COMMAND ARGUMENT...: run with -m of either; their standard outputs are the same.
both() {
    what=$1 command=$2
    shift 2
    gives "$what, directory" 0 align "$command" -m "$DIR" "$@"
    cp "$T/out" "$T/want"
    gives "$what, file" 0 align "$command" -m "$FILE" "$@"
    same "$what" "$T/want" "$T/out"
}
both tokenize tokenize -p "the sky, 12"
both score score --data "$T/rows.jsonl" --tokens
both generate generate --data "$T/prompts.jsonl" --max-tokens 12 --samples 2
both "generate, mapped or read" generate -p "the" --max-tokens 4 --no-mmap --check-tensors
both "explain dpo" explain --data "$T/rows.jsonl" --row 1 --method dpo
both "explain kto" explain --data "$T/rows.jsonl" --row 1 --method kto
both "score in bf16" score --data "$T/rows.jsonl" --precision bf16

for method in sft dpo kto; do
    for from in "$DIR" "$FILE"; do
        gives "$method" 0 align $method -m "$from" --data "$T/rows.jsonl" --steps 3 \
            --batch 2 --rank 4 --lr 1e-3 -o "$T/$method-$(basename "$from")"
    done
    same "$method" "$T/$method-tiny/adapter/adapter_model.safetensors" \
        "$T/$method-tiny.gguf/adapter/adapter_model.safetensors"
    check "$method: the hash of the file is recorded" \
        sh -c "! cmp -s '$T/$method-tiny/inputs.json' '$T/$method-tiny.gguf/inputs.json'"
done
both "with an adapter" score --data "$T/rows.jsonl" --adapter "$T/dpo-tiny.gguf/adapter"
gives "a finished run is resumed" 0 align dpo -m "$FILE" --data "$T/rows.jsonl" --steps 3 --batch 2 \
    --rank 4 --lr 1e-3 -o "$T/dpo-tiny.gguf" --resume
gives "merge of a directory" 0 align merge -m "$DIR" --adapter "$T/dpo-tiny/adapter" -o "$T/merged"
gives "merge of a file" 0 align merge -m "$FILE" --adapter "$T/dpo-tiny/adapter" \
    -o "$T/merged-of-file"
same "merged weights" "$T/merged/model.safetensors" "$T/merged-of-file/model.safetensors"
DIR=$T/merged FILE=$T/merged-of-file
both "a merged model" score --data "$T/rows.jsonl" --tokens
DIR=$T/tiny FILE=$T/tiny.gguf

refuses "--full" 65 "--full does not train the weights of a GGUF file" \
    align dpo -m "$FILE" --data "$T/rows.jsonl" --full --steps 1 -o "$T/full"
check "--full leaves nothing" test ! -e "$T/full"
refuses "the model is not written over" 64 "is also --model" \
    align score -m "$FILE" --data "$T/rows.jsonl" -o "$FILE"

# ---- a loop
for i in 1 2 3 4 5 6 7 8 9; do
    printf '{"prompt":"the %d","harmful_level":%d}\n' $i 0 ${i}0 2
done >"$T/loop.jsonl"
gives "cycle" 0 align cycle -m "$FILE" --data "$T/loop.jsonl" -o "$T/loop" --max-tokens 6 \
    --samples 2 --steps 2 --batch 2 --rank 4 --validation 0.5
gives "verify" 0 align inspect "$T/loop" --verify
printf 'x' | dd of="$FILE" bs=1 seek=$(($(wc -c <"$FILE") - 3)) conv=notrunc 2>/dev/null
refuses "a changed file is noticed" 65 "tiny.gguf: was changed since the run began" \
    align inspect "$T/loop" --verify

# ---- what is there, and what it is not
gives "inspect" 0 align inspect "$FILE"
has "inspect: kind" '^kind +GGUF model$' "$T/out"
has "inspect: stored as" '^stored as +F32$' "$T/out"
mkdir "$T/only" && cp "$FILE" "$T/only/a.gguf"
refuses "a folder of GGUF files" 65 "name the file itself, as $T/only/a.gguf" \
    align tokenize -m "$T/only" -p a
refuses "a name on a hub" 66 "hf download some/model" align score -m some/model \
    --data "$T/rows.jsonl"
mkdir -p "$T/models--a--b/snapshots" && cp -r "$DIR" "$T/models--a--b/snapshots/0a1b"
DIR=$T/models--a--b FILE=$T/models--a--b/snapshots/0a1b
both "a folder of a hub's cache" score --data "$T/rows.jsonl"
gives "dpo from a hub's cache" 0 align dpo -m "$DIR" --data "$T/rows.jsonl" --steps 1 --batch 2 \
    --rank 4 -o "$T/cached"
finish
