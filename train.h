/* train.h - training: rows in, an adapter (or a model) out.
 *
 * One optimiser step, in the order of MATH.md:
 *   1. rows are packed end to end, a prompt once;           4. loss and its gradient by log-prob;
 *   2. the model gives log p of every completion token;     5. each token's share of it, backward;
 *   3. sums over tokens, beside the reference's;            6. over all micro-batches: clip, AdamW.
 *
 * The same configuration and inputs give the same bits for any number of threads, with activations
 * kept or recomputed, stopped and resumed or not.
 *
 *   train.c            the run: prepare, step after step, finish
 *   train_step.c       a micro-batch: packing, log-probs, losses, gradients; evaluation
 *   train_reference.c  the reference's log-probs, computed once and kept on disk
 *   train_optimise.c   what is trained: parameters, schedule, clipping, AdamW
 *   train_metrics.c    means over micro-batches; metrics.jsonl
 *   train_checkpoint.c checkpoints that survive kill -9; resuming
 *   train_plan.c       memory, before the first step
 *   train_config.c     defaults, checks, config.json
 *   train_explain.c    one row as a lesson
 *   train_trial.c      one step again and again, for measuring
 */
#ifndef ALIGN_TRAIN_H
#define ALIGN_TRAIN_H

#include "data.h"
#include "dpo.h"
#include "kto.h"

typedef enum { TRAIN_DPO, TRAIN_KTO, TRAIN_SFT } TrainMethod;
extern const char *const train_method_names[]; /* "dpo" "kto" "sft" */

typedef enum { SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_CONSTANT, SCHEDULE_COUNT } Schedule;

/* What the policy is compared with. */
typedef enum {
    REFERENCE_BASE, /* the base model, adapter off */
    REFERENCE_INIT, /* the policy as it was at step 0 */
    REFERENCE_DIR,  /* the base model with the adapter in reference_dir */
    REFERENCE_AUTO  /* TRL's rule: REFERENCE_INIT with init_adapter, else REFERENCE_BASE */
} TrainReference;

/* Every choice of a run, with the names of the command line. Paths are borrowed. */
typedef struct {
    TrainMethod method;
    const char *model, *data, *eval, *run; /* eval may be NULL */
    int model_flags;                       /* MODEL_NO_MMAP, MODEL_CHECK_TENSORS, MODEL_STRICT */
    DataOptions rows;                      /* kind follows from the method */

    DpoConfig dpo;
    KtoConfig kto;
    KtoPairing kl_pairing;

    LoraConfig lora;          /* of a fresh adapter; dropout holds for a loaded one too */
    const char *init_adapter; /* NULL = a fresh one, A drawn from seed, B = 0 */
    TrainReference reference;
    const char *reference_dir;
    int full; /* train the weights of the model instead of an adapter */

    double lr; /* 0 = 1e-5 for adapters, 1e-6 for --full */
    Schedule schedule;
    double warmup; /* steps, or below 1 a share of all steps */
    double weight_decay, adam_beta1, adam_beta2, adam_eps;
    double max_grad_norm; /* 0 = no clipping */
    size_t batch;         /* rows or pairs of a micro-batch */
    size_t accumulate;    /* micro-batches of a step */
    double epochs;
    size_t steps; /* 0 = as many as the epochs need */
    Order order;
    uint64_t seed;

    size_t save_every; /* steps; 0 = only at the end */
    size_t keep;       /* checkpoints */
    size_t eval_every; /* steps; 0 = only at the end; needs eval */
    size_t log_every;  /* steps of a line in metrics.jsonl */
    int resume;
    const char *dump_gradients; /* FILE, or NULL */

    uint64_t memory; /* bytes; 0 = what the machine has available */
    int force;       /* continue even if the plan does not fit */
    const char *kernel;
    Precision precision;
    size_t plan_batches; /* micro-batches whose memory is planned at once; 0 = 200,000 */
    const char *model_sha256; /* what model_hash must give; NULL or "" = any */
    int dry_run; /* plan and report, write nothing */
} TrainConfig;

/* The options of a run, by the groups in which help shows them, of TrainConfig; those of its parts
 * are with the parts (dpo.h, kto.h, lora.h, data.h, model.h). */
extern const OptionGroup train_data_options, train_run_options, train_start_options;
extern const OptionGroup train_pairing_options, train_reference_options, train_optimiser_options;
extern const OptionGroup train_saving_options, train_measuring_options;

/* All defaults for a method; most are TRL's. */
TrainConfig train_config_default(TrainMethod method);
/* What a command line says, by those of all these groups that its table has. ERR_USAGE for options
 * that contradict each other. */
int train_config_fill(TrainConfig *c, const Options *o, Err *e);
/* The i-th of these groups, and where in TrainConfig its settings lie; NULL beyond the last. */
const OptionGroup *train_config_part(size_t i, size_t *at);
/* May the member of config.json differ between a run and its resumption? It changes no bit of the
 * results then (paths count by the hashes in inputs.json). */
int train_config_free(const char *key);
/* Refuses values and combinations without meaning: ERR_USAGE naming the option. */
int train_config_check(const TrainConfig *c, Err *e);
/* Returns the learning rate that lr = 0 stands for. */
double train_default_lr(const TrainConfig *c);
/* Replaces REFERENCE_AUTO by what it stands for. */
void train_config_resolve_reference(TrainConfig *c);
/* Writes the resolved configuration as one JSON object, keys named like the options:
 * config.json. */
int train_config_json(const TrainConfig *c, Text *out, Err *e);

/* ---- what a run tells while it goes -------------------------------------------------------- */

/* Memory in bytes, and what decided it. */
typedef struct {
    size_t rows, eval_rows, epoch_steps, steps;
    size_t tokens, scores; /* of the heaviest micro-batch: rows of the batch, scored tokens */
    int keep;              /* activations of all layers are kept; else computed twice */
    uint64_t weights;      /* mapped from files */
    uint64_t trained;      /* parameters, kept ones, gradients, AdamW's two moments */
    uint64_t activations;  /* of a micro-batch, without the head */
    uint64_t head;         /* of the scored tokens */
    uint64_t other;        /* rows, batch lists, reference log-probs, tokenizer, scratch */
    uint64_t total, limit;
} TrainPlan;

typedef struct {
    const char *phase; /* "reference", "train", "evaluate" */
    size_t done, total;
    double seconds, tokens_per_second, eta; /* eta in seconds; all of this phase */
    double loss, margin;                    /* of the last step; NAN elsewhere */
} TrainProgress;

/* Any member may be NULL. */
typedef struct {
    void *ctx;
    Log log;
    void (*plan)(void *ctx, const TrainPlan *plan);
    void (*progress)(void *ctx, const TrainProgress *p);
    void (*metrics)(void *ctx, const char *line, size_t len); /* a line of metrics.jsonl */
    /* On a dry run: the first row as tokens, with its `sides` completions. */
    int (*row)(void *ctx, const Tokenizer *t, const Row *row, size_t sides, Err *e);
} TrainEvents;

typedef struct {
    size_t steps;        /* done in all */
    size_t resumed_from; /* step, 0 = from the beginning */
    size_t skipped;      /* steps without an update, for numbers that were not finite */
    int finished_before; /* nothing was left to do */
    double loss;         /* of the last step */
    double eval_loss;    /* of the last evaluation, NAN without */
    double seconds;
    TrainPlan plan;
    uint64_t used; /* of plan.activations + plan.head: all of it after a run that was not resumed */
} TrainResult;

/* Runs the training. Writes into c->run: config.json, inputs.json (hashes), metrics.jsonl,
 * reference.jsonl (with eval rows reference-eval.jsonl), checkpoints/, diverged/step-N.json for
 * steps whose numbers were not finite, LOCK while it runs, and at the end adapter/ (or model/ with
 * full). Errors: those of loading; ERR_CREATE if run exists and resume is not given; ERR_DATA if a
 * run to be resumed is not this one (the differences are listed); ERR_MEMORY before the first step
 * if the plan does not fit; ERR_INTERRUPTED after a checkpoint when stop_requested is set;
 * ERR_DIVERGED after three steps in a row whose numbers were not finite, or if those of the last
 * step, of the evaluation or of the final weights were not: then diverged/adapter (or
 * diverged/model) holds the weights that gave the last finite loss. */
int train_run(const TrainConfig *c, const TrainEvents *events, TrainResult *result, Err *e);
/* Did a run fail because its rows cannot be used (none is left, all have one prompt, ...)? */
int train_rows_fail(const TrainConfig *c, const Err *e);

/* ---- one row as a lesson ------------------------------------------------------------------- */

/* A completion under policy and reference, token by token; log-probs in nats. The first token of a
 * text has NAN and does not count. */
typedef struct {
    const int32_t *token_ids;
    size_t n;
    double *policy, *reference;
    double *gradient; /* d loss / d policy log-prob of the token, for this row alone */
    double policy_logp, reference_logp, logratio;
} ExplainSide;

typedef struct {
    TrainMethod method;
    const char *loss_name; /* of a sum: all, with commas */
    int plain; /* dpo: the loss is -log sigma(margin) and nothing else (Rafailov 2023, eq. 7) */
    size_t row, line;
    double beta;
    const int32_t *prompt;
    size_t n_prompt;
    ExplainSide side[2]; /* chosen, rejected; or the completion */
    size_t n_sides;
    double margin;     /* dpo: beta (logratio+ - logratio-) */
    int label;         /* kto */
    double kl, weight; /* kto: z0 of the row's block, the weight of its class */
    double sigmoid;    /* dpo: sigma(margin); kto: sigma(+-beta (logratio - kl)) */
    double loss;
    Dataset data; /* owns the ids */
    Pool pool;
} TrainExplain;

/* Explains row `row` (from 0, of the file) under the policy (c->init_adapter, or the base) and the
 * reference. ERR_USAGE if there is no such row, ERR_DATA if it was dropped. */
int train_explain(const TrainConfig *c, size_t row, TrainExplain *out, const Log *log, Err *e);
void train_explain_close(TrainExplain *x);

/* ---- one step again and again, for measuring ------------------------------------------------ */

/* A run without files: a model and rows that are in memory, a fresh adapter, the base as reference.
 * The trial owns both until train_trial_close, then the caller again. */
typedef struct TrainTrial TrainTrial;
/* Opens a trial. Of c, method, loss, adapter, optimiser, kernel and precision count. All rows are
 * one micro-batch; a row of KTO borrows the completion of the one after it. Plans and takes the
 * memory of a step. NULL with *e filled on error; model and rows are then the caller's. */
TrainTrial *train_trial_open(const TrainConfig *c, Model *m, Dataset *rows, Err *e);
/* Computes log-probs of all rows under the reference: call it once, before the first step. */
int train_trial_reference(TrainTrial *t, Err *e);
/* Makes an optimiser step as train_run does: loss, gradients, their norm, clipping, AdamW. */
int train_trial_step(TrainTrial *t, double *loss, Err *e);
const TrainPlan *train_trial_plan(const TrainTrial *t);
/* Returns the bytes that its passes took so far, of plan->activations + plan->head. */
uint64_t train_trial_used(const TrainTrial *t);
void train_trial_close(TrainTrial *t);

#endif
