/* fuzz_main.c - a small mutating fuzz driver: ./fuzz_X SECONDS SEED, or ./fuzz_X FILE... to replay.
 *
 * Input number n is a function of (SEED, n) and nothing else, so any failure can be repeated. The
 * inputs run in a child process: when it dies or hangs, the parent makes the fatal input again,
 * leaves it in NAME.SEED.n.crash, and says so.
 */
#include "base.h"
#include "fuzz.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_SEEDS 64
#define MAX_INPUT ((size_t)1 << 16)
#define HANG_SECONDS 20

typedef struct {
    Text seeds[MAX_SEEDS];
    size_t count, words;
    uint64_t seed;
} Corpus;

/* An input being made, and its source of random numbers. */
typedef struct {
    const Corpus *corpus;
    Text bytes;
    uint64_t key, draws;
} Maker;

/* A random number below n (n > 0). */
static size_t draw(Maker *m, size_t n)
{
    return (size_t)(rng_u64(m->key, RNG_SAMPLE, m->draws++) % n);
}

/* Replaces `cut` bytes at `at` by `len` others. */
static void replace(Maker *m, size_t at, size_t cut, const char *bytes, size_t len)
{
    Text out = {0};
    text_add(&out, m->bytes.data, at, NULL);
    text_add(&out, bytes, len, NULL);
    text_add(&out, m->bytes.data + at + cut, m->bytes.len - at - cut, NULL);
    text_free(&m->bytes);
    m->bytes = out;
}

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Finds a run of digits near a random place and gives it another value. */
static void edit_number(Maker *m)
{
    static const char *const values[] = {"0",
                                         "1",
                                         "-1",
                                         "00",
                                         "2",
                                         "7",
                                         "8",
                                         "255",
                                         "256",
                                         "65535",
                                         "65536",
                                         "2147483647",
                                         "2147483648",
                                         "4294967295",
                                         "4294967296",
                                         "9007199254740993",
                                         "9223372036854775807",
                                         "9223372036854775808",
                                         "18446744073709551615",
                                         "18446744073709551616",
                                         "1e400",
                                         "1e-400",
                                         "0.1",
                                         "1.0",
                                         "-0",
                                         "1e5",
                                         "123456789012345678901234567890"};
    size_t at = draw(m, m->bytes.len + 1), end;
    while (at < m->bytes.len && !is_digit(m->bytes.data[at])) at++;
    for (end = at; end < m->bytes.len && is_digit(m->bytes.data[end]);) end++;
    const char *value = values[draw(m, sizeof values / sizeof values[0])];
    if (end > at) replace(m, at, end - at, value, strlen(value));
}

/* One random change. */
static void mutate(Maker *m)
{
    static const unsigned char values[] = {0,   1,   0x7F, 0x80, 0xFF, ' ', '"', '\\', '{',
                                           '}', '[', ']',  ',',  ':',  '0', '-', '\n', 0xC3};
    const Text *b = &m->bytes;
    size_t at = draw(m, b->len + 1), some = draw(m, 1 + (b->len - at)), few = some < 9 ? some : 8;
    char one = (char)values[draw(m, sizeof values)];
    const Text *other = &m->corpus->seeds[draw(m, m->corpus->count)];
    size_t from = draw(m, other->len + 1), word = draw(m, m->corpus->words + 1);
    switch (draw(m, 10)) {
    case 0: /* flip a bit */
        if (at < b->len) b->data[at] = (char)(b->data[at] ^ 1 << draw(m, 8));
        break;
    case 1: /* a byte worth having */ replace(m, at, at < b->len, &one, 1); break;
    case 2: /* cut the end off */ replace(m, at, b->len - at, "", 0); break;
    case 3: /* take something out */ replace(m, at, few, "", 0); break;
    case 4: /* say something twice */
        if (b->len < MAX_INPUT) {
            Text copy = {0};
            text_add(&copy, b->data + at, some, NULL);
            replace(m, at, 0, copy.data, copy.len);
            text_free(&copy);
        }
        break;
    case 5: /* go on with another example */
        replace(m, at, b->len - at, other->data + from, other->len - from);
        break;
    case 6: /* a piece of another example in between */
        replace(m, at, few, other->data + from, draw(m, other->len - from + 1));
        break;
    case 7: /* a word of the format */
        if (word < m->corpus->words) {
            replace(m, at, draw(m, few + 1), fuzz_words[word], strlen(fuzz_words[word]));
        }
        break;
    case 8: /* one byte in */ replace(m, at, 0, &one, 1); break;
    default: edit_number(m); break;
    }
}

/* Input number n of this seed. */
static Text make_input(const Corpus *corpus, uint64_t n)
{
    Maker m = {corpus, {0}, rng_mix(corpus->seed, n), 0};
    const Text *start = &corpus->seeds[draw(&m, corpus->count)];
    text_add(&m.bytes, start->data, start->len, NULL);
    if (n < corpus->count) return m.bytes; /* some as they are */
    for (size_t k = 1 + draw(&m, draw(&m, 2) ? 3 : 12); k > 0; k--) mutate(&m);
    if (m.bytes.len > MAX_INPUT) replace(&m, MAX_INPUT, m.bytes.len - MAX_INPUT, "", 0);
    if (draw(&m, 2)) fuzz_repair((uint8_t *)m.bytes.data, m.bytes.len);
    return m.bytes;
}

/* A copy of exactly the right size, so that a sanitizer sees the first byte read beyond it. */
static void run_one(const char *bytes, size_t len)
{
    uint8_t *exact = mem_alloc(len, NULL);
    FUZZ_REQUIRE(exact != NULL);
    if (len) memcpy(exact, bytes, len);
    alarm(HANG_SECONDS);
    LLVMFuzzerTestOneInput(exact, len);
    alarm(0);
    mem_free(exact);
}

static int replay(int count, char **paths)
{
    for (int i = 0; i < count; i++) {
        Text t = {0};
        FILE *f = fopen(paths[i], "rb");
        if (!f) {
            perror(paths[i]);
            return 1;
        }
        for (int c = getc(f); c != EOF; c = getc(f)) {
            char byte = (char)c;
            text_add(&t, &byte, 1, NULL);
        }
        fclose(f);
        run_one(t.data, t.len);
        text_free(&t);
    }
    printf("%d files, no failure\n", count);
    return 0;
}

/* Leaves the input that killed the child and says how it ended. */
static int report_failure(const Corpus *corpus, const char *name, uint64_t n, int status)
{
    char path[400];
    snprintf(path, sizeof path, "%.300s.%llu.%llu.crash", name, (unsigned long long)corpus->seed,
             (unsigned long long)n);
    Text input = make_input(corpus, n);
    FILE *f = fopen(path, "wb");
    if (f) {
        fwrite(input.data, 1, input.len, f);
        fclose(f);
    }
    printf("%s: input %llu of seed %llu failed (%s %d); it is in %s\n", name, (unsigned long long)n,
           (unsigned long long)corpus->seed, WIFSIGNALED(status) ? "signal" : "exit",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), path);
    text_free(&input);
    return 1;
}

int main(int argc, char **argv)
{
    static Corpus corpus;
    uint64_t seconds;
    if (argc < 2) {
        printf("usage: %s SECONDS [SEED] | FILE...\n", argv[0]);
        return 64;
    }
    if (parse_u64(argv[1], strlen(argv[1]), &seconds)) return replay(argc - 1, argv + 1);
    if (argc > 2 && parse_u64(argv[2], strlen(argv[2]), &corpus.seed)) return 64;
    while (corpus.count < MAX_SEEDS && fuzz_seed(corpus.count, &corpus.seeds[corpus.count]) == 0) {
        corpus.count++;
    }
    while (fuzz_words[corpus.words]) corpus.words++;
    /* Shared with the child: the number of the input at work. */
    uint64_t *at =
        mmap(NULL, sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || corpus.count == 0) return 70;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        double end = time_now() + (double)seconds;
        for (*at = 0; time_now() < end; ++*at) {
            Text input = make_input(&corpus, *at);
            run_one(input.data, input.len);
            text_free(&input);
        }
        exit(0); /* and not _exit: the leak check runs at exit */
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return 70;
    if (status != 0) return report_failure(&corpus, argv[0], *at, status);
    printf("%s: %llu inputs of seed %llu, no failure\n", argv[0], (unsigned long long)*at,
           (unsigned long long)corpus.seed);
    for (size_t i = 0; i < corpus.count; i++) text_free(&corpus.seeds[i]);
    return 0;
}
