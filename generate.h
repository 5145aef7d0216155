/* generate.h - batched sampling: prompts in, continuations out, in the order of the prompts.
 *
 * Every step runs one packed batch through the model: a piece of the prompts that wait, and the
 * newest token of each running sequence. A prompt is read once, into a cache block that its samples
 * share; they begin in the step that reads its end. A sample that ends makes room for the next. A
 * text does not depend on any of this: it has the same bits alone and in company, for any number of
 * threads and of sequences at once.
 */
#ifndef ALIGN_GENERATE_H
#define ALIGN_GENERATE_H

#include "model.h"
#include "tokenizer.h"

/* How to choose tokens, and how many. */
typedef struct {
    size_t max_tokens;  /* new tokens of a sample, at most */
    double temperature; /* 0 = greedy: the largest logit, the lowest id among equals */
    size_t top_k;       /* the k most probable tokens only; 0 = all */
    double top_p;       /* the fewest tokens with this share of the mass; 1 = all, 0 = one */
    double min_p;       /* tokens with at least this share of the best one's probability; 0 = all */
    uint64_t seed;
    size_t samples; /* of each prompt */
    size_t at_once; /* sequences that run together, at most: memory grows with it */
} GenerateOptions;

GenerateOptions generate_defaults(void);
/* ERR_USAGE naming the option that is out of range. */
int generate_check(const GenerateOptions *o, Err *e);

/* Prompt tokens that a step reads, at most: enough for products to be bound by arithmetic, and most
 * prompts whole; few to hold. */
enum { GENERATE_PREFILL = 512 };

/* What a run took. Steps, rows of their batches and rows of logits are added to what is there. */
typedef struct {
    size_t steps, rows, logits;
    size_t bytes; /* of memory for the heaviest step */
} GenerateWork;

/* What continues the prompts. tokenizer may be NULL: then only the model's own end tokens stop, and
 * every row of the head is a token. */
typedef struct {
    Model *model;
    const Lora *lora; /* NULL = the base */
    const Tokenizer *tokenizer;
    const Compute *compute;
    GenerateOptions options;
    GenerateWork *work; /* NULL = nobody counts */
} Generator;

/* One prompt. Draws depend on (seed, index, sample, position of the new token) only. */
typedef struct {
    const int32_t *ids;
    size_t count;
    uint64_t index; /* names it in draws and messages: its row in the data */
} Prompt;

typedef enum { GENERATE_STOP, GENERATE_LENGTH } GenerateFinish;
extern const char *const generate_finish_names[]; /* "stop" "length" */

typedef struct {
    size_t prompt, sample; /* place in the array of prompts; 0 .. samples-1 */
    const int32_t *ids;    /* the new tokens, without the end token; valid during the call */
    size_t count;
    GenerateFinish finish; /* an end token came; or max_tokens, or the context was full */
} Continuation;

/* Where results go. done: called once for each sample, in the order of prompts and samples.
 * token: each new token as it is chosen (order between sequences: as they run); may be NULL.
 * Both return 0 to go on, -1 with *e to stop the run. */
typedef struct {
    void *ctx;
    int (*done)(void *ctx, const Continuation *c, Err *e);
    int (*token)(void *ctx, size_t prompt, size_t sample, int32_t id, Err *e);
} GenerateSink;

/* Continues all prompts. ERR_DATA naming a prompt that is empty, holds an id that is no token, or
 * leaves no room in the context; ERR_DATA where the model gives no finite logit; ERR_INTERRUPTED
 * when stop_requested is set. No memory is taken for a token. */
int generate_run(const Generator *g, const Prompt *prompts, size_t n, const GenerateSink *sink,
                 Err *e);

/* Continues one prompt (sample 0), handing out its text as it grows: never half a character. The
 * new ids are appended to *ids (may be NULL). text returns 0 to go on, -1 with *e to stop. */
int generate_stream(const Generator *g, const Prompt *prompt,
                    int (*text)(void *ctx, const char *bytes, size_t len, Err *e), void *ctx,
                    Ids *ids, GenerateFinish *finish, Err *e);

/* Appends a line of responses.jsonl, without its end:
 *     {"index","sample","prompt","response","token_ids","finish",...}
 * source: the prompt's row; its column prompt_column becomes "prompt", and all columns that have
 * another name than ours are carried along. t decodes the response. */
int generate_put_row(Text *out, const Tokenizer *t, uint64_t index, const Json *source,
                     const char *prompt_column, const Continuation *c, Err *e);

/* The choice itself: a token of z [V] by the draw u in [0,1). In this order: temperature, top_k,
 * top_p (of what top_k left), min_p; then the tokens left, in the order of their ids, share [0,1)
 * by their probabilities. Overwrites z; order [V] is scratch. -1 where a logit is NaN or none is
 * finite. Equal probabilities: the lower id counts as the more probable. */
int32_t generate_choose(const GenerateOptions *o, real *z, size_t V, double u, uint32_t *order);

#endif
