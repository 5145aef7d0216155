/* io_parts.h - private declarations of the files that read and write. */
#ifndef ALIGN_IO_PARTS_H
#define ALIGN_IO_PARTS_H

#include "io.h"

#include <sys/types.h>

/* System calls (io_read.c), as their namesakes: tried again when a signal interrupts them. 0 and -1
 * with errno, except where noted. */
int sys_open(const char *path, int flags, mode_t mode);
int sys_close(int fd);
ssize_t sys_read(int fd, void *out, size_t len);
int sys_write(int fd, const void *bytes, size_t len);
int sys_sync(int fd);
int sys_rename(const char *from, const char *to);
int sys_unlink(const char *path);
int sys_mkdir(const char *path, mode_t mode);
int sys_rmdir(const char *path);
int sys_lock(int fd);
int io_code_of(int why, int otherwise);

#endif
