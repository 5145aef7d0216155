/* tokenizers.h - tokenizer.json files small enough to check by hand, for tests and fuzzing. */
#ifndef ALIGN_TEST_TOKENIZERS_H
#define ALIGN_TEST_TOKENIZERS_H

#include <stdio.h>

#define BAR "\xe2\x96\x81" /* U+2581, the SentencePiece space */

/* A SentencePiece-like model: 0 <unk> 1 <s> 2 </s> 3 _ 4 a 5 b 6 ab 7 _ab 8 __ 9 <0xC3> 10 <0xA9>
 * 11 [X] (added, no control token). `middle` holds normalizer and pre-tokenizer. The text lasts
 * until the next call. */
static inline const char *json_sentencepiece(const char *middle)
{
    static char json[4096];
    snprintf(json, sizeof json,
             "{\"version\":\"1.0\",\"truncation\":{\"max_length\":1},\"padding\":{\"x\":1},"
             "\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true},"
             "{\"id\":1,\"content\":\"<s>\",\"special\":true},"
             "{\"id\":2,\"content\":\"</s>\",\"special\":true},"
             "{\"id\":11,\"content\":\"[X]\",\"special\":false}],%s,"
             "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
             "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
             "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":"
             "{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]}}},"
             "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"
             "{\"String\":\"" BAR "\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
             "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
             "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,"
             "\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2,\"" BAR "\":3,"
             "\"a\":4,\"b\":5,\"ab\":6,\"" BAR "ab\":7,\"" BAR BAR "\":8,\"<0xC3>\":9,"
             "\"<0xA9>\":10},\"merges\":[\"a b\",[\"" BAR "\",\"ab\"],\"" BAR " " BAR "\"]}}",
             middle);
    return json;
}

#define LEGACY                                                                                     \
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"    \
    "\"" BAR "\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" BAR         \
    "\"}]},"                                                                                       \
    "\"pre_tokenizer\":null"
#define METASPACE(scheme)                                                                          \
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"" BAR         \
    "\",\"prepend_scheme\":\"" scheme "\",\"split\":false}"

/* A byte-level model: ids 0..255 are the bytes in the order of the alphabet; then 256 "ab",
 * 257 "Gab" (G: the space), 258 "GG", 259 "abab" (in no merge), and added tokens 260 <|end|>,
 * 261 <|pad|>. The text lasts until the next call. */
static inline const char *json_byte_level(const char *pre_tokenizer, const char *options)
{
    static char json[16384];
    size_t at = 0;
    at += (size_t)snprintf(json, sizeof json,
                           "{\"added_tokens\":[{\"id\":260,\"content\":\"<|end|>\",\"special\":"
                           "true},{\"id\":261,\"content\":\"<|pad|>\",\"special\":true}],"
                           "\"pre_tokenizer\":%s,\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{"
                           "\"type\":\"BPE\",%s\"vocab\":{",
                           pre_tokenizer, options);
    unsigned next = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        int printable = (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad);
        at += (size_t)snprintf(json + at, sizeof json - at, "\"\\u%04x\":%u,",
                               printable ? b : next++, b);
    }
    snprintf(json + at, sizeof json - at,
             "\"ab\":256,\"\\u0120ab\":257,\"\\u0120\\u0120\":258,\"abab\":259},"
             "\"merges\":[\"a b\",\"\\u0120 ab\",\"\\u0120 \\u0120\"]}}");
    return json;
}

#define BYTES_ONLY "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define BYTES_GPT2 "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":true}"
#define BYTES_LLAMA3                                                                               \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"        \
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}"         \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"     \
    "\"behavior\":\"Isolated\",\"invert\":false}," BYTES_ONLY "]}"

#endif
