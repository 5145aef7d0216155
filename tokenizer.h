/* tokenizer.h - text to token ids and back, from a model's tokenizer.json or tokenizer.model.
 *
 * Both forms that Llama-shaped models use: byte-level BPE (Llama 3, GPT-2) and the converted
 * SentencePiece BPE (Llama 2, Mistral). The file alone decides: normalizer, pre-tokenizer,
 * post-processor and decoder are read from it, and a step we do not know is refused by name, never
 * skipped. The ids are those of the `tokenizers` library (tools/check_tokenizer.py compares).
 * transformers 5, where tokenizer_config.json says LlamaTokenizer, builds a tokenizer of its own
 * from vocabulary and merges: its ids differ from the file's for text that begins with a space and
 * behind special tokens, if the file has the older form with a Prepend normalizer.
 *
 * Text is bytes with a length, may hold 0 bytes, and must be valid UTF-8. A Tokenizer is read-only
 * once loaded: any number of threads may use it.
 */
#ifndef ALIGN_TOKENIZER_H
#define ALIGN_TOKENIZER_H

#include "base.h"

typedef struct Tokenizer Tokenizer;

/* dir holds tokenizer.json, or else tokenizer.model (a SentencePiece BPE model: Llama 2, Mistral);
 * tokenizer_config.json (BOS, EOS, chat template; for a tokenizer.model also add_bos_token and
 * add_eos_token; optional) and chat_template.jinja (goes before the template in
 * tokenizer_config.json; optional). NULL with *e filled: ERR_NO_INPUT without either, ERR_DATA
 * naming file, line and column (or byte) for everything wrong in a file. */
Tokenizer *tokenizer_load(const char *dir, const Log *log, Err *e);
/* The file of dir that the vocabulary comes from: "tokenizer.json", else "tokenizer.model" where
 * that is there, else "tokenizer.json" again, for messages. */
const char *tokenizer_file(const char *dir, Err *e);
/* Files of a model's directory that decide how texts become ids and where answers end. */
enum { TOKENIZER_FILES = 6 };
extern const char *const tokenizer_files[TOKENIZER_FILES];
/* SHA-256 of name and content of those of them that are there. */
int tokenizer_hash(const char *dir, char hex[65], Err *e);
/* The same from bytes in memory; `name` is for messages, `config` may be NULL. */
Tokenizer *tokenizer_parse(const char *json, size_t len, const char *name, const char *config,
                           size_t config_len, const Log *log, Err *e);
/* The same for a SentencePiece model. */
Tokenizer *tokenizer_parse_model(const char *bytes, size_t len, const char *name,
                                 const char *config, size_t config_len, const Log *log, Err *e);
void tokenizer_free(Tokenizer *t);

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

/* Appends the ids of text. Without TOKENIZE_SPECIAL (the library's encode_special_tokens = True)
 * no text can turn into a control token. Time O(n log n). ERR_DATA naming the byte offset where
 * the text is not UTF-8; *out is then as it was. */
int tokenizer_encode(const Tokenizer *t, const char *text, size_t len, int flags, Ids *out, Err *e);

/* Encodes text of mixed origin as the one string it is: a special token counts where all of its
 * bytes are ours (ours[i] != 0 for byte i), and stays text where any byte is not. This is how a
 * rendered conversation becomes ids without its contents being able to forge control tokens.
 * TOKENIZE_SPECIAL in flags makes all bytes ours. */
int tokenizer_encode_marked(const Tokenizer *t, const char *text, const char *ours, size_t len,
                            int flags, Ids *out, Err *e);

/* ---- ids to text --------------------------------------------------------------------------- */

/* Appends the text of ids. skip_special leaves out special tokens. Bytes that are no UTF-8 become
 * U+FFFD as the file's decoder says. ERR_DATA for an id outside 0 .. tokenizer_size - 1. */
int tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n, int skip_special, Text *out,
                     Err *e);

/* Decoding in a stream: after any number of decoder_put the text written so far is a prefix of
 * tokenizer_decode's, and after decoder_flush it is equal to it. What could still change (a part
 * of a character, an unfinished run of byte tokens) is held back. */
typedef struct {
    const Tokenizer *t;
    int skip_special;
    size_t tokens;   /* that went into the decoder so far */
    size_t stripped; /* leading characters taken off so far */
    int strip_done;  /* the first character to keep has come */
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

/* The source of the chat template, NULL where the model has none. */
const char *tokenizer_chat_template(const Tokenizer *t, size_t *len);

/* The date for templates that write one. It is fixed, so that the same rows give the same ids on
 * every day: transformers uses this very date for Llama 3.1, and for Llama 3.2 where its template
 * engine has no clock, else the current day. Set it (any text) before the tokenizer is shared. */
#define TOKENIZER_CHAT_DATE "26 Jul 2024"
int tokenizer_set_chat_date(Tokenizer *t, const char *date, Err *e);
const char *tokenizer_chat_date(const Tokenizer *t);

#endif
