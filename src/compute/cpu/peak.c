/* Measures how fast the processor can multiply at most: loops of only the instructions that the kernels use most, with
 * enough independent sums to keep all units busy. Built for each instruction set. */
#include "compute/cpu/kernels.h"

#define SUMS 16
#define STEPS 256

static volatile float sink_float;

#if defined(__AVX512VNNI__) && !defined(__AVX512BF16__)
#include <immintrin.h>

static uint64_t peak_bytes(void)
{
    __m512i sums[SUMS], a = _mm512_set1_epi32((int)(uintptr_t)&sink_float), b = _mm512_set1_epi8(3);
    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm512_set1_epi32(i);
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
    for (int i = 1; i < SUMS; i++)
        sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    sink_float = (float)_mm512_reduce_add_epi32(sums[0]);
    return (uint64_t)STEPS * SUMS * 128;
}

static uint64_t peak_floats(void)
{
    __m512 sums[SUMS], a = _mm512_set1_ps(sink_float), b = _mm512_set1_ps(0.5f);
    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm512_set1_ps((float)i);
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm512_fmadd_ps(a, b, sums[i]);
    for (int i = 1; i < SUMS; i++)
        sums[0] = _mm512_add_ps(sums[0], sums[i]);
    sink_float = _mm512_reduce_add_ps(sums[0]);
    return (uint64_t)STEPS * SUMS * 32;
}

const struct kernel_table kernels_peak_avx512 = {.peak_bytes = peak_bytes, .peak_floats = peak_floats};

#elif defined(__AVX512BF16__)
#include <immintrin.h>

static uint64_t peak_bfloats(void)
{
    __m512 sums[SUMS];
    __m512bh a = (__m512bh)_mm512_set1_epi16((short)(uintptr_t)&sink_float), b = (__m512bh)_mm512_set1_epi16(0x3f00);
    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm512_set1_ps((float)i);
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
    for (int i = 1; i < SUMS; i++)
        sums[0] = _mm512_add_ps(sums[0], sums[i]);
    sink_float = _mm512_reduce_add_ps(sums[0]);
    return (uint64_t)STEPS * SUMS * 64;
}

const struct kernel_table kernels_peak_bf16 = {.peak_bfloats = peak_bfloats};

#elif defined(__AVXVNNI__)
#include <immintrin.h>

#define FEW_SUMS 12

static uint64_t peak_bytes(void)
{
    __m256i sums[FEW_SUMS], a = _mm256_set1_epi32((int)(uintptr_t)&sink_float), b = _mm256_set1_epi8(3);
    for (int i = 0; i < FEW_SUMS; i++)
        sums[i] = _mm256_set1_epi32(i);
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < FEW_SUMS; i++)
            sums[i] = _mm256_dpbusd_avx_epi32(sums[i], a, b);
    for (int i = 1; i < FEW_SUMS; i++)
        sums[0] = _mm256_add_epi32(sums[0], sums[i]);
    sink_float = (float)_mm256_extract_epi32(sums[0], 0);
    return (uint64_t)STEPS * FEW_SUMS * 64;
}

const struct kernel_table kernels_peak_avx_vnni = {.peak_bytes = peak_bytes};

#elif defined(__AVX2__)
#include <immintrin.h>

#define FEW_SUMS 12

static uint64_t peak_bytes(void)
{
    __m256i sums[FEW_SUMS], a = _mm256_set1_epi8((char)(uintptr_t)&sink_float), ones = _mm256_set1_epi16(1);
    for (int i = 0; i < FEW_SUMS; i++)
        sums[i] = _mm256_set1_epi32(i);
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < FEW_SUMS; i++)
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, sums[i]), ones));
    for (int i = 1; i < FEW_SUMS; i++)
        sums[0] = _mm256_add_epi32(sums[0], sums[i]);
    sink_float = (float)_mm256_extract_epi32(sums[0], 0);
    return (uint64_t)STEPS * FEW_SUMS * 64;
}

static uint64_t peak_floats(void)
{
    __m256 sums[FEW_SUMS], a = _mm256_set1_ps(sink_float), b = _mm256_set1_ps(0.5f);
    for (int i = 0; i < FEW_SUMS; i++)
        sums[i] = _mm256_set1_ps((float)i);
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < FEW_SUMS; i++)
            sums[i] = _mm256_fmadd_ps(a, b, sums[i]);
    for (int i = 1; i < FEW_SUMS; i++)
        sums[0] = _mm256_add_ps(sums[0], sums[i]);
    sink_float = _mm256_cvtss_f32(sums[0]);
    return (uint64_t)STEPS * FEW_SUMS * 16;
}

const struct kernel_table kernels_peak_avx2 = {.peak_bytes = peak_bytes, .peak_floats = peak_floats};

#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

static uint64_t peak_bytes(void)
{
    int32x4_t sums[SUMS];
    int8x16_t a = vdupq_n_s8((int8_t)(uintptr_t)&sink_float), b = vdupq_n_s8(3);
    for (int i = 0; i < SUMS; i++)
        sums[i] = vdupq_n_s32(i);
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < SUMS; i++)
            sums[i] = vdotq_s32(sums[i], a, b);
    for (int i = 1; i < SUMS; i++)
        sums[0] = vaddq_s32(sums[0], sums[i]);
    sink_float = (float)vaddvq_s32(sums[0]);
    return (uint64_t)STEPS * SUMS * 32;
}

static uint64_t peak_floats(void)
{
    float32x4_t sums[SUMS], a = vdupq_n_f32(sink_float), b = vdupq_n_f32(0.5f);
    for (int i = 0; i < SUMS; i++)
        sums[i] = vdupq_n_f32((float)i);
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < SUMS; i++)
            sums[i] = vfmaq_f32(sums[i], a, b);
    for (int i = 1; i < SUMS; i++)
        sums[0] = vaddq_f32(sums[0], sums[i]);
    sink_float = vaddvq_f32(sums[0]);
    return (uint64_t)STEPS * SUMS * 8;
}

const struct kernel_table kernels_peak_neon = {.peak_bytes = peak_bytes, .peak_floats = peak_floats};

#endif
