/* io_safetensors.c - the safetensors format: reading with every claim checked, writing. See io.h.
 *
 * A file is 8 bytes of header length (little-endian), that many bytes of JSON, and data. The JSON
 * maps each tensor name to {"dtype", "shape", "data_offsets": [begin, end]}, offsets counted from
 * the first data byte; "__metadata__" is a map of strings.
 */
#include "base.h"
#include "maths.h"
#include "json.h"
#include "io.h"

#include <string.h>

/* ---- dtypes ------------------------------------------------------------------------------- */

/* Every dtype of the format with its bits; `type` is -1 if we cannot compute with it. */
static const struct {
    const char *name;
    unsigned bits;
    int type;
} dtypes[] = {
    {"F32", 32, DTYPE_F32}, {"BF16", 16, DTYPE_BF16}, {"F16", 16, DTYPE_F16},
    {"F64", 64, DTYPE_F64}, {"BOOL", 8, -1},          {"U8", 8, -1},
    {"I8", 8, -1},          {"U16", 16, -1},          {"I16", 16, -1},
    {"U32", 32, -1},        {"I32", 32, -1},          {"U64", 64, -1},
    {"I64", 64, -1},        {"C64", 64, -1},          {"F8_E5M2", 8, -1},
    {"F8_E4M3", 8, -1},     {"F8_E8M0", 8, -1},       {"F8_E5M2FNUZ", 8, -1},
    {"F8_E4M3FNUZ", 8, -1}, {"F6_E2M3", 6, -1},       {"F6_E3M2", 6, -1},
    {"F4", 4, -1},
};
#define DTYPE_COUNT (sizeof dtypes / sizeof dtypes[0])

/* The index of the first NaN or infinity, or count. An exponent of all ones means either. */
static size_t first_not_finite(const void *data, Dtype t, size_t count)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < count; i++) {
        uint16_t h;
        uint32_t w;
        uint64_t d;
        int bad = 0;
        switch (t) {
        case DTYPE_F32:
            memcpy(&w, p + 4 * i, 4);
            bad = (w & 0x7F800000u) == 0x7F800000u;
            break;
        case DTYPE_BF16:
            memcpy(&h, p + 2 * i, 2);
            bad = (h & 0x7F80) == 0x7F80;
            break;
        case DTYPE_F16:
            memcpy(&h, p + 2 * i, 2);
            bad = (h & 0x7C00) == 0x7C00;
            break;
        case DTYPE_F64:
            memcpy(&d, p + 8 * i, 8);
            bad = (d >> 52 & 0x7FF) == 0x7FF;
            break;
        }
        if (bad) return i;
    }
    return count;
}

/* ---- reading safetensors ------------------------------------------------------------------- */

/* While a file is read: its parts, and the tensors found so far. */
typedef struct {
    Safetensors *s;
    const char *path;
    size_t capacity;
    uint64_t data_size; /* bytes after the header */
    Err *e;
} StReader;

/* path: tensor "name": text */
static int tensor_fail(const StReader *r, const StTensor *t, const char *text)
{
    return err_set(r->e, ERR_DATA, "%s: tensor \"%.200s\": %s", r->path, t->name, text);
}

/* The dtype member: known to the format, and whether we can compute with it. */
static int read_dtype(const StReader *r, StTensor *t, const Json *j, unsigned *bits)
{
    if (!j || j->type != JSON_STRING) {
        return tensor_fail(r, t,
                           "\"dtype\" is missing or no string, expected \"F32\", "
                           "\"BF16\" or \"F16\"");
    }
    for (size_t i = 0; i < DTYPE_COUNT; i++) {
        if (!json_is(j, dtypes[i].name)) continue;
        *bits = dtypes[i].bits;
        t->supported = dtypes[i].type >= 0;
        if (t->supported) t->dtype = (Dtype)dtypes[i].type;
        memcpy(t->dtype_text, dtypes[i].name, strlen(dtypes[i].name) + 1);
        return 0;
    }
    return err_set(r->e, ERR_DATA,
                   "%s: tensor \"%.200s\": unknown dtype \"%.40s\", expected F32, BF16 or F16",
                   r->path, t->name, j->text);
}

/* The shape member, and the number of elements as its checked product. */
static int read_shape(const StReader *r, StTensor *t, const Json *j)
{
    if (!j || j->type != JSON_ARRAY) {
        return tensor_fail(r, t, "\"shape\" is missing or no array, expected a list of sizes");
    }
    if (j->len > SAFETENSORS_MAX_DIMS) {
        return err_set(r->e, ERR_DATA, "%s: tensor \"%.200s\": %zu dimensions, the limit is %d",
                       r->path, t->name, j->len, SAFETENSORS_MAX_DIMS);
    }
    t->count = 1;
    for (const Json *d = j->child; d; d = d->next) {
        uint64_t size;
        /* Signed: no file has 2^63 elements, and negative sizes must not wrap. */
        if (json_u64(d, &size) || size > INT64_MAX) {
            return err_set(r->e, ERR_DATA,
                           "%s: tensor \"%.200s\": dimension %zu of \"shape\" is not a whole "
                           "number from 0 to 2^63-1",
                           r->path, t->name, t->n_dims);
        }
        t->shape[t->n_dims++] = size;
        if (u64_mul(t->count, size, &t->count)) {
            return tensor_fail(r, t, "the product of \"shape\" overflows 64 bits");
        }
    }
    return 0;
}

/* Reads data_offsets [begin, end], which must lie inside the data and fit shape and dtype. */
static int read_offsets(const StReader *r, StTensor *t, const Json *j, unsigned bits,
                        uint64_t *begin)
{
    uint64_t end, need;
    if (!j || j->type != JSON_ARRAY || j->len != 2 || json_u64(j->child, begin) ||
        json_u64(j->child->next, &end)) {
        return tensor_fail(r, t, "\"data_offsets\" is missing or wrong, expected [begin, end]");
    }
    if (end < *begin) {
        return err_set(r->e, ERR_DATA,
                       "%s: tensor \"%.200s\": data_offsets [%llu, %llu] end before they begin",
                       r->path, t->name, (unsigned long long)*begin, (unsigned long long)end);
    }
    if (u64_mul(t->count, bits, &need)) {
        return tensor_fail(r, t, "shape times element size overflows 64 bits");
    }
    if (need % 8 != 0) return tensor_fail(r, t, "its elements do not fill whole bytes");
    need /= 8;
    if (end - *begin != need) {
        return err_set(r->e, ERR_DATA,
                       "%s: tensor \"%.200s\": shape and dtype %s need %llu bytes, data_offsets "
                       "give %llu",
                       r->path, t->name, t->dtype_text, (unsigned long long)need,
                       (unsigned long long)(end - *begin));
    }
    if (end > r->data_size) {
        return err_set(r->e, ERR_DATA,
                       "%s: tensor \"%.200s\" ends %llu bytes after the end of the file: the "
                       "file is %llu bytes short; download it again",
                       r->path, t->name, (unsigned long long)(end - r->data_size),
                       (unsigned long long)(end - r->data_size));
    }
    t->bytes = need;
    return 0;
}

/* A copy of a parsed value in another pool. */
static const Json *copy_value(Pool *pool, const Json *j, Err *e)
{
    Text t = {0};
    const Json *r = NULL;
    if (json_put(&t, j, e) == 0) r = json_parse(pool, t.data, t.len, "__metadata__", 0, e);
    text_free(&t);
    return r;
}

/* __metadata__: an object of strings, kept as long as the file is open. */
static int read_metadata(const StReader *r, const Json *j)
{
    if (r->s->metadata) {
        return err_set(r->e, ERR_DATA, "%s: \"__metadata__\" appears twice", r->path);
    }
    if (j->type != JSON_OBJECT) {
        return err_set(r->e, ERR_DATA, "%s: \"__metadata__\" is not an object of strings", r->path);
    }
    for (const Json *m = j->child; m; m = m->next) {
        if (m->type == JSON_STRING) continue;
        return err_set(r->e, ERR_DATA,
                       "%s: \"__metadata__\": the value of \"%.80s\" is not a string", r->path,
                       m->key);
    }
    r->s->metadata = copy_value(&r->s->pool, j, r->e);
    return r->s->metadata ? 0 : -1;
}

/* A new tensor at the end of the growing list. */
static StTensor *new_tensor(StReader *r)
{
    Safetensors *s = r->s;
    if (s->count == SAFETENSORS_MAX_TENSORS) {
        err_set(r->e, ERR_DATA, "%s: more than %u tensors, the limit", r->path,
                SAFETENSORS_MAX_TENSORS);
        return NULL;
    }
    if (s->count == r->capacity) {
        size_t capacity = r->capacity ? r->capacity * 2 : 64, bytes;
        if (size_mul(capacity, sizeof *s->tensors, &bytes)) bytes = SIZE_MAX;
        StTensor *grown = mem_realloc(s->tensors, bytes, r->e);
        if (!grown) return NULL;
        s->tensors = grown;
        r->capacity = capacity;
    }
    StTensor *t = &s->tensors[s->count];
    memset(t, 0, sizeof *t);
    return t;
}

/* One member of the header that is a tensor. */
static int read_tensor(StReader *r, const Json *j)
{
    StTensor *t = new_tensor(r);
    if (!t) return -1;
    unsigned bits = 0;
    uint64_t begin = 0;
    t->name = pool_strndup(&r->s->pool, j->key, j->key_len, r->e);
    if (!t->name) return -1;
    t->name_len = j->key_len;
    if (memchr(t->name, 0, t->name_len)) return tensor_fail(r, t, "the name holds a 0 byte");
    if (t->name_len == 0) return tensor_fail(r, t, "the name is empty");
    if (j->type != JSON_OBJECT) {
        return tensor_fail(r, t, "expected an object with dtype, shape and data_offsets");
    }
    if (read_dtype(r, t, json_get(j, "dtype"), &bits) || read_shape(r, t, json_get(j, "shape")) ||
        read_offsets(r, t, json_get(j, "data_offsets"), bits, &begin)) {
        return -1;
    }
    t->data = r->s->map.data + (r->s->map.size - (size_t)r->data_size) + (size_t)begin;
    r->s->count++;
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const StTensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b)
{
    const StTensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* The tensors must cover the data exactly once, in some order. */
static int check_cover(const StReader *r)
{
    Safetensors *s = r->s;
    const unsigned char *start = s->map.data + (s->map.size - (size_t)r->data_size);
    uint64_t at = 0;
    for (size_t i = 0; i < s->count; i++) {
        const StTensor *t = &s->tensors[i];
        uint64_t begin = (uint64_t)(t->data - start);
        if (begin < at) {
            return err_set(r->e, ERR_DATA, "%s: tensors \"%.200s\" and \"%.200s\" overlap", r->path,
                           s->tensors[i - 1].name, t->name);
        }
        if (begin > at) {
            return err_set(r->e, ERR_DATA, "%s: %llu bytes before tensor \"%.200s\" belong to none",
                           r->path, (unsigned long long)(begin - at), t->name);
        }
        at += t->bytes;
    }
    if (at == r->data_size) return 0;
    return err_set(r->e, ERR_DATA,
                   "%s: %llu bytes after the last tensor, expected the end of the file", r->path,
                   (unsigned long long)(r->data_size - at));
}

/* Sorts the names for safetensors_find and refuses duplicates. */
static int index_names(const StReader *r)
{
    Safetensors *s = r->s;
    s->by_name = mem_calloc(s->count, sizeof *s->by_name, r->e);
    if (!s->by_name) return -1;
    for (size_t i = 0; i < s->count; i++) s->by_name[i] = &s->tensors[i];
    sort_items(s->by_name, s->count, sizeof *s->by_name, by_name);
    for (size_t i = 1; i < s->count; i++) {
        if (strcmp(s->by_name[i - 1]->name, s->by_name[i]->name) == 0) {
            return tensor_fail(r, s->by_name[i], "the name appears twice");
        }
    }
    return 0;
}

/* Says what a file that does not begin as safetensors must is instead, or `text`. */
static int header_fail(const StReader *r, const char *text)
{
    const FileMap *m = &r->s->map;
    const char *foreign = json_foreign((const char *)m->data, m->size);
    if (!foreign) return err_set(r->e, ERR_DATA, "%s: %s", r->path, text);
    return err_set(r->e, ERR_DATA, "%s: found %s, expected safetensors", r->path, foreign);
}

/* The 8 bytes of header length, against the limit and the real size of the file. */
static int read_header_length(const StReader *r, size_t *length)
{
    const FileMap *m = &r->s->map;
    char text[160];
    if (m->size == 0) return header_fail(r, "empty, expected 8 bytes of header length");
    if (m->size < 8) {
        snprintf(text, sizeof text, "%zu bytes, expected at least 8 of header length", m->size);
        return header_fail(r, text);
    }
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | m->data[i];
    if (n > SAFETENSORS_MAX_HEADER) {
        snprintf(text, sizeof text, "header length %llu, the limit is %u (is this safetensors?)",
                 (unsigned long long)n, SAFETENSORS_MAX_HEADER);
        return header_fail(r, text);
    }
    if (n > m->size - 8) {
        snprintf(text, sizeof text,
                 "header length %llu, but the file has only %zu bytes; download "
                 "it again",
                 (unsigned long long)n, m->size);
        return header_fail(r, text);
    }
    *length = (size_t)n;
    return 0;
}

/* All members of the header, one at a time: each is forgotten before the next is read. */
static int read_header(StReader *r, size_t length)
{
    static const char metadata[] = "__metadata__";
    Text name = {0};
    int found = 1;
    if (text_addf(&name, r->e, "%s: header", r->path)) return -1;
    JsonMembers members = {(const char *)r->s->map.data + 8, length, name.data, 0, 0, 0, 0};
    while (found == 1) {
        Pool scratch = {0};
        Json *j = NULL;
        found = json_members_next(&members, &scratch, &j, r->e);
        if (found == 1) {
            int is_metadata =
                j->key_len == sizeof metadata - 1 && !memcmp(j->key, metadata, j->key_len);
            if (is_metadata ? read_metadata(r, j) : read_tensor(r, j)) found = -1;
        }
        pool_free(&scratch);
    }
    text_free(&name);
    return found;
}

int safetensors_open(Safetensors *s, const char *path, int use_mmap, Err *e)
{
    memset(s, 0, sizeof *s);
    if (filemap_open(&s->map, path, use_mmap, e)) return -1;
    StReader r = {s, path, 0, 0, e};
    size_t length = 0;
    int bad = read_header_length(&r, &length);
    if (!bad) {
        r.data_size = s->map.size - 8 - length;
        bad = read_header(&r, length);
    }
    if (!bad) {
        sort_items(s->tensors, s->count, sizeof *s->tensors, by_place);
        bad = index_names(&r) || check_cover(&r);
    }
    if (bad) safetensors_close(s);
    return bad ? -1 : 0;
}

const StTensor *safetensors_find(const Safetensors *s, const char *name)
{
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int c = strcmp(s->by_name[middle]->name, name);
        if (c == 0) return s->by_name[middle];
        if (c < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

int safetensors_check_finite(const Safetensors *s, const StTensor *t, Err *e)
{
    if (!t->supported) return 0;
    size_t count = (size_t)t->count, i = first_not_finite(t->data, t->dtype, count);
    if (i == count) return 0;
    return err_set(e, ERR_DATA, "%s: tensor \"%.200s\": value %zu is NaN or infinite", s->map.path,
                   t->name, i);
}

void safetensors_close(Safetensors *s)
{
    filemap_close(&s->map);
    pool_free(&s->pool);
    mem_free(s->tensors);
    mem_free(s->by_name);
    memset(s, 0, sizeof *s);
}

/* ---- writing safetensors ------------------------------------------------------------------- */

/* The reference writer's order of dtypes, which it sorts by before it sorts by name. */
static int dtype_rank(Dtype t)
{
    switch (t) {
    case DTYPE_F64: return 0;
    case DTYPE_F32: return 1;
    case DTYPE_BF16: return 2;
    case DTYPE_F16: return 3;
    }
    return 4;
}

static int by_out_name(const void *a, const void *b)
{
    const StOut *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int by_file_order(const void *a, const void *b)
{
    const StOut *const *x = a, *const *y = b;
    int d = dtype_rank((*x)->dtype) - dtype_rank((*y)->dtype);
    return d ? d : strcmp((*x)->name, (*y)->name);
}

/* Bytes of a tensor to be written, checked against overflow. */
static int out_size(const StOut *t, uint64_t *count, uint64_t *bytes, Err *e)
{
    int bad = t->n_dims > SAFETENSORS_MAX_DIMS;
    *count = 1;
    for (size_t i = 0; i < t->n_dims && !bad; i++) bad = u64_mul(*count, t->shape[i], count) != 0;
    if (!bad && !u64_mul(*count, dtype_size(t->dtype), bytes)) return 0;
    return err_set(e, ERR_INTERNAL, "tensor \"%.200s\": its shape is too large", t->name);
}

/* "name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]} */
static int put_entry(Text *h, const StOut *t, uint64_t *offset, Err *e)
{
    uint64_t count, bytes, end;
    if (out_size(t, &count, &bytes, e)) return -1;
    if (u64_add(*offset, bytes, &end)) {
        return err_set(e, ERR_INTERNAL, "tensor \"%.200s\": the file is too large", t->name);
    }
    if (json_put_string(h, t->name, strlen(t->name), e) ||
        text_addf(h, e, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(t->dtype))) {
        return -1;
    }
    for (size_t i = 0; i < t->n_dims; i++) {
        if (text_addf(h, e, "%s%llu", i ? "," : "", (unsigned long long)t->shape[i])) return -1;
    }
    if (text_addf(h, e, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)*offset,
                  (unsigned long long)end)) {
        return -1;
    }
    *offset = end;
    return 0;
}

/* The whole header, padded with spaces so that the data begins at a multiple of 8. */
static int put_header(Text *h, const StOut *const *order, size_t count, const char *const *metadata,
                      Err *e)
{
    const char *between = "";
    if (text_add(h, "{", 1, e)) return -1;
    if (metadata && metadata[0]) {
        if (text_addf(h, e, "\"__metadata__\":{")) return -1;
        for (size_t i = 0; metadata[i]; i += 2) {
            if (text_addf(h, e, "%s", i ? "," : "") ||
                json_put_string(h, metadata[i], strlen(metadata[i]), e) || text_add(h, ":", 1, e) ||
                json_put_string(h, metadata[i + 1], strlen(metadata[i + 1]), e)) {
                return -1;
            }
        }
        if (text_add(h, "}", 1, e)) return -1;
        between = ",";
    }
    uint64_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        if (text_addf(h, e, "%s", between) || put_entry(h, order[i], &offset, e)) return -1;
        between = ",";
    }
    if (text_add(h, "}", 1, e)) return -1;
    while (h->len % 8) {
        if (text_add(h, " ", 1, e)) return -1;
    }
    if (h->len <= SAFETENSORS_MAX_HEADER) return 0;
    return err_set(e, ERR_INTERNAL, "the header is larger than %u bytes", SAFETENSORS_MAX_HEADER);
}

/* Writes the bytes of one tensor, from its data or by its `produce`. */
static int put_tensor(Writer *w, const StOut *t, Err *e)
{
    uint64_t count, bytes, before = w->total;
    if (out_size(t, &count, &bytes, e)) return -1;
    if (t->data) {
        size_t bad = first_not_finite(t->data, t->dtype, (size_t)count);
        if (bad < count) {
            return err_set(e, ERR_DATA,
                           "%s: tensor \"%.200s\": value %zu is NaN or infinite, not "
                           "written",
                           w->path, t->name, bad);
        }
        return writer_put(w, t->data, (size_t)bytes, e);
    }
    if (t->produce && t->produce(t->ctx, w, e)) return -1;
    if (w->total - before == bytes) return 0;
    return err_set(e, ERR_INTERNAL, "%s: tensor \"%.200s\": %llu bytes made, %llu expected",
                   w->path, t->name, (unsigned long long)(w->total - before),
                   (unsigned long long)bytes);
}

/* Length, header, data. */
static int put_file(Writer *w, const Text *header, const StOut *const *order, size_t count, Err *e)
{
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)header->len >> (8 * i));
    if (writer_put(w, length, sizeof length, e)) return -1;
    if (writer_put(w, header->data, header->len, e)) return -1;
    for (size_t i = 0; i < count; i++) {
        if (put_tensor(w, order[i], e)) return -1;
    }
    return 0;
}

/* Sorts the tensors into the order of the file; refuses two with one name, which no reader would
 * accept. */
static int file_order(const StOut **order, const StOut *tensors, size_t count, Err *e)
{
    for (size_t i = 0; i < count; i++) order[i] = &tensors[i];
    sort_items(order, count, sizeof *order, by_out_name);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(order[i - 1]->name, order[i]->name) == 0) {
            return err_set(e, ERR_INTERNAL, "tensor \"%.200s\" is to be written twice",
                           order[i]->name);
        }
    }
    sort_items(order, count, sizeof *order, by_file_order);
    return 0;
}

int safetensors_write(const char *path, const StOut *tensors, size_t count,
                      const char *const *metadata, Err *e)
{
    Text header = {0};
    Writer w = {0};
    int r = -1;
    const StOut **order = mem_calloc(count, sizeof *order, e);
    if (!order) return -1;
    if (file_order(order, tensors, count, e) == 0 &&
        put_header(&header, order, count, metadata, e) == 0 && writer_open(&w, path, e) == 0 &&
        put_file(&w, &header, order, count, e) == 0) {
        r = writer_commit(&w, e);
    }
    writer_abort(&w);
    text_free(&header);
    mem_free(order);
    return r;
}
