/* model_load.c - weights: which files, which tensors, every shape checked; hashing; training all.
 */
#include "model_config.h"

#include <string.h>

enum {
    INDEX_LIMIT = 256 << 20 /* bytes of an index */,
    TENSOR_NAME = MODEL_TENSOR_NAME,
    MAX_SHARDS = 4096
};
#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE "model.safetensors.index.json"

/* ---- which files --------------------------------------------------------------------------- */

/* Only PyTorch pickles there? Say what to do instead of "missing". */
static int no_weights(const char *dir, Err *e)
{
    Pool pool = {0};
    char **names;
    size_t n;
    if (io_list(dir, &pool, &names, &n, e)) {
        pool_free(&pool);
        return -1;
    }
    err_set(e, ERR_NO_INPUT, "%s: has neither " SINGLE_FILE " nor " INDEX_FILE, dir);
    for (size_t i = 0; i < n; i++) {
        const char *dot = strrchr(names[i], '.');
        if (dot && (!strcmp(dot, ".bin") || !strcmp(dot, ".pth") || !strcmp(dot, ".pt")))
            err_set(e, ERR_NO_INPUT,
                    "%s: has only %s; pickle files are not read: convert with "
                    "tools/export.py",
                    dir, names[i]);
    }
    pool_free(&pool);
    return -1;
}

/* A shard's name must be a plain file name in the same directory. */
static int check_shard_name(const Json *name, const char *index_path, Err *e)
{
    if (name->type == JSON_STRING && name->len && !strchr(name->text, '/') &&
        !strchr(name->text, '\\') && strcmp(name->text, "..") && strlen(name->text) == name->len)
        return 0;
    return err_set(e, ERR_DATA,
                   "%s: weight_map[\"%s\"] is \"%s\"; allowed: a file name in the same "
                   "directory",
                   index_path, name->key, name->type == JSON_STRING ? name->text : "no text");
}

/* The place of an open shard in m->files, opening it on first sight. */
static int shard_open(Model *m, const char *dir, const char *name, const char *first_tensor,
                      int use_mmap, size_t *place, Err *e)
{
    char path[IO_PATH_MAX];
    if (io_path(path, sizeof path, dir, name, e)) return -1;
    for (size_t i = 0; i < m->n_files; i++)
        if (!strcmp(m->files[i].map.path, path)) return *place = i, 0;
    if (m->n_files == MAX_SHARDS)
        return err_set(e, ERR_DATA, "%s: more than %d shards", dir, MAX_SHARDS);
    if (!io_exists(path))
        return err_set(e, ERR_NO_INPUT, "%s: is missing; the index says it holds %s", path,
                       first_tensor);
    Safetensors *files = mem_realloc(m->files, (m->n_files + 1) * sizeof *files, e);
    if (!files) return -1;
    m->files = files;
    if (safetensors_open(&files[m->n_files], path, use_mmap, e)) return -1;
    *place = m->n_files++;
    return 0;
}

/* A tensor must be in the shard the index names, and in no other. */
static int check_placement(const Model *m, const Json *entry, size_t place, Err *e)
{
    if (!safetensors_find(&m->files[place], entry->key))
        return err_set(e, ERR_DATA, "%s: does not hold %s, the index says it does",
                       m->files[place].map.path, entry->key);
    for (size_t i = 0; i < m->n_files; i++)
        if (i != place && safetensors_find(&m->files[i], entry->key))
            return err_set(e, ERR_DATA, "%s: stands in two shards, %s and %s", entry->key,
                           m->files[i].map.path, m->files[place].map.path);
    return 0;
}

static int open_shards(Model *m, const char *dir, const Json *root, const char *path, int use_mmap,
                       const Log *log, Err *e)
{
    const Json *map = json_get(root, "weight_map");
    if (!map || map->type != JSON_OBJECT || map->len == 0)
        return err_set(e, ERR_DATA, "%s: \"weight_map\" is missing or empty", path);
    for (const Json *entry = map->child; entry; entry = entry->next) {
        size_t place;
        if (check_shard_name(entry, path, e) ||
            shard_open(m, dir, entry->text, entry->key, use_mmap, &place, e))
            return -1;
    }
    uint64_t total = 0, said;
    for (const Json *entry = map->child; entry; entry = entry->next) {
        size_t place;
        if (shard_open(m, dir, entry->text, entry->key, use_mmap, &place, e) ||
            check_placement(m, entry, place, e))
            return -1;
        total += safetensors_find(&m->files[place], entry->key)->bytes;
    }
    const Json *size = json_get(json_get(root, "metadata"), "total_size");
    if (size && !json_u64(size, &said) && said != total)
        log_note(log, 'w', "%s: total_size says %llu bytes, the tensors have %llu", path,
                 (unsigned long long)said, (unsigned long long)total);
    return 0;
}

static int open_index(Model *m, const char *dir, const char *path, int use_mmap, const Log *log,
                      Err *e)
{
    char *text;
    size_t len;
    Pool pool = {0};
    if (io_read_file(path, INDEX_LIMIT, &text, &len, e)) return -1;
    const Json *root = json_parse(&pool, text, len, path, JSON_ALLOW_BOM, e);
    int bad = !root || open_shards(m, dir, root, path, use_mmap, log, e);
    pool_free(&pool);
    mem_free(text);
    return bad ? -1 : 0;
}

/* model.safetensors where there is one, else the shards of the index. */
static int open_files(Model *m, const char *dir, int use_mmap, const Log *log, Err *e)
{
    char single[IO_PATH_MAX], index[IO_PATH_MAX];
    size_t place;
    if (io_path(single, sizeof single, dir, SINGLE_FILE, e) ||
        io_path(index, sizeof index, dir, INDEX_FILE, e))
        return -1;
    int has_index = io_exists(index);
    if (io_exists(single)) {
        if (has_index)
            log_note(log, 'w', "%s: has both " SINGLE_FILE " and " INDEX_FILE "; the first is used",
                     dir);
        return shard_open(m, dir, SINGLE_FILE, SINGLE_FILE, use_mmap, &place, e);
    }
    return has_index ? open_index(m, dir, index, use_mmap, log, e) : no_weights(dir, e);
}

/* ---- which tensors ------------------------------------------------------------------------- */

static const StTensor *find(const Model *m, const char *name, const Safetensors **file)
{
    for (size_t i = 0; i < m->n_files; i++) {
        const StTensor *t = safetensors_find(&m->files[i], name);
        if (t) return *file = &m->files[i], t;
    }
    return NULL;
}

/* The weight called `name`, which must be [rows, cols] (a vector: rows = 1). */
static int take(Model *m, const char *name, size_t rows, size_t cols, int flags, Param *p, Err *e)
{
    const Safetensors *file = NULL;
    const StTensor *t = find(m, name, &file);
    if (!t) return err_set(e, ERR_DATA, "%s: tensor %s is missing", m->path, name);
    int vector = rows == 1 && t->n_dims == 1;
    if (!(vector && t->shape[0] == cols) &&
        !(t->n_dims == 2 && t->shape[0] == rows && t->shape[1] == cols))
        return err_set(e, ERR_DATA,
                       "%s: %s: expected [%zu,%zu] by config.json, found [%llu%s%llu] "
                       "%s",
                       file->map.path, name, rows, cols,
                       (unsigned long long)(t->n_dims ? t->shape[0] : 0), t->n_dims > 1 ? "," : "",
                       (unsigned long long)(t->n_dims > 1 ? t->shape[1] : 0), t->dtype_text);
    if (!t->supported)
        return err_set(e, ERR_DATA, "%s: %s: dtype %s is not supported here; F32, BF16 and F16 are",
                       file->map.path, name, t->dtype_text);
    if (flags & MODEL_CHECK_TENSORS && safetensors_check_finite(file, t, e)) return -1;
    p->w = (Mat){t->data, t->dtype, rows, cols};
    p->d = NULL;
    m->weight_bytes += (size_t)t->bytes;
    return 0;
}

static int take_layer(Model *m, size_t l, int flags, Err *e)
{
    const ModelConfig *c = &m->config;
    ModelLayer *layer = &m->layers[l];
    LoraShape s;
    char name[TENSOR_NAME];
    model_lora_shape(m, &s);
    for (int t = 0; t < TARGET_COUNT; t++) {
        snprintf(name, sizeof name, "model.layers.%zu.%s.weight", l, target_modules[t]);
        if (take(m, name, s.outputs[t], s.inputs[t], flags, &layer->linear[t], e)) return -1;
    }
    snprintf(name, sizeof name, "model.layers.%zu.input_layernorm.weight", l);
    if (take(m, name, 1, c->H, flags, &layer->norm1, e)) return -1;
    snprintf(name, sizeof name, "model.layers.%zu.post_attention_layernorm.weight", l);
    return take(m, name, 1, c->H, flags, &layer->norm2, e);
}

/* Tied models store the shared matrix under either name, or under both. */
static int take_ends(Model *m, int flags, const Log *log, Err *e)
{
    const char *in = "model.embed_tokens.weight", *out = "lm_head.weight";
    const ModelConfig *c = &m->config;
    const Safetensors *file;
    const StTensor *a = find(m, in, &file), *b = find(m, out, &file);
    if (take(m, "model.norm.weight", 1, c->H, flags, &m->norm, e)) return -1;
    if (!c->tied)
        return take(m, in, c->V, c->H, flags, &m->embedding, e) ||
                       take(m, out, c->V, c->H, flags, &m->head, e)
                   ? -1
                   : 0;
    if (a && b && (a->bytes != b->bytes || memcmp(a->data, b->data, (size_t)a->bytes)))
        log_note(log, 'w', "%s: \"tie_word_embeddings\" is true, but %s and %s differ; %s is used",
                 m->path, in, out, in);
    return take(m, a || !b ? in : out, c->V, c->H, flags, &m->embedding, e);
}

static size_t tensors_used(const Model *m)
{
    return m->config.layers * (TARGET_COUNT + 2) + (m->config.tied ? 2 : 3);
}

/* The files say what the weights are stored as; config.json only what they were. */
static void note_dtype(const Model *m, const Log *log)
{
    static const struct {
        const char *name;
        Dtype dtype;
    } names[] = {{"float32", DTYPE_F32}, {"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}};
    Dtype stored = m->embedding.w.dtype;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(m->config.dtype, names[i].name) && stored != names[i].dtype)
            log_note(log, 'w', "%s: config.json says %s, the weights are stored as %s: that counts",
                     m->path, names[i].name, dtype_name(stored));
}

static void note_extras(const Model *m, const Log *log)
{
    size_t stored = 0, used = tensors_used(m);
    const Safetensors *file;
    for (size_t i = 0; i < m->n_files; i++) stored += m->files[i].count;
    if (m->config.tied && find(m, "lm_head.weight", &file) &&
        find(m, "model.embed_tokens.weight", &file))
        used++;
    if (stored > used)
        log_note(log, 'w', "%s: %zu tensors of the files are not used", m->path, stored - used);
}

int model_load(Model *m, const char *dir, int flags, const Log *log, Err *e)
{
    memset(m, 0, sizeof *m);
    snprintf(m->path, sizeof m->path, "%s", dir);
    if (model_config_read(&m->config, dir, flags & MODEL_STRICT, log, e)) return -1;
    if (flags & MODEL_CONFIG_ONLY) return 0;
    m->layers = mem_calloc(m->config.layers, sizeof *m->layers, e);
    int bad = !m->layers || open_files(m, dir, !(flags & MODEL_NO_MMAP), log, e) ||
              take_ends(m, flags, log, e);
    for (size_t l = 0; !bad && l < m->config.layers; l++) bad = take_layer(m, l, flags, e);
    if (bad) {
        model_close(m);
        return -1;
    }
    note_dtype(m, log);
    note_extras(m, log);
    return 0;
}

void model_close(Model *m)
{
    for (size_t i = 0; i < m->n_files; i++) safetensors_close(&m->files[i]);
    mem_free(m->files);
    mem_free(m->layers);
    mem_free(m->rope_cos);
    mem_free(m->rope_sin);
    mem_free(m->trained);
    mem_free(m->trained_d);
    mem_free(m->made);
    memset(m, 0, sizeof *m);
}

void model_lora_shape(const Model *m, LoraShape *s)
{
    const ModelConfig *c = &m->config;
    size_t q = c->Q * c->D, kv = c->G * c->D;
    const size_t outputs[TARGET_COUNT + 1] = {q, kv, kv, c->H, c->F, c->F, c->H, c->V};
    const size_t inputs[TARGET_COUNT + 1] = {c->H, c->H, c->H, q, c->H, c->H, c->F, c->H};
    s->layers = c->layers;
    memcpy(s->outputs, outputs, sizeof outputs);
    memcpy(s->inputs, inputs, sizeof inputs);
    s->head = c->tied ? m->embedding.w : m->head.w;
}

/* ---- all weights in order ------------------------------------------------------------------ */

/* The i-th weight: embedding; each layer's seven maps and two norms; last norm; untied head. */
static Param *weight_at(const Model *m, size_t i, char name[TENSOR_NAME])
{
    const size_t per_layer = TARGET_COUNT + 2;
    Model *w = (Model *)(uintptr_t)m; /* the list is the same for readers and for the trainer */
    if (i == 0) return snprintf(name, TENSOR_NAME, "model.embed_tokens.weight"), &w->embedding;
    i--;
    if (i < m->config.layers * per_layer) {
        size_t l = i / per_layer, k = i % per_layer;
        const char *norm = k == TARGET_COUNT ? "input_layernorm" : "post_attention_layernorm";
        snprintf(name, TENSOR_NAME, "model.layers.%zu.%s.weight", l,
                 k < TARGET_COUNT ? target_modules[k] : norm);
        if (k < TARGET_COUNT) return &w->layers[l].linear[k];
        return k == TARGET_COUNT ? &w->layers[l].norm1 : &w->layers[l].norm2;
    }
    i -= m->config.layers * per_layer;
    if (i == 0) return snprintf(name, TENSOR_NAME, "model.norm.weight"), &w->norm;
    return snprintf(name, TENSOR_NAME, "lm_head.weight"), &w->head;
}

size_t model_param_count(const Model *m)
{
    return tensors_used(m);
}

void model_param(const Model *m, size_t i, NamedParam *out)
{
    Param *p = weight_at(m, i, out->name);
    out->w = p->d ? (real *)(uintptr_t)p->w.data : NULL; /* ours to write only when trained */
    out->d = p->d;
    out->rows = p->w.rows;
    out->cols = p->w.cols;
}

const Mat *model_weight(const Model *m, size_t i, char name[MODEL_TENSOR_NAME])
{
    return &weight_at(m, i, name)->w;
}

int model_make_trainable(Model *m, Err *e)
{
    char name[TENSOR_NAME];
    size_t n = tensors_used(m), total = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        const Mat *w = &weight_at(m, i, name)->w;
        total += w->rows * w->cols;
    }
    m->trained = mem_calloc(total, sizeof(real), e);
    m->trained_d = mem_calloc(total, sizeof(real), e);
    if (!m->trained || !m->trained_d) return -1;
    m->n_trained = total;
    for (size_t i = 0; i < n; i++) {
        Param *p = weight_at(m, i, name);
        size_t count = p->w.rows * p->w.cols;
        dtype_to_real(m->trained + at, p->w.data, p->w.dtype, count);
        p->w.data = m->trained + at;
        p->w.dtype = DTYPE_REAL;
        p->d = m->trained_d + at;
        at += count;
    }
    return 0;
}

/* ---- identity ------------------------------------------------------------------------------ */

/* Over what decides the numbers: the parsed configuration, then name, shape, dtype and bytes of
 * every weight in order; not over how the files are cut into shards. */
int model_hash(const Model *m, char hex[65], Err *e)
{
    const ModelConfig *c = &m->config;
    Sha256 s;
    Text head = {0};
    char name[TENSOR_NAME];
    int bad =
        text_addf(&head, e,
                  "%s %zu %zu %zu %zu %zu %zu %zu %zu %.17g %s %.17g %.17g %.17g "
                  "%.17g %.17g\n",
                  c->family, c->layers, c->H, c->F, c->V, c->Q, c->G, c->D, c->window, c->norm_eps,
                  c->rope.type, c->rope.theta, c->rope.factor, c->rope.low_freq_factor,
                  c->rope.high_freq_factor, c->rope.original_max_positions);
    sha256_begin(&s);
    for (size_t i = 0; !bad && i < tensors_used(m); i++) {
        const Mat *w = &weight_at(m, i, name)->w;
        sha256_add(&s, head.data, head.len);
        head.len = 0;
        bad = text_addf(&head, e, "%s %s %zu %zu\n", name, dtype_name(w->dtype), w->rows, w->cols);
        sha256_add(&s, head.data, head.len);
        head.len = 0;
        sha256_add(&s, w->data, w->rows * w->cols * dtype_size(w->dtype));
    }
    text_free(&head);
    sha256_end(&s, hex);
    return bad ? -1 : 0;
}
