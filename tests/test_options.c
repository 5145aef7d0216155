/* test_options.c - the option machinery on a small table of its own: values, files, help, names. */
#include "options.h"

#include "io.h"
#include "test.h"

#include <stdlib.h>
#include <unistd.h>

static const Option model_rows[] = {
    {"model", 'm', OPTION_DIR, option_required, NULL, "model directory"},
    {"no-mmap", 0, OPTION_FLAG, NULL, NULL, "read weights instead of mapping them"},
};
static const Option train_rows[] = {
    {"beta", 0, OPTION_NUMBER, "0.1", "(0,inf)", "strength of the pull to the reference"},
    {"dropout", 0, OPTION_NUMBER, "0", "[0,1)", "share of dropped inputs"},
    {"loss", 0, OPTION_WORDS, "sigmoid", "sigmoid|hinge|ipo", "losses, summed"},
    {"loss-weights", 0, OPTION_NUMBERS, NULL, "[0,inf)", "their weights"},
    {"threads", 't', OPTION_COUNT, "auto", "[1,1024]|auto", "threads"},
    {"seed", 's', OPTION_COUNT, "42", NULL, "seed of every draw"},
    {"memory", 0, OPTION_SIZE, "auto", "[1M,inf)|auto", "largest arena"},
    {"order", 0, OPTION_CHOICE, "shuffle", "shuffle|trl|file", "order of rows"},
    {"prompt", 'p', OPTION_TEXT, NULL, NULL, "a prompt"},
};
static const OptionGroup model_group = OPTION_GROUP("Model", model_rows);
static const OptionGroup train_group = OPTION_GROUP("Training", train_rows);
static const OptionGroup *const groups[] = {&model_group, &train_group, NULL};
static const OptionTable table = {"toy", "a table to test with", "[RUN]", "align toy -m DIR",
                                  groups};

#define ARGS_MAX 16
static Options o;
static Err e;
static char note[256];

static void take_note(void *ctx, char level, const char *text)
{
    (void)ctx;
    snprintf(note, sizeof note, "%c %s", level, text);
}

/* Parses arguments separated by single spaces ('~' stands for a space inside one). */
static int parse(const char *line)
{
    static char copy[512];
    const char *argv[ARGS_MAX];
    int argc = 0;
    Log log = {NULL, take_note};
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word && argc < ARGS_MAX; word = strtok(NULL, " ")) {
        for (char *c = word; *c; c++) *c = *c == '~' ? ' ' : *c;
        argv[argc++] = word;
    }
    memset(&e, 0, sizeof e);
    note[0] = 0;
    options_free(&o);
    return options_parse(&o, &table, argc, argv, &log, &e);
}

/* Parses with -m given; the message must name every one of up to three things. */
static void refused(const char *line, const char *a, const char *b, const char *c)
{
    char all[512];
    snprintf(all, sizeof all, "-m dir %s", line);
    CHECK(parse(all) == -1);
    CHECK(e.code == ERR_USAGE);
    int names = strstr(e.text, a) && (!b || strstr(e.text, b)) && (!c || strstr(e.text, c));
    if (!names) printf("\"%s\" gave: %s\n", line, e.text);
    CHECK(names);
}

static void reads_every_form(void)
{
    CHECK(parse("-m dir --beta 0.5 --dropout=0.25 -t4 -s 18446744073709551615 --no-mmap") == 0);
    CHECK_TEXT(option_text(&o, "model"), "dir");
    CHECK(option_number(&o, "beta") == 0.5);
    CHECK(option_number(&o, "dropout") == 0.25);
    CHECK(option_count(&o, "threads") == 4);
    CHECK(option_count(&o, "seed") == UINT64_MAX);
    CHECK(option_flag(&o, "no-mmap"));
    CHECK(option_given(&o, "beta") && !option_given(&o, "order"));
    CHECK(option_is(&o, "order", "shuffle"));
    CHECK(!option_exists(&o, "rank"));
    CHECK(o.operand == NULL);
}

static void reads_lists(void)
{
    char word[16];
    double x = 0;
    CHECK(parse("-m dir --loss sigmoid,ipo --loss-weights 1,0.25") == 0);
    CHECK(option_word(&o, "loss", 0, word, sizeof word));
    CHECK_TEXT(word, "sigmoid");
    CHECK(option_word(&o, "loss", 1, word, sizeof word));
    CHECK_TEXT(word, "ipo");
    CHECK(!option_word(&o, "loss", 2, word, sizeof word));
    CHECK(option_list_number(&o, "loss-weights", 1, &x) && x == 0.25);
    CHECK(!option_list_number(&o, "loss-weights", 2, &x));
    CHECK(parse("-m dir") == 0);
    CHECK(!option_list_number(&o, "loss-weights", 0, &x));
    refused("--loss sigmoid,ipp", "--loss", "\"ipp\"", "nearest: ipo");
    refused("--loss sigmoid,", "--loss", "\"\"", NULL);
    refused("--loss-weights 1,,2", "--loss-weights", "[0,inf)", NULL);
}

static void reads_sizes(void)
{
    CHECK(parse("-m dir --memory 512M") == 0);
    CHECK(option_count(&o, "memory") == 512ull << 20);
    CHECK(parse("-m dir --memory 1.5G") == 0);
    CHECK(option_count(&o, "memory") == 3ull << 29);
    CHECK(parse("-m dir --memory 1048576") == 0);
    CHECK(option_count(&o, "memory") == 1ull << 20);
    CHECK(parse("-m dir --memory auto") == 0);
    CHECK(option_is(&o, "memory", "auto"));
    refused("--memory 4X", "--memory", "\"4X\"", "4G");
    refused("--memory -1G", "--memory", "\"-1G\"", NULL);
    refused("--memory 1K", "--memory", "[1M,inf)", NULL);
    refused("--memory 99999999999T", "--memory", "99999999999T", NULL);
}

static void ranges_have_open_and_closed_ends(void)
{
    CHECK(parse("-m dir --dropout 0") == 0);
    refused("--dropout 1", "--dropout", "\"1\"", "[0,1)");
    refused("--beta 0", "--beta", "(0,inf)", NULL);
    refused("--beta -1", "--beta", "\"-1\"", NULL);
    refused("--beta nan", "--beta", "\"nan\"", NULL);
    refused("--beta inf", "--beta", "\"inf\"", NULL);
    refused("--beta 1e999", "--beta", "1e999", NULL);
    refused("--beta abc", "--beta", "\"abc\"", "a number");
    refused("--beta 0.1x", "--beta", "0.1x", NULL);
    refused("--beta 0,1", "--beta", "0,1", NULL);
    refused("--threads 0", "--threads", "[1,1024]", NULL);
    refused("--threads -1", "--threads", "\"-1\"", "a whole number");
    refused("--threads 100000", "--threads", "100000", NULL);
    refused("--threads 1.5", "--threads", "1.5", NULL);
    CHECK(parse("-m dir --threads 1024") == 0);
    refused("--seed 18446744073709551616", "--seed", "18446744073709551616", NULL);
    refused("--order tlr", "--order", "shuffle|trl|file", "nearest: trl");
}

static void names_the_nearest(void)
{
    refused("--btea 1", "--btea", "nearest: beta", "align toy --help");
    refused("--order-by=x", "\"--order-by\"", "nearest: order", NULL);
    refused("--momery 1", "--momery", "nearest: memory", NULL);
}

static void nearest_counts_edits(void)
{
    const char *const words[] = {"beta", "batch", "alpha"};
    CHECK_TEXT(nearest_word("batc", words, 3), "batch");
    const char *const two_edits_or_a_swap[] = {"ebxx", "beta"};
    CHECK_TEXT(nearest_word("ebta", two_edits_or_a_swap, 2), "beta"); /* a swap is one edit */
    CHECK_TEXT(nearest_word("alphabet", words, 3), "alpha");
    CHECK_TEXT(nearest_word("", words, 3), "beta"); /* the shortest */
    CHECK(nearest_word("x", words, 0) == NULL);
}

static void values_may_begin_with_a_dash(void)
{
    CHECK(parse("-m dir -p -x~and~y") == 0);
    CHECK_TEXT(option_text(&o, "prompt"), "-x and y");
    CHECK(parse("-m dir --prompt=--beta") == 0);
    CHECK_TEXT(option_text(&o, "prompt"), "--beta");
    CHECK(parse("-m dir -p -5") == 0);
    CHECK_TEXT(option_text(&o, "prompt"), "-5");
    CHECK(parse("-m dir --prompt=") == 0);
    CHECK_TEXT(option_text(&o, "prompt"), "");
    CHECK(parse("-m dir -- -p") == 0);
    CHECK_TEXT(o.operand, "-p");
}

static void missing_things_are_named(void)
{
    CHECK(parse("--beta 1") == -1 && e.code == ERR_USAGE);
    CHECK(strstr(e.text, "--model") && strstr(e.text, "-m"));
    refused("--beta", "--beta", "missing", "(0,inf)");
    refused("--beta --order file", "--beta", "missing", "--order");
    refused("-p -m", "--prompt", "missing", "-m");
    CHECK(parse("-m") == -1 && strstr(e.text, "--model: its value is missing"));
    CHECK(parse("-m dir --model=") == -1 && strstr(e.text, "a directory"));
    refused("run one-too-many", "one-too-many", "[RUN]", NULL);
    refused("-x", "\"-x\"", "unknown", NULL);
    refused("--no-mmap=maybe", "--no-mmap", "true or false", "maybe");
}

static void the_last_of_two_counts(void)
{
    CHECK(parse("-m dir --beta 1 --beta 2") == 0);
    CHECK(option_number(&o, "beta") == 2);
    CHECK(strstr(note, "w --beta is given twice") != NULL);
    CHECK(parse("-m dir --beta 2") == 0);
    CHECK_TEXT(note, "");
}

static void help_needs_nothing_else(void)
{
    CHECK(parse("--help") == 0 && o.help);
    CHECK(parse("-h") == 0 && o.help);
    CHECK(parse("-m dir") == 0 && !o.help);
}

/* Writes text to a file and parses with --config; extra = further arguments. */
static int parse_file(const char *text, const char *extra)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/tmp/align-test-options-%ld.json", (long)getpid());
    if (io_write_file(path, text, strlen(text), &e)) return -2;
    snprintf(line, sizeof line, "--config %s%s%s", path, *extra ? " " : "", extra);
    int status = parse(line);
    remove(path);
    return status;
}

static void a_file_supplies_any_option(void)
{
    CHECK(
        parse_file("{\"command\": \"toy\", \"model\": \"dir\", \"beta\": 0.25, \"threads\": 4.0,"
                   "\"loss\": [\"ipo\", \"hinge\"], \"loss-weights\": [1, 2.5], \"no-mmap\": true,"
                   "\"order\": \"file\", \"prompt\": null, \"memory\": \"2G\"}",
                   "--beta 0.5 --no-mmap=false") == 0);
    CHECK(option_number(&o, "beta") == 0.5); /* the flag beats the file */
    CHECK(!option_flag(&o, "no-mmap"));
    CHECK(option_count(&o, "threads") == 4);
    CHECK_TEXT(option_text(&o, "loss"), "ipo,hinge");
    CHECK_TEXT(option_text(&o, "loss-weights"), "1,2.5");
    CHECK(option_text(&o, "prompt") == NULL);
    CHECK(option_count(&o, "memory") == 2ull << 30);
    CHECK(option_is(&o, "order", "file"));
}

static void file_refused(const char *text, int code, const char *a, const char *b)
{
    CHECK(parse_file(text, "-m dir") == -1);
    CHECK(e.code == code);
    int names = strstr(e.text, a) && (!b || strstr(e.text, b));
    if (!names) printf("%s gave: %s\n", text, e.text);
    CHECK(names);
}

static void faults_of_a_file_are_named(void)
{
    file_refused("{\"btea\": 1}", ERR_USAGE, "unknown key \"btea\"", "nearest: beta");
    file_refused("{\"beta\": -1}", ERR_USAGE, "\"beta\"", "(0,inf)");
    file_refused("{\"beta\": true}", ERR_USAGE, "\"beta\"", "a number");
    file_refused("{\"no-mmap\": 1}", ERR_USAGE, "\"no-mmap\"", "true or false");
    file_refused("{\"beta\": [1]}", ERR_USAGE, "\"beta\"", "not an array");
    file_refused("{\"loss\": [[]]}", ERR_USAGE, "\"loss\"", "elements");
    file_refused("{\"seed\": 1.5}", ERR_USAGE, "\"seed\"", "1.5");
    file_refused("{\"prompt\": \"a\\u0000b\"}", ERR_USAGE, "\"prompt\"", "0 byte");
    file_refused("{\"config\": \"x\"}", ERR_USAGE, "unknown key \"config\"", NULL);
    file_refused("{\"command\": \"kto\"}", ERR_USAGE, "kto", "align toy");
    file_refused("[1]", ERR_DATA, "JSON object", NULL);
    file_refused("{\"beta\": 1", ERR_DATA, "options", NULL);
    file_refused("{\"beta\": 1, \"beta\": 2}", ERR_DATA, "beta", NULL);
    CHECK(parse("--config /tmp/align-no-such-file.json -m dir") == -1);
    CHECK(e.code == ERR_NO_INPUT);
}

static void the_resolved_configuration_reads_back(void)
{
    Text first = {0}, second = {0};
    CHECK(parse("-m dir --loss hinge,ipo --loss-weights 0.5,2 --beta 1e-3 --no-mmap -s 7") == 0);
    CHECK(options_json(&o, &first, &e) == 0);
    CHECK(strstr(first.data, "\"loss\": [\"hinge\", \"ipo\"]") != NULL);
    CHECK(strstr(first.data, "\"beta\": 0.001") != NULL);
    CHECK(strstr(first.data, "\"prompt\": null") != NULL);
    CHECK(parse_file(first.data, "") == 0);
    CHECK(options_json(&o, &second, &e) == 0);
    CHECK_TEXT(second.data, first.data);
    text_free(&first);
    text_free(&second);
}

static void describes_what_was_given_first(void)
{
    Text out = {0};
    CHECK(parse("--order file -m my~dir") == 0);
    CHECK(options_describe(&o, 40, &out, &e) == 0);
    CHECK(!strncmp(out.data, "model=\"my dir\" order=file", 25));
    for (const char *line = out.data; *line;) {
        size_t n = strcspn(line, "\n");
        CHECK(n <= 40);
        line += n + 1;
    }
    text_free(&out);
}

static void help_shows_every_row_with_its_default(void)
{
    Text out = {0};
    CHECK(options_help(&table, &out, &e) == 0);
    const Option *row;
    for (size_t i = 0; (row = options_row(&table, i)); i++) {
        char name[64];
        snprintf(name, sizeof name, "--%s", row->name);
        CHECK(strstr(out.data, name) != NULL);
    }
    CHECK(strstr(out.data, "default 0.1") && strstr(out.data, "[1,1024] | auto"));
    CHECK(strstr(out.data, "--config FILE") && strstr(out.data, "-m, --model DIR"));
    CHECK(strstr(out.data, "required"));
    text_free(&out);
}

static void markdown_joins_commands_that_share_a_row(void)
{
    static const OptionGroup *const fewer[] = {&model_group, NULL};
    static const OptionTable small = {"tiny", "a smaller table", NULL, NULL, fewer};
    const OptionTable *const tables[] = {&table, &small};
    Text out = {0};
    CHECK(options_markdown(tables, 2, &out, &e) == 0);
    CHECK(
        strstr(out.data, "| `--model`, `-m` | toy tiny | DIR | (required) | model directory |\n"));
    CHECK(strstr(out.data, "| `--dropout` | toy | `[0,1)` | `0` | share of dropped inputs |\n"));
    const char *first = strstr(out.data, "`--model`");
    CHECK(first && !strstr(first + 1, "`--model`"));
    text_free(&out);
}

static void freeing_twice_is_harmless(void)
{
    Text out = {0};
    CHECK(parse("-m dir") == 0);
    CHECK(options_json(&o, &out, NULL) == 0); /* Err may be NULL */
    text_free(&out);
    options_free(&o);
    options_free(&o); /* twice is harmless */
}

const Test tests[] = {
    {"reads_every_form", reads_every_form},
    {"reads_lists", reads_lists},
    {"reads_sizes", reads_sizes},
    {"ranges_have_open_and_closed_ends", ranges_have_open_and_closed_ends},
    {"names_the_nearest", names_the_nearest},
    {"nearest_counts_edits", nearest_counts_edits},
    {"values_may_begin_with_a_dash", values_may_begin_with_a_dash},
    {"missing_things_are_named", missing_things_are_named},
    {"the_last_of_two_counts", the_last_of_two_counts},
    {"help_needs_nothing_else", help_needs_nothing_else},
    {"a_file_supplies_any_option", a_file_supplies_any_option},
    {"faults_of_a_file_are_named", faults_of_a_file_are_named},
    {"the_resolved_configuration_reads_back", the_resolved_configuration_reads_back},
    {"describes_what_was_given_first", describes_what_was_given_first},
    {"help_shows_every_row_with_its_default", help_shows_every_row_with_its_default},
    {"markdown_joins_commands_that_share_a_row", markdown_joins_commands_that_share_a_row},
    {"freeing_twice_is_harmless", freeing_twice_is_harmless},
};
TEST_MAIN(tests)
