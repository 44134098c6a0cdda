// One slice of the packing search: `search` of reference.py, node for node.

#include <algorithm>
#include <cstdint>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int64_t NOWHERE = int64_t(1) << 62;

struct Change {
    int64_t buffer, before;
};

struct Level {
    size_t first, next, end;  // candidates in the pool
    size_t trail;             // changes that stood when the level was entered
    int64_t placed;           // the buffer that stands for its present candidate, -1 for none
};

}  // namespace

// Arrays of n buffers, k sections; pieces and neighbours of buffer i are at [starts[i], starts[i + 1]).
struct Shape {
    int64_t n, k;
    const int64_t *size, *alignment, *least;  // [n]; least: the smallest neighbour's size
    const int64_t *piece_starts, *piece_first, *piece_end;
    const int64_t *neighbour_starts, *neighbours;
};

EXPORT uint32_t pack_source_crc() { return PACK_SOURCE_CRC; }

// 1: found, 0: no placement exists, -1: `limit` nodes were visited or `stop` was set. `counts`: nodes, most placed.
EXPORT int64_t pack_search(const Shape* shape, const int64_t* rank, int64_t capacity, int64_t limit, double grow,
                           double share, double* weight, int64_t* offsets, int64_t* counts, const volatile int32_t* stop) {
    const Shape& s = *shape;
    std::vector<int64_t> floor(s.n, 0), low(s.k), left(s.k, 0), at(s.n);
    std::vector<char> used(s.n, 0);
    std::vector<Change> trail;
    std::vector<int64_t> pool;
    std::vector<Level> levels;
    auto sections = [&](int64_t i, auto&& each) {
        for (int64_t p = s.piece_starts[i]; p < s.piece_starts[i + 1]; ++p)
            for (int64_t t = s.piece_first[p]; t < s.piece_end[p]; ++t) each(t);
    };
    for (int64_t i = 0; i < s.n; ++i) sections(i, [&](int64_t t) { left[t] += s.size[i]; });
    counts[0] = counts[1] = 0;
    int64_t last = 0, last_rank = -1;
    for (;;) {
        int64_t depth = int64_t(levels.size());
        counts[1] = std::max(counts[1], depth);
        if (depth == s.n) {
            std::copy(at.begin(), at.end(), offsets);
            return 1;
        }
        if (++counts[0] > limit || *stop) return -1;
        // How low each buffer can still come, and how low the lowest of each section.
        std::fill(low.begin(), low.end(), NOWHERE);
        int64_t height = NOWHERE, bad = -1;
        for (int64_t i = 0; i < s.n && bad < 0; ++i) {
            if (used[i]) continue;
            int64_t lowest = floor[i];
            height = std::min(height, lowest + s.size[i]);
            if (lowest < last || (lowest == last && rank[i] < last_rank)) lowest = last + s.least[i];
            if (lowest + s.size[i] > capacity) {
                bad = i;
                break;
            }
            sections(i, [&](int64_t t) { low[t] = std::min(low[t], lowest); });
        }
        bool dead = bad >= 0;
        if (dead) weight[bad] += grow;
        for (int64_t t = 0; t < s.k && !dead; ++t) {
            if (left[t] == 0 || low[t] + left[t] <= capacity) continue;
            dead = true;
            for (int64_t i = 0; i < s.n; ++i)
                if (!used[i]) sections(i, [&](int64_t u) { if (u == t) weight[i] += grow * share; });
        }
        Level level{pool.size(), pool.size(), pool.size(), trail.size(), -1};
        if (!dead) {
            for (int64_t i = 0; i < s.n; ++i)
                if (!used[i] && floor[i] >= last && floor[i] < height && !(floor[i] == last && rank[i] < last_rank))
                    pool.push_back(i);
            std::sort(pool.begin() + level.first, pool.end(), [&](int64_t x, int64_t y) {
                return floor[x] != floor[y] ? floor[x] < floor[y] : rank[x] < rank[y];
            });
            level.end = pool.size();
        }
        levels.push_back(level);
        // Take the next candidate of the deepest level that has one.
        for (;;) {
            if (levels.empty()) return 0;
            Level& here = levels.back();
            if (here.placed >= 0) {
                while (trail.size() > here.trail) {
                    floor[trail.back().buffer] = trail.back().before;
                    trail.pop_back();
                }
                used[here.placed] = 0;
                sections(here.placed, [&](int64_t t) { left[t] += s.size[here.placed]; });
                here.placed = -1;
            }
            if (here.next < here.end) {
                int64_t i = pool[here.next++], end = floor[i] + s.size[i];
                here.placed = i;
                used[i] = 1;
                at[i] = last = floor[i];
                last_rank = rank[i];
                sections(i, [&](int64_t t) { left[t] -= s.size[i]; });
                for (int64_t p = s.neighbour_starts[i]; p < s.neighbour_starts[i + 1]; ++p) {
                    int64_t j = s.neighbours[p], a = s.alignment[j], raised = (end + a - 1) / a * a;
                    if (!used[j] && floor[j] < raised) {
                        trail.push_back({j, floor[j]});
                        floor[j] = raised;
                    }
                }
                break;
            }
            pool.resize(here.first);
            levels.pop_back();
        }
    }
}
