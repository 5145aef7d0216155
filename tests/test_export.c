/* test_export.c - GGUF files that are written, read again: weights, values, tokenizers, adapters,
 * and what is refused. tools/check_export.py compares them with the gguf package and with
 * llama.cpp. */
#include "base.h"

#include "tiny_gguf.h"
#include "tokenizer_inner.h"

#include <math.h>

/* ---- blocks -------------------------------------------------------------------------------- */

/* The beginning of the SHA-256 of what the gguf package makes of these six blocks: mixed values,
 * zeros, halves (away from zero), a scale that F16 rounds to 0, large ones, a negative largest. */
static void blocks_as_the_gguf_package(void)
{
    const Format *f = format_named("Q8_0");
    real x[6 * 32] = {0};
    unsigned char out[6 * 34];
    char hex[65];
    for (int j = 0; j < 32; j++) {
        x[j] = (real)((j * 37 + j * j * 11 + 5) % 256 - 128) / 64;
        x[2 * 32 + j] = j < 31 ? (real)j - (real)15.5 : 127;
        x[3 * 32 + j] = (real)1e-10 * (real)j;
        x[4 * 32 + j] = 30000 * (real)j;
        x[5 * 32 + j] = (real)-0.37 * (real)j;
        x[5 * 32 + j] += (real)1.5;
    }
    f->pack(out, x, 6);
    sha256_bytes(out, sizeof out, hex);
    hex[32] = 0;
    CHECK_TEXT(hex, "3834c36ad1b500be565bd1b435feb164");
    CHECK_INT(out[2 * 34 + 2], 240); /* -15.5 is -16 */
    CHECK_INT(out[2 * 34 + 2 + 16], 1);
    x[0] = INFINITY; /* what a reader finds is no number, so that it is refused */
    f->pack(out, x, 1);
    f->unpack(x, out, 1);
    CHECK(tensor_find_nonfinite(x, 32) < 32);
    x[0] = (real)1e-44; /* 1 / d is infinite */
    for (int j = 1; j < 32; j++) x[j] = 0;
    f->pack(out, x, 1);
    for (int j = 0; j < 34; j++) CHECK_INT(out[j], 0);
}

/* ---- the container ------------------------------------------------------------------------- */

/* So many bytes of one value. */
static int put_bytes(void *ctx, Writer *w, Err *e)
{
    const char *bytes = ctx;
    return writer_put(w, bytes, strlen(bytes), e);
}

/* Tensors of odd lengths lie at multiples of 32, and values are what they were. */
static void odd_lengths(void)
{
    GgufOut outs[2] = {{"a", &format_f16, 0, 3, put_bytes, "123456"},
                       {"b", &format_f32, 3, 1, put_bytes, "abcdefghijkl"}};
    GgufValues v = {.count = 0};
    Gguf g;
    int yes = 0;
    double x = 0;
    CHECK_OK(gguf_add_bool(&v, "yes", 7, &err), &err);
    CHECK_OK(gguf_add_f32(&v, "x", -2.5f, &err), &err);
    CHECK_OK(gguf_add_array(&v, "odd", GGUF_I32, 1, &err), &err);
    CHECK_OK(gguf_item_i32(&v, -9, &err), &err);
    CHECK_OK(gguf_write(files_path("odd.gguf"), &v, outs, 2, &err), &err);
    CHECK_OK(gguf_open(&g, files_path("odd.gguf"), 1, &err), &err);
    CHECK(gguf_bool(&g, "yes", &yes, &err) == 1 && yes == 1);
    CHECK(gguf_f64(&g, "x", &x, &err) == 1);
    CHECK_NEAR(x, -2.5, 0);
    CHECK(gguf_get(&g, "odd")->is_array);
    CHECK_NEAR(gguf_number(gguf_get(&g, "odd"), 0), -9, 0);
    const GgufTensor *a = gguf_tensor(&g, "a"), *b = gguf_tensor(&g, "b");
    CHECK(a && a->n_dims == 1 && a->bytes == 6 && !memcmp(a->data, "123456", 6));
    CHECK(b && b->n_dims == 2 && b->shape[0] == 3 && !memcmp(b->data, "abcdefghijkl", 12));
    CHECK_INT(b->data - a->data, 32);
    CHECK_INT((a->data - g.parts[0].data) % 32, 0);
    CHECK_INT(g.parts[0].size % 32, 0);
    gguf_close(&g);
    outs[1].ctx = "too short";
    CHECK_FAILS(gguf_write(files_path("short.gguf"), &v, outs, 2, &err), &err, ERR_INTERNAL);
    CHECK_HAS(err.text, "tensor b: 9 bytes made, 12 expected");
    CHECK(!io_exists(files_path("short.gguf")));
    outs[1] = (GgufOut){"b", format_named("Q8_0"), 1, 33, put_bytes, ""};
    CHECK_FAILS(gguf_write(files_path("short.gguf"), &v, outs, 2, &err), &err, ERR_INTERNAL);
    CHECK_HAS(err.text, "rows of 33 numbers are not whole blocks of 32");
    text_free(&v.bytes);
}

/* ---- models -------------------------------------------------------------------------------- */

static char out_path[IO_PATH_MAX + 512];

/* The model of `from`, written as a GGUF file; returns its path. */
static const char *export(const char *from, const Format *format, const char *name)
{
    Model m;
    snprintf(out_path, sizeof out_path, "%s", files_path(name));
    CHECK_OK(model_load(&m, from, 0, NULL, &err), &err);
    CHECK_OK(model_export(&m, NULL, format, out_path, NULL, NULL, &err), &err);
    model_close(&m);
    return out_path;
}

static void same_logits(const char *a, const char *b)
{
    real x[TINY_V], y[TINY_V];
    logits_of(a, x);
    logits_of(b, y);
    for (size_t i = 0; i < TINY_V; i++)
        if (memcmp(&x[i], &y[i], sizeof *x)) CHECK_NEAR((double)x[i], (double)y[i], 0);
    CHECK(x[0] < 0 || x[0] > 0);
}

/* Every number of a directory stands in the file, and every value is the one that it was. */
static void model_there_and_back(void)
{
    Model a, b;
    Gguf g;
    const char *from = tiny_model("tiny"), *file = export(from, NULL, "m.gguf"), *text;
    uint64_t x;
    size_t len;
    same_logits(from, file);
    char ids[1024];
    snprintf(ids, sizeof ids, "%s", ids_of(from, "the sky, there</s> 12 \xc3\xa9"));
    CHECK_TEXT(ids_of(file, "the sky, there</s> 12 \xc3\xa9"), ids);
    CHECK_OK(model_load(&a, from, 0, NULL, &err), &err);
    CHECK_OK(model_load(&b, file, MODEL_STRICT, NULL, &err), &err);
    CHECK_TEXT(a.config.family, b.config.family);
    CHECK(a.config.layers == b.config.layers && a.config.max_positions == b.config.max_positions);
    CHECK(a.config.bos == b.config.bos && b.config.n_eos == 1 && b.config.eos[0] == TINY_EOS);
    CHECK(b.config.norm_eps == a.config.norm_eps && b.config.rope.theta == 10000);
    model_close(&a), model_close(&b);
    CHECK_OK(gguf_open(&g, file, 1, &err), &err);
    CHECK(gguf_u64(&g, "general.file_type", &x, &err) == 1 && x == 0);
    CHECK(gguf_u64(&g, "llama.vocab_size", &x, &err) == 1 && x == TINY_V);
    CHECK(gguf_text(&g, "general.name", &text, &len, &err) == 1 && len == 1 && *text == 'm');
    CHECK(gguf_text(&g, "general.type", &text, &len, &err) == 1 && !memcmp(text, "model", len));
    CHECK(gguf_text(&g, "tokenizer.ggml.pre", &text, &len, &err) == 1 && !memcmp(text, "gpt-2", 5));
    for (size_t i = 0; i < g.n_tensors; i++)
        CHECK_INT((g.tensors[i].data - g.parts[0].data) % 32, 0);
    CHECK_INT(g.parts[0].size % 32, 0);
    gguf_close(&g);
}

/* Rounded weights are those that the format gives; vectors stay F32, rows that are no whole blocks
 * become F16. */
static void model_in_other_formats(void)
{
    static const struct {
        const char *name, *down, *up;
        uint64_t type;
    } formats[] = {{"F32", "F32", "F32", 0},
                   {"F16", "F16", "F16", 1},
                   {"BF16", "BF16", "BF16", 32},
                   {"Q8_0", "Q8_0", "F16", 7}}; /* rows of down have 32 numbers, of the others 16 */
    const char *from = tiny_model("tiny");
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        Model m, r;
        Gguf g;
        uint64_t x;
        real want[TINY_F], got[TINY_F];
        const char *file = export(from, format_named(formats[i].name), "f.gguf");
        CHECK_OK(gguf_open(&g, file, 1, &err), &err);
        CHECK_TEXT(gguf_tensor(&g, "blk.1.ffn_down.weight")->type, formats[i].down);
        CHECK_TEXT(gguf_tensor(&g, "blk.1.ffn_up.weight")->type, formats[i].up);
        CHECK_TEXT(gguf_tensor(&g, "blk.0.attn_norm.weight")->type, "F32");
        CHECK(gguf_u64(&g, "general.file_type", &x, &err) == 1 && x == formats[i].type);
        gguf_close(&g);
        CHECK_OK(model_load(&m, from, 0, NULL, &err), &err);
        CHECK_OK(model_load(&r, file, 0, NULL, &err), &err);
        for (int row = 0; row < TINY_H; row++) {
            const Mat *down = &m.layers[1].linear[TARGET_DOWN].w, *as = &r.layers[1].linear[6].w;
            format_unpack(down->format, want, (const float *)down->data + row * TINY_F, 0, TINY_F);
            format_round(format_named(formats[i].down), want, TINY_F);
            format_unpack(as->format, got,
                          (const unsigned char *)as->data +
                              (size_t)row * format_bytes(as->format, TINY_F),
                          0, TINY_F);
            CHECK(!memcmp(want, got, sizeof want));
        }
        model_close(&m), model_close(&r);
        CHECK_OK(io_remove_tree(file, &err), &err);
    }
}

static void put_template(GgufMaker *m)
{
    gguf_put_string(m, "tokenizer.chat_template", "{{ messages }}");
    gguf_put_string(m, "tokenizer.chat_template.tool_use", "{{ tools }}");
    gguf_put_u32(m, "tokenizer.ggml.eot_token_id", 7);
    gguf_put_string(m, "general.author", "somebody");
    gguf_put_u32(m, "general.file_type", 3);
    gguf_put_u32(m, "general.alignment", 32);
    gguf_put_u32(m, "quantize.imatrix.chunks_count", 9);
    gguf_put_array(m, "some.numbers", GGUF_U16, 3);
    gguf_put(&m->values, 0x000300020001, 6);
}

/* A file's own values are carried over, its weights copied bit by bit; what it says of itself is
 * not. */
static void file_into_file(void)
{
    Gguf a, b;
    const char *from = tiny_gguf("q.gguf", (Otherwise){.quantized = 1, .added = put_template});
    const char *file = export(from, NULL, "copy.gguf");
    same_logits(from, file);
    CHECK_OK(gguf_open(&a, from, 1, &err), &err);
    CHECK_OK(gguf_open(&b, file, 1, &err), &err);
    CHECK_INT(a.n_tensors, b.n_tensors);
    for (size_t i = 0; i < a.n_tensors; i++) {
        CHECK_TEXT(a.tensors[i].name, b.tensors[i].name);
        CHECK_TEXT(a.tensors[i].type, b.tensors[i].type);
        CHECK(a.tensors[i].bytes == b.tensors[i].bytes &&
              !memcmp(a.tensors[i].data, b.tensors[i].data, (size_t)a.tensors[i].bytes));
    }
    for (size_t i = 0; i < a.n_values; i++) {
        const GgufValue *v = &a.values[i], *w = gguf_get(&b, v->key);
        int own = !strcmp(v->key, "general.file_type") || !strcmp(v->key, "general.alignment") ||
                  !strncmp(v->key, "quantize.", 9);
        CHECK((w == NULL) == own);
        if (w) CHECK(w->type == v->type && w->is_array == v->is_array && w->count == v->count);
        if (w) CHECK(!memcmp(v->data, w->data, gguf_value_bytes(v)));
    }
    CHECK_INT(b.n_values, a.n_values - 3 + 1); /* and the version of quantization */
    gguf_close(&a), gguf_close(&b);
}

/* The same pieces with their order of merges: as test_gguf.c has the ids of the file itself. */
static void sentencepiece_there_and_back(void)
{
    Model m;
    char dir[IO_PATH_MAX + 512];
    const char *from = tiny_gguf("s.gguf", (Otherwise){.sentencepiece = 1});
    CHECK_OK(model_load(&m, from, 0, NULL, &err), &err);
    snprintf(dir, sizeof dir, "%s", files_path("s-dir"));
    CHECK_OK(model_save(&m, NULL, dir, NULL, &err), &err);
    model_close(&m);
    const char *file = export(dir, NULL, "s2.gguf");
    CHECK_TEXT(ids_of(file, "aab"), "1 259 260 263");
    CHECK_TEXT(ids_of(file, " ab"), "1 259 264");
    CHECK_TEXT(ids_of(file, "a  b"), "1 259 260 262 261");
    CHECK_TEXT(ids_of(file, "\xc3\xa9"), "1 259 198 172");
    CHECK_TEXT(ids_of(file, "<s>[X]"), ids_of(from, "<s>[X]"));
    Gguf g;
    CHECK_OK(gguf_open(&g, file, 1, &err), &err);
    const GgufValue *types = gguf_get(&g, "tokenizer.ggml.token_type");
    for (uint64_t i = 0; types && i < 7; i++) /* unknown, two of control, then bytes */
        CHECK_NEAR(gguf_number(types, i), i == 0 ? 2 : i < 3 ? 3 : 6, 0);
    int prefix = 0;
    CHECK(gguf_bool(&g, "tokenizer.ggml.add_space_prefix", &prefix, &err) == 1 && prefix);
    gguf_close(&g);
}

/* ---- rotary positions ---------------------------------------------------------------------- */

/* A directory whose config.json says this besides. */
static const char *tiny_with(const char *name, const char *more)
{
    static char config[2048];
    const char *dir = tiny_model(name);
    char path[256];
    snprintf(config, sizeof config,
             "{\"model_type\":\"llama\",\"hidden_size\":16,\"intermediate_size\":32,"
             "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
             "\"vocab_size\":266,\"max_position_embeddings\":256,\"rms_norm_eps\":1e-5,"
             "\"rope_theta\":500000000.0,\"hidden_act\":\"silu\",\"bos_token_id\":264,"
             "\"eos_token_id\":[265,7,9,11]%s}",
             more);
    snprintf(path, sizeof path, "%s/config.json", name);
    files_write(path, config, strlen(config));
    return dir;
}

static void rope_there_and_back(void)
{
    Model m;
    const char *from = tiny_with("l3", ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
                                       "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                                       "\"original_max_position_embeddings\":8192}");
    const char *file = export(from, NULL, "l3.gguf");
    CHECK_OK(model_load(&m, file, MODEL_STRICT, NULL, &err), &err);
    CHECK_TEXT(m.config.rope.type, "llama3");
    CHECK_NEAR(m.config.rope.factor, 8, 0);
    same_logits(from, file);
    CHECK(m.config.n_eos == 3 && m.config.eos[0] == 265 && m.config.eos[2] == 9);
    model_close(&m);
    from = tiny_with("lin", ",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4.0}");
    file = export(from, NULL, "lin.gguf");
    CHECK_OK(model_load(&m, file, MODEL_STRICT, NULL, &err), &err);
    CHECK_TEXT(m.config.rope.type, "linear");
    CHECK_NEAR(m.config.rope.factor, 4, 0);
    model_close(&m);
    same_logits(from, file);
}

/* ---- adapters ------------------------------------------------------------------------------ */

/* A set of rank 2 on these maps with numbers of its own in A and B. */
static void make_adapter(Lora *lora, const Model *m, unsigned targets, int rslora)
{
    LoraShape shape;
    const LoraConfig config = {.rank = 2, .alpha = 3, .targets = targets, .rslora = rslora};
    model_lora_shape(m, &shape);
    CHECK_OK(lora_create(lora, &config, &shape, 1, 0, &err), &err);
    for (size_t i = 0; i < lora->count; i++)
        lora->weights[i] = (real)(float)(2 * rng_unit(11, RNG_SAMPLE, i) - 1);
}

/* Row r of a map's update as a reader of the file computes it: (alpha / r) B A. */
static void update_of_file(const Gguf *g, const char *name, size_t row, double *out, size_t cols)
{
    char half[96];
    double alpha = 0;
    real a[TINY_F], b[8];
    snprintf(half, sizeof half, "%s.lora_a", name);
    const GgufTensor *A = gguf_tensor(g, half);
    snprintf(half, sizeof half, "%s.lora_b", name);
    const GgufTensor *B = gguf_tensor(g, half);
    memset(out, 0, cols * sizeof *out);
    CHECK(A && B && gguf_f64(g, "adapter.lora.alpha", &alpha, &err) == 1);
    if (!A || !B) return;
    size_t rank = (size_t)A->shape[0];
    CHECK(A->shape[1] == cols && B->shape[1] == rank && B->shape[0] > row);
    format_unpack(B->format, b, B->data, row * rank, rank);
    for (size_t r = 0; r < rank; r++) {
        format_unpack(A->format, a, A->data, r * cols, cols);
        for (size_t k = 0; k < cols; k++)
            out[k] += alpha / (double)rank * (double)b[r] * (double)a[k];
    }
}

/* Each row of scale B A, for queries and keys where the file has it: halves of heads interleaved.
 */
static double largest_difference(const Gguf *g, const Model *m, const Lora *lora)
{
    double worst = 0, got[TINY_F];
    for (size_t i = 0; i < model_weight_count(m); i++) {
        Weight w;
        model_weight(m, i, &w);
        const Adapter *a = model_adapter(lora, &w);
        if (!a) continue;
        size_t R = a->a.w.rows, K = w.cols, D = m->config.D;
        const real *A = a->a.w.data, *B = a->b.w.data;
        int paired = w.target == TARGET_Q || w.target == TARGET_K;
        for (size_t n = 0; n < w.rows; n++) {
            size_t in = n % D, row = paired ? n - in + 2 * (in % (D / 2)) + in / (D / 2) : n;
            update_of_file(g, w.gguf, row, got, K);
            for (size_t k = 0; k < K; k++) {
                double want = 0;
                for (size_t r = 0; r < R; r++)
                    want += a->scale * (double)B[n * R + r] * (double)A[r * K + k];
                worst = fmax(worst, fabs(got[k] - want));
            }
        }
    }
    return worst;
}

enum { ALL = (1 << (TARGET_COUNT + 1)) - 1 };

static void adapter_in_a_file(void)
{
    Model m;
    Lora lora;
    Gguf g;
    double alpha = 0;
    const char *text = "";
    size_t len = 0;
    CHECK_OK(model_load(&m, tiny_model("tiny"), 0, NULL, &err), &err);
    for (int kind = 0; kind < 4; kind++) { /* alpha; rsLoRA; alphas that differ; in F16 */
        make_adapter(&lora, &m, ALL, kind == 1);
        if (kind == 2) lora_at(&lora, 1, TARGET_K)->scale *= 5;
        const Format *f = kind == 3 ? &format_f16 : NULL;
        snprintf(out_path, sizeof out_path, "%s", files_path("a.gguf"));
        CHECK_OK(model_export_adapter(&m, &lora, f, out_path, &err), &err);
        CHECK_OK(gguf_open(&g, out_path, 1, &err), &err);
        CHECK_INT(g.n_tensors, lora_param_count(&lora));
        CHECK(gguf_f64(&g, "adapter.lora.alpha", &alpha, &err) == 1);
        CHECK_NEAR(alpha, kind == 1 ? (double)(float)(3 * sqrt(2)) : 3, 0);
        CHECK(gguf_text(&g, "general.type", &text, &len, &err) == 1 && !memcmp(text, "adapter", 7));
        CHECK(gguf_text(&g, "adapter.type", &text, &len, &err) == 1 && !memcmp(text, "lora", 4));
        CHECK_NEAR(largest_difference(&g, &m, &lora), 0, kind == 3 ? 1e-2 : 1e-6);
        /* B is left as it is where alphas are one: to the bit */
        const GgufTensor *b = gguf_tensor(&g, "blk.0.ffn_up.weight.lora_b");
        const Adapter *up = lora_at(&lora, 0, TARGET_UP);
        if (kind < 3) CHECK(b && !memcmp(b->data, up->b.w.data, (size_t)b->bytes));
        gguf_close(&g);
        lora_close(&lora);
        CHECK_OK(io_remove_tree(out_path, &err), &err);
    }
    model_close(&m);
}

/* The merged file is the merged directory, and the report says the same of both. */
static void merged_into_a_file(void)
{
    Model m;
    Lora lora;
    MergeReport a = {0}, b = {0};
    char dir[IO_PATH_MAX + 512];
    CHECK_OK(model_load(&m, tiny_model("tiny"), 0, NULL, &err), &err);
    make_adapter(&lora, &m, ALL, 0);
    snprintf(dir, sizeof dir, "%s", files_path("merged"));
    snprintf(out_path, sizeof out_path, "%s", files_path("merged.gguf"));
    CHECK_OK(model_merge(&m, &lora, NULL, dir, &a, NULL, &err), &err);
    CHECK_OK(model_export(&m, &lora, NULL, out_path, &b, NULL, &err), &err);
    same_logits(dir, out_path);
    CHECK_NEAR(a.weights, b.weights, 0);
    CHECK_NEAR(a.largest, b.largest, 0);
    CHECK_NEAR(a.update2, b.update2, 1e-9 * a.update2); /* summed in the order of the file */
    CHECK_NEAR(a.error2, b.error2, 1e-9 * a.error2);
    CHECK(a.weights > 0 && a.error2 > 0);
    lora_close(&lora);
    model_close(&m);
}

/* ---- refused ------------------------------------------------------------------------------- */

static void refused(const char *from, const Format *f, const char *part)
{
    Model m;
    Pool pool = {0};
    char **names;
    size_t before, after;
    CHECK_OK(model_load(&m, from, 0, NULL, &err), &err);
    CHECK_OK(io_list(files_dir, &pool, &names, &before, &err), &err);
    CHECK_FAILS(model_export(&m, NULL, f, files_path("no.gguf"), NULL, NULL, &err), &err, ERR_DATA);
    CHECK_HAS(err.text, part);
    CHECK_OK(io_list(files_dir, &pool, &names, &after, &err), &err);
    CHECK_INT(before, after); /* no file, no half of one */
    pool_free(&pool);
    model_close(&m);
}

/* The tokenizer of `name` with a piece of its tokenizer.json exchanged. */
static const char *retold(const char *name, const char *was, const char *is)
{
    static char dir[IO_PATH_MAX + 512];
    char path[512];
    size_t len;
    snprintf(dir, sizeof dir, "%s", tiny_model(name));
    snprintf(path, sizeof path, "%s/tokenizer.json", name);
    char *text = files_read(files_path(path), &len), *at = strstr(text, was);
    Text out = {0};
    CHECK(at != NULL);
    if (at) text_addf(&out, &err, "%.*s%s%s", (int)(at - text), text, is, at + strlen(was));
    files_write(path, out.data, out.len);
    text_free(&out);
    mem_free(text);
    return dir;
}

/* A name may say more than how texts are cut: qwen2's composes characters first. */
static void names_of_cuts(void)
{
    CHECK_TEXT(gguf_cut_name(PATTERN_LLAMA3, 0, 1, 0), "llama-bpe");
    CHECK_TEXT(gguf_cut_name(PATTERN_GPT2, 0, 0, 0), "gpt-2");
    CHECK_TEXT(gguf_cut_name(PATTERN_GPT2, 0, 0, 1), "gpt-2");
    CHECK_TEXT(gguf_cut_name(PATTERN_QWEN2, 0, 0, 0), "stablelm2");
    CHECK_TEXT(gguf_cut_name(PATTERN_QWEN2, 0, 0, 1), "qwen2");
    CHECK(!gguf_cut_name(PATTERN_NONE, 0, 0, 0)); /* names of other expressions have no pattern */
}

static void refused_models(void)
{
    refused(tiny_with("yarn", ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0}"), NULL,
            "rotary positions of type yarn: GGUF files are written of");
    const char *cut = "cannot say that its tokenizer cuts texts into words as it does";
    refused(retold("prefixed", "\"add_prefix_space\":false", "\"add_prefix_space\":true"), NULL,
            cut);
    refused(retold("uncut", "\"use_regex\":true", "\"use_regex\":false"), NULL, cut);
    refused(retold("whole", "\"type\":\"BPE\"", "\"type\":\"BPE\",\"ignore_merges\":true"), NULL,
            cut);
    Model m;
    Lora lora;
    CHECK_OK(model_load(&m, tiny_model("tiny"), MODEL_NO_MMAP, NULL, &err), &err);
    make_adapter(&lora, &m, ALL, 0);
    lora.weights[0] = 7e4f;
    CHECK_FAILS(model_export_adapter(&m, &lora, &format_f16, files_path("no.gguf"), &err), &err,
                ERR_DATA);
    CHECK_HAS(err.text, "attn_q.weight.lora_a: number 0 of the result is too large for F16");
    CHECK(!io_exists(files_path("no.gguf")));
    m.config.tied = 1; /* the head is the embedding */
    CHECK_FAILS(model_export_adapter(&m, &lora, NULL, files_path("no.gguf"), &err), &err, ERR_DATA);
    CHECK_HAS(err.text, "the adapter changes lm_head");
    lora_close(&lora);
    m.config.tied = 0;
    ((float *)(uintptr_t)m.embedding.w.data)[3] = 65520;
    CHECK_FAILS(model_export(&m, NULL, &format_f16, files_path("no.gguf"), NULL, NULL, &err), &err,
                ERR_DATA);
    CHECK_HAS(err.text, "embed_tokens.weight: number 3 of the result is too large for F16");
    CHECK(!io_exists(files_path("no.gguf")));
    model_close(&m);
}

static const Test tests[] = {
    TEST(blocks_as_the_gguf_package),
    TEST(odd_lengths),
    TEST(model_there_and_back),
    TEST(model_in_other_formats),
    TEST(file_into_file),
    TEST(sentencepiece_there_and_back),
    TEST(rope_there_and_back),
    TEST(adapter_in_a_file),
    TEST(merged_into_a_file),
    TEST(names_of_cuts),
    TEST(refused_models),
};

FILES_TEST_MAIN(tests)
