/* test_data.c - rows: shapes, splitting, dropping, cutting, unpairing, orders and packing. */
#include "data.h"

#include "tiny.h"
#include "test.h"

static Tokenizer *tokenizer;
static Err err;
static char notes[4096];

static void note(void *ctx, char level, const char *text)
{
    size_t used = strlen(notes);
    (void)ctx;
    snprintf(notes + used, sizeof notes - used, "%c %s\n", level, text);
}
static const Log log_ = {NULL, note};

/* Loads `text` as rows.jsonl. */
static int load_with(Dataset *d, DataOptions o, const char *text)
{
    notes[0] = 0;
    err = (Err){0};
    files_write("rows.jsonl", text, strlen(text));
    int status = data_load(d, files_path("rows.jsonl"), &o, tokenizer, &log_, &err);
    if (!status) data_describe(d, &log_);
    return status;
}

static int load(Dataset *d, DataKind kind, const char *text)
{
    return load_with(d, (DataOptions){.kind = kind, .append_eos = 1, .max_length = 64}, text);
}

/* Are the ids those of `text`, byte for byte; merges by number? '^' stands for BOS, '$' for EOS,
 * "{n}" for id n. */
static int ids_are(const int32_t *ids, size_t n, const char *text)
{
    size_t i = 0;
    for (; *text; i++) {
        int32_t want = (unsigned char)*text;
        if (*text == '^') want = TINY_BOS;
        if (*text == '$') want = TINY_EOS;
        if (*text == '{') {
            want = (int32_t)strtol(text + 1, NULL, 10);
            text = strchr(text, '}');
        }
        text++;
        if (i >= n || ids[i] != want) return 0;
    }
    return i == n;
}
#define CHECK_PROMPT(row, text) CHECK(ids_are((row).prompt, (row).n_prompt, text))
#define CHECK_COMPLETION(row, i, text)                                                             \
    CHECK(ids_are((row).completion[i], (row).n_completion[i], text))

/* ---- shapes -------------------------------------------------------------------------------- */

static void explicit_pairs(void)
{
    Dataset d;
    CHECK(!load(&d, DATA_PAIRS,
                "{\"prompt\":\"Q:\",\"chosen\":\" ab\",\"rejected\":\" cd\",\"extra\":[1]}\r\n\n"
                "{\"prompt\":\"Q\",\"chosen\":\"x\",\"rejected\":\"yz\"}"));
    CHECK(d.count == 2 && d.report.lines == 2 && d.report.blank == 1);
    CHECK_PROMPT(d.rows[0], "^Q:");
    CHECK_COMPLETION(d.rows[0], 0, " ab$");
    CHECK_COMPLETION(d.rows[0], 1, " cd$");
    CHECK(d.rows[0].line == 1 && d.rows[1].line == 3 && d.rows[1].index == 1);
    CHECK(json_get(d.rows[0].source, "extra") != NULL);
    CHECK(strlen(d.sha256) == 64);
    data_close(&d);
}

/* TRL: the longest common prefix, less a space before the first difference. */
static void implicit_pairs(void)
{
    Dataset d;
    CHECK(!load(&d, DATA_PAIRS,
                "{\"chosen\":\"The sky is blue.\",\"rejected\":\"The sky is green.\"}\n"
                "{\"chosen\":\"abc\",\"rejected\":\"abcd\"}\n"
                "{\"chosen\":\"a\xc3\xa9\",\"rejected\":\"a\xc3\xaa\"}\n"
                "{\"chosen\":\"is xy\",\"rejected\":\"is z\"}\n"));
    CHECK_PROMPT(d.rows[0], "^The {257} is");
    CHECK_COMPLETION(d.rows[0], 0, "{263}lue.$");
    CHECK_COMPLETION(d.rows[0], 1, " g{261}en.$");
    CHECK_PROMPT(d.rows[1], "^ab");
    CHECK_COMPLETION(d.rows[1], 0, "c$");
    CHECK_COMPLETION(d.rows[1], 1, "cd$");
    CHECK_PROMPT(d.rows[3], "^is");
    CHECK_COMPLETION(d.rows[3], 0, " xy$");
    CHECK(d.report.word_cuts == 2);
    /* Not between the two bytes of a character (the prompt ends before it). */
    CHECK(d.rows[2].n_prompt <= 3);
    data_close(&d);
}

static void unpaired_rows(void)
{
    Dataset d;
    CHECK(!load(&d, DATA_UNPAIRED,
                "{\"prompt\":\"q\",\"completion\":\"a\",\"label\":true}\n"
                "{\"prompt\":\"q\",\"completion\":\"b\",\"label\":false}\n"
                "{\"prompt\":\"r\",\"completion\":\"b\",\"label\":0}\n"
                "{\"prompt\":\"r\",\"completion\":\"b\",\"label\":1}\n"));
    CHECK(d.count == 4 && d.report.desirable == 2 && d.report.undesirable == 2);
    CHECK(d.rows[0].label == 1 && d.rows[1].label == 0 && d.rows[2].label == 0);
    CHECK(d.rows[0].prompt_key == d.rows[1].prompt_key);
    CHECK(d.rows[0].prompt_key != d.rows[2].prompt_key);
    data_close(&d);
}

/* Pairs as single rows: in blocks of 1000, first all chosen, then all rejected. */
static void unpairing(void)
{
    Text text = {0};
    Dataset d;
    for (int i = 0; i < 1002; i++)
        text_addf(&text, &err, "{\"prompt\":\"q%d\",\"chosen\":\"+\",\"rejected\":\"-\"}\n", i);
    CHECK(!load(&d, DATA_UNPAIRED, text.data));
    CHECK(d.count == 2004);
    CHECK(d.rows[0].label == 1 && d.rows[999].label == 1 && d.rows[1000].label == 0);
    CHECK(d.rows[1000].index == 0 && d.rows[1999].index == 999);
    CHECK(d.rows[2000].label == 1 && d.rows[2000].index == 1000 && d.rows[2002].label == 0);
    CHECK_COMPLETION(d.rows[1000], 0, "-$");
    text_free(&text);
    data_close(&d);
}

static void completion_rows(void)
{
    Dataset d;
    DataOptions score = {.kind = DATA_COMPLETION, .keep_empty = 1};
    CHECK(!load_with(&d, score,
                     "{\"prompt\":\"\",\"completion\":\"ab\"}\n"
                     "{\"prompt\":\"a\",\"completion\":\"\"}\n"));
    CHECK(d.count == 2);
    CHECK_PROMPT(d.rows[0], "^");
    CHECK_COMPLETION(d.rows[0], 0, "ab");
    CHECK(d.rows[1].n_completion[0] == 0);
    CHECK(d.report.empty_prompts == 1 && strstr(notes, "w 1 rows with an empty prompt"));
    data_close(&d);
    CHECK(!load(&d, DATA_COMPLETION, "{\"text\":\"abc\"}\n"));
    CHECK_PROMPT(d.rows[0], "^");
    CHECK_COMPLETION(d.rows[0], 0, "abc$");
    data_close(&d);
    CHECK(!load(&d, DATA_PROMPTS, "{\"prompt\":\"abc\",\"other\":1}\n"));
    CHECK_PROMPT(d.rows[0], "^abc");
    CHECK(d.rows[0].n_completion[0] == 0);
    data_close(&d);
}

static void mapped_columns(void)
{
    Dataset d;
    DataOptions o = {.kind = DATA_PAIRS, .append_eos = 1, .map = "prompt=question,chosen=good"};
    CHECK(!load_with(&d, o, "{\"question\":\"q\",\"good\":\"a\",\"rejected\":\"b\"}\n"));
    CHECK_PROMPT(d.rows[0], "^q");
    data_close(&d);
    o.map = "promt=question";
    CHECK(load_with(&d, o, "{}\n"));
    CHECK_ERR(err, ERR_USAGE, "\"promt\"");
    o.map = "prompt";
    CHECK(load_with(&d, o, "{}\n"));
    CHECK_ERR(err, ERR_USAGE, "NAME=COLUMN");
    o.map = "chosen=good";
    CHECK(load_with(&d, o, "{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"b\"}\n"));
    CHECK_ERR(err, ERR_DATA, "no column \"good\"");
}

/* ---- conversations ------------------------------------------------------------------------- */

#define USER(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define ASSISTANT(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"

static int load_chat(Dataset *d, DataKind kind, const char *text)
{
    DataOptions o = {.kind = kind, .append_eos = 1, .chat_template = "zephyr", .system = "S"};
    return load_with(d, o, text);
}

/* The template ends the answer (no EOS of ours), and opens it at the end of the prompt. */
static void chat_pairs(void)
{
    Dataset d;
    CHECK(!load_chat(&d, DATA_PAIRS,
                     "{\"prompt\":[" USER("q</s>") "],\"chosen\":[" ASSISTANT(
                         "a") "],\"rejected\":[" ASSISTANT("b") "]}\n"));
    CHECK_PROMPT(d.rows[0], "<|us{262}|>\nq</s>$\n<|assistant|>\n");
    CHECK_COMPLETION(d.rows[0], 0, "a$\n");
    CHECK_COMPLETION(d.rows[0], 1, "b$\n");
    CHECK(d.report.boundary_merges == 0);
    data_close(&d);
}

/* Without a prompt: the turns that both sides begin with, and no more than all but the last. */
static void chat_implicit(void)
{
    Dataset d;
    CHECK(!load_chat(
        &d, DATA_PAIRS,
        "{\"chosen\":[" USER("q") "," ASSISTANT("a") "],\"rejected\":[" USER("q") "," ASSISTANT(
            "b") "]}\n"
                 "{\"chosen\":[" USER("q") "," ASSISTANT("a") "],\"rejected\":[" USER(
                     "q") "," ASSISTANT("a") "]}\n"));
    for (size_t i = 0; i < 2; i++) CHECK_PROMPT(d.rows[i], "<|us{262}|>\nq$\n<|assistant|>\n");
    CHECK_COMPLETION(d.rows[0], 1, "b$\n");
    CHECK_COMPLETION(d.rows[1], 1, "a$\n");
    CHECK(d.report.identical == 1);
    data_close(&d);
}

static void chat_messages(void)
{
    Dataset d;
    CHECK(!load_chat(
        &d, DATA_COMPLETION,
        "{\"messages\":[" USER("q") "," ASSISTANT("a") "," USER("r") "," ASSISTANT("b") "]}\n"));
    CHECK_PROMPT(d.rows[0], "<|us{262}|>\nq$\n<|assistant|>\na$\n<|us{262}|>\nr$\n<|assistant|>\n");
    CHECK_COMPLETION(d.rows[0], 0, "b$\n");
    data_close(&d);
    CHECK(!load_chat(
        &d, DATA_UNPAIRED,
        "{\"prompt\":[" USER("q") "],\"completion\":[],\"label\":true}\n"
                                  "{\"prompt\":[" USER("q") "],\"completion\":[" ASSISTANT(
                                      "a") "],\"label\":true}\n"));
    CHECK(d.count == 1 && d.report.dropped_empty == 1 && d.rows[0].line == 2);
    data_close(&d);
}

/* A prompt of text is one turn of the user, after the system message; --raw leaves it as it is. */
static void chat_prompts(void)
{
    Dataset d;
    CHECK(!load_chat(&d, DATA_PROMPTS, "{\"prompt\":\"q\"}\n"));
    CHECK_PROMPT(d.rows[0], "<|system|>\nS$\n<|us{262}|>\nq$\n<|assistant|>\n");
    data_close(&d);
    CHECK(!load_chat(&d, DATA_PROMPTS, "{\"prompt\":[" USER("q") "]}\n"));
    CHECK_PROMPT(d.rows[0], "<|system|>\nS$\n<|us{262}|>\nq$\n<|assistant|>\n");
    data_close(&d);
    DataOptions o = {.kind = DATA_PROMPTS, .chat_template = "zephyr", .raw = 1};
    CHECK(!load_with(&d, o, "{\"prompt\":\"q\"}\n"));
    CHECK_PROMPT(d.rows[0], "^q");
    data_close(&d);
    o.chat_template = NULL; /* the model has none */
    CHECK(load_with(&d, o, "{\"prompt\":[" USER("q") "]}\n"));
    CHECK(err.code == ERR_DATA && strstr(err.text, "rows.jsonl:1") != NULL);
    o.chat_template = "nonesuch";
    CHECK(load_with(&d, o, "{\"prompt\":[" USER("q") "]}\n"));
    CHECK(err.code == ERR_USAGE);
}

/* ---- tokens -------------------------------------------------------------------------------- */

/* A token across the border belongs to the completions, of both sides of a pair. */
static void boundary_merge(void)
{
    Dataset d;
    CHECK(!load(&d, DATA_PAIRS,
                "{\"prompt\":\"the sk\",\"chosen\":\"y!\",\"rejected\":\"ate\"}\n"
                "{\"prompt\":\"the sk\",\"chosen\":\"ate\",\"rejected\":\"y!\"}\n"));
    CHECK_PROMPT(d.rows[0], "^{259} ");
    CHECK_COMPLETION(d.rows[0], 0, "{257}!$");
    CHECK_COMPLETION(d.rows[0], 1, "{256}ate$");
    CHECK_PROMPT(d.rows[1], "^{259} ");
    CHECK_COMPLETION(d.rows[1], 0, "{256}ate$");
    CHECK(d.report.boundary_merges == 2);
    data_close(&d);
    /* A trailing space of the prompt goes the same way. */
    CHECK(!load(&d, DATA_COMPLETION, "{\"prompt\":\"a \",\"completion\":\"the\"}\n"));
    CHECK_PROMPT(d.rows[0], "^a");
    CHECK_COMPLETION(d.rows[0], 0, "{260}$");
    data_close(&d);
}

/* Spelled control tokens are text; the end token added by the program is the token. */
static void end_tokens(void)
{
    Dataset d;
    const char *row = "{\"prompt\":\"<s>q\",\"completion\":\"a</s>\"}\n";
    DataOptions o = {.kind = DATA_COMPLETION, .append_eos = 1};
    CHECK(!load_with(&d, o, row));
    CHECK_PROMPT(d.rows[0], "^<s>q");
    CHECK_COMPLETION(d.rows[0], 0, "a</s>$");
    CHECK(d.report.eos_as_text == 1);
    data_close(&d);
    o.parse_special = 1;
    CHECK(!load_with(&d, o, row));
    CHECK_PROMPT(d.rows[0], "^^q");
    CHECK_COMPLETION(d.rows[0], 0, "a$");
    data_close(&d);
    o.append_eos = 0;
    CHECK(!load_with(&d, o, "{\"prompt\":\"q\",\"completion\":\"a\"}\n"));
    CHECK_COMPLETION(d.rows[0], 0, "a");
    data_close(&d);
}

static void lengths(void)
{
    Dataset d;
    DataOptions o = {.kind = DATA_PAIRS, .append_eos = 1, .max_length = 5};
    CHECK(!load_with(&d, o,
                     "{\"prompt\":\"wxyz\",\"chosen\":\"a\",\"rejected\":\"b\"}\n"
                     "{\"prompt\":\"wxy\",\"chosen\":\"abc\",\"rejected\":\"\"}\n"
                     "{\"prompt\":\"wxy\",\"chosen\":\"abc\",\"rejected\":\"b\"}\n"
                     "{\"prompt\":\"w\",\"chosen\":\"ab\",\"rejected\":\"b\"}\n"));
    CHECK(d.count == 2);
    CHECK(d.report.dropped_long == 1 && d.report.dropped_empty == 1);
    CHECK(d.report.first_dropped_line == 1 && d.report.cut == 2);
    CHECK_COMPLETION(d.rows[0], 0, "a");
    CHECK(d.rows[0].n_uncut[0] == 4 && d.rows[0].completion[0][3] == TINY_EOS);
    CHECK_COMPLETION(d.rows[0], 1, "b");
    CHECK_COMPLETION(d.rows[1], 0, "ab$");
    CHECK(d.report.length_percentile[0] == 4 && d.report.length_percentile[4] == 8);
    CHECK(strstr(notes, "1 with a prompt that fills --max-length") != NULL);
    CHECK(strstr(notes, "the first at line 1") != NULL);
    data_close(&d);
    o.max_length = 2;
    CHECK(load_with(&d, o, "{\"prompt\":\"wx\",\"chosen\":\"a\",\"rejected\":\"b\"}\n"));
    CHECK_ERR(err, ERR_DATA, "0 usable rows of 1");
}

static void equal_rows(void)
{
    Dataset d, other;
    size_t count;
    const char *rows = "{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"a\"}\n"
                       "{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"b\"}\n"
                       "{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"b\"}\n";
    CHECK(!load(&d, DATA_PAIRS, rows));
    CHECK(d.count == 3 && d.report.identical == 1 && d.report.duplicates == 1);
    CHECK(strstr(notes, "w 1 rows are copies") != NULL);
    DataOptions o = {.kind = DATA_PAIRS, .append_eos = 1, .drop_identical = 1};
    CHECK(!load_with(&other, o, rows));
    CHECK(other.count == 2 && other.report.dropped_identical == 1);
    CHECK(!data_overlap(&d, &other, &count, &err) && count == 2);
    data_close(&other);
    CHECK(!load(&other, DATA_PAIRS, "{\"prompt\":\"q\",\"chosen\":\"b\",\"rejected\":\"a\"}\n"));
    CHECK(!data_overlap(&d, &other, &count, &err) && count == 0);
    data_close(&other);
    data_close(&d);
}

/* ---- faults -------------------------------------------------------------------------------- */

static void faults(void)
{
    static const struct {
        DataKind kind;
        const char *text, *part;
    } cases[] = {
        {DATA_PAIRS, "", "0 usable rows: the file is empty"},
        {DATA_PAIRS, "\n \n", "0 usable rows"},
        {DATA_PAIRS, "[1]\n", "rows.jsonl:1"},
        {DATA_PAIRS, "{\"prompt\":\"a\",\"chosen\":\"\xff\",\"rejected\":\"\"}\n", "rows.jsonl:1"},
        {DATA_PAIRS, "{\"prompt\":\"q\",\"chosen\":\"a\"}\n", ":1: no column \"rejected\""},
        {DATA_PAIRS, "{\"rejected\":\"a\"}\n", ":1: no column \"chosen\""},
        {DATA_PAIRS, "{\"prompt\":1,\"chosen\":\"a\",\"rejected\":\"b\"}\n",
         "\"prompt\" must be a string or a list of messages, found a number"},
        {DATA_PAIRS, "{\"chosen\":\"a\",\"rejected\":\"b\"}\n{\"chosen\":[],\"rejected\":[]}\n",
         ":2: rows must have one shape: lists of messages here, but text in line 1"},
        {DATA_PAIRS,
         "{\"prompt\":\"\",\"chosen\":\"a\",\"rejected\":\"b\"}\n\n"
         "{\"chosen\":\"a\",\"rejected\":\"b\"}\n",
         ":3: rows must have one shape: \"prompt\" is missing here, but not in line 1"},
        {DATA_PAIRS, "{\"prompt\":\"q\",\"chosen\":[],\"rejected\":[]}\n",
         "\"prompt\" is a string but \"rejected\" is a list"},
        {DATA_UNPAIRED, "{\"prompt\":\"q\",\"completion\":\"a\"}\n", "no column \"label\""},
        {DATA_UNPAIRED, "{\"prompt\":\"q\",\"completion\":\"a\",\"label\":\"yes\"}\n",
         ":1: \"label\" must be true or false (or 1 or 0), found \"yes\""},
        {DATA_UNPAIRED, "{\"prompt\":\"q\",\"completion\":\"a\",\"label\":2}\n", "found 2"},
        {DATA_UNPAIRED, "{\"prompt\":\"q\",\"completion\":\"a\",\"label\":0.5}\n", "found 0.5"},
        {DATA_UNPAIRED, "{\"prompt\":\"q\",\"completion\":\"a\",\"label\":null}\n", "found null"},
        {DATA_PAIRS,
         "{\"chosen\":[{\"role\":\"user\",\"content\":\"a\"}],"
         "\"rejected\":[{\"role\":\"user\",\"content\":\"b\"}]}\n",
         "have no first turn in common"},
        {DATA_PROMPTS, "{\"prompt\":[{\"role\":\"tool\",\"content\":\"a\"}]}\n",
         "\"prompt\"[0]: role must be system, user or assistant, found tool"},
        {DATA_PROMPTS, "{\"prompt\":[{\"role\":\"user\",\"content\":null}]}\n",
         "\"prompt\"[0]: content must be a string, found null"},
        {DATA_COMPLETION, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n",
         "must be an answer with the role assistant"},
        {DATA_PROMPTS, "{\"prompt\":\"a\"}\n{\"prompt\":\"a\n", "rows.jsonl:2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Dataset d;
        CHECK(load(&d, cases[i].kind, cases[i].text));
        CHECK_ERR(err, ERR_DATA, cases[i].part);
        CHECK(d.rows == NULL && d.count == 0);
    }
    Dataset d;
    DataOptions o = {.kind = DATA_PAIRS};
    CHECK(data_load(&d, files_path("absent.jsonl"), &o, tokenizer, NULL, &err));
    CHECK(err.code == ERR_NO_INPUT);
}

/* ---- order --------------------------------------------------------------------------------- */

static void check_order(uint64_t seed, uint64_t epoch, const uint32_t *want, size_t n)
{
    uint32_t got[16];
    CHECK(!data_order(ORDER_TRL, seed, epoch, got, n, &err));
    for (size_t i = 0; i < n; i++) CHECK(got[i] == want[i]);
}

/* torch.randperm(n) with a generator seeded with seed + epoch (torch 2.13.0). */
static void torch_order(void)
{
    static const uint32_t s42_7[] = {1, 6, 3, 5, 4, 0, 2}, s43_7[] = {3, 1, 2, 4, 5, 0, 6};
    static const uint32_t s42[] = {2, 6, 1, 8, 4, 5, 0, 9, 3, 7};
    static const uint32_t s0[] = {4, 1, 7, 5, 3, 9, 0, 8, 6, 2};
    check_order(42, 0, s42_7, 7);
    check_order(42, 1, s43_7, 7);
    check_order(43, 0, s43_7, 7);
    check_order(42, 0, s42, 10);
    check_order(0, 0, s0, 10);
}

static void shuffled_order(void)
{
    uint32_t a[100], b[100], c[100], seen[100] = {0};
    CHECK(!data_order(ORDER_SHUFFLE, 5, 0, a, 100, &err));
    CHECK(!data_order(ORDER_SHUFFLE, 5, 0, b, 100, &err));
    CHECK(!data_order(ORDER_SHUFFLE, 5, 1, c, 100, &err));
    CHECK(!memcmp(a, b, sizeof a));
    CHECK(memcmp(a, c, sizeof a) != 0);
    for (size_t i = 0; i < 100; i++) seen[a[i]]++;
    for (size_t i = 0; i < 100; i++) CHECK(seen[i] == 1);
    CHECK(!data_order(ORDER_SHUFFLE, 6, 0, b, 100, &err) && memcmp(a, b, sizeof a));
    CHECK(!data_order(ORDER_FILE, 5, 3, b, 100, &err) && b[0] == 0 && b[99] == 99);
}

/* Every place is equally likely for every row: chi-squared over the places of row 0, seeds fixed.
 */
static void fair_order(void)
{
    enum { N = 8, DRAWS = 8000 };
    size_t at[N] = {0};
    double chi = 0;
    for (uint64_t seed = 0; seed < DRAWS; seed++) {
        uint32_t order[N];
        data_order(ORDER_SHUFFLE, seed, 0, order, N, &err);
        for (size_t i = 0; i < N; i++)
            if (order[i] == 0) at[i]++;
    }
    for (size_t i = 0; i < N; i++) {
        double off = (double)at[i] - (double)DRAWS / N;
        chi += off * off / ((double)DRAWS / N);
    }
    CHECK(chi < 24.3); /* 0.1 % point of chi-squared with 7 degrees of freedom */
}

/* ---- packing ------------------------------------------------------------------------------- */

/* A pair: the prompt once, then both completions without their last tokens. */
static void pack_pair(void)
{
    static const int32_t prompt[] = {10, 11}, chosen[] = {20, 21, 22}, rejected[] = {30};
    Packer p = {0};
    int segment;
    size_t first, n;
    packer_begin(&p);
    CHECK(!packer_add_context(&p, -1, prompt, 2, &segment, &err) && segment == 0);
    CHECK(!packer_add_completion(&p, segment, chosen, 3, &first, &n, &err));
    CHECK(first == 0 && n == 3);
    CHECK(!packer_add_completion(&p, segment, rejected, 1, &first, &n, &err));
    CHECK(first == 3 && n == 1);
    const Batch *b = &p.batch;
    static const int32_t ids[] = {10, 11, 20, 21}, targets[] = {20, 21, 22, 30};
    static const uint32_t rows[] = {1, 2, 3, 1};
    CHECK(b->T == 4 && !memcmp(b->ids, ids, sizeof ids));
    CHECK(b->n_scores == 4 && !memcmp(b->score_target, targets, sizeof targets));
    CHECK(!memcmp(b->score_row, rows, sizeof rows));
    CHECK(b->n_segments == 2);
    CHECK(b->segments[1].row == 2 && b->segments[1].count == 2 && b->segments[1].pos == 2);
    CHECK(b->segments[1].parent == 0 && b->segments[0].parent == -1 && !b->segments[0].past);
    CHECK(b->segments[0].pos == 0);
    /* A third stretch goes on where the second ended. */
    CHECK(!packer_add_context(&p, 1, prompt, 2, &segment, &err) && segment == 2);
    CHECK(p.batch.segments[2].pos == 4 && p.batch.segments[2].row == 4);
    packer_free(&p);
}

/* Without a prompt the first token is not scored; many rows keep their places as arrays grow. */
static void pack_many(void)
{
    Packer p = {0};
    int32_t ids[40];
    int segment;
    size_t first, n, T = 0, scores = 0;
    for (int i = 0; i < 40; i++) ids[i] = i;
    for (int round = 0; round < 2; round++) {
        packer_begin(&p);
        T = scores = 0;
        for (size_t i = 0; i < 40; i++) {
            CHECK(!packer_add_context(&p, -1, ids, i, &segment, &err));
            CHECK((segment < 0) == (i == 0));
            CHECK(!packer_add_completion(&p, segment, ids, 40 - i, &first, &n, &err));
            CHECK(first == scores && n == 40 - i - (i == 0));
            scores += n;
            T += 39;
        }
        CHECK(p.batch.T == T && p.batch.n_scores == scores);
    }
    size_t j = 0;
    for (size_t i = 0; i < 40; i++)
        for (size_t t = i == 0; t < 40 - i; t++, j++) {
            CHECK(p.batch.score_target[j] == (int32_t)t);
            CHECK(p.batch.score_row[j] == i * 39 + i + t - 1);
        }
    packer_free(&p);
}

static void pack_nothing(void)
{
    Packer p = {0};
    int segment = 5;
    size_t first, n;
    packer_begin(&p);
    CHECK(!packer_add_context(&p, -1, NULL, 0, &segment, &err) && segment == -1);
    CHECK(!packer_add_completion(&p, -1, NULL, 0, &first, &n, &err) && n == 0);
    CHECK(p.batch.T == 0 && p.batch.n_scores == 0 && p.batch.n_segments == 0);
    packer_free(&p);
}

static const Test tests[] = {
    {"explicit_pairs", explicit_pairs},
    {"implicit_pairs", implicit_pairs},
    {"unpaired_rows", unpaired_rows},
    {"unpairing", unpairing},
    {"completion_rows", completion_rows},
    {"mapped_columns", mapped_columns},
    {"chat_pairs", chat_pairs},
    {"chat_implicit", chat_implicit},
    {"chat_messages", chat_messages},
    {"chat_prompts", chat_prompts},
    {"boundary_merge", boundary_merge},
    {"end_tokens", end_tokens},
    {"lengths", lengths},
    {"equal_rows", equal_rows},
    {"faults", faults},
    {"torch_order", torch_order},
    {"shuffled_order", shuffled_order},
    {"fair_order", fair_order},
    {"pack_pair", pack_pair},
    {"pack_many", pack_many},
    {"pack_nothing", pack_nothing},
};

int main(int argc, char **argv)
{
    files_begin();
    const char *dir = tiny_model("tiny");
    tokenizer = tokenizer_load(dir, NULL, &err);
    if (!tokenizer) return printf("%s\n0 passed, 1 failed\n", err.text), 1;
    int status = test_main(tests, sizeof tests / sizeof *tests, argc, argv);
    tokenizer_free(tokenizer);
    files_end();
    return status;
}
