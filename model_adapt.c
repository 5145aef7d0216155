/* model_adapt.c - puts the whole weights of an adapter in the place of a model's own. */
#include "model.h"

#include <string.h>

/* What the adapter replaces is replaced in copies of the lists of weights. */
static int begin(Model *m, Err *e)
{
    Model *base = mem_alloc(sizeof *base, e);
    ModelLayer *layers = base ? mem_calloc(m->config.layers, sizeof *layers, e) : NULL;
    if (!layers) {
        mem_free(base);
        return -1;
    }
    memcpy(layers, m->layers, m->config.layers * sizeof *layers);
    *base = *m;
    m->base = base;
    m->layers = layers;
    return 0;
}

int model_adapt(Model *m, const Lora *lora, Err *e)
{
    if (!lora->n_saved) return 0;
    if (begin(m, e)) return -1;
    if (lora->untied) {
        m->head = m->embedding;
        m->config.tied = 0;
        m->untied = 1;
    }
    for (size_t i = 0; i < model_weight_count(m); i++) {
        Weight w;
        model_weight(m, i, &w);
        const SavedWeight *saved = lora_saved(lora, w.name);
        if (saved) *w.param = (Param){saved->w, NULL};
    }
    m->config.V = m->embedding.w.rows; /* after the walk: it goes by the configuration */
    return 0;
}

void model_leave(Model *m)
{
    if (!m->base) return;
    mem_free(m->layers);
    m->layers = m->base->layers;
    mem_free(m->base);
    m->base = NULL;
}
