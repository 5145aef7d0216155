/* io_gguf_write.c - the GGUF format, version 3: writing values, list of tensors, and data.
 *
 * The layout is that of io_gguf.c. Tensors are made one after another, each when it is its turn, so
 * a model larger than memory can be written; where each will lie is known before, from its format
 * and sizes.
 */
#include "base.h"
#include "io.h"

#include <string.h>

enum { VERSION = 3, ALIGNMENT = 32 };

/* ---- values -------------------------------------------------------------------------------- */

/* x as `bytes` bytes, the low ones first. */
static int put_number(Text *out, uint64_t x, size_t bytes, Err *e)
{
    char little[8];
    for (size_t i = 0; i < bytes; i++) little[i] = (char)(unsigned char)(x >> (8 * i));
    return text_add(out, little, bytes, e);
}

static int put_text(Text *out, const char *text, size_t len, Err *e)
{
    return put_number(out, len, 8, e) || text_add(out, text, len, e) ? -1 : 0;
}

static int put_key(GgufValues *v, const char *key, GgufType type, Err *e)
{
    v->count++;
    return put_text(&v->bytes, key, strlen(key), e) || put_number(&v->bytes, type, 4, e) ? -1 : 0;
}

static uint32_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

int gguf_add_u32(GgufValues *v, const char *key, uint32_t x, Err *e)
{
    return put_key(v, key, GGUF_U32, e) || put_number(&v->bytes, x, 4, e) ? -1 : 0;
}

int gguf_add_f32(GgufValues *v, const char *key, float x, Err *e)
{
    return put_key(v, key, GGUF_F32, e) || gguf_item_f32(v, x, e) ? -1 : 0;
}

int gguf_add_bool(GgufValues *v, const char *key, int x, Err *e)
{
    return put_key(v, key, GGUF_BOOL, e) || put_number(&v->bytes, x != 0, 1, e) ? -1 : 0;
}

int gguf_add_text(GgufValues *v, const char *key, const char *text, size_t len, Err *e)
{
    return put_key(v, key, GGUF_STRING, e) || put_text(&v->bytes, text, len, e) ? -1 : 0;
}

int gguf_add_array(GgufValues *v, const char *key, GgufType items, uint64_t count, Err *e)
{
    return put_key(v, key, GGUF_ARRAY, e) || put_number(&v->bytes, items, 4, e) ||
                   put_number(&v->bytes, count, 8, e)
               ? -1
               : 0;
}

int gguf_item_i32(GgufValues *v, int32_t x, Err *e)
{
    return put_number(&v->bytes, (uint32_t)x, 4, e);
}

int gguf_item_f32(GgufValues *v, float x, Err *e)
{
    return put_number(&v->bytes, float_bits(x), 4, e);
}

int gguf_item_text(GgufValues *v, const char *text, size_t len, Err *e)
{
    return put_text(&v->bytes, text, len, e);
}

int gguf_add_value(GgufValues *v, const GgufValue *from, Err *e)
{
    int status = from->is_array ? gguf_add_array(v, from->key, from->type, from->count, e)
                                : put_key(v, from->key, from->type, e);
    return status ? -1 : text_add(&v->bytes, (const char *)from->data, gguf_value_bytes(from), e);
}

/* ---- the file ------------------------------------------------------------------------------ */

static int too_large(const GgufOut *t, Err *e)
{
    return err_set(e, ERR_DATA, "tensor %s: the file is too large", t->name);
}

static uint64_t padding(uint64_t at)
{
    return at % ALIGNMENT ? ALIGNMENT - at % ALIGNMENT : 0;
}

static int tensor_bytes(const GgufOut *t, uint64_t *bytes, Err *e)
{
    if (t->cols % t->format->block)
        return err_set(e, ERR_INTERNAL,
                       "tensor %s: rows of %zu numbers are not whole blocks of %zu", t->name,
                       t->cols, t->format->block);
    return u64_mul(format_bytes(t->format, t->cols), t->rows ? t->rows : 1, bytes) ? too_large(t, e)
                                                                                   : 0;
}

/* Name, sizes with that of a row first, type, and where its data begin. *offset moves behind
 * them. */
static int put_tensor(Text *head, const GgufOut *t, uint64_t *offset, Err *e)
{
    uint64_t bytes;
    if (tensor_bytes(t, &bytes, e) || put_text(head, t->name, strlen(t->name), e) ||
        put_number(head, t->rows ? 2 : 1, 4, e) || put_number(head, t->cols, 8, e) ||
        (t->rows && put_number(head, t->rows, 8, e)) ||
        put_number(head, (uint64_t)gguf_type_of(t->format), 4, e) ||
        put_number(head, *offset, 8, e))
        return -1;
    if (u64_add(*offset, bytes, offset) || u64_add(*offset, padding(*offset), offset))
        return too_large(t, e);
    return 0;
}

/* All that stands before the data; *data = their bytes. */
static int put_head(Text *head, const GgufValues *values, const GgufOut *tensors, size_t count,
                    uint64_t *data, Err *e)
{
    static const char zeros[ALIGNMENT] = {0};
    *data = 0;
    if (text_add(head, "GGUF", 4, e) || put_number(head, VERSION, 4, e) ||
        put_number(head, count, 8, e) || put_number(head, values->count, 8, e) ||
        (values->bytes.len && text_add(head, values->bytes.data, values->bytes.len, e)))
        return -1;
    for (size_t i = 0; i < count; i++)
        if (put_tensor(head, &tensors[i], data, e)) return -1;
    return text_add(head, zeros, (size_t)padding(head->len), e);
}

static int put_data(Writer *w, const GgufOut *t, Err *e)
{
    static const char zeros[ALIGNMENT] = {0};
    uint64_t bytes, before = w->total;
    if (tensor_bytes(t, &bytes, e) || t->produce(t->ctx, w, e)) return -1;
    if (w->total - before != bytes)
        return err_set(e, ERR_INTERNAL, "%s: tensor %s: %llu bytes made, %llu expected", w->path,
                       t->name, (unsigned long long)(w->total - before), (unsigned long long)bytes);
    return writer_put(w, zeros, (size_t)padding(bytes), e);
}

/* Says at once, and not hours later, that there is no room for so many bytes. */
static int check_space(const Writer *w, uint64_t bytes, Err *e)
{
    uint64_t room;
    Err ignored; /* not every file system can tell */
    if (!w->temp || io_free_space(w->temp, &room, &ignored) || room >= bytes) return 0;
    return err_set(e, ERR_IO, "%s: %llu bytes are needed, %llu are free", w->path,
                   (unsigned long long)bytes, (unsigned long long)room);
}

int gguf_write(const char *path, const GgufValues *values, const GgufOut *tensors, size_t count,
               Err *e)
{
    Text head = {0};
    Writer w = {0};
    uint64_t data;
    int bad = put_head(&head, values, tensors, count, &data, e) || writer_open(&w, path, e) ||
              check_space(&w, data, e) || writer_put(&w, head.data, head.len, e);
    for (size_t i = 0; i < count && !bad; i++) bad = put_data(&w, &tensors[i], e);
    if (!bad) bad = writer_commit(&w, e);
    writer_abort(&w);
    text_free(&head);
    return bad ? -1 : 0;
}
