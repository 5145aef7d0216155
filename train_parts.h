/* train_parts.h - private declarations of the train_*.c files: a run and its parts. See train.h for
 * the map. */
#ifndef ALIGN_TRAIN_PARTS_H
#define ALIGN_TRAIN_PARTS_H

#include "engine.h"
#include "train.h"

/* ---- metrics (train_metrics.c) ------------------------------------------------------------- */

typedef enum {
    METRIC_LOSS,
    METRIC_KL,
    METRIC_REWARDS_CHOSEN,
    METRIC_REWARDS_REJECTED,
    METRIC_REWARDS_ACCURACIES,
    METRIC_REWARDS_MARGINS,
    METRIC_LOGPS_CHOSEN,
    METRIC_LOGPS_REJECTED,
    METRIC_COUNT
} Metric;
extern const char *const metric_names[METRIC_COUNT]; /* "loss", "kl", "rewards/chosen", ... */

/* Plain means: TRL's rule is one value for each micro-batch of any size. A line leaves out a key
 * that has had no value since the line before. */
typedef struct {
    double sum[METRIC_COUNT];
    size_t count[METRIC_COUNT];
} Metrics;
void metrics_add(Metrics *m, Metric key, double value);
double metrics_mean(const Metrics *m, Metric key); /* NAN without values */

/* ---- what is trained (train_optimise.c) ---------------------------------------------------- */

typedef struct {
    NamedParam p;
    size_t at, count; /* its stretch of m and v */
    int decay;        /* weight decay applies: matrices, not norms */
} TrainParam;

typedef struct {
    TrainParam *list;
    size_t n, count;
    real *m, *v; /* AdamW's moments */
    real *good;  /* the weights under which the last finite loss was found, see params_keep */
} Parameters;

/* What a checkpoint holds besides weights and moments. */
typedef struct {
    size_t step;     /* steps done */
    uint64_t update; /* AdamW's t: steps that changed the weights */
    uint64_t num_tokens;
    size_t skipped, skipped_in_row;
    double loss;     /* of the last step */
    Metrics metrics; /* since the last line of metrics.jsonl */
} TrainState;

/* ---- a micro-batch (train_step.c) ---------------------------------------------------------- */

/* A completion's scores in a packed batch. */
typedef struct {
    size_t first, count;
} Scored;

/* A prompt with the one or two completions scored after it, and their results. */
typedef struct {
    const int32_t *prompt;
    size_t n_prompt;
    const int32_t *completion[2];
    size_t n_completion[2];
    const unsigned char *scored_tokens; /* of completion[0]; NULL = all */
    size_t n;                           /* completions */
    int segment; /* of its prompt in the packed batch; -1 = the prompt is empty */
    Scored scored[2];
    Scored partner; /* KTO: its partner's completion after its prompt, without gradient */
    double policy[2], reference[2]; /* log-probs, summed over the completion's tokens */
    double gradient[2];             /* d loss / d policy[i] */
    double nll_gradient;            /* d loss / d plain sum of completion 0 (the sft term) */
    double loss;
} Item;

/* The rows of a set, with the reference's log-probs and KTO's partner of each. */
typedef struct {
    const char *name; /* "train" or "eval", for messages */
    Dataset rows;
    size_t *partner;        /* KTO: row i is also scored with the completion of this row */
    double (*reference)[2]; /* dpo: chosen, rejected; kto: own completion, partner's completion */
    unsigned char *known;   /* is reference[i] known? */
} TrainSet;

typedef struct {
    TrainConfig c; /* resolved */
    const TrainEvents *events;
    char model_sha256[65], config_sha256[65], inputs_sha256[65];
    char day[CHAT_DATE]; /* that the run is told by --date's default; "": today */
    /* The run directory: LOCK is held; it was empty or absent; it was absent; it holds this run;
     * training began. */
    IoLock lock;
    int locked, begun_empty, made, ours, started;

    /* Read, then fixed. */
    Engine engine; /* without an adapter: those of a run follow */
    Lora policy, frozen;                      /* the trained adapter; the reference's */
    Model policy_model, frozen_model; /* with whole weights of theirs; base NULL: they have none */
    int reading;                      /* nothing is trained: the policy may have such */
    int has_policy, has_frozen, starts_equal; /* policy and reference are one model at step 0 */
    TrainSet train, eval;
    Parameters params;
    size_t steps, epoch_batches, epoch_steps;

    /* Memory of a step: allocated before the first. */
    TrainPlan plan;
    struct Needs *needs; /* of the steps that are planned (train_plan.c), the first `planned` */
    size_t planned;
    Tape tape;
    int taping;
    Packer packer;
    size_t cap_items, cap_scores;
    Item *items;
    DpoPair *pairs;
    DpoPairResult *pair_results;
    size_t *pair_order;
    KtoRow *kto_rows;
    KtoResult *kto_results;
    double *kl_policy, *kl_reference;
    double (*sums)[2], (*first_sums)[2]; /* of the last micro-batch: now, and before step 1 */
    real *gradient; /* d loss / d log-prob of each score */
    real *square;   /* WPO: log sum_v p_v^2 of each score */
    uint32_t *order;
    uint32_t *eval_order;
    size_t order_epoch; /* which epoch's, SIZE_MAX = none yet */
    Text line;          /* of metrics.jsonl */

    TrainState state;
    double began, step_began, margin; /* margin: mean reward margin of the last step */
    size_t idle, saturated;           /* steps in a row */
    size_t updates, unchanged;        /* of this process; those that changed no weight */
    size_t first_step;                /* of this process */
    size_t changed_step, good_step;   /* the steps that made the weights, and params.good */
    uint64_t step_tokens, run_tokens;
    size_t step_scores; /* sft: scored tokens of the step, in all micro-batches; 0 = one batch */
    double eval_loss;
} Run;

/* Makes the item of a row: chosen and rejected, or its completion. */
Item item_own(const Row *row, size_t completions);
/* Makes an item of the prompt of `row` and the completion of `partner`, cut to max_length (0 = no
 * limit). */
Item item_partner(const Row *row, const Row *partner, size_t max_length);
/* Packs n items end to end, each prompt once; fills their scored[]. */
int items_pack(Packer *p, Item *items, size_t n, Err *e);
/* Packs the rows of a micro-batch and after them, for KTO's z0, the completions of their
 * partners. */
int run_pack(Run *r, const TrainSet *set, const uint32_t *rows, size_t n, Err *e);
/* Packs the same prompts with only the partners' completions (halos: their reference is computed
 * now). */
int run_pack_partners(Run *r, const TrainSet *set, const uint32_t *rows, size_t n, Err *e);
/* The passes of a run: the policy for a walk back, with dropout; the policy without; the
 * reference. */
typedef enum { PASS_TRAIN, PASS_POLICY, PASS_REFERENCE, PASS_COUNT } PassKind;
/* Runs the packed batch through the model on tape t: log-probs [n_scores,1]. `step` and `k`
 * (micro-batch) draw the dropout of PASS_TRAIN; square [n_scores] or NULL is filled as
 * model_logprob does. The plan runs this on a counting tape, the step on the run's own: what is
 * counted is what runs. */
Var *run_forward(Run *r, Tape *t, PassKind pass, size_t k, real *square);
/* sum_t w_t log p(y_t | x, y_<t) of each completion of an item; w_t = 1, or LD-DPO's weights. */
void item_sums(const Item *item, const real *logp, double ld_alpha, double out[2]);
/* Returns the adapter of the reference; NULL = the base. */
const Lora *run_reference_adapter(const Run *r);

/* Runs one micro-batch of a set: writes the loss to *loss and adds to metrics. share > 0: d (share
 * x loss) is added to the gradients; 0: no gradient. sft's loss in training is the micro-batch's
 * part of the mean over the tokens of the step (step_scores). `step`, `k`: of the run, for dropout.
 * Non-finite numbers are not an error here: *loss is then not finite, and no gradient is added. */
int run_micro_batch(Run *r, TrainSet *set, const uint32_t *rows, size_t n, double share, size_t k,
                    Metrics *metrics, double *loss, Err *e);
/* Computes sums of the policy's log-probs over the completions of these training rows, as in
 * evaluation. *finite: is each log-prob finite? */
int run_policy_sums(Run *r, const uint32_t *rows, size_t n, double (*sums)[2], int *finite, Err *e);
/* Computes loss and metrics over a whole set: *loss is the mean over rows, not finite if one of
 * them is not. */
int run_evaluate(Run *r, Metrics *metrics, double *loss, Err *e);

/* ---- a run's inputs (train.c) -------------------------------------------------------------- */

/* Opens tokenizer, model, rows, partners and adapters as r->c says. */
int run_open(Run *r, Err *e);
/* ERR_DATA if the model's files were changed since they were opened. Call it before numbers are
 * kept. With --full the weights are copies. */
int run_check_model(Run *r, Err *e);
void run_free(Run *r);

/* ---- the way through the rows (train_rows.c) ------------------------------------------------ */

size_t run_window(const Run *r, size_t step); /* micro-batches of a step */
/* Returns the number of rows of micro-batch k of a step, and the rows in the epoch's order. */
size_t run_rows(Run *r, size_t step, size_t k, const uint32_t **rows);
/* Returns the number of rows of batch b of an epoch, and *first, its place in the order. */
size_t run_batch_size(const Run *r, size_t rows, size_t b, size_t *first);
size_t run_batch_count(const Run *r, size_t rows);
void run_progress(const Run *r, const char *phase, size_t done, size_t total, double began,
                  uint64_t tokens);

/* ---- the others ---------------------------------------------------------------------------- */

int params_collect(Run *r, Err *e);
void params_free(Parameters *p);
/* Steps of warm-up: a warm-up below 1 is a share of all steps, rounded up. */
double train_warmup_steps(const TrainConfig *c, size_t steps);
double train_learning_rate(const TrainConfig *c, size_t step, size_t steps);
void params_zero_gradients(Parameters *p);
double params_gradient_norm(const Run *r);
/* Returns "gradient" if it is not finite, "squared gradient" if AdamW's second moment would
 * overflow, or NULL. */
const char *params_check_gradient(const Run *r, double norm);
/* Keeps the present weights, and returns to them. */
void params_keep(Parameters *p);
void params_return(Parameters *p);
/* Do all weights still have the bits that were kept? */
int params_unchanged(const Parameters *p);
void params_update(Run *r, double lr, double norm);
/* Returns the name of the first parameter that is not finite (including its moments), or NULL. */
const char *params_find_nonfinite(const Parameters *p);
int params_dump_gradients(const Run *r, const char *path, Err *e);

/* Makes the items of a row that the reference must score: all its completions, and its
 * partner's. */
Item reference_item(const Run *r, const TrainSet *set, size_t i);
/* `file` in the run directory keeps the numbers of a set; `needed` marks its rows (NULL = all). */
int reference_prepare(Run *r, TrainSet *set, const unsigned char *needed, const char *file, Err *e);

/* Plans the memory: what the heaviest micro-batch of the run needs, and whether it fits; allocates
 * the memory of a step (not on a dry run). Marks the training rows that the run will visit. */
int plan_run(Run *r, unsigned char *needed, Err *e);
/* Before a step that is not planned yet: plans the next ones, and takes more memory for them if
 * they need it. */
int plan_further(Run *r, Err *e);

/* Writes a line to metrics.jsonl; eval NULL = without evaluation. synced: the line is on the disk
 * on return. */
int metrics_write(Run *r, double lr, double norm, const Metrics *eval, double eval_loss, int synced,
                  Err *e);
/* Keeps only the lines of steps 1 .. step. */
int metrics_trim(const char *path, size_t step, Err *e);
/* Writes diverged/step-N.json: the rows and numbers of a step that was not finite. */
int metrics_dump(Run *r, const char *what, const uint32_t *rows, size_t n, double lr, Err *e);

/* Writes config.json and inputs.json at the start; on resume compares them, ERR_DATA listing the
 * differences. */
int checkpoint_identity(Run *r, Err *e);
int checkpoint_has_identity(const Run *r); /* do both exist? */
/* A resumed run keeps its reference: with REFERENCE_AUTO, what its inputs.json says. */
int checkpoint_reference(Run *r, Err *e);
/* Finds the day on which a run that is continued began, for chat templates. */
int checkpoint_day(Run *r, Err *e);
int checkpoint_save(Run *r, Err *e);
/* Loads the newest valid checkpoint into the run; *found = 0 if there is none. */
int checkpoint_load(Run *r, int *found, Err *e);
/* Removes the unfinished files (*.tmp) of a crash or an error. */
void checkpoint_sweep(const Run *r);
/* Writes adapter/ or model/, completely or not at all. */
int checkpoint_finish(Run *r, Err *e);
/* Writes the weights that gave the last finite loss, as diverged/adapter or diverged/model. */
int checkpoint_rescue(Run *r, Err *e);

#endif
