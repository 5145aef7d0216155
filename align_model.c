/* align_model.c - align merge and export: folds an adapter into a new model, as a directory or as a
 * GGUF file; writes a model or an adapter as a GGUF file. */
#include "align.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const Option merge_rows[] = {
    {"adapter", 0, OPTION_DIR, option_required, NULL, "PEFT adapter directory to fold in", BY_NAME},
    {"output", 'o', OPTION_DIR, option_required, NULL,
     "new model directory; a name ending in .gguf: a GGUF file", BY_NAME},
    {"dtype", 0, OPTION_CHOICE, "keep", "keep|f32|bf16|f16|q8_0",
     "type in which weights are stored; keep: as in the base; q8_0 only in GGUF files", BY_NAME},
    {"json", 0, OPTION_FLAG, NULL, NULL, "the result as one JSON object", BY_NAME},
    {"no-mmap", 0, OPTION_FLAG, NULL, NULL,
     "read the weights instead of mapping their files", BY_NAME},
    {"check-tensors", 0, OPTION_FLAG, NULL, NULL, "check the weights for NaN and infinity",
     BY_NAME},
};
static const OptionGroup merge_group = OPTION_GROUP("Merge", merge_rows);
static const OptionGroup *const merge_groups[] = {&model_options, &merge_group, &group_quiet, NULL};
static const Option export_rows[] = {
    {"adapter", 0, OPTION_DIR, NULL, NULL,
     "PEFT adapter directory: it is written by itself, for --model as its base", BY_NAME},
    {"output", 'o', OPTION_FILE, option_required, NULL, "new GGUF file", BY_NAME},
    {"dtype", 0, OPTION_CHOICE, "keep", "keep|f32|bf16|f16|q8_0",
     "type in which weights are stored; keep: as in the base, F32 for an adapter", BY_NAME},
    {"no-mmap", 0, OPTION_FLAG, NULL, NULL,
     "read the weights instead of mapping their files", BY_NAME},
    {"check-tensors", 0, OPTION_FLAG, NULL, NULL, "check the weights for NaN and infinity",
     BY_NAME},
};
static const OptionGroup export_group = OPTION_GROUP("Export", export_rows);
static const OptionGroup *const export_groups[] = {&model_options, &export_group, &group_quiet,
                                                   NULL};
static const OptionTable export_table = {
    "export", "a model, or an adapter by itself, as a GGUF file for llama.cpp and its kin", NULL,
    "align export -m MODEL --adapter RUN/adapter -o adapter.gguf", export_groups, NULL};

static const OptionTable merge_table = {
    "merge", "an adapter folded into a new model, a directory or a GGUF file", NULL,
    "align merge -m MODEL --adapter RUN/adapter -o NEWMODEL", merge_groups, NULL};

/* Checks that there is space for the weights of the new directory. */
static int check_space(const char *made, uint64_t bytes, Err *e)
{
    uint64_t free_bytes;
    Err ignored; /* not every file system can tell */
    if (io_free_space(made, &free_bytes, &ignored) || free_bytes >= bytes) return 0;
    return err_set(e, ERR_IO, "%s: %llu bytes are needed, %llu are free", made,
                   (unsigned long long)bytes, (unsigned long long)free_bytes);
}

/* Makes and locks the empty directory `temp`. One that a killed merge left, with the lock of a
 * process that has ended, is used again. */
static int begin_merged(const char *temp, IoLock *lock, Err *e)
{
    static const char lock_name[] = "LOCK";
    char path[IO_PATH_MAX], **names;
    Pool pool = {0};
    size_t n = 0;
    if (io_path(path, sizeof path, temp, lock_name, e)) return -1;
    if (io_exists(temp) && !io_exists(path))
        return err_set(e, ERR_CREATE, "%s: exists; remove it, or take another --output", temp);
    if (io_make_directory(temp, 0, e) || io_lock(lock, temp, e)) return -1;
    int status = io_list(temp, &pool, &names, &n, e);
    for (size_t i = 0; i < n && !status; i++)
        if (strcmp(names[i], lock_name) != 0)
            status = io_path(path, sizeof path, temp, names[i], e) || io_remove_tree(path, e);
    pool_free(&pool);
    if (status) io_unlock(lock);
    return status;
}

/* Builds beside the target, then renames: a crash leaves no incomplete model under the final
 * name. */
static int save_merged(const Model *m, const Lora *lora, const Dtype *dtype, const char *out,
                       MergeReport *report, Err *e)
{
    char temp[IO_PATH_MAX];
    static const char suffix[] = ".tmp";
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    if (n + sizeof suffix > sizeof temp)
        return err_set(e, ERR_USAGE, "--output: the path is too long");
    memcpy(temp, out, n);
    memcpy(temp + n, suffix, sizeof suffix);
    Err ignored;
    IoLock lock;
    if (begin_merged(temp, &lock, e)) return -1;
    int status = check_space(temp, model_file_bytes(m, dtype), e) ||
                 model_merge(m, lora, dtype, temp, report, NULL, e);
    io_unlock(&lock);
    if (!status) status = io_rename(temp, out, e);
    if (status) io_remove_tree(temp, &ignored);
    return status ? -1 : 0;
}

/* Reads --dtype; NULL = the base's own. */
static const Format *format_from(const Options *o)
{
    static const struct {
        const char *option, *name;
    } formats[] = {{"f32", "F32"}, {"bf16", "BF16"}, {"f16", "F16"}, {"q8_0", "Q8_0"}};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (option_is(o, "dtype", formats[i].option)) return format_named(formats[i].name);
    return NULL;
}

static int is_gguf_name(const char *path)
{
    size_t len = strlen(path), end = sizeof ".gguf" - 1;
    return len > end && !strcmp(path + len - end, ".gguf");
}

/* A file or directory is made where nothing is, and blocks belong to GGUF files of models. */
static int check_made(const Options *o, int blocks, Err *e)
{
    const char *out = option_text(o, "output");
    if (io_exists(out)) return err_set(e, ERR_CREATE, "%s: exists already; take a new name", out);
    if (blocks || !option_is(o, "dtype", "q8_0")) return 0;
    return err_set(e, ERR_USAGE,
                   "--dtype q8_0 is for the weights of a model in a GGUF file: give -o NAME.gguf, "
                   "or take f32, bf16 or f16");
}

/* Prints what was lost of the update by rounding, after the new directory's name or as JSON. Shares
 * are of the update itself: of its norm, and of the sum of its absolute values. */
static int put_merged(const Options *o, const char *out, const MergeReport *r, Text *t, Err *e)
{
    const double percent = 100, notable = 0.01;
    double n = r->weights, mean = n > 0 ? r->error / n : 0;
    double error = r->update2 > 0 ? sqrt(r->error2 / r->update2) : 0;
    double lost = r->update > 0 ? r->lost / r->update : 0;
    int kept = option_is(o, "dtype", "keep"), much = error > notable;
    const char *base = "the base's";
    if (gguf_is(option_text(o, "model"))) base = "the base's (blocks as F32)";
    log_note(notes(), much ? 'w' : 'i',
             "%.0f merged weights, stored as %s: rounding error %.3g most, %.3g mean; its norm is "
             "%.3g %% of the update's; %.3g %% of the update is lost in weights that stay as they "
             "were%s",
             n, kept ? base : option_text(o, "dtype"), r->largest, mean, percent * error,
             percent * lost, much ? "; --dtype f32 rounds least" : "");
    if (!option_flag(o, "json")) return text_addf(t, e, "%s\n", out);
    return text_addf(t, e, "{\"output\":") || json_put_string(t, out, strlen(out), e) ||
                   text_addf(t, e, ",\"dtype\":\"%s\",\"weights\":%.0f,\"largest_error\":",
                             option_text(o, "dtype"), n) ||
                   json_put_f64(t, r->largest, e) || text_addf(t, e, ",\"mean_error\":") ||
                   json_put_f64(t, mean, e) || text_addf(t, e, ",\"error_of_update\":") ||
                   json_put_f64(t, error, e) || text_addf(t, e, ",\"lost_of_update\":") ||
                   json_put_f64(t, lost, e) || text_addf(t, e, "}\n")
               ? -1
               : 0;
}

/* The new model's texts are put by the base's chat template, whatever the adapter learnt. */
static void tell_template(const char *dir, const char *adapter, const char *out)
{
    Err ignored; /* a directory without a tokenizer has no template either */
    Tokenizer *t = tokenizer_load(dir, NULL, &ignored);
    if (!t) return;
    chat_check_merged(t, adapter, out, notes());
    tokenizer_free(t);
}

static int flags_from(const Options *o)
{
    return (option_flag(o, "no-mmap") ? MODEL_NO_MMAP : 0) |
           (option_flag(o, "check-tensors") ? MODEL_CHECK_TENSORS : 0);
}

/* Whole weights of the adapter stand in the model, which so goes first. */
static void close_both(Model *m, Lora *lora)
{
    model_close(m);
    lora_close(lora);
}

/* Opens --model and, where it is given, --adapter; without one lora->slots is NULL. */
static int open_both(const Options *o, Model *m, Lora *lora, Err *e)
{
    const char *adapter = option_text(o, "adapter");
    LoraShape shape;
    *lora = (Lora){0};
    if (model_load(m, option_text(o, "model"), flags_from(o), notes(), e)) return -1;
    if (!adapter) return 0;
    model_lora_shape(m, &shape);
    int status = lora_load(lora, adapter, &shape, 0, e);
    if (!status) {
        lora_describe(lora, adapter, notes());
        status = model_adapt(m, lora, e);
    }
    if (status) close_both(m, lora);
    return status;
}

static int merge_run(const Options *o, Err *e)
{
    const char *out = option_text(o, "output");
    const Format *format = format_from(o);
    int is_gguf = is_gguf_name(out);
    Model m;
    Lora lora;
    MergeReport report = {0};
    if (check_made(o, is_gguf, e) || open_both(o, &m, &lora, e)) return -1;
    tell_template(*lora.tokenizer ? lora.tokenizer : option_text(o, "model"),
                  option_text(o, "adapter"), out);
    int status = is_gguf
                     ? model_export(&m, &lora, format, out, &report, notes(), e)
                     : save_merged(&m, &lora, format ? &format->dtype : NULL, out, &report, e);
    close_both(&m, &lora);
    if (status) return -1;
    Text done = {0};
    if (!put_merged(o, out, &report, &done, e)) return print_text(&done, e);
    text_free(&done);
    return -1;
}

const Command command_merge = {&merge_table, merge_run};

static int export_run(const Options *o, Err *e)
{
    const char *out = option_text(o, "output");
    const Format *format = format_from(o);
    int alone = option_text(o, "adapter") != NULL;
    Model m;
    Lora lora;
    if (check_made(o, !alone, e) || open_both(o, &m, &lora, e)) return -1;
    int status = alone ? model_export_adapter(&m, &lora, format, out, e)
                       : model_export(&m, NULL, format, out, NULL, notes(), e);
    close_both(&m, &lora);
    if (status) return -1;
    Text done = {0};
    if (!text_addf(&done, e, "%s\n", out)) return print_text(&done, e);
    text_free(&done);
    return -1;
}

const Command command_export = {&export_table, export_run};
