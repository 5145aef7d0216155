/* align_inspect.c - align inspect: describes a model, an adapter, a data set, a run, or this
 * machine.
 *
 * Facts are gathered once and shown in two forms: as lines for people, or as one JSON object with
 * --json.
 */
#include "align.h"
#include "cycle.h"
#include "generate_stop.h"

#include <string.h>

static const Option inspect_rows[] = {
    {"verify", 0, OPTION_FLAG, NULL, NULL, "compare a cycle's ledger with the files it names",
     BY_NAME},
    {"cpu", 0, OPTION_FLAG, NULL, NULL, "describe what this machine computes with", BY_NAME},
    {"json", 0, OPTION_FLAG, NULL, NULL, "one JSON object instead of lines", BY_NAME},
};
static const OptionGroup inspect_group = OPTION_GROUP("Inspect", inspect_rows);
static const OptionGroup *const inspect_groups[] = {&inspect_group, &group_quiet, NULL};
static const OptionTable inspect_table = {"inspect",
                                          "what a model, adapter, data set or run is, with hashes",
                                          "[PATH]", "align inspect MODEL", inspect_groups, NULL};

/* ---- facts --------------------------------------------------------------------------------- */

/* A flat object under construction, in one of its two forms. */
typedef struct {
    Text text;
    int json;
    size_t count;
    size_t indent; /* of lines, inside a list of things */
} Facts;

#define NAME_COLUMN 19

static int fact_name(Facts *f, const char *name, Err *e)
{
    if (!f->json)
        return text_addf(&f->text, e, "%*s%-*s ", (int)f->indent, "", NAME_COLUMN - 1, name);
    if (text_add(&f->text, f->count++ ? "," : "{", 1, e)) return -1;
    if (json_put_string(&f->text, name, strlen(name), e)) return -1;
    return text_add(&f->text, ":", 1, e);
}

/* Writes a name from a file, made harmless for a terminal, in a column of `width` bytes with at
 * least one space. */
static int put_padded(Facts *f, const char *name, size_t width, Err *e)
{
    size_t from = f->text.len;
    if (put_shown(&f->text, name, SIZE_MAX, e)) return -1;
    size_t used = f->text.len - from, spaces = used < width ? width - used : width > 0;
    return text_addf(&f->text, e, "%*s", (int)spaces, "");
}

static int fact_end(Facts *f, Err *e)
{
    return f->json ? 0 : text_add(&f->text, "\n", 1, e);
}

static int fact_text(Facts *f, const char *name, const char *value, Err *e)
{
    if (fact_name(f, name, e)) return -1;
    int status = f->json ? json_put_string(&f->text, value, strlen(value), e)
                         : put_shown(&f->text, value, SIZE_MAX, e);
    return status ? -1 : fact_end(f, e);
}

static int fact_count(Facts *f, const char *name, uint64_t value, Err *e)
{
    if (fact_name(f, name, e)) return -1;
    if (text_addf(&f->text, e, "%llu", (unsigned long long)value)) return -1;
    return fact_end(f, e);
}

static int fact_number(Facts *f, const char *name, double value, Err *e)
{
    if (fact_name(f, name, e) || json_put_f64(&f->text, value, e)) return -1;
    return fact_end(f, e);
}

static int fact_flag(Facts *f, const char *name, int value, Err *e)
{
    if (!f->json) return fact_text(f, name, value ? "yes" : "no", e);
    if (fact_name(f, name, e)) return -1;
    return text_addf(&f->text, e, "%s", value ? "true" : "false");
}

/* Writes a list of things, each a Facts of its own: facts_list, then for each facts_item ... ,
 * facts_end.
 */
static int facts_list(Facts *f, const char *name, Err *e)
{
    if (!f->json) return text_addf(&f->text, e, "%s\n", name);
    return fact_name(f, name, e) || text_add(&f->text, "[", 1, e) ? -1 : 0;
}

static int facts_list_end(Facts *f, Err *e)
{
    return f->json ? text_add(&f->text, "]", 1, e) : 0;
}

/* Writes a file of the inspected thing: its size and SHA-256. first = no comma before it. */
static int fact_file(Facts *f, const char *dir, const char *name, int first, Err *e)
{
    char path[IO_PATH_MAX], hex[65];
    FileMap map;
    if (dir ? io_path(path, sizeof path, dir, name, e)
            : (snprintf(path, sizeof path, "%s", name), 0))
        return -1;
    if (filemap_open(&map, path, 1, e)) return -1;
    unsigned long long size = map.size;
    filemap_close(&map);
    if (sha256_file(path, hex, e)) return -1;
    if (!f->json)
        return text_addf(&f->text, e, "  %s  %12llu  ", hex, size) || put_padded(f, name, 0, e) ||
                       text_add(&f->text, "\n", 1, e)
                   ? -1
                   : 0;
    if (text_addf(&f->text, e, "%s{\"name\":", first ? "" : ",")) return -1;
    if (json_put_string(&f->text, name, strlen(name), e)) return -1;
    return text_addf(&f->text, e, ",\"bytes\":%llu,\"sha256\":\"%s\"}", size, hex);
}

/* Writes every regular file of a directory (one level), with its hash. */
static int facts_directory(Facts *f, const char *dir, Err *e)
{
    Pool pool = {0};
    char **names, path[IO_PATH_MAX];
    size_t n = 0, shown = 0;
    int status = io_list(dir, &pool, &names, &n, e);
    if (!status) status = facts_list(f, "files", e);
    for (size_t i = 0; i < n && !status; i++) {
        status = io_path(path, sizeof path, dir, names[i], e);
        if (!status && !io_is_directory(path)) status = fact_file(f, dir, names[i], !shown++, e);
    }
    if (!status) status = facts_list_end(f, e);
    pool_free(&pool);
    return status;
}

/* ---- a model ------------------------------------------------------------------------------- */

static int facts_rope(Facts *f, const ModelConfig *c, Err *e)
{
    if (fact_text(f, "rope", c->rope.type, e) || fact_number(f, "rope theta", c->rope.theta, e))
        return -1;
    return strcmp(c->rope.type, "default") ? fact_number(f, "rope factor", c->rope.factor, e) : 0;
}

/* Returns the stored type of a weight matrix: the first one, since in practice all are the same. */
static int facts_config(Facts *f, const Model *m, Err *e)
{
    const ModelConfig *c = &m->config;
    uint64_t numbers = 0;
    for (size_t i = 0; i < m->n_files; i++)
        for (size_t t = 0; t < m->files[i].count; t++) numbers += m->files[i].tensors[t].count;
    for (size_t t = 0; t < m->gguf.n_tensors; t++) numbers += m->gguf.tensors[t].count;
    const char *dtype = m->layers[0].linear[TARGET_Q].w.format->name;
    return fact_text(f, "family", c->family, e) || fact_count(f, "layers", c->layers, e) ||
                   fact_count(f, "hidden", c->H, e) || fact_count(f, "feed-forward", c->F, e) ||
                   fact_count(f, "vocabulary", c->V, e) || fact_count(f, "query heads", c->Q, e) ||
                   fact_count(f, "key/value heads", c->G, e) ||
                   fact_count(f, "head width", c->D, e) ||
                   fact_count(f, "positions", c->max_positions, e) ||
                   fact_count(f, "sliding window", c->window, e) || facts_rope(f, c, e) ||
                   fact_flag(f, "tied embeddings", c->tied, e) ||
                   fact_text(f, "stored as", dtype, e) || fact_count(f, "parameters", numbers, e) ||
                   fact_count(f, "weight bytes", m->weight_bytes, e)
               ? -1
               : 0;
}

/* Writes what ends an answer to a conversation (or to plain text, without a template): ids and
 * spellings. config: NULL if there is only a tokenizer. */
static int fact_stops(Facts *f, const Tokenizer *t, const ModelConfig *config,
                      const ChatTemplate *chat, Err *e)
{
    static const ModelConfig none = {0};
    Stops stops;
    Text shown = {0};
    Err unwritable; /* the template needs an end token that the tokenizer does not name */
    if (stops_find(&stops, config ? config : &none, t, chat, NULL, 0, &unwritable))
        return fact_text(f, "stops", unwritable.text, e);
    int status = 0;
    for (size_t i = 0; i < stops.n_ids && !status; i++) {
        size_t len = 0;
        const char *piece = tokenizer_piece(t, stops.ids[i], &len);
        status = text_addf(&shown, e, "%s%ld %.*s", i ? ", " : "", (long)stops.ids[i], (int)len,
                           piece ? piece : "");
    }
    for (size_t i = 0; i < stops.n_texts && !status; i++)
        status = text_addf(&shown, e, "%sthe text %s", shown.len ? ", " : "", stops.texts[i]);
    if (!status) status = fact_text(f, "stops", shown.len ? shown.data : "none", e);
    text_free(&shown);
    return status;
}

static int facts_tokenizer(Facts *f, const char *dir, const ModelConfig *config, Err *e)
{
    Tokenizer *t = tokenizer_load(dir, notes(), e);
    if (!t) return -1;
    Err unknown;
    const char *bos = tokenizer_bos_text(t), *eos = tokenizer_eos_text(t);
    int has_template = chat_exists(t, NULL);
    ChatTemplate *chat = has_template ? chat_open(t, NULL, NULL, &unknown) : NULL;
    const char *name = !has_template ? "none" : chat ? chat_name(chat) : unknown.text;
    int status = fact_count(f, "tokens", tokenizer_size(t), e) ||
                 fact_text(f, "bos", bos ? bos : "none", e) ||
                 fact_text(f, "eos", eos ? eos : "none", e) ||
                 fact_text(f, "chat template", name, e) || fact_stops(f, t, config, chat, e);
    chat_close(chat);
    tokenizer_free(t);
    return status ? -1 : 0;
}

/* Configuration and weights, of a directory or a GGUF file. */
static int facts_model(Facts *f, const char *model, ModelConfig *config, Err *e)
{
    Model m;
    char hex[65];
    if (model_load(&m, model, 0, notes(), e)) return -1;
    int status = facts_config(f, &m, e) || model_hash(&m, hex, e) ||
                 fact_text(f, "model sha256", hex, e);
    *config = m.config;
    model_close(&m);
    return status ? -1 : 0;
}

/* Writes the file, or all parts of it. */
static int facts_gguf(Facts *f, const char *path, Err *e)
{
    Gguf g;
    if (gguf_open(&g, path, 1, e)) return -1;
    int status = facts_list(f, "files", e);
    for (size_t i = 0; i < g.n_parts && !status; i++)
        status = fact_file(f, NULL, g.parts[i].path, i == 0, e);
    gguf_close(&g);
    return status ? -1 : facts_list_end(f, e);
}

static int inspect_gguf(Facts *f, const char *path, Err *e)
{
    ModelConfig config;
    return fact_text(f, "kind", "GGUF model", e) || facts_model(f, path, &config, e) ||
                   facts_tokenizer(f, path, &config, e) || facts_gguf(f, path, e)
               ? -1
               : 0;
}

static int inspect_model(Facts *f, const char *dir, Err *e)
{
    ModelConfig config, *known = NULL;
    char path[IO_PATH_MAX];
    if (fact_text(f, "kind", "model", e)) return -1;
    if (io_path(path, sizeof path, dir, "config.json", e)) return -1;
    if (io_exists(path)) {
        if (facts_model(f, dir, &config, e)) return -1;
        known = &config;
    }
    const char *tokenizer = tokenizer_file(dir, e);
    if (!tokenizer || io_path(path, sizeof path, dir, tokenizer, e)) return -1;
    if (io_exists(path) && facts_tokenizer(f, dir, known, e)) return -1;
    return facts_directory(f, dir, e);
}

/* ---- tensors and adapters ------------------------------------------------------------------ */

/* "model.norm.weight  F32 [64]" */
static int fact_tensor(Facts *f, const StTensor *t, int first, Err *e)
{
    Text shape = {0};
    int status = text_add(&shape, "[", 1, e);
    for (size_t d = 0; d < t->n_dims && !status; d++)
        status = text_addf(&shape, e, "%s%llu", d ? "," : "", (unsigned long long)t->shape[d]);
    if (!status) status = text_add(&shape, "]", 1, e);
    if (!status && f->json) {
        status = text_addf(&f->text, e, "%s{\"name\":", first ? "" : ",");
        if (!status) status = json_put_string(&f->text, t->name, t->name_len, e);
        if (!status)
            status = text_addf(&f->text, e, ",\"dtype\":") ||
                     json_put_string(&f->text, t->dtype_text, strlen(t->dtype_text), e) ||
                     text_addf(&f->text, e, ",\"shape\":%s}", shape.data);
    } else if (!status) {
        status = text_add(&f->text, "  ", 2, e) || put_padded(f, t->dtype_text, 5, e) ||
                 text_addf(&f->text, e, " %-16s ", shape.data) || put_padded(f, t->name, 0, e) ||
                 text_add(&f->text, "\n", 1, e);
    }
    text_free(&shape);
    return status;
}

static int inspect_safetensors(Facts *f, const char *path, Err *e)
{
    Safetensors s;
    char hex[65];
    uint64_t numbers = 0;
    if (safetensors_open(&s, path, 1, e)) return -1;
    for (size_t i = 0; i < s.count; i++) numbers += s.tensors[i].count;
    int status = fact_text(f, "kind", "safetensors", e) || sha256_file(path, hex, e) ||
                 fact_text(f, "sha256", hex, e) || fact_count(f, "bytes", s.map.size, e) ||
                 fact_count(f, "parameters", numbers, e) || facts_list(f, "tensors", e);
    for (size_t i = 0; i < s.count && !status; i++)
        status = fact_tensor(f, &s.tensors[i], i == 0, e);
    if (!status) status = facts_list_end(f, e);
    safetensors_close(&s);
    return status ? -1 : 0;
}

/* Writes a member of a JSON object as a fact, in its own spelling; nothing if it is absent. */
static int fact_member(Facts *f, const char *name, const Json *object, const char *key, Err *e)
{
    const Json *j = json_get(object, key);
    if (!j) return 0;
    if (!f->json && j->type == JSON_STRING) return fact_text(f, name, j->text, e);
    if (fact_name(f, name, e) || json_put(&f->text, j, e)) return -1;
    return fact_end(f, e);
}

/* Reads dir/name; NULL with *e. */
static const Json *read_object(const char *dir, const char *name, Pool *pool, Err *e)
{
    char path[IO_PATH_MAX], *bytes;
    size_t len;
    if (io_path(path, sizeof path, dir, name, e) || io_read_file(path, 0, &bytes, &len, e))
        return NULL;
    const Json *j = json_parse(pool, bytes, len, path, JSON_ALLOW_BOM, e);
    mem_free(bytes);
    return j;
}

static int inspect_adapter(Facts *f, const char *dir, Err *e)
{
    static const char *const keys[] = {
        "peft_type",    "base_model_name_or_path", "r", "lora_alpha", "use_rslora",
        "lora_dropout", "target_modules"};
    Pool pool = {0};
    Safetensors s;
    char path[IO_PATH_MAX];
    uint64_t numbers = 0;
    const Json *config = read_object(dir, "adapter_config.json", &pool, e);
    int status = config ? fact_text(f, "kind", "adapter", e) : -1;
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !status; i++)
        status = fact_member(f, keys[i], config, keys[i], e);
    pool_free(&pool);
    if (status || io_path(path, sizeof path, dir, "adapter_model.safetensors", e) ||
        safetensors_open(&s, path, 1, e))
        return -1;
    for (size_t i = 0; i < s.count && !status; i++) {
        numbers += s.tensors[i].count;
        status = safetensors_check_finite(&s, &s.tensors[i], e);
    }
    status =
        status || fact_count(f, "tensors", s.count, e) || fact_count(f, "parameters", numbers, e);
    safetensors_close(&s);
    return status ? -1 : facts_directory(f, dir, e);
}

/* ---- training runs ------------------------------------------------------------------------- */

/* Reads the last whole line of a JSONL file as an object; NULL with *e on error, or without if
 * there is none.
 */
static const Json *last_row(const char *path, Pool *pool, Err *e)
{
    JsonLines lines;
    Json *row, *last = NULL;
    int more;
    if (jsonl_open(&lines, path, e)) return NULL;
    lines.torn = notes();
    while ((more = jsonl_next(&lines, pool, &row, e)) > 0) last = row;
    jsonl_close(&lines);
    return more < 0 ? NULL : last;
}

static int has_file(const char *dir, const char *name)
{
    char path[IO_PATH_MAX];
    return !io_path(path, sizeof path, dir, name, NULL) && io_exists(path);
}

/* Writes the last line of metrics.jsonl: how far the run came, and what it had learnt. */
static int facts_metrics(Facts *f, const char *dir, Pool *pool, Err *e)
{
    static const char *const keys[] = {
        "step", "loss", "eval_loss", "rewards/margins", "rewards/accuracies", "kl", "num_tokens"};
    char path[IO_PATH_MAX];
    Err none = {0};
    if (io_path(path, sizeof path, dir, METRICS_FILE, e)) return -1;
    if (!io_exists(path)) return 0;
    const Json *last = last_row(path, pool, &none);
    if (!last && none.code) return *e = none, -1;
    for (size_t i = 0; last && i < sizeof keys / sizeof *keys; i++)
        if (fact_member(f, keys[i], last, keys[i], e)) return -1;
    return 0;
}

static int facts_checkpoints(Facts *f, const char *dir, Pool *pool, Err *e)
{
    char path[IO_PATH_MAX], **names;
    size_t n;
    if (!has_file(dir, "checkpoints")) return 0;
    if (io_path(path, sizeof path, dir, "checkpoints", e) || io_list(path, pool, &names, &n, e))
        return -1;
    return n ? fact_text(f, "newest checkpoint", names[n - 1], e) : 0;
}

static int inspect_training(Facts *f, const char *dir, Err *e)
{
    static const char *const keys[] = {"method", "reference", "model", "tokenizer", "data", "eval"};
    Pool pool = {0};
    const Json *inputs = has_file(dir, "inputs.json") ? read_object(dir, "inputs.json", &pool, e)
                                                      : &(const Json){.type = JSON_OBJECT};
    int finished = has_file(dir, "adapter") || has_file(dir, "model");
    int status = !inputs || fact_text(f, "kind", "training run", e) ||
                 fact_flag(f, "finished", finished, e) ||
                 fact_flag(f, "locked", has_file(dir, "LOCK"), e);
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !status; i++)
        status = fact_member(f, keys[i], inputs, keys[i], e);
    status = status || facts_metrics(f, dir, &pool, e) || facts_checkpoints(f, dir, &pool, e);
    pool_free(&pool);
    return status ? -1 : facts_directory(f, dir, e);
}

/* ---- cycle runs ---------------------------------------------------------------------------- */

/* Prints the files that do not agree with the ledger, as they are found. ctx: the text before
 * them. */
static void show_wrong(void *ctx, const char *path, const char *why)
{
    Text line = {0};
    Err ignored;
    if (!put_shown(&line, ctx, SIZE_MAX, &ignored) && !put_shown(&line, path, SIZE_MAX, &ignored))
        printf("%s: %s\n", line.data, why);
    text_free(&line);
}

/* The present state of what a run began with, and does not hold itself. */
typedef struct {
    const char *run;
    size_t same, unseen, changed;
    Err first; /* of what was changed */
} SourceCount;

static void count_source(void *ctx, const CycleSource *x)
{
    SourceCount *c = ctx;
    const char *path = x->path ? x->path : "";
    c->same += x->state == CYCLE_SOURCE_SAME;
    if (x->state == CYCLE_SOURCE_UNSEEN) {
        c->unseen++;
        log_note(notes(), 'w', "%s: %s %s was not looked at: %s", c->run, x->what, path, x->why);
    }
    if (x->state != CYCLE_SOURCE_CHANGED) return;
    show_wrong("", *path ? path : x->what, x->why);
    if (!c->changed++) err_set(&c->first, ERR_DATA, "%s: %s %s: %s", c->run, x->what, path, x->why);
}

#define SOURCES_TEXT 80

/* Runs --verify: compares the model and the files that the ledger names by hash, wherever they are,
 * and writes to text how many were looked at. */
static int verify_sources(const char *run, CycleModelSeen *seen, char text[SOURCES_TEXT], Err *e)
{
    SourceCount c = {.run = run};
    if (cycle_sources(run, seen, count_source, &c, e)) return -1;
    snprintf(text, SOURCES_TEXT, "%zu the same, %zu not looked at", c.same, c.unseen);
    return c.changed ? *e = c.first, -1 : 0;
}

/* Writes every signature of a run as facts. */
typedef struct {
    Facts *f;
    Err *e;
    int status;
} Signatures;

static void fact_signature(void *ctx, const CycleSignature *x)
{
    Signatures *s = ctx;
    Text line = {0};
    if (s->status) return;
    s->status = text_addf(&line, s->e, "cycle %zu, by %s%s, %s: %s", x->cycle, x->by,
                          x->automatic ? " (no person)" : "", x->time, x->reason);
    if (!s->status && s->f->json) {
        Facts *f = s->f;
        s->status = text_addf(&f->text, s->e, "%s{\"event\":\"%s\",\"cycle\":%zu,\"by\":",
                              f->text.data[f->text.len - 1] == '[' ? "" : ",",
                              x->rollback ? "rollback" : "approve", x->cycle) ||
                    json_put_string(&f->text, x->by, strlen(x->by), s->e) ||
                    text_addf(&f->text, s->e, ",\"reason\":") ||
                    json_put_string(&f->text, x->reason, strlen(x->reason), s->e) ||
                    text_addf(&f->text, s->e, ",\"time\":") ||
                    json_put_string(&f->text, x->time, strlen(x->time), s->e) ||
                    text_addf(&f->text, s->e, ",\"automatic\":%s,\"entry\":%zu,\"adapter_sha256\":",
                              x->automatic ? "true" : "false", x->entry) ||
                    json_put_string(&f->text, x->adapter_sha256, strlen(x->adapter_sha256), s->e) ||
                    text_add(&f->text, "}", 1, s->e);
    } else if (!s->status) {
        s->status = text_addf(&s->f->text, s->e, "  %-*s", NAME_COLUMN,
                              x->rollback ? "rolled back to" : "approved") ||
                    put_shown(&s->f->text, line.data, SIZE_MAX, s->e) ||
                    text_add(&s->f->text, "\n", 1, s->e);
    }
    text_free(&line);
}

static int facts_signatures(Facts *f, const char *dir, Err *e)
{
    Signatures s = {.f = f, .e = e};
    if (facts_list(f, "signatures", e) || cycle_signatures(dir, fact_signature, &s, e)) return -1;
    return s.status || facts_list_end(f, e) ? -1 : 0;
}

/* Writes facts of RUN's ledger: what happened, how it ended, whether the files are still those it
 * names. */
static int inspect_cycle(Facts *f, const char *dir, int verify, Err *e)
{
    LedgerVerification v;
    Pool pool = {0};
    Err wrong = {0};
    int agrees = !ledger_verify(dir, verify ? show_wrong : NULL, "", &v, &wrong);
    if (verify && !agrees) return *e = wrong, -1;
    CycleModelSeen seen = {.path = ""};
    char sources[SOURCES_TEXT];
    if (verify && verify_sources(dir, &seen, sources, e)) return -1;
    const Json *results = has_file(dir, RESULTS_FILE) ? read_object(dir, RESULTS_FILE, &pool, e)
                                                        : &(const Json){.type = JSON_OBJECT};
    const Json *cycles = json_get(results, "cycles");
    int status = !results || fact_text(f, "kind", "cycle run", e) ||
                 fact_flag(f, "finished", has_file(dir, RESULTS_FILE), e) ||
                 (cycles && fact_count(f, "cycles", cycles->len - 1, e)) ||
                 fact_count(f, "entries", v.entries, e) || fact_text(f, "ledger head", v.head, e) ||
                 fact_text(f, "ledger and files", agrees ? "agree" : wrong.text, e) ||
                 (verify && fact_text(f, "what it began with", sources, e));
    static const char *const metrics[] = {"safety_score", "erroneous_refusal"};
    for (size_t i = 0; i < 2 && !status; i++)
        status = fact_member(f, metrics[i], json_get(results, metrics[i]), "value", e);
    pool_free(&pool);
    if (!status && agrees) status = facts_signatures(f, dir, e);
    return status ? -1 : facts_directory(f, dir, e);
}

/* Writes one run of a grid; *wrong is set if its files are no longer those of its ledger. seen (or
 * NULL): what the run began with is compared, too. */
static int fact_cell(Facts *f, const char *dir, const char *run, CycleModelSeen *seen, Err *wrong,
                     Err *e)
{
    char sources[SOURCES_TEXT];
    char path[IO_PATH_MAX], before[IO_PATH_MAX];
    LedgerVerification v = {0};
    if (io_path(path, sizeof path, dir, run, e) || io_path(before, sizeof before, run, "", e))
        return -1;
    int agrees = !ledger_verify(path, seen ? show_wrong : NULL, before, &v, wrong) &&
                 !(seen && verify_sources(path, seen, sources, wrong));
    if (!f->json)
        return text_add(&f->text, "  ", 2, e) || put_padded(f, run, 2 * NAME_COLUMN, e) ||
                       text_add(&f->text, "  ", 2, e) ||
                       put_shown(&f->text, agrees ? v.head : wrong->text, SIZE_MAX, e) ||
                       text_add(&f->text, "\n", 1, e)
                   ? -1
                   : 0;
    return text_addf(&f->text, e, "%s{\"run\":", f->text.data[f->text.len - 1] == '[' ? "" : ",") ||
                   json_put_string(&f->text, run, strlen(run), e) ||
                   text_addf(&f->text, e, ",\"ledger_head\":\"%s\",\"agrees\":%s}", v.head,
                             agrees ? "true" : "false")
               ? -1
               : 0;
}

/* Writes the runs of a grid, with the head of each ledger. */
static int inspect_grid(Facts *f, const char *dir, int verify, Err *e)
{
    Pool pool = {0};
    Err first = {0};
    CycleModelSeen seen = {.path = ""};
    const Json *grid = read_object(dir, CYCLE_GRID_FILE, &pool, e),
               *cells = json_get(grid, "cells");
    int status = !grid || fact_text(f, "kind", "grid of cycle runs", e) || facts_list(f, "runs", e);
    for (const Json *x = cells ? cells->child : NULL; x && !status; x = x->next) {
        const Json *run = json_get(x, "run");
        Err wrong = {0};
        if (!run || run->type != JSON_STRING || strchr(run->text, '/'))
            status =
                err_set(e, ERR_DATA, "%s/" CYCLE_GRID_FILE ": a cell's \"run\" is no name", dir);
        else
            status = fact_cell(f, dir, run->text, verify ? &seen : NULL, &wrong, e);
        if (!first.code) first = wrong;
    }
    pool_free(&pool);
    if (!status && verify && first.code) return *e = first, -1;
    return status || facts_list_end(f, e) ? -1 : facts_directory(f, dir, e);
}

/* ---- data sets ----------------------------------------------------------------------------- */

/* A column of a JSONL file: how many rows have it, and of which types. */
typedef struct {
    const char *name;
    size_t rows, of_type[JSON_OBJECT + 1];
} ColumnCount;
#define COLUMNS_MAX 64 /* shown; more are counted as one */

static int count_columns(const Json *row, ColumnCount *columns, size_t *n, Pool *names, Err *e)
{
    for (const Json *j = row->child; j; j = j->next) {
        size_t c = 0;
        while (c < *n && strcmp(columns[c].name, j->key)) c++;
        if (c == COLUMNS_MAX) continue;
        if (c == *n) {
            columns[c] = (ColumnCount){.name = pool_strndup(names, j->key, j->key_len, e)};
            if (!columns[c].name) return -1;
            ++*n;
        }
        columns[c].rows++;
        columns[c].of_type[j->type]++;
    }
    return 0;
}

/* Writes what a column holds, as "strings 12, true 3". */
static int put_types(Text *out, const ColumnCount *c, Err *e)
{
    static const char *const nouns[] = {"null",    "false", "true",   "numbers",
                                        "strings", "lists", "objects"};
    int any = 0;
    for (size_t t = 0; t < sizeof nouns / sizeof *nouns; t++) {
        if (!c->of_type[t]) continue;
        if (text_addf(out, e, "%s%s %zu", any++ ? ", " : "", nouns[t], c->of_type[t])) return -1;
    }
    return 0;
}

static int facts_columns(Facts *f, const ColumnCount *columns, size_t n, Err *e)
{
    if (facts_list(f, "columns", e)) return -1;
    for (size_t c = 0; c < n; c++) {
        Text types = {0};
        int status = put_types(&types, &columns[c], e);
        if (!status && f->json) {
            status = text_addf(&f->text, e, "%s{\"name\":", c ? "," : "");
            if (!status)
                status = json_put_string(&f->text, columns[c].name, strlen(columns[c].name), e);
            if (!status)
                status = text_addf(&f->text, e, ",\"rows\":%zu,\"types\":\"%s\"}", columns[c].rows,
                                   types.data);
        } else if (!status) {
            status = text_add(&f->text, "  ", 2, e) ||
                     put_padded(f, columns[c].name, NAME_COLUMN, e) ||
                     text_addf(&f->text, e, "%s\n", types.data);
        }
        text_free(&types);
        if (status) return -1;
    }
    return facts_list_end(f, e);
}

/* Says which commands can use the rows, by the columns that all of them have. */
static const char *data_use(const ColumnCount *columns, size_t n, size_t rows)
{
    static const struct {
        const char *columns[3], *use;
    } uses[] = {
        {{"chosen", "rejected", NULL}, "preference pairs (align dpo, align kto)"},
        {{"prompt", "completion", "label"}, "labelled answers (align kto)"},
        {{"prompt", "response", "action"}, "judged answers (align evaluate)"},
        {{"prompt", "response", NULL}, "answers (align judge)"},
        {{"prompt", "completion", NULL}, "answers (align sft, align score)"},
        {{"messages", NULL, NULL}, "conversations (align sft)"},
        {{"prompt", NULL, NULL}, "prompts (align generate)"},
        {{"text", NULL, NULL}, "texts (align sft, align tokenize)"},
    };
    for (size_t u = 0; u < sizeof uses / sizeof *uses; u++) {
        int fits = 1;
        for (size_t k = 0; k < 3 && uses[u].columns[k]; k++) {
            size_t c = 0;
            while (c < n && strcmp(columns[c].name, uses[u].columns[k])) c++;
            fits &= c < n && columns[c].rows == rows;
        }
        if (fits) return uses[u].use;
    }
    return "unknown";
}

static int inspect_data(Facts *f, const char *path, Err *e)
{
    ColumnCount columns[COLUMNS_MAX];
    JsonLines lines;
    Pool names = {0};
    size_t n = 0, rows = 0;
    char hex[65];
    int more = 1, status = 0;
    if (jsonl_open(&lines, path, e)) return -1;
    while (!status && more > 0) {
        Pool pool = {0};
        Json *row;
        more = jsonl_next(&lines, &pool, &row, e);
        status = more < 0 ? -1 : more ? count_columns(row, columns, &n, &names, e) : 0;
        rows += more > 0;
        pool_free(&pool);
    }
    if (!status)
        status = fact_text(f, "kind", "data set", e) || sha256_file(path, hex, e) ||
                 fact_text(f, "sha256", hex, e) || fact_count(f, "bytes", lines.len, e) ||
                 fact_count(f, "rows", rows, e) ||
                 fact_count(f, "blank lines", lines.blank_lines, e) ||
                 fact_text(f, "good for", rows ? data_use(columns, n, rows) : "nothing", e) ||
                 facts_columns(f, columns, n, e);
    jsonl_close(&lines);
    pool_free(&names);
    return status ? -1 : 0;
}

/* ---- which of them ------------------------------------------------------------------------- */

static int ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static int inspect_path(Facts *f, const char *path, int verify, Err *e)
{
    if (!io_exists(path)) return err_set(e, ERR_NO_INPUT, "%s: there is no such file", path);
    if (has_file(path, CYCLE_GRID_FILE)) return inspect_grid(f, path, verify, e);
    if (verify || has_file(path, LEDGER_FILE)) return inspect_cycle(f, path, verify, e);
    if (gguf_is(path)) return inspect_gguf(f, path, e);
    if (!io_is_directory(path))
        return ends_with(path, ".safetensors") ? inspect_safetensors(f, path, e)
                                               : inspect_data(f, path, e);
    if (has_file(path, "adapter_config.json")) return inspect_adapter(f, path, e);
    if (has_file(path, "inputs.json") || has_file(path, METRICS_FILE))
        return inspect_training(f, path, e);
    if (has_file(path, "config.json") || has_file(path, "tokenizer.json"))
        return inspect_model(f, path, e);
    char model[IO_PATH_MAX];
    if (io_model_path(model, path, e)) return -1;
    if (strcmp(model, path)) return inspect_model(f, model, e);
    return err_set(e, ERR_DATA,
                   "%s: nothing known: a model has config.json, an adapter adapter_config.json, a "
                   "run metrics.jsonl or ledger.jsonl",
                   path);
}

/* ---- this machine -------------------------------------------------------------------------- */

static int inspect_cpu(Facts *f, Err *e)
{
    Compute c;
    if (compute_open(&c, "auto", PRECISION_F32, e)) return -1;
    int status = fact_text(f, "kind", "machine", e) ||
                 fact_text(f, "kernels", compute_available(), e) ||
                 fact_text(f, "kernel", compute_name(&c), e) ||
                 fact_count(f, "threads", (uint64_t)threads_count(), e) ||
                 fact_count(f, "pointer bits", 8 * sizeof(void *), e);
    compute_close(&c);
    return status ? -1 : 0;
}

static int inspect_run(const Options *o, Err *e)
{
    Facts f = {.json = option_flag(o, "json")};
    if (!o->operand == !option_flag(o, "cpu"))
        return err_set(e, ERR_USAGE, "PATH or --cpu is needed, and only one of them");
    int verify = option_flag(o, "verify");
    if (verify && !o->operand)
        return err_set(e, ERR_USAGE, "--verify needs the PATH of a cycle run");
    int status = o->operand ? inspect_path(&f, o->operand, verify, e) : inspect_cpu(&f, e);
    if (!status && f.json) status = text_add(&f.text, "}\n", 2, e);
    if (!status) status = print_text(&f.text, e);
    text_free(&f.text);
    return status;
}

const Command command_inspect = {&inspect_table, inspect_run};
