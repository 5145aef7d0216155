/* align_report.c - align report: a run as one HTML page. */
#include "align.h"
#include "cycle.h"
#include "report.h"

#include <string.h>
#include <sys/stat.h>

static const Option report_rows[] = {
    {"output", 'o', OPTION_FILE, NULL, NULL, "the page; default: report.html in RUN"},
    {"redact", 0, OPTION_FLAG, NULL, NULL, "leave out prompts, answers and the system message"},
};
static const OptionGroup report_group = OPTION_GROUP("Report", report_rows);
static const OptionGroup *const report_groups[] = {&report_group, &group_quiet, NULL};
static const OptionTable report_table = {"report",
                                         "a run as one HTML page, with curves and the trade-off",
                                         "RUN", "align report RUN -o report.html", report_groups};

/* A page may take the place of a page, and of nothing else: RUN is full of files that count. */
static int check_page(const char *out, Err *e)
{
    static const char ending[] = ".html";
    struct stat st;
    size_t n = strlen(out), m = strlen(ending);
    if (stat(out, &st) || !S_ISREG(st.st_mode) || (n > m && !strcmp(out + n - m, ending))) return 0;
    return err_set(e, ERR_USAGE,
                   "--output: %s exists and is no .html page; a report replaces nothing else", out);
}

/* Figures of a run whose files were changed would be nobody's: the ledger is checked first. */
static int report_command(const Options *o, Err *e)
{
    char path[IO_PATH_MAX], ledger[IO_PATH_MAX];
    const char *out = option_text(o, "output");
    CycleVerification v;
    if (out && check_page(out, e)) return -1;
    if (io_path(ledger, sizeof ledger, o->operand, "ledger.jsonl", e)) return -1;
    if (io_exists(ledger) && cycle_verify(o->operand, NULL, NULL, &v, e)) return -1;
    if (!out && io_path(path, sizeof path, o->operand, REPORT_FILE, e)) return -1;
    if (report_write(o->operand, out ? out : path, option_flag(o, "redact"), e)) return -1;
    log_note(notes(), 'i', "%s", out ? out : path);
    return 0;
}

const Command command_report = {&report_table, report_command};
