/* io_model.c - finds the model that a user names: a directory, a GGUF file, a folder of a hub's
 * cache; and says what something else is. */
#include "io.h"

#include <ctype.h>
#include <string.h>

enum { NAMES_SHOWN = 4, REF_LIMIT = 4096, REF_LENGTH = 64 };

static int holds(const char *dir, const char *name)
{
    char path[IO_PATH_MAX];
    Err ignored;
    return !io_path(path, sizeof path, dir, name, &ignored) && io_exists(path);
}

/* Does a directory have a file that only a model has? */
static int is_model(const char *dir)
{
    static const char *const names[] = {"config.json",       "tokenizer.json",
                                        "tokenizer.model",   "tekken.json",
                                        "model.safetensors", "model.safetensors.index.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (holds(dir, names[i])) return 1;
    return 0;
}

/* A GGUF file, but no later part of a split one? */
static int is_named_gguf(const char *name)
{
    const char *end = strrchr(name, '.'), *of = strstr(name, "-of-");
    if (!end || strcmp(end, ".gguf")) return 0;
    return !of || of - name < 6 || !strncmp(of - 6, "-00001", 6);
}

/* A directory of GGUF files, each of which is a whole model: 0 if it has none. */
static int refuse_gguf_folder(const char *dir, Err *e)
{
    Pool pool = {0};
    Text shown = {0};
    char **names;
    const char *first = NULL;
    size_t n, found = 0;
    int status = io_list(dir, &pool, &names, &n, e);
    for (size_t i = 0; !status && i < n; i++) {
        if (!is_named_gguf(names[i])) continue;
        if (!first) first = names[i];
        if (++found <= NAMES_SHOWN)
            status = text_addf(&shown, e, "%s%s", found > 1 ? ", " : "", names[i]);
    }
    if (!status && found > NAMES_SHOWN)
        status = text_addf(&shown, e, " and %zu more", found - NAMES_SHOWN);
    if (!status && found)
        status = err_set(e, ERR_DATA, "%s: a folder with %s (%s); name the file itself, as %s/%s",
                         dir, found > 1 ? "GGUF files, each of them a model" : "a GGUF file",
                         shown.data, dir, first);
    text_free(&shown);
    pool_free(&pool);
    return status;
}

/* The snapshot that "main" is, or the only one. */
static int take_snapshot(char out[IO_PATH_MAX], Err *e)
{
    char path[IO_PATH_MAX], *text = NULL, **names;
    size_t len = 0, n;
    Pool pool = {0};
    if (io_path(path, sizeof path, out, "refs/main", e)) return -1;
    if (io_exists(path) && io_read_file(path, REF_LIMIT, &text, &len, e)) return -1;
    while (len > 0 && isspace((unsigned char)text[len - 1])) text[--len] = 0;
    int known = len > 0 && len <= REF_LENGTH;
    for (size_t i = 0; i < len; i++) known = known && isxdigit((unsigned char)text[i]);
    int status =
        io_path(path, sizeof path, out, "snapshots", e) || io_list(path, &pool, &names, &n, e);
    if (!status && !known && n != 1)
        status = err_set(e, ERR_DATA,
                         "%s: a folder of a hub's cache with %zu snapshots, and none "
                         "of them is main: name one, as %s/NAME",
                         out, n, path);
    if (!status) status = io_path(out, IO_PATH_MAX, path, known ? text : names[0], e);
    if (!status && !io_is_directory(out))
        status = err_set(e, ERR_NO_INPUT,
                         "%s: is missing, but the hub's cache says it is main; "
                         "download the model again",
                         out);
    mem_free(text);
    pool_free(&pool);
    return status ? -1 : 0;
}

/* Is it spelled as a model on a hub, ORGANISATION/NAME? */
static int is_hub_name(const char *given)
{
    const char *slash = strchr(given, '/');
    if (!slash || slash == given || !slash[1] || strchr(slash + 1, '/') || *given == '.') return 0;
    for (const char *c = given; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("/._-", *c)) return 0;
    return 1;
}

int io_model_path(char out[IO_PATH_MAX], const char *given, Err *e)
{
    size_t len = strlen(given);
    if (len >= IO_PATH_MAX) return err_set(e, ERR_USAGE, "%.80s...: the path is too long", given);
    memcpy(out, given, len + 1);
    if (!io_exists(given)) {
        if (!is_hub_name(given)) return 0; /* its reader says that it cannot be opened */
        return err_set(
            e, ERR_NO_INPUT,
            "%s: there is no such folder; if it names a model on a hub, download it first "
            "(hf download %s) and give its folder",
            given, given);
    }
    if (!io_is_directory(given)) {
        if (gguf_is(given)) return 0;
        return err_set(e, ERR_DATA,
                       "%s: is neither a GGUF file nor a directory with config.json and weights",
                       given);
    }
    if (is_model(given)) return 0;
    if (holds(given, "snapshots") && take_snapshot(out, e)) return -1;
    return is_model(out) ? 0 : refuse_gguf_folder(out, e);
}
