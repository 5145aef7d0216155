/* train_parts.h - what the train_*.c files share: a run and its parts. See train.h for the map. */
#ifndef ALIGN_TRAIN_PARTS_H
#define ALIGN_TRAIN_PARTS_H

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

/* Plain means: TRL's rule is one value a micro-batch, whatever its size. A key without values since
 * the last line is left out of it. */
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
} Parameters;

/* What a checkpoint holds beside weights and moments. */
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

/* A prompt with the one or two completions scored after it, and what is found out about them. */
typedef struct {
    const int32_t *prompt;
    size_t n_prompt;
    const int32_t *completion[2];
    size_t n_completion[2];
    size_t n;    /* completions */
    int segment; /* of its prompt in the packed batch; -1 = the prompt is empty */
    Scored scored[2];
    Scored partner; /* KTO: its partner's completion behind its prompt, only looked at */
    double policy[2], reference[2]; /* log-probs, summed over the completion's tokens */
    double gradient[2];             /* d loss / d policy[i] */
    double nll_gradient;            /* d loss / d plain sum of completion 0 (the sft term) */
    double loss;
} Item;

/* Rows with what belongs to each: the reference's log-probs, and KTO's partner. */
typedef struct {
    const char *name; /* "train" or "eval", for messages */
    Dataset rows;
    size_t *partner;        /* KTO: row i is also scored with the completion of this row */
    double (*reference)[2]; /* dpo: chosen, rejected; kto: own completion, partner's completion */
    unsigned char *known;   /* is reference[i] there? */
} TrainSet;

typedef struct {
    TrainConfig c; /* resolved */
    const TrainEvents *events;
    char model_sha256[65], config_sha256[65], inputs_sha256[65];
    /* The run directory: LOCK is held; it was empty or absent; absent; it holds this very run;
     * training began. */
    int locked, begun_empty, made, ours, started;

    /* Read, then fixed. */
    Compute compute;
    int computing;
    Tokenizer *tokenizer;
    Model model;
    Lora policy, frozen;                      /* the adapter that is trained; the reference's */
    int has_policy, has_frozen, starts_equal; /* policy and reference are one model at step 0 */
    TrainSet train, eval;
    Parameters params;
    size_t steps, epoch_batches, epoch_steps;

    /* Memory of a step: allocated before the first. */
    TrainPlan plan;
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
    real *gradient; /* d loss / d log-prob of each score */
    real *square;   /* WPO: log sum_v p_v^2 of each score */
    uint32_t *order;
    uint32_t *eval_order;
    size_t order_epoch; /* which epoch's, SIZE_MAX = none yet */
    Text line;          /* of metrics.jsonl */

    TrainState state;
    double began, step_began, margin; /* margin: mean reward margin of the last step */
    size_t idle, saturated;           /* steps in a row */
    uint64_t step_tokens, run_tokens;
    double eval_loss;
} Run;

/* The item of a row itself: chosen and rejected, or its completion. */
Item item_own(const Row *row, size_t completions);
/* Prompt of `row`, completion of `partner`, cut to max_length (0 = no limit). */
Item item_partner(const Row *row, const Row *partner, size_t max_length);
/* Packs n items end to end, each prompt once; fills their scored[]. */
int items_pack(Packer *p, Item *items, size_t n, Err *e);
/* Packs the rows of a micro-batch; behind them, for KTO's z0, the completions of their partners. */
int run_pack(Run *r, const TrainSet *set, const uint32_t *rows, size_t n, Err *e);
/* The same prompts with the partners' completions alone (halos: their reference comes now). */
int run_pack_partners(Run *r, const TrainSet *set, const uint32_t *rows, size_t n, Err *e);
/* The packed batch through the model: log-probs [n_scores,1]. record: for a walk back. */
Var *run_forward(Run *r, const Lora *lora, int record, real *square);
/* sum_t w_t log p(y_t | x, y_<t) of each completion of an item; w_t = 1, or LD-DPO's weights. */
void item_sums(const Item *item, const real *logp, double ld_alpha, double out[2]);
/* The adapter of the reference; NULL = the base. */
const Lora *run_reference_adapter(const Run *r);

/* One micro-batch of a set: loss into *loss, metrics added. share > 0: d (share x loss) is added to
 * the gradients; 0: no gradient. `step`, `k`: of the run, for dropout. Non-finite numbers are no
 * error here: *loss is not finite then, and no gradient is added. */
int run_micro_batch(Run *r, TrainSet *set, const uint32_t *rows, size_t n, double share, size_t k,
                    Metrics *metrics, double *loss, Err *e);
/* Loss and metrics over a whole set: *loss is the mean over rows. */
int run_evaluate(Run *r, Metrics *metrics, double *loss, Err *e);

/* ---- a run's inputs (train.c) -------------------------------------------------------------- */

/* Tokenizer, model, rows, partners and adapters, as r->c says. */
int run_open(Run *r, Err *e);
void run_free(Run *r);

/* ---- the way through the rows (train.c) ---------------------------------------------------- */

size_t run_window(const Run *r, size_t step); /* micro-batches of a step */
/* Rows of micro-batch k of a step, in the epoch's order; their number. */
size_t run_rows(Run *r, size_t step, size_t k, const uint32_t **rows);
/* Rows of batch b of an epoch: *first of the order, and their number. */
size_t run_batch_size(const Run *r, size_t rows, size_t b, size_t *first);
size_t run_batch_count(const Run *r, size_t rows);
void run_progress(const Run *r, const char *phase, size_t done, size_t total, double began,
                  uint64_t tokens);

/* ---- the others ---------------------------------------------------------------------------- */

/* "sigmoid,sft": the losses of a sum, as --loss takes them. */
int train_loss_names(const DpoConfig *c, Text *out, Err *e);

int params_collect(Run *r, Err *e);
void params_free(Parameters *p);
double train_learning_rate(const TrainConfig *c, size_t step, size_t steps);
void params_zero_gradients(Parameters *p);
double params_gradient_norm(const Run *r);
void params_update(Run *r, double lr, double norm);
/* The name of the first parameter that is not finite, or NULL. */
const char *params_find_nonfinite(const Parameters *p);
int params_dump_gradients(const Run *r, const char *path, Err *e);

/* A row as the reference must know it: all its completions, its partner's too. */
Item reference_item(const Run *r, const TrainSet *set, size_t i);
/* `file` in the run directory keeps the numbers of a set; `needed` marks its rows (NULL = all). */
int reference_prepare(Run *r, TrainSet *set, const unsigned char *needed, const char *file, Err *e);

/* Memory: what the heaviest micro-batch of the run needs, and whether that fits; allocates the
 * memory of a step (not on a dry run). Marks the training rows that the run will visit. */
int plan_run(Run *r, unsigned char *needed, Err *e);

/* Writes a line to metrics.jsonl; eval NULL = without. synced: it is on the disk when we return. */
int metrics_write(Run *r, double lr, double norm, const Metrics *eval, double eval_loss, int synced,
                  Err *e);
/* Leaves the lines of steps 1 .. step. */
int metrics_trim(const char *path, size_t step, Err *e);
/* diverged/step-N.json: the rows and numbers of a step that was not finite. */
int metrics_dump(Run *r, const char *what, const uint32_t *rows, size_t n, double lr, Err *e);

/* config.json and inputs.json: written at the start; on resume compared, ERR_DATA listing what
 * differs. */
int checkpoint_identity(Run *r, Err *e);
int checkpoint_save(Run *r, Err *e);
/* The newest valid checkpoint into the run; *found = 0 where there is none at all. */
int checkpoint_load(Run *r, int *found, Err *e);
/* Removes what a crash or an error left half-made (*.tmp). */
void checkpoint_sweep(const Run *r);
/* adapter/ or model/, whole or not at all. */
int checkpoint_finish(Run *r, Err *e);

#endif
