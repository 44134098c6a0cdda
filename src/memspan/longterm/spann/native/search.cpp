// The search of one index: cells, heads, lists, then the exact distances of the best estimates. Everything is owned by
// the caller; see native.py for the meaning of each field and reference.py for the same search in numpy.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "index.h"
#include "reads.h"

namespace spann {

// Slots already seen by this query.
struct Seen {
    std::vector<uint64_t> table;
    uint32_t query = 0, used = 0;
    void reset(size_t expected) {
        size_t want = 256;
        while (want < 4 * expected) want *= 2;
        if (table.size() < want) table.assign(want, 0), query = 0;
        if (++query == 0) std::fill(table.begin(), table.end(), 0), query = 1;
        used = 0;
    }
    bool add(uint32_t slot) {
        if (2 * ++used > table.size()) grow();
        return put(slot);
    }
    bool put(uint32_t slot) {
        uint64_t key = uint64_t(query) << 32 | slot;
        size_t mask = table.size() - 1, at = (slot * 2654435761u >> 7) & mask;
        while (uint32_t(table[at] >> 32) == query) {
            if (table[at] == key) return false;
            at = (at + 1) & mask;
        }
        table[at] = key;
        return true;
    }
    void grow() {
        std::vector<uint64_t> old(table.size() * 2, 0);
        old.swap(table);
        for (uint64_t e : old)
            if (uint32_t(e >> 32) == query) put(uint32_t(e));
    }
};

struct Worker : Ranker {
    Smallest found;
    Seen seen;
    std::vector<float> kth;  // max-heap of the k best estimates
    std::vector<Ranked> exact;
    bool better = false;  // the list that is read has one of the k best
    size_t last = 0;      // the last list that had one, counted from 1

    using Ranker::Ranker;

    // A max-heap of the k smallest.
    template <typename T>
    bool keep_best(std::vector<T>& heap, T value) const {
        if (heap.size() < size_t(p.k)) {
            heap.push_back(value);
        } else if (value < heap.front()) {
            std::pop_heap(heap.begin(), heap.end());
            heap.back() = value;
        } else {
            return false;
        }
        std::push_heap(heap.begin(), heap.end());
        return true;
    }

    void candidate(float d, uint32_t slot) {
        if (slot >= x.slots) return;  // a list that the writer has put elsewhere meanwhile; the reader asks again
        if (x.dead && bit(x.dead, slot)) return;
        if (x.allowed && !bit(x.allowed, slot)) return;
        if (!seen.add(slot)) return;
        found.push(d, slot);
        better |= keep_best(kth, d);
    }

    void scan_list(const uint8_t* block, int64_t blocks, float base) {
        int32_t dot[LANES];
        float out[LANES];
        int64_t codes = x.padded * LANES / 2, size = block_bytes();
        for (int64_t b = 0; b < blocks; b++, block += size) {
            f.scan4(block, q8.data(), x.padded, dot);
            const float* tail = reinterpret_cast<const float*>(block + codes);
            uint32_t below = f.finish(dot, tail, tail + LANES, base, 2 * step, bias4, found.limit, out);
            const uint32_t* slot = reinterpret_cast<const uint32_t*>(tail + 2 * LANES);
            for (; below; below &= below - 1) {
                int l = __builtin_ctz(below);
                candidate(out[l], slot[l]);
            }
        }
    }

    void scan_pending(uint32_t list, float base) {
        int64_t half = x.padded / 2;
        for (int32_t e = x.pending_first[list]; e >= 0; e = x.pending_next[e]) {
            const uint8_t* c = x.pending_codes + e * half;
            int32_t dot = 0;
            for (int64_t g = 0; g < x.padded / 8; g++)
                for (int i = 0; i < 4; i++)
                    dot += (c[4 * g + i] & 15) * q8[8 * g + i] + (c[4 * g + i] >> 4) * q8[8 * g + 4 + i];
            float d = (base + x.pending_add[e]) - (2 * step * x.pending_scale[e]) * (float(dot) - bias4);
            if (d < found.limit) candidate(d, x.pending_slot[e]);
        }
    }

    float square_raw = 0;

    float distance(const uint8_t* row, const float* raw) {
        if (x.metric == 0) return f.square[x.dtype](row, raw, x.dim);
        float dot, norm;
        f.exact[x.dtype](row, raw, x.dim, &dot, &norm);
        if (x.metric == 1) return -dot;
        return norm > 0 && square_raw > 0 ? 1 - dot / std::sqrt(norm * square_raw) : 1;
    }

    // `q` [padded] as the codes see it, `raw` [dim] as the caller gave it. False when a read failed.
    bool search(const float* q, const float* raw, uint32_t* slots, float* distances, Stats* stats) {
        quantize(q);
        rank_cells();
        rank_heads(false);
        found.reset(size_t(std::max(p.rerank, p.k)));
        seen.reset(size_t(std::max(p.rerank, p.k)));
        kth.clear();
        exact.clear();
        last = 0;
        square_raw = 0;
        for (int64_t i = 0; i < x.dim; i++) square_raw += raw[i] * raw[i];
        bool fine = x.direct ? read_lists(stats) && read_rows(raw, stats) : (map_lists(stats), map_rows(raw, stats), true);
        std::sort_heap(exact.begin(), exact.end());
        for (int64_t i = 0; i < p.k; i++) {
            bool is = size_t(i) < exact.size();
            slots[i] = is ? exact[i].i : UINT32_MAX;
            distances[i] = is ? exact[i].d : INF;
        }
        return fine;
    }

    bool enough(size_t j) const {
        if (kth.size() < size_t(p.k)) return false;
        return heads.items[j].d > p.stop * kth.front() || float(j) >= reach();
    }

    // How many lists are read if none that is still to come betters the k best.
    float reach() const { return p.patience * (EASY + float(last)); }

    // A damaged list is left out and told; the caller mends it and asks again.
    void scan(size_t j, const uint8_t* data, Stats* stats) {
        uint32_t list = heads.items[j].i;
        if (!x.good(list, data, block_bytes())) return stats->damaged(list);
        better = false;
        scan_list(data, x.list_blocks[list], heads.items[j].d);
        if (x.pending_first) scan_pending(list, heads.items[j].d);
        if (better) last = j + 1;
        stats->lists++;
        stats->bytes += x.list_blocks[list] * block_bytes();
    }

    void map_lists(Stats* stats) {
        auto place = [&](size_t j) { return x.list_bytes + int64_t(x.list_sector[heads.items[j].i]) * SECTOR; };
        heads.sort_to(1);
        for (size_t j = 0; j < heads.used && !enough(j); j++) {
            heads.sort_to(j + 2);
            if (j + 1 < heads.used)
                for (int i = 0; i < 1024; i += 64) __builtin_prefetch(place(j + 1) + i);
            scan(j, place(j), stats);
        }
    }

    void rank(const uint8_t* row, const float* raw, uint32_t slot) {
        Ranked e{distance(row, raw), slot};
        keep_best(exact, e);
    }

    // Whether the pages from `at`, which `data` holds, up to byte `to` of the rows' file are what was written.
    bool sound(int64_t at, int64_t to, const uint8_t* data, Stats* stats) const {
        to = std::min(to, x.row_covered);
        for (int64_t page = at / PAGE; page * PAGE < to; page++)
            if (!rows.good(page, data + page * PAGE - at)) return stats->page = page, false;
        return true;
    }

    void map_rows(const float* raw, Stats* stats) {
        constexpr size_t AHEAD = 8;
        found.finish();
        size_t lines = size_t(std::min<int64_t>(x.row_bytes, 512) + 63) / 64;
        auto place = [&](size_t i) { return x.row_data + int64_t(found.items[i].i) * x.row_bytes; };
        auto fetch = [&](size_t i) {
            if (i < found.used)
                for (size_t l = 0; l < lines; l++) __builtin_prefetch(place(i) + 64 * l);
        };
        for (size_t i = 0; i < AHEAD; i++) fetch(i);
        for (size_t i = 0; i < found.used; i++) {
            fetch(i + AHEAD);
            int64_t from = int64_t(found.items[i].i) * x.row_bytes, at = from / PAGE * PAGE;
            if (sound(at, from + x.row_bytes, x.row_data + at, stats)) rank(place(i), raw, found.items[i].i);
        }
        stats->rows += int64_t(found.used);
        stats->bytes += int64_t(found.used) * x.row_bytes;
    }

    // Past the page cache: up to `window` lists in flight, scanned in the order of their heads, so that the answer does
    // not hang on which read comes first.
    bool read_lists(Stats* stats) {
        prepare();
        size_t started = 0, j = 0;
        auto start = [&](size_t i) {
            uint32_t list = heads.items[i].i;
            int64_t from = int64_t(x.list_sector[list]) * SECTOR, to = from + x.list_blocks[list] * block_bytes();
            int64_t at = from / x.align * x.align, bytes = (to - at + x.align - 1) / x.align * x.align;
            skip[i % window] = uint32_t(from - at);
            need[i % window] = to - at;
            io->start(uint32_t(i % window), {int(x.list_file), buffer(i % window), uint32_t(bytes), at});
        };
        bool fine = true;
        heads.sort_to(1);
        for (; j < heads.used && !enough(j); j++) {
            bool more = started == j;
            // Half a window at a time, so that the kernel is called seldom; but none that may prove needless.
            size_t sure = std::max(j + 1, reach() < float(heads.used) ? size_t(std::ceil(reach())) : heads.used);
            heads.sort_to(std::min(j + window, sure) + 1);
            if (more || started < std::min(j + window / 2, sure)) {
                for (; started < heads.used && started < std::min(j + window, sure); started++) start(started);
                io->submit();
            }
            fine &= io->wait(uint32_t(j % window)) >= need[j % window];
            if (!fine) break;
            scan(j, buffer(j % window) + skip[j % window], stats);
        }
        if (fine || j < started)
            for (size_t i = j + !fine; i < started; i++) io->wait(uint32_t(i % window));
        return fine;
    }

    // Rows that share a page are read together.
    bool read_rows(const float* raw, Stats* stats) {
        found.finish();
        order.assign(found.items.begin(), found.items.begin() + found.used);
        std::sort(order.begin(), order.end(), [](const Ranked& a, const Ranked& b) { return a.i < b.i; });
        pages.clear();
        for (size_t i = 0; i < order.size(); i++) {
            int64_t from = int64_t(order[i].i) * x.row_bytes, to = from + x.row_bytes;
            int64_t at = from / PAGE * PAGE, end = (to + PAGE - 1) / PAGE * PAGE;
            if (!pages.empty() && at <= pages.back().end && end - pages.back().at <= largest)
                pages.back().end = std::max(pages.back().end, end), pages.back().last = i + 1;
            else
                pages.push_back({at, end, i, i + 1});
        }
        size_t started = 0, j = 0;
        bool fine = true;
        for (; j < pages.size() && fine; j++) {
            if (started < j + window / 2 + 1) {
                for (; started < pages.size() && started < j + window; started++)
                    io->start(uint32_t(started % window), {int(x.row_file), buffer(started % window),
                                                           uint32_t(pages[started].end - pages[started].at), pages[started].at});
                io->submit();
            }
            const Run& g = pages[j];
            fine = io->wait(uint32_t(j % window)) >= int64_t(order[g.last - 1].i) * x.row_bytes + x.row_bytes - g.at;
            bool whole = fine && sound(g.at, g.end, buffer(j % window), stats);
            for (size_t i = g.first; whole && i < g.last; i++)
                rank(buffer(j % window) + (int64_t(order[i].i) * x.row_bytes - g.at), raw, order[i].i);
            stats->bytes += g.end - g.at;
            stats->rows++;
        }
        for (; j < started; j++) io->wait(uint32_t(j % window));
        return fine;
    }

    struct Run {
        int64_t at, end;
        size_t first, last;
    };
    std::unique_ptr<Reads> io;
    size_t window = 0;
    int64_t largest = 0;
    std::vector<uint8_t> memory;
    std::vector<uint32_t> skip;
    std::vector<int64_t> need;
    std::vector<Run> pages;
    const Pages rows{x.row_covered, x.row_sums, x.row_known};
    std::vector<Ranked> order;

    uint8_t* buffer(size_t i) {
        auto base = (reinterpret_cast<uintptr_t>(memory.data()) + PAGE - 1) / PAGE * PAGE;
        return reinterpret_cast<uint8_t*>(base) + int64_t(i) * largest;
    }

    void prepare() {
        if (io) return;
        constexpr int64_t MEMORY = 2 << 20;
        int64_t unit = std::max(PAGE, x.align);
        largest = (std::max(x.longest_list, x.row_bytes) / unit + 2) * unit;
        window = size_t(std::min<int64_t>(64, std::max<int64_t>(8, MEMORY / largest)));
        memory.resize(size_t(int64_t(window) * largest + PAGE));
        skip.resize(window);
        need.resize(window);
        io = make_reads(64, x.direct == 2);
    }
};

}  // namespace spann

using namespace spann;

#define EXPORT __attribute__((visibility("default")))

extern "C" {

EXPORT uint32_t spann_source_crc() { return SPANN_SOURCE_CRC; }

EXPORT int spann_level(int limit) { return choose(limit).level; }

// queries [n, padded] internal, raw [n, dim]; slots and distances [n, k]. One worker a thread takes the next query.
// Returns 0, or -1 when a read failed.
EXPORT int spann_search(const Index* index, const Params* params, const float* queries, const float* raw, int64_t n,
                        int64_t threads, uint32_t* slots, float* distances, Stats* stats) {
    std::atomic<bool> fine{true};
    std::atomic<int64_t> next{0};
    std::vector<Stats> each(std::max<int64_t>(threads, 1));
    auto run = [&](int64_t t) {
        Worker w(*index, *params);
        Stats mine{0, 0, 0, 0, -1, {}};
        for (int64_t i; (i = next.fetch_add(1)) < n;)
            if (!w.search(queries + i * index->padded, raw + i * index->dim, slots + i * params->k,
                          distances + i * params->k, &mine)) {
                fine = false;
                break;
            }
        each[t] = mine;
    };
    std::vector<std::thread> pool;
    for (int64_t t = 1; t < threads; t++) pool.emplace_back(run, t);
    run(0);
    for (auto& t : pool) t.join();
    for (auto& e : each) {
        stats->lists += e.lists, stats->bytes += e.bytes, stats->rows += e.rows;
        for (int i = 0; i < std::min<int64_t>(e.bad, BAD); i++) stats->damaged(e.bad_lists[i]);
        if (e.page >= 0) stats->page = e.page;
    }
    return fine ? 0 : -1;
}

// zlib.crc32; `plain`: by tables.
EXPORT uint32_t spann_crc(int plain, const uint8_t* data, int64_t n, uint32_t before) {
    return ~choose_crc(plain)(~before, data, size_t(n));
}

// Checksums of the pages [from, to) of a file of `bytes` bytes, at `sums` on.
EXPORT void spann_sums(const uint8_t* data, int64_t bytes, int64_t from, int64_t to, uint32_t* sums) {
    for (int64_t p = from; p < to; p++) *sums++ = checksum(data + p * PAGE, size_t(std::min(PAGE, bytes - p * PAGE)));
}

// The first of n pages that is damaged, by its place in `pages`, else -1. Null `pages`: pages 0 to n - 1.
EXPORT int64_t spann_check(const uint8_t* data, int64_t bytes, const uint32_t* sums, uint8_t* known, const int64_t* pages, int64_t n) {
    const Pages file{bytes, sums, known};
    for (int64_t i = 0; i < n; i++) {
        int64_t page = pages ? pages[i] : i;
        if (!file.good(page, data + page * PAGE)) return i;
    }
    return -1;
}

// Those of n lists that are damaged; how many.
EXPORT int64_t spann_check_lists(const Index* index, const uint32_t* lists, int64_t n, uint32_t* bad) {
    Params params{};
    int64_t found = 0, size = Ranker(*index, params).block_bytes();
    for (int64_t i = 0; i < n; i++)
        if (!index->good(lists[i], index->list_bytes + int64_t(index->list_sector[lists[i]]) * SECTOR, size)) bad[found++] = lists[i];
    return found;
}

// Block kernels, for tests: dots [blocks, 16].
EXPORT void spann_scan(int level, int bits, const uint8_t* codes, const int8_t* q, int64_t padded, int64_t blocks, int32_t* dots) {
    Kernels k = choose(level);
    for (int64_t b = 0; b < blocks; b++)
        (bits == 4 ? k.scan4 : k.scan8)(codes + b * padded * LANES * bits / 8, q, padded, dots + b * LANES);
}

// Dot products and squared lengths of n rows, or, where `norms` is null, squared distances in `dots`.
EXPORT void spann_exact(int level, int dtype, const void* rows, const float* q, int64_t dim, int64_t row_bytes, int64_t n,
                 float* dots, float* norms) {
    Kernels k = choose(level);
    for (int64_t i = 0; i < n; i++) {
        const char* row = static_cast<const char*>(rows) + i * row_bytes;
        if (norms) k.exact[dtype](row, q, dim, dots + i, norms + i);
        else dots[i] = k.square[dtype](row, q, dim);
    }
}

// Closure assignment of n points: distances [n, m] squared to m heads [m, padded]; `nearest` candidates are considered,
// at most `copies` are taken, by the rule of relative neighbourhood; own [n]: the head that a point was clustered under,
// taken before others at the same distance. chosen [n, copies]: columns of the heads, the nearest first, -1 behind.
EXPORT void spann_closure(const float* distances, const float* heads, int64_t n, int64_t m, int64_t padded, int64_t nearest,
                   int64_t copies, float slack, const int32_t* own, int level, int32_t* chosen) {
    Kernels k = choose(level);
    Smallest best;
    nearest = std::min(nearest, m);
    std::vector<float> square(m);
    for (int64_t j = 0; j < m; j++) {
        float dot, norm;
        k.exact[0](heads + j * padded, heads + j * padded, padded, &dot, &norm);
        square[j] = norm;
    }
    for (int64_t i = 0; i < n; i++, distances += m, chosen += copies) {
        best.reset(size_t(nearest));
        for (int64_t j = 0; j < m; j++)
            if (distances[j] < best.limit) best.push(distances[j], uint32_t(j));
        best.finish();
        if (own && own[i] >= 0 && best.used && distances[own[i]] <= best.items[0].d) {
            // Of many heads at the same distance its own may not be among the candidates.
            size_t c = 0;
            while (c + 1 < best.used && best.items[c].i != uint32_t(own[i])) c++;
            if (best.items[c].i == uint32_t(own[i])) std::swap(best.items[c], best.items[0]);
            best.items[0] = {distances[own[i]], uint32_t(own[i])};
        }
        int64_t taken = 0;
        float reach = best.used && slack < INF ? best.items[0].d * slack : INF;
        for (size_t c = 0; c < best.used && taken < copies; c++) {
            if (taken && best.items[c].d > reach) break;
            const float* h = heads + int64_t(best.items[c].i) * padded;
            bool apart = true;
            for (int64_t t = 0; t < taken && apart; t++) {
                float dot, norm;
                k.exact[0](heads + int64_t(chosen[t]) * padded, h, padded, &dot, &norm);
                apart = norm + square[best.items[c].i] - 2 * dot > best.items[c].d;
            }
            if (apart) chosen[taken++] = int32_t(best.items[c].i);
        }
        while (taken < copies) chosen[taken++] = -1;
    }
}
}
