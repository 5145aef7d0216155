#!/bin/sh
# align export, and align merge -o NAME.gguf: files that give the same numbers, and what is refused.
. "$(dirname "$0")/lib.sh"
# shellcheck disable=SC2086
check "the tool" $RUNNER "$TOOLS/tool_gguf" "$T"
DIR=$T/tiny FILE=$T/tiny.gguf
cat >"$T/rows.jsonl" <<'END'
{"prompt":"the sky","completion":" there","chosen":" there","rejected":" bees"}
{"prompt":"a red","completion":" bear","chosen":" bear","rejected":" the"}
END
gives "dpo" 0 align dpo -m "$DIR" --data "$T/rows.jsonl" --steps 3 --batch 2 --rank 4 --lr 1e-2 \
    -o "$T/run"
ADAPTER=$T/run/adapter

# as NAME MODEL: MODEL gives the log-probs in $T/want.
as() {
    gives "$1: score" 0 align score -m "$2" --data "$T/rows.jsonl" --tokens
    same "$1" "$T/want" "$T/out"
}

# ---- a model
gives "score" 0 align score -m "$DIR" --data "$T/rows.jsonl" --tokens
cp "$T/out" "$T/want"
gives "export of a directory" 0 align export -m "$DIR" -o "$T/base.gguf"
same "export prints the name" "$T/out" - <<END
$T/base.gguf
END
as "exported" "$T/base.gguf"
gives "export of a file" 0 align export -m "$FILE" -o "$T/copy.gguf" --no-mmap --check-tensors
as "exported again" "$T/copy.gguf"

# ---- an adapter folded in
gives "merge into a directory" 0 align merge -m "$DIR" --adapter "$ADAPTER" -o "$T/merged"
gives "merged" 0 align score -m "$T/merged" --data "$T/rows.jsonl" --tokens
check "the adapter changes something" sh -c "! cmp -s '$T/out' '$T/want'"
cp "$T/out" "$T/want"
gives "merge into a file" 0 align merge -m "$DIR" --adapter "$ADAPTER" -o "$T/merged.gguf"
has "merge says what rounding took" '^align: [0-9]+ merged weights, stored as the base.s: rounding' \
    "$T/err"
as "merged into a file" "$T/merged.gguf"
gives "merge of a file" 0 align merge -m "$FILE" --adapter "$ADAPTER" -o "$T/of-file.gguf" --json
has "merge: figures" '^\{"output":.*of-file.gguf","dtype":"keep","weights":[0-9]+,"largest_error":' \
    "$T/out"
as "a file merged into a file" "$T/of-file.gguf"
for dtype in f32 bf16 f16 q8_0; do
    gives "merge, $dtype" 0 align merge -m "$DIR" --adapter "$ADAPTER" -o "$T/$dtype.gguf" \
        --dtype $dtype
    has "merge, $dtype: what rounding took" "merged weights, stored as $dtype: rounding error" \
        "$T/err"
    gives "merge, $dtype: score" 0 align score -m "$T/$dtype.gguf" --data "$T/rows.jsonl"
done
gives "threads change nothing" 0 env OMP_NUM_THREADS=1 $ALIGN merge -m "$DIR" \
    --adapter "$ADAPTER" -o "$T/one.gguf" --dtype q8_0
# The name of the file is in it.
gives "inspect" 0 align inspect "$T/one.gguf"
check "threads change no bit" sh -c "sed s/q8_0/one-/g '$T/q8_0.gguf' | tail -c 10000 >'$T/a' &&
    tail -c 10000 '$T/one.gguf' >'$T/b' && cmp '$T/a' '$T/b'"

# ---- an adapter by itself
for dtype in keep f16 bf16; do
    gives "export of an adapter, $dtype" 0 align export -m "$DIR" --adapter "$ADAPTER" \
        -o "$T/adapter-$dtype.gguf" --dtype $dtype
done
gives "export for a file" 0 align export -m "$FILE" --adapter "$ADAPTER" -o "$T/for-file.gguf"
check "the base does not matter" sh -c "sed s/for-file/adapter-/g '$T/for-file.gguf' |
    tail -c 4000 >'$T/a' && tail -c 4000 '$T/adapter-keep.gguf' >'$T/b' && cmp '$T/a' '$T/b'"
check "half as large" test "$(wc -c <"$T/adapter-f16.gguf")" -lt "$(wc -c <"$T/adapter-keep.gguf")"
refuses "an adapter is no model" 65 "adapter-keep.gguf: holds an adapter alone" align score \
    -m "$T/adapter-keep.gguf" --data "$T/rows.jsonl"
refuses "nor for inspect" 65 "adapter-keep.gguf: holds an adapter alone" align inspect \
    "$T/adapter-keep.gguf"

# ---- refused
refuses "export onto something" 73 "base.gguf: exists already; take a new name" \
    align export -m "$DIR" -o "$T/base.gguf"
refuses "export onto the model" 64 "is also --model" align export -m "$FILE" -o "$FILE"
refuses "merge onto something" 73 "merged.gguf: exists already" \
    align merge -m "$DIR" --adapter "$ADAPTER" -o "$T/merged.gguf"
refuses "blocks in a directory" 64 "--dtype q8_0 is for the weights of a model in a GGUF file" \
    align merge -m "$DIR" --adapter "$ADAPTER" -o "$T/no" --dtype q8_0
refuses "blocks in an adapter" 64 "--dtype q8_0 is for the weights of a model in a GGUF file" \
    align export -m "$DIR" --adapter "$ADAPTER" -o "$T/no.gguf" --dtype q8_0
refuses "a folder that is not there" 73 "no/no.gguf" align export -m "$DIR" -o "$T/no/no.gguf"
cp -r "$DIR" "$T/window"
sed 's/"model_type":"llama"/"model_type":"mistral","sliding_window":64/' "$DIR/config.json" \
    >"$T/window/config.json"
gives "a window is told" 0 align export -m "$T/window" -o "$T/window.gguf"
has "a window is told" 'each position sees the last 64; llama.cpp has no such window' "$T/err"
mkdir "$T/no-tokenizer"
cp "$DIR/config.json" "$DIR/model.safetensors" "$T/no-tokenizer"
refuses "no tokenizer" 66 "no-tokenizer/tokenizer.json" align export -m "$T/no-tokenizer" \
    -o "$T/no.gguf"
gives "an adapter needs none" 0 align export -m "$T/no-tokenizer" --adapter "$ADAPTER" \
    -o "$T/needs-none.gguf"
check "nothing is left behind" sh -c "! ls '$T' | grep -E '^no(.gguf)?$|tmp'"
finish
