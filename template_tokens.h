/* template_tokens.h - the tokens of a template, between the two files that read its text. */
#ifndef ALIGN_TEMPLATE_TOKENS_H
#define ALIGN_TEMPLATE_TOKENS_H

#include "template_parts.h"

typedef enum {
    T_DATA,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_VARIABLE_BEGIN,
    T_VARIABLE_END,
    T_NAME,
    T_TEXT,
    T_INT,
    T_FLOAT,
    T_OP,
    T_END
} TokenType;

typedef struct {
    TokenType type;
    int op; /* T_OP */
    int line;
    const char *bytes; /* data, name, decoded string */
    size_t len;
    Value value; /* T_INT, T_FLOAT */
} Token;

#define OP2(a, b) ((a) << 8 | (b))

typedef struct Name Name;
struct Name {
    const char *text;
    Name *next;
};
enum { NAME_ROWS = 4096 };

typedef struct {
    Template *t;
    Name **names; /* interned, by a hash */
    const char *text;
    size_t len, at;
    int line;
    size_t line_at; /* lines are counted up to here */
    int line_starts;
    Token *tokens;
    size_t count, cap;
    size_t next; /* of the parser */
    int nesting;
    int loops; /* loops that break and continue may leave */
    Err *e;
} Parser;

/* NAME:LINE: and what was found there: ERR_DATA, always -1. */
int parser_stop(Parser *p, int line, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Cuts the text into p->tokens; the last one is T_END. */
int parser_lex(Parser *p, const char *text, size_t len);

#endif
