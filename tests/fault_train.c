/* fault_train.c - a training run whose file operations and allocations fail, or that is killed, at
 * every one of them in turn.
 *
 * Killed at any instant, a run that is resumed ends with the bytes of one that was never touched.
 * After an error nothing half-made stays: no adapter, no *.tmp, and resuming does the same.
 */
#include "train.h"

#include "faults.h"
#include "tiny.h"

static char model[IO_PATH_MAX + 512], pairs[IO_PATH_MAX], eval[IO_PATH_MAX], run_path[IO_PATH_MAX];
static char whole_adapter[65], whole_metrics[65]; /* of the run that nothing happened to */

static TrainConfig config(void)
{
    TrainConfig c = train_config_default(TRAIN_DPO);
    c.model = model;
    c.data = pairs;
    c.eval = eval;
    c.run = run_path;
    c.lora.rank = 2;
    c.lora.targets = 1u << TARGET_Q;
    c.batch = 2;
    c.steps = 3;
    c.save_every = 1;
    c.keep = 1;
    c.lr = 1e-2;
    c.resume = 1;
    return c;
}

static const char *in_run(const char *name)
{
    static char path[4][IO_PATH_MAX + 512];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", run_path, name);
    return p;
}

static int run_training(Err *e)
{
    TrainConfig c = config();
    TrainResult result;
    return train_run(&c, NULL, &result, e);
}

/* SHA-256 of metrics.jsonl without its clock. */
static void hash_metrics(char hex[65])
{
    size_t len;
    Sha256 s;
    char *text = files_read(in_run("metrics.jsonl"), &len);
    sha256_begin(&s);
    for (char *line = text; *line;) {
        char *end = strchr(line, '\n'), *clock = strstr(line, ",\"seconds\"");
        sha256_add(&s, line, (size_t)((clock && clock < end ? clock : end) - line));
        line = end + 1;
    }
    sha256_end(&s, hex);
    mem_free(text);
}

static int is_the_whole_run(void)
{
    char adapter[65], metrics[65];
    Err e;
    if (sha256_file(in_run("adapter/adapter_model.safetensors"), adapter, &e)) return 0;
    hash_metrics(metrics);
    return !strcmp(adapter, whole_adapter) && !strcmp(metrics, whole_metrics);
}

/* Names with ".tmp" in a directory of the run. */
static size_t leftovers(const char *path)
{
    Err e;
    Pool pool = {0};
    char **names;
    size_t n = 0, found = 0;
    if (io_is_directory(path) && !io_list(path, &pool, &names, &n, &e))
        for (size_t i = 0; i < n; i++) found += strstr(names[i], ".tmp") != NULL;
    pool_free(&pool);
    return found;
}

static void fresh(void)
{
    Err e;
    CHECK_OK(io_remove_tree(run_path, &e), &e);
}

/* Gone on with where it ended, it is whole, and nothing else is left. */
static int resumed_it_is_whole(int code)
{
    return (!code || !fault_child(run_training, NULL, NULL)) && is_the_whole_run() &&
           !leftovers(run_path) && !leftovers(in_run("checkpoints"));
}

/* The same after an error, which must not leave anything half-made either. */
static int nothing_half_made(int code)
{
    int clean = !code || (!io_exists(in_run("adapter")) && !io_exists(in_run("LOCK")) &&
                          !leftovers(run_path) && !leftovers(in_run("checkpoints")));
    return clean && resumed_it_is_whole(code);
}

/* What was there stays; a lock that could not be read stays, too: it might be somebody's. */
static int stays_resumable(int code)
{
    return (!code || !io_exists(in_run("adapter"))) && resumed_it_is_whole(code);
}

/* Call number n of a kind fails, for n = 1, 1 + step, ... until faults leave no trace. */
static int fail_each(const char *variable, const char *format, int step, int (*is_right)(int code))
{
    const Faults f = {
        run_training, variable, format,
        is_right,     fresh,    is_right == fault_killed ? resumed_it_is_whole : nothing_half_made,
        step,         0,        FAULT_CLEAN};
    return fault_each(&f);
}

static void killed_anywhere(void)
{
    int calls = fail_each("FAULT_IO", "%d:KILL", 1, fault_killed);
    CHECK(calls > 100);
    printf("  %d operations\n", calls);
}

static void full_disk(void)
{
    CHECK(fail_each("FAULT_IO", "%d:ENOSPC", 1, fault_io) > 100);
}

static void broken_disk(void)
{
    CHECK(fail_each("FAULT_IO", "%d:EIO", 1, fault_io) > 100);
}

static void out_of_memory(void)
{
    int calls = fail_each("FAULT_ALLOC", "%d", 3, fault_memory);
    CHECK(calls > 50);
    printf("  %d allocations\n", calls);
}

/* ---- going on ------------------------------------------------------------------------------ */

static void stop_at_once(void *ctx, const TrainProgress *p)
{
    (void)ctx;
    if (!strcmp(p->phase, "train")) stop_requested = 1;
}

/* A run that was stopped after its first step; it has one checkpoint. */
static void stopped(void)
{
    static const TrainEvents events = {.progress = stop_at_once};
    TrainConfig c = config();
    TrainResult result;
    Err e = {0, ""};
    fresh();
    CHECK(train_run(&c, &events, &result, &e) && e.code == ERR_INTERRUPTED);
    stop_requested = 0;
    CHECK(io_is_directory(in_run("checkpoints")) && !io_exists(in_run("adapter")));
}

/* A fault while a run is resumed is told as what it is, never as a broken checkpoint. */
static void resuming_fails(void)
{
    static const struct {
        const char *variable, *format;
        int step, (*is_right)(int code);
    } kinds[] = {{"FAULT_IO", "%d:EIO", 1, fault_io}, {"FAULT_ALLOC", "%d", 3, fault_memory}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const Faults f = {.scenario = run_training,
                          .variable = kinds[i].variable,
                          .format = kinds[i].format,
                          .is_right = kinds[i].is_right,
                          .begin = stopped,
                          .ends_well = stays_resumable,
                          .step = kinds[i].step,
                          .clean = FAULT_CLEAN};
        CHECK(fault_each(&f) > 30);
    }
}

/* ---- a step -------------------------------------------------------------------------------- */

static size_t told;

/* From the end of the first step to that of the last but one, every allocation fails. */
static void forbid_allocations(void *ctx, const TrainProgress *p)
{
    (void)ctx;
    if (strcmp(p->phase, "train")) return;
    told++;
    if (told == 1) setenv("FAULT_ALLOC_FROM", "1", 1);
    if (told == 9) unsetenv("FAULT_ALLOC_FROM"); /* the last step writes a checkpoint */
}

/* All memory of a step is there before the first one. */
static void steps_do_not_allocate(void)
{
    static const TrainEvents forbid = {.progress = forbid_allocations};
    TrainResult result;
    Err e = {0, ""};
    for (int variant = 0; variant < 3; variant++) {
        TrainConfig c = config();
        fresh();
        c.steps = 10;
        c.save_every = 0;
        c.accumulate = 2;
        c.log_every = 10;        /* a line is written through memory of its own */
        c.memory = variant == 1; /* recompute activations */
        if (variant == 2) c.method = TRAIN_KTO, c.eval = pairs;
        c.force = 1;
        c.max_grad_norm = 0.1;
        told = 0;
        int status = train_run(&c, &forbid, &result, &e);
        unsetenv("FAULT_ALLOC_FROM");
        if (status) printf("  step %zu: %s\n", result.steps + 1, e.text);
        CHECK(!status && told == 10);
    }
}

/* Short and interrupted calls are not noticed. */
static void interruptions(void)
{
    static const char *const kinds[] = {"1+:SHORT", "7:EINTR", "100:EINTR", "200:EINTR"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        fresh();
        CHECK(fault_child(run_training, "FAULT_IO", kinds[i]) == 0 && is_the_whole_run());
    }
}

static const Test tests[] = {
    {"killed_anywhere", killed_anywhere},
    {"full_disk", full_disk},
    {"broken_disk", broken_disk},
    {"out_of_memory", out_of_memory},
    {"resuming_fails", resuming_fails},
    {"steps_do_not_allocate", steps_do_not_allocate},
    {"interruptions", interruptions},
};

int main(int argc, char **argv)
{
    Err e;
    static const char rows[] = "{\"prompt\":\"Q\",\"chosen\":\" a\",\"rejected\":\" b\"}\n"
                               "{\"prompt\":\"R\",\"chosen\":\" c\",\"rejected\":\" dd\"}\n"
                               "{\"prompt\":\"S\",\"chosen\":\" ee\",\"rejected\":\" f\"}\n";
    files_begin();
    threads_set(1);
    snprintf(model, sizeof model, "%s", tiny_model("tiny"));
    files_write("pairs.jsonl", rows, sizeof rows - 1);
    files_write("eval.jsonl", rows, strcspn(rows, "\n"));
    snprintf(pairs, sizeof pairs, "%s", files_path("pairs.jsonl"));
    snprintf(eval, sizeof eval, "%s", files_path("eval.jsonl"));
    snprintf(run_path, sizeof run_path, "%s", files_path("run"));
    fresh();
    if (fault_child(run_training, NULL, NULL) ||
        sha256_file(in_run("adapter/adapter_model.safetensors"), whole_adapter, &e))
        return printf("the plain run failed\n0 passed, 1 failed\n"), 1;
    hash_metrics(whole_metrics);
    int status = test_main(tests, sizeof tests / sizeof *tests, argc, argv);
    files_end();
    return status;
}
