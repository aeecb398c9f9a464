/* The operations of lanes.h, which includes this, in AVX2. */
#ifndef HYPURA_LANES_AVX2_H
#define HYPURA_LANES_AVX2_H

#include <immintrin.h>

#define VARIANT(name) name##_avx2
#define LANES_TILE_ROWS 6
#define LANES_TILE_VECTORS 1

typedef struct {
    __m256 a, b;
} lanes;

#define LANES_EACH(operation)                                                                                          \
    (lanes)                                                                                                            \
    {                                                                                                                  \
        operation(x.a, y.a), operation(x.b, y.b)                                                                       \
    }

static inline lanes lanes_all(float value)
{
    return (lanes){_mm256_set1_ps(value), _mm256_set1_ps(value)};
}

static inline lanes lanes_load(const float *from)
{
    return (lanes){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}

static inline void lanes_store(float *to, lanes x)
{
    _mm256_storeu_ps(to, x.a);
    _mm256_storeu_ps(to + 8, x.b);
}

static inline lanes lanes_add(lanes x, lanes y)
{
    return LANES_EACH(_mm256_add_ps);
}

static inline lanes lanes_subtract(lanes x, lanes y)
{
    return LANES_EACH(_mm256_sub_ps);
}

static inline lanes lanes_multiply(lanes x, lanes y)
{
    return LANES_EACH(_mm256_mul_ps);
}

static inline lanes lanes_divide(lanes x, lanes y)
{
    return LANES_EACH(_mm256_div_ps);
}

static inline lanes lanes_fma(lanes x, lanes y, lanes z)
{
    return (lanes){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

static inline lanes lanes_fma_negated(lanes x, lanes y, lanes z)
{
    return (lanes){_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}

static inline lanes lanes_max(lanes x, lanes y)
{
    return LANES_EACH(_mm256_max_ps);
}

static inline lanes lanes_min(lanes x, lanes y)
{
    return LANES_EACH(_mm256_min_ps);
}

static inline float lanes_one_from_half(uint16_t half)
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

static inline lanes lanes_from_half(const uint16_t *from)
{
    return (lanes){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)),
                   _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 8)))};
}

static inline __m256 lanes_eight_from_bfloat(const uint16_t *from)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline lanes lanes_from_bfloat(const uint16_t *from)
{
    return (lanes){lanes_eight_from_bfloat(from), lanes_eight_from_bfloat(from + 8)};
}

static inline __m256 lanes_eight_from_int8(const int8_t *from)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
}

static inline lanes lanes_from_int8(const int8_t *from)
{
    return (lanes){lanes_eight_from_int8(from), lanes_eight_from_int8(from + 8)};
}

static inline __m256 lanes_eight_times_power(__m256 a, __m256 n)
{
    __m256i whole = _mm256_sub_epi32(_mm256_castps_si256(n), _mm256_set1_epi32(0x4b400000));
    __m256i half = _mm256_srai_epi32(whole, 1);
    __m256i rest = _mm256_sub_epi32(whole, half);
    __m256i bias = _mm256_set1_epi32(127);
    __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, first), second);
}

static inline lanes lanes_times_power(lanes x, lanes y)
{
    return LANES_EACH(lanes_eight_times_power);
}

static inline float lanes_fold_add(lanes x)
{
    __m256 eight = _mm256_add_ps(x.a, x.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float lanes_fold_max(lanes x)
{
    __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

static inline void lanes_eight_transpose(__m256 a[8])
{
    __m256 b[8];
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    for (int j = 0; j < 4; j++) {
        b[j] = _mm256_permute2f128_ps(a[j], a[4 + j], 0x20);
        b[4 + j] = _mm256_permute2f128_ps(a[j], a[4 + j], 0x31);
    }
    memcpy(a, b, sizeof b);
}

static inline void lanes_transpose(lanes x[LANES])
{
    for (int left = 0; left < 2; left++) {
        __m256 top[8], bottom[8];
        for (int i = 0; i < 8; i++) {
            top[i] = left ? x[i].b : x[i].a;
            bottom[i] = left ? x[8 + i].b : x[8 + i].a;
        }
        lanes_eight_transpose(top);
        lanes_eight_transpose(bottom);
        /* Until the second round, columns 0 to 7 are kept in the halves that have been read. */
        for (int i = 0; i < 8; i++) {
            if (left) {
                __m256 waiting = x[8 + i].a;
                x[8 + i] = (lanes){top[i], bottom[i]};
                x[i].b = waiting;
            } else {
                x[i].a = top[i];
                x[8 + i].a = bottom[i];
            }
        }
    }
}

#endif
