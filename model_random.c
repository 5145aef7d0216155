/* model_random.c - a model without files: random weights in memory, for measuring and for tests. */
#include "model_config.h"

#include <string.h>

enum {
    CHUNK = 1 << 16,      /* numbers drawn by a task */
    PER_DRAW = 4,         /* numbers of 16 bits from one draw */
    DRAW_BITS = 16,
    WEIGHT_ALIGN = 64
};

/* ---- where the weights lie ----------------------------------------------------------------- */

/* The weights one after another in a block; base NULL only counts. */
typedef struct {
    unsigned char *base;
    size_t used;
    Dtype dtype;
    int overflow;
} Layout;

static void place(Layout *at, Param *p, size_t rows, size_t cols)
{
    size_t bytes;
    if (size_mul(rows, cols, &bytes) || size_mul(bytes, dtype_size(at->dtype), &bytes) ||
        size_add(at->used, bytes, &bytes) || size_add(bytes, WEIGHT_ALIGN, &bytes)) {
        at->overflow = 1;
        return;
    }
    const unsigned char *data = at->base ? at->base + at->used : NULL;
    p->w = (Mat){data, at->dtype, rows, cols};
    p->d = NULL;
    at->used = bytes / WEIGHT_ALIGN * WEIGHT_ALIGN;
}

static void place_all(Layout *at, Model *m)
{
    const ModelConfig *c = &m->config;
    LoraShape s;
    model_lora_shape(m, &s);
    place(at, &m->embedding, c->V, c->H);
    for (size_t l = 0; l < c->layers; l++) {
        for (int t = 0; t < TARGET_COUNT; t++)
            place(at, &m->layers[l].linear[t], s.outputs[t], s.inputs[t]);
        place(at, &m->layers[l].norm1, 1, c->H);
        place(at, &m->layers[l].norm2, 1, c->H);
    }
    place(at, &m->norm, 1, c->H);
    if (!c->tied) place(at, &m->head, c->V, c->H);
}

/* ---- their numbers ------------------------------------------------------------------------- */

typedef struct {
    unsigned char *out;
    Dtype dtype;
    size_t count;
    uint64_t key;
    int ones;
} Fill;

static void store(unsigned char *to, Dtype t, float value)
{
    uint16_t half = t == DTYPE_BF16 ? bf16_from_float(value) : f16_from_float(value);
    if (t == DTYPE_F32)
        memcpy(to, &value, sizeof value);
    else
        memcpy(to, &half, sizeof half);
}

/* Number i of the matrix named by key is 16 bits of draw i / 4: u in [-1, 1), times the width that
 * gives the standard deviation (the one of u is 1 / sqrt 3). */
static void fill_task(void *ctx, size_t chunk)
{
    const Fill *f = ctx;
    const float width = 0.02f * 1.7320508f, unit = 1.0f / (1 << (DRAW_BITS - 1));
    size_t size = dtype_size(f->dtype), end = (chunk + 1) * CHUNK;
    uint64_t draw = 0;
    if (end > f->count) end = f->count;
    for (size_t i = chunk * CHUNK; i < end; i++) {
        if (i % PER_DRAW == 0) draw = rng_u64(f->key, RNG_WEIGHTS, i / PER_DRAW);
        float u = (float)(draw & 0xffff) * unit - 1;
        draw >>= DRAW_BITS;
        store(f->out + i * size, f->dtype, f->ones ? 1 : u * width);
    }
}

static void fill_all(Model *m, uint64_t seed)
{
    char name[MODEL_TENSOR_NAME];
    for (size_t i = 0; i < model_param_count(m); i++) {
        const Mat *w = model_weight(m, i, name);
        Fill f = {.out = m->made + ((const unsigned char *)w->data - m->made),
                  .dtype = w->dtype,
                  .count = w->rows * w->cols,
                  .key = rng_mix(seed, i),
                  .ones = w->rows == 1};
        threads_run(fill_task, &f, f.count / CHUNK + (f.count % CHUNK != 0));
    }
}

int model_create_random(Model *m, const ModelConfig *c, Dtype dtype, uint64_t seed, Err *e)
{
    memset(m, 0, sizeof *m);
    m->config = *c;
    snprintf(m->path, sizeof m->path, "random");
    if (dtype == DTYPE_F64)
        return err_set(e, ERR_USAGE, "random weights: dtype F64; allowed: F32, BF16, F16");
    Layout count = {.dtype = dtype}, at = count;
    m->layers = mem_calloc(c->layers, sizeof *m->layers, e);
    if (!m->layers) return -1;
    place_all(&count, m);
    if (count.overflow)
        err_set(e, ERR_MEMORY, "random weights: %zu layers of width %zu are too large", c->layers,
                c->H);
    else
        at.base = m->made = mem_alloc(count.used, e);
    if (!at.base) {
        model_close(m);
        return -1;
    }
    place_all(&at, m);
    m->weight_bytes = at.used;
    fill_all(m, seed);
    return 0;
}
