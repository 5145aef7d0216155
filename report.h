/* report.h - writes what happened in a run as one HTML page: report.html.
 *
 * Of a cycle run: Safety Score against erroneous refusal (the trade-off), both per cycle with
 * intervals, why each candidate was promoted or not, actions by harm level, who judged, training
 * curves, answers before and after (severe failures first), the ledger, and what is needed to
 * repeat the run. Of a training run: its curves and configuration.
 *
 * Every number is read from files of the run, or (what people's reviews correct) follows from their
 * rows alone. The page needs no network and no script, and the same run gives the same bytes.
 */
#ifndef ALIGN_REPORT_H
#define ALIGN_REPORT_H

#include "io.h"

#define REPORT_FILE "report.html"
#define REPORT_ANSWERS 1000 /* most answers that a page shows */

/* Writes the page of the run in directory `run`, all or nothing, readable by its owner only.
 * redact: without prompts, answers and system message. ERR_NO_INPUT if `run` is not a run or a file
 * that its ledger names is missing; ERR_DATA for invalid content. A run in progress gets a page of
 * what there is. */
int report_write(const char *run, const char *path, int redact, Err *e);

#endif
