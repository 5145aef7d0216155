/* align_rows.c - shows a row as the model gets it: its tokens, and which of them are scored. */
#include "align.h"

#include <string.h>

/* Writes the text of tokens for people. Anything but letters, signs and spaces is escaped as in
 * JSON, so that it can neither break the line nor control a terminal. */
static int put_escaped(Text *out, const char *text, size_t len, Err *e)
{
    size_t from = out->len, end;
    if (json_put_string(out, text, len, e)) return -1;
    end = out->len - 1; /* without the quotes */
    memmove(out->data + from, out->data + from + 1, end - from - 1);
    out->len = end - 1;
    out->data[out->len] = 0;
    return 0;
}

/* Is it an invisible character that json_put_string lets through? Among tokens joiners are, too. */
static int is_hidden(uint32_t c)
{
    return (c >= 0x7f && is_unseen(c)) || c == 0x200c || c == 0x200d;
}

static int put_token(Text *out, const Text *token, Err *e)
{
    for (size_t at = 0, n; at < token->len; at += n) {
        n = utf8_step(token->data + at, token->len - at);
        uint32_t c = n ? utf8_code(token->data + at, n) : 0;
        if (!n) n = 1; /* put_escaped writes U+FFFD for it */
        int failed = is_hidden(c) ? text_addf(out, e, "\\u%04x", (unsigned)c)
                                  : put_escaped(out, token->data + at, n, e);
        if (failed) return -1;
    }
    return 0;
}

/* The prompt and one completion. Token t is scored if scored[t] is set. */
typedef struct {
    const Tokenizer *t;
    const Row *row;
    size_t side, n;
} Sequence;

static int32_t id_at(const Sequence *s, size_t t)
{
    size_t prompt = s->row->n_prompt;
    return t < prompt ? s->row->prompt[t] : s->row->completion[s->side][t - prompt];
}

/* The first token is never scored, since nothing predicts it. */
static int scored_at(const Sequence *s, size_t t)
{
    size_t prompt = s->row->n_prompt;
    if (t < prompt || t == 0) return 0;
    return s->side || !s->row->scored || s->row->scored[t - prompt];
}

/* Writes token by token, as bytes become whole characters; scored tokens in brackets, a dot between
 * others: <s>·Once[ upon]. */
static int put_text(const Sequence *s, Text *out, Err *e)
{
    Decoder d;
    Text token = {0};
    int status = 0;
    decoder_begin(&d, s->t, 0);
    for (size_t t = 0; t < s->n && !status; t++) {
        int scored = scored_at(s, t), dot = t && !scored && !scored_at(s, t - 1);
        token.len = 0;
        status = decoder_put(&d, id_at(s, t), &token, e);
        if (!status && t + 1 == s->n) status = decoder_flush(&d, &token, e);
        status = status ||
                 text_addf(out, e, "%s",
                           scored ? "["
                           : dot  ? "\xc2\xb7"
                                  : "") ||
                 put_token(out, &token, e) || text_addf(out, e, "%s", scored ? "]" : "");
    }
    decoder_free(&d);
    text_free(&token);
    return status ? -1 : 0;
}

static size_t count_scored(const Sequence *s)
{
    size_t n = 0;
    for (size_t t = 0; t < s->n; t++) n += (size_t)scored_at(s, t);
    return n;
}

static int put_json(const Sequence *s, const char *name, Text *out, Err *e)
{
    Text text = {0};
    int status = text_addf(out, e, "{\"side\":\"%s\",\"ids\":[", name);
    for (size_t t = 0; t < s->n && !status; t++)
        status = text_addf(out, e, "%s%ld", t ? "," : "", (long)id_at(s, t));
    if (!status) status = text_addf(out, e, "],\"scored\":[");
    for (size_t t = 0; t < s->n && !status; t++)
        status = text_addf(out, e, "%s%d", t ? "," : "", scored_at(s, t));
    status = status || text_addf(out, e, "],\"text\":") || put_text(s, &text, e) ||
             json_put_string(out, text.data ? text.data : "", text.len, e) ||
             text_add(out, "}", 1, e);
    text_free(&text);
    return status ? -1 : 0;
}

int put_row_tokens(const Tokenizer *t, const Row *row, size_t sides, int json, Text *out, Err *e)
{
    static const char *const pair[] = {"chosen", "rejected"};
    int status = json ? text_addf(out, e, "[") : 0;
    for (size_t side = 0; side < sides && !status; side++) {
        Sequence s = {t, row, side, row->n_prompt + row->n_completion[side]};
        const char *name = sides > 1 ? pair[side] : "completion";
        if (json) {
            status = text_addf(out, e, "%s", side ? "," : "") || put_json(&s, name, out, e);
            continue;
        }
        status = text_addf(out, e, "row of line %zu, %s: %zu tokens, %zu of them scored [ ]:\n  ",
                           row->line, name, s.n, count_scored(&s)) ||
                 put_text(&s, out, e) || text_addf(out, e, "\n");
    }
    return status || (json && text_addf(out, e, "]")) ? -1 : 0;
}
