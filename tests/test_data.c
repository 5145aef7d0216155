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
    static const char *const name = "rows.jsonl";
    notes[0] = 0;
    err = (Err){0};
    files_write("rows.jsonl", text, strlen(text));
    int status = data_load(d, files_path("rows.jsonl"), &o, tokenizer, &log_, &err);
    if (!status) {
        d->path = name;
        data_describe(d, &log_);
    }
    return status;
}

static int load(Dataset *d, DataKind kind, const char *text)
{
    DataOptions o = {
        .kind = kind, .train_on = TRAIN_ON_LAST, .append_eos = 1, .max_length = 64};
    return load_with(d, o, text);
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
    CHECK_INT(d.count, 2);
    CHECK_INT(d.report.lines, 2);
    CHECK_INT(d.report.blank, 1);
    CHECK_PROMPT(d.rows[0], "^Q:");
    CHECK_COMPLETION(d.rows[0], 0, " ab$");
    CHECK_COMPLETION(d.rows[0], 1, " cd$");
    CHECK(d.rows[0].line == 1 && d.rows[1].line == 3 && d.rows[1].index == 1);
    CHECK(json_get(d.rows[0].source, "extra") != NULL);
    CHECK_INT(strlen(d.sha256), 64);
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
    CHECK_INT(d.report.notes[ROW_WORD_CUT].rows, 2);
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
    CHECK_INT(d.rows[0].label, 1);
    CHECK_INT(d.rows[1].label, 0);
    CHECK_INT(d.rows[2].label, 0);
    CHECK_INT(d.rows[0].prompt_key, d.rows[1].prompt_key);
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
    CHECK_INT(d.count, 2004);
    CHECK_INT(d.rows[0].label, 1);
    CHECK_INT(d.rows[999].label, 1);
    CHECK_INT(d.rows[1000].label, 0);
    CHECK_INT(d.rows[1000].index, 0);
    CHECK_INT(d.rows[1999].index, 999);
    CHECK_INT(d.rows[2000].label, 1);
    CHECK_INT(d.rows[2000].index, 1000);
    CHECK_INT(d.rows[2002].label, 0);
    CHECK_COMPLETION(d.rows[1000], 0, "-$");
    text_free(&text);
    data_close(&d);
}

static void completion_rows(void)
{
    Dataset d;
    DataOptions score = {.kind = DATA_COMPLETION, .train_on = TRAIN_ON_LAST, .keep_empty = 1};
    CHECK(!load_with(&d, score,
                     "{\"prompt\":\"\",\"completion\":\"ab\"}\n"
                     "{\"prompt\":\"a\",\"completion\":\"\"}\n"));
    CHECK_INT(d.count, 2);
    CHECK_PROMPT(d.rows[0], "^");
    CHECK_COMPLETION(d.rows[0], 0, "ab");
    CHECK_INT(d.rows[1].n_completion[0], 0);
    CHECK_INT(d.report.notes[ROW_NO_PROMPT].rows, 1);
    CHECK_HAS(notes, "rows.jsonl: 1 rows with an empty prompt (first: line 1)");
    data_close(&d);
    CHECK(!load(&d, DATA_COMPLETION, "{\"text\":\"abc\"}\n"));
    CHECK_PROMPT(d.rows[0], "^");
    CHECK_COMPLETION(d.rows[0], 0, "abc$");
    data_close(&d);
    CHECK(!load(&d, DATA_PROMPTS, "{\"prompt\":\"abc\",\"other\":1}\n"));
    CHECK_PROMPT(d.rows[0], "^abc");
    CHECK_INT(d.rows[0].n_completion[0], 0);
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
    o.map = "prompt=question"; /* pairs do without a prompt, but not without one that is named */
    CHECK(load_with(&d, o, "{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"b\"}\n"));
    CHECK_ERR(err, ERR_DATA, "no column \"question\", which --map prompt=question names");
}

/* ---- conversations ------------------------------------------------------------------------- */

#define USER(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define ASSISTANT(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"

static int load_chat(Dataset *d, DataKind kind, const char *text)
{
    DataOptions o = {.kind = kind,
                     .train_on = TRAIN_ON_LAST,
                     .append_eos = 1,
                     .chat_template = "zephyr",
                     .system = "S"};
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
    CHECK_INT(d.report.notes[ROW_MERGED].rows, 0);
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
    CHECK_INT(d.report.notes[ROW_SAME].rows, 1);
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
    CHECK(d.count == 1 && d.report.notes[ROW_EMPTY].rows == 1 && d.rows[0].line == 2);
    data_close(&d);
}

/* A template of a file, which reads what stands beside the messages and in them. */
static void a_template_reads_the_row(void)
{
    static const char source[] =
        "{% for t in tools or [] %}T{{ t.n }}{% endfor %}{{ mood }}"
        "{% for m in messages %}{{ m.role[0] }}"
        "{{ m.content or '' }}{% for c in m.tool_calls %}C{{ c.f }}{% endfor %}{{ m.name }};"
        "{% endfor %}{% if add_generation_prompt %}a{% endif %}";
    files_write("own.jinja", source, sizeof source - 1);
    Dataset d;
    char path[IO_PATH_MAX];
    snprintf(path, sizeof path, "%.4000s", files_path("own.jinja"));
    DataOptions o = {.kind = DATA_PAIRS, .chat_template = path};
    CHECK(!load_with(&d, o,
                     "{\"prompt\":[{\"role\":\"user\",\"content\":\"q\",\"name\":\"n\"}],"
                     "\"chosen\":[{\"role\":\"assistant\",\"tool_calls\":[{\"f\":\"g\"}]}],"
                     "\"rejected\":[" ASSISTANT("b") "],\"tools\":[{\"n\":\"h\"}],"
                     "\"chat_template_kwargs\":{\"mood\":\"m\"},\"documents\":[]}\n"));
    CHECK_PROMPT(d.rows[0], "Thmuqn;a");
    CHECK_COMPLETION(d.rows[0], 0, "Cg;");
    CHECK_COMPLETION(d.rows[0], 1, "b;");
    CHECK_HAS(notes, "not read, as in TRL: \"documents\" (1 rows, first: line 1)\n");
    CHECK(d.chat && !strncmp(chat_name(d.chat), "SHA-256 ", 8));
    CHECK_INT(d.report.notes[ROW_CONTROL].rows, 0);
    data_close(&d);
    /* Calls that differ are no common turn, and what they spell is counted. */
    CHECK(!load_with(&d, o,
                     "{\"chosen\":[" USER("q") ",{\"role\":\"assistant\",\"content\":\"\","
                     "\"tool_calls\":[{\"f\":\"</s>\"}]}," ASSISTANT("b") "],"
                     "\"rejected\":[" USER("q") ",{\"role\":\"assistant\",\"content\":\"\","
                     "\"tool_calls\":[{\"f\":\"h\"}]}," ASSISTANT("b") "]}\n"));
    CHECK_PROMPT(d.rows[0], "uq;a");
    CHECK_COMPLETION(d.rows[0], 0, "C</s>;ab;");
    CHECK_COMPLETION(d.rows[0], 1, "Ch;ab;");
    CHECK_INT(d.report.notes[ROW_CONTROL].rows, 1);
    data_close(&d);
}

/* Is token t of completion[0] scored? '1' in marks: it is. */
static int scored_are(const Row *r, const char *marks)
{
    for (size_t t = 0; t < r->n_completion[0]; t++)
        if (marks[t] != (!r->scored || r->scored[t] ? '1' : '0')) return 0;
    return strlen(marks) == r->n_completion[0];
}

#define TALK "[" USER("q") "," ASSISTANT("a") "," USER("r") "," ASSISTANT("bc") "," USER("s") "]"

/* train_on: which turns of a conversation are scored. */
static void trained_turns(void)
{
    Dataset d;
    DataOptions o = {.kind = DATA_COMPLETION, .train_on = TRAIN_ON_LAST, .chat_template = "zephyr"};
    const char *row = "{\"messages\":" TALK "}\n";
    o.train_on = TRAIN_ON_ANSWERS;
    CHECK(!load_with(&d, o, row));
    CHECK_PROMPT(d.rows[0], "<|us{262}|>\nq$\n<|assistant|>\n");
    CHECK_COMPLETION(d.rows[0], 0, "a$\n<|us{262}|>\nr$\n<|assistant|>\nbc$\n<|us{262}|>\ns$\n");
    CHECK(scored_are(&d.rows[0], "111" "00000000" "000" "00000000000000" "1111" "00000000" "000"));
    CHECK_INT(d.report.answers, 2);
    CHECK_INT(d.report.several, 1);
    CHECK_INT(d.report.scored, 7);
    CHECK_HAS(notes, "7 of 68 tokens are scored");
    CHECK_HAS(notes, "1 rows hold several answers (2 answers in all): each answer is scored");
    data_close(&d);
    o.max_length = 54; /* cut inside the second answer */
    CHECK(!load_with(&d, o, row) && d.rows[0].n_completion[0] == 29 && d.report.scored == 4);
    data_close(&d);
    o.max_length = 25; /* no room for the first one */
    CHECK(load_with(&d, o, row));
    o.max_length = 0;
    for (int all = 0; all < 2; all++) {
        o.train_on = all ? TRAIN_ON_ALL : TRAIN_ON_AUTO;
        CHECK(!load_with(&d, o, row));
        CHECK(d.rows[0].n_prompt == 0 && d.rows[0].n_completion[0] == 68 && !d.rows[0].scored);
        CHECK_INT(d.report.scored, 67);
        CHECK_INT(d.report.train_on, TRAIN_ON_ALL);
        data_close(&d);
    }
    o.train_on = TRAIN_ON_LAST;
    CHECK(load_with(&d, o, row));
    CHECK_ERR(err, ERR_DATA, "must be an answer with the role assistant");
    o.train_on = TRAIN_ON_ANSWERS;
    CHECK(load_with(&d, o, "{\"messages\":[" USER("q") "]}\n"));
    CHECK_ERR(err, ERR_DATA, "has no answer");
    CHECK(load_with(&d, o, "{\"text\":\"q\"}\n"));
    CHECK_ERR(err, ERR_USAGE, "no answers to tell apart");
}

/* With a prompt: of the completion's turns the answers; or all, the prompt's tokens, too. */
static void trained_completions(void)
{
    Dataset d;
    DataOptions o = {.kind = DATA_COMPLETION, .append_eos = 1, .chat_template = "zephyr"};
    const char *row = "{\"prompt\":[" USER("q") "],\"completion\":[" ASSISTANT("a") "," USER(
        "r") "," ASSISTANT("b") "]}\n";
    o.train_on = TRAIN_ON_AUTO;
    CHECK(!load_with(&d, o, row) && d.rows[0].n_prompt == 25 && !d.rows[0].scored);
    data_close(&d);
    o.train_on = TRAIN_ON_ANSWERS;
    CHECK(!load_with(&d, o, row) && d.rows[0].n_prompt == 25);
    CHECK(scored_are(&d.rows[0], "111" "00000000" "000" "00000000000000" "111"));
    data_close(&d);
    o.train_on = TRAIN_ON_ALL;
    CHECK(!load_with(&d, o, "{\"prompt\":\"q\",\"completion\":\"ab\"}\n"));
    CHECK_INT(d.rows[0].n_prompt, 0);
    CHECK_COMPLETION(d.rows[0], 0, "^qab$");
    data_close(&d);
    o.train_on = TRAIN_ON_AUTO;
    CHECK(!load_with(&d, o, "{\"text\":\"ab\"}\n"));
    CHECK_COMPLETION(d.rows[0], 0, "ab$");
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
    CHECK(load_with(&d, o, "{\"prompt\":[" USER("q") "]}\n")); /* no turns in plain text */
    CHECK(err.code == ERR_DATA && strstr(err.text, "rows.jsonl:1: \"prompt\" is a conversation"));
    o.raw = 0;
    o.chat_template = NULL; /* the model has none */
    CHECK(load_with(&d, o, "{\"prompt\":[" USER("q") "]}\n"));
    CHECK_INT(err.code, ERR_DATA);
    CHECK_HAS(err.text, "rows.jsonl:1");
    o.chat_template = "nonesuch";
    CHECK(load_with(&d, o, "{\"prompt\":[" USER("q") "]}\n"));
    CHECK_INT(err.code, ERR_USAGE);
}

/* Mistral's templates write a system message into a last question, and into no other turn. */
static void a_system_message_that_is_lost(void)
{
    static const char *const names[] = {"mistral-v3", "mistral-v3-tekken", "mistral-v1",
                                        "mistral-common-v3", "zephyr"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Dataset d;
        int lost = i < 2;
        DataOptions o = {.kind = DATA_COMPLETION, .chat_template = names[i]};
        CHECK(!load_with(&d, o,
                         "{\"prompt\":[" USER("p") "],\"completion\":[" ASSISTANT("a") "]}\n"
                         "{\"prompt\":[{\"role\":\"system\",\"content\":\"S\"}," USER("q")
                         "],\"completion\":[" ASSISTANT("a") "]}\n"));
        CHECK_INT(d.report.notes[ROW_NO_SYSTEM].rows, (size_t)lost);
        if (lost) CHECK_HAS(notes, "w rows.jsonl: 1 rows lose their system message");
        if (lost) CHECK_HAS(notes, "(first: line 2)");
        data_close(&d);
        o.kind = DATA_PROMPTS; /* its question is last */
        CHECK(!load_with(&d, o, "{\"prompt\":[{\"role\":\"system\",\"content\":\"S\"},"
                                USER("q") "]}\n"));
        CHECK(!d.report.notes[ROW_NO_SYSTEM].rows);
        data_close(&d);
    }
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
    CHECK_INT(d.report.notes[ROW_MERGED].rows, 2);
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
    DataOptions o = {.kind = DATA_COMPLETION, .train_on = TRAIN_ON_LAST, .append_eos = 1};
    CHECK(!load_with(&d, o, row));
    CHECK_PROMPT(d.rows[0], "^<s>q");
    CHECK_COMPLETION(d.rows[0], 0, "a</s>$");
    CHECK_INT(d.report.notes[ROW_CONTROL].rows, 1);
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

/* What refuses a column says what was found, and what makes the row fit. */
static void refused_columns(void)
{
    static const struct {
        const char *row, *key, *said;
    } cases[] = {
        {"{\"prompt\":1,\"completion\":\"b\"}", "response",
         "\"response\" must be X, found none; the row has \"prompt\", \"completion\" "
         "(jq -c '.response = .completion' FILE >rows.jsonl)"},
        {"{\"response\":null}", "response", "found none; the row has \"response\""},
        {"{\"response\":[{}]}", "response", "a list (jq -c '.response = .response[-1].content'"},
        {"{\"harmful_level\":\"2\"}", "harmful_level",
         "found \"2\" (jq -c '.harmful_level |= tonumber'"},
        {"{\"harmful_level\":4}", "harmful_level", "must be X, found 4"},
        {"{\"label\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}", "label",
         "found a string (jq"},
        {"{\"options\":[],\"answer\":1}", "answer", "found 1 (jq -c '.choices = .options'"},
        {"{\"answer\":1}", "answer", "must be X, found 1"},
        {"{}", "prompt", "found none; the row has none"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Pool pool = {0};
        Json *row = json_parse(&pool, cases[i].row, strlen(cases[i].row), "row", 0, &err);
        CHECK(row && data_refuse(row, cases[i].key, "X", &err) == -1);
        CHECK_ERR(err, ERR_DATA, cases[i].said);
        pool_free(&pool);
    }
}

/* Marks that a template writes in letters, spelled by a text: nobody can tell them apart. */
static void spelled_marks(void)
{
    Dataset d;
    DataOptions o = {.kind = DATA_COMPLETION, .chat_template = "zephyr"};
#define ASKED(prompt, answer)                                                                      \
    "{\"prompt\":[" USER(prompt) "],\"completion\":[" ASSISTANT(answer) "]}\n"
    const char *rows = ASKED("q", "a") ASKED("q\\n<|user|>", "b") ASKED("q", "[INST]c")
        ASKED("r", "<|system|>");
    for (int special = 0; special < 2; special++) {
        o.parse_special = special;
        CHECK(!load_with(&d, o, rows));
        CHECK_INT(d.report.notes[ROW_MARKS].rows, 2);
        CHECK_INT(d.report.notes[ROW_MARKS].line, 2);
        CHECK_HAS(notes, "w rows.jsonl: 2 rows spell marks of the chat template");
        data_close(&d);
    }
    o.chat_template = "mistral-v0.1";
    o.parse_special = 0;
    CHECK(!load_with(&d, o, rows));
    CHECK_INT(d.report.notes[ROW_MARKS].rows, 1);
    CHECK_INT(d.report.notes[ROW_MARKS].line, 3);
    data_close(&d);
}

/* What a row holds and nobody reads is named, with a count and the first line; a column that TRL
 * would use is a warning. */
static void unread_columns(void)
{
    Dataset d;
    CHECK(!load_chat(&d, DATA_PAIRS,
                     "{\"prompt\":[" USER("q") "],\"chosen\":[" ASSISTANT("a") "],"
                     "\"rejected\":[" ASSISTANT("b") "],\"tools\":null,\"margin\":1}\n"
                     "{\"prompt\":[{\"role\":\"user\",\"content\":\"q\",\"name\":\"n\"},"
                     "{\"role\":\"user\",\"content\":\"q\",\"name\":\"n\"}],"
                     "\"chosen\":[" ASSISTANT("a") "],\"rejected\":[" ASSISTANT("c") "],"
                     "\"tools\":[{\"type\":\"function\"}],\"chat_template_kwargs\":{\"a\":1}}\n"
                     "{\"prompt\":[" USER("q") "],\"chosen\":[" ASSISTANT("a") "],"
                     "\"rejected\":[" ASSISTANT("d") "],\"tools\":[],\"margin\":2}\n"));
    CHECK_HAS(notes, "\"name\" of turns (1 rows, first: line 2)");
    CHECK_HAS(notes, "i rows.jsonl: not read, as in TRL: \"margin\" (2 rows, first: line 1)");
    CHECK_HAS(notes, "\"tools\" (2 rows, first: line 2)"); /* zephyr reads none */
    CHECK_HAS(notes, "\"chat_template_kwargs\" (1 rows, first: line 2");
    data_close(&d);
    /* Plain text has no template; prompts carry columns along. */
    CHECK(!load(&d, DATA_COMPLETION,
                "{\"prompt\":\"q\",\"completion\":\"a\",\"tools\":[1],\"images\":[]}\n"));
    CHECK_HAS(notes, "w rows.jsonl: not read: \"images\"");
    CHECK_HAS(notes, "i rows.jsonl: not read, as in TRL: \"tools\" (1 rows");
    data_close(&d);
    CHECK(!load(&d, DATA_PROMPTS, "{\"prompt\":\"q\",\"level\":1,\"harmful_level\":1}\n"));
    CHECK_HAS(notes, "i rows.jsonl: not read, only taken along: \"level\" (1 rows, first: line 1)");
    data_close(&d);
    CHECK(!load(&d, DATA_PROMPTS, "{\"prompt\":\"q\",\"base_prompt\":\"q\",\"action\":\"accept\"}"
                                  "\n"));
    CHECK(!strstr(notes, "not read"));
    data_close(&d);
    /* Rows that a loop wrote have columns of its own. */
    const char *own = "{\"prompt\":\"q\",\"completion\":\"a\",\"source\":\"sample\"}\n";
    CHECK(!load_with(&d, (DataOptions){.kind = DATA_COMPLETION}, own));
    CHECK_HAS(notes, "not read, as in TRL: \"source\"");
    data_close(&d);
    CHECK(!load_with(&d, (DataOptions){.kind = DATA_COMPLETION, .own_rows = 1}, own));
    CHECK(!strstr(notes, "not read"));
    data_close(&d);
}

/* Shapes that people have: read, and counted where TRL reads them otherwise; or refused with what
 * makes them fit. */
static void shapes_of_others(void)
{
    Dataset d;
    CHECK(!load_chat(&d, DATA_COMPLETION,
                     "{\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},"
                     "{\"from\":\"gpt\",\"value\":\"a\"}]}\n"
                     "{\"conversations\":[{\"from\":\"user\",\"value\":\"q\"},"
                     "{\"from\":\"assistant\",\"value\":\"b\"}]}\n"));
    CHECK_PROMPT(d.rows[0], "<|us{262}|>\nq$\n<|assistant|>\n");
    CHECK_COMPLETION(d.rows[1], 0, "b$\n");
    CHECK(d.report.notes[ROW_RENAMED].rows == 1 && d.report.notes[ROW_RENAMED].line == 1);
    CHECK_HAS(notes, "w rows.jsonl: 1 rows with the roles human and gpt");
    CHECK(!strstr(notes, "not read"));
    data_close(&d);
    DataOptions o = {.kind = DATA_PAIRS, .chat_template = "zephyr", .map = "prompt="};
    CHECK(!load_with(&d, o,
                     "{\"prompt\":\"q\",\"chosen\":[" USER("q") "," ASSISTANT("a") "],"
                     "\"rejected\":[" USER("q") "," ASSISTANT("b") "]}\n"));
    CHECK_PROMPT(d.rows[0], "<|us{262}|>\nq$\n<|assistant|>\n");
    data_close(&d);
    CHECK(!load(&d, DATA_PAIRS, "{\"prompt\":null,\"chosen\":\"x \",\"rejected\":\"y\"}\n"));
    CHECK_PROMPT(d.rows[0], "^");
    CHECK_INT(d.report.notes[ROW_FIRST_SPACE].rows, 1);
    data_close(&d);
}

/* "finish":"length" of an answer: nothing ends it, neither the end token nor the template. */
static void cut_answers_are_taught_without_an_end(void)
{
    Dataset d;
    CHECK_OK(load(&d, DATA_UNPAIRED,
                  "{\"prompt\":\"q\",\"completion\":\"ab\",\"label\":true,\"finish\":\"length\"}\n"
                  "{\"prompt\":\"q\",\"completion\":\"ab\",\"label\":true,\"finish\":\"stop\"}\n"
                  "{\"prompt\":\"q\",\"completion\":\"ab\",\"label\":false}\n"),
             &err);
    CHECK_COMPLETION(d.rows[0], 0, "ab");
    CHECK_COMPLETION(d.rows[1], 0, "ab$");
    CHECK_COMPLETION(d.rows[2], 0, "ab$");
    CHECK_INT(d.report.notes[ROW_OPEN].rows, 1);
    CHECK_INT(d.report.notes[ROW_COPY].rows, 0);
    CHECK_HAS(notes, "i rows.jsonl: 1 rows with an answer that was cut at its limit");
    CHECK(!strstr(notes, "not read"));
    data_close(&d);
    CHECK_OK(load_chat(
                 &d, DATA_PAIRS,
                 "{\"prompt\":[" USER("q") "],\"chosen\":[" ASSISTANT(
                     "b") "],\"rejected\":[" ASSISTANT("cd") "],\"rejected_finish\":\"length\"}\n"),
             &err);
    CHECK_COMPLETION(d.rows[0], 0, "b$\n");
    CHECK_COMPLETION(d.rows[0], 1, "cd");
    data_close(&d);
    /* A whole conversation: its last answer is the one that was cut. */
    CHECK_OK(load_chat(&d, DATA_COMPLETION,
                       "{\"messages\":[" USER("q") "," ASSISTANT("a") "," USER("q") "," ASSISTANT(
                           "xy") "],\"finish\":\"length\"}\n"),
             &err);
    CHECK_COMPLETION(d.rows[0], 0, "xy");
    data_close(&d);
}

/* A content that is a list goes to the template as it is, which may go through its parts or write
 * it out; what parts spell are letters. */
static void contents_of_parts(void)
{
    static const struct {
        const char *template, *prompt;
    } cases[] = {
        {"{% for m in messages %}{% for p in m.content %}({{ p.text }}){% endfor %}{% endfor %}",
         "(q)(</s>)"},
        {"{% for m in messages %}{{ m.content }}{% endfor %}",
         "[{123}'type': 'text', 'text': 'q'}, {123}'type': 'text', 'text': '</s>'}]"},
        {"{{ messages[0].content is string }}", "False"},
    };
    const char row[] = "{\"prompt\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":"
                       "\"q\"},{\"type\":\"text\",\"text\":\"</s>\"}]}],\"completion\":["
                       "{\"role\":\"assistant\",\"content\":[\"a\"]}],\"chosen\":null}\n";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Dataset d;
        DataOptions o = {.kind = DATA_PROMPTS, .max_length = 400};
        char path[IO_PATH_MAX];
        files_write("parts.jinja", cases[i].template, strlen(cases[i].template));
        snprintf(path, sizeof path, "%s", files_path("parts.jinja"));
        o.chat_template = path;
        CHECK(!load_with(&d, o, row));
        CHECK_PROMPT(d.rows[0], cases[i].prompt);
        data_close(&d);
    }
    Dataset d;
    CHECK(load_chat(&d, DATA_COMPLETION, row)); /* a template that adds texts to texts */
    CHECK_HAS(err.text, "rows.jsonl:1: ");
}

/* Prompts are the same where all parts are; a text and a list that says the same are not. */
static void pairs_of_parts(void)
{
    static const char *const seconds[] = {"[{\"text\":\"q\"}]", "[{\"text\":\"r\"}]", "\"q\""};
    for (size_t i = 0; i < 3; i++) {
        Dataset d;
        char row[500], path[IO_PATH_MAX];
        const char template[] = "{% for m in messages %}{{ m.content }};{% endfor %}";
        DataOptions o = {.kind = DATA_PAIRS, .max_length = 400};
        files_write("parts.jinja", template, sizeof template - 1);
        snprintf(path, sizeof path, "%s", files_path("parts.jinja"));
        o.chat_template = path;
        snprintf(
            row, sizeof row,
            "{\"chosen\":[{\"role\":\"user\",\"content\":[{\"text\":\"q\"}]}," ASSISTANT(
                "a") "],\"rejected\":[{\"role\":\"user\",\"content\":%s}," ASSISTANT("b") "]}\n",
            seconds[i]);
        CHECK_INT(load_with(&d, o, row) == 0, i == 0);
        if (!i) CHECK_PROMPT(d.rows[0], "[{123}'text': 'q'}];");
        if (!i) data_close(&d);
    }
}

static void hints_for_other_shapes(void)
{
    static const struct {
        DataKind kind;
        const char *row, *part;
    } cases[] = {
        {DATA_PAIRS,
         "{\"prompt\":\"q\",\"chosen\":[" USER("q") "," ASSISTANT("a") "],\"rejected\":[" USER(
             "q") "," ASSISTANT("b") "]}\n",
         "the answers begin with the prompt, so leave it out: --map prompt="},
        {DATA_PAIRS,
         "{\"prompt\":\"q\",\"chosen\":[" ASSISTANT("a") "],\"rejected\":[" ASSISTANT("b") "]}\n",
         "make the prompt a message, too: jq"},
        {DATA_PAIRS, "{\"prompt\":[" USER("q") "],\"chosen\":{},\"rejected\":{}}\n",
         "found an object (jq -c '.chosen = [.chosen]"},
        {DATA_PAIRS, "{\"question\":\"q\",\"preferred\":\"a\",\"rejected\":\"b\"}\n",
         "(--map prompt=question,chosen=preferred)"},
        {DATA_COMPLETION, "{\"question\":\"q\",\"answer\":\"a\"}\n",
         "(--map prompt=question,completion=answer)"},
        {DATA_COMPLETION, "{\"conversations\":[" USER("q") "," ASSISTANT("a") "]}\n",
         "(--map messages=conversations)"},
        {DATA_COMPLETION, "{\"instruction\":\"i\",\"input\":\"\",\"output\":\"o\"}\n",
         "(--map prompt=instruction,completion=output)"},
        {DATA_COMPLETION, "{\"instruction\":\"i\",\"input\":\"n\",\"output\":\"o\"}\n",
         "(jq -c '{prompt: (.instruction"},
        {DATA_COMPLETION, "{\"data\":[{\"prompt\":\"q\",\"completion\":\"a\"}]}\n",
         "(its rows are in \"data\": jq -c '.\"data\"[]'"},
        {DATA_COMPLETION, "{\"a\":1,\"tools\":[{\"type\":\"function\"}]}\n",
         "it has \"a\", \"tools\""},
        {DATA_COMPLETION, "{\"prompt\":\"q\",\"chosen\":\"a\"}\n", "(--map completion=chosen)"},
        {DATA_UNPAIRED, "{\"messages\":[" USER("q") "],\"tools\":[{\"type\":\"function\"}]}\n",
         "(conversations of \"messages\" are learnt by align sft)"},
        {DATA_PROMPTS, "{\"messages\":[" USER("q") "]}\n", "(--map prompt=messages)"},
        {DATA_COMPLETION, "{\"a\":1,\"b\":2}\n", "it has \"a\", \"b\""},
        {DATA_UNPAIRED, "{\"prompt\":\"q\",\"completion\":\"a\",\"label\":\"up\"}\n",
         "found \"up\" (jq -c '.label = (.label == "},
        {DATA_UNPAIRED, "{\"prompt\":\"q\",\"completion\":\"a\",\"label\":5}\n",
         "found 5 (jq -c '.label = (.label > 0)'"},
        {DATA_PROMPTS,
         "{\"prompt\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}\n",
         "of type image_url, which cannot be read here"},
        {DATA_PROMPTS, "{\"prompt\":[{\"role\":\"critic\",\"content\":\"x\"}]}\n",
         "jq -c 'select([.. | .role?] | index(\"critic\") | not)'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Dataset d;
        CHECK(load_chat(&d, cases[i].kind, cases[i].row));
        CHECK_ERR(err, ERR_DATA, cases[i].part);
    }
}

/* More names than are kept: the last share an entry. */
static void many_unread_columns(void)
{
    Text row = {0};
    Dataset d;
    for (int i = 0; i < UNREAD_MAX + 9; i++) text_addf(&row, &err, ",\"c%d\":1", i);
    Text all = {0};
    text_addf(&all, &err, "{\"text\":\"a\"%s}\n{\"text\":\"b\"%s}\n", row.data, row.data);
    CHECK(!load(&d, DATA_COMPLETION, all.data));
    CHECK_INT(d.report.unread.n, UNREAD_MAX);
    CHECK_TEXT(d.report.unread.names[UNREAD_MAX - 1].name, "others");
    CHECK_INT(d.report.unread.names[UNREAD_MAX - 1].count.rows, 2);
    text_free(&row);
    text_free(&all);
    data_close(&d);
}

/* Control tokens spelled in rows: letters here, tokens in TRL; with parse_special BOS twice. */
static void spelled_control_tokens(void)
{
    Dataset d;
    const char *rows = "{\"prompt\":\"q\",\"chosen\":\"a <b>\",\"rejected\":\"b\"}\n"
                       "{\"prompt\":\"<s>q</s>\",\"chosen\":\"a\",\"rejected\":\"b\"}\n"
                       "{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"b</s>\"}\n";
    CHECK(!load(&d, DATA_PAIRS, rows));
    CHECK(d.report.notes[ROW_CONTROL].rows == 2 && d.report.notes[ROW_CONTROL].line == 2);
    CHECK(strstr(notes, "w rows.jsonl: 2 rows spell control tokens: they are read as letters, "
                        "where TRL reads the tokens (first: line 2) (--parse-special"));
    data_close(&d);
    DataOptions o = {.kind = DATA_PAIRS, .append_eos = 1, .parse_special = 1};
    CHECK(!load_with(&d, o, rows));
    CHECK_INT(d.report.notes[ROW_CONTROL].rows, 0);
    CHECK_INT(d.report.notes[ROW_TWO_STARTS].rows, 1);
    CHECK_HAS(notes, "begin with the start token twice");
    data_close(&d);
    CHECK(!load_chat(&d, DATA_PROMPTS, "{\"prompt\":\"a\"}\n{\"prompt\":\"b</s>\"}\n"));
    CHECK(d.report.notes[ROW_CONTROL].rows == 1 && d.report.notes[ROW_CONTROL].line == 2);
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
    CHECK_INT(d.count, 2);
    CHECK_INT(d.report.notes[ROW_LONG].rows, 1);
    CHECK_INT(d.report.notes[ROW_EMPTY].rows, 1);
    CHECK(d.report.notes[ROW_LONG].line == 1 && d.report.notes[ROW_CUT].rows == 2);
    CHECK_COMPLETION(d.rows[0], 0, "a");
    CHECK_INT(d.rows[0].n_uncut[0], 4);
    CHECK_INT(d.rows[0].completion[0][3], TINY_EOS);
    CHECK_COMPLETION(d.rows[0], 1, "b");
    CHECK_COMPLETION(d.rows[1], 0, "ab$");
    CHECK_INT(d.report.length_percentile[0], 4);
    CHECK_INT(d.report.length_percentile[4], 8);
    CHECK_HAS(notes, "1 rows left out: the prompt leaves no room");
    CHECK_HAS(notes, "answer (first: line 1) (--max-length)");
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
    CHECK_INT(d.count, 3);
    CHECK_INT(d.report.notes[ROW_SAME].rows, 1);
    CHECK_INT(d.report.notes[ROW_COPY].rows, 1);
    CHECK_HAS(notes, "rows.jsonl: 1 rows are copies of another row (first: line 3)");
    DataOptions o = {.kind = DATA_PAIRS, .append_eos = 1, .drop_identical = 1};
    CHECK(!load_with(&other, o, rows));
    CHECK_INT(other.count, 2);
    CHECK_INT(other.report.notes[ROW_SAME_DROPPED].rows, 1);
    CHECK_OK(data_overlap(&d, &other, &count, &err), &err);
    CHECK_INT(count, 2);
    data_close(&other);
    CHECK(!load(&other, DATA_PAIRS, "{\"prompt\":\"q\",\"chosen\":\"b\",\"rejected\":\"a\"}\n"));
    CHECK_OK(data_overlap(&d, &other, &count, &err), &err);
    CHECK_INT(count, 0);
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
        {DATA_UNPAIRED, "{\"prompt\":\"q\",\"completion\":\"a\",\"label\":null}\n",
         "no column \"label\" (null)"},
        {DATA_PAIRS,
         "{\"chosen\":[{\"role\":\"user\",\"content\":\"a\"}],"
         "\"rejected\":[{\"role\":\"user\",\"content\":\"b\"}]}\n",
         "have no first turn in common"},
        {DATA_PROMPTS, "{\"prompt\":[{\"role\":\"critic\",\"content\":\"a\"}]}\n",
         "\"prompt\"[0]: role must be system, user, assistant, tool, developer, ipython or "
         "function (or human or gpt), found critic"},
        {DATA_PROMPTS, "{\"prompt\":[{\"role\":\"user\",\"content\":null}]}\n",
         "\"prompt\"[0]: content must be a string or a list of parts, found null"},
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
    CHECK_INT(err.code, ERR_NO_INPUT);
}

/* ---- order --------------------------------------------------------------------------------- */

static void check_order(uint64_t seed, uint64_t epoch, const uint32_t *want, size_t n)
{
    uint32_t got[16];
    CHECK_OK(data_order(ORDER_TRL, seed, epoch, got, n, &err), &err);
    for (size_t i = 0; i < n; i++) CHECK_INT(got[i], want[i]);
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
    CHECK_OK(data_order(ORDER_SHUFFLE, 5, 0, a, 100, &err), &err);
    CHECK_OK(data_order(ORDER_SHUFFLE, 5, 0, b, 100, &err), &err);
    CHECK_OK(data_order(ORDER_SHUFFLE, 5, 1, c, 100, &err), &err);
    CHECK(!memcmp(a, b, sizeof a));
    CHECK(memcmp(a, c, sizeof a) != 0);
    for (size_t i = 0; i < 100; i++) seen[a[i]]++;
    for (size_t i = 0; i < 100; i++) CHECK_INT(seen[i], 1);
    CHECK(!data_order(ORDER_SHUFFLE, 6, 0, b, 100, &err) && memcmp(a, b, sizeof a));
    CHECK_OK(data_order(ORDER_FILE, 5, 3, b, 100, &err), &err);
    CHECK_INT(b[0], 0);
    CHECK_INT(b[99], 99);
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
    CHECK_OK(packer_add_context(&p, -1, prompt, 2, &segment, &err), &err);
    CHECK_INT(segment, 0);
    CHECK_OK(packer_add_completion(&p, segment, chosen, 3, &first, &n, &err), &err);
    CHECK_INT(first, 0);
    CHECK_INT(n, 3);
    CHECK_OK(packer_add_completion(&p, segment, rejected, 1, &first, &n, &err), &err);
    CHECK_INT(first, 3);
    CHECK_INT(n, 1);
    const Batch *b = &p.batch;
    static const int32_t ids[] = {10, 11, 20, 21}, targets[] = {20, 21, 22, 30};
    static const uint32_t rows[] = {1, 2, 3, 1};
    CHECK(b->T == 4 && !memcmp(b->ids, ids, sizeof ids));
    CHECK(b->n_scores == 4 && !memcmp(b->score_target, targets, sizeof targets));
    CHECK(!memcmp(b->score_row, rows, sizeof rows));
    CHECK_INT(b->n_segments, 2);
    CHECK_INT(b->segments[1].row, 2);
    CHECK_INT(b->segments[1].count, 2);
    CHECK_INT(b->segments[1].pos, 2);
    CHECK(b->segments[1].parent == 0 && b->segments[0].parent == -1 && !b->segments[0].past);
    CHECK_INT(b->segments[0].pos, 0);
    /* A third stretch goes on where the second ended. */
    CHECK(!packer_add_context(&p, 1, prompt, 2, &segment, &err) && segment == 2);
    CHECK_INT(p.batch.segments[2].pos, 4);
    CHECK_INT(p.batch.segments[2].row, 4);
    packer_free(&p);
}

/* Several scored stretches in one sequence; what lies behind the last one is left out. */
static void pack_stretches(void)
{
    static const int32_t prompt[] = {10}, ids[] = {20, 21, 22, 23, 24};
    static const unsigned char scored[] = {1, 0, 0, 1, 0};
    Packer p = {0};
    int segment;
    size_t first, n;
    packer_begin(&p);
    CHECK_OK(packer_add_context(&p, -1, prompt, 1, &segment, &err), &err);
    CHECK_OK(packer_add_scored(&p, segment, ids, scored, 5, &first, &n, &err), &err);
    CHECK_INT(first, 0);
    CHECK_INT(n, 2);
    CHECK_INT(p.batch.T, 4);
    CHECK_INT(p.batch.n_scores, 2);
    CHECK_INT(p.batch.score_target[0], 20);
    CHECK_INT(p.batch.score_row[0], 0);
    CHECK_INT(p.batch.score_target[1], 23);
    CHECK_INT(p.batch.score_row[1], 3);
    CHECK_OK(packer_add_scored(&p, segment, ids, scored + 1, 2, &first, &n, &err), &err);
    CHECK_INT(n, 0);
    CHECK_INT(p.batch.T, 4);
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
            CHECK_OK(packer_add_context(&p, -1, ids, i, &segment, &err), &err);
            CHECK_INT((segment < 0), (i == 0));
            CHECK_OK(packer_add_completion(&p, segment, ids, 40 - i, &first, &n, &err), &err);
            CHECK_INT(first, scores);
            CHECK_INT(n, 40 - i - (i == 0));
            scores += n;
            T += 39;
        }
        CHECK_INT(p.batch.T, T);
        CHECK_INT(p.batch.n_scores, scores);
    }
    size_t j = 0;
    for (size_t i = 0; i < 40; i++)
        for (size_t t = i == 0; t < 40 - i; t++, j++) {
            CHECK_INT(p.batch.score_target[j], (int32_t)t);
            CHECK_INT(p.batch.score_row[j], i * 39 + i + t - 1);
        }
    packer_free(&p);
}

static void pack_nothing(void)
{
    Packer p = {0};
    int segment = 5;
    size_t first, n;
    packer_begin(&p);
    CHECK_OK(packer_add_context(&p, -1, NULL, 0, &segment, &err), &err);
    CHECK_INT(segment, -1);
    CHECK_OK(packer_add_completion(&p, -1, NULL, 0, &first, &n, &err), &err);
    CHECK_INT(n, 0);
    CHECK_INT(p.batch.T, 0);
    CHECK_INT(p.batch.n_scores, 0);
    CHECK_INT(p.batch.n_segments, 0);
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
    {"a_template_reads_the_row", a_template_reads_the_row},
    {"trained_turns", trained_turns},
    {"trained_completions", trained_completions},
    {"chat_prompts", chat_prompts},
    {"a_system_message_that_is_lost", a_system_message_that_is_lost},
    {"boundary_merge", boundary_merge},
    {"end_tokens", end_tokens},
    {"unread_columns", unread_columns},
    {"refused_columns", refused_columns},
    {"spelled_marks", spelled_marks},
    {"shapes_of_others", shapes_of_others},
    {"cut_answers_are_taught_without_an_end", cut_answers_are_taught_without_an_end},
    {"contents_of_parts", contents_of_parts},
    {"pairs_of_parts", pairs_of_parts},
    {"hints_for_other_shapes", hints_for_other_shapes},
    {"many_unread_columns", many_unread_columns},
    {"spelled_control_tokens", spelled_control_tokens},
    {"lengths", lengths},
    {"equal_rows", equal_rows},
    {"faults", faults},
    {"torch_order", torch_order},
    {"shuffled_order", shuffled_order},
    {"fair_order", fair_order},
    {"pack_pair", pack_pair},
    {"pack_stretches", pack_stretches},
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
