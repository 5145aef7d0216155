/* cycle_prefer.c - makes preferences of judged samples: KTO rows and DPO pairs. */
#include "cycle_parts.h"

#include <string.h>

/* Decides which rows for KTO are kept. The first pass over the samples notes the class of each row,
 * balance_rows chooses, the second pass writes. */
enum { HARMLESS, HARMFUL, SIDES };
typedef struct {
    unsigned char *class_of; /* side * 2 + label */
    unsigned char *keep;
    size_t n, cap, at; /* at: the next row to be written */
} Balance;

/* The policy's own good answers under an instruction, in the order of their prompts. */
typedef struct {
    Sample *rows; /* the first desirable revision of each prompt */
    size_t n, cap;
    double desirable; /* the lowest desirable score */
} Revisions;

typedef struct {
    const PreferenceOptions *o;
    PreferenceReport *report;
    Revisions revisions;
    Balance balance;
    Writer kto, dpo;
    Text line;
    int noting; /* the first pass: nothing is written */
} Preferences;

/* The source of an answer. sample NULL: the prompt's demonstration, whose score is 1 by
 * definition. */
typedef struct {
    const char *source; /* "sample" "revision" "demonstration" */
    const Json *text;
    const Sample *sample;
} Answer;

/* ---- rows ---------------------------------------------------------------------------------- */

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

/* Writes the provenance of an answer; the names begin with prefix. */
static int put_source(Text *t, const char *prefix, const Answer *a, Err *e)
{
    if (text_addf(t, e, "\"%ssource\":\"%s\",", prefix, a->source)) return -1;
    if (!a->sample)
        return text_addf(t, e, "\"%ssample\":null,\"%saction\":null,\"%sscore\":1", prefix, prefix,
                         prefix);
    const char *score = a->sample->score == 1 ? "1" : a->sample->score == 0 ? "0" : "0.5";
    if (text_addf(t, e, "\"%ssample\":%llu,\"%saction\":\"%s\",\"%sscore\":%s", prefix,
                  (unsigned long long)a->sample->sample, prefix, action_names[a->sample->action],
                  prefix, score))
        return -1;
    return a->sample->open ? text_addf(t, e, ",\"%s" DATA_FINISH "\":\"length\"", prefix) : 0;
}

/* In the first pass notes the class of a row; in the second says whether it is kept. */
static int balance_note(Balance *b, unsigned level, int label, Err *e)
{
    if (mem_grow(&b->class_of, &b->cap, b->n, sizeof *b->class_of, e)) return -1;
    b->class_of[b->n++] = (unsigned char)((level ? HARMFUL : HARMLESS) * 2 + label);
    return 0;
}

static int write_kto(Preferences *p, const Sample *prompt, const Answer *a, int label, Err *e)
{
    PreferenceReport *r = p->report;
    PreferenceCounts *level = &r->level[prompt->level];
    Text *t = &p->line;
    if (p->noting) return balance_note(&p->balance, prompt->level, label, e);
    if (!p->balance.keep[p->balance.at++]) {
        r->balanced_out++;
        level->balanced_out++;
        return 0;
    }
    t->len = 0;
    if (preference_put_prompt(t, p->o->chat, p->o->system, json_get(prompt->json, "prompt"), e) ||
        preference_put_answer(t, "completion", a->text, p->o->chat, e) ||
        text_addf(t, e, "\"label\":%s,\"index\":%llu,\"harmful_level\":%u,",
                  label ? "true" : "false", (unsigned long long)prompt->index, prompt->level) ||
        put_source(t, "", a, e) || text_add(t, "}\n", 2, e))
        return -1;
    *(label ? &r->desirable : &r->undesirable) += 1;
    *(label ? &level->desirable : &level->undesirable) += 1;
    return writer_put(&p->kto, t->data, t->len, e);
}

static int write_dpo(Preferences *p, const Sample *prompt, const Answer *chosen,
                     const Sample *worst, Err *e)
{
    Text *t = &p->line;
    const Answer rejected = {"sample", worst->response, worst};
    if (p->noting) return 0;
    t->len = 0;
    if (preference_put_prompt(t, p->o->chat, p->o->system, json_get(prompt->json, "prompt"), e) ||
        preference_put_answer(t, "chosen", chosen->text, p->o->chat, e) ||
        preference_put_answer(t, "rejected", rejected.text, p->o->chat, e) ||
        text_addf(t, e, "\"index\":%llu,\"harmful_level\":%u,", (unsigned long long)prompt->index,
                  prompt->level) ||
        put_source(t, "chosen_", chosen, e) || text_add(t, ",", 1, e) ||
        put_source(t, "rejected_", &rejected, e) || text_add(t, "}\n", 2, e))
        return -1;
    p->report->pairs++;
    p->report->level[prompt->level].pairs++;
    return writer_put(&p->dpo, t->data, t->len, e);
}

/* ---- balance ------------------------------------------------------------------------------- */

/* A class that is cut keeps at least this share of its rows. */
static const double least_kept = 0.25;

/* Returns how many of n rows of the larger class are kept beside m rows of the smaller one. */
static size_t rows_kept(size_t n, size_t m, double balance)
{
    double most = balance * (double)m, least = least_kept * (double)n;
    double kept = most > least ? most : least;
    if (balance == 0 || m == 0 || kept >= (double)n) return n;
    size_t whole = (size_t)kept;
    return whole + ((double)whole < kept ? 1 : 0);
}

/* Chooses `kept` of the n rows of a class, each set of that size with the same probability: row i
 * is kept with probability (still wanted) / (rows left). Knuth 1997, section 3.4.2, algorithm S. */
static void choose_rows(Balance *b, unsigned char class_of, size_t n, size_t kept, uint64_t seed)
{
    uint64_t key = rng_mix(seed, class_of);
    for (size_t i = 0, left = n; i < b->n; i++) {
        if (b->class_of[i] != class_of) continue;
        double u = rng_unit(key, RNG_SPLIT, i);
        b->keep[i] = u * (double)left < (double)kept;
        kept -= b->keep[i];
        left--;
    }
}

static int balance_rows(Balance *b, const PreferenceOptions *o, Err *e)
{
    size_t count[2 * SIDES] = {0};
    b->keep = mem_alloc(b->n, e);
    if (!b->keep) return -1;
    for (size_t i = 0; i < b->n; i++) count[b->class_of[i]]++;
    for (unsigned char c = 0; c < 2 * SIDES; c++) {
        size_t n = count[c], other = count[c ^ 1];
        choose_rows(b, c, n, n > other ? rows_kept(n, other, o->balance) : n, o->seed);
    }
    return 0;
}

/* ---- one prompt ---------------------------------------------------------------------------- */

/* Marks samples that have the text of an earlier one. */
static void mark_repeated(Sample *s, size_t n, PreferenceReport *r)
{
    for (size_t i = 0; i < n; i++) {
        r->empty += s[i].empty ? 1 : 0;
        r->at_limit += s[i].open ? 1 : 0;
        for (size_t j = 0; j < i && !s[i].repeated; j++)
            s[i].repeated = s[i].response->len == s[j].response->len &&
                            !memcmp(s[i].response->text, s[j].response->text, s[i].response->len);
        r->repeated += s[i].repeated ? 1 : 0;
    }
}

/* Returns the revision of a prompt, or NULL. */
static const Sample *find_revision(const Revisions *v, uint64_t index)
{
    for (size_t low = 0, high = v->n; low < high;) {
        size_t middle = low + (high - low) / 2;
        if (v->rows[middle].index == index) return &v->rows[middle];
        if (v->rows[middle].index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* Finds a good answer for a prompt without a desirable sample: 1 with *a, or 0 if there is none. */
static int find_help(const Preferences *p, const Sample *s, Answer *a)
{
    const Json *shown = sample_demonstration(s, p->o);
    const Sample *revision = shown ? NULL : find_revision(&p->revisions, s->index);
    *a = shown ? (Answer){"demonstration", shown, NULL}
               : (Answer){"revision", revision ? revision->response : NULL, revision};
    if (shown)
        p->report->demonstrations++;
    else
        *(revision ? &p->report->revisions : &p->report->unanswered) += 1;
    return a->text != NULL;
}

/* Writes KTO's rows of the samples themselves. */
static int put_samples(Preferences *p, const Sample *s, size_t n, Err *e)
{
    for (size_t i = 0; i < n; i++) {
        int good = s[i].score >= p->o->desirable, bad = s[i].score <= p->o->undesirable;
        const Answer a = {"sample", s[i].response, &s[i]};
        if (s[i].repeated || (s[i].empty && !bad)) continue; /* an empty answer is never good */
        if (good || bad) {
            if (write_kto(p, &s[i], &a, good, e)) return -1;
        } else {
            p->report->left_out++;
            p->report->level[s[i].level].left_out++;
        }
    }
    return 0;
}

/* Writes the rows of one prompt with samples s[0 .. n-1]. */
static int prefer_prompt(void *ctx, Sample *s, size_t n, Err *e)
{
    Preferences *p = ctx;
    const Sample *best = sample_best(s, n), *worst = s;
    Answer help;
    for (size_t i = 1; i < n; i++)
        if (s[i].score < worst->score ||
            (s[i].score == worst->score && worst->empty && !s[i].empty))
            worst = &s[i];
    mark_repeated(s, n, p->report);
    p->report->prompts++;
    p->report->samples += n;
    if (put_samples(p, s, n, e)) return -1;
    if ((!best || best->score < p->o->desirable) && find_help(p, s, &help)) {
        if (write_kto(p, s, &help, 1, e)) return -1;
        return worst->empty ? 0 : write_dpo(p, s, &help, worst, e);
    }
    if (!best || best->score <= worst->score || worst->empty) return 0;
    const Answer chosen = {"sample", best->response, best};
    return write_dpo(p, s, &chosen, worst, e);
}

/* ---- the whole ----------------------------------------------------------------------------- */

/* Keeps the first desirable revision of a prompt; its texts stay in *pool. */
static int read_revisions(Revisions *v, const char *path, Pool *pool, Err *e)
{
    JsonLines lines;
    int more;
    if (jsonl_open(&lines, path, e)) return -1;
    do {
        Json *row;
        Sample s;
        more = jsonl_next(&lines, pool, &row, e);
        if (more <= 0) break;
        if (sample_read(&s, row, e)) more = err_prefix(e, "%s:%zu", path, lines.line);
        if (more < 0 || s.empty || s.score < v->desirable ||
            (v->n && v->rows[v->n - 1].index == s.index))
            continue;
        if (mem_grow(&v->rows, &v->cap, v->n, sizeof *v->rows, e))
            more = -1;
        else
            v->rows[v->n++] = s;
    } while (more > 0);
    jsonl_close(&lines);
    return more;
}

static int by_index(const void *x, const void *y)
{
    const Sample *a = x, *b = y;
    return (a->index > b->index) - (a->index < b->index);
}

/* Adds a row of a person's feedback, as it stands. */
static int add_feedback(void *ctx, const Json *row, size_t line, Err *e)
{
    Preferences *p = ctx;
    const Json *label = json_get(row, "label");
    int liked = label && label->type == JSON_TRUE;
    (void)line;
    *(liked ? &p->report->liked : &p->report->disliked) += 1;
    *(liked ? &p->report->desirable : &p->report->undesirable) += 1;
    p->line.len = 0;
    return json_put(&p->line, row, e) || text_add(&p->line, "\n", 1, e) ||
                   writer_put(&p->kto, p->line.data, p->line.len, e)
               ? -1
               : 0;
}

/* Makes both passes over the samples. */
static int prefer_all(Preferences *p, const char *judged, Err *e)
{
    p->noting = 1;
    if (samples_each(judged, prefer_prompt, p, e) || balance_rows(&p->balance, p->o, e)) return -1;
    p->noting = 0;
    *p->report = (PreferenceReport){0};
    return samples_each(judged, prefer_prompt, p, e) ||
                   (p->o->feedback && jsonl_each(p->o->feedback, add_feedback, p, NULL, e))
               ? -1
               : 0;
}

int cycle_preferences(const char *judged, const char *kto, const char *dpo,
                      const PreferenceOptions *o, PreferenceReport *r, Err *e)
{
    *r = (PreferenceReport){0};
    Preferences p = {.o = o, .report = r, .revisions.desirable = o->desirable};
    Pool pool = {0};
    int status = o->revised ? read_revisions(&p.revisions, o->revised, &pool, e) : 0;
    if (!status) {
        sort_items(p.revisions.rows, p.revisions.n, sizeof(Sample), by_index);
        status = writer_open(&p.kto, kto, e) || writer_open(&p.dpo, dpo, e) ||
                 prefer_all(&p, judged, e) || writer_commit(&p.kto, e) || writer_commit(&p.dpo, e);
    }
    writer_abort(&p.kto);
    writer_abort(&p.dpo);
    text_free(&p.line);
    mem_free(p.balance.class_of);
    mem_free(p.balance.keep);
    mem_free(p.revisions.rows);
    pool_free(&pool);
    return status ? -1 : 0;
}

/* ---- the stage ----------------------------------------------------------------------------- */

/* Names of the report's members, for writing the ledger and reading it back. */
static const struct {
    const char *key;
    size_t at;
} members[] = {
#define MEMBER(name)                                                                               \
    {                                                                                              \
#name, offsetof(PreferenceReport, name)                                                    \
    }
    MEMBER(prompts),   MEMBER(samples),      MEMBER(desirable), MEMBER(undesirable),
    MEMBER(left_out),  MEMBER(balanced_out), MEMBER(pairs),     MEMBER(demonstrations),
    MEMBER(revisions), MEMBER(unanswered),   MEMBER(repeated),  MEMBER(empty),
    MEMBER(at_limit),  MEMBER(liked),        MEMBER(disliked),
#undef MEMBER
};
static const struct {
    const char *key;
    size_t at;
} level_members[] = {
#define MEMBER(name)                                                                               \
    {                                                                                              \
#name, offsetof(PreferenceCounts, name)                                                    \
    }
    MEMBER(desirable), MEMBER(undesirable), MEMBER(left_out), MEMBER(balanced_out), MEMBER(pairs),
#undef MEMBER
};
enum {
    MEMBERS = sizeof members / sizeof *members,
    LEVEL_MEMBERS = sizeof level_members / sizeof *level_members
};

static size_t *member(void *of, size_t at)
{
    return (size_t *)(void *)((unsigned char *)of + at);
}

static int preferences_facts(PreferenceReport *r, Text *out, Err *e)
{
    for (size_t i = 0; i < MEMBERS; i++)
        if (text_addf(out, e, "%s\"%s\":%zu", i ? "," : "{", members[i].key,
                      *member(r, members[i].at)))
            return -1;
    if (text_addf(out, e, ",\"levels\":[")) return -1;
    for (unsigned h = 0; h < EVALUATE_LEVELS; h++) {
        if (text_addf(out, e, "%s{\"harmful_level\":%u", h ? "," : "", h)) return -1;
        for (size_t i = 0; i < LEVEL_MEMBERS; i++)
            if (text_addf(out, e, ",\"%s\":%zu", level_members[i].key,
                          *member(&r->level[h], level_members[i].at)))
                return -1;
        if (text_add(out, "}", 1, e)) return -1;
    }
    return text_add(out, "]}", 2, e);
}

static size_t fact_count(const Json *facts, const char *key)
{
    uint64_t n = 0;
    json_u64(json_get(facts, key), &n);
    return (size_t)n;
}

/* What the stage is handed: RUN/revised (NULL = none), and where its report goes. */
typedef struct {
    const char *revised;
    PreferenceReport *report;
} PreferWork;

static int prefer_recall(const Stage *s, const Json *f, Err *e)
{
    const Json *levels = json_get(f, "levels"), *level = levels ? levels->child : NULL;
    PreferenceReport *r = ((const PreferWork *)s->work)->report;
    (void)e;
    *r = (PreferenceReport){0};
    for (size_t i = 0; i < MEMBERS; i++) *member(r, members[i].at) = fact_count(f, members[i].key);
    for (unsigned h = 0; h < EVALUATE_LEVELS && level; h++, level = level->next)
        for (size_t i = 0; i < LEVEL_MEMBERS; i++)
            *member(&r->level[h], level_members[i].at) = fact_count(level, level_members[i].key);
    return 0;
}

PreferenceOptions prefer_options(const Loop *l, size_t cycle)
{
    const CycleConfig *c = l->c;
    return (PreferenceOptions){.chat = l->chat,
                               .system = c->system,
                               .demonstrations = c->demonstrations,
                               .desirable = c->desirable,
                               .undesirable = c->undesirable,
                               .balance = c->balance,
                               .seed = rng_mix(c->seed, cycle)};
}

static int build_preferences(Loop *l, Stage *s, Text *facts, Err *e)
{
    const PreferWork *w = s->work;
    char in[IO_PATH_MAX], kto[IO_PATH_MAX], dpo[IO_PATH_MAX];
    char revised[IO_PATH_MAX], feedback[IO_PATH_MAX];
    if (loop_path(l, in, s->inputs[0], e) || loop_path(l, kto, s->outputs[0], e) ||
        loop_path(l, dpo, s->outputs[1], e) ||
        loop_path(l, revised, w->revised ? w->revised : "", e) ||
        loop_path(l, feedback, FEEDBACK_FILE, e))
        return -1;
    PreferenceOptions o = prefer_options(l, s->cycle);
    if (w->revised) o.revised = revised;
    if (l->c->feedback) o.feedback = feedback;
    return cycle_preferences(in, kto, dpo, &o, w->report, e) ||
                   preferences_facts(w->report, facts, e)
               ? -1
               : 0;
}

static const StageKind preferring = {
    .event = "prefer", .told = 1, .run = build_preferences, .recall = prefer_recall};

int prefer_stage(Loop *l, size_t cycle, const char *judged, const char *revised, const char *kto,
                 const char *dpo, PreferenceReport *r, Err *e)
{
    PreferWork work = {revised, r};
    Stage s = {.kind = &preferring,
               .cycle = cycle,
               .name = "",
               .inputs = {judged},
               .outputs = {kto, dpo},
               .work = &work};
    size_t n = 1;
    if (revised) s.inputs[n++] = revised;
    if (l->c->feedback) s.inputs[n++] = FEEDBACK_FILE;
    return stage_run(l, &s, e);
}
