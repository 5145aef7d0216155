/* tool_template.c - renders templates for tools/check_template.py.
 *
 * One JSON object a line on standard input: {"template", "variables"}, with "variables" an object;
 * one a line on standard output: {"text", "given", "spans"} or {"error"}. The date is fixed.
 */
#include "template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_line(size_t *len)
{
    static char *line;
    static size_t cap;
    ssize_t n = getline(&line, &cap, stdin);
    if (n < 0) return NULL;
    if (n > 0 && line[n - 1] == '\n') n--;
    *len = (size_t)n;
    return line;
}

static int answer(const Json *row, Template **kept, Text *source, TemplateOutput *out, Text *line,
                  Err *e)
{
    static const TemplateTime now = {2024, 7, 26, 14, 5, 9};
    const Json *text = json_get(row, "template"), *variables = json_get(row, "variables");
    if (!text || text->type != JSON_STRING)
        return err_set(e, ERR_USAGE, "a line without a template");
    if (!*kept || text->len != source->len || memcmp(text->text, source->data, text->len)) {
        template_free(*kept);
        source->len = 0;
        if (text_add(source, text->text, text->len, e)) return -1;
        *kept = template_parse(text->text, text->len, "template", e);
        if (!*kept) return -1;
    }
    if (template_render(*kept, variables, &now, out, e)) return -1;
    if (text_addf(line, e, "{\"text\":") || json_put_string(line, out->text.data, out->text.len, e))
        return -1;
    size_t given = 0;
    for (size_t i = 0; i < out->given.len; i++) given += out->given.data[i] == 1;
    if (text_addf(line, e, ",\"given\":%zu,\"spans\":[", given)) return -1;
    for (size_t i = 0; i < out->span_count; i++)
        if (text_addf(line, e, "%s[%zu,%zu]", i ? "," : "", out->spans[i].from, out->spans[i].to))
            return -1;
    return text_addf(line, e, "]}");
}

int main(void)
{
    Template *kept = NULL;
    TemplateOutput out = {0};
    Text source = {0}, line = {0};
    Err e;
    size_t len;
    for (char *bytes; (bytes = read_line(&len)) != NULL;) {
        Pool pool = {0};
        const Json *row = json_parse(&pool, bytes, len, "line", JSON_ONE_LINE, &e);
        line.len = 0;
        if (!row || answer(row, &kept, &source, &out, &line, &e)) {
            line.len = 0;
            if (text_addf(&line, NULL, "{\"error\":") ||
                json_put_string(&line, e.text, strlen(e.text), NULL) || text_addf(&line, NULL, "}"))
                return 1;
        }
        printf("%s\n", line.data);
        fflush(stdout);
        pool_free(&pool);
    }
    template_free(kept);
    template_output_free(&out);
    text_free(&source);
    text_free(&line);
    return 0;
}
