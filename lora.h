/* lora.h - adapters: PEFT directories in and out, drawing A as PyTorch does, merging.
 *
 * An adapter set holds one low-rank pair for each targeted linear map of a model (Hu et al. 2021).
 * On disk it is what PEFT 0.21 reads and writes: adapter_config.json and
 * adapter_model.safetensors, names base_model.model.<module>.lora_A.weight.
 */
#ifndef ALIGN_LORA_H
#define ALIGN_LORA_H

#include "io.h"
#include "tape.h"

#define LORA_WEIGHTS_FILE "adapter_model.safetensors"
#define LORA_CONFIG_FILE "adapter_config.json"

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
extern const char *const target_modules[TARGET_COUNT + 1]; /* "self_attn.q_proj" ... "lm_head" */

/* The shapes an adapter must fit: outputs and inputs of each target (all layers alike). */
typedef struct {
    size_t layers;
    size_t outputs[TARGET_COUNT + 1], inputs[TARGET_COUNT + 1];
    Mat head; /* the model's own, to recognise PEFT's copy of it; data NULL = unknown */
} LoraShape;

/* What a new set is made from (and what adapter_config.json says). */
typedef struct {
    size_t rank;
    double alpha;
    int rslora; /* scale = alpha / sqrt(rank) instead of alpha / rank */
    double dropout;
    unsigned targets;       /* bit 1 << Target */
    char base[IO_PATH_MAX]; /* base_model_name_or_path */
} LoraConfig;

typedef struct {
    LoraConfig config;
    LoraShape shape;
    Adapter *slots; /* [layers][TARGET_COUNT] then the head; a.w.data == NULL = not targeted */
    real *weights, *gradients; /* all A and B in the order of lora_each; gradients may be NULL */
    size_t count;              /* numbers in weights */
} Lora;

/* "q_proj,v_proj", "all-linear" -> bits; unknown names are ERR_USAGE with the nearest. */
int lora_parse_targets(const char *text, unsigned *targets, Err *e);
/* A ~ U(-1/sqrt(K), 1/sqrt(K)) by PyTorch's generator from `seed`, layer by layer in module order,
 * with the draws that PEFT makes and throws away in between, so the same seed gives PEFT's own A
 * to the bit; B = 0. trainable: allocate gradients. */
int lora_create(Lora *l, const LoraConfig *config, const LoraShape *shape, uint64_t seed,
                int trainable, Err *e);
/* Reads a PEFT directory; refuses by name what it cannot do (DoRA, bias, ...). NaN is ERR_DATA. */
int lora_load(Lora *l, const char *dir, const LoraShape *shape, int trainable, Err *e);
/* Writes adapter_model.safetensors (F32) and adapter_config.json into dir (made if absent). */
int lora_save(const Lora *l, const char *dir, Err *e);
void lora_close(Lora *l);

Adapter *lora_at(const Lora *l, size_t layer, Target target); /* NULL = not targeted (or l NULL) */

/* Each A and B, in a fixed order: PEFT name, pointer into weights, gradient, shape. */
typedef struct {
    char name[160];
    real *w, *d;
    size_t rows, cols;
} NamedParam;
size_t lora_param_count(const Lora *l);
void lora_param(const Lora *l, size_t i, NamedParam *out);

/* w[n,k] += scale sum_r B[n,r] A[r,k], summed in double and rounded once. */
void lora_merge_into(real *w, const Adapter *a);

#endif
