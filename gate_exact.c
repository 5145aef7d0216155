/* gate_exact.c - exact tests and limits of few counts: the same bits on every machine. */
#include "gate.h"
#include "maths.h"

#include <math.h>

double gate_binomial_at_most(size_t k, size_t n, double p)
{
    if (k >= n || p <= 0) return 1;
    if (p >= 1) return 0;
    /* Terms relative to the largest one, outwards from it: none overflows, and those that underflow
     * are negligible. */
    size_t mode = (size_t)((double)(n + 1) * p);
    if (mode > n) mode = n;
    double odds = p / (1 - p), all = 1, low = mode <= k ? 1 : 0, term = 1;
    for (size_t i = mode; i < n && term > 0; i++) {
        term *= (double)(n - i) / (double)(i + 1) * odds;
        all += term;
        if (i + 1 <= k) low += term;
    }
    term = 1;
    for (size_t i = mode; i > 0 && term > 0; i--) {
        term *= (double)i / (double)(n - i + 1) / odds;
        all += term;
        if (i - 1 <= k) low += term;
    }
    return low / all;
}

enum { HALVINGS = 60 }; /* of an interval of shares: below any difference that is printed */

double gate_rate_high(size_t k, size_t n, double alpha)
{
    if (k >= n) return 1;
    if (!k) return -maths_expm1(maths_log(alpha) / (double)n);
    double low = (double)k / (double)n, high = 1;
    for (int i = 0; i < HALVINGS; i++) {
        double p = (low + high) / 2;
        if (gate_binomial_at_most(k, n, p) >= alpha)
            low = p;
        else
            high = p;
    }
    return high;
}

double gate_rate_low(size_t k, size_t n, double alpha)
{
    return k ? 1 - gate_rate_high(n - k, n, alpha) : 0; /* k of n happened: n - k did not */
}

void gate_refusal_limits(GateRefusal *x, double alpha)
{
    if (!x->n) {
        x->difference = 0;
        x->low = -1;
        x->high = 1;
        return;
    }
    double p = (double)x->more / (double)x->n, q = (double)x->fewer / (double)x->n;
    double up[2] = {gate_rate_high(x->more, x->n, alpha) - p,
                    q - gate_rate_low(x->fewer, x->n, alpha)};
    double down[2] = {p - gate_rate_low(x->more, x->n, alpha),
                      gate_rate_high(x->fewer, x->n, alpha) - q};
    double r = p > 0 && q > 0 ? sqrt(p * q / ((1 - p) * (1 - q))) : 0;
    x->difference = p - q;
    x->high = p - q + sqrt(up[0] * up[0] + up[1] * up[1] + 2 * r * up[0] * up[1]);
    x->low = p - q - sqrt(down[0] * down[0] + down[1] * down[1] + 2 * r * down[0] * down[1]);
}

/* The furthest sum that is kept: beyond 40 standard deviations of the sum lie less than 1e-300 of
 * all signs (Hoeffding 1963: at most exp(-40^2 / 2)). */
static size_t furthest(const int *d, size_t n)
{
    double squares = 0, total = 0;
    for (size_t i = 0; i < n; i++) {
        squares += (double)d[i] * d[i];
        total += fabs((double)d[i]);
    }
    double most = 40 * sqrt(squares) + 1;
    return (size_t)(most < total ? most : total);
}

/* share[W + s] is the share of all signs of the numbers so far whose sum is s, |s| <= W. One number
 * d more takes s to s + d and s - d, half of each. */
int gate_flip_test(const int *d, size_t n, double *p, Err *e)
{
    size_t W = furthest(d, n), reach = 0;
    double *share = mem_calloc(2 * (2 * W + 1), sizeof *share, e);
    if (!share) return -1;
    double *now = share, *next = share + 2 * W + 1;
    long long sum = 0;
    now[W] = 1;
    for (size_t i = 0; i < n; i++) {
        size_t step = (size_t)(d[i] < 0 ? -(long long)d[i] : d[i]);
        sum += d[i];
        if (!step) continue;
        size_t from = W - reach, to = W + reach;
        reach = reach + step < W ? reach + step : W;
        for (size_t s = W - reach; s <= W + reach; s++) next[s] = 0;
        for (size_t s = from; s <= to; s++) {
            if (s + step <= 2 * W) next[s + step] += now[s] / 2;
            if (s >= step) next[s - step] += now[s] / 2;
        }
        double *other = now;
        now = next;
        next = other;
    }
    *p = 0; /* from the far end, so that small shares are not lost */
    for (long long s = (long long)reach; s >= sum && s >= -(long long)reach; s--)
        *p += now[(size_t)((long long)W + s)];
    if (*p > 1) *p = 1;
    mem_free(share);
    return 0;
}
