/* lora_saved.c - whole weights in an adapter's file: trained modules, grown vocabularies, tokens.
 *
 * Beside its low-rank pairs PEFT saves what was trained in full: the modules of `modules_to_save`,
 * biases, the embedding and the head where the vocabulary was resized, and single rows of an
 * embedding (`trainable_token_indices`). Each takes the place of the model's own weight.
 */
#include "lora_parts.h"

#include <string.h>

static const char prefix[] = "base_model.model.";
static const char embedding[] = "model.embed_tokens.weight", head[] = "lm_head.weight";
static const char rows_of_tokens[] = ".token_adapter.trainable_tokens_delta";

/* ---- names --------------------------------------------------------------------------------- */

static int ends_with(const char *text, const char *ending)
{
    size_t n = strlen(text), m = strlen(ending);
    return m <= n && !strcmp(text + n - m, ending);
}

/* Takes `part` out of a name. 1 = it was there. */
static int cut(char *name, const char *part)
{
    char *at = strstr(name, part);
    if (at) memmove(at, at + strlen(part), strlen(at + strlen(part)) + 1);
    return at != NULL;
}

/* The weight that a tensor stands for: without PEFT's prefix and the names of its wrappers. `rows`:
 * single rows of that weight. *wrapped: a name that a wrapper's own copy has. -1 = no such name. */
static int name_weight(const char *tensor, char name[LORA_WEIGHT], int *rows, int *wrapped)
{
    if (strncmp(tensor, prefix, strlen(prefix)) || strlen(tensor) - strlen(prefix) >= LORA_WEIGHT)
        return -1;
    snprintf(name, LORA_WEIGHT, "%s", tensor + strlen(prefix));
    cut(name, ".base_layer");
    *wrapped = cut(name, ".modules_to_save.default") || cut(name, ".modules_to_save");
    if (ends_with(name, ".default")) name[strlen(name) - strlen(".default")] = 0;
    *rows = ends_with(name, rows_of_tokens);
    if (*rows) snprintf(strstr(name, rows_of_tokens), sizeof ".weight", ".weight");
    return 0;
}

/* Finds a weight of the model by its name, which a tied head has, too. */
static int find_weight(const LoraShape *s, const char *name, LoraWeight *out)
{
    for (size_t i = 0; s->model && i < s->weights; i++) {
        s->weight(s->model, i, out);
        if (!strcmp(out->name, name)) return 1;
    }
    if (!s->model || strcmp(name, head)) return 0;
    *out = (LoraWeight){.w = s->head, .is_vector = 0};
    snprintf(out->name, sizeof out->name, "%s", head);
    return 1;
}

static int is_tied(const LoraShape *s)
{
    LoraWeight w;
    for (size_t i = s->model ? s->weights : 0; i-- > 0;) {
        s->weight(s->model, i, &w);
        if (!strcmp(w.name, head)) return 0;
    }
    return 1;
}

const SavedWeight *lora_saved(const Lora *l, const char *name)
{
    for (size_t i = 0; i < l->n_saved; i++)
        if (!strcmp(l->saved[i].name, name)) return &l->saved[i];
    return NULL;
}

int lora_weight_of(const Lora *l, const char *module, Mat *out)
{
    char name[LORA_WEIGHT];
    LoraWeight w;
    snprintf(name, sizeof name, "%s.weight", module);
    const SavedWeight *saved = lora_saved(l, name);
    if (!saved && !find_weight(&l->shape, name, &w)) return 0;
    *out = saved ? saved->w : w.w;
    return 1;
}

/* ---- one tensor ---------------------------------------------------------------------------- */

/* Does it fit the weight it replaces? Embedding and head may have more rows, or fewer. */
static int check_shape(const Safetensors *st, const StTensor *t, const LoraWeight *w, Err *e)
{
    int any = !strcmp(w->name, embedding) || !strcmp(w->name, head);
    int fits = w->is_vector ? t->n_dims == 1 && t->shape[0] == w->w.cols
                            : t->n_dims == 2 && t->shape[1] == w->w.cols && t->shape[0] >= 1 &&
                                  t->shape[0] <= INT32_MAX && (any || t->shape[0] == w->w.rows);
    if (!fits)
        return err_set(e, ERR_DATA, "%s: %s: the model's %s is [%zu%s%zu], found [%llu%s%llu]",
                       st->map.path, t->name, w->name, w->is_vector ? w->w.cols : w->w.rows,
                       w->is_vector ? "]; " : ",", w->w.cols,
                       (unsigned long long)(t->n_dims ? t->shape[0] : 0), t->n_dims > 1 ? "," : "",
                       (unsigned long long)(t->n_dims > 1 ? t->shape[1] : 0));
    if (!t->supported)
        return err_set(e, ERR_DATA, "%s: %s: dtype %s is not supported here; F32, BF16 and F16 are",
                       st->map.path, t->name, t->dtype_text);
    return safetensors_check_finite(st, t, e);
}

/* The list of token ids whose rows of a weight were trained: under the module's name, or bare. */
static const Json *token_ids(const Json *root, const char *weight)
{
    char module[LORA_WEIGHT];
    const Json *all = json_get(root, "trainable_token_indices");
    snprintf(module, sizeof module, "%.*s", (int)(strlen(weight) - strlen(".weight")), weight);
    if (!all || all->type == JSON_ARRAY) return all;
    for (const Json *x = all->child; x; x = x->next)
        if (ends_with(module, x->key)) return x;
    return NULL;
}

/* A copy of the weight in F32 with the rows of these tokens in it. */
static int replace_rows(const Safetensors *st, const StTensor *t, const Json *ids, const Mat *w,
                        SavedWeight *out, Err *e)
{
    size_t n, i = 0;
    uint64_t id;
    if (t->n_dims != 2 || t->shape[1] != w->cols || !t->supported)
        return err_set(e, ERR_DATA, "%s: %s: expected [tokens,%zu] in F32, BF16 or F16",
                       st->map.path, t->name, w->cols);
    if (safetensors_check_finite(st, t, e) || size_mul(w->rows, w->cols, &n) ||
        size_mul(n, sizeof(real), &n))
        return -1;
    out->own = mem_alloc(n, e);
    if (!out->own) return -1;
    mat_unpack(w, out->own);
    out->w = (Mat){out->own, FORMAT_REAL, w->rows, w->cols, 0};
    const Json *x = ids && ids->type == JSON_ARRAY ? ids->child : NULL;
    for (; x && i < t->shape[0]; x = x->next, i++) {
        if (json_u64(x, &id) || id >= w->rows)
            return err_set(e, ERR_DATA,
                           "%s: \"trainable_token_indices\" must be ids below %zu for %s",
                           LORA_CONFIG_FILE, w->rows, t->name);
        format_unpack(format_of(t->dtype), out->own + (size_t)id * w->cols,
                      t->data + i * format_bytes(format_of(t->dtype), w->cols), 0, w->cols);
    }
    if (!x && i == t->shape[0]) return 0;
    return err_set(e, ERR_DATA, "%s: %s has %llu rows, \"trainable_token_indices\" has %s",
                   st->map.path, t->name, (unsigned long long)t->shape[0],
                   x ? "more tokens" : "fewer tokens");
}

int lora_save_found(Lora *l, const Safetensors *st, const StTensor *t, const Json *root, Err *e)
{
    char name[LORA_WEIGHT], plain[LORA_WEIGHT + sizeof prefix];
    int rows, wrapped;
    LoraWeight w;
    if (strstr(t->name, ".original_module.")) return 1; /* the base's own, which is not used */
    if (name_weight(t->name, name, &rows, &wrapped) || !find_weight(&l->shape, name, &w)) return 0;
    snprintf(plain, sizeof plain, "%s%s", prefix, name);
    if (wrapped && safetensors_find(st, plain)) return 1; /* it stands there by both names */
    if (lora_saved(l, name))
        return err_set(e, ERR_DATA, "%s: %s: %s stands there twice", st->map.path, t->name, name);
    SavedWeight *out = &l->saved[l->n_saved];
    *out = (SavedWeight){.is_rows = rows};
    snprintf(out->name, sizeof out->name, "%s", name);
    l->n_saved++;
    if (rows) return replace_rows(st, t, token_ids(root, name), &w.w, out, e) ? -1 : 1;
    if (check_shape(st, t, &w, e)) return -1;
    size_t height = w.is_vector ? 1 : (size_t)t->shape[0];
    out->w = (Mat){t->data, format_of(t->dtype), height, w.w.cols, 0};
    return 1;
}

/* ---- all of them --------------------------------------------------------------------------- */

/* Does one of modules_to_save name a module that a weight lies in? PEFT takes the ends of names. */
static int is_asked(const Json *root, const char *weight)
{
    const Json *list = json_get(root, "modules_to_save");
    char module[LORA_WEIGHT];
    snprintf(module, sizeof module, "%s", weight);
    for (char *dot = strrchr(module, '.'); dot && list; dot = strrchr(module, '.')) {
        *dot = 0;
        for (const Json *x = list->child; x; x = x->next)
            if (x->type == JSON_STRING && ends_with(module, x->text)) return 1;
    }
    return 0;
}

/* Is everything there that the configuration names? PEFT stops where it is not. */
static int check_asked(const Lora *l, const Json *root, const char *path, Err *e)
{
    LoraWeight w = {.name = ""};
    const LoraShape *s = &l->shape;
    for (size_t i = 0; s->model && i <= s->weights; i++) {
        if (i < s->weights)
            s->weight(s->model, i, &w);
        else
            find_weight(s, head, &w);
        const SavedWeight *saved = lora_saved(l, w.name);
        if (is_asked(root, w.name) && (!saved || saved->is_rows))
            return err_set(e, ERR_DATA, "%s: \"modules_to_save\" names %s, which %s does not hold",
                           path, w.name, LORA_WEIGHTS_FILE);
    }
    const Json *tokens = json_get(root, "trainable_token_indices");
    int any = tokens && tokens->child, found = 0;
    for (size_t i = 0; i < l->n_saved; i++) found |= l->saved[i].is_rows;
    if (any == found) return 0;
    return err_set(e, ERR_DATA,
                   "%s: \"trainable_token_indices\" is %s, but %s holds %s rows for it", path,
                   any ? "set" : "not set", LORA_WEIGHTS_FILE, any ? "no" : "the");
}

static int same_bytes(const Mat *a, const Mat *b)
{
    return a->format == b->format && a->rows == b->rows && !memcmp(a->data, b->data, mat_bytes(a));
}

/* Of a model whose head is its embedding: PEFT wraps either on its own, so that they may be two
 * afterwards; what it has not wrapped it loads into the one that both are. */
static void settle_head(Lora *l, const Json *root)
{
    SavedWeight *in = NULL, *out = NULL;
    for (size_t i = 0; i < l->n_saved; i++) {
        if (!strcmp(l->saved[i].name, embedding)) in = &l->saved[i];
        if (!strcmp(l->saved[i].name, head)) out = &l->saved[i];
    }
    if (!is_tied(&l->shape)) return;
    if (in && out)
        l->untied = !same_bytes(&in->w, &out->w);
    else if (in)
        l->untied = !in->is_rows && is_asked(root, embedding);
    else if (out)
        l->untied = is_asked(root, head);
    if (out && !in && !l->untied) snprintf(out->name, sizeof out->name, "%s", embedding);
}

/* One vocabulary has one size. */
static int check_vocabulary(const Lora *l, const char *path, Err *e)
{
    const SavedWeight *in = lora_saved(l, embedding), *out = lora_saved(l, head);
    size_t before = l->shape.outputs[TARGET_HEAD];
    size_t rows = in ? in->w.rows : before, asked = out ? out->w.rows : before;
    if (in && !out && !l->untied && is_tied(&l->shape)) asked = rows;
    if (rows == asked) return 0;
    return err_set(e, ERR_DATA,
                   "%s: the embedding has %zu rows with this adapter, the head %zu; a vocabulary "
                   "that was resized must hold both",
                   path, rows, asked);
}

int lora_check_saved(Lora *l, const Json *root, const char *path, int trainable, Err *e)
{
    if (check_asked(l, root, path, e)) return -1;
    if (!l->n_saved) return 0;
    if (trainable)
        return err_set(e, ERR_DATA,
                       "%s: the adapter holds whole weights (%s); it can be used and merged, but "
                       "not trained on here",
                       path, l->saved[0].name);
    settle_head(l, root);
    if (check_vocabulary(l, path, e)) return -1;
    if (lora_saved(l, embedding)) l->shape.outputs[TARGET_HEAD] = lora_saved(l, embedding)->w.rows;
    return 0;
}
