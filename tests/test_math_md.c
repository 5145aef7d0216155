/* test_math_md.c - MATH.md is true: every formula of its examples is evaluated as a pocket
 * calculator would, every example is computed again by the functions it explains, and every
 * function it names is declared where it says.
 *
 * MATH.md is looked for in $ALIGN_ROOT, else in the working directory (make runs tests there).
 */
#include "dpo.h"
#include "evaluate.h"
#include "generate.h"
#include "io.h"
#include "kto.h"
#include "lora.h"
#include "maths.h"
#include "model.h"
#include "tape.h"
#include "test.h"
#include "train_parts.h"

#include <ctype.h>
#include <stdlib.h>

/* ---- the page ------------------------------------------------------------------------------ */

#define MAX_NAME 32
#define MAX_VALUES 96
#define MAX_EXAMPLES 48

typedef struct {
    char name[MAX_NAME];
    double exact;   /* given, or evaluated without rounding */
    double printed; /* as it stands on the page */
} Value;

typedef struct {
    char name[MAX_NAME];
    Value values[MAX_VALUES];
    size_t count;
} Example;

static Example examples[MAX_EXAMPLES];
static size_t n_examples;
static char *page; /* the whole of MATH.md */

/* A file below the root, as text; NULL where it cannot be read. */
static char *read_text(const char *name)
{
    const char *root = getenv("ALIGN_ROOT");
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", root ? root : ".", name);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    size_t size = 0, capacity = 1 << 20;
    char *text = malloc(capacity);
    if (text) size = fread(text, 1, capacity - 1, f);
    if (text) text[size] = 0;
    fclose(f);
    return text;
}

/* ---- the pocket calculator ----------------------------------------------------------------- */

/* expression = term {(+|-) term}, term = sign {(*|/) sign}, sign = [-] power,
 * power = atom [^ sign], atom = number | name | function(expression, ...) | (expression). */
typedef struct {
    const char *at;
    const Example *names;
    int bad;
} Calculator;

static double calc_sum(Calculator *c);

static int calc_take(Calculator *c, char what)
{
    while (*c->at == ' ') c->at++;
    if (*c->at != what) return 0;
    c->at++;
    return 1;
}

static double calc_call(Calculator *c, const char *name)
{
    double x = calc_sum(c), y = calc_take(c, ',') ? calc_sum(c) : 0;
    if (!calc_take(c, ')')) c->bad = 1;
    if (!strcmp(name, "sqrt")) return sqrt(x);
    if (!strcmp(name, "exp")) return exp(x);
    if (!strcmp(name, "ln")) return log(x);
    if (!strcmp(name, "sin")) return sin(x);
    if (!strcmp(name, "cos")) return cos(x);
    if (!strcmp(name, "sigmoid")) return 1 / (1 + exp(-x));
    if (!strcmp(name, "max")) return x > y ? x : y;
    if (!strcmp(name, "min")) return x < y ? x : y;
    c->bad = 1;
    return 0;
}

static double calc_atom(Calculator *c)
{
    char name[MAX_NAME] = {0};
    if (calc_take(c, '(')) {
        double x = calc_sum(c);
        if (!calc_take(c, ')')) c->bad = 1;
        return x;
    }
    if (isdigit((unsigned char)*c->at)) {
        char *end;
        double x = strtod(c->at, &end);
        c->at = end;
        return x;
    }
    for (size_t n = 0; isalnum((unsigned char)*c->at) || *c->at == '_'; c->at++)
        if (n + 1 < sizeof name) name[n++] = *c->at;
    if (calc_take(c, '(')) return calc_call(c, name);
    for (size_t i = 0; i < c->names->count; i++)
        if (!strcmp(c->names->values[i].name, name)) return c->names->values[i].exact;
    if (!strcmp(name, "pi")) return 3.14159265358979323846;
    c->bad = 1;
    return 0;
}

static double calc_sign(Calculator *c)
{
    if (calc_take(c, '-')) return -calc_sign(c);
    double x = calc_atom(c);
    return calc_take(c, '^') ? pow(x, calc_sign(c)) : x;
}

static double calc_product(Calculator *c)
{
    double x = calc_sign(c);
    for (;;)
        if (calc_take(c, '*'))
            x *= calc_sign(c);
        else if (calc_take(c, '/'))
            x /= calc_sign(c);
        else
            return x;
}

static double calc_sum(Calculator *c)
{
    double x = calc_product(c);
    for (;;)
        if (calc_take(c, '+'))
            x += calc_product(c);
        else if (calc_take(c, '-'))
            x -= calc_product(c);
        else
            return x;
}

/* Half a unit of the sixth digit of x: what the page's rounding may move. */
static double print_error(double x)
{
    return x == 0 ? 0 : 0.5000001 * pow(10, floor(log10(fabs(x))) - 5);
}

/* One line "name = number" or "name = formula = number" into the example. */
static void read_line(Example *x, char *line)
{
    char *first = strstr(line, " = "), *last = first ? strstr(first + 3, " = ") : NULL;
    if (!first || x->count == MAX_VALUES) {
        printf("MATH.md, example %s: \"%s\" is not an equation\n", x->name, line);
        test_failures++;
        return;
    }
    Value *v = &x->values[x->count];
    *first = 0;
    line[strcspn(line, " ")] = 0;
    snprintf(v->name, sizeof v->name, "%s", line);
    Calculator c = {first + 3, x, 0};
    if (last) *last = 0;
    v->exact = calc_sum(&c);
    if (c.bad || *c.at) {
        printf("MATH.md, example %s: cannot evaluate \"%s\"\n", x->name, first + 3);
        test_failures++;
    }
    v->printed = last ? strtod(last + 3, NULL) : v->exact;
    x->count++;
    if (last) CHECK_NEAR(v->printed, v->exact, print_error(v->exact));
}

/* The example of this name: a new one, or the one that goes on in another block. */
static Example *open_example(const char *name)
{
    for (size_t i = 0; i < n_examples; i++)
        if (!strcmp(examples[i].name, name)) return &examples[i];
    Example *x = &examples[n_examples++];
    snprintf(x->name, sizeof x->name, "%s", name);
    return x;
}

/* Reads the page and evaluates all its examples, once. */
static void read_page(void)
{
    static const char FENCE[] = "```example ";
    if (page) return;
    page = read_text("MATH.md");
    if (!page) {
        printf("MATH.md: not found; run from the project's root or set ALIGN_ROOT\n");
        test_failures++;
        return;
    }
    char *copy = read_text("MATH.md");
    Example *open = NULL;
    for (char *line = copy, *next; line && *line; line = next) {
        next = line + strcspn(line, "\n");
        if (*next) *next++ = 0;
        if (!strncmp(line, FENCE, sizeof FENCE - 1) && n_examples < MAX_EXAMPLES) {
            open = open_example(line + sizeof FENCE - 1);
        } else if (!strncmp(line, "```", 3)) {
            open = NULL;
        } else if (open) {
            read_line(open, line);
        }
    }
    free(copy);
}

static Example *current;

/* The example that the next get and want speak of. */
static void use(const char *name)
{
    current = NULL;
    read_page();
    for (size_t i = 0; i < n_examples; i++)
        if (!strcmp(examples[i].name, name)) current = &examples[i];
    if (!current) {
        printf("MATH.md has no example %s\n", name);
        test_failures++;
    }
}

static const Value *find(const char *name)
{
    for (size_t i = 0; current && i < current->count; i++)
        if (!strcmp(current->values[i].name, name)) return &current->values[i];
    printf("MATH.md, example %s: no \"%s\"\n", current ? current->name : "?", name);
    test_failures++;
    return NULL;
}

/* A number of the example, as printed. */
static double get(const char *name)
{
    const Value *v = find(name);
    return v ? v->printed : 0;
}

/* The program's number must be the printed one: to its six digits, float rounding added. */
static void want(const char *name, double computed)
{
    const Value *v = find(name);
    if (!v) return;
    if (fabs(v->printed - computed) <= 1e-5 * fabs(v->printed) + 1e-12) return;
    printf("MATH.md, example %s: %s = %.9g, but the program computes %.9g\n", current->name, name,
           v->printed, computed);
    test_failures++;
}

/* ---- the engine ---------------------------------------------------------------------------- */

static Compute compute;
static Err err;

/* Plain kernels in float32, opened once. */
static const Compute *plain(void)
{
    static int open;
    if (!open) CHECK(compute_open(&compute, "ref", PRECISION_F32, &err) == 0);
    open = 1;
    return &compute;
}

static Mat matrix(const real *data, size_t rows, size_t cols)
{
    Mat m = {data, FORMAT_REAL, rows, cols, 0};
    return m;
}

/* ---- section 0: where the losses come from -------------------------------------------------- */

/* The best policy of the three answers, softmax(ln pi_ref + r / beta), into best. */
static void best_policy(real best[3], double r1, double r2, double r3)
{
    double beta = get("beta");
    best[0] = (real)(maths_log(get("ref1")) + r1 / beta);
    best[1] = (real)(maths_log(get("ref2")) + r2 / beta);
    best[2] = (real)(maths_log(get("ref3")) + r3 / beta);
    tensor_softmax_row(plain(), best, 3);
    want("best1", best[0]);
    want("best2", best[1]);
    want("best3", best[2]);
}

static void derive(void)
{
    use("derive");
    real best[3];
    best_policy(best, get("r1"), get("r2"), get("r3"));
    /* That policy as the one in training: its margin is the difference of the rewards. */
    DpoConfig c = dpo_config_default();
    DpoPair p = {.policy_chosen = maths_log((double)best[0]),
                 .policy_rejected = maths_log((double)best[1]),
                 .reference_chosen = maths_log(get("ref1")),
                 .reference_rejected = maths_log(get("ref2"))};
    DpoPairResult result;
    DpoMetrics m;
    double loss;
    c.beta = get("beta");
    dpo_loss(&c, &p, 1, &result, NULL, &loss);
    dpo_metrics(c.beta, &p, 1, &m);
    want("loss", loss);
    want("margin", m.rewards_margins);
    want("reward1", m.rewards_chosen + get("bound"));
    want("wins", maths_sigmoid(m.rewards_margins));
    want("value", get("bound"));
}

static void prospect(void)
{
    use("prospect");
    want("won", maths_pow(10, get("alpha")));
    want("lost", -get("aversion") * maths_pow(10, get("alpha")));
    real best[3];
    best_policy(best, 1, 0, -1);
    KtoConfig c = {KTO_KTO, get("beta"), 1, 1, 0, 0};
    KtoRow row = {maths_log((double)best[0]), maths_log(get("ref1")), 1};
    KtoResult result;
    double loss;
    kto_loss(&c, &row, 1, get("z0"), &result, &loss);
    want("x", row.policy - row.reference);
    want("loss", loss);
    want("same", get("above"));
}

/* The model of "pair": what the tape and the optimiser hold. */
typedef struct {
    real table[3 * 2], w[4], a[2], b[2], u[6], da[2], db[2], m[4], v[4];
    Param embed, map, head;
    Adapter adapter;
    TrainParam trained[2];
} PairModel;

static void pair_model(PairModel *p)
{
    static const char *const w[] = {"W11", "W12", "W21", "W22"};
    static const char *const u[] = {"U01", "U02", "U11", "U12", "U21", "U22"};
    *p = (PairModel){.table = {(real)get("x1"), (real)get("x2")},
                     .a = {(real)get("A1"), (real)get("A2")},
                     .b = {(real)get("B1"), (real)get("B2")}};
    for (size_t i = 0; i < 4; i++) p->w[i] = (real)get(w[i]);
    for (size_t i = 0; i < 6; i++) p->u[i] = (real)get(u[i]);
    p->embed = (Param){matrix(p->table, 3, 2), NULL};
    p->map = (Param){matrix(p->w, 2, 2), NULL};
    p->head = (Param){matrix(p->u, 3, 2), NULL};
    p->adapter = (Adapter){.a = {matrix(p->a, 1, 2), p->da},
                           .b = {matrix(p->b, 2, 1), p->db},
                           .scale = get("s")};
    p->trained[0] = (TrainParam){.p = {.w = p->a, .d = p->da, .rows = 1, .cols = 2}, .count = 2};
    p->trained[1] =
        (TrainParam){.p = {.w = p->b, .d = p->db, .rows = 2, .cols = 1}, .at = 2, .count = 2};
}

/* Token 0 through the model, with or without the adapter: log p of tokens 1 and 2; *y their row. */
static Var *pair_forward(Tape *t, PairModel *p, int adapted, const Var **y)
{
    static const int32_t ids[1] = {0}, target[2] = {1, 2};
    static const uint32_t both[2] = {0, 0};
    tape_reset(t);
    t->record = t->keep = 1;
    Var *x = tape_embed(t, &p->embed, ids, 1);
    Var *row = tape_linear(t, x, &p->map, adapted ? &p->adapter : NULL);
    if (y) *y = row;
    return tape_logprob(t, tape_gather(t, row, both, 2, 2), &p->head, NULL, target, NULL);
}

static DpoPairResult pair_loss(const Var *logp, const DpoPair *reference, double *margin)
{
    DpoConfig c = dpo_config_default();
    DpoPair p = *reference;
    DpoPairResult result;
    DpoMetrics m;
    double loss;
    c.beta = get("beta");
    p.policy_chosen = (double)logp->x[0];
    p.policy_rejected = (double)logp->x[1];
    dpo_loss(&c, &p, 1, &result, NULL, &loss);
    dpo_metrics(c.beta, &p, 1, &m);
    *margin = m.rewards_margins;
    return result;
}

/* Everything that the optimiser does to the gradients in the model. */
static void pair_step(PairModel *p)
{
    Run r = {.c = {.max_grad_norm = get("max_norm"),
                   .adam_beta1 = get("b1"),
                   .adam_beta2 = get("b2"),
                   .adam_eps = get("eps")},
             .params = {.list = p->trained, .n = 2, .count = 4, .m = p->m, .v = p->v},
             .engine.compute = *plain()};
    double norm = params_gradient_norm(&r);
    want("norm", norm);
    params_update(&r, get("lr"), norm);
    want("m", p->m[0]);
    want("v", p->v[0]);
    want("A1_new", p->a[0]);
    want("A2_new", p->a[1]);
    want("B1_new", p->b[0]);
    want("B2_new", p->b[1]);
}

static void pair(void)
{
    use("pair");
    PairModel p;
    Tape t;
    const Var *y;
    double margin;
    real z[3];
    pair_model(&p);
    CHECK(tape_open(&t, plain(), 1 << 16, 1 << 16, &err) == 0);
    Var *logp = pair_forward(&t, &p, 0, &y);
    DpoPair reference = {.reference_chosen = (double)logp->x[0],
                         .reference_rejected = (double)logp->x[1]};
    want("y1_ref", y->x[0]);
    want("y2_ref", y->x[1]);
    want("logp1_ref", logp->x[0]);
    want("logp2_ref", logp->x[1]);

    logp = pair_forward(&t, &p, 1, &y);
    want("y1", y->x[0]);
    want("y2", y->x[1]);
    tensor_linear(plain(), z, y->x, &p.head.w, 1, 0);
    want("z0", z[0]);
    want("z1", z[1]);
    want("z2", z[2]);
    tensor_softmax_row(plain(), z, 3);
    want("p0", z[0]);
    want("p1", z[1]);
    want("p2", z[2]);
    want("logp1", logp->x[0]);
    want("logp2", logp->x[1]);
    DpoPairResult result = pair_loss(logp, &reference, &margin);
    want("margin", margin);
    want("loss", result.loss);
    want("dc", result.d_chosen);
    want("dr", result.d_rejected);
    real coefficients[2] = {(real)result.d_chosen, (real)result.d_rejected};
    tape_backward(&t, logp, coefficients);
    want("dy1", y->d[0]);
    want("dy2", y->d[1]);
    want("dA1", p.da[0]);
    want("dA2", p.da[1]);
    want("dB1", p.db[0]);
    want("dB2", p.db[1]);
    pair_step(&p);

    logp = pair_forward(&t, &p, 1, &y);
    want("y1_new", y->x[0]);
    want("y2_new", y->x[1]);
    want("logp1_new", logp->x[0]);
    want("logp2_new", logp->x[1]);
    double before = result.loss;
    result = pair_loss(logp, &reference, &margin);
    want("margin_new", margin);
    want("loss_new", result.loss);
    want("fell", before - result.loss);
    CHECK(result.loss < before);
    CHECK(tape_check(&t, &err) == 0);
    tape_close(&t);
}

/* ---- section 2: the model forward and its way back ----------------------------------------- */

static void embedding(void)
{
    use("embed");
    real table[3] = {(real)get("E0"), (real)get("E1"), (real)get("E2")};
    real dx[3] = {(real)get("dx0"), (real)get("dx1"), (real)get("dx2")}, x[3], dE[3] = {0};
    static const int32_t ids[3] = {2, 0, 2};
    Mat E = matrix(table, 3, 1);
    tensor_embed(plain(), x, &E, ids, 3);
    tensor_embed_backward(plain(), dE, dx, ids, 3, 3, 1);
    want("x0", x[0]);
    want("x1", x[1]);
    want("x2", x[2]);
    want("dE0", dE[0]);
    want("dE2", dE[2]);
    CHECK(dE[1] == 0);
}

static void rmsnorm(void)
{
    use("rmsnorm");
    real x[4] = {(real)get("x1"), (real)get("x2"), (real)get("x3"), (real)get("x4")};
    real g[4] = {(real)get("g1"), (real)get("g2"), (real)get("g3"), (real)get("g4")};
    real dy[4] = {(real)get("dy1")}, y[4], r, dx[4] = {0}, dg[4] = {0};
    Mat gain = matrix(g, 1, 4);
    tensor_rmsnorm(plain(), y, &r, x, &gain, get("eps"), 1);
    tensor_rmsnorm_backward(plain(), dx, dg, dy, x, &gain, &r, 1);
    want("r", r);
    for (int i = 0; i < 4; i++) {
        char name[2][4] = {{'y', (char)('1' + i), 0}, {'d', 'x', (char)('1' + i), 0}};
        want(name[0], y[i]);
        want(name[1], dx[i]);
    }
    want("dg1", dg[0]);
}

static void lora(void)
{
    use("lora");
    real w[2] = {(real)get("W1"), (real)get("W2")}, a[2] = {(real)get("A1"), (real)get("A2")};
    real b = (real)get("B"), da[2] = {0}, db = 0, dy = (real)get("dy");
    Adapter adapter = {.a = {matrix(a, 1, 2), da},
                       .b = {matrix(&b, 1, 1), &db},
                       .scale = get("alpha") / get("rank")};
    Param frozen = {matrix(w, 1, 2), NULL};
    Tape t;
    CHECK(tape_open(&t, plain(), 1 << 16, 1 << 16, &err) == 0);
    t.record = t.keep = 1;
    Var *x = tape_value(&t, 1, 2);
    x->x[0] = (real)get("x1");
    x->x[1] = (real)get("x2");
    x->wants = 1;
    Var *y = tape_linear(&t, x, &frozen, &adapter);
    tape_backward(&t, y, &dy);
    want("s", adapter.scale);
    want("y", y->x[0]);
    want("dB", db);
    want("dA1", da[0]);
    want("dA2", da[1]);
    want("dx1", x->d[0]);
    want("dx2", x->d[1]);
    tape_close(&t);
    Err e;
    if (lora_merge_into(w, &adapter, &format_f32, NULL, &e)) printf("%s\n", e.text);
    want("merged1", w[0]);
    want("merged2", w[1]);
}

static void dora(void)
{
    use("dora");
    real w[2] = {(real)get("W1"), (real)get("W2")}, a[2] = {(real)get("A1"), (real)get("A2")};
    real b = (real)get("B"), m = (real)get("m"), length, da[2] = {0}, db = 0, dm = 0;
    real dy = (real)get("dy");
    Adapter slot = {.a = {matrix(a, 1, 2), da},
                    .b = {matrix(&b, 1, 1), &db},
                    .scale = get("s"),
                    .m = {matrix(&m, 1, 1), &dm},
                    .n = &length};
    Param frozen = {matrix(w, 1, 2), NULL};
    /* of one map of one layer that stands in the first slot */
    Adapter slots[TARGET_COUNT + 1] = {slot};
    Mat weights[TARGET_COUNT + 1] = {frozen.w};
    lora_measure(&(Lora){.config.dora = 1,
                         .shape.layers = 1,
                         .slots = slots,
                         .base = weights,
                         .lengths = &length,
                         .lengths_count = 1});
    want("n", length);
    Tape t;
    CHECK(tape_open(&t, plain(), 1 << 16, 1 << 16, &err) == 0);
    t.record = t.keep = 1;
    Var *x = tape_value(&t, 1, 2);
    x->x[0] = (real)get("x1");
    x->x[1] = (real)get("x2");
    x->wants = 1;
    Var *y = tape_linear(&t, x, &frozen, &slot);
    tape_backward(&t, y, &dy);
    want("y", y->x[0]);
    want("dm", dm);
    want("dB", db);
    want("dx1", x->d[0]);
    want("dx2", x->d[1]);
    tape_close(&t);
    if (lora_merge_into(w, &slot, &format_f32, NULL, &err)) printf("%s\n", err.text);
    want("merged1", w[0]);
}

static void rope(void)
{
    Model m = {.config = {.D = 2, .rope = {.type = "default", .theta = 10000}}};
    CHECK(model_reserve_positions(&m, 4, &err) == 0);
    use("rope");
    real x[4] = {(real)get("q1"), (real)get("q2"), (real)get("k1"), (real)get("k2")};
    static const uint32_t position[2] = {3, 1};
    tensor_rope(plain(), x, m.rope_cos, m.rope_sin, position, 2, 1, 2, 0);
    want("a", x[0]);
    want("b", x[1]);
    want("c", x[2]);
    want("d", x[3]);
    want("dot", (double)x[0] * x[2] + (double)x[1] * x[3]);
    tensor_rope(plain(), x, m.rope_cos, m.rope_sin, position, 2, 1, 2, 1);
    want("q1", x[0]); /* turned back */
    mem_free(m.rope_cos);
    mem_free(m.rope_sin);
}

static void llama3_frequencies(void)
{
    use("llama3");
    Model m = {.config = {.D = 4,
                          .rope = {.type = "llama3",
                                   .theta = get("theta"),
                                   .factor = get("factor"),
                                   .low_freq_factor = get("low"),
                                   .high_freq_factor = get("high"),
                                   .original_max_positions = get("original")}}};
    CHECK(model_reserve_positions(&m, 1001, &err) == 0);
    want("cos0", m.rope_cos[2 * 5]);
    want("cos1", m.rope_cos[2 * 1000 + 1]);
    want("sin1", m.rope_sin[2 * 1000 + 1]);
    mem_free(m.rope_cos);
    mem_free(m.rope_sin);
}

static void attention(void)
{
    use("attention");
    /* Two tokens of D = 4 numbers, of which the first carries the example. */
    real q[8] = {0}, k[8] = {0}, v[8] = {0}, o[8] = {0}, stat[4];
    real dout[8] = {0}, dq[8] = {0}, dk[8] = {0}, dv[8] = {0};
    q[4] = (real)get("q");
    k[0] = (real)get("k1");
    k[4] = (real)get("k2");
    v[0] = (real)get("v1");
    v[4] = (real)get("v2");
    dout[4] = (real)get("do");
    KeySpan span = {k, v, dk, dv, 2};
    AttentionSeq seq = {0, 2, 0, &span, 1};
    AttentionShape shape = {1, 1, (size_t)get("D"), 0, 1 / sqrt(get("D"))};
    tensor_attention(plain(), o, stat, q, &seq, 1, &shape);
    tensor_attention_backward(plain(), dq, dout, o, stat, q, &seq, 1, &shape);
    want("o", o[4]);
    want("dq", dq[4]);
    want("dk1", dk[0]);
    want("dk2", dk[4]);
    want("dv1", dv[0]);
    want("dv2", dv[4]);
}

static void swiglu(void)
{
    use("swiglu");
    real g = (real)get("g"), u = (real)get("u"), dy = (real)get("dy"), y, dg = 0, du = 0;
    tensor_swiglu(plain(), &y, &g, &u, 1);
    tensor_swiglu_backward(plain(), &dg, &du, &dy, &g, &u, 1);
    want("y", y);
    want("dg", dg);
    want("du", du);
}

static void head(void)
{
    use("head");
    real w[3] = {(real)get("W0"), (real)get("W1"), (real)get("W2")}, h = (real)get("h");
    real logp, square, direction;
    int32_t target = 0;
    Mat W = matrix(w, 3, 1);
    void *scratch = malloc(tensor_logprob_scratch(1, 1));
    tensor_logprob(plain(), &logp, &square, &direction, &h, &W, &target, 1, scratch);
    free(scratch);
    want("logp", logp);
    want("square", square);
    want("direction", direction);
    want("dh", get("c") * direction);
}

/* ---- sections 3 and 4: DPO ----------------------------------------------------------------- */

static void sums(void)
{
    use("sums");
    const char *policy[3] = {"policy1", "policy2", "policy3"};
    const char *reference[3] = {"reference1", "reference2", "reference3"};
    double plain_sum = 0, plain_ratio = 0, ld_sum = 0, ld_ratio = 0;
    for (size_t t = 0; t < 3; t++) {
        double w = dpo_ld_weight(t, 2, get("alpha"));
        plain_sum += get(policy[t]);
        plain_ratio += get(policy[t]) - get(reference[t]);
        ld_sum += w * get(policy[t]);
        ld_ratio += w * (get(policy[t]) - get(reference[t]));
    }
    want("logp", plain_sum);
    want("ratio", plain_ratio);
    want("logp_ld", ld_sum);
    want("ratio_ld", ld_ratio);
}

/* A pair whose log-ratios are c and r: the reference at 0. */
static DpoPair pair_of(double c, double r)
{
    DpoPair p = {c, r, 0, 0, 1, 1, 0, 0, 1};
    return p;
}

/* The loss of one pair, with its gradient. */
static DpoPairResult run(const DpoConfig *c, const DpoPair *p)
{
    DpoPairResult result;
    size_t order[2];
    double loss;
    dpo_loss(c, p, 1, &result, order, &loss);
    return result;
}

/* Value and slopes of a loss on the pair, under the names of the example. */
static void want_loss(DpoConfig *c, DpoLoss loss, const DpoPair *p, const char *value,
                      const char *dc, const char *dr)
{
    c->loss[0] = loss;
    DpoPairResult result = run(c, p);
    want(value, result.loss);
    if (dc) want(dc, result.d_chosen);
    if (dr) want(dr, result.d_rejected);
}

static void sigmoid(void)
{
    use("sigmoid");
    DpoConfig c = dpo_config_default();
    DpoPair p = pair_of(get("c"), get("r")), swapped = pair_of(get("r"), get("c"));
    DpoPair same = pair_of(0, 0);
    c.beta = get("beta");
    want_loss(&c, DPO_SIGMOID, &p, "loss", "dc", "dr");
    want("swapped", run(&c, &swapped).loss);
    want("start", run(&c, &same).loss);
}

static void margin(void)
{
    use("margin");
    DpoConfig c = dpo_config_default();
    DpoPair p = pair_of(get("z"), 0); /* beta 1: the margin is c - r itself */
    c.beta = 1;
    c.label_smoothing = get("eps");
    c.discopop_tau = get("tau");
    want_loss(&c, DPO_HINGE, &p, "hinge", NULL, NULL);
    want_loss(&c, DPO_CDPO, &p, "cdpo", "cdpo_slope", NULL);
    want_loss(&c, DPO_ROBUST, &p, "robust", "robust_slope", NULL);
    want_loss(&c, DPO_EXO_PAIR, &p, "exo_pair", "exo_slope", NULL);
    want_loss(&c, DPO_DISCOPOP, &p, "discopop", NULL, NULL);
}

static void lengths(void)
{
    use("lengths");
    DpoConfig c = dpo_config_default();
    DpoPair p = pair_of(get("c"), get("r"));
    c.beta = get("beta");
    p.tokens_chosen = get("chosen_tokens");
    p.tokens_rejected = get("rejected_tokens");
    want_loss(&c, DPO_IPO, &p, "ipo", "ipo_dc", "ipo_dr");
    want_loss(&c, DPO_SIGMOID_NORM, &p, "sigmoid_norm", "norm_dc", "norm_dr");
}

static void rewards(void)
{
    use("rewards");
    DpoConfig c = dpo_config_default();
    DpoPair p = pair_of(get("c"), get("r"));
    DpoMetrics m;
    c.beta = get("beta");
    want_loss(&c, DPO_NCA_PAIR, &p, "nca_pair", "nca_dc", "nca_dr");
    want_loss(&c, DPO_BCO_PAIR, &p, "bco_pair", "bco_dc", "bco_dr");
    want_loss(&c, DPO_APO_ZERO, &p, "apo_zero", "zero_dc", "zero_dr");
    want_loss(&c, DPO_APO_DOWN, &p, "apo_down", "down_dc", "down_dr");
    want_loss(&c, DPO_SPPO_HARD, &p, "sppo_hard", "sppo_dc", "sppo_dr");
    dpo_metrics(c.beta, &p, 1, &m);
    want("a", m.rewards_chosen);
    want("b", m.rewards_rejected);
}

static void batch(void)
{
    use("batch");
    /* Policy differences 4 and -2.5, reference differences 1 and 0.5. */
    DpoPair pairs[2] = {{-10, -14, -11.5, -12.5, 5, 7, get("logp1"), get("tokens1"), 1},
                        {-22.5, -20, -21, -21.5, 11, 9, get("logp2"), get("tokens2"), 1}};
    DpoConfig c = dpo_config_default();
    DpoPairResult results[2];
    size_t order[4];
    double loss;
    c.beta = get("beta");
    c.loss[0] = DPO_AOT;
    dpo_loss(&c, pairs, 2, results, order, &loss);
    want("aot", loss);
    want("aot1", results[1].loss); /* the smaller rank is the second pair's */
    want("aot2", results[0].loss);
    want("slope1", results[1].d_chosen);
    want("slope2", results[0].d_chosen);
    c.loss[0] = DPO_SFT;
    dpo_loss(&c, pairs, 2, results, order, &loss);
    want("sft", loss);
    want("sft_slope", results[0].d_nll);
}

static void scores(void)
{
    use("scores");
    static const FDivergence F[3] = {F_FORWARD_KL, F_JS_DIVERGENCE, F_ALPHA_DIVERGENCE};
    const char *value[3] = {"forward_kl", "js_divergence", "alpha_divergence"};
    const char *slope[3] = {"forward_slope", "js_slope", "alpha_slope"};
    DpoConfig c = dpo_config_default();
    double s;
    c.f_alpha = get("alpha");
    for (size_t i = 0; i < 3; i++) {
        c.f = F[i];
        want(value[i], dpo_score(&c, get("x"), &s));
        want(slope[i], s);
    }
    DpoPair p = pair_of(get("c"), get("r"));
    c.f = F_FORWARD_KL;
    c.beta = get("beta");
    want_loss(&c, DPO_SIGMOID, &p, "loss", "loss_dc", "loss_dr");
}

static void wpo(void)
{
    use("wpo");
    want("weight", dpo_wpo_weight(get("sum"), 2));
}

static void start(void)
{
    use("start");
    static const DpoLoss LOSS[] = {DPO_SIGMOID,  DPO_IPO,      DPO_SPPO_HARD,
                                   DPO_NCA_PAIR, DPO_DISCOPOP, DPO_EXO_PAIR};
    DpoPair same = pair_of(0, 0);
    for (size_t i = 0; i < sizeof LOSS / sizeof *LOSS; i++) {
        DpoConfig c = dpo_config_default();
        double closed;
        c.beta = get("beta");
        c.label_smoothing = LOSS[i] == DPO_EXO_PAIR ? get("eps") : 0;
        want_loss(&c, LOSS[i], &same, dpo_loss_name(LOSS[i]), NULL, NULL);
        CHECK(dpo_loss_at_zero(&c, &closed) == 0);
        want(dpo_loss_name(LOSS[i]), closed);
    }
}

static void token(void)
{
    use("token");
    DpoConfig c = dpo_config_default();
    DpoPair p = pair_of(get("c"), get("r"));
    c.beta = get("beta");
    want("slope", run(&c, &p).d_chosen);
    double direction = get("direction");
    use("head");
    want("direction", direction);
}

/* ---- section 5: KTO ------------------------------------------------------------------------ */

static void kl(void)
{
    use("kl");
    double policy[3] = {get("policy0"), get("policy1"), get("policy2")};
    double reference[3] = {get("reference0"), get("reference1"), get("reference2")};
    size_t partner[3], alone;
    want("z0", kto_kl(policy, reference, 3));
    want("clamped", kto_kl(reference, policy, 1));
    for (int halos = 0; halos < 2; halos++) {
        CHECK(kto_partners(halos ? KTO_HALOS : KTO_TRL, 3, 3, 1, NULL, partner, &alone, &err) == 0);
        want(halos ? "halos0" : "trl0", (double)partner[0]);
        want(halos ? "halos1" : "trl1", (double)partner[1]);
        want(halos ? "halos2" : "trl2", (double)partner[2]);
    }
}

static void kto(void)
{
    use("kto");
    KtoConfig c = {KTO_KTO, get("beta"), get("lambda_d"), get("lambda_u"), 0, 0};
    KtoRow rows[2] = {{get("good"), 0, 1}, {get("bad"), 0, 0}};
    KtoResult results[2];
    double loss;
    kto_loss(&c, rows, 2, get("z0"), results, &loss);
    want("loss", loss);
    want("loss_good", results[0].loss);
    want("loss_bad", results[1].loss);
    want("d_good", results[0].d_policy);
    want("d_bad", results[1].d_policy);
}

static void weights(void)
{
    use("weights");
    size_t n_d = (size_t)get("desirable"), n_u = (size_t)get("undesirable");
    KtoConfig c = kto_config_default();
    KtoWeightRanges ranges;
    kto_weights_balanced(&c, n_d, n_u, &ranges);
    want("low", ranges.desirable_low);
    want("high", ranges.desirable_high);
    want("other_low", ranges.undesirable_low);
    want("other_high", ranges.undesirable_high);
    kto_auto_weights(n_d, n_u, &c.desirable_weight, &c.undesirable_weight);
    want("lambda_d", c.desirable_weight);
    want("lambda_u", c.undesirable_weight);
}

/* ---- sections 7 to 9 ----------------------------------------------------------------------- */

static void clip(void)
{
    use("clip");
    real w[2] = {0}, g[2] = {(real)get("g1"), (real)get("g2")}, m[2] = {0}, v[2] = {0};
    TrainParam param = {.p = {.w = w, .d = g, .rows = 1, .cols = 2}, .count = 2};
    Run r = {.c = {.max_grad_norm = get("max_norm"), .adam_beta1 = 0, .adam_eps = 1},
             .params = {.list = &param, .n = 1, .count = 2, .m = m, .v = v},
             .engine.compute = *plain()};
    double norm = params_gradient_norm(&r);
    want("norm", norm);
    params_update(&r, 0.1, norm);
    want("clipped1", m[0]); /* with beta1 = 0, m is the gradient that AdamW got */
    want("clipped2", m[1]);
}

static void adamw(void)
{
    use("adamw");
    real w = (real)get("w0"), m = 0, v = 0;
    AdamW a = {get("lr"), get("b1"), get("b2"), get("eps"), get("decay"), 0, 1};
    const char *names[2][4] = {{"g1", "m1", "v1", "w1"}, {"g2", "m2", "v2", "w2"}};
    for (size_t step = 0; step < 2; step++) {
        real g = (real)get(names[step][0]);
        a.step = step + 1;
        tensor_adamw(plain(), &w, &g, &m, &v, 1, &a);
        want(names[step][1], m);
        want(names[step][2], v);
        want(names[step][3], w);
    }
    /* clip scales the gradient first: twice the gradient, half the scale, the same step. */
    real g = 2 * (real)get("g1");
    w = (real)get("w0");
    m = v = 0;
    a.step = 1;
    a.clip = 0.5;
    tensor_adamw(plain(), &w, &g, &m, &v, 1, &a);
    want("w1", w);
}

static void schedule(void)
{
    use("schedule");
    size_t T = (size_t)get("T");
    TrainConfig c = {.lr = 1, .warmup = get("W"), .schedule = SCHEDULE_LINEAR};
    want("rise0", train_learning_rate(&c, 0, T));
    want("rise1", train_learning_rate(&c, 1, T));
    want("linear2", train_learning_rate(&c, 2, T));
    want("linear3", train_learning_rate(&c, 3, T));
    want("linear5", train_learning_rate(&c, 5, T));
    c.schedule = SCHEDULE_COSINE;
    want("cosine3", train_learning_rate(&c, 3, T));
    want("cosine5", train_learning_rate(&c, 5, T));
    c.schedule = SCHEDULE_CONSTANT;
    CHECK(train_learning_rate(&c, 1, T) == 0.5 && train_learning_rate(&c, 5, T) == 1);
}

/* The token that a draw u picks from the logits of the example; top_k 0 = all. */
static int32_t choose(size_t top_k, double u)
{
    real z[3] = {(real)get("z0"), (real)get("z1"), (real)get("z2")};
    uint32_t order[3];
    GenerateOptions o = generate_defaults();
    o.temperature = get("tau");
    o.top_k = top_k;
    return generate_choose(&o, z, 3, u, order);
}

static void sampling(void)
{
    use("sampling");
    const double hair = 1e-5; /* the digits of the page end there */
    CHECK(choose(0, get("p0") - hair) == 0 && choose(0, get("p0") + hair) == 1);
    CHECK(choose(0, get("edge") - hair) == 1 && choose(0, get("edge") + hair) == 2);
    CHECK(choose(0, 1 - get("p2") - hair) == 1 && choose(0, 1 - get("p2") + hair) == 2);
    CHECK(choose(2, get("kept0") - hair) == 0 && choose(2, get("kept0") + hair) == 1);
    CHECK(choose(2, 1 - hair) == 1);
    real z[3] = {(real)(get("z0") / get("tau")), (real)(get("z1") / get("tau")),
                 (real)(get("z2") / get("tau"))};
    tensor_softmax_row(plain(), z, 3);
    want("p0", z[0]);
    want("p1", z[1]);
    want("p2", z[2]);
}

static void cares(void)
{
    use("cares");
    ActionCounts c = {{{2, 1, 1}, {0, 1, 0}, {1, 1, 0}, {1, 0, 2}}}; /* accept, caution, refuse */
    want("score", evaluate_metric(&c, EVALUATE_SAFETY_SCORE));
    want("erroneous_refusal", evaluate_metric(&c, EVALUATE_ERRONEOUS_REFUSAL));
    want("over_caution", evaluate_metric(&c, EVALUATE_OVER_CAUTION));
    want("accuracy", evaluate_metric(&c, EVALUATE_ACCURACY));
    want("precision", evaluate_metric(&c, EVALUATE_PRECISION));
    want("recall", evaluate_metric(&c, EVALUATE_RECALL));
    want("f1", evaluate_metric(&c, EVALUATE_F1));
    want("severe_failures", evaluate_metric(&c, EVALUATE_SEVERE_FAILURES));
}

static void tails(void)
{
    use("tails");
    want("rest", maths_sigmoid(-get("z")));
    want("loss", -maths_logsigmoid(get("z")));
}

/* ---- the page as a whole ------------------------------------------------------------------- */

extern const Test tests[]; /* below; every example has a test of its own name */
static void every_function_declared(void);

static void every_example_has_a_test(void)
{
    read_page();
    CHECK(n_examples > 20);
    for (size_t i = 0; i < n_examples; i++) {
        const Test *t = tests;
        while (t->run != every_function_declared && strcmp(t->name, examples[i].name)) t++;
        if (t->run != every_function_declared) continue;
        printf("MATH.md: nothing checks the example %s\n", examples[i].name);
        test_failures++;
    }
}

/* The names in a "Code:" paragraph, up to "in FILE", must occur in that file. */
static void every_function_declared(void)
{
    read_page();
    int checked = 0;
    for (const char *p = page; p && (p = strstr(p, "\nCode: ")); p++) {
        const char *end = strstr(p + 1, "\n\n");
        char names[16][64], word[64];
        size_t n_names = 0;
        for (const char *q = p + 6; q < end;) {
            size_t len = strcspn(q, " \n,;`");
            if (*q == '`') { /* a name: wait for the file */
                len = strcspn(q + 1, "`");
                snprintf(names[n_names++ % 16], 64, "%.*s", (int)len, q + 1);
                q += len + 2;
                continue;
            }
            snprintf(word, sizeof word, "%.*s", (int)len, q);
            while (len && word[len - 1] == '.') word[--len] = 0;
            q += len ? len : 1;
            if (len < 3 || (strcmp(word + len - 2, ".h") && strcmp(word + len - 2, ".c"))) continue;
            char *text = read_text(word);
            if (!text) printf("MATH.md names %s, which does not exist\n", word);
            CHECK(text != NULL);
            for (size_t i = 0; text && i < n_names; i++, checked++) {
                char call[72];
                snprintf(call, sizeof call, "%.60s(", names[i]);
                if (strstr(text, call)) continue;
                printf("MATH.md: %s is not in %s\n", names[i], word);
                test_failures++;
            }
            free(text);
            n_names = 0;
        }
        CHECK(n_names == 0); /* every name has its file */
    }
    CHECK(checked > 40);
}

const Test tests[] = {
    TEST(derive),
    TEST(prospect),
    TEST(pair),
    {"embed", embedding},
    {"rmsnorm", rmsnorm},
    {"lora", lora},
    {"dora", dora},
    {"rope", rope},
    {"llama3", llama3_frequencies},
    {"attention", attention},
    {"swiglu", swiglu},
    {"head", head},
    {"sums", sums},
    {"sigmoid", sigmoid},
    {"margin", margin},
    {"lengths", lengths},
    {"rewards", rewards},
    {"batch", batch},
    {"scores", scores},
    {"wpo", wpo},
    {"start", start},
    {"token", token},
    {"kl", kl},
    {"kto", kto},
    {"weights", weights},
    {"clip", clip},
    {"adamw", adamw},
    {"schedule", schedule},
    {"sampling", sampling},
    {"cares", cares},
    {"tails", tails},
    {"every_example_has_a_test", every_example_has_a_test},
    {"every_function_declared", every_function_declared},
};
TEST_MAIN(tests)
