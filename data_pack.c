/* data_pack.c - orders the rows of an epoch, and packs sequences end to end. */
#include "data.h"

#include <string.h>

/* ---- order --------------------------------------------------------------------------------- */

/* Fisher and Yates, every draw a function of (seed, epoch, position) alone: no state to save, so a
 * resumed run finds its place by the step number. */
static void order_shuffle(uint64_t seed, uint64_t epoch, uint32_t *out, size_t n)
{
    uint64_t key = rng_mix(seed, epoch);
    for (size_t i = 0; i + 1 < n; i++) {
        size_t j = i + (size_t)(rng_u64(key, RNG_SHUFFLE, i) % (n - i));
        uint32_t swapped = out[i];
        out[i] = out[j];
        out[j] = swapped;
    }
}

int data_order(Order order, uint64_t seed, uint64_t epoch, uint32_t *out, size_t n, Err *e)
{
    if (n > UINT32_MAX)
        return err_set(e, ERR_DATA, "%zu rows: at most %lu are allowed; split the file", n,
                       (unsigned long)UINT32_MAX);
    for (size_t i = 0; i < n; i++) out[i] = (uint32_t)i;
    if (order == ORDER_SHUFFLE) order_shuffle(seed, epoch, out, n);
    if (order == ORDER_TRL && n) {
        Mt mt;
        mt_seed(&mt, seed + epoch);
        mt_randperm(&mt, out, n);
    }
    return 0;
}

/* ---- packing ------------------------------------------------------------------------------- */

/* Room for `more` further elements of `size` bytes in *array; capacities double. */
static int packer_room(void **array, size_t *cap, size_t used, size_t more, size_t size, Err *e)
{
    size_t need, bytes, grown = *cap;
    if (size_add(used, more, &need)) return err_set(e, ERR_MEMORY, "a batch of rows is too large");
    if (need <= *cap) return 0;
    while (grown < need) grown = grown < 64 ? 64 : grown > need / 2 ? 2 * grown : need;
    if (size_mul(grown, size, &bytes))
        return err_set(e, ERR_MEMORY, "a batch of %zu tokens is too large", need);
    void *p = mem_realloc(*array, bytes, e);
    if (!p) return -1;
    *array = p;
    *cap = grown;
    return 0;
}

void packer_begin(Packer *p)
{
    p->batch.T = p->batch.n_segments = p->batch.n_scores = 0;
    p->batch.live_T = p->batch.live_scores = 0;
}

void packer_seal(Packer *p)
{
    p->batch.live_T = p->batch.T;
    p->batch.live_scores = p->batch.n_scores;
}

int packer_add_context(Packer *p, int parent, const int32_t *ids, size_t n, int *segment, Err *e)
{
    Batch *b = &p->batch;
    *segment = parent;
    if (n == 0) return 0;
    void *ids_array = b->ids, *segments_array = b->segments;
    if (packer_room(&ids_array, &p->cap_ids, b->T, n, sizeof *b->ids, e)) return -1;
    b->ids = ids_array;
    if (packer_room(&segments_array, &p->cap_segments, b->n_segments, 1, sizeof *b->segments, e))
        return -1;
    b->segments = segments_array;

    const Segment *before = parent < 0 ? NULL : &b->segments[parent];
    Segment s = {
        .row = b->T, .count = n, .pos = before ? before->pos + before->count : 0, .parent = parent};
    memcpy(b->ids + b->T, ids, n * sizeof *ids);
    *segment = (int)b->n_segments;
    b->segments[b->n_segments++] = s;
    b->T += n;
    return 0;
}

int packer_add_completion(Packer *p, int parent, const int32_t *ids, size_t n, size_t *first_score,
                          size_t *n_scores, Err *e)
{
    return packer_add_scored(p, parent, ids, NULL, n, first_score, n_scores, e);
}

int packer_add_scored(Packer *p, int parent, const int32_t *ids, const unsigned char *scored,
                      size_t n, size_t *first_score, size_t *n_scores, Err *e)
{
    Batch *b = &p->batch;
    *first_score = b->n_scores;
    *n_scores = 0;
    while (scored && n && !scored[n - 1]) n--;
    if (n == 0) return 0;
    int segment;
    size_t first_row = b->T; /* of the completion's own tokens; token t is predicted from t - 1 */
    if (packer_add_context(p, parent, ids, n - 1, &segment, e)) return -1;

    size_t cap_targets = p->cap_scores;
    void *rows = b->score_row, *targets = b->score_target;
    if (packer_room(&rows, &p->cap_scores, b->n_scores, n, sizeof *b->score_row, e)) return -1;
    b->score_row = rows;
    if (packer_room(&targets, &cap_targets, b->n_scores, n, sizeof *b->score_target, e)) {
        p->cap_scores = cap_targets; /* the smaller of the two arrays counts */
        return -1;
    }
    b->score_target = targets;

    for (size_t t = 0; t < n; t++) {
        if (t == 0 && parent < 0) continue;
        if (scored && !scored[t]) continue;
        size_t row =
            t ? first_row + t - 1 : b->segments[parent].row + b->segments[parent].count - 1;
        b->score_row[b->n_scores] = (uint32_t)row;
        b->score_target[b->n_scores++] = ids[t];
    }
    *n_scores = b->n_scores - *first_score;
    return 0;
}

void packer_free(Packer *p)
{
    mem_free(p->batch.ids);
    mem_free(p->batch.segments);
    mem_free(p->batch.score_row);
    mem_free(p->batch.score_target);
    *p = (Packer){0};
}
