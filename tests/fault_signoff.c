/* fault_signoff.c - a signature whose file operations and allocations fail, or that is killed.
 *
 * Whatever happens: deployed.json is the old one or the new one and never one without its entry in
 * the ledger, and signing again ends with a run that verifies.
 */
#include "signed.h"
#include "test.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static char run[IO_PATH_MAX];

static int sign_run(const char *by, Err *e)
{
    CycleSignature x = {.by = by, .reason = "because"};
    return cycle_sign(run, &x, e);
}

/* Signs in a child with one environment variable set; its exit code. */
static int sign_child(const char *variable, const char *value)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        Err e = {0, ""};
        setenv(variable, value, 1);
        int status = sign_run("second", &e);
        unsetenv(variable);
        if (status && (!e.code || !e.text[0])) exit(98); /* failed without saying why */
        exit(status ? e.code : 0);
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void count(void *ctx, const CycleSignature *x)
{
    (void)x;
    ++*(int *)ctx;
}

/* Does deployed.json say that the second one signed? Then the ledger must say so, too. */
static int deployed_is_recorded(void)
{
    size_t len;
    Err e;
    int signatures = 0;
    char *text = files_read(files_path("run/deployed.json"), &len);
    int first = strstr(text, "\"by\":\"first\"") != NULL,
        second = strstr(text, "\"by\":\"second\"") != NULL;
    mem_free(text);
    if (cycle_signatures(run, count, &signatures, &e)) return 0;
    return second ? signatures == 2 : first && signatures >= 1;
}

static void fail_each(const char *variable, const char *format)
{
    int failed = 0, clean = 0;
    for (int n = 1; clean < 3; n++) {
        char value[32];
        CycleVerification v;
        Err e;
        io_remove_tree(run, &e);
        CHECK(!write_run(run, 1) && !sign_run("first", &e));
        snprintf(value, sizeof value, format, n);
        int code = sign_child(variable, value);
        CHECK(code != 98 && code < 1000 && code != ERR_INTERNAL);
        CHECK(deployed_is_recorded());
        CHECK(!sign_run("third", &e) && !cycle_verify(run, NULL, NULL, &v, &e));
        failed += code != 0;
        clean = code ? 0 : clean + 1;
    }
    CHECK(failed > 10);
}

static void killed_anywhere(void)
{
    fail_each("FAULT_IO", "%d:KILL");
}
static void full_disk(void)
{
    fail_each("FAULT_IO", "%d:ENOSPC");
}
static void out_of_memory(void)
{
    fail_each("FAULT_ALLOC", "%d");
}

static const Test tests[] = {{"killed_anywhere", killed_anywhere},
                             {"full_disk", full_disk},
                             {"out_of_memory", out_of_memory}};

int main(int argc, char **argv)
{
    files_begin();
    snprintf(run, sizeof run, "%.4000s", files_path("run"));
    int status = test_main(tests, sizeof tests / sizeof tests[0], argc, argv);
    files_end();
    return status;
}
