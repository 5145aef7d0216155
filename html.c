/* html.c - writes pages for a browser: escaping, the frame, the style sheet. See html.h. */
#include "html.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

void html_put(Html *h, const char *markup)
{
    if (!h->failed) h->failed = text_add(&h->text, markup, strlen(markup), h->e) != 0;
}

void html_putf(Html *h, const char *fmt, ...)
{
    char line[2048]; /* our own text only, so its length is bounded */
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (h->failed) return;
    if (n < 0 || (size_t)n >= sizeof line)
        h->failed = err_set(h->e, ERR_INTERNAL, "html: a piece of %d bytes is too long", n) != 0;
    else
        h->failed = text_add(&h->text, line, (size_t)n, h->e) != 0;
}

/* Returns what replaces an ASCII character, or NULL for itself. picture has room for its bytes. */
static const char *ascii_stand_in(unsigned char c, char picture[4])
{
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    case '\n':
    case '\t': return NULL;
    default: break;
    }
    if (c >= ' ' && c != 0x7F) return NULL;
    memcpy(picture, "\xE2\x90\x80", 4); /* U+2400, the picture of 0 */
    picture[2] = (char)(0x80 + (c == 0x7F ? 0x21 : c));
    return picture;
}

void html_text(Html *h, const char *text, size_t len)
{
    size_t at = 0, plain = 0; /* plain: where the run of unchanged bytes began */
    while (at < len && !h->failed) {
        char stand_in[32];
        const char *shown = NULL;
        size_t step = utf8_step(text + at, len - at);
        if (step == 0) {
            shown = "\xEF\xBF\xBD"; /* U+FFFD */
            step = 1;
        } else if (step == 1) {
            shown = ascii_stand_in((unsigned char)text[at], stand_in);
        } else {
            uint32_t c = utf8_code(text + at, step);
            if (is_unseen(c)) {
                snprintf(stand_in, sizeof stand_in, "&lt;U+%04lX&gt;", (unsigned long)c);
                shown = stand_in;
            }
        }
        if (shown) {
            h->failed = text_add(&h->text, text + plain, at - plain, h->e) != 0;
            html_put(h, shown);
            plain = at + step;
        }
        at += step;
    }
    if (!h->failed) h->failed = text_add(&h->text, text + plain, len - plain, h->e) != 0;
}

void html_string(Html *h, const char *text)
{
    if (text) html_text(h, text, strlen(text));
}

void html_json(Html *h, const Json *value)
{
    Text t = {0};
    if (!value || h->failed) return;
    if (value->type == JSON_STRING) {
        html_text(h, value->text, value->len);
        return;
    }
    h->failed = json_put(&t, value, h->e) != 0;
    if (!h->failed) html_text(h, t.data, t.len);
    text_free(&t);
}

void html_figure(Html *h, double x)
{
    if (isfinite(x))
        html_putf(h, "%.3f", x);
    else
        html_put(h, "n/a");
}

void html_cell(Html *h, const Json *value, int is_number)
{
    html_put(h, is_number ? "<td class=\"n\">" : "<td>");
    if (value && value->type != JSON_NULL)
        html_json(h, value);
    else
        html_put(h, "-");
    html_put(h, "</td>");
}

void html_hash(Html *h, const Json *hash)
{
    const size_t shown = 12;
    html_put(h, "<td><code>");
    if (hash && hash->type == JSON_STRING)
        html_text(h, hash->text, hash->len < shown ? hash->len : shown);
    html_put(h, "</code></td>");
}

/* ---- the frame ----------------------------------------------------------------------------- */

/* Both colour schemes have a contrast of at least 4.5 to 1; s1, s2, s3 also differ in shape and
 * dashes. */
static const char page_style[] =
    ":root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--soft:#57606a;--rule:#d0d7de;"
    "--box:#f6f8fa;--s1:#0b5cad;--s2:#a84300;--s3:#116b4f;--bad:#b3261e;--good:#116b4f}\n"
    "@media (prefers-color-scheme:dark){:root{--paper:#14171b;--ink:#e6e9ed;--soft:#9aa4b0;"
    "--rule:#3a424c;--box:#1d2228;--s1:#6cb2ff;--s2:#ffab66;--s3:#5fd3a6;--bad:#ff8f87;"
    "--good:#5fd3a6}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\n"
    "main{max-width:68rem;margin:0 auto;padding:1rem 1.25rem 4rem}\n"
    "h1{font-size:1.7rem;line-height:1.2;margin:1rem 0 .25rem}\n"
    "h2{font-size:1.25rem;margin:2.5rem 0 .5rem;padding-top:.5rem;border-top:1px solid "
    "var(--rule)}\n"
    "h3{font-size:1rem;margin:1.25rem 0 .25rem}\n"
    "p{margin:.4rem 0;max-width:46rem}\n"
    ".soft,caption,figcaption{color:var(--soft);font-size:.9rem}\n"
    "a{color:var(--s1)}\n"
    "nav ul{display:flex;flex-wrap:wrap;gap:.15rem 1rem;padding:0;margin:.75rem "
    "0;list-style:none}\n"
    ".wide{overflow-x:auto}\n"
    "table{border-collapse:collapse;margin:.75rem 0;font-variant-numeric:tabular-nums}\n"
    "caption{text-align:left;padding:.25rem 0}\n"
    "th,td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0;border-bottom:1px solid "
    "var(--rule)}\n"
    "th{font-weight:600}\n"
    "td.n,th.n{text-align:right;white-space:nowrap}\n"
    "code,pre{font:.85rem/1.45 ui-monospace,monospace;overflow-wrap:anywhere}\n"
    "pre{background:var(--box);padding:.75rem;margin:.5rem 0;white-space:pre-wrap}\n"
    "summary{cursor:pointer;padding:.3rem 0}\n"
    ".bad{color:var(--bad);font-weight:600}\n.good{color:var(--good);font-weight:600}\n";

static const char print_style[] =
    "@media (max-width:40rem){main{padding:.5rem .75rem 3rem}h1{font-size:1.4rem}"
    "table{font-size:.85rem}th,td{padding-right:.5rem}"
    "td.n,th.n{white-space:normal}td.say{min-width:15rem}}\n"
    "@media print{:root{color-scheme:light;--paper:#fff;--ink:#000;--soft:#444;--rule:#bbb;"
    "--box:#f6f6f6;--s1:#0b5cad;--s2:#a84300;--s3:#116b4f;--bad:#b3261e;--good:#116b4f}"
    "body{font-size:10pt}main{max-width:none;padding:0}nav{display:none}"
    "h2,h3,caption,thead{break-after:avoid}figure,tr,article{break-inside:avoid}"
    "figure>svg{max-width:12cm}"
    ".wide{overflow:visible}a{color:inherit;text-decoration:none}}\n";

void html_begin(Html *h, const char *title, const char *style, int scripts)
{
    html_put(h, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                "style-src 'unsafe-inline'");
    html_put(h, scripts ? "; script-src 'unsafe-inline'\">\n" : "\">\n");
    html_put(h, "<meta name=\"referrer\" content=\"no-referrer\">\n"
                "<meta name=\"robots\" content=\"noindex\">\n<title>");
    html_string(h, title);
    html_put(h, "</title>\n<style>\n");
    html_put(h, page_style);
    if (style) html_put(h, style);
    html_put(h, print_style);
    html_put(h, "</style>\n</head>\n<body>\n<main>\n");
}

void html_end(Html *h)
{
    html_put(h, "</main>\n</body>\n</html>\n");
}

int html_write(Html *h, const char *path, Err *e)
{
    int status = h->failed ? -1 : 0;
    if (!status) {
        mode_t before = umask(077); /* prompts hold what people wrote */
        status = io_write_file(path, h->text.data, h->text.len, e);
        umask(before);
    }
    text_free(&h->text);
    return status;
}
