/* io.c - files: whole reads, maps, atomic writes, locks, SHA-256, JSONL, safetensors. See io.h.
 *
 * Every system call that touches a file goes through one of the sys_ functions at the top: test
 * builds make the N-th of them fail there, or end the process; no other code is involved.
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
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
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

/* close: the descriptor is closed even if an error is returned, so it is never tried again. */
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

/* Writes everything: continues after short writes and signals; 0 bytes counts as a full device. */
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

/* flock, never waiting. It belongs to the open file, so it ends with the process, however that
 * ends, but not when another descriptor of the same file is closed (as a POSIX record lock would);
 * Linux makes it a lock of the server on NFS. Returns 0, -1 if another process holds it, 1 if there
 * are no locks.
 */
static int sys_lock(int fd)
{
    int r;
    do {
        r = io_fault(1) == FAULT_FAIL ? -1 : flock(fd, LOCK_EX | LOCK_NB);
    } while (r < 0 && errno == EINTR);
    return !r ? 0 : errno == EWOULDBLOCK ? -1 : 1;
}

static void *sys_map(size_t len, int fd)
{
    if (io_fault(0) == FAULT_FAIL) return MAP_FAILED;
    return mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
}

/* The exit code of a failed system call. A lack of memory, descriptors or disk space is not a
 * missing input. `otherwise` is the code if the path itself is at fault. */
static int code_of(int why, int otherwise)
{
    switch (why) {
    case ENOMEM: return ERR_MEMORY;
    case EMFILE:
    case ENFILE:
    case EIO:
    case ESTALE:
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case ENOLCK: return ERR_IO;
    default: return otherwise;
    }
}

/* ---- reading ------------------------------------------------------------------------------- */

/* Opens a regular file for reading; the rest (and a missing one) is ERR_NO_INPUT. */
static int open_input(const char *path, struct stat *st, Err *e)
{
    /* O_NONBLOCK: opening a FIFO must not wait for a writer before it can be refused. */
    int fd = sys_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0) {
        int why = errno;
        return err_set(e, code_of(why, ERR_NO_INPUT), "%s: cannot open: %s", path, strerror(why));
    }
    const char *kind = NULL;
    if (fstat(fd, st)) {
        int why = errno;
        err_set(e, code_of(why, ERR_NO_INPUT), "%s: cannot read its size: %s", path, strerror(why));
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

int io_read_stdin(size_t limit, char **data, size_t *len, Err *e)
{
    return read_to_end(STDIN_FILENO, "standard input", 0, limit, data, len, e);
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

static void filemap_remember(FileMap *m, const struct stat *st)
{
    m->device = (uint64_t)st->st_dev;
    m->inode = (uint64_t)st->st_ino;
    m->bytes = (uint64_t)st->st_size;
    m->seconds = st->st_mtim.tv_sec;
    m->nanoseconds = st->st_mtim.tv_nsec;
}

int filemap_written(const FileMap *m)
{
    struct stat st;
    FileMap now = {0};
    if (!m->mapped || stat(m->path, &st)) return 0;
    filemap_remember(&now, &st);
    if (now.device != m->device || now.inode != m->inode) return 0;
    return now.bytes != m->bytes || now.seconds != m->seconds || now.nanoseconds != m->nanoseconds;
}

void filemap_accept(FileMap *m)
{
    struct stat st;
    if (m->mapped && !stat(m->path, &st)) filemap_remember(m, &st);
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
    filemap_remember(m, &st);
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
    return err_set(e, code_of(why, ERR_CREATE), "%s: cannot create the directory: %s", path,
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
        return err_set(e, code_of(why, ERR_NO_INPUT), "%s: cannot list: %s", path, strerror(why));
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
        return writer_fail(w, code_of(why, ERR_CREATE), "create", why, e);
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
        err_set(e, code_of(why, ERR_CREATE), "%s: cannot open for appending: %s", path,
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
            return err_set(e, code_of(*why, ERR_CREATE), "%s: cannot create: %s", l->path,
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
