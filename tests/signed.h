/* signed.h - for tests of signatures: a run as the loop leaves it, written by hand. */
#ifndef ALIGN_TEST_SIGNED_H
#define ALIGN_TEST_SIGNED_H

#include "cycle_parts.h"
#include "files.h"

#include <string.h>

static inline int write_below(const char *run, const char *name, const char *text)
{
    Err e;
    char path[IO_PATH_MAX];
    return io_path(path, sizeof path, run, name, &e) || io_write_file(path, text, strlen(text), &e);
}

/* The entries and files of a cycle that promoted `method` (NULL: nobody), whose adapter is `kept`
 * and whose training wrote `trained`. */
static inline int write_cycle(Ledger *l, size_t cycle, const char *method, const char *trained,
                              const char *kept)
{
    char folder[4][64], file[4][128], facts[64], path[IO_PATH_MAX];
    Err e;
    snprintf(folder[0], sizeof folder[0], "cycle-%zu", cycle);
    snprintf(folder[1], sizeof folder[1], "cycle-%zu/kto", cycle);
    snprintf(folder[2], sizeof folder[2], "cycle-%zu/kto/adapter", cycle);
    snprintf(folder[3], sizeof folder[3], "cycle-%zu/adapter", cycle);
    for (int i = 0; i < 4; i++)
        if (io_path(path, sizeof path, l->run, folder[i], &e) || io_make_directory(path, 1, &e))
            return -1;
    for (int i = 0; i < 2; i++) {
        snprintf(file[2 * i], sizeof file[0], "%s/adapter_model.safetensors", folder[2 + i]);
        snprintf(file[2 * i + 1], sizeof file[0], "%s/adapter_config.json", folder[2 + i]);
        if (write_below(l->run, file[2 * i], i ? kept : trained) ||
            write_below(l->run, file[2 * i + 1], "{}"))
            return -1;
    }
    const char *train[] = {file[0], file[1], NULL}, *select[] = {file[2], file[3], NULL};
    snprintf(facts, sizeof facts, method ? "{\"promoted\":\"%s\"}" : "{\"promoted\":null%s}",
             method ? method : "");
    return ledger_append(
               l, &(LedgerEntry){.event = "train", .name = "kto", .cycle = cycle, .outputs = train},
               &e) ||
           ledger_append(l,
                         &(LedgerEntry){.event = "select",
                                        .name = "",
                                        .cycle = cycle,
                                        .outputs = select,
                                        .facts = facts},
                         &e);
}

/* A run of three cycles: the first two promoted, the third did not; ended or not. begin: what the
 * ledger says of its first policy. */
static inline int write_run_from(const char *run, int ended, const char *begin)
{
    static const char *const results[] = {"results.json", NULL};
    Ledger l;
    Err e;
    int status = io_make_directory(run, 1, &e) || ledger_open(&l, run, &e);
    if (status) return -1;
    status = ledger_append(&l, &(LedgerEntry){.event = "begin", .name = "", .facts = begin}, &e) ||
             write_cycle(&l, 1, "kto", "one", "one") || write_cycle(&l, 2, "kto", "two", "two") ||
             write_cycle(&l, 3, NULL, "three", "two");
    if (!status && ended)
        status = write_below(run, "results.json", "{}") ||
                 ledger_append(
                     &l, &(LedgerEntry){.event = "finish", .name = "", .outputs = results}, &e);
    ledger_close(&l);
    return status ? -1 : 0;
}

static inline int write_run(const char *run, int ended)
{
    return write_run_from(run, ended, "{\"model_sha256\":\"abc\"}");
}

#endif
