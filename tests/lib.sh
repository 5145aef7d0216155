# lib.sh - for the shell tests of the program: a scratch directory, a tiny model, checks.
#
#   . "$(dirname "$0")/lib.sh"
#   check "what must hold" test -s "$T/out"
#   refuses "what is wrong" 64 "--beta" align dpo --beta 0 ...
#   finish
#
# ALIGN is the program (default ./align), TOOLS the folder of the test tools (default build/tests).

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
ALIGN=${ALIGN:-./align}
TOOLS=${TOOLS:-build/tests}
passed=0
failed=0
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}" # see run.sh

T=$(mktemp -d "${TMPDIR:-/tmp}/align-cli.XXXXXX") || exit 1
trap 'rm -rf "$T"' EXIT
trap 'exit 1' INT TERM

# ALIGN may hold a wrapper and its arguments: it is split into words on purpose.
align() {
    # shellcheck disable=SC2086
    $ALIGN "$@"
}

pass() { passed=$((passed + 1)); }

# fail NAME [FILE]: the last lines of FILE are shown.
fail() {
    failed=$((failed + 1))
    echo "FAIL $1"
    [ -n "$2" ] && [ -f "$2" ] && tail -n 5 "$2"
    return 0
}

# check NAME COMMAND...: the command succeeds.
check() {
    name=$1
    shift
    if "$@" >"$T/check.out" 2>&1; then pass; else fail "$name" "$T/check.out"; fi
}

# gives NAME CODE COMMAND...: the command ends with this exit code. Its output is in $T/out, $T/err.
gives() {
    name=$1 code=$2
    shift 2
    "$@" >"$T/out" 2>"$T/err" </dev/null
    status=$?
    if [ "$status" -eq "$code" ]; then
        pass
    else
        fail "$name: exit code $status, expected $code" "$T/err"
    fi
}

# named_options FILE ARGUMENT...: the last line of FILE, "align COMMAND: ...", names no option that
# the command lacks; what was typed may be named, whatever it is.
named_options() {
    command=$(tail -n 1 "$1" | sed -n 's/^align \([a-z]*\):.*/\1/p')
    said=$(tail -n 1 "$1" | grep -o -- '[a-z-]*--[a-z][a-z-]*[a-z]' | grep '^--' | sort -u)
    shift
    [ -n "$command" ] && [ -n "$said" ] || return 0
    [ -s "$T/options.table" ] || align --options >"$T/options.table"
    for option in $said; do
        case $option in --help | --help-all | --config | --options | --version) continue ;; esac
        case " $* " in *"$option"*) continue ;; esac
        grep -Eq "^\| .$option.[^|]*\|[^|]* $command " "$T/options.table" && continue
        echo "align $command has no $option, but its message names it" >"$T/options.wrong"
        return 1
    done
}

# refuses NAME CODE PATTERN COMMAND...: ends with the code, and the last line of stderr begins with
# "align" and matches the pattern (grep -E); it names no option that the command lacks.
refuses() {
    name=$1 code=$2 pattern=$3
    shift 3
    "$@" >"$T/out" 2>"$T/err" </dev/null
    status=$?
    if [ "$status" -ne "$code" ]; then
        fail "$name: exit code $status, expected $code" "$T/err"
    elif ! tail -n 1 "$T/err" | grep -q '^align'; then
        fail "$name: the last line of stderr is not ours" "$T/err"
    elif ! tail -n 1 "$T/err" | grep -Eq -- "$pattern"; then
        fail "$name: the last line does not match $pattern" "$T/err"
    elif ! named_options "$T/err" "$@"; then
        fail "$name: advice that leads nowhere" "$T/options.wrong"
    else
        pass
    fi
}

# same NAME FILE FILE
same() { check "$1" cmp "$2" "$3"; }

# has NAME PATTERN FILE
has() {
    if grep -Eq -- "$2" "$3"; then pass; else fail "$1: no line matches $2" "$3"; fi
}

# lines NAME COUNT FILE
lines() {
    n=$(wc -l <"$3")
    if [ "$n" -eq "$2" ]; then pass; else fail "$1: $n lines, expected $2" "$3"; fi
}

# prompts COUNT DEMONSTRATION: rows for align cycle on standard output, harm levels in turn.
prompts() {
    i=0
    while [ $i -lt "$1" ]; do
        echo "{\"prompt\":\"p$i\",\"base_prompt\":\"b$i\",\"harmful_level\":$((i % 4)),\"demonstration\":\"$2\"}"
        i=$((i + 1))
    done
}

# A phrase table for the tiny model on standard output: "no" refuses, all else accepts.
no_refuses() {
    cat <<'END'
{"action":"accept","weight":1,"place":"any","phrase":""}
{"action":"refuse","weight":3,"place":"start","phrase":"no"}
{"action":"caution","weight":1,"place":"start","phrase":"perhaps"}
END
}

# The tiny model, made once: $MODEL.
MODEL=$T/model
# shellcheck disable=SC2086
$RUNNER "$TOOLS/tool_model" "$MODEL" || { echo "tool_model failed"; exit 1; }

finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
