/* engine.h - everything that reading a text with a model takes, opened in one order.
 *
 * Kernel, tokenizer, model, adapter: what is quick to refuse comes first. Every command and every
 * stage that runs a model opens it here, so that all of them say the same about it.
 */
#ifndef ALIGN_ENGINE_H
#define ALIGN_ENGINE_H

#include "lora.h"
#include "model.h"
#include "tokenizer.h"

/* What to open. Paths are borrowed. */
typedef struct {
    const char *model;   /* directory */
    const char *adapter; /* PEFT directory; NULL or "" = none */
    int flags;           /* of model_load */
    const char *kernel;  /* NULL = "auto" */
    Precision precision;
    const Log *log; /* hears what is odd about the files; NULL = nobody */
} EngineConfig;

typedef struct {
    Compute compute;
    Tokenizer *tokenizer;
    Model model;
    Lora lora;
    const Lora *adapter; /* &lora, or NULL without one: an Engine stays where it was opened */
    int compute_open, model_open;
} Engine;

/* The errors of compute_open, tokenizer_load, model_load and lora_load. After one g is closed. */
int engine_open(Engine *g, const EngineConfig *c, Err *e);
/* ERR_DATA where a file of the model was written to since: the results may be of two models. */
int engine_check(const Engine *g, Err *e);
/* Closes what is open, and leaves {0}. */
void engine_close(Engine *g);

#endif
