/* quantize_encode: encodes floats as blocks of the quantised types.
 *
 * F32, F16, BF16 and Q8_0 are plain rounding and give the same bits as llama.cpp's reference; so are Q4_0, Q4_1, Q5_0,
 * Q5_1, MXFP4, TQ1_0 and TQ2_0 without importance. The other encoders search for scales with a small weighted squared
 * error, so their bits differ from llama.cpp's. Results depend on the row and its importance only: float sums have a
 * fixed order on every machine and thread.
 */
#ifndef HYPURA_QUANTIZE_ENCODE_H
#define HYPURA_QUANTIZE_ENCODE_H

#include "format/format.h"

/* Whether rows can be encoded as this type, and whether the result is useless without importance. */
bool encode_supports(enum tensor_type type);
bool encode_needs_importance(enum tensor_type type);

/* Working memory for encode_row; each thread needs its own. */
struct encode_scratch;
hypura_status encode_scratch_create(struct encode_scratch **out, hypura_error *error);
void encode_scratch_destroy(struct encode_scratch *scratch);

/* Encodes one row. elements is a multiple of the type's block size. importance: the weight of each column's squared
 * error; NULL: all columns count the same. */
void encode_row(struct encode_scratch *scratch, enum tensor_type type, const float *values, uint64_t elements,
                const float *importance, uint8_t *out);

/* ---- private to the encoder ------------------------------------------------------------------------------------- */

/* Below, values and weights belong to a block of at most 256 elements; weights[i] is the weight of the squared error of
 * values[i]. Neither needs alignment. */

/* Rounds to the nearest whole number, ties to even. The absolute value must be below 2^22. */
static inline float nearest(float value)
{
    return (value + 12582912.0f) - 12582912.0f;
}

static inline float clamp(float value, float low, float high)
{
    value = value < low ? low : value;
    return value > high ? high : value;
}

/* Folds the sums of eight lanes in halves, which fixes the order of additions. */
#define LANES 8
static inline float fold(const float lanes[LANES])
{
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/* quantize_super.c: Q2_K to Q6_K, and blocks of 32 values with importance. */
void encode_super(enum tensor_type type, const float *values, const float *weights, uint8_t *out);
void encode_small(enum tensor_type type, const float *values, const float *weights, uint8_t *out);

/* quantize_codebook.c: IQ4_NL, IQ4_XS, NVFP4, and MXFP4 with importance. */
void encode_codebook(enum tensor_type type, const float *values, const float *weights, uint8_t *out);

/* quantize_grid.c: IQ1, IQ2, IQ3. */
struct grid_scratch;
hypura_status grid_scratch_create(struct grid_scratch **out, hypura_error *error);
void grid_scratch_destroy(struct grid_scratch *scratch);
void encode_grid(struct grid_scratch *scratch, enum tensor_type type, const float *values, const float *weights,
                 uint8_t *out);

#endif
