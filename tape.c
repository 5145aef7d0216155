/* tape.c - computes each operation forward and backward, side by side, and walks back. */
#include "tape.h"

#include <math.h>
#include <string.h>

/* How to go back from `out`: called once out->d is complete. `prev` is the node made before. */
struct Node {
    Node *prev;
    Var *out;
    void (*back)(Tape *t, Node *n);
};

/* ---- the tape ------------------------------------------------------------------------------ */

int tape_open(Tape *t, const Compute *c, size_t bytes, size_t node_bytes, Err *e)
{
    memset(t, 0, sizeof *t);
    t->compute = c;
    t->exact = *c;
    t->exact.precision = PRECISION_F32;
    if (arena_open(&t->nodes, node_bytes, e)) return -1;
    if (bytes == 0) {
        arena_open_counting(&t->arena);
        t->counting = 1;
    } else if (arena_open(&t->arena, bytes, e)) {
        arena_close(&t->nodes);
        return -1;
    }
    return 0;
}

void tape_close(Tape *t)
{
    arena_close(&t->arena);
    arena_close(&t->nodes);
}

void tape_reset(Tape *t)
{
    arena_release(&t->arena, 0);
    arena_release(&t->nodes, 0);
    t->last = NULL;
    t->boundary[0] = t->boundary[1] = NULL;
    t->failed = 0;
    t->fault.code = 0;
}

size_t tape_peak(const Tape *t)
{
    return t->arena.peak;
}

int tape_check(const Tape *t, Err *e)
{
    if (!t->failed) return 0;
    if (t->fault.code) return err_set(e, t->fault.code, "%s", t->fault.text);
    return err_set(e, ERR_INTERNAL,
                   "tape: the planned memory (%zu bytes, %zu for records) is too "
                   "small for this batch",
                   t->arena.size, t->nodes.size);
}

void tape_fail(Tape *t, const Err *fault)
{
    if (!t->failed) t->fault = *fault;
    t->failed = 1;
}

/* ---- a program, counted and run ------------------------------------------------------------ */

int tape_count(const Compute *c, size_t node_bytes, TapeProgram program, void *ctx, TapeNeed *need,
               Err *e)
{
    Tape t;
    if (tape_open(&t, c, 0, node_bytes, e)) return -1;
    program(&t, ctx);
    *need = (TapeNeed){t.arena.peak, t.nodes.peak};
    int status = tape_check(&t, e);
    tape_close(&t);
    return status;
}

/* An empty tape with room for `need`; it never shrinks. */
static int make_room(Tape *t, const Compute *c, const TapeNeed *need, Err *e)
{
    size_t bytes = t->arena.size, nodes = t->nodes.size;
    if (t->compute == c && need->bytes <= bytes && need->node_bytes <= nodes) {
        tape_reset(t);
        return 0;
    }
    tape_close(t);
    if (bytes < need->bytes) bytes = need->bytes;
    if (nodes < need->node_bytes) nodes = need->node_bytes;
    return tape_open(t, c, bytes ? bytes : ARENA_ALIGN, nodes, e);
}

Var *tape_run(Tape *t, const Compute *c, size_t node_bytes, TapeProgram program, void *ctx, Err *e)
{
    TapeNeed need;
    if (tape_count(c, node_bytes, program, ctx, &need, e) || make_room(t, c, &need, e)) return NULL;
    t->arena.peak = t->nodes.peak = 0;
    Var *y = program(t, ctx);
    if (tape_check(t, e)) return NULL;
    if (t->arena.peak == need.bytes && t->nodes.peak == need.node_bytes) return y;
    err_set(e, ERR_INTERNAL,
            "tape: this batch was counted at %zu bytes and %zu for records, but took %zu and %zu",
            need.bytes, need.node_bytes, t->arena.peak, t->nodes.peak);
    return NULL;
}

/* ---- memory of a step ---------------------------------------------------------------------- */

/* Do kernels run? Not while counting, and not after memory ran out. */
static int runs(const Tape *t)
{
    return !t->counting && !t->failed;
}

static void *take(Tape *t, Arena *a, size_t bytes)
{
    void *p = arena_alloc(a, bytes);
    if (!p) t->failed = 1;
    return p;
}

/* Memory for [rows, cols] numbers of the step, not cleared. */
static real *numbers(Tape *t, size_t rows, size_t cols)
{
    size_t bytes;
    if (!size_mul(rows, cols, &bytes) && !size_mul(bytes, sizeof(real), &bytes))
        return take(t, &t->arena, bytes);
    Err large;
    err_set(&large, ERR_MEMORY, "%zu x %zu numbers are more than this machine can address", rows,
            cols);
    tape_fail(t, &large);
    return NULL;
}

/* A result of an operation: memory [rows, cols], not cleared. Never NULL: where memory is out, the
 * tape has failed and the value is an empty one that nothing touches. */
static Var *var_new(Tape *t, size_t rows, size_t cols, size_t live, int wants)
{
    Var *v = take(t, &t->nodes, sizeof *v);
    if (!v) return &t->nothing;
    *v = (Var){.rows = rows, .cols = cols, .live = live, .wants = wants && live > 0};
    v->x = numbers(t, rows, cols);
    return v;
}

/* Numbers of its gradient. */
static size_t live_count(const Var *v)
{
    return v->live * v->cols;
}

/* Returns the gradient of v, cleared at first use. */
static real *var_gradient(Tape *t, Var *v)
{
    if (!v->d) {
        size_t n = live_count(v);
        v->d = numbers(t, n, 1);
        if (runs(t)) memset(v->d, 0, n * sizeof(real));
    }
    return v->d;
}

/* Leaves a node of `size` bytes that begins with a Node; NULL when nothing is recorded. */
static void *node_new(Tape *t, size_t size, Var *out, void (*back)(Tape *, Node *))
{
    if (!t->record || !out->wants) return NULL;
    Node *n = take(t, &t->nodes, size);
    if (!n) return NULL;
    memset(n, 0, size);
    n->prev = t->last;
    n->out = out;
    n->back = back;
    t->last = n;
    return n;
}

Var *tape_value(Tape *t, size_t rows, size_t cols)
{
    Var *v = var_new(t, rows, cols, rows, 0);
    if (runs(t)) memset(v->x, 0, rows * cols * sizeof(real));
    return v;
}

void *tape_memory(Tape *t, size_t bytes)
{
    return take(t, &t->nodes, bytes);
}

/* Runs the nodes from t->last down to, not including, `stop`. */
static void walk(Tape *t, Node *last, const Node *stop)
{
    for (Node *n = last; n != stop; n = n->prev)
        if (n->out->d && !t->failed) n->back(t, n);
}

void tape_backward(Tape *t, Var *y, const real *dy)
{
    if (!y->wants) return;
    real *d = var_gradient(t, y);
    if (runs(t)) memcpy(d, dy, live_count(y) * sizeof(real));
    walk(t, t->last, NULL);
}

/* ---- embedding ----------------------------------------------------------------------------- */

typedef struct {
    Node node;
    Param *table;
    const int32_t *ids;
} EmbedNode;

static void embed_back(Tape *t, Node *node)
{
    EmbedNode *n = (EmbedNode *)node;
    const Var *y = node->out;
    /* forward: y[t,:] = E[ids[t],:], so now dE[ids[t],:] += dy[t,:] */
    if (runs(t))
        tensor_embed_backward(t->compute, n->table->d, y->d, n->ids, y->live, n->table->w.rows,
                              y->cols);
}

Var *tape_embed(Tape *t, Param *table, const int32_t *ids, size_t T)
{
    Var *y = var_new(t, T, table->w.cols, T, table->d != NULL);
    if (runs(t)) tensor_embed(t->compute, y->x, &table->w, ids, T);
    EmbedNode *n = node_new(t, sizeof *n, y, embed_back);
    if (n) n->table = table, n->ids = ids;
    return y;
}

/* ---- RMSNorm ------------------------------------------------------------------------------- */

typedef struct {
    Node node;
    Var *x;
    Param *g;
    real *r; /* [T x groups] 1 / root mean square */
} RmsnormNode;

/* Groups that are normed of n rows: those of one row lie side by side. */
static size_t norm_groups(const Var *x, const Param *g, size_t rows)
{
    return rows * (x->cols / g->w.cols);
}

static void rmsnorm_back(Tape *t, Node *node)
{
    RmsnormNode *n = (RmsnormNode *)node;
    real *dx = n->x->wants ? var_gradient(t, n->x) : NULL;
    /* forward: y[t,i] = g[i] x[t,i] r[t] */
    if (runs(t))
        tensor_rmsnorm_backward(t->compute, dx, n->g->d, node->out->d, n->x->x, &n->g->w, n->r,
                                norm_groups(n->x, n->g, n->x->live));
}

Var *tape_rmsnorm(Tape *t, Var *x, Param *g, double eps)
{
    Var *y = var_new(t, x->rows, x->cols, x->live, x->wants || g->d != NULL);
    size_t groups = norm_groups(x, g, x->rows);
    real *r = numbers(t, groups, 1);
    if (runs(t)) tensor_rmsnorm(t->compute, y->x, r, x->x, &g->w, eps, groups);
    RmsnormNode *n = node_new(t, sizeof *n, y, rmsnorm_back);
    if (n) n->x = x, n->g = g, n->r = r;
    return y;
}

/* ---- linear maps, with or without an adapter ----------------------------------------------- */

typedef struct {
    Node node;
    Var *x;
    Param *w;
    Adapter *a;
    real *u;      /* [T,R] scale drop(x) A^T, NULL without adapter */
    real *z;      /* [T,N] with sizes: what they multiply, x W^T + u B^T (drop(x) in both) */
    uint64_t key; /* of the dropout mask; 0 = none */
} LinearNode;

static void scale_in_place(real *x, double s, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = (real)s * x[i];
}

static int has_sizes(const Adapter *a)
{
    return a && a->m.w.data;
}

/* The adapter's input: the first rows of x, or those with dropout in memory of their own. */
static const real *adapter_input(Tape *t, const Var *x, size_t rows, const Adapter *a, uint64_t key)
{
    if (!key) return x->x;
    real *dropped = numbers(t, rows, x->cols);
    if (runs(t)) tensor_dropout(t->compute, dropped, x->x, a->dropout, key, rows * x->cols);
    return dropped;
}

/* u = scale drop(x) A^T, [T,R] */
static real *adapter_down(Tape *t, const Var *x, const Adapter *a, uint64_t key)
{
    size_t R = a->a.w.rows;
    real *u = numbers(t, x->rows, R);
    size_t mark = arena_mark(&t->arena);
    const real *in = adapter_input(t, x, x->rows, a, key);
    if (runs(t)) {
        tensor_linear(&t->exact, u, in, &a->a.w, x->rows, 0);
        scale_in_place(u, a->scale, x->rows * R);
    }
    arena_release(&t->arena, mark);
    return u;
}

/* Given du = d loss / d (u / scale):   dA[r,k] += sum_t du[t,r] drop(x)[t,k];   dx += drop'(du A).
 * And where drop(x) also went through W [N,K], with the gradient dbase [T,N]: dx += drop'(dbase W).
 */
static void adapter_down_back(Tape *t, Var *x, Adapter *a, uint64_t key, const real *du,
                              const Mat *w, const real *dbase)
{
    size_t T = x->live, K = x->cols, R = a->a.w.rows;
    const real *in = adapter_input(t, x, T, a, key);
    if (a->a.d && runs(t)) tensor_linear_dw(&t->exact, a->a.d, du, in, T, R, K);
    if (!x->wants) return;
    real *dx = var_gradient(t, x);
    if (!key) {
        if (runs(t)) tensor_linear_dx(&t->exact, dx, du, &a->a.w, T, 1);
        return;
    }
    real *through = numbers(t, T, K);
    if (!runs(t)) return;
    tensor_linear_dx(&t->exact, through, du, &a->a.w, T, 0);
    if (dbase) tensor_linear_dx(t->compute, through, dbase, w, T, 1);
    tensor_dropout(t->compute, through, through, a->dropout, key, T * K);
    tensor_axpy(t->compute, dx, 1, through, T * K);
}

/* The gradient of z, what the sizes multiply: dz = (m / n) dy; and dm. */
static real *sizes_back(Tape *t, const LinearNode *n)
{
    const Var *y = n->node.out;
    const Adapter *a = n->a;
    size_t T = n->x->live, N = y->cols;
    real *dz = numbers(t, T, N);
    if (!runs(t)) return dz;
    if (a->m.d) tensor_magnitude_backward(t->compute, a->m.d, y->d, n->z, a->n, T, N);
    tensor_magnitude(t->compute, dz, y->d, a->m.w.data, a->n, T, N);
    return dz;
}

static void linear_back(Tape *t, Node *node)
{
    LinearNode *n = (LinearNode *)node;
    Var *x = n->x;
    const Var *y = node->out;
    size_t T = x->live, K = x->cols, N = y->cols;
    real *dx = x->wants ? var_gradient(t, x) : NULL;
    size_t mark = arena_mark(&t->arena);
    /* forward: y = (m / n) z with sizes, and under dropout y += x W^T - drop(x) W^T */
    const real *dy = y->d, *dz = has_sizes(n->a) ? sizes_back(t, n) : dy;
    real *dbase = NULL;
    if (has_sizes(n->a) && n->key && x->wants) {
        dbase = numbers(t, T, N);
        for (size_t i = 0; i < T * N && runs(t); i++) dbase[i] = dz[i] - dy[i];
    } else
        dy = dz;
    /* forward: y = x W^T */
    if (dx && runs(t)) tensor_linear_dx(t->compute, dx, dy, &n->w->w, T, 1);
    if (n->w->d && runs(t)) tensor_linear_dw(t->compute, n->w->d, dy, x->x, T, N, K);
    if (n->a) {
        /* forward: z += u B^T, u = scale drop(x) A^T */
        Adapter *a = n->a;
        size_t R = a->a.w.rows;
        if (a->b.d && runs(t)) tensor_linear_dw(&t->exact, a->b.d, dz, n->u, T, N, R);
        real *du = numbers(t, T, R);
        if (runs(t)) {
            tensor_linear_dx(&t->exact, du, dz, &a->b.w, T, 0);
            scale_in_place(du, a->scale, T * R);
        }
        adapter_down_back(t, x, a, n->key, du, &n->w->w, dbase);
    }
    arena_release(&t->arena, mark);
}

/* The key of this adapter's dropout mask in this micro-batch; 0 = no dropout. */
static uint64_t dropout_key(const Tape *t, const Adapter *a)
{
    return a->dropout > 0 && t->dropout_key ? rng_mix(t->dropout_key, a->key) : 0;
}

/* y, which is x W^T, becomes (m / n) z. Returns z. */
static real *apply_sizes(Tape *t, const LinearNode *n, Var *y)
{
    const Adapter *a = n->a;
    const Var *x = n->x;
    size_t T = y->rows, N = y->cols;
    real *z = n->key || t->record ? numbers(t, T, N) : y->x;
    size_t mark = arena_mark(&t->arena);
    if (!n->key) {
        if (!runs(t)) return z;
        tensor_linear(&t->exact, y->x, n->u, &a->b.w, T, 1);
        if (z != y->x) memcpy(z, y->x, T * N * sizeof(real));
        tensor_magnitude(t->compute, y->x, z, a->m.w.data, a->n, T, N);
        return z;
    }
    const real *in = adapter_input(t, x, T, a, n->key);
    real *low = numbers(t, T, N);
    if (runs(t)) {
        tensor_linear(t->compute, z, in, &n->w->w, T, 0);
        tensor_linear(&t->exact, low, n->u, &a->b.w, T, 0);
        tensor_magnitude_apart(t->compute, y->x, z, low, a->m.w.data, a->n, T, N);
    }
    arena_release(&t->arena, mark);
    return z;
}

Var *tape_linear(Tape *t, Var *x, Param *w, Adapter *a)
{
    int wants = x->wants || w->d || (a && a->a.d);
    Var *y = var_new(t, x->rows, w->w.rows, x->live, wants);
    LinearNode local = {.x = x, .w = w, .a = a};
    if (runs(t)) tensor_linear(t->compute, y->x, x->x, &w->w, x->rows, 0);
    if (a) {
        local.key = dropout_key(t, a);
        local.u = adapter_down(t, x, a, local.key);
        if (has_sizes(a))
            local.z = apply_sizes(t, &local, y);
        else if (runs(t))
            tensor_linear(&t->exact, y->x, local.u, &a->b.w, x->rows, 1);
    }
    LinearNode *n = node_new(t, sizeof *n, y, linear_back);
    if (n) local.node = n->node, *n = local;
    return y;
}

/* ---- bias ---------------------------------------------------------------------------------- */

typedef struct {
    Node node;
    Param *b;
} BiasNode;

/* forward: x <- x + b in place, so d stays as it is, and db += the sum of its rows. */
static void bias_back(Tape *t, Node *node)
{
    const Var *x = node->out;
    if (runs(t)) tensor_bias_backward(t->compute, ((BiasNode *)node)->b->d, x->d, x->live, x->cols);
}

Var *tape_bias(Tape *t, Var *x, Param *b)
{
    if (runs(t)) tensor_bias(t->compute, x->x, &b->w, x->rows);
    if (!b->d) return x;
    x->wants = 1;
    BiasNode *n = node_new(t, sizeof *n, x, bias_back);
    if (n) n->b = b;
    return x;
}

/* ---- rotary positions ---------------------------------------------------------------------- */

typedef struct {
    Node node;
    const Rotary *rotary;
} RopeNode;

static void rope_turn(Tape *t, real *x, size_t rows, size_t cols, const Rotary *r, int inverse)
{
    if (runs(t))
        tensor_rope(t->compute, x, r->cos, r->sin, r->position, rows, cols / r->D, r->D, inverse);
}

/* forward: x <- turn(x) in place, so now d <- turn^-1(d) in place: a rotation's transpose. */
static void rope_back(Tape *t, Node *node)
{
    const Var *x = node->out;
    rope_turn(t, x->d, x->live, x->cols, ((RopeNode *)node)->rotary, 1);
}

Var *tape_rope(Tape *t, Var *x, const Rotary *r)
{
    rope_turn(t, x->x, x->rows, x->cols, r, 0);
    RopeNode *n = node_new(t, sizeof *n, x, rope_back);
    if (n) n->rotary = r;
    return x;
}

/* ---- SwiGLU -------------------------------------------------------------------------------- */

typedef struct {
    Node node;
    Var *gate, *up;
} SwigluNode;

static void swiglu_back(Tape *t, Node *node)
{
    SwigluNode *n = (SwigluNode *)node;
    real *dgate = var_gradient(t, n->gate), *dup = var_gradient(t, n->up);
    /* forward: y = silu(gate) up */
    if (runs(t))
        tensor_swiglu_backward(t->compute, dgate, dup, node->out->d, n->gate->x, n->up->x,
                               live_count(node->out));
}

Var *tape_swiglu(Tape *t, Var *gate, Var *up)
{
    Var *y = var_new(t, gate->rows, gate->cols, gate->live, gate->wants || up->wants);
    if (runs(t)) tensor_swiglu(t->compute, y->x, gate->x, up->x, gate->rows * gate->cols);
    SwigluNode *n = node_new(t, sizeof *n, y, swiglu_back);
    if (n) n->gate = gate, n->up = up;
    return y;
}

/* ---- sums ---------------------------------------------------------------------------------- */

typedef struct {
    Node node;
    Var *a, *b;
} AddNode;

static void add_back(Tape *t, Node *node)
{
    AddNode *n = (AddNode *)node;
    Var *y = node->out;
    /* forward: y = a + b, so da += dy and db += dy. When b has no gradient yet it takes over the
     * memory of dy, which is not read any more. */
    if (n->a->wants) {
        real *da = var_gradient(t, n->a);
        if (runs(t)) tensor_axpy(t->compute, da, 1, y->d, live_count(y));
    }
    if (!n->b->wants) return;
    if (!n->b->d && n->b != n->a)
        n->b->d = y->d;
    else if (runs(t))
        tensor_axpy(t->compute, n->b->d, 1, y->d, live_count(y));
}

Var *tape_add(Tape *t, Var *a, Var *b)
{
    Var *y = var_new(t, a->rows, a->cols, a->live, a->wants || b->wants);
    if (runs(t)) tensor_add(t->compute, y->x, a->x, b->x, a->rows * a->cols);
    AddNode *n = node_new(t, sizeof *n, y, add_back);
    if (n) n->a = a, n->b = b;
    return y;
}

/* ---- choosing rows ------------------------------------------------------------------------- */

typedef struct {
    Node node;
    Var *x;
    const uint32_t *rows;
} GatherNode;

static void gather_back(Tape *t, Node *node)
{
    GatherNode *n = (GatherNode *)node;
    real *dx = var_gradient(t, n->x);
    /* forward: y[j,:] = x[rows[j],:] */
    if (runs(t))
        tensor_gather_backward(t->compute, dx, node->out->d, n->rows, node->out->live, n->x->live,
                               n->x->cols);
}

Var *tape_gather(Tape *t, Var *x, const uint32_t *rows, size_t n, size_t live)
{
    Var *y = var_new(t, n, x->cols, live, x->wants);
    if (runs(t)) tensor_gather(t->compute, y->x, x->x, rows, n, x->cols);
    GatherNode *node = node_new(t, sizeof *node, y, gather_back);
    if (node) node->x = x, node->rows = rows;
    return y;
}

/* ---- attention ----------------------------------------------------------------------------- */

typedef struct {
    Node node;
    Var *q, *k, *v;
    const AttentionPlan *plan;
    real *stat; /* [T,Q,2] maximum and sum of each softmax */
    size_t layer;
} AttentionNode;

/* Converts one key range for the kernel. */
static KeySpan key_span(const KeyRange *r, const Var *k, const Var *v, size_t layer)
{
    size_t width = k->cols;
    if (r->past) {
        size_t at = layer * r->past->capacity * width;
        return (KeySpan){.k = r->past->k + at, .v = r->past->v + at, .count = r->count};
    }
    size_t at = r->row * width;
    return (KeySpan){.k = k->x + at,
                     .v = v->x + at,
                     .dk = k->d ? k->d + at : NULL,
                     .dv = v->d ? v->d + at : NULL,
                     .count = r->count};
}

/* Parts that lie in the first `rows` rows of the queries. */
static size_t parts_within(const AttentionPlan *plan, size_t rows)
{
    size_t n = 0;
    while (n < plan->n_parts && plan->parts[n].row < rows) n++;
    return n;
}

/* The first n parts of the plan with pointers in them; NULL when memory is out. */
static AttentionSeq *attention_sequences(Tape *t, const AttentionPlan *plan, size_t n, const Var *k,
                                         const Var *v, size_t layer)
{
    AttentionSeq *seqs = take(t, &t->nodes, n * sizeof *seqs);
    for (size_t i = 0; seqs && i < n; i++) {
        const AttentionPart *p = &plan->parts[i];
        KeySpan *spans = take(t, &t->nodes, p->n_ranges * sizeof *spans);
        if (!spans) return NULL;
        for (size_t j = 0; j < p->n_ranges; j++) spans[j] = key_span(&p->ranges[j], k, v, layer);
        seqs[i] = (AttentionSeq){p->row, p->count, p->pos, spans, p->n_ranges};
    }
    return seqs;
}

/* For inference: appends the new keys and values to their cache. */
static void cache_append(const AttentionPlan *plan, const Var *k, const Var *v, size_t layer)
{
    size_t width = k->cols;
    for (size_t i = 0; i < plan->n_appends; i++) {
        const KvAppend *a = &plan->appends[i];
        size_t to = (layer * a->into->capacity + a->into->len) * width, from = a->row * width;
        memcpy(a->into->k + to, k->x + from, a->count * width * sizeof(real));
        memcpy(a->into->v + to, v->x + from, a->count * width * sizeof(real));
    }
}

static void attention_back(Tape *t, Node *node)
{
    AttentionNode *n = (AttentionNode *)node;
    real *dq = var_gradient(t, n->q);
    var_gradient(t, n->k);
    var_gradient(t, n->v);
    size_t mark = arena_mark(&t->nodes), parts = parts_within(n->plan, node->out->live);
    AttentionSeq *seqs = attention_sequences(t, n->plan, parts, n->k, n->v, n->layer);
    if (runs(t))
        tensor_attention_backward(t->compute, dq, node->out->d, node->out->x, n->stat, n->q->x,
                                  seqs, parts, &n->plan->shape);
    arena_release(&t->nodes, mark);
}

Var *tape_attention(Tape *t, Var *q, Var *k, Var *v, const AttentionPlan *plan, size_t layer)
{
    Var *o = var_new(t, q->rows, q->cols, q->live, q->wants || k->wants || v->wants);
    real *stat = numbers(t, q->rows, plan->shape.Q * 2);
    size_t mark = arena_mark(&t->nodes), parts = parts_within(plan, q->rows);
    AttentionSeq *seqs = attention_sequences(t, plan, parts, k, v, layer);
    if (runs(t)) {
        tensor_attention(t->compute, o->x, stat, q->x, seqs, parts, &plan->shape);
        cache_append(plan, k, v, layer);
    }
    arena_release(&t->nodes, mark);
    AttentionNode *n = node_new(t, sizeof *n, o, attention_back);
    if (n) n->q = q, n->k = k, n->v = v, n->plan = plan, n->stat = stat, n->layer = layer;
    return o;
}

/* ---- the head ------------------------------------------------------------------------------ */

/* Backward through a head that is trained, or carries an adapter, goes in blocks of rows and chunks
 * of V, and computes the probabilities again. Both sizes bound scratch only, never the bits. */
enum { HEAD_ROWS = 64, HEAD_CHUNK = 512 };

typedef struct {
    Node node;
    Var *h;
    Param *w;
    Adapter *a;
    const int32_t *target;
    real *direction; /* [n,H] W[target] - sum p W: frozen head; else NULL */
    real *u;         /* [n,R] scale drop(h) A^T, or NULL */
    double *norm;    /* [n] log sum_v e^z: trained or adapted head */
    uint64_t key;
} LogprobNode;

/* z[i,v] for rows first .. first+rows-1 of h and vocabulary [v0, v0+count). */
static void head_logits(const Tape *t, const LogprobNode *n, real *z, size_t first, size_t rows,
                        size_t v0, size_t count)
{
    Mat w = mat_rows(&n->w->w, v0, count);
    tensor_linear(t->compute, z, n->h->x + first * n->h->cols, &w, rows, 0);
    if (!n->a) return;
    Mat b = mat_rows(&n->a->b.w, v0, count);
    tensor_linear(&t->exact, z, n->u + first * b.cols, &b, rows, 1);
}

/* Logits that are multiplied by the sizes of the head's rows; `whole` keeps what they multiply. */
static void head_sizes(const Tape *t, const LogprobNode *n, real *z, real *whole, size_t rows,
                       size_t v0, size_t count)
{
    memcpy(whole, z, rows * count * sizeof *z);
    tensor_magnitude(t->compute, z, whole, (const real *)n->a->m.w.data + v0, n->a->n + v0, rows,
                     count);
}

/* From the gradient of the logits to that of what the sizes multiply, in place; and dm. */
static void head_sizes_back(const Tape *t, const LogprobNode *n, real *z, const real *whole,
                            size_t rows, size_t v0, size_t count)
{
    const Adapter *a = n->a;
    if (a->m.d)
        tensor_magnitude_backward(t->compute, a->m.d + v0, z, whole, a->n + v0, rows, count);
    tensor_magnitude(t->compute, z, z, (const real *)a->m.w.data + v0, a->n + v0, rows, count);
}

static double real_exp(double x)
{
    return REAL_IS_FLOAT ? (double)maths_expf((float)x) : maths_exp(x);
}

/* dz[i,v] = dlogp[i] (1[v = target] - p[i,v]), in place of the logits z. */
static void head_dlogits(const LogprobNode *n, real *z, const real *dlogp, size_t first,
                         size_t rows, size_t v0, size_t count)
{
    for (size_t i = 0; i < rows; i++) {
        size_t target = (size_t)n->target[first + i];
        for (size_t v = 0; v < count; v++) {
            double p = real_exp((double)z[i * count + v] - n->norm[first + i]);
            double hit = v0 + v == target ? 1 : 0;
            z[i * count + v] = (real)((double)dlogp[first + i] * (hit - p));
        }
    }
}

/* One block of rows and one chunk of V, backward: from dz into dh, dW, dB and du. */
static void head_chunk_back(Tape *t, LogprobNode *n, const real *dz, real *dh, real *du,
                            size_t first, size_t rows, size_t v0, size_t count)
{
    size_t H = n->h->cols;
    Mat w = mat_rows(&n->w->w, v0, count);
    /* forward: z = h W^T */
    if (dh) tensor_linear_dx(t->compute, dh + first * H, dz, &w, rows, 1);
    if (n->w->d)
        tensor_linear_dw(t->compute, n->w->d + v0 * H, dz, n->h->x + first * H, rows, count, H);
    if (!n->a) return;
    /* forward: z += u B^T */
    Mat b = mat_rows(&n->a->b.w, v0, count);
    size_t R = b.cols;
    if (n->a->b.d)
        tensor_linear_dw(&t->exact, n->a->b.d + v0 * R, dz, n->u + first * R, rows, count, R);
    tensor_linear_dx(&t->exact, du + first * R, dz, &b, rows, 1);
}

static void head_back(Tape *t, LogprobNode *n, const real *dlogp, real *dh)
{
    size_t rows_all = n->h->live, V = n->w->w.rows, mark = arena_mark(&t->arena);
    size_t R = n->a ? n->a->a.w.rows : 0;
    real *z = numbers(t, HEAD_ROWS, HEAD_CHUNK);
    real *whole = has_sizes(n->a) ? numbers(t, HEAD_ROWS, HEAD_CHUNK) : NULL;
    real *du = n->a ? numbers(t, rows_all, R) : NULL;
    if (du && runs(t)) memset(du, 0, rows_all * R * sizeof(real));
    for (size_t first = 0; first < rows_all && runs(t); first += HEAD_ROWS) {
        size_t rows = rows_all - first < HEAD_ROWS ? rows_all - first : HEAD_ROWS;
        for (size_t v0 = 0; v0 < V; v0 += HEAD_CHUNK) {
            size_t count = V - v0 < HEAD_CHUNK ? V - v0 : HEAD_CHUNK;
            head_logits(t, n, z, first, rows, v0, count);
            if (whole) head_sizes(t, n, z, whole, rows, v0, count);
            head_dlogits(n, z, dlogp, first, rows, v0, count);
            if (whole) head_sizes_back(t, n, z, whole, rows, v0, count);
            head_chunk_back(t, n, z, dh, du, first, rows, v0, count);
        }
    }
    if (n->a) {
        if (runs(t)) scale_in_place(du, n->a->scale, rows_all * R);
        adapter_down_back(t, n->h, n->a, n->key, du, NULL, NULL);
    }
    arena_release(&t->arena, mark);
}

static void logprob_back(Tape *t, Node *node)
{
    LogprobNode *n = (LogprobNode *)node;
    size_t H = n->h->cols;
    real *dh = n->h->wants ? var_gradient(t, n->h) : NULL;
    if (!n->direction) {
        head_back(t, n, node->out->d, dh);
        return;
    }
    /* forward kept direction = d logp / d h, so now dh[i,:] += dlogp[i] direction[i,:] */
    for (size_t i = 0; i < n->h->live && runs(t); i++)
        tensor_axpy(t->compute, dh + i * H, node->out->d[i], n->direction + i * H, H);
}

/* Rows [first, first + rows) of h through the head. With or without an adapter, trained or frozen:
 * one pass gives the log-probs, so an adapter whose B is zero changes no bit of them. */
static void head_forward(Tape *t, const LogprobNode *n, real *logp, real *square, size_t first,
                         size_t rows, real *direction)
{
    if (rows == 0) return;
    size_t mark = arena_mark(&t->arena);
    const real *h = n->h->x + first * n->h->cols;
    void *scratch = take(t, &t->arena, tensor_logprob_scratch(rows, direction != NULL));
    square = square ? square + first : NULL;
    HeadAdapter adapter = {0};
    if (n->a) adapter = (HeadAdapter){n->u, &n->a->b.w, n->a->m.w.data, n->a->n};
    if (runs(t) && n->norm)
        tensor_logprob_adapted(t->compute, logp + first, square, n->norm + first, h, &n->w->w,
                               &adapter, n->target + first, rows, scratch);
    else if (runs(t))
        tensor_logprob(t->compute, logp + first, square, direction, h, &n->w->w, n->target + first,
                       rows, scratch);
    arena_release(&t->arena, mark);
}

Var *tape_logprob(Tape *t, Var *h, Param *w, Adapter *a, const int32_t *target, real *square)
{
    size_t rows = h->rows, live = h->live;
    Var *y = var_new(t, rows, 1, live, h->wants || w->d || (a && a->a.d));
    LogprobNode local = {.h = h, .w = w, .a = a, .target = target};
    if (w->d || a) {
        local.norm = take(t, &t->arena, rows * sizeof(double));
        if (a) local.key = dropout_key(t, a), local.u = adapter_down(t, h, a, local.key);
        head_forward(t, &local, y->x, square, 0, rows, NULL);
    } else {
        /* The live rows' direction is kept. Both stretches also without a walk back, so that such a
         * pass needs no more scratch than one with it. */
        local.direction = t->record && y->wants ? numbers(t, live, h->cols) : NULL;
        head_forward(t, &local, y->x, square, 0, live, local.direction);
        head_forward(t, &local, y->x, square, live, rows - live, NULL);
    }
    LogprobNode *n = node_new(t, sizeof *n, y, logprob_back);
    if (n) local.node = n->node, *n = local;
    return y;
}

/* ---- layers -------------------------------------------------------------------------------- */

typedef struct {
    Node node;
    LayerFn fn;
    void *ctx;
    size_t index;
    Var *x;
    Node *inner_last, *inner_stop; /* the layer's own nodes, when its activations are kept */
} LayerNode;

/* Gradients at the borders between layers live in two buffers, taken in turn: while the walk is in
 * layer l it reads the one and adds into the other. */
static void border_gradient(Tape *t, Var *x, size_t index)
{
    real **border = &t->boundary[index % 2];
    size_t n = live_count(x);
    if (x->d) return;
    if (!*border) *border = numbers(t, n, 1);
    x->d = *border;
    if (runs(t)) memset(x->d, 0, n * sizeof(real));
}

/* Recomputes the activations that were dropped on the way forward, for the rows with a gradient. */
static void layer_again(Tape *t, const LayerNode *n)
{
    Var x = *n->x;
    const Node *stop = t->last;
    x.rows = x.live;
    Var *y = n->fn(t, n->ctx, n->index, &x);
    y->d = n->node.out->d;
    walk(t, t->last, stop);
}

static void layer_back(Tape *t, Node *node)
{
    LayerNode *n = (LayerNode *)node;
    if (n->x->wants) border_gradient(t, n->x, n->index);
    size_t mark = arena_mark(&t->arena), node_mark = arena_mark(&t->nodes);
    Node *here = t->last;
    if (n->inner_last)
        walk(t, n->inner_last, n->inner_stop);
    else
        layer_again(t, n);
    t->last = here;
    arena_release(&t->arena, mark);
    arena_release(&t->nodes, node_mark);
}

/* Keeps the layer's result and forgets everything inside it. */
static Var *layer_forget(Tape *t, LayerFn fn, void *ctx, size_t index, Var *x, size_t rows,
                         size_t live)
{
    Var *y = var_new(t, rows, x->cols, live, 0);
    size_t mark = arena_mark(&t->arena), node_mark = arena_mark(&t->nodes);
    int record = t->record;
    t->record = 0;
    const Var *inner = fn(t, ctx, index, x);
    t->record = record;
    y->wants = inner->wants;
    if (runs(t)) memcpy(y->x, inner->x, rows * x->cols * sizeof(real));
    arena_release(&t->arena, mark);
    arena_release(&t->nodes, node_mark);
    return y;
}

Var *tape_layer(Tape *t, LayerFn fn, void *ctx, size_t index, Var *x, size_t rows, size_t live)
{
    if (t->failed) return &t->nothing;
    Node *before = t->last;
    int keep = t->record && t->keep;
    Var *y = keep ? fn(t, ctx, index, x) : layer_forget(t, fn, ctx, index, x, rows, live);
    Node *inner = t->last;
    t->last = before;
    LayerNode *n = node_new(t, sizeof *n, y, layer_back);
    if (!n) return y;
    n->fn = fn, n->ctx = ctx, n->index = index, n->x = x;
    if (keep) n->inner_last = inner, n->inner_stop = before;
    return y;
}
