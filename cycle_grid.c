/* cycle_grid.c - ablations: runs the loop with each judge, validator and choice of methods, and
 * compares.
 */
#include "cycle_parts.h"

#include <string.h>
#include <sys/stat.h>

#define SHARED_FOLDER "shared" /* what the cells share, in RUN */

enum { CELL_NAME = 96 };
static const char *const methods_names[] = {"none", "kto", "dpo", "both"}; /* by bits */

/* One run of the grid. */
typedef struct {
    const JudgeConfig *judge, *validator;
    unsigned methods;
    char name[CELL_NAME];
    int *choices; /* [n_choices] what each cycle promoted, as in Selection */
    size_t n_choices;
    char head[65];
    int labelled; /* its validator also labelled samples that it was trained on */
    Evaluation last[CYCLE_GRID_SIDE]; /* figures of its last policy, by each validator */
} Cell;

typedef struct {
    const CycleGrid *g;
    const CycleEvents *events;
    Cell *cells;
    size_t n;
    char *shared; /* RUN/shared */
} Grid;

/* "kto", "dpo", "parent" */
static const char *choice_name(int promoted)
{
    return promoted < 0 ? "parent" : cycle_method_names[promoted];
}

/* ---- running ------------------------------------------------------------------------------- */

/* Makes the configuration of one cell. */
static int cell_config(const Grid *x, const Cell *cell, CycleConfig *c, char run[IO_PATH_MAX],
                       Err *e)
{
    *c = *x->g->base;
    if (io_path(run, IO_PATH_MAX, x->g->base->run, cell->name, e)) return -1;
    c->run = run;
    c->judge = *cell->judge;
    c->validator = *cell->validator;
    c->methods = cell->methods;
    c->shared = x->shared;
    c->resume = io_exists(run);
    return 0;
}

/* Labels the last policy's answers to the test prompts by each validator of the grid, and counts
 * the labels.
 */
static int label_cell(const Grid *x, Cell *cell, CycleConfig *c, Err *e)
{
    const CycleGrid *g = x->g;
    const char *last = run_tests[RUN_TEST_LAST].folder;
    char path[IO_PATH_MAX], name[RUN_NAME], responses[RUN_NAME];
    JudgeReport report;
    run_name(responses, last, RESPONSES_FILE);
    const Loop l = {.c = c, .events = x->events, .policy.outside = c->adapter};
    for (size_t v = 0; v < g->n_validators; v++) {
        c->validator = g->validators[v];
        snprintf(name, sizeof name, "%s/by-%s.jsonl", last, c->validator.kind);
        if (loop_path(&l, path, name, e)) return -1;
        if (judge_rows(&l, &c->validator, responses, name,
                       (CycleProgress){.stage = "judge", .name = c->validator.kind}, &report, e))
            return -1;
        if (evaluate_file(&cell->last[v], path, c->seed, c->resamples, e)) return -1;
    }
    return 0;
}

static int run_cell(const Grid *x, Cell *cell, Err *e)
{
    CycleConfig c;
    CycleResult r;
    char run[IO_PATH_MAX];
    log_note(&x->events->log, 'i', "%s", cell->name);
    if (cell_config(x, cell, &c, run, e) || cycle_run(&c, x->events, &r, e)) return -1;
    cell->choices = mem_calloc(r.n_points, sizeof *cell->choices, e);
    cell->n_choices = r.n_points - 1;
    for (size_t i = 0; cell->choices && i < cell->n_choices; i++)
        cell->choices[i] = r.points[i + 1].promoted;
    cell->labelled = r.test_judge_labelled;
    memcpy(cell->head, r.head, sizeof cell->head);
    cycle_result_free(&r);
    return cell->choices ? label_cell(x, cell, &c, e) : -1;
}

/* ---- figures ------------------------------------------------------------------------------- */

static void put_choices(JsonWriter *w, const char *key, const Cell *cell)
{
    json_open(w, key, "[");
    for (size_t i = 0; i < cell->n_choices; i++)
        json_text(w, NULL, choice_name(cell->choices[i]));
    json_close(w, "]");
}

static void put_cell(JsonWriter *w, const Grid *x, const Cell *cell)
{
    const CycleGrid *g = x->g;
    json_open(w, NULL, "{");
    json_text(w, "run", cell->name);
    json_text(w, "judge", cell->judge->kind);
    json_text(w, "validator", cell->validator->kind);
    json_text(w, "methods", methods_names[cell->methods]);
    put_choices(w, "promoted", cell);
    json_flag(w, "test_judge_labelled_training", cell->labelled);
    json_text(w, "ledger_head", cell->head);
    json_open(w, "test", "{");
    for (size_t v = 0; v < g->n_validators; v++) {
        const Estimate *m = cell->last[v].metrics;
        json_open(w, g->validators[v].kind, "{");
        json_key(w, "safety_score");
        json_took(w, evaluate_estimate_json(&m[EVALUATE_SAFETY_SCORE], w->text, w->e));
        json_key(w, "erroneous_refusal");
        json_took(w, evaluate_estimate_json(&m[EVALUATE_ERRONEOUS_REFUSAL], w->text, w->e));
        json_close(w, "}");
    }
    json_close(w, "}}");
}

/* Writes one line for each cell: what its cycles promoted, and its last policy by each
 * validator. */
static int say_cells(Text *t, const Grid *x, Err *e)
{
    const CycleGrid *g = x->g;
    if (text_addf(t, e,
                  "the last policy on the test prompts, as each validator labels them: Safety "
                  "Score / erroneous refusal\n%-34s",
                  "judge-validator-methods"))
        return -1;
    for (size_t v = 0; v < g->n_validators; v++)
        if (text_addf(t, e, "  by %-12s", g->validators[v].kind)) return -1;
    if (text_addf(t, e, "  promoted\n")) return -1;
    for (size_t i = 0; i < x->n; i++) {
        const Cell *cell = &x->cells[i];
        if (text_addf(t, e, "%-34s", cell->name + strlen("grid-"))) return -1;
        for (size_t v = 0; v < g->n_validators; v++)
            if (text_addf(t, e, "  %.3f / %.3f  ",
                          cell->last[v].metrics[EVALUATE_SAFETY_SCORE].value,
                          cell->last[v].metrics[EVALUATE_ERRONEOUS_REFUSAL].value))
                return -1;
        for (size_t k = 0; k < cell->n_choices; k++)
            if (text_addf(t, e, "  %s", choice_name(cell->choices[k]))) return -1;
        if (text_add(t, "\n", 1, e)) return -1;
    }
    return 0;
}

/* ---- was self-judging good enough? --------------------------------------------------------- */

/* Compares two cells: the self-judged one with another judge's. */
static int compare_judges(const Grid *x, const Cell *self, const Cell *other, size_t v,
                          JsonWriter *json, Text *table, Err *e)
{
    const CycleConfig *c = x->g->base;
    Comparison d = {0};
    if (evaluate_compare(&d, &other->last[v], &self->last[v], c->confidence, e)) return -1;
    const Change *gain = &d.metrics[EVALUATE_SAFETY_SCORE],
                 *added = &d.metrics[EVALUATE_ERRONEOUS_REFUSAL];
    int enough = gain->low >= -c->max_added_refusal && added->high <= c->max_added_refusal;
    json_line(json, 4);
    json_open(json, NULL, "{");
    json_text(json, "against", other->judge->kind);
    json_text(json, "validator", self->validator->kind);
    json_text(json, "methods", methods_names[self->methods]);
    json_flag(json, "good_enough", enough);
    json_number(json, "margin", c->max_added_refusal);
    json_key(json, "safety_score");
    json_took(json, evaluate_change_json(gain, json->text, e));
    json_key(json, "erroneous_refusal");
    json_took(json, evaluate_change_json(added, json->text, e));
    json_close(json, "}");
    int status =
        text_addf(table, e,
                  "self-judging against %s (validator %s, %s): %s: Safety Score %+.3f [%+.3f, "
                  "%+.3f], erroneous refusal %+.3f [%+.3f, %+.3f]\n",
                  other->judge->kind, self->validator->kind, methods_names[self->methods],
                  enough ? "good enough" : "NOT shown to be good enough", gain->difference,
                  gain->low, gain->high, added->difference, added->low, added->high);
    evaluate_compare_close(&d);
    return status;
}

static int say_self(const Grid *x, JsonWriter *json, Text *table, Err *e)
{
    int any = 0;
    for (size_t i = 0; i < x->n; i++)
        for (size_t k = 0; k < x->n; k++) {
            const Cell *self = &x->cells[i], *other = &x->cells[k];
            if (!judge_has(self->judge, JUDGE_IS_POLICY) ||
                judge_has(other->judge, JUDGE_IS_POLICY) ||
                judge_has(self->validator, JUDGE_IS_POLICY) ||
                self->validator != other->validator || self->methods != other->methods)
                continue;
            size_t v = (size_t)(self->validator - x->g->validators);
            if (compare_judges(x, self, other, v, json, table, e)) return -1;
            any = 1;
        }
    if (any) return 0;
    return text_addf(
        table, e,
        "was self-judging good enough? that takes --judges self and another one, and a "
        "validator that is not self\n");
}

/* ---- how the validator moved the choice ---------------------------------------------------- */

/* Did these two runs promote the same in every cycle? */
static int same_choices(const Cell *a, const Cell *b)
{
    if (a->n_choices != b->n_choices) return 0;
    for (size_t i = 0; i < a->n_choices; i++)
        if (a->choices[i] != b->choices[i]) return 0;
    return 1;
}

/* Writes what the n cells of one judge and methods promoted, one cell for each validator. */
static int say_choice(const Cell *cells, size_t n, JsonWriter *json, Text *table, Err *e)
{
    int moved = 0;
    for (size_t i = 1; i < n; i++) moved |= !same_choices(&cells[0], &cells[i]);
    json_line(json, 4);
    json_open(json, NULL, "{");
    json_text(json, "judge", cells->judge->kind);
    json_text(json, "methods", methods_names[cells->methods]);
    json_flag(json, "moved", moved);
    json_open(json, "by", "{");
    if (text_addf(table, e,
                  "the validator %s the choice (judge %s, %s):", moved ? "moved" : "did not move",
                  cells->judge->kind, methods_names[cells->methods]))
        return -1;
    for (size_t i = 0; i < n; i++) {
        put_choices(json, cells[i].validator->kind, &cells[i]);
        if (text_addf(table, e, "%s %s", i ? ";" : "", cells[i].validator->kind)) return -1;
        for (size_t k = 0; k < cells[i].n_choices; k++)
            if (text_addf(table, e, " %s", choice_name(cells[i].choices[k]))) return -1;
    }
    json_close(json, "}}");
    return text_add(table, "\n", 1, e);
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int put_grid(const Grid *x, Text *json, Text *table, Err *e)
{
    const size_t side = x->g->n_validators;
    JsonWriter w = {.text = json, .e = e};
    json_open(&w, NULL, "{");
    json_line(&w, 2);
    json_open(&w, "cells", "[");
    if (say_cells(table, x, e)) return -1;
    for (size_t i = 0; i < x->n; i++) {
        json_line(&w, 4);
        put_cell(&w, x, &x->cells[i]);
    }
    json_close(&w, "\n  ]");
    json_line(&w, 2);
    json_open(&w, "self", "[");
    if (say_self(x, &w, table, e)) return -1;
    json_close(&w, "\n  ]");
    json_line(&w, 2);
    json_open(&w, "choices", "[");
    for (size_t i = 0; i < x->n; i += side)
        if (say_choice(&x->cells[i], side, &w, table, e)) return -1;
    json_close(&w, "\n  ]\n}\n");
    return json_written(&w);
}

/* Makes the cells, ordered by judge, methods and validator, so that the validators of one judge and
 * methods are neighbours. */
static void name_cells(Grid *x)
{
    const CycleGrid *g = x->g;
    Cell *cell = x->cells;
    for (size_t j = 0; j < g->n_judges; j++)
        for (size_t m = 0; m < g->n_methods; m++)
            for (size_t v = 0; v < g->n_validators; v++, cell++) {
                cell->judge = &g->judges[j];
                cell->validator = &g->validators[v];
                cell->methods = g->methods[m];
                snprintf(cell->name, sizeof cell->name, "grid-%.20s-%.20s-%.20s", cell->judge->kind,
                         cell->validator->kind, methods_names[cell->methods]);
            }
}

/* The folder is locked: two grids would sweep each other's files. */
static int run_grid(Grid *x, Text *json, Text *table, Err *e)
{
    char path[IO_PATH_MAX], hex[65];
    const char *run = x->g->base->run;
    if (io_path(x->shared, IO_PATH_MAX, run, SHARED_FOLDER, e) ||
        io_make_directory(x->shared, 1, e) || loop_sweep(x->shared, e))
        return -1;
    for (size_t i = 0; i < x->n; i++)
        if (run_cell(x, &x->cells[i], e)) return err_prefix(e, "%s", x->cells[i].name);
    if (put_grid(x, json, table, e) || io_path(path, sizeof path, run, CYCLE_GRID_FILE, e) ||
        io_write_file(path, json->data, json->len, e))
        return -1;
    sha256_bytes(json->data, json->len, hex);
    return text_addf(table, e,
                     CYCLE_GRID_FILE
                     " sha256 %s\nkeep it elsewhere: the file names the ledger head "
                     "of every run\n",
                     hex);
}

int cycle_grid_check(const CycleGrid *g, Err *e)
{
    if (!(g->base->test > 0))
        return err_set(e, ERR_USAGE, "--test: found 0; a grid compares its runs on test prompts");
    for (size_t j = 0; j < g->n_judges; j++)
        for (size_t v = 0; v < g->n_validators; v++)
            for (size_t m = 0; m < g->n_methods; m++) {
                CycleConfig c = *g->base;
                c.judge = g->judges[j];
                c.validator = g->validators[v];
                c.methods = g->methods[m];
                if (cycle_config_check(&c, e)) return -1;
            }
    return 0;
}

int cycle_grid(const CycleGrid *g, const CycleEvents *events, Text *json, Text *table, Err *e)
{
    static const CycleEvents silent;
    const CycleConfig *c = g->base;
    if (cycle_grid_check(g, e)) return -1;
    int existed = io_exists(c->run);
    IoLock lock;
    if (loop_check_new(c, e)) return -1;
    if (io_is_directory(c->run) && loop_check_folder(c->run, SHARED_FOLDER, "grid", e)) return -1;
    mode_t before = umask(077);
    Grid x = {.g = g, .events = events ? events : &silent};
    x.n = g->n_judges * g->n_validators * g->n_methods;
    x.cells = mem_calloc(x.n, sizeof *x.cells, e);
    x.shared = x.cells ? mem_alloc(IO_PATH_MAX, e) : NULL;
    int status = x.shared ? 0 : -1;
    if (!status) name_cells(&x);
    if (!status) status = io_make_directory(c->run, 1, e) || io_lock(&lock, c->run, e) ? -1 : 0;
    if (!status) {
        status = run_grid(&x, json, table, e);
        io_unlock(&lock);
    }
    for (size_t i = 0; x.cells && i < x.n; i++) {
        mem_free(x.cells[i].choices);
        for (size_t v = 0; v < g->n_validators; v++) evaluate_close(&x.cells[i].last[v]);
    }
    if (status && !existed && x.shared && *x.shared) { /* remove fails if a file is in them */
        remove(x.shared);
        remove(c->run);
    }
    mem_free(x.cells);
    mem_free(x.shared);
    umask(before);
    return status;
}
