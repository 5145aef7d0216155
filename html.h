/* html.h - pages that people read in a browser: escaping, the frame, the style sheet.
 *
 * A page stands alone: no network, no other file, and nothing in it that a text could start. Every
 * text that was not written in this program's sources (prompts, answers, file names, reasons) goes
 * through html_text; html_put and html_putf are for markup and numbers of our own.
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
/* A text, for the content of an element (of HTML or SVG) or a quoted attribute. & < > " ' become
 * references; bytes that are no UTF-8 become U+FFFD; what is not seen but acts is shown instead:
 * control characters as their pictures (U+2400...), marks of direction, zero-width spaces, tags and
 * noncharacters as their number in angle brackets. Line feeds and tabs stay. */
void html_text(Html *h, const char *text, size_t len);
void html_string(Html *h, const char *text); /* up to the 0 byte; NULL is nothing */
/* A value as text: strings as they are, numbers in their spelling, else JSON; NULL is nothing. */
void html_json(Html *h, const Json *value);
/* A figure with three decimals, "n/a" for NAN. */
void html_figure(Html *h, double x);

/* From the doctype to <main>; title is escaped. style: further rules, or NULL. scripts: 0 = the
 * page forbids itself every script, 1 = inline ones may run; it never loads anything from anywhere.
 */
void html_begin(Html *h, const char *title, const char *style, int scripts);
void html_end(Html *h);
/* Writes the page, all or nothing, for its owner only; frees it, also after a failure. */
int html_write(Html *h, const char *path, Err *e);

#endif
