/* fault_cycle.c - a loop whose file operations and allocations fail, or that is killed, at points
 * spread over all of them.
 *
 * Killed at any instant, a run that is resumed ends with the files of one that was never touched,
 * and its ledger agrees with them. After an error the same holds, and the message names its reason.
 */
#include "cycles.h"
#include "faults.h"

static char model_path[IO_PATH_MAX], guard_path[IO_PATH_MAX], thumbs_path[IO_PATH_MAX];
static Text whole; /* the files of the run that nothing happened to */

static CycleConfig config(void)
{
    CycleConfig c = small_run("run");
    c.cycles = 1;
    c.resume = 1;
    c.guard = guard_path;
    c.feedback = thumbs_path;
    c.chat_template = "chatml";
    c.revise = 1;
    c.instruction = "Be kind.";
    return c;
}

static void write_text(char path[IO_PATH_MAX], const char *name, const char *text)
{
    files_write(name, text, strlen(text));
    snprintf(path, IO_PATH_MAX, "%.4000s", files_path(name));
}

static int run_loop(Err *e)
{
    CycleConfig c = config();
    CycleResult r;
    if (cycle_run(&c, NULL, &r, e)) return -1;
    cycle_result_free(&r);
    return 0;
}

static int is_the_whole_run(void)
{
    Text files = {0};
    LedgerVerification v;
    Err e;
    CycleConfig c = config();
    list_run(c.run, "", &files);
    int same = !strcmp(files.data, whole.data) && !ledger_verify(c.run, NULL, NULL, &v, &e);
    if (!same) printf("%s\n", files.data);
    text_free(&files);
    return same;
}

static void fresh(void)
{
    Err e;
    CHECK_OK(io_remove_tree(files_path("run"), &e), &e);
}

static int resumed_it_is_whole(int code)
{
    return (!code || !fault_child(run_loop, NULL, NULL)) && is_the_whole_run();
}

/* Calls spread over the whole run: from each to the next it is about an eighth further. So many
 * runs without a fault in a row (clean) are its end. */
static void fail_some(const char *variable, const char *format, int (*is_right)(int code),
                      int clean)
{
    const Faults f = {run_loop, variable, format, is_right, fresh, resumed_it_is_whole,
                      1,        8,        clean};
    CHECK(fault_each(&f) > 30);
}

static void killed_anywhere(void)
{
    fail_some("FAULT_IO", "%d:KILL", fault_killed, 5);
}

static void full_disk(void)
{
    /* A full disk is no fault to what reads, and a loop begins with much reading in a row. */
    fail_some("FAULT_IO", "%d:ENOSPC", fault_io, 20);
}

static void out_of_memory(void)
{
    /* Advice about chat templates is left out where memory is short, and takes many calls. */
    fail_some("FAULT_ALLOC", "%d", fault_memory, 14);
}

static const Test tests[] = {{"killed_anywhere", killed_anywhere},
                             {"full_disk", full_disk},
                             {"out_of_memory", out_of_memory}};

int main(int argc, char **argv)
{
    files_begin();
    snprintf(model_path, sizeof model_path, "%.4000s", tiny_model("model"));
    model_dir = model_path;
    write_prompts("prompts.jsonl", 1);
    write_text(guard_path, "guard.jsonl",
               "{\"question\":\"a\",\"choices\":[\"b\",\"c\"],\"answer\":0}\n"
               "{\"question\":\"a\",\"answer\":\"b\"}\n");
    write_text(thumbs_path, "thumbs.jsonl",
               "{\"prompt\":\"x\",\"completion\":\"X\",\"label\":true}\n");
    CHECK_INT(fault_child(run_loop, NULL, NULL), 0);
    list_run(files_path("run"), "", &whole);
    int status = test_main(tests, sizeof tests / sizeof tests[0], argc, argv);
    text_free(&whole);
    files_end();
    return status;
}
