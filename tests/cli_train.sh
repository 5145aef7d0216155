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
refuses "score beyond the positions" 65 'long.jsonl: line 1: a sequence of .* positions; set --max-length' \
    align score -m "$MODEL" --data "$T/long.jsonl"
refuses "gradients to nowhere" 73 "nowhere" align dpo -m "$MODEL" --data "$T/pairs.jsonl" \
    -o "$T/dumps" --dump-gradients "$T/nowhere/g.safetensors"
check "gradients to nowhere: no run" test ! -e "$T/dumps"
# shellcheck disable=SC2086
gives "evaluation" 0 align dpo -m "$MODEL" --data "$T/pairs.jsonl" --eval "$T/pairs.jsonl" \
    -o "$T/eval" $short --eval-every 2
has "evaluation" '"eval_loss":0\.' "$T/eval/metrics.jsonl"
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

# ---- merge
gives "merge" 0 align merge -m "$MODEL" --adapter "$T/dpo/adapter" -o "$T/merged"
for f in model.safetensors config.json tokenizer.json tokenizer_config.json; do
    check "merge wrote $f" test -s "$T/merged/$f"
done
check "merge leaves nothing behind" test ! -e "$T/merged.tmp"
head -n 1 "$T/kto.jsonl" >"$T/one.jsonl"
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
refuses "--dropout 1" 64 '--dropout: .*\[0,1\)' bad_dpo --dropout 1
refuses "--loss" 64 'nearest: hinge' bad_dpo --loss hinges
refuses "--loss-weights" 64 "2 weights for 1 losses" bad_dpo --loss-weights 1,2
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
