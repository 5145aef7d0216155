/* cycle_signoff.c - deployment is a person's decision: approving, rolling back, who signed what.
 *
 * The loop selects; nothing is deployed by that. A signature names a policy that the ledger says
 * was selected, by the hash of its adapter, and stands in the ledger before deployed.json changes:
 * a crash in between leaves a signature without its file (inspect --verify says so), never a
 * deployment without its signature. Signing again writes the file.
 */
#include "cycle_parts.h"

#include <string.h>
#include <sys/stat.h>

/* What is being signed. */
typedef struct {
    const char *run;
    Ledger ledger;
    size_t cycle;
    char method[16];           /* "kto", "dpo"; "" = the first policy */
    char weights[IO_PATH_MAX]; /* relative to RUN (the first policy's: as the run was given it) */
    char settings[RUN_NAME];   /* relative to RUN; both "" = no adapter */
    char sha256[65], settings_sha256[65]; /* of the two, as recorded; "" without an adapter */
} Signing;

/* ---- what the ledger says ------------------------------------------------------------------ */

/* Does the ledger agree with the run's files? deployed.json is left out: a signature writes it. */
typedef struct {
    size_t wrong;
} Disagreement;

static void count_wrong(void *ctx, const char *path, const char *why)
{
    (void)why;
    if (strcmp(path, DEPLOYED_FILE) != 0) ((Disagreement *)ctx)->wrong++;
}

static int check_files(const char *run, Err *e)
{
    Disagreement d = {0};
    CycleVerification v;
    Err wrong = {0};
    if (!cycle_verify(run, count_wrong, &d, &v, &wrong)) return 0;
    if (wrong.code == ERR_DATA && !d.wrong) return 0;
    *e = wrong;
    return err_prefix(e, "nothing is signed");
}

/* The method that a cycle promoted; NULL where it promoted nobody or never ended. */
static const char *promoted_in(const Ledger *l, size_t cycle)
{
    const Json *entry = ledger_find(l, "select", cycle, "");
    const Json *name = json_get(json_get(entry, "facts"), "promoted");
    return name && name->type == JSON_STRING ? name->text : NULL;
}

/* The newest cycle that promoted a candidate; 0 where none did. */
static size_t last_promotion(const Ledger *l)
{
    size_t last = 0;
    for (size_t i = 0; i < l->count; i++) {
        uint64_t cycle;
        if (!json_is(json_get(l->entries[i], "event"), "select") ||
            json_u64(json_get(l->entries[i], "cycle"), &cycle))
            continue;
        if (promoted_in(l, (size_t)cycle)) last = (size_t)cycle;
    }
    return last;
}

static int is_signature(const Json *entry)
{
    const Json *event = json_get(entry, "event");
    return json_is(event, "approve") || json_is(event, "rollback");
}

/* The signature that counts: the last one. */
static const Json *last_signature(const Ledger *l)
{
    for (size_t i = l->count; i-- > 0;)
        if (is_signature(l->entries[i])) return l->entries[i];
    return NULL;
}

/* The hash that an entry recorded of one of its outputs; "" where it names no such file. */
static void recorded_hash(const Json *entry, const char *path, char hex[65])
{
    const Json *hash = json_get(json_get(entry, "outputs"), path);
    snprintf(hex, 65, "%s", hash && hash->type == JSON_STRING ? hash->text : "");
}

/* The policy after a cycle that promoted: its adapter must be, to the byte, the one that the
 * promoted candidate's training wrote. */
static int find_promoted(Signing *s, size_t cycle, Err *e)
{
    const char *method = promoted_in(&s->ledger, cycle);
    char folder[64], trained[RUN_NAME], hex[65];
    s->cycle = cycle;
    if (!method)
        return err_set(e, ERR_DATA,
                       "%s: cycle %zu promoted no candidate; only a policy that was selected can "
                       "be signed",
                       s->run, cycle);
    snprintf(s->method, sizeof s->method, "%s", method);
    snprintf(folder, sizeof folder, "cycle-%zu/adapter", cycle);
    snprintf(s->weights, sizeof s->weights, "%s/" LORA_WEIGHTS_FILE, folder);
    loop_name(s->settings, folder, LORA_CONFIG_FILE);
    recorded_hash(ledger_find(&s->ledger, "select", cycle, ""), s->weights, s->sha256);
    recorded_hash(ledger_find(&s->ledger, "select", cycle, ""), s->settings, s->settings_sha256);
    snprintf(trained, sizeof trained, "cycle-%zu/%.15s/adapter/" LORA_WEIGHTS_FILE, cycle, method);
    recorded_hash(ledger_find(&s->ledger, "train", cycle, method), trained, hex);
    if (*hex && !strcmp(hex, s->sha256)) return 0;
    return err_set(e, ERR_DATA,
                   "%s/%s: is not the adapter that %s wrote, which the ledger says was selected",
                   s->run, s->weights, trained);
}

/* A text of an object; "" where there is none. */
static const char *fact(const Json *object, const char *key)
{
    const Json *j = json_get(object, key);
    return j && j->type == JSON_STRING ? j->text : "";
}

/* The policy before the first cycle: the base model, or the adapter that the run was given. */
static int find_first(Signing *s, Err *e)
{
    const Json *begin = json_get(ledger_find(&s->ledger, "begin", 0, ""), "facts");
    const char *adapter = fact(begin, "adapter");
    s->cycle = 0;
    if (!*adapter) return 0;
    snprintf(s->sha256, sizeof s->sha256, "%.64s", fact(begin, "adapter_sha256"));
    snprintf(s->settings_sha256, sizeof s->settings_sha256, "%.64s",
             fact(begin, "adapter_config_sha256"));
    return io_path(s->weights, sizeof s->weights, adapter, LORA_WEIGHTS_FILE, e);
}

/* ---- writing ------------------------------------------------------------------------------- */

/* "key":"text", or null for "" */
static int put_text(Text *t, const char *key, const char *text, Err *e)
{
    if (text_addf(t, e, "\"%s\":", key)) return -1;
    int status = *text ? json_put_string(t, text, strlen(text), e) : text_addf(t, e, "null");
    return status || text_add(t, ",", 1, e) ? -1 : 0;
}

/* What is deployed, without its braces: the same facts stand in the ledger. */
static int put_policy(Text *t, const Signing *s, const CycleSignature *x, Err *e)
{
    const Json *begin = json_get(ledger_find(&s->ledger, "begin", 0, ""), "facts");
    return put_text(t, "by", x->by, e) || put_text(t, "reason", x->reason, e) ||
                   text_addf(t, e, "\"automatic\":%s,", x->automatic ? "true" : "false") ||
                   put_text(t, "method", s->method, e) || put_text(t, "adapter", s->weights, e) ||
                   put_text(t, "adapter_sha256", s->sha256, e) ||
                   put_text(t, "adapter_config_sha256", s->settings_sha256, e) ||
                   put_text(t, "tokenizer_sha256", fact(begin, "tokenizer_sha256"), e) ||
                   text_addf(t, e, "\"model_sha256\":\"%.64s\"", fact(begin, "model_sha256"))
               ? -1
               : 0;
}

/* The entry, then deployed.json, which names the entry and the one before it. */
static int sign(Signing *s, CycleSignature *x, Err *e)
{
    Text facts = {0}, file = {0};
    char path[IO_PATH_MAX], hex[65];
    const char *inputs[] = {"results.json", *s->settings ? s->weights : NULL, s->settings, NULL};
    LedgerEntry entry = {.event = x->rollback ? "rollback" : "approve",
                         .name = "",
                         .cycle = s->cycle,
                         .inputs = inputs,
                         .promised = DEPLOYED_FILE,
                         .promised_sha256 = hex};
    x->entry = s->ledger.count;
    int status = text_add(&facts, "{", 1, e) || put_policy(&facts, s, x, e) ||
                 text_add(&facts, "}", 1, e) || text_addf(&file, e, "{\"cycle\":%zu,", s->cycle) ||
                 put_policy(&file, s, x, e) ||
                 text_addf(&file, e, ",\"event\":\"%s\",\"entry\":%zu,\"previous\":\"%s\"}\n",
                           entry.event, s->ledger.count, s->ledger.head) ||
                 io_path(path, sizeof path, s->run, DEPLOYED_FILE, e);
    if (!status) {
        sha256_bytes(file.data, file.len, hex);
        entry.facts = facts.data;
        status =
            ledger_append(&s->ledger, &entry, e) || io_write_file(path, file.data, file.len, e);
    }
    text_free(&facts);
    text_free(&file);
    memcpy(x->head, s->ledger.head, sizeof x->head);
    memcpy(x->adapter_sha256, s->sha256, sizeof x->adapter_sha256);
    x->cycle = s->cycle;
    return status ? -1 : 0;
}

/* ---- the two decisions --------------------------------------------------------------------- */

/* A text that hides nothing where it is shown. */
static int is_line(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7F) return 0;
    return 1;
}

static int check_signer(const CycleSignature *x, Err *e)
{
    if (!x->by || !*x->by)
        return err_set(e, ERR_USAGE, "--approve: who signs is missing, allowed is a name");
    if (!x->automatic && !strcmp(x->by, CYCLE_AUTO))
        return err_set(e, ERR_USAGE,
                       "--approve: \"%s\" signs what no person did; give your own name",
                       CYCLE_AUTO);
    if (!x->reason || !*x->reason)
        return err_set(e, ERR_USAGE, "--reason: a signature needs its reason, found none");
    if (!is_line(x->by) || !is_line(x->reason))
        return err_set(e, ERR_USAGE,
                       "--approve and --reason: found a line break or another control character; "
                       "allowed is one line of text");
    return 0;
}

static int approve(Signing *s, CycleSignature *x, Err *e)
{
    if (!ledger_find(&s->ledger, "finish", 0, ""))
        return err_set(e, ERR_DATA, "%s: has not ended; align cycle --resume ends it", s->run);
    size_t cycle = last_promotion(&s->ledger);
    if (!cycle)
        return err_set(e, ERR_DATA,
                       "%s: no cycle promoted a candidate: the first policy stays, and there is "
                       "nothing to approve",
                       s->run);
    return find_promoted(s, cycle, e) || sign(s, x, e) ? -1 : 0;
}

static int rollback(Signing *s, CycleSignature *x, Err *e)
{
    const Json *last = last_signature(&s->ledger);
    uint64_t deployed = 0;
    if (!last || json_u64(json_get(last, "cycle"), &deployed) || !deployed)
        return err_set(e, ERR_DATA, "%s: nothing is deployed that could be rolled back", s->run);
    if (x->cycle >= deployed)
        return err_set(e, ERR_USAGE,
                       "--rollback: found %zu, allowed 0 to %llu: the policy of cycle %llu is "
                       "deployed",
                       x->cycle, (unsigned long long)deployed - 1, (unsigned long long)deployed);
    return (x->cycle ? find_promoted(s, x->cycle, e) : find_first(s, e)) || sign(s, x, e) ? -1 : 0;
}

int cycle_sign(const char *run, CycleSignature *x, Err *e)
{
    char path[IO_PATH_MAX];
    Signing s = {.run = run};
    if (check_signer(x, e) || io_path(path, sizeof path, run, LEDGER_FILE, e)) return -1;
    if (!io_exists(path))
        return err_set(e, ERR_NO_INPUT, "%s: not found; only a run of align cycle can be signed",
                       path);
    mode_t before = umask(077); /* as the run's other files */
    int status = io_lock(run, e);
    if (!status) {
        status = ledger_open(&s.ledger, run, e) ? err_prefix(e, "nothing is signed")
                                                : check_files(run, e);
        if (!status && !(x->automatic && last_signature(&s.ledger)))
            status = x->rollback ? rollback(&s, x, e) : approve(&s, x, e);
        io_unlock(run);
    }
    ledger_close(&s.ledger);
    umask(before);
    return status;
}

/* ---- who signed what ----------------------------------------------------------------------- */

int cycle_signatures(const char *run, void (*each)(void *ctx, const CycleSignature *x), void *ctx,
                     Err *e)
{
    Ledger l;
    if (ledger_read(&l, run, e)) return -1;
    for (size_t i = 0; i < l.count; i++) {
        const Json *entry = l.entries[i], *facts = json_get(entry, "facts");
        const Json *automatic = json_get(facts, "automatic");
        uint64_t cycle = 0;
        if (!is_signature(entry) || json_u64(json_get(entry, "cycle"), &cycle)) continue;
        CycleSignature x = {.by = fact(facts, "by"),
                            .reason = fact(facts, "reason"),
                            .automatic = automatic && automatic->type == JSON_TRUE,
                            .rollback = json_is(json_get(entry, "event"), "rollback"),
                            .cycle = (size_t)cycle,
                            .entry = i,
                            .time = fact(entry, "time")};
        snprintf(x.adapter_sha256, sizeof x.adapter_sha256, "%.64s", fact(facts, "adapter_sha256"));
        snprintf(x.head, sizeof x.head, "%.64s", fact(entry, "hash"));
        each(ctx, &x);
    }
    ledger_close(&l);
    return 0;
}
