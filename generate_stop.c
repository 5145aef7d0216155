/* generate_stop.c - finds the tokens and texts that end an answer. */
#include "generate_stop.h"

#include <string.h>

/* ---- which -------------------------------------------------------------------------------- */

static void add_id(Stops *s, int32_t id)
{
    if (id >= 0 && !stops_has(s, id)) s->ids[s->n_ids++] = id;
}

int stops_has(const Stops *s, int32_t id)
{
    for (size_t i = 0; i < s->n_ids; i++)
        if (s->ids[i] == id) return 1;
    return 0;
}

/* Finds what the template writes after an answer: a token, or a text for which the tokenizer has no
 * token. */
static int add_template(Stops *s, const Tokenizer *t, const ChatTemplate *chat, Err *e)
{
    if (chat_end(chat, t, &s->end, e)) return -1;
    if (s->end.id >= 0)
        add_id(s, s->end.id);
    else if (*s->end.text)
        s->texts[s->n_texts++] = s->end.text;
    return 0;
}

int stops_find(Stops *s, const ModelConfig *c, const Tokenizer *t, const ChatTemplate *chat,
               const char *const *texts, size_t n_texts, Err *e)
{
    *s = (Stops){.end.id = -1};
    for (size_t i = 0; i < c->n_eos; i++) add_id(s, c->eos[i]);
    if (!t) return 0;
    add_id(s, tokenizer_eos(t));
    if (chat && add_template(s, t, chat, e)) return -1;
    for (size_t i = 0; i < n_texts; i++) {
        int32_t id = tokenizer_id(t, texts[i], strlen(texts[i]));
        if (tokenizer_is_special(t, id)) add_id(s, id);
        s->texts[s->n_texts++] = texts[i];
    }
    return 0;
}

/* ---- stop texts --------------------------------------------------------------------------- */

void watch_begin(StopWatch *w, const Stops *s, const Tokenizer *t)
{
    *w = (StopWatch){.stops = s, .cut = SIZE_MAX};
    decoder_begin(&w->decoder, t, 1);
}

/* Looks for a stop text that ends in what is new. */
static void search(StopWatch *w)
{
    for (; w->cut == SIZE_MAX && w->seen < w->text.len; w->seen++) {
        size_t end = w->seen + 1, longest = 0;
        for (size_t i = 0; i < w->stops->n_texts; i++) {
            const char *stop = w->stops->texts[i];
            size_t len = strlen(stop);
            if (len > longest && len <= end && !memcmp(w->text.data + end - len, stop, len))
                longest = len;
        }
        if (longest) w->cut = w->before + end - longest;
    }
}

int watch_put(StopWatch *w, int32_t id, Err *e)
{
    if (decoder_put(&w->decoder, id, &w->text, e)) return -1;
    search(w);
    return 0;
}

int watch_flush(StopWatch *w, Err *e)
{
    if (decoder_flush(&w->decoder, &w->text, e)) return -1;
    search(w);
    return 0;
}

/* Returns the number of bytes at the end that may be the beginning of a stop text. */
static size_t unfinished(const StopWatch *w)
{
    size_t longest = 0;
    for (size_t i = 0; i < w->stops->n_texts; i++) {
        const char *stop = w->stops->texts[i];
        size_t n = strlen(stop) - 1;
        if (n > w->text.len) n = w->text.len;
        while (n > longest && memcmp(w->text.data + w->text.len - n, stop, n)) n--;
        if (n > longest) longest = n;
    }
    return longest;
}

int watch_take(StopWatch *w, int all, Text *out, Err *e)
{
    size_t n = w->cut != SIZE_MAX ? w->cut - w->before
               : all              ? w->text.len
                                  : w->text.len - unfinished(w);
    if (!n) return 0;
    if (text_add(out, w->text.data, n, e)) return -1;
    memmove(w->text.data, w->text.data + n, w->text.len - n);
    w->text.len -= n;
    w->seen -= w->seen < n ? w->seen : n;
    w->before += n;
    return 0;
}

void watch_free(StopWatch *w)
{
    if (w->stops) decoder_free(&w->decoder);
    text_free(&w->text);
    *w = (StopWatch){0};
}
