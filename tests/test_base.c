/* test_base.c - errors, numbers, memory, random numbers, threads. */
#include "base.h"
#include "test.h"

#include <stdlib.h>

/* Whole or in pieces of any size, the same is masked, and nothing else. */
static void masks_what_drives_a_terminal(void)
{
    static const struct {
        const char *text, *line, *lines;
    } cases[] = {
        {"a\tb\nc", "a?b?c", "a\tb\nc"},
        {"\x1b]0;x\x07\r\x08\x7f", "?]0;x????", "?]0;x????"},
        {"\xC2\x85\xC2\x9B\xC2\xA0", "????\xC2\xA0", "????\xC2\xA0"},
        {"x\xE2\x80\xAEy\xE2\x81\xA6z\xE2\x80\x8F", "x???y???z???", "x???y???z???"},
        {"\xD8\x9C\xE2\x80\xA8\xE2\x80\xA9\xE2\x80\x8B", "???????????", "???????????"},
        {"\xF3\xA0\x81\xA1\xEF\xBB\xBF", "???????", "???????"},
        {"\xFF\xC0\xAF\xED\xA0\x80", "??????", "??????"},
        {"\xE2\x82;", "??;", "??;"},
        /* writing that needs its joiners, right to left, and pictures */
        {"\xD9\x85\xDB\x8C\xE2\x80\x8C\xD8\xAE \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB", NULL,
         NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[64];
        size_t len = strlen(cases[i].text);
        for (int lines = 0; lines < 2; lines++) {
            const char *right = lines ? cases[i].lines : cases[i].line;
            snprintf(text, sizeof text, "%s", cases[i].text);
            CHECK_INT(text_mask(text, len, lines), len);
            CHECK_TEXT(text, right ? right : cases[i].text);
            for (size_t piece = 1; piece <= len; piece++) {
                char out[64] = "", held[8];
                size_t n = 0, kept = 0;
                for (size_t at = 0; at < len; at += piece) {
                    char part[80];
                    size_t more = len - at < piece ? len - at : piece;
                    memcpy(part, held, kept);
                    memcpy(part + kept, cases[i].text + at, more);
                    size_t whole = text_mask(part, kept + more, lines);
                    memcpy(out + n, part, whole);
                    n += whole;
                    kept = kept + more - whole;
                    CHECK(kept < 4);
                    memcpy(held, part + whole, kept);
                }
                out[n] = 0;
                CHECK_INT(kept, 0);
                CHECK_TEXT(out, right ? right : cases[i].text);
            }
        }
    }
    char cut[] = "\xF0\x9F\x98";
    CHECK_INT(text_mask(cut, 3, 1), 0);
    CHECK_INT(text_mask(cut, 2, 1), 0);
    CHECK_INT(text_mask(cut, 1, 1), 0);
}

static void err_is_one_safe_line(void)
{
    Err e;
    CHECK_INT(err_set(&e, ERR_DATA, "a\nb\x1b[31m%d\xC2\x9B\xFF\xC3\xA9", 7), -1);
    CHECK_INT(e.code, ERR_DATA);
    CHECK_TEXT(e.text, "a?b?[31m7???\xC3\xA9");
    CHECK_INT(err_prefix(&e, "file %s", "x"), -1);
    CHECK_INT(e.code, ERR_DATA);
    CHECK_TEXT(e.text, "file x: a?b?[31m7???\xC3\xA9");
    CHECK_INT(err_set(&e, ERR_DATA, "again: %s", e.text), -1); /* its own text as an argument */
    CHECK_TEXT(e.text, "again: file x: a?b?[31m7???\xC3\xA9");
    char longer[3000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    err_set(&e, ERR_IO, "%s", longer);
    CHECK_INT(strlen(e.text), sizeof e.text - 1);
    err_prefix(&e, "head");
    CHECK_INT(strlen(e.text), sizeof e.text - 1);
    CHECK(!strncmp(e.text, "head: xxx", 9));
    err_prefix(&e, "%s", longer);
    CHECK_INT(strlen(e.text), sizeof e.text - 1);
    CHECK_INT(err_set(NULL, ERR_IO, "nobody listens"), -1);
}

static void utf8_steps(void)
{
    /* clang-format off */
    static const struct {
        const char *bytes;
        size_t step;
    } cases[] = {
        {"a", 1},          {"\x7F", 1},       {"\x80", 0},         {"\xC1\xBF", 0},
        {"\xC2\x80", 2},   {"\xC2", 0},       {"\xC2\x41", 0},     {"\xE0\x9F\xBF", 0},
        {"\xE0\xA0\x80", 3}, {"\xED\x9F\xBF", 3}, {"\xED\xA0\x80", 0}, {"\xEF\xBF\xBF", 3},
        {"\xE2\x82", 0},   {"\xF0\x8F\xBF\xBF", 0}, {"\xF0\x90\x80\x80", 4},
        {"\xF4\x8F\xBF\xBF", 4}, {"\xF4\x90\x80\x80", 0}, {"\xF5\x80\x80\x80", 0}, {"\xFF", 0},
        {"\xF0\x9F\x98", 0}, {"\xF0\x9F\x98\x28", 0},
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_INT(utf8_step(cases[i].bytes, strlen(cases[i].bytes)), cases[i].step);
    }
    CHECK_INT(utf8_step("a", 0), 0);
}

static char last_level;
static char last_line[200];

static void keep_line(void *ctx, char level, const char *text)
{
    (void)ctx;
    last_level = level;
    snprintf(last_line, sizeof last_line, "%s", text);
}

static void log_goes_where_it_is_sent(void)
{
    Log log = {NULL, keep_line};
    log_note(&log, 'w', "%d rows\n", 3);
    CHECK_INT(last_level, 'w');
    CHECK_TEXT(last_line, "3 rows?");
    log_note(NULL, 'w', "nowhere");
    log.line = NULL;
    log_note(&log, 'w', "nowhere");
    CHECK_TEXT(last_line, "3 rows?");
}

static void sizes_are_checked(void)
{
    size_t s;
    uint64_t u;
    CHECK_INT(size_mul(SIZE_MAX, 1, &s), 0);
    CHECK_INT(s, SIZE_MAX);
    CHECK_INT(size_mul(SIZE_MAX / 2 + 1, 2, &s), -1);
    CHECK_INT(size_mul(0, SIZE_MAX, &s), 0);
    CHECK_INT(s, 0);
    CHECK_INT(size_mul(SIZE_MAX, 0, &s), 0);
    CHECK_INT(s, 0);
    CHECK_INT(size_add(SIZE_MAX, 0, &s), 0);
    CHECK_INT(s, SIZE_MAX);
    CHECK_INT(size_add(SIZE_MAX, 1, &s), -1);
    CHECK_INT(u64_mul(UINT64_MAX - 1, 2, &u), -1);
    CHECK_INT(u64_mul(UINT64_MAX / 3, 3, &u), 0);
    CHECK_INT(u, UINT64_MAX);
    CHECK_INT(u64_add(UINT64_MAX - 1, 1, &u), 0);
    CHECK_INT(u, UINT64_MAX);
    CHECK_INT(u64_add(UINT64_MAX, UINT64_MAX, &u), -1);
}

static int u64_of(const char *text, uint64_t *v)
{
    return parse_u64(text, strlen(text), v);
}

static int i64_of(const char *text, int64_t *v)
{
    return parse_i64(text, strlen(text), v);
}

static void integers_are_strict(void)
{
    uint64_t u = 7;
    int64_t i = 7;
    CHECK_INT(u64_of("18446744073709551615", &u), 0);
    CHECK_INT(u, UINT64_MAX);
    CHECK_INT(u64_of("18446744073709551616", &u), -1);
    CHECK_INT(u64_of("0", &u), 0);
    CHECK_INT(u, 0);
    CHECK(u64_of("", &u) && u64_of("+1", &u) && u64_of("-1", &u) && u64_of(" 1", &u));
    CHECK(u64_of("1 ", &u) && u64_of("0x1", &u) && u64_of("1.0", &u));
    CHECK_INT(i64_of("-9223372036854775808", &i), 0);
    CHECK_INT(i, INT64_MIN);
    CHECK_INT(i64_of("-9223372036854775809", &i), -1);
    CHECK_INT(i64_of("9223372036854775807", &i), 0);
    CHECK_INT(i, INT64_MAX);
    CHECK_INT(i64_of("9223372036854775808", &i), -1);
    CHECK_INT(i64_of("-0", &i), 0);
    CHECK_INT(i, 0);
    CHECK(i64_of("-", &i) && i64_of("--1", &i) && i64_of("", &i));
}

static int f64_of(const char *text, double *v)
{
    return parse_f64(text, strlen(text), v);
}

static void decimals_are_strict(void)
{
    /* clang-format off */
    static const char *const bad[] = {"",    "-",   ".",    "e5",   "1e",    "1e+",  "1e1.0", "nan",
                                      "inf", "1 ",  " 1",   "0x1p3", "1,5",  "1..2", "1.2.3", "1f",
                                      "--1", "1e5x", "1e309", "-1e309", "1.7976931348623159e308",
                                      "1e99999999999999999999"};
    /* clang-format on */
    double v = 42;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_INT(f64_of(bad[i], &v), -1);
        if (v != 42) printf("  \"%s\"\n", bad[i]);
    }
    CHECK(v == 42);
    CHECK(f64_of("0.1", &v) == 0 && v == 0.1);
    CHECK(f64_of("+1.5", &v) == 0 && v == 1.5);
    CHECK(f64_of("-.5", &v) == 0 && v == -0.5);
    CHECK_INT(f64_of("5.", &v), 0);
    CHECK(v == 5);
    CHECK(f64_of("-0", &v) == 0 && v == 0 && signbit(v));
    CHECK(f64_of("1e-400", &v) == 0 && v == 0);
    CHECK(f64_of("0e99999999999999999999", &v) == 0 && v == 0);
    CHECK(f64_of("0000000000000000000000001e-0000000000000000001", &v) == 0 && v == 0.1);
    CHECK(f64_of("1.7976931348623157e308", &v) == 0 && v == 1.7976931348623157e308);
    CHECK(f64_of("1.7976931348623158e308", &v) == 0 && v == 1.7976931348623157e308);
}

/* Texts at and beside half-way points, where one wrong bit of the quotient shows. */
static void decimals_round_half_way(void)
{
    static const struct {
        const char *text;
        double value;
    } cases[] = {
        {"9007199254740993", 9007199254740992.0},
        {"9007199254740993.0000000000000000000000000000000000001", 9007199254740994.0},
        {"9007199254740995", 9007199254740996.0},
        {"2.2250738585072011e-308", 0x0.fffffffffffffp-1022},
        {"2.2250738585072014e-308", 0x1p-1022},
        {"4.9406564584124654e-324", 0x1p-1074},
        {"2.4703282292062327e-324", 0},
        {"2.4703282292062328e-324", 0x1p-1074},
        {"1.2345678901234567e-325", 0},
        {"9.8765432109876543e-331", 0},
        {"1.00000000000000011102230246251565404236316680908203125", 1.0},
        {"1.00000000000000011102230246251565404236316680908203124", 1.0},
        {"1.00000000000000011102230246251565404236316680908203126", 0x1.0000000000001p0},
        {"1.00000000000000033306690738754696212708950042724609375", 0x1.0000000000002p0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double v = -1;
        CHECK_INT(f64_of(cases[i].text, &v), 0);
        CHECK(v == cases[i].value);
        if (v != cases[i].value) printf("  %s gave %a\n", cases[i].text, v);
    }
}

static double bits_to_double(uint64_t bits)
{
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* Random doubles in 1 to 20 digits, and random digit strings, against the C library. */
static void decimals_match_strtod(void)
{
    char text[900];
    size_t wrong = 0;
    for (uint64_t i = 0; i < 200000; i++) {
        double value = bits_to_double(rng_u64(1, 0, i));
        if (!isfinite(value)) continue;
        snprintf(text, sizeof text, "%.*e", (int)(i % 20), value);
        double want = strtod(text, NULL), got = 0;
        int r = f64_of(text, &got);
        if (isfinite(want) ? r || memcmp(&got, &want, sizeof got) : r == 0) wrong++;
    }
    for (uint64_t i = 0; i < 3000; i++) { /* hundreds of digits, the point anywhere */
        size_t n = 1 + (size_t)(rng_u64(2, 0, i) % 850);
        size_t point = (size_t)(rng_u64(3, 0, i) % (n + 1));
        for (size_t k = 0; k < n; k++) {
            text[k] = k == point ? '.' : (char)('0' + rng_u64(4, i, k) % 10);
        }
        if (n == 1) text[0] = '7';
        snprintf(text + n, 10, "e%d", (int)(rng_u64(5, 0, i) % 600) - 300 - (int)point);
        double want = strtod(text, NULL), got = 0;
        int r = f64_of(text, &got);
        if (isfinite(want) ? r || memcmp(&got, &want, sizeof got) : r == 0) wrong++;
    }
    CHECK_INT(wrong, 0);
}

/* The exact decimal expansion of the point half-way between two doubles, and the same with one more
 * digit: more than DECIMAL_DIGITS digits must not be lost. */
static void decimals_longest_half_way(void)
{
    char text[1400];
    size_t wrong = 0;
    for (uint64_t i = 0; i < 300; i++) {
        uint64_t bits = rng_u64(6, 0, i) & 0x7FFFFFFFFFFFFFFFu;
        if (i % 3 == 0) bits &= 0x001FFFFFFFFFFFFFu; /* subnormal, or nearly so */
        if ((bits >> 52) > 0x7FD || (bits >> 52) > 1040) continue;
        long double low = bits_to_double(bits), high = bits_to_double(bits + 1);
        snprintf(text, sizeof text, "%.1200Lf", (low + high) / 2);
        double want = bits_to_double(bits + (bits & 1)), got = 0;
        if (f64_of(text, &got) || got != want) wrong++;
        size_t n = strlen(text);
        memcpy(text + n, "1", 2);
        want = bits_to_double(bits + 1);
        if (f64_of(text, &got) || got != want) wrong++;
    }
    if (sizeof(long double) > sizeof(double)) CHECK_INT(wrong, 0);
}

static void memory_gives_and_refuses(void)
{
    Err e;
    void *p = mem_alloc(0, &e);
    CHECK(p != NULL);
    mem_free(p);
    unsigned char *z = mem_calloc(1000, 3, &e);
    CHECK(z != NULL);
    size_t sum = 0;
    for (size_t i = 0; z && i < 3000; i++) sum += z[i];
    CHECK_INT(sum, 0);
    mem_free(z);
    CHECK(mem_alloc(SIZE_MAX, &e) == NULL && e.code == ERR_MEMORY);
    CHECK_HAS(e.text, "out of memory");
    CHECK(mem_calloc(SIZE_MAX / 2, 3, NULL) == NULL);
    char *s = mem_strdup("text", &e);
    CHECK_TEXT(s, "text");
    s = mem_realloc(s, 100, &e);
    CHECK_TEXT(s, "text");
    mem_free(s);
    mem_free(NULL);
}

static void arrays_grow_and_stay(void)
{
    Err e;
    double *x = NULL;
    size_t cap = 0, moves = 0;
    for (size_t i = 0; i < 1000; i++) {
        size_t before = cap;
        CHECK(mem_grow(&x, &cap, i, sizeof *x, &e) == 0 && cap > i);
        moves += cap != before;
        x[i] = (double)i;
    }
    CHECK_INT(moves, 5); /* 64, 128, ... 1024 */
    for (size_t i = 0; i < 1000; i++) CHECK(x[i] == (double)i);
    double *kept = x;
    size_t full = SIZE_MAX / 16 + 1; /* twice that many items of 8 bytes are too many */
    CHECK_FAILS(mem_grow(&x, &full, full, sizeof *x, &e), &e, ERR_MEMORY);
    CHECK(x == kept);
    CHECK_INT(full, SIZE_MAX / 16 + 1);
    full = SIZE_MAX / 2 + 1;
    CHECK_INT(mem_grow(&x, &full, full, 1, &e), -1);
    CHECK_INT(e.code, ERR_MEMORY);
    CHECK(x == kept);
    mem_free(x);
}

static void arena_plans_as_it_serves(void)
{
    Arena real_one, count;
    Err e;
    CHECK_OK(arena_open(&real_one, 1024, &e), &e);
    arena_open_counting(&count);
    Arena *both[] = {&real_one, &count};
    for (int i = 0; i < 2; i++) {
        Arena *a = both[i];
        unsigned char *first = arena_alloc(a, 1);
        size_t mark = arena_mark(a);
        unsigned char *second = arena_alloc(a, 65);
        CHECK(first && second && (uintptr_t)first % ARENA_ALIGN == 0);
        CHECK_INT(second - first, 64);
        CHECK_INT(a->used, 192);
        CHECK_INT(a->peak, 192);
        arena_release(a, mark);
        CHECK_INT(a->used, 64);
        CHECK_INT(a->peak, 192);
        CHECK(arena_alloc(a, 0) != NULL && a->used == 64);
        CHECK(!a->failed);
    }
    memset(arena_alloc(&real_one, 900), 1, 900); /* 64 + 960 bytes: full to the last one */
    CHECK_INT(real_one.used, real_one.size);
    arena_close(&real_one);
    arena_close(&count);
}

static void arena_says_when_it_is_full(void)
{
    Arena a;
    Err e;
    CHECK_OK(arena_open(&a, 128, &e), &e);
    CHECK(arena_alloc(&a, 128) != NULL);
    CHECK(arena_alloc(&a, 1) == NULL && a.failed);
    arena_release(&a, 0);
    CHECK(!a.failed && arena_alloc(&a, SIZE_MAX) == NULL && a.failed);
    arena_close(&a);
    CHECK_FAILS(arena_open(&a, SIZE_MAX - 3, &e), &e, ERR_MEMORY);
    arena_open_counting(&a);
    CHECK(arena_alloc(&a, SIZE_MAX / 2 - 100) != NULL);
    CHECK(arena_alloc(&a, SIZE_MAX / 2) == NULL && a.failed);
    arena_close(&a);
}

static void pool_keeps_everything(void)
{
    Pool p = {0};
    Err e;
    unsigned char *parts[300];
    for (size_t i = 0; i < 300; i++) {
        size_t bytes = i % 7 == 0 ? 5000 : i;
        parts[i] = pool_alloc(&p, bytes, &e);
        CHECK(parts[i] && (uintptr_t)parts[i] % 16 == 0);
        for (size_t k = 0; k < bytes; k++) {
            CHECK_INT(parts[i][k], 0);
        }
        memset(parts[i], (int)(i + 1) & 0xFF, bytes);
        char *s = pool_strndup(&p, "abcdef", i % 7, &e);
        CHECK(s && strlen(s) == i % 7);
    }
    for (size_t i = 0; i < 300; i++) {
        size_t bytes = i % 7 == 0 ? 5000 : i;
        for (size_t k = 0; k < bytes; k++) {
            CHECK_INT(parts[i][k], ((i + 1) & 0xFF));
        }
    }
    CHECK(pool_alloc(&p, SIZE_MAX - 5, &e) == NULL && e.code == ERR_MEMORY);
    pool_free(&p);
    CHECK(p.head == NULL && p.total == 0);
}

/* A large request gets a block of its own; small ones go on where they were. */
static void pool_takes_large_requests(void)
{
    Pool p = {0};
    Err e;
    char *first = pool_strndup(&p, "first", 5, &e);
    unsigned char *large = pool_alloc(&p, 100000, &e);
    char *second = pool_strndup(&p, "second", 6, &e);
    CHECK(first && large && second && second == first + 6);
    CHECK_INT(p.total, 6 + 100000 + 7);
    memset(large, 1, 100000);
    CHECK_TEXT(first, "first");
    CHECK_TEXT(second, "second");
    pool_free(&p);
}

static void text_grows(void)
{
    Text t = {0};
    Err e;
    CHECK_OK(text_add(&t, "", 0, &e), &e);
    CHECK_TEXT(t.data, "");
    for (int i = 0; i < 1000; i++) CHECK_INT(text_addf(&t, &e, "%d,", i % 10), 0);
    CHECK_INT(t.len, 2000);
    CHECK_INT(strlen(t.data), 2000);
    CHECK(!strncmp(t.data, "0,1,2,", 6) && !strcmp(t.data + 1994, "7,8,9,"));
    CHECK_FAILS(text_add(&t, t.data, SIZE_MAX - 10, &e), &e, ERR_MEMORY);
    text_free(&t);
    CHECK(t.data == NULL);
}

static int int_compare(const void *a, const void *b)
{
    const int *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void sort_sorts(void)
{
    int v[200];
    for (size_t n = 0; n < 200; n++) {
        long sum = 0;
        for (size_t i = 0; i < n; i++) sum += v[i] = (int)(rng_u64(9, n, i) % 100);
        sort_items(v, n, sizeof v[0], int_compare);
        for (size_t i = 0; i < n; i++) sum -= v[i];
        CHECK_INT(sum, 0);
        for (size_t i = 1; i < n; i++) CHECK(v[i - 1] <= v[i]);
    }
    struct {
        int key;
        char rest[200];
    } large[50];
    for (int i = 0; i < 50; i++) {
        large[i].key = i * 37 % 50;
        memset(large[i].rest, large[i].key, sizeof large[i].rest);
    }
    sort_items(large, 50, sizeof large[0], int_compare);
    for (int i = 0; i < 50; i++) CHECK(large[i].key == i && large[i].rest[199] == i);
}

/* Known answers published with the Random123 library (kat_vectors, philox4x32 10). */
static void philox_known_answers(void)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        rng_philox(kat[i].counter, kat[i].key, out);
        CHECK(!memcmp(out, kat[i].out, sizeof out));
    }
    CHECK(rng_u64(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u) ==
          0x94fdccebd16cfe09u);
    CHECK(rng_u64(0, 0, 0) == 0xe169c58d6627e8d5u);
    CHECK(rng_unit(0, 0, 0) == (double)(0xe169c58d6627e8d5u >> 11) / 9007199254740992.0);
    CHECK(rng_mix(1, 2) != rng_mix(2, 1));
}

static void uniform_draws_are_uniform(void)
{
    const size_t n = 100000;
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        double u = rng_unit(42, RNG_SAMPLE, i);
        CHECK(u >= 0 && u < 1);
        sum += u;
        square += u * u;
    }
    CHECK_NEAR(sum / (double)n, 0.5, 0.004);
    CHECK_NEAR(square / (double)n, 1.0 / 3, 0.004);
}

/* Facts about PyTorch 2.13.0's CPU generator, found by running it. */
static void twister_is_pytorchs(void)
{
    static const struct {
        uint64_t seed;
        size_t n;
        uint32_t order[10];
    } perms[] = {
        {42, 7, {1, 6, 3, 5, 4, 0, 2}},
        {43, 7, {3, 1, 2, 4, 5, 0, 6}},
        {42, 10, {2, 6, 1, 8, 4, 5, 0, 9, 3, 7}},
        {1, 10, {5, 6, 1, 2, 0, 8, 9, 3, 7, 4}},
        {43, 10, {8, 4, 9, 0, 5, 1, 6, 7, 2, 3}},
        {0, 10, {4, 1, 7, 5, 3, 9, 0, 8, 6, 2}},
        {((uint64_t)1 << 32) + 1, 10, {5, 6, 1, 2, 0, 8, 9, 3, 7, 4}},
    };
    Mt m;
    uint32_t order[10];
    for (size_t i = 0; i < sizeof perms / sizeof perms[0]; i++) {
        mt_seed(&m, perms[i].seed);
        mt_randperm(&m, order, perms[i].n);
        CHECK(!memcmp(order, perms[i].order, perms[i].n * sizeof order[0]));
    }
    static const double rand42[] = {.88226926, .91500396, .38286376, .95930564};
    mt_seed(&m, 42);
    for (int i = 0; i < 4; i++) CHECK_NEAR(mt_uniform(&m, 0, 1), rand42[i], 5e-9);
    /* The reference program's 10,000th output for its default seed (C++11, mt19937). */
    mt_seed(&m, 5489);
    uint32_t last = 0;
    for (int i = 0; i < 10000; i++) last = mt_next(&m);
    CHECK_INT(last, 4123659995u);
    mt_randperm(&m, order, 0);
    mt_randperm(&m, order, 1);
    CHECK_INT(order[0], 0);
}

typedef struct {
    int *count;
    int *index;
    int parallel;
} Job;

static void count_one(void *ctx, size_t i)
{
    const Job *job = ctx;
    job->count[i]++;
    job->index[i] = threads_index();
}

static void nested(void *ctx, size_t i)
{
    const Job *outer = ctx;
    int count[5] = {0}, index[5] = {0};
    Job inner = {count, index, 0};
    threads_run(count_one, &inner, 5);
    outer->index[i] = threads_index();
    for (int k = 0; k < 5; k++) {
        outer->count[i] += count[k];
        /* Scratch of a parallel task must stay private; a single task hands its threads on. */
        if (outer->parallel && index[k] != outer->index[i]) outer->count[i] += 100;
    }
}

static void threads_run_each_task_once(void)
{
    static const int counts[] = {1, 2, 3, 7, 0};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        threads_set(counts[c]);
        CHECK(threads_count() >= 1);
#ifdef _OPENMP
        if (counts[c]) CHECK_INT(threads_count(), counts[c]);
#endif
        for (size_t n = 0; n < 20; n++) {
            int count[20] = {0}, index[20] = {0};
            Job job = {count, index, n > 1};
            threads_run(count_one, &job, n);
            for (size_t i = 0; i < 20; i++) {
                CHECK_INT(count[i], (i < n));
                CHECK(index[i] >= 0 && index[i] < threads_count());
            }
            memset(count, 0, sizeof count);
            threads_run(nested, &job, n);
            for (size_t i = 0; i < n; i++) CHECK_INT(count[i], 5);
        }
    }
    threads_set(0);
}

static void time_moves_forward(void)
{
    double before = time_now(), after = before;
    for (long i = 0; i < 100000000 && after <= before; i++) after = time_now();
    CHECK(after > before && before > 0);
    CHECK_INT(stop_requested, 0);
}

/* What fits is kept; the sanitizers see that nothing is written behind it. */
static void lines_are_cut_at_their_end(void)
{
    char out[8] = "ab";
    line_addf(out, sizeof out, "%d", 34);
    CHECK_TEXT(out, "ab34");
    line_addf(out, sizeof out, "%s", "56789");
    CHECK_TEXT(out, "ab34567");
    line_addf(out, sizeof out, "%s", "0");
    CHECK_TEXT(out, "ab34567");
}

static const Test tests[] = {
    {"lines_are_cut_at_their_end", lines_are_cut_at_their_end},
    {"err_is_one_safe_line", err_is_one_safe_line},
    {"masks_what_drives_a_terminal", masks_what_drives_a_terminal},
    {"utf8_steps", utf8_steps},
    {"log_goes_where_it_is_sent", log_goes_where_it_is_sent},
    {"sizes_are_checked", sizes_are_checked},
    {"integers_are_strict", integers_are_strict},
    {"decimals_are_strict", decimals_are_strict},
    {"decimals_round_half_way", decimals_round_half_way},
    {"decimals_match_strtod", decimals_match_strtod},
    {"decimals_longest_half_way", decimals_longest_half_way},
    {"memory_gives_and_refuses", memory_gives_and_refuses},
    TEST(arrays_grow_and_stay),
    {"arena_plans_as_it_serves", arena_plans_as_it_serves},
    {"arena_says_when_it_is_full", arena_says_when_it_is_full},
    {"pool_keeps_everything", pool_keeps_everything},
    {"pool_takes_large_requests", pool_takes_large_requests},
    {"text_grows", text_grows},
    {"sort_sorts", sort_sorts},
    {"philox_known_answers", philox_known_answers},
    {"uniform_draws_are_uniform", uniform_draws_are_uniform},
    {"twister_is_pytorchs", twister_is_pytorchs},
    {"threads_run_each_task_once", threads_run_each_task_once},
    {"time_moves_forward", time_moves_forward},
};
TEST_MAIN(tests)
