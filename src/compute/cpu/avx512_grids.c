/* AVX-512: matrix times vector for the IQ types that look up their elements in codebooks.
 *
 * The codebooks have packed 16-bit entries, and are small enough for permutations of 16-bit words. Each permutation
 * covers 64 entries and does 32 lookups at once, without a load for each. Then the packed entries become bytes: an IQ2
 * entry becomes four planes of bytes, where plane s has its elements s and 4 + s; an IQ3 entry becomes two planes, with
 * elements 0 and 1, and 2 and 3. Activations are brought into the same order, once for four rows. Signs become masks
 * that negate activations. */
#include "compute/cpu/avx2_parts.h"
#include "compute/cpu/avx512.h"

/* Adds the eighth sign bit to the seven in each byte. */
static ALWAYS_INLINE __m256i even_sign_bytes(__m256i seven)
{
    /* The highest bit of each entry is the parity of a four-bit number. */
    const __m256i parity = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0));
    __m256i odd = _mm256_xor_si256(_mm256_shuffle_epi8(parity, low_nibbles(seven)),
                                   _mm256_shuffle_epi8(parity, high_nibbles(seven)));
    return _mm256_or_si256(seven, odd);
}

/* The same for four groups of seven bits in each 32-bit word. */
static ALWAYS_INLINE __m256i even_sign_words(__m256i words)
{
    __m256i a = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
    __m256i b = _mm256_and_si256(_mm256_slli_epi32(words, 1), _mm256_set1_epi32(0x7f00));
    __m256i c = _mm256_and_si256(_mm256_slli_epi32(words, 2), _mm256_set1_epi32(0x7f0000));
    __m256i d = _mm256_and_si256(_mm256_slli_epi32(words, 3), _mm256_set1_epi32(0x7f000000));
    return even_sign_bytes(_mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)));
}

/* Looks up entries of a table. count is a power of two, at least 64. Each permutation covers 64 entries. The higher
 * bits of the indices choose between two neighbours, then between two pairs, and so on. */
static ALWAYS_INLINE __m512i look_up(const uint16_t *table, int count, __m512i index)
{
    __m512i found[16];
    for (int i = 0; i < count / 64; i++)
        found[i] = _mm512_permutex2var_epi16(_mm512_loadu_si512(table + 64 * i), index,
                                             _mm512_loadu_si512(table + 64 * i + 32));
    for (int bit = 64; bit < count; bit *= 2) {
        __mmask32 upper = _mm512_test_epi16_mask(index, _mm512_set1_epi16((short)bit));
        for (int i = 0; i < count / (2 * bit); i++)
            found[i] = _mm512_mask_blend_epi16(upper, found[2 * i], found[2 * i + 1]);
    }
    return found[0];
}

static ALWAYS_INLINE __m512i negated(__m512i x, __mmask64 where)
{
    return _mm512_mask_sub_epi8(x, where, _mm512_setzero_si512(), x);
}

/* ---- IQ2: entries of eight elements ------------------------------------------------------------------------------ */

/* A block before the lookups: 32 indices, a byte of signs for each, and sixteen scales. */
struct entries_8 {
    __m512i index;
    __m256i signs;
    __m256i scales;
};

typedef struct entries_8 entries_8_function(const uint8_t *block);

/* Writes columns 4m + s of 256 to planes[s], for m from 0 to 63. */
static ALWAYS_INLINE void four_planes(__m512i *planes, const int8_t *x)
{
    const __m512i gather = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    __m512i parts[4];
    for (int i = 0; i < 4; i++)
        parts[i] = _mm512_shuffle_epi8(_mm512_loadu_si512(x + 64 * i), gather);
    for (int s = 0; s < 4; s++) {
        __m512i index = _mm512_add_epi32(first, _mm512_set1_epi32(s));
        __m512i low = _mm512_permutex2var_epi32(parts[0], index, parts[1]);
        __m512i high = _mm512_permutex2var_epi32(parts[2], index, parts[3]);
        planes[s] = _mm512_inserti64x4(low, _mm512_castsi512_si256(high), 1);
    }
}

static ALWAYS_INLINE __m512i dot_8(const uint8_t *block, const __m512i *planes, const uint16_t *table, int count,
                                   entries_8_function *entries)
{
    const __m512i values = _mm512_set1_epi32(0x002b1908); /* 8, 25, 43 */
    const __m512i twice_each =
        _mm512_setr_epi32(0, 0x10001, 0x20002, 0x30003, 0x40004, 0x50005, 0x60006, 0x70007, 0x80008, 0x90009, 0xa000a,
                          0xb000b, 0xc000c, 0xd000d, 0xe000e, 0xf000f);
    struct entries_8 in = entries(block);
    __m512i packed = look_up(table, count, in.index);
    __m512i scales = _mm512_permutexvar_epi16(twice_each, _mm512_castsi256_si512(in.scales));
    __m512i signs = _mm512_cvtepu8_epi16(in.signs);
    signs = _mm512_or_si512(signs, _mm512_slli_epi16(signs, 4)); /* moves the high four bits to the second byte */
    __m512i pairs[4], sum = _mm512_setzero_si512();
    for (int s = 0; s < 4; s++) {
        __m512i codes = _mm512_and_si512(_mm512_srli_epi16(packed, (unsigned)(2 * s)), _mm512_set1_epi8(3));
        __mmask64 negative = _mm512_test_epi8_mask(signs, _mm512_set1_epi8((char)(1 << s)));
        pairs[s] = _mm512_maddubs_epi16(_mm512_shuffle_epi8(values, codes), negated(planes[s], negative));
    }
    /* The pairs of two planes together are at most 4 * 43 * 127. */
    sum = _mm512_dpwssd_epi32(sum, _mm512_add_epi16(pairs[0], pairs[1]), scales);
    return _mm512_dpwssd_epi32(sum, _mm512_add_epi16(pairs[2], pairs[3]), scales);
}

static ALWAYS_INLINE struct entries_8 entries_iq2_xxs(const uint8_t *block)
{
    __m256 a = _mm256_castsi256_ps(load_256(block + 2)), b = _mm256_castsi256_ps(load_256(block + 34));
    __m256i indices = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
    __m256i words = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
    indices = _mm256_permute4x64_epi64(indices, _MM_SHUFFLE(3, 1, 2, 0));
    words = _mm256_permute4x64_epi64(words, _MM_SHUFFLE(3, 1, 2, 0));
    return (struct entries_8){_mm512_cvtepu8_epi16(indices), even_sign_words(words), top_scales(words)};
}

static ALWAYS_INLINE struct entries_8 entries_iq2_xs(const uint8_t *block)
{
    __m512i words = _mm512_loadu_si512(block + 2);
    return (struct entries_8){words, even_sign_bytes(_mm512_cvtepi16_epi8(_mm512_srli_epi16(words, 9))),
                              scales_iq2_xs(block)};
}

static ALWAYS_INLINE struct entries_8 entries_iq2_s(const uint8_t *block)
{
    const __m512i shift = _mm512_set1_epi64(8ll | 6ll << 16 | 4ll << 32 | 2ll << 48);
    const __m512i spread =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, 0, -1, 0, -1, 0, -1, 8, -1, 8, -1, 8, -1, 8, -1));
    /* Index k uses byte k / 4 of eight. */
    __m512i high = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const void *)(block + offsetof(struct block_iq2_s, qh))));
    high = _mm512_sllv_epi16(_mm512_shuffle_epi8(high, spread), shift);
    high = _mm512_and_si512(high, _mm512_set1_epi16(768));
    return (struct entries_8){_mm512_or_si512(_mm512_cvtepu8_epi16(load_256(block + 2)), high),
                              load_256(block + offsetof(struct block_iq2_s, signs)), scales_iq2_s(block)};
}

static ALWAYS_INLINE void gemv_8(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                 const struct activation_row *x, size_t block_bytes, const uint16_t *table, int count,
                                 entries_8_function *entries)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        for (size_t b = 0; b < columns / 256; b++) {
            prefetch_more(&ahead, 4 * block_bytes);
            __m512i planes[4], dots[4];
            four_planes(planes, x->quants + 256 * b);
            for (int i = 0; i < 4; i++)
                dots[i] = dot_8(at.at[i], planes, table, count, entries);
            __m128 factors = _mm_mul_ps(d_eighth(&at), _mm_set1_ps(x->scales[b]));
            sum = _mm_fmadd_ps(factors, _mm_cvtepi32_ps(sum_4(dots[0], dots[1], dots[2], dots[3])), sum);
            four_rows_advance(&at, block_bytes);
        }
        store_4(out + r, sum, rows - r);
    }
}

#define GEMV_8(name, count)                                                                                            \
    static void gemv_##name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,         \
                            const struct activation_row *x)                                                            \
    {                                                                                                                  \
        gemv_8(out, weights, row_bytes, rows, columns, x, sizeof(struct block_##name), packed_##name, count,           \
               entries_##name);                                                                                        \
    }

GEMV_8(iq2_xxs, 256)
GEMV_8(iq2_xs, 512)
GEMV_8(iq2_s, 1024)

/* ---- IQ3: entries of four elements ------------------------------------------------------------------------------- */

/* Half a block before the lookups: 32 indices, and sixteen bytes of signs. */
struct entries_4 {
    __m512i index;
    __m128i signs;
};

typedef struct entries_4 entries_4_function(const uint8_t *block, int half);
typedef __m256i scales_4_function(const uint8_t *block);
typedef __m128 factor_function(const struct four_rows *rows);

/* The 16-bit words of 128 columns at even positions, or at odd ones. */
static ALWAYS_INLINE __m512i word_plane(const int8_t *x, int odd)
{
    const __m512i even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26,
                                          24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    __m512i index = _mm512_add_epi16(even, _mm512_set1_epi16((short)odd));
    return _mm512_permutex2var_epi16(_mm512_loadu_si512(x), index, _mm512_loadu_si512(x + 64));
}

static ALWAYS_INLINE __m512i dot_4(const uint8_t *block, const __m512i *planes, const uint16_t *table, int count,
                                   __m128i values, entries_4_function *entries, scales_4_function *scales)
{
    const __m512i codebook = _mm512_broadcast_i32x4(values);
    const __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 0x20002, 0x20002, 0x20002, 0x20002, 0x40004, 0x40004, 0x40004,
                                           0x40004, 0x60006, 0x60006, 0x60006, 0x60006);
    __m512i scale = _mm512_castsi256_si512(scales(block)), sum = _mm512_setzero_si512();
    for (int half = 0; half < 2; half++) {
        struct entries_4 in = entries(block, half);
        __m512i packed = look_up(table, count, in.index);
        /* Repeats each byte of signs four times. Its bits 0, 1, 4, 5 are for the first plane, 2, 3, 6, 7 for the
         * second. */
        __m512i signs = _mm512_mullo_epi32(_mm512_cvtepu8_epi32(in.signs), _mm512_set1_epi32(0x01010101));
        __mmask64 a = _mm512_test_epi8_mask(signs, _mm512_set1_epi32(0x20100201));
        __mmask64 b = _mm512_test_epi8_mask(signs, _mm512_set1_epi32((int)0x80400804u));
        /* A byte shuffle uses bits 0-3 and 7 only, so the code in bits 4-6 does no harm. */
        __m512i first = _mm512_shuffle_epi8(codebook, packed);
        __m512i second = _mm512_shuffle_epi8(codebook, _mm512_srli_epi16(packed, 4));
        /* Together at most 4 * 62 * 127. */
        __m512i pairs = _mm512_add_epi16(_mm512_maddubs_epi16(first, negated(planes[2 * half], a)),
                                         _mm512_maddubs_epi16(second, negated(planes[2 * half + 1], b)));
        __m512i index = _mm512_add_epi16(lane, _mm512_set1_epi16((short)(8 * half)));
        sum = _mm512_dpwssd_epi32(sum, pairs, _mm512_permutexvar_epi16(index, scale));
    }
    return sum;
}

static ALWAYS_INLINE struct entries_4 entries_iq3_xxs(const uint8_t *block, int half)
{
    __m256i words = load_256(block + offsetof(struct block_iq3_xxs, signs));
    __m256i signs = even_sign_words(words);
    return (struct entries_4){_mm512_cvtepu8_epi16(load_256(block + 2 + 32 * half)),
                              half ? _mm256_extracti128_si256(signs, 1) : _mm256_castsi256_si128(signs)};
}

static ALWAYS_INLINE struct entries_4 entries_iq3_s(const uint8_t *block, int half)
{
    __mmask32 ninth = load_32(block + offsetof(struct block_iq3_s, qh) + 4 * half);
    __m512i low = _mm512_cvtepu8_epi16(load_256(block + 2 + 32 * half));
    return (struct entries_4){_mm512_mask_add_epi16(low, ninth, low, _mm512_set1_epi16(256)),
                              load_128(block + offsetof(struct block_iq3_s, signs) + 16 * half)};
}

static ALWAYS_INLINE void gemv_4(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                 const struct activation_row *x, size_t block_bytes, const uint16_t *table, int count,
                                 __m128i values, entries_4_function *entries, scales_4_function *scales,
                                 factor_function *d)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        for (size_t b = 0; b < columns / 256; b++) {
            prefetch_more(&ahead, 4 * block_bytes);
            __m512i planes[4], dots[4];
            for (int i = 0; i < 4; i++)
                planes[i] = word_plane(x->quants + 256 * b + 128 * (i / 2), i % 2);
            for (int i = 0; i < 4; i++)
                dots[i] = dot_4(at.at[i], planes, table, count, values, entries, scales);
            __m128 factors = _mm_mul_ps(d(&at), _mm_set1_ps(x->scales[b]));
            sum = _mm_fmadd_ps(factors, _mm_cvtepi32_ps(sum_4(dots[0], dots[1], dots[2], dots[3])), sum);
            four_rows_advance(&at, block_bytes);
        }
        store_4(out + r, sum, rows - r);
    }
}

#define GEMV_4(name, count, d, ...)                                                                                    \
    static void gemv_##name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,         \
                            const struct activation_row *x)                                                            \
    {                                                                                                                  \
        gemv_4(out, weights, row_bytes, rows, columns, x, sizeof(struct block_##name), packed_##name, count,           \
               _mm_setr_epi8(__VA_ARGS__, __VA_ARGS__), entries_##name, scales_##name, d);                             \
    }

GEMV_4(iq3_xxs, 256, d_quarter, 4, 12, 20, 28, 36, 44, 52, 62)
GEMV_4(iq3_s, 512, d_first, 1, 3, 5, 7, 9, 11, 13, 15)

/* ---- IQ1: too many entries for permutations ---------------------------------------------------------------------- */

/* Entries are gathered through memory, because assembling vectors from registers costs more. */
struct lookups_1 {
    _Alignas(64) uint16_t index[32];
    _Alignas(64) uint8_t entries[256];
    uint32_t up; /* one bit per eight elements: their delta is positive */
    __m256i scales;
};

typedef void look_up_function(struct lookups_1 *out, const uint8_t *block);

static ALWAYS_INLINE void look_up_iq1_s(struct lookups_1 *out, const uint8_t *block)
{
    /* The three bits at 3k of a 16-bit word are the high bits of index k of four. */
    const __m512i shift = _mm512_set1_epi64(8ll | 5ll << 16 | 2ll << 32);
    const __m512i down = _mm512_set1_epi64(1ll << 48);
    const __m512i spread = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 8, 9, 8, 9, 8, 9, 8, 9));
    __m128i words = load_128(block + offsetof(struct block_iq1_s, qh));
    __m512i high = _mm512_shuffle_epi8(_mm512_cvtepu16_epi64(words), spread);
    high = _mm512_and_si512(_mm512_srlv_epi16(_mm512_sllv_epi16(high, shift), down), _mm512_set1_epi16(0x700));
    _mm512_store_si512(out->index, _mm512_or_si512(_mm512_cvtepu8_epi16(load_256(block + 2)), high));
    uint32_t negative = _mm_movepi16_mask(words); /* one bit per 32 elements */
    negative = (negative | negative << 12) & 0x000f000fu;
    negative = (negative | negative << 6) & 0x03030303u;
    negative = (negative | negative << 3) & 0x11111111u;
    out->up = ~(negative * 15);
    out->scales = scales_iq1_s(block);
}

static ALWAYS_INLINE void look_up_iq1_m(struct lookups_1 *out, const uint8_t *block)
{
    /* Four bits per eight elements: the three high bits of the index, and the sign of delta. */
    __m128i bytes = load_128(block + offsetof(struct block_iq1_m, qh));
    __m256i nibbles = _mm256_set_m128i(_mm_unpackhi_epi8(bytes, _mm_srli_epi16(bytes, 4)),
                                       _mm_unpacklo_epi8(bytes, _mm_srli_epi16(bytes, 4)));
    __m512i high = _mm512_slli_epi16(_mm512_cvtepu8_epi16(_mm256_and_si256(nibbles, _mm256_set1_epi8(7))), 8);
    _mm512_store_si512(out->index, _mm512_or_si512(_mm512_cvtepu8_epi16(load_256(block)), high));
    out->up = _mm256_testn_epi8_mask(nibbles, _mm256_set1_epi8(8));
    out->scales = scales_iq1_m(block);
}

static ALWAYS_INLINE __m512i dot_iq1(const struct lookups_1 *in, const struct activation_row *x, size_t b)
{
    const __m512i two = _mm512_set1_epi8(2);
    __m512i scales = _mm512_castsi256_si512(in->scales);
    /* Quants are 9 too high: 8 by the entries, and 1 by deltas of 0 and 2, which stand for -1 and 1. */
    __m256i sums = _mm256_madd_epi16(in->scales, load_256(x->sums + 16 * b));
    __m512i sum = _mm512_zextsi256_si512(_mm256_mullo_epi32(sums, _mm256_set1_epi32(-9)));
    for (int j = 0; j < 4; j++) {
        __m512i deltas = _mm512_maskz_mov_epi64((__mmask8)(in->up >> (8 * j)), two);
        __m512i quants = _mm512_add_epi8(_mm512_load_si512(in->entries + 64 * j), deltas);
        __m512i pairs = _mm512_maddubs_epi16(quants, _mm512_loadu_si512(x->quants + 256 * b + 64 * j));
        sum = _mm512_dpwssd_epi32(sum, pairs, scale_16(scales, j));
    }
    return sum;
}

static ALWAYS_INLINE void gemv_iq1(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                   const struct activation_row *x, size_t block_bytes, look_up_function *find,
                                   factor_function *d)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        for (size_t b = 0; b < columns / 256; b++) {
            prefetch_more(&ahead, 4 * block_bytes);
            struct lookups_1 lookups[4];
            __m512i dots[4];
            for (int i = 0; i < 4; i++)
                find(&lookups[i], at.at[i]);
            for (int i = 0; i < 4; i++) {
                for (int k = 0; k < 32; k++)
                    memcpy(lookups[i].entries + 8 * k, &grid_iq1[lookups[i].index[k]], 8);
            }
            for (int i = 0; i < 4; i++)
                dots[i] = dot_iq1(&lookups[i], x, b);
            __m128 factors = _mm_mul_ps(d(&at), _mm_set1_ps(x->scales[b]));
            sum = _mm_fmadd_ps(factors, _mm_cvtepi32_ps(sum_4(dots[0], dots[1], dots[2], dots[3])), sum);
            four_rows_advance(&at, block_bytes);
        }
        store_4(out + r, sum, rows - r);
    }
}

static void gemv_iq1_s(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                       const struct activation_row *x)
{
    gemv_iq1(out, weights, row_bytes, rows, columns, x, sizeof(struct block_iq1_s), look_up_iq1_s, d_eighth);
}

static void gemv_iq1_m(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                       const struct activation_row *x)
{
    gemv_iq1(out, weights, row_bytes, rows, columns, x, sizeof(struct block_iq1_m), look_up_iq1_m, d_iq1_m);
}

const struct kernel_table kernels_avx512_grids = {
    .types[TENSOR_IQ1_S] = {.gemv = gemv_iq1_s},
    .types[TENSOR_IQ1_M] = {.gemv = gemv_iq1_m},
    .types[TENSOR_IQ2_XXS] = {.gemv = gemv_iq2_xxs},
    .types[TENSOR_IQ2_XS] = {.gemv = gemv_iq2_xs},
    .types[TENSOR_IQ2_S] = {.gemv = gemv_iq2_s},
    .types[TENSOR_IQ3_XXS] = {.gemv = gemv_iq3_xxs},
    .types[TENSOR_IQ3_S] = {.gemv = gemv_iq3_s},
};
