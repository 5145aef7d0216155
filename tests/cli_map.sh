#!/bin/sh
# MAP.md, OPTIONS.md and the pictures are what make map writes; what they name is there.
. "$(dirname "$0")/lib.sh"

ALIGN="$ALIGN" TOOLS="$TOOLS" RUNNER="${RUNNER-}" sh tools/map.sh "$T" >"$T/out" 2>"$T/err"
check "tools/map.sh: $(tail -n 1 "$T/err")" test ! -s "$T/err"
for f in MAP.md OPTIONS.md docs/floors.svg docs/loop.svg; do
    same "$f is not what the sources say: run make map" "$f" "$T/$f"
done

# Every source file is in the list, once.
for f in *.c *.h; do
    [ "$(grep -cF "| [\`$f\`]($f) |" MAP.md)" -eq 1 ] || echo "$f"
done >"$T/missing"
lines "every file is in MAP.md once: $(head -n 1 "$T/missing")" 0 "$T/missing"

# Every step of the walks is a function that its file defines: a name at the beginning of a line's
# declaration, with a body. The steps are numbered from 1 on, and there are three walks.
awk '
FNR == 1 { type = "" }
/^[A-Za-z][A-Za-z0-9_ *]*[ *][a-z][a-z0-9_]*\(/ && !/;[ \t]*$/ {
    name = $0
    sub(/\(.*/, "", name)
    sub(/.*[ *]/, "", name)
    declared = name
}
/^\{/ && declared != "" { print FILENAME, declared; declared = "" }
/;[ \t]*$/ { declared = "" }' ./*.c ./*.h | sed 's|^\./||' | sort -u >"$T/defined"
check "definitions are found" test "$(wc -l <"$T/defined")" -gt 1500
grep -E '^[0-9]+\. ' MAP.md >"$T/steps"
sed -n 's/^[0-9]*\. \[`\([a-z0-9_]*\.[ch]\)`\](\([^)]*\)) `\([a-z0-9_]*\)`: .*/\1 \2 \3/p' "$T/steps" \
    >"$T/walks"
lines "each step names a file and a function" "$(wc -l <"$T/steps")" "$T/walks"
check "there are steps" test "$(wc -l <"$T/walks")" -gt 40
while read -r file link function; do
    [ "$file" = "$link" ] && grep -qx "$file $function" "$T/defined" || echo "$file $function"
done <"$T/walks" >"$T/wrong"
lines "a walk names what is not there: $(head -n 1 "$T/wrong")" 0 "$T/wrong"
check "three walks" test "$(grep -c '^1\. ' "$T/steps")" -eq 3
awk '{ n = $1 + 0; if (n != 1 && n != last + 1) print; last = n }' "$T/steps" >"$T/wrong"
lines "steps are numbered: $(head -n 1 "$T/wrong")" 0 "$T/wrong"

# Each place of "Where it is done" is a function, or a table, that its file defines.
sed -n '/^## Where it is done/,/^## The files/s/^| .* | \(.*\) |$/\1/p' MAP.md | grep -v '^place$' \
    >"$T/rows"
sed -n 's/^\[`\([a-z0-9_]*\.c\)`\](\([^)]*\)) `\([A-Za-z0-9_]*\)`$/\1 \2 \3/p' "$T/rows" >"$T/places"
lines "each place names a file and a function or table" "$(wc -l <"$T/rows")" "$T/places"
check "there are places" test "$(wc -l <"$T/places")" -gt 10
while read -r file link name; do
    [ "$file" = "$link" ] || echo "$file $link"
    grep -qx "$file $name" "$T/defined" || grep -q "^static const .*[ *]$name\[.*\] = {" "$file" ||
        echo "$file $name"
done <"$T/places" >"$T/wrong"
lines "a place is not there: $(head -n 1 "$T/wrong")" 0 "$T/wrong"

# Links between the pages lead to files and headings that exist.
for page in README.md MAP.md OPTIONS.md LOOP.md KERNELS.md CONTRIBUTING.md; do
    grep -o '](\([^)]*\))' "$page" | sed 's/^](//; s/)$//' | grep -v '^https\{0,1\}:' |
        while IFS= read -r link; do
            target=${link%%#*} anchor=
            case $link in *'#'*) anchor=${link#*#} ;; esac
            [ -e "${target:-$page}" ] || echo "$page: $link"
            [ -z "$anchor" ] || sed -n 's/^##* //p' "${target:-$page}" | tr '[:upper:]' '[:lower:]' |
                sed -e "s/[^a-z0-9 _-]//g" -e 's/ /-/g' | grep -qx -- "$anchor" ||
                echo "$page: $link"
        done
done >"$T/wrong"
lines "links: $(head -n 1 "$T/wrong")" 0 "$T/wrong"

# Words of the glossary stand in the order of the alphabet, so that one finds them.
sed -n '/^## The words/,$s/^| \*\*\([^*]*\)\*\*.*/\1/p' MAP.md | tr '[:upper:]' '[:lower:]' |
    sed -e 's/₀//' -e 's/[, ].*//' >"$T/words"
check "there are words" test "$(wc -l <"$T/words")" -gt 40
LC_ALL=C sort "$T/words" >"$T/sorted"
same "the glossary is sorted" "$T/sorted" "$T/words"

# The files that the picture of the loop says are written are those of a real run: cycle_run's.
prompts 24 "I cannot help with that, sorry." >"$T/prompts.jsonl"
gives "a run" 0 align cycle -m "$MODEL" --data "$T/prompts.jsonl" -o "$T/run" --cycles 1 --raw \
    --samples 2 --max-tokens 4 --steps 1 --quiet
sed -n '/^<!-- stages -->$/,/^<!-- end of stages -->$/s/^| \*\*\([a-z-]*\)\*\* .* | \([^|]*\) |$/\1: \2/p' \
    LOOP.md >"$T/stages"
lines "the stages" 9 "$T/stages"
grep -v '^sign-off' "$T/stages" | grep -o '`[^`]*`' | tr -d '`' | sed 's/cycle-N/cycle-1/' \
    >"$T/written"
while IFS= read -r f; do
    [ -e "$T/run/$f" ] || echo "$f"
done <"$T/written" | grep -v '^cycle-1/adapter$' >"$T/wrong" # only where a candidate is promoted
lines "the loop writes: $(head -n 1 "$T/wrong")" 0 "$T/wrong"

finish
