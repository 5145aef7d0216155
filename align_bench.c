/* align_bench.c - align bench: measures the limits of this machine, and the share of them that is
 * reached.
 *
 * bench.h measures; this file prints tables, line by line as results come in, or one JSON object at
 * the end.
 */
#include "align.h"
#include "bench.h"

#include <string.h>

#define BENCH_PARTS "peaks|gemm|attention|decode|steps"

static const Option bench_option_rows[] = {
    {"shape", 0, OPTION_CHOICE, "llama-3.2-3b", BENCH_SHAPE_WORDS,
     "model whose shape is measured, with random weights", BY_NAME,
     .when = "~only=gemm|attention|decode|steps|"},
    {"layers", 0, OPTION_COUNT, "2", "[1,1024]|all",
     "number of layers for decoding and training; all needs the memory of the whole model",
     BY_NAME, .when = "~only=decode|steps|"},
    {"precision", 0, OPTION_CHOICE, "auto", "f32|bf16|auto",
     "type of the operands in decoding and steps; auto: as the shape stores its weights; "
     "products are measured in both",
     BY_NAME, .when = "~only=decode|steps|"},
    {"kernel", 0, OPTION_CHOICE, "auto", "auto|ref|avx2|avx512|avx512bf16|neon|neonbf16",
     "instruction set of the kernels", BY_NAME},
    {"threads", 't', OPTION_COUNT, "auto", "[1,1024]|auto",
     "number of threads; auto: one per processor",
     BY_NAME},
    {"only", 0, OPTION_WORDS, NULL, BENCH_PARTS,
     "measure only these parts, and the peaks, which shares need", BY_NAME},
    {"quick", 0, OPTION_FLAG, NULL, NULL,
     "use fewer sizes and repetitions; takes about a minute", BY_NAME},
    {"json", 0, OPTION_FLAG, NULL, NULL, "one JSON object instead of tables", BY_NAME},
};
static const OptionGroup bench_group = OPTION_GROUP("Bench", bench_option_rows);
static const OptionGroup *const bench_groups[] = {&bench_group, &group_quiet, NULL};
static const OptionTable bench_table = {
    "bench", "speed of kernels and whole steps, as shares of this machine's peak", NULL,
    "align bench --shape llama-3.2-3b --layers 2 --quick", bench_groups, NULL};

/* The output: tables at once, JSON at the end. */
typedef struct {
    Bench b;
    const Options *o;
    int json;
    Text out;
} Report;

static int wants(const Report *r, const char *part)
{
    char word[16];
    for (size_t i = 0; option_word(r->o, "only", i, word, sizeof word); i++)
        if (!strcmp(word, part)) return 1;
    return !option_given(r->o, "only");
}

/* Prints the part of the tables that is ready. */
static int flush_tables(Report *r, Err *e)
{
    if (r->json || !r->out.len) return 0;
    if (fwrite(r->out.data, 1, r->out.len, stdout) != r->out.len || fflush(stdout))
        return stdout_failed(e);
    r->out.len = 0;
    return 0;
}

/* Notes what is being measured. Tables show it by their headings, JSON only at the end. */
static void tell(const Report *r, const char *what, const char *which)
{
    if (r->json) log_note(notes(), 'i', "measuring %s%s", what, which);
}

/* ,"name":1.5 */
static int put(Report *r, const char *name, double value, Err *e)
{
    return text_addf(&r->out, e, ",\"%s\":", name) || json_put_f64(&r->out, value, e) ? -1 : 0;
}

static const char *direction(int backward)
{
    return backward ? "backward" : "forward";
}

static double percent(double share)
{
    return 100 * share;
}

/* ---- the machine ---------------------------------------------------------------------------- */

static int peaks_json(Report *r, const char *cpu, Err *e)
{
    const BenchPeaks *p = &r->b.peaks;
    if (text_addf(&r->out, e, "{\"cpu\":") || json_put_string(&r->out, cpu, strlen(cpu), e) ||
        text_addf(&r->out, e,
                  ",\"threads\":%d,\"shape\":\"%s\",\"layers\":%zu,\"kernel\":\"%s\","
                  "\"precision\":\"%s\",\"quick\":%s,\"peaks\":{\"read_bytes\":%zu",
                  threads_count(), r->b.shape->name, r->b.config.layers, r->b.kernel,
                  r->b.precision == PRECISION_BF16 ? "bf16" : "f32", r->b.quick ? "true" : "false",
                  p->read_bytes) ||
        put(r, "f32_gflops", p->f32_gflops, e) || put(r, "bf16_gflops", p->bf16_gflops, e) ||
        put(r, "read_gbs", p->read_gbs, e) || text_addf(&r->out, e, ",\"instructions\":["))
        return -1;
    for (size_t i = 0; i < p->n_rates; i++)
        if (text_addf(&r->out, e, "%s{\"name\":\"%s\",\"dtype\":\"%s\"", i ? "," : "",
                      p->rates[i].name, p->rates[i].dtype == DTYPE_BF16 ? "bf16" : "f32") ||
            put(r, "gflops", p->rates[i].gflops, e) || text_add(&r->out, "}", 1, e))
            return -1;
    return text_addf(&r->out, e, "]}");
}

static int peaks_table(Report *r, const char *cpu, Err *e)
{
    const BenchPeaks *p = &r->b.peaks;
    if (text_addf(&r->out, e, "%s, %d threads, kernel %s\n%s, %zu layers, %s\n\npeaks\n", cpu,
                  threads_count(), r->b.kernel, r->b.shape->name, r->b.config.layers,
                  r->b.precision == PRECISION_BF16 ? "bf16" : "f32"))
        return -1;
    for (size_t i = 0; i < p->n_rates; i++)
        if (text_addf(&r->out, e, "  %-16s %-5s %9.1f GFLOP/s\n", p->rates[i].name,
                      p->rates[i].dtype == DTYPE_BF16 ? "bf16" : "f32", p->rates[i].gflops))
            return -1;
    if (p->bf16_gflops <= p->f32_gflops &&
        text_addf(&r->out, e, "  no bf16 instruction is faster: bf16 is held against f32\n"))
        return -1;
    return text_addf(&r->out, e, "  %-22s %9.1f GB/s   (%zu MiB, front to back)\n", "memory read",
                     p->read_gbs, p->read_bytes >> 20);
}

static int report_peaks(Report *r, Err *e)
{
    char cpu[128];
    bench_cpu(cpu, sizeof cpu);
    tell(r, "peaks", "");
    if (bench_peaks(&r->b, e)) return -1;
    return r->json ? peaks_json(r, cpu, e) : peaks_table(r, cpu, e) || flush_tables(r, e) ? -1 : 0;
}

/* ---- kernels -------------------------------------------------------------------------------- */

static int gemm_json(Report *r, const BenchWeight *w, const char *dtype, const BenchGemm *g,
                     int first, Err *e)
{
    return text_addf(&r->out, e,
                     "%s{\"weights\":\"%s\",\"dtype\":\"%s\",\"direction\":\"%s\",\"T\":%zu,"
                     "\"K\":%zu,\"N\":%zu",
                     first ? "" : ",", w->names, dtype, direction(g->backward), g->T, w->K,
                     w->N) ||
                   put(r, "seconds", g->seconds, e) || put(r, "gflops", g->gflops, e) ||
                   put(r, "share", g->share, e) || put(r, "gbs", g->gbs, e) ||
                   put(r, "read_share", g->read_share, e) || text_add(&r->out, "}", 1, e)
               ? -1
               : 0;
}

/* Measures all numbers of rows of a weight in one dtype. */
static int report_weight(Report *r, const BenchWeight *w, Dtype dtype, int *first, Err *e)
{
    BenchGemm rows[BENCH_MAX_GEMM];
    size_t n;
    const char *name = dtype == DTYPE_BF16 ? "bf16" : "f32";
    tell(r, "products with ", w->names);
    if (bench_gemm(&r->b, w, dtype, rows, &n, e)) return -1;
    for (size_t i = 0; i < n; i++) {
        const BenchGemm *g = &rows[i];
        int status =
            r->json ? gemm_json(r, w, name, g, *first, e)
                    : text_addf(&r->out, e,
                                "  %-17s %-5s %-8s %5zu %6zu %6zu %11.6f %9.1f %6.1f%% %7.1f "
                                "%6.1f%%\n",
                                w->names, name, direction(g->backward), g->T, w->K, w->N,
                                g->seconds, g->gflops, percent(g->share), g->gbs,
                                percent(g->read_share));
        if (status) return -1;
        *first = 0;
    }
    return flush_tables(r, e);
}

static int report_gemm(Report *r, Err *e)
{
    static const Dtype dtypes[] = {DTYPE_BF16, DTYPE_F32};
    BenchWeight weights[BENCH_MAX_WEIGHTS];
    size_t n = bench_weights(&r->b, weights);
    int first = 1, wanted = wants(r, "gemm");
    if (r->json ? text_addf(&r->out, e, ",\"gemm\":[")
                : wanted && text_addf(&r->out, e,
                            "\nmatrix products: y [T,N] = x [T,K] W^T, backward dx = dy W; shares "
                            "of the peak, and of reading W\n"
                            "  %-17s %-5s %-8s %5s %6s %6s %11s %9s %7s %7s %7s\n",
                            "weights", "dtype", "", "T", "K", "N", "seconds", "GFLOP/s", "share",
                            "GB/s", "share"))
        return -1;
    if (flush_tables(r, e)) return -1;
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes && wanted; d++)
        for (size_t i = 0; i < n; i++)
            if (report_weight(r, &weights[i], dtypes[d], &first, e)) return -1;
    return r->json ? text_add(&r->out, "]", 1, e) : 0;
}

static int report_attention(Report *r, Err *e)
{
    BenchAttention rows[BENCH_MAX_ATTENTION];
    size_t n = 0;
    if (!wants(r, "attention")) return r->json ? text_addf(&r->out, e, ",\"attention\":[]") : 0;
    tell(r, "attention", "");
    if (bench_attention(&r->b, rows, &n, e)) return -1;
    int status = r->json ? text_addf(&r->out, e, ",\"attention\":[")
                         : text_addf(&r->out, e,
                                     "\nattention of one sequence, causal, f32\n"
                                     "  %6s %-8s %11s %9s %7s\n",
                                     "length", "", "seconds", "GFLOP/s", "share");
    for (size_t i = 0; i < n && !status; i++) {
        const BenchAttention *a = &rows[i];
        status = r->json ? text_addf(&r->out, e, "%s{\"length\":%zu,\"direction\":\"%s\"",
                                     i ? "," : "", a->length, direction(a->backward)) ||
                               put(r, "seconds", a->seconds, e) ||
                               put(r, "gflops", a->gflops, e) || put(r, "share", a->share, e) ||
                               text_add(&r->out, "}", 1, e)
                         : text_addf(&r->out, e, "  %6zu %-8s %11.6f %9.1f %6.1f%%\n", a->length,
                                     direction(a->backward), a->seconds, a->gflops,
                                     percent(a->share));
    }
    if (!status && r->json) status = text_add(&r->out, "]", 1, e);
    return status ? -1 : flush_tables(r, e);
}

/* ---- decoding ------------------------------------------------------------------------------- */

static int decode_fields(Report *r, const BenchDecode *d, Err *e)
{
    return text_addf(&r->out, e, "\"sequences\":%zu", d->sequences) ||
                   put(r, "seconds", d->seconds, e) ||
                   put(r, "tokens_per_second", d->tokens_per_second, e) ||
                   put(r, "bytes_per_token", d->bytes_per_token, e) ||
                   put(r, "read_gbs", d->read_gbs, e) || put(r, "share", d->share, e) ||
                   put(r, "gflops_share", d->gflops_share, e)
               ? -1
               : 0;
}

static int decode_json(Report *r, const BenchDecode *rows, const BenchPrompt *p, Err *e)
{
    if (text_addf(&r->out, e, ",\"decode\":{") || decode_fields(r, &rows[0], e) ||
        text_addf(&r->out, e, ",\"batches\":["))
        return -1;
    for (size_t i = 0; i < BENCH_DECODES; i++)
        if (text_addf(&r->out, e, "%s{", i ? "," : "") || decode_fields(r, &rows[i], e) ||
            text_add(&r->out, "}", 1, e))
            return -1;
    return text_addf(&r->out, e, "]},\"prompt\":{\"tokens\":%zu", p->tokens) ||
                   put(r, "seconds", p->seconds, e) ||
                   put(r, "tokens_per_second", p->tokens_per_second, e) ||
                   put(r, "share", p->share, e) || text_add(&r->out, "}", 1, e)
               ? -1
               : 0;
}

static int decode_table(Report *r, const BenchDecode *rows, const BenchPrompt *p, Err *e)
{
    if (text_addf(&r->out, e,
                  "\ndecoding; shares of the rate of readings between steps, and of the peak\n"
                  "  %9s %11s %9s %13s %7s %7s %7s\n",
                  "sequences", "s a step", "tokens/s", "bytes a token", "GB/s", "memory", "peak"))
        return -1;
    for (size_t i = 0; i < BENCH_DECODES; i++)
        if (text_addf(&r->out, e, "  %9zu %11.6f %9.2f %13.0f %7.1f %6.1f%% %6.1f%%\n",
                      rows[i].sequences, rows[i].seconds, rows[i].tokens_per_second,
                      rows[i].bytes_per_token, rows[i].read_gbs, percent(rows[i].share),
                      percent(rows[i].gflops_share)))
            return -1;
    return text_addf(&r->out, e,
                     "  a prompt of %zu tokens: %.3f s, %.1f tokens/s, %.1f%% of the peak\n",
                     p->tokens, p->seconds, p->tokens_per_second, percent(p->share));
}

static int report_decode(Report *r, Model *m, Err *e)
{
    BenchDecode rows[BENCH_DECODES];
    BenchPrompt prompt;
    if (!wants(r, "decode"))
        return r->json ? text_addf(&r->out, e, ",\"decode\":null,\"prompt\":null") : 0;
    tell(r, "decoding", "");
    for (size_t i = 0; i < BENCH_DECODES; i++) {
        if (bench_stopped(e) || bench_decode(&r->b, m, bench_sequences[i], &rows[i], e)) return -1;
    }
    tell(r, "a prompt", "");
    if (bench_stopped(e) || bench_prompt(&r->b, m, &prompt, e)) return -1;
    int status = r->json ? decode_json(r, rows, &prompt, e) : decode_table(r, rows, &prompt, e);
    return status ? -1 : flush_tables(r, e);
}

/* ---- training steps ------------------------------------------------------------------------- */

static int step_json(Report *r, const BenchStep *s, int first, Err *e)
{
    return text_addf(&r->out, e,
                     "%s{\"method\":\"%s\",\"rows\":\"%s\",\"batch\":%zu,\"prompt_tokens\":%zu,"
                     "\"completion_tokens\":%zu,\"tokens\":%zu,\"distinct_tokens\":%zu,"
                     "\"planned_bytes\":%llu",
                     first ? "" : ",", train_method_names[s->method], s->rows.name, s->batch,
                     s->rows.prompt, s->rows.completion, s->tokens, s->distinct,
                     (unsigned long long)s->planned) ||
                   put(r, "seconds", s->seconds, e) ||
                   put(r, "tokens_per_second", s->tokens_per_second, e) ||
                   put(r, "flops", s->flops, e) || put(r, "share", s->share, e) ||
                   put(r, "reference_seconds", s->reference_seconds, e) ||
                   text_add(&r->out, "}", 1, e)
               ? -1
               : 0;
}

static int step_row(Report *r, const BenchStep *s, Err *e)
{
    return text_addf(&r->out, e,
                     "  %-6s %-5s %5zu %5zu+%-5zu %7zu %10.3f %9.1f %6.1f%% %10.3f %8llu\n",
                     train_method_names[s->method], s->rows.name, s->batch, s->rows.prompt,
                     s->rows.completion, s->tokens, s->seconds, s->tokens_per_second,
                     percent(s->share), s->reference_seconds,
                     (unsigned long long)(s->planned >> 20));
}

static int report_steps(Report *r, Model *m, Err *e)
{
    static const TrainMethod methods[] = {TRAIN_DPO, TRAIN_KTO};
    size_t kinds = r->b.quick ? 1 : BENCH_ROWS; /* quick: short rows only */
    int first = 1, wanted = wants(r, "steps");
    if (r->json ? text_addf(&r->out, e, ",\"steps\":[")
                : wanted && text_addf(&r->out, e,
                            "\ntraining steps, LoRA of rank 16 on all maps; shares count the "
                            "products with weights that no method can save\n"
                            "  %-6s %-5s %5s %11s %7s %10s %9s %7s %10s %8s\n",
                            "method", "rows", "batch", "lengths", "tokens", "seconds", "tokens/s",
                            "share", "reference", "plan MiB"))
        return -1;
    if (flush_tables(r, e)) return -1;
    for (size_t k = 0; k < kinds && wanted; k++)
        for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
            BenchStep s;
            tell(r, "a step of ", train_method_names[methods[i]]);
            if (bench_stopped(e) || bench_step(&r->b, m, methods[i], &bench_rows[k], &s, e) ||
                (r->json ? step_json(r, &s, first, e) : step_row(r, &s, e)) || flush_tables(r, e))
                return -1;
            first = 0;
        }
    return r->json ? text_add(&r->out, "]", 1, e) : 0;
}

/* ---- the command ---------------------------------------------------------------------------- */

static int report_models(Report *r, Err *e)
{
    Model m = {0};
    if ((wants(r, "decode") || wants(r, "steps")) && bench_model(&r->b, &m, e)) return -1;
    int failed = report_decode(r, &m, e) || report_steps(r, &m, e);
    model_close(&m);
    return failed ? -1 : 0;
}

static int bench_run(const Options *o, Err *e)
{
    Report r = {.o = o, .json = option_flag(o, "json")};
    const char *shape = option_text(o, "shape");
    size_t layers = option_is(o, "layers", "all") ? 0 : (size_t)option_count(o, "layers");
    int bf16 = option_is(o, "precision", "auto") ? bench_shape(shape)->dtype == DTYPE_BF16
                                                 : option_is(o, "precision", "bf16");
    threads_from(o);
    if (bench_open(&r.b, shape, layers, option_text(o, "kernel"),
                   bf16 ? PRECISION_BF16 : PRECISION_F32, option_flag(o, "quick"), e))
        return -1;
    int failed = report_peaks(&r, e) || report_gemm(&r, e) || report_attention(&r, e) ||
                 report_models(&r, e) || (r.json && text_add(&r.out, "}\n", 2, e));
    if (!failed) failed = print_text(&r.out, e);
    text_free(&r.out);
    return failed ? -1 : 0;
}

const Command command_bench = {&bench_table, bench_run};
