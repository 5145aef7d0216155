/* judge_row.c - a judged row: how its verdict is written, and how it is read again. */
#include "judge_parts.h"

#include <string.h>

int harm_level(const Json *row, unsigned *level)
{
    uint64_t number;
    if (json_u64(json_get(row, "harmful_level"), &number) || number >= HARM_LEVELS) return -1;
    *level = (unsigned)number;
    return 0;
}

int judge_read_row(const Json *row, int needs_level, JudgedRow *out, Err *e)
{
    const Json *review = json_get(row, "review");
    int action = action_of(json_get(row, "action"));
    *out = (JudgedRow){.level = HARM_LEVELS,
                       .judged = action_of(json_get(row, "judged")),
                       .review_of = json_get(row, "review_of")};
    if (harm_level(row, &out->level) && needs_level)
        return data_refuse(row, "harmful_level", "0, 1, 2 or 3", e);
    if (action < 0)
        return data_refuse(row, "action",
                           "accept, caution or refuse, as align judge -o writes it", e);
    out->action = (Action)action;
    if (json_f64(json_get(row, "probability"), &out->probability)) out->probability = 0;
    if (review) out->reviewed = json_is(review, "random") ? REVIEW_RANDOM : REVIEW_CHOSEN;
    return 0;
}

int judge_put_row(Text *out, const Json *row, const Verdict *v, const char *judge, Err *e)
{
    if (text_add(out, "{", 1, e)) return -1;
    for (const Json *m = row->child; m; m = m->next) {
        if (data_owner(m->key) == OWNER_VERDICT) continue;
        if (json_put_string(out, m->key, m->key_len, e) || text_add(out, ":", 1, e) ||
            json_put(out, m, e) || text_add(out, ",", 1, e))
            return -1;
    }
    if (text_addf(out, e, "\"action\":\"%s\",\"probability\":", action_names[v->action]) ||
        json_put_f64(out, v->probability[v->action], e) || text_add(out, ",\"judge\":", 9, e) ||
        json_put_string(out, judge, strlen(judge), e) || text_add(out, ",\"evidence\":[", 13, e))
        return -1;
    for (size_t i = 0; i < v->n_evidence; i++)
        if ((i && text_add(out, ",", 1, e)) ||
            json_put_string(out, v->evidence[i], strlen(v->evidence[i]), e))
            return -1;
    if (text_add(out, "]", 1, e)) return -1;
    if (v->orders && (text_addf(out, e, ",\"agreement\":") ||
                      json_put_f64(out, (double)v->agreeing / (double)v->orders, e)))
        return -1;
    if ((v->unparsed && text_addf(out, e, ",\"unparsed\":true")) ||
        (v->cut && text_addf(out, e, ",\"cut\":true")))
        return -1;
    if (v->reviewed &&
        (text_addf(out, e, ",\"judged\":\"%s\",\"review\":\"%s\"", action_names[v->judged],
                   v->reviewed == REVIEW_RANDOM ? "random" : "chosen") ||
         (*v->review_of && text_addf(out, e, ",\"review_of\":\"%s\"", v->review_of))))
        return -1;
    return text_add(out, "}\n", 2, e);
}
