/* sentencepiece.h - SentencePiece models small enough to check by hand, for tests and fuzzing. */
#ifndef ALIGN_TEST_SENTENCEPIECE_H
#define ALIGN_TEST_SENTENCEPIECE_H

#include "base.h"

#include <string.h>

#define BAR "\xe2\x96\x81" /* U+2581, the SentencePiece space */

enum { SP_NORMAL = 1, SP_UNKNOWN, SP_CONTROL, SP_USER, SP_UNUSED, SP_BYTE };

/* Errors: memory only, and tests run out of that elsewhere. */
static inline void sp_bytes(Text *out, const void *bytes, size_t len)
{
    Err e;
    text_add(out, bytes, len, &e);
}

static inline void sp_varint(Text *out, uint64_t value)
{
    do {
        unsigned char byte = (unsigned char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        sp_bytes(out, &byte, 1);
        value >>= 7;
    } while (value);
}

static inline void sp_number(Text *out, unsigned field, uint64_t value)
{
    sp_varint(out, field << 3);
    sp_varint(out, value);
}

static inline void sp_message(Text *out, unsigned field, const void *bytes, size_t len)
{
    sp_varint(out, field << 3 | 2);
    sp_varint(out, len);
    sp_bytes(out, bytes, len);
}

static inline void sp_piece(Text *out, const char *text, float score, unsigned type)
{
    Text piece = {0};
    unsigned char bytes[4];
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    for (int i = 0; i < 4; i++) bytes[i] = (unsigned char)(bits >> 8 * i);
    sp_message(&piece, 1, text, strlen(text));
    sp_varint(&piece, 2 << 3 | 5);
    sp_bytes(&piece, bytes, 4);
    if (type != SP_NORMAL) sp_number(&piece, 3, type);
    sp_message(out, 1, piece.data, piece.len);
    text_free(&piece);
}

/* BPE, byte fallback, pad_id -1 (a varint of ten bytes); the text as it is, a space in front. */
static inline void sp_settings(Text *out, unsigned type, int fallback)
{
    Text trainer = {0}, normalizer = {0};
    sp_number(&trainer, 3, type);
    sp_number(&trainer, 35, (uint64_t)fallback);
    sp_number(&trainer, 40, 0);
    sp_number(&trainer, 43, UINT64_MAX);
    sp_message(out, 2, trainer.data, trainer.len);
    sp_message(&normalizer, 1, "identity", 8);
    sp_number(&normalizer, 3, 1);
    sp_number(&normalizer, 4, 0);
    sp_message(out, 3, normalizer.data, normalizer.len);
    text_free(&trainer);
    text_free(&normalizer);
}

/* 0 <unk> 1 <s> 2 </s>, 3..258 the bytes, then _ a b __ (of a low score) ab _ab [X] (user-defined):
 * 259 .. 265. */
static inline void sp_pieces(Text *out)
{
    char byte[8];
    sp_piece(out, "<unk>", 0, SP_UNKNOWN);
    sp_piece(out, "<s>", 0, SP_CONTROL);
    sp_piece(out, "</s>", 0, SP_CONTROL);
    for (unsigned b = 0; b < 256; b++) {
        snprintf(byte, sizeof byte, "<0x%02X>", b);
        sp_piece(out, byte, 0, SP_BYTE);
    }
    sp_piece(out, BAR, -9, SP_NORMAL);
    sp_piece(out, "a", -10, SP_NORMAL);
    sp_piece(out, "b", -11, SP_NORMAL);
    sp_piece(out, BAR BAR, -1e9f, SP_NORMAL);
    sp_piece(out, "ab", -1, SP_NORMAL);
    sp_piece(out, BAR "ab", -2, SP_NORMAL);
    sp_piece(out, "[X]", 0, SP_USER);
}

#endif
