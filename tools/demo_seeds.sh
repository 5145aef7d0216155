#!/bin/sh
# demo_seeds.sh - does the demo hold, by more than one seed and whatever stops it?
#   tools/demo_seeds.sh [SEED ...]  the loop with these seeds (1, 2 and 3): each cycle's policy,
#                                   then the first against the last one on the test prompts
#   tools/demo_seeds.sh --kill N    the loop of seed 1, killed at N random moments and resumed: its
#                                   files must be those of a run that nothing happened to
# Everything it writes lies under demo/seeds/ and demo/killed/. ALIGN names another program.
set -eu
cd "$(dirname "$0")/.."

# The files of a run and their hashes, without what holds times: seconds in metrics.jsonl, the
# ledger (and the report, which names its head).
files_of() {
    (cd "$1" && find . -type f ! -name LOCK ! -name ledger.jsonl ! -name report.html \
        ! -path '*/checkpoints/*' | sort | while read -r f; do
        printf '%s ' "$f"
        sed -E 's/"(seconds|tokens_per_second)":[^,}]*//g' "$f" | cksum
    done)
}

# Moments spread at random over so many seconds, as pauses between one and the next; seed fixed.
moments() {
    awk -v n="$1" -v t="$2" 'BEGIN { srand(7); for (i = 0; i < n; i++) print rand() * t }' |
        sort -n | awk '{ printf "%.2f\n", $1 - last; last = $1 }'
}

# Both runs have one path, for the training runs' config.json names it.
kill_and_resume() {
    out=demo/killed
    rm -rf "$out"
    mkdir -p "$out"
    began=$(date +%s)
    sh tools/demo_loop.sh 1 "$out/loop" >"$out/whole.out" 2>&1
    took=$(($(date +%s) - began))
    mv "$out/loop" "$out/whole"
    killed=0
    moments "$1" "$took" >"$out/moments"
    while read -r pause; do
        sh tools/demo_loop.sh 1 "$out/loop" --resume >>"$out/killed.out" 2>&1 &
        loop=$!
        sleep "$pause"
        kill -9 "$loop" 2>/dev/null || :
        status=0
        wait "$loop" 2>/dev/null || status=$?
        [ "$status" -ne 137 ] || killed=$((killed + 1)) # 128 + SIGKILL: it had not ended by itself
    done <"$out/moments"
    sh tools/demo_loop.sh 1 "$out/loop" --resume >>"$out/killed.out" 2>&1
    files_of "$out/whole" >"$out/whole.txt"
    files_of "$out/loop" >"$out/killed.txt"
    cmp "$out/whole.txt" "$out/killed.txt"
    "${ALIGN:-./align}" inspect "$out/loop" --verify
    echo "killed $killed times and resumed: the same $(wc -l <"$out/whole.txt") files"
}

run_seeds() {
    out=demo/seeds
    rm -rf "$out"
    mkdir -p "$out"
    for seed in "$@"; do
        began=$(date +%s)
        sh tools/demo_loop.sh "$seed" "$out/$seed" >"$out/$seed.txt" 2>"$out/$seed.err"
        printf 'seed %s, %d seconds\n' "$seed" $(($(date +%s) - began))
        sed -n '/^validation/,/^change.*refusal/p' "$out/$seed.txt"
    done
}

case "${1:-}" in
--kill) kill_and_resume "$2" ;;
'') run_seeds 1 2 3 ;;
*) run_seeds "$@" ;;
esac
