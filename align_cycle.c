/* align_cycle.c - align cycle: runs the whole loop and reports its progress. */
#include "align.h"
#include "cycle.h"
#include "report.h"

#include <math.h>
#include <string.h>

/* ---- options ------------------------------------------------------------------------------- */

/* What this call does: no part of a configuration. */
static const Option action_rows[] = {
    {"resume", 0, OPTION_FLAG, NULL, NULL, "continue where the run stopped",
     FIELD(CycleConfig, resume)},
    {"json", 0, OPTION_FLAG, NULL, NULL, "the result as one JSON object", BY_NAME},
    {"print-config", 0, OPTION_FLAG, NULL, NULL,
     "print the configuration, with comments, as a file for --config, and exit", BY_NAME},
    {"dry-run", 0, OPTION_FLAG, NULL, NULL,
     "run a short trial, print the plan and its cost in tokens, time and memory, and exit",
     BY_NAME},
    {"approve", 0, OPTION_TEXT, NULL, NULL,
     "sign with this name that RUN's last promoted policy is deployed, and exit", BY_NAME},
    {"rollback", 0, OPTION_COUNT, NULL, NULL,
     "sign (with --approve NAME) that the policy after this cycle is deployed again, and exit; "
     "0 = the first policy", BY_NAME},
    {"reason", 0, OPTION_TEXT, NULL, NULL, "reason of a signature (required)", BY_NAME,
     .when = "approve/rollback"},
    {"auto", 0, OPTION_FLAG, NULL, NULL,
     "sign as \"auto\" what the loop promoted; for experiments", BY_NAME},
    {"redact", 0, OPTION_FLAG, NULL, NULL,
     "leave prompts, answers and the system message out of RUN/report.html", BY_NAME},
};
static const OptionGroup action_group = OPTION_GROUP("This call", action_rows);

static const OptionGroup *const cycle_groups[] = {&cycle_loop_options,
                                                  &adapter_options,
                                                  &action_group,
                                                  &cycle_judging_options,
                                                  &cycle_judge_options,
                                                  &cycle_validator_options,
                                                  &cycle_answer_options,
                                                  &sampling_options,
                                                  &cycle_preference_options,
                                                  &cycle_candidate_options,
                                                  &dpo_options,
                                                  &train_pairing_options,
                                                  &lora_options,
                                                  &train_optimiser_options,
                                                  &seed_options,
                                                  &data_length_options,
                                                  &train_saving_options,
                                                  &engine_options,
                                                  &group_quiet,
                                                  NULL};
static const OptionTable cycle_table = {
    "cycle", "the loop: generate, judge, prefer, train, validate, select", "[RUN]",
    "align cycle -m MODEL --data prompts.jsonl -o RUN --cycles 3", cycle_groups,
    "model data output cycles methods judge validator guard max-added-refusal samples "
    "max-tokens epochs lr dry-run resume"};

/* Returns RUN, the operand or --output; NULL if neither is given. */
static int run_named(const Options *o, const char **run, Err *e)
{
    const char *output = option_text(o, "output");
    *run = o->operand ? o->operand : output;
    if (!o->operand || !output || !strcmp(o->operand, output)) return 0;
    return err_set(e, ERR_USAGE, "--output: found %.100s, and %.100s as RUN; allowed is one run",
                   output, o->operand);
}

static int config_from(const Options *o, CycleConfig *c, Err *e)
{
    *c = cycle_config_default();
    if (cycle_config_fill(c, o, e)) return -1;
    options_fill(o, &action_group, c);
    return run_named(o, &c->run, e);
}

/* ---- what the loop tells ------------------------------------------------------------------- */

/* Shows the events of a run: a bar for the stage in progress, a line for each decision. */
typedef struct {
    Progress progress;
    const char *stage, *name;
    size_t cycle;
    size_t max_tokens; /* of a sample */
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

enum { MANY_CUT = 5 }; /* one sample in so many cut: a warning */

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
    if (r->at_limit)
        log_note(notes(), r->at_limit > r->samples / MANY_CUT ? 'w' : 'i',
                 "cycle %zu: %zu of %zu samples were cut at --max-tokens %zu, and are taught "
                 "without an end%s",
                 cycle, r->at_limit, r->samples, s->max_tokens,
                 r->at_limit > r->samples / MANY_CUT ? "; with a higher one the policy is judged, "
                                                       "and taught, by whole answers"
                                                     : "");
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

/* Prints the ledger's head, and what it is good for. */
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

/* Returns the policy after a cycle in a word. */
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

/* Writes both figures, compared in pairs: on the test prompts if there are any, else on
 * validation. */
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

/* Writes RUN/report.html of the present state of the run. */
static int write_report(const Options *o, const char *run, Err *e)
{
    char path[IO_PATH_MAX];
    return io_path(path, sizeof path, run, REPORT_FILE, e) ||
                   report_write(run, path, option_flag(o, "redact"), e)
               ? -1
               : 0;
}

/* Checks, before somebody signs, that the page can be written. */
static int check_report(const char *run, Err *e)
{
    char path[IO_PATH_MAX];
    IoLock hold;
    if (io_path(path, sizeof path, run, REPORT_FILE, e) || io_hold(&hold, run, e)) return -1;
    int status = io_check_output(path, e);
    io_unlock(&hold);
    return status;
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

/* Runs --approve and --rollback; afterwards the page shows who signed. */
static int sign_command(const Options *o, Err *e)
{
    Text out = {0};
    const char *run;
    CycleSignature x = {.by = option_text(o, "approve"),
                        .reason = option_text(o, "reason"),
                        .rollback = option_given(o, "rollback"),
                        .log = notes()};
    if (options_only(o, "approve rollback reason json redact quiet output config", "approve", e) ||
        run_named(o, &run, e))
        return -1;
    if (!run) return err_set(e, ERR_USAGE, "--approve: RUN is missing: align cycle RUN --approve");
    if (x.rollback) x.cycle = (size_t)option_count(o, "rollback");
    int status = check_report(run, e) || cycle_sign(run, &x, e) ? -1 : 0;
    if (!status && write_report(o, run, e))
        status = err_prefix(e, "the signature stands, but its report does not");
    if (!status)
        status =
            option_flag(o, "json") ? put_signature_json(&out, &x, e) : put_signature(&out, &x, e);
    if (!status) return print_text(&out, e);
    text_free(&out);
    return -1;
}

/* Runs --auto: signs what the run promoted, once, and only if nobody has signed. A finished run
 * promotes nothing new, and what a person approved or took back must stay. */
static int sign_automatically(const char *run, CycleResult *r, Err *e)
{
    int promoted = 0;
    for (size_t i = 0; i < r->n_points; i++) promoted |= r->points[i].promoted >= 0;
    if (!promoted) {
        log_note(notes(), 'i', "--auto: no cycle promoted a candidate; nothing is signed");
        return 0;
    }
    CycleSignature x = {.by = CYCLE_AUTO, .reason = "--auto", .automatic = 1, .log = notes()};
    if (cycle_sign(run, &x, e)) return -1;
    if (!*x.head) return 0;
    memcpy(r->head, x.head, sizeof r->head);
    log_note(notes(), 'w', "--auto: the policy after cycle %zu is signed, and no person looked",
             x.cycle);
    return 0;
}

static int print_config(const Options *o, Err *e)
{
    /* Given, --epochs forbids --steps; given, --methods makes a run of a grid for each word. */
    static const char *const unset[] = {"epochs", "methods", NULL};
    Text out = {0};
    if (!options_commented(o, &action_group, unset, &out, e)) return print_text(&out, e);
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

/* The first row of each candidate's training in the trial. A row of dpo has two sides, one of kto
 * has one: that tells whose it is. */
typedef struct {
    int json;
    Text rows[CYCLE_METHODS];
} FirstRows;

static int show_row(void *ctx, const Tokenizer *t, const Row *row, size_t sides, Err *e)
{
    FirstRows *f = ctx;
    return put_row_tokens(t, row, sides, f->json, &f->rows[sides > 1 ? CYCLE_DPO : CYCLE_KTO], e);
}

/* runs: number of runs of a grid, else 1. */
static int put_plan_json(Text *out, const CyclePlan *p, const CycleConfig *c, const Text *rows,
                         size_t runs, Err *e)
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
            (text_addf(out, e,
                       ",\"%s\":{\"steps\":%zu,\"tokens\":%.0f,\"seconds\":%.1f,"
                       "\"memory\":%llu,\"weights\":%llu",
                       cycle_method_names[m], p->steps[m], p->train_tokens[m], p->train_seconds[m],
                       (unsigned long long)p->memory[m].total,
                       (unsigned long long)p->memory[m].weights) ||
             (*p->untrained[m] &&
              (text_addf(out, e, ",\"untrained\":") ||
               json_put_string(out, p->untrained[m], strlen(p->untrained[m]), e))) ||
             (rows[m].len && text_addf(out, e, ",\"first_row\":%s", rows[m].data)) ||
             text_add(out, "}", 1, e)))
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

static int put_plan_text(Text *out, const CyclePlan *p, const CycleConfig *c, const Text *rows,
                         size_t runs, Err *e)
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
        if (*p->untrained[m]) {
            if (text_addf(out, e, "%-8s not trained: %s\n", cycle_method_names[m], p->untrained[m]))
                return -1;
            continue;
        }
        time_text(p->train_seconds[m], time);
        if (text_addf(out, e,
                      "%-8s at most %zu steps a cycle, %.3g tokens in all: %s; memory %.0f MiB, "
                      "beside %.0f MiB of mapped weights\n",
                      cycle_method_names[m], p->steps[m], p->train_tokens[m], time,
                      (double)p->memory[m].total / mebi, (double)p->memory[m].weights / mebi))
            return -1;
        if (rows[m].len && text_addf(out, e, "%-8s trained in the trial, its first %s",
                                     cycle_method_names[m], rows[m].data))
            return -1;
    }
    return text_addf(out, e,
                     "times by a trial on the longest training prompts (answers of %.0f tokens); "
                     "nothing was written\n",
                     p->answer_tokens) ||
                   (runs > 1 &&
                    text_addf(out, e,
                              "that is one run of %zu in the grid, by its first judges and all "
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
    FirstRows first = {.json = option_flag(o, "json")};
    CycleEvents seen = *events;
    seen.train = (TrainEvents){.ctx = &first, .row = show_row};
    int status = cycle_plan(c, &seen, &plan, e);
    if (!status)
        status = first.json ? put_plan_json(&out, &plan, c, first.rows, runs, e)
                            : put_plan_text(&out, &plan, c, first.rows, runs, e);
    for (int m = 0; m < CYCLE_METHODS; m++) text_free(&first.rows[m]);
    if (!status) return print_text(&out, e);
    text_free(&out);
    return -1;
}

/* ---- grids --------------------------------------------------------------------------------- */

/* Fills an axis of the grid: the judges that an option lists, or else the configured one. */
static int axis_from(const Options *o, const char *name, const OptionGroup *rows,
                     const JudgeConfig *usual, JudgeConfig *axis, size_t *n, Err *e)
{
    char word[16];
    *n = 0;
    for (size_t i = 0; option_text(o, name) && option_word(o, name, i, word, sizeof word); i++) {
        for (size_t k = 0; k < *n; k++)
            if (!strcmp(axis[k].kind, word))
                return err_set(e, ERR_USAGE, "--%s: found %s twice", name, word);
        axis[*n] = *usual; /* words are distinct, so fewer than a side */
        cycle_judge_fill(&axis[(*n)++], o, rows, judge_kind(word)->name);
    }
    if (!*n) axis[(*n)++] = *usual;
    return 0;
}

static int is_grid(const Options *o)
{
    return option_text(o, "judges") || option_text(o, "validators");
}

/* Makes the requested grid. */
static int grid_from(const Options *o, const CycleConfig *c, CycleGrid *g, Err *e)
{
    char word[8];
    int cells = option_given(o, "methods"); /* kto,dpo means a run of each, both means one */
    *g = (CycleGrid){.base = c};
    for (size_t i = 0; cells && option_word(o, "methods", i, word, sizeof word); i++) {
        unsigned bits = cycle_methods_of(word);
        for (size_t k = 0; k < g->n_methods; k++)
            if (g->methods[k] == bits) bits = 0;
        if (bits) g->methods[g->n_methods++] = bits;
    }
    if (!cells) g->methods[g->n_methods++] = c->methods;
    if (option_flag(o, "auto"))
        return err_set(e, ERR_USAGE,
                       "--auto: found a grid (--judges, --validators), allowed is one run: sign "
                       "the one that is to be deployed");
    return axis_from(o, "judges", &cycle_judge_options, &c->judge, g->judges, &g->n_judges, e) ||
                   axis_from(o, "validators", &cycle_validator_options, &c->validator,
                             g->validators, &g->n_validators, e)
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
    CycleGrid g;
    int status = grid_from(o, c, &g, e);
    size_t runs = g.n_judges * g.n_validators * g.n_methods;
    CycleConfig first = *c; /* --judge may not be part of the grid: it is not checked */
    first.judge = g.judges[0];
    first.validator = g.validators[0];
    if (!status)
        status = !option_flag(o, "dry-run")
                     ? grid_command(o, &g, events, show, e)
                     : cycle_grid_check(&g, e) || plan_command(o, &first, events, runs, e);
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
    show.max_tokens = c.sample.max_tokens;
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
