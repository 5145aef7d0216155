/* test_json.c - the JSON reader and writer: what must be accepted, what must be refused and how. */
#include "base.h"
#include "json.h"
#include "test.h"

#include <stdlib.h>
#include <time.h>

static Err e;

static Json *parse(Pool *pool, const char *text, int flags)
{
    return json_parse(pool, text, strlen(text), "t.json", flags, &e);
}

/* Parses, writes back, and compares: NULL as `written` means that text must be refused. */
static void round_trip(const char *text, const char *written)
{
    Pool pool = {0};
    Text out = {0};
    Json *j = parse(&pool, text, 0);
    CHECK_INT((j != NULL), (written != NULL));
    if ((j != NULL) != (written != NULL)) printf("  %s: %s\n", text, j ? "accepted" : e.text);
    if (j && written) {
        CHECK_OK(json_put(&out, j, &e), &e);
        CHECK_TEXT(out.data, written);
    }
    text_free(&out);
    pool_free(&pool);
}

static void accepts_what_it_must(void)
{
    /* clang-format off */
    static const char *const same[] = {
        "null", "true", "false", "0", "-0", "1", "-1", "123456789012345678901234567890", "1.5",
        "-0.0", "1e5", "1E+5", "1e-5", "0e0", "1.25e-300", "1e400", "\"\"", "\"a\"", "[]", "{}",
        "[[]]", "[{}]", "{\"a\":{}}", "[1,2,3]", "{\"a\":1,\"b\":[2,{\"c\":null}]}", "{\"\":0}",
        "[null,1,\"1\",{}]", "\"\xC3\xA9\"", "\"\xE2\x82\xAC\"", "\"\xF0\x9D\x84\x9E\"",
        "\"\xEF\xBF\xBF\"", "\"\xF4\x8F\xBF\xBF\"", "{\"a\":1,\"A\":2,\"aa\":3}", "[[[[[[]]]]]]",
        "[\"\\\\\",\"\\\"\",\"\\b\\f\\n\\r\\t\"]", "\"\\u0000\"", "\"\\u001f\"",
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) round_trip(same[i], same[i]);
    round_trip(" [ 1 , 2 ] ", "[1,2]");
    round_trip("\t\r\n {\n\"a\" :\t1 }\n", "{\"a\":1}");
    round_trip("[ ]", "[]");
    round_trip("{ }", "{}");
    round_trip("\"\\/\"", "\"/\"");
    round_trip("\"\\u0041\\u00e9\\u20AC\"", "\"A\xC3\xA9\xE2\x82\xAC\"");
    round_trip("\"\\uD834\\udd1e\"", "\"\xF0\x9D\x84\x9E\"");
    round_trip("\"\\uDBFF\\uDFFF\"", "\"\xF4\x8F\xBF\xBF\"");
    round_trip("\"\\uFFFF\\ud7ff\\ue000\"", "\"\xEF\xBF\xBF\xED\x9F\xBF\xEE\x80\x80\"");
}

static void refuses_what_it_must(void)
{
    /* clang-format off */
    static const char *const bad[] = {
        "", " ", "[", "]", "{", "}", "[1", "[1,", "[1,]", "[,1]", "[1,,2]", "[1 2]", "[1:2]", "[}",
        "{]", "[1}", "{\"a\":1]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{,}", "{\"a\" 1}",
        "{\"a\",1}", "{a:1}", "{'a':1}", "{1:1}", "{null:1}", "{\"a\":1 \"b\":2}", "{\"a\"::1}",
        "[\"a\",\n4\n,1,", "1 2", "[]]", "{}}", "[]x", "nul", "nulll", "True", "NULL", "NaN", "nan",
        "Infinity", "-Infinity", "inf", "+1", "-", "--1", "01", "-01", "00", "1.", ".5", "-.5",
        "1.e5", "1e", "1e+", "1e-", "1.5e", "0x10", "1_000", "1,5", "0e", "1eE2", "1.2.3", "2.e3",
        "0.1.2", "1+2", "- 1", "\"", "\"a", "\"\\\"", "\"\\x41\"", "\"\\a\"", "\"\\'\"", "\"\\u\"",
        "\"\\u1\"", "\"\\u12\"", "\"\\u123\"", "\"\\u123g\"", "\"\\u 123\"", "\"\\U0041\"",
        "\"\\ud800\"", "\"\\ud800x\"", "\"\\ud800\\n\"", "\"\\ud800\\u0041\"", "\"\\ud800\\ud800\"",
        "\"\\udc00\"", "\"\\udc00\\ud800\"", "\"\\ud800\\udc0\"", "\"\\ud800\\\"", "\"\t\"",
        "\"\n\"", "\"\x01\"", "\"\x1F\"", "\"\x80\"", "\"\xFF\"", "\"\xC0\xAF\"", "\"\xC1\x81\"",
        "\"\xE0\x80\xAF\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"\xC3\"", "\"\xE2\x82\"",
        "\"\xF0\x9D\x84\"", "\"\xC3\x28\"", "'a'", "// c\n1", "/* c */1", "1 // c", "#1", "[1]#",
        "{\"a\":1,\"a\":2}", "{\"a\":1,\"\\u0061\":2}", "{\"\":1,\"\":1}", "[{\"x\":{},\"x\":[]}]",
        "\xEF\xBB\xBF[]", "\xE2\x80\x8B[]", "\xC2\xA0[]", "\f[]", "\v1", "*", "<null>", "[1,\x00",
        "undefined", "[\"\\", "[\"\\u", "{\"a\":\"\\", "\"a\"b", "[true,fals]", "(1)", "a",
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        round_trip(bad[i], NULL);
        CHECK(e.code == ERR_DATA && !strncmp(e.text, "t.json:", 7));
        CHECK_HAS(e.text, "expected");
        CHECK_HAS(e.text, "found");
    }
    Pool pool = {0};
    CHECK(json_parse(&pool, "1\0", 2, "t.json", 0, &e) == NULL); /* a 0 byte is no space */
    CHECK(json_parse(&pool, "[\0]", 3, "t.json", 0, &e) == NULL);
    CHECK(json_parse(&pool, "\"\0\"", 3, "t.json", 0, &e) == NULL);
    CHECK(json_parse(&pool, "\0", 1, "t.json", 0, &e) == NULL);
    pool_free(&pool);
}

/* Every proper prefix of a document of closed brackets is no document. */
static void refuses_every_prefix(void)
{
    static const char text[] =
        "{\"a\":[1.5e3,\"x\\u00e9\\n\xF0\x9D\x84\x9E\",true,null,{\"b\":[]}],"
        "\"c\":-0.0}";
    for (size_t n = 0; n < sizeof text - 1; n++) {
        Pool pool = {0};
        char *cut = mem_alloc(n, NULL); /* exactly n bytes: a sanitizer sees reads beyond */
        memcpy(cut, text, n);
        CHECK(json_parse(&pool, cut, n, "t", 0, &e) == NULL);
        mem_free(cut);
        pool_free(&pool);
    }
    round_trip(text, "{\"a\":[1.5e3,\"x\xC3\xA9\\n\xF0\x9D\x84\x9E\",true,null,{\"b\":[]}],"
                     "\"c\":-0.0}");
}

static void depth_has_a_limit(void)
{
    char text[2 * 65 + 1] = {0};
    for (size_t depth = 64; depth <= 65; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        round_trip(text, depth == 64 ? text : NULL);
    }
    CHECK_TEXT(e.text, "t.json:1:65: found more than 64 levels, expected at most 64 levels of "
                       "nesting");
    Pool pool = {0};
    size_t n = 100000;
    char *deep = mem_alloc(n * 5, &e);
    memset(deep, '[', n);
    CHECK(json_parse(&pool, deep, n, "t", 0, &e) == NULL && strstr(e.text, "64 levels"));
    for (size_t i = 0; i < n; i++) memcpy(deep + i * 5, "{\"a\":", 5);
    CHECK(json_parse(&pool, deep, n * 5, "t", 0, &e) == NULL && strstr(e.text, "64 levels"));
    mem_free(deep);
    pool_free(&pool);
}

static void errors_name_the_place(void)
{
    static const struct {
        const char *text, *message;
        int flags;
    } cases[] = {
        {"{\n  \"a\": tru\n}", "t.json:2:8: found 't', expected a JSON value", 0},
        {"[1,\n2,\n\xC3\xA9", "t.json:3:1: found '\xC3\xA9', expected a JSON value", 0},
        {"[\"\xC3\xA9\xC3\xA9\" 1]", "t.json:1:7: found '1', expected ',' or ']'", 0},
        {"[\"\xC3\xA9\xC3\xA9\" 1]", "t.json:7: found '1', expected ',' or ']'", JSON_ONE_LINE},
        {"{\"a\":1", "t.json:1:7: found end of input, expected ',' or '}'", 0},
        {"\"\xFF\"", "t.json:1:2: found byte 0xFF, expected valid UTF-8", 0},
        {"\"\x1B\"",
         "t.json:1:2: found byte 0x1B, expected control characters in strings to be "
         "escaped",
         0},
        {"{\"a\":1,\n \"b\":2,\n \"a\":3}",
         "t.json:3:6: found the key \"a\" a second time, expected each key once", 0},
        {"[007]", "t.json:1:2: found a leading zero, expected a number without leading zeros", 0},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:0",
         "t.json:1:1: found a Git LFS pointer, not the file itself (run git lfs pull), expected "
         "JSON",
         0},
        {"  <!DOCTYPE html><html>",
         "t.json:1:1: found an HTML page, probably an error page (download the file again), "
         "expected JSON",
         0},
        {"\xFF\xFE{", "t.json:1:1: found UTF-16 text (save it as UTF-8: iconv -f UTF-16 -t "
         "UTF-8 FILE), expected JSON", 0},
        {"\xEF\xBB\xBF{}", "t.json:1:1: found a byte order mark, expected UTF-8 without one", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Pool pool = {0};
        CHECK(parse(&pool, cases[i].text, cases[i].flags) == NULL);
        CHECK_TEXT(e.text, cases[i].message);
        pool_free(&pool);
    }
    Pool pool = {0};
    CHECK(parse(&pool, "\xEF\xBB\xBF {}", JSON_ALLOW_BOM) != NULL);
    CHECK(parse(&pool, "\xEF\xBB\xBF\xEF\xBB\xBF{}", JSON_ALLOW_BOM) == NULL);
    CHECK(json_parse(&pool, "{\0\"\0", 4, "t", 0, &e) == NULL && strstr(e.text, "UTF-16"));
    pool_free(&pool);
    size_t line, column;
    json_place("ab\n\xC3\xA9x", 6, 5, &line, &column);
    CHECK(line == 2 && column == 2);
    json_place("ab", 2, 99, &line, &column);
    CHECK(line == 1 && column == 3);
}

static void offsets_name_values(void)
{
    Pool pool = {0};
    Json *j = parse(&pool, " {\"a\": [10, \"x\"] }", 0);
    CHECK(j && j->at == 1 && j->child->at == 7);
    CHECK(j && j->child->child->at == 8 && j->child->child->next->at == 12);
    pool_free(&pool);
}

static void duplicates_are_found_in_large_objects(void)
{
    const size_t n = 20000;
    Text t = {0};
    Pool pool = {0};
    text_add(&t, "{", 1, &e);
    for (size_t i = 0; i < n; i++) text_addf(&t, &e, "%s\"k%zu\":%zu", i ? "," : "", i, i);
    size_t end = t.len;
    text_add(&t, "}", 1, &e);
    Json *j = json_parse(&pool, t.data, t.len, "t", 0, &e);
    CHECK(j && j->len == n);
    t.len = end;
    text_addf(&t, &e, ",\n\"k19000\":0,\n\"k7\":1}");
    CHECK(json_parse(&pool, t.data, t.len, "t", 0, &e) == NULL);
    CHECK_TEXT(e.text, "t:2:10: found the key \"k19000\" a second time, expected each key once");
    j = json_parse(&pool, t.data, t.len, "t", JSON_ALLOW_DUPLICATES, &e);
    uint64_t v = 0;
    CHECK(j && json_u64(json_get(j, "k7"), &v) == 0 && v == 1); /* the last one wins */
    text_free(&t);
    pool_free(&pool);
}

/* Nearly a million keys and strings, as in a tokenizer.json: linear, and well under a second. */
static void large_documents_are_fast(void)
{
    const size_t n = 200000;
    Text t = {0};
    Pool pool = {0};
    text_add(&t, "{\"vocab\":{", 10, &e);
    for (size_t i = 0; i < n; i++) {
        text_addf(&t, &e, "%s\"\\u0120token%zu\":%zu", i ? "," : "", i * 7919, i);
    }
    text_add(&t, "},\"merges\":[", 12, &e);
    for (size_t i = 0; i < n; i++) text_addf(&t, &e, "%s\"tok en%zu\"", i ? "," : "", i);
    text_add(&t, "]}", 2, &e);
    double start = (double)clock();
    Json *j = json_parse(&pool, t.data, t.len, "t", 0, &e);
    double seconds = ((double)clock() - start) / CLOCKS_PER_SEC;
    CHECK(j && json_get(j, "vocab")->len == n && json_get(j, "merges")->len == n);
    CHECK(seconds < 3 * test_patience()); /* 0.1 s on a fast machine; sanitizers are slow */
    text_free(&t);
    pool_free(&pool);
}

static void members_can_be_found(void)
{
    Pool pool = {0};
    Json *j = parse(&pool, "{\"a\":\"x\\u0000y\",\"ab\":null,\"c\\u0000\":1,\"s\":\"yes\"}", 0);
    CHECK(j && j->len == 4);
    const Json *a = json_get(j, "a");
    CHECK(a && a->type == JSON_STRING && a->len == 3 && !memcmp(a->text, "x\0y", 4));
    CHECK(json_get(j, "b") == NULL && json_get(j, "c") == NULL && json_get(j, "") == NULL);
    CHECK(json_get(j, "ab") && json_get(j, "ab")->type == JSON_NULL);
    CHECK(json_get(a, "a") == NULL && json_get(NULL, "a") == NULL);
    CHECK(json_is(json_get(j, "s"), "yes") && !json_is(json_get(j, "s"), "ye"));
    CHECK(!json_is(a, "x") && !json_is(json_get(j, "ab"), "null") && !json_is(NULL, ""));
    pool_free(&pool);
}

/* What json_u64, json_i64 make of a number; -1 where refused. */
static void integers_are_exact(void)
{
    /* clang-format off */
    static const struct {
        const char *text;
        int u_ok, i_ok;
        uint64_t u;
        int64_t i;
    } cases[] = {
        {"0", 1, 1, 0, 0}, {"-0", 1, 1, 0, 0}, {"-0.000e5", 1, 1, 0, 0},
        {"0e999999999999", 1, 1, 0, 0},
        {"32", 1, 1, 32, 32}, {"32.0", 1, 1, 32, 32}, {"3.2e1", 1, 1, 32, 32},
        {"3200e-2", 1, 1, 32, 32}, {"0.032e3", 1, 1, 32, 32}, {"32.5", 0, 0, 0, 0},
        {"3.25e1", 0, 0, 0, 0}, {"1e-1", 0, 0, 0, 0}, {"-1", 0, 1, 0, -1},
        {"-1.0e2", 0, 1, 0, -100},
        {"9007199254740993", 1, 1, 9007199254740993u, 9007199254740993},
        {"9223372036854775807", 1, 1, 9223372036854775807u, INT64_MAX},
        {"9223372036854775808", 1, 0, 9223372036854775808u, 0},
        {"-9223372036854775808", 0, 1, 0, INT64_MIN}, {"-9223372036854775809", 0, 0, 0, 0},
        {"18446744073709551615", 1, 0, UINT64_MAX, 0}, {"18446744073709551616", 0, 0, 0, 0},
        {"1e19", 1, 0, 10000000000000000000u, 0}, {"1e20", 0, 0, 0, 0},
        {"18446744073709551615.000", 1, 0, UINT64_MAX, 0},
        {"1844674407370955161.5e1", 1, 0, UINT64_MAX, 0},
        {"1e400", 0, 0, 0, 0}, {"1e99999999999999999999999", 0, 0, 0, 0},
        {"1e-99999999999999999999999", 0, 0, 0, 0}, {"100", 1, 1, 100, 100},
        {"1000000000000000000000e-18", 1, 1, 1000, 1000},
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Pool pool = {0};
        Json *j = parse(&pool, cases[i].text, 0);
        uint64_t u = 7;
        int64_t s = 7;
        CHECK_INT((json_u64(j, &u) == 0), cases[i].u_ok);
        CHECK_INT(u, (cases[i].u_ok ? cases[i].u : 7));
        CHECK_INT((json_i64(j, &s) == 0), cases[i].i_ok);
        CHECK_INT(s, (cases[i].i_ok ? cases[i].i : 7));
        if (test_failures)
            printf("  %s gave %llu %lld\n", cases[i].text, (unsigned long long)u, (long long)s);
        pool_free(&pool);
    }
    Pool pool = {0};
    uint64_t u;
    int64_t s;
    double f;
    Json *j = parse(&pool, "\"1\"", 0);
    CHECK(json_u64(j, &u) && json_i64(j, &s) && json_f64(j, &f) && json_u64(NULL, &u));
    CHECK(json_f64(parse(&pool, "1e400", 0), &f) == -1);
    CHECK(json_f64(parse(&pool, "-1.5e2", 0), &f) == 0 && f == -150);
    pool_free(&pool);
}

static void numbers_read_back(void)
{
    /* clang-format off */
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0, "0"}, {-0.0, "-0"}, {1, "1"}, {0.1, "0.1"}, {1.0 / 3, "0.3333333333333333"},
                 {0.1 + 0.2, "0.30000000000000004"}, {1e22, "1e+22"},
                 {5e-324, "4.94065645841247e-324"},
                 {INFINITY, "null"}, {NAN, "null"}, {123456789012345680.0, "1.23456789012346e+17"},
                 {0.6931471805599453, "0.693147180559945"}};
    /* clang-format on */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Text t = {0};
        CHECK_OK(json_put_f64(&t, cases[i].value, &e), &e);
        double back = 0;
        if (isfinite(cases[i].value)) {
            CHECK_INT(parse_f64(t.data, t.len, &back), 0);
            CHECK(back == cases[i].value);
        }
        if (i < 6 || !isfinite(cases[i].value)) CHECK_TEXT(t.data, cases[i].text);
        text_free(&t);
    }
    for (uint64_t i = 0; i < 20000; i++) {
        Text t = {0};
        uint64_t bits = rng_u64(3, 3, i);
        uint32_t bits32 = (uint32_t)bits;
        double d, back = 0;
        float f;
        memcpy(&d, &bits, sizeof d);
        memcpy(&f, &bits32, sizeof f);
        CHECK_OK(json_put_f64(&t, d, &e), &e);
        if (isfinite(d)) CHECK(parse_f64(t.data, t.len, &back) == 0 && back == d);
        t.len = 0;
        CHECK_OK(json_put_f32(&t, f, &e), &e);
        if (isfinite(f)) {
            CHECK(parse_f64(t.data, t.len, &back) == 0 && (float)back == f &&
                  strtof(t.data, NULL) == f);
        }
        text_free(&t);
    }
    Text t = {0};
    json_put_f32(&t, 0.1f, &e);
    text_add(&t, " ", 1, &e);
    json_put_f32(&t, 16777216.0f, &e);
    text_add(&t, " ", 1, &e);
    json_put_f32(&t, INFINITY, &e);
    CHECK_TEXT(t.data, "0.1 16777216 null");
    text_free(&t);
}

static void members_come_one_by_one(void)
{
    static const char text[] = " {\"a\" : 1, \"b\":[2,{\"c\":3}] ,\"a\":\"x\"} ";
    JsonMembers m = {text, sizeof text - 1, "t", 0, 0, 0, 0};
    Pool pool = {0};
    Json *j = NULL;
    CHECK_INT(json_members_next(&m, &pool, &j, &e), 1);
    CHECK_TEXT(j->key, "a");
    CHECK_INT(j->at, 8);
    pool_free(&pool); /* each member stands alone */
    CHECK(json_members_next(&m, &pool, &j, &e) == 1 && !strcmp(j->key, "b") && j->len == 2);
    pool_free(&pool);
    CHECK(json_members_next(&m, &pool, &j, &e) == 1 && json_is(j, "x") && j->key_len == 1);
    CHECK_OK(json_members_next(&m, &pool, &j, &e), &e);
    CHECK_OK(json_members_next(&m, &pool, &j, &e), &e);
    pool_free(&pool);
    JsonMembers none = {"{ }", 3, "t", 0, 0, 0, 0};
    CHECK_OK(json_members_next(&none, &pool, &j, &e), &e);
    pool_free(&pool);
}

/* As a whole document, each of these is refused; member by member too. */
static void members_are_as_strict(void)
{
    /* clang-format off */
    static const char *const bad[] = {"", "[", "[]", "1", "{", "{\"a\"", "{\"a\":", "{\"a\":1",
                                      "{\"a\":1,", "{\"a\":1,}", "{,}", "{\"a\":1}}", "{}x",
                                      "{\"a\":1 \"b\":2}", "{\"a\":{\"b\":1,\"b\":2}}",
                                      "{\"a\":[1}",
                                      "{1:2}", "{\"a\":1}{", "\xEF\xBB\xBF{}", "<html>"};
    /* clang-format on */
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        JsonMembers m = {bad[i], strlen(bad[i]), "t", 0, 0, 0, 0};
        Pool pool = {0};
        Json *j = NULL;
        int r = 1, steps = 0;
        while (r == 1 && steps++ < 10) r = json_members_next(&m, &pool, &j, &e);
        CHECK_INT(r, -1);
        CHECK_INT(e.code, ERR_DATA);
        CHECK(parse(&pool, bad[i], 0) == NULL || bad[i][0] == '[' || bad[i][0] == '1');
        pool_free(&pool);
    }
}

static void utf8_is_checked(void)
{
    CHECK(utf8_check("a\xC3\xA9\xE2\x82\xAC", 6) == 6);
    CHECK(utf8_check("a\xC3\xA9\xE2\x82", 5) == 3);
    CHECK_INT(utf8_check("\x80", 1), 0);
    CHECK_INT(utf8_check("", 0), 0);
    CHECK_INT(utf8_check("ab\xED\xA0\x80", 5), 2);
}

static void foreign_files_are_named(void)
{
    CHECK(strstr(json_foreign("PK\x03\x04zz", 6), "PyTorch"));
    CHECK(strstr(json_foreign("\x80\x02}q", 4), "PyTorch"));
    CHECK(strstr(json_foreign("GGUF\x03", 5), "GGUF"));
    CHECK(strstr(json_foreign("\n\n<HTML>", 8), "HTML"));
    CHECK(json_foreign("{}", 2) == NULL && json_foreign("", 0) == NULL);
    CHECK(json_foreign("\0\0\0\0", 4) == NULL && json_foreign(" ", 1) == NULL);
}

/* A text cut in the middle of a character, and bytes that are none: what is written can be read. */
static void what_is_written_can_be_read(void)
{
    static const struct {
        const char *text, *written;
    } cases[] = {{"caf\xC3\xA9", "\"caf\xC3\xA9\""},
                 {"caf\xC3", "\"caf\xEF\xBF\xBD\""},
                 {"\xE2\x82", "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},
                 {"a\xFF\"b", "\"a\xEF\xBF\xBD\\\"b\""},
                 {"\xED\xA0\x80", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Text t = {0};
        Pool pool = {0};
        CHECK_OK(json_put_string(&t, cases[i].text, strlen(cases[i].text), &e), &e);
        CHECK_TEXT(t.data, cases[i].written);
        CHECK(json_parse(&pool, t.data, t.len, "t", 0, &e) != NULL);
        pool_free(&pool);
        text_free(&t);
    }
}

static void a_writer_sets_commas_and_lines(void)
{
    Text t = {0};
    JsonWriter w = {.text = &t, .e = &e};
    json_open(&w, NULL, "{");
    json_line(&w, 2);
    json_text(&w, "ends in a bracket", "a [");
    json_number(&w, "x", 0.1);
    json_number(&w, "none", (double)NAN);
    json_line(&w, 2);
    json_open(&w, "list", "[");
    json_count(&w, NULL, 18446744073709551615u);
    json_flag(&w, NULL, 1);
    json_text(&w, NULL, NULL);
    json_close(&w, "]");
    json_key(&w, "own");
    json_took(&w, text_addf(&t, &e, "[%d]", 7));
    json_close(&w, "\n}");
    CHECK_OK(json_written(&w), &e);
    CHECK_TEXT(t.data, "{\n  \"ends in a bracket\":\"a [\",\"x\":0.1,\"none\":null,\n"
                       "  \"list\":[18446744073709551615,true,null],\"own\":[7]\n}");
    t.len = 0;
    w = (JsonWriter){.text = &t, .e = &e, .spaced = 1};
    json_open(&w, NULL, "{");
    json_count(&w, "a \"key\"", 1);
    json_text(&w, "b", "c");
    json_close(&w, "}");
    CHECK_OK(json_written(&w), &e);
    CHECK_TEXT(t.data, "{\"a \\\"key\\\"\": 1,\"b\": \"c\"}");
    text_free(&t);
}

/* Later calls do nothing, and the error is that of the first failure. */
static void the_first_failure_of_a_writer_sticks(void)
{
    Text t = {0};
    JsonWriter w = {.text = &t, .e = &e};
    json_open(&w, NULL, "{");
    json_key(&w, "own");
    json_took(&w, err_set(&e, ERR_MEMORY, "no memory"));
    json_took(&w, 0);
    json_text(&w, "more", "text");
    json_count(&w, "n", 1);
    json_number(&w, "x", 1);
    json_line(&w, 2);
    json_close(&w, "}");
    CHECK_FAILS(json_written(&w), &e, ERR_MEMORY);
    CHECK_TEXT(t.data, "{\"own\":");
    text_free(&t);
}

static const Test tests[] = {
    TEST(what_is_written_can_be_read),
    TEST(a_writer_sets_commas_and_lines),
    TEST(the_first_failure_of_a_writer_sticks),
    {"accepts_what_it_must", accepts_what_it_must},
    {"refuses_what_it_must", refuses_what_it_must},
    {"refuses_every_prefix", refuses_every_prefix},
    {"depth_has_a_limit", depth_has_a_limit},
    {"errors_name_the_place", errors_name_the_place},
    {"offsets_name_values", offsets_name_values},
    {"duplicates_are_found_in_large_objects", duplicates_are_found_in_large_objects},
    {"large_documents_are_fast", large_documents_are_fast},
    {"members_can_be_found", members_can_be_found},
    {"integers_are_exact", integers_are_exact},
    {"numbers_read_back", numbers_read_back},
    {"members_come_one_by_one", members_come_one_by_one},
    {"members_are_as_strict", members_are_as_strict},
    {"utf8_is_checked", utf8_is_checked},
    {"foreign_files_are_named", foreign_files_are_named},
};
TEST_MAIN(tests)
