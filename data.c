/* data.c - reads preference rows from a JSONL file into tokens, by the rules of data.h.
 *
 * The order is that of reading: what a row says (data_shape.c), its tokens, then splitting,
 * dropping and cutting. data_report.c reports what was noticed.
 */
#include "data_parts.h"

#include <string.h>

const char *train_on_name(size_t i)
{
    static const char *const names[] = {"auto", "last", "answers", "all"};
    return i < sizeof names / sizeof *names ? names[i] : NULL;
}

const char *data_order_name(size_t i)
{
    static const char *const names[] = {"shuffle", "trl", "file"};
    return i < sizeof names / sizeof *names ? names[i] : NULL;
}

static const Option data_rows[] = {
    {"map", 0, OPTION_TEXT, NULL, NULL, "other names of columns: prompt=question,chosen=good",
     FIELD(DataOptions, map)},
    CHAT_TEMPLATE_ROW(FIELD(DataOptions, chat_template)),
    DATE_ROW("today", FIELD(DataOptions, date)),
    PARSE_SPECIAL_ROW(FIELD(DataOptions, parse_special)),
};
const OptionGroup data_options = OPTION_GROUP("Rows", data_rows);

static const Option length_rows[] = {
    {"max-length", 'c', OPTION_COUNT, "1024", "[0,1000000]",
     "largest number of tokens of prompt + completion; longer rows are cut, longer prompts "
     "dropped; 0 = no limit",
     FIELD(DataOptions, max_length)},
    {"drop-identical", 0, OPTION_FLAG, NULL, NULL, "leave out pairs whose two answers are equal",
     FIELD(DataOptions, drop_identical),
     .when = "~sft: kto: method=dpo methods=dpo|both"},
};
const OptionGroup data_length_options = OPTION_GROUP("Length", length_rows);

/* TRL turns pairs into single rows block by block (datasets' default batch of map). */
#define UNPAIR_BLOCK 1000

/* ---- tokens -------------------------------------------------------------------------------- */

static int add_message(Loader *l, size_t *n, ChatMessage m, Err *e)
{
    if (mem_grow(&l->messages, &l->cap_messages, *n, sizeof *l->messages, e)) return -1;
    l->messages[(*n)++] = m;
    return 0;
}

static int add_turns(Loader *l, size_t *n, const Piece *p, Err *e)
{
    const Json *turn = p->turn;
    for (size_t i = 0; i < p->turns; i++, turn = turn->next) {
        const Json *content = json_get(turn, "content");
        int is_text = content->type == JSON_STRING; /* else the template reads it in the turn */
        ChatMessage m = {json_get(turn, "role")->text, is_text ? content->text : "",
                         is_text ? content->len : 0, turn};
        if (add_message(l, n, m, e)) return -1;
    }
    return 0;
}

/* Encodes a conversation, with the opening of the next answer if no completion follows. */
static int encode_turns(Loader *l, const Json *row, const Piece *prompt, const Piece *completion,
                        int flags, Ids *out, Err *e)
{
    size_t n = 0;
    const DataOptions *o = l->o;
    int no_system, own = o->kind == DATA_PROMPTS && o->system;
    if (data_open_chat(l, e)) return -1;
    if (prompt->turns && json_is(json_get(prompt->turn, "role"), "system")) own = 0;
    if (own && add_message(l, &n, chat_message("system", o->system, strlen(o->system)), e))
        return -1;
    if (prompt->text && add_message(l, &n, chat_message("user", prompt->text, prompt->len), e))
        return -1;
    if (add_turns(l, &n, prompt, e)) return -1;
    if (completion && add_turns(l, &n, completion, e)) return -1;
    Chat chat = {l->messages, n, !completion ? 1 : completion->open ? CHAT_OPEN : 0, row};
    if (chat_encode(l->chat, l->t, &chat, flags, out, &no_system, e)) return -1;
    l->no_system |= no_system && completion;
    return 0;
}

/* Encodes prompt and completion as one string, which is what the model reads. */
static int encode_text(Loader *l, const Piece *prompt, const Piece *completion, int flags, Ids *out,
                       Err *e)
{
    flags |= TOKENIZE_ADD;
    if (!completion) return tokenizer_encode(l->t, prompt->text, prompt->len, flags, out, e);
    Text joint = {0};
    int failed = text_add(&joint, prompt->text, prompt->len, e) ||
                 text_add(&joint, completion->text, completion->len, e) ||
                 tokenizer_encode(l->t, joint.data, joint.len, flags, out, e);
    text_free(&joint);
    if (failed || !l->o->append_eos || completion->open) return failed ? -1 : 0;

    int32_t eos = tokenizer_eos(l->t);
    if (eos < 0)
        return err_set(e, ERR_DATA,
                       "tokenizer_config.json names no eos_token: answers could not be ended");
    if (out->count && out->ids[out->count - 1] == eos) return 0;
    return ids_add(out, eos, e);
}

/* Encodes the prompt, or prompt and completion; *out is emptied first. flags: TOKENIZE_SPECIAL or
 * 0. */
static int encode(Loader *l, const Line *line, const Piece *prompt, const Piece *completion,
                  int flags, Ids *out, Err *e)
{
    out->count = 0;
    int failed = data_is_chat(l) ? encode_turns(l, line->json, prompt, completion, flags, out, e)
                                 : encode_text(l, prompt, completion, flags, out, e);
    return failed ? err_prefix(e, "%s:%zu", l->path, line->line) : 0;
}

/* ---- control tokens in texts --------------------------------------------------------------- */

/* Collects the bytes with which the special tokens of the vocabulary begin. */
static void find_first_bytes(Loader *l)
{
    for (size_t id = 0; id < tokenizer_size(l->t); id++) {
        size_t len = 0;
        if (!tokenizer_is_special(l->t, (int32_t)id)) continue;
        const char *piece = tokenizer_piece(l->t, (int32_t)id, &len);
        if (piece && len) l->first[(unsigned char)piece[0]] = 1;
    }
    l->first_known = 1;
}

static int text_may_spell(const Loader *l, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (l->first[(unsigned char)text[i]]) return 1;
    return 0;
}

/* Is there a byte with which a control token could begin? */
static int may_spell(const Loader *l, const Piece *p)
{
    const Json *turn = p->turn;
    if (p->text) return text_may_spell(l, p->text, p->len);
    for (size_t i = 0; i < p->turns; i++, turn = turn->next) {
        const Json *content = json_get(turn, "content");
        if (turn->len > 2 || content->type == JSON_ARRAY) return 1;
        if (text_may_spell(l, content->text, content->len)) return 1;
    }
    return 0;
}

static int same_ids(const Ids *a, const Ids *b)
{
    return a->count == b->count && !memcmp(a->ids, b->ids, a->count * sizeof *a->ids);
}

static int spells_mark(const Loader *l, const Json *text)
{
    return text && text->type == JSON_STRING && chat_spelled(l->chat, text->text, text->len);
}

/* Do turns of the piece spell marks of the template? */
static int spells_marks(const Loader *l, const Piece *p)
{
    const Json *turn = p->turn;
    if (p->text) return chat_spelled(l->chat, p->text, p->len) != NULL;
    for (size_t i = 0; i < p->turns; i++, turn = turn->next) {
        const Json *content = json_get(turn, "content");
        if (spells_mark(l, content)) return 1;
        const Json *part = content->type == JSON_ARRAY ? content->child : NULL;
        for (; part; part = part->next)
            if (spells_mark(l, part->type == JSON_OBJECT ? json_get(part, "text") : part)) return 1;
    }
    return 0;
}

/* Does a row (its ids are `read`) spell control tokens? Read as letters they are not what TRL
 * trains; read as tokens, a spelled BOS follows the tokenizer's own. */
static int note_control(Loader *l, const Line *line, const Saying *s, const Piece *completion,
                        const Ids *read, RowNote *note, Err *e)
{
    int32_t bos = tokenizer_bos(l->t);
    if (l->chat && (spells_marks(l, &s->prompt) || (completion && spells_marks(l, completion))))
        *note = ROW_MARKS;
    if (l->o->parse_special) {
        if (read->count > 1 && bos >= 0 && read->ids[0] == bos && read->ids[1] == bos)
            *note = ROW_TWO_STARTS;
        return 0;
    }
    if (!l->first_known) find_first_bytes(l);
    int more = data_is_chat(l) && (json_get(line->json, "tools") ||
                                   json_get(line->json, "chat_template_kwargs"));
    if (!more && !may_spell(l, &s->prompt) && !(completion && may_spell(l, completion))) return 0;
    if (encode(l, line, &s->prompt, completion, TOKENIZE_SPECIAL, &l->spelled, e)) return -1;
    if (!same_ids(read, &l->spelled)) *note = ROW_CONTROL;
    return 0;
}

/* Marks the trained answers: l->marks of the ids of the conversation. */
static int mark_answers(Loader *l, const Line *line, const Saying *s, Err *e)
{
    size_t n = 0;
    int flags = l->o->parse_special ? TOKENIZE_SPECIAL : 0;
    if (add_turns(l, &n, &s->prompt, e) || add_turns(l, &n, &s->completion[0], e)) return -1;
    const Chat chat = {l->messages, n, 0, line->json};
    if (!chat_encode_answers(l->chat, l->t, &chat, flags, &l->spelled, &l->marks, e))
        return 0;
    return err_prefix(e, "%s:%zu", l->path, line->line);
}

/* Encodes a row: the prompt, and the prompt with each completion. */
static int encode_row(Loader *l, const Line *line, const Saying *s, size_t from, size_t n, Err *e)
{
    int flags = l->o->parse_special ? TOKENIZE_SPECIAL : 0;
    int marks = l->shape.chat && data_train_on(l) == TRAIN_ON_ANSWERS;
    RowNote note = ROW_NOTES;
    l->no_system = 0;
    l->prompt.count = 0; /* a conversation that is one completion has no prompt to encode */
    if ((s->prompt.text || s->prompt.turns || n == 0) &&
        encode(l, line, &s->prompt, NULL, flags, &l->prompt, e))
        return -1;
    if (n == 0 && note_control(l, line, s, NULL, &l->prompt, &note, e)) return -1;
    for (size_t i = 0; i < n; i++) {
        const Piece *completion = &s->completion[from + i];
        if (encode(l, line, &s->prompt, completion, flags, &l->full[i], e) ||
            (marks && mark_answers(l, line, s, e)) ||
            note_control(l, line, s, completion, &l->full[i], &note, e))
            return -1;
    }
    if (note != ROW_NOTES) data_note(l, note, line->line);
    if (l->no_system) data_note(l, ROW_NO_SYSTEM, line->line);
    return 0;
}

/* ---- splitting ----------------------------------------------------------------------------- */

static size_t common_prefix(const Ids *a, const Ids *b)
{
    size_t n = 0;
    while (n < a->count && n < b->count && a->ids[n] == b->ids[n]) n++;
    return n;
}

/* Returns a hash of a list of ids: equal lists have equal numbers. */
static uint64_t hash_ids(uint64_t key, const int32_t *ids, size_t n)
{
    key = rng_mix(key, n);
    for (size_t i = 0; i < n; i++) key = rng_mix(key, (uint32_t)ids[i]);
    return key;
}

/* ---- what stays ---------------------------------------------------------------------------- */

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

/* Applies train_on to the only completion of a row: the prompt ends earlier (all), or where the
 * first answer begins; *scored then marks the tokens of answers after it. */
static int apply_train_on(Loader *l, size_t *split, unsigned char **scored, Err *e)
{
    TrainOn on = data_train_on(l);
    *scored = NULL;
    if (on == TRAIN_ON_ALL) *split = 0;
    if (on != TRAIN_ON_ANSWERS || !l->shape.chat) return 0;
    size_t n = l->full[0].count, first = *split;
    while (first < n && !l->marks.data[first]) first++;
    *split = first;
    *scored = pool_alloc(&l->d->pool, n - first + 1, e);
    if (!*scored) return -1;
    memcpy(*scored, l->marks.data + first, n - first);
    return 0;
}

/* Applies rules 4 and 5 of data.h to the ids of one row: prompt, and n joint lists. Fills the row;
 * *keep = 0 if it is dropped. */
static int split_row(Loader *l, const Line *line, size_t n, Row *row, int *keep, Err *e)
{
    size_t max = l->o->max_length, split = l->prompt.count;
    int empty = 0;
    *keep = 0;
    for (size_t i = 0; i < n; i++) {
        size_t common = common_prefix(&l->prompt, &l->full[i]);
        if (common < split) split = common;
    }
    int merged = split < l->prompt.count;
    if (l->o->kind == DATA_COMPLETION && apply_train_on(l, &split, &row->scored, e)) return -1;
    size_t before = split ? split : 1; /* a first token is never scored */
    for (size_t i = 0; i < n; i++) {
        empty |= l->full[i].count <= before;
        if (note_length(l, l->full[i].count, e)) return -1;
    }
    if (n == 0 && note_length(l, split, e)) return -1;
    if (empty && !l->o->keep_empty) return data_note(l, ROW_EMPTY, line->line), 0;
    if (max && before >= max) return data_note(l, ROW_LONG, line->line), 0;

    if (merged && split) data_note(l, ROW_MERGED, line->line);
    row->prompt_key = hash_ids(0, l->prompt.ids, l->prompt.count);
    row->n_prompt = split;
    row->prompt = keep_ids(l, n ? l->full[0].ids : l->prompt.ids, split, e);
    if (!row->prompt) return -1;
    for (size_t i = 0; i < n; i++) {
        size_t end = l->full[i].count;
        row->n_uncut[i] = end - split;
        row->completion[i] = keep_ids(l, l->full[i].ids + split, end - split, e);
        if (max && end > max) end = max, data_note(l, ROW_CUT, line->line);
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

static void count_scored(DataReport *r, const Row *row, size_t answers)
{
    size_t n = row->n_completion[0], scored = n;
    for (size_t t = 0; row->scored && t < n; t++) scored -= !row->scored[t];
    if (row->n_prompt == 0 && n && !(row->scored && !row->scored[0])) scored--;
    r->scored += scored;
    r->tokens += row->n_prompt + n;
    r->answers += answers;
    r->several += answers > 1;
}

/* Makes one row of the data set from completions [from, from + n) of a parsed row. */
static int add_row(Loader *l, const Line *line, size_t index, const Saying *s, size_t from,
                   size_t n, int label, Err *e)
{
    Dataset *d = l->d;
    DataReport *report = &d->report;
    int no_text = 0;
    for (size_t i = 0; i < n; i++) no_text |= data_piece_empty(&s->completion[from + i]);
    if (no_text && !l->o->keep_empty) return data_note(l, ROW_EMPTY, line->line), 0;
    if (encode_row(l, line, s, from, n, e)) return -1;
    Row row = {.line = line->line, .index = index, .label = label, .source = line->json};
    int keep;
    if (split_row(l, line, n, &row, &keep, e)) return -1;
    if (!keep) return 0;
    if (n == 2 && same_completions(&row)) {
        if (l->o->drop_identical) return data_note(l, ROW_SAME_DROPPED, line->line), 0;
        data_note(l, ROW_SAME, line->line);
    }
    if ((l->shape.columns & BIT(COLUMN_PROMPT)) && data_piece_empty(&s->prompt))
        data_note(l, ROW_NO_PROMPT, line->line);
    if (d->kind == DATA_COMPLETION) count_scored(report, &row, s->answers);
    if (s->word_cut) data_note(l, ROW_WORD_CUT, line->line);
    if (s->completion[from].open || (n == 2 && s->completion[1].open))
        data_note(l, ROW_OPEN, line->line);
    if (s->first_space) data_note(l, ROW_FIRST_SPACE, line->line);
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
        Line line = {.json = json, .line = j.line};
        more = -1;
        if (data_row_shape(l, &line, e) || data_note_unread(l, &line, e)) break;
        if (mem_grow(&l->lines, &l->cap_lines, l->n_lines, sizeof *l->lines, e)) break;
        l->lines[l->n_lines++] = line;
    }
    l->d->report.lines = l->n_lines;
    l->d->report.blank = j.blank_lines;
    jsonl_close(&j);
    return more;
}

/* Makes rows of the wanted kind from all lines. */
static int read_rows(Loader *l, Err *e)
{
    Saying s;
    int unpair = l->o->kind == DATA_UNPAIRED && (l->shape.columns & BIT(COLUMN_CHOSEN));
    if (!unpair) {
        for (size_t i = 0; i < l->n_lines; i++)
            if (data_read(l, &l->lines[i], &s, e) ||
                add_row(l, &l->lines[i], i, &s, 0, s.n, s.label, e))
                return -1;
        return 0;
    }
    for (size_t block = 0; block < l->n_lines; block += UNPAIR_BLOCK) {
        size_t end = l->n_lines - block < UNPAIR_BLOCK ? l->n_lines : block + UNPAIR_BLOCK;
        for (size_t side = 0; side < 2; side++)
            for (size_t i = block; i < end; i++)
                if (data_read(l, &l->lines[i], &s, e) ||
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

/* Computes the key of a row: equal rows have equal keys. */
typedef struct {
    uint64_t key;
    size_t line;
} RowKey;

static int compare_keys(const void *a, const void *b)
{
    const RowKey *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return (x->line > y->line) - (x->line < y->line);
}

/* Computes length percentiles by the nearest-rank rule. */
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

/* Sorts the keys of all rows (prompt, completions, label). */
static RowKey *row_keys(const Dataset *d, Err *e)
{
    RowKey *keys = mem_calloc(d->count, sizeof *keys, e);
    for (size_t i = 0; keys && i < d->count; i++) {
        const Row *r = &d->rows[i];
        keys[i].line = r->line;
        keys[i].key = hash_ids((uint64_t)r->label, r->prompt, r->n_prompt);
        for (size_t side = 0; side < 2; side++)
            keys[i].key = hash_ids(keys[i].key, r->completion[side], r->n_completion[side]);
    }
    if (keys) sort_items(keys, d->count, sizeof *keys, compare_keys);
    return keys;
}

static int count_duplicates(Loader *l, Err *e)
{
    RowCount *copies = &l->d->report.notes[ROW_COPY];
    RowKey *keys = row_keys(l->d, e);
    if (!keys) return -1;
    for (size_t i = 1; i < l->d->count; i++) {
        if (keys[i].key != keys[i - 1].key) continue;
        if (!copies->rows++ || keys[i].line < copies->line) copies->line = keys[i].line;
    }
    mem_free(keys);
    return 0;
}

int data_overlap(const Dataset *a, const Dataset *b, size_t *count, Err *e)
{
    RowKey *ka = row_keys(a, e), *kb = ka ? row_keys(b, e) : NULL;
    *count = 0;
    for (size_t i = 0, j = 0; kb && j < b->count; j++) {
        while (i < a->count && ka[i].key < kb[j].key) i++;
        *count += i < a->count && ka[i].key == kb[j].key;
    }
    mem_free(ka);
    mem_free(kb);
    return kb ? 0 : -1;
}

/* Fails if no row is left, and says what happened to them. */
static int check_usable(const Loader *l, Err *e)
{
    const DataReport *r = &l->d->report;
    if (l->d->count) return 0;
    if (r->lines == 0) return err_set(e, ERR_DATA, "%s: 0 usable rows: the file is empty", l->path);
    return err_set(e, ERR_DATA,
                   "%s: 0 usable rows of %zu: %zu with an empty completion, %zu with a prompt of "
                   "%zu tokens or more%s, %zu with chosen equal to rejected",
                   l->path, r->lines, r->notes[ROW_EMPTY].rows, r->notes[ROW_LONG].rows,
                   l->o->max_length, advice("max-length", " (--max-length)"),
                   r->notes[ROW_SAME_DROPPED].rows);
}

int data_load(Dataset *d, const char *path, const DataOptions *o, const Tokenizer *t,
              const Log *log, Err *e)
{
    *d = (Dataset){.kind = o->kind, .path = path};
    Loader l = {.d = d, .o = o, .t = t, .path = path, .log = log};
    int failed = data_map(&l, e) || read_lines(&l, e) || read_rows(&l, e) || check_usable(&l, e) ||
                 count_duplicates(&l, e);
    if (!failed) find_percentiles(&l);
    d->chat = l.chat;
    d->report.train_on = data_train_on(&l);
    d->report.own_rows = o->own_rows;
    if (d->chat && chat_reads(d->chat, "strftime_now")) chat_date(d->chat, d->report.date);
    mem_free(l.map);
    mem_free(l.lines);
    mem_free(l.messages);
    mem_free(l.lengths);
    ids_free(&l.prompt);
    ids_free(&l.full[0]);
    ids_free(&l.full[1]);
    ids_free(&l.spelled);
    text_free(&l.marks);
    if (failed) data_close(d);
    return failed ? -1 : 0;
}

void data_close(Dataset *d)
{
    mem_free(d->rows);
    unread_free(&d->report.unread);
    chat_close(d->chat);
    pool_free(&d->pool);
    *d = (Dataset){0};
}
