/* libcurve: volumes of a Curve cluster for C and C++ programs. SPDX-License-Identifier: Apache-2.0
 *
 * Names, numbers and layouts are those of the original's library, so that sources written for it compile; what each call
 * does here is in docs/libcurve.md. All calls may be made from any thread and from callbacks.
 */
#ifndef CURVE_LIBCURVE_H
#define CURVE_LIBCURVE_H

#include "libcurve_define.h"

#define IO_ALIGNED_BLOCK_SIZE 4096
#define PATH_MAX_SIZE 4096
#define NAME_MAX_SIZE 256

typedef enum FileType {
    INODE_DIRECTORY = 0,
    INODE_PAGEFILE = 1,
    INODE_APPENDFILE = 2,
    INODE_APPENDECFILE = 3,
    INODE_SNAPSHOT_PAGEFILE = 4
} FileType;

typedef struct FileStatInfo {
    uint64_t id;
    uint64_t parentid; /* always 0 */
    FileType filetype;
    uint64_t length;
    uint64_t ctime;    /* microseconds since 1970; 0 for directories */
    char filename[NAME_MAX_SIZE];
    char owner[NAME_MAX_SIZE]; /* empty: there are no owners */
    int fileStatus;            /* always 0 */
    uint64_t stripeUnit;       /* always 0 */
    uint64_t stripeCount;      /* always 0 */
    uint32_t blocksize;        /* 4096 or 512 */
} FileStatInfo_t;

/* Taken and not looked at; may be NULL. */
typedef struct C_UserInfo {
    char owner[NAME_MAX_SIZE];
    char password[NAME_MAX_SIZE];
} C_UserInfo_t;

typedef struct DirInfo {
    char *dirpath;
    C_UserInfo_t *userinfo;
    uint64_t dirSize; /* set by Listdir */
    FileStatInfo_t *fileStat;
} DirInfo_t;

#ifdef __cplusplus
extern "C" {
#endif

/* The name of an error, negated or not. */
const char *LibCurveErrorName(enum LIBCURVE_ERROR err);

/* Start with a configuration file: ours, or one with `mds.listen.addr=HOST:PORT,…`. NULL looks where `curve` does. Once
 * started, further calls change nothing. */
int Init(const char *path);
int GlobalInit(const char *path);
/* Waits for what is in flight, then closes every file. May be called again, and followed by Init. */
void UnInit(void);
void GlobalUnInit(void);

/* `file_user_` names; the others take the path alone. */
int Open4Qemu(const char *filename);
int Extend4Qemu(const char *filename, int64_t newsize);
int StatFile4Qemu(const char *filename, FileStatInfo_t *finfo);
/* Shuts out everybody else who has the volume open for writing. 0, or a negated LIBCURVE_ERROR. */
int IncreaseEpoch(const char *filename);

int Open(const char *filename, const C_UserInfo_t *userinfo);
int Open2(const char *filename, const C_UserInfo_t *userinfo, int openflags);
int Close(int fd);

int Read(int fd, char *buf, off_t offset, size_t length);
int Write(int fd, const char *buf, off_t offset, size_t length);
int Discard(int fd, off_t offset, size_t length);
int AioRead(int fd, CurveAioContext *aioctx);
int AioWrite(int fd, CurveAioContext *aioctx);
int AioDiscard(int fd, CurveAioContext *aioctx);

int Create(const char *filename, const C_UserInfo_t *userinfo, size_t size);
int Rename(const C_UserInfo_t *userinfo, const char *oldpath, const char *newpath);
int Extend(const char *filename, const C_UserInfo_t *userinfo, uint64_t newsize);
int Unlink(const char *filename, const C_UserInfo_t *userinfo);
int DeleteForce(const char *filename, const C_UserInfo_t *userinfo);
int Recover(const char *filename, const C_UserInfo_t *userinfo, uint64_t fileId); /* -NOT_SUPPORT */
int StatFile(const char *filename, const C_UserInfo_t *userinfo, FileStatInfo_t *finfo);
int ChangeOwner(const char *filename, const char *newOwner, const C_UserInfo_t *userinfo); /* -NOT_SUPPORT */
int Mkdir(const char *dirpath, const C_UserInfo_t *userinfo);
int Rmdir(const char *dirpath, const C_UserInfo_t *userinfo);

DirInfo_t *OpenDir(const char *dirpath, const C_UserInfo_t *userinfo);
int Listdir(DirInfo_t *dirinfo);
void CloseDir(DirInfo_t *dirinfo);

/* Writes the cluster's name and a zero. */
int GetClusterId(char *buf, int len);

/* What the class below is made of; not in the original. A client is a number above 0. */
int LibCurveClientNew(const char *configPath);
void LibCurveClientEnd(int client);
int LibCurveClientOpen(int client, const char *filename, const char *confPath, int openflags, int reopen);
int LibCurveClientExtend(int client, const char *filename, int64_t newsize);
int LibCurveClientStat(int client, const char *filename, FileStatInfo_t *finfo);
int LibCurveClientIncreaseEpoch(int client, const char *filename);
int LibCurveStatFd(int fd, FileStatInfo_t *finfo);

#ifdef __cplusplus
} /* extern "C" */

#include <map>
#include <string>
#include <vector>

namespace curve {
namespace client {

enum class UserDataType {
    RawBuffer,
    IOBuffer, /* brpc's buffer; -NOT_SUPPORT */
};

typedef struct UserInfo {
    std::string owner;
    std::string password;

    UserInfo() = default;
    UserInfo(const std::string &own, const std::string &pwd = "") : owner(own), password(pwd) {}
    bool Valid() const { return !owner.empty(); }
} UserInfo_t;

inline bool operator==(const UserInfo &a, const UserInfo &b) {
    return a.owner == b.owner && a.password == b.password;
}

struct OpenFlags {
    bool exclusive = true;
    std::string confPath;  /* another cluster than the client's */
    bool readonly = false; /* not in the original */
    bool sectors = false;  /* not in the original: 512-byte alignment */
};

/* A connection to a cluster. Names are `file_user_`. */
class CurveClient {
 public:
    CurveClient() = default;
    CurveClient(const CurveClient &) = delete;
    CurveClient &operator=(const CurveClient &) = delete;
    virtual ~CurveClient() { CurveClient::UnInit(); }

    virtual int Init(const std::string &configPath) {
        if (client_ > 0) return OK;
        int made = LibCurveClientNew(configPath.c_str());
        if (made < 0) return made;
        client_ = made;
        return OK;
    }

    virtual void UnInit() {
        if (client_ > 0) LibCurveClientEnd(client_);
        client_ = -1;
    }

    virtual int IncreaseEpoch(const std::string &filename) {
        return LibCurveClientIncreaseEpoch(client_, filename.c_str());
    }

    virtual int Open(const std::string &filename, const OpenFlags &flags) { return OpenAs(filename, flags, 0); }

    /* Opens, and shuts out whoever stands in the way. */
    virtual int ReOpen(const std::string &filename, const OpenFlags &flags) { return OpenAs(filename, flags, 1); }

    virtual int Close(int fd) { return ::Close(fd); }

    virtual int Extend(const std::string &filename, int64_t newsize) {
        return LibCurveClientExtend(client_, filename.c_str(), newsize);
    }

    /* Releases of the original differ in the arguments; this one returns the length. */
    virtual int64_t StatFile(const std::string &filename) {
        FileStatInfo info;
        int done = LibCurveClientStat(client_, filename.c_str(), &info);
        return done < 0 ? done : static_cast<int64_t>(info.length);
    }

    virtual int64_t StatFile(int fd, FileStatInfo *info) { return LibCurveStatFd(fd, info); }

    virtual int AioRead(int fd, CurveAioContext *context, UserDataType type) {
        return type == UserDataType::RawBuffer ? ::AioRead(fd, context) : -NOT_SUPPORT;
    }

    virtual int AioWrite(int fd, CurveAioContext *context, UserDataType type) {
        return type == UserDataType::RawBuffer ? ::AioWrite(fd, context) : -NOT_SUPPORT;
    }

    virtual int AioDiscard(int fd, CurveAioContext *context) { return ::AioDiscard(fd, context); }

 private:
    int OpenAs(const std::string &filename, const OpenFlags &flags, int reopen) {
        int bits = flags.exclusive ? CURVE_EXCLUSIVE : CURVE_SHARED;
        bits |= flags.readonly ? CURVE_RDONLY : CURVE_RDWR;
        bits |= flags.sectors ? CURVE_SECTORS : 0;
        return LibCurveClientOpen(client_, filename.c_str(), flags.confPath.c_str(), bits, reopen);
    }

    int client_ = -1;
};

}  // namespace client
}  // namespace curve
#endif

#endif
