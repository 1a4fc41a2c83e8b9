/* Numbers and types of libcurve that C and C++ programs share. SPDX-License-Identifier: Apache-2.0 */
#ifndef CURVE_LIBCURVE_DEFINE_H
#define CURVE_LIBCURVE_DEFINE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

/* Calls return 0 or a count, or the negated number of what went wrong. docs/libcurve.md says which are returned when. */
enum LIBCURVE_ERROR {
    OK = 0,
    EXISTS = 1,
    FAILED = 2,
    DISABLEIO = 3,
    AUTHFAIL = 4,
    DELETING = 5,
    NOTEXIST = 6,
    UNDER_SNAPSHOT = 7,
    NOT_UNDERSNAPSHOT = 8,
    DELETE_ERROR = 9,
    NOT_ALLOCATE = 10,
    NOT_SUPPORT = 11,
    NOT_EMPTY = 12,
    NO_SHRINK_BIGGER_FILE = 13,
    SESSION_NOTEXISTS = 14,
    FILE_OCCUPIED = 15,
    PARAM_ERROR = 16,
    INTERNAL_ERROR = 17,
    CRC_ERROR = 18,
    INVALID_REQUEST = 19,
    DISK_FAIL = 20,
    NO_SPACE = 21,
    NOT_ALIGNED = 22,
    BAD_FD = 23,
    LENGTH_NOT_SUPPORT = 24,
    SESSION_NOT_EXIST = 25,
    STATUS_NOT_MATCH = 26,
    DELETE_BEING_CLONED = 27,
    CLIENT_NOT_SUPPORT_SNAPSHOT = 28,
    SNAPSHOT_FROZEN = 29,
    SNAPSTHO_FROZEN = 29, /* as the original spells it */
    RETRY_UNTIL_SUCCESS = 30,
    EPOCH_TOO_OLD = 31,
    PERMISSION_DENY = 32,
    UNKNOWN = 100,
};
#ifndef __cplusplus
typedef enum LIBCURVE_ERROR LIBCURVE_ERROR;
#endif

typedef enum LIBCURVE_OP {
    LIBCURVE_OP_READ,
    LIBCURVE_OP_WRITE,
    LIBCURVE_OP_DISCARD,
    LIBCURVE_OP_MAX
} LIBCURVE_OP;

struct CurveAioContext;
typedef void (*LibCurveAioCallBack)(struct CurveAioContext *context);

/* One asynchronous request. It and its buffer belong to the library until `cb` is called. */
typedef struct CurveAioContext {
    off_t offset;
    size_t length;
    int ret; /* reads and writes: `length`; discards: 0; else a negated LIBCURVE_ERROR */
    LIBCURVE_OP op;
    LibCurveAioCallBack cb;
    void *buf;
} CurveAioContext;

/* For Open2. Without CURVE_RDWR or CURVE_FORCE_WRITE a volume is only read. */
enum CurveOpenFlags {
    CURVE_EXCLUSIVE = 1 << 0,
    CURVE_SHARED = 1 << 1,
    CURVE_RDWR = 1 << 2,
    CURVE_RDONLY = 1 << 3,
    CURVE_FORCE_WRITE = 1 << 4,
    CURVE_SECTORS = 1 << 16, /* not in the original: 512-byte alignment instead of 4096 */
};

#endif
