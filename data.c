/* data.c - preference rows: from a JSONL file to tokens, by the rules of data.h.
 *
 * In the order of reading: what shape a row has (columns, text or messages), what it says (a prompt
 * and one or two completions as Pieces), its tokens, and what is left of them after splitting,
 * dropping and cutting.
 */
#include "data.h"

#include <stdlib.h>
#include <string.h>

typedef enum {
    COLUMN_PROMPT,
    COLUMN_CHOSEN,
    COLUMN_REJECTED,
    COLUMN_COMPLETION,
    COLUMN_LABEL,
    COLUMN_MESSAGES,
    COLUMN_TEXT,
    COLUMN_COUNT
} Column;
static const char *const column_names[COLUMN_COUNT] = {
    "prompt", "chosen", "rejected", "completion", "label", "messages", "text"};
#define BIT(column) (1u << (column))

/* TRL turns pairs into single rows block by block (datasets' default batch of map). */
#define UNPAIR_BLOCK 1000
#define NO_COMPLETION SIZE_MAX

/* Which columns a row uses, and whether they hold messages (else text). */
typedef struct {
    unsigned columns;
    int chat;
} Shape;

/* A stretch of a row as it stands in the file: text, or turns of a conversation. */
typedef struct {
    const char *text;
    size_t len;
    const Json *turn; /* the first of `turns` siblings */
    size_t turns;
} Piece;

/* What a row says: a prompt and n completions. */
typedef struct {
    Piece prompt, completion[2];
    size_t n;
    int label;
    int word_cut; /* the prompt was found by comparing, and ends inside a word */
} Saying;

typedef struct {
    const Json *json;
    size_t line;
} Line;

/* All that reading one file needs. */
typedef struct {
    Dataset *d;
    const DataOptions *o;
    const Tokenizer *t;
    const ChatTemplate *chat; /* found at the first row with messages */
    const char *path;
    const Log *log;
    char *map;                         /* our copy of o->map, cut at its separators */
    const char *columns[COLUMN_COUNT]; /* their names in the file */
    Shape shape;                       /* of the row at shape_line; 0 = none yet */
    size_t shape_line;
    Line *lines;
    size_t n_lines, cap_lines, cap_rows;
    ChatMessage *messages;
    size_t cap_messages;
    Ids prompt, full[2];
    size_t *lengths;
    size_t n_lengths, cap_lengths;
} Loader;

/* "a string", "null", ... for messages. */
static const char *json_kind(const Json *j)
{
    static const char *const names[] = {"null",     "false",  "true",     "a number",
                                        "a string", "a list", "an object"};
    return j ? names[j->type] : "nothing";
}

/* ---- columns ------------------------------------------------------------------------------- */

/* --map "chosen=good,prompt=question": columns[ours] = theirs. */
static int parse_map(Loader *l, Err *e)
{
    for (int c = 0; c < COLUMN_COUNT; c++) l->columns[c] = column_names[c];
    if (!l->o->map) return 0;
    l->map = mem_strdup(l->o->map, e);
    if (!l->map) return -1;
    for (char *at = l->map, *next; at && *at; at = next) {
        next = strchr(at, ',');
        if (next) *next++ = 0;
        char *theirs = strchr(at, '=');
        if (!theirs || !theirs[1])
            return err_set(e, ERR_USAGE, "--map: \"%s\" must be NAME=COLUMN", at);
        *theirs++ = 0;
        int c = 0;
        while (c < COLUMN_COUNT && strcmp(column_names[c], at)) c++;
        if (c == COLUMN_COUNT)
            return err_set(e, ERR_USAGE,
                           "--map: unknown name \"%s\"; allowed are prompt, chosen, rejected, "
                           "completion, label, messages, text",
                           at);
        l->columns[c] = theirs;
    }
    return 0;
}

static const Json *column(const Loader *l, const Json *row, Column c)
{
    return json_get(row, l->columns[c]);
}

/* Is every column of the set there? If not, *missing is the first that is not. */
static int has_columns(const Loader *l, const Json *row, unsigned set, Column *missing)
{
    for (unsigned c = 0; c < COLUMN_COUNT; c++) {
        if (!(set & BIT(c)) || column(l, row, (Column)c)) continue;
        *missing = (Column)c;
        return 0;
    }
    return 1;
}

/* The sets of columns that serve a kind, best first; 0 ends the list. */
static const unsigned *column_sets(DataKind kind)
{
    enum {
        PAIR = BIT(COLUMN_CHOSEN) | BIT(COLUMN_REJECTED),
        PROMPT = BIT(COLUMN_PROMPT),
        ANSWER = PROMPT | BIT(COLUMN_COMPLETION)
    };
    static const unsigned pairs[] = {PROMPT | PAIR, PAIR, 0};
    static const unsigned unpaired[] = {ANSWER | BIT(COLUMN_LABEL), PROMPT | PAIR, PAIR, 0};
    static const unsigned completion[] = {ANSWER, BIT(COLUMN_MESSAGES), BIT(COLUMN_TEXT), 0};
    static const unsigned prompts[] = {PROMPT, 0};
    switch (kind) {
    case DATA_PAIRS: return pairs;
    case DATA_UNPAIRED: return unpaired;
    case DATA_COMPLETION: return completion;
    default: return prompts;
    }
}

/* The message for a row that no set of columns fits: names the missing column. */
static int missing_column(const Loader *l, const Line *line, Column missing, Err *e)
{
    static const char *const need[] = {
        "\"chosen\" and \"rejected\", with or without \"prompt\"",
        "\"prompt\", \"completion\" and \"label\", or \"chosen\" and \"rejected\"",
        "\"prompt\" and \"completion\", or \"messages\", or \"text\"", "\"prompt\""};
    return err_set(
        e, ERR_DATA,
        "%s:%zu: no column \"%s\"; each row needs %s (--map NAME=COLUMN for other names)", l->path,
        line->line, l->columns[missing], need[l->o->kind]);
}

/* Text or messages? All columns of the set, but the label, must agree. */
static int shape_values(const Loader *l, const Line *line, Shape *s, Err *e)
{
    int seen[2] = {-1, -1}; /* a column with text, one with messages */
    for (unsigned c = 0; c < COLUMN_COUNT; c++) {
        if (!(s->columns & BIT(c)) || c == COLUMN_LABEL) continue;
        const Json *v = column(l, line->json, (Column)c);
        int chat = v->type == JSON_ARRAY;
        if (!chat && v->type != JSON_STRING)
            return err_set(e, ERR_DATA,
                           "%s:%zu: \"%s\" must be a string or a list of messages, "
                           "found %s",
                           l->path, line->line, l->columns[c], json_kind(v));
        seen[chat] = (int)c;
    }
    if (seen[0] >= 0 && seen[1] >= 0)
        return err_set(e, ERR_DATA,
                       "%s:%zu: \"%s\" is a string but \"%s\" is a list of messages; all columns "
                       "must be of one kind",
                       l->path, line->line, l->columns[seen[0]], l->columns[seen[1]]);
    s->chat = seen[1] >= 0;
    return 0;
}

/* The shape of one row. The first row's shape binds the others. */
static int row_shape(Loader *l, const Line *line, Err *e)
{
    Shape s = {0, 0};
    Column missing = COLUMN_PROMPT, first_missing = COLUMN_PROMPT;
    const unsigned *sets = column_sets(l->o->kind);
    for (const unsigned *set = sets; *set && !s.columns; set++) {
        if (has_columns(l, line->json, *set, &missing)) s.columns = *set;
        /* Of the first set, name what is missing beside the prompt: pairs do without it. */
        else if (set == sets || (first_missing == COLUMN_PROMPT && missing != COLUMN_PROMPT))
            first_missing = missing;
    }
    if (!s.columns) return missing_column(l, line, first_missing, e);
    if (shape_values(l, line, &s, e)) return -1;
    if (!l->shape_line) {
        l->shape = s;
        l->shape_line = line->line;
        return 0;
    }
    if (s.columns != l->shape.columns) {
        has_columns(l, line->json, l->shape.columns, &missing);
        if (!(l->shape.columns & ~s.columns)) /* more than the first row has */
            for (unsigned c = 0; c < COLUMN_COUNT; c++)
                if (s.columns & ~l->shape.columns & BIT(c)) missing = (Column)c;
        return err_set(e, ERR_DATA,
                       "%s:%zu: rows must have one shape: \"%s\" is %s here, but not in line %zu",
                       l->path, line->line, l->columns[missing],
                       column(l, line->json, missing) ? "present" : "missing", l->shape_line);
    }
    if (s.chat != l->shape.chat)
        return err_set(e, ERR_DATA, "%s:%zu: rows must have one shape: %s here, but %s in line %zu",
                       l->path, line->line, s.chat ? "lists of messages" : "text",
                       l->shape.chat ? "lists of messages" : "text", l->shape_line);
    return 0;
}

/* ---- what a row says ----------------------------------------------------------------------- */

static Piece piece_of(const Json *v)
{
    if (v->type == JSON_STRING) return (Piece){.text = v->text, .len = v->len};
    return (Piece){.turn = v->child, .turns = v->len};
}

static int piece_empty(const Piece *p)
{
    return p->len == 0 && p->turns == 0;
}

/* A piece without its first n turns or bytes; and its first n. */
static Piece piece_after(Piece p, size_t n)
{
    if (p.text) return (Piece){.text = p.text + n, .len = p.len - n};
    p.turns -= n;
    for (; n; n--) p.turn = p.turn->next;
    return p;
}

static Piece piece_first(Piece p, size_t n)
{
    if (p.text) return (Piece){.text = p.text, .len = n};
    p.turns = n;
    return p;
}

/* Every turn: {"role": one of three, "content": string}, nothing called. */
static int check_turns(const Loader *l, size_t line, const Json *list, const char *name, Err *e)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    size_t i = 0;
    for (const Json *turn = list->child; turn; turn = turn->next, i++) {
        const Json *role = json_get(turn, "role"), *content = json_get(turn, "content");
        const Json *calls = json_get(turn, "tool_calls");
        int known = 0;
        for (size_t r = 0; r < sizeof roles / sizeof *roles; r++) known |= json_is(role, roles[r]);
        if (!known)
            return err_set(e, ERR_DATA,
                           "%s:%zu: \"%s\"[%zu]: role must be system, user or assistant, found %s",
                           l->path, line, name, i,
                           role && role->type == JSON_STRING ? role->text : json_kind(role));
        if (!content || content->type != JSON_STRING)
            return err_set(e, ERR_DATA, "%s:%zu: \"%s\"[%zu]: content must be a string, found %s",
                           l->path, line, name, i, json_kind(content));
        if (calls && calls->type != JSON_NULL)
            return err_set(e, ERR_DATA, "%s:%zu: \"%s\"[%zu]: tool_calls are not supported",
                           l->path, line, name, i);
    }
    return 0;
}

static int read_label(const Loader *l, const Line *line, int *label, Err *e)
{
    const Json *v = column(l, line->json, COLUMN_LABEL);
    uint64_t number = 2;
    *label = v->type == JSON_TRUE;
    if (v->type == JSON_TRUE || v->type == JSON_FALSE) return 0;
    if (v->type == JSON_NUMBER && !json_u64(v, &number) && number <= 1) {
        *label = (int)number;
        return 0;
    }
    int shown = v->type == JSON_STRING || v->type == JSON_NUMBER;
    const char *quote = v->type == JSON_STRING ? "\"" : "";
    return err_set(e, ERR_DATA, "%s:%zu: \"%s\" must be true or false (or 1 or 0), found %s%.40s%s",
                   l->path, line->line, l->columns[COLUMN_LABEL], quote,
                   shown ? v->text : json_kind(v), quote);
}

static int same_turn(const Json *a, const Json *b)
{
    const Json *ra = json_get(a, "role"), *rb = json_get(b, "role");
    const Json *ca = json_get(a, "content"), *cb = json_get(b, "content");
    return ra->len == rb->len && !memcmp(ra->text, rb->text, ra->len) && ca->len == cb->len &&
           !memcmp(ca->text, cb->text, ca->len);
}

static int is_continuation_byte(char c)
{
    return ((unsigned char)c & 0xC0) == 0x80;
}

static int is_word_byte(char c)
{
    unsigned char u = (unsigned char)c;
    return u >= 0x80 || (u >= '0' && u <= '9') || ((u | 0x20) >= 'a' && (u | 0x20) <= 'z');
}

/* Where two texts part, as TRL's extract_prompt has it: at the first different character, or before
 * the space in front of it. Of texts that never differ the last character of the shorter one stays
 * with the completions. */
static size_t common_text(const Piece *a, const Piece *b)
{
    size_t shorter = a->len < b->len ? a->len : b->len, n = 0;
    while (n < shorter && a->text[n] == b->text[n]) n++;
    int differ = n < shorter;
    if (!differ && n > 0) n--;
    /* Back to the start of the character. */
    while (n > 0 && is_continuation_byte(a->text[n])) n--;
    if (differ && n > 0 && a->text[n - 1] == ' ') n--;
    return n;
}

static size_t common_turns(const Piece *a, const Piece *b)
{
    size_t shorter = a->turns < b->turns ? a->turns : b->turns, n = 0;
    const Json *x = a->turn, *y = b->turn;
    for (; n < shorter && same_turn(x, y); x = x->next, y = y->next) n++;
    return n == shorter && n > 0 ? n - 1 : n;
}

/* The implicit form: prompt = what chosen and rejected have in common at their start. */
static int split_implicit(const Loader *l, const Line *line, Saying *s, Err *e)
{
    Piece *chosen = &s->completion[0], *rejected = &s->completion[1];
    size_t n = l->shape.chat ? common_turns(chosen, rejected) : common_text(chosen, rejected);
    if (l->shape.chat && n == 0 && !piece_empty(chosen) && !piece_empty(rejected))
        return err_set(e, ERR_DATA,
                       "%s:%zu: no \"%s\", and \"%s\" and \"%s\" have no first turn in common to "
                       "take its place",
                       l->path, line->line, l->columns[COLUMN_PROMPT], l->columns[COLUMN_CHOSEN],
                       l->columns[COLUMN_REJECTED]);
    if (!l->shape.chat && n > 0 && n < chosen->len)
        s->word_cut = is_word_byte(chosen->text[n - 1]) && is_word_byte(chosen->text[n]);
    s->prompt = piece_first(*chosen, n);
    *chosen = piece_after(*chosen, n);
    *rejected = piece_after(*rejected, n);
    return 0;
}

/* {"messages"}: the last turn, which must be the assistant's, answers the others. */
static int split_messages(const Loader *l, const Line *line, Saying *s, Err *e)
{
    Piece all = piece_of(column(l, line->json, COLUMN_MESSAGES));
    const Json *last = all.turn;
    while (last && last->next) last = last->next;
    if (!json_is(json_get(last, "role"), "assistant"))
        return err_set(e, ERR_DATA,
                       "%s:%zu: the last of \"%s\" must be an answer with the role assistant",
                       l->path, line->line, l->columns[COLUMN_MESSAGES]);
    s->prompt = piece_first(all, all.turns - 1);
    s->completion[0] = piece_after(all, all.turns - 1);
    return 0;
}

/* Reads a row by the shape of the file. */
static int read_saying(const Loader *l, const Line *line, Saying *s, Err *e)
{
    unsigned columns = l->shape.columns;
    *s = (Saying){.n = l->o->kind == DATA_PROMPTS ? 0 : 1};
    for (unsigned c = 0; c < COLUMN_COUNT && l->shape.chat; c++)
        if ((columns & BIT(c)) && c != COLUMN_LABEL &&
            check_turns(l, line->line, column(l, line->json, (Column)c), l->columns[c], e))
            return -1;
    if (columns & BIT(COLUMN_PROMPT)) s->prompt = piece_of(column(l, line->json, COLUMN_PROMPT));
    if (columns & BIT(COLUMN_LABEL) && read_label(l, line, &s->label, e)) return -1;
    if (columns & BIT(COLUMN_COMPLETION))
        s->completion[0] = piece_of(column(l, line->json, COLUMN_COMPLETION));
    if (columns & BIT(COLUMN_CHOSEN)) {
        s->n = 2;
        s->completion[0] = piece_of(column(l, line->json, COLUMN_CHOSEN));
        s->completion[1] = piece_of(column(l, line->json, COLUMN_REJECTED));
        if (!(columns & BIT(COLUMN_PROMPT))) return split_implicit(l, line, s, e);
    }
    if (columns & BIT(COLUMN_MESSAGES)) return split_messages(l, line, s, e);
    if (columns & BIT(COLUMN_TEXT)) {
        s->prompt = (Piece){.text = "", .len = 0};
        s->completion[0] = piece_of(column(l, line->json, COLUMN_TEXT));
    }
    return 0;
}

/* ---- tokens -------------------------------------------------------------------------------- */

static int add_message(Loader *l, size_t *n, const char *role, const char *text, size_t len, Err *e)
{
    if (mem_grow(&l->messages, &l->cap_messages, *n, sizeof *l->messages, e)) return -1;
    l->messages[(*n)++] = (ChatMessage){role, text, len};
    return 0;
}

static int add_turns(Loader *l, size_t *n, const Piece *p, Err *e)
{
    const Json *turn = p->turn;
    for (size_t i = 0; i < p->turns; i++, turn = turn->next) {
        const Json *content = json_get(turn, "content");
        if (add_message(l, n, json_get(turn, "role")->text, content->text, content->len, e))
            return -1;
    }
    return 0;
}

/* A conversation, with the opening of the next answer where no completion follows. */
static int encode_turns(Loader *l, const Piece *prompt, const Piece *completion, Ids *out, Err *e)
{
    size_t n = 0;
    if (!l->chat && !(l->chat = chat_find(l->t, l->o->chat_template, e))) return -1;
    int has_system = prompt->turns && json_is(json_get(prompt->turn, "role"), "system");
    if (l->o->kind == DATA_PROMPTS && l->o->system && !has_system &&
        add_message(l, &n, "system", l->o->system, strlen(l->o->system), e))
        return -1;
    if (prompt->text && add_message(l, &n, "user", prompt->text, prompt->len, e)) return -1;
    if (add_turns(l, &n, prompt, e)) return -1;
    if (completion && add_turns(l, &n, completion, e)) return -1;
    int flags = l->o->parse_special ? TOKENIZE_SPECIAL : 0;
    return chat_encode(l->chat, l->t, l->messages, n, !completion, flags, out, e);
}

static int ends_with(const Piece *p, const char *text)
{
    size_t len = strlen(text);
    return len && p->len >= len && !memcmp(p->text + p->len - len, text, len);
}

/* Prompt and completion as the one string that the model reads. */
static int encode_text(Loader *l, const Piece *prompt, const Piece *completion, Ids *out, Err *e)
{
    int flags = TOKENIZE_ADD | (l->o->parse_special ? TOKENIZE_SPECIAL : 0);
    if (!completion) return tokenizer_encode(l->t, prompt->text, prompt->len, flags, out, e);
    Text joint = {0};
    int failed = text_add(&joint, prompt->text, prompt->len, e) ||
                 text_add(&joint, completion->text, completion->len, e) ||
                 tokenizer_encode(l->t, joint.data, joint.len, flags, out, e);
    text_free(&joint);
    if (failed || !l->o->append_eos) return failed ? -1 : 0;

    int32_t eos = tokenizer_eos(l->t);
    const char *spelled = tokenizer_eos_text(l->t);
    if (eos < 0)
        return err_set(e, ERR_DATA,
                       "tokenizer_config.json names no eos_token: answers could not be ended");
    if (out->count && out->ids[out->count - 1] == eos) return 0;
    if (spelled && ends_with(completion, spelled)) l->d->report.eos_as_text++;
    return ids_add(out, eos, e);
}

/* Is a prompt of text to be rendered by the chat template? */
static int prompt_is_chat(const Loader *l)
{
    size_t len;
    return l->o->kind == DATA_PROMPTS && !l->o->raw &&
           (l->o->chat_template || tokenizer_chat_template(l->t, &len));
}

/* Ids of the prompt, or with a completion of both; *out is emptied first. */
static int encode(Loader *l, const Line *line, const Piece *prompt, const Piece *completion,
                  Ids *out, Err *e)
{
    out->count = 0;
    int chat = l->shape.chat || prompt_is_chat(l);
    int failed = chat ? encode_turns(l, prompt, completion, out, e)
                      : encode_text(l, prompt, completion, out, e);
    return failed ? err_prefix(e, "%s:%zu", l->path, line->line) : 0;
}

static size_t common_prefix(const Ids *a, const Ids *b)
{
    size_t n = 0;
    while (n < a->count && n < b->count && a->ids[n] == b->ids[n]) n++;
    return n;
}

/* A name for a list of ids: equal lists, equal numbers. */
static uint64_t hash_ids(uint64_t key, const int32_t *ids, size_t n)
{
    key = rng_mix(key, n);
    for (size_t i = 0; i < n; i++) key = rng_mix(key, (uint32_t)ids[i]);
    return key;
}

/* ---- what stays ---------------------------------------------------------------------------- */

static void count_dropped(Loader *l, const Line *line, size_t *counter)
{
    ++*counter;
    if (!l->d->report.first_dropped_line) l->d->report.first_dropped_line = line->line;
}

static int32_t *keep_ids(Loader *l, const int32_t *ids, size_t n, Err *e)
{
    int32_t *kept = pool_alloc(&l->d->pool, n * sizeof *ids, e);
    if (kept && n) memcpy(kept, ids, n * sizeof *ids);
    return kept;
}

static int note_length(Loader *l, size_t length, Err *e)
{
    if (mem_grow(&l->lengths, &l->cap_lengths, l->n_lengths, sizeof *l->lengths, e)) return -1;
    l->lengths[l->n_lengths++] = length;
    return 0;
}

/* Rules 4 and 5 of data.h on the ids of one row: prompt, and n joint lists. Fills the row; *keep =
 * 0 where it is dropped. */
static int split_row(Loader *l, const Line *line, size_t n, Row *row, int *keep, Err *e)
{
    DataReport *report = &l->d->report;
    size_t max = l->o->max_length, split = l->prompt.count;
    int empty = 0;
    *keep = 0;
    for (size_t i = 0; i < n; i++) {
        size_t common = common_prefix(&l->prompt, &l->full[i]);
        if (common < split) split = common;
    }
    size_t before = split ? split : 1; /* a first token is never scored */
    for (size_t i = 0; i < n; i++) {
        empty |= l->full[i].count <= before;
        if (note_length(l, l->full[i].count, e)) return -1;
    }
    if (n == 0 && note_length(l, split, e)) return -1;
    if (empty && !l->o->keep_empty) return count_dropped(l, line, &report->dropped_empty), 0;
    if (max && before >= max) return count_dropped(l, line, &report->dropped_long), 0;

    report->boundary_merges += split < l->prompt.count;
    row->prompt_key = hash_ids(0, l->prompt.ids, l->prompt.count);
    row->n_prompt = split;
    row->prompt = keep_ids(l, l->prompt.ids, split, e);
    if (!row->prompt) return -1;
    for (size_t i = 0; i < n; i++) {
        size_t end = l->full[i].count;
        row->n_uncut[i] = end - split;
        row->completion[i] = keep_ids(l, l->full[i].ids + split, end - split, e);
        if (max && end > max) end = max, report->cut++;
        row->n_completion[i] = end - split;
        if (!row->completion[i]) return -1;
    }
    *keep = 1;
    return 0;
}

static int same_completions(const Row *r)
{
    return r->n_completion[0] == r->n_completion[1] &&
           !memcmp(r->completion[0], r->completion[1],
                   r->n_completion[0] * sizeof *r->completion[0]);
}

/* One row of the data set from completions [from, from + n) of a saying. */
static int add_row(Loader *l, const Line *line, size_t index, const Saying *s, size_t from,
                   size_t n, int label, Err *e)
{
    Dataset *d = l->d;
    DataReport *report = &d->report;
    int no_text = 0;
    for (size_t i = 0; i < n; i++) no_text |= piece_empty(&s->completion[from + i]);
    if (no_text && !l->o->keep_empty) return count_dropped(l, line, &report->dropped_empty), 0;
    if (encode(l, line, &s->prompt, NULL, &l->prompt, e)) return -1;
    for (size_t i = 0; i < n; i++)
        if (encode(l, line, &s->prompt, &s->completion[from + i], &l->full[i], e)) return -1;
    Row row = {.line = line->line, .index = index, .label = label, .source = line->json};
    int keep;
    if (split_row(l, line, n, &row, &keep, e)) return -1;
    if (!keep) return 0;
    if (n == 2 && same_completions(&row)) {
        if (l->o->drop_identical) return count_dropped(l, line, &report->dropped_identical), 0;
        report->identical++;
    }
    report->empty_prompts += (size_t)piece_empty(&s->prompt);
    report->word_cuts += (size_t)s->word_cut;
    if (d->kind == DATA_UNPAIRED) label ? report->desirable++ : report->undesirable++;
    if (mem_grow(&d->rows, &l->cap_rows, d->count, sizeof *d->rows, e)) return -1;
    d->rows[d->count++] = row;
    return 0;
}

/* ---- the file ------------------------------------------------------------------------------ */

/* Parses every line and checks its shape. */
static int read_lines(Loader *l, Err *e)
{
    JsonLines j = {0};
    if (jsonl_open(&j, l->path, e)) return -1;
    sha256_bytes(j.data, j.len, l->d->sha256);
    Json *json;
    int more;
    while ((more = jsonl_next(&j, &l->d->pool, &json, e)) == 1) {
        Line line = {json, j.line};
        more = -1;
        if (row_shape(l, &line, e)) break;
        if (mem_grow(&l->lines, &l->cap_lines, l->n_lines, sizeof *l->lines, e)) break;
        l->lines[l->n_lines++] = line;
    }
    l->d->report.lines = l->n_lines;
    l->d->report.blank = j.blank_lines;
    jsonl_close(&j);
    return more;
}

/* Rows of the wanted kind from all lines. */
static int read_rows(Loader *l, Err *e)
{
    Saying s;
    int unpair = l->o->kind == DATA_UNPAIRED && (l->shape.columns & BIT(COLUMN_CHOSEN));
    if (!unpair) {
        for (size_t i = 0; i < l->n_lines; i++)
            if (read_saying(l, &l->lines[i], &s, e) ||
                add_row(l, &l->lines[i], i, &s, 0, s.n, s.label, e))
                return -1;
        return 0;
    }
    for (size_t block = 0; block < l->n_lines; block += UNPAIR_BLOCK) {
        size_t end = l->n_lines - block < UNPAIR_BLOCK ? l->n_lines : block + UNPAIR_BLOCK;
        for (size_t side = 0; side < 2; side++)
            for (size_t i = block; i < end; i++)
                if (read_saying(l, &l->lines[i], &s, e) ||
                    add_row(l, &l->lines[i], i, &s, side, 1, side == 0, e))
                    return -1;
    }
    return 0;
}

static int compare_sizes(const void *a, const void *b)
{
    size_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* Length percentiles by the nearest-rank rule. */
static void find_percentiles(Loader *l)
{
    static const size_t percent[5] = {0, 50, 90, 99, 100};
    if (!l->n_lengths) return;
    sort_items(l->lengths, l->n_lengths, sizeof *l->lengths, compare_sizes);
    for (size_t i = 0; i < 5; i++) {
        size_t rank = (percent[i] * l->n_lengths + 99) / 100;
        l->d->report.length_percentile[i] = l->lengths[rank ? rank - 1 : 0];
    }
}

/* Sorted names of all rows (prompt, completions, label). */
static uint64_t *row_keys(const Dataset *d, Err *e)
{
    uint64_t *keys = mem_calloc(d->count, sizeof *keys, e);
    for (size_t i = 0; keys && i < d->count; i++) {
        const Row *r = &d->rows[i];
        keys[i] = hash_ids((uint64_t)r->label, r->prompt, r->n_prompt);
        for (size_t side = 0; side < 2; side++)
            keys[i] = hash_ids(keys[i], r->completion[side], r->n_completion[side]);
    }
    if (keys) sort_items(keys, d->count, sizeof *keys, compare_keys);
    return keys;
}

static int count_duplicates(Loader *l, Err *e)
{
    uint64_t *keys = row_keys(l->d, e);
    if (!keys) return -1;
    for (size_t i = 1; i < l->d->count; i++) l->d->report.duplicates += keys[i] == keys[i - 1];
    mem_free(keys);
    return 0;
}

int data_overlap(const Dataset *a, const Dataset *b, size_t *count, Err *e)
{
    uint64_t *ka = row_keys(a, e), *kb = ka ? row_keys(b, e) : NULL;
    *count = 0;
    for (size_t i = 0, j = 0; kb && j < b->count; j++) {
        while (i < a->count && ka[i] < kb[j]) i++;
        *count += i < a->count && ka[i] == kb[j];
    }
    mem_free(ka);
    mem_free(kb);
    return kb ? 0 : -1;
}

/* No row left: says what became of them. */
static int check_usable(const Loader *l, Err *e)
{
    const DataReport *r = &l->d->report;
    if (l->d->count) return 0;
    if (r->lines == 0) return err_set(e, ERR_DATA, "%s: 0 usable rows: the file is empty", l->path);
    return err_set(e, ERR_DATA,
                   "%s: 0 usable rows of %zu: %zu with an empty completion, %zu with a prompt of "
                   "--max-length %zu tokens or more, %zu with chosen equal to rejected",
                   l->path, r->lines, r->dropped_empty, r->dropped_long, l->o->max_length,
                   r->dropped_identical);
}

int data_load(Dataset *d, const char *path, const DataOptions *o, const Tokenizer *t,
              const Log *log, Err *e)
{
    *d = (Dataset){.kind = o->kind};
    Loader l = {.d = d, .o = o, .t = t, .path = path, .log = log};
    int failed = parse_map(&l, e) || read_lines(&l, e) || read_rows(&l, e) || check_usable(&l, e) ||
                 count_duplicates(&l, e);
    if (!failed) find_percentiles(&l);
    mem_free(l.map);
    mem_free(l.lines);
    mem_free(l.messages);
    mem_free(l.lengths);
    ids_free(&l.prompt);
    ids_free(&l.full[0]);
    ids_free(&l.full[1]);
    if (failed) data_close(d);
    return failed ? -1 : 0;
}

void data_close(Dataset *d)
{
    mem_free(d->rows);
    pool_free(&d->pool);
    *d = (Dataset){0};
}

/* ---- the report ---------------------------------------------------------------------------- */

/* A line only where there is something to say. */
static void note_count(const Log *log, char level, size_t count, const char *what)
{
    if (count) log_note(log, level, "%zu %s", count, what);
}

void data_describe(const Dataset *d, const Log *log)
{
    const DataReport *r = &d->report;
    const size_t *q = r->length_percentile;
    log_note(log, 'i',
             "%zu rows from %zu lines; tokens of a sequence: %zu least, %zu median, %zu "
             "at 90 %%, %zu at 99 %%, %zu most",
             d->count, r->lines, q[0], q[1], q[2], q[3], q[4]);
    if (d->kind == DATA_UNPAIRED)
        log_note(log, 'i', "%zu desirable, %zu undesirable", r->desirable, r->undesirable);
    if (r->first_dropped_line)
        log_note(log, 'w',
                 "rows left out: %zu with a prompt that fills --max-length, %zu with an empty "
                 "completion, %zu with chosen equal to rejected; the first at line %zu",
                 r->dropped_long, r->dropped_empty, r->dropped_identical, r->first_dropped_line);
    note_count(log, 'w', r->cut, "sequences cut to --max-length: their ends, EOS too, are lost");
    note_count(
        log, 'w', r->identical,
        "rows with chosen equal to rejected: no gradient (--drop-identical leaves them out)");
    note_count(log, r->boundary_merges > d->count / 2 ? 'w' : 'i', r->boundary_merges,
               "rows whose prompt and completion share a token at their border: the completion "
               "starts with that token");
    note_count(log, 'w', r->empty_prompts, "rows with an empty prompt");
    note_count(log, 'w', r->eos_as_text,
               "completions spell the end token: read as text, and the end token added "
               "(--parse-special reads it as the token)");
    note_count(log, 'w', r->word_cuts,
               "rows without a prompt column whose chosen and rejected part inside a word");
    note_count(log, 'w', r->duplicates, "rows are copies of another row");
}
