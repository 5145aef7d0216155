/* bench.h - measures how fast this machine is, and what share of that the program reaches.
 *
 * Loops that do nothing else measure the peaks. Everything else is measured on the program itself,
 * at the shape of a real model with random weights: the kernels one by one, then decoding and whole
 * training steps. Nothing is prepared beforehand that a run would not have: packing of weights is
 * part of every product, and weights come from memory, not from a cache that an earlier repetition
 * filled. Times are medians.
 *
 *   bench.c        shapes, timing, matrix products, attention
 *   bench_peaks.c  the limits of the machine
 *   bench_model.c  decoding, prompts, training steps
 */
#ifndef ALIGN_BENCH_H
#define ALIGN_BENCH_H

#include "generate.h"
#include "model.h"
#include "train.h"

/* ---- what is measured ---------------------------------------------------------------------- */

/* A model by name: its configuration with all layers, and how its weights are stored. */
typedef struct {
    const char *name;
    ModelConfig config;
    Dtype dtype;
} BenchShape;
#define BENCH_SHAPE_WORDS "tinystories|llama-3.2-1b|llama-3.2-3b|llama-3.1-8b|mistral-7b"
/* Returns the shape of this name, or NULL. */
const BenchShape *bench_shape(const char *name);

/* One instruction and its rate, all threads together. */
typedef struct {
    const char *name;
    Dtype dtype; /* of its factors: F32 or BF16; sums are f32 */
    double gflops;
} BenchRate;
enum { BENCH_MAX_RATES = 4 };

/* Best of several. A machine without a bf16 instruction multiplies bf16 numbers as f32, so its
 * bf16 peak is that of f32. */
typedef struct {
    BenchRate rates[BENCH_MAX_RATES];
    size_t n_rates;
    double f32_gflops, bf16_gflops;
    double read_gbs;   /* 10^9 bytes a second */
    size_t read_bytes; /* of the block that was read */
} BenchPeaks;

typedef struct {
    const BenchShape *shape;
    ModelConfig config;  /* the shape's, cut to the layers that are asked for */
    const char *kernel;  /* its name, even if "auto" was asked for */
    Precision precision; /* of decoding and steps; products are measured in both */
    int quick;           /* fewer sizes and repetitions */
    BenchPeaks peaks;
} Bench;

/* layers: 0 = all. ERR_USAGE if the shape is unknown or has fewer layers, or if this machine lacks
 * the kernel. Call threads_set first. */
int bench_open(Bench *b, const char *shape, size_t layers, const char *kernel, Precision precision,
               int quick, Err *e);
/* Returns the number of weights in the maps of all layers, and in the head. */
double bench_layer_weights(const Bench *b);
/* Returns the weight-token products that a pass over the layers needs if only `asked` tokens are
 * needed at the end: the last layer computes keys and values for all tokens, its other maps for
 * those rows only. Backward: nothing below the first layer is trained, so that the inputs of its q,
 * k and v have no gradient. */
double bench_forward_weights(const Bench *b, double tokens, double asked);
double bench_backward_weights(const Bench *b, double tokens, double asked);
double bench_head_weights(const Bench *b);

/* ---- the machine ---------------------------------------------------------------------------- */

/* Returns the processor's name, "AMD EPYC 9654", if the system tells. */
void bench_cpu(char *out, size_t size);
/* Fills b->peaks. */
int bench_peaks(Bench *b, Err *e);
/* A block far larger than any cache, and the GB/s of one reading, front to back by all threads. */
typedef struct {
    void *block;
    size_t words, bytes; /* of each thread; of all */
} BenchReader;
int bench_reader_open(BenchReader *r, size_t bytes, Err *e);
double bench_reader_gbs(const BenchReader *r);
void bench_reader_close(BenchReader *r);
/* Returns the peak that a product of these stored weights is compared with. */
double bench_peak_of(const Bench *b, Dtype dtype);

/* ---- kernels -------------------------------------------------------------------------------- */

/* Weights of one shape [N,K]. */
typedef struct {
    char names[48]; /* "q_proj,o_proj" */
    size_t N, K;
} BenchWeight;
enum { BENCH_MAX_WEIGHTS = TARGET_COUNT + 1 };
/* Lists the different shapes in the order of a layer, the head last. */
size_t bench_weights(const Bench *b, BenchWeight out[BENCH_MAX_WEIGHTS]);

/* forward: y [T,N] = x [T,K] W^T;  backward: dx [T,K] = dy [T,N] W.  2 T K N flops each. */
typedef struct {
    int backward;
    size_t T;
    double seconds, gflops, share; /* share of the dtype's peak */
    double gbs, read_share;        /* bytes of W a second, and their share of the reading rate */
} BenchGemm;
enum { BENCH_MAX_GEMM = 10 };
/* W stored as F32 and multiplied in f32, or as BF16 and multiplied in bf16. */
int bench_gemm(const Bench *b, const BenchWeight *w, Dtype dtype, BenchGemm out[BENCH_MAX_GEMM],
               size_t *n, Err *e);

/* Causal attention of one sequence, all heads, in f32. Each pair of a query and a key that it sees
 * counts 4 D flops forward (score, sum of values) and 10 D backward (score again; the gradients of
 * value, weight, query and key). */
typedef struct {
    size_t length;
    int backward;
    double seconds, gflops, share; /* of the f32 peak */
} BenchAttention;
enum { BENCH_MAX_ATTENTION = 8 };
int bench_attention(const Bench *b, BenchAttention out[BENCH_MAX_ATTENTION], size_t *n, Err *e);

/* ---- whole models --------------------------------------------------------------------------- */

/* The model of the shape, with random weights. */
int bench_model(const Bench *b, Model *m, Err *e);

/* Sequences that decode together, one token each a step. Memory is read in between, because on a
 * shared machine its rate may change by half from one second to the next. */
typedef struct {
    size_t sequences;
    double seconds; /* of a step */
    double tokens_per_second;
    double bytes_per_token; /* weights once a step, and each sequence's keys and values */
    double read_gbs;        /* median of the readings between steps */
    double share;           /* of that */
    double gflops_share;    /* of the precision's peak: 2 flops a weight and token */
} BenchDecode;
enum { BENCH_DECODES = 3 };
extern const size_t bench_sequences[BENCH_DECODES]; /* 1, 8, 32 */
int bench_decode(const Bench *b, Model *m, size_t sequences, BenchDecode *out, Err *e);

/* A prompt up to its first new token. share: 2 flops for each weight-token product of the pass, and
 * for the head once. */
typedef struct {
    size_t tokens;
    double seconds, tokens_per_second, share;
} BenchPrompt;
int bench_prompt(const Bench *b, Model *m, BenchPrompt *out, Err *e);

/* Rows of equal lengths, as chat data has them. */
typedef struct {
    const char *name; /* "short", "long" */
    size_t prompt, completion;
} BenchRows;
enum { BENCH_ROWS = 2 };
extern const BenchRows bench_rows[BENCH_ROWS];

/* A training step: rank 16 on all seven maps. Tokens count as in metrics.jsonl: prompt and
 * completion of every row, for each side of a pair.
 * share: of the precision's peak, by the flops that no method can save:
 *   2 for what the pass forward needs of weights and distinct tokens, 2 for the pass backward
 *   (weights are frozen); asked are the rows before scored tokens, of a pair the first one once,
 *   4 a weight of the head and scored token,
 *   KTO: 2 of each kind, forward, for the tokens of the borrowed completions (no gradient).
 * Adapters, attention, norms and the optimiser take time and count nothing. */
typedef struct {
    TrainMethod method;
    BenchRows rows;
    size_t batch; /* pairs, or rows */
    size_t tokens, distinct;
    double seconds, tokens_per_second, share;
    double reference_seconds; /* of the reference's pass over these rows, once for a data set */
    double flops;
    uint64_t planned; /* bytes of the plan, mapped weights included */
} BenchStep;
int bench_step(const Bench *b, Model *m, TrainMethod method, const BenchRows *rows, BenchStep *out,
               Err *e);

/* ---- timing (private to the room) ----------------------------------------------------------- */

/* Median seconds of body(ctx): at least `least` times, and until `budget` seconds are spent. */
double bench_time(void (*body)(void *ctx), void *ctx, size_t least, double budget);
/* Median of n > 0 numbers, which are sorted. */
double bench_median(double *x, size_t n);
/* ERR_INTERRUPTED when stop_requested is set. */
int bench_stopped(Err *e);

#endif
