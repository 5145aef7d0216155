/* fault_export.c - every allocation and every file operation of writing GGUF files fails once, of a
 * model with an adapter folded in and of the adapter by itself: the exit code is the right one,
 * nothing leaks, and there is a whole file or none.
 */
#include "tiny_gguf.h"

#include "faults.h"

static int export_scenario(Err *e)
{
    Model m;
    Lora lora = {0};
    LoraShape shape;
    const LoraConfig config = {.rank = 1, .alpha = 2, .targets = 1u << TARGET_Q};
    if (model_load(&m, files_path("tiny"), 0, NULL, e)) return -1;
    model_lora_shape(&m, &shape);
    int r = lora_create(&lora, &config, &shape, 1, 0, e) ||
            model_export(&m, &lora, format_named("Q8_0"), files_path("m.gguf"), NULL, NULL, e) ||
            model_export_adapter(&m, &lora, NULL, files_path("a.gguf"), e);
    lora_close(&lora);
    model_close(&m);
    return r ? -1 : 0;
}

/* The base is a file: its values are copied. */
static int copy_scenario(Err *e)
{
    Model m;
    if (model_load(&m, files_path("s.gguf"), 0, NULL, e)) return -1;
    int r = model_export(&m, NULL, NULL, files_path("m.gguf"), NULL, NULL, e);
    model_close(&m);
    return r;
}

/* Scores of SentencePiece. */
static int pieces_scenario(Err *e)
{
    GgufValues values = {.count = 0};
    const TokenUse use = {TINY_V, 1, NULL, 0};
    Tokenizer *t = tokenizer_load(files_path("s.gguf"), NULL, e);
    int r = !t || tokenizer_to_gguf(t, "s.gguf", &use, &values, NULL, e);
    text_free(&values.bytes);
    tokenizer_free(t);
    return r ? -1 : 0;
}

static void remove_files(void)
{
    Err ignored;
    io_remove_tree(files_path("m.gguf"), &ignored);
    io_remove_tree(files_path("a.gguf"), &ignored);
}

/* Whole files or none, and no temporary one beside them. */
static int whole_or_none(int code)
{
    static const char *const names[] = {"m.gguf", "a.gguf"};
    Err e;
    Pool pool = {0};
    char **found;
    size_t n = 0;
    int fine = !io_list(files_dir, &pool, &found, &n, &e);
    for (size_t i = 0; i < n; i++) fine = fine && !strstr(found[i], ".tmp.");
    pool_free(&pool);
    for (size_t i = 0; i < 2; i++) {
        Gguf g;
        if (!io_exists(files_path(names[i]))) continue;
        fine = fine && !gguf_open(&g, files_path(names[i]), 1, &e);
        gguf_close(&g);
    }
    return fine && (code || io_exists(files_path("m.gguf")));
}

static int any(int code)
{
    (void)code;
    return 1;
}

/* Whether a path names a GGUF file is found by looking into it; where that fails it is taken for
 * the directory that it is not. */
static int of_the_look(int code)
{
    return code == ERR_MEMORY || code == 0 || fault_io(code) || code == ERR_DATA;
}

static void fail_each(Scenario scenario, int from_file, int (*ends_well)(int code))
{
    static const struct {
        const char *variable, *format;
        int (*is_right)(int code);
    } kinds[] = {{"FAULT_ALLOC", "%d", fault_memory},
                 {"FAULT_ALLOC_FROM", "%d", fault_memory},
                 {"FAULT_IO", "%d:EIO", fault_io},
                 {"FAULT_IO", "%d:ENOSPC", fault_io}};
    CHECK_INT(fault_child(scenario, NULL, NULL), 0);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const Faults f = {.scenario = scenario,
                          .variable = kinds[i].variable,
                          .format = kinds[i].format,
                          .is_right = from_file ? of_the_look : kinds[i].is_right,
                          .begin = remove_files,
                          .ends_well = ends_well,
                          .step = 1,
                          .clean = FAULT_CLEAN};
        int runs = fault_each(&f);
        printf("  %s %s: %d runs\n", kinds[i].variable, kinds[i].format, runs);
        CHECK(runs > FAULT_CLEAN);
    }
}

static void of_a_directory(void)
{
    tiny_model("tiny");
    fail_each(export_scenario, 0, whole_or_none);
}

static void of_a_file(void)
{
    tiny_gguf("s.gguf", (Otherwise){.sentencepiece = 1});
    fail_each(copy_scenario, 1, whole_or_none);
    fail_each(pieces_scenario, 1, any);
}

static const Test tests[] = {TEST(of_a_directory), TEST(of_a_file)};
FILES_TEST_MAIN(tests)
