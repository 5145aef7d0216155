/* model_gguf.c - reads a model in a GGUF file: its configuration as a config.json, its tensors.
 *
 * The configuration is written as the text of the config.json that says the same, and read as any
 * other, so that each value is checked in one place and a merged model gets that text. Tensors stay
 * as they lie in the file. For some architectures writers of GGUF files interleave the two halves
 * of each head in queries and keys; a Mat whose rows are paired undoes it.
 */
#include "model_config.h"

#include "json.h"

#include <math.h>
#include <string.h>

#define TENSOR_EMBEDDING "token_embd.weight"
#define TENSOR_HEAD "output.weight"
#define TENSOR_BIAS "blk.0.attn_q.bias"
enum { KEY_MAX = 80 };

/* What sets the architectures apart. Their names begin the keys. */
typedef struct {
    const char *name, *class; /* "general.architecture"; what transformers calls the model */
    int paired;               /* the halves of each head are interleaved */
    int says_bias;            /* config.json says whether attention has a bias */
} Architecture;
static const Architecture architectures[] = {
    {"llama", "LlamaForCausalLM", 1, 0},
    {"qwen2", "Qwen2ForCausalLM", 0, 0},
    {"qwen3", "Qwen3ForCausalLM", 0, 1},
    {"smollm3", "SmolLM3ForCausalLM", 1, 0},
};
#define ARCHITECTURES "llama (Llama and Mistral), qwen2, qwen3, smollm3"

typedef struct {
    const Gguf *g;
    const Architecture *a;
    const char *path;
    Text *out;
    Err *e;
} Source;

/* A key of the architecture, as "llama.block_count", in `out`. */
static const char *key_of(const Source *s, const char *name, char out[KEY_MAX])
{
    snprintf(out, KEY_MAX, "%s.%s", s->a->name, name);
    return out;
}

/* ---- values -------------------------------------------------------------------------------- */

/* A whole number; absent 0: it must be there. Some writers give one for each layer: then all must
 * be the same. */
static int read_size(const Source *s, const char *name, uint64_t absent, uint64_t *out)
{
    char room[KEY_MAX];
    const char *key = key_of(s, name, room);
    const GgufValue *v = gguf_get(s->g, key);
    *out = absent;
    if (v && v->is_array && v->type != GGUF_STRING && v->count > 0) {
        double first = gguf_number(v, 0);
        for (uint64_t i = 1; i < v->count; i++)
            if (gguf_number(v, i) < first || gguf_number(v, i) > first)
                return err_set(s->e, ERR_DATA,
                               "%s: %s differs between layers, which is not supported", s->path,
                               key);
        if (!(first >= 0 && first < 1e9))
            return err_set(s->e, ERR_DATA, "%s: %s is %g; allowed: a whole number", s->path, key,
                           first);
        *out = (uint64_t)first;
        return 0;
    }
    int found = gguf_u64(s->g, key, out, s->e);
    if (found < 0) return -1;
    if (!found && !absent) return err_set(s->e, ERR_DATA, "%s: %s is missing", s->path, key);
    return 0;
}

/* 1 with the number of a key, 0 where it is not there. */
static int read_number(const Source *s, const char *name, double *out)
{
    char key[KEY_MAX];
    return gguf_f64(s->g, key_of(s, name, key), out, s->e);
}

static int put_size(const Source *s, const char *name, uint64_t value)
{
    return text_addf(s->out, s->e, "  \"%s\": %llu,\n", name, (unsigned long long)value);
}

/* The file has numbers as floats. The shortest decimal that gives the same float is the one that
 * its writer read: 1e-05, where the float itself is 9.99999975e-06. */
static int put_decimal(const Source *s, double value)
{
    int is_float = value >= (double)(float)value && value <= (double)(float)value;
    return is_float ? json_put_f32(s->out, (float)value, s->e) : json_put_f64(s->out, value, s->e);
}

static int put_number(const Source *s, const char *name, double value)
{
    return text_addf(s->out, s->e, "  \"%s\": ", name) || put_decimal(s, value) ||
                   text_addf(s->out, s->e, ",\n")
               ? -1
               : 0;
}

static int find_architecture(const Gguf *g, const Architecture **a, Err *e)
{
    const char *name = "";
    size_t len = 0;
    if (gguf_check_model(g, e) || gguf_text(g, "general.architecture", &name, &len, e) < 0)
        return -1;
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        *a = &architectures[i];
        if (strlen((*a)->name) == len && !memcmp((*a)->name, name, len)) return 0;
    }
    return err_set(e, ERR_DATA, "%s: general.architecture is \"%.*s\"; supported: " ARCHITECTURES,
                   g->parts[0].path, len > 60 ? 60 : (int)len, name);
}

static int refuse_experts(const Source *s)
{
    uint64_t experts;
    if (read_size(s, "expert_count", UINT64_MAX, &experts)) return -1;
    if (experts != UINT64_MAX && experts > 0)
        return err_set(s->e, ERR_DATA,
                       "%s: %s.expert_count is %llu: mixtures of experts are not supported",
                       s->path, s->a->name, (unsigned long long)experts);
    return 0;
}

/* ---- rotary positions ---------------------------------------------------------------------- */

double model_gguf_divisor(const ModelConfig *c, size_t i, size_t half)
{
    const double pi = 3.14159265358979323846, original = c->rope.original_max_positions;
    double low = c->rope.low_freq_factor, high = c->rope.high_freq_factor;
    double wave = 2 * pi * maths_pow(c->rope.theta, (double)i / (double)half);
    if (wave < original / high) return 1;
    if (wave > original / low) return c->rope.factor;
    double smooth = (original / wave - low) / (high - low);
    return 1 / ((1 - smooth) / c->rope.factor + smooth);
}

/* rope_freqs.weight has what divides each frequency. All published ones are Llama 3's, of which
 * only the factor differs; config.json can say that, and nothing else. */
static int put_factors(const Source *s, const GgufTensor *t, double theta)
{
    const double close = 1e-4;
    size_t half = (size_t)t->count;
    ModelConfig c = {.rope = {.theta = theta,
                              .low_freq_factor = 1,
                              .high_freq_factor = 4,
                              .original_max_positions = 8192}};
    if (t->n_dims != 1 || t->format != &format_f32 || half < 2)
        return err_set(s->e, ERR_DATA, "%s: " GGUF_ROPE " must be a list of F32", s->path);
    real first, last, x;
    format_unpack(t->format, &first, t->data, 0, 1);
    format_unpack(t->format, &last, t->data, half - 1, 1);
    c.rope.factor = (double)last;
    for (size_t i = 0; i < half; i++) {
        format_unpack(t->format, &x, t->data, i, 1);
        double want = model_gguf_divisor(&c, i, half);
        if (!(fabs((double)x - want) <= close * want))
            return err_set(s->e, ERR_DATA,
                           "%s: " GGUF_ROPE ": number %zu is %g, Llama 3's scaling has %g: other "
                           "scalings are not supported",
                           s->path, i, (double)x, want);
    }
    if (last <= first) return 0; /* all are 1 */
    return text_addf(s->out, s->e,
                     "  \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": ") ||
                   put_decimal(s, (double)last) ||
                   text_addf(s->out, s->e,
                             ", \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                             "\"original_max_position_embeddings\": 8192},\n")
               ? -1
               : 0;
}

static int put_linear(const Source *s, double factor)
{
    if (factor > 0 && factor <= 1 && factor >= 1) return 0;
    return text_addf(s->out, s->e,
                     "  \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": ") ||
                   put_decimal(s, factor) || text_addf(s->out, s->e, "},\n")
               ? -1
               : 0;
}

/* YaRN (Peng et al. 2023, arXiv 2309.00071). The keys are those of config.json under other names;
 * what config.json cannot say must have the value that changes nothing. */
static int put_yarn(const Source *s, double factor)
{
    static const struct {
        const char *key, *name;
    } fields[] = {{"rope.scaling.original_context_length", "original_max_position_embeddings"},
                  {"rope.scaling.yarn_beta_fast", "beta_fast"},
                  {"rope.scaling.yarn_beta_slow", "beta_slow"},
                  {"rope.scaling.yarn_attn_factor", "attention_factor"}};
    static const struct {
        const char *key;
        double nothing;
    } others[] = {{"rope.scaling.yarn_ext_factor", 1},
                  {"rope.scaling.attn_factor", 1},
                  {"rope.scaling.yarn_log_multiplier", 0}};
    double x;
    int found;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        found = read_number(s, others[i].key, &x);
        if (found < 0) return -1;
        if (found && !(x >= others[i].nothing && x <= others[i].nothing))
            return err_set(s->e, ERR_DATA, "%s: %s.%s is %g; supported: %g", s->path, s->a->name,
                           others[i].key, x, others[i].nothing);
    }
    if (text_addf(s->out, s->e, "  \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": ") ||
        put_decimal(s, factor))
        return -1;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        found = read_number(s, fields[i].key, &x);
        if (found < 0) return -1;
        if (found && (text_addf(s->out, s->e, ", \"%s\": ", fields[i].name) || put_decimal(s, x)))
            return -1;
    }
    return text_addf(s->out, s->e, "},\n");
}

static int put_scaling(const Source *s)
{
    const char *type = "none";
    size_t len = strlen(type);
    double factor = 1;
    char key[KEY_MAX];
    if (read_number(s, "rope.scale_linear", &factor) < 0 ||
        read_number(s, "rope.scaling.factor", &factor) < 0 ||
        gguf_text(s->g, key_of(s, "rope.scaling.type", key), &type, &len, s->e) < 0)
        return -1;
    if (len == 6 && !memcmp(type, "linear", len)) return put_linear(s, factor);
    if (len == 4 && !memcmp(type, "none", len)) return put_linear(s, factor);
    if (len == 4 && !memcmp(type, "yarn", len)) return put_yarn(s, factor);
    return err_set(s->e, ERR_DATA, "%s: %s is \"%.*s\"; supported: none, linear, yarn", s->path,
                   key, len > 40 ? 40 : (int)len, type);
}

static int put_rope(const Source *s, uint64_t head)
{
    const GgufTensor *factors = gguf_tensor(s->g, GGUF_ROPE);
    double theta = 10000;
    uint64_t rotated;
    if (read_number(s, "rope.freq_base", &theta) < 0 ||
        read_size(s, "rope.dimension_count", head, &rotated) || put_number(s, "rope_theta", theta))
        return -1;
    if (rotated != head)
        return err_set(s->e, ERR_DATA,
                       "%s: %s.rope.dimension_count is %llu, heads have width %llu: rotating a "
                       "part of a head is not supported",
                       s->path, s->a->name, (unsigned long long)rotated, (unsigned long long)head);
    if (factors && factors->count != head / 2)
        return err_set(s->e, ERR_DATA, "%s: " GGUF_ROPE " has %llu numbers, expected %llu",
                       s->path, (unsigned long long)factors->count, (unsigned long long)(head / 2));
    return factors ? put_factors(s, factors, theta) : put_scaling(s);
}

/* ---- the configuration --------------------------------------------------------------------- */

/* Widths: of the embedding by its tensor, of heads by their key or by division. */
static int put_sizes(const Source *s)
{
    const GgufTensor *t = gguf_tensor(s->g, TENSOR_EMBEDDING);
    uint64_t hidden, ff, layers, heads, groups, positions, head, value;
    if (!t || t->n_dims != 2)
        return err_set(s->e, ERR_DATA, "%s: tensor " TENSOR_EMBEDDING " is missing", s->path);
    if (read_size(s, "embedding_length", 0, &hidden) ||
        read_size(s, "feed_forward_length", 0, &ff) || read_size(s, "block_count", 0, &layers) ||
        read_size(s, "attention.head_count", 0, &heads) ||
        read_size(s, "attention.head_count_kv", heads, &groups) ||
        read_size(s, "context_length", 0, &positions))
        return -1;
    if (heads < 1 || heads > hidden)
        return err_set(s->e, ERR_DATA,
                       "%s: %s.attention.head_count is %llu; allowed: 1 to embedding_length, %llu",
                       s->path, s->a->name, (unsigned long long)heads, (unsigned long long)hidden);
    if (read_size(s, "attention.key_length", hidden / heads, &head) ||
        read_size(s, "attention.value_length", head, &value))
        return -1;
    if (value != head)
        return err_set(s->e, ERR_DATA,
                       "%s: %s.attention.value_length is %llu, key_length %llu: they must be the "
                       "same",
                       s->path, s->a->name, (unsigned long long)value, (unsigned long long)head);
    return put_size(s, "vocab_size", t->shape[0]) || put_size(s, "hidden_size", hidden) ||
                   put_size(s, "intermediate_size", ff) ||
                   put_size(s, "num_hidden_layers", layers) ||
                   put_size(s, "num_attention_heads", heads) ||
                   put_size(s, "num_key_value_heads", groups) || put_size(s, "head_dim", head) ||
                   put_size(s, "max_position_embeddings", positions) || put_rope(s, head)
               ? -1
               : 0;
}

/* What ends an answer: the ends of text, turn and message, each once. */
static int put_ends(const Source *s)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    uint64_t id, seen[3];
    size_t n = 0;
    int found = gguf_u64(s->g, "tokenizer.ggml.bos_token_id", &id, s->e);
    if (found < 0 || (found && put_size(s, "bos_token_id", id)) ||
        text_addf(s->out, s->e, "  \"eos_token_id\": "))
        return -1;
    for (size_t i = 0; i < 3; i++) {
        found = gguf_u64(s->g, keys[i], &id, s->e);
        if (found < 0) return -1;
        for (size_t k = 0; k < n && found; k++) found = seen[k] != id;
        if (!found) continue;
        seen[n++] = id;
        if (text_addf(s->out, s->e, "%s%llu", n > 1 ? ", " : "[", (unsigned long long)id))
            return -1;
    }
    return text_addf(s->out, s->e, n ? "],\n" : "null,\n");
}

/* The family, and what tells it apart from the others. A window makes a Mistral model of a Llama
 * one; which layers of SmolLM3 have no positions is not in the file: its readers know every fourth
 * has none. */
static int put_family(const Source *s)
{
    uint64_t window, positions;
    if (read_size(s, "attention.sliding_window", UINT64_MAX, &window) ||
        read_size(s, "context_length", 0, &positions))
        return -1;
    int has_window = window != UINT64_MAX && window > 0, is_llama = s->a == architectures;
    int is_mistral = has_window && is_llama;
    if (has_window && !is_llama && window < positions)
        return err_set(s->e, ERR_DATA,
                       "%s: %s.attention.sliding_window is %llu, below context_length, %llu: a "
                       "window in some layers only is not supported",
                       s->path, s->a->name, (unsigned long long)window,
                       (unsigned long long)positions);
    if (text_addf(s->out, s->e,
                  "  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\",\n"
                  "  \"hidden_act\": \"silu\",\n",
                  is_mistral ? "MistralForCausalLM" : s->a->class,
                  is_mistral ? "mistral" : s->a->name))
        return -1;
    if (is_mistral) return put_size(s, "sliding_window", window);
    if (!strcmp(s->a->name, "smollm3")) return put_size(s, "no_rope_layer_interval", 4);
    if (!s->a->says_bias) return 0;
    return text_addf(s->out, s->e, "  \"attention_bias\": %s,\n",
                     gguf_tensor(s->g, TENSOR_BIAS) ? "true" : "false");
}

static int put_norm(const Source *s)
{
    double eps;
    int found = read_number(s, "attention.layer_norm_rms_epsilon", &eps);
    if (found < 0) return -1;
    if (found) return put_number(s, "rms_norm_eps", eps);
    return err_set(s->e, ERR_DATA, "%s: %s.attention.layer_norm_rms_epsilon is missing", s->path,
                   s->a->name);
}

int model_gguf_config(const Gguf *g, Text *out, Err *e)
{
    Source s = {.g = g, .path = g->parts[0].path, .out = out, .e = e};
    if (find_architecture(g, &s.a, e) || refuse_experts(&s)) return -1;
    return text_addf(out, e, "{\n") || put_family(&s) || put_sizes(&s) || put_norm(&s) ||
                   put_ends(&s) ||
                   text_addf(out, e,
                             "  \"tie_word_embeddings\": %s,\n  \"dtype\": \"float32\"\n}\n",
                             gguf_tensor(g, TENSOR_HEAD) ? "false" : "true")
               ? -1
               : 0;
}

/* ---- tensors ------------------------------------------------------------------------------- */

size_t model_gguf_paired(const ModelConfig *c, const Weight *w)
{
    return w->target == TARGET_Q || w->target == TARGET_K ? c->D : 0;
}

static int take(const Model *m, const Weight *w, const GgufTensor *t, int paired, Mat *out, Err *e)
{
    size_t rows = w->kind == WEIGHT_MATRIX ? w->rows : 1;
    if (!t) return err_set(e, ERR_DATA, "%s: tensor %s is missing", m->path, w->gguf);
    uint64_t cols = t->shape[t->n_dims - 1];
    if (t->n_dims != (w->kind == WEIGHT_MATRIX ? 2 : 1) || cols != w->cols ||
        t->count / cols != rows)
        return err_set(
            e, ERR_DATA, "%s: %s: expected [%zu,%zu], found %llu numbers in rows of %llu", m->path,
            t->name, rows, w->cols, (unsigned long long)t->count, (unsigned long long)cols);
    if (!t->format)
        return err_set(e, ERR_DATA,
                       "%s: %s: type %s is not supported here; F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
                       "Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL and IQ4_XS are",
                       m->path, t->name, t->type);
    *out = (Mat){.data = t->data, .format = t->format, .rows = rows, .cols = w->cols};
    if (paired) out->paired = model_gguf_paired(&m->config, w);
    return 0;
}

/* --check-tensors: every number is finite. */
static int check_finite(const Mat *w, const char *path, const char *name, Err *e)
{
    size_t run, stride;
    real *row = mem_calloc(w->cols, sizeof *row, e);
    if (!row) return -1;
    int bad = 0;
    for (size_t r = 0; r < w->rows && !bad; r++) {
        format_unpack(w->format, row, mat_row(w, r, &run, &stride), 0, w->cols);
        size_t at = tensor_find_nonfinite(row, w->cols);
        if (at < w->cols)
            bad = err_set(e, ERR_DATA, "%s: tensor \"%.80s\": value %zu is NaN or infinite", path,
                          name, r * w->cols + at);
    }
    mem_free(row);
    return bad;
}

/* A tensor that the function does not depend on; a bias is one that it should. */
static int note_extras(const Model *m, int flags, const Log *log, Err *e)
{
    size_t others = 0, count = model_weight_count(m);
    const char *first = NULL;
    for (size_t i = 0; i < m->gguf.n_tensors; i++) {
        const GgufTensor *t = &m->gguf.tensors[i];
        size_t len = strlen(t->name);
        int known = !strcmp(t->name, GGUF_ROPE);
        Weight w;
        for (size_t k = 0; k < count && !known; k++) {
            model_weight(m, k, &w);
            known = !strcmp(t->name, w.gguf);
        }
        if (known) continue;
        if (len > 5 && !strcmp(t->name + len - 5, ".bias"))
            return err_set(e, ERR_DATA,
                           "%s: tensor %s: a bias there is not supported in files of family %s",
                           m->path, t->name, m->config.family);
        if (!others++) first = t->name;
    }
    if (!others) return 0;
    if (flags & MODEL_STRICT)
        return err_set(e, ERR_DATA,
                       "%s: --strict: %zu stored tensors are not used, the first is %s", m->path,
                       others, first);
    log_note(log, 'w', "%s: %zu stored tensors are not used, the first is %s", m->path, others,
             first);
    return 0;
}

int model_gguf_weights(Model *m, int flags, const Log *log, Err *e)
{
    const Architecture *a;
    Weight w;
    if (find_architecture(&m->gguf, &a, e)) return -1;
    for (size_t i = 0; i < model_weight_count(m); i++) {
        model_weight(m, i, &w);
        const GgufTensor *t = gguf_tensor(&m->gguf, w.gguf);
        if (take(m, &w, t, a->paired, &w.param->w, e)) return -1;
        if (flags & MODEL_CHECK_TENSORS && check_finite(&w.param->w, m->path, t->name, e))
            return -1;
        m->weight_bytes += (size_t)t->bytes;
    }
    return note_extras(m, flags, log, e);
}
