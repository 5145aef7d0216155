/* data_turns.c - turns conversations in files into {"role","content", ...}: translates the names of
 * ShareGPT. Contents are texts, or lists of parts, which the chat template gets as they are. */
#include "data_parts.h"

#include <string.h>

/* Names of roles in files, and their names here. */
static const struct {
    const char *name, *role;
} roles[] = {{"system", "system"}, {"user", "user"},           {"assistant", "assistant"},
             {"tool", "tool"},     {"developer", "developer"}, {"ipython", "ipython"},
             {"function", "function"}, {"human", "user"},      {"gpt", "assistant"}};

const char *data_json_kind(const Json *j)
{
    static const char *const names[] = {"null",     "false",  "true",     "a number",
                                        "a string", "a list", "an object"};
    return j ? names[j->type] : "nothing";
}

/* Makes a string a member called `key`. */
static Json *new_text(Loader *l, const char *key, const char *text, size_t len, Err *e)
{
    Json *j = pool_alloc(&l->d->pool, sizeof *j, e);
    if (j) *j = (Json){.type = JSON_STRING, .text = text, .len = len, .key = key};
    if (j) j->key_len = strlen(key);
    return j;
}

/* Says where an error is: "rows.jsonl:3: "chosen"[1]". */
typedef struct {
    const char *path, *column;
    size_t line, turn;
} Place;

static Json *read_role(Loader *l, const Json *turn, const Place *at, Err *e)
{
    const Json *role = json_get(turn, "role");
    if (!role) role = json_get(turn, "from");
    for (size_t r = 0; r < sizeof roles / sizeof *roles; r++) {
        if (!json_is(role, roles[r].name)) continue;
        if (roles[r].name != roles[r].role && strcmp(roles[r].name, roles[r].role) != 0)
            l->renamed = 1;
        return new_text(l, "role", roles[r].role, strlen(roles[r].role), e);
    }
    int named = role && role->type == JSON_STRING;
    err_set(e, ERR_DATA,
            "%s:%zu: \"%s\"[%zu]: role must be system, user, assistant, tool, developer, ipython "
            "or function (or human or gpt), found %s%s%.40s%s",
            at->path, at->line, at->column, at->turn, named ? role->text : data_json_kind(role),
            named ? " (rows without such turns: jq -c 'select([.. | .role?] | index(\"" : "",
            named ? role->text : "", named ? "\") | not)' FILE >rows.jsonl)" : "");
    return NULL;
}

/* [{"type":"text","text":"..."}]: a list of parts is the template's to read, as in transformers.
 * What stands for a picture or a sound is refused: there would be its mark, and nothing behind it.
 */
static Json *read_parts(Loader *l, const Json *parts, const Place *at, Err *e)
{
    static const char *const media[] = {"image",       "image_url", "audio",    "audio_url",
                                        "input_audio", "video",     "video_url"};
    for (const Json *part = parts->child; part; part = part->next) {
        const Json *type = part->type == JSON_OBJECT ? json_get(part, "type") : NULL;
        for (size_t i = 0; i < sizeof media / sizeof *media; i++) {
            if (!json_is(type, media[i])) continue;
            err_set(
                e, ERR_DATA,
                "%s:%zu: \"%s\"[%zu]: content is a list with a part of type %s, which cannot be "
                "read here; of such parts only texts can",
                at->path, at->line, at->column, at->turn, media[i]);
            return NULL;
        }
    }
    Json *copy = pool_alloc(&l->d->pool, sizeof *copy, e);
    if (!copy) return NULL;
    *copy = *parts;
    copy->next = NULL;
    copy->key = "content";
    copy->key_len = strlen(copy->key);
    return copy;
}

static Json *read_content(Loader *l, const Json *turn, const Place *at, Err *e)
{
    const Json *content = json_get(turn, "content");
    if (!content) content = json_get(turn, "value");
    if (content && content->type == JSON_STRING)
        return new_text(l, "content", content->text, content->len, e);
    if (content && content->type == JSON_ARRAY) return read_parts(l, content, at, e);
    const Json *calls = json_get(turn, "tool_calls");
    int empty = !content || content->type == JSON_NULL;
    if (empty && calls && calls->type == JSON_ARRAY && calls->len) {
        Json *none = new_text(l, "content", "", 0, e); /* the answer is what it calls */
        if (none) none->type = JSON_NULL;
        return none;
    }
    err_set(e, ERR_DATA,
            "%s:%zu: \"%s\"[%zu]: content must be a string or a list of parts, found %s", at->path,
            at->line, at->column, at->turn, data_json_kind(content));
    return NULL;
}

/* Adds what a turn has besides role and content, which its template may read. */
static int copy_others(Loader *l, const Json *turn, Json *out, Err *e)
{
    int shared = json_get(turn, "role") == NULL; /* ShareGPT's names */
    Json **end = &out->child;
    while (*end) end = &(*end)->next;
    for (const Json *k = turn->child; k; k = k->next) {
        if (!strcmp(k->key, "role") || !strcmp(k->key, "content") ||
            (shared && (!strcmp(k->key, "from") || !strcmp(k->key, "value"))))
            continue;
        Json *copy = pool_alloc(&l->d->pool, sizeof *copy, e);
        if (!copy) return -1;
        *copy = *k;
        copy->next = NULL;
        *end = copy;
        end = &copy->next;
        out->len++;
    }
    return 0;
}

static Json *read_turn(Loader *l, const Json *turn, const Place *at, Err *e)
{
    Json *out = pool_alloc(&l->d->pool, sizeof *out, e);
    Json *role = out ? read_role(l, turn, at, e) : NULL;
    if (!role) return NULL;
    role->next = read_content(l, turn, at, e);
    if (!role->next) return NULL;
    *out = (Json){.type = JSON_OBJECT, .at = turn->at, .len = 2, .child = role};
    return copy_others(l, turn, out, e) ? NULL : out;
}

const Json *data_turns(Loader *l, const Json *list, const char *column, size_t line, Err *e)
{
    Json *out = pool_alloc(&l->d->pool, sizeof *out, e), **end = out ? &out->child : NULL;
    Place at = {.path = l->path, .column = column, .line = line};
    if (!out) return NULL;
    *out = (Json){.type = JSON_ARRAY, .at = list->at, .len = list->len};
    for (const Json *turn = list->child; turn; turn = turn->next, at.turn++) {
        *end = read_turn(l, turn, &at, e);
        if (!*end) return NULL;
        end = &(*end)->next;
    }
    return out;
}
