/* align.h - what the files of the top floor share: the commands, option groups that several of them
 * take, opening a model, writing results, notes and progress for people.
 *
 * Only this floor prints. Results go to stdout (or to -o, all or nothing), everything else to
 * stderr. A command returns 0, or -1 with *e filled; align.c prints it and exits with its code.
 */
#ifndef ALIGN_ALIGN_H
#define ALIGN_ALIGN_H

#include "chat.h"
#include "data.h"
#include "engine.h"
#include "evaluate.h"
#include "generate.h"
#include "judge.h"
#include "model.h"
#include "options.h"
#include "train.h"

#include <stdio.h>

typedef struct {
    const OptionTable *table;
    int (*run)(const Options *o, Err *e);
} Command;

/* align_text.c */
extern const Command command_tokenize, command_score;
/* align_generate.c */
extern const Command command_generate, command_chat;
/* align_train.c */
extern const Command command_sft, command_dpo, command_kto;
/* align_explain.c */
extern const Command command_explain;
/* align_judge.c */
extern const Command command_judge;
/* align_evaluate.c */
extern const Command command_evaluate;
/* align_gate.c */
extern const Command command_gate;
/* align_cycle.c */
extern const Command command_cycle;
/* align_model.c */
extern const Command command_merge, command_export;
/* align_selftest.c */
extern const Command command_selftest;
/* align_inspect.c */
extern const Command command_inspect;
/* align_report.c */
extern const Command command_report;
/* align_bench.c */
extern const Command command_bench;

/* ---- options that several commands take ----------------------------------------------------- */

extern const OptionGroup group_quiet; /* --quiet */

/* What data_options says, for rows of a kind; max_length and append_eos are the caller's. */
DataOptions row_options(const Options *o, DataKind kind);
EngineOptions engine_options_from(const Options *o);
void threads_from(const Options *o);

/* ---- a model ready to run ------------------------------------------------------------------- */

/* engine_open with model_options, adapter_options and engine_options, and their threads. */
int engine_from(Engine *g, const Options *o, Err *e);

/* ---- notes and progress --------------------------------------------------------------------- */

/* Where lower floors send their notes: stderr, "align: ..."; --quiet keeps only warnings. */
const Log *notes(void);
void notes_quiet(int quiet);
/* The resolved configuration, as notes. */
int note_options(const Options *o, Err *e);

/* A bar with the time left on a terminal, else a plain line now and then. Nothing with --quiet. */
typedef struct {
    const char *what; /* "score" */
    const char *unit; /* of what is counted per second: "tokens" */
    double start, shown;
    int drawn;      /* a bar stands on the screen */
    unsigned lines; /* shown so far */
} Progress;
void progress_begin(Progress *p, const char *what, const char *unit);
/* done of total; units counted so far; `tail` (or NULL) stands at the end of the line. */
void progress_show(Progress *p, uint64_t done, uint64_t total, uint64_t units, const char *tail);
/* The same with times measured elsewhere, in seconds, and units per second. */
void progress_draw(Progress *p, uint64_t done, uint64_t total, double passed, double left,
                   double rate, const char *tail);
void progress_end(Progress *p);

/* Shows the progress of a training run: ctx of TrainEvents.progress is a TrainShow from {0}. */
typedef struct {
    Progress progress;
    const char *phase;
} TrainShow;
void train_show(void *ctx, const TrainProgress *p);

/* ---- results -------------------------------------------------------------------------------- */

/* Where results go: the file of --output, all or nothing, or standard output. A terminal gets them
 * through text_mask; a file or a pipe gets every byte. */
typedef struct {
    Writer file;
    int to_file, shown;
    char cut[4]; /* the beginning of a character whose rest is to come */
    size_t n_cut;
} Output;
int output_open(Output *out, const char *path, Err *e); /* path NULL or "-" = standard output */
int output_put(Output *out, const char *bytes, size_t len, Err *e);
int output_flush(Output *out, Err *e); /* nothing more comes that could end a cut-off character */
int output_commit(Output *out, Err *e);
void output_abort(Output *out); /* safe after commit and on a zeroed Output */
/* The error of a failed write to standard output (errno is set). A reader who left (a closed pipe)
 * knows that already: the text is then empty, and nothing is printed. */
int stdout_failed(Err *e);
/* "0.712 [0.680, 0.744]", or n/a, in a column of `cell` bytes; each number `figure` at least. */
int put_interval(Text *out, const Estimate *x, int figure, int cell, Err *e);
#define LABEL_MAX 32
void label_of(const char *name, char label[LABEL_MAX]); /* "safety_score" as "safety score" */
/* "name":[1,2,3] */
int put_ids(Text *out, const char *name, const int32_t *ids, size_t n, Err *e);
/* A row as tokens, for each of its sides: text with the scored tokens in brackets, or as JSON
 * [{"side","ids","scored","text"}]. */
int put_row_tokens(const Tokenizer *t, const Row *row, size_t sides, int json, Text *out, Err *e);
/* Adds a text from a file as people may see it: at most `most` bytes, whole characters; control
 * bytes, which could drive a terminal, as '?'. */
int put_shown(Text *out, const char *text, size_t most, Err *e);
/* Prints a finished text on standard output and frees it. */
int print_text(Text *t, Err *e);

#endif
