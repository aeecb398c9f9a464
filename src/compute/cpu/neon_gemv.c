/* NEON with dot products: matrix times vector for all quantised types. It processes one block of four rows at a time.
 * The four integer sums end up in one register, so a block's float operations are done once for four rows. */
#include "compute/cpu/grids.h"
#include "compute/cpu/neon.h"
#include "compute/cpu/unpack.h"

/* Unpacks elements 32j to 32j + 31 of a block. */
typedef int8x16x2_t part_function(const uint8_t *block, int j);
/* Unpacks scales or minima: one word per 16 elements. */
typedef int16x8x2_t words_function(const uint8_t *block);
typedef float32x4_t floats_function(const struct four_rows *rows);

/* ---- parts ------------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE uint8x16_t bits_at(uint8x16_t bytes, int shift, int mask)
{
    return vandq_u8(vshlq_u8(bytes, vdupq_n_s8((int8_t)-shift)), vdupq_n_u8((uint8_t)mask));
}

static ALWAYS_INLINE uint8x16x2_t nibbles_16(const uint8_t *qs)
{
    uint8x16_t bytes = vld1q_u8(qs);
    return (uint8x16x2_t){{vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8(bytes, 4)}};
}

static ALWAYS_INLINE int8x16x2_t lowered(uint8x16x2_t quants, int offset)
{
    int8x16_t by = vdupq_n_s8((int8_t)offset);
    return (int8x16x2_t){
        {vsubq_s8(vreinterpretq_s8_u8(quants.val[0]), by), vsubq_s8(vreinterpretq_s8_u8(quants.val[1]), by)}};
}

static ALWAYS_INLINE int8x16x2_t part_q4_0(const uint8_t *block, int j)
{
    (void)j;
    return lowered(nibbles_16(block + 2), 8);
}

static ALWAYS_INLINE int8x16x2_t part_q4_1(const uint8_t *block, int j)
{
    (void)j;
    return lowered(nibbles_16(block + 4), 0);
}

static ALWAYS_INLINE int8x16x2_t part_q8_0(const uint8_t *block, int j)
{
    (void)j;
    return (int8x16x2_t){{vld1q_s8((const void *)(block + 2)), vld1q_s8((const void *)(block + 18))}};
}

/* 16 for each set bit of two bytes. */
static ALWAYS_INLINE uint8x16_t fifth_bits(const uint8_t *qh)
{
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t bytes = vcombine_u8(vdup_n_u8(qh[0]), vdup_n_u8(qh[1]));
    return vandq_u8(vtstq_u8(bytes, vld1q_u8(bits)), vdupq_n_u8(16));
}

static ALWAYS_INLINE uint8x16x2_t five_bits(const uint8_t *qh, const uint8_t *qs)
{
    uint8x16x2_t out = nibbles_16(qs);
    out.val[0] = vorrq_u8(out.val[0], fifth_bits(qh));
    out.val[1] = vorrq_u8(out.val[1], fifth_bits(qh + 2));
    return out;
}

static ALWAYS_INLINE int8x16x2_t part_q5_0(const uint8_t *block, int j)
{
    (void)j;
    return lowered(five_bits(block + 2, block + 6), 16);
}

static ALWAYS_INLINE int8x16x2_t part_q5_1(const uint8_t *block, int j)
{
    (void)j;
    return lowered(five_bits(block + 4, block + 8), 0);
}

static ALWAYS_INLINE int8x16x2_t codes_16(const uint8_t *qs, const int8_t *codebook)
{
    uint8x16x2_t index = nibbles_16(qs);
    int8x16_t values = vld1q_s8(codebook);
    return (int8x16x2_t){{vqtbl1q_s8(values, index.val[0]), vqtbl1q_s8(values, index.val[1])}};
}

static ALWAYS_INLINE int8x16x2_t part_iq4_nl(const uint8_t *block, int j)
{
    (void)j;
    return codes_16(block + 2, codebook_iq4);
}

static ALWAYS_INLINE int8x16x2_t part_mxfp4(const uint8_t *block, int j)
{
    (void)j;
    return codes_16(block + 1, codebook_e2m1);
}

static ALWAYS_INLINE int8x16x2_t part_iq4_xs(const uint8_t *block, int j)
{
    return codes_16(block + offsetof(struct block_iq4_xs, qs) + 16 * j, codebook_iq4);
}

static ALWAYS_INLINE uint8x16x2_t bits_32(const uint8_t *bytes, int shift, int mask)
{
    return (uint8x16x2_t){{bits_at(vld1q_u8(bytes), shift, mask), bits_at(vld1q_u8(bytes + 16), shift, mask)}};
}

static ALWAYS_INLINE uint8x16x2_t joined(uint8x16x2_t a, uint8x16x2_t b)
{
    return (uint8x16x2_t){{vorrq_u8(a.val[0], b.val[0]), vorrq_u8(a.val[1], b.val[1])}};
}

static ALWAYS_INLINE int8x16x2_t part_q2_k(const uint8_t *block, int j)
{
    const uint8_t *qs = block + offsetof(struct block_q2_k, qs) + 32 * (j / 4);
    return lowered(bits_32(qs, 2 * (j % 4), 3), 0);
}

static ALWAYS_INLINE int8x16x2_t part_q3_k(const uint8_t *block, int j)
{
    const uint8_t *qs = block + offsetof(struct block_q3_k, qs) + 32 * (j / 4);
    return lowered(joined(bits_32(qs, 2 * (j % 4), 3), bits_32(block, j - 2, 4)), 4);
}

static ALWAYS_INLINE int8x16x2_t part_q4_k(const uint8_t *block, int j)
{
    return lowered(bits_32(block + offsetof(struct block_q4_k, qs) + 32 * (j / 2), j % 2 * 4, 15), 0);
}

static ALWAYS_INLINE int8x16x2_t part_q5_k(const uint8_t *block, int j)
{
    uint8x16x2_t low = bits_32(block + offsetof(struct block_q5_k, qs) + 32 * (j / 2), j % 2 * 4, 15);
    return lowered(joined(low, bits_32(block + offsetof(struct block_q5_k, qh), j - 4, 16)), 0);
}

static ALWAYS_INLINE int8x16x2_t part_q6_k(const uint8_t *block, int j)
{
    int half = j / 4, p = j % 4;
    uint8x16x2_t low = bits_32(block + 64 * half + 32 * (p % 2), p / 2 * 4, 15);
    uint8x16x2_t high = bits_32(block + offsetof(struct block_q6_k, qh) + 32 * half, 2 * p - 4, 48);
    return lowered(joined(low, high), 32);
}

static ALWAYS_INLINE int8x16x2_t part_tq2_0(const uint8_t *block, int j)
{
    return lowered(bits_32(block + 32 * (j / 4), 2 * (j % 4), 3), 1);
}

/* ---- scales, minima ---------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE int16x8x2_t widen(uint8x16_t bytes)
{
    return (int16x8x2_t){
        {vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))), vreinterpretq_s16_u16(vmovl_high_u8(bytes))}};
}

static ALWAYS_INLINE int16x8x2_t each_twice(uint8x8_t bytes)
{
    int16x8_t words = vreinterpretq_s16_u16(vmovl_u8(bytes));
    return (int16x8x2_t){{vzip1q_s16(words, words), vzip2q_s16(words, words)}};
}

static ALWAYS_INLINE uint32_t load_32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

/* They are packed as 6 bits each in 12 bytes: see unpack.c. */
static ALWAYS_INLINE int16x8x2_t scales_k(const uint8_t *block)
{
    uint32_t first = load_32(block + 4), last = load_32(block + 12);
    uint64_t high = (last & 0x0f0f0f0fu) | (first >> 2 & 0x30303030u);
    return each_twice(vcreate_u8((first & 0x3f3f3f3fu) | high << 32));
}

static ALWAYS_INLINE int16x8x2_t minima_k(const uint8_t *block)
{
    uint32_t first = load_32(block + 8), last = load_32(block + 12);
    uint64_t high = (last >> 4 & 0x0f0f0f0fu) | (first >> 2 & 0x30303030u);
    return each_twice(vcreate_u8((first & 0x3f3f3f3fu) | high << 32));
}

static ALWAYS_INLINE int16x8x2_t scales_q2_k(const uint8_t *block)
{
    return widen(vandq_u8(vld1q_u8(block), vdupq_n_u8(15)));
}

static ALWAYS_INLINE int16x8x2_t minima_q2_k(const uint8_t *block)
{
    return widen(vshrq_n_u8(vld1q_u8(block), 4));
}

static ALWAYS_INLINE int16x8x2_t minus_32(int16x8x2_t scales)
{
    return (int16x8x2_t){{vsubq_s16(scales.val[0], vdupq_n_s16(32)), vsubq_s16(scales.val[1], vdupq_n_s16(32))}};
}

static ALWAYS_INLINE int16x8x2_t scales_q3_k(const uint8_t *block)
{
    static const int8_t shifts[16] = {0, 0, 0, 0, -2, -2, -2, -2, -4, -4, -4, -4, -6, -6, -6, -6};
    const uint8_t *packed = block + offsetof(struct block_q3_k, scales);
    uint8x8_t bytes = vld1_u8(packed);
    uint8x16_t low = vcombine_u8(vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8(bytes, 4));
    uint8x16_t high = vshlq_u8(vreinterpretq_u8_u32(vdupq_n_u32(load_32(packed + 8))), vld1q_s8(shifts));
    high = vshlq_n_u8(vandq_u8(high, vdupq_n_u8(3)), 4);
    return minus_32(widen(vorrq_u8(low, high)));
}

static ALWAYS_INLINE int16x8x2_t scales_q6_k(const uint8_t *block)
{
    int8x16_t bytes = vld1q_s8((const void *)(block + offsetof(struct block_q6_k, scales)));
    return (int16x8x2_t){{vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes)}};
}

static ALWAYS_INLINE int16x8x2_t scales_iq4_xs(const uint8_t *block)
{
    static const int16_t shifts[8] = {0, -2, -4, -6, -8, -10, -12, -14};
    uint16_t top;
    memcpy(&top, block + 2, sizeof top);
    uint16x8_t high = vandq_u16(vshlq_u16(vdupq_n_u16(top), vld1q_s16(shifts)), vdupq_n_u16(3));
    uint8x8_t bytes = vcreate_u8(load_32(block + 4));
    uint8x8_t low = vzip1_u8(vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8(bytes, 4));
    return minus_32(each_twice(vorr_u8(low, vmovn_u16(vshlq_n_u16(high, 4)))));
}

static ALWAYS_INLINE int16x8x2_t scales_one(const uint8_t *block)
{
    (void)block;
    return (int16x8x2_t){{vdupq_n_s16(1), vdupq_n_s16(1)}};
}

static ALWAYS_INLINE float32x4_t d_first(const struct four_rows *rows)
{
    return four_halves(rows, 0);
}

static ALWAYS_INLINE float32x4_t m_second(const struct four_rows *rows)
{
    return four_halves(rows, 2);
}

static ALWAYS_INLINE float32x4_t d_q2_k(const struct four_rows *rows)
{
    return four_halves(rows, offsetof(struct block_q2_k, d));
}

static ALWAYS_INLINE float32x4_t m_q2_k(const struct four_rows *rows)
{
    return four_halves(rows, offsetof(struct block_q2_k, dmin));
}

static ALWAYS_INLINE float32x4_t d_q3_k(const struct four_rows *rows)
{
    return four_halves(rows, offsetof(struct block_q3_k, d));
}

static ALWAYS_INLINE float32x4_t d_q6_k(const struct four_rows *rows)
{
    return four_halves(rows, offsetof(struct block_q6_k, d));
}

static ALWAYS_INLINE float32x4_t d_tq2_0(const struct four_rows *rows)
{
    return four_halves(rows, offsetof(struct block_tq2_0, d));
}

/* 2^(e - 128); the two smallest values are subnormal. */
static ALWAYS_INLINE float32x4_t d_mxfp4(const struct four_rows *rows)
{
    uint32_t bits[4];
    for (int i = 0; i < 4; i++) {
        uint32_t e = rows->at[i][0];
        bits[i] = e < 2 ? 0x00200000u << e : (e - 1) << 23;
    }
    return vreinterpretq_f32_u32(vld1q_u32(bits));
}

/* ---- super-blocks of 256 ----------------------------------------------------------------------------------------- */

static ALWAYS_INLINE int32x4_t add_part(int32x4_t sum, int8x16x2_t quants, const int8_t *x, const int32_t *scales)
{
    int32x4_t first = vdotq_s32(vdupq_n_s32(0), quants.val[0], vld1q_s8(x));
    int32x4_t second = vdotq_s32(vdupq_n_s32(0), quants.val[1], vld1q_s8(x + 16));
    return vmlaq_n_s32(vmlaq_n_s32(sum, first, scales[0]), second, scales[1]);
}

static ALWAYS_INLINE int32x4_t super_dot(const uint8_t *block, const int8_t *x, part_function *part,
                                         words_function *scales)
{
    int16x8x2_t words = scales(block);
    int32_t scale[16];
    for (int i = 0; i < 2; i++) {
        vst1q_s32(scale + 8 * i, vmovl_s16(vget_low_s16(words.val[i])));
        vst1q_s32(scale + 8 * i + 4, vmovl_high_s16(words.val[i]));
    }
    int32x4_t sum = vdupq_n_s32(0);
    for (int j = 0; j < 8; j++)
        sum = add_part(sum, part(block, j), x + 32 * j, scale + 2 * j);
    return sum;
}

static ALWAYS_INLINE int32x4_t minima_dot(int16x8x2_t minima, const int16_t *sums)
{
    int32x4_t sum = vdupq_n_s32(0);
    for (int i = 0; i < 2; i++) {
        int16x8_t totals = vld1q_s16(sums + 8 * i);
        sum = vmlal_s16(sum, vget_low_s16(minima.val[i]), vget_low_s16(totals));
        sum = vmlal_high_s16(sum, minima.val[i], totals);
    }
    return sum;
}

static ALWAYS_INLINE void super_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                     const struct activation_row *x, size_t block_bytes, part_function *part,
                                     words_function *scales, floats_function *d, words_function *minima,
                                     floats_function *m)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        float32x4_t sum = vdupq_n_f32(0);
        for (size_t b = 0; b < columns / 256; b++) {
            prefetch_more(&ahead, 4 * block_bytes);
            int32x4_t dots[4];
            for (int i = 0; i < 4; i++)
                dots[i] = super_dot(at.at[i], x->quants + 256 * b, part, scales);
            sum = vfmaq_f32(sum, vmulq_n_f32(d(&at), x->scales[b]), vcvtq_f32_s32(sum_4(dots)));
            if (minima) {
                for (int i = 0; i < 4; i++)
                    dots[i] = minima_dot(minima(at.at[i]), x->sums + 16 * b);
                sum = vfmsq_f32(sum, vmulq_n_f32(m(&at), x->scales[b]), vcvtq_f32_s32(sum_4(dots)));
            }
            four_rows_advance(&at, block_bytes);
        }
        store_4(out + r, sum, rows - r);
    }
}

#define SUPER_GEMV(name, part, scales, d, minima, m)                                                                   \
    static void gemv_##name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,         \
                            const struct activation_row *x)                                                            \
    {                                                                                                                  \
        super_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block_##name), part, scales, d, minima,    \
                   m);                                                                                                 \
    }

SUPER_GEMV(q2_k, part_q2_k, scales_q2_k, d_q2_k, minima_q2_k, m_q2_k)
SUPER_GEMV(q3_k, part_q3_k, scales_q3_k, d_q3_k, NULL, NULL)
SUPER_GEMV(q4_k, part_q4_k, scales_k, d_first, minima_k, m_second)
SUPER_GEMV(q5_k, part_q5_k, scales_k, d_first, minima_k, m_second)
SUPER_GEMV(q6_k, part_q6_k, scales_q6_k, d_q6_k, NULL, NULL)
SUPER_GEMV(iq4_xs, part_iq4_xs, scales_iq4_xs, d_first, NULL, NULL)
SUPER_GEMV(tq2_0, part_tq2_0, scales_one, d_tq2_0, NULL, NULL)

/* For types that are rare on Arm: plain C unpacks them. None of them has minima. */
static void unpacked_gemv(const struct unpacker *unpacker, float *out, const uint8_t *weights, size_t row_bytes,
                          size_t rows, size_t columns, const struct activation_row *x)
{
    struct unpacked block;
    for (size_t r = 0; r < rows; r++) {
        float sum = 0;
        for (size_t b = 0; b < columns / 256; b++) {
            unpacker->unpack(&block, weights + r * row_bytes + b * unpacker->bytes);
            int32x4_t dot = vdupq_n_s32(0);
            for (int j = 0; j < 8; j++) {
                int8x16x2_t quants = {{vld1q_s8(block.quants + 32 * j), vld1q_s8(block.quants + 32 * j + 16)}};
                int32_t scales[2] = {block.scales[2 * j], block.scales[2 * j + 1]};
                dot = add_part(dot, quants, x->quants + 256 * b + 32 * j, scales);
            }
            sum = __builtin_fmaf(block.d * x->scales[b], (float)vaddvq_s32(dot), sum);
        }
        out[r] = sum;
    }
}

#define UNPACKED_GEMV(name, type)                                                                                      \
    static void gemv_##name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,         \
                            const struct activation_row *x)                                                            \
    {                                                                                                                  \
        unpacked_gemv(unpacker_find(type), out, weights, row_bytes, rows, columns, x);                                 \
    }

UNPACKED_GEMV(iq1_s, TENSOR_IQ1_S)
UNPACKED_GEMV(iq1_m, TENSOR_IQ1_M)
UNPACKED_GEMV(iq2_xxs, TENSOR_IQ2_XXS)
UNPACKED_GEMV(iq2_xs, TENSOR_IQ2_XS)
UNPACKED_GEMV(iq2_s, TENSOR_IQ2_S)
UNPACKED_GEMV(iq3_xxs, TENSOR_IQ3_XXS)
UNPACKED_GEMV(iq3_s, TENSOR_IQ3_S)
UNPACKED_GEMV(tq1_0, TENSOR_TQ1_0)

/* ---- blocks of 32 ------------------------------------------------------------------------------------------------ */

static ALWAYS_INLINE void blocks_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                      const struct activation_row *x, size_t block_bytes, part_function *part,
                                      floats_function *d, floats_function *m)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        float32x4_t sum = vdupq_n_f32(0);
        for (size_t b = 0; b < columns / 32; b++) {
            prefetch_more(&ahead, 4 * block_bytes);
            int8x16_t low = vld1q_s8(x->quants + 32 * b), high = vld1q_s8(x->quants + 32 * b + 16);
            int32x4_t dots[4];
            for (int i = 0; i < 4; i++) {
                int8x16x2_t quants = part(at.at[i], 0);
                dots[i] = vdotq_s32(vdotq_s32(vdupq_n_s32(0), quants.val[0], low), quants.val[1], high);
            }
            sum = vfmaq_f32(sum, vmulq_n_f32(d(&at), x->scales[b]), vcvtq_f32_s32(sum_4(dots)));
            if (m)
                sum = vfmaq_f32(sum, vmulq_n_f32(m(&at), x->scales[b]), vdupq_n_f32(x->sums[b]));
            four_rows_advance(&at, block_bytes);
        }
        store_4(out + r, sum, rows - r);
    }
}

#define BLOCKS_GEMV(name, part, d, m)                                                                                  \
    static void gemv_##name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,         \
                            const struct activation_row *x)                                                            \
    {                                                                                                                  \
        blocks_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block_##name), part, d, m);               \
    }

BLOCKS_GEMV(q4_0, part_q4_0, d_first, NULL)
BLOCKS_GEMV(q4_1, part_q4_1, d_first, m_second)
BLOCKS_GEMV(q5_0, part_q5_0, d_first, NULL)
BLOCKS_GEMV(q5_1, part_q5_1, d_first, m_second)
BLOCKS_GEMV(q8_0, part_q8_0, d_first, NULL)
BLOCKS_GEMV(iq4_nl, part_iq4_nl, d_first, NULL)
BLOCKS_GEMV(mxfp4, part_mxfp4, d_mxfp4, NULL)

/* ---- NVFP4 ------------------------------------------------------------------------------------------------------- */

/* Adds part j of a block's four parts to the sums of four rows. */
static ALWAYS_INLINE float32x4_t nvfp4_part(float32x4_t sum, const struct four_rows *rows, int j, int8x16_t x,
                                            float scale)
{
    const int8x16_t codebook = vld1q_s8(codebook_e2m1);
    int32x4_t dots[4];
    float d[4];
    for (int i = 0; i < 4; i++) {
        uint8x8_t bytes = vld1_u8(rows->at[i] + offsetof(struct block_nvfp4, qs) + 8 * j);
        uint8x16_t index = vcombine_u8(vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8(bytes, 4));
        dots[i] = vdotq_s32(vdupq_n_s32(0), vqtbl1q_s8(codebook, index), x);
        d[i] = scales_ue4m3[rows->at[i][j]];
    }
    return vfmaq_f32(sum, vmulq_n_f32(vld1q_f32(d), scale), vcvtq_f32_s32(sum_4(dots)));
}

static void gemv_nvfp4(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                       const struct activation_row *x)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        float32x4_t sum = vdupq_n_f32(0);
        for (size_t b = 0; b < columns / 64; b++) {
            prefetch_more(&ahead, 4 * sizeof(struct block_nvfp4));
            for (int j = 0; j < 4; j++)
                sum = nvfp4_part(sum, &at, j, vld1q_s8(x->quants + 64 * b + 16 * j), x->scales[2 * b + (size_t)j / 2]);
            four_rows_advance(&at, sizeof(struct block_nvfp4));
        }
        store_4(out + r, sum, rows - r);
    }
}

const struct kernel_table kernels_neon_quantized = {
    .types[TENSOR_Q4_0] = {.gemv = gemv_q4_0},
    .types[TENSOR_Q4_1] = {.gemv = gemv_q4_1},
    .types[TENSOR_Q5_0] = {.gemv = gemv_q5_0},
    .types[TENSOR_Q5_1] = {.gemv = gemv_q5_1},
    .types[TENSOR_Q8_0] = {.gemv = gemv_q8_0},
    .types[TENSOR_IQ4_NL] = {.gemv = gemv_iq4_nl},
    .types[TENSOR_MXFP4] = {.gemv = gemv_mxfp4},
    .types[TENSOR_NVFP4] = {.gemv = gemv_nvfp4},
    .types[TENSOR_Q2_K] = {.gemv = gemv_q2_k},
    .types[TENSOR_Q3_K] = {.gemv = gemv_q3_k},
    .types[TENSOR_Q4_K] = {.gemv = gemv_q4_k},
    .types[TENSOR_Q5_K] = {.gemv = gemv_q5_k},
    .types[TENSOR_Q6_K] = {.gemv = gemv_q6_k},
    .types[TENSOR_IQ1_S] = {.gemv = gemv_iq1_s},
    .types[TENSOR_IQ1_M] = {.gemv = gemv_iq1_m},
    .types[TENSOR_IQ2_XXS] = {.gemv = gemv_iq2_xxs},
    .types[TENSOR_IQ2_XS] = {.gemv = gemv_iq2_xs},
    .types[TENSOR_IQ2_S] = {.gemv = gemv_iq2_s},
    .types[TENSOR_IQ3_XXS] = {.gemv = gemv_iq3_xxs},
    .types[TENSOR_IQ3_S] = {.gemv = gemv_iq3_s},
    .types[TENSOR_IQ4_XS] = {.gemv = gemv_iq4_xs},
    .types[TENSOR_TQ1_0] = {.gemv = gemv_tq1_0},
    .types[TENSOR_TQ2_0] = {.gemv = gemv_tq2_0},
};
