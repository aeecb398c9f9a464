/* Panels of types with large codebooks or base-3 digits: unpacks rows one by one, then transposes them. */
#include "compute/cpu/gemm_panels_avx512.h"
#include "compute/cpu/unpack.h"

static inline void any(enum tensor_type type, struct panel *out, const uint8_t *const rows[16], int parts)
{
    const struct unpacker *unpacker = unpacker_find(type);
    struct unpacked blocks[16];
    const uint8_t *quants[16];
    for (int i = 0; i < 16; i++) {
        unpacker->unpack(&blocks[i], rows[i]);
        quants[i] = (const uint8_t *)blocks[i].quants;
        out->d[0][i] = blocks[i].d;
        for (int part = 0; part < parts; part++)
            out->scales[part / 2][i][part % 2] = blocks[i].scales[part * 16 / parts];
    }
    for (int j = 0; j < 4; j++) {
        __m512i q[16];
        transpose_64(q, quants, 64 * (size_t)j);
        for (int i = 0; i < 16; i++)
            put(out, 64 * j + 4 * i, _mm512_xor_si512(q[i], _mm512_set1_epi8(-128)));
    }
}

#define PANEL(name, type, parts)                                                                                       \
    void panel_##name##_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)                        \
    {                                                                                                                  \
        (void)blocks;                                                                                                  \
        any(type, out, rows, parts);                                                                                   \
    }

PANEL(iq1_s, TENSOR_IQ1_S, 8)
PANEL(iq1_m, TENSOR_IQ1_M, 16)
PANEL(iq2_xxs, TENSOR_IQ2_XXS, 8)
PANEL(iq2_xs, TENSOR_IQ2_XS, 16)
PANEL(iq2_s, TENSOR_IQ2_S, 16)
PANEL(iq3_xxs, TENSOR_IQ3_XXS, 8)
PANEL(iq3_s, TENSOR_IQ3_S, 8)
PANEL(tq1_0, TENSOR_TQ1_0, 1)
