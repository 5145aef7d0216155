/* model.c - computes the forward pass of Llama and Mistral, written as on a blackboard. */
#include "model.h"

#include <math.h>
#include <string.h>

/* What every layer of one pass needs; lives in the tape's memory as long as its nodes. */
typedef struct {
    Model *model;
    const Lora *lora;
    Rotary rotary;
    AttentionPlan plan;
    size_t T, live; /* rows; those with a gradient, which come first */
    /* The last layer goes on with the rows that the head reads, `asked`: their keys and values come
     * from all rows, nothing else does. If no rows are requested, the last layer's operations run
     * on zero rows and read no weights. */
    const uint32_t *asked;
    size_t n_asked, live_asked;
    Rotary asked_rotary;
    AttentionPlan asked_plan;
} Pass;

/* ---- the blackboard ------------------------------------------------------------------------ */

/* Has the linear map of this target a bias? */
static int has_bias(const ModelConfig *c, Target target)
{
    switch (target) {
    case TARGET_Q:
    case TARGET_K:
    case TARGET_V: return c->qkv_bias;
    case TARGET_O: return c->o_bias;
    case TARGET_GATE:
    case TARGET_UP:
    case TARGET_DOWN: return c->mlp_bias;
    default: return 0;
    }
}

/* x W^T + b for one of a layer's linear maps, with its adapter where there is one. */
static Var *project(Tape *t, const Pass *p, size_t layer, Target target, Var *x)
{
    ModelLayer *l = &p->model->layers[layer];
    Var *y = tape_linear(t, x, &l->linear[target], lora_at(p->lora, layer, target));
    return has_bias(&p->model->config, target) ? tape_bias(t, y, &l->bias[target]) : y;
}

/* Queries or keys as they meet: every head normed where the family does so (gain g), then turned by
 * its position, but in layers without positions. */
static Var *place_heads(Tape *t, const Pass *p, size_t layer, Var *x, Param *g,
                        const Rotary *rotary)
{
    const ModelConfig *c = &p->model->config;
    if (c->head_norms) x = tape_rmsnorm(t, x, g, c->norm_eps);
    return c->no_rope[layer] ? x : tape_rope(t, x, rotary);
}

/* Returns the rows that are still needed, of those present (a recomputed layer has no others). */
static Var *asked_rows(Tape *t, const Pass *p, Var *x)
{
    return tape_gather(t, x, p->asked, x->rows < p->T ? p->live_asked : p->n_asked, p->live_asked);
}

/* One layer: x + Attention(RMSNorm(x)), then x + SwiGLU(RMSNorm(x)).   x [T,H] */
static Var *layer_forward(Tape *t, void *ctx, size_t l, Var *x)
{
    Pass *p = ctx;
    ModelLayer *layer = &p->model->layers[l];
    double eps = p->model->config.norm_eps;
    int last = l + 1 == p->model->config.layers && p->asked;

    Var *h = tape_rmsnorm(t, x, &layer->norm1, eps);
    Var *k = project(t, p, l, TARGET_K, h); /* [T, G x D] */
    k = place_heads(t, p, l, k, &layer->norm_k, &p->rotary);
    Var *v = project(t, p, l, TARGET_V, h); /* [T, G x D] */
    if (last) x = asked_rows(t, p, x), h = asked_rows(t, p, h);
    Var *q = project(t, p, l, TARGET_Q, h); /* [T, Q x D] */
    q = place_heads(t, p, l, q, &layer->norm_q, last ? &p->asked_rotary : &p->rotary);
    Var *o = tape_attention(t, q, k, v, last ? &p->asked_plan : &p->plan, l);
    x = tape_add(t, x, project(t, p, l, TARGET_O, o));

    h = tape_rmsnorm(t, x, &layer->norm2, eps);
    Var *gate = project(t, p, l, TARGET_GATE, h); /* [T,F] */
    Var *up = project(t, p, l, TARGET_UP, h);     /* [T,F] */
    Var *m = tape_swiglu(t, gate, up);
    return tape_add(t, x, project(t, p, l, TARGET_DOWN, m));
}

/* Hidden states that predict something, after the last norm, [n,H]. rows[i] counts among the asked
 * rows. RMSNorm works row by row, so it may come after the choice. */
static Var *hidden(Tape *t, Pass *p, const Batch *b, const uint32_t *rows, size_t n, size_t live)
{
    Model *m = p->model;
    Var *x = tape_embed(t, &m->embedding, b->ids, b->T);
    x->live = p->live;
    for (size_t l = 0; l < m->config.layers; l++) {
        int last = l + 1 == m->config.layers && p->asked;
        x = tape_layer(t, layer_forward, p, l, x, last ? p->n_asked : p->T,
                       last ? p->live_asked : p->live);
    }
    return tape_rmsnorm(t, tape_gather(t, x, rows, n, live), &m->norm, m->config.norm_eps);
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

/* One part: queries [first, first + count) of a segment, the first of which is row `row` of q. */
static int plan_part(Tape *t, const Batch *b, size_t segment, size_t first, size_t count,
                     size_t row, AttentionPart *part)
{
    size_t n = range_count(b, segment);
    KeyRange *ranges = tape_memory(t, n * sizeof *ranges);
    if (!ranges) return -1;
    fill_ranges(b, segment, ranges, n);
    ranges[n - 1].count = first + count; /* no key of its own segment lies behind the last query */
    *part = (AttentionPart){row, count, b->segments[segment].pos + first, ranges, n};
    return 0;
}

/* Every row asks: one part a segment. */
static int plan_all(Tape *t, const Batch *b, AttentionPlan *plan)
{
    AttentionPart *parts = tape_memory(t, b->n_segments * sizeof *parts);
    KvAppend *appends = tape_memory(t, b->n_segments * sizeof *appends);
    if (!parts || !appends) return -1;
    plan->parts = parts;
    plan->appends = appends;
    for (size_t i = 0; i < b->n_segments; i++) {
        const Segment *s = &b->segments[i];
        if (plan_part(t, b, i, 0, s->count, s->row, &parts[plan->n_parts++])) return -1;
        if (s->into) appends[plan->n_appends++] = (KvAppend){s->into, s->row, s->count};
    }
    return 0;
}

/* The asked rows of segment i, asked[*at ..], as one part for each run of neighbours. */
static int plan_runs(Tape *t, const Pass *p, const Batch *b, size_t i, size_t *at,
                     AttentionPart *parts, size_t *n_parts)
{
    const Segment *s = &b->segments[i];
    while (*at < p->n_asked && p->asked[*at] < s->row + s->count) {
        size_t from = *at;
        do ++*at;
        while (*at < p->n_asked && p->asked[*at] == p->asked[*at - 1] + 1 &&
               p->asked[*at] < s->row + s->count);
        if (plan_part(t, b, i, p->asked[from] - s->row, *at - from, from, &parts[(*n_parts)++]))
            return -1;
    }
    return 0;
}

/* Only the asked rows ask. */
static int plan_asked(Tape *t, const Pass *p, const Batch *b, AttentionPlan *plan)
{
    size_t runs = 0, at = 0;
    for (size_t i = 0; i < p->n_asked; i++) runs += i == 0 || p->asked[i] != p->asked[i - 1] + 1;
    AttentionPart *parts = tape_memory(t, (runs + b->n_segments) * sizeof *parts);
    if (!parts) return -1;
    *plan = p->plan; /* shape and appends are the same */
    plan->parts = parts;
    plan->n_parts = 0;
    for (size_t i = 0; i < b->n_segments; i++)
        if (plan_runs(t, p, b, i, &at, parts, &plan->n_parts)) return -1;
    return 0;
}

/* The positions of all rows. */
static uint32_t *positions(Tape *t, const Batch *b)
{
    uint32_t *position = tape_memory(t, b->T * sizeof *position);
    for (size_t i = 0; position && i < b->n_segments; i++)
        for (size_t j = 0; j < b->segments[i].count; j++)
            position[b->segments[i].row + j] = (uint32_t)(b->segments[i].pos + j);
    return position;
}

/* The rows among rows[0 .. n-1], rising, each once; *place[i] = where rows[i] stands among them.
 * All rows asked: asked stays NULL and *place is rows itself. */
static int choose_asked(Tape *t, Pass *p, const Batch *b, const uint32_t *rows, size_t n,
                        const uint32_t **place)
{
    uint32_t *at = tape_memory(t, b->T * sizeof *at); /* first a mark, then the place */
    uint32_t *asked = tape_memory(t, b->T * sizeof *asked), *out = tape_memory(t, n * sizeof *out);
    if (!at || !asked || !out) return -1;
    memset(at, 0, b->T * sizeof *at);
    for (size_t i = 0; i < n; i++) at[rows[i]] = 1;
    for (size_t r = 0; r < b->T; r++) {
        if (!at[r]) continue;
        at[r] = (uint32_t)p->n_asked;
        p->live_asked += r < p->live;
        asked[p->n_asked++] = (uint32_t)r;
    }
    *place = rows;
    if (p->n_asked == b->T) return 0;
    for (size_t i = 0; i < n; i++) out[i] = at[rows[i]];
    *place = out;
    p->asked = asked;
    return 0;
}

/* Checks ids and positions: nothing below checks them again, so whatever could read outside an
 * array must stop here. */
static int check_batch(const Model *m, const Batch *b, Err *e)
{
    size_t V = m->config.V;
    for (size_t i = 0; i < b->T + b->n_scores; i++) {
        int32_t id = i < b->T ? b->ids[i] : b->score_target[i - b->T];
        if (id < 0 || (size_t)id >= V)
            return err_set(e, ERR_DATA,
                           "token id %ld is not in the model's vocabulary of %zu: "
                           "tokenizer and model do not belong together",
                           (long)id, V);
    }
    for (size_t i = 0; i < b->n_segments; i++)
        if (b->segments[i].pos + b->segments[i].count > m->rope_positions)
            return err_set(e, ERR_INTERNAL, "position %zu is beyond the %zu reserved",
                           b->segments[i].pos + b->segments[i].count - 1, m->rope_positions);
    return 0;
}

/* The plans of a pass whose rows rows[0 .. n-1] go to the head; 0, or -1 when memory is out. */
static int pass_plan(Tape *t, Pass *p, const Batch *b, const uint32_t *rows, size_t n,
                     const uint32_t **place)
{
    const Model *m = p->model;
    const ModelConfig *c = &m->config;
    uint32_t *position = positions(t, b);
    p->rotary = (Rotary){m->rope_cos, m->rope_sin, position, c->D};
    p->plan.shape = (AttentionShape){
        .Q = c->Q, .G = c->G, .D = c->D, .window = c->window, .scale = 1.0 / sqrt((double)c->D)};
    if (!position || plan_all(t, b, &p->plan) || choose_asked(t, p, b, rows, n, place)) return -1;
    if (!p->asked) return 0;
    uint32_t *asked_position = tape_memory(t, p->n_asked * sizeof *asked_position);
    for (size_t i = 0; asked_position && i < p->n_asked; i++)
        asked_position[i] = position[p->asked[i]];
    p->asked_rotary = (Rotary){m->rope_cos, m->rope_sin, asked_position, c->D};
    return asked_position ? plan_asked(t, p, b, &p->asked_plan) : -1;
}

/* NULL when the batch does not fit the model, or the tape's memory is out. */
static Pass *pass_begin(Tape *t, Model *m, const Lora *lora, const Batch *b, const uint32_t *rows,
                        size_t n, const uint32_t **place)
{
    Err e;
    if (check_batch(m, b, &e)) {
        tape_fail(t, &e);
        return NULL;
    }
    Pass *p = tape_memory(t, sizeof *p);
    if (!p) return NULL;
    *p = (Pass){.model = m, .lora = lora, .T = b->T, .live = b->live_T ? b->live_T : b->T};
    return pass_plan(t, p, b, rows, n, place) ? NULL : p;
}

size_t model_node_bytes(const Model *m, const Batch *b)
{
    /* A kept layer leaves some 30 values and nodes; both are padded to ARENA_ALIGN. Lists of rows:
     * positions twice, asked rows, their places; parts: all rows' and the asked ones'. */
    const size_t layer_bytes = 30 * (2 * ARENA_ALIGN + 2 * ARENA_ALIGN), fixed = 1 << 16;
    size_t bytes = fixed + (m->config.layers + 1) * layer_bytes;
    size_t lists = 4 * b->T + b->n_scores + b->T, runs = b->n_segments, part = 0;
    for (size_t i = 0; i < b->n_segments; i++) {
        size_t one = 4 * ARENA_ALIGN + range_count(b, i) * (sizeof(KeyRange) + sizeof(KeySpan));
        part = one > part ? one : part;
    }
    for (size_t i = 1; i < b->n_scores; i++) runs += b->score_row[i] != b->score_row[i - 1] + 1;
    part += 2 * sizeof(AttentionPart) + sizeof(AttentionSeq) + sizeof(KvAppend);
    return bytes + lists * sizeof(uint32_t) + (2 * b->n_segments + runs + 1) * part;
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
    const uint32_t *rows;
    Pass *p = pass_begin(t, m, lora, b, b->score_row, b->n_scores, &rows);
    if (!p) return &t->nothing;
    size_t live = b->live_T ? b->live_scores : b->n_scores;
    Var *h = hidden(t, p, b, rows, b->n_scores, live);
    return tape_logprob(t, h, model_head(m), lora_at(lora, 0, TARGET_HEAD), b->score_target,
                        square);
}

Var *model_logits(Tape *t, Model *m, const Lora *lora, const Batch *b, const uint32_t *asked,
                  size_t n)
{
    const uint32_t *rows;
    Pass *p = pass_begin(t, m, lora, b, asked, n, &rows);
    if (!p) return &t->nothing;
    Var *z =
        tape_linear(t, hidden(t, p, b, rows, n, n), model_head(m), lora_at(lora, 0, TARGET_HEAD));
    if (!t->counting && !t->failed) caches_grow(b);
    return z;
}

Param *model_head(Model *m)
{
    return m->config.tied ? &m->embedding : &m->head;
}

/* ---- rotary tables ------------------------------------------------------------------------- */

/* yarn: the i at which a head turns n times over the original positions L: D ln(L / 2 pi n) / 2 ln
 * theta. */
static double yarn_turns(const ModelConfig *c, double n)
{
    const double two_pi = 6.283185307179586476925;
    return (double)c->D * maths_log(c->rope.original_max_positions / (n * two_pi)) /
           (2 * maths_log(c->rope.theta));
}

/* How much of f_i yarn keeps: all where a head turns beta_fast times and more, nothing where it
 * turns beta_slow times and less, in between a line. */
static real yarn_share(const ModelConfig *c, size_t i)
{
    double low = yarn_turns(c, c->rope.beta_fast), high = yarn_turns(c, c->rope.beta_slow);
    if (!c->rope.keeps_fractions) low = floor(low), high = ceil(high);
    if (low < 0) low = 0;
    if (high > (double)(c->D - 1)) high = (double)(c->D - 1);
    if (low == high) high += 0.001; /* as transformers */
    real ramp = ((real)i - (real)low) / (real)(high - low);
    return 1 - (ramp < 0 ? 0 : ramp > 1 ? 1 : ramp);
}

/* Computes frequencies as transformers does, every step rounded to float (to real, in double
 * builds):
 *   f_i = 1 / theta^{2i/D};  linear: f_i / factor;
 *   llama3: by wavelength w = 2 pi / f_i: long ones divided by factor, short ones kept, a linear
 *   blend between original/low and original/high;
 *   yarn (Peng et al. 2023): f_i / factor and f_i blended over i, see yarn_share;
 *   dynamic: f_i, since no sequence here is longer than the positions that the model was made for.
 */
static real rope_frequency(const ModelConfig *c, size_t i)
{
    real exponent = (real)(2 * i) / (real)c->D;
    real wide = (real)maths_pow(c->rope.theta, (double)exponent), f = 1 / wide;
    real factor = (real)c->rope.factor;
    if (!strcmp(c->rope.type, "linear")) return f / factor;
    if (!strcmp(c->rope.type, "yarn")) {
        real kept = yarn_share(c, i);
        return 1 / (factor * wide) * (1 - kept) + f * kept;
    }
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
    const size_t most = m->config.max_positions;
    if (count <= m->rope_positions) return 0;
    if (most && count > most)
        return err_set(e, ERR_DATA,
                       "a sequence of %zu tokens, but the model has %zu positions: shorten it%s",
                       count, most, advice("max-length", ", or lower --max-length"));
    size_t half = m->config.D / 2, n;
    if (size_mul(count, half, &n) || size_mul(n, sizeof(real), &n))
        return err_set(e, ERR_MEMORY, "rotary table: %zu positions are too many", count);
    real *cos = mem_alloc(n, e), *sin = cos ? mem_alloc(n, e) : NULL;
    if (!sin) {
        mem_free(cos);
        return -1;
    }
    const real scale =
        !strcmp(m->config.rope.type, "yarn") ? (real)m->config.rope.attention_factor : 1;
    for (size_t i = 0; i < half; i++) {
        real f = rope_frequency(&m->config, i);
        for (size_t p = 0; p < count; p++) {
            real angle = f * (real)p;
            cos[p * half + i] = scale * (real)maths_cos((double)angle);
            sin[p * half + i] = scale * (real)maths_sin((double)angle);
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
