/* model_save.c - a new model directory: trained or merged weights in the base's own dtype. */
#include "model_config.h"
#include "tokenizer.h"

#include <string.h>

/* What the writer of one tensor needs. */
typedef struct {
    const Model *m;
    const Lora *lora;
    size_t index; /* as in model_weight */
} Source;

/* The adapter of the i-th weight (in the order of model_weight), or NULL. */
static const Adapter *adapter_of(const Model *m, const Lora *lora, const char *name)
{
    for (size_t l = 0; l < m->config.layers; l++)
        for (int t = 0; t <= TARGET_COUNT; t++) {
            char want[MODEL_TENSOR_NAME];
            if (t == TARGET_HEAD)
                snprintf(want, sizeof want, "%s.weight", target_modules[t]);
            else
                snprintf(want, sizeof want, "model.layers.%zu.%s.weight", l, target_modules[t]);
            if (!strcmp(want, name)) return lora_at(lora, l, (Target)t);
        }
    return NULL;
}

static void store(void *out, const real *values, Dtype t, size_t n)
{
    unsigned char *to = out;
    for (size_t i = 0; i < n; i++) {
        float x = (float)values[i];
        uint16_t half = t == DTYPE_BF16 ? bf16_from_float(x) : f16_from_float(x);
        if (t == DTYPE_BF16 || t == DTYPE_F16)
            memcpy(to + i * sizeof half, &half, sizeof half);
        else
            memcpy(to + i * sizeof x, &x, sizeof x);
    }
}

/* The dtype a weight has on disk: what the base stored; trained copies go out as F32. */
static Dtype disk_dtype(const Mat *w)
{
    return w->dtype == DTYPE_F64 ? DTYPE_F32 : w->dtype;
}

/* The values with the adapter folded in, in the dtype of the disk. */
static int put_changed(const Mat *w, const Adapter *a, const char *name, Writer *out, Err *e)
{
    size_t n = w->rows * w->cols, width = dtype_size(disk_dtype(w));
    real *values = mem_alloc(n * sizeof *values, e);
    void *stored = values ? mem_alloc(n * width, e) : NULL;
    int bad = !stored;
    if (!bad) {
        dtype_to_real(values, w->data, w->dtype, n);
        if (a) lora_merge_into(values, a);
        size_t at = tensor_find_nonfinite(values, n);
        if (at < n)
            bad = err_set(e, ERR_DATA, "%s: number %zu of the result is not finite", name, at);
        store(stored, values, disk_dtype(w), n);
    }
    bad = bad || writer_put(out, stored, n * width, e);
    mem_free(stored);
    mem_free(values);
    return bad ? -1 : 0;
}

static int produce(void *ctx, Writer *out, Err *e)
{
    const Source *s = ctx;
    char name[MODEL_TENSOR_NAME];
    const Mat *w = model_weight(s->m, s->index, name);
    const Adapter *a = adapter_of(s->m, s->lora, name);
    if (a || disk_dtype(w) != w->dtype) return put_changed(w, a, name, out, e);
    return writer_put(out, w->data, w->rows * w->cols * dtype_size(w->dtype), e);
}

static int save_weights(const Model *m, const Lora *lora, const char *path, Err *e)
{
    size_t n = model_param_count(m);
    Source *sources = mem_calloc(n, sizeof *sources, e);
    StOut *outs = mem_calloc(n, sizeof *outs, e);
    char(*names)[MODEL_TENSOR_NAME] = mem_calloc(n, sizeof *names, e);
    int bad = !sources || !outs || !names;
    for (size_t i = 0; !bad && i < n; i++) {
        const Mat *w = model_weight(m, i, names[i]);
        sources[i] = (Source){m, lora, i};
        outs[i] = (StOut){.name = names[i],
                          .dtype = disk_dtype(w),
                          .n_dims = w->rows == 1 ? 1 : 2,
                          .shape = {w->rows == 1 ? w->cols : w->rows, w->rows == 1 ? 0 : w->cols},
                          .produce = produce,
                          .ctx = &sources[i]};
    }
    const char *const metadata[] = {"format", "pt", NULL};
    bad = bad || safetensors_write(path, outs, n, metadata, e);
    mem_free(names);
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

/* Puts text[0 .. len-1] without the words of "dtype" and "torch_dtype" that name 16 bits. */
static int put_as_float32(Text *out, const char *text, size_t len, Err *e)
{
    static const char *const keys[] = {"\"dtype\"", "\"torch_dtype\""};
    static const char *const words[] = {"\"bfloat16\"", "\"float16\""};
    for (size_t at = 0; at < len;) {
        size_t end = at + 1, skip = 0;
        for (int k = 0; k < 2; k++) {
            size_t n = strlen(keys[k]);
            if (strncmp(text + at, keys[k], n)) continue;
            end = at + n + strspn(text + at + n, " \t\r\n:");
            for (int w = 0; w < 2; w++)
                if (!strncmp(text + end, words[w], strlen(words[w]))) skip = strlen(words[w]);
        }
        if (text_add(out, text + at, end - at, e) ||
            (skip && text_add(out, "\"float32\"", strlen("\"float32\""), e)))
            return -1;
        at = end + skip;
    }
    return 0;
}

/* config.json of weights that went out as F32: who loads them must not round them again. */
static int write_config(const Model *m, const char *dir, Err *e)
{
    static const char name[] = "config.json";
    char from[IO_PATH_MAX], to[IO_PATH_MAX], *text;
    size_t len;
    Text out = {0};
    if (io_path(from, sizeof from, m->path, name, e) || io_path(to, sizeof to, dir, name, e) ||
        io_read_file(from, 0, &text, &len, e))
        return -1;
    int status = put_as_float32(&out, text, len, e) || io_write_file(to, out.data, out.len, e);
    text_free(&out);
    mem_free(text);
    return status ? -1 : 0;
}

int model_save(const Model *m, const Lora *lora, const char *dir, const Log *log, Err *e)
{
    char path[IO_PATH_MAX];
    if (m->config.tied && lora_at(lora, 0, TARGET_HEAD))
        return err_set(e, ERR_DATA,
                       "%s: the adapter changes lm_head, which this model shares with "
                       "its embedding: it cannot be merged",
                       m->path);
    if (io_make_directory(dir, 0, e) || io_path(path, sizeof path, dir, "model.safetensors", e) ||
        save_weights(m, lora, path, e) ||
        (m->trained ? write_config(m, dir, e) : copy_file(m->path, dir, "config.json", e)))
        return -1;
    for (size_t i = 0; i < TOKENIZER_FILES; i++)
        if (copy_file(m->path, dir, tokenizer_files[i], e)) return -1;
    log_note(log, 'i', "%s: %zu tensors written", dir, model_param_count(m));
    return 0;
}
