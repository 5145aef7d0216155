/* tape.h - autograd-lite: a dozen operations, forward and backward side by side, and the walk back.
 *
 * model.c writes the forward pass as one would on a blackboard; each operation computes its result
 * at once and, while the tape records, leaves a node that knows how to go back. tape_backward walks
 * the nodes from the last to the first. All memory comes from one arena; the same program run on a
 * counting tape measures how much (no kernel runs, no memory is touched).
 *
 * A layer (tape_layer) is a scope. Its activations are kept for the walk back, or dropped and
 * computed again when the walk reaches it; either way its gradients live only while the walk is
 * inside it. Both ways run the same kernels on the same numbers: the bits are equal.
 */
#ifndef ALIGN_TAPE_H
#define ALIGN_TAPE_H

#include "tensor.h"

/* A value [rows, cols] and its gradient. */
typedef struct {
    real *x;
    real *d; /* d loss / d x of the first `live` rows; NULL until the walk back first adds to it */
    size_t rows, cols;
    size_t live; /* rows from here on have no gradient: they are only looked at, not trained on.
                  * Results take it from their operands; the model sets it where rows enter */
    int wants;   /* does it depend on anything trainable? If not, it gets no gradient */
} Var;

/* A weight: frozen (d == NULL, any stored dtype) or trainable (w.data is a real array). */
typedef struct {
    Mat w;
    real *d; /* gradient, same shape, added to by every walk back; NULL = frozen */
} Param;

/* A low-rank addition to a frozen linear map (Hu et al. 2021, Eq. 3):
 *   y = x W^T + scale (drop(x) A^T) B^T.   Shapes: A [R,K]  B [N,R].
 * With sizes m (DoRA, Liu et al. 2024, Eq. 5), n_o = || row o of W + scale B A ||:
 *   y = (m / n) (x W^T + scale (x A^T) B^T);
 * under dropout as PEFT has it: y = x W^T + (m / n - 1) (drop(x) W^T) + (m / n) scale (drop(x) A^T)
 * B^T. n is taken for a constant on the way back. Shapes: m, n [N]. */
typedef struct {
    Param a, b;
    double scale;
    double dropout; /* probability; 0 = off */
    uint64_t key;   /* names the adapter in the dropout stream */
    Param m;        /* [1,N]; data NULL = no sizes */
    const real *n;  /* [N], of the present weights */
} Adapter;

typedef struct Node Node;

typedef struct {
    const Compute *compute;
    Arena arena;          /* values, saved numbers, gradients: planned, then allocated */
    Arena nodes;          /* the records themselves: small, always real memory */
    Node *last;           /* the newest node */
    int record;           /* leave nodes? (0: inference and reference) */
    int counting;         /* measure only: no kernel runs */
    int keep;             /* layers keep their activations (0: recompute them) */
    int failed;           /* memory was too small, or tape_fail; nothing was computed since */
    uint64_t dropout_key; /* changes with every micro-batch; 0 = dropout off (evaluation) */
    Compute exact;        /* as compute, in f32: adapters are never rounded to bf16 */
    real *boundary[2];    /* gradients at the borders between layers, see tape_layer */
    Var nothing;          /* what operations return once the tape has failed */
    Err fault;            /* of tape_fail; code 0 = none */
} Tape;

/* bytes = 0 opens a counting tape. node_bytes bounds the records. */
int tape_open(Tape *t, const Compute *c, size_t bytes, size_t node_bytes, Err *e);
void tape_close(Tape *t);
void tape_reset(Tape *t); /* forgets all values and nodes; keeps the memory and the peak */
size_t tape_peak(const Tape *t);
/* 0, or -1 with what went wrong since tape_reset: the memory was smaller than the program needs, or
 * the fault that tape_fail was given. */
int tape_check(const Tape *t, Err *e);
/* Makes the tape fail: from here on operations do nothing. */
void tape_fail(Tape *t, const Err *fault);

/* ---- a program, counted and run ------------------------------------------------------------ */

/* What a step does: operations on t from an empty tape on, and their result. The same program is
 * counted and run, so it goes by its arguments alone and not by what t computes. */
typedef Var *(*TapeProgram)(Tape *t, void *ctx);
/* Bytes that a program takes at its peak. */
typedef struct {
    size_t bytes, node_bytes; /* of values and gradients; of records */
} TapeNeed;
/* Measures what the program takes, on a counting tape. node_bytes bounds its records. */
int tape_count(const Compute *c, size_t node_bytes, TapeProgram program, void *ctx, TapeNeed *need,
               Err *e);
/* Counts the program, makes room for it (*t: zeros, or the tape of earlier runs, whose values are
 * gone), runs it, and compares: ERR_INTERNAL where it took more or less than was counted. The
 * result, or NULL with *e. tape_peak(t) is that of this run. */
Var *tape_run(Tape *t, const Compute *c, size_t node_bytes, TapeProgram program, void *ctx, Err *e);

/* A value without history: zeroed memory [rows, cols]. */
Var *tape_value(Tape *t, size_t rows, size_t cols);
/* Memory for plans and positions that nodes point to: real even on a counting tape, alive until
 * tape_reset. NULL (and the tape has failed) when node_bytes was too small. */
void *tape_memory(Tape *t, size_t bytes);

/* ---- operations ---------------------------------------------------------------------------- */

/* x[t,:] = E[ids[t],:] */
Var *tape_embed(Tape *t, Param *E, const int32_t *ids, size_t T);
/* y = g x / sqrt(mean x^2 + eps), row by row; where g is narrower than x, in groups of its width,
 * such as the heads of one row */
Var *tape_rmsnorm(Tape *t, Var *x, Param *g, double eps);
/* y = x W^T, or as Adapter says with one; NULL = none. A weight below sizes must be frozen. */
Var *tape_linear(Tape *t, Var *x, Param *w, Adapter *a);
/* Adds b to each row of x, in place. */
Var *tape_bias(Tape *t, Var *x, Param *b);
/* Turns x [T, heads x D] by its positions, in place. */
typedef struct {
    const real *cos, *sin;    /* [positions, D/2] */
    const uint32_t *position; /* [T] */
    size_t D;
} Rotary;
Var *tape_rope(Tape *t, Var *x, const Rotary *r);
Var *tape_swiglu(Tape *t, Var *gate, Var *up);
Var *tape_add(Tape *t, Var *a, Var *b);
/* y[j,:] = x[rows[j],:]; the rows with a gradient come first, `live` of them */
Var *tape_gather(Tape *t, Var *x, const uint32_t *rows, size_t n, size_t live);

/* Who attends to whom. Keys come in ranges, in the order of positions: rows of this batch, or the
 * key/value cache of tokens that went through the model before. */
typedef struct KvBlock KvBlock;
struct KvBlock { /* cached keys and values of positions [pos, pos + len), all layers */
    real *k, *v; /* [layers][capacity, G x D] */
    size_t pos, len, capacity;
    KvBlock *parent; /* the positions before; NULL = none */
};
typedef struct {
    size_t row, count;   /* rows of this batch ... */
    const KvBlock *past; /* ... or, when not NULL, the first `count` cached positions of it */
} KeyRange;
typedef struct {
    size_t row, count, pos; /* the queries, as in AttentionSeq: rows of q */
    const KeyRange *ranges;
    size_t n_ranges;
} AttentionPart;
typedef struct { /* inference: keys and values of these rows join a cache */
    KvBlock *into;
    size_t row, count;
} KvAppend;
typedef struct {
    AttentionShape shape;
    const AttentionPart *parts; /* by rising row */
    size_t n_parts;
    const KvAppend *appends;
    size_t n_appends;
} AttentionPlan;
/* o = softmax(scale q k^T) v for each part; parts beyond the rows of q are left out. layer: which
 * slice of the caches. */
Var *tape_attention(Tape *t, Var *q, Var *k, Var *v, const AttentionPlan *plan, size_t layer);

/* logp[i] = log softmax(h[i] W^T)[target[i]], [n,1]. With `square` (a [n] array) also
 * log sum_v p_v^2, which has no gradient. Trainable heads and adapters on the head recompute the
 * probabilities in backward; a frozen head keeps the direction W[target] - sum p W, [n,H]. */
Var *tape_logprob(Tape *t, Var *h, Param *w, Adapter *a, const int32_t *target, real *square);

/* One layer as a scope: y = fn(t, ctx, index, x), which has `rows` rows, `live` of them with a
 * gradient, and x's columns. fn must not let other values escape. When activations are computed
 * again, x comes without the rows that have no gradient: fn goes by x->rows. */
typedef Var *(*LayerFn)(Tape *t, void *ctx, size_t index, Var *x);
Var *tape_layer(Tape *t, LayerFn fn, void *ctx, size_t index, Var *x, size_t rows, size_t live);

/* ---- the walk back ------------------------------------------------------------------------- */

/* Walks back from y, whose gradient dy [rows, cols] is given: adds into the .d of every trainable
 * Param that y depends on. The tape can be walked once; then tape_reset. */
void tape_backward(Tape *t, Var *y, const real *dy);

#endif
