/* cycle_prompts.c - the prompts of a run: reads them, splits them, and gives each cycle its
 * share. */
#include "cycle_parts.h"

#include <string.h>

/* ---- prompts ------------------------------------------------------------------------------- */

static int grow_rows(PromptSet *p, size_t *cap, Err *e)
{
    if (p->count < *cap) return 0;
    size_t more = *cap ? 2 * *cap : 256, bytes;
    if (size_mul(more, sizeof *p->rows, &bytes))
        return err_set(e, ERR_MEMORY, "%zu prompts are too many", more);
    PromptRow *grown = mem_realloc(p->rows, bytes, e);
    if (!grown) return -1;
    p->rows = grown;
    *cap = more;
    return 0;
}

/* Checks what every prompt needs: a text or a conversation, and a harm level. */
static int check_prompt(const Json *row, unsigned *level, Err *e)
{
    const Json *prompt = json_get(row, "prompt"), *shown = json_get(row, "demonstration");
    if (!prompt || (prompt->type != JSON_STRING && prompt->type != JSON_ARRAY))
        return data_refuse(row, "prompt", "a string or a list of messages", e);
    if (harm_level(row, level))
        return data_refuse(row, "harmful_level", "0, 1, 2 or 3", e);
    if (shown && shown->type != JSON_STRING && shown->type != JSON_NULL)
        return data_refuse(row, "demonstration", "a string", e);
    return 0;
}

static int read_prompts(PromptSet *p, const char *path, const char ***base, Err *e)
{
    JsonLines lines;
    size_t cap = 0;
    int more;
    if (jsonl_open(&lines, path, e)) return -1;
    for (;;) {
        Json *row;
        more = jsonl_next(&lines, &p->pool, &row, e);
        if (more <= 0) break;
        unsigned level = 0;
        if (check_prompt(row, &level, e)) {
            more = err_prefix(e, "%s:%zu", path, lines.line);
            break;
        }
        const char **names =
            grow_rows(p, &cap, e) ? NULL : mem_realloc(*base, cap * sizeof **base, e);
        if (names) *base = names;
        if (!names || !(names[p->count] = evaluate_base(row, lines.line, &p->pool, e))) {
            more = -1;
            break;
        }
        p->rows[p->count] =
            (PromptRow){.json = row, .index = p->count, .line = lines.line, .level = level};
        p->count++;
    }
    sha256_bytes(lines.data, lines.len, p->sha256);
    jsonl_close(&lines);
    if (more < 0) return -1;
    return p->count ? 0 : err_set(e, ERR_DATA, "%s: no prompts in it", path);
}

/* A base prompt in the random order of its level. */
typedef struct {
    size_t group;
    unsigned level;
    uint64_t key;
} Ticket;

/* By level, then in the drawn order. */
static int by_ticket(const void *x, const void *y)
{
    const Ticket *a = x, *b = y;
    if (a->level != b->level) return a->level < b->level ? -1 : 1;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    return a->group < b->group ? -1 : a->group > b->group;
}

/* n x share, rounded to the nearest whole number. */
static size_t share_of(double share, size_t n)
{
    return (size_t)(share * (double)n + 0.5);
}

/* Distributes the groups of one level, in their drawn order, to the splits. */
static void deal_level(const CycleConfig *c, const Ticket *tickets, size_t n, Split *of_group)
{
    size_t validation = share_of(c->validation, n), test = share_of(c->test, n);
    for (size_t i = 0; i < n; i++)
        of_group[tickets[i].group] = i < validation          ? SPLIT_VALIDATION
                                     : i < validation + test ? SPLIT_TEST
                                                             : SPLIT_TRAIN;
}

static int split_groups(PromptSet *p, const CycleConfig *c, Err *e)
{
    Ticket *tickets = mem_calloc(p->groups, sizeof *tickets, e);
    Split *of_group = tickets ? mem_calloc(p->groups, sizeof *of_group, e) : NULL;
    if (!of_group) {
        mem_free(tickets);
        return -1;
    }
    for (size_t i = p->count; i-- > 0;) { /* backwards: the first row sets the group's level */
        PromptRow *r = &p->rows[i];
        tickets[r->group] = (Ticket){r->group, r->level, rng_u64(c->seed, RNG_SPLIT, r->group)};
    }
    for (size_t i = 0; i < p->count; i++) p->rows[i].turn = tickets[p->rows[i].group].key;
    sort_items(tickets, p->groups, sizeof *tickets, by_ticket);
    for (size_t at = 0, n; at < p->groups; at += n) {
        for (n = 1; at + n < p->groups && tickets[at + n].level == tickets[at].level;) n++;
        deal_level(c, tickets + at, n, of_group);
    }
    for (size_t i = 0; i < p->count; i++) {
        p->rows[i].split = of_group[p->rows[i].group];
        p->split_rows[p->rows[i].split]++;
    }
    mem_free(tickets);
    mem_free(of_group);
    return 0;
}

/* Checks that a split on which policies are measured can show both failures: it needs harmless and
 * harmful prompts. */
static int check_split(const PromptSet *p, Split split, const char *name, const char *path, Err *e)
{
    size_t harmless = 0, harmful = 0;
    for (size_t i = 0; i < p->count; i++) {
        if (p->rows[i].split != split) continue;
        p->rows[i].level ? harmful++ : harmless++;
    }
    if (harmless && harmful) return 0;
    return err_set(e, ERR_DATA,
                   "%s: the %s split has %zu harmless and %zu harmful prompts, and needs both: "
                   "without them %s could not be seen; give more prompts or a larger --%s",
                   path, name, harmless, harmful,
                   harmless ? "unsafe answers" : "erroneous refusals", name);
}

int prompts_open(PromptSet *p, const CycleConfig *c, Err *e)
{
    *p = (PromptSet){0};
    const char **base = NULL;
    size_t *group = NULL;
    int status = read_prompts(p, c->prompts, &base, e);
    if (!status && !(group = mem_alloc(p->count * sizeof *group, e))) status = -1;
    if (!status) status = evaluate_group_bases(base, p->count, group, &p->groups, e);
    for (size_t i = 0; !status && i < p->count; i++) p->rows[i].group = group[i];
    mem_free(base);
    mem_free(group);
    if (!status) status = split_groups(p, c, e);
    if (!status && !p->split_rows[SPLIT_TRAIN])
        status = err_set(e, ERR_DATA,
                         "%s: the splits leave no prompt to train on; lower --validation or --test",
                         c->prompts);
    if (!status) status = check_split(p, SPLIT_VALIDATION, "validation", c->prompts, e);
    if (!status && c->test > 0) status = check_split(p, SPLIT_TEST, "test", c->prompts, e);
    if (status) prompts_close(p);
    return status;
}

void prompts_close(PromptSet *p)
{
    mem_free(p->rows);
    pool_free(&p->pool);
    *p = (PromptSet){0};
}

/* Sorts training prompts by the order in which cycles take them. */
static int by_turn(const void *x, const void *y)
{
    const PromptRow *a = *(PromptRow *const *)x, *b = *(PromptRow *const *)y;
    if (a->turn != b->turn) return a->turn < b->turn ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

static int by_index(const void *x, const void *y)
{
    const PromptRow *a = *(PromptRow *const *)x, *b = *(PromptRow *const *)y;
    return a->index < b->index ? -1 : a->index > b->index;
}

/* Writes the row with its index among all prompts, which identifies it in draws and in every later
 * file. */
static int write_prompt(Writer *w, const PromptRow *r, Text *line, Err *e)
{
    line->len = 0;
    if (text_addf(line, e, "{\"index\":%zu", r->index)) return -1;
    for (const Json *m = r->json->child; m; m = m->next) {
        if (!strcmp(m->key, "index")) continue;
        if (text_add(line, ",", 1, e) || json_put_string(line, m->key, m->key_len, e) ||
            text_add(line, ":", 1, e) || json_put(line, m, e))
            return -1;
    }
    return text_add(line, "}\n", 2, e) || writer_put(w, line->data, line->len, e) ? -1 : 0;
}

int prompts_write(const PromptSet *p, Split split, size_t cycle, size_t per_cycle, const char *path,
                  Err *e)
{
    Writer w = {0};
    Text line = {0};
    size_t total = p->split_rows[split], n = 0;
    PromptRow **rows = mem_calloc(total + 1, sizeof *rows, e);
    if (!rows) return -1;
    for (size_t i = 0; i < p->count; i++)
        if (p->rows[i].split == split) rows[n++] = &p->rows[i];
    if (per_cycle && per_cycle < total) { /* the next part of a circle */
        PromptRow **chosen = mem_calloc(per_cycle, sizeof *chosen, e);
        sort_items(rows, n, sizeof *rows, by_turn);
        for (size_t i = 0; chosen && i < per_cycle; i++)
            chosen[i] = rows[((cycle - 1) * per_cycle + i) % total];
        mem_free(rows);
        rows = chosen;
        n = per_cycle;
        if (!rows) return -1;
        sort_items(rows, n, sizeof *rows, by_index);
    }
    int status = writer_open(&w, path, e);
    for (size_t i = 0; !status && i < n; i++) status = write_prompt(&w, rows[i], &line, e);
    if (!status) status = writer_commit(&w, e);
    writer_abort(&w);
    text_free(&line);
    mem_free(rows);
    return status;
}
