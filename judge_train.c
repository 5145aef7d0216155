/* judge_train.c - turns labelled responses into rows that teach a model to judge: the judge prompt,
 * and the label as its completion. */
#include "judge_parts.h"

#include <string.h>

/* Columns in which a label is looked for, people's first. */
static const char *const label_columns[] = {"label", "gold", "action"};
#define LABEL_COLUMNS (sizeof label_columns / sizeof *label_columns)

typedef struct {
    Prompter prompter;
    JudgeOrder order;
    Writer out;
    Text prompt, line;
    UnreadNames unread;
    JudgeTraining *report;
} Teacher;

/* Returns the label of a row, or -1. */
static int read_label(const Json *row, int *action, Err *e)
{
    *action = -1;
    for (size_t i = 0; i < LABEL_COLUMNS; i++) {
        const Json *label = json_get(row, label_columns[i]);
        if (!label || label->type == JSON_NULL) continue;
        *action = action_of(label);
        if (*action >= 0) return 0;
        return err_set(e, ERR_DATA, "\"%s\" must be accept, caution or refuse, found %.40s",
                       label_columns[i], label->text ? label->text : "no text");
    }
    return 0;
}

/* Writes {"prompt","completion"}, as messages if the model has a chat template: exactly the tokens
 * that prompter_rows gives when the row is judged. */
static int put_row(Teacher *t, const char *label, Err *e)
{
    Text *out = &t->line;
    int chat = t->prompter.chat != NULL;
    out->len = 0;
    return text_addf(out, e,
                     chat ? "{\"prompt\":[{\"role\":\"user\",\"content\":" : "{\"prompt\":") ||
                   json_put_string(out, t->prompt.data, t->prompt.len, e) ||
                   (chat ? text_addf(out, e,
                                     "}],\"completion\":[{\"role\":\"assistant\",\"content\":"
                                     "\"%s\"}]}\n",
                                     label)
                         : text_addf(out, e, ",\"completion\":\" %s\"}\n", label)) ||
                   writer_put(&t->out, out->data, out->len, e)
               ? -1
               : 0;
}

/* Writes the training row of a case with a label. */
static int teach_case(Teacher *t, const JudgeCase *c, Action action, Err *e)
{
    JudgeTraining *r = t->report;
    int cut;
    /* Rows alternate between the orders of the labels, so that the judge does not learn one of
     * them. */
    size_t order = r->rows % prompter_orders(t->order);
    if (prompter_text(&t->prompter, t->order, order, c, &t->prompt, &cut, e)) return -1;
    r->rows++;
    r->actions[action]++;
    r->cut += (size_t)cut;
    return put_row(t, judge_labels[action], e);
}

static int teach_row(void *ctx, const Json *row, size_t line, Err *e)
{
    static const char *const reads[] = {"prompt", "response", "label", "gold", NULL};
    Teacher *t = ctx;
    Pool pool = {0};
    JudgeCase c;
    if (unread_row(&t->unread, row, reads, 1, line, e)) return -1;
    int action, status = judge_read_case(row, &c, &pool, e) || read_label(row, &action, e) ? -1 : 0;
    if (!status && action < 0)
        t->report->unlabelled++;
    else if (!status)
        status = teach_case(t, &c, (Action)action, e);
    pool_free(&pool);
    return status;
}

static int teach_file(Teacher *t, const char *in, const char *out, Err *e)
{
    if (writer_open(&t->out, out, e)) return -1;
    int status = jsonl_each(in, teach_row, t, NULL, e);
    if (!status && !t->report->rows)
        status = err_set(e, ERR_DATA, "%s: no row has a label (label, gold or action)", in);
    if (!status) status = writer_commit(&t->out, e);
    writer_abort(&t->out);
    return status;
}

int judge_training_rows(const JudgeConfig *c, const char *in, const char *out, JudgeTraining *r,
                        Err *e)
{
    static const Log silent = {NULL, NULL};
    const Log *log = c->log ? c->log : &silent;
    Teacher t = {.order = c->order, .report = r};
    Model model;
    *r = (JudgeTraining){0};
    Tokenizer *tokenizer = tokenizer_load(c->model, log, e);
    if (!tokenizer) return -1;
    int status = model_load(&model, c->model, MODEL_CONFIG_ONLY, log, e);
    if (!status) {
        status = prompter_open(&t.prompter, tokenizer, c, &model.config, c->max_length, NULL, e) ||
                 teach_file(&t, in, out, e);
        prompter_close(&t.prompter);
        model_close(&model);
    }
    if (!status) unread_tell(&t.unread, in, "", log);
    unread_free(&t.unread);
    text_free(&t.prompt);
    text_free(&t.line);
    tokenizer_free(tokenizer);
    return status ? -1 : 0;
}
