/* model_config.h - private to the model's room: reading config.json, writing weights. */
#ifndef ALIGN_MODEL_CONFIG_H
#define ALIGN_MODEL_CONFIG_H

#include "model.h"

/* Reads dir/config.json and dir/generation_config.json. Refuses by name what is not supported;
 * strict: a missing rope_theta is an error instead of a note. */
int model_config_read(ModelConfig *c, const char *dir, int strict, const Log *log, Err *e);
/* The same from the text of a config.json; `name` is for messages. */
int model_config_parse(ModelConfig *c, const char *text, size_t len, const char *name, int strict,
                       const Log *log, Err *e);

/* model_gguf.c: appends the config.json that says what an open file says; points the weights of a
 * model whose configuration is read to the tensors of m->gguf. */
int model_gguf_config(const Gguf *g, Text *out, Err *e);
int model_gguf_weights(Model *m, int flags, const Log *log, Err *e);

/* ---- Llama's GGUF files, read and written -------------------------------------------------- */

#define GGUF_ARCHITECTURE "llama"
#define GGUF_ROPE "rope_freqs.weight" /* what divides each frequency */
/* The widths of heads whose halves a file interleaves in this weight; 0 = its rows are in order. */
size_t model_gguf_paired(const ModelConfig *c, const Weight *w);
/* That divisor for pair i of `half` by Llama 3's scaling: 1 for high frequencies, rope.factor for
 * low ones, between them as writers of such files compute it. */
double model_gguf_divisor(const ModelConfig *c, size_t i, size_t half);

/* ---- model_save.c: a weight on its way into a file ----------------------------------------- */

typedef struct {
    Weight weight;
    const char *name; /* for messages */
    const Lora *lora; /* folded in; may be NULL */
    const Format *to; /* of the file; with `pack`, unless it is what the weight has */
    size_t paired;    /* of the file, as in Mat */
    MergeReport *report; /* may be NULL */
} FileWeight;
/* What the base stored weight i as: `keep` goes by that, and an adapter's own whole weights are
 * stored as what they replace was. */
const Mat *save_own(const Model *m, size_t i, const Weight *w);
/* Puts it, by the bytes it has where nothing changes; ctx is a FileWeight. ERR_DATA where a number
 * is not finite, or too large for the format. */
int save_weight(void *ctx, Writer *out, Err *e);
/* Puts values [rows * cols] as a matrix of this format and order of rows (without data); afterwards
 * they are what a reader will see. */
int save_values(const char *name, const Mat *as, real *values, Writer *out, Err *e);
/* An adapter on a head that is the embedding cannot be folded in: ERR_DATA. */
int save_check_head(const Model *m, const Lora *lora, Err *e);

#endif
