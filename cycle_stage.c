/* cycle_stage.c - runs a stage of the loop, unless the ledger or another run of the grid has its
 * result; and what stages need: paths, progress reports, the check of the folder. */
#include "cycle_parts.h"

#include <string.h>
#include <sys/stat.h>

const char *const cycle_method_names[CYCLE_METHODS] = {"kto", "dpo"};

/* ---- paths and events ---------------------------------------------------------------------- */

int loop_path(const Loop *l, char *out, const char *name, Err *e)
{
    return io_path(out, IO_PATH_MAX, l->c->run, name, e);
}

int loop_adapter(const Loop *l, const AdapterAt *a, char *out, Err *e)
{
    *out = 0;
    if (*a->below) return loop_path(l, out, a->below, e);
    if (!a->outside) return 0;
    if (strlen(a->outside) >= IO_PATH_MAX)
        return err_set(e, ERR_USAGE, "--adapter: the path is too long");
    memcpy(out, a->outside, strlen(a->outside) + 1);
    return 0;
}

void loop_tell(const Loop *l, CycleProgress p)
{
    if (l->events->progress) l->events->progress(l->events->ctx, &p);
}

/* ---- what the runs of a grid share --------------------------------------------------------- */

/* Everything the loop computes is a function of its inputs, to the bit. So a result may be taken
 * from another run of the grid if all its inputs are the same. Each result lies in the shared
 * folder under the SHA-256 of the model's hash and a key that spells them out. What is the same for
 * the whole grid (template, kernel, precision) is not part of a key; the first line of a key says
 * what kind of result it is. (Verdicts are kept one by one in a file that all runs use:
 * loop_judge.) */
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

/* Writes the path of one file of a result in the shared folder. */
static int place_of(const Loop *l, const Text *key, const char *name, char out[IO_PATH_MAX], Err *e)
{
    char hex[65], file[160];
    Sha256 s;
    sha256_begin(&s);
    sha256_add(&s, l->model_sha256, strlen(l->model_sha256));
    sha256_add(&s, key->data, key->len);
    sha256_end(&s, hex);
    snprintf(file, sizeof file, "%s.%.64s", hex, name);
    return io_path(out, IO_PATH_MAX, l->c->shared, file, e);
}

/* Returns the name under which RUN/file is shared: the part after its last slash. */
static const char *base_name(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

/* Makes the folders in which RUN/file is to stand. */
static int make_folders(const Loop *l, const char *file, Err *e)
{
    char below[RUN_NAME], path[IO_PATH_MAX];
    for (const char *slash = strchr(file, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(below, sizeof below, "%.*s", (int)(slash - file), file);
        if (loop_path(l, path, below, e) || io_make_directory(path, 1, e)) return -1;
    }
    return 0;
}

/* Copies the outputs of a stage from the shared folder: 1, or 0 if it has none. The last file of a
 * result is written last and looked for first: if it is there, all are. */
static int share_take(const Loop *l, const Text *key, const char *const *files, Err *e)
{
    char from[IO_PATH_MAX], to[IO_PATH_MAX];
    size_t last = 0;
    while (files[last + 1]) last++;
    if (place_of(l, key, base_name(files[last]), from, e)) return -1;
    if (!io_exists(from)) return 0;
    for (size_t i = 0; files[i]; i++)
        if (make_folders(l, files[i], e) || place_of(l, key, base_name(files[i]), from, e) ||
            loop_path(l, to, files[i], e) || io_copy_file(from, to, e))
            return -1;
    return 1;
}

static int share_give(const Loop *l, const Text *key, const char *const *files, Err *e)
{
    char from[IO_PATH_MAX], to[IO_PATH_MAX];
    for (size_t i = 0; files[i]; i++)
        if (loop_path(l, from, files[i], e) || place_of(l, key, base_name(files[i]), to, e) ||
            io_copy_file(from, to, e))
            return -1;
    return 0;
}

/* ---- a stage ------------------------------------------------------------------------------- */

/* Is this stage done? Returns 1 with its entry if its outputs are as recorded, 0 if it must run; -1
 * with ERR_DATA if they were changed, or ERR_INTERRUPTED if a stop was requested. */
static int is_done(const Loop *l, const Stage *s, const Json **entry, Err *e)
{
    *entry = ledger_find(&l->ledger, s->kind->event, s->cycle, s->name);
    if (stop_requested) return err_set(e, ERR_INTERRUPTED, "interrupted; --resume goes on");
    if (!*entry) return 0;
    return ledger_check_outputs(&l->ledger, *entry, e) ? -1 : 1;
}

static void tell_stage(const Loop *l, const Stage *s, int kept)
{
    loop_tell(l, (CycleProgress){
                     .cycle = s->cycle, .stage = s->kind->event, .name = s->name, .kept = kept});
}

/* Takes the outputs of a stage from another run of the grid, or makes them, and gives them. */
static int take_or_run(Loop *l, Stage *s, Text *facts, Err *e)
{
    const StageKind *k = s->kind;
    if (!k->key || !l->c->shared) return k->run(l, s, facts, e);
    Text key = {0};
    int taken = k->key(l, s, &key, e) ? -1 : share_take(l, &key, s->outputs, e);
    int status = taken < 0 ? -1 : 0;
    if (taken > 0 && !k->told) tell_stage(l, s, 1);
    if (taken > 0 && k->taken) status = k->taken(l, s, facts, e);
    if (!taken)
        status = k->run(l, s, facts, e) || (*s->outputs && share_give(l, &key, s->outputs, e));
    text_free(&key);
    return status;
}

int stage_record(Loop *l, const Stage *s, const char *facts, Err *e)
{
    return ledger_append(&l->ledger,
                         &(LedgerEntry){.event = s->kind->event,
                                        .name = s->name,
                                        .cycle = s->cycle,
                                        .inputs = s->inputs,
                                        .outputs = s->outputs,
                                        .facts = facts},
                         e);
}

int stage_run(Loop *l, Stage *s, Err *e)
{
    const Json *entry;
    Text facts = {0};
    int done = is_done(l, s, &entry, e);
    if (done < 0) return -1;
    if (done || s->kind->told) tell_stage(l, s, done);
    if (done) return s->kind->recall ? s->kind->recall(s, json_get(entry, "facts"), e) : 0;
    int status = take_or_run(l, s, &facts, e) || stage_record(l, s, facts.data, e);
    text_free(&facts);
    return status ? -1 : 0;
}

/* ---- the folder of a run ------------------------------------------------------------------- */

int loop_sweep(const char *folder, Err *e)
{
    Pool pool = {0};
    char **names, path[IO_PATH_MAX];
    size_t n;
    int status = io_list(folder, &pool, &names, &n, e);
    for (size_t i = 0; !status && i < n; i++) {
        status = io_path(path, sizeof path, folder, names[i], e);
        struct stat st;
        if (status) break;
        if (lstat(path, &st) || S_ISLNK(st.st_mode)) continue; /* never leaves the run */
        if (S_ISDIR(st.st_mode))
            status = loop_sweep(path, e);
        else if (strstr(names[i], ".tmp."))
            remove(path);
    }
    pool_free(&pool);
    return status;
}

int loop_check_folder(const char *run, const char *marker, const char *what, Err *e)
{
    Pool pool = {0};
    char path[IO_PATH_MAX], **names, *text = NULL;
    size_t n = 0, len;
    int others = 0, ours = 0, status = io_list(run, &pool, &names, &n, e);
    for (size_t i = 0; i < n && !status; i++) {
        ours |= !strcmp(names[i], marker);
        others |= strcmp(names[i], "LOCK") && strncmp(names[i], CONFIG_FILE ".tmp.", 16);
    }
    if (!status && others && !ours && !io_path(path, sizeof path, run, CONFIG_FILE, e) &&
        io_exists(path) && !io_read_file(path, 0, &text, &len, e)) {
        const Json *j = json_parse(&pool, text, len, path, 0, e);
        ours = n <= 3 && j && json_is(json_get(j, "align"), "cycle");
    }
    mem_free(text);
    pool_free(&pool);
    if (status || ours || !others) return status ? -1 : 0;
    return err_set(e, ERR_CREATE, "%s: is no %s of align cycle; name another folder", run, what);
}

int loop_check_new(const CycleConfig *c, Err *e)
{
    if (c->resume || !io_exists(c->run)) return 0;
    return err_set(e, ERR_CREATE, "%s: exists; --resume goes on with it, or name another", c->run);
}
