/* fuzz_gguf.c - the GGUF reader on damaged files. Of what it accepts, every value and every tensor
 * must lie inside of the file, no two tensors may share a byte, and every value can be asked for.
 */
#include "base.h"
#include "fuzz.h"
#include "gguf.h"

#include <string.h>
#include <unistd.h>

/* clang-format off */
const char *const fuzz_words[] = {
    "GGUF", "general.alignment", "split.count", "tokenizer.ggml.tokens", "k", "\x08", "\x09",
    "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", "\xFF\xFF\xFF\xFF", "\x80", "\x20", "\x01", "\x02", NULL};
/* clang-format on */

int fuzz_seed(size_t i, Text *out)
{
    static const unsigned char block[34] = {0, 0x3c, 1, 2, 3};
    const float x[6] = {1, 2, 3, 4, 5, 6};
    GgufMaker m = {.n_values = 0};
    if (i > 2) return -1;
    gguf_put_string(&m, "general.architecture", "llama");
    if (i > 0) gguf_put_u32(&m, "general.alignment", 32);
    if (i > 1) {
        gguf_put_array(&m, "texts", GGUF_STRING, 2);
        gguf_put_text(&m.values, "ab", 2), gguf_put_text(&m.values, "", 0);
        gguf_put_array(&m, "numbers", GGUF_I16, 2), gguf_put(&m.values, 7, 4);
    }
    gguf_put_tensor(&m, "a", 0, 6, 0, x, sizeof x);
    if (i > 0) gguf_put_tensor(&m, "b", 2, 3, 0, x, sizeof x);
    if (i > 1) gguf_put_tensor(&m, "c", 1, 32, 8, block, sizeof block);
    gguf_finish(&m, 3, out);
    return 0;
}

/* The first bytes again, so that most inputs come further. */
void fuzz_repair(uint8_t *data, size_t size)
{
    if (size >= 8) memcpy(data, "GGUF\3\0\0", 8);
}

static void check_values(const Gguf *g)
{
    const unsigned char *begin = g->parts[0].data, *end = begin + g->parts[0].size;
    for (size_t i = 0; i < g->n_values; i++) {
        const GgufValue *v = &g->values[i];
        const unsigned char *at = v->data;
        uint64_t n;
        double f;
        int yes;
        const char *text;
        size_t len;
        Err e;
        FUZZ_REQUIRE(gguf_get(g, v->key) == v && v->data >= begin && v->data <= end);
        for (uint64_t k = 0; k < v->count; k++) {
            if (v->type != GGUF_STRING) {
                f = gguf_number(v, k);
                FUZZ_REQUIRE(f >= 0 || f <= 0 || f != f);
                continue;
            }
            text = gguf_next_text(&at, &len);
            FUZZ_REQUIRE(at <= end && (const unsigned char *)text + len == at);
        }
        if (gguf_u64(g, v->key, &n, &e) < 0) FUZZ_REQUIRE(e.code == ERR_DATA);
        if (gguf_f64(g, v->key, &f, &e) < 0) FUZZ_REQUIRE(e.code == ERR_DATA);
        if (gguf_bool(g, v->key, &yes, &e) > 0) FUZZ_REQUIRE(yes == 0 || yes == 1);
        if (gguf_text(g, v->key, &text, &len, &e) > 0) FUZZ_REQUIRE(utf8_check(text, len) == len);
    }
}

static void check_tensors(const Gguf *g)
{
    const unsigned char *begin = g->parts[0].data, *end = begin + g->parts[0].size;
    real block[FORMAT_BLOCK_MAX];
    for (size_t i = 0; i < g->n_tensors; i++) {
        const GgufTensor *t = &g->tensors[i];
        uint64_t product = 1, cols = t->shape[t->n_dims - 1];
        FUZZ_REQUIRE(gguf_tensor(g, t->name) == t && t->data >= begin && t->data <= end);
        FUZZ_REQUIRE(t->bytes <= (uint64_t)(end - t->data));
        for (size_t d = 0; d < t->n_dims; d++) product *= t->shape[d];
        FUZZ_REQUIRE(product == t->count && product > 0);
        for (size_t k = 0; k < i; k++)
            FUZZ_REQUIRE(g->tensors[k].data + g->tensors[k].bytes <= t->data ||
                         t->data + t->bytes <= g->tensors[k].data);
        if (!t->format) continue;
        FUZZ_REQUIRE(cols % t->format->block == 0);
        FUZZ_REQUIRE(t->bytes == t->count / t->format->block * t->format->bytes);
        for (uint64_t k = 0; k < t->count / t->format->block; k++) /* all of it can be read */
            t->format->unpack(block, t->data + k * t->format->bytes, 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    Gguf g;
    Err e;
    const char *dir = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(path, sizeof path, "%s/align-fuzz-%ld.gguf", dir, (long)getpid());
    FILE *f = fopen(path, "wb");
    FUZZ_REQUIRE(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
    if (gguf_open(&g, path, (int)(size & 1), &e)) {
        FUZZ_REQUIRE(e.code == ERR_DATA && !strncmp(e.text, path, strlen(path)));
        for (const char *c = e.text; *c; c++) FUZZ_REQUIRE((unsigned char)*c >= 0x20);
    } else {
        check_values(&g);
        check_tensors(&g);
        gguf_close(&g);
    }
    remove(path);
    return 0;
}
