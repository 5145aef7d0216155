#!/bin/sh
# Runs every test program given (and tests/cli_*.sh), prints the failures and one line of totals:
# "N passed, N failed". Usage: tests/run.sh PROGRAM...
# RUNNER, where set, is put before each compiled program (an emulator).
# Threads that wait sleep instead of spinning: on a machine with other work, spinning makes the
# small parallel loops of these tests some fifty times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
passed=0
failed=0
for t in "$@"; do
    case $t in
    *.sh) out=$(sh "$t" 2>&1) ;;
    *) out=$($RUNNER "$t" 2>&1) ;;
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
    if [ "$f" -ne 0 ]; then
        printf '%s\n' "$out" | tail -n 40
    fi
    printf '%-32s %s passed, %s failed\n' "$(basename "$t")" "$p" "$f"
    passed=$((passed + p))
    failed=$((failed + f))
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
