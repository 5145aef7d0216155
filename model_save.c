/* model_save.c - writes a new model directory: trained or merged weights. */
#include "model_config.h"
#include "tokenizer.h"

#include <string.h>

/* The format a weight has on disk: what is asked for, else what the base stored. F32 where that is
 * not written: trained copies, blocks. */
static const Format *disk_format(const Mat *w, const Dtype *asked)
{
    if (asked) return format_of(*asked);
    return w->format->direct && w->format->pack ? w->format : &format_f32;
}

const Mat *save_own(const Model *m, size_t i, const Weight *w)
{
    Weight own;
    if (!m->base) return &w->param->w;
    /* The head of a model whose adapter unties it was the embedding. */
    model_weight(m->base, i < model_weight_count(m->base) ? i : 0, &own);
    return &own.param->w;
}

static int check_finite(const real *values, size_t n, const char *name, const char *what,
                        const char *dtype, Err *e)
{
    size_t at = tensor_find_nonfinite(values, n);
    if (at == n) return 0;
    return err_set(e, ERR_DATA, "%s: number %zu of the result %s%s%s", name, at, what, dtype,
                   *dtype ? advice("dtype", "; --dtype f32 has room for all that is finite") : "");
}

int save_values(const char *name, const Mat *as, real *values, Writer *out, Err *e)
{
    size_t run, stride, n = as->rows * as->cols, bytes = mat_bytes(as);
    const Format *to = as->format;
    unsigned char *stored = mem_alloc(bytes, e);
    if (!stored) return -1;
    Mat place = *as;
    place.data = stored;
    for (size_t r = 0; r < as->rows; r++) {
        const unsigned char *row = mat_row(&place, r, &run, &stride);
        to->pack(stored + (row - stored), values + r * as->cols, as->cols / to->block);
    }
    mat_unpack(&place, values);
    int bad = to == &format_f32 ? check_finite(values, n, name, "is not finite", "", e)
                                : check_finite(values, n, name, "is too large for ", to->name, e);
    bad = bad || writer_put(out, stored, bytes, e);
    mem_free(stored);
    return bad ? -1 : 0;
}

/* The values with the adapter folded in, in the format of the file. */
static int put_changed(const FileWeight *s, const Adapter *a, Writer *out, Err *e)
{
    const Mat *w = &s->weight.param->w;
    Mat as = {NULL, s->to, w->rows, w->cols, s->paired};
    real *values = mem_alloc(w->rows * w->cols * sizeof *values, e);
    if (!values) return -1;
    mat_unpack(w, values);
    int bad = check_finite(values, w->rows * w->cols, s->name, "is not finite", "", e) ||
              (a && lora_merge_into(values, a, s->to, s->report, e)) ||
              save_values(s->name, &as, values, out, e);
    mem_free(values);
    return bad ? -1 : 0;
}

int save_weight(void *ctx, Writer *out, Err *e)
{
    const FileWeight *s = ctx;
    const Mat *w = &s->weight.param->w;
    const Adapter *a = model_adapter(s->lora, &s->weight);
    if (a || w->paired != s->paired || s->to != w->format) return put_changed(s, a, out, e);
    return writer_put(out, w->data, mat_bytes(w), e);
}

int save_check_head(const Model *m, const Lora *lora, Err *e)
{
    if (!m->config.tied || !lora_at(lora, 0, TARGET_HEAD)) return 0;
    return err_set(e, ERR_DATA,
                   "%s: the adapter changes lm_head, which this model shares with "
                   "its embedding: it cannot be merged",
                   m->path);
}

static int save_weights(const Model *m, const Lora *lora, const Dtype *dtype, MergeReport *report,
                        const char *path, Err *e)
{
    size_t n = model_weight_count(m);
    FileWeight *sources = mem_calloc(n, sizeof *sources, e);
    StOut *outs = mem_calloc(n, sizeof *outs, e);
    int bad = !sources || !outs;
    for (size_t i = 0; !bad && i < n; i++) {
        FileWeight *source = &sources[i];
        model_weight(m, i, &source->weight);
        const Weight *w = &source->weight;
        source->lora = lora;
        source->to = disk_format(save_own(m, i, w), dtype);
        source->report = report;
        source->name = w->name;
        int vector = w->kind != WEIGHT_MATRIX;
        outs[i] = (StOut){.name = w->name,
                          .dtype = source->to->dtype,
                          .n_dims = vector ? 1 : 2,
                          .shape = {vector ? w->cols : w->rows, vector ? 0 : w->cols},
                          .produce = save_weight,
                          .ctx = source};
    }
    const char *const metadata[] = {"format", "pt", NULL};
    bad = bad || safetensors_write(path, outs, n, metadata, e);
    mem_free(outs);
    mem_free(sources);
    return bad ? -1 : 0;
}

static int copy_file(const char *from_dir, const char *to_dir, const char *name, Err *e)
{
    char from[IO_PATH_MAX], to[IO_PATH_MAX];
    if (io_path(from, sizeof from, from_dir, name, e) || io_path(to, sizeof to, to_dir, name, e))
        return -1;
    return io_exists(from) ? io_copy_file(from, to, e) : 0;
}

/* A member of config.json that must say another thing in the new directory. */
typedef struct {
    const char *key, *was, *is; /* as they are spelled */
} Change;

/* Puts text[0 .. len-1] with the changes. */
static int put_changes(Text *out, const char *text, size_t len, const Change *list, size_t n,
                       Err *e)
{
    for (size_t at = 0; at < len;) {
        size_t end = at + 1, skip = 0;
        const char *is = "";
        for (size_t k = 0; k < n && !skip; k++) {
            size_t key = strlen(list[k].key), was = strlen(list[k].was);
            if (strncmp(text + at, list[k].key, key)) continue;
            end = at + key + strspn(text + at + key, " \t\r\n:");
            if (!strncmp(text + end, list[k].was, was)) skip = was, is = list[k].is;
        }
        if (text_add(out, text + at, end - at, e) || text_add(out, is, strlen(is), e)) return -1;
        at = end + skip;
    }
    return 0;
}

static int write_text(const char *dir, const char *name, const Text *text, Err *e)
{
    char path[IO_PATH_MAX];
    return io_path(path, sizeof path, dir, name, e) ? -1
                                                    : io_write_file(path, text->data, text->len, e);
}

/* Of a GGUF file: config.json with the changes, and the tokenizer's files. */
static int write_gguf_texts(const Model *m, const Change *changes, size_t n, const char *dir,
                            Err *e)
{
    Text config = {0}, changed = {0}, tokenizer = {0}, tokens = {0};
    int status = model_gguf_config(&m->gguf, &config, e) ||
                 put_changes(&changed, config.data, config.len, changes, n, e) ||
                 tokenizer_of_gguf(&m->gguf, &tokenizer, &tokens, e) ||
                 write_text(dir, "config.json", &changed, e) ||
                 write_text(dir, "tokenizer.json", &tokenizer, e) ||
                 write_text(dir, "tokenizer_config.json", &tokens, e);
    text_free(&config), text_free(&changed), text_free(&tokenizer), text_free(&tokens);
    return status ? -1 : 0;
}

/* config.json, true of the weights that were written: a reader must not round them again, and a
 * separate head must not be taken for the embedding. dtype: of all weights; NULL = as before. */
static int write_config(const Model *m, const Dtype *dtype, const char *dir, Err *e)
{
    static const char name[] = "config.json";
    static const char *const keys[] = {"\"dtype\"", "\"torch_dtype\""};
    static const char *const spelled[] = {
        [DTYPE_F32] = "\"float32\"", [DTYPE_BF16] = "\"bfloat16\"", [DTYPE_F16] = "\"float16\""};
    enum { KEYS = sizeof keys / sizeof *keys, NAMES = sizeof spelled / sizeof *spelled };
    Change changes[KEYS * NAMES + 2];
    char was[24], is[24];
    size_t n = 0, len, before = m->base ? m->base->config.V : m->config.V;
    snprintf(was, sizeof was, "%zu", before);
    snprintf(is, sizeof is, "%zu", m->config.V);
    if (before != m->config.V) changes[n++] = (Change){"\"vocab_size\"", was, is};
    if (m->untied) changes[n++] = (Change){"\"tie_word_embeddings\"", "true", "false"};
    for (size_t i = 0; i < KEYS * NAMES && dtype; i++)
        changes[n++] = (Change){keys[i / NAMES], spelled[i % NAMES], spelled[*dtype]};
    char from[IO_PATH_MAX], to[IO_PATH_MAX], *text;
    Text out = {0};
    if (m->gguf.n_parts) return write_gguf_texts(m, changes, n, dir, e);
    if (!n) return copy_file(m->path, dir, name, e);
    if (io_path(from, sizeof from, m->path, name, e) || io_path(to, sizeof to, dir, name, e))
        return -1;
    if (!io_exists(from)) return 0; /* a model without files */
    if (io_read_file(from, 0, &text, &len, e)) return -1;
    int status = put_changes(&out, text, len, changes, n, e) ||
                 io_write_file(to, out.data, out.len, e);
    text_free(&out);
    mem_free(text);
    return status ? -1 : 0;
}

uint64_t model_file_bytes(const Model *m, const Dtype *dtype)
{
    uint64_t bytes = 0;
    Weight w;
    for (size_t i = 0; i < model_weight_count(m); i++) {
        model_weight(m, i, &w);
        bytes += (uint64_t)w.rows * format_bytes(disk_format(save_own(m, i, &w), dtype), w.cols);
    }
    return bytes;
}

/* The chat templates besides the first one. */
static int copy_templates(const char *from, const char *to, Err *e)
{
    char path[IO_PATH_MAX], name[IO_PATH_MAX];
    char **names;
    size_t n = 0;
    Pool pool = {0};
    if (io_path(path, sizeof path, from, tokenizer_more_templates, e)) return -1;
    if (!io_is_directory(path)) return 0;
    int status = io_list(path, &pool, &names, &n, e) ||
                 io_path(path, sizeof path, to, tokenizer_more_templates, e) ||
                 io_make_directory(path, 0, e);
    for (size_t i = 0; i < n && !status; i++)
        status = io_path(name, sizeof name, tokenizer_more_templates, names[i], e) ||
                 copy_file(from, to, name, e);
    pool_free(&pool);
    return status ? -1 : 0;
}

/* The tokenizer of a saved embedding in the place of the model's. */
static int copy_adapters_texts(const Lora *lora, const char *dir, Err *e)
{
    if (!lora || !*lora->tokenizer) return 0;
    for (size_t i = 0; i < TOKENIZER_FILES; i++)
        if (copy_file(lora->tokenizer, dir, tokenizer_files[i], e)) return -1;
    return copy_templates(lora->tokenizer, dir, e);
}

int model_merge(const Model *m, const Lora *lora, const Dtype *dtype, const char *dir,
                MergeReport *report, const Log *log, Err *e)
{
    static const Dtype full = DTYPE_F32;
    char path[IO_PATH_MAX];
    if (save_check_head(m, lora, e) || io_make_directory(dir, 0, e) ||
        io_path(path, sizeof path, dir, "model.safetensors", e) ||
        save_weights(m, lora, dtype, report, path, e) ||
        (!m->trained && model_check_files(m, e)) ||
        write_config(m, m->trained ? &full : dtype, dir, e))
        return -1;
    for (size_t i = 0; i < TOKENIZER_FILES && !m->gguf.n_parts; i++)
        if (copy_file(m->path, dir, tokenizer_files[i], e)) return -1;
    if (copy_templates(m->path, dir, e) || copy_adapters_texts(lora, dir, e)) return -1;
    log_note(log, 'i', "%s: %zu tensors written", dir, model_weight_count(m));
    return 0;
}

int model_save(const Model *m, const Lora *lora, const char *dir, const Log *log, Err *e)
{
    return model_merge(m, lora, NULL, dir, NULL, log, e);
}
