/* judge_kept.c - keeps verdicts in a file, so that nothing is judged twice.
 *
 * A slow judge (a model, a program) writes each verdict to a file, as a line
 *     {"key":"...","action":"refuse","probability":[0.1,0.2,0.7]}
 * which for a model also holds "orders", "agreeing", "unparsed" and "cut". The key is the SHA-256
 * of the judge and of the case, so any number of judges may share a file. Doubles are written with
 * all their digits, so a verdict that is read back has the same bits. After a crash the next run
 * asks only for the rest.
 */
#include "judge_parts.h"

#include <string.h>

enum { FIRST_SLOTS = 1024 /* of the hash table */ };
#define NO_VERDICT                                                                                 \
    "no verdict that was kept, {\"key\",\"action\",\"probability\"}; is this a file of kept "     \
    "answers?"

typedef struct {
    char key[65];
    int known;
    int asked; /* is being judged at the moment */
    Verdict verdict;
} Entry;

struct Kept {
    const char *path; /* borrowed */
    char judge[65];
    Entry **slots; /* hash table with open addressing, at most half full */
    size_t cap, count;
    Pool pool;
};

/* ---- the table ----------------------------------------------------------------------------- */

/* Returns the slot of a key, or the empty slot where it belongs. Keys are already hashes. */
static Entry **slot_of(Entry **slots, size_t cap, const char *key)
{
    size_t at = 0;
    for (size_t i = 0; i < 16; i++) at = at * 31 + (unsigned char)key[i];
    for (at %= cap; slots[at] && strcmp(slots[at]->key, key); at = (at + 1) % cap) continue;
    return &slots[at];
}

static int grow_slots(Kept *k, Err *e)
{
    size_t cap = k->cap ? 2 * k->cap : FIRST_SLOTS;
    Entry **more = mem_calloc(cap, sizeof *more, e);
    if (!more) return -1;
    for (size_t i = 0; i < k->cap; i++)
        if (k->slots[i]) *slot_of(more, cap, k->slots[i]->key) = k->slots[i];
    mem_free(k->slots);
    k->slots = more;
    k->cap = cap;
    return 0;
}

/* Returns the entry of a key, a new one if there is none; NULL if memory is short. */
static Entry *entry_of(Kept *k, const char *key, Err *e)
{
    if (2 * (k->count + 1) > k->cap && grow_slots(k, e)) return NULL;
    Entry **slot = slot_of(k->slots, k->cap, key);
    if (*slot) return *slot;
    Entry *x = pool_alloc(&k->pool, sizeof *x, e);
    if (!x) return NULL;
    memcpy(x->key, key, sizeof x->key);
    k->count++;
    return *slot = x;
}

static Entry *entry_of_case(Kept *k, const JudgeCase *c, Err *e)
{
    char key[65];
    Sha256 s;
    judge_case_key(c, key);
    sha256_begin(&s);
    sha256_add(&s, k->judge, strlen(k->judge));
    sha256_add(&s, key, strlen(key));
    sha256_end(&s, key);
    return entry_of(k, key, e);
}

/* ---- the file ------------------------------------------------------------------------------ */

static int put_verdict(Text *out, const char *key, const Verdict *v, Err *e)
{
    if (text_addf(out, e, "{\"key\":\"%s\",\"action\":\"%s\",\"probability\":[", key,
                  action_names[v->action]))
        return -1;
    for (size_t a = 0; a < ACTION_COUNT; a++)
        if ((a && text_add(out, ",", 1, e)) || json_put_f64(out, v->probability[a], e)) return -1;
    if (text_add(out, "]", 1, e) ||
        (v->orders &&
         text_addf(out, e, ",\"orders\":%zu,\"agreeing\":%zu", v->orders, v->agreeing)) ||
        (v->unparsed && text_addf(out, e, ",\"unparsed\":true")) ||
        (v->cut && text_addf(out, e, ",\"cut\":true")))
        return -1;
    return text_add(out, "}", 1, e);
}

/* Reads a whole number from a line; 0 if it is absent. */
static int read_count(const Json *row, const char *name, size_t *value)
{
    uint64_t n = 0;
    const Json *j = json_get(row, name);
    if (j && (json_u64(j, &n) || n > JUDGE_MAX_ORDERS)) return -1;
    *value = (size_t)n;
    return 0;
}

static int is_true(const Json *row, const char *name)
{
    const Json *j = json_get(row, name);
    return j && j->type == JSON_TRUE;
}

static int read_verdict(const Json *row, Verdict *v)
{
    int action = action_of(json_get(row, "action"));
    const Json *list = json_get(row, "probability"), *p = list ? list->child : NULL;
    *v = (Verdict){.unparsed = is_true(row, "unparsed"), .cut = is_true(row, "cut")};
    if (action < 0 || !list || list->type != JSON_ARRAY || list->len != ACTION_COUNT) return -1;
    v->action = (Action)action;
    for (size_t a = 0; a < ACTION_COUNT; a++, p = p->next)
        if (json_f64(p, &v->probability[a]) || v->probability[a] < 0 || v->probability[a] > 1)
            return -1;
    return read_count(row, "orders", &v->orders) || read_count(row, "agreeing", &v->agreeing) ||
                   v->agreeing > v->orders
               ? -1
               : 0;
}

static int load_verdict(Kept *k, const Json *row, Err *e)
{
    Verdict v;
    const Json *key = json_get(row, "key");
    if (!key || key->type != JSON_STRING || key->len != sizeof((Entry){0}).key - 1 ||
        strlen(key->text) != key->len || read_verdict(row, &v))
        return err_set(e, ERR_DATA, NO_VERDICT);
    Entry *x = entry_of(k, key->text, e);
    if (!x) return -1;
    x->verdict = v;
    x->known = 1;
    return 0;
}

/* Is this the beginning of a line that a crash cut off? Only such a line may be removed. */
static int is_torn_verdict(const char *line, size_t len)
{
    static const char begin[] = "{\"key\":\"";
    size_t n = len < sizeof begin - 1 ? len : sizeof begin - 1;
    return !memcmp(line, begin, n);
}

/* Reads the whole lines. A last line without a line feed was cut off by a crash, and is removed. */
static int load_verdicts(Kept *k, const Log *log, Err *e)
{
    JsonLines lines;
    int more;
    if (jsonl_open(&lines, k->path, e)) return -1;
    size_t len = lines.len;
    while (lines.len && lines.data[lines.len - 1] != '\n') lines.len--;
    do {
        Pool pool = {0};
        Json *row;
        more = jsonl_next(&lines, &pool, &row, e);
        if (more > 0 && load_verdict(k, row, e))
            more = err_prefix(e, "%s:%zu", k->path, lines.line);
        pool_free(&pool);
    } while (more > 0);
    const char *torn = lines.data + lines.len;
    if (!more && len > lines.len)
        more = is_torn_verdict(torn, len - lines.len)
                   ? io_write_file(k->path, lines.data, lines.len, e)
                   : err_set(e, ERR_DATA, "%s: its last line is " NO_VERDICT, k->path);
    if (!more && len > lines.len)
        log_note(log, 'w', "%s: its last line is cut off, and taken off the file", k->path);
    jsonl_close(&lines);
    return more;
}

Kept *judge_kept_open(const char *path, const char judge[65], const Log *log, Err *e)
{
    Kept *k = mem_calloc(1, sizeof *k, e);
    if (!k) return NULL;
    k->path = path;
    memcpy(k->judge, judge, sizeof k->judge);
    if (!io_exists(path) || !load_verdicts(k, log, e)) return k;
    judge_kept_close(k);
    return NULL;
}

void judge_kept_close(Kept *k)
{
    if (!k) return;
    mem_free(k->slots);
    pool_free(&k->pool);
    mem_free(k);
}

/* ---- judging ------------------------------------------------------------------------------- */

int judge_kept_put(Kept *k, const JudgeCase *c, const Verdict *v, int sync, Err *e)
{
    Text line = {0};
    Entry *x = entry_of_case(k, c, e);
    if (!x) return -1;
    if (x->known) return 0;
    int status =
        put_verdict(&line, x->key, v, e) || io_append_line(k->path, line.data, line.len, sync, e);
    text_free(&line);
    if (status) return -1;
    x->verdict = *v;
    x->known = 1;
    return 0;
}

/* The state of judge_kept_decide. */
typedef struct {
    Entry **entries;   /* [n] of all cases */
    JudgeCase *cases;  /* [n_new] cases without a verdict; equal cases once */
    Verdict *verdicts; /* [n_new] */
    size_t n_new;
} Missing;

static int find_missing(Kept *k, const JudgeCase *cases, size_t n, Missing *m, Err *e)
{
    m->entries = mem_calloc(n + 1, sizeof *m->entries, e);
    m->cases = mem_calloc(n + 1, sizeof *m->cases, e);
    m->verdicts = mem_calloc(n + 1, sizeof *m->verdicts, e);
    if (!m->entries || !m->cases || !m->verdicts) return -1;
    for (size_t i = 0; i < n; i++) {
        Entry *x = m->entries[i] = entry_of_case(k, &cases[i], e);
        if (!x) return -1;
        if (x->known || x->asked) continue;
        x->asked = 1;
        m->cases[m->n_new++] = cases[i];
    }
    return 0;
}

int judge_kept_decide(const Judge *j, const JudgeCase *cases, size_t n, Verdict *out, Err *e)
{
    Missing m = {0};
    int status = find_missing(j->kept, cases, n, &m, e);
    if (!status && m.n_new) status = j->kind->decide(j, m.cases, m.n_new, m.verdicts, e);
    for (size_t i = 0; i < m.n_new && !status; i++)
        status = judge_kept_put(j->kept, &m.cases[i], &m.verdicts[i], i + 1 == m.n_new, e);
    for (size_t i = 0; i < n && m.entries && m.entries[i]; i++) {
        m.entries[i]->asked = 0;
        if (!status) out[i] = m.entries[i]->verdict;
    }
    mem_free(m.entries);
    mem_free(m.cases);
    mem_free(m.verdicts);
    return status ? -1 : 0;
}
