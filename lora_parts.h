/* lora_parts.h - private declarations shared by the lora_*.c files. */
#ifndef ALIGN_LORA_PARTS_H
#define ALIGN_LORA_PARTS_H

#include "lora.h"

/* Slots in module order: layer by layer, then the head. */
size_t lora_slot_count(const LoraShape *s);
void lora_slot_place(const LoraShape *s, size_t slot, size_t *layer, Target *target);

/* The weight of a module, as the adapter has it; 0 = not known. (lora_saved.c) */
int lora_weight_of(const Lora *l, const char *module, Mat *out);
/* DoRA: finds the weights below the adapters, and measures. */
int lora_begin_dora(Lora *l, Err *e);
/* Gives every slot with rank[slot] > 0 its A and B, with DoRA its m, in one array. */
int lora_allocate(Lora *l, const size_t *rank, int trainable, Err *e);
/* The numbers of a half: they lie in our own array, see lora_allocate. */
real *lora_numbers(const Param *p);
/* alpha / r, or alpha / sqrt(r) for rank-stabilised adapters (Kalajdzievski 2023, Eq. 4). */
double lora_scale(double alpha, size_t rank, int rslora);

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

/* ---- whole weights (lora_saved.c) ---------------------------------------------------------- */

/* Is a tensor of the file a weight of the model? 1 = yes, and it is in l->saved, or is to be passed
 * over; 0 = no; -1 = it does not fit. l->saved has room for all tensors of the file. */
int lora_save_found(Lora *l, const Safetensors *st, const StTensor *t, const Json *root, Err *e);
/* Are all whole weights there that the configuration names, and do they fit one another? */
int lora_check_saved(Lora *l, const Json *root, const char *path, int trainable, Err *e);

/* ---- regular expressions (lora_pattern.c) -------------------------------------------------- */

/* Does the expression match the whole name, by Python's re.fullmatch; with `ending`, the whole name
 * or what follows a dot in it, as in rank_pattern? 1, 0; -1 = the expression is damaged, or holds
 * what is not supported, or takes too long. */
int lora_pattern_matches(const char *pattern, size_t len, int ending, const char *name);

#endif
