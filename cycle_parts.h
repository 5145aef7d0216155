/* cycle_parts.h - private declarations of the loop's files. */
#ifndef ALIGN_CYCLE_PARTS_H
#define ALIGN_CYCLE_PARTS_H

#include "cycle.h"

/* Configures a candidate's training (cycle_config.c), except its data, run and initial adapter, and
 * the number of the cycle, which is added to its seed. */
TrainConfig cycle_train_config(const CycleConfig *c, int method);
/* Writes what decides it, as "kto": {...}, */
int cycle_train_json(const CycleConfig *c, int method, Text *t, Err *e);

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
 * test, the rest to training. ERR_DATA if a split that is asked for cannot show both failures (it
 * needs a harmless and a harmful prompt), or if no prompt is left to train on. */
int prompts_open(PromptSet *p, const CycleConfig *c, Err *e);
void prompts_close(PromptSet *p);
/* Writes the rows of a split as JSONL, each with its "index". For training: those of a cycle. */
int prompts_write(const PromptSet *p, Split split, size_t cycle, size_t per_cycle, const char *path,
                  Err *e);

/* ---- the loop ------------------------------------------------------------------------------ */

/* The place of a policy's adapter: below RUN, or (of the first policy) anywhere. Both empty: no
 * adapter, the base model. */
typedef struct {
    char below[RUN_NAME]; /* relative to RUN, or "" */
    const char *outside;  /* a path, or NULL */
} AdapterAt;

/* The state of the loop. */
typedef struct {
    const CycleConfig *c;
    const CycleEvents *events;
    CycleResult *result;
    Ledger ledger;
    PromptSet prompts;
    int chat;         /* prompts of text go through a chat template */
    int dated;        /* which asks for the day */
    char day[CHAT_DATE];
    CycleConfig with_day; /* what c points to once the day is known */
    size_t context;   /* of the model, in tokens */
    char model_sha256[65], model_stamp[65]; /* of the model as the process found it; "" in a plan */
    AdapterAt policy; /* the current one */
    Estimate metrics[EVALUATE_COUNT]; /* its figures on validation */
    Change since_first[EVALUATE_COUNT]; /* the same against the first policy's */
    char examined[RUN_NAME];            /* the folder that holds its answers to validation */
} Loop;

/* Writes RUN/name to out, of IO_PATH_MAX bytes. */
int loop_path(const Loop *l, char *out, const char *name, Err *e);
/* Writes the path of an adapter; "" for none. */
int loop_adapter(const Loop *l, const AdapterAt *a, char *out, Err *e);
/* Sets l->chat: do prompts of text go through a chat template? */
int loop_find_chat(Loop *l, Err *e);
void loop_tell(const Loop *l, CycleProgress p);
/* Removes the temporary files "name.tmp.<pid>" that a killed run left, in every folder. */
int loop_sweep(const char *folder, Err *e);
/* ERR_CREATE if RUN exists and is not to be resumed. */
int loop_check_new(const CycleConfig *c, Err *e);
/* Checks that the folder holds a run (or a grid: `what`), or nothing yet; before that nothing in it
 * is touched. A run has the file `marker`, or was killed early: then config.json identifies it.
 * ERR_CREATE for a folder with other contents. */
int loop_check_folder(const char *run, const char *marker, const char *what, Err *e);

/* ---- stages (cycle_stage.c) ---------------------------------------------------------------- */

typedef struct Stage Stage;
/* What all stages of one kind have in common: one row for each kind. */
typedef struct {
    const char *event; /* in the ledger, and for whoever shows progress */
    int told;          /* progress is reported when it begins; else by `run`, or not at all */
    /* Writes the outputs, and what the ledger is to say of them, a JSON object. */
    int (*run)(Loop *l, Stage *s, Text *facts, Err *e);
    /* Reads that again where the stage was done before. NULL: nobody needs it. */
    int (*recall)(const Stage *s, const Json *facts, Err *e);
    /* Spells out everything that decides the outputs within one grid, whose runs then share them
     * (NULL: they do not), and says the same of outputs that another run gave (NULL: nothing). */
    int (*key)(const Loop *l, const Stage *s, Text *key, Err *e);
    int (*taken)(const Loop *l, const Stage *s, Text *facts, Err *e);
} StageKind;

/* A stage: what it is for, what it reads and what it writes. Paths are relative to RUN; lists end
 * with NULL. */
enum { STAGE_FILES = 5 };
struct Stage {
    const StageKind *kind;
    size_t cycle;
    const char *name; /* "" = none */
    const char *inputs[STAGE_FILES], *outputs[STAGE_FILES];
    const void *work; /* what its kind's functions are handed */
};
/* Runs a stage and records it, unless the ledger has it: then its outputs must be as they were
 * recorded, else ERR_DATA. In a grid its outputs may come from another run. ERR_INTERRUPTED if a
 * stop was requested. */
int stage_run(Loop *l, Stage *s, Err *e);
/* Appends the entry of a stage that has run. facts NULL = none. */
int stage_record(Loop *l, const Stage *s, const char *facts, Err *e);

/* Adds the hash of RUN/name, or of an adapter's weights, to a key. Outside a grid it does
 * nothing. */
int share_key_file(const Loop *l, Text *key, const char *name, Err *e);
int share_key_adapter(const Loop *l, Text *key, const AdapterAt *a, Err *e);

/* ---- answers (cycle_answer.c) -------------------------------------------------------------- */

/* A policy in memory, to be closed by engine_close. What is odd about its files is said once, when
 * a run begins: later stages have no log. ERR_DATA if its model is no longer that of the run. */
int policy_open(const Loop *l, const AdapterAt *adapter, const Log *log, Engine *out, Err *e);
/* How it reads prompts, under a system message (NULL = none). */
DataOptions policy_prompts(const Engine *p, const CycleConfig *c, const char *system);

/* Stage "generate": answers under a system message (NULL = none) to RUN/prompts into RUN/out. A
 * stopped stage leaves RUN/out.part, from which it goes on. */
int generate_stage(Loop *l, size_t cycle, const char *name, const AdapterAt *adapter,
                   const char *system, const char *prompts, const GenerateOptions *o,
                   const char *out, Err *e);
/* Checks that the held-out prompts of a file (the run's, or one of its splits) leave room for an
 * answer in the model's context. A prompt without room would silently not be measured: ERR_DATA
 * naming its line. Training prompts without room are left out, and counted as "left_out" of their
 * stage. */
int prompts_check_fit(const Loop *l, const char *path, Err *e);
/* Says in which ways the run's prompts are read otherwise than TRL reads them. */
int prompts_describe(const Loop *l, Err *e);
/* Fills in a judge for this run. `self` as a judge is the current policy; `self` as a validator is
 * the first policy from beginning to end: what is measured must not move the ruler. The paths of
 * adapter and answers are written into path[0] and path[1]. */
int loop_judge(const Loop *l, const JudgeConfig *config, JudgeConfig *out,
               char path[2][IO_PATH_MAX], Err *e);
/* Stage "judge": writes RUN/in with actions to RUN/out. */
int judge_stage(Loop *l, size_t cycle, const char *name, const JudgeConfig *config, const char *in,
                const char *out, Err *e);
/* The examination of a policy on prompts that it was not trained on: where its answers go, and its
 * figures. */
typedef struct {
    const RunPlace *place;
    const AdapterAt *adapter;
    const char *prompts;             /* relative to RUN */
    const char *against;             /* folder of the first policy's answers to them, or NULL */
    Estimate metrics[EVALUATE_COUNT];  /* out */
    Change since_first[EVALUATE_COUNT]; /* out, if against is given; else zeros */
} Examination;
/* Stages generate, judge (by the validator) and evaluate in the folder of its place. */
int examine(Loop *l, size_t cycle, Examination *x, Err *e);
/* Compares judged answers in RUN/before and RUN/after, for a decision. */
int compare_folders(const Loop *l, const char *before, const char *after, Comparison *out, Err *e);

/* Labels RUN/in into RUN/out without an entry in the ledger; reports progress as `stage`. */
int judge_rows(const Loop *l, const JudgeConfig *config, const char *in, const char *out,
               CycleProgress stage, JudgeReport *report, Err *e);

/* ---- the guard (cycle_guard.c) ------------------------------------------------------------- */

/* Stage "guard": the questions as rows, in RUN/guard.jsonl; then a policy's scores, in
 * the guard.jsonl of a place. Without questions it does nothing. */
int guard_questions_stage(Loop *l, Err *e);
int guard_stage(Loop *l, size_t cycle, const RunPlace *place, const AdapterAt *adapter, Err *e);
/* Scores rows of questions (cycle_guard_rows) under a policy. */
int guard_score(const Loop *l, Engine *p, const char *in, const char *out, Err *e);
int guard_compare_folders(const Loop *l, const char *before, const char *after, GuardResult *r,
                          Err *e);
/* Members of an object: "choices":{"rows","change":{...}},"answers":{...} */
int guard_json(const GuardResult *r, Text *t, Err *e);

/* ---- preferences (cycle_prefer.c) ---------------------------------------------------------- */

/* Writes {"prompt":..., as it stands, or for chat as messages with the system message first. */
int preference_put_prompt(Text *t, int chat, const char *system, const Json *prompt, Err *e);
/* Writes "key":text and a comma; text as a list of one assistant message, or as a plain string. */
int preference_put_answer(Text *t, const char *key, const Json *text, int chat, Err *e);
/* A judged sample of a prompt; index and level are the prompt's. */
typedef struct {
    const Json *json, *response;
    uint64_t index, sample;
    unsigned level;
    Action action;
    double score;
    int repeated, empty;
    int open;  /* it was cut at its limit */
    Pool pool; /* holds json, if samples_each read it */
} Sample;
/* ERR_DATA for a row that is not a judged sample. */
int sample_read(Sample *s, const Json *row, Err *e);
/* Returns the first best sample that is not empty, or NULL. */
const Sample *sample_best(const Sample *s, size_t n);
/* Returns the demonstration of a prompt, or NULL. */
const Json *sample_demonstration(const Sample *s, const PreferenceOptions *o);
/* Hands the samples of each prompt of a judged file to fn, one prompt after another. */
typedef int (*SamplesFn)(void *ctx, Sample *s, size_t n, Err *e);
int samples_each(const char *judged, SamplesFn fn, void *ctx, Err *e);

/* Stage "prefer": RUN/judged (and RUN/revised, unless NULL) to RUN/kto and RUN/dpo. */
int prefer_stage(Loop *l, size_t cycle, const char *judged, const char *revised, const char *kto,
                 const char *dpo, PreferenceReport *r, Err *e);
PreferenceOptions prefer_options(const Loop *l, size_t cycle);

/* Stages "revise", "generate" and "judge" of the prompts where every sample fails (cycle_revise.c):
 * *revised = the judged revisions, relative to RUN; "" if there are none. */
int revise_stages(Loop *l, size_t cycle, const char *judged, char revised[RUN_NAME], Err *e);
/* Stage "feedback" (cycle_feedback.c): RUN/feedback.jsonl. Without feedback it does nothing. */
int feedback_stage(Loop *l, Err *e);
/* Writes its rows to `out`, without those of held-out prompts. */
int feedback_rows(const Loop *l, const char *out, FeedbackReport *r, Err *e);

/* ---- choices (cycle_select.c) -------------------------------------------------------------- */

extern const char *const candidate_status_names[]; /* "off" "trained" "skipped" "diverged" */
/* Stage "select": chooses (cycle_select), writes selection.json and the adapter of the new policy,
 * in the cycle's folder. */
int select_stage(Loop *l, Selection *s, Err *e);
/* Writes results.json: the last policy's figures (on the test split, if there is one), the first's,
 * and every cycle's on validation. */
int put_results(Text *t, const Loop *l, Err *e);

#endif
