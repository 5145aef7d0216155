/* tokenizer_class.c - what the class that tokenizer_config.json names does to tokenizer.json.
 *
 * Most classes read tokenizer.json as it is. Some of transformers 5 are built of parts of their own
 * and take only vocabulary, merges and post-processor from the file: their splitting then decides
 * ids. Of these GPT2Tokenizer is done here (SmolLM2 names it), the others are refused by name, and
 * LlamaTokenizer is looked at by sides_check. For Mistral's models transformers ignores the class.
 */
#include "tokenizer_inner.h"

#include <stdio.h>
#include <string.h>

static const char gpt2[] = "GPT2Tokenizer";

/* Classes with parts of their own, without their ending "Tokenizer". */
static const char *const own_parts[] = {
    "Albert",     "Barthez",     "Bert",    "BigBird",    "Blenderbot", "CLIP",       "Camembert",
    "CodeGen",    "CodeLlama",   "Cohere",  "Deberta",    "DebertaV2",  "Esmc",       "Funnel",
    "GPTNeoX",    "Gemma",       "Herbert", "Lasr",       "LayoutLMv2", "LayoutLMv3", "LayoutXLM",
    "Luke",       "MBart",       "MBart50", "MLuke",      "MPNet",      "MarkupLM",   "Nllb",
    "Nougat",     "OpenAIGPT",   "Pegasus", "Qwen2",      "Qwen3_5",    "Reformer",   "RemBert",
    "Roberta",    "SeamlessM4T", "Siglip2", "Splinter",   "T5",         "Tipsv2",     "Udop",
    "VideoPrism", "Whisper",     "XGLM",    "XLMRoberta", "XLNet",
};

/* The class that counts, of LEN bytes without an ending "Fast"; NULL if none does. */
static const char *class_of(const Sides *s, size_t *len)
{
    static const char fast[] = "Fast";
    const Json *type = s->model ? json_get(s->model, "model_type") : NULL;
    const Json *j = s->config ? json_get(s->config, "tokenizer_class") : NULL;
    if (!j || j->type == JSON_NULL) j = s->model ? json_get(s->model, "tokenizer_class") : NULL;
    if (!j || j->type != JSON_STRING || json_is(type, "mistral")) return NULL;
    *len = j->len;
    if (*len > 4 && !memcmp(j->text + *len - 4, fast, 4)) *len -= 4;
    return j->text;
}

static int is_class(const char *class, size_t len, const char *name)
{
    return class && strlen(name) == len && !memcmp(class, name, len);
}

int class_is_gpt2(const Sides *s)
{
    size_t len = 0;
    const char *class = class_of(s, &len);
    return is_class(class, len, gpt2);
}

int class_is_llama(const Sides *s)
{
    size_t len = 0;
    const char *class = class_of(s, &len);
    return is_class(class, len, "LlamaTokenizer");
}

int class_drops_listed(const Sides *s)
{
    const Json *decoder = s->config ? json_get(s->config, "added_tokens_decoder") : NULL;
    return decoder && decoder->type != JSON_NULL && class_is_gpt2(s);
}

static int refuse_class(const char *class, size_t len, Err *e)
{
    return err_set(e, ERR_DATA,
                   "\"tokenizer_class\": \"%.*s\" is not supported: transformers puts parts of "
                   "that class in the place of tokenizer.json's; refused, because leaving them out "
                   "would give wrong token ids (\"PreTrainedTokenizerFast\" takes the file as it "
                   "is)",
                   (int)(len < 60 ? len : 60), class);
}

/* Is the splitting of tokenizer.json that of GPT2Tokenizer already? */
static int splits_so(const Tokenizer *t, int prefix_space)
{
    return t->n_split == 1 && t->split[0].kind == SPLIT_BYTE_LEVEL &&
           t->split[0].pattern == PATTERN_GPT2 && t->split[0].prefix_space == prefix_space &&
           !t->ignore_merges;
}

/* Qwen2Tokenizer puts its expression, bytes as letters, and NFC in the place of the file's. Returns
 * 1, with NFC as the normalizer, where the file splits so already. */
static int apply_qwen2(Tokenizer *t)
{
    if (t->n_split != 2 || t->split[0].kind != SPLIT_PATTERN ||
        t->split[0].pattern != PATTERN_QWEN2 || t->split[1].kind != SPLIT_BYTE_LEVEL ||
        t->split[1].pattern != PATTERN_NONE || t->split[1].prefix_space || t->ignore_merges ||
        t->byte_fallback)
        return 0;
    t->normalize[0] = (NormalizeStep){.kind = NORMALIZE_NFC};
    t->n_normalize = 1;
    return 1;
}

int class_apply(Tokenizer *t, const Sides *s, const Log *log, Err *e)
{
    static const char ending[] = "Tokenizer";
    size_t len = 0;
    char name[64];
    const char *class = class_of(s, &len);
    for (size_t i = 0; class && i < sizeof own_parts / sizeof *own_parts; i++) {
        snprintf(name, sizeof name, "%s%s", own_parts[i], ending);
        if (!is_class(class, len, name)) continue;
        if (!strcmp(own_parts[i], "Qwen2") && apply_qwen2(t)) return 0;
        return refuse_class(class, len, e);
    }
    if (!is_class(class, len, gpt2)) return 0;
    if (t->n_normalize || t->byte_fallback) return refuse_class(class, len, e);
    const Json *prefix = s->config ? json_get(s->config, "add_prefix_space") : NULL;
    int prefix_space = prefix && prefix->type == JSON_TRUE;
    if (!splits_so(t, prefix_space))
        log_note(log, 'w',
                 "\"tokenizer_class\": \"%s\": as in transformers 5, its way to split texts takes "
                 "the place of that in tokenizer.json (\"PreTrainedTokenizerFast\" would keep it)",
                 gpt2);
    t->split[0] = (SplitStep){
        .kind = SPLIT_BYTE_LEVEL, .pattern = PATTERN_GPT2, .prefix_space = prefix_space};
    t->decode[0] = (DecodeStep){.kind = DECODE_BYTE_LEVEL};
    t->n_split = t->n_decode = 1;
    t->fuse_unk = t->ignore_merges = t->unk_lost = 0;
    t->unk = -1;
    return 0;
}
