// Class CurveClient; as writer and reader it is also the two processes that share a volume.
//   client every CONFIG VOLUME
//   client write|read CONFIG VOLUME    the reader reads until it sees what the writer wrote last
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <vector>

#include "check.h"
#include "libcurve.h"

using curve::client::CurveClient;
using curve::client::OpenFlags;
using curve::client::UserDataType;

namespace {

constexpr int kBlock = 4096;
constexpr int kRounds = 200;

struct Request {
    CurveAioContext context{};  // first, so that the callback finds the rest
    std::mutex mutex;
    std::condition_variable landed;
    bool done = false;

    int Wait() {
        std::unique_lock<std::mutex> lock(mutex);
        landed.wait(lock, [this] { return done; });
        done = false;
        return context.ret;
    }
};

void Landed(CurveAioContext *context) {
    auto *request = reinterpret_cast<Request *>(context);
    std::lock_guard<std::mutex> lock(request->mutex);
    request->done = true;
    request->landed.notify_all();
}

void Aim(Request *request, off_t offset, void *buffer) {
    request->context.offset = offset;
    request->context.length = kBlock;
    request->context.cb = Landed;
    request->context.buf = buffer;
}

void Every(const std::string &config, const std::string &name) {
    CurveClient client;
    OpenFlags flags;
    FileStatInfo_t info;
    HOLDS(flags.exclusive && flags.confPath.empty());
    IS(client.Open(name, flags), -FAILED);
    IS(client.Init("/no/such/file"), -FAILED);
    IS(client.Init(config), LIBCURVE_ERROR::OK);
    IS(client.Init(config), LIBCURVE_ERROR::OK);
    int fd = client.Open(name, flags);
    HOLDS(fd > 0);
    IS(client.Open(name, flags), -LIBCURVE_ERROR::FILE_OCCUPIED);

    Request request;
    std::vector<char> out(kBlock, 'x'), in(kBlock);
    Aim(&request, kBlock, out.data());
    IS(client.AioWrite(fd, &request.context, UserDataType::RawBuffer), 0);
    IS(request.Wait(), kBlock);
    Aim(&request, kBlock, in.data());
    IS(client.AioRead(fd, &request.context, UserDataType::RawBuffer), 0);
    IS(request.Wait(), kBlock);
    HOLDS(in == out);
    IS(client.AioDiscard(fd, &request.context), 0);
    IS(request.Wait(), 0);
    IS(client.AioRead(fd, &request.context, UserDataType::IOBuffer), -NOT_SUPPORT);
    IS(client.AioWrite(fd, &request.context, UserDataType::IOBuffer), -NOT_SUPPORT);

    int64_t length = client.StatFile(name);
    HOLDS(length > 0);
    IS(client.Extend(name, length + (1 << 20)), 0);
    IS(client.Extend(name, length), -NO_SHRINK_BIGGER_FILE);
    IS(client.StatFile(name), length + (1 << 20));
    IS(client.StatFile("/none_me_"), -NOTEXIST);
    IS(client.StatFile(fd, &info), 0);
    IS(info.filetype, INODE_PAGEFILE);
    IS(info.blocksize, kBlock);
    IS(client.StatFile(fd + 1000, &info), -BAD_FD);

    // A second client, by a configuration that the open names, takes the volume over.
    CurveClient other;
    IS(other.Init(config), 0);
    flags.confPath = config;
    int taken = other.ReOpen(name, flags);
    HOLDS(taken > 0);
    Aim(&request, 0, out.data());
    IS(client.AioWrite(fd, &request.context, UserDataType::RawBuffer), 0);
    IS(request.Wait(), -EPOCH_TOO_OLD);
    IS(other.AioWrite(taken, &request.context, UserDataType::RawBuffer), 0);
    IS(request.Wait(), kBlock);
    IS(other.IncreaseEpoch(name), 0);
    IS(other.Close(taken), 0);
    IS(other.Close(taken), -BAD_FD);
    client.UnInit();
    client.UnInit();
    IS(client.Open(name, flags), -FAILED);
}

// A file that was opened beside other writers and is shut out cannot write any more, and reads what others write.
void ReadersGoOn(const std::string &config, const std::string &name) {
    CurveClient node, alone, writer;
    OpenFlags shared, exclusive;
    shared.exclusive = false;
    IS(node.Init(config), 0);
    IS(alone.Init(config), 0);
    IS(writer.Init(config), 0);
    Request request;
    std::vector<char> out(kBlock, 'p'), in(kBlock);
    int reading = node.Open(name, shared);
    HOLDS(reading > 0);
    int writing = writer.ReOpen(name, exclusive);
    HOLDS(writing > 0);
    for (int round = 0; round < 3; round++) {
        out.assign(kBlock, static_cast<char>('p' + round));
        Aim(&request, 0, out.data());
        IS(writer.AioWrite(writing, &request.context, UserDataType::RawBuffer), 0);
        IS(request.Wait(), kBlock);
        IS(node.AioWrite(reading, &request.context, UserDataType::RawBuffer), 0);
        IS(request.Wait(), -EPOCH_TOO_OLD);
        Aim(&request, 0, in.data());
        IS(node.AioRead(reading, &request.context, UserDataType::RawBuffer), 0);
        IS(request.Wait(), kBlock);
        HOLDS(in == out);
    }
    // One that was alone, and believes to be it still, is not to read as if nothing had happened.
    int taken = alone.ReOpen(name, exclusive);
    HOLDS(taken > 0);
    Aim(&request, 0, in.data());
    IS(writer.AioRead(writing, &request.context, UserDataType::RawBuffer), 0);
    IS(request.Wait(), -EPOCH_TOO_OLD);
    IS(node.Close(reading), 0);
    IS(alone.Close(taken), 0);
}

void Share(const std::string &config, const std::string &name, bool writes) {
    CurveClient client;
    OpenFlags flags;
    flags.exclusive = false;
    flags.readonly = !writes;
    IS(client.Init(config), 0);
    int fd = client.Open(name, flags);
    HOLDS(fd > 0);
    Request request;
    std::vector<char> block(kBlock);
    int seen = 0;
    for (int round = 1; round <= kRounds && writes; round++) {
        std::memcpy(block.data(), &round, sizeof round);
        std::memcpy(block.data() + kBlock - sizeof round, &round, sizeof round);
        Aim(&request, 0, block.data());
        IS(client.AioWrite(fd, &request.context, UserDataType::RawBuffer), 0);
        IS(request.Wait(), kBlock);
    }
    while (seen < kRounds && !writes) {
        int first = 0, last = 0;
        Aim(&request, 0, block.data());
        IS(client.AioRead(fd, &request.context, UserDataType::RawBuffer), 0);
        IS(request.Wait(), kBlock);
        std::memcpy(&first, block.data(), sizeof first);
        std::memcpy(&last, block.data() + kBlock - sizeof last, sizeof last);
        IS(first, last);           // never half a write
        HOLDS(first >= seen);      // never an older one
        seen = first;
    }
    IS(client.Close(fd), 0);
}

}  // namespace

int main(int argc, char **argv) {
    IS(argc, 4);
    std::string mode = argv[1];
    if (mode == "every") {
        Every(argv[2], argv[3]);
        ReadersGoOn(argv[2], argv[3]);
    } else {
        Share(argv[2], argv[3], mode == "write");
    }
    std::puts("well");
    return 0;
}
