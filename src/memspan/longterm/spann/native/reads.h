// Many reads of files in flight at once: io_uring where the kernel allows it, else a pool of threads that call pread.
// One owner, one thread; a read is named by a tag below the capacity, and waited for by it.
#pragma once
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#endif

namespace spann {

struct Request {
    int fd;
    void* to;
    uint32_t bytes;
    int64_t at;
};

struct Reads {
    virtual ~Reads() {}
    virtual void start(uint32_t tag, const Request& r) = 0;
    virtual void submit() = 0;
    virtual int64_t wait(uint32_t tag) = 0;  // bytes read, negative when the read failed
};

#if defined(__linux__) && defined(__NR_io_uring_setup)
class Ring : public Reads {
  public:
    explicit Ring(uint32_t capacity) : result_(capacity, PENDING), request_(capacity) {
        io_uring_params p;
        memset(&p, 0, sizeof p);
        fd_ = int(syscall(__NR_io_uring_setup, capacity, &p));
        if (fd_ < 0) return;
        sq_bytes_ = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
        cq_bytes_ = p.cq_off.cqes + p.cq_entries * sizeof(io_uring_cqe);
        sqe_bytes_ = p.sq_entries * sizeof(io_uring_sqe);
        sq_ = map(sq_bytes_, IORING_OFF_SQ_RING);
        cq_ = map(cq_bytes_, IORING_OFF_CQ_RING);
        sqes_ = map(sqe_bytes_, IORING_OFF_SQES);
        if (!sq_ || !cq_ || !sqes_) return;
        tail_ = field(sq_, p.sq_off.tail);
        mask_ = *field(sq_, p.sq_off.ring_mask);
        array_ = field(sq_, p.sq_off.array);
        cq_head_ = field(cq_, p.cq_off.head);
        cq_tail_ = field(cq_, p.cq_off.tail);
        cq_mask_ = *field(cq_, p.cq_off.ring_mask);
        cqes_ = reinterpret_cast<io_uring_cqe*>(static_cast<char*>(cq_) + p.cq_off.cqes);
        usable_ = true;
    }
    ~Ring() override {
        if (sq_) munmap(sq_, sq_bytes_);
        if (cq_) munmap(cq_, cq_bytes_);
        if (sqes_) munmap(sqes_, sqe_bytes_);
        if (fd_ >= 0) close(fd_);
    }
    bool usable() const { return usable_; }

    void start(uint32_t tag, const Request& r) override {
        result_[tag] = PENDING;
        request_[tag] = r;
        uint32_t tail = *tail_, slot = tail & mask_;
        io_uring_sqe* e = static_cast<io_uring_sqe*>(sqes_) + slot;
        memset(e, 0, sizeof *e);
        e->opcode = IORING_OP_READ;
        e->fd = r.fd;
        e->addr = reinterpret_cast<uint64_t>(r.to);
        e->len = r.bytes;
        e->off = uint64_t(r.at);
        e->user_data = tag;
        array_[slot] = slot;
        __atomic_store_n(tail_, tail + 1, __ATOMIC_RELEASE);
        queued_++;
    }

    void submit() override {
        while (queued_) {
            long n = syscall(__NR_io_uring_enter, fd_, queued_, 0, 0, nullptr, 0);
            if (n <= 0) break;
            queued_ -= uint32_t(n);
        }
    }

    int64_t wait(uint32_t tag) override {
        for (;;) {
            reap();
            if (result_[tag] != PENDING) break;
            long n = syscall(__NR_io_uring_enter, fd_, queued_, 1, IORING_ENTER_GETEVENTS, nullptr, 0);
            if (n >= 0) queued_ -= uint32_t(n);
            else if (errno != EINTR && errno != EAGAIN && errno != EBUSY) return -errno;
        }
        const Request& r = request_[tag];
        // A failed or short read is tried once more the plain way, which also tells the end of the file from an error.
        return result_[tag] == int64_t(r.bytes) ? result_[tag] : pread(r.fd, r.to, r.bytes, r.at);
    }

  private:
    static constexpr int64_t PENDING = INT64_MIN;
    void* map(size_t bytes, uint64_t at) {
        void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, off_t(at));
        return p == MAP_FAILED ? nullptr : p;
    }
    static uint32_t* field(void* base, uint32_t at) {
        return reinterpret_cast<uint32_t*>(static_cast<char*>(base) + at);
    }
    void reap() {
        uint32_t head = *cq_head_;
        while (head != __atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE)) {
            const io_uring_cqe& c = cqes_[head & cq_mask_];
            result_[c.user_data] = c.res;
            head++;
        }
        __atomic_store_n(cq_head_, head, __ATOMIC_RELEASE);
    }
    int fd_ = -1;
    bool usable_ = false;
    void *sq_ = nullptr, *cq_ = nullptr, *sqes_ = nullptr;
    size_t sq_bytes_ = 0, cq_bytes_ = 0, sqe_bytes_ = 0;
    uint32_t *tail_ = nullptr, *array_ = nullptr, *cq_head_ = nullptr, *cq_tail_ = nullptr;
    uint32_t mask_ = 0, cq_mask_ = 0, queued_ = 0;
    io_uring_cqe* cqes_ = nullptr;
    std::vector<int64_t> result_;
    std::vector<Request> request_;
};
#endif

class Pool : public Reads {
  public:
    Pool(uint32_t capacity, int threads) : result_(capacity, 0), done_(capacity, true) {
        for (int i = 0; i < threads; i++) threads_.emplace_back([this] { work(); });
    }
    ~Pool() override {
        {
            std::lock_guard<std::mutex> hold(lock_);
            closing_ = true;
        }
        some_.notify_all();
        for (auto& t : threads_) t.join();
    }
    void start(uint32_t tag, const Request& r) override {
        std::lock_guard<std::mutex> hold(lock_);
        done_[tag] = false;
        queue_.push_back({tag, r});
        some_.notify_one();
    }
    void submit() override {}
    int64_t wait(uint32_t tag) override {
        std::unique_lock<std::mutex> hold(lock_);
        ready_.wait(hold, [&] { return done_[tag]; });
        return result_[tag];
    }

  private:
    void work() {
        std::unique_lock<std::mutex> hold(lock_);
        for (;;) {
            some_.wait(hold, [&] { return closing_ || !queue_.empty(); });
            if (queue_.empty()) return;
            auto [tag, r] = queue_.front();
            queue_.pop_front();
            hold.unlock();
            int64_t n = pread(r.fd, r.to, r.bytes, r.at);
            hold.lock();
            result_[tag] = n;
            done_[tag] = true;
            ready_.notify_all();
        }
    }
    std::mutex lock_;
    std::condition_variable some_, ready_;
    std::deque<std::pair<uint32_t, Request>> queue_;
    std::vector<int64_t> result_;
    std::vector<bool> done_;
    std::vector<std::thread> threads_;
    bool closing_ = false;
};

constexpr int POOL_THREADS = 16;

// `pool` asks for the threads even where io_uring works.
inline std::unique_ptr<Reads> make_reads(uint32_t capacity, bool pool) {
#if defined(__linux__) && defined(__NR_io_uring_setup)
    if (!pool) {
        auto ring = std::make_unique<Ring>(capacity);
        if (ring->usable()) return ring;
    }
#endif
    return std::make_unique<Pool>(capacity, POOL_THREADS);
}

}  // namespace spann
