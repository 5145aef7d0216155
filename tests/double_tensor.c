/* double_tensor.c - gradients of every kernel against central differences, in double.
 *
 * Each case has a loss L = sum_i weight_i y_i with fixed random signed weights, so that the
 * upstream gradient is `weight`, never all ones. Every element of every input is moved, signs
 * included:
 *
 *     dL/dx = (8 (L(x+h) - L(x-h)) - (L(x+2h) - L(x-2h))) / 12h + O(h^4)
 */
#include "tensor.h"
#include "test.h"

#include <stdlib.h>

enum { MOST = 4096 }; /* numbers in any array here */

static Compute compute;

static void fill(double *x, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) x[i] = 2 * rng_unit(seed, 7, i) - 1;
}

static double weigh(const double *y, const double *weight, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += weight[i] * y[i];
    return sum;
}

static void check_gradient(const char *what, double *x, size_t n, const double *gradient,
                           double (*loss)(void))
{
    const double h = 1e-3;
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(gradient[i]));
    CHECK(largest > 0); /* a case whose gradient vanishes checks nothing */
    for (size_t i = 0; i < n; i++) {
        double keep = x[i], f[4];
        const double step[4] = {h, -h, 2 * h, -2 * h};
        for (int k = 0; k < 4; k++) {
            x[i] = keep + step[k];
            f[k] = loss();
        }
        x[i] = keep;
        double numeric = (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * h);
        double tolerance = 1e-7 * fabs(numeric) + 1e-9 * largest;
        if (fabs(gradient[i] - numeric) <= tolerance) continue;
        printf("%s[%zu]: ", what, i);
        CHECK_NEAR(gradient[i], numeric, tolerance);
    }
}

/* ---- products ------------------------------------------------------------------------------ */

enum { T = 5, N = 19, K = 7 };
static double x[MOST], w[MOST], y[MOST], start[MOST], weight[MOST];

static double linear_loss(void)
{
    Mat m = {w, &format_f64, N, K, 0};
    memcpy(y, start, T * N * sizeof *y);
    tensor_linear(&compute, y, x, &m, T, 1);
    return weigh(y, weight, T * N);
}

static void linear(void)
{
    double dx[T * K], dw[N * K] = {0};
    fill(x, T * K, 1), fill(w, N * K, 2), fill(start, T * N, 3), fill(weight, T * N, 4);
    Mat m = {w, &format_f64, N, K, 0};
    tensor_linear_dx(&compute, dx, weight, &m, T, 0);
    tensor_linear_dw(&compute, dw, weight, x, T, N, K);
    check_gradient("linear dx", x, T * K, dx, linear_loss);
    check_gradient("linear dw", w, N * K, dw, linear_loss);
    check_gradient("linear start", start, T * N, weight, linear_loss);
    double twice[T * K];
    memcpy(twice, dx, sizeof dx);
    tensor_linear_dx(&compute, twice, weight, &m, T, 1);
    for (size_t i = 0; i < T * K; i++) CHECK_NEAR(twice[i], 2 * dx[i], 1e-13);
}

/* ---- rows ---------------------------------------------------------------------------------- */

static const int32_t ids[T] = {2, 0, 2, 3, 2};
static const uint32_t rows[T] = {2, 0, 2, 3, 2};

static double embed_loss(void)
{
    Mat m = {w, &format_f64, 4, K, 0};
    tensor_embed(&compute, y, &m, ids, T);
    return weigh(y, weight, T * K);
}

static double gather_loss(void)
{
    tensor_gather(&compute, y, w, rows, T, K);
    return weigh(y, weight, T * K);
}

static void embed_and_gather(void)
{
    double de[4 * K] = {0}, dg[4 * K] = {0};
    fill(w, 4 * K, 5), fill(weight, T * K, 6);
    tensor_embed_backward(&compute, de, weight, ids, T, 4, K);
    tensor_gather_backward(&compute, dg, weight, rows, T, 4, K);
    check_gradient("embed", w, 4 * K, de, embed_loss);
    check_gradient("gather", w, 4 * K, dg, gather_loss);
}

enum { H = 300 };     /* more than one piece of gains */
#define NORM_EPS 0.05 /* large enough to count beside mean x^2 = 1/3 */

static double rmsnorm_loss(void)
{
    double r[T];
    Mat g = {w, &format_f64, 1, H, 0};
    tensor_rmsnorm(&compute, y, r, x, &g, NORM_EPS, T);
    return weigh(y, weight, T * H);
}

static void rmsnorm(void)
{
    static double dx[T * H], dg[H], r[T];
    fill(x, T * H, 7), fill(w, H, 8), fill(weight, T * H, 9);
    Mat g = {w, &format_f64, 1, H, 0};
    tensor_rmsnorm(&compute, y, r, x, &g, NORM_EPS, T);
    tensor_rmsnorm_backward(&compute, dx, dg, weight, x, &g, r, T);
    check_gradient("rmsnorm dx", x, T * H, dx, rmsnorm_loss);
    check_gradient("rmsnorm dg", w, H, dg, rmsnorm_loss);
    memset(dx, 0, sizeof dx);
    tensor_rmsnorm_backward(&compute, dx, NULL, weight, x, &g, r, T); /* dx alone */
    check_gradient("rmsnorm dx alone", x, H, dx, rmsnorm_loss);
}

enum { HEADS = 3, D = 8 };
static double cosines[6 * D / 2], sines[6 * D / 2];
static const uint32_t position[T] = {0, 5, 1, 3, 3};

static double rope_loss(void)
{
    memcpy(y, x, T * HEADS * D * sizeof *y);
    tensor_rope(&compute, y, cosines, sines, position, T, HEADS, D, 0);
    return weigh(y, weight, T * HEADS * D);
}

static void rope(void)
{
    double dx[T * HEADS * D];
    fill(x, T * HEADS * D, 10), fill(weight, T * HEADS * D, 11);
    for (size_t i = 0; i < 6 * D / 2; i++) {
        cosines[i] = maths_cos(0.3 + (double)i);
        sines[i] = maths_sin(0.3 + (double)i);
    }
    memcpy(dx, weight, sizeof dx);
    tensor_rope(&compute, dx, cosines, sines, position, T, HEADS, D, 1); /* the transpose */
    check_gradient("rope", x, T * HEADS * D, dx, rope_loss);
    tensor_rope(&compute, dx, cosines, sines, position, T, HEADS, D, 0); /* and the inverse */
    for (size_t i = 0; i < T * HEADS * D; i++) CHECK_NEAR(dx[i], weight[i], 1e-14);
}

enum { FLAT = 37 };
static double up[FLAT];

static double swiglu_loss(void)
{
    tensor_swiglu(&compute, y, x, up, FLAT);
    return weigh(y, weight, FLAT);
}

static void swiglu(void)
{
    double dgate[FLAT] = {0}, dup[FLAT] = {0};
    fill(x, FLAT, 12), fill(up, FLAT, 13), fill(weight, FLAT, 14);
    for (size_t i = 0; i < FLAT; i++) x[i] *= 6;
    tensor_swiglu_backward(&compute, dgate, dup, weight, x, up, FLAT);
    check_gradient("swiglu gate", x, FLAT, dgate, swiglu_loss);
    check_gradient("swiglu up", up, FLAT, dup, swiglu_loss);
}

static double dropout_loss(void)
{
    tensor_dropout(&compute, y, x, 0.4, 3, FLAT);
    return weigh(y, weight, FLAT);
}

static void dropout(void)
{
    double dx[FLAT];
    fill(x, FLAT, 15), fill(weight, FLAT, 16);
    tensor_dropout(&compute, dx, weight, 0.4, 3, FLAT); /* its own backward */
    check_gradient("dropout", x, FLAT, dx, dropout_loss);
}

/* ---- attention: two completions share a prompt, a third sequence stands alone --------------- */

enum { P = 4, A = 3, B = 5, C = 6, ROWS = P + A + B + C, Q = 4, G = 2, E = 5 };
static double q[ROWS * Q * E], k[ROWS * G * E], v[ROWS * G * E], o[ROWS * Q * E];
static double dk[ROWS * G * E], dv[ROWS * G * E], stat[ROWS * Q * 2];
static AttentionShape shape;

static KeySpan span_of(size_t first, size_t count)
{
    size_t at = first * G * E;
    return (KeySpan){k + at, v + at, dk + at, dv + at, count};
}

/* Runs forward, and backward too where dq is given. */
static double attention_pass(double *dq)
{
    KeySpan a[] = {span_of(0, P), span_of(P, A)}, b[] = {span_of(0, P), span_of(P + A, B)};
    KeySpan c = span_of(P + A + B, C);
    AttentionSeq seqs[] = {
        {0, P, 0, a, 1}, {P, A, P, a, 2}, {P + A, B, P, b, 2}, {P + A + B, C, 0, &c, 1}};
    tensor_attention(&compute, o, stat, q, seqs, 4, &shape);
    if (dq) tensor_attention_backward(&compute, dq, weight, o, stat, q, seqs, 4, &shape);
    return weigh(o, weight, ROWS * Q * E);
}

static double attention_loss(void)
{
    return attention_pass(NULL);
}

static void attention(void)
{
    for (size_t window = 0; window <= 4; window++) {
        double dq[ROWS * Q * E] = {0};
        memset(dk, 0, sizeof dk), memset(dv, 0, sizeof dv);
        fill(q, ROWS * Q * E, 17), fill(k, ROWS * G * E, 18), fill(v, ROWS * G * E, 19);
        fill(weight, ROWS * Q * E, 20);
        shape = (AttentionShape){Q, G, E, window, 1 / sqrt(E)};
        attention_pass(dq);
        if (window != 1) { /* one key each: the weights are 1 whatever q and k */
            check_gradient("attention dq", q, ROWS * Q * E, dq, attention_loss);
            check_gradient("attention dk", k, ROWS * G * E, dk, attention_loss);
        }
        check_gradient("attention dv", v, ROWS * G * E, dv, attention_loss);
    }
}

/* ---- the head ------------------------------------------------------------------------------ */

enum { V = 23, WIDE = 6 };
static const int32_t target[T] = {0, 22, 7, 7, 3};
static unsigned char scratch[1 << 19];

static double logprob_loss(void)
{
    Mat m = {w, &format_f64, V, WIDE, 0};
    tensor_logprob(&compute, y, NULL, NULL, x, &m, target, T, scratch);
    return weigh(y, weight, T);
}

static void logprob(void)
{
    double direction[T * WIDE], square[T];
    CHECK(tensor_logprob_scratch(T, 1) <= sizeof scratch);
    fill(x, T * WIDE, 21), fill(w, V * WIDE, 22), fill(weight, T, 23);
    for (size_t i = 0; i < T * WIDE; i++) x[i] *= 3;
    Mat m = {w, &format_f64, V, WIDE, 0};
    tensor_logprob(&compute, y, square, direction, x, &m, target, T, scratch);
    for (size_t i = 0; i < T * WIDE; i++) direction[i] *= weight[i / WIDE];
    check_gradient("logprob", x, T * WIDE, direction, logprob_loss);
    logprob_loss();
    for (size_t t = 0; t < T; t++) { /* sum_v p_v = 1, sum_v p_v^2 as told */
        double sum = 0, sum2 = 0, z[V];
        tensor_linear(&compute, z, x + t * WIDE, &m, 1, 0);
        tensor_softmax_row(&compute, z, V);
        for (size_t i = 0; i < V; i++) sum += z[i], sum2 += z[i] * z[i];
        CHECK_NEAR(sum, 1, 1e-14);
        CHECK_NEAR(square[t], log(sum2), 1e-13);
        CHECK_NEAR(y[t], log(z[target[t]]), 1e-13);
    }
}

static const Test tests[] = {
    {"linear", linear},       {"embed_and_gather", embed_and_gather},
    {"rmsnorm", rmsnorm},     {"rope", rope},
    {"swiglu", swiglu},       {"dropout", dropout},
    {"attention", attention}, {"logprob", logprob},
};

int main(int argc, char **argv)
{
    Err e;
    if (compute_open(&compute, "auto", PRECISION_F32, &e)) {
        printf("%s\n", e.text);
        return 1;
    }
    int status = test_main(tests, sizeof tests / sizeof tests[0], argc, argv);
    compute_close(&compute);
    return status;
}
