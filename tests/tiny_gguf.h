/* tiny_gguf.h - the model of tiny.h as a GGUF file, and otherwise than it should be. */
#ifndef ALIGN_TEST_TINY_GGUF_H
#define ALIGN_TEST_TINY_GGUF_H

#include "gguf.h"
#include "sentencepiece.h"
#include "test.h"
#include "tiny.h"

/* What is otherwise than in a good file. */
typedef struct {
    const char *left_out;        /* a key or a tensor; all that begin so, before a '*' */
    void (*added)(GgufMaker *m); /* put at the end */
    int quantized, sentencepiece, tied;
    const char *architecture; /* NULL: llama */
} Otherwise;
static Otherwise otherwise;
static Err err;

static inline int is_left_out(const char *key)
{
    const char *left_out = otherwise.left_out, *star = left_out ? strchr(left_out, '*') : NULL;
    if (star) return !strncmp(key, left_out, (size_t)(star - left_out));
    return left_out && !strcmp(key, left_out);
}

static inline void put_number(GgufMaker *m, const char *key, uint32_t x)
{
    if (!is_left_out(key)) gguf_put_u32(m, key, x);
}

static inline const char *architecture(void)
{
    return otherwise.architecture ? otherwise.architecture : "llama";
}

/* A key that begins with the architecture's name; the text lasts until the next call. */
static inline const char *own_key(const char *name)
{
    static char key[80];
    snprintf(key, sizeof key, "%s.%s", architecture(), name);
    return key;
}

static inline void put_configuration(GgufMaker *m, const ModelConfig *c)
{
    if (!is_left_out("general.architecture"))
        gguf_put_string(m, "general.architecture", architecture());
    put_number(m, own_key("block_count"), (uint32_t)c->layers);
    put_number(m, own_key("context_length"), (uint32_t)c->max_positions);
    put_number(m, own_key("embedding_length"), (uint32_t)c->H);
    put_number(m, own_key("feed_forward_length"), (uint32_t)c->F);
    put_number(m, own_key("attention.head_count"), (uint32_t)c->Q);
    put_number(m, own_key("attention.head_count_kv"), (uint32_t)c->G);
    gguf_put_f32(m, own_key("attention.layer_norm_rms_epsilon"), (float)c->norm_eps);
    gguf_put_f32(m, own_key("rope.freq_base"), (float)c->rope.theta);
    put_number(m, "tokenizer.ggml.bos_token_id", (uint32_t)(otherwise.sentencepiece ? 1 : c->bos));
    put_number(m, "tokenizer.ggml.eos_token_id",
               (uint32_t)(otherwise.sentencepiece ? 2 : c->eos[0]));
}

static inline void put_byte_level(GgufMaker *m, const Tokenizer *t)
{
    static const char *const merges[] = {"s k",          "sk y", "t h", "th e",
                                         "\xc4\xa0 the", "r e",  "e r", "\xc4\xa0 b"};
    gguf_put_string(m, "tokenizer.ggml.model", "gpt2");
    if (!is_left_out("tokenizer.ggml.pre")) gguf_put_string(m, "tokenizer.ggml.pre", "gpt-2");
    gguf_put_bool(m, "tokenizer.ggml.add_bos_token", 1);
    if (!is_left_out("tokenizer.ggml.tokens")) {
        gguf_put_array(m, "tokenizer.ggml.tokens", GGUF_STRING, tokenizer_size(t));
        for (int32_t i = 0; i < (int32_t)tokenizer_size(t); i++) {
            size_t len;
            const char *piece = tokenizer_piece(t, i, &len);
            gguf_put_text(&m->values, piece, len);
        }
    }
    if (!is_left_out("tokenizer.ggml.token_type")) {
        gguf_put_array(m, "tokenizer.ggml.token_type", GGUF_I32, tokenizer_size(t));
        for (int32_t i = 0; i < (int32_t)tokenizer_size(t); i++)
            gguf_put(&m->values, tokenizer_is_special(t, i) ? 3 : 1, 4);
    }
    if (is_left_out("tokenizer.ggml.merges")) return;
    gguf_put_array(m, "tokenizer.ggml.merges", GGUF_STRING, sizeof merges / sizeof *merges);
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++)
        gguf_put_text(&m->values, merges[i], strlen(merges[i]));
}

/* The pieces of sentencepiece.h. */
static inline void put_sentencepiece(GgufMaker *m)
{
    static const struct {
        const char *text;
        float score;
        unsigned type;
    } pieces[] = {{BAR, -9, 1},  {"a", -10, 1},     {"b", -11, 1}, {BAR BAR, -1e9f, 1},
                  {"ab", -1, 1}, {BAR "ab", -2, 1}, {"[X]", 0, 4}};
    enum { OWN = sizeof pieces / sizeof *pieces, ALL = 3 + 256 + OWN };
    static const char *const ends[] = {"<unk>", "<s>", "</s>"};
    gguf_put_string(m, "tokenizer.ggml.model", "llama");
    gguf_put_array(m, "tokenizer.ggml.tokens", GGUF_STRING, ALL);
    for (size_t i = 0; i < ALL; i++) {
        char byte[8];
        snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)(i - 3) & 255);
        const char *text = i < 3 ? ends[i] : i < 259 ? byte : pieces[i - 259].text;
        gguf_put_text(&m->values, text, strlen(text));
    }
    gguf_put_array(m, "tokenizer.ggml.token_type", GGUF_I32, ALL);
    for (size_t i = 0; i < ALL; i++)
        gguf_put(&m->values, i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : pieces[i - 259].type, 4);
    gguf_put_array(m, "tokenizer.ggml.scores", GGUF_F32, ALL);
    for (size_t i = 0; i < ALL; i++) {
        float score = i < 259 ? 0 : pieces[i - 259].score;
        uint32_t bits;
        memcpy(&bits, &score, sizeof bits);
        gguf_put(&m->values, bits, 4);
    }
}

/* Blocks of 32 numbers as Q8_0 with the scale 1/256. */
static inline size_t quantize(unsigned char *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char *block = out + i / 32 * 34;
        block[0] = 0, block[1] = 0x1c;
        block[2 + i % 32] = (unsigned char)(int)(x[i] * 256);
    }
    return n / 32 * 34;
}

/* Weight i of a model in F32, heads of queries and keys as the architecture has them: Qwen's as
 * they are, the others' with their halves interleaved. */
static inline void put_weight(GgufMaker *maker, const Model *m, size_t i)
{
    static float x[TINY_V * TINY_H], stored[TINY_V * TINY_H];
    static unsigned char blocks[TINY_F * TINY_H * 2];
    Weight w;
    model_weight(m, i, &w);
    size_t D = m->config.D,
           paired = *architecture() != 'q' && (w.target == TARGET_Q || w.target == TARGET_K);
    mat_unpack(&w.param->w, x);
    for (size_t r = 0; r < w.rows; r++) {
        size_t in = r % D, to = paired ? r - in + 2 * (in % (D / 2)) + in / (D / 2) : r;
        memcpy(stored + to * w.cols, x + r * w.cols, w.cols * sizeof *x);
    }
    size_t rows = w.kind == WEIGHT_MATRIX ? w.rows : 0;
    if (is_left_out(w.gguf) || (otherwise.tied && w.target == TARGET_HEAD)) return;
    if (otherwise.quantized && w.target == TARGET_DOWN)
        gguf_put_tensor(maker, w.gguf, rows, w.cols, 8, blocks,
                        quantize(blocks, stored, w.rows * w.cols));
    else
        gguf_put_tensor(maker, w.gguf, rows, w.cols, 0, stored, w.rows * w.cols * sizeof *stored);
}

/* The tiny model as a GGUF file, otherwise as `o` says. */
static inline const char *tiny_gguf(const char *name, Otherwise o)
{
    static char path[IO_PATH_MAX + 512];
    const char *dir = tiny_model("tiny");
    GgufMaker maker = {.n_values = 0};
    Text file = {0};
    Model m;
    Tokenizer *t = tokenizer_load(dir, NULL, &err);
    CHECK(t != NULL);
    CHECK_OK(model_load(&m, dir, 0, NULL, &err), &err);
    otherwise = o;
    put_configuration(&maker, &m.config);
    if (o.sentencepiece)
        put_sentencepiece(&maker);
    else
        put_byte_level(&maker, t);
    for (size_t i = 0; i < model_weight_count(&m); i++) put_weight(&maker, &m, i);
    if (o.added) o.added(&maker);
    gguf_finish(&maker, 3, &file);
    files_write(name, file.data, file.len);
    text_free(&file);
    model_close(&m);
    tokenizer_free(t);
    snprintf(path, sizeof path, "%s", files_path(name));
    return path;
}

/* ---- what a model gives ---------------------------------------------------------------------- */

enum { TEXT_IDS = 5 };

/* The logits of a model after five tokens. */
static inline void logits_of(const char *path, real out[TINY_V])
{
    static int32_t ids[TEXT_IDS] = {264, 7, 99, 259, 30};
    Compute c;
    Model m;
    Tape t;
    memset(out, 0, TINY_V * sizeof *out);
    CHECK_OK(model_load(&m, path, MODEL_CHECK_TENSORS, NULL, &err), &err);
    if (!m.layers) return;
    Segment s = {.count = TEXT_IDS, .parent = -1};
    Batch b = {.T = TEXT_IDS, .ids = ids, .n_segments = 1, .segments = &s};
    uint32_t last = TEXT_IDS - 1;
    CHECK_OK(compute_open(&c, "ref", PRECISION_F32, &err), &err);
    CHECK_OK(model_reserve_positions(&m, 16, &err), &err);
    CHECK_OK(tape_open(&t, &c, 1 << 20, 1 << 18, &err), &err);
    memcpy(out, model_logits(&t, &m, NULL, &b, &last, 1)->x, TINY_V * sizeof *out);
    tape_close(&t);
    compute_close(&c);
    model_close(&m);
}

/* The ids of a text by a model's tokenizer, separated by spaces, or why there are none. */
static inline const char *ids_of(const char *path, const char *text)
{
    static char shown[256];
    size_t at = 0;
    Ids ids = {0};
    Tokenizer *t = tokenizer_load(path, NULL, &err);
    *shown = 0;
    if (!t) return err.text;
    CHECK_OK(tokenizer_encode(t, text, strlen(text), TOKENIZE_ADD, &ids, &err), &err);
    for (size_t i = 0; i < ids.count; i++)
        at += (size_t)snprintf(shown + at, sizeof shown - at, i ? " %ld" : "%ld", (long)ids.ids[i]);
    ids_free(&ids);
    tokenizer_free(t);
    return shown;
}

#endif
