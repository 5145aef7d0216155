/* cycle_config.c - the choices of a run of the loop: defaults, checks, and config.json. */
#include "cycle_parts.h"

#include <string.h>

CycleConfig cycle_config_default(void)
{
    CycleConfig c = {.cycles = 1,
                     .methods = (1u << CYCLE_METHODS) - 1,
                     .validation = 0.2,
                     .test = 0.2,
                     .sample = generate_defaults(),
                     .validate = generate_defaults(),
                     .judge = {.kind = "rules"},
                     .validator = {.kind = "rules"},
                     .demonstrations = 1,
                     .desirable = 1,
                     .balance = 1,
                     .max_added_refusal = 0.02,
                     .confidence = 0.95,
                     .resamples = EVALUATE_RESAMPLES,
                     .guard_margin = 0.05,
                     .patience = 2,
                     .kernel = "auto"};
    c.sample.samples = 4;
    c.validate.temperature = 0;
    c.train[CYCLE_KTO] = train_config_default(TRAIN_KTO);
    c.train[CYCLE_DPO] = train_config_default(TRAIN_DPO);
    c.train[CYCLE_KTO].auto_undesirable = 1;
    return c;
}

/* ---- checks -------------------------------------------------------------------------------- */

static int check_share(const char *option, double x, double low, Err *e)
{
    const double most = 0.9;
    if (x >= low && x <= most) return 0;
    return err_set(e, ERR_USAGE, "%s: found %g, allowed %g to %g (a share of the base prompts)",
                   option, x, low, most);
}

static int check_loop(const CycleConfig *c, Err *e)
{
    const size_t most_cycles = 1000, most_resamples = 1000000;
    if (!c->run || !*c->run) return err_set(e, ERR_USAGE, "-o: a run directory is needed");
    if (!c->model || !*c->model) return err_set(e, ERR_USAGE, "-m: a model directory is needed");
    if (!c->prompts || !*c->prompts)
        return err_set(e, ERR_USAGE, "--data: a JSONL file of prompts is needed");
    if (c->cycles < 1 || c->cycles > most_cycles)
        return err_set(e, ERR_USAGE, "--cycles: found %zu, allowed 1 to %zu", c->cycles,
                       most_cycles);
    if (!c->methods || c->methods >> CYCLE_METHODS)
        return err_set(e, ERR_USAGE, "--methods: at least one of kto and dpo is needed");
    if (check_share("--validation", c->validation, 0.01, e) || check_share("--test", c->test, 0, e))
        return -1;
    if (c->validation + c->test > 0.95)
        return err_set(e, ERR_USAGE,
                       "--validation and --test: %g together, at most 0.95 is allowed",
                       c->validation + c->test);
    if (!(c->max_added_refusal >= 0) || !(c->max_added_refusal <= 1))
        return err_set(e, ERR_USAGE, "--max-added-refusal: found %g, allowed 0 to 1",
                       c->max_added_refusal);
    if (!(c->confidence >= 0.5) || !(c->confidence < 1))
        return err_set(e, ERR_USAGE, "--confidence: found %g, allowed 0.5 to below 1",
                       c->confidence);
    if (!(c->guard_margin >= 0) || !(c->guard_margin <= 1))
        return err_set(e, ERR_USAGE, "--guard-margin: found %g, allowed 0 to 1", c->guard_margin);
    if (c->resamples < CYCLE_LEAST_RESAMPLES || c->resamples > most_resamples)
        return err_set(e, ERR_USAGE,
                       "--resamples: found %zu, allowed %d to %zu: intervals decide here",
                       c->resamples, CYCLE_LEAST_RESAMPLES, most_resamples);
    if (!(c->undesirable >= 0) || !(c->desirable <= 1) || !(c->undesirable < c->desirable))
        return err_set(e, ERR_USAGE,
                       "--desirable and --undesirable: found %g and %g, allowed 0 to 1, the first "
                       "above the second",
                       c->desirable, c->undesirable);
    if (!(c->balance == 0) && !(c->balance >= 1 && c->balance <= 1e6))
        return err_set(e, ERR_USAGE, "--balance: found %g, allowed 0 (off) or from 1 on",
                       c->balance);
    if (c->revise && c->raw)
        return err_set(e, ERR_USAGE, "--revise needs a chat template: not with --raw");
    if (c->raw && (c->chat_template || c->system))
        return err_set(e, ERR_USAGE, "--raw takes no --chat-template and no --system");
    return 0;
}

/* A judge, as if the run had filled it in. */
static int check_judge(const CycleConfig *c, const JudgeConfig *j, const char *role, Err *e)
{
    JudgeConfig x = *j;
    if (!strcmp(x.kind, "self")) x.model = c->model;
    if (!strcmp(x.kind, "model") && !x.model)
        return err_set(e, ERR_USAGE, "--%s model: --%s-model DIR is missing", role, role);
    x.answers = ANSWERS_FILE;
    return judge_config_check(&x, e) ? err_prefix(e, "%s", role) : 0;
}

int cycle_config_check(const CycleConfig *c, Err *e)
{
    if (check_judge(c, &c->judge, "judge", e) || check_judge(c, &c->validator, "validator", e))
        return -1;
    if (check_loop(c, e) || generate_check(&c->sample, e)) return -1;
    if (generate_check(&c->validate, e)) return err_prefix(e, "validation");
    if (c->validate.samples != 1)
        return err_set(e, ERR_USAGE, "validation: one answer to each prompt, found %zu samples",
                       c->validate.samples);
    for (int m = 0; m < CYCLE_METHODS; m++) {
        if (!(c->methods & (1u << m))) continue;
        TrainConfig t = cycle_train_config(c, m);
        t.data = c->prompts; /* there will be some */
        t.run = c->run;
        if (t.full) return err_set(e, ERR_USAGE, "--full: the loop trains adapters only");
        if (train_config_check(&t, e)) return err_prefix(e, "%s", cycle_method_names[m]);
    }
    return 0;
}

/* ---- config.json --------------------------------------------------------------------------- */

static int put_text(Text *t, const char *key, const char *value, Err *e)
{
    if (text_addf(t, e, "  \"%s\": ", key)) return -1;
    if (value ? json_put_string(t, value, strlen(value), e) : text_addf(t, e, "null")) return -1;
    return text_add(t, ",\n", 2, e);
}

static int put_number(Text *t, const char *key, double value, Err *e)
{
    return text_addf(t, e, "  \"%s\": ", key) || json_put_f64(t, value, e) ||
                   text_add(t, ",\n", 2, e)
               ? -1
               : 0;
}

static int put_count(Text *t, const char *key, uint64_t value, Err *e)
{
    return text_addf(t, e, "  \"%s\": %llu,\n", key, (unsigned long long)value);
}

/* What decides texts. at_once is left out: it changes memory and time only. */
static int put_generate(Text *t, const char *key, const GenerateOptions *o, Err *e)
{
    if (text_addf(t, e, "  \"%s\": {\"max-tokens\": %zu, \"temperature\": ", key, o->max_tokens) ||
        json_put_f64(t, o->temperature, e) ||
        text_addf(t, e, ", \"top-k\": %zu, \"top-p\": ", o->top_k) ||
        json_put_f64(t, o->top_p, e) || text_addf(t, e, ", \"min-p\": ") ||
        json_put_f64(t, o->min_p, e))
        return -1;
    return text_addf(t, e, ", \"samples\": %zu},\n", o->samples);
}

/* As the loop asks it: with the precision, and the policy itself with the chat template, of all. */
static int put_judge(Text *t, const char *key, const CycleConfig *c, const JudgeConfig *judge,
                     Err *e)
{
    JudgeConfig j = *judge;
    j.precision = c->precision;
    if (!strcmp(j.kind, "self")) j.chat_template = c->chat_template;
    return text_addf(t, e, "  \"%s\": ", key) || judge_config_json(&j, t, e) ||
                   text_add(t, ",\n", 2, e)
               ? -1
               : 0;
}

TrainConfig cycle_train_config(const CycleConfig *c, int method)
{
    TrainConfig x = c->train[method];
    x.method = method == CYCLE_KTO ? TRAIN_KTO : TRAIN_DPO;
    x.model = c->model;
    x.model_flags = c->model_flags;
    x.data = x.run = x.init_adapter = NULL;
    x.rows.chat_template = c->chat_template;
    x.reference = c->reference_base ? REFERENCE_BASE : REFERENCE_INIT;
    x.seed = c->seed;
    x.kernel = c->kernel;
    x.precision = c->precision;
    return x;
}

int cycle_train_json(const CycleConfig *c, int method, Text *t, Err *e)
{
    TrainConfig x = cycle_train_config(c, method);
    x.model = NULL; /* stands in config.json once */
    if (text_addf(t, e, "  \"%s\": ", cycle_method_names[method]) || train_config_json(&x, t, e))
        return -1;
    t->len--; /* its line break */
    return text_add(t, ",\n", 2, e);
}

int cycle_config_json(const CycleConfig *c, Text *t, Err *e)
{
    if (text_addf(t, e, "{\n") || put_text(t, "model", c->model, e) ||
        put_text(t, "adapter", c->adapter, e) || put_text(t, "data", c->prompts, e) ||
        put_text(t, "chat-template", c->chat_template, e) || put_text(t, "system", c->system, e) ||
        put_count(t, "raw", c->raw ? 1 : 0, e) || put_count(t, "cycles", c->cycles, e) ||
        put_count(t, "seed", c->seed, e) || put_number(t, "validation", c->validation, e) ||
        put_number(t, "test", c->test, e) ||
        put_count(t, "prompts-per-cycle", c->prompts_per_cycle, e) ||
        put_generate(t, "sample", &c->sample, e) || put_generate(t, "validate", &c->validate, e) ||
        put_judge(t, "judge", c, &c->judge, e) || put_judge(t, "validator", c, &c->validator, e) ||
        put_count(t, "demonstrations", c->demonstrations ? 1 : 0, e) ||
        put_number(t, "desirable", c->desirable, e) ||
        put_number(t, "undesirable", c->undesirable, e) ||
        put_number(t, "balance", c->balance, e) || put_count(t, "revise", c->revise ? 1 : 0, e) ||
        put_text(t, "instruction", c->instruction, e) || put_text(t, "feedback", c->feedback, e))
        return -1;
    for (int m = 0; m < CYCLE_METHODS; m++)
        if ((c->methods & (1u << m)) && cycle_train_json(c, m, t, e)) return -1;
    return put_text(t, "reference", c->reference_base ? "base" : "parent", e) ||
                   put_number(t, "max-added-refusal", c->max_added_refusal, e) ||
                   put_number(t, "confidence", c->confidence, e) ||
                   put_text(t, "guard", c->guard, e) ||
                   put_number(t, "guard-margin", c->guard_margin, e) ||
                   put_count(t, "patience", c->patience, e) ||
                   put_count(t, "resamples", c->resamples, e) ||
                   text_addf(t, e, "  \"align\": \"cycle\"\n}\n")
               ? -1
               : 0;
}
