/* generate.h - samples in batches: prompts in, continuations out, in the order of the prompts.
 *
 * Every step runs one packed batch through the model: a piece of the waiting prompts, and the
 * newest token of each running sequence. A prompt is read once, into a cache block that its samples
 * share; they begin in the step that reads its end. A sample that ends makes room for the next. A
 * text does not depend on any of this: it has the same bits alone and in a batch, for any number of
 * threads and of sequences at once.
 */
#ifndef ALIGN_GENERATE_H
#define ALIGN_GENERATE_H

#include "chat.h"
#include "engine.h"
#include "options.h"

/* How tokens are chosen, and how many. */
typedef struct {
    size_t max_tokens;  /* largest number of new tokens of a sample */
    double temperature; /* 0 = greedy: the largest logit, the lowest id among equals */
    size_t top_k;       /* the k most probable tokens only; 0 = all */
    double top_p;       /* the fewest tokens with this share of the mass; 1 = all, 0 = one */
    double min_p;       /* tokens with at least this share of the best one's probability; 0 = all */
    uint64_t seed;
    size_t samples;           /* samples of each prompt */
    size_t at_once;           /* most sequences that run together; memory grows with it */
    const char *const *stops; /* texts that end an answer, and are not part of it; borrowed */
    size_t n_stops;
} GenerateOptions;

/* --max-tokens --temperature --top-k --top-p --min-p --stop, of GenerateOptions. */
extern const OptionGroup sampling_options;
/* clang-format off */
/* Rows for --samples and --at-once: the commands differ in where they belong and in the default. */
#define SAMPLES_ROW(type, member, value, help) \
    {"samples", 0, OPTION_COUNT, value, "[1,1048576]", help, FIELD(type, member)}
#define AT_ONCE_ROW(type, member) \
    {"at-once", 0, OPTION_COUNT, "32", "[1,4096]", \
     "sequences that run together; does not change the text", FIELD(type, member), .free = 1}
/* clang-format on */
GenerateOptions generate_defaults(void);
/* Says what generation_config.json asks for and is not done: transformers' generate would do it. */
void generate_tell(const Engine *g, const Log *log);
/* Checks the choices: ERR_USAGE naming the option that is out of range. */
int generate_check(const GenerateOptions *o, Err *e);

/* Most prompt tokens that a step reads: enough for products to be limited by arithmetic and to read
 * most prompts whole, but few enough to hold. */
enum { GENERATE_PREFILL = 512 };

/* The work of a run. Steps, rows of their batches and rows of logits are added to the present
 * values. */
typedef struct {
    size_t steps, rows, logits;
    size_t bytes; /* of memory for the heaviest step */
} GenerateWork;

/* The engine that continues the prompts. tokenizer may be NULL: then only the model's own end
 * tokens end an answer, and every row of the head is a token. See generate_stop.h. */
typedef struct {
    Model *model;
    const Lora *lora; /* NULL = the base */
    const Tokenizer *tokenizer;
    const ChatTemplate *chat; /* that the prompts were rendered with; NULL = plain text */
    const Compute *compute;
    GenerateOptions options;
    GenerateWork *work; /* NULL = not counted */
} Generator;
/* One of an engine. */
Generator generate_with(Engine *g, const ChatTemplate *chat, const GenerateOptions *o);

/* One prompt. Draws depend on (seed, index, sample, position of the new token) only. */
typedef struct {
    const int32_t *ids;
    size_t count;
    uint64_t index; /* identifies it in draws and messages: its row in the data */
} Prompt;

typedef enum { GENERATE_STOP, GENERATE_LENGTH } GenerateFinish; /* "stop" "length" */

typedef struct {
    size_t prompt, sample; /* place in the array of prompts; 0 .. samples-1 */
    const int32_t *ids;    /* the new tokens, without the end token; valid during the call. A stop
                            * text ends them with the token that spells the answer's last byte */
    size_t count;
    size_t text_len;       /* bytes of their text that are the answer; SIZE_MAX = all */
    GenerateFinish finish; /* an end token or stop text came; or max_tokens, or the context was full
                            */
} Continuation;

/* Appends the text of an answer, without special tokens and stop texts. */
int generate_text(const Tokenizer *t, const Continuation *c, Text *out, Err *e);

/* Where results go. done: called once for each sample, in the order of prompts and samples.
 * token: each new token as it is chosen (order between sequences: as they run); may be NULL.
 * Both return 0 to go on, -1 with *e to stop the run. */
typedef struct {
    void *ctx;
    int (*done)(void *ctx, const Continuation *c, Err *e);
    int (*token)(void *ctx, size_t prompt, size_t sample, int32_t id, Err *e);
} GenerateSink;

/* Continues all prompts. ERR_DATA naming a prompt that is empty, holds an id that is not a token,
 * or leaves no room in the context; ERR_DATA if the model gives no finite logit; ERR_INTERRUPTED
 * when stop_requested is set. No memory is taken for a token, except for its text if there are stop
 * texts. */
int generate_run(const Generator *g, const Prompt *prompts, size_t n, const GenerateSink *sink,
                 Err *e);

/* Continues one prompt (sample 0), handing out its text as it grows: never half a character,
 * nor what may become a stop text. The new ids are appended to *ids (may be NULL). text returns 0
 * to go on, -1 with *e to stop. */
int generate_stream(const Generator *g, const Prompt *prompt,
                    int (*text)(void *ctx, const char *bytes, size_t len, Err *e), void *ctx,
                    Ids *ids, GenerateFinish *finish, Err *e);

/* Appends a line of responses.jsonl, without its end:
 *     {"index","sample","prompt","response","token_ids","finish",...}
 * source: the prompt's row; its column prompt_column becomes "prompt", and all columns with other
 * names than ours are kept. t decodes the response. */
int generate_put_row(Text *out, const Tokenizer *t, uint64_t index, const Json *source,
                     const char *prompt_column, const Continuation *c, Err *e);

/* The choice itself: a token of z [V] by the draw u in [0,1). In this order: temperature, top_k,
 * top_p (of what top_k left), min_p; then the remaining tokens, in the order of their ids, share
 * [0,1) by their probabilities. Overwrites z; order [V] is scratch. -1 if a logit is NaN or none is
 * finite. Equal probabilities: the lower id counts as the more probable. */
int32_t generate_choose(const GenerateOptions *o, real *z, size_t V, double u, uint32_t *order);

#endif
