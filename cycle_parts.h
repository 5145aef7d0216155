/* cycle_parts.h - what the files of the loop share with each other, and with nobody else. */
#ifndef ALIGN_CYCLE_PARTS_H
#define ALIGN_CYCLE_PARTS_H

#include "cycle.h"

#define LEDGER_FILE "ledger.jsonl"
#define ANSWERS_FILE "answers.jsonl"
#define DEPLOYED_FILE "deployed.json"

/* A candidate's training (cycle_config.c): all but its data, run and initial adapter, and the
 * number of the cycle that its seed is raised by. */
TrainConfig cycle_train_config(const CycleConfig *c, int method);
/* What decides it, as "kto": {...}, */
int cycle_train_json(const CycleConfig *c, int method, Text *t, Err *e);

/* ---- the ledger (cycle_ledger.c) ----------------------------------------------------------- */

typedef struct {
    const char *run;
    Pool pool;
    const Json **entries; /* [count] */
    size_t count, cap;
    char head[65]; /* hash of the last entry; 64 zeros before the first */
} Ledger;

/* What is to be recorded. Paths are relative to RUN and must exist; lists end with NULL. */
typedef struct {
    const char *event, *name; /* name "" = none */
    size_t cycle;
    const char *const *inputs, *const *outputs;
    const char *facts; /* a JSON object as text, or NULL */
    /* One more output, that is written after its entry stands: its path and hash, or NULL. */
    const char *promised, *promised_sha256;
} LedgerEntry;

/* Reads the chain of a run and checks it: ERR_DATA naming the first entry that is wrong. A last
 * line without its end (a crash while appending) is taken off the file. A run without a ledger has
 * an empty one. */
int ledger_open(Ledger *l, const char *run, Err *e);
/* The same for readers, who may come while a loop appends: nothing is written, a torn line left
 * out. */
int ledger_read(Ledger *l, const char *run, Err *e);
void ledger_close(Ledger *l);
/* Hashes inputs and outputs, appends the entry, synced. */
int ledger_append(Ledger *l, const LedgerEntry *x, Err *e);
/* The entry of a stage, or NULL. */
const Json *ledger_find(const Ledger *l, const char *event, size_t cycle, const char *name);
/* 0 where all outputs of an entry are as they were recorded; else ERR_DATA naming one. */
int ledger_check_outputs(const Ledger *l, const Json *entry, Err *e);

/* ---- prompts (cycle_prompts.c) ------------------------------------------------------------- */

/* The prompts of a run, and which split each row belongs to. */
typedef enum { SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST, SPLIT_COUNT } Split;
typedef struct {
    const Json *json;
    size_t index; /* in the prompts file, from 0 */
    size_t line;  /* the same by lines, from 1 */
    unsigned level;
    size_t group; /* rows with one base prompt */
    Split split;
    uint64_t turn; /* order of training prompts over the cycles */
} PromptRow;
typedef struct {
    PromptRow *rows;
    size_t count, groups;
    size_t split_rows[SPLIT_COUNT];
    char sha256[65]; /* of the file */
    Pool pool;
} PromptSet;

/* Reads and splits: groups of each level in a seeded order, the first to validation, the next to
 * test, the rest to training. ERR_DATA where a split that is asked for cannot show both failures
 * (needs a harmless and a harmful prompt), or none is left to train on. */
int prompts_open(PromptSet *p, const CycleConfig *c, Err *e);
void prompts_close(PromptSet *p);
/* Writes the rows of a split as JSONL, each with its "index". For training: those of a cycle. */
int prompts_write(const PromptSet *p, Split split, size_t cycle, size_t per_cycle, const char *path,
                  Err *e);

/* ---- the loop ------------------------------------------------------------------------------ */

#define RUN_NAME 256 /* longest path relative to RUN */

/* Where the adapter of a policy lies: below RUN, or (the first policy's) anywhere. Both empty: no
 * adapter, the base model. */
typedef struct {
    char below[RUN_NAME]; /* relative to RUN; "" = not there */
    const char *outside;  /* NULL = not there */
} AdapterAt;

/* Where the loop stands. */
typedef struct {
    const CycleConfig *c;
    const CycleEvents *events;
    CycleResult *result;
    Ledger ledger;
    PromptSet prompts;
    int chat;         /* prompts of text go through a chat template */
    size_t context;   /* of the model, in tokens */
    AdapterAt policy; /* the current one */
    Estimate metrics[EVALUATE_COUNT]; /* its figures on validation */
    Change since_first[EVALUATE_COUNT]; /* the same against the first policy's */
    char examined[RUN_NAME];            /* the folder that holds its answers to validation */
} Loop;

/* RUN/name into out, of IO_PATH_MAX bytes. */
int loop_path(const Loop *l, char *out, const char *name, Err *e);
/* The path of an adapter; "" for none. */
int loop_adapter(const Loop *l, const AdapterAt *a, char *out, Err *e);
/* folder/name, both relative to RUN. */
void loop_name(char out[RUN_NAME], const char *folder, const char *name);
/* Sets l->chat: do prompts of text go through a chat template? */
int loop_find_chat(Loop *l, Err *e);
void loop_tell(const Loop *l, CycleProgress p);
/* Removes what writers of a run that was killed left behind: "name.tmp.<pid>", in every folder. */
int loop_sweep(const char *folder, Err *e);
/* Is there a run (a grid: `what`) in the folder, or nothing yet? Until that is known, nothing in it
 * is touched. It has `marker`, or was killed early: then config.json says whose it is. ERR_CREATE
 * for a folder of somebody else's. */
int loop_check_folder(const char *run, const char *marker, const char *what, Err *e);
/* Is this stage done? 1 with its entry (may be NULL) when its outputs are as recorded, 0 when it
 * must run; -1 with ERR_DATA where they were changed, ERR_INTERRUPTED where a stop is asked for. */
int loop_done(const Loop *l, const char *event, size_t cycle, const char *name,
              const Json **entry, Err *e);

/* ---- answers (cycle_answer.c) -------------------------------------------------------------- */

/* A policy in memory. */
typedef struct {
    Model model;
    Lora lora;
    Compute compute;
    Tokenizer *tokenizer;
    int has_lora;
} Policy;
Policy *policy_open(const Loop *l, const AdapterAt *adapter, Err *e); /* NULL: *e says why */
void policy_close(Policy *p);
/* How it answers; how it reads prompts, under a system message (NULL = none). */
Generator policy_generator(Policy *p, const GenerateOptions *o);
DataOptions policy_prompts(const Policy *p, const CycleConfig *c, const char *system);

/* Stage "generate": answers under a system message (NULL = none) to RUN/prompts into RUN/out. A
 * stopped stage leaves RUN/out.part, from which it goes on. */
int generate_stage(Loop *l, size_t cycle, const char *name, const AdapterAt *adapter,
                   const char *system, const char *prompts, const GenerateOptions *o,
                   const char *out, Err *e);
/* Do the held-out prompts of a file (the run's, or one of its splits) leave room for an answer in
 * the model's context? One that silently had none would not be measured: ERR_DATA naming its line.
 * Training prompts without room are left out, and counted as "left_out" of their stage. */
int prompts_check_fit(const Loop *l, const char *path, Err *e);
/* A judge as this run has it. `self` that labels is the policy of the moment; `self` that validates
 * is the first policy from beginning to end: what is measured must not move the ruler. The paths
 * of adapter and answers are written into path[0] and path[1]. */
int loop_judge(const Loop *l, const JudgeConfig *config, JudgeConfig *out,
               char path[2][IO_PATH_MAX], Err *e);
/* Stage "judge": RUN/in with actions into RUN/out. */
int judge_stage(Loop *l, size_t cycle, const char *name, const JudgeConfig *config, const char *in,
                const char *out, Err *e);
/* A policy on prompts that it was not trained on: where its answers go, and what they are worth. */
typedef struct {
    const char *name, *folder; /* of the stages; relative to RUN */
    const AdapterAt *adapter;
    const char *prompts;             /* relative to RUN */
    const char *against;             /* folder of the first policy's answers to them, or NULL */
    Estimate metrics[EVALUATE_COUNT];  /* out */
    Change since_first[EVALUATE_COUNT]; /* out, where against is given; else zeros */
} Examination;
/* Stages generate, judge (by the validator) and evaluate in RUN/folder. */
int examine(Loop *l, size_t cycle, Examination *x, Err *e);
/* Answers in RUN/before and RUN/after, judged, to a comparison that decides. */
int compare_folders(const Loop *l, const char *before, const char *after, Comparison *out, Err *e);

/* Labels RUN/in into RUN/out, without an entry in the ledger; tells how far `stage` is. */
int judge_rows(const Loop *l, const JudgeConfig *config, const char *in, const char *out,
               CycleProgress stage, JudgeReport *report, Err *e);

/* ---- what a grid shares (cycle_share.c) ---------------------------------------------------- */

/* Adds to a key the hash of RUN/name, of an adapter's weights. Nothing outside a grid. */
int share_key_file(const Loop *l, Text *key, const char *name, Err *e);
int share_key_adapter(const Loop *l, Text *key, const AdapterAt *a, Err *e);
/* Copies the files of a result (paths relative to RUN, ended by NULL, whose last parts differ;
 * their folders must exist) from the shared folder: 1, or 0 where it has none; or to it. Outside a
 * grid nothing happens, 0. share_has: is it there? */
int share_has(const Loop *l, const Text *key, const char *const *files, Err *e);
int share_take(const Loop *l, const Text *key, const char *const *files, Err *e);
int share_give(const Loop *l, const Text *key, const char *const *files, Err *e);

/* ---- the guard (cycle_guard.c) ------------------------------------------------------------- */

/* Stage "guard": the questions as rows, in RUN/guard.jsonl; then a policy's scores, in
 * RUN/folder/guard.jsonl. Nothing without questions. */
int guard_questions_stage(Loop *l, Err *e);
int guard_stage(Loop *l, size_t cycle, const char *name, const char *folder,
                const AdapterAt *adapter, Err *e);
/* Scores rows of questions (cycle_guard_rows) under a policy. */
int guard_score(const Loop *l, Policy *p, const char *in, const char *out, Err *e);
int guard_compare_folders(const Loop *l, const char *before, const char *after, GuardResult *r,
                          Err *e);
/* ,"choices":{"rows","change":{...}},"answers":{...} */
int guard_json(const GuardResult *r, Text *t, Err *e);

/* ---- preferences (cycle_prefer.c) ---------------------------------------------------------- */

/* {"prompt":..., : as it stands, or for chat as messages, the system's in front. */
int preference_put_prompt(Text *t, int chat, const char *system, const Json *prompt, Err *e);
/* "key":text, as a list of one message of the assistant, or a plain string; with a comma. */
int preference_put_answer(Text *t, const char *key, const Json *text, int chat, Err *e);
/* A judged sample of a prompt; index and level are the prompt's. */
typedef struct {
    const Json *json, *response;
    uint64_t index, sample;
    unsigned level;
    Action action;
    double score;
    int repeated, empty;
    Pool pool; /* of json, where samples_each read it */
} Sample;
/* ERR_DATA where a row is none. */
int sample_read(Sample *s, const Json *row, Err *e);
/* The first best sample that is not empty, or NULL. */
const Sample *sample_best(const Sample *s, size_t n);
/* The demonstration of a prompt, or NULL. */
const Json *sample_demonstration(const Sample *s, const PreferenceOptions *o);
/* Hands the samples of each prompt of a judged file to fn, one prompt after another. */
typedef int (*SamplesFn)(void *ctx, Sample *s, size_t n, Err *e);
int samples_each(const char *judged, SamplesFn fn, void *ctx, Err *e);

/* Stage "prefer": RUN/judged (and RUN/revised, unless NULL) to RUN/kto and RUN/dpo. */
int prefer_stage(Loop *l, size_t cycle, const char *judged, const char *revised, const char *kto,
                 const char *dpo, PreferenceReport *r, Err *e);
PreferenceOptions prefer_options(const Loop *l, size_t cycle);

/* Stages "revise", "generate" and "judge" of the prompts where every sample fails (cycle_revise.c):
 * *revised = the judged revisions, relative to RUN; "" where there are none. */
int revise_stages(Loop *l, size_t cycle, const char *folder, const char *judged,
                  char revised[RUN_NAME], Err *e);
/* Stage "feedback" (cycle_feedback.c): RUN/feedback.jsonl. Nothing where none is given. */
#define FEEDBACK_FILE "feedback.jsonl"
int feedback_stage(Loop *l, Err *e);

/* ---- choices (cycle_select.c) -------------------------------------------------------------- */

extern const char *const candidate_status_names[]; /* "off" "trained" "skipped" "diverged" */
/* Stage "select": chooses (cycle_select), writes selection.json and the adapter that is the policy
 * from here on, in RUN/folder. */
int select_stage(Loop *l, const char *folder, Selection *s, Err *e);
/* results.json: the last policy's figures (on the test split where there is one), the first's, and
 * every cycle's on validation. */
int put_results(Text *t, const Loop *l, Err *e);

#endif
