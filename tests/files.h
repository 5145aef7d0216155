/* files.h - for tests that need files: a temporary folder, small edits of JSON text. */
#ifndef ALIGN_TEST_FILES_H
#define ALIGN_TEST_FILES_H

#include "golden.h"
#include "io.h"

#include <stdlib.h>
#include <unistd.h>

static char files_dir[IO_PATH_MAX]; /* of this test program; removed by files_end */

static inline const char *files_begin(void)
{
    /* A disk in memory where there is one: these tests sync thousands of small files. */
    const char *base = getenv("TMPDIR"), *fast = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    snprintf(files_dir, sizeof files_dir, "%s/align-test-XXXXXX", base ? base : fast);
    if (!mkdtemp(files_dir)) printf("cannot make %s\n", files_dir), exit(1);
    return files_dir;
}

static inline void files_end(void)
{
    Err e;
    if (io_remove_tree(files_dir, &e)) printf("%s\n", e.text);
}

/* A path in the temporary folder; the last four stay valid. */
static inline const char *files_path(const char *name)
{
    static char path[4][IO_PATH_MAX + 512];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", files_dir, name);
    return p;
}

static inline void files_write(const char *name, const char *text, size_t len)
{
    Err e;
    if (io_write_file(files_path(name), text, len, &e)) printf("%s\n", e.text), exit(1);
}

static inline char *files_read(const char *path, size_t *len)
{
    static char *text; /* static: gcc 12 takes a local here for a dangling pointer */
    Err e;
    if (io_read_file(path, 0, &text, len, &e)) {
        printf("%s\n", e.text);
        exit(1);
    }
    return text;
}

static inline void files_copy(const char *from, const char *name)
{
    size_t len;
    char *text = files_read(from, &len);
    files_write(name, text, len);
    mem_free(text);
}

/* Writes `name` as the text of `from` with its only `find` replaced by `put`. */
static inline void files_edit(const char *from, const char *name, const char *find, const char *put)
{
    size_t len;
    Err e;
    char *text = files_read(from, &len);
    const char *found = strstr(text, find);
    Text out = {0};
    if (!found) {
        printf("%s: no \"%s\" to replace\n", from, find);
        exit(1);
    }
    size_t at = (size_t)(found - text), after = at + strlen(find);
    if (text_add(&out, text, at, &e) || text_add(&out, put, strlen(put), &e) ||
        text_add(&out, text + after, len - after, &e))
        exit(1);
    files_write(name, out.data, out.len);
    text_free(&out);
    mem_free(text);
}

/* main of a test program that needs the folder, and nothing else before its tests. */
#define FILES_TEST_MAIN(tests)                                                                     \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        files_begin();                                                                             \
        int status = test_main(tests, sizeof(tests) / sizeof(tests)[0], argc, argv);               \
        files_end();                                                                               \
        return status;                                                                             \
    }

/* A failed call: its code, and a part of its one line. */
#define CHECK_ERR(e, want, part)                                                                   \
    (CHECK((e).code == (want)), CHECK(strstr((e).text, (part)) != NULL),                           \
     (strstr((e).text, (part)) ? (void)0 : (void)printf("  message: %s\n", (e).text)))

/* Of tests that write files, and may read golden ones. */
#define FILES_MAIN(tests)                                                                          \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        files_begin();                                                                             \
        int status = test_main(tests, sizeof(tests) / sizeof(tests)[0], argc, argv);               \
        files_end();                                                                               \
        pool_free(&golden_pool);                                                                   \
        return status;                                                                             \
    }

#endif
