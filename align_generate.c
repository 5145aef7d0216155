/* align_generate.c - the commands that write text: generate and chat. */
#include "align.h"
#include "generate.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* ---- options ------------------------------------------------------------------------------- */

static const Option sampling_rows[] = {
    {"max-tokens", 'n', OPTION_COUNT, "256", "[1,1048576]", "new tokens, at most"},
    {"temperature", 0, OPTION_NUMBER, "1", "[0,100]", "0 = greedy: always the most probable token"},
    {"top-k", 0, OPTION_COUNT, "0", NULL, "draw from the k most probable tokens; 0 = all"},
    {"top-p", 0, OPTION_NUMBER, "1", "[0,1]", "draw from the fewest tokens with this share"},
    {"min-p", 0, OPTION_NUMBER, "0", "[0,1]",
     "draw from tokens with at least this share of the best one's probability"},
};
const OptionGroup group_sampling = OPTION_GROUP("Sampling", sampling_rows);

static const Option prompt_rows[] = {
    {"raw", 0, OPTION_FLAG, NULL, NULL, "no chat template: continue the text after BOS"},
    {"system", 0, OPTION_TEXT, NULL, NULL, "system message, for chat templates"},
    {"chat-template", 0, OPTION_TEXT, NULL, NULL,
     "use a built-in template instead of the model's own"},
    {"parse-special", 0, OPTION_FLAG, NULL, NULL,
     "spellings of special tokens in the text become those tokens"},
};
static const OptionGroup prompt_group = OPTION_GROUP("Prompt", prompt_rows);

static const Option generate_rows[] = {
    {"prompt", 'p', OPTION_TEXT, NULL, NULL, "a prompt"},
    {"data", 0, OPTION_FILE, NULL, NULL,
     "JSONL rows {\"prompt\"}: text or a conversation; other columns are carried along"},
    {"map", 0, OPTION_TEXT, NULL, NULL, "another name of the column: prompt=question"},
    {"output", 'o', OPTION_FILE, NULL, NULL, "JSONL, a line for each prompt and sample"},
    {"samples", 0, OPTION_COUNT, "1", "[1,1048576]", "answers for each prompt"},
    {"at-once", 0, OPTION_COUNT, "32", "[1,4096]", "sequences that run together: changes no text"},
    {"json", 0, OPTION_FLAG, NULL, NULL, "with --prompt: JSONL instead of text"},
};
static const OptionGroup generate_group = OPTION_GROUP("Generate", generate_rows);
static const OptionGroup *const generate_groups[] = {
    &group_model, &group_adapter, &generate_group, &prompt_group, &group_sampling,
    &group_seed,  &group_engine,  &group_quiet,    NULL};
static const OptionTable generate_table = {
    "generate", "answers to prompts", NULL,
    "align generate -m MODEL --data prompts.jsonl -o responses.jsonl", generate_groups};

static const OptionGroup *const chat_groups[] = {
    &group_model, &group_adapter, &prompt_group, &group_sampling,
    &group_seed,  &group_engine,  &group_quiet,  NULL};
static const OptionTable chat_table = {"chat", "interactive conversation", NULL,
                                       "align chat -m MODEL --adapter RUN/adapter", chat_groups};

GenerateOptions sampling_from(const Options *o)
{
    GenerateOptions g = generate_defaults();
    g.max_tokens = (size_t)option_count(o, "max-tokens");
    g.temperature = option_number(o, "temperature");
    g.top_k = (size_t)option_count(o, "top-k");
    g.top_p = option_number(o, "top-p");
    g.min_p = option_number(o, "min-p");
    g.seed = option_count(o, "seed");
    return g;
}

static Generator generator_of(Engine *g, const GenerateOptions *options)
{
    return (Generator){.model = &g->model,
                       .lora = g->adapter,
                       .tokenizer = g->tokenizer,
                       .compute = &g->compute,
                       .options = *options};
}

/* ---- conversations ------------------------------------------------------------------------- */

/* How texts become prompts: rendered by a chat template, or plain (template NULL). */
typedef struct {
    const Tokenizer *tokenizer;
    const ChatTemplate *chat_template;
    int flags; /* TOKENIZE_SPECIAL */
} Reading;

static int reading_open(Reading *r, const Engine *g, const Options *o, Err *e)
{
    size_t len;
    const char *name = option_text(o, "chat-template");
    *r = (Reading){.tokenizer = g->tokenizer,
                   .flags = option_flag(o, "parse-special") ? TOKENIZE_SPECIAL : 0};
    if (option_flag(o, "raw")) return 0;
    if (!name && !tokenizer_chat_template(g->tokenizer, &len)) return 0;
    r->chat_template = chat_find(g->tokenizer, name, e);
    return r->chat_template ? 0 : -1;
}

/* Ids of a conversation that waits for an answer. Without a template: all contents, line by line.
 */
static int reading_encode(const Reading *r, const ChatMessage *m, size_t n, Ids *ids, Err *e)
{
    ids->count = 0;
    if (r->chat_template)
        return chat_encode(r->chat_template, r->tokenizer, m, n, 1, r->flags, ids, e);
    Text all = {0};
    int status = 0;
    for (size_t i = 0; i < n && !status; i++) {
        status = text_add(&all, m[i].content, m[i].content_len, e);
        if (!status && i + 1 < n) status = text_add(&all, "\n", 1, e);
    }
    if (!status)
        status = tokenizer_encode(r->tokenizer, all.data ? all.data : "", all.len,
                                  TOKENIZE_ADD | r->flags, ids, e);
    text_free(&all);
    return status;
}

/* ---- align generate ------------------------------------------------------------------------ */

/* Where answers go, and what their rows are made with. */
typedef struct {
    const Tokenizer *tokenizer;
    const Row *rows;
    const char *prompt_column;
    Output out;
    Text line;
    Progress progress;
    size_t done, total;
    uint64_t tokens;
    int plain; /* the text alone */
} Answers;

static int answer_done(void *ctx, const Continuation *c, Err *e)
{
    Answers *a = ctx;
    const Row *row = &a->rows[c->prompt];
    a->line.len = 0;
    int status = a->plain ? tokenizer_decode(a->tokenizer, c->ids, c->count, 1, &a->line, e)
                          : generate_put_row(&a->line, a->tokenizer, row->index, row->source,
                                             a->prompt_column, c, e);
    if (status || text_add(&a->line, "\n", 1, e) ||
        output_put(&a->out, a->line.data, a->line.len, e))
        return -1;
    a->tokens += c->count;
    progress_show(&a->progress, ++a->done, a->total, a->tokens, NULL);
    return 0;
}

/* Answers all rows. */
static int answer_rows(Answers *a, Engine *g, const Options *o, const Row *rows, size_t n, Err *e)
{
    GenerateOptions options = sampling_from(o);
    options.samples = (size_t)option_count(o, "samples");
    options.at_once = (size_t)option_count(o, "at-once");
    Generator generator = generator_of(g, &options);
    GenerateSink sink = {a, answer_done, NULL};
    Prompt *prompts = mem_calloc(n, sizeof *prompts, e);
    if (!prompts) return -1;
    for (size_t i = 0; i < n; i++)
        prompts[i] = (Prompt){rows[i].prompt, rows[i].n_prompt, rows[i].index};
    a->rows = rows;
    a->total = n * options.samples;
    progress_begin(&a->progress, "generate", "tokens");
    int status = generate_run(&generator, prompts, n, &sink, e);
    progress_end(&a->progress);
    mem_free(prompts);
    return status;
}

static int answer_prompt(Answers *a, Engine *g, const Options *o, Err *e)
{
    const char *text = option_text(o, "prompt"), *system = option_text(o, "system");
    ChatMessage messages[2];
    size_t n = 0;
    Reading reading;
    Ids ids = {0};
    if (reading_open(&reading, g, o, e)) return -1;
    if (system && reading.chat_template)
        messages[n++] = (ChatMessage){"system", system, strlen(system)};
    messages[n++] = (ChatMessage){"user", text, strlen(text)};
    Json prompt = {.type = JSON_STRING,
                   .text = text,
                   .len = strlen(text),
                   .key = "prompt",
                   .key_len = strlen("prompt")};
    Json source = {.type = JSON_OBJECT, .len = 1, .child = &prompt};
    int status = reading_encode(&reading, messages, n, &ids, e);
    Row row = {.prompt = ids.ids, .n_prompt = ids.count, .source = &source};
    if (!status) status = answer_rows(a, g, o, &row, 1, e);
    ids_free(&ids);
    return status;
}

/* The column that --map names as the prompt, into out; "prompt" without. */
static void prompt_column(const char *map, char *out, size_t size)
{
    static const char name[] = "prompt=";
    snprintf(out, size, "prompt");
    for (const char *at = map; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (!strncmp(at, name, sizeof name - 1))
            snprintf(out, size, "%.*s", (int)strcspn(at + sizeof name - 1, ","),
                     at + sizeof name - 1);
    }
}

static int answer_file(Answers *a, Engine *g, const Options *o, Err *e)
{
    char column[128];
    Dataset data = {0};
    DataOptions rows = row_options(o, DATA_PROMPTS);
    rows.max_length = g->model.config.max_positions;
    rows.raw = option_flag(o, "raw");
    rows.system = option_text(o, "system");
    prompt_column(option_text(o, "map"), column, sizeof column);
    a->prompt_column = column;
    int status = data_load(&data, option_text(o, "data"), &rows, g->tokenizer, notes(), e);
    if (!status) {
        data_describe(&data, notes());
        status = answer_rows(a, g, o, data.rows, data.count, e);
    }
    data_close(&data);
    return status;
}

static int generate_command(const Options *o, Err *e)
{
    int single = option_text(o, "prompt") != NULL;
    if (single == (option_text(o, "data") != NULL))
        return err_set(e, ERR_USAGE,
                       "--prompt TEXT or --data FILE is needed, and only one of them");
    Engine g = {0};
    Answers a = {.prompt_column = "prompt"};
    a.plain = single && !option_text(o, "output") && !option_flag(o, "json");
    int status = output_open(&a.out, option_text(o, "output"), e);
    if (!status) status = engine_open(&g, o, e);
    a.tokenizer = g.tokenizer;
    if (!status) status = single ? answer_prompt(&a, &g, o, e) : answer_file(&a, &g, o, e);
    if (!status) status = output_commit(&a.out, e);
    output_abort(&a.out);
    text_free(&a.line);
    engine_close(&g);
    return status;
}

const Command command_generate = {&generate_table, generate_command};

/* ---- align chat ---------------------------------------------------------------------------- */

/* A conversation: contents in a pool of their own, newest last. */
typedef struct {
    ChatMessage *messages;
    size_t count, cap;
    size_t fixed; /* messages that stay: the system message */
    Pool pool;
} History;

static int history_add(History *h, const char *role, const char *text, size_t len, Err *e)
{
    if (h->count == h->cap) {
        size_t cap = h->cap ? 2 * h->cap : 16;
        ChatMessage *more = mem_realloc(h->messages, cap * sizeof *more, e);
        if (!more) return -1;
        h->messages = more;
        h->cap = cap;
    }
    const char *copy = pool_strndup(&h->pool, text, len, e);
    if (!copy) return -1;
    h->messages[h->count++] = (ChatMessage){role, copy, len};
    return 0;
}

/* Forgets the oldest question and its answer. */
static void history_drop(History *h)
{
    memmove(h->messages + h->fixed, h->messages + h->fixed + 2,
            (h->count - h->fixed - 2) * sizeof *h->messages);
    h->count -= 2;
}

/* One line of standard input without its end; 1, or 0 at the end or after Ctrl-C. */
static int read_line(Text *line, Err *e)
{
    line->len = 0;
    if (text_add(line, "", 0, e)) return -1;
    for (;;) {
        char c;
        ssize_t n = read(STDIN_FILENO, &c, 1);
        if (n < 0 && errno == EINTR && !stop_requested) continue;
        if (n <= 0) return !stop_requested && line->len > 0;
        if (c == '\n') return 1;
        if (text_add(line, &c, 1, e)) return -1;
    }
}

/* An answer while it is written: shown, and kept for the history. */
static int answer_text(void *ctx, const char *bytes, size_t len, Err *e)
{
    Text *answer = ctx;
    if (fwrite(bytes, 1, len, stdout) != len || fflush(stdout)) return stdout_failed(e);
    return text_add(answer, bytes, len, e);
}

/* Asks the model with all that was said; the oldest turns go where the context is full. */
static int chat_answer(const Generator *g, const Reading *r, History *h, size_t turn, Text *answer,
                       Err *e)
{
    Ids ids = {0};
    size_t context = g->model->config.max_positions, dropped = 0;
    size_t room = g->options.max_tokens < context / 2 ? g->options.max_tokens : context / 2;
    int status = reading_encode(r, h->messages, h->count, &ids, e);
    while (!status && ids.count + room > context && h->count >= h->fixed + 3) {
        history_drop(h);
        dropped++;
        status = reading_encode(r, h->messages, h->count, &ids, e);
    }
    if (dropped)
        log_note(notes(), 'i', "the context is full: %zu old turns are forgotten", dropped);
    GenerateFinish finish;
    Prompt prompt = {ids.ids, ids.count, turn};
    answer->len = 0;
    if (!status) status = generate_stream(g, &prompt, answer_text, answer, NULL, &finish, e);
    if (!status && finish == GENERATE_LENGTH) log_note(notes(), 'i', "cut at --max-tokens");
    ids_free(&ids);
    if (!status || e->code != ERR_INTERRUPTED) return status;
    stop_requested = 0; /* Ctrl-C ends the answer, not the conversation */
    return 0;
}

static int chat_turns(const Generator *g, const Reading *r, History *h, Err *e)
{
    Text line = {0}, answer = {0};
    int status = 0, more = 1;
    for (size_t turn = 0; !status; turn++) {
        if (isatty(STDIN_FILENO)) fprintf(stderr, "> ");
        more = read_line(&line, e);
        if (more <= 0) break;
        if (!strcmp(line.data, "/exit")) break;
        if (!line.len) continue;
        if (!strcmp(line.data, "/reset")) {
            h->count = h->fixed;
            continue;
        }
        status = history_add(h, "user", line.data, line.len, e) ||
                 chat_answer(g, r, h, turn, &answer, e) ||
                 history_add(h, "assistant", answer.data ? answer.data : "", answer.len, e);
        if (!status && (fputc('\n', stdout) == EOF || fflush(stdout))) status = stdout_failed(e);
    }
    stop_requested = 0;
    text_free(&line);
    text_free(&answer);
    return status || more < 0 ? -1 : 0;
}

static int chat_command(const Options *o, Err *e)
{
    Engine g = {0};
    History h = {0};
    Reading reading;
    const char *system = option_text(o, "system");
    GenerateOptions options = sampling_from(o);
    int status = engine_open(&g, o, e);
    if (!status) status = reading_open(&reading, &g, o, e);
    if (!status && system && reading.chat_template) {
        status = history_add(&h, "system", system, strlen(system), e);
        h.fixed = h.count;
    }
    if (!status) {
        if (!reading.chat_template)
            log_note(notes(), 'i', "no chat template: the model continues the text");
        log_note(notes(), 'i', "/reset begins anew, /exit ends, Ctrl-C stops an answer");
        Generator generator = generator_of(&g, &options);
        status = chat_turns(&generator, &reading, &h, e);
    }
    mem_free(h.messages);
    pool_free(&h.pool);
    engine_close(&g);
    return status;
}

const Command command_chat = {&chat_table, chat_command};
