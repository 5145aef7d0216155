/* Adapter sets: PEFT's first values to the bit, directories in and out, what is refused. */
#include "files.h"
#include "lora.h"

#include <math.h>

static size_t number(const Json *o, const char *key)
{
    return (size_t)golden_number(o, key);
}

static LoraShape shape_of(const Json *c)
{
    size_t H = number(c, "hidden"), F = number(c, "intermediate");
    size_t kv = H / number(c, "heads") * number(c, "kv_heads");
    return (LoraShape){.layers = number(c, "layers"),
                       .outputs = {H, kv, kv, H, F, F, H, number(c, "vocabulary")},
                       .inputs = {H, H, H, H, H, H, F, H}};
}

static void check_case(const Json *c)
{
    LoraShape shape = shape_of(c);
    LoraConfig config = {.rank = number(c, "rank"), .alpha = 8};
    Lora l;
    Err e;
    unsigned bit;
    for (const Json *t = json_get(c, "targets")->child; t; t = t->next) {
        CHECK(!lora_parse_targets(t->text, &bit, &e));
        config.targets |= bit;
    }
    if (lora_create(&l, &config, &shape, (uint64_t)golden_number(c, "seed"), 0, &e)) {
        CHECK(0);
        printf("%s\n", e.text);
        return;
    }
    size_t i = 0;
    for (const Json *t = json_get(c, "tensors")->child; t; t = t->next, i += 2) {
        NamedParam a, b;
        Sha256 s;
        char hex[65];
        lora_param(&l, i, &a);
        lora_param(&l, i + 1, &b);
        CHECK_TEXT(a.name, json_get(t, "name")->text);
        sha256_begin(&s);
        sha256_add(&s, a.w, a.rows * a.cols * sizeof *a.w);
        sha256_end(&s, hex);
        CHECK_TEXT(hex, json_get(t, "sha256")->text);
        for (size_t j = 0; j < b.rows * b.cols; j++) CHECK(b.w[j] == 0);
    }
    CHECK(i == lora_param_count(&l));
    lora_close(&l);
}

static void peft_draws(void)
{
    for (const Json *c = json_get(golden_json("peft_init.json"), "cases")->child; c; c = c->next)
        check_case(c);
}

static const LoraShape llama = {.layers = 2,
                                .outputs = {32, 16, 16, 16, 24, 24, 16, 37},
                                .inputs = {16, 16, 16, 32, 16, 16, 24, 16}};

static int load(const char *dir, Lora *l, Err *e)
{
    return lora_load(l, dir, &llama, 0, e);
}

/* What PEFT wrote, read and written again, is read the same; and the file's bytes repeat. */
static void round_trip(void)
{
    Lora a, b;
    Err e;
    CHECK(!load(golden_path("llama/adapter"), &a, &e));
    CHECK(a.config.rank == 3 && a.config.alpha == 6 && a.config.targets == 0x7f);
    CHECK(lora_at(&a, 1, TARGET_DOWN)->scale == 2 && !lora_at(&a, 0, TARGET_HEAD));
    CHECK(!lora_save(&a, files_path("one"), &e));
    CHECK(!load(files_path("one"), &b, &e));
    CHECK(a.count == b.count && !memcmp(a.weights, b.weights, a.count * sizeof *a.weights));
    CHECK(lora_at(&b, 0, TARGET_Q)->scale == 2);
    CHECK(!lora_save(&b, files_path("two"), &e));
    const char *const names[] = {"adapter_model.safetensors", "adapter_config.json"};
    for (int i = 0; i < 2; i++) {
        char one[300], two[300], hex[2][65];
        snprintf(one, sizeof one, "one/%s", names[i]);
        snprintf(two, sizeof two, "two/%s", names[i]);
        CHECK(!sha256_file(files_path(one), hex[0], &e) &&
              !sha256_file(files_path(two), hex[1], &e));
        CHECK_TEXT(hex[0], hex[1]);
    }
    lora_close(&a);
    lora_close(&b);
}

/* The golden adapter with one edit of its configuration. */
static void with_config(const char *find, const char *put)
{
    Err e;
    CHECK(!io_make_directory(files_path("edited"), 0, &e));
    files_copy(golden_path("llama/adapter/adapter_model.safetensors"),
               "edited/adapter_model.safetensors");
    files_edit(golden_path("llama/adapter/adapter_config.json"), "edited/adapter_config.json", find,
               put);
}

static void refused(const char *find, const char *put, const char *named)
{
    Lora l;
    Err e = {0};
    with_config(find, put);
    CHECK(load(files_path("edited"), &l, &e) == -1);
    CHECK_ERR(e, ERR_DATA, named);
}

static void refusals(void)
{
    refused("\"use_dora\": false", "\"use_dora\": true", "use_dora");
    refused("\"bias\": \"none\"", "\"bias\": \"all\"", "bias");
    refused("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]", "modules_to_save");
    refused("\"fan_in_fan_out\": false", "\"fan_in_fan_out\": true", "fan_in_fan_out");
    refused("\"layer_replication\": null", "\"layer_replication\": [[0,2]]", "layer_replication");
    refused("\"lora_bias\": false", "\"lora_bias\": true", "lora_bias");
    refused("\"peft_type\": \"LORA\"", "\"peft_type\": \"IA3\"", "IA3");
    refused("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"", "pissa");
    refused("\"init_lora_weights\": true", "\"init_lora_weights\": \"loftq\"", "loftq");
    refused("\"init_lora_weights\": true", "\"init_lora_weights\": 1", "init_lora_weights");
    refused("\"use_rslora\": false", "\"use_rslora\": 1", "use_rslora");
    refused("\"r\": 3", "\"r\": 4", "rank 3");
    refused("\"r\": 3", "\"r\": -1", "\"r\"");
    refused("\"rank_pattern\": {}", "\"rank_pattern\": {\"q_(proj|x)\": 4}", "regular expression");
    refused("{\n  \"alora", "[\n  \"alora", "adapter_config.json");
}

/* rank_pattern that says what the weights say, and alpha_pattern by suffix. */
static void patterns(void)
{
    Lora l, again;
    Err e;
    with_config("\"alpha_pattern\": {}", "\"alpha_pattern\": {\"layers.1.self_attn.q_proj\": 12}");
    CHECK(!load(files_path("edited"), &l, &e));
    CHECK(lora_at(&l, 0, TARGET_Q)->scale == 2 && lora_at(&l, 1, TARGET_Q)->scale == 4);
    CHECK(!lora_save(&l, files_path("patterned"), &e) &&
          !load(files_path("patterned"), &again, &e));
    CHECK(lora_at(&again, 0, TARGET_Q)->scale == 2 && lora_at(&again, 1, TARGET_Q)->scale == 4);
    lora_close(&l);
    lora_close(&again);
}

/* Weights that do not fit: another model, a missing half, a NaN, a transposed matrix. */
static void bad_weights(void)
{
    Lora l, out;
    Err e = {0};
    LoraShape other = llama;
    other.inputs[TARGET_Q] = 20;
    CHECK(lora_load(&l, golden_path("llama/adapter"), &other, 0, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "q_proj.lora_A.weight: expected [rank,20], found [3,16]");
    other = llama;
    other.layers = 1;
    CHECK(lora_load(&l, golden_path("llama/adapter"), &other, 0, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "fits no linear map");
    CHECK(!load(golden_path("llama/adapter"), &out, &e));
    with_config("\"r\": 3", "\"r\": 3");
    NamedParam a, b;
    lora_param(&out, 0, &a);
    lora_param(&out, 1, &b);
    StOut half = {.name = a.name, .dtype = DTYPE_F32, .n_dims = 2, .shape = {3, 16}, .data = a.w};
    const char *path = files_path("edited/adapter_model.safetensors");
    CHECK(!safetensors_write(path, &half, 1, NULL, &e));
    CHECK(load(files_path("edited"), &l, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "q_proj.lora_B.weight is missing");
    half.shape[0] = 16, half.shape[1] = 3;
    CHECK(!safetensors_write(path, &half, 1, NULL, &e));
    CHECK(load(files_path("edited"), &l, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "lora_A.weight");
    lora_close(&out);
}

/* NaN in an adapter is refused on load and on save. */
static void not_finite(void)
{
    Lora l, read;
    Err e = {0};
    CHECK(!load(golden_path("llama/adapter"), &l, &e));
    l.weights[5] = (real)NAN;
    CHECK(lora_save(&l, files_path("nan"), &e) == -1);
    CHECK_ERR(e, ERR_DATA, "lora_A.weight");
    CHECK(!io_exists(files_path("nan/adapter_model.safetensors")));
    l.weights[5] = 0;
    CHECK(!lora_save(&l, files_path("nan"), &e));
    size_t len;
    char *bytes = files_read(files_path("nan/adapter_model.safetensors"), &len);
    const uint32_t nan_bits = 0x7fc00000;
    memcpy(bytes + len - sizeof nan_bits, &nan_bits, sizeof nan_bits);
    files_write("nan/adapter_model.safetensors", bytes, len);
    mem_free(bytes);
    CHECK(load(files_path("nan"), &read, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "weight");
    lora_close(&l);
}

static void bad_options(void)
{
    Lora l;
    Err e = {0};
    unsigned targets;
    LoraConfig c = {.rank = 17, .alpha = 8, .targets = 1u << TARGET_Q};
    CHECK(lora_parse_targets("q_proj,v_prof", &targets, &e) == -1);
    CHECK_ERR(e, ERR_USAGE, "nearest is v_proj");
    CHECK(!lora_parse_targets("all-linear", &targets, &e) && targets == 0x7f);
    CHECK(!lora_parse_targets("lm_head,q_proj", &targets, &e) && targets == 0x81);
    CHECK(lora_create(&l, &c, &llama, 1, 0, &e) == -1);
    CHECK_ERR(e, ERR_USAGE, "1 to 16");
    c.rank = 0;
    CHECK(lora_create(&l, &c, &llama, 1, 0, &e) == -1);
    CHECK_ERR(e, ERR_USAGE, "--rank 0");
}

/* W + scale B A, by hand. */
static void merging(void)
{
    real a[] = {1, 2, 3}, b[] = {10, -1}, w[] = {1, 1, 1, 0, 0, 0};
    Adapter adapter = {{{a, DTYPE_REAL, 1, 3}, NULL}, {{b, DTYPE_REAL, 2, 1}, NULL}, 0.5, 0, 1};
    const real want[] = {6, 11, 16, -0.5f, -1, -1.5f};
    lora_merge_into(w, &adapter);
    for (int i = 0; i < 6; i++) CHECK(w[i] == want[i]);
}

const Test tests[] = {{"peft_draws", peft_draws},   {"round_trip", round_trip},
                      {"refusals", refusals},       {"patterns", patterns},
                      {"bad_weights", bad_weights}, {"not_finite", not_finite},
                      {"bad_options", bad_options}, {"merging", merging}};

int main(int argc, char **argv)
{
    files_begin();
    int status = test_main(tests, sizeof tests / sizeof *tests, argc, argv);
    files_end();
    pool_free(&golden_pool);
    return status;
}
