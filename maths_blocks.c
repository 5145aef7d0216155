/* maths_blocks.c - unpacks, and of one format packs, numbers that are stored in blocks with common
 * scales, as GGUF has them.
 *
 * A block holds 32 or 256 small whole numbers q, and one or two scales as F16. Formats of 32
 * numbers give d q or d q + m. Those of 256 ("K") have a smaller whole scale for every 16 or 32
 * numbers: (d s) q - (m t). Every product and sum is rounded to float, in the order that is written
 * here, which is that of the reference implementations: the values are theirs to the bit.
 */
#include "maths.h"

#include <math.h>
#include <string.h>

enum { SMALL = 32, HALF = SMALL / 2, LARGE = FORMAT_BLOCK_MAX };

static float f16_at(const unsigned char *in)
{
    return f16_to_float((uint16_t)(in[0] | in[1] << 8));
}

static uint32_t u32_at(const unsigned char *in)
{
    return in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24;
}

static int as_signed(unsigned char byte)
{
    return byte < 128 ? byte : byte - 256;
}

/* Number j of the 32 in 16 bytes: first the low halves of the bytes, then the high ones. */
static unsigned nibble(const unsigned char *q, size_t j)
{
    return j < HALF ? q[j] & 15u : q[j - HALF] >> 4;
}

/* ---- blocks of 32 -------------------------------------------------------------------------- */

/* d, q[16]: d (q - 8) */
static void unpack_q4_0(real *out, const unsigned char *in, size_t blocks)
{
    for (; blocks-- > 0; in += 18, out += SMALL) {
        float d = f16_at(in);
        for (size_t j = 0; j < HALF; j++) {
            out[j] = d * (float)((in[2 + j] & 15) - 8);
            out[HALF + j] = d * (float)((in[2 + j] >> 4) - 8);
        }
    }
}

/* d, m, q[16]: d q + m */
static void unpack_q4_1(real *out, const unsigned char *in, size_t blocks)
{
    for (; blocks-- > 0; in += 20, out += SMALL) {
        float d = f16_at(in), m = f16_at(in + 2);
        for (size_t j = 0; j < HALF; j++) {
            float low = d * (float)(in[4 + j] & 15), high = d * (float)(in[4 + j] >> 4);
            out[j] = low + m;
            out[HALF + j] = high + m;
        }
    }
}

/* d, fifth bits of 32 numbers, q[16]: d (q - 16) */
static void unpack_q5_0(real *out, const unsigned char *in, size_t blocks)
{
    for (; blocks-- > 0; in += 22, out += SMALL) {
        float d = f16_at(in);
        uint32_t high = u32_at(in + 2);
        for (size_t j = 0; j < SMALL; j++) {
            unsigned q = nibble(in + 6, j) | (high >> j & 1) << 4;
            out[j] = d * (float)((int)q - 16);
        }
    }
}

/* d, m, fifth bits, q[16]: d q + m */
static void unpack_q5_1(real *out, const unsigned char *in, size_t blocks)
{
    for (; blocks-- > 0; in += 24, out += SMALL) {
        float d = f16_at(in), m = f16_at(in + 2);
        uint32_t high = u32_at(in + 4);
        for (size_t j = 0; j < SMALL; j++) {
            float x = d * (float)(nibble(in + 8, j) | (high >> j & 1) << 4);
            out[j] = x + m;
        }
    }
}

/* d, q[32] with a sign: d q */
static void unpack_q8_0(real *out, const unsigned char *in, size_t blocks)
{
    for (; blocks-- > 0; in += 34, out += SMALL) {
        float d = f16_at(in);
        for (size_t j = 0; j < SMALL; j++) out[j] = d * (float)as_signed(in[2 + j]);
    }
}

/* Back again: d = max |x| / 127, q = x / d with halves away from zero. As in the reference
 * implementations q is found with d before d is rounded to F16, and by a product with 1 / d, so the
 * bytes are theirs. Where 1 / d is no number, d is stored as 0, and so is q. */
static void pack_q8_0(unsigned char *out, const real *in, size_t blocks)
{
    for (; blocks-- > 0; in += SMALL, out += 34) {
        float most = 0;
        for (size_t j = 0; j < SMALL; j++) {
            float size = fabsf((float)in[j]);
            if (size > most) most = size;
        }
        float d = most / 127, inverse = d > 0 ? 1 / d : 0;
        if (!isfinite(inverse)) inverse = 0;
        uint16_t half = f16_from_float(d);
        out[0] = (unsigned char)half;
        out[1] = (unsigned char)(half >> 8);
        for (size_t j = 0; j < SMALL; j++) {
            int q = inverse > 0 ? (int)roundf((float)in[j] * inverse) : 0;
            out[2 + j] = (unsigned char)q;
        }
    }
}

/* Values of the four bits of IQ4: dense where weights are many. */
static const signed char uneven[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                       1,    13,   25,  38,  53,  69,  89,  113};

/* d, q[16]: d uneven[q] */
static void unpack_iq4_nl(real *out, const unsigned char *in, size_t blocks)
{
    for (; blocks-- > 0; in += 18, out += SMALL) {
        float d = f16_at(in);
        for (size_t j = 0; j < SMALL; j++) out[j] = d * (float)uneven[nibble(in + 2, j)];
    }
}

/* ---- blocks of 256 ------------------------------------------------------------------------- */

/* Two bits of number i among 256 in 64 bytes: 128 numbers share 32 bytes, 32 of them each place. */
static unsigned two_bits(const unsigned char *q, size_t i)
{
    return (unsigned)q[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3u;
}

/* s and t of 16 groups in one byte each, q[64], d, m: (d s) q - (m t) */
static void unpack_q2_k(real *out, const unsigned char *in, size_t blocks)
{
    for (; blocks-- > 0; in += 84, out += LARGE) {
        float d = f16_at(in + 80), m = f16_at(in + 82);
        for (size_t g = 0; g < 16; g++) {
            float scale = d * (float)(in[g] & 15), least = m * (float)(in[g] >> 4);
            const unsigned char *q = in + 16 + g / 8 * 32 + g % 2 * 16;
            unsigned shift = (unsigned)(g / 2 % 4 * 2);
            for (size_t j = 0; j < 16; j++) {
                float x = scale * (float)(q[j] >> shift & 3);
                out[g * 16 + j] = x - least;
            }
        }
    }
}

/* Third bits of 256 numbers (0: subtract 4), q[64], 16 scales of six bits in 12 bytes, d:
 * (d (s - 32)) q */
static void unpack_q3_k(real *out, const unsigned char *in, size_t blocks)
{
    for (; blocks-- > 0; in += 110, out += LARGE) {
        const unsigned char *low = in + 96, *high = in + 104;
        float d = f16_at(in + 108);
        for (size_t g = 0; g < 16; g++) {
            unsigned s = (g < 8 ? low[g] & 15u : low[g - 8] >> 4) |
                         ((unsigned)high[g % 4] >> (g / 4 * 2) & 3u) << 4;
            float scale = d * (float)((int)s - 32);
            for (size_t i = g * 16; i < g * 16 + 16; i++) {
                int q = (int)two_bits(in + 32, i) - (in[i % 32] >> (i / 32) & 1 ? 0 : 4);
                out[i] = scale * (float)q;
            }
        }
    }
}

/* Eight pairs (s, t) of six bits in 12 bytes: of the last four, the low halves are together in the
 * last bytes, and the two high bits above the first pairs. */
static void six_bits(const unsigned char *in, size_t g, unsigned *s, unsigned *t)
{
    *s = g < 4 ? in[g] & 63u : (in[g + 4] & 15u) | (in[g - 4] >> 6 & 3u) << 4;
    *t = g < 4 ? in[g + 4] & 63u : in[g + 4] >> 4 | (in[g] >> 6 & 3u) << 4;
}

/* d, m, eight pairs of scales, (fifth bits of 256 numbers), q[128]: (d s) q - (m t) */
static void unpack_pairs(real *out, const unsigned char *in, size_t blocks, int fifth)
{
    size_t q_at = fifth ? 48 : 16;
    for (; blocks-- > 0; in += q_at + LARGE / 2, out += LARGE) {
        float d = f16_at(in), m = f16_at(in + 2);
        for (size_t g = 0; g < 8; g++) {
            unsigned s, t;
            six_bits(in + 4, g, &s, &t);
            float scale = d * (float)s, least = m * (float)t;
            for (size_t j = 0; j < 32; j++) {
                unsigned q = (unsigned)in[q_at + g / 2 * 32 + j] >> (g % 2 * 4) & 15u;
                if (fifth) q |= (in[16 + j] >> g & 1u) << 4;
                float x = scale * (float)q;
                out[g * 32 + j] = x - least;
            }
        }
    }
}

static void unpack_q4_k(real *out, const unsigned char *in, size_t blocks)
{
    unpack_pairs(out, in, blocks, 0);
}

static void unpack_q5_k(real *out, const unsigned char *in, size_t blocks)
{
    unpack_pairs(out, in, blocks, 1);
}

/* Low four bits of 256 numbers, high two, 16 scales with a sign, d: (d s) (q - 32) */
static void unpack_q6_k(real *out, const unsigned char *in, size_t blocks)
{
    for (; blocks-- > 0; in += 210, out += LARGE) {
        float d = f16_at(in + 208);
        for (size_t g = 0; g < 16; g++) { /* groups of 16 numbers: eight share 64 and 32 bytes */
            const unsigned char *low = in + g / 8 * 64 + g % 4 * 16;
            const unsigned char *high = in + 128 + g / 8 * 32 + g % 2 * 16;
            unsigned shift_low = (unsigned)(g / 4 % 2 * 4), shift_high = (unsigned)(g / 2 % 4 * 2);
            float scale = d * (float)as_signed(in[192 + g]);
            for (size_t j = 0; j < 16; j++) {
                int q = (low[j] >> shift_low & 15) | (high[j] >> shift_high & 3) << 4;
                out[g * 16 + j] = scale * (float)(q - 32);
            }
        }
    }
}

/* d, high two bits of eight scales, low four, q[128]: (d (s - 32)) uneven[q] */
static void unpack_iq4_xs(real *out, const unsigned char *in, size_t blocks)
{
    for (; blocks-- > 0; in += 136, out += LARGE) {
        float d = f16_at(in);
        unsigned high = in[2] | (unsigned)in[3] << 8;
        for (size_t g = 0; g < 8; g++) {
            unsigned s = ((unsigned)in[4 + g / 2] >> (g % 2 * 4) & 15u) | (high >> (g * 2) & 3u)
                                                                              << 4;
            float scale = d * (float)((int)s - 32);
            for (size_t j = 0; j < 32; j++)
                out[g * 32 + j] = scale * (float)uneven[nibble(in + 8 + g * 16, j)];
        }
    }
}

static const Format formats[] = {
    {"Q4_0", DTYPE_F32, 0, SMALL, 18, unpack_q4_0, NULL},
    {"Q4_1", DTYPE_F32, 0, SMALL, 20, unpack_q4_1, NULL},
    {"Q5_0", DTYPE_F32, 0, SMALL, 22, unpack_q5_0, NULL},
    {"Q5_1", DTYPE_F32, 0, SMALL, 24, unpack_q5_1, NULL},
    {"Q8_0", DTYPE_F32, 0, SMALL, 34, unpack_q8_0, pack_q8_0},
    {"IQ4_NL", DTYPE_F32, 0, SMALL, 18, unpack_iq4_nl, NULL},
    {"Q2_K", DTYPE_F32, 0, LARGE, 84, unpack_q2_k, NULL},
    {"Q3_K", DTYPE_F32, 0, LARGE, 110, unpack_q3_k, NULL},
    {"Q4_K", DTYPE_F32, 0, LARGE, 144, unpack_q4_k, NULL},
    {"Q5_K", DTYPE_F32, 0, LARGE, 176, unpack_q5_k, NULL},
    {"Q6_K", DTYPE_F32, 0, LARGE, 210, unpack_q6_k, NULL},
    {"IQ4_XS", DTYPE_F32, 0, LARGE, 136, unpack_iq4_xs, NULL},
};

const Format *format_named(const char *name)
{
    static const Format *const plain[] = {&format_f32, &format_f16, &format_bf16, &format_f64};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (!strcmp(plain[i]->name, name)) return plain[i];
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (!strcmp(formats[i].name, name)) return &formats[i];
    return NULL;
}
