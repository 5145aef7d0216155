/* tiny.h - for tests that need a whole model: a Llama of two layers with random weights and a
 * tokenizer of bytes and a few merges, written as a Hugging Face directory. */
#ifndef ALIGN_TEST_TINY_H
#define ALIGN_TEST_TINY_H

#include "files.h"
#include "model.h"
#include "tokenizer.h"

#define TINY_H 16
#define TINY_F 32
#define TINY_LAYERS 2
#define TINY_KV 8 /* 2 key heads of 4 */
#define TINY_BOS 264
#define TINY_EOS 265
#define TINY_V 266

/* Byte-level BPE: ids 0..255 are the bytes; 256 "sk", 257 "sky", 258 "th", 259 "the", 260 " the",
 * 261 "re", 262 "er", 263 " b"; then <s> and </s>. A text gets <s> in front. */
static inline void tiny_tokenizer(const char *dir)
{
    static char json[16384];
    size_t at = 0;
    at += (size_t)snprintf(
        json, sizeof json,
        "{\"added_tokens\":[{\"id\":264,\"content\":\"<s>\",\"special\":true},"
        "{\"id\":265,\"content\":\"</s>\",\"special\":true}],"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
        "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
        "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":"
        "{\"<s>\":{\"id\":\"<s>\",\"ids\":[264],\"tokens\":[\"<s>\"]}}},"
        "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{");
    unsigned next = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        int printable = (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad);
        const char *escape = b == '"' || b == '\\' ? "\\" : "";
        if (printable && b < 0x80)
            at += (size_t)snprintf(json + at, sizeof json - at, "\"%s%c\":%u,", escape, (int)b, b);
        else
            at += (size_t)snprintf(json + at, sizeof json - at, "\"\\u%04x\":%u,",
                                   printable ? b : next++, b);
    }
    snprintf(json + at, sizeof json - at,
             "\"sk\":256,\"sky\":257,\"th\":258,\"the\":259,\"\\u0120the\":260,\"re\":261,"
             "\"er\":262,\"\\u0120b\":263},\"merges\":[\"s k\",\"sk y\",\"t h\",\"th e\","
             "\"\\u0120 the\",\"r e\",\"e r\",\"\\u0120 b\"]}}");
    char name[256];
    snprintf(name, sizeof name, "%s/tokenizer.json", dir);
    files_write(name, json, strlen(json));
    const char config[] = "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}";
    snprintf(name, sizeof name, "%s/tokenizer_config.json", dir);
    files_write(name, config, sizeof config - 1);
}

static float tiny_values[TINY_V * TINY_H * 2 +
                         TINY_LAYERS * TINY_H * (4 * TINY_H + 3 * TINY_F + 2) + TINY_H];
static StOut tiny_tensors[64];
static char tiny_names[64][80];

/* One weight: random in [-scale, scale] around `centre`. */
static inline void tiny_weight(size_t *n, size_t *at, const char *name, size_t rows, size_t cols,
                               float centre, float scale)
{
    StOut *t = &tiny_tensors[*n];
    snprintf(tiny_names[*n], sizeof tiny_names[0], "%s", name);
    *t = (StOut){.name = tiny_names[*n],
                 .dtype = DTYPE_F32,
                 .n_dims = cols ? 2 : 1,
                 .shape = {rows, cols},
                 .data = tiny_values + *at};
    size_t count = rows * (cols ? cols : 1);
    for (size_t i = 0; i < count; i++)
        tiny_values[*at + i] = centre + scale * (float)(2 * rng_unit(7, RNG_SAMPLE, *at + i) - 1);
    *at += count;
    ++*n;
}

static inline void tiny_weights(const char *dir)
{
    static const struct {
        const char *name;
        size_t rows, cols;
    } maps[] = {{"self_attn.q_proj", TINY_H, TINY_H},  {"self_attn.k_proj", TINY_KV, TINY_H},
                {"self_attn.v_proj", TINY_KV, TINY_H}, {"self_attn.o_proj", TINY_H, TINY_H},
                {"mlp.gate_proj", TINY_F, TINY_H},     {"mlp.up_proj", TINY_F, TINY_H},
                {"mlp.down_proj", TINY_H, TINY_F}};
    size_t n = 0, at = 0;
    char name[80];
    tiny_weight(&n, &at, "model.embed_tokens.weight", TINY_V, TINY_H, 0, 1);
    for (int l = 0; l < TINY_LAYERS; l++) {
        for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, maps[i].name);
            tiny_weight(&n, &at, name, maps[i].rows, maps[i].cols, 0, 0.4f);
        }
        snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", l);
        tiny_weight(&n, &at, name, TINY_H, 0, 1, 0.1f);
        snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", l);
        tiny_weight(&n, &at, name, TINY_H, 0, 1, 0.1f);
    }
    tiny_weight(&n, &at, "model.norm.weight", TINY_H, 0, 1, 0.1f);
    tiny_weight(&n, &at, "lm_head.weight", TINY_V, TINY_H, 0, 0.4f);
    Err e;
    snprintf(name, sizeof name, "%s/model.safetensors", dir);
    if (safetensors_write(files_path(name), tiny_tensors, n, NULL, &e))
        printf("%s\n", e.text), exit(1);
}

/* The directory `dir` in the tests' temporary folder; returns its path (static, stays valid). */
static inline const char *tiny_model(const char *dir)
{
    static char path[IO_PATH_MAX + 512];
    static const char config[] =
        "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":16,"
        "\"intermediate_size\":32,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
        "\"num_key_value_heads\":2,\"vocab_size\":266,\"max_position_embeddings\":256,"
        "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"hidden_act\":\"silu\","
        "\"tie_word_embeddings\":false,\"bos_token_id\":264,\"eos_token_id\":265,"
        "\"torch_dtype\":\"float32\"}";
    char name[256];
    Err e;
    snprintf(path, sizeof path, "%s", files_path(dir));
    if (io_make_directory(path, 0, &e)) printf("%s\n", e.text), exit(1);
    snprintf(name, sizeof name, "%s/config.json", dir);
    files_write(name, config, sizeof config - 1);
    tiny_tokenizer(dir);
    tiny_weights(dir);
    return path;
}

#endif
