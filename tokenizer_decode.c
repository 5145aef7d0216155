/* tokenizer_decode.c - turns ids into text, at once or in a stream.
 *
 * Each piece goes through the decoder's steps as soon as it arrives; a step that cannot yet decide
 * about its bytes holds them back. Decoding at once is the same walk, flushed at the end.
 */
#include "tokenizer_inner.h"

#include "json.h"

#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* ---- bytes that should be UTF-8 ------------------------------------------------------------ */

/* Returns the length of the sequence that begins with s[0], or 0 if none can; and the range of a
 * valid second byte (Unicode Standard 16.0, table 3-7). */
static size_t sequence_length(unsigned char first, unsigned char *low, unsigned char *high)
{
    *low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    *high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (first < 0x80) return 1;
    if (first < 0xc2 || first > 0xf4) return 0;
    return first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

/* Length of the longest beginning of a well-formed sequence at s (at least 1 byte is given); *whole
 * is set where it is one. */
static size_t sequence_prefix(const unsigned char *s, size_t len, int *whole)
{
    unsigned char low, high;
    size_t want = sequence_length(s[0], &low, &high), got = 1;
    *whole = 0;
    if (!want) return 1;
    while (got < want && got < len && s[got] >= low && s[got] <= high) {
        low = 0x80;
        high = 0xbf;
        got++;
    }
    *whole = got == want;
    return got;
}

/* Moves what is final from held to out: whole characters as they are, each longest wrong beginning
 * as one U+FFFD. An unfinished character at the end stays, unless `all`. */
static int utf8_release(Text *held, int all, Text *out, Err *e)
{
    size_t at = 0;
    while (at < held->len) {
        int whole;
        size_t left = held->len - at;
        size_t n = sequence_prefix((const unsigned char *)held->data + at, left, &whole);
        if (whole) {
            if (text_add(out, held->data + at, n, e)) return -1;
        } else {
            unsigned char low, high;
            size_t want = sequence_length((unsigned char)held->data[at], &low, &high);
            if (n == left && want > n && !all) break; /* may still become a character */
            if (text_add(out, REPLACEMENT, strlen(REPLACEMENT), e)) return -1;
        }
        at += n;
    }
    if (at) memmove(held->data, held->data + at, held->len - at);
    held->len -= at;
    return 0;
}

/* ---- steps --------------------------------------------------------------------------------- */

static int step_push(Decoder *d, size_t step, const char *text, size_t len, Text *out, Err *e);

static int step_replace(Decoder *d, size_t step, const DecodeStep *s, const char *text, size_t len,
                        Text *out, Err *e)
{
    Text changed = {0};
    int failed = text_add(&changed, "", 0, e);
    for (size_t at = 0, end; !failed && at < len; at = end) {
        end = at;
        while (end < len &&
               (len - end < s->from.len || memcmp(text + end, s->from.text, s->from.len)))
            end++;
        failed = text_add(&changed, text + at, end - at, e);
        if (!failed && end < len) {
            failed = text_add(&changed, s->to.text, s->to.len, e);
            end += s->from.len;
        }
        if (!failed && changed.len > DECODED_PIECE_MAX)
            failed = err_set(e, ERR_DATA, "the decoder makes a token of more than %zu bytes",
                             DECODED_PIECE_MAX);
    }
    if (!failed) failed = step_push(d, step + 1, changed.data, changed.len, out, e);
    text_free(&changed);
    return failed ? -1 : 0;
}

/* The end of a run of byte tokens: the text if all of it is UTF-8, else U+FFFD for every byte. */
static int fallback_release(Decoder *d, size_t step, Text *out, Err *e)
{
    Text run = d->held;
    d->held = (Text){0};
    int failed = 0;
    if (run.len && utf8_check(run.data, run.len) == run.len)
        failed = step_push(d, step + 1, run.data, run.len, out, e);
    else
        for (size_t i = 0; !failed && i < run.len; i++)
            failed = step_push(d, step + 1, REPLACEMENT, strlen(REPLACEMENT), out, e);
    text_free(&run);
    return failed ? -1 : 0;
}

static int step_byte_fallback(Decoder *d, size_t step, const char *text, size_t len, Text *out,
                              Err *e)
{
    int byte = piece_byte(text, len);
    if (byte >= 0) {
        char c = (char)byte;
        return text_add(&d->held, &c, 1, e);
    }
    if (fallback_release(d, step, out, e)) return -1;
    return step_push(d, step + 1, text, len, out, e);
}

/* Removes up to `start` copies of a character from the beginning. */
static int step_strip(Decoder *d, size_t step, const DecodeStep *s, const char *text, size_t len,
                      Text *out, Err *e)
{
    if (!s->fused) {
        d->stripped = 0;
        d->strip_done = 0;
    }
    size_t at = 0;
    while (!d->strip_done && at < len) {
        if (d->stripped < s->start && len - at >= s->from.len &&
            !memcmp(text + at, s->from.text, s->from.len)) {
            at += s->from.len;
            d->stripped++;
        } else {
            d->strip_done = 1;
        }
    }
    return step_push(d, step + 1, text + at, len - at, out, e);
}

/* Characters of the byte alphabet as their bytes; a piece with any other character as it is. */
static int step_byte_level(Decoder *d, size_t step, const char *text, size_t len, Text *out, Err *e)
{
    const short *bytes = d->t->char_bytes;
    size_t before = d->held.len, at = 0;
    while (at < len) {
        uint32_t cp = utf8_next(text, &at);
        if (cp >= BYTE_ALPHABET || bytes[cp] < 0) {
            d->held.len = before;
            if (text_add(&d->held, text, len, e)) return -1;
            break;
        }
        char c = (char)bytes[cp];
        if (text_add(&d->held, &c, 1, e)) return -1;
    }
    Text final = {0};
    int failed = text_add(&final, "", 0, e) || utf8_release(&d->held, 0, &final, e) ||
                 step_push(d, step + 1, final.data, final.len, out, e);
    text_free(&final);
    return failed ? -1 : 0;
}

/* Turns the replacement back into a space; in the first piece, which had one put in front, into
 * nothing.
 */
static int step_metaspace(Decoder *d, size_t step, const DecodeStep *s, const char *text,
                          size_t len, Text *out, Err *e)
{
    DecodeStep replace = {.kind = DECODE_REPLACE,
                          .from = s->from,
                          .to = s->start && d->tokens == 1 ? (Bytes){"", 0} : (Bytes){" ", 1}};
    return step_replace(d, step, &replace, text, len, out, e);
}

/* Gives one piece to step `step`; after the last one it is text. */
static int step_push(Decoder *d, size_t step, const char *text, size_t len, Text *out, Err *e)
{
    if (step == d->t->n_decode) return text_add(out, text, len, e);
    const DecodeStep *s = &d->t->decode[step];
    switch (s->kind) {
    case DECODE_REPLACE: return step_replace(d, step, s, text, len, out, e);
    case DECODE_BYTE_FALLBACK: return step_byte_fallback(d, step, text, len, out, e);
    case DECODE_FUSE: return step_push(d, step + 1, text, len, out, e);
    case DECODE_STRIP: return step_strip(d, step, s, text, len, out, e);
    case DECODE_BYTE_LEVEL: return step_byte_level(d, step, text, len, out, e);
    case DECODE_METASPACE: return step_metaspace(d, step, s, text, len, out, e);
    case DECODE_SPACES:
        if (d->tokens > 1 && text_add(out, " ", 1, e)) return -1;
        return step_push(d, step + 1, text, len, out, e);
    }
    return err_set(e, ERR_INTERNAL, "tokenizer: no such decoder step");
}

/* ---- the walk ------------------------------------------------------------------------------ */

void decoder_begin(Decoder *d, const Tokenizer *t, int skip_special)
{
    *d = (Decoder){.t = t, .skip_special = skip_special};
}

int decoder_put(Decoder *d, int32_t id, Text *out, Err *e)
{
    const Tokenizer *t = d->t;
    if (id < 0 || (size_t)id >= t->size)
        return err_set(e, ERR_DATA, "token id %ld: this tokenizer has 0 .. %zu", (long)id,
                       t->size - 1);
    const Piece *p = &t->pieces[id];
    if (d->skip_special && p->special) return 0;
    d->tokens++;
    return step_push(d, 0, p->text, p->len, out, e);
}

int decoder_flush(Decoder *d, Text *out, Err *e)
{
    int failed = 0;
    for (size_t i = 0; !failed && i < d->t->n_decode; i++) {
        if (d->t->decode[i].kind == DECODE_BYTE_FALLBACK) {
            failed = fallback_release(d, i, out, e);
        } else if (d->t->decode[i].kind == DECODE_BYTE_LEVEL) {
            Text final = {0};
            failed = text_add(&final, "", 0, e) || utf8_release(&d->held, 1, &final, e) ||
                     step_push(d, i + 1, final.data, final.len, out, e);
            text_free(&final);
        }
    }
    decoder_free(d);
    return failed ? -1 : 0;
}

void decoder_free(Decoder *d)
{
    text_free(&d->held);
    decoder_begin(d, d->t, d->skip_special);
}

int tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n, int skip_special, Text *out,
                     Err *e)
{
    size_t before = out->len;
    Decoder d;
    decoder_begin(&d, t, skip_special);
    for (size_t i = 0; i < n; i++) {
        if (!decoder_put(&d, ids[i], out, e)) continue;
        decoder_free(&d);
        out->len = before;
        return -1;
    }
    if (text_add(out, "", 0, e)) return -1;
    return decoder_flush(&d, out, e);
}
