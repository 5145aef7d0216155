/* cycle_samples.c - judged samples, read prompt by prompt. */
#include "cycle_parts.h"

#include <string.h>

int sample_read(Sample *s, const Json *row, Err *e)
{
    uint64_t level;
    const Json *action = json_get(row, "action");
    int a = action && action->type == JSON_STRING ? action_parse(action->text, action->len) : -1;
    *s = (Sample){.json = row, .response = json_get(row, "response")};
    if (!json_get(row, "prompt") || !s->response || s->response->type != JSON_STRING)
        return err_set(e, ERR_DATA, "\"prompt\" and \"response\" are needed");
    if (json_u64(json_get(row, "index"), &s->index))
        return err_set(e, ERR_DATA, "\"index\" must be the number of a prompt");
    if (json_get(row, "sample") && json_u64(json_get(row, "sample"), &s->sample))
        return err_set(e, ERR_DATA, "\"sample\" must be a number");
    if (json_u64(json_get(row, "harmful_level"), &level) || level >= EVALUATE_LEVELS)
        return err_set(e, ERR_DATA, "\"harmful_level\" must be 0, 1, 2 or 3");
    if (a < 0) return err_set(e, ERR_DATA, "\"action\" must be accept, caution or refuse");
    s->level = (unsigned)level;
    s->action = (Action)a;
    s->score = evaluate_score(s->level, s->action);
    s->empty = strspn(s->response->text, " \t\r\n") == s->response->len;
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

int samples_each(const char *judged, SamplesFn fn, void *ctx, Err *e)
{
    JsonLines lines;
    Sample *group = NULL;
    size_t n = 0, cap = 0;
    Pool pool = {0};
    int more, status = 0;
    if (jsonl_open(&lines, judged, e)) return -1;
    do {
        Json *row;
        Sample next;
        more = jsonl_next(&lines, &pool, &row, e);
        status = more < 0 ? -1 : 0;
        if (more > 0 && sample_read(&next, row, e))
            status = err_prefix(e, "%s:%zu", judged, lines.line);
        if (!status && n && (!more || next.index != group->index)) {
            status = fn(ctx, group, n, e);
            n = 0;
        }
        if (!status && more > 0 && n == cap) {
            cap = cap ? 2 * cap : 16;
            Sample *grown = mem_realloc(group, cap * sizeof *grown, e);
            if (grown)
                group = grown;
            else
                status = -1;
        }
        if (!status && more > 0) group[n++] = next;
    } while (!status && more > 0);
    mem_free(group);
    pool_free(&pool);
    jsonl_close(&lines);
    return status;
}
