/* report_answers.c - shows answers before and after, the most important ones first. */
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

/* A text with its length: it may contain a byte 0, after which nothing shall be hidden. */
typedef struct {
    const char *text;
    size_t len;
} Said;

/* The answers of both policies to one prompt. */
typedef struct {
    uint64_t index;
    unsigned level;
    Action before, after;
    Said prompt, method, said_before, said_after;
} Answer;

typedef struct {
    Answer *rows;
    size_t count, cap;
} Answers;

/* Copies a value as text into the report's pool; "" if absent. */
static int keep_text(Report *r, const Json *value, Said *out, Err *e)
{
    Text t = {0};
    *out = (Said){"", 0};
    if (!value || value->type == JSON_NULL) return 0;
    int is_text = value->type == JSON_STRING, status = is_text ? 0 : json_put(&t, value, e);
    if (!status) {
        out->len = is_text ? value->len : t.len;
        out->text = pool_strndup(&r->pool, is_text ? value->text : t.data, out->len, e);
    }
    text_free(&t);
    return status || !out->text ? -1 : 0;
}

/* Two rows that should answer one prompt. */
static int read_answers(const Json *before, const Json *after, Answer *x, Err *e)
{
    JudgedRow row[2];
    uint64_t earlier;
    *x = (Answer){0};
    if (json_u64(json_get(before, "index"), &earlier) ||
        json_u64(json_get(after, "index"), &x->index) || x->index != earlier)
        return err_set(e, ERR_DATA, "\"index\" is not that of the earlier answers");
    if (judge_read_row(after, 1, &row[1], e) || judge_read_row(before, 0, &row[0], e)) return -1;
    x->level = row[1].level;
    x->before = row[0].action;
    x->after = row[1].action;
    return 0;
}

static int keep_texts(Report *r, const Json *before, const Json *after, Answer *x, Err *e)
{
    if (keep_text(r, json_get(after, "method"), &x->method, e)) return -1;
    if (r->redact) return 0;
    return keep_text(r, json_get(after, "prompt"), &x->prompt, e) ||
                   keep_text(r, json_get(before, "response"), &x->said_before, e) ||
                   keep_text(r, json_get(after, "response"), &x->said_after, e)
               ? -1
               : 0;
}

static int add_answer(Answers *a, const Answer *x, Err *e)
{
    if (a->count == a->cap) {
        size_t cap = a->cap ? 2 * a->cap : 256;
        Answer *grown = mem_realloc(a->rows, cap * sizeof *grown, e);
        if (!grown) return -1;
        a->rows = grown;
        a->cap = cap;
    }
    a->rows[a->count++] = *x;
    return 0;
}

/* Reads the next two rows, which must answer one prompt: 1, 0 at the end of both, -1. */
static int read_pair(Report *r, JsonLines lines[2], Answers *a, Err *e)
{
    Pool pool = {0};
    Json *row[2];
    Answer x;
    int status = jsonl_next(&lines[0], &pool, &row[0], e);
    int other = status < 0 ? -1 : jsonl_next(&lines[1], &pool, &row[1], e);
    if (other < 0) status = -1;
    if (status >= 0 && status != other)
        status = err_set(e, ERR_DATA, "%s:%zu: another number of rows than the earlier answers",
                         lines[1].path, lines[1].line);
    if (status > 0 && read_answers(row[0], row[1], &x, e))
        status = err_prefix(e, "%s:%zu", lines[1].path, lines[1].line);
    if (status > 0 && (keep_texts(r, row[0], row[1], &x, e) || add_answer(a, &x, e))) status = -1;
    pool_free(&pool);
    return status;
}

/* Sorts severe failures first, then other failures by their cost, then changes, then the rest. */
static int rank_of(const Answer *x)
{
    if (x->level == EVALUATE_LEVELS - 1 && x->after == ACTION_ACCEPT) return 0;
    double score = evaluate_score(x->level, x->after);
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

/* Most bytes that are shown of one text: no browser would open a page of a thousand long ones. */
enum { MOST_SHOWN = 20000 };

static void put_text(Html *h, const Said *x)
{
    size_t shown = x->len;
    if (shown > MOST_SHOWN)
        for (shown = MOST_SHOWN; (x->text[shown] & 0xC0) == 0x80; shown--) { /* whole characters */
        }
    html_put(h, "<p class=\"said\">");
    html_text(h, x->text, shown);
    if (!x->len) html_put(h, "<span class=\"soft\">(no text)</span>");
    if (shown < x->len)
        html_putf(h, "<span class=\"bad\"> (%zu more bytes stand in judged.jsonl)</span>",
                  x->len - shown);
    html_put(h, "</p>");
}

static void put_said(Html *h, const Report *r, const char *name, int action, const Said *said)
{
    html_putf(h, "<div><strong>%s</strong>: %s", name, action_names[action]);
    if (!r->redact) put_text(h, said);
    html_put(h, "</div>");
}

static void put_answer(Html *h, const Report *r, const Answer *x)
{
    int severe = rank_of(x) == 0;
    html_putf(h, "<article%s><h3>%sPrompt %llu, harm level %u", severe ? " class=\"severe\"" : "",
              severe ? "<span class=\"bad\">Severe failure.</span> " : "",
              (unsigned long long)x->index, x->level);
    if (x->method.len) html_put(h, ", ");
    html_text(h, x->method.text, x->method.len);
    html_put(h, "</h3>");
    if (!r->redact) put_text(h, &x->prompt);
    html_put(h, "<div class=\"pair\">");
    put_said(h, r, "First policy", (int)x->before, &x->said_before);
    put_said(h, r, "Last policy", (int)x->after, &x->said_after);
    html_put(h, "</div></article>\n");
}

/* Opens the two files of answers, to the test prompts or else to the validation prompts. *what says
 * which; NULL if there are none yet. */
static int open_answers(Report *r, JsonLines lines[2], char path[2][IO_PATH_MAX], const char **what,
                        Err *e)
{
    char name[RUN_NAME];
    int tested = ledger_find(&r->ledger, "judge", 0, run_tests[RUN_TEST_LAST].stage) != NULL;
    *what = tested ? "test prompts" : r->n_cycles ? "validation prompts" : NULL;
    for (size_t i = 0; i < 2 && *what; i++) {
        const char *folder =
            tested ? run_tests[i].folder : r->cycles[i ? r->n_cycles - 1 : 0].place.folder;
        run_name(name, folder, JUDGED_FILE);
        if (io_path(path[i], IO_PATH_MAX, r->dir, name, e) || jsonl_open(&lines[i], path[i], e))
            return -1;
    }
    return 0;
}

/* Writes the counts first, so that nobody takes the beginning for the whole. */
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
    int status = open_answers(r, lines, path, &what, e);
    if (!status && what)
        while ((status = read_pair(r, lines, &a, e)) > 0) {
        }
    jsonl_close(&lines[0]);
    jsonl_close(&lines[1]);
    if (!status && what) {
        sort_items(a.rows, a.count, sizeof *a.rows, compare_answers);
        put_list(h, r, &a, what);
    }
    mem_free(a.rows);
    return status;
}
