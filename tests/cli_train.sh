#!/bin/sh
# align sft, dpo, kto, explain and merge on the tiny model: files, codes, resuming, same bits.
. "$(dirname "$0")/lib.sh"

# Pairs and labelled answers about nothing, enough for a few steps.
i=0
while [ $i -lt 12 ]; do
    echo "{\"prompt\":\"count $i: \",\"chosen\":\"a$i b\",\"rejected\":\"wrong $i\"}"
    i=$((i + 1))
done >"$T/pairs.jsonl"
sed 's/"chosen":\("[^"]*"\),.*/"completion":\1,"label":true}/' "$T/pairs.jsonl" | head -n 6 \
    >"$T/kto.jsonl"
sed 's/"chosen":.*"rejected":\("[^"]*"\)}/"completion":\1,"label":false}/' "$T/pairs.jsonl" |
    tail -n 6 >>"$T/kto.jsonl"
adapter=adapter/adapter_model.safetensors
short="--steps 4 --batch 4 --rank 2 --alpha 4 --lr 1e-2"

# ---- a run and its files
# shellcheck disable=SC2086
gives "dpo" 0 align dpo -m "$MODEL" --data "$T/pairs.jsonl" -o "$T/dpo" $short
has "dpo: result on stdout" "dpo/adapter  4 steps  loss 0\.[0-9]*" "$T/out"
has "dpo: resolved configuration on stderr" "^align: model=.* data=" "$T/err"
for f in config.json metrics.jsonl $adapter adapter/adapter_config.json; do
    check "dpo wrote $f" test -s "$T/dpo/$f"
done
lines "a line for each step" 4 "$T/dpo/metrics.jsonl"
has "the first loss is ln 2" '^\{"step":1,"loss":0\.69314718' "$T/dpo/metrics.jsonl"
check "no lock stays" test ! -e "$T/dpo/LOCK"
check "no temporary file stays" sh -c "! find $T/dpo -name '*.tmp*' | grep -q ."
gives "its configuration runs again" 0 align dpo --config "$T/dpo/config.json" -o "$T/again"
same "its configuration runs again" "$T/dpo/$adapter" "$T/again/$adapter"
gives "--quiet" 0 align dpo --config "$T/dpo/config.json" -o "$T/quiet" --quiet
check "--quiet is" test ! -s "$T/err"
gives "result as JSON" 0 align dpo --config "$T/dpo/config.json" -o "$T/json" --json
# A whole run has made every pass of its plan, and needs no byte more.
check "a run's memory is the planned one" sh -c \
    "sed -n 's/.*\"memory\":{\"planned\":\([0-9]*\),\"used\":\1}.*/same/p' '$T/out' | grep -q same"
has "result as JSON" '^\{"adapter":".*/json/adapter","steps":4,.*"loss":0\.[0-9]*,' "$T/out"

# ---- the same bits
for t in 1 3 7; do
    # shellcheck disable=SC2086
    gives "kto, $t threads" 0 align kto -m "$MODEL" --data "$T/kto.jsonl" -o "$T/kto$t" $short -t $t
done
same "kto: 1 and 3 threads" "$T/kto1/$adapter" "$T/kto3/$adapter"
same "kto: 1 and 7 threads" "$T/kto1/$adapter" "$T/kto7/$adapter"
has "kto: the first loss is a half" '^\{"step":1,"loss":0\.5,' "$T/kto1/metrics.jsonl"

# Stopped by a signal and resumed; resuming a finished run changes nothing.
# shellcheck disable=SC2086
align kto -m "$MODEL" --data "$T/kto.jsonl" -o "$T/whole" --steps 400 --batch 4 --lr 1e-3 -q \
    >/dev/null 2>&1
# shellcheck disable=SC2086
$ALIGN kto -m "$MODEL" --data "$T/kto.jsonl" -o "$T/cut" --steps 400 --batch 4 --lr 1e-3 -q \
    >/dev/null 2>"$T/err" &
pid=$!
n=0
while [ ! -s "$T/cut/metrics.jsonl" ] && [ $n -lt 200 ]; do
    sleep 0.05
    n=$((n + 1))
done
kill -TERM $pid
wait $pid
status=$?
[ $status -eq 75 ] && pass || fail "a signal asks to stop: exit code $status, expected 75" "$T/err"
has "a signal asks to stop" 'align kto: .*stopped after step [0-9]* of 400; --resume' "$T/err"
gives "resume" 0 align kto -m "$MODEL" --data "$T/kto.jsonl" -o "$T/cut" --steps 400 --batch 4 \
    --lr 1e-3 -q --resume
same "resumed gives the same bits" "$T/whole/$adapter" "$T/cut/$adapter"
lines "each step stands once" 400 "$T/cut/metrics.jsonl"
gives "resuming a finished run" 0 align kto -m "$MODEL" --data "$T/kto.jsonl" -o "$T/cut" \
    --steps 400 --batch 4 --lr 1e-3 -q --resume
has "resuming a finished run" "already finished" "$T/out"

# ---- sft, --full, evaluation, a plan
gives "sft --full" 0 align sft -m "$MODEL" --data "$T/kto.jsonl" -o "$T/full" --full --steps 2 -q
check "sft --full makes a model" test -s "$T/full/model/model.safetensors"
cp -R "$MODEL" "$T/named"
sed 's/"torch_dtype":"float32"/"torch_dtype" : "bfloat16"/' "$MODEL/config.json" \
    >"$T/named/config.json"
gives "sft --full of a model said to be bf16" 0 align sft -m "$T/named" --data "$T/kto.jsonl" \
    -o "$T/full2" --full --steps 2 -q
has "config.json is not believed" 'says bfloat16, the weights are stored as F32' "$T/err"
has "trained weights are said to be what they are" '"torch_dtype" : "float32"' \
    "$T/full2/model/config.json"
printf '{"prompt":"%0400d","completion":"b"}\n' 1 >"$T/long.jsonl"
refuses "score beyond the positions" 65 'long.jsonl: line 1: a sequence of .* positions: shorten it$' \
    align score -m "$MODEL" --data "$T/long.jsonl"
refuses "gradients to nowhere" 73 "nowhere" align dpo -m "$MODEL" --data "$T/pairs.jsonl" \
    -o "$T/dumps" --dump-gradients "$T/nowhere/g.safetensors"
check "gradients to nowhere: no run" test ! -e "$T/dumps"
# shellcheck disable=SC2086
gives "evaluation" 0 align dpo -m "$MODEL" --data "$T/pairs.jsonl" --eval "$T/pairs.jsonl" \
    -o "$T/eval" $short --eval-every 2
has "evaluation" '"eval_loss":0\.' "$T/eval/metrics.jsonl"
# ---- files that are no rows, or not quite
tr '\n' ',' <"$T/pairs.jsonl" | sed 's/^/[/; s/,$/]/' >"$T/pairs.json"
# shellcheck disable=SC2086
gives "a JSON array" 0 align dpo -m "$MODEL" --data "$T/pairs.json" -o "$T/array" $short
same "a JSON array trains as its rows do" "$T/dpo/$adapter" "$T/array/$adapter"
printf 'prompt,chosen,rejected\na,b,c\n' >"$T/pairs.csv"
for option in --data --eval; do
    set -- --data "$T/pairs.jsonl" $option "$T/pairs.csv"
    refuses "CSV as $option" 65 'pairs.csv: found CSV text with the header .*csv.DictReader' \
        align dpo -m "$MODEL" "$@" --dry-run
done
refuses "CSV for an explanation" 65 'pairs.csv: found CSV text' \
    align explain -m "$MODEL" --data "$T/pairs.csv"
refuses "a directory" 66 'found a directory, expected a file of rows' \
    align dpo -m "$MODEL" --data "$T" --dry-run
printf '{"prompt":"a","cho' | cat "$T/pairs.jsonl" - >"$T/torn.jsonl"
refuses "training rows that were cut off" 65 'torn.jsonl:13:.*the file was cut off' \
    align dpo -m "$MODEL" --data "$T/torn.jsonl" --dry-run
cp -r "$T/array" "$T/torn"
printf '{"step":5,"lo' >>"$T/torn/metrics.jsonl"
gives "metrics cut off by a crash" 0 align inspect "$T/torn"
has "it is said" 'metrics.jsonl:5: the last line is cut off, and left out' "$T/err"
gives "a report of them" 0 align report "$T/torn" -o "$T/torn.html"
has "it says so" 'the last line of the file is cut off, and left out' "$T/torn.html"

# ---- several answers in one row: the mean over the tokens of both, as `score` gives them
talk='{"role":"user","content":"q"},{"role":"assistant","content":"ab"}'
more=',{"role":"user","content":"r"},{"role":"assistant","content":"c"}'
printf '{"messages":[%s%s]}\n' "$talk" "$more" >"$T/talk.jsonl"
printf '{"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"ab"}]}
{"prompt":[%s,{"role":"user","content":"r"}],"completion":[{"role":"assistant","content":"c"}]}
' "$talk" >"$T/turns.jsonl"
gives "scores of both answers" 0 align score -m "$MODEL" --data "$T/turns.jsonl" \
    --chat-template chatml -o "$T/turns.scores"
want=$(awk -F'[:,}]' '{n += $6; sum += $8} END {printf "%.5f", -sum / n}' "$T/turns.scores")
for on in answers last all auto; do
    gives "--train-on $on" 0 align sft -m "$MODEL" --data "$T/talk.jsonl" --chat-template chatml \
        --train-on $on --steps 1 --lr 1e-9 -o "$T/on-$on"
    sed -n 's/.*"loss":\([0-9.]*\),.*/\1/p' "$T/on-$on/metrics.jsonl" >"$T/on-$on.loss"
done
check "--train-on answers is the mean over both" test "$want" = \
    "$(awk '{printf "%.5f", $1}' "$T/on-answers.loss")"
want=$(awk -F'[:,}]' 'NR == 2 {printf "%.5f", -$8 / $6}' "$T/turns.scores")
check "--train-on last is the second" test "$want" = "$(awk '{printf "%.5f", $1}' "$T/on-last.loss")"
same "by default all is trained" "$T/on-all.loss" "$T/on-auto.loss"
has "it is counted" 'talk.jsonl: 1 rows hold several answers .2 answers in all.: every token' "$T/err"
has "config.json keeps it" '"train-on": "all"' "$T/on-auto/config.json"
refuses "another choice is another run" 65 "train-on" align sft -m "$MODEL" \
    --data "$T/talk.jsonl" --chat-template chatml --train-on last --steps 1 --lr 1e-9 \
    -o "$T/on-all" --resume

# ---- the dry run shows the first row
printf '{"prompt":"a\\u0007b","chosen":"\\u202ec","rejected":"d"}\n' >"$T/shown.jsonl"
gives "a row as tokens" 0 align dpo -m "$MODEL" --data "$T/shown.jsonl" --dry-run
has "the prompt, and scored tokens in brackets" '^  <.begin.>.*a.*u0007.*b\[\]\[\]\[.u202e\]\[c\]' "$T/out"
has "both sides" 'row of line 1, rejected: 6 tokens, 2 of them scored' "$T/out"
gives "a row as JSON" 0 align dpo -m "$MODEL" --data "$T/shown.jsonl" --dry-run --json
has "a row as JSON" '"side":"rejected","ids":\[256,97,7,98,100,257\],"scored":\[0,0,0,0,1,1\]' "$T/out"

gives "plan" 0 align dpo -m "$MODEL" --data "$T/pairs.jsonl" --dry-run
has "plan" '^steps +6 \(an epoch has 2\)$' "$T/out"
gives "plan as JSON" 0 align kto -m "$MODEL" --data "$T/kto.jsonl" --dry-run --json
has "plan as JSON" '^\{"rows":12,.*"memory":\{"weights":128128,' "$T/out"

# ---- explain
gives "explain dpo" 0 align explain -m "$MODEL" --data "$T/pairs.jsonl" --row 3 \
    --adapter "$T/dpo/adapter"
has "explain dpo" '^margin  = beta' "$T/out"
gives "explain dpo as JSON" 0 align explain -m "$MODEL" --data "$T/pairs.jsonl" --row 3 --json
has "without an adapter the loss is ln 2" '"margin":0,"sigmoid":0\.5,"loss":0\.69314718' "$T/out"
gives "explain kto as JSON" 0 align explain -m "$MODEL" --data "$T/kto.jsonl" --row 7 \
    --method kto --adapter "$T/kto1/adapter" --json
has "explain kto as JSON" '"row":7,.*"label":false,"kl":[0-9.]*,"weight":1,"sigmoid":0\.' "$T/out"
refuses "no such row" 64 "--row 12: .* rows 0 to 11" \
    align explain -m "$MODEL" --data "$T/pairs.jsonl" --row 12
refuses "a loss of the other method" 64 "--loss: sigmoid is no loss of kto" \
    align explain -m "$MODEL" --data "$T/kto.jsonl" --method kto --loss sigmoid

# ---- numbers that are not finite: no null where a number is promised
cp -r "$T/dpo/adapter" "$T/loud"
sed 's/"lora_alpha": 4/"lora_alpha": 100000000/' "$T/dpo/adapter/adapter_config.json" \
    >"$T/loud/adapter_config.json"
size=$(wc -c <"$T/loud/adapter_model.safetensors")
printf '\377\377\177\177\377\377\177\177' | # its last two numbers: 3.4e38
    dd of="$T/loud/adapter_model.safetensors" bs=1 seek=$((size - 8)) conv=notrunc 2>/dev/null
refuses "score with it" 65 "kto.jsonl: line 1: the completion's log-prob is not finite" \
    align score -m "$MODEL" --adapter "$T/loud" --data "$T/kto.jsonl" -o "$T/loud.jsonl"
check "no scores are written" test ! -e "$T/loud.jsonl"
refuses "explain with it" 65 "pairs.jsonl: line 4: the policy's log-prob is not finite" \
    align explain -m "$MODEL" --data "$T/pairs.jsonl" --row 3 --adapter "$T/loud" --json
refuses "explain kto with it" 65 "kto.jsonl: line 8: the policy's log-prob is not finite" \
    align explain -m "$MODEL" --data "$T/kto.jsonl" --row 7 --method kto --adapter "$T/loud"
refuses "explain with a loss beyond all numbers" 65 "lower --beta [(]now 1e[+]308[)]" align explain \
    -m "$MODEL" --data "$T/pairs.jsonl" --row 3 --adapter "$T/dpo/adapter" --beta 1e308 --json
refuses "generate with it" 65 "no finite logit" \
    align generate -m "$MODEL" --adapter "$T/loud" -p x -o "$T/loud.jsonl"
refuses "dpo held to it" 65 "pairs.jsonl: line 1: the reference's log-prob is not finite" \
    align dpo -m "$MODEL" --data "$T/pairs.jsonl" --reference "$T/loud" -o "$T/loud-run"
refuses "sft that begins with it" 76 "step 2, the last: its numbers are not finite" align sft \
    -m "$MODEL" --data "$T/kto.jsonl" --init-adapter "$T/loud" --steps 2 -o "$T/loud-run"
check "no adapter of it" test ! -e "$T/loud-run/adapter"

# ---- fewer threads than were asked for (a sanitizer's memory does not fit under such a limit)
# shellcheck disable=SC2086
fewer() { (ulimit -v 300000 && exec $ALIGN "$@"); }
if fewer --version >/dev/null 2>&1; then
    gives "64 threads under a limit of memory" 0 fewer score -m "$MODEL" --threads 64 \
        --adapter "$T/dpo/adapter" --data "$T/kto.jsonl" -o "$T/few.jsonl"
    gives "one thread" 0 align score -m "$MODEL" --threads 1 --adapter "$T/dpo/adapter" \
        --data "$T/kto.jsonl" -o "$T/one-thread.jsonl"
    same "the same scores" "$T/few.jsonl" "$T/one-thread.jsonl"
fi

# ---- merge
gives "merge" 0 align merge -m "$MODEL" --adapter "$T/dpo/adapter" -o "$T/merged"
for f in model.safetensors config.json tokenizer.json tokenizer_config.json; do
    check "merge wrote $f" test -s "$T/merged/$f"
done
check "merge leaves nothing behind" test ! -e "$T/merged.tmp"
head -n 1 "$T/kto.jsonl" >"$T/one.jsonl"
has "merge says what rounding took" '^align: [0-9]+ merged weights, stored as the base.s: rounding error' \
    "$T/err"
for dtype in f32:float32 bf16:bfloat16 f16:float16; do
    gives "merge into $dtype" 0 align merge -m "$MODEL" --adapter "$T/dpo/adapter" \
        -o "$T/as-$dtype" --dtype "${dtype%:*}" --json
    has "merge into $dtype: figures" \
        '^\{"output":.*,"largest_error":[0-9.e-]+,"mean_error":.*,"error_of_update":.*,"lost_of_update":' \
        "$T/out"
    has "merge into $dtype: config.json" "\"(torch_)?dtype\": ?\"${dtype#*:}\"" \
        "$T/as-$dtype/config.json"
    gives "merge into $dtype: score" 0 align score -m "$T/as-$dtype" --data "$T/one.jsonl" \
        -o "$T/as-$dtype.jsonl"
done
refuses "merge into a type that is none" 64 "allowed is one of keep" align merge -m "$MODEL" \
    --adapter "$T/dpo/adapter" -o "$T/as-none" --dtype f64
gives "score of the merged model" 0 align score -m "$T/merged" --data "$T/one.jsonl" \
    -o "$T/a.scores"
gives "score with the adapter" 0 align score -m "$MODEL" --adapter "$T/dpo/adapter" \
    --data "$T/one.jsonl" -o "$T/b.scores"
check "both agree to rounding" awk '{ sub(/.*"logp":/, ""); x[NR] = $0 + 0 }
    END { d = x[1] - x[2]; exit !(NR == 2 && d < 1e-4 && d > -1e-4 && x[1] < 0) }' \
    "$T/a.scores" "$T/b.scores"
cp -R "$MODEL" "$T/base.tmp"
refuses "merge beside somebody's folder" 73 "base.tmp: exists" \
    align merge -m "$T/base.tmp" --adapter "$T/dpo/adapter" -o "$T/base"
same "merge beside somebody's folder: it stays" "$MODEL/model.safetensors" \
    "$T/base.tmp/model.safetensors"
# What of the objective is not TRL's is said, and only that.
gives "objective: kto" 0 align kto -m "$MODEL" --data "$T/kto.jsonl" --dry-run
has "objective: kto's defaults" \
    'objective: .*lr 1e-05 \(TRL 1e-6\).*order shuffle \(TRL trl\), kl-pairing distinct' "$T/err"
gives "objective: TRL's own" 0 align dpo -m "$MODEL" --data "$T/pairs.jsonl" --dry-run --full \
    --order trl --precision bf16
check "objective: nothing to say" sh -c "! grep -q objective: $T/err"
cp -r "$T/dpo/adapter" "$T/dropped"
sed 's/"lora_dropout": 0/"lora_dropout": 0.25/' "$T/dpo/adapter/adapter_config.json" \
    >"$T/dropped/adapter_config.json"
gives "objective: the file's dropout" 0 align sft -m "$MODEL" --data "$T/kto.jsonl" --dry-run \
    --init-adapter "$T/dropped"
has "objective: the file's dropout is named" 'objective: .*"lora_dropout": 0.25.*--dropout 0.25' \
    "$T/err"
cp -r "$MODEL" "$T/noisy"
sed 's/"tie_word/"attention_dropout":0.5,"tie_word/' "$MODEL/config.json" >"$T/noisy/config.json"
gives "objective: attention's dropout" 0 align dpo -m "$T/noisy" --data "$T/pairs.jsonl" --dry-run
has "objective: attention's dropout is named" 'objective: .*"attention_dropout": 0.5' "$T/err"

# A model that says it is tied, and holds a head of its own.
cp -r "$MODEL" "$T/two-heads"
sed 's/"tie_word_embeddings": *false/"tie_word_embeddings":true/' "$MODEL/config.json" \
    >"$T/two-heads/config.json"
check "the model says it is tied" grep -q '"tie_word_embeddings":true' "$T/two-heads/config.json"
gives "two heads: merge" 0 align merge -m "$T/two-heads" --adapter "$T/dpo/adapter" -o "$T/two-merged"
same "two heads: both are kept" "$T/merged/model.safetensors" "$T/two-merged/model.safetensors"
check "two heads: the new model says it is not tied" \
    grep -q '"tie_word_embeddings":false' "$T/two-merged/config.json"
cp "$T/dpo/adapter"/* "$T/two-heads"
refuses "an adapter in the model's directory" 65 "adapter_config.json: .*--adapter" \
    align score -m "$T/two-heads" --data "$T/one.jsonl" -o "$T/inside.jsonl"
gives "... which is named" 0 align score -m "$T/two-heads" --adapter "$T/two-heads" \
    --data "$T/one.jsonl" -o "$T/inside.jsonl"

refuses "merge onto its input" 64 "--output" \
    align merge -m "$MODEL" --adapter "$T/dpo/adapter" -o "$MODEL"
refuses "merge onto something" 73 "exists already" \
    align merge -m "$MODEL" --adapter "$T/dpo/adapter" -o "$T/dpo"

# ---- faults
bad_dpo() { align dpo -m "$MODEL" --data "$T/pairs.jsonl" -o "$T/fault" --steps 1 "$@"; }
bad_kto() { align kto -m "$MODEL" --data "$T/kto.jsonl" -o "$T/fault" --steps 1 "$@"; }
refuses "kto alone in its batch" 64 "batch" bad_kto --batch 1
refuses "--beta 0" 64 '--beta: found "0".*\(0,inf\)' bad_dpo --beta 0
refuses "--lr -1" 64 '--lr: found "-1"' bad_dpo --lr -1
refuses "--lr nan" 64 '--lr: found "nan"' bad_dpo --lr nan
refuses "--rank 0" 64 '--rank: found "0"' bad_dpo --rank 0
refuses "a rank beyond the matrices" 64 "rank" bad_dpo --rank 64
refuses "--dropout 1" 64 '--dropout: .*\[0,0\.99\]' bad_dpo --dropout 1
refuses "--loss" 64 'nearest: hinge' bad_dpo --loss hinges
refuses "--loss-weights" 64 "2 weights for 1 losses of --loss" bad_dpo --loss-weights 1,2
refuses "--label-smoothing that nothing reads" 64 "label-smoothing" bad_dpo --label-smoothing 0.1
refuses "--targets" 64 'nearest: q_proj' bad_dpo --targets q_porj
refuses "--seed" 64 "--seed" bad_dpo --seed 18446744073709551616
refuses "--steps and --epochs" 64 "--steps and --epochs" bad_dpo --epochs 1
refuses "no run directory" 64 "-o|--output" align dpo -m "$MODEL" --data "$T/pairs.jsonl"
refuses "a run that exists" 73 "dpo.*exists" \
    align dpo -m "$MODEL" --data "$T/pairs.jsonl" -o "$T/dpo"
refuses "a run in a place that is missing" 73 "nowhere" \
    align dpo -m "$MODEL" --data "$T/pairs.jsonl" -o "$T/nowhere/run"
refuses "a run whose place is a file" 73 "pairs.jsonl" \
    align dpo -m "$MODEL" --data "$T/pairs.jsonl" -o "$T/pairs.jsonl/run"
refuses "no data" 66 "none.jsonl" align dpo -m "$MODEL" --data "$T/none.jsonl" -o "$T/fault"
refuses "rows of the other kind" 65 'kto.jsonl:1: .*"chosen"' \
    align dpo -m "$MODEL" --data "$T/kto.jsonl" -o "$T/fault"
refuses "resume with other rows" 65 "dpo" align dpo -m "$MODEL" --data "$T/one.jsonl" -o "$T/dpo" \
    --resume
check "no fault left a run behind" test ! -e "$T/fault"

finish
