/* align_judge.c - align judge: labels answers, and compares the labels with people's. */
#include "align.h"
#include "evaluate_gold.h"
#include "evaluate_review.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- options ------------------------------------------------------------------------------- */

static const Option judge_rows[] = {
    {"data", 0, OPTION_FILE, NULL, NULL, "JSONL rows {\"prompt\",\"response\"}", BY_NAME},
    {"output", 'o', OPTION_FILE, NULL, NULL,
     "the same rows with \"action\", \"probability\", \"judge\" and \"evidence\"", BY_NAME},
    {"judge", 0, OPTION_CHOICE, "rules", NULL,
     "judge: a table of phrases, the policy itself, another model, or any program",
     FIELD(JudgeConfig, kind), .words = judge_kind_name, .when = "!review"},
    {"rules", 0, OPTION_FILE, NULL, NULL, "phrase table, JSONL; default: the built-in one",
     FIELD(JudgeConfig, rules), .when = "judge=rules !review"},
    {"print-rules", 0, OPTION_FLAG, NULL, NULL,
     "print the built-in phrase table and exit", BY_NAME},
    {"print-prompt", 0, OPTION_FLAG, NULL, NULL,
     "print the judge prompt for a model, with {prompt} and {response} in it, and exit",
     BY_NAME},
    {"gold", 0, OPTION_TEXT, NULL, NULL,
     "column with a human label; reports agreement, calibration and bias beside baselines",
     BY_NAME, .when = "!review"},
    {"resamples", 0, OPTION_COUNT, "2000", "[0,1000000]",
     "number of bootstrap resamples (0 = no intervals)", BY_NAME, .when = "~gold"},
    {"json", 0, OPTION_FLAG, NULL, NULL, "the report as one JSON object", BY_NAME},
};
static const OptionGroup judge_group = OPTION_GROUP("Judge", judge_rows);

static const Option people_rows[] = {
    {"review", 0, OPTION_COUNT, "0", "[0,100000]",
     "instead of judging, write a page (-o page.html) on which a person judges this number of "
     "judged rows",
     BY_NAME},
    {"review-seed", 0, OPTION_COUNT, "0", NULL, "seed of the random half of the page", BY_NAME,
     .when = "review"},
    {"reviewed", 0, OPTION_FILE, NULL, NULL,
     "people's answers, JSONL as saved by such pages; they override the judge's",
     FIELD(JudgeConfig, reviewed), .when = "!review"},
};
static const OptionGroup people_group = OPTION_GROUP("People", people_rows);

static const OptionGroup *const judge_groups[] = {
    &judge_group,         &judge_model_options, &adapter_options,
    &judge_command_options, &people_group,      &engine_options,
    &seed_options,          &group_quiet,       NULL};
static const OptionTable judge_table = {"judge", "labels answers accept, caution or refuse", NULL,
                                        "align judge --data responses.jsonl -o judged.jsonl",
                                        judge_groups,
                                        "data output judge rules model adapter judge-command "
                                        "allow-external gold print-rules print-prompt answers "
                                        "review reviewed json"};

/* "accept 12  caution 3  refuse 5" */
static int put_actions(Text *out, const size_t counts[ACTION_COUNT], Err *e)
{
    for (int a = 0; a < ACTION_COUNT; a++) {
        if (text_addf(out, e, "%s%s %zu", a ? "  " : "", action_names[a], counts[a])) return -1;
    }
    return text_add(out, "\n", 1, e);
}

static int put_confusion(Text *out, const Agreement *a, Err *e)
{
    if (text_addf(out, e, "\n%-18s", "human, by judge")) return -1;
    for (int j = 0; j < ACTION_COUNT; j++)
        if (text_addf(out, e, "%10s", action_names[j])) return -1;
    for (int g = 0; g < ACTION_COUNT; g++) {
        if (text_addf(out, e, "\n%-18s", action_names[g])) return -1;
        for (int j = 0; j < ACTION_COUNT; j++)
            if (text_addf(out, e, "%10zu", a->count[g][j])) return -1;
    }
    return text_add(out, "\n", 1, e);
}

/* Writes the figures, one a line: of the judge, and of the baselines beside it. */
static int put_gold(Text *out, const Gold *g, Err *e)
{
    if (text_addf(out, e,
                  "against human labels: %zu rows of %zu prompts, %zu without a label; 95 %% "
                  "intervals\n\n%-18s",
                  g->count, g->groups, g->unlabelled, ""))
        return -1;
    for (size_t k = 0; k < g->raters; k++) {
        char name[32];
        snprintf(name, sizeof name, k == GOLD_MAJORITY ? "always %s" : "%s",
                 k == GOLD_MAJORITY ? action_names[g->majority] : gold_rater_names[k]);
        if (text_addf(out, e, "   %-22s", name)) return -1;
    }
    for (size_t m = 0; m < GOLD_COUNT; m++) {
        char label[LABEL_MAX];
        label_of(gold_metric_names[m], label);
        if (text_addf(out, e, "\n%-18s", label)) return -1;
        for (size_t k = 0; k < g->raters; k++)
            if (put_interval(out, &g->metrics[k][m], 6, 23, e)) return -1;
    }
    return text_add(out, "\n", 1, e) || put_confusion(out, &g->tally[GOLD_JUDGE].agreement, e) ? -1
                                                                                               : 0;
}

static int put_judged(Text *out, const JudgeReport *r, Err *e)
{
    if (text_addf(out, e, "%zu rows judged by %s (sha256 %.16s...)\n", r->rows, r->judge,
                  r->sha256) ||
        put_actions(out, r->actions, e))
        return -1;
    if (r->empty && text_addf(out, e, "%zu answers without a word count as refuse\n", r->empty))
        return -1;
    if (r->orders > 1 && text_addf(out, e, "label orders disagree on %zu rows (%.1f %%)\n",
                                   r->disagreed, 100 * (double)r->disagreed / (double)r->rows))
        return -1;
    if (r->unparsed &&
        text_addf(out, e, "%zu rows gave no label and count as caution\n", r->unparsed))
        return -1;
    if (r->cut &&
        text_addf(out, e, "%zu rows were too long and judged by their beginning\n", r->cut))
        return -1;
    return 0;
}

/* ---- the command --------------------------------------------------------------------------- */

static int is_device(const char *path)
{
    static const char devices[] = "/dev/";
    return !strncmp(path, devices, strlen(devices));
}

/* Checks that the output can take the rows. */
static int check_output(const Options *o, Err *e)
{
    const char *output = option_text(o, "output");
    if (!strcmp(output, "-"))
        return err_set(e, ERR_USAGE,
                       "--output: found -, allowed is a file: what is said of the rows goes to "
                       "standard output");
    if (option_text(o, "reviewed") && is_device(output))
        return err_set(e, ERR_USAGE,
                       "--output: found %.100s, allowed with --reviewed is a file: its rows are "
                       "read again",
                       output);
    return 0;
}

/* Returns the file of answers: the given one, or OUTPUT.answers, written to `path`. Beside a device
 * there is none, so a model's verdicts are not kept. */
static int answers_from(const Options *o, const char **answers, char path[IO_PATH_MAX], Err *e)
{
    const char *output = option_text(o, "output");
    *answers = option_text(o, "answers");
    if (!*answers && is_device(output)) return 0;
    int n = *answers ? snprintf(path, IO_PATH_MAX, "%s", *answers)
                     : snprintf(path, IO_PATH_MAX, "%s.answers", output);
    if (n < 0 || n >= IO_PATH_MAX) return err_set(e, ERR_USAGE, "--output: the path is too long");
    char *resolved = *answers ? realpath(path, NULL) : NULL; /* the user named a link */
    if (resolved && strlen(resolved) < IO_PATH_MAX) memcpy(path, resolved, strlen(resolved) + 1);
    free(resolved);
    *answers = path;
    return 0;
}

static int config_from(const Options *o, JudgeConfig *c, char path[IO_PATH_MAX], Err *e)
{
    EngineOptions engine = engine_options_from(o);
    *c = (JudgeConfig){.length_option = "max-length",
                       .kernel = engine.kernel,
                       .precision = engine.precision,
                       .model_flags = model_flags(&engine),
                       .log = notes()};
    options_fill(o, &judge_group, c);
    options_fill(o, &judge_model_options, c);
    options_fill(o, &judge_command_options, c);
    options_fill(o, &people_group, c);
    options_fill(o, &adapter_options, &c->adapter);
    return answers_from(o, &c->answers, path, e);
}

static void show_judged(void *ctx, size_t done, size_t total)
{
    progress_show(ctx, done, total, done, NULL);
}

/* Judges the file; gold (or NULL) is filled. */
static int judge_rows_of(const Options *o, JudgeConfig *config, Gold *gold, JudgeReport *r, Err *e)
{
    Judge judge = {0};
    Progress progress;
    JudgeWatch watch = gold ? gold_watch(gold) : (JudgeWatch){0};
    UnreadNames unread = {.n = 0};
    IoLock lock = {0};
    int keeps = config->answers && !option_is(o, "judge", "rules");
    if (keeps && io_lock_file(&lock, config->answers, e)) return -1;
    progress_begin(&progress, "judge", "rows");
    config->progress = (JudgeProgress){&progress, show_judged};
    watch.unread = &unread;
    int status = judge_open(&judge, config, e) ||
                 judge_file(&judge, option_text(o, "data"), option_text(o, "output"),
                            &watch, r, e) ||
                 (gold && gold_finish(gold, option_count(o, "seed"),
                                      (size_t)option_count(o, "resamples"), e));
    progress_end(&progress);
    if (!status) unread_tell(&unread, option_text(o, "data"), ", only taken along", notes());
    unread_free(&unread);
    judge_close(&judge);
    io_unlock(&lock);
    return status ? -1 : 0;
}

/* Writes how often people disagreed, and the figures corrected by it. */
static int put_review(Text *out, const ReviewCorrection *r, Err *e)
{
    if (text_addf(out, e, "\npeople judged %zu rows and disagreed on %zu; at random %zu, on %zu\n",
                  r->reviewed, r->overruled, r->random, r->random_overruled) ||
        (r->elsewhere && text_addf(out, e,
                                   "%zu rows were drawn at random from other answers: they are no "
                                   "sample of these\n",
                                   r->elsewhere)))
        return -1;
    for (int i = 0; i < REVIEW_FIGURES; i++) {
        const Estimate *x = &r->corrected[i];
        if (!isfinite(r->judge[i].value)) continue;
        if (text_addf(out, e, "%-20s by the judge %.3f, corrected ",
                      evaluate_names[review_metrics[i]], r->judge[i].value))
            return -1;
        int status = isfinite(x->value)
                         ? text_addf(out, e, "%.3f [%.3f, %.3f] by %zu random rows\n", x->value,
                                     x->low, x->high, r->sampled[i])
                         : text_addf(out, e, "n/a: at least 2 random rows of each level needed\n");
        if (status) return -1;
    }
    if (r->random && !r->random_overruled)
        return text_addf(out, e,
                         "no disagreement in %zu random rows does not show an error rarer than "
                         "%.3f\n",
                         r->random, evaluate_unseen(r->random, EVALUATE_CONFIDENCE));
    return 0;
}

/* Appends the same figures of the written rows to the report. */
static int put_people(const Options *o, Text *out, Err *e)
{
    ReviewCorrection r;
    if (!option_text(o, "reviewed")) return 0;
    if (evaluate_review(&r, option_text(o, "output"), e)) return -1;
    if (!option_flag(o, "json")) return put_review(out, &r, e);
    out->len -= strlen("}\n");
    return text_addf(out, e, ",\"people\":") || evaluate_review_json(&r, out, e) ||
                   text_add(out, "}\n", 2, e)
               ? -1
               : 0;
}

static int write_page(const Options *o, Err *e)
{
    size_t shown;
    const char *page = option_text(o, "output");
    if (judge_review_page(option_text(o, "data"), page, (size_t)option_count(o, "review"),
                          option_count(o, "review-seed"), &shown, e))
        return -1;
    log_note(notes(), 'i', "%s: %zu answers to judge; open it in a browser", page, shown);
    return 0;
}

/* Prints the report: for people, or as one JSON object. */
static int put_report(Text *out, const JudgeReport *r, const Gold *gold, int json, Err *e)
{
    if (!json) return put_judged(out, r, e) || (gold && put_gold(out, gold, e)) ? -1 : 0;
    if (judge_report_json(r, out, e)) return -1;
    if (!gold) return 0;
    out->len -= strlen("}\n");
    return text_add(out, ",", 1, e) || gold_json(gold, out, e) || text_add(out, "}\n", 2, e) ? -1
                                                                                             : 0;
}

/* Runs --print-rules and --print-prompt. */
static int print_what(const Options *o, Err *e)
{
    static const char request[] = "{prompt}", answer[] = "{response}";
    JudgeCase c = {request, sizeof request - 1, answer, sizeof answer - 1};
    JudgeConfig config = {0};
    Text out = {0};
    options_fill(o, &judge_model_options, &config);
    int status = option_flag(o, "print-rules")
                     ? judge_rules_write(&out, e)
                     : judge_prompt_text(config.order, 0, &c, &out, e) ||
                           text_add(&out, "\n", 1, e);
    if (status) {
        text_free(&out);
        return -1;
    }
    return print_text(&out, e);
}

static int judge_command(const Options *o, Err *e)
{
    static const char *const needed[] = {"data", "output"};
    const char *field = option_text(o, "gold");
    Text out = {0};
    char answers[IO_PATH_MAX];
    JudgeConfig config;
    JudgeReport report;
    Gold gold = {0};
    if (option_flag(o, "print-rules") || option_flag(o, "print-prompt")) return print_what(o, e);
    for (size_t i = 0; i < 2; i++) {
        if (!option_text(o, needed[i]))
            return err_set(e, ERR_USAGE, "--%s FILE is missing", needed[i]);
    }
    if (check_output(o, e)) return -1;
    if (option_count(o, "review")) return write_page(o, e);
    if (config_from(o, &config, answers, e)) return -1;
    threads_from(o);
    int status = field && gold_open(&gold, field, !option_is(o, "judge", "rules"), e) ? -1 : 0;
    if (!status) status = judge_rows_of(o, &config, field ? &gold : NULL, &report, e);
    if (!status)
        status = put_report(&out, &report, field ? &gold : NULL, option_flag(o, "json"), e);
    if (!status) status = put_people(o, &out, e);
    if (!status) status = print_text(&out, e);
    text_free(&out);
    gold_close(&gold);
    return status;
}

const Command command_judge = {&judge_table, judge_command};
