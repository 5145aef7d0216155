/* model_config.c - reads config.json and generation_config.json, and checks every value before
 * use. */
#include "model_config.h"
#include "maths.h"

#include <string.h>

enum { CONFIG_LIMIT = 16 << 20 /* bytes */ };

/* What a reader of config.json carries: the root, its path for messages, where notes go. */
typedef struct {
    const Json *root;
    const char *path;
    const Log *log;
    int strict;
    Err *e;
} Reader;

/* A whole number in [low, high]; `absent` when the key is missing or null (0 = required). */
static int read_size(const Reader *r, const char *key, uint64_t low, uint64_t high, uint64_t absent,
                     size_t *out)
{
    const Json *j = json_get(r->root, key);
    uint64_t value = absent;
    if (!j || j->type == JSON_NULL) {
        if (!absent) return err_set(r->e, ERR_DATA, "%s: \"%s\" is missing", r->path, key);
    } else if (json_u64(j, &value) || value < low || value > high) {
        return err_set(r->e, ERR_DATA,
                       "%s: \"%s\" is %.40s; allowed: a whole number from %llu to %llu", r->path,
                       key, j->text ? j->text : "no number", (unsigned long long)low,
                       (unsigned long long)high);
    }
    *out = (size_t)value;
    return 0;
}

/* A finite number above 0. Returns 1 when present, 0 when absent or null, -1 when wrong. */
static int read_positive(const Reader *r, const Json *object, const char *key, double *out)
{
    const Json *j = json_get(object, key);
    if (!j || j->type == JSON_NULL) return 0;
    if (json_f64(j, out) || !(*out > 0 && *out < 1e12))
        return err_set(r->e, ERR_DATA, "%s: \"%s\" is %.40s; allowed: a number above 0", r->path,
                       key, j->text ? j->text : "no number");
    return 1;
}

/* true or false; `absent` where the key is missing or null. */
static int read_flag(const Reader *r, const char *key, int absent, int *out)
{
    const Json *j = json_get(r->root, key);
    *out = absent;
    if (!j || j->type == JSON_NULL) return 0;
    if (j->type != JSON_TRUE && j->type != JSON_FALSE)
        return err_set(r->e, ERR_DATA, "%s: \"%s\" must be true or false", r->path, key);
    *out = j->type == JSON_TRUE;
    return 0;
}

/* What sets the families apart, as transformers 5.23 builds them. A key that a family does not
 * read changes nothing, whatever it says. */
typedef struct {
    const char *name;
    size_t positions; /* where "max_position_embeddings" is missing */
    size_t groups,
        D;        /* where "num_key_value_heads" or "head_dim" is missing; 0 = from the others */
    double theta; /* where "rope_theta" is missing */
    int tied;     /* where "tie_word_embeddings" is missing */
    int qkv_bias; /* always; else "attention_bias" says it, where it is read */
    int reads_attention_bias, reads_mlp_bias;
    int head_norms; /* queries and keys are normed by head */
    int skips_rope; /* "no_rope_layers" names layers without positions */
} Family;
static const Family families[] = {
    {"llama", 2048, 0, 0, 10000, 0, 0, 1, 1, 0, 0},
    {"mistral", 2048, 0, 0, 10000, 0, 0, 0, 0, 0, 0},
    {"qwen2", 32768, 32, 0, 10000, 0, 1, 0, 0, 0, 0},
    {"qwen3", 32768, 32, 128, 10000, 0, 0, 1, 0, 1, 0},
    {"smollm3", 32768, 4, 0, 2000000, 1, 0, 1, 1, 0, 1},
};
#define FAMILIES "llama, mistral, qwen2, qwen3, smollm3"

static const Family *find_family(const char *name)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (!strcmp(families[i].name, name)) return &families[i];
    return NULL;
}

/* Which maps have a bias. */
static int read_biases(const Reader *r, const Family *f, ModelConfig *c)
{
    int attention = 0;
    if (f->reads_attention_bias && read_flag(r, "attention_bias", 0, &attention)) return -1;
    if (f->reads_mlp_bias && read_flag(r, "mlp_bias", 0, &c->mlp_bias)) return -1;
    c->qkv_bias = attention || f->qkv_bias;
    c->o_bias = attention;
    c->head_norms = f->head_norms;
    return 0;
}

/* Weights of GPTQ, AWQ, bitsandbytes and their like ("quantization_config"), or of MLX
 * ("quantization"). */
static int refuse_quantized(const Reader *r)
{
    static const char *const keys[] = {"quantization", "quantization_config"};
    for (size_t i = 0; i < 2; i++) {
        const Json *j = json_get(r->root, keys[i]);
        if (!j || j->type == JSON_NULL) continue;
        const Json *method = json_get(j, "quant_method");
        const char *name = !i ? "MLX" : "no \"quant_method\"";
        if (method && method->type == JSON_STRING) name = method->text;
        return err_set(r->e, ERR_DATA,
                       "%s: \"%s\" is set: quantized weights (%.40s) are not read; use the "
                       "original weights, or a GGUF file of the model",
                       r->path, keys[i], name);
    }
    return 0;
}

static int read_family(const Reader *r, ModelConfig *c)
{
    const Json *type = json_get(r->root, "model_type"), *act = json_get(r->root, "hidden_act");
    const Family *f = type && type->type == JSON_STRING ? find_family(type->text) : NULL;
    if (!f)
        return err_set(r->e, ERR_DATA, "%s: \"model_type\" is \"%.40s\"; supported: " FAMILIES,
                       r->path, type && type->text ? type->text : "missing");
    snprintf(c->family, sizeof c->family, "%s", f->name);
    if (act && !json_is(act, "silu"))
        return err_set(r->e, ERR_DATA, "%s: \"hidden_act\" is \"%.40s\"; supported: silu", r->path,
                       act->text ? act->text : "no text");
    if (refuse_quantized(r)) return -1;
    return read_biases(r, f, c) || read_flag(r, "tie_word_embeddings", f->tied, &c->tied) ? -1 : 0;
}

/* The largest sizes we believe: far above any model, low enough that products fit 64 bits. */
#define MOST_WIDTH (1u << 20)
#define MOST_VOCABULARY (1u << 24)
#define MOST_POSITIONS (1u << 26)

/* null means as many as there are query heads; a missing key, the family's default. */
static int read_groups(const Reader *r, const Family *f, ModelConfig *c)
{
    const char *key = "num_key_value_heads";
    size_t absent = json_get(r->root, key) || !f->groups ? c->Q : f->groups;
    return read_size(r, key, 1, MOST_WIDTH, absent, &c->G);
}

static int read_sizes(const Reader *r, ModelConfig *c)
{
    const Family *f = find_family(c->family);
    if (read_size(r, "num_hidden_layers", 1, MODEL_MAX_LAYERS, 0, &c->layers) ||
        read_size(r, "hidden_size", 1, MOST_WIDTH, 0, &c->H) ||
        read_size(r, "intermediate_size", 1, MOST_WIDTH, 0, &c->F) ||
        read_size(r, "vocab_size", 1, MOST_VOCABULARY, 0, &c->V) ||
        read_size(r, "num_attention_heads", 1, MOST_WIDTH, 0, &c->Q) || read_groups(r, f, c) ||
        read_size(r, "max_position_embeddings", 1, MOST_POSITIONS, f->positions, &c->max_positions))
        return -1;
    if (c->Q % c->G)
        return err_set(r->e, ERR_DATA,
                       "%s: \"num_attention_heads\" %zu is not a multiple of "
                       "\"num_key_value_heads\" %zu",
                       r->path, c->Q, c->G);
    const Json *d = json_get(r->root, "head_dim");
    int follows = d ? d->type == JSON_NULL : !f->D; /* from the other sizes */
    size_t absent = !follows ? f->D : c->H / c->Q ? c->H / c->Q : 1;
    if (follows && c->H % c->Q)
        return err_set(r->e, ERR_DATA,
                       "%s: \"hidden_size\" %zu is not a multiple of "
                       "\"num_attention_heads\" %zu, and there is no \"head_dim\"",
                       r->path, c->H, c->Q);
    if (read_size(r, "head_dim", 2, 4096, absent ? absent : 1, &c->D)) return -1;
    if (c->D % 2 || c->D == 0)
        return err_set(r->e, ERR_DATA,
                       "%s: heads have width %zu; rotary positions need an even one", r->path,
                       c->D);
    if (c->Q * c->D > MOST_WIDTH)
        return err_set(r->e, ERR_DATA, "%s: %zu heads of width %zu are too wide", r->path, c->Q,
                       c->D);
    return 0;
}

/* The families that came later may have a window in some of their layers only. */
static int refuse_window(const Reader *r, const ModelConfig *c)
{
    int uses;
    size_t full = 0;
    const Json *j = json_get(r->root, "sliding_window");
    if (read_flag(r, "use_sliding_window", 0, &uses)) return -1;
    if (!uses || (j && j->type == JSON_NULL)) return 0;
    if (strcmp(c->family, "smollm3") &&
        read_size(r, "max_window_layers", 0, MOST_POSITIONS, 28, &full))
        return -1;
    if (full >= c->layers) return 0;
    return err_set(r->e, ERR_DATA,
                   "%s: \"use_sliding_window\" is true: a window in some layers only is not "
                   "supported",
                   r->path);
}

/* Mistral sees only the last `sliding_window` positions; null and 0 mean all, and a missing key
 * means 4096, as in transformers' MistralConfig. Llama has no window. */
static int read_window(const Reader *r, ModelConfig *c)
{
    const Json *j = json_get(r->root, "sliding_window");
    const size_t mistral_default = 4096;
    c->window = 0;
    if (!strcmp(c->family, "llama")) return 0;
    if (strcmp(c->family, "mistral")) return refuse_window(r, c);
    if (j && j->type == JSON_NULL) return 0;
    if (!j) {
        c->window = mistral_default;
        log_note(r->log, 'i', "%s: no \"sliding_window\"; Mistral's default %zu is used", r->path,
                 mistral_default);
        return 0;
    }
    return read_size(r, "sliding_window", 0, MOST_POSITIONS, 1, &c->window);
}

/* Two places may give theta and scaling: transformers 4 (rope_theta, rope_scaling) and
 * 5 (rope_parameters). They must agree. */
static int read_theta(const Reader *r, const Json *parameters, ModelConfig *c)
{
    double inner = 0, outer = 0;
    int in = parameters ? read_positive(r, parameters, "rope_theta", &inner) : 0;
    int out = read_positive(r, r->root, "rope_theta", &outer);
    const double family_default = find_family(c->family)->theta;
    if (in < 0 || out < 0) return -1;
    if (in && out && inner != outer)
        return err_set(r->e, ERR_DATA, "%s: \"rope_theta\" is %g, but %g in \"rope_parameters\"",
                       r->path, outer, inner);
    if (!in && !out) {
        if (r->strict) return err_set(r->e, ERR_DATA, "%s: \"rope_theta\" is missing", r->path);
        log_note(r->log, 'w', "%s: no \"rope_theta\"; the default %g is used", r->path,
                 family_default);
    }
    c->rope.theta = in ? inner : out ? outer : family_default;
    return 0;
}

static int read_llama3(const Reader *r, const Json *scaling, ModelConfig *c)
{
    const struct {
        const char *key;
        double *value;
    } fields[] = {{"low_freq_factor", &c->rope.low_freq_factor},
                  {"high_freq_factor", &c->rope.high_freq_factor},
                  {"original_max_position_embeddings", &c->rope.original_max_positions}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        int found = read_positive(r, scaling, fields[i].key, fields[i].value);
        if (found < 0) return -1;
        if (!found)
            return err_set(r->e, ERR_DATA, "%s: rope type llama3 needs \"%s\"", r->path,
                           fields[i].key);
    }
    if (c->rope.high_freq_factor <= c->rope.low_freq_factor)
        return err_set(r->e, ERR_DATA,
                       "%s: \"high_freq_factor\" %g must be above "
                       "\"low_freq_factor\" %g",
                       r->path, c->rope.high_freq_factor, c->rope.low_freq_factor);
    return 0;
}

/* transformers' get_mscale: how much longer contexts scale attention. */
static double yarn_scale(double factor, double weight)
{
    return factor <= 1 ? 1 : 0.1 * weight * maths_log(factor) + 1;
}

/* Only "factor" has no default. */
static int read_yarn(const Reader *r, const Json *scaling, ModelConfig *c)
{
    double weight = 0, weight_all = 0;
    c->rope.original_max_positions = (double)c->max_positions;
    c->rope.beta_fast = 32;
    c->rope.beta_slow = 1;
    int given = read_positive(r, scaling, "attention_factor", &c->rope.attention_factor);
    if (given < 0 ||
        read_positive(r, scaling, "original_max_position_embeddings",
                      &c->rope.original_max_positions) < 0 ||
        read_positive(r, scaling, "beta_fast", &c->rope.beta_fast) < 0 ||
        read_positive(r, scaling, "beta_slow", &c->rope.beta_slow) < 0 ||
        read_positive(r, scaling, "mscale", &weight) < 0 ||
        read_positive(r, scaling, "mscale_all_dim", &weight_all) < 0)
        return -1;
    const Json *truncate = json_get(scaling, "truncate");
    c->rope.keeps_fractions = truncate && truncate->type == JSON_FALSE;
    if (!given)
        c->rope.attention_factor =
            weight > 0 && weight_all > 0
                ? yarn_scale(c->rope.factor, weight) / yarn_scale(c->rope.factor, weight_all)
                : yarn_scale(c->rope.factor, 1);
    return 0;
}

static int read_scaling(const Reader *r, const Json *scaling, ModelConfig *c)
{
    const Json *type = json_get(scaling, "rope_type");
    if (!type) type = json_get(scaling, "type");
    snprintf(c->rope.type, sizeof c->rope.type, "default");
    c->rope.factor = 1;
    if (!type || json_is(type, "default")) return 0;
    if (!json_is(type, "linear") && !json_is(type, "llama3") && !json_is(type, "yarn") &&
        !json_is(type, "dynamic"))
        return err_set(r->e, ERR_DATA,
                       "%s: rope type \"%.40s\" is not supported; supported: "
                       "default, linear, llama3, yarn, dynamic",
                       r->path, type->text ? type->text : "no text");
    snprintf(c->rope.type, sizeof c->rope.type, "%s", type->text);
    int found = read_positive(r, scaling, "factor", &c->rope.factor);
    if (found == 0)
        err_set(r->e, ERR_DATA, "%s: rope type %s needs \"factor\"", r->path, c->rope.type);
    if (found <= 0) return -1;
    if (json_is(type, "yarn")) return read_yarn(r, scaling, c);
    return json_is(type, "llama3") ? read_llama3(r, scaling, c) : 0;
}

/* "no_rope_layers": a list of 1 (with positions) and 0; without it, every layer whose number, from
 * 1, is a multiple of "no_rope_layer_interval" has none. */
static int read_no_rope(const Reader *r, ModelConfig *c)
{
    const Json *list = json_get(r->root, "no_rope_layers");
    size_t interval = 1, at = 0;
    if (!find_family(c->family)->skips_rope) return 0;
    if (read_size(r, "no_rope_layer_interval", 1, MOST_POSITIONS, 4, &interval)) return -1;
    if (!list || list->type == JSON_NULL) {
        for (size_t i = 0; i < c->layers; i++) c->no_rope[i] = (i + 1) % interval == 0;
        return 0;
    }
    const Json *one = list->type == JSON_ARRAY ? list->child : NULL;
    for (; one && at < c->layers; one = one->next, at++) {
        uint64_t turns;
        if (json_u64(one, &turns) || turns > 1) break;
        c->no_rope[at] = !turns;
    }
    if (!one && at == c->layers) return 0;
    return err_set(r->e, ERR_DATA,
                   "%s: \"no_rope_layers\" must be a list of %zu numbers, 0 or 1, one a layer",
                   r->path, c->layers);
}

static int read_rope(const Reader *r, ModelConfig *c)
{
    const Json *old = json_get(r->root, "rope_scaling");
    const Json *new = json_get(r->root, "rope_parameters");
    if (old && old->type != JSON_OBJECT) old = NULL; /* null = none */
    if (new && new->type != JSON_OBJECT) new = NULL;
    if (read_theta(r, new, c)) return -1;
    if (old && new) {
        ModelConfig other = *c;
        if (read_scaling(r, old, &other) || read_scaling(r, new, c)) return -1;
        if (strcmp(other.rope.type, c->rope.type) || other.rope.factor != c->rope.factor)
            return err_set(r->e, ERR_DATA, "%s: \"rope_scaling\" and \"rope_parameters\" disagree",
                           r->path);
        return 0;
    }
    return read_scaling(r, new ? new : old, c);
}

/* Nothing here depends on it; training says so where TRL's would. */
static void read_dropout(const Reader *r, ModelConfig *c)
{
    const Json *j = json_get(r->root, "attention_dropout");
    if (!j || json_f64(j, &c->attention_dropout)) c->attention_dropout = 0;
}

static int read_norm(const Reader *r, ModelConfig *c)
{
    const double transformers_default = 1e-6;
    int found = read_positive(r, r->root, "rms_norm_eps", &c->norm_eps);
    if (found < 0) return -1;
    if (found) return 0;
    c->norm_eps = transformers_default;
    log_note(r->log, 'w', "%s: no \"rms_norm_eps\"; the default %g is used", r->path, c->norm_eps);
    return 0;
}

/* A token id that must lie in the vocabulary; null and absent give -1. */
static int read_id(const Reader *r, const char *key, const Json *j, size_t V, int32_t *out)
{
    int64_t id;
    *out = -1;
    if (!j || j->type == JSON_NULL) return 0;
    if (json_i64(j, &id) || id < 0 || (uint64_t)id >= V)
        return err_set(r->e, ERR_DATA, "%s: \"%s\" is %.40s; allowed: an id from 0 to %zu", r->path,
                       key, j->text ? j->text : "no number", V - 1);
    *out = (int32_t)id;
    return 0;
}

/* eos_token_id: a number or a list of them. */
static int read_eos(const Reader *r, ModelConfig *c)
{
    const Json *j = json_get(r->root, "eos_token_id");
    if (!j || j->type == JSON_NULL) return 0;
    const Json *first = j->type == JSON_ARRAY ? j->child : j;
    c->n_eos = 0;
    for (const Json *id = first; id; id = j->type == JSON_ARRAY ? id->next : NULL) {
        if (c->n_eos == MODEL_MAX_EOS)
            return err_set(r->e, ERR_DATA, "%s: \"eos_token_id\" lists more than %d ids", r->path,
                           MODEL_MAX_EOS);
        if (read_id(r, "eos_token_id", id, c->V, &c->eos[c->n_eos])) return -1;
        if (c->eos[c->n_eos] >= 0) c->n_eos++;
    }
    return 0;
}

/* Keys of generation_config.json by which transformers' generate changes an answer, and the numbers
 * that ask for nothing; the values of others ask for something if they are not null. */
static const struct {
    const char *key;
    double nothing;
} asked[] = {
    {"repetition_penalty", 1}, {"no_repeat_ngram_size", 0}, {"encoder_repetition_penalty", 1},
    {"min_length", 0}, {"min_new_tokens", 0}, {"num_beams", 1}, {"typical_p", 1},
    {"epsilon_cutoff", 0}, {"eta_cutoff", 0}, {"penalty_alpha", 0}, {"guidance_scale", 1},
    {"stop_strings", 0}, {"suppress_tokens", 0}, {"begin_suppress_tokens", 0},
    {"bad_words_ids", 0}, {"sequence_bias", 0}, {"forced_bos_token_id", -1},
    {"forced_eos_token_id", -1}, {"exponential_decay_length_penalty", 0},
    {"watermarking_config", 0}};

/* Lists those that the file has, as many as fit. */
static void read_unfollowed(const Reader *r, ModelConfig *c)
{
    size_t at = 0;
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        const Json *j = json_get(r->root, asked[i].key);
        double x;
        size_t len = strlen(asked[i].key) + 2;
        if (!j || j->type == JSON_NULL || at + len >= sizeof c->unfollowed) continue;
        if (!json_f64(j, &x) && x >= asked[i].nothing && x <= asked[i].nothing) continue;
        if ((j->type == JSON_ARRAY || j->type == JSON_OBJECT) && !j->len) continue;
        at += (size_t)snprintf(c->unfollowed + at, sizeof c->unfollowed - at, "%s%s",
                               at ? ", " : "", asked[i].key);
    }
}

static int parse_file(const char *dir, const char *name, int optional, Pool *pool, char *path,
                      char **text, const Json **root, Err *e)
{
    size_t len;
    *root = NULL;
    *text = NULL;
    if (io_path(path, IO_PATH_MAX, dir, name, e)) return -1;
    if (optional && !io_exists(path)) return 0;
    if (io_read_file(path, CONFIG_LIMIT, text, &len, e)) return -1;
    if (len >= 2 && (!memcmp(*text, "\xff\xfe", 2) || !memcmp(*text, "\xfe\xff", 2)))
        return err_set(e, ERR_DATA, "%s: is UTF-16; JSON must be UTF-8", path);
    *root = json_parse(pool, *text, len, path, JSON_ALLOW_BOM, e);
    if (*root && (*root)->type != JSON_OBJECT)
        return err_set(e, ERR_DATA, "%s: must hold a JSON object", path);
    return *root ? 0 : -1;
}

/* "dtype" of transformers 5, "torch_dtype" before. */
static void read_dtype_name(const Reader *r, ModelConfig *c)
{
    const Json *j = json_get(r->root, "dtype");
    if (!j) j = json_get(r->root, "torch_dtype");
    if (j && j->type == JSON_STRING) snprintf(c->dtype, sizeof c->dtype, "%s", j->text);
}

/* All that config.json says. */
static int read_config(const Reader *r, ModelConfig *c)
{
    memset(c, 0, sizeof *c);
    if (read_family(r, c) || read_sizes(r, c) || read_window(r, c) || read_rope(r, c) ||
        read_no_rope(r, c) || read_norm(r, c) ||
        read_id(r, "bos_token_id", json_get(r->root, "bos_token_id"), c->V, &c->bos) ||
        read_eos(r, c))
        return -1;
    read_dtype_name(r, c);
    read_dropout(r, c);
    return 0;
}

int model_config_parse(ModelConfig *c, const char *text, size_t len, const char *name, int strict,
                       const Log *log, Err *e)
{
    Pool pool = {0};
    Reader r = {.path = name, .log = log, .strict = strict, .e = e};
    r.root = json_parse(&pool, text, len, name, 0, e);
    int bad = !r.root || read_config(&r, c);
    pool_free(&pool);
    return bad ? -1 : 0;
}

int model_config_read(ModelConfig *c, const char *dir, int strict, const Log *log, Err *e)
{
    char path[IO_PATH_MAX], *text;
    Pool pool = {0};
    Reader r = {.path = path, .log = log, .strict = strict, .e = e};
    int bad =
        parse_file(dir, "config.json", 0, &pool, path, &text, &r.root, e) || read_config(&r, c);
    mem_free(text);
    if (!bad) {
        bad = parse_file(dir, "generation_config.json", 1, &pool, path, &text, &r.root, e) ||
              (r.root && read_eos(&r, c));
        if (!bad && r.root) read_unfollowed(&r, c);
        mem_free(text);
    }
    pool_free(&pool);
    return bad ? -1 : 0;
}
