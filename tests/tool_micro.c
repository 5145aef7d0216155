/* tool_micro.c - writes the model, the adapter and the rows of tools/micro.c as files that align
 * reads, and the losses and margins of its first steps. Usage: tool_micro DIR STEPS
 *
 * DIR must hold the tokenizer that tool_model writes (a byte is a token, 256 begins, 257 ends).
 * Made there: config.json, model.safetensors, start/ (the adapter of step 0), dpo.jsonl, kto.jsonl,
 * and dpo.losses, kto.losses: lines "step loss margin".
 */
#include "io.h"

#include <stdlib.h>

#define main micro_main /* its main stays unused */
#include "../tools/micro.c"
#undef main

static const char *const map_names[MAPS] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

enum { TENSORS = 3 + LAYERS * (2 + MAPS), ADAPTERS = 2 * LAYERS * MAPS };

typedef struct {
    StOut *list;
    size_t n;
    Pool pool;
} Tensors;

/* Adds x [rows, cols], cols 0: [rows], under the name prefix + map + suffix. */
static int add(Tensors *t, const char *prefix, const char *map, const char *suffix, const double *x,
               int n, int cols, Err *e)
{
    char name[128];
    snprintf(name, sizeof name, "%s%s%s", prefix, map, suffix);
    size_t count = (size_t)n * (size_t)(cols ? cols : 1);
    float *copy = pool_alloc(&t->pool, count * sizeof *copy, e);
    char *kept = pool_strndup(&t->pool, name, strlen(name), e);
    if (!copy || !kept) return -1;
    for (size_t i = 0; i < count; i++) copy[i] = (float)x[i]; /* exact: draw made floats */
    t->list[t->n++] = (StOut){.name = kept,
                              .dtype = DTYPE_F32,
                              .n_dims = cols ? 2 : 1,
                              .shape = {(uint64_t)n, (uint64_t)cols},
                              .data = copy};
    return 0;
}

static int write_model(const char *path, Err *e)
{
    StOut list[TENSORS];
    Tensors t = {.list = list};
    char layer[64];
    int bad = add(&t, "model.", "embed_tokens", ".weight", embedding, V, H, e) ||
              add(&t, "model.", "norm", ".weight", norms[2 * LAYERS], H, 0, e) ||
              add(&t, "lm_head", "", ".weight", head, V, H, e);
    for (int l = 0; l < LAYERS && !bad; l++) {
        snprintf(layer, sizeof layer, "model.layers.%d.", l);
        bad = add(&t, layer, "input_layernorm", ".weight", norms[2 * l], H, 0, e) ||
              add(&t, layer, "post_attention_layernorm", ".weight", norms[2 * l + 1], H, 0, e);
        for (int m = 0; m < MAPS && !bad; m++)
            bad = add(&t, layer, map_names[m], ".weight", maps[l][m].w, maps[l][m].n, maps[l][m].k,
                      e);
    }
    bad = bad || safetensors_write(path, list, t.n, NULL, e);
    pool_free(&t.pool);
    return bad ? -1 : 0;
}

static int write_adapter(const char *path, Err *e)
{
    StOut list[ADAPTERS];
    Tensors t = {.list = list};
    char layer[64];
    int bad = 0;
    for (int i = 0; i < LAYERS * MAPS && !bad; i++) {
        const Linear *l = &maps[i / MAPS][i % MAPS];
        snprintf(layer, sizeof layer, "base_model.model.model.layers.%d.", i / MAPS);
        bad = add(&t, layer, map_names[i % MAPS], ".lora_A.weight", l->a, R, l->k, e) ||
              add(&t, layer, map_names[i % MAPS], ".lora_B.weight", l->b, l->n, R, e);
    }
    bad = bad || safetensors_write(path, list, t.n, NULL, e);
    pool_free(&t.pool);
    return bad ? -1 : 0;
}

static int put_config(Text *t, Err *e)
{
    return text_addf(t, e,
                     "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
                     "\"vocab_size\":%d,\"hidden_size\":%d,\"intermediate_size\":%d,"
                     "\"num_hidden_layers\":%d,\"num_attention_heads\":%d,"
                     "\"num_key_value_heads\":%d,\"max_position_embeddings\":256,"
                     "\"rms_norm_eps\":%g,\"rope_theta\":%.1f,\"hidden_act\":\"silu\","
                     "\"tie_word_embeddings\":false,\"bos_token_id\":%d,\"eos_token_id\":%d,"
                     "\"torch_dtype\":\"float32\"}\n",
                     V, H, F, LAYERS, HEADS, HEADS, norm_eps, rope_theta, BEGIN, END);
}

static int put_adapter_config(Text *t, Err *e)
{
    return text_addf(t, e,
                     "{\"peft_type\":\"LORA\",\"r\":%d,\"lora_alpha\":%g,\"target_modules\":"
                     "[\"q_proj\",\"k_proj\",\"v_proj\",\"o_proj\",\"gate_proj\",\"up_proj\","
                     "\"down_proj\"]}\n",
                     R, lora_scale * R);
}

static int put_rows(Text *t, int kto, Err *e)
{
    for (int i = 0; i < ROWS; i++) { /* texts without quotes or backslashes */
        if (kto ? text_addf(t, e, "{\"prompt\":\"%s\",\"completion\":\"%s\",\"label\":%s}\n",
                            rows[i][0], kto_answer(i), i % 2 ? "false" : "true")
                : text_addf(t, e, "{\"prompt\":\"%s\",\"chosen\":\"%s\",\"rejected\":\"%s\"}\n",
                            rows[i][0], rows[i][1], rows[i][2]))
            return -1;
    }
    return 0;
}

static int put_losses(Text *out, int kto, int steps, Err *e)
{
    begin();
    for (int t = 1; t <= steps; t++) {
        int from = (t - 1) * BATCH % ROWS;
        double margin, loss = kto ? kto_loss(from, &margin) : dpo_loss(from, &margin);
        adamw(t);
        if (text_addf(out, e, "%d %.12g %.12g\n", t, loss, margin)) return -1;
    }
    return 0;
}

/* Writes what was put into t, unless that failed. */
static int finish(const char *dir, const char *name, Text *t, int bad, Err *e)
{
    char path[IO_PATH_MAX];
    bad = bad || io_path(path, sizeof path, dir, name, e) ||
          io_write_file(path, t->data, t->len, e);
    text_free(t);
    return bad ? -1 : 0;
}

static int write_all(const char *dir, int steps, Err *e)
{
    char model[IO_PATH_MAX], start[IO_PATH_MAX], adapter[IO_PATH_MAX];
    Text t = {0};
    begin();
    if (io_path(model, sizeof model, dir, "model.safetensors", e) ||
        io_path(start, sizeof start, dir, "start", e) || io_make_directory(start, 0, e) ||
        io_path(adapter, sizeof adapter, start, "adapter_model.safetensors", e) ||
        write_model(model, e) || write_adapter(adapter, e) ||
        finish(dir, "config.json", &t, put_config(&t, e), e) ||
        finish(start, "adapter_config.json", &t, put_adapter_config(&t, e), e))
        return -1;
    for (int kto = 0; kto < 2; kto++)
        if (finish(dir, kto ? "kto.jsonl" : "dpo.jsonl", &t, put_rows(&t, kto, e), e) ||
            finish(dir, kto ? "kto.losses" : "dpo.losses", &t, put_losses(&t, kto, steps, e), e))
            return -1;
    return 0;
}

int main(int argc, char **argv)
{
    Err e = {0};
    if (argc != 3) return fprintf(stderr, "usage: tool_micro DIR STEPS\n"), 64;
    if (!write_all(argv[1], atoi(argv[2]), &e)) return 0;
    fprintf(stderr, "tool_micro: %s\n", e.text);
    return e.code;
}
