/* fault_words.c - every allocation of the tokenizer and of chat fails once: each must be noticed,
 * reported as out of memory, leak nothing and leave what the caller had as it was.
 */
#include "base.h"

#include "chat.h"
#include "faults.h"
#include "tokenizer.h"
#include "tokenizers.h"

#define CONFIG                                                                                     \
    "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},\"chat_template\":\"x\"}"

/* Ids of a text and their text again; ids that were there before an error must be there after. */
static int there_and_back(const Tokenizer *t, Err *e)
{
    static const char text[] =
        "ab ab</s> \xc3\xa9 [X]ab" BAR "  aaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    Ids ids = {0};
    Text back = {0};
    int r = ids_add(&ids, 3, e);
    if (r == 0 && tokenizer_encode(t, text, sizeof text - 1, TOKENIZE_ADD, &ids, e)) {
        r = ids.count == 1 && ids.ids[0] == 3 ? -1 : err_set(e, ERR_CHECK, "ids changed");
    }
    r = r || tokenizer_encode(t, text, sizeof text - 1, TOKENIZE_SPECIAL, &ids, e);
    if (r == 0 && tokenizer_decode(t, ids.ids, ids.count, 0, &back, e)) {
        r = back.len == 0 ? -1 : err_set(e, ERR_CHECK, "text changed");
    }
    ids_free(&ids);
    text_free(&back);
    return r;
}

static int load_and_use(const char *json, Err *e)
{
    Tokenizer *t = tokenizer_parse(json, strlen(json), "t.json", CONFIG, strlen(CONFIG), NULL, e);
    if (!t) return -1;
    int r = there_and_back(t, e);
    tokenizer_free(t);
    return r;
}

static int sentencepiece_scenario(Err *e)
{
    return load_and_use(json_sentencepiece(LEGACY), e);
}

static int metaspace_scenario(Err *e)
{
    return load_and_use(json_sentencepiece(METASPACE("first")), e);
}

/* A text whose marks are sorted and composed. */
static int composed_scenario(Err *e)
{
    static const char json[] =
        "{\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":"
        "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"\u00c3\":1,\"\u00a1\":2},\"merges\":[]}}";
    Tokenizer *t = tokenizer_parse(json, strlen(json), "t.json", NULL, 0, NULL, e);
    Ids ids = {0};
    int r = !t || tokenizer_encode(t, "a\xcc\x81", 3, 0, &ids, e);
    if (!r && ids.count != 2) r = err_set(e, ERR_CHECK, "%zu ids", ids.count);
    ids_free(&ids);
    tokenizer_free(t);
    return r ? -1 : 0;
}

static int chat_scenario(Err *e)
{
    const ChatMessage m[] = {chat_message("system", "S", 1), chat_message("user", "ab", 2),
                             chat_message("assistant", "b", 1)};
    const Chat chat = {m, 3, 1, NULL};
    const char *json = json_sentencepiece(METASPACE("first"));
    Tokenizer *t = tokenizer_parse(json, strlen(json), "t.json", CONFIG, strlen(CONFIG), NULL, e);
    ChatTemplate *c = t ? chat_open(t, "mistral-v1", "2000-01-01", e) : NULL;
    Ids ids = {0};
    Text text = {0};
    int r = !c || chat_encode(c, t, &chat, 0, &ids, NULL, e) || chat_render(c, t, &chat, &text, e);
    chat_close(c);
    ids_free(&ids);
    text_free(&text);
    tokenizer_free(t);
    return r ? -1 : 0;
}

/* Every allocation fails, alone and with all that come after it. */
static void fail_each(Scenario scenario)
{
    static const char *const variables[] = {"FAULT_ALLOC", "FAULT_ALLOC_FROM"};
    CHECK_INT(fault_child(scenario, NULL, NULL), 0);
    for (int v = 0; v < 2; v++) {
        const Faults f = {scenario, variables[v], "%d", fault_memory, NULL, NULL, 1, 0, 8};
        CHECK(fault_each(&f) >= 8 + f.clean); /* eight allocations at least */
    }
}

static void sentencepiece(void)
{
    fail_each(sentencepiece_scenario);
}

static void metaspace(void)
{
    fail_each(metaspace_scenario);
}

static void composed(void)
{
    fail_each(composed_scenario);
}

static void chat(void)
{
    fail_each(chat_scenario);
}

const Test tests[] = {{"sentencepiece", sentencepiece},
                      {"metaspace", metaspace},
                      {"composed", composed},
                      {"chat", chat}};
TEST_MAIN(tests)
