/* data_parts.h - private declarations of the data_*.c files: a row as it stands in the file, and
 * the loader. */
#ifndef ALIGN_DATA_PARTS_H
#define ALIGN_DATA_PARTS_H

#include "data.h"

typedef enum {
    COLUMN_PROMPT,
    COLUMN_CHOSEN,
    COLUMN_REJECTED,
    COLUMN_COMPLETION,
    COLUMN_LABEL,
    COLUMN_MESSAGES,
    COLUMN_TEXT,
    COLUMN_COUNT
} Column;
#define BIT(column) (1u << (column))

/* Which columns a row uses, and whether they hold messages (else text). */
typedef struct {
    unsigned columns;
    int chat;
} Shape;

/* A stretch of a row as it stands in the file: text, or turns of a conversation. */
typedef struct {
    const char *text;
    size_t len;
    const Json *turn; /* the first of `turns` siblings */
    size_t turns;
    int open; /* an answer that was cut at its limit: no end is taught behind it */
} Piece;

/* What a row says: a prompt and n completions. */
typedef struct {
    Piece prompt, completion[2];
    size_t n;
    int label;
    int first_space; /* without a prompt, part at once, and chosen ends in a space */
    int word_cut;   /* the prompt was found by comparing, and ends inside a word */
    size_t answers; /* DATA_COMPLETION: turns of the assistant that could be trained */
} Saying;

/* A row of the file with its columns: NULL if absent or null; lists of messages in their plain
 * form. */
typedef struct {
    const Json *json;
    size_t line;
    const Json *value[COLUMN_COUNT];
} Line;

/* Everything needed for reading one file. */
typedef struct {
    Dataset *d;
    const DataOptions *o;
    const Tokenizer *t;
    ChatTemplate *chat; /* opened at the first row with messages */
    const char *path;
    const Log *log;
    char *map;                         /* our copy of o->map, cut at its separators */
    const char *columns[COLUMN_COUNT]; /* their names in the file */
    Shape shape;                       /* of the row at shape_line; 0 = none yet */
    size_t shape_line;
    Line *lines;
    size_t n_lines, cap_lines, cap_rows;
    ChatMessage *messages;
    size_t cap_messages;
    Ids prompt, full[2];
    Text marks;              /* of the ids of a conversation: 1 = of an answer */
    Ids spelled;             /* the same with control tokens read in texts */
    unsigned char first[256]; /* bytes with which a control token begins */
    int first_known;
    int renamed;   /* turns of the row being read: see ROW_RENAMED */
    int no_system; /* of the row being encoded: see ROW_NO_SYSTEM */
    int no_chat;         /* the template was not to be opened */
    size_t *lengths;
    size_t n_lengths, cap_lengths;
} Loader;

/* ---- what shape a row has, and what it says (data_shape.c) ---------------------------------- */

/* --map "chosen=good,prompt=question": l->columns[ours] = theirs. */
int data_map(Loader *l, Err *e);
extern const char *const data_column_names[COLUMN_COUNT];
/* Finds the columns of a row, and checks its shape: the first one's binds the others. */
int data_row_shape(Loader *l, Line *line, Err *e);
/* Reads a row by the shape of the file. */
int data_read(const Loader *l, const Line *line, Saying *s, Err *e);
int data_piece_empty(const Piece *p);

/* Returns which tokens are scored in rows of the file's shape: never AUTO. */
TrainOn data_train_on(const Loader *l);
/* Are the rows conversations, or texts that become one? */
int data_is_chat(const Loader *l);
/* Opens the chat template, once. */
int data_open_chat(Loader *l, Err *e);

/* Lists the columns of a row, as many as fit a line (data_wants.c). */
int data_put_columns(const Json *row, Text *out, Err *e);
/* "a string", "null", ... for messages. */
const char *data_json_kind(const Json *j);
/* A list of messages as {"role","content", ...} with known roles, and contents that are texts, or
 * null with no bytes beside tool_calls; NULL with *e if it is not one (data_turns.c). */
const Json *data_turns(Loader *l, const Json *list, const char *column, size_t line, Err *e);
/* Adds advice on what would make a row fit that has none of the sets of columns (data_hints.c). */
int data_hint(const Loader *l, const Line *line, const unsigned *sets, Text *out, Err *e);

/* ---- what is told about rows (data_report.c) ------------------------------------------------ */

void data_note(Loader *l, RowNote note, size_t line);
/* Counts what a row holds and is not read. */
int data_note_unread(Loader *l, const Line *line, Err *e);

#endif
