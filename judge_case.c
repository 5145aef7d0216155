/* judge_case.c - what all judges share: the labels, a softmax over them, and the case that a row
 * holds. */
#include "judge_parts.h"

#include <string.h>

const char *const action_names[ACTION_COUNT] = {"accept", "caution", "refuse"};

const char *judge_role(const JudgeConfig *c)
{
    return c->role ? c->role : "judge";
}

/* ---- labels -------------------------------------------------------------------------------- */

char judge_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

int action_parse(const char *text, size_t len)
{
    static const struct {
        const char *label;
        Action action;
    } labels[] = {{"accept", ACTION_ACCEPT},        {"1_full_compliance", ACTION_ACCEPT},
                  {"caution", ACTION_CAUTION},      {"3_partial_refusal", ACTION_CAUTION},
                  {"refuse", ACTION_REFUSE},        {"reject", ACTION_REFUSE},
                  {"2_full_refusal", ACTION_REFUSE}};
    for (size_t i = 0; i < sizeof labels / sizeof labels[0]; i++) {
        if (strlen(labels[i].label) != len) continue;
        size_t at = 0;
        while (at < len && judge_lower(text[at]) == labels[i].label[at]) at++;
        if (at == len) return (int)labels[i].action;
    }
    return -1;
}

int action_of(const Json *label)
{
    return label && label->type == JSON_STRING ? action_parse(label->text, label->len) : -1;
}

int action_counts_json(const size_t n[ACTION_COUNT], Text *out, Err *e)
{
    return text_addf(out, e, "\"accept\":%zu,\"caution\":%zu,\"refuse\":%zu", n[ACTION_ACCEPT],
                     n[ACTION_CAUTION], n[ACTION_REFUSE]);
}

/* ---- probabilities ------------------------------------------------------------------------- */

Action action_largest(const double share[ACTION_COUNT])
{
    Action best = ACTION_REFUSE;
    for (int a = ACTION_REFUSE - 1; a >= 0; a--)
        if (share[a] > share[best]) best = (Action)a;
    return best;
}

void judge_softmax(const double z[ACTION_COUNT], double p[ACTION_COUNT])
{
    double total = 0, largest = z[action_largest(z)];
    for (size_t a = 0; a < ACTION_COUNT; a++) total += p[a] = maths_exp(z[a] - largest);
    for (size_t a = 0; a < ACTION_COUNT; a++) p[a] /= total;
}

int judge_put_text(Text *out, const char *key, const char *value, Err *e)
{
    if (text_addf(out, e, ", \"%s\": ", key)) return -1;
    return value ? json_put_string(out, value, strlen(value), e) : text_addf(out, e, "null");
}

/* ---- cases --------------------------------------------------------------------------------- */

/* A content, or the texts of its parts one after the other. */
static int add_content(Text *out, const Json *content, const char *form, Err *e)
{
    int is_list = content->type == JSON_ARRAY;
    const Json *part = is_list ? content->child : content;
    for (; part; part = is_list ? part->next : NULL) {
        const Json *text = part->type == JSON_OBJECT ? json_get(part, "text") : part;
        if (!text || text->type != JSON_STRING) return err_set(e, ERR_DATA, "%s", form);
        if (text_add(out, text->text, text->len, e)) return -1;
    }
    return 0;
}

/* Turns a prompt into one text: what the user said, or a conversation as lines "role: content". */
static int set_prompt(JudgeCase *c, const Json *prompt, Pool *pool, Err *e)
{
    static const char form[] =
        "\"prompt\" must be a text or messages with \"role\" and \"content\"";
    c->prompt = "";
    if (!prompt || prompt->type == JSON_NULL) return 0;
    if (prompt->type == JSON_STRING) {
        c->prompt = prompt->text;
        c->prompt_len = prompt->len;
        return 0;
    }
    if (prompt->type != JSON_ARRAY) return err_set(e, ERR_DATA, "%s", form);
    Text text = {0};
    int status = 0, alone = prompt->len == 1 && json_is(json_get(prompt->child, "role"), "user");
    for (const Json *turn = prompt->child; turn && !status; turn = turn->next) {
        const Json *role = json_get(turn, "role"), *content = json_get(turn, "content");
        if (!role || role->type != JSON_STRING || !content)
            status = err_set(e, ERR_DATA, "%s", form);
        else
            status = (!alone && text_addf(&text, e, "%s%s: ", text.len ? "\n" : "", role->text)) ||
                     add_content(&text, content, form, e);
    }
    if (!status && text.len) {
        c->prompt = pool_strndup(pool, text.data, text.len, e);
        c->prompt_len = text.len;
        if (!c->prompt) status = -1;
    }
    text_free(&text);
    return status ? -1 : 0;
}

int judge_read_case(const Json *row, JudgeCase *c, Pool *pool, Err *e)
{
    const Json *response = json_get(row, "response");
    if (!response || response->type != JSON_STRING)
        return data_refuse(row, "response", "a text", e);
    *c = (JudgeCase){.response = response->text, .response_len = response->len};
    return set_prompt(c, json_get(row, "prompt"), pool, e);
}

void judge_case_key(const JudgeCase *c, char hex[65])
{
    Sha256 s;
    sha256_begin(&s);
    sha256_add(&s, c->prompt, c->prompt_len);
    sha256_add(&s, "", 1);
    sha256_add(&s, c->response, c->response_len);
    sha256_end(&s, hex);
}

int judge_row_key(const Json *row, char hex[65], Err *e)
{
    JudgeCase c;
    Pool pool = {0};
    *hex = 0;
    if (!json_get(row, "response")) return 0;
    int status = judge_read_case(row, &c, &pool, e);
    if (!status) judge_case_key(&c, hex);
    pool_free(&pool);
    return status;
}
