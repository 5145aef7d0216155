/* model_options.c - the options of every command that computes with a model. */
#include "model.h"

static const Option model_rows[] = {
    {"model", 'm', OPTION_DIR, option_required, NULL,
     "model: a directory (config.json, tokenizer.json, safetensors) or a GGUF file",
     WHOLE(const char *), .free = 1},
};
const OptionGroup model_options = OPTION_GROUP("Model", model_rows);

static const Option adapter_rows[] = {
    {"adapter", 0, OPTION_DIR, NULL, NULL, "PEFT adapter directory put on the model",
     WHOLE(const char *), .when = "judge:judge=self|model"},
};
const OptionGroup adapter_options = OPTION_GROUP("Adapter", adapter_rows);

static const Option engine_rows[] = {
    {"precision", 0, OPTION_CHOICE, "f32", "auto",
     "type of the operands of matrix products; everything else is always f32; auto: f32",
     FIELD(EngineOptions, precision), .words = precision_name},
    {"kernel", 0, OPTION_CHOICE, "auto", NULL,
     "instruction set of the kernels; in f32 all give the same bits", FIELD(EngineOptions, kernel),
     .words = compute_kernel_name, .free = 1},
    {"threads", 't', OPTION_COUNT, "auto", "[1,1024]|auto",
     "number of threads; any number gives the same bits; auto: one per processor",
     FIELD(EngineOptions, threads), .free = 1},
    {"no-mmap", 0, OPTION_FLAG, NULL, NULL, "read the weights instead of mapping their files",
     FIELD(EngineOptions, no_mmap), .free = 1},
    {"check-tensors", 0, OPTION_FLAG, NULL, NULL, "check the weights for NaN and infinity",
     FIELD(EngineOptions, check_tensors), .free = 1},
    {"strict", 0, OPTION_FLAG, NULL, NULL,
     "refuse a config.json without rope_theta, and stored tensors that it does not describe",
     FIELD(EngineOptions, strict), .free = 1},
};
const OptionGroup engine_options = OPTION_GROUP("Engine", engine_rows);

static const Option seed_rows[] = {
    {"seed", 's', OPTION_COUNT, "42", NULL,
     "seed of every draw: new adapters, order, dropout, pairing, samples, splits, resamples",
     WHOLE(uint64_t)},
};
const OptionGroup seed_options = OPTION_GROUP("Chance", seed_rows);

int model_flags(const EngineOptions *o)
{
    return (o->no_mmap ? MODEL_NO_MMAP : 0) | (o->check_tensors ? MODEL_CHECK_TENSORS : 0) |
           (o->strict ? MODEL_STRICT : 0);
}
