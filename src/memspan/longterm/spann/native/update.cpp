// What adding rows and rewriting lists spend their time on; reference.py and flush.py do the same in numpy.
#include <cstring>
#include <thread>

#include "index.h"

using namespace spann;

#define EXPORT __attribute__((visibility("default")))

namespace {

struct Placer : Ranker {
    using Ranker::Ranker;
    std::vector<float> candidates, norms;
    std::vector<Ranked> order;

    // The lists of a vector by the closure rule, the nearest first, UINT32_MAX behind. `place` [lists]: block * 16 + lane
    // of each head. A negative slack asks for the nearest lists without the rule.
    void lists(const float* v, const uint32_t* place, int64_t copies, float slack, uint32_t* chosen) {
        quantize(v);
        rank_cells();
        rank_heads();
        size_t m = heads.used;
        candidates.resize(m * x.padded);
        norms.resize(m);
        order.resize(m);
        for (size_t c = 0; c < m; c++) {
            uint32_t at = place[heads.items[c].i], lane = at % LANES;
            const uint8_t* code = x.head_codes + int64_t(at / LANES) * x.padded * LANES + 4 * lane;
            float scale = x.head_scale[at], *h = candidates.data() + c * x.padded, dot, norm;
            for (int64_t g = 0; g < x.padded / 4; g++)
                for (int i = 0; i < 4; i++) h[4 * g + i] = (float(code[4 * LANES * g + i]) - 64.0f) * scale;
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
                        int64_t copies, float slack, uint32_t* chosen) {
    Placer p(*index, *params);
    copies = std::min<int64_t>(copies, 64);
    for (int64_t i = 0; i < n; i++) p.lists(vectors + i * index->padded, place, copies, slack, chosen + i * copies);
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
