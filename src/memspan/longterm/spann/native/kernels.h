// Integer kernels over blocks of 16 vectors, chosen at run time. All of them give the same integers, so that results do
// not depend on the machine; codes.py holds the same arithmetic in numpy.
//
// 8-bit block: for each group of 4 dimensions, 16 lanes x 4 bytes (codes 0..127, so that AVX2's 16-bit sums cannot
// saturate). 4-bit block: for each group of 8 dimensions, 16 lanes x 4 bytes, dimensions 0-3 in the low nibbles and
// 4-7 in the high ones. `q` is the query in int8, one byte a dimension.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#define SPANN_NEON 1
#endif

namespace spann {

using Scan = void (*)(const uint8_t* codes, const int8_t* q, int64_t dp, int32_t* out16);

inline void scan8_plain(const uint8_t* c, const int8_t* q, int64_t dp, int32_t* out) {
    for (int l = 0; l < 16; l++) out[l] = 0;
    for (int64_t g = 0; g < dp / 4; g++, c += 64, q += 4)
        for (int l = 0; l < 16; l++)
            for (int i = 0; i < 4; i++) out[l] += int32_t(c[4 * l + i]) * q[i];
}

inline void scan4_plain(const uint8_t* c, const int8_t* q, int64_t dp, int32_t* out) {
    for (int l = 0; l < 16; l++) out[l] = 0;
    for (int64_t g = 0; g < dp / 8; g++, c += 64, q += 8)
        for (int l = 0; l < 16; l++)
            for (int i = 0; i < 4; i++)
                out[l] += int32_t(c[4 * l + i] & 15) * q[i] + int32_t(c[4 * l + i] >> 4) * q[i + 4];
}

#if defined(__x86_64__)
inline int32_t four(const int8_t* q) {
    int32_t v;
    memcpy(&v, q, 4);
    return v;
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) inline void scan8_512(
    const uint8_t* c, const int8_t* q, int64_t dp, int32_t* out) {
    __m512i a = _mm512_setzero_si512(), b = a, e = a, f = a;
    int64_t g = 0, n = dp / 4;
    for (; g + 4 <= n; g += 4, c += 256, q += 16) {
        a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(c), _mm512_set1_epi32(four(q)));
        b = _mm512_dpbusd_epi32(b, _mm512_loadu_si512(c + 64), _mm512_set1_epi32(four(q + 4)));
        e = _mm512_dpbusd_epi32(e, _mm512_loadu_si512(c + 128), _mm512_set1_epi32(four(q + 8)));
        f = _mm512_dpbusd_epi32(f, _mm512_loadu_si512(c + 192), _mm512_set1_epi32(four(q + 12)));
    }
    for (; g < n; g++, c += 64, q += 4)
        a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(c), _mm512_set1_epi32(four(q)));
    _mm512_storeu_si512(out, _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(e, f)));
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) inline void scan4_512(
    const uint8_t* c, const int8_t* q, int64_t dp, int32_t* out) {
    const __m512i low = _mm512_set1_epi8(15);
    __m512i a = _mm512_setzero_si512(), b = a, e = a, f = a;
    int64_t g = 0, n = dp / 8;
    for (; g + 2 <= n; g += 2, c += 128, q += 16) {
        __m512i x = _mm512_loadu_si512(c), y = _mm512_loadu_si512(c + 64);
        a = _mm512_dpbusd_epi32(a, _mm512_and_si512(x, low), _mm512_set1_epi32(four(q)));
        b = _mm512_dpbusd_epi32(b, _mm512_and_si512(_mm512_srli_epi16(x, 4), low), _mm512_set1_epi32(four(q + 4)));
        e = _mm512_dpbusd_epi32(e, _mm512_and_si512(y, low), _mm512_set1_epi32(four(q + 8)));
        f = _mm512_dpbusd_epi32(f, _mm512_and_si512(_mm512_srli_epi16(y, 4), low), _mm512_set1_epi32(four(q + 12)));
    }
    for (; g < n; g++, c += 64, q += 8) {
        __m512i x = _mm512_loadu_si512(c);
        a = _mm512_dpbusd_epi32(a, _mm512_and_si512(x, low), _mm512_set1_epi32(four(q)));
        b = _mm512_dpbusd_epi32(b, _mm512_and_si512(_mm512_srli_epi16(x, 4), low), _mm512_set1_epi32(four(q + 4)));
    }
    _mm512_storeu_si512(out, _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(e, f)));
}

__attribute__((target("avx2"))) inline __m256i dot256(__m256i acc, __m256i u, __m256i s) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}

__attribute__((target("avx2"))) inline void scan8_256(const uint8_t* c, const int8_t* q, int64_t dp, int32_t* out) {
    __m256i a = _mm256_setzero_si256(), b = a;
    for (int64_t g = 0; g < dp / 4; g++, c += 64, q += 4) {
        __m256i v = _mm256_set1_epi32(four(q));
        a = dot256(a, _mm256_loadu_si256((const __m256i*)c), v);
        b = dot256(b, _mm256_loadu_si256((const __m256i*)(c + 32)), v);
    }
    _mm256_storeu_si256((__m256i*)out, a);
    _mm256_storeu_si256((__m256i*)(out + 8), b);
}

__attribute__((target("avx2"))) inline void scan4_256(const uint8_t* c, const int8_t* q, int64_t dp, int32_t* out) {
    const __m256i low = _mm256_set1_epi8(15);
    __m256i a = _mm256_setzero_si256(), b = a;
    for (int64_t g = 0; g < dp / 8; g++, c += 64, q += 8) {
        __m256i v = _mm256_set1_epi32(four(q)), w = _mm256_set1_epi32(four(q + 4));
        __m256i x = _mm256_loadu_si256((const __m256i*)c), y = _mm256_loadu_si256((const __m256i*)(c + 32));
        a = dot256(a, _mm256_and_si256(x, low), v);
        a = dot256(a, _mm256_and_si256(_mm256_srli_epi16(x, 4), low), w);
        b = dot256(b, _mm256_and_si256(y, low), v);
        b = dot256(b, _mm256_and_si256(_mm256_srli_epi16(y, 4), low), w);
    }
    _mm256_storeu_si256((__m256i*)out, a);
    _mm256_storeu_si256((__m256i*)(out + 8), b);
}
#endif

#ifdef SPANN_NEON
// Not tested: no such machine was at hand. Codes stay below 128, so that they can be read as signed.
inline void scan8_neon(const uint8_t* c, const int8_t* q, int64_t dp, int32_t* out) {
    int32x4_t a[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (int64_t g = 0; g < dp / 4; g++, c += 64, q += 4) {
        int32_t v;
        memcpy(&v, q, 4);
        int8x16_t s = vreinterpretq_s8_s32(vdupq_n_s32(v));
        for (int i = 0; i < 4; i++) a[i] = vdotq_s32(a[i], vreinterpretq_s8_u8(vld1q_u8(c + 16 * i)), s);
    }
    for (int i = 0; i < 4; i++) vst1q_s32(out + 4 * i, a[i]);
}

inline void scan4_neon(const uint8_t* c, const int8_t* q, int64_t dp, int32_t* out) {
    int32x4_t a[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (int64_t g = 0; g < dp / 8; g++, c += 64, q += 8) {
        int32_t v, w;
        memcpy(&v, q, 4);
        memcpy(&w, q + 4, 4);
        int8x16_t s = vreinterpretq_s8_s32(vdupq_n_s32(v)), t = vreinterpretq_s8_s32(vdupq_n_s32(w));
        for (int i = 0; i < 4; i++) {
            uint8x16_t x = vld1q_u8(c + 16 * i);
            a[i] = vdotq_s32(a[i], vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(15))), s);
            a[i] = vdotq_s32(a[i], vreinterpretq_s8_u8(vshrq_n_u8(x, 4)), t);
        }
    }
    for (int i = 0; i < 4; i++) vst1q_s32(out + 4 * i, a[i]);
}
#endif

// Distances of a block from its integer dot products: out[l] = base + add[l] - a * scale[l] * (dot[l] - bias). Returns
// the lanes below `limit` as bits. Compiled without contraction, so that every level rounds alike.
using Finish = uint32_t (*)(const int32_t* dot, const float* add, const float* scale, float base, float a, float bias,
                            float limit, float* out);

inline uint32_t finish_plain(const int32_t* dot, const float* add, const float* scale, float base, float a, float bias,
                             float limit, float* out) {
    uint32_t below = 0;
    for (int l = 0; l < 16; l++) {
        out[l] = (base + add[l]) - (a * scale[l]) * (float(dot[l]) - bias);
        below |= uint32_t(out[l] < limit) << l;
    }
    return below;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) inline uint32_t finish_512(const int32_t* dot, const float* add, const float* scale,
                                                              float base, float a, float bias, float limit, float* out) {
    __m512 d = _mm512_sub_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(dot)), _mm512_set1_ps(bias));
    __m512 s = _mm512_mul_ps(_mm512_set1_ps(a), _mm512_loadu_ps(scale));
    __m512 v = _mm512_sub_ps(_mm512_add_ps(_mm512_set1_ps(base), _mm512_loadu_ps(add)), _mm512_mul_ps(s, d));
    _mm512_storeu_ps(out, v);
    return _mm512_cmp_ps_mask(v, _mm512_set1_ps(limit), _CMP_LT_OQ);
}

__attribute__((target("avx2"))) inline uint32_t finish_256(const int32_t* dot, const float* add, const float* scale,
                                                           float base, float a, float bias, float limit, float* out) {
    uint32_t below = 0;
    for (int i = 0; i < 16; i += 8) {
        __m256 d = _mm256_sub_ps(_mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i*)(dot + i))), _mm256_set1_ps(bias));
        __m256 s = _mm256_mul_ps(_mm256_set1_ps(a), _mm256_loadu_ps(scale + i));
        __m256 v = _mm256_sub_ps(_mm256_add_ps(_mm256_set1_ps(base), _mm256_loadu_ps(add + i)), _mm256_mul_ps(s, d));
        _mm256_storeu_ps(out + i, v);
        below |= uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_set1_ps(limit), _CMP_LT_OQ))) << i;
    }
    return below;
}
#endif

// Exact part: dot product of two rows and the squared length of the first, in one pass.
using Exact = void (*)(const void* row, const float* q, int64_t dim, float* dot, float* norm);

inline float half_to_float(uint16_t h) {
    uint32_t sign = uint32_t(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 1023, bits;
    if (e == 31) {
        bits = sign | 0x7f800000u | (m << 13);
    } else if (e) {
        bits = sign | ((e + 112) << 23) | (m << 13);
    } else {
        float f = float(m) * (1.0f / 16777216.0f);
        memcpy(&bits, &f, 4);
        bits |= sign;
    }
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

template <typename T>
inline float widen(T v) {
    return float(v);
}
template <>
inline float widen<uint16_t>(uint16_t v) {
    return half_to_float(v);
}

template <typename T>
void exact_plain(const void* row, const float* q, int64_t dim, float* dot, float* norm) {
    const T* x = static_cast<const T*>(row);
    float d = 0, n = 0;
    for (int64_t i = 0; i < dim; i++) {
        float v = widen<T>(x[i]);
        d += v * q[i];
        n += v * v;
    }
    *dot = d;
    *norm = n;
}

// Squared distance of two rows, by differences: |x|^2 + |q|^2 - 2 x.q loses what is far from the origin.
using Square = float (*)(const void* row, const float* q, int64_t dim);

template <typename T>
float square_plain(const void* row, const float* q, int64_t dim) {
    const T* x = static_cast<const T*>(row);
    float s = 0;
    for (int64_t i = 0; i < dim; i++) {
        float v = widen<T>(x[i]) - q[i];
        s += v * v;
    }
    return s;
}

#if defined(__x86_64__)
#define SPANN_EXACT_512(NAME, TYPE, LOAD)                                                                      \
    __attribute__((target("avx512f,avx512bw,avx512vl"))) inline void NAME(const void* row, const float* q,     \
                                                                          int64_t dim, float* dot, float* norm) { \
        const TYPE* x = static_cast<const TYPE*>(row);                                                         \
        __m512 d = _mm512_setzero_ps(), n = d;                                                                 \
        for (int64_t i = 0; i < dim; i += 16) {                                                                \
            __mmask16 m = dim - i >= 16 ? 0xffff : __mmask16((1u << (dim - i)) - 1);                           \
            __m512 v = LOAD;                                                                                   \
            d = _mm512_fmadd_ps(v, _mm512_maskz_loadu_ps(m, q + i), d);                                        \
            n = _mm512_fmadd_ps(v, v, n);                                                                      \
        }                                                                                                      \
        *dot = _mm512_reduce_add_ps(d);                                                                        \
        *norm = _mm512_reduce_add_ps(n);                                                                       \
    }
#define SPANN_SQUARE_512(NAME, TYPE, LOAD)                                                                     \
    __attribute__((target("avx512f,avx512bw,avx512vl"))) inline float NAME(const void* row, const float* q,    \
                                                                           int64_t dim) {                      \
        const TYPE* x = static_cast<const TYPE*>(row);                                                         \
        __m512 s = _mm512_setzero_ps();                                                                        \
        for (int64_t i = 0; i < dim; i += 16) {                                                                \
            __mmask16 m = dim - i >= 16 ? 0xffff : __mmask16((1u << (dim - i)) - 1);                           \
            __m512 v = _mm512_sub_ps(LOAD, _mm512_maskz_loadu_ps(m, q + i));                                   \
            s = _mm512_fmadd_ps(v, v, s);                                                                      \
        }                                                                                                      \
        return _mm512_reduce_add_ps(s);                                                                        \
    }
#define SPANN_BOTH_512(KIND, TYPE, LOAD)         \
    SPANN_EXACT_512(exact_##KIND##_512, TYPE, LOAD) \
    SPANN_SQUARE_512(square_##KIND##_512, TYPE, LOAD)
SPANN_BOTH_512(f32, float, _mm512_maskz_loadu_ps(m, x + i))
SPANN_BOTH_512(f16, uint16_t, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, x + i)))
SPANN_BOTH_512(i8, int8_t, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(m, x + i))))
#undef SPANN_BOTH_512
#undef SPANN_SQUARE_512
#undef SPANN_EXACT_512

__attribute__((target("avx2,fma"))) inline float sum256(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

#define SPANN_EXACT_256(NAME, TYPE, LOAD)                                                                   \
    __attribute__((target("avx2,fma,f16c"))) inline void NAME(const void* row, const float* q, int64_t dim, \
                                                              float* dot, float* norm) {                    \
        const TYPE* x = static_cast<const TYPE*>(row);                                                      \
        __m256 d = _mm256_setzero_ps(), n = d;                                                              \
        int64_t i = 0;                                                                                      \
        for (; i + 8 <= dim; i += 8) {                                                                      \
            __m256 v = LOAD;                                                                                \
            d = _mm256_fmadd_ps(v, _mm256_loadu_ps(q + i), d);                                              \
            n = _mm256_fmadd_ps(v, v, n);                                                                   \
        }                                                                                                   \
        exact_plain<TYPE>(x + i, q + i, dim - i, dot, norm);                                                \
        *dot += sum256(d);                                                                                  \
        *norm += sum256(n);                                                                                 \
    }
#define SPANN_SQUARE_256(NAME, TYPE, LOAD)                                                                    \
    __attribute__((target("avx2,fma,f16c"))) inline float NAME(const void* row, const float* q, int64_t dim) { \
        const TYPE* x = static_cast<const TYPE*>(row);                                                         \
        __m256 s = _mm256_setzero_ps();                                                                        \
        int64_t i = 0;                                                                                         \
        for (; i + 8 <= dim; i += 8) {                                                                         \
            __m256 v = _mm256_sub_ps(LOAD, _mm256_loadu_ps(q + i));                                            \
            s = _mm256_fmadd_ps(v, v, s);                                                                      \
        }                                                                                                      \
        return square_plain<TYPE>(x + i, q + i, dim - i) + sum256(s);                                          \
    }
#define SPANN_BOTH_256(KIND, TYPE, LOAD)         \
    SPANN_EXACT_256(exact_##KIND##_256, TYPE, LOAD) \
    SPANN_SQUARE_256(square_##KIND##_256, TYPE, LOAD)
SPANN_BOTH_256(f32, float, _mm256_loadu_ps(x + i))
SPANN_BOTH_256(f16, uint16_t, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(x + i))))
SPANN_BOTH_256(i8, int8_t, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(x + i)))))
#undef SPANN_BOTH_256
#undef SPANN_SQUARE_256
#undef SPANN_EXACT_256
#endif

struct Kernels {
    int level;  // 0 plain, 1 AVX2, 2 AVX-512 VNNI, 3 NEON
    Scan scan8, scan4;
    Finish finish;
    Exact exact[3];  // float32, float16, int8
    Square square[3];
};

// `limit` caps the level, for tests.
inline Kernels choose(int limit) {
    Kernels k{0, scan8_plain, scan4_plain, finish_plain,
              {exact_plain<float>, exact_plain<uint16_t>, exact_plain<int8_t>},
              {square_plain<float>, square_plain<uint16_t>, square_plain<int8_t>}};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (limit >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        k = {1, scan8_256, scan4_256, finish_256, {exact_f32_256, exact_f16_256, exact_i8_256},
             {square_f32_256, square_f16_256, square_i8_256}};
    if (limit >= 2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        k = {2, scan8_512, scan4_512, finish_512, {exact_f32_512, exact_f16_512, exact_i8_512},
             {square_f32_512, square_f16_512, square_i8_512}};
#elif defined(SPANN_NEON)
    if (limit >= 3) {
        k.level = 3;
        k.scan8 = scan8_neon;
        k.scan4 = scan4_neon;
    }
#endif
    return k;
}

}  // namespace spann
