/* test_gguf.c - GGUF files built byte by byte: formats of weights, and every claim of a file that
 * can be wrong. tools/check_gguf.py compares with the gguf package. */
#include "base.h"

#include "files.h"
#include "maths.h"
#include "model.h"
#include "test.h"
#include "tiny_gguf.h"

/* ---- formats ------------------------------------------------------------------------------- */

/* Bytes of block b of a format: all values occur, but no F16 that is infinite or NaN. */
static void block_fill(unsigned char *out, size_t bytes, size_t b)
{
    for (size_t i = 0; i < bytes; i++) {
        out[i] = (unsigned char)(i * 37 + i * i * 11 + b * 101 + 5);
        if ((out[i] & 0x7c) == 0x7c) out[i] ^= 0x40;
    }
}

/* The beginnings of the SHA-256 of what the gguf package makes of three such blocks. */
static void blocks_as_the_gguf_package(void)
{
    static const struct {
        const char *format, *sha256;
    } known[] = {
        {"Q4_0", "361c37d7e48da2a2c5a45f73804de714"},
        {"Q4_1", "fdb8498903c5a1ca540cc61b76df15e4"},
        {"Q5_0", "399f2e0bee99ec5ee46279aaa8dc6241"},
        {"Q5_1", "37988711caeff8dc180f7747873be4cf"},
        {"Q8_0", "ad4dbcf408e8db6d96993c80403ebab6"},
        {"Q2_K", "c7beeb5b6363e0b5a6bcaf46f0387869"},
        {"Q3_K", "cccd896d98023471844f9a9cf704977d"},
        {"Q4_K", "18c9945b7a52d9314f150b00ad386fb4"},
        {"Q5_K", "28e1e0b4e0b51e5ec1e2017a9804c333"},
        {"Q6_K", "c37372514135b003fd771bd98c855d6a"},
        {"IQ4_NL", "2f79e09a343c8f3c0b94fc98b768ad7d"},
        {"IQ4_XS", "ac80f40716769bfa85d19b41797db71e"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const Format *f = format_named(known[i].format);
        unsigned char in[3 * 256];
        real out[3 * FORMAT_BLOCK_MAX], part[FORMAT_BLOCK_MAX];
        char hex[65];
        CHECK(f && f->bytes <= 256);
        if (!f) continue;
        for (size_t b = 0; b < 3; b++) block_fill(in + b * f->bytes, f->bytes, b);
        f->unpack(out, in, 3);
        sha256_bytes(out, 3 * f->block * sizeof *out, hex);
        hex[32] = 0;
        CHECK_TEXT(hex, known[i].sha256);
        format_unpack(f, part, in, f->block - 3, f->block); /* across a boundary */
        CHECK(!memcmp(part, out + f->block - 3, f->block * sizeof *out));
    }
    CHECK(format_named("F16") == &format_f16 && format_named("Q9_Z") == NULL);
}

/* ---- the container ------------------------------------------------------------------------- */

/* The file is refused, with a text that holds `part`, whether mapped or read. Frees *file. */
static void refused(Text *file, const char *part)
{
    files_write("x.gguf", file->data, file->len);
    text_free(file);
    for (int map = 0; map < 2; map++) {
        Gguf g;
        CHECK_FAILS(gguf_open(&g, files_path("x.gguf"), map, &err), &err, ERR_DATA);
        CHECK_HAS(err.text, part);
        CHECK_HAS(err.text, "x.gguf: ");
    }
}

/* A file of one value, or of one tensor of eight bytes, with what `put` puts. */
static void refused_value(void (*put)(GgufMaker *), const char *part)
{
    GgufMaker m = {.n_values = 0};
    Text file = {0};
    put(&m);
    gguf_finish(&m, 3, &file);
    refused(&file, part);
}

/* A tensor's entry by its fields, with eight bytes of data. */
static void refused_tensor(const char *name, uint32_t dims, const uint64_t *sizes, uint32_t type,
                           uint64_t offset, const char *part)
{
    GgufMaker m = {.n_tensors = 1};
    Text file = {0};
    gguf_put_text(&m.tensors, name, strlen(name));
    gguf_put(&m.tensors, dims, 4);
    for (uint32_t i = 0; i < dims && i < 8; i++) gguf_put(&m.tensors, sizes[i], 8);
    gguf_put(&m.tensors, type, 4);
    gguf_put(&m.tensors, offset, 8);
    text_add(&m.data, "12345678", 8, NULL);
    gguf_finish(&m, 3, &file);
    refused(&file, part);
}

static void small(GgufMaker *m)
{
    const float x[6] = {1, 2, 3, 4, 5, 6};
    gguf_put_string(m, "general.architecture", "llama");
    gguf_put_u32(m, "n", 7);
    gguf_put_f32(m, "f", 0.5f);
    gguf_put_bool(m, "yes", 1);
    gguf_key(m, "below", GGUF_I16);
    gguf_put(&m->values, 0xFFFE, 2);
    gguf_put_array(m, "texts", GGUF_STRING, 3);
    gguf_put_text(&m->values, "a", 1), gguf_put_text(&m->values, "", 0);
    gguf_put_text(&m->values, "b\0c", 3);
    gguf_put_array(m, "numbers", GGUF_I32, 2);
    gguf_put(&m->values, 5, 4), gguf_put(&m->values, 0xFFFFFFFF, 4);
    gguf_put_tensor(m, "vector", 0, 6, 0, x, sizeof x);
    gguf_put_tensor(m, "matrix", 2, 3, 0, x, sizeof x);
}

static void values_and_tensors(void)
{
    for (uint32_t version = 2; version <= 3; version++) {
        GgufMaker m = {.n_values = 0};
        Text file = {0};
        Gguf g;
        uint64_t n = 0;
        double f = 0;
        int yes = 0;
        const char *text;
        size_t len;
        small(&m);
        gguf_finish(&m, version, &file);
        files_write("s.gguf", file.data, file.len);
        text_free(&file);
        CHECK(gguf_is(files_path("s.gguf")) && !gguf_is(files_dir));
        CHECK_OK(gguf_open(&g, files_path("s.gguf"), version == 2, &err), &err);
        CHECK_INT(g.n_values, 7);
        CHECK(gguf_u64(&g, "n", &n, &err) == 1 && n == 7);
        CHECK(gguf_f64(&g, "f", &f, &err) == 1 && f == 0.5);
        CHECK(gguf_f64(&g, "below", &f, &err) == 1 && f == -2);
        CHECK(gguf_bool(&g, "yes", &yes, &err) == 1 && yes);
        CHECK(gguf_u64(&g, "none", &n, &err) == 0);
        CHECK(gguf_u64(&g, "below", &n, &err) == -1);
        CHECK_HAS(err.text, "below must be a whole number from 0 on");
        CHECK(gguf_text(&g, "n", &text, &len, &err) == -1 && gguf_bool(&g, "f", &yes, &err) == -1);
        CHECK(gguf_text(&g, "general.architecture", &text, &len, &err) == 1 && len == 5);
        const unsigned char *at = gguf_get(&g, "texts")->data;
        CHECK(gguf_next_text(&at, &len)[0] == 'a' && len == 1);
        CHECK(gguf_next_text(&at, &len) && len == 0);
        CHECK(!memcmp(gguf_next_text(&at, &len), "b\0c", 3) && len == 3);
        CHECK(gguf_number(gguf_get(&g, "numbers"), 0) == 5);
        CHECK(gguf_number(gguf_get(&g, "numbers"), 1) == -1);
        const GgufTensor *t = gguf_tensor(&g, "matrix");
        CHECK(t && t->n_dims == 2 && t->shape[0] == 2 && t->shape[1] == 3 && t->bytes == 24);
        CHECK(t && t->format == &format_f32 && t->data[23] == 0x40 && !gguf_tensor(&g, "x"));
        gguf_close(&g);
    }
}

static void broken_heads(void)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *part;
    } heads[] = {
        {"GGU", 3, "is no GGUF file"},
        {"GGUF\3\0\0", 7, "ends within its header"},
        {"GGUF\1\0\0\0xxxxxxxxxxxxxxxx", 24, "version 1 is not read; versions 2 and 3"},
        {"GGUF\4\0\0\0xxxxxxxxxxxxxxxx", 24, "version 4"},
        {"GGUF\0\0\0\3xxxxxxxxxxxxxxxx", 24, "big-endian"},
        {"GGUF\3\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0", 24, "its number of values"},
        {"GGUF\3\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", 24,
         "its number of values"},
        {"GGUF\3\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0\0", 24,
         "its number of tensors"},
    };
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        Text file = {0};
        text_add(&file, heads[i].bytes, heads[i].len, NULL);
        refused(&file, heads[i].part);
    }
}

static void put_long_key(GgufMaker *m)
{
    gguf_put(&m->values, UINT64_MAX, 8), gguf_put(&m->values, 0, 8), m->n_values++;
}

static void put_empty_key(GgufMaker *m)
{
    gguf_put_u32(m, "", 1), gguf_put(&m->values, 0, 8);
}

static void put_bad_key(GgufMaker *m)
{
    gguf_put_u32(m, "\xff\xfe", 1);
}

static void put_type_13(GgufMaker *m)
{
    gguf_key(m, "k", (GgufType)13), gguf_put(&m->values, 0, 8);
}

static void put_nested(GgufMaker *m)
{
    gguf_put_array(m, "k", GGUF_ARRAY, 1), gguf_put(&m->values, 0, 8);
}

static void put_long_text(GgufMaker *m)
{
    gguf_key(m, "k", GGUF_STRING), gguf_put(&m->values, (uint64_t)1 << 63, 8);
}

static void put_long_array(GgufMaker *m) /* times 8 it is 8 */
{
    gguf_put_array(m, "k", GGUF_U64, ((uint64_t)1 << 61) + 1), gguf_put(&m->values, 0, 8);
}

static void put_many_texts(GgufMaker *m)
{
    gguf_put_array(m, "k", GGUF_STRING, UINT64_MAX), gguf_put(&m->values, 0, 8);
}

static void put_twice(GgufMaker *m)
{
    gguf_put_u32(m, "k", 1), gguf_put_u32(m, "k", 2);
}

static void put_alignment_0(GgufMaker *m)
{
    gguf_put_u32(m, "general.alignment", 0);
}

static void put_alignment_24(GgufMaker *m)
{
    gguf_put_u32(m, "general.alignment", 24);
}

static void put_alignment_text(GgufMaker *m)
{
    gguf_put_string(m, "general.alignment", "32");
}

static void broken_values(void)
{
    refused_value(put_long_key, "a name must have 1 to 255 bytes");
    refused_value(put_empty_key, "a name must have 1 to 255 bytes");
    refused_value(put_bad_key, "not UTF-8");
    refused_value(put_type_13, "k: a value of type 13");
    refused_value(put_nested, "k: items of type 9");
    refused_value(put_long_text, "a length is beyond the end");
    refused_value(put_long_array, "an array is too long");
    refused_value(put_many_texts, "more texts than the file has room for");
    refused_value(put_twice, "k appears twice");
    refused_value(put_alignment_0, "general.alignment must be a power of two");
    refused_value(put_alignment_24, "general.alignment must be a power of two");
    refused_value(put_alignment_text, "general.alignment must be a power of two");
}

static void broken_tensors(void)
{
    const uint64_t one[] = {2, 1, 1, 1, 1, 1, 1, 1}, none[] = {2, 0};
    const uint64_t wraps[] = {(uint64_t)1 << 32, (uint64_t)1 << 32}; /* to 0 */
    const uint64_t many[] = {((uint64_t)1 << 62) + 2};               /* times 4 it is 8 */
    const uint64_t large[] = {3}, odd[] = {33}, wide[] = {8};
    refused_tensor("t", 0, one, 0, 0, "must have 1 to 4 sizes");
    refused_tensor("t", 5, one, 0, 0, "must have 1 to 4 sizes");
    refused_tensor("t", UINT32_MAX, one, 0, 0, "must have 1 to 4 sizes");
    refused_tensor("t", 2, none, 0, 0, "the product of its sizes is 0");
    refused_tensor("t", 2, wraps, 0, 0, "overflows 63 bits");
    refused_tensor("t", 1, many, 0, 0, "overflow");
    refused_tensor("t", 1, one, 4, 0, "type 4 is unknown");
    refused_tensor("t", 1, one, UINT32_MAX, 0, "is unknown");
    refused_tensor("t", 1, odd, 8, 0, "not whole blocks of 32, which Q8_0 has");
    refused_tensor("t", 1, large, 0, 0, "ends beyond the end of the file");
    refused_tensor("t", 1, one, 0, 32, "ends beyond the end of the file");
    refused_tensor("t", 1, one, 0, (uint64_t)0 - 32, "ends beyond the end of the file");
    refused_tensor("t", 1, wide, 0, (uint64_t)0 - 32, "ends beyond the end of the file"); /* to 0 */
    refused_tensor("t", 1, one, 0, 8, "offset 8 is not a multiple of 32");
}

static void tensors_apart(void)
{
    GgufMaker m = {.n_values = 0};
    Text file = {0};
    const float x[2] = {1, 2};
    for (int k = 0; k < 2; k++) {
        gguf_put_tensor(&m, "a", 0, 2, 0, x, sizeof x);
        if (k) m.data.len = 0; /* the second begins where the first does */
        gguf_put_tensor(&m, k ? "b" : "a", 0, 2, 0, x, sizeof x);
        gguf_finish(&m, 3, &file);
        refused(&file, k ? " overlap" : "tensor a appears twice");
    }
}

/* Two parts: the values stand in the first, tensors in both. */
static void split_files(void)
{
    const float x[2] = {1, 2};
    GgufMaker m = {.n_values = 0};
    Text file = {0};
    Gguf g;
    for (int part = 1; part <= 2; part++) {
        gguf_put_u32(&m, "split.count", 2);
        gguf_put_u32(&m, "split.tensors.count", 2);
        gguf_put_tensor(&m, part == 1 ? "a" : "b", 0, 2, 0, x, sizeof x);
        gguf_finish(&m, 3, &file);
        files_write(part == 1 ? "m-00001-of-00002.gguf" : "m-00002-of-00002.gguf", file.data,
                    file.len);
        if (part == 2) files_write("other.gguf", file.data, file.len);
        text_free(&file);
    }
    CHECK_OK(gguf_open(&g, files_path("m-00001-of-00002.gguf"), 1, &err), &err);
    CHECK(g.n_parts == 2 && gguf_tensor(&g, "a") && gguf_tensor(&g, "b"));
    gguf_close(&g);
    CHECK_FAILS(gguf_open(&g, files_path("m-00002-of-00002.gguf"), 1, &err), &err, ERR_DATA);
    CHECK_HAS(err.text, "is one of 2 parts; name the first, ...-00001-of-00002.gguf");
    CHECK_FAILS(gguf_open(&g, files_path("other.gguf"), 1, &err), &err, ERR_DATA);
    CHECK(!remove(files_path("m-00002-of-00002.gguf")));
    CHECK_FAILS(gguf_open(&g, files_path("m-00001-of-00002.gguf"), 1, &err), &err, ERR_NO_INPUT);
    CHECK_HAS(err.text, "m-00002-of-00002.gguf");
}

/* However short it is cut, a file is refused, or all that it still shows lies within it. */
static void cut_anywhere(void)
{
    GgufMaker m = {.n_values = 0};
    Text file = {0};
    small(&m);
    gguf_finish(&m, 3, &file);
    for (size_t len = 0; len < file.len; len++) {
        Gguf g;
        files_write("c.gguf", file.data, len);
        CHECK_FAILS(gguf_open(&g, files_path("c.gguf"), 0, &err), &err, ERR_DATA);
    }
    text_free(&file);
}

/* ---- models -------------------------------------------------------------------------------- */

/* The same numbers give the same bits, and the same vocabulary the same ids, as in a directory. */
static void model_as_its_directory(void)
{
    real of_file[TINY_V], of_directory[TINY_V];
    char ids[1024];
    Model m;
    const char *path = tiny_gguf("m.gguf", (Otherwise){.quantized = 0});
    logits_of(path, of_file);
    logits_of(files_path("tiny"), of_directory);
    CHECK(!memcmp(of_file, of_directory, sizeof of_file));
    snprintf(ids, sizeof ids, "%s", ids_of(files_path("tiny"), "the sky, there 12 \xc3\xa9"));
    CHECK_TEXT(ids_of(path, "the sky, there 12 \xc3\xa9"), ids);
    CHECK_OK(model_load(&m, path, 0, NULL, &err), &err);
    const ModelConfig *c = &m.config;
    CHECK(c->layers == 2 && c->H == 16 && c->F == 32 && c->V == TINY_V && c->Q == 4 && c->G == 2);
    CHECK(c->D == 4 && c->max_positions == 256 && !c->tied && !c->window && c->bos == TINY_BOS);
    CHECK(c->n_eos == 1 && c->eos[0] == TINY_EOS && c->norm_eps == 1e-5);
    CHECK_TEXT(c->rope.type, "default");
    CHECK_FAILS(model_make_trainable(&m, &err), &err, ERR_DATA);
    CHECK_HAS(err.text, "m.gguf: --full does not train the weights of a GGUF file");
    model_close(&m);
}

/* The hash is that of what the file holds: one changed byte of a weight changes it. */
static void hash_of_the_file(void)
{
    char before[65], after[65], stamp[65];
    Model m;
    const char *path = tiny_gguf("h.gguf", (Otherwise){.quantized = 1});
    CHECK_OK(model_load(&m, path, 0, NULL, &err), &err);
    CHECK_OK(model_hash(&m, before, &err), &err);
    CHECK_OK(model_stamp(&m, stamp, &err), &err);
    model_close(&m);
    size_t len;
    char *bytes = files_read(path, &len);
    bytes[len - 1] ^= 1;
    files_write("h.gguf", bytes, len);
    mem_free(bytes);
    CHECK_OK(model_load(&m, path, 0, NULL, &err), &err);
    CHECK_OK(model_hash(&m, after, &err), &err);
    CHECK(strcmp(before, after));
    CHECK_OK(model_stamp(&m, after, &err), &err);
    CHECK(strcmp(stamp, after));
    FILE *f = fopen(path, "ab");
    CHECK(f && fputc(0, f) == 0 && !fclose(f));
    CHECK_FAILS(model_check_files(&m, &err), &err, ERR_DATA);
    CHECK_HAS(err.text, "h.gguf: was written to while it was in use");
    model_close(&m);
}

/* A quantized file, written as a directory in F32: the same logits and the same ids. */
static void saved_as_a_directory(void)
{
    real of_file[TINY_V], of_directory[TINY_V];
    char ids[1024], out[IO_PATH_MAX + 512];
    Model m;
    const char *path = tiny_gguf("q.gguf", (Otherwise){.quantized = 1, .tied = 1});
    snprintf(out, sizeof out, "%s", files_path("saved"));
    CHECK_OK(model_load(&m, path, 0, NULL, &err), &err);
    CHECK(m.config.tied && m.layers[0].linear[TARGET_DOWN].w.format == format_named("Q8_0"));
    CHECK_OK(model_save(&m, NULL, out, NULL, &err), &err);
    model_close(&m);
    logits_of(path, of_file);
    logits_of(out, of_directory);
    CHECK(!memcmp(of_file, of_directory, sizeof of_file));
    snprintf(ids, sizeof ids, "%s", ids_of(out, "the sky</s>"));
    CHECK_TEXT(ids_of(path, "the sky</s>"), ids);
}

static void put_template(GgufMaker *m)
{
    gguf_put_string(m, "tokenizer.chat_template", "{{ messages }}\n\"");
    gguf_put_u32(m, "tokenizer.ggml.eot_token_id", 7);
}

static void tokenizer_of_a_file(void)
{
    size_t len;
    char hash[65], other[65];
    const char *path = tiny_gguf("t.gguf", (Otherwise){.added = put_template});
    Tokenizer *t = tokenizer_load(path, NULL, &err);
    CHECK(t && tokenizer_bos(t) == TINY_BOS && tokenizer_eos(t) == TINY_EOS);
    CHECK(t && tokenizer_chat_template(t, "default", &len) && len == 16);
    CHECK_TEXT(tokenizer_chat_template(t, "default", &len), "{{ messages }}\n\"");
    tokenizer_free(t);
    Model m;
    CHECK_OK(model_load(&m, path, MODEL_CONFIG_ONLY, NULL, &err), &err);
    CHECK(m.config.n_eos == 2 && m.config.eos[1] == 7);
    model_close(&m);
    CHECK_OK(tokenizer_hash(path, hash, &err), &err);
    CHECK_OK(tokenizer_hash(tiny_gguf("t.gguf", (Otherwise){.quantized = 1}), other, &err), &err);
    CHECK(strcmp(hash, other)); /* the template counts */
}

/* Two unused pieces behind the tokens. */
static void put_padded_tokens(GgufMaker *m)
{
    static const char *const extra[] = {"[PAD266]", "[PAD267]"};
    Tokenizer *t = tokenizer_load(tiny_model("tiny"), NULL, &err);
    gguf_put_array(m, "tokenizer.ggml.tokens", GGUF_STRING, TINY_V + 2);
    for (int32_t i = 0; i < TINY_V + 2; i++) {
        size_t len = 8;
        const char *piece = i < TINY_V ? tokenizer_piece(t, i, &len) : extra[i - TINY_V];
        gguf_put_text(&m->values, piece, len);
    }
    gguf_put_array(m, "tokenizer.ggml.token_type", GGUF_I32, TINY_V + 2);
    for (int32_t i = 0; i < TINY_V + 2; i++)
        gguf_put(&m->values, i >= TINY_V ? 5 : tokenizer_is_special(t, i) ? 3 : 1, 4);
    tokenizer_free(t);
}

static void put_padding_named(GgufMaker *m)
{
    put_padded_tokens(m);
    gguf_put_u32(m, "tokenizer.ggml.padding_token_id", TINY_V);
}

/* Rows behind the last token are no tokens, unless the file calls one by its id. */
static void padding_of_a_file(void)
{
    const Otherwise o = {.left_out = "tokenizer.ggml.token*", .added = put_padded_tokens};
    Tokenizer *t = tokenizer_load(tiny_gguf("p.gguf", o), NULL, &err);
    CHECK(t && tokenizer_size(t) == TINY_V);
    tokenizer_free(t);
    t = tokenizer_load(
        tiny_gguf("p.gguf", (Otherwise){.left_out = o.left_out, .added = put_padding_named}), NULL,
        &err);
    CHECK(t && tokenizer_size(t) == TINY_V + 1);
    tokenizer_free(t);
}

/* A name's expressions come before its digits; composed first where the name says it. The ids are
 * those of the tokenizers library (tools/check_gguf_words.py). */
static void put_pre_seed(GgufMaker *m)
{
    gguf_put_string(m, "tokenizer.ggml.pre", "seed-coder");
}

static void put_pre_qwen(GgufMaker *m)
{
    gguf_put_string(m, "tokenizer.ggml.pre", "qwen2");
}

static void words_by_name(void)
{
    const char *left_out = "tokenizer.ggml.pre";
    const char *path =
        tiny_gguf("w.gguf", (Otherwise){.left_out = left_out, .added = put_pre_seed});
    CHECK_TEXT(ids_of(path, "the the"), "264 259 260");
    CHECK_TEXT(ids_of(path, "e\xcc\x81"), "264 101 204 129");
    path = tiny_gguf("w.gguf", (Otherwise){.left_out = left_out, .added = put_pre_qwen});
    CHECK_TEXT(ids_of(path, "e\xcc\x81"), "264 195 169"); /* U+00E9 */
}

/* As tests/test_sentencepiece.c has the ids of the same pieces. */
static void sentencepiece_in_a_file(void)
{
    const char *path = tiny_gguf("s.gguf", (Otherwise){.sentencepiece = 1});
    CHECK_TEXT(ids_of(path, "aab"), "1 259 260 263");
    CHECK_TEXT(ids_of(path, " ab"), "1 259 264");
    CHECK_TEXT(ids_of(path, "a  b"), "1 259 260 262 261");
    CHECK_TEXT(ids_of(path, "\xc3\xa9"), "1 259 198 172");
    CHECK_TEXT(ids_of(path, "<s>"), "1 259 63 118 65");
}

static void put_factors(GgufMaker *m, float last)
{
    const float x[2] = {1, last};
    gguf_put_tensor(m, "rope_freqs.weight", 0, 2, 0, x, sizeof x);
}

static void put_rope_ones(GgufMaker *m)
{
    put_factors(m, 1);
}

/* Theta 10000, heads of 4: the second wave is 628 long, so it stays. 9 is nobody's. */
static void put_rope_other(GgufMaker *m)
{
    put_factors(m, 9);
}

static void put_rope_long(GgufMaker *m)
{
    const float x[4] = {1, 1, 1, 1};
    gguf_put_tensor(m, "rope_freqs.weight", 0, 4, 0, x, sizeof x);
}

static void put_linear(GgufMaker *m)
{
    gguf_put_string(m, "llama.rope.scaling.type", "linear");
    gguf_put_f32(m, "llama.rope.scaling.factor", 4);
}

static void put_yarn(GgufMaker *m)
{
    gguf_put_string(m, "llama.rope.scaling.type", "yarn");
    gguf_put_f32(m, "llama.rope.scaling.factor", 4);
    gguf_put_u32(m, "llama.rope.scaling.original_context_length", 64);
    gguf_put_f32(m, "llama.rope.scaling.yarn_beta_fast", 24.1f);
    gguf_put_f32(m, "llama.rope.scaling.yarn_ext_factor", 1);
}

static void put_yarn_scale(GgufMaker *m)
{
    put_yarn(m);
    gguf_put_f32(m, "llama.rope.scaling.yarn_attn_factor", 1.25f);
}

static void put_yarn_multiplier(GgufMaker *m)
{
    put_yarn(m);
    gguf_put_f32(m, "llama.rope.scaling.yarn_log_multiplier", 0.1f);
}

static void put_longrope(GgufMaker *m)
{
    gguf_put_string(m, "llama.rope.scaling.type", "longrope");
}

static void rope_of_files(void)
{
    Model m;
    CHECK_OK(
        model_load(&m, tiny_gguf("r.gguf", (Otherwise){.added = put_rope_ones}), 0, NULL, &err),
        &err);
    CHECK_TEXT(m.config.rope.type, "default");
    model_close(&m);
    CHECK_OK(model_load(&m, tiny_gguf("r.gguf", (Otherwise){.added = put_linear}), 0, NULL, &err),
             &err);
    CHECK_TEXT(m.config.rope.type, "linear");
    CHECK(m.config.rope.factor == 4);
    model_close(&m);
    CHECK_OK(model_load(&m, tiny_gguf("r.gguf", (Otherwise){.added = put_yarn}), 0, NULL, &err),
             &err);
    CHECK_TEXT(m.config.rope.type, "yarn");
    CHECK(m.config.rope.factor == 4 && m.config.rope.original_max_positions == 64);
    CHECK(m.config.rope.beta_fast == 24.1 && m.config.rope.beta_slow == 1); /* as was written */
    CHECK_NEAR(m.config.rope.attention_factor, 1.138629436, 1e-9);          /* 0.1 ln 4 + 1 */
    model_close(&m);
    CHECK_OK(
        model_load(&m, tiny_gguf("r.gguf", (Otherwise){.added = put_yarn_scale}), 0, NULL, &err),
        &err);
    CHECK(m.config.rope.attention_factor == 1.25);
    model_close(&m);
}

/* ---- other architectures ------------------------------------------------------------------- */

static const float zeros[TINY_H];

static void put_zero_biases(GgufMaker *m)
{
    char name[80];
    for (int l = 0; l < TINY_LAYERS; l++)
        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "blk.%d.attn_%c.bias", l, "qkv"[i]);
            size_t n = i ? TINY_KV : TINY_H;
            gguf_put_tensor(m, name, 0, n, 0, zeros, n * sizeof *zeros);
        }
}

static void put_head_norms(GgufMaker *m)
{
    const float x[4] = {1, 0.5f, 2, 1};
    char name[80];
    for (int l = 0; l < TINY_LAYERS; l++)
        for (int i = 0; i < 2; i++) {
            snprintf(name, sizeof name, "blk.%d.attn_%c_norm.weight", l, "qk"[i]);
            gguf_put_tensor(m, name, 0, 4, 0, x, sizeof x);
        }
}

static Model family_of(const Otherwise o)
{
    Model m;
    CHECK_OK(model_load(&m, tiny_gguf("a.gguf", o), 0, NULL, &err), &err);
    return m;
}

/* Biases of zero, and two layers that both have positions, change nothing: the logits are those of
 * the Llama model with the same weights. */
static void same_under_another_name(void)
{
    static const Otherwise others[] = {{.architecture = "qwen2", .added = put_zero_biases},
                                       {.architecture = "smollm3"}};
    real of_llama[TINY_V], of_other[TINY_V];
    logits_of(tiny_model("tiny"), of_llama);
    for (size_t i = 0; i < 2; i++) {
        Model m = family_of(others[i]);
        CHECK_TEXT(m.config.family, others[i].architecture);
        CHECK_INT(m.layers[0].linear[TARGET_K].w.paired, i * 4);
        CHECK(m.config.qkv_bias == !i && !m.config.no_rope[1]);
        model_close(&m);
        logits_of(files_path("a.gguf"), of_other);
        CHECK(!memcmp(of_llama, of_other, sizeof of_llama));
    }
}

static void norms_and_biases_of_qwen3(void)
{
    Model m = family_of((Otherwise){.architecture = "qwen3", .added = put_head_norms});
    CHECK(m.config.head_norms && !m.config.qkv_bias);
    CHECK(m.layers[1].norm_k.w.cols == 4 && !m.layers[0].linear[TARGET_Q].w.paired);
    model_close(&m);
    CHECK_FAILS(model_load(&m,
                           tiny_gguf("a.gguf", (Otherwise){.architecture = "qwen3",
                                                           .left_out = "blk.0.attn_q.weight",
                                                           .added = put_zero_biases}),
                           0, NULL, &err),
                &err, ERR_DATA);
    CHECK_HAS(err.text, "tensor blk.0.attn_q.weight is missing");
    CHECK_FAILS(
        model_load(&m, tiny_gguf("a.gguf", (Otherwise){.architecture = "qwen3"}), 0, NULL, &err),
        &err, ERR_DATA);
    CHECK_HAS(err.text, "attn_q_norm.weight is missing");
}

static void put_window(GgufMaker *m)
{
    put_zero_biases(m);
    gguf_put_u32(m, "qwen2.attention.sliding_window", 64);
}

static void put_whole_window(GgufMaker *m)
{
    put_zero_biases(m);
    gguf_put_u32(m, "qwen2.attention.sliding_window", 256);
}

static void put_phi(GgufMaker *m)
{
    gguf_put_string(m, "general.architecture", "phi3");
}

static void put_experts(GgufMaker *m)
{
    gguf_put_u32(m, "llama.expert_count", 8);
}

static void put_no_heads(GgufMaker *m)
{
    gguf_put_u32(m, "llama.attention.head_count", 0);
}

static void put_many_heads(GgufMaker *m)
{
    gguf_put_u32(m, "llama.attention.head_count", UINT32_MAX);
}

static void put_layers_differ(GgufMaker *m)
{
    gguf_put_array(m, "llama.attention.head_count_kv", GGUF_U32, 2);
    gguf_put(&m->values, 2, 4), gguf_put(&m->values, 1, 4);
}

static void put_bias(GgufMaker *m)
{
    put_rope_ones(m);
    const float x[16] = {0};
    gguf_put_tensor(m, "blk.0.attn_q.bias", 0, 16, 0, x, sizeof x);
}

static void put_iq2(GgufMaker *m)
{
    static const unsigned char block[66];
    gguf_put_tensor(m, "output_norm.weight", 0, 256, 16, block, sizeof block);
}

static void put_small_norm(GgufMaker *m)
{
    const float x[8] = {0};
    gguf_put_tensor(m, "output_norm.weight", 0, 8, 0, x, sizeof x);
}

static void put_part_rotated(GgufMaker *m)
{
    gguf_put_u32(m, "llama.rope.dimension_count", 2);
}

static void put_bad_bos(GgufMaker *m)
{
    gguf_put_u32(m, "tokenizer.ggml.bos_token_id", TINY_V);
}

/* One that holds the whole context is none. */
static void window_of_all(void)
{
    Model m = family_of((Otherwise){.architecture = "qwen2", .added = put_whole_window});
    CHECK_INT(m.config.window, 0);
    model_close(&m);
}

static void refused_models(void)
{
    static const struct {
        Otherwise o;
        const char *part;
    } bad[] = {
        {{"general.architecture", put_phi, 0, 0, 0, NULL}, "general.architecture is \"phi3\""},
        {{NULL, put_window, 0, 0, 0, "qwen2"}, "qwen2.attention.sliding_window is 64"},
        {{NULL, put_bias, 0, 0, 0, "smollm3"}, "blk.0.attn_q.bias: a bias there"},
        {{NULL, put_experts, 0, 0, 0, NULL}, "mixtures of experts are not supported"},
        {{"llama.block_count", NULL, 0, 0, 0, NULL}, "llama.block_count is missing"},
        {{"llama.attention.head_count", put_no_heads, 0, 0, 0, NULL}, "head_count is 0"},
        {{"llama.attention.head_count", put_many_heads, 0, 0, 0, NULL},
         "head_count is 4294967295; allowed"},
        {{"llama.attention.head_count_kv", put_layers_differ, 0, 0, 0, NULL},
         "differs between layers"},
        {{"token_embd.weight", NULL, 0, 0, 0, NULL}, "tensor token_embd.weight is missing"},
        {{"blk.1.ffn_up.weight", NULL, 0, 0, 0, NULL}, "tensor blk.1.ffn_up.weight is missing"},
        {{NULL, put_bias, 0, 0, 0, NULL}, "blk.0.attn_q.bias: a bias there is not supported"},
        {{"output_norm.weight", put_iq2, 0, 0, 0, NULL}, "expected [1,16], found 256"},
        {{"output_norm.weight", put_small_norm, 0, 0, 0, NULL}, "expected [1,16], found 8 numbers"},
        {{NULL, put_rope_other, 0, 0, 0, NULL}, "other scalings are not supported"},
        {{NULL, put_rope_long, 0, 0, 0, NULL}, "has 4 numbers, expected 2"},
        {{NULL, put_longrope, 0, 0, 0, NULL}, "is \"longrope\"; supported: none, linear, yarn"},
        {{NULL, put_yarn_multiplier, 0, 0, 0, NULL}, "yarn_log_multiplier is 0.1; supported: 0"},
        {{NULL, put_part_rotated, 0, 0, 0, NULL}, "rotating a part of a head is not supported"},
        {{"tokenizer.ggml.bos_token_id", put_bad_bos, 0, 0, 0, NULL}, "bos_token_id"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Model m;
        CHECK_FAILS(model_load(&m, tiny_gguf("b.gguf", bad[i].o), 0, NULL, &err), &err, ERR_DATA);
        CHECK_HAS(err.text, bad[i].part);
        CHECK_HAS(err.text, "b.gguf");
    }
}

static void put_pre_unknown(GgufMaker *m)
{
    gguf_put_string(m, "tokenizer.ggml.pre", "default");
}

static void put_token_type_7(GgufMaker *m)
{
    gguf_put_array(m, "tokenizer.ggml.token_type", GGUF_I32, TINY_V);
    for (int i = 0; i < TINY_V; i++) gguf_put(&m->values, 7, 4);
}

static void put_few_types(GgufMaker *m)
{
    gguf_put_array(m, "tokenizer.ggml.token_type", GGUF_I32, 1), gguf_put(&m->values, 1, 4);
}

static void put_numbers_as_tokens(GgufMaker *m)
{
    gguf_put_array(m, "tokenizer.ggml.tokens", GGUF_U8, 1), gguf_put(&m->values, 1, 1);
}

static void put_no_tokens(GgufMaker *m)
{
    gguf_put_array(m, "tokenizer.ggml.tokens", GGUF_STRING, 0);
}

static void put_tokens_not_text(GgufMaker *m)
{
    gguf_put_array(m, "tokenizer.ggml.tokens", GGUF_STRING, TINY_V);
    for (int i = 0; i < TINY_V; i++) gguf_put_text(&m->values, "\xff", 1);
}

static void put_odd_merge(GgufMaker *m)
{
    gguf_put_array(m, "tokenizer.ggml.merges", GGUF_STRING, 1);
    gguf_put_text(&m->values, "sk zz", 5);
}

static void refused_tokenizers(void)
{
    static const struct {
        Otherwise o;
        const char *part;
    } bad[] = {
        {{"tokenizer.ggml.pre", NULL, 0, 0, 0, NULL}, "tokenizer.ggml.pre is missing"},
        {{"tokenizer.ggml.pre", put_pre_unknown, 0, 0, 0, NULL},
         "is \"default\", which is not known"},
        {{"tokenizer.ggml.merges", NULL, 0, 0, 0, NULL},
         "tokenizer.ggml.merges must be a list of texts"},
        {{"tokenizer.ggml.merges", put_odd_merge, 0, 0, 0, NULL}, "needs the token \"zz\""},
        {{"tokenizer.ggml.tokens", NULL, 0, 0, 0, NULL},
         "tokenizer.ggml.tokens must be a list of texts"},
        {{"tokenizer.ggml.tokens", put_numbers_as_tokens, 0, 0, 0, NULL},
         "must be a list of texts"},
        {{"tokenizer.ggml.tokens", put_no_tokens, 0, 0, 0, NULL}, "is empty"},
        {{"tokenizer.ggml.tokens", put_tokens_not_text, 0, 0, 0, NULL}, "token 0 is not UTF-8"},
        {{"tokenizer.ggml.token_type", put_token_type_7, 0, 0, 0, NULL}, "token 0 has type 7"},
        {{"tokenizer.ggml.token_type", put_few_types, 0, 0, 0, NULL},
         "must be a list of 266 numbers"},
        {{"tokenizer.ggml.bos_token_id", put_bad_bos, 0, 0, 0, NULL}, "an id from 0 to 265"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(!tokenizer_load(tiny_gguf("b.gguf", bad[i].o), NULL, &err));
        CHECK_INT(err.code, ERR_DATA);
        CHECK_HAS(err.text, bad[i].part);
        CHECK_HAS(err.text, "b.gguf");
    }
}

/* ---- what a user names --------------------------------------------------------------------- */

static void refused_path(const char *given, int code, const char *part)
{
    char path[IO_PATH_MAX];
    CHECK_FAILS(io_model_path(path, given, &err), &err, code);
    CHECK_HAS(err.text, part);
    CHECK_HAS(err.text, given);
}

static void make_folder(const char *name)
{
    CHECK_OK(io_make_directory(files_path(name), 0, &err), &err);
}

static void names_of_models(void)
{
    char path[IO_PATH_MAX];
    CHECK_OK(io_model_path(path, tiny_model("dir"), &err), &err);
    CHECK_TEXT(path, files_path("dir"));
    CHECK_OK(io_model_path(path, "no-such-folder", &err), &err); /* its reader says more */
    refused_path("org/Model-1.5B_x", ERR_NO_INPUT, "download it first (hf download org/");
    CHECK_OK(io_model_path(path, "./org/Model", &err), &err);
    CHECK_OK(io_model_path(path, "a/b/c", &err), &err);
    files_write("sha256-0a1b", "GGUF\3\0\0\0", 8); /* as Ollama names its files */
    CHECK_OK(io_model_path(path, files_path("sha256-0a1b"), &err), &err);
    files_write("notes.txt", "GGML", 4);
    refused_path(files_path("notes.txt"), ERR_DATA, "is neither a GGUF file nor a directory");
}

static void folder_of_gguf_files(void)
{
    make_folder("only");
    files_write("only/b-Q4.gguf", "GGUF", 4);
    refused_path(files_path("only"), ERR_DATA,
                 "a folder with a GGUF file (b-Q4.gguf); name the file");
    files_write("only/a-00001-of-00002.gguf", "GGUF", 4);
    files_write("only/a-00002-of-00002.gguf", "GGUF", 4);
    refused_path(files_path("only"), ERR_DATA, "(a-00001-of-00002.gguf, b-Q4.gguf); name the file");
    CHECK_HAS(err.text, "only/a-00001-of-00002.gguf");
}

static void folder_of_a_hub_cache(void)
{
    static const char *const folders[] = {"models--o--n", "models--o--n/snapshots",
                                          "models--o--n/snapshots/0af1", "models--o--n/refs"};
    char path[IO_PATH_MAX];
    for (size_t i = 0; i < 4; i++) make_folder(folders[i]);
    files_write("models--o--n/snapshots/0af1/config.json", "{}", 2);
    CHECK_OK(io_model_path(path, files_path("models--o--n"), &err), &err);
    CHECK_TEXT(path, files_path("models--o--n/snapshots/0af1"));
    make_folder("models--o--n/snapshots/0af2");
    refused_path(files_path("models--o--n"), ERR_DATA,
                 "with 2 snapshots, and none of them is main");
    files_write("models--o--n/refs/main", "0af1\n", 5);
    CHECK_OK(io_model_path(path, files_path("models--o--n"), &err), &err);
    CHECK_TEXT(path, files_path("models--o--n/snapshots/0af1"));
    files_write("models--o--n/refs/main", "0af3", 4);
    refused_path(files_path("models--o--n"), ERR_NO_INPUT, "0af3: is missing");
    files_write("models--o--n/refs/main", "../../x", 7);
    refused_path(files_path("models--o--n"), ERR_DATA, "none of them is main");
}

static const Test tests[] = {
    TEST(blocks_as_the_gguf_package),
    TEST(values_and_tensors),
    TEST(broken_heads),
    TEST(broken_values),
    TEST(broken_tensors),
    TEST(tensors_apart),
    TEST(split_files),
    TEST(cut_anywhere),
    TEST(model_as_its_directory),
    TEST(hash_of_the_file),
    TEST(saved_as_a_directory),
    TEST(tokenizer_of_a_file),
    TEST(padding_of_a_file),
    TEST(words_by_name),
    TEST(same_under_another_name),
    TEST(norms_and_biases_of_qwen3),
    TEST(window_of_all),
    TEST(sentencepiece_in_a_file),
    TEST(rope_of_files),
    TEST(refused_models),
    TEST(refused_tokenizers),
    TEST(names_of_models),
    TEST(folder_of_gguf_files),
    TEST(folder_of_a_hub_cache),
};

FILES_TEST_MAIN(tests)
