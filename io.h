/* io.h - files: read whole or mapped, written completely or not at all; safetensors; JSONL;
 * SHA-256.
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
/* The same of standard input, up to its end. */
int io_read_stdin(size_t limit, char **data, size_t *len, Err *e);
int io_exists(const char *path); /* any kind */
int io_is_directory(const char *path);
/* Bytes that can still be written to the file system of path, for refusing early. */
int io_free_space(const char *path, uint64_t *bytes, Err *e);
/* Writes dir + "/" + name to out; -1 if it does not fit. */
int io_path(char *out, size_t out_size, const char *dir, const char *name, Err *e);
#define IO_PATH_MAX 4096
/* One level; an existing directory is fine. Mode 0755 (0700 when private_ is set). */
int io_make_directory(const char *path, int private_, Err *e);
/* Checks by its folder whether a file or directory could be made at path: ERR_CREATE if not.
 * Nothing is made. */
int io_check_new(const char *path, Err *e);
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
    uint64_t device, inode, bytes; /* of a mapped file, when it was opened ... */
    int64_t seconds, nanoseconds;  /* ... and when it had last been written */
} FileMap;
/* A file that cannot be mapped (on some file systems) is read instead. */
int filemap_open(FileMap *m, const char *path, int use_mmap, Err *e);
void filemap_close(FileMap *m);
/* Has a mapped file been written to since it was opened (so that `data` is not what it was)? A file
 * that was replaced by another one of its name has not: the mapping keeps the old one. */
int filemap_written(const FileMap *m);
/* Accepts the file as it is now as the one that was opened. */
void filemap_accept(FileMap *m);
/* A mapped file that shrinks kills the process with SIGBUS: align.c installs a handler that prints
 * "file changed or disk error" and leaves with ERR_IO. */

/* ---- writing: all or nothing --------------------------------------------------------------- */

/* Writes go to a temporary file beside path and appear at path by writer_commit (flush, fsync,
 * rename, fsync of the directory). writer_abort, or any error in commit, removes the temporary
 * file; what a killed process left is removed by the next Writer at the same path. A symbolic link
 * stays and its target is replaced, a device or pipe (/dev/stdout) is written to directly; inside a
 * held directory both are refused (see IoLock). After an error in writer_put the Writer must still
 * be ended by writer_abort. */
typedef struct {
    int open; /* 1 from writer_open to writer_commit or writer_abort */
    int fd;
    char *path;   /* as the caller named it, for messages */
    char *target; /* what the rename replaces; NULL: no rename, path is no regular file */
    char *temp;
    size_t temp_size;
    unsigned char *buffer;
    size_t used;
    uint64_t total; /* bytes put so far */
    int failed;
} Writer;
int writer_open(Writer *w, const char *path, Err *e);             /* ERR_CREATE where impossible */
int writer_put(Writer *w, const void *bytes, size_t len, Err *e); /* ERR_IO names path */
int writer_commit(Writer *w, Err *e);
void writer_abort(Writer *w); /* safe after commit and on a zeroed Writer */
int io_write_file(const char *path, const void *bytes, size_t len, Err *e); /* all of the above */
/* Refuses early what writer_open would refuse: a folder; inside a held directory also a link, a
 * pipe or a device. */
int io_check_output(const char *path, Err *e);
/* "<path>.tmp.<process id>.<random>": two machines, or two containers, may share a process id. */
int io_temporary_name(char *out, size_t size, const char *path, Err *e);
/* Removes the temporary files of all open Writers; for a signal handler that ends the process. */
void io_drop_temporaries(void);
int io_copy_file(const char *from, const char *to, Err *e);

/* Append-only logs (metrics.jsonl, ledger.jsonl): the line and a newline in one write, O_APPEND. A
 * line that could not be written whole is removed again; the caller must cut off an incomplete one
 * left by a killed process before. sync: fsync before returning. */
int io_append_line(const char *path, const char *line, size_t len, int sync, Err *e);

/* A directory of ours while we work in it. Nothing below it is written, made, renamed or removed
 * through a symbolic link (ERR_CREATE naming the link); dir itself may be one.
 *
 * io_lock keeps others out: the file LOCK holds "process-id host boot", and a record lock on it
 * lives as long as the process. Another process that holds it: ERR_CREATE naming it. The lock of a
 * process that has ended is taken over. If there is only the text to go by (it names another host,
 * or the file system has no record locks), the message says what to do. A lock file that somebody
 * removes lets nobody in: the directory is locked too, and if it cannot be, the holder of the lock
 * writes nothing more (ERR_CREATE). */
typedef struct IoLock {
    int fd;     /* of path; -1 without */
    int dir_fd; /* of dir, locked; -1 without */
    char *path; /* of the lock file */
    char *dir;  /* NULL: the lock of a file */
    struct IoLock *outer;
} IoLock;
int io_lock(IoLock *l, const char *dir, Err *e);
int io_hold(IoLock *l, const char *dir, Err *e); /* the same without LOCK */
/* The same for a file that several processes might append to, with the lock file "<path>.lock". If
 * the folder cannot be written to there is nothing to lock, and *l is as if zeroed. */
int io_lock_file(IoLock *l, const char *path, Err *e);
void io_unlock(IoLock *l); /* ends all three; safe on a zeroed IoLock */

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

/* Reads a file of one JSON object per line: UTF-8, BOM and CRLF tolerated, blank lines skipped; or
 * one JSON array of objects, whose rows are counted from 1 in place of lines. Errors name
 * "path:line"; for another kind of file they say what it is, and how to make rows of it. */
typedef struct {
    char *data;
    size_t len, at;
    size_t line;        /* of the row last returned, from 1 */
    int array;          /* rows are members of an array */
    /* Set it after jsonl_open for a log whose writer may have died in the middle of a line: such a
     * last line is left out, and noted here. With NULL it is an error. */
    const Log *torn;
    int left_out; /* 1: that happened */
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
/* The same for a log, with JsonLines.torn. */
int jsonl_each_log(const char *path, JsonlRow fn, void *ctx, const Log *torn, Err *e);

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

/* No claim of the file is trusted. Before a tensor is visible these are checked: header length
 * against the file, JSON, dtype, shape x size == offsets, no holes, no overlap, no trailing
 * bytes. */
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
    /* Called if data is NULL, when it is this tensor's turn, to writer_put exactly its bytes (a
     * merge makes each tensor only then). Returns 0, or -1 with *e filled. */
    int (*produce)(void *ctx, Writer *w, Err *e);
    void *ctx;
} StOut;
/* metadata: pairs of key, value, ended by NULL; may be NULL. Refuses non-finite values in data
 * (ERR_DATA naming tensor and index); what produce writes is its own responsibility. */
int safetensors_write(const char *path, const StOut *tensors, size_t count,
                      const char *const *metadata, Err *e);

/* ---- models -------------------------------------------------------------------------------- */

/* Where the model is that a user names: a directory with its files, a GGUF file (the first of
 * several parts, a blob of Ollama's), or the folder that a hub's cache keeps for a model, of which
 * the snapshot is taken. ERR_NO_INPUT or ERR_DATA saying what it is instead, and what to do: a
 * folder of GGUF files, the name of a model on a hub. Whether the files of a directory are complete
 * is not asked. */
int io_model_path(char out[IO_PATH_MAX], const char *given, Err *e);

/* ---- GGUF ---------------------------------------------------------------------------------- */

#define GGUF_MAX_DIMS 4
#define GGUF_MAX_PARTS 1024u
#define GGUF_MAX_ALIGNMENT 65536u

typedef enum {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES
} GgufType;

typedef struct {
    const char *key;
    GgufType type; /* of the value, or of the items of an array */
    int is_array;
    uint64_t count; /* items; 1 if it is no array */
    /* The items end to end, little-endian and unaligned; a string is its length in 8 bytes and its
     * bytes. All of them lie within the file. */
    const unsigned char *data;
} GgufValue;

typedef struct {
    const char *name;
    const char *type;     /* "Q4_K" */
    const Format *format; /* NULL: we cannot compute with it */
    size_t n_dims;
    uint64_t shape[GGUF_MAX_DIMS]; /* [rows, cols]: the file has them the other way round */
    uint64_t count;
    const unsigned char *data;
    uint64_t bytes;
} GgufTensor;

/* A file, or the parts of a split one. */
typedef struct {
    FileMap *parts;
    size_t n_parts;
    Pool pool;
    GgufValue *values; /* of the first part, sorted by key */
    size_t n_values;
    GgufTensor *tensors; /* of all parts, sorted by name */
    size_t n_tensors;
} Gguf;

int gguf_is(const char *path); /* a regular file that begins as one? */
/* Versions 2 and 3. Before anything is visible, every count, length and offset is checked against
 * the file, and every product against overflow. path names the first part of a split file; the
 * others are opened, too. */
int gguf_open(Gguf *g, const char *path, int use_mmap, Err *e);
void gguf_close(Gguf *g);
const GgufTensor *gguf_tensor(const Gguf *g, const char *name); /* NULL where there is none */
const GgufValue *gguf_get(const Gguf *g, const char *key);
/* A value by its key: 1 with *out, 0 where there is none, -1 where it is of another kind. A text is
 * UTF-8, not 0-terminated. */
int gguf_u64(const Gguf *g, const char *key, uint64_t *out, Err *e);
int gguf_f64(const Gguf *g, const char *key, double *out, Err *e);
int gguf_bool(const Gguf *g, const char *key, int *out, Err *e);
int gguf_text(const Gguf *g, const char *key, const char **text, size_t *len, Err *e);
/* ERR_DATA where a file says that it holds an adapter and no model. */
int gguf_check_model(const Gguf *g, Err *e);
/* Item i of an array of numbers. */
double gguf_number(const GgufValue *v, uint64_t i);
/* The next item of an array of texts; *at begins as v->data. */
const char *gguf_next_text(const unsigned char **at, size_t *len);
/* Bytes of all its items. */
size_t gguf_value_bytes(const GgufValue *v);
/* The number by which files name a format of tensors. */
int gguf_type_of(const Format *f);

/* ---- writing GGUF -------------------------------------------------------------------------- */

/* The values of a new file, in their order; start with {0}, end with text_free(&v->bytes). */
typedef struct {
    Text bytes;
    uint64_t count;
} GgufValues;
int gguf_add_u32(GgufValues *v, const char *key, uint32_t x, Err *e);
int gguf_add_f32(GgufValues *v, const char *key, float x, Err *e);
int gguf_add_bool(GgufValues *v, const char *key, int x, Err *e);
int gguf_add_text(GgufValues *v, const char *key, const char *text, size_t len, Err *e);
/* An array; its `count` items must follow. */
int gguf_add_array(GgufValues *v, const char *key, GgufType items, uint64_t count, Err *e);
int gguf_item_i32(GgufValues *v, int32_t x, Err *e);
int gguf_item_f32(GgufValues *v, float x, Err *e);
int gguf_item_text(GgufValues *v, const char *text, size_t len, Err *e);
/* A value of another file, as it is. */
int gguf_add_value(GgufValues *v, const GgufValue *from, Err *e);

typedef struct {
    char name[64];
    const Format *format;
    size_t rows, cols; /* rows 0: a vector */
    /* Called when it is this tensor's turn, to writer_put exactly its bytes. */
    int (*produce)(void *ctx, Writer *w, Err *e);
    void *ctx;
} GgufOut;
/* Writes a file of version 3, all or nothing, the tensors in this order at multiples of 32 bytes.
 * Names must differ, and rows be whole blocks; that numbers are finite is for `produce` to see. */
int gguf_write(const char *path, const GgufValues *values, const GgufOut *tensors, size_t count,
               Err *e);

#endif
