/* test_safetensors.c - the format's reader and writer. Tnn are numbers of the fault list (section
 * T) that every reader of weights has to refuse, each beside a twin that differs in one thing and
 * is accepted. */
#include "base.h"
#include "io.h"
#include "maths.h"
#include "test.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static Err e;
static char path[200];

/* The file all cases begin with. */
static const char good_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"first\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
    "\"second\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[16,24]}}";
#define GOOD_DATA 24

/* Writes `length` (8 bytes), header, and `data` bytes of value 1, 2, 3 ... */
static void put_file(uint64_t length, const char *header, size_t header_len, size_t data)
{
    FILE *f = fopen(path, "wb");
    CHECK(f != NULL);
    if (!f) return;
    for (int i = 0; i < 8; i++) putc((int)(length >> (8 * i) & 0xFF), f);
    fwrite(header, 1, header_len, f);
    for (size_t i = 0; i < data; i++) putc((int)(i + 1) & 0x3F, f);
    fclose(f);
}

static void put_bytes(const void *bytes, size_t len)
{
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(bytes, 1, len, f) == len);
    if (f) fclose(f);
}

/* Opens the file both ways, which must agree; 0 or -1. */
static int open_both(void)
{
    Safetensors s;
    Err other;
    int a = safetensors_open(&s, path, 1, &e);
    if (a == 0) safetensors_close(&s);
    int b = safetensors_open(&s, path, 0, &other);
    if (b == 0) safetensors_close(&s);
    CHECK_INT(a, b);
    if (a) CHECK_TEXT(e.text, other.text);
    return a;
}

/* The file must be refused as bad data, in one line that names the file and holds `message`. */
static void refused(const char *message)
{
    e.text[0] = 0;
    CHECK_INT(open_both(), -1);
    CHECK_INT(e.code, ERR_DATA);
    CHECK(!strncmp(e.text, path, strlen(path)));
    CHECK_HAS(e.text, message);
    if (!strstr(e.text, message)) printf("  \"%s\" does not hold \"%s\"\n", e.text, message);
}

static void accepted(void)
{
    e.text[0] = 0;
    int r = open_both();
    CHECK_INT(r, 0);
    if (r) printf("  %s\n", e.text);
}

/* The good header with its first `from` replaced by `to`, as text; NULL stands for "nothing". */
static const char *changed(const char *from, const char *to)
{
    static char out[1000];
    const char *at = strstr(good_header, from);
    CHECK(at != NULL);
    if (!at) return good_header;
    snprintf(out, sizeof out, "%.*s%s%s", (int)(at - good_header), good_header, to,
             at + strlen(from));
    return out;
}

static void put_changed(const char *from, const char *to, size_t data)
{
    const char *header = changed(from, to);
    put_file(strlen(header), header, strlen(header), data);
}

static void put_good(void)
{
    put_file(sizeof good_header - 1, good_header, sizeof good_header - 1, GOOD_DATA);
}

static void reads_what_is_there(void)
{
    Safetensors s;
    put_good();
    CHECK_OK(safetensors_open(&s, path, 1, &e), &e);
    CHECK_INT(s.count, 2);
    CHECK_TEXT(s.tensors[0].name, "first");
    CHECK(s.tensors[0].supported && s.tensors[0].dtype == DTYPE_F32 && s.tensors[0].n_dims == 2);
    CHECK_INT(s.tensors[0].shape[0], 2);
    CHECK_INT(s.tensors[0].shape[1], 2);
    CHECK_INT(s.tensors[0].count, 4);
    CHECK_INT(s.tensors[0].bytes, 16);
    CHECK_INT(s.tensors[0].data[0], 1);
    CHECK_INT(s.tensors[1].data[0], 17);
    CHECK(safetensors_find(&s, "second") == &s.tensors[1]);
    CHECK(safetensors_find(&s, "first") == &s.tensors[0]);
    CHECK(!safetensors_find(&s, "third") && !safetensors_find(&s, ""));
    CHECK(json_is(json_get(s.metadata, "format"), "pt"));
    safetensors_close(&s);
    safetensors_close(&s); /* harmless */
}

/* T01 - T07: the length of the header against the limit and the real size of the file. */
static void header_lengths(void)
{
    static const char empty_object[8 + 2] = {2, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    put_bytes("", 0);
    refused("empty, expected 8 bytes of header length"); /* T01 */
    put_bytes("\2\0\0\0\0\0\0", 7);
    refused("7 bytes, expected at least 8 of header length"); /* T02 */
    put_bytes(empty_object, sizeof empty_object);
    accepted(); /* T29: valid; a model of no tensors is refused by the model */
    put_bytes("\0\0\0\0\0\0\0\0", 8);
    refused("header:1:1: found end of input, expected '{'"); /* T03 */
    put_file(sizeof good_header + 24, good_header, sizeof good_header - 1, GOOD_DATA);
    char text[200];
    snprintf(text, sizeof text, "header length %zu, but the file has only %zu bytes",
             sizeof good_header + 24, 8 + sizeof good_header - 1 + GOOD_DATA);
    refused(text); /* T04 */
    put_file(UINT64_MAX, good_header, sizeof good_header - 1, GOOD_DATA);
    refused("header length 18446744073709551615, the limit is 100000000"); /* T05 */
    put_file(100000001, good_header, sizeof good_header - 1, GOOD_DATA);
    refused("header length 100000001, the limit is 100000000"); /* T06 */
    put_file(100000000, "{}", 2, 10);
    refused("header length 100000000, but the file has only 20 bytes"); /* T07 */
    put_good();
    accepted();
}

/* T08, T09, T10, T12: what is no JSON object of tensors. */
static void header_text(void)
{
    char deep[1000];
    put_changed("first", "fi\xFFst", GOOD_DATA);
    refused("found byte 0xFF, expected valid UTF-8"); /* T08 */
    CHECK_HAS(e.text, "header:1:36: ");
    put_changed("first", "fi\xC3\xA9st", GOOD_DATA);
    accepted();
    put_file(1, "{", 1, 0);
    refused("found end of input"); /* T09 */
    put_file(2, "[]", 2, 0);
    refused("found '[', expected '{'");
    put_file(1, "7", 1, 0);
    refused("found '7', expected '{'");
    put_file(4, "{} x", 4, 0);
    refused("found 'x', expected the end of the document");
    put_file(2, "{}", 2, 0);
    accepted();
    put_file(6, " {}\r\t\n", 6, 0); /* padding before and behind */
    accepted();
    put_file(3, "{}\0", 3, 0);
    refused("found byte 0x00");
    memset(deep, '[', sizeof deep); /* T10, and 100,000 levels in test_json.c */
    memcpy(deep, "{\"a\":", 5);
    put_file(sizeof deep, deep, sizeof deep, 0);
    refused("more than 64 levels");
    put_changed("\"dtype\"", "\"dtype\":\"F32\",\"dtype\"", GOOD_DATA); /* T12 */
    refused("found the key \"dtype\" a second time");
    put_changed("{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}", "3", GOOD_DATA);
    refused("tensor \"first\": expected an object");
}

/* T11, T28: names. */
static void names(void)
{
    static char header[70000], name[66000];
    put_changed("second", "first", GOOD_DATA);
    refused("tensor \"first\": the name appears twice"); /* T11 */
    put_changed("second", "firs\\u0074", GOOD_DATA);
    refused("tensor \"first\": the name appears twice");
    put_changed("first", "fi\\u0000st", GOOD_DATA);
    refused("tensor \"fi\": the name holds a 0 byte"); /* T28 */
    put_changed("first", "", GOOD_DATA);
    refused("the name is empty");
    put_changed("first", "fi\\ud800", GOOD_DATA);
    refused("lone high surrogate");
    put_changed("first", "new\\nline\\u001b", GOOD_DATA);
    accepted();
    put_changed("first\":{\"dtype\":\"F32\"", "new\\nline\\u001b\":{\"dtype\":\"F33\"", GOOD_DATA);
    refused("tensor \"new?line?\": unknown dtype"); /* quoted safely */
    memset(name, 'n', 65536);
    snprintf(header, sizeof header,
             "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", name);
    put_file(strlen(header), header, strlen(header), 4);
    accepted();
    put_file(strlen(header), header, strlen(header), 3);
    refused("1 bytes short"); /* and the message stays short of the name */
    CHECK(strlen(e.text) < 800);
}

/* T13, T14: fields missing, of the wrong type, dtypes unknown and unsupported. */
static void fields(void)
{
    put_changed("\"dtype\":\"F32\",", "", GOOD_DATA);
    refused("tensor \"first\": \"dtype\" is missing or no string");
    put_changed("\"F32\"", "32", GOOD_DATA);
    refused("tensor \"first\": \"dtype\" is missing or no string");
    put_changed("\"shape\":[2,2],", "", GOOD_DATA);
    refused("tensor \"first\": \"shape\" is missing or no array");
    put_changed("[2,2]", "4", GOOD_DATA);
    refused("tensor \"first\": \"shape\" is missing or no array");
    put_changed(",\"data_offsets\":[0,16]", "", GOOD_DATA);
    refused("tensor \"first\": \"data_offsets\" is missing or wrong");
    static const char *const offsets[] = {"[0]",      "[0,16,16]", "[0,\"16\"]", "16", "[-0.5,16]",
                                          "[0,16.5]", "[-1,15]",   "{}",         "[]", "[0,1e30]"};
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        put_changed("[0,16]", offsets[i], GOOD_DATA);
        refused("tensor \"first\": \"data_offsets\" is missing or wrong");
    }
    put_changed("F32", "F33", GOOD_DATA);
    refused("tensor \"first\": unknown dtype \"F33\", expected F32, BF16 or F16");
    put_changed("F32", "f32", GOOD_DATA);
    refused("unknown dtype \"f32\"");
    static const struct {
        const char *dtype, *shape;
    } others[] = {{"I32", "[2,2]"},     {"C64", "[2]"},   {"F8_E4M3", "[16]"}, {"F4", "[32]"},
                  {"F6_E2M3", "[4,4]"}, {"BOOL", "[16]"}, {"U64", "[2,1]"}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        char fields_text[100];
        size_t bytes = strcmp(others[i].dtype, "F6_E2M3") ? 16 : 12;
        snprintf(fields_text, sizeof fields_text, "\"%s\",\"shape\":%s,\"data_offsets\":[0,%zu]",
                 others[i].dtype, others[i].shape, bytes);
        char header[300];
        snprintf(header, sizeof header, "{\"x\":{\"dtype\":%s}}", fields_text);
        put_file(strlen(header), header, strlen(header), bytes);
        accepted();
        Safetensors s;
        if (safetensors_open(&s, path, 1, &e)) continue;
        CHECK(!s.tensors[0].supported && s.tensors[0].bytes == bytes);
        CHECK_TEXT(s.tensors[0].dtype_text, others[i].dtype);
        CHECK_OK(safetensors_check_finite(&s, &s.tensors[0], &e), &e);
        safetensors_close(&s);
    }
    put_changed("\"F32\",\"shape\":[2,2],", "\"F4\",\"shape\":[31],", GOOD_DATA);
    refused("tensor \"first\": its elements do not fill whole bytes");
}

/* T15 - T18: dimensions that are no sizes, products that do not fit, too many. */
static void shapes(void)
{
    static const char *const bad[] = {
        "-1",  "1.5", "\"2\"", "null", "9223372036854775808", "[2]", "true", "18446744073709551616",
        "1e19"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char shape[60];
        snprintf(shape, sizeof shape, "[2,%s]", bad[i]);
        put_changed("[2,2]", shape, GOOD_DATA);
        refused("tensor \"first\": dimension 1 of \"shape\" is not a whole number from 0");
    }
    put_changed("[2,2]", "[2,2.0]", GOOD_DATA);
    accepted();
    put_changed("[2,2]", "[4294967296,4294967296]", GOOD_DATA);
    refused("tensor \"first\": the product of \"shape\" overflows 64 bits"); /* T16 */
    put_changed("[2,2]", "[3,9223372036854775807]", GOOD_DATA);
    refused("overflows 64 bits");
    put_changed("[2,2]", "[2,9223372036854775807]", GOOD_DATA); /* T17: 2^64 - 2 times 32 bits */
    refused("tensor \"first\": shape times element size overflows 64 bits");
    put_changed("[2,2]", "[576460752303423488]", GOOD_DATA); /* 2^59 x 32 = 2^64 */
    refused("overflows 64 bits");
    put_changed("[2,2]", "[576460752303423487]", GOOD_DATA);
    refused("need 2305843009213693948 bytes, data_offsets give 16");
    put_changed("[2,2]", "[1,1,1,1,1,1,2,2]", GOOD_DATA);
    accepted();
    put_changed("[2,2]", "[1,1,1,1,1,1,1,2,2]", GOOD_DATA);
    refused("tensor \"first\": 9 dimensions, the limit is 8"); /* T18 */
}

/* T19 - T25: the data covered exactly once. */
static void offsets(void)
{
    put_changed("[0,16]", "[16,0]", GOOD_DATA);
    refused("tensor \"first\": data_offsets [16, 0] end before they begin"); /* T19 */
    put_changed("[16,24]", "[8,16]", GOOD_DATA);
    refused("tensors \"first\" and \"second\" overlap"); /* T20 */
    put_changed("[16,24]", "[0,8]", GOOD_DATA);
    refused("overlap");
    put_changed("[16,24]", "[15,23]", GOOD_DATA - 1); /* by one byte */
    refused("overlap");
    put_changed("[16,24]", "[18,26]", GOOD_DATA + 2);
    refused("2 bytes before tensor \"second\" belong to none"); /* T21 */
    static const char late[] = "{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}";
    put_file(sizeof late - 1, late, sizeof late - 1, 8);
    refused("4 bytes before tensor \"x\" belong to none"); /* T22 */
    put_file(sizeof good_header - 1, good_header, sizeof good_header - 1, GOOD_DATA - 5);
    refused("tensor \"second\" ends 5 bytes after the end of the file: the file is 5 bytes short; "
            "download it again"); /* T23 */
    put_changed("[16,24]", "[18446744073709551600,18446744073709551608]", GOOD_DATA);
    refused("short; download it again");
    put_file(sizeof good_header - 1, good_header, sizeof good_header - 1, GOOD_DATA + 1);
    refused("1 bytes after the last tensor, expected the end of the file"); /* T24 */
    put_changed("[4]", "[3]", GOOD_DATA);
    refused("tensor \"second\": shape and dtype BF16 need 6 bytes, data_offsets give 8"); /* T25 */
    put_changed("[0,16]", "[0,12]", GOOD_DATA);
    refused("tensor \"first\": shape and dtype F32 need 16 bytes, data_offsets give 12");
    put_good();
    accepted();
}

/* T26, T30: metadata of strings; no dimensions and empty ones. */
static void small_print(void)
{
    put_changed("{\"format\":\"pt\"}", "{\"format\":1}", GOOD_DATA);
    refused("\"__metadata__\": the value of \"format\" is not a string");
    put_changed("{\"format\":\"pt\"}", "[\"pt\"]", GOOD_DATA);
    refused("\"__metadata__\" is not an object of strings");
    put_changed("{\"format\":\"pt\"}", "{\"a\":\"1\",\"a\":\"2\"}", GOOD_DATA);
    refused("a second time");
    put_changed("{\"format\":\"pt\"}", "{},\"__metadata__\":{}", GOOD_DATA);
    refused("\"__metadata__\" appears twice");
    put_changed("{\"format\":\"pt\"}", "{}", GOOD_DATA);
    accepted();
    put_changed("\"__metadata__\":{\"format\":\"pt\"},", "", GOOD_DATA);
    accepted();
    put_changed("[4],\"data_offsets\":[16,24]", "[],\"data_offsets\":[16,18]", 18);
    accepted(); /* T30: rank 0 is one value */
    put_changed("[4],\"data_offsets\":[16,24]", "[4,0,7],\"data_offsets\":[16,16]", 16);
    accepted();
    put_changed("[4],\"data_offsets\":[16,24]", "[4,0,7],\"data_offsets\":[8,8]", 16);
    refused("overlap"); /* even an empty tensor has its place */
    put_changed("\"second\"",
                "\"none\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[16,16]},"
                "\"second\"",
                GOOD_DATA);
    accepted();
}

/* In a child, whose memory can be measured: `count` tensors that all claim the same 4 bytes. */
static void json_attack_child(size_t count, const char *message)
{
    Text header = {0};
    char entry[] = ",\"tensor.0000000\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}";
    char *digits = strchr(entry, '0');
    text_add(&header, "{", 1, &e);
    for (size_t i = 0; i < count; i++) {
        text_add(&header, entry + (i == 0), sizeof entry - 1 - (i == 0), &e);
        for (int d = 6; d >= 0 && ++digits[d] > '9'; d--)
            digits[d] = '0'; /* counts by hand: fast */
    }
    text_add(&header, "}", 1, &e);
    put_file(header.len, header.data, header.len, 4);
    text_free(&header);
    test_failures = 0;
    double start = (double)clock();
    refused(message); /* opens it twice */
    CHECK(((double)clock() - start) / CLOCKS_PER_SEC < 2 * 5 * test_patience());
#if !defined(__SANITIZE_ADDRESS__)
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    CHECK(use.ru_maxrss / 1024 < 500); /* MB, of which 75 are the file, 75 to 150 our text */
#endif
}

/* T27: a million tensors over one range. */
static void json_attacks_are_bounded(void)
{
    static const struct {
        size_t count;
        const char *message;
    } cases[] = {{1000000, "more than 262144 tensors, the limit"},
                 {200000, "tensors \"tensor.0000000\" and \"tensor.0000001\" overlap"}};
    for (int i = 0; i < 2; i++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            json_attack_child(cases[i].count, cases[i].message);
            fflush(stdout);
            _exit(test_failures != 0);
        }
        int status = 0;
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

/* T31, T32 belong to the model. T33: data at any address. */
static void unaligned_data(void)
{
    for (size_t pad = 0; pad < 8; pad++) {
        char header[400];
        snprintf(header, sizeof header, "%s%*s", good_header, (int)pad, "");
        put_file(strlen(header), header, strlen(header), 0);
        FILE *f = fopen(path, "ab");
        const float values[4] = {1.5f, -2.25f, 3e38f, 1e-45f};
        const uint16_t halves[4] = {0x3F80, 0xC000, 0x0001, 0x7F7F};
        fwrite(values, 4, 4, f);
        fwrite(halves, 2, 4, f);
        fclose(f);
        for (int map = 0; map < 2; map++) {
            Safetensors s;
            float out[4];
            CHECK_OK(safetensors_open(&s, path, map, &e), &e);
            dtype_to_float(out, s.tensors[0].data, s.tensors[0].dtype, 4);
            CHECK(!memcmp(out, values, sizeof out));
            dtype_to_float(out, s.tensors[1].data, s.tensors[1].dtype, 4);
            CHECK(out[0] == 1);
            CHECK(out[1] == -2);
            CHECK(out[2] == 0x1p-133f);
            CHECK(out[3] == 0x1.fep127f);
            CHECK_OK(safetensors_check_finite(&s, &s.tensors[0], &e), &e);
            CHECK_OK(safetensors_check_finite(&s, &s.tensors[1], &e), &e);
            safetensors_close(&s);
        }
    }
}

/* T34: NaN and infinities are found where they are, in each type. */
static void not_finite_values(void)
{
    static const struct {
        Dtype dtype;
        uint64_t bad[3], good;
    } cases[] = {
        {DTYPE_F32, {0x7F800000, 0xFF800000, 0x7FC00001}, 0x7F7FFFFF},
        {DTYPE_BF16, {0x7F80, 0xFF80, 0xFFC1}, 0xFF7F},
        {DTYPE_F16, {0x7C00, 0xFC00, 0x7C01}, 0xFBFF},
        {DTYPE_F64,
         {0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000001},
         0xFFEFFFFFFFFFFFFF},
    };
    for (size_t c = 0; c < 4; c++) {
        size_t size = dtype_size(cases[c].dtype);
        for (size_t k = 0; k < 4; k++) {
            unsigned char data[5 * 8] = {0};
            uint64_t bits = k < 3 ? cases[c].bad[k] : cases[c].good;
            memcpy(data + 3 * size, &bits, size); /* little-endian: the low bytes */
            char header[200];
            snprintf(header, sizeof header,
                     "{\"t.w\":{\"dtype\":\"%s\",\"shape\":[5],\"data_offsets\":[0,%zu]}}",
                     dtype_name(cases[c].dtype), 5 * size);
            put_file(strlen(header), header, strlen(header), 0);
            FILE *f = fopen(path, "ab");
            fwrite(data, size, 5, f);
            fclose(f);
            Safetensors s;
            CHECK_OK(safetensors_open(&s, path, 1, &e), &e);
            int r = safetensors_check_finite(&s, &s.tensors[0], &e);
            CHECK_INT(r, (k < 3 ? -1 : 0));
            if (r) CHECK(e.code == ERR_DATA && strstr(e.text, "tensor \"t.w\": value 3 is NaN or"));
            safetensors_close(&s);
        }
    }
}

/* S09, S10 and their like: files that are something else say what they are. */
static void other_files_are_named(void)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
         "a Git LFS pointer"},
        {"<!DOCTYPE html>\n<html><head>", "an HTML page"},
        {"\n<html>not found</html>", "an HTML page"},
        {"PK\x03\x04\x01\x02\x03\x04\x05\x06", "a PyTorch checkpoint"},
        {"\x80\x02}q\x01(X\x05", "a PyTorch checkpoint"},
        {"GGUF\x03\x01\x01\x01\x01\x01\x01", "a GGUF file"},
        {"version", "7 bytes"},
        {"{\"a\":{\"dtype\":\"F32\"}}", "is this safetensors?"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_bytes(cases[i].text, strlen(cases[i].text));
        refused(cases[i].message);
    }
    /* Header lengths whose bytes look like those magic numbers are lengths all the same. */
    static const unsigned lengths[] = {0x7B, 0xFEFF, 0x0280, 0x0480};
    for (size_t i = 0; i < 4; i++) {
        Text header = {0};
        text_add(&header, "{}", 2, &e);
        while (header.len < lengths[i]) text_add(&header, " ", 1, &e);
        put_file(header.len, header.data, header.len, 0);
        accepted();
        text_free(&header);
    }
}

/* A file cut at any length is refused; a file with any one byte changed never does harm. */
static void every_cut_and_every_flip(void)
{
    unsigned char whole[400], copy[400];
    put_good();
    FILE *f = fopen(path, "rb");
    size_t n = fread(whole, 1, sizeof whole, f);
    fclose(f);
    CHECK_INT(n, 8 + sizeof good_header - 1 + GOOD_DATA);
    for (size_t cut = 0; cut < n; cut++) {
        put_bytes(whole, cut);
        CHECK_INT(open_both(), -1);
        CHECK_INT(e.code, ERR_DATA);
        CHECK_HAS(e.text, path);
    }
    for (size_t at = 0; at < n - GOOD_DATA; at++) {
        memcpy(copy, whole, n);
        copy[at] ^= (unsigned char)(1 + at % 127);
        put_bytes(copy, n);
        if (open_both()) CHECK(e.code == ERR_DATA && strstr(e.text, path));
    }
}

static void number_formats(void)
{
    CHECK_INT(dtype_size(DTYPE_F32), 4);
    CHECK_INT(dtype_size(DTYPE_BF16), 2);
    CHECK_INT(dtype_size(DTYPE_F16), 2);
    for (uint32_t h = 0; h < 0x10000; h++) { /* all 65,536 of both formats survive the way back */
        float f = f16_to_float((uint16_t)h), b = bf16_to_float((uint16_t)h);
        if (isnan(f)) {
            CHECK(isnan(f16_to_float(f16_from_float(f))));
        } else {
            CHECK_INT(f16_from_float(f), h);
        }
        if (isnan(b)) {
            CHECK(isnan(bf16_to_float(bf16_from_float(b))));
        } else {
            CHECK_INT(bf16_from_float(b), h);
        }
    }
    CHECK(f16_to_float(0x3C00) == 1);
    CHECK(f16_to_float(0xC000) == -2);
    CHECK(f16_to_float(0x7BFF) == 65504);
    CHECK(f16_to_float(0x0001) == 0x1p-24f);
    CHECK(f16_to_float(0x0400) == 0x1p-14f);
    CHECK(isinf(f16_to_float(0x7C00)) && isnan(f16_to_float(0x7C01)) && f16_to_float(0x8000) == 0);
}

/* Half-way cases go to even; beyond the largest number lies infinity. */
static void number_formats_round(void)
{
    CHECK(bf16_from_float(0x1.01p0f) == 0x3F80 && bf16_from_float(0x1.03p0f) == 0x3F82);
    CHECK(bf16_from_float(0x1.010002p0f) == 0x3F81 && bf16_from_float(0x1.00fffep0f) == 0x3F80);
    CHECK(bf16_from_float(0x1.fffffep127f) == 0x7F80 && bf16_from_float(-0.0f) == 0x8000);
    CHECK(bf16_from_float(INFINITY) == 0x7F80 && isnan(bf16_to_float(bf16_from_float(NAN))));
    CHECK(f16_from_float(0x1.002p0f) == 0x3C00 && f16_from_float(0x1.006p0f) == 0x3C02);
    CHECK(f16_from_float(0x1.002002p0f) == 0x3C01);
    CHECK(f16_from_float(65519.996f) == 0x7BFF && f16_from_float(65520.0f) == 0x7C00);
    CHECK(f16_from_float(0x1p-25f) == 0 && f16_from_float(0x1.000002p-25f) == 1);
    CHECK(f16_from_float(0x1.8p-24f) == 2 && f16_from_float(-0x1p-24f) == 0x8001);
    CHECK_INT(f16_from_float(0x1.ffbffep-15f), 0x03FF);
    CHECK_INT(f16_from_float(0x1.ffcp-15f), 0x0400);
    CHECK(f16_from_float(-INFINITY) == 0xFC00 && f16_from_float(1e38f) == 0x7C00);
    for (uint64_t i = 0; i < 200000; i++) { /* rounding = the nearer neighbour, by definition */
        uint32_t bits = (uint32_t)rng_u64(8, 8, i);
        float x, lower, upper;
        memcpy(&x, &bits, sizeof x);
        x = fabsf(x);
        if (!(x < 65504)) continue;
        uint16_t h = f16_from_float(x);
        lower = f16_to_float((uint16_t)(h ? h - 1 : 0));
        upper = f16_to_float((uint16_t)(h + 1));
        float d = fabsf(f16_to_float(h) - x);
        CHECK((h == 0 || d <= x - lower) && d <= upper - x);
    }
    const double doubles[3] = {1.5, 1e300, -0.1};
    float floats[3];
    real reals[3];
    dtype_to_float(floats, doubles, DTYPE_F64, 3);
    CHECK(floats[0] == 1.5f && isinf(floats[1]) && floats[2] == -0.1f);
    dtype_to_real(reals, floats, DTYPE_F32, 3);
    CHECK(reals[0] == 1.5f && reals[2] == -0.1f);
    const uint16_t halves[3] = {0x3C00, 0xC000, 0x7BFF}, brains[3] = {0x3F80, 0xC000, 0x4049};
    dtype_to_real(reals, halves, DTYPE_F16, 3);
    CHECK(reals[0] == 1);
    CHECK(reals[1] == -2);
    CHECK(reals[2] == 65504);
    dtype_to_real(reals, brains, DTYPE_BF16, 3);
    CHECK(reals[0] == 1 && reals[1] == -2 && reals[2] == 3.140625f);
    dtype_to_float(floats, halves, DTYPE_F16, 3);
    CHECK(floats[0] == 1);
    CHECK(floats[1] == -2);
    CHECK(floats[2] == 65504);
}

/* Random tensors, names and shapes: written, read, compared. */
static void round_trips(void)
{
    static const char *const words[] = {"w", "\"", "\\", "\xC3\xA9", "layer", "\n", ".", "\x7F"};
    for (uint64_t round = 0; round < 60; round++) {
        uint64_t draw = 0;
#define DRAW(n) ((size_t)(rng_u64(11, round, draw++) % (n)))
        StOut out[9];
        char names_text[9][120];
        unsigned char *data[9];
        size_t count = DRAW(9);
        for (size_t i = 0; i < count; i++) {
            memset(&out[i], 0, sizeof out[i]);
            size_t at = (size_t)snprintf(names_text[i], sizeof names_text[i], "%zu", i);
            for (size_t k = DRAW(6); k > 0; k--) {
                at += (size_t)snprintf(names_text[i] + at, sizeof names_text[i] - at, "%s",
                                       words[DRAW(8)]);
            }
            out[i].name = names_text[i];
            out[i].dtype = (Dtype)DRAW(4);
            out[i].n_dims = DRAW(SAFETENSORS_MAX_DIMS + 1);
            size_t bytes = dtype_size(out[i].dtype);
            for (size_t d = 0; d < out[i].n_dims; d++) {
                out[i].shape[d] = DRAW(d < 3 ? 7 : 3);
                bytes *= (size_t)out[i].shape[d];
            }
            data[i] = mem_calloc(bytes, 1, &e);
            for (size_t k = 0; k < bytes; k++) data[i][k] = (unsigned char)DRAW(0x3F); /* finite */
            out[i].data = data[i];
        }
        const char *const metadata[] = {"format", "pt", "a\"b", "\xE2\x82\xAC\n", NULL};
        int with_metadata = (int)DRAW(2);
        CHECK_OK(safetensors_write(path, out, count, with_metadata ? metadata : NULL, &e), &e);
        Safetensors s;
        CHECK_OK(safetensors_open(&s, path, (int)DRAW(2), &e), &e);
        CHECK_INT(s.count, count);
        CHECK_INT((s.metadata != NULL), with_metadata);
        if (with_metadata) CHECK(json_is(json_get(s.metadata, "a\"b"), "\xE2\x82\xAC\n"));
        for (size_t i = 0; i < count; i++) {
            const StTensor *t = safetensors_find(&s, out[i].name);
            CHECK(t && t->supported && t->dtype == out[i].dtype && t->n_dims == out[i].n_dims);
            if (!t) continue;
            CHECK(!memcmp(t->shape, out[i].shape, t->n_dims * sizeof t->shape[0]));
            CHECK(!memcmp(t->data, data[i], (size_t)t->bytes));
            CHECK_INT((t->data - s.map.data) % (long)dtype_size(t->dtype),
                      0); /* naturally aligned */
            mem_free(data[i]);
        }
        safetensors_close(&s);
    }
#undef DRAW
}

/* The very bytes of a small file, as the reference library (0.8.0) writes it. */
static void writes_the_reference_bytes(void)
{
    static const char expected[] =
        "\x90\1\0\0\0\0\0\0"
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
        "\"z\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[4,8]},"
        "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[8,12]},"
        "\"c\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[12,14]},"
        "\"e\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[14,14]}}";
    const float one = 1, two = 2;
    const uint16_t halves[2] = {0x3F80, 0x4000};
    const StOut out[] = {
        {.name = "e", .dtype = DTYPE_F16, .n_dims = 1, .shape = {0}, .data = halves},
        {.name = "c", .dtype = DTYPE_F16, .n_dims = 1, .shape = {1}, .data = halves},
        {.name = "b", .dtype = DTYPE_BF16, .n_dims = 2, .shape = {2, 1}, .data = halves},
        {.name = "z", .dtype = DTYPE_F32, .n_dims = 0, .data = &two},
        {.name = "a", .dtype = DTYPE_F32, .n_dims = 1, .shape = {1}, .data = &one},
    };
    const char *const metadata[] = {"format", "pt", NULL};
    CHECK_OK(safetensors_write(path, out, 5, metadata, &e), &e);
    char *data;
    size_t len;
    CHECK_OK(io_read_file(path, 0, &data, &len, &e), &e);
    size_t header = (size_t)(unsigned char)data[0] + 256 * (size_t)(unsigned char)data[1];
    CHECK_INT(header % 8, 0);
    CHECK_INT(len, 8 + header + 14);
    CHECK(!strncmp(data + 8, expected + 8, sizeof expected - 9));
    for (size_t i = sizeof expected - 1; i < 8 + header; i++) CHECK_INT(data[i], ' ');
    CHECK(!memcmp(data + 8 + header, &one, 4) && !memcmp(data + 12 + header, &two, 4));
    CHECK(!memcmp(data + 16 + header, halves, 4) && !memcmp(data + 20 + header, halves, 2));
    mem_free(data);
}

/* Makes its tensor in two pieces; `ctx` says how many values too few or too many. */
static int produce_values(void *ctx, Writer *w, Err *err)
{
    const float values[3] = {1, 2, 3};
    long wrong = *(const long *)ctx;
    if (wrong == 100) return err_set(err, ERR_MEMORY, "made to fail");
    if (writer_put(w, values, 4, err)) return -1;
    return writer_put(w, values + 1, (size_t)(4 + 4 * wrong), err);
}

static void writers_refuse(void)
{
    long wrong = 0;
    const float nan_inside[3] = {1, NAN, 2};
    StOut out = {.name = "m",
                 .dtype = DTYPE_F32,
                 .n_dims = 1,
                 .shape = {2},
                 .produce = produce_values,
                 .ctx = &wrong};
    put_bytes("old", 3);
    static const long wrongs[] = {1, -1, 100};
    for (int i = 0; i < 3; i++) {
        wrong = wrongs[i];
        CHECK_INT(safetensors_write(path, &out, 1, NULL, &e), -1);
        CHECK_INT(e.code, (wrong == 100 ? ERR_MEMORY : ERR_INTERNAL));
    }
    StOut bad = {.name = "n.w", .dtype = DTYPE_F32, .n_dims = 1, .shape = {3}, .data = nan_inside};
    CHECK_FAILS(safetensors_write(path, &bad, 1, NULL, &e), &e, ERR_DATA);
    CHECK_HAS(e.text, "tensor \"n.w\": value 1 is NaN or infinite, not written");
    const StOut twice[2] = {out, out};
    CHECK_INT(safetensors_write(path, twice, 2, NULL, &e), -1);
    CHECK_HAS(e.text, "\"m\" is to be");
    StOut huge = {.name = "h", .dtype = DTYPE_F32, .n_dims = 2, .shape = {1ull << 40, 1ull << 40}};
    CHECK_FAILS(safetensors_write(path, &huge, 1, NULL, &e), &e, ERR_INTERNAL);
    char *data;
    size_t len;
    CHECK_OK(io_read_file(path, 0, &data, &len, &e), &e);
    CHECK_INT(len, 3); /* the old file, untouched */
    mem_free(data);
    wrong = 0;
    CHECK_OK(safetensors_write(path, &out, 1, NULL, &e), &e);
    Safetensors s;
    CHECK_OK(safetensors_open(&s, path, 1, &e), &e);
    CHECK(!memcmp(s.tensors[0].data, &(const float[2]){1, 2}, 8));
    safetensors_close(&s);
    CHECK_FAILS(safetensors_write("/no/such/place", &out, 1, NULL, &e), &e, ERR_CREATE);
}

static const Test tests[] = {
    {"reads_what_is_there", reads_what_is_there},
    {"header_lengths", header_lengths},
    {"header_text", header_text},
    {"names", names},
    {"fields", fields},
    {"shapes", shapes},
    {"offsets", offsets},
    {"small_print", small_print},
    {"json_attacks_are_bounded", json_attacks_are_bounded},
    {"unaligned_data", unaligned_data},
    {"not_finite_values", not_finite_values},
    {"other_files_are_named", other_files_are_named},
    {"every_cut_and_every_flip", every_cut_and_every_flip},
    {"number_formats", number_formats},
    {"number_formats_round", number_formats_round},
    {"round_trips", round_trips},
    {"writes_the_reference_bytes", writes_the_reference_bytes},
    {"writers_refuse", writers_refuse},
};

int main(int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof path, "%.150s/align-test-st-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0) {
        perror(path);
        return 1;
    }
    close(fd);
    int r = test_main(tests, sizeof tests / sizeof tests[0], argc, argv);
    remove(path);
    return r;
}
