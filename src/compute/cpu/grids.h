/* The codebooks of the IQ types: facts of the format (ggml), stored packed and expanded once, when the first kernel
 * table is filled. */
#ifndef HYPURA_COMPUTE_GRIDS_H
#define HYPURA_COMPUTE_GRIDS_H

#include <stdint.h>

/* Entries of eight bytes, the first element in the lowest byte. IQ2 has 8, 25 or 43; IQ1 has 0, 8 or 16, which stand
 * for -1, 0 and 1. */
extern uint64_t grid_iq2_xxs[256], grid_iq2_xs[512], grid_iq2_s[1024], grid_iq1[2048];
/* Entries of four bytes. */
extern uint32_t grid_iq3_xxs[256], grid_iq3_s[512];

/* The same, packed. IQ2 and IQ1: two bits per element, the first element lowest. IQ3: three bits per element; the first
 * and third start at bits 0 and 4, the second and fourth at bits 8 and 12, so that a word splits into bytes easily. */
extern const uint16_t packed_iq2_xxs[256], packed_iq2_xs[512], packed_iq2_s[1024], packed_iq1[2048];
extern const uint16_t packed_iq3_xxs[256], packed_iq3_s[512];

/* The values of 4-bit codes. */
extern const int8_t codebook_iq4[16];
extern const int8_t codebook_e2m1[16]; /* twice the value of the 4-bit float E2M1 */

/* Scales of NVFP4, by their byte: an unsigned 8-bit float with 4 bits of exponent (bias 7) and 3 of mantissa. They are
 * halved here, because codebook_e2m1 is doubled. 127, otherwise a NaN, means 0; bit 7 is ignored. */
extern float scales_ue4m3[256];

void grids_expand(void);

/* Appends an eighth sign bit to seven, which makes the number of ones even. */
static inline uint8_t even_signs(uint32_t seven)
{
    return (uint8_t)(seven | (uint32_t)__builtin_parity(seven) << 7);
}

/* The same for four groups, in the low 28 bits. */
static inline uint32_t even_signs_4(uint32_t bits)
{
    return (uint32_t)even_signs(bits & 127) | (uint32_t)even_signs(bits >> 7 & 127) << 8 |
           (uint32_t)even_signs(bits >> 14 & 127) << 16 | (uint32_t)even_signs(bits >> 21 & 127) << 24;
}

#endif
