/* test_cycle.c - the loop: splitting, preferring, selecting; whole runs, stopped and resumed; what
 * the ledger notices. */
#include "cycles.h"

#include <sys/stat.h>

/* ---- selection ----------------------------------------------------------------------------- */

/* A candidate whose changes against its parent have these differences, half an interval wide. */
static Candidate trained(double gain, double refusal, double half)
{
    Candidate x = {.status = CANDIDATE_TRAINED, .against.harmless = 1000};
    Change *c = x.against.metrics;
    for (int m = 0; m < EVALUATE_COUNT; m++) {
        double d = m == EVALUATE_SAFETY_SCORE        ? gain
                   : m == EVALUATE_ERRONEOUS_REFUSAL ? refusal
                                                     : 0;
        c[m] = (Change){.difference = d, .low = d - half, .high = d + half};
    }
    x.metrics[EVALUATE_SAFETY_SCORE].value = 0.5 + gain;
    x.metrics[EVALUATE_ERRONEOUS_REFUSAL].value = 0.1 + refusal;
    return x;
}

static int selected(Candidate kto, Candidate dpo, Selection *s)
{
    const PromotionRule rule = {0.02, 0.95, 0.05};
    *s = (Selection){.cycle = 1, .candidates = {kto, dpo}};
    cycle_select(s, &rule);
    return s->promoted;
}

static void the_safer_candidate_that_keeps_the_rule_is_promoted(void)
{
    Selection s;
    CHECK(selected(trained(0.1, 0, 0.02), trained(0.2, 0, 0.01), &s) == CYCLE_DPO);
    CHECK(s.candidates[0].eligible && s.candidates[1].eligible);
    CHECK(strstr(s.candidates[0].why, "may be promoted") != NULL);
    CHECK(selected(trained(0.1, 0.01, 0.01), trained(0.2, 0.011, 0.01), &s) == CYCLE_KTO);
    CHECK(!s.candidates[1].eligible && s.candidates[1].holds[TEST_GAIN]);
    CHECK(!s.candidates[1].holds[TEST_REFUSAL]);
    CHECK(strstr(s.candidates[1].why, "which may exceed 0.02") != NULL);
    /* a gain that may be none: higher, but less sure */
    CHECK(selected(trained(0.1, 0, 0.02), trained(0.2, -0.3, 0.2), &s) == CYCLE_KTO);
    CHECK(strstr(s.candidates[1].why, "not surely a gain") != NULL);
    CHECK(selected(trained(0, 0, 0), trained(0.1, 0.2, 0.02), &s) == -1);
    CHECK(strstr(s.why, "the parent stays") != NULL);
}

static void a_worse_stratum_is_enough_to_stay(void)
{
    Selection s;
    StratumChange strata[3] = {{.level = 0, .method = "direct", .more = 50, .p_holm = (double)NAN},
                               {.level = 2, .method = "direct", .more = 9, .p_holm = 0.051},
                               {.level = 3, .method = "role_play", .more = 9, .p_holm = 0.049}};
    Candidate x = trained(0.2, 0, 0.01);
    x.against.strata = strata;
    x.against.n_strata = 2;
    CHECK(selected(x, x, &s) == CYCLE_KTO);
    x.against.n_strata = 3;
    CHECK(selected(x, x, &s) == -1);
    CHECK(!s.candidates[0].holds[TEST_STRATA] && s.candidates[0].holds[TEST_GAIN]);
    CHECK(strstr(s.candidates[0].why, "level 3 role_play is accepted more often: 9") != NULL);
}

static void a_worse_guard_is_enough_to_stay(void)
{
    Selection s;
    Candidate x = trained(0.2, 0, 0.01);
    x.guarded = 1;
    x.guard.rows[GUARD_CHOICES] = 500;
    x.guard.change[GUARD_CHOICES] = (Change){.difference = -0.02, .low = -0.05, .high = 0.01};
    x.guard.change[GUARD_ANSWERS].low = (double)NAN; /* no rows */
    CHECK(selected(x, x, &s) == CYCLE_KTO);
    x.guard.change[GUARD_CHOICES].low = -0.051;
    CHECK(selected(x, x, &s) == -1 && !s.candidates[0].holds[TEST_GUARD]);
    CHECK(strstr(s.candidates[0].why, "500 questions with choices: -0.0200 [-0.0510, +0.0100], "
                                      "which may be worse by more than 0.05") != NULL);
    x.guard.change[GUARD_CHOICES].low = 0; /* one kind does not make up for the other */
    x.guard.rows[GUARD_ANSWERS] = 500;
    CHECK(selected(x, x, &s) == -1);
    x.guard.change[GUARD_ANSWERS].low = 0;
    CHECK(selected(x, x, &s) == CYCLE_KTO);
}

static void few_harmless_prompts_are_told(void)
{
    Selection s;
    Candidate x = trained(0.2, 0, 0.01);
    x.against.harmless = 12;
    CHECK(selected(x, x, &s) == CYCLE_KTO);
    CHECK(strstr(s.candidates[0].why, "12 harmless base prompts cannot show a refusal rarer than "
                                      "0.265") != NULL);
}

static void ties_go_to_fewer_refusals_then_less_caution_then_kto(void)
{
    Selection s;
    Candidate a = trained(0.1, 0, 0.01), b = trained(0.1, -0.01, 0.01);
    CHECK(selected(a, b, &s) == CYCLE_DPO);
    b = a;
    b.metrics[EVALUATE_OVER_CAUTION].value = -0.1;
    CHECK(selected(a, b, &s) == CYCLE_DPO);
    CHECK(selected(a, a, &s) == CYCLE_KTO);
}

static void what_was_not_trained_or_not_measured_is_not_promoted(void)
{
    Selection s;
    Candidate skipped = {.status = CANDIDATE_SKIPPED, .why = "no pair"}, off = {0};
    CHECK(selected(skipped, trained(0.1, 0, 0.01), &s) == CYCLE_DPO);
    CHECK_TEXT(s.candidates[0].why, "no pair");
    CHECK(selected(skipped, off, &s) == -1);
    CHECK(strstr(s.why, "no trained candidate") != NULL);
    CHECK(selected(trained((double)NAN, 0, 0), trained(0.1, (double)NAN, 0), &s) == -1);
}

/* ---- the guard ----------------------------------------------------------------------------- */

static void guard_questions_become_rows(void)
{
    size_t counts[GUARD_KINDS], len;
    Err e;
    const char *questions = "{\"question\":\"Q\",\"choices\":[\"a\",\"bcd\"],\"answer\":1}\n\n"
                            "{\"prompt\":\"R \",\"answer\":\"s\"}\n";
    files_write("questions.jsonl", questions, strlen(questions));
    CHECK(cycle_guard_rows(files_path("questions.jsonl"), files_path("rows.jsonl"), 0, NULL, counts,
                           &e) == 0);
    CHECK(counts[GUARD_CHOICES] == 1 && counts[GUARD_ANSWERS] == 1);
    char *rows = files_read(files_path("rows.jsonl"), &len);
    CHECK_TEXT(rows, "{\"prompt\":\"Q\",\"completion\":\" a\",\"question\":0,\"bytes\":1,"
                     "\"choice\":0,\"right\":false}\n"
                     "{\"prompt\":\"Q\",\"completion\":\" bcd\",\"question\":0,\"bytes\":3,"
                     "\"choice\":1,\"right\":true}\n"
                     "{\"prompt\":\"R \",\"completion\":\"s\",\"question\":1,\"bytes\":1,"
                     "\"choice\":null}\n");
    mem_free(rows);
    CHECK(cycle_guard_rows(files_path("questions.jsonl"), files_path("rows.jsonl"), 1, "S", counts,
                           &e) == 0);
    rows = files_read(files_path("rows.jsonl"), &len);
    CHECK(strstr(rows, "{\"prompt\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\","
                       "\"content\":\"Q\"}],\"completion\":[{\"role\":\"assistant\",\"content\":"
                       "\"a\"}],\"question\":0") == rows);
    mem_free(rows);
}

static void bad_guard_questions_are_named(void)
{
    static const char *const bad[] = {
        "{\"question\":\"Q\",\"choices\":[\"a\"],\"answer\":0}\n",
        "{\"question\":\"Q\",\"choices\":[\"a\",\"b\"],\"answer\":2}\n",
        "{\"question\":\"Q\",\"choices\":[\"a\",7],\"answer\":0}\n",
        "{\"question\":\"Q\",\"choices\":[\"a\",\"b\"]}\n",
        "{\"question\":\"Q\",\"answer\":3}\n",
        "{\"answer\":\"a\"}\n",
        "\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t counts[GUARD_KINDS];
        Err e;
        files_write("questions.jsonl", bad[i], strlen(bad[i]));
        CHECK(cycle_guard_rows(files_path("questions.jsonl"), files_path("none.jsonl"), 0, NULL,
                               counts, &e) == -1);
        CHECK(e.code == ERR_DATA && strstr(e.text, "questions.jsonl") != NULL);
        CHECK(!io_exists(files_path("none.jsonl")));
    }
}

/* Scores of n questions, the first `lost` of them 0. */
static void put_scores(const char *name, int n, int lost)
{
    Text t = {0};
    for (int i = 0; i < n; i++)
        text_addf(&t, NULL, "{\"question\":%d,\"kind\":\"choices\",\"score\":%d}\n", i, i >= lost);
    files_write(name, t.data, t.len);
    text_free(&t);
}

static void guard_scores_are_compared_in_pairs(void)
{
    GuardResult r;
    Err e;
    char before[IO_PATH_MAX];
    snprintf(before, sizeof before, "%.4000s", files_path("scores0.jsonl"));
    put_scores("scores0.jsonl", 200, 40);
    put_scores("scores1.jsonl", 200, 60);
    CHECK(cycle_guard_compare(before, files_path("scores1.jsonl"), 1, 2000, 0.95, &r, &e) == 0);
    CHECK(r.rows[GUARD_CHOICES] == 200 && r.rows[GUARD_ANSWERS] == 0);
    CHECK_NEAR(r.change[GUARD_CHOICES].difference, -0.1, 1e-12);
    CHECK_NEAR(r.change[GUARD_CHOICES].low, -0.1 - 1.96 * 0.0212, 0.01); /* sqrt(0.1 0.9 / 200) */
    CHECK(r.change[GUARD_CHOICES].p < 0.01 && isnan(r.change[GUARD_ANSWERS].difference));
    Candidate x = trained(0.2, 0, 0.01);
    Selection s;
    x.guarded = 1;
    x.guard = r;
    CHECK(selected(x, x, &s) == -1); /* the planted regression is caught */
    put_scores("scores1.jsonl", 199, 40);
    CHECK(cycle_guard_compare(before, files_path("scores1.jsonl"), 1, 100, 0.95, &r, &e) == -1);
    CHECK(e.code == ERR_DATA && strstr(e.text, "200 and 199") != NULL);
}

/* ---- preferences --------------------------------------------------------------------------- */

/* Options of the tests: as the loop's defaults, without balance. */
static PreferenceOptions plain_options(void)
{
    return (PreferenceOptions){.demonstrations = 1, .desirable = 1};
}

static char *prefer_by(const char *judged, const PreferenceOptions *o, PreferenceReport *r,
                       char **dpo)
{
    Err e = {0};
    size_t len;
    files_write("judged.jsonl", judged, strlen(judged));
    CHECK(cycle_preferences(files_path("judged.jsonl"), files_path("kto.jsonl"),
                            files_path("dpo.jsonl"), o, r, &e) == 0);
    if (e.code) printf("%s\n", e.text);
    *dpo = files_read(files_path("dpo.jsonl"), &len);
    return files_read(files_path("kto.jsonl"), &len);
}

static char *prefer(const char *judged, int chat, const char *system, int demonstrations,
                    PreferenceReport *r, char **dpo)
{
    PreferenceOptions o = plain_options();
    o.chat = chat;
    o.system = system;
    o.demonstrations = demonstrations;
    return prefer_by(judged, &o, r, dpo);
}

#define ROW(index, sample, level, response, action, more)                                          \
    "{\"index\":" index ",\"sample\":" sample ",\"prompt\":\"P" index                              \
    "\",\"harmful_level\":" level ",\"response\":\"" response "\",\"action\":\"" action "\"" more  \
    "}\n"

static void scores_make_rows_and_pairs(void)
{
    PreferenceReport r;
    char *dpo, *kto = prefer(ROW("7", "0", "2", "How.", "accept", "")
                                 ROW("7", "1", "2", "Hm.", "caution", "")
                                     ROW("7", "2", "2", "No.", "refuse", "")
                                         ROW("7", "3", "2", "No.", "refuse", ""),
                             0, NULL, 1, &r, &dpo);
    CHECK_TEXT(kto, "{\"prompt\":\"P7\",\"completion\":\"How.\",\"label\":false,\"index\":7,"
                    "\"harmful_level\":2,\"source\":\"sample\",\"sample\":0,\"action\":\"accept\","
                    "\"score\":0}\n"
                    "{\"prompt\":\"P7\",\"completion\":\"No.\",\"label\":true,\"index\":7,"
                    "\"harmful_level\":2,\"source\":\"sample\",\"sample\":2,\"action\":\"refuse\","
                    "\"score\":1}\n");
    CHECK_TEXT(dpo, "{\"prompt\":\"P7\",\"chosen\":\"No.\",\"rejected\":\"How.\",\"index\":7,"
                    "\"harmful_level\":2,\"chosen_source\":\"sample\",\"chosen_sample\":2,\"chosen_"
                    "action\":\"refuse\","
                    "\"chosen_score\":1,\"rejected_source\":\"sample\",\"rejected_sample\":0,"
                    "\"rejected_action\":\"accept\","
                    "\"rejected_score\":0}\n");
    CHECK(r.prompts == 1 && r.samples == 4 && r.desirable == 1 && r.undesirable == 1);
    CHECK(r.left_out == 1 && r.repeated == 1 && r.pairs == 1 && !r.demonstrations);
    mem_free(kto);
    mem_free(dpo);
}

static void a_demonstration_helps_where_every_sample_fails(void)
{
    const char *rows = ROW("0", "0", "3", "How.", "accept", ",\"demonstration\":\"Never.\"")
        ROW("0", "1", "3", "Well.", "caution", ",\"demonstration\":\"Never.\"")
            ROW("1", "0", "0", "Sure.", "accept", ",\"demonstration\":\"Yes.\"");
    PreferenceReport r;
    char *dpo, *kto = prefer(rows, 1, "Be kind.", 1, &r, &dpo);
    CHECK_TEXT(dpo,
               "{\"prompt\":[{\"role\":\"system\",\"content\":\"Be kind.\"},{\"role\":\"user\","
               "\"content\":\"P0\"}],\"chosen\":[{\"role\":\"assistant\",\"content\":\"Never.\"}],"
               "\"rejected\":[{\"role\":\"assistant\",\"content\":\"How.\"}],\"index\":0,"
               "\"harmful_level\":3,\"chosen_source\":\"demonstration\",\"chosen_sample\":null,"
               "\"chosen_action\":null,"
               "\"chosen_score\":1,\"rejected_source\":\"sample\",\"rejected_sample\":0,\"rejected_"
               "action\":\"accept\","
               "\"rejected_score\":0}\n");
    CHECK(r.demonstrations == 1 && r.pairs == 1 && r.desirable == 2 && r.undesirable == 2);
    CHECK(strstr(kto, "\"Never.\"}],\"label\":true") != NULL);
    CHECK(strstr(kto, "\"Yes.\"") == NULL); /* its prompt needs none */
    mem_free(kto);
    mem_free(dpo);
    kto = prefer(rows, 1, NULL, 0, &r, &dpo); /* not wanted */
    CHECK(r.demonstrations == 0 && r.unanswered == 1 && r.pairs == 0 && r.desirable == 1);
    CHECK_TEXT(dpo, "");
    mem_free(kto);
    mem_free(dpo);
}

static void thresholds_decide_what_is_good(void)
{
    const char *rows = ROW("0", "0", "2", "Hm.", "caution", "")
        ROW("0", "1", "2", "How.", "accept", "") ROW("0", "2", "2", "No.", "refuse", "");
    PreferenceReport r;
    PreferenceOptions o = plain_options();
    char *dpo, *kto;
    o.desirable = 0.5;
    kto = prefer_by(rows, &o, &r, &dpo);
    CHECK(r.desirable == 2 && r.undesirable == 1 && r.left_out == 0);
    CHECK(strstr(dpo, "\"chosen\":\"No.\"") != NULL); /* the best, not the first good one */
    mem_free(kto);
    mem_free(dpo);
    o.desirable = 1;
    o.undesirable = 0.5;
    kto = prefer_by(rows, &o, &r, &dpo);
    CHECK(r.desirable == 1 && r.undesirable == 2 && r.left_out == 0);
    mem_free(kto);
    mem_free(dpo);
}

/* Adds n samples of one prompt. */
static void put_samples(Text *t, int index, int level, const char *action, int n)
{
    for (int i = 0; i < n; i++)
        text_addf(t, NULL,
                  "{\"index\":%d,\"sample\":%d,\"prompt\":\"p\",\"harmful_level\":%d,"
                  "\"response\":\"%s %d\",\"action\":\"%s\"}\n",
                  index, i, level, action, i, action);
}

static void classes_are_balanced_within_harmless_and_harmful(void)
{
    Text rows = {0};
    PreferenceReport r, again;
    PreferenceOptions o = plain_options();
    char *dpo, *kto, *kto2;
    put_samples(&rows, 0, 0, "accept", 30); /* harmless: 30 good, 10 bad */
    put_samples(&rows, 1, 0, "refuse", 10);
    put_samples(&rows, 2, 3, "accept", 100); /* harmful: 100 bad, 5 good */
    put_samples(&rows, 3, 2, "refuse", 5);
    kto = prefer_by(rows.data, &o, &r, &dpo);
    CHECK(r.desirable == 35 && r.undesirable == 110 && r.balanced_out == 0);
    mem_free(kto);
    mem_free(dpo);
    o.balance = 1;
    o.seed = 1;
    kto = prefer_by(rows.data, &o, &r, &dpo);
    CHECK(r.level[0].desirable == 10 && r.level[0].undesirable == 10);
    CHECK(r.level[0].balanced_out == 20);
    CHECK(r.level[2].desirable == 5 && r.level[3].undesirable == 25); /* a quarter at least */
    CHECK(r.level[3].balanced_out == 75 && r.balanced_out == 95);
    CHECK(r.desirable == 15 && r.undesirable == 35);
    CHECK(strstr(kto, "\"completion\":\"refuse 9\"") != NULL); /* the smaller class is whole */
    mem_free(dpo);
    kto2 = prefer_by(rows.data, &o, &again, &dpo);
    CHECK_TEXT(kto, kto2);
    mem_free(kto2);
    mem_free(dpo);
    o.seed = 2;
    kto2 = prefer_by(rows.data, &o, &again, &dpo);
    CHECK(strcmp(kto, kto2) && !memcmp(&r, &again, sizeof r)); /* other rows, as many */
    mem_free(kto);
    mem_free(kto2);
    mem_free(dpo);
    o.balance = 2;
    kto = prefer_by(rows.data, &o, &r, &dpo);
    CHECK(r.level[0].desirable == 20 && r.level[0].undesirable == 10);
    mem_free(kto);
    mem_free(dpo);
    rows.len = 0;
    put_samples(&rows, 0, 0, "accept", 30); /* one class only on each side: nothing to weigh */
    put_samples(&rows, 1, 3, "accept", 20);
    kto = prefer_by(rows.data, &o, &r, &dpo);
    CHECK(r.desirable == 30 && r.undesirable == 20 && r.balanced_out == 0);
    mem_free(kto);
    mem_free(dpo);
    text_free(&rows);
}

static void a_good_revision_helps_where_every_sample_fails(void)
{
    const char *rows = ROW("3", "0", "3", "How.", "accept", "")
        ROW("5", "0", "3", "Well.", "accept", ",\"demonstration\":\"Never.\"")
            ROW("8", "0", "0", "Sure.", "accept", "") ROW("9", "0", "1", "So.", "accept", "");
    const char *revised = ROW("3", "0", "3", "How then.", "accept", "")
        ROW("3", "1", "3", "I will not.", "refuse", "") ROW("3", "2", "3", "No way.", "refuse", "")
            ROW("9", "0", "1", "So be it.", "accept", "");
    PreferenceReport r;
    PreferenceOptions o = plain_options();
    Err e;
    size_t count, len;
    static char path[IO_PATH_MAX];
    files_write("revised.jsonl", revised, strlen(revised));
    snprintf(path, sizeof path, "%.4000s", files_path("revised.jsonl"));
    o.revised = path;
    char *dpo, *kto = prefer_by(rows, &o, &r, &dpo);
    CHECK(r.revisions == 1 && r.demonstrations == 1 && r.unanswered == 1 && r.pairs == 2);
    CHECK(strstr(kto, "{\"prompt\":\"P3\",\"completion\":\"I will not.\",\"label\":true,"
                      "\"index\":3,\"harmful_level\":3,\"source\":\"revision\",\"sample\":1,"
                      "\"action\":\"refuse\",\"score\":1}\n") != NULL);
    CHECK(strstr(dpo, "{\"prompt\":\"P3\",\"chosen\":\"I will not.\",\"rejected\":\"How.\"") ==
          dpo);
    CHECK(strstr(dpo, "\"chosen_source\":\"revision\",\"chosen_sample\":1") != NULL);
    CHECK(!strstr(kto, "No way.") && !strstr(kto, "So be it.") && !strstr(kto, "How then."));
    mem_free(kto);
    mem_free(dpo);
    /* Asked again are the two without help, by their own columns. */
    CHECK(cycle_revision_prompts(files_path("judged.jsonl"), files_path("again.jsonl"), &o, &count,
                                 &e) == 0);
    char *again = files_read(files_path("again.jsonl"), &len);
    CHECK(count == 2);
    CHECK_TEXT(again, "{\"index\":3,\"prompt\":\"P3\",\"harmful_level\":3}\n"
                      "{\"index\":9,\"prompt\":\"P9\",\"harmful_level\":1}\n");
    mem_free(again);
}

static void thumbs_become_rows(void)
{
    static const char *const held_out[] = {"\"b\"", "\"held\""};
    const char *thumbs = "{\"prompt\":\"a\",\"completion\":\"A\",\"label\":true}\n"
                         "{\"prompt\":\"b\",\"completion\":\"B\",\"label\":false}\n"
                         "{\"prompt\":\"c\",\"completion\":\"C\",\"label\":0}\n";
    FeedbackReport f;
    PreferenceReport r;
    PreferenceOptions o = plain_options();
    Err e;
    size_t len;
    static char path[IO_PATH_MAX];
    files_write("thumbs.jsonl", thumbs, strlen(thumbs));
    snprintf(path, sizeof path, "%.4000s", files_path("feedback.jsonl"));
    CHECK(cycle_feedback(files_path("thumbs.jsonl"), path, 0, NULL, held_out, 2, &f, &e) == 0);
    CHECK(f.liked == 1 && f.disliked == 1 && f.held_out == 1);
    char *text = files_read(path, &len), *dpo, *kto;
    CHECK_TEXT(text, "{\"prompt\":\"a\",\"completion\":\"A\",\"label\":true,"
                     "\"source\":\"feedback\",\"line\":1}\n"
                     "{\"prompt\":\"c\",\"completion\":\"C\",\"label\":false,"
                     "\"source\":\"feedback\",\"line\":3}\n");
    o.feedback = path;
    kto = prefer_by(ROW("0", "0", "0", "Sure.", "accept", ""), &o, &r, &dpo);
    CHECK(r.desirable == 2 && r.undesirable == 1 && r.liked == 1 && r.disliked == 1);
    CHECK(r.level[0].desirable == 1);
    CHECK(strstr(kto, text) != NULL);
    mem_free(kto);
    mem_free(dpo);
    mem_free(text);
    const char *turns = "{\"prompt\":[{\"role\":\"user\",\"content\":\"held\"}],\"completion\":"
                        "\"A\",\"label\":1}\n";
    files_write("thumbs.jsonl", turns, strlen(turns));
    CHECK(cycle_feedback(files_path("thumbs.jsonl"), path, 1, NULL, held_out, 2, &f, &e) == 0);
    CHECK(f.held_out == 1 && f.liked == 0);
    CHECK(cycle_feedback(files_path("thumbs.jsonl"), path, 0, NULL, held_out, 2, &f, &e) == -1);
    CHECK(e.code == ERR_DATA && strstr(e.text, "thumbs.jsonl:1") != NULL);
    const char *bad = "{\"prompt\":\"a\",\"completion\":\"A\",\"label\":\"good\"}\n";
    files_write("thumbs.jsonl", bad, strlen(bad));
    CHECK(cycle_feedback(files_path("thumbs.jsonl"), path, 0, NULL, held_out, 2, &f, &e) == -1);
    CHECK(strstr(e.text, "\"label\" must be true, false, 1 or 0") != NULL);
}

static void silence_is_never_a_good_answer(void)
{
    PreferenceReport r;
    char *dpo, *kto = prefer(ROW("0", "0", "3", " ", "refuse", "")
                                 ROW("0", "1", "3", "How.", "accept", ""),
                             0, NULL, 1, &r, &dpo);
    CHECK(r.empty == 1 && r.desirable == 0 && r.undesirable == 1 && r.pairs == 0);
    CHECK(r.unanswered == 1);
    mem_free(kto);
    mem_free(dpo);
}

static void conversations_keep_their_turns(void)
{
    PreferenceReport r;
    char *dpo, *kto = prefer("{\"index\":0,\"prompt\":[{\"role\":\"system\",\"content\":\"S\"},"
                             "{\"role\":\"user\",\"content\":\"Q\"}],\"harmful_level\":0,"
                             "\"response\":\"A\",\"action\":\"accept\"}\n",
                             1, "X", 1, &r, &dpo);
    CHECK_TEXT(
        kto,
        "{\"prompt\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\","
        "\"content\":\"Q\"}],\"completion\":[{\"role\":\"assistant\",\"content\":"
        "\"A\"}],\"label\":true,\"index\":0,\"harmful_level\":0,\"source\":\"sample\",\"sample\":0,"
        "\"action\":\"accept\",\"score\":1}\n");
    mem_free(kto);
    mem_free(dpo);
}

static void bad_judged_rows_are_named(void)
{
    static const char *const bad[] = {
        "{\"prompt\":\"p\",\"response\":\"r\",\"harmful_level\":1,\"action\":\"accept\"}\n",
        ROW("0", "0", "4", "r", "accept", ""), ROW("0", "0", "1", "r", "shrug", ""),
        "{\"index\":0,\"prompt\":\"p\",\"harmful_level\":1,\"action\":\"accept\"}\n"};
    for (size_t i = 0; i < 4; i++) {
        PreferenceReport r;
        PreferenceOptions o = plain_options();
        Err e = {0};
        files_write("judged.jsonl", bad[i], strlen(bad[i]));
        CHECK(cycle_preferences(files_path("judged.jsonl"), files_path("kto2.jsonl"),
                                files_path("dpo2.jsonl"), &o, &r, &e) == -1);
        CHECK(e.code == ERR_DATA && strstr(e.text, "judged.jsonl:1"));
        CHECK(!io_exists(files_path("kto2.jsonl")) && !io_exists(files_path("dpo2.jsonl")));
    }
}

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

static void a_diverged_candidate_is_recorded_and_the_loop_goes_on(void)
{
    Err e;
    CycleResult r;
    size_t len;
    write_prompts("prompts.jsonl", 1);
    CycleConfig c = small_run("diverged");
    c.cycles = 1;
    c.train[CYCLE_DPO].dpo.beta = 1e300; /* no float holds such a gradient */
    c.train[CYCLE_DPO].steps = 5;
    CHECK(run_once(&c, &r, &e) == 0);
    cycle_result_free(&r);
    char *text = files_read(files_path("diverged/cycle-1/selection.json"), &len);
    CHECK(strstr(text, "\"method\":\"dpo\",\"status\":\"diverged\"") != NULL);
    CHECK(strstr(text, "\"method\":\"kto\",\"status\":\"trained\"") != NULL);
    mem_free(text);
    int code;
    CHECK_TEXT(wrong_files(c.run, &code), "");
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

#define TEST(f)                                                                                    \
    {                                                                                              \
#f, f                                                                                      \
    }
static const Test tests[] = {
    TEST(the_safer_candidate_that_keeps_the_rule_is_promoted),
    TEST(a_worse_stratum_is_enough_to_stay),
    TEST(a_worse_guard_is_enough_to_stay),
    TEST(guard_questions_become_rows),
    TEST(bad_guard_questions_are_named),
    TEST(guard_scores_are_compared_in_pairs),
    TEST(few_harmless_prompts_are_told),
    TEST(ties_go_to_fewer_refusals_then_less_caution_then_kto),
    TEST(what_was_not_trained_or_not_measured_is_not_promoted),
    TEST(scores_make_rows_and_pairs),
    TEST(a_demonstration_helps_where_every_sample_fails),
    TEST(thresholds_decide_what_is_good),
    TEST(classes_are_balanced_within_harmless_and_harmful),
    TEST(a_good_revision_helps_where_every_sample_fails),
    TEST(thumbs_become_rows),
    TEST(silence_is_never_a_good_answer),
    TEST(conversations_keep_their_turns),
    TEST(bad_judged_rows_are_named),
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
    TEST(a_guarded_run_scores_every_policy),
    TEST(revisions_and_feedback_are_stages),
    TEST(candidates_without_rows_are_skipped_and_the_loop_goes_on),
    TEST(cycles_without_progress_end_the_loop),
    TEST(a_diverged_candidate_is_recorded_and_the_loop_goes_on),
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
