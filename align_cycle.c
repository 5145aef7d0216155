/* align_cycle.c - align cycle: the whole loop, and what it tells while it goes. */
#include "align.h"
#include "cycle.h"
#include "report.h"

#include <math.h>
#include <string.h>

/* ---- options ------------------------------------------------------------------------------- */

#define JUDGE_WORDS "rules|self|model|command"
static const Option loop_rows[] = {
    {"model", 'm', OPTION_DIR, NULL, NULL,
     "model directory: config.json, tokenizer.json, safetensors"},
    {"data", 0, OPTION_FILE, NULL, NULL,
     "prompts, JSONL rows {\"prompt\",\"harmful_level\"}; base_prompt, method, demonstration if "
     "there"},
    {"output", 'o', OPTION_DIR, NULL, NULL, "run directory, made new; or give it as RUN"},
    {"cycles", 0, OPTION_COUNT, "1", "[1,1000]", "times through the loop"},
    {"methods", 0, OPTION_WORDS, "kto,dpo", "kto|dpo|both",
     "candidates of a cycle; of a grid: a run for each word"},
    {"judges", 0, OPTION_WORDS, NULL, JUDGE_WORDS,
     "a grid of runs, one with each of these as --judge: which was good enough?"},
    {"validators", 0, OPTION_WORDS, NULL, JUDGE_WORDS,
     "the same for --validator: how did it move the choice?"},
    {"validation", 0, OPTION_NUMBER, "0.2", "[0.01,0.9]",
     "share of the base prompts that candidates are compared on"},
    {"test", 0, OPTION_NUMBER, "0.2", "[0,0.9]",
     "share of the base prompts that nothing sees before the end"},
    {"prompts-per-cycle", 0, OPTION_COUNT, "0", NULL, "training prompts of a cycle; 0 = all"},
};
static const OptionGroup loop_group = OPTION_GROUP("Loop", loop_rows);

/* What this call does: no part of a configuration. */
static const Option action_rows[] = {
    {"resume", 0, OPTION_FLAG, NULL, NULL, "go on where the run stopped"},
    {"json", 0, OPTION_FLAG, NULL, NULL, "the result as one JSON object"},
    {"print-config", 0, OPTION_FLAG, NULL, NULL,
     "print the configuration, commented, as a file for --config, and end"},
    {"dry-run", 0, OPTION_FLAG, NULL, NULL,
     "print the plan and its cost in tokens, time and memory, by a short trial, and end"},
    {"approve", 0, OPTION_TEXT, NULL, NULL,
     "sign by this name that RUN's last promoted policy is deployed, and end"},
    {"rollback", 0, OPTION_COUNT, NULL, NULL,
     "sign (--approve NAME) that the policy after this cycle is deployed again, and end; 0 = the "
     "first policy"},
    {"reason", 0, OPTION_TEXT, NULL, NULL, "why: a signature needs one"},
    {"auto", 0, OPTION_FLAG, NULL, NULL,
     "sign as \"auto\" what the loop promoted: for experiments"},
    {"redact", 0, OPTION_FLAG, NULL, NULL,
     "RUN/report.html without prompts, answers and the system message"},
};
static const OptionGroup action_group = OPTION_GROUP("This call", action_rows);

static const Option judging_rows[] = {
    {"judge", 0, OPTION_CHOICE, "rules", JUDGE_WORDS, "who labels the training samples"},
    {"validator", 0, OPTION_CHOICE, "rules", JUDGE_WORDS,
     "who labels the answers that are compared, and those to the test prompts"},
    {"reviewed", 0, OPTION_FILE, NULL, NULL,
     "people's answers, JSONL as review pages save them: they count over any judge"},
    {"max-added-refusal", 0, OPTION_NUMBER, "0.02", "[0,1]",
     "most that the upper bound of a candidate's added erroneous refusal may be"},
    {"confidence", 0, OPTION_NUMBER, "0.95", "[0.5,1)",
     "of the paired intervals and tests that promote; below 0.95 is for experiments"},
    {"resamples", 0, OPTION_COUNT, "2000", "[100,1000000]", "of the bootstrap"},
    {"guard", 0, OPTION_FILE, NULL, NULL,
     "questions that candidates must not do worse on, JSONL {\"question\",\"choices\",\"answer\"}"},
    {"guard-margin", 0, OPTION_NUMBER, "0.05", "[0,1]",
     "most that the lower bound of their mean score may fall"},
    {"patience", 0, OPTION_COUNT, "2", NULL,
     "end after so many cycles in a row that promote nobody; 0 = never"},
};
static const OptionGroup judging_group = OPTION_GROUP("Judging", judging_rows);

/* Of --judge and of --validator. */
#define JUDGE_ROWS(judge, rules, does)                                                             \
    {rules, 0, OPTION_FILE, NULL, NULL, "phrase table, JSONL; default: the built-in one"},         \
        {judge "-model", 0, OPTION_DIR, NULL, NULL, "model that " does},                           \
        {judge "-adapter", 0, OPTION_DIR, NULL, NULL, "adapter of that model"},                    \
        MODEL_JUDGE_ROWS(judge "-mode", judge "-order", judge "-uncalibrated", judge "-length",    \
                         0),                                                                       \
        COMMAND_JUDGE_ROWS(judge "-command", judge "-timeout", judge "-retries")
/* clang-format off */
#define JUDGE_NAMES(judge, rules) \
    {rules, judge "-model", judge "-adapter", \
     judge "-mode", judge "-order", judge "-uncalibrated", judge "-length", \
     judge "-command", judge "-timeout", judge "-retries"}
/* clang-format on */
static const JudgeNames judge_names = JUDGE_NAMES("judge", "rules");
static const JudgeNames validator_names = JUDGE_NAMES("validator", "validator-rules");
static const Option judge_rows[] = {JUDGE_ROWS("judge", "rules", "labels")};
static const OptionGroup judge_group = OPTION_GROUP("Judge", judge_rows);
static const Option validator_rows[] = {
    JUDGE_ROWS("validator", "validator-rules", "validates"),
    {"allow-external", 0, OPTION_FLAG, NULL, NULL,
     "permits a command as judge or validator: prompts may hold patient data"},
};
static const OptionGroup validator_group = OPTION_GROUP("Validator", validator_rows);

static const Option answer_rows[] = {
    {"samples", 0, OPTION_COUNT, "4", "[1,1048576]", "answers to each training prompt"},
    {"at-once", 0, OPTION_COUNT, "32", "[1,4096]", "sequences that run together: changes no text"},
    {"raw", 0, OPTION_FLAG, NULL, NULL, "no chat template: continue the text after BOS"},
    {"system", 0, OPTION_TEXT, NULL, NULL, "system message, for chat templates"},
    {"chat-template", 0, OPTION_TEXT, NULL, NULL,
     "use a built-in template instead of the model's own"},
};
static const OptionGroup answer_group = OPTION_GROUP("Answers", answer_rows);

static const Option preference_rows[] = {
    {"desirable", 0, OPTION_NUMBER, "1", "[0,1]", "samples that score so much are good"},
    {"undesirable", 0, OPTION_NUMBER, "0", "[0,1]",
     "samples that score no more are bad; those in between are left out"},
    {"balance", 0, OPTION_NUMBER, "1", "[0,1000000]",
     "KTO rows of the larger class for one of the smaller, within harmless and harmful; 0 = off"},
    {"no-demonstrations", 0, OPTION_FLAG, NULL, NULL,
     "leave the column \"demonstration\" alone where every sample fails"},
    {"revise", 0, OPTION_FLAG, NULL, NULL,
     "where every sample fails, ask again under a safety instruction"},
    {"instruction", 0, OPTION_TEXT, NULL, NULL, "the instruction, instead of the built-in one"},
    {"feedback", 0, OPTION_FILE, NULL, NULL,
     "thumbs of a deployment for KTO, JSONL {\"prompt\",\"completion\",\"label\"}"},
};
static const OptionGroup preference_group = OPTION_GROUP("Preferences", preference_rows);

static const Option candidate_rows[] = {
    {"reference", 0, OPTION_CHOICE, "parent", "parent|base",
     "what candidates are held to: the policy they begin with, or the base model"},
    {"beta", 0, OPTION_NUMBER, "0.1", "(0,inf)", "strength of the tie to the reference"},
    {"dpo-loss", 0, OPTION_WORDS, "sigmoid", DPO_LOSS_WORDS, "of the DPO candidate"},
    {"kto-loss", 0, OPTION_CHOICE, "kto", KTO_LOSS_WORDS, "of the KTO candidate"},
    {"dpo-lr", 0, OPTION_NUMBER, NULL, "(0,1000]", "instead of --lr, for the DPO candidate"},
    {"kto-lr", 0, OPTION_NUMBER, NULL, "(0,1000]", "instead of --lr, for the KTO candidate"},
    {"dpo-beta", 0, OPTION_NUMBER, NULL, "(0,inf)", "instead of --beta, for the DPO candidate"},
    {"kto-beta", 0, OPTION_NUMBER, NULL, "(0,inf)", "instead of --beta, for the KTO candidate"},
    {"desirable-weight", 0, OPTION_NUMBER, "1", "[0,inf)|auto", "weight of KTO's good rows"},
    {"undesirable-weight", 0, OPTION_NUMBER, "auto", "[0,inf)|auto",
     "weight of KTO's bad rows; auto balances the classes by KTO's rule"},
};
static const OptionGroup candidate_group = OPTION_GROUP("Candidates", candidate_rows);

static const OptionGroup *const cycle_groups[] = {
    &loop_group,      &group_adapter,     &action_group,      &judging_group,    &judge_group,
    &validator_group, &answer_group,      &group_sampling,    &preference_group, &candidate_group,
    &group_dpo,       &group_kto_pairing, &group_new_adapter, &group_optimiser,  &group_seed,
    &group_length,    &group_saving,      &group_engine,      &group_quiet,      NULL};
static const OptionTable cycle_table = {
    "cycle", "the loop: generate, judge, prefer, train, validate, select", "[RUN]",
    "align cycle -m MODEL --data prompts.jsonl -o RUN --cycles 3", cycle_groups};

/* A candidate's own value where it was given, else the shared one. */
static double own_or_shared(const Options *o, const char *own, const char *shared)
{
    return option_text(o, own) ? option_number(o, own) : option_number(o, shared);
}

static int training_from(const Options *o, CycleConfig *c, Err *e)
{
    TrainConfig *kto = &c->train[CYCLE_KTO], *dpo = &c->train[CYCLE_DPO];
    if (train_config_begin(o, TRAIN_KTO, "kto-loss", kto, e) || train_config_steps(o, kto, e) ||
        train_config_begin(o, TRAIN_DPO, "dpo-loss", dpo, e) || train_config_steps(o, dpo, e))
        return -1;
    kto->kto.beta = own_or_shared(o, "kto-beta", "beta");
    dpo->dpo.beta = own_or_shared(o, "dpo-beta", "beta");
    if (option_text(o, "kto-lr")) kto->lr = option_number(o, "kto-lr");
    if (option_text(o, "dpo-lr")) dpo->lr = option_number(o, "dpo-lr");
    return 0;
}

/* RUN, the operand or --output: NULL where neither is given. */
static int run_named(const Options *o, const char **run, Err *e)
{
    const char *output = option_text(o, "output");
    *run = o->operand ? o->operand : output;
    if (!o->operand || !output || !strcmp(o->operand, output)) return 0;
    return err_set(e, ERR_USAGE, "--output: found %.100s, and %.100s as RUN; allowed is one run",
                   output, o->operand);
}

/* A word of --methods as bits. */
static unsigned methods_of(const char *word)
{
    for (unsigned m = 0; m < CYCLE_METHODS; m++)
        if (!strcmp(word, cycle_method_names[m])) return 1u << m;
    return (1u << CYCLE_METHODS) - 1; /* both */
}

/* What the groups of options say, one after another. */
static void loop_from(const Options *o, CycleConfig *c)
{
    char word[8];
    c->model = option_text(o, "model");
    c->prompts = option_text(o, "data");
    c->adapter = option_text(o, "adapter");
    c->cycles = (size_t)option_count(o, "cycles");
    c->methods = 0;
    for (size_t i = 0; option_word(o, "methods", i, word, sizeof word); i++)
        c->methods |= methods_of(word);
    c->seed = option_count(o, "seed");
    c->validation = option_number(o, "validation");
    c->test = option_number(o, "test");
    c->prompts_per_cycle = (size_t)option_count(o, "prompts-per-cycle");
}

static void judging_from(const Options *o, CycleConfig *c)
{
    c->judge = judge_from(o, option_text(o, "judge"), &judge_names);
    c->validator = judge_from(o, option_text(o, "validator"), &validator_names);
    c->max_added_refusal = option_number(o, "max-added-refusal");
    c->confidence = option_number(o, "confidence");
    c->resamples = (size_t)option_count(o, "resamples");
    c->guard = option_text(o, "guard");
    c->guard_margin = option_number(o, "guard-margin");
    c->patience = (size_t)option_count(o, "patience");
}

static void answers_from(const Options *o, CycleConfig *c)
{
    c->sample = sampling_from(o);
    c->sample.samples = (size_t)option_count(o, "samples");
    c->sample.at_once = c->validate.at_once = (size_t)option_count(o, "at-once");
    c->validate.max_tokens = c->sample.max_tokens; /* greedy, one answer each */
    c->raw = option_flag(o, "raw");
    c->system = option_text(o, "system");
    c->chat_template = option_text(o, "chat-template");
}

static void preferences_from(const Options *o, CycleConfig *c)
{
    c->desirable = option_number(o, "desirable");
    c->undesirable = option_number(o, "undesirable");
    c->balance = option_number(o, "balance");
    c->demonstrations = !option_flag(o, "no-demonstrations");
    c->revise = option_flag(o, "revise");
    c->instruction = option_text(o, "instruction");
    c->feedback = option_text(o, "feedback");
}

static int config_from(const Options *o, CycleConfig *c, Err *e)
{
    *c = cycle_config_default();
    if (run_named(o, &c->run, e)) return -1;
    loop_from(o, c);
    judging_from(o, c);
    answers_from(o, c);
    preferences_from(o, c);
    c->reference_base = option_is(o, "reference", "base");
    c->model_flags = model_flags(o);
    c->kernel = option_text(o, "kernel");
    c->precision = precision_of(o);
    c->resume = option_flag(o, "resume");
    return training_from(o, c, e);
}

/* ---- what the loop tells ------------------------------------------------------------------- */

/* What its events are shown with: a bar for the stage at work, a line for what is decided. */
typedef struct {
    Progress progress;
    const char *stage, *name;
    size_t cycle;
    TrainShow train;
} Show;

static void show_progress(void *ctx, const CycleProgress *p)
{
    Show *s = ctx;
    int same = s->stage && !strcmp(s->stage, p->stage) && !strcmp(s->name, p->name) &&
               s->cycle == p->cycle;
    if (!same) {
        progress_end(&s->progress);
        progress_end(&s->train.progress);
        log_note(notes(), 'i', "cycle %zu: %s%s%s%s", p->cycle, p->stage, *p->name ? ", " : "",
                 p->name, p->kept ? " (done before)" : "");
        progress_begin(&s->progress, p->stage, "rows");
        s->stage = p->stage;
        s->name = p->name;
        s->cycle = p->cycle;
        s->train.phase = NULL;
    }
    if (p->kept || !p->total) return;
    double left = p->done ? p->seconds / (double)p->done * (double)(p->total - p->done) : 0;
    double rate = p->seconds > 0 ? (double)p->done / p->seconds : 0;
    progress_draw(&s->progress, p->done, p->total, p->seconds, left, rate, NULL);
}

static void show_preferences(void *ctx, size_t cycle, const PreferenceReport *r)
{
    Show *s = ctx;
    progress_end(&s->progress);
    log_note(notes(), 'i',
             "cycle %zu: %zu samples of %zu prompts give %zu desirable and %zu undesirable rows "
             "(%zu left out, %zu for balance) and %zu pairs; where every sample failed: %zu "
             "demonstrations, %zu revisions, %zu prompts without any",
             cycle, r->samples, r->prompts, r->desirable, r->undesirable, r->left_out,
             r->balanced_out, r->pairs, r->demonstrations, r->revisions, r->unanswered);
}

static void show_selected(void *ctx, const Selection *s)
{
    Show *show = ctx;
    progress_end(&show->progress);
    for (int m = 0; m < CYCLE_METHODS; m++)
        if (s->candidates[m].status != CANDIDATE_OFF)
            log_note(notes(), 'i', "cycle %zu: %s: %s", s->cycle, cycle_method_names[m],
                     s->candidates[m].why);
    log_note(notes(), 'i', "cycle %zu: %s", s->cycle, s->why);
}

/* ---- the result ---------------------------------------------------------------------------- */

/* The ledger's head, and what it is worth. */
static int put_head(Text *out, const char *head, Err *e)
{
    return text_addf(out, e,
                     "ledger head %s\n"
                     "keep it elsewhere: who can write the run can also rewrite the whole chain\n",
                     head);
}

static int put_line(Text *out, const char *name, const Estimate *metrics, const char *what, Err *e)
{
    return text_addf(out, e, "%-10s", name) ||
                   put_interval(out, &metrics[EVALUATE_SAFETY_SCORE], 0, 22, e) ||
                   put_interval(out, &metrics[EVALUATE_ERRONEOUS_REFUSAL], 0, 22, e) ||
                   text_addf(out, e, "  %s\n", what)
               ? -1
               : 0;
}

/* The policy after a cycle, in a word. */
static const char *promoted_name(const CyclePoint *p)
{
    return p->cycle == 0     ? "first policy"
           : p->promoted < 0 ? "parent stays"
                             : cycle_method_names[p->promoted];
}

/* "+0.359 [+0.277, +0.449], +58.3 %, p 0.0005": last policy against first. */
static int put_change(Text *out, const char *name, const Change *x, Err *e)
{
    if (!isfinite(x->difference)) return 0;
    if (text_addf(out, e, "change     %-18s %+.3f [%+.3f, %+.3f]", name, x->difference, x->low,
                  x->high) ||
        (isfinite(x->relative) && text_addf(out, e, ", %+.1f %%", 100 * x->relative)) ||
        (isfinite(x->p) && text_addf(out, e, ", p %.2g", x->p)))
        return -1;
    return text_add(out, "\n", 1, e);
}

/* Both figures, in pairs: on the test prompts where there are some, else on validation. */
static int put_changes(Text *out, const CycleResult *r, Err *e)
{
    const Change *x = r->tested ? r->test_change : r->points[r->n_points - 1].since_first;
    return put_change(out, "safety score", &x[EVALUATE_SAFETY_SCORE], e) ||
                   put_change(out, "erroneous refusal", &x[EVALUATE_ERRONEOUS_REFUSAL], e)
               ? -1
               : 0;
}

static int put_table(Text *out, const CycleResult *r, Err *e)
{
    char name[32];
    if (text_addf(out, e, "%-10s  %-22s  %-22s  %s\n", "validation", "safety score",
                  "erroneous refusal", "policy"))
        return -1;
    for (size_t i = 0; i < r->n_points; i++) {
        const CyclePoint *p = &r->points[i];
        snprintf(name, sizeof name, "cycle %zu", p->cycle);
        if (put_line(out, name, p->metrics, promoted_name(p), e)) return -1;
    }
    if (r->stopped && text_addf(out, e, "ended after cycle %zu: no progress\n", r->stopped))
        return -1;
    if (r->tested && (put_line(out, "test", r->first, "first policy", e) ||
                      put_line(out, "test", r->last, "last policy", e)))
        return -1;
    if (put_changes(out, r, e)) return -1;
    if (r->test_judge_labelled &&
        text_addf(out, e,
                  "careful: who labelled the test answers also labelled training samples\n"))
        return -1;
    return put_head(out, r->head, e);
}

/* "name":{"safety_score":{"value","low","high"},"erroneous_refusal":{...}} */
static int put_metrics(Text *out, const char *name, const Estimate *metrics, Err *e)
{
    static const EvaluateMetric shown[] = {EVALUATE_SAFETY_SCORE, EVALUATE_ERRONEOUS_REFUSAL};
    if (text_addf(out, e, "\"%s\":{", name)) return -1;
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        if (text_addf(out, e, "%s\"%s\":", i ? "," : "", evaluate_names[shown[i]]) ||
            evaluate_estimate_json(&metrics[shown[i]], out, e))
            return -1;
    }
    return text_add(out, "}", 1, e);
}

static int put_json(Text *out, const CycleResult *r, Err *e)
{
    if (text_addf(out, e, "{\"cycles\":[")) return -1;
    for (size_t i = 0; i < r->n_points; i++) {
        const CyclePoint *p = &r->points[i];
        if (text_addf(out, e, "%s{\"cycle\":%zu,\"policy\":\"%s\",", i ? "," : "", p->cycle,
                      promoted_name(p)) ||
            put_metrics(out, "validation", p->metrics, e) || text_add(out, "}", 1, e))
            return -1;
    }
    if (text_addf(out, e, "],")) return -1;
    if (r->tested && (put_metrics(out, "test_first", r->first, e) || text_add(out, ",", 1, e) ||
                      put_metrics(out, "test_last", r->last, e) || text_add(out, ",", 1, e)))
        return -1;
    if (r->stopped && text_addf(out, e, "\"stopped_after\":%zu,", r->stopped)) return -1;
    return text_addf(out, e, "\"test_judge_labelled_training\":%s,\"ledger_head\":\"%s\"}\n",
                     r->test_judge_labelled ? "true" : "false", r->head);
}

/* ---- signatures ---------------------------------------------------------------------------- */

/* RUN/report.html, of what the run holds now. */
static int write_report(const Options *o, const char *run, Err *e)
{
    char path[IO_PATH_MAX];
    return io_path(path, sizeof path, run, REPORT_FILE, e) ||
                   report_write(run, path, option_flag(o, "redact"), e)
               ? -1
               : 0;
}

static int put_signature(Text *out, const CycleSignature *x, Err *e)
{
    if (text_addf(out, e, "%s: the policy after cycle %zu is deployed, signed by %s, entry %zu\n",
                  x->rollback ? "rollback" : "approved", x->cycle, x->by, x->entry) ||
        (*x->adapter_sha256 && text_addf(out, e, "adapter sha256 %s\n", x->adapter_sha256)))
        return -1;
    return put_head(out, x->head, e);
}

static int put_signature_json(Text *out, const CycleSignature *x, Err *e)
{
    return text_addf(out, e, "{\"event\":\"%s\",\"cycle\":%zu,\"by\":",
                     x->rollback ? "rollback" : "approve", x->cycle) ||
                   json_put_string(out, x->by, strlen(x->by), e) ||
                   text_addf(out, e, ",\"reason\":") ||
                   json_put_string(out, x->reason, strlen(x->reason), e) ||
                   text_addf(out, e, ",\"adapter_sha256\":") ||
                   json_put_string(out, x->adapter_sha256, strlen(x->adapter_sha256), e) ||
                   text_addf(out, e, ",\"entry\":%zu,\"ledger_head\":\"%s\"}\n", x->entry, x->head)
               ? -1
               : 0;
}

/* --approve, --rollback: the page then shows who signed. */
static int sign_command(const Options *o, Err *e)
{
    Text out = {0};
    const char *run;
    CycleSignature x = {.by = option_text(o, "approve"),
                        .reason = option_text(o, "reason"),
                        .rollback = option_given(o, "rollback")};
    if (run_named(o, &run, e)) return -1;
    if (!run) return err_set(e, ERR_USAGE, "--approve: RUN is missing: align cycle RUN --approve");
    if (x.rollback) x.cycle = (size_t)option_count(o, "rollback");
    int status = cycle_sign(run, &x, e);
    if (!status && write_report(o, run, e))
        status = err_prefix(e, "the signature stands, but its report does not");
    if (!status)
        status =
            option_flag(o, "json") ? put_signature_json(&out, &x, e) : put_signature(&out, &x, e);
    if (!status) return print_text(&out, e);
    text_free(&out);
    return -1;
}

/* --auto: signs what the run promoted, once, and only where nobody has signed: a finished run
 * promotes nothing new, and what a person approved or took back stays so. */
static int sign_automatically(const char *run, CycleResult *r, Err *e)
{
    int promoted = 0;
    for (size_t i = 0; i < r->n_points; i++) promoted |= r->points[i].promoted >= 0;
    if (!promoted) {
        log_note(notes(), 'i', "--auto: no cycle promoted a candidate; nothing is signed");
        return 0;
    }
    CycleSignature x = {.by = CYCLE_AUTO, .reason = "--auto", .automatic = 1};
    if (cycle_sign(run, &x, e)) return -1;
    if (!*x.head) return 0;
    memcpy(r->head, x.head, sizeof r->head);
    log_note(notes(), 'w', "--auto: the policy after cycle %zu is signed, and no person looked",
             x.cycle);
    return 0;
}

static int print_config(const Options *o, Err *e)
{
    Text out = {0};
    if (!options_commented(o, &action_group, &out, e)) return print_text(&out, e);
    text_free(&out);
    return -1;
}

/* ---- the plan ------------------------------------------------------------------------------ */

/* "judge":{"count","seconds"}, */
static int put_work_json(Text *out, const char *name, const PlannedWork *w, Err *e)
{
    return text_addf(out, e, "\"%s\":{\"count\":%zu,\"seconds\":", name, w->count) ||
                   json_put_f64(out, w->seconds, e) || text_add(out, "},", 2, e)
               ? -1
               : 0;
}

/* runs: of a grid, else 1. */
static int put_plan_json(Text *out, const CyclePlan *p, const CycleConfig *c, size_t runs, Err *e)
{
    static const char *const splits[] = {"train", "validation", "test"};
    if (text_addf(out, e, "{\"runs\":%zu,\"base_prompts\":%zu,", runs, p->groups) ||
        put_work_json(out, "judge", &p->judge, e) ||
        put_work_json(out, "validator", &p->validator, e) ||
        put_work_json(out, "guard", &p->guard, e) || text_addf(out, e, "\"splits\":{"))
        return -1;
    for (int s = 0; s < 3; s++)
        if (text_addf(out, e, "%s\"%s\":{\"levels\":[%zu,%zu,%zu,%zu],\"tokens\":%zu}",
                      s ? "," : "", splits[s], p->rows[s][0], p->rows[s][1], p->rows[s][2],
                      p->rows[s][3], p->prompt_tokens[s]))
            return -1;
    if (text_addf(out, e,
                  "},\"cycles\":%zu,\"prompts_per_cycle\":%zu,\"answers\":%zu,"
                  "\"revisions\":%zu,\"tokens_read\":%.0f,\"tokens_written\":%.0f,"
                  "\"generate_seconds\":%.1f",
                  c->cycles, p->per_cycle, p->answers, p->revisions, p->read_tokens,
                  p->written_tokens, p->generate_seconds))
        return -1;
    for (int m = 0; m < CYCLE_METHODS; m++)
        if ((c->methods >> m & 1) &&
            text_addf(out, e,
                      ",\"%s\":{\"steps\":%zu,\"tokens\":%.0f,\"seconds\":%.1f,"
                      "\"memory\":%llu,\"weights\":%llu}",
                      cycle_method_names[m], p->steps[m], p->train_tokens[m], p->train_seconds[m],
                      (unsigned long long)p->memory[m].total,
                      (unsigned long long)p->memory[m].weights))
            return -1;
    return text_addf(out, e, "}\n");
}

/* "1 h 5 min", "40 s" */
static void time_text(double seconds, char out[32])
{
    double minutes = floor(seconds / 60);
    if (seconds < 100)
        snprintf(out, 32, "%.1f s", seconds);
    else if (minutes < 100)
        snprintf(out, 32, "%.0f min", minutes);
    else
        snprintf(out, 32, "%.0f h %.0f min", floor(minutes / 60), fmod(minutes, 60));
}

/* "judge    80 answers by self: 3.1 s" */
static int put_work(Text *out, const char *name, const PlannedWork *w, const char *what,
                    const char *by, Err *e)
{
    char time[32];
    if (!w->count) return 0;
    if (isfinite(w->seconds)) time_text(w->seconds, time);
    return text_addf(out, e, "%-9s%zu %s%s: %s\n", name, w->count, what, by,
                     isfinite(w->seconds) ? time : "not timed, for a trial asks no command");
}

static int put_plan_text(Text *out, const CyclePlan *p, const CycleConfig *c, size_t runs, Err *e)
{
    static const char *const splits[] = {"train", "validation", "test"};
    const double mebi = 1024 * 1024;
    char time[32];
    if (text_addf(out, e, "%zu base prompts      level 0   level 1   level 2   level 3    tokens\n",
                  p->groups))
        return -1;
    for (int s = 0; s < 3; s++)
        if (text_addf(out, e, "  %-18s%9zu %9zu %9zu %9zu %9zu\n", splits[s], p->rows[s][0],
                      p->rows[s][1], p->rows[s][2], p->rows[s][3], p->prompt_tokens[s]))
            return -1;
    time_text(p->generate_seconds, time);
    if (text_addf(out, e,
                  "%zu cycles (less where no progress ends them), %zu training prompts each: "
                  "generate, judge, prefer, train, validate, select; then the test\n"
                  "answers  %zu, %.3g tokens read, at most %.3g written: %s\n",
                  c->cycles, p->per_cycle, p->answers, p->read_tokens, p->written_tokens, time) ||
        (p->revisions &&
         text_addf(out, e, "         of these at most %zu revisions\n", p->revisions)) ||
        put_work(out, "judge", &p->judge, "answers by ", c->judge.kind, e) ||
        put_work(out, "validate", &p->validator, "answers by ", c->validator.kind, e) ||
        put_work(out, "guard", &p->guard, "questions, all policies together", "", e))
        return -1;
    for (int m = 0; m < CYCLE_METHODS; m++) {
        if (!(c->methods >> m & 1)) continue;
        time_text(p->train_seconds[m], time);
        if (text_addf(out, e,
                      "%-8s at most %zu steps a cycle, %.3g tokens in all: %s; memory %.0f MiB, "
                      "beside %.0f MiB of mapped weights\n",
                      cycle_method_names[m], p->steps[m], p->train_tokens[m], time,
                      (double)p->memory[m].total / mebi, (double)p->memory[m].weights / mebi))
            return -1;
    }
    return text_addf(out, e,
                     "times by a trial on the longest training prompts (answers of %.0f tokens); "
                     "nothing was written\n",
                     p->answer_tokens) ||
                   (runs > 1 &&
                    text_addf(out, e,
                              "that is one run of %zu in the grid, by --judge, --validator and all "
                              "--methods; what is equal in several is computed once\n",
                              runs))
               ? -1
               : 0;
}

static int plan_command(const Options *o, const CycleConfig *c, const CycleEvents *events,
                        size_t runs, Err *e)
{
    CyclePlan plan;
    Text out = {0};
    int status = cycle_plan(c, events, &plan, e);
    if (!status)
        status = option_flag(o, "json") ? put_plan_json(&out, &plan, c, runs, e)
                                        : put_plan_text(&out, &plan, c, runs, e);
    if (!status) return print_text(&out, e);
    text_free(&out);
    return -1;
}

/* ---- grids --------------------------------------------------------------------------------- */

/* An axis of the grid: the judges that an option lists (words live in *pool), or the one that is
 * configured anyway. */
static int axis_from(const Options *o, const char *name, const JudgeNames *names,
                     const JudgeConfig *usual, JudgeConfig *axis, size_t *n, Pool *pool, Err *e)
{
    char word[16];
    *n = 0;
    for (size_t i = 0; option_text(o, name) && option_word(o, name, i, word, sizeof word); i++) {
        for (size_t k = 0; k < *n; k++)
            if (!strcmp(axis[k].kind, word))
                return err_set(e, ERR_USAGE, "--%s: found %s twice", name, word);
        const char *kind = pool_strndup(pool, word, strlen(word), e);
        if (!kind) return -1;
        axis[(*n)++] = judge_from(o, kind, names); /* distinct words: fewer than a side */
    }
    if (!*n) axis[(*n)++] = *usual;
    return 0;
}

static int is_grid(const Options *o)
{
    return option_text(o, "judges") || option_text(o, "validators");
}

/* The grid that is asked for; texts live in *pool. */
static int grid_from(const Options *o, const CycleConfig *c, CycleGrid *g, Pool *pool, Err *e)
{
    char word[8];
    int cells = option_given(o, "methods"); /* kto,dpo asks for a run of each, both for one */
    *g = (CycleGrid){.base = c};
    for (size_t i = 0; cells && option_word(o, "methods", i, word, sizeof word); i++) {
        unsigned bits = methods_of(word);
        for (size_t k = 0; k < g->n_methods; k++)
            if (g->methods[k] == bits) bits = 0;
        if (bits) g->methods[g->n_methods++] = bits;
    }
    if (!cells) g->methods[g->n_methods++] = c->methods;
    if (option_flag(o, "auto"))
        return err_set(e, ERR_USAGE,
                       "--auto: found a grid (--judges, --validators), allowed is one run: sign "
                       "the one that is to be deployed");
    return axis_from(o, "judges", &judge_names, &c->judge, g->judges, &g->n_judges, pool, e) ||
                   axis_from(o, "validators", &validator_names, &c->validator, g->validators,
                             &g->n_validators, pool, e)
               ? -1
               : 0;
}

static int grid_command(const Options *o, const CycleGrid *g, const CycleEvents *events, Show *show,
                        Err *e)
{
    Text json = {0}, table = {0};
    int status = cycle_grid(g, events, &json, &table, e);
    progress_end(&show->progress);
    progress_end(&show->train.progress);
    if (!status) status = print_text(option_flag(o, "json") ? &json : &table, e);
    text_free(&json);
    text_free(&table);
    return status;
}

/* ---- the command --------------------------------------------------------------------------- */

/* Plans or runs a grid. */
static int grid_or_its_plan(const Options *o, const CycleConfig *c, const CycleEvents *events,
                            Show *show, Err *e)
{
    Pool pool = {0};
    CycleGrid g;
    int status = grid_from(o, c, &g, &pool, e);
    size_t runs = g.n_judges * g.n_validators * g.n_methods;
    if (!status)
        status = option_flag(o, "dry-run") ? plan_command(o, c, events, runs, e)
                                           : grid_command(o, &g, events, show, e);
    pool_free(&pool);
    return status;
}

static int cycle_command(const Options *o, Err *e)
{
    CycleConfig c;
    CycleResult result = {0};
    Show show = {.stage = NULL};
    Text out = {0};
    if (option_flag(o, "print-config")) return print_config(o, e);
    if (option_given(o, "approve") || option_given(o, "rollback")) return sign_command(o, e);
    if (config_from(o, &c, e)) return -1;
    threads_from(o);
    if (note_options(o, e)) return -1;
    CycleEvents events = {.ctx = &show,
                          .log = *notes(),
                          .progress = show_progress,
                          .preferences = show_preferences,
                          .selected = show_selected,
                          .train = {.ctx = &show.train, .log = *notes(), .progress = train_show}};
    if (is_grid(o)) return grid_or_its_plan(o, &c, &events, &show, e);
    if (option_flag(o, "dry-run")) return plan_command(o, &c, &events, 1, e);
    int status = cycle_run(&c, &events, &result, e);
    progress_end(&show.progress);
    progress_end(&show.train.progress);
    if (!status && option_flag(o, "auto")) status = sign_automatically(c.run, &result, e);
    if (!status) status = write_report(o, c.run, e);
    if (!status)
        status = option_flag(o, "json") ? put_json(&out, &result, e) : put_table(&out, &result, e);
    if (!status) status = print_text(&out, e);
    text_free(&out);
    cycle_result_free(&result);
    return status;
}

const Command command_cycle = {&cycle_table, cycle_command};
