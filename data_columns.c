/* data_columns.c - the columns that the program writes itself, and who writes them. */
#include "data.h"

#include <string.h>

static const struct {
    const char *key;
    ColumnOwner owner;
} columns[] = {
    {"index", OWNER_PROMPT},        {"prompt", OWNER_PROMPT},     {"sample", OWNER_SAMPLE},
    {"response", OWNER_SAMPLE},     {"token_ids", OWNER_SAMPLE},  {"finish", OWNER_SAMPLE},
    {"action", OWNER_VERDICT},      {"judge", OWNER_VERDICT},     {"evidence", OWNER_VERDICT},
    {"probability", OWNER_VERDICT}, {"agreement", OWNER_VERDICT}, {"unparsed", OWNER_VERDICT},
    {"cut", OWNER_VERDICT},         {"judged", OWNER_VERDICT},    {"review", OWNER_VERDICT},
    {"review_of", OWNER_VERDICT},
};

ColumnOwner data_owner(const char *key)
{
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        if (!strcmp(key, columns[i].key)) return columns[i].owner;
    return OWNER_NONE;
}
