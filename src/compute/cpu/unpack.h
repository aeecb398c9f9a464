/* Every quantised type in one shape: small integers with integer scales, and two floats. Plain C for all of dequantise,
 * matrix times vector and tests; the fast kernels are tested against it. */
#ifndef HYPURA_COMPUTE_UNPACK_H
#define HYPURA_COMPUTE_UNPACK_H

#include "compute/compute.h"

#include <stdbool.h>
#include <stdint.h>

/* A block of 32 or a super-block of 256. Element i is
 *   (d * scales[i / 16]) * quants[i] - m * minima[i / 16]
 * A block of 32 has scales of 1; types without minima have m = 0. Of a block of 64 (NVFP4) each part of 16 has a float
 * scale of its own instead: parts[i / 16] * quants[i]. */
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

/* NULL when the type is not a quantised one that compute knows. The codebooks must be expanded (kernel_table_get). */
const struct unpacker *unpacker_find(enum tensor_type type);

#endif
