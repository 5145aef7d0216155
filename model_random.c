/* model_random.c - makes a model in memory, with random weights, to measure and to test. */
#include "model.h"

#include <string.h>

enum {
    CHUNK = 1 << 16, /* numbers drawn by a task */
    PER_DRAW = 4,    /* numbers of 16 bits from one draw */
    DRAW_BITS = 16,
    WEIGHT_ALIGN = 64
};

/* ---- where the weights lie ----------------------------------------------------------------- */

/* The weights one after another in a block; base NULL only counts. */
typedef struct {
    unsigned char *base;
    size_t used;
    const Format *format;
    int overflow;
} Layout;

static void place(Layout *at, const Weight *w)
{
    size_t bytes;
    if (w->cols > SIZE_MAX / sizeof(double) ||
        size_mul(w->rows, format_bytes(at->format, w->cols), &bytes) ||
        size_add(at->used, bytes, &bytes) || size_add(bytes, WEIGHT_ALIGN, &bytes)) {
        at->overflow = 1;
        return;
    }
    const unsigned char *data = at->base ? at->base + at->used : NULL;
    *w->param = (Param){.w = {data, at->format, w->rows, w->cols, 0}};
    at->used = bytes / WEIGHT_ALIGN * WEIGHT_ALIGN;
}

static void place_all(Layout *at, Model *m)
{
    Weight w;
    for (size_t i = 0; i < model_weight_count(m); i++) {
        model_weight(m, i, &w);
        place(at, &w);
    }
}

/* ---- their numbers ------------------------------------------------------------------------- */

typedef struct {
    unsigned char *out;
    const Format *format;
    size_t count;
    uint64_t key;
    int is_drawn;
    real all; /* where it is not */
} Fill;

/* Number i of the matrix named by key is 16 bits of draw i / 4: u in [-1, 1), times the width that
 * gives the standard deviation (the one of u is 1 / sqrt 3). */
static void fill_task(void *ctx, size_t chunk)
{
    const Fill *f = ctx;
    const float width = 0.02f * 1.7320508f, unit = 1.0f / (1 << (DRAW_BITS - 1));
    size_t size = format_bytes(f->format, 1), end = (chunk + 1) * CHUNK;
    uint64_t draw = 0;
    if (end > f->count) end = f->count;
    for (size_t i = chunk * CHUNK; i < end; i++) {
        if (i % PER_DRAW == 0) draw = rng_u64(f->key, RNG_WEIGHTS, i / PER_DRAW);
        float u = (float)(draw & 0xffff) * unit - 1;
        draw >>= DRAW_BITS;
        real x = f->is_drawn ? u * width : f->all;
        f->format->pack(f->out + i * size, &x, 1);
    }
}

static void fill_all(Model *m, uint64_t seed)
{
    Weight w;
    for (size_t i = 0; i < model_weight_count(m); i++) {
        model_weight(m, i, &w);
        Fill f = {.out = m->made + ((const unsigned char *)w.param->w.data - m->made),
                  .format = w.param->w.format,
                  .count = w.rows * w.cols,
                  .key = rng_mix(seed, i),
                  .all = w.kind == WEIGHT_GAIN ? 1 : 0,
                  .is_drawn = w.kind == WEIGHT_MATRIX};
        threads_run(fill_task, &f, f.count / CHUNK + (f.count % CHUNK != 0));
    }
}

int model_create_random(Model *m, const ModelConfig *c, Dtype dtype, uint64_t seed, Err *e)
{
    memset(m, 0, sizeof *m);
    m->config = *c;
    snprintf(m->path, sizeof m->path, "random");
    if (!format_of(dtype)->pack)
        return err_set(e, ERR_USAGE, "random weights: dtype %s; allowed: F32, BF16, F16",
                       dtype_name(dtype));
    Layout count = {.format = format_of(dtype)}, at = count;
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
