#!/bin/sh
# The house has floors, and on each floor the rooms stand in a row. A file may include rooms of
# lower floors and rooms to its left on its own floor: the order below, read from top to bottom and
# from left to right, is the only direction in which knowledge flows. A room that was split into
# several files (train_checkpoint.c) keeps its name as their prefix.
# Usage: tests/floors.sh [DIRECTORY]     (exit 1 where an include goes up, right or nowhere)

house="base maths
tensor json io html
tape tokenizer chat
lora model
data kto dpo score generate
train judge evaluate
bench report cycle
options align"

cd "${1:-$(dirname "$0")/..}" || exit 1
files=$(ls ./*.c ./*.h 2>/dev/null)
[ -n "$files" ] || { echo "floors: no source files here"; exit 1; }

# shellcheck disable=SC2086 # the list of files is meant to be split
awk -v house="$house" '
function room_of(file,   r) { # "./train_checkpoint.c" -> "train"
    r = file
    sub(/^.*\//, "", r)
    sub(/\.[ch]$/, "", r)
    sub(/_.*$/, "", r)
    return r
}
BEGIN {
    floors = split(house, row, "\n")
    for (i = 1; i <= floors; i++) {
        rooms = split(row[i], name, " ")
        for (k = 1; k <= rooms; k++) {
            floor_of[name[k]] = i - 1
            place[name[k]] = ++places
        }
    }
    for (i = 1; i < ARGC; i++) { # here and not at their first line: a file may be empty
        from = room_of(ARGV[i])
        if (!(from in place)) {
            printf "%s: room \"%s\" has no place in the house\n", ARGV[i], from
            bad++
        }
    }
}
FNR == 1 { from = room_of(FILENAME) }
/^[ \t]*#[ \t]*include[ \t]*"/ {
    included++
    target = $0
    sub(/^[^"]*"/, "", target)
    sub(/".*$/, "", target)
    to = room_of(target)
    if (!(to in place)) {
        printf "%s:%d: includes \"%s\", which is no room of the house\n", FILENAME, FNR, target
        bad++
    } else if (from in place && place[to] > place[from]) {
        why = "to its right on the same floor"
        if (floor_of[to] > floor_of[from]) why = "a higher floor"
        printf "%s:%d: %s (floor %d) includes %s (floor %d): %s\n", FILENAME, FNR, from,
            floor_of[from], to, floor_of[to], why
        bad++
    }
}
END {
    printf "floors: %d files, %d includes checked, %d wrong\n", ARGC - 1, included, bad + 0
    exit bad > 0
}' $files
