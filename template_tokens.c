/* template_tokens.c - cuts the text of a template into tokens, as Jinja's lexer does.
 *
 * White space control looks across the borders of tags, so all tokens are there before the first
 * one is parsed.
 */
#include "template_tokens.h"

#include <stdio.h>
#include <string.h>

int parser_stop(Parser *p, int line, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return err_set(p->e, ERR_DATA, "%s:%d: %s", p->t->name, line, text);
}

static int line_at(Parser *p, size_t at)
{
    for (; p->line_at < at; p->line_at++)
        if (p->text[p->line_at] == '\n') p->line++;
    return p->line;
}

static int add_token(Parser *p, Token token)
{
    if (mem_grow(&p->tokens, &p->cap, p->count, sizeof *p->tokens, p->e)) return -1;
    p->tokens[p->count++] = token;
    return 0;
}

static int looks_at(const Parser *p, size_t at, const char *word)
{
    size_t n = strlen(word);
    return at + n <= p->len && !memcmp(p->text + at, word, n);
}

static size_t skip_spaces(const Parser *p, size_t at)
{
    for (size_t n; at < p->len && (n = space_step(p->text + at, p->len - at)) > 0;) at += n;
    return at;
}

static int is_sign(char c)
{
    return c == '-' || c == '+';
}

/* Behind the end of a tag at `at`, which has the two characters `mark`: 0 where it does not stand
 * there. A minus takes the white space behind; a block without a sign takes one line end. */
static size_t tag_end(const Parser *p, size_t at, const char *mark, int plus, int trims)
{
    if (plus && at < p->len && p->text[at] == '+' && looks_at(p, at + 1, mark)) return at + 3;
    if (at < p->len && p->text[at] == '-' && looks_at(p, at + 1, mark))
        return skip_spaces(p, at + 3);
    if (!looks_at(p, at, mark)) return 0;
    return at + 2 + (trims && at + 2 < p->len && p->text[at + 2] == '\n');
}

/* Text between tags, cut as the sign of the tag behind it says. */
static int add_data(Parser *p, size_t from, size_t to, char sign, int is_variable)
{
    size_t end = to;
    if (sign == '-') {
        for (size_t n; end > from && (n = space_before(p->text + from, end - from)) > 0;) end -= n;
    } else if (sign != '+' && !is_variable) {
        size_t line = to;
        while (line > from && p->text[line - 1] != '\n') line--;
        if (line > from || p->line_starts) {
            size_t at = line;
            for (size_t n; at < to && (n = space_step(p->text + at, to - at)) > 0;) at += n;
            if (at == to) end = line;
        }
    }
    if (end == from) return 0;
    Token t = {T_DATA, 0, line_at(p, from), p->text + from, end - from, v_none()};
    return add_token(p, t);
}

/* Where {% raw %} stands at `at`: the place behind it, else 0. */
static size_t raw_begin(const Parser *p, size_t at)
{
    if (!looks_at(p, at, "{%")) return 0;
    at += 2;
    if (at < p->len && is_sign(p->text[at])) at++;
    at = skip_spaces(p, at);
    if (!looks_at(p, at, "raw")) return 0;
    return tag_end(p, skip_spaces(p, at + 3), "%}", 0, 0);
}

static size_t raw_end(const Parser *p, size_t at, char *sign)
{
    *sign = 0;
    if (!looks_at(p, at, "{%")) return 0;
    at += 2;
    if (at < p->len && is_sign(p->text[at])) *sign = p->text[at++];
    at = skip_spaces(p, at);
    if (!looks_at(p, at, "endraw")) return 0;
    return tag_end(p, skip_spaces(p, at + 6), "%}", 1, 1);
}

static void moved_to(Parser *p, size_t at)
{
    p->at = at;
    p->line_starts = at > 0 && p->text[at - 1] == '\n';
}

static int lex_raw(Parser *p, size_t inside)
{
    int line = line_at(p, p->at);
    moved_to(p, inside);
    for (size_t at = inside; at < p->len; at++) {
        char sign;
        size_t behind = raw_end(p, at, &sign);
        if (!behind) continue;
        if (add_data(p, inside, at, sign, 0)) return -1;
        moved_to(p, behind);
        return 0;
    }
    return parser_stop(p, line, "found no end of this raw block, expected {%% endraw %%}");
}

static int lex_comment(Parser *p)
{
    int line = line_at(p, p->at);
    for (size_t at = p->at; at < p->len; at++) {
        size_t behind = tag_end(p, at, "#}", 1, 1);
        if (!behind) continue;
        moved_to(p, behind);
        return 0;
    }
    return parser_stop(p, line, "found no end of this comment, expected #}");
}

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/* Digits, with single underscores between them; the place behind, or `at` where there are none. */
static size_t digits(const Parser *p, size_t at)
{
    size_t begin = at;
    while (at < p->len &&
           (is_digit(p->text[at]) || (at > begin && p->text[at] == '_' && p->text[at - 1] != '_' &&
                                      at + 1 < p->len && is_digit(p->text[at + 1]))))
        at++;
    return at;
}

static int number_text(Parser *p, size_t from, size_t to, char out[64], size_t *len)
{
    *len = 0;
    for (size_t i = from; i < to; i++) {
        if (p->text[i] == '_') continue;
        if (*len + 1 >= 64)
            return parser_stop(p, line_at(p, from), "found a number of more than 63 characters");
        out[(*len)++] = p->text[i];
    }
    return 0;
}

static int lex_number(Parser *p)
{
    size_t from = p->at, whole = digits(p, from), end = whole, len;
    char text[64];
    Token t = {T_INT, 0, line_at(p, from), p->text + from, 0, v_none()};
    int after_dot = from > 0 && p->text[from - 1] == '.';
    if (end < p->len && p->text[end] == '.' && digits(p, end + 1) > end + 1)
        end = digits(p, end + 1);
    if (end < p->len && (p->text[end] == 'e' || p->text[end] == 'E')) {
        size_t at = end + 1;
        if (at < p->len && is_sign(p->text[at])) at++;
        if (digits(p, at) > at) end = digits(p, at);
    }
    if (end > whole && !after_dot) {
        double f;
        t.type = T_FLOAT;
        if (number_text(p, from, end, text, &len)) return -1;
        if (parse_f64(text, len, &f))
            return parser_stop(p, t.line, "found %.*s, which is too large for a number", (int)len,
                               text);
        t.value = v_float(f);
        p->at = end;
        return add_token(p, t);
    }
    if (p->text[from] == '0' && from + 1 < p->len && strchr("xXoObB", p->text[from + 1]))
        return parser_stop(p, t.line,
                           "found a number that is not decimal; only decimal ones are read");
    if (p->text[from] == '0')
        for (whole = from + 1; whole < p->len && p->text[whole] == '0';) whole++;
    int64_t i;
    if (number_text(p, from, whole, text, &len)) return -1;
    if (p->text[from] == '0') len = 1; /* 000 is 0 */
    if (parse_i64(text, len, &i))
        return parser_stop(p, t.line, "found %.*s, which does not fit an integer of 64 bits",
                           (int)len, text);
    t.value = v_int(i);
    p->at = whole;
    return add_token(p, t);
}

static int hex_value(const Parser *p, size_t at, size_t end, int count, uint32_t *code)
{
    *code = 0;
    for (int i = 0; i < count; i++, at++) {
        char c = at < end ? p->text[at] : 0;
        uint32_t d;
        if (is_digit(c))
            d = (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            d = (uint32_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            d = (uint32_t)(c - 'A' + 10);
        else
            return -1;
        *code = *code * 16 + d;
    }
    return 0;
}

/* One escape at `at` (the backslash) to out; *used bytes of the source. */
static int lex_escape(Parser *p, size_t at, size_t end, char out[8], size_t *n, size_t *used)
{
    static const char letters[] = "\\'\"abfnrtv", meant[] = "\\'\"\a\b\f\n\r\t\v";
    char c = p->text[at + 1];
    const char *known = strchr(letters, c);
    uint32_t code = 0;
    int count = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    *used = 2;
    *n = 0;
    if (c == '\n') return 0;
    if (c && known) {
        out[(*n)++] = meant[known - letters];
        return 0;
    }
    if (c == 'N')
        return parser_stop(p, line_at(p, at), "found \\N{...}; names of characters are not known");
    if (c >= '0' && c <= '7') {
        size_t i = at + 1;
        for (; i < end && i < at + 4 && p->text[i] >= '0' && p->text[i] <= '7'; i++)
            code = code * 8 + (uint32_t)(p->text[i] - '0');
        *used = i - at;
    } else if (count) {
        if (hex_value(p, at + 2, end, count, &code) || code > 0x10FFFF ||
            (code >= 0xD800 && code < 0xE000))
            return parser_stop(p, line_at(p, at), "found a \\%c escape that is no character", c);
        *used = 2 + (size_t)count;
    } else { /* an unknown escape stands for itself */
        out[(*n)++] = '\\';
        *used = 1;
        return 0;
    }
    *n = utf8_put(out, code);
    return 0;
}

static int lex_text(Parser *p)
{
    size_t from = p->at + 1, end = from, len = 0;
    char quote = p->text[p->at];
    int line = line_at(p, p->at);
    while (end < p->len && p->text[end] != quote) end += p->text[end] == '\\' ? 2 : 1;
    if (end >= p->len)
        return parser_stop(p, line, "found no end of this string, expected %c", quote);
    char *out = pool_alloc(&p->t->pool, end - from + 1, p->e);
    if (!out) return -1;
    for (size_t i = from; i < end;) {
        char piece[8];
        size_t n = 1, used = 1;
        piece[0] = p->text[i];
        if (p->text[i] == '\\' && lex_escape(p, i, end, piece, &n, &used)) return -1;
        memcpy(out + len, piece, n);
        len += n;
        i += used;
    }
    Token t = {T_TEXT, 0, line, out, len, v_none()};
    p->at = end + 1;
    return add_token(p, t);
}

/* An operator; brackets go onto the stack, or off it. */
static int lex_operator(Parser *p, char *open, size_t *depth)
{
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    char c = p->text[p->at];
    Token t = {T_OP, c, line_at(p, p->at), p->text + p->at, 1, v_none()};
    if (!c || !strchr("+-/*%~[](){}><=.:|,;", c)) {
        size_t n = utf8_step(p->text + p->at, p->len - p->at);
        if (!looks_at(p, p->at, "!="))
            return parser_stop(p, t.line, "found '%.*s' inside of a tag, which means nothing there",
                               (int)n, p->text + p->at);
    }
    for (size_t i = 0; i < sizeof two / sizeof *two; i++) {
        if (!looks_at(p, p->at, two[i])) continue;
        t.op = OP2(two[i][0], two[i][1]);
        t.len = 2;
    }
    if (strchr("([{", c)) {
        if (*depth >= TEMPLATE_MAX_NESTING)
            return parser_stop(p, t.line, "brackets nest deeper than %d levels",
                               TEMPLATE_MAX_NESTING);
        open[(*depth)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c)) {
        if (!*depth) return parser_stop(p, t.line, "found '%c' where no bracket is open", c);
        if (open[--*depth] != c)
            return parser_stop(p, t.line, "found '%c', expected '%c'", c, open[*depth]);
    }
    p->at += t.len;
    return add_token(p, t);
}

/* The inside of {{ }} or {% %}. */
static int lex_tag(Parser *p, int is_variable)
{
    char open[TEMPLATE_MAX_NESTING];
    size_t depth = 0;
    int line = line_at(p, p->at);
    while (p->at < p->len) {
        size_t behind = depth         ? 0
                        : is_variable ? tag_end(p, p->at, "}}", 0, 0)
                                      : tag_end(p, p->at, "%}", 1, 1);
        if (behind) {
            Token t = {is_variable ? T_VARIABLE_END : T_BLOCK_END,
                       0,
                       line_at(p, p->at),
                       p->text + p->at,
                       2,
                       v_none()};
            moved_to(p, behind);
            return add_token(p, t);
        }
        size_t space = space_step(p->text + p->at, p->len - p->at);
        char c = p->text[p->at];
        int failed = 0;
        if (space) {
            p->at += space;
        } else if (is_digit(c)) {
            failed = lex_number(p);
        } else if (is_letter(c)) {
            size_t end = p->at;
            while (end < p->len && (is_letter(p->text[end]) || is_digit(p->text[end]))) end++;
            Token t = {T_NAME, 0, line_at(p, p->at), p->text + p->at, end - p->at, v_none()};
            p->at = end;
            failed = add_token(p, t);
        } else if (c == '\'' || c == '"') {
            failed = lex_text(p);
        } else {
            failed = lex_operator(p, open, &depth);
        }
        if (failed) return -1;
    }
    return parser_stop(p, line, "found no end of this tag, expected %s", is_variable ? "}}" : "%}");
}

static int lex(Parser *p)
{
    p->line = 1;
    p->line_starts = 1;
    while (p->at < p->len) {
        size_t from = p->at, tag = from, raw;
        while (tag < p->len && !(p->text[tag] == '{' && tag + 1 < p->len &&
                                 strchr("{%#", p->text[tag + 1]) && p->text[tag + 1]))
            tag++;
        if (tag >= p->len) {
            Token t = {T_DATA, 0, line_at(p, from), p->text + from, p->len - from, v_none()};
            p->at = p->len;
            return add_token(p, t);
        }
        char kind = p->text[tag + 1], sign = tag + 2 < p->len ? p->text[tag + 2] : 0;
        if (add_data(p, from, tag, sign, kind == '{')) return -1;
        p->at = tag;
        if ((raw = raw_begin(p, tag)) > 0) {
            if (lex_raw(p, raw)) return -1;
            continue;
        }
        int line = line_at(p, tag);
        p->at = tag + 2 + (size_t)is_sign(sign);
        if (kind == '#') {
            if (lex_comment(p)) return -1;
            continue;
        }
        Token t = {
            kind == '{' ? T_VARIABLE_BEGIN : T_BLOCK_BEGIN, 0, line, p->text + tag, 2, v_none()};
        if (add_token(p, t) || lex_tag(p, kind == '{')) return -1;
    }
    return 0;
}

/* One line end, \n, and the last one of the text does not count. */
static int normalise(Parser *p, const char *text, size_t len)
{
    char *out = pool_alloc(&p->t->pool, len + 1, p->e);
    size_t n = 0;
    if (!out) return -1;
    for (size_t i = 0; i < len; i++) {
        out[n++] = text[i] == '\r' ? '\n' : text[i];
        if (text[i] == '\r' && i + 1 < len && text[i + 1] == '\n') i++;
    }
    if (n && out[n - 1] == '\n') n--;
    p->text = out;
    p->len = n;
    return 0;
}

int parser_lex(Parser *p, const char *text, size_t len)
{
    if (normalise(p, text, len) || lex(p)) return -1;
    Token end = {T_END, 0, line_at(p, p->len), "", 0, v_none()};
    return add_token(p, end);
}
