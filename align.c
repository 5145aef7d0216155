/* align.c - the main program: signals, the list of commands, help, and the only exit.
 *
 * Exit codes are those of base.h. The last line of stderr says what went wrong:
 *     align COMMAND: what, where, found, allowed
 */
#include "align.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* In the order in which a newcomer meets them. */
static const Command *const commands[] = {
    &command_generate, &command_chat,  &command_score,    &command_sft,     &command_dpo,
    &command_kto,      &command_judge, &command_evaluate, &command_gate,    &command_cycle,
    &command_explain,  &command_merge, &command_export,   &command_inspect, &command_tokenize,
    &command_selftest, &command_bench, &command_report,
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

/* Exit status after a second Ctrl-C: 128 + SIGINT, as in shells. */
#define EXIT_TWICE 130

/* ---- signals ------------------------------------------------------------------------------- */

/* The message of the SIGBUS handler, made beforehand because a handler must not format. */
static char bus_message[128];

static void on_stop(int signal_number)
{
    (void)signal_number;
    if (stop_requested) {
        io_drop_temporaries();
        _exit(EXIT_TWICE);
    }
    stop_requested = 1;
}

/* Handles SIGBUS: a page of a mapped file could not be read. */
static void on_bus(int signal_number)
{
    (void)signal_number;
    ssize_t ignored = write(STDERR_FILENO, bus_message, strlen(bus_message));
    (void)ignored;
    io_drop_temporaries();
    _exit(ERR_IO);
}

static void handle(int signal_number, void (*handler)(int))
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler; /* no SA_RESTART: a chat waiting for input must notice Ctrl-C */
    sigaction(signal_number, &action, NULL);
}

/* Installs the handlers: Ctrl-C, kill and a closed terminal request a stop; a closed pipe and a
 * full quota become errors of write. */
static void handle_signals(const OptionTable *t)
{
    const Option *row;
    int has = 0; /* can this command read files instead? */
    for (size_t i = 0; t && (row = options_row(t, i)); i++) has |= !strcmp(row->name, "no-mmap");
    snprintf(bus_message, sizeof bus_message,
             "align %s: file changed or disk error: a mapped file can no longer be read%s\n",
             t ? t->command : "", has ? " (--no-mmap reads it first)" : "");
    handle(SIGINT, on_stop);
    handle(SIGTERM, on_stop);
    handle(SIGHUP, on_stop);
    handle(SIGBUS, on_bus);
    handle(SIGPIPE, SIG_IGN);
    handle(SIGXFSZ, SIG_IGN);
}

/* ---- threads ------------------------------------------------------------------------------- */

/* OpenMP's threads spin while they wait, which is ruinous if processors are shared with other work:
 * 60 DPO steps of a model of 0.7 million parameters took 95 s on 2 busy processors, and 1.2 s with
 * threads that sleep. The library reads this choice from the environment before main begins, so the
 * program must start a second time to set it; a choice of the user is kept. */
#ifdef _OPENMP
static void let_threads_sleep(char **argv)
{
    static const char *const choices[] = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        if (getenv(choices[i])) return;
    if (!setenv(choices[0], "passive", 1))
        execv("/proc/self/exe", argv); /* returns only without /proc: then threads spin */
}
#else
static void let_threads_sleep(char **argv)
{
    (void)argv;
}
#endif

/* ---- help ---------------------------------------------------------------------------------- */

static int print_help(Err *e)
{
    Text t = {0};
    int status = text_addf(&t, e,
                           "align %s - finds where a language model complies with unsafe requests "
                           "or refuses\nharmless ones, and corrects it with DPO and KTO.\n\n"
                           "usage: align COMMAND [options]\n\ncommands:\n",
                           ALIGN_VERSION);
    for (size_t i = 0; i < N_COMMANDS && !status; i++)
        status = text_addf(&t, e, "  %-10s %s\n", commands[i]->table->command,
                           commands[i]->table->summary);
    if (!status)
        status = text_addf(&t, e,
                           "\nalign COMMAND --help  the options that matter most; "
                           "--help-all: every one\n"
                           "align --options       the options of all commands, a table; "
                           "--json for programs\n"
                           "align --man           manual page (align --man >align.1)\n"
                           "align --completion    completion for bash\n"
                           "align --version       version\n");
    if (status) {
        text_free(&t);
        return -1;
    }
    return print_text(&t, e);
}

static int put_option_table(const OptionTable *const *tables, Text *t, Err *e)
{
    return options_markdown(tables, N_COMMANDS, t, e);
}

static int put_option_json(const OptionTable *const *tables, Text *t, Err *e)
{
    return options_table_json(tables, N_COMMANDS, t, e);
}

static int put_completion(const OptionTable *const *tables, Text *t, Err *e)
{
    return options_completion(tables, N_COMMANDS, "help --help --version", t, e);
}

static int put_man(const OptionTable *const *tables, Text *t, Err *e)
{
    return text_addf(t, e,
                     ".TH ALIGN 1 \"\" \"align %s\" \"User Commands\"\n"
                     ".SH NAME\n"
                     "align \\- align a language model with DPO and KTO, in cycles\n"
                     ".SH SYNOPSIS\n"
                     "\\fBalign\\fR \\fICOMMAND\\fR [\\fIoptions\\fR]\n"
                     ".SH DESCRIPTION\n"
                     "Finds where a deployed language model complies with unsafe requests or "
                     "refuses harmless\nones, and corrects it with preference optimisation, on "
                     "the machine that is there.\n"
                     "Results go to standard output, notes and progress to standard error.\n",
                     ALIGN_VERSION) ||
                   options_man(tables, N_COMMANDS, t, e) ||
                   text_addf(t, e,
                             ".SH EXIT STATUS\n"
                             "0 done; 1 a check ran and failed; 64 wrong option or value; 65 wrong "
                             "content of a file;\n66 an input is missing; 70 a fault of the "
                             "program itself; 71 out of memory;\n73 an output cannot be created; "
                             "74 reading or writing failed;\n75 interrupted, \\-\\-resume goes "
                             "on; 76 training diverged; 130 a second Ctrl\\-C.\n"
                             "The last line of standard error says what went wrong.\n")
               ? -1
               : 0;
}

/* Prints what is made from the tables of all commands. */
static int print_tables(int (*put)(const OptionTable *const *, Text *, Err *), Err *e)
{
    const OptionTable *tables[N_COMMANDS];
    Text t = {0};
    for (size_t i = 0; i < N_COMMANDS; i++) tables[i] = commands[i]->table;
    if (!put(tables, &t, e)) return print_text(&t, e);
    text_free(&t);
    return -1;
}

/* ---- commands ------------------------------------------------------------------------------ */

static const Command *command_find(const char *name, Err *e)
{
    const char *names[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++) {
        names[i] = commands[i]->table->command;
        if (!strcmp(names[i], name)) return commands[i];
    }
    err_set(e, ERR_USAGE, "unknown command \"%.60s\"; nearest: %s (align --help lists all)", name,
            nearest_word(name, names, N_COMMANDS));
    return NULL;
}

static int same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Is this a file that is read from the directory of a model or an adapter? */
static int is_model_file(const char *name)
{
    for (size_t i = 0; i < TOKENIZER_FILES; i++)
        if (!strcmp(name, tokenizer_files[i])) return 1;
    return !strcmp(name, "config.json") || !strcmp(name, LORA_CONFIG_FILE) ||
           strstr(name, ".safetensors") != NULL; /* also model.safetensors.index.json */
}

/* Is `file` one of those in a directory of a model (which may be a snapshot in a hub's cache) or an
 * adapter? */
static int holds_file(const char *given, const struct stat *file)
{
    Pool pool = {0};
    Err ignored;
    char **names, path[IO_PATH_MAX], found_at[IO_PATH_MAX];
    const char *directory = io_model_path(found_at, given, &ignored) ? given : found_at;
    size_t n = 0;
    struct stat in;
    int found = 0;
    if (io_list(directory, &pool, &names, &n, &ignored)) n = 0;
    for (size_t i = 0; i < n && !found; i++)
        found = is_model_file(names[i]) &&
                !io_path(path, sizeof path, directory, names[i], &ignored) && !stat(path, &in) &&
                same_file(&in, file);
    pool_free(&pool);
    return found;
}

/* Checks that the output of option `name` does not overwrite an input. */
static int check_output(const Options *o, const char *name, Err *e)
{
    struct stat out, in;
    const char *path = option_exists(o, name) ? option_text(o, name) : NULL;
    if (!path || stat(path, &out)) return 0;
    for (size_t i = 0; i < o->count; i++) {
        const Option *row = o->values[i].row;
        const char *text = o->values[i].text;
        if ((row->type != OPTION_FILE && row->type != OPTION_DIR) || !text) continue;
        if (!strcmp(row->name, name) || stat(text, &in)) continue;
        if (same_file(&in, &out))
            return err_set(e, ERR_USAGE, "--%s %s is also --%s; an input is not written over", name,
                           path, row->name);
        if (row->type == OPTION_DIR && holds_file(text, &out))
            return err_set(e, ERR_USAGE, "--%s %s is a file of --%s; an input is not written over",
                           name, path, row->name);
    }
    return 0;
}

static int check_outputs(const Options *o, Err *e)
{
    static const char *const names[] = {"output", "answers", "dump-gradients"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (check_output(o, names[i], e)) return -1;
    return 0;
}

/* Refuses a model directory that also holds an adapter, unless the adapter is named. transformers
 * applies such an adapter without being asked, so the numbers would silently be those of another
 * model. */
static int check_adapter_inside(const Options *o, Err *e)
{
    const char *const names[] = {"adapter", "init-adapter"};
    const char *model = option_exists(o, "model") ? option_text(o, "model") : NULL, *offer = NULL;
    char path[IO_PATH_MAX], found[IO_PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!option_exists(o, names[i])) continue;
        if (option_text(o, names[i])) return 0;
        offer = names[i];
    }
    if (!model || !offer) return 0;
    if (io_model_path(found, model, e) ||
        io_path(path, sizeof path, found, "adapter_config.json", e))
        return -1;
    if (!io_exists(path)) return 0;
    return err_set(e, ERR_DATA,
                   "%s: an adapter in the model's own directory, which transformers would put on "
                   "the model: name it (--%s %s), or move it away",
                   path, offer, model);
}

/* For advice in messages: does the running command have this option? All have --help and
 * --config. */
static const OptionTable *running;

static int running_has(const char *option)
{
    const Option *row;
    for (size_t i = 0; (row = options_row(running, i)); i++)
        if (!strcmp(row->name, option)) return 1;
    return 0;
}

static int command_run(const Command *c, int argc, const char *const *argv, Err *e)
{
    Options o;
    running = c->table;
    advice_from(running_has);
    int status = options_parse(&o, c->table, argc, argv, notes(), e);
    if (!status && o.help) {
        Text t = {0};
        status = options_help(c->table, o.help > 1, &t, e);
        if (!status) status = print_text(&t, e);
        text_free(&t);
    } else if (!status) {
        notes_quiet(option_flag(&o, "quiet"));
        status = options_check_when(&o, notes(), e) || check_outputs(&o, e) ||
                 check_adapter_inside(&o, e) || c->run(&o, e);
    }
    options_free(&o);
    return status ? -1 : 0;
}

/* Runs what argv asks for; *name = the command, for messages. */
static int dispatch(int argc, const char *const *argv, const char **name, Err *e)
{
    const char *first = argc > 1 ? argv[1] : "";
    if (!strcmp(first, "--help") || !strcmp(first, "-h")) return print_help(e);
    int json = argc > 2 && !strcmp(argv[2], "--json");
    if (!strcmp(first, "--options"))
        return print_tables(json ? put_option_json : put_option_table, e);
    if (!strcmp(first, "--man")) return print_tables(put_man, e);
    if (!strcmp(first, "--completion")) return print_tables(put_completion, e);
    if (!strcmp(first, "--version")) {
        printf("align %s (kernels: %s; %d threads)\n", ALIGN_VERSION, compute_available(),
               threads_count());
        return 0;
    }
    if (argc < 2) return err_set(e, ERR_USAGE, "no command given; align --help lists them");
    int asks_help = !strcmp(first, "help"); /* align help COMMAND */
    if (asks_help && argc < 3) return print_help(e);
    const Command *c = command_find(asks_help ? argv[2] : first, e);
    if (!c) return -1;
    *name = c->table->command;
    handle_signals(c->table);
    static const char *const help[] = {"--help"};
    return asks_help ? command_run(c, 1, help, e) : command_run(c, argc - 2, argv + 2, e);
}

/* Flushes standard output: a result that did not reach its reader is a failure, however late it is
 * noticed. */
static int finish_stdout(int status, Err *e)
{
    if ((!fflush(stdout) && !ferror(stdout)) || status) return status;
    return stdout_failed(e);
}

int main(int argc, char **argv)
{
    const char *name = "";
    Err e = {0};
    let_threads_sleep(argv);
    handle_signals(NULL);
    int status = dispatch(argc, (const char *const *)argv, &name, &e);
    status = finish_stdout(status, &e);
    if (!status) return 0;
    if (e.text[0]) fprintf(stderr, "align%s%s: %s\n", *name ? " " : "", name, e.text);
    return e.code ? e.code : ERR_INTERNAL;
}
