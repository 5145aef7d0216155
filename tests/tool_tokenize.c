/* tool_tokenize.c - the tokenizer by itself, for tools/check_tokenizer.py and tools/check_chat.py.
 *
 *   tokenize -m MODEL --data IN.jsonl -o OUT.jsonl [--parse-special] [--no-special]
 *       {"text"} -> {"index","ids"}, as `align tokenize` does
 *   tokenize --decode [--skip-special] ...     {"ids"} -> {"index","text"}; streams each row, too,
 *       and fails where the stream gives another text or takes back what it gave
 *   tokenize --chat [--template NAME] ...      {"messages","add_generation_prompt"} ->
 *       {"index","ids","text"} or {"index","error"}
 */
#include "base.h"

#include "chat.h"
#include "io.h"
#include "json.h"
#include "tokenizer.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    const char *model, *data, *out, *template_name;
    int decode, chat, skip_special, flags;
} Options;

static int options_read(Options *o, int argc, char **argv)
{
    *o = (Options){.flags = TOKENIZE_ADD};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(a, "tokenize")) continue; /* so that both commands can be called alike */
        if (!strcmp(a, "--parse-special"))
            o->flags |= TOKENIZE_SPECIAL;
        else if (!strcmp(a, "--no-special"))
            o->flags &= ~TOKENIZE_ADD;
        else if (!strcmp(a, "--decode"))
            o->decode = 1;
        else if (!strcmp(a, "--skip-special"))
            o->skip_special = 1;
        else if (!strcmp(a, "--chat"))
            o->chat = 1;
        else if (!value)
            return -1;
        else if (!strcmp(a, "-m"))
            o->model = argv[++i];
        else if (!strcmp(a, "--data"))
            o->data = argv[++i];
        else if (!strcmp(a, "-o"))
            o->out = argv[++i];
        else if (!strcmp(a, "--template"))
            o->template_name = argv[++i];
        else
            return -1;
    }
    return o->model && o->data && o->out ? 0 : -1;
}

static int put_ids(Text *line, const Ids *ids, Err *e)
{
    if (text_addf(line, e, ",\"ids\":[")) return -1;
    for (size_t i = 0; i < ids->count; i++)
        if (text_addf(line, e, i ? ",%ld" : "%ld", (long)ids->ids[i])) return -1;
    return text_addf(line, e, "]");
}

static int put_text(Text *line, const char *key, const char *text, size_t len, Err *e)
{
    if (text_addf(line, e, ",\"%s\":", key)) return -1;
    return json_put_string(line, text ? text : "", len, e);
}

/* {"text"} -> ids */
static int row_encode(const Options *o, const Tokenizer *t, const Json *row, Text *line, Err *e)
{
    const Json *text = json_get(row, "text");
    Ids ids = {0};
    if (!text || text->type != JSON_STRING) return err_set(e, ERR_DATA, "row without \"text\"");
    int failed =
        tokenizer_encode(t, text->text, text->len, o->flags, &ids, e) || put_ids(line, &ids, e);
    ids_free(&ids);
    return failed;
}

/* The same ids one by one: what comes out must only ever grow, to the same text. */
static int check_stream(const Options *o, const Tokenizer *t, const Ids *ids, const Text *whole,
                        Err *e)
{
    Decoder d;
    Text got = {0};
    int failed = 0;
    decoder_begin(&d, t, o->skip_special);
    for (size_t i = 0; i < ids->count && !failed; i++)
        failed = decoder_put(&d, ids->ids[i], &got, e);
    if (!failed &&
        (got.len > whole->len || utf8_check(got.data ? got.data : "", got.len) < got.len))
        failed = err_set(e, ERR_CHECK, "the stream is ahead of the text, or cut a character");
    failed = failed || decoder_flush(&d, &got, e);
    if (!failed && (got.len != whole->len || (got.len && memcmp(got.data, whole->data, got.len))))
        failed = err_set(e, ERR_CHECK, "streamed text differs: %.200s", got.data);
    decoder_free(&d);
    text_free(&got);
    return failed;
}

/* {"ids"} -> text */
static int row_decode(const Options *o, const Tokenizer *t, const Json *row, Text *line, Err *e)
{
    const Json *list = json_get(row, "ids");
    Ids ids = {0};
    Text text = {0};
    int failed = 0;
    for (const Json *j = list ? list->child : NULL; j && !failed; j = j->next) {
        int64_t id = -1;
        failed = json_i64(j, &id) || ids_add(&ids, (int32_t)id, e);
    }
    failed = failed || tokenizer_decode(t, ids.ids, ids.count, o->skip_special, &text, e) ||
             check_stream(o, t, &ids, &text, e) || put_text(line, "text", text.data, text.len, e);
    ids_free(&ids);
    text_free(&text);
    return failed;
}

#define MESSAGES_MAX 64

/* {"messages"} -> ids and text, or the reason why not */
static int row_chat(const Options *o, const Tokenizer *t, const Json *row, Text *line, Err *e)
{
    ChatMessage m[MESSAGES_MAX];
    size_t n = 0;
    const Json *list = json_get(row, "messages"), *prompt = json_get(row, "add_generation_prompt");
    for (const Json *j = list ? list->child : NULL; j && n < MESSAGES_MAX; j = j->next, n++) {
        const Json *content = json_get(j, "content");
        m[n] = chat_message(json_get(j, "role")->text, content->text, content->len);
    }
    Ids ids = {0};
    Text text = {0};
    int add = prompt && prompt->type == JSON_TRUE;
    ChatTemplate *c = chat_open(t, o->template_name, "2024-07-26", e);
    const Chat chat = {m, n, add, NULL};
    int failed = !c || chat_render(c, t, &chat, &text, e) ||
                 chat_encode(c, t, &chat, o->flags, &ids, NULL, e);
    chat_close(c);
    if (failed)
        failed = put_text(line, "error", e->text, strlen(e->text), e);
    else
        failed = put_ids(line, &ids, e) || put_text(line, "text", text.data, text.len, e);
    ids_free(&ids);
    text_free(&text);
    return failed;
}

static int run(const Options *o, Err *e)
{
    JsonLines rows;
    Writer w = {0};
    Tokenizer *t = tokenizer_load(o->model, NULL, e);
    if (!t || jsonl_open(&rows, o->data, e) || writer_open(&w, o->out, e)) return -1;
    int more = 0;
    for (size_t index = 0;; index++) {
        Pool pool = {0};
        Text line = {0};
        Json *row;
        more = jsonl_next(&rows, &pool, &row, e);
        if (more == 1) {
            int failed = text_addf(&line, e, "{\"index\":%zu", index) ||
                         (o->decode ? row_decode
                          : o->chat ? row_chat
                                    : row_encode)(o, t, row, &line, e) ||
                         text_add(&line, "}\n", 2, e) || writer_put(&w, line.data, line.len, e);
            if (failed) more = err_prefix(e, "row %zu", index);
        }
        text_free(&line);
        pool_free(&pool);
        if (more != 1) break;
    }
    jsonl_close(&rows);
    tokenizer_free(t);
    if (more < 0) {
        writer_abort(&w);
        return -1;
    }
    return writer_commit(&w, e);
}

int main(int argc, char **argv)
{
    Options o;
    Err e = {0};
    if (options_read(&o, argc, argv)) {
        fprintf(stderr, "usage: see the head of tests/tool_tokenize.c\n");
        return ERR_USAGE;
    }
    if (!run(&o, &e)) return 0;
    fprintf(stderr, "%s\n", e.text);
    return e.code ? e.code : ERR_INTERNAL;
}
