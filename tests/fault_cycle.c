/* fault_cycle.c - a loop whose file operations and allocations fail, or that is killed, at points
 * spread over all of them.
 *
 * Killed at any instant, a run that is resumed ends with the files of one that was never touched,
 * and its ledger agrees with them. After an error the same holds, and the message names its reason.
 */
#include "cycles.h"

#include <sys/wait.h>

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

/* The run in a child, with one environment variable set (or none); its exit code. */
static int run_child(const char *variable, const char *value)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CycleConfig c = config();
        CycleResult r;
        Err e = {0, ""};
        if (variable) setenv(variable, value, 1);
        int status = cycle_run(&c, NULL, &r, &e);
        if (variable) unsetenv(variable);
        if (!status) cycle_result_free(&r);
        if (status && (!e.code || !e.text[0])) exit(98); /* failed without saying why */
        exit(status ? e.code : 0);                       /* exit, so that leaks are looked for */
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int is_the_whole_run(void)
{
    Text files = {0};
    CycleVerification v;
    Err e;
    CycleConfig c = config();
    list_run(c.run, "", &files);
    int same = !strcmp(files.data, whole.data) && !cycle_verify(c.run, NULL, NULL, &v, &e);
    if (!same) printf("%s\n", files.data);
    text_free(&files);
    return same;
}

static void fresh(void)
{
    Err e;
    CHECK(!io_remove_tree(files_path("run"), &e));
}

/* Call number n of a kind fails, n growing by about an eighth each time, until some failures in a
 * row leave no trace: there are no more calls. */
static void fail_some(const char *variable, const char *format, int (*is_right)(int code))
{
    int runs = 0, clean = 0;
    for (int n = 1; clean < 5; n += 1 + n / 8, runs++) {
        char value[32];
        fresh();
        snprintf(value, sizeof value, format, n);
        int code = run_child(variable, value);
        int fine = is_right(code), again = code ? run_child(NULL, NULL) : 0;
        fine = fine && again == 0 && is_the_whole_run();
        if (!fine) printf("  %s=%s gave %d, resumed %d\n", variable, value, code, again);
        CHECK(fine);
        clean = code ? 0 : clean + 1;
    }
    CHECK(runs > 30);
}

static int is_killed(int code)
{
    return code == 0 || code == 99;
}
static int is_memory(int code)
{
    return code == 0 || code == ERR_MEMORY;
}
static int is_io(int code)
{
    return code == 0 || code == ERR_IO || code == ERR_CREATE || code == ERR_NO_INPUT;
}

static void killed_anywhere(void)
{
    fail_some("FAULT_IO", "%d:KILL", is_killed);
}

static void full_disk(void)
{
    fail_some("FAULT_IO", "%d:ENOSPC", is_io);
}

static void out_of_memory(void)
{
    fail_some("FAULT_ALLOC", "%d", is_memory);
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
    CHECK(run_child(NULL, NULL) == 0);
    list_run(files_path("run"), "", &whole);
    int status = test_main(tests, sizeof tests / sizeof tests[0], argc, argv);
    text_free(&whole);
    files_end();
    return status;
}
