/* test_signoff.c - signatures: what may be signed, what is recorded, what is refused. */
#include "cycle_parts.h"
#include "files.h"
#include "signed.h"
#include "test.h"

#include <string.h>

static char run[IO_PATH_MAX];

static void fresh(int ended)
{
    Err e;
    snprintf(run, sizeof run, "%.4000s", files_path("run"));
    io_remove_tree(run, &e);
    CHECK(!write_run(run, ended));
}

static int sign_as(const char *by, int is_rollback, size_t cycle, CycleSignature *x, Err *e)
{
    *x = (CycleSignature){.by = by, .reason = "because", .rollback = is_rollback, .cycle = cycle};
    return cycle_sign(run, x, e);
}

/* Is this a text that may be a reason, too? Those of the list that only read as "auto" are. */
static int looks_plain(const char *text)
{
    size_t len = strlen(text), step, seen = 0;
    for (size_t at = 0; at < len; at += step) {
        step = utf8_step(text + at, len - at);
        if (!step) return 0;
        uint32_t c = utf8_code(text + at, step);
        if (is_unseen(c) || c == 0x200D || c == 0xFE0F || c == 0x3164 || c == 0x2800) return 0;
        seen += c != ' ' && c != 0x3000;
    }
    return seen > 0;
}

static int verifies(void)
{
    LedgerVerification v;
    Err e;
    return !ledger_verify(run, NULL, NULL, &v, &e);
}

/* The text of deployed.json holds this. */
static int deployed_has(const char *text)
{
    size_t len;
    if (!io_exists(files_path("run/deployed.json"))) return 0;
    char *file = files_read(files_path("run/deployed.json"), &len);
    int has = strstr(file, text) != NULL;
    mem_free(file);
    return has;
}

static void the_newest_promotion_is_approved(void)
{
    CycleSignature x;
    Err e;
    char hex[65];
    fresh(1);
    CHECK_OK(sign_as("A", 0, 0, &x, &e), &e);
    CHECK(x.cycle == 2 && x.entry == 8); /* not the third cycle, where the parent stayed */
    CHECK_OK(sha256_file(files_path("run/cycle-2/adapter/adapter_model.safetensors"), hex, &e), &e);
    CHECK_TEXT(x.adapter_sha256, hex);
    CHECK(deployed_has("\"cycle\":2") && deployed_has(hex) && deployed_has("\"by\":\"A\""));
    CHECK(deployed_has("\"model_sha256\":\"abc\"") && verifies());
    CHECK(!io_exists(files_path("run/LOCK")));
}

static void a_rollback_goes_back_and_never_forth(void)
{
    CycleSignature x;
    Err e;
    fresh(1);
    CHECK_FAILS(sign_as("A", 1, 1, &x, &e), &e, ERR_DATA); /* nothing is deployed */
    CHECK_OK(sign_as("A", 0, 0, &x, &e), &e);
    CHECK_FAILS(sign_as("B", 1, 2, &x, &e), &e, ERR_USAGE);
    CHECK(!sign_as("B", 1, 1, &x, &e) && deployed_has("\"cycle\":1") && verifies());
    CHECK_FAILS(sign_as("B", 1, 1, &x, &e), &e, ERR_USAGE);
    CHECK(!sign_as("C", 1, 0, &x, &e) && deployed_has("\"adapter\":null") && verifies());
    CHECK_FAILS(sign_as("C", 1, 0, &x, &e), &e, ERR_DATA);
    CHECK(!sign_as("A", 0, 0, &x, &e) && deployed_has("\"cycle\":2")); /* approved again */
}

/* What a run began with may be an adapter: going back to the first policy is going back to that. */
static void the_first_policy_may_have_an_adapter(void)
{
    CycleSignature x;
    Err e;
    fresh(1);
    CHECK_OK(io_remove_tree(run, &e), &e);
    CHECK(!write_run_from(run, 1,
                          "{\"model_sha256\":\"abc\",\"tokenizer_sha256\":\"t1\",\"adapter\":"
                          "\"first\",\"adapter_sha256\":"
                          "\"d1\",\"adapter_config_sha256\":\"d2\"}"));
    CHECK_OK(sign_as("A", 0, 0, &x, &e), &e);
    CHECK_OK(sign_as("B", 1, 0, &x, &e), &e);
    CHECK_TEXT(x.adapter_sha256, "d1");
    CHECK(deployed_has("\"adapter\":\"first/adapter_model.safetensors\",\"adapter_sha256\":\"d1\","
                       "\"adapter_config_sha256\":\"d2\",\"tokenizer_sha256\":\"t1\","
                       "\"model_sha256\":\"abc\""));
    CHECK(verifies());
}

static void a_run_that_has_not_ended_is_not_signed(void)
{
    CycleSignature x;
    Err e;
    fresh(0);
    CHECK_INT(sign_as("A", 0, 0, &x, &e), -1);
    CHECK_INT(e.code, ERR_DATA);
    CHECK_HAS(e.text, "not ended");
    CHECK(!io_exists(files_path("run/deployed.json")) && verifies());
}

/* A ledger in which every hash is right, but what was kept is not what was trained. */
static void another_adapter_than_the_selected_is_refused(void)
{
    Ledger l;
    CycleSignature x;
    Err e;
    fresh(1);
    CHECK_OK(ledger_open(&l, run, &e), &e);
    CHECK(!write_cycle(&l, 4, "kto", "four", "forged"));
    ledger_close(&l);
    CHECK(verifies());
    CHECK_INT(sign_as("A", 0, 0, &x, &e), -1);
    CHECK_INT(e.code, ERR_DATA);
    CHECK_HAS(e.text, "cycle-4");
    CHECK(!io_exists(files_path("run/deployed.json")));
}

/* A later line that names a file again does not speak for it: a swapped adapter stays swapped. */
static void a_later_entry_excuses_no_file(void)
{
    static const char *const again[] = {"cycle-2/adapter/adapter_model.safetensors", NULL};
    static const char *const deployed[] = {"deployed.json", NULL};
    const LedgerEntry notes[] = {{.event = "note", .name = "", .outputs = again},
                                 {.event = "note", .name = "", .outputs = deployed}};
    for (int i = 0; i < 2; i++) {
        Ledger l;
        CycleSignature x;
        Err e;
        fresh(1);
        if (i) CHECK_OK(sign_as("A", 0, 0, &x, &e), &e);
        CHECK(verifies());
        CHECK(!write_below(run, notes[i].outputs[0], "forged"));
        CHECK_OK(ledger_open(&l, run, &e), &e);
        CHECK_OK(ledger_append(&l, &notes[i], &e), &e);
        ledger_close(&l);
        CHECK(!verifies());
        if (!i) CHECK_FAILS(sign_as("A", 0, 0, &x, &e), &e, ERR_DATA);
    }
    CycleSignature x; /* nor does a signature speak for any file but deployed.json */
    Err e;
    fresh(1);
    CHECK(!sign_as("A", 0, 0, &x, &e) && verifies());
    CHECK(!write_below(run, again[0], "forged") && !verifies());
}

/* A model that cannot be read as it was is another; one that is not there refuses nothing. */
static void a_changed_source_is_not_signed(void)
{
    CycleSignature x;
    Err e;
    for (int there = 0; there < 2; there++) {
        char config[IO_PATH_MAX + 32];
        fresh(1);
        snprintf(config, sizeof config, "{\"model\":\"%s\"}", files_path("model"));
        CHECK(!write_below(run, "config.json", config));
        if (there) CHECK_OK(io_make_directory(files_path("model"), 0, &e), &e);
        if (there) CHECK(!write_below(files_path("model"), "config.json", "{}"));
        int code = sign_as("A", 0, 0, &x, &e) ? e.code : 0;
        CHECK(code == (there ? ERR_DATA : 0) && there != deployed_has("\"by\":\"A\""));
        CHECK(!there || strstr(e.text, "nothing is signed: model ") != NULL);
    }
}

/* Who reads "auto" takes it for nobody, however it is written; who hides something is refused. */
static void names_say_who_signs(void)
{
    static const char *const refused[] = {
        "auto",
        "AUTO",
        "Auto",
        " auto ",
        "\"auto\"",
        "--auto",
        "auto.",
        "\xC2\xA0"
        "auto",
        "\xD0\xB0uto",                      /* Cyrillic a */
        "\xCE\xB1\xCF\x85\xCF\x84\xCE\xBF", /* Greek */
        "aut0",
        "\xEF\xBC\xA1\xEF\xBD\x95\xEF\xBD\x94\xEF\xBD\x8F", /* full width */
        "\xE2\x93\x90uto",
        "\xF0\x9D\x90\x9Auto", /* circled, bold */
        "a\xCC\x81uto",        /* with an accent put on */
        "au\xE2\x80\x8Bto",
        "au\xE2\x80\x8Dto",
        "au\xC2\xADto", /* not seen */
        "au\xEF\xB8\x8Fto",
        "\xEF\xBB\xBF"
        "Dr A",
        "Dr \xE2\x80\xAE"
        "A",
        "Dr A\n",
        "Dr\x7F",
        "Dr \xC2\x9B"
        "A",
        "Dr \xFF",
        "",
        " ",
        "\t",
        "\xE3\x80\x80",
        "\xE3\x85\xA4",
        "\xE2\xA0\x80",
        "\xF3\xA0\x81\xA1"
        "A", /* a tag */
    };
    static const char *const fine[] = {"A",
                                       "Otto",
                                       "Autos",
                                       "Aut",
                                       "A. Uto",
                                       "Dr Auto M\xC3\xBCller",
                                       "\xD0\x90\xD0\xBD\xD0\xBD\xD0\xB0",
                                       "\xE5\xB1\xB1\xE7\x94\xB0 \xE5\xA4\xAA\xE9\x83\x8E",
                                       "\xD7\xA8\xD7\x95\xD7\xAA"};
    CycleSignature x;
    Err e;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        fresh(1);
        int code = sign_as(refused[i], 0, 0, &x, &e) ? e.code : 0;
        if (code != ERR_USAGE) printf("\"%s\" gave %d\n", refused[i], code);
        CHECK(code == ERR_USAGE && !io_exists(files_path("run/deployed.json")));
        x = (CycleSignature){.by = "A", .reason = refused[i]};
        int plain = looks_plain(refused[i]);
        CHECK_INT((cycle_sign(run, &x, &e) == 0), plain);
    }
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        fresh(1);
        int code = sign_as(fine[i], 0, 0, &x, &e) ? e.code : 0;
        if (code) printf("\"%s\": %s\n", fine[i], e.text);
        CHECK(code == 0);
    }
}

/* What a person decided stands: an automatic signature comes first or not at all. */
static void auto_never_follows_a_person(void)
{
    CycleSignature x;
    Err e;
    fresh(1);
    CHECK_OK(sign_as("A", 0, 0, &x, &e), &e);
    CHECK_OK(sign_as("A", 1, 0, &x, &e), &e);
    x = (CycleSignature){.by = CYCLE_AUTO, .reason = "r", .automatic = 1};
    CHECK(!cycle_sign(run, &x, &e) && !*x.head);
    CHECK(deployed_has("\"by\":\"A\"") && verifies());
}

/* A signature whose line was torn is made again. */
static void a_torn_signature_is_signed_again(void)
{
    CycleSignature x;
    Err e;
    size_t len;
    fresh(1);
    CHECK_OK(sign_as("A", 0, 0, &x, &e), &e);
    char *text = files_read(files_path("run/ledger.jsonl"), &len);
    files_write("run/ledger.jsonl", text, len - 3);
    mem_free(text);
    CHECK(!sign_as("A", 0, 0, &x, &e) && verifies());
}

static void changed_files_are_not_signed_over(void)
{
    CycleSignature x;
    Err e;
    fresh(1);
    CHECK(!write_below(run, "cycle-1/adapter/adapter_model.safetensors", "other"));
    CHECK_INT(sign_as("A", 0, 0, &x, &e), -1);
    CHECK_INT(e.code, ERR_DATA);
    CHECK_HAS(e.text, "cycle-1/adapter/adapter_model.safetensors");
    CHECK(!write_below(run, "cycle-1/adapter/adapter_model.safetensors", "one"));
    CHECK_OK(sign_as("A", 0, 0, &x, &e), &e);
    CHECK(!write_below(run, "deployed.json", "{}")); /* a signature writes this one anew */
    CHECK(!verifies());
    CHECK(!sign_as("B", 0, 0, &x, &e) && verifies());
}

static void a_signature_needs_name_and_reason(void)
{
    static const CycleSignature bad[] = {
        {.by = "", .reason = "r"},         {.by = NULL, .reason = "r"},
        {.by = "A", .reason = ""},         {.by = "A", .reason = NULL},
        {.by = CYCLE_AUTO, .reason = "r"}, {.by = "A\nB", .reason = "r"},
        {.by = "A", .reason = "\x1b[2J"}};
    Err e;
    fresh(1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CycleSignature x = bad[i];
        CHECK_FAILS(cycle_sign(run, &x, &e), &e, ERR_USAGE);
    }
    CycleSignature x = {.by = CYCLE_AUTO, .reason = "r", .automatic = 1};
    CHECK(!cycle_sign(run, &x, &e) && deployed_has("\"automatic\":true"));
}

typedef struct {
    size_t count;
    char text[512];
} Told;

static void tell(void *ctx, const CycleSignature *x)
{
    Told *t = ctx;
    size_t used = strlen(t->text);
    t->count++;
    snprintf(t->text + used, sizeof t->text - used, "%s %s %zu %s %d;",
             x->rollback ? "rollback" : "approve", x->by, x->cycle, x->reason,
             strlen(x->adapter_sha256) == 64 && strlen(x->time) == 20);
}

static void all_signatures_are_told_in_order(void)
{
    CycleSignature x;
    Told told = {0};
    Err e;
    fresh(1);
    CHECK_OK(sign_as("A \"x\"", 0, 0, &x, &e), &e);
    CHECK_OK(sign_as("B", 1, 1, &x, &e), &e);
    CHECK_OK(cycle_signatures(run, tell, &told, &e), &e);
    CHECK_TEXT(told.text, "approve A \"x\" 2 because 1;rollback B 1 because 1;");
}

/* Who only reads may come while another process appends: the ledger stays as it is. */
static void a_reader_leaves_a_torn_ledger_alone(void)
{
    CycleSignature x;
    Told told = {0};
    Err e;
    size_t len, after;
    fresh(1);
    CHECK_OK(sign_as("A", 0, 0, &x, &e), &e);
    CHECK_OK(sign_as("B", 1, 1, &x, &e), &e);
    char *before = files_read(files_path("run/ledger.jsonl"), &len);
    files_write("run/ledger.jsonl", before, len - 3);
    CHECK_OK(cycle_signatures(run, tell, &told, &e), &e);
    CHECK_TEXT(told.text, "approve A 2 because 1;");
    char *text = files_read(files_path("run/ledger.jsonl"), &after);
    CHECK(after == len - 3 && !memcmp(text, before, after));
    mem_free(before);
    mem_free(text);
}

static const Test tests[] = {
    TEST(the_newest_promotion_is_approved),
    TEST(a_rollback_goes_back_and_never_forth),
    TEST(the_first_policy_may_have_an_adapter),
    TEST(a_run_that_has_not_ended_is_not_signed),
    TEST(another_adapter_than_the_selected_is_refused),
    TEST(a_later_entry_excuses_no_file),
    TEST(names_say_who_signs),
    TEST(a_changed_source_is_not_signed),
    TEST(auto_never_follows_a_person),
    TEST(a_torn_signature_is_signed_again),
    TEST(changed_files_are_not_signed_over),
    TEST(a_signature_needs_name_and_reason),
    TEST(all_signatures_are_told_in_order),
    TEST(a_reader_leaves_a_torn_ledger_alone),
};

FILES_TEST_MAIN(tests)
