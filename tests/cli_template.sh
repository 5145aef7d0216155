#!/bin/sh
# Chat templates that do not belong to a model or an adapter: every command that takes one says so.
. "$(dirname "$0")/lib.sh"

# Conversations for every kind of rows.
talk() { printf '[{"role":"user","content":"%s"}]' "$1"; }
answer() { printf '[{"role":"assistant","content":"%s"}]' "$1"; }
label=true
for i in 1 2 3 4; do
    echo "{\"prompt\":$(talk "q $i"),\"completion\":$(answer "a $i"),\"label\":$label}"
    [ $label = true ] && label=false || label=true
done >"$T/rows.jsonl"
for i in 1 2 3 4; do
    echo "{\"prompt\":$(talk "q $i"),\"chosen\":$(answer "a $i"),\"rejected\":$(answer "b $i")}"
done >"$T/pairs.jsonl"
echo "{\"prompt\":$(talk Hello)}" >"$T/prompts.jsonl"
echo '{"prompt":"Hello","response":"No"}' >"$T/answers.jsonl"
prompts 16 yes >"$T/loop.jsonl"

# The judge prompt is longer than the tiny model's context.
cp -r "$MODEL" "$T/wide"
sed 's/"max_position_embeddings":256/"max_position_embeddings":2048/' "$MODEL/config.json" \
    >"$T/wide/config.json"

# once NAME COUNT: that many warnings are about control tokens, and they say all there is to say.
once() {
    n=$(grep -c 'warning: chat template chatml: the tokenizer has no tokens for <|im_start|> (12 pieces), <|im_end|> (10 pieces).*fits: zephyr, mistral-v0.1' "$T/err")
    if [ "$n" -eq "$2" ]; then pass; else fail "$1: $n warnings, expected $2" "$T/err"; fi
}

# ---- control tokens that the tokenizer lacks
# said WORDS...: "align WORDS" with a template that lacks tokens, and with one that spells its marks
# in letters in every published model.
made=0
said() {
    made=$((made + 1))
    case $1 in sft | dpo | kto | score) set -- "$@" -o "$T/made$made" ;; esac
    gives "$*" 0 align "$@" --chat-template chatml
    once "$*" 1
    rm -rf "$T/made$made"
    gives "zephyr: $*" 0 align "$@" --chat-template zephyr
    check "zephyr: $*" sh -c "! grep -q 'warning: .*chat template' $T/err"
}
short="--steps 1 --batch 2 --rank 2 --alpha 4"
# shellcheck disable=SC2086
{
    said sft -m "$MODEL" --data "$T/rows.jsonl" --eval "$T/rows.jsonl" $short
    said dpo -m "$MODEL" --data "$T/pairs.jsonl" --eval "$T/pairs.jsonl" $short
    said kto -m "$MODEL" --data "$T/rows.jsonl" $short
}
said score -m "$MODEL" --data "$T/rows.jsonl"
said explain -m "$MODEL" --data "$T/pairs.jsonl" --row 0 --method dpo
said generate -m "$MODEL" --data "$T/prompts.jsonl" -n 2
said generate -m "$MODEL" -p Hello -n 2
said chat -m "$MODEL" -n 2
said judge -m "$T/wide" --judge model --data "$T/answers.jsonl" -o "$T/judged.jsonl"
said cycle -m "$MODEL" --data "$T/loop.jsonl" --cycles 1 --max-tokens 2 --dry-run -o "$T/planned"

# ---- text without a template has no place for what a template says
refuses "--raw --system" 64 '--raw takes no --chat-template and no --system' \
    align generate -m "$MODEL" -p a --raw --system "Be brief."
refuses "--raw --chat-template" 64 '--raw takes no' align chat -m "$MODEL" --raw \
    --chat-template zephyr
for command in "generate -p a" "generate --data $T/prompts.jsonl -o $T/none.jsonl" chat; do
    # shellcheck disable=SC2086
    refuses "--system: $command" 64 '--system: .*has no chat template.*--chat-template' \
        align $command -m "$MODEL" --system "Be brief."
done
check "nothing is left of a refusal" test ! -e "$T/none.jsonl"
gives "--system with a template" 0 align generate -m "$MODEL" -p a -n 2 --system "Be brief." \
    --chat-template zephyr

# ---- plain rows for a model that was taught conversations
cp -r "$MODEL" "$T/chatty"
sed 's/}$/,"chat_template":"{{ messages }}"}/' "$MODEL/tokenizer_config.json" \
    >"$T/chatty/tokenizer_config.json"
echo '{"prompt":"a","completion":"b"}' >"$T/plain.jsonl"
for model in chatty model; do
    # shellcheck disable=SC2086
    for command in score "sft --dry-run $short"; do
        gives "plain rows: $model, $command" 0 align $command -m "$T/$model" --data "$T/plain.jsonl"
        n=$(grep -c 'warning: the rows are plain text, which .*template (SHA-256' "$T/err")
        [ "$n" -eq "$([ $model = chatty ] && echo 1 || echo 0)" ] && pass ||
            fail "plain rows: $model, $command: said $n times" "$T/err"
    done
done
gives "rows that spell their own turns" 0 align score -m "$T/chatty" --data "$T/plain.jsonl" \
    --parse-special
check "rows that spell their own turns" sh -c "! grep -q 'plain text' $T/err"
refuses "--raw and a conversation" 65 'is a conversation, and raw prompts are plain .*--raw' \
    align generate -m "$MODEL" --raw --data "$T/prompts.jsonl" -o "$T/none.jsonl"

# ---- an adapter that was trained with another template
# shellcheck disable=SC2086
gives "with a template" 0 align sft -m "$MODEL" --data "$T/rows.jsonl" --chat-template zephyr \
    -o "$T/zephyr" $short
has "the run says with which" '"chat-template": "zephyr"' "$T/zephyr/inputs.json"
# shellcheck disable=SC2086
gives "plain text" 0 align sft -m "$MODEL" --data "$T/plain.jsonl" -o "$T/plain" $short
check "plain text has none" sh -c "! grep -q chat-template $T/plain/inputs.json"

# trained ADAPTER WORDS...: "align WORDS" with another template says it once, with that one not.
trained() {
    adapter=$1
    shift
    gives "another template: $*" 0 align "$@" --chat-template mistral-v0.2
    n=$(grep -c "warning: adapter $adapter was trained with chat template zephyr (.*inputs.json); here its texts are put by chat template mistral-v0.2" "$T/err")
    if [ "$n" -eq 1 ]; then pass; else fail "another template: $* ($n times)" "$T/err"; fi
    gives "its own template: $*" 0 align "$@" --chat-template zephyr
    check "its own template: $*" sh -c "! grep -q 'warning: adapter' $T/err"
}
a=$T/zephyr/adapter
trained "$a" generate -m "$MODEL" -p a -n 2 --adapter "$a"
trained "$a" generate -m "$MODEL" --data "$T/prompts.jsonl" -n 2 --adapter "$a"
trained "$a" chat -m "$MODEL" --adapter "$a"
trained "$a" score -m "$MODEL" --data "$T/rows.jsonl" --adapter "$a"
trained "$a" explain -m "$MODEL" --data "$T/pairs.jsonl" --row 0 --method dpo --adapter "$a"
# shellcheck disable=SC2086
{
    trained "$a" dpo -m "$MODEL" --data "$T/pairs.jsonl" $short --dry-run --init-adapter "$a"
    trained "$a" dpo -m "$MODEL" --data "$T/pairs.jsonl" $short --dry-run --reference "$a"
}
trained "$a" judge -m "$T/wide" --judge model --data "$T/answers.jsonl" -o "$T/judged.jsonl" \
    --adapter "$a"
trained "$a" cycle -m "$MODEL" --data "$T/loop.jsonl" --cycles 1 --max-tokens 2 --dry-run \
    -o "$T/planned" --adapter "$a"
gives "plain text now" 0 align generate -m "$MODEL" -p a -n 2 --adapter "$T/zephyr/adapter"
has "plain text now" 'trained with chat template zephyr .*here its texts are plain' "$T/err"
gives "plain text then" 0 align generate -m "$MODEL" -p a -n 2 --adapter "$T/plain/adapter" \
    --chat-template zephyr
has "plain text then" 'trained on plain text .*put by chat template zephyr .--raw' "$T/err"
gives "plain text both times" 0 align generate -m "$MODEL" -p a -n 2 --adapter "$T/plain/adapter"
check "plain text both times" sh -c "! grep -q 'warning: adapter' $T/err"

# A checkpoint's run, a record of 0.1.0, which has the option only, and other trainers' files.
step=$(echo "$T"/zephyr/checkpoints/step-*)
gives "a checkpoint" 0 align generate -m "$MODEL" -p a -n 2 --adapter "$step"
has "a checkpoint" 'trained with chat template zephyr' "$T/err"
cp -r "$T/zephyr" "$T/older"
sed '/chat-template/d' "$T/zephyr/inputs.json" >"$T/older/inputs.json"
gives "an older record" 0 align generate -m "$MODEL" -p a -n 2 --adapter "$T/older/adapter"
has "an older record" 'trained with chat template zephyr .*older/.*config.json' "$T/err"
cp -r "$T/zephyr/adapter" "$T/alone"
gives "no record" 0 align generate -m "$MODEL" -p a -n 2 --adapter "$T/alone"
check "no record" sh -c "! grep -q 'warning: adapter' $T/err"
echo '{{ messages }}' >"$T/alone/chat_template.jinja"
gives "a template beside it" 0 align generate -m "$MODEL" -p a -n 2 --adapter "$T/alone" \
    --chat-template zephyr
has "a template beside it" 'chat template SHA-256 [0-9a-f]*... .*jinja.*put by chat template zephyr' \
    "$T/err"

# The model that is made keeps the base's own template.
gives "merge" 0 align merge -m "$MODEL" --adapter "$T/zephyr/adapter" -o "$T/merged"
has "merge" 'trained with chat template zephyr .*the chat template of .*merged is the base model.s own: none' \
    "$T/err"
gives "merge plain" 0 align merge -m "$MODEL" --adapter "$T/plain/adapter" -o "$T/merged-plain"
check "merge plain" sh -c "! grep -q 'warning: adapter' $T/err"

# A run that 0.1.0 began, whose inputs.json names no template, goes on.
begun() {
    align sft -m "$MODEL" --data "$T/rows.jsonl" --chat-template zephyr -o "$T/on" --steps 40 \
        --save-every 1 --batch 2 --rank 2 --lr 1e-3 "$@"
}
gives "a run" 0 begun
cp "$T/on/adapter/adapter_model.safetensors" "$T/whole.safetensors"
mv "$T/on/inputs.json" "$T/now.json"
sed '/chat-template/d' "$T/now.json" >"$T/on/inputs.json"
check "a record of 0.1.0 lacks one line" sh -c "! cmp -s $T/now.json $T/on/inputs.json"
was=$(sha256sum "$T/on/inputs.json" | cut -c 1-64)
now=$(sha256sum "$T/now.json" | cut -c 1-64)
rm -r "$T/on/adapter" "$T/on/checkpoints/step-00000040"
for manifest in "$T"/on/checkpoints/*/manifest.json; do
    sed "s/$now/$was/" "$manifest" >"$T/manifest" && cp "$T/manifest" "$manifest"
done
gives "it goes on" 0 begun --resume
has "it goes on" 'on/adapter  40 steps' "$T/out"
same "to the same end" "$T/whole.safetensors" "$T/on/adapter/adapter_model.safetensors"

# A template that writes the day: a run that goes on keeps the day on which it began.
mkdir "$T/dated"
for file in "$MODEL"/*; do ln -s "$file" "$T/dated/"; done
cat >"$T/dated/chat_template.jinja" <<'END'
{{ strftime_now('%d %B %Y') }}{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}
{%- if add_generation_prompt %}assistant:{% endif %}
END
begun() {
    align sft -m "$T/dated" --data "$T/rows.jsonl" -o "$T/day" --steps 4 --save-every 1 --batch 2 \
        --rank 2 --lr 1e-3 "$@"
}
gives "a day" 0 begun --date 2001-02-03
has "a day is told" 'the chat template writes the day, 2001-02-03 .--date.' "$T/err"
has "a day is recorded" '"date": "2001-02-03"' "$T/day/inputs.json"
has "a day that was asked for" '"date": "2001-02-03"' "$T/day/config.json"
cp "$T/day/adapter/adapter_model.safetensors" "$T/whole.safetensors"
rm -r "$T/day/adapter" "$T/day/checkpoints/step-00000004"
was=$(sha256sum "$T/day/config.json" | cut -c 1-64)
sed '/"date"/d' "$T/day/config.json" >"$T/config" && cp "$T/config" "$T/day/config.json"
now=$(sha256sum "$T/day/config.json" | cut -c 1-64)
for manifest in "$T"/day/checkpoints/*/manifest.json; do
    sed "s/$was/$now/" "$manifest" >"$T/manifest" && cp "$T/manifest" "$manifest"
done
gives "it goes on, another day" 0 begun --resume
same "to the same end on its day" "$T/whole.safetensors" "$T/day/adapter/adapter_model.safetensors"
refuses "no day" 64 'date 2001-02-30: expected a day as YYYY-MM-DD' \
    align generate -m "$T/dated" -p a --date 2001-02-30

# One of several templates, and a file.
mkdir "$T/several" "$T/several/additional_chat_templates"
for file in "$MODEL"/*; do ln -s "$file" "$T/several/"; done
printf '{{ messages[0].content }}.' >"$T/several/additional_chat_templates/plain.jinja"
refuses "none is the default" 65 'several chat templates and none named "default".*NAME: plain' \
    align generate -m "$T/several" -p a
printf '{"messages":[{"role":"user","content":"ab"}]}\n' >"$T/said.jsonl"
gives "one by name" 0 align tokenize -m "$T/several" --data "$T/said.jsonl" --chat-template plain
has "one by name" '"text":"ab."' "$T/out"
gives "one of a file" 0 align tokenize -m "$MODEL" --data "$T/said.jsonl" \
    --chat-template "$T/several/additional_chat_templates/plain.jinja"
has "one of a file" '"text":"ab."' "$T/out"
gives "merge, several" 0 align merge -m "$T/several" --adapter "$T/plain/adapter" \
    -o "$T/merged-several"
same "all templates are copied" "$T/several/additional_chat_templates/plain.jinja" \
    "$T/merged-several/additional_chat_templates/plain.jinja"
finish
