/* align_loop.c - align judge: what did the responses do? */
#include "align.h"
#include "judge.h"

#include <math.h>
#include <string.h>

/* ---- align judge --------------------------------------------------------------------------- */

static const Option judge_rows[] = {
    {"data", 0, OPTION_FILE, NULL, NULL, "JSONL rows {\"prompt\",\"response\"}"},
    {"output", 'o', OPTION_FILE, NULL, NULL,
     "the same rows with \"action\", \"probability\", \"judge\" and \"evidence\""},
    {"judge", 0, OPTION_CHOICE, "rules", "rules", "who judges: rules = a table of phrases"},
    {"rules", 0, OPTION_FILE, NULL, NULL, "phrase table, JSONL; default: the built-in one"},
    {"print-rules", 0, OPTION_FLAG, NULL, NULL, "print the built-in phrase table and end"},
    {"gold", 0, OPTION_TEXT, NULL, NULL, "column with a human label: reports the agreement"},
    {"json", 0, OPTION_FLAG, NULL, NULL, "the report as one JSON object"},
};
static const OptionGroup judge_group = OPTION_GROUP("Judge", judge_rows);
static const OptionGroup *const judge_groups[] = {&judge_group, &group_quiet, NULL};
static const OptionTable judge_table = {"judge", "labels answers accept, caution or refuse", NULL,
                                        "align judge --data responses.jsonl -o judged.jsonl",
                                        judge_groups};

/* "accept 12  caution 3  refuse 5" */
static int put_actions(Text *out, const size_t counts[ACTION_COUNT], Err *e)
{
    for (int a = 0; a < ACTION_COUNT; a++) {
        if (text_addf(out, e, "%s%s %zu", a ? "  " : "", action_names[a], counts[a])) return -1;
    }
    return text_add(out, "\n", 1, e);
}

/* A figure in a column of ten; what was not there to be measured is n/a. */
static int put_figure(Text *out, double x, Err *e)
{
    return isfinite(x) ? text_addf(out, e, "%10.3f", x) : text_addf(out, e, "%10s", "n/a");
}

static int put_agreement(Text *out, const JudgeReport *r, Err *e)
{
    const Agreement *a = &r->agreement;
    if (text_addf(out, e, "agreement with human labels (%zu rows, %zu without a label)\naccuracy",
                  agreement_rows(a), r->without_gold) ||
        put_figure(out, agreement_accuracy(a), e) || text_addf(out, e, "\nkappa   ") ||
        put_figure(out, agreement_kappa(a), e) || text_addf(out, e, "\n\n%-12s", "human"))
        return -1;
    for (int j = 0; j < ACTION_COUNT; j++)
        if (text_addf(out, e, "%10s", action_names[j])) return -1;
    if (text_addf(out, e, "%10s\n", "F1")) return -1;
    for (int g = 0; g < ACTION_COUNT; g++) {
        if (text_addf(out, e, "%-12s", action_names[g])) return -1;
        for (int j = 0; j < ACTION_COUNT; j++)
            if (text_addf(out, e, "%10zu", a->count[g][j])) return -1;
        if (put_figure(out, agreement_f1(a, (Action)g), e) || text_add(out, "\n", 1, e)) return -1;
    }
    return 0;
}

static int put_judged(Text *out, const JudgeReport *r, Err *e)
{
    if (text_addf(out, e, "%zu rows judged by %s (sha256 %.16s...)\n", r->rows, r->judge,
                  r->sha256) ||
        put_actions(out, r->actions, e))
        return -1;
    if (r->empty && text_addf(out, e, "%zu answers without a word count as refuse\n", r->empty))
        return -1;
    return r->compared ? put_agreement(out, r, e) : 0;
}

static int judge_command(const Options *o, Err *e)
{
    Text out = {0};
    if (option_flag(o, "print-rules"))
        return judge_rules_write(&out, e) ? text_free(&out), -1 : print_text(&out, e);
    static const char *const needed[] = {"data", "output"};
    for (size_t i = 0; i < 2; i++) {
        if (!option_text(o, needed[i]))
            return err_set(e, ERR_USAGE, "--%s FILE is missing", needed[i]);
    }
    JudgeConfig config = {.kind = option_text(o, "judge"), .rules = option_text(o, "rules")};
    Judge judge = {0};
    JudgeReport report;
    int status = judge_open(&judge, &config, e) ||
                 judge_file(&judge, option_text(o, "data"), option_text(o, "output"),
                            option_text(o, "gold"), &report, e);
    judge_close(&judge);
    if (!status)
        status = option_flag(o, "json") ? judge_report_json(&report, &out, e)
                                        : put_judged(&out, &report, e);
    if (!status) status = print_text(&out, e);
    text_free(&out);
    return status ? -1 : 0;
}

const Command command_judge = {&judge_table, judge_command};
