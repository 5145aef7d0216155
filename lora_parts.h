/* lora_parts.h - private declarations shared by lora.c and lora_config.c. */
#ifndef ALIGN_LORA_PARTS_H
#define ALIGN_LORA_PARTS_H

#include "lora.h"

/* Slots in module order: layer by layer, then the head. */
size_t lora_slot_count(const LoraShape *s);
void lora_slot_place(const LoraShape *s, size_t slot, size_t *layer, Target *target);

/* ---- adapter_config.json (lora_config.c) --------------------------------------------------- */

/* Checks every key by PEFT's meaning and reads the numbers into l->config; notes keys that nothing
 * reads. trainable: the adapter will be trained further, so that keys with an effect in training
 * count, too. */
int lora_read_config(Lora *l, const Json *root, const char *path, int trainable, Err *e);
/* Would PEFT put an adapter on each module that has weights (rank[slot] > 0)? If not, it would pass
 * over weights that we would use. Notes the modules of which the opposite holds. */
int lora_check_modules(Lora *l, const size_t *rank, const Json *root, const char *path, Err *e);
/* The value that `pattern` (rank_pattern, alpha_pattern) gives a module; *value stays otherwise. */
int lora_pattern_value(const Json *root, const char *pattern, const char *module, const char *path,
                       double *value, Err *e);

/* ---- regular expressions (lora_pattern.c) -------------------------------------------------- */

/* Does the expression match the whole name, by Python's re.fullmatch; with `ending`, the whole name
 * or what follows a dot in it, as in rank_pattern? 1, 0; -1 = the expression is damaged, or holds
 * what is not supported, or takes too long. */
int lora_pattern_matches(const char *pattern, size_t len, int ending, const char *name);

#endif
