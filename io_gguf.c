/* io_gguf.c - the GGUF format, versions 2 and 3: reading with every claim checked.
 *
 * "GGUF", a version, numbers of tensors and of values; then the values, each a key, a type and
 * bytes; then for each tensor its name, sizes, type and offset; then, aligned, the data. All
 * numbers are little-endian. A large model may be split: name-00001-of-00003.gguf has the values,
 * and each part has tensors and their data.
 */
#include "base.h"
#include "io.h"
#include "json.h"
#include "maths.h"

#include <string.h>

enum { OLDEST = 2, NEWEST = 3, DEFAULT_ALIGNMENT = 32, NAME_MAX_BYTES = 255 };
/* The fewest bytes of a value (length, a letter, type, a byte) and of a tensor (length, a letter,
 * number of sizes, one size, type, offset): so many can there be at most. */
enum { LEAST_VALUE = 8 + 1 + 4 + 1, LEAST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8 };

/* Types of tensors by their numbers: numbers to a block, bytes of a block. */
static const struct {
    const char *name;
    unsigned block, bytes;
} types[] = {[0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},
             [3] = {"Q4_1", 32, 20},      [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},
             [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 40},      [10] = {"Q2_K", 256, 84},
             [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
             [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66},
             [17] = {"IQ2_XS", 256, 74},  [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},
             [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},  [22] = {"IQ2_S", 256, 82},
             [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},
             [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},
             [29] = {"IQ1_M", 256, 56},   [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},
             [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17},    [40] = {"NVFP4", 64, 36},
             [41] = {"Q1_0", 128, 18}};
enum { TYPES = sizeof types / sizeof *types };

/* Bytes of a value of a type; 0: not of one length. */
static const unsigned char value_bytes[GGUF_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};

/* ---- a part under way ---------------------------------------------------------------------- */

typedef struct {
    Gguf *g;
    const FileMap *map;
    const unsigned char *p; /* what comes next */
    size_t left;
    uint64_t n_tensors, n_values, alignment;
    GgufValue *values;
    Err *e;
} Part;

/* path: byte N: text */
static int fail(const Part *r, const char *text)
{
    return err_set(r->e, ERR_DATA, "%s: byte %zu: %s", r->map->path, r->map->size - r->left, text);
}

static uint64_t little_endian(const unsigned char *p, size_t bytes)
{
    uint64_t x = 0;
    for (size_t i = 0; i < bytes; i++) x |= (uint64_t)p[i] << (8 * i);
    return x;
}

static int number(Part *r, size_t bytes, uint64_t *out)
{
    *out = 0;
    if (r->left < bytes) return fail(r, "the file ends within its header; download it again");
    *out = little_endian(r->p, bytes);
    r->p += bytes;
    r->left -= bytes;
    return 0;
}

static int skip(Part *r, uint64_t bytes)
{
    if (bytes > r->left) return fail(r, "a length is beyond the end of the file");
    r->p += bytes;
    r->left -= (size_t)bytes;
    return 0;
}

/* A key or the name of a tensor, copied. */
static int name(Part *r, const char **out)
{
    uint64_t len;
    if (number(r, 8, &len)) return -1;
    const char *text = (const char *)r->p;
    if (len == 0 || len > NAME_MAX_BYTES) return fail(r, "a name must have 1 to 255 bytes");
    if (skip(r, len)) return -1;
    if (memchr(text, 0, (size_t)len) || utf8_check(text, (size_t)len) != len)
        return fail(r, "a name is not UTF-8");
    *out = pool_strndup(&r->g->pool, text, (size_t)len, r->e);
    return *out ? 0 : -1;
}

/* ---- values -------------------------------------------------------------------------------- */

static int value_items(Part *r, GgufValue *v)
{
    uint64_t size = value_bytes[v->type], len;
    if (size) return u64_mul(size, v->count, &len) ? fail(r, "an array is too long") : skip(r, len);
    if (v->count > r->left / 8)
        return fail(r, "an array has more texts than the file has room for");
    for (uint64_t i = 0; i < v->count; i++)
        if (number(r, 8, &len) || skip(r, len)) return -1;
    return 0;
}

static int read_value(Part *r, GgufValue *v)
{
    uint64_t type;
    v->count = 1;
    if (name(r, &v->key) || number(r, 4, &type)) return -1;
    v->is_array = type == GGUF_ARRAY;
    if (v->is_array && (number(r, 4, &type) || number(r, 8, &v->count))) return -1;
    if (type >= GGUF_TYPES || type == GGUF_ARRAY)
        return err_set(r->e, ERR_DATA, "%s: %.80s: %s of type %llu; known are 0 to 12%s",
                       r->map->path, v->key, v->is_array ? "items" : "a value",
                       (unsigned long long)type, v->is_array ? " without 9, an array" : "");
    v->type = (GgufType)type;
    v->data = r->p;
    return value_items(r, v);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const GgufValue *)a)->key, ((const GgufValue *)b)->key);
}

static int read_values(Part *r)
{
    size_t n = (size_t)r->n_values, bytes;
    if (r->n_values > r->left / LEAST_VALUE)
        return fail(r, "the file is too short for its number of values");
    if (size_mul(n, sizeof *r->values, &bytes)) return fail(r, "too many values");
    r->values = pool_alloc(&r->g->pool, bytes, r->e);
    if (!r->values) return -1;
    for (size_t i = 0; i < n; i++)
        if (read_value(r, &r->values[i])) return -1;
    sort_items(r->values, n, sizeof *r->values, by_key);
    for (size_t i = 1; i < n; i++)
        if (!by_key(&r->values[i - 1], &r->values[i]))
            return err_set(r->e, ERR_DATA, "%s: %.80s appears twice", r->map->path,
                           r->values[i].key);
    return 0;
}

static const GgufValue *find_value(const GgufValue *values, size_t n, const char *key)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(values[middle].key, key);
        if (order == 0) return &values[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* ---- tensors ------------------------------------------------------------------------------- */

static int tensor_fail(const Part *r, const GgufTensor *t, const char *text)
{
    return err_set(r->e, ERR_DATA, "%s: tensor %.80s: %s", r->map->path, t->name, text);
}

/* Sizes, the first one that of a row; their product must fit. */
static int read_shape(Part *r, GgufTensor *t)
{
    uint64_t n, size[GGUF_MAX_DIMS];
    if (number(r, 4, &n)) return -1;
    if (n == 0 || n > GGUF_MAX_DIMS) return tensor_fail(r, t, "must have 1 to 4 sizes");
    t->n_dims = (size_t)n;
    t->count = 1;
    for (size_t i = 0; i < t->n_dims; i++) {
        if (number(r, 8, &size[i])) return -1;
        if (size[i] == 0 || u64_mul(t->count, size[i], &t->count) || t->count > INT64_MAX)
            return tensor_fail(r, t, "the product of its sizes is 0 or overflows 63 bits");
    }
    for (size_t i = 0; i < t->n_dims; i++) t->shape[i] = size[t->n_dims - 1 - i];
    return 0;
}

/* What a tensor is; its data are still an offset, in *offset. */
static int read_tensor(Part *r, GgufTensor *t, uint64_t *offset)
{
    uint64_t type;
    if (name(r, &t->name) || read_shape(r, t) || number(r, 4, &type) || number(r, 8, offset))
        return -1;
    if (type >= TYPES || !types[type].name)
        return err_set(r->e, ERR_DATA, "%s: tensor %.80s: type %llu is unknown", r->map->path,
                       t->name, (unsigned long long)type);
    t->type = types[type].name;
    t->format = format_named(t->type);
    if (t->shape[t->n_dims - 1] % types[type].block)
        return err_set(r->e, ERR_DATA,
                       "%s: tensor %.80s: a row of %llu numbers is not whole blocks "
                       "of %u, which %s has",
                       r->map->path, t->name, (unsigned long long)t->shape[t->n_dims - 1],
                       types[type].block, t->type);
    if (u64_mul(t->count / types[type].block, types[type].bytes, &t->bytes))
        return tensor_fail(r, t, "its bytes overflow 64 bits");
    if (*offset % r->alignment)
        return err_set(r->e, ERR_DATA, "%s: tensor %.80s: offset %llu is not a multiple of %llu",
                       r->map->path, t->name, (unsigned long long)*offset,
                       (unsigned long long)r->alignment);
    return 0;
}

typedef struct {
    uint64_t begin, end;
    const GgufTensor *tensor;
} Place;

static int by_place(const void *a, const void *b)
{
    const Place *x = a, *y = b;
    return x->begin != y->begin ? (x->begin > y->begin) - (x->begin < y->begin)
                                : (x->end > y->end) - (x->end < y->end);
}

/* No two tensors share a byte: a small file must not name much memory. */
static int check_overlap(const Part *r, Place *places, size_t n)
{
    sort_items(places, n, sizeof *places, by_place);
    for (size_t i = 1; i < n; i++)
        if (places[i].begin < places[i - 1].end)
            return err_set(r->e, ERR_DATA, "%s: tensors %.80s and %.80s overlap", r->map->path,
                           places[i - 1].tensor->name, places[i].tensor->name);
    return 0;
}

/* The data begin at the next multiple of the alignment; every tensor must end within the file. */
static int place_tensors(const Part *r, GgufTensor *t, Place *places, size_t n)
{
    uint64_t header = r->map->size - r->left, past = header % r->alignment;
    uint64_t padding = past ? r->alignment - past : 0;
    uint64_t size = padding > r->left ? 0 : r->left - padding;
    for (size_t i = 0; i < n; i++) {
        Place *p = &places[i];
        if (u64_add(p->begin, t[i].bytes, &p->end) || p->end > size)
            return err_set(r->e, ERR_DATA,
                           "%s: tensor %.80s ends beyond the end of the file (%zu "
                           "bytes); download it again",
                           r->map->path, t[i].name, r->map->size);
        t[i].data = r->p + padding + p->begin;
        p->tensor = &t[i];
    }
    return check_overlap(r, places, n);
}

static int read_tensors(Part *r)
{
    Gguf *g = r->g;
    size_t n = (size_t)r->n_tensors, total, bytes;
    if (r->n_tensors > r->left / LEAST_TENSOR)
        return fail(r, "the file is too short for its number of tensors");
    if (size_add(g->n_tensors, n, &total) || size_mul(total + 1, sizeof *g->tensors, &bytes))
        return fail(r, "too many tensors");
    GgufTensor *tensors = mem_realloc(g->tensors, bytes, r->e);
    if (!tensors) return -1;
    g->tensors = tensors;
    memset(tensors + g->n_tensors, 0, (n + 1) * sizeof *tensors);
    Place *places = mem_calloc(n, sizeof *places, r->e);
    int bad = !places;
    for (size_t i = 0; i < n && !bad; i++)
        bad = read_tensor(r, &tensors[g->n_tensors + i], &places[i].begin);
    bad = bad || place_tensors(r, tensors + g->n_tensors, places, n);
    mem_free(places);
    g->n_tensors = total;
    return bad ? -1 : 0;
}

/* ---- a file -------------------------------------------------------------------------------- */

static int read_head(Part *r)
{
    uint64_t magic, version, swapped;
    if (r->left < 4 || memcmp(r->p, "GGUF", 4)) return fail(r, "is no GGUF file");
    if (number(r, 4, &magic) || number(r, 4, &version)) return -1;
    swapped = (version & 0xFF) << 24 | (version & 0xFF00) << 8;
    if (version > 0xFFFF && swapped <= NEWEST << 24)
        return fail(r, "is a GGUF file for big-endian machines, which is not read");
    if (version < OLDEST || version > NEWEST)
        return err_set(r->e, ERR_DATA, "%s: GGUF version %llu is not read; versions %d and %d are",
                       r->map->path, (unsigned long long)version, OLDEST, NEWEST);
    return number(r, 8, &r->n_tensors) || number(r, 8, &r->n_values) ? -1 : 0;
}

static int read_alignment(Part *r)
{
    const GgufValue *v = find_value(r->values, (size_t)r->n_values, "general.alignment");
    r->alignment = DEFAULT_ALIGNMENT;
    if (!v) return 0;
    uint64_t a = v->type == GGUF_U32 && !v->is_array ? little_endian(v->data, 4) : 0;
    if (a == 0 || a & (a - 1) || a > GGUF_MAX_ALIGNMENT)
        return err_set(r->e, ERR_DATA, "%s: general.alignment must be a power of two up to %u",
                       r->map->path, GGUF_MAX_ALIGNMENT);
    r->alignment = a;
    return 0;
}

/* Adds the tensors of a file; its values become those of g if they are the first. */
static int read_part(Gguf *g, const char *path, int use_mmap, Err *e)
{
    FileMap *parts = mem_realloc(g->parts, (g->n_parts + 1) * sizeof *parts, e);
    if (!parts) return -1;
    g->parts = parts;
    if (filemap_open(&parts[g->n_parts], path, use_mmap, e)) return -1;
    const FileMap *map = &parts[g->n_parts++];
    Part r = {.g = g, .map = map, .p = map->data, .left = map->size, .e = e};
    if (read_head(&r) || read_values(&r) || read_alignment(&r) || read_tensors(&r)) return -1;
    if (g->n_parts > 1) return 0;
    g->values = r.values;
    g->n_values = (size_t)r.n_values;
    return 0;
}

/* name-00001-of-00003.gguf: where the number begins, or NULL. */
static char *part_number(char *path, uint64_t count)
{
    char end[32];
    size_t len = strlen(path), n;
    n = (size_t)snprintf(end, sizeof end, "-00001-of-%05llu.gguf", (unsigned long long)count);
    return len > n && !strcmp(path + len - n, end) ? path + len - n : NULL;
}

static int read_other_parts(Gguf *g, const char *first, int use_mmap, Err *e)
{
    uint64_t count = 1, total;
    char path[IO_PATH_MAX], number_text[8];
    if (gguf_u64(g, "split.count", &count, e) < 0) return -1;
    if (count <= 1) return 0;
    snprintf(path, sizeof path, "%s", first);
    char *at = count <= GGUF_MAX_PARTS ? part_number(path, count) : NULL;
    if (!at)
        return err_set(e, ERR_DATA,
                       "%s: is one of %llu parts; name the first, ...-00001-of-%05llu.gguf, and "
                       "keep the others beside it",
                       first, (unsigned long long)count, (unsigned long long)count);
    for (uint64_t i = 2; i <= count; i++) {
        snprintf(number_text, sizeof number_text, "-%05u", (unsigned)i);
        memcpy(at, number_text, 6);
        if (read_part(g, path, use_mmap, e)) return -1;
    }
    int said = gguf_u64(g, "split.tensors.count", &total, e);
    if (said <= 0 || total == g->n_tensors) return said < 0 ? -1 : 0;
    return err_set(e, ERR_DATA, "%s: its %llu parts hold %zu tensors, %llu are expected", first,
                   (unsigned long long)count, g->n_tensors, (unsigned long long)total);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const GgufTensor *)a)->name, ((const GgufTensor *)b)->name);
}

static int index_tensors(Gguf *g, const char *path, Err *e)
{
    sort_items(g->tensors, g->n_tensors, sizeof *g->tensors, by_name);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (!by_name(&g->tensors[i - 1], &g->tensors[i]))
            return err_set(e, ERR_DATA, "%s: tensor %.80s appears twice", path, g->tensors[i].name);
    return 0;
}

int gguf_open(Gguf *g, const char *path, int use_mmap, Err *e)
{
    *g = (Gguf){0};
    if (!read_part(g, path, use_mmap, e) && !read_other_parts(g, path, use_mmap, e) &&
        !index_tensors(g, path, e))
        return 0;
    gguf_close(g);
    return -1;
}

void gguf_close(Gguf *g)
{
    for (size_t i = 0; i < g->n_parts; i++) filemap_close(&g->parts[i]);
    mem_free(g->parts);
    mem_free(g->tensors);
    pool_free(&g->pool);
    *g = (Gguf){0};
}

int gguf_is(const char *path)
{
    FileMap map;
    Err ignored;
    if (!io_exists(path) || io_is_directory(path) || filemap_open(&map, path, 1, &ignored))
        return 0;
    int is = map.size >= 4 && !memcmp(map.data, "GGUF", 4);
    filemap_close(&map);
    return is;
}

int gguf_type_of(const Format *f)
{
    int type = 0; /* each Format is there */
    while (!types[type].name || strcmp(types[type].name, f->name)) type++;
    return type;
}

/* ---- what a file says ---------------------------------------------------------------------- */

const GgufTensor *gguf_tensor(const Gguf *g, const char *tensor)
{
    size_t low = 0, high = g->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(g->tensors[middle].name, tensor);
        if (order == 0) return &g->tensors[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

const GgufValue *gguf_get(const Gguf *g, const char *key)
{
    return find_value(g->values, g->n_values, key);
}

/* A negative number of `bytes` bytes, in two's complement? */
static int is_negative(const unsigned char *p, size_t bytes)
{
    return p[bytes - 1] >> 7;
}

double gguf_number(const GgufValue *v, uint64_t i)
{
    size_t bytes = value_bytes[v->type];
    const unsigned char *p = v->data + i * bytes;
    uint64_t x = little_endian(p, bytes);
    uint32_t word = (uint32_t)x;
    float f;
    double d;
    switch (v->type) {
    case GGUF_F32: return memcpy(&f, &word, sizeof f), (double)f;
    case GGUF_F64: return memcpy(&d, &x, sizeof d), d;
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        if (!is_negative(p, bytes)) return (double)x;
        if (bytes < 8) x |= ~(uint64_t)0 << (8 * bytes);
        return -(double)(~x + 1);
    default: return (double)x;
    }
}

size_t gguf_value_bytes(const GgufValue *v)
{
    if (v->type != GGUF_STRING) return (size_t)v->count * value_bytes[v->type];
    const unsigned char *at = v->data;
    for (uint64_t i = 0; i < v->count; i++) {
        size_t len;
        gguf_next_text(&at, &len);
    }
    return (size_t)(at - v->data);
}

static int wrong_kind(const Gguf *g, const char *key, const char *wanted, Err *e)
{
    return err_set(e, ERR_DATA, "%s: %s must be %s", g->parts[0].path, key, wanted);
}

int gguf_u64(const Gguf *g, const char *key, uint64_t *out, Err *e)
{
    const GgufValue *v = gguf_get(g, key);
    if (!v) return 0;
    int is_signed =
        v->type == GGUF_I8 || v->type == GGUF_I16 || v->type == GGUF_I32 || v->type == GGUF_I64;
    int is_unsigned =
        v->type == GGUF_U8 || v->type == GGUF_U16 || v->type == GGUF_U32 || v->type == GGUF_U64;
    if (v->is_array || (!is_signed && !is_unsigned) ||
        (is_signed && is_negative(v->data, value_bytes[v->type])))
        return wrong_kind(g, key, "a whole number from 0 on", e);
    *out = little_endian(v->data, value_bytes[v->type]);
    return 1;
}

int gguf_f64(const Gguf *g, const char *key, double *out, Err *e)
{
    const GgufValue *v = gguf_get(g, key);
    if (!v) return 0;
    if (v->is_array || v->type == GGUF_STRING || v->type == GGUF_BOOL)
        return wrong_kind(g, key, "a number", e);
    *out = gguf_number(v, 0);
    return 1;
}

int gguf_bool(const Gguf *g, const char *key, int *out, Err *e)
{
    const GgufValue *v = gguf_get(g, key);
    if (!v) return 0;
    if (v->is_array || v->type != GGUF_BOOL || v->data[0] > 1)
        return wrong_kind(g, key, "true or false", e);
    *out = v->data[0];
    return 1;
}

const char *gguf_next_text(const unsigned char **at, size_t *len)
{
    const char *text = (const char *)*at + 8;
    *len = (size_t)little_endian(*at, 8);
    *at += 8 + *len;
    return text;
}

int gguf_text(const Gguf *g, const char *key, const char **text, size_t *len, Err *e)
{
    const GgufValue *v = gguf_get(g, key);
    if (!v) return 0;
    if (v->is_array || v->type != GGUF_STRING) return wrong_kind(g, key, "a text", e);
    const unsigned char *at = v->data;
    *text = gguf_next_text(&at, len);
    return utf8_check(*text, *len) == *len ? 1 : wrong_kind(g, key, "a text in UTF-8", e);
}

int gguf_check_model(const Gguf *g, Err *e)
{
    const char *type = "";
    size_t len = 0;
    int found = gguf_text(g, "general.type", &type, &len, e);
    if (found < 0) return -1;
    if (len != strlen("adapter") || memcmp(type, "adapter", len)) return 0;
    return err_set(e, ERR_DATA,
                   "%s: holds an adapter alone, which llama.cpp puts on its base; give a model, "
                   "and the adapter as the directory it was made of",
                   g->parts[0].path);
}
