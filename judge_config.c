/* judge_config.c - the choices that make a judge: what is allowed, and how they are recorded. */
#include "judge.h"

#include <string.h>

const char *const judge_mode_names[] = {"logprob", "text"};
const char *const judge_order_names[] = {"fixed", "reversed", "rotations"};

static int is_kind(const JudgeConfig *c, const char *name)
{
    return !strcmp(c->kind, name);
}

static int uses_model(const JudgeConfig *c)
{
    return is_kind(c, "self") || is_kind(c, "model");
}

/* ---- checks -------------------------------------------------------------------------------- */

static int check_kind(const JudgeConfig *c, Err *e)
{
    char names[256] = "";
    for (size_t i = 0; i < judge_kind_count; i++) {
        if (is_kind(c, judge_kinds[i].name)) return 0;
        if (i) strncat(names, ", ", sizeof names - strlen(names) - 1);
        strncat(names, judge_kinds[i].name, sizeof names - strlen(names) - 1);
    }
    return err_set(e, ERR_USAGE, "--judge: found \"%s\", allowed: %s", c->kind, names);
}

static int check_command(const JudgeConfig *c, Err *e)
{
    const double longest = 86400; /* a day */
    const size_t most = 1000;
    if (!c->command || !*c->command)
        return err_set(e, ERR_USAGE,
                       "--judge command: --judge-command says which one; it is "
                       "missing");
    if (!c->allow_external)
        return err_set(e, ERR_USAGE,
                       "--judge command: prompts may hold patient data, and a program may send "
                       "them anywhere; --allow-external permits it");
    if (!c->answers || !*c->answers)
        return err_set(e, ERR_USAGE, "--judge command: --answers FILE is needed, to keep answers");
    if (!(c->timeout >= 0) || c->timeout > longest)
        return err_set(e, ERR_USAGE, "--judge-timeout: found %g, allowed 0 to %g seconds",
                       c->timeout, longest);
    if (c->retries > most)
        return err_set(e, ERR_USAGE, "--judge-retries: found %zu, allowed 0 to %zu", c->retries,
                       most);
    return 0;
}

int judge_config_check(const JudgeConfig *c, Err *e)
{
    if (check_kind(c, e)) return -1;
    if (c->rules && !is_kind(c, "rules"))
        return err_set(e, ERR_USAGE, "--rules belongs to the judge rules, found --judge %s",
                       c->kind);
    if (uses_model(c) && (!c->model || !*c->model))
        return err_set(e, ERR_USAGE, "--judge %s: a model directory is needed, -m MODEL", c->kind);
    return is_kind(c, "command") ? check_command(c, e) : 0;
}

/* ---- config.json --------------------------------------------------------------------------- */

/* , "key": "value" (null for NULL) */
static int put_text(Text *out, const char *key, const char *value, Err *e)
{
    if (text_addf(out, e, ", \"%s\": ", key)) return -1;
    return value ? json_put_string(out, value, strlen(value), e) : text_addf(out, e, "null");
}

static int put_model(Text *out, const JudgeConfig *c, Err *e)
{
    int self = is_kind(c, "self");
    if (!self && (put_text(out, "model", c->model, e) || put_text(out, "adapter", c->adapter, e)))
        return -1;
    return put_text(out, "chat-template", c->chat_template, e) ||
                   put_text(out, "mode", judge_mode_names[c->mode], e) ||
                   put_text(out, "label-order", judge_order_names[c->order], e) ||
                   text_addf(out, e, ", \"calibrated\": %s, \"max-length\": %zu",
                             c->uncalibrated ? "false" : "true", c->max_length) ||
                   put_text(out, "precision", c->precision == PRECISION_BF16 ? "bf16" : "f32", e)
               ? -1
               : 0;
}

int judge_config_json(const JudgeConfig *c, Text *out, Err *e)
{
    int status = text_addf(out, e, "{\"kind\": \"%s\"", c->kind);
    if (!status && is_kind(c, "rules")) status = put_text(out, "rules", c->rules, e);
    if (!status && uses_model(c)) status = put_model(out, c, e);
    if (!status && is_kind(c, "command"))
        status =
            put_text(out, "command", c->command, e) ||
            text_addf(out, e, ", \"allow-external\": %s", c->allow_external ? "true" : "false");
    if (!status && c->reviewed) status = put_text(out, "reviewed", c->reviewed, e);
    return status || text_add(out, "}", 1, e) ? -1 : 0;
}
