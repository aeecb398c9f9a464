/* Floats to blocks of the quantised types.
 *
 * F32, F16, BF16, Q8_0, and without importance Q4_0, Q4_1, Q5_0, Q5_1, MXFP4, TQ1_0 and TQ2_0, are plain rounding and give
 * the bits that llama.cpp's reference gives. All others search for scales that make the weighted squares of the errors
 * small, so their bits are this program's own. Results depend on the row and its importance only: float sums have one
 * order, whatever the machine and the thread.
 */
#ifndef HYPURA_QUANTIZE_ENCODE_H
#define HYPURA_QUANTIZE_ENCODE_H

#include "format/format.h"

/* Whether rows can be encoded to this type, and whether that makes sense without importance. */
bool encode_supports(enum tensor_type type);
bool encode_needs_importance(enum tensor_type type);

/* What a thread needs while it encodes rows of such a type. */
struct encode_scratch;
hypura_status encode_scratch_create(struct encode_scratch **out, hypura_error *error);
void encode_scratch_destroy(struct encode_scratch *scratch);

/* One row. elements is a multiple of the type's block size. importance: what the square of an error at each column
 * counts, or NULL: all columns alike. */
void encode_row(struct encode_scratch *scratch, enum tensor_type type, const float *values, uint64_t elements,
                const float *importance, uint8_t *out);

/* ---- what the files of the encoder share -------------------------------------------------------------------------- */

/* Values and what each one's squared error counts, of a block of at most 256; both aligned to nothing. */

/* Nearest whole number, ties to even, of an absolute value below 2^22. */
static inline float nearest(float value)
{
    return (value + 12582912.0f) - 12582912.0f;
}

static inline float clamp(float value, float low, float high)
{
    value = value < low ? low : value;
    return value > high ? high : value;
}

/* Sums in eight lanes, folded in halves. n is a multiple of 8. */
#define LANES 8
static inline float fold(const float lanes[LANES])
{
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/* quantize_super.c: Q2_K to Q6_K, and blocks of 32 with importance. weights has a weight for each value. */
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
