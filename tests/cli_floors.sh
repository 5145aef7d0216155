#!/bin/sh
# cli_floors.sh - the floor checker accepts this house, and sees each kind of wrong include.
here=$(cd "$(dirname "$0")" && pwd)
house=$(mktemp -d) || exit 1
trap 'rm -rf "$house"' EXIT
passed=0
failed=0

# check NAME EXPECTED-STATUS EXPECTED-TEXT DIRECTORY
check() {
    out=$(sh "$here/floors.sh" "$4")
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
check "downwards is fine" 0 "1 files, 1 includes checked, 0 wrong" "$house"
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
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
