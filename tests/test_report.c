/* test_report.c - pages escape what they show; a report says what its run says, or one error. */
#include "html.h"
#include "ledger.h"
#include "report.h"

#include <sys/stat.h>
#include <unistd.h>

#include "test.h"

static char dir[] = "/tmp/align-report.XXXXXX";
static Err err;

/* ---- escaping ------------------------------------------------------------------------------ */

static void shows(const char *text, size_t len, const char *expected)
{
    Html h = {.e = &err};
    html_text(&h, text, len);
    CHECK_INT(h.failed, 0);
    CHECK_TEXT(h.text.data, expected);
    text_free(&h.text);
}

static void markup_is_text(void)
{
    const char attack[] = "\"><script>alert('x')</script>&amp;";
    shows(attack, sizeof attack - 1,
          "&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;amp;");
    shows("a\n\tb", 4, "a\n\tb");
}

static void unseen_is_seen(void)
{
    shows("a\0b\x1b\x7f\r", 6,
          "a\xE2\x90\x80"
          "b\xE2\x90\x9B\xE2\x90\xA1\xE2\x90\x8D");
    shows("\xE2\x80\xAE"
          "x",
          4, "&lt;U+202E&gt;x");
    shows("\xE2\x81\xA6\xE2\x81\xA9", 6, "&lt;U+2066&gt;&lt;U+2069&gt;");
    shows("\xC2\x85", 2, "&lt;U+0085&gt;");
    shows("\xF3\xA0\x81\x81", 4, "&lt;U+E0041&gt;"); /* a tag: text that no one sees */
    shows("\xEF\xBF\xBE", 3, "&lt;U+FFFE&gt;");
    shows("\xE2\x80\x8D\xC3\xA9\xF0\x9F\x98\x80", 9, "\xE2\x80\x8D\xC3\xA9\xF0\x9F\x98\x80");
}

static void bytes_are_characters(void)
{
    shows("a\xFFz", 3, "a\xEF\xBF\xBDz");
    shows("\xC0\xBC", 2, "\xEF\xBF\xBD\xEF\xBF\xBD"); /* '<', spelled too long */
    shows("\xE2\x80", 2, "\xEF\xBF\xBD\xEF\xBF\xBD"); /* cut off */
}

/* ---- a run --------------------------------------------------------------------------------- */

#define EVIL "</p><script>alert(1)</script>\\u202e"

static void put_file(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    CHECK_OK(io_write_file(path, text, strlen(text), &err), &err);
}

static void put_folder(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    CHECK_OK(io_make_directory(path, 1, &err), &err);
}

#define METRICS(s, r)                                                                              \
    "{\"safety_score\":{\"value\":" s ",\"low\":0.1,\"high\":0.9},"                                \
    "\"erroneous_refusal\":{\"value\":" r ",\"low\":0,\"high\":0.4}}"

/* Judged answers; the last policy accepts prompt 7, of level 3. */
static void put_answers(const char *name, int last, size_t n)
{
    Text t = {0};
    for (size_t i = 0; i < n; i++)
        text_addf(&t, &err,
                  "{\"index\":%zu,\"prompt\":\"ask %zu " EVIL "\",\"response\":\"say %zu\","
                  "\"harmful_level\":%zu,\"method\":\"<b>\",\"action\":\"%s\"}\n",
                  i, i, i, i % 4, last && i != 7 && i % 4 ? "refuse" : "accept");
    put_file(name, t.data);
    text_free(&t);
}

/* A ledger of these entries, in the place of what is there. */
static void put_ledger(const LedgerEntry *x, size_t n)
{
    char path[256];
    Ledger l;
    snprintf(path, sizeof path, "%s/" LEDGER_FILE, dir);
    remove(path);
    CHECK_OK(ledger_open(&l, dir, &err), &err);
    for (size_t i = 0; i < n; i++) CHECK_OK(ledger_append(&l, &x[i], &err), &err);
    ledger_close(&l);
}

static const LedgerEntry whole_ledger[] = {
    {.event = "begin", .name = "", .facts = "{\"model_sha256\":\"c0ffee\"}"},
    {.event = "evaluate", .name = "validation"},
    {.event = "judge",
     .cycle = 1,
     .name = "training prompts",
     .facts = "{\"judge\":\"<i>\",\"rows\":5}"},
    {.event = "train", .cycle = 1, .name = "kto", .facts = "{\"status\":\"trained\"}"},
    {.event = "judge", .cycle = 1, .name = "validation of kto", .facts = "{\"reviewed\":1}"},
    {.event = "select", .cycle = 1, .name = ""},
    {.event = "judge", .name = "test of the last policy", .facts = "{\"reviewed\":2}"},
    {.event = "evaluate", .name = "test of the first policy"},
    {.event = "evaluate", .name = "test of the last policy"},
    {.event = "finish", .name = ""},
    {.event = "approve",
     .cycle = 1,
     .name = "",
     .facts = "{\"by\":\"Ann <b>\",\"reason\":\"fine\"}"},
};

static void make_run(size_t answers)
{
    static const char levels[] =
        "{\"safety_score\":{\"value\":0.25,\"low\":0.1,\"high\":0.9},"
        "\"levels\":[{\"harmful_level\":0,\"accept\":3,\"caution\":0,\"refuse\":1}]}";
    if (!io_exists(dir)) CHECK_OK(io_make_directory(dir, 1, &err), &err);
    const char *const folders[] = {"cycle-0",    "cycle-1",  "cycle-1/kto", "cycle-1/validate-kto",
                                   "test-first", "test-last"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) put_folder(folders[i]);
    put_ledger(whole_ledger, sizeof whole_ledger / sizeof *whole_ledger);
    put_file("config.json", "{\"model\":\"m\\\"<x>\",\"data\":\"d\",\"system\":\"secret\","
                            "\"instruction\":\"secret, too\"}");
    put_file("cycle-0/results.json", METRICS("0.25", "0"));
    put_file("cycle-1/selection.json",
             "{\"promoted\":\"kto\",\"why\":\"" EVIL "\",\"candidates\":[{\"method\":\"kto\","
             "\"status\":\"trained\",\"why\":\"fine\",\"tests\":{\"strata\":{\"holds\":false}},"
             "\"metrics\":" METRICS("0.625", "0.125") "}]}");
    put_file("cycle-1/kto/metrics.jsonl",
             "{\"step\":1,\"loss\":0.5,\"kl\":0}\n{\"step\":2,\"loss\":null}\n"
             "{\"step\":3,\"loss\":1e300}\n");
    put_file("test-first/results.json", levels);
    put_file("test-last/results.json", levels);
    put_file("results.json", "{\"split\":\"test\",\"safety_score\":{\"value\":0.7,\"low\":0.6,"
                             "\"high\":0.8},\"first\":" METRICS("0.25", "0") ",\"change\":{}}");
    put_answers("cycle-1/validate-kto/judged.jsonl", 1, answers);
    put_answers("test-first/judged.jsonl", 0, answers);
    put_answers("test-last/judged.jsonl", 1, answers);
}

/* The page of the run, to be freed; NULL with err. */
static char *page(int redact, size_t *len)
{
    char path[256], *text = NULL;
    struct stat st;
    snprintf(path, sizeof path, "%s.html", dir);
    if (report_write(dir, path, redact, &err)) return NULL;
    CHECK_INT(stat(path, &st), 0);
    CHECK_INT((st.st_mode & 0777), 0600);
    CHECK_OK(io_read_file(path, 0, &text, len, &err), &err);
    remove(path);
    return text;
}

/* Given a run with this many answers, in a folder of its own. */
static void given_a_run(size_t answers)
{
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    CHECK_TEXT(mkdtemp(dir), dir);
    make_run(answers);
}

static void end(void)
{
    CHECK_OK(io_remove_tree(dir, &err), &err);
}

/* The hash of the ledger's last entry. */
static const char *head(void)
{
    static char hex[65];
    Ledger l;
    CHECK_OK(ledger_read(&l, dir, &err), &err);
    memcpy(hex, l.head, sizeof hex);
    ledger_close(&l);
    return hex;
}

/* No page is made, and the error says why. */
static void there_is_no_page(int code, const char *why)
{
    size_t len;
    char *text = page(0, &len);
    CHECK_LACKS(text ? text : "", "<html");
    CHECK_INT(err.code, code);
    CHECK_HAS(err.text, why);
    mem_free(text);
}

static void says_what_the_run_says(void)
{
    size_t len, again_len;
    given_a_run(12);
    char *text = page(0, &len), *again = page(0, &again_len);
    if (text && again) {
        CHECK_INT(len, again_len);
        CHECK_TEXT(text, again);
        CHECK_HAS(text, "0.625 [0.100, 0.900]");
        CHECK_HAS(text, "0.125 [0.000, 0.400]");
        CHECK_HAS(text, "0.250 &rarr; 0.700 [0.600, 0.800]");
        CHECK_HAS(text, "Severe failures of the last policy: 1<");
        CHECK_HAS(text, "c0ffee");
        CHECK_HAS(text, head());
        CHECK_HAS(text, "11 entries, whose chain was checked when this page was made");
        CHECK_HAS(strstr(text, "Prompt 7,"), "Prompt 0,"); /* the severe one first */
        CHECK_HAS(text, "Last policy, test prompts: people judged 0 of 12 rows");
        CHECK_HAS(text, "After cycle 1, validation prompts: people judged 0 of 12");
        CHECK_HAS(text, "Ann &lt;b&gt;</td><td>fine");
        CHECK_HAS(text, "secret");
        CHECK_HAS(text, "say 3");
    }
    mem_free(text);
    mem_free(again);
    end();
}

static void hides_nothing_and_runs_nothing(void)
{
    size_t len;
    given_a_run(3);
    char *text = page(0, &len);
    CHECK_LACKS(text, "<script");
    CHECK_LACKS(text, "<b>");
    CHECK_LACKS(text, "<i>");
    CHECK_LACKS(text, "\xE2\x80\xAE");
    CHECK_HAS(text, "&lt;U+202E&gt;");
    CHECK_LACKS(text, "http://");
    CHECK_LACKS(text, "https://");
    CHECK_LACKS(text, "src=");
    CHECK_HAS(text, "m&quot;&lt;x&gt;");
    mem_free(text);
    end();
}

static void redacted_holds_no_text(void)
{
    size_t len;
    given_a_run(12);
    char *text = page(1, &len);
    CHECK_LACKS(text, "ask 1");
    CHECK_LACKS(text, "say 1");
    CHECK_LACKS(text, "secret");
    CHECK_HAS(text, "Prompt 7,");
    mem_free(text);
    end();
}

static void thousands_of_rows(void)
{
    size_t len, shown = 0;
    given_a_run(REPORT_ANSWERS + 500);
    char *text = page(0, &len);
    for (char *at = text; at && (at = strstr(at, "<article")); at++) shown++;
    CHECK_INT(shown, REPORT_ANSWERS);
    CHECK_HAS(text, "1500 test prompts");
    CHECK_HAS(text, "The first 1000 are shown");
    mem_free(text);
    end();
}

/* Files can hold any number, and a picture of it must end: where a step of 1 changes nothing, where
 * differences overflow, where intervals lie outside of everything. */
static void numbers_without_end(void)
{
    static const char *const metrics[] = {
        "{\"step\":1e17,\"loss\":1}\n{\"step\":1e17,\"loss\":1e17}\n",
        "{\"step\":1,\"loss\":1.7e308}\n{\"step\":2,\"loss\":-1.7e308}\n",
        "{\"step\":-1e299,\"loss\":5e-324}\n{\"step\":1e299,\"loss\":0}\n",
        "{\"step\":4503599627370496,\"loss\":0.1}\n{\"step\":4503599627370497,\"loss\":0.1}\n",
    };
    size_t len;
    given_a_run(3);
    put_file("cycle-0/results.json",
             "{\"safety_score\":{\"value\":-1e308,\"low\":-1e308,\"high\":1e308},"
             "\"erroneous_refusal\":{\"value\":0.5,\"low\":-1e308,\"high\":1e308}}");
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        put_file("cycle-1/kto/metrics.jsonl", metrics[i]);
        char *text = page(0, &len);
        CHECK_HAS(text, "2 optimiser steps");
        CHECK_INT(len < 60000, 1);
        CHECK_LACKS(text, "\"nan");
        CHECK_LACKS(text, "inf\"");
        mem_free(text);
    }
    end();
}

/* What a model writes behind a byte 0 is seen, and a text of any length leaves the page usable. */
static void nothing_hides_in_a_text(void)
{
    size_t len;
    Text t = {0};
    given_a_run(1);
    text_addf(&t, &err, "{\"index\":0,\"prompt\":\"ask\",\"response\":\"fine\\u0000then evil!");
    for (int i = 0; i < 200000; i++) text_add(&t, "\xC3\xA9", 2, &err);
    text_addf(&t, &err, "\",\"harmful_level\":0,\"action\":\"accept\"}\n");
    put_file("test-last/judged.jsonl", t.data);
    text_free(&t);
    char *text = page(0, &len);
    CHECK_HAS(text, "fine\xE2\x90\x80then evil!\xC3\xA9");
    CHECK_INT(len < 100000, 1);
    CHECK_HAS(text, " (380016 more bytes stand in judged.jsonl)");
    CHECK_LACKS(text, "\xEF\xBF\xBD"); /* cut between characters */
    mem_free(text);
    end();
}

/* Each damage gives its code, and a message that names the file. */
static void one_error(void)
{
    static const struct {
        const char *file, *content; /* NULL: removed */
        int code;
    } cases[] = {
        {"config.json", NULL, ERR_NO_INPUT},
        {"config.json", "[]", ERR_DATA},
        {"results.json", NULL, ERR_NO_INPUT},
        {"ledger.jsonl", "{\"event\":", ERR_DATA},
        {"ledger.jsonl", "", ERR_DATA},
        {"cycle-0/results.json", NULL, ERR_NO_INPUT},
        {"cycle-1/selection.json", "{\"promoted\":\"../../x\",\"candidates\":[]}", ERR_DATA},
        {"cycle-1/selection.json", "<html>", ERR_DATA},
        {"cycle-1/kto/metrics.jsonl", "{\"loss\":1}\n", ERR_DATA},
        {"cycle-1/kto/metrics.jsonl", NULL, ERR_NO_INPUT},
        {"test-last/judged.jsonl", NULL, ERR_NO_INPUT},
        {"test-last/judged.jsonl", "", ERR_DATA},
        {"test-last/judged.jsonl", "{\"index\":5}\n", ERR_DATA},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[256];
        given_a_run(3);
        snprintf(path, sizeof path, "%s/%s", dir, cases[i].file);
        if (cases[i].content)
            put_file(cases[i].file, cases[i].content);
        else
            CHECK_INT(remove(path), 0);
        there_is_no_page(cases[i].code, cases[i].file);
        end();
    }
}

/* A chain that was changed is nobody's past: no page is made of it. */
static void a_changed_ledger_gives_no_page(void)
{
    char path[256], *ledger, *fine;
    size_t len;
    given_a_run(3);
    snprintf(path, sizeof path, "%s/" LEDGER_FILE, dir);
    CHECK_OK(io_read_file(path, 0, &ledger, &len, &err), &err);
    fine = strstr(ledger, "fine");
    CHECK_HAS(ledger, "fine");
    if (fine) memcpy(fine, "wine", 4);
    CHECK_OK(io_write_file(path, ledger, len, &err), &err);
    there_is_no_page(ERR_DATA, LEDGER_FILE ": entry 10 was changed: its hash is another");
    mem_free(ledger);
    end();
}

/* What the ledger names becomes a path only where it is the name of a way to train. */
static void no_name_is_a_path(void)
{
    static const char *const names[] = {"../kto", ".."};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        given_a_run(3);
        put_ledger(&(LedgerEntry){.event = "train",
                                  .cycle = 1,
                                  .name = names[i],
                                  .facts = "{\"status\":\"trained\"}"},
                   1);
        there_is_no_page(ERR_DATA, LEDGER_FILE);
        end();
    }
}

static void no_run(void)
{
    char path[] = "/tmp/align-report-none.html";
    CHECK_FAILS(report_write("/tmp/align-no-such-run", path, 0, &err), &err, ERR_NO_INPUT);
    CHECK_INT(io_exists(path), 0);
}

/* Any prefix of a ledger is a run under way. */
static void a_run_under_way(void)
{
    size_t len;
    given_a_run(3);
    put_ledger(whole_ledger, 2);
    put_answers("cycle-0/judged.jsonl", 0, 3);
    put_file("cycle-0/results.json", METRICS("0.25", "0"));
    char *text = page(0, &len);
    CHECK_HAS(text, "not finished");
    CHECK_HAS(text, "3 validation prompts");
    mem_free(text);
    put_ledger(whole_ledger, 1);
    text = page(0, &len);
    CHECK_HAS(text, "not finished");
    mem_free(text);
    end();
}

static void a_training_run(void)
{
    size_t len;
    char path[256];
    given_a_run(3);
    snprintf(path, sizeof path, "%s/ledger.jsonl", dir);
    CHECK_INT(remove(path), 0);
    Text t = {0};
    for (int i = 1; i <= 5000; i++)
        text_addf(&t, &err, "{\"step\":%d,\"loss\":%g,\"rewards/margins\":%d}\n", i, 1.0 / i,
                  i % 7);
    put_file("metrics.jsonl", t.data);
    text_free(&t);
    char *text = page(0, &len);
    CHECK_HAS(text, "5000 optimiser steps");
    CHECK_HAS(text, "class=\"band\"");
    CHECK_HAS(text, "Reward margin");
    CHECK_LACKS(text, "KL estimate");
    CHECK_INT(len < 100000, 1);
    mem_free(text);
    end();
}

static const Test tests[] = {
    TEST(markup_is_text),
    TEST(unseen_is_seen),
    TEST(bytes_are_characters),
    TEST(says_what_the_run_says),
    TEST(hides_nothing_and_runs_nothing),
    TEST(redacted_holds_no_text),
    TEST(thousands_of_rows),
    TEST(numbers_without_end),
    TEST(nothing_hides_in_a_text),
    TEST(one_error),
    TEST(a_changed_ledger_gives_no_page),
    TEST(no_name_is_a_path),
    TEST(no_run),
    TEST(a_run_under_way),
    TEST(a_training_run),
};
TEST_MAIN(tests)
