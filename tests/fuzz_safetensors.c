/* fuzz_safetensors.c - the safetensors reader on damaged files. Of what it accepts, every tensor
 * must lie inside of the file, the tensors must cover the data exactly once, and the file must
 * survive being written and read again. */
#include "base.h"
#include "fuzz.h"
#include "io.h"
#include "maths.h"

#include <string.h>
#include <unistd.h>

/* clang-format off */
const char *const fuzz_words[] = {
    "\"dtype\"", "\"shape\"", "\"data_offsets\"", "\"__metadata__\"", "\"F32\"", "\"BF16\"",
    "\"F16\"", "\"F64\"", "\"F4\"", "\"BOOL\"", "[0,0]", "[]", "[0]", "{}", ":{", "},", "\"b\":",
    "\\u0000", ",", "[1,1,1,1,1,1,1,1,1]", "null", "-", "\"format\":\"pt\"", "    ",
    "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", NULL};
/* clang-format on */

/* A whole file from its header and the number of data bytes. */
static int whole_file(Text *out, const char *header, size_t data)
{
    size_t len = strlen(header);
    for (int i = 0; i < 8; i++) {
        char byte = (char)((uint64_t)len >> (8 * i));
        if (text_add(out, &byte, 1, NULL)) return -1;
    }
    if (text_add(out, header, len, NULL)) return -1;
    for (size_t i = 0; i < data; i++) {
        char byte = (char)(i * 37 & 0x3F);
        if (text_add(out, &byte, 1, NULL)) return -1;
    }
    return 0;
}

int fuzz_seed(size_t i, Text *out)
{
    static const struct {
        const char *header;
        size_t data;
    } seeds[] = {
        {"{}", 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", 16},
        {"{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],"
         "\"data_offsets\":[0,16]},\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[16,24]"
         "}}"
         "    ",
         24},
        {"{\"b\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[8,10]},\"a\":{\"dtype\":\"F64\","
         "\"shape\":[1,1],\"data_offsets\":[0,8]},\"c\":{\"dtype\":\"F32\",\"shape\":[0,3],"
         "\"data_offsets\":[10,10]}}",
         10},
        {"{\"x\":{\"dtype\":\"F4\",\"shape\":[6],\"data_offsets\":[0,3]},\"y\":{\"dtype\":\"I64\","
         "\"shape\":[1],\"data_offsets\":[3,11]}}",
         11},
    };
    if (i >= sizeof seeds / sizeof seeds[0]) return -1;
    return whole_file(out, seeds[i].header, seeds[i].data);
}

/* Gives the header the length up to its last brace. */
void fuzz_repair(uint8_t *data, size_t size)
{
    size_t end = size;
    while (end > 8 && data[end - 1] != '}') end--;
    if (end <= 8) return;
    for (int i = 0; i < 8; i++) data[i] = (uint8_t)((uint64_t)(end - 8) >> (8 * i));
}

/* Each tensor inside of the file, in order, without holes; found by its name. */
static void check_tensors(const Safetensors *s)
{
    const unsigned char *end = s->map.data + s->map.size;
    for (size_t i = 0; i < s->count; i++) {
        const StTensor *t = &s->tensors[i];
        uint64_t product = 1, sum = 0;
        FUZZ_REQUIRE(t->data >= s->map.data + 8 && t->data <= end);
        FUZZ_REQUIRE(t->bytes <= (uint64_t)(end - t->data));
        if (i > 0) FUZZ_REQUIRE(t->data == t[-1].data + t[-1].bytes);
        for (size_t d = 0; d < t->n_dims; d++) product *= t->shape[d];
        FUZZ_REQUIRE(product == t->count);
        if (t->supported) FUZZ_REQUIRE(t->bytes == t->count * dtype_size(t->dtype));
        FUZZ_REQUIRE(strlen(t->name) == t->name_len && t->name_len > 0);
        FUZZ_REQUIRE(safetensors_find(s, t->name) == t);
        for (uint64_t k = 0; k < t->bytes; k++) sum += t->data[k]; /* all of it can be read */
        FUZZ_REQUIRE(sum <= 255 * t->bytes);
    }
    if (s->count > 0) {
        const StTensor *last = &s->tensors[s->count - 1];
        FUZZ_REQUIRE(last->data + last->bytes == end);
    }
}

/* Writes what we can compute with to another file and compares. */
static void check_round_trip(const Safetensors *s, const char *path)
{
    enum { MOST = 32 };
    StOut out[MOST];
    size_t n = 0;
    Err e;
    for (size_t i = 0; i < s->count && n < MOST; i++) {
        const StTensor *t = &s->tensors[i];
        if (!t->supported || safetensors_check_finite(s, t, &e)) continue;
        memset(&out[n], 0, sizeof out[n]);
        out[n].name = t->name;
        out[n].dtype = t->dtype;
        out[n].n_dims = t->n_dims;
        memcpy(out[n].shape, t->shape, sizeof t->shape);
        out[n++].data = t->data;
    }
    FUZZ_REQUIRE(safetensors_write(path, out, n, NULL, &e) == 0);
    Safetensors back;
    FUZZ_REQUIRE(safetensors_open(&back, path, 0, &e) == 0 && back.count == n);
    check_tensors(&back);
    for (size_t i = 0; i < n; i++) {
        const StTensor *t = safetensors_find(&back, out[i].name);
        FUZZ_REQUIRE(t && t->dtype == out[i].dtype && t->n_dims == out[i].n_dims);
        FUZZ_REQUIRE(!memcmp(t->data, out[i].data, (size_t)t->bytes));
    }
    safetensors_close(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64], second[64];
    Safetensors s;
    Err e;
    const char *dir = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(path, sizeof path, "%s/align-fuzz-%ld", dir, (long)getpid());
    snprintf(second, sizeof second, "%s/align-fuzz-%ld.b", dir, (long)getpid());
    FILE *f = fopen(path, "wb");
    FUZZ_REQUIRE(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
    if (safetensors_open(&s, path, (int)(size & 1), &e)) {
        FUZZ_REQUIRE(e.code == ERR_DATA && !strncmp(e.text, path, strlen(path)));
        for (const char *c = e.text; *c; c++) FUZZ_REQUIRE((unsigned char)*c >= 0x20);
    } else {
        check_tensors(&s);
        check_round_trip(&s, second);
        safetensors_close(&s);
    }
    remove(path);
    remove(second);
    return 0;
}
