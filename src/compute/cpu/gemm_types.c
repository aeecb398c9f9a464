/* Which types are multiplied by panels, and making their panels in plain C. */
#include "compute/cpu/gemm.h"
#include "compute/cpu/unpack.h"

#include <string.h>

enum panel_kind panel_kind(enum tensor_type type)
{
    static const enum panel_kind kinds[TENSOR_TYPE_COUNT] = {
        [TENSOR_Q4_0] = PANEL_BLOCKS,         [TENSOR_Q4_1] = PANEL_BLOCKS_MINIMA,   [TENSOR_Q5_0] = PANEL_BLOCKS,
        [TENSOR_Q5_1] = PANEL_BLOCKS_MINIMA,  [TENSOR_Q8_0] = PANEL_BLOCKS,          [TENSOR_IQ4_NL] = PANEL_BLOCKS,
        [TENSOR_MXFP4] = PANEL_BLOCKS_POWERS, [TENSOR_Q2_K] = PANEL_PARTS_16_MINIMA, [TENSOR_Q3_K] = PANEL_PARTS_16,
        [TENSOR_Q4_K] = PANEL_PARTS_8_MINIMA, [TENSOR_Q5_K] = PANEL_PARTS_8_MINIMA,  [TENSOR_Q6_K] = PANEL_PARTS_16,
        [TENSOR_IQ1_S] = PANEL_PARTS_8,       [TENSOR_IQ1_M] = PANEL_PARTS_16,       [TENSOR_IQ2_XXS] = PANEL_PARTS_8,
        [TENSOR_IQ2_XS] = PANEL_PARTS_16,     [TENSOR_IQ2_S] = PANEL_PARTS_16,       [TENSOR_IQ3_XXS] = PANEL_PARTS_8,
        [TENSOR_IQ3_S] = PANEL_PARTS_8,       [TENSOR_IQ4_XS] = PANEL_PARTS_8,       [TENSOR_TQ1_0] = PANEL_WHOLE,
        [TENSOR_TQ2_0] = PANEL_WHOLE,         [TENSOR_NVFP4] = PANEL_HALVES,
    };
    return kinds[type];
}

void panel_narrow(enum tensor_type type, unsigned *of_16, unsigned *of_32)
{
    static const struct {
        uint8_t parts, magnitude; /* magnitude: the greatest of any quant */
        bool natural;             /* no quant is negative */
    } quants[TENSOR_TYPE_COUNT] = {
        [TENSOR_Q2_K] = {16, 3, true}, [TENSOR_Q3_K] = {16, 4, false},  [TENSOR_Q4_K] = {8, 15, true},
        [TENSOR_Q5_K] = {8, 31, true}, [TENSOR_Q6_K] = {16, 32, false},
    };
    unsigned most = quants[type].magnitude ? INT16_MAX / quants[type].magnitude : 0;
    *of_16 = *of_32 = UINT16_MAX;
    if (quants[type].parts == 16)
        *of_16 = most;
    else
        *of_32 = quants[type].natural ? most : most / 2;
}

/* ---- plain C ----------------------------------------------------------------------------------------------------- */

/* Stores quants, four columns at a time, each raised. */
static void put_quants(struct panel *out, size_t column, size_t row, const int8_t *quants, size_t count, uint8_t raise)
{
    const uint32_t high = 0x80808080, more = raise * 0x01010101u;
    for (size_t c = 0; c < count; c += 4) {
        uint32_t four;
        memcpy(&four, quants + c, sizeof four);
        four = ((four & ~high) + (more & ~high)) ^ ((four ^ more) & high); /* no carry into the next byte */
        memcpy(out->quants[(column + c) / 4][row], &four, sizeof four);
    }
}

/* Stores block number "index" of 64 columns of one row: twice 32 columns, each half with a scale of its own. */
static void put_halves(struct panel *out, const struct unpacked *block, size_t index, size_t row, uint8_t raise)
{
    put_quants(out, index * 64, row, block->quants, 64, raise);
    for (size_t i = 0; i < 2; i++) {
        out->d[2 * index + i][row] = block->parts[2 * i];
        out->m[2 * index + i][row] = block->parts[2 * i + 1];
    }
}

/* Stores block number "index" (0 for a super-block) of one row. */
static void put_row(struct panel *out, const struct unpacked *block, enum panel_kind kind, size_t index, size_t row,
                    size_t elements, uint8_t raise)
{
    put_quants(out, index * 32, row, block->quants, elements, raise);
    out->d[index][row] = block->d;
    out->m[index][row] = block->m;
    if (elements == 32)
        return;
    size_t parts = kind == PANEL_PARTS_8 || kind == PANEL_PARTS_8_MINIMA ? 8 : 16;
    for (size_t part = 0; part < parts; part++) {
        out->scales[part / 2][row][part % 2] = block->scales[part * 16 / parts];
        out->minima[part / 2][row][part % 2] = block->minima[part * 16 / parts];
    }
}

void panel_make(enum tensor_type type, struct panel *out, const uint8_t *const rows[PANEL_ROWS], size_t blocks,
                uint8_t raise)
{
    const struct unpacker *unpacker = unpacker_find(type);
    size_t count = unpacker->elements < 256 ? blocks * 32 / unpacker->elements : 1;
    for (size_t row = 0; row < PANEL_ROWS; row++) {
        for (size_t i = 0; i < count; i++) {
            struct unpacked block;
            unpacker->unpack(&block, rows[row] + i * unpacker->bytes);
            if (panel_kind(type) == PANEL_HALVES)
                put_halves(out, &block, i, row, raise);
            else
                put_row(out, &block, panel_kind(type), i, row, unpacker->elements, unpacker->minima ? 0 : raise);
        }
    }
}
