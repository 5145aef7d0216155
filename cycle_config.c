/* cycle_config.c - holds the choices of a run of the loop: defaults, checks, and config.json. */
#include "cycle_parts.h"

#include <stdio.h>
#include <string.h>

/* ---- options ------------------------------------------------------------------------------- */

static const char *method_name(size_t i)
{
    return i < CYCLE_METHODS ? cycle_method_names[i] : NULL;
}

unsigned cycle_methods_of(const char *words)
{
    unsigned bits = 0;
    char word[8];
    for (size_t n; words; words = words[n] ? words + n + 1 : NULL) {
        n = strcspn(words, ",");
        snprintf(word, sizeof word, "%.*s", (int)n, words);
        int method = option_place(method_name, word);
        bits |= method < 0 ? (1u << CYCLE_METHODS) - 1 : 1u << method; /* both */
    }
    return bits;
}

static void read_methods(void *field, const char *text)
{
    *(unsigned *)field = cycle_methods_of(text);
}

/* Methods stand in config.json by their settings. */
static const OptionForm methods_form = {read_methods, NULL};

static const Option loop_rows[] = {
    {"model", 'm', OPTION_DIR, NULL, NULL,
     "model: a directory (config.json, tokenizer.json, safetensors) or a GGUF file",
     FIELD(CycleConfig, model)},
    {"data", 0, OPTION_FILE, NULL, NULL,
     "prompts, JSONL rows {\"prompt\",\"harmful_level\"}; optional: base_prompt, method, "
     "demonstration",
     FIELD(CycleConfig, prompts)},
    {"output", 'o', OPTION_DIR, NULL, NULL, "new run directory; may also be given as RUN", BY_NAME},
    {"cycles", 0, OPTION_COUNT, "1", "[1,1000]", "number of cycles",
     FIELD(CycleConfig, cycles)},
    {"methods", 0, OPTION_WORDS, "kto,dpo", "both",
     "methods of the candidates; of a grid: one run per word",
     FORM(CycleConfig, methods, methods_form), .words = method_name},
    {"judges", 0, OPTION_WORDS, NULL, NULL, "run a grid, one run per judge", BY_NAME,
     .words = judge_kind_name},
    {"validators", 0, OPTION_WORDS, NULL, NULL, "run a grid, one run per validator", BY_NAME,
     .words = judge_kind_name},
    {"validation", 0, OPTION_NUMBER, "0.2", "[0.01,0.9]",
     "share of the base prompts on which candidates are compared", FIELD(CycleConfig, validation)},
    {"test", 0, OPTION_NUMBER, "0.2", "[0,0.9]",
     "share of the base prompts that are not used before the end", FIELD(CycleConfig, test)},
    {"prompts-per-cycle", 0, OPTION_COUNT, "0", NULL,
     "number of training prompts per cycle; 0 = all",
     FIELD(CycleConfig, prompts_per_cycle)},
};
const OptionGroup cycle_loop_options = OPTION_GROUP("Loop", loop_rows);

static const Option judging_rows[] = {
    {"judge", 0, OPTION_CHOICE, "rules", NULL, "judge that labels the training samples",
     FIELD(CycleConfig, judge.kind), .words = judge_kind_name, .when = "!judges"},
    {"validator", 0, OPTION_CHOICE, "rules", NULL,
     "judge of the answers that are compared, and of those to the test prompts",
     FIELD(CycleConfig, validator.kind), .words = judge_kind_name, .when = "!validators"},
    {"reviewed", 0, OPTION_FILE, NULL, NULL,
     "people's answers, JSONL as saved by review pages; they override any judge",
     FIELD(CycleConfig, judge.reviewed)},
    {"max-added-refusal", 0, OPTION_NUMBER, "0.02", "[0,1]",
     "largest allowed upper bound of a candidate's added erroneous refusal",
     FIELD(CycleConfig, max_added_refusal)},
    {"confidence", 0, OPTION_NUMBER, "0.95", "[0.5,1)",
     "confidence level of the intervals and tests used for promotion; below 0.95 is for "
     "experiments",
     FIELD(CycleConfig, confidence)},
    {"resamples", 0, OPTION_COUNT, "2000", "[100,1000000]", "number of bootstrap resamples",
     FIELD(CycleConfig, resamples)},
    {"guard", 0, OPTION_FILE, NULL, NULL,
     "questions on which candidates must not do worse, JSONL "
     "{\"question\",\"choices\",\"answer\"}",
     FIELD(CycleConfig, guard)},
    {"guard-margin", 0, OPTION_NUMBER, "0.05", "[0,1]",
     "largest allowed fall of the lower bound of their mean score",
     FIELD(CycleConfig, guard_margin), .when = "guard"},
    {"patience", 0, OPTION_COUNT, "2", NULL,
     "stop after this number of cycles in a row without a promotion; 0 = never",
     FIELD(CycleConfig, patience)},
};
const OptionGroup cycle_judging_options = OPTION_GROUP("Judging", judging_rows);

/* clang-format off */
#define JUDGE_ROWS(judge, rules_name, does) \
    {rules_name, 0, OPTION_FILE, NULL, NULL, "phrase table, JSONL; default: the built-in one", \
     FIELD(JudgeConfig, rules), .when = judge "s/" judge "=rules"}, \
    {judge "-model", 0, OPTION_DIR, NULL, NULL, "model that " does, FIELD(JudgeConfig, model), \
     .when = judge "s/" judge "=model"}, \
    {judge "-adapter", 0, OPTION_DIR, NULL, NULL, "adapter of that model", \
     FIELD(JudgeConfig, adapter), .when = judge "s/" judge "=model"}, \
    JUDGE_MODEL_ROWS(judge "-mode", judge "-order", judge "-uncalibrated", judge "-length", 0, \
                     judge "s/" judge), \
    JUDGE_COMMAND_ROWS(judge "-command", judge "-timeout", judge "-retries", judge "s/" judge)
/* clang-format on */
static const Option labelling_rows[] = {JUDGE_ROWS("judge", "rules", "labels")};
const OptionGroup cycle_judge_options = OPTION_GROUP("Judge", labelling_rows);
static const Option validator_rows[] = {
    JUDGE_ROWS("validator", "validator-rules", "validates"),
    {"allow-external", 0, OPTION_FLAG, NULL, NULL,
     "permit a command as judge or validator; prompts may hold patient data",
     FIELD(JudgeConfig, allow_external)},
};
const OptionGroup cycle_validator_options = OPTION_GROUP("Validator", validator_rows);

static const Option answer_rows[] = {
    SAMPLES_ROW(CycleConfig, sample.samples, "4", "answers to each training prompt"),
    AT_ONCE_ROW(CycleConfig, sample.at_once),
    RAW_ROWS(CycleConfig),
    CHAT_TEMPLATE_ROW(FIELD(CycleConfig, chat_template)),
    DATE_ROW("the day on which the run began", FIELD(CycleConfig, date), .when = "!raw"),
};
const OptionGroup cycle_answer_options = OPTION_GROUP("Answers", answer_rows);

/* As Option.when: what only one of the candidates reads. */
#define OF_KTO "methods=kto|both"
#define OF_DPO "methods=dpo|both"

static const Option preference_rows[] = {
    {"desirable", 0, OPTION_NUMBER, "1", "[0,1]", "lowest score of a good sample",
     FIELD(CycleConfig, desirable)},
    {"undesirable", 0, OPTION_NUMBER, "0", "[0,1]",
     "highest score of a bad sample; samples in between are left out",
     FIELD(CycleConfig, undesirable)},
    {"balance", 0, OPTION_NUMBER, "1", "0|[1,1000000]",
     "KTO rows of the larger class per row of the smaller one, within harmless and within "
     "harmful prompts; 0 = off",
     FIELD(CycleConfig, balance), .when = OF_KTO},
    {"no-demonstrations", 0, OPTION_FLAG, NULL, NULL,
     "do not use the column \"demonstration\" where every sample fails", BY_NAME},
    {"revise", 0, OPTION_FLAG, NULL, NULL,
     "where every sample fails, ask again under a safety instruction", FIELD(CycleConfig, revise)},
    {"instruction", 0, OPTION_TEXT, NULL, NULL,
     "safety instruction, instead of the built-in one",
     FIELD(CycleConfig, instruction), .when = "revise"},
    {"feedback", 0, OPTION_FILE, NULL, NULL,
     "feedback from a deployment for KTO, JSONL {\"prompt\",\"completion\",\"label\"}",
     FIELD(CycleConfig, feedback), .when = OF_KTO},
};
const OptionGroup cycle_preference_options = OPTION_GROUP("Preferences", preference_rows);

static const char *reference_name(size_t i)
{
    static const char *const names[] = {"parent", "base"};
    return i < sizeof names / sizeof *names ? names[i] : NULL;
}

static const Option candidate_rows[] = {
    {"reference", 0, OPTION_CHOICE, "parent", NULL,
     "reference of the candidates: the policy they start from, or the base model",
     FIELD(CycleConfig, reference_base), .words = reference_name},
    {"beta", 0, OPTION_NUMBER, "0.1", "(0,inf)", "strength of the tie to the reference", BY_NAME},
    {"dpo-loss", 0, OPTION_WORDS, "sigmoid", NULL, "loss of the DPO candidate",
     FORM(CycleConfig, train[CYCLE_DPO].dpo, dpo_losses_form), .words = dpo_loss_name,
     .when = OF_DPO},
    {"kto-loss", 0, OPTION_CHOICE, "kto", NULL, "loss of the KTO candidate",
     FIELD(CycleConfig, train[CYCLE_KTO].kto.loss), .words = kto_loss_name,
     .when = OF_KTO},
    {"dpo-lr", 0, OPTION_NUMBER, NULL, "(0,1000]",
     "learning rate of the DPO candidate, instead of --lr",
     FIELD(CycleConfig, train[CYCLE_DPO].lr), .when = OF_DPO},
    {"kto-lr", 0, OPTION_NUMBER, NULL, "(0,1000]",
     "learning rate of the KTO candidate, instead of --lr",
     FIELD(CycleConfig, train[CYCLE_KTO].lr), .when = OF_KTO},
    {"dpo-beta", 0, OPTION_NUMBER, NULL, "(0,inf)",
     "beta of the DPO candidate, instead of --beta",
     FIELD(CycleConfig, train[CYCLE_DPO].dpo.beta), .when = OF_DPO},
    {"kto-beta", 0, OPTION_NUMBER, NULL, "(0,inf)",
     "beta of the KTO candidate, instead of --beta",
     FIELD(CycleConfig, train[CYCLE_KTO].kto.beta), .when = OF_KTO},
    KTO_WEIGHT_ROW("desirable-weight", "1", "weight of desirable KTO rows", CycleConfig,
                   train[CYCLE_KTO].kto.desirable_weight, train[CYCLE_KTO].kto.auto_desirable),
    KTO_WEIGHT_ROW("undesirable-weight", "auto",
                   "weight of undesirable KTO rows; auto balances the classes by KTO's rule",
                   CycleConfig,
                   train[CYCLE_KTO].kto.undesirable_weight,
                   train[CYCLE_KTO].kto.auto_undesirable),
};
const OptionGroup cycle_candidate_options = OPTION_GROUP("Candidates", candidate_rows);

/* Those of CycleConfig itself. */
static const OptionGroup *const own_groups[] = {&cycle_loop_options, &cycle_judging_options,
                                                &cycle_answer_options, &cycle_preference_options,
                                                &cycle_candidate_options};
enum { OWN_GROUPS = sizeof own_groups / sizeof *own_groups };

CycleConfig cycle_config_default(void)
{
    CycleConfig c = {.sample = generate_defaults(),
                     .validate = generate_defaults(),
                     .demonstrations = 1};
    EngineOptions engine = {0};
    options_defaults(&engine_options, &engine);
    c.kernel = engine.kernel;
    c.validate.temperature = 0;
    c.train[CYCLE_KTO] = train_config_default(TRAIN_KTO);
    c.train[CYCLE_DPO] = train_config_default(TRAIN_DPO);
    for (size_t i = 0; i < OWN_GROUPS; i++) options_defaults(own_groups[i], &c);
    return c;
}

void cycle_judge_fill(JudgeConfig *j, const Options *o, const OptionGroup *rows, const char *kind)
{
    int judges = rows == &cycle_judge_options;
    options_fill(o, rows, j);
    j->kind = kind;
    j->role = judges ? "judge" : "validator";
    j->length_option = judges ? "judge-length" : "validator-length";
    j->allow_external = option_flag(o, "allow-external");
    judge_config_narrow(j);
}

/* Refuses --lr or --beta on the command line where each candidate that is trained has its own. */
static int check_shared(const CycleConfig *c, const Options *o, const char *name, Err *e)
{
    char own[16];
    for (int m = 0; m < CYCLE_METHODS; m++) {
        if (!(c->methods & (1u << m))) continue;
        snprintf(own, sizeof own, "%s-%s", cycle_method_names[m], name);
        if (!option_says(o, own)) return 0;
    }
    if (option_says(o, name) < 2) return 0;
    return err_set(e, ERR_USAGE, "--%s: not read with --%s, as no other candidate is trained", name,
                   own);
}

int cycle_config_fill(CycleConfig *c, const Options *o, Err *e)
{
    EngineOptions engine = {0};
    for (int m = 0; m < CYCLE_METHODS; m++)
        if (train_config_fill(&c->train[m], o, e)) return -1;
    c->train[CYCLE_KTO].kto.beta = c->train[CYCLE_DPO].dpo.beta = option_number(o, "beta");
    /* Behind these, for a candidate's own learning rate or beta counts over what both share. */
    for (size_t i = 0; i < OWN_GROUPS; i++) options_fill(o, own_groups[i], c);
    options_fill(o, &adapter_options, &c->adapter);
    options_fill(o, &seed_options, &c->seed);
    options_fill(o, &sampling_options, &c->sample);
    options_fill(o, &engine_options, &engine);
    c->kernel = engine.kernel;
    c->precision = engine.precision;
    c->model_flags = model_flags(&engine);
    c->validate.at_once = c->sample.at_once;
    c->validate.max_tokens = c->sample.max_tokens; /* greedy, one answer each */
    c->demonstrations = !option_flag(o, "no-demonstrations");
    c->validator.reviewed = c->judge.reviewed;
    cycle_judge_fill(&c->judge, o, &cycle_judge_options, c->judge.kind);
    cycle_judge_fill(&c->validator, o, &cycle_validator_options, c->validator.kind);
    return check_shared(c, o, "lr", e) || check_shared(c, o, "beta", e) ||
                   dpo_losses_check(&c->train[CYCLE_DPO].dpo, "dpo-loss", e)
               ? -1
               : 0;
}

/* ---- checks -------------------------------------------------------------------------------- */

static int check_loop(const CycleConfig *c, Err *e)
{
    if (!c->run || !*c->run) return err_set(e, ERR_USAGE, "-o: a run directory is needed");
    if (!c->model || !*c->model) return err_set(e, ERR_USAGE, "-m: a model directory is needed");
    if (!c->prompts || !*c->prompts)
        return err_set(e, ERR_USAGE, "--data: a JSONL file of prompts is needed");
    if (!c->methods || c->methods >> CYCLE_METHODS)
        return err_set(e, ERR_USAGE, "--methods: at least one of kto and dpo is needed");
    for (size_t i = 0; i < OWN_GROUPS; i++)
        if (options_check(own_groups[i], c, e)) return -1;
    if (c->validation + c->test > 0.95)
        return err_set(e, ERR_USAGE,
                       "--validation and --test: %g together, at most 0.95 is allowed",
                       c->validation + c->test);
    if (!(c->undesirable < c->desirable))
        return err_set(e, ERR_USAGE,
                       "--desirable and --undesirable: found %g and %g, allowed 0 to 1, the first "
                       "above the second",
                       c->desirable, c->undesirable);
    if (c->revise && c->raw)
        return err_set(e, ERR_USAGE, "--revise needs a chat template: not with --raw");
    if (c->raw && (c->chat_template || c->system))
        return err_set(e, ERR_USAGE, "--raw takes no --chat-template and no --system");
    return 0;
}

/* Checks a judge as if the run had filled it in. */
static int check_judge(const CycleConfig *c, const JudgeConfig *j, const char *role, Err *e)
{
    JudgeConfig x = *j;
    if (judge_has(&x, JUDGE_IS_POLICY)) x.model = c->model;
    if (judge_has(&x, JUDGE_HAS_MODEL) && !x.model)
        return err_set(e, ERR_USAGE, "--%s model: --%s-model DIR is missing", role, role);
    x.answers = ANSWERS_FILE;
    return judge_config_check(&x, e) ? err_prefix(e, "%s", role) : 0;
}

/* --loss of a training run is the loop's --kto-loss or --dpo-loss: puts that name into a
 * message. */
static int name_loss(const char *method, Err *e)
{
    static const char theirs[] = "--loss", dashes[] = "--";
    Err renamed = {.code = e->code};
    size_t len = 0, end = sizeof theirs - 1;
    for (const char *at = e->text; *at && len < sizeof renamed.text - 1;) {
        /* --loss-weights is called so in the loop, too */
        int found = !strncmp(at, theirs, end) && at[end] != '-';
        int n = found ? snprintf(renamed.text + len, sizeof renamed.text - len, "--%s-", method)
                      : snprintf(renamed.text + len, sizeof renamed.text - len, "%c", *at);
        len += (size_t)n;
        at += found ? sizeof dashes - 1 : 1;
    }
    *e = renamed;
    return err_prefix(e, "%s", method);
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
        if (train_config_check(&t, e)) return name_loss(cycle_method_names[m], e);
    }
    return 0;
}

/* ---- config.json --------------------------------------------------------------------------- */

static const int how = WRITE_NULLS | WRITE_BITS;

/* Writes what decides texts; at_once is left out because it changes only memory and time. */
static int put_generate(Text *t, const char *key, const GenerateOptions *o, Err *e)
{
    return options_write_key(key, how, t, e) || text_add(t, "{", 1, e) ||
                   options_write(&sampling_options, o, NULL, WRITE_INLINE, t, e) ||
                   options_write_key("samples", WRITE_INLINE, t, e) ||
                   text_addf(t, e, "%zu}", o->samples)
               ? -1
               : 0;
}

/* Writes a judge as the loop uses it: with the run's precision and, for the policy itself, the
 * run's chat template. */
static int put_judge(Text *t, const char *key, const CycleConfig *c, const JudgeConfig *judge,
                     Err *e)
{
    JudgeConfig j = *judge;
    j.precision = c->precision;
    if (judge_has(&j, JUDGE_IS_POLICY)) j.chat_template = c->chat_template;
    return options_write_key(key, how, t, e) || judge_config_json(&j, t, e) ? -1 : 0;
}

TrainConfig cycle_train_config(const CycleConfig *c, int method)
{
    TrainConfig x = c->train[method];
    x.method = method == CYCLE_KTO ? TRAIN_KTO : TRAIN_DPO;
    x.model = c->model;
    x.model_flags = c->model_flags;
    x.data = x.run = x.init_adapter = NULL;
    x.rows.chat_template = c->chat_template;
    x.rows.date = cycle_day(c);
    x.rows.own_rows = 1;
    x.reference = c->reference_base ? REFERENCE_BASE : REFERENCE_INIT;
    x.seed = c->seed;
    x.kernel = c->kernel;
    x.precision = c->precision;
    return x;
}

static int put_train(Text *t, const CycleConfig *c, int method, Err *e)
{
    TrainConfig x = cycle_train_config(c, method);
    x.model = NULL; /* config.json has it once */
    if (train_config_json(&x, t, e)) return -1;
    t->len--; /* its line break */
    return 0;
}

int cycle_train_json(const CycleConfig *c, int method, Text *t, Err *e)
{
    return text_addf(t, e, "  \"%s\": ", cycle_method_names[method]) ||
                   put_train(t, c, method, e) || text_add(t, ",\n", 2, e)
               ? -1
               : 0;
}

int cycle_config_json(const CycleConfig *c, Text *t, Err *e)
{
    const OptionGroup *loop = &cycle_loop_options, *judging = &cycle_judging_options;
    const OptionGroup *answer = &cycle_answer_options, *prefer = &cycle_preference_options;
    if (text_add(t, "{", 1, e) || options_write(loop, c, "model", how, t, e) ||
        options_write(&adapter_options, &c->adapter, NULL, how, t, e) ||
        options_write(loop, c, "data", how, t, e) ||
        options_write(answer, c, "chat-template system raw", how, t, e) ||
        (c->date && options_write(answer, c, "date", how, t, e)) ||
        options_write(loop, c, "cycles", how, t, e) ||
        options_write(&seed_options, &c->seed, NULL, how, t, e) ||
        options_write(loop, c, "validation test prompts-per-cycle", how, t, e) ||
        put_generate(t, "sample", &c->sample, e) || put_generate(t, "validate", &c->validate, e) ||
        put_judge(t, "judge", c, &c->judge, e) || put_judge(t, "validator", c, &c->validator, e) ||
        options_write_key("demonstrations", how, t, e) ||
        text_addf(t, e, "%d", c->demonstrations ? 1 : 0) ||
        options_write(prefer, c, "desirable undesirable balance revise instruction feedback", how,
                      t, e))
        return -1;
    for (int m = 0; m < CYCLE_METHODS; m++)
        if ((c->methods & (1u << m)) &&
            (options_write_key(cycle_method_names[m], how, t, e) || put_train(t, c, m, e)))
            return -1;
    return options_write(&cycle_candidate_options, c, "reference", how, t, e) ||
                   options_write(judging, c,
                                 "max-added-refusal confidence guard guard-margin patience "
                                 "resamples",
                                 how, t, e) ||
                   options_write_key("align", how, t, e) || text_addf(t, e, "\"cycle\"\n}\n")
               ? -1
               : 0;
}
