/* test_io.c - files: reading, atomic writing, locks, hashes, JSONL. */
#include "base.h"
#include "io.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static Err e;
static char dir[200];

/* A path inside of the test's own directory; four may be in use at a time. */
static const char *in_dir(const char *name)
{
    static char paths[4][IO_PATH_MAX];
    static int turn;
    turn = (turn + 1) % 4;
    io_path(paths[turn], sizeof paths[turn], dir, name, &e);
    return paths[turn];
}

static void put(const char *name, const void *bytes, size_t len)
{
    FILE *f = fopen(in_dir(name), "wb");
    CHECK(f && fwrite(bytes, 1, len, f) == len);
    if (f) fclose(f);
}

static void put_text(const char *name, const char *text)
{
    put(name, text, strlen(text));
}

/* The content of a file as text, or "(none)". */
static const char *content(const char *name)
{
    static char text[2][1000];
    static int turn;
    turn = !turn;
    FILE *f = fopen(in_dir(name), "rb");
    if (!f) return "(none)";
    size_t n = fread(text[turn], 1, sizeof text[turn] - 1, f);
    text[turn][n] = 0;
    fclose(f);
    return text[turn];
}

/* How many files of the directory have names that contain `part`. */
static size_t count_names(const char *part)
{
    Pool pool = {0};
    char **names;
    size_t n = 0, found = 0;
    CHECK_OK(io_list(dir, &pool, &names, &n, &e), &e);
    for (size_t i = 0; i < n; i++) found += strstr(names[i], part) != NULL;
    pool_free(&pool);
    return found;
}

static void whole_files(void)
{
    char *data;
    size_t len;
    put_text("a", "hello");
    CHECK_OK(io_read_file(in_dir("a"), 0, &data, &len, &e), &e);
    CHECK_INT(len, 5);
    CHECK_TEXT(data, "hello");
    mem_free(data);
    CHECK_OK(io_read_file(in_dir("a"), 5, &data, &len, &e), &e);
    mem_free(data);
    CHECK_FAILS(io_read_file(in_dir("a"), 4, &data, &len, &e), &e, ERR_DATA);
    CHECK_HAS(e.text, "/a: 5 bytes, the limit for such a file is 4");
    put_text("empty", "");
    CHECK_OK(io_read_file(in_dir("empty"), 0, &data, &len, &e), &e);
    CHECK_INT(len, 0);
    CHECK_INT(data[0], 0);
    mem_free(data);
    size_t big = 3000000;
    char *bytes = mem_alloc(big, &e);
    for (size_t i = 0; i < big; i++) bytes[i] = (char)(i * 31 >> 3);
    put("big", bytes, big);
    CHECK_OK(io_read_file(in_dir("big"), 0, &data, &len, &e), &e);
    CHECK_INT(len, big);
    CHECK(!memcmp(data, bytes, big));
    mem_free(data);
    mem_free(bytes);
    /* A regular file of the kernel that claims size 0. */
    if (io_exists("/proc/self/status")) {
        CHECK(io_read_file("/proc/self/status", 0, &data, &len, &e) == 0 && len > 10);
        mem_free(data);
    }
}

/* T36: directory, FIFO, missing, unreadable, symlink loop: no input, by name, without waiting. */
static void inputs_that_are_none(void)
{
    char *data;
    size_t len;
    FileMap m;
    io_make_directory(in_dir("d"), 0, &e);
    CHECK_INT(mkfifo(in_dir("fifo"), 0600), 0);
    CHECK_INT(symlink("loop", in_dir("loop")), 0);
    put_text("secret", "x");
    chmod(in_dir("secret"), 0);
    static const char *const names[] = {"d", "fifo", "loop", "missing", "d/none", "secret"};
    size_t count = sizeof names / sizeof names[0] - (geteuid() == 0); /* root reads everything */
    for (size_t i = 0; i < count; i++) {
        CHECK_INT(io_read_file(in_dir(names[i]), 0, &data, &len, &e), -1);
        CHECK_INT(e.code, ERR_NO_INPUT);
        CHECK_HAS(e.text, names[i]);
        CHECK_INT(filemap_open(&m, in_dir(names[i]), 1, &e), -1);
        CHECK_INT(e.code, ERR_NO_INPUT);
        CHECK_HAS(e.text, names[i]);
    }
    CHECK_INT(io_read_file(in_dir("d"), 0, &data, &len, &e), -1);
    CHECK_HAS(e.text, "found a directory, expected a regular file");
    CHECK_FAILS(io_read_file("/dev/null", 0, &data, &len, &e), &e, ERR_NO_INPUT);
}

static void maps_and_reads_agree(void)
{
    FileMap a, b;
    put_text("m", "mapped");
    CHECK_OK(filemap_open(&a, in_dir("m"), 1, &e), &e);
    CHECK_OK(filemap_open(&b, in_dir("m"), 0, &e), &e);
    CHECK(a.mapped && !b.mapped && a.size == 6 && b.size == 6);
    CHECK(!memcmp(a.data, "mapped", 6) && !memcmp(b.data, "mapped", 6));
    CHECK_TEXT(a.path, in_dir("m"));
    /* Replacing a mapped file must leave the map as it was. */
    CHECK_OK(io_write_file(in_dir("m"), "changed!", 8, &e), &e);
    CHECK(!memcmp(a.data, "mapped", 6));
    filemap_close(&a);
    filemap_close(&b);
    put_text("m", "");
    CHECK(filemap_open(&a, in_dir("m"), 1, &e) == 0 && a.size == 0 && !a.mapped);
    filemap_close(&a);
    filemap_close(&a);
}

static void paths_fit_or_fail(void)
{
    char out[10];
    CHECK_OK(io_path(out, sizeof out, "ab", "cd", &e), &e);
    CHECK_TEXT(out, "ab/cd");
    CHECK_OK(io_path(out, sizeof out, "ab/", "cd", &e), &e);
    CHECK_TEXT(out, "ab/cd");
    CHECK_OK(io_path(out, sizeof out, "", "cd", &e), &e);
    CHECK_TEXT(out, "cd");
    CHECK_OK(io_path(out, sizeof out, "1234", "5678", &e), &e);
    CHECK_FAILS(io_path(out, sizeof out, "1234", "56789", &e), &e, ERR_USAGE);
}

static void directories(void)
{
    struct stat st;
    Pool pool = {0};
    char **names;
    size_t n;
    CHECK_OK(io_make_directory(in_dir("t"), 1, &e), &e);
    CHECK_INT(stat(in_dir("t"), &st), 0);
    CHECK_INT((st.st_mode & 0777), 0700);
    CHECK_OK(io_make_directory(in_dir("t"), 1, &e), &e); /* existing is fine */
    put_text("t/b", "1");
    put_text("t/a", "2");
    io_make_directory(in_dir("t/sub"), 0, &e);
    put_text("t/sub/c", "3");
    put_text("outside", "keep me");
    CHECK_INT(symlink("../outside", in_dir("t/link")), 0);
    CHECK_INT(symlink("..", in_dir("t/up")), 0);
    CHECK_OK(io_list(in_dir("t"), &pool, &names, &n, &e), &e);
    CHECK_INT(n, 5);
    static const char *const expected[] = {"a", "b", "link", "sub", "up"};
    for (size_t i = 0; i < n && i < 5; i++) CHECK_TEXT(names[i], expected[i]);
    pool_free(&pool);
    CHECK(io_exists(in_dir("t/link")) && io_is_directory(in_dir("t/up")));
    CHECK_OK(io_remove_tree(in_dir("t"), &e), &e);
    CHECK(!io_exists(in_dir("t")) && !strcmp(content("outside"), "keep me"));
    CHECK_OK(io_remove_tree(in_dir("t"), &e), &e); /* already gone */
    put_text("file", "x");
    CHECK_FAILS(io_make_directory(in_dir("file"), 0, &e), &e, ERR_CREATE);
    CHECK_HAS(e.text, "found a file, expected a directory");
    CHECK_FAILS(io_make_directory(in_dir("no/where"), 0, &e), &e, ERR_CREATE);
    CHECK_FAILS(io_list(in_dir("no"), &pool, &names, &n, &e), &e, ERR_NO_INPUT);
    CHECK_OK(io_sync_directory(dir, &e), &e);
    CHECK_INT(io_sync_directory(in_dir("no"), &e), -1);
    CHECK_OK(io_rename(in_dir("file"), in_dir("renamed"), &e), &e);
    CHECK(io_exists(in_dir("renamed")) && !io_exists(in_dir("file")));
    CHECK_FAILS(io_rename(in_dir("file"), in_dir("again"), &e), &e, ERR_IO);
    uint64_t free_bytes = 0;
    CHECK(io_free_space(dir, &free_bytes, &e) == 0 && free_bytes > 0);
    CHECK_INT(io_free_space(in_dir("no"), &free_bytes, &e), -1);
}

static void writes_are_whole(void)
{
    struct stat st;
    put_text("w", "old");
    chmod(in_dir("w"), 0600);
    Writer w;
    CHECK_OK(writer_open(&w, in_dir("w"), &e), &e);
    CHECK_OK(writer_put(&w, "new ", 4, &e), &e);
    CHECK_OK(writer_put(&w, "7 x", 3, &e), &e);
    CHECK_TEXT(content("w"), "old"); /* until the commit */
    CHECK_INT(count_names(".tmp."), 1);
    CHECK_INT(w.total, 7);
    CHECK_OK(writer_commit(&w, &e), &e);
    CHECK_TEXT(content("w"), "new 7 x");
    CHECK_INT(count_names(".tmp."), 0);
    CHECK_INT(stat(in_dir("w"), &st), 0);
    CHECK_INT((st.st_mode & 0777), 0600); /* stays private */
    writer_abort(&w);                                                  /* after a commit: nothing */
    CHECK_TEXT(content("w"), "new 7 x");

    CHECK_OK(writer_open(&w, in_dir("w"), &e), &e);
    CHECK_OK(writer_put(&w, "lost", 4, &e), &e);
    writer_abort(&w);
    CHECK_TEXT(content("w"), "new 7 x");
    CHECK_INT(count_names(".tmp."), 0);
    writer_abort(&w);
    CHECK_FAILS(writer_put(&w, "x", 1, &e), &e, ERR_INTERNAL);
    CHECK_INT(writer_commit(&w, &e), -1);
}

static void writes_of_any_size(void)
{
    size_t n = 1000000, at = 0;
    unsigned char *bytes = mem_alloc(n, &e);
    for (size_t i = 0; i < n; i++) bytes[i] = (unsigned char)rng_u64(1, 2, i);
    Writer w;
    CHECK_OK(writer_open(&w, in_dir("sizes"), &e), &e);
    for (uint64_t i = 0; at < n; i++) { /* pieces around the buffer's size, empty ones too */
        size_t piece = (size_t)(rng_u64(3, 4, i) % (i % 3 ? 300 : 150000));
        if (piece > n - at) piece = n - at;
        CHECK_OK(writer_put(&w, bytes + at, piece, &e), &e);
        at += piece;
    }
    CHECK_OK(writer_commit(&w, &e), &e);
    char *data;
    size_t len;
    CHECK_OK(io_read_file(in_dir("sizes"), 0, &data, &len, &e), &e);
    CHECK_INT(len, n);
    CHECK(!memcmp(data, bytes, n));
    mem_free(data);
    mem_free(bytes);
}

static void outputs_that_cannot_be(void)
{
    Writer w;
    put_text("plain", "x");
    io_make_directory(in_dir("locked"), 0, &e);
    chmod(in_dir("locked"), 0500);
    CHECK_INT(symlink("nowhere", in_dir("dangling")), 0);
    static const char *const names[] = {"none/x", "plain/x", ".", "dangling", "locked/x"};
    size_t count = sizeof names / sizeof names[0] - (geteuid() == 0); /* root writes everywhere */
    for (size_t i = 0; i < count; i++) {
        CHECK_INT(writer_open(&w, in_dir(names[i]), &e), -1);
        CHECK_INT(e.code, ERR_CREATE);
        CHECK_HAS(e.text, in_dir(names[i]));
        CHECK(!w.open);
    }
    CHECK_TEXT(content("plain"), "x");
    CHECK_INT(count_names(".tmp."), 0);
}

/* A link stays a link; what it points to is replaced. */
static void writes_through_links(void)
{
    struct stat st;
    io_make_directory(in_dir("real"), 0, &e);
    put_text("real/file", "old");
    CHECK_INT(symlink("real/file", in_dir("alias")), 0);
    CHECK_OK(io_write_file(in_dir("alias"), "new", 3, &e), &e);
    CHECK(lstat(in_dir("alias"), &st) == 0 && S_ISLNK(st.st_mode));
    CHECK_TEXT(content("real/file"), "new");
}

/* Inside of a directory that is held no link is followed, be it the file or a folder before it. */
static void held_directories_follow_no_link(void)
{
    IoLock lock;
    struct stat st;
    Writer w;
    io_make_directory(in_dir("away"), 0, &e);
    io_make_directory(in_dir("run"), 0, &e);
    put_text("away/file", "old");
    CHECK_INT(symlink("run", in_dir("latest")), 0); /* the run itself may be named by a link */
    CHECK_INT(symlink("../away/file", in_dir("run/file")), 0);
    CHECK_INT(symlink("../away", in_dir("run/folder")), 0);
    CHECK_INT(symlink("nowhere", in_dir("run/dangling")), 0);
    CHECK_INT(mkfifo(in_dir("run/pipe"), 0600), 0);
    static const char *const files[] = {"file", "folder/file", "folder/new", "dangling", "pipe"};
    for (int slash = 0; slash < 2; slash++) {
        char run[IO_PATH_MAX], path[IO_PATH_MAX];
        snprintf(run, sizeof run, "%s%s", in_dir("latest"), slash ? "/" : "");
        CHECK_OK(io_lock(&lock, run, &e), &e);
        for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
            CHECK_OK(io_path(path, sizeof path, run, files[i], &e), &e);
            CHECK_FAILS(writer_open(&w, path, &e), &e, ERR_CREATE);
            CHECK_HAS(e.text, i < 4 ? "is a symbolic link" : "a pipe");
            CHECK_FAILS(io_append_line(path, "x", 1, 0, &e), &e, ERR_CREATE);
        }
        CHECK_OK(io_path(path, sizeof path, run, "folder", &e), &e);
        CHECK_FAILS(io_make_directory(path, 0, &e), &e, ERR_CREATE);
        CHECK_OK(io_path(path, sizeof path, run, "folder/file", &e), &e);
        CHECK_INT(io_remove_tree(path, &e), -1);
        CHECK_INT(io_rename(in_dir("run/LOCK"), path, &e), -1);
        CHECK_OK(io_path(path, sizeof path, run, "plain", &e), &e);
        CHECK_OK(io_write_file(path, "x", 1, &e), &e);
        CHECK_OK(io_append_line(path, "y", 1, 0, &e), &e);
        io_unlock(&lock);
    }
    CHECK_TEXT(content("away/file"), "old");
    CHECK(!io_exists(in_dir("away/new")) && !io_exists(in_dir("nowhere")));
    CHECK(lstat(in_dir("run/file"), &st) == 0 && S_ISLNK(st.st_mode));
    CHECK_TEXT(content("run/plain"), "xy\n");
}

/* The other name of a log keeps what it has. */
static void logs_are_appended_alone(void)
{
    put_text("log1", "a\n");
    CHECK_INT(link(in_dir("log1"), in_dir("backup")), 0);
    CHECK_OK(io_append_line(in_dir("log1"), "b", 1, 1, &e), &e);
    CHECK_TEXT(content("log1"), "a\nb\n");
    CHECK_TEXT(content("backup"), "a\n");
    CHECK_INT(symlink("log1", in_dir("log2")), 0);
    CHECK_FAILS(io_append_line(in_dir("log2"), "c", 1, 0, &e), &e, ERR_CREATE);
    CHECK_TEXT(content("log1"), "a\nb\n");
}

/* What a killed process left beside an output goes when that is written again; what a living one
 * writes stays, as does what is none of ours. */
static void leftovers_are_swept(void)
{
    Writer w;
    put_text("out.tmp.12.0123abcd", "half");
    put_text("out.tmp.12", "half, of a former version");
    put_text("out.tmp.12.txt", "not ours");
    put_text("out.tmp.12.0123abcde", "not ours");
    CHECK_OK(writer_open(&w, in_dir("out"), &e), &e);
    CHECK_OK(writer_put(&w, "new", 3, &e), &e);
    CHECK(!io_exists(in_dir("out.tmp.12.0123abcd")) && !io_exists(in_dir("out.tmp.12")));
    CHECK_INT(count_names("out.tmp."), 3);
    CHECK_OK(io_write_file(in_dir("out"), "between", 7, &e), &e);
    CHECK_INT(count_names("out.tmp."), 3);
    CHECK_OK(writer_commit(&w, &e), &e);
    CHECK_TEXT(content("out"), "new");
    CHECK_OK(writer_open(&w, in_dir("out"), &e), &e);
    io_drop_temporaries(); /* as when the process must end at once */
    CHECK_INT(count_names("out.tmp."), 2);
    writer_abort(&w);
    CHECK_TEXT(content("out"), "new");
    unlink(in_dir("out.tmp.12.txt"));
    unlink(in_dir("out.tmp.12.0123abcde"));
}

/* What is said where a system call fails: the input is missing, or the machine lacks something. */
static void exit_codes_of_errno(void)
{
    char *data, **names;
    size_t len;
    Pool pool = {0};
    struct rlimit old, few;
    put_text("some", "x");
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &old), 0);
    few = (struct rlimit){.rlim_cur = 0, .rlim_max = old.rlim_max};
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &few), 0);
    int read = io_read_file(in_dir("some"), 0, &data, &len, &e) ? e.code : 0;
    int list = io_list(dir, &pool, &names, &len, &e) ? e.code : 0;
    int wrote = io_write_file(in_dir("some"), "y", 1, &e) ? e.code : 0;
    int appended = io_append_line(in_dir("some"), "y", 1, 0, &e) ? e.code : 0;
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &old), 0);
    CHECK_INT(read, ERR_IO);
    CHECK_INT(list, ERR_IO);
    CHECK_INT(wrote, ERR_IO);
    CHECK_INT(appended, ERR_IO);
    CHECK_TEXT(content("some"), "x");
    CHECK_INT(symlink("endless", in_dir("endless")), 0);
    CHECK_FAILS(io_read_file(in_dir("endless"), 0, &data, &len, &e), &e, ERR_NO_INPUT);
    CHECK_FAILS(io_read_file(in_dir("some/x"), 0, &data, &len, &e), &e, ERR_NO_INPUT);
    pool_free(&pool);
}

/* Devices are written to, never renamed over. */
static void writes_to_devices(void)
{
    struct stat st;
    CHECK_OK(io_write_file("/dev/null", "x", 1, &e), &e);
    CHECK(stat("/dev/null", &st) == 0 && S_ISCHR(st.st_mode));
    if (!io_exists("/dev/full")) return;
    CHECK_FAILS(io_write_file("/dev/full", "x", 1, &e), &e, ERR_IO);
    CHECK_HAS(e.text, "/dev/full: cannot write: No space left on device");
    CHECK(stat("/dev/full", &st) == 0 && S_ISCHR(st.st_mode));
}

/* In a child, so that the limit ends with it: the disk is "full" after 100,000 bytes. */
static void full_disk_child(void)
{
    struct rlimit limit = {100000, 100000};
    static char block[70000];
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    test_failures = 0;
    Writer w;
    CHECK_OK(writer_open(&w, in_dir("out"), &e), &e);
    CHECK_OK(writer_put(&w, block, sizeof block, &e), &e);
    CHECK_FAILS(writer_put(&w, block, sizeof block, &e), &e, ERR_IO);
    CHECK(strstr(e.text, "/out: cannot write: ") && !strstr(e.text, ".tmp"));
    CHECK_INT(writer_put(&w, block, 1, &e), -1);
    writer_abort(&w);
    CHECK_INT(count_names(".tmp."), 0);
    CHECK_TEXT(content("out"), "old");
    /* The failure may come at the last moment, in the commit. */
    CHECK_OK(writer_open(&w, in_dir("out"), &e), &e);
    for (int i = 0; i < 10; i++) CHECK_OK(writer_put(&w, block, 9000, &e), &e);
    CHECK_OK(writer_put(&w, block, 20000, &e), &e);
    CHECK_INT(writer_commit(&w, &e), -1);
    CHECK_INT(e.code, ERR_IO);
    CHECK_HAS(e.text, "/out: cannot");
    CHECK_INT(count_names(".tmp."), 0);
    CHECK_TEXT(content("out"), "old");
    CHECK_FAILS(io_append_line(in_dir("log"), block, 40000, 1, &e), &e, ERR_IO);
    struct stat st;
    CHECK(stat(in_dir("log"), &st) == 0 && st.st_size == 80000); /* no torn line */
}

static void full_disks_change_nothing(void)
{
    static char block[80000];
    put_text("out", "old");
    put("log", block, sizeof block);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        full_disk_child();
        fflush(stdout);
        _exit(test_failures ? 1 : 0);
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* A temporary file left by a killed process that had our number is no obstacle. */
static void stale_temporary_files(void)
{
    char name[100];
    snprintf(name, sizeof name, "s.tmp.%ld", (long)getpid());
    put_text(name, "left over");
    CHECK_OK(io_write_file(in_dir("s"), "fresh", 5, &e), &e);
    CHECK_TEXT(content("s"), "fresh");
    CHECK_INT(count_names(".tmp."), 0);
}

static void logs_grow_by_lines(void)
{
    CHECK_OK(io_append_line(in_dir("lines"), "{\"a\":1}", 7, 0, &e), &e);
    CHECK_OK(io_append_line(in_dir("lines"), "{}", 2, 1, &e), &e);
    CHECK_OK(io_append_line(in_dir("lines"), "", 0, 0, &e), &e);
    CHECK_TEXT(content("lines"), "{\"a\":1}\n{}\n\n");
    CHECK_FAILS(io_append_line(in_dir("none/x"), "a", 1, 0, &e), &e, ERR_CREATE);
}

/* The process number of a child that has ended and been waited for. */
static long dead_process(void)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(0);
    waitpid(child, NULL, 0);
    return (long)child;
}

/* Is this the text of our own lock: process id, host, start of the kernel? */
static int lock_is_ours(void)
{
    char host[64] = "", text[200];
    gethostname(host, sizeof host - 1);
    snprintf(text, sizeof text, "%ld %s ", (long)getpid(), host);
    return !strncmp(content("LOCK"), text, strlen(text));
}

static void locks_exclude(void)
{
    IoLock lock, none = {0}, other;
    char host[64] = "", text[200];
    gethostname(host, sizeof host - 1);
    CHECK(io_lock(&lock, dir, &e) == 0 && lock_is_ours());
    io_unlock(&lock);
    CHECK(!io_exists(in_dir("LOCK")));
    io_unlock(&lock); /* not held: nothing */
    io_unlock(&none);

    snprintf(text, sizeof text, "%ld %s\n", (long)getppid(), host); /* lives */
    put_text("LOCK", text);
    CHECK_FAILS(io_lock(&lock, dir, &e), &e, ERR_CREATE);
    snprintf(text, sizeof text, "LOCK: in use by process %ld on %s", (long)getppid(), host);
    CHECK_HAS(e.text, text);
    io_unlock(&lock); /* not ours: stays */
    CHECK(io_exists(in_dir("LOCK")));

    put_text("LOCK", "1 another-host\n"); /* cannot be known from here */
    CHECK(io_lock(&lock, dir, &e) == -1 && strstr(e.text, "process 1 on another-host"));
    CHECK_HAS(e.text, "remove the file and give the same command again");
    CHECK_FAILS(io_lock(&other, in_dir("none"), &e), &e, ERR_CREATE);
    unlink(in_dir("LOCK"));
}

/* A holder whose number and host are ours, too, as in a container beside this one; and one whose
 * text is another's, or gone: what counts is the record lock. */
static void locks_are_held_for_life(void)
{
    char ours[200], host[64] = "";
    gethostname(host, sizeof host - 1);
    snprintf(ours, sizeof ours, "%ld %s\n", (long)getpid(), host);
    const char *const texts[] = {ours, "", "1 another-host -\n"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        IoLock mine;
        CHECK_OK(io_lock(&mine, dir, &e), &e);
        FILE *f = fopen(in_dir("LOCK"), "r+b"); /* closing it must not let the lock go */
        CHECK(f && ftruncate(fileno(f), 0) == 0 && fputs(texts[i], f) >= 0 && !fclose(f));
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            IoLock theirs;
            _exit(io_lock(&theirs, dir, &e) == -1 && e.code == ERR_CREATE &&
                          strstr(e.text, "in use by") && strstr(e.text, "wait until it ends")
                      ? 0
                      : 1);
        }
        int status = 1;
        waitpid(child, &status, 0);
        CHECK_INT(status, 0);
        CHECK_TEXT(content("LOCK"), texts[i]);
        io_unlock(&mine);
    }
}

/* A lock file that somebody removes by hand lets nobody else in. */
static void removed_locks_exclude(void)
{
    IoLock mine, theirs;
    CHECK_OK(io_lock(&mine, dir, &e), &e);
    unlink(in_dir("LOCK"));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(io_lock(&theirs, dir, &e) == -1 && e.code == ERR_CREATE &&
                      strstr(e.text, "another process, whose LOCK was removed; wait until it ends")
                  ? 0
                  : 1);
    int status = 1;
    waitpid(child, &status, 0);
    CHECK(status == 0 && !io_exists(in_dir("LOCK")));
    CHECK_OK(io_append_line(in_dir("guarded"), "x", 1, 0, &e), &e); /* ours still: we go on */
    put_text("LOCK", "1 another-host -\n");
    io_unlock(&mine);
    CHECK_TEXT(content("LOCK"), "1 another-host -\n"); /* another's: it stays */
    unlink(in_dir("LOCK"));

    CHECK_OK(io_lock(&mine, dir, &e), &e);
    close(mine.dir_fd); /* as on a file system that locks no directories */
    mine.dir_fd = -1;
    CHECK_OK(io_append_line(in_dir("guarded"), "x", 1, 0, &e), &e);
    unlink(in_dir("LOCK"));
    CHECK_INT(io_append_line(in_dir("guarded"), "x", 1, 0, &e), -1);
    CHECK_INT(e.code, ERR_CREATE);
    CHECK_HAS(e.text, "LOCK: was removed while we worked");
    CHECK(io_write_file(in_dir("file"), "x", 1, &e) == -1 && !io_exists(in_dir("file")));
    io_unlock(&mine);

    CHECK_OK(io_lock_file(&mine, in_dir("kept"), &e), &e);
    CHECK_OK(io_append_line(in_dir("kept"), "x", 1, 0, &e), &e);
    unlink(in_dir("kept.lock"));
    CHECK_INT(io_append_line(in_dir("kept"), "x", 1, 0, &e), -1);
    CHECK_INT(e.code, ERR_CREATE);
    CHECK_HAS(e.text, "kept.lock: was removed while we worked");
    CHECK_OK(io_append_line(in_dir("guarded"), "x", 1, 0, &e), &e); /* it guards no other file */
    io_unlock(&mine);
    CHECK_TEXT(content("kept"), "x\n");
    CHECK_TEXT(content("guarded"), "x\nx\nx\n");
    unlink(in_dir("kept"));
    unlink(in_dir("guarded"));
}

/* LOCK is a file of our own, or nothing of it is read or written. */
static void locks_are_files_of_their_own(void)
{
    IoLock lock;
    put_text("precious", "mine");
    CHECK_INT(link(in_dir("precious"), in_dir("LOCK")), 0);
    CHECK_INT(io_lock(&lock, dir, &e), -1);
    CHECK_INT(e.code, ERR_CREATE);
    CHECK_HAS(e.text, "hard link");
    unlink(in_dir("LOCK"));
    CHECK_INT(symlink("precious", in_dir("LOCK")), 0);
    CHECK_INT(io_lock(&lock, dir, &e), -1);
    CHECK_INT(e.code, ERR_CREATE);
    CHECK_HAS(e.text, "symbolic link");
    unlink(in_dir("LOCK"));
    CHECK_INT(mkfifo(in_dir("LOCK"), 0600), 0);
    CHECK_INT(io_lock(&lock, dir, &e), -1);
    CHECK_INT(e.code, ERR_CREATE);
    CHECK_HAS(e.text, "a pipe");
    unlink(in_dir("LOCK"));
    CHECK_TEXT(content("precious"), "mine");
}

/* Also the lock of a process of another name of this host, where this very kernel knew it. */
static void dead_locks_are_taken_over(void)
{
    IoLock lock;
    char host[64] = "", text[200], ours[200], renamed[300];
    gethostname(host, sizeof host - 1);
    CHECK_OK(io_lock(&lock, dir, &e), &e);
    const char *boot = strrchr(content("LOCK"), ' ');
    snprintf(renamed, sizeof renamed, "1 0123456789ab%s", boot);
    io_unlock(&lock);
    snprintf(ours, sizeof ours, "%ld %s\n", (long)getpid(), host);
    snprintf(text, sizeof text, "%ld %s\n", dead_process(), host);
    const char *const stale[] = {
        text, ours, "", "12", "12 ", "x y\n", "99999999999999999999 h\n", "1 h", renamed};
    size_t n = sizeof stale / sizeof stale[0] - !strcmp(renamed, "1 0123456789ab -\n");
    for (size_t i = 0; i < n; i++) {
        put_text("LOCK", stale[i]);
        CHECK(io_lock(&lock, dir, &e) == 0 && lock_is_ours());
        io_unlock(&lock);
        CHECK(!io_exists(in_dir("LOCK")));
    }
    put_text("LOCK", "1 0123456789ab 7f9d\n"); /* of another kernel */
    CHECK_FAILS(io_lock(&lock, dir, &e), &e, ERR_CREATE);
    unlink(in_dir("LOCK"));
}

/* Eight processes race for one dead lock, again and again: never do two hold it. */
static void only_one_takes_a_dead_lock(void)
{
    enum { RACERS = 8, ROUNDS = 20 };
    char text[200], host[64] = "";
    gethostname(host, sizeof host - 1);
    long dead = dead_process();
    for (int round = 0; round < ROUNDS; round++) {
        snprintf(text, sizeof text, "%ld %s\n", dead, host);
        put_text("LOCK", text);
        int go[2], hold[2], winners = 0;
        CHECK_INT(pipe(go), 0);
        CHECK_INT(pipe(hold), 0);
        pid_t child[RACERS];
        fflush(stdout);
        for (int i = 0; i < RACERS; i++) {
            child[i] = fork();
            if (child[i] == 0) {
                char c;
                close(go[1]);
                close(hold[1]);
                if (read(go[0], &c, 1) != 0) _exit(9); /* all start when the parent closes it */
                IoLock lock;
                int won = io_lock(&lock, dir, &e) == 0;
                if (won && read(hold[0], &c, 1) != 0) _exit(9); /* lives until all have tried */
                _exit(won ? 1 : 0);
            }
        }
        close(go[0]);
        close(hold[0]);
        close(go[1]);
        for (int ended = 0; ended < RACERS - 1; ended++) { /* the losers end by themselves */
            int status = 0;
            waitpid(-1, &status, 0);
            winners += WIFEXITED(status) ? WEXITSTATUS(status) : 100;
        }
        CHECK_INT(winners, 0);
        close(hold[1]);
        int status = 0;
        waitpid(-1, &status, 0);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    }
    unlink(in_dir("LOCK"));
}

static void sha_of(const char *text, size_t repeat, size_t piece, char hex[65])
{
    Sha256 s;
    size_t len = strlen(text), total = len * repeat;
    char *all = mem_alloc(total, &e);
    for (size_t i = 0; i < repeat; i++) memcpy(all + i * len, text, len);
    sha256_begin(&s);
    for (size_t at = 0; at < total; at += piece) {
        sha256_add(&s, all + at, total - at < piece ? total - at : piece);
    }
    sha256_end(&s, hex);
    mem_free(all);
}

/* FIPS 180-4 examples and the lengths around a block. */
static void sha256_known_answers(void)
{
    static const struct {
        const char *text;
        size_t repeat;
        const char *hex;
    } cases[] = {
        {"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
        {"a", 55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"},
        {"a", 56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"},
        {"a", 63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"},
        {"a", 64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"},
        {"a", 65, "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0"},
    };
    static const size_t pieces[] = {1, 7, 63, 64, 65, 100000000};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t k = 0; k < sizeof pieces / sizeof pieces[0]; k++) {
            char hex[65];
            sha_of(cases[i].text, cases[i].repeat, pieces[k], hex);
            CHECK_TEXT(hex, cases[i].hex);
        }
    }
    char hex[65];
    put_text("abc", "abc");
    CHECK_OK(sha256_file(in_dir("abc"), hex, &e), &e);
    CHECK_TEXT(hex, cases[1].hex);
    CHECK_FAILS(sha256_file(in_dir("none"), hex, &e), &e, ERR_NO_INPUT);
}

static void jsonl_rows(void)
{
    JsonLines j;
    Pool pool = {0};
    Json *row = NULL;
    put_text("rows", "\xEF\xBB\xBF{\"a\":1}\r\n\n  \t\r\n {\"a\":2} \n{\"a\":3}");
    CHECK_OK(jsonl_open(&j, in_dir("rows"), &e), &e);
    static const size_t lines[] = {1, 4, 5};
    for (uint64_t i = 0; i < 3; i++) {
        uint64_t v = 0;
        CHECK_INT(jsonl_next(&j, &pool, &row, &e), 1);
        CHECK_INT(json_u64(json_get(row, "a"), &v), 0);
        CHECK_INT(v, i + 1);
        CHECK_INT(j.line, lines[i]);
    }
    CHECK_OK(jsonl_next(&j, &pool, &row, &e), &e);
    CHECK_OK(jsonl_next(&j, &pool, &row, &e), &e);
    CHECK_INT(j.blank_lines, 2);
    jsonl_close(&j);
    static const char *const empty[] = {"", "\n", "\n\n \n", "\xEF\xBB\xBF"};
    for (size_t i = 0; i < 4; i++) {
        put_text("rows", empty[i]);
        CHECK_OK(jsonl_open(&j, in_dir("rows"), &e), &e);
        CHECK_OK(jsonl_next(&j, &pool, &row, &e), &e);
        jsonl_close(&j);
    }
    pool_free(&pool);
}

static void jsonl_errors_name_the_line(void)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{}\n{\"a\":}\n", "rows:2:6: found '}', expected a JSON value"},
        {"{}\n\n[1]\n", "rows:3: found a row that is not an object, expected {...}"},
        {"\"x\"", "rows:1: found a row that is not an object, expected {...}"},
        {"{} {}", "rows:1:4: found '{', expected the end of the document"},
        {"{\n}\n", "rows: found a JSON object over several lines"},
        {"{}\n{\"a\":", "(the last line has no end: the file was cut off; complete it"},
        {"{\"a\":\"\xFF\"}", "rows:1:7: found byte 0xFF, expected valid UTF-8"},
        {"{\"a\":\"\\ud800\"}", "rows:1:7: found a lone high surrogate, expected a \\u pair"},
        {"{\"a\":1,\"a\":2}", "rows:1:12: found the key \"a\" a second time"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        JsonLines j;
        Pool pool = {0};
        Json *row = NULL;
        put_text("rows", cases[i].text);
        CHECK_OK(jsonl_open(&j, in_dir("rows"), &e), &e);
        int r = 1;
        while (r == 1) r = jsonl_next(&j, &pool, &row, &e);
        CHECK_INT(r, -1);
        CHECK_INT(e.code, ERR_DATA);
        CHECK_HAS(e.text, cases[i].message);
        if (!strstr(e.text, cases[i].message)) printf("  %s\n", e.text);
        jsonl_close(&j);
        pool_free(&pool);
    }
    JsonLines j;
    put_text("rows", "<!DOCTYPE html>");
    CHECK_FAILS(jsonl_open(&j, in_dir("rows"), &e), &e, ERR_DATA);
    CHECK_HAS(e.text, "an HTML page");
    CHECK_FAILS(jsonl_open(&j, in_dir("none"), &e), &e, ERR_NO_INPUT);
}

/* Rows of an array are counted in place of lines, however they are spread over lines. */
static void jsonl_array(void)
{
    static const char *const texts[] = {
        "[{\"a\":1},{\"a\":2,\"t\":\"],}\\\"\"},{\"a\":3}]",
        "\xEF\xBB\xBF \n[\n {\n  \"a\": 1\n },\n\n {\"a\":2}\n,{\"a\":3}\r\n]\r\n\n"};
    JsonLines j;
    Pool pool = {0};
    Json *row = NULL;
    for (size_t i = 0; i < 2; i++) {
        put_text("rows", texts[i]);
        CHECK_OK(jsonl_open(&j, in_dir("rows"), &e), &e);
        for (uint64_t n = 1; n <= 3; n++) {
            uint64_t v = 0;
            CHECK_INT(jsonl_next(&j, &pool, &row, &e), 1);
            CHECK_INT(json_u64(json_get(row, "a"), &v), 0);
            CHECK_INT(v, n);
            CHECK_INT(j.line, n);
        }
        CHECK_OK(jsonl_next(&j, &pool, &row, &e), &e);
        CHECK_OK(jsonl_next(&j, &pool, &row, &e), &e);
        jsonl_close(&j);
    }
    static const struct {
        const char *text, *message;
    } wrong[] = {{"[{},{\"a\":1", "rows:2:"},
                 {"[{},{}", "its array ends after row 2 without a ']': the file was cut off"},
                 {"[{} {}]", "rows:1:4: found '{'"},
                 {"[{},7]", "rows:2: found a row that is not an object"},
                 {"[{},]", "rows:2:"},
                 {"[{}] {}", "rows: found more after the end of its array"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int more = 1;
        put_text("rows", wrong[i].text);
        CHECK_OK(jsonl_open(&j, in_dir("rows"), &e), &e);
        while (more > 0) more = jsonl_next(&j, &pool, &row, &e);
        CHECK(more == -1 && e.code == ERR_DATA);
        CHECK_HAS(e.text, wrong[i].message);
        if (!strstr(e.text, wrong[i].message)) printf("  %s\n", e.text);
        jsonl_close(&j);
    }
    put_text("rows", "[]");
    CHECK_OK(jsonl_open(&j, in_dir("rows"), &e), &e);
    CHECK_OK(jsonl_next(&j, &pool, &row, &e), &e);
    jsonl_close(&j);
    pool_free(&pool);
}

/* What was given for rows is named, with what makes rows of it. */
static void jsonl_foreign(void)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *what, *how;
    } cases[] = {
        {"\x1f\x8b\x08zz", 0, "a gzip archive", "gunzip -k"},
        {"BZh91AY", 0, "a bzip2 archive", "bunzip2"},
        {"PAR1zzzz", 0, "a Parquet table", "read_parquet"},
        {"ARROW1zz", 0, "an Arrow or Feather table", "read_feather"},
        {"\xff\xff\xff\xff\x10\0\0\0\0", 9, "an Arrow stream", "from_file"},
        {"SQLite format 3", 0, "an SQLite database", "sqlite3 -json"},
        {"PK\x03\x04[Content_Types].xml", 0, "an Excel workbook", "CSV"},
        {"PK\x03\x04rows", 0, "a zip archive", "unzip"},
        {"\x80\x05\x95zz", 0, "a Python pickle", "export.py"},
        {"{\0\"\0p\0", 6, "UTF-16 text", "iconv"},
        {"\0{\0\"\0p", 6, "UTF-16 text", "iconv"},
        {"\x10\0\0\0\0\0\0\0{\"a\":1}", 15, "a safetensors file", "weights"},
        {"%PDF-1.4", 0, "a PDF document", "JSON array"},
        {"prompt,chosen\na,b\n", 0, "CSV text with the header prompt,chosen;", "csv.DictReader"},
        {"\"p\";\"c\"\na;b\n", 0, "CSV text", "delimiter=';'"},
        {"prompt\tchosen\na\tb\n", 0, "tab-separated text", "delimiter='\\t'"},
        {"- prompt: a\n", 0, "YAML text", "safe_load"},
        {"Tell me\nmore\n", 0, "plain text", "jq -Rc"},
        {"{'prompt': 'a'}\n", 0, "Python dictionaries", "literal_eval"},
        {"{\"a\":1}\r{\"a\":2}\r", 0, "lines that end with CR alone", "tr "},
        {"{\"data\": [\n{\"a\":1}\n]}\n", 0, "with rows in \"data\"", ".\"data\"[]"},
        {"{\n\"a\":1}\n{\n\"a\":2}\n", 0, "over several lines", "jq -c . "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        JsonLines j;
        Pool pool = {0};
        Json *row = NULL;
        size_t len = cases[i].len ? cases[i].len : strlen(cases[i].bytes);
        CHECK_OK(io_write_file(in_dir("rows"), cases[i].bytes, len, &e), &e);
        int more = jsonl_open(&j, in_dir("rows"), &e) ? -1 : jsonl_next(&j, &pool, &row, &e);
        CHECK(more == -1 && e.code == ERR_DATA);
        CHECK_HAS(e.text, cases[i].what);
        CHECK_HAS(e.text, cases[i].how);
        if (!strstr(e.text, cases[i].what) || !strstr(e.text, cases[i].how))
            printf("  %s\n", e.text);
        jsonl_close(&j);
        pool_free(&pool);
    }
    JsonLines j;
    CHECK_FAILS(jsonl_open(&j, dir, &e), &e, ERR_NO_INPUT);
    CHECK_HAS(e.text, "found a directory, expected a file of rows");
}

static char torn_note[256];
static void keep_note(void *ctx, char level, const char *text)
{
    (void)ctx;
    snprintf(torn_note, sizeof torn_note, "%c %s", level, text);
}

/* A log's torn last line is left out and noted; anywhere else it is an error. */
static void jsonl_torn(void)
{
    static const Log log = {NULL, keep_note};
    JsonLines j;
    Pool pool = {0};
    Json *row = NULL;
    put_text("rows", "{\"a\":1}\n{\"a\":");
    CHECK_OK(jsonl_open(&j, in_dir("rows"), &e), &e);
    j.torn = &log;
    CHECK_INT(jsonl_next(&j, &pool, &row, &e), 1);
    CHECK_OK(jsonl_next(&j, &pool, &row, &e), &e);
    CHECK(j.left_out && strstr(torn_note, "rows:2: the last line is cut off, and left out"));
    jsonl_close(&j);
    put_text("rows", "{\"a\":1}\n{\"a\":\n");
    CHECK_OK(jsonl_open(&j, in_dir("rows"), &e), &e);
    j.torn = &log;
    CHECK_INT(jsonl_next(&j, &pool, &row, &e), 1);
    CHECK_INT(jsonl_next(&j, &pool, &row, &e), -1);
    jsonl_close(&j);
    pool_free(&pool);
}

/* Adds up "a", and refuses 3. */
static int add_a(void *ctx, const Json *row, size_t line, Err *err)
{
    uint64_t a = 0;
    json_u64(json_get(row, "a"), &a);
    *(uint64_t *)ctx += a + 100 * line;
    return a == 3 ? err_set(err, ERR_USAGE, "3 is too many") : 0;
}

static void jsonl_each_row_once(void)
{
    uint64_t sum = 0;
    char hex[65], file[65];
    put_text("rows", "{\"a\":1}\n\n{\"a\":2}");
    CHECK_OK(jsonl_each(in_dir("rows"), add_a, &sum, hex, &e), &e);
    CHECK_INT(sum, 1 + 2 + 100 * (1 + 3));
    CHECK_OK(sha256_file(in_dir("rows"), file, &e), &e);
    CHECK_TEXT(hex, file);
    put_text("rows", "{\"a\":1}\n{\"a\":3}\n{\"a\":4}\n");
    sum = 0;
    CHECK_FAILS(jsonl_each(in_dir("rows"), add_a, &sum, NULL, &e), &e, ERR_USAGE);
    CHECK_INT(sum, 4 + 100 * (1 + 2));
    CHECK_HAS(e.text, "/rows:2: 3 is too many");
    put_text("rows", "{\"a\":1}\nx\n");
    CHECK_FAILS(jsonl_each(in_dir("rows"), add_a, &sum, NULL, &e), &e, ERR_DATA);
    CHECK_FAILS(jsonl_each(in_dir("none"), add_a, &sum, NULL, &e), &e, ERR_NO_INPUT);
}

static void files_are_copied_whole(void)
{
    put("from", "a\0b", 3);
    put_text("to", "old");
    CHECK_OK(io_copy_file(in_dir("from"), in_dir("to"), &e), &e);
    CHECK(!memcmp(content("to"), "a\0b", 4));
    CHECK_FAILS(io_copy_file(in_dir("none"), in_dir("to"), &e), &e, ERR_NO_INPUT);
    CHECK(!memcmp(content("to"), "a\0b", 4));
    CHECK_FAILS(io_copy_file(in_dir("from"), in_dir("no/to"), &e), &e, ERR_CREATE);
}

/* J18: a line of more than 256 MiB is refused by its number before it is parsed. */
static void jsonl_lines_have_a_limit(void)
{
    const off_t limit = (off_t)1 << 28;
    JsonLines j;
    Pool pool = {0};
    Json *row = NULL;
    put_text("long", "{}\n");
    CHECK_INT(truncate(in_dir("long"), limit + 4), 0); /* a hole: takes no disk */
    CHECK_OK(jsonl_open(&j, in_dir("long"), &e), &e);
    CHECK_INT(jsonl_next(&j, &pool, &row, &e), 1);
    CHECK_FAILS(jsonl_next(&j, &pool, &row, &e), &e, ERR_DATA);
    CHECK_HAS(e.text, "long:2: a line of 268435457 bytes, the limit is 268435456");
    jsonl_close(&j);
    pool_free(&pool);
    remove(in_dir("long"));
}

static void jsonl_reads_standard_input(void)
{
    enum { BLANKS = 20000 }; /* more than is asked for at first, less than a pipe holds */
    static char blanks[BLANKS];
    int saved = dup(STDIN_FILENO), ends[2];
    memset(blanks, ' ', BLANKS);
    CHECK_INT(pipe(ends), 0);
    CHECK_INT(write(ends[1], blanks, BLANKS), BLANKS);
    CHECK_INT(write(ends[1], "{\"a\":1}\n{\"a\":}", 14), 14);
    close(ends[1]);
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
    JsonLines j;
    Pool pool = {0};
    Json *row = NULL;
    CHECK_OK(jsonl_open(&j, "-", &e), &e);
    CHECK(jsonl_next(&j, &pool, &row, &e) == 1 && json_get(row, "a"));
    CHECK_INT(jsonl_next(&j, &pool, &row, &e), -1);
    CHECK(!strncmp(e.text, "standard input:2:6: found '}'", 29));
    jsonl_close(&j);
    pool_free(&pool);
    dup2(saved, STDIN_FILENO);
    close(saved);
}

static const Test tests[] = {
    {"whole_files", whole_files},
    {"inputs_that_are_none", inputs_that_are_none},
    {"maps_and_reads_agree", maps_and_reads_agree},
    {"paths_fit_or_fail", paths_fit_or_fail},
    {"directories", directories},
    {"writes_are_whole", writes_are_whole},
    {"writes_of_any_size", writes_of_any_size},
    {"outputs_that_cannot_be", outputs_that_cannot_be},
    {"writes_through_links", writes_through_links},
    {"writes_to_devices", writes_to_devices},
    {"full_disks_change_nothing", full_disks_change_nothing},
    {"stale_temporary_files", stale_temporary_files},
    {"logs_grow_by_lines", logs_grow_by_lines},
    {"held_directories_follow_no_link", held_directories_follow_no_link},
    {"logs_are_appended_alone", logs_are_appended_alone},
    {"leftovers_are_swept", leftovers_are_swept},
    {"exit_codes_of_errno", exit_codes_of_errno},
    {"locks_exclude", locks_exclude},
    {"locks_are_held_for_life", locks_are_held_for_life},
    {"removed_locks_exclude", removed_locks_exclude},
    {"locks_are_files_of_their_own", locks_are_files_of_their_own},
    {"dead_locks_are_taken_over", dead_locks_are_taken_over},
    {"only_one_takes_a_dead_lock", only_one_takes_a_dead_lock},
    TEST(jsonl_array),
    TEST(jsonl_foreign),
    TEST(jsonl_torn),
    TEST(jsonl_each_row_once),
    TEST(files_are_copied_whole),
    {"sha256_known_answers", sha256_known_answers},
    {"jsonl_rows", jsonl_rows},
    {"jsonl_errors_name_the_line", jsonl_errors_name_the_line},
    {"jsonl_lines_have_a_limit", jsonl_lines_have_a_limit},
    {"jsonl_reads_standard_input", jsonl_reads_standard_input},
};

int main(int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%.150s/align-test-io-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) {
        perror(dir);
        return 1;
    }
    int r = test_main(tests, sizeof tests / sizeof tests[0], argc, argv);
    if (io_remove_tree(dir, &e)) printf("%s\n", e.text);
    return r;
}
