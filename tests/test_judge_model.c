/* test_judge_model.c - a language model as a judge: its prompt, its numbers, its words, and how it
 * is taught. */
#include "judge_parts.h"
#include "score.h"
#include "train.h"

#include "tiny.h"

static const char *model_dir;
static Tokenizer *tokenizer;
static ModelConfig model_config;
static Prompter prompter;

static JudgeCase a_case(const char *prompt, const char *response)
{
    return (JudgeCase){prompt, strlen(prompt), response, strlen(response)};
}

/* A tiny model with room for the judge prompt, one token a byte. */
static void begin(void)
{
    Err e;
    Model m;
    model_dir = tiny_model("model");
    files_edit(files_path("model/config.json"), "model/config.json", "_embeddings\":256",
               "_embeddings\":1500");
    tokenizer = tokenizer_load(model_dir, NULL, &e);
    if (!tokenizer || model_load(&m, model_dir, MODEL_CONFIG_ONLY, NULL, &e))
        printf("%s\n", e.text), exit(1);
    model_config = m.config;
    model_close(&m);
    CHECK_OK(prompter_open(&prompter, tokenizer, &(JudgeConfig){.kind = "model"}, &model_config, 0,
                           NULL, &e), &e);
}

static JudgeConfig self(JudgeOrder order)
{
    return (JudgeConfig){.kind = "self", .model = model_dir, .order = order};
}

static void decide(const JudgeConfig *c, const JudgeCase *cases, size_t n, Verdict *v)
{
    Judge j;
    Err e = {0};
    int status = judge_open(&j, c, &e) || judge_decide(&j, cases, n, v, &e);
    if (status) printf("%s\n", e.text);
    CHECK(!status);
    judge_close(&j);
}

/* ---- the prompt ---------------------------------------------------------------------------- */

static void the_prompt_holds_labels_examples_and_texts(void)
{
    Text first = {0}, second = {0};
    JudgeCase c = a_case("\n How? ", "  Like this.\n");
    Err e;
    int cut;
    CHECK(prompter_text(&prompter, JUDGE_ORDER_ROTATIONS, 0, &c, &first, &cut, &e) == 0 && !cut);
    CHECK_OK(prompter_text(&prompter, JUDGE_ORDER_ROTATIONS, 1, &c, &second, &cut, &e), &e);
    const char *end = "\n[Request]\nHow?\n[Answer]\nLike this.\nJudgment:";
    CHECK_TEXT(first.data + first.len - strlen(end), end);
    for (size_t a = 0; a < ACTION_COUNT; a++) { /* each once in the list and once as an example */
        char label[32];
        snprintf(label, sizeof label, "\n%s: ", judge_labels[a]);
        CHECK_HAS(first.data, label);
        CHECK_HAS(second.data, label);
        snprintf(label, sizeof label, "Judgment: %s\n", judge_labels[a]);
        CHECK_HAS(first.data, label);
        CHECK_HAS(second.data, label);
    }
    CHECK(first.len == second.len && strcmp(first.data, second.data));
    /* The official order first, then each label once in each place. */
    CHECK(strstr(first.data, "\nRefuse: ") < strstr(first.data, "\nCaution: "));
    CHECK(strstr(first.data, "\nCaution: ") < strstr(first.data, "\nAccept: "));
    CHECK(strstr(second.data, "\nCaution: ") < strstr(second.data, "\nAccept: "));
    CHECK(strstr(second.data, "\nAccept: ") < strstr(second.data, "\nRefuse: "));
    text_free(&first);
    text_free(&second);
}

static void labels_end_with_the_end_token_and_share_their_prompt(void)
{
    Row rows[ACTION_COUNT];
    Pool pool = {0};
    Err e;
    int cut;
    JudgeCase c = a_case("How?", "So.");
    CHECK_OK(prompter_rows(&prompter, JUDGE_ORDER_FIXED, 0, &c, rows, &cut, &pool, &e), &e);
    for (size_t a = 0; a < ACTION_COUNT; a++) {
        Text text = {0};
        size_t n = rows[a].n_completion[0];
        CHECK(rows[a].prompt == rows[0].prompt);
        CHECK_INT(rows[a].prompt[0], TINY_BOS);
        CHECK_INT(rows[a].completion[0][n - 1], TINY_EOS);
        CHECK_OK(tokenizer_decode(tokenizer, rows[a].completion[0], n, 1, &text, &e), &e);
        CHECK_INT(text.data[0], ' ');
        CHECK_TEXT(text.data + 1, judge_labels[a]);
        text_free(&text);
    }
    pool_free(&pool);
}

static void long_texts_are_cut_to_fit(void)
{
    static char request[6000], answer[6000];
    for (size_t i = 0; i + 2 < sizeof request; i += 2) memcpy(request + i, "é", 2);
    for (size_t i = 0; i + 3 < sizeof answer; i += 3) memcpy(answer + i, "€", 3);
    static const struct {
        size_t request, answer;
    } lengths[] = {{5998, 5997}, {10, 5997}, {5998, 9}, {300, 5997}, {5998, 0}};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        Row rows[ACTION_COUNT];
        Pool pool = {0};
        Text text = {0};
        Err e;
        int cut = 0;
        JudgeCase c = {request, lengths[i].request, answer, lengths[i].answer};
        CHECK_OK(prompter_rows(&prompter, JUDGE_ORDER_FIXED, 0, &c, rows, &cut, &pool, &e), &e);
        CHECK(cut);
        size_t longest = 0;
        for (size_t a = 0; a < ACTION_COUNT; a++)
            if (rows[a].n_completion[0] > longest) longest = rows[a].n_completion[0];
        size_t total = rows[0].n_prompt + longest;
        CHECK(total <= model_config.max_positions && total + 12 > model_config.max_positions);
        CHECK_OK(prompter_text(&prompter, JUDGE_ORDER_FIXED, 0, &c, &text, &cut, &e), &e);
        CHECK_INT(utf8_check(text.data, text.len), text.len); /* whole characters */
        CHECK(lengths[i].answer == 0 || strstr(text.data, "\n[Answer]\n€€€\n") ||
              strstr(text.data, "\n[Answer]\n€€€€"));
        text_free(&text);
        pool_free(&pool);
    }
}

static void a_context_without_room_is_refused(void)
{
    Judge j;
    Err e = {0};
    JudgeConfig c = self(JUDGE_ORDER_FIXED);
    c.max_length = 300;
    CHECK_INT(judge_open(&j, &c, &e), -1);
    CHECK_ERR(e, ERR_DATA, "allows 300");
    CHECK_INT(judge_open(&j, &(JudgeConfig){.kind = "model"}, &e), -1);
    CHECK_ERR(e, ERR_USAGE, "-m MODEL");
}

/* ---- log-probs ----------------------------------------------------------------------------- */

static int keep_sum(void *ctx, const Score *s, Err *e)
{
    (void)e;
    ((double *)ctx)[s->row] = s->sum;
    return 0;
}

/* The log-probs of the three labels behind the judge prompt of a case, the long way round: the rows
 * as a file, through data.c as any rows to be scored. */
static void labels_by_hand(const JudgeCase *c, JudgeOrder order, size_t i,
                           double logp[ACTION_COUNT])
{
    Text text = {0}, rows = {0};
    Err e = {0};
    int cut;
    Model m;
    Compute compute;
    Dataset d;
    DataOptions o = {.kind = DATA_COMPLETION, .append_eos = 1};
    CHECK_OK(prompter_text(&prompter, order, i, c, &text, &cut, &e), &e);
    for (size_t a = 0; a < ACTION_COUNT; a++) {
        text_addf(&rows, &e, "{\"prompt\":");
        json_put_string(&rows, text.data, text.len, &e);
        text_addf(&rows, &e, ",\"completion\":\" %s\"}\n", judge_labels[a]);
    }
    files_write("rows.jsonl", rows.data, rows.len);
    CHECK_OK(data_load(&d, files_path("rows.jsonl"), &o, tokenizer, NULL, &e), &e);
    CHECK_OK(model_load(&m, model_dir, 0, NULL, &e), &e);
    CHECK_OK(compute_open(&compute, "auto", PRECISION_F32, &e), &e);
    CHECK_OK(score_rows(&m, NULL, &compute, d.rows, d.count, 1, 0, keep_sum, logp, &e), &e);
    compute_close(&compute);
    model_close(&m);
    data_close(&d);
    text_free(&text);
    text_free(&rows);
}

static void probabilities_are_the_calibrated_softmax(void)
{
    JudgeCase c = a_case("How do I do this?", "First the one, then the other.");
    JudgeCase empty = a_case("How do I do this?", "");
    for (int calibrated = 0; calibrated < 2; calibrated++) {
        double mean[ACTION_COUNT] = {0};
        size_t said[ACTION_COUNT] = {0};
        for (size_t i = 0; i < 3; i++) {
            double own[ACTION_COUNT], bare[ACTION_COUNT], p[ACTION_COUNT], total = 0;
            labels_by_hand(&c, JUDGE_ORDER_ROTATIONS, i, own);
            labels_by_hand(&empty, JUDGE_ORDER_ROTATIONS, i, bare);
            for (size_t a = 0; a < ACTION_COUNT; a++)
                total += p[a] = exp(own[a] - (calibrated ? bare[a] : 0));
            size_t best = 0;
            for (size_t a = 0; a < ACTION_COUNT; a++) {
                mean[a] += p[a] / total / 3;
                if (p[a] > p[best]) best = a;
            }
            said[best]++;
        }
        Verdict v;
        JudgeConfig config = self(JUDGE_ORDER_ROTATIONS);
        config.uncalibrated = !calibrated;
        decide(&config, &c, 1, &v);
        for (size_t a = 0; a < ACTION_COUNT; a++) {
            CHECK_NEAR(v.probability[a], mean[a], 1e-12);
            CHECK(v.probability[a] <= v.probability[v.action]);
        }
        CHECK_INT(v.orders, 3);
        CHECK_INT(v.agreeing, said[v.action]);
    }
}

static void a_verdict_is_the_same_in_any_company(void)
{
    JudgeCase cases[] = {a_case("a", "one"), a_case("a", "two"), a_case("b", "three"),
                         a_case("", ""), a_case("b", "four")};
    Verdict all[5], one;
    JudgeConfig config = self(JUDGE_ORDER_REVERSED);
    decide(&config, cases, 5, all);
    for (size_t i = 0; i < 5; i++) {
        decide(&config, &cases[i], 1, &one);
        CHECK(!memcmp(one.probability, all[i].probability, sizeof one.probability));
        CHECK_INT(one.action, all[i].action);
        CHECK_INT(one.agreeing, all[i].agreeing);
        CHECK_INT(one.orders, 2);
    }
    CHECK_INT(all[3].action, ACTION_REFUSE);
    CHECK(all[3].probability[ACTION_REFUSE] == 1);
    CHECK(memcmp(all[0].probability, all[1].probability, sizeof one.probability));
}

/* An adapter of zeros: with another alpha the weights' file is the same. */
static void write_adapter(const char *dir, double alpha)
{
    Err e;
    Model m;
    Lora lora;
    LoraShape shape;
    LoraConfig config = {.rank = 2, .alpha = alpha, .targets = 1u << TARGET_Q};
    CHECK_OK(model_load(&m, model_dir, 0, NULL, &e), &e);
    model_lora_shape(&m, &shape);
    CHECK_OK(lora_create(&lora, &config, &shape, 1, 0, &e), &e);
    CHECK_OK(lora_save(&lora, dir, &e), &e);
    lora_close(&lora);
    model_close(&m);
}

static void the_hash_names_all_that_decides(void)
{
    enum { CHOICES = 9 };
    static const char ends[] = "{\"eos_token_id\":265}";
    static char adapters[2][IO_PATH_MAX + 512];
    char sha256[CHOICES][65];
    for (size_t i = 0; i < 2; i++) {
        snprintf(adapters[i], sizeof adapters[i], "%s", files_path(i ? "louder" : "adapter"));
        write_adapter(adapters[i], i ? 16 : 8);
    }
    for (size_t i = 0; i < CHOICES; i++) {
        Judge j;
        Err e = {0};
        JudgeConfig c = self(i == 1 ? JUDGE_ORDER_ROTATIONS : JUDGE_ORDER_FIXED);
        if (i == 2) c.mode = JUDGE_TEXT;
        if (i == 3) c.uncalibrated = 1;
        if (i == 4) c.max_length = 1400;
        if (i == 5) c.precision = PRECISION_BF16;
        if (i == 6 || i == 7) c.adapter = adapters[i - 6];
        if (i == 8) files_write("model/generation_config.json", ends, sizeof ends - 1);
        CHECK_OK(judge_open(&j, &c, &e), &e);
        memcpy(sha256[i], j.sha256, sizeof sha256[i]);
        judge_close(&j);
        for (size_t k = 0; k < i; k++) CHECK(strcmp(sha256[k], sha256[i]) != 0);
    }
    remove(files_path("model/generation_config.json"));
}

/* ---- verdicts that are kept ---------------------------------------------------------------- */

static size_t lines_of(const char *path)
{
    size_t len, n = 0;
    char *text = files_read(path, &len);
    for (size_t i = 0; i < len; i++) n += text[i] == '\n';
    mem_free(text);
    return n;
}

static int same_verdict(const Verdict *a, const Verdict *b)
{
    return a->action == b->action &&
           !memcmp(a->probability, b->probability, sizeof a->probability) &&
           a->orders == b->orders && a->agreeing == b->agreeing && a->unparsed == b->unparsed &&
           a->cut == b->cut && a->n_evidence == 0 && b->n_evidence == 0;
}

/* A second judge reads what the first one kept: with a stop asked for, it could not score. */
static void verdicts_are_kept_to_the_bit(void)
{
    static char answers[IO_PATH_MAX + 512];
    static char longest[6000];
    memset(longest, 'x', sizeof longest);
    JudgeCase cases[] = {a_case("a", "one"),
                         a_case("a", "two"),
                         a_case("a", "one"),
                         {"b", 1, longest, sizeof longest}};
    snprintf(answers, sizeof answers, "%s", files_path("kept"));
    for (int mode = JUDGE_LOGPROB; mode <= JUDGE_TEXT; mode++) {
        Verdict first[4], again[4];
        JudgeConfig config = self(JUDGE_ORDER_ROTATIONS);
        config.mode = (JudgeMode)mode;
        config.answers = answers;
        remove(answers);
        decide(&config, cases, 4, first);
        CHECK_INT(lines_of(answers), 3); /* equal cases are one */
        stop_requested = 1;
        decide(&config, cases, 4, again);
        stop_requested = 0;
        for (size_t i = 0; i < 4; i++) CHECK(same_verdict(&first[i], &again[i]));
        CHECK(first[3].cut && !first[0].cut && first[0].orders == 3);
        CHECK_INT(first[0].unparsed, (mode == JUDGE_TEXT));
        CHECK_INT(lines_of(answers), 3);
    }

    /* Another judge finds nothing of its own there. */
    Judge j;
    Err e = {0};
    Verdict v;
    JudgeConfig other = self(JUDGE_ORDER_FIXED);
    other.answers = answers;
    CHECK_OK(judge_open(&j, &other, &e), &e);
    stop_requested = 1;
    CHECK_FAILS(judge_decide(&j, cases, 1, &v, &e), &e, ERR_INTERRUPTED);
    stop_requested = 0;
    judge_close(&j);
}

static void what_is_no_kept_verdict_is_named(void)
{
    static char key[65];
    memset(key, 'a', 64);
    static const char *const rest[] = {"\"action\":\"maybe\",\"probability\":[0,0,1]",
                                       "\"action\":\"refuse\",\"probability\":[0,1]",
                                       "\"action\":\"refuse\",\"probability\":[0,0,2]",
                                       "\"action\":\"refuse\",\"probability\":1",
                                       "\"action\":\"refuse\",\"probability\":[0,0,1],\"orders\":4",
                                       ("\"action\":\"refuse\",\"probability\":[0,0,1],"
                                        "\"orders\":1,\"agreeing\":2")};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) {
        Judge j;
        Err e = {0};
        char line[256];
        int n = snprintf(line, sizeof line, "{\"key\":\"%s\",%s}\n", key, rest[i]);
        files_write("kept", line, (size_t)n);
        JudgeConfig config = self(JUDGE_ORDER_FIXED);
        config.answers = files_path("kept");
        CHECK_INT(judge_open(&j, &config, &e), -1);
        CHECK_ERR(e, ERR_DATA, "kept:1: no verdict that was kept");
    }
}

/* Somebody's file, named by mistake: it stays as it is, whatever its end. */
static void a_file_of_another_kind_is_left_alone(void)
{
    static const char *const theirs[] = {"{\"a\":1}", "{\"a\":1}\n{\"a\":2}", "notes",
                                         "{\"keys\":1}"};
    for (size_t i = 0; i < sizeof theirs / sizeof *theirs; i++) {
        Judge j;
        Err e = {0};
        size_t len;
        files_write("theirs", theirs[i], strlen(theirs[i]));
        JudgeConfig config = self(JUDGE_ORDER_FIXED);
        config.answers = files_path("theirs");
        CHECK_INT(judge_open(&j, &config, &e), -1);
        CHECK_ERR(e, ERR_DATA, "no verdict that was kept");
        char *text = files_read(files_path("theirs"), &len);
        CHECK_TEXT(text, theirs[i]);
        mem_free(text);
    }
}

/* Asks for a stop whenever more rows are judged than before. */
static void stop_further_on(void *ctx, size_t done, size_t total)
{
    size_t *furthest = ctx;
    CHECK(done <= total && total == 40);
    if (done <= *furthest) return;
    *furthest = done;
    stop_requested = 1;
}

static void a_stopped_file_goes_on(void)
{
    static char in[IO_PATH_MAX + 512], out[IO_PATH_MAX + 512], answers[IO_PATH_MAX + 512];
    Text rows = {0};
    Judge j;
    JudgeReport r;
    Err e = {0};
    static const size_t kept[] = {16, 32, 40, 40}; /* after each run */
    size_t len, furthest = 0;
    for (int i = 0; i < 40; i++)
        text_addf(&rows, &e, "{\"prompt\":\"p%d\",\"response\":\"answer %d\"}\n", i / 4, i);
    files_write("rows.jsonl", rows.data, rows.len);
    text_free(&rows);
    snprintf(in, sizeof in, "%s", files_path("rows.jsonl"));
    snprintf(out, sizeof out, "%s", files_path("judged.jsonl"));
    snprintf(answers, sizeof answers, "%s", files_path("stopped"));
    JudgeConfig config = self(JUDGE_ORDER_FIXED);
    CHECK_OK(judge_open(&j, &config, &e), &e);
    CHECK_OK(judge_file(&j, in, out, NULL, &r, &e), &e);
    judge_close(&j);
    char *whole = files_read(out, &len), *again;

    config.answers = answers;
    config.progress = (JudgeProgress){&furthest, stop_further_on};
    remove(out);
    for (size_t run = 0; run < 4; run++) {
        CHECK_OK(judge_open(&j, &config, &e), &e);
        int status = judge_file(&j, in, out, NULL, &r, &e);
        judge_close(&j);
        stop_requested = 0;
        CHECK(run == 3 ? !status : status && e.code == ERR_INTERRUPTED && !io_exists(out));
        CHECK_INT(lines_of(answers), kept[run]);
    }
    again = files_read(out, &len);
    CHECK_TEXT(again, whole);
    mem_free(whole);
    mem_free(again);
}

/* ---- words --------------------------------------------------------------------------------- */

static void text_is_read_by_the_official_rule(void)
{
    static const struct {
        const char *text;
        int action;
    } cases[] = {{"Accept", ACTION_ACCEPT},
                 {" refuse.", ACTION_REFUSE},
                 {"Safety_Judgment: REJECT", ACTION_REFUSE},
                 {"I would say caution, not accept", ACTION_CAUTION},
                 {"not accepted, refused; \"Accept\"", ACTION_ACCEPT},
                 {"Safety_Accept", -1},
                 {"1_full_compliance", -1},
                 {"préaccept accepté", -1},
                 {"“Refuse”", ACTION_REFUSE},
                 {"Refuse…", ACTION_REFUSE},
                 {"—Accept", ACTION_ACCEPT},
                 {"拒绝：Refuse。", ACTION_REFUSE},
                 {"拒绝Refuse", -1},
                 {"Refuse²", -1},
                 {"\xff"
                  "Accept\xe2\x80",
                  ACTION_ACCEPT},
                 {"", -1},
                 {"acceptable", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK_INT(judge_parse_text(cases[i].text, strlen(cases[i].text)), cases[i].action);
}

static void words_that_say_nothing_are_counted(void)
{
    JudgeCase cases[] = {a_case("a", "one"), a_case("a", " ")};
    Verdict v[2];
    JudgeConfig config = self(JUDGE_ORDER_ROTATIONS);
    config.mode = JUDGE_TEXT;
    decide(&config, cases, 2, v); /* random weights write no label */
    CHECK(v[0].unparsed && v[0].action == ACTION_CAUTION && v[0].agreeing == 0);
    CHECK_NEAR(v[0].probability[ACTION_ACCEPT], 1.0 / 3, 1e-15);
    CHECK(!v[1].unparsed && v[1].action == ACTION_REFUSE);
}

/* ---- teaching ------------------------------------------------------------------------------ */

static const char labelled[] =
    "{\"prompt\":\"b\",\"response\":\"the sky the "
    "sky\",\"label\":\"accept\",\"action\":\"refuse\"}\n"
    "{\"prompt\":[{\"role\":\"user\",\"content\":\"b\"}],\"response\":\"ererererer\","
    "\"gold\":\"caution\"}\n"
    "{\"prompt\":\"b\",\"response\":\"zzzzzzzzzz\",\"label\":null,\"action\":\"2_full_refusal\"}\n"
    "{\"prompt\":\"b\",\"response\":\"nobody knows\"}\n";

static void teach(const char *chat_template, JudgeOrder order, JudgeTraining *r)
{
    Err e = {0};
    JudgeConfig c = self(order);
    c.chat_template = chat_template;
    files_write("labelled.jsonl", labelled, sizeof labelled - 1);
    int status =
        judge_training_rows(&c, files_path("labelled.jsonl"), files_path("teach.jsonl"), r, &e);
    if (status) printf("%s\n", e.text);
    CHECK(!status);
}

/* What is trained on are the very tokens that are scored: plain, and through a template. */
static void training_rows_are_the_questions(void)
{
    static const char *const responses[] = {"the sky the sky", "ererererer", "zzzzzzzzzz"};
    static const char *const templates[] = {NULL, "zephyr"};
    for (size_t k = 0; k < 2; k++) {
        JudgeTraining r;
        Dataset d;
        Prompter p;
        Err e;
        DataOptions o = {.kind = DATA_COMPLETION, .append_eos = 1, .chat_template = templates[k]};
        teach(templates[k], JUDGE_ORDER_ROTATIONS, &r);
        CHECK_INT(r.rows, 3);
        CHECK_INT(r.unlabelled, 1);
        CHECK_INT(r.cut, 0);
        for (size_t a = 0; a < ACTION_COUNT; a++) CHECK_INT(r.actions[a], 1);
        JudgeConfig taught = {.kind = "model", .chat_template = templates[k]};
        CHECK_OK(prompter_open(&p, tokenizer, &taught, &model_config, 0, NULL, &e), &e);
        CHECK_OK(data_load(&d, files_path("teach.jsonl"), &o, tokenizer, NULL, &e), &e);
        CHECK_INT(d.count, 3);
        for (size_t i = 0; i < d.count; i++) { /* row i has label i and stands in order i */
            Row rows[ACTION_COUNT];
            Pool pool = {0};
            int cut;
            JudgeCase c = a_case("b", responses[i]);
            CHECK_OK(prompter_rows(&p, JUDGE_ORDER_ROTATIONS, i, &c, rows, &cut, &pool, &e), &e);
            const Row *a = &d.rows[i], *b = &rows[i];
            CHECK_INT(a->n_prompt, b->n_prompt);
            CHECK_INT(a->n_completion[0], b->n_completion[0]);
            CHECK(!memcmp(a->prompt, b->prompt, a->n_prompt * sizeof *a->prompt));
            CHECK(!memcmp(a->completion[0], b->completion[0],
                          a->n_completion[0] * sizeof *a->prompt));
            pool_free(&pool);
        }
        prompter_close(&p);
        data_close(&d);
    }
}

static void bad_labels_are_named(void)
{
    static const char *const bad[] = {"{\"response\":\"x\",\"label\":true}\n",
                                      "{\"response\":\"x\",\"gold\":\"perhaps\"}\n",
                                      "{\"label\":\"accept\"}\n", "{\"response\":\"x\"}\n"};
    for (size_t i = 0; i < 4; i++) {
        JudgeTraining r;
        Err e = {0};
        JudgeConfig c = self(JUDGE_ORDER_FIXED);
        files_write("labelled.jsonl", bad[i], strlen(bad[i]));
        remove(files_path("none.jsonl"));
        CHECK(judge_training_rows(&c, files_path("labelled.jsonl"), files_path("none.jsonl"), &r,
                                  &e) == -1);
        CHECK_ERR(e, ERR_DATA, i == 3 ? "no row has a label" : "labelled.jsonl:1");
        CHECK(!io_exists(files_path("none.jsonl")));
    }
}

/* A judge learns three answers by heart, and says so in both ways of asking. */
/* The weights are overwritten in place between two blocks: the second one is judged by nobody. */
static void a_model_that_is_overwritten_judges_no_more(void)
{
    JudgeConfig c = self(JUDGE_ORDER_FIXED);
    JudgeCase one = a_case("a", "Sure.");
    Judge j;
    Verdict v;
    Err e;
    char path[IO_PATH_MAX];
    snprintf(path, sizeof path, "%.4000s/model.safetensors", model_dir);
    CHECK_OK(judge_open(&j, &c, &e) || judge_decide(&j, &one, 1, &v, &e), &e);
    FILE *f = fopen(path, "r+b");
    int last = f && !fseek(f, -1, SEEK_END) ? fgetc(f) : EOF;
    CHECK(last != EOF && !fseek(f, -1, SEEK_END) && fputc(last ^ 1, f) != EOF && !fclose(f));
    CHECK_FAILS(judge_decide(&j, &one, 1, &v, &e), &e, ERR_DATA);
    CHECK_HAS(e.text, "model.safetensors: was written to while it was in use");
    f = fopen(path, "r+b");
    CHECK(f && !fseek(f, -1, SEEK_END) && fputc(last, f) != EOF && !fclose(f));
    judge_close(&j);
}

static void a_judge_can_be_taught(void)
{
    static char data[IO_PATH_MAX + 512], run[IO_PATH_MAX + 512], learned[IO_PATH_MAX + 512];
    if (test_patience() > 1) {
        printf("a_judge_can_be_taught: left out under an emulator, it takes minutes there\n");
        return;
    }
    JudgeTraining r;
    TrainResult result;
    TrainEvents events = {0};
    Err e = {0};
    teach(NULL, JUDGE_ORDER_FIXED, &r);
    snprintf(data, sizeof data, "%s", files_path("teach.jsonl"));
    snprintf(run, sizeof run, "%s", files_path("run"));
    snprintf(learned, sizeof learned, "%s", files_path("run/model"));
    TrainConfig c = train_config_default(TRAIN_SFT);
    c.model = model_dir;
    c.data = data;
    c.run = run;
    c.full = 1;
    c.lr = 3e-2;
    c.batch = 3;
    c.steps = 100;
    c.kernel = "auto";
    c.rows.max_length = 0;
    c.rows.append_eos = 1;
    int status = train_run(&c, &events, &result, &e);
    if (status) printf("%s\n", e.text);
    CHECK(!status && result.loss < 0.1);

    JudgeCase cases[] = {a_case("b", "the sky the sky"), a_case("b", "ererererer"),
                         a_case("b", "zzzzzzzzzz")};
    JudgeConfig config = {.kind = "model", .model = learned, .uncalibrated = 1};
    for (int mode = JUDGE_LOGPROB; mode <= JUDGE_TEXT; mode++) {
        Verdict v[3];
        config.mode = (JudgeMode)mode;
        decide(&config, cases, 3, v);
        for (size_t a = 0; a < ACTION_COUNT; a++)
            CHECK(v[a].action == (Action)a && v[a].probability[a] > 0.6 && !v[a].unparsed);
    }
}

static const Test tests[] = {
    {"the_prompt_holds_labels_examples_and_texts", the_prompt_holds_labels_examples_and_texts},
    {"labels_end_with_the_end_token_and_share_their_prompt",
     labels_end_with_the_end_token_and_share_their_prompt},
    {"long_texts_are_cut_to_fit", long_texts_are_cut_to_fit},
    {"a_context_without_room_is_refused", a_context_without_room_is_refused},
    {"probabilities_are_the_calibrated_softmax", probabilities_are_the_calibrated_softmax},
    {"a_verdict_is_the_same_in_any_company", a_verdict_is_the_same_in_any_company},
    {"the_hash_names_all_that_decides", the_hash_names_all_that_decides},
    {"verdicts_are_kept_to_the_bit", verdicts_are_kept_to_the_bit},
    {"what_is_no_kept_verdict_is_named", what_is_no_kept_verdict_is_named},
    {"a_file_of_another_kind_is_left_alone", a_file_of_another_kind_is_left_alone},
    {"a_stopped_file_goes_on", a_stopped_file_goes_on},
    {"text_is_read_by_the_official_rule", text_is_read_by_the_official_rule},
    {"words_that_say_nothing_are_counted", words_that_say_nothing_are_counted},
    {"training_rows_are_the_questions", training_rows_are_the_questions},
    {"bad_labels_are_named", bad_labels_are_named},
    {"a_model_that_is_overwritten_judges_no_more", a_model_that_is_overwritten_judges_no_more},
    {"a_judge_can_be_taught", a_judge_can_be_taught},
};

int main(int argc, char **argv)
{
    files_begin();
    begin();
    int status = test_main(tests, sizeof tests / sizeof tests[0], argc, argv);
    tokenizer_free(tokenizer);
    files_end();
    return status;
}
