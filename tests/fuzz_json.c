/* fuzz_json.c - the JSON reader on damaged documents. What it accepts must be UTF-8, must survive
 * being written and read again, and must look the same member by member. */
#include "base.h"
#include "fuzz.h"
#include "json.h"

#include <string.h>

/* clang-format off */
const char *const fuzz_words[] = {
    "null", "true", "false", "\"a\":", "\"\":", "{", "}", "[", "]", ",", ":", "\\u0000",
    "\\ud834\\udd1e", "\\ud800", "\\udc00", "\\\"", "\\", "\xEF\xBB\xBF", "\xED\xA0\x80",
    "\xF4\x90\x80\x80", "1e400", "-", ".", "e+", "NaN", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "{\"k\":{\"k\":{\"k\":", " ", "\n", "/*", "//", NULL};
/* clang-format on */

int fuzz_seed(size_t i, Text *out)
{
    static const char *const seeds[] = {
        "{}",
        "[]",
        "0",
        "\"\"",
        "{\"a\":1,\"b\":[true,false,null],\"c\":{\"d\":\"e\"}}",
        "[1,-2,3.5,-4.25e10,5E-3,1e400,18446744073709551615,-9223372036854775808,32.0]",
        "{\"text\":\"\\u0041\\u00e9\\ud834\\udd1e \xC3\xA9\xF0\x9D\x84\x9E "
        "\\b\\f\\n\\r\\t\\/\\\\\"}",
        "{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}",
        " [ [ [ [ ] ] , { \"x\" : { } } ] ] \r\n\t",
        "{\"prompt\":\"Say it.\",\"chosen\":\"Yes\",\"rejected\":\"No\",\"label\":true}",
        "{\"0\":0,\"1\":1,\"2\":2,\"3\":3,\"4\":4,\"5\":5,\"6\":6,\"7\":7,\"8\":8,\"9\":9,\"10\":"
        "10,"
        "\"11\":11,\"12\":12,\"13\":13,\"14\":14,\"15\":15,\"16\":16,\"17\":17,\"18\":18}",
        "{\"vocab\":{\"<s>\":0,\"\xE2\x96\x81the\":1,\"\\u0120a\":2},\"merges\":[\"a b\",[\"c\","
        "\"d\"]]}",
        "\xEF\xBB\xBF{\"bom\":1}",
        "version https://git-lfs",
        "<!DOCTYPE html>"};
    if (i >= sizeof seeds / sizeof seeds[0]) return -1;
    return text_add(out, seeds[i], strlen(seeds[i]), NULL);
}

void fuzz_repair(uint8_t *data, size_t size)
{
    (void)data;
    (void)size;
}

/* Every refusal is bad data with a message of one line. */
static void check_refusal(const Err *e)
{
    FUZZ_REQUIRE(e->code == ERR_DATA);
    FUZZ_REQUIRE(!strncmp(e->text, "name:", 5) && strstr(e->text, "expected"));
    for (const char *c = e->text; *c; c++) FUZZ_REQUIRE((unsigned char)*c >= 0x20);
}

/* The conversions of one number agree where they overlap. */
static void check_number(const Json *j)
{
    const uint64_t exact_in_double = (uint64_t)1 << 53;
    uint64_t u;
    int64_t i;
    double f;
    int u_ok = json_u64(j, &u) == 0, i_ok = json_i64(j, &i) == 0, f_ok = json_f64(j, &f) == 0;
    if (u_ok && i_ok) FUZZ_REQUIRE(i >= 0 && (uint64_t)i == u);
    if (u_ok || i_ok) FUZZ_REQUIRE(f_ok);
    if (u_ok && u <= exact_in_double) FUZZ_REQUIRE(f == (double)u);
    if (j->type != JSON_NUMBER) FUZZ_REQUIRE(!u_ok && !i_ok && !f_ok);
}

/* Calls itself once per level (at most JSON_MAX_DEPTH). */
static void check_value(const Json *j, size_t size)
{
    size_t members = 0;
    FUZZ_REQUIRE(j->at < size);
    check_number(j);
    if (j->type == JSON_STRING) FUZZ_REQUIRE(utf8_check(j->text, j->len) == j->len);
    if (j->type == JSON_STRING || j->type == JSON_NUMBER) FUZZ_REQUIRE(j->text[j->len] == 0);
    for (const Json *m = j->child; m; m = m->next) {
        FUZZ_REQUIRE((m->key != NULL) == (j->type == JSON_OBJECT));
        FUZZ_REQUIRE(m->at > j->at);
        check_value(m, size);
        members++;
    }
    if (j->type == JSON_ARRAY || j->type == JSON_OBJECT) FUZZ_REQUIRE(members == j->len);
}

/* Written, read and written again: the same text. */
static void check_round_trip(const Json *j, int flags)
{
    Pool pool = {0};
    Text first = {0}, second = {0};
    Err e;
    FUZZ_REQUIRE(json_put(&first, j, &e) == 0);
    Json *again = json_parse(&pool, first.data, first.len, "name", flags, &e);
    FUZZ_REQUIRE(again != NULL);
    FUZZ_REQUIRE(json_put(&second, again, &e) == 0);
    FUZZ_REQUIRE(first.len == second.len && !memcmp(first.data, second.data, first.len));
    text_free(&first);
    text_free(&second);
    pool_free(&pool);
}

/* Member by member: as many as the whole document has, if that was accepted. */
static void check_members(const uint8_t *data, size_t size, const Json *whole, int flags)
{
    JsonMembers m = {(const char *)data, size, "name", flags, 0, 0, 0};
    size_t count = 0;
    int r = 1;
    Err e;
    while (r == 1) {
        Pool pool = {0};
        Json *j = NULL;
        r = json_members_next(&m, &pool, &j, &e);
        if (r == 1) check_value(j, size);
        if (r == 1) count++;
        pool_free(&pool);
    }
    if (r == -1) check_refusal(&e);
    if (whole && whole->type == JSON_OBJECT) FUZZ_REQUIRE(r == 0 && count == whole->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Pool pool = {0};
    Err e;
    int flags = (int)(size % 8); /* every combination of the three flags */
    Json *j = json_parse(&pool, (const char *)data, size, "name", flags, &e);
    if (j) {
        FUZZ_REQUIRE(utf8_check((const char *)data, size) == size);
        check_value(j, size);
        check_round_trip(j, flags);
    } else {
        check_refusal(&e);
    }
    check_members(data, size, j, flags);
    pool_free(&pool);
    return 0;
}
