/* data_hints.c - advises for rows with other columns which --map, or which command, makes them
 * fit. */
#include "data_parts.h"

#include <string.h>

const char *const data_column_names[COLUMN_COUNT] = {
    "prompt", "chosen", "rejected", "completion", "label", "messages", "text"};

static void count_row(RowCount *c, size_t line)
{
    if (!c->rows++) c->line = line;
}

void data_note(Loader *l, RowNote note, size_t line)
{
    count_row(&l->d->report.notes[note], line);
}

/* Names that columns have in published data sets. */
static const struct {
    Column column;
    const char *name;
} aliases[] = {
    {COLUMN_PROMPT, "question"},        {COLUMN_PROMPT, "instruction"},
    {COLUMN_PROMPT, "query"},           {COLUMN_PROMPT, "input"},
    {COLUMN_PROMPT, "problem"},         {COLUMN_PROMPT, "user"},
    {COLUMN_PROMPT, "messages"},
    {COLUMN_COMPLETION, "answer"},      {COLUMN_COMPLETION, "output"},
    {COLUMN_COMPLETION, "response"},    {COLUMN_COMPLETION, "solution"},
    {COLUMN_COMPLETION, "assistant"},   {COLUMN_COMPLETION, "target"},
    {COLUMN_COMPLETION, "chosen"},
    {COLUMN_CHOSEN, "chosen_response"}, {COLUMN_CHOSEN, "response_chosen"},
    {COLUMN_CHOSEN, "preferred"},       {COLUMN_CHOSEN, "accepted"},
    {COLUMN_CHOSEN, "winner"},          {COLUMN_CHOSEN, "better"},
    {COLUMN_REJECTED, "rejected_response"}, {COLUMN_REJECTED, "response_rejected"},
    {COLUMN_REJECTED, "dispreferred"},  {COLUMN_REJECTED, "loser"},
    {COLUMN_REJECTED, "worse"},         {COLUMN_LABEL, "liked"},
    {COLUMN_LABEL, "thumbs_up"},        {COLUMN_LABEL, "desirable"},
    {COLUMN_LABEL, "good"},             {COLUMN_MESSAGES, "conversations"},
    {COLUMN_MESSAGES, "conversation"},  {COLUMN_MESSAGES, "dialogue"},
    {COLUMN_MESSAGES, "turns"},         {COLUMN_TEXT, "content"},
};

/* Returns the column of a row that is `column` under another name, or NULL. */
static const char *alias_of(const Json *row, Column column)
{
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        const Json *v = json_get(row, aliases[i].name);
        if (aliases[i].column == column && v && v->type != JSON_NULL) return aliases[i].name;
    }
    return NULL;
}

/* "prompt=question,completion=answer" for a set of columns, if the row has them all. */
static int map_for(const Loader *l, const Line *line, unsigned set, Text *map, Err *e)
{
    map->len = 0;
    for (unsigned c = 0; c < COLUMN_COUNT; c++) {
        if (!(set & BIT(c)) || line->value[c]) continue;
        const char *alias = alias_of(line->json, (Column)c);
        if (!alias) return 0;
        if (text_addf(map, e, "%s%s=%s", map->len ? "," : "", data_column_names[c], alias))
            return -1;
    }
    (void)l;
    return map->len > 0;
}

/* Does a row have a column that is read, by its own or another name? Turns and tools have none. */
static int has_known_column(const Json *row)
{
    if (json_get(row, "role") || json_get(row, "from")) return 0;
    for (unsigned c = 0; c < COLUMN_COUNT; c++)
        if (json_get(row, data_column_names[c]) || alias_of(row, (Column)c)) return 1;
    return 0;
}

/* {"data":[{...}]}: recognises rows inside a row. */
static const char *rows_inside(const Json *row)
{
    for (const Json *v = row->child; v; v = v->next) {
        if (v->type == JSON_ARRAY && v->child && v->child->type == JSON_OBJECT &&
            has_known_column(v->child))
            return v->key;
    }
    return NULL;
}

int data_hint(const Loader *l, const Line *line, const unsigned *sets, Text *out, Err *e)
{
    Text map = {0};
    int found = 0, status = 0;
    const char *inside = rows_inside(line->json);
    const Json *input = json_get(line->json, "input");
    int alpaca = json_get(line->json, "instruction") && input && input->type == JSON_STRING &&
                 input->len;
    for (const unsigned *set = sets; *set && !found && status >= 0; set++)
        status = found = map_for(l, line, *set, &map, e);
    if (found > 0 && alpaca)
        status = text_addf(out, e,
                           " (jq -c '{prompt: (.instruction + \"\\n\\n\" + .input), completion: "
                           ".output}' FILE >rows.jsonl)");
    else if (found > 0)
        status = text_addf(out, e, "%s%s%s", advice("map", " (--map "), advice("map", map.data),
                           advice("map", ")"));
    else if (line->value[COLUMN_MESSAGES] && l->o->kind <= DATA_UNPAIRED && !inside)
        status = text_addf(out, e, " (conversations of \"messages\" are learnt by align sft)");
    else if (inside)
        status = text_addf(out, e, " (its rows are in \"%.60s\": jq -c '.\"%.60s\"[]' FILE "
                                   ">rows.jsonl)",
                           inside, inside);
    else if (status >= 0)
        status = text_addf(out, e, "%s; it has ",
                           advice("map", " (--map NAME=COLUMN for other names)")) ||
                 data_put_columns(line->json, out, e);
    text_free(&map);
    return status < 0 ? -1 : 0;
}
