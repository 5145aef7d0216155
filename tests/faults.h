/* faults.h - for tests in which a call fails, or the process is killed at it.
 *
 * A scenario runs in a child process in which call number N of a kind fails (FAULT_ALLOC in base.c,
 * FAULT_IO in io.c), for N after N until no fault is met any more.
 */
#ifndef ALIGN_TEST_FAULTS_H
#define ALIGN_TEST_FAULTS_H

#include "base.h"
#include "test.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

typedef int (*Scenario)(Err *e);

/* The scenario in a child with one environment variable set (NULL = none). Its exit code is that of
 * the Err; 98 where it failed without saying why, 1000 + signal where it crashed. */
static inline int fault_child(Scenario scenario, const char *variable, const char *value)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        Err e = {0, ""};
        if (variable) setenv(variable, value, 1);
        int status = scenario(&e);
        if (variable) unsetenv(variable);
        if (status && (!e.code || !e.text[0])) exit(98);
        exit(status ? e.code : 0); /* exit, so that leaks are looked for */
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* What a fault of a kind may end with. */
static inline int fault_killed(int code)
{
    return code == 0 || code == 99;
}
static inline int fault_memory(int code)
{
    return code == 0 || code == ERR_MEMORY;
}
static inline int fault_io(int code)
{
    return code == 0 || code == ERR_IO || code == ERR_CREATE || code == ERR_NO_INPUT;
}

/* A kind of fault, and what must hold whatever call it meets. */
/* So many runs without a fault in a row end the search: more than the calls, one behind the other,
 * that a program lives without. A lock has eight, of the directory that it locks where it can. */
enum { FAULT_CLEAN = 24 };

typedef struct {
    Scenario scenario;
    const char *variable, *format; /* "FAULT_IO", "%d:KILL" */
    int (*is_right)(int code);     /* one of the above */
    void (*begin)(void);           /* makes what the scenario begins with; or NULL */
    int (*ends_well)(int code);    /* looks at what is there, may go on with it; or NULL */
    int step, slope;               /* from call n to call n + step (+ n / slope, unless 0) */
    int clean;                     /* FAULT_CLEAN, or fewer where a step leaves calls out */
} Faults;

/* How many runs it took: about as many as there are calls. */
static inline int fault_each(const Faults *f)
{
    enum { MOST_RUNS = 20000, MOST_CALLS = 1 << 24 }; /* a search that finds no end has failed */
    int clean = 0, runs = 0;
    int n = 1;
    for (; clean < f->clean && runs < MOST_RUNS && n < MOST_CALLS; runs++) {
        char value[32];
        if (f->begin) f->begin();
        snprintf(value, sizeof value, f->format, n);
        int code = fault_child(f->scenario, f->variable, value);
        int fine = f->is_right(code) && (!f->ends_well || f->ends_well(code));
        if (!fine) printf("  %s=%s gave %d\n", f->variable, value, code);
        CHECK(fine);
        clean = code == 0 ? clean + 1 : 0;
        n += f->step + (f->slope ? n / f->slope : 0);
    }
    CHECK(clean == f->clean);
    return runs;
}

#endif
