/* data.h - preference rows to token batches.
 *
 * A data set is a JSONL file in one of TRL's shapes (preference pairs, unpaired rows with a label,
 * prompt and completion; plain or conversational). Rows are tokenized, split, cut and dropped by
 * TRL 1.16.0's rules, but nothing is dropped silently: DataReport counts it all.
 */
#ifndef ALIGN_DATA_H
#define ALIGN_DATA_H

#include "chat.h"
#include "model.h"
#include "tokenizer.h"

/* What the rows are wanted for. */
typedef enum {
    DATA_PAIRS,      /* prompt, chosen, rejected (explicit, or implicit: prompt = common prefix) */
    DATA_UNPAIRED,   /* prompt, completion, label; pairs are turned into two rows as TRL does */
    DATA_COMPLETION, /* prompt, completion, for sft and score; also {"messages"}, {"text"} for sft
                      */
    DATA_PROMPTS     /* prompt only */
} DataKind;

typedef struct {
    DataKind kind;
    size_t max_length;  /* 0 = no limit: prompts that long are dropped, sequences are cut */
    int append_eos;     /* plain completions get the end token unless they end with it */
    int parse_special;  /* spellings of special tokens in text count as those tokens */
    int drop_identical; /* chosen == rejected: drop instead of warn */
    int keep_empty;     /* rows with an empty completion stay (score answers every row) */
    int raw;            /* DATA_PROMPTS: plain text prompts even where a chat template exists */
    const char *map;    /* "chosen=chosen_response,prompt=question": our name = column; or NULL */
    const char *chat_template; /* --chat-template NAME; NULL = the model's own */
    const char *system;        /* DATA_PROMPTS with a chat template: a system message, or NULL */
} DataOptions;

/* One row in tokens. Sequence = prompt followed by completion[i], already cut. */
typedef struct {
    size_t line;  /* in its file, from 1 */
    size_t index; /* among the rows of its file, from 0, dropped ones counted */
    int32_t *prompt;
    size_t n_prompt;
    int32_t *completion[2]; /* chosen and rejected; or the one completion in [0] */
    size_t n_completion[2];
    size_t n_uncut[2];   /* ids there were before the cut; all of them are in completion[i], for
                          * KTO puts a completion after other prompts, too */
    int label;           /* DATA_UNPAIRED: 1 desirable, 0 undesirable */
    uint64_t prompt_key; /* equal for equal prompts (a hash of the prompt's ids before the split) */
    const Json *source;  /* the parsed line, for columns to carry along */
} Row;

typedef struct {
    size_t lines, blank;
    /* Rows that are not in the data set. */
    size_t dropped_long, dropped_empty, dropped_identical;
    size_t first_dropped_line; /* 0 = none */
    /* Rows that are, and what should be known about them. */
    size_t cut;             /* sequences cut to max_length */
    size_t identical;       /* chosen == rejected: no gradient */
    size_t boundary_merges; /* the prompt's ids were no prefix of the joint ids */
    size_t empty_prompts;   /* only BOS, or nothing, to go on */
    size_t eos_as_text;     /* completions that spell the end token, read as text */
    size_t word_cuts;       /* implicit prompts that end inside a word */
    size_t duplicates;      /* rows equal to another one, first of its kind not counted */
    size_t desirable, undesirable;
    size_t length_percentile[5]; /* tokens of a sequence at 0, 50, 90, 99, 100 %, before cutting */
} DataReport;

typedef struct {
    Row *rows;
    size_t count;
    DataKind kind;
    DataReport report;
    char sha256[65]; /* of the file */
    Pool pool;       /* ids and parsed lines */
} Dataset;

/* Reads, checks and tokenizes a file ("-" = standard input). The first row fixes the shape of all:
 * its columns, and text or messages. Rules, in TRL's order:
 *  1. Pairs without a prompt: the prompt is what chosen and rejected have in common at the start
 *     (turns, or characters, less a space before the first difference).
 *  2. Unpaired kind from pairs: in blocks of 1000 rows, all chosen, then all rejected.
 *  3. Text: the prompt alone, and prompt + completion as one string, are tokenized with the
 *     post-processor's tokens (BOS); the end token's id is appended with append_eos.
 *     Messages: the prompt with the template's opening of an answer, and the whole conversation.
 *     {"messages"}: the last turn, the assistant's, is the completion. {"text"}: all of it is.
 *  4. The completion starts where the two lists of ids part, for a pair at the first of the two
 *     places. The rest of the prompt is left out.
 *  5. Rows with an empty completion are dropped (EOS alone teaches nothing but silence), rows whose
 *     prompt has max_length tokens or more are dropped, sequences are cut to max_length.
 * Errors: ERR_DATA naming file, line and column; ERR_USAGE for options; no usable row is ERR_DATA.
 */
int data_load(Dataset *d, const char *path, const DataOptions *o, const Tokenizer *t,
              const Log *log, Err *e);
void data_close(Dataset *d);
/* The report as lines for people, through log. */
void data_describe(const Dataset *d, const Log *log);
/* Rows of b that are also rows of a (same tokens): training rows in the evaluation set. Returns 0,
 * or -1 where memory is short. */
int data_overlap(const Dataset *a, const Dataset *b, size_t *count, Err *e);

/* The order of rows in an epoch (--order).
 * file: 0, 1, 2, ...; shuffle: a permutation keyed by (seed, epoch) alone; trl: torch.randperm(n)
 * by a generator seeded with seed + epoch. */
typedef enum { ORDER_SHUFFLE, ORDER_TRL, ORDER_FILE } Order;
int data_order(Order order, uint64_t seed, uint64_t epoch, uint32_t *out, size_t n, Err *e);

/* ---- packing ------------------------------------------------------------------------------- */

/* A Batch that grows: begin, add prompts and completions, read .batch. */
typedef struct {
    Batch batch;
    size_t cap_ids, cap_segments, cap_scores;
} Packer;
void packer_begin(Packer *p); /* empties, keeps memory */
/* A new segment of tokens that are context only. parent: segment it continues, or -1. *segment =
 * its index, what completions name as their parent; for n = 0 (an empty prompt) that is `parent`
 * itself. Returns 0, or -1 where memory is short. */
int packer_add_context(Packer *p, int parent, const int32_t *ids, size_t n, int *segment, Err *e);
/* A completion: its tokens are scored, the first one from the last token of `parent` (with -1, the
 * first is not scored). *first_score = index of its first score, *n_scores their number. Its last
 * token is a target only: nothing is predicted from it, so it takes no row of the batch. */
int packer_add_completion(Packer *p, int parent, const int32_t *ids, size_t n, size_t *first_score,
                          size_t *n_scores, Err *e);
/* What was added so far has gradients; what follows is only looked at (Batch.live_T). */
void packer_seal(Packer *p);
void packer_free(Packer *p);

#endif
