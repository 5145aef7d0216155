/* cycle_sources.c - checks whether what a run began with, and does not hold itself, is still the
 * same.
 *
 * The ledger names the model, its tokenizer, adapters, rows and judges by hash; config.json says
 * where they were. What exists is hashed again; what does not is reported as not looked at, so that
 * silence is not taken for agreement.
 */
#include "cycle_parts.h"

#include <string.h>

typedef struct {
    Ledger ledger;
    Pool pool;
    const Json *config; /* NULL: the run has no readable one */
    CycleModelSeen *seen;
    CycleSourceTold told;
    void *ctx;
} Sources;

static const char *text_of(const Json *object, const char *key)
{
    const Json *j = json_get(object, key);
    return j && j->type == JSON_STRING ? j->text : NULL;
}

static const Json *facts_of(const Sources *s, const char *event, size_t cycle, const char *name)
{
    return json_get(ledger_find(&s->ledger, event, cycle, name), "facts");
}

static void tell(const Sources *s, CycleSource x)
{
    s->told(s->ctx, &x);
}

/* Reports the result of hashing x->path: a failure with *e, or the hash `now`. A file that could be
 * read when the run began and is malformed now was changed, too. -1 only if memory is short. */
static int tell_hash(const Sources *s, CycleSource x, const char *recorded, const char *now,
                     int failed, Err *e)
{
    x.state = CYCLE_SOURCE_SAME;
    if (failed && e->code == ERR_MEMORY) return -1;
    if (failed) {
        x.state = e->code == ERR_NO_INPUT || e->code == ERR_IO ? CYCLE_SOURCE_UNSEEN
                                                               : CYCLE_SOURCE_CHANGED;
        x.why = e->text;
    } else if (strcmp(recorded, now) != 0) {
        x.state = CYCLE_SOURCE_CHANGED;
        x.why = "was changed since the run began";
    }
    tell(s, x);
    return 0;
}

/* Is there something to compare: a recorded hash, and a file at the path? Reports a hash without a
 * file. */
static int is_named(const Sources *s, CycleSource x, const char *recorded)
{
    if (!recorded || !*recorded) return 0;
    int said = x.path && *x.path && strcmp(x.path, "-") != 0;
    if (said && io_exists(x.path)) return 1;
    x.state = CYCLE_SOURCE_UNSEEN;
    x.why = said ? "is not there" : "the run does not say where it was";
    tell(s, x);
    return 0;
}

static int check_one_file(const Sources *s, CycleSource x, const char *recorded, Err *e)
{
    char now[65];
    if (!is_named(s, x, recorded)) return 0;
    int failed = sha256_file(x.path, now, e);
    return tell_hash(s, x, recorded, now, failed, e);
}

/* Hashes the weights of the model at path as the ledger does; the result is kept in *seen. */
static int hash_model(CycleModelSeen *seen, const char *path, Err *e)
{
    static const Log silent = {NULL, NULL};
    Model m;
    if (*seen->sha256 && !strcmp(seen->path, path)) return 0;
    *seen->sha256 = 0;
    snprintf(seen->path, sizeof seen->path, "%s", path);
    if (model_load(&m, path, 0, &silent, e)) return -1;
    int status = model_hash(&m, seen->sha256, e);
    model_close(&m);
    if (status) *seen->sha256 = 0;
    return status;
}

static int check_model(const Sources *s, const Json *begin, Err *e)
{
    char now[65];
    const char *path = text_of(s->config, "model");
    const char *weights = text_of(begin, "model_sha256");
    const char *tokenizer = text_of(begin, "tokenizer_sha256");
    CycleSource x = {.what = "model", .path = path, .deployed = 1};
    if (is_named(s, x, weights)) {
        int failed = hash_model(s->seen, path, e);
        if (tell_hash(s, x, weights, s->seen->sha256, failed, e)) return -1;
    }
    x.what = "tokenizer, chat template and end tokens";
    if (!is_named(s, x, tokenizer)) return 0;
    int failed = tokenizer_hash(path, now, e);
    return tell_hash(s, x, tokenizer, now, failed, e);
}

/* Compares the adapter given to the run. */
static int check_adapter(const Sources *s, const Json *begin, Err *e)
{
    static const char *const files[][2] = {{LORA_WEIGHTS_FILE, "adapter_sha256"},
                                           {LORA_CONFIG_FILE, "adapter_config_sha256"}};
    const char *dir = text_of(begin, "adapter");
    for (size_t i = 0; dir && i < 2; i++) {
        char path[IO_PATH_MAX];
        CycleSource x = {.what = "adapter", .path = path, .first = 1};
        if (io_path(path, sizeof path, dir, files[i][0], e) ||
            check_one_file(s, x, text_of(begin, files[i][1]), e))
            return -1;
    }
    return 0;
}

static int check_rows(const Sources *s, const Json *begin, Err *e)
{
    const Json *judge = json_get(s->config, "judge");
    const struct {
        const char *what, *path, *recorded;
    } rows[] = {
        {"prompts", text_of(s->config, "data"), text_of(begin, "prompts_sha256")},
        {"people's answers", text_of(judge, "reviewed"), text_of(begin, "reviewed_sha256")},
        {"guard's questions", text_of(s->config, "guard"),
         text_of(facts_of(s, "guard", 0, "questions"), "source_sha256")},
        {"feedback", text_of(s->config, "feedback"),
         text_of(facts_of(s, "feedback", 0, ""), "source_sha256")},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (check_one_file(s, (CycleSource){.what = rows[i].what, .path = rows[i].path},
                           rows[i].recorded, e))
            return -1;
    return 0;
}

/* ---- judges -------------------------------------------------------------------------------- */

/* The place of a word that config.json has; 0 where there is none. */
static int word_at(const char *(*words)(size_t i), const char *word)
{
    int place = word ? option_place(words, word) : 0;
    return place < 0 ? 0 : place;
}

/* Reads a judge from config.json. */
static JudgeConfig judge_from_json(const Json *j)
{
    uint64_t length = 0;
    const Json *calibrated = json_get(j, "calibrated");
    JudgeConfig c = {.kind = text_of(j, "kind"),
                     .rules = text_of(j, "rules"),
                     .model = text_of(j, "model"),
                     .adapter = text_of(j, "adapter"),
                     .chat_template = text_of(j, "chat-template"),
                     .mode = (JudgeMode)word_at(judge_mode_name, text_of(j, "mode")),
                     .order = (JudgeOrder)word_at(judge_order_name, text_of(j, "label-order")),
                     .uncalibrated = calibrated && calibrated->type == JSON_FALSE,
                     .command = text_of(j, "command"),
                     .allow_external = 1,
                     .answers = "-"};
    if (!json_u64(json_get(j, "max-length"), &length)) c.max_length = (size_t)length;
    return c;
}

/* Compares the judge named `key` in config.json; `facts` are those of an entry that it made. What
 * is part of the program (its own phrases) or of this machine (a bf16 kernel, a command's program)
 * is not a file that could have been changed. */
static int check_judge(const Sources *s, const char *key, const Json *facts, Err *e)
{
    const Json *j = json_get(s->config, key);
    const char *recorded = text_of(facts, "judge_sha256"), *kind = text_of(j, "kind");
    JudgeConfig c = judge_from_json(j);
    CycleSource x = {.what = key, .path = c.rules ? c.rules : c.model ? c.model : c.command};
    Judge judge = {0};
    if (!recorded || !kind || !strcmp(kind, "self") || (!strcmp(kind, "rules") && !c.rules))
        return 0;
    if (text_of(j, "precision") && !strcmp(text_of(j, "precision"), "bf16")) {
        x.state = CYCLE_SOURCE_UNSEEN;
        x.why = "computed in bf16, which its hash takes from the machine";
        return tell(s, x), 0;
    }
    int failed = judge_identify(&judge, &c, e);
    if (!strcmp(kind, "command") && (failed || strcmp(judge.sha256, recorded))) {
        x.state = CYCLE_SOURCE_UNSEEN;
        x.why = "is another program, or another script, here than it was";
        judge_close(&judge);
        if (failed && e->code == ERR_MEMORY) return -1;
        return tell(s, x), 0;
    }
    int status = tell_hash(s, x, recorded, judge.sha256, failed, e);
    judge_close(&judge);
    return status;
}

static int check_judges(const Sources *s, Err *e)
{
    return check_judge(s, "judge", facts_of(s, "judge", 1, "training prompts"), e) ||
                   check_judge(s, "validator", facts_of(s, "judge", 0, run_first.stage), e)
               ? -1
               : 0;
}

/* ---- all of them --------------------------------------------------------------------------- */

static int read_config(Sources *s, const char *run, Err *e)
{
    char path[IO_PATH_MAX], *text;
    size_t len;
    Err wrong = {0};
    if (io_path(path, sizeof path, run, CONFIG_FILE, e)) return -1;
    if (!io_exists(path)) return 0;
    if (io_read_file(path, 0, &text, &len, e)) return -1;
    s->config = json_parse(&s->pool, text, len, path, 0, &wrong);
    mem_free(text);
    if (wrong.code == ERR_MEMORY) *e = wrong;
    return wrong.code == ERR_MEMORY ? -1 : 0;
}

int cycle_sources(const char *run, CycleModelSeen *seen, CycleSourceTold told, void *ctx, Err *e)
{
    Sources s = {.seen = seen, .told = told, .ctx = ctx};
    if (ledger_read(&s.ledger, run, e)) return -1;
    const Json *begin = facts_of(&s, "begin", 0, "");
    int status = read_config(&s, run, e) || check_model(&s, begin, e) ||
                 check_adapter(&s, begin, e) || check_rows(&s, begin, e) || check_judges(&s, e);
    ledger_close(&s.ledger);
    pool_free(&s.pool);
    return status ? -1 : 0;
}
