/* Every C call, with its failures. `every CONFIG ORIGINAL_CONFIG` */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "check.h"
#include "include/client/libcurve.h"
#include "libcbd.h"

#define MIB (1024L * 1024)
#define BLOCK 4096
#define MANY 64

static C_UserInfo_t user = {"me", ""};
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t landed = PTHREAD_COND_INITIALIZER;
static int called, nested_fd, nested_result;
static char nested[BLOCK];

static void count(CurveAioContext *context) {
    (void)context;
    pthread_mutex_lock(&mutex);
    called++;
    pthread_cond_broadcast(&landed);
    pthread_mutex_unlock(&mutex);
}

/* A callback that makes calls of its own. */
static void nest(CurveAioContext *context) {
    nested_result = Read(nested_fd, nested, 0, BLOCK);
    count(context);
}

static void await(int many) {
    pthread_mutex_lock(&mutex);
    while (called < many) pthread_cond_wait(&landed, &mutex);
    called = 0;
    pthread_mutex_unlock(&mutex);
}

static void before_init(void) {
    FileStatInfo_t info;
    IS(Create("/x", &user, MIB), -FAILED);
    IS(Open("/x", &user), -FAILED);
    IS(StatFile("/x", &user, &info), -FAILED);
    IS(Close(1), -BAD_FD);
    UnInit();
    IS(Init("/no/such/file"), -FAILED);
}

static void namespace_calls(void) {
    FileStatInfo_t info;
    char id[64];
    IS(Mkdir("/dir", &user), 0);
    IS(Mkdir("/dir", &user), -EXISTS);
    IS(Mkdir("/no/dir", &user), -NOTEXIST);
    IS(Mkdir(NULL, &user), -PARAM_ERROR);
    IS(Create("/dir/a", &user, 16 * MIB), 0);
    IS(Create("/dir/a", &user, 16 * MIB), -EXISTS);
    IS(Create("/dir/odd", &user, 12345), -LENGTH_NOT_SUPPORT);
    IS(Create("relative", &user, MIB), -PARAM_ERROR);
    IS(StatFile("/dir/a", NULL, &info), 0);
    IS(info.length, 16 * MIB);
    IS(info.filetype, INODE_PAGEFILE);
    IS(strcmp(info.filename, "a"), 0);
    HOLDS(info.id > 0 && info.ctime > 1600000000000000ULL);
    IS(StatFile("/dir/b", &user, &info), -NOTEXIST);
    IS(StatFile("/dir/a", &user, NULL), -PARAM_ERROR);
    IS(StatFile4Qemu("/dir/a_me_", &info), 0);
    IS(Rmdir("/dir", &user), -NOT_EMPTY);
    IS(Rmdir("/dir/a", &user), -PARAM_ERROR);
    IS(Unlink("/dir", &user), -PARAM_ERROR);
    IS(Rename(&user, "/dir/a", "/dir/b"), 0);
    IS(Rename(&user, "/dir/a", "/dir/c"), -NOTEXIST);
    IS(Extend("/dir/b", &user, 32 * MIB), 0);
    IS(Extend("/dir/b", &user, MIB), -NO_SHRINK_BIGGER_FILE);
    IS(Extend("/dir/b", &user, 32 * MIB + 1), -LENGTH_NOT_SUPPORT);
    IS(Extend4Qemu("/dir/b_me_", 48 * MIB), 0);
    IS(Extend4Qemu("/dir/b_me_", -1), -PARAM_ERROR);
    IS(cbd_lib_filesize("/dir/b_me_"), 48 * MIB);
    IS(Recover("/dir/b", &user, 0), -NOT_SUPPORT);
    IS(ChangeOwner("/dir/b", "you", &user), -NOT_SUPPORT);
    IS(Create("/dir/c", &user, MIB), 0);

    HOLDS(OpenDir("/none", &user) == NULL);
    HOLDS(OpenDir("/dir/b", &user) == NULL);
    DirInfo_t *dir = OpenDir("/dir", &user);
    HOLDS(dir != NULL);
    IS(Listdir(dir), 0);
    IS(Listdir(dir), 0);
    IS(dir->dirSize, 2);
    IS(strcmp(dir->fileStat[0].filename, "b"), 0);
    IS(dir->fileStat[0].length, 48 * MIB);
    IS(strcmp(dir->fileStat[1].filename, "c"), 0);
    CloseDir(dir);
    CloseDir(NULL);
    IS(Listdir(NULL), -PARAM_ERROR);

    IS(DeleteForce("/dir/c", &user), 0);
    IS(Unlink("/dir/c", &user), -NOTEXIST);
    IS(GetClusterId(id, sizeof id), 0);
    HOLDS(strlen(id) > 0);
    IS(GetClusterId(id, 1), -PARAM_ERROR);
    IS(strcmp(LibCurveErrorName(EPOCH_TOO_OLD), "EPOCH_TOO_OLD"), 0);
    IS(strcmp(LibCurveErrorName((LIBCURVE_ERROR)-NO_SPACE), "NO_SPACE"), 0);
}

static void synchronous(int fd) {
    char *out = malloc(MIB), *in = malloc(MIB);
    memset(out, 0xa5, MIB);
    IS(Read(fd, in, 0, BLOCK), BLOCK);
    IS(in[17], 0);
    IS(Write(fd, out, BLOCK, MIB), MIB);
    IS(Read(fd, in, BLOCK, MIB), MIB);
    IS(memcmp(in, out, MIB), 0);
    IS(Discard(fd, BLOCK, BLOCK), 0);
    IS(Read(fd, in, BLOCK, 2 * BLOCK), 2 * BLOCK);
    IS(in[0], 0);
    IS((unsigned char)in[BLOCK], 0xa5);
    IS(Read(fd, in, 0, 0), 0);
    IS(Write(fd, out, 512, 512), -NOT_ALIGNED);
    IS(Read(fd, in, 0, 100), -NOT_ALIGNED);
    IS(Discard(fd, 1, BLOCK), -NOT_ALIGNED);
    IS(Read(fd, in, -1, BLOCK), -PARAM_ERROR);
    IS(Read(fd, NULL, 0, BLOCK), -PARAM_ERROR);
    IS(Read(fd, in, 1024 * MIB, BLOCK), -PARAM_ERROR);
    IS(Write(fd, out, 0, (size_t)1 << 32), -PARAM_ERROR);
    IS(Write(fd + 1000, out, 0, BLOCK), -BAD_FD);
    IS(Read(-1, in, 0, BLOCK), -BAD_FD);
    free(out);
    free(in);
}

static void asynchronous(int fd) {
    static char out[MANY][BLOCK], in[MANY][BLOCK];
    CurveAioContext contexts[MANY];
    for (int i = 0; i < MANY; i++) {
        memset(out[i], i + 1, BLOCK);
        contexts[i] = (CurveAioContext){.offset = i * BLOCK, .length = BLOCK, .cb = count, .buf = out[i]};
        IS(AioWrite(fd, &contexts[i]), 0);
    }
    await(MANY);
    for (int i = 0; i < MANY; i++) {
        IS(contexts[i].ret, BLOCK);
        contexts[i].buf = in[i];
        IS(AioRead(fd, &contexts[i]), 0);
    }
    await(MANY);
    IS(memcmp(in, out, sizeof in), 0);
    contexts[0] = (CurveAioContext){.offset = 0, .length = BLOCK, .cb = count};
    IS(AioDiscard(fd, &contexts[0]), 0);
    await(1);
    IS(contexts[0].ret, 0);
    IS(contexts[0].op, LIBCURVE_OP_DISCARD);

    nested_fd = fd;
    contexts[0] = (CurveAioContext){.offset = 0, .length = BLOCK, .cb = nest, .buf = in[0]};
    IS(AioRead(fd, &contexts[0]), 0);
    await(1);
    IS(nested_result, BLOCK);

    contexts[0].offset = 1024 * MIB;
    contexts[0].cb = count;
    IS(AioRead(fd, &contexts[0]), 0);
    await(1);
    IS(contexts[0].ret, -PARAM_ERROR);
    contexts[0].offset = 1;
    IS(AioRead(fd, &contexts[0]), -NOT_ALIGNED);
    IS(AioWrite(fd + 1000, &contexts[1]), -BAD_FD);
    IS(AioRead(fd, NULL), -PARAM_ERROR);
}

static void modes(void) {
    char block[BLOCK] = {0};
    int writer = Open("/dir/b", &user);
    HOLDS(writer > 0);
    IS(Open4Qemu("/dir/b_me_"), -FILE_OCCUPIED);
    IS(Open2("/dir/b", &user, CURVE_SHARED | CURVE_RDWR), -FILE_OCCUPIED);
    IS(Open2("/dir/b", &user, 0), -PARAM_ERROR);
    IS(Open("/none", &user), -NOTEXIST);
    IS(Open(NULL, &user), -PARAM_ERROR);
    IS(Open("/dir", &user), -PARAM_ERROR);
    IS(Unlink("/dir/b", &user), -FILE_OCCUPIED);
    int reader = Open2("/dir/b", &user, CURVE_RDONLY | CURVE_SECTORS);
    HOLDS(reader > 0 && reader != writer);
    IS(Read(reader, block, 512, 512), 512);
    IS(Write(reader, block, 0, 512), -PERMISSION_DENY);
    IS(Close(reader), 0);
    IS(Close(reader), -BAD_FD);
    IS(Close(writer), 0);
    int one = Open2("/dir/b", &user, CURVE_SHARED | CURVE_RDWR);
    int two = Open2("/dir/b", &user, CURVE_SHARED | CURVE_FORCE_WRITE | CURVE_SECTORS);
    HOLDS(one > 0 && two > 0);
    block[0] = 7;
    IS(Write(two, block, 512, 512), 512);
    IS(Read(one, block, 0, BLOCK), BLOCK);
    IS(block[512], 7);
    IS(IncreaseEpoch("/dir/b_me_"), 0); /* there is nobody else */
    IS(Write(one, block, 0, BLOCK), BLOCK);
    IS(IncreaseEpoch("/none_me_"), -NOTEXIST);
}

/* The child of a process that uses the library is refused, and hangs nowhere; its parent goes on. */
static void forked(int fd) {
    char block[BLOCK];
    pid_t child = fork();
    if (child == 0) {
        FileStatInfo_t info;
        CurveAioContext context = {.offset = 0, .length = BLOCK, .cb = count, .buf = block};
        int refused = Init(NULL) == -DISABLEIO && Read(fd, block, 0, BLOCK) == -DISABLEIO &&
                      AioRead(fd, &context) == -DISABLEIO && Open("/dir/b", &user) == -DISABLEIO &&
                      StatFile("/dir/b", &user, &info) == -DISABLEIO && Close(fd) == -DISABLEIO;
        UnInit();
        /* Not by an exit, which valgrind would take for one of the whole library with all its requests in flight. */
        if (refused) raise(SIGKILL);
        _exit(1);
    }
    int status = 0;
    IS(waitpid(child, &status, 0), child);
    IS(WIFSIGNALED(status) ? WTERMSIG(status) : -1, SIGKILL);
    IS(Read(fd, block, 0, BLOCK), BLOCK);
}

int main(int argc, char **argv) {
    static char out[MANY][BLOCK];
    static CurveAioContext contexts[MANY];
    IS(argc, 3);
    before_init();
    IS(Init(argv[1]), 0);
    IS(GlobalInit("ignored, as it is started"), 0);
    namespace_calls();
    int fd = Open("/dir/b", &user);
    HOLDS(fd > 0);
    synchronous(fd);
    asynchronous(fd);
    forked(fd);
    IS(Close(fd), 0);
    modes();
    GlobalUnInit();
    UnInit();
    IS(Open("/dir/b", &user), -FAILED);

    /* Again, with the original's kind of file; and the end waits for what is in flight. */
    CurveOptions options = {false, argv[2]};
    IS(cbd_lib_init(&options), 0);
    fd = cbd_lib_open("cbd:pool//dir/b_me_");
    HOLDS(fd > 0);
    IS(cbd_lib_pwrite(fd, out, 0, BLOCK), BLOCK);
    IS(cbd_lib_sync(fd), 0);
    for (int i = 0; i < MANY; i++) {
        contexts[i] = (CurveAioContext){.offset = i * BLOCK, .length = BLOCK, .cb = count, .buf = out[i]};
        IS(cbd_lib_aio_pwrite(fd, &contexts[i]), 0);
    }
    IS(cbd_lib_fini(), 0);
    IS(called, MANY);
    for (int i = 0; i < MANY; i++) IS(contexts[i].ret, BLOCK);
    IS(AioWrite(fd, &contexts[0]), -BAD_FD);

    IS(Init(argv[1]), 0);
    IS(Unlink("/dir/b", &user), 0);
    IS(Rmdir("/dir", &user), 0);
    UnInit();
    puts("every call did what it should");
    return 0;
}
