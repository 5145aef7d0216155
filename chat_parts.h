/* chat_parts.h - what the files of the chat room share: built-in templates and an open one. */
#ifndef ALIGN_CHAT_PARTS_H
#define ALIGN_CHAT_PARTS_H

#include "chat.h"
#include "template.h"

/* A built-in template. */
typedef struct {
    const char *name; /* for --chat-template */
    const char *text;
    /* What a tokenizer made for the template holds as single tokens, then NULL; none where the
     * published models spell all of it in letters: [INST] is a token from Mistral's v0.3 on,
     * <|user|> none of Zephyr's. The tokenizer's own BOS and EOS are not counted. */
    const char *const *controls;
    const char *const *letters; /* its marks in letters: a text may spell them; or NULL */
    int dated; /* every conversation begins with a system turn of dates */
} ChatBuiltin;

extern const ChatBuiltin chat_builtins[]; /* the last one has no name */
const ChatBuiltin *chat_builtin(const char *name); /* NULL: there is none */

enum { CHAT_NAME = 40, CHAT_CONTROLS = 24 };

struct ChatTemplate {
    Pool pool;
    char name[CHAT_NAME];
    int own; /* the model's own, by its order of templates */
    const char *source; /* NULL: a model without a default */
    size_t source_len;
    Template *main, *tool_use;  /* tool_use: for rows with tools, or NULL */
    const ChatBuiltin *like;    /* the built-in template that writes the same, or NULL */
    const char *controls[CHAT_CONTROLS + 1]; /* texts of control tokens, then NULL */
    TemplateTime now;
    Text opening, ending; /* what stands before an answer's content, behind the prompt; behind it */
};

/* "llama3", or "SHA-256 e10ca381..." of a source that writes what no built-in template does. -1
 * where memory is short. */
int chat_name_text(const char *text, size_t len, char out[CHAT_NAME], const ChatBuiltin **like,
                   Err *e);

#endif
