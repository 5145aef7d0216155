/* train_optimise.c - what is trained, and a step of it: schedule, clipping, AdamW. */
#include "train_parts.h"

#include <math.h>
#include <string.h>

/* ---- parameters ---------------------------------------------------------------------------- */

/* Weight decay is for matrices. PyTorch's trainers leave out norms and biases by their names; of
 * what we train only norms are affected: their names end in "norm.weight" (input_layernorm,
 * post_attention_layernorm, norm). */
static int is_decayed(const char *name)
{
    const char end[] = "norm.weight";
    size_t len = strlen(name);
    return len < sizeof end - 1 || strcmp(name + len - (sizeof end - 1), end) != 0;
}

int params_collect(Run *r, Err *e)
{
    Parameters *p = &r->params;
    p->n = r->c.full ? model_param_count(&r->model) : lora_param_count(&r->policy);
    p->list = mem_calloc(p->n, sizeof *p->list, e);
    if (!p->list) return -1;
    for (size_t i = 0; i < p->n; i++) {
        TrainParam *t = &p->list[i];
        if (r->c.full)
            model_param(&r->model, i, &t->p);
        else
            lora_param(&r->policy, i, &t->p);
        t->at = p->count;
        t->count = t->p.rows * t->p.cols;
        t->decay = is_decayed(t->p.name);
        p->count += t->count;
    }
    p->m = mem_calloc(p->count, sizeof *p->m, e);
    p->v = p->m ? mem_calloc(p->count, sizeof *p->v, e) : NULL;
    return p->v ? 0 : -1;
}

void params_free(Parameters *p)
{
    mem_free(p->list);
    mem_free(p->m);
    mem_free(p->v);
    *p = (Parameters){0};
}

void params_zero_gradients(Parameters *p)
{
    for (size_t i = 0; i < p->n; i++)
        memset(p->list[i].p.d, 0, p->list[i].count * sizeof *p->list[i].p.d);
}

const char *params_find_nonfinite(const Parameters *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (tensor_find_nonfinite(p->list[i].p.w, p->list[i].count) < p->list[i].count)
            return p->list[i].p.name;
    return NULL;
}

int params_dump_gradients(const Run *r, const char *path, Err *e)
{
    const Parameters *p = &r->params;
    const char *const metadata[] = {"format", "pt", NULL};
    StOut *out = mem_calloc(p->n, sizeof *out, e);
    if (!out) return -1;
    for (size_t i = 0; i < p->n; i++) {
        const NamedParam *q = &p->list[i].p;
        int vector =
            r->c.full && q->rows == 1; /* a norm's weight; an adapter's A of rank 1 is not */
        out[i] = (StOut){.name = q->name,
                         .dtype = DTYPE_REAL,
                         .n_dims = vector ? 1 : 2,
                         .shape = {vector ? q->cols : q->rows, q->cols},
                         .data = q->d};
    }
    int status = safetensors_write(path, out, p->n, metadata, e);
    mem_free(out);
    return status;
}

/* ---- schedule ------------------------------------------------------------------------------ */

/* Learning rate of step k (from 0) of T, W of them warm-up (a warm-up below 1 is a share of T,
 * rounded up):
 *   k < W:      lr k / W                    linear:   lr (T - k) / (T - W)
 *   constant:   lr                          cosine:   lr (1 + cos(pi (k - W) / (T - W))) / 2
 * Source: transformers 5.23, optimization.py. */
double train_learning_rate(const TrainConfig *c, size_t step, size_t steps)
{
    const double pi = 3.14159265358979323846;
    double k = (double)step, T = (double)steps;
    double W = c->warmup < 1 ? ceil(c->warmup * T) : floor(c->warmup);
    if (k < W) return c->lr * (k / W);
    double rest = T - W > 1 ? T - W : 1, factor = 1;
    if (c->schedule == SCHEDULE_LINEAR) factor = (T - k) / rest;
    if (c->schedule == SCHEDULE_COSINE) factor = 0.5 * (1 + maths_cos(pi * ((k - W) / rest)));
    return c->lr * (factor > 0 ? factor : 0);
}

/* ---- a step -------------------------------------------------------------------------------- */

/* ||g|| over all parameters; sums in double, tensor by tensor, in their fixed order. */
double params_gradient_norm(const Run *r)
{
    double sum = 0;
    for (size_t i = 0; i < r->params.n; i++)
        sum += tensor_sum_squares(&r->compute, r->params.list[i].p.d, r->params.list[i].count);
    return sqrt(sum);
}

/* AdamW on gradients scaled to max_grad_norm:  clip = min(1, max_grad_norm / (||g|| + 1e-6)).
 * Source: Pascanu et al. 2013, Algorithm 1, with PyTorch's guard against division by zero. */
void params_update(Run *r, double lr, double norm)
{
    const double guard = 1e-6;
    const TrainConfig *c = &r->c;
    double clip = c->max_grad_norm > 0 ? c->max_grad_norm / (norm + guard) : 1;
    AdamW a = {.lr = lr,
               .beta1 = c->adam_beta1,
               .beta2 = c->adam_beta2,
               .eps = c->adam_eps,
               .step = ++r->state.update,
               .clip = clip < 1 ? clip : 1};
    for (size_t i = 0; i < r->params.n; i++) {
        const TrainParam *t = &r->params.list[i];
        a.weight_decay = t->decay ? c->weight_decay : 0;
        tensor_adamw(&r->compute, t->p.w, t->p.d, r->params.m + t->at, r->params.v + t->at,
                     t->count, &a);
    }
}
