#!/bin/sh
# map.sh - writes what is made from the sources: the list of files in MAP.md, the table of options in
# OPTIONS.md, and the two pictures, docs/floors.svg and docs/loop.svg.
#
# Usage: tools/map.sh [FOLDER]    writes into FOLDER instead of the project: tests compare the two
# ALIGN is the program (./align), TOOLS the folder of tool_picture (build/tests), RUNNER what runs it.
#
# A list stands between two marks, "<!-- NAME -->" and "<!-- end of NAME -->"; the text around it is
# written by hand. Rooms and floors come from tests/floors.sh, what a file does from the first
# sentence of its first comment, what a stage of the loop reads and writes from a table of LOOP.md.
set -eu
export LC_ALL=C # sort, and the order of names
cd "$(dirname "$0")/.."
out=${1:-.}
work=$(mktemp -d "${TMPDIR:-/tmp}/align-map.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$out/docs"

# Rooms of the product; all others are the engine's. A floor has the name of a room that stands on it.
product="html judge evaluate gate bench report cycle align"
floor_names="base=ground,tensor=kernels and files,tape=operations and text,model=model,dpo=methods\
,train=training and judging,cycle=the loop,align=commands"

# replace FILE NAME LIST: FILE with what stands between its marks of NAME replaced, into $out.
replace() {
    for mark in "<!-- $2 -->" "<!-- end of $2 -->"; do
        [ "$(grep -cxF -- "$mark" "$1")" -eq 1 ] || { echo "$1: not one line \"$mark\"" >&2; exit 1; }
    done
    awk -v from="<!-- $2 -->" -v to="<!-- end of $2 -->" -v list="$3" '
        $0 == to { inside = 0 }
        !inside { print }
        $0 == from { inside = 1; while ((getline line < list) > 0) print line }' "$1" >"$work/new"
    cat "$work/new" >"$out/$1"
}

# ---- the house, a fact a line: floor NAME, room NAME HALF, file ROOM NAME SENTENCE, rests A B -------

sh tests/floors.sh --list | awk -v product=" $product " -v names="$floor_names" '
{
    name = "floor " NR
    for (n = split(names, pair, ","); n > 0; n--) {
        split(pair[n], part, "=")
        if ($0 ~ "(^| )" part[1] "([+_ ]|$)") name = part[2]
    }
    print "floor\t" name
    for (i = 1; i <= NF; i++) {
        room = $i
        sub(/[_+].*/, "", room)
        print "room\t" room "\t" (index(product, " " room " ") ? "product" : "engine")
        for (n = split($i, file, "+"); n > 0; n--) place[n] = file[n]
        for (n = 1; n in place; n++) print "file\t" room "\t" place[n]
        for (n in place) delete place[n]
    }
}' >"$work/house"

# The first sentence of a file: its first comment, from behind "NAME - " to a full stop.
sentence() {
    awk -v name="$1" '
        NR == 1 && index($0, "/* " name " - ") != 1 {
            print name ":1: the first line must be \"/* " name " - what it does\"" >"/dev/stderr"
            exit 1
        }
        NR == 1 { $0 = substr($0, length("/* " name " - ") + 1) }
        NR > 1 { sub(/^ \* ?/, "") }
        /^ *\*?\/?$/ { exit }
        { text = text (text == "" ? "" : " ") $0 }
        / *\*\/$/ { exit }
        END {
            sub(/ *\*\/$/, "", text)
            gsub(/et al\. /, "et al\001 ", text)
            if (match(text, /\.( |$)/)) text = substr(text, 1, RSTART - 1)
            gsub(/\001/, ".", text)
            gsub(/\|/, "\\|", text)
            print text
        }' "$1"
}

# Headers stand before the files of their room; one beside a .c of the same name just before it.
tab=$(printf '\t')
while IFS="$tab" read -r kind room file; do
    case $kind in
    floor | room)
        printf '%s\t%s\t%s\n' "$kind" "$room" "$file"
        [ "$kind" = floor ] || [ ! -e "$room.h" ] ||
            printf 'file\t%s\t%s\t%s\n' "$room" "$room.h" "$(sentence "$room.h")"
        [ "$kind" = floor ] || for h in "$room"_*.h; do
            [ ! -e "$h" ] || printf 'file\t%s\t%s\t%s\n' "$room" "$h" "$(sentence "$h")"
        done
        ;;
    file) printf 'file\t%s\t%s\t%s\n' "$room" "$file.c" "$(sentence "$file.c")" ;;
    esac
done <"$work/house" >"$work/files"

# A line from a room to another that it includes, unless the way leads through a third one anyway.
for f in ./*.c ./*.h; do
    sed -n 's/^#include "\([a-z0-9]*\)[_.].*/\1/p' "$f" | sed "s|^|$(basename "$f" | sed 's/[_.].*//') |"
done | sort -u | awk '
$1 != $2 { include[$1, $2] = 1; room[$1]; room[$2] }
function leads(a, b,   m) {
    if ((a, b) in known) return known[a, b]
    known[a, b] = 0
    for (m in room) if ((a, m) in include && (m == b || leads(m, b))) known[a, b] = 1
    return known[a, b]
}
END {
    for (pair in include) {
        split(pair, p, SUBSEP)
        direct = 1
        for (m in room) if ((p[1], m) in include && m != p[2] && leads(m, p[2])) direct = 0
        if (direct) print "rests\t" p[1] "\t" p[2]
    }
}' | sort >"$work/rests"

# ---- the list of files ---------------------------------------------------------------------------

list_half() {
    awk -F '\t' -v half="$1" '
        $1 == "floor" { floor = $2; begun = 0 }
        $1 == "room" { mine = $3 == half; room = $2; first = 1 }
        $1 == "file" && mine {
            if (!begun++) print "\n**" toupper(substr(floor, 1, 1)) substr(floor, 2) \
                "**\n\n| room | file | what it does |\n|---|---|---|"
            print "| " (first ? "**" room "**" : "") " | [`" $3 "`](" $3 ") | " $4 " |"
            first = 0
        }' "$work/files"
}
{
    printf '### The engine\n'
    list_half engine
    printf '\n### The product\n'
    list_half product
    echo
} >"$work/list"
replace MAP.md files "$work/list"

# ---- the table of options --------------------------------------------------------------------------

# ALIGN may hold a wrapper and its arguments, RUNNER too: split into words on purpose.
# shellcheck disable=SC2086
${ALIGN:-./align} --options >"$work/options"
replace OPTIONS.md options "$work/options"

# ---- the pictures ----------------------------------------------------------------------------------

draw() { # draw PICTURE LIST
    # shellcheck disable=SC2086
    ${RUNNER-} "${TOOLS:-build/tests}/tool_picture" "$1" <"$2" >"$work/svg"
    cat "$work/svg" >"$out/docs/$1.svg"
}
{ grep -v '^file' "$work/files" && cat "$work/rests"; } | sed "s/$tab*\$//" >"$work/floors"
draw floors "$work/floors"
# A row of the table of LOOP.md: | **stage** | what it does | reads | writes |
sed -n '/^<!-- stages -->$/,/^<!-- end of stages -->$/s/^| \(\*\*.*\) |$/\1/p' LOOP.md |
    awk -F ' *[|] *' -v OFS='\t' '{ gsub(/[`*]/, ""); print "stage", $1, $2, $3, $4 }' >"$work/loop"
draw loop "$work/loop"
