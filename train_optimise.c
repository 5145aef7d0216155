/* train_optimise.c - the trained parameters, and an optimiser step: schedule, clipping, AdamW. */
#include "train_parts.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ---- parameters ---------------------------------------------------------------------------- */

int params_collect(Run *r, Err *e)
{
    Parameters *p = &r->params;
    p->n = r->c.full ? model_weight_count(&r->engine.model) : lora_param_count(&r->policy);
    p->list = mem_calloc(p->n, sizeof *p->list, e);
    if (!p->list) return -1;
    for (size_t i = 0; i < p->n; i++) {
        TrainParam *t = &p->list[i];
        if (r->c.full)
            model_param(&r->engine.model, i, &t->p);
        else
            lora_param(&r->policy, i, &t->p);
        t->at = p->count;
        t->count = t->p.rows * t->p.cols;
        t->decay = t->p.decays;
        p->count += t->count;
    }
    p->m = mem_calloc(p->count, sizeof *p->m, e);
    p->v = p->m ? mem_calloc(p->count, sizeof *p->v, e) : NULL;
    p->good = p->v ? mem_calloc(p->count, sizeof *p->good, e) : NULL;
    return p->good ? 0 : -1;
}

void params_free(Parameters *p)
{
    mem_free(p->list);
    mem_free(p->m);
    mem_free(p->v);
    mem_free(p->good);
    *p = (Parameters){0};
}

void params_zero_gradients(Parameters *p)
{
    for (size_t i = 0; i < p->n; i++)
        memset(p->list[i].p.d, 0, p->list[i].count * sizeof *p->list[i].p.d);
}

const char *params_find_nonfinite(const Parameters *p)
{
    for (size_t i = 0; i < p->n; i++) {
        const TrainParam *t = &p->list[i];
        const real *all[] = {t->p.w, p->m + t->at, p->v + t->at};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            if (tensor_find_nonfinite(all[k], t->count) < t->count) return t->p.name;
    }
    return NULL;
}

void params_keep(Parameters *p)
{
    for (size_t i = 0; i < p->n; i++)
        memcpy(p->good + p->list[i].at, p->list[i].p.w, p->list[i].count * sizeof *p->good);
}

void params_return(Parameters *p)
{
    for (size_t i = 0; i < p->n; i++)
        memcpy(p->list[i].p.w, p->good + p->list[i].at, p->list[i].count * sizeof *p->good);
}

int params_unchanged(const Parameters *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (memcmp(p->list[i].p.w, p->good + p->list[i].at, p->list[i].count * sizeof *p->good))
            return 0;
    return 1;
}

int params_dump_gradients(const Run *r, const char *path, Err *e)
{
    const Parameters *p = &r->params;
    const char *const metadata[] = {"format", "pt", NULL};
    StOut *out = mem_calloc(p->n, sizeof *out, e);
    if (!out) return -1;
    for (size_t i = 0; i < p->n; i++) {
        const NamedParam *q = &p->list[i].p;
        out[i] = (StOut){.name = q->name,
                         .dtype = DTYPE_REAL,
                         .n_dims = q->is_vector ? 1 : 2,
                         .shape = {q->is_vector ? q->cols : q->rows, q->cols},
                         .data = q->d};
    }
    int status = safetensors_write(path, out, p->n, metadata, e);
    mem_free(out);
    return status;
}

/* ---- schedule ------------------------------------------------------------------------------ */

double train_warmup_steps(const TrainConfig *c, size_t steps)
{
    return c->warmup < 1 ? ceil(c->warmup * (double)steps) : floor(c->warmup);
}

/* Returns the learning rate of step k (from 0) of T, W of them warm-up:
 *   k < W:      lr k / W                    linear:   lr (T - k) / (T - W)
 *   constant:   lr                          cosine:   lr (1 + cos(pi (k - W) / (T - W))) / 2
 * Source: transformers 5.23, optimization.py. */
double train_learning_rate(const TrainConfig *c, size_t step, size_t steps)
{
    const double pi = 3.14159265358979323846;
    double k = (double)step, T = (double)steps;
    double W = train_warmup_steps(c, steps);
    if (k < W) return c->lr * (k / W);
    double rest = T - W > 1 ? T - W : 1, factor = 1;
    if (c->schedule == SCHEDULE_LINEAR) factor = (T - k) / rest;
    if (c->schedule == SCHEDULE_COSINE) factor = 0.5 * (1 + maths_cos(pi * ((k - W) / rest)));
    return c->lr * (factor > 0 ? factor : 0);
}

/* ---- a step -------------------------------------------------------------------------------- */

/* Returns ||g|| over all parameters; sums in double, tensor by tensor, in their fixed order. */
double params_gradient_norm(const Run *r)
{
    double sum = 0;
    for (size_t i = 0; i < r->params.n; i++)
        sum += tensor_sum_squares(&r->engine.compute, r->params.list[i].p.d,
                                  r->params.list[i].count);
    return sqrt(sum);
}

/* clip = min(1, max_grad_norm / (||g|| + 1e-6)).
 * Source: Pascanu et al. 2013, Algorithm 1, with PyTorch's guard against division by zero. */
static double clip_factor(const TrainConfig *c, double norm)
{
    const double guard = 1e-6;
    double clip = c->max_grad_norm > 0 ? c->max_grad_norm / (norm + guard) : 1;
    return clip < 1 ? clip : 1;
}

/* No element is longer than the norm; AdamW squares each. */
const char *params_check_gradient(const Run *r, double norm)
{
    const double largest = REAL_IS_FLOAT ? FLT_MAX : DBL_MAX;
    if (!isfinite(norm)) return "gradient";
    return clip_factor(&r->c, norm) * norm > sqrt(largest) ? "squared gradient" : NULL;
}

/* AdamW on gradients scaled to max_grad_norm. */
void params_update(Run *r, double lr, double norm)
{
    const TrainConfig *c = &r->c;
    AdamW a = {.lr = lr,
               .beta1 = c->adam_beta1,
               .beta2 = c->adam_beta2,
               .eps = c->adam_eps,
               .step = ++r->state.update,
               .clip = clip_factor(c, norm)};
    for (size_t i = 0; i < r->params.n; i++) {
        const TrainParam *t = &r->params.list[i];
        a.weight_decay = t->decay ? c->weight_decay : 0;
        tensor_adamw(&r->engine.compute, t->p.w, t->p.d, r->params.m + t->at, r->params.v + t->at,
                     t->count, &a);
    }
    if (r->has_policy) lora_measure(&r->policy);
}
