/* engine.c - a model ready to run: kernel, tokenizer, weights, adapter. See engine.h. */
#include "engine.h"

static int load_adapter(Engine *g, const char *dir, const Log *log, Err *e)
{
    LoraShape shape;
    model_lora_shape(&g->model, &shape);
    if (lora_load(&g->lora, dir, &shape, 0, e)) return -1;
    g->adapter = &g->lora;
    lora_describe(&g->lora, dir, log);
    if (*g->lora.tokenizer) {
        Tokenizer *own = tokenizer_load(g->lora.tokenizer, log, e);
        if (!own) return -1;
        tokenizer_free(g->tokenizer);
        g->tokenizer = own;
    }
    return model_adapt(&g->model, &g->lora, e);
}

/* Has the tokenizer ids that the model has no rows for? */
static void check_ids(const Engine *g, const char *model, const Log *log)
{
    if (tokenizer_size(g->tokenizer) > g->model.config.V)
        log_note(log, 'w', "%s: the tokenizer has %zu ids, the model %zu",
                 *g->lora.tokenizer ? g->lora.tokenizer : model, tokenizer_size(g->tokenizer),
                 g->model.config.V);
}

static int load_all(Engine *g, const EngineConfig *c, Err *e)
{
    static const Log silent = {NULL, NULL};
    const Log *log = c->log ? c->log : &silent;
    if (compute_open(&g->compute, c->kernel ? c->kernel : "auto", c->precision, e)) return -1;
    g->compute_open = 1;
    g->tokenizer = tokenizer_load(c->model, log, e);
    if (!g->tokenizer || model_load(&g->model, c->model, c->flags, log, e)) return -1;
    g->model_open = 1;
    if (c->adapter && *c->adapter && load_adapter(g, c->adapter, log, e)) return -1;
    check_ids(g, c->model, log);
    return 0;
}

int engine_open(Engine *g, const EngineConfig *c, Err *e)
{
    *g = (Engine){0};
    if (!load_all(g, c, e)) return 0;
    engine_close(g);
    return -1;
}

int engine_check(const Engine *g, Err *e)
{
    return model_check_files(&g->model, e);
}

void engine_close(Engine *g)
{
    if (g->model_open) model_close(&g->model);
    if (g->adapter) lora_close(&g->lora);
    if (g->tokenizer) tokenizer_free(g->tokenizer);
    if (g->compute_open) compute_close(&g->compute);
    *g = (Engine){0};
}
