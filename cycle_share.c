/* cycle_share.c - what runs of one grid need not do twice: answers, trained adapters, the guard's
 * scores. (Verdicts are kept one by one, in one file for all: loop_judge.)
 *
 * Everything the loop computes is a function of its inputs, to the bit. So a result may be taken
 * from another run of the grid where all its inputs are the same: each lies in the shared folder
 * under the SHA-256 of a key that spells them. What is the same for the whole grid (model,
 * template, kernel, precision) stands in no key; the first line of a key says what kind of result
 * it is.
 */
#include "cycle_parts.h"

#include <string.h>

/* ---- keys ---------------------------------------------------------------------------------- */

int share_key_file(const Loop *l, Text *key, const char *name, Err *e)
{
    char path[IO_PATH_MAX], hex[65];
    if (!l->c->shared) return 0;
    return loop_path(l, path, name, e) || sha256_file(path, hex, e) ||
                   text_addf(key, e, "%s\n", hex)
               ? -1
               : 0;
}

int share_key_adapter(const Loop *l, Text *key, const AdapterAt *a, Err *e)
{
    char folder[IO_PATH_MAX], path[IO_PATH_MAX], hex[65] = "no adapter";
    if (!l->c->shared) return 0;
    if (loop_adapter(l, a, folder, e)) return -1;
    if (*folder &&
        (io_path(path, sizeof path, folder, LORA_WEIGHTS_FILE, e) || sha256_file(path, hex, e)))
        return -1;
    return text_addf(key, e, "%s\n", hex);
}

/* The shared place of one file of a result. */
static int place_of(const Loop *l, const Text *key, const char *name, char out[IO_PATH_MAX], Err *e)
{
    char hex[65], file[160];
    sha256_bytes(key->data, key->len, hex);
    snprintf(file, sizeof file, "%s.%.64s", hex, name);
    return io_path(out, IO_PATH_MAX, l->c->shared, file, e);
}

/* ---- taking and giving --------------------------------------------------------------------- */

/* The last file of a result is written last and looked for first: it says that all are there. */
static size_t count_files(const char *const *files)
{
    size_t n = 0;
    while (files[n]) n++;
    return n;
}

/* The name under which RUN/file is shared: what follows its last slash. */
static const char *base_name(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

int share_has(const Loop *l, const Text *key, const char *const *files, Err *e)
{
    char path[IO_PATH_MAX];
    if (!l->c->shared) return 0;
    if (place_of(l, key, base_name(files[count_files(files) - 1]), path, e)) return -1;
    return io_exists(path);
}

int share_take(const Loop *l, const Text *key, const char *const *files, Err *e)
{
    char from[IO_PATH_MAX], to[IO_PATH_MAX];
    int has = share_has(l, key, files, e);
    if (has <= 0) return has;
    for (size_t i = 0; files[i]; i++)
        if (place_of(l, key, base_name(files[i]), from, e) || loop_path(l, to, files[i], e) ||
            io_copy_file(from, to, e))
            return -1;
    return 1;
}

int share_give(const Loop *l, const Text *key, const char *const *files, Err *e)
{
    char from[IO_PATH_MAX], to[IO_PATH_MAX];
    if (!l->c->shared) return 0;
    for (size_t i = 0; files[i]; i++)
        if (loop_path(l, from, files[i], e) || place_of(l, key, base_name(files[i]), to, e) ||
            io_copy_file(from, to, e))
            return -1;
    return 0;
}
