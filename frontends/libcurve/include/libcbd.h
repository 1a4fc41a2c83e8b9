/* Short names over libcurve.h, as programs of the original use them. SPDX-License-Identifier: Apache-2.0
 * Names of volumes are `file_user_`. The original's local-file backend for its own tests is not here. */
#ifndef CURVE_LIBCBD_H
#define CURVE_LIBCBD_H

#include <stdbool.h>

#include "libcurve.h"

#define CBD_BACKEND_LIBCURVE
#define CBD_MAX_FILE_PATH_LEN 1024
#define CBD_MAX_BUF_LEN (1024 * 1024 * 32)

typedef int CurveFd;

typedef struct CurveOptions {
    bool inited;
    char *conf;
} CurveOptions;

static inline int cbd_libcurve_init(const CurveOptions *options) { return Init(options->conf); }
static inline int cbd_libcurve_fini(void) { UnInit(); return 0; }
static inline int cbd_libcurve_open(const char *filename) { return Open4Qemu(filename); }
static inline int cbd_libcurve_close(int fd) { return Close(fd); }
static inline int cbd_libcurve_pread(int fd, void *buf, off_t offset, size_t length) {
    return Read(fd, (char *)buf, offset, length);
}
static inline int cbd_libcurve_pwrite(int fd, const void *buf, off_t offset, size_t length) {
    return Write(fd, (const char *)buf, offset, length);
}
static inline int cbd_libcurve_aio_pread(int fd, CurveAioContext *context) { return AioRead(fd, context); }
static inline int cbd_libcurve_aio_pwrite(int fd, CurveAioContext *context) { return AioWrite(fd, context); }
/* A write that has completed is durable. */
static inline int cbd_libcurve_sync(int fd) { (void)fd; return 0; }
static inline int64_t cbd_libcurve_filesize(const char *filename) {
    FileStatInfo_t info;
    int done = StatFile4Qemu(filename, &info);
    return done < 0 ? done : (int64_t)info.length;
}
static inline int cbd_libcurve_resize(const char *filename, int64_t size) { return Extend4Qemu(filename, size); }

#define cbd_lib_init cbd_libcurve_init
#define cbd_lib_fini cbd_libcurve_fini
#define cbd_lib_open cbd_libcurve_open
#define cbd_lib_close cbd_libcurve_close
#define cbd_lib_pread cbd_libcurve_pread
#define cbd_lib_pwrite cbd_libcurve_pwrite
#define cbd_lib_aio_pread cbd_libcurve_aio_pread
#define cbd_lib_aio_pwrite cbd_libcurve_aio_pwrite
#define cbd_lib_sync cbd_libcurve_sync
#define cbd_lib_filesize cbd_libcurve_filesize
#define cbd_lib_resize cbd_libcurve_resize

#endif
