/* lora.c - adapter sets: allocates them, draws their first values, merges them, writes PEFT
 * directories. */
#include "lora_parts.h"

#include <math.h>
#include <string.h>

#define PEFT_VERSION "0.21.2"
enum { MERGE_COLS = 256 /* doubles of a merged row held at a time */ };

/* ---- names --------------------------------------------------------------------------------- */

Adapter *lora_at(const Lora *l, size_t layer, Target target)
{
    if (!l || !l->slots) return NULL;
    size_t slot = target == TARGET_HEAD ? l->shape.layers * TARGET_COUNT
                                        : layer * TARGET_COUNT + (size_t)target;
    Adapter *a = &l->slots[slot];
    return a->a.w.data ? a : NULL;
}

real *lora_numbers(const Param *p)
{
    return (real *)(uintptr_t)p->w.data;
}

/* ---- options ------------------------------------------------------------------------------- */

static const char *target_name(size_t i)
{
    return i <= TARGET_COUNT ? target_names[i] : NULL;
}

/* "q_proj,v_proj", "all-linear": a bit for each target. */
static void read_targets(void *field, const char *text)
{
    unsigned bits = 0;
    char word[32];
    for (size_t n; text; text = text[n] ? text + n + 1 : NULL) {
        n = strcspn(text, ",");
        snprintf(word, sizeof word, "%.*s", (int)n, text);
        int target = option_place(target_name, word);
        bits |= target < 0 ? (1u << TARGET_COUNT) - 1 : 1u << target; /* all-linear */
    }
    *(unsigned *)field = bits;
}

static int show_targets(const void *field, Text *out, Err *e)
{
    unsigned bits = *(const unsigned *)field;
    size_t n = 0;
    if (text_add(out, "", 0, e)) return -1;
    for (unsigned t = 0; t <= TARGET_COUNT; t++)
        if ((bits >> t & 1) && text_addf(out, e, "%s%s", n++ ? "," : "", target_names[t]))
            return -1;
    return 0;
}

const OptionForm lora_targets_form = {read_targets, show_targets};

/* As Option.when: an adapter that exists has its own of these. */
#define NEW_ADAPTER "~!full !init-adapter cycle:!adapter"

static const Option adapter_rows[] = {
    {"rank", 0, OPTION_COUNT, "16", "[1,65536]", "rank of a new adapter", FIELD(LoraConfig, rank),
     .when = NEW_ADAPTER},
    {"alpha", 0, OPTION_NUMBER, "32", "(0,inf)", "scale = alpha / rank", FIELD(LoraConfig, alpha),
     .when = NEW_ADAPTER},
    {"targets", 0, OPTION_WORDS, "all-linear", "all-linear",
     "linear maps that get an adapter; all-linear = the seven of a layer",
     FORM(LoraConfig, targets, lora_targets_form), .words = target_name, .when = NEW_ADAPTER},
    {"dropout", 0, OPTION_NUMBER, "0", "[0,0.99]", "probability of dropping an adapter's input",
     FIELD(LoraConfig, dropout), .when = "~!full"},
    {"rslora", 0, OPTION_FLAG, NULL, NULL, "scale = alpha / sqrt(rank)",
     FIELD(LoraConfig, rslora), .when = NEW_ADAPTER},
    {"dora", 0, OPTION_FLAG, NULL, NULL, "also train the length of each row of a weight (DoRA)",
     FIELD(LoraConfig, dora), .when = NEW_ADAPTER},
};
const OptionGroup lora_options = OPTION_GROUP("New adapter", adapter_rows);

/* ---- memory -------------------------------------------------------------------------------- */

/* Numbers of a slot's A, B and, with DoRA, m. */
static int slot_size(const Lora *l, Target target, size_t rank, size_t *n)
{
    size_t N = l->shape.outputs[target];
    if (size_add(l->shape.inputs[target], N, n) || size_mul(rank, *n, n)) return -1;
    return rank && l->config.dora ? size_add(*n, N, n) : 0;
}

static int allocate_arrays(Lora *l, const size_t *rank, int trainable, Err *e)
{
    size_t n = lora_slot_count(&l->shape), layer, one;
    Target target;
    l->slots = mem_calloc(n, sizeof *l->slots, e);
    if (!l->slots) return -1;
    for (size_t i = 0; i < n; i++) {
        lora_slot_place(&l->shape, i, &layer, &target);
        if (slot_size(l, target, rank[i], &one) || size_add(l->count, one, &l->count))
            return err_set(e, ERR_MEMORY, "the adapter is larger than this machine can address");
        if (rank[i] && l->config.dora) l->lengths_count += l->shape.outputs[target];
    }
    l->weights = mem_calloc(l->count, sizeof(real), e);
    if (!l->weights) return -1;
    if (trainable && !(l->gradients = mem_calloc(l->count, sizeof(real), e))) return -1;
    if (!l->config.dora) return 0;
    l->base = mem_calloc(n, sizeof *l->base, e);
    if (l->base) l->lengths = mem_calloc(l->lengths_count, sizeof(real), e);
    return l->lengths ? 0 : -1;
}

/* The next `rows` x `cols` numbers of the arrays. */
static Param next_param(const Lora *l, size_t rows, size_t cols, size_t *at)
{
    Param p = {{l->weights + *at, FORMAT_REAL, rows, cols, 0},
               l->gradients ? l->gradients + *at : NULL};
    *at += rows * cols;
    return p;
}

int lora_allocate(Lora *l, const size_t *rank, int trainable, Err *e)
{
    size_t n = lora_slot_count(&l->shape), layer, at = 0, length = 0;
    Target target;
    if (allocate_arrays(l, rank, trainable, e)) return -1;
    for (size_t i = 0; i < n; i++) {
        if (!rank[i]) continue;
        lora_slot_place(&l->shape, i, &layer, &target);
        size_t K = l->shape.inputs[target], N = l->shape.outputs[target];
        Adapter *a = &l->slots[i];
        a->a = next_param(l, rank[i], K, &at);
        a->b = next_param(l, N, rank[i], &at);
        a->dropout = l->config.dropout;
        a->key = i + 1;
        if (!l->config.dora) continue;
        a->m = next_param(l, 1, N, &at);
        a->n = l->lengths + length;
        length += N;
    }
    return 0;
}

double lora_scale(double alpha, size_t rank, int rslora)
{
    return rslora ? alpha / sqrt((double)rank) : alpha / (double)rank;
}

void lora_close(Lora *l)
{
    for (size_t i = 0; i < l->n_saved; i++) mem_free(l->saved[i].own);
    if (l->n_saved) safetensors_close(&l->file);
    mem_free(l->saved);
    mem_free(l->slots);
    mem_free(l->weights);
    mem_free(l->gradients);
    mem_free(l->base);
    mem_free(l->lengths);
    memset(l, 0, sizeof *l);
}

/* ---- a new set ----------------------------------------------------------------------------- */

static int check_rank(const LoraConfig *c, const LoraShape *s, Err *e)
{
    for (int t = 0; t <= TARGET_COUNT; t++) {
        size_t K = s->inputs[t], N = s->outputs[t], most = K < N ? K : N;
        if (!(c->targets >> t & 1)) continue;
        if (c->rank < 1 || c->rank > most)
            return err_set(e, ERR_USAGE, "--rank %zu: %s is [%zu,%zu], its rank can be 1 to %zu",
                           c->rank, target_names[t], N, K, most);
    }
    return c->targets ? 0 : err_set(e, ERR_USAGE, "--targets: no module is named");
}

/* Draws and drops `n` numbers: PEFT initialises both Linear modules before it draws A again. */
static void skip_draws(Mt *mt, size_t n)
{
    for (size_t i = 0; i < n; i++) mt_next(mt);
}

/* kaiming_uniform(a = sqrt 5) of [R,K]: U(-b, b) with b = 1/sqrt(K) in float. */
static void draw_a(Mt *mt, real *a, size_t R, size_t K)
{
    float b = (float)(1.0 / sqrt((double)K));
    for (size_t i = 0; i < R * K; i++) a[i] = (real)mt_uniform(mt, -b, b);
}

int lora_create(Lora *l, const LoraConfig *config, const LoraShape *shape, uint64_t seed,
                int trainable, Err *e)
{
    memset(l, 0, sizeof *l);
    if (check_rank(config, shape, e)) return -1;
    l->config = *config;
    l->shape = *shape;
    size_t n = lora_slot_count(shape), layer;
    Target target;
    size_t *rank = mem_calloc(n, sizeof *rank, e);
    if (!rank) return -1;
    for (size_t i = 0; i < n; i++) {
        lora_slot_place(shape, i, &layer, &target);
        rank[i] = config->targets >> target & 1 ? config->rank : 0;
    }
    int bad = lora_allocate(l, rank, trainable, e);
    mem_free(rank);
    if (bad) {
        lora_close(l);
        return -1;
    }
    Mt mt;
    mt_seed(&mt, seed);
    for (size_t i = 0; i < n; i++) {
        Adapter *a = &l->slots[i];
        if (!a->a.w.data) continue;
        size_t R = a->a.w.rows, K = a->a.w.cols, N = a->b.w.rows;
        a->scale = lora_scale(config->alpha, R, config->rslora);
        skip_draws(&mt, R * K + N * R);
        draw_a(&mt, lora_numbers(&a->a), R, K);
    }
    if (lora_begin_dora(l, e)) {
        lora_close(l);
        return -1;
    }
    for (size_t i = 0; i < n && config->dora; i++) /* m = || W ||, as B = 0 */
        for (size_t o = 0; o < l->slots[i].b.w.rows; o++)
            lora_numbers(&l->slots[i].m)[o] = l->slots[i].n[o];
    return 0;
}

/* ---- the parameters in order --------------------------------------------------------------- */

/* Of a slot: A, B and, with DoRA, m. */
static size_t slot_params(const Lora *l)
{
    return l->config.dora ? 3 : 2;
}

size_t lora_param_count(const Lora *l)
{
    size_t count = 0;
    for (size_t i = 0; l && l->slots && i < lora_slot_count(&l->shape); i++)
        count += l->slots[i].a.w.data ? slot_params(l) : 0;
    return count;
}

static void slot_param(const Lora *l, size_t slot, size_t which, NamedParam *out)
{
    static const char *const names[] = {"lora_A.weight", "lora_B.weight", "lora_magnitude_vector"};
    const Adapter *a = &l->slots[slot];
    const Param *const all[] = {&a->a, &a->b, &a->m}, *p = all[which];
    size_t layer;
    Target target;
    char module[LORA_MODULE];
    lora_slot_place(&l->shape, slot, &layer, &target);
    lora_module_name(module, layer, target);
    snprintf(out->name, sizeof out->name, "base_model.model.%s.%s", module, names[which]);
    out->w = lora_numbers(p);
    out->d = p->d;
    out->rows = p->w.rows;
    out->cols = p->w.cols;
    out->is_vector = which == 2;
    out->decays = 1;
}

void lora_param(const Lora *l, size_t index, NamedParam *out)
{
    size_t slot = 0, each = slot_params(l);
    for (size_t left = index / each;; slot++) {
        if (!l->slots[slot].a.w.data) continue;
        if (left-- == 0) break;
    }
    slot_param(l, slot, index % each, out);
}

typedef struct {
    real *w;
    const Adapter *a;
    const Format *stored;
    MergeReport *rows; /* [N] */
} Merge;

/* Adds the rounding of one weight to the report: w + update was stored as `is`. */
static void note_merged(MergeReport *r, double w, double update, double is, double without)
{
    double error = fabs(is - (w + update)), size = fabs(update);
    r->weights++;
    if (error > r->largest) r->largest = error;
    r->error += error;
    r->error2 += error * error;
    r->update += size;
    r->update2 += size * size;
    if (is == without) r->lost += size;
}

/* scale sum_r B[n,r] A[r,k] of columns first .. first + cols - 1 */
static void low_row(const Adapter *a, size_t n, size_t first, size_t cols, double sum[MERGE_COLS])
{
    size_t K = a->a.w.cols, R = a->b.w.cols;
    const real *A = a->a.w.data, *b = (const real *)a->b.w.data + n * R;
    for (size_t k = 0; k < cols; k++) sum[k] = 0;
    for (size_t r = 0; r < R; r++)
        for (size_t k = 0; k < cols; k++) sum[k] += (double)b[r] * (double)A[r * K + first + k];
    for (size_t k = 0; k < cols; k++) sum[k] *= a->scale;
}

static size_t merge_cols(size_t K, size_t first)
{
    return K - first < MERGE_COLS ? K - first : MERGE_COLS;
}

/* DoRA: m[n] / || row n of W + scale B A ||, in double throughout; 1 without. */
static double size_factor(const Merge *m, size_t n)
{
    const real *sizes = m->a->m.w.data;
    size_t K = m->a->a.w.cols;
    double sum[MERGE_COLS], squares = 0;
    for (size_t first = 0; first < K && sizes; first += MERGE_COLS) {
        size_t cols = merge_cols(K, first);
        low_row(m->a, n, first, cols, sum);
        for (size_t k = 0; k < cols; k++) {
            double x = (double)m->w[n * K + first + k] + sum[k];
            squares += x * x;
        }
    }
    return sizes ? (double)sizes[n] / sqrt(squares) : 1;
}

/* One row of w, a stretch of columns at a time. */
static void merge_row(void *ctx, size_t n)
{
    const Merge *m = ctx;
    size_t K = m->a->a.w.cols;
    double factor = size_factor(m, n);
    for (size_t first = 0; first < K; first += MERGE_COLS) {
        size_t cols = merge_cols(K, first);
        double sum[MERGE_COLS], was[MERGE_COLS];
        real *w = m->w + n * K + first, without[MERGE_COLS];
        low_row(m->a, n, first, cols, sum);
        for (size_t k = 0; k < cols; k++) {
            was[k] = (double)w[k];
            without[k] = w[k];
            if (m->a->m.w.data) sum[k] = factor * (was[k] + sum[k]) - was[k];
            w[k] = (real)(was[k] + sum[k]);
        }
        format_round(m->stored, w, cols);
        format_round(m->stored, without, cols);
        for (size_t k = 0; k < cols; k++)
            note_merged(&m->rows[n], was[k], sum[k], (double)w[k], (double)without[k]);
    }
}

int lora_merge_into(real *w, const Adapter *a, const Format *stored, MergeReport *report, Err *e)
{
    size_t N = a->b.w.rows;
    Merge m = {w, a, stored, mem_calloc(N, sizeof(MergeReport), e)};
    if (!m.rows) return -1;
    threads_run(merge_row, &m, N);
    for (size_t n = 0; n < N && report; n++) { /* in order: the same sums for any threads */
        const MergeReport *r = &m.rows[n];
        report->weights += r->weights;
        if (r->largest > report->largest) report->largest = r->largest;
        report->error += r->error;
        report->error2 += r->error2;
        report->update += r->update;
        report->update2 += r->update2;
        report->lost += r->lost;
    }
    mem_free(m.rows);
    return 0;
}

/* ---- writing one --------------------------------------------------------------------------- */

/* Is every targeted module targeted in every layer? Then short names are enough. */
static int is_uniform(const Lora *l)
{
    for (size_t i = 0; i < lora_slot_count(&l->shape); i++) {
        size_t layer;
        Target target;
        lora_slot_place(&l->shape, i, &layer, &target);
        if ((l->config.targets >> target & 1) != (l->slots[i].a.w.data != NULL)) return 0;
    }
    return 1;
}

static int put_targets(Text *out, const Lora *l, Err *e)
{
    const char *comma = "";
    int uniform = is_uniform(l);
    for (size_t i = 0; i < lora_slot_count(&l->shape); i++) {
        size_t layer;
        Target target;
        char module[LORA_MODULE];
        if (!l->slots[i].a.w.data) continue;
        lora_slot_place(&l->shape, i, &layer, &target);
        if (uniform && layer > 0) continue;
        lora_module_name(module, layer, target);
        if (text_addf(out, e, "%s\n    \"%s\"", comma, uniform ? target_names[target] : module))
            return -1;
        comma = ",";
    }
    return 0;
}

/* rank_pattern (alpha = 0) or alpha_pattern (alpha = 1): the modules that differ from the set. */
static int put_pattern(Text *out, const Lora *l, int alpha, Err *e)
{
    const char *comma = "";
    for (size_t i = 0; i < lora_slot_count(&l->shape); i++) {
        const Adapter *a = &l->slots[i];
        if (!a->a.w.data) continue;
        size_t layer, R = a->a.w.rows;
        Target target;
        char module[LORA_MODULE];
        double own = a->scale * (l->config.rslora ? sqrt((double)R) : (double)R);
        double value = alpha ? own : (double)R;
        double usual = alpha ? l->config.alpha : (double)l->config.rank;
        if (fabs(value - usual) <= 1e-9 * fabs(usual)) continue;
        lora_slot_place(&l->shape, i, &layer, &target);
        lora_module_name(module, layer, target);
        if (text_addf(out, e, "%s\n    \"%s\": ", comma, module) || json_put_f64(out, value, e))
            return -1;
        comma = ",";
    }
    return *comma ? text_addf(out, e, "\n  ") : 0;
}

/* Every key that PEFT 0.21.2 writes, sorted, two spaces of indent, as PEFT does. */
static int put_config(Text *out, const Lora *l, Err *e)
{
    const LoraConfig *c = &l->config;
    return text_addf(out, e, "{\n  \"alora_invocation_tokens\": null,\n  \"alpha_pattern\": {") ||
           put_pattern(out, l, 1, e) ||
           text_addf(out, e,
                     "},\n  \"arrow_config\": null,\n  \"auto_mapping\": null,\n"
                     "  \"base_model_name_or_path\": ") ||
           json_put_string(out, c->base, strlen(c->base), e) ||
           text_addf(out, e,
                     ",\n  \"bias\": \"none\",\n  \"corda_config\": null,\n"
                     "  \"ensure_weight_tying\": false,\n  \"eva_config\": null,\n"
                     "  \"exclude_modules\": null,\n  \"fan_in_fan_out\": false,\n"
                     "  \"inference_mode\": true,\n  \"init_lora_weights\": true,\n"
                     "  \"kasa_config\": null,\n  \"layer_replication\": null,\n"
                     "  \"layers_pattern\": null,\n  \"layers_to_transform\": null,\n"
                     "  \"loftq_config\": {},\n  \"lora_alpha\": ") ||
           json_put_f64(out, c->alpha, e) ||
           text_addf(out, e, ",\n  \"lora_bias\": false,\n  \"lora_dropout\": ") ||
           json_put_f64(out, c->dropout, e) ||
           text_addf(out, e,
                     ",\n  \"lora_ga_config\": null,\n  \"megatron_config\": null,\n"
                     "  \"megatron_core\": \"megatron.core\",\n  \"modules_to_save\": null,\n"
                     "  \"monteclora_config\": null,\n  \"peft_type\": \"LORA\",\n"
                     "  \"peft_version\": \"" PEFT_VERSION "\",\n"
                     "  \"qalora_group_size\": 16,\n  \"r\": %zu,\n  \"rank_pattern\": {",
                     c->rank) ||
           put_pattern(out, l, 0, e) ||
           text_addf(out, e, "},\n  \"revision\": null,\n  \"target_modules\": [") ||
           put_targets(out, l, e) ||
           text_addf(out, e,
                     "\n  ],\n  \"target_parameters\": null,\n"
                     "  \"task_type\": \"CAUSAL_LM\",\n"
                     "  \"trainable_token_indices\": null,\n  \"use_bdlora\": null,\n"
                     "  \"use_dora\": %s,\n  \"use_qalora\": false,\n"
                     "  \"use_rslora\": %s,\n  \"velora_config\": null\n}",
                     c->dora ? "true" : "false", c->rslora ? "true" : "false");
}

/* Copies the weights as float, for any type `real`. */
static int save_weights(const Lora *l, const char *path, Err *e)
{
    size_t n = lora_param_count(l), at = 0;
    StOut *outs = mem_calloc(n, sizeof *outs, e);
    NamedParam *params = mem_calloc(n, sizeof *params, e);
    float *values = mem_alloc(l->count * sizeof *values, e);
    int bad = !outs || !params || !values;
    for (size_t i = 0; !bad && i < n; i++) {
        lora_param(l, i, &params[i]);
        const NamedParam *p = &params[i];
        for (size_t j = 0; j < p->rows * p->cols; j++) values[at + j] = (float)p->w[j];
        outs[i] = (StOut){.name = p->name,
                          .dtype = DTYPE_F32,
                          .n_dims = p->is_vector ? 1 : 2,
                          .shape = {p->is_vector ? p->cols : p->rows, p->cols},
                          .data = values + at};
        at += p->rows * p->cols;
    }
    const char *const metadata[] = {"format", "pt", NULL};
    bad = bad || safetensors_write(path, outs, n, metadata, e);
    mem_free(values);
    mem_free(params);
    mem_free(outs);
    return bad ? -1 : 0;
}

int lora_save(const Lora *l, const char *dir, Err *e)
{
    char path[IO_PATH_MAX];
    Text config = {0};
    int bad = io_make_directory(dir, 0, e) ||
              io_path(path, sizeof path, dir, LORA_WEIGHTS_FILE, e) || save_weights(l, path, e) ||
              io_path(path, sizeof path, dir, LORA_CONFIG_FILE, e) || put_config(&config, l, e) ||
              io_write_file(path, config.data, config.len, e);
    text_free(&config);
    return bad ? -1 : 0;
}
