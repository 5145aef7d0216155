/* test_judge_command.c - any program as a judge: what it is asked, what is kept, how it may fail.
 */
#include "judge.h"

#include "files.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* The beginning of every judge below: `asked` takes down each line it reads. */
#define READ_A_LINE                                                                                \
    "dir=${0%/*}\n"                                                                                \
    "while IFS= read -r line; do\n"                                                                \
    "  printf '%s\\n' \"$line\" >>\"$dir/asked\"\n"                                                \
    "  id=${line#*:}; id=${id%%,*}\n"

/* Refuses what says "cannot". */
#define ANSWER_IT                                                                                  \
    "  case $line in *cannot*) a=refuse ;; *) a=Accept ;; esac\n"                                  \
    "  echo \"{\\\"id\\\":$id,\\\"action\\\":\\\"$a\\\",\\\"probability\\\":0.75}\"\n"

static const char good[] = READ_A_LINE ANSWER_IT "done\n";

static JudgeCase a_case(const char *prompt, const char *response)
{
    return (JudgeCase){prompt, strlen(prompt), response, strlen(response)};
}

/* Five cases, two of them equal. */
static size_t five(JudgeCase *cases)
{
    static const char *const responses[] = {"Sure.", "I cannot.", "Yes \"and\"\nno.", "Sure.",
                                            "I cannot, no."};
    for (size_t i = 0; i < 5; i++) cases[i] = a_case("Please?", responses[i]);
    return 5;
}

static char command[IO_PATH_MAX + 512], answers[IO_PATH_MAX + 512];

/* A judge made of a shell script; what was kept and asked before is forgotten. */
static JudgeConfig script(const char *text)
{
    files_write("judge.sh", text, strlen(text));
    remove(files_path("asked"));
    remove(files_path("turn"));
    remove(files_path("answers"));
    snprintf(command, sizeof command, "sh %s", files_path("judge.sh"));
    snprintf(answers, sizeof answers, "%s", files_path("answers"));
    return (JudgeConfig){.kind = "command",
                         .command = command,
                         .answers = answers,
                         .timeout = 20,
                         .allow_external = 1};
}

static int decide(const JudgeConfig *config, const JudgeCase *cases, size_t n, Verdict *v, Err *e)
{
    Judge j;
    *e = (Err){0};
    int status = judge_open(&j, config, e);
    if (!status) status = judge_decide(&j, cases, n, v, e);
    judge_close(&j);
    return status;
}

static size_t count_lines(const char *name)
{
    size_t len, n = 0;
    if (!io_exists(files_path(name))) return 0;
    char *text = files_read(files_path(name), &len);
    for (size_t i = 0; i < len; i++) n += text[i] == '\n';
    mem_free(text);
    return n;
}

static void no_child_is_left(void)
{
    CHECK_INT(waitpid(-1, NULL, WNOHANG), -1);
    CHECK_INT(errno, ECHILD);
}

/* What the five cases end with where they cannot be judged. */
static Err refused(const JudgeConfig *config)
{
    JudgeCase cases[5];
    Verdict v[5];
    Err e;
    CHECK_INT(decide(config, cases, five(cases), v, &e), -1);
    no_child_is_left();
    return e;
}

static void a_program_judges_and_is_asked_once(void)
{
    JudgeCase cases[6];
    Verdict v[6];
    Err e;
    size_t n = five(cases), len;
    JudgeConfig config = script(good);
    CHECK_OK(decide(&config, cases, n, v, &e), &e);
    for (size_t i = 0; i < n; i++) {
        Action expected = i == 1 || i == 4 ? ACTION_REFUSE : ACTION_ACCEPT;
        CHECK(v[i].action == expected && v[i].probability[expected] == 0.75);
        CHECK_NEAR(v[i].probability[ACTION_CAUTION], 0.125, 1e-15);
    }
    CHECK_INT(count_lines("asked"), 4); /* equal cases are one question */
    char *asked = files_read(files_path("asked"), &len);
    CHECK_HAS(asked, "{\"id\":2,\"prompt\":\"Please?\",\"response\":\"Yes \\\"and\\\"\\nno.\"}\n");
    mem_free(asked);

    /* Again, with one more: only that is asked. */
    cases[n] = a_case("Please?", "More.");
    CHECK_OK(decide(&config, cases, n + 1, v, &e), &e);
    CHECK_INT(count_lines("asked"), 5);
    CHECK_INT(count_lines("answers"), 5);
    CHECK_INT(v[1].action, ACTION_REFUSE);
    CHECK_INT(v[5].action, ACTION_ACCEPT);

    /* The prompt is part of the question, and so is the command. */
    JudgeCase other = a_case("Really?", "More.");
    CHECK_OK(decide(&config, &other, 1, v, &e), &e);
    CHECK_INT(count_lines("asked"), 6);
    strcat(command, " -v2");
    CHECK_OK(decide(&config, &other, 1, v, &e), &e);
    CHECK_INT(count_lines("asked"), 7);
    no_child_is_left();
}

/* Answers two lines, then dies; the second time it answers all. */
static const char mortal[] = READ_A_LINE ANSWER_IT
    "  n=$((n + 1))\n"
    "  if [ $n -eq 2 ] && [ ! -e \"$dir/turn\" ]; then : >\"$dir/turn\"; exit 3; fi\n"
    "done\n";

static void a_program_that_dies_is_asked_for_the_rest_only(void)
{
    JudgeCase cases[5];
    Verdict v[5];
    Err e;
    size_t n = five(cases);
    JudgeConfig config = script(mortal);
    CHECK_INT(decide(&config, cases, n, v, &e), -1);
    CHECK_ERR(e, ERR_IO, "ended with status 3 after 2 of 4 answers");
    CHECK_ERR(e, ERR_IO, "answers are kept in");
    CHECK_INT(count_lines("answers"), 2);
    CHECK_OK(decide(&config, cases, n, v, &e), &e);
    CHECK_INT(count_lines("asked"), 4);
    CHECK_INT(v[4].action, ACTION_REFUSE);

    config = script(mortal);
    config.retries = 1;
    CHECK_OK(decide(&config, cases, n, v, &e), &e);
    CHECK_INT(count_lines("asked"), 4);
    CHECK_INT(count_lines("answers"), 4);
    no_child_is_left();
}

/* Dies in the middle of a line; the second time it answers. */
static const char torn[] = "dir=${0%/*}\n"
                           "if [ ! -e \"$dir/turn\" ]; then\n"
                           "  : >\"$dir/turn\"; printf '{\"id\":0,\"act'; exit 3\n"
                           "fi\n" READ_A_LINE ANSWER_IT "done\n";

static void a_program_that_dies_in_a_line_is_asked_again(void)
{
    JudgeCase cases[5];
    Verdict v[5];
    Err e;
    size_t n = five(cases);
    JudgeConfig config = script(torn);
    CHECK_INT(decide(&config, cases, n, v, &e), -1);
    CHECK_ERR(e, ERR_IO, "ended with status 3 after 0 of 4 answers");
    config = script(torn);
    config.retries = 1;
    CHECK_OK(decide(&config, cases, n, v, &e), &e);
    CHECK_INT(count_lines("answers"), 4);
    no_child_is_left();
}

static void a_killed_program_is_named_by_its_signal(void)
{
    JudgeConfig config = script("read -r line\nkill -9 $$\n");
    config.retries = 2;
    Err e = refused(&config);
    CHECK_ERR(e, ERR_IO, "was killed by signal 9 after 0 of 4 answers");
    CHECK_ERR(e, ERR_IO, "gave up after 3 runs");
}

static void a_silent_program_is_ended_with_what_it_started(void)
{
    JudgeConfig config = script("dir=${0%/*}\n(sleep 1; : >\"$dir/turn\") &\nwait\nsleep 100\n");
    config.timeout = 0.3;
    Err e = refused(&config);
    CHECK_ERR(e, ERR_IO, "gave no answer for 0.3 s");
    usleep(1200000);
    CHECK(!io_exists(files_path("turn"))); /* what it had started has not lived to do that */
}

static void one_that_answers_and_does_not_end_is_ended(void)
{
    static const char text[] = READ_A_LINE ANSWER_IT "done\nsleep 100\n";
    JudgeCase cases[5];
    Verdict v[5];
    Err e;
    double began = time_now();
    JudgeConfig config = script(text);
    CHECK_OK(decide(&config, cases, five(cases), v, &e), &e);
    CHECK_INT(v[1].action, ACTION_REFUSE);
    CHECK(time_now() - began < 15 * test_patience());
    no_child_is_left();
}

static void wrong_answers_are_refused(void)
{
    static const struct {
        const char *say, *message;
    } bad[] = {{"hello there", "line hello there"},
               {"[1]", "no \"id\""},
               {"{\"id\":\"0\",\"action\":\"accept\"}", "whole number"},
               {"{\"id\":99,\"action\":\"accept\"}", "id 99, which was not asked"},
               {"{\"id\":0,\"action\":\"maybe\"}", "found maybe"},
               {"{\"id\":0}", "found none"},
               {"{\"id\":0,\"action\":\"accept\",\"probability\":1.5}", "from 0 to 1"},
               {"{\"id\":0,\"action\":\"accept\"}\\n{\"id\":0,\"action\":\"accept\"}",
                "two answers have id 0"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[512];
        snprintf(text, sizeof text, "printf '%%b\\n' '%s'\ncat >/dev/null\n", bad[i].say);
        JudgeConfig config = script(text);
        config.retries = 3;
        Err e = refused(&config);
        CHECK_ERR(e, ERR_DATA, bad[i].message);
        CHECK_HAS(e.text, "sh: line ");
    }
}

static void endless_output_has_an_end(void)
{
    JudgeConfig config = script("yes | tr -d '\\n'\n");
    Err e = refused(&config);
    CHECK_ERR(e, ERR_DATA, "bytes is not an answer");
    config = script("yes ''\n"); /* empty lines are no sign of life */
    config.timeout = 0.3;
    e = refused(&config);
    CHECK_ERR(e, ERR_IO, "gave no answer for 0.3 s");
}

static void no_shell_reads_the_command(void)
{
    size_t len;
    char array[IO_PATH_MAX + 512];
    JudgeConfig config = script("printf '%s|' \"$@\" >\"${0%/*}/turn\"\n");
    strcat(command, " $(touch x);  a&b");
    CHECK_INT(refused(&config).code, ERR_IO);
    char *arguments = files_read(files_path("turn"), &len);
    CHECK_TEXT(arguments, "$(touch|x);|a&b|");
    mem_free(arguments);
    snprintf(array, sizeof array, " [\"sh\",\"%s\",\"two words\",\"\"]", files_path("judge.sh"));
    config.command = array;
    CHECK_INT(refused(&config).code, ERR_IO);
    arguments = files_read(files_path("turn"), &len);
    CHECK_TEXT(arguments, "two words||");
    mem_free(arguments);
}

static void a_command_that_cannot_run_says_so(void)
{
    JudgeConfig config = script(good);
    config.retries = 5;
    config.command = "/no/such/program --at all";
    Err e = refused(&config);
    CHECK_ERR(e, ERR_NO_INPUT, "/no/such/program: cannot be run");
    config.command = "   ";
    CHECK_INT(refused(&config).code, ERR_USAGE);
    config.command = "[\"a\",1]";
    CHECK_INT(refused(&config).code, ERR_USAGE);
    config.command = "[\"a\"";
    CHECK_INT(refused(&config).code, ERR_USAGE);
    config = script(good);
    config.allow_external = 0;
    e = refused(&config);
    CHECK_ERR(e, ERR_USAGE, "patient data");
    CHECK_INT(count_lines("asked"), 0);
    config = script(good);
    config.answers = NULL;
    CHECK_INT(refused(&config).code, ERR_USAGE);
}

/* More text than pipes hold, for programs that read all first, that answer line by line, and that
 * answer without reading: none may block, and a closed pipe must not end us. */
static void large_texts_block_nobody(void)
{
    enum { CASES = 200, BYTES = 20000 };
    static const char *const programs[] = {
        good,
        "cat >\"${0%/*}/turn\"\ni=0\nwhile [ $i -lt 200 ]; do\n"
        "echo \"{\\\"id\\\":$i,\\\"action\\\":\\\"caution\\\"}\"; i=$((i + 1)); done\n",
        "exec <&-\ni=0\nwhile [ $i -lt 200 ]; do\n"
        "echo \"{\\\"id\\\":$i,\\\"action\\\":\\\"caution\\\"}\"; i=$((i + 1)); done\n"};
    static JudgeCase cases[CASES];
    static Verdict v[CASES];
    static char text[BYTES + 1];
    char names[CASES][8];
    Err e;
    memset(text, 'x', BYTES);
    for (size_t i = 0; i < CASES; i++) {
        snprintf(names[i], sizeof names[i], "%zu", i);
        cases[i] = (JudgeCase){names[i], strlen(names[i]), text, BYTES};
    }
    for (size_t p = 0; p < 3; p++) {
        JudgeConfig config = script(programs[p]);
        CHECK_OK(decide(&config, cases, CASES, v, &e), &e);
        CHECK_INT(v[CASES - 1].action, (p ? ACTION_CAUTION : ACTION_ACCEPT));
        CHECK(v[0].probability[v[0].action] == (p ? 1 : 0.75));
        no_child_is_left();
    }
}

static void a_torn_answer_is_asked_again(void)
{
    JudgeCase cases[5];
    Verdict v[5];
    Err e;
    size_t len, n = five(cases);
    JudgeConfig config = script(good);
    CHECK_OK(decide(&config, cases, n, v, &e), &e);
    char *text = files_read(answers, &len);
    files_write("answers", text, len - 7);
    mem_free(text);
    CHECK_OK(decide(&config, cases, n, v, &e), &e);
    CHECK_INT(count_lines("asked"), 5);
    CHECK_INT(count_lines("answers"), 4);
    files_write("answers", "{\"a\":1}\n", 8);
    CHECK_INT(decide(&config, cases, n, v, &e), -1);
    CHECK_ERR(e, ERR_DATA, "answers:1");
    CHECK_INT(count_lines("asked"), 5);
}

/* The command line is the same; the program is not. */
static void a_rewritten_script_is_another_judge(void)
{
    static const char *const says[] = {"refuse", "accept"};
    JudgeCase x = a_case("Please?", "Sure.");
    Verdict v;
    Err e;
    JudgeConfig config = script("");
    const char *plain = getenv("PATH");
    char path[IO_PATH_MAX + 512], kept[IO_PATH_MAX], text[256];
    for (int by_path = 0; by_path < 2; by_path++) {
        if (by_path) { /* the same by its name alone */
            snprintf(kept, sizeof kept, "%s", plain);
            snprintf(path, sizeof path, "%.400s:%s", files_path(""), kept);
            CHECK(!setenv("PATH", path, 1));
            snprintf(command, sizeof command, "judge.sh");
        }
        for (int i = 0; i < 2; i++) {
            snprintf(text, sizeof text,
                     "#!/bin/sh\nread -r line\nid=${line#*:}\n"
                     "echo \"{\\\"id\\\":${id%%%%,*},\\\"action\\\":\\\"%s\\\"}\"\n",
                     says[i]);
            files_write("judge.sh", text, strlen(text));
            CHECK(!chmod(files_path("judge.sh"), 0700));
            for (int again = 0; again < 2; again++) {
                CHECK_OK(decide(&config, &x, 1, &v, &e), &e);
                CHECK_INT(v.action, (i ? ACTION_ACCEPT : ACTION_REFUSE));
            }
        }
        CHECK_INT(count_lines("answers"), (by_path ? 4 : 2)); /* each program was asked once */
    }
    CHECK(!setenv("PATH", kept, 1));
}

static void a_stop_ends_the_program(void)
{
    JudgeConfig config = script("sleep 100\n");
    stop_requested = 1;
    CHECK_INT(refused(&config).code, ERR_INTERRUPTED);
    stop_requested = 0;
}

static const Test tests[] = {
    {"a_program_judges_and_is_asked_once", a_program_judges_and_is_asked_once},
    {"a_program_that_dies_in_a_line_is_asked_again", a_program_that_dies_in_a_line_is_asked_again},
    {"a_program_that_dies_is_asked_for_the_rest_only",
     a_program_that_dies_is_asked_for_the_rest_only},
    {"a_killed_program_is_named_by_its_signal", a_killed_program_is_named_by_its_signal},
    {"a_silent_program_is_ended_with_what_it_started",
     a_silent_program_is_ended_with_what_it_started},
    {"one_that_answers_and_does_not_end_is_ended", one_that_answers_and_does_not_end_is_ended},
    {"wrong_answers_are_refused", wrong_answers_are_refused},
    {"endless_output_has_an_end", endless_output_has_an_end},
    {"no_shell_reads_the_command", no_shell_reads_the_command},
    {"a_command_that_cannot_run_says_so", a_command_that_cannot_run_says_so},
    {"large_texts_block_nobody", large_texts_block_nobody},
    {"a_torn_answer_is_asked_again", a_torn_answer_is_asked_again},
    {"a_rewritten_script_is_another_judge", a_rewritten_script_is_another_judge},
    {"a_stop_ends_the_program", a_stop_ends_the_program},
};

FILES_TEST_MAIN(tests)
