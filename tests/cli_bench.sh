#!/bin/sh
# align bench: the JSON object of the contract, tables, parts alone, refusals. Times are not judged.
. "$(dirname "$0")/lib.sh"

B="--shape tinystories --layers 1 --quick -q"
N='[0-9.e+-]+'

# shellcheck disable=SC2086
gives "everything as JSON" 0 align bench $B --json
lines "one object" 1 "$T/out"
lines "quiet" 0 "$T/err"
has "machine" '^\{"cpu":"[^"]+","threads":[0-9]+,' "$T/out"
has "peaks" "\"f32_gflops\":$N,\"bf16_gflops\":$N,\"read_gbs\":$N" "$T/out"
tr '{' '\n' <"$T/out" >"$T/parts"
for dtype in bf16 f32; do
    for direction in forward backward; do
        for shape in 'K":128,"N":128' 'K":128,"N":64' 'K":128,"N":384' 'K":384,"N":128' \
            'K":128,"N":2048'; do
            for tokens in 16 256; do
                has "product $dtype $direction $tokens $shape" \
                    "\"dtype\":\"$dtype\",\"direction\":\"$direction\",\"T\":$tokens,\"$shape,\"seconds\":$N,\"gflops\":$N,\"share\":$N" \
                    "$T/parts"
            done
        done
    done
done
has "attention" "\"length\":1024,\"direction\":\"backward\",\"seconds\":$N,\"gflops\":$N" "$T/parts"
has "decoding" "^\"sequences\":1,.*\"tokens_per_second\":$N,\"bytes_per_token\":$N,\"read_gbs\":$N,\"share\":$N" \
    "$T/parts"
has "decoding 32 at once" "^\"sequences\":32," "$T/parts"
has "a prompt" "\"tokens\":256,\"seconds\":$N,\"tokens_per_second\":$N" "$T/parts"
for method in dpo kto; do
    has "step of $method" \
        "\"method\":\"$method\",\"rows\":\"short\".*\"tokens\":[0-9]+,.*\"seconds\":$N,\"tokens_per_second\":$N,.*\"share\":$N" \
        "$T/parts"
done

# shellcheck disable=SC2086
gives "two parts as tables" 0 align bench $B --only attention,decode --threads 1 --precision bf16
has "machine" ', 1 threads, kernel ' "$T/out"
has "precision" '^tinystories, 1 layers, bf16$' "$T/out"
has "memory" 'memory read +[0-9.]+ GB/s' "$T/out"
has "attention" '^ +128 backward ' "$T/out"
has "decoding" '^ +32 ' "$T/out"
check "nothing else" sh -c "! grep -Eq 'matrix products|training steps' '$T/out'"

refuses "shape" 64 'nearest: llama-3.2-1b' align bench --shape llama-3.2-4b
refuses "layers" 64 'tinystories has 2' align bench --shape tinystories --layers 3
refuses "part" 64 'nearest: gemm' align bench --only gem

finish
