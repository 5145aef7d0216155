/* tokenizer_inner.h - what the tokenizer's files share: the loaded tokenizer and its steps.
 *
 *     text -> [added tokens] -> normalize -> [added tokens] -> pre-tokenize -> BPE -> ids
 *              tokenizer.c                                     tokenizer_split.c, tokenizer_bpe.c
 *     ids  -> pieces -> decoder steps -> text                  tokenizer_decode.c
 *
 * tokenizer_load.c builds all of it from tokenizer.json, or from what tokenizer_sentencepiece.c
 * makes of a tokenizer.model.
 */
#ifndef ALIGN_TOKENIZER_INNER_H
#define ALIGN_TOKENIZER_INNER_H

#include "tokenizer.h"

#include "json.h"

#define TOKENIZER_MAX_STEPS 16 /* of one kind; real files have at most four */
#define NORMALIZER_GROWTH 64   /* a text may become this many times longer; spaces become 3 times */
#define DECODED_PIECE_MAX ((size_t)1 << 20) /* bytes of one piece after the decoder's replacing */
#define BYTE_ALPHABET 0x144 /* code points below this stand for bytes in byte-level files */

/* An entry of the vocabulary. */
typedef struct {
    const char *text; /* 0-terminated, may hold 0 bytes */
    uint32_t len;
    unsigned char model;   /* BPE knows it (the rest are added tokens only) */
    unsigned char special; /* an added token with "special": true */
} Piece;

/* A token found in the text itself, before BPE. */
typedef struct {
    const char *text; /* what to look for: the content, or its normalized form */
    size_t len;
    size_t lead; /* bytes in front that the normalizer prepends: the space before the token */
    size_t turn; /* its number among the tokens that were read */
    int32_t id;
    unsigned char special, single_word, lstrip, rstrip;
} AddedToken;

/* Added tokens sorted by bytes; those that begin with byte b are first[b] .. first[b + 1] - 1. */
typedef struct {
    AddedToken *tokens;
    size_t count;
    uint32_t first[257];
} AddedSet;

typedef struct {
    const char *text;
    size_t len;
} Bytes;

/* A chat template or a special token, and the name that the model's files give it. */
typedef struct {
    const char *name;
    Bytes text;
} NamedText;

typedef enum { NORMALIZE_PREPEND, NORMALIZE_REPLACE, NORMALIZE_NFC } NormalizeKind;
typedef struct {
    NormalizeKind kind;
    Bytes from, to; /* PREPEND uses `to` only, NFC neither */
} NormalizeStep;

/* The patterns we know, each a function of tokenizer_split.c. */
typedef enum {
    PATTERN_NONE,
    PATTERN_GPT2,
    PATTERN_LLAMA3,
    PATTERN_QWEN2,
    PATTERN_DIGITS,
    PATTERN_DIGIT_RUNS,
    PATTERN_TEKKEN
} Pattern;

typedef struct Regex Regex; /* tokenizer_regex.c */
typedef enum { SPLIT_PATTERN, SPLIT_REGEX, SPLIT_BYTE_LEVEL, SPLIT_METASPACE } SplitKind;
/* What becomes of the matches of a Split, as the tokenizers library names it. */
typedef enum {
    SPLIT_ISOLATED,   /* words of their own */
    SPLIT_REMOVED,    /* left out */
    SPLIT_PREVIOUS,   /* the end of the word in front, the first one of several */
    SPLIT_NEXT,       /* the beginning of the word behind, the last one of several */
    SPLIT_CONTIGUOUS, /* neighbours are one word */
    SPLIT_BEHAVIORS
} SplitBehavior;
typedef enum { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } PrependScheme;
typedef struct {
    SplitKind kind;
    Pattern pattern;      /* PATTERN, BYTE_LEVEL (NONE or GPT2) */
    Regex *regex;         /* REGEX, and the two below */
    SplitBehavior behavior;
    int inverted;         /* what lies between matches counts as matches, and the other way round */
    int prefix_space;     /* BYTE_LEVEL */
    PrependScheme scheme; /* METASPACE, and the two below */
    Bytes replacement;
    int split;
} SplitStep;

typedef enum {
    DECODE_REPLACE,
    DECODE_BYTE_FALLBACK,
    DECODE_FUSE,
    DECODE_STRIP,
    DECODE_BYTE_LEVEL,
    DECODE_METASPACE,
    DECODE_SPACES /* no decoder in the file: pieces joined by a space */
} DecodeKind;
typedef struct {
    DecodeKind kind;
    Bytes from, to; /* REPLACE, METASPACE */
    size_t start;   /* STRIP: largest number of copies of `from` at the beginning */
    int fused;      /* STRIP: the beginning of the whole text, not of each piece */
} DecodeStep;

/* (left, right) -> rank of the merge and id of the result; open addressing. */
typedef struct {
    uint64_t pair; /* left << 32 | right, MERGE_EMPTY = free slot */
    uint32_t rank;
    int32_t id;
} Merge;
#define MERGE_EMPTY UINT64_MAX

struct Tokenizer {
    Pool pool; /* everything below lives here */

    Piece *pieces;
    size_t size;
    int32_t *by_text; /* open addressing over pieces, -1 = free slot */
    size_t by_text_mask;
    Merge *merges;
    size_t merge_mask;
    uint64_t *joins; /* pairs of symbols that some merge crosses between; open addressing over
                      * left << 32 | right, MERGE_EMPTY = free; owned by mem_alloc */
    size_t join_mask, n_joins;

    int32_t unk;  /* -1: a character without a token is dropped */
    int unk_lost; /* the model names an unknown token that its vocabulary lacks */
    int fuse_unk, byte_fallback, ignore_merges;
    int32_t byte_ids[256]; /* ids of "<0x00>" .. "<0xFF>", -1 = absent */

    AddedSet raw, normalized; /* found before and after normalization */
    NormalizeStep normalize[TOKENIZER_MAX_STEPS];
    size_t n_normalize;
    SplitStep split[TOKENIZER_MAX_STEPS];
    size_t n_split;
    DecodeStep decode[TOKENIZER_MAX_STEPS];
    size_t n_decode;
    Ids prefix, suffix; /* what the post-processor puts around; owned by mem_alloc */

    int32_t bos, eos;
    const char *bos_text, *eos_text;
    NamedText *templates; /* chat templates; a single one is called "default" */
    size_t n_templates;
    NamedText *tokens; /* bos_token, pad_token, ...: what templates know of special tokens */
    size_t n_tokens;

    unsigned short byte_chars[256];  /* byte-level alphabet: byte -> code point */
    short char_bytes[BYTE_ALPHABET]; /* and back, -1 = stands for no byte */
};

/* tokenizer_compose.c: the one or two characters that `whole` stands for, and how many (0: it
 * stands for itself); the character that two compose, or 0; the combining class of a mark, or 0. */
int compose_parts(uint32_t whole, uint32_t out[2]);
uint32_t compose_pair(uint32_t first, uint32_t second);
unsigned compose_class(uint32_t c);
/* tokenizer_nfc.c: appends text, valid UTF-8, in canonical composition. ours as below. */
int nfc_text(const char *text, const char *ours, size_t len, Text *out, Text *out_ours, Err *e);

/* tokenizer.c: what the normalizer makes of text. ours (may be NULL: then out_ours stays empty)
 * goes along byte by byte; see tokenizer_encode_marked. */
int normalize_text(const Tokenizer *t, const char *text, const char *ours, size_t len, Text *out,
                   Text *out_ours, Err *e);

/* ---- one encoding under way ----------------------------------------------------------------- */

/* A symbol of the word: a character at first. Neighbours that no merge can join are not linked. */
typedef struct {
    uint32_t previous, next; /* UINT32_MAX if there is none */
    int32_t id;              /* BPE_GONE once merged into its left neighbour */
} Symbol;
#define BPE_GONE (-1)

/* A pair that may be merged, in the list of its run. */
typedef struct {
    uint32_t position, next;
} Candidate;

/* Candidates of one rank, positions ascending; first = UINT32_MAX: not in use. */
typedef struct {
    uint32_t rank, first, last;
} Run;

typedef struct {
    uint64_t key; /* rank << 32 | position of the run's first candidate */
    uint32_t run;
} HeapItem;

/* Where the ids of an encoding go, and the scratch memory that all its pieces share. */
#define OPEN_RUNS 64
typedef struct {
    const Tokenizer *t;
    Ids *out;
    Err *e;
    Text rewritten[TOKENIZER_MAX_STEPS]; /* per pre-tokenizer step: the piece it passes on */
    Symbol *symbols;
    Candidate *candidates;
    Run *runs;
    HeapItem *heap;
    size_t n_symbols, cap_symbols, n_candidates, cap_candidates, n_runs, cap_runs, n_heap, cap_heap;
    uint32_t free_candidate, free_run; /* lists, linked by `next` and `last` */
    uint32_t open_runs[OPEN_RUNS];     /* by rank modulo OPEN_RUNS: the run that may be continued */
} Encoder;

/* tokenizer_regex.c: an expression that was parsed, and what matching it needs. regex_parse gives
 * NULL with *why, which names what is not supported, or NULL if memory is out (then *e is filled).
 * The text must be UTF-8. */
typedef struct RegexWork RegexWork;
Regex *regex_parse(const char *text, size_t len, const char **why, Err *e);
void regex_free(Regex *r);
RegexWork *regex_work(const Regex *r, Err *e);
void regex_work_free(RegexWork *w);
/* The first match that begins at `from` or later, of these the one that backtracking would take: 1
 * with its ends, or 0. */
int regex_find(const Regex *r, RegexWork *w, const char *text, size_t len, size_t from,
               size_t *begin, size_t *end);

/* tokenizer_split.c: cuts a piece by the pre-tokenizer and encodes what comes out.
 * at_start: the piece begins where the text begins. */
int split_encode(Encoder *n, const char *text, size_t len, int at_start);
/* The pattern written so, PATTERN_NONE for an unknown one. */
Pattern split_pattern(const char *regex, size_t len);
/* Where the word that begins at text[at] ends, by a pattern. */
size_t split_word_end(Pattern p, const char *text, size_t len, size_t at);
/* How a pattern of Split is written. */
const char *split_regex(Pattern p);

/* tokenizer_bpe.c: after loading: finds out where words can be cut. Then: ids of one pre-token,
 * appended to n->out; at the end frees the scratch memory. */
int bpe_prepare(Tokenizer *t, Err *e);
int bpe_encode(Encoder *n, const char *text, size_t len);
void bpe_free(Encoder *n);

/* tokenizer_sentencepiece.c: appends the tokenizer.json that equals a SentencePiece model: the same
 * ids as SentencePiece and as the conversion of transformers. info: ids that the model names,
 * -1 = none. ERR_DATA naming the byte or the piece, for what is broken or not supported (unigram,
 * NFKC tables, trimmed spaces). */
typedef struct {
    int32_t bos, eos;
} SentencePiece;
typedef struct {
    int add_bos, add_eos; /* what the post-processor puts around */
    int no_bos;           /* "bos_token": null or "": the model's own is not taken either */
    int unknown_bos;      /* "": transformers looks it up and puts the unknown token in front */
    int no_prefix;        /* no space in front of texts */
    int prefix_first;     /* only at the beginning of a text, not after special tokens */
} SentencePieceOptions;
int sentencepiece_json(const char *bytes, size_t len, const char *name,
                       const SentencePieceOptions *o, SentencePiece *info, Text *out, Err *e);

/* Of a TemplateProcessing: how two texts would be joined, which the tokenizers library asks for. */
#define TEMPLATE_PAIR \
    "\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}," \
    "{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}],"

/* The same of pieces in memory, in the order of their ids; *ends names them on entry. */
typedef enum {
    KIND_NORMAL = 1,
    KIND_UNKNOWN,
    KIND_CONTROL,
    KIND_USER,
    KIND_UNUSED,
    KIND_BYTE
} SpKind;
typedef struct {
    Bytes text;
    float score;
    uint32_t id;
    SpKind kind;
} SpPiece;
int sentencepiece_pieces_json(SpPiece *pieces, size_t count, const char *name,
                              const SentencePieceOptions *o, SentencePiece *ends, Text *out,
                              Err *e);

/* tokenizer_gguf.c: keys of a GGUF file; the name there of byte-level BPE whose words are cut so:
 * each digit by itself first or not, then by the pattern; a word that is a token is one or not;
 * characters are composed (NFC) first or not, and if no name says that they are, one that does not.
 * NULL: it has none. */
#define GGUF_KEY(name) "tokenizer.ggml." name
const char *gguf_cut_name(Pattern pattern, int digits, int whole, int composes);

/* tokenizer_tekken.c: appends the tokenizer.json that equals a tekken.json. */
int tekken_json(const char *bytes, size_t len, const char *name, Text *out, Err *e);

/* tokenizer_added.c: the files beside the vocabulary, parsed; NULL where one is not there. */
typedef struct {
    const Json *config, *map, *added; /* tokenizer_config, special_tokens_map, added_tokens */
    const Json *model;                /* config.json */
} Sides;
enum { ADDED_FLAGS = 5 };
extern const char *const added_flags[ADDED_FLAGS]; /* of a token: "special", "single_word", ... */
/* The special token that the files call by this key ("eos_token"); NULL where none does. */
const Json *sides_special(const Sides *s, const char *key);
/* The i-th special token that has a name ("pad_token"): 1, or 0 where this one is none, -1 at the
 * end. */
int sides_variable(const Sides *s, size_t i, const char **name, Bytes *text);
/* Tokens that they may add, at most. Then the list of added tokens with theirs: new ones get the
 * ids behind t->size, which grows. */
size_t added_room(const Sides *s);
int added_merge(Tokenizer *t, const Json *listed, const Sides *s, const Log *log, Pool *pool,
                const Json **merged, Err *e);
/* tokenizer_class.c: puts the parts of the class that the files name in the place of those of
 * tokenizer.json, as transformers does, or refuses the class by name. */
int class_apply(Tokenizer *t, const Sides *s, const Log *log, Err *e);
int class_is_gpt2(const Sides *s);  /* it has special tokens of its own */
int class_is_llama(const Sides *s); /* as transformers takes it, so not for Mistral's models */
/* Are the added tokens of tokenizer.json passed over for those of tokenizer_config.json? */
int class_drops_listed(const Sides *s);
/* Refuses by name what changes ids in transformers and is not done here. */
int sides_check(const Tokenizer *t, const Sides *s, int from_model, Err *e);
int sides_model(const Sides *s, SentencePieceOptions *o, Err *e);

/* tokenizer_bpe.c: where a spelling or a pair is, or would go, in its table; the id that BPE knows
 * a spelling by, -1 where it knows none. */
size_t piece_slot(const Tokenizer *t, const char *text, size_t len);
size_t merge_slot(const Tokenizer *t, uint64_t pair);
int32_t model_id(const Tokenizer *t, const char *text, size_t len);

/* The byte-level alphabet: the code point that stands for each byte. */
void bytes_as_letters(unsigned short out[256]);
/* The byte that "<0x41>" stands for (two hex digits, either case), -1 for any other spelling. */
int piece_byte(const char *text, size_t len);

#endif
