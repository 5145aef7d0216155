/* fault_ground.c - every allocation and every file operation of floors 0 and 1 fails once.
 *
 * A scenario runs in a child process in which call number N fails (see FAULT_ALLOC in base.c and
 * FAULT_IO in io_read.c), for N = 1, 2, 3 ... until it runs through without its fault. Whatever
 * N is: the exit code is the right one, nothing leaks, each file is the old one or the new one, and
 * no temporary file stays.
 */
#include "faults.h"
#include "io.h"

static char dir[200];

static const char *in_dir(const char *name)
{
    static char paths[4][IO_PATH_MAX];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(paths[turn], sizeof paths[turn], "%s/%s", dir, name);
    return paths[turn];
}

/* ---- scenarios ----------------------------------------------------------------------------- */

#define NEW_SIZE 150000 /* more than two buffers of a Writer */

static int write_scenario(Err *e)
{
    char *bytes = mem_alloc(NEW_SIZE, e);
    if (!bytes) return -1;
    memset(bytes, 'n', NEW_SIZE);
    Writer w;
    int r = writer_open(&w, in_dir("out"), e);
    for (size_t at = 0; r == 0 && at < NEW_SIZE; at += 50000)
        r = writer_put(&w, bytes + at, 50000, e);
    if (r == 0) r = writer_commit(&w, e);
    writer_abort(&w);
    mem_free(bytes);
    return r;
}

static int tensors_scenario(Err *e)
{
    const float values[6] = {1, 2, 3, 4, 5, 6};
    const StOut out[2] = {{.name = "b", .n_dims = 2, .shape = {2, 3}, .data = values},
                          {.name = "a", .n_dims = 1, .shape = {6}, .data = values}};
    const char *const metadata[] = {"format", "pt", NULL};
    if (safetensors_write(in_dir("out"), out, 2, metadata, e)) return -1;
    for (int map = 0; map < 2; map++) {
        Safetensors s;
        if (safetensors_open(&s, in_dir("out"), map, e)) return -1;
        const StTensor *t = safetensors_find(&s, "b");
        int same = t && !memcmp(t->data, values, sizeof values) && s.metadata;
        safetensors_close(&s);
        if (!same) return err_set(e, ERR_CHECK, "not the tensors that were written");
    }
    return 0;
}

static int rows_scenario(Err *e)
{
    JsonLines j;
    Pool pool = {0};
    Json *row = NULL;
    size_t rows = 0;
    char hex[65];
    int r = 1;
    if (jsonl_open(&j, in_dir("rows"), e)) return -1;
    while (r == 1) {
        r = jsonl_next(&j, &pool, &row, e);
        if (r == 1 && json_get(row, "k16")) rows++;
    }
    jsonl_close(&j);
    pool_free(&pool);
    if (r == 0 && rows != 3) r = err_set(e, ERR_CHECK, "%zu rows", rows);
    return r == 0 ? sha256_file(in_dir("rows"), hex, e) : -1;
}

static int directory_scenario(Err *e)
{
    Pool pool = {0};
    char **names;
    size_t n = 0;
    IoLock lock;
    int r = io_make_directory(in_dir("run"), 0, e) || io_lock(&lock, in_dir("run"), e);
    if (r == 0) {
        r = io_append_line(in_dir("run/log"), "{\"step\":1}", 10, 1, e) ||
            io_rename(in_dir("run/log"), in_dir("run/log2"), e) ||
            io_list(in_dir("run"), &pool, &names, &n, e);
        if (r == 0 && n != 2) r = err_set(e, ERR_CHECK, "%zu names", n);
        io_unlock(&lock);
    }
    if (r == 0) r = io_remove_tree(in_dir("run"), e);
    pool_free(&pool);
    return r ? -1 : 0;
}

/* ---- running them -------------------------------------------------------------------------- */

/* Makes the files the scenarios begin with. */
static void prepare(void)
{
    Err e;
    Text rows = {0};
    for (int i = 0; i < 3; i++) {
        text_add(&rows, "{", 1, &e);
        for (int k = 0; k < 20; k++) text_addf(&rows, &e, "%s\"k%d\":\"v\\n\"", k ? "," : "", k);
        text_add(&rows, "}\n", 2, &e);
    }
    CHECK_OK(io_remove_tree(in_dir("run"), &e), &e);
    CHECK_OK(io_write_file(in_dir("out"), "old", 3, &e), &e);
    CHECK_OK(io_write_file(in_dir("rows"), rows.data, rows.len, &e), &e);
    text_free(&rows);
}

/* Is the output whole: the old one or a new one? */
static int output_is_whole(Scenario scenario)
{
    Err e;
    char *data;
    size_t len;
    if (io_read_file(in_dir("out"), 0, &data, &len, &e)) return 0;
    int whole = len == 3 && !memcmp(data, "old", 3);
    if (scenario == write_scenario && len == NEW_SIZE) {
        whole = 1;
        for (size_t i = 0; i < len; i++) whole &= data[i] == 'n';
    }
    mem_free(data);
    if (!whole && scenario == tensors_scenario) {
        Safetensors s;
        whole = safetensors_open(&s, in_dir("out"), 0, &e) == 0;
        if (whole) safetensors_close(&s);
    }
    return whole;
}

static size_t temporary_files(void)
{
    Err e;
    Pool pool = {0};
    char **names;
    size_t n = 0, found = 0;
    CHECK_OK(io_list(dir, &pool, &names, &n, &e), &e);
    for (size_t i = 0; i < n; i++) found += strstr(names[i], ".tmp.") != NULL;
    pool_free(&pool);
    return found;
}

static const struct {
    const char *name;
    Scenario run;
} scenarios[] = {{"write", write_scenario},
                 {"tensors", tensors_scenario},
                 {"rows", rows_scenario},
                 {"directory", directory_scenario}};

static Scenario at_work;

static int whole_and_nothing_left(int code)
{
    (void)code;
    return output_is_whole(at_work) && temporary_files() == 0;
}

/* What a killed one left must not disturb the next run. */
static int whole_and_goes_on(int code)
{
    (void)code;
    return output_is_whole(at_work) && fault_child(at_work, NULL, NULL) == 0;
}

/* Every call made to fail in each scenario. Returns how many calls there were in all. */
static int fail_each(const char *variable, const char *format, int (*is_right)(int code))
{
    int total = 0;
    for (size_t s = 0; s < sizeof scenarios / sizeof scenarios[0]; s++) {
        at_work = scenarios[s].run;
        const Faults f = {
            at_work, variable,
            format,  is_right,
            prepare, is_right == fault_killed ? whole_and_goes_on : whole_and_nothing_left,
            1,       0,
            8};
        prepare();
        CHECK_INT(fault_child(at_work, NULL, NULL), 0);
        total += fault_each(&f);
    }
    return total;
}

static void allocations_fail_cleanly(void)
{
    int calls = fail_each("FAULT_ALLOC", "%d", fault_memory);
    CHECK(calls > 40);
    fail_each("FAULT_ALLOC_FROM", "%d", fault_memory);
    printf("  %d allocations\n", calls);
}

static void io_errors_fail_cleanly(void)
{
    int calls = fail_each("FAULT_IO", "%d:EIO", fault_io);
    CHECK(calls > 40);
    fail_each("FAULT_IO", "%d:ENOSPC", fault_io);
    printf("  %d operations\n", calls);
}

/* Interrupted and short calls must not be noticed; run over a fixed range, as nothing ends it. */
static void interruptions_are_invisible(void)
{
    for (size_t s = 0; s < sizeof scenarios / sizeof scenarios[0]; s++) {
        for (int n = 1; n <= 40; n++) {
            char value[32];
            for (int kind = 0; kind < 2; kind++) {
                prepare();
                snprintf(value, sizeof value, "%d:%s", n, kind ? "SHORT" : "EINTR");
                int code = fault_child(scenarios[s].run, "FAULT_IO", value);
                if (code) printf("  %s: %s gave %d\n", scenarios[s].name, value, code);
                CHECK(code == 0 && temporary_files() == 0);
            }
        }
        prepare();
        CHECK_INT(fault_child(scenarios[s].run, "FAULT_IO", "1+:SHORT"), 0); /* every call short */
    }
}

static void kills_leave_old_or_new(void)
{
    fail_each("FAULT_IO", "%d:KILL", fault_killed);
}

static const Test tests[] = {
    {"allocations_fail_cleanly", allocations_fail_cleanly},
    {"io_errors_fail_cleanly", io_errors_fail_cleanly},
    {"interruptions_are_invisible", interruptions_are_invisible},
    {"kills_leave_old_or_new", kills_leave_old_or_new},
};

int main(int argc, char **argv)
{
#ifndef ALIGN_FAULTS
    (void)argc, (void)argv, (void)tests;
    printf("build with -DALIGN_FAULTS (make faults)\n");
    return 1;
#else
    const char *tmp = getenv("TMPDIR");
    Err e;
    snprintf(dir, sizeof dir, "%.150s/align-fault-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) {
        perror(dir);
        return 1;
    }
    int r = test_main(tests, sizeof tests / sizeof tests[0], argc, argv);
    if (io_remove_tree(dir, &e)) printf("%s\n", e.text);
    return r;
#endif
}
