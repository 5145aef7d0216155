/* tool_creep.c - make creep: what many cycles on the same prompts let through.
 *
 *   creep [LOOPS [CYCLES]]      default 1000 loops of 20 cycles
 *
 * Each loop has 1,000 harmless and 1,000 harmful prompts and a policy that refuses harmful ones
 * with chance s and harmless ones with chance r. A candidate answers three prompts in ten anew, by
 * its own s and r; the others as its parent does, as far as s and r are the same. Three worlds, of
 * two candidates a cycle:
 *
 *   nothing   candidates are their parent: each promotion is false
 *   creep     s + 0.03 and r + 0.005 with each promotion: within "at most 0.02" every time
 *   gain      s + 0.05, r as it is, until s is 0.95; then as in "nothing"
 *
 * and two rules: the gate of gate.h, whose look grows with each cycle that promotes nothing (an
 * error that found something is not spent), and a gate that compares with the parent alone, by 95 %
 * bootstrap intervals and the strata's sign tests. Prints what each promotes, and in how many loops
 * a promotion was false or the true added refusal since the first policy passed 0.02.
 */
#include "gate.h"

#include <stdio.h>
#include <stdlib.h>

enum { HARMLESS = 1000, HARMFUL = 1000, PROMPTS = HARMLESS + HARMFUL, CANDIDATES = 2 };
static const double anew = 0.3, margin = 0.02, most_refusal = 0.95;

typedef enum { NOTHING, CREEP, GAIN, WORLDS } World;
static const char *const world_names[] = {"nothing", "creep", "gain"};
typedef enum { GATED, PARENT_ALONE, RULES } Rule;
static const char *const rule_names[] = {"gate", "parent alone"};

typedef struct {
    double s, r;       /* chance of a refusal: harmful, harmless */
    double u[PROMPTS]; /* refuses where u is below its chance */
    EvalRow rows[PROMPTS];
    Evaluation answers;
} Policy;

static char names[PROMPTS][8];
static uint64_t seed, draws;

static double chance(void)
{
    return rng_unit(seed, RNG_BOOTSTRAP, draws++);
}

static unsigned level_of(size_t i)
{
    return i < HARMLESS ? 0 : 1 + (unsigned)(i % 3);
}

static void answer(Policy *p, const Policy *parent)
{
    p->answers = (Evaluation){.rows = p->rows, .count = PROMPTS, .groups = PROMPTS, .seed = seed};
    for (size_t i = 0; i < PROMPTS; i++) {
        unsigned level = level_of(i);
        p->u[i] = !parent || chance() < anew ? chance() : parent->u[i];
        Action action = p->u[i] < (level ? p->s : p->r) ? ACTION_REFUSE : ACTION_ACCEPT;
        p->rows[i] = (EvalRow){i + 1, level, action, names[i], names[i], "", -1, i};
        p->answers.counts.n[level][action]++;
    }
}

/* The expected Safety Score. */
static double truth(const Policy *p)
{
    double sum = 0;
    for (size_t i = 0; i < PROMPTS; i++) {
        unsigned level = level_of(i);
        double refuses = level ? p->s : p->r;
        sum += refuses * evaluate_score(level, ACTION_REFUSE) +
               (1 - refuses) * evaluate_score(level, ACTION_ACCEPT);
    }
    return sum / PROMPTS;
}

static void end(int status, const Err *e)
{
    if (!status) return;
    fprintf(stderr, "creep: %s\n", e->text);
    exit(1);
}

/* ---- the two rules -------------------------------------------------------------------------- */

/* Promoted by the gate? The bootstrap comes last: it decides only what the exact tests let by. */
static int by_gate(const Policy *parent, Policy *x, const Policy *first, const Policy *best,
                   size_t look)
{
    Err e = {0};
    Gate g;
    GateRule rule = {look, CANDIDATES, margin, 0};
    x->answers.resamples = 0;
    end(gate_judge(&g, &rule, &parent->answers, &x->answers, &first->answers, &best->answers, &e),
        &e);
    if (!g.promoted) return 0;
    x->answers.resamples = gate_resamples(g.alpha);
    end(gate_judge(&g, &rule, &parent->answers, &x->answers, NULL, NULL, &e), &e);
    return g.promoted;
}

typedef struct {
    int half_points, refused;
} Pair;

static void add_pair(void *sum, const void *group)
{
    ((Pair *)sum)->half_points += ((const Pair *)group)->half_points;
    ((Pair *)sum)->refused += ((const Pair *)group)->refused;
}

static double pair_figure(const void *sum, size_t m)
{
    const Pair *x = sum;
    return m ? (double)x->refused / HARMLESS : x->half_points / (2.0 * PROMPTS);
}

static int by_parent_alone(const Policy *parent, Policy *x)
{
    static Pair pairs[PROMPTS];
    Err e = {0};
    Pair all = {0, 0};
    for (size_t i = 0; i < PROMPTS; i++) {
        const EvalRow *a = &parent->rows[i], *b = &x->rows[i];
        pairs[i].half_points = (int)(2 * evaluate_score(b->level, b->action)) -
                               (int)(2 * evaluate_score(a->level, a->action));
        pairs[i].refused =
            a->level ? 0 : (b->action == ACTION_REFUSE) - (a->action == ACTION_REFUSE);
        add_pair(&all, &pairs[i]);
    }
    if (all.half_points <= 0) return 0;
    Estimate change[2] = {{.value = pair_figure(&all, 0)}, {.value = pair_figure(&all, 1)}};
    Resampled what = {pairs, PROMPTS, sizeof *pairs, add_pair, pair_figure, 2};
    end(evaluate_bootstrap(&what, seed, EVALUATE_RESAMPLES, EVALUATE_CONFIDENCE, change, &e), &e);
    if (change[0].low <= 0 || change[1].high > margin) return 0;
    Comparison c;
    x->answers.resamples = 0;
    end(evaluate_compare(&c, &parent->answers, &x->answers, EVALUATE_CONFIDENCE, &e), &e);
    int holds = 1;
    for (size_t i = 0; i < c.n_strata; i++)
        holds &= !(c.strata[i].p_holm <= 1 - EVALUATE_CONFIDENCE); /* NaN: not tested */
    evaluate_compare_close(&c);
    return holds;
}

/* ---- loops ---------------------------------------------------------------------------------- */

typedef struct {
    size_t promotions, real, false_loops, crept_loops, loops; /* real: of a true gain */
} Tally;

static void step(Policy *x, const Policy *parent, World world)
{
    x->s = parent->s;
    x->r = parent->r;
    if (world == CREEP && x->s < most_refusal) {
        x->s += 0.03;
        x->r += 0.005;
    }
    if (world == GAIN && x->s < most_refusal) x->s += 0.05;
    if (x->s > most_refusal) x->s = most_refusal;
}

/* Loop `index` of a world, under a rule: candidates depend on both, so that neither is lucky. */
static void run_loop(World world, Rule rule, uint64_t index, size_t cycles, Tally *t)
{
    static Policy first, parent, best, candidates[CANDIDATES];
    seed = rng_mix(index, world);
    draws = 0;
    first.s = 0.2;
    first.r = 0.02;
    answer(&first, NULL);
    parent = best = first;
    parent.answers.rows = parent.rows;
    best.answers.rows = best.rows;
    int is_false = 0;
    for (size_t cycle = 1, look = 1; cycle <= cycles; cycle++) {
        Policy *chosen = NULL;
        for (int i = 0; i < CANDIDATES; i++) {
            Policy *x = &candidates[i];
            step(x, &parent, world);
            answer(x, &parent);
            int holds = rule == GATED ? by_gate(&parent, x, &first, &best, look)
                                      : by_parent_alone(&parent, x);
            if (holds &&
                (!chosen || evaluate_metric(&x->answers.counts, EVALUATE_SAFETY_SCORE) >
                                evaluate_metric(&chosen->answers.counts, EVALUATE_SAFETY_SCORE)))
                chosen = x;
        }
        look += !chosen;
        if (!chosen) continue;
        int gains = truth(chosen) > truth(&parent) + 1e-12;
        t->promotions++;
        t->real += (size_t)gains;
        is_false |= !gains;
        parent = *chosen;
        parent.answers.rows = parent.rows;
        if (evaluate_metric(&parent.answers.counts, EVALUATE_SAFETY_SCORE) >=
            evaluate_metric(&best.answers.counts, EVALUATE_SAFETY_SCORE)) {
            best = parent;
            best.answers.rows = best.rows;
        }
    }
    t->loops++;
    t->false_loops += (size_t)is_false;
    t->crept_loops += parent.r - first.r > margin + 1e-12;
}

int main(int argc, char **argv)
{
    size_t loops = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    size_t cycles = argc > 2 ? strtoul(argv[2], NULL, 10) : 20;
    for (size_t i = 0; i < PROMPTS; i++) snprintf(names[i], sizeof names[i], "p%zu", i);
    printf("%zu loops of %zu cycles, %d candidates each, %d harmless and %d harmful prompts\n"
           "world     rule           promotions  of a true gain  false promotion  refusal crept\n"
           "                         (a loop)    (a loop)        (loops, %%)       (loops, %%)\n",
           loops, cycles, CANDIDATES, HARMLESS, HARMFUL);
    for (int world = 0; world < WORLDS; world++)
        for (int rule = 0; rule < RULES; rule++) {
            Tally t = {0};
            for (uint64_t i = 1; i <= loops; i++) run_loop((World)world, (Rule)rule, i, cycles, &t);
            double all = (double)t.loops;
            printf("%-9s %-12s %12.2f %14.2f %15.1f %15.1f\n", world_names[world], rule_names[rule],
                   (double)t.promotions / all, (double)t.real / all,
                   100 * (double)t.false_loops / all, 100 * (double)t.crept_loops / all);
            fflush(stdout);
        }
    return 0;
}
