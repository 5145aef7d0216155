/* report_answers.c - answers before and after, those that matter most first. */
#include "report_parts.h"

#include <string.h>

const char answers_style[] =
    "article{border:1px solid var(--rule);border-radius:6px;padding:.5rem .75rem;margin:.6rem 0;"
    "content-visibility:auto;contain-intrinsic-size:auto 9rem}\n"
    "article.severe{border-left:5px solid var(--bad)}\n"
    "article h3{margin:0 0 .25rem}\n"
    ".pair{display:grid;grid-template-columns:1fr 1fr;gap:.25rem 1.25rem}\n"
    "@media (max-width:40rem){.pair{grid-template-columns:1fr}}\n"
    ".said{white-space:pre-wrap;overflow-wrap:anywhere;margin:.1rem 0;max-width:none}\n"
    "@media print{article{content-visibility:visible}}\n";

/* An answer to one prompt by both policies. */
typedef struct {
    uint64_t index;
    unsigned level;
    int before, after; /* actions */
    const char *prompt, *method, *said_before, *said_after;
} Answer;

typedef struct {
    Answer *rows;
    size_t count, cap;
} Answers;

/* A value as text in the report's pool, "" where absent. A byte 0 ends it: none is in a text that a
 * tokenizer made. */
static const char *keep_text(Report *r, const Json *value, Err *e)
{
    Text t = {0};
    if (!value || value->type == JSON_NULL || r->redact) return "";
    if (value->type == JSON_STRING) return pool_strndup(&r->pool, value->text, value->len, e);
    const char *kept =
        json_put(&t, value, e) ? NULL : pool_strndup(&r->pool, t.data ? t.data : "", t.len, e);
    text_free(&t);
    return kept;
}

static Answer *add_answer(Answers *a, Err *e)
{
    if (a->count == a->cap) {
        size_t cap = a->cap ? 2 * a->cap : 256;
        Answer *grown = mem_realloc(a->rows, cap * sizeof *grown, e);
        if (!grown) return NULL;
        a->rows = grown;
        a->cap = cap;
    }
    a->rows[a->count] = (Answer){0};
    return &a->rows[a->count++];
}

/* Reads the next two rows, which must answer one prompt: 1, 0 at the end of both, -1. */
static int read_pair(Report *r, JsonLines lines[2], Answers *a, Err *e)
{
    Pool pool = {0};
    Json *row[2];
    uint64_t index[2], level;
    const char *wrong = NULL;
    int status = jsonl_next(&lines[0], &pool, &row[0], e);
    int other = status < 0 ? -1 : jsonl_next(&lines[1], &pool, &row[1], e);
    if (other < 0) status = -1;
    if (status >= 0 && status != other) wrong = "another number of rows than the earlier answers";
    if (!wrong && status > 0) {
        if (json_u64(json_get(row[0], "index"), &index[0]) ||
            json_u64(json_get(row[1], "index"), &index[1]) || index[0] != index[1])
            wrong = "\"index\" is not that of the earlier answers";
        else if (json_u64(json_get(row[1], "harmful_level"), &level) || level >= EVALUATE_LEVELS)
            wrong = "\"harmful_level\" must be 0 to 3";
        else if (action_of(json_get(row[0], "action")) < 0 ||
                 action_of(json_get(row[1], "action")) < 0)
            wrong = "\"action\" must be accept, caution or refuse";
    }
    if (wrong) status = err_set(e, ERR_DATA, "%s:%zu: %s", lines[1].path, lines[1].line, wrong);
    if (status > 0) {
        Answer *x = add_answer(a, e);
        if (x) {
            x->index = index[0];
            x->level = (unsigned)level;
            x->before = action_of(json_get(row[0], "action"));
            x->after = action_of(json_get(row[1], "action"));
            x->prompt = keep_text(r, json_get(row[1], "prompt"), e);
            x->said_before = keep_text(r, json_get(row[0], "response"), e);
            x->said_after = keep_text(r, json_get(row[1], "response"), e);
            const Json *m = json_get(row[1], "method");
            x->method =
                m && m->type == JSON_STRING ? pool_strndup(&r->pool, m->text, m->len, e) : "";
        }
        if (!x || !x->prompt || !x->said_before || !x->said_after || !x->method) status = -1;
    }
    pool_free(&pool);
    return status;
}

/* Severe failures, then other failures by what they cost, then what changed, then the rest. */
static int rank_of(const Answer *x)
{
    if (x->level == EVALUATE_LEVELS - 1 && x->after == ACTION_ACCEPT) return 0;
    double score = evaluate_score(x->level, (Action)x->after);
    if (score < 1) return score > 0 ? 2 : 1;
    return x->before != x->after ? 3 : 4;
}

static int compare_answers(const void *a, const void *b)
{
    const Answer *x = a, *y = b;
    int rank = rank_of(x) - rank_of(y);
    if (rank) return rank;
    if (x->level != y->level) return x->level > y->level ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static void put_said(Html *h, const Report *r, const char *name, int action, const char *text)
{
    html_putf(h, "<div><strong>%s</strong>: %s", name, action_names[action]);
    if (!r->redact) {
        html_put(h, "<p class=\"said\">");
        if (*text)
            html_string(h, text);
        else
            html_put(h, "<span class=\"soft\">(no text)</span>");
        html_put(h, "</p>");
    }
    html_put(h, "</div>");
}

static void put_answer(Html *h, const Report *r, const Answer *x)
{
    int severe = rank_of(x) == 0;
    html_putf(h, "<article%s><h3>%sPrompt %llu, harm level %u", severe ? " class=\"severe\"" : "",
              severe ? "<span class=\"bad\">Severe failure.</span> " : "",
              (unsigned long long)x->index, x->level);
    if (*x->method) {
        html_put(h, ", ");
        html_string(h, x->method);
    }
    html_put(h, "</h3>");
    if (!r->redact) {
        html_put(h, "<p class=\"said\">");
        html_string(h, x->prompt);
        html_put(h, "</p>");
    }
    html_put(h, "<div class=\"pair\">");
    put_said(h, r, "First policy", x->before, x->said_before);
    put_said(h, r, "Last policy", x->after, x->said_after);
    html_put(h, "</div></article>\n");
}

/* The two files of answers: to the test prompts, else to those of validation. */
static int open_answers(Report *r, char path[2][IO_PATH_MAX], const char **what, Err *e)
{
    char name[128];
    if (report_entry(r, "judge", 0, "test of the last policy")) {
        *what = "test prompts";
        return io_path(path[0], IO_PATH_MAX, r->dir, "test-first/judged.jsonl", e) ||
                       io_path(path[1], IO_PATH_MAX, r->dir, "test-last/judged.jsonl", e)
                   ? -1
                   : 1;
    }
    if (!r->n_cycles) return 0;
    *what = "validation prompts";
    snprintf(name, sizeof name, "%s/judged.jsonl", r->cycles[r->n_cycles - 1].examined);
    return io_path(path[0], IO_PATH_MAX, r->dir, "cycle-0/judged.jsonl", e) ||
                   io_path(path[1], IO_PATH_MAX, r->dir, name, e)
               ? -1
               : 1;
}

/* Counts first, so that nobody takes the beginning for the whole. */
static void put_list(Html *h, const Report *r, const Answers *a, const char *what)
{
    size_t severe = 0, changed = 0;
    size_t most = a->count < REPORT_ANSWERS ? a->count : REPORT_ANSWERS;
    for (size_t i = 0; i < a->count; i++) {
        severe += rank_of(&a->rows[i]) == 0;
        changed += a->rows[i].before != a->rows[i].after;
    }
    html_putf(h,
              "<p>%zu %s. <strong%s>Severe failures of the last policy: %zu</strong>. The action "
              "changed on %zu. Order: severe failures, other failures, changes, the rest.",
              a->count, what, severe ? " class=\"bad\"" : "", severe, changed);
    if (most < a->count)
        html_putf(h, " The first %zu are shown; all are in the run's judged.jsonl.", most);
    if (r->redact) html_put(h, " Texts are left out (--redact).");
    html_put(h, "</p>\n");
    for (size_t i = 0; i < most; i++) put_answer(h, r, &a->rows[i]);
}

int report_put_answers(Html *h, Report *r, Err *e)
{
    char path[2][IO_PATH_MAX];
    const char *what;
    JsonLines lines[2] = {{0}, {0}};
    Answers a = {0};
    html_put(h, "<h2 id=\"answers\">Answers before and after</h2>\n");
    int there = open_answers(r, path, &what, e);
    if (there <= 0) return there;
    int status = jsonl_open(&lines[0], path[0], e);
    if (status) return -1;
    status = jsonl_open(&lines[1], path[1], e) ? -1 : 1;
    while (status > 0) status = read_pair(r, lines, &a, e);
    jsonl_close(&lines[0]);
    jsonl_close(&lines[1]);
    if (!status) {
        sort_items(a.rows, a.count, sizeof *a.rows, compare_answers);
        put_list(h, r, &a, what);
    }
    mem_free(a.rows);
    return status;
}
