/* align_report.c - align report: writes a run as one HTML page. */
#include "align.h"
#include "cycle.h"
#include "report.h"

#include <string.h>
#include <sys/stat.h>

static const Option report_rows[] = {
    {"output", 'o', OPTION_FILE, NULL, NULL, "page to write; default: report.html in RUN", BY_NAME},
    {"redact", 0, OPTION_FLAG, NULL, NULL, "leave out prompts, answers and the system message",
     BY_NAME},
};
static const OptionGroup report_group = OPTION_GROUP("Report", report_rows);
static const OptionGroup *const report_groups[] = {&report_group, &group_quiet, NULL};
static const OptionTable report_table = {"report",
                                         "a run as one HTML page, with curves and the trade-off",
                                         "RUN", "align report RUN -o report.html", report_groups,
                                         NULL};

/* Checks that the page replaces nothing but another page: RUN is full of valuable files. */
static int check_page(const char *out, Err *e)
{
    static const char ending[] = ".html";
    struct stat st;
    size_t n = strlen(out), m = strlen(ending);
    if (stat(out, &st) || !S_ISREG(st.st_mode) || (n > m && !strcmp(out + n - m, ending))) return 0;
    return err_set(e, ERR_USAGE,
                   "--output: %s exists and is not an .html page; a report replaces nothing else",
                   out);
}

/* Checks the ledger first: figures of changed files would mean nothing. A line that was cut off
 * when a run was killed is only told: the entries before it hold. */
static int check_ledger(const char *run, Err *e)
{
    char path[IO_PATH_MAX];
    LedgerVerification v;
    if (io_path(path, sizeof path, run, LEDGER_FILE, e)) return -1;
    if (!io_exists(path) || !ledger_verify(run, NULL, NULL, &v, e)) return 0;
    if (!v.torn || v.wrong > 1 || !v.entries) return -1;
    log_note(notes(), 'w', "%s: the last line is cut off, and left out", path);
    return 0;
}

static int report_command(const Options *o, Err *e)
{
    char path[IO_PATH_MAX];
    const char *out = option_text(o, "output");
    if ((out && check_page(out, e)) || check_ledger(o->operand, e)) return -1;
    if (!out && io_path(path, sizeof path, o->operand, REPORT_FILE, e)) return -1;
    if (report_write(o->operand, out ? out : path, option_flag(o, "redact"), e)) return -1;
    log_note(notes(), 'i', "%s", out ? out : path);
    return 0;
}

const Command command_report = {&report_table, report_command};
