/* lora_dora.c - DoRA: measures the rows of weights with their adapters.
 *
 * An adapter with sizes turns a row W_n into m_n (W_n + scale B_n A) / || W_n + scale B_n A ||
 * (Liu et al. 2024, Eq. 5). The lengths are measured once for weights that stay, and after every
 * step of training.
 */
#include "lora_parts.h"

#include <math.h>

enum { COLS = 256 /* numbers of a row held at a time: whole blocks of any format */ };

typedef struct {
    const Adapter *a;
    const Mat *w;
    real *lengths;
} Measured;

/* || row n of W + scale B A ||, a stretch of columns at a time; rounded to real as PEFT does, but
 * for the sum of squares. */
static void measure_row(void *ctx, size_t n)
{
    const Measured *m = ctx;
    size_t K = m->w->cols, R = m->a->b.w.cols, run, stride;
    const real *A = m->a->a.w.data, *b = (const real *)m->a->b.w.data + n * R;
    const unsigned char *w = mat_row(m->w, n, &run, &stride);
    double squares = 0;
    for (size_t first = 0; first < K; first += COLS) {
        size_t cols = K - first < COLS ? K - first : COLS;
        real low[COLS] = {0}, own[COLS];
        for (size_t r = 0; r < R; r++)
            for (size_t k = 0; k < cols; k++) low[k] += b[r] * A[r * K + first + k];
        format_unpack(m->w->format, own, w, first, cols);
        for (size_t k = 0; k < cols; k++) {
            real sum = own[k] + (real)m->a->scale * low[k];
            squares += (double)sum * (double)sum;
        }
    }
    m->lengths[n] = (real)sqrt(squares);
}

void lora_measure(const Lora *l)
{
    size_t at = 0;
    for (size_t i = 0; l->config.dora && i < lora_slot_count(&l->shape); i++) {
        const Adapter *a = &l->slots[i];
        if (!a->a.w.data) continue;
        Measured m = {a, &l->base[i], l->lengths + at};
        threads_run(measure_row, &m, a->b.w.rows);
        at += a->b.w.rows;
    }
}

static void slot_module(const Lora *l, size_t slot, char out[LORA_MODULE])
{
    size_t layer;
    Target target;
    lora_slot_place(&l->shape, slot, &layer, &target);
    lora_module_name(out, layer, target);
}

/* No row may have the length 0: it is divided by. */
static int check_lengths(const Lora *l, size_t slot, Err *e)
{
    const Adapter *a = &l->slots[slot];
    char module[LORA_MODULE];
    for (size_t n = 0; n < a->b.w.rows; n++) {
        if (a->n[n] > 0 && isfinite(a->n[n])) continue;
        slot_module(l, slot, module);
        return err_set(e, ERR_DATA,
                       "DoRA on %s: row %zu of its weight has the length %g, by which it would be "
                       "divided",
                       module, n, (double)a->n[n]);
    }
    return 0;
}

int lora_begin_dora(Lora *l, Err *e)
{
    char module[LORA_MODULE];
    if (!l->config.dora) return 0;
    for (size_t i = 0; i < lora_slot_count(&l->shape); i++) {
        slot_module(l, i, module);
        if (!l->slots[i].a.w.data || lora_weight_of(l, module, &l->base[i])) continue;
        return err_set(e, ERR_INTERNAL, "DoRA on %s: its weight is not known", module);
    }
    lora_measure(l);
    for (size_t i = 0; i < lora_slot_count(&l->shape); i++)
        if (check_lengths(l, i, e)) return -1;
    return 0;
}

int lora_is_zero(const Lora *l)
{
    for (size_t i = 0; i < lora_slot_count(&l->shape); i++) {
        const Adapter *a = &l->slots[i];
        const real *b = a->b.w.data, *m = a->m.w.data;
        if (!b) continue;
        for (size_t j = 0; j < a->b.w.rows * a->b.w.cols; j++)
            if (b[j] != 0) return 0;
        for (size_t n = 0; m && n < a->b.w.rows; n++)
            if (m[n] != a->n[n]) return 0;
    }
    return l->n_saved == 0;
}
