/* Model directories: what is read, what is refused and how; same bits alone and in company. */
#include "files.h"
#include "model.h"

#include <math.h>

static char note[2048]; /* all notes of the last load */

static void keep_note(void *ctx, char level, const char *text)
{
    (void)ctx;
    (void)level;
    snprintf(note + strlen(note), sizeof note - strlen(note), "%s\n", text);
}

static const Log notes = {NULL, keep_note};

static int load(const char *dir, int flags, Model *m, Err *e)
{
    note[0] = 0;
    memset(e, 0, sizeof *e);
    return model_load(m, dir, flags, &notes, e);
}

/* A copy of the golden llama with one edit of config.json. */
static void with_config(const char *find, const char *put)
{
    Err e;
    CHECK(!io_make_directory(files_path("m"), 0, &e));
    files_copy(golden_path("llama/model.safetensors"), "m/model.safetensors");
    files_edit(golden_path("llama/config.json"), "m/config.json", find, put);
}

static void refused(const char *find, const char *put, const char *part)
{
    Model m;
    Err e;
    with_config(find, put);
    CHECK(load(files_path("m"), 0, &m, &e) == -1);
    CHECK_ERR(e, ERR_DATA, part);
}

static void accepted(const char *find, const char *put, const char *noted)
{
    Model m;
    Err e;
    with_config(find, put);
    if (load(files_path("m"), 0, &m, &e)) {
        CHECK(0);
        printf("%s\n", e.text);
        return;
    }
    CHECK(strstr(note, noted) != NULL);
    model_close(&m);
}

static void config_refusals(void)
{
    refused("\"model_type\": \"llama\"", "\"model_type\": \"qwen2\"", "llama, mistral");
    refused("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "no multiple");
    refused("\"head_dim\": 8", "\"head_dim\": 7", "even");
    refused("\"head_dim\": 8", "\"head_dim\": 0", "head_dim");
    refused("\"hidden_size\": 16", "\"hidden_size\": 1000000000", "1048576");
    refused("\"hidden_size\": 16", "\"hidden_size\": -16", "hidden_size");
    refused("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0", "num_hidden_layers");
    refused("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 2.5", "2.5");
    refused("\"num_hidden_layers\": 2", "\"num_hidden_layers\": \"2\"", "num_hidden_layers");
    refused("\"vocab_size\": 37", "\"vocab_size\": 40",
            "expected [40,16] by config.json, found [37,16]");
    refused("\"vocab_size\": 37", "\"vocab_size\": 37, \"rope_theta\": 600", "600");
    refused("\"rope_type\": \"llama3\"", "\"rope_type\": \"yarn\"", "yarn");
    refused("\"factor\": 8.0,", "", "factor");
    refused("\"high_freq_factor\": 4.0", "\"high_freq_factor\": 0.5", "high_freq_factor");
    refused("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "gelu");
    refused("\"attention_bias\": false", "\"attention_bias\": true", "attention_bias");
    refused("\"mlp_bias\": false", "\"mlp_bias\": true", "mlp_bias");
    refused("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 0", "rms_norm_eps");
    refused("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": \"1e-5\"", "rms_norm_eps");
    refused("\"eos_token_id\": 2", "\"eos_token_id\": 37", "0 to 36");
    refused("\"eos_token_id\": 2", "\"eos_token_id\": [2, -5]", "-5");
    refused("\"use_cache\": true", "\"quantization_config\": {\"bits\": 4}", "quantized");
    refused("\"use_cache\": true", "\"use_cache\": true, \"use_cache\": true", "use_cache");
    refused("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": 1", "tie_word_embeddings");
}

static void config_twins(void)
{
    accepted("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 2.0", "");
    accepted("\"eos_token_id\": 2", "\"eos_token_id\": [2, 7]", "");
    accepted("\"eos_token_id\": 2", "\"eos_token_id\": null", "");
    accepted("\"use_cache\": true", "\"rope_theta\": 500.0", "");
    accepted("\"rope_theta\": 500.0,", "", "default 10000 is used");
    accepted("\"rms_norm_eps\": 1e-05,", "", "default 1e-06");
    accepted("{\n  \"arch", "\xef\xbb\xbf{\n  \"arch", "");
    accepted("\"rope_parameters\": {", "\"rope_theta\": 500, \"rope_scaling\": {", "");
}

static void config_strict(void)
{
    Model m;
    Err e;
    with_config("\"rope_theta\": 500.0,", "");
    CHECK(load(files_path("m"), MODEL_STRICT, &m, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "rope_theta");
    CHECK(load(files_path("nowhere"), 0, &m, &e) == -1);
    CHECK(e.code == ERR_NO_INPUT);
    files_write("m/config.json", "\xff\xfe{\0}\0", 6);
    CHECK(load(files_path("m"), 0, &m, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "UTF-16");
}

/* Both spellings of a configuration mean the same model. */
static void config_spellings(void)
{
    Model a, b;
    Err e;
    with_config("\"rope_parameters\": {", "\"rope_theta\": 500, \"rope_scaling\": {");
    CHECK(!load(files_path("m"), 0, &a, &e) && !load(golden_path("llama"), 0, &b, &e));
    char one[65], two[65];
    CHECK(!model_hash(&a, one, &e) && !model_hash(&b, two, &e));
    CHECK_TEXT(one, two);
    CHECK(a.config.n_eos == 1 && a.config.eos[0] == 2 && a.config.bos == 1);
    model_close(&a);
    model_close(&b);
    with_config("\"rope_theta\": 500.0", "\"rope_theta\": 501.0");
    CHECK(!load(files_path("m"), 0, &a, &e) && !model_hash(&a, one, &e));
    CHECK(strcmp(one, two) != 0);
    model_close(&a);
}

/* ---- shards ---------------------------------------------------------------------------------- */

/* The golden llama cut into two shards, the tensors of `skip` left out. */
static void write_shards(const char *map_extra, const char *skip)
{
    Safetensors st;
    Err e;
    StOut outs[2][64];
    size_t n[2] = {0, 0};
    Text index = {0};
    CHECK(!io_make_directory(files_path("s"), 0, &e));
    files_copy(golden_path("llama/config.json"), "s/config.json");
    CHECK(!safetensors_open(&st, golden_path("llama/model.safetensors"), 0, &e));
    text_addf(&index, &e, "{\"metadata\":{\"total_size\":%s},\"weight_map\":{%s", "1", map_extra);
    for (size_t i = 0; i < st.count; i++) {
        const StTensor *t = &st.tensors[i];
        size_t shard = i % 2;
        StOut *o = &outs[shard][n[shard]];
        *o = (StOut){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .data = t->data};
        memcpy(o->shape, t->shape, sizeof o->shape);
        if (!skip || strcmp(skip, t->name)) n[shard]++;
        text_addf(&index, &e, "%s\"%s\":\"part-%zu.safetensors\"", i ? "," : "", t->name, shard);
    }
    text_addf(&index, &e, "}}");
    CHECK(!safetensors_write(files_path("s/part-0.safetensors"), outs[0], n[0], NULL, &e));
    CHECK(!safetensors_write(files_path("s/part-1.safetensors"), outs[1], n[1], NULL, &e));
    files_write("s/model.safetensors.index.json", index.data, index.len);
    text_free(&index);
    safetensors_close(&st);
}

static void shards(void)
{
    Model a, b;
    Err e;
    char one[65], two[65];
    write_shards("", NULL);
    CHECK(!load(files_path("s"), 0, &a, &e));
    CHECK(strstr(note, "total_size") != NULL);
    CHECK(!load(golden_path("llama"), MODEL_NO_MMAP, &b, &e));
    CHECK(!model_hash(&a, one, &e) && !model_hash(&b, two, &e));
    CHECK_TEXT(one, two);
    model_close(&a);
    model_close(&b);
}

static void shard_faults(void)
{
    Model m;
    Err e;
    write_shards("\"evil\":\"../../etc/passwd\",", NULL);
    CHECK(load(files_path("s"), 0, &m, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "../../etc/passwd");
    write_shards("\"more\":\"part-2.safetensors\",", NULL);
    CHECK(load(files_path("s"), 0, &m, &e) == -1);
    CHECK_ERR(e, ERR_NO_INPUT, "part-2.safetensors");
    write_shards("", "model.norm.weight");
    CHECK(load(files_path("s"), 0, &m, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "model.norm.weight");
    files_write("s/model.safetensors.index.json", "{}", 2);
    CHECK(load(files_path("s"), 0, &m, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "weight_map");
    CHECK(!unlink(files_path("s/model.safetensors.index.json")));
    CHECK(load(files_path("s"), 0, &m, &e) == -1);
    CHECK_ERR(e, ERR_NO_INPUT, "model.safetensors");
    files_write("s/pytorch_model.bin", "x", 1);
    CHECK(load(files_path("s"), 0, &m, &e) == -1);
    CHECK_ERR(e, ERR_NO_INPUT, "tools/export.py");
}

/* ---- weights --------------------------------------------------------------------------------- */

/* The golden llama with one tensor changed by `change`. */
static void with_tensor(const char *name, void (*change)(StOut *o))
{
    Safetensors st;
    Err e;
    StOut outs[64];
    CHECK(!io_make_directory(files_path("w"), 0, &e));
    files_copy(golden_path("llama/config.json"), "w/config.json");
    CHECK(!safetensors_open(&st, golden_path("llama/model.safetensors"), 0, &e));
    for (size_t i = 0; i < st.count; i++) {
        const StTensor *t = &st.tensors[i];
        outs[i] = (StOut){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .data = t->data};
        memcpy(outs[i].shape, t->shape, sizeof outs[i].shape);
        if (!strcmp(name, t->name)) change(&outs[i]);
    }
    CHECK(!safetensors_write(files_path("w/model.safetensors"), outs, st.count, NULL, &e));
    safetensors_close(&st);
}

static void transpose_shape(StOut *o)
{
    uint64_t rows = o->shape[0];
    o->shape[0] = o->shape[1];
    o->shape[1] = rows;
}

static void rename_tensor(StOut *o)
{
    o->name = "model.something.weight";
}

static void weight_faults(void)
{
    Model m;
    Err e;
    with_tensor("model.layers.1.self_attn.q_proj.weight", transpose_shape);
    CHECK(load(files_path("w"), 0, &m, &e) == -1);
    CHECK_ERR(e, ERR_DATA,
              "model.layers.1.self_attn.q_proj.weight: expected [32,16] by "
              "config.json, found [16,32] F32");
    with_tensor("lm_head.weight", rename_tensor);
    CHECK(load(files_path("w"), 0, &m, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "lm_head.weight is missing");
}

/* NaN passes a plain load (a mapped model is not read in full) and is named by --check-tensors. */
static void nan_weight(void)
{
    Model m;
    Err e;
    size_t len;
    const uint32_t nan_bits = 0x7fc00000;
    with_tensor("none", transpose_shape);
    char *bytes = files_read(files_path("w/model.safetensors"), &len);
    memcpy(bytes + len - sizeof nan_bits, &nan_bits, sizeof nan_bits);
    files_write("w/model.safetensors", bytes, len);
    mem_free(bytes);
    CHECK(!load(files_path("w"), 0, &m, &e));
    model_close(&m);
    CHECK(load(files_path("w"), MODEL_CHECK_TENSORS, &m, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "weight");
}

/* A tied model may store the shared matrix as lm_head.weight only. */
static void name_as_head(StOut *o)
{
    o->name = "lm_head.weight";
}

static void tied_forms(void)
{
    Safetensors st;
    Model a, b;
    Err e;
    StOut outs[64];
    char one[65], two[65];
    CHECK(!io_make_directory(files_path("t"), 0, &e));
    files_copy(golden_path("mistral/config.json"), "t/config.json");
    CHECK(!safetensors_open(&st, golden_path("mistral/model.safetensors"), 0, &e));
    for (size_t i = 0; i < st.count; i++) {
        const StTensor *t = &st.tensors[i];
        outs[i] = (StOut){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .data = t->data};
        memcpy(outs[i].shape, t->shape, sizeof outs[i].shape);
        if (strstr(t->name, "embed_tokens")) name_as_head(&outs[i]);
    }
    CHECK(!safetensors_write(files_path("t/model.safetensors"), outs, st.count, NULL, &e));
    safetensors_close(&st);
    CHECK(!load(files_path("t"), 0, &a, &e) && !load(golden_path("mistral"), 0, &b, &e));
    CHECK(!model_hash(&a, one, &e) && !model_hash(&b, two, &e));
    CHECK_TEXT(one, two);
    model_close(&a);
    model_close(&b);
}

/* ---- same bits ------------------------------------------------------------------------------- */

enum { MOST = 32 };
static Compute compute;
static Tape tape;

/* Log-probs of the sequences given, packed together, prompts (of two tokens) shared or not. */
static size_t score(Model *m, const Lora *lora, int32_t seqs[][MOST], const size_t *lens, size_t n,
                    int shared, real *out)
{
    Packer p = {0};
    Err e;
    int prompt = -1;
    size_t first, count, total = 0;
    packer_begin(&p);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || !shared) CHECK(!packer_add_context(&p, -1, seqs[i], 2, &prompt, &e));
        CHECK(!packer_add_completion(&p, prompt, seqs[i] + 2, lens[i] - 2, &first, &count, &e));
        total += count;
    }
    tape_reset(&tape);
    Var *logp = model_logprob(&tape, m, lora, &p.batch, NULL);
    CHECK(!tape_check(&tape, &e) && logp->rows == total);
    memcpy(out, logp->x, total * sizeof *out);
    packer_free(&p);
    return total;
}

static void same_bits_of(const char *name)
{
    Model m;
    Lora lora;
    LoraShape shape;
    Err e;
    char adapter[64];
    int32_t seqs[3][MOST];
    const size_t lens[3] = {20, 7, 13};
    real together[3 * MOST], apart[3 * MOST], other[3 * MOST];
    CHECK(!compute_open(&compute, "auto", PRECISION_F32, &e));
    CHECK(!tape_open(&tape, &compute, 1 << 22, 1 << 20, &e));
    CHECK(!load(golden_path(name), 0, &m, &e) && !model_reserve_positions(&m, MOST, &e));
    model_lora_shape(&m, &shape);
    snprintf(adapter, sizeof adapter, "%s/adapter", name);
    CHECK(!lora_load(&lora, golden_path(adapter), &shape, 0, &e));
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < MOST; j++)
            seqs[i][j] = j < 2 ? 5 + (int32_t)j : (int32_t)(rng_u64(3, i, j) % 37);
    size_t n = score(&m, &lora, seqs, lens, 3, 1, together), at = 0;
    for (size_t i = 0; i < 3; i++) at += score(&m, &lora, &seqs[i], &lens[i], 1, 0, apart + at);
    CHECK(n == at && !memcmp(together, apart, n * sizeof *apart));
    const int threads[] = {1, 2, 3, 7};
    for (size_t i = 0; i < 4; i++) {
        threads_set(threads[i]); /* scratch is made for the threads that are set */
        tape_close(&tape);
        compute_close(&compute);
        CHECK(!compute_open(&compute, "auto", PRECISION_F32, &e));
        CHECK(!tape_open(&tape, &compute, 1 << 22, 1 << 20, &e));
        score(&m, &lora, seqs, lens, 3, 0, other);
        CHECK(!memcmp(together, other, n * sizeof *other));
    }
    threads_set(0);
    tape_close(&tape);
    compute_close(&compute);
    lora_close(&lora);
    model_close(&m);
}

static void same_bits(void)
{
    same_bits_of("llama");
    same_bits_of("mistral");
}

/* The logits of every row of ids, each the last one of a pass of its own: out [n, V]. */
static void logits_of_passes(Model *m, int32_t *ids, uint32_t n, real *out)
{
    size_t V = m->config.V;
    for (uint32_t last = 0; last < n; last++) {
        Segment s = {0, last + 1, 0, -1, NULL, NULL};
        Batch b = {.T = last + 1, .ids = ids, .n_segments = 1, .segments = &s};
        tape_reset(&tape);
        memcpy(out + last * V, model_logits(&tape, m, NULL, &b, &last, 1)->x, V * sizeof *out);
    }
}

/* A prompt in a cache, then one token at a time: the same logits as all at once. */
static void cached_bits(void)
{
    Model m;
    Err e;
    int32_t ids[MOST];
    enum { LENGTH = 14, PROMPT = 6 };
    real *all = malloc(LENGTH * 37 * sizeof *all);
    CHECK(!compute_open(&compute, "auto", PRECISION_F32, &e));
    CHECK(!tape_open(&tape, &compute, 1 << 22, 1 << 20, &e));
    CHECK(!load(golden_path("mistral"), 0, &m, &e) && !model_reserve_positions(&m, MOST, &e));
    for (size_t j = 0; j < LENGTH; j++) ids[j] = (int32_t)(rng_u64(4, 0, j) % 37);
    logits_of_passes(&m, ids, LENGTH, all);
    KvBlock *prompt = kv_create(&m, PROMPT, NULL, &e);
    Segment s = {0, PROMPT, 0, -1, NULL, prompt};
    Batch b = {.T = PROMPT, .ids = ids, .n_segments = 1, .segments = &s};
    uint32_t row = PROMPT - 1;
    tape_reset(&tape);
    Var *z = model_logits(&tape, &m, NULL, &b, &row, 1);
    CHECK(prompt->len == PROMPT && !memcmp(z->x, all + row * 37, 37 * sizeof *all));
    KvBlock *own = kv_create(&m, LENGTH - PROMPT, prompt, &e);
    for (uint32_t at = PROMPT; at < LENGTH; at++) {
        const uint32_t first = 0;
        Segment one = {0, 1, at, -1, own, own};
        Batch step = {.T = 1, .ids = ids + at, .n_segments = 1, .segments = &one};
        tape_reset(&tape);
        z = model_logits(&tape, &m, NULL, &step, &first, 1);
        CHECK(!memcmp(z->x, all + at * 37, 37 * sizeof *all));
    }
    CHECK(own->len == LENGTH - PROMPT);
    kv_free(own);
    kv_free(prompt);
    tape_close(&tape);
    compute_close(&compute);
    model_close(&m);
    free(all);
}

/* Takes away what comes after the keys and values of the last layer: reading it is fatal. */
static void remove_end(Model *m)
{
    static const Target behind[] = {TARGET_Q, TARGET_O, TARGET_GATE, TARGET_UP, TARGET_DOWN};
    ModelLayer *last = &m->layers[m->config.layers - 1];
    for (size_t i = 0; i < sizeof behind / sizeof *behind; i++)
        last->linear[behind[i]].w.data = NULL;
    last->norm2.w.data = m->norm.w.data = m->head.w.data = NULL;
}

/* Prompts that are only read need no end of the model; and a token that continues rows of its own
 * batch sees what they see in the cache: the same logits as all at once. */
static void filled_bits(void)
{
    Model m;
    Err e;
    int32_t ids[MOST];
    enum { LENGTH = 12, BEFORE = 6, PROMPT = LENGTH - 1 };
    real *all = malloc(LENGTH * 37 * sizeof *all);
    CHECK(!compute_open(&compute, "auto", PRECISION_F32, &e));
    CHECK(!tape_open(&tape, &compute, 1 << 22, 1 << 20, &e));
    CHECK(!load(golden_path("llama"), 0, &m, &e) && !model_reserve_positions(&m, MOST, &e));
    for (size_t j = 0; j < LENGTH; j++) ids[j] = (int32_t)(rng_u64(5, 0, j) % 37);
    logits_of_passes(&m, ids, LENGTH, all);
    KvBlock *prompt = kv_create(&m, PROMPT, NULL, &e);
    Segment first = {0, BEFORE, 0, -1, NULL, prompt};
    Batch b = {.T = BEFORE, .ids = ids, .n_segments = 1, .segments = &first};
    Model half = m;
    ModelLayer *layers = malloc(m.config.layers * sizeof *layers);
    memcpy(layers, m.layers, m.config.layers * sizeof *layers);
    half.layers = layers;
    remove_end(&half);
    tape_reset(&tape);
    Var *z = model_logits(&tape, &half, NULL, &b, NULL, 0);
    CHECK(!tape_check(&tape, &e) && z->rows == 0 && prompt->len == BEFORE);

    KvBlock *own = kv_create(&m, 2, prompt, &e);
    own->pos = PROMPT;
    Segment rest[] = {{0, PROMPT - BEFORE, BEFORE, -1, prompt, prompt},
                      {PROMPT - BEFORE, 1, PROMPT, 0, NULL, own}};
    b = (Batch){.T = LENGTH - BEFORE, .ids = ids + BEFORE, .n_segments = 2, .segments = rest};
    const uint32_t row = PROMPT - BEFORE;
    tape_reset(&tape);
    z = model_logits(&tape, &m, NULL, &b, &row, 1);
    CHECK(prompt->len == PROMPT && own->len == 1);
    CHECK(!memcmp(z->x, all + PROMPT * 37, 37 * sizeof *all));
    kv_free(own);
    kv_free(prompt);
    tape_close(&tape);
    compute_close(&compute);
    model_close(&m);
    free(layers);
    free(all);
}

/* An id outside the vocabulary, a target, a position not reserved: refused before memory is read.
 */
static void outside(void)
{
    Model m;
    Err e = {0};
    int32_t ids[] = {1, 2, 3}, target = 5;
    uint32_t row = 2;
    Segment s = {0, 3, 0, -1, NULL, NULL};
    Batch b = {.T = 3,
               .ids = ids,
               .n_segments = 1,
               .segments = &s,
               .n_scores = 1,
               .score_row = &row,
               .score_target = &target};
    CHECK(!compute_open(&compute, "ref", PRECISION_F32, &e));
    CHECK(!tape_open(&tape, &compute, 1 << 22, 1 << 20, &e));
    CHECK(!load(golden_path("llama"), 0, &m, &e) && !model_reserve_positions(&m, 3, &e));
    model_logprob(&tape, &m, NULL, &b, NULL);
    CHECK(!tape_check(&tape, &e));
    const int32_t wrong[] = {37, -1, INT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        tape_reset(&tape);
        ids[1] = wrong[i];
        model_logprob(&tape, &m, NULL, &b, NULL);
        CHECK(tape_check(&tape, &e) == -1);
        CHECK_ERR(e, ERR_DATA, "vocabulary of 37");
        ids[1] = 2, target = wrong[i];
        tape_reset(&tape);
        model_logprob(&tape, &m, NULL, &b, NULL);
        CHECK(tape_check(&tape, &e) == -1 && e.code == ERR_DATA);
        target = 5;
    }
    s.pos = 1;
    tape_reset(&tape);
    model_logits(&tape, &m, NULL, &b, &row, 1);
    CHECK(tape_check(&tape, &e) == -1);
    CHECK_ERR(e, ERR_INTERNAL, "position 3");
    tape_close(&tape);
    compute_close(&compute);
    model_close(&m);
}

/* ---- merging --------------------------------------------------------------------------------- */

/* Merged weights give the adapter's log-probs; dtype and bytes of untouched tensors stay. */
static void merge(void)
{
    Model m, merged;
    Lora lora;
    LoraShape shape;
    Err e;
    int32_t seq[1][MOST];
    const size_t len = 12;
    real adapted[MOST], folded[MOST];
    CHECK(!compute_open(&compute, "ref", PRECISION_F32, &e));
    CHECK(!tape_open(&tape, &compute, 1 << 22, 1 << 20, &e));
    CHECK(!load(golden_path("llama"), 0, &m, &e) && !model_reserve_positions(&m, MOST, &e));
    model_lora_shape(&m, &shape);
    CHECK(!lora_load(&lora, golden_path("llama/adapter"), &shape, 0, &e));
    CHECK(!model_save(&m, &lora, files_path("merged"), NULL, &e));
    CHECK(!load(files_path("merged"), 0, &merged, &e));
    CHECK(!model_reserve_positions(&merged, MOST, &e));
    for (size_t j = 0; j < MOST; j++) seq[0][j] = (int32_t)(rng_u64(5, 0, j) % 37);
    size_t n = score(&m, &lora, seq, &len, 1, 0, adapted);
    score(&merged, NULL, seq, &len, 1, 0, folded);
    for (size_t i = 0; i < n; i++) CHECK_NEAR(adapted[i], folded[i], 2e-5);
    CHECK(!memcmp(m.embedding.w.data, merged.embedding.w.data, 37 * 16 * sizeof(float)));
    tape_close(&tape);
    compute_close(&compute);
    lora_close(&lora);
    model_close(&m);
    model_close(&merged);
}

const Test tests[] = {{"config_refusals", config_refusals},
                      {"config_twins", config_twins},
                      {"config_strict", config_strict},
                      {"config_spellings", config_spellings},
                      {"shards", shards},
                      {"shard_faults", shard_faults},
                      {"weight_faults", weight_faults},
                      {"nan_weight", nan_weight},
                      {"tied_forms", tied_forms},
                      {"same_bits", same_bits},
                      {"cached_bits", cached_bits},
                      {"filled_bits", filled_bits},
                      {"outside", outside},
                      {"merge", merge}};

int main(int argc, char **argv)
{
    files_begin();
    int status = test_main(tests, sizeof tests / sizeof *tests, argc, argv);
    files_end();
    pool_free(&golden_pool);
    return status;
}
