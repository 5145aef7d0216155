/* test_options.c - the option machinery on a small table of its own: values, files, help, names. */
#include "options.h"

#include "io.h"
#include "json.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static const Option model_rows[] = {
    {"model", 'm', OPTION_DIR, option_required, NULL, "model directory", BY_NAME},
    {"no-mmap", 0, OPTION_FLAG, NULL, NULL, "read weights instead of mapping them", BY_NAME},
};
static const Option train_rows[] = {
    {"beta", 0, OPTION_NUMBER, "0.1", "(0,inf)", "strength of the pull to the reference", BY_NAME},
    {"dropout", 0, OPTION_NUMBER, "0", "[0,1)", "share of dropped inputs", BY_NAME},
    {"loss", 0, OPTION_WORDS, "sigmoid", "sigmoid|hinge|ipo", "losses, summed", BY_NAME},
    {"loss-weights", 0, OPTION_NUMBERS, NULL, "[0,inf)", "their weights", BY_NAME},
    {"threads", 't', OPTION_COUNT, "auto", "[1,1024]|auto", "threads", BY_NAME},
    {"seed", 's', OPTION_COUNT, "42", NULL, "seed of every draw", BY_NAME},
    {"memory", 0, OPTION_SIZE, "auto", "[1M,inf)|auto", "largest arena", BY_NAME},
    {"order", 0, OPTION_CHOICE, "shuffle", "shuffle|trl|file", "order of rows", BY_NAME},
    {"prompt", 'p', OPTION_TEXT, NULL, NULL, "a prompt", BY_NAME},
    {"stop", 0, OPTION_TEXTS, NULL, NULL, "what ends a text", BY_NAME},
};
static const OptionGroup model_group = OPTION_GROUP("Model", model_rows);
static const OptionGroup train_group = OPTION_GROUP("Training", train_rows);
static const OptionGroup *const groups[] = {&model_group, &train_group, NULL};
static const OptionTable table = {"toy", "a table to test with", "[RUN]", "align toy -m DIR",
                                  groups, NULL};

#define ARGS_MAX 16
static const OptionTable *chosen = &table;
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
    int status = options_parse(&o, chosen, argc, argv, &log, &e);
    return status || o.help ? status : options_check_when(&o, &log, &e);
}

/* Parses with -m given; the message must name every one of up to three things. */
static void refused(const char *line, const char *a, const char *b, const char *c)
{
    char all[512];
    snprintf(all, sizeof all, "-m dir %s", line);
    CHECK_INT(parse(all), -1);
    CHECK_INT(e.code, ERR_USAGE);
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
    CHECK_INT(option_count(&o, "threads"), 4);
    CHECK_INT(option_count(&o, "seed"), UINT64_MAX);
    CHECK(option_flag(&o, "no-mmap"));
    CHECK(option_given(&o, "beta") && !option_given(&o, "order"));
    CHECK(option_is(&o, "order", "shuffle"));
    CHECK(!option_exists(&o, "rank"));
    CHECK(o.operand == NULL);
}

static const char *const none_unset[] = {NULL};

static void reads_lists(void)
{
    char word[16];
    CHECK(parse("-m dir --loss sigmoid,ipo --loss-weights 1,0.25") == 0);
    CHECK(option_word(&o, "loss", 0, word, sizeof word));
    CHECK_TEXT(word, "sigmoid");
    CHECK(option_word(&o, "loss", 1, word, sizeof word));
    CHECK_TEXT(word, "ipo");
    CHECK(!option_word(&o, "loss", 2, word, sizeof word));
    CHECK_TEXT(option_text(&o, "loss-weights"), "1,0.25");
    CHECK_INT(parse("-m dir"), 0);
    refused("--loss sigmoid,ipp", "--loss", "\"ipp\"", "nearest: ipo");
    refused("--loss sigmoid,", "--loss", "\"\"", NULL);
    refused("--loss-weights 1,,2", "--loss-weights", "[0,inf)", NULL);
}

static void reads_sizes(void)
{
    CHECK_INT(parse("-m dir --memory 512M"), 0);
    CHECK_INT(option_count(&o, "memory"), 512ull << 20);
    CHECK(parse("-m dir --memory 1.5G") == 0);
    CHECK_INT(option_count(&o, "memory"), 3ull << 29);
    CHECK_INT(parse("-m dir --memory 1048576"), 0);
    CHECK_INT(option_count(&o, "memory"), 1ull << 20);
    CHECK_INT(parse("-m dir --memory auto"), 0);
    CHECK(option_is(&o, "memory", "auto"));
    refused("--memory 4X", "--memory", "\"4X\"", "4G");
    refused("--memory -1G", "--memory", "\"-1G\"", NULL);
    refused("--memory 1K", "--memory", "[1M,inf)", NULL);
    refused("--memory 99999999999T", "--memory", "99999999999T", NULL);
}

static void ranges_have_open_and_closed_ends(void)
{
    CHECK_INT(parse("-m dir --dropout 0"), 0);
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
    CHECK_INT(parse("-m dir --threads 1024"), 0);
    refused("--seed 18446744073709551616", "--seed", "18446744073709551616", NULL);
    refused("--order tlr", "--order", "shuffle|trl|file", "nearest: trl");
}

static void names_the_nearest(void)
{
    refused("--btea 1", "--btea", "nearest: beta", "align toy --help-all");
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
    CHECK_INT(parse("-m dir -p -x~and~y"), 0);
    CHECK_TEXT(option_text(&o, "prompt"), "-x and y");
    CHECK_INT(parse("-m dir --prompt=--beta"), 0);
    CHECK_TEXT(option_text(&o, "prompt"), "--beta");
    CHECK_INT(parse("-m dir -p -5"), 0);
    CHECK_TEXT(option_text(&o, "prompt"), "-5");
    CHECK_INT(parse("-m dir --prompt="), 0);
    CHECK_TEXT(option_text(&o, "prompt"), "");
    CHECK_INT(parse("-m dir -- -p"), 0);
    CHECK_TEXT(o.operand, "-p");
}

static void missing_things_are_named(void)
{
    CHECK_INT(parse("--beta 1"), -1);
    CHECK_INT(e.code, ERR_USAGE);
    CHECK_HAS(e.text, "--model");
    CHECK_HAS(e.text, "-m");
    refused("--beta", "--beta", "missing", "(0,inf)");
    refused("--beta --order file", "--beta", "missing", "--order");
    refused("-p -m", "--prompt", "missing", "-m");
    CHECK_INT(parse("-m"), -1);
    CHECK_HAS(e.text, "--model: its value is missing");
    CHECK_INT(parse("-m dir --model="), -1);
    CHECK_HAS(e.text, "a directory");
    refused("run one-too-many", "one-too-many", "[RUN]", NULL);
    refused("-x", "\"-x\"", "unknown", NULL);
    refused("--no-mmap=maybe", "--no-mmap", "true or false", "maybe");
}

static void the_last_of_two_counts(void)
{
    CHECK_INT(parse("-m dir --beta 1 --beta 2"), 0);
    CHECK(option_number(&o, "beta") == 2);
    CHECK_HAS(note, "w --beta is given twice");
    CHECK_INT(parse("-m dir --beta 2"), 0);
    CHECK_TEXT(note, "");
}

/* The command line with a --config that holds this. */
static int parse_with(const char *json, const char *line)
{
    char path[64], all[200];
    snprintf(path, sizeof path, "/tmp/align-test-options-%ld.json", (long)getpid());
    snprintf(all, sizeof all, "%s --config %s", line, path);
    if (io_write_file(path, json, strlen(json), &e)) return -2;
    int status = parse(all);
    unlink(path);
    return status;
}

/* The texts of an option that may be given several times; NULL if it was not given. */
static const char *const *texts_of(const char *name, size_t *n)
{
    *n = 0;
    for (size_t i = 0; i < o.count; i++)
        if (!strcmp(o.values[i].row->name, name)) {
            *n = o.values[i].n_texts;
            return o.values[i].texts;
        }
    return NULL;
}

/* All that are given, commas, quotes and all; in the resolved configuration they are a list, which
 * --config takes back. */
static void texts_add_up(void)
{
    size_t n;
    CHECK(parse("-m dir") == 0 && !texts_of("stop", &n) && n == 0);
    CHECK_INT(parse("-m dir --stop a,b --stop=\"~ --seed 1 --stop a,b"), 0);
    const char *const *texts = texts_of("stop", &n);
    CHECK_INT(n, 3);
    CHECK_TEXT(texts[0], "a,b");
    CHECK_TEXT(texts[1], "\" ");
    CHECK_TEXT(texts[2], "a,b");
    CHECK_TEXT(note, "");
    Text json = {0}, lines = {0};
    CHECK_OK(options_commented(&o, NULL, none_unset, &json, &e), &e);
    CHECK_OK(options_describe(&o, 80, &lines, &e), &e);
    CHECK_HAS(json.data, "\"stop\": [\"a,b\", \"\\\" \", \"a,b\"]");
    CHECK_HAS(lines.data, "stop=[\"a,b\", \"\\\" \", \"a,b\"]");
    CHECK_INT(parse_with("{\"stop\":[\"x\",\"y,z\"]}", "-m dir"), 0);
    texts = texts_of("stop", &n);
    CHECK_INT(n, 2);
    CHECK_TEXT(texts[1], "y,z");
    CHECK_INT(parse_with("{\"stop\":\"x\"}", "--stop q -m dir"), 0);
    CHECK_TEXT(texts_of("stop", &n)[0], "q");
    CHECK_INT(n, 1);
    CHECK_INT(parse_with("{\"stop\":[\"x\",7]}", "-m dir"), -1);
    CHECK_INT(e.code, ERR_USAGE);
    CHECK_INT(parse_with("{\"stop\":\"one, two\"}", "-m dir"), 0);
    CHECK_TEXT(texts_of("stop", &n)[0], "one, two");
    CHECK_INT(n, 1);
    CHECK_INT(parse("-m dir --stop="), -1);
    CHECK_INT(e.code, ERR_USAGE);
    CHECK_HAS(e.text, "not empty");
    text_free(&json);
    text_free(&lines);
}

static void help_needs_nothing_else(void)
{
    CHECK_INT(parse("--help"), 0);
    CHECK_INT(o.help, 1);
    CHECK_INT(parse("-h"), 0);
    CHECK_INT(o.help, 1);
    CHECK_INT(parse("--help-all"), 0);
    CHECK_INT(o.help, 2);
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
    CHECK_INT(option_count(&o, "threads"), 4);
    CHECK_TEXT(option_text(&o, "loss"), "ipo,hinge");
    CHECK_TEXT(option_text(&o, "loss-weights"), "1,2.5");
    CHECK(option_text(&o, "prompt") == NULL);
    CHECK_INT(option_count(&o, "memory"), 2ull << 30);
    CHECK(option_is(&o, "order", "file"));
}

/* ---- what another option's choice leaves unread ---------------------------------------------- */

static const Option kind_rows[] = {
    {"judge", 0, OPTION_CHOICE, "rules", "rules|self|model", "kind", BY_NAME},
    {"judges", 0, OPTION_WORDS, NULL, "rules|self|model", "kinds", BY_NAME},
    {"judge-model", 0, OPTION_DIR, NULL, NULL, "model", BY_NAME, .when = "judges/judge=model"},
    {"length", 0, OPTION_NUMBER, "4096", NULL, "length", BY_NAME,
     .when = "other:nothing judge=self|model"},
    {"full", 0, OPTION_FLAG, NULL, NULL, "all weights", BY_NAME},
    {"rank", 0, OPTION_COUNT, "16", NULL, "rank", BY_NAME, .when = "~!full !absent"},
    {"revise", 0, OPTION_FLAG, NULL, NULL, "revise", BY_NAME},
    {"instruction", 0, OPTION_TEXT, NULL, NULL, "how", BY_NAME, .when = "revise"},
    {"loss", 0, OPTION_WORDS, NULL, "kto|apo|tau", "loss", BY_NAME},
    {"pairing", 0, OPTION_CHOICE, "a", "a|b", "pairs", BY_NAME, .when = "loss!apo"},
    {"tau", 0, OPTION_NUMBER, "1", NULL, "tau", BY_NAME, .when = "loss=tau"},
    {"layers", 0, OPTION_COUNT, "2", NULL, "layers", BY_NAME, .when = "loss=tau|"},
    {"never", 0, OPTION_FLAG, NULL, NULL, "of others", BY_NAME, .when = "kinds:"},
    {"temperature", 0, OPTION_NUMBER, "1", NULL, "heat", BY_NAME},
    {"top-p", 0, OPTION_NUMBER, "1", NULL, "share", BY_NAME, .when = "~temperature!0"},
};
static const OptionGroup kind_group = OPTION_GROUP("Kinds", kind_rows);
static const OptionGroup *const kind_groups[] = {&kind_group, NULL};
static const OptionTable kinds = {"kinds", "kinds of things", NULL, NULL, kind_groups, NULL};

/* Parses with the table of kinds: "" if all is read, else the refusal or the warning. */
static const char *unread(const char *line)
{
    chosen = &kinds;
    int status = parse(line);
    chosen = &table;
    if (status) CHECK_INT(e.code, ERR_USAGE);
    return status ? e.text : note;
}

static void what_nothing_reads_is_refused(void)
{
    CHECK_TEXT(unread("--judge-model d"),
               "--judge-model: not read with --judge rules, allowed with --judge model");
    CHECK_TEXT(unread("--judge model --judge-model d"), "");
    CHECK_TEXT(unread("--judge model --judges rules,self --judge-model d"),
               "--judge-model: not read with --judges rules,self, allowed with --judges model");
    CHECK_TEXT(unread("--judges rules,model --judge-model d"), "");
    CHECK_TEXT(unread("--length 8"),
               "--length: not read with --judge rules, allowed with --judge self|model");
    CHECK_TEXT(unread("--length 4096.0"), ""); /* says what the default says */
    CHECK_TEXT(unread("--length 8 --judge self"), "");
    CHECK_TEXT(unread("--instruction x"), "--instruction: not read without --revise");
    CHECK_TEXT(unread("--instruction x --revise=false"),
               "--instruction: not read without --revise");
    CHECK_TEXT(unread("--instruction x --revise"), "");
    CHECK_TEXT(unread("--pairing b --loss kto,apo"), "--pairing: not read with --loss kto,apo");
    CHECK_TEXT(unread("--pairing b"), "");
    CHECK_TEXT(unread("--tau 2"), "--tau: not read without --loss tau");
    CHECK_TEXT(unread("--tau 2 --loss kto,tau"), "");
    CHECK_TEXT(unread("--layers 3"), "");
    CHECK_TEXT(unread("--layers 3 --loss kto"),
               "--layers: not read with --loss kto, allowed with --loss tau");
    CHECK_TEXT(unread("--never"), "--never: align kinds does not read it");
}

static void what_breaks_nothing_is_warned_of(void)
{
    CHECK_TEXT(unread("--rank 8 --full"), "w --rank: not read with --full");
    CHECK_TEXT(unread("--rank 8"), "");
    CHECK_TEXT(unread("--top-p 0.9 --temperature 0.0"),
               "w --top-p: not read with --temperature 0.0");
    CHECK_TEXT(unread("--top-p 0.9"), "");
    chosen = &kinds;
    CHECK_INT(parse_file("{\"judge-model\": \"d\", \"judge\": \"model\"}", "--judge self"), 0);
    CHECK_TEXT(note, "w --judge-model: not read with --judge self, allowed with --judge model");
    CHECK_INT(parse_file("{\"length\": 4096, \"rank\": 16}", "--full"), 0);
    CHECK_TEXT(note, "");
    CHECK_INT(options_only(&o, "full config", "full", &e), 0); /* those of the file do not count */
    CHECK_INT(parse("--judge self --rank 8 --full"), 0);
    CHECK_INT(options_only(&o, "judge full", "full", &e), -1);
    CHECK_TEXT(e.text, "--rank: not read with --full");
    CHECK_INT(option_says(&o, "rank"), 2);
    CHECK_INT(option_says(&o, "length"), 0);
    chosen = &table;
}

static void file_refused(const char *text, int code, const char *a, const char *b)
{
    CHECK_INT(parse_file(text, "-m dir"), -1);
    CHECK_INT(e.code, code);
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
    file_refused("{\"config\": \"x\"}", ERR_USAGE, "names no other", NULL);
    file_refused("{\"help\": true}", ERR_USAGE, "unknown key \"help\"", "align toy --help");
    file_refused("{\"help-all\": true}", ERR_USAGE, "\"help-all\"", "align toy --help-all");
    file_refused("{\"run\": \"x\"}", ERR_USAGE, "unknown key \"run\"", "align toy [RUN]");
    file_refused("{\"m\": \"x\"}", ERR_USAGE, "unknown key \"m\"", "nearest: model");
    file_refused("{\"helpp\": 1}", ERR_USAGE, "unknown key \"helpp\"", "nearest: beta");
    file_refused("{\"command\": \"kto\"}", ERR_USAGE, "kto", "align toy");
    file_refused("[1]", ERR_DATA, "JSON object", NULL);
    file_refused("{\"beta\": 1", ERR_DATA, "options", NULL);
    file_refused("{\"beta\": 1, \"beta\": 2}", ERR_DATA, "beta", NULL);
    CHECK_INT(parse("--config /tmp/align-no-such-file.json -m dir"), -1);
    CHECK_INT(e.code, ERR_NO_INPUT);
}

static void the_resolved_configuration_reads_back(void)
{
    Text first = {0}, second = {0};
    CHECK(parse("-m dir --loss hinge,ipo --loss-weights 0.5,2 --beta 1e-3 --no-mmap -s 7") == 0);
    CHECK_OK(options_commented(&o, NULL, none_unset, &first, &e), &e);
    CHECK_HAS(first.data, "\"loss\": [\"hinge\", \"ipo\"]");
    CHECK_HAS(first.data, "\"beta\": 0.001");
    CHECK_HAS(first.data, "\"prompt\": null");
    CHECK_INT(parse_file(first.data, ""), 0);
    CHECK_OK(options_commented(&o, NULL, none_unset, &second, &e), &e);
    CHECK_TEXT(second.data, first.data);
    text_free(&first);
    text_free(&second);
}

/* A default that says something else when it is given stays out of the printed configuration. */
static void commented_defaults_can_stay_unset(void)
{
    static const char *const unset[] = {"beta", "loss", NULL};
    Text out = {0};
    CHECK_INT(parse("-m dir --loss ipo"), 0);
    CHECK_OK(options_commented(&o, NULL, unset, &out, &e), &e);
    CHECK_HAS(out.data, "\"loss\": [\"ipo\"]");
    CHECK_HAS(out.data, "\"beta\": null");
    CHECK_INT(parse_file(out.data, ""), 0);
    CHECK(option_given(&o, "loss") && !option_given(&o, "beta"));
    text_free(&out);
}

static void describes_what_was_given_first(void)
{
    Text out = {0};
    CHECK_INT(parse("--order file -m my~dir"), 0);
    CHECK_OK(options_describe(&o, 40, &out, &e), &e);
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
    CHECK_OK(options_help(&table, 1, &out, &e), &e);
    const Option *row;
    for (size_t i = 0; (row = options_row(&table, i)); i++) {
        char name[64];
        snprintf(name, sizeof name, "--%s", row->name);
        CHECK_HAS(out.data, name);
    }
    CHECK_HAS(out.data, "default 0.1");
    CHECK_HAS(out.data, "[1,1024] | auto");
    CHECK_HAS(out.data, "--config FILE");
    CHECK_HAS(out.data, "-m, --model DIR");
    CHECK_HAS(out.data, "required");
    text_free(&out);
}

static void help_shows_first_what_the_table_names_in_its_order(void)
{
    OptionTable short_table = table;
    Text out = {0};
    short_table.first = "seed model beta";
    CHECK_OK(options_help(&short_table, 0, &out, &e), &e);
    const char *seed = strstr(out.data, "-s, --seed N"), *model = strstr(out.data, "--model DIR");
    const char *beta = strstr(out.data, "--beta X"), *config = strstr(out.data, "--config FILE");
    CHECK(seed && model && beta && config && seed < model && model < beta && beta < config);
    CHECK(!strstr(out.data, "--dropout") && !strstr(out.data, "Training:"));
    CHECK_HAS(out.data, "\nalign toy --help-all shows the others, in groups.\n");
    out.len = 0;
    CHECK_OK(options_help(&short_table, 1, &out, &e), &e);
    CHECK_HAS(out.data, "--dropout");
    CHECK_HAS(out.data, "Training:");
    CHECK(!strstr(out.data, "shows the others"));
    text_free(&out);
}

static void markdown_joins_commands_that_share_a_row(void)
{
    static const OptionGroup *const fewer[] = {&model_group, NULL};
    static const OptionTable small = {"tiny", "a smaller table", NULL, NULL, fewer, NULL};
    const OptionTable *const tables[] = {&table, &small};
    Text out = {0};
    CHECK_OK(options_markdown(tables, 2, &out, &e), &e);
    CHECK_HAS(out.data, "| `--model`, `-m` | toy tiny | DIR | (required) | model directory |\n");
    CHECK_HAS(out.data, "| `--dropout` | toy | `[0,1)` | `0` | share of dropped inputs |\n");
    const char *first = strstr(out.data, "`--model`");
    CHECK(first && !strstr(first + 1, "`--model`"));
    text_free(&out);
    /* Another row of the same name stands beside it, once. */
    static const Option again_rows[] = {{"dropout", 0, OPTION_FLAG, NULL, NULL, "something else",
     BY_NAME}};
    static const OptionGroup again_group = OPTION_GROUP("Again", again_rows);
    static const OptionGroup *const again_groups[] = {&again_group, NULL};
    static const OptionTable again = {"again", "one more", NULL, NULL, again_groups, NULL};
    const OptionTable *const more[] = {&table, &again};
    CHECK_OK(options_markdown(more, 2, &out, &e), &e);
    first = strstr(out.data, "inputs |\n| `--dropout` | again |  |  | something else |\n");
    CHECK(first && !strstr(first + strlen("inputs |\n| `--dropout`"), "`--dropout`"));
    text_free(&out);
}

static void man_page_escapes_and_names_takers(void)
{
    static const Option odd_rows[] = {
        {"odd", 'x', OPTION_TEXT, NULL, NULL, ".begins like a command, has a \\ and a -", BY_NAME}};
    static const OptionGroup odd_group = OPTION_GROUP("Odd", odd_rows);
    static const OptionGroup *const odd_groups[] = {&model_group, &odd_group, NULL};
    static const OptionTable odd = {"odd", "a - table", "PATH", "align odd 'x'", odd_groups, NULL};
    const OptionTable *const tables[] = {&table, &odd};
    Text out = {0};
    CHECK_OK(options_man(tables, 2, &out, &e), &e);
    CHECK_HAS(out.data, "\n\\fBalign odd\\fR PATH [\\fIoptions\\fR]\na \\- table\n");
    CHECK_HAS(out.data, "\n.EX\nalign odd 'x'\n.EE\n");
    CHECK(strstr(out.data, "\n.TP\n\\fB\\-x\\fR, \\fB\\-\\-odd\\fR \\fITEXT\\fR\n"
                           "\\&.begins like a command, has a \\e and a \\-\n"
                           ".br\nTaken by odd.\n") != NULL);
    const char *model = strstr(out.data, "\\-\\-model\\fR \\fIDIR\\fR\n"); /* once, of both */
    CHECK(model && strstr(model, "Taken by toy, odd.") && !strstr(model + 1, "\\-\\-model\\fR"));
    text_free(&out);
}

static void completion_has_words_but_no_ranges(void)
{
    const OptionTable *const tables[] = {&table};
    Text out = {0};
    CHECK_OK(options_completion(tables, 1, "help", &out, &e), &e);
    CHECK_HAS(out.data, "compgen -W 'help toy'");
    CHECK_HAS(out.data, "--model | -m) kind=dir words='' ;;\n");
    CHECK_HAS(out.data, "--dropout) kind=word words='' ;;\n");
    CHECK_HAS(out.data, "--threads | -t) kind=word words=' auto' ;;\n");
    text_free(&out);
}

static void json_has_a_line_for_each_command_and_option(void)
{
    static const OptionGroup *const fewer[] = {&model_group, NULL};
    static const OptionTable small = {"tiny", "a smaller table", NULL, NULL, fewer, NULL};
    const OptionTable *const tables[] = {&table, &small};
    Text out = {0};
    CHECK_OK(options_table_json(tables, 2, &out, &e), &e);
    CHECK(strstr(out.data, "\n{\"command\":\"toy\",\"option\":\"dropout\",\"type\":\"number\","
                           "\"allowed\":\"[0,1)\",\"default\":\"0\",\"required\":false,"
                           "\"when\":null,\"meaning\":\"share of dropped inputs\"},\n"));
    CHECK(strstr(out.data, "\n{\"command\":\"tiny\",\"option\":\"model\",\"type\":\"dir\","
                           "\"allowed\":null,\"default\":null,\"required\":true,"));
    CHECK_HAS(out.data, "\"option\":\"no-mmap\",\"type\":\"flag\",\"allowed\":null,");
    Pool pool = {0};
    const Json *root = json_parse(&pool, out.data, out.len, "table", 0, &e);
    CHECK(root && root->type == JSON_ARRAY && root->len > 12);
    /* Each type has its name. */
    static const struct {
        const char *option, *type;
    } types[] = {{"prompt", "text"},   {"model", "dir"},   {"seed", "count"}, {"beta", "number"},
                 {"memory", "size"},   {"order", "choice"}, {"loss", "words"},
                 {"loss-weights", "numbers"}};
    char both[64];
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        snprintf(both, sizeof both, "\"option\":\"%s\",\"type\":\"%s\"", types[i].option,
                 types[i].type);
        CHECK_HAS(out.data, both);
    }
    pool_free(&pool);
    text_free(&out);
}

/* ---- fields -------------------------------------------------------------------------------- */

typedef enum { COLOUR_RED, COLOUR_GREEN, COLOUR_BLUE } Colour;
static const char *colour_name(size_t i)
{
    static const char *const names[] = {"red", "green", "blue", NULL};
    return names[i];
}

typedef struct {
    int loud, automatic;
    double rate, weight;
    size_t count;
    uint64_t seed;
    Colour colour;
    const char *path, *kernel;
    const char *const *texts;
    size_t n_texts;
    struct {
        unsigned bits; /* "red,blue" */
    } inner;
} Settings;

static void read_bits(void *field, const char *text)
{
    unsigned bits = 0;
    const char *name;
    for (size_t i = 0; (name = colour_name(i)); i++) bits |= strstr(text, name) ? 1u << i : 0;
    *(unsigned *)field = bits;
}

static int show_bits(const void *field, Text *out, Err *err)
{
    const char *name;
    int n = 0;
    for (size_t i = 0; (name = colour_name(i)); i++)
        if ((*(const unsigned *)field >> i & 1) &&
            text_addf(out, err, "%s%s", n++ ? "," : "", name))
            return -1;
    return 0;
}

static const OptionForm bits_form = {read_bits, show_bits};
static const Option field_rows[] = {
    {"loud", 0, OPTION_FLAG, NULL, NULL, "a flag", FIELD(Settings, loud)},
    {"rate", 0, OPTION_NUMBER, "auto", "(0,10]|auto", "0 = auto", FIELD(Settings, rate), .free = 1},
    {"weight", 0, OPTION_NUMBER, "1", "[0,inf)|auto", "an int beside it says auto",
     FIELD(Settings, weight), .beside = offsetof(Settings, automatic)},
    {"count", 0, OPTION_COUNT, "3", "[1,9]", "a whole number", FIELD(Settings, count),
     .key = "number"},
    {"seed", 0, OPTION_COUNT, "42", NULL, "64 bits", FIELD(Settings, seed)},
    {"colour", 0, OPTION_CHOICE, "green", "none", "an enum", FIELD(Settings, colour),
     .words = colour_name},
    {"path", 0, OPTION_FILE, NULL, NULL, "a text", FIELD(Settings, path)},
    {"kernel", 0, OPTION_CHOICE, "fast", "fast|slow", "a word as text", FIELD(Settings, kernel)},
    {"texts", 0, OPTION_TEXTS, NULL, NULL, "several", FIELD(Settings, texts),
     .beside = offsetof(Settings, n_texts)},
    {"bits", 0, OPTION_WORDS, "red", NULL, "a form", FORM(Settings, inner.bits, bits_form),
     .words = colour_name},
    {"asked", 0, OPTION_TEXT, "x", NULL, "no field", BY_NAME},
};
static const OptionGroup field_group = OPTION_GROUP("Fields", field_rows);
static const OptionGroup *const field_groups[] = {&field_group, NULL};
static const OptionTable field_table = {"fields", "settings", NULL, NULL, field_groups, NULL};

static Options fields;
static Settings filled(size_t n, const char *const *argv)
{
    Log silent = {NULL, NULL};
    Settings s = {0};
    options_free(&fields);
    options_defaults(&field_group, &s);
    CHECK_OK(options_parse(&fields, &field_table, (int)n, argv, &silent, &e), &e);
    options_fill(&fields, &field_group, &s);
    return s;
}
#define FILLED(...)                                                                                \
    filled(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (const char *[]){__VA_ARGS__})

static void rows_fill_their_fields(void)
{
    Settings s = FILLED("--loud=false");
    CHECK(!s.loud && s.rate == 0 && s.weight == 1 && !s.automatic && s.count == 3 && s.seed == 42);
    CHECK(s.colour == COLOUR_GREEN && !s.path && !strcmp(s.kernel, "fast") && !s.n_texts);
    CHECK_INT(s.inner.bits, 1);
    s = FILLED("--loud", "--rate", "0.5", "--weight", "auto", "--count=9", "--seed",
               "18446744073709551615", "--colour", "blue", "--path", "a b", "--kernel", "slow",
               "--texts", "x", "--texts", "y", "--bits", "red,blue");
    CHECK(s.loud == 1 && s.rate == 0.5 && s.weight == 1 && s.automatic && s.count == 9);
    CHECK_INT(s.seed, UINT64_MAX);
    CHECK_INT(s.colour, COLOUR_BLUE);
    CHECK_TEXT(s.path, "a b");
    CHECK_TEXT(s.kernel, "slow");
    CHECK_INT(s.n_texts, 2);
    CHECK_TEXT(s.texts[1], "y");
    CHECK_INT(s.inner.bits, 5);
    s = FILLED("--colour", "none", "--weight", "2");
    CHECK(s.colour == 0 && s.weight == 2 && !s.automatic);
    options_free(&fields);
}

static void words_of_a_room_stand_before_others(void)
{
    char allowed[ALLOWED_MAX];
    CHECK_TEXT(option_allowed(&field_rows[5], allowed), "red|green|blue|none");
    CHECK_TEXT(option_allowed(&field_rows[9], allowed), "red|green|blue");
    CHECK_TEXT(option_allowed(&field_rows[4], allowed), "");
    CHECK_INT(option_place(colour_name, "blue"), 2);
    CHECK_INT(option_place(colour_name, "none"), -1);
    const char *argv[] = {"--colour", "blu"};
    Options parsed;
    CHECK(options_parse(&parsed, &field_table, 2, argv, NULL, &e) && e.code == ERR_USAGE);
    CHECK_HAS(e.text,
              "--colour: found \"blu\", allowed is one of red|green|blue|none; " "nearest: blue");
    options_free(&parsed);
}

static void fields_out_of_range_are_refused(void)
{
    Settings good = {0}, s;
    options_defaults(&field_group, &good);
    CHECK_OK(options_check(&field_group, &good, &e), &e);
#define REFUSED(field, bad, part)                                                                  \
    (s = good, s.field = (bad), options_check(&field_group, &s, &e) && e.code == ERR_USAGE &&      \
                                    strstr(e.text, part))
    CHECK(REFUSED(rate, 11, "--rate: found \"11\", allowed is a number (0,10]|auto"));
    CHECK(REFUSED(rate, -1, "--rate") && REFUSED(rate, (double)NAN, "--rate"));
    CHECK(REFUSED(weight, -1, "--weight") && REFUSED(weight, (double)INFINITY, "--weight"));
    CHECK(REFUSED(count, 0, "--count: found \"0\"") && REFUSED(count, 10, "--count"));
    s = good, s.weight = -1, s.automatic = 1; /* nobody reads the number */
    CHECK_OK(options_check(&field_group, &s, &e), &e);
}

static void fields_are_written_as_json(void)
{
    Text out = {0};
    Settings s = FILLED("--texts", "x", "--texts", "\"", "--rate", "0.1", "--bits", "blue,red");
    CHECK(!text_add(&out, "{", 1, &e) &&
          !options_write(&field_group, &s, "count loud path colour rate", WRITE_LINES, &out, &e));
    CHECK_TEXT(out.data, "{\n  \"number\": 3,\n  \"loud\": false,\n  \"colour\": \"green\",\n"
                         "  \"rate\": 0.1");
    out.len = 1;
    const int how = WRITE_INLINE | WRITE_NULLS | WRITE_BITS;
    CHECK_OK(options_write(&field_group, &s, NULL, how, &out, &e), &e);
    CHECK_TEXT(out.data, "{\"loud\": 0, \"rate\": 0.1, \"weight\": 1, \"number\": 3, "
                         "\"seed\": 42, \"colour\": \"green\", \"path\": null, "
                         "\"kernel\": \"fast\", \"texts\": [\"x\", \"\\\"\"], "
                         "\"bits\": \"red,blue\"");
    CHECK(options_free_key(&field_group, "rate") && !options_free_key(&field_group, "number"));
    options_free(&fields);
    text_free(&out);
}

static void freeing_twice_is_harmless(void)
{
    Text out = {0};
    CHECK_INT(parse("-m dir"), 0);
    CHECK_INT(options_commented(&o, NULL, none_unset, &out, NULL), 0); /* Err may be NULL */
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
    {"texts_add_up", texts_add_up},
    {"help_needs_nothing_else", help_needs_nothing_else},
    {"a_file_supplies_any_option", a_file_supplies_any_option},
    TEST(what_nothing_reads_is_refused),
    TEST(what_breaks_nothing_is_warned_of),
    {"faults_of_a_file_are_named", faults_of_a_file_are_named},
    {"the_resolved_configuration_reads_back", the_resolved_configuration_reads_back},
    {"commented_defaults_can_stay_unset", commented_defaults_can_stay_unset},
    {"describes_what_was_given_first", describes_what_was_given_first},
    {"help_shows_every_row_with_its_default", help_shows_every_row_with_its_default},
    TEST(help_shows_first_what_the_table_names_in_its_order),
    {"markdown_joins_commands_that_share_a_row", markdown_joins_commands_that_share_a_row},
    TEST(man_page_escapes_and_names_takers),
    TEST(completion_has_words_but_no_ranges),
    {"json_has_a_line_for_each_command_and_option", json_has_a_line_for_each_command_and_option},
    TEST(rows_fill_their_fields),
    TEST(words_of_a_room_stand_before_others),
    TEST(fields_out_of_range_are_refused),
    TEST(fields_are_written_as_json),
    {"freeing_twice_is_harmless", freeing_twice_is_harmless},
};
TEST_MAIN(tests)
