/* chat.c - the chat templates we know, each hand-written after its Jinja source.
 *
 * A renderer writes the conversation as text and notes of every byte whether it is the template's
 * (it may become a control token) or a message's (it may not); tokenizer_encode_marked does the
 * rest. So the ids are those of the whole text, across all boundaries, as transformers has them.
 */
#include "chat.h"

#include "io.h"

#include <string.h>

/* ---- rendering ----------------------------------------------------------------------------- */

/* A conversation on its way to text. After the first error nothing more is added. */
typedef struct {
    const ChatTemplate *c;
    const Tokenizer *t;
    const ChatMessage *m;
    size_t n;
    int prompt;      /* add_generation_prompt */
    Text text, ours; /* ours[i] = 1: byte i is the template's */
    int failed;
    Err *e;
} Render;

/* How turns look in the Mistral templates; every one of them puts text around the content. */
typedef struct {
    const char *before_user, *after_user, *before_assistant, *after_assistant;
    enum { SYSTEM_NEVER, SYSTEM_FIRST_USER, SYSTEM_LAST_USER, SYSTEM_OWN_TURN } system;
    int trim;          /* the assistant's content */
    const char *order; /* the template's reason where roles do not alternate; NULL = any order */
    const char *roles; /* and where a role has no turn */
    int order_first;   /* looks at the order of all messages before it looks at their roles */
} MistralStyle;

struct ChatTemplate {
    const char *name;   /* for --chat-template */
    const char *sha256; /* of the template's text */
    void (*render)(Render *r);
    int needs_eos;     /* writes the end token */
    int dated;         /* llama3: begins with a system turn with dates */
    int always_prompt; /* llama3: ends with the assistant's header, asked for or not */
    int version;       /* mistral-common */
    const MistralStyle *style;
};

static void put(Render *r, const char *bytes, size_t len, char ours)
{
    for (size_t i = 0; i < len && !r->failed; i++)
        r->failed = text_add(&r->ours, &ours, 1, r->e) != 0;
    if (!r->failed) r->failed = text_add(&r->text, bytes, len, r->e) != 0;
}

/* Text of the template. */
static void put_own(Render *r, const char *text)
{
    if (text) put(r, text, strlen(text), 1);
}

/* Text of a message. */
static void put_content(Render *r, const ChatMessage *m)
{
    put(r, m->content, m->content_len, 0);
}

static void put_bos(Render *r)
{
    put_own(r, tokenizer_bos_text(r->t));
}

static void put_eos(Render *r)
{
    put_own(r, tokenizer_eos_text(r->t));
}

/* The conversation does not fit the template. */
static void refuse(Render *r, size_t i, const char *reason)
{
    if (r->failed) return;
    r->failed = 1;
    err_set(r->e, ERR_DATA, "chat template %s: message %zu (%s): %s", r->c->name, i, r->m[i].role,
            reason);
}

static int is_role(const ChatMessage *m, const char *role)
{
    return !strcmp(m->role, role);
}

/* ---- Jinja's trim: Python's str.strip() ---------------------------------------------------- */

/* Bytes of the white space character at s, 0 if there is none. Python counts U+001C..U+001F, too,
 * which the White_Space property does not. */
static size_t space_at(const unsigned char *s, size_t len)
{
    if (!len) return 0;
    if ((s[0] >= 0x09 && s[0] <= 0x0d) || (s[0] >= 0x1c && s[0] <= 0x20)) return 1;
    if (len >= 2 && s[0] == 0xc2 && (s[1] == 0x85 || s[1] == 0xa0)) return 2;
    if (len < 3 || s[0] < 0xe1 || s[0] > 0xe3) return 0;
    uint32_t cp = (s[0] & 0x0fu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
    int space = cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
                cp == 0x202f || cp == 0x205f || cp == 0x3000;
    return space ? 3 : 0;
}

static ChatMessage trimmed(const ChatMessage *m)
{
    ChatMessage out = *m;
    const unsigned char *s = (const unsigned char *)m->content;
    size_t n, start = 0, end = m->content_len;
    while ((n = space_at(s + start, end - start))) start += n;
    for (int found = 1; found;) { /* white space has 1 to 3 bytes: is one of them the end? */
        found = 0;
        for (n = 1; n <= 3 && n <= end - start && !found; n++)
            if (space_at(s + end - n, n) == n) {
                end -= n;
                found = 1;
            }
    }
    out.content = m->content + start;
    out.content_len = end - start;
    return out;
}

/* ---- Llama 3 ------------------------------------------------------------------------------- */

static void put_header(Render *r, const char *role)
{
    put_own(r, "<|start_header_id|>");
    put_own(r, role);
    put_own(r, "<|end_header_id|>\n\n");
}

/* Llama 3: header, trimmed content, <|eot_id|> for every message. Llama 3.1 and 3.2 begin with a
 * system turn in any case, which takes the first message in if it is a system message. */
static void render_llama3(Render *r)
{
    size_t i = 0;
    put_bos(r);
    if (r->c->dated) {
        put_header(r, "system");
        put_own(r, "Cutting Knowledge Date: December 2023\nToday Date: ");
        put_own(r, tokenizer_chat_date(r->t));
        put_own(r, "\n\n");
        if (is_role(&r->m[0], "system")) {
            ChatMessage m = trimmed(&r->m[i++]);
            put_content(r, &m);
        }
        put_own(r, "<|eot_id|>");
    }
    for (; i < r->n; i++) {
        ChatMessage m = trimmed(&r->m[i]);
        put_header(r, m.role);
        put_content(r, &m);
        put_own(r, "<|eot_id|>");
    }
    if (r->prompt || r->c->always_prompt) put_header(r, "assistant");
}

/* ---- ChatML, Zephyr ------------------------------------------------------------------------ */

static void render_chatml(Render *r)
{
    for (size_t i = 0; i < r->n; i++) {
        put_own(r, "<|im_start|>");
        put_own(r, r->m[i].role);
        put_own(r, "\n");
        put_content(r, &r->m[i]);
        put_own(r, "<|im_end|>\n");
    }
    if (r->prompt) put_own(r, "<|im_start|>assistant\n");
}

/* Zephyr, TinyLlama: no BOS. */
static void render_zephyr(Render *r)
{
    for (size_t i = 0; i < r->n; i++) {
        put_own(r, "<|");
        put_own(r, r->m[i].role);
        put_own(r, "|>\n");
        put_content(r, &r->m[i]);
        put_eos(r);
        put_own(r, "\n");
    }
    if (r->prompt) put_own(r, "<|assistant|>\n");
}

/* ---- Mistral, as Hugging Face's templates have it ------------------------------------------- */

#define ALTERNATE "onversation roles must alternate user/assistant/user/assistant/..."
#define AFTER_SYSTEM "After the optional system message, c" ALTERNATE
#define ONLY_TWO "Only user and assistant roles are supported!"
#define ONLY_TWO_BUT                                                                               \
    "Only user and assistant roles are supported, with the exception of an initial optional "      \
    "system message!"

/* clang-format off */
static const MistralStyle mistral_v01 = {
    "[INST] ", " [/INST]", "", " ", SYSTEM_NEVER, 0, "C" ALTERNATE, ONLY_TWO, 0};
static const MistralStyle mistral_v02 = {
    "[INST] ", " [/INST]", "", "", SYSTEM_NEVER, 0, "C" ALTERNATE, ONLY_TWO, 0};
static const MistralStyle mistral_v1 = {
    " [INST] ", " [/INST]", " ", "", SYSTEM_FIRST_USER, 0, AFTER_SYSTEM, ONLY_TWO_BUT, 0};
static const MistralStyle mistral_v3 = {
    "[INST] ", "[/INST]", " ", "", SYSTEM_LAST_USER, 1, AFTER_SYSTEM, ONLY_TWO_BUT, 1};
static const MistralStyle mistral_v3_tekken = {
    "[INST]", "[/INST]", "", "", SYSTEM_LAST_USER, 0, AFTER_SYSTEM, ONLY_TWO_BUT, 1};
static const MistralStyle mistral_v7 = {
    "[INST] ", "[/INST]", " ", "", SYSTEM_OWN_TURN, 0, NULL,
    "Only user, system and assistant roles are supported!", 0};
/* clang-format on */

/* Messages from `first` on must be user, assistant, user, ... as far as the template asks for it.
 * Of two reasons to refuse the one counts that the template would find first. */
static void check_order(Render *r, size_t first)
{
    const MistralStyle *s = r->c->style;
    int refuses_system = s->system != SYSTEM_OWN_TURN;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = first; i < r->n; i++) {
            int in_order = is_role(&r->m[i], "user") == ((i - first) % 2 == 0);
            if (pass == 0 && s->order && !in_order) refuse(r, i, s->order);
            if (pass != s->order_first) continue;
            if (refuses_system && is_role(&r->m[i], "system")) refuse(r, i, s->roles);
        }
    }
}

static void put_mistral_turn(Render *r, size_t i, const ChatMessage *system)
{
    const MistralStyle *s = r->c->style;
    const ChatMessage *m = &r->m[i];
    if (is_role(m, "user")) {
        put_own(r, s->before_user);
        if (system) {
            put_content(r, system);
            put_own(r, "\n\n");
        }
        put_content(r, m);
        put_own(r, s->after_user);
    } else if (is_role(m, "assistant")) {
        ChatMessage content = s->trim ? trimmed(m) : *m;
        put_own(r, s->before_assistant);
        put_content(r, &content);
        put_eos(r);
        put_own(r, s->after_assistant);
    } else {
        put_own(r, "[SYSTEM_PROMPT] ");
        put_content(r, m);
        put_own(r, "[/SYSTEM_PROMPT]");
    }
}

/* A first system message goes into the first user turn, or into the last message if that is a user
 * turn (and is lost if it is not, as in the template). */
static void render_mistral(Render *r)
{
    const MistralStyle *s = r->c->style;
    int takes_system = s->system == SYSTEM_FIRST_USER || s->system == SYSTEM_LAST_USER;
    const ChatMessage *system = takes_system && is_role(&r->m[0], "system") ? &r->m[0] : NULL;
    size_t first = system != NULL;
    check_order(r, first);
    put_bos(r);
    for (size_t i = first; i < r->n; i++) {
        int here = s->system == SYSTEM_FIRST_USER ? i == first : i + 1 == r->n;
        put_mistral_turn(r, i, here ? system : NULL);
    }
}

/* ---- Mistral, as mistral-common has it ------------------------------------------------------ */

/* The end of the turn that begins at i: neighbours with the same role are one turn, system messages
 * are not counted. *last: no turn comes after it. */
static size_t turn_end(const Render *r, size_t i, int *last)
{
    const char *role = r->m[i].role;
    for (*last = 1; i < r->n; i++) {
        if (is_role(&r->m[i], "system")) continue;
        if (!is_role(&r->m[i], role)) {
            *last = 0;
            break;
        }
    }
    return i;
}

/* Contents of all messages of one role in [i, end), two line breaks between them; returns their
 * length. */
static size_t put_joined(Render *r, size_t i, size_t end, const char *role)
{
    size_t before = r->text.len;
    for (int any = 0; i < end; i++) {
        if (!is_role(&r->m[i], role)) continue;
        if (any) put_own(r, "\n\n");
        put_content(r, &r->m[i]);
        any = 1;
    }
    return r->text.len - before;
}

/* All system messages together, with two line breaks behind if there is any text. */
static void put_system(Render *r)
{
    if (put_joined(r, 0, r->n, "system")) put_own(r, "\n\n");
}

static void render_mistral_common(Render *r)
{
    int v1 = r->c->version == 1, last = 0, after_user = 0, turns = 0;
    size_t last_user = 0; /* one past the last user message */
    for (size_t i = 0; i < r->n; i++)
        if (is_role(&r->m[i], "user")) last_user = i + 1;
    put_bos(r);
    for (size_t i = 0, end; i < r->n && !r->failed; i = end) {
        end = i + 1;
        if (is_role(&r->m[i], "system")) continue;
        end = turn_end(r, i, &last);
        if (is_role(&r->m[i], "user")) {
            put_own(r, v1 ? " [INST] " : "[INST] ");
            if (v1 ? !turns : end >= last_user) put_system(r);
            put_joined(r, i, end, "user");
            put_own(r, v1 ? " [/INST]" : "[/INST]");
            if (v1 && !last) put_own(r, " ");
            after_user = 1;
        } else {
            if (!turns) refuse(r, i, "Conversation must start with a user message, got assistant.");
            if (!v1 && after_user) put_own(r, " ");
            after_user = 0;
            if (!put_joined(r, i, end, "assistant"))
                refuse(r, i,
                       v1 ? "Assistant message content must be non-empty."
                          : "Assistant message must have a string or a list of chunks in "
                            "content or a list of tool calls.");
            put_eos(r);
        }
        turns = 1;
    }
}

/* ---- the table ----------------------------------------------------------------------------- */

/* clang-format off */
static const ChatTemplate templates[] = {
    {.name = "llama3", .render = render_llama3,
     .sha256 = "ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122"},
    {.name = "llama3", .render = render_llama3, /* TRL's, with marks around the assistant's turn */
     .sha256 = "9dce981e2954cf77d4d0ad2dbacf8006a5fda34a0bdf4923075a933d08b69470"},
    {.name = "llama3-early", .render = render_llama3, .always_prompt = 1, /* first release */
     .sha256 = "b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2"},
    {.name = "llama3.1", .render = render_llama3, .dated = 1,
     .sha256 = "e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65"},
    {.name = "llama3.2", .render = render_llama3, .dated = 1,
     .sha256 = "5816fce10444e03c2e9ee1ef8a4a1ea61ae7e69e438613f3b17b69d0426223a4"},
    {.name = "chatml", .render = render_chatml,
     .sha256 = "fcf7a096fe99a48fd9ad2b250bf9237e96e8f48bffec1c7ea4d3f225176cd40e"},
    {.name = "zephyr", .render = render_zephyr, .needs_eos = 1, /* TinyLlama's, too */
     .sha256 = "66291cf0045c2425a3a667cf3cbb7af2b11f09e025c02f97245323ab79119362"},
    {.name = "mistral-v0.1", .render = render_mistral, .needs_eos = 1, .style = &mistral_v01,
     .sha256 = "7e995b379ec01747807246483647cd99030abf331653f1119e16d7ac041a3495"},
    {.name = "mistral-v0.2", .render = render_mistral, .needs_eos = 1, .style = &mistral_v02,
     .sha256 = "26a59556925c987317ce5291811ba3b7f32ec4c647c400c6cc7e3a9993007ba7"},
    {.name = "mistral-v1", .render = render_mistral, .needs_eos = 1, .style = &mistral_v1,
     .sha256 = "796853172235ab3aaa4810013ddfe2eab481bda3306dad4f700c00d436eed596"},
    {.name = "mistral-v3", .render = render_mistral, .needs_eos = 1, .style = &mistral_v3,
     .sha256 = "e16746b40344d6c5b5265988e0328a0bf7277be86f1c335156eae07e29c82826"},
    {.name = "mistral-v3-tekken", .render = render_mistral, .needs_eos = 1,
     .style = &mistral_v3_tekken,
     .sha256 = "e4676cb56dffea7782fd3e2b577cfaf1e123537e6ef49b3ec7caa6c095c62272"},
    {.name = "mistral-v7", .render = render_mistral, .needs_eos = 1, .style = &mistral_v7,
     .sha256 = "3c4ad5fa60dd8c7ccdf82fa4225864c903e107728fcaf859fa6052cb80c92ee9"},
    {.name = "mistral-common-v1", .render = render_mistral_common, .needs_eos = 1, .version = 1,
     .sha256 = "95643f3d5c9df0c880946b59b52b2317b7721713fb8b52781e521452a2e76b02"},
    {.name = "mistral-common-v2", .render = render_mistral_common, .needs_eos = 1, .version = 2,
     .sha256 = "71e9883e8f076f87d0a34f9d1079ed7634503b3bf27ee2727db1ab31bfd24054"},
    {.name = "mistral-common-v3", .render = render_mistral_common, .needs_eos = 1, .version = 3,
     .sha256 = "fd9e52b9a8c9d89b614aa1d57bfe8d47b0199e51e97327da13e9ac2664b00745"},
};
/* clang-format on */
#define TEMPLATES (sizeof(templates) / sizeof(templates[0]))

const char *chat_name(const ChatTemplate *c)
{
    return c->name;
}

const char *chat_list(size_t i)
{
    for (size_t k = 0; k < TEMPLATES; k++) {
        if (k && !strcmp(templates[k].name, templates[k - 1].name)) continue;
        if (!i--) return templates[k].name;
    }
    return NULL;
}

/* All names, for messages. */
static void names_list(char *out, size_t size)
{
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; chat_list(i) && at + strlen(chat_list(i)) + 3 < size; i++) {
        if (i) {
            memcpy(out + at, ", ", 2);
            at += 2;
        }
        memcpy(out + at, chat_list(i), strlen(chat_list(i)) + 1);
        at += strlen(chat_list(i));
    }
}

/* SHA-256 of text, with or without what comes behind it. */
static void text_sha256(const char *text, size_t len, const char *behind, char hex[65])
{
    Sha256 s;
    sha256_begin(&s);
    sha256_add(&s, text, len);
    sha256_add(&s, behind, strlen(behind));
    sha256_end(&s, hex);
}

/* The table's entry for a template's text. A last line break means nothing to Jinja, and is lost or
 * added easily: the text counts with it and without. */
static const ChatTemplate *find_text(const char *text, size_t len)
{
    size_t cut = len && text[len - 1] == '\n' ? len - 1 : len;
    char bare[65], broken[65];
    text_sha256(text, cut, "", bare);
    text_sha256(text, cut, "\n", broken);
    for (size_t i = 0; i < TEMPLATES; i++)
        if (!strcmp(templates[i].sha256, bare) || !strcmp(templates[i].sha256, broken))
            return &templates[i];
    return NULL;
}

const ChatTemplate *chat_find(const Tokenizer *t, const char *override_name, Err *e)
{
    char names[600], hex[65];
    size_t len;
    names_list(names, sizeof names);
    if (override_name) {
        for (size_t i = 0; i < TEMPLATES; i++)
            if (!strcmp(templates[i].name, override_name)) return &templates[i];
        err_set(e, ERR_USAGE, "--chat-template %s: no such template; allowed: %s", override_name,
                names);
        return NULL;
    }
    const char *text = tokenizer_chat_template(t, &len);
    if (!text) {
        err_set(e, ERR_DATA,
                "the model has no chat template, so a conversation cannot be put into "
                "text; choose one with --chat-template NAME: %s",
                names);
        return NULL;
    }
    const ChatTemplate *found = find_text(text, len);
    if (found) return found;
    text_sha256(text, len, "", hex);
    err_set(e, ERR_DATA,
            "the model's chat template (SHA-256 %s) is not one of those built in; "
            "choose the one it is like with --chat-template NAME: %s",
            hex, names);
    return NULL;
}

/* ---- conversations ------------------------------------------------------------------------- */

/* What every template needs: messages, roles we can spell without forging a control token, UTF-8 is
 * checked by the tokenizer. */
static void check_messages(Render *r)
{
    if (!r->n) {
        r->failed = 1;
        err_set(r->e, ERR_DATA, "chat template %s: a conversation without messages", r->c->name);
    }
    for (size_t i = 0; i < r->n; i++)
        if (!is_role(&r->m[i], "system") && !is_role(&r->m[i], "user") &&
            !is_role(&r->m[i], "assistant"))
            refuse(r, i, "unknown role; allowed: system, user, assistant");
    if (r->c->needs_eos && !tokenizer_eos_text(r->t) && !r->failed) {
        r->failed = 1;
        err_set(r->e, ERR_DATA,
                "chat template %s ends turns with the end token, but "
                "tokenizer_config.json names no eos_token",
                r->c->name);
    }
}

static int render(Render *r, const ChatTemplate *c, const Tokenizer *t, const ChatMessage *m,
                  size_t n, int add_generation_prompt, Err *e)
{
    *r = (Render){.c = c, .t = t, .m = m, .n = n, .prompt = add_generation_prompt, .e = e};
    check_messages(r);
    if (!r->failed) c->render(r);
    put(r, "", 0, 1);
    if (!r->failed) return 0;
    text_free(&r->text);
    text_free(&r->ours);
    return -1;
}

int chat_render(const ChatTemplate *c, const Tokenizer *t, const ChatMessage *m, size_t n,
                int add_generation_prompt, Text *out, Err *e)
{
    Render r;
    if (render(&r, c, t, m, n, add_generation_prompt, e)) return -1;
    int failed = text_add(out, r.text.data, r.text.len, e);
    text_free(&r.text);
    text_free(&r.ours);
    return failed;
}

int chat_encode(const ChatTemplate *c, const Tokenizer *t, const ChatMessage *m, size_t n,
                int add_generation_prompt, int flags, Ids *out, Err *e)
{
    Render r;
    if (render(&r, c, t, m, n, add_generation_prompt, e)) return -1;
    int failed = tokenizer_encode_marked(t, r.text.data, r.ours.data, r.text.len,
                                         flags & TOKENIZE_SPECIAL, out, e);
    text_free(&r.text);
    text_free(&r.ours);
    return failed;
}
