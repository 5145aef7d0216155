/* model_load.c - loads weights: finds files and tensors, checks every shape, hashes. */
#include "model_config.h"

#include <string.h>

enum { INDEX_LIMIT = 256 << 20 /* bytes of an index */, MAX_SHARDS = 4096 };
#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE "model.safetensors.index.json"
#define HEAD "lm_head.weight" /* also the other name of a tied embedding */
#define PREFIX "model."

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
        if (dot && !strcmp(dot, ".gguf"))
            err_set(e, ERR_NO_INPUT,
                    "%s: has no " SINGLE_FILE ", but a GGUF file: name it, as %s/%s", dir, dir,
                    names[i]);
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

static const StTensor *find_spelled(const Model *m, const char *name, const Safetensors **file)
{
    for (size_t i = 0; i < m->n_files; i++) {
        const StTensor *t = safetensors_find(&m->files[i], name);
        if (t) return *file = &m->files[i], t;
    }
    return NULL;
}

/* A model saved without its head (LlamaModel) names its tensors without the prefix. */
static const StTensor *find(const Model *m, const char *name, const Safetensors **file)
{
    const StTensor *t = find_spelled(m, name, file);
    size_t prefix = strlen(PREFIX);
    if (t || strncmp(name, PREFIX, prefix)) return t;
    return find_spelled(m, name + prefix, file);
}

/* Finds a weight by its name. Tied models store the shared matrix under either name. */
static const StTensor *find_weight(const Model *m, const Weight *w, const Safetensors **file)
{
    const StTensor *t = find(m, w->name, file);
    return t || w->param != &m->embedding || !m->config.tied ? t : find(m, HEAD, file);
}

static int is_shaped(const StTensor *t, const Weight *w)
{
    if (w->kind != WEIGHT_MATRIX && t->n_dims == 1) return t->shape[0] == w->cols;
    return t->n_dims == 2 && t->shape[0] == w->rows && t->shape[1] == w->cols;
}

/* A tensor of a file becomes the matrix of a weight, which it must fit. */
static int take(const Weight *w, const Safetensors *file, const StTensor *t, int flags, Mat *out,
                Err *e)
{
    const char *path = file->map.path;
    if (!is_shaped(t, w))
        return err_set(e, ERR_DATA,
                       "%s: %s: expected [%zu,%zu] by config.json, found [%llu%s%llu] "
                       "%s",
                       path, t->name, w->rows, w->cols,
                       (unsigned long long)(t->n_dims ? t->shape[0] : 0), t->n_dims > 1 ? "," : "",
                       (unsigned long long)(t->n_dims > 1 ? t->shape[1] : 0), t->dtype_text);
    if (!t->supported)
        return err_set(e, ERR_DATA,
                       "%s: %s: dtype %s is not supported here; F32, BF16, F16 and F64 are", path,
                       t->name, t->dtype_text);
    if (flags & MODEL_CHECK_TENSORS && safetensors_check_finite(file, t, e)) return -1;
    *out = (Mat){t->data, format_of(t->dtype), w->rows, w->cols, 0};
    return 0;
}

static int take_weight(Model *m, size_t i, int flags, Err *e)
{
    const Safetensors *file;
    Weight w;
    model_weight(m, i, &w);
    const StTensor *t = find_weight(m, &w, &file);
    if (!t && w.param == &m->head)
        return err_set(e, ERR_DATA,
                       "%s: tensor %s is missing; only with \"tie_word_embeddings\": true in "
                       "config.json is the embedding the head, too",
                       m->path, w.name);
    if (!t) return err_set(e, ERR_DATA, "%s: tensor %s is missing", m->path, w.name);
    if (take(&w, file, t, flags, &w.param->w, e)) return -1;
    m->weight_bytes += (size_t)t->bytes;
    return 0;
}

/* Sets *equal = 1 if two matrices of one shape hold the same numbers, in whatever type they are
 * stored. */
static int same_numbers(const Mat *a, const Mat *b, int *equal, Err *e)
{
    size_t n = a->cols;
    *equal = a->format == b->format && !memcmp(a->data, b->data, mat_bytes(a));
    if (*equal || a->format == b->format) return 0;
    real *row = mem_calloc(2 * n, sizeof *row, e);
    if (!row) return -1;
    *equal = 1;
    for (size_t i = 0; i < a->rows && *equal; i++) {
        format_unpack(a->format, row, mat_rows(a, i, 1).data, 0, n);
        format_unpack(b->format, row + n, mat_rows(b, i, 1).data, 0, n);
        *equal = !memcmp(row, row + n, n * sizeof *row);
    }
    mem_free(row);
    return 0;
}

/* A model that says its ends are one: where the files hold two matrices that differ, each is used
 * (transformers, since 5.0, unties them so). */
static int untie(Model *m, const Log *log, Err *e)
{
    const Safetensors *in_file, *out_file;
    Weight w;
    Mat in, out;
    int equal;
    model_weight(m, 0, &w);
    const StTensor *first = find(m, w.name, &in_file), *last = find(m, HEAD, &out_file);
    if (!m->config.tied || !first || !last) return 0;
    if (take(&w, in_file, first, 0, &in, e) || take(&w, out_file, last, 0, &out, e) ||
        same_numbers(&in, &out, &equal, e))
        return -1;
    if (equal) return 0;
    m->config.tied = 0;
    m->untied = 1;
    log_note(log, 'w',
             "%s: \"tie_word_embeddings\" is true, but the files hold %s and " HEAD
             ", which differ: both are used, as transformers does",
             m->path, w.name);
    return 0;
}

/* The files say what the weights are stored as; config.json only what they were. */
static void note_dtype(const Model *m, const Log *log)
{
    static const struct {
        const char *name;
        const Format *format;
    } names[] = {{"float32", &format_f32}, {"bfloat16", &format_bf16}, {"float16", &format_f16}};
    const Format *stored = m->embedding.w.format;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(m->config.dtype, names[i].name) && stored != names[i].format)
            log_note(log, 'w', "%s: config.json says %s, the weights are stored as %s: that counts",
                     m->path, names[i].name, stored->name);
}

/* Buffers that older programs stored beside the weights: computed anew, here as in transformers. */
static int is_buffer(const char *name)
{
    static const char *const ends[] = {"rotary_emb.inv_freq", "rotary_emb.cos_cached",
                                       "rotary_emb.sin_cached", "position_ids"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (n >= strlen(ends[i]) && !strcmp(name + n - strlen(ends[i]), ends[i])) return 1;
    return 0;
}

/* Is a stored tensor one that the model reads? */
static int is_read(const Model *m, const StTensor *t)
{
    const Safetensors *file;
    Weight w;
    if (!strcmp(t->name, HEAD)) return 1; /* tied: the embedding, or equal to it */
    for (size_t i = 0; i < model_weight_count(m); i++) {
        model_weight(m, i, &w);
        if (find(m, w.name, &file) == t) return 1;
    }
    return 0;
}

/* Do the files hold no more than the model reads? (A tied head may stand there twice.) */
static int is_all_read(const Model *m)
{
    const Safetensors *file;
    size_t stored = 0, read = model_weight_count(m);
    Weight w;
    model_weight(m, 0, &w);
    if (m->config.tied && find(m, HEAD, &file) && find(m, w.name, &file)) read++;
    for (size_t i = 0; i < m->n_files; i++) stored += m->files[i].count;
    return stored == read;
}

/* What the files hold and the function does not depend on: transformers leaves it out as well, but
 * a bias or a layer that config.json does not know is worth a look. */
static int note_extras(const Model *m, int flags, const Log *log, Err *e)
{
    size_t buffers = 0, others = 0;
    const char *first = NULL;
    if (is_all_read(m)) return 0;
    for (size_t i = 0; i < m->n_files; i++)
        for (size_t k = 0; k < m->files[i].count; k++) {
            const StTensor *t = &m->files[i].tensors[k];
            if (is_read(m, t)) continue;
            if (is_buffer(t->name)) {
                buffers++;
            } else if (!others++) {
                first = t->name;
            }
        }
    if (buffers)
        log_note(log, 'i',
                 "%s: %zu stored buffers (rotary_emb.inv_freq and the like) are computed instead",
                 m->path, buffers);
    if (!others) return 0;
    if (flags & MODEL_STRICT)
        return err_set(e, ERR_DATA,
                       "%s: --strict: %zu stored tensors are none of this config.json's, the first "
                       "is %s",
                       m->path, others, first);
    log_note(log, 'w',
             "%s: %zu stored tensors are not used (nor does transformers use them with this "
             "config.json), the first is %s",
             m->path, others, first);
    return 0;
}

static int load_directory(Model *m, int flags, const Log *log, Err *e)
{
    if (model_config_read(&m->config, m->path, flags & MODEL_STRICT, log, e)) return -1;
    if (flags & MODEL_CONFIG_ONLY) return 0;
    m->layers = mem_calloc(m->config.layers, sizeof *m->layers, e);
    if (!m->layers || open_files(m, m->path, !(flags & MODEL_NO_MMAP), log, e) || untie(m, log, e))
        return -1;
    for (size_t i = 0; i < model_weight_count(m); i++)
        if (take_weight(m, i, flags, e)) return -1;
    if (note_extras(m, flags, log, e)) return -1;
    note_dtype(m, log);
    return 0;
}

static int load_gguf(Model *m, int flags, const Log *log, Err *e)
{
    char name[IO_PATH_MAX + 32];
    Text config = {0};
    snprintf(name, sizeof name, "%s, as config.json", m->path);
    int bad = gguf_open(&m->gguf, m->path, !(flags & MODEL_NO_MMAP), e) ||
              model_gguf_config(&m->gguf, &config, e) ||
              model_config_parse(&m->config, config.data, config.len, name, flags & MODEL_STRICT,
                                 log, e);
    text_free(&config);
    if (bad) return -1;
    if (flags & MODEL_CONFIG_ONLY) return gguf_close(&m->gguf), 0;
    m->layers = mem_calloc(m->config.layers, sizeof *m->layers, e);
    return m->layers ? model_gguf_weights(m, flags, log, e) : -1;
}

int model_load(Model *m, const char *given, int flags, const Log *log, Err *e)
{
    memset(m, 0, sizeof *m);
    if (io_model_path(m->path, given, e)) return -1;
    if (!(gguf_is(m->path) ? load_gguf(m, flags, log, e) : load_directory(m, flags, log, e)))
        return 0;
    model_close(m);
    return -1;
}

void model_close(Model *m)
{
    model_leave(m);
    for (size_t i = 0; i < m->n_files; i++) safetensors_close(&m->files[i]);
    gguf_close(&m->gguf);
    mem_free(m->files);
    mem_free(m->layers);
    mem_free(m->rope_cos);
    mem_free(m->rope_sin);
    mem_free(m->trained);
    mem_free(m->trained_d);
    mem_free(m->made);
    memset(m, 0, sizeof *m);
}

/* ---- identity ------------------------------------------------------------------------------ */

/* Over what decides the numbers: the parsed configuration, then name, shape, dtype and bytes of
 * every weight in order; not over how the files are cut into shards. */
int model_hash(const Model *m, char hex[65], Err *e)
{
    const ModelConfig *c = &m->config;
    Sha256 s;
    Text head = {0};
    Weight weight;
    if (m->base) return model_hash(m->base, hex, e);
    int bad =
        text_addf(&head, e,
                  "%s %zu %zu %zu %zu %zu %zu %zu %zu %.17g %s %.17g %.17g %.17g "
                  "%.17g %.17g\n",
                  c->family, c->layers, c->H, c->F, c->V, c->Q, c->G, c->D, c->window, c->norm_eps,
                  c->rope.type, c->rope.theta, c->rope.factor, c->rope.low_freq_factor,
                  c->rope.high_freq_factor, c->rope.original_max_positions);
    if (!bad && !strcmp(c->rope.type, "yarn"))
        bad = text_addf(&head, e, "%.17g %.17g %.17g %d\n", c->rope.beta_fast, c->rope.beta_slow,
                        c->rope.attention_factor, c->rope.keeps_fractions);
    for (size_t i = 0; !bad && i < c->layers; i++)
        if (c->no_rope[i]) bad = text_addf(&head, e, "no rope %zu\n", i);
    sha256_begin(&s);
    for (size_t i = 0; !bad && i < model_weight_count(m); i++) {
        model_weight(m, i, &weight);
        const Mat *w = &weight.param->w;
        sha256_add(&s, head.data, head.len);
        head.len = 0;
        bad = text_addf(&head, e, "%s %s %zu %zu%s\n", weight.name, w->format->name, w->rows,
                        w->cols, w->paired ? " paired" : "");
        sha256_add(&s, head.data, head.len);
        head.len = 0;
        sha256_add(&s, w->data, mat_bytes(w));
    }
    text_free(&head);
    sha256_end(&s, hex);
    return bad ? -1 : 0;
}

/* The i-th mapped file of a model, NULL beyond the last. */
static const FileMap *map_at(const Model *m, size_t i)
{
    if (i < m->n_files) return &m->files[i].map;
    return i - m->n_files < m->gguf.n_parts ? &m->gguf.parts[i - m->n_files] : NULL;
}

int model_check_files(const Model *m, Err *e)
{
    const FileMap *map;
    for (size_t i = 0; (map = map_at(m, i)); i++)
        if (filemap_written(map))
            return err_set(e, ERR_DATA,
                           "%s: was written to while it was in use: its weights may be others now; "
                           "put the file back and run again",
                           map->path);
    return 0;
}

int model_stamp(const Model *m, char hex[65], Err *e)
{
    Text t = {0};
    const FileMap *f;
    int status = 0;
    for (size_t i = 0; !status && (f = map_at(m, i)); i++)
        status = text_addf(&t, e, "%s %llu %llu %llu %lld %lld\n", f->path,
                           (unsigned long long)f->device, (unsigned long long)f->inode,
                           (unsigned long long)f->bytes, (long long)f->seconds,
                           (long long)f->nanoseconds);
    sha256_bytes(t.data ? t.data : "", t.len, hex);
    text_free(&t);
    return status ? -1 : 0;
}

int model_expect(const Model *m, const char *hex, const char *begun, Err *e)
{
    if (!begun || !*begun || !strcmp(hex, begun)) return 0;
    return err_set(e, ERR_DATA, "%s: is another model now than when the run began; put it back%s",
                   m->path, advice("resume", ", then --resume"));
}

int model_check_hash(Model *m, const char hex[65], Err *e)
{
    char now[65];
    Err written, other;
    if (!model_check_files(m, &written)) return 0;
    if (model_hash(m, now, &other) || strcmp(now, hex)) {
        *e = written;
        return -1;
    }
    for (size_t i = 0; i < m->n_files; i++) filemap_accept(&m->files[i].map);
    for (size_t i = 0; i < m->gguf.n_parts; i++) filemap_accept(&m->gguf.parts[i]);
    return 0;
}
