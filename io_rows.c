/* io_rows.c - files of rows: reads JSONL line by line and a JSON array row by row; says of any
 * other file what it is, and how to make rows of it. */
#include "io.h"

#include <string.h>

#define EXPECTED "expected one JSON object per line, or a JSON array of objects"

/* The error for a directory: ERR_NO_INPUT. */
static int rows_directory(const char *path, Err *e)
{
    char inside[IO_PATH_MAX];
    Err ignored;
    int saved = !io_path(inside, sizeof inside, path, "dataset_info.json", &ignored) &&
                io_exists(inside);
    return err_set(e, ERR_NO_INPUT, "%s: found a directory%s, expected a file of rows%s", path,
                   saved ? " of the datasets library" : "",
                   saved ? " (python3 -c \"import datasets; datasets.load_from_disk('DIRECTORY')"
                           ".to_json('rows.jsonl')\")"
                         : " (JSONL)");
}

/* Says by its first bytes, as an error, what a file is that cannot be read as rows; 0 if it is not
 * recognised. */
static int rows_foreign(const char *path, const char *bytes, size_t len, Err *e)
{
    const char *foreign = json_foreign(bytes, len);
    /* safetensors: the length of the header, then the header. */
    if (!foreign && len > 8 && bytes[8] == '{' && !bytes[6] && !bytes[7])
        foreign = "a safetensors file (weights, not rows)";
    if (!foreign && len > 8 && !memcmp(bytes, "\xff\xff\xff\xff", 4))
        foreign = "an Arrow stream (as rows: python3 -c \"import datasets; "
                  "datasets.Dataset.from_file('FILE').to_json('rows.jsonl')\")";
    if (!foreign) return 0;
    return err_set(e, ERR_DATA, "%s: found %s, " EXPECTED, path, foreign);
}

/* The first line, without white space around it. */
static size_t first_line(const char **bytes, size_t len)
{
    const char *text = *bytes;
    size_t at = len >= 3 && !memcmp(text, "\xEF\xBB\xBF", 3) ? 3 : 0, end;
    while (at < len && strchr(" \t\r\n", text[at]) && text[at]) at++;
    for (end = at; end < len && text[end] != '\n';) end++;
    *bytes = text + at;
    while (end > at && strchr(" \t\r", text[end - 1]) && text[end - 1]) end--;
    return end - at;
}

/* Counts a byte in a text, outside double quotes. */
static size_t count_of(const char *text, size_t len, char wanted)
{
    size_t n = 0;
    int quoted = 0;
    for (size_t i = 0; i < len; i++) {
        quoted ^= text[i] == '"';
        n += !quoted && text[i] == wanted;
    }
    return n;
}

/* Of one document over several lines finds the member that holds the rows, if there is one. */
static void explain_document(const char *path, const char *bytes, size_t len, Err *e)
{
    Pool pool = {0};
    Err ignored;
    const Json *whole = json_parse(&pool, bytes, len, path, JSON_ALLOW_BOM, &ignored), *rows = NULL;
    for (const Json *m = whole ? whole->child : NULL; m && !rows; m = m->next)
        if (m->type == JSON_ARRAY && m->child && m->child->type == JSON_OBJECT) rows = m;
    if (rows)
        err_set(e, ERR_DATA,
                "%s: found one JSON object over several lines, with rows in \"%.60s\"; " EXPECTED
                " (jq -c '.\"%.60s\"[]' FILE >rows.jsonl)",
                path, rows->key, rows->key);
    else
        err_set(e, ERR_DATA,
                "%s: found a JSON object over several lines; " EXPECTED
                " (jq -c . FILE >rows.jsonl)",
                path);
    pool_free(&pool);
}

/* Recognises a table with a header line. */
static void explain_table(const char *path, const char *line, size_t n, Err *e)
{
    const int shown = 60;
    int tabs = count_of(line, n, '\t') > 0, commas = count_of(line, n, ',') > 0;
    err_set(e, ERR_DATA,
            "%s: found %s text with the header %.*s; " EXPECTED
            " (python3 -c \"import csv, json; [print(json.dumps(r)) for r in "
            "csv.DictReader(open('FILE', newline='', encoding='utf-8-sig'), delimiter='%s')]\" "
            ">rows.jsonl)",
            path, tabs ? "tab-separated" : "CSV", n < (size_t)shown ? (int)n : shown, line,
            tabs     ? "\\t"
            : commas ? ","
                     : ";");
}

/* Says how lines of other kinds become rows. */
#define FROM_PYTHON                                                                                \
    "python3 -c \"import ast, json; [print(json.dumps(ast.literal_eval(l))) for l in "             \
    "open('FILE')]\" >rows.jsonl"
#define FROM_YAML                                                                                  \
    "python3 -c \"import json, yaml; [print(json.dumps(r)) for r in "                              \
    "yaml.safe_load(open('FILE'))]\" >rows.jsonl"

static void explain(const char *path, const char *found, const char *how, Err *e)
{
    err_set(e, ERR_DATA, "%s: found %s, " EXPECTED " (%s)", path, found, how);
}

/* The same for a file whose first row is not JSON, by its text; *e says what is wrong, and is kept
 * if the text is not recognised. */
static void rows_explain(const char *path, const char *bytes, size_t len, Err *e)
{
    const char *line = bytes;
    size_t n = first_line(&line, len), left = len - (size_t)(line - bytes);
    int several = memchr(line, '\n', left) != NULL;
    int delimited = count_of(line, n, ',') || count_of(line, n, '\t') || count_of(line, n, ';');
    if (!n) return;
    if (!several && count_of(line, left, '\r') > 1)
        explain(path, "lines that end with CR alone", "tr '\\r' '\\n' <FILE >rows.jsonl", e);
    else if (line[0] == '{' && several && strchr("{[,", line[n - 1]))
        explain_document(path, bytes, len, e);
    else if (n > 1 && line[0] == '{' && line[1] == '\'')
        explain(path, "Python dictionaries ({'...'})", FROM_PYTHON, e);
    else if (line[0] != '{' && line[0] != '[' && several && delimited)
        explain_table(path, line, n, e);
    else if (n > 2 && (!memcmp(line, "- ", 2) || !memcmp(line, "---", 3)))
        explain(path, "YAML text", FROM_YAML, e);
    else if (line[0] != '{' && line[0] != '"' && memchr(line, ' ', n) && !memchr(line, ':', n))
        explain(path, "plain text",
                "a prompt on each line: jq -Rc '{prompt: .}' FILE >rows.jsonl", e);
}

/* ---- JSONL --------------------------------------------------------------------------------- */

#define JSONL_MAX_STDIN ((size_t)1 << 30)
#define JSONL_MAX_LINE ((size_t)1 << 28)

int jsonl_open(JsonLines *j, const char *path, Err *e)
{
    memset(j, 0, sizeof *j);
    j->path = path;
    if (!strcmp(path, "-")) {
        j->path = "standard input";
        if (io_read_stdin(JSONL_MAX_STDIN, &j->data, &j->len, e)) return -1;
    } else if (io_is_directory(path)) {
        return rows_directory(path, e);
    } else if (io_read_file(path, 0, &j->data, &j->len, e)) {
        return -1;
    }
    if (rows_foreign(j->path, j->data, j->len, e)) {
        jsonl_close(j);
        return -1;
    }
    if (j->len >= 3 && !memcmp(j->data, "\xEF\xBB\xBF", 3)) j->at = 3;
    size_t at = j->at;
    while (at < j->len && strchr(" \t\r\n", j->data[at]) && j->data[at]) at++;
    j->array = at < j->len && j->data[at] == '[';
    if (j->array) j->at = at + 1;
    return 0;
}

/* Parses the row in [row, row + len), an object. */
static int parse_row(const JsonLines *j, const char *row, size_t len, Pool *pool, Json **out,
                     Err *e)
{
    char name[IO_PATH_MAX + 32];
    snprintf(name, sizeof name, "%s:%zu", j->path, j->line);
    *out = json_parse(pool, row, len, name, j->flags | JSON_ONE_LINE, e);
    if (!*out) return -1;
    if ((*out)->type == JSON_OBJECT) return 1;
    return err_set(e, ERR_DATA, "%s: found a row that is not an object, expected {...}", name);
}

static void skip_space(JsonLines *j)
{
    while (j->at < j->len && strchr(" \t\r\n", j->data[j->at]) && j->data[j->at]) j->at++;
}

/* The next member of an array of rows. */
static int next_member(JsonLines *j, Pool *pool, Json **row, Err *e)
{
    skip_space(j);
    if (j->line && j->at < j->len && j->data[j->at] == ',') {
        j->at++;
        skip_space(j);
    } else if (j->at < j->len && j->data[j->at] == ']') {
        j->at++;
        skip_space(j);
        if (j->at == j->len) return j->at = j->len, j->array = 2, 0;
        return err_set(e, ERR_DATA, "%s: found more after the end of its array", j->path);
    } else if (j->line) {
        return err_set(e, ERR_DATA, "%s: its array ends after row %zu without a ']': %s", j->path,
                       j->line, j->at == j->len ? "the file was cut off" : "found something else");
    }
    j->line++;
    const char *member = j->data + j->at;
    size_t len = json_span(member, j->len - j->at);
    j->at += len;
    return parse_row(j, member, len, pool, row, e);
}

/* Handles a row that is not JSON: an incomplete last line of a log was cut off by a crash; if the
 * first row of a file is not JSON, says what the file is. */
static int bad_row(JsonLines *j, int torn, Err *e)
{
    if (torn && j->torn) {
        log_note(j->torn, 'w', "%s:%zu: the last line is cut off, and left out", j->path, j->line);
        j->left_out = 1;
        return 0;
    }
    if (torn && j->line > 1) {
        Err found = *e;
        return err_set(e, ERR_DATA,
                       "%s (the last line has no end: the file was cut off; complete it, or take "
                       "the line out)",
                       found.text);
    }
    if (strstr(e->text, "expected valid UTF-8")) {
        Err found = *e;
        return err_set(e, ERR_DATA,
                       "%s (text of Windows? iconv -f WINDOWS-1252 -t UTF-8 FILE makes it UTF-8)",
                       found.text);
    }
    if (j->line == j->blank_lines + 1) rows_explain(j->path, j->data, j->len, e);
    return -1;
}

int jsonl_next(JsonLines *j, Pool *pool, Json **row, Err *e)
{
    if (j->array == 2) return 0;
    if (j->array) return next_member(j, pool, row, e);
    while (j->at < j->len) {
        const char *line = j->data + j->at;
        const char *end = memchr(line, '\n', j->len - j->at);
        size_t len = end ? (size_t)(end - line) : j->len - j->at;
        j->at += len + (end != NULL);
        j->line++;
        if (len > JSONL_MAX_LINE) {
            return err_set(e, ERR_DATA, "%s:%zu: a line of %zu bytes, the limit is %zu", j->path,
                           j->line, len, JSONL_MAX_LINE);
        }
        size_t from = 0;
        while (from < len && (line[from] == ' ' || line[from] == '\t' || line[from] == '\r')) {
            from++;
        }
        if (from == len) {
            j->blank_lines++;
            continue;
        }
        int more = parse_row(j, line, len, pool, row, e);
        return more > 0 || e->code != ERR_DATA ? more : bad_row(j, !end, e);
    }
    return 0;
}

void jsonl_close(JsonLines *j)
{
    mem_free(j->data);
    memset(j, 0, sizeof *j);
}

static int each_row(const char *path, JsonlRow fn, void *ctx, const Log *torn, char sha256[65],
                    Err *e)
{
    JsonLines lines;
    int more;
    if (jsonl_open(&lines, path, e)) return -1;
    lines.torn = torn;
    do {
        Pool pool = {0};
        Json *row;
        more = jsonl_next(&lines, &pool, &row, e);
        if (more > 0 && fn(ctx, row, lines.line, e))
            more = err_prefix(e, "%s:%zu", lines.path, lines.line);
        pool_free(&pool);
    } while (more > 0);
    if (sha256) sha256_bytes(lines.data, lines.len, sha256);
    jsonl_close(&lines);
    return more;
}

int jsonl_each(const char *path, JsonlRow fn, void *ctx, char sha256[65], Err *e)
{
    return each_row(path, fn, ctx, NULL, sha256, e);
}

int jsonl_each_log(const char *path, JsonlRow fn, void *ctx, const Log *torn, Err *e)
{
    return each_row(path, fn, ctx, torn, NULL, e);
}
