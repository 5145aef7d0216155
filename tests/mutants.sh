#!/bin/sh
# Breaks the code on purpose, one line at a time, and checks that a named test notices.
#
# tests/mutants.txt lists them in blocks of four lines:
#     file: tape.c
#     find: text that stands exactly once in the file
#     put:  what takes its place
#     kill: double_tape linear_with_adapter        (test program, test)
# For a header, a line "with: tensor.c" names the file that is compiled with the broken copy.
# A mutant that compiles and is not killed, or whose text is not found exactly once, is a failure.
# Usage: tests/mutants.sh [PATTERN]   (only mutants whose block contains PATTERN)
PATTERN=${1-}
cc=${CC:-cc}
dir=build/mutants
flags="-std=c11 -O1 -ffp-contract=off -w -I."
rm -rf $dir
mkdir -p $dir/float $dir/double

compile() { # file, object, more flags
    $cc $flags $3 -c "$1" -o "$2"
}

# The unbroken objects, once.
for f in *.c; do
    case $f in align.c | align_*.c) continue ;; esac
    compile "$f" "$dir/float/${f%.c}.o" "" || exit 1
    compile "$f" "$dir/double/${f%.c}.o" -DREAL=double || exit 1
done

ar rcs $dir/float.a $dir/float/*.o
ar rcs $dir/double.a $dir/double/*.o

killed=0
failed=0
one() { # file find put program test
    case $4 in double_*) kind=double extra=-DREAL=double ;; *) kind=float extra= ;; esac
    rm -rf "$dir/broken"
    mkdir "$dir/broken"
    if ! FIND=$2 PUT=$3 awk '
        BEGIN { find = ENVIRON["FIND"]; put = ENVIRON["PUT"] }
        { at = index($0, find)
          if (at) { n++; $0 = substr($0, 1, at - 1) put substr($0, at + length(find)) }
          print }
        END { exit n == 1 ? 0 : 1 }' "$1" > "$dir/broken/$1"; then
        echo "NOT FOUND ONCE  $1: $2"
        failed=$((failed + 1))
        return
    fi
    unit=$1
    case $1 in *.h) unit=$with; cp "$unit" "$dir/broken/" ;; esac
    if ! compile "$dir/broken/$unit" "$dir/mutant.o" "$extra" 2> "$dir/log" ||
        ! $cc $flags $extra "tests/$4.c" $dir/mutant.o $dir/$kind.a -o "$dir/test" \
            -lm 2> "$dir/log"; then
        echo "DOES NOT COMPILE  $1: $3"
        head -3 "$dir/log"
        failed=$((failed + 1))
        return
    fi
    if timeout 60 "$dir/test" "$5" > "$dir/log" 2>&1; then
        echo "SURVIVED  $1: '$2' -> '$3'   ($4 $5)"
        failed=$((failed + 1))
    elif grep -q '^0 passed, 0 failed' "$dir/log"; then
        echo "NO SUCH TEST  $4 $5"
        failed=$((failed + 1))
    else
        echo "killed by $4 $5: $1: '$2' -> '$3'"
        killed=$((killed + 1))
    fi
}

file= find= put= with=
while IFS= read -r line; do
    case $line in
    "file: "*) file=${line#file: } ;;
    "with: "*) with=${line#with: } ;;
    "find: "*) find=${line#find: } ;;
    "put: "*) put=${line#put: } ;;
    "put:") put= ;;
    "kill: "*)
        set -- ${line#kill: }
        case "$file $find $put $1 $2" in
        *"$PATTERN"*) one "$file" "$find" "$put" "$1" "$2" ;;
        esac
        ;;
    esac
done < tests/mutants.txt
echo "$killed passed, $failed failed"
[ $failed -eq 0 ]
