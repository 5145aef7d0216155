/* ledger.h - what a run of the loop did, as a chain of entries, and what it calls its files.
 *
 * The ledger is a chain. Each line is one JSON object,
 *   {"entry":N,"event":E,"cycle":C,"name":S,"time":T,"inputs":{PATH:SHA256},
 *    "outputs":{PATH:SHA256},"facts":{...},"previous":P,"hash":H}
 * with paths relative to RUN; H = SHA-256 of the line's bytes before ,"hash": and P = H of the line
 * before (64 zeros in the first). A change of the past shows, because each line depends on the
 * hashes of all lines before it. Whoever can write the files can also rewrite the whole chain: keep
 * the last H in another place, and compare.
 */
#ifndef ALIGN_LEDGER_H
#define ALIGN_LEDGER_H

#include "io.h"

/* ---- the names of a run -------------------------------------------------------------------- */

#define RUN_NAME 256 /* bytes of a path relative to RUN */

/* In RUN. */
#define LEDGER_FILE "ledger.jsonl"
#define CONFIG_FILE "config.json" /* in each candidate's training run, too */
#define TRAIN_FILE "train.jsonl"
#define VALIDATION_FILE "validation.jsonl"
#define TEST_FILE "test.jsonl"
#define ANSWERS_FILE "answers.jsonl"   /* verdicts of judges that are asked */
#define FEEDBACK_FILE "feedback.jsonl" /* rows that people's thumbs gave */
#define DEPLOYED_FILE "deployed.json"
/* Where a policy answered. */
#define RESPONSES_FILE "responses.jsonl"
#define JUDGED_FILE "judged.jsonl"
#define RESULTS_FILE "results.json" /* in RUN: of the last policy */
#define GUARD_FILE "guard.jsonl"    /* its scores; in RUN: the questions */
/* In a cycle's folder, and in that of a training run. */
#define SELECTION_FILE "selection.json"
#define METRICS_FILE "metrics.jsonl"
#define ADAPTER_FOLDER "adapter"

/* What is done with a policy's answers: how the ledger names these stages, and their folder. */
typedef struct {
    char stage[64], folder[64];
} RunPlace;
extern const RunPlace run_first; /* the first policy, on the validation prompts */
enum { RUN_TEST_FIRST, RUN_TEST_LAST, RUN_TESTS };
extern const RunPlace run_tests[RUN_TESTS]; /* the first and the last policy, on the test prompts */

/* A candidate of a cycle, by the name of its method. */
typedef struct {
    char folder[64], adapter[64]; /* of its training */
    RunPlace validation;
} RunCandidate;
RunCandidate run_candidate(size_t cycle, const char *method);
/* folder/name */
void run_name(char out[RUN_NAME], const char *folder, const char *name);
/* A file or folder of a cycle, name "" being that of the cycle itself. */
void run_cycle_name(char out[RUN_NAME], size_t cycle, const char *name);

/* ---- the chain ----------------------------------------------------------------------------- */

typedef struct {
    const char *run;
    Pool pool;
    const Json **entries; /* [count] */
    size_t count, cap;
    char head[65]; /* hash of the last entry; 64 zeros before the first */
    int torn;      /* ledger_read: an incomplete last line was ignored */
} Ledger;

/* An entry to be recorded. Paths are relative to RUN and must exist; lists end with NULL. */
typedef struct {
    const char *event, *name; /* name "" = none */
    size_t cycle;
    const char *const *inputs, *const *outputs;
    const char *facts; /* a JSON object as text, or NULL */
    /* One more output, written after its entry: its path and hash, or NULL. */
    const char *promised, *promised_sha256;
} LedgerEntry;

/* Reads the chain of a run and checks it: ERR_DATA naming the first entry that is wrong. An
 * incomplete last line (after a crash while appending) is removed from the file. A run without a
 * ledger has an empty chain. */
int ledger_open(Ledger *l, const char *run, Err *e);
/* The same for readers, which may run while a loop appends: nothing is written, and an incomplete
 * line is ignored. */
int ledger_read(Ledger *l, const char *run, Err *e);
void ledger_close(Ledger *l);
/* Hashes inputs and outputs, and appends the entry, synced to the disk. */
int ledger_append(Ledger *l, const LedgerEntry *x, Err *e);
/* Returns the entry of a stage, or NULL. */
const Json *ledger_find(const Ledger *l, const char *event, size_t cycle, const char *name);
/* Is this entry a person's signature, or --auto's? */
int ledger_is_signature(const Json *entry);
/* Checks that all outputs of an entry are as they were recorded; else ERR_DATA naming one. */
int ledger_check_outputs(const Ledger *l, const Json *entry, Err *e);

/* ---- verification -------------------------------------------------------------------------- */

typedef struct {
    size_t entries, files, wrong;
    int torn; /* one thing that is wrong: the last line is incomplete */
    char head[65];
} LedgerVerification;

/* Checks the chain and every file it names. bad (may be NULL) is called for each file that does not
 * agree, relative to RUN ("ledger.jsonl" for the chain itself), with the reason. 0 if all agree,
 * else ERR_DATA naming the files; ERR_NO_INPUT if there is no ledger. */
int ledger_verify(const char *run, void (*bad)(void *ctx, const char *path, const char *why),
                  void *ctx, LedgerVerification *v, Err *e);

#endif
