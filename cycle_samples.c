/* cycle_samples.c - reads judged samples prompt by prompt. */
#include "cycle_parts.h"

#include <string.h>

int sample_read(Sample *s, const Json *row, Err *e)
{
    JudgedRow judged;
    *s = (Sample){.json = row, .response = json_get(row, "response")};
    if (!json_get(row, "prompt") || !s->response || s->response->type != JSON_STRING)
        return err_set(e, ERR_DATA, "\"prompt\" and \"response\" are needed");
    if (json_u64(json_get(row, "index"), &s->index))
        return err_set(e, ERR_DATA, "\"index\" must be the number of a prompt");
    if (json_get(row, "sample") && json_u64(json_get(row, "sample"), &s->sample))
        return err_set(e, ERR_DATA, "\"sample\" must be a number");
    if (judge_read_row(row, 1, &judged, e)) return -1;
    s->level = judged.level;
    s->action = judged.action;
    s->score = evaluate_score(s->level, s->action);
    s->open = json_is(json_get(row, DATA_FINISH), "length");
    s->empty = !judge_has_words(s->response->text, s->response->len);
    return 0;
}

const Sample *sample_best(const Sample *s, size_t n)
{
    const Sample *best = NULL;
    for (size_t i = 0; i < n; i++)
        if (!s[i].empty && (!best || s[i].score > best->score)) best = &s[i];
    return best;
}

const Json *sample_demonstration(const Sample *s, const PreferenceOptions *o)
{
    const Json *shown = o->demonstrations ? json_get(s->json, "demonstration") : NULL;
    return shown && shown->type == JSON_STRING && shown->len ? shown : NULL;
}

/* The samples of one prompt: neighbours with the same index. */
typedef struct {
    Sample *rows;
    size_t n, cap;
} Group;

static void group_clear(Group *g)
{
    for (size_t i = 0; i < g->n; i++) pool_free(&g->rows[i].pool);
    g->n = 0;
}

static int group_add(Group *g, const Sample *s, Err *e)
{
    if (mem_grow(&g->rows, &g->cap, g->n, sizeof *g->rows, e)) return -1;
    g->rows[g->n++] = *s;
    return 0;
}

/* Reads the next sample: 1, 0 at the end, -1 on error. The caller frees its pool in every case. */
static int next_sample(JsonLines *lines, Sample *s, Pool *pool, Err *e)
{
    Json *row;
    int more = jsonl_next(lines, pool, &row, e);
    if (more > 0 && sample_read(s, row, e))
        more = err_prefix(e, "%s:%zu", lines->path, lines->line);
    if (more > 0) s->pool = *pool;
    return more;
}

int samples_each(const char *judged, SamplesFn fn, void *ctx, Err *e)
{
    JsonLines lines;
    Group group = {0};
    int more, status = 0;
    if (jsonl_open(&lines, judged, e)) return -1;
    do {
        Sample next;
        Pool pool = {0};
        more = next_sample(&lines, &next, &pool, e);
        if (more < 0) status = -1;
        if (!status && group.n && (!more || next.index != group.rows->index)) {
            status = fn(ctx, group.rows, group.n, e);
            group_clear(&group);
        }
        if (status || more <= 0 || group_add(&group, &next, e)) {
            if (more > 0) status = -1;
            pool_free(&pool);
        }
    } while (!status && more > 0);
    group_clear(&group);
    mem_free(group.rows);
    jsonl_close(&lines);
    return status;
}
