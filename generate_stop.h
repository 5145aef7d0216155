/* generate_stop.h - decides where an answer ends: at end tokens, and at stop texts in the decoded
 * answer.
 *
 * The end tokens are those of the model's configuration, the tokenizer's own, and the one that the
 * chat template in use writes after an answer, as in training. A stop text is looked for in the
 * decoded answer, so it may begin and end anywhere in its tokens: of several the one that is
 * complete first counts, of those the longest.
 */
#ifndef ALIGN_GENERATE_STOP_H
#define ALIGN_GENERATE_STOP_H

#include "chat.h"
#include "model.h"

enum {
    STOP_TEXTS = 16, /* of --stop, at most */
    STOP_IDS = MODEL_MAX_EOS + 2 + STOP_TEXTS
};

typedef struct {
    int32_t ids[STOP_IDS];
    size_t n_ids;
    const char *texts[STOP_TEXTS + 1]; /* borrowed, except the template's */
    size_t n_texts;
    ChatEnd end; /* of the template; "" without one */
} Stops;

/* tokenizer and chat may be NULL, and texts if n_texts is 0. A text that spells one special token
 * also stops at that token. ERR_DATA if the template cannot be rendered. */
int stops_find(Stops *s, const ModelConfig *c, const Tokenizer *t, const ChatTemplate *chat,
               const char *const *texts, size_t n_texts, Err *e);
int stops_has(const Stops *s, int32_t id);

/* The text of an answer in progress. */
typedef struct {
    const Stops *stops;
    Decoder decoder;
    Text text;     /* what was not handed out yet */
    size_t seen;   /* bytes of it that were searched */
    size_t before; /* bytes handed out */
    size_t cut;    /* bytes of the answer before the stop text, SIZE_MAX = none came */
} StopWatch;

void watch_begin(StopWatch *w, const Stops *s, const Tokenizer *t);
int watch_put(StopWatch *w, int32_t id, Err *e);
int watch_flush(StopWatch *w, Err *e); /* the end: what the decoder holds back */
/* Appends what certainly belongs to the answer: not what may be the beginning of a stop text,
 * unless `all`. */
int watch_take(StopWatch *w, int all, Text *out, Err *e);
void watch_free(StopWatch *w);

#endif
