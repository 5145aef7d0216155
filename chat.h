/* chat.h - conversations to text and ids, as the model's chat template says.
 *
 * A chat template is a program in Jinja. We run none: the SHA-256 of its text picks a renderer
 * from a built-in table, and an unknown template is refused by its hash, never guessed at.
 * Message contents are data: they cannot become control tokens (see tokenizer_encode_marked).
 * The Llama 3.1 and 3.2 templates write a date into the system turn: see tokenizer_set_chat_date.
 */
#ifndef ALIGN_CHAT_H
#define ALIGN_CHAT_H

#include "base.h"
#include "tokenizer.h"

typedef struct {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
    size_t content_len;
} ChatMessage;

typedef struct ChatTemplate ChatTemplate;

/* The template of a model, or the one called override_name where that is not NULL (--chat-template
 * NAME). ERR_DATA where the model has no template, or one that is not in the table (naming its
 * hash), ERR_USAGE for an unknown name; the messages list the names. */
const ChatTemplate *chat_find(const Tokenizer *t, const char *override_name, Err *e);
const char *chat_name(const ChatTemplate *c);
/* The i-th name of the table, NULL beyond the last: for help texts. */
const char *chat_list(size_t i);

/* Appends the ids that transformers' apply_chat_template(tokenize=True) gives for messages without
 * special-token spellings in their contents; such spellings stay text unless flags has
 * TOKENIZE_SPECIAL. ERR_DATA with the template's own reason where it refuses the roles. */
int chat_encode(const ChatTemplate *c, const Tokenizer *t, const ChatMessage *m, size_t n,
                int add_generation_prompt, int flags, Ids *out, Err *e);
/* The text alone, as apply_chat_template(tokenize=False) gives it. */
int chat_render(const ChatTemplate *c, const Tokenizer *t, const ChatMessage *m, size_t n,
                int add_generation_prompt, Text *out, Err *e);

#endif
