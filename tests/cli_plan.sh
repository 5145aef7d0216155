#!/bin/sh
# --dry-run ends as the run itself would before its first step: what the run passes is not refused
# by its trial, and what the run refuses is not passed.
. "$(dirname "$0")/lib.sh"

prompts 40 no >"$T/prompts.jsonl"
no_refuses >"$T/rules.jsonl"
# In a file, for what another judge does not read would be refused on the command line.
echo "{\"rules\":\"$T/rules.jsonl\",\"validator-rules\":\"$T/rules.jsonl\"}" >"$T/loop.json"
loop="-m $MODEL --data $T/prompts.jsonl --config $T/loop.json
    --samples 2 -n 3 --steps 2 --rank 2 --validation 0.4 --prompts-per-cycle 8"

# agree NAME CODE PATTERN OPTION...: plan and run both end with the code; the plan's output, or its
# last line of stderr where it refuses, matches the pattern, and speaks of no file of the trial's own.
agree() {
    what=$1 ends=$2 pattern=$3
    shift 3
    rm -rf "$T/run"
    # shellcheck disable=SC2086
    gives "plan: $what" "$ends" align cycle $loop "$@" -o "$T/run" --dry-run
    if [ "$ends" -eq 0 ]; then
        has "plan: $what" "$pattern" "$T/out"
        cp "$T/out" "$T/out.plan"
    else
        tail -n 1 "$T/err" >"$T/last"
        has "plan: $what" "$pattern" "$T/last"
    fi
    check "plan: $what: no file of the trial's own" sh -c "! grep align-plan '$T/out' '$T/err'"
    check "plan: $what: nothing is left" test ! -e "$T/run"
    # shellcheck disable=SC2086
    gives "run: $what" "$ends" align cycle $loop "$@" -o "$T/run"
}

both='^dpo +at most 2 steps'
agree "equal answers" 0 "$both" --temperature 0 --drop-identical
agree "samples of one kind" 0 "$both" --temperature 0 --no-demonstrations
agree "half a score is good" 0 "$both" --desirable 0.5 --undesirable 0.4 --drop-identical
trial='trained in the trial, its first row of line 1,'
has "plan: the first row of kto" "^kto +$trial completion: .* of them scored" "$T/out.plan"
has "plan: the first row of dpo" "^dpo +$trial chosen: .* of them scored" "$T/out.plan"
has "plan: scored tokens are marked" '^  [^[]+\[' "$T/out.plan"
agree "prompts that are short enough" 0 "$both" --max-length 8
agree "no prompt is short enough" 0 '^dpo +not trained: no training prompt .*--max-length 1$' \
    --max-length 1
agree "one method" 0 '^kto +at most 2 steps' --methods kto
agree "HALOs' partners" 0 "$both" --kl-pairing halos
agree "TRL's order" 0 "$both" --kl-pairing trl --order trl
agree "warmup beyond the steps" 0 "$both" --warmup 100
agree "every step saved" 0 "$both" --save-every 1
agree "a batch of more rows than there are" 0 "$both" --batch 64 --accumulate 3
agree "a judge without room for its prompt" 65 'the judge prompt takes' --judge self
agree "a validator without room for its prompt" 65 'the judge prompt takes' --validator model \
    --validator-model "$MODEL"
agree "too little memory" 71 'lower --batch' --memory 1M
agree "a template that is not there" 64 'chat template' --revise
agree "a judge without a model" 64 '\-\-judge-model DIR is missing' --judge model
agree "a program that is not there" 66 '/none: cannot be run: No such file' --judge command \
    --judge-command "$T/none" --allow-external
agree "answers of nobody" 66 'nobody.jsonl' --reviewed "$T/nobody.jsonl"

# What people said of a deployment counts in both, and is read by both.
cat >"$T/thumbs.jsonl" <<'END'
{"prompt":"q","completion":"yes","label":true}
{"prompt":"r","completion":"no","label":0}
END
agree "feedback" 0 '^kto +at most 2 steps' --feedback "$T/thumbs.jsonl" --no-demonstrations
echo '{"prompt":"q","completion":"yes","label":"good"}' >"$T/bad.jsonl"
agree "feedback without a label" 65 'bad.jsonl:1: "label"' --feedback "$T/bad.jsonl"
echo '{"question":"q","choices":["a"],"answer":4}' >"$T/guard.jsonl"
agree "a guard without a right answer" 65 'guard.jsonl:1' --guard "$T/guard.jsonl"

# shellcheck disable=SC2086
gives "plan as JSON" 0 align cycle $loop -o "$T/run2" --dry-run --json
has "plan as JSON: the first row" '"first_row":\[\{"side":"chosen","ids":\[[0-9,]+\],"scored":\[0,' \
    "$T/out"

mkdir "$T/there"
# shellcheck disable=SC2086
refuses "plan: a folder that is there" 73 "there: exists" align cycle $loop -o "$T/there" --dry-run
# shellcheck disable=SC2086
refuses "plan: a folder that cannot be" 73 "no such directory" \
    align cycle $loop -o "$T/no/where" --dry-run
# shellcheck disable=SC2086
refuses "plan of a grid without a test" 64 "--test" \
    align cycle $loop -o "$T/grid" --judges rules,self --test 0 --dry-run
# shellcheck disable=SC2086
refuses "plan of a grid with half a judge" 64 "--judge-model" \
    align cycle $loop -o "$T/grid" --judges rules,model --dry-run

# shellcheck disable=SC2086
refuses "a validator without its program" 64 "--validator command: --validator-command" \
    align cycle $loop -o "$T/grid" --validator command --dry-run
# shellcheck disable=SC2086
refuses "a validator's program that is not there" 66 "--validator-command: none/such: cannot be run" \
    align cycle $loop -o "$T/grid" --validator command --validator-command none/such \
    --allow-external --dry-run
# shellcheck disable=SC2086
refuses "a grid's validator without its program" 64 "--validator-command" \
    align cycle $loop -o "$T/grid" --validators rules,command
# shellcheck disable=SC2086
refuses "a validator without room" 65 "or --validator-length" align cycle $loop -o "$T/grid" \
    --validator self --validator-length 1 --dry-run
# shellcheck disable=SC2086
refuses "a validation split without prompts" 65 "a larger --validation" \
    align cycle $loop -o "$T/grid" --validation 0.01 --dry-run
# shellcheck disable=SC2086
refuses "a loss by the loop's own name" 64 "--batch 1: --kto-loss kto estimates .*; apo_zero_unpaired takes 1" \
    align cycle $loop -o "$T/grid" --batch 1 --dry-run
# shellcheck disable=SC2086
refuses "a loss by the loop's own name" 64 "--wpo: --dpo-loss aot sorts" \
    align cycle $loop -o "$T/grid" --dpo-loss aot --wpo --dry-run
# shellcheck disable=SC2086
gives "plan of a grid" 0 align cycle $loop -o "$T/grid" --judges rules --dry-run
# shellcheck disable=SC2086
refuses "plan of a grid in which --judge takes no part" 64 "--judge: not read with --judges" \
    align cycle $loop -o "$T/grid" --judge command --judges rules --dry-run

# Training alone: where a run cannot begin, its plan says so.
echo '{"prompt":"a","chosen":"b","rejected":"c"}' >"$T/pairs.jsonl"
dpo="-m $MODEL --data $T/pairs.jsonl --rank 2 --steps 1"
for where in "-o $T/there/x --dump-gradients $T/no/g.safetensors" "-o $T/no/where" \
    "-o $T/rules.jsonl" "-o $T"; do
    for dry in --dry-run --quiet; do
        # shellcheck disable=SC2086
        refuses "dpo $where $dry" 73 "^align dpo: /" align dpo $dpo $where $dry
    done
done
# shellcheck disable=SC2086
gives "dpo" 0 align dpo $dpo -o "$T/begun" --quiet
mkdir "$T/other"
echo x >"$T/other/file"
for dry in --dry-run --quiet; do
    # shellcheck disable=SC2086
    gives "dpo resumed $dry" 0 align dpo $dpo -o "$T/begun" --resume $dry
    # shellcheck disable=SC2086
    refuses "dpo resumed otherwise $dry" 65 "not the run to be resumed: .*lr" \
        align dpo $dpo --lr 0.5 -o "$T/begun" --resume $dry
    # shellcheck disable=SC2086
    refuses "dpo resumed in no run $dry" 73 "no run that could be resumed" \
        align dpo $dpo -o "$T/other" --resume $dry
done
check "plan of dpo: nothing is made" test ! -e "$T/there/x"
# shellcheck disable=SC2086
gives "plan of dpo without -o" 0 align dpo $dpo --dry-run

finish
