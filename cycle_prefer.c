/* cycle_prefer.c - preferences from judged samples: KTO rows and DPO pairs. */
#include "cycle_parts.h"

#include <string.h>

/* A judged sample of a prompt; index and level are the prompt's. */
typedef struct {
    const Json *json, *response;
    uint64_t index, sample;
    unsigned level;
    Action action;
    double score;
    int repeated, empty;
} Sample;

typedef struct {
    Writer kto, dpo;
    Text line;
    const char *system;
    int chat, demonstrations;
    PreferenceReport *report;
} Preferences;

static int read_sample(Sample *s, const Json *row, Err *e)
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

int preference_put_answer(Text *t, const char *key, const Json *text, int chat, Err *e)
{
    const char *open = chat ? "[{\"role\":\"assistant\",\"content\":" : "";
    return text_addf(t, e, "\"%s\":%s", key, open) ||
                   json_put_string(t, text->text, text->len, e) ||
                   text_addf(t, e, "%s,", chat ? "}]" : "")
               ? -1
               : 0;
}

int preference_put_prompt(Text *t, int chat, const char *system, const Json *prompt, Err *e)
{
    if (text_addf(t, e, "{\"prompt\":")) return -1;
    if (!chat) return json_put(t, prompt, e) || text_add(t, ",", 1, e) ? -1 : 0;
    const Json *first = prompt->type == JSON_ARRAY ? prompt->child : NULL;
    int has_system = json_is(json_get(first, "role"), "system"), any = 0;
    if (text_add(t, "[", 1, e)) return -1;
    if (system && !has_system) {
        if (text_addf(t, e, "{\"role\":\"system\",\"content\":") ||
            json_put_string(t, system, strlen(system), e) || text_add(t, "}", 1, e))
            return -1;
        any = 1;
    }
    if (prompt->type == JSON_STRING) {
        if (text_addf(t, e, "%s{\"role\":\"user\",\"content\":", any ? "," : "") ||
            json_put(t, prompt, e) || text_add(t, "}", 1, e))
            return -1;
    }
    for (const Json *m = first; m; m = m->next, any = 1)
        if ((any && text_add(t, ",", 1, e)) || json_put(t, m, e)) return -1;
    return text_add(t, "],", 2, e);
}

/* Where a row is from. sample NULL: the prompt's demonstration, whose score is 1 by its nature. */
static int put_source(Text *t, const char *prefix, const Sample *sample, Err *e)
{
    if (!sample)
        return text_addf(t, e, "\"%ssample\":null,\"%saction\":null,\"%sscore\":1", prefix, prefix,
                         prefix);
    return text_addf(t, e, "\"%ssample\":%llu,\"%saction\":\"%s\",\"%sscore\":%s", prefix,
                     (unsigned long long)sample->sample, prefix, action_names[sample->action],
                     prefix,
                     sample->score == 1   ? "1"
                     : sample->score == 0 ? "0"
                                          : "0.5");
}

static int write_kto(Preferences *p, const Sample *prompt, const Json *text, int label,
                     const Sample *from, Err *e)
{
    Text *t = &p->line;
    t->len = 0;
    if (preference_put_prompt(t, p->chat, p->system, json_get(prompt->json, "prompt"), e) ||
        preference_put_answer(t, "completion", text, p->chat, e) ||
        text_addf(t, e, "\"label\":%s,\"index\":%llu,\"harmful_level\":%u,",
                  label ? "true" : "false", (unsigned long long)prompt->index, prompt->level) ||
        put_source(t, "", from, e) || text_add(t, "}\n", 2, e))
        return -1;
    label ? p->report->desirable++ : p->report->undesirable++;
    return writer_put(&p->kto, t->data, t->len, e);
}

static int write_dpo(Preferences *p, const Sample *prompt, const Json *chosen,
                     const Sample *chosen_from, const Sample *rejected, Err *e)
{
    Text *t = &p->line;
    t->len = 0;
    if (preference_put_prompt(t, p->chat, p->system, json_get(prompt->json, "prompt"), e) ||
        preference_put_answer(t, "chosen", chosen, p->chat, e) ||
        preference_put_answer(t, "rejected", rejected->response, p->chat, e) ||
        text_addf(t, e, "\"index\":%llu,\"harmful_level\":%u,", (unsigned long long)prompt->index,
                  prompt->level) ||
        put_source(t, "chosen_", chosen_from, e) || text_add(t, ",", 1, e) ||
        put_source(t, "rejected_", rejected, e) || text_add(t, "}\n", 2, e))
        return -1;
    p->report->pairs++;
    return writer_put(&p->dpo, t->data, t->len, e);
}

/* Marks samples whose text an earlier one has. */
static void mark_repeated(Sample *s, size_t n, PreferenceReport *r)
{
    for (size_t i = 0; i < n; i++) {
        r->empty += s[i].empty ? 1 : 0;
        for (size_t j = 0; j < i && !s[i].repeated; j++)
            s[i].repeated = s[i].response->len == s[j].response->len &&
                            !memcmp(s[i].response->text, s[j].response->text, s[i].response->len);
        r->repeated += s[i].repeated ? 1 : 0;
    }
}

/* The first best sample (never one without a word: silence is no answer to learn), and the first
 * worst one. */
static void best_and_worst(const Sample *s, size_t n, const Sample **best, const Sample **worst)
{
    *best = *worst = NULL;
    for (size_t i = 0; i < n; i++) {
        if (!s[i].empty && (!*best || s[i].score > (*best)->score)) *best = &s[i];
        if (!*worst || s[i].score < (*worst)->score) *worst = &s[i];
    }
}

/* The rows of one prompt: samples s[0 .. n-1]. */
static int prefer_prompt(Preferences *p, Sample *s, size_t n, Err *e)
{
    PreferenceReport *r = p->report;
    const Sample *best, *worst;
    mark_repeated(s, n, r);
    best_and_worst(s, n, &best, &worst);
    r->prompts++;
    r->samples += n;

    const Json *shown = p->demonstrations ? json_get(s->json, "demonstration") : NULL;
    if (shown && (shown->type != JSON_STRING || !shown->len)) shown = NULL;
    int all_fail = !best || best->score < 1;
    if (all_fail) shown ? r->demonstrations++ : r->unanswered++;
    if (!all_fail) shown = NULL;

    for (size_t i = 0; i < n; i++) {
        if (s[i].repeated || (s[i].empty && s[i].score > 0)) continue;
        int label = s[i].score == 1;
        if (s[i].score > 0 && !label)
            r->left_out++;
        else if (write_kto(p, s, s[i].response, label, &s[i], e))
            return -1;
    }
    if (shown && write_kto(p, s, shown, 1, NULL, e)) return -1;

    if (shown) return worst->empty ? 0 : write_dpo(p, s, shown, NULL, worst, e);
    if (best && best->score > worst->score && !worst->empty)
        return write_dpo(p, s, best->response, best, worst, e);
    return 0;
}

/* Gathers neighbours with one index, and prefers among them when the index changes. */
static int prefer_lines(Preferences *p, JsonLines *lines, Err *e)
{
    Sample *group = NULL;
    size_t n = 0, cap = 0;
    Pool pool = {0};
    int more, status = 0;
    do {
        Json *row;
        Sample next;
        more = jsonl_next(lines, &pool, &row, e);
        status = more < 0 ? -1 : 0;
        if (more > 0 && read_sample(&next, row, e))
            status = err_prefix(e, "%s:%zu", lines->path, lines->line);
        if (!status && n && (!more || next.index != group->index)) {
            status = prefer_prompt(p, group, n, e);
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
    return status;
}

int cycle_preferences(const char *judged, const char *kto, const char *dpo, int chat,
                      const char *system, int demonstrations, PreferenceReport *r, Err *e)
{
    *r = (PreferenceReport){0};
    Preferences p = {.chat = chat, .system = system, .demonstrations = demonstrations, .report = r};
    JsonLines lines;
    if (jsonl_open(&lines, judged, e)) return -1;
    int status = writer_open(&p.kto, kto, e) || writer_open(&p.dpo, dpo, e) ||
                 prefer_lines(&p, &lines, e) || writer_commit(&p.kto, e) ||
                 writer_commit(&p.dpo, e);
    writer_abort(&p.kto);
    writer_abort(&p.dpo);
    text_free(&p.line);
    jsonl_close(&lines);
    return status ? -1 : 0;
}

/* ---- the stage ------------------------------------------------------------------------------- */

static int preferences_facts(const PreferenceReport *r, Text *out, Err *e)
{
    return text_addf(out, e,
                     "{\"prompts\":%zu,\"samples\":%zu,\"desirable\":%zu,\"undesirable\":%zu,"
                     "\"left_out\":%zu,\"pairs\":%zu,\"demonstrations\":%zu,\"unanswered\":%zu,"
                     "\"repeated\":%zu,\"empty\":%zu}",
                     r->prompts, r->samples, r->desirable, r->undesirable, r->left_out, r->pairs,
                     r->demonstrations, r->unanswered, r->repeated, r->empty);
}

static size_t fact_count(const Json *facts, const char *key)
{
    uint64_t n = 0;
    json_u64(json_get(facts, key), &n);
    return (size_t)n;
}

/* The report of a stage that was done before, from its entry. */
static void preferences_recall(const Json *entry, PreferenceReport *r)
{
    const Json *f = json_get(entry, "facts");
    *r = (PreferenceReport){.prompts = fact_count(f, "prompts"),
                            .samples = fact_count(f, "samples"),
                            .desirable = fact_count(f, "desirable"),
                            .undesirable = fact_count(f, "undesirable"),
                            .left_out = fact_count(f, "left_out"),
                            .pairs = fact_count(f, "pairs"),
                            .demonstrations = fact_count(f, "demonstrations"),
                            .unanswered = fact_count(f, "unanswered"),
                            .repeated = fact_count(f, "repeated"),
                            .empty = fact_count(f, "empty")};
}

int prefer_stage(Loop *l, size_t cycle, const char *judged, const char *kto, const char *dpo,
                 PreferenceReport *r, Err *e)
{
    const Json *entry;
    int done = loop_done(l, "prefer", cycle, "", &entry, e);
    if (done < 0) return -1;
    if (done) {
        preferences_recall(entry, r);
        return 0;
    }
    char in_path[IO_PATH_MAX], kto_path[IO_PATH_MAX], dpo_path[IO_PATH_MAX];
    if (loop_path(l, in_path, judged, e) || loop_path(l, kto_path, kto, e) ||
        loop_path(l, dpo_path, dpo, e))
        return -1;
    loop_tell(l, (CycleProgress){.cycle = cycle, .stage = "prefer", .name = ""});
    if (cycle_preferences(in_path, kto_path, dpo_path, l->chat, l->c->system, l->c->demonstrations,
                          r, e))
        return -1;
    Text facts = {0};
    const char *inputs[] = {judged, NULL}, *outputs[] = {kto, dpo, NULL};
    int status =
        preferences_facts(r, &facts, e) || ledger_append(&l->ledger,
                                                         &(LedgerEntry){.event = "prefer",
                                                                        .name = "",
                                                                        .cycle = cycle,
                                                                        .inputs = inputs,
                                                                        .outputs = outputs,
                                                                        .facts = facts.data},
                                                         e);
    text_free(&facts);
    return status ? -1 : 0;
}
