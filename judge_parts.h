/* judge_parts.h - private declarations of the judge's files. */
#ifndef ALIGN_JUDGE_PARTS_H
#define ALIGN_JUDGE_PARTS_H

#include "chat.h"
#include "data.h"
#include "judge.h"

/* ---- the judge prompt (judge_prompt.c) ----------------------------------------------------- */

/* Turns prompts into tokens, by the chat template of a model or as plain text. */
typedef struct {
    const Tokenizer *t;
    ChatTemplate *chat; /* NULL = plain */
    int32_t end;              /* plain: the end token after a label; -1 = none */
    size_t limit;             /* largest number of tokens of a prompt with its label */
    size_t frame;             /* tokens of the prompt around an empty request and answer */
} Prompter;

/* Renders by c->chat_template, on c->date. limit in tokens; 0 = the model's context. ERR_DATA if
 * not even short texts would fit; the message names limit_option (NULL: max-length). */
int prompter_open(Prompter *p, const Tokenizer *t, const JudgeConfig *c, const ModelConfig *m,
                  size_t limit, const char *limit_option, Err *e);
void prompter_close(Prompter *p); /* after an error, too */
/* Returns the number of orders of a JudgeOrder, 1 to JUDGE_MAX_ORDERS. */
size_t prompter_orders(JudgeOrder order);
enum { JUDGE_MAX_ORDERS = 3 };
/* Makes prompt and label of a case, one row for each action; they share the prompt of the i-th
 * order. Ids live in pool. *cut is set if request or answer had to be cut. */
int prompter_rows(const Prompter *p, JudgeOrder order, size_t i, const JudgeCase *c,
                  Row rows[ACTION_COUNT], int *cut, Pool *pool, Err *e);
/* Writes the text of the prompt as the model gets it, cut to fit. */
int prompter_text(const Prompter *p, JudgeOrder order, size_t i, const JudgeCase *c, Text *out,
                  int *cut, Err *e);
/* "Accept", ... as the prompt spells them. */
extern const char *const judge_labels[ACTION_COUNT];

/* ---- the kinds ----------------------------------------------------------------------------- */

extern const JudgeKind judge_kind_rules;                  /* judge_rules.c */
extern const JudgeKind judge_kind_self, judge_kind_model; /* judge_model.c */
extern const JudgeKind judge_kind_command;                /* judge_command.c */
/* Number of rows of a file that are judged together: many if each block starts a program, few if
 * each row takes seconds, so that a stop loses little. */
enum { JUDGE_BLOCK = 256, JUDGE_MODEL_BLOCK = 16 };

/* ---- verdicts that are kept (judge_kept.c) ------------------------------------------------- */

/* Opens the verdicts in a file, which may not exist yet; path is borrowed. judge is the SHA-256 of
 * what decides. NULL on error (ERR_DATA naming file and line). */
Kept *judge_kept_open(const char *path, const char judge[65], const Log *log, Err *e);
void judge_kept_close(Kept *k); /* NULL is fine */
/* Keeps a verdict, first on the disk; a verdict that is already kept stays. sync is set for the
 * last of several that are kept together. */
int judge_kept_put(Kept *k, const JudgeCase *c, const Verdict *v, int sync, Err *e);
/* judge_decide for a judge that keeps verdicts: its kind is asked only for what is not kept, each
 * case once, and may keep single verdicts itself before it has all. */
int judge_kept_decide(const Judge *j, const JudgeCase *cases, size_t n, Verdict *out, Err *e);

/* ---- people (judge_review.c) --------------------------------------------------------------- */

/* Reads people's answers. On error NULL, and *e names file and line. */
Reviews *judge_reviews_open(const char *path, const Log *log, Err *e);
void judge_reviews_close(Reviews *r); /* NULL is fine */
/* Replaces the judge's verdict by a person's answer to this case, if there is one. */
void judge_reviews_apply(const Reviews *r, const JudgeCase *c, Verdict *v);

/* ---- judge_case.c -------------------------------------------------------------------------- */

/* p_a = exp(z_a) / sum_b exp(z_b) */
void judge_softmax(const double z[ACTION_COUNT], double p[ACTION_COUNT]);
char judge_lower(char c); /* of ASCII */
/* , "key": "value", or null for NULL */
int judge_put_text(Text *out, const char *key, const char *value, Err *e);
/* judge_row.c: the row with the verdict's columns at its end, in the place of others so named. */
int judge_put_row(Text *out, const Json *row, const Verdict *v, const char *judge, Err *e);
/* The case of a row; a conversation becomes one text, in pool. ERR_DATA for other types. */
int judge_read_case(const Json *row, JudgeCase *c, Pool *pool, Err *e);

#endif
