// CRC-32 as zlib computes it, so that the same files are checked where nothing was compiled: by carry-less products
// (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ", Intel 2009) or the instruction of ARM
// where the machine has them, else by tables.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace spann {

struct CrcTables {
    uint32_t of[8][256];
    CrcTables() {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int b = 0; b < 8; b++) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
            of[0][i] = c;
        }
        for (uint32_t i = 0; i < 256; i++)
            for (int t = 1; t < 8; t++) of[t][i] = of[0][of[t - 1][i] & 255] ^ (of[t - 1][i] >> 8);
    }
};

// The state `c` is the complement of a checksum, as in all of the following.
inline uint32_t crc_plain(uint32_t c, const uint8_t* p, size_t n) {
    static const CrcTables tables;
    const auto& t = tables.of;
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t a, b;
        memcpy(&a, p, 4);
        memcpy(&b, p + 4, 4);
        a ^= c;
        c = t[7][a & 255] ^ t[6][a >> 8 & 255] ^ t[5][a >> 16 & 255] ^ t[4][a >> 24] ^ t[3][b & 255] ^
            t[2][b >> 8 & 255] ^ t[1][b >> 16 & 255] ^ t[0][b >> 24];
    }
    for (; n; n--) c = t[0][(c ^ *p++) & 255] ^ (c >> 8);
    return c;
}

#if defined(__x86_64__)
#define SPANN_FOLD(x, k, by) _mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x11), by))
__attribute__((target("pclmul,sse4.1"))) inline uint32_t crc_folded(uint32_t c, const uint8_t* p, size_t n) {
    if (n < 64) return crc_plain(c, p, n);
    auto load = [](const uint8_t* at) __attribute__((target("pclmul,sse4.1"))) { return _mm_loadu_si128((const __m128i*)at); };
    const __m128i by512 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4), by128 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i by64 = _mm_set_epi64x(0, 0x0163cd6124), barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641);
    const __m128i low = _mm_setr_epi32(~0, 0, ~0, 0);
    __m128i a = _mm_xor_si128(load(p), _mm_cvtsi32_si128(int(c))), b = load(p + 16), d = load(p + 32), e = load(p + 48);
    for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
        a = SPANN_FOLD(a, by512, load(p));
        b = SPANN_FOLD(b, by512, load(p + 16));
        d = SPANN_FOLD(d, by512, load(p + 32));
        e = SPANN_FOLD(e, by512, load(p + 48));
    }
    a = SPANN_FOLD(a, by128, b);
    a = SPANN_FOLD(a, by128, d);
    a = SPANN_FOLD(a, by128, e);
    for (; n >= 16; p += 16, n -= 16) a = SPANN_FOLD(a, by128, load(p));
    a = _mm_xor_si128(_mm_srli_si128(a, 8), _mm_clmulepi64_si128(a, by128, 0x10));
    a = _mm_xor_si128(_mm_srli_si128(a, 4), _mm_clmulepi64_si128(_mm_and_si128(a, low), by64, 0x00));
    __m128i q = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(a, low), barrett, 0x10), low);
    a = _mm_xor_si128(a, _mm_clmulepi64_si128(q, barrett, 0x00));
    return crc_plain(uint32_t(_mm_extract_epi32(a, 1)), p, n);
}
#undef SPANN_FOLD
#elif defined(__ARM_FEATURE_CRC32)
// Not tested: no such machine was at hand.
inline uint32_t crc_folded(uint32_t c, const uint8_t* p, size_t n) {
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        c = __crc32d(c, v);
    }
    for (; n; n--) c = __crc32b(c, *p++);
    return c;
}
#endif

using Crc = uint32_t (*)(uint32_t c, const uint8_t* p, size_t n);

inline Crc choose_crc(bool plain = false) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!plain && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1")) return crc_folded;
#elif defined(__ARM_FEATURE_CRC32)
    if (!plain) return crc_folded;
#endif
    return crc_plain;
}

// As zlib.crc32(bytes, before).
inline uint32_t checksum(const uint8_t* p, size_t n, uint32_t before = 0) {
    static const Crc crc = choose_crc();
    return ~crc(~before, p, n);
}

constexpr int64_t PAGE = 4096;

// A file of `bytes` bytes whose pages have checksums; `known` [pages]: 1 where a page was found good already. Bytes
// behind `bytes` are not covered. Two threads may check a page at the same time: both come to the same end.
struct Pages {
    int64_t bytes;
    const uint32_t* sums;
    uint8_t* known;

    int64_t count() const { return (bytes + PAGE - 1) / PAGE; }

    bool good(int64_t page, const uint8_t* data) const {
        if (__atomic_load_n(known + page, __ATOMIC_RELAXED)) return true;
        if (checksum(data, size_t(page + 1 < count() ? PAGE : bytes - page * PAGE)) != sums[page]) return false;
        __atomic_store_n(known + page, uint8_t(1), __ATOMIC_RELAXED);
        return true;
    }
};

}  // namespace spann
