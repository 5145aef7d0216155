#!/bin/sh
# README.md and the program agree: the table of options, the commands, every command line shown.
# After a change of options:  tests/cli_readme.sh --write
. "$(dirname "$0")/lib.sh"

align --options >"$T/options"
if [ "$1" = --write ]; then
    sed -e "/^<!-- options -->/r $T/options" -e '/^<!-- options -->/,/^<!-- end of options -->/{
        /^|/d
    }' README.md >"$T/readme" && cp "$T/readme" README.md
fi
sed -n '/^<!-- options -->/,/^<!-- end of options -->/p' README.md | grep '^|' >"$T/readme"
same "the table of options (tests/cli_readme.sh --write renews it)" "$T/options" "$T/readme"

# Each command is in the help, and the README shows it.
for c in $(align --help | sed -n 's/^  \([a-z]*\)  .*/\1/p'); do
    has "README shows align $c" "align $c( |\$)" README.md
done

# Each command line shown, in README.md and in the help of every command, passes the option parser:
# with --help at its end nothing runs.
{
    sed -n '/^```sh/,/^```/s/^align /align /p' README.md | sed 's/ *#.*//'
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
