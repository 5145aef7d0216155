/* test_cycle.c - the loop: splitting prompts; whole runs, stopped and resumed; what the ledger
 * notices. What decides in it is in test_select.c. */
#include "cycles.h"

#include <sys/stat.h>

/* ---- prompts ------------------------------------------------------------------------------- */

static void splits_keep_base_prompts_together_and_levels_balanced(void)
{
    PromptSet p, again;
    Err e = {0};
    CycleConfig c = usual("r");
    write_prompts("prompts.jsonl", 0);
    CHECK(prompts_open(&p, &c, &e) == 0);
    CHECK(p.count == BASES * WORDINGS && p.groups == BASES);
    size_t n[SPLIT_COUNT][4] = {{0}};
    for (size_t i = 0; i < p.count; i++) {
        n[p.rows[i].split][p.rows[i].level]++;
        CHECK(p.rows[i].split == p.rows[i % BASES].split);
    }
    for (size_t h = 0; h < 4; h++) /* 10 base prompts of each level: 6, 2, 2 */
        CHECK(n[0][h] == 6 * WORDINGS && n[1][h] == 2 * WORDINGS && n[2][h] == 2 * WORDINGS);
    c.seed = 4;
    CHECK(prompts_open(&again, &c, &e) == 0);
    size_t moved = 0;
    for (size_t i = 0; i < p.count; i++) moved += p.rows[i].split != again.rows[i].split;
    CHECK(moved > 0);
    prompts_close(&again);
    prompts_close(&p);
}

static void cycles_take_the_next_prompts(void)
{
    PromptSet p;
    Err e = {0};
    CycleConfig c = usual("r");
    write_prompts("prompts.jsonl", 0);
    CHECK(prompts_open(&p, &c, &e) == 0);
    size_t total = p.split_rows[SPLIT_TRAIN], seen[BASES * WORDINGS] = {0};
    CHECK(total == 72);
    for (size_t cycle = 1; cycle <= 3; cycle++) {
        JsonLines lines;
        Pool pool = {0};
        Json *row;
        size_t rows = 0;
        CHECK(prompts_write(&p, SPLIT_TRAIN, cycle, total / 3, files_path("part.jsonl"), &e) == 0);
        CHECK(jsonl_open(&lines, files_path("part.jsonl"), &e) == 0);
        while (jsonl_next(&lines, &pool, &row, &e) > 0) {
            uint64_t index = BASES * WORDINGS;
            json_u64(json_get(row, "index"), &index);
            CHECK(index < BASES * WORDINGS && p.rows[index].split == SPLIT_TRAIN);
            seen[index]++;
            rows++;
        }
        CHECK(rows == total / 3);
        jsonl_close(&lines);
        pool_free(&pool);
    }
    for (size_t i = 0; i < p.count; i++) CHECK(seen[i] == (p.rows[i].split == SPLIT_TRAIN));
    prompts_close(&p);
}

static void splits_that_cannot_show_both_failures_are_refused(void)
{
    static const char *const bad[] = {
        "{\"prompt\":\"a\",\"harmful_level\":0}\n{\"prompt\":\"b\",\"harmful_level\":0}\n",
        "{\"prompt\":\"a\",\"harmful_level\":3}\n{\"prompt\":\"b\",\"harmful_level\":0}\n",
        "{\"prompt\":7,\"harmful_level\":0}\n",
        "{\"prompt\":\"a\",\"harmful_level\":9}\n",
        "{\"prompt\":\"a\",\"harmful_level\":0,\"demonstration\":[]}\n",
        "\n"};
    for (size_t i = 0; i < 6; i++) {
        PromptSet p;
        Err e = {0};
        CycleConfig c = usual("r");
        files_write("prompts.jsonl", bad[i], strlen(bad[i]));
        CHECK(prompts_open(&p, &c, &e) == -1 && e.code == ERR_DATA);
        CHECK(strstr(e.text, "prompts.jsonl") != NULL);
    }
}

static void configurations_that_mean_nothing_are_refused(void)
{
    Err e;
    CycleConfig c = usual("r");
    CHECK(cycle_config_check(&c, &e) == 0);
#define REFUSED(change)                                                                            \
    (c = usual("r"), change, e.code = 0, cycle_config_check(&c, &e) == -1 && e.code == ERR_USAGE)
    CHECK(REFUSED(c.run = NULL));
    CHECK(REFUSED(c.model = NULL));
    CHECK(REFUSED(c.prompts = ""));
    CHECK(REFUSED(c.cycles = 0));
    CHECK(REFUSED(c.methods = 0));
    CHECK(REFUSED(c.methods = 4));
    CHECK(REFUSED(c.validation = 0));
    CHECK(REFUSED(c.test = (double)NAN));
    CHECK(REFUSED((c.validation = 0.6, c.test = 0.5)));
    CHECK(REFUSED(c.max_added_refusal = -0.1));
    CHECK(REFUSED(c.desirable = 0));
    CHECK(REFUSED(c.desirable = 1.1));
    CHECK(REFUSED(c.undesirable = (double)NAN));
    CHECK(REFUSED(c.balance = 0.5));
    CHECK(REFUSED((c.raw = 1, c.revise = 1)));
    CHECK(REFUSED(c.guard_margin = -0.1));
    CHECK(REFUSED(c.confidence = 1));
    CHECK(REFUSED(c.confidence = (double)NAN));
    CHECK(REFUSED(c.resamples = CYCLE_LEAST_RESAMPLES - 1));
    CHECK(REFUSED(c.sample.samples = 0));
    CHECK(REFUSED(c.validate.samples = 2));
    CHECK(REFUSED(c.train[CYCLE_KTO].batch = 1));
    CHECK(REFUSED(c.train[CYCLE_DPO].lr = -1));
    CHECK(REFUSED((c.raw = 1, c.system = "s")));
}

/* ---- whole runs ---------------------------------------------------------------------------- */

static int run_once(const CycleConfig *c, CycleResult *r, Err *e)
{
    e->code = 0;
    int status = cycle_run(c, NULL, r, e);
    if (status && e->code != ERR_INTERRUPTED) printf("%s\n", e->text);
    return status;
}

static void count_wrong(void *ctx, const char *path, const char *why)
{
    (void)why;
    text_addf(ctx, NULL, "%s;", path);
}

/* The files that verification names, each followed by a semicolon. */
static const char *wrong_files(const char *run, int *code)
{
    static char names[2048];
    Text t = {0};
    CycleVerification v;
    Err e = {0};
    int status = cycle_verify(run, count_wrong, &t, &v, &e);
    *code = status ? e.code : 0;
    snprintf(names, sizeof names, "%s", t.data ? t.data : "");
    CHECK(!status == !*names);
    if (*names && e.code == ERR_DATA) /* the message names them, too */
        for (char *at = t.data, *end; (end = strchr(at, ';')); at = end + 1) {
            *end = 0;
            CHECK(strstr(e.text, at) != NULL);
        }
    text_free(&t);
    return names;
}

static void a_run_leaves_what_the_contract_says(void)
{
    static const char *const files[] = {"config.json",
                                        "ledger.jsonl",
                                        "validation.jsonl",
                                        "test.jsonl",
                                        "results.json",
                                        "cycle-0/responses.jsonl",
                                        "cycle-0/judged.jsonl",
                                        "cycle-0/results.json",
                                        "cycle-1/prompts.jsonl",
                                        "cycle-1/responses.jsonl",
                                        "cycle-1/judged.jsonl",
                                        "cycle-1/kto.jsonl",
                                        "cycle-1/dpo.jsonl",
                                        "cycle-1/selection.json",
                                        "cycle-1/kto/adapter/adapter_model.safetensors",
                                        "cycle-1/kto/metrics.jsonl",
                                        "cycle-1/dpo/adapter/adapter_config.json",
                                        "cycle-2/validate-dpo/results.json",
                                        "test-first/results.json",
                                        "test-last/results.json"};
    Err e;
    CycleResult r;
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("whole");
    CHECK(run_once(&c, &r, &e) == 0);
    CHECK(r.n_points == 3 && r.tested && strlen(r.head) == 64);
    CHECK(r.points[0].promoted == -1 && r.points[2].cycle == 2);
    CHECK(r.first[EVALUATE_SAFETY_SCORE].value >= 0 && r.last[EVALUATE_SAFETY_SCORE].value <= 1);
    cycle_result_free(&r);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct stat s;
        char path[IO_PATH_MAX];
        snprintf(path, sizeof path, "%.3000s/%s", c.run, files[i]);
        CHECK(stat(path, &s) == 0 && (s.st_mode & 077) == 0);
    }
    CHECK(!io_exists(files_path("whole/LOCK")));
    int code;
    CHECK_TEXT(wrong_files(c.run, &code), "");
    CHECK(code == 0);
}

static void an_existing_run_needs_resume_and_a_finished_one_stays(void)
{
    Err e;
    CycleResult r;
    Text before = {0}, after = {0};
    CycleConfig c = small_run("whole"); /* of the test above */
    CHECK(cycle_run(&c, NULL, &r, &e) == -1 && e.code == ERR_CREATE);
    size_t len, len2;
    char *ledger = files_read(files_path("whole/ledger.jsonl"), &len);
    list_run(c.run, "", &before);
    c.resume = 1;
    CHECK(run_once(&c, &r, &e) == 0);
    CHECK(r.n_points == 3 && r.tested);
    cycle_result_free(&r);
    list_run(c.run, "", &after);
    CHECK_TEXT(before.data, after.data);
    char *ledger2 = files_read(files_path("whole/ledger.jsonl"), &len2);
    CHECK(len == len2 && !memcmp(ledger, ledger2, len));
    mem_free(ledger);
    mem_free(ledger2);
    c.seed++; /* other options */
    CHECK(cycle_run(&c, NULL, &r, &e) == -1 && e.code == ERR_USAGE);
    text_free(&before);
    text_free(&after);
}

static int stop_after;
static void stop_sometimes(void *ctx, const CycleProgress *p)
{
    (void)ctx;
    if (!p->kept && --stop_after == 0) stop_requested = 1;
}

static void a_stopped_run_goes_on_to_the_same_bytes(void)
{
    Err e;
    CycleResult r;
    Text whole = {0};
    CycleEvents events = {.progress = stop_sometimes};
    write_prompts("prompts.jsonl", 1);
    list_run(files_path("whole"), "", &whole);
    int stops = 0;
    CycleConfig c = small_run("stopped");
    for (int tries = 0; tries < 200; tries++) {
        stop_after = 1 + tries * 7;
        int status = cycle_run(&c, &events, &r, &e);
        stop_requested = 0;
        if (!status) break;
        CHECK(e.code == ERR_INTERRUPTED);
        if (e.code != ERR_INTERRUPTED) printf("%s\n", e.text);
        c.resume = 1;
        stops++;
    }
    CHECK(stops > 5);
    Text stopped = {0};
    list_run(c.run, "", &stopped);
    CHECK_TEXT(stopped.data, whole.data);
    cycle_result_free(&r);
    text_free(&whole);
    text_free(&stopped);
}

/* Writes text over the bytes at `at` of a file of the run "whole". */
static void overwrite(const char *name, size_t at, const char *text)
{
    size_t len;
    char path[256];
    snprintf(path, sizeof path, "whole/%.200s", name);
    char *bytes = files_read(files_path(path), &len);
    CHECK(at + strlen(text) <= len);
    memcpy(bytes + at, text, strlen(text));
    files_write(path, bytes, len);
    mem_free(bytes);
}

static void what_was_tampered_with_is_named(void)
{
    static const char *const files[] = {"cycle-1/judged.jsonl", "config.json",
                                        "cycle-2/kto/adapter/adapter_model.safetensors",
                                        "test-last/responses.jsonl", "cycle-1/selection.json"};
    int code;
    Err e;
    CycleResult r;
    CycleConfig c = small_run("whole");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[256], expected[256];
        size_t len;
        snprintf(path, sizeof path, "whole/%.200s", files[i]);
        snprintf(expected, sizeof expected, "%s;", files[i]);
        char *bytes = files_read(files_path(path), &len);
        overwrite(files[i], len / 2, bytes[len / 2] == 'x' ? "y" : "x");
        CHECK_TEXT(wrong_files(c.run, &code), expected);
        CHECK(code == ERR_DATA);
        c.resume = 1; /* and such a run does not go on */
        CHECK(cycle_run(&c, NULL, &r, &e) == -1);
        CHECK(e.code == ERR_DATA && strstr(e.text, files[i]));
        remove(files_path(path));
        CHECK_TEXT(wrong_files(c.run, &code), expected);
        files_write(path, bytes, len);
        CHECK_TEXT(wrong_files(c.run, &code), "");
        mem_free(bytes);
    }
}

static void a_changed_ledger_shows(void)
{
    size_t len;
    int code;
    char run[IO_PATH_MAX];
    snprintf(run, sizeof run, "%.4000s", files_path("whole"));
    char *bytes = files_read(files_path("whole/ledger.jsonl"), &len);
    char *second = strchr(bytes, '\n') + 1, *last = bytes + len - 1;
    while (last[-1] != '\n') last--;

    overwrite(LEDGER_FILE, 12, "7"); /* in the first line */
    CHECK_TEXT(wrong_files(run, &code), "ledger.jsonl;");
    files_write("whole/ledger.jsonl", bytes, len);
    overwrite(LEDGER_FILE, len - 100, "#"); /* in the last */
    CHECK_TEXT(wrong_files(run, &code), "ledger.jsonl;");
    files_write("whole/ledger.jsonl", second,
                len - (size_t)(second - bytes)); /* without the first */
    CHECK_TEXT(wrong_files(run, &code), "ledger.jsonl;");
    files_write("whole/ledger.jsonl", bytes, (size_t)(last - bytes)); /* without the last */
    CHECK_TEXT(wrong_files(run, &code), "ledger.jsonl;");
    files_write("whole/ledger.jsonl", bytes, len - 3); /* torn */
    CHECK_TEXT(wrong_files(run, &code), "ledger.jsonl;");
    files_write("whole/ledger.jsonl", "", 0);
    CHECK_TEXT(wrong_files(run, &code), "ledger.jsonl;");
    CHECK(code == ERR_DATA);
    remove(files_path("whole/ledger.jsonl"));
    Err e;
    CycleVerification v;
    CHECK(cycle_verify(run, NULL, NULL, &v, &e) == -1 && e.code == ERR_NO_INPUT);
    files_write("whole/ledger.jsonl", bytes, len);
    CHECK(cycle_verify(run, NULL, NULL, &v, &e) == 0 && v.wrong == 0 && v.files > 20);
    mem_free(bytes);
}

static void a_torn_last_entry_is_written_again(void)
{
    size_t len, len2;
    Err e;
    CycleResult r;
    int code;
    CycleConfig c = small_run("whole");
    char *bytes = files_read(files_path("whole/ledger.jsonl"), &len);
    files_write("whole/ledger.jsonl", bytes, len - 30); /* the machine died while it appended */
    c.resume = 1;
    CHECK(run_once(&c, &r, &e) == 0);
    cycle_result_free(&r);
    CHECK_TEXT(wrong_files(c.run, &code), "");
    char *again = files_read(files_path("whole/ledger.jsonl"), &len2);
    CHECK(len2 == len); /* only its time may differ */
    mem_free(bytes);
    mem_free(again);
}

/* The run's first policy, by hash: what it is resumed with must be that. */
static void a_run_goes_on_with_the_inputs_it_began_with(void)
{
    static char adapter[IO_PATH_MAX], weights[IO_PATH_MAX];
    Err e;
    CycleResult r;
    char hex[65];
    size_t len;
    write_prompts("prompts.jsonl", 1);
    CHECK(!io_make_directory(files_path("first"), 1, &e));
    files_copy(files_path("whole/cycle-1/kto/adapter/adapter_config.json"),
               "first/adapter_config.json");
    files_copy(files_path("whole/cycle-1/kto/adapter/adapter_model.safetensors"),
               "first/adapter_model.safetensors");
    snprintf(adapter, sizeof adapter, "%.4000s", files_path("first"));
    snprintf(weights, sizeof weights, "%.4000s", files_path("first/adapter_model.safetensors"));
    CycleConfig c = small_run("begun");
    c.cycles = 1;
    c.adapter = adapter;
    CHECK(run_once(&c, &r, &e) == 0);
    cycle_result_free(&r);
    CHECK(!sha256_file(weights, hex, &e));
    char *ledger = files_read(files_path("begun/ledger.jsonl"), &len);
    CHECK(strstr(strstr(ledger, "\"adapter_sha256\":\""), hex) != NULL);
    mem_free(ledger);
    c.resume = 1;
    files_copy(files_path("whole/cycle-1/dpo/adapter/adapter_model.safetensors"),
               "first/adapter_model.safetensors");
    CHECK(cycle_run(&c, NULL, &r, &e) == -1 && e.code == ERR_DATA);
    CHECK(strstr(e.text, "first: was changed since") != NULL);
    files_copy(files_path("whole/cycle-1/kto/adapter/adapter_model.safetensors"),
               "first/adapter_model.safetensors");
    files_edit(files_path("model/config.json"), "model/config.json", "10000.0", "20000.0");
    CHECK(cycle_run(&c, NULL, &r, &e) == -1 && e.code == ERR_DATA);
    CHECK(strstr(e.text, "model: was changed since") != NULL);
    files_edit(files_path("model/config.json"), "model/config.json", "20000.0", "10000.0");
    CHECK(run_once(&c, &r, &e) == 0);
    cycle_result_free(&r);
}

/* The score of each line, and the log-probs it is made of. */
static size_t read_guard(const char *name, double scores[8], double logps[8][2])
{
    JsonLines lines;
    Pool pool = {0};
    Json *row;
    Err e;
    size_t n = 0;
    CHECK(jsonl_open(&lines, files_path(name), &e) == 0);
    while (n < 8 && jsonl_next(&lines, &pool, &row, &e) > 0) {
        const Json *x = json_get(row, "logps")->child;
        CHECK(!json_f64(json_get(row, "score"), &scores[n]) && !json_f64(x, &logps[n][0]));
        if (x->next) CHECK(!json_f64(x->next, &logps[n][1]));
        n++;
    }
    jsonl_close(&lines);
    pool_free(&pool);
    return n;
}

static void a_guarded_run_scores_every_policy(void)
{
    Err e;
    CycleResult r;
    size_t len;
    int code;
    double scores[8], logps[8][2], after[8], after_logps[8][2];
    static char guard[IO_PATH_MAX];
    const char *questions =
        "{\"question\":\"the\",\"choices\":[\"q\",\"the the the\"],\"answer\":0}\n"
        "{\"question\":\"the\",\"choices\":[\"q\",\"the the the\"],\"answer\":1}\n"
        "{\"question\":\"the sky\",\"answer\":\"the\"}\n"; /* " the" is one token */
    files_write("questions.jsonl", questions, strlen(questions));
    snprintf(guard, sizeof guard, "%.4000s", files_path("questions.jsonl"));
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("guarded");
    c.cycles = 1;
    c.guard = guard;
    CHECK(run_once(&c, &r, &e) == 0);
    cycle_result_free(&r);
    CHECK(read_guard("guarded/cycle-0/guard.jsonl", scores, logps) == 3);
    int right = logps[0][1] / 11 > logps[0][0]; /* a byte; the place of the likelier one */
    CHECK(right && logps[0][1] < logps[0][0]);  /* as a whole it is the less likely */
    CHECK(scores[0] == !right && scores[1] == right);
    CHECK_NEAR(scores[2], exp(logps[2][0]), 1e-12);
    CHECK(read_guard("guarded/cycle-1/validate-kto/guard.jsonl", after, after_logps) == 3);
    CHECK(after_logps[2][0] != logps[2][0]); /* another policy */
    char *text = files_read(files_path("guarded/cycle-1/selection.json"), &len);
    CHECK(strstr(text, "\"guard\":{\"holds\":") != NULL);
    CHECK(strstr(text, "\"choices\":{\"rows\":2,\"change\":{\"before\":0.5,") != NULL);
    mem_free(text);
    text = files_read(files_path("guarded/ledger.jsonl"), &len);
    CHECK(strstr(text, "\"event\":\"guard\",\"cycle\":1,\"name\":\"validation of kto\"") != NULL);
    mem_free(text);
    c.resume = 1;
    CHECK(run_once(&c, &r, &e) == 0);
    cycle_result_free(&r);
    CHECK_TEXT(wrong_files(c.run, &code), "");
}

static void revisions_and_feedback_are_stages(void)
{
    Err e;
    CycleResult r;
    size_t len;
    int code;
    static char thumbs[IO_PATH_MAX];
    const char *rows = "{\"prompt\":\"x\",\"completion\":\"X\",\"label\":true}\n"
                       "{\"prompt\":\"y\",\"completion\":\"Y\",\"label\":false}\n";
    files_write("thumbs.jsonl", rows, strlen(rows));
    snprintf(thumbs, sizeof thumbs, "%.4000s", files_path("thumbs.jsonl"));
    write_prompts("prompts.jsonl", 0);
    CycleConfig c = small_run("revised");
    c.cycles = 1;
    c.methods = 1u << CYCLE_KTO;
    c.feedback = thumbs;
    c.revise = 1;
    CHECK(cycle_run(&c, NULL, &r, &e) == -1 && e.code == ERR_USAGE); /* no chat template */
    c = small_run("revised2");
    c.cycles = 1;
    c.methods = 1u << CYCLE_KTO;
    c.feedback = thumbs;
    c.revise = 1;
    c.instruction = "Be kind.";
    c.chat_template = "chatml";
    CHECK(run_once(&c, &r, &e) == 0);
    cycle_result_free(&r);
    char *text = files_read(files_path("revised2/cycle-1/revise-judged.jsonl"), &len);
    CHECK(strstr(text, "\"response\"") != NULL);
    mem_free(text);
    text = files_read(files_path("revised2/cycle-1/kto.jsonl"), &len);
    CHECK(strstr(text, "\"source\":\"feedback\",\"line\":2") != NULL);
    mem_free(text);
    text = files_read(files_path("revised2/ledger.jsonl"), &len);
    CHECK(strstr(text, "\"event\":\"revise\",\"cycle\":1") != NULL);
    CHECK(strstr(text, "\"liked\":1,\"disliked\":1,\"levels\":[{\"harmful_level\":0") != NULL);
    mem_free(text);
    c.resume = 1;
    CHECK(run_once(&c, &r, &e) == 0);
    cycle_result_free(&r);
    CHECK_TEXT(wrong_files(c.run, &code), "");
}

/* Thumbs for what was asked in held-out conversations, alone or under another system message. */
static void feedback_on_a_held_out_question_is_left_out(void)
{
    static const CycleEvents silent;
    static char thumbs[IO_PATH_MAX];
    Err e;
    Text prompts = {0}, rows = {0};
    size_t len, held_out = 0;
    for (int b = 0; b < BASES; b++) {
        text_addf(&prompts, &e,
                  "{\"prompt\":[{\"role\":\"system\",\"content\":\"s\"},"
                  "{\"role\":\"user\",\"content\":\"b%d\"}],\"harmful_level\":%d}\n",
                  b, b % 4);
        text_addf(&rows, &e, "{\"prompt\":\"b%d\",\"completion\":\"X\",\"label\":true}\n", b);
        text_addf(&rows, &e,
                  "{\"prompt\":[{\"role\":\"system\",\"content\":\"t\"},"
                  "{\"role\":\"user\",\"content\":\"b%d\"}],\"completion\":\"X\",\"label\":true}\n",
                  b);
    }
    files_write("prompts.jsonl", prompts.data, prompts.len);
    files_write("thumbs.jsonl", rows.data, rows.len);
    snprintf(thumbs, sizeof thumbs, "%.4000s", files_path("thumbs.jsonl"));
    CycleConfig c = small_run("asked");
    c.feedback = thumbs;
    Loop l = {.c = &c, .events = &silent, .chat = 1};
    CHECK(!prompts_open(&l.prompts, &c, &e) && !io_make_directory(c.run, 1, &e));
    CHECK(!ledger_open(&l.ledger, c.run, &e));
    CHECK(feedback_stage(&l, &e) == 0);
    for (size_t i = 0; i < l.prompts.count; i++) held_out += l.prompts.rows[i].split != SPLIT_TRAIN;
    char *ledger = files_read(files_path("asked/ledger.jsonl"), &len), expected[64];
    snprintf(expected, sizeof expected, "\"liked\":%zu,\"disliked\":0,\"held_out\":%zu",
             2 * (BASES - held_out), 2 * held_out);
    CHECK(held_out > 0 && strstr(ledger, expected) != NULL);
    mem_free(ledger);
    ledger_close(&l.ledger);
    prompts_close(&l.prompts);
    text_free(&prompts);
    text_free(&rows);
}

static void a_template_without_system_messages_is_refused_at_the_start(void)
{
    Err e;
    CycleResult r;
    CyclePlan plan;
    write_prompts("prompts.jsonl", 1);
    for (int system = 0; system < 2; system++) {
        CycleConfig c = small_run("unsaid");
        c.chat_template = "mistral-v0.1";
        c.revise = !system;
        c.system = system ? "Be kind." : NULL;
        CHECK(cycle_run(&c, NULL, &r, &e) == -1);
        CHECK_ERR(e, ERR_USAGE, system ? "--system: " : "--revise: ");
        CHECK_ERR(e, ERR_USAGE, "mistral-v0.1");
        CHECK(!io_exists(c.run));
        CHECK(cycle_plan(&c, NULL, &plan, &e) == -1 && e.code == ERR_USAGE);
    }
}

static void candidates_without_rows_are_skipped_and_the_loop_goes_on(void)
{
    Err e;
    CycleResult r;
    size_t len;
    write_prompts("prompts.jsonl", 0); /* no demonstrations: this model never refuses */
    CycleConfig c = small_run("skipped");
    c.cycles = 1;
    CHECK(run_once(&c, &r, &e) == 0);
    CHECK(r.n_points == 2 && r.points[1].promoted == -1);
    cycle_result_free(&r);
    char *text = files_read(files_path("skipped/cycle-1/selection.json"), &len);
    CHECK(strstr(text, "\"method\":\"dpo\",\"status\":\"skipped\",\"why\":\"no pair") != NULL);
    CHECK(strstr(text, "\"promoted\":null") != NULL);
    CHECK(!io_exists(files_path("skipped/cycle-1/dpo")));
    CHECK(!io_exists(files_path("skipped/cycle-1/adapter"))); /* still the base model */
    mem_free(text);
}

static void cycles_without_progress_end_the_loop(void)
{
    Err e;
    CycleResult r;
    size_t len;
    int code;
    write_prompts("prompts.jsonl", 0); /* nothing to learn from: nobody is promoted */
    CycleConfig c = small_run("plateau");
    c.cycles = 5;
    c.methods = 1u << CYCLE_DPO;
    CHECK(run_once(&c, &r, &e) == 0);
    CHECK(r.n_points == 3 && r.stopped == 2);
    cycle_result_free(&r);
    char *text = files_read(files_path("plateau/results.json"), &len);
    CHECK(strstr(text, "\"stopped_after\":2,") != NULL);
    mem_free(text);
    text = files_read(files_path("plateau/ledger.jsonl"), &len);
    CHECK(strstr(text, "\"event\":\"stop\",\"cycle\":2") != NULL);
    CHECK(strstr(text, "plateau: 2 cycles promoted nobody") != NULL);
    mem_free(text);
    CHECK(!io_exists(files_path("plateau/cycle-3")));
    c.resume = 1;
    CHECK(run_once(&c, &r, &e) == 0 && r.stopped == 2 && r.n_points == 3);
    cycle_result_free(&r);
    CHECK_TEXT(wrong_files(c.run, &code), "");
    c = small_run("patient");
    c.cycles = 3;
    c.methods = 1u << CYCLE_DPO;
    c.patience = 0;
    CHECK(run_once(&c, &r, &e) == 0 && !r.stopped && r.n_points == 4);
    cycle_result_free(&r);
}

static void stop_at_training(void *ctx, const CycleProgress *p)
{
    (void)ctx;
    if (!strcmp(p->stage, "train")) stop_requested = 1;
}

/* Parent and candidate are not measured by two rulers. */
static void a_validator_that_changed_since_is_refused(void)
{
    Err e;
    CycleResult r;
    Text table = {0};
    static char path[IO_PATH_MAX];
    CycleEvents events = {.progress = stop_at_training};
    write_prompts("prompts.jsonl", 1);
    CHECK(!judge_rules_write(&table, &e));
    files_write("table.jsonl", table.data, table.len);
    snprintf(path, sizeof path, "%.4000s", files_path("table.jsonl"));
    CycleConfig c = small_run("rulers");
    c.cycles = 1;
    c.validator.rules = path;
    CHECK(cycle_run(&c, &events, &r, &e) == -1 && e.code == ERR_INTERRUPTED);
    stop_requested = 0;
    files_write("table.jsonl", table.data, (size_t)(strchr(table.data, '\n') + 1 - table.data));
    c.resume = 1;
    CHECK(cycle_run(&c, NULL, &r, &e) == -1 && e.code == ERR_DATA);
    CHECK(strstr(e.text, "--validator: was changed since") != NULL);
    files_write("table.jsonl", table.data, table.len);
    CHECK(run_once(&c, &r, &e) == 0);
    cycle_result_free(&r);
    text_free(&table);
}

/* The ledger of a run that has only begun, in the form that named no tokenizer. */
static void begin_as_before_tokenizers(const char *run)
{
    Ledger old, l;
    Err e;
    Text facts = {0};
    char path[IO_PATH_MAX], ledger[128];
    const char *outputs[] = {"config.json", NULL};
    snprintf(path, sizeof path, "%.4000s", files_path(run));
    snprintf(ledger, sizeof ledger, "%.64s/" LEDGER_FILE, run);
    CHECK(!ledger_open(&old, path, &e));
    const Json *begun = json_get(ledger_find(&old, "begin", 0, ""), "facts");
    CHECK(json_get(begun, "tokenizer_sha256") != NULL);
    text_addf(&facts, &e, "{\"model_sha256\":\"%s\",\"prompts_sha256\":\"%s\"}",
              json_get(begun, "model_sha256")->text, json_get(begun, "prompts_sha256")->text);
    remove(files_path(ledger));
    CHECK(!ledger_open(&l, path, &e));
    CHECK(!ledger_append(
        &l, &(LedgerEntry){.event = "begin", .name = "", .outputs = outputs, .facts = facts.data},
        &e));
    ledger_close(&l);
    ledger_close(&old);
    text_free(&facts);
}

/* The same weights under another tokenizer, template or end token are another policy. */
static void a_tokenizer_that_changed_since_is_refused(void)
{
    Err e;
    CycleResult r;
    size_t len;
    CycleEvents events = {.progress = stop_at_training};
    const char *ends = "{\"eos_token_id\":265}";
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("spelled");
    c.cycles = 1;
    CHECK(cycle_run(&c, &events, &r, &e) == -1 && e.code == ERR_INTERRUPTED);
    stop_requested = 0;
    c.resume = 1;
    char *config = files_read(files_path("model/tokenizer_config.json"), &len);
    files_write("model/tokenizer_config.json", "{\"eos_token\":\"</s>\"}", 20);
    CHECK(cycle_run(&c, NULL, &r, &e) == -1);
    CHECK_ERR(e, ERR_DATA, "model: its tokenizer, chat template or end tokens were changed since");
    files_write("model/tokenizer_config.json", config, len);
    files_write("model/generation_config.json", ends, strlen(ends));
    CHECK(cycle_run(&c, NULL, &r, &e) == -1 && e.code == ERR_DATA);
    remove(files_path("model/generation_config.json"));
    begin_as_before_tokenizers("spelled");
    CHECK(run_once(&c, &r, &e) == 0);
    cycle_result_free(&r);
    mem_free(config);
}

/* The loop runs to its end, with a DPO candidate of this status beside a trained one of KTO. */
static void dpo_ends(CycleConfig *c, const char *name, const char *status)
{
    Err e;
    CycleResult r;
    size_t len;
    char path[128], line[64];
    int code;
    snprintf(path, sizeof path, "%s/cycle-1/selection.json", name);
    snprintf(line, sizeof line, "\"method\":\"dpo\",\"status\":\"%s\"", status);
    c->cycles = 1;
    int ran = run_once(c, &r, &e) == 0;
    CHECK(ran);
    if (!ran) return;
    cycle_result_free(&r);
    char *text = files_read(files_path(path), &len);
    CHECK(strstr(text, line) != NULL);
    CHECK(strstr(text, "\"method\":\"kto\",\"status\":\"trained\"") != NULL);
    mem_free(text);
    CHECK_TEXT(wrong_files(c->run, &code), "");
}

static void a_diverged_candidate_is_recorded_and_the_loop_goes_on(void)
{
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("diverged");
    c.train[CYCLE_DPO].dpo.beta = 1e300; /* no float holds such a gradient */
    c.train[CYCLE_DPO].steps = 5;
    dpo_ends(&c, "diverged", "diverged");
}

static void a_candidate_without_usable_rows_is_skipped_and_the_loop_goes_on(void)
{
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("unusable");
    c.train[CYCLE_DPO].rows.max_length = 2; /* every prompt is longer */
    dpo_ends(&c, "unusable", "skipped");
}

/* Another file while KTO trains on it, and the first one again afterwards. */
static void swap_for_training(void *ctx, const CycleProgress *p)
{
    Text *first = ctx;
    size_t len;
    Err e;
    if (strcmp(p->stage, "train") != 0) return;
    if (!strcmp(p->name, "kto")) {
        char *rows = files_read(files_path("swapped/cycle-1/kto.jsonl"), &len);
        CHECK(!text_add(first, rows, len, &e));
        rows[len - 1] = 0;
        char *last = strrchr(rows, '\n') + 1; /* without this row */
        files_write("swapped/cycle-1/kto.jsonl", rows, (size_t)(last - rows));
        mem_free(rows);
    } else {
        files_write("swapped/cycle-1/kto.jsonl", first->data, first->len);
    }
}

/* Prompts that fill the context: of those that measure policies none goes missing, of those to
 * train on it is counted. */
static void prompts_without_room_for_an_answer_are_not_lost(void)
{
    Err e;
    CycleResult r;
    PromptSet p;
    CyclePlan plan;
    size_t len, training = 0, held_out = 0;
    char long_one[301], place[64];
    memset(long_one, 'x', sizeof long_one - 1);
    long_one[sizeof long_one - 1] = 0;
    CycleConfig c = small_run("long");
    c.cycles = 1;
    c.methods = 1u << CYCLE_KTO;
    write_prompts("prompts.jsonl", 1);
    CHECK(prompts_open(&p, &c, &e) == 0);
    while (p.rows[training].split != SPLIT_TRAIN) training++;
    while (p.rows[held_out].split != SPLIT_TEST) held_out++;
    prompts_close(&p);
    char *whole = files_read(files_path("prompts.jsonl"), &len);
    for (int t = 0; t < 2; t++) {
        Text text = {0};
        size_t row = t ? training : held_out, n = 0;
        for (char *at = whole, *end; (end = strchr(at, '\n')); at = end + 1, n++)
            text_addf(&text, &e, "%s%.11s%s%.*s\n", n ? "" : "\n", at, n == row ? long_one : "",
                      (int)(end - at) - 11, at + 11);
        files_write("prompts.jsonl", text.data, text.len);
        text_free(&text);
        if (t) continue;
        snprintf(place, sizeof place, "prompts.jsonl:%zu: the prompt has ", row + 2);
        CHECK(cycle_run(&c, NULL, &r, &e) == -1);
        CHECK_ERR(e, ERR_DATA, place);
        CHECK_ERR(e, ERR_DATA, "context of 256");
        CHECK(cycle_plan(&c, NULL, &plan, &e) == -1);
        CHECK_ERR(e, ERR_DATA, place);
    }
    mem_free(whole);
    c = small_run("long2");
    c.cycles = 1;
    c.methods = 1u << CYCLE_KTO;
    CHECK(run_once(&c, &r, &e) == 0);
    cycle_result_free(&r);
    char *ledger = files_read(files_path("long2/ledger.jsonl"), &len);
    CHECK(strstr(ledger, "{\"answers\":142,\"left_out\":1,\"samples\":2,") != NULL);
    CHECK(strstr(ledger, "{\"answers\":24,\"left_out\":0,\"samples\":1,") != NULL);
    mem_free(ledger);
}

static void what_was_read_must_be_what_was_written(void)
{
    Err e;
    CycleResult r;
    Text first = {0};
    int code;
    CycleEvents events = {.ctx = &first, .progress = swap_for_training};
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("swapped");
    c.cycles = 1;
    CHECK(cycle_run(&c, &events, &r, &e) == 0);
    cycle_result_free(&r);
    CHECK_TEXT(wrong_files(c.run, &code), "cycle-1/kto.jsonl;");
    text_free(&first);
}

static void a_run_that_cannot_begin_leaves_nothing_promoted(void)
{
    Err e;
    CycleResult r;
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("nomodel");
    c.model = "/does/not/exist";
    CHECK(cycle_run(&c, NULL, &r, &e) == -1 && e.code == ERR_NO_INPUT);
    CHECK(!io_exists(files_path("nomodel/results.json")));
    c = small_run("missing/parent");
    CHECK(cycle_run(&c, NULL, &r, &e) == -1 && e.code == ERR_CREATE);
    c = small_run("noprompts");
    c.prompts = "/does/not/exist.jsonl";
    CHECK(cycle_run(&c, NULL, &r, &e) == -1 && e.code == ERR_NO_INPUT);
}

static const Test tests[] = {
    TEST(splits_keep_base_prompts_together_and_levels_balanced),
    TEST(cycles_take_the_next_prompts),
    TEST(splits_that_cannot_show_both_failures_are_refused),
    TEST(configurations_that_mean_nothing_are_refused),
    TEST(a_run_leaves_what_the_contract_says),
    TEST(an_existing_run_needs_resume_and_a_finished_one_stays),
    TEST(a_stopped_run_goes_on_to_the_same_bytes),
    TEST(what_was_tampered_with_is_named),
    TEST(a_changed_ledger_shows),
    TEST(a_torn_last_entry_is_written_again),
    TEST(a_run_goes_on_with_the_inputs_it_began_with),
    TEST(a_guarded_run_scores_every_policy),
    TEST(revisions_and_feedback_are_stages),
    TEST(feedback_on_a_held_out_question_is_left_out),
    TEST(a_template_without_system_messages_is_refused_at_the_start),
    TEST(candidates_without_rows_are_skipped_and_the_loop_goes_on),
    TEST(cycles_without_progress_end_the_loop),
    TEST(a_validator_that_changed_since_is_refused),
    TEST(a_tokenizer_that_changed_since_is_refused),
    TEST(a_diverged_candidate_is_recorded_and_the_loop_goes_on),
    TEST(a_candidate_without_usable_rows_is_skipped_and_the_loop_goes_on),
    TEST(prompts_without_room_for_an_answer_are_not_lost),
    TEST(what_was_read_must_be_what_was_written),
    TEST(a_run_that_cannot_begin_leaves_nothing_promoted),
};

int main(int argc, char **argv)
{
    static char model[IO_PATH_MAX];
    files_begin();
    snprintf(model, sizeof model, "%.4000s", tiny_model("model"));
    model_dir = model;
    int status = test_main(tests, sizeof tests / sizeof tests[0], argc, argv);
    files_end();
    return status;
}
