/* chat.c - opens chat templates, and renders conversations by them.
 *
 * The engine (template.h) notes for every byte of a rendered conversation whether it is the
 * template's, which may become a control token, or the data's, which may not;
 * tokenizer_encode_marked does the rest. So the ids are those of the whole text, across all
 * boundaries, as in transformers.
 */
#include "chat_parts.h"

#include "io.h"

#include <string.h>
#include <time.h>

/* ---- variables ----------------------------------------------------------------------------- */

/* A tree of JSON being made. After the first error nothing more is added. */
typedef struct {
    Pool *pool;
    int failed;
    Err *e;
} Maker;

/* An object or a list, and where its next member goes. */
typedef struct {
    Json *json, **end;
} Parent;

/* Adds a value behind the last member or item of `to`: a copy of `value`, whose children are
 * shared. key NULL: an item. */
static Parent add(Maker *m, Parent *to, const char *key, size_t key_len, const Json *value)
{
    Json *j = m->failed ? NULL : pool_alloc(m->pool, sizeof *j, m->e);
    m->failed = !j;
    if (!j) return *to;
    *j = *value;
    j->key = key;
    j->key_len = key_len;
    j->next = NULL;
    *to->end = j;
    to->end = &j->next;
    to->json->len++;
    return (Parent){j, &j->child};
}

static Parent add_member(Maker *m, Parent *to, const char *key, const Json *value)
{
    static const Json none = {.type = JSON_NULL, .text = ""};
    return add(m, to, key, strlen(key), value ? value : &none);
}

/* The engine goes by characters, so a text must have whole ones; what comes of JSON has. */
static void add_text(Maker *m, Parent *to, const char *key, const char *text, size_t len)
{
    size_t bad = m->failed ? len : utf8_check(text, len);
    if (bad < len)
        m->failed = err_set(m->e, ERR_DATA, "\"%s\" is not UTF-8: byte 0x%02X at offset %zu", key,
                            (unsigned char)text[bad], bad) != 0;
    add_member(m, to, key, &(Json){.type = JSON_STRING, .text = text, .len = len});
}

static int is_null(const Json *j)
{
    return !j || j->type == JSON_NULL;
}

/* A message's reasoning has several names. The first of them that is given fills
 * reasoning_content, and thinking where that is not there. */
static const Json *find_reasoning(const Json *turn)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    const Json *found = NULL;
    for (size_t i = 0; i < 3 && is_null(found); i++) found = json_get(turn, names[i]);
    return is_null(found) ? NULL : found;
}

static void add_turn(Maker *m, Parent *to, const Json *turn)
{
    const Json *reasoning = find_reasoning(turn), *thinking = json_get(turn, "thinking");
    int placed = 0;
    if (reasoning) add_member(m, to, "thinking", thinking ? thinking : reasoning);
    for (const Json *k = turn->child; k; k = k->next) {
        int content = !strcmp(k->key, "reasoning_content");
        if (reasoning && !strcmp(k->key, "thinking")) continue;
        placed = placed || content;
        add(m, to, k->key, k->key_len, reasoning && content ? reasoning : k);
    }
    if (reasoning && !placed) add_member(m, to, "reasoning_content", reasoning);
}

static void add_messages(Maker *m, Parent *to, const Chat *chat)
{
    Parent list = add_member(m, to, "messages", &(Json){.type = JSON_ARRAY});
    for (size_t i = 0; i < chat->count && !m->failed; i++) {
        const ChatMessage *said = &chat->messages[i];
        if (said->turn && said->turn->type != JSON_OBJECT) {
            add(m, &list, NULL, 0, said->turn);
            continue;
        }
        Parent message = add(m, &list, NULL, 0, &(Json){.type = JSON_OBJECT});
        if (said->turn) {
            add_turn(m, &message, said->turn);
        } else {
            add_text(m, &message, "role", said->role, strlen(said->role));
            add_text(m, &message, "content", said->content, said->content_len);
        }
    }
}

static void refuse(Maker *m, const char *what, const char *name, const char *why)
{
    if (m->failed) return;
    m->failed = 1;
    err_set(m->e, ERR_DATA, "\"%s\" has \"%.60s\"%s", what, name, why);
}

/* The special tokens, which chat_template_kwargs cannot change: they may become control tokens. */
static void add_tokens(Maker *m, Parent *to, const Tokenizer *t)
{
    const char *name, *text;
    const char *bos = tokenizer_bos_text(t), *eos = tokenizer_eos_text(t);
    if (bos) add_text(m, to, "bos_token", bos, strlen(bos));
    if (eos) add_text(m, to, "eos_token", eos, strlen(eos));
    for (size_t i = 0; (name = tokenizer_named_token(t, i, &text)); i++)
        if (!json_get(to->json, name)) add_text(m, to, name, text, strlen(text));
}

static void add_more(Maker *m, Parent *to, const Json *more)
{
    static const char *const ours[] = {"messages", "tools", "documents", "add_generation_prompt"};
    static const char what[] = "chat_template_kwargs";
    if (is_null(more)) return;
    if (more->type != JSON_OBJECT && !m->failed)
        m->failed = err_set(m->e, ERR_DATA, "\"%s\" must be an object", what) != 0;
    for (const Json *k = more->child; k && !m->failed; k = k->next) {
        for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
            if (!strcmp(k->key, ours[i]))
                refuse(m, what, k->key, "; give it as a member of the row");
        if (json_get(to->json, k->key))
            refuse(m, what, k->key, ", which the tokenizer's files say");
        add(m, to, k->key, k->key_len, k);
    }
}

/* The member "tools" of a row, or what its text holds. */
static const Json *read_tools(Maker *m, const Json *row)
{
    const Json *tools = json_get(row, "tools");
    if (!tools || tools->type != JSON_STRING) return tools;
    tools = json_parse(m->pool, tools->text, tools->len, "\"tools\"", 0, m->e);
    if (!tools) m->failed = 1;
    return tools;
}

/* What a template may read, as one object; NULL on error. *tools: are there any? */
static const Json *variables(const Tokenizer *t, const Chat *chat, int prompt, Pool *pool,
                             int *has_tools, Err *e)
{
    Maker m = {pool, 0, e};
    Json *all = pool_alloc(pool, sizeof *all, e);
    if (!all) return NULL;
    *all = (Json){.type = JSON_OBJECT};
    Parent to = {all, &all->child};
    const Json *tools = read_tools(&m, chat->row);
    *has_tools = !is_null(tools);
    add_messages(&m, &to, chat);
    if (t) add_tokens(&m, &to, t);
    add_more(&m, &to, json_get(chat->row, "chat_template_kwargs"));
    add_member(&m, &to, "tools", tools);
    add_member(&m, &to, "documents", json_get(chat->row, "documents"));
    add_member(&m, &to, "add_generation_prompt",
               &(Json){.type = prompt ? JSON_TRUE : JSON_FALSE, .text = ""});
    return m.failed ? NULL : all;
}

/* ---- rendering ----------------------------------------------------------------------------- */

/* A role of a message that no file gave: one that cannot spell a control token. */
static int check_messages(const ChatTemplate *c, const Chat *chat, Err *e)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    if (!chat->count)
        return err_set(e, ERR_DATA, "chat template %s: a conversation without messages", c->name);
    for (size_t i = 0; i < chat->count; i++) {
        const ChatMessage *m = &chat->messages[i];
        if (m->turn || (*m->role && !m->role[strspn(m->role, letters)])) continue;
        return err_set(e, ERR_DATA,
                       "chat template %s: message %zu (%.40s): unknown role; allowed are system, "
                       "user, assistant and other single words",
                       c->name, i, m->role);
    }
    return 0;
}

/* Of a model with several templates none is for this conversation. */
static int no_default(const Tokenizer *t, Err *e)
{
    char names[600] = "";
    const char *name;
    size_t at = 0;
    for (size_t i = 0; (name = tokenizer_template_name(t, i)) && at + 100 < sizeof names; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%.80s", i ? ", " : "", name);
    return err_set(e, ERR_DATA,
                   "the model has several chat templates and none named \"default\"; choose one "
                   "with --chat-template NAME: %s",
                   names);
}

static int render(const ChatTemplate *c, const Tokenizer *t, const Chat *chat, int prompt,
                  TemplateOutput *out, Err *e)
{
    Pool pool = {0};
    int tools = 0, status = -1;
    *out = (TemplateOutput){.span_count = 0};
    const Json *all = check_messages(c, chat, e) ? NULL
                                                 : variables(t, chat, prompt, &pool, &tools, e);
    const Template *one = tools && c->tool_use ? c->tool_use : c->main;
    if (all && !one) no_default(t, e);
    else if (all) status = template_render(one, all, &c->now, out, e);
    if (!status) status = text_add(&out->text, "", 0, e) || text_add(&out->given, "", 0, e);
    pool_free(&pool);
    if (!status) return 0;
    template_output_free(out);
    return -1;
}

int chat_render(const ChatTemplate *c, const Tokenizer *t, const Chat *chat, Text *out, Err *e)
{
    TemplateOutput r;
    if (render(c, t, chat, chat->prompt > 0, &r, e)) return -1;
    int failed = text_add(out, r.text.data, r.text.len, e);
    template_output_free(&r);
    return failed;
}

/* ids of the first `len` bytes of a rendered text */
static int encode_bytes(const TemplateOutput *r, const Tokenizer *t, size_t len, int flags,
                        Ids *out, Err *e)
{
    Text ours = {0};
    int status = text_add(&ours, r->given.data, len, e);
    for (size_t i = 0; i < len && !status; i++) ours.data[i] = !ours.data[i];
    if (!status && len)
        status = tokenizer_encode_marked(t, r->text.data, ours.data, len, flags & TOKENIZE_SPECIAL,
                                         out, e);
    text_free(&ours);
    return status ? -1 : 0;
}

/* Is the first message the system's, with something to say, and none of it in the text? */
static int loses_system(const Chat *chat, const TemplateOutput *r)
{
    const ChatMessage *m = chat->messages;
    static const char space[] = " \t\r\n\f\v";
    size_t i = 0;
    if (strcmp(m->role, "system")) return 0;
    while (i < m->content_len && m->content[i] && strchr(space, m->content[i])) i++;
    if (i == m->content_len) return 0;
    return !r->text.len || !memchr(r->given.data, TEMPLATE_GIVEN_MESSAGE, r->text.len);
}

/* Returns where the text of the last message ends. */
static size_t messages_end(const TemplateOutput *r)
{
    size_t n = r->text.len;
    while (n && r->given.data[n - 1] < TEMPLATE_GIVEN_MESSAGE) n--;
    return n;
}

int chat_encode(const ChatTemplate *c, const Tokenizer *t, const Chat *chat, int flags, Ids *out,
                int *no_system, Err *e)
{
    TemplateOutput r;
    if (render(c, t, chat, chat->prompt > 0, &r, e)) return -1;
    size_t len = chat->prompt == CHAT_OPEN ? messages_end(&r) : r.text.len;
    int failed = encode_bytes(&r, t, len, flags, out, e);
    if (no_system) *no_system = loses_system(chat, &r);
    template_output_free(&r);
    return failed;
}

/* ---- answers ------------------------------------------------------------------------------- */

/* Returns how many ids of the whole text lie before byte `at`, if the text up to there has the same
 * ids by itself; *whole = 0 if a token crosses the border. */
static int ids_before(const TemplateOutput *r, const Tokenizer *t, size_t at, int flags,
                      const Ids *all, size_t *n, int *whole, Err *e)
{
    Ids before = {0};
    int status = encode_bytes(r, t, at, flags, &before, e);
    *n = 0;
    while (*n < before.count && *n < all->count && before.ids[*n] == all->ids[*n]) ++*n;
    *whole = *n == before.count;
    ids_free(&before);
    return status;
}

/* Marks the ids of bytes [from, to). A token across a border is the answer's, at its beginning and
 * at its end. */
static int mark_span(const TemplateOutput *r, const Tokenizer *t, TemplateSpan s, int flags,
                     const Ids *all, char *marks, Err *e)
{
    size_t first, last;
    int whole;
    if (s.from >= s.to) return 0;
    if (ids_before(r, t, s.from, flags, all, &first, &whole, e) ||
        ids_before(r, t, s.to, flags, all, &last, &whole, e))
        return -1;
    if (!whole) last++;
    for (size_t i = first; i < last && i < all->count; i++) marks[i] = 1;
    return 0;
}

/* Bytes of the text at `at` that are those of `what`, as far as they agree. */
static size_t agreeing(const Text *text, size_t at, const Text *what)
{
    size_t n = 0;
    while (n < what->len && at + n < text->len && text->data[at + n] == what->data[n]) n++;
    return n;
}

/* Where the answer of message i stands, from byte `at` on: its content with what templates write
 * before and behind it. 0 where none of it is in the text. */
static int find_answer(const ChatTemplate *c, const TemplateOutput *r, size_t i, size_t at,
                       TemplateSpan *s)
{
    const Text *text = &r->text;
    char mark = (char)template_given(i);
    size_t first = at, end;
    while (first < text->len && r->given.data[first] != mark) first++;
    if (first == text->len) return 0;
    end = first;
    for (size_t k = first; k < text->len; k++) {
        if (r->given.data[k] == mark) end = k + 1;
        else if (r->given.data[k] >= TEMPLATE_GIVEN_MESSAGE) break;
    }
    size_t n = c->opening.len;
    if (n && first >= n && !memcmp(text->data + first - n, c->opening.data, n)) first -= n;
    *s = (TemplateSpan){first, end + agreeing(text, end, &c->ending)};
    return 1;
}

static int mark_answers(const ChatTemplate *c, const Tokenizer *t, const Chat *chat,
                        const TemplateOutput *r, int flags, const Ids *all, char *marks, Err *e)
{
    TemplateSpan s = {0, 0};
    for (size_t i = 0; template_marks_answers(c->main) && i < r->span_count; i++)
        if (mark_span(r, t, r->spans[i], flags, all, marks, e)) return -1;
    for (size_t i = 0; !template_marks_answers(c->main) && i < chat->count; i++)
        if (!strcmp(chat->messages[i].role, "assistant") && find_answer(c, r, i, s.to, &s) &&
            mark_span(r, t, s, flags, all, marks, e))
            return -1;
    return 0;
}

int chat_encode_answers(const ChatTemplate *c, const Tokenizer *t, const Chat *chat, int flags,
                        Ids *out, Text *answers, Err *e)
{
    TemplateOutput r;
    answers->len = out->count = 0;
    if (render(c, t, chat, 0, &r, e)) return -1;
    int status = encode_bytes(&r, t, r.text.len, flags, out, e);
    for (size_t i = 0; i < out->count && !status; i++) status = text_add(answers, "", 1, e);
    if (!status) status = mark_answers(c, t, chat, &r, flags, out, answers->data, e);
    template_output_free(&r);
    return status ? -1 : 0;
}

/* ---- the end of an answer ------------------------------------------------------------------- */

static int is_space(char ch)
{
    return ch == ' ' || (ch >= '\t' && ch <= '\r');
}

/* A conversation with an answer, and the same without it, whose text ends where the answer begins.
 * Templates that ask for a system message get one. */
static int render_probe(const ChatTemplate *c, const Tokenizer *t, TemplateOutput *with,
                        TemplateOutput *without, size_t *answer, Err *e)
{
    const ChatMessage m[] = {chat_message("system", "a", 1), chat_message("user", "a", 1),
                             chat_message("assistant", "a", 1)};
    Err first;
    int status = -1;
    for (size_t from = 2; status && from-- > 0;) {
        const Chat chat = {m + from, 3 - from, 0, NULL}, asked = {m + from, 2 - from, 1, NULL};
        *answer = 2 - from;
        *without = (TemplateOutput){.span_count = 0};
        status = render(c, t, &chat, 0, with, e);
        if (!status && render(c, t, &asked, 1, without, e)) {
            template_output_free(with);
            status = -1;
        }
        if (status && e->code == ERR_MEMORY) return -1;
        if (status && from == 1) first = *e;
    }
    if (status) *e = first; /* what it says of the usual conversation */
    return status;
}

/* Bytes [*from, *to) of the text behind the last content of a message. */
static void find_ending(const TemplateOutput *r, size_t answer, size_t *from, size_t *to)
{
    size_t at = r->text.len;
    char mark = (char)template_given(answer);
    while (at && r->given.data[at - 1] != mark) at--;
    if (!at) at = r->text.len; /* the template writes no answer */
    *from = at;
    while (at < r->text.len && is_space(r->text.data[at])) at++;
    for (size_t begin = at; at < r->text.len && !is_space(r->text.data[at]); at++)
        if (at > begin && r->text.data[at - 1] == '>' && r->text.data[at] == '<') break;
    *to = at;
}

/* The token that text, which is the template's, begins with, if it is one that ends turns: special,
 * or all of the first word. */
static int end_token(const Tokenizer *t, const char *text, size_t len, size_t word, int32_t *id,
                     Err *e)
{
    Ids ids = {0};
    size_t piece = 0;
    int status = tokenizer_encode(t, text, len, TOKENIZE_SPECIAL, &ids, e);
    *id = ids.count ? ids.ids[0] : -1;
    const char *spelled = tokenizer_piece(t, *id, &piece);
    if (*id >= 0 && !tokenizer_is_special(t, *id) && (piece != word || memcmp(spelled, text, word)))
        *id = -1;
    ids_free(&ids);
    return status;
}

int chat_end(const ChatTemplate *c, const Tokenizer *t, ChatEnd *end, Err *e)
{
    TemplateOutput with, without;
    size_t answer, from, to;
    *end = (ChatEnd){.id = -1};
    if (render_probe(c, t, &with, &without, &answer, e)) return -1;
    find_ending(&with, answer, &from, &to);
    while (from < to && is_space(with.text.data[from])) from++;
    size_t word = to - from, shown = word < CHAT_END_MAX ? word : CHAT_END_MAX - 1;
    memcpy(end->text, with.text.data + from, shown);
    int status = word ? end_token(t, with.text.data + from, with.text.len - from, word, &end->id, e)
                      : 0;
    template_output_free(&with);
    template_output_free(&without);
    return status;
}

/* What the turn of an answer has besides its content: behind the opening that asks for it, and at
 * its end with the white space there. A template that refuses so short a conversation has none. */
static int find_turn(ChatTemplate *c, const Tokenizer *t, Err *e)
{
    TemplateOutput with, without;
    Err why;
    size_t answer, from, to, at = 0;
    if (render_probe(c, t, &with, &without, &answer, &why)) {
        if (why.code != ERR_MEMORY) return 0;
        *e = why;
        return -1;
    }
    find_ending(&with, answer, &from, &to);
    while (to < with.text.len && is_space(with.text.data[to])) to++;
    int status = text_add(&c->ending, with.text.data + from, to - from, e);
    char mark = (char)template_given(answer);
    while (at < with.text.len && with.given.data[at] != mark) at++;
    size_t n = without.text.len;
    if (!status && at < with.text.len && n <= at && !memcmp(with.text.data, without.text.data, n))
        status = text_add(&c->opening, with.text.data + n, at - n, e);
    template_output_free(&with);
    template_output_free(&without);
    return status;
}

/* ---- which built-in template writes the same ------------------------------------------------ */

#define SAY(role, content) "{\"role\":\"" role "\",\"content\":\"" content "\"}"
#define PROBE(messages, prompt)                                                                    \
    "{\"messages\":[" messages "],\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"tools\":null,"    \
    "\"documents\":null,\"add_generation_prompt\":" prompt "}"

/* Adds to a hash what the template writes for conversations that tell the built-in ones apart. */
static int hash_texts(const Template *t, Sha256 *s, Err *e)
{
#define TALK SAY("user", " U ") "," SAY("assistant", " A ") "," SAY("user", "V")
    static const char *const probes[] = {
        PROBE(SAY("user", " U\\n"), "true"),
        PROBE(SAY("system", " S ") "," TALK, "false"),
        PROBE(TALK, "true"),
        PROBE(SAY("system", "S") "," SAY("user", "U") "," SAY("assistant", "A"), "false"),
        PROBE(SAY("user", "U") "," SAY("user", "V"), "false"),
        PROBE(SAY("user", "U") "," SAY("system", "S") "," SAY("assistant", "A"), "false"),
        PROBE(SAY("assistant", "A"), "false"),
        PROBE(SAY("user", "U") "," SAY("assistant", ""), "false")};
#undef TALK
    static const TemplateTime day = {2001, 2, 3, 0, 0, 0};
    TemplateOutput out = {.span_count = 0};
    int status = 0;
    for (size_t i = 0; i < sizeof probes / sizeof *probes && !status; i++) {
        Pool pool = {0};
        Err why = {0};
        const Json *j = json_parse(&pool, probes[i], strlen(probes[i]), "probe", 0, e);
        status = j ? 0 : -1;
        if (j && template_render(t, j, &day, &out, &why)) {
            sha256_add(s, "refused", 8);
            if (why.code == ERR_MEMORY) status = -1, *e = why;
        } else if (j) {
            sha256_add(s, out.text.len ? out.text.data : "", out.text.len);
            sha256_add(s, "", 1);
        }
        pool_free(&pool);
    }
    template_output_free(&out);
    return status;
}

static int hash_template(const Template *t, char hex[65], Err *e)
{
    Sha256 s;
    sha256_begin(&s);
    int status = hash_texts(t, &s, e);
    sha256_end(&s, hex);
    return status;
}

/* The built-in template that writes the same as t. */
static int find_like(const Template *t, const ChatBuiltin **like, Err *e)
{
    char ours[65], theirs[65];
    *like = NULL;
    if (hash_template(t, ours, e)) return -1;
    for (const ChatBuiltin *b = chat_builtins; b->name && !*like; b++) {
        Template *known = template_parse(b->text, strlen(b->text), b->name, e);
        int status = known ? hash_template(known, theirs, e) : -1;
        template_free(known);
        if (status) return -1;
        if (!strcmp(ours, theirs)) *like = b;
    }
    return 0;
}

static int name_source(const Template *t, const char *text, size_t len, char out[CHAT_NAME],
                       const ChatBuiltin **like, Err *e)
{
    char hex[65];
    if (find_like(t, like, e)) return -1;
    sha256_bytes(text, len, hex);
    if (*like) snprintf(out, CHAT_NAME, "%s", (*like)->name);
    else snprintf(out, CHAT_NAME, "SHA-256 %.12s...", hex);
    return 0;
}

int chat_name_text(const char *text, size_t len, char out[CHAT_NAME], const ChatBuiltin **like,
                   Err *e)
{
    char hex[65];
    *like = NULL;
    sha256_bytes(text, len, hex);
    snprintf(out, CHAT_NAME, "SHA-256 %.12s...", hex);
    Template *t = template_parse(text, len, "chat template", e);
    if (!t) return e->code == ERR_MEMORY ? -1 : 0;
    int status = name_source(t, text, len, out, like, e);
    template_free(t);
    return status;
}

/* ---- control tokens ------------------------------------------------------------------------ */

/* Bytes of the control text that begins at s, "<|...|>" or "[INST]", "[/INST]"; 0 if none does. */
static size_t control_length(const char *s, size_t len)
{
    size_t n = 1;
    if (len > 3 && s[0] == '<' && s[1] == '|') {
        for (n = 2; n < len && n < 40 && !is_space(s[n]) && s[n] != '<'; n++)
            if (s[n] == '>' && s[n - 1] == '|') return n > 3 ? n + 1 : 0;
        return 0;
    }
    if (len < 4 || s[0] != '[') return 0;
    if (s[n] == '/') n++;
    size_t begin = n;
    while (n < len && n < 40 && ((s[n] >= 'A' && s[n] <= 'Z') || s[n] == '_')) n++;
    return n < len && s[n] == ']' && n > begin + 2 ? n + 1 : 0;
}

static int add_control(ChatTemplate *c, const char *text, size_t len, Err *e)
{
    size_t n = 0;
    for (; c->controls[n]; n++)
        if (strlen(c->controls[n]) == len && !memcmp(c->controls[n], text, len)) return 0;
    if (n == CHAT_CONTROLS) return 0;
    c->controls[n] = pool_strndup(&c->pool, text, len, e);
    return c->controls[n] ? 0 : -1;
}

/* The control texts of a template: those that a built-in one like it has, else what it writes
 * around a conversation and looks like one. */
static int find_controls(ChatTemplate *c, const Tokenizer *t, Err *e)
{
    for (size_t i = 0; c->like && c->like->controls[i]; i++) c->controls[i] = c->like->controls[i];
    if (c->like || !c->main) return 0;
    TemplateOutput with, without;
    Err why;
    size_t answer, n;
    if (render_probe(c, t, &with, &without, &answer, &why)) {
        if (why.code != ERR_MEMORY) return 0;
        *e = why;
        return -1;
    }
    int status = 0;
    for (size_t at = 0; at < with.text.len && !status; at += n ? n : 1)
        if ((n = control_length(with.text.data + at, with.text.len - at)))
            status = add_control(c, with.text.data + at, n, e);
    template_output_free(&with);
    template_output_free(&without);
    return status;
}

/* ---- dates --------------------------------------------------------------------------------- */

static int is_day(uint64_t year, uint64_t month, uint64_t day)
{
    static const int days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return year >= 1 && month >= 1 && month <= 12 && day >= 1 && day <= (uint64_t)days[month - 1] &&
           (month != 2 || day != 29 || leap);
}

/* YYYY-MM-DD, a day that exists; NULL is today. */
static int read_date(const char *text, TemplateTime *now, Err *e)
{
    uint64_t part[3] = {0, 0, 0};
    if (!text) {
        time_t clock = time(NULL);
        const struct tm *t = localtime(&clock);
        if (!t) return err_set(e, ERR_INTERNAL, "the clock tells no day; give one with --date");
        *now = (TemplateTime){t->tm_year + 1900, t->tm_mon + 1, t->tm_mday, 0, 0, 0};
        return 0;
    }
    int bad = strlen(text) != 10 || text[4] != '-' || text[7] != '-' ||
              parse_u64(text, 4, &part[0]) || parse_u64(text + 5, 2, &part[1]) ||
              parse_u64(text + 8, 2, &part[2]);
    if (bad || !is_day(part[0], part[1], part[2]))
        return err_set(e, ERR_USAGE, "--date %.40s: expected a day as YYYY-MM-DD", text);
    *now = (TemplateTime){(int)part[0], (int)part[1], (int)part[2], 0, 0, 0};
    return 0;
}

void chat_date(const ChatTemplate *c, char out[CHAT_DATE])
{
    const TemplateTime *t = &c->now; /* of 1 to 4, 2 and 2 digits */
    snprintf(out, CHAT_DATE, "%04u-%02u-%02u", (unsigned)t->year % 10000, (unsigned)t->month % 100,
             (unsigned)t->day % 100);
}

/* ---- opening ------------------------------------------------------------------------------- */

/* Lists all names, for messages. */
static void names_list(char *out, size_t size)
{
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; chat_list(i) && at + strlen(chat_list(i)) + 3 < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%s", i ? ", " : "", chat_list(i));
}

static int take_source(ChatTemplate *c, const char *text, size_t len, const char *name, Err *e)
{
    c->source = pool_strndup(&c->pool, text, len, e);
    c->source_len = len;
    c->main = c->source ? template_parse(text, len, name, e) : NULL;
    return c->main ? name_source(c->main, text, len, c->name, &c->like, e) : -1;
}

/* A file of Jinja, or the chat_template.jinja of a folder. */
static int take_file(ChatTemplate *c, const char *name, Err *e)
{
    char path[IO_PATH_MAX], *text, names[600];
    size_t len;
    if (!io_exists(name)) {
        names_list(names, sizeof names);
        return err_set(e, ERR_USAGE,
                       "--chat-template %s: no such chat template, and no such file; allowed are a "
                       "file, a folder with a chat_template.jinja, or %s",
                       name, names);
    }
    int folder = io_is_directory(name);
    if (folder && io_path(path, sizeof path, name, "chat_template.jinja", e)) return -1;
    if (!folder) snprintf(path, sizeof path, "%s", name);
    if (io_read_file(path, TEMPLATE_MAX_BYTES, &text, &len, e)) return -1;
    int status = take_source(c, text, len, path, e);
    mem_free(text);
    return status;
}

static int take_own(ChatTemplate *c, const Tokenizer *t, Err *e)
{
    size_t len, tool_len;
    char names[600];
    const char *text = tokenizer_chat_template(t, "default", &len);
    const char *tools = tokenizer_chat_template(t, "tool_use", &tool_len);
    c->own = 1;
    if (!tokenizer_template_name(t, 0)) {
        names_list(names, sizeof names);
        return err_set(e, ERR_DATA,
                       "the model has no chat template, so a conversation cannot be put into "
                       "text; choose one with --chat-template NAME: %s",
                       names);
    }
    if (!text && !tools) return no_default(t, e);
    if (tools && !(c->tool_use = template_parse(tools, tool_len, "chat template tool_use", e)))
        return -1;
    snprintf(c->name, sizeof c->name, "tool_use");
    return text ? take_source(c, text, len, "chat template", e) : 0;
}

static int take_named(ChatTemplate *c, const Tokenizer *t, const char *name, Err *e)
{
    size_t len;
    char shown[100];
    const char *text = t ? tokenizer_chat_template(t, name, &len) : NULL;
    const ChatBuiltin *b = chat_builtin(name);
    snprintf(shown, sizeof shown, "chat template %.80s", name);
    if (text) return take_source(c, text, len, shown, e);
    if (!b) return take_file(c, name, e);
    c->like = b;
    c->source = b->text;
    c->source_len = strlen(b->text);
    snprintf(c->name, sizeof c->name, "%s", b->name);
    c->main = template_parse(c->source, c->source_len, shown, e);
    return c->main ? 0 : -1;
}

ChatTemplate *chat_open(const Tokenizer *t, const char *name, const char *date, Err *e)
{
    ChatTemplate *c = mem_calloc(1, sizeof *c, e);
    if (!c) return NULL;
    if (!read_date(date, &c->now, e) && !(name ? take_named(c, t, name, e) : take_own(c, t, e)) &&
        !find_turn(c, t, e) && !find_controls(c, t, e))
        return c;
    chat_close(c);
    return NULL;
}

void chat_close(ChatTemplate *c)
{
    if (!c) return;
    template_free(c->main);
    template_free(c->tool_use);
    text_free(&c->opening);
    text_free(&c->ending);
    pool_free(&c->pool);
    mem_free(c);
}

const char *chat_name(const ChatTemplate *c)
{
    return c->name;
}

static int is_name(char ch)
{
    return ch == '_' || (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') ||
           (ch >= 'A' && ch <= 'Z');
}

int chat_reads(const ChatTemplate *c, const char *word)
{
    size_t n = strlen(word);
    const char *s = c->source;
    if (c->tool_use && !strcmp(word, "tools")) return 1;
    for (size_t i = 0; i + n <= c->source_len; i++)
        if (!memcmp(s + i, word, n) && (!i || !is_name(s[i - 1])) && !is_name(s[i + n])) return 1;
    return 0;
}

const char *chat_spelled(const ChatTemplate *c, const char *text, size_t len)
{
    for (const char *const *mark = c->like ? c->like->letters : NULL; mark && *mark; mark++)
        for (size_t i = 0, n = strlen(*mark); i + n <= len; i++)
            if (!memcmp(text + i, *mark, n)) return *mark;
    return NULL;
}

int chat_exists(const Tokenizer *t, const char *name)
{
    return name || tokenizer_template_name(t, 0);
}
