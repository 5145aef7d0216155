/* tokenizer_split.c - the pre-tokenizer: cuts text into the words that BPE works on.
 *
 * The regular expressions in common use are known by their exact text and hand-coded, each as a
 * function from a position to the end of the word there; tokenizer_regex.c matches others.
 */
#include "tokenizer_inner.h"
#include "tokenizer_unicode.h"

#include <string.h>

/* ---- characters ---------------------------------------------------------------------------- */

/* A character of the text: where it ends, and what it is. Beyond the end: CLASS_END. */
typedef struct {
    uint32_t cp;
    int class; /* a UnicodeClass, or CLASS_END */
    size_t end;
} Char;
#define CLASS_END (-1)

static Char char_at(const char *text, size_t len, size_t at)
{
    Char c = {0, CLASS_END, at};
    if (at >= len) return c;
    c.cp = utf8_next(text, &c.end);
    c.class = (int)unicode_class(c.cp);
    return c;
}

static int is_letter(Char c) /* \p{L} */
{
    return c.class >= UNICODE_UPPER && c.class <= UNICODE_LETTER;
}

static int is_number(Char c) /* \p{N} */
{
    return c.class == UNICODE_DIGIT || c.class == UNICODE_NUMBER;
}

static int is_space(Char c) /* \s */
{
    return c.class == UNICODE_SPACE;
}

static int is_other(Char c) /* [^\s\p{L}\p{N}] */
{
    return c.class != CLASS_END && !is_space(c) && !is_letter(c) && !is_number(c);
}

static int is_newline(Char c) /* [\r\n] */
{
    return c.cp == '\r' || c.cp == '\n';
}

/* End of the longest run of such characters from `at`, at most `most` of them. */
static size_t run_end(const char *text, size_t len, size_t at, int (*is)(Char), size_t most)
{
    for (; most; most--) {
        Char c = char_at(text, len, at);
        if (c.class == CLASS_END || !is(c)) break;
        at = c.end;
    }
    return at;
}

static size_t letters_end(const char *text, size_t len, size_t at)
{
    return run_end(text, len, at, is_letter, SIZE_MAX);
}

/* 's|'t|'re|'ve|'m|'ll|'d at `at`: its end, or `at` if there is none. any_case: (?i:...), which by
 * Unicode's rules also takes U+017F (long s) for s. */
static size_t contraction_end(const char *text, size_t len, size_t at, int any_case)
{
    if (at >= len || text[at] != '\'') return at;
    size_t i = at + 1, left = len - i;
    if (any_case && left >= 2 && !memcmp(text + i, "\xc5\xbf", 2)) return i + 2;
    char a = left > 0 ? text[i] : 0, b = left > 1 ? text[i + 1] : 0;
    if (any_case && a >= 'A' && a <= 'Z') a = (char)(a - 'A' + 'a');
    if (any_case && b >= 'A' && b <= 'Z') b = (char)(b - 'A' + 'a');
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 1;
    if ((b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l')) return i + 2;
    return at;
}

/* \s+(?!\S)|\s+ : a run of white space leaves its last character to the word that follows. */
static size_t space_end(const char *text, size_t len, size_t at)
{
    size_t last = at, end = at; /* `last` begins the last character of the run */
    for (;;) {
        Char c = char_at(text, len, end);
        if (c.class == CLASS_END) return end;
        if (!is_space(c)) break;
        last = end;
        end = c.end;
    }
    return last > at ? last : end;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ : up to and with the last line break of the run, else as above. */
static size_t break_or_space_end(const char *text, size_t len, size_t at)
{
    size_t breaks = at, end = at;
    for (;;) {
        Char c = char_at(text, len, end);
        if (c.class == CLASS_END || !is_space(c)) break;
        end = c.end;
        if (is_newline(c)) breaks = end;
    }
    return breaks > at ? breaks : space_end(text, len, at);
}

/* ---- the patterns -------------------------------------------------------------------------- */

/* Every pattern covers every text: some alternative takes at least the character at `at`. */

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t gpt2_end(const char *text, size_t len, size_t at)
{
    size_t end = contraction_end(text, len, at, 0);
    if (end > at) return end;
    size_t word = at + (text[at] == ' ');
    Char c = char_at(text, len, word);
    if (is_letter(c)) return letters_end(text, len, word);
    if (is_number(c)) return run_end(text, len, word, is_number, SIZE_MAX);
    if (is_other(c)) return run_end(text, len, word, is_other, SIZE_MAX);
    return space_end(text, len, at);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*
 * |\s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t word_end(const char *text, size_t len, size_t at, size_t digits)
{
    size_t end = contraction_end(text, len, at, 1);
    if (end > at) return end;
    Char c = char_at(text, len, at);
    if (is_letter(c)) return letters_end(text, len, at);
    if (is_number(c)) return run_end(text, len, at, is_number, digits);
    if (!is_newline(c)) {
        end = letters_end(text, len, c.end);
        if (end > c.end) return end;
    }
    size_t word = at + (c.cp == ' ');
    end = run_end(text, len, word, is_other, SIZE_MAX);
    if (end > word) return run_end(text, len, end, is_newline, SIZE_MAX);
    return break_or_space_end(text, len, at);
}

static size_t llama3_end(const char *text, size_t len, size_t at)
{
    return word_end(text, len, at, 3);
}

static size_t qwen2_end(const char *text, size_t len, size_t at)
{
    return word_end(text, len, at, 1);
}

static int not_number(Char c)
{
    return !is_number(c);
}

/* Digits, individual_digits: true: each digit by itself, everything between digits together. */
static size_t digits_end(const char *text, size_t len, size_t at)
{
    size_t end = run_end(text, len, at, is_number, 1);
    return end > at ? end : run_end(text, len, at, not_number, SIZE_MAX);
}

/* Digits, individual_digits: false. */
static size_t digit_runs_end(const char *text, size_t len, size_t at)
{
    size_t end = run_end(text, len, at, is_number, SIZE_MAX);
    return end > at ? end : run_end(text, len, at, not_number, SIZE_MAX);
}

/* Classes of the Tekken pattern: U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], W =
 * [\p{Ll}\p{Lm}\p{Lo}\p{M}].
 */
static int is_tekken_upper(Char c)
{
    return (is_letter(c) && c.class != UNICODE_LOWER) || c.class == UNICODE_MARK;
}

static int is_tekken_lower(Char c)
{
    return (c.class >= UNICODE_LOWER && c.class <= UNICODE_LETTER) || c.class == UNICODE_MARK;
}

static int is_tekken_break(Char c) /* [\r\n/] */
{
    return is_newline(c) || c.cp == '/';
}

/* U*W+ from `at`, else U+W*: the end, or `at`. U* is greedy and gives back characters until a W
 * follows: that is the last character of the run which is in W too, as long as none comes after. */
static size_t tekken_word_end(const char *text, size_t len, size_t at)
{
    size_t last_both = SIZE_MAX, upper = at;
    for (;;) {
        Char c = char_at(text, len, upper);
        if (c.class == CLASS_END || !is_tekken_upper(c)) break;
        if (is_tekken_lower(c)) last_both = upper;
        upper = c.end;
    }
    size_t end = run_end(text, len, upper, is_tekken_lower, SIZE_MAX);
    if (end > upper) return end;
    if (last_both == SIZE_MAX) return upper;
    return run_end(text, len, last_both, is_tekken_lower, SIZE_MAX);
}

/* The pattern of Mistral's Tekken tokenizers; PATTERN_TEKKEN below spells it. */
static size_t tekken_end(const char *text, size_t len, size_t at)
{
    Char c = char_at(text, len, at);
    if (!is_letter(c) && !is_number(c) && !is_newline(c)) {
        size_t end = tekken_word_end(text, len, c.end);
        if (end > c.end) return end;
    }
    size_t end = tekken_word_end(text, len, at);
    if (end > at) return end;
    if (is_number(c)) return c.end;
    size_t word = at + (c.cp == ' ');
    end = run_end(text, len, word, is_other, SIZE_MAX);
    if (end > word) return run_end(text, len, end, is_tekken_break, SIZE_MAX);
    return break_or_space_end(text, len, at);
}

typedef size_t (*PatternEnd)(const char *text, size_t len, size_t at);
static const PatternEnd pattern_ends[] = {NULL,       gpt2_end,       llama3_end, qwen2_end,
                                          digits_end, digit_runs_end, tekken_end};

size_t split_word_end(Pattern p, const char *text, size_t len, size_t at)
{
    return pattern_ends[p](text, len, at);
}

static const struct {
    Pattern pattern;
    const char *regex;
} known[] = {
    {PATTERN_GPT2, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
                   "|\\s+(?!\\S)|\\s+"},
    {PATTERN_LLAMA3, "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
                     "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {PATTERN_QWEN2, "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
                    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {PATTERN_TEKKEN,
     "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
     "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
     "*"
     "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
};

Pattern split_pattern(const char *regex, size_t len)
{
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strlen(known[i].regex) == len && !memcmp(known[i].regex, regex, len))
            return known[i].pattern;
    }
    return PATTERN_NONE;
}

const char *split_regex(Pattern p)
{
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].pattern == p) return known[i].regex;
    return NULL;
}

/* ---- the steps ----------------------------------------------------------------------------- */

static int split_from(Encoder *n, size_t step, const char *text, size_t len, int at_start);

/* Hands the words of a pattern to the step after `step`. */
static int split_by_pattern(Encoder *n, size_t step, Pattern p, const char *text, size_t len,
                            int at_start)
{
    for (size_t at = 0; at < len;) {
        size_t end = split_word_end(p, text, len, at);
        if (split_from(n, step + 1, text + at, end - at, at_start && at == 0)) return -1;
        at = end;
    }
    return 0;
}

/* Does a part of the text belong to the word of the part in front of it? before, match: is either
 * one a match? */
static int joins(SplitBehavior b, int before, int match)
{
    switch (b) {
    case SPLIT_PREVIOUS: return match && !before;
    case SPLIT_NEXT: return before && !match;
    case SPLIT_CONTIGUOUS: return match == before;
    case SPLIT_ISOLATED:
    case SPLIT_REMOVED:
    case SPLIT_BEHAVIORS: break;
    }
    return 0;
}

/* The word that grows while an expression cuts a text. */
typedef struct {
    const char *text;
    size_t begin, end;
    int match, at_start;
} Growing;

/* Hands on the word that has grown, if there is one, and begins the next where it ends. */
static int split_grown(Encoder *n, size_t step, Growing *g)
{
    int status = split_from(n, step + 1, g->text + g->begin, g->end - g->begin,
                            g->at_start && g->begin == 0);
    g->begin = g->end;
    return status;
}

/* Adds the part up to `end`, a match or what lies between two. */
static int split_part(Encoder *n, size_t step, Growing *g, size_t end, int match)
{
    SplitBehavior b = n->t->split[step].behavior;
    match = match != n->t->split[step].inverted;
    if (g->end == end) return 0;
    if (!(g->end > g->begin && joins(b, g->match, match)) && split_grown(n, step, g)) return -1;
    g->end = end;
    g->match = match;
    if (b == SPLIT_REMOVED && match) g->begin = end;
    return 0;
}

/* The same for an expression: its matches and what lies between them. */
static int split_by_regex(Encoder *n, size_t step, const Regex *r, const char *text, size_t len,
                          int at_start)
{
    RegexWork *w = regex_work(r, n->e);
    Growing g = {.text = text, .at_start = at_start};
    int failed = !w;
    for (size_t at = 0; !failed && at < len;) {
        size_t begin = len, end = len;
        if (!regex_find(r, w, text, len, at, &begin, &end)) begin = end = len;
        failed = split_part(n, step, &g, begin, 0) || split_part(n, step, &g, end, 1);
        at = end;
    }
    failed = failed || split_grown(n, step, &g);
    regex_work_free(w);
    return failed ? -1 : 0;
}

/* Spells a word in the byte-level alphabet and hands it on. */
static int split_bytes(Encoder *n, size_t step, const char *text, size_t len, int at_start)
{
    Text *spelled = &n->rewritten[step];
    spelled->len = 0;
    for (size_t i = 0; i < len; i++) {
        char utf8[4];
        size_t size = utf8_put(utf8, n->t->byte_chars[(unsigned char)text[i]]);
        if (text_add(spelled, utf8, size, n->e)) return -1;
    }
    return split_from(n, step + 1, spelled->data, spelled->len, at_start);
}

/* ByteLevel: a leading space if the file asks for one, GPT-2's pattern, then bytes as characters.
 */
static int split_byte_level(Encoder *n, size_t step, const SplitStep *s, const char *text,
                            size_t len, int at_start)
{
    Text spaced = {0};
    int failed = 0;
    if (s->prefix_space && text[0] != ' ') {
        failed = text_add(&spaced, " ", 1, n->e) || text_add(&spaced, text, len, n->e);
        text = spaced.data;
        len = spaced.len;
    }
    for (size_t at = 0; !failed && at < len;) {
        size_t end = s->pattern == PATTERN_NONE ? len : gpt2_end(text, len, at);
        failed = split_bytes(n, step, text + at, end - at, at_start && at == 0);
        at = end;
    }
    text_free(&spaced);
    return failed ? -1 : 0;
}

/* Metaspace: spaces become the replacement, one is put in front as the scheme says, and with
 * `split` every replacement begins a word. */
static int split_metaspace(Encoder *n, size_t step, const SplitStep *s, const char *text,
                           size_t len, int at_start)
{
    Text *w = &n->rewritten[step];
    Bytes r = s->replacement;
    w->len = 0;
    int begins = text[0] == ' ' || (len >= r.len && !memcmp(text, r.text, r.len));
    if (!begins && (s->scheme == PREPEND_ALWAYS || (s->scheme == PREPEND_FIRST && at_start)) &&
        text_add(w, r.text, r.len, n->e))
        return -1;
    for (size_t at = 0; at < len;) {
        const char *space = memchr(text + at, ' ', len - at);
        size_t run = space ? (size_t)(space - text) - at : len - at;
        if (text_add(w, text + at, run, n->e)) return -1;
        at += run;
        if (space && text_add(w, r.text, r.len, n->e)) return -1;
        at += space != NULL;
    }
    if (!s->split) return split_from(n, step + 1, w->data, w->len, at_start);
    for (size_t at = 0, end; at < w->len; at = end) {
        for (end = at + 1; end < w->len; end++)
            if (w->len - end >= r.len && !memcmp(w->data + end, r.text, r.len)) break;
        if (split_from(n, step + 1, w->data + at, end - at, at_start && at == 0)) return -1;
    }
    return 0;
}

/* Runs the steps from `step` on over one piece; after the last one it is a word for BPE. */
static int split_from(Encoder *n, size_t step, const char *text, size_t len, int at_start)
{
    if (!len) return 0;
    if (step == n->t->n_split) return bpe_encode(n, text, len);
    const SplitStep *s = &n->t->split[step];
    switch (s->kind) {
    case SPLIT_PATTERN: return split_by_pattern(n, step, s->pattern, text, len, at_start);
    case SPLIT_REGEX: return split_by_regex(n, step, s->regex, text, len, at_start);
    case SPLIT_BYTE_LEVEL: return split_byte_level(n, step, s, text, len, at_start);
    case SPLIT_METASPACE: return split_metaspace(n, step, s, text, len, at_start);
    }
    return err_set(n->e, ERR_INTERNAL, "tokenizer: no such pre-tokenizer step");
}

int split_encode(Encoder *n, const char *text, size_t len, int at_start)
{
    return split_from(n, 0, text, len, at_start);
}
