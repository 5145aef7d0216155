/* judge_parts.h - what the files of the judges share with each other, and with nobody else. */
#ifndef ALIGN_JUDGE_PARTS_H
#define ALIGN_JUDGE_PARTS_H

#include "chat.h"
#include "data.h"
#include "judge.h"

/* ---- the judge prompt (judge_prompt.c) ----------------------------------------------------- */

/* How the prompt becomes tokens: through the chat template of a model, or as plain text. */
typedef struct {
    const Tokenizer *t;
    const ChatTemplate *chat; /* NULL = plain */
    int32_t end;              /* plain: the end token behind a label; -1 = none */
    size_t limit;             /* most tokens of a prompt with its label */
    size_t frame;             /* tokens of the prompt around an empty request and answer */
} Prompter;

/* limit: tokens; 0 = what the model can hold. ERR_DATA where not even short texts would fit. */
int prompter_open(Prompter *p, const Tokenizer *t, const char *chat_template, const ModelConfig *m,
                  size_t limit, Err *e);
/* The number of orders that a JudgeOrder has, 1 to JUDGE_MAX_ORDERS. */
size_t prompter_orders(JudgeOrder order);
enum { JUDGE_MAX_ORDERS = 3 };
/* Prompt and label of a case, one row for each action, which share one prompt: that of the i-th
 * order. Ids live in pool. *cut is set where request or answer did not fit whole. */
int prompter_rows(const Prompter *p, JudgeOrder order, size_t i, const JudgeCase *c,
                  Row rows[ACTION_COUNT], int *cut, Pool *pool, Err *e);
/* The text of the prompt as it is put to the model, cut to fit. */
int prompter_text(const Prompter *p, JudgeOrder order, size_t i, const JudgeCase *c, Text *out,
                  int *cut, Err *e);
/* "Accept", ... as the prompt spells them. */
extern const char *const judge_labels[ACTION_COUNT];

/* ---- the kinds ----------------------------------------------------------------------------- */

/* self and model (judge_model.c). */
int judge_model_open(Judge *j, const JudgeConfig *c, Err *e);
int judge_model_decide(const Judge *j, const JudgeCase *cases, size_t n, Verdict *out, Err *e);
void judge_model_close(Judge *j);

/* command (judge_command.c). */
int judge_command_open(Judge *j, const JudgeConfig *c, Err *e);
int judge_command_decide(const Judge *j, const JudgeCase *cases, size_t n, Verdict *out, Err *e);
void judge_command_close(Judge *j);

/* ---- verdicts that are kept (judge_kept.c) ------------------------------------------------- */

/* The verdicts in a file, which need not be there yet; path is borrowed. judge: SHA-256 of what
 * decides. NULL: *e says why (ERR_DATA naming file and line). */
Kept *judge_kept_open(const char *path, const char judge[65], Err *e);
void judge_kept_close(Kept *k); /* NULL is fine */
/* Keeps a verdict, on the disk first; one that is kept already stays. sync: of some that are kept
 * together, the last. */
int judge_kept_put(Kept *k, const JudgeCase *c, const Verdict *v, int sync, Err *e);
/* judge_decide for a judge that keeps: its kind is asked for what is not kept, each case once, and
 * may itself keep what it has before it has all. */
int judge_kept_decide(const Judge *j, const JudgeCase *cases, size_t n, Verdict *out, Err *e);

/* ---- people (judge_review.c) --------------------------------------------------------------- */

/* People's answers. NULL: *e names file and line. */
Reviews *judge_reviews_open(const char *path, Err *e);
void judge_reviews_close(Reviews *r); /* NULL is fine */
/* A person's answer to this case, where there is one, in the place of the judge's. */
void judge_reviews_apply(const Reviews *r, const JudgeCase *c, Verdict *v);

/* ---- judge.c ------------------------------------------------------------------------------- */

/* p_a = exp(z_a) / sum_b exp(z_b) */
void judge_softmax(const double z[ACTION_COUNT], double p[ACTION_COUNT]);
/* The case of a row; a conversation becomes one text, in pool. ERR_DATA for other types. */
int judge_read_case(const Json *row, JudgeCase *c, Pool *pool, Err *e);

#endif
