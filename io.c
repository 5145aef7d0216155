/* io.c - files: whole reads, maps, atomic writes, locks, SHA-256, JSONL, safetensors. See io.h.
 *
 * Every system call that touches a file goes through one of the sys_ functions at the top: test
 * builds make the N-th of them fail there, or end the process, and nothing else knows.
 */
#include "base.h"
#include "json.h"
#include "io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* ---- system calls -------------------------------------------------------------------------- */

enum { FAULT_NONE, FAULT_FAIL, FAULT_SHORT };

#ifdef ALIGN_FAULTS
/* Test builds: FAULT_IO=N:WHAT acts on the N-th call, FAULT_IO=N+:WHAT on every one from the N-th
 * on, counted from 1 and while the variable is set. WHAT: EIO, ENOSPC, EINTR (calls that can be
 * interrupted only), SHORT (half of a read or write), KILL (the process ends there, as by kill -9).
 */
static int io_fault(int interruptible)
{
    static unsigned long calls;
    const char *spec = getenv("FAULT_IO");
    char *end;
    if (!spec) return FAULT_NONE;
    calls++;
    unsigned long at = strtoul(spec, &end, 10);
    int persistent = *end == '+';
    if (persistent ? calls < at : calls != at) return FAULT_NONE;
    const char *what = end + persistent + 1;
    if (!strcmp(what, "KILL")) _exit(99);
    if (!strcmp(what, "SHORT")) return FAULT_SHORT;
    if (!strcmp(what, "EINTR") && !interruptible) return FAULT_NONE;
    errno = !strcmp(what, "EINTR") ? EINTR : !strcmp(what, "ENOSPC") ? ENOSPC : EIO;
    return FAULT_FAIL;
}
#else
static int io_fault(int interruptible)
{
    (void)interruptible;
    return FAULT_NONE;
}
#endif

/* open, tried again when a signal interrupts it; the descriptor is not inherited by children. */
static int sys_open(const char *path, int flags, mode_t mode)
{
    int fd;
    do {
        fd = io_fault(1) == FAULT_FAIL ? -1 : open(path, flags | O_CLOEXEC, mode);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* close: the descriptor is gone whatever the result says, so it is never tried again. */
static int sys_close(int fd)
{
    int fault = io_fault(0);
    int r = close(fd);
    if (fault == FAULT_FAIL) {
        errno = EIO;
        return -1;
    }
    return r < 0 && errno != EINTR ? -1 : 0;
}

/* The largest piece given to one read or write (some systems refuse 2 GiB and more). */
#define IO_PIECE ((size_t)1 << 30)

/* Reads up to len bytes, less only at the end of the file. Returns the count or -1. */
static ssize_t sys_read(int fd, void *out, size_t len)
{
    size_t done = 0;
    while (done < len) {
        size_t piece = len - done < IO_PIECE ? len - done : IO_PIECE;
        int fault = io_fault(1);
        if (fault == FAULT_SHORT) piece = (piece + 1) / 2;
        ssize_t n = fault == FAULT_FAIL ? -1 : read(fd, (char *)out + done, piece);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        if (n == 0) break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

/* Writes all of it: short writes and signals are gone over, 0 bytes counts as a full device. */
static int sys_write(int fd, const void *bytes, size_t len)
{
    size_t done = 0;
    while (done < len) {
        size_t piece = len - done < IO_PIECE ? len - done : IO_PIECE;
        int fault = io_fault(1);
        if (fault == FAULT_SHORT) piece = (piece + 1) / 2;
        ssize_t n = fault == FAULT_FAIL ? -1 : write(fd, (const char *)bytes + done, piece);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = ENOSPC;
        if (n <= 0) return -1;
        done += (size_t)n;
    }
    return 0;
}

/* fsync. Any error but EINTR is final: the kernel may have dropped the pages, and a second fsync
 * would report success for data that is lost. */
static int sys_sync(int fd)
{
    int r;
    do {
        r = io_fault(1) == FAULT_FAIL ? -1 : fsync(fd);
    } while (r < 0 && errno == EINTR);
    return r;
}

static int sys_rename(const char *from, const char *to)
{
    return io_fault(0) == FAULT_FAIL ? -1 : rename(from, to);
}

static int sys_unlink(const char *path)
{
    return io_fault(0) == FAULT_FAIL ? -1 : unlink(path);
}

static int sys_mkdir(const char *path, mode_t mode)
{
    return io_fault(0) == FAULT_FAIL ? -1 : mkdir(path, mode);
}

static int sys_rmdir(const char *path)
{
    return io_fault(0) == FAULT_FAIL ? -1 : rmdir(path);
}

static void *sys_map(size_t len, int fd)
{
    if (io_fault(0) == FAULT_FAIL) return MAP_FAILED;
    return mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* Opens a regular file for reading; the rest (and a missing one) is ERR_NO_INPUT. */
static int open_input(const char *path, struct stat *st, Err *e)
{
    /* O_NONBLOCK: opening a FIFO must not wait for a writer before it can be refused. */
    int fd = sys_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0) return err_set(e, ERR_NO_INPUT, "%s: cannot open: %s", path, strerror(errno));
    const char *kind = NULL;
    if (fstat(fd, st)) {
        err_set(e, ERR_NO_INPUT, "%s: cannot read its size: %s", path, strerror(errno));
        kind = "";
    } else if (S_ISDIR(st->st_mode)) {
        kind = "a directory";
    } else if (!S_ISREG(st->st_mode)) {
        kind = "a pipe, socket or device";
    }
    if (!kind) return fd;
    if (*kind) err_set(e, ERR_NO_INPUT, "%s: found %s, expected a regular file", path, kind);
    sys_close(fd);
    return -1;
}

/* Reads to the end of fd into a growing block; `expected` bytes are asked for first. */
static int read_to_end(int fd, const char *path, size_t expected, size_t limit, char **data,
                       size_t *len, Err *e)
{
    const size_t least = 4096;
    size_t cap = expected < least ? least : expected, used = 0;
    char *buffer = NULL;
    for (;;) {
        size_t with_end;
        if (size_add(cap, 2, &with_end)) with_end = SIZE_MAX; /* the 0, and one to see the end */
        char *grown = mem_realloc(buffer, with_end, e);
        if (!grown) {
            mem_free(buffer);
            return err_prefix(e, "%s", path);
        }
        buffer = grown;
        ssize_t n = sys_read(fd, buffer + used, cap + 1 - used);
        if (n < 0) {
            err_set(e, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
            break;
        }
        used += (size_t)n;
        if (limit && used > limit) {
            err_set(e, ERR_DATA, "%s: larger than the limit of %zu bytes for such a file", path,
                    limit);
            break;
        }
        if (used <= cap) {
            buffer[used] = 0;
            *data = buffer;
            *len = used;
            return 0;
        }
        if (size_mul(cap, 2, &cap)) cap = SIZE_MAX; /* it grew, or its size was not known */
    }
    mem_free(buffer);
    return -1;
}

int io_read_file(const char *path, size_t limit, char **data, size_t *len, Err *e)
{
    struct stat st;
    int fd = open_input(path, &st, e);
    if (fd < 0) return -1;
    int r = -1;
    if (limit && (uint64_t)st.st_size > limit) {
        err_set(e, ERR_DATA, "%s: %llu bytes, the limit for such a file is %zu", path,
                (unsigned long long)st.st_size, limit);
    } else if ((uint64_t)st.st_size > PTRDIFF_MAX) {
        err_set(e, ERR_MEMORY, "%s: %llu bytes are more than this machine can address", path,
                (unsigned long long)st.st_size);
    } else {
        r = read_to_end(fd, path, (size_t)st.st_size, limit, data, len, e);
    }
    sys_close(fd);
    return r;
}

int io_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

int io_is_directory(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int io_free_space(const char *path, uint64_t *bytes, Err *e)
{
    struct statvfs s;
    if (statvfs(path, &s)) {
        return err_set(e, ERR_IO, "%s: cannot read the free space: %s", path, strerror(errno));
    }
    if (u64_mul(s.f_bavail, s.f_frsize, bytes)) *bytes = UINT64_MAX;
    return 0;
}

int io_path(char *out, size_t out_size, const char *dir, const char *name, Err *e)
{
    size_t n = strlen(dir);
    const char *slash = n > 0 && dir[n - 1] == '/' ? "" : "/";
    int written = snprintf(out, out_size, "%s%s%s", dir, n > 0 ? slash : "", name);
    if (written >= 0 && (size_t)written < out_size) return 0;
    return err_set(e, ERR_USAGE, "%.80s...: the path is longer than %zu bytes", dir, out_size - 1);
}

int filemap_open(FileMap *m, const char *path, int use_mmap, Err *e)
{
    struct stat st;
    memset(m, 0, sizeof *m);
    int fd = open_input(path, &st, e);
    if (fd < 0) return -1;
    m->path = mem_strdup(path, e);
    if (!m->path) goto fail;
    if (use_mmap && st.st_size > 0 && (uint64_t)st.st_size <= SIZE_MAX) {
        void *p = sys_map((size_t)st.st_size, fd);
        if (p != MAP_FAILED) {
            m->data = p;
            m->size = (size_t)st.st_size;
            m->mapped = 1;
        }
    }
    if (!m->mapped) {
        char *data;
        if ((uint64_t)st.st_size > PTRDIFF_MAX) {
            err_set(e, ERR_MEMORY, "%s: %llu bytes are more than this machine can address", path,
                    (unsigned long long)st.st_size);
            goto fail;
        }
        if (read_to_end(fd, path, (size_t)st.st_size, 0, &data, &m->size, e)) goto fail;
        m->data = (unsigned char *)data;
    }
    sys_close(fd);
    return 0;
fail:
    sys_close(fd);
    mem_free(m->path);
    memset(m, 0, sizeof *m);
    return -1;
}

void filemap_close(FileMap *m)
{
    if (m->mapped) {
        munmap((void *)(uintptr_t)m->data, m->size);
    } else {
        mem_free((void *)(uintptr_t)m->data);
    }
    mem_free(m->path);
    memset(m, 0, sizeof *m);
}

/* ---- directories --------------------------------------------------------------------------- */

int io_make_directory(const char *path, int private_, Err *e)
{
    if (sys_mkdir(path, private_ ? 0700 : 0755) == 0) return 0;
    int why = errno;
    if (why == EEXIST && io_is_directory(path)) return 0;
    if (why == EEXIST) {
        return err_set(e, ERR_CREATE, "%s: found a file, expected a directory", path);
    }
    return err_set(e, ERR_CREATE, "%s: cannot create the directory: %s", path, strerror(why));
}

/* The directory that holds path, into out. */
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
    if (parent_of(parent, sizeof parent, to, e)) return -1;
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
    if (!d) return err_set(e, ERR_NO_INPUT, "%s: cannot list: %s", path, strerror(errno));
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

#define TREE_DEPTH 16 /* of the directories we make ourselves */

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
    return remove_below(buffer, 0, e);
}

/* ---- writing ------------------------------------------------------------------------------- */

#define WRITER_BUFFER ((size_t)1 << 16)

static int writer_fail(Writer *w, int code, const char *doing, int why, Err *e)
{
    w->failed = 1;
    return err_set(e, code, "%s: cannot %s: %s", w->path, doing, strerror(why));
}

/* Fills path, target and temp for an output at `path`. */
static int writer_names(Writer *w, const char *path, Err *e)
{
    struct stat st;
    w->path = mem_strdup(path, e);
    if (!w->path) return -1;
    int exists = stat(path, &st) == 0;
    if (exists && S_ISDIR(st.st_mode)) {
        return err_set(e, ERR_CREATE, "%s: found a directory, expected a file name", path);
    }
    if (exists && !S_ISREG(st.st_mode)) return 0; /* a device: nothing to replace */
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) {
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
    size_t size = strlen(w->target) + sizeof ".tmp." + 20; /* 20 digits of a process id */
    w->temp = mem_alloc(size, e);
    if (!w->temp) return -1;
    snprintf(w->temp, size, "%s.tmp.%ld", w->target, (long)getpid());
    return 0;
}

/* Opens the temporary file, or the device itself. */
static int writer_create(Writer *w, Err *e)
{
    if (!w->target) {
        w->fd = sys_open(w->path, O_WRONLY | O_NOCTTY, 0);
    } else {
        const int flags = O_WRONLY | O_CREAT | O_EXCL;
        w->fd = sys_open(w->temp, flags, 0666);
        /* Left by a killed process that had our number: it cannot be in use. */
        if (w->fd < 0 && errno == EEXIST && sys_unlink(w->temp) == 0) {
            w->fd = sys_open(w->temp, flags, 0666);
        }
    }
    if (w->fd < 0) {
        int why = errno;
        mem_free(w->temp); /* not ours: writer_abort must not remove it */
        w->temp = NULL;
        return writer_fail(w, ERR_CREATE, "create", why, e);
    }
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

int writer_printf(Writer *w, Err *e, const char *fmt, ...)
{
    char small[512];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(small, sizeof small, fmt, args);
    va_end(args);
    if (n < 0) return err_set(e, ERR_INTERNAL, "cannot format \"%s\"", fmt);
    if ((size_t)n < sizeof small) return writer_put(w, small, (size_t)n, e);
    char *large = mem_alloc((size_t)n + 1, e);
    if (!large) return -1;
    va_start(args, fmt);
    vsnprintf(large, (size_t)n + 1, fmt, args);
    va_end(args);
    int r = writer_put(w, large, (size_t)n, e);
    mem_free(large);
    return r;
}

/* Everything up to the moment before the rename: the data is on the disk, and all of it. */
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
            mem_free(w->temp);
            w->temp = NULL;
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
    mem_free(w->temp);
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

/* Appends `len` bytes to an open log; what cannot be written whole is cut off again. */
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

int io_append_line(const char *path, const char *line, size_t len, int sync, Err *e)
{
    Text t = {0};
    int r = -1;
    if (text_add(&t, line, len, e) || text_add(&t, "\n", 1, e)) goto done;
    int fd = sys_open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOCTTY, 0666);
    if (fd < 0) {
        err_set(e, ERR_CREATE, "%s: cannot open for appending: %s", path, strerror(errno));
        goto done;
    }
    r = append_whole(fd, path, t.data, t.len, sync, e);
    if (sys_close(fd) && r == 0) {
        r = err_set(e, ERR_IO, "%s: cannot close: %s", path, strerror(errno));
    }
done:
    text_free(&t);
    return r;
}

/* ---- the lock of a run directory ----------------------------------------------------------- */

#define HOST_MAX 64
#define LOCK_MAX 128 /* bytes of "pid host" */

typedef struct {
    char name[HOST_MAX];
} Host;

/* This machine. */
static Host host_here(void)
{
    Host h = {{0}};
    if (gethostname(h.name, HOST_MAX - 1) || !h.name[0]) {
        memcpy(h.name, "unknown", sizeof "unknown");
    }
    return h;
}

/* Who holds the lock, by its text "pid host"? 1 with *pid and host filled: somebody who lives, or
 * whose life cannot be checked from here. 0: nobody, or a process that is gone. */
static int lock_holder(const char *text, size_t len, long *pid, Host *host)
{
    const char *space = memchr(text, ' ', len);
    const char *end = memchr(text, '\n', len);
    uint64_t id;
    if (!space || !end || end < space) return 0; /* torn: its writer died while writing */
    size_t n = (size_t)(end - space - 1);
    if (n >= HOST_MAX || parse_u64(text, (size_t)(space - text), &id) || id > INT32_MAX) return 0;
    memcpy(host->name, space + 1, n);
    host->name[n] = 0;
    *pid = (long)id;
    if (strcmp(host->name, host_here().name) != 0) return 1;
    if (id == 0 || (pid_t)id == getpid()) return 0; /* a former process with our number */
    return kill((pid_t)id, 0) == 0 || errno != ESRCH;
}

/* Holds a record lock on fd while the text is read and replaced, so that of two processes which
 * find a dead lock only one takes it over. File systems without record locks go without. */
static void lock_guard(int fd)
{
    struct flock l = {0};
    l.l_type = F_WRLCK;
    l.l_whence = SEEK_SET;
    while (fcntl(fd, F_SETLKW, &l) < 0 && errno == EINTR) continue;
}

/* Reads the text of the open lock file and, where it may, replaces it by ours. */
static int lock_take(int fd, const char *path, Err *e)
{
    char text[LOCK_MAX];
    Host host = {{0}};
    long pid = 0;
    ssize_t n = sys_read(fd, text, sizeof text);
    if (n < 0) return err_set(e, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    if (lock_holder(text, (size_t)n, &pid, &host)) {
        return err_set(e, ERR_CREATE,
                       "%s: in use by process %ld on %s; wait for it, or remove the file if that "
                       "process is gone",
                       path, pid, host.name);
    }
    host = host_here();
    int len = snprintf(text, sizeof text, "%ld %s\n", (long)getpid(), host.name);
    if (lseek(fd, 0, SEEK_SET) < 0 || ftruncate(fd, 0) || sys_write(fd, text, (size_t)len) ||
        sys_sync(fd)) {
        err_set(e, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
        sys_unlink(path); /* nobody holds it */
        return -1;
    }
    return 0;
}

int io_lock(const char *dir, Err *e)
{
    char path[IO_PATH_MAX];
    if (io_path(path, sizeof path, dir, "LOCK", e)) return -1;
    for (;;) {
        struct stat opened, named;
        int fd = sys_open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0666);
        if (fd < 0) {
            return err_set(e, ERR_CREATE, "%s: cannot create: %s", path, strerror(errno));
        }
        lock_guard(fd);
        /* A holder that finished meanwhile has removed the file we opened: begin again. */
        int same = fstat(fd, &opened) == 0 && stat(path, &named) == 0 &&
                   opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
        int r = same ? lock_take(fd, path, e) : 0;
        sys_close(fd); /* also lets the record lock go */
        if (same) return r;
    }
}

void io_unlock(const char *dir)
{
    char path[IO_PATH_MAX], text[LOCK_MAX];
    Err ignored;
    if (io_path(path, sizeof path, dir, "LOCK", &ignored)) return;
    int fd = sys_open(path, O_RDWR | O_NOFOLLOW, 0);
    if (fd < 0) return;
    lock_guard(fd);
    ssize_t n = sys_read(fd, text, sizeof text);
    const char *space = n > 0 ? memchr(text, ' ', (size_t)n) : NULL;
    uint64_t pid = 0;
    if (space && parse_u64(text, (size_t)(space - text), &pid) == 0 && pid == (uint64_t)getpid()) {
        sys_unlink(path);
    }
    sys_close(fd);
}

/* ---- SHA-256 ------------------------------------------------------------------------------- */

/* FIPS 180-4, 4.2.2: the first 32 bits of the fractional parts of the cube roots of the first 64
 * primes. */
static const uint32_t sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate_right(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* The compression function over one block of 64 bytes (6.2.2). */
static void sha256_block(uint32_t h[8], const unsigned char *block)
{
    uint32_t w[64];
    for (int t = 0; t < 16; t++) {
        const unsigned char *b = block + 4 * t;
        w[t] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    }
    for (int t = 16; t < 64; t++) {
        uint32_t x = w[t - 15], y = w[t - 2];
        w[t] = w[t - 16] + (rotate_right(x, 7) ^ rotate_right(x, 18) ^ x >> 3) + w[t - 7] +
               (rotate_right(y, 17) ^ rotate_right(y, 19) ^ y >> 10);
    }
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], i = h[7];
    for (int t = 0; t < 64; t++) {
        uint32_t s1 = rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25);
        uint32_t t1 = i + s1 + ((e & f) ^ (~e & g)) + sha256_k[t] + w[t];
        uint32_t s0 = rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22);
        uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        i = g;
        g = f;
        f = e;
        e = d + t1;
        d = c;
        c = b;
        b = a;
        a = t1 + t2;
    }
    const uint32_t add[8] = {a, b, c, d, e, f, g, i};
    for (int t = 0; t < 8; t++) h[t] += add[t];
}

void sha256_begin(Sha256 *s)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->h, start, sizeof start);
    s->total = 0;
    s->used = 0;
}

void sha256_add(Sha256 *s, const void *bytes, size_t len)
{
    const unsigned char *p = bytes;
    s->total += len;
    while (len > 0) {
        if (s->used == 0 && len >= sizeof s->block) {
            sha256_block(s->h, p);
            p += sizeof s->block;
            len -= sizeof s->block;
            continue;
        }
        size_t n = sizeof s->block - s->used;
        if (n > len) n = len;
        memcpy(s->block + s->used, p, n);
        s->used += n;
        p += n;
        len -= n;
        if (s->used == sizeof s->block) {
            sha256_block(s->h, s->block);
            s->used = 0;
        }
    }
}

void sha256_end(Sha256 *s, char hex[65])
{
    /* Padding (5.1.1): a 1 bit, zeros, the length in bits as 64 bits, big-endian. */
    uint64_t bits = s->total * 8;
    const size_t length_at = sizeof s->block - 8;
    s->block[s->used++] = 0x80;
    if (s->used > length_at) {
        memset(s->block + s->used, 0, sizeof s->block - s->used);
        sha256_block(s->h, s->block);
        s->used = 0;
    }
    memset(s->block + s->used, 0, length_at - s->used);
    for (size_t i = 0; i < 8; i++) {
        s->block[length_at + i] = (unsigned char)(bits >> (56 - 8 * i));
    }
    sha256_block(s->h, s->block);
    for (int i = 0; i < 8; i++) snprintf(hex + 8 * i, 9, "%08lx", (unsigned long)s->h[i]);
}

void sha256_bytes(const void *bytes, size_t len, char hex[65])
{
    Sha256 s;
    sha256_begin(&s);
    sha256_add(&s, bytes, len);
    sha256_end(&s, hex);
}

int sha256_file(const char *path, char hex[65], Err *e)
{
    const size_t piece = (size_t)1 << 18;
    struct stat st;
    int fd = open_input(path, &st, e);
    if (fd < 0) return -1;
    unsigned char *buffer = mem_alloc(piece, e);
    int r = buffer ? 0 : -1;
    Sha256 s;
    sha256_begin(&s);
    while (r == 0) {
        ssize_t n = sys_read(fd, buffer, piece);
        if (n < 0) r = err_set(e, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
        if (n <= 0) break;
        sha256_add(&s, buffer, (size_t)n);
    }
    mem_free(buffer);
    sys_close(fd);
    if (r == 0) sha256_end(&s, hex);
    return r;
}

/* ---- JSONL --------------------------------------------------------------------------------- */

#define JSONL_MAX_STDIN ((size_t)1 << 30)
#define JSONL_MAX_LINE ((size_t)1 << 28)

int jsonl_open(JsonLines *j, const char *path, Err *e)
{
    memset(j, 0, sizeof *j);
    j->path = path;
    if (!strcmp(path, "-")) {
        j->path = "standard input";
        if (read_to_end(STDIN_FILENO, j->path, 0, JSONL_MAX_STDIN, &j->data, &j->len, e)) {
            return -1;
        }
    } else if (io_read_file(path, 0, &j->data, &j->len, e)) {
        return -1;
    }
    const char *foreign = json_foreign(j->data, j->len);
    if (foreign) {
        err_set(e, ERR_DATA, "%s: found %s, expected one JSON object per line", j->path, foreign);
        jsonl_close(j);
        return -1;
    }
    if (j->len >= 3 && !memcmp(j->data, "\xEF\xBB\xBF", 3)) j->at = 3;
    return 0;
}

int jsonl_next(JsonLines *j, Pool *pool, Json **row, Err *e)
{
    while (j->at < j->len) {
        const char *line = j->data + j->at;
        const char *end = memchr(line, '\n', j->len - j->at);
        size_t len = end ? (size_t)(end - line) : j->len - j->at;
        j->at += len + (end != NULL);
        j->line++;
        if (len > JSONL_MAX_LINE) {
            return err_set(e, ERR_DATA, "%s:%zu: a line of %zu bytes, the limit is %zu", j->path,
                           j->line, len, JSONL_MAX_LINE);
        }
        size_t from = 0;
        while (from < len && (line[from] == ' ' || line[from] == '\t' || line[from] == '\r')) {
            from++;
        }
        if (from == len) {
            j->blank_lines++;
            continue;
        }
        char name[IO_PATH_MAX + 32];
        snprintf(name, sizeof name, "%s:%zu", j->path, j->line);
        *row = json_parse(pool, line, len, name, j->flags | JSON_ONE_LINE, e);
        if (!*row) return -1;
        if ((*row)->type == JSON_OBJECT) return 1;
        return err_set(e, ERR_DATA, "%s: found a row that is no object, expected {...}", name);
    }
    return 0;
}

void jsonl_close(JsonLines *j)
{
    mem_free(j->data);
    memset(j, 0, sizeof *j);
}

int jsonl_each(const char *path, JsonlRow fn, void *ctx, char sha256[65], Err *e)
{
    JsonLines lines;
    int more;
    if (jsonl_open(&lines, path, e)) return -1;
    do {
        Pool pool = {0};
        Json *row;
        more = jsonl_next(&lines, &pool, &row, e);
        if (more > 0 && fn(ctx, row, lines.line, e))
            more = err_prefix(e, "%s:%zu", lines.path, lines.line);
        pool_free(&pool);
    } while (more > 0);
    if (sha256) sha256_bytes(lines.data, lines.len, sha256);
    jsonl_close(&lines);
    return more;
}
