/* ledger.c - the ledger, a chain of entries: appending, finding, verifying; and the names of the
 * files of a run. */
#include "ledger.h"

#include <string.h>
#include <time.h>

#define HASH_KEY ",\"hash\":\""
enum { HEX = 64 };
static const char no_hash[HEX + 1] =
    "0000000000000000000000000000000000000000000000000000000000000000";

/* ---- names --------------------------------------------------------------------------------- */

const RunPlace run_first = {"validation", "cycle-0"};
const RunPlace run_tests[RUN_TESTS] = {
    [RUN_TEST_FIRST] = {"test of the first policy", "test-first"},
    [RUN_TEST_LAST] = {"test of the last policy", "test-last"},
};

RunCandidate run_candidate(size_t cycle, const char *method)
{
    RunCandidate c;
    snprintf(c.folder, sizeof c.folder, "cycle-%zu/%.15s", cycle, method);
    snprintf(c.adapter, sizeof c.adapter, "cycle-%zu/%.15s/" ADAPTER_FOLDER, cycle, method);
    snprintf(c.validation.stage, sizeof c.validation.stage, "validation of %.15s", method);
    snprintf(c.validation.folder, sizeof c.validation.folder, "cycle-%zu/validate-%.15s", cycle,
             method);
    return c;
}

void run_name(char out[RUN_NAME], const char *folder, const char *name)
{
    snprintf(out, RUN_NAME, "%.100s/%.100s", folder, name);
}

void run_cycle_name(char out[RUN_NAME], size_t cycle, const char *name)
{
    snprintf(out, RUN_NAME, "cycle-%zu%s%.100s", cycle, *name ? "/" : "", name);
}

/* ---- lines --------------------------------------------------------------------------------- */

/* Checks one line against the hash before it and its own; *json is the entry, hash its hash.
 * Returns NULL if it is right, else what is wrong. */
static const char *check_line(Pool *pool, const char *line, size_t len, size_t number,
                              const char *previous, const Json **json, char hash[HEX + 1])
{
    const size_t tail = strlen(HASH_KEY) + HEX + 2; /* ,"hash":"..."} */
    Err e;
    uint64_t entry;
    *json = json_parse(pool, line, len, LEDGER_FILE, 0, &e);
    if (!*json || (*json)->type != JSON_OBJECT) return "is no JSON object";
    if (len < tail || memcmp(line + len - tail, HASH_KEY, strlen(HASH_KEY)))
        return "does not end with its hash";
    sha256_bytes(line, len - tail, hash);
    if (memcmp(line + len - 2 - HEX, hash, HEX)) return "was changed: its hash is another";
    if (json_u64(json_get(*json, "entry"), &entry) || entry != number)
        return "has the wrong number: entries are missing or were added";
    if (!json_is(json_get(*json, "previous"), previous))
        return "does not follow the entry before it";
    return NULL;
}

static int keep_entry(Ledger *l, const Json *json, const char *hash, Err *e)
{
    if (mem_grow(&l->entries, &l->cap, l->count, sizeof *l->entries, e)) return -1;
    l->entries[l->count++] = json;
    memcpy(l->head, hash, HEX + 1);
    return 0;
}

/* Reads lines until one is wrong. Returns 0 with *wrong NULL, or what is wrong at entry count;
 * *whole = number of bytes of the lines that are right. -1 only if memory is short. */
static int read_lines(Ledger *l, const char *text, size_t len, size_t *whole, const char **wrong,
                      Err *e)
{
    *wrong = NULL;
    *whole = 0;
    while (*whole < len) {
        const char *line = text + *whole;
        const char *end = memchr(line, '\n', len - *whole);
        if (!end) {
            *wrong = "is not complete";
            return 0;
        }
        const Json *json;
        char hash[HEX + 1];
        *wrong = check_line(&l->pool, line, (size_t)(end - line), l->count, l->head, &json, hash);
        if (*wrong) return 0;
        if (keep_entry(l, json, hash, e)) return -1;
        *whole = (size_t)(end - text) + 1;
    }
    return 0;
}

/* Is what follows the whole lines one line without an end? */
static int is_torn(const char *text, size_t len, size_t whole)
{
    return whole < len && !memchr(text + whole, '\n', len - whole);
}

/* Opens the chain; with `mend` an incomplete last line is removed from the file. */
static int open_chain(Ledger *l, const char *run, int mend, Err *e)
{
    char path[IO_PATH_MAX], *text;
    size_t len, whole;
    const char *wrong;
    *l = (Ledger){.run = run};
    memcpy(l->head, no_hash, sizeof no_hash);
    if (io_path(path, sizeof path, run, LEDGER_FILE, e)) return -1;
    if (!io_exists(path)) return 0;
    if (io_read_file(path, 0, &text, &len, e)) return -1;
    int status = read_lines(l, text, len, &whole, &wrong, e);
    int torn = is_torn(text, len, whole);
    l->torn = torn && !mend;
    if (!status && torn && mend)
        status = io_write_file(path, text, whole, e);
    else if (!status && wrong && !torn)
        status = err_set(e, ERR_DATA, "%s: entry %zu %s", path, l->count, wrong);
    mem_free(text);
    if (status) ledger_close(l);
    return status;
}

int ledger_open(Ledger *l, const char *run, Err *e)
{
    return open_chain(l, run, 1, e);
}

int ledger_read(Ledger *l, const char *run, Err *e)
{
    return open_chain(l, run, 0, e);
}

void ledger_close(Ledger *l)
{
    mem_free(l->entries);
    pool_free(&l->pool);
    *l = (Ledger){0};
}

/* ---- appending ----------------------------------------------------------------------------- */

/* Writes "key":{"path":"sha256",...}, of files below RUN; the brace is left open. */
static void put_files(JsonWriter *w, const char *key, const Ledger *l, const char *const *paths)
{
    json_open(w, key, "{");
    for (size_t i = 0; paths && paths[i]; i++) {
        char path[IO_PATH_MAX], hex[HEX + 1];
        json_took(w, io_path(path, sizeof path, l->run, paths[i], w->e) ||
                         sha256_file(path, hex, w->e));
        if (w->failed) return;
        json_text(w, paths[i], hex);
    }
}

/* Formats a time as 2025-12-03T12:00:00Z. It is for readers only; nothing depends on it. */
static void clock_text(char *out, size_t size)
{
    time_t now = time(NULL);
    struct tm t;
    if (!gmtime_r(&now, &t)) memset(&t, 0, sizeof t);
    snprintf(out, size, "%04d-%02d-%02dT%02d:%02d:%02dZ", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday,
             t.tm_hour, t.tm_min, t.tm_sec);
}

static int put_entry(Text *out, const Ledger *l, const LedgerEntry *x, Err *e)
{
    char now[64];
    JsonWriter w = {.text = out, .e = e};
    clock_text(now, sizeof now);
    json_open(&w, NULL, "{");
    json_count(&w, "entry", l->count);
    json_text(&w, "event", x->event);
    json_count(&w, "cycle", x->cycle);
    json_text(&w, "name", x->name);
    json_text(&w, "time", now);
    put_files(&w, "inputs", l, x->inputs);
    json_close(&w, "}");
    put_files(&w, "outputs", l, x->outputs);
    if (x->promised) json_text(&w, x->promised, x->promised_sha256);
    json_close(&w, "}");
    json_open(&w, "facts", x->facts ? x->facts : "{}");
    json_text(&w, "previous", l->head);
    return json_written(&w);
}

int ledger_append(Ledger *l, const LedgerEntry *x, Err *e)
{
    char path[IO_PATH_MAX], hash[HEX + 1];
    const char *wrong;
    const Json *json;
    Text line = {0};
    int status = io_path(path, sizeof path, l->run, LEDGER_FILE, e) || put_entry(&line, l, x, e);
    if (!status) {
        sha256_bytes(line.data, line.len, hash);
        status = text_addf(&line, e, HASH_KEY "%s\"}", hash);
    }
    if (!status) { /* checked first: a wrong line would break the file for good */
        wrong = check_line(&l->pool, line.data, line.len, l->count, l->head, &json, hash);
        status =
            wrong ? err_set(e, ERR_INTERNAL, "%s: our own entry %zu %s", path, l->count, wrong)
                  : io_append_line(path, line.data, line.len, 1, e) || keep_entry(l, json, hash, e);
    }
    text_free(&line);
    return status ? -1 : 0;
}

/* ---- finding ------------------------------------------------------------------------------- */

const Json *ledger_find(const Ledger *l, const char *event, size_t cycle, const char *name)
{
    for (size_t i = 0; i < l->count; i++) {
        const Json *x = l->entries[i];
        uint64_t number;
        if (json_is(json_get(x, "event"), event) && json_is(json_get(x, "name"), name) &&
            !json_u64(json_get(x, "cycle"), &number) && number == cycle)
            return x;
    }
    return NULL;
}

int ledger_is_signature(const Json *entry)
{
    const Json *event = json_get(entry, "event");
    return json_is(event, "approve") || json_is(event, "rollback");
}

/* NULL where the file has this hash, else what is wrong. */
static const char *check_file(const char *run, const Json *file)
{
    char path[IO_PATH_MAX], hex[HEX + 1];
    Err e;
    if (file->type != JSON_STRING || strstr(file->key, "..") ||
        io_path(path, sizeof path, run, file->key, &e))
        return "is no file of this run";
    if (!io_exists(path)) return "is missing";
    if (sha256_file(path, hex, &e)) return "cannot be read";
    return json_is(file, hex) ? NULL : "was changed since it was written";
}

int ledger_check_outputs(const Ledger *l, const Json *entry, Err *e)
{
    const Json *outputs = json_get(entry, "outputs");
    for (const Json *file = outputs ? outputs->child : NULL; file; file = file->next) {
        const char *wrong = check_file(l->run, file);
        if (wrong)
            return err_set(e, ERR_DATA,
                           "%s/%s: %s; a run goes on only from what it wrote itself: put the file "
                           "back, or start a new run",
                           l->run, file->key, wrong);
    }
    return 0;
}

/* ---- verifying ----------------------------------------------------------------------------- */

typedef struct {
    LedgerVerification *v;
    void (*bad)(void *ctx, const char *path, const char *why);
    void *ctx;
    Text names;
} Verifier;

static int report_bad(Verifier *x, const char *path, const char *why, Err *e)
{
    x->v->wrong++;
    if (x->bad) x->bad(x->ctx, path, why);
    return text_addf(&x->names, e, "%s%s (%s)", x->names.len ? ", " : "", path, why);
}

/* Is this a signature that names deployed.json? */
static int signs(const Json *entry)
{
    return ledger_is_signature(entry) && json_get(json_get(entry, "outputs"), DEPLOYED_FILE);
}

/* Is there a signature after `entry` that names deployed.json? It is the only file of a run that is
 * written more than once; for other files a later entry is no excuse. */
static int signed_later(const Ledger *l, size_t entry, const char *path)
{
    for (size_t i = entry + 1; i < l->count && !strcmp(path, DEPLOYED_FILE); i++)
        if (signs(l->entries[i])) return 1;
    return 0;
}

/* Returns the hash of this path as an output of the newest entry before `entry`, or NULL. */
static const Json *made_before(const Ledger *l, size_t entry, const char *path)
{
    for (size_t i = entry; i-- > 0;) {
        const Json *hash = json_get(json_get(l->entries[i], "outputs"), path);
        if (hash) return hash;
    }
    return NULL;
}

/* Checks that each input has the hash it had as an output: no file was another one in between. */
static int verify_inputs(Verifier *x, const Ledger *l, size_t entry, Err *e)
{
    const Json *inputs = json_get(l->entries[entry], "inputs");
    for (const Json *file = inputs ? inputs->child : NULL; file; file = file->next) {
        const Json *made = made_before(l, entry, file->key);
        int same = !made || (made->type == JSON_STRING && json_is(file, made->text));
        if (!same && report_bad(x, file->key, "was another file when it was read", e)) return -1;
    }
    return 0;
}

/* Checks every output of every entry, and every input against the output that it was. */
static int verify_files(Verifier *x, const Ledger *l, Err *e)
{
    for (size_t i = 0; i < l->count; i++) {
        const Json *outputs = json_get(l->entries[i], "outputs");
        if (verify_inputs(x, l, i, e)) return -1;
        for (const Json *file = outputs ? outputs->child : NULL; file; file = file->next) {
            if (signed_later(l, i, file->key)) continue;
            const char *wrong = check_file(l->run, file);
            x->v->files++;
            if (wrong && report_bad(x, file->key, wrong, e)) return -1;
        }
    }
    return 0;
}

/* Checks that a run with results, or with a deployed policy, has an entry that says so. Otherwise
 * lines were cut off the end, or the file was written by hand. */
static int verify_end(Verifier *x, const Ledger *l, Err *e)
{
    char path[IO_PATH_MAX];
    if (io_path(path, sizeof path, l->run, RESULTS_FILE, e)) return -1;
    if (io_exists(path) && !ledger_find(l, "finish", 0, "") &&
        report_bad(x, LEDGER_FILE, "has no entry for " RESULTS_FILE ", which exists", e))
        return -1;
    if (io_path(path, sizeof path, l->run, DEPLOYED_FILE, e)) return -1;
    for (size_t i = 0; i < l->count; i++)
        if (signs(l->entries[i])) return 0;
    return io_exists(path) ? report_bad(x, DEPLOYED_FILE, "is named by no signature", e) : 0;
}

static int verify_chain(Verifier *x, Ledger *l, const char *text, size_t len, Err *e)
{
    size_t whole;
    const char *wrong;
    char why[160];
    if (read_lines(l, text, len, &whole, &wrong, e)) return -1;
    x->v->entries = l->count;
    x->v->torn = is_torn(text, len, whole);
    memcpy(x->v->head, l->head, sizeof l->head);
    if (!wrong && l->count) return verify_end(x, l, e);
    snprintf(why, sizeof why, "entry %zu %s", l->count, wrong ? wrong : "is missing");
    return report_bad(x, LEDGER_FILE, why, e);
}

int ledger_verify(const char *run, void (*bad)(void *ctx, const char *path, const char *why),
                  void *ctx, LedgerVerification *v, Err *e)
{
    char path[IO_PATH_MAX], *text;
    size_t len;
    Verifier x = {.v = v, .bad = bad, .ctx = ctx};
    Ledger l = {.run = run};
    *v = (LedgerVerification){0};
    memcpy(l.head, no_hash, sizeof no_hash);
    if (io_path(path, sizeof path, run, LEDGER_FILE, e)) return -1;
    if (!io_exists(path))
        return err_set(e, ERR_NO_INPUT, "%s: not found; only a run of align cycle has a ledger",
                       path);
    if (io_read_file(path, 0, &text, &len, e)) return -1;
    int status = verify_chain(&x, &l, text, len, e) || verify_files(&x, &l, e);
    if (!status && v->wrong)
        status = err_set(e, ERR_DATA, "%s: %zu of %zu files do not agree with the ledger: %.700s",
                         run, v->wrong, v->files + 1, x.names.data);
    text_free(&x.names);
    mem_free(text);
    ledger_close(&l);
    return status ? -1 : 0;
}
