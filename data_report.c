/* data_report.c - reports what was noticed about the rows of a file: counts, with the line of the
 * first one. */
#include "data_parts.h"

#include <string.h>

/* ---- what nobody reads --------------------------------------------------------------------- */

/* Returns what TRL does with a column that we do not read; NULL: nothing, either. */
static const char *use_of_column(const Loader *l, const Json *value)
{
    const char *key = value->key;
    if (l->o->kind == DATA_PROMPTS) return NULL;
    if (!strcmp(key, "image") || !strcmp(key, "images"))
        return "TRL takes such rows for those of a vision model";
    if (l->o->kind == DATA_COMPLETION && !strcmp(key, "input_ids"))
        return "TRL takes such rows as tokenized already";
    return NULL;
}

/* Does the column say how an answer of this kind of row ended? */
static int is_finish(const Loader *l, const char *key)
{
    if (l->o->kind == DATA_PROMPTS) return 0;
    if (l->shape.columns & BIT(COLUMN_CHOSEN))
        return !strcmp(key, DATA_CHOSEN_FINISH) || !strcmp(key, DATA_REJECTED_FINISH);
    return !strcmp(key, DATA_FINISH);
}

static int is_read(const Loader *l, const Json *column)
{
    const char *key = column->key;
    if (is_finish(l, key)) return 1;
    if (data_chat_reads(l->chat, column)) return 1;
    if ((l->shape.columns & BIT(COLUMN_MESSAGES)) && !strcmp(key, "conversations")) return 1;
    for (unsigned c = 0; c < COLUMN_COUNT; c++)
        if ((l->shape.columns & BIT(c)) && !strcmp(key, l->columns[c])) return 1;
    return 0;
}

int data_note_unread(Loader *l, const Line *line, Err *e)
{
    Err later; /* without a template nothing is rendered, and that is said then */
    if (data_is_chat(l) && !l->chat && !l->no_chat) l->no_chat = data_open_chat(l, &later) != 0;
    for (const Json *v = line->json->child; v; v = v->next) {
        if (v->type == JSON_NULL) continue;
        if (is_read(l, v)) {
            int turns = v->type == JSON_ARRAY && !data_chat_reads(l->chat, v);
            if (turns && unread_turns(&l->d->report.unread, v, l->chat, line->line, e)) return -1;
            continue;
        }
        const char *why = use_of_column(l, v);
        if (!why && l->o->kind == DATA_PROMPTS && unread_passes(v->key)) continue;
        if (unread_add(&l->d->report.unread, v->key, 0, why, line->line, e)) return -1;
    }
    return 0;
}

/* ---- telling ------------------------------------------------------------------------------- */

typedef struct {
    RowNote note;
    char level;
    int otherwise; /* than TRL, or than the row's writer may have meant */
    const char *what, *option, *advice; /* advice: where the command has the option */
} NoteText;

static const NoteText note_texts[] = {
    {ROW_LONG, 'w', 0, "rows left out: the prompt leaves no room for an answer", "max-length",
     " (--max-length)"},
    {ROW_EMPTY, 'w', 1, "rows left out: no completion (TRL trains their end token)", NULL, NULL},
    {ROW_SAME_DROPPED, 'w', 0, "rows left out: chosen equal to rejected", NULL, NULL},
    {ROW_CUT, 'w', 0, "sequences cut to their length limit: their ends, EOS too, are lost",
     "max-length", " (--max-length)"},
    {ROW_SAME, 'w', 0, "rows with chosen equal to rejected: no gradient", "drop-identical",
     " (--drop-identical leaves them out)"},
    {ROW_MERGED, 'i', 0,
     "rows whose prompt and completion share a token at their border: the completion starts with "
     "that token",
     NULL, NULL},
    {ROW_NO_PROMPT, 'w', 0, "rows with an empty prompt", NULL, NULL},
    {ROW_WORD_CUT, 'w', 0,
     "rows without a prompt column whose chosen and rejected part inside a word", NULL, NULL},
    {ROW_COPY, 'w', 0, "rows are copies of another row", NULL, NULL},
    {ROW_CONTROL, 'w', 1,
     "rows spell control tokens: they are read as letters, where TRL reads the tokens",
     "parse-special", " (--parse-special reads them as TRL does)"},
    {ROW_MARKS, 'w', 1,
     "rows spell marks of the chat template, which writes them in letters, too: they read as its "
     "own, as in TRL",
     NULL, NULL},
    {ROW_RENAMED, 'w', 1,
     "rows with the roles human and gpt: they are read as user and assistant, where TRL hands "
     "these names to the chat template",
     NULL, NULL},
    {ROW_OPEN, 'i', 1,
     "rows with an answer that was cut at its limit (\"finish\":\"length\"): no end is taught "
     "behind it, where TRL teaches one",
     NULL, NULL},
    {ROW_FIRST_SPACE, 'w', 1,
     "rows without a prompt column whose answers part at once, chosen ending in a space: the "
     "prompt is empty, where TRL takes all but the last character of chosen for it",
     NULL, NULL},
    {ROW_NO_SYSTEM, 'w', 0,
     "rows lose their system message, as in TRL: the chat template writes it before a last "
     "question only, and here an answer is last",
     NULL, NULL},
    {ROW_TWO_STARTS, 'w', 1,
     "rows begin with the start token twice, as in TRL: they spell it, and the tokenizer adds it",
     NULL, NULL},
};

static void tell_note(const Dataset *d, const NoteText *t, const Log *log)
{
    const RowCount *c = &d->report.notes[t->note];
    char level = t->level;
    if (!c->rows) return;
    if (t->note == ROW_MERGED && c->rows > d->count / 2) level = 'w';
    log_note(log, level, "%s: %zu %s (first: line %zu)%s", d->path, c->rows, t->what, c->line,
             t->option ? advice(t->option, t->advice) : "");
}

/* Rows of prompts take their columns along to the answers, whoever may read them there. */
static void tell_unread(const Dataset *d, const Log *log, const char *rest)
{
    if (d->kind == DATA_PROMPTS) rest = ", only taken along";
    if (d->report.own_rows) rest = NULL;
    unread_tell(&d->report.unread, d->path, rest, log);
}

/* Says which tokens of conversations are scored, if there is a choice. */
static void tell_scored(const Dataset *d, const Log *log)
{
    static const char *const what[] = {
        [TRAIN_ON_LAST] = "the last answer of a row is scored, those before it are context",
        [TRAIN_ON_ANSWERS] = "each answer is scored",
        [TRAIN_ON_ALL] = "every token is scored, those of other turns, too"};
    const DataReport *r = &d->report;
    log_note(log, 'i', "%s: %zu of %zu tokens are scored", d->path, r->scored, r->tokens);
    if (!r->several) return;
    log_note(log, 'i', "%s: %zu rows hold several answers (%zu answers in all): %s%s", d->path,
             r->several, r->answers, what[r->train_on],
             advice("train-on", " (--train-on last, answers or all)"));
}

/* Says which date is used, where the template asks for the day. */
static void tell_date(const Dataset *d, const Log *log)
{
    if (*d->report.date)
        log_note(log, 'i', "%s: the chat template writes the day, %s%s", d->path, d->report.date,
                 advice("date", " (--date)"));
}

void data_describe(const Dataset *d, const Log *log)
{
    const DataReport *r = &d->report;
    const size_t *q = r->length_percentile;
    log_note(log, 'i',
             "%s: %zu rows from %zu lines; tokens of a sequence: %zu least, %zu median, %zu "
             "at 90 %%, %zu at 99 %%, %zu most",
             d->path, d->count, r->lines, q[0], q[1], q[2], q[3], q[4]);
    if (d->kind == DATA_UNPAIRED)
        log_note(log, 'i', "%s: %zu desirable, %zu undesirable", d->path, r->desirable,
                 r->undesirable);
    tell_date(d, log);
    if (d->kind == DATA_COMPLETION) tell_scored(d, log);
    for (size_t i = 0; i < sizeof note_texts / sizeof *note_texts; i++)
        tell_note(d, &note_texts[i], log);
    tell_unread(d, log, ", as in TRL");
}

void data_describe_readings(const Dataset *d, const Log *log)
{
    tell_date(d, log);
    for (size_t i = 0; i < sizeof note_texts / sizeof *note_texts; i++)
        if (note_texts[i].otherwise) tell_note(d, &note_texts[i], log);
    tell_unread(d, log, NULL);
}
