#!/bin/sh
# demo_seeds.sh - does the demo hold, by more than one seed and whatever stops it?
#   tools/demo_seeds.sh            the loop with seeds 1, 2 and 3: first against last policy
#   tools/demo_seeds.sh --kill N   the loop of seed 1, killed at N random moments and resumed: its
#                                  files must be those of a run that nothing happened to
# Everything it writes lies under demo/seeds/ and demo/killed/. ALIGN names another program than ./align.
set -eu
cd "$(dirname "$0")/.."
mkdir -p demo
out=demo/seeds
[ "${1:-}" = --kill ] && out=demo/killed
rm -rf "$out"
mkdir "$out"

# The files of a run and their hashes, without what holds times: seconds in metrics.jsonl, the
# ledger (and the report, which names its head).
files_of() {
    (cd "$1" && find . -type f ! -name LOCK ! -name ledger.jsonl ! -name report.html \
        ! -path '*/checkpoints/*' | sort | while read -r f; do
        printf '%s ' "$f"
        sed -E 's/"(seconds|tokens_per_second)":[^,}]*//g' "$f" | cksum
    done)
}

if [ "${1:-}" = --kill ]; then
    kills=$2
    began=$(date +%s)
    sh tools/demo_loop.sh 1 "$out"/loop >/dev/null 2>&1
    took=$(($(date +%s) - began))
    mv "$out"/loop "$out"/whole
    done_=0
    # Moments spread at random over the time the whole run took, in order; seed fixed.
    awk -v n="$kills" -v t="$took" 'BEGIN { srand(7); for (i = 0; i < n; i++) print rand() * t }' |
        sort -n | awk '{ printf "%.2f\n", $1 - last; last = $1 }' >"$out"/moments
    while read -r pause; do
        sh tools/demo_loop.sh 1 "$out"/loop --resume >/dev/null 2>&1 &
        loop=$!
        sleep "$pause"
        if kill -9 "$loop" 2>/dev/null; then done_=$((done_ + 1)); fi
        wait "$loop" 2>/dev/null || :
    done <"$out"/moments
    sh tools/demo_loop.sh 1 "$out"/loop --resume >"$out"/out 2>/dev/null
    files_of "$out"/whole >"$out"/whole.txt
    files_of "$out"/loop >"$out"/killed.txt
    cmp "$out"/whole.txt "$out"/killed.txt
    "${ALIGN:-./align}" inspect "$out"/loop --verify
    echo "killed $done_ times and resumed: the same $(wc -l <"$out"/whole.txt) files"
    exit
fi

for seed in 1 2 3; do
    began=$(date +%s)
    sh tools/demo_loop.sh "$seed" "$out/$seed" >"$out/$seed.txt" 2>/dev/null
    printf 'seed %s, %d seconds\n' "$seed" $(($(date +%s) - began))
    sed -n '/^validation/,/^change.*refusal/p' "$out/$seed.txt"
done
