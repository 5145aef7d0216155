#!/bin/sh
# align cycle: its configuration as a file, and the signatures that deploy what the loop selected.
. "$(dirname "$0")/lib.sh"

# ---- --print-config: what is printed is accepted, and says the same again
gives "print-config" 0 align cycle --print-config
cp "$T/out" "$T/plain.json"
has "print-config: an option is explained" \
    '^  "//cycles": "number of cycles \[\[1,1000\]; default 1\]",$' \
    "$T/plain.json"
gives "print-config of choices" 0 align cycle -m "$MODEL" --data "a \"b\".jsonl" \
    --seed 18446744073709551615 --methods dpo --confidence 0.9 --system "Be kind." --raw --dpo-loss sigmoid,sft --print-config
cp "$T/out" "$T/config.json"
gives "print-config of its own file" 0 align cycle --config "$T/config.json" --print-config
same "print-config of its own file" "$T/config.json" "$T/out"
check "the file says what was chosen" sh -c "! cmp -s '$T/plain.json' '$T/config.json'"
for key in '"seed": 18446744073709551615' '"methods": \["dpo"\]' '"raw": true' \
    '"system": "Be kind."'; do
    has "print-config: $key" "^  $key,\$" "$T/config.json"
done
# What was not given is not given by the file either, where that makes a difference.
gives "print-config of steps" 0 align cycle --steps 2 --judges rules --print-config
cp "$T/out" "$T/steps.json"
gives "print-config: steps, and no epochs" 0 \
    align cycle --config "$T/steps.json" --print-config
same "print-config: steps, and no epochs" "$T/steps.json" "$T/out"
has "print-config: one run of a grid for both methods" '^  "methods": null,$' "$T/steps.json"
check "no action is part of a configuration" \
    sh -c "! grep -q '\"approve\"\|\"resume\"' '$T/config.json'"
sed 's/"cycles"/"cycels"/' "$T/plain.json" >"$T/typo.json"
refuses "a comment hides no typing error" 64 'cycels.*nearest: cycles' \
    align cycle --config "$T/typo.json" --print-config

# ---- a policy that refuses everything, promoted by a rule that allows it
prompts 40 no >"$T/prompts.jsonl"
no_refuses >"$T/rules.jsonl"
loop="-m $MODEL --data $T/prompts.jsonl --rules $T/rules.jsonl --validator-rules $T/rules.jsonl
    --samples 2 -n 3 --steps 80 --rank 8 --lr 3e-2 --batch 8 --methods dpo --dpo-loss sft
    --validation 0.4 --prompts-per-cycle 8 --confidence 0.8"
# ---- --dry-run: the plan, and nothing else
# shellcheck disable=SC2086
TMPDIR="$T" gives "dry-run" 0 align cycle $loop --cycles 3 --test 0.1 -o "$T/dry" --dry-run
has "dry-run: splits by level" '^  validation +4 +4 +4 +4 +[0-9]+$' "$T/out"
# 3 cycles x 8 prompts x 2 samples, 16 validation prompts 1 + 3 times, 4 test prompts twice
has "dry-run: answers" '^answers  120, ' "$T/out"
has "dry-run: judging" '^judge +48 answers by rules: [0-9.]+ s$' "$T/out"
has "dry-run: validating" '^validate +72 answers by rules: [0-9.]+ s$' "$T/out"
has "dry-run: training" '^dpo +at most 80 steps a cycle, .* s; memory [1-9][0-9]* MiB' "$T/out"
check "dry-run writes nothing" sh -c "! ls '$T' | grep -q '^dry\|align-plan'"
# shellcheck disable=SC2086
gives "dry-run for machines" 0 align cycle $loop --methods both -o "$T/dry" --dry-run --json
has "dry-run for machines" '"runs":1,.*"validator":\{"count":[0-9]+,"seconds":[0-9.e-]+\},.*"answers":[0-9]+,.*"kto":\{"steps":80,"tokens":[0-9]+,"seconds":[0-9.]+,"memory":[0-9]{6}' \
    "$T/out"

# shellcheck disable=SC2086
gives "a loop that promotes" 0 align cycle $loop --max-added-refusal 1 -o "$T/run"
has "a loop that promotes" '^cycle 1 .* dpo$' "$T/out"
# shellcheck disable=SC2086
gives "a loop that does not" 0 align cycle $loop --max-added-refusal 0 -o "$T/stays"
has "a loop that does not" '^cycle 1 .* parent stays$' "$T/out"

refuses "a signature without a reason" 64 "reason" align cycle "$T/run" --approve "Dr A"
refuses "a name that hides something" 64 "control character" \
    align cycle "$T/run" --approve "$(printf 'Dr A\033[2J')" --reason x
refuses "nobody is called auto" 64 "auto" align cycle "$T/run" --approve auto --reason x
refuses "a rollback before anything is deployed" 65 "nothing is deployed" \
    align cycle "$T/run" --rollback 0 --approve "Dr A" --reason x
refuses "a policy that was not selected" 65 "promoted a candidate" \
    align cycle "$T/stays" --approve "Dr A" --reason "looks fine"
refuses "no run" 66 "ledger.jsonl" align cycle "$T" --approve "Dr A" --reason x
refuses "no run named" 64 "RUN is missing" align cycle --approve "Dr A" --reason x
check "nothing is deployed by a refusal" test ! -e "$T/run/deployed.json" -a \
    ! -e "$T/stays/deployed.json"

cp -R "$T/run" "$T/changed"
echo >>"$T/changed/cycle-1/judged.jsonl"
refuses "a run with a changed file" 65 "nothing is signed: .*cycle-1/judged.jsonl" \
    align cycle "$T/changed" --approve "Dr A" --reason x
check "a run with a changed file" test ! -e "$T/changed/deployed.json"

# ---- a link, or another name, where the program would write: nothing is signed, its target stays
echo precious >"$T/precious"
for file in ledger.jsonl deployed.json report.html LOCK; do
    rm -rf "$T/linked"
    cp -R "$T/run" "$T/linked"
    target="$T/precious"
    if [ $file = ledger.jsonl ]; then
        mv "$T/linked/$file" "$T/moved.jsonl"
        target="$T/moved.jsonl"
    fi
    rm -f "$T/linked/$file"
    ln -s "$target" "$T/linked/$file"
    cp "$target" "$T/before"
    refuses "a link at $file" 73 "linked/$file: .*is a symbolic link" \
        align cycle "$T/linked" --approve "Dr A" --reason x
    same "a link at $file" "$T/before" "$target"
    check "a link at $file" test -h "$T/linked/$file"
    [ $file = deployed.json ] || check "a link at $file" test ! -e "$T/linked/deployed.json"
    [ $file = ledger.jsonl ] || same "a link at $file" "$T/run/ledger.jsonl" "$T/linked/ledger.jsonl"
done
rm -rf "$T/linked"
cp -R "$T/run" "$T/linked"
cp "$T/linked/ledger.jsonl" "$T/before"
ln "$T/linked/ledger.jsonl" "$T/backup.jsonl"
gives "a ledger of two names" 0 align cycle "$T/linked" --approve "Dr A" --reason x
same "a ledger of two names" "$T/before" "$T/backup.jsonl"
gives "a ledger of two names" 0 align inspect "$T/linked" --verify
mv "$T/linked/report.html" "$T/page.html"
ln -s ../page.html "$T/linked/report.html"
refuses "a report over a link" 73 "report.html: is a symbolic link" align report "$T/linked"
rm -rf "$T/linked"

gives "approve" 0 align cycle "$T/run" --approve "Dr \"A\"" --reason "read 200 answers"
has "approve" '^approved: the policy after cycle 1 is deployed, signed by Dr "A", entry [0-9]+$' \
    "$T/out"
has "approve: the head is not enough" 'can also rewrite the whole chain' "$T/out"
head=$(sed -n 's/^ledger head //p' "$T/out")
weights=$(sed -n 's/^adapter sha256 //p' "$T/out")
check "the adapter's hash is the file's" \
    sh -c "sha256sum '$T/run/cycle-1/adapter/adapter_model.safetensors' | grep -q '^$weights '"
has "the report shows who signed" 'Dr &quot;A&quot;</td><td>read 200 answers' "$T/run/report.html"
has "the report shows the head" "$head" "$T/run/report.html"
has "deployed.json names it" \
    "^\{\"cycle\":1,\"by\":\"Dr ..A..\",.*\"method\":\"dpo\".*\"adapter_sha256\":\"$weights\"" \
    "$T/run/deployed.json"
check "deployed.json is for its owner only" \
    sh -c "ls -l '$T/run/deployed.json' | grep -q '^-rw-------'"
gives "a signed run verifies" 0 align inspect "$T/run" --verify
has "a signed run verifies" "^ledger head +$head\$" "$T/out"
cp "$T/out" "$T/verified"
has "inspect: who approved what" '^  approved +cycle 1, by Dr "A", 2.*Z: read 200 answers$' "$T/out"
gives "inspect: who approved what, for machines" 0 align inspect "$T/run" --json
has "inspect: who approved what, for machines" \
    '"signatures":\[\{"event":"approve","cycle":1,"by":"Dr ..A..","reason":"read 200 answers"' \
    "$T/out"
sed -i.bak 's/"cycle":1/"cycle":7/' "$T/run/deployed.json"
refuses "a changed deployed.json shows" 65 "deployed.json" align inspect "$T/run" --verify
mv "$T/run/deployed.json.bak" "$T/run/deployed.json"

# ---- what the run began with and does not hold itself
has "what it began with" '^what it began with +5 the same, 0 not looked at$' "$T/verified"
cp -R "$MODEL" "$T/kept"
back() { rm -rf "$MODEL" && cp -R "$T/kept" "$MODEL"; }
size=$(wc -c <"$MODEL/model.safetensors")
{ head -c $((size - 4)) "$T/kept/model.safetensors"; printf '\000\000\000\077'; } \
    >"$MODEL/model.safetensors"
changed() { # NAME PATTERN: the model is another; neither verified nor signed
    refuses "$1, verified" 65 "$2" align inspect "$T/run" --verify
    cp "$T/run/deployed.json" "$T/before"
    refuses "$1, signed" 65 "nothing is signed: $2" align cycle "$T/run" --approve "Dr B" --reason x
    same "$1, signed" "$T/before" "$T/run/deployed.json"
    back
}
changed "a changed weight" 'model .*/model: was changed since the run began'
sed 's/"rope_theta":10000/"rope_theta":10001/' "$T/kept/config.json" >"$MODEL/config.json"
changed "a changed setting" 'model .*/model: was changed'
sed 's/"normalizer":null/"normalizer":{"type":"NFC"}/' "$T/kept/tokenizer.json" \
    >"$MODEL/tokenizer.json"
changed "a changed tokenizer" 'tokenizer.* .*/model: was changed'
head -c 5000 "$T/kept/model.safetensors" >"$MODEL/model.safetensors"
changed "a model cut short" 'model .*model.safetensors: '
mv "$MODEL" "$T/away"
gives "a model that is away" 0 align inspect "$T/run" --verify
has "a model that is away is named" 'model .*/model was not looked at: is not there' "$T/err"
has "a model that is away is counted" '^what it began with +3 the same, 2 not looked at$' "$T/out"
cp -R "$T/run" "$T/signed"
gives "a model that is away, signed" 0 align cycle "$T/signed" --approve "Dr B" --reason x
has "a model that is away, signed" 'warning: model .*/model was not looked at' "$T/err"
rm -rf "$T/signed"
mv "$T/away" "$MODEL"
for file in prompts rules; do
    cp "$T/$file.jsonl" "$T/before"
    sed 1d "$T/before" >"$T/$file.jsonl"
    refuses "changed $file, verified" 65 "$file.jsonl: was changed since the run began" \
        align inspect "$T/run" --verify
    cp -R "$T/run" "$T/signed"
    gives "changed $file, signed" 0 align cycle "$T/signed" --approve "Dr B" --reason x
    has "changed $file, signed" "warning: .*$file.jsonl: was changed" "$T/err"
    rm -rf "$T/signed"
    cp "$T/before" "$T/$file.jsonl"
done

refuses "a rollback to what is deployed" 64 "found 1, allowed 0 to 0" \
    align cycle "$T/run" --rollback 1 --approve "Dr B" --reason x
gives "rollback" 0 align cycle -o "$T/run" --rollback 0 --approve "Dr B" --reason "too cautious" \
    --json
has "rollback" \
    '"event":"rollback","cycle":0,"by":"Dr B","reason":"too cautious","adapter_sha256":"",' "$T/out"
has "rollback: the base model" '^\{"cycle":0,"by":"Dr B".*"method":null,"adapter":null' \
    "$T/run/deployed.json"
has "the report shows the rollback" 'Dr B</td><td>too cautious' "$T/run/report.html"
gives "a redacted report" 0 align cycle "$T/run" --approve "Dr A" --reason "on second thought" \
    --redact
has "a redacted report" 'on second thought' "$T/run/report.html"
check "a redacted report" sh -c "! grep -q '<p class=.said.>' '$T/run/report.html'"
gives "back again" 0 align cycle "$T/run" --rollback 0 --approve "Dr B" --reason "too cautious"
gives "two signatures" 0 align inspect "$T/run" --verify
has "two signatures" '^  rolled back to +cycle 0, by Dr B' "$T/out"
# shellcheck disable=SC2086
gives "a signed run, resumed" 0 align cycle $loop --max-added-refusal 1 -o "$T/run" --resume
gives "a signed run, resumed" 0 align inspect "$T/run" --verify
refuses "two names of the run" 64 "one run" align cycle "$T/run" -o "$T/stays" --approve a \
    --reason b

# ---- the adapter of the run swapped, and the ledger written anew: hashes of two entries disagree
cp -R "$T/run" "$T/forged"
sed -i.bak "s/$weights/$(echo "$weights" | tr 0-9 1-90)/" "$T/forged/ledger.jsonl"
refuses "a forged ledger" 65 "nothing is signed: .*ledger.jsonl" \
    align cycle "$T/forged" --approve "Dr A" --reason x

# ---- --auto
# shellcheck disable=SC2086
gives "auto" 0 align cycle $loop --max-added-refusal 1 -o "$T/auto" --auto
has "auto: said aloud" 'no person looked' "$T/err"
has "auto" '"by":"auto","reason":"--auto","automatic":true' "$T/auto/deployed.json"
# shellcheck disable=SC2086
gives "auto signs once" 0 align cycle $loop --max-added-refusal 1 -o "$T/auto" --auto --resume
check "auto signs once" test "$(grep -c '"event":"approve"' "$T/auto/ledger.jsonl")" -eq 1
# shellcheck disable=SC2086
gives "what auto signed is taken back" 0 align cycle "$T/auto" --rollback 0 --approve A \
    --reason doubts
# shellcheck disable=SC2086
gives "auto does not overrule a person" 0 align cycle $loop --max-added-refusal 1 -o "$T/auto" \
    --auto --resume
check "auto does not overrule a person" \
    test "$(grep -c '"automatic":true' "$T/auto/ledger.jsonl")" -eq 1
has "a person's word stands" '"by":"A"' "$T/auto/deployed.json"
gives "auto with nothing to sign" 0 align cycle $loop --max-added-refusal 0 -o "$T/stays" --auto \
    --resume
check "auto with nothing to sign" test ! -e "$T/stays/deployed.json"
cp "$T/auto/deployed.json" "$T/stays/deployed.json"
gives "a deployment nobody signed" 65 align inspect "$T/stays" --verify
has "a deployment nobody signed" 'named by no signature' "$T/err"
rm "$T/stays/deployed.json"

finish
