/* fault_judge.c - every allocation and every file operation of the judges fails once.
 *
 * A scenario runs in a child process in which call number N fails (FAULT_ALLOC in base.c, FAULT_IO
 * in io_read.c), for N = 1, 2, 3 ... until it runs through without meeting its fault. Whatever N
 * is: the exit code is the right one, nothing leaks, the output is whole or not there, and the file
 * of answers holds whole answers, so that the next run is right.
 */
#include "evaluate_gold.h"

#include "faults.h"
#include "tiny.h"

static char model[IO_PATH_MAX + 512], rows[IO_PATH_MAX + 512], out[IO_PATH_MAX + 512];
static char answers[IO_PATH_MAX + 512], command[IO_PATH_MAX + 512];

static const char two[] =
    "{\"prompt\":\"a\",\"response\":\"I cannot.\",\"label\":\"refuse\"}\n"
    "{\"prompt\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"b\"}],"
    "\"response\":\"Sure.\",\"label\":\"accept\"}\n";

static void begin(void)
{
    static const char judge[] =
        "while IFS= read -r line; do id=${line#*:}\n"
        "echo \"{\\\"id\\\":${id%%,*},\\\"action\\\":\\\"accept\\\"}\"; done\n";
    snprintf(model, sizeof model, "%s", tiny_model("model"));
    files_edit(files_path("model/config.json"), "model/config.json", "_embeddings\":256",
               "_embeddings\":1100");
    files_write("rows.jsonl", two, sizeof two - 1);
    files_write("judge.sh", judge, sizeof judge - 1);
    snprintf(rows, sizeof rows, "%s", files_path("rows.jsonl"));
    snprintf(out, sizeof out, "%s", files_path("out.jsonl"));
    snprintf(answers, sizeof answers, "%s", files_path("answers"));
    snprintf(command, sizeof command, "sh %s", files_path("judge.sh"));
}

/* Judges the rows, with the labels beside where asked. */
static int judge_with(const JudgeConfig *c, int compared, Err *e)
{
    Judge j;
    JudgeReport report;
    Gold g = {0};
    Text json = {0};
    if (judge_open(&j, c, e)) return -1;
    int status = compared ? gold_open(&g, "label", 1, e) : 0;
    JudgeWatch watch = gold_watch(&g);
    if (!status) status = judge_file(&j, rows, out, compared ? &watch : NULL, &report, e);
    if (!status) status = judge_report_json(&report, &json, e);
    if (!status && compared) status = gold_finish(&g, 1, 20, e) || gold_json(&g, &json, e);
    gold_close(&g);
    judge_close(&j);
    text_free(&json);
    return status ? -1 : 0;
}

static int rules_scenario(Err *e)
{
    return judge_with(&(JudgeConfig){.kind = "rules"}, 1, e);
}

static int model_scenario(Err *e)
{
    return judge_with(&(JudgeConfig){.kind = "self", .model = model, .answers = answers}, 0, e);
}

static int text_scenario(Err *e)
{
    return judge_with(&(JudgeConfig){.kind = "model", .model = model, .mode = JUDGE_TEXT}, 0, e);
}

static int command_scenario(Err *e)
{
    return judge_with(&(JudgeConfig){.kind = "command",
                                     .command = command,
                                     .answers = answers,
                                     .timeout = 30,
                                     .allow_external = 1},
                      0, e);
}

static int teach_scenario(Err *e)
{
    JudgeTraining r;
    return judge_training_rows(&(JudgeConfig){.kind = "model", .model = model}, rows, out, &r, e);
}

static size_t text_of(const char *path, char *text, size_t size)
{
    size_t len = 0;
    text[0] = 0;
    if (!io_exists(path)) return 0;
    char *read = files_read(path, &len);
    snprintf(text, size, "%s", read);
    mem_free(read);
    return len;
}

static Scenario at_work;
static char whole[8192], now[8192]; /* the output without a fault, and what is there */

static void remove_outputs(void)
{
    remove(out);
    remove(answers);
}

/* The output is whole or not there, and so are the answers that were kept: the next run goes on. */
static int whole_or_nothing(int code)
{
    text_of(out, now, sizeof now);
    if (now[0] && strcmp(now, whole)) return 0;
    if (!code || !io_exists(answers)) return 1;
    if (fault_child(at_work, NULL, NULL)) return 0;
    text_of(out, now, sizeof now);
    return !strcmp(now, whole);
}

static void fail_each(Scenario scenario, const char *format, int (*is_right)(int code))
{
    const char *variable = is_right == fault_memory ? "FAULT_ALLOC" : "FAULT_IO";
    const Faults f = {scenario,         variable, format, is_right, remove_outputs,
                      whole_or_nothing, 1,        0,      8};
    at_work = scenario;
    remove_outputs();
    CHECK_INT(fault_child(scenario, NULL, NULL), 0);
    CHECK(text_of(out, whole, sizeof whole) > 0);
    CHECK(fault_each(&f) > 10);
}

static void rules_memory(void)
{
    fail_each(rules_scenario, "%d", fault_memory);
}

static void rules_files(void)
{
    fail_each(rules_scenario, "%d:EIO", fault_io);
}

static void model_memory(void)
{
    fail_each(model_scenario, "%d", fault_memory);
}

static void model_files(void)
{
    fail_each(model_scenario, "%d:EIO", fault_io);
}

static void model_killed(void)
{
    fail_each(model_scenario, "%d:KILL", fault_killed);
}

static void text_memory(void)
{
    fail_each(text_scenario, "%d", fault_memory);
}

static void command_memory(void)
{
    fail_each(command_scenario, "%d", fault_memory);
}

static void command_files(void)
{
    fail_each(command_scenario, "%d:ENOSPC", fault_io);
}

static void command_killed(void)
{
    fail_each(command_scenario, "%d:KILL", fault_killed);
}

static void teach_memory(void)
{
    fail_each(teach_scenario, "%d", fault_memory);
}

static void teach_files(void)
{
    fail_each(teach_scenario, "%d:EIO", fault_io);
}

static const Test tests[] = {
    {"rules_memory", rules_memory},     {"rules_files", rules_files},
    {"model_memory", model_memory},     {"model_files", model_files},
    {"model_killed", model_killed},     {"text_memory", text_memory},
    {"command_memory", command_memory}, {"command_files", command_files},
    {"command_killed", command_killed}, {"teach_memory", teach_memory},
    {"teach_files", teach_files},
};

int main(int argc, char **argv)
{
    files_begin();
    begin();
    int status = test_main(tests, sizeof tests / sizeof tests[0], argc, argv);
    files_end();
    return status;
}
