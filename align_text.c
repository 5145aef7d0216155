/* align_text.c - align tokenize and align score: the commands about given text. */
#include "align.h"
#include "score.h"

#include <string.h>

/* ---- align tokenize ------------------------------------------------------------------------ */

static const Option tokenize_rows[] = {
    {"prompt", 'p', OPTION_TEXT, NULL, NULL,
     "text whose ids are printed, each with its piece", BY_NAME},
    {"data", 0, OPTION_FILE, NULL, NULL,
     "JSONL rows {\"text\"}, or conversations {\"messages\"} (- = standard input)", BY_NAME},
    {"output", 'o', OPTION_FILE, NULL, NULL,
     "JSONL rows {\"index\",\"ids\"} (default: standard output)", BY_NAME},
    CHAT_TEMPLATE_ROW(BY_NAME, .when = "data"),
    DATE_ROW("today", BY_NAME, .when = "data"),
    PARSE_SPECIAL_ROW(BY_NAME),
    {"no-special", 0, OPTION_FLAG, NULL, NULL, "leave out what the tokenizer adds (BOS, EOS)",
     BY_NAME},
    {"json", 0, OPTION_FLAG, NULL, NULL, "with --prompt: one JSON object instead of lines",
     BY_NAME},
};
static const OptionGroup tokenize_group = OPTION_GROUP("Text", tokenize_rows);
static const OptionGroup *const tokenize_groups[] = {&model_options, &tokenize_group, &group_quiet,
                                                     NULL};
static const OptionTable tokenize_table = {"tokenize", "token ids of texts", NULL,
                                           "align tokenize -m MODEL -p \"Hello world\"",
                                           tokenize_groups, NULL};

/* Writes the pieces of -p: one line each, or one object. */
static int put_pieces(const Tokenizer *t, const Ids *ids, int json, Text *out, Err *e)
{
    if (json && (text_add(out, "{", 1, e) || put_ids(out, "ids", ids->ids, ids->count, e) ||
                 text_addf(out, e, ",\"pieces\":[")))
        return -1;
    for (size_t i = 0; i < ids->count; i++) {
        size_t len = 0;
        const char *piece = tokenizer_piece(t, ids->ids[i], &len);
        if (json ? i && text_add(out, ",", 1, e) : text_addf(out, e, "%7ld  ", (long)ids->ids[i]))
            return -1;
        if (json_put_string(out, piece ? piece : "", len, e)) return -1;
        if (!json &&
            text_addf(out, e, "%s\n", tokenizer_is_special(t, ids->ids[i]) ? "  special" : ""))
            return -1;
    }
    return json ? text_addf(out, e, "]}\n") : 0;
}

/* What a file of rows is encoded with; the template is opened at the first conversation. */
typedef struct {
    const Tokenizer *t;
    int flags;
    const char *chat_template, *date; /* --chat-template, --date */
    ChatTemplate *chat;
    ChatMessage *messages;
    size_t cap;
    Ids ids;
    UnreadNames unread;
} RowEncoder;

/* The list of messages as it stands in the row. */
static int take_messages(RowEncoder *r, const Json *list, Err *e)
{
    size_t n = 0;
    for (const Json *m = list->child; m; m = m->next) {
        const Json *role = json_get(m, "role");
        if (mem_grow(&r->messages, &r->cap, n, sizeof *r->messages, e)) return -1;
        r->messages[n++] = (ChatMessage){role && role->text ? role->text : "", "", 0, m};
    }
    return 0;
}

/* {"index","text","ids"} of a conversation: what its messages say becomes no control token. */
static int tokenize_conversation(RowEncoder *r, const Json *row, const Json *messages, size_t index,
                                 Text *out, Err *e)
{
    const Json *prompt = json_get(row, "add_generation_prompt");
    if (prompt && prompt->type != JSON_TRUE && prompt->type != JSON_FALSE)
        return err_set(e, ERR_DATA, "\"add_generation_prompt\" must be true or false");
    if (!r->chat && !(r->chat = chat_open(r->t, r->chat_template, r->date, e))) return -1;
    if (take_messages(r, messages, e)) return -1;
    const Chat chat = {r->messages, messages->len, !prompt || prompt->type == JSON_TRUE, row};
    Text text = {0};
    r->ids.count = 0;
    int failed = chat_render(r->chat, r->t, &chat, &text, e) ||
                 chat_encode(r->chat, r->t, &chat, r->flags, &r->ids, NULL, e) ||
                 text_addf(out, e, "{\"index\":%zu,\"text\":", index) ||
                 json_put_string(out, text.data, text.len, e) || text_addf(out, e, ",") ||
                 put_ids(out, "ids", r->ids.ids, r->ids.count, e) || text_addf(out, e, "}\n");
    text_free(&text);
    return failed ? -1 : 0;
}

/* Counts the columns of a row besides the one that is encoded, and keys of its turns. */
static int note_unread(RowEncoder *r, const Json *row, const Json *encoded, size_t line, Err *e)
{
    int turns = encoded->type == JSON_ARRAY;
    if (turns && unread_turns(&r->unread, encoded, r->chat, line, e)) return -1;
    for (const Json *v = row->child; v; v = v->next) {
        if (v == encoded || v->type == JSON_NULL) continue;
        if (turns && (!strcmp(v->key, "add_generation_prompt") || data_chat_reads(r->chat, v)))
            continue;
        if (unread_add(&r->unread, v->key, 0, NULL, line, e)) return -1;
    }
    return 0;
}

/* Encodes one row of --data and appends its line to out. */
static int tokenize_row(RowEncoder *r, const Json *row, size_t index, size_t line, Text *out,
                        Err *e)
{
    const Json *text = json_get(row, "text"), *messages = json_get(row, "messages");
    if (!messages) messages = json_get(row, "prompt");
    if (!text && messages && messages->type == JSON_ARRAY)
        return tokenize_conversation(r, row, messages, index, out, e) ||
                       note_unread(r, row, messages, line, e)
                   ? -1
                   : 0;
    if (!text || text->type != JSON_STRING)
        return err_set(e, ERR_DATA, "\"text\" must be a string, or \"messages\" a list");
    r->ids.count = 0;
    return tokenizer_encode(r->t, text->text, text->len, r->flags, &r->ids, e) ||
                   note_unread(r, row, text, line, e) ||
                   text_addf(out, e, "{\"index\":%zu,", index) ||
                   put_ids(out, "ids", r->ids.ids, r->ids.count, e) || text_addf(out, e, "}\n")
               ? -1
               : 0;
}

static int tokenize_file(const Tokenizer *t, const Options *o, int flags, Err *e)
{
    const char *path = option_text(o, "data");
    JsonLines lines;
    Output out;
    Text text = {0};
    RowEncoder r = {.t = t,
                    .flags = flags,
                    .chat_template = option_text(o, "chat-template"),
                    .date = option_text(o, "date")};
    if (jsonl_open(&lines, path, e)) return -1;
    int status = output_open(&out, option_text(o, "output"), e), more = 1;
    for (size_t index = 0; !status && more > 0; index++) {
        Pool pool = {0};
        Json *row = NULL;
        more = jsonl_next(&lines, &pool, &row, e);
        status = more < 0 ? -1 : 0;
        text.len = 0;
        if (more > 0 && tokenize_row(&r, row, index, lines.line, &text, e))
            status = err_prefix(e, "%s:%zu", path, lines.line);
        if (more > 0 && !status) status = output_put(&out, text.data, text.len, e);
        if (stop_requested && !status) status = err_set(e, ERR_INTERRUPTED, "interrupted");
        pool_free(&pool);
    }
    if (!status) status = output_commit(&out, e);
    if (!status) unread_tell(&r.unread, path, "", notes());
    output_abort(&out);
    unread_free(&r.unread);
    chat_close(r.chat);
    mem_free(r.messages);
    text_free(&text);
    ids_free(&r.ids);
    jsonl_close(&lines);
    return status;
}

static int tokenize_run(const Options *o, Err *e)
{
    const char *prompt = option_text(o, "prompt");
    if (!prompt == !option_text(o, "data"))
        return err_set(e, ERR_USAGE,
                       "--prompt TEXT or --data FILE is needed, and only one of them");
    int flags = (option_flag(o, "parse-special") ? TOKENIZE_SPECIAL : 0) |
                (option_flag(o, "no-special") ? 0 : TOKENIZE_ADD);
    Tokenizer *t = tokenizer_load(option_text(o, "model"), notes(), e);
    if (!t) return -1;
    Ids ids = {0};
    Text text = {0};
    int status;
    if (!prompt) {
        status = tokenize_file(t, o, flags, e);
    } else {
        status = tokenizer_encode(t, prompt, strlen(prompt), flags, &ids, e);
        if (!status) status = put_pieces(t, &ids, option_flag(o, "json"), &text, e);
        if (!status) status = print_text(&text, e);
    }
    text_free(&text);
    ids_free(&ids);
    tokenizer_free(t);
    return status;
}

const Command command_tokenize = {&tokenize_table, tokenize_run};

/* ---- align score --------------------------------------------------------------------------- */

static const Option completion_rows[] = {
    {"data", 0, OPTION_FILE, option_required, NULL,
     "JSONL rows {\"prompt\",\"completion\"}, as text or conversations", BY_NAME},
    {"output", 'o', OPTION_FILE, NULL, NULL, "JSONL, one row each (default: standard output)",
     BY_NAME},
    {"tokens", 0, OPTION_FLAG, NULL, NULL,
     "also write id and log-prob of each completion token", BY_NAME},
    {"eos", 0, OPTION_FLAG, NULL, NULL, "append the end token to plain-text completions",
     BY_NAME},
};
static const OptionGroup score_group = OPTION_GROUP("Score", completion_rows);
static const OptionGroup *const score_groups[] = {
    &model_options,  &adapter_options, &score_group, &data_options,
    &engine_options, &group_quiet,     NULL};
static const OptionTable score_table = {
    "score", "log-probs of given completions", NULL,
    "align score -m MODEL --data rows.jsonl --tokens -o scores.jsonl", score_groups,
    "model adapter data output tokens eos map chat-template precision threads"};

/* What is needed to write the scores of the rows. */
typedef struct {
    const Dataset *data;
    Output out;
    Text line;
    int tokens; /* --tokens */
    uint64_t scored;
    Progress progress;
} ScoreWriter;

/* "token_logps":[null,-1.25]: null for a first token, which nothing precedes. */
static int put_token_logps(Text *out, const Score *s, Err *e)
{
    if (text_addf(out, e, ",\"token_logps\":[")) return -1;
    for (size_t t = 0; t < s->n; t++) {
        if (t && text_add(out, ",", 1, e)) return -1;
        int status = t < s->skipped ? text_add(out, "null", 4, e)
                                    : json_put_f32(out, (float)s->logp[t - s->skipped], e);
        if (status) return -1;
    }
    return text_add(out, "]", 1, e);
}

static int write_score(void *ctx, const Score *s, Err *e)
{
    ScoreWriter *w = ctx;
    const Row *row = &w->data->rows[s->row];
    Text *line = &w->line;
    line->len = 0;
    if (score_check(s, row->line, e)) return -1;
    if (text_addf(line, e,
                  "{\"index\":%zu,\"prompt_tokens\":%zu,\"completion_tokens\":%zu,"
                  "\"logp\":",
                  row->index, row->n_prompt, s->n) ||
        json_put_f64(line, s->sum, e))
        return -1;
    if (w->tokens && (text_add(line, ",", 1, e) || put_ids(line, "token_ids", s->ids, s->n, e) ||
                      put_token_logps(line, s, e)))
        return -1;
    if (text_addf(line, e, "}\n") || output_put(&w->out, line->data, line->len, e)) return -1;
    w->scored += row->n_prompt + s->n;
    progress_show(&w->progress, s->row + 1, w->data->count, w->scored, NULL);
    return 0;
}

static int score_run(const Options *o, Err *e)
{
    Engine g = {0};
    Dataset data = {0};
    ScoreWriter w = {.data = &data, .tokens = option_flag(o, "tokens")};
    DataOptions rows = row_options(o, DATA_COMPLETION);
    rows.append_eos = option_flag(o, "eos");
    rows.keep_empty = 1; /* every row is answered */
    int status = output_open(&w.out, option_text(o, "output"), e);
    if (!status) status = engine_from(&g, o, e);
    if (!status) status = data_load(&data, option_text(o, "data"), &rows, g.tokenizer, notes(), e);
    if (!status) {
        data_describe(&data, notes());
        chat_check(data.chat, g.tokenizer, 0, notes());
        if (!data.chat && !rows.parse_special) chat_check_plain(g.tokenizer, notes());
        chat_check_adapter(data.chat, option_text(o, "adapter"), notes());
        progress_begin(&w.progress, "score", "tokens");
        status = score_rows(&g.model, g.adapter, &g.compute, data.rows, data.count, 1, 0,
                            write_score, &w, e);
        progress_end(&w.progress);
        if (status && e->code == ERR_DATA) err_prefix(e, "%s", option_text(o, "data"));
    }
    if (!status) status = engine_check(&g, e);
    if (!status) status = output_commit(&w.out, e);
    output_abort(&w.out);
    text_free(&w.line);
    data_close(&data);
    engine_close(&g);
    return status;
}

const Command command_score = {&score_table, score_run};
