// One search of the packing driver: reference.py says what it looks for; what is sharper here stands below.
//
// Parts: buffers that are not placed yet and that no chain of such buffers joins in time are searched apart from each
// other, and where one part has no placement the search returns to the buffer that parted them.
// Precedence: a buffer that cannot be the next one of a section of time, because all that is left there would not fit
// above it, comes after another of that section; a late one (see reference.py) after any of its neighbours. How low it
// can come rises with them.
// Full sections: where all that is left of a section leaves so little room that one of a few buffers has to come next
// in it, and each of them has to lie where it lies now, these are the alternatives, wherever the section ends. The
// fewer they are, and the more often the section was overfull before, the sooner it is tried (Boussemart et al. 2004).
// Memory: what is left of a part, and how low each of it could lie, says whether it can be placed, in whichever way it
// came about; parts that were refuted are kept in a table.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

// Arrays of n buffers, k sections; pieces and neighbours of buffer i are at [starts[i], starts[i + 1]).
struct Shape {
    int64_t n, k;
    const int64_t *size, *alignment;
    const int64_t *kind;  // equal for buffers that differ in nothing
    const int64_t *piece_starts, *piece_first, *piece_end;
    const int64_t *neighbour_starts, *neighbours;
};

// Of a part without a placement of at most `capacity` bytes at offsets from (last, rank) on. `rank` counts in one
// search only; -1: it does not matter.
struct Refuted {
    uint64_t key, check;
    int64_t capacity, last, rank, search;
};

struct Settings {
    int64_t capacity, limit, search;
    double grow, share;
};

namespace {

uint64_t mix(uint64_t x) {  // splitmix64
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// A list of buffers in the pool; those that were placed since are skipped.
struct Part {
    size_t first, end;
    int64_t open;             // buffers of it that are not placed
    int64_t section, until;   // sections that it spans
    int64_t last, last_rank;  // the first of its placements that is of interest
    int64_t back;             // the level to return to when it has no placement
    int64_t next;             // the part to be searched after it, -1 for none
};

struct Level {
    Part part;
    size_t candidate, end, bottom;  // in the pool; what lies below `bottom` is not this level's
    size_t entered, trail;          // changes that stood before it and before its candidates
    size_t waiting;
    int64_t placed;  // the buffer that stands for the present candidate, -1 for none
    uint64_t key, check;
    bool ranked;   // whether a buffer is late for its rank alone
    bool refuted;  // by the table
    bool ordered;  // whether candidates are the next ones of the whole part, else of one section
};

// V: what holds a sum of all sizes.
template <class V>
class Search {
   public:
    Search(const Shape& shape, const Settings& settings, const int64_t* order, double* weight, Refuted* table,
           int64_t slots, const volatile int32_t* stop)
        : s(shape), set(settings), weight(weight), table(table), slots(slots), stop(stop), capacity(V(set.capacity)),
          rank(s.n), begin(s.n), until(s.n), joined(s.k + 1, 0), number(s.k, 0), stamp(s.k, 0), size(s.n),
          floor(s.n, 0), at(s.n, 0), lowest(s.n, 0), left(s.k, 0), sum(s.k, 0), few(s.k, 0), soonest(s.k), members(s.k), worst(s.n, -1), blame(s.k, 0), used(s.n, 0) {
        std::vector<int64_t> least(s.n, s.n);
        for (int64_t i = 0; i < s.n; ++i) least[s.kind[i]] = std::min(least[s.kind[i]], order[i]);
        for (int64_t i = 0; i < s.n; ++i) {
            size[i] = V(s.size[i]);
            rank[i] = least[s.kind[i]];
            begin[i] = s.piece_starts[i] < s.piece_starts[i + 1] ? s.k : 0;  // without pieces: anywhere
            until[i] = 0;
            for (int64_t p = s.piece_starts[i]; p < s.piece_starts[i + 1]; ++p) {
                begin[i] = std::min(begin[i], s.piece_first[p]);
                until[i] = std::max(until[i], s.piece_end[p]);
            }
            add(i, 1);
            pieces(i, [&](int64_t a, int64_t b) {
                for (int64_t t = a; t < b; ++t) members[t].push_back(int32_t(i));
            });
        }
        for (int64_t span = 1; span <= s.k; span *= 2) fullest.emplace_back(s.k);
    }

    int64_t run(int64_t* offsets, int64_t* counts) {
        int64_t placed = 0;
        for (int64_t i = 0; i < s.n; ++i) pool.push_back(i);
        Part now = divide({0, pool.size(), s.n, 0, s.k, 0, -1, -1, -1}, -1);
        for (;;) {
            if (++counts[0] > set.limit || *stop) return -1;
            enter(now);
            for (;;) {
                Level& here = levels.back();
                if (here.placed >= 0) {
                    undo(here);
                    --placed;
                }
                if (here.candidate < here.end) {
                    int64_t i = pool[here.candidate++], level = int64_t(levels.size()) - 1;
                    place(i, here);
                    counts[1] = std::max(counts[1], ++placed);
                    now = here.part;
                    --now.open;
                    if (here.ordered) {
                        now.last = at[i];
                        now.last_rank = rank[i];
                    }
                    if (parted)
                        now = divide(now, level);
                    else
                        now.back = level;
                    if (now.open > 0) break;
                    if (now.next < 0) {
                        std::copy(at.begin(), at.end(), offsets);
                        return 1;
                    }
                    now = waiting[now.next];
                    break;
                }
                remember(here);
                int64_t back = here.part.back;
                while (int64_t(levels.size()) - 1 > back) {
                    Level& gone = levels.back();
                    if (gone.placed >= 0) {
                        undo(gone);
                        --placed;
                    }
                    restore(gone.entered);
                    pool.resize(gone.bottom);
                    levels.pop_back();
                }
                if (back < 0) return 0;
            }
        }
    }

   private:
    struct Change {
        V* what;
        V before;
    };
    struct Soonest {
        V end, second;  // the lowest two ends of a section
        int64_t buffer;
    };

    template <class Each>
    void pieces(int64_t i, Each&& each) const {
        for (int64_t p = s.piece_starts[i]; p < s.piece_starts[i + 1]; ++p) each(s.piece_first[p], s.piece_end[p]);
    }

    bool covers(int64_t i, int64_t t) const {
        bool found = false;
        if (begin[i] <= t && t < until[i]) pieces(i, [&](int64_t a, int64_t b) { found |= a <= t && t < b; });
        return found;
    }

    bool meet(int64_t i, int64_t j) const {
        bool found = false;
        if (begin[i] < until[j] && begin[j] < until[i])
            pieces(i, [&](int64_t a, int64_t b) { pieces(j, [&](int64_t c, int64_t d) { found |= a < d && c < b; }); });
        return found;
    }

    // Count buffer i among the unplaced ones of its sections, or no more.
    void add(int64_t i, int64_t sign) {
        V change = V(sign) * size[i];
        pieces(i, [&](int64_t a, int64_t b) {
            for (int64_t t = a; t < b; ++t) left[t] += change;
        });
        for (int64_t t = begin[i] + 1; t < until[i]; ++t) parted |= (joined[t] += sign) == 0;
    }

    void change(V& what, V to) {
        trail.push_back({&what, what});
        what = to;
    }

    void restore(size_t mark) {
        for (; trail.size() > mark; trail.pop_back()) *trail.back().what = trail.back().before;
    }

    void undo(Level& level) {
        restore(level.trail);
        waiting.resize(level.waiting);
        pool.resize(level.end);
        used[level.placed] = 0;
        add(level.placed, 1);
        level.placed = -1;
    }

    void place(int64_t i, Level& level) {
        level.placed = i;
        used[i] = 1;
        at[i] = floor[i];
        parted = false;
        add(i, -1);
        int64_t end = int64_t(floor[i]) + s.size[i];
        for (int64_t p = s.neighbour_starts[i]; p < s.neighbour_starts[i + 1]; ++p) {
            int64_t j = s.neighbours[p], a = s.alignment[j];
            V raised = V(a == 1 ? end : (end + a - 1) / a * a);
            if (used[j] || floor[j] >= raised) continue;
            change(floor[j], raised);
            if (lowest[j] < raised) change(lowest[j], raised);
        }
    }

    // The first of the parts into which a part falls; the others wait.
    Part divide(const Part& whole, int64_t level) {
        int64_t count = 0;
        for (int64_t t = whole.section; t < whole.until; ++t) {
            if (t == whole.section || joined[t] == 0) ++count;
            number[t] = count - 1;
        }
        std::vector<std::vector<int64_t>> lists(count);
        for (size_t p = whole.first; p < whole.end; ++p)
            if (!used[pool[p]]) lists[number[begin[pool[p]]]].push_back(pool[p]);
        std::stable_sort(lists.begin(), lists.end(), [](auto& x, auto& y) { return x.size() > y.size(); });
        Part part = whole;
        part.open = 0;
        for (auto& list : lists) {
            if (list.empty()) break;
            int64_t next = part.next;
            if (part.open > 0) {
                next = int64_t(waiting.size());
                waiting.push_back(part);
            }
            part = {pool.size(), 0, int64_t(list.size()), s.k, 0, whole.last, whole.last_rank, level, next};
            for (int64_t i : list) {
                pool.push_back(i);
                part.section = std::min(part.section, begin[i]);
                part.until = std::max(part.until, until[i]);
            }
            part.end = pool.size();
        }
        return part;
    }

    bool late(int64_t i, const Part& part) const {
        return floor[i] < part.last || (floor[i] == part.last && rank[i] < part.last_rank);
    }

    // The part's buffers by `lowest`; mostly they are so already.
    void arrange(const Part& part) {
        int64_t* list = pool.data() + part.first;
        int64_t length = int64_t(part.end - part.first), moves = 0;
        for (int64_t p = 1; p < length; ++p) {
            int64_t i = list[p], q = p;
            for (; q > 0 && lowest[i] < lowest[list[q - 1]]; --q) list[q] = list[q - 1];
            list[q] = i;
            if ((moves += p - q) > 8 * length + 64) {
                std::stable_sort(list, list + length, [&](int64_t x, int64_t y) { return lowest[x] < lowest[y]; });
                return;
            }
        }
    }

    // The lowest end of a neighbour of i in its part.
    V neighbours_end(int64_t i, const Part& part) const {
        V found = NOWHERE;
        for (size_t p = part.first; p < part.end && lowest[pool[p]] < found; ++p) {
            int64_t j = pool[p];
            if (!used[j] && lowest[j] + size[j] < found && j != i && meet(i, j)) found = lowest[j] + size[j];
        }
        return found;
    }

    // The lowest end in section t of another buffer than i.
    V others_end(int64_t i, int64_t t) {
        Soonest& one = soonest[t];
        if (stamp[t] != round) {
            stamp[t] = round;
            one = {NOWHERE, NOWHERE, -1};
            for (int64_t j : members[t]) {
                if (used[j] || lowest[j] + size[j] >= one.second) continue;
                V end = lowest[j] + size[j];
                if (end < one.end)
                    one = {end, one.end, j};
                else
                    one.second = end;
            }
        }
        return one.buffer == i ? one.second : one.end;
    }

    // For each power of two, the section with the most left among so many from each on.
    void tabulate(const Part& part) {
        for (int64_t t = part.section; t < part.until; ++t) fullest[0][t] = int32_t(t);
        for (size_t e = 1; e < fullest.size(); ++e) {
            int64_t half = int64_t(1) << (e - 1);
            for (int64_t t = part.section; t + 2 * half <= part.until; ++t) {
                int32_t x = fullest[e - 1][t], y = fullest[e - 1][t + half];
                fullest[e][t] = left[x] >= left[y] ? x : y;
            }
        }
    }

    int64_t fullest_of(int64_t i) const {
        int64_t found = -1;
        pieces(i, [&](int64_t a, int64_t b) {
            int e = 63 - __builtin_clzll(uint64_t(b - a));
            for (int64_t t : {a, b - (int64_t(1) << e)})
                if (found < 0 || left[fullest[e][t]] > left[found]) found = fullest[e][t];
        });
        return found;
    }

    // Raise what cannot come next where it lies; whether anything was.
    bool raise(const Part& part) {
        ++round;
        for (size_t p = part.first; p < part.end; ++p) {
            int64_t i = pool[p];
            if (used[i]) continue;
            V to = lowest[i];
            if (to == floor[i] && late(i, part)) to = neighbours_end(i, part);
            int64_t t = worst[i];
            if (t >= 0 && left[t] > capacity - to) to = std::max(to, others_end(i, t));
            if (to > lowest[i]) raised.emplace_back(i, to);
        }
        for (auto [i, to] : raised) change(lowest[i], to);
        bool any = !raised.empty();
        raised.clear();
        return any;
    }

    // Whether what is left of each section fits above the lowest that it can come.
    bool fits(const Part& part) {
        std::fill(sum.begin() + part.section, sum.begin() + part.until, V(0));
        for (size_t p = part.end; p-- > part.first;) {
            int64_t i = pool[p];
            if (used[i]) continue;
            V room = capacity - lowest[i], most = size[i], mine = size[i];
            if (mine > room) {
                weight[i] += set.grow;
                if (worst[i] >= 0) ++blame[worst[i]];
                return false;
            }
            pieces(i, [&](int64_t a, int64_t b) {
                V* sums = sum.data();
                for (int64_t t = a; t < b; ++t) {
                    sums[t] += mine;
                    most = most > sums[t] ? most : sums[t];
                }
            });
            if (most <= room) continue;
            int64_t over = -1;
            pieces(i, [&](int64_t a, int64_t b) {
                for (int64_t t = a; t < b && over < 0; ++t)
                    if (sum[t] == most) over = t;
            });
            ++blame[over];
            for (size_t q = part.end; q-- > p;)
                if (!used[pool[q]] && covers(pool[q], over)) weight[pool[q]] += set.grow * set.share;
            return false;
        }
        return true;
    }

    // Whether i can come next in a section only where it lies, if it has to lie at `limit` or lower.
    bool fixed(int64_t i, V limit, const Part& part) const {
        return lowest[i] == floor[i] && !late(i, part) && neighbours_end(i, part) > limit;
    }

    // Replace the candidates by those of one section, if there is one that has fewer and in which they lie fast.
    bool narrow(const Part& part) {
        std::fill(few.begin() + part.section, few.begin() + part.until, V(0));
        for (int64_t t = part.section; t < part.until; ++t) sum[t] = capacity - left[t];
        V highest = *std::max_element(sum.begin() + part.section, sum.begin() + part.until);
        for (size_t p = part.first; p < part.end && lowest[pool[p]] <= highest; ++p) {
            int64_t i = pool[p];
            if (used[i]) continue;
            V low = lowest[i];
            pieces(i, [&](int64_t a, int64_t b) {
                V *count = few.data(), *limit = sum.data();
                for (int64_t t = a; t < b; ++t) count[t] += low <= limit[t];
            });
        }
        for (int tries = 0; tries < TRIES; ++tries) {
            int64_t best = -1;
            for (int64_t t = part.section; t < part.until; ++t)
                if (few[t] > 0 && few[t] < V(chosen.size()) &&
                    (best < 0 || few[t] * (1 + blame[best]) < few[best] * (1 + blame[t])))
                    best = t;
            if (best < 0) return false;
            few[best] = 0;
            size_t before = chosen.size();
            bool good = true;
            for (int64_t i : members[best]) {
                if (used[i] || lowest[i] > sum[best]) continue;
                good = good && fixed(i, sum[best], part);
                if (!good) break;
                chosen.push_back(i);
            }
            if (good) {
                chosen.erase(chosen.begin(), chosen.begin() + before);
                return true;
            }
            chosen.resize(before);
        }
        return false;
    }

    void enter(Part part) {
        size_t bottom = pool.size();
        if (int64_t(part.end - part.first) > part.open + part.open / 4) {
            size_t first = pool.size();
            for (size_t p = part.first; p < part.end; ++p)
                if (!used[pool[p]]) pool.push_back(pool[p]);
            part.first = first;
            part.end = pool.size();
        }
        uint64_t key = 0, check = 0;
        V height = NOWHERE;
        bool ranked = false;
        for (size_t p = part.first; p < part.end; ++p) {
            int64_t i = pool[p];
            if (used[i]) continue;
            height = std::min(height, V(floor[i] + size[i]));
            ranked |= floor[i] == part.last && rank[i] < part.last_rank;
            uint64_t h = mix(uint64_t(floor[i]) * 0x100000001b3ull + uint64_t(s.kind[i]));
            key += h;
            check += h * (h | 1);
        }
        levels.push_back({part, pool.size(), pool.size(), bottom, trail.size(), trail.size(), waiting.size(), -1, key,
                          check, ranked, false, true});
        Level& level = levels.back();
        level.refuted = known(level);
        if (level.refuted) return;
        arrange(part);
        tabulate(part);
        for (size_t p = part.first; p < part.end; ++p) worst[pool[p]] = used[pool[p]] ? -1 : fullest_of(pool[p]);
        for (int turn = 0; turn < ROUNDS && raise(part); ++turn) arrange(part);
        level.trail = trail.size();
        if (!fits(part)) return;
        for (size_t p = part.first; p < part.end; ++p) {
            int64_t i = pool[p];
            if (!used[i] && lowest[i] == floor[i] && floor[i] < height && !late(i, part)) chosen.push_back(i);
        }
        if (chosen.size() > 1) level.ordered = !narrow(part);
        std::sort(chosen.begin(), chosen.end(), [&](int64_t x, int64_t y) {
            if (floor[x] != floor[y]) return floor[x] < floor[y];
            return rank[x] != rank[y] ? rank[x] < rank[y] : x < y;
        });
        for (int64_t i : chosen)  // one of a kind, which lie next to each other
            if (pool.size() == level.candidate || s.kind[pool.back()] != s.kind[i]) pool.push_back(i);
        chosen.clear();
        level.end = pool.size();
    }

    bool known(const Level& level) const {
        if (!slots) return false;
        const Refuted& one = table[level.key & uint64_t(slots - 1)];
        if (one.key != level.key || one.check != level.check || one.capacity < set.capacity) return false;
        if (one.last != level.part.last) return one.last < level.part.last;
        return one.rank < 0 || (one.search == set.search && one.rank <= level.part.last_rank);
    }

    void remember(const Level& level) {
        if (!slots || level.refuted) return;
        int64_t late_from = level.ranked ? level.part.last_rank : -1;
        table[level.key & uint64_t(slots - 1)] = {level.key,       level.check, set.capacity,
                                                  level.part.last, late_from,   set.search};
    }

    static constexpr V NOWHERE = V(1) << (8 * sizeof(V) - 2);
    static constexpr int ROUNDS = 3, TRIES = 6;

    const Shape& s;
    const Settings& set;
    double* weight;
    Refuted* table;
    int64_t slots;
    const volatile int32_t* stop;
    V capacity;
    std::vector<int64_t> rank;  // equal for buffers of a kind
    std::vector<int64_t> begin, until, joined, number, stamp;
    // floor: the highest end of a placed neighbour; lowest: how low it can still come; left: bytes not placed yet.
    std::vector<V> size, floor, at, lowest, left, sum, few;
    std::vector<Soonest> soonest;
    std::vector<std::vector<int32_t>> members;  // the buffers of each section
    std::vector<int64_t> worst;                 // the fullest section of each buffer
    std::vector<double> blame;  // how often each section was overfull
    std::vector<char> used;
    std::vector<std::vector<int32_t>> fullest;
    std::vector<Change> trail;
    std::vector<std::pair<int64_t, V>> raised;
    std::vector<int64_t> pool, chosen;
    std::vector<Part> waiting;
    std::vector<Level> levels;
    int64_t round = 0;
    bool parted = false;
};

}  // namespace

EXPORT uint32_t pack_source_crc() { return PACK_SOURCE_CRC; }

EXPORT int64_t pack_refuted_bytes() { return sizeof(Refuted); }

// 1: found, 0: no placement exists, -1: `limit` nodes were visited or `stop` was set. `counts`: nodes, most placed.
// `slots`: of the table, a power of two, or 0.
EXPORT int64_t pack_search(const Shape* shape, const Settings* settings, const int64_t* rank, double* weight,
                           Refuted* table, int64_t slots, int64_t* offsets, int64_t* counts,
                           const volatile int32_t* stop) {
    counts[0] = counts[1] = 0;
    int64_t total = settings->capacity;
    for (int64_t i = 0; i < shape->n; ++i) total += shape->size[i] + shape->alignment[i];
    if (total < int64_t(1) << 30)
        return Search<int32_t>(*shape, *settings, rank, weight, table, slots, stop).run(offsets, counts);
    return Search<int64_t>(*shape, *settings, rank, weight, table, slots, stop).run(offsets, counts);
}
