#!/bin/sh
# README.md and the program agree: the commands, every command line shown, what the demo prints.
. "$(dirname "$0")/lib.sh"

check "README.md has at most 16 KB" test "$(wc -c <README.md)" -le 16384

# The first part of the demo gives what README.md shows of it; the stage demo of .ci/run compares all.
# shellcheck disable=SC2086
set -- $ALIGN # without the space that make puts before it
gives "the demo's first part" 0 env ALIGN="$*" DEMO_FOLDER="$T/demo" DEMO_ONLY=dpo sh tools/demo.sh
cp "$T/out" "$T/log"
gives "what README.md shows of it" 0 sh tools/readme.sh --check "$T/log" dpo
sed 's/  0\.462 /  0.463 /' "$T/log" >"$T/other"
gives "another run is noticed" 1 sh tools/readme.sh --check "$T/other" dpo

# Each command is in the help, and the README shows it.
for c in $(align --help | sed -n 's/^  \([a-z]*\)  .*/\1/p'); do
    has "README shows align $c" "align $c( |\$)" README.md
done

# Each command line shown, in README.md and in the help of every command, passes the option parser:
# with --help at its end nothing runs.
{
    sed -n '/^```sh/,/^```/s/^align /align /p' README.md OPTIONS.md LOOP.md | sed 's/ *#.*//'
    for c in $(align --help | sed -n 's/^  \([a-z]*\)  .*/\1/p'); do
        align "$c" --help | sed -n 's/^       align /align /p'
    done
} >"$T/examples"
check "there are examples" test "$(wc -l <"$T/examples")" -gt 20
while IFS= read -r line; do
    # The lines are ours; quotes in them group words.
    eval "set -- ${line#align }"
    gives "$line" 0 align "$@" --help
done <"$T/examples"

finish
