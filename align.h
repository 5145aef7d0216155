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
/* align_cycle.c */
extern const Command command_cycle;
/* align_model.c */
extern const Command command_merge;
/* align_selftest.c */
extern const Command command_selftest;
/* align_inspect.c */
extern const Command command_inspect;
/* align_report.c */
extern const Command command_report;
/* align_bench.c */
extern const Command command_bench;

/* ---- options that several commands take ----------------------------------------------------- */

extern const OptionGroup group_model;   /* --model */
extern const OptionGroup group_adapter; /* --adapter */
extern const OptionGroup group_engine;  /* --precision --kernel --threads --no-mmap ... */
extern const OptionGroup group_rows;    /* --map --chat-template --parse-special */
extern const OptionGroup group_quiet;   /* --quiet */

extern const OptionGroup group_seed; /* --seed */

/* Of training, explain and cycle (align_train.c). */
extern const OptionGroup group_beta, group_dpo, group_kto_weights, group_kto_pairing;
extern const OptionGroup group_reference, group_length;
extern const OptionGroup group_new_adapter, group_optimiser, group_saving;
#define DPO_LOSS_WORDS                                                                             \
    "sigmoid|hinge|ipo|exo_pair|nca_pair|robust|bco_pair|sppo_hard|aot|aot_unpaired|apo_zero|"     \
    "apo_down|discopop|sft|sigmoid_norm|cdpo"
#define KTO_LOSS_WORDS "kto|apo_zero_unpaired"
/* A configuration by defaults, then by the groups of the loss (group_dpo, ... and the option named
 * `loss`), group_length, group_rows, group_engine and group_seed. */
int train_config_begin(const Options *o, TrainMethod method, const char *loss, TrainConfig *c,
                       Err *e);
/* Further, by group_reference; and by group_new_adapter, group_optimiser and group_saving. */
void train_config_reference(const Options *o, TrainConfig *c);
int train_config_steps(const Options *o, TrainConfig *c, Err *e);

/* --max-tokens --temperature --top-k --top-p --min-p, and what they and --seed say */
extern const OptionGroup group_sampling;
GenerateOptions sampling_from(const Options *o);

/* Rows of option tables that say how a model, and how a program, is asked as a judge; the arguments
 * are the names, and the short one of length. */
/* clang-format off */
#define MODEL_JUDGE_ROWS(mode, order, uncalibrated, length, letter) \
    {mode, 0, OPTION_CHOICE, "logprob", "logprob|text", \
     "compare the log-probs of the labels, or read the model's words as CARES does"}, \
    {order, 0, OPTION_CHOICE, "rotations", "fixed|reversed|rotations", \
     "orders of the labels in its prompt: one, that and its reverse, or three rotations"}, \
    {uncalibrated, 0, OPTION_FLAG, NULL, NULL, \
     "take the labels' log-probs as they are, without those for an empty answer: for a trained " \
     "judge on answers like those it learned from"}, \
    {length, letter, OPTION_COUNT, "4096", "[0,1000000]", \
     "tokens of its prompt: longer texts are cut at their end; 0 = the model's context"}
#define COMMAND_JUDGE_ROWS(command, timeout, retries) \
    {command, 0, OPTION_TEXT, NULL, NULL, \
     "program that judges, and its arguments, separated by spaces or a JSON array; no shell " \
     "reads them"}, \
    {timeout, 0, OPTION_NUMBER, "60", "(0,86400]", "seconds it may stay silent"}, \
    {retries, 0, OPTION_COUNT, "2", "[0,1000]", \
     "runs after one that died or fell silent, each for what has no answer yet"}
/* clang-format on */
/* What the options of a judge are called, and what they say for a judge of this kind. */
typedef struct {
    const char *rules, *model, *adapter;
    const char *mode, *order, *uncalibrated, *length;
    const char *command, *timeout, *retries;
} JudgeNames;
JudgeConfig judge_from(const Options *o, const char *kind, const JudgeNames *names);
JudgeOrder judge_order_from(const Options *o, const char *name);

/* What group_rows says, for rows of a kind; max_length and append_eos are the caller's. */
DataOptions row_options(const Options *o, DataKind kind);
int model_flags(const Options *o); /* of model_load, from group_engine */
Precision precision_of(const Options *o);
void threads_from(const Options *o);

/* ---- a model ready to run ------------------------------------------------------------------- */

/* Everything that reading a text with a model takes, from group_model, group_adapter and
 * group_engine. Starts from {0}; close it also after an error. */
typedef struct {
    Tokenizer *tokenizer;
    Model model;
    Lora lora;
    const Lora *adapter; /* &lora, or NULL without --adapter */
    Compute compute;
    int model_open, compute_open;
} Engine;
int engine_open(Engine *g, const Options *o, Err *e);
void engine_close(Engine *g);

/* ---- notes and progress --------------------------------------------------------------------- */

/* Where lower floors send their notes: stderr, "align: ..."; --quiet keeps only warnings. */
const Log *notes(void);
void notes_quiet(int quiet);
/* The resolved configuration, as notes. */
int note_options(const Options *o, Err *e);
int stderr_is_terminal(void);

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

/* Where results go: the file of --output, all or nothing, or standard output. */
typedef struct {
    Writer file;
    int to_file;
} Output;
int output_open(Output *out, const char *path, Err *e); /* path NULL or "-" = standard output */
int output_put(Output *out, const char *bytes, size_t len, Err *e);
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
/* Adds a text from a file as people may see it: at most `most` bytes, whole characters; control
 * bytes, which could drive a terminal, as '?'. */
int put_shown(Text *out, const char *text, size_t most, Err *e);
/* Prints a finished text on standard output and frees it. */
int print_text(Text *t, Err *e);

#endif
