/* io.c - writes files: directories, atomic writes, appended lines, locks. See io.h. */
#include "io_parts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- directories of ours ------------------------------------------------------------------- */

#define LOCK_SUFFIX ".lock" /* the lock file of a file */

/* The locks and directories held now, the last one first. */
static IoLock *held;

static int is_link(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

/* Returns the number of bytes of path up to the part inside dir; 0 if path is not inside. */
static size_t inside(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') n--;
    return !strncmp(path, dir, n) && path[n] == '/' ? n : 0;
}

static int is_ours(const char *path)
{
    for (const IoLock *l = held; l; l = l->outer)
        if (l->dir && inside(path, l->dir)) return 1;
    return 0;
}

/* Is the lock file still the one that we hold? */
static int lock_stands(const IoLock *l)
{
    struct stat opened, named;
    return fstat(l->fd, &opened) == 0 && lstat(l->path, &named) == 0 &&
           opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

/* A lock file that is gone keeps nobody out: what it guards is no longer written. A directory that
 * is locked itself needs none. */
static int check_locks(const char *path, Err *e)
{
    const size_t suffix = strlen(LOCK_SUFFIX);
    for (const IoLock *l = held; l; l = l->outer) {
        size_t n = strlen(path);
        int guards = l->dir ? inside(path, l->dir) != 0
                            : n + suffix == strlen(l->path) && !strncmp(l->path, path, n);
        if (!guards || l->fd < 0 || l->dir_fd >= 0 || lock_stands(l)) continue;
        return err_set(e, ERR_CREATE,
                       "%s: was removed while we worked, so another process may work here as well: "
                       "nothing more is written; give the same command again when no other runs",
                       l->path);
    }
    return 0;
}

/* Inside a held directory no symbolic link is followed: whoever can put one there could make us
 * write, or remove, other people's files. `whole`: the last name of path is checked, too.
 */
static int check_links(const char *path, int whole, Err *e)
{
    char part[IO_PATH_MAX];
    size_t len = strlen(path);
    if (check_locks(path, e)) return -1;
    for (const IoLock *l = held; l && len < sizeof part; l = l->outer) {
        size_t from = l->dir ? inside(path, l->dir) : 0;
        for (size_t i = from ? from + 1 : len + 1; i <= len; i++) {
            if (path[i] != '/' && (path[i] || !whole)) continue;
            memcpy(part, path, i);
            part[i] = 0;
            if (is_link(part))
                return err_set(e, ERR_CREATE,
                               "%s: is a symbolic link; nothing is written through a link inside "
                               "of %s: remove it, or put there what it points to",
                               part, l->dir);
        }
    }
    return 0;
}

static void hold(IoLock *l)
{
    l->outer = held;
    held = l;
}

int io_hold(IoLock *l, const char *dir, Err *e)
{
    *l = (IoLock){.fd = -1, .dir_fd = -1, .dir = mem_strdup(dir, e)};
    if (!l->dir) return -1;
    hold(l);
    return 0;
}

/* ---- directories --------------------------------------------------------------------------- */

int io_make_directory(const char *path, int private_, Err *e)
{
    if (check_links(path, 1, e)) return -1;
    if (sys_mkdir(path, private_ ? 0700 : 0755) == 0) return 0;
    int why = errno;
    if (why == EEXIST && io_is_directory(path)) return 0;
    if (why == EEXIST) {
        return err_set(e, ERR_CREATE, "%s: found a file, expected a directory", path);
    }
    return err_set(e, io_code_of(why, ERR_CREATE), "%s: cannot create the directory: %s", path,
                   strerror(why));
}

/* Writes the directory that contains path to out. */
static int parent_of(char *out, size_t size, const char *path, Err *e)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (slash == path) n = 1; /* "/name" */
    if (n >= size) return err_set(e, ERR_USAGE, "%.80s...: the path is too long", path);
    memcpy(out, slash ? path : ".", slash ? n : 1);
    out[slash ? n : 1] = 0;
    return 0;
}

int io_check_new(const char *path, Err *e)
{
    char parent[IO_PATH_MAX];
    if (io_exists(path)) return 0;
    if (parent_of(parent, sizeof parent, path, e)) return -1;
    if (io_is_directory(parent) && !access(parent, W_OK | X_OK)) return 0;
    return err_set(e, ERR_CREATE, "%s: cannot be created: %s: %s", path, parent,
                   io_is_directory(parent) ? strerror(errno) : "there is no such directory");
}

int io_sync_directory(const char *path, Err *e)
{
    int fd = sys_open(path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) {
        if (errno == EACCES) return 0; /* a directory we may write to but not read */
        return err_set(e, ERR_IO, "%s: cannot open the directory: %s", path, strerror(errno));
    }
    int r = sys_sync(fd), why = errno;
    sys_close(fd);
    /* Some file systems (FAT, NFS, FUSE) cannot sync a directory and say so. */
    if (r == 0 || why == EINVAL || why == EOPNOTSUPP || why == ENOTSUP || why == EBADF) return 0;
    return err_set(e, ERR_IO, "%s: cannot write the directory to disk: %s", path, strerror(why));
}

int io_rename(const char *from, const char *to, Err *e)
{
    char parent[IO_PATH_MAX];
    if (parent_of(parent, sizeof parent, to, e) || check_links(to, 0, e)) return -1;
    if (sys_rename(from, to)) {
        return err_set(e, ERR_IO, "%s: cannot rename to %s: %s", from, to, strerror(errno));
    }
    return io_sync_directory(parent, e);
}

static int name_compare(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

/* One name of a directory being listed. */
typedef struct Entry Entry;
struct Entry {
    Entry *next;
    char *name;
};

int io_list(const char *path, Pool *pool, char ***names, size_t *count, Err *e)
{
    DIR *d = opendir(path);
    if (!d) {
        int why = errno;
        return err_set(e, io_code_of(why, ERR_NO_INPUT), "%s: cannot list: %s", path,
                       strerror(why));
    }
    Entry *list = NULL;
    size_t n = 0;
    int r = 0;
    for (;;) {
        errno = 0;
        struct dirent *item = readdir(d);
        if (!item) {
            if (errno) r = err_set(e, ERR_IO, "%s: cannot list: %s", path, strerror(errno));
            break;
        }
        if (!strcmp(item->d_name, ".") || !strcmp(item->d_name, "..")) continue;
        Entry *entry = pool_alloc(pool, sizeof *entry, e);
        if (entry) entry->name = pool_strndup(pool, item->d_name, strlen(item->d_name), e);
        if (!entry || !entry->name) {
            r = -1;
            break;
        }
        entry->next = list;
        list = entry;
        n++;
    }
    closedir(d);
    if (r) return -1;
    char **out = pool_alloc(pool, n * sizeof *out, e);
    if (!out) return -1;
    for (size_t i = 0; i < n; i++, list = list->next) out[i] = list->name;
    sort_items(out, n, sizeof *out, name_compare);
    *names = out;
    *count = n;
    return 0;
}

#define TREE_DEPTH 16 /* of directories that we make */

/* Removes what path (a buffer of IO_PATH_MAX bytes, used for its children too) names. Symbolic
 * links are removed, not followed. */
static int remove_below(char *path, int depth, Err *e)
{
    struct stat st;
    if (lstat(path, &st)) {
        if (errno == ENOENT) return 0;
        return err_set(e, ERR_IO, "%s: cannot remove: %s", path, strerror(errno));
    }
    if (!S_ISDIR(st.st_mode)) {
        if (sys_unlink(path) == 0) return 0;
        return err_set(e, ERR_IO, "%s: cannot remove: %s", path, strerror(errno));
    }
    if (depth == TREE_DEPTH) {
        return err_set(e, ERR_IO, "%s: more than %d levels deep, not removed", path, TREE_DEPTH);
    }
    Pool pool = {0};
    char **names;
    size_t count = 0, len = strlen(path);
    int r = io_list(path, &pool, &names, &count, e);
    for (size_t i = 0; i < count && r == 0; i++) {
        if (len + 1 + strlen(names[i]) >= IO_PATH_MAX) {
            r = err_set(e, ERR_IO, "%s/%.40s: the path is too long", path, names[i]);
            break;
        }
        path[len] = '/';
        memcpy(path + len + 1, names[i], strlen(names[i]) + 1);
        r = remove_below(path, depth + 1, e);
        path[len] = 0;
    }
    pool_free(&pool);
    if (r == 0 && sys_rmdir(path)) {
        r = err_set(e, ERR_IO, "%s: cannot remove: %s", path, strerror(errno));
    }
    return r;
}

int io_remove_tree(const char *path, Err *e)
{
    char buffer[IO_PATH_MAX];
    if (strlen(path) >= sizeof buffer) {
        return err_set(e, ERR_USAGE, "%.80s...: the path is too long", path);
    }
    memcpy(buffer, path, strlen(path) + 1);
    return check_links(path, 0, e) || remove_below(buffer, 0, e) ? -1 : 0;
}

/* ---- writing ------------------------------------------------------------------------------- */

#define WRITER_BUFFER ((size_t)1 << 16)

static int writer_fail(Writer *w, int code, const char *doing, int why, Err *e)
{
    w->failed = 1;
    return err_set(e, code, "%s: cannot %s: %s", w->path, doing, strerror(why));
}

/* Temporary files that are being written, for io_drop_temporaries. */
#define TEMPORARIES 16
static char *volatile temporaries[TEMPORARIES];

void io_drop_temporaries(void)
{
    for (size_t i = 0; i < TEMPORARIES; i++)
        if (temporaries[i]) unlink(temporaries[i]);
}

static void replace_temporary(const char *from, char *to)
{
    for (size_t i = 0; i < TEMPORARIES; i++) {
        if (temporaries[i] != from) continue;
        temporaries[i] = to;
        return;
    }
}

#define TEMP_MARK ".tmp."
#define TEMP_RANDOM 8 /* hexadecimal digits */
#define TEMP_TAIL 48  /* room for the mark, a process id, a dot, the digits */

int io_temporary_name(char *out, size_t size, const char *path, Err *e)
{
    static uint32_t count; /* of this process; the clock tells processes apart that share an id */
    struct timespec t = {0};
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t mixed = rng_mix((uint64_t)t.tv_sec << 30 ^ (uint64_t)t.tv_nsec, ++count);
    int n = snprintf(out, size, "%s" TEMP_MARK "%ld.%0*lx", path, (long)getpid(), TEMP_RANDOM,
                     (unsigned long)(mixed & UINT32_MAX));
    if (n >= 0 && (size_t)n < size) return 0;
    return err_set(e, ERR_USAGE, "%.80s...: the path is too long", path);
}

int io_check_output(const char *path, Err *e)
{
    struct stat st;
    if (check_links(path, 1, e)) return -1;
    if (stat(path, &st) || S_ISREG(st.st_mode)) return 0;
    if (S_ISDIR(st.st_mode))
        return err_set(e, ERR_CREATE, "%s: found a directory, expected a file name", path);
    if (!is_ours(path)) return 0;
    return err_set(e, ERR_CREATE, "%s: found a pipe, socket or device, expected a file", path);
}

/* Fills path, target and temp for an output at `path`. */
static int writer_names(Writer *w, const char *path, Err *e)
{
    struct stat st;
    w->path = mem_strdup(path, e);
    if (!w->path || io_check_output(path, e)) return -1;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) return 0; /* a device: nothing to replace */
    if (is_link(path)) {
        char *resolved = realpath(path, NULL);
        if (!resolved) {
            return err_set(e, ERR_CREATE, "%s: the symbolic link leads nowhere: %s", path,
                           strerror(errno));
        }
        w->target = mem_strdup(resolved, e);
        free(resolved); /* made by realpath, not by mem_alloc */
    } else {
        w->target = mem_strdup(path, e);
    }
    if (!w->target) return -1;
    w->temp_size = strlen(w->target) + TEMP_TAIL;
    w->temp = mem_alloc(w->temp_size, e);
    return w->temp ? 0 : -1;
}

/* Removes the temporary file `path` if no process holds it any more. */
static void sweep_temporary(const char *path)
{
    struct stat st;
    int fd = sys_open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0) return;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && sys_lock(fd) == 0) sys_unlink(path);
    sys_close(fd);
}

/* Is `tail` what io_temporary_name, or a former version (the process id), puts after its mark?
 */
static int is_temporary_tail(const char *tail)
{
    size_t digits = strspn(tail, "0123456789");
    if (!digits || !tail[digits]) return digits > 0;
    const char *random = tail + digits + 1;
    size_t hex = strspn(random, "0123456789abcdef");
    return tail[digits] == '.' && hex == TEMP_RANDOM && !random[hex];
}

/* Removes what killed processes left beside the target. Inside a held directory the holder does
 * that, who knows all names. */
static void sweep_beside(const Writer *w)
{
    char parent[IO_PATH_MAX], path[IO_PATH_MAX], **names;
    const char *slash = strrchr(w->target, '/'), *base = slash ? slash + 1 : w->target;
    size_t n = strlen(base), mark = strlen(TEMP_MARK), count = 0;
    Pool pool = {0};
    Err ignored;
    if (is_ours(w->target) || parent_of(parent, sizeof parent, w->target, &ignored) ||
        io_list(parent, &pool, &names, &count, &ignored))
        count = 0;
    for (size_t i = 0; i < count; i++)
        if (!strncmp(names[i], base, n) && !strncmp(names[i] + n, TEMP_MARK, mark) &&
            is_temporary_tail(names[i] + n + mark) &&
            !io_path(path, sizeof path, parent, names[i], &ignored))
            sweep_temporary(path);
    pool_free(&pool);
}

/* Creates a temporary file that no other process has; a lock keeps others from removing it. Returns
 * its descriptor, or -1 with errno set. */
static int writer_create_temp(Writer *w)
{
    struct stat st;
    const int tries = 100;
    Err ignored;
    for (int i = 0; i < tries; i++) {
        if (io_temporary_name(w->temp, w->temp_size, w->target, &ignored)) break;
        int fd = sys_open(w->temp, O_RDWR | O_CREAT | O_EXCL, 0666);
        if (fd < 0 && errno == EEXIST) continue;
        if (fd < 0) return -1;
        /* Between the two calls a sweeper may have had it. */
        if (sys_lock(fd) >= 0 && fstat(fd, &st) == 0 && st.st_nlink > 0) return fd;
        sys_close(fd);
    }
    errno = EEXIST;
    return -1;
}

/* Opens the temporary file, or the device itself. */
static int writer_create(Writer *w, Err *e)
{
    if (!w->target) {
        w->fd = sys_open(w->path, O_WRONLY | O_NOCTTY, 0);
    } else {
        sweep_beside(w);
        w->fd = writer_create_temp(w);
    }
    if (w->fd < 0) {
        int why = errno;
        mem_free(w->temp); /* not ours: writer_abort must not remove it */
        w->temp = NULL;
        return writer_fail(w, io_code_of(why, ERR_CREATE), "create", why, e);
    }
    if (w->temp) replace_temporary(NULL, w->temp);
    struct stat old;
    if (w->target && stat(w->target, &old) == 0 && fchmod(w->fd, old.st_mode & 0777) &&
        errno != EPERM && errno != ENOTSUP && errno != ENOSYS) { /* FAT has no permissions */
        return writer_fail(w, ERR_CREATE, "keep the permissions of", errno, e);
    }
    return 0;
}

int writer_open(Writer *w, const char *path, Err *e)
{
    memset(w, 0, sizeof *w);
    w->open = 1;
    w->fd = -1;
    w->buffer = mem_alloc(WRITER_BUFFER, e);
    if (!w->buffer || writer_names(w, path, e) || writer_create(w, e)) {
        writer_abort(w);
        return -1;
    }
    return 0;
}

/* Sends the buffer to the file. */
static int writer_flush(Writer *w, Err *e)
{
    size_t used = w->used;
    w->used = 0;
    if (sys_write(w->fd, w->buffer, used)) return writer_fail(w, ERR_IO, "write", errno, e);
    return 0;
}

int writer_put(Writer *w, const void *bytes, size_t len, Err *e)
{
    if (w->failed || !w->open) {
        return err_set(e, ERR_INTERNAL, "%s: written to after an error", w->path ? w->path : "?");
    }
    w->total += len;
    if (len > WRITER_BUFFER - w->used && writer_flush(w, e)) return -1;
    if (len >= WRITER_BUFFER) { /* large blocks need no copy */
        if (sys_write(w->fd, bytes, len)) return writer_fail(w, ERR_IO, "write", errno, e);
        return 0;
    }
    if (len) memcpy(w->buffer + w->used, bytes, len);
    w->used += len;
    return 0;
}

/* Does everything up to the rename: all of the data is then on the disk. */
static int writer_finish(Writer *w, Err *e)
{
    struct stat st;
    if (writer_flush(w, e)) return -1;
    if (w->target) {
        if (sys_sync(w->fd)) return writer_fail(w, ERR_IO, "write to disk", errno, e);
        if (fstat(w->fd, &st)) return writer_fail(w, ERR_IO, "check", errno, e);
        if ((uint64_t)st.st_size != w->total) {
            w->failed = 1;
            return err_set(e, ERR_IO, "%s: wrote %llu bytes, the file has %llu", w->path,
                           (unsigned long long)w->total, (unsigned long long)st.st_size);
        }
    }
    int fd = w->fd;
    w->fd = -1;
    if (sys_close(fd)) return writer_fail(w, ERR_IO, "close", errno, e);
    return 0;
}

static void writer_forget_temp(Writer *w)
{
    char *temp = w->temp;
    if (temp) replace_temporary(temp, NULL);
    w->temp = NULL;
    mem_free(temp);
}

int writer_commit(Writer *w, Err *e)
{
    if (w->failed || !w->open) {
        err_set(e, ERR_INTERNAL, "%s: committed after an error", w->path ? w->path : "?");
        writer_abort(w);
        return -1;
    }
    int r = writer_finish(w, e);
    if (r == 0 && w->target) {
        if (sys_rename(w->temp, w->target)) {
            r = writer_fail(w, ERR_IO, "rename the finished file", errno, e);
        } else {
            char parent[IO_PATH_MAX];
            writer_forget_temp(w);
            r = parent_of(parent, sizeof parent, w->target, e) || io_sync_directory(parent, e);
        }
    }
    writer_abort(w); /* frees; nothing is left to remove after the rename */
    return r ? -1 : 0;
}

void writer_abort(Writer *w)
{
    if (!w->open) return;
    if (w->fd >= 0) {
        sys_close(w->fd);
        if (w->temp) sys_unlink(w->temp);
    } else if (w->temp && w->failed) {
        sys_unlink(w->temp);
    }
    writer_forget_temp(w);
    mem_free(w->target);
    mem_free(w->path);
    mem_free(w->buffer);
    memset(w, 0, sizeof *w);
}

int io_write_file(const char *path, const void *bytes, size_t len, Err *e)
{
    Writer w;
    if (writer_open(&w, path, e)) return -1;
    if (writer_put(&w, bytes, len, e)) {
        writer_abort(&w);
        return -1;
    }
    return writer_commit(&w, e);
}

int io_copy_file(const char *from, const char *to, Err *e)
{
    char *bytes;
    size_t len;
    if (io_read_file(from, 0, &bytes, &len, e)) return -1;
    int status = io_write_file(to, bytes, len, e);
    mem_free(bytes);
    return status;
}

#define APPEND_FLAGS (O_WRONLY | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)

/* Appends `len` bytes to an open log; a line that cannot be written whole is cut off again. */
static int append_whole(int fd, const char *path, const char *bytes, size_t len, int sync, Err *e)
{
    struct stat st;
    if (fstat(fd, &st)) return err_set(e, ERR_IO, "%s: cannot append: %s", path, strerror(errno));
    if (sys_write(fd, bytes, len)) {
        int why = errno;
        if (S_ISREG(st.st_mode) && ftruncate(fd, st.st_size)) {
            return err_set(e, ERR_IO, "%s: cannot append: %s (its last line is torn)", path,
                           strerror(why));
        }
        return err_set(e, ERR_IO, "%s: cannot append: %s", path, strerror(why));
    }
    if (sync && sys_sync(fd)) {
        return err_set(e, ERR_IO, "%s: cannot write to disk: %s", path, strerror(errno));
    }
    return 0;
}

/* Makes a log that has another name, too (cp -l makes such backups), a file of its own; the other
 * name keeps its content. */
static int append_alone(int *fd, const char *path, Err *e)
{
    struct stat st;
    if (fstat(*fd, &st)) return err_set(e, ERR_IO, "%s: cannot append: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return io_check_output(path, e);
    if (st.st_nlink <= 1) return 0;
    if (io_copy_file(path, path, e)) return -1;
    sys_close(*fd);
    *fd = sys_open(path, APPEND_FLAGS, 0);
    if (*fd >= 0) return 0;
    return err_set(e, ERR_IO, "%s: cannot open for appending: %s", path, strerror(errno));
}

int io_append_line(const char *path, const char *line, size_t len, int sync, Err *e)
{
    Text t = {0};
    int r = -1;
    if (check_links(path, 1, e) || text_add(&t, line, len, e) || text_add(&t, "\n", 1, e))
        goto done;
    int fd = sys_open(path, APPEND_FLAGS | O_CREAT, 0666);
    if (fd < 0) {
        int why = errno;
        err_set(e, io_code_of(why, ERR_CREATE), "%s: cannot open for appending: %s", path,
                strerror(why));
        goto done;
    }
    r = append_alone(&fd, path, e) || append_whole(fd, path, t.data, t.len, sync, e) ? -1 : 0;
    if (fd >= 0 && sys_close(fd) && r == 0) {
        r = err_set(e, ERR_IO, "%s: cannot close: %s", path, strerror(errno));
    }
done:
    text_free(&t);
    return r;
}

/* ---- the lock of a run directory ----------------------------------------------------------- */

#define LOCK_NAME "LOCK"
#define BOOT_FILE "/proc/sys/kernel/random/boot_id" /* Linux: one text for each start of a kernel  \
                                                     */
#define UNKNOWN_BOOT "-"
#define WORD_MAX 64
#define LOCK_MAX 256 /* bytes of "pid host boot" */

/* Who holds a lock. */
typedef struct {
    uint64_t pid;
    char host[WORD_MAX];
    char boot[WORD_MAX]; /* UNKNOWN_BOOT: not known, or without a record lock */
} Holder;

/* This process. */
static Holder holder_here(int recorded)
{
    Holder h = {.pid = (uint64_t)getpid(), .boot = UNKNOWN_BOOT};
    if (gethostname(h.host, WORD_MAX - 1) || !h.host[0]) {
        memcpy(h.host, "unknown", sizeof "unknown");
    }
    int fd = recorded ? sys_open(BOOT_FILE, O_RDONLY, 0) : -1;
    if (fd < 0) return h;
    char text[WORD_MAX];
    ssize_t n = sys_read(fd, text, sizeof text - 1);
    sys_close(fd);
    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, " \n")] = 0;
    if (*text) memcpy(h.boot, text, sizeof text);
    return h;
}

/* Finds the word at *at, ended by ' ' or '\n'; 0 if there is none. */
static char next_word(const char *text, size_t len, size_t *at, char *word, size_t size)
{
    size_t n = 0;
    while (*at + n < len && text[*at + n] != ' ' && text[*at + n] != '\n') n++;
    if (!n || n >= size || *at + n >= len) return 0;
    memcpy(word, text + *at, n);
    word[n] = 0;
    *at += n + 1;
    return text[*at - 1];
}

/* Reads "pid host [boot]\n"; -1 if it is incomplete because its writer died while writing. */
static int holder_read(Holder *h, const char *text, size_t len)
{
    char number[WORD_MAX];
    size_t at = 0;
    *h = (Holder){.boot = UNKNOWN_BOOT};
    if (next_word(text, len, &at, number, sizeof number) != ' ') return -1;
    char end = next_word(text, len, &at, h->host, sizeof h->host);
    if (end == ' ') end = next_word(text, len, &at, h->boot, sizeof h->boot);
    if (end != '\n' || parse_u64(number, strlen(number), &h->pid) || h->pid > INT32_MAX) return -1;
    return 0;
}

/* Nobody has the record lock, or there are no record locks here: may the holder named in the text
 * still be alive? A kernel releases the record locks of its dead processes, so a holder under the
 * running kernel has ended, whatever its host name (a container's name changes). */
static int holder_may_live(const Holder *h, int recorded)
{
    Holder here = holder_here(recorded);
    if (recorded && strcmp(h->boot, UNKNOWN_BOOT) != 0 && !strcmp(h->boot, here.boot)) return 0;
    if (strcmp(h->host, here.host) != 0) return 1;
    if (h->pid == 0 || h->pid == here.pid) return 0; /* a former process with our id */
    return kill((pid_t)h->pid, 0) == 0 || errno != ESRCH;
}

/* Fails because another process holds the LOCK of dir. */
static int lock_refuse(const char *path, const Holder *h, int recorded, Err *e)
{
    if (!h->pid)
        return err_set(e, ERR_CREATE, "%s: in use by another process; wait until it ends", path);
    if (recorded)
        return err_set(e, ERR_CREATE, "%s: in use by process %llu on %s; wait until it ends", path,
                       (unsigned long long)h->pid, h->host);
    return err_set(e, ERR_CREATE,
                   "%s: in use by process %llu on %s; wait for it, or, if that process is gone, "
                   "remove the file and give the same command again",
                   path, (unsigned long long)h->pid, h->host);
}

/* Reads the text of the open lock file and, if allowed, replaces it by ours. */
static int lock_take(int fd, const char *path, Err *e)
{
    char text[LOCK_MAX];
    Holder h = {0};
    int other = sys_lock(fd), recorded = other == 0;
    ssize_t n = sys_read(fd, text, sizeof text);
    if (n < 0) return err_set(e, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    int named = holder_read(&h, text, (size_t)n) == 0;
    if (other < 0) return lock_refuse(path, named ? &h : &(Holder){0}, 1, e);
    if (named && holder_may_live(&h, recorded)) return lock_refuse(path, &h, 0, e);
    h = holder_here(recorded);
    int len =
        snprintf(text, sizeof text, "%llu %s %s\n", (unsigned long long)h.pid, h.host, h.boot);
    if (lseek(fd, 0, SEEK_SET) < 0 || ftruncate(fd, 0) || sys_write(fd, text, (size_t)len) ||
        sys_sync(fd)) {
        err_set(e, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
        sys_unlink(path); /* nobody holds it */
        return -1;
    }
    return 0;
}

/* Is the open LOCK a regular file with a single name, so that it may be written to? */
static int lock_check(int fd, const char *path, Err *e)
{
    struct stat st;
    if (fstat(fd, &st))
        return err_set(e, ERR_IO, "%s: cannot look at it: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_nlink > 1)
        return err_set(e, ERR_CREATE, "%s: found %s, expected a file of our own; remove it", path,
                       S_ISREG(st.st_mode) ? "a file with another name too (a hard link)"
                                           : "a pipe, socket or device");
    return 0;
}

/* Opens the lock file l->path, and locks it if nobody else has. *why: errno of a failed open.
 */
static int lock_open(IoLock *l, int *why, Err *e)
{
    const int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    for (*why = 0;;) {
        l->fd = sys_open(l->path, flags, 0666);
        if (l->fd < 0) {
            *why = errno;
            return err_set(e, io_code_of(*why, ERR_CREATE), "%s: cannot create: %s", l->path,
                           *why == ELOOP ? "it is a symbolic link; remove it" : strerror(*why));
        }
        int r = lock_check(l->fd, l->path, e) || lock_take(l->fd, l->path, e) ? -1 : 0;
        /* The file we opened was removed by a holder that has just finished: start again. */
        int same = lock_stands(l);
        if (same && !r) return 0;
        sys_close(l->fd); /* also releases the record lock */
        l->fd = -1;
        if (same) return -1;
    }
}

/* The directory itself is locked, too, so that a LOCK that somebody removes lets nobody in. Where
 * there are no such locks (NFS has none for directories) LOCK stands alone. */
static int lock_directory(IoLock *l, Err *e)
{
    l->dir_fd = sys_open(l->dir, O_RDONLY | O_DIRECTORY, 0);
    if (l->dir_fd < 0) return 0;
    int other = sys_lock(l->dir_fd);
    if (other) sys_close(l->dir_fd), l->dir_fd = -1;
    if (other >= 0) return 0;
    return err_set(e, ERR_CREATE,
                   "%s: in use by another process, whose " LOCK_NAME
                   " was removed; wait until it ends",
                   l->dir);
}

int io_lock(IoLock *l, const char *dir, Err *e)
{
    char path[IO_PATH_MAX];
    int why;
    *l = (IoLock){.fd = -1, .dir_fd = -1};
    if (io_path(path, sizeof path, dir, LOCK_NAME, e) || check_links(path, 1, e) ||
        io_hold(l, dir, e))
        return -1;
    l->path = mem_strdup(path, e);
    if (l->path && !lock_open(l, &why, e) && !lock_directory(l, e)) return 0;
    io_unlock(l);
    return -1;
}

int io_lock_file(IoLock *l, const char *path, Err *e)
{
    size_t n = strlen(path);
    int why;
    *l = (IoLock){.fd = -1, .dir_fd = -1, .path = mem_alloc(n + sizeof LOCK_SUFFIX, e)};
    if (!l->path) return -1;
    memcpy(l->path, path, n);
    memcpy(l->path + n, LOCK_SUFFIX, sizeof LOCK_SUFFIX);
    if (!lock_open(l, &why, e)) return hold(l), 0;
    io_unlock(l);
    return why == EACCES || why == EROFS ? 0 : -1; /* no permission: no writers */
}

void io_unlock(IoLock *l)
{
    IoLock **at = &held;
    if (l->path && l->dir_fd >= 0) sys_close(l->dir_fd); /* first: who has LOCK gets it */
    if (l->path && l->fd >= 0) {
        if (lock_stands(l)) sys_unlink(l->path);
        sys_close(l->fd);
    }
    while (*at && *at != l) at = &(*at)->outer;
    if (*at) *at = l->outer;
    mem_free(l->path);
    mem_free(l->dir);
    *l = (IoLock){.fd = -1, .dir_fd = -1};
}
