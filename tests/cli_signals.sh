#!/bin/sh
# Signals, full disks, files that change under the program: the exit code, and what is left.
. "$(dirname "$0")/lib.sh"

i=0
while [ $i -lt 400 ]; do
    echo "{\"prompt\":\"count $i: \",\"completion\":\"a$i b\",\"text\":\"a line of text, number $i\"}"
    i=$((i + 1))
done >"$T/rows.jsonl"

# await FILE PATTERN: until the file has such a line (10 s at most).
await() {
    n=0
    while ! grep -q -- "$2" "$1" 2>/dev/null && [ $n -lt 200 ]; do
        sleep 0.05
        n=$((n + 1))
    done
}

# ended NAME CODE: the program $pid ends with this code.
ended() {
    wait "$pid"
    status=$?
    if [ $status -eq "$2" ]; then pass; else fail "$1: exit code $status, expected $2" "$T/err"; fi
}

# A program that waits for input: chat. What is written to fd 9 reaches it.
chat() {
    rm -f "$T/in" && mkfifo "$T/in"
    : >"$T/err" # the last chat's lines must not be taken for this one's
    $ALIGN chat -m "$1" -n 4 --temperature 0 <"$T/in" >"$T/out" 2>"$T/err" &
    pid=$!
    exec 9>"$T/in"
    await "$T/err" "/exit ends"
}

chat "$MODEL"
kill -INT $pid
ended "Ctrl-C at the prompt ends a chat" 0
exec 9>&-

# Two signals that arrive together: the first asks, the second ends at once.
chat "$MODEL"
kill -STOP $pid
kill -INT $pid
kill -TERM $pid
kill -CONT $pid
ended "a second signal ends at once" 130
exec 9>&-

# The weights are overwritten in place, with as many bytes.
overwrite() { # FILE BYTE
    printf '%b' "$2" | dd of="$1" bs=1 seek=$(($(wc -c <"$1") - 3)) conv=notrunc 2>/dev/null
}
cp -r "$MODEL" "$T/overwritten"
chat "$T/overwritten"
overwrite "$T/overwritten/model.safetensors" '\177'
echo "hello" >&9
ended "a mapped file that is overwritten ends a chat" 65
has "a mapped file that is overwritten" 'model.safetensors: was written to while it was in use' \
    "$T/err"
exec 9>&-

# The same in a loop, between two stages: a judge's program does it. Back in its place, the model is
# that of the run again.
cp "$MODEL/model.safetensors" "$T/overwritten"
cat >"$T/judge.sh" <<'END'
while IFS= read -r line; do
    id=${line#*:}
    id=${id%%,*} action=refuse
    [ $((id % 2)) -eq 0 ] || action=accept
    echo "{\"id\":$id,\"action\":\"$action\"}"
done
[ ! -e "$1" ] || cat "$1" >"$2"
END
prompts 40 no >"$T/prompts.jsonl"
cp "$T/overwritten/model.safetensors" "$T/other.weights"
overwrite "$T/other.weights" '\177'
loop="-m $T/overwritten --data $T/prompts.jsonl -o $T/loop --cycles 1 --samples 2 -n 3 --steps 1
    --rank 2 --validation 0.4 --prompts-per-cycle 4 --judge command --allow-external"
# shellcheck disable=SC2086
refuses "a model overwritten before training" 65 \
    '/kto: .*overwritten: is another model now than when the run began; put it back, then --resume' \
    align cycle $loop \
    --judge-command "sh $T/judge.sh $T/other.weights $T/overwritten/model.safetensors"
check "nothing of it is recorded" sh -c "! grep '\"event\":\"train\"' '$T/loop/ledger.jsonl'"
# shellcheck disable=SC2086
refuses "a loop goes on with another model" 65 'overwritten: was changed since .*loop began' \
    align cycle $loop --resume \
    --judge-command "sh $T/judge.sh $T/other.weights $T/overwritten/model.safetensors"
cat "$MODEL/model.safetensors" >"$T/overwritten/model.safetensors"
mv "$T/other.weights" "$T/other.gone"
# shellcheck disable=SC2086
gives "a loop goes on with its model" 0 align cycle $loop --resume \
    --judge-command "sh $T/judge.sh $T/other.weights $T/overwritten/model.safetensors"

# The weights shrink while they are mapped.
cp -r "$MODEL" "$T/shrinks"
chat "$T/shrinks"
: >"$T/shrinks/model.safetensors"
echo "hello" >&9
ended "a mapped file that shrinks" 74
has "a mapped file that shrinks" '^align chat: file changed or disk error' "$T/err"
exec 9>&-
cp "$MODEL/model.safetensors" "$T/shrinks"
gives "weights that were read do not mind" 0 align generate -m "$T/shrinks" -p a -n 2 --no-mmap

# The same in the middle of an output: nothing of it stays.
: >"$T/many.jsonl"
while [ "$(wc -l <"$T/many.jsonl")" -lt 2000 ]; do
    echo '{"prompt":"ab"}' >>"$T/many.jsonl"
done
$ALIGN generate -m "$T/shrinks" --data "$T/many.jsonl" -n 200 -o "$T/written" 2>"$T/err" &
pid=$!
n=0
while ! grep -q 'lines' "$T/err" && [ $n -lt 6000 ]; do # its rows are read, the model before them
    sleep 0.01
    n=$((n + 1))
done
: >"$T/shrinks/model.safetensors"
wait $pid
status=$?
check "a mapped file that shrinks ends an output (exit $status)" test $status -eq 74
check "a mapped file that shrinks leaves nothing" sh -c "! ls '$T' | grep -q '^written'"
cp "$MODEL/model.safetensors" "$T/shrinks"

# A file-size limit (SIGXFSZ is ignored) and a full device.
echo '{"text":"old"}' >"$T/ids.jsonl"
cp "$T/ids.jsonl" "$T/old.jsonl"
refuses "a file-size limit" 74 "ids.jsonl" sh -c "ulimit -f 1
    exec $ALIGN tokenize -m $MODEL --data $T/rows.jsonl -o $T/ids.jsonl"
same "the old file stays" "$T/old.jsonl" "$T/ids.jsonl"
check "nothing else stays" sh -c "! ls $T | grep -q 'ids.jsonl.tmp'"
if [ -w /dev/full ]; then
    $ALIGN score -m "$MODEL" --data "$T/rows.jsonl" >/dev/full 2>"$T/err"
    [ $? -eq 74 ] && pass || fail "a full device" "$T/err"
    has "a full device" '^align score: standard output: ' "$T/err"
fi

# A reader who leaves early is no error to tell, and no death by signal.
{ $ALIGN tokenize --quiet -m "$MODEL" --data "$T/rows.jsonl" 2>"$T/err"; echo $? >"$T/status"; } |
    head -n 1 >/dev/null
check "a closed pipe is quiet" test ! -s "$T/err"
check "a closed pipe is no signal" sh -c "[ \$(cat $T/status) -le 74 ]"

# Two runs in one directory: the second is told who holds it.
    >/dev/null 2>&1
sed 's/"completion"/"label":true,"completion"/' "$T/rows.jsonl" >"$T/kto.jsonl"
$ALIGN kto -m "$MODEL" --data "$T/kto.jsonl" -o "$T/run" --steps 100000 -q >/dev/null 2>"$T/err2" &
pid=$!
await "$T/run/metrics.jsonl" step
refuses "a run directory in use" 73 "run.*$pid" \
    align kto -m "$MODEL" --data "$T/kto.jsonl" -o "$T/run" --steps 100000 --resume
kill -HUP $pid
cp "$T/err2" "$T/err"
ended "a closed terminal asks to stop" 75
check "no lock stays" test ! -e "$T/run/LOCK"

# On a terminal progress is a bar, elsewhere nothing for short runs.
gives "no bar without a terminal" 0 align score -m "$MODEL" --data "$T/rows.jsonl" -o "$T/s.jsonl"
check "no bar without a terminal" sh -c "! grep -q '\[#' $T/err"
if command -v script >/dev/null 2>&1 && script -qec true /dev/null >/dev/null 2>&1; then
    script -qec "$ALIGN score -m $MODEL --data $T/rows.jsonl -o $T/s.jsonl" /dev/null >"$T/tty" 2>&1
    has "a bar on a terminal" '\[########################\] score 400/400 .* tokens/s' "$T/tty"
fi

finish
