/* tokenizer_nfc.c - puts a text into canonical composition, NFC (Unicode Annex 15), as tokenizers
 * does.
 *
 * Every character is taken apart as far as it goes, marks behind a character are sorted by their
 * class, those of one class keep their order, and what composes is put together again, from left to
 * right. A mark composes with the character before it unless a mark of the same or a higher class
 * stands between.
 */
#include "tokenizer_inner.h"

#include <string.h>

/* A character of the text that is being composed. */
typedef struct {
    uint32_t c;
    unsigned class;
    size_t at; /* its place when it was taken apart: the order within one class */
    char ours; /* is all that it was made of the template's? */
} Letter;

typedef struct {
    Letter *letters;
    size_t count, cap;
    Err *e;
} Letters;

static int add_letter(Letters *p, uint32_t c, char ours)
{
    if (mem_grow(&p->letters, &p->cap, p->count, sizeof *p->letters, p->e)) return -1;
    p->letters[p->count] = (Letter){c, compose_class(c), p->count, ours};
    p->count++;
    return 0;
}

/* Hangul syllables are composed by arithmetic: Unicode 3.12. */
enum { HANGUL = 0xAC00, LEAD = 0x1100, VOWEL = 0x1161, TAIL = 0x11A7 };
enum { LEADS = 19, VOWELS = 21, TAILS = 28, SYLLABLES = LEADS * VOWELS * TAILS };

static int take_apart(Letters *p, uint32_t c, char ours)
{
    uint32_t part[2];
    if (c >= HANGUL && c < HANGUL + SYLLABLES) {
        uint32_t s = c - HANGUL;
        if (add_letter(p, LEAD + s / (VOWELS * TAILS), ours) ||
            add_letter(p, VOWEL + s % (VOWELS * TAILS) / TAILS, ours))
            return -1;
        return s % TAILS ? add_letter(p, TAIL + s % TAILS, ours) : 0;
    }
    int n = compose_parts(c, part);
    if (!n) return add_letter(p, c, ours);
    if (take_apart(p, part[0], ours)) return -1; /* at most four deep, by the tables */
    return n == 2 ? take_apart(p, part[1], ours) : 0;
}

static uint32_t put_together(uint32_t first, uint32_t second)
{
    if (first >= LEAD && first < LEAD + LEADS && second >= VOWEL && second < VOWEL + VOWELS)
        return HANGUL + ((first - LEAD) * VOWELS + (second - VOWEL)) * TAILS;
    if (first >= HANGUL && first < HANGUL + SYLLABLES && (first - HANGUL) % TAILS == 0 &&
        second > TAIL && second < TAIL + TAILS)
        return first + (second - TAIL);
    return compose_pair(first, second);
}

static int by_class(const void *x, const void *y)
{
    const Letter *a = x, *b = y;
    if (a->class != b->class) return a->class < b->class ? -1 : 1;
    return (a->at > b->at) - (a->at < b->at);
}

static void sort_marks(Letters *p)
{
    for (size_t i = 0, end; i < p->count; i = end) {
        end = i + 1;
        if (!p->letters[i].class) continue;
        while (end < p->count && p->letters[end].class) end++;
        if (end - i > 1) sort_items(p->letters + i, end - i, sizeof *p->letters, by_class);
    }
}

static void compose(Letters *p)
{
    size_t n = 0, base = 0; /* letters kept; the last one without a class */
    int any = 0;            /* is there one? */
    for (size_t i = 0; i < p->count; i++) {
        Letter x = p->letters[i];
        int next = any && n == base + 1, free = any && !next && p->letters[n - 1].class < x.class;
        uint32_t whole = next || free ? put_together(p->letters[base].c, x.c) : 0;
        if (whole) {
            p->letters[base].c = whole;
            p->letters[base].ours = p->letters[base].ours && x.ours;
            continue;
        }
        if (!x.class) {
            base = n;
            any = 1;
        }
        p->letters[n++] = x;
    }
    p->count = n;
}

static int put_letters(const Letters *p, Text *out, Text *out_ours)
{
    for (size_t i = 0; i < p->count; i++) {
        char bytes[4], ours[4];
        size_t n = utf8_put(bytes, p->letters[i].c);
        memset(ours, p->letters[i].ours, n);
        if (text_add(out, bytes, n, p->e) || (out_ours && text_add(out_ours, ours, n, p->e)))
            return -1;
    }
    return 0;
}

/* No character below U+0300, whose first byte is 0xCC, is taken apart for good or moves. */
static int is_composed(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] >= 0xCC) return 0;
    return 1;
}

int nfc_text(const char *text, const char *ours, size_t len, Text *out, Text *out_ours, Err *e)
{
    if (is_composed(text, len))
        return text_add(out, text, len, e) || (ours && text_add(out_ours, ours, len, e)) ? -1 : 0;
    Letters p = {.e = e};
    int status = 0;
    for (size_t at = 0; at < len && !status;) {
        char origin = 1;
        size_t begin = at;
        uint32_t c = utf8_next(text, &at);
        for (size_t i = begin; ours && i < at; i++) origin = origin && ours[i];
        status = take_apart(&p, c, origin);
    }
    if (!status) {
        sort_marks(&p);
        compose(&p);
        status = put_letters(&p, out, ours ? out_ours : NULL);
    }
    mem_free(p.letters);
    return status;
}
