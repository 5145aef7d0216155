/* model.c - the forward pass of Llama and Mistral, written once, as on a blackboard. */
#include "model.h"

#include <math.h>
#include <string.h>

/* What every layer of one pass needs; lives in the tape's memory as long as its nodes. */
typedef struct {
    Model *model;
    const Lora *lora;
    Rotary rotary;
    AttentionPlan plan;
} Pass;

/* ---- the blackboard ------------------------------------------------------------------------ */

/* x W^T for one of a layer's linear maps, with its adapter where there is one. */
static Var *project(Tape *t, const Pass *p, size_t layer, Target target, Var *x)
{
    Param *w = &p->model->layers[layer].linear[target];
    return tape_linear(t, x, w, lora_at(p->lora, layer, target));
}

/* One layer: x + Attention(RMSNorm(x)), then x + SwiGLU(RMSNorm(x)).   x [T,H] */
static Var *layer_forward(Tape *t, void *ctx, size_t l, Var *x)
{
    Pass *p = ctx;
    ModelLayer *layer = &p->model->layers[l];
    double eps = p->model->config.norm_eps;

    Var *h = tape_rmsnorm(t, x, &layer->norm1, eps);
    Var *q = tape_rope(t, project(t, p, l, TARGET_Q, h), &p->rotary); /* [T, Q x D] */
    Var *k = tape_rope(t, project(t, p, l, TARGET_K, h), &p->rotary); /* [T, G x D] */
    Var *v = project(t, p, l, TARGET_V, h);                           /* [T, G x D] */
    Var *o = tape_attention(t, q, k, v, &p->plan, l);                 /* [T, Q x D] */
    x = tape_add(t, x, project(t, p, l, TARGET_O, o));

    h = tape_rmsnorm(t, x, &layer->norm2, eps);
    Var *gate = project(t, p, l, TARGET_GATE, h); /* [T,F] */
    Var *up = project(t, p, l, TARGET_UP, h);     /* [T,F] */
    Var *m = tape_swiglu(t, gate, up);
    return tape_add(t, x, project(t, p, l, TARGET_DOWN, m));
}

/* Hidden states of the chosen rows after the last norm, [n,H]: the head is only needed there, and
 * RMSNorm works row by row, so it may come after the choice. */
static Var *hidden(Tape *t, Pass *p, const Batch *b, const uint32_t *rows, size_t n)
{
    Model *m = p->model;
    Var *x = tape_embed(t, &m->embedding, b->ids, b->T);
    for (size_t l = 0; l < m->config.layers; l++) x = tape_layer(t, layer_forward, p, l, x);
    return tape_rmsnorm(t, tape_gather(t, x, rows, n), &m->norm, m->config.norm_eps);
}

/* ---- from segments to an attention plan ---------------------------------------------------- */

/* How many key ranges a segment reads: itself, its ancestors in the batch, cached blocks. */
static size_t range_count(const Batch *b, size_t segment)
{
    size_t n = 1;
    const Segment *s = &b->segments[segment];
    for (; s->parent >= 0; s = &b->segments[s->parent]) n++;
    for (const KvBlock *k = s->past; k; k = k->parent) n++;
    return n;
}

/* Fills ranges[0 .. n-1] from the back: own rows, then each earlier stretch of the sequence. A
 * cached block that has a successor counts up to where the successor begins. */
static void fill_ranges(const Batch *b, size_t segment, KeyRange *ranges, size_t n)
{
    const Segment *s = &b->segments[segment];
    ranges[--n] = (KeyRange){.row = s->row, .count = s->count};
    for (; s->parent >= 0;) {
        s = &b->segments[s->parent];
        ranges[--n] = (KeyRange){.row = s->row, .count = s->count};
    }
    size_t end = s->pos;
    for (const KvBlock *k = s->past; k; k = k->parent) {
        ranges[--n] = (KeyRange){.past = k, .count = end - k->pos};
        end = k->pos;
    }
}

static int plan_attention(Tape *t, const Model *m, const Batch *b, AttentionPlan *plan)
{
    const ModelConfig *c = &m->config;
    plan->shape = (AttentionShape){.Q = c->Q, .G = c->G, .D = c->D, .window = c->window,
                                   .scale = 1.0 / sqrt((double)c->D)};
    AttentionPart *parts = tape_memory(t, b->n_segments * sizeof *parts);
    for (size_t i = 0; parts && i < b->n_segments; i++) {
        const Segment *s = &b->segments[i];
        size_t n = range_count(b, i);
        KeyRange *ranges = tape_memory(t, n * sizeof *ranges);
        if (!ranges) return -1;
        fill_ranges(b, i, ranges, n);
        parts[i] = (AttentionPart){s->row, s->count, s->pos, ranges, n, s->into};
    }
    plan->parts = parts;
    plan->n_parts = b->n_segments;
    return parts ? 0 : -1;
}

static const uint32_t *positions(Tape *t, const Batch *b)
{
    uint32_t *position = tape_memory(t, b->T * sizeof *position);
    for (size_t i = 0; position && i < b->n_segments; i++)
        for (size_t j = 0; j < b->segments[i].count; j++) {
            size_t at = b->segments[i].pos + j;
            position[b->segments[i].row + j] = (uint32_t)at;
        }
    return position;
}

/* Nothing below checks an id or a position again: what could read outside an array stops here. */
static int check_batch(const Model *m, const Batch *b, Err *e)
{
    size_t V = m->config.V;
    for (size_t i = 0; i < b->T + b->n_scores; i++) {
        int32_t id = i < b->T ? b->ids[i] : b->score_target[i - b->T];
        if (id < 0 || (size_t)id >= V)
            return err_set(e, ERR_DATA, "token id %ld is not in the model's vocabulary of %zu: "
                           "tokenizer and model do not belong together", (long)id, V);
    }
    for (size_t i = 0; i < b->n_segments; i++)
        if (b->segments[i].pos + b->segments[i].count > m->rope_positions)
            return err_set(e, ERR_INTERNAL, "position %zu is beyond the %zu reserved",
                           b->segments[i].pos + b->segments[i].count - 1, m->rope_positions);
    return 0;
}

/* NULL when the batch does not fit the model, or the tape's memory is out. */
static Pass *pass_begin(Tape *t, Model *m, const Lora *lora, const Batch *b)
{
    Err e;
    if (check_batch(m, b, &e)) {
        tape_fail(t, &e);
        return NULL;
    }
    Pass *p = tape_memory(t, sizeof *p);
    if (!p) return NULL;
    p->model = m;
    p->lora = lora;
    p->rotary = (Rotary){m->rope_cos, m->rope_sin, positions(t, b), m->config.D};
    if (!p->rotary.position || plan_attention(t, m, b, &p->plan)) return NULL;
    return p;
}

size_t model_node_bytes(const Model *m, const Batch *b)
{
    /* A kept layer leaves some 20 values and nodes; both are padded to ARENA_ALIGN. */
    const size_t layer_bytes = 20 * (2 * ARENA_ALIGN + 2 * ARENA_ALIGN), fixed = 1 << 16;
    size_t bytes = fixed + (m->config.layers + 1) * layer_bytes + b->T * sizeof(uint32_t);
    for (size_t i = 0; i < b->n_segments; i++)
        bytes += 4 * ARENA_ALIGN + sizeof(AttentionPart) + sizeof(AttentionSeq) +
                 range_count(b, i) * (sizeof(KeyRange) + sizeof(KeySpan));
    return bytes;
}

/* ---- public passes ------------------------------------------------------------------------- */

/* The new keys and values are in the caches of all layers: the caches have grown. */
static void caches_grow(const Batch *b)
{
    for (size_t i = 0; i < b->n_segments; i++)
        if (b->segments[i].into) b->segments[i].into->len += b->segments[i].count;
}

Var *model_logprob(Tape *t, Model *m, const Lora *lora, const Batch *b, real *square)
{
    Pass *p = pass_begin(t, m, lora, b);
    if (!p) return &t->nothing;
    Var *h = hidden(t, p, b, b->score_row, b->n_scores);
    return tape_logprob(t, h, model_head(m), lora_at(lora, 0, TARGET_HEAD), b->score_target, square);
}

Var *model_logits(Tape *t, Model *m, const Lora *lora, const Batch *b, const uint32_t *rows,
                  size_t n)
{
    Pass *p = pass_begin(t, m, lora, b);
    if (!p) return &t->nothing;
    Var *z = tape_linear(t, hidden(t, p, b, rows, n), model_head(m),
                         lora_at(lora, 0, TARGET_HEAD));
    if (!t->counting && !t->failed) caches_grow(b);
    return z;
}

Param *model_head(Model *m)
{
    return m->config.tied ? &m->embedding : &m->head;
}

/* ---- rotary tables ------------------------------------------------------------------------- */

/* Frequencies as transformers has them, every step rounded to float (to real, in double builds):
 *   f_i = 1 / theta^{2i/D};  linear: f_i / factor;
 *   llama3: by wavelength w = 2 pi / f_i: long ones divided by factor, short ones kept, a linear
 *   blend between original/low and original/high. */
static real rope_frequency(const ModelConfig *c, size_t i)
{
    real exponent = (real)(2 * i) / (real)c->D;
    real f = 1 / (real)maths_pow(c->rope.theta, (double)exponent);
    real factor = (real)c->rope.factor;
    if (!strcmp(c->rope.type, "linear")) return f / factor;
    if (strcmp(c->rope.type, "llama3")) return f;
    const double two_pi = 6.283185307179586476925;
    real wave = (real)two_pi / f, original = (real)c->rope.original_max_positions;
    real low = (real)c->rope.low_freq_factor, high = (real)c->rope.high_freq_factor;
    if (wave > original / low) return f / factor;
    if (wave < original / high) return f;
    real smooth = (original / wave - low) / (high - low);
    return (1 - smooth) * f / factor + smooth * f;
}

int model_reserve_positions(Model *m, size_t count, Err *e)
{
    if (count <= m->rope_positions) return 0;
    size_t half = m->config.D / 2, n;
    if (size_mul(count, half, &n) || size_mul(n, sizeof(real), &n))
        return err_set(e, ERR_MEMORY, "rotary table: %zu positions are too many", count);
    real *cos = mem_alloc(n, e), *sin = cos ? mem_alloc(n, e) : NULL;
    if (!sin) {
        mem_free(cos);
        return -1;
    }
    for (size_t i = 0; i < half; i++) {
        real f = rope_frequency(&m->config, i);
        for (size_t p = 0; p < count; p++) {
            real angle = f * (real)p;
            cos[p * half + i] = (real)maths_cos((double)angle);
            sin[p * half + i] = (real)maths_sin((double)angle);
        }
    }
    mem_free(m->rope_cos);
    mem_free(m->rope_sin);
    m->rope_cos = cos;
    m->rope_sin = sin;
    m->rope_positions = count;
    return 0;
}

/* ---- key/value caches ---------------------------------------------------------------------- */

KvBlock *kv_create(const Model *m, size_t capacity, KvBlock *parent, Err *e)
{
    size_t n;
    KvBlock *k = mem_calloc(1, sizeof *k, e);
    if (!k) return NULL;
    if (size_mul(m->config.layers * m->config.G * m->config.D, capacity, &n) ||
        size_mul(n, sizeof(real), &n)) {
        mem_free(k);
        err_set(e, ERR_MEMORY, "key/value cache: %zu positions are too many", capacity);
        return NULL;
    }
    k->k = mem_alloc(n, e);
    k->v = k->k ? mem_alloc(n, e) : NULL;
    k->capacity = capacity;
    k->parent = parent;
    k->pos = parent ? parent->pos + parent->len : 0;
    if (k->v) return k;
    kv_free(k);
    return NULL;
}

void kv_free(KvBlock *k)
{
    if (!k) return;
    mem_free(k->k);
    mem_free(k->v);
    mem_free(k);
}
