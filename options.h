/* options.h - the command line and the configuration file, from one table per subcommand.
 *
 * A row of the table says everything about an option: name, type, default, allowed values, help,
 * and the field of the settings that holds its value. The same rows parse and check a command line,
 * read --config FILE.json, fill the settings, check and write them (config.json), print --help and
 * fill the table in OPTIONS.md, so none of these can disagree. The rows stand in the rooms that own
 * the fields; this one knows none of them.
 *
 * Nothing here prints: results are Text, errors are Err (ERR_USAGE), notes go through Log.
 */
#ifndef ALIGN_OPTIONS_H
#define ALIGN_OPTIONS_H

#include "base.h"

#include <stddef.h>

typedef enum {
    OPTION_FLAG,   /* takes no value; --name=false turns off what the file turned on */
    OPTION_TEXT,   /* any text */
    OPTION_TEXTS,  /* a text, not empty; the option may be given several times */
    OPTION_FILE,   /* a path, not empty */
    OPTION_DIR,    /* a directory's path, not empty */
    OPTION_COUNT,  /* a whole number of 64 bits */
    OPTION_NUMBER, /* a finite number */
    OPTION_SIZE,   /* bytes: 65536, 512M, 1.5G (K = 1024) */
    OPTION_CHOICE, /* one word */
    OPTION_WORDS,  /* words separated by commas */
    OPTION_NUMBERS /* numbers separated by commas */
} OptionType;

/* The C type of the field that holds an option's value; FIELD finds it. */
typedef enum {
    HOLDS_NOTHING,
    HOLDS_INT,      /* a flag as 0 or 1; of a row with words the place of its word */
    HOLDS_UNSIGNED, /* the same: compilers differ in what an enum is */
    HOLDS_ULONG,    /* size_t and uint64_t are one of these two */
    HOLDS_ULLONG,
    HOLDS_DOUBLE,
    HOLDS_TEXT,  /* NULL = none; the text lives as long as Options */
    HOLDS_TEXTS, /* an array of them; a size_t at `beside` holds their number */
    HOLDS_FORM   /* anything that the row's form reads and shows */
} OptionHolds;

/* A value that is no plain number, word or text. read: from a text as one types it, which was found
 * to be allowed; show: back again, nothing where there is none. */
typedef struct {
    void (*read)(void *field, const char *text);
    int (*show)(const void *field, Text *out, Err *e);
} OptionForm;

/* allowed: alternatives separated by '|'. A number's range is an interval in the notation of
 * mathematics, "[0,1)" or "(0,inf)"; everything else is a word that stands for itself:
 *     "sigmoid|hinge|ipo"     "[1,1024]|auto"     NULL = any
 * words: more of them, in front: the names that a room has anyway, NULL beyond the last.
 * value: the default as one would type it; NULL = none. A word where a number is expected, and a
 * choice that is none of `words`, makes a field 0.
 *
 * A row ends in FIELD or FORM, which say where its value belongs, or in BY_NAME. */
typedef struct {
    const char *name; /* long, without dashes */
    char letter;      /* short form, or 0 */
    OptionType type;
    const char *value;
    const char *allowed;
    const char *help; /* one sentence without a full stop */

    const char *(*words)(size_t i);
    OptionHolds holds;
    size_t at;     /* of the field in its settings */
    size_t beside; /* of an int that is 1 where a word stands for the number, which is then left as
                    * it was; 0 = there is none. Of HOLDS_TEXTS: see there */
    const OptionForm *form;
    const char *key; /* in config.json; NULL = name */
    int free;        /* may differ when a run is resumed: it changes no bit of the results */
    const char *when; /* conditions, separated by spaces, under which the value is read at all;
                       * NULL = always. See options_check_when */
} Option;

#define HOLDS_OF(field)                                                                            \
    _Generic(field,                                                                                \
        int: HOLDS_INT,                                                                            \
        unsigned: HOLDS_UNSIGNED,                                                                  \
        unsigned long: HOLDS_ULONG,                                                                \
        unsigned long long: HOLDS_ULLONG,                                                          \
        double: HOLDS_DOUBLE,                                                                      \
        const char *: HOLDS_TEXT,                                                                  \
        const char *const *: HOLDS_TEXTS)
/* The value is this member of the settings, a struct of this type. */
#define FIELD(type, member) .at = offsetof(type, member), .holds = HOLDS_OF(((type *)0)->member)
/* The settings are one value of this type. */
#define WHOLE(type) .at = 0, .holds = HOLDS_OF((type){0})
/* This member, or part of the settings, in a form of its own. */
#define FORM(type, member, its_form)                                                               \
    .at = offsetof(type, member), .holds = HOLDS_FORM, .form = &(its_form)
/* The command asks for the value by the option's name. */
#define BY_NAME .holds = HOLDS_NOTHING

/* Default of an option that must be given. */
extern const char option_required[];

typedef struct {
    const char *title;
    const Option *rows;
    size_t count;
} OptionGroup;
#define OPTION_GROUP(title, rows)                                                                  \
    {                                                                                              \
        title, rows, sizeof(rows) / sizeof(rows)[0]                                                \
    }

/* Everything a subcommand takes. Its groups may be shared with other subcommands. --config, --help
 * and --help-all belong to every table and stand in none. */
typedef struct {
    const char *command;
    const char *summary; /* what it does, one line */
    const char *operand; /* "PATH": takes one; "[RUN]": takes one or none; NULL: takes none */
    const char *example; /* a command line worth copying */
    const OptionGroup *const *groups; /* ended by NULL */
    const char *first; /* names, separated by spaces, that --help shows; NULL: it shows all */
} OptionTable;

/* The i-th row of a table in the order of its groups, NULL beyond the last. */
const Option *options_row(const OptionTable *t, size_t i);

typedef enum { FROM_DEFAULT, FROM_FILE, FROM_COMMAND } OptionOrigin;

typedef struct {
    const Option *row;
    const char *text; /* the value as spelled, or NULL; of TEXTS a JSON array */
    OptionOrigin from;
    const char **texts; /* of TEXTS */
    size_t n_texts;
} OptionValue;

/* The resolved configuration of one run. */
typedef struct {
    const OptionTable *table;
    OptionValue *values;
    size_t count;
    const char *operand; /* NULL = not given */
    int help;            /* --help (1) or --help-all (2) was met: nothing else was checked */
    Pool pool;
} Options;

/* Parses the arguments that follow the subcommand. Every value is checked; a flag beats the file,
 * the file beats the default. ERR_USAGE for everything wrong (the line names the option, what was
 * found, what is allowed, and for unknown names the nearest one); ERR_NO_INPUT and ERR_DATA for a
 * --config that is missing or no JSON. An option given twice: the last counts, and log is told; of
 * TEXTS each counts, and those of the command line replace those of the file.
 * Free with options_free also after an error. */
int options_parse(Options *o, const OptionTable *t, int argc, const char *const *argv,
                  const Log *log, Err *e);
void options_free(Options *o);

/* After options_parse: ERR_USAGE for a value on the command line that says something else than the
 * default and that nothing reads, because a condition of its row's `when` does not hold; the line
 * names both options. A value from the file is only warned of, as a file may serve several choices;
 * so is every value whose conditions begin with '~'. A condition is one of
 *     revise                 that option says something else than its default
 *     !full                  it does not
 *     judge=self|model       one of its words is one of these; an empty word stands for no value
 *     loss!sft               none is
 *     judges/judge=model     the same of the first that says something, else of the last; of a flag
 *                            that it is set
 *     judge:NAME=...         holds in every other command; "judge:" alone never does in that one
 * A condition on options that the table does not have holds. */
int options_check_when(const Options *o, const Log *log, Err *e);
/* ERR_USAGE for the first value on the command line that says something else than the default and
 * is none of `names` (separated by spaces), which are all that the command reads with --with. */
int options_only(const Options *o, const char *names, const char *with, Err *e);
/* Does the option's value say something else than its default? 1 = in the file, 2 = on the command
 * line. */
int option_says(const Options *o, const char *name);

/* Values by long name; the name must be in the table and of the type (asserted). */
const char *option_text(const Options *o, const char *name); /* NULL = none */
int option_flag(const Options *o, const char *name);
int option_is(const Options *o, const char *name, const char *word);
uint64_t option_count(const Options *o, const char *name); /* COUNT, SIZE; not a word */
double option_number(const Options *o, const char *name);  /* NUMBER; not a word */
int option_given(const Options *o, const char *name);      /* not the default */
int option_exists(const Options *o, const char *name);     /* is in this table at all */
/* Element i of WORDS: 1, or 0 beyond the last. word has room for size bytes. */
int option_word(const Options *o, const char *name, size_t i, char *word, size_t size);

/* ---- settings (options_fields.c) ------------------------------------------------------------ */

/* The defaults of a group, into settings that are 0 so far; rows without a default are left out. */
void options_defaults(const OptionGroup *g, void *settings);
/* What the rows of a group that are in the table say, into the settings: what was typed or stood in
 * the file, else the default; a row with neither leaves its field alone. */
void options_fill(const Options *o, const OptionGroup *g, void *settings);
/* Settings from elsewhere: ERR_USAGE naming the first COUNT or NUMBER that is out of its range. */
int options_check(const OptionGroup *g, const void *settings, Err *e);

/* How members are written. */
enum {
    WRITE_LINES = 0,  /* each on its own line, indented by two spaces; what is not given left out */
    WRITE_INLINE = 1, /* all on one line */
    WRITE_NULLS = 2,  /* null for what is not given */
    WRITE_BITS = 4    /* flags as 0 and 1, not false and true */
};
/* Members of a JSON object, "name": value, from the settings: the options of the group that are
 * named (separated by spaces), in this order; names NULL = all that have a field. */
int options_write(const OptionGroup *g, const void *settings, const char *names, int how, Text *out,
                  Err *e);
/* The comma, if one is needed, line and key of a further member. */
int options_write_key(const char *key, int how, Text *out, Err *e);
/* May the option of this name (its key) differ between a run and its resumption? */
int options_free_key(const OptionGroup *g, const char *key);

/* For rows with words: the place of a word, or -1. */
int option_place(const char *(*words)(size_t i), const char *word);

/* ---- text for people and machines ---------------------------------------------------------- */

/* What `align COMMAND --help` prints, or with all != 0 --help-all: every option, in groups. */
int options_help(const OptionTable *t, int all, Text *out, Err *e);
/* The configuration as a JSON object that --config accepts: {"command":"dpo","beta":0.1,...}, one
 * member a line, in the order of the table, with a comment before each member, "//name": what it
 * means, what is allowed, and its default; without one group of the table (or NULL). --config skips
 * names that begin with "//". unset: names, then NULL, of options whose default says something else
 * than the same value given; where they are not given they stand as null, which --config takes for
 * that. */
int options_commented(const Options *o, const OptionGroup *without, const char *const *unset,
                      Text *out, Err *e);
/* The configuration as lines "name=value ..." of at most `width` columns: what was given first,
 * then the defaults. */
int options_describe(const Options *o, size_t width, Text *out, Err *e);
/* The table in OPTIONS.md: one row for each option, naming the commands that take it. */
int options_markdown(const OptionTable *const *tables, size_t count, Text *out, Err *e);
/* The same for machines, an array with one object a line for each command and option:
 * {"command","option","type","allowed","default","required","meaning"}; allowed as in Option. */
int options_table_json(const OptionTable *const *tables, size_t count, Text *out, Err *e);

/* The manual page's list of commands and its options, in man(7): sections COMMANDS and OPTIONS. */
int options_man(const OptionTable *const *tables, size_t count, Text *out, Err *e);
/* A bash script that completes commands, options and their words; `more` are first words beside the
 * commands, separated by spaces. */
int options_completion(const OptionTable *const *tables, size_t count, const char *more, Text *out,
                       Err *e);

/* For those texts: what stands for a row's value (FILE, N, ...; "" for a flag), "help [allowed;
 * default x]", whether a table has this very row, and each row of the tables once, those of one
 * name together. */
const char *option_noun(const Option *row);
/* The i-th alternative that is allowed, words first: 1, or 0 beyond the last. */
int option_alternative(const Option *row, size_t i, const char **part, size_t *len);
/* All of them, separated by '|', in out; "" where anything is allowed. */
#define ALLOWED_MAX 512
const char *option_allowed(const Option *row, char out[ALLOWED_MAX]);
/* place: found "x", allowed is ... */
int option_refuse(const Option *row, const char *text, size_t len, const char *place, Err *e);
/* A number of a row's type: of COUNT and SIZE in `whole`, of NUMBER in `number`. */
typedef struct {
    uint64_t whole;
    double number;
} OptionFigure;
int option_figure(OptionType type, const char *text, size_t len, OptionFigure *v);
/* Is it in one of the ranges of the row, or has that none? */
int option_in_range(const Option *row, const OptionFigure *v);
int option_facts(const Option *row, Text *out, Err *e);
int options_has(const OptionTable *t, const Option *row);
typedef int (*OptionPut)(const OptionTable *const *tables, size_t count, const Option *row,
                         Text *out, Err *e);
int options_each(const OptionTable *const *tables, size_t count, OptionPut put, Text *out, Err *e);

/* The word of `words` (count texts) nearest to text: fewest insertions, deletions, replacements
 * and swaps of neighbours (optimal string alignment); the first among equals. NULL for count 0. */
const char *nearest_word(const char *text, const char *const *words, size_t count);

#endif
