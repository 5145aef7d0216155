/* tensor_attention.c - computes softmax attention over keys that lie in spans.
 *
 * Work is cut into blocks of query rows that share a key head: some consecutive queries times the
 * query heads of that key head, at most BLOCK_ROWS rows. The keys of a block are walked in chunks
 * of positions whose scores fit the thread's scratch, so no [T, T] matrix exists. With products of
 * tensor_product.c as the only heavy part, a chunk is
 *
 *   forward                                backward
 *     S = Q K^T                              S = Q K^T,  dA = dO V^T
 *     A = e^{scale S - top}, 0 where hidden  A = e^{scale S - top} / sum,  dS = scale A (dA - mean)
 *     O += A V                               dQ += dS K,  dV += A^T dO,  dK += dS^T Q
 *
 * The softmax needs its maximum first: all chunks are scored for the maximum, then used. Contexts
 * that fit one chunk (2,720 positions with full blocks, 5,456 with half as many rows, in decoding
 * 262,144 by the heads of a group) are scored once, longer ones twice. Nothing is rescaled on the
 * way, so chunks leave no trace in the bits. Chunks begin at multiples of LANES, so that position j
 * adds to lane j mod 16 wherever a chunk or window begins. A hidden key (its value must be finite)
 * contributes e^-inf = 0 exactly.
 */
#include "tensor.h"
#include "tensor_kernels.h"

enum {
    BLOCK_ROWS = SCORE_ROWS,
    FORWARD_SCORES = 2 * SCORE_SCRATCH, /* includes the room of gradients, which do not exist yet */
    BACKWARD_CHUNK = 512 /* positions: two blocks of scores then lie in the level-2 cache */
};

typedef struct {
    const Compute *c;
    real *o, *stat, *dq;
    const real *q, *dout, *out, *saved;
    const AttentionSeq *seqs;
    size_t n_seqs;
    const AttentionShape *s;
    RowStride rows;    /* of q, o and their gradients, within a block */
    size_t queries;    /* of a block */
    size_t blocks;     /* of all sequences, for one key head */
    size_t head_parts; /* parts of a group that has more than BLOCK_ROWS rows */
} AttentionJob;

/* Queries [t, t + n) of a sequence, heads h .. h + rows.group - 1 of key head g. */
typedef struct {
    const AttentionJob *job;
    const AttentionSeq *seq;
    size_t g, h, t, n, count; /* count = rows */
    size_t at;                /* offset of the first row in q and o */
    size_t lo, hi;            /* positions of keys that some row sees, lo a multiple of LANES */
    size_t chunk, stride;     /* most positions at a time; row length of the scores */
    real *score, *dscore, *top, *sum;
} Block;

/* The first key that a query at position p sees. */
static size_t first_key(const AttentionShape *s, size_t p)
{
    return s->window && p + 1 > s->window ? p + 1 - s->window : 0;
}

static AttentionJob job_make(const Compute *c, const AttentionSeq *seqs, size_t n_seqs,
                             const AttentionShape *s, size_t rows)
{
    size_t group = s->Q / s->G, parts = size_ceil(group, rows);
    while (group % parts) parts++;
    size_t heads = group / parts;
    return (AttentionJob){.c = c,
                          .seqs = seqs,
                          .n_seqs = n_seqs,
                          .s = s,
                          .rows = {heads, s->D, s->Q * s->D},
                          .queries = rows / heads,
                          .head_parts = parts};
}

/* Block number `index` of a sequence for key head g: parts of a group first, then queries. */
static Block block_make(const AttentionJob *a, const AttentionSeq *seq, size_t g, size_t index,
                        size_t most, size_t room)
{
    const AttentionShape *s = a->s;
    size_t heads = a->rows.group;
    Block b = {.job = a, .seq = seq, .g = g};
    b.h = g * (s->Q / s->G) + index % a->head_parts * heads;
    b.t = index / a->head_parts * a->queries;
    b.n = size_min(a->queries, seq->count - b.t);
    b.count = b.n * heads;
    b.at = ((seq->row + b.t) * s->Q + b.h) * s->D;
    b.lo = first_key(s, seq->pos + b.t) / LANES * LANES;
    b.hi = seq->pos + b.t + b.n;
    b.chunk = size_min(most, room / b.count / LANES * LANES);
    b.stride = size_min(b.chunk, lanes_ceil(b.hi - b.lo));
    b.score = compute_scratch(a->c) + PRODUCT_SCRATCH;
    b.dscore = b.score + SCORE_SCRATCH;
    b.top = b.dscore + SCORE_SCRATCH;
    b.sum = b.top + SCORE_ROWS * LANES;
    return b;
}

static size_t blocks_of(const AttentionJob *a, const AttentionSeq *seq)
{
    return size_ceil(seq->count, a->queries) * a->head_parts;
}

/* Multiply-adds of the scores, as if no window hid a key. */
static double attention_work(const AttentionJob *a)
{
    double work = 0;
    for (size_t i = 0; i < a->n_seqs; i++)
        work += (double)a->seqs[i].count * (double)(a->seqs[i].pos + a->seqs[i].count);
    return work * (double)(a->s->Q * a->s->D);
}

/* ---- keys and values as operands ----------------------------------------------------------- */

/* The keys or values of head g from position `first` on. */
typedef struct {
    const Block *b;
    size_t first;
    int values;
} KeyView;

/* The span that holds position *j, which becomes relative to it. */
static const KeySpan *span_find(const AttentionSeq *seq, size_t *j)
{
    const KeySpan *span = seq->spans;
    while (*j >= span->count) *j -= (span++)->count;
    return span;
}

/* Row r of B: the key or value at position first + r. */
static const unsigned char *key_at(const ProductB *b, size_t r, size_t *run, size_t *stride)
{
    const KeyView *v = b->ctx;
    const AttentionShape *s = v->b->job->s;
    size_t at = v->first + r;
    const KeySpan *span = span_find(v->b->seq, &at);
    *run = span->count - at;
    *stride = s->G * s->D * sizeof(real);
    return (const unsigned char *)((v->values ? span->v : span->k) + (at * s->G + v->b->g) * s->D);
}

static ProductB keys(const KeyView *v, int across)
{
    return (ProductB){.across = across, .format = FORMAT_REAL, .row = key_at, .ctx = v};
}

/* The rows of a block of q or dout, as stored. */
typedef struct {
    const Block *b;
    const real *rows;
} QueryView;

/* Row r of B: row r of the block. */
static const unsigned char *query_at(const ProductB *b, size_t r, size_t *run, size_t *stride)
{
    const QueryView *v = b->ctx;
    const RowStride *s = &v->b->job->rows;
    *run = s->group - r % s->group; /* the heads of one token */
    *stride = s->inner * sizeof(real);
    return (const unsigned char *)(v->rows + row_offset(s, r));
}

/* ---- forward ------------------------------------------------------------------------------- */

/* score[r][j] = x[r] . (k or v of position at + j) for n positions */
static void block_dots(const Block *b, real *score, const real *x, size_t at, size_t n, int values)
{
    KeyView view = {.b = b, .first = at, .values = values};
    Product p = {.M = b->count,
                 .N = n,
                 .K = b->job->s->D,
                 .c = score,
                 .c_rows = {1, 0, b->stride},
                 .a = x + b->at,
                 .a_rows = b->job->rows,
                 .a_step = 1,
                 .b = keys(&view, 1)};
    product_part(b->job->c, &p, 0, p.M, 0, p.N);
}

/* x[r] = (add ? x[r] : 0) + sum_j weight[r][j] (k or v of position at + j) */
static void block_mix(const Block *b, real *x, const real *weight, size_t at, size_t n, int values,
                      int add)
{
    KeyView view = {.b = b, .first = at, .values = values};
    Product p = {.M = b->count,
                 .N = b->job->s->D,
                 .K = n,
                 .c = x + b->at,
                 .c_rows = b->job->rows,
                 .a = weight,
                 .a_rows = {1, 0, b->stride},
                 .a_step = 1,
                 .b = keys(&view, 0),
                 .add = add};
    product_part(b->job->c, &p, 0, p.M, 0, p.N);
}

/* -inf where row r sees no key, and beyond n up to whole lanes. */
static void block_hide(const Block *b, size_t at, size_t n)
{
    for (size_t r = 0; r < b->count; r++) {
        size_t p = b->seq->pos + b->t + r / b->job->rows.group, first = first_key(b->job->s, p);
        real *score = b->score + r * b->stride;
        for (size_t j = at; j < first && j < at + n; j++) score[j - at] = -(real)INFINITY;
        for (size_t j = p + 1 > at ? p + 1 : at; j < at + lanes_ceil(n); j++)
            score[j - at] = -(real)INFINITY;
    }
}

/* Scaled scores of a chunk and their maxima by lanes. */
static void block_scores(const Block *b, size_t at, size_t n)
{
    block_dots(b, b->score, b->job->q, at, n, 0);
    block_hide(b, at, n);
    for (size_t r = 0; r < b->count; r++)
        b->job->c->kernels->score_max(b->score + r * b->stride, b->top + r * LANES,
                                      (real)b->job->s->scale, lanes_ceil(n));
}

static void block_attend(const Block *b)
{
    const AttentionJob *a = b->job;
    size_t once = b->hi - b->lo <= b->chunk;
    for (size_t i = 0; i < b->count * LANES; i++) {
        b->top[i] = -(real)INFINITY;
        b->sum[i] = 0;
    }
    for (size_t at = b->lo; at < b->hi; at += b->chunk)
        block_scores(b, at, size_min(b->chunk, b->hi - at));
    for (size_t at = b->lo; at < b->hi; at += b->chunk) {
        size_t n = size_min(b->chunk, b->hi - at);
        if (!once) block_scores(b, at, n);
        for (size_t r = 0; r < b->count; r++)
            a->c->kernels->score_exp(b->score + r * b->stride, b->sum + r * LANES,
                                     lanes_max(b->top + r * LANES), lanes_ceil(n));
        block_mix(b, a->o, b->score, at, n, 1, at > b->lo);
    }
    for (size_t r = 0; r < b->count; r++) {
        real *o = a->o + b->at + row_offset(&a->rows, r), sum = lanes_sum(b->sum + r * LANES);
        real *stat = a->stat + (b->at + row_offset(&a->rows, r)) / a->s->D * 2;
        stat[0] = lanes_max(b->top + r * LANES);
        stat[1] = sum;
        /* + 0: the hidden keys of the block must not show even in the sign of a zero */
        for (size_t i = 0; i < a->s->D; i++) o[i] = o[i] / sum + 0;
    }
}

/* Task i: a block of some sequence, for one key head. */
static void attention_task(void *ctx, size_t i)
{
    const AttentionJob *a = ctx;
    const AttentionSeq *seq = a->seqs;
    size_t g = i / a->blocks, index = i % a->blocks;
    while (index >= blocks_of(a, seq)) index -= blocks_of(a, seq++);
    size_t last = blocks_of(a, seq) - 1; /* sees most keys: light and heavy blocks alternate */
    Block b =
        block_make(a, seq, g, index % 2 ? last - index / 2 : index / 2, SIZE_MAX, FORWARD_SCORES);
    block_attend(&b);
}

/* Positions whose scores for `rows` rows fit the scratch. */
static size_t scored_at_once(size_t rows)
{
    return FORWARD_SCORES / rows / LANES * LANES;
}

/* Rows of a block: half as many where the scores of the most keys that a block sees then fit at
 * once. A window is seen from each row of the block, and begins at a multiple of LANES. */
static size_t forward_rows(const AttentionSeq *seqs, size_t n_seqs, const AttentionShape *s)
{
    size_t most = 0;
    for (size_t i = 0; i < n_seqs; i++) {
        size_t keys = seqs[i].pos + seqs[i].count;
        if (s->window) keys = size_min(keys, s->window + BLOCK_ROWS + LANES);
        if (keys > most) most = keys;
    }
    int halved = most > scored_at_once(BLOCK_ROWS) && most <= scored_at_once(BLOCK_ROWS / 2);
    return halved ? BLOCK_ROWS / 2 : BLOCK_ROWS;
}

void tensor_attention(const Compute *c, real *o, real *stat, const real *q,
                      const AttentionSeq *seqs, size_t n_seqs, const AttentionShape *s)
{
    AttentionJob a = job_make(c, seqs, n_seqs, s, forward_rows(seqs, n_seqs, s));
    a.o = o;
    a.stat = stat;
    a.q = q;
    for (size_t i = 0; i < n_seqs; i++) a.blocks += blocks_of(&a, &seqs[i]);
    tasks_run(attention_task, &a, a.blocks * s->G, attention_work(&a));
}

/* ---- backward ------------------------------------------------------------------------------ */

/* dk or dv of the positions at .. at + n - 1:  d[j] += sum_r weight[r][j] x[r]; span by span */
static void block_spread(const Block *b, const real *weight, const real *x, size_t at, size_t n,
                         int values)
{
    const AttentionShape *s = b->job->s;
    QueryView view = {.b = b, .rows = x + b->at};
    for (size_t done = 0, len; done < n; done += len) {
        size_t j = at + done;
        const KeySpan *span = span_find(b->seq, &j);
        real *d = values ? span->dv : span->dk;
        len = size_min(size_min(n - done, span->count - j), PRODUCT_ROWS);
        if (!d) continue;
        Product p = {.M = len,
                     .N = s->D,
                     .K = b->count,
                     .c = d + (j * s->G + b->g) * s->D,
                     .c_rows = {1, 0, s->G * s->D},
                     .a = weight + done,
                     .a_rows = {1, 0, 1},
                     .a_step = b->stride,
                     .b = {.format = FORMAT_REAL, .row = query_at, .ctx = &view},
                     .add = 1};
        product_part(b->job->c, &p, 0, p.M, 0, p.N);
    }
}

static void block_backward(const Block *b)
{
    const AttentionJob *a = b->job;
    const Kernels *k = a->c->kernels;
    for (size_t at = b->lo; at < b->hi; at += b->chunk) {
        size_t n = size_min(b->chunk, b->hi - at);
        block_dots(b, b->score, a->q, at, n, 0);
        block_dots(b, b->dscore, a->dout, at, n, 1);
        block_hide(b, at, n);
        for (size_t r = 0; r < b->count; r++) {
            size_t x = b->at + row_offset(&a->rows, r);
            const real *stat = a->saved + x / a->s->D * 2;
            k->score_backward(b->score + r * b->stride, b->dscore + r * b->stride,
                              (real)a->s->scale, stat[0], stat[1],
                              k->dot(a->dout + x, a->out + x, a->s->D), n);
        }
        block_mix(b, a->dq, b->dscore, at, n, 0, 1);
        block_spread(b, b->score, a->dout, at, n, 1);
        block_spread(b, b->dscore, a->q, at, n, 0);
    }
}

/* All that touches key head g, in the order of sequences and blocks: the owner of its dk and dv. */
static void attention_backward_task(void *ctx, size_t g)
{
    const AttentionJob *a = ctx;
    for (size_t i = 0; i < a->n_seqs; i++)
        for (size_t index = 0; index < blocks_of(a, &a->seqs[i]); index++) {
            Block b = block_make(a, &a->seqs[i], g, index, BACKWARD_CHUNK, SCORE_SCRATCH);
            block_backward(&b);
        }
}

void tensor_attention_backward(const Compute *c, real *dq, const real *dout, const real *o,
                               const real *stat, const real *q, const AttentionSeq *seqs,
                               size_t n_seqs, const AttentionShape *s)
{
    AttentionJob a = job_make(c, seqs, n_seqs, s, BLOCK_ROWS);
    a.dq = dq;
    a.dout = dout;
    a.out = o;
    a.saved = stat;
    a.q = q;
    tasks_run(attention_backward_task, &a, s->G, attention_work(&a));
}
