/* train_reference.c - computes the reference's log-probs once, before the first step, and keeps
 * them.
 *
 * The reference never changes, and a sequence's log-probs have the same bits alone and in a batch,
 * so one pass serves all epochs. The file in the run directory carries a key, the SHA-256 of
 * everything the numbers depend on; with another key, or damaged, it is not used.
 */
#include "train_parts.h"

#include <math.h>
#include <string.h>

/* Version of the file's format and of the meaning of its numbers. */
#define REFERENCE_FORMAT 1
/* Most seconds of work that a killed run may lose. */
#define REFERENCE_SAVE_SECONDS 60

/* ---- the key ------------------------------------------------------------------------------- */

static void add_count(Sha256 *s, uint64_t n)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(n >> (8 * i));
    sha256_add(s, bytes, sizeof bytes);
}

static void add_ids(Sha256 *s, const int32_t *ids, size_t n)
{
    add_count(s, n);
    for (size_t i = 0; i < n; i++) add_count(s, (uint32_t)ids[i]);
}

static void add_text(Sha256 *s, const char *text)
{
    add_count(s, strlen(text));
    sha256_add(s, text, strlen(text));
}

static void add_double(Sha256 *s, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    add_count(s, bits);
}

/* Adds the numbers of the reference's adapter to the key; the base alone adds nothing. */
static void add_adapter(Sha256 *s, const Lora *lora)
{
    for (size_t i = 0; lora && i < lora_param_count(lora); i++) {
        NamedParam p;
        lora_param(lora, i, &p);
        add_text(s, p.name);
        add_count(s, p.rows);
        add_count(s, p.cols);
        sha256_add(s, p.w, p.rows * p.cols * sizeof *p.w);
    }
    if (!lora) return;
    for (size_t i = 0; i < lora->n_saved; i++) {
        const Mat *w = &lora->saved[i].w;
        add_text(s, lora->saved[i].name);
        add_text(s, w->format->name);
        add_count(s, w->rows);
        sha256_add(s, w->data, mat_bytes(w));
    }
    add_double(s, lora->config.alpha);
    add_count(s, (uint64_t)lora->config.rslora);
}

static void reference_key(const Run *r, const TrainSet *set, char key[65])
{
    Sha256 s;
    sha256_begin(&s);
    add_count(&s, REFERENCE_FORMAT);
    add_text(&s, r->model_sha256);
    add_adapter(&s, run_reference_adapter(r));
    add_text(&s, compute_name(&r->engine.compute));
    add_count(&s, r->engine.compute.precision);
    add_count(&s, r->c.rows.max_length);
    add_double(&s, r->c.method == TRAIN_DPO ? r->c.dpo.ld_alpha : 1);
    add_count(&s, set->rows.count);
    for (size_t i = 0; i < set->rows.count; i++) {
        const Row *row = &set->rows.rows[i];
        add_ids(&s, row->prompt, row->n_prompt);
        for (size_t k = 0; k < 2; k++) add_ids(&s, row->completion[k], row->n_completion[k]);
        if (set->partner) add_count(&s, set->partner[i]);
    }
    sha256_end(&s, key);
}

/* ---- the file ------------------------------------------------------------------------------ */

/* First line: {"format","key","rows","sha256"}, the hash being that of all other lines; these are
 * {"row":i,"logps":[a,b]}, with digits enough to give every bit back. */
static int write_file(const TrainSet *set, const char *path, const char *key, Err *e)
{
    Text rows = {0}, head = {0};
    char hash[65];
    size_t known = 0;
    int failed = 0;
    for (size_t i = 0; i < set->rows.count && !failed; i++) {
        if (!set->known[i]) continue;
        known++;
        failed = text_addf(&rows, e, "{\"row\":%zu,\"logps\":[", i) ||
                 json_put_f64(&rows, set->reference[i][0], e) || text_add(&rows, ",", 1, e) ||
                 json_put_f64(&rows, set->reference[i][1], e) || text_add(&rows, "]}\n", 3, e);
    }
    sha256_bytes(rows.data, rows.len, hash);
    failed = failed ||
             text_addf(&head, e, "{\"format\":%d,\"key\":\"%s\",\"rows\":%zu,\"sha256\":\"%s\"}\n",
                       REFERENCE_FORMAT, key, known, hash) ||
             text_add(&head, rows.data ? rows.data : "", rows.len, e) ||
             io_write_file(path, head.data, head.len, e);
    text_free(&rows);
    text_free(&head);
    return failed ? -1 : 0;
}

/* Reads a line; 0 if it is a row with its number in range. */
static int take_row(TrainSet *set, const Json *row)
{
    uint64_t i;
    const Json *at = json_get(row, "row"), *logps = json_get(row, "logps");
    if (!at || json_u64(at, &i) || i >= set->rows.count || !logps || logps->len != 2) return -1;
    if (json_f64(logps->child, &set->reference[i][0]) ||
        json_f64(logps->child->next, &set->reference[i][1]))
        return -1;
    set->known[i] = 1;
    return 0;
}

/* Does the file, from byte `from` on, match its first line? */
static int is_sound(const JsonLines *j, const Json *head, const char *key, size_t from)
{
    char hash[65];
    if (!json_is(json_get(head, "key"), key)) return 0;
    sha256_bytes(j->data + from, j->len - from, hash);
    return json_is(json_get(head, "sha256"), hash);
}

/* Fills in what the file holds. Returns 0 if it is absent or valid, -1 if it is not (then nothing
 * was taken). */
static int read_file(TrainSet *set, const char *path, const char *key)
{
    JsonLines j = {0};
    Pool pool = {0};
    Json *row;
    Err ignored;
    int status = -1, more;
    if (!io_exists(path)) return 0;
    if (jsonl_open(&j, path, &ignored)) return -1;
    if (jsonl_next(&j, &pool, &row, &ignored) == 1 && is_sound(&j, row, key, j.at)) {
        while ((more = jsonl_next(&j, &pool, &row, &ignored)) == 1)
            if (take_row(set, row)) break;
        status = more == 0 ? 0 : -1;
    }
    if (status) memset(set->known, 0, set->rows.count);
    jsonl_close(&j);
    pool_free(&pool);
    return status;
}

/* ---- the pass ------------------------------------------------------------------------------ */

Item reference_item(const Run *r, const TrainSet *set, size_t i)
{
    const Row *row = &set->rows.rows[i];
    Item item = item_own(row, r->c.method == TRAIN_DPO ? 2 : 1);
    if (!set->partner) return item;
    Item other = item_partner(row, &set->rows.rows[set->partner[i]], r->c.rows.max_length);
    item.completion[1] = other.completion[0];
    item.n_completion[1] = other.n_completion[0];
    item.n = 2;
    return item;
}

/* Collects the rows of block b that must still be computed, their numbers in r->eval_order. Blocks
 * are fixed stretches of the file, so no pass is larger than the one that was planned for. */
static size_t block_rows(Run *r, const TrainSet *set, const unsigned char *needed, size_t b)
{
    size_t n = 0, end = (b + 1) * r->c.batch;
    for (size_t i = b * r->c.batch; i < end && i < set->rows.count; i++)
        if ((!needed || needed[i]) && !set->known[i]) r->eval_order[n++] = (uint32_t)i;
    return n;
}

static int reference_batch(Run *r, TrainSet *set, size_t n, Err *e)
{
    for (size_t i = 0; i < n; i++) r->items[i] = reference_item(r, set, r->eval_order[i]);
    if (items_pack(&r->packer, r->items, n, e)) return -1;
    Var *logp = run_forward(r, &r->tape, PASS_REFERENCE, 0, NULL);
    if (tape_check(&r->tape, e)) return -1;
    for (size_t i = 0; i < n; i++) {
        size_t row = r->eval_order[i];
        double sums[2] = {0, 0};
        item_sums(&r->items[i], logp->x, r->c.method == TRAIN_DPO ? r->c.dpo.ld_alpha : 1, sums);
        if (!isfinite(sums[0]) || !isfinite(sums[1]))
            return err_set(e, ERR_DATA,
                           "%s: line %zu: the reference's log-prob is not finite: the weights of "
                           "the model or the adapter are damaged or too large (--check-tensors "
                           "finds NaN)",
                           set == &r->eval ? r->c.eval : r->c.data, set->rows.rows[row].line);
        memcpy(set->reference[row], sums, sizeof sums);
        set->known[row] = 1;
    }
    return 0;
}

int reference_prepare(Run *r, TrainSet *set, const unsigned char *needed, const char *file, Err *e)
{
    char path[IO_PATH_MAX], key[65];
    size_t total = 0, done = 0, blocks = (set->rows.count + r->c.batch - 1) / r->c.batch;
    if (io_path(path, sizeof path, r->c.run, file, e)) return -1;
    reference_key(r, set, key);
    if (read_file(set, path, key))
        log_note(&r->events->log, 'w', "%s is damaged or of other inputs: computed again", path);
    for (size_t i = 0; i < set->rows.count; i++) total += (!needed || needed[i]) && !set->known[i];
    if (!total) return 0;

    double began = time_now(), saved = began;
    uint64_t tokens = 0;
    for (size_t b = 0; b < blocks; b++) {
        size_t n = block_rows(r, set, needed, b);
        if (n == 0) continue;
        if (reference_batch(r, set, n, e)) return -1;
        done += n;
        tokens += r->packer.batch.T;
        run_progress(r, "reference", done, total, began, tokens);
        int stop = stop_requested;
        if (stop || time_now() - saved > REFERENCE_SAVE_SECONDS) {
            if (run_check_model(r, e) || write_file(set, path, key, e)) return -1;
            saved = time_now();
        }
        if (stop)
            return err_set(e, ERR_INTERRUPTED,
                           "%s: stopped before the first step%s", r->c.run,
                           advice("resume", "; --resume goes on"));
    }
    return run_check_model(r, e) || write_file(set, path, key, e) ? -1 : 0;
}
