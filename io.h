/* io.h - files: read whole or mapped, written whole or not at all; safetensors; JSONL; SHA-256.
 *
 * Inputs are opened read-only. Outputs are built beside their target, synced, and renamed, so a
 * crash leaves the old file or the new one. Every length read from a file is checked against the
 * file's real size before it is used.
 */
#ifndef ALIGN_IO_H
#define ALIGN_IO_H

#include "base.h"
#include "json.h"
#include "maths.h"

#include <stdio.h>

/* ---- whole files --------------------------------------------------------------------------- */

/* Regular files only; a directory, FIFO or unreadable file is ERR_NO_INPUT. limit = largest size
 * accepted (0 = none). *data gets an extra 0 byte that is not counted. Free with mem_free. */
int io_read_file(const char *path, size_t limit, char **data, size_t *len, Err *e);
int io_exists(const char *path); /* any kind */
int io_is_directory(const char *path);
/* Bytes that can still be written to the file system of path, for refusing early. */
int io_free_space(const char *path, uint64_t *bytes, Err *e);
/* dir + "/" + name into out; -1 where it does not fit. */
int io_path(char *out, size_t out_size, const char *dir, const char *name, Err *e);
#define IO_PATH_MAX 4096
/* One level; an existing directory is fine. Mode 0755 (0700 when private_ is set). */
int io_make_directory(const char *path, int private_, Err *e);
int io_remove_tree(const char *path, Err *e); /* a directory of ours and all below it */
/* Names in a directory, sorted, without . and ..; in pool. */
int io_list(const char *path, Pool *pool, char ***names, size_t *count, Err *e);
int io_rename(const char *from, const char *to, Err *e); /* then syncs the parent directory */
int io_sync_directory(const char *path, Err *e);

/* Read-only bytes of a file: mapped (private) or, with use_mmap = 0, read into memory. */
typedef struct {
    const unsigned char *data;
    size_t size;
    int mapped;
    char *path;
} FileMap;
/* Where the file cannot be mapped (some file systems cannot) it is read instead. */
int filemap_open(FileMap *m, const char *path, int use_mmap, Err *e);
void filemap_close(FileMap *m);
/* A mapped file that shrinks kills the process with SIGBUS: align.c installs a handler that prints
 * "file changed or disk error" and leaves with ERR_IO. */

/* ---- writing: all or nothing --------------------------------------------------------------- */

/* Writes go to "<path>.tmp.<pid>" and appear at path by writer_commit (flush, fsync, rename, fsync
 * of the directory). writer_abort, or any error in commit, removes the temporary file. A symbolic
 * link stays and its target is replaced; a device or pipe (/dev/stdout) is written to directly.
 * After an error in writer_put the Writer must still be ended by writer_abort. */
typedef struct {
    int open; /* 1 from writer_open to writer_commit or writer_abort */
    int fd;
    char *path;   /* as the caller named it, for messages */
    char *target; /* what the rename replaces; NULL: no rename, path is no regular file */
    char *temp;
    unsigned char *buffer;
    size_t used;
    uint64_t total; /* bytes put so far */
    int failed;
} Writer;
int writer_open(Writer *w, const char *path, Err *e);             /* ERR_CREATE where impossible */
int writer_put(Writer *w, const void *bytes, size_t len, Err *e); /* ERR_IO names path */
int writer_printf(Writer *w, Err *e, const char *fmt, ...) PRINTF_LIKE(3, 4);
int writer_commit(Writer *w, Err *e);
void writer_abort(Writer *w); /* safe after commit and on a zeroed Writer */
int io_write_file(const char *path, const void *bytes, size_t len, Err *e); /* all of the above */
int io_copy_file(const char *from, const char *to, Err *e);

/* Append-only logs (metrics.jsonl, ledger.jsonl): the line and a newline in one write, O_APPEND. A
 * line that could not be written whole is taken back; a torn one that a killed process left is the
 * caller's to cut off before. sync: fsync before returning. */
int io_append_line(const char *path, const char *line, size_t len, int sync, Err *e);

/* Lock of a run directory: the file LOCK holding "process-id host". Taken over where that process
 * is gone from this host. Held by another: ERR_CREATE naming it. */
int io_lock(const char *dir, Err *e);
void io_unlock(const char *dir);

/* ---- SHA-256 (FIPS 180-4) ------------------------------------------------------------------ */

typedef struct {
    uint32_t h[8];
    uint64_t total;
    unsigned char block[64];
    size_t used;
} Sha256;
void sha256_begin(Sha256 *s);
void sha256_add(Sha256 *s, const void *bytes, size_t len);
void sha256_end(Sha256 *s, char hex[65]);
void sha256_bytes(const void *bytes, size_t len, char hex[65]); /* all of the above */
int sha256_file(const char *path, char hex[65], Err *e);

/* ---- JSONL --------------------------------------------------------------------------------- */

/* Reads a file of one JSON object per line: UTF-8, BOM and CRLF tolerated, blank lines skipped.
 * Errors name "path:line". */
typedef struct {
    char *data;
    size_t len, at;
    size_t line;        /* of the row last returned, from 1 */
    size_t blank_lines; /* skipped so far */
    const char *path;   /* the caller's: must live as long */
    int flags;          /* for json_parse */
} JsonLines;
int jsonl_open(JsonLines *j, const char *path, Err *e); /* "-" reads standard input */
/* 1 with *row (in pool), 0 at the end, -1 on error. */
int jsonl_next(JsonLines *j, Pool *pool, Json **row, Err *e);
void jsonl_close(JsonLines *j);
/* Hands the rows of a file to fn, one after another; each lives until fn returns. An error of fn
 * gets "path:line: " before it. sha256: of the file, or NULL. */
typedef int (*JsonlRow)(void *ctx, const Json *row, size_t line, Err *e);
int jsonl_each(const char *path, JsonlRow fn, void *ctx, char sha256[65], Err *e);

/* ---- safetensors --------------------------------------------------------------------------- */

#define SAFETENSORS_MAX_HEADER 100000000u
#define SAFETENSORS_MAX_DIMS 8
#define SAFETENSORS_MAX_TENSORS 262144u /* the largest real files have some 60,000 */

typedef struct {
    const char *name;
    size_t name_len;
    char dtype_text[16];
    int supported; /* dtype is one of Dtype */
    Dtype dtype;
    size_t n_dims;
    uint64_t shape[SAFETENSORS_MAX_DIMS];
    uint64_t count;            /* product of shape, 1 for rank 0 */
    const unsigned char *data; /* into the map; may be unaligned for its type */
    uint64_t bytes;
} StTensor;

typedef struct {
    FileMap map;
    Pool pool;
    StTensor *tensors; /* in file order */
    size_t count;
    const StTensor **by_name; /* the same, sorted by name */
    const Json *metadata;     /* the __metadata__ object or NULL */
} Safetensors;

/* Nothing of the file is believed. Checked before a tensor is visible: header length against the
 * file, JSON, dtype, shape x size == offsets, no holes, no overlap, no trailing bytes. */
int safetensors_open(Safetensors *s, const char *path, int use_mmap, Err *e);
const StTensor *safetensors_find(const Safetensors *s, const char *name);
/* 0, or -1 naming the tensor and the index of its first NaN or infinity. */
int safetensors_check_finite(const Safetensors *s, const StTensor *t, Err *e);
void safetensors_close(Safetensors *s);

/* Writer: declare every tensor, then write. Order in the file: by falling dtype size, then by name
 * (the order the reference writer uses); header padded with spaces to a multiple of 8. */
typedef struct {
    const char *name;
    Dtype dtype;
    size_t n_dims;
    uint64_t shape[SAFETENSORS_MAX_DIMS];
    const void *data; /* count * dtype_size bytes */
    /* Where data is NULL: called when it is this tensor's turn, to writer_put exactly its bytes
     * (a merge makes each tensor only then). Returns 0, or -1 with *e filled. */
    int (*produce)(void *ctx, Writer *w, Err *e);
    void *ctx;
} StOut;
/* metadata: pairs of key, value, ended by NULL; may be NULL. Refuses non-finite values in data
 * (ERR_DATA naming tensor and index); what produce writes is its own responsibility. */
int safetensors_write(const char *path, const StOut *tensors, size_t count,
                      const char *const *metadata, Err *e);

#endif
