/* All quantised types in one form: small integers with integer scales, and two floats. This plain C serves dequantise
 * and matrix times vector, and tests compare the fast kernels with it. */
#ifndef HYPURA_COMPUTE_UNPACK_H
#define HYPURA_COMPUTE_UNPACK_H

#include "compute/compute.h"

#include <stdbool.h>
#include <stdint.h>

/* A block of 32 or a super-block of 256. Element i is
 *   (d * scales[i / 16]) * quants[i] - m * minima[i / 16]
 * A block of 32 has scales of 1; types without minima have m = 0. In a block of 64 (NVFP4), each
 * part of 16 has its own float scale instead: parts[i / 16] * quants[i]. */
struct unpacked {
    float d, m;
    float parts[4];
    int16_t scales[16];
    int16_t minima[16];
    int8_t quants[256];
};

struct unpacker {
    void (*unpack)(struct unpacked *out, const uint8_t *block);
    uint16_t elements; /* 32, 64 or 256 */
    uint16_t bytes;
    bool minima;
};

/* NULL: not a quantised type, or not supported. Codebooks must be expanded before use (kernel_table_get). */
const struct unpacker *unpacker_find(enum tensor_type type);

#endif
