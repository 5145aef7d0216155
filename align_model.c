/* align_model.c - the command that makes models of models: merge. */
#include "align.h"

#include <stdio.h>
#include <string.h>

static const Option merge_rows[] = {
    {"adapter", 0, OPTION_DIR, option_required, NULL, "PEFT adapter directory to fold in"},
    {"output", 'o', OPTION_DIR, option_required, NULL, "new model directory"},
    {"no-mmap", 0, OPTION_FLAG, NULL, NULL, "read the weights instead of mapping them"},
    {"check-tensors", 0, OPTION_FLAG, NULL, NULL, "look for NaN and infinity in the weights"},
};
static const OptionGroup merge_group = OPTION_GROUP("Merge", merge_rows);
static const OptionGroup *const merge_groups[] = {&group_model, &merge_group, &group_quiet, NULL};
static const OptionTable merge_table = {
    "merge", "an adapter folded into a new model directory", NULL,
    "align merge -m MODEL --adapter RUN/adapter -o NEWMODEL", merge_groups};

/* Room for the weights where the new directory stands. */
static int check_space(const char *made, uint64_t bytes, Err *e)
{
    uint64_t free_bytes;
    Err ignored; /* not every file system tells */
    if (io_free_space(made, &free_bytes, &ignored) || free_bytes >= bytes) return 0;
    return err_set(e, ERR_IO, "%s: %llu bytes are needed, %llu are free", made,
                   (unsigned long long)bytes, (unsigned long long)free_bytes);
}

/* Builds beside the target, then renames: a crash leaves no half model under the final name. */
static int save_merged(const Model *m, const Lora *lora, const char *out, Err *e)
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
    if (io_exists(temp))
        return err_set(e, ERR_CREATE,
                       "%s: exists, perhaps of a merge that was killed; remove it, or take another "
                       "--output",
                       temp);
    if (io_make_directory(temp, 0, e)) return -1;
    int status = check_space(temp, m->weight_bytes, e) || model_save(m, lora, temp, NULL, e) ||
                 io_rename(temp, out, e);
    if (status) io_remove_tree(temp, &ignored);
    return status ? -1 : 0;
}

static int merge_run(const Options *o, Err *e)
{
    const char *dir = option_text(o, "model"), *adapter = option_text(o, "adapter");
    const char *out = option_text(o, "output");
    int flags = (option_flag(o, "no-mmap") ? MODEL_NO_MMAP : 0) |
                (option_flag(o, "check-tensors") ? MODEL_CHECK_TENSORS : 0);
    Model m;
    Lora lora;
    LoraShape shape;
    if (io_exists(out))
        return err_set(e, ERR_CREATE, "%s: exists already; take a new directory", out);
    if (model_load(&m, dir, flags, notes(), e)) return -1;
    model_lora_shape(&m, &shape);
    int status = lora_load(&lora, adapter, &shape, 0, e);
    if (!status) {
        status = save_merged(&m, &lora, out, e);
        lora_close(&lora);
    }
    model_close(&m);
    if (status) return -1;
    Text done = {0};
    if (text_addf(&done, e, "%s\n", out)) return -1;
    return print_text(&done, e);
}

const Command command_merge = {&merge_table, merge_run};
