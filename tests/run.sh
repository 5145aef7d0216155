#!/bin/sh
# Runs every test program given (and tests/cli_*.sh), as many at a time as there are processors,
# prints the failures and one line of totals: "N passed, N failed". Usage: tests/run.sh PROGRAM...
# RUNNER, where set, is put before each compiled program (an emulator). JOBS is how many run at once.
# Threads that wait sleep instead of spinning: on a machine with other work, spinning makes the
# small parallel loops of these tests some fifty times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

# one RESULT PROGRAM: prints what failed and the program's line, and leaves "passed failed" in RESULT.
one() {
    case $2 in
    *.sh) out=$(sh "$2" 2>&1) ;;
    *) out=$($RUNNER "$2" 2>&1) ;;
    esac
    status=$?
    last=$(printf '%s\n' "$out" | tail -n 1)
    p=$(printf '%s\n' "$last" | sed -n 's/^\([0-9][0-9]*\) passed, [0-9][0-9]* failed$/\1/p')
    f=$(printf '%s\n' "$last" | sed -n 's/^[0-9][0-9]* passed, \([0-9][0-9]*\) failed$/\1/p')
    if [ -z "$p" ]; then # died before its last line
        p=0
        f=1
    elif [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
    fi
    {
        if [ "$f" -ne 0 ]; then printf '%s\n' "$out" | tail -n 40; fi
        printf '%-32s %s passed, %s failed\n' "$(basename "$2")" "$p" "$f"
    } >"$1.text"
    cat "$1.text" # at once, so that the lines of two programs do not mix
    echo "$p $f" >"$1"
}

if [ "$1" = --one ]; then
    one "$2" "$3"
    exit 0
fi
results=$(mktemp -d) || exit 1
trap 'rm -rf "$results"' EXIT
trap 'exit 130' INT TERM
n=0
for t in "$@"; do
    n=$((n + 1))
    echo "$results/$n $t"
done | xargs -P "${JOBS:-$(getconf _NPROCESSORS_ONLN || echo 1)}" -n 2 sh "$0" --one
passed=0
failed=0
n=0
for t in "$@"; do
    n=$((n + 1))
    p=0
    f=1 # a program without a result is a failure
    if [ -s "$results/$n" ]; then read -r p f <"$results/$n"; fi
    passed=$((passed + p))
    failed=$((failed + f))
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
