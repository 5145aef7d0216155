/* data_unread.c - counts the columns of rows that nobody reads, and tells their names. */
#include "data.h"

#include <string.h>

/* Columns that commands of the loop read, besides the program's own: a row carries them from one
 * command to the next. */
static const char *const carried[] = {"harmful_level", "base_prompt", "method", "principle_index",
                                      "demonstration", NULL};

static int is_among(const char *key, const char *const *names)
{
    for (; *names; names++)
        if (!strcmp(key, *names)) return 1;
    return 0;
}

int unread_add(UnreadNames *u, const char *name, int in_turns, const char *why, size_t line,
               Err *e)
{
    size_t i = 0;
    while (i < u->n && (strcmp(u->names[i].name, name) || u->names[i].in_turns != in_turns)) i++;
    if (i == UNREAD_MAX) {
        i--;
        u->names[i].name = "others";
    }
    Unread *x = &u->names[i];
    if (i == u->n) {
        const char *copy = pool_strndup(&u->pool, name, strlen(name), e);
        if (!copy) return -1;
        *x = (Unread){.name = copy, .in_turns = in_turns};
        u->n++;
    }
    if (why) x->why = why;
    if (x->line == line) return 0;
    x->line = line;
    if (!x->count.rows++) x->count.line = line;
    return 0;
}

int unread_passes(const char *key)
{
    return data_owner(key) != OWNER_NONE || is_among(key, carried);
}

static int add_turns(UnreadNames *u, const Json *list, const char *const *reads,
                     const ChatTemplate *chat, size_t line, Err *e)
{
    for (const Json *turn = list->child; turn; turn = turn->next)
        for (const Json *v = turn->child; v; v = v->next)
            if (v->key && v->type != JSON_NULL && !is_among(v->key, reads) &&
                !(chat && chat_reads(chat, v->key)) && unread_add(u, v->key, 1, NULL, line, e))
                return -1;
    return 0;
}

int unread_turns(UnreadNames *u, const Json *list, const ChatTemplate *chat, size_t line, Err *e)
{
    static const char *const reads[] = {"role", "content", "from", "value", "tool_calls", NULL};
    return add_turns(u, list, reads, chat, line, e);
}

int data_chat_reads(const ChatTemplate *chat, const Json *column)
{
    const char *key = column->key;
    if (!chat) return 0;
    if (!strcmp(key, "tools") || !strcmp(key, "documents")) return chat_reads(chat, key);
    if (strcmp(key, "chat_template_kwargs")) return 0;
    for (const Json *k = column->child; k; k = k->next)
        if (k->key && chat_reads(chat, k->key)) return 1;
    return 0;
}

int unread_row(UnreadNames *u, const Json *row, const char *const *reads, int passes,
               size_t line, Err *e)
{
    static const char *const turns[] = {"role", "content", NULL};
    for (const Json *v = row->child; v; v = v->next) {
        if (v->type == JSON_NULL) continue;
        int read = is_among(v->key, reads);
        if (read && v->type == JSON_ARRAY && add_turns(u, v, turns, NULL, line, e)) return -1;
        if (read || (passes && unread_passes(v->key))) continue;
        if (unread_add(u, v->key, 0, NULL, line, e)) return -1;
    }
    return 0;
}

/* Writes "x" (2 rows, first: line 1): names are data, so they are quoted as in JSON. */
static int put_unread(const Unread *u, Text *out, Err *e)
{
    return json_put_string(out, u->name, strlen(u->name), e) ||
                   text_addf(out, e, "%s (%zu rows, first: line %zu)",
                             u->in_turns ? " of turns" : "", u->count.rows, u->count.line)
               ? -1
               : 0;
}

void unread_tell(const UnreadNames *u, const char *path, const char *rest, const Log *log)
{
    Text line = {0}, list = {0};
    Err ignored;
    for (size_t i = 0; i < u->n; i++) {
        const Unread *x = &u->names[i];
        Text *out = x->why ? &line : &list;
        line.len = 0;
        if (out == &list && list.len && text_add(&list, ", ", 2, &ignored)) break;
        if (put_unread(x, out, &ignored)) break;
        if (x->why) log_note(log, 'w', "%s: not read: %s; %s", path, line.data, x->why);
    }
    if (list.len && rest) log_note(log, 'i', "%s: not read%s: %s", path, rest, list.data);
    text_free(&line);
    text_free(&list);
}

void unread_free(UnreadNames *u)
{
    pool_free(&u->pool);
    *u = (UnreadNames){0};
}
