/* model_weights.c - one table of all weights: what a model has, what each is called, its shape.
 *
 * Whoever reads, makes, counts, trains, hashes or writes weights walks through this table by
 * model_weight. A new weight is a row here, its place in Model or ModelLayer, and its use in
 * model.c.
 */
#include "model.h"

#include <stddef.h>
#include <string.h>

/* The numbers of a configuration that shapes are made of. */
typedef enum { ONE, H, F, V, D, QD, GD } Size; /* QD = Q x D: all query heads side by side */

typedef struct {
    const char *name; /* after the layer's prefix where a layer has it; NULL: the LoRA's module */
    int target;       /* the Target of an adapter, or NO_TARGET */
    int in_layer;     /* once in each layer, or once in the model */
    size_t offset;    /* of its Param in ModelLayer, or in Model */
    Size rows, cols;
    WeightKind kind;
    const char *gguf;                      /* in GGUF files, after "blk.N." in a layer */
    int (*is_there)(const ModelConfig *c); /* NULL: always */
} Row;

#define NO_TARGET (-1)
#define IN_MODEL(field) 0, offsetof(Model, field)
#define IN_LAYER(field) 1, offsetof(ModelLayer, field)

static int is_untied(const ModelConfig *c)
{
    return !c->tied;
}

static int has_qkv_bias(const ModelConfig *c)
{
    return c->qkv_bias;
}

static int has_o_bias(const ModelConfig *c)
{
    return c->o_bias;
}

static int has_mlp_bias(const ModelConfig *c)
{
    return c->mlp_bias;
}

static int has_head_norms(const ModelConfig *c)
{
    return c->head_norms;
}

#define BIAS(name, target, size, gguf, there)                                                      \
    {name ".bias", NO_TARGET, IN_LAYER(bias[target]), ONE, size, WEIGHT_BIAS, gguf, there}

/* In the order of hashes and of trained arrays. The rows of a layer stand together. */
static const Row table[] = {
    {"model.embed_tokens.weight", NO_TARGET, IN_MODEL(embedding), V, H, WEIGHT_MATRIX, "token_embd",
     NULL},
    {NULL, TARGET_Q, IN_LAYER(linear[TARGET_Q]), QD, H, WEIGHT_MATRIX, "attn_q", NULL},
    {NULL, TARGET_K, IN_LAYER(linear[TARGET_K]), GD, H, WEIGHT_MATRIX, "attn_k", NULL},
    {NULL, TARGET_V, IN_LAYER(linear[TARGET_V]), GD, H, WEIGHT_MATRIX, "attn_v", NULL},
    {NULL, TARGET_O, IN_LAYER(linear[TARGET_O]), H, QD, WEIGHT_MATRIX, "attn_output", NULL},
    {NULL, TARGET_GATE, IN_LAYER(linear[TARGET_GATE]), F, H, WEIGHT_MATRIX, "ffn_gate", NULL},
    {NULL, TARGET_UP, IN_LAYER(linear[TARGET_UP]), F, H, WEIGHT_MATRIX, "ffn_up", NULL},
    {NULL, TARGET_DOWN, IN_LAYER(linear[TARGET_DOWN]), H, F, WEIGHT_MATRIX, "ffn_down", NULL},
    {"input_layernorm.weight", NO_TARGET, IN_LAYER(norm1), ONE, H, WEIGHT_GAIN, "attn_norm", NULL},
    {"post_attention_layernorm.weight", NO_TARGET, IN_LAYER(norm2), ONE, H, WEIGHT_GAIN, "ffn_norm",
     NULL},
    BIAS("self_attn.q_proj", TARGET_Q, QD, "attn_q", has_qkv_bias),
    BIAS("self_attn.k_proj", TARGET_K, GD, "attn_k", has_qkv_bias),
    BIAS("self_attn.v_proj", TARGET_V, GD, "attn_v", has_qkv_bias),
    BIAS("self_attn.o_proj", TARGET_O, H, "attn_output", has_o_bias),
    BIAS("mlp.gate_proj", TARGET_GATE, F, "ffn_gate", has_mlp_bias),
    BIAS("mlp.up_proj", TARGET_UP, F, "ffn_up", has_mlp_bias),
    BIAS("mlp.down_proj", TARGET_DOWN, H, "ffn_down", has_mlp_bias),
    {"self_attn.q_norm.weight", NO_TARGET, IN_LAYER(norm_q), ONE, D, WEIGHT_GAIN, "attn_q_norm",
     has_head_norms},
    {"self_attn.k_norm.weight", NO_TARGET, IN_LAYER(norm_k), ONE, D, WEIGHT_GAIN, "attn_k_norm",
     has_head_norms},
    {"model.norm.weight", NO_TARGET, IN_MODEL(norm), ONE, H, WEIGHT_GAIN, "output_norm", NULL},
    {NULL, TARGET_HEAD, IN_MODEL(head), V, H, WEIGHT_MATRIX, "output", is_untied},
};
enum { ROWS = sizeof table / sizeof *table };

static size_t size_of(const ModelConfig *c, Size size)
{
    switch (size) {
    case H: return c->H;
    case F: return c->F;
    case V: return c->V;
    case D: return c->D;
    case QD: return c->Q * c->D;
    case GD: return c->G * c->D;
    case ONE: break;
    }
    return 1;
}

/* ---- the weights in order ------------------------------------------------------------------ */

static int is_there(const Row *row, const ModelConfig *c)
{
    return !row->is_there || row->is_there(c);
}

/* The rows from `row` on that stand once in each layer, or once in the model, up to the next of the
 * other kind, *end: how many of them the model has. */
static size_t group_size(const ModelConfig *c, size_t row, size_t *end)
{
    size_t n = 0;
    for (*end = row; *end < ROWS && table[*end].in_layer == table[row].in_layer; ++*end)
        n += (size_t)is_there(&table[*end], c);
    return n;
}

static size_t group_layers(const ModelConfig *c, size_t row)
{
    return table[row].in_layer ? c->layers : 1;
}

/* The row of weight i < model_weight_count, and its layer. */
static const Row *find_row(const ModelConfig *c, size_t i, size_t *layer)
{
    size_t row = 0, end, n;
    while (n = group_size(c, row, &end), i >= n * group_layers(c, row)) {
        i -= n * group_layers(c, row);
        row = end;
    }
    *layer = i / n;
    for (i %= n; !is_there(&table[row], c) || i-- > 0; row++) continue;
    return &table[row];
}

size_t model_weight_count(const Model *m)
{
    size_t count = 0, end;
    for (size_t row = 0; row < ROWS; row = end)
        count += group_size(&m->config, row, &end) * group_layers(&m->config, row);
    return count;
}

/* Where a weight stands in the model; NULL where its layer has no memory yet. */
static Param *param_of(const Model *m, const Row *row, size_t layer)
{
    Model *w = (Model *)(uintptr_t)m; /* the list is the same for readers and for the trainer */
    if (!row->in_layer) return (Param *)(void *)((char *)w + row->offset);
    return w->layers ? (Param *)(void *)((char *)&w->layers[layer] + row->offset) : NULL;
}

void model_weight(const Model *m, size_t i, Weight *out)
{
    const ModelConfig *c = &m->config;
    const Row *row = find_row(c, i, &out->layer);
    char module[LORA_MODULE];
    if (row->target != NO_TARGET) {
        lora_module_name(module, out->layer, (Target)row->target);
        snprintf(out->name, sizeof out->name, "%s.weight", module);
    } else {
        *module = 0;
        if (row->in_layer) snprintf(module, sizeof module, "model.layers.%zu.", out->layer);
        snprintf(out->name, sizeof out->name, "%s%s", module, row->name);
    }
    const char *end = row->kind == WEIGHT_BIAS ? "bias" : "weight";
    if (row->in_layer)
        snprintf(out->gguf, sizeof out->gguf, "blk.%zu.%s.%s", out->layer, row->gguf, end);
    else
        snprintf(out->gguf, sizeof out->gguf, "%s.weight", row->gguf);
    out->param = param_of(m, row, out->layer);
    out->target = row->target;
    out->kind = row->kind;
    out->rows = size_of(c, row->rows);
    out->cols = size_of(c, row->cols);
}

Adapter *model_adapter(const Lora *lora, const Weight *w)
{
    return w->target == NO_TARGET ? NULL : lora_at(lora, w->layer, (Target)w->target);
}

/* ---- what is asked of all ------------------------------------------------------------------ */

/* Weight i as an adapter's file may replace it. */
static void weight_of_adapter(const void *model, size_t i, LoraWeight *out)
{
    Weight w;
    model_weight(model, i, &w);
    snprintf(out->name, sizeof out->name, "%s", w.name);
    out->w = w.param ? w.param->w : (Mat){0};
    out->is_vector = w.kind != WEIGHT_MATRIX;
}

void model_lora_shape(const Model *m, LoraShape *s)
{
    const ModelConfig *c = &m->config;
    s->model = m->layers ? m : NULL;
    s->weights = model_weight_count(m);
    s->weight = weight_of_adapter;
    s->layers = c->layers;
    for (size_t i = 0; i < ROWS; i++) { /* a tied head, too, has its shape */
        if (table[i].target == NO_TARGET) continue;
        s->outputs[table[i].target] = size_of(c, table[i].rows);
        s->inputs[table[i].target] = size_of(c, table[i].cols);
    }
    s->head = c->tied ? m->embedding.w : m->head.w;
}

void model_param(const Model *m, size_t i, NamedParam *out)
{
    Weight w;
    model_weight(m, i, &w);
    snprintf(out->name, sizeof out->name, "%s", w.name);
    out->w = w.param->d ? (real *)(uintptr_t)w.param->w.data : NULL; /* ours only when trained */
    out->d = w.param->d;
    out->rows = w.rows;
    out->cols = w.cols;
    out->is_vector = w.kind != WEIGHT_MATRIX;
    out->decays = w.kind == WEIGHT_MATRIX;
}

int model_make_trainable(Model *m, Err *e)
{
    Weight w;
    size_t n = model_weight_count(m), total = 0, at = 0;
    if (m->gguf.n_parts)
        return err_set(e, ERR_DATA,
                       "%s: --full does not train the weights of a GGUF file: without --full an "
                       "adapter is trained on it, or give the model's original directory",
                       m->path);
    for (size_t i = 0; i < n; i++) {
        model_weight(m, i, &w);
        total += w.rows * w.cols;
    }
    m->trained = mem_calloc(total, sizeof(real), e);
    m->trained_d = mem_calloc(total, sizeof(real), e);
    if (!m->trained || !m->trained_d) return -1;
    m->n_trained = total;
    for (size_t i = 0; i < n; i++) {
        model_weight(m, i, &w);
        size_t count = w.rows * w.cols;
        mat_unpack(&w.param->w, m->trained + at);
        *w.param = (Param){{m->trained + at, FORMAT_REAL, w.rows, w.cols, 0}, m->trained_d + at};
        at += count;
    }
    return 0;
}
