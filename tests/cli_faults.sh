#!/bin/sh
# The first faults of the list of bad inputs, each with its number, as a user meets them: the
# message on the last line of stderr, the exit code, and that nothing is left behind. Faults that
# need a broken disk or a killed process are in faults.sh.
. "$(dirname "$0")/lib.sh"
LC_ALL=C
export LC_ALL

printf '{"prompt":"ab","completion":"cd"}\n' >"$T/rows.jsonl"

# number N: eight bytes, little-endian.
number() {
    n=$1 i=0
    while [ $i -lt 8 ]; do
        printf "\\$(printf '%03o' $((n % 256)))"
        n=$((n / 256)) i=$((i + 1))
    done
}

# weights HEADER BYTES: the bad model's only file, that header and so many bytes of data.
weights() {
    { number ${#1}; printf '%s' "$1"; head -c "$2" /dev/zero; } >"$T/bad/model.safetensors"
}

rm -rf "$T/bad" && cp -r "$MODEL" "$T/bad"
bad() { # name pattern: the model in $T/bad is refused with 65
    refuses "$1" 65 "$2" align score -m "$T/bad" --data "$T/rows.jsonl" -o "$T/scores.jsonl"
    check "$1: no output" test ! -e "$T/scores.jsonl"
}
one() { # a header of one tensor with this dtype, shape and offsets
    printf '{"a":{"dtype":"%s","shape":%s,"data_offsets":%s}}' "$1" "$2" "$3"
}

# ---- T: safetensors
: >"$T/bad/model.safetensors"
bad "T01 an empty file" 'model.safetensors: .*empty'
printf '1234567' >"$T/bad/model.safetensors"
bad "T02 seven bytes" 'model.safetensors: '
number 0 >"$T/bad/model.safetensors"
bad "T03 a header of no length" 'model.safetensors: '
{ number 5000; printf '{}'; } >"$T/bad/model.safetensors"
bad "T04 a header longer than the file" '5000'
{ printf '\377\377\377\377\377\377\377\377'; printf '{}'; } >"$T/bad/model.safetensors"
bad "T05 a header of 2^64-1 bytes" '18446744073709551615'
{ number 100000001; printf '{}'; } >"$T/bad/model.safetensors"
bad "T06 a header above the limit" '100000000'
{ number 90000000; printf '{"a":{}}'; } >"$T/bad/model.safetensors"
bad "T07 a long header in a short file" '90000000'
weights "$(printf '{"\377":1}')" 0
bad "T08 a header that is no UTF-8" 'UTF-8'
weights '{' 0
bad "T09 a header cut short" 'model.safetensors'
weights '{}x' 0
bad "T09 text after the header" 'model.safetensors'
weights '[]' 0
bad "T09 a header that is an array" "expected '\{'"
weights "{\"a\":$(head -c 100000 /dev/zero | tr '\0' '[')" 0
bad "T10 nested a hundred thousand deep" 'deep|depth|levels|nest'
weights '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' 4
bad "T11 a name that stands twice" '"?a"?'
weights '{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}' 4
bad "T12 a field that stands twice" 'dtype'
weights '{"a":{"shape":[1],"data_offsets":[0,4]}}' 4
bad "T13 no dtype" 'dtype'
weights '{"a":{"dtype":"F32","data_offsets":[0,4]}}' 4
bad "T13 no shape" 'shape'
weights '{"a":{"dtype":"F32","shape":[1]}}' 4
bad "T13 no offsets" 'data_offsets'
weights "$(one F33 '[1]' '[0,4]')" 4
bad "T14 an unknown dtype" 'F33'
for shape in '[-1]' '[1.5]' '["2"]' '[null]' '[9223372036854775808,2]'; do
    weights "$(one F32 "$shape" '[0,4]')" 4
    bad "T15 shape $shape" 'shape|a'
done
weights "$(one F32 '[2,18446744073709551614]' '[0,4]')" 4
bad "T16 a product beyond 64 bits" 'a'
weights "$(one F32 '[4611686018427387904]' '[0,4]')" 4
bad "T17 bytes beyond 64 bits" 'a'
weights "$(one F32 '[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]' '[0,4]')" 4
bad "T18 thirty-three dimensions" 'dimensions|shape'
weights "$(one F32 '[1]' '[4,0]')" 4
bad "T19 offsets the wrong way round" 'a'
weights '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}' 6
bad "T20 tensors that overlap" 'b'
weights '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}' 12
bad "T21 a hole" 'b'
weights "$(one F32 '[1]' '[4,8]')" 8
bad "T22 data that begins late" 'a'
head -c 20000 "$MODEL/model.safetensors" >"$T/bad/model.safetensors"
bad "T23 a download cut short" 'short'
{ cat "$MODEL/model.safetensors"; printf 'PK'; } >"$T/bad/model.safetensors"
bad "T24 bytes after the end" 'model.safetensors'
weights "$(one F32 '[3]' '[0,8]')" 8
bad "T25 a size that is not the shape's" 'a'
sed 's/"hidden_size":32/"hidden_size":40/' "$MODEL/config.json" >"$T/bad/config.json"
cp "$MODEL/model.safetensors" "$T/bad/"
bad "T31 weights of another shape" 'expected \[.*\] by config.json, found \['
cp "$MODEL/config.json" "$T/bad/"
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n' \
    >"$T/bad/model.safetensors"
bad "S09 a Git LFS pointer" 'LFS'
cp "$MODEL/model.safetensors" "$T/bad/"

# T34: NaN in the last weight, found on request; without it the numbers are refused later.
size=$(wc -c <"$MODEL/model.safetensors")
{ head -c $((size - 4)) "$MODEL/model.safetensors"; printf '\000\000\300\177'; } \
    >"$T/bad/model.safetensors"
refuses "T34 NaN in the weights" 65 'model.safetensors: .*weight' \
    align score -m "$T/bad" --data "$T/rows.jsonl" --check-tensors
cp "$MODEL/model.safetensors" "$T/bad/"

# ---- S: shards
mv "$T/bad/model.safetensors" "$T/bad/part.safetensors"
printf '{"weight_map":{"model.norm.weight":"../../etc/passwd"}}' \
    >"$T/bad/model.safetensors.index.json"
bad "S05 a shard outside the directory" '\.\./\.\./etc/passwd'
printf '{"weight_map":{"model.norm.weight":"gone.safetensors"}}' \
    >"$T/bad/model.safetensors.index.json"
refuses "S02 a shard that is not there" 66 'gone.safetensors' align score -m "$T/bad" \
    --data "$T/rows.jsonl"
rm "$T/bad/model.safetensors.index.json"
mv "$T/bad/part.safetensors" "$T/bad/model.safetensors"

# ---- C: config.json
config() { sed "s/$1/$2/" "$MODEL/config.json" >"$T/bad/config.json"; }
config '"hidden_size":32' '"hidden_size":0'
bad "C04 a size of 0" 'hidden_size'
config '"vocab_size":258' '"vocab_size":1000000000'
bad "C04 a size of 10^9" 'vocab_size'
config '"rope_theta":10000.0' \
    '"rope_theta":10000.0,"rope_parameters":{"rope_type":"default","rope_theta":5e5}'
bad "C05 two rope_thetas" 'rope_theta'
config '"rope_theta":10000.0,' ''
gives "C06 no rope_theta: a default is used" 0 align score -m "$T/bad" --data "$T/rows.jsonl"
has "C06 and it is said" 'rope_theta.*10000' "$T/err"
config '"vocab_size":258' '"vocab_size":300'
bad "C10 a vocabulary that is not the embedding's" '300.*258'
cp "$MODEL/config.json" "$T/bad/"

# ---- K: tokenizer.json
tokenizer() { sed "s/$1/$2/" "$MODEL/tokenizer.json" >"$T/bad/tokenizer.json"; }
tokenizer '"merges":\[\]' '"merges":["a b","a zzz"]'
bad "K04 a merge of an unknown token" 'merge'
tokenizer '"normalizer":null' '"normalizer":{"type":"BertNormalizer"}'
bad "K07 an unknown normalizer" 'BertNormalizer'
tokenizer '"type":"ByteLevel","add_prefix_space":false,"use_regex":false' \
    '"type":"Split","pattern":{"Regex":"(?<=[a-q])x"},"behavior":"Isolated","invert":false'
bad "K07 an unknown regular expression" 'a group other than'
tokenizer '"<|begin|>":256' '"<|begin|>":-1'
bad "K03 a negative id" '<.begin.>'
tokenizer '"<|begin|>":256' '"<|begin|>":4294967296'
bad "K03 an id of 2^32" '<.begin.>'
tokenizer '{"id":256,"content"' '{"id":255,"content"'
bad "K09 an added token whose id is another" '25[56]'
rm "$T/bad/tokenizer.json"
model() { printf "$1" >"$T/bad/tokenizer.model"; }
model '\377\377\377\377\377\377\377\377\377\377\001'
bad "K12 a number of more than ten bytes" 'tokenizer.model: byte 0'
model '\012\005abc'
bad "K12 a length beyond the end" 'tokenizer.model: byte 2'
for wire in 3 4 6 7; do
    model "\\01${wire}abc"
    bad "K12 wire type $wire" 'tokenizer.model: byte 0: a field of unknown type'
done
model '\002\000'
bad "K12 field 0" 'tokenizer.model: byte 0: no field'
for byte in '<0x-1>' '<0xZZ>'; do
    model "\\012\\012\\012\\006$byte\\030\\006"
    bad "K15 the byte $byte" 'tokenizer.model: piece 0 .*<0x00>'
done
model '\012\011\012\005<0x1>\030\006'
bad "K15 the byte <0x1>" 'tokenizer.model: piece 0 .*<0x00>'
rm "$T/bad/tokenizer.model"
refuses "no tokenizer at all" 66 'tokenizer.json' align score -m "$T/bad" --data "$T/rows.jsonl"
cp "$MODEL/tokenizer.json" "$T/bad/"
printf '{"text":"a\\u0000b"}\n' >"$T/texts.jsonl"
gives "K26 a NUL byte in a text" 0 align tokenize -m "$MODEL" --data "$T/texts.jsonl"
printf '{"text":"a\355\240\200b"}\n' >"$T/texts.jsonl"
refuses "K26 a lone surrogate" 65 'texts.jsonl:1' align tokenize -m "$MODEL" --data "$T/texts.jsonl"
printf '{"text":"a\300\257b"}\n' >"$T/texts.jsonl"
refuses "K26 an overlong form" 65 'texts.jsonl:1' align tokenize -m "$MODEL" --data "$T/texts.jsonl"

# A vocabulary smaller than the tokenizer's: no id may reach beyond the embedding.
config '"vocab_size":258' '"vocab_size":200'
bad "K30 ids beyond the embedding" '199'
cp "$MODEL/config.json" "$T/bad/"

# ---- J: rows
dpo() { align dpo -m "$MODEL" --data "$T/j.jsonl" -o "$T/run" --steps 1 "$@"; }
kto() { align kto -m "$MODEL" --data "$T/j.jsonl" -o "$T/run" --steps 1 "$@"; }
good='{"prompt":"ab","chosen":"cd","rejected":"ef"}'
no_run() { check "$1: no run" test ! -e "$T/run/adapter"; rm -rf "$T/run"; }
{ echo "$good"; printf '{"prompt":"\377","chosen":"c","rejected":"d"}\n'; } >"$T/j.jsonl"
refuses "J04 a line that is no UTF-8" 65 'j.jsonl:2' dpo
no_run J04
{ echo "$good"; echo '{"prompt":[{"role":"user","content":"a"}],"chosen":[{"role":"assistant","content":"b"}],"rejected":[{"role":"assistant","content":"c"}]}'; } >"$T/j.jsonl"
refuses "J06 rows of two shapes" 65 'j.jsonl:2.*line 1|j.jsonl:2.*:1' dpo
no_run J06
{ echo "$good"; echo '{"prompt":"a","chosen":"b"}'; } >"$T/j.jsonl"
refuses "J07 no rejected" 65 'j.jsonl:2.*rejected' dpo
no_run J07
{ echo '{"prompt":"a","completion":"b","label":true}'
  echo '{"prompt":"b","completion":"b","label":"yes"}'; } >"$T/j.jsonl"
refuses "J08 a label that is text" 65 'j.jsonl:2.*label' kto
no_run J08
{ echo "$good"; echo '{"prompt":"a","chosen":"","rejected":"x"}'; } >"$T/j.jsonl"
gives "J10 an empty completion" 0 dpo --max-length 0
rm -rf "$T/run"
echo "$good" >"$T/j.jsonl"
refuses "J12 all rows dropped" 65 'j.jsonl' dpo --max-length 2
no_run J12
{ echo '{"prompt":"a","completion":"b","label":true}'
  echo '{"prompt":"c","completion":"d","label":true}'; } >"$T/j.jsonl"
gives "J21 one class only" 0 kto --batch 2
has "J21 and it is said" 'desirable' "$T/err"
rm -rf "$T/run"
refuses "J22 KTO in batches of one" 64 '--batch' kto --batch 1
no_run J22
echo '{"prompt":"e","completion":"f","label":false}' >>"$T/j.jsonl"
gives "J23 a last row alone has a partner" 0 kto --batch 2
rm -rf "$T/run"

# ---- O: options
echo "$good" >"$T/j.jsonl"
refuses "O01 an unknown option" 64 '--betta.*beta' dpo --betta 1
for wrong in '--lr abc' '--lr nan' '--lr -1' '--beta 0' '--rank 0' '--rank 100000' '--threads 0' \
    '--batch 0' '--loss sigmoidal' '--schedule step' '--seed 18446744073709551616'; do
    # shellcheck disable=SC2086
    refuses "O02 $wrong" 64 "${wrong%% *}" dpo $wrong
    no_run "O02 $wrong"
done
refuses "O02 a value missing" 64 '--lr' align dpo -m "$MODEL" --data "$T/j.jsonl" -o "$T/run" --lr
: >"$T/file"
refuses "O09 a run inside a file" 73 "$T/file" align dpo -m "$MODEL" --data "$T/j.jsonl" \
    -o "$T/file/run" --steps 1
refuses "O09 a run under no folder" 73 "nowhere" align dpo -m "$MODEL" --data "$T/j.jsonl" \
    -o "$T/nowhere/run" --steps 1

# ---- P, N: checkpoints, adapters, numbers
gives "P12 a run to break" 0 align dpo -m "$MODEL" --data "$T/j.jsonl" -o "$T/run" --steps 3 \
    --save-every 1 --keep 2 --lr 1e-3
refuses "P14 resumed with another rank" 65 'rank' align dpo -m "$MODEL" --data "$T/j.jsonl" \
    -o "$T/run" --steps 3 --save-every 1 --keep 2 --lr 1e-3 --rank 2 --resume
refuses "O08 a run that exists" 73 'run' align dpo -m "$MODEL" --data "$T/j.jsonl" -o "$T/run" \
    --steps 3
cp -r "$T/run" "$T/whole"
rm -rf "$T/run/adapter"
newest=$(ls "$T/run/checkpoints" | tail -n 1)
adapter="$T/run/checkpoints/$newest/adapter_model.safetensors"
[ -f "$adapter" ] || adapter=$(find "$T/run/checkpoints/$newest" -name '*.safetensors' | head -n 1)
size=$(wc -c <"$adapter")
{ head -c $((size - 1)) "$adapter"; printf 'x'; } >"$T/flipped" && cp "$T/flipped" "$adapter"
gives "P10 a byte of the newest checkpoint changed" 0 align dpo -m "$MODEL" --data "$T/j.jsonl" \
    -o "$T/run" --steps 3 --save-every 1 --keep 2 --lr 1e-3 --resume
has "P10 the file is named" "$newest" "$T/err"
same "P10 the same adapter in the end" "$T/whole/adapter/adapter_model.safetensors" \
    "$T/run/adapter/adapter_model.safetensors"
rm -rf "$T/run" && cp -r "$T/whole" "$T/run" && rm -rf "$T/run/adapter"
rm "$T/run/checkpoints/$newest/manifest.json"
gives "P11 a checkpoint without its manifest" 0 align dpo -m "$MODEL" --data "$T/j.jsonl" \
    -o "$T/run" --steps 3 --save-every 1 --keep 2 --lr 1e-3 --resume
same "P11 the same adapter in the end" "$T/whole/adapter/adapter_model.safetensors" \
    "$T/run/adapter/adapter_model.safetensors"
rm -rf "$T/run" && cp -r "$T/whole" "$T/run" && rm -rf "$T/run/adapter"
for c in "$T"/run/checkpoints/*; do rm "$c/manifest.json"; done
refuses "P12 no valid checkpoint: no silent restart" 65 'checkpoint' align dpo -m "$MODEL" \
    --data "$T/j.jsonl" -o "$T/run" --steps 3 --save-every 1 --keep 2 --lr 1e-3 --resume
adapter="$T/whole/adapter/adapter_model.safetensors"
cp -r "$T/whole/adapter" "$T/nan"
size=$(wc -c <"$adapter")
{ head -c $((size - 4)) "$adapter"; printf '\000\000\300\177'; } >"$T/nan/adapter_model.safetensors"
refuses "P21 NaN in an adapter" 65 'lora_' align score -m "$MODEL" --adapter "$T/nan" \
    --data "$T/rows.jsonl"
refuses "P22 merged onto itself" 64 'model' align merge -m "$MODEL" --adapter "$T/whole/adapter" \
    -o "$MODEL"
gives "P22 the good twin" 0 align merge -m "$MODEL" --adapter "$T/whole/adapter" -o "$T/merged"
rm -rf "$T/run"
size=$(wc -c <"$MODEL/model.safetensors")
{ head -c $((size - 4)) "$MODEL/model.safetensors"; printf '\000\000\300\177'; } \
    >"$T/bad/model.safetensors"
align dpo -m "$T/bad" --data "$T/j.jsonl" -o "$T/run" --steps 4 >"$T/out" 2>"$T/err"
status=$?
check "N01 NaN never becomes an adapter (exit $status)" test $status -eq 65 -o $status -eq 76
check "N01 no adapter" test ! -e "$T/run/adapter"

# N11: the same bits for any number of threads.
for t in 1 2 3 7; do
    rm -rf "$T/run"
    gives "N11 $t threads" 0 align dpo -m "$MODEL" --data "$T/j.jsonl" -o "$T/run" --steps 3 \
        --lr 1e-3 --threads $t
    same "N11 $t threads" "$T/whole/adapter/adapter_model.safetensors" \
        "$T/run/adapter/adapter_model.safetensors"
done
finish
