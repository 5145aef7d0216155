/* cycle_signoff.c - sign-off: a person approves a deployment, or rolls it back; who signed what.
 *
 * The loop selects a policy but deploys nothing. A signature names a policy that was selected
 * according to the ledger, by the hash of its adapter, and is in the ledger before deployed.json
 * changes: a crash in between leaves a signature without its file (inspect --verify says so), never
 * a deployment without its signature. Signing again writes the file.
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
    char weights[IO_PATH_MAX]; /* relative to RUN (of the first policy: as given) */
    char settings[RUN_NAME];   /* relative to RUN; both "" = no adapter */
    char sha256[65], settings_sha256[65]; /* of the two, as recorded; "" without an adapter */
} Signing;

/* ---- what the ledger says ------------------------------------------------------------------ */

/* Checks that the ledger agrees with the run's files, except deployed.json, which a signature
 * writes. */
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
    LedgerVerification v;
    Err wrong = {0};
    if (!ledger_verify(run, count_wrong, &d, &v, &wrong)) return 0;
    if (wrong.code == ERR_DATA && !d.wrong) return 0;
    *e = wrong;
    return err_prefix(e, "nothing is signed");
}

/* The sources of a run that is being signed. */
typedef struct {
    const CycleSignature *x;
    int first; /* the policy is the one that the run began with */
    Err *wrong;
} Looking;

static void look(void *ctx, const CycleSource *source)
{
    Looking *l = ctx;
    const char *path = source->path ? source->path : "";
    if (source->state == CYCLE_SOURCE_SAME) return;
    if (source->state == CYCLE_SOURCE_UNSEEN)
        log_note(l->x->log, 'w', "%s %s was not looked at: %s", source->what, path, source->why);
    else if (!source->deployed && !(l->first && source->first))
        log_note(l->x->log, 'w', "%s %s: %s", source->what, path, source->why);
    else if (!l->wrong->code)
        err_set(l->wrong, ERR_DATA,
                "nothing is signed: %s %s: %s; put back what the run began with", source->what,
                path, source->why);
}

/* Checks that the files of the policy outside the run are still the same. */
static int check_sources(const char *run, const CycleSignature *x, Err *e)
{
    Err wrong = {0};
    Looking l = {x, x->rollback && !x->cycle, &wrong};
    CycleModelSeen *seen = mem_calloc(1, sizeof *seen, e);
    int status = seen ? cycle_sources(run, seen, look, &l, e) : -1;
    mem_free(seen);
    if (!status && wrong.code) *e = wrong;
    return status || wrong.code ? -1 : 0;
}

/* Returns the method that a cycle promoted; NULL if it promoted none or did not end. */
static const char *promoted_in(const Ledger *l, size_t cycle)
{
    const Json *entry = ledger_find(l, "select", cycle, "");
    const Json *name = json_get(json_get(entry, "facts"), "promoted");
    return name && name->type == JSON_STRING ? name->text : NULL;
}

/* Returns the newest cycle that promoted a candidate, or 0. */
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

/* Returns the signature that counts: the last one. */
static const Json *last_signature(const Ledger *l)
{
    for (size_t i = l->count; i-- > 0;)
        if (ledger_is_signature(l->entries[i])) return l->entries[i];
    return NULL;
}

/* Returns the hash that an entry recorded of one of its outputs; "" if it names no such file. */
static void recorded_hash(const Json *entry, const char *path, char hex[65])
{
    const Json *hash = json_get(json_get(entry, "outputs"), path);
    snprintf(hex, 65, "%s", hash && hash->type == JSON_STRING ? hash->text : "");
}

/* Finds the policy after a cycle that promoted one. Its adapter must be, to the byte, the one that
 * the training of the promoted candidate wrote. */
static int find_promoted(Signing *s, size_t cycle, Err *e)
{
    const char *method = promoted_in(&s->ledger, cycle);
    char folder[RUN_NAME], trained[RUN_NAME], hex[65];
    s->cycle = cycle;
    if (!method)
        return err_set(e, ERR_DATA,
                       "%s: cycle %zu promoted no candidate; only a policy that was selected can "
                       "be signed",
                       s->run, cycle);
    snprintf(s->method, sizeof s->method, "%s", method);
    run_cycle_name(folder, cycle, ADAPTER_FOLDER);
    snprintf(s->weights, sizeof s->weights, "%s/" LORA_WEIGHTS_FILE, folder);
    run_name(s->settings, folder, LORA_CONFIG_FILE);
    recorded_hash(ledger_find(&s->ledger, "select", cycle, ""), s->weights, s->sha256);
    recorded_hash(ledger_find(&s->ledger, "select", cycle, ""), s->settings, s->settings_sha256);
    run_name(trained, run_candidate(cycle, method).adapter, LORA_WEIGHTS_FILE);
    recorded_hash(ledger_find(&s->ledger, "train", cycle, method), trained, hex);
    if (*hex && !strcmp(hex, s->sha256)) return 0;
    return err_set(e, ERR_DATA,
                   "%s/%s: is not the adapter that %s wrote, which the ledger says was selected",
                   s->run, s->weights, trained);
}

/* Returns a text of an object; "" if there is none. */
static const char *fact(const Json *object, const char *key)
{
    const Json *j = json_get(object, key);
    return j && j->type == JSON_STRING ? j->text : "";
}

/* Finds the policy before the first cycle: the base model, or the adapter given to the run. */
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
static void put_text(JsonWriter *w, const char *key, const char *text)
{
    json_text(w, key, *text ? text : NULL);
}

/* Writes what is deployed, without braces; the same facts are in the ledger. */
static void put_policy(JsonWriter *w, const Signing *s, const CycleSignature *x)
{
    const Json *begin = json_get(ledger_find(&s->ledger, "begin", 0, ""), "facts");
    put_text(w, "by", x->by);
    put_text(w, "reason", x->reason);
    json_flag(w, "automatic", x->automatic);
    put_text(w, "method", s->method);
    put_text(w, "adapter", s->weights);
    put_text(w, "adapter_sha256", s->sha256);
    put_text(w, "adapter_config_sha256", s->settings_sha256);
    put_text(w, "tokenizer_sha256", fact(begin, "tokenizer_sha256"));
    json_text(w, "model_sha256", fact(begin, "model_sha256"));
}

/* Writes the facts of the entry, and deployed.json. */
static int put_signature(const Signing *s, const CycleSignature *x, const char *event, Text *facts,
                         Text *file, Err *e)
{
    JsonWriter w = {.text = facts, .e = e}, f = {.text = file, .e = e};
    json_open(&w, NULL, "{");
    put_policy(&w, s, x);
    json_close(&w, "}");
    json_open(&f, NULL, "{");
    json_count(&f, "cycle", s->cycle);
    put_policy(&f, s, x);
    json_text(&f, "event", event);
    json_count(&f, "entry", s->ledger.count);
    json_text(&f, "previous", s->ledger.head);
    json_close(&f, "}\n");
    return json_written(&w) || json_written(&f) ? -1 : 0;
}

/* Writes the entry, then deployed.json, which names the entry and the one before it. Everything
 * that could prevent the file is checked before the entry that promises it. */
static int sign(Signing *s, CycleSignature *x, Err *e)
{
    Text facts = {0}, file = {0};
    char path[IO_PATH_MAX], hex[65];
    const char *inputs[] = {RESULTS_FILE, *s->settings ? s->weights : NULL, s->settings, NULL};
    LedgerEntry entry = {.event = x->rollback ? "rollback" : "approve",
                         .name = "",
                         .cycle = s->cycle,
                         .inputs = inputs,
                         .promised = DEPLOYED_FILE,
                         .promised_sha256 = hex};
    x->entry = s->ledger.count;
    int status = put_signature(s, x, entry.event, &facts, &file, e) ||
                 io_path(path, sizeof path, s->run, DEPLOYED_FILE, e);
    if (!status) status = io_check_output(path, e) || check_sources(s->run, x, e);
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

/* Invisible characters besides those of is_unseen: joiners, fillers, selectors. Some writing
 * systems use them, but with them two different names could look the same. */
static int is_blank_mark(uint32_t c)
{
    static const uint32_t ranges[][2] = {
        {0x34F, 0x34F},   {0x115F, 0x1160}, {0x17B4, 0x17B5}, {0x180B, 0x180F}, {0x200C, 0x200D},
        {0x2800, 0x2800}, {0x3164, 0x3164}, {0xFE00, 0xFE0F}, {0xFFA0, 0xFFA0}, {0xE0100, 0xE01EF},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1]) return 1;
    return 0;
}

static int is_space(uint32_t c)
{
    return c == ' ' || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

/* Checks that a text (`what`, for messages) hides nothing when it is shown, and is not blank. */
static int check_line(const char *what, const char *text, Err *e)
{
    size_t len = strlen(text), step, seen = 0;
    for (size_t at = 0; at < len; at += step) {
        step = utf8_step(text + at, len - at);
        if (!step) return err_set(e, ERR_USAGE, "%s: found a byte that is no UTF-8", what);
        uint32_t c = utf8_code(text + at, step);
        if (is_unseen(c) || is_blank_mark(c))
            return err_set(e, ERR_USAGE,
                           "%s: found the character U+%04lX, a line break or another control "
                           "character or one that is not seen; allowed is one line of text",
                           what, (unsigned long)c);
        seen += !is_space(c);
    }
    return seen ? 0 : err_set(e, ERR_USAGE, "%s: found only spaces; allowed is a text", what);
}

/* Returns the letter of "auto" that a character looks like, or is in another style or case; else
 * 0. */
static char letter_of_auto(uint32_t c)
{
    static const struct {
        char letter;
        uint32_t like[28]; /* Latin, Greek, Cyrillic, Armenian, Cherokee, Lisu */
    } letters[] = {
        {'a',
         {0x251, 0x252, 0x391, 0x3B1, 0x410, 0x430, 0x13AA, 0x1D00, 0x1D2C, 0x1D43, 0x237A, 0x2C6D,
          0xA4EE, 0xAA, 0x1D6A8, 0x1D6C2}},
        {'u',
         {0x28A, 0x28B, 0x3C5, 0x446, 0x54D, 0x57D, 0x1200, 0x144C, 0x1D1C, 0x1D41, 0x1D58, 0x222A,
          0x22C3, 0xA4F4, 0xAB4E, 0xAB52, 0xA79F}},
        {'t', {0x3A4, 0x3C4, 0x422, 0x442, 0x13A2, 0x1D1B, 0x1D40, 0x1D57, 0x22A4, 0x27D9, 0xA4D4}},
        {'o', {'0',    0x39F,  0x3BF,  0x3C3,  0x41E,  0x43E, 0x555,  0x585,  0x5E1,
               0x647,  0x665,  0x6F5,  0x966,  0x9E6,  0xB20, 0xB66,  0x1040, 0x1D0F,
               0x1D3C, 0x1D52, 0x2D54, 0x3007, 0xA4F3, 0xBA,  0xAB3D, 0xED0}},
    };
    const uint32_t fullwidth = 0xFF01 - '!', alphabets = 0x1D400, greek = 0x1D6A8;
    if (c >= 0xFF01 && c <= 0xFF5E) c -= fullwidth;
    if (c >= 0x24B6 && c < 0x24B6 + 52) c = 'a' + (c - 0x24B6) % 26; /* circled */
    if (c >= 0x249C && c < 0x249C + 26) c = 'a' + (c - 0x249C);      /* in parentheses */
    if (c >= 0x1F110 && c < 0x1F130) c = 'a' + (c - 0x1F110) % 32;   /* the same */
    if (c >= 0x1F130 && c <= 0x1F189) c = 'a' + (c - 0x1F130) % 32;  /* squared */
    if (c >= 0x1F1E6 && c < 0x1F1E6 + 26) c = 'a' + (c - 0x1F1E6);   /* regional indicators */
    if (c >= alphabets && c < greek) c = 'a' + (c - alphabets) % 26; /* mathematical alphabets */
    if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
    for (size_t i = 0; i < sizeof letters / sizeof *letters; i++) {
        if (c == (uint32_t)letters[i].letter) return letters[i].letter;
        for (const uint32_t *x = letters[i].like; *x; x++)
            if (c == *x) return letters[i].letter;
    }
    return 0;
}

/* Is it a mark above or below the letter before it? */
static int is_combining(uint32_t c)
{
    return (c >= 0x300 && c <= 0x36F) || (c >= 0x1AB0 && c <= 0x1AFF) ||
           (c >= 0x1DC0 && c <= 0x1DFF) || (c >= 0x20D0 && c <= 0x20FF) ||
           (c >= 0xFE20 && c <= 0xFE2F);
}

/* Would a reader take this name for "auto"? Case, style, surrounding spaces and signs, and letters
 * of other alphabets that look the same make no difference. */
static int looks_like_auto(const char *name)
{
    size_t len = strlen(name), step, n = 0;
    int ended = 0;
    for (size_t at = 0; at < len; at += step) {
        step = utf8_step(name + at, len - at);
        if (!step) return 0;
        uint32_t c = utf8_code(name + at, step);
        int sign = is_space(c) ||
                   (c < 0x80 && !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z'));
        if (is_combining(c)) continue;
        if (sign) {
            ended = n > 0;
            continue;
        }
        if (ended || n == strlen(CYCLE_AUTO) || letter_of_auto(c) != CYCLE_AUTO[n]) return 0;
        n++;
    }
    return n == strlen(CYCLE_AUTO);
}

static int check_signer(const CycleSignature *x, Err *e)
{
    if (!x->by || !*x->by)
        return err_set(e, ERR_USAGE, "--approve: who signs is missing, allowed is a name");
    if (!x->reason || !*x->reason)
        return err_set(e, ERR_USAGE, "--reason: a signature needs its reason, found none");
    if (check_line("--approve", x->by, e) || check_line("--reason", x->reason, e)) return -1;
    if (!x->automatic && looks_like_auto(x->by))
        return err_set(e, ERR_USAGE,
                       "--approve: \"%s\" reads as \"%s\", which signs what no person did; give "
                       "your own name",
                       x->by, CYCLE_AUTO);
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
    IoLock lock;
    int status = io_lock(&lock, run, e);
    if (!status) {
        status = ledger_open(&s.ledger, run, e) ? err_prefix(e, "nothing is signed")
                                                : check_files(run, e);
        if (!status && !(x->automatic && last_signature(&s.ledger)))
            status = x->rollback ? rollback(&s, x, e) : approve(&s, x, e);
        io_unlock(&lock);
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
        if (!ledger_is_signature(entry) || json_u64(json_get(entry, "cycle"), &cycle)) continue;
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
