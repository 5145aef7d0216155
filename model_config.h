/* model_config.h - private to the model's room: reading config.json, the weights in order. */
#ifndef ALIGN_MODEL_CONFIG_H
#define ALIGN_MODEL_CONFIG_H

#include "model.h"

/* Reads dir/config.json and dir/generation_config.json. Refuses by name what is not supported;
 * strict: a missing rope_theta is an error instead of a note. */
int model_config_read(ModelConfig *c, const char *dir, int strict, const Log *log, Err *e);

/* The i-th weight (i < model_param_count) as it stands now, and its Hugging Face name. */
#define MODEL_TENSOR_NAME 160
const Mat *model_weight(const Model *m, size_t i, char name[MODEL_TENSOR_NAME]);

#endif
