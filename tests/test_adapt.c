/* test_adapt.c - whole weights in an adapter's file take the place of the model's own: in use, in a
 * merged model, as the reference of a run; what does not fit is refused. */
#include "engine.h"
#include "files.h"
#include "score.h"

#include <math.h>

#define P "base_model.model."
#define EMBEDDING P "model.embed_tokens.weight"
#define HEAD P "lm_head.weight"

enum { H = 16, V = 37, ROWS = 40, MOST = 8, TOKENS = 6 };

static float numbers[4][ROWS * H]; /* of saved weights */
static Compute compute;
static char base[IO_PATH_MAX], golden[IO_PATH_MAX]; /* the model, and its adapter */
static int32_t prompt[3] = {1, 5, 30}, completion[TOKENS] = {7, 36, 2, 2, 19, 30};

static void begin(void)
{
    Err e;
    snprintf(base, sizeof base, "%s", golden_path("llama"));
    snprintf(golden, sizeof golden, "%s", golden_path("llama/adapter"));
    compute_open(&compute, "auto", PRECISION_F32, &e);
    for (size_t k = 0; k < 4; k++)
        for (size_t i = 0; i < ROWS * H; i++) numbers[k][i] = (float)rng_unit(9, k, i) - 0.5f;
}

/* A tensor [rows, H]; rows = 0: a vector. */
static StOut tensor(const char *name, size_t rows, const float *data)
{
    StOut out = {.name = name, .dtype = DTYPE_F32, .data = data, .n_dims = rows ? 2 : 1};
    out.shape[0] = rows ? rows : H;
    out.shape[1] = rows ? H : 0;
    return out;
}

static const char *golden_file(const char *name)
{
    static char path[IO_PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", golden, name);
    return path;
}

/* Writes "whole": the golden adapter with more tensors, and one edit of its configuration. */
static void with(const StOut *more, size_t n, const char *find, const char *put)
{
    Safetensors st;
    StOut all[64];
    Err e;
    size_t count = 0;
    CHECK_OK(io_make_directory(files_path("whole"), 0, &e), &e);
    CHECK_OK(safetensors_open(&st, golden_file("adapter_model.safetensors"), 0, &e), &e);
    for (; count < st.count; count++) {
        const StTensor *t = &st.tensors[count];
        all[count] = (StOut){.name = t->name, .dtype = t->dtype, .n_dims = 2, .data = t->data};
        memcpy(all[count].shape, t->shape, sizeof t->shape);
    }
    for (size_t i = 0; i < n; i++) all[count++] = more[i];
    CHECK_OK(safetensors_write(files_path("whole/adapter_model.safetensors"), all, count, NULL, &e),
             &e);
    files_edit(golden_file("adapter_config.json"), "whole/adapter_config.json", find, put);
    safetensors_close(&st);
}

static void saved(const StOut *more, size_t n, const char *modules)
{
    char put[300];
    snprintf(put, sizeof put, "\"modules_to_save\": [%s]", modules);
    with(more, n, "\"modules_to_save\": null", put);
}

/* A model with the adapter "whole", or alone. */
typedef struct {
    Model model;
    Lora lora;
    int adapted;
} Policy;

static int open_policy(Policy *p, const char *model, const char *adapter, Err *e)
{
    LoraShape shape;
    memset(p, 0, sizeof *p);
    if (model_load(&p->model, model, 0, NULL, e)) return -1;
    model_lora_shape(&p->model, &shape);
    if (!adapter) return 0;
    if (lora_load(&p->lora, adapter, &shape, 0, e)) {
        model_close(&p->model);
        return -1;
    }
    p->adapted = 1;
    return model_adapt(&p->model, &p->lora, e);
}

static void close_policy(Policy *p)
{
    model_close(&p->model);
    if (p->adapted) lora_close(&p->lora);
}

static int keep(void *ctx, const Score *s, Err *e)
{
    (void)e;
    memcpy(ctx, s->logp, (s->n - s->skipped) * sizeof *s->logp);
    return 0;
}

static void score(Policy *p, float out[TOKENS])
{
    Err e = {0};
    const Row row = {
        .prompt = prompt, .n_prompt = 3, .completion = {completion}, .n_completion = {TOKENS}};
    memset(out, 0, TOKENS * sizeof *out);
    CHECK_OK(score_rows(&p->model, p->adapted ? &p->lora : NULL, &compute, &row, 1, 1, 64, keep,
                        out, &e),
             &e);
}

/* The adapter's log-probs; a model that it is merged into has the same, but for the rounding of the
 * low-rank pairs. Returns the farthest that they are from the golden adapter's. */
static double used_and_merged(void)
{
    Policy p, merged, plain;
    Err e = {0};
    float a[TOKENS], b[TOKENS], c[TOKENS];
    double far = 0;
    CHECK_OK(open_policy(&p, base, files_path("whole"), &e), &e);
    if (e.code) return NAN;
    score(&p, a);
    io_remove_tree(files_path("merged"), &e);
    CHECK_OK(model_merge(&p.model, &p.lora, NULL, files_path("merged"), NULL, NULL, &e), &e);
    CHECK_OK(open_policy(&merged, files_path("merged"), NULL, &e), &e);
    CHECK_INT(merged.model.config.V, p.model.config.V);
    CHECK_INT(merged.model.config.tied, p.model.config.tied);
    score(&merged, b);
    CHECK_OK(open_policy(&plain, base, golden, &e), &e);
    score(&plain, c);
    for (size_t i = 0; i < TOKENS; i++) {
        CHECK(fabs((double)a[i] - (double)b[i]) < 1e-4);
        if (far < fabs((double)a[i] - (double)c[i])) far = fabs((double)a[i] - (double)c[i]);
    }
    close_policy(&p);
    close_policy(&merged);
    close_policy(&plain);
    return far;
}

/* Embedding, head, a norm and a matrix of a layer: each is the file's. */
static void each_weight(void)
{
    const StOut of[] = {tensor(EMBEDDING, V, numbers[0]), tensor(HEAD, V, numbers[1]),
                        tensor(P "model.norm.weight", 0, numbers[2]),
                        tensor(P "model.layers.1.mlp.up_proj.base_layer.weight", 24, numbers[3])};
    static const char *const modules[] = {"\"embed_tokens\"", "\"lm_head\"", "\"model.norm\"", ""};
    for (size_t i = 0; i < 4; i++) {
        saved(&of[i], 1, modules[i]);
        CHECK(used_and_merged() > 0.01);
    }
    saved(of, 3, "\"embed_tokens\", \"lm_head\", \"model.norm\"");
    CHECK(used_and_merged() > 0.01);
}

/* Other names of the same: FSDP's, and copies of the base beside them. */
static void names_of_wrappers(void)
{
    Policy p, q;
    Err e;
    float a[TOKENS], b[TOKENS];
    const StOut plain[] = {tensor(EMBEDDING, V, numbers[0])};
    const StOut wrapped[] = {
        tensor(P "model.embed_tokens.modules_to_save.default.weight", V, numbers[0]),
        tensor(P "model.embed_tokens.original_module.weight", V, numbers[1])};
    const StOut twice[] = {tensor(P "model.embed_tokens.base_layer.weight", V, numbers[0]),
                           plain[0]};
    saved(plain, 1, "\"embed_tokens\"");
    CHECK_OK(open_policy(&p, base, files_path("whole"), &e), &e);
    score(&p, a);
    close_policy(&p);
    saved(wrapped, 2, "\"embed_tokens\"");
    CHECK_OK(open_policy(&q, base, files_path("whole"), &e), &e);
    score(&q, b);
    close_policy(&q);
    CHECK(!memcmp(a, b, sizeof a));
    saved(twice, 2, "\"embed_tokens\"");
    CHECK_INT(open_policy(&p, base, files_path("whole"), &e), -1);
    CHECK_ERR(e, ERR_DATA, "model.embed_tokens.weight stands there twice");
}

/* More tokens than the model has: the merged model has them, too. */
static void grown(void)
{
    const StOut both[] = {tensor(EMBEDDING, ROWS, numbers[0]), tensor(HEAD, ROWS, numbers[1])};
    Policy p;
    Err e;
    with(both, 2, "\"r\": 3", "\"r\": 3");
    completion[1] = ROWS - 1;
    CHECK_OK(open_policy(&p, base, files_path("whole"), &e), &e);
    CHECK_INT(p.model.config.V, ROWS);
    float a[TOKENS], b[TOKENS];
    score(&p, a);
    CHECK_OK(model_merge(&p.model, &p.lora, NULL, files_path("grown"), NULL, NULL, &e), &e);
    close_policy(&p);
    CHECK_OK(open_policy(&p, files_path("grown"), NULL, &e), &e);
    CHECK_INT(p.model.config.V, ROWS);
    score(&p, b);
    close_policy(&p);
    for (size_t i = 0; i < TOKENS; i++) CHECK(fabs((double)a[i] - (double)b[i]) < 1e-4);
    completion[1] = V - 1;
}

/* Rows of single tokens: those of the file, the others the model's own. */
static void tokens(void)
{
    const StOut two = {.name = P "model.embed_tokens.token_adapter.trainable_tokens_delta",
                       .dtype = DTYPE_F32,
                       .n_dims = 2,
                       .shape = {2, H},
                       .data = numbers[0]};
    const char *find = "\"trainable_token_indices\": null";
    Policy p;
    Err e;
    real row[H];
    with(&two, 1, find, "\"trainable_token_indices\": {\"embed_tokens\": [30, 7]}");
    CHECK(used_and_merged() > 0.01);
    CHECK_OK(open_policy(&p, base, files_path("whole"), &e), &e);
    for (size_t id = 0; id < V; id++) {
        format_unpack(p.model.embedding.w.format, row,
                      (const float *)p.model.embedding.w.data + id * H, 0, H);
        const float *own = (const float *)p.model.base->embedding.w.data + id * H;
        const float *want = id == 30 ? numbers[0] : id == 7 ? numbers[0] + H : own;
        for (size_t k = 0; k < H; k++) CHECK(row[k] == (real)want[k]);
    }
    close_policy(&p);
    static const char *const bad[][2] = {
        {"\"trainable_token_indices\": [30, 37]", "must be ids below 37"},
        {"\"trainable_token_indices\": [30, -1]", "must be ids below 37"},
        {"\"trainable_token_indices\": [30]", "has fewer tokens"},
        {"\"trainable_token_indices\": [30, 7, 8]", "has more tokens"},
        {"\"trainable_token_indices\": null", "fewer tokens"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        with(&two, 1, find, bad[i][0]);
        CHECK_INT(open_policy(&p, base, files_path("whole"), &e), -1);
        CHECK_ERR(e, ERR_DATA, bad[i][1]);
    }
    with(NULL, 0, find, "\"trainable_token_indices\": [30]");
    CHECK_INT(open_policy(&p, base, files_path("whole"), &e), -1);
    CHECK_ERR(e, ERR_DATA, "\"trainable_token_indices\" is set, but");
}

/* A tokenizer of n tokens, a character each. */
static void write_tokenizer(const char *name, int n)
{
    Text t = {0};
    Err e;
    CHECK(!text_addf(&t, &e,
                     "{\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":null,"
                     "\"post_processor\":null,\"decoder\":null,\"model\":{\"type\":\"BPE\","
                     "\"merges\":[],\"vocab\":{"));
    for (int i = 0; i < n; i++)
        CHECK(!text_addf(&t, &e, "%s\"\\u%04x\":%d", i ? "," : "", 0x4e00 + i, i));
    CHECK(!text_addf(&t, &e, "}}}"));
    files_write(name, t.data, t.len);
    text_free(&t);
}

/* The tokenizer that was saved beside an embedding is read in the place of the model's, and merged
 * with it; beside an adapter without one it is not. */
static void tokenizers(void)
{
    const StOut both[] = {tensor(EMBEDDING, ROWS, numbers[0]), tensor(HEAD, ROWS, numbers[1])};
    char model[IO_PATH_MAX + 512], adapter[IO_PATH_MAX + 512];
    Engine g;
    Err e;
    CHECK_OK(io_make_directory(files_path("small"), 0, &e), &e);
    files_copy(golden_path("llama/config.json"), "small/config.json");
    files_copy(golden_path("llama/model.safetensors"), "small/model.safetensors");
    write_tokenizer("small/tokenizer.json", V);
    with(both, 2, "\"r\": 3", "\"r\": 3");
    write_tokenizer("whole/tokenizer.json", ROWS);
    snprintf(model, sizeof model, "%s", files_path("small"));
    snprintf(adapter, sizeof adapter, "%s", files_path("whole"));
    const EngineConfig c = {.model = model, .adapter = adapter};
    CHECK_OK(engine_open(&g, &c, &e), &e);
    CHECK_INT(tokenizer_size(g.tokenizer), ROWS);
    CHECK_OK(model_merge(&g.model, &g.lora, NULL, files_path("larger"), NULL, NULL, &e), &e);
    engine_close(&g);
    const EngineConfig larger = {.model = files_path("larger")};
    CHECK_OK(engine_open(&g, &larger, &e), &e);
    CHECK_INT(tokenizer_size(g.tokenizer), ROWS);
    CHECK_INT(g.model.config.V, ROWS);
    engine_close(&g);
    with(NULL, 0, "\"r\": 3", "\"r\": 3");
    CHECK_OK(engine_open(&g, &c, &e), &e);
    CHECK_INT(tokenizer_size(g.tokenizer), V);
    engine_close(&g);
    CHECK_OK(io_remove_tree(files_path("whole/tokenizer.json"), &e), &e);
}

/* A model whose head is its embedding: which of the two an adapter's file means. */
static void tied(void)
{
    static const struct {
        const char *modules;
        int in, out, same;         /* which are in the file; equal */
        int tied, own_in, own_out; /* with the adapter; whether each is the base's own */
    } ways[] = {{"\"embed_tokens\"", 1, 0, 0, 0, 0, 1},
                {"\"lm_head\"", 0, 1, 0, 0, 1, 0},
                {"\"embed_tokens\", \"lm_head\"", 1, 1, 0, 0, 0, 0},
                {"\"embed_tokens\"", 1, 1, 1, 1, 0, 0},
                {"", 1, 0, 0, 1, 0, 0},
                {"", 0, 1, 0, 1, 0, 0}};
    char was[2][IO_PATH_MAX];
    Err e;
    memcpy(was[0], base, sizeof base), memcpy(was[1], golden, sizeof golden);
    snprintf(base, sizeof base, "%s", golden_path("mistral"));
    snprintf(golden, sizeof golden, "%s", golden_path("mistral/adapter"));
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        Policy p;
        StOut more[2];
        size_t n = 0;
        if (ways[i].in) more[n++] = tensor(EMBEDDING, V, numbers[0]);
        if (ways[i].out) more[n++] = tensor(HEAD, V, numbers[ways[i].same ? 0 : 1]);
        saved(more, n, ways[i].modules);
        CHECK(used_and_merged() > 0.01);
        CHECK_OK(open_policy(&p, base, files_path("whole"), &e), &e);
        CHECK_INT(p.model.config.tied, ways[i].tied);
        const void *own = p.model.base->embedding.w.data;
        CHECK_INT(p.model.embedding.w.data == own, ways[i].own_in);
        CHECK_INT(model_head(&p.model)->w.data == own, ways[i].own_out);
        close_policy(&p);
    }
    memcpy(base, was[0], sizeof base), memcpy(golden, was[1], sizeof golden);
}

static void refused(const StOut *more, size_t n, const char *modules, const char *named)
{
    Policy p;
    Err e = {0};
    saved(more, n, modules);
    CHECK_INT(open_policy(&p, base, files_path("whole"), &e), -1);
    CHECK_ERR(e, ERR_DATA, named);
}

/* What is missing, has another shape, or belongs to nothing. */
static void misfits(void)
{
    StOut one[] = {tensor(EMBEDDING, ROWS, numbers[0]), tensor(HEAD, V, numbers[1])};
    refused(one, 2, "\"embed_tokens\"", "embedding has 40 rows with this adapter, the head 37");
    refused(one, 1, "\"embed_tokens\"", "embedding has 40 rows");
    refused(NULL, 0, "\"lm_head\"", "names lm_head.weight, which adapter_model.safetensors does");
    refused(one, 2, "\"mlp\"", "names model.layers.0.mlp.gate_proj.weight, which");
    one[0].shape[0] = V, one[0].shape[1] = 8;
    refused(one, 1, "\"embed_tokens\"",
            "the model's model.embed_tokens.weight is [37,16], found "
            "[37,8]");
    one[0] = tensor(P "model.norm.weight", 1, numbers[0]);
    refused(one, 1, "\"model.norm\"", "the model's model.norm.weight is [16]");
    one[0] = tensor(P "model.layers.0.mlp.up_proj.weight", 16, numbers[0]);
    refused(one, 1, "\"up_proj\"", "up_proj.weight is [24,16], found [16,16]");
    one[0] = tensor(P "model.layers.2.mlp.up_proj.weight", 24, numbers[0]);
    refused(one, 1, "\"up_proj\"", "fits no linear map");
    one[0] = tensor(P "model.layers.0.mlp.up_proj.bias", 0, numbers[0]);
    refused(one, 1, "", "mlp.up_proj.bias fits no linear map");
}

/* A weight whose third row is zero. */
static float holed[V * H];
static void zero_row(const void *own, size_t i, LoraWeight *out)
{
    (void)own, (void)i;
    for (size_t k = 0; k < (size_t)V * H; k++) holed[k] = k / H == 2 ? 0 : 1;
    *out = (LoraWeight){.name = "model.layers.0.mlp.up_proj.weight",
                        .w = {holed, &format_f32, 24, H, 0}};
}

/* Opens the base and a new DoRA adapter on it. */
static void open_sizes(Policy *p, Lora *made, LoraShape *shape, Err *e)
{
    const LoraConfig c = {.rank = 2, .alpha = 4, .targets = 1u << TARGET_UP, .dora = 1};
    CHECK_OK(open_policy(p, base, NULL, e), e);
    model_lora_shape(&p->model, shape);
    CHECK_OK(lora_create(made, &c, shape, 1, 0, e), e);
}

/* DoRA: the sizes of a new adapter are the lengths of the model's rows; what is written is read
 * again. */
static void sizes(void)
{
    Policy p;
    Lora made, l;
    LoraShape shape;
    Err e;
    open_sizes(&p, &made, &shape, &e);
    Adapter *a = lora_at(&made, 1, TARGET_UP);
    const float *w = p.model.layers[1].linear[TARGET_UP].w.data;
    for (size_t n = 0; n < 24; n++) {
        double squares = 0;
        for (size_t k = 0; k < H; k++) squares += (double)w[n * H + k] * (double)w[n * H + k];
        CHECK_NEAR((double)((const real *)a->m.w.data)[n], sqrt(squares), 1e-6);
    }
    CHECK(lora_is_zero(&made));
    made.weights[made.count - 1] *= 2;
    CHECK(!lora_is_zero(&made));
    CHECK_OK(lora_save(&made, files_path("whole"), &e), &e);
    CHECK_OK(lora_load(&l, files_path("whole"), &shape, 0, &e), &e);
    CHECK(l.config.dora && l.count == made.count);
    CHECK(!memcmp(l.weights, made.weights, l.count * sizeof *l.weights));
    CHECK(!memcmp(l.lengths, made.lengths, l.lengths_count * sizeof *l.lengths));
    lora_close(&l);
    lora_close(&made);
    close_policy(&p);
}

/* A file without sizes, with too few, with some twice. */
static void sizes_that_do_not_fit(void)
{
    Policy p;
    Lora made, l;
    LoraShape shape;
    Err e;
    Safetensors st;
    StOut all[8];
    char file[IO_PATH_MAX + 600], dir[IO_PATH_MAX + 512];
    open_sizes(&p, &made, &shape, &e);
    CHECK_OK(lora_save(&made, files_path("whole"), &e), &e);
    snprintf(dir, sizeof dir, "%s", files_path("whole"));
    snprintf(file, sizeof file, "%s/adapter_model.safetensors", dir);
    CHECK_OK(safetensors_open(&st, file, 0, &e), &e);
    CHECK_INT(st.count, 6);
    static const char *const said[] = {
        "layers.0.mlp.up_proj.lora_magnitude_vector is missing, but \"use_dora\" is set",
        "lora_magnitude_vector: expected [24], found 1 dimensions of 8 numbers", "holds both"};
    for (int way = 0; way < 3; way++) {
        size_t n = 0;
        for (size_t i = 0; i < st.count; i++) {
            const StTensor *t = &st.tensors[i];
            int vector = t->n_dims == 1;
            if (vector && way == 0) continue;
            all[n] = (StOut){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims};
            all[n].data = t->data;
            memcpy(all[n].shape, t->shape, sizeof t->shape);
            if (vector && way == 1) all[n].shape[0] = 8;
            n++;
        }
        if (way == 2) {
            all[n] = all[0];
            for (size_t i = 0; i < n; i++)
                if (all[i].n_dims == 1) all[n] = all[i];
            all[n++].name = P "model.layers.0.mlp.up_proj.lora_magnitude_vector.weight";
        }
        CHECK_OK(safetensors_write(file, all, n, NULL, &e), &e);
        CHECK_INT(lora_load(&l, dir, &shape, 0, &e), -1);
        CHECK_ERR(e, ERR_DATA, said[way]);
    }
    safetensors_close(&st);
    lora_close(&made);
    close_policy(&p);
}

/* Sizes that the configuration does not know of; a row of the model of length 0. */
static void sizes_that_contradict(void)
{
    Policy p;
    Lora made, l;
    LoraShape shape;
    Err e;
    char config[IO_PATH_MAX + 600], dir[IO_PATH_MAX + 512];
    open_sizes(&p, &made, &shape, &e);
    snprintf(dir, sizeof dir, "%s", files_path("whole"));
    CHECK_OK(lora_save(&made, dir, &e), &e);
    snprintf(config, sizeof config, "%s/adapter_config.json", dir);
    files_edit(config, "whole/adapter_config.json", "\"use_dora\": true", "\"use_dora\": false");
    CHECK_INT(lora_load(&l, dir, &shape, 0, &e), -1);
    CHECK_ERR(e, ERR_DATA, "lora_magnitude_vector is there, but \"use_dora\" is not set");
    const LoraConfig again = made.config;
    lora_close(&made);
    shape.layers = 1, shape.weights = 1, shape.weight = zero_row;
    CHECK_INT(lora_create(&made, &again, &shape, 1, 0, &e), -1);
    CHECK_ERR(e, ERR_DATA,
              "DoRA on model.layers.0.mlp.up_proj: row 2 of its weight has the length "
              "0, by which");
    close_policy(&p);
}

/* It is not trained on: its whole weights would be. */
static void not_trained(void)
{
    const StOut one[] = {tensor(EMBEDDING, V, numbers[0])};
    Model m;
    Lora l;
    LoraShape shape;
    Err e;
    saved(one, 1, "\"embed_tokens\"");
    CHECK_OK(model_load(&m, base, 0, NULL, &e), &e);
    model_lora_shape(&m, &shape);
    CHECK_INT(lora_load(&l, files_path("whole"), &shape, 1, &e), -1);
    CHECK_ERR(e, ERR_DATA, "holds whole weights (model.embed_tokens.weight)");
    model_close(&m);
}

/* A copy of a model that is adapted and left leaves the model as it was. */
static void copies(void)
{
    const StOut one[] = {tensor(EMBEDDING, V, numbers[0]),
                         tensor(P "model.layers.1.input_layernorm.weight", 0, numbers[1])};
    Policy p, own;
    Err e;
    float before[TOKENS], after[TOKENS];
    char hash[2][65];
    saved(one, 2, "\"embed_tokens\"");
    CHECK_OK(open_policy(&own, base, NULL, &e), &e);
    score(&own, before);
    CHECK_OK(open_policy(&p, base, files_path("whole"), &e), &e);
    Model copy = own.model;
    CHECK_OK(model_adapt(&copy, &p.lora, &e), &e);
    CHECK(copy.layers != own.model.layers && copy.embedding.w.data != own.model.embedding.w.data);
    CHECK_OK(model_hash(&copy, hash[0], &e), &e);
    CHECK_OK(model_hash(&own.model, hash[1], &e), &e);
    CHECK_TEXT(hash[0], hash[1]);
    model_leave(&copy);
    score(&own, after);
    CHECK(!memcmp(before, after, sizeof after));
    close_policy(&p);
    close_policy(&own);
}

const Test tests[] = {{"each_weight", each_weight},
                      {"names_of_wrappers", names_of_wrappers},
                      {"grown", grown},
                      {"tokens", tokens},
                      {"misfits", misfits},
                      {"not_trained", not_trained},
                      {"copies", copies},
                      {"tokenizers", tokenizers},
                      {"sizes", sizes},
                      {"sizes_that_do_not_fit", sizes_that_do_not_fit},
                      {"sizes_that_contradict", sizes_that_contradict},
                      {"tied", tied}};

int main(int argc, char **argv)
{
    files_begin();
    begin();
    int status = test_main(tests, sizeof tests / sizeof *tests, argc, argv);
    compute_close(&compute);
    files_end();
    return status;
}
