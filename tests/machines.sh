#!/bin/sh
# The same run on different machines: training with the plain and the machine's own kernels, scoring
# and generating must give the same bytes. Usage: tests/machines.sh PROGRAM PROGRAM...
# (each may be "emulator path/to/align"; a program that is not there is left out, and says so)
cd "$(dirname "$0")/.." || exit 1
T=$(mktemp -d "${TMPDIR:-/tmp}/align-machines.XXXXXX") || exit 1
trap 'rm -rf "$T"' EXIT
build/tests/tool_model "$T/model" || exit 1

i=0
while [ $i -lt 8 ]; do
    echo "{\"prompt\":\"count $i: \",\"chosen\":\"a$i b\",\"rejected\":\"wrong $i\"}"
    i=$((i + 1))
done >"$T/pairs.jsonl"
sed 's/"chosen":\("[^"]*"\),.*/"completion":\1}/' "$T/pairs.jsonl" >"$T/rows.jsonl"

# All results of one program with one kernel, in a directory.
results() {
    dir=$1
    shift
    mkdir "$dir" &&
        "$@" dpo -m "$T/model" --data "$T/pairs.jsonl" -o "$dir/run" --steps 3 --batch 4 --lr 1e-2 \
            --kernel "$kernel" -q >/dev/null &&
        "$@" score -m "$T/model" --adapter "$dir/run/adapter" --data "$T/rows.jsonl" --tokens \
            --kernel "$kernel" -o "$dir/scores.jsonl" -q &&
        "$@" generate -m "$T/model" --data "$T/rows.jsonl" -n 8 --kernel "$kernel" \
            -o "$dir/answers.jsonl" -q
}

passed=0
failed=0
first=
for program in "$@"; do
    if [ ! -x "${program##* }" ]; then
        echo "skipped: $program is not there"
        continue
    fi
    for kernel in ref auto; do
        dir=$T/$(echo "$program-$kernel" | tr ' /' '__')
        # shellcheck disable=SC2086
        if ! results "$dir" $program; then
            echo "FAIL $program, kernel $kernel"
            failed=$((failed + 1))
            continue
        fi
        [ -n "$first" ] || first=$dir
        for f in run/adapter/adapter_model.safetensors scores.jsonl answers.jsonl; do
            if cmp -s "$first/$f" "$dir/$f"; then
                passed=$((passed + 1))
            else
                echo "FAIL $program, kernel $kernel: $f has other bytes"
                failed=$((failed + 1))
            fi
        done
    done
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
