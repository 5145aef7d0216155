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

static int verifies(void)
{
    CycleVerification v;
    Err e;
    return !cycle_verify(run, NULL, NULL, &v, &e);
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
    CHECK(!sign_as("A", 0, 0, &x, &e));
    CHECK(x.cycle == 2 && x.entry == 8); /* not the third cycle, where the parent stayed */
    CHECK(!sha256_file(files_path("run/cycle-2/adapter/adapter_model.safetensors"), hex, &e));
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
    CHECK(sign_as("A", 1, 1, &x, &e) == -1 && e.code == ERR_DATA); /* nothing is deployed */
    CHECK(!sign_as("A", 0, 0, &x, &e));
    CHECK(sign_as("B", 1, 2, &x, &e) == -1 && e.code == ERR_USAGE);
    CHECK(!sign_as("B", 1, 1, &x, &e) && deployed_has("\"cycle\":1") && verifies());
    CHECK(sign_as("B", 1, 1, &x, &e) == -1 && e.code == ERR_USAGE);
    CHECK(!sign_as("C", 1, 0, &x, &e) && deployed_has("\"adapter\":null") && verifies());
    CHECK(sign_as("C", 1, 0, &x, &e) == -1 && e.code == ERR_DATA);
    CHECK(!sign_as("A", 0, 0, &x, &e) && deployed_has("\"cycle\":2")); /* approved again */
}

/* What a run began with may be an adapter: going back to the first policy is going back to that. */
static void the_first_policy_may_have_an_adapter(void)
{
    CycleSignature x;
    Err e;
    fresh(1);
    CHECK(!io_remove_tree(run, &e));
    CHECK(!write_run_from(run, 1,
                          "{\"model_sha256\":\"abc\",\"tokenizer_sha256\":\"t1\",\"adapter\":"
                          "\"first\",\"adapter_sha256\":"
                          "\"d1\",\"adapter_config_sha256\":\"d2\"}"));
    CHECK(!sign_as("A", 0, 0, &x, &e) && !sign_as("B", 1, 0, &x, &e));
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
    CHECK(sign_as("A", 0, 0, &x, &e) == -1 && e.code == ERR_DATA && strstr(e.text, "not ended"));
    CHECK(!io_exists(files_path("run/deployed.json")) && verifies());
}

/* A ledger in which every hash is right, but what was kept is not what was trained. */
static void another_adapter_than_the_selected_is_refused(void)
{
    Ledger l;
    CycleSignature x;
    Err e;
    fresh(1);
    CHECK(!ledger_open(&l, run, &e));
    CHECK(!write_cycle(&l, 4, "kto", "four", "forged"));
    ledger_close(&l);
    CHECK(verifies());
    CHECK(sign_as("A", 0, 0, &x, &e) == -1 && e.code == ERR_DATA && strstr(e.text, "cycle-4"));
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
        if (i) CHECK(!sign_as("A", 0, 0, &x, &e));
        CHECK(verifies());
        CHECK(!write_below(run, notes[i].outputs[0], "forged"));
        CHECK(!ledger_open(&l, run, &e) && !ledger_append(&l, &notes[i], &e));
        ledger_close(&l);
        CHECK(!verifies());
        if (!i) CHECK(sign_as("A", 0, 0, &x, &e) == -1 && e.code == ERR_DATA);
    }
    CycleSignature x; /* nor does a signature speak for any file but deployed.json */
    Err e;
    fresh(1);
    CHECK(!sign_as("A", 0, 0, &x, &e) && verifies());
    CHECK(!write_below(run, again[0], "forged") && !verifies());
}

/* What a person decided stands: an automatic signature comes first or not at all. */
static void auto_never_follows_a_person(void)
{
    CycleSignature x;
    Err e;
    fresh(1);
    CHECK(!sign_as("A", 0, 0, &x, &e) && !sign_as("A", 1, 0, &x, &e));
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
    CHECK(!sign_as("A", 0, 0, &x, &e));
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
    CHECK(sign_as("A", 0, 0, &x, &e) == -1 && e.code == ERR_DATA &&
          strstr(e.text, "cycle-1/adapter/adapter_model.safetensors"));
    CHECK(!write_below(run, "cycle-1/adapter/adapter_model.safetensors", "one"));
    CHECK(!sign_as("A", 0, 0, &x, &e));
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
        CHECK(cycle_sign(run, &x, &e) == -1 && e.code == ERR_USAGE);
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
    CHECK(!sign_as("A \"x\"", 0, 0, &x, &e) && !sign_as("B", 1, 1, &x, &e));
    CHECK(!cycle_signatures(run, tell, &told, &e));
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
    CHECK(!sign_as("A", 0, 0, &x, &e) && !sign_as("B", 1, 1, &x, &e));
    char *before = files_read(files_path("run/ledger.jsonl"), &len);
    files_write("run/ledger.jsonl", before, len - 3);
    CHECK(!cycle_signatures(run, tell, &told, &e));
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
    TEST(auto_never_follows_a_person),
    TEST(a_torn_signature_is_signed_again),
    TEST(changed_files_are_not_signed_over),
    TEST(a_signature_needs_name_and_reason),
    TEST(all_signatures_are_told_in_order),
    TEST(a_reader_leaves_a_torn_ledger_alone),
};

FILES_TEST_MAIN(tests)
