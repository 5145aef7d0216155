#!/bin/sh
# Breaks the code on purpose, one line at a time, and checks that a named test notices.
#
# tests/mutants.txt lists them in blocks of four lines:
#     file: tape.c
#     find: text that stands exactly once in the file
#     put:  what takes its place
#     kill: double_tape linear_with_adapter        (test program, test)
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
    case $f in align.c | align_*.c | options.c) continue ;; esac
    compile "$f" "$dir/float/${f%.c}.o" "" || exit 1
    case $f in
    tensor_avx*.c | tensor_neon*.c) ;;
    *) compile "$f" "$dir/double/${f%.c}.o" -DREAL=double || exit 1 ;;
    esac
done

killed=0
failed=0
one() { # file find put program test
    case $4 in double_*) kind=double extra=-DREAL=double ;; *) kind=float extra= ;; esac
    awk -v find="$2" -v put="$3" '
        { at = index($0, find)
          if (at) { n++; $0 = substr($0, 1, at - 1) put substr($0, at + length(find)) }
          print }
        END { exit n == 1 ? 0 : 1 }' "$1" > "$dir/mutant.c"
    if [ $? -ne 0 ]; then
        echo "NOT FOUND ONCE  $1: $2"
        failed=$((failed + 1))
        return
    fi
    if ! compile "$dir/mutant.c" "$dir/mutant.o" "$extra" 2> "$dir/log"; then
        echo "DOES NOT COMPILE  $1: $3"
        failed=$((failed + 1))
        return
    fi
    objects=
    for o in $dir/$kind/*.o; do
        [ "$(basename "$o")" = "$(basename "${1%.c}").o" ] || objects="$objects $o"
    done
    if ! $cc $flags $extra "tests/$4.c" $dir/mutant.o $objects -o "$dir/test" -lm 2> "$dir/log"; then
        echo "DOES NOT LINK  $1: $3"
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

file= find= put=
while IFS= read -r line; do
    case $line in
    "file: "*) file=${line#file: } ;;
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
