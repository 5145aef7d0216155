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
#include <math.h>
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
/* Test builds: FAULT_IO=N:WHAT acts on the N-th call (from 1), FAULT_IO=N+:WHAT on every one from
 * the N-th on. WHAT: EIO, ENOSPC, EINTR (calls that can be interrupted only), SHORT (half of a read
 * or write), KILL (the process ends there, as by kill -9). */
static int io_fault(int interruptible)
{
    static unsigned long calls;
    const char *spec = getenv("FAULT_IO");
    char *end;
    calls++;
    if (!spec) return FAULT_NONE;
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
    if (w->target && stat(w->target, &old) == 0 && fchmod(w->fd, old.st_mode & 0777)) {
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

static void host_name(char host[HOST_MAX])
{
    if (gethostname(host, HOST_MAX - 1)) memcpy(host, "unknown", sizeof "unknown");
    host[HOST_MAX - 1] = 0;
    if (!host[0]) memcpy(host, "unknown", sizeof "unknown");
}

/* Who holds the lock, by its text "pid host"? 1 with *pid and host filled: somebody who lives, or
 * whose life cannot be checked from here. 0: nobody, or a process that is gone. */
static int lock_holder(const char *text, size_t len, long *pid, char host[HOST_MAX])
{
    const char *space = memchr(text, ' ', len);
    const char *end = memchr(text, '\n', len);
    uint64_t id;
    if (!space || !end || end < space) return 0; /* torn: its writer died while writing */
    size_t n = (size_t)(end - space - 1);
    if (n >= HOST_MAX || parse_u64(text, (size_t)(space - text), &id) || id > INT32_MAX) return 0;
    memcpy(host, space + 1, n);
    host[n] = 0;
    *pid = (long)id;
    char here[HOST_MAX];
    host_name(here);
    if (strcmp(host, here) != 0) return 1;
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
    char text[LOCK_MAX], host[HOST_MAX];
    long pid = 0;
    ssize_t n = sys_read(fd, text, sizeof text);
    if (n < 0) return err_set(e, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    if (lock_holder(text, (size_t)n, &pid, host)) {
        return err_set(e, ERR_CREATE,
                       "%s: in use by process %ld on %s; wait for it, or remove the file if that "
                       "process is gone",
                       path, pid, host);
    }
    host_name(host);
    int len = snprintf(text, sizeof text, "%ld %s\n", (long)getpid(), host);
    if (lseek(fd, 0, SEEK_SET) < 0 || ftruncate(fd, 0) || sys_write(fd, text, (size_t)len) ||
        sys_sync(fd)) {
        return err_set(e, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
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
    if (space && parse_u64(text, (size_t)(space - text), &pid) == 0 &&
        pid == (uint64_t)getpid()) {
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

/* ---- number types -------------------------------------------------------------------------- */

/* Every dtype of the format with its bits; `type` is -1 where we cannot compute with it. */
static const struct {
    const char *name;
    unsigned bits;
    int type;
} dtypes[] = {
    {"F32", 32, DTYPE_F32}, {"BF16", 16, DTYPE_BF16}, {"F16", 16, DTYPE_F16},
    {"F64", 64, DTYPE_F64}, {"BOOL", 8, -1},          {"U8", 8, -1},
    {"I8", 8, -1},          {"U16", 16, -1},          {"I16", 16, -1},
    {"U32", 32, -1},        {"I32", 32, -1},          {"U64", 64, -1},
    {"I64", 64, -1},        {"C64", 64, -1},          {"F8_E5M2", 8, -1},
    {"F8_E4M3", 8, -1},     {"F8_E8M0", 8, -1},       {"F8_E5M2FNUZ", 8, -1},
    {"F8_E4M3FNUZ", 8, -1}, {"F6_E2M3", 6, -1},       {"F6_E3M2", 6, -1},
    {"F4", 4, -1},
};
#define DTYPE_COUNT (sizeof dtypes / sizeof dtypes[0])

size_t dtype_size(Dtype t)
{
    switch (t) {
    case DTYPE_F32: return 4;
    case DTYPE_BF16:
    case DTYPE_F16: return 2;
    case DTYPE_F64: return 8;
    }
    return 0;
}

const char *dtype_name(Dtype t)
{
    for (size_t i = 0; i < DTYPE_COUNT; i++) {
        if (dtypes[i].type == (int)t) return dtypes[i].name;
    }
    return "?";
}

static float float_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float bf16_to_float(uint16_t b)
{
    return float_from_bits((uint32_t)b << 16);
}

uint16_t bf16_from_float(float x)
{
    uint32_t bits = float_bits(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(bits >> 16 | 0x40); /* quiet NaN */
    /* Add just under one half of the last bit kept, or exactly half where that bit is odd. */
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

float f16_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 0x1F, mantissa = h & 0x3FF;
    if (exponent == 0x1F) return float_from_bits(sign | 0x7F800000u | mantissa << 13);
    if (exponent == 0) { /* zero or subnormal: mantissa x 2^-24, exact in float */
        float x = (float)mantissa * 0x1p-24f;
        return sign ? -x : x;
    }
    return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t f16_from_float(float x)
{
    uint32_t bits = float_bits(x), sign = bits >> 16 & 0x8000, a = bits & 0x7FFFFFFFu;
    if (a > 0x7F800000u) return (uint16_t)(sign | 0x7E00 | (a >> 13 & 0x3FF)); /* quiet NaN */
    if (a >= 0x477FF000u) return (uint16_t)(sign | 0x7C00); /* from 65520 on: infinity */
    if (a < 0x38800000u) { /* below 2^-14: subnormal, a multiple of 2^-24 */
        /* 0.5 has its last bit at 2^-24, so the addition itself rounds there, ties to even. */
        return (uint16_t)(sign | (float_bits(float_from_bits(a) + 0.5f) - float_bits(0.5f)));
    }
    a += 0xFFF + (a >> 13 & 1);
    return (uint16_t)(sign | (a - (112u << 23)) >> 13);
}

void dtype_to_float(float *out, const void *in, Dtype t, size_t count)
{
    const unsigned char *p = in;
    for (size_t i = 0; i < count; i++) {
        uint16_t h;
        double d;
        switch (t) {
        case DTYPE_F32: memcpy(out + i, p + 4 * i, 4); break;
        case DTYPE_BF16:
            memcpy(&h, p + 2 * i, 2);
            out[i] = bf16_to_float(h);
            break;
        case DTYPE_F16:
            memcpy(&h, p + 2 * i, 2);
            out[i] = f16_to_float(h);
            break;
        case DTYPE_F64:
            memcpy(&d, p + 8 * i, 8);
            out[i] = (float)d;
            break;
        }
    }
}

/* The index of the first NaN or infinity, or count. An exponent of all ones means either. */
static size_t first_not_finite(const void *data, Dtype t, size_t count)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < count; i++) {
        uint16_t h;
        uint32_t w;
        uint64_t d;
        int bad = 0;
        switch (t) {
        case DTYPE_F32:
            memcpy(&w, p + 4 * i, 4);
            bad = (w & 0x7F800000u) == 0x7F800000u;
            break;
        case DTYPE_BF16:
            memcpy(&h, p + 2 * i, 2);
            bad = (h & 0x7F80) == 0x7F80;
            break;
        case DTYPE_F16:
            memcpy(&h, p + 2 * i, 2);
            bad = (h & 0x7C00) == 0x7C00;
            break;
        case DTYPE_F64:
            memcpy(&d, p + 8 * i, 8);
            bad = (d >> 52 & 0x7FF) == 0x7FF;
            break;
        }
        if (bad) return i;
    }
    return count;
}

/* ---- reading safetensors ------------------------------------------------------------------- */

/* While a file is read: its parts, and the tensors found so far. */
typedef struct {
    Safetensors *s;
    const char *path;
    size_t capacity;
    uint64_t data_size; /* bytes behind the header */
    Err *e;
} StReader;

/* path: tensor "name": text */
static int tensor_fail(const StReader *r, const StTensor *t, const char *text)
{
    return err_set(r->e, ERR_DATA, "%s: tensor \"%.200s\": %s", r->path, t->name, text);
}

/* The dtype member: known to the format, and whether we can compute with it. */
static int read_dtype(const StReader *r, StTensor *t, const Json *j, unsigned *bits)
{
    if (!j || j->type != JSON_STRING) {
        return tensor_fail(r, t, "\"dtype\" is missing or no string, expected \"F32\", "
                                 "\"BF16\" or \"F16\"");
    }
    for (size_t i = 0; i < DTYPE_COUNT; i++) {
        if (!json_is(j, dtypes[i].name)) continue;
        *bits = dtypes[i].bits;
        t->supported = dtypes[i].type >= 0;
        if (t->supported) t->dtype = (Dtype)dtypes[i].type;
        memcpy(t->dtype_text, dtypes[i].name, strlen(dtypes[i].name) + 1);
        return 0;
    }
    return err_set(r->e, ERR_DATA,
                   "%s: tensor \"%.200s\": unknown dtype \"%.40s\", expected F32, BF16 or F16",
                   r->path, t->name, j->text);
}

/* The shape member, and the number of elements as its checked product. */
static int read_shape(const StReader *r, StTensor *t, const Json *j)
{
    if (!j || j->type != JSON_ARRAY) {
        return tensor_fail(r, t, "\"shape\" is missing or no array, expected a list of sizes");
    }
    if (j->len > SAFETENSORS_MAX_DIMS) {
        return err_set(r->e, ERR_DATA,
                       "%s: tensor \"%.200s\": %zu dimensions, the limit is %d", r->path, t->name,
                       j->len, SAFETENSORS_MAX_DIMS);
    }
    t->count = 1;
    for (const Json *d = j->child; d; d = d->next) {
        uint64_t size;
        /* Signed: no file has 2^63 elements, and negative sizes must not wrap. */
        if (json_u64(d, &size) || size > INT64_MAX) {
            return err_set(r->e, ERR_DATA,
                           "%s: tensor \"%.200s\": dimension %zu of \"shape\" is no whole number "
                           "from 0 to 2^63-1",
                           r->path, t->name, t->n_dims);
        }
        t->shape[t->n_dims++] = size;
        if (u64_mul(t->count, size, &t->count)) {
            return tensor_fail(r, t, "the product of \"shape\" overflows 64 bits");
        }
    }
    return 0;
}

/* data_offsets [begin, end], inside of the data and as long as shape and dtype say. */
static int read_offsets(const StReader *r, StTensor *t, const Json *j, unsigned bits,
                        uint64_t *begin)
{
    uint64_t end, need;
    if (!j || j->type != JSON_ARRAY || j->len != 2 || json_u64(j->child, begin) ||
        json_u64(j->child->next, &end)) {
        return tensor_fail(r, t, "\"data_offsets\" is missing or wrong, expected [begin, end]");
    }
    if (end < *begin) {
        return err_set(r->e, ERR_DATA,
                       "%s: tensor \"%.200s\": data_offsets [%llu, %llu] end before they begin",
                       r->path, t->name, (unsigned long long)*begin, (unsigned long long)end);
    }
    if (u64_mul(t->count, bits, &need) || need % 8 != 0) {
        return tensor_fail(r, t, need % 8 ? "its elements do not fill whole bytes"
                                          : "shape times element size overflows 64 bits");
    }
    need /= 8;
    if (end - *begin != need) {
        return err_set(r->e, ERR_DATA,
                       "%s: tensor \"%.200s\": shape and dtype %s need %llu bytes, data_offsets "
                       "give %llu",
                       r->path, t->name, t->dtype_text, (unsigned long long)need,
                       (unsigned long long)(end - *begin));
    }
    if (end > r->data_size) {
        return err_set(r->e, ERR_DATA,
                       "%s: tensor \"%.200s\" ends %llu bytes behind the end of the file: the "
                       "file is %llu bytes short; download it again",
                       r->path, t->name, (unsigned long long)(end - r->data_size),
                       (unsigned long long)(end - r->data_size));
    }
    t->bytes = need;
    return 0;
}

/* A copy of a parsed value in another pool. */
static const Json *copy_value(Pool *pool, const Json *j, Err *e)
{
    Text t = {0};
    const Json *r = NULL;
    if (json_put(&t, j, e) == 0) r = json_parse(pool, t.data, t.len, "__metadata__", 0, e);
    text_free(&t);
    return r;
}

/* __metadata__: an object of strings, kept as long as the file is open. */
static int read_metadata(const StReader *r, const Json *j)
{
    if (r->s->metadata) {
        return err_set(r->e, ERR_DATA, "%s: \"__metadata__\" appears twice", r->path);
    }
    if (j->type != JSON_OBJECT) {
        return err_set(r->e, ERR_DATA, "%s: \"__metadata__\" is no object of strings", r->path);
    }
    for (const Json *m = j->child; m; m = m->next) {
        if (m->type == JSON_STRING) continue;
        return err_set(r->e, ERR_DATA,
                       "%s: \"__metadata__\": the value of \"%.80s\" is no string", r->path,
                       m->key);
    }
    r->s->metadata = copy_value(&r->s->pool, j, r->e);
    return r->s->metadata ? 0 : -1;
}

/* A new tensor at the end of the growing list. */
static StTensor *new_tensor(StReader *r)
{
    Safetensors *s = r->s;
    if (s->count == SAFETENSORS_MAX_TENSORS) {
        err_set(r->e, ERR_DATA, "%s: more than %u tensors, the limit", r->path,
                SAFETENSORS_MAX_TENSORS);
        return NULL;
    }
    if (s->count == r->capacity) {
        size_t capacity = r->capacity ? r->capacity * 2 : 64, bytes;
        if (size_mul(capacity, sizeof *s->tensors, &bytes)) bytes = SIZE_MAX;
        StTensor *grown = mem_realloc(s->tensors, bytes, r->e);
        if (!grown) return NULL;
        s->tensors = grown;
        r->capacity = capacity;
    }
    StTensor *t = &s->tensors[s->count];
    memset(t, 0, sizeof *t);
    return t;
}

/* One member of the header that is a tensor. */
static int read_tensor(StReader *r, const Json *j)
{
    StTensor *t = new_tensor(r);
    if (!t) return -1;
    unsigned bits = 0;
    uint64_t begin = 0;
    t->name = pool_strndup(&r->s->pool, j->key, j->key_len, r->e);
    if (!t->name) return -1;
    t->name_len = j->key_len;
    if (memchr(t->name, 0, t->name_len)) return tensor_fail(r, t, "the name holds a 0 byte");
    if (t->name_len == 0) return tensor_fail(r, t, "the name is empty");
    if (j->type != JSON_OBJECT) {
        return tensor_fail(r, t, "expected an object with dtype, shape and data_offsets");
    }
    if (read_dtype(r, t, json_get(j, "dtype"), &bits) ||
        read_shape(r, t, json_get(j, "shape")) ||
        read_offsets(r, t, json_get(j, "data_offsets"), bits, &begin)) {
        return -1;
    }
    t->data = r->s->map.data + (r->s->map.size - (size_t)r->data_size) + (size_t)begin;
    r->s->count++;
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const StTensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b)
{
    const StTensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* The tensors must cover the data exactly once, in some order. */
static int check_cover(const StReader *r)
{
    Safetensors *s = r->s;
    const unsigned char *start = s->map.data + (s->map.size - (size_t)r->data_size);
    uint64_t at = 0;
    for (size_t i = 0; i < s->count; i++) {
        const StTensor *t = &s->tensors[i];
        uint64_t begin = (uint64_t)(t->data - start);
        if (begin < at) {
            return err_set(r->e, ERR_DATA, "%s: tensors \"%.200s\" and \"%.200s\" overlap", r->path,
                           s->tensors[i - 1].name, t->name);
        }
        if (begin > at) {
            return err_set(r->e, ERR_DATA, "%s: %llu bytes before tensor \"%.200s\" belong to none",
                           r->path, (unsigned long long)(begin - at), t->name);
        }
        at += t->bytes;
    }
    if (at == r->data_size) return 0;
    return err_set(r->e, ERR_DATA,
                   "%s: %llu bytes behind the last tensor, expected the end of the file", r->path,
                   (unsigned long long)(r->data_size - at));
}

/* Sorts the names for safetensors_find and refuses duplicates. */
static int index_names(const StReader *r)
{
    Safetensors *s = r->s;
    s->by_name = mem_calloc(s->count, sizeof *s->by_name, r->e);
    if (!s->by_name) return -1;
    for (size_t i = 0; i < s->count; i++) s->by_name[i] = &s->tensors[i];
    sort_items(s->by_name, s->count, sizeof *s->by_name, by_name);
    for (size_t i = 1; i < s->count; i++) {
        if (strcmp(s->by_name[i - 1]->name, s->by_name[i]->name) == 0) {
            return tensor_fail(r, s->by_name[i], "the name appears twice");
        }
    }
    return 0;
}

/* The file does not begin as safetensors must: says what it is instead, or `text`. */
static int header_fail(const StReader *r, const char *text)
{
    const FileMap *m = &r->s->map;
    const char *foreign = json_foreign((const char *)m->data, m->size);
    if (!foreign) return err_set(r->e, ERR_DATA, "%s: %s", r->path, text);
    return err_set(r->e, ERR_DATA, "%s: found %s, expected safetensors", r->path, foreign);
}

/* The 8 bytes of header length, against the limit and the real size of the file. */
static int read_header_length(const StReader *r, size_t *length)
{
    const FileMap *m = &r->s->map;
    char text[160];
    if (m->size == 0) return header_fail(r, "empty, expected 8 bytes of header length");
    if (m->size < 8) {
        snprintf(text, sizeof text, "%zu bytes, expected at least 8 of header length", m->size);
        return header_fail(r, text);
    }
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | m->data[i];
    if (n > SAFETENSORS_MAX_HEADER) {
        snprintf(text, sizeof text, "header length %llu, the limit is %u (is this safetensors?)",
                 (unsigned long long)n, SAFETENSORS_MAX_HEADER);
        return header_fail(r, text);
    }
    if (n > m->size - 8) {
        snprintf(text, sizeof text, "header length %llu, but the file has only %zu bytes; download "
                 "it again", (unsigned long long)n, m->size);
        return header_fail(r, text);
    }
    *length = (size_t)n;
    return 0;
}

/* All members of the header, one at a time: each is forgotten before the next is read. */
static int read_header(StReader *r, size_t length)
{
    static const char metadata[] = "__metadata__";
    Text name = {0};
    int found = 1;
    if (text_addf(&name, r->e, "%s: header", r->path)) return -1;
    JsonMembers members = {(const char *)r->s->map.data + 8, length, name.data, 0, 0, 0, 0};
    while (found == 1) {
        Pool scratch = {0};
        Json *j = NULL;
        found = json_members_next(&members, &scratch, &j, r->e);
        if (found == 1) {
            int is_metadata = j->key_len == sizeof metadata - 1 &&
                              !memcmp(j->key, metadata, j->key_len);
            if (is_metadata ? read_metadata(r, j) : read_tensor(r, j)) found = -1;
        }
        pool_free(&scratch);
    }
    text_free(&name);
    return found;
}

int safetensors_open(Safetensors *s, const char *path, int use_mmap, Err *e)
{
    memset(s, 0, sizeof *s);
    if (filemap_open(&s->map, path, use_mmap, e)) return -1;
    StReader r = {s, path, 0, 0, e};
    size_t length = 0;
    int bad = read_header_length(&r, &length);
    if (!bad) {
        r.data_size = s->map.size - 8 - length;
        bad = read_header(&r, length);
    }
    if (!bad) {
        sort_items(s->tensors, s->count, sizeof *s->tensors, by_place);
        bad = index_names(&r) || check_cover(&r);
    }
    if (bad) safetensors_close(s);
    return bad ? -1 : 0;
}

const StTensor *safetensors_find(const Safetensors *s, const char *name)
{
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int c = strcmp(s->by_name[middle]->name, name);
        if (c == 0) return s->by_name[middle];
        if (c < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

int safetensors_check_finite(const Safetensors *s, const StTensor *t, Err *e)
{
    if (!t->supported) return 0;
    size_t count = (size_t)t->count, i = first_not_finite(t->data, t->dtype, count);
    if (i == count) return 0;
    return err_set(e, ERR_DATA, "%s: tensor \"%.200s\": value %zu is NaN or infinite", s->map.path,
                   t->name, i);
}

void safetensors_close(Safetensors *s)
{
    filemap_close(&s->map);
    pool_free(&s->pool);
    mem_free(s->tensors);
    mem_free(s->by_name);
    memset(s, 0, sizeof *s);
}

/* ---- writing safetensors ------------------------------------------------------------------- */

/* The reference writer's order of dtypes, which it sorts by before it sorts by name. */
static int dtype_rank(Dtype t)
{
    switch (t) {
    case DTYPE_F64: return 0;
    case DTYPE_F32: return 1;
    case DTYPE_BF16: return 2;
    case DTYPE_F16: return 3;
    }
    return 4;
}

static int by_file_order(const void *a, const void *b)
{
    const StOut *const *x = a, *const *y = b;
    int d = dtype_rank((*x)->dtype) - dtype_rank((*y)->dtype);
    return d ? d : strcmp((*x)->name, (*y)->name);
}

/* Bytes of a tensor to be written, checked against overflow. */
static int out_size(const StOut *t, uint64_t *count, uint64_t *bytes, Err *e)
{
    int bad = t->n_dims > SAFETENSORS_MAX_DIMS;
    *count = 1;
    for (size_t i = 0; i < t->n_dims && !bad; i++) bad = u64_mul(*count, t->shape[i], count) != 0;
    if (!bad && !u64_mul(*count, dtype_size(t->dtype), bytes)) return 0;
    return err_set(e, ERR_INTERNAL, "tensor \"%.200s\": its shape is too large", t->name);
}

/* "name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]} */
static int put_entry(Text *h, const StOut *t, uint64_t *offset, Err *e)
{
    uint64_t count, bytes, end;
    if (out_size(t, &count, &bytes, e)) return -1;
    if (u64_add(*offset, bytes, &end)) {
        return err_set(e, ERR_INTERNAL, "tensor \"%.200s\": the file is too large", t->name);
    }
    if (json_put_string(h, t->name, strlen(t->name), e) ||
        text_addf(h, e, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(t->dtype))) {
        return -1;
    }
    for (size_t i = 0; i < t->n_dims; i++) {
        if (text_addf(h, e, "%s%llu", i ? "," : "", (unsigned long long)t->shape[i])) return -1;
    }
    if (text_addf(h, e, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)*offset,
                  (unsigned long long)end)) {
        return -1;
    }
    *offset = end;
    return 0;
}

/* The whole header, padded with spaces so that the data begins at a multiple of 8. */
static int put_header(Text *h, const StOut *const *order, size_t count,
                      const char *const *metadata, Err *e)
{
    const char *between = "";
    if (text_add(h, "{", 1, e)) return -1;
    if (metadata && metadata[0]) {
        if (text_addf(h, e, "\"__metadata__\":{")) return -1;
        for (size_t i = 0; metadata[i]; i += 2) {
            if (text_addf(h, e, "%s", i ? "," : "") ||
                json_put_string(h, metadata[i], strlen(metadata[i]), e) ||
                text_add(h, ":", 1, e) ||
                json_put_string(h, metadata[i + 1], strlen(metadata[i + 1]), e)) {
                return -1;
            }
        }
        if (text_add(h, "}", 1, e)) return -1;
        between = ",";
    }
    uint64_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        if (text_addf(h, e, "%s", between) || put_entry(h, order[i], &offset, e)) return -1;
        between = ",";
    }
    if (text_add(h, "}", 1, e)) return -1;
    while (h->len % 8) {
        if (text_add(h, " ", 1, e)) return -1;
    }
    if (h->len <= SAFETENSORS_MAX_HEADER) return 0;
    return err_set(e, ERR_INTERNAL, "the header is larger than %u bytes", SAFETENSORS_MAX_HEADER);
}

/* The bytes of one tensor, from its data or from its maker. */
static int put_tensor(Writer *w, const StOut *t, Err *e)
{
    uint64_t count, bytes, before = w->total;
    if (out_size(t, &count, &bytes, e)) return -1;
    if (t->data) {
        size_t bad = first_not_finite(t->data, t->dtype, (size_t)count);
        if (bad < count) {
            return err_set(e, ERR_DATA, "%s: tensor \"%.200s\": value %zu is NaN or infinite, not "
                           "written", w->path, t->name, bad);
        }
        return writer_put(w, t->data, (size_t)bytes, e);
    }
    if (t->produce && t->produce(t->ctx, w, e)) return -1;
    if (w->total - before == bytes) return 0;
    return err_set(e, ERR_INTERNAL, "%s: tensor \"%.200s\": %llu bytes made, %llu expected",
                   w->path, t->name, (unsigned long long)(w->total - before),
                   (unsigned long long)bytes);
}

/* Length, header, data. */
static int put_file(Writer *w, const Text *header, const StOut *const *order, size_t count, Err *e)
{
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)header->len >> (8 * i));
    if (writer_put(w, length, sizeof length, e)) return -1;
    if (writer_put(w, header->data, header->len, e)) return -1;
    for (size_t i = 0; i < count; i++) {
        if (put_tensor(w, order[i], e)) return -1;
    }
    return 0;
}

int safetensors_write(const char *path, const StOut *tensors, size_t count,
                      const char *const *metadata, Err *e)
{
    Text header = {0};
    Writer w = {0};
    int r = -1;
    const StOut **order = mem_calloc(count, sizeof *order, e);
    if (!order) return -1;
    for (size_t i = 0; i < count; i++) order[i] = &tensors[i];
    sort_items(order, count, sizeof *order, by_file_order);
    if (put_header(&header, order, count, metadata, e) == 0 && writer_open(&w, path, e) == 0 &&
        put_file(&w, &header, order, count, e) == 0) {
        r = writer_commit(&w, e);
    }
    writer_abort(&w);
    text_free(&header);
    mem_free(order);
    return r;
}
