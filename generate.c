/* generate.c - samples in batches: one loop of steps, each of them one packed batch. */
#include "data.h"
#include "generate.h"

#include "generate_stop.h"

#include <math.h>
#include <string.h>

static const char *const finish_names[] = {"stop", "length"};

/* ---- options ------------------------------------------------------------------------------- */

static const Option sampling_rows[] = {
    {"max-tokens", 'n', OPTION_COUNT, "256", "[1,1048576]", "largest number of new tokens",
     FIELD(GenerateOptions, max_tokens)},
    {"temperature", 0, OPTION_NUMBER, "1", "[0,100]", "0 = greedy: always the most probable token",
     FIELD(GenerateOptions, temperature)},
    {"top-k", 0, OPTION_COUNT, "0", NULL, "draw from the k most probable tokens; 0 = all",
     FIELD(GenerateOptions, top_k), .when = "~temperature!0"},
    {"top-p", 0, OPTION_NUMBER, "1", "[0,1]",
     "draw from the fewest tokens whose probabilities reach this sum",
     FIELD(GenerateOptions, top_p), .when = "~temperature!0"},
    {"min-p", 0, OPTION_NUMBER, "0", "[0,1]",
     "draw from tokens with at least this share of the largest probability",
     FIELD(GenerateOptions, min_p), .when = "~temperature!0"},
    {"stop", 0, OPTION_TEXTS, NULL, NULL,
     "a text that ends an answer and is left out of it; may be given several times",
     FIELD(GenerateOptions, stops), .beside = offsetof(GenerateOptions, n_stops)},
};
const OptionGroup sampling_options = OPTION_GROUP("Sampling", sampling_rows);

static const Option running_rows[] = {SAMPLES_ROW(GenerateOptions, samples, "1", ""),
                                      AT_ONCE_ROW(GenerateOptions, at_once)};
static const OptionGroup running_options = OPTION_GROUP("Running", running_rows);

GenerateOptions generate_defaults(void)
{
    GenerateOptions o = {0};
    options_defaults(&sampling_options, &o);
    options_defaults(&running_options, &o);
    return o;
}

void generate_tell(const Engine *g, const Log *log)
{
    const char *asked = g->model.config.unfollowed;
    if (*asked)
        log_note(log, 'w',
                 "%s/generation_config.json: not followed, where transformers' generate does: %s%s",
                 g->model.path, asked, advice("stop", " (--stop TEXT ends answers at a text)"));
}

Generator generate_with(Engine *g, const ChatTemplate *chat, const GenerateOptions *o)
{
    return (Generator){.model = &g->model,
                       .lora = g->adapter,
                       .tokenizer = g->tokenizer,
                       .chat = chat,
                       .compute = &g->compute,
                       .options = *o};
}

int generate_check(const GenerateOptions *o, Err *e)
{
    if (options_check(&sampling_options, o, e) || options_check(&running_options, o, e)) return -1;
    if (o->n_stops > STOP_TEXTS)
        return err_set(e, ERR_USAGE, "--stop: found %zu texts, allowed 0 to %d", o->n_stops,
                       STOP_TEXTS);
    for (size_t i = 0; i < o->n_stops; i++)
        if (!*o->stops[i]) return err_set(e, ERR_USAGE, "--stop: a text must not be empty");
    return 0;
}

/* ---- choosing a token ---------------------------------------------------------------------- */

/* Is token a more probable than token b? A total order: lower ids win ties. */
static int before(const real *w, uint32_t a, uint32_t b)
{
    return w[a] > w[b] || (w[a] == w[b] && a < b);
}

/* Moves heap[at] down to its place: every parent comes before its children. */
static void heap_sink(uint32_t *heap, size_t n, size_t at, const real *w)
{
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= n) return;
        if (child + 1 < n && before(w, heap[child + 1], heap[child])) child++;
        if (before(w, heap[at], heap[child])) return;
        uint32_t swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
        at = child;
    }
}

/* Moves the first item of the heap to heap[n-1], after its new end. */
static uint32_t heap_pop(uint32_t *heap, size_t n, const real *w)
{
    uint32_t first = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = first;
    heap_sink(heap, n - 1, 0, w);
    return first;
}

/* Returns the last token, from the most probable down, that top_k and top_p keep. total = sum of w.
 * Tokens lighter than (1 - top_p) total / V weigh less than 1 - top_p together, so without top_k
 * the nucleus lies among the others, and only these enter the heap. */
static uint32_t last_kept(const GenerateOptions *o, const real *w, size_t V, double total,
                          uint32_t *heap)
{
    size_t n = 0, k = o->top_k && o->top_k < V ? o->top_k : 0;
    double light = k ? 0 : (1 - o->top_p) * total / (double)V;
    for (size_t v = 0; v < V; v++)
        if (w[v] > 0 && (double)w[v] >= light) heap[n++] = (uint32_t)v;
    for (size_t i = n / 2; i-- > 0;) heap_sink(heap, n, i, w);

    if (k > n) k = n;
    double mass = 0;
    for (size_t i = 0; i < k; i++) mass += (double)w[heap_pop(heap, n - i, w)];
    if (!k) mass = total;
    double sum = 0;
    for (size_t i = 0;; i++) { /* popped tokens lie at heap[n-1], heap[n-2], ... */
        uint32_t v = k ? heap[n - 1 - i] : heap_pop(heap, n - i, w);
        sum += (double)w[v];
        if (sum >= o->top_p * mass || i + 1 == (k ? k : n)) return v;
    }
}

/* Finds the largest value and its lowest place; V if one is NaN or none is finite. */
static size_t largest(const real *z, size_t V)
{
    size_t best = 0;
    for (size_t v = 0; v < V; v++) {
        if (z[v] != z[v]) return V;
        if (z[v] > z[best]) best = v;
    }
    return isfinite((double)z[best]) ? best : V;
}

int32_t generate_choose(const GenerateOptions *o, real *z, size_t V, double u, uint32_t *order)
{
    size_t best = largest(z, V);
    if (best == V) return -1;
    if (o->temperature == 0) return (int32_t)best;

    double max = (double)z[best], total = 0;
    for (size_t v = 0; v < V; v++) { /* weights: the best one's is 1 */
        z[v] = (real)maths_expf((float)(((double)z[v] - max) / o->temperature));
        total += (double)z[v];
    }
    if (o->top_p < 1 || (o->top_k && o->top_k < V)) {
        uint32_t last = last_kept(o, z, V, total, order);
        real cut = z[last];
        for (size_t v = 0; v < V; v++)
            if (z[v] < cut || (z[v] == cut && v > last)) z[v] = 0;
    }
    total = 0;
    for (size_t v = 0; v < V; v++) {
        if ((double)z[v] < o->min_p) z[v] = 0;
        total += (double)z[v];
    }
    double sum = 0, target = u * total;
    size_t chosen = best;
    for (size_t v = 0; v < V && sum <= target; v++) {
        if (!(z[v] > 0)) continue;
        sum += (double)z[v];
        chosen = v;
    }
    return (int32_t)chosen;
}

/* ---- a run --------------------------------------------------------------------------------- */

/* A prompt in progress. Its block takes all tokens but the last: that one starts each sample. So
 * samples may begin at different times, the first in the step that reads the end of the block. */
typedef struct {
    size_t prompt;         /* place in the array of prompts */
    KvBlock *block;        /* NULL for a prompt of one token */
    size_t read;           /* tokens of the block, those that this step reads among them */
    int piece;             /* the segment of this step that reads them, -1 = none */
    size_t started, ended; /* samples */
    int used;
} Reading;

/* A running sample. */
typedef struct {
    Reading *from;
    size_t prompt, sample;
    KvBlock *block; /* the last prompt token and the new tokens; kept for the next sample */
    int32_t *ids;   /* [Run.most] */
    size_t count, most;
    int32_t next;    /* token chosen in this step */
    StopWatch watch; /* if there are stop texts */
    int running;
} Slot;

/* A sample that ended before its turn to be handed out. */
typedef struct {
    int32_t *ids;
    size_t count, text_len;
    GenerateFinish finish;
    int ready;
} Result;

typedef struct {
    const Generator *g;
    const Prompt *prompts;
    size_t n_prompts;
    const GenerateSink *sink;

    Reading *readings; /* [n_readings] */
    size_t n_readings;
    Slot *slots; /* [n_slots] */
    size_t n_slots;
    Result *results;            /* [n_prompts * samples] */
    size_t admitted, delivered; /* prompts taken in; results handed out */

    Stops stops;
    size_t most; /* most tokens of an answer: --max-tokens, or the room in the context */
    size_t V;    /* rows of the head that are tokens */

    Tape tape;
    Batch batch;     /* of the step: prompts first, then samples */
    size_t n_rows;   /* samples in it */
    Slot **rows;     /* [n_slots]: whose logits row i is */
    uint32_t *asked; /* [n_slots]: the row of the batch that it comes from */
    uint32_t *order; /* [threads][V]: scratch of generate_choose */
    real *logits;    /* [n_rows][V of the head] */
} Run;

/* Checks the prompts, and finds the room they need. */
static int check_prompts(Run *r, size_t *positions, Err *e)
{
    const ModelConfig *c = &r->g->model->config;
    *positions = 1;
    for (size_t i = 0; i < r->n_prompts; i++) {
        const Prompt *p = &r->prompts[i];
        if (!p->count)
            return err_set(e, ERR_DATA, "prompt %llu has no tokens, nothing to continue",
                           (unsigned long long)p->index);
        if (p->count >= c->max_positions)
            return err_set(e, ERR_DATA,
                           "prompt %llu has %zu tokens, the context of the model holds %zu and "
                           "one must be left for the answer: shorten the prompt or leave it out",
                           (unsigned long long)p->index, p->count, c->max_positions);
        for (size_t j = 0; j < p->count; j++)
            if (p->ids[j] < 0 || (size_t)p->ids[j] >= c->V)
                return err_set(e, ERR_DATA, "prompt %llu: token id %ld, allowed 0 to %zu",
                               (unsigned long long)p->index, (long)p->ids[j], c->V - 1);
        size_t room = c->max_positions - p->count, most = r->g->options.max_tokens;
        size_t answer = most < room ? most : room;
        if (answer > r->most) r->most = answer;
        if (p->count + answer > *positions) *positions = p->count + answer;
    }
    return 0;
}

/* Finds what ends answers, and which rows of the head can be drawn. */
static int find_stops(Run *r, Err *e)
{
    const Generator *g = r->g;
    const ModelConfig *c = &g->model->config;
    r->V = c->V;
    if (stops_find(&r->stops, c, g->tokenizer, g->chat, g->options.stops, g->options.n_stops, e))
        return -1;
    size_t known = g->tokenizer ? tokenizer_size(g->tokenizer) : r->V;
    if (known < r->V) r->V = known; /* rows beyond are padding and have no text */
    return 0;
}

/* ---- memory -------------------------------------------------------------------------------- */

static int open_slots(Run *r, Err *e)
{
    for (size_t i = 0; i < r->n_slots; i++) {
        Slot *s = &r->slots[i];
        s->ids = mem_calloc(r->most, sizeof *s->ids, e);
        s->block = s->ids ? kv_create(r->g->model, r->most, NULL, e) : NULL;
        if (!s->block) return -1;
    }
    return 0;
}

static int run_open(Run *r, Err *e)
{
    const GenerateOptions *o = &r->g->options;
    size_t total, positions, orders;
    if (check_prompts(r, &positions, e)) return -1;
    if (model_reserve_positions(r->g->model, positions, e)) return -1;
    if (find_stops(r, e)) return -1;
    if (size_mul((size_t)threads_count(), r->V, &orders) ||
        size_mul(r->n_prompts, o->samples, &total))
        return err_set(e, ERR_MEMORY, "%zu prompts x %zu samples are too many", r->n_prompts,
                       o->samples);
    r->n_slots = total < o->at_once ? total : o->at_once;
    r->n_readings = r->n_slots + 1; /* one waits for the next free slot */
    r->readings = mem_calloc(r->n_readings, sizeof *r->readings, e);
    r->slots = mem_calloc(r->n_slots, sizeof *r->slots, e);
    r->results = mem_calloc(total, sizeof *r->results, e);
    r->rows = mem_calloc(r->n_slots, sizeof *r->rows, e);
    r->asked = mem_calloc(r->n_slots, sizeof *r->asked, e);
    r->order = mem_calloc(orders, sizeof *r->order, e);
    r->batch.ids = mem_calloc(r->n_slots + GENERATE_PREFILL, sizeof *r->batch.ids, e);
    r->batch.segments = mem_calloc(r->n_slots + r->n_readings, sizeof *r->batch.segments, e);
    if (!r->readings || !r->slots || !r->results || !r->rows || !r->asked || !r->order ||
        !r->batch.ids || !r->batch.segments)
        return -1;
    return open_slots(r, e);
}

static void run_close(Run *r)
{
    for (size_t i = 0; r->readings && i < r->n_readings; i++) kv_free(r->readings[i].block);
    for (size_t i = 0; r->slots && i < r->n_slots; i++) {
        kv_free(r->slots[i].block);
        mem_free(r->slots[i].ids);
        watch_free(&r->slots[i].watch);
    }
    for (size_t i = 0; r->results && i < r->n_prompts * r->g->options.samples; i++)
        mem_free(r->results[i].ids);
    mem_free(r->readings);
    mem_free(r->slots);
    mem_free(r->results);
    mem_free(r->rows);
    mem_free(r->asked);
    mem_free(r->order);
    mem_free(r->batch.ids);
    mem_free(r->batch.segments);
    tape_close(&r->tape);
}

/* ---- who runs ------------------------------------------------------------------------------ */

/* Is the block complete, at the latest when this step has read its piece? */
static int reading_done(const Run *r, const Reading *p)
{
    return p->read + 1 == r->prompts[p->prompt].count;
}

/* Finds the earliest prompt in progress, from `least` on, that has samples to start; NULL =
 * none. */
static Reading *first_waiting(Run *r, size_t least)
{
    Reading *first = NULL;
    for (size_t i = 0; i < r->n_readings; i++) {
        Reading *p = &r->readings[i];
        if (p->used && p->prompt >= least && p->started < r->g->options.samples &&
            (!first || p->prompt < first->prompt))
            first = p;
    }
    return first;
}

static void start_sample(Run *r, Slot *s, Reading *from)
{
    const Prompt *p = &r->prompts[from->prompt];
    const GenerateOptions *o = &r->g->options;
    size_t room = r->g->model->config.max_positions - p->count;
    s->from = from;
    s->prompt = from->prompt;
    s->sample = from->started++;
    s->count = 0;
    s->most = o->max_tokens < room ? o->max_tokens : room;
    s->next = p->ids[p->count - 1];
    s->block->parent = from->block;
    s->block->pos = p->count - 1;
    s->block->len = 0;
    s->running = 1;
    if (r->stops.n_texts) watch_begin(&s->watch, &r->stops, r->g->tokenizer);
}

/* Gives free slots the next samples of prompts that have been read, or will be read by this
 * step. */
static void start_samples(Run *r)
{
    for (size_t i = 0; i < r->n_slots; i++) {
        if (r->slots[i].running) continue;
        Reading *from = first_waiting(r, 0);
        if (!from || !reading_done(r, from)) return;
        start_sample(r, &r->slots[i], from);
    }
}

/* Admits prompts until their samples fill the free slots, and one more. */
static int admit_prompts(Run *r, Err *e)
{
    size_t free_slots = 0, waiting = 0;
    for (size_t i = 0; i < r->n_slots; i++) free_slots += !r->slots[i].running;
    for (size_t i = 0; i < r->n_readings; i++)
        if (r->readings[i].used) waiting += r->g->options.samples - r->readings[i].started;
    for (size_t i = 0; i < r->n_readings; i++) {
        Reading *p = &r->readings[i];
        if (p->used) continue;
        if (waiting > free_slots || r->admitted == r->n_prompts) return 0;
        size_t count = r->prompts[r->admitted].count - 1;
        *p = (Reading){.prompt = r->admitted, .used = 1};
        if (count && !(p->block = kv_create(r->g->model, count, NULL, e))) return -1;
        r->admitted++;
        waiting += r->g->options.samples;
    }
    return 0;
}

/* ---- a step -------------------------------------------------------------------------------- */

/* Up to GENERATE_PREFILL tokens of prompts that are not read yet, earliest first; long ones in
 * pieces. */
static void pack_prompts(Run *r)
{
    Batch *b = &r->batch;
    size_t left = GENERATE_PREFILL;
    b->T = b->n_segments = 0;
    for (size_t i = 0; i < r->n_readings; i++) r->readings[i].piece = -1;
    for (Reading *p = first_waiting(r, 0); p && left; p = first_waiting(r, p->prompt + 1)) {
        if (reading_done(r, p)) continue;
        size_t count = r->prompts[p->prompt].count - 1 - p->read;
        if (count > left) count = left;
        p->piece = (int)b->n_segments;
        b->segments[b->n_segments++] = (Segment){.row = b->T,
                                                 .count = count,
                                                 .pos = p->read,
                                                 .parent = -1,
                                                 .past = p->read ? p->block : NULL,
                                                 .into = p->block};
        memcpy(b->ids + b->T, r->prompts[p->prompt].ids + p->read, count * sizeof *b->ids);
        p->read += count;
        b->T += count;
        left -= count;
    }
}

/* Packs the newest token of each running sample, whose rows need logits. A first token continues
 * the rows of its prompt if this step reads them, since they are not yet in the block. */
static void pack_samples(Run *r)
{
    Batch *b = &r->batch;
    r->n_rows = 0;
    for (size_t i = 0; i < r->n_slots; i++) {
        Slot *s = &r->slots[i];
        if (!s->running) continue;
        int piece = s->count ? -1 : s->from->piece;
        r->rows[r->n_rows] = s;
        r->asked[r->n_rows++] = (uint32_t)b->T;
        b->segments[b->n_segments++] = (Segment){.row = b->T,
                                                 .count = 1,
                                                 .pos = s->block->pos + s->block->len,
                                                 .parent = piece,
                                                 .past = piece < 0 ? s->block : NULL,
                                                 .into = s->block};
        b->ids[b->T++] = s->next;
    }
}

/* Chooses the token of row i: a task of its own, with the scratch of its thread. */
static void choose_task(void *ctx, size_t i)
{
    Run *r = ctx;
    Slot *s = r->rows[i];
    const GenerateOptions *o = &r->g->options;
    uint64_t key = rng_mix(rng_mix(o->seed, r->prompts[s->prompt].index), s->sample);
    s->next = generate_choose(o, r->logits + i * r->g->model->config.V, r->V,
                              rng_unit(key, RNG_SAMPLE, s->count),
                              r->order + (size_t)threads_index() * r->V);
}

/* Hands out every result whose turn has come. */
static int deliver(Run *r, Err *e)
{
    size_t samples = r->g->options.samples;
    for (;; r->delivered++) {
        Result *x = &r->results[r->delivered];
        if (r->delivered == r->n_prompts * samples || !x->ready) return 0;
        Continuation c = {.prompt = r->delivered / samples,
                          .sample = r->delivered % samples,
                          .ids = x->ids,
                          .count = x->count,
                          .text_len = x->text_len,
                          .finish = x->finish};
        int status = r->sink->done(r->sink->ctx, &c, e);
        mem_free(x->ids);
        x->ids = NULL;
        if (status) return -1;
    }
}

/* Keeps the tokens that are needed to spell the first `len` bytes. */
static int cut_tokens(const Tokenizer *t, Slot *s, size_t len, Err *e)
{
    Decoder d;
    Text text = {0};
    size_t n = 0;
    int status = 0;
    decoder_begin(&d, t, 1);
    for (; text.len < len && n < s->count && !status; n++)
        status = decoder_put(&d, s->ids[n], &text, e);
    decoder_free(&d);
    text_free(&text);
    s->count = n;
    return status;
}

/* Handles an answer that ends for another reason: a stop text may be in what its decoder held back.
 * Then only the text before it is kept. */
static int end_watch(Run *r, Slot *s, size_t *text_len, GenerateFinish *finish, Err *e)
{
    StopWatch *w = &s->watch;
    *text_len = SIZE_MAX;
    if (!r->stops.n_texts) return 0;
    int status = w->cut == SIZE_MAX ? watch_flush(w, e) : 0;
    *text_len = w->cut;
    watch_free(w);
    if (status || *text_len == SIZE_MAX) return status;
    *finish = GENERATE_STOP;
    return cut_tokens(r->g->tokenizer, s, *text_len, e);
}

/* Keeps the result of a sample, and frees its slot, and its prompt after the last sample. */
static int end_sample(Run *r, Slot *s, GenerateFinish finish, Err *e)
{
    Result *x = &r->results[s->prompt * r->g->options.samples + s->sample];
    if (end_watch(r, s, &x->text_len, &finish, e)) return -1;
    x->ids = mem_alloc(s->count * sizeof *x->ids, e);
    if (!x->ids) return -1;
    memcpy(x->ids, s->ids, s->count * sizeof *x->ids);
    x->count = s->count;
    x->finish = finish;
    x->ready = 1;
    s->running = 0;
    if (++s->from->ended == r->g->options.samples) {
        kv_free(s->from->block);
        *s->from = (Reading){0};
    }
    return deliver(r, e);
}

/* Handles the chosen token of a sample: an end, or one more token. */
static int take_token(Run *r, Slot *s, Err *e)
{
    if (s->next < 0)
        return err_set(
            e, ERR_DATA,
            "prompt %llu: the model gives no finite logit for new token %zu; its weights "
            "may hold NaN (--check-tensors finds them)",
            (unsigned long long)r->prompts[s->prompt].index, s->count);
    if (stops_has(&r->stops, s->next)) return end_sample(r, s, GENERATE_STOP, e);
    s->ids[s->count++] = s->next;
    if (r->sink->token && r->sink->token(r->sink->ctx, s->prompt, s->sample, s->next, e)) return -1;
    if (r->stops.n_texts && watch_put(&s->watch, s->next, e)) return -1;
    if (r->stops.n_texts && s->watch.cut != SIZE_MAX) return end_sample(r, s, GENERATE_STOP, e);
    return s->count == s->most ? end_sample(r, s, GENERATE_LENGTH, e) : 0;
}

/* Logits of the samples' rows. */
static Var *step_program(Tape *t, void *ctx)
{
    const Run *r = ctx;
    return model_logits(t, r->g->model, r->g->lora, &r->batch, r->asked, r->n_rows);
}

/* Adds a step to the work of the run. */
static void count_work(GenerateWork *w, const Run *r, const Var *logits)
{
    size_t bytes = tape_peak(&r->tape);
    w->steps++;
    w->rows += r->batch.T;
    w->logits += logits->rows;
    if (bytes > w->bytes) w->bytes = bytes;
}

/* Runs one batch: prompts are read, samples begin and grow by a token. */
static int step(Run *r, Err *e)
{
    if (admit_prompts(r, e)) return -1;
    pack_prompts(r);
    start_samples(r);
    pack_samples(r);
    size_t nodes = model_node_bytes(r->g->model, &r->batch);
    const Var *z = tape_run(&r->tape, r->g->compute, nodes, step_program, r, e);
    if (!z) return -1;
    if (r->g->work) count_work(r->g->work, r, z);
    r->logits = z->x;
    threads_run(choose_task, r, r->n_rows);
    for (size_t i = 0; i < r->n_rows; i++)
        if (take_token(r, r->rows[i], e)) return -1;
    return 0;
}

int generate_run(const Generator *g, const Prompt *prompts, size_t n, const GenerateSink *sink,
                 Err *e)
{
    if (generate_check(&g->options, e)) return -1;
    if (!n) return 0;
    Run r = {.g = g, .prompts = prompts, .n_prompts = n, .sink = sink};
    int status = run_open(&r, e);
    while (!status && r.delivered < n * g->options.samples) {
        if (stop_requested)
            status = err_set(e, ERR_INTERRUPTED, "interrupted after %zu of %zu answers",
                             r.delivered, n * g->options.samples);
        else
            status = step(&r, e);
    }
    run_close(&r);
    return status;
}

/* ---- one prompt, streamed ------------------------------------------------------------------ */

typedef struct {
    int (*text)(void *ctx, const char *bytes, size_t len, Err *e);
    void *ctx;
    StopWatch watch;
    Text piece;
    Ids *ids;
    size_t first; /* of *ids: the first new one */
    GenerateFinish finish;
} Stream;

/* Hands on the text that is final. */
static int stream_piece(Stream *s, int all, Err *e)
{
    int status = watch_take(&s->watch, all, &s->piece, e);
    if (!status && s->piece.len) status = s->text(s->ctx, s->piece.data, s->piece.len, e);
    s->piece.len = 0;
    return status;
}

static int stream_token(void *ctx, size_t prompt, size_t sample, int32_t id, Err *e)
{
    Stream *s = ctx;
    (void)prompt;
    (void)sample;
    if (s->ids && ids_add(s->ids, id, e)) return -1;
    return watch_put(&s->watch, id, e) ? -1 : stream_piece(s, 0, e);
}

static int stream_done(void *ctx, const Continuation *c, Err *e)
{
    Stream *s = ctx;
    s->finish = c->finish;
    if (s->ids) s->ids->count = s->first + c->count;
    return watch_flush(&s->watch, e) ? -1 : stream_piece(s, 1, e);
}

int generate_stream(const Generator *g, const Prompt *prompt,
                    int (*text)(void *ctx, const char *bytes, size_t len, Err *e), void *ctx,
                    Ids *ids, GenerateFinish *finish, Err *e)
{
    Stream s = {.text = text, .ctx = ctx, .ids = ids, .first = ids ? ids->count : 0};
    Generator one = *g;
    Stops stops;
    one.options.samples = 1;
    if (generate_check(&one.options, e) ||
        stops_find(&stops, &g->model->config, g->tokenizer, g->chat, g->options.stops,
                   g->options.n_stops, e))
        return -1;
    watch_begin(&s.watch, &stops, g->tokenizer);
    GenerateSink sink = {&s, stream_done, stream_token};
    int status = generate_run(&one, prompt, 1, &sink, e);
    watch_free(&s.watch);
    text_free(&s.piece);
    if (finish) *finish = s.finish;
    return status;
}

/* ---- responses.jsonl ----------------------------------------------------------------------- */

/* Writes the columns of source that are not the prompt and have no name of ours. */
static int put_other_columns(Text *out, const Json *source, const char *prompt_column, Err *e)
{
    for (const Json *column = source->child; column; column = column->next) {
        ColumnOwner owner = data_owner(column->key);
        if (owner == OWNER_PROMPT || owner == OWNER_SAMPLE || !strcmp(column->key, prompt_column))
            continue;
        if (text_add(out, ",", 1, e) || json_put_string(out, column->key, column->key_len, e) ||
            text_add(out, ":", 1, e) || json_put(out, column, e))
            return -1;
    }
    return 0;
}

int generate_text(const Tokenizer *t, const Continuation *c, Text *out, Err *e)
{
    size_t before = out->len;
    if (tokenizer_decode(t, c->ids, c->count, 1, out, e)) return -1;
    if (out->len - before <= c->text_len) return 0;
    out->len = before + c->text_len;
    out->data[out->len] = 0;
    return 0;
}

int generate_put_row(Text *out, const Tokenizer *t, uint64_t index, const Json *source,
                     const char *prompt_column, const Continuation *c, Err *e)
{
    const Json *prompt = json_get(source, prompt_column);
    Text response = {0};
    if (!prompt) return err_set(e, ERR_INTERNAL, "a prompt's row has no \"%s\"", prompt_column);
    int status =
        generate_text(t, c, &response, e) ||
        text_addf(out, e, "{\"index\":%llu,\"sample\":%zu,\"prompt\":", (unsigned long long)index,
                  c->sample) ||
        json_put(out, prompt, e) || text_addf(out, e, ",\"response\":") ||
        json_put_string(out, response.data ? response.data : "", response.len, e) ||
        text_addf(out, e, ",\"token_ids\":[");
    text_free(&response);
    for (size_t i = 0; i < c->count && !status; i++)
        status = text_addf(out, e, "%s%ld", i ? "," : "", (long)c->ids[i]);
    return status || text_addf(out, e, "],\"finish\":\"%s\"", finish_names[c->finish]) ||
                   put_other_columns(out, source, prompt_column, e) || text_add(out, "}", 1, e)
               ? -1
               : 0;
}
