/* tensor_attention.c - softmax attention over keys that lie in spans. */
#include "tensor.h"
#include "tensor_kernels.h"

typedef struct {
    const Compute *c;
    real *o, *stat, *dq;
    const real *q, *dout, *out, *saved;
    const AttentionSeq *seqs;
    size_t n_seqs;
    const AttentionShape *s;
} AttentionJob;

/* The visible keys of a query at position p: [first, p]. */
static size_t first_key(const AttentionShape *s, size_t p)
{
    return s->window && p + 1 > s->window ? p + 1 - s->window : 0;
}

/* Where head g of position j lies: its span and the offset in the span's arrays. */
static const KeySpan *key_at(const AttentionSeq *q, const AttentionShape *s, size_t g, size_t j,
                             size_t *offset)
{
    const KeySpan *span = q->spans;
    while (j >= span->count) j -= (span++)->count;
    *offset = (j * s->G + g) * s->D;
    return span;
}

static real dot_chain(const real *a, const real *b, size_t n)
{
    real sum = 0;
    for (size_t i = 0; i < n; i++) sum = real_fma(a[i], b[i], sum);
    return sum;
}

/* score[j] = scale q . k_j for the keys [first, p] */
static void scores(const AttentionJob *a, const AttentionSeq *seq, real *score, const real *q,
                   size_t g, size_t first, size_t p)
{
    for (size_t j = first; j <= p; j++) {
        size_t at;
        const KeySpan *span = key_at(seq, a->s, g, j, &at);
        score[j - first] = (real)a->s->scale * dot_chain(q, span->k + at, a->s->D);
    }
}

/* One query head of one row: scores, softmax, weighted values. */
static void attend(const AttentionJob *a, const AttentionSeq *seq, size_t row, size_t p, size_t h)
{
    const AttentionShape *s = a->s;
    size_t g = h / (s->Q / s->G), first = first_key(s, p), at;
    real *score = compute_scratch(a->c), *o = a->o + (row * s->Q + h) * s->D;
    scores(a, seq, score, a->q + (row * s->Q + h) * s->D, g, first, p);
    real top = score[0], lanes[LANES] = {0};
    for (size_t j = first; j <= p; j++) top = score[j - first] > top ? score[j - first] : top;
    for (size_t i = 0; i < s->D; i++) o[i] = 0;
    for (size_t j = first; j <= p; j++) {
        real e = real_exp(score[j - first] - top);
        lanes[j % LANES] += e;
        const KeySpan *span = key_at(seq, s, g, j, &at);
        a->c->kernels->axpy(o, e, span->v + at, s->D);
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lanes[l] += lanes[l + half];
    for (size_t i = 0; i < s->D; i++) o[i] = o[i] / lanes[0] + 0;
    a->stat[(row * s->Q + h) * 2] = top;
    a->stat[(row * s->Q + h) * 2 + 1] = lanes[0];
}

static void attention_task(void *ctx, size_t h)
{
    const AttentionJob *a = ctx;
    for (size_t i = 0; i < a->n_seqs; i++)
        for (size_t t = 0; t < a->seqs[i].count; t++)
            attend(a, &a->seqs[i], a->seqs[i].row + t, a->seqs[i].pos + t, h);
}

void tensor_attention(const Compute *c, real *o, real *stat, const real *q,
                      const AttentionSeq *seqs, size_t n_seqs, const AttentionShape *s)
{
    AttentionJob a = {.c = c, .o = o, .stat = stat, .q = q, .seqs = seqs, .n_seqs = n_seqs, .s = s};
    threads_run(attention_task, &a, s->Q);
}

/* The backward of attend. */
static void attend_backward(const AttentionJob *a, const AttentionSeq *seq, size_t row, size_t p,
                            size_t h)
{
    const AttentionShape *s = a->s;
    size_t g = h / (s->Q / s->G), first = first_key(s, p), at, r = (row * s->Q + h);
    const real *q = a->q + r * s->D, *dout = a->dout + r * s->D;
    real *score = compute_scratch(a->c), scale = (real)s->scale;
    scores(a, seq, score, q, g, first, p);
    real top = a->saved[r * 2], sum = a->saved[r * 2 + 1];
    real mean = dot_chain(dout, a->out + r * s->D, s->D);
    for (size_t j = first; j <= p; j++) {
        const KeySpan *span = key_at(seq, s, g, j, &at);
        real weight = real_exp(score[j - first] - top) / sum;
        real ds = scale * (weight * (dot_chain(dout, span->v + at, s->D) - mean));
        if (span->dv) a->c->kernels->axpy(span->dv + at, weight, dout, s->D);
        if (span->dk) a->c->kernels->axpy(span->dk + at, ds, q, s->D);
        if (a->dq) a->c->kernels->axpy(a->dq + r * s->D, ds, span->k + at, s->D);
    }
}

/* All query heads of key head g: the owner of its dk and dv. */
static void attention_backward_task(void *ctx, size_t g)
{
    const AttentionJob *a = ctx;
    size_t group = a->s->Q / a->s->G;
    for (size_t i = 0; i < a->n_seqs; i++)
        for (size_t h = g * group; h < (g + 1) * group; h++)
            for (size_t t = 0; t < a->seqs[i].count; t++)
                attend_backward(a, &a->seqs[i], a->seqs[i].row + t, a->seqs[i].pos + t, h);
}

void tensor_attention_backward(const Compute *c, real *dq, const real *dout, const real *o,
                               const real *stat, const real *q, const AttentionSeq *seqs,
                               size_t n_seqs, const AttentionShape *s)
{
    AttentionJob a = {.c = c, .dq = dq, .dout = dout, .out = o, .saved = stat, .q = q,
                      .seqs = seqs, .n_seqs = n_seqs, .s = s};
    threads_run(attention_backward_task, &a, s->G);
}
