/* options_papers.c - writes the manual page, the completion for bash and the table for programs
 * from the tables of options. */
#include "options.h"

#include "json.h"

#include <string.h>

/* ---- the manual page ----------------------------------------------------------------------- */

/* Writes text for man(7): escapes dashes, backslashes, and a first character that would be a
 * request. */
static int put_roff(Text *out, const char *text, Err *e)
{
    if ((*text == '.' || *text == '\'') && text_add(out, "\\&", 2, e)) return -1;
    for (; *text; text++) {
        int status = *text == '\\'  ? text_add(out, "\\e", 2, e)
                     : *text == '-' ? text_add(out, "\\-", 2, e)
                                    : text_add(out, text, 1, e);
        if (status) return -1;
    }
    return 0;
}

/* A line of its own. */
static int put_line(Text *out, const char *text, Err *e)
{
    return put_roff(out, text, e) || text_add(out, "\n", 1, e) ? -1 : 0;
}

/* One command: how it is called, what it does, an example. */
static int man_command(const OptionTable *t, Text *out, Err *e)
{
    if (text_addf(out, e, ".TP\n\\fBalign %s\\fR%s%s [\\fIoptions\\fR]\n", t->command,
                  t->operand ? " " : "", t->operand ? t->operand : "") ||
        put_line(out, t->summary, e))
        return -1;
    if (!t->example) return 0;
    return text_addf(out, e, ".IP\n.EX\n") || put_line(out, t->example, e) ||
                   text_addf(out, e, ".EE\n")
               ? -1
               : 0;
}

/* One option: its names, what it means, which commands take it. */
static int man_option(const OptionTable *const *tables, size_t count, const Option *row, Text *out,
                      Err *e)
{
    Text facts = {0};
    const char *noun = option_noun(row);
    int status = text_addf(out, e, ".TP\n\\fB") ||
                 (row->letter && text_addf(out, e, "\\-%c\\fR, \\fB", row->letter)) ||
                 text_addf(out, e, "\\-\\-") || put_roff(out, row->name, e) ||
                 text_addf(out, e, *noun ? "\\fR \\fI%s\\fR\n" : "\\fR\n", noun) ||
                 option_facts(row, &facts, e) || put_line(out, facts.data, e) ||
                 text_addf(out, e, ".br\nTaken by");
    for (size_t t = 0, takers = 0; t < count && !status; t++)
        if (options_has(tables[t], row))
            status = text_addf(out, e, "%s %s", takers++ ? "," : "", tables[t]->command);
    text_free(&facts);
    return status || text_addf(out, e, ".\n") ? -1 : 0;
}

int options_man(const OptionTable *const *tables, size_t count, Text *out, Err *e)
{
    int status = text_addf(out, e, ".SH COMMANDS\n");
    for (size_t t = 0; t < count && !status; t++) status = man_command(tables[t], out, e);
    return status ||
                   text_addf(out, e,
                             ".SH OPTIONS\nEvery command also takes \\fB\\-\\-config\\fR "
                             "\\fIFILE\\fR, a JSON object {\"name\": value}, "
                             "\\fB\\-\\-help\\fR and \\fB\\-\\-help\\-all\\fR.\n") ||
                   options_each(tables, count, man_option, out, e)
               ? -1
               : 0;
}

/* ---- completion ---------------------------------------------------------------------------- */

/* The words among the allowed values, ranges left out, each after a space. */
static int put_words(Text *out, const Option *row, Err *e)
{
    const char *part;
    size_t n;
    for (size_t i = 0; option_alternative(row, i, &part, &n); i++)
        if (*part != '[' && *part != '(' && text_addf(out, e, " %.*s", (int)n, part)) return -1;
    return 0;
}

/* " --name | -n) kind=list words=' a b' ;;": what may follow an option. Flags have nothing. */
static int completion_value(const Option *row, Text *out, Err *e)
{
    int list = row->type == OPTION_WORDS || row->type == OPTION_NUMBERS;
    const char *kind = row->type == OPTION_FILE  ? "file"
                       : row->type == OPTION_DIR ? "dir"
                       : list                    ? "list"
                                                 : "word";
    if (row->type == OPTION_FLAG) return 0;
    return text_addf(out, e, "        --%s", row->name) ||
                   (row->letter && text_addf(out, e, " | -%c", row->letter)) ||
                   text_addf(out, e, ") kind=%s words='", kind) ||
                   put_words(out, row, e) || text_addf(out, e, "' ;;\n")
               ? -1
               : 0;
}

static int completion_command(const OptionTable *t, Text *out, Err *e)
{
    const Option *row;
    int status = text_addf(out, e, "    %s)\n        options='--config --help --help-all",
                           t->command);
    for (size_t i = 0; (row = options_row(t, i)) && !status; i++)
        status = text_addf(out, e, " --%s", row->name);
    status = status || text_addf(out, e, "'\n        case $before in\n");
    for (size_t i = 0; (row = options_row(t, i)) && !status; i++)
        status = completion_value(row, out, e);
    status = status || text_addf(out, e, "        --config) kind=file ;;\n        esac ;;\n");
    return status ? -1 : 0;
}

/* " generate chat ...": the commands. */
static int put_commands(const OptionTable *const *tables, size_t count, Text *out, Err *e)
{
    for (size_t t = 0; t < count; t++)
        if (text_addf(out, e, " %s", tables[t]->command)) return -1;
    return 0;
}

int options_completion(const OptionTable *const *tables, size_t count, const char *more, Text *out,
                       Err *e)
{
    int status = text_addf(out, e,
                           "# bash completion for align, written by align --completion\n"
                           "_align() {\n"
                           "    local word=${COMP_WORDS[COMP_CWORD]} IFS=$' \\n'\n"
                           "    local before=${COMP_WORDS[COMP_CWORD-1]} options= kind= words=\n"
                           "    # bash takes --name=value for three words\n"
                           "    [ \"$word\" = = ] && word= ||\n"
                           "        { [ \"$before\" = = ] && "
                           "before=${COMP_WORDS[COMP_CWORD-2]}; }\n"
                           "    COMPREPLY=()\n"
                           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
                           "        COMPREPLY=($(compgen -W '%s",
                           more);
    status = status || put_commands(tables, count, out, e) ||
             text_addf(out, e,
                       "' -- \"$word\"))\n"
                       "        return\n"
                       "    fi\n"
                       "    case ${COMP_WORDS[1]} in\n"
                       "    help) kind=word words='") ||
             put_commands(tables, count, out, e) || text_addf(out, e, "' ;;\n");
    for (size_t t = 0; t < count && !status; t++) status = completion_command(tables[t], out, e);
    return status ||
                   text_addf(
                       out, e,
                       "    esac\n"
                       "    case $kind in\n"
                       "    word) COMPREPLY=($(compgen -W \"$words\" -- \"$word\")) ;;\n"
                       "    list)\n" /* the last element of a,b,c */
                       "        local head=\n"
                       "        case $word in *,*) head=${word%%,*}, ;; esac\n"
                       "        COMPREPLY=($(compgen -P \"$head\" -W \"$words\" -- "
                       "\"${word##*,}\")) ;;\n"
                       "    dir) IFS=$'\\n' COMPREPLY=($(compgen -d -- \"$word\")) ;;\n"
                       "    file) IFS=$'\\n' COMPREPLY=($(compgen -f -- \"$word\")) ;;\n"
                       "    *)\n"
                       "        case $word in\n"
                       "        -*) COMPREPLY=($(compgen -W \"$options\" -- \"$word\")) ;;\n"
                       "        *) IFS=$'\\n' COMPREPLY=($(compgen -f -- \"$word\")) ;;\n"
                       "        esac ;;\n"
                       "    esac\n"
                       "    case $kind in word | list) ;; *) compopt -o filenames 2>/dev/null ;; "
                       "esac\n"
                       "}\n"
                       "complete -F _align align\n")
               ? -1
               : 0;
}

/* ---- the table for programs ---------------------------------------------------------------- */

/* , "key":"value" (null for NULL) */
static int put_member(Text *out, const char *key, const char *value, Err *e)
{
    if (text_addf(out, e, ",\"%s\":", key)) return -1;
    return value ? json_put_string(out, value, strlen(value), e) : text_add(out, "null", 4, e);
}

static int row_json(const char *command, const Option *row, Text *out, Err *e)
{
    static const char *const types[] = {
        [OPTION_FLAG] = "flag",     [OPTION_TEXT] = "text",   [OPTION_TEXTS] = "texts",
        [OPTION_FILE] = "file",     [OPTION_DIR] = "dir",     [OPTION_COUNT] = "count",
        [OPTION_NUMBER] = "number", [OPTION_SIZE] = "size",   [OPTION_CHOICE] = "choice",
        [OPTION_WORDS] = "words",   [OPTION_NUMBERS] = "numbers"};
    int required = row->value == option_required;
    char allowed[ALLOWED_MAX];
    option_allowed(row, allowed);
    return text_addf(out, e, "{\"command\":\"%s\"", command) ||
                   put_member(out, "option", row->name, e) ||
                   put_member(out, "type", types[row->type], e) ||
                   put_member(out, "allowed", *allowed ? allowed : NULL, e) ||
                   put_member(out, "default", required ? NULL : row->value, e) ||
                   text_addf(out, e, ",\"required\":%s", required ? "true" : "false") ||
                   put_member(out, "when", row->when, e) ||
                   put_member(out, "meaning", row->help, e) || text_add(out, "}", 1, e)
               ? -1
               : 0;
}

int options_table_json(const OptionTable *const *tables, size_t count, Text *out, Err *e)
{
    const Option *row;
    const char *before = "[";
    for (size_t t = 0; t < count; t++) {
        for (size_t i = 0; (row = options_row(tables[t], i)); i++) {
            if (text_addf(out, e, "%s\n", before) || row_json(tables[t]->command, row, out, e))
                return -1;
            before = ",";
        }
    }
    return text_addf(out, e, "\n]\n");
}
