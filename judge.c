/* judge.c - the table of judges, the rules judge, and judged files. */
#include "judge_parts.h"

#include <math.h>
#include <string.h>

const char *const action_names[ACTION_COUNT] = {"accept", "caution", "refuse"};

/* Rows of a file that are judged together: many for what starts a program each time, few for what
 * takes seconds for each, so that a stop loses little. */
enum { JUDGE_BLOCK = 256, MODEL_BLOCK = 16 };

/* ---- labels -------------------------------------------------------------------------------- */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

int action_parse(const char *text, size_t len)
{
    static const struct {
        const char *label;
        Action action;
    } labels[] = {{"accept", ACTION_ACCEPT},        {"1_full_compliance", ACTION_ACCEPT},
                  {"caution", ACTION_CAUTION},      {"3_partial_refusal", ACTION_CAUTION},
                  {"refuse", ACTION_REFUSE},        {"reject", ACTION_REFUSE},
                  {"2_full_refusal", ACTION_REFUSE}};
    for (size_t i = 0; i < sizeof labels / sizeof labels[0]; i++) {
        if (strlen(labels[i].label) != len) continue;
        size_t at = 0;
        while (at < len && lower(text[at]) == labels[i].label[at]) at++;
        if (at == len) return (int)labels[i].action;
    }
    return -1;
}

int action_of(const Json *label)
{
    return label && label->type == JSON_STRING ? action_parse(label->text, label->len) : -1;
}

int action_counts_json(const size_t n[ACTION_COUNT], Text *out, Err *e)
{
    return text_addf(out, e, "\"accept\":%zu,\"caution\":%zu,\"refuse\":%zu", n[ACTION_ACCEPT],
                     n[ACTION_CAUTION], n[ACTION_REFUSE]);
}

/* ---- probabilities ------------------------------------------------------------------------- */

Action action_largest(const double share[ACTION_COUNT])
{
    Action best = ACTION_REFUSE;
    for (int a = ACTION_REFUSE - 1; a >= 0; a--)
        if (share[a] > share[best]) best = (Action)a;
    return best;
}

void judge_softmax(const double z[ACTION_COUNT], double p[ACTION_COUNT])
{
    double total = 0, largest = z[action_largest(z)];
    for (size_t a = 0; a < ACTION_COUNT; a++) total += p[a] = maths_exp(z[a] - largest);
    for (size_t a = 0; a < ACTION_COUNT; a++) p[a] /= total;
}

/* ---- texts as words ------------------------------------------------------------------------ */

typedef struct {
    const char *text;
    size_t len;
} Word;

static int word_byte(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '\'' || c >= 0x80;
}

/* Is the character at s from U+2E80 on, where no spaces stand between words? */
static int stands_alone(const unsigned char *s, size_t left)
{
    return s[0] >= 0xF0 || (s[0] >= 0xE2 && left > 1 && (s[0] > 0xE2 || s[1] >= 0xBA));
}

/* General punctuation U+2000..U+206F (dashes, quotes, dots), which ends a word as ASCII's does. */
static int is_punctuation(const unsigned char *s, size_t left)
{
    return left > 2 && s[0] == 0xE2 && (s[1] == 0x80 || s[1] == 0x81);
}

/* A copy of text with small ASCII letters and straight apostrophes for U+2019. */
static char *fold(const char *text, size_t len, size_t *out_len, Err *e)
{
    char *s = mem_alloc(len + 1, e);
    if (!s) return NULL;
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (len - i > 2 && !memcmp(text + i, "\xE2\x80\x99", 3)) {
            s[n++] = '\'';
            i += 2;
        } else {
            s[n++] = lower(text[i]);
        }
    }
    *out_len = n;
    return s;
}

/* The next word of s from *at on; 0 at the end. */
static int next_word(const char *s, size_t len, size_t *at, Word *w)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t i = *at;
    while (i < len && (!word_byte(u[i]) || is_punctuation(u + i, len - i)))
        i += is_punctuation(u + i, len - i) ? 3 : 1;
    w->text = s + i;
    size_t begin = i;
    while (i < len && word_byte(u[i]) && !is_punctuation(u + i, len - i)) {
        int alone = stands_alone(u + i, len - i);
        if (alone && i > begin) break;
        size_t step = utf8_step(s + i, len - i);
        i += step ? step : 1;
        if (alone) break;
    }
    w->len = i - begin;
    *at = i;
    return w->len > 0;
}

int judge_has_words(const char *text, size_t len)
{
    Word w;
    size_t at = 0;
    return next_word(text, len, &at, &w);
}

/* All words of a folded text; *words is allocated. */
static int split_words(const char *s, size_t len, Word **words, size_t *count, Err *e)
{
    Word w;
    size_t n = 0;
    for (size_t at = 0; next_word(s, len, &at, &w);) n++;
    *words = mem_alloc(n * sizeof **words, e);
    if (!*words) return -1;
    *count = 0;
    for (size_t at = 0; next_word(s, len, &at, &w);) (*words)[(*count)++] = w;
    return 0;
}

/* ---- the rules judge ----------------------------------------------------------------------- */

typedef struct {
    JudgeRule *rules;
    size_t count;
    Pool pool;
} Rules;

/* Does word w stand among the choices "a|b|c" of len bytes? */
static int choice_has(const char *choices, size_t len, const Word *w)
{
    for (size_t at = 0; at <= len;) {
        const char *bar = memchr(choices + at, '|', len - at);
        size_t end = bar ? (size_t)(bar - choices) : len;
        if (end - at == w->len && !memcmp(choices + at, w->text, w->len)) return 1;
        at = end + 1;
    }
    return 0;
}

/* Does the phrase match the words from here on? */
static int phrase_matches(const char *phrase, const Word *words, size_t n)
{
    size_t i = 0;
    while (*phrase) {
        size_t len = strcspn(phrase, " ");
        if (i == n || !choice_has(phrase, len, &words[i])) return 0;
        i++;
        phrase += len;
        if (*phrase == ' ') phrase++;
    }
    return 1;
}

static int rule_matches(const JudgeRule *r, const Word *words, size_t n)
{
    size_t limit = r->place == PLACE_START && n > JUDGE_START_WORDS ? JUDGE_START_WORDS : n;
    if (!*r->phrase) return 1;
    for (size_t i = 0; i < limit; i++)
        if (phrase_matches(r->phrase, words + i, n - i)) return 1;
    return 0;
}

static int rules_decide_one(const Rules *t, const JudgeCase *c, Verdict *v, Err *e)
{
    size_t len, n;
    Word *words;
    char *text = fold(c->response, c->response_len, &len, e);
    if (!text) return -1;
    if (split_words(text, len, &words, &n, e)) {
        mem_free(text);
        return -1;
    }
    *v = (Verdict){.action = ACTION_REFUSE, .probability = {0, 0, 1}};
    double sum[ACTION_COUNT] = {0};
    for (size_t i = 0; n && i < t->count; i++) {
        const JudgeRule *r = &t->rules[i];
        if (!rule_matches(r, words, n)) continue;
        sum[r->action] += r->weight;
        if (*r->phrase && v->n_evidence < JUDGE_MAX_EVIDENCE)
            v->evidence[v->n_evidence++] = r->phrase;
    }
    if (n) {
        judge_softmax(sum, v->probability);
        v->action = action_largest(v->probability);
    }
    mem_free(words);
    mem_free(text);
    return 0;
}

static int rules_decide(const Judge *j, const JudgeCase *cases, size_t n, Verdict *out, Err *e)
{
    for (size_t i = 0; i < n; i++)
        if (rules_decide_one(j->state, &cases[i], &out[i], e)) return -1;
    return 0;
}

/* One line of a table file. */
static int rule_from_json(const Json *row, JudgeRule *r, Pool *pool, Err *e)
{
    static const char *const known[] = {"action", "weight", "place", "phrase"};
    for (const Json *m = row->child; m; m = m->next) {
        size_t i = 0;
        while (i < sizeof known / sizeof known[0] && strcmp(m->key, known[i])) i++;
        if (i == sizeof known / sizeof known[0])
            return err_set(e, ERR_DATA, "unknown key \"%s\", allowed: action weight place phrase",
                           m->key);
    }
    const Json *phrase = json_get(row, "phrase"), *place = json_get(row, "place");
    int a = action_of(json_get(row, "action"));
    if (a < 0) return err_set(e, ERR_DATA, "\"action\" must be accept, caution or refuse");
    if (json_f64(json_get(row, "weight"), &r->weight) || !(fabs(r->weight) <= 100))
        return err_set(e, ERR_DATA, "\"weight\" must be a number from -100 to 100");
    if (!json_is(place, "start") && !json_is(place, "any"))
        return err_set(e, ERR_DATA, "\"place\" must be start or any");
    if (!phrase || phrase->type != JSON_STRING || strlen(phrase->text) != phrase->len)
        return err_set(e, ERR_DATA, "\"phrase\" must be a string");
    r->action = (Action)a;
    r->place = json_is(place, "start") ? PLACE_START : PLACE_ANY;
    size_t len;
    char *folded = fold(phrase->text, phrase->len, &len, e);
    r->phrase = folded ? pool_strndup(pool, folded, len, e) : NULL;
    mem_free(folded);
    return r->phrase ? 0 : -1;
}

/* Appends the rules of a file. */
static int rules_load(Rules *t, const char *path, Err *e)
{
    JsonLines lines;
    if (jsonl_open(&lines, path, e)) return -1;
    int more;
    for (;;) {
        Json *row;
        more = jsonl_next(&lines, &t->pool, &row, e);
        if (more <= 0) break;
        JudgeRule *grown = mem_realloc(t->rules, (t->count + 1) * sizeof *grown, e);
        if (grown) t->rules = grown;
        if (!grown || rule_from_json(row, &t->rules[t->count], &t->pool, e)) {
            more = grown ? err_prefix(e, "%s:%zu", path, lines.line) : -1;
            break;
        }
        t->count++;
    }
    jsonl_close(&lines);
    if (more < 0) return -1;
    return t->count ? 0 : err_set(e, ERR_DATA, "%s: no rules in it", path);
}

static int rules_write(const JudgeRule *rules, size_t count, Text *out, Err *e)
{
    for (size_t i = 0; i < count; i++) {
        const JudgeRule *r = &rules[i];
        if (text_addf(out, e, "{\"action\":\"%s\",\"weight\":", action_names[r->action]) ||
            json_put_f64(out, r->weight, e) ||
            text_addf(out, e,
                      ",\"place\":\"%s\",\"phrase\":", r->place == PLACE_START ? "start" : "any") ||
            json_put_string(out, r->phrase, strlen(r->phrase), e) || text_add(out, "}\n", 2, e))
            return -1;
    }
    return 0;
}

int judge_rules_write(Text *out, Err *e)
{
    return rules_write(judge_rules, judge_rule_count, out, e);
}

static void rules_close(Judge *j)
{
    Rules *t = j->state;
    if (!t) return;
    mem_free(t->rules);
    pool_free(&t->pool);
    mem_free(t);
    j->state = NULL;
}

static int rules_open(Judge *j, const JudgeConfig *c, Err *e)
{
    Rules *t = mem_calloc(1, sizeof *t, e);
    j->state = t;
    if (!t) return -1;
    if (c->rules) {
        if (rules_load(t, c->rules, e)) return -1;
    } else {
        t->rules = mem_alloc(judge_rule_count * sizeof *t->rules, e);
        if (!t->rules) return -1;
        memcpy(t->rules, judge_rules, judge_rule_count * sizeof *t->rules);
        t->count = judge_rule_count;
    }
    Text text = {0};
    int status = rules_write(t->rules, t->count, &text, e);
    Sha256 s;
    sha256_begin(&s);
    sha256_add(&s, text.data, text.len);
    sha256_end(&s, j->sha256);
    text_free(&text);
    return status;
}

/* ---- the table of judges ------------------------------------------------------------------- */

const JudgeKind judge_kinds[] = {
    {"rules", "a table of phrases with weights", JUDGE_BLOCK, 0, rules_open, rules_decide,
     rules_close},
    {"self", "the policy itself, asked with the judge prompt", MODEL_BLOCK, 1, judge_model_open,
     judge_model_decide, judge_model_close},
    {"model", "another model or adapter, asked with the judge prompt", MODEL_BLOCK, 1,
     judge_model_open, judge_model_decide, judge_model_close},
    {"command", "any program, one line of JSON for each case", JUDGE_BLOCK, 1, judge_command_open,
     judge_command_decide, judge_command_close},
};
const size_t judge_kind_count = sizeof judge_kinds / sizeof judge_kinds[0];

int judge_open(Judge *j, const JudgeConfig *c, Err *e)
{
    *j = (Judge){0};
    if (judge_config_check(c, e)) return -1;
    for (size_t i = 0; i < judge_kind_count; i++)
        if (!strcmp(judge_kinds[i].name, c->kind)) j->kind = &judge_kinds[i];
    j->progress = c->progress;
    int status = j->kind->open(j, c, e);
    if (!status && c->reviewed && !(j->reviews = judge_reviews_open(c->reviewed, e))) status = -1;
    if (!status && j->kind->keeps && c->answers &&
        !(j->kept = judge_kept_open(c->answers, j->sha256, e)))
        status = -1;
    if (status) judge_close(j);
    return status;
}

int judge_decide(const Judge *j, const JudgeCase *cases, size_t n, Verdict *out, Err *e)
{
    if (j->kept ? judge_kept_decide(j, cases, n, out, e) : j->kind->decide(j, cases, n, out, e))
        return -1;
    for (size_t i = 0; i < n; i++) {
        out[i].reviewed = REVIEW_NONE;
        if (j->reviews) judge_reviews_apply(j->reviews, &cases[i], &out[i]);
    }
    return 0;
}

void judge_close(Judge *j)
{
    if (j->kind) j->kind->close(j);
    judge_reviews_close(j->reviews);
    judge_kept_close(j->kept);
    *j = (Judge){0};
}

/* ---- whole files --------------------------------------------------------------------------- */

typedef struct {
    Json *rows[JUDGE_BLOCK];
    size_t lines[JUDGE_BLOCK];
    JudgeCase cases[JUDGE_BLOCK];
    Verdict verdicts[JUDGE_BLOCK];
    size_t n;
    Pool pool;
    Text text;
} Block;

static int is_ours(const char *key)
{
    static const char *const ours[] = {"action",    "probability", "judge", "evidence",
                                       "agreement", "unparsed",    "cut",   "judged",
                                       "review",    "review_of"};
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
        if (!strcmp(key, ours[i])) return 1;
    return 0;
}

/* The row with the verdict's fields at its end. */
static int put_judged(Text *out, const Json *row, const Verdict *v, const char *judge, Err *e)
{
    if (text_add(out, "{", 1, e)) return -1;
    for (const Json *m = row->child; m; m = m->next) {
        if (is_ours(m->key)) continue;
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

static void count_verdict(JudgeReport *r, const Verdict *v)
{
    r->rows++;
    r->actions[v->action]++;
    r->orders = v->orders;
    r->disagreed += !v->unparsed && v->agreeing < v->orders;
    r->unparsed += (size_t)v->unparsed;
    r->cut += (size_t)v->cut;
    r->reviewed += v->reviewed != REVIEW_NONE;
    r->overruled += v->reviewed && v->judged != v->action;
}

/* Judges the rows of a block, writes and counts them, and empties it. */
static int flush_block(const Judge *j, Block *b, Writer *w, const char *path,
                       const JudgeWatch *watch, JudgeReport *r, Err *e)
{
    if (judge_decide(j, b->cases, b->n, b->verdicts, e)) return -1;
    for (size_t i = 0; i < b->n; i++) {
        b->text.len = 0;
        count_verdict(r, &b->verdicts[i]);
        if (watch &&
            watch->row(watch->ctx, b->rows[i], b->lines[i], &b->cases[i], &b->verdicts[i], e))
            return err_prefix(e, "%s:%zu", path, b->lines[i]);
        if (put_judged(&b->text, b->rows[i], &b->verdicts[i],
                       b->verdicts[i].reviewed ? "person" : j->kind->name, e) ||
            writer_put(w, b->text.data, b->text.len, e))
            return -1;
    }
    b->n = 0;
    pool_free(&b->pool);
    return 0;
}

/* The prompt as one text: what the user said, or a longer conversation as lines "role: content". */
static int set_prompt(JudgeCase *c, const Json *prompt, Pool *pool, Err *e)
{
    static const char form[] =
        "\"prompt\" must be a text or messages with \"role\" and \"content\"";
    c->prompt = "";
    if (!prompt || prompt->type == JSON_NULL) return 0;
    if (prompt->type == JSON_STRING) {
        c->prompt = prompt->text;
        c->prompt_len = prompt->len;
        return 0;
    }
    if (prompt->type != JSON_ARRAY) return err_set(e, ERR_DATA, "%s", form);
    Text text = {0};
    int status = 0, alone = prompt->len == 1 && json_is(json_get(prompt->child, "role"), "user");
    for (const Json *turn = prompt->child; turn && !status; turn = turn->next) {
        const Json *role = json_get(turn, "role"), *content = json_get(turn, "content");
        if (!role || role->type != JSON_STRING || !content || content->type != JSON_STRING)
            status = err_set(e, ERR_DATA, "%s", form);
        else
            status = (!alone && text_addf(&text, e, "%s%s: ", text.len ? "\n" : "", role->text)) ||
                     text_add(&text, content->text, content->len, e);
    }
    if (!status && text.len) {
        c->prompt = pool_strndup(pool, text.data, text.len, e);
        c->prompt_len = text.len;
        if (!c->prompt) status = -1;
    }
    text_free(&text);
    return status ? -1 : 0;
}

int judge_read_case(const Json *row, JudgeCase *c, Pool *pool, Err *e)
{
    const Json *response = json_get(row, "response");
    if (!response || response->type != JSON_STRING)
        return err_set(e, ERR_DATA, "\"response\" must be a string");
    *c = (JudgeCase){.response = response->text, .response_len = response->len};
    return set_prompt(c, json_get(row, "prompt"), pool, e);
}

/* Takes a row into the block. */
static int add_case(Block *b, Json *row, size_t line, JudgeReport *r, Err *e)
{
    JudgeCase *c = &b->cases[b->n];
    if (judge_read_case(row, c, &b->pool, e)) return -1;
    if (!judge_has_words(c->response, c->response_len)) r->empty++;
    b->rows[b->n] = row;
    b->lines[b->n++] = line;
    return 0;
}

/* Lines of a file that is open. */
static size_t count_lines(const JsonLines *in)
{
    size_t lines = 0;
    for (size_t i = 0; i < in->len; i++) lines += in->data[i] == '\n' || i + 1 == in->len;
    return lines;
}

static int judge_lines(const Judge *j, JsonLines *in, Writer *w, Block *b, const JudgeWatch *watch,
                       JudgeReport *r, Err *e)
{
    size_t total = j->progress.show ? count_lines(in) : 0;
    for (;;) {
        Json *row;
        int more = jsonl_next(in, &b->pool, &row, e);
        if (more < 0) return -1;
        if (more && add_case(b, row, in->line, r, e))
            return err_prefix(e, "%s:%zu", in->path, in->line);
        if (!more || b->n == j->kind->block) {
            if (flush_block(j, b, w, in->path, watch, r, e)) return -1;
            if (j->progress.show) j->progress.show(j->progress.ctx, in->line, total);
        }
        if (stop_requested) return err_set(e, ERR_INTERRUPTED, "interrupted");
        if (!more) break;
    }
    if (!r->rows) return err_set(e, ERR_DATA, "%s: no rows to judge", in->path);
    return watch && watch->end(watch->ctx, e) ? err_prefix(e, "%s", in->path) : 0;
}

int judge_file(const Judge *j, const char *in, const char *out, const JudgeWatch *watch,
               JudgeReport *report, Err *e)
{
    *report = (JudgeReport){.reviews = j->reviews != NULL};
    snprintf(report->judge, sizeof report->judge, "%s", j->kind->name);
    memcpy(report->sha256, j->sha256, sizeof report->sha256);
    JsonLines lines;
    Writer w = {0};
    if (jsonl_open(&lines, in, e)) return -1;
    Block *b = mem_calloc(1, sizeof *b, e);
    int status = !b || writer_open(&w, out, e) ? -1 : 0;
    if (!status) status = judge_lines(j, &lines, &w, b, watch, report, e);
    if (!status) status = writer_commit(&w, e);
    writer_abort(&w);
    if (b) {
        pool_free(&b->pool);
        text_free(&b->text);
        mem_free(b);
    }
    jsonl_close(&lines);
    return status;
}

int judge_report_json(const JudgeReport *r, Text *out, Err *e)
{
    if (text_addf(out, e, "{\"rows\":%zu,\"judge\":\"%s\",\"judge_sha256\":\"%s\",\"actions\":{",
                  r->rows, r->judge, r->sha256) ||
        action_counts_json(r->actions, out, e) || text_addf(out, e, "},\"empty\":%zu", r->empty))
        return -1;
    if (r->orders &&
        text_addf(out, e, ",\"orders\":%zu,\"disagreed\":%zu,\"unparsed\":%zu,\"cut\":%zu",
                  r->orders, r->disagreed, r->unparsed, r->cut))
        return -1;
    if (r->reviews &&
        text_addf(out, e, ",\"reviewed\":%zu,\"overruled\":%zu", r->reviewed, r->overruled))
        return -1;
    return text_add(out, "}\n", 2, e);
}
