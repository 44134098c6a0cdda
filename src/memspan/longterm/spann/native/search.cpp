// The search of one index: cells, heads, lists, then the exact distances of the best estimates. Everything is owned by
// the caller; see native.py for the meaning of each field and reference.py for the same search in numpy.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "kernels.h"

namespace spann {

constexpr int LANES = 16;
constexpr int64_t SECTOR = 512;
constexpr float INF = std::numeric_limits<float>::infinity();

struct Index {
    int64_t dim, padded, dtype, metric, row_bytes;  // dtype 0 f32, 1 f16, 2 i8; metric 0 l2, 1 ip, 2 cosine
    int64_t cells, lists, slots, level;
    double longest;  // inner product: the squared length that every internal row was given
    const uint8_t* cell_codes;
    const float *cell_scale, *cell_norm;
    const int64_t* cell_start;  // [cells + 1], first block of each cell's heads
    const uint8_t* head_codes;
    const float *head_scale, *head_norm;
    const uint32_t* head_list;
    const uint32_t *list_sector, *list_blocks;
    const uint8_t *list_bytes, *row_data;
    const uint64_t *dead, *allowed, *allowed_lists;  // bitmaps; null: none dead, all allowed
    const int32_t *pending_first, *pending_next;     // chains of entries not yet written to their lists; null: none
    const uint8_t* pending_codes;
    const float *pending_add, *pending_scale;
    const uint32_t* pending_slot;
};

struct Params {
    int64_t k, cells, lists, rerank;
    float stop;    // a list is read only if its head's squared distance is at most stop * the k-th best estimate
    float margin;  // rows are ranked exactly while the estimate is at most margin above the k-th exact distance
};

struct Stats {
    int64_t lists, bytes, rows;
};

inline bool bit(const uint64_t* map, uint64_t i) { return map[i >> 6] >> (i & 63) & 1; }

struct Ranked {
    float d;
    uint32_t i;
    bool operator<(const Ranked& o) const { return d < o.d || (d == o.d && i < o.i); }
};

// The n smallest of what is pushed, kept as up to 2n entries with a limit that tightens whenever they are full.
struct Smallest {
    std::vector<Ranked> items;
    size_t n = 0, used = 0;
    float limit = INF;
    void reset(size_t count) {
        n = count;
        used = 0;
        limit = INF;
        if (items.size() < 2 * n + LANES) items.resize(2 * n + LANES);
    }
    void push(float d, uint32_t i) {
        items[used++] = {d, i};
        if (used >= 2 * n) trim();
    }
    void trim() {
        if (used <= n) return;
        std::nth_element(items.begin(), items.begin() + (n - 1), items.begin() + used);
        used = n;
        limit = items[n - 1].d;
    }
    void finish() {
        trim();
        std::sort(items.begin(), items.begin() + used);
    }
};

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

struct Worker {
    const Index& x;
    const Params& p;
    Kernels f;
    std::vector<int8_t> q8;
    Smallest cells, heads, found;
    Seen seen;
    std::vector<float> kth;  // max-heap of the k best estimates
    std::vector<Ranked> exact;

    Worker(const Index& index, const Params& params)
        : x(index), p(params), f(choose(int(index.level))), q8(index.padded) {}

    float step = 0, square = 0, bias8 = 0, bias4 = 0;

    void quantize(const float* q) {
        float top = 0, total = 0;
        for (int64_t i = 0; i < x.padded; i++) {
            top = std::max(top, std::fabs(q[i]));
            total += q[i] * q[i];
        }
        step = top > 0 ? top / 127.0f : 1.0f;
        square = total;
        int64_t sum = 0;
        for (int64_t i = 0; i < x.padded; i++) {
            q8[i] = int8_t(std::nearbyint(q[i] / step));
            sum += q8[i];
        }
        bias8 = 64.0f * float(sum);
        bias4 = 7.5f * float(sum);
    }

    void rank_cells() {
        cells.reset(std::min(p.cells, x.cells));
        int32_t dot[LANES];
        float out[LANES];
        for (int64_t b = 0; b * LANES < x.cells; b++) {
            f.scan8(x.cell_codes + b * x.padded * LANES, q8.data(), x.padded, dot);
            uint32_t below = f.finish(dot, x.cell_norm + b * LANES, x.cell_scale + b * LANES, square, 2 * step, bias8,
                                      cells.limit, out);
            for (; below; below &= below - 1) {
                int l = __builtin_ctz(below);
                cells.push(out[l], uint32_t(b * LANES + l));
            }
        }
        cells.finish();
    }

    void rank_heads() {
        heads.reset(std::min(p.lists, x.lists));
        int32_t dot[LANES];
        float out[LANES];
        for (size_t c = 0; c < cells.used; c++) {
            int64_t first = x.cell_start[cells.items[c].i], last = x.cell_start[cells.items[c].i + 1];
            if (c + 1 < cells.used) {
                const uint8_t* next = x.head_codes + x.cell_start[cells.items[c + 1].i] * x.padded * LANES;
                for (int i = 0; i < 1024; i += 64) __builtin_prefetch(next + i);
            }
            for (int64_t b = first; b < last; b++) {
                f.scan8(x.head_codes + b * x.padded * LANES, q8.data(), x.padded, dot);
                uint32_t below = f.finish(dot, x.head_norm + b * LANES, x.head_scale + b * LANES, square, 2 * step, bias8,
                                          heads.limit, out);
                for (; below; below &= below - 1) {
                    int l = __builtin_ctz(below);
                    uint32_t list = x.head_list[b * LANES + l];
                    if (!x.allowed_lists || bit(x.allowed_lists, list)) heads.push(out[l], list);
                }
            }
        }
        heads.finish();
    }

    void candidate(float d, uint32_t slot) {
        if (x.dead && bit(x.dead, slot)) return;
        if (x.allowed && !bit(x.allowed, slot)) return;
        if (!seen.add(slot)) return;
        found.push(d, slot);
        if (kth.size() < size_t(p.k)) {
            kth.push_back(d);
            std::push_heap(kth.begin(), kth.end());
        } else if (d < kth.front()) {
            std::pop_heap(kth.begin(), kth.end());
            kth.back() = d;
            std::push_heap(kth.begin(), kth.end());
        }
    }

    int64_t block_bytes() const { return x.padded * LANES / 2 + 3 * 4 * LANES; }

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

    float distance(const float* q, float square_q, uint32_t slot) {
        float dot, norm;
        f.exact[x.dtype](x.row_data + int64_t(slot) * x.row_bytes, q, x.dim, &dot, &norm);
        if (x.metric == 1) return -dot;
        if (x.metric == 2) return norm > 0 && square_q > 0 ? 1 - dot / std::sqrt(norm * square_q) : 1;
        return std::max(0.0f, square_q + norm - 2 * dot);
    }

    // `q` [padded] as the codes see it, `raw` [dim] as the caller gave it.
    void search(const float* q, const float* raw, uint32_t* slots, float* distances, Stats* stats) {
        quantize(q);
        rank_cells();
        rank_heads();
        found.reset(std::max(p.rerank, p.k));
        seen.reset(size_t(std::max(p.rerank, p.k)));
        kth.clear();
        int64_t read = 0, bytes = 0, size = block_bytes();
        for (size_t j = 0; j < heads.used; j++) {
            float base = heads.items[j].d;
            if (kth.size() == size_t(p.k) && base > p.stop * kth.front()) break;
            uint32_t list = heads.items[j].i;
            if (j + 1 < heads.used) {
                const uint8_t* next = x.list_bytes + int64_t(x.list_sector[heads.items[j + 1].i]) * SECTOR;
                for (int i = 0; i < 1024; i += 64) __builtin_prefetch(next + i);
            }
            scan_list(x.list_bytes + int64_t(x.list_sector[list]) * SECTOR, x.list_blocks[list], base);
            if (x.pending_first) scan_pending(list, base);
            read++;
            bytes += x.list_blocks[list] * size;
        }
        found.finish();
        float square_q = 0;
        for (int64_t i = 0; i < x.dim; i++) square_q += raw[i] * raw[i];
        exact.clear();
        // An estimate is a squared distance between internal vectors; the metric's distance is scale * it + shift.
        float scale = x.metric == 0 ? 1.0f : 0.5f, shift = x.metric == 1 ? -0.5f * (square_q + x.longest) : 0.0f;
        int64_t rows = 0;
        constexpr size_t AHEAD = 8;
        size_t lines = size_t(std::min<int64_t>(x.row_bytes, 512) + 63) / 64;
        auto fetch = [&](size_t i) {
            if (i < found.used) {
                const uint8_t* row = x.row_data + int64_t(found.items[i].i) * x.row_bytes;
                for (size_t l = 0; l < lines; l++) __builtin_prefetch(row + 64 * l);
            }
        };
        for (size_t i = 0; i < AHEAD; i++) fetch(i);
        for (size_t i = 0; i < found.used; i++) {
            fetch(i + AHEAD);
            Ranked c = found.items[i];
            if (exact.size() == size_t(p.k) && scale * c.d + shift > exact.front().d + scale * p.margin) break;
            Ranked e{distance(raw, square_q, c.i), c.i};
            rows++;
            if (exact.size() < size_t(p.k)) {
                exact.push_back(e);
                std::push_heap(exact.begin(), exact.end());
            } else if (e < exact.front()) {
                std::pop_heap(exact.begin(), exact.end());
                exact.back() = e;
                std::push_heap(exact.begin(), exact.end());
            }
        }
        std::sort_heap(exact.begin(), exact.end());
        for (int64_t i = 0; i < p.k; i++) {
            bool is = size_t(i) < exact.size();
            slots[i] = is ? exact[i].i : UINT32_MAX;
            distances[i] = is ? exact[i].d : INF;
        }
        stats->lists += read;
        stats->bytes += bytes + rows * x.row_bytes;
        stats->rows += rows;
    }
};

}  // namespace spann

using namespace spann;

#define EXPORT __attribute__((visibility("default")))

extern "C" {

EXPORT int spann_level(int limit) { return choose(limit).level; }

// queries [n, padded] internal, raw [n, dim]; slots and distances [n, k]. One worker a thread takes the next query.
EXPORT void spann_search(const Index* index, const Params* params, const float* queries, const float* raw, int64_t n,
                  int64_t threads, uint32_t* slots, float* distances, Stats* stats) {
    std::atomic<int64_t> next{0};
    std::vector<Stats> each(std::max<int64_t>(threads, 1));
    auto run = [&](int64_t t) {
        Worker w(*index, *params);
        Stats mine{0, 0, 0};
        for (int64_t i; (i = next.fetch_add(1)) < n;)
            w.search(queries + i * index->padded, raw + i * index->dim, slots + i * params->k, distances + i * params->k,
                     &mine);
        each[t] = mine;
    };
    std::vector<std::thread> pool;
    for (int64_t t = 1; t < threads; t++) pool.emplace_back(run, t);
    run(0);
    for (auto& t : pool) t.join();
    for (auto& e : each) stats->lists += e.lists, stats->bytes += e.bytes, stats->rows += e.rows;
}

// Block kernels, for tests: dots [blocks, 16].
EXPORT void spann_scan(int level, int bits, const uint8_t* codes, const int8_t* q, int64_t padded, int64_t blocks, int32_t* dots) {
    Kernels k = choose(level);
    for (int64_t b = 0; b < blocks; b++)
        (bits == 4 ? k.scan4 : k.scan8)(codes + b * padded * LANES * bits / 8, q, padded, dots + b * LANES);
}

EXPORT void spann_exact(int level, int dtype, const void* rows, const float* q, int64_t dim, int64_t row_bytes, int64_t n,
                 float* dots, float* norms) {
    Kernels k = choose(level);
    for (int64_t i = 0; i < n; i++)
        k.exact[dtype](static_cast<const char*>(rows) + i * row_bytes, q, dim, dots + i, norms + i);
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
        if (own && own[i] >= 0)
            for (size_t c = 0; c < best.used && best.items[c].d <= best.items[0].d; c++)
                if (best.items[c].i == uint32_t(own[i])) std::swap(best.items[c], best.items[0]);
        int64_t taken = 0;
        float reach = best.used ? best.items[0].d * slack : 0;
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
