/* judge.c - opens a judge of any kind, keeps its verdicts, and judges files row by row. */
#include "judge_parts.h"

#include <math.h>
#include <string.h>

/* ---- the table of judges ------------------------------------------------------------------- */

static const JudgeKind *const judge_kinds[] = {&judge_kind_rules, &judge_kind_self,
                                               &judge_kind_model, &judge_kind_command};
static const size_t judge_kind_count = sizeof judge_kinds / sizeof judge_kinds[0];

const JudgeKind *judge_kind(const char *name)
{
    for (size_t i = 0; i < judge_kind_count; i++)
        if (!strcmp(judge_kinds[i]->name, name)) return judge_kinds[i];
    return NULL;
}

const char *judge_kind_name(size_t i)
{
    return i < judge_kind_count ? judge_kinds[i]->name : NULL;
}

void judge_config_narrow(JudgeConfig *c)
{
    if (judge_kind(c->kind) != &judge_kind_rules) c->rules = NULL;
    if (!judge_has(c, JUDGE_HAS_MODEL)) c->model = c->adapter = NULL;
    if (judge_has(c, JUDGE_IS_PROGRAM)) return;
    c->command = NULL;
    c->timeout = 0;
    c->retries = 0;
    c->allow_external = 0;
}

int judge_has(const JudgeConfig *c, JudgeTraits trait)
{
    const JudgeKind *kind = judge_kind(c->kind);
    return kind && (kind->traits & trait);
}

static int unknown_kind(const JudgeConfig *c, Err *e)
{
    char names[256] = "";
    for (size_t i = 0; i < judge_kind_count; i++) {
        if (i) strncat(names, ", ", sizeof names - strlen(names) - 1);
        strncat(names, judge_kinds[i]->name, sizeof names - strlen(names) - 1);
    }
    return err_set(e, ERR_USAGE, "--%s: found \"%s\", allowed: %s", judge_role(c), c->kind,
                   names);
}

int judge_config_check(const JudgeConfig *c, Err *e)
{
    const JudgeKind *kind = judge_kind(c->kind);
    if (!kind) return unknown_kind(c, e);
    if (c->rules && kind != &judge_kind_rules)
        return err_set(e, ERR_USAGE, "--%srules belongs to the judge rules, found --%s %s",
                       strcmp(judge_role(c), "judge") ? "validator-" : "", judge_role(c), c->kind);
    return kind->check ? kind->check(c, e) : 0;
}

int judge_config_json(const JudgeConfig *c, Text *out, Err *e)
{
    return text_addf(out, e, "{\"kind\": \"%s\"", c->kind) ||
                   judge_kind(c->kind)->put_json(c, out, e) ||
                   (c->reviewed && judge_put_text(out, "reviewed", c->reviewed, e)) ||
                   text_add(out, "}", 1, e)
               ? -1
               : 0;
}

/* ---- one judge ----------------------------------------------------------------------------- */

int judge_identify(Judge *j, const JudgeConfig *c, Err *e)
{
    *j = (Judge){0};
    if (judge_config_check(c, e)) return -1;
    j->kind = judge_kind(c->kind);
    j->progress = c->progress;
    int status = j->kind->open(j, c, e);
    if (status) judge_close(j);
    return status;
}

int judge_open(Judge *j, const JudgeConfig *c, Err *e)
{
    static const Log silent;
    const Log *log = c->log ? c->log : &silent;
    if (judge_identify(j, c, e)) return -1;
    int status = 0;
    if (c->reviewed && !(j->reviews = judge_reviews_open(c->reviewed, log, e))) status = -1;
    if (!status && (j->kind->traits & JUDGE_KEEPS) && c->answers &&
        !(j->kept = judge_kept_open(c->answers, j->sha256, log, e)))
        status = -1;
    if (status) judge_close(j);
    return status;
}

int judge_can_run(const Judge *j, Err *e)
{
    return j->kind->can_run ? j->kind->can_run(j, e) : 0;
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
        if (watch && watch->row &&
            watch->row(watch->ctx, b->rows[i], b->lines[i], &b->cases[i], &b->verdicts[i], e))
            return err_prefix(e, "%s:%zu", path, b->lines[i]);
        if (judge_put_row(&b->text, b->rows[i], &b->verdicts[i],
                       b->verdicts[i].reviewed ? "person" : j->kind->name, e) ||
            writer_put(w, b->text.data, b->text.len, e))
            return -1;
    }
    b->n = 0;
    pool_free(&b->pool);
    return 0;
}

/* Takes a row into the block. */
static int add_case(Block *b, Json *row, size_t line, const JudgeWatch *watch, JudgeReport *r,
                    Err *e)
{
    JudgeCase *c = &b->cases[b->n];
    if (judge_read_case(row, c, &b->pool, e)) return -1;
    const char *const reads[] = {"prompt", "response", watch ? watch->reads : NULL, NULL};
    if (watch && watch->unread && unread_row(watch->unread, row, reads, 1, line, e)) return -1;
    if (!judge_has_words(c->response, c->response_len)) r->empty++;
    b->rows[b->n] = row;
    b->lines[b->n++] = line;
    return 0;
}

/* Counts the lines of an open file. */
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
        if (more && add_case(b, row, in->line, watch, r, e))
            return err_prefix(e, "%s:%zu", in->path, in->line);
        if (!more || b->n == j->kind->block) {
            if (flush_block(j, b, w, in->path, watch, r, e)) return -1;
            if (j->progress.show) j->progress.show(j->progress.ctx, in->line, total);
        }
        if (stop_requested) return err_set(e, ERR_INTERRUPTED, "interrupted");
        if (!more) break;
    }
    if (!r->rows) return err_set(e, ERR_DATA, "%s: no rows to judge", in->path);
    return watch && watch->end && watch->end(watch->ctx, e) ? err_prefix(e, "%s", in->path) : 0;
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
