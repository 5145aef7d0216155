/* io_read.c - reads files: system calls, whole reads, maps, SHA-256.
 *
 * Every system call that touches a file goes through one of the sys_ functions at the top: test
 * builds make the N-th of them fail there, or end the process; no other code is involved.
 */
#include "io_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
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
int sys_open(const char *path, int flags, mode_t mode)
{
    int fd;
    do {
        fd = io_fault(1) == FAULT_FAIL ? -1 : open(path, flags | O_CLOEXEC, mode);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* close: the descriptor is closed even if an error is returned, so it is never tried again. */
int sys_close(int fd)
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
ssize_t sys_read(int fd, void *out, size_t len)
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
int sys_write(int fd, const void *bytes, size_t len)
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
int sys_sync(int fd)
{
    int r;
    do {
        r = io_fault(1) == FAULT_FAIL ? -1 : fsync(fd);
    } while (r < 0 && errno == EINTR);
    return r;
}

int sys_rename(const char *from, const char *to)
{
    return io_fault(0) == FAULT_FAIL ? -1 : rename(from, to);
}

int sys_unlink(const char *path)
{
    return io_fault(0) == FAULT_FAIL ? -1 : unlink(path);
}

int sys_mkdir(const char *path, mode_t mode)
{
    return io_fault(0) == FAULT_FAIL ? -1 : mkdir(path, mode);
}

int sys_rmdir(const char *path)
{
    return io_fault(0) == FAULT_FAIL ? -1 : rmdir(path);
}

/* flock, never waiting. It belongs to the open file, so it ends with the process, however that
 * ends, but not when another descriptor of the same file is closed (as a POSIX record lock would);
 * Linux makes it a lock of the server on NFS. Returns 0, -1 if another process holds it, 1 if there
 * are no locks.
 */
int sys_lock(int fd)
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
int io_code_of(int why, int otherwise)
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
        return err_set(e, io_code_of(why, ERR_NO_INPUT), "%s: cannot open: %s", path,
                       strerror(why));
    }
    const char *kind = NULL;
    if (fstat(fd, st)) {
        int why = errno;
        err_set(e, io_code_of(why, ERR_NO_INPUT), "%s: cannot read its size: %s", path,
                strerror(why));
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
