/* train_rows.c - decides which rows a micro-batch has, and which micro-batches a step has; reports
 * progress. */
#include "train_parts.h"

/* ---- the way through the rows -------------------------------------------------------------- */

/* KTO's estimate of z0 needs several rows: a single last row joins the batch before it (pairing
 * `trl` leaves it alone, as TRL does). */
static int lonely_joins(const Run *r, size_t rows)
{
    return r->c.method == TRAIN_KTO && kto_needs_kl(r->c.kto.loss) && r->c.kl_pairing != KTO_TRL &&
           rows > r->c.batch && rows % r->c.batch == 1;
}

size_t run_batch_count(const Run *r, size_t rows)
{
    return (rows + r->c.batch - 1) / r->c.batch - (size_t)lonely_joins(r, rows);
}

size_t run_batch_size(const Run *r, size_t rows, size_t b, size_t *first)
{
    *first = b * r->c.batch;
    return b + 1 == run_batch_count(r, rows) ? rows - *first : r->c.batch;
}

/* Windows of accumulation never span epochs; the last one of an epoch may be shorter. */
size_t run_window(const Run *r, size_t step)
{
    size_t first = step % r->epoch_steps * r->c.accumulate, left = r->epoch_batches - first;
    return left < r->c.accumulate ? left : r->c.accumulate;
}

size_t run_rows(Run *r, size_t step, size_t k, const uint32_t **rows)
{
    size_t epoch = step / r->epoch_steps, b = step % r->epoch_steps * r->c.accumulate + k, first;
    if (epoch != r->order_epoch) {
        /* TRL reads KTO rows in the order of the file. */
        Order order = r->c.method == TRAIN_KTO && r->c.order == ORDER_TRL ? ORDER_FILE : r->c.order;
        Err none; /* fails only for too many rows, which run_prepare has refused */
        data_order(order, r->c.seed, epoch, r->order, r->train.rows.count, &none);
        r->order_epoch = epoch;
    }
    size_t n = run_batch_size(r, r->train.rows.count, b, &first);
    *rows = r->order + first;
    return n;
}

void run_progress(const Run *r, const char *phase, size_t done, size_t total, double began,
                  uint64_t tokens)
{
    if (!r->events->progress) return;
    double seconds = time_now() - began;
    TrainProgress p = {.phase = phase,
                       .done = done,
                       .total = total,
                       .seconds = seconds,
                       .tokens_per_second = seconds > 0 ? (double)tokens / seconds : 0,
                       .eta = done ? seconds / (double)done * (double)(total - done) : 0,
                       .loss = r->state.loss,
                       .margin = r->margin};
    r->events->progress(r->events->ctx, &p);
}

int run_check_model(Run *r, Err *e)
{
    if (r->c.full || !model_check_hash(&r->engine.model, r->model_sha256, e)) return 0;
    return err_prefix(e, "step %zu", r->state.step + 1);
}
