/* lora.h - adapters: reading and writing PEFT directories, drawing A as PyTorch does, merging.
 *
 * An adapter set holds one low-rank pair for each targeted linear map of a model (Hu et al. 2021).
 * On disk it is what PEFT 0.21 reads and writes: adapter_config.json and
 * adapter_model.safetensors, names base_model.model.<module>.lora_A.weight.
 */
#ifndef ALIGN_LORA_H
#define ALIGN_LORA_H

#include "io.h"
#include "options.h"
#include "tape.h"

#define LORA_WEIGHTS_FILE "adapter_model.safetensors"
#define LORA_CONFIG_FILE "adapter_config.json"

#define LORA_MODULE 96 /* bytes of a module's name */

/* The linear maps of a layer, in the order PyTorch lists a block's modules. */
typedef enum {
    TARGET_Q,
    TARGET_K,
    TARGET_V,
    TARGET_O,
    TARGET_GATE,
    TARGET_UP,
    TARGET_DOWN,
    TARGET_COUNT,
    TARGET_HEAD = TARGET_COUNT /* lm_head: one for the model, not one a layer */
} Target;
extern const char *const target_names[TARGET_COUNT + 1];   /* "q_proj" ... "lm_head" */

/* A weight of the model as a file of an adapter may replace it; w [1, cols] of a vector. */
#define LORA_WEIGHT 160 /* bytes of its name */
typedef struct {
    char name[LORA_WEIGHT]; /* "model.layers.3.mlp.up_proj.weight" */
    Mat w;
    int is_vector;
} LoraWeight;

/* The shapes an adapter must fit: outputs and inputs of each target (all layers alike). */
typedef struct {
    size_t layers;
    size_t outputs[TARGET_COUNT + 1], inputs[TARGET_COUNT + 1];
    Mat head; /* the model's own, to recognise PEFT's copy of it; data NULL = unknown */
    /* The model's weights by number, while an adapter is made or read; model NULL = unknown: then
     * an adapter may not need them. */
    const void *model;
    size_t weights;
    void (*weight)(const void *model, size_t i, LoraWeight *out);
} LoraShape;

/* A whole weight in an adapter's file, which takes the place of the model's own. */
typedef struct {
    char name[LORA_WEIGHT]; /* of the model's */
    Mat w;
    int is_rows; /* the model's own with single rows replaced, in `own` */
    real *own;
} SavedWeight;

/* What a new set is made from (and what adapter_config.json says). */
typedef struct {
    size_t rank;
    double alpha;
    int rslora; /* scale = alpha / sqrt(rank) instead of alpha / rank */
    int dora;   /* a size for each row of W + scale B A, too; see Adapter */
    double dropout;
    unsigned targets;       /* bit 1 << Target */
    char base[IO_PATH_MAX]; /* base_model_name_or_path */
} LoraConfig;

typedef struct {
    LoraConfig config;
    LoraShape shape;
    Adapter *slots; /* [layers][TARGET_COUNT] then the head; a.w.data == NULL = not targeted */
    real *weights, *gradients; /* A, B and m in the order of lora_param; gradients may be NULL */
    size_t count;              /* numbers in weights */
    Mat *base;                 /* with DoRA: W of each slot, and the lengths of the rows of */
    real *lengths;             /* W + scale B A, as of lora_measure; [lengths_count] */
    size_t lengths_count;
    SavedWeight *saved;
    size_t n_saved;
    int untied;                /* head and embedding, one in the model, are two with it */
    Safetensors file;          /* in which saved weights lie; open where there are any */
    char tokenizer[IO_PATH_MAX]; /* directory of its embedding's tokenizer, or "" */
    char unread[256];          /* keys of its configuration that nothing reads */
    int named;                 /* its tensors' names hold the adapter's own, "default" */
    size_t absent;             /* modules that its configuration names, without weights */
    char first_absent[LORA_MODULE];
} Lora;

/* --rank --alpha --targets --dropout --rslora --dora: of LoraConfig. */
extern const OptionGroup lora_options;
extern const OptionForm lora_targets_form; /* of `targets` alone */
/* A ~ U(-1/sqrt(K), 1/sqrt(K)) by PyTorch's generator from `seed`, layer by layer in module order,
 * with the draws that PEFT makes and discards in between, so the same seed gives PEFT's own A to
 * the bit; B = 0; DoRA's m = || W ||, row by row. trainable: allocate gradients. */
int lora_create(Lora *l, const LoraConfig *config, const LoraShape *shape, uint64_t seed,
                int trainable, Err *e);
/* Reads a PEFT directory; refuses by name what would change a number and is not computed here
 * (a replicated layer, ...), and what contradicts the weights. NaN is ERR_DATA. */
int lora_load(Lora *l, const char *dir, const LoraShape *shape, int trainable, Err *e);
/* Warns about keys that are set in a loaded adapter and have no effect. */
void lora_describe(const Lora *l, const char *dir, const Log *log);
/* Writes adapter_model.safetensors (F32) and adapter_config.json into dir (made if absent). */
int lora_save(const Lora *l, const char *dir, Err *e);
void lora_close(Lora *l);
/* DoRA: measures the rows of W + scale B A again, after A or B changed. */
void lora_measure(const Lora *l);
/* Does it change nothing: is B = 0, and m the lengths of W's rows? */
int lora_is_zero(const Lora *l);
/* The saved weight of this name, or NULL. */
const SavedWeight *lora_saved(const Lora *l, const char *name);

Adapter *lora_at(const Lora *l, size_t layer, Target target); /* NULL = not targeted (or l NULL) */
/* "model.layers.3.self_attn.q_proj" or "lm_head" */
void lora_module_name(char out[LORA_MODULE], size_t layer, Target target);

/* Each A and B, in a fixed order: PEFT name, pointer into weights, gradient, shape. */
typedef struct {
    char name[160];
    real *w, *d;
    size_t rows, cols;
    int is_vector; /* no matrix: one dimension in a file */
    int decays;    /* by weight decay, as in transformers' Trainer: all but norms and biases */
} NamedParam;
size_t lora_param_count(const Lora *l);
void lora_param(const Lora *l, size_t i, NamedParam *out);

/* What rounding took from an update when weights were merged, as sums over all merged weights. The
 * error of a weight is | stored - (w + update) |; the update is lost if the stored value is the one
 * that would have been stored without the adapter. */
typedef struct {
    double weights, largest;
    double error, error2;   /* sums of errors and of their squares */
    double update, update2; /* of |update| and its square */
    double lost;            /* sum of |update| over weights where it is lost */
} MergeReport;

/* w[n,k] += scale sum_r B[n,r] A[r,k], with DoRA times m[n] / its length, summed in double, rounded
 * to float and to what the weight is stored as. report (may be NULL) is added to. */
int lora_merge_into(real *w, const Adapter *a, const Format *stored, MergeReport *report, Err *e);

#endif
