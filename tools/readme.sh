#!/bin/sh
# readme.sh - what README.md shows of the demo is pasted from a run of it, and compared with one.
#
#   make demo >LOG && tools/readme.sh LOG            pastes
#   tools/readme.sh --check LOG                      says whether README.md shows what LOG has
#   tools/readme.sh --check LOG dpo                  ... of its first part alone
set -eu
cd "$(dirname "$0")/.."
check=
[ "$1" != --check ] || { check=1 && shift; }
log=$1 only=${2-}
work=$(mktemp -d "${TMPDIR:-/tmp}/align-readme.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Of the training table each other line, of the answers those to the first and the last question, of
# the loop the table, and of its choices those of the first cycle.
awk -v only="$only" '
/^== / {
    part = $2
    sub(/:$/, "", part)
    if (part == "KTO" && only == "dpo") exit
    if (part != "KTO") { print ""; print; rows = 0 }
    next
}
part == "DPO" && /^ *step / { print; begun = 1; next }
part == "DPO" && begun && /^ *[0-9]/ { if (rows++ % 2 == 0) print; next }
part == "Answers" && /^harm [03] / { show = !seen[$2]++ }
part == "Answers" && /^harm [12] / { show = 0 }
part == "Answers" && show && !/^  kto/ { print; next }
part == "The" && /^(validation|cycle [0-9]|test) / { print; next }
part == "The" && /^    (kto|dpo) / && !shown[$1]++ { gsub(/; /, ";\n        "); print }
' "$log" | sed 1d >"$work/screen"

sed -n '/^<!-- demo -->$/,/^<!-- end of demo -->$/{/^<!--/d;/^```/d;p;}' README.md >"$work/shown"
if [ -n "$check" ]; then
    [ "$only" != dpo ] || head -n "$(wc -l <"$work/screen")" "$work/shown" >"$work/part"
    [ "$only" != dpo ] || mv "$work/part" "$work/shown"
    diff "$work/shown" "$work/screen" || { echo "README.md shows another run: tools/readme.sh"; exit 1; }
    exit 0
fi
awk -v list="$work/screen" '
$0 == "<!-- end of demo -->" { print "```"; inside = 0 }
!inside { print }
$0 == "<!-- demo -->" { inside = 1; print "```text"; while ((getline line < list) > 0) print line }
' README.md >"$work/readme"
cat "$work/readme" >README.md
