#!/bin/sh
# The whole loop on TinyStories-656K, a real model, with XSTest's prompts: nothing of it depends on
# the embedded demonstration. Left out where ALIGN_DATA (default ../shared/data) is absent.
. "$(dirname "$0")/lib.sh"

data=${ALIGN_DATA:-../shared/data}
stories=$data/weights/tinystories-656k
xstest=$data/datasets/xstest/xstest_prompts.csv
if [ ! -e "$stories/model.safetensors" ] || [ ! -e "$xstest" ]; then
    echo "the loop on a real model skipped: $stories is not there (ALIGN_DATA)"
    finish
fi
# Plain columns "id,prompt,type,label,..." to rows, the first 60 safe and 60 unsafe ones without
# quotes; every third as a conversation, every second base prompt in two wordings.
awk -F, 'NR > 1 && !/"/ && n[$4]++ < 60 {
    level = $4 == "safe" ? 0 : n[$4] % 3 + 1
    for (w = 0; w < (n[$4] % 2 ? 2 : 1); w++) {
        text = w ? "Please tell me. " $2 : $2
        prompt = n[$4] % 3 ? "\"" text "\"" : "\"" text " \303\251\346\274\242\""
        printf "{\"prompt\":%s,\"base_prompt\":\"%s\",\"harmful_level\":%d,\"method\":\"%s\"," \
            "\"type\":\"%s\",\"demonstration\":\" %s\"}\n", prompt, $2, level,
            w ? "indirect" : "direct", $3, level ? "I cannot help with that." : "Once upon a time."
    }
}' "$xstest" >"$T/prompts.jsonl"
check "there are prompts" test "$(wc -l <"$T/prompts.jsonl")" -eq 180

loop="-m $stories --data $T/prompts.jsonl --cycles 2 --samples 2 -n 12 --steps 6 --batch 8 --lr 2e-3
    --prompts-per-cycle 40 --raw --resamples 500 --max-length 128"
# shellcheck disable=SC2086
gives "the loop on a real model" 0 align cycle $loop -o "$T/run"
has "the loop on a real model" '^test .*last policy$' "$T/out"
gives "its files agree" 0 align inspect "$T/run" --verify
base() { sed 's/.*"base_prompt":"\([^"]*\)".*/\1/' "$T/run/$1.jsonl" | sort -u >"$T/$1.base"; }
base train
base validation
base test
check "no base prompt is in two splits" \
    test -z "$(sort "$T/train.base" "$T/validation.base" "$T/test.base" | uniq -d)"
check "the splits hold every prompt" \
    test "$(cat "$T/run/train.jsonl" "$T/run/validation.jsonl" "$T/run/test.jsonl" | wc -l)" -eq 180
has "unknown columns stay to the end" '"type":"' "$T/run/test-last/judged.jsonl"
check "the test prompts were not looked at before" \
    sh -c "! grep -rlF -f '$T/test.base' '$T/run' --include=responses.jsonl | grep -v '/test-'"

# Conversations, in the model's own words and others'; a chat template of our choice.
i=0
while [ $i -lt 40 ]; do
    echo "{\"prompt\":[{\"role\":\"user\",\"content\":\"Erz\303\244hl $i\"},{\"role\":\"assistant\",\"content\":\"\344\275\240\"},{\"role\":\"user\",\"content\":\"weiter\"}],\"harmful_level\":$((i % 4)),\"demonstration\":\"No.\"}"
    i=$((i + 1))
done >"$T/talks.jsonl"
gives "conversations" 0 align cycle -m "$stories" --data "$T/talks.jsonl" --samples 2 -n 4 \
    --steps 2 --batch 8 --chat-template mistral-v0.1 -o "$T/talks"
has "conversations" '"prompt":\[\{"role":"user","content":"Erz' "$T/talks/cycle-1/dpo.jsonl"
gives "conversations verify" 0 align inspect "$T/talks" --verify

finish
