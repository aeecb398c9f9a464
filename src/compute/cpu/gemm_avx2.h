/* Shared by the files that multiply panels by AVX2 alone. */
#ifndef HYPURA_COMPUTE_GEMM_AVX2_H
#define HYPURA_COMPUTE_GEMM_AVX2_H

#include "compute/cpu/gemm_shapes.h"
#include "compute/cpu/lanes.h"

#include <immintrin.h>

/* For blocks of signed 8-bit quants: multiplies panels, and completes panels after they are made. */
void panels_multiply_signed(const struct panel_product *product);
void panels_finish_signed(struct panel *panel);

/* The same for the IQ types with super-blocks, which are raised. */
bool panels_are_raised(enum tensor_type type);
void panels_make_sides_raised(enum tensor_type type, struct panel_tile *tile);
void panels_multiply_raised(enum tensor_type type, const struct panel_product *product);
void panels_finish_raised(enum tensor_type type, int raise, struct panel *panel);

/* Otherwise gcc would add up many products at the end, with most of them in memory until then. */
#define IN_REGISTER(vector) __asm__("" : "+x"(vector))

INLINE __m256i same(const void *from)
{
    int32_t word;
    memcpy(&word, from, sizeof word);
    return _mm256_set1_epi32(word);
}

INLINE __m256i weights(const struct panel *panel, size_t quad, size_t half)
{
    return _mm256_load_si256((const void *)panel->quants[quad][8 * half]);
}

/* The scale of a part, out of a pair, twice per lane. */
INLINE __m256i part_scale(const struct panel *panel, size_t part, size_t half)
{
    const __m256i first = _mm256_set1_epi64x(0x0504050401000100), second = _mm256_set1_epi64x(0x0706070603020302);
    const __m256i upper = _mm256_setr_epi64x(0, 0x0808080808080808, 0, 0x0808080808080808);
    const __m256i index = _mm256_add_epi8(part % 2 ? second : first, upper);
    return _mm256_shuffle_epi8(_mm256_load_si256((const void *)panel->scales[part / 2][8 * half]), index);
}

INLINE __m256 scaled(const float *d, float scale)
{
    return _mm256_mul_ps(_mm256_load_ps(d), _mm256_set1_ps(scale));
}

#endif
