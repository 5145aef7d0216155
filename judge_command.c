/* judge_command.c - runs any program as a judge: one line of JSON in and one line out for each
 * case.
 *
 * The program is run without a shell, once for a block of cases. It reads lines
 *     {"id":17,"prompt":"...","response":"..."}
 * from its standard input until that ends, and writes, in any order,
 *     {"id":17,"action":"refuse","probability":0.9}
 * where "probability" is optional (1 if absent). It shares our standard error.
 *
 * Each answer is written to the disk before it is used (judge_kept.c), and is never asked for
 * again: after a crash the next run asks only for the rest.
 */
#include "judge_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    POLL_MS = 100,          /* latency of noticing a stop or a silence */
    GRACE = 1,              /* seconds that a program gets to end after its last answer */
    READ_BYTES = 4096,      /* read from the program at a time */
    LINE_BYTES = 1 << 20,   /* longest line that can be an answer */
    SHOWN = 60,             /* bytes of a bad line in messages */
    CHILD_CANNOT_RUN = 127, /* the exit status that shells use, too */
    FIRST_FREE_FD = 3       /* after standard input, output and error */
};

typedef struct {
    char **argv;      /* ended by NULL */
    Text spelled;     /* argv as a JSON array */
    const char *file; /* where answers are kept */
    const char *role; /* "judge" or "validator", for messages */
    double timeout;
    size_t retries;
    const Log *log;
    uint64_t next_id; /* id of the next question */
    Pool pool;
} Command;

/* ---- the program --------------------------------------------------------------------------- */

/* A running program. in: what it reads from us; out: what it writes. -1 = closed. */
typedef struct {
    pid_t pid;
    int in, out;
} Child;

static void close_fd(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* Makes a pipe whose ends are not inherited and do not take the place of a standard stream. */
static int make_pipe(int ends[2], Err *e)
{
    int low[2];
    ends[0] = ends[1] = -1;
    if (pipe(low)) return err_set(e, ERR_IO, "pipe: %s", strerror(errno));
    for (int i = 0; i < 2; i++) {
        ends[i] = fcntl(low[i], F_DUPFD_CLOEXEC, FIRST_FREE_FD);
        if (ends[i] < 0) err_set(e, ERR_IO, "pipe: %s", strerror(errno));
        close(low[i]);
    }
    return ends[0] < 0 || ends[1] < 0 ? -1 : 0;
}

/* The child from fork to exec. It gets its own process group, so that it can be ended with
 * everything it started, default signals, and our pipes as its standard streams. If exec fails,
 * errno is written to `fail`.
 */
static void become_program(char *const *argv, int in, int out, int fail)
{
    struct sigaction plain;
    memset(&plain, 0, sizeof plain);
    plain.sa_handler = SIG_DFL;
    sigaction(SIGPIPE, &plain, NULL);
    sigaction(SIGXFSZ, &plain, NULL);
    setpgid(0, 0);
    if (dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0) execvp(argv[0], argv);
    int why = errno;
    ssize_t told = write(fail, &why, sizeof why);
    _exit(told < 0 ? CHILD_CANNOT_RUN + 1 : CHILD_CANNOT_RUN);
}

/* Waits for a process that is about to end. */
static int reap(pid_t pid)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    return status;
}

/* Forks; the parent learns through `fail` whether exec worked. */
static int start_with(Child *child, char *const *argv, const int to[2], const int from[2],
                      const int fail[2], Err *e)
{
    child->pid = fork();
    if (child->pid < 0) return err_set(e, ERR_IO, "%s: fork: %s", argv[0], strerror(errno));
    if (child->pid == 0) become_program(argv, to[0], from[1], fail[1]);
    setpgid(child->pid, child->pid); /* parent and child both do it: whoever comes first */
    return 0;
}

static int child_start(Child *child, char *const *argv, Err *e)
{
    int to[2] = {-1, -1}, from[2] = {-1, -1}, fail[2] = {-1, -1}, why = 0;
    int status = make_pipe(to, e) || make_pipe(from, e) || make_pipe(fail, e) ||
                 start_with(child, argv, to, from, fail, e);
    close_fd(&to[0]);
    close_fd(&from[1]);
    close_fd(&fail[1]);
    if (!status) {
        ssize_t got;
        do got = read(fail[0], &why, sizeof why);
        while (got < 0 && errno == EINTR);
        if (got > 0) {
            reap(child->pid);
            status = err_set(e, ERR_NO_INPUT, "%s: cannot be run: %s", argv[0], strerror(why));
        }
    }
    close_fd(&fail[0]);
    if (status) {
        close_fd(&to[1]);
        close_fd(&from[0]);
        return -1;
    }
    child->in = to[1];
    child->out = from[0];
    fcntl(child->in, F_SETFL, O_NONBLOCK);
    fcntl(child->out, F_SETFL, O_NONBLOCK);
    return 0;
}

/* Ends a program and everything it started, and collects its exit status. A program that ended its
 * output in order gets `patience` seconds to exit by itself. */
static int child_end(Child *child, double patience)
{
    int status = 0;
    double until = time_now() + patience;
    pid_t gone = 0;
    close_fd(&child->in);
    close_fd(&child->out);
    for (;;) {
        gone = waitpid(child->pid, &status, WNOHANG);
        if (gone == child->pid || time_now() >= until || stop_requested) break;
        poll(NULL, 0, 1);
    }
    kill(-child->pid, SIGKILL);
    return gone == child->pid ? status : reap(child->pid);
}

/* ---- questions and answers ----------------------------------------------------------------- */

typedef struct {
    const JudgeCase *x;
    Verdict *verdict;
    int answered;
} Question;

/* One run of the program, for the questions that have no answer yet. */
typedef struct {
    const Judge *j;
    Command *c;
    Question *open; /* [n], ids from `first` on */
    size_t n, got;
    uint64_t first;
    Text questions;
    size_t sent;
    Text heard;    /* output that is not yet a whole line */
    double silent; /* since when */
    int silent_too_long;
} Asking;

static int put_question(Text *out, uint64_t id, const JudgeCase *x, Err *e)
{
    return text_addf(out, e, "{\"id\":%llu,\"prompt\":", (unsigned long long)id) ||
                   json_put_string(out, x->prompt, x->prompt_len, e) ||
                   text_addf(out, e, ",\"response\":") ||
                   json_put_string(out, x->response, x->response_len, e) ||
                   text_add(out, "}\n", 2, e)
               ? -1
               : 0;
}

/* Returns the question with this id, or NULL if it was not asked. */
static Question *question_of(const Asking *a, uint64_t id)
{
    return id >= a->first && id - a->first < a->n ? &a->open[id - a->first] : NULL;
}

/* {"action","probability"}: the other two actions share the remaining probability. */
static int read_answer(const Json *row, Verdict *v, Err *e)
{
    const Json *said = json_get(row, "action"), *p = json_get(row, "probability");
    double sure = 1;
    int a = action_of(said);
    if (a < 0)
        return err_set(e, ERR_DATA, "\"action\" must be accept, caution or refuse, found %.*s",
                       SHOWN, said && said->text ? said->text : "none");
    if (p && p->type != JSON_NULL && (json_f64(p, &sure) || !(sure >= 0) || sure > 1))
        return err_set(e, ERR_DATA, "\"probability\" must be a number from 0 to 1");
    double rest = (1 - sure) / (ACTION_COUNT - 1);
    *v = (Verdict){.action = (Action)a, .probability = {rest, rest, rest}};
    v->probability[a] = sure;
    return 0;
}

static int take_line(Asking *a, const char *line, size_t len, Err *e)
{
    Pool pool = {0};
    uint64_t id;
    Verdict v;
    if (len && line[len - 1] == '\r') len--;
    if (!len) return 0;
    Json *row = json_parse(&pool, line, len, "its answer", JSON_ONE_LINE, e);
    int status = row ? 0 : -1;
    Question *q = NULL;
    if (!status && json_u64(json_get(row, "id"), &id))
        status = err_set(e, ERR_DATA, "its answer has no \"id\" that is a whole number");
    if (!status && !(q = question_of(a, id)))
        status = err_set(e, ERR_DATA, "its answer has id %llu, which was not asked",
                         (unsigned long long)id);
    if (!status && q->answered)
        status = err_set(e, ERR_DATA, "two answers have id %llu", (unsigned long long)id);
    if (!status) status = read_answer(row, &v, e);
    if (status) {
        err_prefix(e, "%s: line %.*s", a->c->argv[0], (int)(len < SHOWN ? len : SHOWN), line);
    } else if (!(status = judge_kept_put(a->j->kept, q->x, &v, 1, e))) {
        *q->verdict = v;
        q->answered = 1;
        a->got++;
        a->silent = time_now();
    }
    pool_free(&pool);
    return status;
}

/* Takes all whole lines received so far. */
static int take_lines(Asking *a, Err *e)
{
    size_t at = 0;
    for (;;) {
        char *end = memchr(a->heard.data + at, '\n', a->heard.len - at);
        if (!end) break;
        size_t next = (size_t)(end - a->heard.data) + 1;
        if (take_line(a, a->heard.data + at, next - 1 - at, e)) return -1;
        at = next;
    }
    memmove(a->heard.data, a->heard.data + at, a->heard.len - at);
    a->heard.len -= at;
    if (a->heard.len <= LINE_BYTES) return 0;
    return err_set(e, ERR_DATA, "%s: a line of more than %d bytes is not an answer", a->c->argv[0],
                   LINE_BYTES);
}

/* Writes as much as the program will read. A program that no longer reads may still answer. */
static void send_some(Asking *a, Child *child)
{
    ssize_t n = write(child->in, a->questions.data + a->sent, a->questions.len - a->sent);
    if (n > 0) a->sent += (size_t)n;
    int broken = n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR;
    if (broken || a->sent == a->questions.len) close_fd(&child->in);
}

/* Takes the last line, which may lack its line feed. If it is incomplete, the program died while
 * writing, and the question is asked again. */
static int take_rest(Asking *a, Err *e)
{
    Pool pool = {0};
    Err torn;
    int whole =
        json_parse(&pool, a->heard.data, a->heard.len, a->c->argv[0], JSON_ONE_LINE, &torn) != NULL;
    pool_free(&pool);
    return whole ? take_line(a, a->heard.data, a->heard.len, e) : 0;
}

/* Reads the output that is available; at its end closes child->out. */
static int hear_some(Asking *a, Child *child, Err *e)
{
    char bytes[READ_BYTES];
    ssize_t n = read(child->out, bytes, sizeof bytes);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return 0;
        return err_set(e, ERR_IO, "%s: reading its answers: %s", a->c->argv[0], strerror(errno));
    }
    if (n > 0) return text_add(&a->heard, bytes, (size_t)n, e) || take_lines(a, e) ? -1 : 0;
    close_fd(&child->out);
    return a->heard.len ? take_rest(a, e) : 0;
}

/* Exchanges lines until the program's output ends, it stays silent too long, or a stop is
 * requested. */
static int talk(Asking *a, Child *child, Err *e)
{
    a->silent = time_now();
    while (child->out >= 0) {
        struct pollfd p[2] = {{.fd = child->out, .events = POLLIN},
                              {.fd = child->in, .events = POLLOUT}};
        if (stop_requested) return err_set(e, ERR_INTERRUPTED, "interrupted");
        int ready = poll(p, 2, POLL_MS);
        if (ready < 0 && errno != EINTR)
            return err_set(e, ERR_IO, "%s: poll: %s", a->c->argv[0], strerror(errno));
        if (ready > 0 && p[1].revents) send_some(a, child);
        if (ready > 0 && p[0].revents && hear_some(a, child, e)) return -1;
        if (time_now() - a->silent > (a->got == a->n ? GRACE : a->c->timeout)) {
            a->silent_too_long = 1;
            return 0;
        }
    }
    return 0;
}

/* Says why some questions have no answer. */
static int describe_end(const Asking *a, int status, Err *e)
{
    char how[64];
    if (a->silent_too_long)
        snprintf(how, sizeof how, "gave no answer for %g s", a->c->timeout);
    else if (WIFSIGNALED(status))
        snprintf(how, sizeof how, "was killed by signal %d", WTERMSIG(status));
    else
        snprintf(how, sizeof how, "ended with status %d", WEXITSTATUS(status));
    return err_set(e, ERR_IO, "%s: %s after %zu of %zu answers", a->c->argv[0], how, a->got, a->n);
}

/* Runs the program once. Returns 0 if everything is answered, 1 if something is missing (*e says
 * why; another run may help), -1 on error. */
static int run_program(Asking *a, Err *e)
{
    Child child;
    struct sigaction ignore, before;
    memset(&ignore, 0, sizeof ignore);
    ignore.sa_handler = SIG_IGN; /* writing to an ended program is an error */
    sigaction(SIGPIPE, &ignore, &before);
    int failed = child_start(&child, a->c->argv, e), status = 0;
    if (!failed) {
        failed = talk(a, &child, e);
        status = child_end(&child, failed || a->silent_too_long ? 0 : GRACE);
    }
    sigaction(SIGPIPE, &before, NULL);
    if (failed) return -1;
    if (a->got == a->n) return 0;
    describe_end(a, status, e);
    return 1;
}

/* Asks n questions in one run of the program. */
static int ask_once(const Judge *j, Question *open, size_t n, Err *e)
{
    Command *c = j->state;
    Asking a = {.j = j, .c = c, .open = open, .n = n, .first = c->next_id};
    int status = 0;
    for (size_t i = 0; i < n && !status; i++)
        status = put_question(&a.questions, c->next_id++, open[i].x, e);
    if (!status) status = run_program(&a, e);
    text_free(&a.questions);
    text_free(&a.heard);
    return status;
}

/* Moves the questions without an answer to the front and returns their number. */
static size_t keep_open(Question *q, size_t n)
{
    size_t open = 0;
    for (size_t i = 0; i < n; i++)
        if (!q[i].answered) q[open++] = q[i];
    return open;
}

static int ask(const Judge *j, Question *open, size_t n, Err *e)
{
    const Command *c = j->state;
    for (size_t run = 0;; run++) {
        int status = ask_once(j, open, n, e);
        if (status <= 0) return status;
        if (run == c->retries)
            return err_prefix(e,
                              "--%s command gave up after %zu runs (its answers are kept in "
                              "%s; the same command asks for the others)",
                              c->role, run + 1, c->file);
        log_note(c->log, 'w', "%s; run again for the others", e->text);
        n = keep_open(open, n);
    }
}

/* ---- the judge ----------------------------------------------------------------------------- */

static int command_decide(const Judge *j, const JudgeCase *cases, size_t n, Verdict *out, Err *e)
{
    Question *open = mem_calloc(n + 1, sizeof *open, e);
    if (!open) return -1;
    for (size_t i = 0; i < n; i++) open[i] = (Question){.x = &cases[i], .verdict = &out[i]};
    int status = ask(j, open, n, e);
    mem_free(open);
    return status;
}

/* Splits a command at its spaces. */
static int split_words(Command *c, const char *text, Err *e)
{
    size_t n = 0;
    c->argv = mem_calloc(strlen(text) / 2 + 2, sizeof *c->argv, e);
    if (!c->argv) return -1;
    for (text += strspn(text, " "); *text; text += strspn(text, " ")) {
        size_t len = strcspn(text, " ");
        c->argv[n] = pool_strndup(&c->pool, text, len, e);
        if (!c->argv[n++]) return -1;
        text += len;
    }
    return n ? 0 : err_set(e, ERR_USAGE, "--%s-command: it contains no word", c->role);
}

/* Reads a command given as a JSON array of texts. */
static int split_array(Command *c, const char *text, Err *e)
{
    char option[32];
    snprintf(option, sizeof option, "--%s-command", c->role);
    Json *list = json_parse(&c->pool, text, strlen(text), option, 0, e);
    if (!list) {
        e->code = ERR_USAGE;
        return -1;
    }
    c->argv = mem_calloc(list->len + 1, sizeof *c->argv, e);
    if (!c->argv) return -1;
    size_t n = 0;
    for (const Json *x = list->child; x; x = x->next) {
        if (x->type != JSON_STRING || strlen(x->text) != x->len)
            return err_set(e, ERR_USAGE, "--%s-command: the array must hold texts only", c->role);
        c->argv[n] = pool_strndup(&c->pool, x->text, x->len, e);
        if (!c->argv[n++]) return -1;
    }
    return n && *c->argv[0]
               ? 0
               : err_set(e, ERR_USAGE, "--%s-command: no program is named", c->role);
}

static int spell(Command *c, Err *e)
{
    for (size_t i = 0; c->argv[i]; i++)
        if (text_add(&c->spelled, i ? "," : "[", 1, e) ||
            json_put_string(&c->spelled, c->argv[i], strlen(c->argv[i]), e))
            return -1;
    return text_add(&c->spelled, "]", 1, e);
}

/* Is it a regular file that can be read? */
static int is_program_text(const char *path)
{
    struct stat s;
    return !stat(path, &s) && S_ISREG(s.st_mode) && !access(path, R_OK);
}

/* Finds the file that execvp would run; a name without a slash is looked up in PATH. */
static int find_program(const Command *c, char path[IO_PATH_MAX], Err *e)
{
    const char *name = c->argv[0];
    const char *list = strchr(name, '/') ? NULL : getenv("PATH");
    char folder[IO_PATH_MAX];
    Err ignored;
    for (const char *at = list; at; at = strchr(at, ':') ? strchr(at, ':') + 1 : NULL) {
        size_t len = strcspn(at, ":");
        if (len >= sizeof folder) continue;
        snprintf(folder, sizeof folder, "%.*s", len ? (int)len : 1, len ? at : ".");
        if (io_path(path, IO_PATH_MAX, folder, name, &ignored)) continue;
        if (is_program_text(path) && !access(path, X_OK)) return 0;
    }
    if (strlen(name) >= IO_PATH_MAX)
        return err_set(e, ERR_USAGE, "--%s-command: the path is too long", c->role);
    memcpy(path, name, strlen(name) + 1);
    return 0;
}

/* Adds the bytes of the file that the word names, if it names one, to the hash. */
static int add_file(const Command *c, Sha256 *s, const char *word, Err *e)
{
    char hex[65];
    if (!is_program_text(word)) return 0;
    if (sha256_file(word, hex, e)) return err_prefix(e, "--%s-command", c->role);
    sha256_add(s, hex, strlen(hex));
    return 0;
}

/* The identity of a judge covers its words, the bytes of the program, and the bytes of the first
 * argument that is not an option: the script, if the program is an interpreter. A rewritten script
 * is another judge. Later words may name logs and caches, which change while the judge stays the
 * same. */
static int identify(const Command *c, char hex[65], Err *e)
{
    char path[IO_PATH_MAX];
    Sha256 s;
    size_t first = 1;
    sha256_begin(&s);
    sha256_add(&s, c->spelled.data, c->spelled.len);
    while (c->argv[first] && c->argv[first][0] == '-') first++;
    if (find_program(c, path, e) || add_file(c, &s, path, e) ||
        (c->argv[first] && add_file(c, &s, c->argv[first], e)))
        return -1;
    sha256_end(&s, hex);
    return 0;
}

static int command_open(Judge *j, const JudgeConfig *config, Err *e)
{
    Command *c = mem_calloc(1, sizeof *c, e);
    j->state = c;
    if (!c) return -1;
    c->file = config->answers;
    c->role = judge_role(config);
    c->timeout = config->timeout > 0 ? config->timeout : JUDGE_TIMEOUT;
    c->retries = config->retries;
    c->log = config->log;
    const char *text = config->command;
    if (text[strspn(text, " ")] == '[' ? split_array(c, text, e) : split_words(c, text, e))
        return -1;
    return spell(c, e) || identify(c, j->sha256, e) ? -1 : 0;
}

static void command_close(Judge *j)
{
    Command *c = j->state;
    if (!c) return;
    mem_free(c->argv);
    text_free(&c->spelled);
    pool_free(&c->pool);
    mem_free(c);
    j->state = NULL;
}

/* ---- its choices --------------------------------------------------------------------------- */

static int command_can_run(const Judge *j, Err *e)
{
    const Command *c = j->state;
    char path[IO_PATH_MAX];
    if (find_program(c, path, e)) return -1;
    if (io_exists(path) && !io_is_directory(path) && !access(path, X_OK)) return 0;
    return err_set(e, ERR_NO_INPUT, "--%s-command: %s: cannot be run: %s", c->role, c->argv[0],
                   strerror(io_exists(path) ? EACCES : ENOENT));
}

static const Option command_rows[] = {
    JUDGE_COMMAND_ROWS("judge-command", "judge-timeout", "judge-retries", "judge"),
    {"allow-external", 0, OPTION_FLAG, NULL, NULL,
     "permit --judge command; prompts may hold patient data", FIELD(JudgeConfig, allow_external)},
    {"answers", 0, OPTION_FILE, NULL, NULL,
     "file that keeps verdicts of models and programs, so that nothing is judged twice; "
     "default: OUTPUT.answers",
     FIELD(JudgeConfig, answers), .when = "judge=self|model|command"},
};
const OptionGroup judge_command_options = OPTION_GROUP("A program that judges", command_rows);

static int command_check(const JudgeConfig *c, Err *e)
{
    const char *role = judge_role(c);
    if (!c->command || !*c->command)
        return err_set(e, ERR_USAGE,
                       "--%s command: --%s-command says which one; it is missing", role, role);
    if (!c->allow_external)
        return err_set(e, ERR_USAGE,
                       "--%s command: prompts may hold patient data, and a program may send "
                       "them anywhere; --allow-external permits it",
                       role);
    if (!c->answers || !*c->answers)
        return err_set(e, ERR_USAGE, "--%s command: --answers FILE is needed, to keep answers",
                       role);
    return 0;
}

static int command_put_json(const JudgeConfig *c, Text *out, Err *e)
{
    return options_write(&judge_command_options, c, "judge-command allow-external",
                         WRITE_INLINE | WRITE_NULLS, out, e);
}

const JudgeKind judge_kind_command = {.name = "command",
                                      .help = "any program, one line of JSON for each case",
                                      .block = JUDGE_BLOCK,
                                      .traits = JUDGE_KEEPS | JUDGE_IS_PROGRAM,
                                      .check = command_check,
                                      .put_json = command_put_json,
                                      .open = command_open,
                                      .decide = command_decide,
                                      .close = command_close,
                                      .can_run = command_can_run};
