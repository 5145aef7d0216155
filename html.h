/* html.h - pages that people read in a browser: escaping, the frame, the style sheet.
 *
 * A page stands alone: it needs no network and no other file, and no text in it can start anything.
 * Every text that was not written in this program's sources (prompts, answers, file names, reasons)
 * goes through html_text; html_put and html_putf are for markup and numbers of our own.
 */
#ifndef ALIGN_HTML_H
#define ALIGN_HTML_H

#include "io.h"

/* A page under construction. The first failure (memory) sticks: later calls do nothing, and
 * html_write returns it. Start with {.e = e}. */
typedef struct {
    Text text;
    Err *e;
    int failed;
} Html;

void html_put(Html *h, const char *markup);
void html_putf(Html *h, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Writes a text as the content of an element (of HTML or SVG) or as a quoted attribute. & < > " '
 * become references, and bytes that are not UTF-8 become U+FFFD. Invisible characters with an
 * effect are made visible: control characters by their pictures (U+2400...), marks of direction,
 * zero-width spaces, tags and noncharacters by their number in angle brackets. Line feeds and tabs
 * stay. */
void html_text(Html *h, const char *text, size_t len);
void html_string(Html *h, const char *text); /* up to the 0 byte; NULL is nothing */
/* Writes a value as text: strings as they are, numbers in their spelling, others as JSON; nothing
 * for NULL. */
void html_json(Html *h, const Json *value);
/* Writes a figure with three decimals; "n/a" for NAN. */
void html_figure(Html *h, double x);
/* Writes a cell of a table: "-" for what is absent or null; numbers are aligned to the right. */
void html_cell(Html *h, const Json *value, int is_number);
/* Writes a cell with the beginning of a hash, enough to tell the files of one run apart. */
void html_hash(Html *h, const Json *hash);

/* Writes from the doctype to <main>; title is escaped. style: further rules, or NULL. scripts: 0 =
 * the page forbids every script, 1 = inline scripts may run; it never loads anything.
 */
void html_begin(Html *h, const char *title, const char *style, int scripts);
void html_end(Html *h);
/* Writes the page, all or nothing, for its owner only; frees it, also after a failure. */
int html_write(Html *h, const char *path, Err *e);

#endif
