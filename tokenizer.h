/* tokenizer.h - turns text into token ids and back, by a model's tokenizer.json or tokenizer.model.
 *
 * Both forms that Llama-shaped models use: byte-level BPE (Llama 3, GPT-2) and the converted
 * SentencePiece BPE (Llama 2, Mistral). The file alone decides: normalizer, pre-tokenizer,
 * post-processor and decoder are read from it, and a step we do not know is refused by name, never
 * skipped. The ids are those of the `tokenizers` library (tools/check_tokenizer.py compares). If
 * tokenizer_config.json says LlamaTokenizer, transformers 5 builds a tokenizer of its own from
 * vocabulary and merges: its ids differ from the file's for text that begins with a space and after
 * special tokens, if the file has the older form with a Prepend normalizer.
 *
 * tokenizer_config.json, special_tokens_map.json and added_tokens.json beside it add and mark
 * tokens as transformers 5 does (tokenizer_added.c; tools/check_fields.py compares), and what would
 * change ids otherwise is refused by name. Beside a tokenizer.model, "legacy": false puts a space
 * only in front of a text; without the field the model is read as SentencePiece and transformers 4
 * read it, with BOS in front.
 *
 * Text is bytes with a length, may hold 0 bytes, and must be valid UTF-8. A Tokenizer is read-only
 * once loaded: any number of threads may use it.
 */
#ifndef ALIGN_TOKENIZER_H
#define ALIGN_TOKENIZER_H

#include "io.h"

typedef struct Tokenizer Tokenizer;

/* dir, as io_model_path finds it, is a GGUF file, or holds tokenizer.json, or else tokenizer.model
 * (a SentencePiece BPE model: Llama 2, Mistral); tokenizer_config.json (BOS, EOS, chat template,
 * tokens; for a tokenizer.model also add_bos_token, add_eos_token, add_prefix_space and legacy;
 * optional) and chat_template.jinja with additional_chat_templates/NAME.jinja (go before those in
 * tokenizer_config.json; optional). NULL with *e filled: ERR_NO_INPUT if both are missing, ERR_DATA
 * naming file, line and column (or byte) for everything wrong in a file. */
Tokenizer *tokenizer_load(const char *dir, const Log *log, Err *e);
/* Returns the file of dir that holds the vocabulary: "tokenizer.json", or else "tokenizer.model" or
 * "tekken.json" if it exists, or else "tokenizer.json" again, for messages. */
const char *tokenizer_file(const char *dir, Err *e);
/* Files of a model's directory that decide how texts become ids and where answers end. */
enum { TOKENIZER_FILES = 8 };
extern const char *const tokenizer_files[TOKENIZER_FILES];
/* And the folder of more chat templates, NAME.jinja. */
extern const char tokenizer_more_templates[];
/* Hashes name and content of those that exist, by SHA-256; of a GGUF file the texts below. */
int tokenizer_hash(const char *dir, char hex[65], Err *e);
/* What a GGUF file says, appended as the texts of a tokenizer.json and a tokenizer_config.json. */
int tokenizer_of_gguf(const Gguf *g, Text *tokenizer, Text *config, Err *e);
/* The same from bytes in memory; `name` is for messages, `config` may be NULL. */
Tokenizer *tokenizer_parse(const char *json, size_t len, const char *name, const char *config,
                           size_t config_len, const Log *log, Err *e);
/* The same for a SentencePiece model. */
Tokenizer *tokenizer_parse_model(const char *bytes, size_t len, const char *name,
                                 const char *config, size_t config_len, const Log *log, Err *e);
void tokenizer_free(Tokenizer *t);
/* What a model makes of its ids: rows of its embedding, the first token of a text, and those that
 * end an answer. */
typedef struct {
    size_t rows;
    int32_t bos; /* -1: none */
    const int32_t *eos;
    size_t n_eos;
} TokenUse;
/* tokenizer_of_gguf the other way: adds a tokenizer and its chat templates to the values of a GGUF
 * file. ERR_DATA where such a file cannot say how it cuts texts; `name` is for messages. What else
 * it cannot say is noted. */
int tokenizer_to_gguf(const Tokenizer *t, const char *name, const TokenUse *use, GgufValues *out,
                      const Log *log, Err *e);

size_t tokenizer_size(const Tokenizer *t);  /* largest id + 1 */
size_t tokenizer_bytes(const Tokenizer *t); /* of memory that it holds */

/* ---- text to ids --------------------------------------------------------------------------- */

enum {
    TOKENIZE_SPECIAL = 1, /* spellings of special tokens in the text become their ids */
    TOKENIZE_ADD = 2      /* add what the post-processor adds (BOS, EOS) */
};

/* A growing list of ids; start with {0}. */
typedef struct {
    int32_t *ids;
    size_t count, cap;
} Ids;
int ids_add(Ids *v, int32_t id, Err *e);
void ids_free(Ids *v);

/* Appends the ids of text. Without TOKENIZE_SPECIAL (the library's encode_special_tokens = True) no
 * text can turn into a control token. Time O(n log n). ERR_DATA naming the byte offset if the text
 * is not UTF-8; *out is then unchanged. */
int tokenizer_encode(const Tokenizer *t, const char *text, size_t len, int flags, Ids *out, Err *e);

/* Encodes text of mixed origin as one string: a special token counts if all of its bytes are ours
 * (ours[i] != 0 for byte i), and stays text otherwise. This is how a rendered conversation becomes
 * ids without its contents being able to forge control tokens. TOKENIZE_SPECIAL in flags makes all
 * bytes ours. */
int tokenizer_encode_marked(const Tokenizer *t, const char *text, const char *ours, size_t len,
                            int flags, Ids *out, Err *e);

/* ---- ids to text --------------------------------------------------------------------------- */

/* Appends the text of ids. skip_special leaves out special tokens. Bytes that are not UTF-8 become
 * U+FFFD as the file's decoder says. ERR_DATA for an id outside 0 .. tokenizer_size - 1. */
int tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n, int skip_special, Text *out,
                     Err *e);

/* Decoding in a stream: after any number of decoder_put the text written so far is a prefix of
 * tokenizer_decode's, and after decoder_flush it is equal to it. What could still change (a part
 * of a character, an unfinished run of byte tokens) is held back. */
typedef struct {
    const Tokenizer *t;
    int skip_special;
    size_t tokens;   /* given to the decoder so far */
    size_t stripped; /* leading characters taken off so far */
    int strip_done;  /* the first character to keep was seen */
    Text held;       /* bytes that are not final yet */
} Decoder;
void decoder_begin(Decoder *d, const Tokenizer *t, int skip_special);
int decoder_put(Decoder *d, int32_t id, Text *out, Err *e);
int decoder_flush(Decoder *d, Text *out, Err *e); /* the rest; ready for a new text afterwards */
void decoder_free(Decoder *d);                    /* at the end, or to give up half-way */

/* ---- single tokens ------------------------------------------------------------------------- */

/* The raw spelling in the vocabulary ("\u0120the", "\u2581the"); NULL for an id out of range. */
const char *tokenizer_piece(const Tokenizer *t, int32_t id, size_t *len);
int32_t tokenizer_id(const Tokenizer *t, const char *piece, size_t len); /* -1 where absent */
int tokenizer_is_special(const Tokenizer *t, int32_t id);

/* From tokenizer_config.json; -1 (NULL for the text) where it names none. */
int32_t tokenizer_bos(const Tokenizer *t);
int32_t tokenizer_eos(const Tokenizer *t);
const char *tokenizer_bos_text(const Tokenizer *t);
const char *tokenizer_eos_text(const Tokenizer *t);

/* ---- what the chat template needs ---------------------------------------------------------- */

/* Returns the source of the chat template of this name, or NULL with *len = 0. A model's only
 * template is called "default"; of several, files go before tokenizer_config.json. */
const char *tokenizer_chat_template(const Tokenizer *t, const char *name, size_t *len);
/* Returns the name of the i-th chat template, NULL beyond the last. */
const char *tokenizer_template_name(const Tokenizer *t, size_t i);
/* Returns the name ("bos_token", "pad_token", ...) and *text of the i-th special token that the
 * files beside the vocabulary name, NULL beyond the last. */
const char *tokenizer_named_token(const Tokenizer *t, size_t i, const char **text);

#endif
