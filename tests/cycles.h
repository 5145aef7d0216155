/* cycles.h - for tests that run the loop: prompts, a small configuration, what a run left. */
#ifndef ALIGN_TEST_CYCLES_H
#define ALIGN_TEST_CYCLES_H

#include "cycle_parts.h"
#include "tiny.h"

enum { BASES = 40, WORDINGS = 3 };

/* BASES base prompts, levels in turn, each in WORDINGS wordings that stand apart in the file. */
static inline void write_prompts(const char *name, int demonstrations)
{
    Err e;
    Text t = {0};
    for (int w = 0; w < WORDINGS; w++)
        for (int b = 0; b < BASES; b++)
            text_addf(&t, &e,
                      "{\"prompt\":\"w%d b%d\",\"base_prompt\":\"b%d\",\"harmful_level\":%d%s}\n",
                      w, b, b, b % 4, demonstrations ? ",\"demonstration\":\" no\"" : "");
    files_write(name, t.data, t.len);
    text_free(&t);
}

static inline CycleConfig usual(const char *run)
{
    CycleConfig c = cycle_config_default();
    static char run_path[IO_PATH_MAX], prompts[IO_PATH_MAX];
    snprintf(run_path, sizeof run_path, "%.4000s", files_path(run));
    snprintf(prompts, sizeof prompts, "%.4000s", files_path("prompts.jsonl"));
    c.run = run_path;
    c.prompts = prompts;
    c.model = "none";
    c.validation = c.test = 0.2;
    c.seed = 3;
    return c;
}

static const char *model_dir;

static inline CycleConfig small_run(const char *run)
{
    CycleConfig c = usual(run);
    c.model = model_dir;
    c.sample.samples = 2;
    c.sample.max_tokens = c.validate.max_tokens = 6;
    c.resamples = 100;
    c.cycles = 2;
    for (int m = 0; m < CYCLE_METHODS; m++) {
        c.train[m].steps = 2;
        c.train[m].batch = 4;
        c.train[m].lora.rank = 2;
        c.train[m].lr = 1e-2;
        c.train[m].save_every = 1;
    }
    return c;
}

/* Files of a run by name, with their hashes. Left out: what holds times (metrics, the ledger) and
 * what holds the run's own path (configurations of the training runs). */
static inline void list_run(const char *folder, const char *name, Text *out)
{
    Pool pool = {0};
    char **names, path[IO_PATH_MAX], below[512], hex[65];
    size_t n;
    Err e;
    snprintf(path, sizeof path, "%.3000s/%.500s", folder, name);
    if (io_list(path, &pool, &names, &n, &e)) return;
    for (size_t i = 0; i < n; i++) {
        snprintf(below, sizeof below, "%.200s%s%.200s", name, *name ? "/" : "", names[i]);
        snprintf(path, sizeof path, "%.3000s/%.500s", folder, below);
        if (io_is_directory(path)) {
            if (strcmp(names[i], "checkpoints")) list_run(folder, below, out);
        } else if (strcmp(names[i], "metrics.jsonl") && strcmp(names[i], LEDGER_FILE) &&
                   (!*name || strcmp(names[i], "config.json"))) {
            if (!sha256_file(path, hex, &e)) text_addf(out, &e, "%s %s\n", below, hex);
        }
    }
    pool_free(&pool);
}

#endif
