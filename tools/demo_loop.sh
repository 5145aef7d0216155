#!/bin/sh
# demo_loop.sh - the demo's loop: two cycles on prompts of a small world, one seed.
# Usage: tools/demo_loop.sh SEED RUN [OPTION of align cycle ...]; ALIGN names another program.
#
# The sft term keeps the chosen answers likely while the margins grow (see demo.sh). All training
# prompts in every cycle: with half of them, most candidates refuse a harmless prompt or two, and of
# 48 harmless base prompts that validate one is enough to break the rule.
cd "$(dirname "$0")/.." || exit 1
seed=$1 run=$2
shift 2
exec "${ALIGN:-./align}" cycle -m demo_data/model --data demo_data/prompts.jsonl -o "$run" --quiet \
    --cycles 2 --validation 0.25 --test 0.25 \
    --samples 4 --max-tokens 64 --at-once 64 --epochs 4 --batch 8 --rank 8 --alpha 16 \
    --warmup 0.1 --save-every 0 --kto-lr 2e-3 --dpo-lr 2e-3 \
    --dpo-beta 0.3 --dpo-loss sigmoid,sft --loss-weights 1,1 --seed "$seed" "$@"
