/* model_config.h - private to the model's room: reading config.json. */
#ifndef ALIGN_MODEL_CONFIG_H
#define ALIGN_MODEL_CONFIG_H

#include "model.h"

/* Reads dir/config.json and dir/generation_config.json. Refuses by name what is not supported;
 * strict: a missing rope_theta is an error instead of a note. */
int model_config_read(ModelConfig *c, const char *dir, int strict, const Log *log, Err *e);
/* The same from the text of a config.json; `name` is for messages. */
int model_config_parse(ModelConfig *c, const char *text, size_t len, const char *name, int strict,
                       const Log *log, Err *e);

/* model_gguf.c: appends the config.json that says what an open file says; points the weights of a
 * model whose configuration is read to the tensors of m->gguf. */
int model_gguf_config(const Gguf *g, Text *out, Err *e);
int model_gguf_weights(Model *m, int flags, const Log *log, Err *e);

#endif
