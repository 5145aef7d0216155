/* base.h - the foundation of every room: errors, checked sizes, memory, random numbers, threads,
 * time.
 *
 * Every .c file of the project includes this header first: it carries the feature macros.
 * Nothing here (or in any room below align.c) prints or exits: errors are values, see Err.
 */
#ifndef ALIGN_BASE_H
#define ALIGN_BASE_H

#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE 1  /* madvise, MAP_ANONYMOUS */
#define _DARWIN_C_SOURCE 1 /* the same on macOS */
#define _FILE_OFFSET_BITS 64

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* One rounding per operation, written down where it happens: a fused multiply-add is an explicit
 * real_fma. gcc is told by -std=c11 (or -ffp-contract=off), clang needs the pragma. */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

#if defined(__GNUC__)
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define PRINTF_LIKE(fmt, args)
#endif

/* The number type of activations, gradients and adapters. Gradient checks compile the same sources
 * with -DREAL=double. */
#ifndef REAL
#define REAL float
#define REAL_IS_FLOAT 1
#else
#define REAL_IS_FLOAT 0
#endif
typedef REAL real;

#define ALIGN_VERSION "0.2.0"

/* ---- errors -------------------------------------------------------------------------------- */

/* Exit codes of the program (sysexits where one fits). 0 is success. */
enum {
    ERR_CHECK = 1,        /* a check ran and failed: selftest, a gate */
    ERR_USAGE = 64,       /* unknown option, value out of range */
    ERR_DATA = 65,        /* the content of a file is wrong */
    ERR_NO_INPUT = 66,    /* an input is missing or cannot be opened */
    ERR_INTERNAL = 70,    /* our own mistake */
    ERR_MEMORY = 71,      /* out of memory */
    ERR_CREATE = 73,      /* an output cannot be created */
    ERR_IO = 74,          /* reading or writing failed half-way */
    ERR_INTERRUPTED = 75, /* stopped by a signal; --resume goes on */
    ERR_DIVERGED = 76     /* training met numbers that are not finite */
};

/* One error: a code above and one line of text: what (file, place), found, allowed, what to do.
 * Functions that can fail take an Err * as last argument and return 0, or -1 with it filled. */
typedef struct {
    int code;
    char text[1024];
} Err;

/* Fills *e and returns -1, so that a failure is one statement: return err_set(e, ...). Characters
 * that text_mask masks are shown as '?': file content must not control a terminal. */
int err_set(Err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Puts "text: " before the message of *e (which must be set) and returns -1. */
int err_prefix(Err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Appends to the text in out[0 .. size-1]; what does not fit is cut off. */
void line_addf(char *out, size_t size, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Notes for people: lower floors report through this, only align.c prints. Either member may be
 * NULL. level: 'i' information, 'w' warning. */
typedef struct {
    void *ctx;
    void (*line)(void *ctx, char level, const char *text);
} Log;
void log_note(const Log *log, char level, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Advice in messages: returns `text` if the running command has the option (a long name) that it
 * names, else "". The top floor says once which options the command has; before that, it has
 * all. */
const char *advice(const char *option, const char *text);
void advice_from(int (*has)(const char *option));

/* Length in bytes (1..4) of the UTF-8 character at `bytes`; 0 if it is not valid (surrogates,
 * overlong forms, above U+10FFFF, cut off) or len is 0. */
size_t utf8_step(const char *bytes, size_t len);
/* The code point of the valid character at `bytes`, of `step` bytes. */
uint32_t utf8_code(const char *bytes, size_t step);
/* The next code point of valid UTF-8; *at moves on. */
uint32_t utf8_next(const char *text, size_t *at);
/* The code point before byte `at` > 0, and where it begins. */
uint32_t utf8_before(const char *text, size_t at, size_t *start);
/* Writes 1..4 bytes, returns how many. */
size_t utf8_put(char out[4], uint32_t cp);
/* Invisible characters that control a terminal, change how others are read, or hide text: controls,
 * line separators, marks of direction, zero-width and tag characters. */
int is_unseen(uint32_t code);
/* Replaces every byte of such a character, and every byte that is not UTF-8, by '?'; with `lines`,
 * '\n' and '\t' are kept. Returns the number of bytes examined: less than len if the last character
 * is cut off, so that text in pieces can continue from there. */
size_t text_mask(char *text, size_t len, int lines);

/* ---- checked sizes ------------------------------------------------------------------------- */

/* *r = a op b; returns 0, or -1 (and *r unspecified) if the result does not fit. */
int size_mul(size_t a, size_t b, size_t *r);
int size_add(size_t a, size_t b, size_t *r);
int u64_mul(uint64_t a, uint64_t b, uint64_t *r);
int u64_add(uint64_t a, uint64_t b, uint64_t *r);

/* Strict numbers: the whole text must be one number; no locale, no leading space, no "nan"/"inf".
 * parse_f64 takes [+-]digits[.digits][e[+-]digits] and rounds correctly whatever the length; too
 * large for a double is an error, too small is 0. Return 0 or -1 (then *value is unchanged). */
int parse_u64(const char *text, size_t len, uint64_t *value);
int parse_i64(const char *text, size_t len, int64_t *value);
int parse_f64(const char *text, size_t len, double *value);

/* ---- memory -------------------------------------------------------------------------------- */

/* The one entry to the heap (test builds make the N-th call fail). mem_alloc(0) gives a valid
 * pointer; NULL only when out of memory, with *e filled (e may be NULL). */
void *mem_alloc(size_t size, Err *e);
void *mem_calloc(size_t count, size_t size, Err *e);
void *mem_realloc(void *p, size_t size, Err *e);
void mem_free(void *p);
char *mem_strdup(const char *text, Err *e);
/* Makes room for one more item in a growing array. array: the address of the pointer to its items,
 * of `size` bytes each (NULL at first); `count` of them are used, *cap fit. A full array is moved
 * to twice the room. Returns 0, or -1 with everything unchanged. */
int mem_grow(void *array, size_t *cap, size_t count, size_t size, Err *e);

/* Arena: one block with a moving mark; the memory of a training step. In counting mode it has no
 * block and only measures: arena_alloc then returns a non-NULL pointer that must not be touched, so
 * that the same program can plan its own memory. */
typedef struct {
    unsigned char *base; /* NULL in counting mode */
    void *block;         /* what mem_free gets: base is aligned, this need not be */
    size_t size, used, peak;
    int counting;
    int failed; /* an allocation did not fit; stays set until arena_release(a, 0) */
} Arena;
#define ARENA_ALIGN 64
int arena_open(Arena *a, size_t size, Err *e); /* pre-faults nothing; one mem_alloc */
void arena_open_counting(Arena *a);
void *arena_alloc(Arena *a, size_t bytes); /* 64-byte aligned; NULL and failed=1 when full */
size_t arena_mark(const Arena *a);
void arena_release(Arena *a, size_t mark); /* forgets everything after the mark */
void arena_close(Arena *a);

/* Pool: grows block by block, freed as a whole; for parsed files (JSON, vocabularies). */
typedef struct PoolBlock PoolBlock;
typedef struct {
    PoolBlock *head;
    size_t total; /* bytes handed out */
} Pool;
void *pool_alloc(Pool *p, size_t bytes, Err *e);                   /* 16-byte aligned, zeroed */
char *pool_strndup(Pool *p, const char *text, size_t len, Err *e); /* adds a 0 byte */
void pool_free(Pool *p);

/* Growing text buffer, always 0-terminated once written to. */
typedef struct {
    char *data;
    size_t len, cap;
} Text;
int text_add(Text *t, const char *bytes, size_t len, Err *e);
int text_addf(Text *t, Err *e, const char *fmt, ...) PRINTF_LIKE(3, 4);
void text_free(Text *t);

/* Sorts in place in O(n log n) for any input, without extra memory; items that compare equal end in
 * an order that depends on the input only (not on the libc, as with qsort). */
void sort_items(void *items, size_t count, size_t size,
                int (*compare)(const void *a, const void *b));

/* ---- random numbers ------------------------------------------------------------------------ */

/* Counter-based: Philox 4x32-10 (Salmon et al. 2011). The draw is a function of its three
 * arguments only, so it depends on no call order and no thread. One stream per purpose. */
enum {
    RNG_SHUFFLE = 1,
    RNG_SAMPLE = 2,
    RNG_DROPOUT = 3,
    RNG_PAIRING = 4,
    RNG_SPLIT = 5,
    RNG_BOOTSTRAP = 6,
    RNG_WEIGHTS = 7
};
uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t counter);
double rng_unit(uint64_t seed, uint64_t stream, uint64_t counter); /* [0,1), 53 bits */
/* Mixes two keys into one (for streams that are named by several numbers). */
uint64_t rng_mix(uint64_t a, uint64_t b);
/* The block function itself: ten rounds over a 128-bit counter with a 64-bit key. rng_u64 is
 * words 0 (low) and 1 of it, counter = (counter, stream), key = seed, low words first. */
void rng_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* MT19937 as PyTorch's CPU generator uses it (Matsumoto and Nishimura 1998, init_genrand). */
typedef struct {
    uint32_t state[624];
    int at;
} Mt;
void mt_seed(Mt *m, uint64_t seed); /* the low 32 bits count, as in PyTorch */
uint32_t mt_next(Mt *m);
float mt_uniform(Mt *m, float low, float high); /* torch uniform_: fmaf(u24, high-low, low) */
/* torch.randperm(n), n < 2^32/20: for i in 0..n-2 swap(a[i], a[i + next32 % (n-i)]). */
void mt_randperm(Mt *m, uint32_t *order, size_t n);

/* ---- threads ------------------------------------------------------------------------------- */

/* Runs task(ctx, i) for i in [0, n). A task owns whole outputs and no two tasks add into the same
 * number, so the bits do not depend on the thread count. Serial without OpenMP, and inside a task
 * of a run with n > 1. */
typedef void (*Task)(void *ctx, size_t i);
void threads_run(Task task, void *ctx, size_t n);
void threads_set(int count); /* 0 = all processors */
int threads_count(void);
/* Lowers the count to the number of threads that this system lets the process start, and returns
 * it: OpenMP's library ends the process if a thread cannot be started. Call before the first
 * threads_run. */
int threads_reach(void);
int threads_index(void); /* 0 .. threads_count()-1 inside a task: for private scratch only */

/* ---- time and signals ---------------------------------------------------------------------- */

double time_now(void); /* monotonic seconds */

/* A request to stop: set by the first SIGINT/SIGTERM, read once per micro-batch. */
extern volatile int stop_requested;

#endif
