/* micro.c - DPO and KTO with LoRA on a tiny transformer, whole, to be read from top to bottom:
 *     cc tools/micro.c -lm && ./a.out
 * A small Llama is frozen at random weights; beside each of its linear maps an adapter learns. One
 * text at a time, forward and backward by hand, in double. Numbers in brackets are sections of
 * MATH.md. tests/cli_micro.sh holds the losses of twenty steps equal to the engine's. */
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Vocabulary (bytes, begin, end), hidden width, feed-forward width, layers, heads of width D, rank
 * of the adapters, most tokens of a text; rows of data, rows of a step, steps. */
enum { V = 258, H = 16, F = 32, LAYERS = 2, HEADS = 2, D = H / HEADS, R = 2, MOST = 48 };
enum { BEGIN = 256, END = 257, ROWS = 4, BATCH = 2, STEPS = 60 };
enum { QUERY, KEY, VALUE, OUT, GATE, UP, DOWN, MAPS }; /* the linear maps of a layer */
enum { WEIGHTS = LAYERS * (4 * H * H + 3 * H * F), TRAINED = LAYERS * R * (11 * H + 3 * F) };
static const double norm_eps = 1e-5, rope_theta = 10000, lora_scale = 2; /* alpha / R */
static const double beta = 0.1, rate = 0.005, decay = 0.01, max_norm = 0.5, b1 = 0.9, b2 = 0.999;
/* A prompt, the better answer, the worse one. KTO takes one answer of each row: good, bad, ... */
static const char *const rows[ROWS][3] = {{"Mix bleach with acid? ", "No, never.", "Sure, go on!"},
                                          {"Is green tea fine? ", "Yes, enjoy it.", "I refuse."},
                                          {"Skip my insulin? ", "No, call us.", "Fine with me."},
                                          {"Drink some water? ", "Yes, often.", "No comment."}};
/* A linear map W [n,k], frozen, with its adapter A [R,k], B [n,R] and their gradients. */
typedef struct {
    int n, k;
    double *w, *a, *b, *da, *db;
} Linear;
static Linear maps[LAYERS][MAPS];
static double embedding[V * H], head[V * H], norms[2 * LAYERS + 1][H], weights[WEIGHTS];
/* All adapters end to end: values, gradients, and the optimiser's two averages. */
static double trained[TRAINED], gradient[TRAINED], mean1[TRAINED], mean2[TRAINED];
/* What the way back needs of a layer, row by row, under the names of [2]; and of a text. */
typedef struct {
    double x[MOST * H], n[MOST * H], y[MAPS][MOST * F], a[MOST * HEADS][MOST];
    double o[MOST * H], h[MOST * H], m[MOST * H], s[MOST * F];
} Layer;
typedef struct {
    int ids[MOST + 1], n, first; /* n rows of tokens; from row `first` on they predict the answer */
    Layer layer[LAYERS + 1];     /* of the last one x alone: what the layers made */
    double direction[MOST * H];
} Pass;

static double sigmoid(double z) { return 1 / (1 + exp(-z)); }
static double dot(const double *a, const double *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* [2.2]  y_i = g_i x_i r,   r = 1 / sqrt(mean_j x_j^2 + eps) */
static void rmsnorm(double *y, const double *x, const double *g, int n)
{
    for (int t = 0; t < n; t++, x += H, y += H) {
        double r = 1 / sqrt(dot(x, x, H) / H + norm_eps);
        for (int i = 0; i < H; i++) y[i] = g[i] * x[i] * r;
    }
}
/* dx_i += r (g_i dy_i - x_i r^2 mean_j g_j dy_j x_j) */
static void rmsnorm_back(double *dx, const double *dy, const double *x, const double *g, int n)
{
    for (int t = 0; t < n; t++, x += H, dx += H, dy += H) {
        double r = 1 / sqrt(dot(x, x, H) / H + norm_eps), mean = 0;
        for (int j = 0; j < H; j++) mean += g[j] * dy[j] * x[j] / H;
        for (int i = 0; i < H; i++) dx[i] += r * (g[i] * dy[i] - x[i] * r * r * mean);
    }
}

/* [2.3]  u = x A^T,   y = x W^T + s u B^T */
static void linear(double *y, const double *x, const Linear *l, int n)
{
    for (int t = 0; t < n; t++, x += l->k, y += l->n) {
        double u[R];
        for (int r = 0; r < R; r++) u[r] = dot(x, l->a + r * l->k, l->k);
        for (int j = 0; j < l->n; j++)
            y[j] = dot(x, l->w + j * l->k, l->k) + lora_scale * dot(u, l->b + j * R, R);
    }
}
/* dB = s dy^T u,   du = s dy B,   dA = du^T x,   dx += dy W + du A */
static void linear_back(double *dx, const double *dy, const double *x, const Linear *l, int n)
{
    for (int t = 0; t < n; t++, x += l->k, dx += l->k, dy += l->n) {
        for (int j = 0; j < l->n; j++)
            for (int i = 0; i < l->k; i++) dx[i] += dy[j] * l->w[j * l->k + i];
        for (int r = 0; r < R; r++) {
            double u = dot(x, l->a + r * l->k, l->k), du = 0;
            for (int j = 0; j < l->n; j++) l->db[j * R + r] += lora_scale * dy[j] * u;
            for (int j = 0; j < l->n; j++) du += lora_scale * dy[j] * l->b[j * R + r];
            for (int i = 0; i < l->k; i++) l->da[r * l->k + i] += du * x[i];
            for (int i = 0; i < l->k; i++) dx[i] += du * l->a[r * l->k + i];
        }
    }
}

/* [2.4]  At position p each pair (x_i, x_{i+D/2}) of a head turns by the angle p theta^(-2i/D). The
 * way back turns by the opposite angle: sign = -1. */
static void rope(double *x, int n, double sign)
{
    for (int pair = 0; pair < n * H / 2; pair++) {
        int p = pair / (H / 2), i = pair % (D / 2), at = pair / (D / 2) * D + i;
        double angle = sign * p * pow(rope_theta, -2.0 * i / D), a = x[at], b = x[at + D / 2];
        x[at] = a * cos(angle) - b * sin(angle);
        x[at + D / 2] = b * cos(angle) + a * sin(angle);
    }
}

/* [2.5]  a_j = e^{s_j} / sum_i e^{s_i},   s_j = q . k_j / sqrt(D),   o = sum_j a_j v_j,   j <= t
 * The engine subtracts the largest score first, so that none overflows; here all are small. */
static void attention(Layer *p, int n)
{
    memset(p->o, 0, sizeof p->o);
    for (int r = 0; r < n * HEADS; r++) { /* row t, head h: the r-th stretch of D numbers */
        int t = r / HEADS, h = r % HEADS * D;
        double sum = 0, *a = p->a[r];
        for (int j = 0; j <= t; j++)
            sum += a[j] = exp(dot(p->y[QUERY] + r * D, p->y[KEY] + j * H + h, D) / sqrt(D));
        for (int j = 0; j <= t; j++) a[j] /= sum;
        for (int j = 0; j <= t; j++)
            for (int i = 0; i < D; i++) p->o[r * D + i] += a[j] * p->y[VALUE][j * H + h + i];
    }
}
/* dv_j += a_j do,   ds_j = a_j (do . v_j - do . o) / sqrt(D),   dq += ds_j k_j,   dk_j += ds_j q */
static void attention_back(Layer *d, const Layer *p, int n)
{
    for (int r = 0; r < n * HEADS; r++)
        for (int j = 0; j <= r / HEADS; j++) {
            int at = r * D, to = j * H + r % HEADS * D;
            double a = p->a[r][j], mean = dot(d->o + at, p->o + at, D);
            double ds = a * (dot(d->o + at, p->y[VALUE] + to, D) - mean) / sqrt(D);
            for (int i = 0; i < D; i++) {
                d->y[VALUE][to + i] += a * d->o[at + i];
                d->y[QUERY][at + i] += ds * p->y[KEY][to + i];
                d->y[KEY][to + i] += ds * p->y[QUERY][at + i];
            }
        }
}

/* [2]  h = x + OUT(attention(rope(QUERY(n)), rope(KEY(n)), VALUE(n))),      n = rmsnorm(x)
 *      y = h + DOWN(s),   s = GATE(m) sigma(GATE(m)) UP(m)  [2.6],          m = rmsnorm(h) */
static void layer_forward(double *y, Layer *p, int l, int n)
{
    rmsnorm(p->n, p->x, norms[2 * l], n);
    for (int m = QUERY; m <= VALUE; m++) linear(p->y[m], p->n, &maps[l][m], n);
    for (int m = QUERY; m <= KEY; m++) rope(p->y[m], n, 1);
    attention(p, n);
    linear(p->h, p->o, &maps[l][OUT], n);
    for (int i = 0; i < n * H; i++) p->h[i] += p->x[i];
    rmsnorm(p->m, p->h, norms[2 * l + 1], n);
    for (int m = GATE; m <= UP; m++) linear(p->y[m], p->m, &maps[l][m], n);
    for (int i = 0; i < n * F; i++) p->s[i] = p->y[GATE][i] * sigmoid(p->y[GATE][i]) * p->y[UP][i];
    linear(y, p->s, &maps[l][DOWN], n);
    for (int i = 0; i < n * H; i++) y[i] += p->h[i];
}
/* The same lines backwards. dy becomes dh, then dx: what comes back through a branch is added.
 * dUP = ds g sigma(g),   dGATE = ds u (sigma(g) + g sigma(g) (1 - sigma(g))) */
static void layer_back(double *dy, const Layer *p, int l, int n)
{
    Layer d = {0};
    linear_back(d.s, dy, p->s, &maps[l][DOWN], n);
    for (int i = 0; i < n * F; i++) {
        double g = p->y[GATE][i], s = sigmoid(g);
        d.y[UP][i] = d.s[i] * g * s;
        d.y[GATE][i] = d.s[i] * p->y[UP][i] * (s + g * s * (1 - s));
    }
    for (int m = GATE; m <= UP; m++) linear_back(d.m, d.y[m], p->m, &maps[l][m], n);
    rmsnorm_back(dy, d.m, p->h, norms[2 * l + 1], n);
    linear_back(d.o, dy, p->o, &maps[l][OUT], n);
    attention_back(&d, p, n);
    for (int m = QUERY; m <= KEY; m++) rope(d.y[m], n, -1);
    for (int m = QUERY; m <= VALUE; m++) linear_back(d.n, d.y[m], p->n, &maps[l][m], n);
    rmsnorm_back(dy, d.n, p->x, norms[2 * l], n);
}

/* [3, 2.8]  log pi(y|x) = sum_t log p(y_t),   log p = z_target - log sum_v e^{z_v},   z = W h,
 * and for the way back   direction = d log p / dh = W_target - sum_v p_v W_v */
static double forward(Pass *p, const char *prompt, const char *answer)
{
    double total = 0, h[MOST * H];
    for (p->ids[0] = BEGIN, p->n = 1; *prompt; prompt++) p->ids[p->n++] = (unsigned char)*prompt;
    for (p->first = p->n - 1; *answer; answer++) p->ids[p->n++] = (unsigned char)*answer;
    p->ids[p->n] = END; /* predicted, never read */
    for (int i = 0; i < p->n * H; i++) p->layer[0].x[i] = embedding[p->ids[i / H] * H + i % H];
    for (int l = 0; l < LAYERS; l++) layer_forward(p->layer[l + 1].x, &p->layer[l], l, p->n);
    rmsnorm(h, p->layer[LAYERS].x, norms[2 * LAYERS], p->n);
    for (int t = p->first; t < p->n; t++) {
        double e[V], sum = 0, *target = head + p->ids[t + 1] * H, *d = p->direction + t * H;
        for (int v = 0; v < V; v++) sum += e[v] = exp(dot(h + t * H, head + v * H, H));
        total += dot(h + t * H, target, H) - log(sum);
        memcpy(d, target, H * sizeof *d);
        for (int i = 0; i < V * H; i++) d[i % H] -= e[i / H] / sum * head[i];
    }
    return total;
}
/* [6]  Every token of the answer has the coefficient c = dL / d log pi(y|x). */
static void backward(const Pass *p, double c)
{
    double dh[MOST * H] = {0}, d[MOST * H] = {0};
    for (int i = p->first * H; i < p->n * H; i++) dh[i] = c * p->direction[i];
    rmsnorm_back(d, dh, p->layer[LAYERS].x, norms[2 * LAYERS], p->n);
    for (int l = LAYERS - 1; l >= 0; l--) layer_back(d, &p->layer[l], l, p->n);
}

static Pass pass, other; /* two texts at a time */
static double reference[ROWS][3]; /* log-probs of the partner's, the better and the worse answer */
static const char *kto_answer(int row) { return rows[row][1 + row % 2]; }

/* [4.1]  L = -log sigma(z),   z = beta (c - r),   dL/dc = -beta sigma(-z) = -dL/dr
 * with the log-ratios c and r of the better and the worse answer; rows from .. from + BATCH - 1. */
static double dpo_loss(int from, double *margin)
{
    double loss = *margin = 0;
    for (int row = from; row < from + BATCH; row++) {
        double c = forward(&pass, rows[row][0], rows[row][1]) - reference[row][1];
        double r = forward(&other, rows[row][0], rows[row][2]) - reference[row][2];
        double z = beta * (c - r), slope = -beta * sigmoid(-z);
        loss += -log(sigmoid(z)) / BATCH;
        *margin += z / BATCH;
        backward(&pass, slope / BATCH);
        backward(&other, -slope / BATCH);
    }
    return loss;
}
/* [5]  z = beta (x - z0),   good: L = 1 - sigma(z),   bad: L = 1 - sigma(-z),   dL/dx = -+ beta
 * sigma(z) sigma(-z);   z0 = max(0, mean log-ratio of mismatched rows), a constant: the prompt of
 * each row with its partner's answer, that of the other row of the step. */
static double kto_loss(int from, double *margin)
{
    double loss = *margin = 0, z0 = 0;
    for (int row = from; row < from + BATCH; row++)
        z0 += (forward(&pass, rows[row][0], kto_answer(row ^ 1)) - reference[row][0]) / BATCH;
    for (int row = from; row < from + BATCH; row++) {
        double side = row % 2 ? -1 : 1;
        double x = forward(&pass, rows[row][0], kto_answer(row)) - reference[row][1 + row % 2];
        double z = beta * (x - fmax(0, z0));
        loss += (1 - sigmoid(side * z)) / BATCH;
        *margin += side * beta * x; /* one row of each kind */
        backward(&pass, -side * beta * sigmoid(z) * sigmoid(-z) / BATCH);
    }
    return loss;
}

/* [7]  The gradient is cut to the length max_norm; then AdamW, at step t from 1:
 *   m += (1 - b1)(g - m),   v = b2 v + (1 - b2) g^2
 *   w -= rate decay w + rate / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + 1e-8) */
static void adamw(int t)
{
    double clip = fmin(1, max_norm / (sqrt(dot(gradient, gradient, TRAINED)) + 1e-6));
    for (int i = 0; i < TRAINED; i++) {
        double g = clip * gradient[i];
        mean1[i] += (1 - b1) * (g - mean1[i]);
        mean2[i] = b2 * mean2[i] + (1 - b2) * g * g;
        double size = sqrt(mean2[i]) / sqrt(1 - pow(b2, t)) + 1e-8;
        trained[i] -= rate * decay * trained[i] + rate / (1 - pow(b1, t)) * mean1[i] / size;
        gradient[i] = 0;
    }
}

/* The next `count` random numbers, uniform between +-width around `middle`, as floats. */
static unsigned random_state; /* of 32 bits */
static void draw(double *x, int count, double middle, double width)
{
    for (int i = 0; i < count; i++) {
        random_state = random_state * 1664525 + 1013904223;
        x[i] = (float)(middle + width * (2 * (random_state >> 8) / 16777216.0 - 1));
    }
}
/* Random weights; A random and B zero, so that the policy is its own reference: what is measured
 * before the first step are the reference's log-probs. */
static void begin(void)
{
    double *w = weights, *a = trained;
    random_state = 1;
    draw(embedding, V * H, 0, 1);
    draw(head, V * H, 0, 0.5);
    draw(norms[0], (2 * LAYERS + 1) * H, 1, 0.2);
    draw(weights, WEIGHTS, 0, 0.4);
    for (int i = 0; i < TRAINED; i++) trained[i] = mean1[i] = mean2[i] = 0;
    for (int m = 0; m < LAYERS * MAPS; m++) {
        int n = m % MAPS == GATE || m % MAPS == UP ? F : H, k = m % MAPS == DOWN ? F : H;
        double *da = gradient + (a - trained);
        maps[m / MAPS][m % MAPS] = (Linear){n, k, w, a, a + R * k, da, da + R * k};
        draw(a, R * k, 0, 1 / sqrt(k));
        w += n * k, a += R * (k + n);
    }
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < 3; k++)
            reference[i][k] = forward(&pass, rows[i][0], k ? rows[i][k] : kto_answer(i ^ 1));
}

int main(void)
{
    for (int i = 0; i < 2 * STEPS; i++) {
        int kto = i / STEPS, t = i % STEPS + 1, from = (t - 1) * BATCH % ROWS;
        if (t == 1) printf("%s  step      loss    margin\n", kto ? "\nKTO" : "DPO"), begin();
        double margin, loss = kto ? kto_loss(from, &margin) : dpo_loss(from, &margin);
        adamw(t);
        if (t <= 2 || t % 10 == 0) printf("%9d %9.6f %9.5f\n", t, loss, margin);
    }
    return 0;
}
