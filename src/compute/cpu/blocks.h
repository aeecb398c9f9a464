/* The blocks of quantised tensor types, as stored in files (layouts: ggml, ggml-common.h). Blocks have no alignment:
 * a row may start at any byte, so the structs are packed and wider fields inside byte arrays are read by memcpy.
 * "f16" fields hold IEEE half bits. */
#ifndef HYPURA_COMPUTE_BLOCKS_H
#define HYPURA_COMPUTE_BLOCKS_H

#include <stdint.h>

#define PACKED __attribute__((packed))

/* ---- blocks of 32: element j in the low half of qs[j], element j + 16 in the high half --------------------------- */

struct PACKED block_q4_0 { /* d * (q - 8) */
    uint16_t d;
    uint8_t qs[16];
};
struct PACKED block_q4_1 { /* d * q + m */
    uint16_t d, m;
    uint8_t qs[16];
};
struct PACKED block_q5_0 { /* d * (q - 16); bit j of qh is the fifth bit of element j */
    uint16_t d;
    uint8_t qh[4];
    uint8_t qs[16];
};
struct PACKED block_q5_1 { /* d * q + m */
    uint16_t d, m;
    uint8_t qh[4];
    uint8_t qs[16];
};
struct PACKED block_q8_0 { /* d * q */
    uint16_t d;
    int8_t qs[32];
};
struct PACKED block_iq4_nl { /* d * codebook[q] */
    uint16_t d;
    uint8_t qs[16];
};
struct PACKED block_mxfp4 { /* 2^(e - 127) * E2M1[q] */
    uint8_t e;
    uint8_t qs[16];
};
/* 64 elements in four parts of 16: element j of part p in qs[8 * p + j % 8], low half for j < 8. */
struct PACKED block_nvfp4 { /* UE4M3(d[p]) * E2M1[q] */
    uint8_t d[4];
    uint8_t qs[32];
};

/* ---- super-blocks of 256 ----------------------------------------------------------------------------------------- */

struct PACKED block_q2_k { /* d * (scale & 15) * q - dmin * (scale >> 4), sixteen parts of 16 */
    uint8_t scales[16];
    uint8_t qs[64];
    uint16_t d, dmin;
};
struct PACKED block_q3_k { /* d * (scale - 32) * (q - 4), sixteen parts of 16; hmask has the third bit */
    uint8_t hmask[32];
    uint8_t qs[64];
    uint8_t scales[12];
    uint16_t d;
};
/* Eight parts of 32, 6-bit scales and minima in 12 bytes: d * scale * q - dmin * minimum. */
struct PACKED block_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qs[128];
};
struct PACKED block_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
};
struct PACKED block_q6_k { /* d * scale * (q - 32), sixteen parts of 16 */
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint16_t d;
};
struct PACKED block_iq2_xxs {
    uint16_t d;
    uint8_t qs[64]; /* a 32-element part: four grid indices of 8 bits, four sign indices of 7 bits, scale of 4 bits */
};
struct PACKED block_iq2_xs {
    uint16_t d;
    uint8_t qs[64]; /* 16 bits for 8 elements: grid index of 9 bits, sign index of 7 bits */
    uint8_t scales[8];
};
struct PACKED block_iq2_s {
    uint16_t d;
    uint8_t qs[32];    /* low 8 bits of the grid indices */
    uint8_t signs[32]; /* a bit per element */
    uint8_t qh[8];     /* high 2 bits of the grid indices */
    uint8_t scales[8];
};
struct PACKED block_iq3_xxs {
    uint16_t d;
    uint8_t qs[64];    /* grid indices, 4 elements each */
    uint8_t signs[32]; /* a 32-element part: four sign indices of 7 bits, scale of 4 bits */
};
struct PACKED block_iq3_s {
    uint16_t d;
    uint8_t qs[64];
    uint8_t qh[8]; /* ninth bit of the grid indices */
    uint8_t signs[32];
    uint8_t scales[4];
};
struct PACKED block_iq1_s {
    uint16_t d;
    uint8_t qs[32];
    uint8_t qh[16]; /* 16 bits per part of 32: four times 3 high index bits, scale of 3 bits, sign of delta */
};
struct PACKED block_iq1_m {
    uint8_t qs[32];
    uint8_t qh[16];    /* 4 bits for 8 elements: 3 high index bits, sign of delta */
    uint8_t scales[8]; /* 16 bits for 64 elements: four 3-bit scales, and 4 bits of the half d */
};
struct PACKED block_iq4_xs { /* d * (scale - 32) * codebook[q], eight parts of 32 */
    uint16_t d;
    uint16_t scales_h;
    uint8_t scales_l[4];
    uint8_t qs[128];
};
struct PACKED block_tq1_0 { /* d * (q - 1); five base-3 digits per byte */
    uint8_t qs[48];
    uint8_t qh[4];
    uint16_t d;
};
struct PACKED block_tq2_0 { /* d * (q - 1) */
    uint8_t qs[64];
    uint16_t d;
};

_Static_assert(sizeof(struct block_q4_0) == 18 && sizeof(struct block_q4_1) == 20 && sizeof(struct block_q5_0) == 22 &&
                   sizeof(struct block_q5_1) == 24 && sizeof(struct block_q8_0) == 34 &&
                   sizeof(struct block_iq4_nl) == 18 && sizeof(struct block_mxfp4) == 17 &&
                   sizeof(struct block_nvfp4) == 36,
               "blocks of 32 and 64");
_Static_assert(sizeof(struct block_q2_k) == 84 && sizeof(struct block_q3_k) == 110 &&
                   sizeof(struct block_q4_k) == 144 && sizeof(struct block_q5_k) == 176 &&
                   sizeof(struct block_q6_k) == 210 && sizeof(struct block_iq2_xxs) == 66 &&
                   sizeof(struct block_iq2_xs) == 74 && sizeof(struct block_iq2_s) == 82 &&
                   sizeof(struct block_iq3_xxs) == 98 && sizeof(struct block_iq3_s) == 110 &&
                   sizeof(struct block_iq1_s) == 50 && sizeof(struct block_iq1_m) == 56 &&
                   sizeof(struct block_iq4_xs) == 136 && sizeof(struct block_tq1_0) == 54 &&
                   sizeof(struct block_tq2_0) == 66,
               "super-blocks of 256");

#endif
