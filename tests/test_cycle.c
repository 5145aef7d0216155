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
    CHECK_OK(prompts_open(&p, &c, &e), &e);
    CHECK_INT(p.count, BASES * WORDINGS);
    CHECK_INT(p.groups, BASES);
    size_t n[SPLIT_COUNT][4] = {{0}};
    for (size_t i = 0; i < p.count; i++) {
        n[p.rows[i].split][p.rows[i].level]++;
        CHECK_INT(p.rows[i].split, p.rows[i % BASES].split);
    }
    for (size_t h = 0; h < 4; h++) /* 10 base prompts of each level: 6, 2, 2 */
        for (int split = 0; split < SPLIT_COUNT; split++)
            CHECK_INT(n[split][h], (split == SPLIT_TRAIN ? 6 : 2) * WORDINGS);
    c.seed = 4;
    CHECK_OK(prompts_open(&again, &c, &e), &e);
    size_t moved = 0;
    for (size_t i = 0; i < p.count; i++) moved += p.rows[i].split != again.rows[i].split;
    CHECK_INT(moved > 0, 1);
    prompts_close(&again);
    prompts_close(&p);
}

static void cycles_take_the_next_prompts(void)
{
    PromptSet p;
    Err e = {0};
    CycleConfig c = usual("r");
    write_prompts("prompts.jsonl", 0);
    CHECK_OK(prompts_open(&p, &c, &e), &e);
    size_t total = p.split_rows[SPLIT_TRAIN], seen[BASES * WORDINGS] = {0};
    CHECK_INT(total, 72);
    for (size_t cycle = 1; cycle <= 3; cycle++) {
        JsonLines lines;
        Pool pool = {0};
        Json *row;
        size_t rows = 0;
        CHECK_OK(prompts_write(&p, SPLIT_TRAIN, cycle, total / 3, files_path("part.jsonl"), &e),
                 &e);
        CHECK_OK(jsonl_open(&lines, files_path("part.jsonl"), &e), &e);
        while (jsonl_next(&lines, &pool, &row, &e) > 0) {
            uint64_t index = BASES * WORDINGS;
            json_u64(json_get(row, "index"), &index);
            CHECK_INT(index < BASES * WORDINGS, 1);
            CHECK_INT(p.rows[index].split, SPLIT_TRAIN);
            seen[index]++;
            rows++;
        }
        CHECK_INT(rows, total / 3);
        jsonl_close(&lines);
        pool_free(&pool);
    }
    for (size_t i = 0; i < p.count; i++) CHECK_INT(seen[i], (p.rows[i].split == SPLIT_TRAIN));
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
        CHECK_FAILS(prompts_open(&p, &c, &e), &e, ERR_DATA);
        CHECK_HAS(e.text, "prompts.jsonl");
    }
}

static void configurations_that_mean_nothing_are_refused(void)
{
    Err e;
    CycleConfig c = usual("r");
    CHECK_OK(cycle_config_check(&c, &e), &e);
#define REFUSED(change)                                                                            \
    (c = usual("r"), change, CHECK_FAILS(cycle_config_check(&c, &e), &e, ERR_USAGE))
    REFUSED(c.run = NULL);
    REFUSED(c.model = NULL);
    REFUSED(c.prompts = "");
    REFUSED(c.cycles = 0);
    REFUSED(c.methods = 0);
    REFUSED(c.methods = 4);
    REFUSED(c.validation = 0);
    REFUSED(c.test = (double)NAN);
    REFUSED((c.validation = 0.6, c.test = 0.5));
    REFUSED(c.max_added_refusal = -0.1);
    REFUSED(c.desirable = 0);
    REFUSED(c.desirable = 1.1);
    REFUSED(c.undesirable = (double)NAN);
    REFUSED(c.balance = 0.5);
    REFUSED((c.raw = 1, c.revise = 1));
    REFUSED(c.guard_margin = -0.1);
    REFUSED(c.confidence = 1);
    REFUSED(c.confidence = (double)NAN);
    REFUSED(c.resamples = 99);
    REFUSED(c.sample.samples = 0);
    REFUSED(c.validate.samples = 2);
    REFUSED(c.train[CYCLE_KTO].batch = 1);
    REFUSED(c.train[CYCLE_DPO].lr = -1);
    REFUSED((c.raw = 1, c.system = "s"));
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
    LedgerVerification v;
    Err e = {0};
    int status = ledger_verify(run, count_wrong, &t, &v, &e);
    *code = status ? e.code : 0;
    snprintf(names, sizeof names, "%s", t.data ? t.data : "");
    CHECK_INT(!status, !*names);
    if (*names && e.code == ERR_DATA) /* the message names them, too */
        for (char *at = t.data, *end; (end = strchr(at, ';')); at = end + 1) {
            *end = 0;
            CHECK_HAS(e.text, at);
        }
    text_free(&t);
    return names;
}

/* ---- given, when, then --------------------------------------------------------------------- */

/* A file of a test by its whole path, which lives as long as the test's configuration. */
static const char *path_of(char out[IO_PATH_MAX], const char *name)
{
    snprintf(out, IO_PATH_MAX, "%.4000s", files_path(name));
    return out;
}

static void given_file(const char *name, const char *text)
{
    files_write(name, text, strlen(text));
}

/* A run from its beginning to its end. */
static void it_ends(const CycleConfig *c)
{
    Err e;
    CycleResult r;
    CHECK_OK(run_once(c, &r, &e), &e);
    cycle_result_free(&r);
}

/* The same for a run that was stopped, or has ended. */
static void it_goes_on(CycleConfig *c)
{
    c->resume = 1;
    it_ends(c);
}

static void it_is_refused(const CycleConfig *c, int code, const char *why)
{
    Err e = {0};
    CycleResult r;
    CHECK_FAILS(cycle_run(c, NULL, &r, &e), &e, code);
    CHECK_HAS(e.text, why);
}

static void the_plan_is_refused(const CycleConfig *c, int code, const char *why)
{
    Err e = {0};
    CyclePlan plan;
    CHECK_FAILS(cycle_plan(c, NULL, &plan, &e), &e, code);
    CHECK_HAS(e.text, why);
}

static void stop_at_training(void *ctx, const CycleProgress *p)
{
    (void)ctx;
    if (!strcmp(p->stage, "train")) stop_requested = 1;
}

/* A run that somebody stops when its first candidate is to be trained. */
static void it_is_stopped_at_training(const CycleConfig *c)
{
    Err e;
    CycleResult r;
    CycleEvents events = {.progress = stop_at_training};
    CHECK_FAILS(cycle_run(c, &events, &r, &e), &e, ERR_INTERRUPTED);
    stop_requested = 0;
}

static void file_has(const char *name, const char *part)
{
    size_t len;
    char *text = files_read(files_path(name), &len);
    CHECK_HAS(text, part);
    mem_free(text);
}

static void there_is_no(const char *name)
{
    CHECK_TEXT(io_exists(files_path(name)) ? name : "", "");
}

/* The ledger of the run names no file that is otherwise than it was recorded; or these. */
static void ledger_blames(const CycleConfig *c, const char *names)
{
    int code;
    CHECK_TEXT(wrong_files(c->run, &code), names);
    CHECK_INT(code, (*names ? ERR_DATA : 0));
}

/* A run that has ended, in "whole"; the tests that change its files put them back. */
static CycleConfig given_a_whole_run(void)
{
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("whole");
    if (!io_exists(files_path("whole/results.json"))) it_ends(&c);
    return c;
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
    CHECK_OK(run_once(&c, &r, &e), &e);
    CHECK_INT(r.n_points, 3);
    CHECK_INT(r.tested, 1);
    CHECK_INT(strlen(r.head), 64);
    CHECK_INT(r.points[0].promoted, -1);
    CHECK_INT(r.points[2].cycle, 2);
    CHECK_NEAR(r.first[EVALUATE_SAFETY_SCORE].value, 0.5, 0.5);
    CHECK_NEAR(r.last[EVALUATE_SAFETY_SCORE].value, 0.5, 0.5);
    cycle_result_free(&r);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct stat s;
        char path[IO_PATH_MAX];
        snprintf(path, sizeof path, "%.3000s/%s", c.run, files[i]);
        CHECK_INT(stat(path, &s), 0);
        CHECK_INT((s.st_mode & 077), 0);
    }
    there_is_no("whole/LOCK");
    ledger_blames(&c, "");
}

static void an_existing_run_needs_resume_and_a_finished_one_stays(void)
{
    Err e;
    CycleResult r;
    Text before = {0}, after = {0};
    CycleConfig c = given_a_whole_run();
    it_is_refused(&c, ERR_CREATE, "");
    size_t len, len2;
    char *ledger = files_read(files_path("whole/ledger.jsonl"), &len);
    list_run(c.run, "", &before);
    c.resume = 1;
    CHECK_OK(run_once(&c, &r, &e), &e);
    CHECK_INT(r.n_points, 3);
    CHECK_INT(r.tested, 1);
    cycle_result_free(&r);
    list_run(c.run, "", &after);
    CHECK_TEXT(before.data, after.data);
    char *ledger2 = files_read(files_path("whole/ledger.jsonl"), &len2);
    CHECK_INT(len, len2);
    CHECK_TEXT(ledger, ledger2);
    mem_free(ledger);
    mem_free(ledger2);
    c.seed++; /* other options */
    it_is_refused(&c, ERR_USAGE, "");
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
    CycleConfig c = given_a_whole_run();
    list_run(c.run, "", &whole);
    int stops = 0;
    c = small_run("stopped");
    for (int tries = 0; tries < 200; tries++) {
        stop_after = 1 + tries * 7;
        int status = cycle_run(&c, &events, &r, &e);
        stop_requested = 0;
        if (!status) break;
        CHECK_INT(e.code, ERR_INTERRUPTED);
        if (e.code != ERR_INTERRUPTED) printf("%s\n", e.text);
        c.resume = 1;
        stops++;
    }
    CHECK_INT(stops > 5 ? 6 : stops, 6); /* at least */
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
    CHECK_INT(at + strlen(text) > len, 0);
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
    CycleConfig c = given_a_whole_run();
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[256], expected[256];
        size_t len;
        snprintf(path, sizeof path, "whole/%.200s", files[i]);
        snprintf(expected, sizeof expected, "%s;", files[i]);
        char *bytes = files_read(files_path(path), &len);
        overwrite(files[i], len / 2, bytes[len / 2] == 'x' ? "y" : "x");
        CHECK_TEXT(wrong_files(c.run, &code), expected);
        CHECK_INT(code, ERR_DATA);
        c.resume = 1; /* and such a run does not go on */
        CHECK_INT(cycle_run(&c, NULL, &r, &e), -1);
        CHECK_INT(e.code, ERR_DATA);
        CHECK_HAS(e.text, files[i]);
        remove(files_path(path));
        CHECK_TEXT(wrong_files(c.run, &code), expected);
        files_write(path, bytes, len);
        ledger_blames(&c, "");
        mem_free(bytes);
    }
}

static void a_changed_ledger_shows(void)
{
    const CycleConfig c = given_a_whole_run();
    size_t len;
    char *bytes = files_read(files_path("whole/ledger.jsonl"), &len);
    char *second = strchr(bytes, '\n') + 1, *last = bytes + len - 1;
    while (last[-1] != '\n') last--;

    overwrite(LEDGER_FILE, 12, "7"); /* in the first line */
    ledger_blames(&c, "ledger.jsonl;");
    files_write("whole/ledger.jsonl", bytes, len);
    overwrite(LEDGER_FILE, len - 100, "#"); /* in the last */
    ledger_blames(&c, "ledger.jsonl;");
    files_write("whole/ledger.jsonl", second,
                len - (size_t)(second - bytes)); /* without the first */
    ledger_blames(&c, "ledger.jsonl;");
    files_write("whole/ledger.jsonl", bytes, (size_t)(last - bytes)); /* without the last */
    ledger_blames(&c, "ledger.jsonl;");
    files_write("whole/ledger.jsonl", bytes, len - 3); /* torn */
    ledger_blames(&c, "ledger.jsonl;");
    files_write("whole/ledger.jsonl", "", 0);
    ledger_blames(&c, "ledger.jsonl;");
    remove(files_path("whole/ledger.jsonl"));
    Err e;
    LedgerVerification v;
    CHECK_FAILS(ledger_verify(c.run, NULL, NULL, &v, &e), &e, ERR_NO_INPUT);
    files_write("whole/ledger.jsonl", bytes, len);
    CHECK_OK(ledger_verify(c.run, NULL, NULL, &v, &e), &e);
    CHECK_INT(v.wrong, 0);
    CHECK_INT(v.files > 20, 1);
    mem_free(bytes);
}

static void a_torn_last_entry_is_written_again(void)
{
    size_t len, len2;
    CycleConfig c = given_a_whole_run();
    char *bytes = files_read(files_path("whole/ledger.jsonl"), &len);
    files_write("whole/ledger.jsonl", bytes, len - 30); /* the machine died while it appended */
    it_goes_on(&c);
    ledger_blames(&c, "");
    char *again = files_read(files_path("whole/ledger.jsonl"), &len2);
    CHECK_INT(len2, len); /* only its time may differ */
    mem_free(bytes);
    mem_free(again);
}

/* The run's first policy, by hash: what it is resumed with must be that. */
static void a_run_goes_on_with_the_inputs_it_began_with(void)
{
    static char adapter[IO_PATH_MAX], weights[IO_PATH_MAX];
    Err e;
    char hex[65], expected[128];
    given_a_whole_run();
    CHECK_OK(io_make_directory(files_path("first"), 1, &e), &e);
    files_copy(files_path("whole/cycle-1/kto/adapter/adapter_config.json"),
               "first/adapter_config.json");
    files_copy(files_path("whole/cycle-1/kto/adapter/adapter_model.safetensors"),
               "first/adapter_model.safetensors");
    path_of(adapter, "first");
    path_of(weights, "first/adapter_model.safetensors");
    CycleConfig c = small_run("begun");
    c.cycles = 1;
    c.adapter = adapter;
    it_ends(&c);
    CHECK_OK(sha256_file(weights, hex, &e), &e);
    snprintf(expected, sizeof expected, "\"adapter_sha256\":\"%s\"", hex);
    file_has("begun/ledger.jsonl", expected);
    c.resume = 1;
    files_copy(files_path("whole/cycle-1/dpo/adapter/adapter_model.safetensors"),
               "first/adapter_model.safetensors");
    it_is_refused(&c, ERR_DATA, "first: was changed since");
    files_copy(files_path("whole/cycle-1/kto/adapter/adapter_model.safetensors"),
               "first/adapter_model.safetensors");
    files_edit(files_path("model/config.json"), "model/config.json", "10000.0", "20000.0");
    it_is_refused(&c, ERR_DATA, "model: was changed since");
    files_edit(files_path("model/config.json"), "model/config.json", "20000.0", "10000.0");
    it_ends(&c);
}

/* The score of each line, and the log-probs it is made of. */
static size_t read_guard(const char *name, double scores[8], double logps[8][2])
{
    JsonLines lines;
    Pool pool = {0};
    Json *row;
    Err e;
    size_t n = 0;
    CHECK_OK(jsonl_open(&lines, files_path(name), &e), &e);
    while (n < 8 && jsonl_next(&lines, &pool, &row, &e) > 0) {
        const Json *x = json_get(row, "logps")->child;
        CHECK_INT(json_f64(json_get(row, "score"), &scores[n]), 0);
        CHECK_INT(json_f64(x, &logps[n][0]), 0);
        if (x->next) CHECK_INT(json_f64(x->next, &logps[n][1]), 0);
        n++;
    }
    jsonl_close(&lines);
    pool_free(&pool);
    return n;
}

static void a_guarded_run_scores_every_policy(void)
{
    double scores[8], logps[8][2], after[8], after_logps[8][2];
    static char guard[IO_PATH_MAX];
    const char *questions =
        "{\"question\":\"the\",\"choices\":[\"q\",\"the the the\"],\"answer\":0}\n"
        "{\"question\":\"the\",\"choices\":[\"q\",\"the the the\"],\"answer\":1}\n"
        "{\"question\":\"the sky\",\"answer\":\"the\"}\n"; /* " the" is one token */
    given_file("questions.jsonl", questions);
    path_of(guard, "questions.jsonl");
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("guarded");
    c.cycles = 1;
    c.guard = guard;
    it_ends(&c);
    CHECK_INT(read_guard("guarded/cycle-0/guard.jsonl", scores, logps), 3);
    int right = logps[0][1] / 11 > logps[0][0]; /* a byte; the place of the likelier one */
    CHECK_INT(right, 1);
    CHECK_INT(logps[0][1] < logps[0][0], 1); /* as a whole it is the less likely */
    CHECK_NEAR(scores[0], 0, 0);
    CHECK_NEAR(scores[1], 1, 0);
    CHECK_NEAR(scores[2], exp(logps[2][0]), 1e-12);
    CHECK_INT(read_guard("guarded/cycle-1/validate-kto/guard.jsonl", after, after_logps), 3);
    CHECK_INT(after_logps[2][0] == logps[2][0], 0); /* another policy */
    file_has("guarded/cycle-1/selection.json", "\"guard\":{\"holds\":");
    file_has("guarded/cycle-1/selection.json",
             "\"choices\":{\"rows\":2,\"change\":{\"before\":0.5,");
    file_has("guarded/ledger.jsonl",
             "\"event\":\"guard\",\"cycle\":1,\"name\":\"validation of kto\"");
    it_goes_on(&c);
    ledger_blames(&c, "");
}

static void revisions_and_feedback_are_stages(void)
{
    static char thumbs[IO_PATH_MAX];
    const char *rows = "{\"prompt\":\"x\",\"completion\":\"X\",\"label\":true}\n"
                       "{\"prompt\":\"y\",\"completion\":\"Y\",\"label\":false}\n";
    given_file("thumbs.jsonl", rows);
    path_of(thumbs, "thumbs.jsonl");
    write_prompts("prompts.jsonl", 0);
    CycleConfig c = small_run("revised");
    c.cycles = 1;
    c.methods = 1u << CYCLE_KTO;
    c.feedback = thumbs;
    c.revise = 1;
    it_is_refused(&c, ERR_USAGE, ""); /* no chat template */
    c = small_run("revised2");
    c.cycles = 1;
    c.methods = 1u << CYCLE_KTO;
    c.feedback = thumbs;
    c.revise = 1;
    c.instruction = "Be kind.";
    c.chat_template = "chatml";
    it_ends(&c);
    file_has("revised2/cycle-1/revise-judged.jsonl", "\"response\"");
    file_has("revised2/cycle-1/kto.jsonl", "\"source\":\"feedback\",\"line\":2");
    file_has("revised2/ledger.jsonl", "\"event\":\"revise\",\"cycle\":1");
    file_has("revised2/ledger.jsonl",
             "\"liked\":1,\"disliked\":1,\"levels\":[{\"harmful_level\":0");
    it_goes_on(&c);
    ledger_blames(&c, "");
}

/* Thumbs for what was asked in held-out conversations, alone or under another system message. */
static void feedback_on_a_held_out_question_is_left_out(void)
{
    static const CycleEvents silent;
    static char thumbs[IO_PATH_MAX];
    Err e;
    Text prompts = {0}, rows = {0};
    size_t held_out = 0;
    char expected[64];
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
    path_of(thumbs, "thumbs.jsonl");
    CycleConfig c = small_run("asked");
    c.feedback = thumbs;
    Loop l = {.c = &c, .events = &silent, .chat = 1};
    CHECK_OK(prompts_open(&l.prompts, &c, &e), &e);
    CHECK_OK(io_make_directory(c.run, 1, &e), &e);
    CHECK_OK(ledger_open(&l.ledger, c.run, &e), &e);
    CHECK_OK(feedback_stage(&l, &e), &e);
    for (size_t i = 0; i < l.prompts.count; i++) held_out += l.prompts.rows[i].split != SPLIT_TRAIN;
    CHECK_INT(held_out > 0, 1);
    snprintf(expected, sizeof expected, "\"liked\":%zu,\"disliked\":0,\"held_out\":%zu",
             2 * (BASES - held_out), 2 * held_out);
    file_has("asked/ledger.jsonl", expected);
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
        CHECK_INT(cycle_run(&c, NULL, &r, &e), -1);
        CHECK_ERR(e, ERR_USAGE, system ? "--system: " : "--revise: ");
        CHECK_ERR(e, ERR_USAGE, "mistral-v0.1");
        CHECK_INT(io_exists(c.run), 0);
        CHECK_FAILS(cycle_plan(&c, NULL, &plan, &e), &e, ERR_USAGE);
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
    CHECK_OK(run_once(&c, &r, &e), &e);
    CHECK_INT(r.n_points, 2);
    CHECK_INT(r.points[1].promoted, -1);
    cycle_result_free(&r);
    char *text = files_read(files_path("skipped/cycle-1/selection.json"), &len);
    CHECK_HAS(text, "\"method\":\"dpo\",\"status\":\"skipped\",\"why\":\"no pair");
    CHECK_HAS(text, "\"promoted\":null");
    there_is_no("skipped/cycle-1/dpo");
    there_is_no("skipped/cycle-1/adapter"); /* still the base model */
    mem_free(text);
}

/* A template that asks for the day is told that of --date, or that of the beginning, which the
 * ledger keeps; without such a template neither file speaks of a day. */
static void the_day_is_recorded(void)
{
    static const char source[] = "{{ strftime_now('%d') }}{{ messages[0].content }}";
    static char path[IO_PATH_MAX];
    Err e;
    CycleResult r;
    size_t len;
    write_prompts("prompts.jsonl", 0);
    files_write("day.jinja", source, sizeof source - 1);
    snprintf(path, sizeof path, "%.4000s", files_path("day.jinja"));
    for (int given = 0; given < 2; given++) {
        CycleConfig c = small_run(given ? "given" : "today");
        c.cycles = 1;
        c.chat_template = path;
        c.date = given ? "2001-02-03" : NULL;
        for (c.resume = 0; c.resume < 2; c.resume++) {
            CHECK_OK(run_once(&c, &r, &e), &e);
            cycle_result_free(&r);
        }
        char *text = files_read(files_path(given ? "given/ledger.jsonl" : "today/ledger.jsonl"),
                                &len);
        CHECK_HAS(text, given ? "\"date\":\"2001-02-03\"" : "\"date\":\"2");
        mem_free(text);
        text = files_read(files_path(given ? "given/config.json" : "today/config.json"), &len);
        CHECK_INT(strstr(text, "\"date\": \"2001-02-03\"") != NULL, given);
        mem_free(text);
    }
    char *text = files_read(files_path("skipped/ledger.jsonl"), &len);
    CHECK(!strstr(text, "\"date\""));
    mem_free(text);
}

/* The trial's own rows never decide: neither what their answers say, nor how long the longest
 * prompts are. Only where no prompt can be trained on is there no candidate, as in the run. */
static void a_plan_depends_on_no_contents(void)
{
    static const size_t longest[] = {0, 32, 1};
    Err e;
    CyclePlan plan;
    Text prompts = {0};
    for (int b = 0; b < 80; b++) /* most are longer than 32 tokens */
        text_addf(&prompts, &e, "{\"prompt\":\"b%d %s\",\"harmful_level\":%d}\n", b,
                  b < 60 ? "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" : "",
                  b % 4);
    files_write("prompts.jsonl", prompts.data, prompts.len);
    text_free(&prompts);
    CycleConfig c = small_run("planned");
    c.sample.temperature = 0; /* both samples are equal */
    for (size_t i = 0; i < sizeof longest / sizeof *longest; i++) {
        int any = longest[i] != 1;
        for (int m = 0; m < CYCLE_METHODS; m++) {
            c.train[m].rows.drop_identical = 1;
            c.train[m].rows.max_length = longest[i];
        }
        CHECK_OK(cycle_plan(&c, NULL, &plan, &e), &e);
        for (int m = 0; m < CYCLE_METHODS; m++) {
            CHECK_INT((plan.seconds_per_step[m] > 0), any);
            CHECK_INT((plan.memory[m].total > 0), any);
            if (any)
                CHECK_TEXT(plan.untrained[m], "");
            else
                CHECK_HAS(plan.untrained[m], "--max-length 1");
        }
    }
    c.train[CYCLE_DPO].batch = 16; /* more pairs than the trial answers prompts */
    c.train[CYCLE_DPO].rows.max_length = 0;
    CHECK_OK(cycle_plan(&c, NULL, &plan, &e), &e);
    CHECK_INT(plan.memory[CYCLE_DPO].rows, 16);
    CHECK_INT(io_exists(c.run), 0);
    CHECK_OK(io_make_directory(c.run, 0, &e), &e);
    the_plan_is_refused(&c, ERR_CREATE, "planned: exists");
}

static void cycles_without_progress_end_the_loop(void)
{
    Err e;
    CycleResult r;
    write_prompts("prompts.jsonl", 0); /* nothing to learn from: nobody is promoted */
    CycleConfig c = small_run("plateau");
    c.cycles = 5;
    c.methods = 1u << CYCLE_DPO;
    CHECK_OK(run_once(&c, &r, &e), &e);
    CHECK_INT(r.n_points, 3);
    CHECK_INT(r.stopped, 2);
    cycle_result_free(&r);
    file_has("plateau/results.json", "\"stopped_after\":2,");
    file_has("plateau/ledger.jsonl", "\"event\":\"stop\",\"cycle\":2");
    file_has("plateau/ledger.jsonl", "plateau: 2 cycles promoted nobody");
    there_is_no("plateau/cycle-3");
    c.resume = 1;
    CHECK_OK(run_once(&c, &r, &e), &e);
    CHECK_INT(r.stopped, 2);
    CHECK_INT(r.n_points, 3);
    cycle_result_free(&r);
    ledger_blames(&c, "");
    c = small_run("patient");
    c.cycles = 3;
    c.methods = 1u << CYCLE_DPO;
    c.patience = 0;
    CHECK_OK(run_once(&c, &r, &e), &e);
    CHECK_INT(r.stopped, 0);
    CHECK_INT(r.n_points, 4);
    cycle_result_free(&r);
}

/* Parent and candidate are not measured by two rulers. */
static void a_validator_that_changed_since_is_refused(void)
{
    Err e;
    Text table = {0};
    static char path[IO_PATH_MAX];
    write_prompts("prompts.jsonl", 1);
    CHECK_OK(judge_rules_write(&table, &e), &e);
    files_write("table.jsonl", table.data, table.len);
    path_of(path, "table.jsonl");
    CycleConfig c = small_run("rulers");
    c.cycles = 1;
    c.validator.rules = path;
    it_is_stopped_at_training(&c);
    files_write("table.jsonl", table.data, (size_t)(strchr(table.data, '\n') + 1 - table.data));
    c.resume = 1;
    it_is_refused(&c, ERR_DATA, "--validator: was changed since");
    files_write("table.jsonl", table.data, table.len);
    it_ends(&c);
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
    CHECK_OK(ledger_open(&old, path, &e), &e);
    const Json *begun = json_get(ledger_find(&old, "begin", 0, ""), "facts");
    CHECK_INT(json_get(begun, "tokenizer_sha256") == NULL, 0);
    text_addf(&facts, &e, "{\"model_sha256\":\"%s\",\"prompts_sha256\":\"%s\"}",
              json_get(begun, "model_sha256")->text, json_get(begun, "prompts_sha256")->text);
    remove(files_path(ledger));
    CHECK_OK(ledger_open(&l, path, &e), &e);
    const LedgerEntry entry = {
        .event = "begin", .name = "", .outputs = outputs, .facts = facts.data};
    CHECK_OK(ledger_append(&l, &entry, &e), &e);
    ledger_close(&l);
    ledger_close(&old);
    text_free(&facts);
}

/* The same weights under another tokenizer, template or end token are another policy. */
static void a_tokenizer_that_changed_since_is_refused(void)
{
    size_t len;
    const char *ends = "{\"eos_token_id\":265}";
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("spelled");
    c.cycles = 1;
    it_is_stopped_at_training(&c);
    c.resume = 1;
    char *config = files_read(files_path("model/tokenizer_config.json"), &len);
    files_write("model/tokenizer_config.json", "{\"eos_token\":\"</s>\"}", 20);
    it_is_refused(&c, ERR_DATA,
                  "model: its tokenizer, chat template or end tokens were changed since");
    files_write("model/tokenizer_config.json", config, len);
    given_file("model/generation_config.json", ends);
    it_is_refused(&c, ERR_DATA, "");
    remove(files_path("model/generation_config.json"));
    begin_as_before_tokenizers("spelled");
    it_ends(&c);
    mem_free(config);
}

/* The loop runs to its end, with a DPO candidate of this status beside a trained one of KTO. */
static void dpo_ends(CycleConfig *c, const char *name, const char *status)
{
    char path[128], line[64];
    snprintf(path, sizeof path, "%s/cycle-1/selection.json", name);
    snprintf(line, sizeof line, "\"method\":\"dpo\",\"status\":\"%s\"", status);
    c->cycles = 1;
    it_ends(c);
    file_has(path, line);
    file_has(path, "\"method\":\"kto\",\"status\":\"trained\"");
    ledger_blames(c, "");
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
        CHECK_OK(text_add(first, rows, len, &e), &e);
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
    CHECK_OK(prompts_open(&p, &c, &e), &e);
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
        CHECK_INT(cycle_plan(&c, NULL, &plan, &e), -1);
        CHECK_ERR(e, ERR_DATA, place);
        CHECK_INT(cycle_run(&c, NULL, &r, &e), -1);
        CHECK_ERR(e, ERR_DATA, place);
        CHECK_ERR(e, ERR_DATA, "context of 256");
    }
    mem_free(whole);
    c = small_run("long2");
    c.cycles = 1;
    c.methods = 1u << CYCLE_KTO;
    it_ends(&c);
    file_has("long2/ledger.jsonl", "{\"answers\":142,\"left_out\":1,\"samples\":2,");
    file_has("long2/ledger.jsonl", "{\"answers\":24,\"left_out\":0,\"samples\":1,");
}

static void what_was_read_must_be_what_was_written(void)
{
    Err e;
    CycleResult r;
    Text first = {0};
    CycleEvents events = {.ctx = &first, .progress = swap_for_training};
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("swapped");
    c.cycles = 1;
    CHECK_OK(cycle_run(&c, &events, &r, &e), &e);
    cycle_result_free(&r);
    ledger_blames(&c, "cycle-1/kto.jsonl;");
    text_free(&first);
}

static void a_run_that_cannot_begin_leaves_nothing_promoted(void)
{
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("nomodel");
    c.model = "/does/not/exist";
    it_is_refused(&c, ERR_NO_INPUT, "");
    there_is_no("nomodel/results.json");
    c = small_run("missing/parent");
    it_is_refused(&c, ERR_CREATE, "");
    c = small_run("noprompts");
    c.prompts = "/does/not/exist.jsonl";
    it_is_refused(&c, ERR_NO_INPUT, "");
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
    TEST(the_day_is_recorded),
    TEST(a_plan_depends_on_no_contents),
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
