/* test_score.c - scores of rows are those of each row alone, whatever the pass they share. */
#include "score.h"

#include "golden.h"

#define ROWS 9
#define LONGEST 12

static int32_t prompts[ROWS][LONGEST], completions[ROWS][2][LONGEST];
static Row rows[ROWS];
#define MOST 16 /* rows of any run */
static float kept[MOST][2][LONGEST];
static Score scores[MOST][2];
static size_t calls, last_row;
static int order_kept;

static Model model;
static Lora lora;
static Compute compute;

/* Rows of many lengths: an empty prompt, an empty completion, neighbours with the same prompt. */
static void make_rows(void)
{
    static const size_t n_prompt[ROWS] = {3, 3, 0, 5, 1, 7, 7, 2, 4};
    static const size_t n_completion[ROWS][2] = {{2, 4}, {6, 1}, {3, 1}, {0, 5}, {1, 1},
                                                 {9, 2}, {2, 9}, {5, 5}, {4, 0}};
    for (size_t i = 0; i < ROWS; i++) {
        size_t like = (i == 1 || i == 6) ? i - 1 : i; /* these share their neighbour's prompt */
        for (size_t t = 0; t < LONGEST; t++) {
            prompts[i][t] = (int32_t)(rng_u64(1, like, t) % model.config.V);
            for (size_t k = 0; k < 2; k++)
                completions[i][k][t] = (int32_t)(rng_u64(2 + k, i, t) % model.config.V);
        }
        rows[i] = (Row){.prompt = prompts[i], .n_prompt = n_prompt[i]};
        for (size_t k = 0; k < 2; k++) {
            rows[i].completion[k] = completions[i][k];
            rows[i].n_completion[k] = n_completion[i][k];
        }
    }
}

static void begin(void)
{
    Err e;
    LoraShape shape;
    compute_open(&compute, "auto", PRECISION_F32, &e);
    if (model_load(&model, golden_path("llama"), 0, NULL, &e)) printf("%s\n", e.text), exit(1);
    model_lora_shape(&model, &shape);
    if (lora_load(&lora, golden_path("llama/adapter"), &shape, 0, &e))
        printf("%s\n", e.text), exit(1);
    make_rows();
}

static void end(void)
{
    lora_close(&lora);
    model_close(&model);
    compute_close(&compute);
}

static int keep(void *ctx, const Score *s, Err *e)
{
    (void)ctx, (void)e;
    order_kept &= s->row >= last_row;
    last_row = s->row;
    calls++;
    scores[s->row][s->side] = *s;
    memcpy(kept[s->row][s->side], s->logp, (s->n - s->skipped) * sizeof *s->logp);
    return 0;
}

static void run(const Row *some, size_t n, size_t tokens)
{
    Err e = {0};
    calls = last_row = 0;
    order_kept = 1;
    int status = score_rows(&model, &lora, &compute, some, n, 2, tokens, keep, NULL, &e);
    CHECK_INT(status, 0);
    if (status) printf("%s\n", e.text);
}

static void company_changes_no_bit(void)
{
    static float together[MOST][2][LONGEST];
    static Score sums[MOST][2];
    begin();
    run(rows, ROWS, 1000);
    CHECK(calls == 2 * ROWS && order_kept);
    memcpy(together, kept, sizeof kept);
    memcpy(sums, scores, sizeof scores);
    static const size_t budgets[] = {1, 7, 20, 0};
    for (size_t b = 0; b < sizeof budgets / sizeof *budgets; b++) {
        run(rows, ROWS, budgets[b]);
        CHECK(calls == 2 * ROWS && order_kept);
        CHECK(!memcmp(together, kept, sizeof kept));
    }
    for (size_t i = 0; i < ROWS; i++) { /* alone: no shared prompt either */
        run(&rows[i], 1, 0);
        for (size_t k = 0; k < 2; k++) {
            size_t n = scores[0][k].n - scores[0][k].skipped;
            CHECK(!memcmp(together[i][k], kept[0][k], n * sizeof(float)));
            CHECK(sums[i][k].sum == scores[0][k].sum);
        }
    }
    end();
}

/* Prompts as a tree: row i has the tokens of branch[i][k] from token 18 k on. Among them are an end
 * where another goes on, a parting within a part, a path longer than any that is kept, and
 * neighbours that are equal. */
static void beginnings_are_shared_and_change_no_bit(void)
{
    enum { TREE = 16, PART = 18, PARTS = 10, TOKENS = PART * PARTS };
    static const char *const branch[TREE] = {"aaaaaaaaaa", "aaaaa",      "aaaaa",      "aaaab",
                                             "aabb",       "ac",         "acc",        "accc",
                                             "acccc",      "accccc",     "acccccc",    "accccccc",
                                             "accccccccc", "accccccccd", "bccccccccd", "b"};
    static int32_t ids[TREE][TOKENS], answers[TREE][2][3];
    static float together[TREE][2][3];
    Row tree[TREE];
    begin();
    for (size_t i = 0; i < TREE; i++) {
        size_t n = PART * strlen(branch[i]) - (i == 6); /* row 6 parts within a part */
        for (size_t t = 0; t < n; t++)
            ids[i][t] = (int32_t)(rng_u64(5, (uint64_t)branch[i][t / PART], t) % model.config.V);
        tree[i] = (Row){.prompt = ids[i], .n_prompt = n, .n_completion = {3, 2}};
        for (size_t k = 0; k < 2; k++) {
            for (size_t t = 0; t < 3; t++)
                answers[i][k][t] = (int32_t)(rng_u64(6 + k, i, t) % model.config.V);
            tree[i].completion[k] = answers[i][k];
        }
    }
    static const size_t budgets[] = {100000, 500, 100, 1};
    for (size_t b = 0; b < sizeof budgets / sizeof *budgets; b++) {
        run(tree, TREE, budgets[b]);
        CHECK(calls == 2 * TREE && order_kept);
        for (size_t i = 0; i < TREE; i++)
            for (size_t k = 0; k < 2; k++) {
                size_t bytes = (k ? 2 : 3) * sizeof(float);
                if (b == 0) memcpy(together[i][k], kept[i][k], bytes);
                CHECK(!memcmp(together[i][k], kept[i][k], bytes));
            }
    }
    for (size_t i = 0; i < TREE; i++) {
        run(&tree[i], 1, 0);
        CHECK(!memcmp(together[i][0], kept[0][0], 3 * sizeof(float)));
    }
    end();
}

static void what_cannot_be_scored_is_left_out(void)
{
    begin();
    run(rows, ROWS, 0);
    CHECK_INT(scores[2][0].skipped, 1);
    CHECK_INT(scores[2][0].n, 3); /* nothing before the first token */
    CHECK(scores[2][1].skipped == 1 && scores[2][1].n == 1 && scores[2][1].sum == 0);
    CHECK_INT(scores[3][0].n, 0);
    CHECK(scores[3][0].sum == 0);
    CHECK_INT(scores[0][0].skipped, 0);
    double sum = 0;
    for (size_t t = 0; t < scores[5][0].n; t++) {
        CHECK(kept[5][0][t] < 0);
        sum += (double)kept[5][0][t];
    }
    CHECK(scores[5][0].sum == sum);
    end();
}

/* The sequences of the golden file, cut into prompt and completion at every place. */
static void equals_pytorch(void)
{
    const double tolerance = 1e-5;
    begin();
    for (const Json *s = json_get(golden_json("llama/expected.json"), "sequences")->child; s;
         s = s->next) {
        int32_t ids[64];
        double want[64];
        size_t n = golden_ids(json_get(s, "ids"), ids, 64);
        golden_numbers(json_get(s, "logp_policy"), want, 64);
        for (size_t cut = 1; cut < n && n - cut <= LONGEST; cut++) {
            Row row = {.prompt = ids, .n_prompt = cut};
            row.completion[0] = ids + cut;
            row.n_completion[0] = n - cut;
            run(&row, 1, 0);
            for (size_t t = cut; t < n; t++)
                CHECK_NEAR((double)kept[0][0][t - cut], want[t - 1], tolerance);
        }
    }
    end();
    pool_free(&golden_pool);
}

static int refuse(void *ctx, const Score *s, Err *e)
{
    (void)ctx;
    return s->row == 4 ? err_set(e, ERR_IO, "full") : 0;
}

static void stops_when_told(void)
{
    Err e = {0};
    begin();
    CHECK_INT(score_rows(&model, NULL, &compute, rows, ROWS, 2, 0, refuse, NULL, &e), -1);
    CHECK_INT(e.code, ERR_IO);
    stop_requested = 1;
    CHECK_INT(score_rows(&model, NULL, &compute, rows, ROWS, 2, 0, keep, NULL, &e), -1);
    CHECK_INT(e.code, ERR_INTERRUPTED);
    stop_requested = 0;
    CHECK_OK(score_rows(&model, NULL, &compute, rows, 0, 2, 0, keep, NULL, &e), &e);
    end();
}

const Test tests[] = {
    {"company_changes_no_bit", company_changes_no_bit},
    {"beginnings_are_shared_and_change_no_bit", beginnings_are_shared_and_change_no_bit},
    {"what_cannot_be_scored_is_left_out", what_cannot_be_scored_is_left_out},
    {"equals_pytorch", equals_pytorch},
    {"stops_when_told", stops_when_told},
};
TEST_MAIN(tests)
