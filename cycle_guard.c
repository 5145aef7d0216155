/* cycle_guard.c - the guard of competence: checks that a policy still knows what its parent knew.
 *
 * A file of questions with known answers is scored by log-probs under parent and candidate, and the
 * two are compared question by question. No text is generated, so nothing is parsed or judged.
 */
#include "cycle_parts.h"
#include "maths.h"
#include "score.h"

#include <string.h>

const char *const guard_kind_names[GUARD_KINDS] = {"choices", "answers"};

/* ---- questions to rows --------------------------------------------------------------------- */

typedef struct {
    Writer out;
    Text line;
    int chat;
    const char *system;
    size_t question; /* from 0 */
    size_t *counts;  /* [GUARD_KINDS] */
    UnreadNames unread;
} GuardRows;

/* Writes the text that continues a plain prompt, with a space between unless there is one. */
static int put_continuation(Text *t, const Json *prompt, const Json *answer, int chat, Err *e)
{
    Text spaced = {0};
    int apart = chat || !prompt->len || prompt->text[prompt->len - 1] <= ' ' || !answer->len ||
                (unsigned char)*answer->text <= ' ';
    int status = text_addf(&spaced, e, "%s", apart ? "" : " ") ||
                 text_add(&spaced, answer->text, answer->len, e);
    Json whole = {.type = JSON_STRING, .text = spaced.data, .len = spaced.len};
    if (!status) status = preference_put_answer(t, "completion", &whole, chat, e);
    text_free(&spaced);
    return status ? -1 : 0;
}

/* Writes one row: a choice (right or wrong), or the reference answer (choice < 0). */
static int write_row(GuardRows *g, const Json *prompt, const Json *answer, long choice, int right,
                     Err *e)
{
    Text *t = &g->line;
    t->len = 0;
    if (preference_put_prompt(t, g->chat, g->system, prompt, e) ||
        put_continuation(t, prompt, answer, g->chat, e) ||
        text_addf(t, e, "\"question\":%zu,\"bytes\":%zu,", g->question, answer->len))
        return -1;
    int status = choice < 0 ? text_addf(t, e, "\"choice\":null}\n")
                            : text_addf(t, e, "\"choice\":%ld,\"right\":%s}\n", choice,
                                        right ? "true" : "false");
    return status || writer_put(&g->out, t->data, t->len, e) ? -1 : 0;
}

/* Writes a multiple-choice question: each choice becomes a row. */
static int write_choices(GuardRows *g, const Json *row, const Json *prompt, Err *e)
{
    const Json *choices = json_get(row, "choices"), *answer = json_get(row, "answer");
    uint64_t right = 0;
    char allowed[64];
    if (choices->type != JSON_ARRAY || choices->len < 2)
        return data_refuse(row, "choices", "a list of two texts or more", e);
    snprintf(allowed, sizeof allowed, "the place of the right choice, 0 to %zu", choices->len - 1);
    if (json_u64(answer, &right) || right >= choices->len)
        return data_refuse(row, "answer", allowed, e);
    long at = 0;
    for (const Json *c = choices->child; c; c = c->next, at++) {
        if (c->type != JSON_STRING || !c->len)
            return err_set(e, ERR_DATA, "\"choices\" must hold texts; choice %ld is none", at);
        if (write_row(g, prompt, c, at, (uint64_t)at == right, e)) return -1;
    }
    return 0;
}

static int write_question(void *ctx, const Json *row, size_t line, Err *e)
{
    GuardRows *g = ctx;
    const Json *prompt = json_get(row, "question"), *choices = json_get(row, "choices"),
               *answer = json_get(row, "answer");
    const char *const reads[] = {prompt ? "question" : "prompt", "choices", "answer", NULL};
    if (unread_row(&g->unread, row, reads, 0, line, e)) return -1;
    if (!prompt) prompt = json_get(row, "prompt");
    if (!prompt || prompt->type != JSON_STRING)
        return data_refuse(row, "question", "a text", e);
    if (choices) {
        g->counts[GUARD_CHOICES]++;
        if (write_choices(g, row, prompt, e)) return -1;
        g->question++;
        return 0;
    }
    if (!answer || answer->type != JSON_STRING || !answer->len)
        return data_refuse(row, "answer", "a text where there are no \"choices\"", e);
    g->counts[GUARD_ANSWERS]++;
    if (write_row(g, prompt, answer, -1, 1, e)) return -1;
    g->question++;
    return 0;
}

int cycle_guard_rows(const char *in, const char *out, int chat, const char *system,
                     size_t counts[GUARD_KINDS], const Log *log, Err *e)
{
    GuardRows g = {.chat = chat, .system = system, .counts = counts};
    memset(counts, 0, GUARD_KINDS * sizeof *counts);
    int status = writer_open(&g.out, out, e) || jsonl_each(in, write_question, &g, NULL, e);
    if (!status && !g.question) status = err_set(e, ERR_DATA, "%s: holds no questions", in);
    if (!status) status = writer_commit(&g.out, e);
    writer_abort(&g.out);
    text_free(&g.line);
    if (!status) unread_tell(&g.unread, in, "", log);
    unread_free(&g.unread);
    return status ? -1 : 0;
}

/* ---- scoring ------------------------------------------------------------------------------- */

/* The question whose rows are being read. */
typedef struct {
    const Dataset *data;
    Writer out;
    Text logps;
    uint64_t question;
    int open, right_now; /* whether a question is open; whether its best choice so far is right */
    double best, score;  /* best: log-prob a byte; score: of a reference answer */
    GuardKind kind;
} Scoring;

static int end_question(Scoring *s, Err *e)
{
    if (!s->open) return 0;
    if (s->kind == GUARD_CHOICES) s->score = s->right_now;
    Text line = {0};
    int status = text_addf(&line, e, "{\"question\":%llu,\"kind\":\"%s\",\"score\":",
                           (unsigned long long)s->question, guard_kind_names[s->kind]) ||
                 json_put_f64(&line, s->score, e) ||
                 text_addf(&line, e, ",\"logps\":[%s]}\n", s->logps.data) ||
                 writer_put(&s->out, line.data, line.len, e);
    text_free(&line);
    s->open = 0;
    s->logps.len = 0;
    return status ? -1 : 0;
}

/* Takes in the rows of a question one after another. A choice replaces the best so far if its
 * log-prob per byte is higher (if equal, the earlier one stays). */
static int take_score(void *ctx, const Score *x, Err *e)
{
    Scoring *s = ctx;
    const Json *row = s->data->rows[x->row].source, *choice = json_get(row, "choice");
    uint64_t question = 0, bytes = 1;
    if (score_check(x, s->data->rows[x->row].line, e)) return err_prefix(e, "--guard");
    json_u64(json_get(row, "question"), &question);
    json_u64(json_get(row, "bytes"), &bytes);
    if (s->open && question != s->question && end_question(s, e)) return -1;
    int first = !s->open;
    s->open = 1;
    s->question = question;
    if (choice && choice->type != JSON_NULL) {
        double each = x->sum / (double)bytes;
        const Json *right = json_get(row, "right");
        s->kind = GUARD_CHOICES;
        if (first || each > s->best) {
            s->best = each;
            s->right_now = right && right->type == JSON_TRUE;
        }
    } else {
        s->kind = GUARD_ANSWERS;
        s->score = maths_exp(x->sum / (double)(x->n - x->skipped));
    }
    return (!first && text_add(&s->logps, ",", 1, e)) || json_put_f64(&s->logps, x->sum, e) ? -1
                                                                                            : 0;
}

/* Checks that every question is complete. */
static int check_lengths(const Dataset *d, size_t context, Err *e)
{
    for (size_t i = 0; i < d->count; i++) {
        const Row *r = &d->rows[i];
        uint64_t question = 0;
        if (r->n_prompt + r->n_completion[0] <= context && r->n_completion[0]) continue;
        json_u64(json_get(r->source, "question"), &question);
        return err_set(e, ERR_DATA,
                       "--guard: question %llu has %zu tokens with its answer; from 1 beyond the "
                       "prompt up to %zu together are possible; shorten it or leave it out",
                       (unsigned long long)question, r->n_prompt + r->n_completion[0], context);
    }
    return 0;
}

int guard_score(const Loop *l, Engine *p, const char *in, const char *out, Err *e)
{
    Dataset data;
    const DataOptions rows = {.kind = DATA_COMPLETION,
                              .keep_empty = 1,
                              .chat_template = l->c->chat_template,
                              .date = cycle_day(l->c)};
    if (data_load(&data, in, &rows, p->tokenizer, &l->events->log, e)) return -1;
    Scoring s = {.data = &data};
    int status = check_lengths(&data, p->model.config.max_positions, e) ||
                 writer_open(&s.out, out, e) ||
                 score_rows(&p->model, p->adapter, &p->compute, data.rows,
                            data.count, 1, 0, take_score, &s, e) ||
                 end_question(&s, e) || model_check_hash(&p->model, l->model_sha256, e) ||
                 writer_commit(&s.out, e);
    writer_abort(&s.out);
    text_free(&s.logps);
    data_close(&data);
    return status ? -1 : 0;
}

/* ---- comparing ----------------------------------------------------------------------------- */

/* The scores of one kind, in the order of the file. */
typedef struct {
    double *x;
    size_t n, cap;
} Scores;

/* Adds a line of scores to those of its kind; ctx is Scores [GUARD_KINDS]. */
static int add_score(void *ctx, const Json *row, size_t line, Err *e)
{
    int answer = json_is(json_get(row, "kind"), guard_kind_names[GUARD_ANSWERS]);
    Scores *s = (Scores *)ctx + (answer ? GUARD_ANSWERS : GUARD_CHOICES);
    double x;
    (void)line;
    if (json_f64(json_get(row, "score"), &x))
        return err_set(e, ERR_DATA,
                       "\"score\" must be a number: the model gave none to this question");
    if (mem_grow(&s->x, &s->cap, s->n, sizeof *s->x, e)) return -1;
    s->x[s->n++] = x;
    return 0;
}

int cycle_guard_compare(const char *before, const char *after, uint64_t seed, size_t resamples,
                        double confidence, GuardResult *r, Err *e)
{
    Scores a[GUARD_KINDS] = {{0}}, b[GUARD_KINDS] = {{0}};
    int status =
        jsonl_each(before, add_score, a, NULL, e) || jsonl_each(after, add_score, b, NULL, e);
    for (int k = 0; k < GUARD_KINDS; k++) {
        if (!status && a[k].n != b[k].n)
            status = err_set(e, ERR_DATA, "%s and %s: %zu and %zu scores of questions with %s",
                             before, after, a[k].n, b[k].n, guard_kind_names[k]);
        r->rows[k] = b[k].n;
        if (!status)
            status = evaluate_means(&r->change[k], a[k].x, b[k].x, b[k].n, seed, resamples,
                                    confidence, e);
    }
    for (int k = 0; k < GUARD_KINDS; k++) {
        mem_free(a[k].x);
        mem_free(b[k].x);
    }
    return status ? -1 : 0;
}

/* ---- the stages ---------------------------------------------------------------------------- */

static int write_questions(Loop *l, Stage *s, Text *facts, Err *e)
{
    char path[IO_PATH_MAX], source[65];
    size_t counts[GUARD_KINDS];
    return loop_path(l, path, s->outputs[0], e) || sha256_file(l->c->guard, source, e) ||
                   cycle_guard_rows(l->c->guard, path, l->chat, l->c->system, counts,
                                    &l->events->log, e) ||
                   text_addf(facts, e,
                             "{\"source_sha256\":\"%s\",\"choices\":%zu,\"answers\":%zu}", source,
                             counts[GUARD_CHOICES], counts[GUARD_ANSWERS])
               ? -1
               : 0;
}

static const StageKind questioning = {.event = "guard", .run = write_questions};

int guard_questions_stage(Loop *l, Err *e)
{
    Stage s = {.kind = &questioning, .name = "questions", .outputs = {GUARD_FILE}};
    return l->c->guard ? stage_run(l, &s, e) : 0;
}

static int scores_key(const Loop *l, const Stage *s, Text *key, Err *e)
{
    return text_addf(key, e, "guard\n") || share_key_file(l, key, s->inputs[0], e) ||
                   share_key_adapter(l, key, s->work, e)
               ? -1
               : 0;
}

static int score_policy(Loop *l, Stage *s, Text *facts, Err *e)
{
    (void)facts;
    char in[IO_PATH_MAX], out[IO_PATH_MAX];
    Engine p = {0};
    int status = loop_path(l, in, s->inputs[0], e) || loop_path(l, out, s->outputs[0], e) ||
                 policy_open(l, s->work, NULL, &p, e) ||
                 guard_score(l, &p, in, out, e);
    engine_close(&p);
    return status ? -1 : 0;
}

static const StageKind scoring = {
    .event = "guard", .told = 1, .run = score_policy, .key = scores_key};

int guard_stage(Loop *l, size_t cycle, const RunPlace *place, const AdapterAt *adapter, Err *e)
{
    char file[RUN_NAME];
    run_name(file, place->folder, GUARD_FILE);
    Stage s = {.kind = &scoring,
               .cycle = cycle,
               .name = place->stage,
               .inputs = {GUARD_FILE},
               .outputs = {file},
               .work = adapter};
    return l->c->guard ? stage_run(l, &s, e) : 0;
}

int guard_compare_folders(const Loop *l, const char *before, const char *after, GuardResult *r,
                          Err *e)
{
    char name[RUN_NAME], a[IO_PATH_MAX], b[IO_PATH_MAX];
    run_name(name, before, GUARD_FILE);
    if (loop_path(l, a, name, e)) return -1;
    run_name(name, after, GUARD_FILE);
    if (loop_path(l, b, name, e)) return -1;
    return cycle_guard_compare(a, b, l->c->seed, l->c->resamples, l->c->confidence, r, e);
}

int guard_json(const GuardResult *r, Text *t, Err *e)
{
    JsonWriter w = {.text = t, .e = e};
    for (int k = 0; k < GUARD_KINDS; k++) {
        json_open(&w, guard_kind_names[k], "{");
        json_count(&w, "rows", r->rows[k]);
        json_key(&w, "change");
        json_took(&w, evaluate_change_json(&r->change[k], t, e));
        json_close(&w, "}");
    }
    return json_written(&w);
}
