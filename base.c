/* base.c - implements errors, checked sizes, memory, random numbers, threads and time. See
 * base.h. */
#include "base.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "align reads little-endian files in place: this host is big-endian"
#endif

/* ---- errors -------------------------------------------------------------------------------- */

size_t utf8_step(const char *bytes, size_t len)
{
    const unsigned char *s = (const unsigned char *)bytes;
    if (len == 0) return 0;
    if (s[0] < 0x80) return 1;
    /* The second byte carries the limits (Unicode 15, table 3-7); the rest are 80..BF. */
    size_t n;
    unsigned low = 0x80, high = 0xBF;
    if (s[0] >= 0xC2 && s[0] <= 0xDF) {
        n = 2;
    } else if (s[0] >= 0xE0 && s[0] <= 0xEF) {
        n = 3;
        if (s[0] == 0xE0) low = 0xA0;  /* shorter forms exist */
        if (s[0] == 0xED) high = 0x9F; /* surrogates */
    } else if (s[0] >= 0xF0 && s[0] <= 0xF4) {
        n = 4;
        if (s[0] == 0xF0) low = 0x90;
        if (s[0] == 0xF4) high = 0x8F; /* above U+10FFFF */
    } else {
        return 0;
    }
    if (len < n || s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < n; i++) {
        if (s[i] < 0x80 || s[i] > 0xBF) return 0;
    }
    return n;
}

uint32_t utf8_code(const char *bytes, size_t step)
{
    static const unsigned char mask[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    const unsigned char *c = (const unsigned char *)bytes;
    uint32_t code = c[0] & mask[step];
    for (size_t i = 1; i < step; i++) code = code << 6 | (c[i] & 0x3Fu);
    return code;
}

uint32_t utf8_next(const char *text, size_t *at)
{
    unsigned char lead = (unsigned char)text[*at];
    size_t begin = *at, step = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    *at += step;
    return step == 1 ? lead : utf8_code(text + begin, step);
}

size_t utf8_put(char out[4], uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | cp);
    return n;
}

uint32_t utf8_before(const char *text, size_t at, size_t *start)
{
    do at--;
    while (((unsigned char)text[at] & 0xc0) == 0x80);
    *start = at;
    return utf8_next(text, &at);
}

int is_unseen(uint32_t c)
{
    static const uint32_t ranges[][2] = {
        {0, 0x1F},          /* C0 controls */
        {0x7F, 0x9F},       /* DEL, C1 controls */
        {0xAD, 0xAD},       /* soft hyphen */
        {0x61C, 0x61C},     /* Arabic letter mark */
        {0x180E, 0x180E},   /* Mongolian vowel separator */
        {0x200B, 0x200B},   /* zero-width space; the joiners after it are part of writing */
        {0x200E, 0x200F},   /* marks of direction */
        {0x2028, 0x202E},   /* line and paragraph separators, embeddings and overrides */
        {0x2060, 0x206F},   /* word joiner, invisible operators, isolates, deprecated controls */
        {0xFDD0, 0xFDEF},   /* noncharacters */
        {0xFEFF, 0xFEFF},   /* byte order mark */
        {0xFFF9, 0xFFFB},   /* interlinear annotations */
        {0xE0000, 0xE007F}, /* tags: invisible text */
    };
    if ((c & 0xFFFE) == 0xFFFE) return 1; /* the last two of every plane */
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1]) return 1;
    return 0;
}

/* Could more bytes complete a character? The second byte decides, 80..9F or A0..BF. */
static int is_cut_off(const char *bytes, size_t len)
{
    char whole[4] = {0};
    const size_t most = sizeof whole;
    if (len == 0 || len >= most) return 0;
    for (int c = 0x80; c <= 0xBF; c += 0x3F) {
        memcpy(whole, bytes, len);
        memset(whole + len, c, most - len);
        if (utf8_step(whole, most) > len) return 1;
    }
    return 0;
}

size_t text_mask(char *text, size_t len, int lines)
{
    size_t at = 0;
    while (at < len) {
        size_t step = utf8_step(text + at, len - at);
        if (!step && is_cut_off(text + at, len - at)) break;
        int plain = lines && (text[at] == '\n' || text[at] == '\t');
        if (!step || (!plain && is_unseen(utf8_code(text + at, step))))
            memset(text + at, '?', step ? step : 1);
        at += step ? step : 1;
    }
    return at;
}

/* The same for a whole line: a character that the end of the buffer cut off is removed, too. */
static void text_make_safe(char *text)
{
    size_t len = strlen(text), whole = text_mask(text, len, 0);
    memset(text + whole, '?', len - whole);
}

int err_set(Err *e, int code, const char *fmt, ...)
{
    if (!e) return -1;
    /* Uses a buffer, because the arguments may point into e->text. */
    char text[sizeof e->text];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    text_make_safe(text);
    e->code = code;
    memcpy(e->text, text, sizeof text);
    return -1;
}

void line_addf(char *out, size_t size, const char *fmt, ...)
{
    size_t used = strlen(out);
    va_list args;
    va_start(args, fmt);
    vsnprintf(out + used, size - used, fmt, args);
    va_end(args);
}

int err_prefix(Err *e, const char *fmt, ...)
{
    if (!e) return -1;
    char text[sizeof e->text];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    size_t used = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    const char *parts[] = {": ", e->text};
    for (int i = 0; i < 2; i++) {
        size_t len = strlen(parts[i]), room = sizeof text - 1 - used;
        if (len > room) len = room; /* the end of a very long message is cut off */
        memcpy(text + used, parts[i], len);
        used += len;
    }
    text[used] = 0;
    text_make_safe(text);
    memcpy(e->text, text, sizeof text);
    return -1;
}

void log_note(const Log *log, char level, const char *fmt, ...)
{
    if (!log || !log->line) return;
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    text_make_safe(text);
    log->line(log->ctx, level, text);
}

static int (*has_option)(const char *option);

void advice_from(int (*has)(const char *option))
{
    has_option = has;
}

const char *advice(const char *option, const char *text)
{
    return !has_option || has_option(option) ? text : "";
}

/* ---- checked sizes ------------------------------------------------------------------------- */

int size_mul(size_t a, size_t b, size_t *r)
{
    if (b != 0 && a > SIZE_MAX / b) return -1;
    *r = a * b;
    return 0;
}

int size_add(size_t a, size_t b, size_t *r)
{
    if (a > SIZE_MAX - b) return -1;
    *r = a + b;
    return 0;
}

int u64_mul(uint64_t a, uint64_t b, uint64_t *r)
{
    if (b != 0 && a > UINT64_MAX / b) return -1;
    *r = a * b;
    return 0;
}

int u64_add(uint64_t a, uint64_t b, uint64_t *r)
{
    if (a > UINT64_MAX - b) return -1;
    *r = a + b;
    return 0;
}

/* ---- strict numbers ------------------------------------------------------------------------ */

int parse_u64(const char *text, size_t len, uint64_t *value)
{
    uint64_t v = 0;
    if (len == 0) return -1;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return -1;
        if (u64_mul(v, 10, &v) || u64_add(v, (uint64_t)(text[i] - '0'), &v)) return -1;
    }
    *value = v;
    return 0;
}

int parse_i64(const char *text, size_t len, int64_t *value)
{
    int negative = len > 0 && text[0] == '-';
    uint64_t v;
    if (parse_u64(text + negative, len - (size_t)negative, &v)) return -1;
    if (v > (uint64_t)INT64_MAX + (uint64_t)negative) return -1;
    /* -v-1 first: the smallest number has no positive twin. */
    *value = negative ? (v == 0 ? 0 : -(int64_t)(v - 1) - 1) : (int64_t)v;
    return 0;
}

/* A double lies at most 767 significant digits from the next half-way point, so digits beyond
 * these only matter as "more than nothing", which one extra digit 1 stands for. */
#define DECIMAL_DIGITS 800

/* value = 0.d1 d2 d3 ... x 10^point, d1 != 0; no digits at all for zero. */
typedef struct {
    unsigned char digits[DECIMAL_DIGITS + 1];
    size_t count;
    int64_t point;
    int negative;
} Decimal;

/* Appends one digit of the mantissa, dropping leading zeros. */
static void decimal_digit(Decimal *d, unsigned char digit, int *sticky)
{
    if (d->count == 0 && digit == 0) return;
    if (d->count < DECIMAL_DIGITS) {
        d->digits[d->count++] = digit;
    } else if (digit) {
        *sticky = 1;
    }
}

/* Reads the exponent after 'e'; saturates far outside the range of a double. */
static int decimal_exponent(const char *text, size_t len, int64_t *exponent)
{
    const int64_t limit = INT64_MAX / 100;
    size_t i = 0;
    int negative = 0;
    if (i < len && (text[i] == '+' || text[i] == '-')) negative = text[i++] == '-';
    if (i == len) return -1;
    int64_t v = 0;
    for (; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return -1;
        if (v < limit) v = v * 10 + (text[i] - '0');
    }
    *exponent = negative ? -v : v;
    return 0;
}

/* Splits [+-]digits[.digits][e[+-]digits] into a Decimal. */
static int decimal_read(Decimal *d, const char *text, size_t len)
{
    size_t i = 0, seen = 0;
    int sticky = 0, after_point = 0;
    d->count = 0;
    d->point = 0;
    d->negative = 0;
    if (i < len && (text[i] == '+' || text[i] == '-')) d->negative = text[i++] == '-';
    for (; i < len; i++) {
        char c = text[i];
        if (c == '.' && !after_point) {
            after_point = 1;
        } else if (c >= '0' && c <= '9') {
            size_t before = d->count;
            decimal_digit(d, (unsigned char)(c - '0'), &sticky);
            int leading_zero = before == 0 && d->count == 0;
            if (!after_point && !leading_zero) d->point++;
            if (after_point && leading_zero) d->point--;
            seen++;
        } else {
            break;
        }
    }
    if (seen == 0) return -1;
    if (i < len) {
        int64_t exponent;
        if (text[i] != 'e' && text[i] != 'E') return -1;
        if (decimal_exponent(text + i + 1, len - i - 1, &exponent)) return -1;
        d->point += exponent;
    }
    if (sticky) d->digits[d->count++] = 1;
    while (d->count > 0 && d->digits[d->count - 1] == 0) d->count--;
    return 0;
}

/* A natural number in 32-bit limbs, lowest first. The largest one here is 10^DECIMAL_DIGITS or
 * 5^(DECIMAL_DIGITS + 330), about 2660 bits, shifted by at most 64 bits. */
#define BIG_LIMBS 96
typedef struct {
    uint32_t limb[BIG_LIMBS];
    size_t count;
} Big;

/* b = b * factor + add */
static void big_mul_add(Big *b, uint32_t factor, uint32_t add)
{
    uint64_t carry = add;
    for (size_t i = 0; i < b->count; i++) {
        carry += (uint64_t)b->limb[i] * factor;
        b->limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry && b->count < BIG_LIMBS) b->limb[b->count++] = (uint32_t)carry;
}

/* b = b * 5^n */
static void big_mul_pow5(Big *b, uint64_t n)
{
    const uint32_t pow5_13 = 1220703125; /* the largest power of five below 2^32 */
    for (; n >= 13; n -= 13) big_mul_add(b, pow5_13, 0);
    for (; n > 0; n--) big_mul_add(b, 5, 0);
}

static size_t big_bits(const Big *b)
{
    size_t bits = b->count * 32;
    if (b->count == 0) return 0;
    for (uint32_t top = b->limb[b->count - 1]; !(top & 0x80000000u); top <<= 1) bits--;
    return bits;
}

/* b = b * 2^n */
static void big_shift_left(Big *b, size_t n)
{
    size_t limbs = n / 32, bits = n % 32;
    if (b->count == 0) return;
    if (limbs) {
        memmove(b->limb + limbs, b->limb, b->count * sizeof b->limb[0]);
        memset(b->limb, 0, limbs * sizeof b->limb[0]);
        b->count += limbs;
    }
    if (bits) big_mul_add(b, (uint32_t)1 << bits, 0);
}

/* Is a >= b? */
static int big_at_least(const Big *a, const Big *b)
{
    if (a->count != b->count) return a->count > b->count;
    for (size_t i = a->count; i-- > 0;) {
        if (a->limb[i] != b->limb[i]) return a->limb[i] > b->limb[i];
    }
    return 1;
}

/* a = a - b, for a >= b */
static void big_subtract(Big *a, const Big *b)
{
    uint64_t borrow = 0;
    for (size_t i = 0; i < a->count; i++) {
        uint64_t d = (uint64_t)a->limb[i] - (i < b->count ? b->limb[i] : 0) - borrow;
        a->limb[i] = (uint32_t)d;
        borrow = (d >> 32) & 1;
    }
    while (a->count > 0 && a->limb[a->count - 1] == 0) a->count--;
}

/* Rounds m x 2^shift (with `rest` saying that a part below m is missing) to the nearest double,
 * ties to even. m has at least 55 bits. Returns -1 where the result is too large. */
static int double_round(uint64_t m, int64_t shift, int rest, double *value)
{
    int64_t bits = 64;
    while (!(m >> (bits - 1))) bits--;
    int64_t lowest = bits + shift - 53; /* exponent of the last bit kept, for a normal number */
    if (lowest < -1074) lowest = -1074;
    int64_t drop = lowest - shift;
    uint64_t kept = 0, tail = m, half = (uint64_t)1 << 63;
    if (drop < 64) {
        kept = m >> drop;
        tail = m & (((uint64_t)1 << drop) - 1);
        half = (uint64_t)1 << (drop - 1);
    } else if (drop > 64) {
        half = UINT64_MAX; /* all of m is below one half of the last bit */
        tail = 0;
    }
    if (tail > half || (tail == half && (rest || (kept & 1)))) kept++;
    double r = ldexp((double)kept, (int)lowest);
    if (isinf(r)) return -1;
    *value = r;
    return 0;
}

/* The slow and exact way: value = N / M x 2^e in integers, 64 bits of quotient by long division.
 * Splitting 10 = 5 x 2 keeps the numbers short. */
static int decimal_to_double(const Decimal *d, double *value)
{
    Big n = {{0}, 0}, m = {{1}, 1};
    for (size_t i = 0; i < d->count; i++) {
        if (n.count == 0) {
            n.limb[0] = d->digits[i];
            n.count = 1;
        } else {
            big_mul_add(&n, 10, d->digits[i]);
        }
    }
    int64_t exponent = d->point - (int64_t)d->count; /* value = n x 10^exponent */
    if (exponent >= 0) {
        big_mul_pow5(&n, (uint64_t)exponent);
    } else {
        big_mul_pow5(&m, (uint64_t)-exponent);
    }
    /* Scale so that the quotient lies in [2^63, 2^65) before the first bit is drawn. */
    int64_t shift = (int64_t)big_bits(&n) - (int64_t)big_bits(&m);
    if (shift < 0) {
        big_shift_left(&n, (size_t)-shift);
    } else {
        big_shift_left(&m, (size_t)shift);
    }
    /* Now 1/2 < n/m < 2: draw 60 bits, the first of weight 1. */
    const int draw = 60;
    uint64_t q = 0;
    for (int i = 0; i < draw; i++) {
        q <<= 1;
        if (big_at_least(&n, &m)) {
            big_subtract(&n, &m);
            q |= 1;
        }
        big_shift_left(&n, 1);
    }
    return double_round(q, shift + exponent - (draw - 1), n.count != 0, value);
}

int parse_f64(const char *text, size_t len, double *value)
{
    static const double pow10[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                   1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                   1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const int64_t exact_pow10 = 22; /* 10^22 = 2^22 5^22 and 5^22 < 2^53 */
    Decimal d;
    double v = 0;
    if (decimal_read(&d, text, len)) return -1;
    int64_t exponent = d.point - (int64_t)d.count;
    if (d.count == 0 || d.point < -330) { /* below half of the smallest double, 2.5e-324 */
        v = 0;
    } else if (d.point > 310) { /* above the largest double, 1.8e308 */
        return -1;
    } else if (d.count <= 15 && exponent >= -exact_pow10 && exponent <= exact_pow10) {
        /* Both operands exact, so one correctly rounded operation is the whole error. */
        uint64_t m = 0;
        for (size_t i = 0; i < d.count; i++) m = m * 10 + d.digits[i];
        v = exponent < 0 ? (double)m / pow10[-exponent] : (double)m * pow10[exponent];
    } else if (decimal_to_double(&d, &v)) {
        return -1;
    }
    *value = d.negative ? -v : v;
    return 0;
}

/* ---- memory -------------------------------------------------------------------------------- */

#ifdef ALIGN_FAULTS
/* Test builds: FAULT_ALLOC=N makes the N-th allocation fail, FAULT_ALLOC_FROM=N every one from the
 * N-th on, counted from 1 and while one of the two is set. */
static int alloc_fault(void)
{
    static unsigned long long calls;
    const char *once = getenv("FAULT_ALLOC"), *from = getenv("FAULT_ALLOC_FROM");
    if (!once && !from) return 0;
    calls++;
    if (once && strtoull(once, NULL, 10) == calls) return 1;
    return from && strtoull(from, NULL, 10) <= calls;
}
#else
static int alloc_fault(void)
{
    return 0;
}
#endif

void *mem_realloc(void *p, size_t size, Err *e)
{
    void *r = NULL;
    if (size == 0) size = 1;
    if (size <= PTRDIFF_MAX && !alloc_fault()) r = realloc(p, size);
    if (!r) err_set(e, ERR_MEMORY, "out of memory: %zu more bytes were needed", size);
    return r;
}

void *mem_alloc(size_t size, Err *e)
{
    return mem_realloc(NULL, size, e);
}

void *mem_calloc(size_t count, size_t size, Err *e)
{
    size_t bytes;
    void *r = NULL;
    if (size_mul(count, size, &bytes)) bytes = SIZE_MAX;
    if (bytes == 0) bytes = 1;
    /* calloc and not memset: large blocks come from the kernel as zero pages, untouched. */
    if (bytes <= PTRDIFF_MAX && !alloc_fault()) r = calloc(bytes, 1);
    if (!r) err_set(e, ERR_MEMORY, "out of memory: %zu more bytes were needed", bytes);
    return r;
}

void mem_free(void *p)
{
    free(p);
}

int mem_grow(void *array, size_t *cap, size_t count, size_t size, Err *e)
{
    const size_t first = 64;
    size_t more = first, bytes;
    void *items;
    if (count < *cap) return 0;
    if ((*cap && size_mul(*cap, 2, &more)) || size_mul(more, size, &bytes)) bytes = SIZE_MAX;
    memcpy(&items, array, sizeof items); /* for any type of items */
    items = mem_realloc(items, bytes, e);
    if (!items) return -1;
    memcpy(array, &items, sizeof items);
    *cap = more;
    return 0;
}

char *mem_strdup(const char *text, Err *e)
{
    size_t size = strlen(text) + 1;
    char *r = mem_alloc(size, e);
    if (r) memcpy(r, text, size);
    return r;
}

int arena_open(Arena *a, size_t size, Err *e)
{
    size_t with_slack;
    memset(a, 0, sizeof *a);
    if (size_add(size, ARENA_ALIGN, &with_slack)) with_slack = SIZE_MAX;
    a->block = mem_alloc(with_slack, e);
    if (!a->block) return -1;
    size_t skew = (size_t)((uintptr_t)a->block % ARENA_ALIGN);
    a->base = (unsigned char *)a->block + (skew ? ARENA_ALIGN - skew : 0);
    a->size = size;
    return 0;
}

void arena_open_counting(Arena *a)
{
    memset(a, 0, sizeof *a);
    a->counting = 1;
    a->size = SIZE_MAX / 2; /* so that used + ARENA_ALIGN cannot wrap */
}

void *arena_alloc(Arena *a, size_t bytes)
{
    size_t rounded;
    if (size_add(bytes, ARENA_ALIGN - 1, &rounded)) rounded = SIZE_MAX;
    rounded -= rounded % ARENA_ALIGN;
    if (rounded > a->size - a->used) {
        a->failed = 1;
        return NULL;
    }
    size_t at = a->used;
    a->used += rounded;
    if (a->used > a->peak) a->peak = a->used;
    if (a->counting) return (void *)(uintptr_t)(at + ARENA_ALIGN);
    return a->base + at;
}

size_t arena_mark(const Arena *a)
{
    return a->used;
}

void arena_release(Arena *a, size_t mark)
{
    if (mark <= a->used) a->used = mark;
    if (mark == 0) a->failed = 0;
}

void arena_close(Arena *a)
{
    mem_free(a->block);
    memset(a, 0, sizeof *a);
}

struct PoolBlock {
    PoolBlock *next;
    unsigned char *data; /* after this head, at a multiple of POOL_ALIGN */
    size_t size, used;
};

#define POOL_ALIGN 16
#define POOL_FIRST 4096u        /* bytes of the first block; each new one is twice as large ... */
#define POOL_LARGEST (1u << 20) /* ... up to this, except for single large requests */

/* Room for `bytes` in a fresh block. */
static void *pool_grow(Pool *p, size_t bytes, Err *e)
{
    /* The heap aligns to 8 bytes only on some 32-bit machines. */
    const size_t head = sizeof(PoolBlock) + POOL_ALIGN - 1;
    size_t size = p->head ? p->head->size * 2 : POOL_FIRST, whole;
    if (size > POOL_LARGEST) size = POOL_LARGEST;
    if (size < bytes) size = bytes;
    if (size_add(size, head, &whole)) whole = SIZE_MAX;
    PoolBlock *block = mem_calloc(whole, 1, e);
    if (!block) return NULL;
    block->data = (unsigned char *)block + head;
    block->data -= (uintptr_t)block->data % POOL_ALIGN;
    block->size = size;
    block->used = bytes;
    /* A block made for one large request is full: keep filling the one before it. */
    if (p->head && bytes == size) {
        block->next = p->head->next;
        p->head->next = block;
    } else {
        block->next = p->head;
        p->head = block;
    }
    return block->data;
}

/* Zeroed bytes at a multiple of `align` (1 or POOL_ALIGN). */
static void *pool_take(Pool *p, size_t bytes, size_t align, Err *e)
{
    void *r;
    PoolBlock *head = p->head;
    if (bytes == 0) bytes = 1;
    if (head) {
        size_t at = (head->used + align - 1) / align * align;
        if (at <= head->size && bytes <= head->size - at) {
            head->used = at + bytes;
            p->total += bytes;
            return head->data + at;
        }
    }
    r = pool_grow(p, bytes, e);
    if (r) p->total += bytes;
    return r;
}

void *pool_alloc(Pool *p, size_t bytes, Err *e)
{
    return pool_take(p, bytes, POOL_ALIGN, e);
}

char *pool_strndup(Pool *p, const char *text, size_t len, Err *e)
{
    size_t size;
    if (size_add(len, 1, &size)) size = SIZE_MAX;
    char *r = pool_take(p, size, 1, e);
    if (r && len) memcpy(r, text, len); /* the 0 byte is there: pools are zeroed */
    return r;
}

void pool_free(Pool *p)
{
    while (p->head) {
        PoolBlock *next = p->head->next;
        mem_free(p->head);
        p->head = next;
    }
    p->total = 0;
}

/* Room for `more` bytes and a 0 byte. */
static int text_reserve(Text *t, size_t more, Err *e)
{
    size_t need, cap = t->cap ? t->cap : 64;
    if (size_add(t->len, more, &need) || size_add(need, 1, &need)) need = SIZE_MAX;
    if (need <= t->cap) return 0;
    while (cap < need && cap <= SIZE_MAX / 2) cap *= 2;
    if (cap < need) cap = need;
    char *data = mem_realloc(t->data, cap, e);
    if (!data) return -1;
    t->data = data;
    t->cap = cap;
    return 0;
}

int text_add(Text *t, const char *bytes, size_t len, Err *e)
{
    if (text_reserve(t, len, e)) return -1;
    if (len) memcpy(t->data + t->len, bytes, len);
    t->len += len;
    t->data[t->len] = 0;
    return 0;
}

int text_addf(Text *t, Err *e, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) return err_set(e, ERR_INTERNAL, "cannot format \"%s\"", fmt);
    if (text_reserve(t, (size_t)n, e)) return -1;
    va_start(args, fmt);
    vsnprintf(t->data + t->len, (size_t)n + 1, fmt, args);
    va_end(args);
    t->len += (size_t)n;
    return 0;
}

void text_free(Text *t)
{
    mem_free(t->data);
    memset(t, 0, sizeof *t);
}

/* ---- sorting ------------------------------------------------------------------------------- */

/* Exchanges two items, block by block. */
static void item_swap(unsigned char *a, unsigned char *b, size_t size)
{
    unsigned char t[64];
    while (size > 0) {
        size_t n = size < sizeof t ? size : sizeof t;
        memcpy(t, a, n);
        memcpy(a, b, n);
        memcpy(b, t, n);
        a += n;
        b += n;
        size -= n;
    }
}

/* Moves item `at` down until no child is larger: the heap property below it. */
static void heap_sink(unsigned char *items, size_t at, size_t count, size_t size,
                      int (*compare)(const void *, const void *))
{
    while (at * 2 + 1 < count) {
        size_t child = at * 2 + 1;
        if (child + 1 < count && compare(items + child * size, items + (child + 1) * size) < 0) {
            child++;
        }
        if (compare(items + at * size, items + child * size) >= 0) return;
        item_swap(items + at * size, items + child * size, size);
        at = child;
    }
}

void sort_items(void *items, size_t count, size_t size,
                int (*compare)(const void *a, const void *b))
{
    unsigned char *base = items;
    for (size_t i = count / 2; i-- > 0;) heap_sink(base, i, count, size, compare);
    for (size_t end = count; end > 1; end--) {
        item_swap(base, base + (end - 1) * size, size);
        heap_sink(base, 0, end - 1, size, compare);
    }
}

/* ---- random numbers ------------------------------------------------------------------------ */

/* Philox 4x32-10: multipliers and Weyl constants of Salmon et al. 2011, table 2. */
#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u
#define PHILOX_ROUNDS 10

void rng_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)PHILOX_M0 * c0, p1 = (uint64_t)PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t counter)
{
    const uint32_t c[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), (uint32_t)stream,
                           (uint32_t)(stream >> 32)};
    const uint32_t k[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t r[4];
    rng_philox(c, k, r);
    return r[0] | (uint64_t)r[1] << 32;
}

double rng_unit(uint64_t seed, uint64_t stream, uint64_t counter)
{
    return (double)(rng_u64(seed, stream, counter) >> 11) * 0x1p-53;
}

uint64_t rng_mix(uint64_t a, uint64_t b)
{
    const uint64_t mix_stream = UINT64_MAX; /* none of the RNG_ purposes */
    return rng_u64(a, mix_stream, b);
}

#define MT_N 624
#define MT_M 397

void mt_seed(Mt *m, uint64_t seed)
{
    m->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < MT_N; i++) {
        uint32_t before = m->state[i - 1];
        m->state[i] = 1812433253u * (before ^ (before >> 30)) + i;
    }
    m->at = MT_N;
}

/* The recurrence: 624 new words from the old ones, in place. */
static void mt_refill(Mt *m)
{
    for (int i = 0; i < MT_N; i++) {
        uint32_t y = (m->state[i] & 0x80000000u) | (m->state[(i + 1) % MT_N] & 0x7FFFFFFFu);
        m->state[i] = m->state[(i + MT_M) % MT_N] ^ (y >> 1) ^ ((y & 1) ? 0x9908B0DFu : 0);
    }
    m->at = 0;
}

uint32_t mt_next(Mt *m)
{
    if (m->at >= MT_N) mt_refill(m);
    uint32_t y = m->state[m->at++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680u;
    y ^= (y << 15) & 0xEFC60000u;
    return y ^ (y >> 18);
}

float mt_uniform(Mt *m, float low, float high)
{
    float u = (float)(mt_next(m) & 0xFFFFFFu) * 0x1p-24f;
    return fmaf(u, high - low, low);
}

void mt_randperm(Mt *m, uint32_t *order, size_t n)
{
    for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    for (size_t i = 0; i + 1 < n; i++) {
        size_t j = i + mt_next(m) % (uint32_t)(n - i);
        uint32_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}

/* ---- threads ------------------------------------------------------------------------------- */

#ifdef _OPENMP
/* The one mutable setting of the room: how many threads threads_run uses. 0 = not asked yet. */
static int threads_wanted;

/* 0 = all processors available now. Scratch is made for this number, so a process that is given
 * more processors later continues with these. */
void threads_set(int count)
{
    threads_wanted = count > 0 ? count : omp_get_num_procs();
}

int threads_count(void)
{
    if (threads_wanted <= 0) threads_set(0);
    return threads_wanted;
}

/* A gate at which the threads of threads_reach wait until all of them have started. */
typedef struct Gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int waiting;
    int open;
} Gate;

/* Takes what a thread of OpenMP's takes, a stack and a first piece of memory (for which the C
 * library may set aside far more), and waits. */
static void *wait_at_gate(void *arg)
{
    Gate *gate = arg;
    void *volatile first = malloc(1); /* volatile: a compiler may remove an unused value */
    free(first);
    pthread_mutex_lock(&gate->lock);
    gate->waiting++;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->open) pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
    return NULL;
}

/* OpenMP ends the process if the system gives it fewer threads than it asks for, so we start
 * threads first. A quarter more than wanted is tried, each after the one before it has its memory.
 * If one fails, half of those that started are used, because the process will need more than
 * threads. */
int threads_reach(void)
{
    int want = threads_count(), most = want + want / 4, made = 1;
    Err ignored;
    Gate gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 1, 0};
    pthread_t *threads = want > 1 ? mem_alloc((size_t)most * sizeof *threads, &ignored) : NULL;
    if (!threads) return want;
    pthread_mutex_lock(&gate.lock); /* all of them exist at the same time, as OpenMP's do */
    while (made < most && !pthread_create(&threads[made], NULL, wait_at_gate, &gate))
        for (made++; gate.waiting < made;) pthread_cond_wait(&gate.changed, &gate.lock);
    gate.open = 1;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    for (int i = 1; i < made; i++) pthread_join(threads[i], NULL);
    mem_free(threads);
    threads_wanted = made == most ? want : (made + 1) / 2;
    return threads_wanted;
}

int threads_index(void)
{
    return omp_get_thread_num();
}

void threads_run(Task task, void *ctx, size_t n)
{
    int count = threads_count();
    if (n < (size_t)count) count = (int)n;
    if (count <= 1 || omp_in_parallel()) { /* a task that runs tasks does so in its own thread */
        for (size_t i = 0; i < n; i++) task(ctx, i);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(count)
    for (size_t i = 0; i < n; i++) task(ctx, i);
}
#else
void threads_set(int count)
{
    (void)count;
}

int threads_count(void)
{
    return 1;
}

int threads_reach(void)
{
    return 1;
}

int threads_index(void)
{
    return 0;
}

void threads_run(Task task, void *ctx, size_t n)
{
    for (size_t i = 0; i < n; i++) task(ctx, i);
}
#endif

/* ---- time and signals ---------------------------------------------------------------------- */

double time_now(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t)) return 0;
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

volatile int stop_requested;
