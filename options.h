/* options.h - the command line and the configuration file, from one table per subcommand.
 *
 * A row of the table says everything about an option: name, type, default, allowed values, help.
 * The same rows parse and check a command line, read --config FILE.json, print --help, write the
 * resolved configuration and fill the table in README.md, so none of these can disagree.
 *
 * Nothing here prints: results are Text, errors are Err (ERR_USAGE), notes go through Log.
 */
#ifndef ALIGN_OPTIONS_H
#define ALIGN_OPTIONS_H

#include "base.h"

typedef enum {
    OPTION_FLAG,   /* takes no value; --name=false turns off what the file turned on */
    OPTION_TEXT,   /* any text */
    OPTION_FILE,   /* a path, not empty */
    OPTION_DIR,    /* a directory's path, not empty */
    OPTION_COUNT,  /* a whole number of 64 bits */
    OPTION_NUMBER, /* a finite number */
    OPTION_SIZE,   /* bytes: 65536, 512M, 1.5G (K = 1024) */
    OPTION_CHOICE, /* one word */
    OPTION_WORDS,  /* words separated by commas */
    OPTION_NUMBERS /* numbers separated by commas */
} OptionType;

/* allowed: alternatives separated by '|'. A number's range is an interval in the notation of
 * mathematics, "[0,1)" or "(0,inf)"; everything else is a word that stands for itself:
 *     "sigmoid|hinge|ipo"     "[1,1024]|auto"     NULL = any
 * value: the default as one would type it; NULL = none. */
typedef struct {
    const char *name; /* long, without dashes */
    char letter;      /* short form, or 0 */
    OptionType type;
    const char *value;
    const char *allowed;
    const char *help; /* one sentence without a full stop */
} Option;

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

/* Everything a subcommand takes. Its groups may be shared with other subcommands. --config and
 * --help belong to every table and stand in none. */
typedef struct {
    const char *command;
    const char *summary; /* what it does, one line */
    const char *operand; /* "PATH": takes one; "[RUN]": takes one or none; NULL: takes none */
    const char *example; /* a command line worth copying */
    const OptionGroup *const *groups; /* ended by NULL */
} OptionTable;

/* The i-th row of a table in the order of its groups, NULL beyond the last. */
const Option *options_row(const OptionTable *t, size_t i);

typedef enum { FROM_DEFAULT, FROM_FILE, FROM_COMMAND } OptionOrigin;

typedef struct {
    const Option *row;
    const char *text; /* the value as spelled, or NULL */
    OptionOrigin from;
} OptionValue;

/* The resolved configuration of one run. */
typedef struct {
    const OptionTable *table;
    OptionValue *values;
    size_t count;
    const char *operand; /* NULL = not given */
    int help;            /* --help was met: nothing else was checked */
    Pool pool;
} Options;

/* Parses the arguments that follow the subcommand. Every value is checked; a flag beats the file,
 * the file beats the default. ERR_USAGE for everything wrong (the line names the option, what was
 * found, what is allowed, and for unknown names the nearest one); ERR_NO_INPUT and ERR_DATA for a
 * --config that is missing or no JSON. An option given twice: the last counts, and log is told.
 * Free with options_free also after an error. */
int options_parse(Options *o, const OptionTable *t, int argc, const char *const *argv,
                  const Log *log, Err *e);
void options_free(Options *o);

/* Values by long name; the name must be in the table and of the type (asserted). */
const char *option_text(const Options *o, const char *name); /* NULL = none */
int option_flag(const Options *o, const char *name);
int option_is(const Options *o, const char *name, const char *word);
uint64_t option_count(const Options *o, const char *name); /* COUNT, SIZE; not a word */
double option_number(const Options *o, const char *name);  /* NUMBER; not a word */
int option_given(const Options *o, const char *name);      /* not the default */
int option_exists(const Options *o, const char *name);     /* is in this table at all */
/* Element i of a list (WORDS, NUMBERS): 1, or 0 beyond the last. word has room for size bytes. */
int option_word(const Options *o, const char *name, size_t i, char *word, size_t size);
int option_list_number(const Options *o, const char *name, size_t i, double *value);

/* ---- text for people and machines ---------------------------------------------------------- */

/* What `align COMMAND --help` prints. */
int options_help(const OptionTable *t, Text *out, Err *e);
/* The configuration as a JSON object that --config accepts:
 * {"command":"dpo","beta":0.1,...}, one member a line, in the order of the table. */
int options_json(const Options *o, Text *out, Err *e);
/* The same with a comment before each member, "//name": what it means, what is allowed, and its
 * default; without one group of the table (or NULL). --config skips names that begin with "//". */
int options_commented(const Options *o, const OptionGroup *without, Text *out, Err *e);
/* The configuration as lines "name=value ..." of at most `width` columns: what was given first,
 * then the defaults. */
int options_describe(const Options *o, size_t width, Text *out, Err *e);
/* The table in README.md: one row for each option, naming the commands that take it. */
int options_markdown(const OptionTable *const *tables, size_t count, Text *out, Err *e);

/* The word of `words` (count texts) nearest to text: fewest insertions, deletions, replacements
 * and swaps of neighbours (optimal string alignment); the first among equals. NULL for count 0. */
const char *nearest_word(const char *text, const char *const *words, size_t count);

#endif
