/* model_export.c - writes GGUF files: a model, with an adapter folded in or not, and an adapter by
 * itself, as llama.cpp's converters write them.
 *
 * Names of tensors come from the table in model_weights.c, in which files are read, too. The base's
 * own values are carried over where it is a GGUF file; for a directory they are made of its
 * configuration and its tokenizer.
 */
#include "model_config.h"
#include "tokenizer.h"

#include <math.h>
#include <string.h>

enum { QUANTIZATION_VERSION = 2 };

/* ---- what can be written ------------------------------------------------------------------- */

/* Other families have other architectures in GGUF, other orders of rows, or weights that the llama
 * architecture does not have. */
static int check_model(const Model *m, const Lora *lora, Err *e)
{
    static const char *const turns[] = {"default", "linear", "llama3"};
    const ModelConfig *c = &m->config;
    int is_llama = !strcmp(c->family, "llama") || !strcmp(c->family, "mistral");
    int more = c->qkv_bias || c->o_bias || c->mlp_bias || c->head_norms, known = 0;
    for (size_t i = 0; i < c->layers; i++) more |= c->no_rope[i];
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++)
        known |= !strcmp(c->rope.type, turns[i]);
    if (m->gguf.n_parts && lora && lora->n_saved)
        return err_set(e, ERR_DATA,
                       "%s: the adapter holds whole weights, and perhaps a vocabulary of its own, "
                       "which a GGUF base's values do not describe; merge into a directory, and "
                       "export that",
                       m->path);
    if (is_llama && !more && known) return 0;
    const char *extras = more ? " with biases, norms of heads or layers without positions" : "";
    return err_set(e, ERR_DATA,
                   "%s: %s%s, rotary positions of type %s: GGUF files are written of Llama and "
                   "Mistral models without biases, with positions of type default, linear or "
                   "llama3; merge into a directory, and convert that with llama.cpp's script",
                   m->path, c->family, extras, c->rope.type);
}

/* Vectors are F32, as everywhere in GGUF. Without a wish a weight stays what it is, and becomes F32
 * where it changes and its own format is not written. Rows that are no whole blocks become F16. */
static const Format *file_format(const FileWeight *s, const Mat *own, const Format *asked)
{
    const Mat *w = &s->weight.param->w;
    int same = !model_adapter(s->lora, &s->weight) && w->paired == s->paired;
    const Format *f = asked ? asked : own->format;
    if (s->weight.kind != WEIGHT_MATRIX) return &format_f32;
    if (!f->pack && (!same || f != w->format || f == &format_f64)) f = &format_f32;
    return w->cols % f->block ? &format_f16 : f;
}

/* ---- values -------------------------------------------------------------------------------- */

static int add_word(GgufValues *v, const char *key, const char *text, Err *e)
{
    return gguf_add_text(v, key, text, strlen(text), e);
}

/* The name of the new file without its folder and its ending. */
static int add_name(GgufValues *v, const char *path, Err *e)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t len = strlen(name), end = sizeof ".gguf" - 1;
    if (len > end && !strcmp(name + len - end, ".gguf")) len -= end;
    if (utf8_check(name, len) != len) return 0;
    return gguf_add_text(v, "general.name", name, len, e);
}

/* llama.cpp's number for a file that is mostly of this format. */
static int add_file_type(GgufValues *v, const Format *f, Err *e)
{
    static const struct {
        const char *name;
        uint32_t number;
    } types[] = {{"F32", 0}, {"F16", 1}, {"Q8_0", 7}, {"BF16", 32}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, f->name))
            return gguf_add_u32(v, "general.file_type", types[i].number, e);
    return 0; /* of a mixture readers find it out themselves */
}

static int add_rope(GgufValues *v, const ModelConfig *c, Err *e)
{
    if (gguf_add_u32(v, "llama.rope.dimension_count", (uint32_t)c->D, e) ||
        gguf_add_f32(v, "llama.rope.freq_base", (float)c->rope.theta, e))
        return -1;
    if (strcmp(c->rope.type, "linear")) return 0;
    return add_word(v, "llama.rope.scaling.type", "linear", e) ||
                   gguf_add_f32(v, "llama.rope.scaling.factor", (float)c->rope.factor, e)
               ? -1
               : 0;
}

static int add_sizes(GgufValues *v, const ModelConfig *c, Err *e)
{
    const struct {
        const char *key;
        size_t size;
    } sizes[] = {
        {"llama.block_count", c->layers},     {"llama.context_length", c->max_positions},
        {"llama.embedding_length", c->H},     {"llama.feed_forward_length", c->F},
        {"llama.attention.head_count", c->Q}, {"llama.attention.head_count_kv", c->G},
        {"llama.attention.key_length", c->D}, {"llama.attention.value_length", c->D},
        {"llama.vocab_size", c->V},           {"llama.attention.sliding_window", c->window}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].size && gguf_add_u32(v, sizes[i].key, (uint32_t)sizes[i].size, e)) return -1;
    return gguf_add_f32(v, "llama.attention.layer_norm_rms_epsilon", (float)c->norm_eps, e);
}

static int add_tokenizer(GgufValues *v, const Model *m, const Lora *lora, const Log *log, Err *e)
{
    const ModelConfig *c = &m->config;
    const TokenUse use = {c->V, c->bos, c->eos, c->n_eos};
    const char *dir = lora && *lora->tokenizer ? lora->tokenizer : m->path;
    Tokenizer *t = tokenizer_load(dir, log, e);
    if (!t) return -1;
    int status = tokenizer_to_gguf(t, dir, &use, v, log, e);
    tokenizer_free(t);
    return status;
}

static int values_of_directory(GgufValues *v, const Model *m, const Lora *lora, const char *path,
                               const Log *log, Err *e)
{
    const ModelConfig *c = &m->config;
    if (c->window && c->window < c->max_positions)
        log_note(log, 'w',
                 "%s: each position sees the last %zu; llama.cpp has no such window for this "
                 "architecture, and gives the same only up to there",
                 m->path, c->window);
    return add_word(v, "general.architecture", GGUF_ARCHITECTURE, e) ||
                   add_word(v, "general.type", "model", e) || add_name(v, path, e) ||
                   add_sizes(v, c, e) || add_rope(v, c, e) || add_tokenizer(v, m, lora, log, e)
               ? -1
               : 0;
}

/* What a new file says of itself: its parts, its layout, how its weights were rounded. */
static int is_of_the_file(const char *key)
{
    static const char *const begins[] = {"split.", "quantize.", "general.alignment",
                                         "general.file_type", "general.quantization_version"};
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++)
        if (!strncmp(key, begins[i], strlen(begins[i]))) return 1;
    return 0;
}

static int values_of_gguf(GgufValues *v, const Gguf *g, Err *e)
{
    for (size_t i = 0; i < g->n_values; i++)
        if (!is_of_the_file(g->values[i].key) && gguf_add_value(v, &g->values[i], e)) return -1;
    return 0;
}

/* ---- tensors ------------------------------------------------------------------------------- */

/* A weight, and the last one checks that the files it all came from are what they were. */
typedef struct {
    FileWeight saved;
    const Model *last; /* NULL: others follow */
} OutWeight;

static int put_weight(void *ctx, Writer *w, Err *e)
{
    OutWeight *o = ctx;
    if (save_weight(&o->saved, w, e)) return -1;
    return o->last && !o->last->trained ? model_check_files(o->last, e) : 0;
}

/* rope_freqs.weight: of the base's file, or computed for Llama 3's scaling. */
static int put_divisors(void *ctx, Writer *w, Err *e)
{
    const Model *m = ctx;
    const GgufTensor *t = gguf_tensor(&m->gguf, GGUF_ROPE);
    if (t) return writer_put(w, t->data, (size_t)t->bytes, e);
    for (size_t i = 0, half = m->config.D / 2; i < half; i++) {
        real x = (real)model_gguf_divisor(&m->config, i, half);
        unsigned char stored[sizeof(float)];
        format_f32.pack(stored, &x, 1);
        if (writer_put(w, stored, sizeof stored, e)) return -1;
    }
    return 0;
}

static int has_divisors(const Model *m)
{
    return m->gguf.n_parts ? gguf_tensor(&m->gguf, GGUF_ROPE) != NULL
                           : !strcmp(m->config.rope.type, "llama3");
}

/* Fills outs with all tensors; returns how many. */
static size_t list_tensors(const Model *m, const Lora *lora, const Format *asked,
                           MergeReport *report, OutWeight *weights, GgufOut *outs)
{
    size_t n = model_weight_count(m), count = 0;
    if (has_divisors(m)) {
        GgufOut *o = &outs[count++];
        snprintf(o->name, sizeof o->name, "%s", GGUF_ROPE);
        o->format = &format_f32;
        o->cols = m->config.D / 2;
        o->produce = put_divisors;
        o->ctx = (void *)(uintptr_t)m;
    }
    for (size_t i = 0; i < n; i++) {
        OutWeight *w = &weights[i];
        GgufOut *o = &outs[count++];
        model_weight(m, i, &w->saved.weight);
        w->saved.name = w->saved.weight.name;
        w->saved.lora = lora;
        w->saved.report = report;
        w->saved.paired = model_gguf_paired(&m->config, &w->saved.weight);
        w->saved.to = file_format(&w->saved, save_own(m, i, &w->saved.weight), asked);
        w->last = i + 1 == n ? m : NULL;
        snprintf(o->name, sizeof o->name, "%s", w->saved.weight.gguf);
        o->format = w->saved.to;
        o->rows = w->saved.weight.kind == WEIGHT_MATRIX ? w->saved.weight.rows : 0;
        o->cols = w->saved.weight.cols;
        o->produce = put_weight;
        o->ctx = w;
    }
    return count;
}

int model_export(const Model *m, const Lora *lora, const Format *format, const char *path,
                 MergeReport *report, const Log *log, Err *e)
{
    size_t n = model_weight_count(m);
    const Format *type = format ? format : m->gguf.n_parts ? NULL : m->embedding.w.format;
    GgufValues values = {.count = 0};
    if (check_model(m, lora, e) || save_check_head(m, lora, e)) return -1;
    OutWeight *weights = mem_calloc(n, sizeof *weights, e);
    GgufOut *outs = weights ? mem_calloc(n + 1, sizeof *outs, e) : NULL;
    int bad = !outs ||
              (m->gguf.n_parts ? values_of_gguf(&values, &m->gguf, e)
                               : values_of_directory(&values, m, lora, path, log, e)) ||
              (type && add_file_type(&values, type, e)) ||
              gguf_add_u32(&values, "general.quantization_version", QUANTIZATION_VERSION, e);
    bad = bad ||
          gguf_write(path, &values, outs, list_tensors(m, lora, format, report, weights, outs), e);
    text_free(&values.bytes);
    mem_free(outs);
    mem_free(weights);
    return bad ? -1 : 0;
}

/* ---- an adapter by itself ------------------------------------------------------------------ */

/* A or B of one adapter. */
typedef struct {
    const char *name;
    const Mat *values;
    double factor; /* of every number */
    const Format *to;
    size_t paired;
} Half;

static int put_half(void *ctx, Writer *w, Err *e)
{
    const Half *h = ctx;
    const Mat *m = h->values;
    Mat as = {NULL, h->to, m->rows, m->cols, h->paired};
    size_t n = m->rows * m->cols;
    real *values = mem_alloc(n * sizeof *values, e);
    if (!values) return -1;
    mat_unpack(m, values);
    for (size_t i = 0; i < n; i++) values[i] = (real)((double)values[i] * h->factor);
    int bad = save_values(h->name, &as, values, w, e);
    mem_free(values);
    return bad;
}

/* A file has one alpha, and readers scale each adapter by alpha / r. B makes up for what is left:
 *     scale B A = (alpha / r) (factor B) A,   factor = scale r / alpha
 * which is 1 to rounding, and then left out, unless alphas differ or ranks do in rsLoRA. */
static double fold_factor(const Adapter *a, float alpha)
{
    const double close = 1e-7;
    double factor = a->scale * (double)a->a.w.rows / (double)alpha;
    return fabs(factor - 1) < close ? 1 : factor;
}

/* Fills outs and halves with the pairs; returns how many tensors. *alpha = scale x rank of the
 * first, whose B is so left as it is. */
static size_t list_halves(const Model *m, const Lora *lora, const Format *to, Half *halves,
                          GgufOut *outs, float *alpha)
{
    size_t count = 0;
    for (size_t i = 0; i < model_weight_count(m); i++) {
        Weight w;
        model_weight(m, i, &w);
        const Adapter *a = model_adapter(lora, &w);
        if (!a) continue;
        if (!count) *alpha = (float)(a->scale * (double)a->a.w.rows);
        for (int b = 0; b < 2; b++, count++) {
            GgufOut *o = &outs[count];
            const Mat *values = b ? &a->b.w : &a->a.w;
            snprintf(o->name, sizeof o->name, "%s.lora_%c", w.gguf, b ? 'b' : 'a');
            halves[count] = (Half){o->name, values, b ? fold_factor(a, *alpha) : 1, to,
                                   b ? model_gguf_paired(&m->config, &w) : 0};
            o->format = to;
            o->rows = values->rows;
            o->cols = values->cols;
            o->produce = put_half;
            o->ctx = &halves[count];
        }
    }
    return count;
}

int model_export_adapter(const Model *m, const Lora *lora, const Format *format, const char *path,
                         Err *e)
{
    size_t n = lora_param_count(lora), count;
    GgufValues v = {.count = 0};
    float alpha = 0;
    if (lora->config.dora || lora->n_saved)
        return err_set(e, ERR_DATA,
                       "%s: the adapter holds %s, for which a GGUF adapter has no place; fold it "
                       "in: align merge -o NAME.gguf",
                       m->path, lora->config.dora ? "DoRA's sizes of rows" : "whole weights");
    if (check_model(m, NULL, e) || save_check_head(m, lora, e)) return -1;
    Half *halves = mem_calloc(n, sizeof *halves, e);
    GgufOut *outs = halves ? mem_calloc(n, sizeof *outs, e) : NULL;
    if (!outs) {
        mem_free(halves);
        return -1;
    }
    count = list_halves(m, lora, format ? format : &format_f32, halves, outs, &alpha);
    int bad = add_word(&v, "general.architecture", GGUF_ARCHITECTURE, e) ||
              add_word(&v, "general.type", "adapter", e) || add_name(&v, path, e) ||
              add_word(&v, "adapter.type", "lora", e) ||
              gguf_add_f32(&v, "adapter.lora.alpha", alpha, e) ||
              gguf_add_u32(&v, "general.quantization_version", QUANTIZATION_VERSION, e) ||
              gguf_write(path, &v, outs, count, e);
    text_free(&v.bytes);
    mem_free(outs);
    mem_free(halves);
    return bad ? -1 : 0;
}
