/* model_config.c - config.json and generation_config.json, every value checked before use. */
#include "model_config.h"

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

static int must_be_false(const Reader *r, const char *key)
{
    const Json *j = json_get(r->root, key);
    if (!j || j->type == JSON_FALSE || j->type == JSON_NULL) return 0;
    return err_set(r->e, ERR_DATA, "%s: \"%s\" is set; only models without it are supported",
                   r->path, key);
}

static int read_family(const Reader *r, ModelConfig *c)
{
    const Json *type = json_get(r->root, "model_type"), *act = json_get(r->root, "hidden_act");
    if (!type || type->type != JSON_STRING ||
        (!json_is(type, "llama") && !json_is(type, "mistral")))
        return err_set(r->e, ERR_DATA, "%s: \"model_type\" is \"%.40s\"; supported: llama, mistral",
                       r->path, type && type->text ? type->text : "missing");
    snprintf(c->family, sizeof c->family, "%s", type->text);
    if (act && !json_is(act, "silu"))
        return err_set(r->e, ERR_DATA, "%s: \"hidden_act\" is \"%.40s\"; supported: silu", r->path,
                       act->text ? act->text : "no text");
    const Json *quantized = json_get(r->root, "quantization_config");
    if (quantized && quantized->type != JSON_NULL)
        return err_set(r->e, ERR_DATA,
                       "%s: \"quantization_config\" is set: quantized checkpoints "
                       "are not supported; use the original weights",
                       r->path);
    if (must_be_false(r, "attention_bias") || must_be_false(r, "mlp_bias")) return -1;
    const Json *tied = json_get(r->root, "tie_word_embeddings");
    if (tied && tied->type != JSON_TRUE && tied->type != JSON_FALSE && tied->type != JSON_NULL)
        return err_set(r->e, ERR_DATA, "%s: \"tie_word_embeddings\" must be true or false",
                       r->path);
    c->tied = tied && tied->type == JSON_TRUE;
    return 0;
}

/* The largest sizes we believe: far above any model, low enough that products fit 64 bits. */
#define MOST_LAYERS 1024
#define MOST_WIDTH (1u << 20)
#define MOST_VOCABULARY (1u << 24)
#define MOST_POSITIONS (1u << 26)

static int read_sizes(const Reader *r, ModelConfig *c)
{
    if (read_size(r, "num_hidden_layers", 1, MOST_LAYERS, 0, &c->layers) ||
        read_size(r, "hidden_size", 1, MOST_WIDTH, 0, &c->H) ||
        read_size(r, "intermediate_size", 1, MOST_WIDTH, 0, &c->F) ||
        read_size(r, "vocab_size", 1, MOST_VOCABULARY, 0, &c->V) ||
        read_size(r, "num_attention_heads", 1, MOST_WIDTH, 0, &c->Q) ||
        read_size(r, "num_key_value_heads", 1, MOST_WIDTH, c->Q, &c->G) ||
        read_size(r, "max_position_embeddings", 1, MOST_POSITIONS, 2048, &c->max_positions))
        return -1;
    if (c->Q % c->G)
        return err_set(r->e, ERR_DATA,
                       "%s: \"num_attention_heads\" %zu is no multiple of "
                       "\"num_key_value_heads\" %zu",
                       r->path, c->Q, c->G);
    const Json *d = json_get(r->root, "head_dim");
    if ((!d || d->type == JSON_NULL) && c->H % c->Q)
        return err_set(r->e, ERR_DATA,
                       "%s: \"hidden_size\" %zu is no multiple of "
                       "\"num_attention_heads\" %zu, and there is no \"head_dim\"",
                       r->path, c->H, c->Q);
    if (read_size(r, "head_dim", 2, 4096, c->H / c->Q ? c->H / c->Q : 1, &c->D)) return -1;
    if (c->D % 2 || c->D == 0)
        return err_set(r->e, ERR_DATA,
                       "%s: heads have width %zu; rotary positions need an even one", r->path,
                       c->D);
    if (c->Q * c->D > MOST_WIDTH)
        return err_set(r->e, ERR_DATA, "%s: %zu heads of width %zu are too wide", r->path, c->Q,
                       c->D);
    return 0;
}

/* Mistral sees only the last `sliding_window` positions; null and 0 mean all, and a missing key
 * means 4096, as in transformers' MistralConfig. Llama has no window. */
static int read_window(const Reader *r, ModelConfig *c)
{
    const Json *j = json_get(r->root, "sliding_window");
    const size_t mistral_default = 4096;
    c->window = 0;
    if (strcmp(c->family, "mistral") || (j && j->type == JSON_NULL)) return 0;
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
    const double family_default = 10000;
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

static int read_scaling(const Reader *r, const Json *scaling, ModelConfig *c)
{
    const Json *type = json_get(scaling, "rope_type");
    if (!type) type = json_get(scaling, "type");
    snprintf(c->rope.type, sizeof c->rope.type, "default");
    c->rope.factor = 1;
    if (!type || json_is(type, "default")) return 0;
    if (!json_is(type, "linear") && !json_is(type, "llama3"))
        return err_set(r->e, ERR_DATA,
                       "%s: rope type \"%.40s\" is not supported; supported: "
                       "default, linear, llama3",
                       r->path, type->text ? type->text : "no text");
    snprintf(c->rope.type, sizeof c->rope.type, "%s", type->text);
    int found = read_positive(r, scaling, "factor", &c->rope.factor);
    if (found == 0)
        err_set(r->e, ERR_DATA, "%s: rope type %s needs \"factor\"", r->path, c->rope.type);
    if (found <= 0) return -1;
    return json_is(type, "llama3") ? read_llama3(r, scaling, c) : 0;
}

static int read_rope(const Reader *r, ModelConfig *c)
{
    const Json *old = json_get(r->root, "rope_scaling");
    const Json *new = json_get(r->root, "rope_parameters");
    if (old && old->type != JSON_OBJECT) old = NULL; /* null = none */
    if (new &&new->type != JSON_OBJECT) new = NULL;
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

int model_config_read(ModelConfig *c, const char *dir, int strict, const Log *log, Err *e)
{
    char path[IO_PATH_MAX], *text;
    Pool pool = {0};
    Reader r = {.path = path, .log = log, .strict = strict, .e = e};
    memset(c, 0, sizeof *c);
    int bad = parse_file(dir, "config.json", 0, &pool, path, &text, &r.root, e) ||
              read_family(&r, c) || read_sizes(&r, c) || read_window(&r, c) || read_rope(&r, c) ||
              read_norm(&r, c) ||
              read_id(&r, "bos_token_id", json_get(r.root, "bos_token_id"), c->V, &c->bos) ||
              read_eos(&r, c);
    if (!bad) read_dtype_name(&r, c);
    mem_free(text);
    if (!bad) {
        bad = parse_file(dir, "generation_config.json", 1, &pool, path, &text, &r.root, e) ||
              (r.root && read_eos(&r, c));
        mem_free(text);
    }
    pool_free(&pool);
    return bad ? -1 : 0;
}
