/* lora_load.c - reads an adapter from a PEFT directory, and checks it against the model. */
#include "lora_parts.h"
#include "tokenizer.h"

#include <string.h>

enum { CONFIG_LIMIT = 1 << 20 /* bytes of an adapter_config.json */ };

/* ---- the tensors of a file ----------------------------------------------------------------- */

typedef enum { PART_A, PART_B, PART_M, PART_BIAS, PART_COUNT } Part;
static const char *const part_names[PART_COUNT] = {"lora_A.weight", "lora_B.weight",
                                                   "lora_magnitude_vector", "lora_B.bias"};

/* What a file holds for a slot; NULL = nothing. */
typedef struct {
    const StTensor *part[PART_COUNT];
} Found;

/* What stands behind a module's name: a part, as PEFT writes it or, in files that others made of a
 * whole PeftModel, with the adapter's own name, which is "default" unless somebody chose another.
 * -1 = neither. */
static int find_part(const char *rest, int *named)
{
    static const char own[] = "default.", sizes[] = "lora_magnitude_vector";
    if (!strncmp(rest, sizes, strlen(sizes))) { /* a part that has no ".weight" */
        const char *end = rest + strlen(sizes);
        int has_name = !strncmp(end, ".default", strlen(".default"));
        if (has_name) end += strlen(".default");
        *named |= has_name;
        return !*end || !strcmp(end, ".weight") ? PART_M : -1;
    }
    for (int part = 0; part < PART_COUNT; part++) {
        size_t before = strcspn(part_names[part], ".") + 1;
        if (part == PART_M || strncmp(rest, part_names[part], before)) continue;
        const char *end = rest + before;
        int has_name = !strncmp(end, own, strlen(own));
        if (has_name) end += strlen(own);
        if (strcmp(end, part_names[part] + before)) continue;
        *named |= has_name;
        return part;
    }
    return -1;
}

/* Finds the slot and the part to which a tensor name belongs; -1 if it is not one of ours. */
static int name_slot(const LoraShape *s, const char *name, size_t *slot, int *named)
{
    static const char prefix[] = "base_model.model.";
    if (strncmp(name, prefix, strlen(prefix))) return -1;
    for (size_t i = 0; i < lora_slot_count(s); i++) {
        size_t layer;
        Target target;
        char module[LORA_MODULE];
        lora_slot_place(s, i, &layer, &target);
        lora_module_name(module, layer, target);
        size_t len = strlen(module);
        const char *rest = name + strlen(prefix);
        if (strncmp(rest, module, len) || rest[len] != '.') continue;
        *slot = i;
        return find_part(rest + len + 1, named);
    }
    return -1;
}

/* PEFT stores a copy of the head beside an adapter on it. It is ignored if it is this model's own
 * head: 1 = ignored, 0 = another tensor, -1 = another head. */
static int is_head_copy(const Safetensors *st, const StTensor *t, const LoraShape *s, Err *e)
{
    const char *name = "base_model.model.lm_head.base_layer.weight";
    if (strcmp(t->name, name) || !s->head.data) return 0;
    if (t->n_dims == 2 && t->shape[0] != s->head.rows) return 0; /* a resized vocabulary */
    int same = t->supported && t->count == (uint64_t)s->head.rows * s->head.cols;
    for (size_t i = 0; same && i < t->count; i++) {
        real ours, theirs;
        format_unpack(s->head.format, &ours, s->head.data, i, 1);
        format_unpack(format_of(t->dtype), &theirs, t->data, i, 1);
        same = ours == theirs;
    }
    if (same) return 1;
    return err_set(e, ERR_DATA,
                   "%s: %s differs from this model's head: the adapter belongs to "
                   "another model",
                   st->map.path, name);
}

/* The bias of a B (PEFT's lora_bias) is ignored if it is zero. */
static int check_bias(const Safetensors *st, const StTensor *t, Err *e)
{
    int zero = !t || t->supported;
    for (size_t i = 0; t && zero && i < t->count; i++) {
        real x;
        format_unpack(format_of(t->dtype), &x, t->data, i, 1);
        zero = x == 0;
    }
    if (zero) return 0;
    return err_set(e, ERR_DATA, "%s: %s is not zero; adapters with \"lora_bias\" are not supported",
                   st->map.path, t->name);
}

/* A tensor that belongs nowhere: says what it is, where PEFT writes such. */
static int refuse_tensor(const Lora *l, const Safetensors *st, const StTensor *t, Err *e)
{
    if (strstr(t->name, ".lora_embedding_"))
        return err_set(e, ERR_DATA,
                       "%s: tensor %s is of an adapter on the embedding, which is not supported: "
                       "merge it with PEFT, or train the embedding whole (modules_to_save)",
                       st->map.path, t->name);
    return err_set(e, ERR_DATA, "%s: tensor %s fits no linear map of this model (%zu layers)",
                   st->map.path, t->name, l->shape.layers);
}

/* Sorts the tensors into slots and whole weights; each must be one of these. */
static int find_tensors(Lora *l, const Safetensors *st, const Json *root, Found *found, Err *e)
{
    l->saved = mem_calloc(st->count + 1, sizeof *l->saved, e);
    if (!l->saved) return -1;
    for (size_t i = 0; i < st->count; i++) {
        const StTensor *t = &st->tensors[i];
        size_t slot;
        int copy = is_head_copy(st, t, &l->shape, e);
        if (copy < 0) return -1;
        if (copy) continue;
        int part = name_slot(&l->shape, t->name, &slot, &l->named);
        int whole = part < 0 ? lora_save_found(l, st, t, root, e) : 0;
        if (whole < 0) return -1;
        if (whole) continue;
        if (part < 0) return refuse_tensor(l, st, t, e);
        if (found[slot].part[part])
            return err_set(e, ERR_DATA, "%s: holds both %s and %s: of one adapter, or of two?",
                           st->map.path, found[slot].part[part]->name, t->name);
        found[slot].part[part] = t;
    }
    return st->count ? 0 : err_set(e, ERR_DATA, "%s: holds no tensors", st->map.path);
}

/* Refuses a part without the others. */
static int check_parts(const Safetensors *st, const Lora *l, size_t slot, const Found *f, Err *e)
{
    const LoraShape *s = &l->shape;
    const StTensor *m = f->part[PART_M];
    size_t layer;
    Target target;
    char module[LORA_MODULE];
    lora_slot_place(s, slot, &layer, &target);
    lora_module_name(module, layer, target);
    for (int part = 0; part <= PART_B; part++)
        if (!f->part[part])
            return err_set(e, ERR_DATA,
                           "%s: base_model.model.%s.%s is missing, its other half is there",
                           st->map.path, module, part_names[part]);
    if (!m != !l->config.dora)
        return err_set(e, ERR_DATA, "%s: base_model.model.%s.%s is %s, but \"use_dora\" is %s",
                       st->map.path, module, part_names[PART_M], m ? "there" : "missing",
                       m ? "not set" : "set");
    if (!m || (m->n_dims == 1 && m->shape[0] == s->outputs[target])) return 0;
    return err_set(e, ERR_DATA, "%s: %s: expected [%zu], found %zu dimensions of %llu numbers",
                   st->map.path, m->name, s->outputs[target], m->n_dims,
                   (unsigned long long)m->count);
}

/* A is [rank, K], B is [N, rank]. */
static int check_half(const Safetensors *st, const LoraShape *s, size_t slot, const StTensor *t,
                      int b, Err *e)
{
    size_t layer, inner = b ? 0 : 1, outer = 1 - inner;
    Target target;
    lora_slot_place(s, slot, &layer, &target);
    uint64_t want = b ? s->outputs[target] : s->inputs[target];
    if (t->n_dims == 2 && t->shape[inner] == want && t->shape[outer] >= 1) return 0;
    return err_set(e, ERR_DATA, "%s: %s: expected %s%llu%s, found [%llu,%llu]", st->map.path,
                   t->name, b ? "[" : "[rank,", (unsigned long long)want, b ? ",rank]" : "]",
                   (unsigned long long)(t->n_dims ? t->shape[0] : 0),
                   (unsigned long long)(t->n_dims > 1 ? t->shape[1] : 0));
}

/* Finds each slot's rank from the shapes of its halves. */
static int read_ranks(const Safetensors *st, const Lora *l, const Found *found, size_t *rank,
                      Err *e)
{
    const LoraShape *s = &l->shape;
    for (size_t i = 0; i < lora_slot_count(s); i++) {
        const StTensor *a = found[i].part[PART_A], *b = found[i].part[PART_B];
        int any = 0;
        for (int part = 0; part < PART_COUNT; part++) any |= found[i].part[part] != NULL;
        if (!any) continue;
        if ((a && check_half(st, s, i, a, 0, e)) || (b && check_half(st, s, i, b, 1, e)) ||
            check_parts(st, l, i, &found[i], e) || check_bias(st, found[i].part[PART_BIAS], e))
            return -1;
        if (a->shape[0] != b->shape[1])
            return err_set(e, ERR_DATA, "%s: %s: rank %llu, but its other half has rank %llu",
                           st->map.path, b->name, (unsigned long long)b->shape[1],
                           (unsigned long long)a->shape[0]);
        rank[i] = (size_t)a->shape[0];
    }
    return 0;
}

static int read_tensor(const Safetensors *st, const StTensor *t, real *out, Err *e)
{
    if (!t->supported)
        return err_set(e, ERR_DATA,
                       "%s: %s: dtype %s is not supported here; F32, BF16 and F16 "
                       "are",
                       st->map.path, t->name, t->dtype_text);
    if (safetensors_check_finite(st, t, e)) return -1;
    dtype_to_real(out, t->data, t->dtype, (size_t)t->count);
    return 0;
}

static int read_tensors(Lora *l, const Safetensors *st, const Found *found, Err *e)
{
    for (size_t i = 0; i < lora_slot_count(&l->shape); i++) {
        const Adapter *a = &l->slots[i];
        if (!a->a.w.data) continue;
        if (read_tensor(st, found[i].part[PART_A], lora_numbers(&a->a), e) ||
            read_tensor(st, found[i].part[PART_B], lora_numbers(&a->b), e) ||
            (a->m.w.data && read_tensor(st, found[i].part[PART_M], lora_numbers(&a->m), e)))
            return -1;
    }
    return 0;
}

/* ---- a PEFT directory ---------------------------------------------------------------------- */

/* Sets the scales, and the configuration of the set as a whole. */
static int read_scales(Lora *l, const Json *root, const char *path, Err *e)
{
    for (size_t i = 0; i < lora_slot_count(&l->shape); i++) {
        Adapter *a = &l->slots[i];
        size_t layer;
        Target target;
        char module[LORA_MODULE];
        if (!a->a.w.data) continue;
        lora_slot_place(&l->shape, i, &layer, &target);
        lora_module_name(module, layer, target);
        double rank = (double)l->config.rank, alpha = l->config.alpha;
        if (lora_pattern_value(root, "rank_pattern", module, path, &rank, e) ||
            lora_pattern_value(root, "alpha_pattern", module, path, &alpha, e))
            return -1;
        if (rank != (double)a->a.w.rows)
            return err_set(e, ERR_DATA,
                           "%s: %s has rank %zu in the weights, %g in the "
                           "configuration",
                           path, module, a->a.w.rows, rank);
        a->scale = lora_scale(alpha, a->a.w.rows, l->config.rslora);
        l->config.targets |= 1u << target;
    }
    return 0;
}

static int load_tensors(Lora *l, const Safetensors *st, const Json *root, const char *config_path,
                        int trainable, Err *e)
{
    size_t n = lora_slot_count(&l->shape);
    size_t *rank = mem_calloc(n, sizeof *rank, e);
    Found *found = rank ? mem_calloc(n, sizeof *found, e) : NULL;
    int bad = !found || find_tensors(l, st, root, found, e) ||
              lora_check_saved(l, root, config_path, trainable, e) ||
              read_ranks(st, l, found, rank, e) ||
              lora_check_modules(l, rank, root, config_path, e) ||
              lora_allocate(l, rank, trainable, e) || read_tensors(l, st, found, e) ||
              read_scales(l, root, config_path, e) || lora_begin_dora(l, e);
    mem_free(found);
    mem_free(rank);
    return bad ? -1 : 0;
}

/* The tokenizer that was saved beside an embedding is the one whose tokens it has. */
static int find_tokenizer(Lora *l, const char *dir, Err *e)
{
    char path[IO_PATH_MAX];
    const char *name = tokenizer_file(dir, e);
    if (!lora_saved(l, "model.embed_tokens.weight")) return 0;
    if (!name || io_path(path, sizeof path, dir, name, e)) return -1;
    if (io_exists(path)) snprintf(l->tokenizer, sizeof l->tokenizer, "%s", dir);
    return 0;
}

static int load_parsed(Lora *l, const Json *root, const char *config_path, const char *dir,
                       int trainable, Err *e)
{
    char path[IO_PATH_MAX];
    if (lora_read_config(l, root, config_path, trainable, e) ||
        io_path(path, sizeof path, dir, LORA_WEIGHTS_FILE, e) ||
        safetensors_open(&l->file, path, 0, e))
        return -1;
    int bad =
        load_tensors(l, &l->file, root, config_path, trainable, e) || find_tokenizer(l, dir, e);
    if (!l->n_saved) safetensors_close(&l->file);
    return bad ? -1 : 0;
}

/* A run's folder was given for the adapter in it: says so. Returns -1. */
static int explain_missing(const char *dir, const char *config, Err *e)
{
    char inside[IO_PATH_MAX];
    Err ignored;
    if (!io_exists(config) &&
        !io_path(inside, sizeof inside, dir, "adapter/" LORA_CONFIG_FILE, &ignored) &&
        io_exists(inside))
        err_set(e, ERR_NO_INPUT, "%s: is no adapter, but holds one: %s/adapter", dir, dir);
    return -1;
}

int lora_load(Lora *l, const char *dir, const LoraShape *shape, int trainable, Err *e)
{
    char path[IO_PATH_MAX], *text;
    size_t len;
    Pool pool = {0};
    memset(l, 0, sizeof *l);
    l->shape = *shape;
    if (io_path(path, sizeof path, dir, LORA_CONFIG_FILE, e)) return -1;
    if (io_read_file(path, CONFIG_LIMIT, &text, &len, e)) return explain_missing(dir, path, e);
    const Json *root = json_parse(&pool, text, len, path, JSON_ALLOW_BOM, e);
    int bad = !root || load_parsed(l, root, path, dir, trainable, e);
    pool_free(&pool);
    mem_free(text);
    if (bad) lora_close(l);
    return bad ? -1 : 0;
}
