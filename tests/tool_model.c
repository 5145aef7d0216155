/* tool_model.c - makes a model directory small enough for the tests of the program: random weights,
 * one token a byte, real files. Usage: tool_model DIR [llama|mistral] [SEED]
 *
 * Ids 0..255 are bytes in the order of the byte-level alphabet, 256 is <|begin|>, 257 <|end|>.
 */
#include "base.h"

#include "io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { V = 258, H = 32, F = 48, LAYERS = 2, HEADS = 4, GROUPS = 2, D = H / HEADS };
#define MAX_TENSORS (3 + 9 * LAYERS)

static int put_tokenizer(Text *t, Err *e)
{
    if (text_addf(t, e,
                  "{\"added_tokens\":[{\"id\":256,\"content\":\"<|begin|>\",\"special\":true},"
                  "{\"id\":257,\"content\":\"<|end|>\",\"special\":true}],"
                  "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                  "\"add_prefix_space\":false,\"use_regex\":false},"
                  "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
                  "{\"SpecialToken\":{\"id\":\"<|begin|>\",\"type_id\":0}},"
                  "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":"
                  "{\"<|begin|>\":{\"id\":\"<|begin|>\",\"ids\":[256],"
                  "\"tokens\":[\"<|begin|>\"]}}},\"decoder\":{\"type\":\"ByteLevel\"},"
                  "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{"))
        return -1;
    unsigned next = 0x100; /* bytes without a shape of their own are shown as U+0100 and on */
    for (unsigned b = 0; b < 256; b++) {
        int printable = (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad);
        if (text_addf(t, e, "\"\\u%04x\":%u,", printable ? b : next++, b)) return -1;
    }
    return text_addf(t, e, "\"<|begin|>\":256,\"<|end|>\":257}}}\n");
}

static int put_config(Text *t, const char *family, Err *e)
{
    int mistral = !strcmp(family, "mistral");
    return text_addf(t, e,
                     "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"vocab_size\":%d,"
                     "\"hidden_size\":%d,\"intermediate_size\":%d,\"num_hidden_layers\":%d,"
                     "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,"
                     "\"max_position_embeddings\":256,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,"
                     "\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,%s"
                     "\"bos_token_id\":256,\"eos_token_id\":257,\"torch_dtype\":\"float32\"}\n",
                     mistral ? "MistralForCausalLM" : "LlamaForCausalLM", family, V, H, F, LAYERS,
                     HEADS, GROUPS, mistral ? "\"sliding_window\":8," : "");
}

/* A tensor of draws around `mean`, uniform within +-width. */
static int add_tensor(StOut *list, size_t *n, Pool *pool, const char *name, uint64_t rows,
                      uint64_t cols, float mean, float width, Mt *mt, Err *e)
{
    size_t count = (size_t)(rows * (cols ? cols : 1));
    float *x = pool_alloc(pool, count * sizeof *x, e);
    char *copy = pool_strndup(pool, name, strlen(name), e);
    if (!x || !copy) return -1;
    for (size_t i = 0; i < count; i++) x[i] = mt_uniform(mt, mean - width, mean + width);
    list[(*n)++] = (StOut){
        .name = copy, .dtype = DTYPE_F32, .n_dims = cols ? 2 : 1, .shape = {rows, cols}, .data = x};
    return 0;
}

static int write_weights(const char *path, uint64_t seed, Err *e)
{
    static const struct {
        const char *name;
        uint64_t rows, cols;
    } shapes[] = {{"input_layernorm", H, 0},
                  {"self_attn.q_proj", H, H},
                  {"self_attn.k_proj", GROUPS * D, H},
                  {"self_attn.v_proj", GROUPS * D, H},
                  {"self_attn.o_proj", H, H},
                  {"post_attention_layernorm", H, 0},
                  {"mlp.gate_proj", F, H},
                  {"mlp.up_proj", F, H},
                  {"mlp.down_proj", H, F}};
    const float width = 0.25f;
    StOut list[MAX_TENSORS];
    Pool pool = {0};
    Mt mt;
    size_t n = 0;
    char name[128];
    mt_seed(&mt, seed);
    int bad = add_tensor(list, &n, &pool, "model.embed_tokens.weight", V, H, 0, 1, &mt, e);
    for (int layer = 0; layer < LAYERS; layer++) {
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !bad; i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, shapes[i].name);
            bad = add_tensor(list, &n, &pool, name, shapes[i].rows, shapes[i].cols,
                             shapes[i].cols ? 0.0f : 1.0f, width, &mt, e);
        }
    }
    bad = bad || add_tensor(list, &n, &pool, "model.norm.weight", H, 0, 1, width, &mt, e) ||
          add_tensor(list, &n, &pool, "lm_head.weight", V, H, 0, width, &mt, e) ||
          safetensors_write(path, list, n, NULL, e);
    pool_free(&pool);
    return bad ? -1 : 0;
}

static int write_text(const char *dir, const char *name, const Text *t, Err *e)
{
    char path[IO_PATH_MAX];
    if (io_path(path, sizeof path, dir, name, e)) return -1;
    return io_write_file(path, t->data, t->len, e);
}

int main(int argc, char **argv)
{
    static const char config[] = "{\"bos_token\":\"<|begin|>\",\"eos_token\":\"<|end|>\"}\n";
    Err e = {0};
    Text tokenizer = {0}, model = {0}, tokens = {0};
    char path[IO_PATH_MAX];
    if (argc < 2) return fprintf(stderr, "usage: tool_model DIR [llama|mistral] [SEED]\n"), 64;
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    int bad = io_make_directory(argv[1], 0, &e) || put_tokenizer(&tokenizer, &e) ||
              put_config(&model, argc > 2 ? argv[2] : "llama", &e) ||
              text_add(&tokens, config, sizeof config - 1, &e) ||
              write_text(argv[1], "tokenizer.json", &tokenizer, &e) ||
              write_text(argv[1], "config.json", &model, &e) ||
              write_text(argv[1], "tokenizer_config.json", &tokens, &e) ||
              io_path(path, sizeof path, argv[1], "model.safetensors", &e) ||
              write_weights(path, seed, &e);
    if (bad) fprintf(stderr, "tool_model: %s\n", e.text);
    text_free(&tokenizer);
    text_free(&model);
    text_free(&tokens);
    return bad ? e.code : 0;
}
