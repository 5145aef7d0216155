/* chat_check.c - what is said where the words around a text may not be those that a model or an
 * adapter was taught with.
 *
 * Nothing here refuses or changes anything, and what cannot be read is passed over: a template that
 * does not belong here works, only worse, and a line on the screen is the only sign of it.
 */
#include "chat_parts.h"

#include "io.h"
#include "json.h"

#include <string.h>

enum { NAMES_MAX = 400 };

/* The model's own template. */
typedef struct {
    const char *text; /* NULL: the model has none */
    size_t len;
    char name[CHAT_NAME];
    const ChatBuiltin *known; /* the built-in one that writes the same, or NULL */
} OwnTemplate;

static OwnTemplate own_template(const Tokenizer *t)
{
    OwnTemplate own = {0}; /* first, because an initializer may clear what a call in it sets */
    Err ignored;
    own.text = tokenizer_chat_template(t, "default", &own.len);
    if (!own.text) own.text = tokenizer_chat_template(t, "tool_use", &own.len);
    if (own.text) chat_name_text(own.text, own.len, own.name, &own.known, &ignored);
    return own;
}

/* ---- control tokens ------------------------------------------------------------------------ */

/* Tokens that a control text becomes where the template may write control tokens: 1 if it is one
 * token as a whole; 0 where memory is short. */
static size_t count_pieces(const Tokenizer *t, const char *control)
{
    Ids ids = {0};
    Err ignored;
    size_t len = strlen(control);
    int failed = tokenizer_encode(t, control, len, TOKENIZE_SPECIAL, &ids, &ignored);
    size_t n = failed ? 0 : ids.count;
    ids_free(&ids);
    return n;
}

static int fits(const ChatBuiltin *b, const Tokenizer *t)
{
    for (const char *const *control = b->controls; *control; control++)
        if (count_pieces(t, *control) > 1) return 0;
    return 1;
}

/* Names of the templates whose control tokens the tokenizer has; where there is none, of those that
 * have no control tokens. */
static void list_fitting(const Tokenizer *t, char out[NAMES_MAX])
{
    size_t at = 0;
    out[0] = 0;
    for (int with = 1; with >= 0 && !at; with--)
        for (const ChatBuiltin *b = chat_builtins; b->name && at + CHAT_NAME < NAMES_MAX; b++) {
            if ((b->controls[0] != NULL) != with || !fits(b, t)) continue;
            at += (size_t)snprintf(out + at, NAMES_MAX - at, "%s%s", at ? ", " : "", b->name);
        }
}

/* "<|im_start|> (7 pieces), <|im_end|> (7 pieces)": the control texts that are no token. */
static int list_spelled(const ChatTemplate *c, const Tokenizer *t, Text *out)
{
    Err ignored;
    for (const char *const *control = c->controls; *control; control++) {
        size_t n = count_pieces(t, *control);
        if (n <= 1) continue;
        if (text_addf(out, &ignored, "%s%s (%zu pieces)", out->len ? ", " : "", *control, n))
            return -1;
    }
    return 0;
}

/* Which template would fit instead. */
static void advise_fitting(const Tokenizer *t, const OwnTemplate *own, char *out, size_t size)
{
    char names[NAMES_MAX];
    list_fitting(t, names);
    if (own->known && fits(own->known, t))
        snprintf(out, size, "; without --chat-template the model's own is used, %s, which fits",
                 own->known->name);
    else
        snprintf(out, size, "; --chat-template with one of these fits: %s", names);
}

/* The model's own template may have been taught in letters: that is told, and no fault. Returns 1
 * where there is something to warn of. */
static int check_controls(const ChatTemplate *c, const Tokenizer *t, const OwnTemplate *own,
                          const Log *log)
{
    Text spelled = {0};
    char instead[NAMES_MAX + 100];
    int is_own = c->own || (own->text && !strcmp(c->name, own->name));
    int missing = !list_spelled(c, t, &spelled) && spelled.len;
    if (missing) advise_fitting(t, own, instead, sizeof instead);
    if (missing && is_own)
        log_note(log, 'i',
                 "chat template %s, the model's own: the tokenizer has no tokens for %s, which the "
                 "model reads as letters",
                 chat_name(c), spelled.data);
    else if (missing)
        log_note(log, 'w',
                 "chat template %s: the tokenizer has no tokens for %s, which the model reads as "
                 "letters and was not taught%s",
                 chat_name(c), spelled.data, advice("chat-template", instead));
    text_free(&spelled);
    return missing && !is_own;
}

/* ---- another template than the model's own -------------------------------------------------- */

/* How system messages begin that templates bring along, as far as published ones show. */
static const char *const system_begins[] = {"You are ", "A chat between", "Below is an instruction",
                                            "Cutting Knowledge Date", "Today"};

static int holds_word(const char *text, size_t len, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= len; i++)
        if (!memcmp(text + i, word, n)) return 1;
    return 0;
}

/* The first system message in a template's source: to the end of its string, line or markup. Not
 * that of a template's tools, which only conversations with tools get. */
static const char *find_system(const OwnTemplate *own, size_t *len)
{
    static const char ends[] = "'\"\n\\<{";
    for (size_t at = 0; at < own->len; at++)
        for (size_t i = 0; i < sizeof system_begins / sizeof *system_begins; i++) {
            const char *text = own->text + at;
            size_t left = own->len - at, n = strlen(system_begins[i]), end = n;
            if (left < n || memcmp(text, system_begins[i], n)) continue;
            while (end < left && !strchr(ends, text[end])) end++;
            if (holds_word(text, end, "function") || holds_word(text, end, "tool")) continue;
            return *len = end, text;
        }
    return NULL;
}

/* 1 where every conversation begins with a system turn of the template's own. */
static int opens_itself(const ChatTemplate *c)
{
    return c->like && c->like->dated;
}

/* What the model's own template, which is not built in, says and c does not. */
static void check_unknown(const ChatTemplate *c, const OwnTemplate *own, int has_system,
                          const Log *log)
{
    const int most = 100; /* bytes shown of a system message */
    size_t len = 0;
    const char *system = find_system(own, &len);
    if (system && !opens_itself(c) && !has_system)
        log_note(log, 'w',
                 "chat template %s takes the place of the model's own (%s), which brings a system "
                 "message along: \"%.*s%s\"; %s writes none%s",
                 chat_name(c), own->name, len > (size_t)most ? most : (int)len, system,
                 len > (size_t)most ? "..." : "", chat_name(c),
                 advice("system", " (--system TEXT does)"));
    else if (!system && opens_itself(c))
        log_note(log, 'w',
                 "chat template %s takes the place of the model's own (%s), and begins each "
                 "conversation with a system turn of dates, which is not found in the model's own",
                 chat_name(c), own->name);
    else
        log_note(log, 'i', "chat template %s takes the place of the model's own (%s)", chat_name(c),
                 own->name);
}

/* told: a warning has named c already, and only what the templates write otherwise is left. */
static void check_own(const ChatTemplate *c, const OwnTemplate *own, int told, int has_system,
                      const Log *log)
{
    if (!own->text || c->own || !strcmp(c->name, own->name)) return;
    if (!own->known) {
        check_unknown(c, own, has_system, log);
        return;
    }
    int here = opens_itself(c), there = own->known->dated;
    if (told && here == there) return;
    log_note(log, 'w', "chat template %s takes the place of the model's own, %s%s", chat_name(c),
             own->name,
             here && !there   ? "; it begins each conversation with a system turn of dates, which "
                                "the model's own does not write"
             : there && !here ? ", which begins each conversation with a system turn of dates: "
                                "there is none here"
                              : "");
}

/* ---- an adapter's template ------------------------------------------------------------------ */

/* What stands beside an adapter about the texts it was trained on. */
typedef struct {
    char name[CHAT_NAME]; /* of the chat template; "": plain text */
    char where[IO_PATH_MAX];   /* the file that says so */
    int surely;                /* it was used; else it only stands there */
} Taught;

static const Json *read_object(Pool *pool, const char *dir, const char *name, char *path)
{
    char *data;
    size_t len;
    Err ignored;
    if (io_path(path, IO_PATH_MAX, dir, name, &ignored) || !io_exists(path) ||
        io_read_file(path, 0, &data, &len, &ignored))
        return NULL;
    const char *copy = pool_strndup(pool, data, len, &ignored);
    mem_free(data);
    return copy ? json_parse(pool, copy, len, path, JSON_ALLOW_DUPLICATES, &ignored) : NULL;
}

/* A training run of this program around the adapter: inputs.json names the template that rendered
 * its rows, config.json the one that was asked for. */
static int taught_by_run(const char *adapter, const char *up, Pool *pool, Taught *taught)
{
    char dir[IO_PATH_MAX], path[IO_PATH_MAX];
    Err ignored;
    if (io_path(dir, sizeof dir, adapter, up, &ignored)) return 0;
    const Json *inputs = read_object(pool, dir, "inputs.json", taught->where);
    const Json *config = read_object(pool, dir, "config.json", path);
    if (!json_get(inputs, "method") || !json_get(inputs, "tokens") || !config) return 0;
    const Json *name = json_get(inputs, "chat-template");
    if (!name && (name = json_get(config, "chat-template")))
        memcpy(taught->where, path, sizeof path);
    snprintf(taught->name, sizeof taught->name, "%s", name && name->text ? name->text : "");
    return taught->surely = 1;
}

/* The chat template that other trainers save beside the adapter, with its tokenizer. */
static int taught_beside(const char *adapter, Pool *pool, Taught *taught)
{
    char *data = NULL;
    size_t len;
    const ChatBuiltin *known;
    Err ignored;
    if (!io_path(taught->where, sizeof taught->where, adapter, "chat_template.jinja", &ignored) &&
        io_exists(taught->where) && !io_read_file(taught->where, 0, &data, &len, &ignored)) {
        chat_name_text(data, len, taught->name, &known, &ignored);
        mem_free(data);
        return 1;
    }
    const Json *config = read_object(pool, adapter, "tokenizer_config.json", taught->where);
    const Json *text = json_get(config, "chat_template");
    if (!text || text->type != JSON_STRING) return 0;
    chat_name_text(text->text, text->len, taught->name, &known, &ignored);
    return 1;
}

static int find_taught(const char *adapter, Taught *taught)
{
    Pool pool = {0};
    *taught = (Taught){.surely = 0};
    int found = taught_by_run(adapter, "..", &pool, taught) ||
                taught_by_run(adapter, "../..", &pool, taught) || /* checkpoints/step-N */
                taught_beside(adapter, &pool, taught);
    pool_free(&pool);
    return found;
}

void chat_check_adapter(const ChatTemplate *c, const char *adapter, const Log *log)
{
    Taught taught;
    char tip[CHAT_NAME + 40];
    if (!adapter || !*adapter || !find_taught(adapter, &taught)) return;
    const char *now = c ? chat_name(c) : "";
    if (!strcmp(taught.name, now) || (!c && !taught.surely)) return;
    if (!*taught.name) {
        log_note(log, 'w',
                 "adapter %s was trained on plain text (%s names no chat template); here its texts "
                 "are put by chat template %s%s",
                 adapter, taught.where, now, advice("raw", " (--raw puts them as they are)"));
        return;
    }
    snprintf(tip, sizeof tip, " (--chat-template %s is that one)", taught.name);
    log_note(log, 'w',
             "adapter %s was trained with chat template %s (%s); here its texts are %s%s%s",
             adapter, taught.name, taught.where, c ? "put by chat template " : "plain", now,
             strncmp(taught.name, "SHA-256", 7) ? advice("chat-template", tip) : "");
}

void chat_check_merged(const Tokenizer *t, const char *adapter, const char *made, const Log *log)
{
    Taught taught;
        OwnTemplate own = own_template(t);
    if (!find_taught(adapter, &taught) || !taught.surely || !*taught.name) return;
    const char *kept = own.text ? own.name : "none";
    if (!strcmp(kept, taught.name)) return;
    log_note(log, 'w',
             "adapter %s was trained with chat template %s (%s); the chat template of %s is the "
             "base model's own: %s",
             adapter, taught.name, taught.where, made, kept);
}

/* ---- all of it ----------------------------------------------------------------------------- */

void chat_check(const ChatTemplate *c, const Tokenizer *t, int has_system, const Log *log)
{
    if (!c) return;
    OwnTemplate own = own_template(t);
    int told = check_controls(c, t, &own, log);
    check_own(c, &own, told, has_system, log);
}

void chat_check_plain(const Tokenizer *t, const Log *log)
{
    OwnTemplate own = own_template(t);
    if (!own.text) return;
    log_note(log, 'w',
             "the rows are plain text, which the model's chat template (%s) does not surround; it "
             "does so for lists of {\"role\",\"content\"}",
             own.name);
}
