/* engine.c - a model ready to run: kernel, tokenizer, weights, adapter. See engine.h. */
#include "engine.h"

static int load_adapter(Engine *g, const char *dir, const Log *log, Err *e)
{
    LoraShape shape;
    model_lora_shape(&g->model, &shape);
    if (lora_load(&g->lora, dir, &shape, 0, e)) return -1;
    g->adapter = &g->lora;
    lora_describe(&g->lora, dir, log);
    return 0;
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
    if (tokenizer_size(g->tokenizer) > g->model.config.V)
        log_note(log, 'w', "%s: the tokenizer has %zu ids, the model %zu", c->model,
                 tokenizer_size(g->tokenizer), g->model.config.V);
    return c->adapter && *c->adapter ? load_adapter(g, c->adapter, log, e) : 0;
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
    if (g->adapter) lora_close(&g->lora);
    if (g->model_open) model_close(&g->model);
    if (g->tokenizer) tokenizer_free(g->tokenizer);
    if (g->compute_open) compute_close(&g->compute);
    *g = (Engine){0};
}
