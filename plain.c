/* plain.c - every operation of the tape, forward and backward, in plain loops. See plain.h.
 *
 * Two orders of summation carry everything, and fix its bits (tensor.h):
 *   a chain   one fused multiply-add after another, in the order of the index: all products
 *   lanes     sixteen partial sums, term i in lane i mod 16, joined by a fixed tree: all row sums
 */
#include "plain.h"

#include <math.h>

enum { LANES = 16 };

/* a b + c, rounded once */
static real fused(real a, real b, real c)
{
    return (real)(REAL_IS_FLOAT ? (double)fmaf((float)a, (float)b, (float)c)
                                : fma((double)a, (double)b, (double)c));
}

/* e^x with the error of one rounding to real */
static real power_of_e(real x)
{
    return (real)(REAL_IS_FLOAT ? (double)maths_expf((float)x) : maths_exp((double)x));
}

/* The chain: sum + a_0 b_0 + a_1 b_1 + ..., the terms `as` and `bs` numbers apart. */
static real chain(real sum, const real *a, size_t as, const real *b, size_t bs, size_t n)
{
    for (size_t i = 0; i < n; i++) sum = fused(a[i * as], b[i * bs], sum);
    return sum;
}

/* The tree over sixteen lanes: (l, l + 8), (l, l + 4), (l, l + 2), (l, l + 1). */
static real join(real lane[LANES])
{
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

static double join_double(double lane[LANES])
{
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

/* ---- rows ---------------------------------------------------------------------------------- */

void plain_rows(real *y, const real *x, const int32_t *at, size_t T, size_t H)
{
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < H; i++) y[t * H + i] = x[(size_t)at[t] * H + i];
}

/* forward: y[t,:] = x[at[t],:]; a row that is taken twice gets both gradients, in the order of t */
void plain_rows_back(real *dx, const real *dy, const int32_t *at, size_t T, size_t H)
{
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < H; i++) dx[(size_t)at[t] * H + i] += dy[t * H + i];
}

void plain_add(real *y, const real *a, const real *b, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

/* y_i = g_i x_i r,   r = 1 / sqrt(mean_j x_j^2 + eps) */
void plain_rmsnorm(real *y, real *r, const real *x, const real *g, double eps, size_t T, size_t H)
{
    for (size_t t = 0; t < T; t++, x += H, y += H) {
        real lane[LANES] = {0};
        for (size_t j = 0; j < H; j++) lane[j % LANES] = fused(x[j], x[j], lane[j % LANES]);
        r[t] = 1 / (real)sqrt((double)(join(lane) / (real)H + (real)eps));
        for (size_t i = 0; i < H; i++) y[i] = g[i] * (x[i] * r[t]);
    }
}

/* dx_i += r (g_i dy_i - x_i c),   c = r^2 mean_j(dy_j g_j x_j);      dg_i += dy_i (x_i r) */
void plain_rmsnorm_back(real *dx, real *dg, const real *dy, const real *x, const real *g,
                        const real *r, size_t T, size_t H)
{
    for (size_t t = 0; t < T; t++, x += H, dx += H, dy += H) {
        real lane[LANES] = {0};
        for (size_t j = 0; j < H; j++) lane[j % LANES] = fused(dy[j] * g[j], x[j], lane[j % LANES]);
        real c = r[t] * r[t] * join(lane) / (real)H;
        for (size_t i = 0; i < H; i++) dx[i] = fused(r[t], fused(-x[i], c, g[i] * dy[i]), dx[i]);
        for (size_t i = 0; i < H; i++) dg[i] = fused(dy[i], x[i] * r[t], dg[i]);
    }
}

/* ---- linear maps --------------------------------------------------------------------------- */

/* y[t,n] = sum_k x[t,k] W[n,k] */
void plain_linear(real *y, const real *x, const real *w, size_t T, size_t N, size_t K, int add)
{
    for (size_t t = 0; t < T; t++)
        for (size_t n = 0; n < N; n++)
            y[t * N + n] = chain(add ? y[t * N + n] : 0, x + t * K, 1, w + n * K, 1, K);
}

/* dx[t,k] += sum_n dy[t,n] W[n,k];      dW[n,k] += sum_t dy[t,n] x[t,k] */
void plain_linear_back(real *dx, real *dw, const real *dy, const real *x, const real *w, size_t T,
                       size_t N, size_t K)
{
    for (size_t t = 0; dx && t < T; t++)
        for (size_t k = 0; k < K; k++)
            dx[t * K + k] = chain(dx[t * K + k], dy + t * N, 1, w + k, K, N);
    for (size_t n = 0; dw && n < N; n++)
        for (size_t k = 0; k < K; k++)
            dw[n * K + k] = chain(dw[n * K + k], dy + n, N, x + k, K, T);
}

/* u = s x A^T,   y += u B^T: the chain of y goes on */
void plain_adapter(real *y, real *u, const real *x, const real *a, const real *b, double s,
                   size_t T, size_t N, size_t K, size_t R)
{
    plain_linear(u, x, a, T, R, K, 0);
    for (size_t i = 0; i < T * R; i++) u[i] = (real)s * u[i];
    plain_linear(y, u, b, T, N, R, 1);
}

/* dB += dy^T u;   du = s dy B;   dA += du^T x;   dx += du A */
void plain_adapter_back(real *dx, real *da, real *db, real *du, const real *dy, const real *u,
                        const real *x, const real *a, const real *b, double s, size_t T, size_t N,
                        size_t K, size_t R)
{
    for (size_t i = 0; i < T * R; i++) du[i] = 0;
    plain_linear_back(du, db, dy, u, b, T, N, R);
    for (size_t i = 0; i < T * R; i++) du[i] = (real)s * du[i];
    plain_linear_back(dx, da, du, x, a, T, R, K);
}

/* n_o = || W_o + s B_o A ||, the sum of squares in double */
void plain_lengths(real *n, const real *w, const real *a, const real *b, double s, size_t N,
                   size_t K, size_t R)
{
    for (size_t o = 0; o < N; o++) {
        double squares = 0;
        for (size_t k = 0; k < K; k++) {
            real low = 0;
            for (size_t r = 0; r < R; r++) low += b[o * R + r] * a[r * K + k];
            real x = w[o * K + k] + (real)s * low;
            squares += (double)x * (double)x;
        }
        n[o] = (real)sqrt(squares);
    }
}

void plain_magnitude(real *y, const real *z, const real *m, const real *n, size_t T, size_t N)
{
    for (size_t i = 0; i < T * N; i++) y[i] = m[i % N] / n[i % N] * z[i];
}

/* dm_o += sum_t dy_to z_to / n_o;   dz = (m / n) dy */
void plain_magnitude_back(real *dz, real *dm, const real *dy, const real *z, const real *m,
                          const real *n, size_t T, size_t N)
{
    for (size_t i = 0; i < T * N; i++) {
        dm[i % N] += dy[i] * z[i] / n[i % N];
        dz[i] = m[i % N] / n[i % N] * dy[i];
    }
}

void plain_dropout(real *y, const real *x, double p, uint64_t key, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = rng_unit(key, RNG_DROPOUT, i) >= p ? (real)(1 / (1 - p)) * x[i] : 0;
}

/* ---- element by element -------------------------------------------------------------------- */

/* (a, b) <- (a cos - b sin, b cos + a sin) for a = x_i, b = x_{i + D/2} of each head */
void plain_rope(real *x, const real *cos, const real *sin, const uint32_t *position, size_t T,
                size_t heads, size_t D, int inverse)
{
    for (size_t t = 0; t < T; t++)
        for (size_t h = 0; h < heads; h++, x += D)
            for (size_t i = 0; i < D / 2; i++) {
                real c = cos[position[t] * (D / 2) + i], s = sin[position[t] * (D / 2) + i];
                real a = x[i], b = x[i + D / 2];
                if (inverse) s = -s;
                x[i] = fused(a, c, -(b * s));
                x[i + D / 2] = fused(b, c, a * s);
            }
}

/* y = g sigma(g) u */
void plain_swiglu(real *y, const real *gate, const real *up, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = gate[i] / (1 + power_of_e(-gate[i])) * up[i];
}

/* dg += dy u (s + g s (1 - s)),   du += dy g s,   s = sigma(g) */
void plain_swiglu_back(real *dgate, real *dup, const real *dy, const real *gate, const real *up,
                       size_t n)
{
    for (size_t i = 0; i < n; i++) {
        real g = gate[i], s = 1 / (1 + power_of_e(-g));
        dgate[i] = fused(dy[i] * up[i], s * fused(g, 1 - s, 1), dgate[i]);
        dup[i] = fused(dy[i], g * s, dup[i]);
    }
}

/* ---- attention ----------------------------------------------------------------------------- */

/* The first key that position p sees; the last is its own. */
static size_t first_seen(const PlainAttention *s, size_t p)
{
    return s->window && p + 1 > s->window ? p + 1 - s->window : 0;
}

/* s_j = scale q . k_j;   a_j = e^{s_j - max} / sum_i e^{s_i - max};   o = sum_j a_j v_j
 * The division comes last: o is the chain over e^{s_j - max} v_j, divided by the sum. */
void plain_attention(real *o, real *stat, const real *q, const real *k, const real *v,
                     const PlainAttention *s)
{
    size_t D = s->D, width = s->G * D;
    for (size_t r = 0; r < s->count * s->Q; r++, q += D, o += D, stat += 2) {
        size_t p = s->pos + r / s->Q, g = r % s->Q / (s->Q / s->G);
        real top = -(real)INFINITY, lane[LANES] = {0};
        for (size_t j = first_seen(s, p); j <= p; j++) {
            real score = chain(0, q, 1, k + j * width + g * D, 1, D) * (real)s->scale;
            top = score > top ? score : top;
        }
        for (size_t i = 0; i < D; i++) o[i] = 0;
        for (size_t j = first_seen(s, p); j <= p; j++) {
            real score = chain(0, q, 1, k + j * width + g * D, 1, D) * (real)s->scale;
            real e = power_of_e(score - top);
            lane[j % LANES] += e;
            for (size_t i = 0; i < D; i++) o[i] = fused(e, v[j * width + g * D + i], o[i]);
        }
        stat[0] = top;
        stat[1] = join(lane);
        for (size_t i = 0; i < D; i++) o[i] = o[i] / stat[1] + 0; /* + 0: no negative zero */
    }
}

/* da_j = do . v_j; ds_j = scale a_j (da_j - do . o) dq += sum_j ds_j k_j; dk_j += ds_j q; dv_j +=
 * a_j do A key collects from its queries by head group, then by position, then by head. */
void plain_attention_back(real *dq, real *dk, real *dv, const real *dout, const real *o,
                          const real *stat, const real *q, const real *k, const real *v,
                          real *weight, real *dweight, const PlainAttention *s)
{
    size_t D = s->D, width = s->G * D;
    for (size_t r = 0; r < s->count * s->Q; r++) { /* heads of a group are neighbours */
        size_t p = s->pos + r / s->Q, g = r % s->Q / (s->Q / s->G), from = first_seen(s, p);
        const real *qr = q + r * D, *dor = dout + r * D;
        real lane[LANES] = {0}, scale = (real)s->scale;
        for (size_t i = 0; i < D; i++)
            lane[i % LANES] = fused(dor[i], o[r * D + i], lane[i % LANES]);
        real mean = join(lane);
        for (size_t j = from; j <= p; j++) {
            real score = chain(0, qr, 1, k + j * width + g * D, 1, D);
            real da = chain(0, dor, 1, v + j * width + g * D, 1, D);
            weight[j] = power_of_e(scale * score - stat[2 * r]) / stat[2 * r + 1];
            dweight[j] = scale * (weight[j] * (da - mean));
        }
        for (size_t i = 0; i < D; i++)
            dq[r * D + i] = chain(dq[r * D + i], dweight + from, 1, k + from * width + g * D + i,
                                  width, p + 1 - from);
        for (size_t j = from; j <= p; j++)
            for (size_t i = 0, at = j * width + g * D; i < D; i++, at++) {
                dv[at] = fused(weight[j], dor[i], dv[at]);
                dk[at] = fused(dweight[j], qr[i], dk[at]);
            }
    }
}

/* ---- the head ------------------------------------------------------------------------------ */

/* The running maximum m takes CHUNK rows of the vocabulary at a time; a sum of rows of W is made
 * of chains of PART rows: both show in the bits. */
enum { CHUNK = 2048, PART = 256 };

/* From the logits z_v = W_v . h of one row. The sum over the others, S = sum_{v != y} e^{z_v - m},
 * is kept apart from the target y, so that the gradient of a confident row does not cancel:
 *   log p = (z_y - m) - log(S + e^{z_y - m})
 *   direction = (S W_y - sum_{v != y} e^{z_v - m} W_v) / (S + e^{z_y - m}) */
void plain_logprob(real *logp, real *square, double *norm, real *direction, real *z, const real *w,
                   int32_t target, size_t V, size_t H)
{
    double others = 0, others2 = 0, own = (double)z[target];
    real top = -(real)INFINITY;
    for (size_t i = 0; i < H; i++) direction[i] = 0;
    for (size_t v0 = 0, end; v0 < V; v0 = end) {
        double lane[LANES] = {0}, lane2[LANES] = {0};
        real before = top;
        end = v0 + CHUNK < V ? v0 + CHUNK : V;
        for (size_t v = v0; v < end; v++) top = z[v] > top ? z[v] : top;
        for (size_t v = v0; v < end; v++) {
            z[v] = v == (size_t)target ? 0 : power_of_e(z[v] - top);
            lane[v % LANES] += (double)z[v];
            lane2[v % LANES] += (double)z[v] * (double)z[v];
        }
        double down = maths_exp((double)before - (double)top); /* 0 at first */
        others = others * down + join_double(lane);
        others2 = others2 * down * down + join_double(lane2);
        for (size_t i = 0; i < H && down < 1; i++) direction[i] *= (real)down;
        for (size_t v = v0; v < end; v += PART)
            for (size_t i = 0; i < H; i++) {
                size_t n = end - v < PART ? end - v : PART;
                direction[i] += chain(0, z + v, 1, w + v * H + i, H, n);
            }
    }
    double gap = own - (double)top, e = maths_exp(gap), total = others + e;
    *logp = (real)(gap - maths_log(total));
    *norm = (double)top + maths_log(total);
    *square = (real)(maths_log(others2 + e * e) - 2 * maths_log(total));
    w += (size_t)target * H;
    for (size_t i = 0; i < H; i++)
        direction[i] = (real)((others * (double)w[i] - (double)direction[i]) / total);
}

/* dz_v = dlogp (1[v = y] - p_v),   p_v = e^{z_v - norm} */
void plain_logprob_back(real *z, real dlogp, double norm, int32_t target, size_t V)
{
    for (size_t v = 0; v < V; v++) {
        double p = (double)power_of_e((real)((double)z[v] - norm));
        z[v] = (real)((double)dlogp * ((v == (size_t)target ? 1 : 0) - p));
    }
}

/* ---- the optimiser ------------------------------------------------------------------------- */

/* m += (1 - b1)(g - m);   v = b2 v + (1 - b2) g^2
 * w <- (1 - lr decay) w - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps) */
void plain_adamw(real *w, const real *g, real *m, real *v, size_t n, double lr, double beta1,
                 double beta2, double eps, double decay, double clip, uint64_t t)
{
    real root2 = (real)sqrt(1 - maths_pow(beta2, (double)t));
    real rate = (real)(lr / (1 - maths_pow(beta1, (double)t)));
    for (size_t i = 0; i < n; i++) {
        real d = (real)clip * g[i];
        m[i] = fused((real)(1 - beta1), d - m[i], m[i]);
        v[i] = fused((real)(1 - beta2) * d, d, v[i] * (real)beta2);
        real size = (real)sqrt((double)v[i]) / root2 + (real)eps;
        w[i] = w[i] * (real)(1 - lr * decay) - rate * m[i] / size;
    }
}
