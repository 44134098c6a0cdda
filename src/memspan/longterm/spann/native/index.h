// The index as the kernels see it, and the ranking of its cells and heads, which searching and placing share.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "checksum.h"
#include "kernels.h"

namespace spann {

constexpr int LANES = 16;
constexpr float EASY = 4;  // lists that are read for the easiest of queries
constexpr int64_t SECTOR = 512;
constexpr float INF = std::numeric_limits<float>::infinity();

struct Index {
    int64_t dim, padded, dtype, metric, row_bytes;  // dtype 0 f32, 1 f16, 2 i8; metric 0 l2, 1 ip, 2 cosine
    int64_t cells, lists, slots, level;
    const uint8_t* cell_codes;
    const float *cell_scale, *cell_norm;
    const int64_t* cell_start;  // [cells + 1], first block of each cell's heads
    const uint8_t* head_codes;
    const float *head_scale, *head_norm;
    const uint32_t* head_list;
    const uint32_t *list_sector, *list_blocks, *list_crc;
    uint8_t* list_known;  // 1 where a list was found good already
    const uint8_t *list_bytes, *row_data;
    const uint32_t* row_sums;  // of the pages of the rows, as far as `row_covered` bytes
    uint8_t* row_known;
    const uint64_t *dead, *allowed, *allowed_lists, *allowed_cells;  // bitmaps; null: none dead, all allowed
    const int32_t *pending_first, *pending_next;     // chains of entries not yet written to their lists; null: none
    const uint8_t* pending_codes;
    const float *pending_add, *pending_scale;
    const uint32_t* pending_slot;
    int64_t direct, list_file, row_file;  // 0: by the maps; 1: reads past the page cache; 2: the same by threads
    int64_t align, longest_list;          // bytes: what such a read must be a multiple of, and the longest list
    int64_t row_covered;

    bool good(uint32_t list, const uint8_t* data, int64_t size) const {
        if (__atomic_load_n(list_known + list, __ATOMIC_RELAXED)) return true;
        if (checksum(data, size_t(list_blocks[list] * size)) != list_crc[list]) return false;
        __atomic_store_n(list_known + list, uint8_t(1), __ATOMIC_RELAXED);
        return true;
    }
};

struct Params {
    int64_t k, cells, lists, rerank;
    float stop;      // a list is read only if its head's squared distance is at most stop * the k-th best estimate
    float patience;  // and only if fewer than patience * (EASY + the last that bettered the k best) were read before it
};

constexpr int BAD = 64;

// What was read, and what of it is damaged: lists, the first `BAD` of them named, and a page of the rows, -1 for none.
struct Stats {
    int64_t lists, bytes, rows, bad, page;
    uint32_t bad_lists[BAD];

    void damaged(uint32_t list) {
        for (int i = 0; i < std::min<int64_t>(bad, BAD); i++)
            if (bad_lists[i] == list) return;
        if (bad < BAD) bad_lists[bad] = list;
        bad++;
    }
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
        used = sorted = 0;
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
    // Sorts the first `count` of what was trimmed, of which `sorted` are already: for one that may stop before the end.
    size_t sorted = 0;
    void sort_to(size_t count) {
        while (sorted < std::min(count, used)) {
            size_t to = std::min(used, std::max<size_t>(32, 2 * sorted));
            auto from = items.begin() + sorted, end = items.begin() + used;
            if (to < used) std::nth_element(from, items.begin() + to, end);
            std::sort(from, items.begin() + to);
            sorted = to;
        }
    }
};

// The cells nearest to a vector, and the heads nearest to it in them.
struct Ranker {
    const Index& x;
    const Params& p;
    Kernels f;
    std::vector<int8_t> q8;
    Smallest cells, heads;

    Ranker(const Index& index, const Params& params)
        : x(index), p(params), f(choose(int(index.level))), q8(index.padded) {}

    int64_t block_bytes() const { return x.padded * LANES / 2 + 3 * 4 * LANES; }

    float step = 0, square = 0, bias8 = 0, bias4 = 0;

    void quantize(const float* q) {
        float top = 0, total = 0;
        for (int64_t i = 0; i < x.padded; i++) {
            top = std::max(top, std::fabs(q[i]));
            total += q[i] * q[i];
        }
        step = top / 127.0f;
        if (!(step > 0)) step = 1.0f;
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
                if (!x.allowed_cells || bit(x.allowed_cells, b * LANES + l)) cells.push(out[l], uint32_t(b * LANES + l));
            }
        }
        cells.finish();
    }

    // `all`: in order; else `heads.sort_to` brings them in order as far as they are wanted.
    void rank_heads(bool all = true) {
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
        if (all) heads.finish();
        else heads.trim();
    }
};

}  // namespace spann
