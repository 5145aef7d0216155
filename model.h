/* model.h - Llama, Mistral and their kin: configuration, weights, and the forward pass on the tape.
 *
 * A model is a Hugging Face directory: config.json, generation_config.json, model.safetensors or
 * shards with their index; or a GGUF file. Weights stay mapped as stored, blocks of a GGUF file,
 * too; only trained ones are copied (--full).
 *
 * Text enters as a Batch: sequences packed end to end, without padding. A sequence is a chain of
 * segments: a segment may continue another one (its parent), so a prompt shared by chosen and
 * rejected stands, and is computed, once.
 */
#ifndef ALIGN_MODEL_H
#define ALIGN_MODEL_H

#include "io.h"
#include "lora.h"
#include "tape.h"

#define MODEL_MAX_EOS 8
#define MODEL_MAX_LAYERS 1024

typedef struct {
    char family[16]; /* "llama" or "mistral" */
    size_t layers, H, F, V, Q, G, D;
    size_t max_positions;
    size_t window; /* 0 = full attention */
    double norm_eps;
    double attention_dropout; /* of config.json; not applied */
    int tied; /* the head is the embedding */
    int qkv_bias, o_bias, mlp_bias, head_norms; /* weights that some families have */
    unsigned char no_rope[MODEL_MAX_LAYERS];    /* layers whose queries and keys are not turned */
    struct {
        char type[16]; /* "default", "linear", "llama3", "yarn", "dynamic" */
        double theta, factor, low_freq_factor, high_freq_factor;
        double original_max_positions;
        double beta_fast, beta_slow, attention_factor; /* yarn; the last one scales cos and sin */
        int keeps_fractions; /* yarn: "truncate" is false */
    } rope;
    int32_t bos;
    int32_t eos[MODEL_MAX_EOS]; /* of generation_config.json, else config.json */
    size_t n_eos;
    char unfollowed[160]; /* what generation_config.json asks of generation beyond that, or "" */
    char dtype[16]; /* of the weights, by config.json: "bfloat16", ..., or ""; the files count */
} ModelConfig;

typedef struct {
    Param norm1, linear[TARGET_COUNT], norm2;
    Param bias[TARGET_COUNT], norm_q, norm_k; /* where the family has them */
} ModelLayer;

typedef struct Model {
    ModelConfig config;
    char path[IO_PATH_MAX];
    Param embedding, norm, head; /* tied: head is the embedding's own Param, see model_head */
    ModelLayer *layers;
    Safetensors *files;
    size_t n_files;
    Gguf gguf; /* n_parts 0: the model is a directory */
    size_t weight_bytes;       /* mapped */
    int untied;                /* config.json says tied, but the files hold a head of its own */
    real *rope_cos, *rope_sin; /* [rope_positions, D/2] */
    size_t rope_positions;
    real *trained, *trained_d; /* --full: copies of all weights and their gradients, else NULL */
    struct Model *base;        /* the model itself, where an adapter's weights stand in it */
    unsigned char *made;       /* model_create_random: its weights, else NULL */
    size_t n_trained;
} Model;

/* ---- options ------------------------------------------------------------------------------- */

/* What every command that computes with a model is told. */
typedef struct {
    Precision precision;
    const char *kernel; /* of compute_open */
    size_t threads;     /* 0 = one a processor */
    int no_mmap, check_tensors, strict;
} EngineOptions;
/* --model: a const char *; --adapter: the same; --precision --kernel --threads ...: of
 * EngineOptions; --seed: a uint64_t. */
extern const OptionGroup model_options, adapter_options, engine_options, seed_options;
int model_flags(const EngineOptions *o); /* of model_load */

/* ---- weights ------------------------------------------------------------------------------- */

typedef enum {
    WEIGHT_MATRIX, /* drawn at random in a new model; weight decay acts on it */
    WEIGHT_GAIN,   /* of a norm, [1, cols]: ones in a new model; does not decay */
    WEIGHT_BIAS    /* [1, cols]: zeros in a new model; does not decay */
} WeightKind;

/* A weight of a model, by the table in model_weights.c. */
#define MODEL_TENSOR_NAME 160
#define MODEL_GGUF_NAME 48
typedef struct {
    char name[MODEL_TENSOR_NAME]; /* as Hugging Face spells it */
    char gguf[MODEL_GGUF_NAME];   /* and GGUF */
    Param *param;                 /* in the model; NULL while the model has no layers */
    size_t rows, cols;            /* by the configuration */
    WeightKind kind;
    size_t layer;
    int target; /* the Target of an adapter on it, or negative */
} Weight;
/* How many a model has by its configuration, and which the i-th is: the embedding, the weights of
 * each layer, the last norm, the head that is not tied. */
size_t model_weight_count(const Model *m);
void model_weight(const Model *m, size_t i, Weight *out);
/* The adapter on a weight, or NULL. */
Adapter *model_adapter(const Lora *lora, const Weight *w);

/* ---- a model ------------------------------------------------------------------------------- */

enum { MODEL_NO_MMAP = 1, MODEL_CHECK_TENSORS = 2, MODEL_STRICT = 4, MODEL_CONFIG_ONLY = 8 };
int model_load(Model *m, const char *dir, int flags, const Log *log, Err *e);
/* A model without files: matrices uniform with standard deviation 0.02, as transformers starts them
 * (there a normal distribution), norms 1, all stored as `dtype` (F32, BF16 or F16). A function of
 * (c, dtype, seed), for any number of threads. m->path is "random". */
int model_create_random(Model *m, const ModelConfig *c, Dtype dtype, uint64_t seed, Err *e);
void model_close(Model *m);
Param *model_head(Model *m);
/* Puts the whole weights that `lora` holds in the place of the model's own: from here on it is the
 * model that the adapter was trained with, with its vocabulary. lora must outlive that. Hashes are
 * still those of the model's own weights. *m may be a copy of another Model, which stays as it is:
 * then end it with model_leave. */
int model_adapt(Model *m, const Lora *lora, Err *e);
void model_leave(Model *m);
void model_lora_shape(const Model *m, LoraShape *shape);
/* Cosines and sines for positions 0 .. count-1; call outside steps, before the first use. ERR_DATA
 * beyond the positions that the model was made for. */
int model_reserve_positions(Model *m, size_t count, Err *e);
/* --full: copies every weight to a trainable array. */
int model_make_trainable(Model *m, Err *e);
/* Weight i as the trainer sees it: w and d are NULL unless it is trainable. */
void model_param(const Model *m, size_t i, NamedParam *out);
/* SHA-256 over the model's configuration and weight files' tensors (names, shapes, bytes). */
int model_hash(const Model *m, char hex[65], Err *e);
/* ERR_DATA naming a mapped file that was written to since the model was loaded. */
int model_check_files(const Model *m, Err *e);
/* Computes a hash of which files were loaded (paths, lengths, times): models with one stamp are the
 * same, and nothing is read. ERR_MEMORY. */
int model_stamp(const Model *m, char hex[65], Err *e);
/* ERR_DATA if its hash is not the one that a run began with (NULL or "" = any). */
int model_expect(const Model *m, const char *hex, const char *begun, Err *e);
/* The same, but a file that was written to and gives `hex` (from model_hash) still is taken as it
 * is. Costs nothing where no file was touched. */
int model_check_hash(Model *m, const char hex[65], Err *e);
/* Writes weights and configuration as a new model directory: `lora` folded in (may be NULL), the
 * base's dtype kept (weights trained by --full go out as F32, and config.json says so), tokenizer
 * files copied from m->path. */
int model_save(const Model *m, const Lora *lora, const char *dir, const Log *log, Err *e);
/* The same, with every weight as *dtype (NULL = the base's), and config.json saying so; report (may
 * be NULL) says what rounding took. ERR_DATA if a weight is too large for the dtype. */
int model_merge(const Model *m, const Lora *lora, const Dtype *dtype, const char *dir,
                MergeReport *report, const Log *log, Err *e);
uint64_t model_file_bytes(const Model *m, const Dtype *dtype); /* of the weights it writes */

/* Writes a GGUF file that llama.cpp serves, `lora` folded in (may be NULL), matrices as `format`
 * (NULL: as in the base, F32 where they change and theirs is not written), the rest as F32. Of a
 * base that is a GGUF file all values are carried over. ERR_DATA for other models than Llama's and
 * Mistral's, for a tokenizer that such a file cannot describe, for a weight too large for the
 * format. */
int model_export(const Model *m, const Lora *lora, const Format *format, const char *path,
                 MergeReport *report, const Log *log, Err *e);
/* The same for the adapter alone (NULL: F32), for llama.cpp's --lora; m is its base. */
int model_export_adapter(const Model *m, const Lora *lora, const Format *format, const char *path,
                         Err *e);

/* ---- text in ------------------------------------------------------------------------------- */

typedef struct {
    size_t row, count; /* its tokens: rows of the packed batch */
    size_t pos;        /* sequence position of its first token */
    int parent;        /* the segment it continues (an earlier one), or -1 */
    KvBlock *past;     /* cached positions before it, or NULL (inference). What has a parent sees
                        * what the parent sees, cached or not, and has no past of its own */
    KvBlock *into;     /* cache block that takes its keys and values, or NULL */
} Segment;

typedef struct {
    size_t T;
    int32_t *ids; /* [T] */
    size_t n_segments;
    Segment *segments;
    size_t n_scores;     /* scored tokens: log p(target | row) */
    uint32_t *score_row; /* row whose hidden state predicts it; rows may repeat */
    int32_t *score_target;
    /* Rows and scores from here on are only looked at: no gradient flows into or through them (a
     * KTO row's mismatched partner). Segments before do not continue segments after. 0 = all have
     * gradients. */
    size_t live_T, live_scores;
} Batch;

/* Log-probs of the scored tokens, [n_scores, 1]. lora NULL = the base. `square`, [n_scores] or
 * NULL: log sum_v p_v^2. */
Var *model_logprob(Tape *t, Model *m, const Lora *lora, const Batch *b, real *square);
/* Logits [n, V] of rows rows[0..n-1] (inference). n = 0 only fills the caches: of the last layer
 * only keys and values are computed, and no later weight is read. */
Var *model_logits(Tape *t, Model *m, const Lora *lora, const Batch *b, const uint32_t *rows,
                  size_t n);
/* Node memory such a pass needs (for tape_open). */
size_t model_node_bytes(const Model *m, const Batch *b);

/* Key/value cache blocks for inference. */
KvBlock *kv_create(const Model *m, size_t capacity, KvBlock *parent, Err *e);
void kv_free(KvBlock *k);

#endif
