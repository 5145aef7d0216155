#!/bin/sh
# align tokenize and align score on the tiny model.
. "$(dirname "$0")/lib.sh"

# ---- tokenize
gives "pieces of a text" 0 align tokenize -m "$MODEL" -p "a b"
has "special token shown" '^ *256  "<\|begin\|>"  special$' "$T/out"
lines "one line a piece" 4 "$T/out"
printf '{"text":"ab"}\n\n{"text":"","other":1}\n{"text":"<|end|>"}\n' >"$T/texts.jsonl"
gives "a file of texts" 0 align tokenize -m "$MODEL" --data "$T/texts.jsonl" -o "$T/ids.jsonl"
cat >"$T/want" <<'END'
{"index":0,"ids":[256,97,98]}
{"index":1,"ids":[256]}
{"index":2,"ids":[256,60,124,101,110,100,124,62]}
END
same "a file of texts" "$T/want" "$T/ids.jsonl"
gives "special spellings" 0 align tokenize -m "$MODEL" --data "$T/texts.jsonl" --parse-special \
    --no-special
has "special spellings" '^\{"index":2,"ids":\[257\]\}$' "$T/out"
has "--no-special" '^\{"index":0,"ids":\[97,98\]\}$' "$T/out"
gives "standard input" 0 sh -c "$ALIGN tokenize -m $MODEL --data - <$T/texts.jsonl"
same "standard input" "$T/want" "$T/out"
refuses "neither text nor file" 64 "--prompt TEXT or --data FILE" align tokenize -m "$MODEL"
refuses "no tokenizer" 66 "tokenizer.json" align tokenize -m "$T" -p a
printf '{"text":"a"}\n{"text":7}\n' >"$T/bad.jsonl"
cp "$T/ids.jsonl" "$T/old.jsonl"
refuses "a row that is no text" 65 'bad.jsonl:2: "text"' \
    align tokenize -m "$MODEL" --data "$T/bad.jsonl" -o "$T/ids.jsonl"
same "the old file stays" "$T/old.jsonl" "$T/ids.jsonl"
refuses "an output that cannot be made" 73 "nowhere/ids" \
    align tokenize -m "$MODEL" --data "$T/texts.jsonl" -o "$T/nowhere/ids.jsonl"

# ---- conversations, by a template of the model's own that no table knows
cp -r "$MODEL" "$T/talks"
cat >"$T/talks/chat_template.jinja" <<'END'
{%- for m in messages %}
{{- '<|begin|>' + m.role + ':' + m['content'] | trim }}{{ m.reasoning_content | default('') }}
{%- endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}{{ '<|end|>' + mood | default('') }}{% endif %}
{%- if day %}{{ strftime_now('%d %B %Y') }}{% endif %}
{%- if messages[0].role == 'none' %}{{ raise_exception('nobody speaks') }}{% endif %}
END
cat >"$T/talks.jsonl" <<'END'
{"messages":[{"role":"user","content":" a<|end|> "}]}
{"prompt":[{"role":"u","content":"","thinking":"b"}],"tools":[1.0],"add_generation_prompt":false}
{"messages":[{"role":"x","content":""}],"chat_template_kwargs":{"mood":"c","day":true}}
{"text":"ab"}
END
cat >"$T/want" <<'END'
{"index":0,"text":"<|begin|>user:a<|end|><|end|>","ids":[256,117,115,101,114,58,97,60,124,101,110,100,124,62,257]}
{"index":1,"text":"<|begin|>u:b[1.0]","ids":[256,117,58,98,91,49,46,48,93]}
{"index":2,"text":"<|begin|>x:<|end|>c29 February 2024","ids":[256,120,58,257,99,50,57,32,70,101,98,114,117,97,114,121,32,50,48,50,52]}
{"index":3,"ids":[256,97,98]}
END
gives "conversations" 0 align tokenize -m "$T/talks" --data "$T/talks.jsonl" --date 2024-02-29
same "conversations" "$T/want" "$T/out"
printf '{"messages":[{"role":"none","content":""}]}\n' >"$T/bad.jsonl"
refuses "a template that refuses" 65 \
    'bad.jsonl:1: chat template:7: the template refuses: nobody speaks' \
    align tokenize -m "$T/talks" --data "$T/bad.jsonl"
refuses "a day that does not exist" 64 '--date 2023-02-29: expected a day' \
    align tokenize -m "$T/talks" --data "$T/talks.jsonl" --date 2023-02-29
printf '{"messages":[{"role":"x","content":""}],"chat_template_kwargs":{"tools":1}}\n' >"$T/bad.jsonl"
refuses "a variable in the wrong place" 65 'bad.jsonl:1: "chat_template_kwargs" has "tools"' \
    align tokenize -m "$T/talks" --data "$T/bad.jsonl"

# ---- score
cat >"$T/rows.jsonl" <<'END'
{"prompt":"ab","completion":"cde"}
{"prompt":"ab","completion":"x"}
{"prompt":"","completion":"abc"}
{"prompt":"abc","completion":""}
END
gives "score" 0 align score -m "$MODEL" --data "$T/rows.jsonl" -o "$T/scores.jsonl"
lines "a line for each row" 4 "$T/scores.jsonl"
has "counts" '^\{"index":0,"prompt_tokens":3,"completion_tokens":3,"logp":-[0-9.]*\}$' \
    "$T/scores.jsonl"
has "an empty prompt leaves BOS" '^\{"index":2,"prompt_tokens":1,"completion_tokens":3,' \
    "$T/scores.jsonl"
has "an empty completion scores 0" '"index":3,"prompt_tokens":4,"completion_tokens":0,"logp":0}' \
    "$T/scores.jsonl"
gives "--tokens" 0 align score -m "$MODEL" --data "$T/rows.jsonl" --tokens
has "--tokens" '"token_ids":\[99,100,101\],"token_logps":\[-[0-9.]*,-[0-9.]*,-[0-9.]*\]\}$' "$T/out"
gives "--eos" 0 align score -m "$MODEL" --data "$T/rows.jsonl" --tokens --eos
has "--eos" '"completion_tokens":4,.*"token_ids":\[99,100,101,257\]' "$T/out"

# What is read otherwise than TRL reads it is counted aloud.
printf '{"prompt":"a","completion":"b","margin":1}\n{"prompt":"<|begin|>a","completion":"b"}\n' \
    >"$T/told.jsonl"
gives "rows that spell control tokens" 0 align score -m "$MODEL" --data "$T/told.jsonl"
has "they are counted" 'told.jsonl: 1 rows spell control tokens.*first: line 2.*--parse-special' \
    "$T/err"
has "columns that nobody reads" 'told.jsonl: not read, as in TRL: "margin" .1 rows, first: line 1' \
    "$T/err"
gives "--parse-special" 0 align score -m "$MODEL" --data "$T/told.jsonl" --parse-special
has "a start token twice" 'told.jsonl: 1 rows begin with the start token twice' "$T/err"

# Every row alone, in any number of threads, by either way of reading, gives the same bits.
head -n 1 "$T/rows.jsonl" >"$T/one.jsonl"
gives "one row" 0 align score -m "$MODEL" --data "$T/one.jsonl" -o "$T/one.scores"
head -n 1 "$T/scores.jsonl" >"$T/first"
same "alone or in company" "$T/first" "$T/one.scores"
for t in 1 2 3 7; do
    gives "$t threads" 0 align score -m "$MODEL" --data "$T/rows.jsonl" --threads $t \
        -o "$T/t.scores"
    same "$t threads" "$T/scores.jsonl" "$T/t.scores"
done
for k in ref auto; do
    gives "kernel $k" 0 align score -m "$MODEL" --data "$T/rows.jsonl" --kernel $k -o "$T/t.scores"
    same "kernel $k" "$T/scores.jsonl" "$T/t.scores"
done
gives "--no-mmap" 0 align score -m "$MODEL" --data "$T/rows.jsonl" --no-mmap --check-tensors \
    -o "$T/t.scores"
same "--no-mmap" "$T/scores.jsonl" "$T/t.scores"

# Without BOS the first token of an empty prompt has nothing before it.
sed 's/"post_processor":.*"decoder"/"post_processor":null,"decoder"/' "$MODEL/tokenizer.json" \
    >"$T/tokenizer.json"
cp -r "$MODEL" "$T/plain"
cp "$T/tokenizer.json" "$T/plain/tokenizer.json"
gives "no BOS" 0 align score -m "$T/plain" --data "$T/rows.jsonl" --tokens
has "null for a token with nothing before it" \
    '"index":2,"prompt_tokens":0,"completion_tokens":3,.*"token_logps":\[null,-[0-9.]*,-[0-9.]*\]' \
    "$T/out"

# Faults.
refuses "a row without a completion" 65 'bad.jsonl:1: .*"completion"' \
    sh -c "echo '{\"prompt\":\"a\"}' >$T/bad.jsonl; $ALIGN score -m $MODEL --data $T/bad.jsonl"
refuses "missing data" 66 "none.jsonl" align score -m "$MODEL" --data "$T/none.jsonl"
refuses "missing model" 66 "nowhere" align score -m "$T/nowhere" --data "$T/rows.jsonl"
cp -r "$MODEL" "$T/short"
head -c 100000 "$MODEL/model.safetensors" >"$T/short/model.safetensors"
refuses "a truncated model" 65 "model.safetensors: .*short" \
    align score -m "$T/short" --data "$T/rows.jsonl"
OTHER=neon
$ALIGN inspect --cpu | grep -q '^kernels .*neon' && OTHER=avx2
refuses "kernels of another machine" 64 "--kernel|kernel" \
    align score -m "$MODEL" --data "$T/rows.jsonl" --kernel "$OTHER"

# Whatever reads with a model says that its tokenizer has more ids.
cp -r "$MODEL" "$T/wide"
sed 's/"added_tokens":\[/&{"id":258,"content":"<|more|>","special":true},/' \
    "$MODEL/tokenizer.json" >"$T/wide/tokenizer.json"
printf '{"prompt":"a","response":"b"}\n' >"$T/asked.jsonl"
says_wide() { # EXIT COMMAND...
    code=$1
    shift
    gives "a wide tokenizer: $2" "$code" "$@" --threads 1
    has "a wide tokenizer: $2" "warning: .*/wide: the tokenizer has 259 ids, the model 258" "$T/err"
}
says_wide 0 align score -m "$T/wide" --data "$T/rows.jsonl"
says_wide 0 align generate -m "$T/wide" -p a -n 2 --temperature 0
# (The prompt of a judge is too long for the tiny model, but what was opened was said.)
says_wide 65 align judge --judge model -m "$T/wide" --data "$T/asked.jsonl" -o "$T/judged.jsonl"
says_wide 0 align sft -m "$T/wide" --data "$T/rows.jsonl" --steps 1 --batch 1 -o "$T/sft"

finish
