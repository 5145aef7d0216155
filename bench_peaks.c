/* bench_peaks.c - measures the limits of the machine: multiply-adds a second, bytes read a second.
 *
 * Each loop keeps enough independent sums to hide the latency of its instruction (4 cycles x 2
 * units for f32, 6 x 2 for bf16), and all operands in registers, so nothing but the instruction
 * itself is measured. Every sum starts from another number: equal chains would be computed once.
 */
#include "bench.h"

#include <stdio.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__AARCH64EL__) && defined(__ARM_NEON) && defined(__GNUC__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

/* A loop of multiply-adds: `rounds` times `flops` of them. The result keeps the compiler from
 * removing the loop. */
typedef struct {
    const char *name;
    Dtype dtype;
    double flops; /* of a round */
    int (*available)(void);
    float (*run)(size_t rounds);
} Loop;

/* Starting values and increments: small enough to stay finite for days, without denormals. */
static volatile float start = 1, factor = 0.001f;

/* ---- any machine ---------------------------------------------------------------------------- */

enum { PLAIN_SUMS = 32 };

static int always(void)
{
    return 1;
}

static float plain_run(size_t rounds)
{
    float sum[PLAIN_SUMS], x = factor, total = 0;
    for (int i = 0; i < PLAIN_SUMS; i++) sum[i] = start + (float)i;
    for (size_t r = 0; r < rounds; r++)
        for (int i = 0; i < PLAIN_SUMS; i++) sum[i] = sum[i] * x + x;
    for (int i = 0; i < PLAIN_SUMS; i++) total += sum[i];
    return total;
}

#define PLAIN_LOOP                                                                                 \
    {                                                                                              \
        "plain C", DTYPE_F32, 2.0 * PLAIN_SUMS, always, plain_run                                  \
    }

/* Does the compiler have bf16 intrinsics for single functions (as in the kernels' files)? */
#if defined(__x86_64__) && defined(__clang__)
#define BENCH_BF16 (__clang_major__ >= 9)
#elif defined(__clang__)
#define BENCH_BF16 (__clang_major__ >= 16)
#elif defined(__GNUC__)
#define BENCH_BF16 (__GNUC__ >= 10)
#endif

/* ---- x86-64 --------------------------------------------------------------------------------- */

#if defined(__x86_64__) && defined(__GNUC__)

enum { AVX2_SUMS = 12, AVX2_LANES = 8, AVX512_SUMS = 24, AVX512_LANES = 16 };

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static int has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") != 0;
}

__attribute__((target("avx2,fma"))) static float avx2_run(size_t rounds)
{
    __m256 sum[AVX2_SUMS], x = _mm256_set1_ps(factor), y = _mm256_set1_ps(factor);
#pragma GCC unroll 12
    for (int i = 0; i < AVX2_SUMS; i++) sum[i] = _mm256_set1_ps(start + (float)i);
    for (size_t r = 0; r < rounds; r++)
#pragma GCC unroll 12
        for (int i = 0; i < AVX2_SUMS; i++) sum[i] = _mm256_fmadd_ps(x, y, sum[i]);
#pragma GCC unroll 12
    for (int i = 1; i < AVX2_SUMS; i++) sum[0] = _mm256_add_ps(sum[0], sum[i]);
    return _mm256_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f"))) static float avx512_run(size_t rounds)
{
    __m512 sum[AVX512_SUMS], x = _mm512_set1_ps(factor), y = _mm512_set1_ps(factor);
#pragma GCC unroll 24
    for (int i = 0; i < AVX512_SUMS; i++) sum[i] = _mm512_set1_ps(start + (float)i);
    for (size_t r = 0; r < rounds; r++)
#pragma GCC unroll 24
        for (int i = 0; i < AVX512_SUMS; i++) sum[i] = _mm512_fmadd_ps(x, y, sum[i]);
#pragma GCC unroll 24
    for (int i = 1; i < AVX512_SUMS; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    return _mm512_cvtss_f32(sum[0]);
}

#if BENCH_BF16
static int has_avx512bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

__attribute__((target("avx512f,avx512bf16"))) static float avx512bf16_run(size_t rounds)
{
    __m512 sum[AVX512_SUMS], x = _mm512_set1_ps(factor);
    __m512bh a = _mm512_cvtne2ps_pbh(x, x), b = a;
#pragma GCC unroll 24
    for (int i = 0; i < AVX512_SUMS; i++) sum[i] = _mm512_set1_ps(start + (float)i);
    for (size_t r = 0; r < rounds; r++)
#pragma GCC unroll 24
        for (int i = 0; i < AVX512_SUMS; i++) sum[i] = _mm512_dpbf16_ps(sum[i], a, b);
#pragma GCC unroll 24
    for (int i = 1; i < AVX512_SUMS; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    return _mm512_cvtss_f32(sum[0]);
}
#endif

/* Flops: 2 for each product that is added; VDPBF16PS adds two products a lane. */
static const Loop loops[] = {
    PLAIN_LOOP,
    {"AVX2 FMA", DTYPE_F32, 2.0 * AVX2_LANES *AVX2_SUMS, has_avx2, avx2_run},
    {"AVX-512 FMA", DTYPE_F32, 2.0 * AVX512_LANES *AVX512_SUMS, has_avx512, avx512_run},
#if BENCH_BF16
    {"VDPBF16PS", DTYPE_BF16, 4.0 * AVX512_LANES *AVX512_SUMS, has_avx512bf16, avx512bf16_run},
#endif
};

/* Reads the brand string: leaves 0x80000002 .. 0x80000004, 16 bytes each. */
void bench_cpu(char *out, size_t size)
{
    const unsigned first = 0x80000002, last = 0x80000004;
    unsigned r[4];
    char text[3 * sizeof r + 1] = "";
    if ((unsigned)__get_cpuid_max(0x80000000, NULL) >= last) {
        for (unsigned leaf = first; leaf <= last; leaf++) {
            __cpuid(leaf, r[0], r[1], r[2], r[3]);
            memcpy(text + (leaf - first) * sizeof r, r, sizeof r);
        }
    }
    size_t from = strspn(text, " "), len = strlen(text + from);
    while (len && text[from + len - 1] == ' ') len--;
    text[from + len] = 0;
    snprintf(out, size, "%s", len ? text + from : "x86-64");
}

/* ---- aarch64 -------------------------------------------------------------------------------- */

#elif defined(__AARCH64EL__) && defined(__ARM_NEON) && defined(__GNUC__)

enum { NEON_SUMS = 24, NEON_LANES = 4, BFMMLA_FLOPS = 2 * 2 * 2 * 4 };

#if BENCH_BF16
/* BFMMLA: Linux reports it in a bit of AT_HWCAP2; other systems are assumed not to have it. */
static int has_bf16(void)
{
#if defined(__linux__) && defined(AT_HWCAP2)
    const unsigned long hwcap2_bf16 = 1ul << 14;
    return (getauxval(AT_HWCAP2) & hwcap2_bf16) != 0;
#else
    return 0;
#endif
}
#endif

static float neon_run(size_t rounds)
{
    float32x4_t sum[NEON_SUMS], x = vdupq_n_f32(factor), y = vdupq_n_f32(factor);
#pragma GCC unroll 24
    for (int i = 0; i < NEON_SUMS; i++) sum[i] = vdupq_n_f32(start + (float)i);
    for (size_t r = 0; r < rounds; r++)
#pragma GCC unroll 24
        for (int i = 0; i < NEON_SUMS; i++) sum[i] = vfmaq_f32(sum[i], x, y);
#pragma GCC unroll 24
    for (int i = 1; i < NEON_SUMS; i++) sum[0] = vaddq_f32(sum[0], sum[i]);
    return vgetq_lane_f32(sum[0], 0);
}

#if BENCH_BF16
#if defined(__clang__)
__attribute__((target("bf16")))
#else
__attribute__((target("arch=armv8.2-a+bf16")))
#endif
static float
bfmmla_run(size_t rounds)
{
    float32x4_t sum[NEON_SUMS];
    const uint16_t small = bf16_from_float(factor);
    bfloat16x8_t x = vreinterpretq_bf16_u16(vdupq_n_u16(small)), y = x;
#pragma GCC unroll 24
    for (int i = 0; i < NEON_SUMS; i++) sum[i] = vdupq_n_f32(start + (float)i);
    for (size_t r = 0; r < rounds; r++)
#pragma GCC unroll 24
        for (int i = 0; i < NEON_SUMS; i++) sum[i] = vbfmmlaq_f32(sum[i], x, y);
#pragma GCC unroll 24
    for (int i = 1; i < NEON_SUMS; i++) sum[0] = vaddq_f32(sum[0], sum[i]);
    return vgetq_lane_f32(sum[0], 0);
}
#endif

/* Flops: BFMMLA multiplies 2 x 4 by 4 x 2 numbers into four sums. */
static const Loop loops[] = {
    PLAIN_LOOP,
    {"NEON FMLA", DTYPE_F32, 2.0 * NEON_LANES *NEON_SUMS, always, neon_run},
#if BENCH_BF16
    {"BFMMLA", DTYPE_BF16, (double)BFMMLA_FLOPS *NEON_SUMS, has_bf16, bfmmla_run},
#endif
};

#else

static const Loop loops[] = {PLAIN_LOOP};

#endif

#if !(defined(__x86_64__) && defined(__GNUC__))
/* Reads the model name from Linux or, on ARM, the numbers of maker and part. */
void bench_cpu(char *out, size_t size)
{
    static const char *const keys[] = {"model name", "Model", "CPU part"};
    char line[256];
    snprintf(out, size, "unknown");
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        FILE *f = fopen("/proc/cpuinfo", "r");
        int found = 0;
        while (f && !found && fgets(line, sizeof line, f)) {
            char *colon = strchr(line, ':');
            if (!colon || strncmp(line, keys[k], strlen(keys[k]))) continue;
            line[strcspn(line, "\n")] = 0;
            snprintf(out, size, "%s%s", k == 2 ? "CPU part " : "", colon + 1 + (colon[1] == ' '));
            found = 1;
        }
        if (f) fclose(f);
        if (found) return;
    }
}
#endif

/* ---- measuring ------------------------------------------------------------------------------ */

typedef struct {
    const Loop *loop;
    size_t rounds;
    const uint64_t *block; /* reading */
    size_t words;          /* of each thread */
    volatile uint64_t sink[64];
} Job;

static void loop_task(void *ctx, size_t i)
{
    Job *j = ctx;
    float result = j->loop->run(j->rounds);
    j->sink[i % (sizeof j->sink / sizeof *j->sink)] = result > 0;
}

static double timed(Task task, Job *j)
{
    double began = time_now();
    threads_run(task, j, (size_t)threads_count());
    double seconds = time_now() - began;
    return seconds > 0 ? seconds : 1e-9;
}

/* Returns the shortest of several runs. */
static double best_of(Task task, Job *j, size_t runs)
{
    double best = timed(task, j);
    for (size_t i = 1; i < runs; i++) {
        double seconds = timed(task, j);
        if (seconds < best) best = seconds;
    }
    return best;
}

/* Returns the seconds of `rounds` in this thread alone, the shortest of several tries. */
static double alone(const Loop *loop, size_t rounds, Job *j)
{
    const size_t tries = 5;
    double best = 0;
    for (size_t i = 0; i < tries; i++) {
        double began = time_now();
        j->sink[0] = loop->run(rounds) > 0;
        double seconds = time_now() - began;
        if (i == 0 || seconds < best) best = seconds;
    }
    return best;
}

/* Returns the best of several runs of about twenty milliseconds each, long enough for the clock
 * frequency to settle. One thread alone finds out how many rounds that takes: on a busy machine
 * threads wait for each other, and waiting must not count as work. */
static double loop_gflops(const Loop *loop, int quick)
{
    const double enough = 0.02;
    const size_t runs = quick ? 5 : 15;
    Job j = {.loop = loop, .rounds = 1 << 10};
    while (alone(loop, j.rounds, &j) < enough) j.rounds *= 2;
    double best = best_of(loop_task, &j, runs);
    return loop->flops * (double)j.rounds * (double)threads_count() / best / 1e9;
}

enum { READ_SUMS = 16 };

/* Uses sixteen sums, so that loads and not additions limit the speed. */
static void read_task(void *ctx, size_t i)
{
    Job *j = ctx;
    const uint64_t *p = j->block + i * j->words;
    uint64_t sum[READ_SUMS] = {0}, total = 0;
    for (size_t w = 0; w < j->words; w += READ_SUMS)
        for (size_t k = 0; k < READ_SUMS; k++) sum[k] += p[w + k];
    for (size_t k = 0; k < READ_SUMS; k++) total += sum[k];
    j->sink[i % (sizeof j->sink / sizeof *j->sink)] = total;
}

/* Each page is first touched by the thread that will read it. */
static void touch_task(void *ctx, size_t i)
{
    Job *j = ctx;
    memset((uint64_t *)(uintptr_t)j->block + i * j->words, 1, j->words * sizeof *j->block);
}

/* Allocate the largest of size, size/2, size/4, ... that succeeds. */
int bench_reader_open(BenchReader *r, size_t bytes, Err *e)
{
    const size_t least = (size_t)16 << 20;
    size_t threads = (size_t)threads_count();
    *r = (BenchReader){0};
    while (bytes >= least && !(r->block = mem_alloc(bytes, e))) bytes /= 2;
    if (!r->block) return -1;
    r->words = bytes / sizeof(uint64_t) / threads / READ_SUMS * READ_SUMS;
    r->bytes = r->words * sizeof(uint64_t) * threads;
    Job j = {.block = r->block, .words = r->words};
    timed(touch_task, &j);
    return 0;
}

double bench_reader_gbs(const BenchReader *r)
{
    Job j = {.block = r->block, .words = r->words};
    return (double)r->bytes / timed(read_task, &j) / 1e9;
}

void bench_reader_close(BenchReader *r)
{
    mem_free(r->block);
}

/* Returns the best of several readings of 1.25 GiB, or of 320 MiB when quick. */
static int read_rate(BenchPeaks *p, int quick, Err *e)
{
    const size_t runs = quick ? 4 : 8;
    BenchReader r;
    if (bench_reader_open(&r, (size_t)(quick ? 320 : 1280) << 20, e)) return -1;
    p->read_bytes = r.bytes;
    p->read_gbs = 0;
    for (size_t i = 0; i < runs; i++) {
        double gbs = bench_reader_gbs(&r);
        if (gbs > p->read_gbs) p->read_gbs = gbs;
    }
    bench_reader_close(&r);
    return 0;
}

int bench_peaks(Bench *b, Err *e)
{
    BenchPeaks *p = &b->peaks;
    *p = (BenchPeaks){0};
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
        const Loop *l = &loops[i];
        if (!l->available()) continue;
        if (bench_stopped(e)) return -1;
        double gflops = loop_gflops(l, b->quick);
        p->rates[p->n_rates++] = (BenchRate){l->name, l->dtype, gflops};
        double *peak = l->dtype == DTYPE_BF16 ? &p->bf16_gflops : &p->f32_gflops;
        if (gflops > *peak) *peak = gflops;
    }
    if (p->bf16_gflops < p->f32_gflops) p->bf16_gflops = p->f32_gflops;
    return read_rate(p, b->quick, e);
}
