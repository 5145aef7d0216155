/* data_wants.c - refuses a row's column: what it must be, what was found, and what makes it fit. */
#include "data_parts.h"

#include <string.h>

/* Names that columns have in other people's files. */
static const struct {
    const char *column, *theirs;
} aliases[] = {
    {"prompt", "question"},        {"prompt", "instruction"},   {"prompt", "query"},
    {"prompt", "messages"},        {"prompt", "text"},          {"prompt", "input"},
    {"response", "completion"},    {"response", "answer"},      {"response", "output"},
    {"response", "generation"},    {"completion", "response"},  {"completion", "answer"},
    {"completion", "output"},      {"label", "liked"},          {"label", "thumbs_up"},
    {"label", "desirable"},        {"label", "good"},           {"action", "label"},
    {"action", "gold"},            {"action", "verdict"},       {"harmful_level", "level"},
    {"harmful_level", "harm_level"}, {"harmful_level", "severity"}, {"question", "prompt"},
    {"answer", "answerKey"},       {"answer", "target"},        {"choices", "options"},
};

/* What turns another kind of value into the wanted one. */
static const struct {
    const char *column;
    JsonType found;
    const char *filter;
} filters[] = {
    {"response", JSON_ARRAY, ".response = .response[-1].content"},
    {"completion", JSON_ARRAY, ".completion = .completion[-1].content"},
    {"harmful_level", JSON_STRING, ".harmful_level |= tonumber"},
    {"label", JSON_STRING, ".label = (.label == \"true\")"},
    {"answer", JSON_NUMBER, ".choices = .options"},
    {"answer", JSON_STRING, ".answer as $a | .answer = (\"ABCDEFGH\" | index($a))"},
    {"choices", JSON_OBJECT,
     "{question, choices: .choices.text, answer: (.answerKey as $k | .choices.label | index($k))}"},
};

int data_put_columns(const Json *row, Text *out, Err *e)
{
    const size_t most = 8;
    size_t n = 0;
    for (const Json *v = row->child; v; v = v->next, n++) {
        if (n == most) return text_addf(out, e, ", ...");
        if (text_addf(out, e, "%s", n ? ", " : "") || json_put_string(out, v->key, v->key_len, e))
            return -1;
    }
    return n ? 0 : text_addf(out, e, "none");
}

/* "a string", or the value itself where it is short. */
static int put_found(const Json *v, Text *out, Err *e)
{
    const size_t most = 40;
    if (v->type == JSON_NUMBER) return text_addf(out, e, "%.*s", (int)most, v->text);
    if (v->type == JSON_STRING && v->len <= most) return json_put_string(out, v->text, v->len, e);
    return text_addf(out, e, "%s", data_json_kind(v));
}

static int put_missing(const Json *row, const char *key, Text *out, Err *e)
{
    if (text_addf(out, e, "none; the row has ") || data_put_columns(row, out, e)) return -1;
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        const Json *v = strcmp(aliases[i].column, key) ? NULL : json_get(row, aliases[i].theirs);
        if (v && v->type != JSON_NULL)
            return text_addf(out, e, " (jq -c '.%s = .%s' FILE >rows.jsonl)", key,
                             aliases[i].theirs);
    }
    return 0;
}

static int put_filter(const Json *row, const Json *v, const char *key, Text *out, Err *e)
{
    if (v->type == JSON_NUMBER && !json_get(row, "options")) return 0;
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (!strcmp(filters[i].column, key) && filters[i].found == v->type)
            return text_addf(out, e, " (jq -c '%s' FILE >rows.jsonl)", filters[i].filter);
    return 0;
}

int data_refuse(const Json *row, const char *key, const char *what, Err *e)
{
    Text found = {0};
    const Json *v = json_get(row, key);
    int failed = !v || v->type == JSON_NULL
                     ? put_missing(row, key, &found, e)
                     : put_found(v, &found, e) || put_filter(row, v, key, &found, e);
    if (!failed) err_set(e, ERR_DATA, "\"%s\" must be %s, found %s", key, what, found.data);
    text_free(&found);
    return -1;
}
