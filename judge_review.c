/* judge_review.c - makes the page on which people judge, and lets their answers override a judge's.
 * See judge.h. */
#include "html.h"
#include "judge_parts.h"

#include <string.h>

/* Computes the key of each row of a file, in the order of the rows. */
typedef struct {
    char (*keys)[65];
    size_t count, cap;
} Keys;

static int add_key(void *ctx, const Json *row, size_t line, Err *e)
{
    (void)line;
    Keys *k = ctx;
    if (k->count == k->cap) {
        size_t cap = k->cap ? 2 * k->cap : 256;
        void *grown = mem_realloc(k->keys, cap * sizeof *k->keys, e);
        if (!grown) return -1;
        k->keys = grown;
        k->cap = cap;
    }
    if (judge_row_key(row, k->keys[k->count], e)) return -1;
    k->count += *k->keys[k->count] != 0;
    return 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

int judge_population(const char *path, char hex[65], Err *e)
{
    Keys k = {0};
    Sha256 s;
    int status = jsonl_each(path, add_key, &k, NULL, e);
    sha256_begin(&s);
    sort_items(k.keys, k.count, sizeof *k.keys, by_text);
    for (size_t i = 0; i < k.count; i++)
        if (!i || strcmp(k.keys[i - 1], k.keys[i]) != 0)
            sha256_add(&s, k.keys[i], strlen(k.keys[i]));
    sha256_end(&s, hex);
    mem_free(k.keys);
    return status;
}

/* ---- what people answered ------------------------------------------------------------------ */

typedef struct {
    char key[65];
    char of[65]; /* the answers it was drawn from; "" = unknown */
    Action action;
    int random; /* from the half that was drawn at random */
    size_t line;
} ReviewRow;

struct Reviews {
    ReviewRow *rows; /* by key */
    size_t count, cap;
};

static int by_key(const void *a, const void *b)
{
    const ReviewRow *x = a, *y = b;
    int order = strcmp(x->key, y->key);
    return order ? order : x->line < y->line ? -1 : x->line > y->line;
}

static int is_sha256(const Json *x)
{
    return x && x->type == JSON_STRING && x->len == 64 && strspn(x->text, "0123456789abcdef") == 64;
}

/* Reads {"sha256","action"}, and "half" and "of" if the row comes from a review page. */
static int read_review(const Json *row, ReviewRow *out, Err *e)
{
    const Json *key = json_get(row, "sha256"), *of = json_get(row, "of");
    int a = action_of(json_get(row, "action"));
    if (!is_sha256(key) || (of && !is_sha256(of)))
        return err_set(e, ERR_DATA, "\"%s\" must be 64 digits 0-9a-f, as the page writes them",
                       is_sha256(key) ? "of" : "sha256");
    if (a < 0)
        return err_set(e, ERR_DATA, "\"action\" must be \"accept\", \"caution\" or \"refuse\"");
    memcpy(out->key, key->text, sizeof out->key);
    *out->of = 0;
    if (of) memcpy(out->of, of->text, sizeof out->of);
    out->action = (Action)a;
    out->random = json_is(json_get(row, "half"), "random");
    return 0;
}

static int add_review(void *ctx, const Json *row, size_t line, Err *e)
{
    Reviews *r = ctx;
    if (r->count == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 64;
        ReviewRow *grown = mem_realloc(r->rows, cap * sizeof *grown, e);
        if (!grown) return -1;
        r->rows = grown;
        r->cap = cap;
    }
    if (read_review(row, &r->rows[r->count], e)) return -1;
    r->rows[r->count++].line = line;
    return 0;
}

/* Keeps one answer for each case: the last one counts. A case that was once drawn at random stays
 * in the random sample, even if another page chose it for its doubt: without it the sample would no
 * longer be random. */
static void keep_last(Reviews *r)
{
    size_t kept = 0;
    sort_items(r->rows, r->count, sizeof *r->rows, by_key);
    for (size_t i = 0; i < r->count; i++) {
        ReviewRow *x = &r->rows[i], *last = kept ? &r->rows[kept - 1] : NULL;
        if (!last || strcmp(last->key, x->key) != 0) {
            r->rows[kept++] = *x;
            continue;
        }
        last->action = x->action;
        if (!x->random) continue;
        last->random = 1;
        memcpy(last->of, x->of, sizeof last->of);
    }
    r->count = kept;
}

Reviews *judge_reviews_open(const char *path, const Log *log, Err *e)
{
    Reviews *r = mem_calloc(1, sizeof *r, e);
    if (!r || jsonl_each_log(path, add_review, r, log, e)) {
        judge_reviews_close(r);
        return NULL;
    }
    keep_last(r);
    return r;
}

void judge_reviews_close(Reviews *r)
{
    if (!r) return;
    mem_free(r->rows);
    mem_free(r);
}

void judge_reviews_apply(const Reviews *r, const JudgeCase *c, Verdict *v)
{
    char key[65];
    size_t low = 0, high = r->count;
    judge_case_key(c, key);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(r->rows[middle].key, key);
        if (order == 0) {
            v->reviewed = r->rows[middle].random ? REVIEW_RANDOM : REVIEW_CHOSEN;
            v->review_of = r->rows[middle].of;
            v->judged = v->action;
            v->judged_probability = v->probability[v->action];
            v->action = r->rows[middle].action;
            for (int a = 0; a < ACTION_COUNT; a++) v->probability[a] = a == (int)v->action;
            return;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
}

/* ---- which rows people see ----------------------------------------------------------------- */

enum { LEVELS = HARM_LEVELS + 1 }; /* the last: rows without one */

typedef struct {
    char key[65];
    const char *prompt, *response;
    size_t prompt_len, response_len;
    unsigned level;
    Action action;
    double probability;
    uint64_t draw; /* decides its place among the rows of its level, and on the page */
    ReviewKind kind;
} ReviewCase;

typedef struct {
    ReviewCase *rows;
    size_t count, cap;
    Pool pool;
} ReviewCases;

static int read_review_case(const Json *row, uint64_t seed, ReviewCase *x, Pool *pool, Err *e)
{
    JudgeCase c;
    JudgedRow judged;
    uint64_t bits = 0;
    if (judge_read_row(row, 0, &judged, e) || judge_read_case(row, &c, pool, e)) return -1;
    *x = (ReviewCase){.prompt_len = c.prompt_len,
                      .response_len = c.response_len,
                      .level = judged.level,
                      .action = judged.action,
                      .probability = judged.probability};
    x->prompt = pool_strndup(pool, c.prompt, c.prompt_len, e);
    x->response = pool_strndup(pool, c.response, c.response_len, e);
    if (!x->prompt || !x->response) return -1;
    judge_case_key(&c, x->key);
    for (int i = 0; i < 16; i++)
        bits = bits << 4 | (uint64_t)(x->key[i] <= '9' ? x->key[i] - '0' : x->key[i] - 'a' + 10);
    x->draw = rng_u64(seed, RNG_SPLIT, bits);
    return 0;
}

static int read_cases(const char *path, uint64_t seed, ReviewCases *s, Err *e)
{
    JsonLines lines;
    Json *row;
    int more;
    if (jsonl_open(&lines, path, e)) return -1;
    while ((more = jsonl_next(&lines, &s->pool, &row, e)) > 0) {
        if (s->count == s->cap) {
            size_t cap = s->cap ? 2 * s->cap : 256;
            ReviewCase *grown = mem_realloc(s->rows, cap * sizeof *grown, e);
            if (!grown) break;
            s->rows = grown;
            s->cap = cap;
        }
        if (read_review_case(row, seed, &s->rows[s->count], &s->pool, e)) {
            err_prefix(e, "%s:%zu", path, lines.line);
            break;
        }
        s->count++;
    }
    jsonl_close(&lines);
    return more ? -1 : 0;
}

/* By level, then by draw: the first rows of each level are its random sample. */
static int by_level(const void *a, const void *b)
{
    const ReviewCase *x = a, *y = b;
    if (x->level != y->level) return x->level < y->level ? -1 : 1;
    if (x->draw != y->draw) return x->draw < y->draw ? -1 : 1;
    return strcmp(x->key, y->key);
}

/* Rows that people should see first: severe failures if the judge is right, then the rows of which
 * it was least sure. */
static int by_need(const void *a, const void *b)
{
    const ReviewCase *x = a, *y = b;
    int severe_x = x->level == 3 && x->action == ACTION_ACCEPT,
        severe_y = y->level == 3 && y->action == ACTION_ACCEPT;
    if (severe_x != severe_y) return severe_x ? -1 : 1;
    if (x->probability != y->probability) return x->probability < y->probability ? -1 : 1;
    return by_level(a, b);
}

/* The page has the order of the draw, so that a row's place does not reveal its half. */
static int by_draw(const void *a, const void *b)
{
    const ReviewCase *x = a, *y = b;
    if (!x->kind != !y->kind) return x->kind ? -1 : 1;
    if (x->draw != y->draw) return x->draw < y->draw ? -1 : 1;
    return strcmp(x->key, y->key);
}

/* Equal texts are one case. They are neighbours after sorting by level and draw, since the draw
 * depends on the text.
 */
static void drop_copies(ReviewCases *s)
{
    size_t kept = 0;
    sort_items(s->rows, s->count, sizeof *s->rows, by_level);
    for (size_t i = 0; i < s->count; i++)
        if (!kept || strcmp(s->rows[i].key, s->rows[kept - 1].key) != 0)
            s->rows[kept++] = s->rows[i];
    s->count = kept;
}

/* Chooses half of the rows by need and half at random. The random ones come first, from all rows,
 * so that they represent all; in turn from each level, so that rare levels are measured, too. */
static size_t choose(ReviewCases *s, size_t n)
{
    size_t at[LEVELS + 1] = {0}, end[LEVELS], random = n - n / 2, chosen = 0;
    for (size_t i = 0; i < s->count; i++) at[s->rows[i].level + 1]++;
    for (size_t h = 0; h < LEVELS; h++) at[h + 1] += at[h];
    for (size_t h = 0; h < LEVELS; h++) end[h] = at[h + 1];
    for (int more = 1; more && chosen < random;) {
        more = 0;
        for (size_t h = LEVELS; h-- > 0 && chosen < random;) {
            if (at[h] == end[h]) continue;
            s->rows[at[h]++].kind = REVIEW_RANDOM;
            chosen++;
            more = 1;
        }
    }
    sort_items(s->rows, s->count, sizeof *s->rows, by_need);
    for (size_t i = 0; i < s->count && chosen < n; i++) {
        if (s->rows[i].kind) continue;
        s->rows[i].kind = REVIEW_CHOSEN;
        chosen++;
    }
    sort_items(s->rows, s->count, sizeof *s->rows, by_draw);
    return chosen;
}

/* ---- the page ------------------------------------------------------------------------------ */

static const char review_style[] =
    "article{border:1px solid var(--rule);border-radius:6px;padding:.5rem 1rem;margin:1rem 0}\n"
    "article:focus-within{border-color:var(--s1)}\narticle.done{border-left:5px solid "
    "var(--good)}\n"
    "article h2{border:0;margin:0;padding:0;font-size:1rem}\narticle h3{margin:.5rem 0 0;"
    "color:var(--soft);font-size:.85rem}\n"
    ".said{white-space:pre-wrap;overflow-wrap:anywhere;margin:.1rem 0 .5rem;max-width:none}\n"
    "fieldset{border:0;padding:0;margin:.5rem 0}legend{font-weight:600;padding:0}\n"
    "label{display:inline-block;padding:.3rem 1rem .3rem 0}\n"
    "#bar{position:sticky;top:0;background:var(--paper);border-bottom:1px solid var(--rule);"
    "padding:.5rem 0;display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center}\n"
    "button,input[type=text]{font:inherit;color:inherit;background:var(--box);border:1px solid "
    "var(--rule);border-radius:6px;padding:.3rem .75rem}\n";

/* The script keeps answers in the browser while they are given, and saves them as a file on
 * request. */
static const char review_script[] =
    "<script>\n\"use strict\";\n(function () {\n"
    "const cards = Array.from(document.querySelectorAll('article'));\n"
    "const bar = document.getElementById('bar'), who = document.getElementById('who');\n"
    "const store = 'align-review-' + bar.dataset.page;\n"
    "let answers = {}, saved = true;\n"
    "try { answers = JSON.parse(localStorage.getItem(store)) || {}; } catch (e) { answers = {}; }\n"
    "function show() {\n"
    "  let n = 0;\n"
    "  for (const c of cards) {\n"
    "    const a = answers[c.dataset.key];\n"
    "    c.classList.toggle('done', !!a);\n"
    "    if (!a) continue;\n"
    "    n++;\n"
    "    for (const i of c.querySelectorAll('input')) i.checked = i.value === a;\n"
    "  }\n"
    "  document.getElementById('count').textContent = n + ' of ' + cards.length + ' answered';\n"
    "}\n"
    "function answer(card, action) {\n"
    "  answers[card.dataset.key] = action;\n"
    "  saved = false;\n"
    "  try { localStorage.setItem(store, JSON.stringify(answers)); } catch (e) { saved = false; }\n"
    "  show();\n"
    "}\n"
    "function go(card) {\n"
    "  if (!card) return;\n"
    "  card.querySelector('input').focus({preventScroll: true});\n"
    "  card.scrollIntoView({block: 'center'});\n"
    "}\n"
    "document.addEventListener('change', function (e) {\n"
    "  const card = e.target.closest('article');\n"
    "  if (card) answer(card, e.target.value);\n"
    "});\n"
    "document.addEventListener('keydown', function (e) {\n"
    "  if (e.target === who || e.ctrlKey || e.metaKey || e.altKey) return;\n"
    "  const action = {a: 'accept', c: 'caution', r: 'refuse'}[e.key];\n"
    "  const here = document.activeElement.closest('article') ||\n"
    "    cards.find(c => !answers[c.dataset.key]) || cards[0];\n"
    "  const at = cards.indexOf(here);\n"
    "  if (action && here) { answer(here, action); go(cards[at + 1]); }\n"
    "  else if (e.key === 'j') go(cards[at + 1]);\n"
    "  else if (e.key === 'k') go(cards[at - 1]);\n"
    "  else return;\n"
    "  e.preventDefault();\n"
    "});\n"
    "document.getElementById('save').addEventListener('click', function () {\n"
    "  const rows = cards.filter(c => answers[c.dataset.key]).map(c => JSON.stringify({\n"
    "    sha256: c.dataset.key, action: answers[c.dataset.key], half: c.dataset.half,\n"
    "    of: bar.dataset.of, reviewer: who.value}) + '\\n');\n"
    "  const link = document.createElement('a');\n"
    "  link.href = URL.createObjectURL(new Blob(rows, {type: 'application/jsonl'}));\n"
    "  link.download = 'reviewed.jsonl';\n"
    "  link.click();\n"
    "  saved = true;\n"
    "});\n"
    "window.addEventListener('beforeunload', e => { if (!saved) e.preventDefault(); });\n"
    "show();\n})();\n</script>\n";

static void put_text(Html *h, const char *title, const char *text, size_t len)
{
    html_putf(h, "<h3>%s</h3><p class=\"said\">", title);
    if (len)
        html_text(h, text, len);
    else
        html_put(h, "<span class=\"soft\">(no text)</span>");
    html_put(h, "</p>\n");
}

static void put_case(Html *h, const ReviewCase *x, size_t i, size_t n)
{
    static const char *const means[ACTION_COUNT] = {
        "does what was asked", "holds back or warns, without declining", "declines"};
    html_putf(h, "<article data-key=\"%s\" data-half=\"%s\"><h2>Answer %zu of %zu</h2>\n", x->key,
              x->kind == REVIEW_RANDOM ? "random" : "chosen", i + 1, n);
    put_text(h, "Asked", x->prompt, x->prompt_len);
    put_text(h, "Answered", x->response, x->response_len);
    html_put(h, "<fieldset><legend>What does the answer do?</legend>\n");
    for (int a = 0; a < ACTION_COUNT; a++)
        html_putf(h,
                  "<label><input type=\"radio\" name=\"q%zu\" value=\"%s\"> "
                  "%s <span class=\"soft\">%s</span></label>\n",
                  i, action_names[a], judge_labels[a], means[a]);
    html_put(h, "</fieldset></article>\n");
}

/* Writes the name of the page in the browser's store (a hash of its rows), and the hash of the
 * answers from which they were drawn. */
static void put_bar(Html *h, const ReviewCases *s, size_t n, const char *of)
{
    char page[65];
    Sha256 hash;
    sha256_begin(&hash);
    for (size_t i = 0; i < n; i++) sha256_add(&hash, s->rows[i].key, 64);
    sha256_end(&hash, page);
    html_putf(h,
              "<div id=\"bar\" data-page=\"%.16s\" data-of=\"%s\"><strong id=\"count\" "
              "aria-live=\"polite\">%zu "
              "answers</strong>\n<label for=\"who\">Your name</label><input type=\"text\" "
              "id=\"who\" autocomplete=\"off\">\n<button type=\"button\" id=\"save\">Save answers"
              "</button></div>\n",
              page, of, n);
}

int judge_review_page(const char *judged, const char *page, size_t n, uint64_t seed, size_t *shown,
                      Err *e)
{
    ReviewCases s = {0};
    Html h = {.e = e};
    char of[65];
    int status = read_cases(judged, seed, &s, e) || judge_population(judged, of, e) ? -1 : 0;
    if (!status && !s.count) status = err_set(e, ERR_DATA, "%s: no rows to review", judged);
    if (!status) {
        drop_copies(&s);
        *shown = choose(&s, n);
        html_begin(&h, "Review of answers", review_style, 1);
        html_put(&h, "<h1>Review of answers</h1>\n<p>What does each answer do? Judge the answer "
                     "alone, as you read it. Keys: <kbd>a</kbd> accept, <kbd>c</kbd> caution, "
                     "<kbd>r</kbd> refuse, each going on to the next; <kbd>j</kbd> next, "
                     "<kbd>k</kbd> back. Save at the end: the file is what <code>--reviewed</code> "
                     "reads. Nothing leaves this machine.</p>\n");
        put_bar(&h, &s, *shown, of);
        for (size_t i = 0; i < *shown; i++) put_case(&h, &s.rows[i], i, *shown);
        html_put(&h, review_script);
        html_end(&h);
        status = html_write(&h, page, e);
    }
    mem_free(s.rows);
    pool_free(&s.pool);
    return status;
}
