/* AVX-512: matrix times vector for the IQ types that look their elements up in codebooks. Indices and signs of a whole
 * block are worked out first, in vectors, and kept in memory. Entries are then copied one by one, through memory too,
 * since putting a vector together from registers costs more; and signs become masks that negate activations. */
#include "compute/cpu/avx2_parts.h"
#include "compute/cpu/avx512.h"

/* Entries are of eight elements (32 indices) or of four (64). */
struct lookups {
    _Alignas(64) uint16_t index[64];
    uint8_t magnitudes[256];
    uint64_t signs[4]; /* a bit an element */
    __m256i scales;
};

typedef void lookups_function(struct lookups *out, const uint8_t *block);
typedef void entries_function(struct lookups *lookups);

/* Eight sign bits from the seven in each byte. */
static ALWAYS_INLINE __m256i even_sign_bytes(__m256i seven)
{
    /* The parity of four bits, as the highest bit. */
    const __m256i parity = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0));
    __m256i odd = _mm256_xor_si256(_mm256_shuffle_epi8(parity, low_nibbles(seven)),
                                   _mm256_shuffle_epi8(parity, high_nibbles(seven)));
    return _mm256_or_si256(seven, odd);
}

/* Four times seven bits of each word of 32 bits. */
static ALWAYS_INLINE __m256i even_sign_words(__m256i words)
{
    __m256i a = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
    __m256i b = _mm256_and_si256(_mm256_slli_epi32(words, 1), _mm256_set1_epi32(0x7f00));
    __m256i c = _mm256_and_si256(_mm256_slli_epi32(words, 2), _mm256_set1_epi32(0x7f0000));
    __m256i d = _mm256_and_si256(_mm256_slli_epi32(words, 3), _mm256_set1_epi32(0x7f000000));
    return even_sign_bytes(_mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)));
}

static ALWAYS_INLINE void copy_entries_8(struct lookups *lookups, const uint64_t *grid)
{
#pragma GCC unroll 32
    for (int k = 0; k < 32; k++)
        memcpy(lookups->magnitudes + 8 * k, &grid[lookups->index[k]], 8);
}

static ALWAYS_INLINE void copy_entries_4(struct lookups *lookups, const uint32_t *grid)
{
#pragma GCC unroll 64
    for (int k = 0; k < 64; k++)
        memcpy(lookups->magnitudes + 4 * k, &grid[lookups->index[k]], 4);
}

static ALWAYS_INLINE __m512i grid_dot(const struct lookups *lookups, const int8_t *x)
{
    __m512i scales = _mm512_castsi256_si512(lookups->scales), sum = _mm512_setzero_si512();
    for (int j = 0; j < 4; j++) {
        __m512i quants = _mm512_loadu_si512(x + 64 * j);
        quants = _mm512_mask_sub_epi8(quants, lookups->signs[j], _mm512_setzero_si512(), quants);
        __m512i pairs = _mm512_maddubs_epi16(_mm512_load_si512(lookups->magnitudes + 64 * j), quants);
        sum = _mm512_dpwssd_epi32(sum, pairs, scale_16(scales, j));
    }
    return sum;
}

static ALWAYS_INLINE void grid_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                    const struct activation_row *x, size_t block_bytes, float factor,
                                    lookups_function *look, entries_function *copy_entries)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        ahead.next = weights + (r + 4) * row_bytes;
        __m128 sum = _mm_setzero_ps();
        for (size_t b = 0; b < columns / 256; b++) {
            prefetch_more(&ahead, 4 * block_bytes);
            __m512i dots[4];
            struct lookups lookups[4];
            for (int i = 0; i < 4; i++)
                look(&lookups[i], at.at[i]);
            for (int i = 0; i < 4; i++)
                copy_entries(&lookups[i]);
            for (int i = 0; i < 4; i++)
                dots[i] = grid_dot(&lookups[i], x->quants + 256 * b);
            __m128 d = _mm_mul_ps(d_first(&at), _mm_set1_ps(factor));
            __m128i integer = sum_4(dots[0], dots[1], dots[2], dots[3]);
            sum = _mm_fmadd_ps(_mm_mul_ps(d, _mm_set1_ps(x->scales[b])), _mm_cvtepi32_ps(integer), sum);
            for (int i = 0; i < 4; i++)
                at.at[i] += block_bytes;
        }
        store_4(out + r, sum, rows - r);
    }
}

static ALWAYS_INLINE void look_iq2_xxs(struct lookups *out, const uint8_t *block)
{
    __m256 a = _mm256_castsi256_ps(load_256(block + 2)), b = _mm256_castsi256_ps(load_256(block + 34));
    __m256i bytes =
        _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)), _MM_SHUFFLE(3, 1, 2, 0));
    __m256i words =
        _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd)), _MM_SHUFFLE(3, 1, 2, 0));
    _mm512_storeu_si512(out->index, _mm512_cvtepu8_epi16(bytes));
    _mm256_storeu_si256((void *)out->signs, even_sign_words(words));
    out->scales = top_scales(words);
}

static ALWAYS_INLINE void look_iq2_xs(struct lookups *out, const uint8_t *block)
{
    __m512i words = _mm512_loadu_si512(block + 2);
    _mm512_storeu_si512(out->index, _mm512_and_si512(words, _mm512_set1_epi16(511)));
    _mm256_storeu_si256((void *)out->signs, even_sign_bytes(_mm512_cvtepi16_epi8(_mm512_srli_epi16(words, 9))));
    out->scales = scales_iq2_xs(block);
}

static ALWAYS_INLINE void look_iq2_s(struct lookups *out, const uint8_t *block)
{
    const __m512i shift = _mm512_set1_epi64(8ll | 6ll << 16 | 4ll << 32 | 2ll << 48);
    /* Byte k / 4 of eight for word k. */
    __m512i high = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const void *)(block + offsetof(struct block_iq2_s, qh))));
    high = _mm512_shuffle_epi8(
        high, _mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, 0, -1, 0, -1, 0, -1, 8, -1, 8, -1, 8, -1, 8, -1)));
    high = _mm512_and_si512(_mm512_sllv_epi16(high, shift), _mm512_set1_epi16(768));
    _mm512_storeu_si512(out->index, _mm512_or_si512(_mm512_cvtepu8_epi16(load_256(block + 2)), high));
    _mm256_storeu_si256((void *)out->signs, load_256(block + offsetof(struct block_iq2_s, signs)));
    out->scales = scales_iq2_s(block);
}

static ALWAYS_INLINE void look_iq3_xxs(struct lookups *out, const uint8_t *block)
{
    _mm512_storeu_si512(out->index, _mm512_cvtepu8_epi16(load_256(block + 2)));
    _mm512_storeu_si512(out->index + 32, _mm512_cvtepu8_epi16(load_256(block + 34)));
    __m256i words = load_256(block + offsetof(struct block_iq3_xxs, signs));
    _mm256_storeu_si256((void *)out->signs, even_sign_words(words));
    out->scales = top_scales(words);
}

static ALWAYS_INLINE void look_iq3_s(struct lookups *out, const uint8_t *block)
{
    uint64_t ninth = load_64(block + offsetof(struct block_iq3_s, qh));
    const __m512i bit = _mm512_set1_epi16(256);
    __m512i a = _mm512_cvtepu8_epi16(load_256(block + 2)), b = _mm512_cvtepu8_epi16(load_256(block + 34));
    _mm512_storeu_si512(out->index, _mm512_mask_add_epi16(a, (__mmask32)ninth, a, bit));
    _mm512_storeu_si512(out->index + 32, _mm512_mask_add_epi16(b, (__mmask32)(ninth >> 32), b, bit));
    _mm256_storeu_si256((void *)out->signs, load_256(block + offsetof(struct block_iq3_s, signs)));
    out->scales = scales_iq3_s(block);
}

#define GRID_GEMV(name, size, factor)                                                                                  \
    static ALWAYS_INLINE void entries_##name(struct lookups *lookups)                                                  \
    {                                                                                                                  \
        copy_entries_##size(lookups, grid_##name);                                                                     \
    }                                                                                                                  \
    static void gemv_##name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,         \
                            const struct activation_row *x)                                                            \
    {                                                                                                                  \
        grid_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block_##name), factor, look_##name,         \
                  entries_##name);                                                                                     \
    }

GRID_GEMV(iq2_xxs, 8, 0.125f)
GRID_GEMV(iq2_xs, 8, 0.125f)
GRID_GEMV(iq2_s, 8, 0.125f)
GRID_GEMV(iq3_xxs, 4, 0.25f)
GRID_GEMV(iq3_s, 4, 1)

void kernels_avx512_grids(struct kernel_table *table)
{
    table->types[TENSOR_IQ2_XXS].gemv = gemv_iq2_xxs;
    table->types[TENSOR_IQ2_XS].gemv = gemv_iq2_xs;
    table->types[TENSOR_IQ2_S].gemv = gemv_iq2_s;
    table->types[TENSOR_IQ3_XXS].gemv = gemv_iq3_xxs;
    table->types[TENSOR_IQ3_S].gemv = gemv_iq3_s;
}
