#!/bin/sh
# align inspect: each kind of thing is recognised, in both forms; hashes are those of sha256sum.
. "$(dirname "$0")/lib.sh"

gives "model" 0 align inspect "$MODEL"
has "model" '^kind +model$' "$T/out"
has "model: parameters" '^parameters +32032$' "$T/out"
if command -v sha256sum >/dev/null; then
    hash=$(sha256sum <"$MODEL/model.safetensors" | cut -d ' ' -f 1)
    has "model: hash of the weights" "$hash +130216 +model.safetensors" "$T/out"
fi
has "model: what ends an answer" '^stops +257 <\|end\|>$' "$T/out"
# What the template writes behind an answer ends it as well: ChatML's end, which is no token here.
mkdir "$T/turns" && cp "$MODEL"/* "$T/turns"
cat >"$T/turns/chat_template.jinja" <<'END'
{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
END
gives "model with a template" 0 align inspect "$T/turns"
has "model: what ends a turn" '^stops +257 <\|end\|>, the text <\|im_end\|>$' "$T/out"
gives "model as JSON" 0 align inspect "$MODEL" --json
has "model as JSON" '^\{"kind":"model",.*"tied embeddings":false,.*"files":\[\{"name":"config' \
    "$T/out"
gives "adapter" 0 align inspect tests/golden/llama/adapter
has "adapter" '^r +3$' "$T/out"
gives "adapter as JSON" 0 align inspect tests/golden/llama/adapter --json
has "adapter as JSON" '"lora_alpha":6,.*"parameters":1680' "$T/out"
gives "safetensors" 0 align inspect "$MODEL/model.safetensors"
has "safetensors" '^  F32 +\[258,32\] +lm_head.weight$' "$T/out"
printf '{"prompt":"a","chosen":"b","rejected":"c"}\n{"prompt":"a","chosen":"b","rejected":null}\n' \
    >"$T/pairs.jsonl"
gives "data set" 0 align inspect "$T/pairs.jsonl"
has "data set" '^good for +preference pairs' "$T/out"
has "columns and what they hold" '^  rejected +null 1, strings 1$' "$T/out"
gives "data set as JSON" 0 align inspect "$T/pairs.jsonl" --json
has "data set as JSON" '"columns":\[\{"name":"prompt","rows":2,"types":"strings 2"\}' "$T/out"
printf '{"\\u001b[2J\\nsha256 0000":1,"\\u009b":2}\n' >"$T/escapes.jsonl"
gives "names that would drive a terminal" 0 align inspect "$T/escapes.jsonl"
check "names that would drive a terminal" \
    sh -c "! LC_ALL=C grep -q \"\$(printf '\033\\|\302\233')\|^sha256 0000\" '$T/out'"
printf '{"prompt":"a","chosen":"b","rejected":"c"}\n{"prompt":"a","chosen":"b","rejected":"d"}\n' \
    >"$T/train.jsonl"
gives "a run to look at" 0 align dpo -m "$MODEL" --data "$T/train.jsonl" -o "$T/run" --steps 3 -q
gives "run" 0 align inspect "$T/run"
has "run" '^finished +yes$' "$T/out"
has "run: its last step" '^step +3$' "$T/out"
has "run: its checkpoint" '^newest checkpoint +step-00000003$' "$T/out"
gives "run as JSON" 0 align inspect "$T/run" --json
has "run as JSON" '^\{"kind":"training run","finished":true,"locked":false,"method":"dpo"' "$T/out"
gives "machine" 0 align inspect --cpu
has "machine" '^kernels .*ref' "$T/out"

refuses "nothing to inspect" 64 "PATH or --cpu" align inspect
refuses "not there" 66 "none" align inspect "$T/none"
mkdir "$T/empty"
refuses "unknown directory" 65 "empty: nothing known" align inspect "$T/empty"
printf 'x' >"$T/bad.safetensors"
refuses "damaged safetensors" 65 "bad.safetensors" align inspect "$T/bad.safetensors"
printf '{"a":1}\n{' >"$T/bad.jsonl"
refuses "damaged rows" 65 "bad.jsonl:2" align inspect "$T/bad.jsonl"

# A name as long as its column is followed by a space, all the same.
mkdir "$T/names"
sed 's/"base_model_name_or_path":[^,]*/"base_model_name_or_path":"somewhere"/' \
    "$T/run/adapter/adapter_config.json" >"$T/names/adapter_config.json"
cp "$T/run/adapter/adapter_model.safetensors" "$T/names/"
gives "a long name" 0 align inspect "$T/names"
has "a long name" '^base_model_name_or_path somewhere$' "$T/out"
echo '{"a_column_of_a_very_long_name":1}' >"$T/long.jsonl"
gives "a long column" 0 align inspect "$T/long.jsonl"
has "a long column" 'a_column_of_a_very_long_name numbers' "$T/out"
finish
