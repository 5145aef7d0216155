/* align_generate.c - align generate and align chat: the commands that write text. */
#include "align.h"
#include "generate.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* ---- options ------------------------------------------------------------------------------- */

static const Option prompt_rows[] = {
    RAW_ROWS(DataOptions),
    CHAT_TEMPLATE_ROW(FIELD(DataOptions, chat_template)),
    DATE_ROW("today", FIELD(DataOptions, date), .when = "!raw"),
    PARSE_SPECIAL_ROW(FIELD(DataOptions, parse_special)),
};
static const OptionGroup prompt_group = OPTION_GROUP("Prompt", prompt_rows);

static const Option generate_rows[] = {
    {"prompt", 'p', OPTION_TEXT, NULL, NULL, "a prompt", BY_NAME},
    {"data", 0, OPTION_FILE, NULL, NULL,
     "JSONL rows {\"prompt\"}, a text or a conversation; other columns are kept", BY_NAME},
    {"map", 0, OPTION_TEXT, NULL, NULL, "another name of the column: prompt=question", BY_NAME,
     .when = "data"},
    {"output", 'o', OPTION_FILE, NULL, NULL, "JSONL, a line for each prompt and sample", BY_NAME},
    SAMPLES_ROW(GenerateOptions, samples, "1", "answers for each prompt"),
    AT_ONCE_ROW(GenerateOptions, at_once),
    {"json", 0, OPTION_FLAG, NULL, NULL, "with --prompt: JSONL instead of text", BY_NAME},
};
static const OptionGroup generate_group = OPTION_GROUP("Generate", generate_rows);
static const OptionGroup *const generate_groups[] = {
    &model_options, &adapter_options, &generate_group, &prompt_group, &sampling_options,
    &seed_options,  &engine_options,  &group_quiet,    NULL};
static const OptionTable generate_table = {
    "generate", "answers to prompts", NULL,
    "align generate -m MODEL --data prompts.jsonl -o responses.jsonl", generate_groups,
    "model adapter prompt data output samples max-tokens temperature top-p stop raw "
    "system chat-template seed precision"};

static const OptionGroup *const chat_groups[] = {
    &model_options, &adapter_options, &prompt_group, &sampling_options,
    &seed_options,  &engine_options,  &group_quiet,  NULL};
static const OptionTable chat_table = {"chat", "interactive conversation", NULL,
                                       "align chat -m MODEL --adapter RUN/adapter", chat_groups,
                                       "model adapter system max-tokens temperature top-k top-p "
                                       "stop raw chat-template seed precision threads"};

static GenerateOptions sampling_from(const Options *o)
{
    GenerateOptions g = generate_defaults();
    options_fill(o, &sampling_options, &g);
    options_fill(o, &generate_group, &g);
    g.seed = option_count(o, "seed");
    return g;
}

/* ---- conversations ------------------------------------------------------------------------- */

/* Turns texts into prompts, rendered by a chat template or plain (template NULL). */
typedef struct {
    const Tokenizer *tokenizer;
    ChatTemplate *chat_template; /* to be closed by whoever opened the reading */
    int flags;                   /* TOKENIZE_SPECIAL */
} Reading;

/* --raw asks for text without a template, so what a template would say has no place. */
static int check_raw(const Options *o, Err *e)
{
    if (option_flag(o, "raw") && (option_text(o, "chat-template") || option_text(o, "system")))
        return err_set(e, ERR_USAGE, "--raw takes no --chat-template and no --system");
    return 0;
}

/* Is there a template to render with? A system message would be lost without one. */
static int find_template(const Engine *g, const Options *o, int *has, Err *e)
{
    *has = !option_flag(o, "raw") && chat_exists(g->tokenizer, option_text(o, "chat-template"));
    if (*has || !option_text(o, "system")) return 0;
    return err_set(e, ERR_USAGE,
                   "--system: %s has no chat template, and plain text has no system message; name "
                   "a template with --chat-template, or put the text into the prompt",
                   option_text(o, "model"));
}

static int reading_open(Reading *r, const Engine *g, const Options *o, Err *e)
{
    int has;
    *r = (Reading){.tokenizer = g->tokenizer,
                   .flags = option_flag(o, "parse-special") ? TOKENIZE_SPECIAL : 0};
    if (find_template(g, o, &has, e)) return -1;
    if (has && !(r->chat_template = chat_open(g->tokenizer, option_text(o, "chat-template"),
                                              option_text(o, "date"), e)))
        return -1;
    chat_check(r->chat_template, g->tokenizer, option_text(o, "system") != NULL, notes());
    chat_check_adapter(r->chat_template, option_text(o, "adapter"), notes());
    return 0;
}

/* Encodes a conversation that waits for an answer. Without a template: all contents, line by line.
 */
static int reading_encode(const Reading *r, const ChatMessage *m, size_t n, Ids *ids, Err *e)
{
    ids->count = 0;
    if (r->chat_template)
        return chat_encode(r->chat_template, r->tokenizer, &(Chat){m, n, 1, NULL}, r->flags, ids,
                           NULL, e);
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

/* The output of answers, and what is needed to write their rows. */
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
    int status = a->plain ? generate_text(a->tokenizer, c, &a->line, e)
                          : generate_put_row(&a->line, a->tokenizer, row->index, row->source,
                                             a->prompt_column, c, e);
    if (status || text_add(&a->line, "\n", 1, e) ||
        output_put(&a->out, a->line.data, a->line.len, e))
        return -1;
    a->tokens += c->count;
    progress_show(&a->progress, ++a->done, a->total, a->tokens, NULL);
    return 0;
}

/* Warns if a text spells control tokens, which are read as letters. */
static int note_spelled(const Reading *r, const ChatMessage *m, size_t n, const Ids *read, Err *e)
{
    Reading special = *r;
    Ids ids = {0};
    special.flags = TOKENIZE_SPECIAL;
    const char *mark = NULL;
    for (size_t i = 0; r->chat_template && i < n && !mark; i++)
        mark = chat_spelled(r->chat_template, m[i].content, m[i].content_len);
    if (mark)
        log_note(notes(), 'w',
                 "the text spells %s, which the chat template writes in letters, too: it reads as "
                 "the template's own",
                 mark);
    int status = r->flags ? 0 : reading_encode(&special, m, n, &ids, e);
    if (!status && !r->flags &&
        (ids.count != read->count || memcmp(ids.ids, read->ids, ids.count * sizeof *ids.ids)))
        log_note(notes(), 'w',
                 "the text spells control tokens: they are read as letters, %zu tokens in all "
                 "(--parse-special reads them as tokens: %zu)",
                 read->count, ids.count);
    ids_free(&ids);
    return status;
}

/* Answers all rows, which `chat` rendered (NULL = plain text). */
static int answer_rows(Answers *a, Engine *g, const Options *o, const ChatTemplate *chat,
                       const Row *rows, size_t n, Err *e)
{
    GenerateOptions options = sampling_from(o);
    Generator generator = generate_with(g, chat, &options);
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
        messages[n++] = chat_message("system", system, strlen(system));
    messages[n++] = chat_message("user", text, strlen(text));
    Json prompt = {.type = JSON_STRING,
                   .text = text,
                   .len = strlen(text),
                   .key = "prompt",
                   .key_len = strlen("prompt")};
    Json source = {.type = JSON_OBJECT, .len = 1, .child = &prompt};
    int status = reading_encode(&reading, messages, n, &ids, e) ||
                 note_spelled(&reading, messages, n, &ids, e);
    Row row = {.prompt = ids.ids, .n_prompt = ids.count, .source = &source};
    if (!status) status = answer_rows(a, g, o, reading.chat_template, &row, 1, e);
    ids_free(&ids);
    chat_close(reading.chat_template);
    return status;
}

/* Writes the column that --map names as the prompt to out; "prompt" without --map. */
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
    int has;
    Dataset data = {0};
    DataOptions rows = {.kind = DATA_PROMPTS};
    options_fill(o, &prompt_group, &rows);
    if (find_template(g, o, &has, e)) return -1;
    rows.max_length = g->model.config.max_positions;
    rows.map = option_text(o, "map");
    prompt_column(option_text(o, "map"), column, sizeof column);
    a->prompt_column = column;
    int status = data_load(&data, option_text(o, "data"), &rows, g->tokenizer, notes(), e);
    if (!status) {
        data_describe(&data, notes());
        chat_check(data.chat, g->tokenizer, rows.system != NULL, notes());
        chat_check_adapter(data.chat, option_text(o, "adapter"), notes());
        status = answer_rows(a, g, o, data.chat, data.rows, data.count, e);
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
    if (check_raw(o, e)) return -1;
    Engine g = {0};
    Answers a = {.prompt_column = "prompt"};
    a.plain = single && !option_text(o, "output") && !option_flag(o, "json");
    int status = output_open(&a.out, option_text(o, "output"), e);
    if (!status) status = engine_from(&g, o, e);
    a.tokenizer = g.tokenizer;
    if (!status) generate_tell(&g, notes());
    if (!status) status = single ? answer_prompt(&a, &g, o, e) : answer_file(&a, &g, o, e);
    if (!status) status = engine_check(&g, e);
    if (!status) status = output_commit(&a.out, e);
    output_abort(&a.out);
    text_free(&a.line);
    engine_close(&g);
    return status;
}

const Command command_generate = {&generate_table, generate_command};

/* ---- align chat ---------------------------------------------------------------------------- */

/* A conversation, whose contents are in a pool of their own, newest last. */
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
    h->messages[h->count++] = chat_message(role, copy, len);
    return 0;
}

/* Forgets the oldest question and its answer. */
static void history_drop(History *h)
{
    memmove(h->messages + h->fixed, h->messages + h->fixed + 2,
            (h->count - h->fixed - 2) * sizeof *h->messages);
    h->count -= 2;
}

/* Reads one line of standard input without its line feed; 1, or 0 at the end or after Ctrl-C. */
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

/* An answer being written: it is shown, and kept for the history. */
typedef struct {
    Output out;
    Text text;
} Answer;

static int answer_text(void *ctx, const char *bytes, size_t len, Err *e)
{
    Answer *answer = ctx;
    if (output_put(&answer->out, bytes, len, e)) return -1;
    return fflush(stdout) ? stdout_failed(e) : text_add(&answer->text, bytes, len, e);
}

/* Asks the model with the whole conversation; the oldest turns are dropped if the context is
 * full. */
static int chat_answer(const Generator *g, const Reading *r, History *h, size_t turn,
                       Answer *answer, Err *e)
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
    answer->text.len = 0;
    if (!status) status = generate_stream(g, &prompt, answer_text, answer, NULL, &finish, e);
    if (output_flush(&answer->out, e) && !status) status = -1;
    if (!status && finish == GENERATE_LENGTH) log_note(notes(), 'i', "cut at --max-tokens");
    ids_free(&ids);
    if (!status || e->code != ERR_INTERRUPTED) return status;
    stop_requested = 0; /* Ctrl-C ends the answer, not the conversation */
    return 0;
}

static int chat_turns(const Engine *engine, const Generator *g, const Reading *r, History *h,
                      Err *e)
{
    Text line = {0};
    Answer answer = {.text = {0}};
    int status = output_open(&answer.out, NULL, e), more = 1;
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
                 chat_answer(g, r, h, turn, &answer, e) || engine_check(engine, e) ||
                 history_add(h, "assistant", answer.text.data ? answer.text.data : "",
                             answer.text.len, e);
        if (!status && (fputc('\n', stdout) == EOF || fflush(stdout))) status = stdout_failed(e);
    }
    stop_requested = 0;
    text_free(&line);
    text_free(&answer.text);
    return status || more < 0 ? -1 : 0;
}

static int chat_command(const Options *o, Err *e)
{
    Engine g = {0};
    History h = {0};
    Reading reading = {.flags = 0};
    const char *system = option_text(o, "system");
    GenerateOptions options = sampling_from(o);
    int status = check_raw(o, e) || engine_from(&g, o, e);
    if (!status) generate_tell(&g, notes());
    if (!status) status = reading_open(&reading, &g, o, e);
    if (!status && system && reading.chat_template) {
        status = history_add(&h, "system", system, strlen(system), e);
        h.fixed = h.count;
    }
    if (!status) {
        if (!reading.chat_template)
            log_note(notes(), 'i', "no chat template: the model continues the text");
        log_note(notes(), 'i', "/reset begins anew, /exit ends, Ctrl-C stops an answer");
        Generator generator = generate_with(&g, reading.chat_template, &options);
        status = chat_turns(&g, &generator, &reading, &h, e);
    }
    chat_close(reading.chat_template);
    mem_free(h.messages);
    pool_free(&h.pool);
    engine_close(&g);
    return status;
}

const Command command_chat = {&chat_table, chat_command};
