/* data_shape.c - finds the shape of a row (columns, text or messages), and its content: a prompt
 * and one or two completions as Pieces of the parsed line. */
#include "data_parts.h"

#include <string.h>

/* ---- columns ------------------------------------------------------------------------------- */

int data_map(Loader *l, Err *e)
{
    for (int c = 0; c < COLUMN_COUNT; c++) l->columns[c] = data_column_names[c];
    if (!l->o->map) return 0;
    l->map = mem_strdup(l->o->map, e);
    if (!l->map) return -1;
    for (char *at = l->map, *next; at && *at; at = next) {
        next = strchr(at, ',');
        if (next) *next++ = 0;
        char *theirs = strchr(at, '=');
        if (!theirs)
            return err_set(e, ERR_USAGE,
                           "--map: \"%s\" must be NAME=COLUMN (or NAME= to leave a column out)",
                           at);
        *theirs++ = 0;
        int c = 0;
        while (c < COLUMN_COUNT && strcmp(data_column_names[c], at)) c++;
        if (c == COLUMN_COUNT)
            return err_set(e, ERR_USAGE,
                           "--map: unknown name \"%s\"; allowed are prompt, chosen, rejected, "
                           "completion, label, messages, text",
                           at);
        l->columns[c] = theirs;
    }
    return 0;
}

/* Finds the columns of a row. --map NAME= means that there is none. */
static void find_columns(const Loader *l, Line *line)
{
    for (unsigned c = 0; c < COLUMN_COUNT; c++) {
        const Json *v = l->columns[c][0] ? json_get(line->json, l->columns[c]) : NULL;
        line->value[c] = v && v->type != JSON_NULL ? v : NULL;
    }
    /* TRL's sft renames ShareGPT's column. */
    const Json *talk = json_get(line->json, "conversations");
    if (l->o->kind == DATA_COMPLETION && !line->value[COLUMN_MESSAGES] && talk &&
        talk->type == JSON_ARRAY && json_get(talk->child, "from"))
        line->value[COLUMN_MESSAGES] = talk;
}

/* Is every column of the set present? If not, *missing is the first that is not. */
static int has_columns(const Line *line, unsigned set, Column *missing)
{
    for (unsigned c = 0; c < COLUMN_COUNT; c++) {
        if (!(set & BIT(c)) || line->value[c]) continue;
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

/* Writes the message for a row that fits no set of columns: names the missing column. */
static int missing_column(const Loader *l, const Line *line, Column missing, Err *e)
{
    static const char *const need[] = {
        "\"chosen\" and \"rejected\", with or without \"prompt\"",
        "\"prompt\", \"completion\" and \"label\", or \"chosen\" and \"rejected\"",
        "\"prompt\" and \"completion\", or \"messages\", or \"text\"", "\"prompt\""};
    Text hint = {0};
    if (!data_hint(l, line, column_sets(l->o->kind), &hint, e))
        err_set(e, ERR_DATA, "%s:%zu: no column \"%s\"%s; each row needs %s%s", l->path, line->line,
                l->columns[missing], json_get(line->json, l->columns[missing]) ? " (null)" : "",
                need[l->o->kind], hint.data ? hint.data : "");
    text_free(&hint);
    return -1;
}

/* Says what to do about a text prompt beside answers that are lists of messages. */
static const char *mixed_hint(const Line *line)
{
    const Json *prompt = line->value[COLUMN_PROMPT], *chosen = line->value[COLUMN_CHOSEN];
    const Json *first = chosen ? json_get(chosen->child, "content") : NULL;
    if (!prompt || prompt->type != JSON_STRING) return "";
    if (first && json_is(first, prompt->text))
        return advice("map", ": the answers begin with the prompt, so leave it out: --map prompt=");
    return ": make the prompt a message, too: jq -c '.prompt = [{role: \"user\", content: "
           ".prompt}]' FILE >rows.jsonl";
}

/* Text or messages? All columns of the set, but the label, must agree. */
static int shape_values(const Loader *l, const Line *line, Shape *s, Err *e)
{
    int seen[2] = {-1, -1}; /* a column with text, one with messages */
    for (unsigned c = 0; c < COLUMN_COUNT; c++) {
        if (!(s->columns & BIT(c)) || c == COLUMN_LABEL) continue;
        const Json *v = line->value[c];
        int chat = v->type == JSON_ARRAY;
        if (!chat && v->type != JSON_STRING)
            return err_set(e, ERR_DATA,
                           "%s:%zu: \"%s\" must be a string or a list of messages, found %s%s",
                           l->path, line->line, l->columns[c], data_json_kind(v),
                           v->type != JSON_OBJECT ? ""
                           : c == COLUMN_CHOSEN || c == COLUMN_REJECTED
                               ? " (jq -c '.chosen = [.chosen] | .rejected = [.rejected]' FILE "
                                 ">rows.jsonl)"
                               : " (put it into a list: [{...}])");
        seen[chat] = (int)c;
    }
    if (seen[0] >= 0 && seen[1] >= 0)
        return err_set(e, ERR_DATA,
                       "%s:%zu: \"%s\" is a string but \"%s\" is a list of messages; all columns "
                       "must be of one kind%s",
                       l->path, line->line, l->columns[seen[0]], l->columns[seen[1]],
                       mixed_hint(line));
    s->chat = seen[1] >= 0;
    return 0;
}

/* Checks that what --map names is present: pairs, for example, would be read without their prompts.
 * An empty name (prompt=) leaves the column out. */
static int check_mapped(const Loader *l, const Line *line, Err *e)
{
    for (unsigned c = 0; c < COLUMN_COUNT; c++)
        if (l->columns[c] != data_column_names[c] && *l->columns[c] &&
            !json_get(line->json, l->columns[c]))
            return err_set(e, ERR_DATA, "%s:%zu: no column \"%s\", which --map %s=%s names",
                           l->path, line->line, l->columns[c], data_column_names[c], l->columns[c]);
    return 0;
}

/* Converts lists of messages to their plain form, and counts what was unusual. */
static int read_turns(Loader *l, Line *line, Err *e)
{
    l->renamed = 0;
    for (unsigned c = 0; c < COLUMN_COUNT && l->shape.chat; c++) {
        if (!(l->shape.columns & BIT(c)) || c == COLUMN_LABEL) continue;
        line->value[c] = data_turns(l, line->value[c], l->columns[c], line->line, e);
        if (!line->value[c]) return -1;
    }
    if (l->renamed) data_note(l, ROW_RENAMED, line->line);
    return 0;
}

int data_row_shape(Loader *l, Line *line, Err *e)
{
    find_columns(l, line);
    Shape s = {0, 0};
    Column missing = COLUMN_PROMPT, first_missing = COLUMN_PROMPT;
    const unsigned *sets = column_sets(l->o->kind);
    if (check_mapped(l, line, e)) return -1;
    for (const unsigned *set = sets; *set && !s.columns; set++) {
        if (has_columns(line, *set, &missing)) s.columns = *set;
        /* Of the first set, name what is missing besides the prompt, which pairs do not need. */
        else if (set == sets || (first_missing == COLUMN_PROMPT && missing != COLUMN_PROMPT))
            first_missing = missing;
    }
    if (!s.columns) return missing_column(l, line, first_missing, e);
    if (shape_values(l, line, &s, e)) return -1;
    if (s.chat && l->o->raw)
        return err_set(e, ERR_DATA,
                       "%s:%zu: \"%s\" is a conversation, and raw prompts are plain text; give the "
                       "text%s",
                       l->path, line->line, l->columns[COLUMN_PROMPT],
                       advice("raw", ", or leave --raw out"));
    if ((s.columns & BIT(COLUMN_TEXT)) && l->o->train_on == TRAIN_ON_ANSWERS)
        return err_set(e, ERR_USAGE,
                       "%s:%zu: rows of \"%s\" have no answers to tell apart; leave --train-on "
                       "out, or give \"messages\"",
                       l->path, line->line, l->columns[COLUMN_TEXT]);
    if (!l->shape_line) {
        l->shape = s;
        l->shape_line = line->line;
        return read_turns(l, line, e);
    }
    if (s.columns != l->shape.columns) {
        has_columns(line, l->shape.columns, &missing);
        if (!(l->shape.columns & ~s.columns)) /* more than the first row has */
            for (unsigned c = 0; c < COLUMN_COUNT; c++)
                if (s.columns & ~l->shape.columns & BIT(c)) missing = (Column)c;
        return err_set(e, ERR_DATA,
                       "%s:%zu: rows must have one shape: \"%s\" is %s here, but not in line %zu",
                       l->path, line->line, l->columns[missing],
                       line->value[missing] ? "present" : "missing", l->shape_line);
    }
    if (s.chat != l->shape.chat)
        return err_set(e, ERR_DATA, "%s:%zu: rows must have one shape: %s here, but %s in line %zu",
                       l->path, line->line, s.chat ? "lists of messages" : "text",
                       l->shape.chat ? "lists of messages" : "text", l->shape_line);
    return read_turns(l, line, e);
}

/* ---- what a row says ----------------------------------------------------------------------- */

static Piece piece_of(const Json *v)
{
    if (v->type == JSON_STRING) return (Piece){.text = v->text, .len = v->len};
    return (Piece){.turn = v->child, .turns = v->len};
}

int data_piece_empty(const Piece *p)
{
    return p->len == 0 && p->turns == 0;
}

/* Return a piece without its first n turns or bytes, and its first n. */
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

/* Says how a column of other values becomes one of true and false. */
static const char *label_hint(const Json *v)
{
    if (v->type == JSON_STRING) return " (jq -c '.label = (.label == \"GOOD\")' FILE >rows.jsonl)";
    if (v->type == JSON_NUMBER) return " (jq -c '.label = (.label > 0)' FILE >rows.jsonl)";
    return "";
}

static int read_label(const Loader *l, const Line *line, int *label, Err *e)
{
    const Json *v = line->value[COLUMN_LABEL];
    uint64_t number = 2;
    *label = v->type == JSON_TRUE;
    if (v->type == JSON_TRUE || v->type == JSON_FALSE) return 0;
    if (v->type == JSON_NUMBER && !json_u64(v, &number) && number <= 1) {
        *label = (int)number;
        return 0;
    }
    int shown = v->type == JSON_STRING || v->type == JSON_NUMBER;
    const char *quote = v->type == JSON_STRING ? "\"" : "";
    return err_set(e, ERR_DATA,
                   "%s:%zu: \"%s\" must be true or false (or 1 or 0), found %s%.40s%s%s",
                   l->path, line->line, l->columns[COLUMN_LABEL], quote,
                   shown ? v->text : data_json_kind(v), quote, label_hint(v));
}

/* Do turns that have more than role and a text, as tool_calls or parts, agree in all of it? */
static int same_members(const Json *a, const Json *b)
{
    Text one = {0}, other = {0};
    Err ignored; /* short of memory they count as different: the next step says so */
    int same = !json_put(&one, a, &ignored) && !json_put(&other, b, &ignored) &&
               one.len == other.len && !memcmp(one.data, other.data, one.len);
    text_free(&one);
    text_free(&other);
    return same;
}

static int same_turn(const Json *a, const Json *b)
{
    const Json *ra = json_get(a, "role"), *rb = json_get(b, "role");
    const Json *ca = json_get(a, "content"), *cb = json_get(b, "content");
    if (ra->len != rb->len || memcmp(ra->text, rb->text, ra->len) || a->len != b->len) return 0;
    if (a->len > 2 || ca->type != JSON_STRING || cb->type != JSON_STRING) return same_members(a, b);
    return ca->len == cb->len && !memcmp(ca->text, cb->text, ca->len);
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

/* Returns where two texts differ, by the rule of TRL's extract_prompt: at the first different
 * character, or before the space in front of it. If they never differ, the last character of the
 * shorter text belongs to the completions. */
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
    if (l->shape.chat && n == 0 && !data_piece_empty(chosen) && !data_piece_empty(rejected))
        return err_set(e, ERR_DATA,
                       "%s:%zu: no \"%s\", and \"%s\" and \"%s\" have no first turn in common to "
                       "take its place",
                       l->path, line->line, l->columns[COLUMN_PROMPT], l->columns[COLUMN_CHOSEN],
                       l->columns[COLUMN_REJECTED]);
    /* TRL looks at the character before the first one, which is the last one in Python. */
    if (!l->shape.chat && n == 0 && chosen->len && rejected->len &&
        chosen->text[0] != rejected->text[0])
        s->first_space = chosen->text[chosen->len - 1] == ' ';
    if (!l->shape.chat && n > 0 && n < chosen->len)
        s->word_cut = is_word_byte(chosen->text[n - 1]) && is_word_byte(chosen->text[n]);
    s->prompt = piece_first(*chosen, n);
    *chosen = piece_after(*chosen, n);
    *rejected = piece_after(*rejected, n);
    return 0;
}

TrainOn data_train_on(const Loader *l)
{
    if (l->o->train_on != TRAIN_ON_AUTO) return l->o->train_on;
    return l->shape.columns & BIT(COLUMN_MESSAGES) ? TRAIN_ON_ALL : TRAIN_ON_LAST;
}

/* Counts the turns of the assistant in a piece. */
static size_t count_answers(const Piece *p)
{
    size_t n = 0;
    const Json *turn = p->turn;
    for (size_t i = 0; i < p->turns; i++, turn = turn->next)
        n += (size_t)json_is(json_get(turn, "role"), "assistant");
    return n;
}

/* {"messages"}: all turns are the completion, or the last one, which must then be the assistant's,
 * answers the others. */
static int split_messages(const Loader *l, const Line *line, Saying *s, Err *e)
{
    TrainOn on = data_train_on(l);
    Piece all = piece_of(line->value[COLUMN_MESSAGES]);
    const Json *last = all.turn;
    while (last && last->next) last = last->next;
    s->answers = count_answers(&all);
    s->completion[0] = all;
    if (on == TRAIN_ON_ALL) return 0;
    if (on == TRAIN_ON_ANSWERS && s->answers) return 0;
    if (on == TRAIN_ON_ANSWERS)
        return err_set(e, ERR_DATA,
                       "%s:%zu: \"%s\" has no answer (a turn with the role assistant)%s", l->path,
                       line->line, l->columns[COLUMN_MESSAGES],
                       advice("train-on", "; --train-on all trains every turn"));
    if (!json_is(json_get(last, "role"), "assistant"))
        return err_set(e, ERR_DATA,
                       "%s:%zu: the last of \"%s\" must be an answer with the role assistant%s",
                       l->path, line->line, l->columns[COLUMN_MESSAGES],
                       advice("train-on", " (--train-on answers trains the answers, wherever they "
                                          "stand)"));
    s->prompt = piece_first(all, all.turns - 1);
    s->completion[0] = piece_after(all, all.turns - 1);
    return 0;
}

/* {"finish":"length"}: the answer was cut. */
static void read_finish(const Loader *l, const Line *line, Saying *s)
{
    static const char *const keys[3] = {DATA_FINISH, DATA_CHOSEN_FINISH, DATA_REJECTED_FINISH};
    size_t pair = l->shape.columns & BIT(COLUMN_CHOSEN) ? 1 : 0;
    for (size_t i = 0; i < s->n; i++)
        s->completion[i].open = json_is(json_get(line->json, keys[pair + i]), "length");
}

static int read_pieces(const Loader *l, const Line *line, Saying *s, Err *e)
{
    unsigned columns = l->shape.columns;
    *s = (Saying){.n = l->o->kind == DATA_PROMPTS ? 0 : 1};
    if (columns & BIT(COLUMN_PROMPT)) s->prompt = piece_of(line->value[COLUMN_PROMPT]);
    if (columns & BIT(COLUMN_LABEL) && read_label(l, line, &s->label, e)) return -1;
    if (columns & BIT(COLUMN_COMPLETION))
        s->completion[0] = piece_of(line->value[COLUMN_COMPLETION]);
    if (l->o->kind == DATA_COMPLETION) s->answers = count_answers(&s->completion[0]);
    if (columns & BIT(COLUMN_CHOSEN)) {
        s->n = 2;
        s->completion[0] = piece_of(line->value[COLUMN_CHOSEN]);
        s->completion[1] = piece_of(line->value[COLUMN_REJECTED]);
        if (!(columns & BIT(COLUMN_PROMPT))) return split_implicit(l, line, s, e);
    }
    if (columns & BIT(COLUMN_MESSAGES)) return split_messages(l, line, s, e);
    if (columns & BIT(COLUMN_TEXT)) {
        s->prompt = (Piece){.text = "", .len = 0};
        s->completion[0] = piece_of(line->value[COLUMN_TEXT]);
    }
    return 0;
}

int data_read(const Loader *l, const Line *line, Saying *s, Err *e)
{
    if (read_pieces(l, line, s, e)) return -1;
    read_finish(l, line, s);
    return 0;
}

/* Is a text prompt rendered by the chat template? */
static int prompt_is_chat(const Loader *l)
{
    return l->o->kind == DATA_PROMPTS && !l->o->raw && chat_exists(l->t, l->o->chat_template);
}

int data_is_chat(const Loader *l)
{
    return l->shape.chat || prompt_is_chat(l);
}

int data_open_chat(Loader *l, Err *e)
{
    if (!l->chat) l->chat = chat_open(l->t, l->o->chat_template, l->o->date, e);
    return l->chat ? 0 : -1;
}
