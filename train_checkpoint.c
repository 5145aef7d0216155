/* train_checkpoint.c - writes checkpoints that survive kill -9 at any instant, and resumes from
 * them.
 *
 * A checkpoint is built in checkpoints/step-XXXXXXXX.tmp, its manifest last, every file and the
 * directory synced, and then renamed: it is there whole or not at all. What is believed on resume
 * is a manifest whose sizes and hashes hold, never a name or a date; the newest such one counts.
 */
#include "train_parts.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

/* Of state.json and manifest.json. A larger number in a file means a newer program wrote it. */
#define CHECKPOINT_FORMAT 1

static const char *const checkpoint_files[] = {"adapter_config.json", "adapter_model.safetensors",
                                               "optimizer.safetensors", "state.json"};
static const char *const checkpoint_files_full[] = {"optimizer.safetensors", "state.json",
                                                    "weights.safetensors"};

static size_t file_list(const Run *r, const char *const **files)
{
    *files = r->c.full ? checkpoint_files_full : checkpoint_files;
    return r->c.full ? sizeof checkpoint_files_full / sizeof *checkpoint_files_full
                     : sizeof checkpoint_files / sizeof *checkpoint_files;
}

static Json *read_json(const char *dir, const char *name, Pool *pool, Err *e)
{
    char path[IO_PATH_MAX], *data;
    size_t len;
    if (io_path(path, sizeof path, dir, name, e) || io_read_file(path, 0, &data, &len, e))
        return NULL;
    Json *j = json_parse(pool, data, len, name, 0, e);
    mem_free(data);
    return j;
}

/* ---- whose run is this? -------------------------------------------------------------------- */

/* "key": SHA-256 of a file, or of two one after the other. */
static void put_file_hash(JsonWriter *w, const char *key, const char *dir, const char *first,
                          const char *second)
{
    const char *names[2] = {first, second};
    char path[IO_PATH_MAX], hash[2 * 64 + 1] = "";
    for (int i = 0; i < 2 && names[i] && !w->failed; i++)
        json_took(w, io_path(path, sizeof path, dir, names[i], w->e) ||
                         sha256_file(path, hash + (i ? 64 : 0), w->e));
    json_line(w, 2);
    json_text(w, key, hash);
}

static void put_line(JsonWriter *w, const char *key, const char *text)
{
    json_line(w, 2);
    json_text(w, key, text);
}

/* The ids of a set: what the tokenizer and the chat template made of its file. */
static void put_set(JsonWriter *w, const TrainSet *set, const char *data, const char *tokens)
{
    char ids[65];
    Sha256 s;
    if (!set->rows.count) return;
    sha256_begin(&s);
    for (size_t i = 0; i < set->rows.count; i++) {
        const Row *row = &set->rows.rows[i];
        uint64_t n_prompt = row->n_prompt; /* the same bytes on 32-bit machines */
        sha256_add(&s, &n_prompt, sizeof n_prompt);
        sha256_add(&s, row->prompt, row->n_prompt * sizeof *row->prompt);
        for (size_t k = 0; k < 2; k++)
            if (row->completion[k])
                sha256_add(&s, row->completion[k], row->n_completion[k] * sizeof(int32_t));
    }
    sha256_end(&s, ids);
    put_line(w, data, set->rows.sha256);
    put_line(w, tokens, ids);
}

/* Does the run's own inputs.json, if there is one, have this member? Older versions did not write
 * "chat-template" or "date". */
static int has_input(const Run *r, const char *name)
{
    char path[IO_PATH_MAX];
    Pool pool = {0};
    Err ignored;
    if (io_path(path, sizeof path, r->c.run, "inputs.json", &ignored) || !io_exists(path)) return 1;
    const Json *before = read_json(r->c.run, "inputs.json", &pool, &ignored);
    int has = !before || json_get(before, name);
    pool_free(&pool);
    return has;
}

/* inputs.json: the method, and the hash of everything that is read. The template that rendered the
 * rows is told to those who use the adapter (chat_check_adapter): the hash of tokens binds it. */
static int put_inputs(Run *r, Text *out, Err *e)
{
    const TrainConfig *c = &r->c;
    const char *config = "adapter_config.json", *weights = "adapter_model.safetensors";
    const char *model = r->engine.model.path, *tokenizer = tokenizer_file(model, e);
    char texts[65]; /* of a GGUF file, which holds the tokenizer, too */
    int one_file = r->engine.model.gguf.n_parts > 0;
    JsonWriter w = {.text = out, .e = e, .spaced = 1};
    if (!tokenizer || (one_file && tokenizer_hash(model, texts, e))) return -1;
    json_open(&w, NULL, "{");
    put_line(&w, "method", train_method_names[c->method]);
    put_line(&w, "model", r->model_sha256);
    if (one_file)
        put_line(&w, "tokenizer", texts);
    else
        put_file_hash(&w, "tokenizer", model, tokenizer, NULL);
    put_set(&w, &r->train, "data", "tokens");
    put_set(&w, &r->eval, "eval-data", "eval-tokens");
    /* 0.1.0 gave each micro-batch the same weight, so a run that it began is not continued by this
     * rule. */
    if (c->method == TRAIN_SFT && c->accumulate > 1)
        put_line(&w, "loss", "mean over the tokens of a step");
    const Dataset *rows = &r->train.rows;
    if (rows->chat && has_input(r, "chat-template"))
        put_line(&w, "chat-template", chat_name(rows->chat));
    if (*rows->report.date && has_input(r, "date")) put_line(&w, "date", rows->report.date);
    if (c->init_adapter) put_file_hash(&w, "init-adapter", c->init_adapter, config, weights);
    if (c->reference == REFERENCE_DIR)
        put_file_hash(&w, "reference", c->reference_dir, config, weights);
    else
        put_line(&w, "reference", c->reference == REFERENCE_INIT ? "init" : "base");
    json_close(&w, "\n}\n");
    return json_written(&w);
}

/* Adds "key now (was before), " for every member of `a` that `b` has not, or has otherwise. */
static int list_differences(Text *out, const Json *a, const Json *b, int skip, int reversed, Err *e)
{
    Text va = {0}, vb = {0};
    int failed = 0;
    for (const Json *x = a->child; x && !failed; x = x->next) {
        const Json *y = json_get(b, x->key);
        va.len = vb.len = 0;
        if ((skip && train_config_free(x->key)) || (reversed && y)) continue;
        failed =
            json_put(&va, x, e) || (y ? json_put(&vb, y, e) : text_addf(&vb, e, "%s", "absent"));
        if (failed || !strcmp(va.data, vb.data)) continue;
        failed = text_addf(out, e, "%s%s %.70s (was %.70s)", out->len ? ", " : "", x->key,
                           reversed ? vb.data : va.data, reversed ? va.data : vb.data);
    }
    text_free(&va);
    text_free(&vb);
    return failed ? -1 : 0;
}

/* One of the two files: written where it is missing, else compared. */
static int compare_identity(const Run *r, const char *name, const Text *now, int skip,
                            Text *differences, Err *e)
{
    char path[IO_PATH_MAX], *data;
    size_t len;
    Pool pool = {0};
    if (io_path(path, sizeof path, r->c.run, name, e)) return -1;
    if (!io_exists(path)) return differences->len ? 0 : io_write_file(path, now->data, now->len, e);
    if (io_read_file(path, 0, &data, &len, e)) return -1;
    const Json *before = json_parse(&pool, data, len, path, 0, e);
    const Json *new = before ? json_parse(&pool, now->data, now->len, path, 0, e) : NULL;
    int failed = !new || list_differences(differences, new, before, skip, 0, e) ||
                 list_differences(differences, before, new, skip, 1, e);
    mem_free(data);
    pool_free(&pool);
    return failed ? -1 : 0;
}

int checkpoint_identity(Run *r, Err *e)
{
    Text config = {0}, inputs = {0}, differences = {0};
    int failed = train_config_json(&r->c, &config, e) || put_inputs(r, &inputs, e) ||
                 compare_identity(r, "config.json", &config, 1, &differences, e) ||
                 compare_identity(r, "inputs.json", &inputs, 0, &differences, e);
    if (!failed) sha256_bytes(inputs.data, inputs.len, r->inputs_sha256);
    if (!failed && differences.len)
        failed =
            err_set(e, ERR_DATA,
                    "%s: this is not the run to be resumed: %s; take the same command line, or "
                    "another -o",
                    r->c.run, differences.data);
    text_free(&config);
    text_free(&inputs);
    text_free(&differences);
    return failed ? -1 : 0;
}

int checkpoint_has_identity(const Run *r)
{
    char config[IO_PATH_MAX], inputs[IO_PATH_MAX];
    Err ignored;
    return !io_path(config, sizeof config, r->c.run, "config.json", &ignored) &&
           !io_path(inputs, sizeof inputs, r->c.run, "inputs.json", &ignored) &&
           io_exists(config) && io_exists(inputs);
}

int checkpoint_reference(Run *r, Err *e)
{
    TrainConfig *c = &r->c;
    Pool pool = {0};
    char path[IO_PATH_MAX];
    if (!c->resume || !c->run || c->reference != REFERENCE_AUTO) return 0;
    if (io_path(path, sizeof path, c->run, "inputs.json", e)) return -1;
    if (!io_exists(path)) return 0;
    const Json *inputs = read_json(c->run, "inputs.json", &pool, e);
    const Json *reference = inputs ? json_get(inputs, "reference") : NULL;
    if (json_is(reference, "base")) c->reference = REFERENCE_BASE;
    if (json_is(reference, "init")) c->reference = REFERENCE_INIT;
    pool_free(&pool);
    return inputs ? 0 : -1;
}

int checkpoint_day(Run *r, Err *e)
{
    /* What runs were told that wrote no day down. */
    static const char before[] = "2024-07-26";
    Pool pool = {0};
    char path[IO_PATH_MAX];
    if (!r->c.resume || !r->c.run || r->c.rows.date) return 0;
    if (io_path(path, sizeof path, r->c.run, "inputs.json", e)) return -1;
    if (!io_exists(path)) return 0;
    const Json *inputs = read_json(r->c.run, "inputs.json", &pool, e);
    const Json *day = inputs ? json_get(inputs, "date") : NULL;
    snprintf(r->day, sizeof r->day, "%s",
             day && day->type == JSON_STRING ? day->text : before);
    pool_free(&pool);
    return inputs ? 0 : -1;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* Weights and moments in one list: prefix + name. */
typedef struct {
    StOut *out;
    char (*names)[sizeof((NamedParam *)0)->name + 8];
    size_t n;
} Tensors;

static int tensors_begin(Tensors *t, size_t cap, Err *e)
{
    t->n = 0;
    t->out = mem_calloc(cap, sizeof *t->out, e);
    t->names = t->out ? mem_calloc(cap, sizeof *t->names, e) : NULL;
    return t->names ? 0 : -1;
}

static void tensors_add(Tensors *t, const char *prefix, const TrainParam *p, const real *data)
{
    snprintf(t->names[t->n], sizeof *t->names, "%s%s", prefix, p->p.name);
    t->out[t->n] = (StOut){.name = t->names[t->n],
                           .dtype = DTYPE_REAL,
                           .n_dims = 2,
                           .shape = {p->p.rows, p->p.cols},
                           .data = data};
    t->n++;
}

static int tensors_write(Tensors *t, const char *dir, const char *name, Err *e)
{
    char path[IO_PATH_MAX];
    return io_path(path, sizeof path, dir, name, e) ||
                   safetensors_write(path, t->out, t->n, NULL, e)
               ? -1
               : 0;
}

static void tensors_end(Tensors *t)
{
    mem_free(t->out);
    mem_free(t->names);
}

static int write_optimizer(const Run *r, const char *dir, Err *e)
{
    const Parameters *p = &r->params;
    Tensors t = {0};
    int failed = tensors_begin(&t, 2 * p->n, e);
    for (size_t i = 0; i < p->n && !failed; i++) {
        tensors_add(&t, "m.", &p->list[i], p->m + p->list[i].at);
        tensors_add(&t, "v.", &p->list[i], p->v + p->list[i].at);
    }
    failed = failed || tensors_write(&t, dir, "optimizer.safetensors", e);
    tensors_end(&t);
    return failed ? -1 : 0;
}

static int write_weights(const Run *r, const char *dir, Err *e)
{
    const Parameters *p = &r->params;
    Tensors t = {0};
    if (!r->c.full) return lora_save(&r->policy, dir, e);
    int failed = tensors_begin(&t, p->n, e);
    for (size_t i = 0; i < p->n && !failed; i++) tensors_add(&t, "", &p->list[i], p->list[i].p.w);
    failed = failed || tensors_write(&t, dir, "weights.safetensors", e);
    tensors_end(&t);
    return failed ? -1 : 0;
}

static int write_text(const char *dir, const char *name, const Text *text, Err *e)
{
    char path[IO_PATH_MAX];
    return io_path(path, sizeof path, dir, name, e) || io_write_file(path, text->data, text->len, e)
               ? -1
               : 0;
}

static int write_state(const Run *r, const char *dir, Err *e)
{
    const TrainState *s = &r->state;
    Text out = {0};
    JsonWriter w = {.text = &out, .e = e};
    json_open(&w, NULL, "{");
    json_count(&w, "format", CHECKPOINT_FORMAT);
    json_count(&w, "step", s->step);
    json_count(&w, "update", s->update);
    json_count(&w, "num_tokens", s->num_tokens);
    json_count(&w, "skipped", s->skipped);
    json_count(&w, "skipped_in_row", s->skipped_in_row);
    json_number(&w, "loss", s->loss);
    json_open(&w, "metrics", "[");
    for (int i = 0; i < METRIC_COUNT; i++) {
        json_open(&w, NULL, "[");
        json_number(&w, NULL, s->metrics.sum[i]);
        json_count(&w, NULL, s->metrics.count[i]);
        json_close(&w, "]");
    }
    json_close(&w, "]}\n");
    int failed = json_written(&w) || write_text(dir, "state.json", &out, e);
    text_free(&out);
    return failed ? -1 : 0;
}

/* Size and SHA-256 of a file, read piece by piece: it may be larger than what memory is left. */
static int measure_file(const char *dir, const char *name, uint64_t *bytes, char hash[65], Err *e)
{
    char path[IO_PATH_MAX];
    struct stat st;
    *bytes = 0;
    if (io_path(path, sizeof path, dir, name, e) || sha256_file(path, hash, e)) return -1;
    if (stat(path, &st)) return err_set(e, ERR_IO, "%s: cannot be read", path);
    *bytes = (uint64_t)st.st_size;
    return 0;
}

/* The last file of a checkpoint: says what the others are. It reads them back, so it also proves
 * that what stands on the disk is what was meant. */
static int write_manifest(const Run *r, const char *dir, Err *e)
{
    const char *const *files;
    size_t n = file_list(r, &files);
    Text out = {0};
    JsonWriter w = {.text = &out, .e = e};
    json_open(&w, NULL, "{");
    json_count(&w, "format", CHECKPOINT_FORMAT);
    json_count(&w, "step", r->state.step);
    json_text(&w, "inputs", r->inputs_sha256);
    json_open(&w, "files", "{");
    for (size_t i = 0; i < n && !w.failed; i++) {
        uint64_t bytes;
        char hash[65] = "";
        json_took(&w, measure_file(dir, files[i], &bytes, hash, e));
        json_line(&w, 0);
        json_open(&w, files[i], "{");
        json_count(&w, "bytes", bytes);
        json_text(&w, "sha256", hash);
        json_close(&w, "}");
    }
    json_close(&w, "}}\n");
    int failed = json_written(&w) || write_text(dir, "manifest.json", &out, e);
    text_free(&out);
    return failed ? -1 : 0;
}

/* ---- names --------------------------------------------------------------------------------- */

static int checkpoints_path(const Run *r, char *out, size_t size, Err *e)
{
    return io_path(out, size, r->c.run, "checkpoints", e);
}

/* RUN/checkpoints/step-XXXXXXXX + ending, of the current step. */
static int step_path(const Run *r, const char *ending, char *out, size_t size, Err *e)
{
    char name[64];
    snprintf(name, sizeof name, "checkpoints/step-%08zu%s", r->state.step, ending);
    return io_path(out, size, r->c.run, name, e);
}

/* Is this the name of a finished checkpoint? */
static int parse_name(const char *name, uint64_t *step)
{
    const char prefix[] = "step-";
    size_t n = sizeof prefix - 1, digits = strlen(name) < n ? 0 : strlen(name) - n;
    return digits >= 8 && !strncmp(name, prefix, n) && !parse_u64(name + n, digits, step);
}

/* Deletes the oldest beyond --keep. path: room for their paths. */
static int rotate(const Run *r, char *path, size_t size, Err *e)
{
    Pool pool = {0};
    char **names, parent[IO_PATH_MAX];
    size_t count = 0, ours = 0;
    uint64_t step;
    int failed =
        checkpoints_path(r, parent, sizeof parent, e) || io_list(parent, &pool, &names, &count, e);
    for (size_t i = 0; i < count && !failed; i++) ours += (size_t)parse_name(names[i], &step);
    for (size_t i = 0; i < count && !failed && ours > r->c.keep; i++) {
        if (!parse_name(names[i], &step) || step == r->state.step) continue;
        failed = io_path(path, size, parent, names[i], e) || io_remove_tree(path, e);
        ours--;
    }
    pool_free(&pool);
    return failed ? -1 : 0;
}

/* All files into an empty directory, the manifest last. */
static int write_files(const Run *r, const char *dir, Err *e)
{
    return io_remove_tree(dir, e) || io_make_directory(dir, 0, e) || write_weights(r, dir, e) ||
                   write_optimizer(r, dir, e) || write_state(r, dir, e) ||
                   write_manifest(r, dir, e) || io_sync_directory(dir, e)
               ? -1
               : 0;
}

int checkpoint_save(Run *r, Err *e)
{
    char temp[IO_PATH_MAX], final[IO_PATH_MAX];
    if (checkpoints_path(r, final, sizeof final, e) || io_make_directory(final, 0, e) ||
        step_path(r, ".tmp", temp, sizeof temp, e) || step_path(r, "", final, sizeof final, e))
        return -1;
    if (write_files(r, temp, e) || io_remove_tree(final, e) || io_rename(temp, final, e)) {
        Err ignored;
        io_remove_tree(temp, &ignored);
        return -1;
    }
    return rotate(r, final, sizeof final, e);
}

/* ---- reading ------------------------------------------------------------------------------- */

static int file_holds(const char *dir, const Json *file, Err *e)
{
    uint64_t bytes, found;
    char hash[65];
    if (!json_get(file, "bytes") || json_u64(json_get(file, "bytes"), &bytes))
        return err_set(e, ERR_DATA, "manifest.json: no size for %s", file->key);
    if (measure_file(dir, file->key, &found, hash, e)) return -1;
    if (found != bytes || !json_is(json_get(file, "sha256"), hash))
        return err_set(e, ERR_DATA, "%s: its content is not what manifest.json says", file->key);
    return 0;
}

/* The format number of a manifest; *newer = 1 where it is not of this program's time. */
static int check_format(const Json *manifest, int *newer, Err *e)
{
    uint64_t format;
    const Json *j = json_get(manifest, "format");
    if (!j || json_u64(j, &format)) return err_set(e, ERR_DATA, "manifest.json: no format number");
    *newer = format > CHECKPOINT_FORMAT;
    if (!*newer) return 0;
    return err_set(e, ERR_DATA,
                   "manifest.json: format %llu is newer than this program's %d; "
                   "upgrade the program",
                   (unsigned long long)format, CHECKPOINT_FORMAT);
}

/* Every file of the run's kind is there with the size and hash it should have. */
static int verify(const Run *r, const char *dir, int *newer, Err *e)
{
    const char *const *files;
    size_t n = file_list(r, &files);
    Pool pool = {0};
    *newer = 0;
    const Json *manifest = read_json(dir, "manifest.json", &pool, e);
    int failed = !manifest || check_format(manifest, newer, e);
    if (!failed && !json_is(json_get(manifest, "inputs"), r->inputs_sha256))
        failed = err_set(e, ERR_DATA, "it belongs to a run with other inputs");
    for (size_t i = 0; i < n && !failed; i++) {
        const Json *file = json_get(json_get(manifest, "files"), files[i]);
        failed = file ? file_holds(dir, file, e)
                      : err_set(e, ERR_DATA, "manifest.json: no %s", files[i]);
    }
    pool_free(&pool);
    return failed ? -1 : 0;
}

static int state_number(const Json *state, const char *key, uint64_t *value, Err *e)
{
    const Json *j = json_get(state, key);
    if (j && !json_u64(j, value)) return 0;
    return err_set(e, ERR_DATA, "state.json: no number \"%s\"", key);
}

/* A number, or null for one that was not finite. */
static double state_real(const Json *j)
{
    double value;
    return j && !json_f64(j, &value) ? value : NAN;
}

static int read_state(TrainState *s, const char *dir, Err *e)
{
    Pool pool = {0};
    uint64_t n[5] = {0};
    const Json *j = read_json(dir, "state.json", &pool, e);
    int failed = !j || state_number(j, "step", &n[0], e) || state_number(j, "update", &n[1], e) ||
                 state_number(j, "num_tokens", &n[2], e) || state_number(j, "skipped", &n[3], e) ||
                 state_number(j, "skipped_in_row", &n[4], e);
    const Json *metrics = failed ? NULL : json_get(j, "metrics");
    if (!failed && (!metrics || metrics->len != METRIC_COUNT))
        failed = err_set(e, ERR_DATA, "state.json: \"metrics\" must have %d entries", METRIC_COUNT);
    if (!failed) {
        *s = (TrainState){.step = (size_t)n[0],
                          .update = n[1],
                          .num_tokens = n[2],
                          .skipped = (size_t)n[3],
                          .skipped_in_row = (size_t)n[4],
                          .loss = state_real(json_get(j, "loss"))};
        int i = 0;
        for (const Json *x = metrics->child; x && x->len == 2; x = x->next, i++) {
            uint64_t count = 0;
            s->metrics.sum[i] = state_real(x->child);
            failed |= json_u64(x->child->next, &count);
            s->metrics.count[i] = (size_t)count;
        }
        if (failed || i != METRIC_COUNT)
            failed = err_set(e, ERR_DATA, "state.json: \"metrics\" must be pairs of sum and count");
    }
    pool_free(&pool);
    return failed ? -1 : 0;
}

/* Copies tensor prefix + name into `out`, whose shape it must have. */
static int take_tensor(const Safetensors *s, const char *prefix, const TrainParam *p, real *out,
                       Err *e)
{
    char name[sizeof p->p.name + 8];
    snprintf(name, sizeof name, "%s%s", prefix, p->p.name);
    const StTensor *t = safetensors_find(s, name);
    if (!t) return err_set(e, ERR_DATA, "%s: no tensor %s", s->map.path, name);
    int fits = t->n_dims == 2 && t->shape[0] == p->p.rows && t->shape[1] == p->p.cols;
    if (p->p.is_vector && t->n_dims == 1) fits = t->shape[0] == p->p.cols; /* an adapter's */
    if (t->dtype != DTYPE_REAL || !fits)
        return err_set(e, ERR_DATA, "%s: %s must be %s [%zu,%zu]", s->map.path, name,
                       dtype_name(DTYPE_REAL), p->p.rows, p->p.cols);
    dtype_to_real(out, t->data, t->dtype, p->count);
    return 0;
}

static int read_tensors(Run *r, const char *dir, Err *e)
{
    const char *weights = r->c.full ? "weights.safetensors" : "adapter_model.safetensors";
    char path[IO_PATH_MAX];
    Safetensors s = {0};
    int failed = io_path(path, sizeof path, dir, weights, e) || safetensors_open(&s, path, 1, e);
    for (size_t i = 0; i < r->params.n && !failed; i++)
        failed = take_tensor(&s, "", &r->params.list[i], r->params.list[i].p.w, e);
    safetensors_close(&s);
    if (failed) return -1;
    if (r->has_policy) lora_measure(&r->policy);
    s = (Safetensors){0};
    failed = io_path(path, sizeof path, dir, "optimizer.safetensors", e) ||
             safetensors_open(&s, path, 1, e);
    for (size_t i = 0; i < r->params.n && !failed; i++) {
        const TrainParam *p = &r->params.list[i];
        failed = take_tensor(&s, "m.", p, r->params.m + p->at, e) ||
                 take_tensor(&s, "v.", p, r->params.v + p->at, e);
    }
    safetensors_close(&s);
    return failed ? -1 : 0;
}

/* From the newest to the oldest, until one holds. */
static int load_newest(Run *r, const char *parent, char **names, size_t count, int *found, Err *e)
{
    size_t rejected = 0;
    char dir[IO_PATH_MAX], reason[sizeof e->text] = "";
    *found = 0;
    for (size_t i = count; i > 0 && !*found; i--) {
        uint64_t step;
        int newer;
        if (!parse_name(names[i - 1], &step)) continue;
        if (io_path(dir, sizeof dir, parent, names[i - 1], e)) return -1;
        if (verify(r, dir, &newer, e)) {
            /* Never trained over; and a fault of the moment says nothing about the checkpoint. */
            if (newer || e->code == ERR_MEMORY || e->code == ERR_IO)
                return err_prefix(e, "%s", dir);
            rejected++;
            snprintf(reason, sizeof reason, "%s: %.900s", names[i - 1], e->text);
            log_note(&r->events->log, 'w', "checkpoint %s is left out: %s", names[i - 1], e->text);
            continue;
        }
        if (read_tensors(r, dir, e) || read_state(&r->state, dir, e))
            return err_prefix(e, "%s", dir);
        *found = 1;
    }
    if (*found || !rejected) return 0;
    return err_set(e, ERR_DATA,
                   "%s: no valid checkpoint among %zu: %.700s; start anew in another -o", parent,
                   rejected, reason);
}

int checkpoint_load(Run *r, int *found, Err *e)
{
    char parent[IO_PATH_MAX], **names;
    Pool pool = {0};
    size_t count;
    *found = 0;
    if (checkpoints_path(r, parent, sizeof parent, e)) return -1;
    if (!io_is_directory(parent)) return 0;
    int failed =
        io_list(parent, &pool, &names, &count, e) || load_newest(r, parent, names, count, found, e);
    pool_free(&pool);
    return failed ? -1 : 0;
}

/* ---- the end ------------------------------------------------------------------------------- */

/* Is this the name of a file or directory that we had begun to write? */
static int is_leftover(const char *name)
{
    static const char *const ours[] = {"adapter.tmp",
                                       "model.tmp",
                                       "step-",
                                       "config.json.tmp.",
                                       "inputs.json.tmp.",
                                       "metrics.jsonl.tmp.",
                                       "reference.jsonl.tmp.",
                                       "reference-eval.jsonl.tmp."};
    for (size_t i = 0; i < sizeof ours / sizeof *ours && strstr(name, ".tmp"); i++)
        if (!strncmp(name, ours[i], strlen(ours[i]))) return 1;
    return 0;
}

static void sweep_directory(const char *dir)
{
    char path[IO_PATH_MAX], **names;
    Pool pool = {0};
    size_t count = 0;
    Err ignored;
    if (io_is_directory(dir) && !io_list(dir, &pool, &names, &count, &ignored))
        for (size_t i = 0; i < count; i++)
            if (is_leftover(names[i]) && !io_path(path, sizeof path, dir, names[i], &ignored))
                io_remove_tree(path, &ignored);
    pool_free(&pool);
}

void checkpoint_sweep(const Run *r)
{
    char path[IO_PATH_MAX];
    Err ignored;
    sweep_directory(r->c.run);
    if (!checkpoints_path(r, path, sizeof path, &ignored)) sweep_directory(path);
    if (!io_path(path, sizeof path, r->c.run, "diverged", &ignored)) sweep_directory(path);
}

/* The weights into dir/adapter or dir/model, which is there whole or not at all. */
static int write_product(Run *r, const char *dir, Err *e)
{
    char temp[IO_PATH_MAX], final[IO_PATH_MAX];
    const char *name = r->c.full ? "model" : "adapter";
    const char *temp_name = r->c.full ? "model.tmp" : "adapter.tmp";
    if (io_path(temp, sizeof temp, dir, temp_name, e) ||
        io_path(final, sizeof final, dir, name, e))
        return -1;
    int failed = io_remove_tree(temp, e) ||
                 (r->c.full ? model_save(&r->engine.model, NULL, temp, &r->events->log, e)
                            : lora_save(&r->policy, temp, e)) ||
                 io_sync_directory(temp, e) || io_rename(temp, final, e);
    if (!failed) return 0;
    Err ignored; /* the rename may have come to pass, and only its sync have failed */
    io_remove_tree(temp, &ignored);
    io_remove_tree(final, &ignored);
    return -1;
}

int checkpoint_finish(Run *r, Err *e)
{
    const char *bad = params_find_nonfinite(&r->params);
    if (bad) return err_set(e, ERR_DIVERGED, "%s: a weight is not finite; nothing is written", bad);
    return write_product(r, r->c.run, e);
}

int checkpoint_rescue(Run *r, Err *e)
{
    char dir[IO_PATH_MAX], old[IO_PATH_MAX];
    params_return(&r->params);
    return io_path(dir, sizeof dir, r->c.run, "diverged", e) || io_make_directory(dir, 0, e) ||
                   io_path(old, sizeof old, dir, r->c.full ? "model" : "adapter", e) ||
                   io_remove_tree(old, e) || write_product(r, dir, e)
               ? -1
               : 0;
}
