/* chat.h - turns conversations into text and ids by a chat template.
 *
 * A chat template is a program in Jinja, which template.h runs as it is written: the model's own,
 * one of a file, or one of the built-in ones (chat_builtin.c). What messages and rows say is data:
 * it cannot become control tokens (see tokenizer_encode_marked), whatever the template does to it.
 */
#ifndef ALIGN_CHAT_H
#define ALIGN_CHAT_H

#include "base.h"
#include "json.h"
#include "tokenizer.h"

typedef struct {
    const char *role; /* "system", "user", "assistant", or what else the template knows */
    const char *content;
    size_t content_len;
    const Json *turn; /* the message as a row has it, whose members count instead; or NULL */
} ChatMessage;

/* A message of these two alone. */
static inline ChatMessage chat_message(const char *role, const char *content, size_t len)
{
    return (ChatMessage){role, content, len, NULL};
}

enum { CHAT_OPEN = -1 };

/* A conversation, as apply_chat_template takes it. */
typedef struct {
    const ChatMessage *messages;
    size_t count;
    int prompt; /* 1 = add_generation_prompt: the opening of an answer is written behind it;
                 * CHAT_OPEN: the last message was cut, and nothing is written behind its text */
    /* The object whose members "tools", "documents" and "chat_template_kwargs" the template may
     * read, each of them optional; or NULL. "tools" may be JSON in a string, as in TRL. */
    const Json *row;
} Chat;

typedef struct ChatTemplate ChatTemplate;

/* Opens the model's own template, or the one that name (--chat-template) says if it is not NULL:
 * one of the model's templates, a built-in one, a file of Jinja, or a folder with a
 * chat_template.jinja. Of several, "tool_use" renders rows with tools, and "default" the others, as
 * in transformers. date: the day YYYY-MM-DD that strftime_now tells, NULL = today. NULL with *e:
 * ERR_DATA if the model has no template or it cannot be parsed, ERR_USAGE for an unknown name
 * (the message lists the names) or a day that does not exist. */
ChatTemplate *chat_open(const Tokenizer *t, const char *name, const char *date, Err *e);
void chat_close(ChatTemplate *c); /* c may be NULL */
/* Returns the name of the built-in template that writes the same, or else "SHA-256 0123...". */
const char *chat_name(const ChatTemplate *c);
/* Returns the i-th built-in name, NULL beyond the last. */
const char *chat_list(size_t i);
/* Does the template name the word? It can read nothing that it does not name. */
int chat_reads(const ChatTemplate *c, const char *word);
/* The day YYYY-MM-DD that the template is told. */
enum { CHAT_DATE = 11 };
void chat_date(const ChatTemplate *c, char out[CHAT_DATE]);
/* Is there a template to open? Either name is given, or the model has one. */
int chat_exists(const Tokenizer *t, const char *name);

/* Appends the ids that transformers' apply_chat_template(tokenize=True) gives for a conversation
 * without special-token spellings in its contents; such spellings stay text unless flags has
 * TOKENIZE_SPECIAL. *no_system (NULL: not asked) = 1 where the template leaves the conversation's
 * first message, of the system, out. ERR_DATA with the template's own reason if it refuses. */
int chat_encode(const ChatTemplate *c, const Tokenizer *t, const Chat *chat, int flags, Ids *out,
                int *no_system, Err *e);
/* The same for a whole conversation (*out is emptied first), and in *answers a byte for each id: 1
 * if it belongs to an answer. These are the assistant masks of templates with {% generation %};
 * where a template has none, an answer goes from the end of the opening of its turn to the end of
 * what the template writes behind an answer. */
int chat_encode_answers(const ChatTemplate *c, const Tokenizer *t, const Chat *chat, int flags,
                        Ids *out, Text *answers, Err *e);
/* Appends only the text, as apply_chat_template(tokenize=False) gives it. */
int chat_render(const ChatTemplate *c, const Tokenizer *t, const Chat *chat, Text *out, Err *e);

/* Returns a mark that the template writes in letters and the text spells, too: nobody can tell the
 * two apart, here as in transformers. NULL if there is none. */
const char *chat_spelled(const ChatTemplate *c, const char *text, size_t len);

/* Finds what the template writes after an assistant's answer, without white space around it: the
 * token that ends the turn, or id -1 and the text if this tokenizer spells it in pieces. */
enum { CHAT_END_MAX = 64 };
typedef struct {
    int32_t id;
    char text[CHAT_END_MAX];
} ChatEnd;
int chat_end(const ChatTemplate *c, const Tokenizer *t, ChatEnd *end, Err *e);

/* ---- does it belong here? (chat_check.c) ---------------------------------------------------- */

/* Says it where control tokens of the template are none of the tokenizer's, and where a template
 * takes the place of the model's own: with what only one of them writes, a system turn.
 * has_system: every conversation has a system message. c may be NULL: nothing to say. */
void chat_check(const ChatTemplate *c, const Tokenizer *t, int has_system, const Log *log);
/* Says it where rows of plain text are none of the conversations that the model was taught. */
void chat_check_plain(const Tokenizer *t, const Log *log);
/* Says it where an adapter was trained with another template than c (NULL: plain text): by the
 * record of its run around it (inputs.json, config.json), or by the template that other trainers
 * save beside it. adapter may be NULL or "". */
void chat_check_adapter(const ChatTemplate *c, const char *adapter, const Log *log);
/* The same for a model `made` of the tokenizer's model and the adapter: it keeps the base's own. */
void chat_check_merged(const Tokenizer *t, const char *adapter, const char *made, const Log *log);

#endif
