#!/bin/sh
# cli_floors.sh - the floor checker accepts this house, and sees each kind of wrong include.
here=$(cd "$(dirname "$0")" && pwd)
house=$(mktemp -d) || exit 1
trap 'rm -rf "$house"' EXIT
passed=0
failed=0

# check NAME EXPECTED-STATUS EXPECTED-TEXT DIRECTORY [OBJECTS]
check() {
    out=$(sh "$here/floors.sh" "$4" ${5+"$5"})
    status=$?
    if [ "$status" -eq "$2" ] && printf '%s' "$out" | grep -q "$3"; then
        passed=$((passed + 1))
    else
        echo "FAIL $1: status $status, output: $out"
        failed=$((failed + 1))
    fi
}

check "this house stands" 0 " 0 wrong" "$here/.."
echo '#include "base.h"' > "$house/io.c"
check "downwards is fine" 0 "1 files, 1 includes checked, calls not, 0 wrong" "$house"
echo '#include "model.h"' > "$house/base.c"
check "upwards" 1 "base.c:1: base (floor 0) includes model (floor 3): a higher floor" "$house"
echo ' # include "io.h"' > "$house/base.c"
mv "$house/base.c" "$house/json_more.c"
check "to the right" 1 "json_more.c:1: .* to its right" "$house"
: > "$house/json_more.c"
echo '#include "attic.h"' > "$house/io.c"
check "nowhere" 1 'includes "attic.h", which is no room' "$house"
rm "$house/io.c"
: > "$house/attic.c"
check "unknown room" 1 'room "attic" has no place' "$house"
rm "$house/attic.c"
rm -f "$house/json_more.c"
: > "$house/tensor_more.c"
check "a file without a place in its room" 1 'tensor_more.c: has no place in its room "tensor"' "$house"
rm "$house/tensor_more.c"

# Calls, as the linker sees them: files of one room have an order, too.
if command -v nm >/dev/null && command -v "${CC:-cc}" >/dev/null; then
    echo 'int below(void) { return 1; }' > "$house/train_rows.c"
    echo 'int below(void); int above(void) { return below(); }' > "$house/train.c"
    mkdir "$house/tests"
    echo 'above();' > "$house/tests/test_train.c"
    for f in train_rows train; do "${CC:-cc}" -c "$house/$f.c" -o "$house/$f.o"; done
    check "what only a test uses" 1 "train.c: only tests use above" "$house" "$house"
    echo '/* above: a door for tests */' >> "$house/train.c"
    check "a call downwards" 0 "0 includes and 1 calls checked, 0 wrong" "$house" "$house"
    : > "$house/tests/test_train.c"
    check "what nobody uses" 1 "train.c: above is used by no other file" "$house" "$house"
    echo 'int above(void); int below(void) { return above(); }' > "$house/train_rows.c"
    "${CC:-cc}" -c "$house/train_rows.c" -o "$house/train_rows.o"
    check "a call upwards inside a room, and so a circle" 1 \
        "train_rows.c: uses above of train.c, which stands further up the house" "$house" "$house"
else
    echo "calls skipped: no nm or no compiler"
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
