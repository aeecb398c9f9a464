/* AVX-512 with VNNI: matrix times vector for super-blocks of 256.
 *
 * Four rows at a time: the integers of their blocks end up side by side in one register, so that a block's float work
 * is done once for four rows. Inside a block, bytes are multiplied to sums of 16 bits (which cannot overflow: quants
 * have at most 6 bits) and those by their 16-bit scales into 32-bit sums. */
#include "compute/cpu/avx2_parts.h"
#include "compute/cpu/avx512.h"

struct super_activation {
    __m512i quants[4];
    __m256i sums; /* of 16 */
};

static ALWAYS_INLINE struct super_activation super_activation(const struct activation_row *x, size_t block)
{
    struct super_activation out;
    for (int i = 0; i < 4; i++)
        out.quants[i] = _mm512_loadu_si512(x->quants + 256 * block + 64 * i);
    out.sums = _mm256_loadu_si256((const void *)(x->sums + 16 * block));
    return out;
}

/* What a step computes for four rows of one block. */
struct super_result {
    __m128i integer, minimum;
    __m128 d, m;
};

typedef struct super_result super_step(const struct four_rows *rows, const struct super_activation *x);

static ALWAYS_INLINE void super_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                     const struct activation_row *x, size_t block_bytes, super_step *step, bool minima)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows);
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
            for (int i = 0; i < 4; i++)
                at.at[i] += block_bytes;
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

/* ---- Q4_K, Q5_K ---------------------------------------------------------------------------------------------------
 */

/* Both start with the same 16 bytes: d, dmin and 6-bit scales and minima. They are unpacked for four blocks of four
 * rows at once, block b of a row in 128-bit lane b, while the four blocks before are multiplied. */
#define K_GROUP 4

struct k_headers {
    __m512i scales[4]; /* [row]: eight words a lane */
    __m512 d, m;       /* times x's scale; in lane b the rows side by side, as in what follows */
    __m512 minimum;
};

/* The sums of the parts of blocks: eight 16-bit words, block b in lane b; of the first valid ones. */
static ALWAYS_INLINE __m512i k_part_sums(const int16_t *x_sums, size_t valid)
{
    const __m512i ones = _mm512_set1_epi16(1);
    __m512i a, b = _mm512_setzero_si512();
    if (valid >= K_GROUP) {
        a = _mm512_loadu_si512(x_sums);
        b = _mm512_loadu_si512(x_sums + 32);
    } else {
        a = _mm512_maskz_loadu_epi16(valid >= 2 ? (__mmask32)-1 : 0xffff, x_sums);
        if (valid == 3)
            b = _mm512_maskz_loadu_epi16(0xffff, x_sums + 32);
    }
    a = _mm512_madd_epi16(a, ones);
    b = _mm512_madd_epi16(b, ones);
    return _mm512_packs_epi32(even_lanes(a, b), odd_lanes(a, b));
}

/* The headers of a row's blocks; past the valid ones, of the last. */
static ALWAYS_INLINE __m512i k_raw(const uint8_t *blocks, size_t block_bytes, size_t valid)
{
    __m512i raw = _mm512_castsi128_si512(load_128(blocks));
    raw = _mm512_inserti32x4(raw, load_128(blocks + MIN(valid - 1, (size_t)1) * block_bytes), 1);
    raw = _mm512_inserti32x4(raw, load_128(blocks + MIN(valid - 1, (size_t)2) * block_bytes), 2);
    return _mm512_inserti32x4(raw, load_128(blocks + (valid - 1) * block_bytes), 3);
}

/* Eight scales, then eight minima, a lane. */
static ALWAYS_INLINE __m512i k_bytes(__m512i raw)
{
    /* 32-bit words of a lane: d and dmin; scales 0-3; minima 0-3 (each with 2 high bits of 4-7 on top); low halves of
     * scales and minima 4-7. */
    __m512i low = _mm512_srlv_epi32(_mm512_shuffle_epi32(raw, (_MM_PERM_ENUM)_MM_SHUFFLE(3, 2, 3, 1)),
                                    _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 0, 4)));
    low = _mm512_and_si512(low, _mm512_broadcast_i32x4(_mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f)));
    __m512i top = _mm512_srli_epi32(_mm512_shuffle_epi32(raw, (_MM_PERM_ENUM)_MM_SHUFFLE(2, 2, 1, 1)), 2);
    const __m512i top_bits = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x30303030, 0, 0x30303030));
    return _mm512_ternarylogic_epi32(top, top_bits, low, 0xea);
}

static ALWAYS_INLINE struct k_headers k_headers(const struct four_rows *rows, size_t block_bytes,
                                                const struct activation_row *x, size_t block, size_t valid)
{
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i zero = _mm512_setzero_si512();
    struct k_headers out;
    __m512i raw[4], minima[4], sums = k_part_sums(x->sums + 16 * block, valid);
    for (int r = 0; r < 4; r++) {
        raw[r] = k_raw(rows->at[r], block_bytes, valid);
        __m512i bytes = k_bytes(raw[r]);
        out.scales[r] = _mm512_unpacklo_epi8(bytes, zero);
        minima[r] = _mm512_madd_epi16(_mm512_unpackhi_epi8(bytes, zero), sums);
    }
    const float *x_scales = x->scales + block;
    __m128 four =
        valid >= K_GROUP ? _mm_loadu_ps(x_scales) : _mm_maskz_loadu_ps((__mmask8)((1u << valid) - 1), x_scales);
    __m512 scale = _mm512_permutexvar_ps(index, _mm512_castps128_ps512(four));
    __m512i both = _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(raw[0], raw[1]), _mm512_unpacklo_epi32(raw[2], raw[3]));
    out.d = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(both)), scale);
    out.m = _mm512_mul_ps(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16))), scale);
    out.minimum = _mm512_cvtepi32_ps(sum_lanes_4(minima[0], minima[1], minima[2], minima[3]));
    return out;
}

/* 64 bytes of quants hold parts 4g and 4g + 2 in their low halves, 4g + 1 and 4g + 3 in the high ones. What x has for
 * those. */
struct k_operand {
    __m512i low[2], high[2];
};

static ALWAYS_INLINE struct k_operand k_operand(const int8_t *x)
{
    struct k_operand out;
    for (int g = 0; g < 2; g++) {
        __m512i a = _mm512_loadu_si512(x + 128 * g), b = _mm512_loadu_si512(x + 128 * g + 64);
        out.low[g] = _mm512_shuffle_i64x2(a, b, _MM_SHUFFLE(1, 0, 1, 0));
        out.high[g] = _mm512_shuffle_i64x2(a, b, _MM_SHUFFLE(3, 2, 3, 2));
    }
    return out;
}

/* Four parts onto a row's sum: products of four in 32 bits, made 16 (they fit), times the scale of their part. */
static ALWAYS_INLINE __m512i k_parts(__m512i sum, __m512i low, __m512i high, const struct k_operand *x, int g,
                                     __m512i scales)
{
    const __m512i zero = _mm512_setzero_si512();
    low = _mm512_dpbusd_epi32(zero, low, x->low[g]);
    high = _mm512_dpbusd_epi32(zero, high, x->high[g]);
    return _mm512_dpwssd_epi32(sum, _mm512_packs_epi32(low, high), scales);
}

typedef void k_quants(const uint8_t *block, int g, __m512i *low, __m512i *high);

static ALWAYS_INLINE void q4_k_quants(const uint8_t *block, int g, __m512i *low, __m512i *high)
{
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i bytes = _mm512_loadu_si512(block + offsetof(struct block_q4_k, qs) + 64 * g);
    *low = _mm512_and_si512(bytes, mask);
    *high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
}

/* The fifth bit of part p is bit p, and comes to bit 4. */
static ALWAYS_INLINE void q5_k_quants(const uint8_t *block, int g, __m512i *low, __m512i *high)
{
    const __m512i mask = _mm512_set1_epi8(15), sixteen = _mm512_set1_epi8(16);
    const long long at = 4 - 4 * g;
    const __m512i low_rotate =
        _mm512_setr_epi64(at, at, at, at, (at - 2) & 63, (at - 2) & 63, (at - 2) & 63, (at - 2) & 63);
    const __m512i high_rotate = _mm512_setr_epi64((at - 1) & 63, (at - 1) & 63, (at - 1) & 63, (at - 1) & 63,
                                                  (at - 3) & 63, (at - 3) & 63, (at - 3) & 63, (at - 3) & 63);
    __m512i bits = twice(block + offsetof(struct block_q5_k, qh));
    __m512i bytes = _mm512_loadu_si512(block + offsetof(struct block_q5_k, qs) + 64 * g);
    *low = _mm512_ternarylogic_epi64(_mm512_rolv_epi64(bits, low_rotate), sixteen, _mm512_and_si512(bytes, mask), 0xea);
    *high = _mm512_ternarylogic_epi64(_mm512_rolv_epi64(bits, high_rotate), sixteen,
                                      _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask), 0xea);
}

/* Block b of the group, and what the headers have for it. */
static ALWAYS_INLINE __m128 k_block(__m128 sum, const struct four_rows *rows, const __m512i scales[4], int b, __m128 d,
                                    __m128 m, __m128 minimum, const int8_t *x, k_quants *quants)
{
    const __m512i first = _mm512_setr_epi64(0, 0x0001000100010001, 0, 0x0001000100010001, 0x0002000200020002,
                                            0x0003000300030003, 0x0002000200020002, 0x0003000300030003);
    struct k_operand operand = k_operand(x);
    __m512i sums[4];
    for (int r = 0; r < 4; r++)
        sums[r] = _mm512_setzero_si512();
#pragma GCC unroll 2
    for (int g = 0; g < 2; g++) {
        __m512i index = _mm512_add_epi16(first, _mm512_set1_epi16((short)(8 * b + 4 * g)));
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            __m512i low, high;
            quants(rows->at[r], g, &low, &high);
            sums[r] = k_parts(sums[r], low, high, &operand, g, _mm512_permutexvar_epi16(index, scales[r]));
        }
    }
    __m128 integer = _mm_cvtepi32_ps(sum_4(sums[0], sums[1], sums[2], sums[3]));
    return _mm_fnmadd_ps(m, minimum, _mm_fmadd_ps(d, integer, sum));
}

static ALWAYS_INLINE void k_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                 const struct activation_row *x, size_t block_bytes, k_quants *quants)
{
    size_t blocks = columns / 256;
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        struct k_headers next = k_headers(&at, block_bytes, x, 0, MIN(blocks, (size_t)K_GROUP));
        for (size_t b = 0; b < blocks; b += K_GROUP) {
            struct k_headers headers = next;
            size_t valid = MIN(blocks - b, (size_t)K_GROUP);
            if (b + K_GROUP < blocks) {
                struct four_rows later = at;
                for (int i = 0; i < 4; i++)
                    later.at[i] += K_GROUP * block_bytes;
                next = k_headers(&later, block_bytes, x, b + K_GROUP, MIN(blocks - b - K_GROUP, (size_t)K_GROUP));
            }
#define BLOCK(i)                                                                                                       \
    if (valid > (i)) {                                                                                                 \
        prefetch_more(&ahead, 4 * block_bytes);                                                                        \
        sum = k_block(sum, &at, headers.scales, i, _mm512_extractf32x4_ps(headers.d, i),                               \
                      _mm512_extractf32x4_ps(headers.m, i), _mm512_extractf32x4_ps(headers.minimum, i),                \
                      x->quants + 256 * (b + (i)), quants);                                                            \
        for (int k = 0; k < 4; k++)                                                                                    \
            at.at[k] += block_bytes;                                                                                   \
    }
            BLOCK(0)
            BLOCK(1)
            BLOCK(2)
            BLOCK(3)
#undef BLOCK
        }
        store_4(out + r, sum, rows - r);
    }
}

static void gemv_q4_k(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                      const struct activation_row *x)
{
    k_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block_q4_k), q4_k_quants);
}

static void gemv_q5_k(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                      const struct activation_row *x)
{
    k_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block_q5_k), q5_k_quants);
}

/* ---- Q6_K ---------------------------------------------------------------------------------------------------------
 */

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
    /* The quants are 32 too high. */
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

/* ---- Q2_K, Q3_K, TQ2_0 --------------------------------------------------------------------------------------------
 */

/* Elements 64j to 64j + 63 of two bits each. */
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
        /* Bits 2j and 2j + 1 come to bit 2. */
        long long first = (2 - 2 * j) & 63, second = (1 - 2 * j) & 63;
        const __m512i rotate = _mm512_setr_epi64(first, first, first, first, second, second, second, second);
        __m512i quants = _mm512_ternarylogic_epi64(_mm512_rolv_epi64(high, rotate), _mm512_set1_epi8(4),
                                                   two_bits_64(block + offsetof(struct block_q3_k, qs), j), 0xea);
        sum = _mm512_dpwssd_epi32(sum, _mm512_maddubs_epi16(quants, x->quants[j]), scale_16(scales, j));
    }
    /* The quants are 4 too high. */
    return _mm512_sub_epi32(sum, _mm512_zextsi256_si512(_mm256_slli_epi32(_mm256_madd_epi16(words, x->sums), 2)));
}

/* Without scales, and 1 too high. */
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

/* A step of rows that share nothing but the activation. */
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

/* ---- IQ4_XS -------------------------------------------------------------------------------------------------------
 */

/* Scales of four rows, a row a lane, as sixteen-bit words. */
static ALWAYS_INLINE __m512i iq4_xs_scales(__m512i raw)
{
    /* Bytes 2-3 have two high bits of each, bytes 4-7 a low half of each. */
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

/* Scales of parts 4 * group to 4 * group + 3, each in one lane, from the 32-bit scales of two rows. */
static ALWAYS_INLINE __m512i iq4_xs_lanes(__m512i two_rows, int row, int group)
{
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_epi32(_mm512_add_epi32(index, _mm512_set1_epi32(8 * row + 4 * group)), two_rows);
}

static ALWAYS_INLINE struct super_result iq4_xs_step(const struct four_rows *rows, const struct super_activation *x)
{
    const __m512i mask = _mm512_set1_epi8(15);
    /* Raised by 128, which what the sums start from takes back. */
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

void kernels_avx512_super(struct kernel_table *table)
{
    table->types[TENSOR_Q2_K].gemv = gemv_q2_k;
    table->types[TENSOR_Q3_K].gemv = gemv_q3_k;
    table->types[TENSOR_Q4_K].gemv = gemv_q4_k;
    table->types[TENSOR_Q5_K].gemv = gemv_q5_k;
    table->types[TENSOR_Q6_K].gemv = gemv_q6_k;
    table->types[TENSOR_IQ4_XS].gemv = gemv_iq4_xs;
    table->types[TENSOR_TQ1_0].gemv = gemv_tq1_0;
    table->types[TENSOR_TQ2_0].gemv = gemv_tq2_0;
}
