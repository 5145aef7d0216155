/* cycle_feedback.c - turns thumbs-up and thumbs-down of a deployment into rows for KTO. */
#include "cycle_parts.h"

#include <string.h>

/* ---- rows ---------------------------------------------------------------------------------- */

static int is_held_out(const char *const *held_out, size_t n, const char *text)
{
    for (size_t low = 0, high = n; low < high;) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(text, held_out[middle]);
        if (!order) return 1;
        if (order > 0)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

/* Does any text of the prompt (any turn, if it is a conversation) belong to the held-out prompts?
 * -1 if memory is short. */
static int leaks(const Json *prompt, const char *const *held_out, size_t n, Err *e)
{
    Text text = {0};
    int found = json_put(&text, prompt, e);
    if (!found) found = is_held_out(held_out, n, text.data);
    const Json *turn = prompt->type == JSON_ARRAY ? prompt->child : NULL;
    for (; turn && !found; turn = turn->next) {
        const Json *content = json_get(turn, "content");
        text.len = 0;
        if (!content) continue;
        found = json_put(&text, content, e) ? -1 : is_held_out(held_out, n, text.data);
    }
    text_free(&text);
    return found;
}

/* 1 liked, 0 disliked, -1 neither. */
static int read_label(const Json *label)
{
    uint64_t n;
    if (label && label->type == JSON_TRUE) return 1;
    if (label && label->type == JSON_FALSE) return 0;
    return !json_u64(label, &n) && n <= 1 ? (int)n : -1;
}

static int check_row(const Json *row, int label, int chat, Err *e)
{
    const Json *prompt = json_get(row, "prompt"), *completion = json_get(row, "completion");
    if (!prompt || (prompt->type != JSON_STRING && !(chat && prompt->type == JSON_ARRAY)))
        return data_refuse(row, "prompt", chat ? "a text or a list of messages" : "a text", e);
    if (!completion || completion->type != JSON_STRING || !completion->len)
        return data_refuse(row, "completion", "a text", e);
    if (label < 0) return data_refuse(row, "label", "true, false, 1 or 0", e);
    return 0;
}

typedef struct {
    Writer out;
    Text line;
    int chat;
    const char *system;
    const char *const *held_out;
    size_t n_held_out;
    UnreadNames unread;
    FeedbackReport *report;
} Feedback;

static int write_row(void *ctx, const Json *row, size_t line, Err *e)
{
    static const char *const reads[] = {"prompt", "completion", "label", NULL};
    Feedback *f = ctx;
    const Json *prompt = json_get(row, "prompt"), *completion = json_get(row, "completion");
    int label = read_label(json_get(row, "label"));
    if (unread_row(&f->unread, row, reads, 0, line, e)) return -1;
    if (check_row(row, label, f->chat, e)) return -1;
    int leak = leaks(prompt, f->held_out, f->n_held_out, e);
    if (leak) return leak < 0 ? -1 : (f->report->held_out++, 0);
    Text *t = &f->line;
    t->len = 0;
    if (preference_put_prompt(t, f->chat, f->system, prompt, e) ||
        preference_put_answer(t, "completion", completion, f->chat, e) ||
        text_addf(t, e, "\"label\":%s,\"source\":\"feedback\",\"line\":%zu}\n",
                  label ? "true" : "false", line))
        return -1;
    *(label ? &f->report->liked : &f->report->disliked) += 1;
    return writer_put(&f->out, t->data, t->len, e);
}

int cycle_feedback(const char *in, const char *out, int chat, const char *system,
                   const char *const *held_out, size_t n_held_out, const Log *log,
                   FeedbackReport *r, Err *e)
{
    *r = (FeedbackReport){0};
    Feedback f = {.chat = chat,
                  .system = system,
                  .held_out = held_out,
                  .n_held_out = n_held_out,
                  .report = r};
    int status = writer_open(&f.out, out, e) || jsonl_each_log(in, write_row, &f, log, e) ||
                 writer_commit(&f.out, e);
    writer_abort(&f.out);
    text_free(&f.line);
    if (!status) unread_tell(&f.unread, in, "", log);
    unread_free(&f.unread);
    return status ? -1 : 0;
}

/* ---- the stage ----------------------------------------------------------------------------- */

typedef struct {
    const char **texts;
    size_t n, cap;
    Pool pool;
} HeldOut;

static int by_text(const void *x, const void *y)
{
    return strcmp(*(const char *const *)x, *(const char *const *)y);
}

static int add_text(HeldOut *h, const Json *value, Err *e)
{
    Text text = {0};
    if (!value) return 0;
    int status =
        json_put(&text, value, e) || mem_grow(&h->texts, &h->cap, h->n, sizeof *h->texts, e) ? -1
                                                                                             : 0;
    if (!status) h->texts[h->n] = pool_strndup(&h->pool, text.data, text.len, e);
    if (!status && !h->texts[h->n++]) status = -1;
    text_free(&text);
    return status;
}

/* Adds a prompt as it stands and, if it is a conversation, each turn of the user: what a person
 * asked is the same question as a plain text or under another system message. */
static int add_prompt(HeldOut *h, const Json *prompt, Err *e)
{
    if (add_text(h, prompt, e)) return -1;
    const Json *turn = prompt && prompt->type == JSON_ARRAY ? prompt->child : NULL;
    for (; turn; turn = turn->next)
        if (json_is(json_get(turn, "role"), "user") && add_text(h, json_get(turn, "content"), e))
            return -1;
    return 0;
}

/* Collects the prompts and base prompts of validation and test, sorted. */
static int find_held_out(const PromptSet *p, HeldOut *h, Err *e)
{
    for (size_t i = 0; i < p->count; i++) {
        const PromptRow *row = &p->rows[i];
        if (row->split == SPLIT_TRAIN) continue;
        if (add_prompt(h, json_get(row->json, "prompt"), e) ||
            add_prompt(h, json_get(row->json, "base_prompt"), e))
            return -1;
    }
    sort_items(h->texts, h->n, sizeof *h->texts, by_text);
    return 0;
}

int feedback_rows(const Loop *l, const char *out, FeedbackReport *r, Err *e)
{
    const CycleConfig *c = l->c;
    HeldOut h = {0};
    int status = find_held_out(&l->prompts, &h, e) ||
                 cycle_feedback(c->feedback, out, l->chat, c->system, h.texts, h.n,
                                &l->events->log, r, e);
    mem_free(h.texts);
    pool_free(&h.pool);
    return status ? -1 : 0;
}

static int take_feedback(Loop *l, Stage *s, Text *facts, Err *e)
{
    char path[IO_PATH_MAX], source[65];
    FeedbackReport r;
    if (loop_path(l, path, s->outputs[0], e) || sha256_file(l->c->feedback, source, e) ||
        feedback_rows(l, path, &r, e))
        return -1;
    if (r.held_out)
        log_note(&l->events->log, 'w',
                 "--feedback: %zu rows are left out, for their prompts are in validation or test",
                 r.held_out);
    return text_addf(facts, e,
                     "{\"source_sha256\":\"%s\",\"liked\":%zu,\"disliked\":%zu,\"held_out\":%zu}",
                     source, r.liked, r.disliked, r.held_out);
}

static const StageKind feeding = {.event = "feedback", .run = take_feedback};

int feedback_stage(Loop *l, Err *e)
{
    Stage s = {.kind = &feeding, .name = "", .outputs = {FEEDBACK_FILE}};
    return l->c->feedback ? stage_run(l, &s, e) : 0;
}
