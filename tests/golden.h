/* golden.h - for tests that compare with tests/golden: files found, parsed, arrays read. */
#ifndef ALIGN_TEST_GOLDEN_H
#define ALIGN_TEST_GOLDEN_H

#include "data.h"
#include "io.h"
#include "test.h"

#include <stdlib.h>

/* Tests run from the project's folder, or from elsewhere with ALIGN_ROOT naming it. */
static inline const char *golden_path(const char *name)
{
    static char path[IO_PATH_MAX];
    const char *root = getenv("ALIGN_ROOT");
    snprintf(path, sizeof path, "%s/tests/golden/%s", root ? root : ".", name);
    return path;
}

static Pool golden_pool;

static inline const Json *golden_json(const char *name)
{
    char *text;
    size_t len;
    Err e;
    if (io_read_file(golden_path(name), 0, &text, &len, &e)) {
        printf("%s\n", e.text);
        exit(1);
    }
    const Json *j = json_parse(&golden_pool, text, len, name, 0, &e);
    if (!j) {
        printf("%s\n", e.text);
        exit(1);
    }
    mem_free(text);
    return j;
}

static inline double golden_number(const Json *object, const char *key)
{
    double x = 0;
    if (json_f64(json_get(object, key), &x)) {
        printf("golden file: no number %s\n", key);
        exit(1);
    }
    return x;
}

/* An array of numbers into out; returns how many. */
static inline size_t golden_numbers(const Json *array, double *out, size_t most)
{
    size_t n = 0;
    for (const Json *j = array->child; j && n < most; j = j->next) json_f64(j, &out[n++]);
    return n;
}

static inline size_t golden_ids(const Json *array, int32_t *out, size_t most)
{
    size_t n = 0;
    int64_t id;
    for (const Json *j = array->child; j && n < most; j = j->next)
        if (!json_i64(j, &id)) out[n++] = (int32_t)id;
    return n;
}

#endif
