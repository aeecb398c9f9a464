// What both ways of reading quantised weights (types.glsl, bytes.glsl) know of them; compute/cpu/blocks.h has the layouts.

// Blocks of 32: a head, then quants.
#if defined(TYPE_Q8_0)
#define BLOCK_BYTES 34
#define HEAD_BYTES 2
#elif defined(TYPE_Q4_0) || defined(TYPE_IQ4_NL)
#define BLOCK_BYTES 18
#define HEAD_BYTES 2
#elif defined(TYPE_Q4_1)
#define BLOCK_BYTES 20
#define HEAD_BYTES 4
#elif defined(TYPE_Q5_0)
#define BLOCK_BYTES 22
#define HEAD_BYTES 6
#elif defined(TYPE_Q5_1)
#define BLOCK_BYTES 24
#define HEAD_BYTES 8
#elif defined(TYPE_MXFP4)
#define BLOCK_BYTES 17
#define HEAD_BYTES 1
#elif defined(TYPE_NVFP4) // of 64
#define BLOCK_BYTES 36
#define HEAD_BYTES 4
#endif

#if defined(TYPE_MXFP4) || defined(TYPE_NVFP4)
const int codebook_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
#elif defined(TYPE_IQ4_NL) || defined(TYPE_IQ4_XS)
const int codebook_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
#endif

// The four lowest bits, one in each byte.
uint spread_bits(uint bits)
{
    return (bits & 15u) * 0x00204081u & 0x01010101u;
}
