/* gguf.h - for tests that need GGUF files: values, tensors and data put one after another. */
#ifndef ALIGN_TEST_GGUF_H
#define ALIGN_TEST_GGUF_H

#include "base.h"
#include "io.h"

#include <string.h>

/* A file being made. Sizes of a tensor as in the file: the length of a row first. */
typedef struct {
    Text values, tensors, data;
    uint64_t n_values, n_tensors;
} GgufMaker;

static inline void gguf_put(Text *t, uint64_t x, size_t bytes)
{
    char byte;
    for (size_t i = 0; i < bytes; i++) byte = (char)(x >> (8 * i)), text_add(t, &byte, 1, NULL);
}

static inline void gguf_put_text(Text *t, const char *text, size_t len)
{
    gguf_put(t, len, 8);
    text_add(t, text, len, NULL);
}

/* The key and type of a value whose bytes are put next. */
static inline void gguf_key(GgufMaker *m, const char *key, GgufType type)
{
    gguf_put_text(&m->values, key, strlen(key));
    gguf_put(&m->values, type, 4);
    m->n_values++;
}

static inline void gguf_put_u32(GgufMaker *m, const char *key, uint32_t x)
{
    gguf_key(m, key, GGUF_U32);
    gguf_put(&m->values, x, 4);
}

static inline void gguf_put_f32(GgufMaker *m, const char *key, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    gguf_key(m, key, GGUF_F32);
    gguf_put(&m->values, bits, 4);
}

static inline void gguf_put_bool(GgufMaker *m, const char *key, int x)
{
    gguf_key(m, key, GGUF_BOOL);
    gguf_put(&m->values, (uint64_t)x, 1);
}

static inline void gguf_put_string(GgufMaker *m, const char *key, const char *text)
{
    gguf_key(m, key, GGUF_STRING);
    gguf_put_text(&m->values, text, strlen(text));
}

/* The head of an array whose items are put next. */
static inline void gguf_put_array(GgufMaker *m, const char *key, GgufType items, uint64_t count)
{
    gguf_key(m, key, GGUF_ARRAY);
    gguf_put(&m->values, items, 4);
    gguf_put(&m->values, count, 8);
}

/* A matrix [rows, cols] (rows 0: a vector) of a type by its number, its data aligned to 32. */
static inline void gguf_put_tensor(GgufMaker *m, const char *name, uint64_t rows, uint64_t cols,
                                   uint32_t type, const void *data, size_t bytes)
{
    while (m->data.len % 32) text_add(&m->data, "", 1, NULL);
    gguf_put_text(&m->tensors, name, strlen(name));
    gguf_put(&m->tensors, rows ? 2 : 1, 4);
    gguf_put(&m->tensors, cols, 8);
    if (rows) gguf_put(&m->tensors, rows, 8);
    gguf_put(&m->tensors, type, 4);
    gguf_put(&m->tensors, m->data.len, 8);
    m->n_tensors++;
    text_add(&m->data, data, bytes, NULL);
}

/* The whole file; the maker is empty afterwards. */
static inline void gguf_finish(GgufMaker *m, uint32_t version, Text *out)
{
    text_add(out, "GGUF", 4, NULL);
    gguf_put(out, version, 4);
    gguf_put(out, m->n_tensors, 8);
    gguf_put(out, m->n_values, 8);
    if (m->values.len) text_add(out, m->values.data, m->values.len, NULL);
    if (m->tensors.len) text_add(out, m->tensors.data, m->tensors.len, NULL);
    while (out->len % 32) text_add(out, "", 1, NULL);
    if (m->data.len) text_add(out, m->data.data, m->data.len, NULL);
    text_free(&m->values), text_free(&m->tensors), text_free(&m->data);
    *m = (GgufMaker){.n_values = 0};
}

#endif
