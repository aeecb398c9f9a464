/* AVX-512 with VNNI: matrix times vector for super-blocks of 256.
 *
 * It processes four rows at a time. The integer sums of their blocks end up in one register, so a block's float
 * operations are done once for four rows. Inside a block, products of bytes are summed in pairs in 16 bits, which
 * cannot overflow because quants have at most 6 bits. The pairs are multiplied by 16-bit scales and summed in 32 bits.
 */
#include "compute/cpu/avx2_parts.h"
#include "compute/cpu/avx512.h"

struct super_activation {
    __m512i quants[4];
    __m256i sums; /* of 16 quants each */
};

static ALWAYS_INLINE struct super_activation super_activation(const struct activation_row *x, size_t block)
{
    struct super_activation out;
    for (int i = 0; i < 4; i++)
        out.quants[i] = _mm512_loadu_si512(x->quants + 256 * block + 64 * i);
    out.sums = _mm256_loadu_si256((const void *)(x->sums + 16 * block));
    return out;
}

/* The results of a step, for one block of four rows. */
struct super_result {
    __m128i integer, minimum;
    __m128 d, m;
};

typedef struct super_result super_step(const struct four_rows *rows, const struct super_activation *x);

static ALWAYS_INLINE void super_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                     const struct activation_row *x, size_t block_bytes, super_step *step, bool minima)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        for (size_t b = 0; b < columns / 256; b++) {
            struct super_activation block = super_activation(x, b);
            prefetch_more(&ahead, 4 * block_bytes);
            struct super_result result = step(&at, &block);
            __m128 scale = _mm_set1_ps(x->scales[b]);
            sum = _mm_fmadd_ps(_mm_mul_ps(result.d, scale), _mm_cvtepi32_ps(result.integer), sum);
            if (minima)
                sum = _mm_fnmadd_ps(_mm_mul_ps(result.m, scale), _mm_cvtepi32_ps(result.minimum), sum);
            four_rows_advance(&at, block_bytes);
        }
        store_4(out + r, sum, rows - r);
    }
}

#define SUPER_GEMV(name, block, step, minima)                                                                          \
    static void name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,                \
                     const struct activation_row *x)                                                                   \
    {                                                                                                                  \
        super_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block), step, minima);                     \
    }

static ALWAYS_INLINE __m512i twice(const uint8_t *bytes)
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)bytes));
}

/* ---- Q4_K, Q5_K -------------------------------------------------------------------------------------------------- */

/* Both types start with the same 16 bytes: d, dmin, and 6-bit scales and minima. Four rows are unpacked at once, one
 * per lane. */
struct k_header {
    __m512i scales; /* eight 16-bit scales per lane */
    __m128i minimum;
    __m128 d, m;
};

static ALWAYS_INLINE struct k_header k_header(const struct four_rows *rows, const int16_t *x_sums)
{
    __m512i raw = _mm512_castsi128_si512(_mm_loadu_si128((const void *)rows->at[0]));
    raw = _mm512_inserti32x4(raw, _mm_loadu_si128((const void *)rows->at[1]), 1);
    raw = _mm512_inserti32x4(raw, _mm_loadu_si128((const void *)rows->at[2]), 2);
    raw = _mm512_inserti32x4(raw, _mm_loadu_si128((const void *)rows->at[3]), 3);
    /* The 32-bit words of a lane: d and dmin; scales 0-3; minima 0-3 (each with 2 high bits of 4-7 on top); the low
     * halves of scales and minima 4-7. */
    __m512i low = _mm512_and_si512(raw, _mm512_set1_epi8(63));
    __m512i high = _mm512_srlv_epi32(_mm512_shuffle_epi32(raw, (_MM_PERM_ENUM)_MM_SHUFFLE(3, 3, 3, 3)),
                                     _mm512_set1_epi64(4ll)); /* words 0 and 2 shifted by 4 */
    high = _mm512_and_si512(high, _mm512_set1_epi8(15));
    __m512i top = _mm512_and_si512(_mm512_srli_epi32(raw, 2), _mm512_set1_epi8(48));
    high = _mm512_or_si512(high, top);
    __m512i scales = _mm512_unpacklo_epi32(low, high); /* words 2, 3: scales */
    __m512i minima = _mm512_unpackhi_epi32(low, high); /* words 0, 1: minima */
    __m512i zero = _mm512_setzero_si512();
    struct k_header out;
    out.scales = _mm512_unpackhi_epi8(scales, zero);

    __m128i sums = _mm_hadd_epi16(load_128((const void *)x_sums), load_128((const void *)(x_sums + 8)));
    __m512i products = _mm512_madd_epi16(_mm512_unpacklo_epi8(minima, zero), _mm512_broadcast_i32x4(sums));
    products = _mm512_add_epi32(products, _mm512_shuffle_epi32(products, (_MM_PERM_ENUM)_MM_SHUFFLE(2, 3, 0, 1)));
    products = _mm512_add_epi32(products, _mm512_shuffle_epi32(products, (_MM_PERM_ENUM)_MM_SHUFFLE(1, 0, 3, 2)));
    __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    out.minimum = _mm512_castsi512_si128(_mm512_permutexvar_epi32(first, products));

    __m128i halves = _mm512_castsi512_si128(_mm512_permutexvar_epi32(first, raw));
    halves = _mm_shuffle_epi8(halves, _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    __m256 floats = _mm256_cvtph_ps(halves);
    out.d = _mm256_castps256_ps128(floats);
    out.m = _mm256_extractf128_ps(floats, 1);
    return out;
}

/* The 16-bit scale of each part, twice in a 32-bit word, for four rows. */
struct k_scales {
    _Alignas(64) uint32_t parts[2][4][4]; /* [part / 4][row][part % 4] */
};

static ALWAYS_INLINE struct k_scales k_scales(__m512i scales)
{
    struct k_scales out;
    _mm512_store_si512(out.parts[0], _mm512_unpacklo_epi16(scales, scales));
    _mm512_store_si512(out.parts[1], _mm512_unpackhi_epi16(scales, scales));
    return out;
}

/* Adds a part of 32 to a row's sum. */
static ALWAYS_INLINE __m256i k_part(__m256i sum, __m256i quants, __m256i x, uint32_t scale)
{
    return _mm256_dpwssd_epi32(sum, _mm256_maddubs_epi16(quants, x), _mm256_set1_epi32((int)scale));
}

static ALWAYS_INLINE __m256i x_part(const struct super_activation *x, int part)
{
    return part % 2 ? _mm512_extracti64x4_epi64(x->quants[part / 2], 1) : _mm512_castsi512_si256(x->quants[part / 2]);
}

/* Adds all parts to the sums of four rows. Rows are in the inner loop, because each sum is a chain of dependent
 * instructions, and the chains of four rows can run in parallel. */
static ALWAYS_INLINE void q4_k_parts(__m256i sums[4], const struct four_rows *rows, const struct k_scales *scales,
                                     const struct super_activation *x)
{
    const __m256i mask = _mm256_set1_epi8(15);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            const uint32_t *scale = &scales->parts[j / 2][r][j % 2 * 2];
            __m256i bytes = _mm256_loadu_si256((const void *)(rows->at[r] + offsetof(struct block_q4_k, qs) + 32 * j));
            __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
            sums[r] = k_part(sums[r], _mm256_and_si256(bytes, mask), x_part(x, 2 * j), scale[0]);
            sums[r] = k_part(sums[r], high, x_part(x, 2 * j + 1), scale[1]);
        }
    }
}

static ALWAYS_INLINE void q5_k_parts(__m256i sums[4], const struct four_rows *rows, const struct k_scales *scales,
                                     const struct super_activation *x)
{
    const __m256i mask = _mm256_set1_epi8(15), sixteen = _mm256_set1_epi8(16);
    __m256i bits[4];
    for (int r = 0; r < 4; r++)
        bits[r] = _mm256_loadu_si256((const void *)(rows->at[r] + offsetof(struct block_q5_k, qh)));
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            const uint32_t *scale = &scales->parts[j / 2][r][j % 2 * 2];
            __m256i bytes = _mm256_loadu_si256((const void *)(rows->at[r] + offsetof(struct block_q5_k, qs) + 32 * j));
            /* Move bits 2j and 2j + 1 to bit 4. */
            __m256i first = j < 2    ? _mm256_slli_epi16(bits[r], 4 - 2 * j)
                            : j == 2 ? bits[r]
                                     : _mm256_srli_epi16(bits[r], 2);
            __m256i second = j < 2 ? _mm256_slli_epi16(bits[r], 3 - 2 * j) : _mm256_srli_epi16(bits[r], 2 * j - 3);
            __m256i low = _mm256_and_si256(bytes, mask), high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
            low = _mm256_ternarylogic_epi64(first, sixteen, low, 0xea);
            high = _mm256_ternarylogic_epi64(second, sixteen, high, 0xea);
            sums[r] = k_part(sums[r], low, x_part(x, 2 * j), scale[0]);
            sums[r] = k_part(sums[r], high, x_part(x, 2 * j + 1), scale[1]);
        }
    }
}

typedef void k_parts(__m256i sums[4], const struct four_rows *rows, const struct k_scales *scales,
                     const struct super_activation *x);

/* Like super_gemv, but it unpacks the header of the next block while it multiplies the current one. The scales go
 * through memory, so that one instruction can broadcast each of them, and that takes time. */
static ALWAYS_INLINE void k_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                 const struct activation_row *x, size_t block_bytes, k_parts *parts)
{
    size_t blocks = columns / 256;
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        struct k_header next = k_header(&at, x->sums);
        struct k_scales scales[2] = {k_scales(next.scales)};
        for (size_t b = 0; b < blocks; b++) {
            struct four_rows now = at;
            struct k_header header = next;
            prefetch_more(&ahead, 4 * block_bytes);
            if (b + 1 < blocks) {
                four_rows_advance(&at, block_bytes);
                next = k_header(&at, x->sums + 16 * (b + 1));
                scales[(b + 1) % 2] = k_scales(next.scales);
            }
            struct super_activation block = super_activation(x, b);
            __m256i sums[4];
            for (int i = 0; i < 4; i++)
                sums[i] = _mm256_setzero_si256();
            parts(sums, &now, &scales[b % 2], &block);
            __m128i integer = sum_4_256(sums[0], sums[1], sums[2], sums[3]);
            __m128 scale = _mm_set1_ps(x->scales[b]);
            sum = _mm_fmadd_ps(_mm_mul_ps(header.d, scale), _mm_cvtepi32_ps(integer), sum);
            sum = _mm_fnmadd_ps(_mm_mul_ps(header.m, scale), _mm_cvtepi32_ps(header.minimum), sum);
        }
        store_4(out + r, sum, rows - r);
    }
}

static void gemv_q4_k(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                      const struct activation_row *x)
{
    k_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block_q4_k), q4_k_parts);
}

static void gemv_q5_k(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                      const struct activation_row *x)
{
    k_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block_q5_k), q5_k_parts);
}

/* ---- Q6_K -------------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE __m512i q6_k_row(const uint8_t *block, const struct super_activation *x)
{
    const __m512i mask4 = _mm512_set1_epi8(15), mask2 = _mm512_set1_epi8(48);
    const __m512i rotate0 = _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2);
    const __m512i rotate1 = _mm512_setr_epi64(0, 0, 0, 0, 62, 62, 62, 62);
    __m256i bytes = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(block + offsetof(struct block_q6_k, scales))));
    __m512i scales = _mm512_castsi256_si512(bytes);
    __m512i sum = _mm512_setzero_si512();
    for (int half = 0; half < 2; half++) {
        __m512i low = _mm512_loadu_si512(block + 64 * half);
        __m512i high = twice(block + offsetof(struct block_q6_k, qh) + 32 * half);
        __m512i a =
            _mm512_ternarylogic_epi64(_mm512_rolv_epi64(high, rotate0), mask2, _mm512_and_si512(low, mask4), 0xea);
        __m512i b = _mm512_ternarylogic_epi64(_mm512_rolv_epi64(high, rotate1), mask2,
                                              _mm512_and_si512(_mm512_srli_epi16(low, 4), mask4), 0xea);
        sum = _mm512_dpwssd_epi32(sum, _mm512_maddubs_epi16(a, x->quants[2 * half]), scale_16(scales, 2 * half));
        sum =
            _mm512_dpwssd_epi32(sum, _mm512_maddubs_epi16(b, x->quants[2 * half + 1]), scale_16(scales, 2 * half + 1));
    }
    /* Corrects for quants that are 32 too high. */
    __m256i offset = _mm256_slli_epi32(_mm256_madd_epi16(bytes, x->sums), 5);
    return _mm512_sub_epi32(sum, _mm512_zextsi256_si512(offset));
}

static ALWAYS_INLINE struct super_result q6_k_step(const struct four_rows *rows, const struct super_activation *x)
{
    __m512i sums[4];
    for (int r = 0; r < 4; r++)
        sums[r] = q6_k_row(rows->at[r], x);
    struct super_result result = {.integer = sum_4(sums[0], sums[1], sums[2], sums[3]),
                                  .d = four_halves(rows, offsetof(struct block_q6_k, d))};
    return result;
}

SUPER_GEMV(gemv_q6_k, block_q6_k, q6_k_step, false)

/* ---- Q2_K, Q3_K, TQ2_0 ------------------------------------------------------------------------------------------- */

/* Elements 64j to 64j + 63, of two bits each. */
static ALWAYS_INLINE __m512i two_bits_64(const uint8_t *qs, int j)
{
    int shift = 4 * (j % 2);
    const __m512i shifts = _mm512_setr_epi64(shift, shift, shift, shift, shift + 2, shift + 2, shift + 2, shift + 2);
    return _mm512_and_si512(_mm512_srlv_epi64(twice(qs + 32 * (j / 2)), shifts), _mm512_set1_epi8(3));
}

static ALWAYS_INLINE struct super_result q2_k_step(const struct four_rows *rows, const struct super_activation *x)
{
    __m512i sums[4];
    __m256i minima[4];
    for (int r = 0; r < 4; r++) {
        const uint8_t *block = rows->at[r];
        __m512i scales = _mm512_castsi256_si512(scales_q2_k(block));
        sums[r] = _mm512_setzero_si512();
        for (int j = 0; j < 4; j++) {
            __m512i pairs = _mm512_maddubs_epi16(two_bits_64(block + offsetof(struct block_q2_k, qs), j), x->quants[j]);
            sums[r] = _mm512_dpwssd_epi32(sums[r], pairs, scale_16(scales, j));
        }
        minima[r] = _mm256_madd_epi16(minima_q2_k(block), x->sums);
    }
    return (struct super_result){sum_4(sums[0], sums[1], sums[2], sums[3]),
                                 sum_4_256(minima[0], minima[1], minima[2], minima[3]), d_q2_k(rows), m_q2_k(rows)};
}

static ALWAYS_INLINE __m512i q3_k_row(const uint8_t *block, const struct super_activation *x)
{
    __m256i words = scales_q3_k(block);
    __m512i scales = _mm512_castsi256_si512(words), high = twice(block), sum = _mm512_setzero_si512();
    for (int j = 0; j < 4; j++) {
        /* Move bits 2j and 2j + 1 to bit 2. */
        long long first = (2 - 2 * j) & 63, second = (1 - 2 * j) & 63;
        const __m512i rotate = _mm512_setr_epi64(first, first, first, first, second, second, second, second);
        __m512i quants = _mm512_ternarylogic_epi64(_mm512_rolv_epi64(high, rotate), _mm512_set1_epi8(4),
                                                   two_bits_64(block + offsetof(struct block_q3_k, qs), j), 0xea);
        sum = _mm512_dpwssd_epi32(sum, _mm512_maddubs_epi16(quants, x->quants[j]), scale_16(scales, j));
    }
    /* Corrects for quants that are 4 too high. */
    return _mm512_sub_epi32(sum, _mm512_zextsi256_si512(_mm256_slli_epi32(_mm256_madd_epi16(words, x->sums), 2)));
}

/* There are no scales, and the quants are 1 too high. */
static ALWAYS_INLINE __m512i tq2_0_row(const uint8_t *block, const struct super_activation *x)
{
    __m512i sum = _mm512_zextsi256_si512(_mm256_madd_epi16(x->sums, _mm256_set1_epi16(-1)));
    for (int j = 0; j < 4; j++)
        sum = _mm512_dpbusd_epi32(sum, two_bits_64(block, j), x->quants[j]);
    return sum;
}

static ALWAYS_INLINE __m512i tq1_0_row(const uint8_t *block, const struct super_activation *x)
{
    const __m256i zero = _mm256_setzero_si256();
    __m512i sum = _mm512_zextsi256_si512(_mm256_madd_epi16(x->sums, _mm256_set1_epi16(-1)));
    for (int j = 0; j < 4; j++) {
        __m512i quants = _mm512_inserti64x4(_mm512_castsi256_si512(part_tq1_0(block, 2 * j, zero).magnitude),
                                            part_tq1_0(block, 2 * j + 1, zero).magnitude, 1);
        sum = _mm512_dpbusd_epi32(sum, quants, x->quants[j]);
    }
    return sum;
}

/* A step for types whose rows are processed separately. */
#define EACH_ROW_STEP(name, row, floats)                                                                               \
    static ALWAYS_INLINE struct super_result name(const struct four_rows *rows, const struct super_activation *x)      \
    {                                                                                                                  \
        struct super_result result = {                                                                                 \
            .integer = sum_4(row(rows->at[0], x), row(rows->at[1], x), row(rows->at[2], x), row(rows->at[3], x)),      \
            .d = floats(rows)};                                                                                        \
        return result;                                                                                                 \
    }

EACH_ROW_STEP(q3_k_step, q3_k_row, d_q3_k)
EACH_ROW_STEP(tq1_0_step, tq1_0_row, d_tq1_0)
EACH_ROW_STEP(tq2_0_step, tq2_0_row, d_tq2_0)

SUPER_GEMV(gemv_q2_k, block_q2_k, q2_k_step, true)
SUPER_GEMV(gemv_q3_k, block_q3_k, q3_k_step, false)
SUPER_GEMV(gemv_tq1_0, block_tq1_0, tq1_0_step, false)
SUPER_GEMV(gemv_tq2_0, block_tq2_0, tq2_0_step, false)

/* ---- IQ4_XS ------------------------------------------------------------------------------------------------------ */

/* The scales of four rows as 16-bit words, one row per lane. */
static ALWAYS_INLINE __m512i iq4_xs_scales(__m512i raw)
{
    /* Bytes 2-3 have the two high bits of each scale, bytes 4-7 the low half of each. */
    const __m512i low_at =
        _mm512_broadcast_i32x4(_mm_setr_epi8(4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7, -1));
    const __m512i high_at = _mm512_broadcast_i32x4(_mm_set1_epi16(0x0302));
    const __m512i low_shift = _mm512_set1_epi32(0x00040000);
    const __m512i high_shift = _mm512_broadcast_i32x4(_mm_setr_epi16(0, 2, 4, 6, 8, 10, 12, 14));
    __m512i low = _mm512_srlv_epi16(_mm512_shuffle_epi8(raw, low_at), low_shift);
    __m512i high = _mm512_srlv_epi16(_mm512_shuffle_epi8(raw, high_at), high_shift);
    high = _mm512_slli_epi16(_mm512_and_si512(high, _mm512_set1_epi16(3)), 4);
    low = _mm512_and_si512(low, _mm512_set1_epi16(15));
    return _mm512_sub_epi16(_mm512_or_si512(low, high), _mm512_set1_epi16(32));
}

/* The scales of parts 4 * group to 4 * group + 3, one per lane, from the 32-bit scales of two rows. */
static ALWAYS_INLINE __m512i iq4_xs_lanes(__m512i two_rows, int row, int group)
{
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_epi32(_mm512_add_epi32(index, _mm512_set1_epi32(8 * row + 4 * group)), two_rows);
}

static ALWAYS_INLINE struct super_result iq4_xs_step(const struct four_rows *rows, const struct super_activation *x)
{
    const __m512i mask = _mm512_set1_epi8(15);
    /* The codes are raised by 128; the start values of the sums correct for that. */
    const __m512i codebook =
        _mm512_broadcast_i32x4(_mm_xor_si128(load_128((const void *)codebook_iq4), _mm_set1_epi8(-128)));
    __m256i totals = _mm256_mullo_epi32(_mm256_madd_epi16(x->sums, _mm256_set1_epi16(1)), _mm256_set1_epi32(-128));
    __m512i start[2], low[2], high[2];
    for (int g = 0; g < 2; g++) {
        const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        start[g] = _mm512_maskz_permutexvar_epi32(0x1111, _mm512_add_epi32(index, _mm512_set1_epi32(4 * g)),
                                                  _mm512_castsi256_si512(totals));
        low[g] = even_lanes(x->quants[2 * g], x->quants[2 * g + 1]);
        high[g] = odd_lanes(x->quants[2 * g], x->quants[2 * g + 1]);
    }
    __m512i raw = _mm512_castsi128_si512(_mm_loadl_epi64((const void *)rows->at[0]));
    raw = _mm512_inserti32x4(raw, _mm_loadl_epi64((const void *)rows->at[1]), 1);
    raw = _mm512_inserti32x4(raw, _mm_loadl_epi64((const void *)rows->at[2]), 2);
    raw = _mm512_inserti32x4(raw, _mm_loadl_epi64((const void *)rows->at[3]), 3);
    __m512i words = iq4_xs_scales(raw);
    __m512i scales[2] = {_mm512_cvtepi16_epi32(_mm512_castsi512_si256(words)),
                         _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(words, 1))};
    __m512i sums[4];
    for (int r = 0; r < 4; r++) {
        sums[r] = _mm512_setzero_si512();
        for (int g = 0; g < 2; g++) {
            __m512i bytes = _mm512_loadu_si512(rows->at[r] + offsetof(struct block_iq4_xs, qs) + 64 * g);
            __m512i a = _mm512_shuffle_epi8(codebook, _mm512_and_si512(bytes, mask));
            __m512i b = _mm512_shuffle_epi8(codebook, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask));
            __m512i dot = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(start[g], a, low[g]), b, high[g]);
            dot = _mm512_mullo_epi32(dot, iq4_xs_lanes(scales[r / 2], r % 2, g));
            sums[r] = _mm512_add_epi32(sums[r], dot);
        }
    }
    struct super_result result = {.integer = sum_4(sums[0], sums[1], sums[2], sums[3]), .d = d_first(rows)};
    return result;
}

SUPER_GEMV(gemv_iq4_xs, block_iq4_xs, iq4_xs_step, false)

const struct kernel_table kernels_avx512_super = {
    .types[TENSOR_Q2_K] = {.gemv = gemv_q2_k},
    .types[TENSOR_Q3_K] = {.gemv = gemv_q3_k},
    .types[TENSOR_Q4_K] = {.gemv = gemv_q4_k},
    .types[TENSOR_Q5_K] = {.gemv = gemv_q5_k},
    .types[TENSOR_Q6_K] = {.gemv = gemv_q6_k},
    .types[TENSOR_IQ4_XS] = {.gemv = gemv_iq4_xs},
    .types[TENSOR_TQ1_0] = {.gemv = gemv_tq1_0},
    .types[TENSOR_TQ2_0] = {.gemv = gemv_tq2_0},
};
