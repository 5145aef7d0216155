/* test.h - the whole test harness: a table of named tests, an exit status, no dependency.
 *
 *     static void adds(void) { CHECK_INT(1 + 1, 2); CHECK_NEAR(0.1 + 0.2, 0.3, 1e-15); }
 *     const Test tests[] = {{"adds", adds}};
 *     TEST_MAIN(tests)
 *
 * ./test_x runs all; ./test_x NAME runs those whose name contains NAME; --list lists them.
 * The last line is "N passed, N failed"; a test fails when one of its checks does.
 */
#ifndef ALIGN_TEST_H
#define ALIGN_TEST_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name;
    void (*run)(void);
} Test;

/* clang-format off */
#define TEST(f) {#f, f} /* a row of the table, named as its function */
/* clang-format on */

static int test_failures; /* of the running test */
static int test_status;   /* of the call that CHECK_FAILS looks at */

#define CHECK(condition) \
    ((condition) ? (void)0 \
                 : (void)(test_failures++, printf("%s:%d: %s\n", __FILE__, __LINE__, #condition)))

/* Factor for limits of processor time: emulated machines (RUNNER=qemu-...) are slow. */
static inline double test_patience(void)
{
    const char *runner = getenv("RUNNER");
    return runner && *runner ? 30 : 1;
}

/* Two integers, printed when they differ. `| 0` compiles for integers of any size, and for nothing
 * else. */
#define CHECK_INT(a, b) \
    test_int((long long)((a) | 0), (long long)((b) | 0), #a, #b, __FILE__, __LINE__)

/* A call that gives 0; else its Err says why. For tests that include base.h. */
#define CHECK_OK(call, e) test_ok((call), (e)->text, #call, __FILE__, __LINE__)

/* A call that fails with this code; else its result, the code and its Err are printed. */
#define CHECK_FAILS(call, e, want) \
    (test_hold(call), test_fails((int)(e)->code, (int)(want), (e)->text, #call, #want, __FILE__, \
                                 __LINE__))

/* Written so that NaN fails. */
#define CHECK_NEAR(a, b, tolerance) test_near((a), (b), (tolerance), #a, #b, __FILE__, __LINE__)
#define CHECK_TEXT(a, b) test_text((a), (b), #a, __FILE__, __LINE__)
/* A text that has, or has not, this part in it. */
#define CHECK_HAS(a, part) test_has((a), (part), 1, #a, __FILE__, __LINE__)
#define CHECK_LACKS(a, part) test_has((a), (part), 0, #a, __FILE__, __LINE__)

static inline void test_near(double a, double b, double tolerance, const char *at, const char *bt,
                             const char *file, int line)
{
    double d = fabs(a - b);
    if (d <= tolerance) return;
    test_failures++;
    printf("%s:%d: %s = %.17g, %s = %.17g, differ by %.3g > %.3g\n", file, line, at, a, bt, b, d,
           tolerance);
}

static inline void test_int(long long a, long long b, const char *at, const char *bt,
                            const char *file, int line)
{
    if (a == b) return;
    test_failures++;
    printf("%s:%d: %s = %lld, %s = %lld\n", file, line, at, a, bt, b);
}

static inline void test_ok(int status, const char *why, const char *call, const char *file,
                           int line)
{
    if (status == 0) return;
    test_failures++;
    printf("%s:%d: %s gave %d: %s\n", file, line, call, status, why);
}

/* Its result is held so that the Err of the call is read after it and not before. */
static inline void test_hold(int status)
{
    test_status = status;
}

static inline void test_fails(int code, int want, const char *why, const char *call,
                              const char *want_text, const char *file, int line)
{
    if (test_status == -1 && code == want) return;
    test_failures++;
    printf("%s:%d: %s gave %d, code %d, expected -1 and %s (%d): %s\n", file, line, call,
           test_status, code, want_text, want, why);
}

static inline void test_text(const char *a, const char *b, const char *at, const char *file,
                             int line)
{
    if (a && b && !strcmp(a, b)) return;
    test_failures++;
    printf("%s:%d: %s = \"%s\", expected \"%s\"\n", file, line, at, a ? a : "(null)",
           b ? b : "(null)");
}

static inline void test_has(const char *a, const char *part, int wanted, const char *at,
                            const char *file, int line)
{
    if (a && (strstr(a, part) != NULL) == wanted) return;
    test_failures++;
    printf("%s:%d: %s = \"%s\", expected %s\"%s\" in it\n", file, line, at, a ? a : "(null)",
           wanted ? "" : "no ", part);
}

/* TEST_WITHOUT="a b": without the tests a and b, which would take minutes under an emulator. */
static inline int test_left_out(const char *name)
{
    const char *list = getenv("TEST_WITHOUT");
    size_t len = strlen(name);
    for (const char *p = list ? list : ""; *p; p += strcspn(p, " "), p += strspn(p, " ")) {
        if (strcspn(p, " ") == len && !memcmp(p, name, len)) return 1;
    }
    return 0;
}

static inline int test_main(const Test *tests, size_t count, int argc, char **argv)
{
    int passed = 0, failed = 0;
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && !strcmp(argv[1], "--list")) {
            printf("%s\n", tests[i].name);
            continue;
        }
        if (argc > 1 && !strstr(tests[i].name, argv[1])) continue;
        if (test_left_out(tests[i].name)) continue;
        test_failures = 0;
        tests[i].run();
        if (test_failures) printf("FAIL %s\n", tests[i].name);
        test_failures ? failed++ : passed++;
        fflush(stdout);
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}

#define TEST_MAIN(tests) \
    int main(int argc, char **argv) \
    { \
        return test_main(tests, sizeof(tests) / sizeof(tests)[0], argc, argv); \
    }

#endif
