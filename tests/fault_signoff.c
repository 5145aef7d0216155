/* fault_signoff.c - a signature whose file operations and allocations fail, or that is killed.
 *
 * Whatever happens: deployed.json is the old one or the new one and never one without its entry in
 * the ledger, and signing again ends with a run that verifies.
 */
#include "faults.h"
#include "signed.h"

static char run[IO_PATH_MAX];
static int failed; /* calls of the kind at hand, so far */

static int sign_as(const char *by, Err *e)
{
    CycleSignature x = {.by = by, .reason = "because"};
    return cycle_sign(run, &x, e);
}

static int second_signs(Err *e)
{
    return sign_as("second", e);
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

/* What fails while files are compared may also look like a run that does not verify. */
static int is_refused(int code)
{
    return fault_io(code) || fault_memory(code) || code == ERR_DATA;
}

static void first_signed(void)
{
    Err e;
    io_remove_tree(run, &e);
    CHECK(!write_run(run, 1) && !sign_as("first", &e));
}

static int recorded_and_signed_again(int code)
{
    LedgerVerification v;
    Err e;
    failed += code != 0;
    return deployed_is_recorded() && !sign_as("third", &e) &&
           !ledger_verify(run, NULL, NULL, &v, &e);
}

static void fail_each(const char *variable, const char *format, int (*is_right)(int code))
{
    const Faults f = {
        second_signs, variable, format, is_right, first_signed, recorded_and_signed_again, 1, 0,
        FAULT_CLEAN};
    failed = 0;
    fault_each(&f);
    CHECK(failed > 10);
}

static void killed_anywhere(void)
{
    fail_each("FAULT_IO", "%d:KILL", fault_killed);
}
static void full_disk(void)
{
    fail_each("FAULT_IO", "%d:ENOSPC", is_refused);
}
static void out_of_memory(void)
{
    fail_each("FAULT_ALLOC", "%d", is_refused);
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
