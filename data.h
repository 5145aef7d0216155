/* data.h - turns preference rows into batches of tokens.
 *
 * A data set is a JSONL file in one of TRL's shapes (preference pairs, unpaired rows with a label,
 * prompt and completion; plain or conversational). Rows are tokenized, split, cut and dropped by
 * TRL 1.16.0's rules, but nothing is dropped silently: DataReport counts everything.
 */
#ifndef ALIGN_DATA_H
#define ALIGN_DATA_H

#include "chat.h"
#include "model.h"
#include "options.h"
#include "tokenizer.h"

/* The use of the rows. */
typedef enum {
    DATA_PAIRS,      /* prompt, chosen, rejected (explicit, or implicit: prompt = common prefix) */
    DATA_UNPAIRED,   /* prompt, completion, label; pairs are turned into two rows as TRL does */
    DATA_COMPLETION, /* prompt, completion, for sft and score; also {"messages"}, {"text"} for sft
                      */
    DATA_PROMPTS     /* prompt only */
} DataKind;

/* Which tokens of a DATA_COMPLETION row are scored. */
typedef enum {
    TRAIN_ON_AUTO,    /* TRL's rule: the completion after a prompt, all of {"messages"} */
    TRAIN_ON_LAST,    /* the completion; of {"messages"} the last turn */
    TRAIN_ON_ANSWERS, /* each turn of the assistant */
    TRAIN_ON_ALL      /* every token, including the prompt */
} TrainOn;
const char *train_on_name(size_t i); /* "auto" "last" "answers" "all"; NULL beyond the last */

typedef struct {
    DataKind kind;
    TrainOn train_on;
    size_t max_length;  /* 0 = no limit: prompts that long are dropped, sequences are cut */
    int append_eos;     /* plain completions get the end token unless they end with it */
    int parse_special;  /* spellings of special tokens in text count as those tokens */
    int drop_identical; /* chosen == rejected: drop instead of warn */
    int keep_empty;     /* rows with an empty completion are kept (score answers every row) */
    int own_rows;       /* the loop wrote them: its columns that are not read are not told */
    int raw;            /* DATA_PROMPTS: plain text prompts even where a chat template exists */
    const char *map;    /* "chosen=chosen_response,prompt=question": our name = column; or NULL */
    const char *chat_template; /* --chat-template; NULL = the model's own */
    const char *date;          /* that templates are told, YYYY-MM-DD; NULL = today */
    const char *system;        /* DATA_PROMPTS with a chat template: a system message, or NULL */
} DataOptions;

/* clang-format off */
/* Rows of what several commands say of texts; the rest of a row says where its value belongs. */
#define CHAT_TEMPLATE_ROW(...) \
    {"chat-template", 0, OPTION_TEXT, NULL, NULL, \
     "chat template instead of the model's own: a built-in name, or a file of Jinja", __VA_ARGS__}
#define DATE_ROW(otherwise, ...) \
    {"date", 0, OPTION_TEXT, NULL, NULL, \
     "day YYYY-MM-DD that chat templates are told (default: " otherwise ")", __VA_ARGS__}
#define PARSE_SPECIAL_ROW(...) \
    {"parse-special", 0, OPTION_FLAG, NULL, NULL, \
     "spellings of special tokens in the text become those tokens", __VA_ARGS__}
#define RAW_ROWS(type) \
    {"raw", 0, OPTION_FLAG, NULL, NULL, "use no chat template; the text follows BOS", \
     FIELD(type, raw)}, \
    {"system", 0, OPTION_TEXT, NULL, NULL, "system message, for chat templates", \
     FIELD(type, system)}
/* clang-format on */
/* --map --chat-template --date --parse-special; --max-length --drop-identical: of DataOptions. */
extern const OptionGroup data_options, data_length_options;

/* One row in tokens. Sequence = prompt followed by completion[i], already cut. */
typedef struct {
    size_t line;  /* in its file, from 1 */
    size_t index; /* among the rows of its file, from 0, dropped ones counted */
    int32_t *prompt;
    size_t n_prompt;
    int32_t *completion[2]; /* chosen and rejected; or the one completion in [0] */
    size_t n_completion[2];
    size_t n_uncut[2];   /* number of ids before the cut; completion[i] has all of them, because KTO
                          * also puts a completion after other prompts */
    unsigned char *scored; /* of completion[0]: 1 = this token is scored; NULL = all are */
    int label;           /* DATA_UNPAIRED: 1 desirable, 0 undesirable */
    uint64_t prompt_key; /* equal for equal prompts (a hash of the prompt's ids before the split) */
    const Json *source;  /* the parsed line, for columns to keep */
} Row;

/* What is noticed about rows: the number of each kind, and the line of the first one. */
typedef enum {
    /* Rows that are not in the data set. */
    ROW_LONG,         /* the prompt fills max_length */
    ROW_EMPTY,        /* no completion (TRL keeps these) */
    ROW_SAME_DROPPED, /* chosen == rejected, with drop_identical */
    /* Rows that are in it, and what should be known about them. */
    ROW_CUT,        /* sequences cut to max_length */
    ROW_SAME,       /* chosen == rejected: no gradient */
    ROW_MERGED,     /* the prompt's ids were not a prefix of the joint ids */
    ROW_NO_PROMPT,  /* the prompt is only BOS, or nothing */
    ROW_WORD_CUT,   /* implicit prompts that end inside a word */
    ROW_COPY,       /* rows equal to another one, first of its kind not counted */
    ROW_CONTROL,    /* spell control tokens, which are letters here and tokens in TRL */
    ROW_MARKS,      /* spell marks that the chat template writes in letters */
    ROW_RENAMED,    /* roles of ShareGPT: human, gpt */
    ROW_OPEN,       /* answers that were cut at their limit: trained without an end, unlike TRL */
    ROW_FIRST_SPACE, /* no prompt, chosen ends in a space: TRL's extract_prompt goes astray */
    ROW_NO_SYSTEM,  /* the chat template leaves their system message out, as in TRL */
    ROW_TWO_STARTS, /* parse_special: spell BOS, and get the tokenizer's, too, as in TRL */
    ROW_NOTES
} RowNote;

typedef struct {
    size_t rows, line;
} RowCount;

/* A column, or a key of a turn, that is not read. */
typedef struct {
    const char *name;
    int in_turns;    /* a key of turns */
    const char *why; /* what TRL does with it; NULL: nothing either */
    RowCount count;
    size_t line; /* that counted it last */
} Unread;
enum { UNREAD_MAX = 24 }; /* names that are remembered */
/* The names in a file; zeroed, there are none. */
typedef struct {
    Unread names[UNREAD_MAX];
    size_t n;
    Pool pool;
} UnreadNames;

typedef struct {
    size_t lines, blank;
    RowCount notes[ROW_NOTES];
    UnreadNames unread;
    int own_rows; /* as in DataOptions */
    size_t desirable, undesirable;
    char date[CHAT_DATE]; /* that the template asks for; "" if it asks for none */
    TrainOn train_on;             /* DATA_COMPLETION, never AUTO */
    size_t answers, several;      /* turns of the assistant's in conversations; rows with several */
    size_t scored, tokens;        /* tokens that are scored; of all sequences, cut */
    size_t length_percentile[5]; /* tokens of a sequence at 0, 50, 90, 99, 100 %, before cutting */
} DataReport;

typedef struct {
    Row *rows;
    size_t count;
    DataKind kind;
    DataReport report;
    ChatTemplate *chat; /* that rendered the rows; NULL = plain text */
    const char *path;         /* of the file, for messages: the caller's */
    char sha256[65];          /* of the file */
    Pool pool;                /* ids and parsed lines */
} Dataset;

/* Reads, checks and tokenizes a file ("-" = standard input). The first row fixes the shape of all:
 * its columns, and text or messages. Rules, in TRL's order:
 *  1. Pairs without a prompt: the prompt is what chosen and rejected have in common at the start
 *     (turns, or characters, less a space before the first difference).
 *  2. Unpaired kind from pairs: in blocks of 1000 rows, all chosen, then all rejected.
 *  3. Text: the prompt alone, and prompt + completion as one string, are tokenized with the
 *     post-processor's tokens (BOS); the end token's id is appended with append_eos.
 *     Messages: the prompt with the template's opening of an answer, and the whole conversation.
 *     {"messages"}: by train_on, all of it, its answers, or the last turn. {"text"}: all of it.
 *  4. The completion starts where the two lists of ids part, for a pair at the first of the two
 *     places. The rest of the prompt is dropped.
 *     "finish":"length" (of a pair "chosen_finish", "rejected_finish"), as `align generate` writes
 *     it: the answer was cut at its limit, and no end is taught behind it, neither the end token
 *     nor what the template writes after the last turn.
 *  5. Rows with an empty completion are dropped (EOS alone teaches nothing but silence), rows whose
 *     prompt has max_length tokens or more are dropped, sequences are cut to max_length.
 * Errors: ERR_DATA naming file, line and column; ERR_USAGE for options; no usable row is ERR_DATA.
 */
int data_load(Dataset *d, const char *path, const DataOptions *o, const Tokenizer *t,
              const Log *log, Err *e);
void data_close(Dataset *d);
/* Writes the report as lines for people, through log. */
void data_describe(const Dataset *d, const Log *log);
/* Writes only the ways in which rows are read differently than by TRL. */
void data_describe_readings(const Dataset *d, const Log *log);
/* Counts rows of b that are also rows of a (same tokens): training rows in the evaluation set.
 * Returns 0, or -1 if memory is short. */
int data_overlap(const Dataset *a, const Dataset *b, size_t *count, Err *e);

/* The order of rows in an epoch (--order).
 * file: 0, 1, 2, ...; shuffle: a permutation keyed by (seed, epoch) alone; trl: torch.randperm(n)
 * by a generator seeded with seed + epoch. */
typedef enum { ORDER_SHUFFLE, ORDER_TRL, ORDER_FILE } Order;
const char *data_order_name(size_t i); /* "shuffle" "trl" "file"; NULL beyond the last */
int data_order(Order order, uint64_t seed, uint64_t epoch, uint32_t *out, size_t n, Err *e);

/* ---- columns of our own -------------------------------------------------------------------- */

/* Who writes a column of this name into rows. A row that goes on from one stage to the next keeps
 * the columns of nobody (a person's), and gets new ones in the place of ours. */
typedef enum {
    OWNER_NONE,
    OWNER_PROMPT, /* which prompt it is */
    OWNER_SAMPLE, /* an answer to it (generate_put_row) */
    OWNER_VERDICT /* what a judge said of the answer (judge_file) */
} ColumnOwner;
ColumnOwner data_owner(const char *key);

/* Columns that say how an answer ended, "stop" or "length" (see data_load). */
#define DATA_FINISH "finish"
#define DATA_CHOSEN_FINISH "chosen_finish"
#define DATA_REJECTED_FINISH "rejected_finish"

/* Refuses the column of a row: ERR_DATA saying that it must be WHAT, what was found, and what makes
 * it fit. Returns -1 (data_wants.c). */
int data_refuse(const Json *row, const char *key, const char *what, Err *e);

/* ---- columns that nobody reads (data_unread.c) ----------------------------------------------- */

/* Adds a name, or counts it once more: once for each line. If there are more names than there is
 * room for, the last ones share one entry. why: see Unread; it must live as long as u. Returns 0,
 * or -1 if memory is short. */
int unread_add(UnreadNames *u, const char *name, int in_turns, const char *why, size_t line,
               Err *e);
/* Is it a column of the program's own, or one that a command of the loop reads? */
int unread_passes(const char *key);
/* Counts the columns of a row that are not in `reads` (NULL ends it), and the keys of turns in
 * those that are. passes: the row goes on to other commands, and what they read is left out.
 * Returns 0, or -1 if memory is short. */
int unread_row(UnreadNames *u, const Json *row, const char *const *reads, int passes, size_t line,
               Err *e);
/* Counts the keys of a conversation's turns that neither we nor the template (NULL = none) read. */
int unread_turns(UnreadNames *u, const Json *list, const ChatTemplate *chat, size_t line, Err *e);
/* Is it a column, beside the conversation, that the template (NULL = none) reads? */
int data_chat_reads(const ChatTemplate *chat, const Json *column);
/* Writes a warning for each name with a `why`, and one note for all others: "PATH: not readREST: ",
 * or none with rest NULL. */
void unread_tell(const UnreadNames *u, const char *path, const char *rest, const Log *log);
void unread_free(UnreadNames *u);

/* ---- packing ------------------------------------------------------------------------------- */

/* A Batch that grows: begin, add prompts and completions, read .batch. */
typedef struct {
    Batch batch;
    size_t cap_ids, cap_segments, cap_scores;
} Packer;
void packer_begin(Packer *p); /* empties, keeps memory */
/* A new segment of tokens that are context only. parent: segment it continues, or -1. *segment =
 * its index, what completions name as their parent; for n = 0 (an empty prompt) that is `parent`
 * itself. Returns 0, or -1 if memory is short. */
int packer_add_context(Packer *p, int parent, const int32_t *ids, size_t n, int *segment, Err *e);
/* A completion: its tokens are scored, the first one from the last token of `parent` (with -1, the
 * first is not scored). *first_score = index of its first score, *n_scores their number. Its last
 * token is a target only: nothing is predicted from it, so it takes no row of the batch. */
int packer_add_completion(Packer *p, int parent, const int32_t *ids, size_t n, size_t *first_score,
                          size_t *n_scores, Err *e);
/* The same with `scored` (or NULL): tokens where it is 0 are context. Tokens after the last scored
 * one are left out. */
int packer_add_scored(Packer *p, int parent, const int32_t *ids, const unsigned char *scored,
                      size_t n, size_t *first_score, size_t *n_scores, Err *e);
/* Rows added so far have gradients; the following ones have none (Batch.live_T). */
void packer_seal(Packer *p);
void packer_free(Packer *p);

#endif
