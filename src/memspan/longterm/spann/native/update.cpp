// What adding rows and rewriting lists spend their time on; reference.py and flush.py do the same in numpy.
#include <cstring>
#include <thread>

#include "index.h"

using namespace spann;

#define EXPORT __attribute__((visibility("default")))

namespace {

// The head of a list as coded, [padded].
struct Heads {
    const Index& x;
    const uint32_t* place;  // [lists], block * 16 + lane of each head
    std::vector<uint8_t> code;

    Heads(const Index& index, const uint32_t* where) : x(index), place(where), code(index.padded) {}

    void decode(uint32_t list, float* out) {
        uint32_t at = place[list];
        const uint8_t* from = x.head_codes + int64_t(at / LANES) * x.padded * LANES + 4 * (at % LANES);
        for (int64_t g = 0; g < x.padded / 4; g++) memcpy(code.data() + 4 * g, from + 4 * LANES * g, 4);
        float scale = x.head_scale[at];
        for (int64_t i = 0; i < x.padded; i++) out[i] = (float(code[i]) - 64.0f) * scale;
    }
};

struct Placer : Ranker {
    Heads decoder;
    std::vector<float> candidates, norms;
    std::vector<Ranked> order;

    Placer(const Index& index, const Params& params, const uint32_t* place)
        : Ranker(index, params), decoder(index, place) {}

    // The lists of a vector by the closure rule, the nearest first, UINT32_MAX behind; its nearest cells are in `cells`.
    // A negative slack asks for the nearest lists without the rule.
    void lists(const float* v, int64_t copies, float slack, uint32_t* chosen) {
        rank_heads();
        size_t m = heads.used;
        candidates.resize(m * x.padded);
        norms.resize(m);
        order.resize(m);
        for (size_t c = 0; c < m; c++) {
            float *h = candidates.data() + c * x.padded, dot, norm;
            decoder.decode(heads.items[c].i, h);
            f.exact[0](h, v, x.padded, &dot, &norm);
            norms[c] = norm;
            order[c] = {square + norm - 2 * dot, uint32_t(c)};
        }
        std::sort(order.begin(), order.end());
        int64_t taken = 0;
        uint32_t used[64];
        bool rule = slack >= 0;
        float reach = m ? order[0].d * slack : 0;
        for (size_t c = 0; c < m && taken < copies; c++) {
            if (rule && taken && order[c].d > reach) break;
            const float* h = candidates.data() + int64_t(order[c].i) * x.padded;
            bool apart = true;
            for (int64_t t = 0; rule && t < taken && apart; t++) {
                float dot, norm;
                f.exact[0](candidates.data() + int64_t(used[t]) * x.padded, h, x.padded, &dot, &norm);
                apart = norm + norms[order[c].i] - 2 * dot > order[c].d;
            }
            if (!apart) continue;
            used[taken] = order[c].i;
            chosen[taken++] = heads.items[order[c].i].i;
        }
        while (taken < copies) chosen[taken++] = UINT32_MAX;
    }

    // Vectors `from` to `to` of n. Those of one cell one after the other: their heads are then in the processor's cache.
    void place_all(const float* vectors, int64_t from, int64_t to, int64_t copies, float slack, uint32_t* chosen) {
        int64_t near = std::min(p.cells, x.cells);
        std::vector<uint32_t> cell(size_t((to - from) * near));
        std::vector<int64_t> turn(to - from);
        for (int64_t i = from; i < to; i++) {
            quantize(vectors + i * x.padded);
            rank_cells();
            for (int64_t c = 0; c < near; c++) cell[(i - from) * near + c] = cells.items[c].i;
            turn[i - from] = i;
        }
        std::sort(turn.begin(), turn.end(), [&](int64_t a, int64_t b) {
            uint32_t u = cell[(a - from) * near], w = cell[(b - from) * near];
            return u < w || (u == w && a < b);
        });
        for (int64_t i : turn) {
            quantize(vectors + i * x.padded);
            for (int64_t c = 0; c < near; c++) cells.items[c].i = cell[(i - from) * near + c];
            cells.used = size_t(near);
            lists(vectors + i * x.padded, copies, slack, chosen + i * copies);
        }
    }
};

// Runs work(from, to) over parts of n in several threads.
template <typename Work>
void in_threads(int64_t n, int64_t threads, Work work) {
    constexpr int64_t LEAST = 64;
    threads = std::max<int64_t>(1, std::min(threads, n / LEAST));
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; t++) others.emplace_back(work, n * t / threads, n * (t + 1) / threads);
    work(0, n / threads);
    for (auto& other : others) other.join();
}

// Entries of 4 bits: codes.encode4 and what an entry holds besides.
struct Encoder {
    const Index& x;
    Kernels f;
    Heads decoder;
    std::vector<float> head, residual, level;
    std::vector<uint8_t> code;

    Encoder(const Index& index, const uint32_t* place)
        : x(index), f(choose(int(index.level))), decoder(index, place), head(index.padded), residual(index.padded),
          level(index.padded), code(index.padded) {}

    double length(const float* v) const {
        double sum[4] = {0, 0, 0, 0};
        for (int64_t i = 0; i < x.padded; i += 4)
            for (int j = 0; j < 4; j++) sum[j] += double(v[i + j]) * double(v[i + j]);
        return (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }

    void encode(const float* v, uint32_t list, float excess, uint8_t* packed, float* add, float* scale) {
        int64_t d = x.padded;
        decoder.decode(list, head.data());
        for (int64_t i = 0; i < d; i++) residual[i] = v[i] - head[i];
        float total, dot, norm;
        f.exact[0](residual.data(), residual.data(), d, &total, &norm);
        float spread = std::sqrt(total / float(d)), step = spread > 0 ? spread * 0.335f : 1.0f;
        for (int64_t i = 0; i < d; i++) {
            float at = residual[i] / step + 8.0f;
            at = at > 0.0f ? at : 0.0f;
            at = at < 15.0f ? at : 15.0f;
            int32_t whole = int32_t(at);
            code[i] = uint8_t(whole);
            level[i] = float(whole) - 7.5f;
        }
        f.exact[0](level.data(), residual.data(), d, &dot, &norm);
        *scale = dot / norm;
        *add = float(length(v) - length(head.data()) - double(excess));
        for (int64_t g = 0; g < d / 8; g++)
            for (int i = 0; i < 4; i++) packed[4 * g + i] = uint8_t(code[8 * g + i] | code[8 * g + 4 + i] << 4);
    }
};

// Entries written one after the other into the blocks of a list.
struct Output {
    uint8_t* to;
    int64_t codes, size, count = 0;

    uint8_t* block(int64_t entry) const { return to + entry / LANES * size; }

    // One entry whose groups of four bytes lie `stride` bytes apart.
    void add(const uint8_t* code, int64_t stride, float add, float scale, uint32_t slot) {
        int lane = int(count % LANES);
        uint8_t* b = block(count);
        if (lane == 0) clear(b);
        for (int64_t g = 0; g < codes / (4 * LANES); g++) memcpy(b + 4 * (LANES * g + lane), code + stride * g, 4);
        float* tail = reinterpret_cast<float*>(b + codes);
        tail[lane] = add;
        tail[LANES + lane] = scale;
        memcpy(tail + 2 * LANES + lane, &slot, 4);
        count++;
    }

    void clear(uint8_t* b) const {
        memset(b, 0, size_t(size));
        float* tail = reinterpret_cast<float*>(b + codes);
        for (int l = 0; l < LANES; l++) tail[l] = INF;
    }
};

}  // namespace

extern "C" {

// The lists [n, copies] of vectors [n, padded]; params: cells and lists are how many cells and heads are looked at.
EXPORT void spann_place(const Index* index, const Params* params, const uint32_t* place, const float* vectors, int64_t n,
                        int64_t copies, float slack, int64_t threads, uint32_t* chosen) {
    copies = std::min<int64_t>(copies, 64);
    in_threads(n, threads, [=](int64_t from, int64_t to) {
        Placer(*index, *params, place).place_all(vectors, from, to, copies, slack, chosen);
    });
}

// Entries [n] of vectors rows[n] of [*, padded], relative to the heads of lists [n]; excess [n] is taken off their lengths.
EXPORT void spann_encode(const Index* index, const uint32_t* place, const float* vectors, const uint32_t* rows,
                         const uint32_t* lists, const float* excess, int64_t n, int64_t threads, uint8_t* packed,
                         float* add, float* scale) {
    int64_t d = index->padded;
    in_threads(n, threads, [=](int64_t from, int64_t to) {
        Encoder e(*index, place);
        for (int64_t i = from; i < to; i++)
            e.encode(vectors + rows[i] * d, lists[i], excess[i], packed + i * d / 2, add + i, scale + i);
    });
}

// Lists rewritten: their entries and those pending, without dead slots, and each slot once (the newest entry stays).
// out: whole sectors one list after the other, with room for all; counts [n]: entries of each. Returns the bytes written.
EXPORT int64_t spann_merge(const Index* index, const uint32_t* lists, int64_t n, uint8_t* out, uint32_t* counts) {
    const Index& x = *index;
    Params params{};
    int64_t size = Ranker(x, params).block_bytes(), codes = x.padded * LANES / 2, half = x.padded / 2;
    std::vector<uint32_t> fresh;
    uint8_t* at = out;
    for (int64_t i = 0; i < n; i++) {
        Output o{at, codes, size};
        fresh.clear();
        if (x.pending_first)
            for (int32_t e = x.pending_first[lists[i]]; e >= 0; e = x.pending_next[e]) fresh.push_back(x.pending_slot[e]);
        std::sort(fresh.begin(), fresh.end());
        bool twice = std::adjacent_find(fresh.begin(), fresh.end()) != fresh.end();
        const uint8_t* b = x.list_bytes + int64_t(x.list_sector[lists[i]]) * SECTOR;
        for (uint32_t k = 0; k < x.list_blocks[lists[i]]; k++, b += size) {
            const float* tail = reinterpret_cast<const float*>(b + codes);
            const uint32_t* slot = reinterpret_cast<const uint32_t*>(tail + 2 * LANES);
            uint32_t keep = 0;
            for (int l = 0; l < LANES; l++)
                keep |= uint32_t(tail[l] < INF && slot[l] < x.slots && !(x.dead && bit(x.dead, slot[l])) &&
                                 !std::binary_search(fresh.begin(), fresh.end(), slot[l]))
                        << l;
            if (keep == 0xffff && o.count % LANES == 0) {
                memcpy(o.block(o.count), b, size_t(size));
                o.count += LANES;
                continue;
            }
            for (; keep; keep &= keep - 1) {
                int l = __builtin_ctz(keep);
                o.add(b + 4 * l, 4 * LANES, tail[l], tail[LANES + l], slot[l]);
            }
        }
        if (x.pending_first) {
            fresh.clear();
            for (int32_t e = x.pending_first[lists[i]]; e >= 0; e = x.pending_next[e]) {
                uint32_t slot = x.pending_slot[e];
                if (x.dead && bit(x.dead, slot)) continue;
                if (twice && std::find(fresh.begin(), fresh.end(), slot) != fresh.end()) continue;
                if (twice) fresh.push_back(slot);
                o.add(x.pending_codes + e * half, 4, x.pending_add[e], x.pending_scale[e], slot);
            }
        }
        counts[i] = uint32_t(o.count);
        int64_t bytes = (o.count + LANES - 1) / LANES * size, whole = (bytes + SECTOR - 1) / SECTOR * SECTOR;
        memset(at + bytes, 0, size_t(whole - bytes));
        at += whole;
    }
    return at - out;
}
}
