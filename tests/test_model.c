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
    CHECK_OK(io_make_directory(files_path("m"), 0, &e), &e);
    files_copy(golden_path("llama/model.safetensors"), "m/model.safetensors");
    files_edit(golden_path("llama/config.json"), "m/config.json", find, put);
}

static void refused(const char *find, const char *put, const char *part)
{
    Model m;
    Err e;
    with_config(find, put);
    CHECK_INT(load(files_path("m"), 0, &m, &e), -1);
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
    CHECK_HAS(note, noted);
    model_close(&m);
}

static void config_refusals(void)
{
    refused("\"model_type\": \"llama\"", "\"model_type\": \"phi3\"",
            "llama, mistral, qwen2, qwen3, smollm3");
    refused("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "not a multiple");
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
    refused("\"rope_type\": \"llama3\"", "\"rope_type\": \"longrope\"", "llama3, yarn, dynamic");
    refused("\"factor\": 8.0,", "", "factor");
    refused("\"high_freq_factor\": 4.0", "\"high_freq_factor\": 0.5", "high_freq_factor");
    refused("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "gelu");
    refused("\"attention_bias\": false", "\"attention_bias\": true",
            "tensor model.layers.0.self_attn.q_proj.bias is missing");
    refused("\"mlp_bias\": false", "\"mlp_bias\": true", "mlp.gate_proj.bias is missing");
    refused("\"mlp_bias\": false", "\"mlp_bias\": 1", "\"mlp_bias\" must be true or false");
    refused("\"model_type\": \"llama\"",
            "\"model_type\": \"qwen2\", \"use_sliding_window\": true, "
            "\"max_window_layers\": 1",
            "use_sliding_window");
    refused("\"model_type\": \"llama\"", "\"model_type\": \"smollm3\", \"no_rope_layers\": [1]",
            "a list of 2 numbers");
    refused("\"model_type\": \"llama\"", "\"model_type\": \"smollm3\", \"no_rope_layers\": [1, 2]",
            "0 or 1");
    refused("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 0", "rms_norm_eps");
    refused("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": \"1e-5\"", "rms_norm_eps");
    refused("\"eos_token_id\": 2", "\"eos_token_id\": 37", "0 to 36");
    refused("\"eos_token_id\": 2", "\"eos_token_id\": [2, -5]", "-5");
    refused("\"use_cache\": true", "\"quantization_config\": {\"bits\": 4}", "quantized");
    refused("\"use_cache\": true", "\"quantization_config\": {\"quant_method\": \"gptq\"}",
            "quantized weights (gptq) are not read");
    refused("\"use_cache\": true", "\"quantization\": {\"group_size\": 64}",
            "\"quantization\" is set: quantized weights (MLX)");
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

/* The configuration alone, with one edit. */
static ModelConfig configured(const char *find, const char *put)
{
    Model m;
    Err e;
    with_config(find, put);
    CHECK_OK(load(files_path("m"), MODEL_CONFIG_ONLY, &m, &e), &e);
    ModelConfig c = m.config;
    model_close(&m);
    return c;
}

/* What a family has that its config.json does not say. */
static void families(void)
{
    ModelConfig c = configured("\"model_type\": \"llama\"", "\"model_type\": \"qwen2\"");
    CHECK(c.qkv_bias && !c.o_bias && !c.mlp_bias && !c.head_norms && !c.window);
    c = configured("\"model_type\": \"llama\"", "\"model_type\": \"qwen3\"");
    CHECK(!c.qkv_bias && c.head_norms);
    c = configured("\"model_type\": \"llama\"",
                   "\"model_type\": \"smollm3\", \"no_rope_layers\": [1, 0]");
    CHECK(!c.no_rope[0] && c.no_rope[1]);
    c = configured("\"model_type\": \"llama\"",
                   "\"model_type\": \"smollm3\", \"no_rope_layer_interval\": 1");
    CHECK(c.no_rope[0] && c.no_rope[1]);
    c = configured("\"attention_bias\": false", "\"attention_bias\": true");
    CHECK(c.qkv_bias && c.o_bias && !c.mlp_bias);
}

/* Frequencies and the factor of cosines as transformers 5.23 computes them, theta 500, D 8. */
static void yarn(void)
{
    static const struct {
        const char *more;
        double inverse[4], factor;
    } cases[] = {
        {"\"original_max_position_embeddings\": 32",
         {1, 0.11895425617694855, 0.005590170156210661, 0.0011821769876405597},
         1.2079441541679836},
        {"\"original_max_position_embeddings\": 32, \"beta_fast\": 2, \"beta_slow\": 0.5, "
         "\"truncate\": false",
         {1, 0.1288592517375946, 0.005590170156210661, 0.0011821769876405597},
         1.2079441541679836},
        {"\"original_max_position_embeddings\": 32, \"attention_factor\": 1.5",
         {1, 0.11895425617694855, 0.005590170156210661, 0.0011821769876405597},
         1.5},
        {"\"original_max_position_embeddings\": 256, \"mscale\": 1, \"mscale_all_dim\": 0.5",
         {1, 0.14979425072669983, 0.018633900210261345, 0.0011821769876405597},
         1.094179988101349}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char put[400];
        Model m;
        Err e;
        snprintf(
            put, sizeof put,
            "\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 500, \"factor\": 8, "
            "%s}, \"unread\": {",
            cases[k].more);
        with_config("\"rope_parameters\": {", put);
        CHECK_OK(load(files_path("m"), 0, &m, &e), &e);
        CHECK_OK(model_reserve_positions(&m, 2, &e), &e);
        for (size_t i = 0; i < 4; i++) {
            CHECK_NEAR((double)m.rope_cos[4 + i], cases[k].factor * cos(cases[k].inverse[i]), 2e-7);
            CHECK_NEAR((double)m.rope_sin[4 + i], cases[k].factor * sin(cases[k].inverse[i]), 2e-7);
        }
        model_close(&m);
    }
}

static void config_strict(void)
{
    Model m;
    Err e;
    with_config("\"rope_theta\": 500.0,", "");
    CHECK_INT(load(files_path("m"), MODEL_STRICT, &m, &e), -1);
    CHECK_ERR(e, ERR_DATA, "rope_theta");
    CHECK_INT(load(files_path("nowhere"), 0, &m, &e), -1);
    CHECK_INT(e.code, ERR_NO_INPUT);
    files_write("m/config.json", "\xff\xfe{\0}\0", 6);
    CHECK_INT(load(files_path("m"), 0, &m, &e), -1);
    CHECK_ERR(e, ERR_DATA, "UTF-16");
}

/* Both spellings of a configuration mean the same model. */
static void config_spellings(void)
{
    Model a, b;
    Err e;
    with_config("\"rope_parameters\": {", "\"rope_theta\": 500, \"rope_scaling\": {");
    CHECK_OK(load(files_path("m"), 0, &a, &e), &e);
    CHECK_OK(load(golden_path("llama"), 0, &b, &e), &e);
    char one[65], two[65];
    CHECK_OK(model_hash(&a, one, &e), &e);
    CHECK_OK(model_hash(&b, two, &e), &e);
    CHECK_TEXT(one, two);
    CHECK_INT(a.config.n_eos, 1);
    CHECK_INT(a.config.eos[0], 2);
    CHECK_INT(a.config.bos, 1);
    model_close(&a);
    model_close(&b);
    with_config("\"rope_theta\": 500.0", "\"rope_theta\": 501.0");
    CHECK_OK(load(files_path("m"), 0, &a, &e), &e);
    CHECK_OK(model_hash(&a, one, &e), &e);
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
    CHECK_OK(io_make_directory(files_path("s"), 0, &e), &e);
    files_copy(golden_path("llama/config.json"), "s/config.json");
    CHECK_OK(safetensors_open(&st, golden_path("llama/model.safetensors"), 0, &e), &e);
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
    CHECK_OK(safetensors_write(files_path("s/part-0.safetensors"), outs[0], n[0], NULL, &e), &e);
    CHECK_OK(safetensors_write(files_path("s/part-1.safetensors"), outs[1], n[1], NULL, &e), &e);
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
    CHECK_OK(load(files_path("s"), 0, &a, &e), &e);
    CHECK_HAS(note, "total_size");
    CHECK_OK(load(golden_path("llama"), MODEL_NO_MMAP, &b, &e), &e);
    CHECK_OK(model_hash(&a, one, &e), &e);
    CHECK_OK(model_hash(&b, two, &e), &e);
    CHECK_TEXT(one, two);
    model_close(&a);
    model_close(&b);
}

static void shard_faults(void)
{
    Model m;
    Err e;
    write_shards("\"evil\":\"../../etc/passwd\",", NULL);
    CHECK_INT(load(files_path("s"), 0, &m, &e), -1);
    CHECK_ERR(e, ERR_DATA, "../../etc/passwd");
    write_shards("\"more\":\"part-2.safetensors\",", NULL);
    CHECK_INT(load(files_path("s"), 0, &m, &e), -1);
    CHECK_ERR(e, ERR_NO_INPUT, "part-2.safetensors");
    write_shards("", "model.norm.weight");
    CHECK_INT(load(files_path("s"), 0, &m, &e), -1);
    CHECK_ERR(e, ERR_DATA, "model.norm.weight");
    files_write("s/model.safetensors.index.json", "{}", 2);
    CHECK_INT(load(files_path("s"), 0, &m, &e), -1);
    CHECK_ERR(e, ERR_DATA, "weight_map");
    CHECK(!unlink(files_path("s/model.safetensors.index.json")));
    CHECK_INT(load(files_path("s"), 0, &m, &e), -1);
    CHECK_ERR(e, ERR_NO_INPUT, "model.safetensors");
    files_write("s/pytorch_model.bin", "x", 1);
    CHECK_INT(load(files_path("s"), 0, &m, &e), -1);
    CHECK_ERR(e, ERR_NO_INPUT, "tools/export.py");
}

/* ---- weights --------------------------------------------------------------------------------- */

/* The golden llama with one tensor changed by `change` (name NULL: with all). */
static void with_tensor(const char *name, void (*change)(StOut *o))
{
    Safetensors st;
    Err e;
    StOut outs[64];
    CHECK_OK(io_make_directory(files_path("w"), 0, &e), &e);
    files_copy(golden_path("llama/config.json"), "w/config.json");
    CHECK_OK(safetensors_open(&st, golden_path("llama/model.safetensors"), 0, &e), &e);
    for (size_t i = 0; i < st.count; i++) {
        const StTensor *t = &st.tensors[i];
        outs[i] = (StOut){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .data = t->data};
        memcpy(outs[i].shape, t->shape, sizeof outs[i].shape);
        if (!name || !strcmp(name, t->name)) change(&outs[i]);
    }
    CHECK_OK(safetensors_write(files_path("w/model.safetensors"), outs, st.count, NULL, &e), &e);
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
    CHECK_INT(load(files_path("w"), 0, &m, &e), -1);
    CHECK_ERR(e, ERR_DATA,
              "model.layers.1.self_attn.q_proj.weight: expected [32,16] by "
              "config.json, found [16,32] F32");
    with_tensor("lm_head.weight", rename_tensor);
    CHECK_INT(load(files_path("w"), 0, &m, &e), -1);
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
    CHECK_OK(load(files_path("w"), 0, &m, &e), &e);
    model_close(&m);
    CHECK_INT(load(files_path("w"), MODEL_CHECK_TENSORS, &m, &e), -1);
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
    CHECK_OK(io_make_directory(files_path("t"), 0, &e), &e);
    files_copy(golden_path("mistral/config.json"), "t/config.json");
    CHECK_OK(safetensors_open(&st, golden_path("mistral/model.safetensors"), 0, &e), &e);
    for (size_t i = 0; i < st.count; i++) {
        const StTensor *t = &st.tensors[i];
        outs[i] = (StOut){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .data = t->data};
        memcpy(outs[i].shape, t->shape, sizeof outs[i].shape);
        if (strstr(t->name, "embed_tokens")) name_as_head(&outs[i]);
    }
    CHECK_OK(safetensors_write(files_path("t/model.safetensors"), outs, st.count, NULL, &e), &e);
    safetensors_close(&st);
    CHECK_OK(load(files_path("t"), 0, &a, &e), &e);
    CHECK_OK(load(golden_path("mistral"), 0, &b, &e), &e);
    CHECK_OK(model_hash(&a, one, &e), &e);
    CHECK_OK(model_hash(&b, two, &e), &e);
    CHECK_TEXT(one, two);
    model_close(&a);
    model_close(&b);
}

/* A model that says it is tied, with a head of its own in the files: that head is used, as
 * transformers does, and what is written says so. With two equal matrices it is tied. */
static void untied_by_its_files(void)
{
    Model a, b;
    Err e;
    char one[65], two[65];
    with_config("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    CHECK_OK(load(files_path("m"), 0, &a, &e), &e);
    CHECK_OK(load(golden_path("llama"), 0, &b, &e), &e);
    CHECK_OK(model_hash(&a, one, &e), &e);
    CHECK_OK(model_hash(&b, two, &e), &e);
    CHECK_TEXT(one, two);
    CHECK(model_head(&a) == &a.head && !a.config.tied);
    CHECK_OK(model_save(&a, NULL, files_path("saved"), NULL, &e), &e);
    model_close(&a);
    model_close(&b);
    CHECK_OK(load(files_path("saved"), 0, &a, &e), &e);
    CHECK(!note[0] && !a.config.tied && !a.untied && !model_hash(&a, one, &e));
    CHECK_TEXT(one, two);
    model_close(&a);
}

static const StTensor *embedding; /* of the golden llama */

static void head_of_embedding(StOut *o)
{
    o->data = embedding->data;
}

static void tied_by_its_files(void)
{
    Safetensors st;
    Model m;
    Err e;
    CHECK_OK(safetensors_open(&st, golden_path("llama/model.safetensors"), 0, &e), &e);
    embedding = safetensors_find(&st, "model.embed_tokens.weight");
    with_tensor("lm_head.weight", head_of_embedding);
    files_edit(golden_path("llama/config.json"), "w/config.json", "\"tie_word_embeddings\": false",
               "\"tie_word_embeddings\": true");
    CHECK_OK(load(files_path("w"), 0, &m, &e), &e);
    CHECK(!note[0] && m.config.tied && model_head(&m) == &m.embedding);
    model_close(&m);
    safetensors_close(&st);
}

static void name_without_prefix(StOut *o)
{
    if (!strncmp(o->name, "model.", 6)) o->name += 6;
}

/* What a base model's save_pretrained writes. */
static void names_without_prefix(void)
{
    Model a, b;
    Err e;
    char one[65], two[65];
    with_tensor(NULL, name_without_prefix);
    CHECK(!load(files_path("w"), MODEL_STRICT, &a, &e) && !note[0]);
    CHECK_OK(load(golden_path("llama"), 0, &b, &e), &e);
    CHECK_OK(model_hash(&a, one, &e), &e);
    CHECK_OK(model_hash(&b, two, &e), &e);
    CHECK_TEXT(one, two);
    model_close(&a);
    model_close(&b);
}

/* Stored tensors that nothing depends on: buffers are counted, others named; --strict refuses. */
static void name_as_buffer(StOut *o)
{
    o->name = "model.layers.0.self_attn.rotary_emb.inv_freq";
}

static void name_as_bias(StOut *o)
{
    o->name = "model.layers.0.self_attn.q_proj.bias";
}

static void tensors_left_out(void)
{
    Model m;
    Err e;
    /* A tied model needs no head: the one that is there takes other names. */
    const char *tied = "\"tie_word_embeddings\": true", *not = "\"tie_word_embeddings\": false";
    with_tensor("lm_head.weight", name_as_buffer);
    files_edit(golden_path("llama/config.json"), "w/config.json", not, tied);
    CHECK_OK(load(files_path("w"), MODEL_STRICT, &m, &e), &e);
    CHECK_HAS(note, "1 stored buffers");
    model_close(&m);
    with_tensor("lm_head.weight", name_as_bias);
    files_edit(golden_path("llama/config.json"), "w/config.json", not, tied);
    CHECK_OK(load(files_path("w"), 0, &m, &e), &e);
    CHECK_HAS(note, "the first is model.layers.0.self_attn.q_proj.bias");
    model_close(&m);
    CHECK_INT(load(files_path("w"), MODEL_STRICT, &m, &e), -1);
    CHECK_ERR(e, ERR_DATA, "q_proj.bias");
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
        if (i == 0 || !shared) CHECK_OK(packer_add_context(&p, -1, seqs[i], 2, &prompt, &e), &e);
        CHECK_OK(packer_add_completion(&p, prompt, seqs[i] + 2, lens[i] - 2, &first, &count, &e),
                 &e);
        total += count;
    }
    tape_reset(&tape);
    Var *logp = model_logprob(&tape, m, lora, &p.batch, NULL);
    CHECK_OK(tape_check(&tape, &e), &e);
    CHECK_INT(logp->rows, total);
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
    CHECK_OK(compute_open(&compute, "auto", PRECISION_F32, &e), &e);
    CHECK_OK(tape_open(&tape, &compute, 1 << 22, 1 << 20, &e), &e);
    CHECK_OK(load(golden_path(name), 0, &m, &e), &e);
    CHECK_OK(model_reserve_positions(&m, MOST, &e), &e);
    model_lora_shape(&m, &shape);
    snprintf(adapter, sizeof adapter, "%s/adapter", name);
    CHECK_OK(lora_load(&lora, golden_path(adapter), &shape, 0, &e), &e);
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
        CHECK_OK(compute_open(&compute, "auto", PRECISION_F32, &e), &e);
        CHECK_OK(tape_open(&tape, &compute, 1 << 22, 1 << 20, &e), &e);
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
    CHECK_OK(compute_open(&compute, "auto", PRECISION_F32, &e), &e);
    CHECK_OK(tape_open(&tape, &compute, 1 << 22, 1 << 20, &e), &e);
    CHECK_OK(load(golden_path("mistral"), 0, &m, &e), &e);
    CHECK_OK(model_reserve_positions(&m, MOST, &e), &e);
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
    CHECK_INT(own->len, LENGTH - PROMPT);
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
    CHECK_OK(compute_open(&compute, "auto", PRECISION_F32, &e), &e);
    CHECK_OK(tape_open(&tape, &compute, 1 << 22, 1 << 20, &e), &e);
    CHECK_OK(load(golden_path("llama"), 0, &m, &e), &e);
    CHECK_OK(model_reserve_positions(&m, MOST, &e), &e);
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
    CHECK_OK(tape_check(&tape, &e), &e);
    CHECK_INT(z->rows, 0);
    CHECK_INT(prompt->len, BEFORE);

    KvBlock *own = kv_create(&m, 2, prompt, &e);
    own->pos = PROMPT;
    Segment rest[] = {{0, PROMPT - BEFORE, BEFORE, -1, prompt, prompt},
                      {PROMPT - BEFORE, 1, PROMPT, 0, NULL, own}};
    b = (Batch){.T = LENGTH - BEFORE, .ids = ids + BEFORE, .n_segments = 2, .segments = rest};
    const uint32_t row = PROMPT - BEFORE;
    tape_reset(&tape);
    z = model_logits(&tape, &m, NULL, &b, &row, 1);
    CHECK_INT(prompt->len, PROMPT);
    CHECK_INT(own->len, 1);
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
    CHECK_OK(compute_open(&compute, "ref", PRECISION_F32, &e), &e);
    CHECK_OK(tape_open(&tape, &compute, 1 << 22, 1 << 20, &e), &e);
    CHECK_OK(load(golden_path("llama"), 0, &m, &e), &e);
    CHECK_OK(model_reserve_positions(&m, 3, &e), &e);
    model_logprob(&tape, &m, NULL, &b, NULL);
    CHECK_OK(tape_check(&tape, &e), &e);
    const int32_t wrong[] = {37, -1, INT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        tape_reset(&tape);
        ids[1] = wrong[i];
        model_logprob(&tape, &m, NULL, &b, NULL);
        CHECK_INT(tape_check(&tape, &e), -1);
        CHECK_ERR(e, ERR_DATA, "vocabulary of 37");
        ids[1] = 2, target = wrong[i];
        tape_reset(&tape);
        model_logprob(&tape, &m, NULL, &b, NULL);
        CHECK_FAILS(tape_check(&tape, &e), &e, ERR_DATA);
        target = 5;
    }
    s.pos = 1;
    tape_reset(&tape);
    model_logits(&tape, &m, NULL, &b, &row, 1);
    CHECK_INT(tape_check(&tape, &e), -1);
    CHECK_ERR(e, ERR_INTERNAL, "position 3");
    tape_close(&tape);
    compute_close(&compute);
    model_close(&m);
}

/* ---- merging --------------------------------------------------------------------------------- */

/* What an adapter makes of a weight may be a float and yet too large for the stored type. */
static void merge_overflow(void)
{
    static const Dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    ModelConfig c = {.family = "llama",
                     .layers = 1,
                     .H = 8,
                     .F = 16,
                     .V = 32,
                     .Q = 2,
                     .G = 1,
                     .D = 4,
                     .max_positions = 64,
                     .norm_eps = 1e-5,
                     .rope = {.type = "default", .theta = 10000}};
    LoraConfig config = {.rank = 2, .alpha = 2, .targets = 1u << TARGET_UP};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        Model m;
        Lora lora;
        LoraShape shape;
        Err e = {0};
        CHECK_OK(model_create_random(&m, &c, types[i], 1, &e), &e);
        model_lora_shape(&m, &shape);
        CHECK_OK(lora_create(&lora, &config, &shape, 1, 0, &e), &e);
        for (size_t k = 0; k < lora.count; k++) lora.weights[k] = 300; /* the product is 180,000 */
        int failed = model_save(&m, &lora, files_path("overflow"), NULL, &e);
        if (types[i] == DTYPE_F16) {
            CHECK(failed);
            CHECK_ERR(e, ERR_DATA, "up_proj.weight: number 0 of the result is too large for F16");
        } else
            CHECK(!failed || !strstr(e.text, "too large"));
        for (size_t k = 0; k < lora.count; k++) lora.weights[k] = (real)1.304e19;
        failed = model_save(&m, &lora, files_path("overflow"), NULL, &e);
        CHECK(failed || types[i] == DTYPE_F32);
        if (types[i] == DTYPE_BF16) CHECK_ERR(e, ERR_DATA, "too large for BF16");
        static const Dtype half = DTYPE_F16; /* a weight that no adapter touches */
        for (size_t k = 0; k < lora.count; k++) lora.weights[k] = 0;
        CHECK_OK(model_merge(&m, &lora, &half, files_path("overflow"), NULL, NULL, &e), &e);
        if (types[i] == DTYPE_F32) {
            ((float *)(uintptr_t)m.embedding.w.data)[3] = 65520; /* halfway to what f16 has not */
            CHECK_INT(model_merge(&m, &lora, &half, files_path("overflow"), NULL, NULL, &e), -1);
            CHECK_ERR(e, ERR_DATA,
                      "embed_tokens.weight: number 3 of the result is too large for F16");
        }
        lora_close(&lora);
        model_close(&m);
    }
}

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
    CHECK_OK(compute_open(&compute, "ref", PRECISION_F32, &e), &e);
    CHECK_OK(tape_open(&tape, &compute, 1 << 22, 1 << 20, &e), &e);
    CHECK_OK(load(golden_path("llama"), 0, &m, &e), &e);
    CHECK_OK(model_reserve_positions(&m, MOST, &e), &e);
    model_lora_shape(&m, &shape);
    CHECK_OK(lora_load(&lora, golden_path("llama/adapter"), &shape, 0, &e), &e);
    CHECK_OK(model_save(&m, &lora, files_path("merged"), NULL, &e), &e);
    CHECK_OK(load(files_path("merged"), 0, &merged, &e), &e);
    CHECK_OK(model_reserve_positions(&merged, MOST, &e), &e);
    for (size_t j = 0; j < MOST; j++) seq[0][j] = (int32_t)(rng_u64(5, 0, j) % 37);
    size_t n = score(&m, &lora, seq, &len, 1, 0, adapted);
    score(&merged, NULL, seq, &len, 1, 0, folded);
    for (size_t i = 0; i < n; i++) CHECK_NEAR(adapted[i], folded[i], 2e-5);
    CHECK(!memcmp(m.embedding.w.data, merged.embedding.w.data, 37 * 16 * sizeof(float)));
    model_close(&merged);
    static const struct {
        Dtype dtype;
        const char *says;
        double step; /* of a number, between two that can be stored */
    } kinds[] = {{DTYPE_F32, "\"float32\"", 0x1p-24},
                 {DTYPE_BF16, "\"bfloat16\"", 0x1p-8},
                 {DTYPE_F16, "\"float16\"", 0x1p-11}};
    for (size_t k = 0; k < 3; k++) {
        MergeReport r = {0};
        const char *dir = files_path(k == 0 ? "as0" : k == 1 ? "as1" : "as2");
        CHECK_OK(model_merge(&m, &lora, &kinds[k].dtype, dir, &r, NULL, &e), &e);
        CHECK_OK(load(dir, 0, &merged, &e), &e);
        CHECK_OK(model_reserve_positions(&merged, MOST, &e), &e);
        CHECK_INT(merged.embedding.w.format->dtype, kinds[k].dtype);
        CHECK_INT(merged.weight_bytes, model_file_bytes(&m, &kinds[k].dtype));
        CHECK(r.error <= kinds[k].step * r.weights && r.largest > 0 && r.error2 < r.update2);
        score(&merged, NULL, seq, &len, 1, 0, folded);
        for (size_t i = 0; i < n; i++) CHECK_NEAR(adapted[i], folded[i], 64 * kinds[k].step + 2e-5);
        char path[IO_PATH_MAX];
        size_t bytes;
        CHECK_OK(io_path(path, sizeof path, dir, "config.json", &e), &e);
        char *config = files_read(path, &bytes);
        CHECK_HAS(config, kinds[k].says);
        mem_free(config);
        if (k < 2) model_close(&merged);
    }
    real *big = (real *)(uintptr_t)lora_at(&lora, 1, TARGET_DOWN)->b.w.data;
    big[0] = (real)3e7; /* within float, beyond f16 */
    CHECK_INT(model_merge(&m, &lora, &kinds[2].dtype, files_path("beyond"), NULL, NULL, &e), -1);
    CHECK_ERR(e, ERR_DATA, "down_proj.weight: number ");
    CHECK_ERR(e, ERR_DATA, "--dtype f32");
    CHECK_OK(model_merge(&m, &lora, &kinds[1].dtype, files_path("within"), NULL, NULL, &e), &e);
    tape_close(&tape);
    compute_close(&compute);
    lora_close(&lora);
    model_close(&m);
    model_close(&merged);
}

static int has_none(const char *option)
{
    (void)option;
    return 0;
}

/* An option that the running command lacks is not named. */
static void positions_without_advice(void)
{
    Model m;
    Err e;
    CHECK_OK(load(golden_path("llama"), 0, &m, &e), &e);
    m.config.max_positions = 8;
    CHECK_INT(model_reserve_positions(&m, 9, &e), -1);
    CHECK_HAS(e.text, "--max-length");
    advice_from(has_none);
    CHECK_INT(model_reserve_positions(&m, 9, &e), -1);
    CHECK(strstr(e.text, "8 positions: shorten it") && !strstr(e.text, "--"));
    advice_from(NULL);
    model_close(&m);
}

const Test tests[] = {{"config_refusals", config_refusals},
                      {"config_twins", config_twins},
                      {"config_strict", config_strict},
                      {"families", families},
                      {"yarn", yarn},
                      {"config_spellings", config_spellings},
                      {"shards", shards},
                      {"shard_faults", shard_faults},
                      {"weight_faults", weight_faults},
                      {"nan_weight", nan_weight},
                      {"tied_forms", tied_forms},
                      {"untied_by_its_files", untied_by_its_files},
                      {"tied_by_its_files", tied_by_its_files},
                      {"names_without_prefix", names_without_prefix},
                      {"tensors_left_out", tensors_left_out},
                      {"same_bits", same_bits},
                      {"cached_bits", cached_bits},
                      {"filled_bits", filled_bits},
                      {"outside", outside},
                      {"positions_without_advice", positions_without_advice},
                      {"merge", merge},
                      {"merge_overflow", merge_overflow}};
FILES_MAIN(tests)
