/* Adapter sets: PEFT's first values to the bit, directories in and out, what is refused. */
#include "files.h"
#include "lora_parts.h"

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
        lora_targets_form.read(&bit, t->text);
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
    CHECK_INT(i, lora_param_count(&l));
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
    CHECK_OK(load(golden_path("llama/adapter"), &a, &e), &e);
    CHECK_INT(a.config.rank, 3);
    CHECK(a.config.alpha == 6);
    CHECK_INT(a.config.targets, 0x7f);
    CHECK(lora_at(&a, 1, TARGET_DOWN)->scale == 2 && !lora_at(&a, 0, TARGET_HEAD));
    CHECK_OK(lora_save(&a, files_path("one"), &e), &e);
    CHECK_OK(load(files_path("one"), &b, &e), &e);
    CHECK(a.count == b.count && !memcmp(a.weights, b.weights, a.count * sizeof *a.weights));
    CHECK(lora_at(&b, 0, TARGET_Q)->scale == 2);
    CHECK_OK(lora_save(&b, files_path("two"), &e), &e);
    const char *const names[] = {"adapter_model.safetensors", "adapter_config.json"};
    for (int i = 0; i < 2; i++) {
        char one[300], two[300], hex[2][65];
        snprintf(one, sizeof one, "one/%s", names[i]);
        snprintf(two, sizeof two, "two/%s", names[i]);
        CHECK_OK(sha256_file(files_path(one), hex[0], &e), &e);
        CHECK_OK(sha256_file(files_path(two), hex[1], &e), &e);
        CHECK_TEXT(hex[0], hex[1]);
    }
    lora_close(&a);
    lora_close(&b);
}

/* The golden adapter with one edit of its configuration. */
static void with_config(const char *find, const char *put)
{
    Err e;
    CHECK_OK(io_make_directory(files_path("edited"), 0, &e), &e);
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
    CHECK_INT(load(files_path("edited"), &l, &e), -1);
    CHECK_ERR(e, ERR_DATA, named);
}

/* What PEFT 0.21.2 would compute otherwise, passes over, or cannot read. */
static void refusals(void)
{
    refused("\"use_dora\": false", "\"use_dora\": true",
            "q_proj.lora_magnitude_vector is missing, but \"use_dora\" is set");
    refused("\"use_dora\": false", "\"use_dora\": 1", "\"use_dora\" must be true or false");
    refused("\"bias\": \"none\"", "\"bias\": \"some\"", "bias");
    refused("\"bias\": \"none\"", "\"bias\": null", "bias");
    refused("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]", "modules_to_save");
    refused("\"modules_to_save\": null", "\"modules_to_save\": [\"score\", \"tokens\"]",
            "modules_to_save");
    refused("\"target_parameters\": null", "\"target_parameters\": [\"q_proj.weight\"]",
            "target_parameters");
    refused("\"layer_replication\": null", "\"layer_replication\": [[0,2],[0,2]]",
            "layer_replication");
    refused("\"layer_replication\": null", "\"layer_replication\": [[0,1]]", "layer_replication");
    refused("\"init_lora_weights\": true,\n  \"kasa_config\": null,\n  \"layer_replication\": "
            "null,\n  \"layers_pattern\": null,\n  \"layers_to_transform\": null,\n  "
            "\"loftq_config\": {},\n  \"lora_alpha\": 6,\n  \"lora_bias\": false",
            "\"init_lora_weights\": false, \"lora_alpha\": 6, \"lora_bias\": true", "lora_bias");
    refused("\"peft_type\": \"LORA\"", "\"peft_type\": \"IA3\"", "IA3");
    refused("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"", "pissa");
    refused("\"init_lora_weights\": true", "\"init_lora_weights\": \"OLoRA\"", "OLoRA");
    refused("\"init_lora_weights\": true", "\"init_lora_weights\": \"loftq\"", "loftq");
    refused("\"init_lora_weights\": true", "\"init_lora_weights\": 1", "init_lora_weights");
    refused("\"use_rslora\": false", "\"use_rslora\": 1", "use_rslora");
    refused("\"lora_dropout\": 0.0", "\"lora_dropout\": 1.5", "lora_dropout");
    refused("\"alora_invocation_tokens\": null", "\"alora_invocation_tokens\": [5]", "alora");
    refused("\"kasa_config\": null", "\"kasa_config\": {}", "kasa_config");
    refused("\"use_bdlora\": null", "\"use_bdlora\": {}", "use_bdlora");
    refused("\"r\": 3", "\"r\": 4", "rank 3");
    refused("\"r\": 3", "\"r\": -1", "\"r\"");
    refused("\"rank_pattern\": {}", "\"rank_pattern\": {\"q_(proj|x)\": 4}", "rank 3");
    refused("\"rank_pattern\": {}", "\"rank_pattern\": {\"(?=q).*\": 4}", "rank 3");
    refused("\"rank_pattern\": {}", "\"rank_pattern\": {\"(?>q)\": 4}",
            "adapter_config.json: rank_pattern: \"(?>q)\" is a regular expression");
    refused("{\n  \"alora", "[\n  \"alora", "adapter_config.json");
}

static void accepted(const char *find, const char *put)
{
    Lora l;
    Err e = {0};
    with_config(find, put);
    CHECK_OK(load(files_path("edited"), &l, &e), &e);
    if (!e.code) lora_close(&l);
}

/* Tensors of modules that PEFT would pass over, by its rule of targets; and the twins that fit. */
static void targets_of_peft(void)
{
    const char *layers = "\"layers_to_transform\": null", *out = "\"exclude_modules\": null";
    refused("\"o_proj\",", "", "no adapter on model.layers.0.self_attn.o_proj");
    refused("\"o_proj\",", "\"foo\",", "o_proj, but");
    refused("\"o_proj\",", "\"_proj\",", "o_proj, but");
    accepted("\"o_proj\",", "\"self_attn.o_proj\",");
    accepted("\"o_proj\",",
             "\"model.layers.0.self_attn.o_proj\", \"model.layers.1.self_attn.o_proj\",");
    refused(layers, "\"layers_to_transform\": [0]", "model.layers.1.self_attn.q_proj, but");
    refused(layers, "\"layers_to_transform\": 1", "model.layers.0.self_attn.q_proj, but");
    accepted(layers, "\"layers_to_transform\": [1, 0]");
    refused(out, "\"exclude_modules\": [\"down_proj\"]", "down_proj, but");
    accepted(out, "\"exclude_modules\": [\"wn_proj\"]");
}

/* Weights on modules that the configuration gives no adapter: PEFT does not read them. */
static void contradictions(void)
{
    const char *const targets = "\"target_modules\": [";
    const char *const none = "by \"target_modules\" there is no adapter on model.layers.0";
    refused(targets, "\"target_modules\": [\"foo\"], \"x\": [", none);
    refused(targets, "\"target_modules\": [\"q_proj\", \"roj\"], \"x\": [", none);
    refused(targets, "\"target_modules\": null, \"x\": [", none); /* for PEFT: q_proj, v_proj */
    refused(targets, "\"target_modules\": \"q_proj\", \"x\": [", none); /* a whole name */
    refused(targets, "\"target_modules\": \"model\\\\.layers\\\\.\\\\d\", \"x\": [", none);
    refused(targets, "\"target_modules\": \".*\\\\.[qkv]_proj\", \"x\": [",
            "model.layers.0.self_attn.o_proj");
    refused("\"exclude_modules\": null", "\"exclude_modules\": [\"mlp.up_proj\"]",
            "by \"exclude_modules\" there is no adapter on model.layers.0.mlp.up_proj");
    refused("\"exclude_modules\": null", "\"exclude_modules\": \".*down.*\"", "exclude_modules");
    refused("\"layers_to_transform\": null", "\"layers_to_transform\": [0]",
            "by \"layers_to_transform\" there is no adapter on model.layers.1.self_attn.q_proj");
    refused("\"layers_to_transform\": null", "\"layers_to_transform\": 1", "model.layers.0");
    refused("\"layers_to_transform\": null", "\"layers_to_transform\": [\"0\", \"1\"]", "layers.0");
    refused("\"layers_pattern\": null,\n  \"layers_to_transform\": null",
            "\"layers_pattern\": \"h\", \"layers_to_transform\": [0, 1]", "layers.0");
}

/* Python's answers: re.fullmatch(expression, name), and with an ending
 * re.match("(.*\\.)?(" + expression + ")$", name). -1 where we cannot say. */
static void expressions(void)
{
    static const char q[] = "model.layers.10.self_attn.q_proj";
    static const char down[] = "model.layers.3.mlp.down_proj";
    static const struct {
        const char *expression, *name;
        int ending, matches;
    } cases[] = {
        {"^(?!.*(?:vision|visual)).*\\.(?:q_proj|v_proj)$", q, 0, 1},
        {"^(?!.*(?:vision|visual)).*\\.(?:q_proj|v_proj)$", down, 0, 0},
        {"^(?!.*(?:self|visual)).*\\.(?:q_proj|v_proj)$", q, 0, 0},
        {"(?:.*?(?:language|text).*?(?:attn|mlp).*?(?:q_proj|up_proj).*?)|"
         "(?:\\bmodel\\.layers\\.[\\d]{1,}\\.(?:self_attn|mlp)\\.(?:(?:q_proj|k_proj)))",
         q, 0, 1},
        {"model\\.layers\\.(?:[0-9]|1[0-7])\\..*proj", q, 0, 1},
        {"model\\.layers\\.(?:[0-9]|1[1-7])\\..*proj", q, 0, 0},
        {"(?i).*Q_PROJ", q, 0, 1},
        {".*Q_PROJ", q, 0, 0},
        {".*(?<!down)_proj", q, 0, 1},
        {".*(?<!down)_proj", down, 0, 0},
        {".*(?<=mlp\\.)down_.*", down, 0, 1},
        {".*(?=q_).*_proj", q, 0, 1},
        {"(?P<all>.*)\\.(?P<one>[qk])_proj", q, 0, 1},
        {".*\\.[^.qv]+_proj", q, 0, 0},
        {".*\\.[^.qv]+_proj", down, 0, 1},
        {"q_proj", q, 0, 0},
        {"q_proj", q, 1, 1},
        {"proj", q, 1, 0},
        {"self_attn\\..*", q, 1, 1},
        {"a|ab", "ab", 0, 1}, /* the whole name, though `a` matches its beginning */
        {"(a?){2,3}b{,2}", "aabb", 0, 1},
        {"(a?){2,3}b{,2}", "aaaabb", 0, 0},
        {"a{2}?a{1,}?", "aaaa", 0, 1},
        {"(|a)*b", "aab", 0, 1},
        {"x{,y}", "x{,y}", 0, 1}, /* a brace that counts nothing stands for itself */
        {"\\w+\\W\\D\\B.\\S\\Z", "ab.cde", 0, 1},
        {"[]a-c-]+", "a]-b", 0, 1},
        {"[\\w.]+", q, 0, 1},
        {"", "", 0, 1},
        {"(.)\\1", "aa", 0, -1},
        {"a*+", "aa", 0, -1},
        {"(?>a)", "a", 0, -1},
        {"(?i:a)", "a", 0, -1},
        {"(?x)a", "a", 0, -1},
        {"(?i)a", "a", 1, -1}, /* not at the beginning there: Python refuses it */
        {"*a", "a", 0, -1},
        {"a**", "a", 0, -1},
        {"a{2}{2}", "aaaa", 0, -1},
        {"(a", "a", 0, -1},
        {"a)", "a", 0, -1},
        {"[a", "a", 0, -1},
        {"a\\", "a", 0, -1},
        {"[b-a]", "a", 0, -1},
        {"a{3,2}", "aa", 0, -1},
        {"\\q", "q", 0, -1},
        {"\xc3\xa9", "a", 0, -1},
        {"((((a*)*)*)*)*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 0, -1}, /* takes too long */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *x = cases[i].expression;
        int found = lora_pattern_matches(x, strlen(x), cases[i].ending, cases[i].name);
        if (found != cases[i].matches) printf("%s on %s: %d\n", x, cases[i].name, found);
        CHECK_INT(found, cases[i].matches);
    }
    char longer[600];
    memset(longer, 'a', sizeof longer);
    CHECK_INT(lora_pattern_matches(longer, sizeof longer, 0, "a"), -1);
    memset(longer, '(', sizeof longer);
    CHECK_INT(lora_pattern_matches(longer, 500, 0, "a"), -1);
}

static char said[512];

static void hear(void *ctx, char level, const char *text)
{
    (void)ctx, (void)level;
    snprintf(said, sizeof said, "%s", text);
}

/* An expression that cannot be evaluated is refused; modules without weights are told. */
static void targets_by_expression(void)
{
    const char *const targets = "\"target_modules\": [";
    Lora l;
    Err e = {0};
    const Log log = {NULL, hear};
    refused(targets, "\"target_modules\": \"(.*)_pro(?>j)\", \"x\": [",
            "adapter_config.json: target_modules: \"(.*)_pro(?>j)\" is a regular expression");
    refused("\"exclude_modules\": null", "\"exclude_modules\": \"(a)\\\\1\"",
            "adapter_config.json: exclude_modules: \"(a)\\1\" is a regular expression");
    refused(targets, "\"target_modules\": \"^(?!.*down).*_proj$\", \"x\": [",
            "no adapter on model.layers.0.mlp.down_proj");
    accepted(targets, "\"target_modules\": \"^(?!.*vision).*_proj$\", \"x\": [");
    with_config(targets, "\"target_modules\": \"(?!vision)(.*_proj|lm_head)\", \"x\": [");
    CHECK_OK(load(files_path("edited"), &l, &e), &e);
    lora_describe(&l, "edited", &log);
    CHECK_INT(l.absent, 1);
    CHECK_HAS(said, "has no weights for 1 of the modules that are named (first: lm_head)");
    lora_close(&l);
}

/* Values on which nothing depends for these models: PEFT 0.21.2 computes the same with them. */
static void harmless(void)
{
    static const char *const edits[][2] = {
        {"\"bias\": \"none\"", "\"bias\": \"lora_only\""},
        {"\"bias\": \"none\"", "\"bias\": \"all\""},
        {"\"fan_in_fan_out\": false", "\"fan_in_fan_out\": true"},
        {"\"modules_to_save\": null", "\"modules_to_save\": [\"score\", \"classifier\"]"},
        {"\"target_parameters\": null", "\"target_parameters\": [\"experts.gate_up_proj\"]"},
        {"\"layer_replication\": null", "\"layer_replication\": [[0, 2]]"},
        {"\"layer_replication\": null", "\"layer_replication\": [[0, 1], [1, 2]]"},
        {"\"lora_bias\": false", "\"lora_bias\": true"},
        {"\"use_qalora\": false", "\"use_qalora\": true"},
        {"\"velora_config\": null", "\"velora_config\": {\"num_groups\": 8}"},
        {"\"monteclora_config\": null", "\"monteclora_config\": {}"},
        {"\"init_lora_weights\": true", "\"init_lora_weights\": \"Gaussian\""},
        {"\"init_lora_weights\": true", "\"init_lora_weights\": \"lora_ga\""},
        {"\"init_lora_weights\": true", "\"init_lora_weights\": \"mica\""},
        {"\"init_lora_weights\": true", "\"init_lora_weights\": null"},
        {"\"loftq_config\": {}", "\"loftq_config\": {\"loftq_bits\": 4}"},
        {"\"eva_config\": null", "\"eva_config\": {\"rho\": 2.0}"},
        {"\"megatron_core\": \"megatron.core\"", "\"megatron_core\": null"},
        {"\"task_type\": \"CAUSAL_LM\"", "\"task_type\": \"FEATURE_EXTRACTION\""},
        {"\"auto_mapping\": null", "\"auto_mapping\": {\"unsloth_fixed\": true}"},
        {"\"ensure_weight_tying\": false", "\"ensure_weight_tying\": true"},
        {"\"lora_dropout\": 0.0", "\"lora_dropout\": 1.0"},
        {"\"exclude_modules\": null", "\"exclude_modules\": [\"vision\", \"proj\"]"},
        {"\"exclude_modules\": null", "\"exclude_modules\": \"vision.*\""},
        {"\"layers_to_transform\": null", "\"layers_to_transform\": [0, 1]"},
        {"\"layers_to_transform\": null", "\"layers_to_transform\": []"},
        {"\"target_modules\": [", "\"target_modules\": \"all-linear\", \"x\": ["},
        {"\"target_modules\": [",
         "\"target_modules\": \"(?:.*?(?:self_attn|mlp).*?(?:\\\\w+_proj))|x{1,2}\", \"x\": ["},
    };
    Lora plain, l;
    Err e = {0};
    CHECK_OK(load(golden_path("llama/adapter"), &plain, &e), &e);
    CHECK_TEXT(plain.unread, "");
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        with_config(edits[i][0], edits[i][1]);
        int failed = load(files_path("edited"), &l, &e);
        CHECK(!failed);
        if (failed) printf("%s: %s\n", edits[i][1], e.text);
        if (failed) continue;
        CHECK(l.count == plain.count && !memcmp(l.weights, plain.weights, l.count * sizeof(real)));
        CHECK(lora_at(&l, 1, TARGET_UP)->scale == lora_at(&plain, 1, TARGET_UP)->scale);
        lora_close(&l);
    }
    with_config("\"revision\": null", "\"revision\": null, \"use_xlora\": true, \"off\": null");
    CHECK_OK(load(files_path("edited"), &l, &e), &e);
    CHECK_TEXT(l.unread, "use_xlora");
    lora_close(&l);
    with_config("\"velora_config\": null", "\"velora_config\": {}"); /* it acts in training */
    CHECK_INT(lora_load(&l, files_path("edited"), &llama, 1, &e), -1);
    CHECK_ERR(e, ERR_DATA, "velora_config");
    with_config("\"init_lora_weights\": true", "\"init_lora_weights\": \"mica\"");
    CHECK_INT(lora_load(&l, files_path("edited"), &llama, 1, &e), -1);
    CHECK_ERR(e, ERR_DATA, "mica");
    lora_close(&plain);
}

/* A bias beside a B is passed over where it is zero, and refused where it counts. */
static void biases(void)
{
    Lora plain, l;
    Err e = {0};
    NamedParam p[2];
    StOut outs[3];
    float bias[32] = {0};
    CHECK_OK(load(golden_path("llama/adapter"), &plain, &e), &e);
    with_config("\"lora_bias\": false", "\"lora_bias\": true");
    for (size_t i = 0; i < 2; i++) {
        lora_param(&plain, i, &p[i]);
        outs[i] = (StOut){.name = p[i].name,
                          .dtype = DTYPE_F32,
                          .n_dims = 2,
                          .shape = {p[i].rows, p[i].cols},
                          .data = p[i].w};
    }
    outs[2] = (StOut){.name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
                      .dtype = DTYPE_F32,
                      .n_dims = 1,
                      .shape = {32},
                      .data = bias};
    for (int counts = 0; counts < 2; counts++) {
        bias[31] = (float)counts;
        CHECK_OK(
            safetensors_write(files_path("edited/adapter_model.safetensors"), outs, 3, NULL, &e),
            &e);
        CHECK_INT(load(files_path("edited"), &l, &e), (counts ? -1 : 0));
        if (!counts) lora_close(&l);
    }
    CHECK_ERR(e, ERR_DATA, "q_proj.lora_B.bias is not zero");
    lora_close(&plain);
}

/* Writes A and B of a slot under these names into "edited". */
static void write_halves(const Lora *l, const char *a_name, const char *b_name, const char *more)
{
    NamedParam a, b;
    Err e;
    lora_param(l, 0, &a);
    lora_param(l, 1, &b);
    const StOut outs[] = {
        {.name = a_name, .dtype = DTYPE_F32, .n_dims = 2, .shape = {3, 16}, .data = a.w},
        {.name = b_name, .dtype = DTYPE_F32, .n_dims = 2, .shape = {32, 3}, .data = b.w},
        {.name = more, .dtype = DTYPE_F32, .n_dims = 2, .shape = {3, 16}, .data = a.w}};
    CHECK_OK(safetensors_write(files_path("edited/adapter_model.safetensors"), outs, more ? 3 : 2,
                               NULL, &e),
             &e);
}

/* Files that were made of a whole PeftModel name the adapter, "default", in each tensor. */
static void names_of_adapters(void)
{
#define Q "base_model.model.model.layers.0.self_attn.q_proj."
    Lora plain, l;
    Err e = {0};
    const Log log = {NULL, hear};
    CHECK_OK(load(golden_path("llama/adapter"), &plain, &e), &e);
    with_config("\"r\": 3", "\"r\": 3");
    write_halves(&plain, Q "lora_A.default.weight", Q "lora_B.default.weight", NULL);
    CHECK_OK(load(files_path("edited"), &l, &e), &e);
    CHECK(l.count == 3 * 16 + 32 * 3 && !memcmp(l.weights, plain.weights, l.count * sizeof(real)));
    l.absent = 0;
    lora_describe(&l, "edited", &log);
    CHECK_HAS(said, "edited/adapter_model.safetensors: names of tensors hold the adapter's own");
    lora_close(&l);
    write_halves(&plain, Q "lora_A.default.weight", Q "lora_B.weight", Q "lora_A.weight");
    CHECK_INT(load(files_path("edited"), &l, &e), -1);
    CHECK_ERR(e, ERR_DATA, "holds both");
    write_halves(&plain, Q "lora_A.reference.weight", Q "lora_B.reference.weight", NULL);
    CHECK_INT(load(files_path("edited"), &l, &e), -1);
    CHECK_ERR(e, ERR_DATA, "lora_A.reference.weight fits no linear map");
    write_halves(&plain, "base_model.model.model.embed_tokens.lora_embedding_A",
                 "base_model.model.model.embed_tokens.lora_embedding_B", NULL);
    CHECK_INT(load(files_path("edited"), &l, &e), -1);
    CHECK_ERR(e, ERR_DATA, "lora_embedding_A is of an adapter on the embedding, which is not");
    lora_close(&plain);
#undef Q
}

/* rank_pattern that says what the weights say, and alpha_pattern by suffix. */
static void patterns(void)
{
    Lora l, again;
    Err e;
    with_config("\"alpha_pattern\": {}", "\"alpha_pattern\": {\"layers.1.self_attn.q_proj\": 12}");
    CHECK_OK(load(files_path("edited"), &l, &e), &e);
    CHECK(lora_at(&l, 0, TARGET_Q)->scale == 2 && lora_at(&l, 1, TARGET_Q)->scale == 4);
    CHECK_OK(lora_save(&l, files_path("patterned"), &e), &e);
    CHECK_OK(load(files_path("patterned"), &again, &e), &e);
    CHECK(lora_at(&again, 0, TARGET_Q)->scale == 2 && lora_at(&again, 1, TARGET_Q)->scale == 4);
    lora_close(&l);
    lora_close(&again);
    /* Regular expressions, as PEFT matches them: after a dot, to the end; the first one holds. */
    with_config("\"alpha_pattern\": {}",
                "\"alpha_pattern\": {\"^model.layers.0.*[qk]_proj\": 12, \"(q|v)_proj\": 24, "
                "\"proj\": 1}");
    CHECK_OK(load(files_path("edited"), &l, &e), &e);
    CHECK(lora_at(&l, 0, TARGET_Q)->scale == 4 && lora_at(&l, 0, TARGET_K)->scale == 4);
    CHECK(lora_at(&l, 0, TARGET_V)->scale == 8 && lora_at(&l, 1, TARGET_Q)->scale == 8);
    CHECK(lora_at(&l, 1, TARGET_K)->scale == 2 && lora_at(&l, 0, TARGET_UP)->scale == 2);
    lora_close(&l);
}

/* Weights that do not fit: another model, a missing half, a NaN, a transposed matrix. */
static void bad_weights(void)
{
    Lora l, out;
    Err e = {0};
    LoraShape other = llama;
    other.inputs[TARGET_Q] = 20;
    CHECK_INT(lora_load(&l, golden_path("llama/adapter"), &other, 0, &e), -1);
    CHECK_ERR(e, ERR_DATA, "q_proj.lora_A.weight: expected [rank,20], found [3,16]");
    other = llama;
    other.layers = 1;
    CHECK_INT(lora_load(&l, golden_path("llama/adapter"), &other, 0, &e), -1);
    CHECK_ERR(e, ERR_DATA, "fits no linear map");
    CHECK_OK(load(golden_path("llama/adapter"), &out, &e), &e);
    with_config("\"r\": 3", "\"r\": 3");
    NamedParam a, b;
    lora_param(&out, 0, &a);
    lora_param(&out, 1, &b);
    StOut half = {.name = a.name, .dtype = DTYPE_F32, .n_dims = 2, .shape = {3, 16}, .data = a.w};
    const char *path = files_path("edited/adapter_model.safetensors");
    CHECK_OK(safetensors_write(path, &half, 1, NULL, &e), &e);
    CHECK_INT(load(files_path("edited"), &l, &e), -1);
    CHECK_ERR(e, ERR_DATA, "q_proj.lora_B.weight is missing");
    half.shape[0] = 16, half.shape[1] = 3;
    CHECK_OK(safetensors_write(path, &half, 1, NULL, &e), &e);
    CHECK_INT(load(files_path("edited"), &l, &e), -1);
    CHECK_ERR(e, ERR_DATA, "lora_A.weight");
    lora_close(&out);
}

/* NaN in an adapter is refused on load and on save. */
static void not_finite(void)
{
    Lora l, read;
    Err e = {0};
    CHECK_OK(load(golden_path("llama/adapter"), &l, &e), &e);
    l.weights[5] = (real)NAN;
    CHECK_INT(lora_save(&l, files_path("nan"), &e), -1);
    CHECK_ERR(e, ERR_DATA, "lora_A.weight");
    CHECK(!io_exists(files_path("nan/adapter_model.safetensors")));
    l.weights[5] = 0;
    CHECK_OK(lora_save(&l, files_path("nan"), &e), &e);
    size_t len;
    char *bytes = files_read(files_path("nan/adapter_model.safetensors"), &len);
    const uint32_t nan_bits = 0x7fc00000;
    memcpy(bytes + len - sizeof nan_bits, &nan_bits, sizeof nan_bits);
    files_write("nan/adapter_model.safetensors", bytes, len);
    mem_free(bytes);
    CHECK_INT(load(files_path("nan"), &read, &e), -1);
    CHECK_ERR(e, ERR_DATA, "weight");
    lora_close(&l);
}

static void bad_options(void)
{
    Lora l;
    Err e = {0};
    unsigned targets;
    LoraConfig c = {.rank = 17, .alpha = 8, .targets = 1u << TARGET_Q};
    Text names = {0};
#define TARGETS(text) (lora_targets_form.read(&targets, text), targets)
    CHECK(TARGETS("all-linear") == 0x7f && TARGETS("lm_head,q_proj") == 0x81);
    CHECK_INT(TARGETS("all-linear,lm_head"), 0xff);
    CHECK_INT(TARGETS("q_proj,all-linear"), 0x7f);
    targets = 0x81;
    CHECK(!lora_targets_form.show(&targets, &names, &e));
    CHECK_TEXT(names.data, "q_proj,lm_head");
    text_free(&names);
    CHECK_INT(lora_create(&l, &c, &llama, 1, 0, &e), -1);
    CHECK_ERR(e, ERR_USAGE, "1 to 16");
    c.rank = 0;
    CHECK_INT(lora_create(&l, &c, &llama, 1, 0, &e), -1);
    CHECK_ERR(e, ERR_USAGE, "--rank 0");
}

/* W + scale B A, by hand; and what rounding takes from it. */
static void merging(void)
{
    real a[] = {1, 2, 3}, b[] = {10, -1}, w[] = {1, 1, 1, 0, 0, 0};
    Adapter adapter = {.a = {{a, FORMAT_REAL, 1, 3, 0}, NULL},
                       .b = {{b, FORMAT_REAL, 2, 1, 0}, NULL},
                       .scale = 0.5};
    const real want[] = {6, 11, 16, -0.5f, -1, -1.5f};
    MergeReport r = {0};
    Err e;
    CHECK_OK(lora_merge_into(w, &adapter, &format_f32, &r, &e), &e);
    for (int i = 0; i < 6; i++) CHECK(w[i] == want[i]);
    CHECK(r.weights == 6);
    CHECK(r.largest == 0);
    CHECK(r.error == 0);
    CHECK(r.lost == 0);
    CHECK(r.update == 33 && r.update2 == 25 + 100 + 225 + 0.25 + 1 + 2.25);

    /* bf16 has 8 bits of a number: 1 + 1/128 is the next one after 1, 256 + 2 that after 256. */
    real small[] = {1, 1, 1}, shift[] = {1.0f / 256, 1.0f / 64, 3.0f / 256}, one[] = {1};
    Adapter fine = {.a = {{shift, FORMAT_REAL, 1, 3, 0}, NULL},
                    .b = {{one, FORMAT_REAL, 1, 1, 0}, NULL},
                    .scale = 1};
    r = (MergeReport){0};
    CHECK_OK(lora_merge_into(small, &fine, &format_bf16, &r, &e), &e);
    CHECK(small[0] == 1 && small[1] == 1 + 1.0f / 64 && small[2] == 1 + 1.0f / 64); /* to even */
    CHECK(r.largest == 1.0 / 256 && r.error == 2.0 / 256 && r.error2 == 2.0 / 65536);
    CHECK(r.lost == 1.0 / 256 && r.update == 8.0 / 256);
    /* A base that is rounded itself: what counts is whether the adapter is seen. */
    real between[] = {1 + 1.0f / 512}, nothing[] = {1.0f / 1024};
    Adapter tiny = {.a = {{nothing, FORMAT_REAL, 1, 1, 0}, NULL},
                    .b = {{one, FORMAT_REAL, 1, 1, 0}, NULL},
                    .scale = 1};
    r = (MergeReport){0};
    CHECK_OK(lora_merge_into(between, &tiny, &format_bf16, &r, &e), &e);
    CHECK(between[0] == 1 && r.lost == r.update && r.error == 3.0 / 1024);
    real half[] = {65000}, far[] = {600};
    Adapter beyond = {.a = {{far, FORMAT_REAL, 1, 1, 0}, NULL},
                      .b = {{one, FORMAT_REAL, 1, 1, 0}, NULL},
                      .scale = 1};
    CHECK(!lora_merge_into(half, &beyond, &format_f16, NULL, &e) && !isfinite(half[0]));
}

const Test tests[] = {{"peft_draws", peft_draws},
                      {"round_trip", round_trip},
                      {"refusals", refusals},
                      {"targets_of_peft", targets_of_peft},
                      {"harmless", harmless},
                      {"contradictions", contradictions},
                      {"biases", biases},
                      {"patterns", patterns},
                      {"names_of_adapters", names_of_adapters},
                      {"expressions", expressions},
                      {"targets_by_expression", targets_by_expression},
                      {"bad_weights", bad_weights},
                      {"not_finite", not_finite},
                      {"bad_options", bad_options},
                      {"merging", merging}};
FILES_MAIN(tests)
