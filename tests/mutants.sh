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
# As many lanes as there are processors (JOBS) share the list, each with a folder of its own.
PATTERN=${1-}
cc=${CC:-cc}
dir=build/mutants
lanes=${JOBS:-$(getconf _NPROCESSORS_ONLN || echo 1)}
flags="-std=c11 -O1 -ffp-contract=off -w -I."
rm -rf $dir
mkdir -p $dir/float $dir/double

compile() { # file, object, more flags
    $cc $flags $3 -c "$1" -o "$2"
}

# The unbroken objects of one kind of number, once.
objects() { # folder, more flags
    for f in *.c; do
        case $f in align.c | align_*.c) continue ;; esac
        compile "$f" "$dir/$1/${f%.c}.o" "$2" || return 1
    done
}
objects double -DREAL=double &
objects float "" || exit 1
wait $! || exit 1

ar rcs $dir/float.a $dir/float/*.o
ar rcs $dir/double.a $dir/double/*.o

# The tests' own objects, once: only what they are linked with is broken.
kind_flags() { # test
    case $1 in double_*) echo -DREAL=double ;; esac
}
at=0
for t in $(sed -n 's/^kill: *\([a-z0-9_]*\) .*/\1/p' tests/mutants.txt | sort -u); do
    compile "tests/$t.c" "$dir/$t.o" "$(kind_flags "$t")" &
    at=$((at + 1))
    [ $((at % lanes)) -ne 0 ] || wait
done
wait

one() { # file find put program test
    case $4 in double_*) kind=double ;; *) kind=float ;; esac
    extra=$(kind_flags "$4")
    rm -rf "$own/broken"
    mkdir "$own/broken"
    if ! FIND=$2 PUT=$3 awk '
        BEGIN { find = ENVIRON["FIND"]; put = ENVIRON["PUT"] }
        { at = index($0, find)
          if (at) { n++; $0 = substr($0, 1, at - 1) put substr($0, at + length(find)) }
          print }
        END { exit n == 1 ? 0 : 1 }' "$1" > "$own/broken/$1"; then
        echo "NOT FOUND ONCE  $1: $2"
        failed=$((failed + 1))
        return
    fi
    unit=$1
    case $1 in *.h) unit=$with; cp "$unit" "$own/broken/" ;; esac
    if ! compile "$own/broken/$unit" "$own/mutant.o" "$extra" 2> "$own/log" ||
        ! $cc "$dir/$4.o" $own/mutant.o $dir/$kind.a -o "$own/test" -lm 2> "$own/log"; then
        echo "DOES NOT COMPILE  $1: $3"
        head -3 "$own/log"
        failed=$((failed + 1))
        return
    fi
    if timeout 60 "$own/test" "$5" > "$own/log" 2>&1; then
        echo "SURVIVED  $1: '$2' -> '$3'   ($4 $5)"
        failed=$((failed + 1))
    elif grep -q '^0 passed, 0 failed' "$own/log"; then
        echo "NO SUCH TEST  $4 $5"
        failed=$((failed + 1))
    else
        echo "killed by $4 $5: $1: '$2' -> '$3'"
        killed=$((killed + 1))
    fi
}

lane() { # its number, from 0: takes every mutant whose place in the list leaves this remainder
    mine=$1 own=$dir/lane-$1
    mkdir "$own"
    killed=0 failed=0 place=0
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
            case "$file $find $put $*" in
            *"$PATTERN"*)
                if [ $((place % lanes)) -eq "$mine" ]; then
                    one "$file" "$find" "$put" "$@"
                fi
                place=$((place + 1))
                ;;
            esac
            ;;
        esac
    done <tests/mutants.txt
    echo "$killed $failed" >"$own/count"
}

n=0
while [ $n -lt "$lanes" ]; do
    lane $n &
    n=$((n + 1))
done
wait
killed=0 failed=0 n=0
while [ $n -lt "$lanes" ]; do
    p=0 f=1 # a lane that died counts as a failure
    if [ -s "$dir/lane-$n/count" ]; then read -r p f <"$dir/lane-$n/count"; fi
    killed=$((killed + p))
    failed=$((failed + f))
    n=$((n + 1))
done
echo "$killed passed, $failed failed"
[ $failed -eq 0 ]
