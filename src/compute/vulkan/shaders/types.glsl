// Weights of one type, as they lie in files (compute/cpu/blocks.h has the layouts). One of TYPE_F32 ... is defined.
//
// A chunk is what one invocation takes at a time: RUNS runs of LENGTH neighbouring elements each, with a scale and a
// minimum a run. Element i of run r is scale[r] * q[r * LENGTH + i] - minimum[r] (types that count from the middle have
// their offset as a minimum), and stands in column chunk_column(chunk, r) + i.
//
//   CHUNK_ELEMENTS      RUNS * LENGTH
//   chunk_fetch         loads the bytes of a chunk, so that several loads may be under way
//   chunk_unpack        makes floats of them
//   TYPES_PREPARE(n)    to be called once, by all n invocations of a work group, before chunk_unpack. Types with a
//                       CODEBOOK find its address in the includer's "table".
//
// A row may start at any byte that is a multiple of the type's alignment: chunk_fetch never reads a 32-bit word that holds
// none of the row's bytes.

#include "blocks.glsl"

#if defined(TYPE_F32)
#define RUNS 1
#define LENGTH 4
#elif defined(TYPE_F16) || defined(TYPE_BF16) || defined(TYPE_Q8_0)
#define RUNS 1
#define LENGTH 8
#elif defined(TYPE_Q4_0) || defined(TYPE_Q4_1) || defined(TYPE_Q5_0) || defined(TYPE_Q5_1) || defined(TYPE_IQ4_NL) || \
    defined(TYPE_MXFP4) || defined(TYPE_NVFP4)
#define RUNS 2
#define LENGTH 8
#elif defined(TYPE_Q4_K) || defined(TYPE_Q5_K) || defined(TYPE_IQ4_XS)
#define RUNS 2
#define LENGTH 16
#elif defined(TYPE_IQ1_S) || defined(TYPE_IQ1_M) || defined(TYPE_IQ2_XXS) || defined(TYPE_IQ2_XS) || defined(TYPE_IQ2_S) || \
    defined(TYPE_IQ3_XXS) || defined(TYPE_IQ3_S) || defined(TYPE_TQ1_0)
#define RUNS 2
#define LENGTH 16
#define SMALL
#elif defined(TYPE_Q6_K)
#define RUNS 4
#define LENGTH 8
#elif defined(TYPE_Q2_K) || defined(TYPE_Q3_K)
#define RUNS 4
#define LENGTH 4
#elif defined(TYPE_TQ2_0)
#define RUNS 4
#define LENGTH 4
#define SMALL
#else
#error no type
#endif
#define CHUNK_ELEMENTS (RUNS * LENGTH)

// ---- loads

// Byte at of the row, and words that start at any byte.
uint load_byte(uint64_t row, uint at)
{
    return uint(Bytes(row).v[at]);
}

uint load_short(uint64_t row, uint at)
{
    return uint(Shorts(row + at).v[0]);
}

// The 8 bytes from there on.
uvec2 load_eight(uint64_t row, uint at)
{
    uint64_t from = row + at;
    Uints words = Uints(from & ~3ul);
    uint odd = uint(from) & 3u, shift = odd * 8u;
    uint a = words.v[0], b = words.v[1], c = words.v[(odd + 7u) >> 2];
    return uvec2(a >> shift | b << (31u - shift) << 1, b >> shift | c << (31u - shift) << 1);
}

uint load_four(uint64_t row, uint at)
{
    uint64_t from = row + at;
    Uints words = Uints(from & ~3ul);
    uint odd = uint(from) & 3u, shift = odd * 8u;
    return words.v[0] >> shift | words.v[(odd + 3u) >> 2] << (31u - shift) << 1;
}

// Bits at .. at + count - 1 of each of four bytes, as floats with 2^count added to each: put into the upper bits of a
// half's mantissa, since conversion of integers is slow on some devices. What was added goes into the minimum.
vec4 bits_floats(uint word, uint at, uint count)
{
    uint mask = ((1u << count) - 1u) << (10u - count), offset = (count + 15u) << 10;
    mask |= mask << 16;
    offset |= offset << 16;
    int left = 10 - int(count + at);
    uint even = left >= 0 ? word << left : word >> -left, odd = left >= 8 ? word << (left - 8) : word >> (8 - left);
    vec2 a = unpackHalf2x16(even & mask | offset), b = unpackHalf2x16(odd & mask | offset);
    return vec4(a.x, b.x, a.y, b.y);
}

// ---- codebooks

#if defined(TYPE_IQ4_NL) || defined(TYPE_IQ4_XS) || defined(TYPE_MXFP4) || defined(TYPE_NVFP4)
shared float codebook[16];

void types_prepare()
{
    if (gl_LocalInvocationIndex == 0)
        for (int i = 0; i < 16; i++)
            codebook[i] = float(codebook_values[i]);
    barrier();
}
#define TYPES_PREPARE(group) types_prepare()
#endif

// ---- plain types

#if defined(TYPE_F32)
struct Chunk { vec4 values; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    return Chunk(Vec4s(row).v[chunk]);
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
    [[unroll]] for (int i = 0; i < 4; i++)
        q[i] = c.values[i];
    scale[0] = 1;
    minimum[0] = 0;
}

#elif defined(TYPE_F16) || defined(TYPE_BF16)
struct Chunk { uvec4 bits; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    return Chunk(Uvec4s(row).v[chunk]);
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
    [[unroll]] for (int i = 0; i < 4; i++) {
#if defined(TYPE_F16)
        vec2 pair = unpackHalf2x16(c.bits[i]);
        q[2 * i] = pair.x;
        q[2 * i + 1] = pair.y;
#else
        q[2 * i] = uintBitsToFloat(c.bits[i] << 16);
        q[2 * i + 1] = uintBitsToFloat(c.bits[i] & 0xffff0000u);
#endif
    }
    scale[0] = 1;
    minimum[0] = 0;
}

// ---- blocks of 32

#elif defined(TYPE_Q8_0)
struct Chunk { uvec2 quants; uint d; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint block = chunk / 4 * BLOCK_BYTES;
    return Chunk(load_eight(row, block + HEAD_BYTES + chunk % 4 * 8), load_short(row, block));
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
    [[unroll]] for (int i = 0; i < 2; i++) {
        vec4 four = bits_floats(c.quants[i] ^ 0x80808080u, 0, 8);
        [[unroll]] for (int j = 0; j < 4; j++)
            q[4 * i + j] = four[j];
    }
    scale[0] = half_float(c.d);
    minimum[0] = scale[0] * (128 + 256);
}

#elif defined(TYPE_NVFP4)
// One part of a block's four: a scale, and eight bytes, their low halves the first run, their high halves the second.
struct Chunk { uvec2 quants; uint d; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint block = chunk / 4 * BLOCK_BYTES;
    return Chunk(load_eight(row, block + HEAD_BYTES + chunk % 4 * 8), load_byte(row, block + chunk % 4));
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
    [[unroll]] for (int i = 0; i < 8; i++) {
        uint both = bitfieldExtract(c.quants[i / 4], 8 * (i % 4), 8);
        q[i] = codebook[both & 15u];
        q[i + 8] = codebook[both >> 4];
    }
    // The codebook has twice the values; 127 stands for 0. The least seven scales are made of integers, lest they are
    // subnormal on the way.
    uint bits = c.d & 127u;
    float least = float(bits) * 0.0009765625, other = uintBitsToFloat((bits << 20) + (119u << 23));
    scale[0] = scale[1] = c.d == 127u ? 0 : bits < 8u ? least : other;
    minimum[0] = minimum[1] = 0;
}

#elif RUNS == 2 && LENGTH == 8
// Half a block: eight bytes, their low halves the first run, their high halves the second.
struct Chunk { uvec2 quants; uint d, m, high; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint block = chunk / 2 * BLOCK_BYTES;
    Chunk c;
    c.quants = load_eight(row, block + HEAD_BYTES + chunk % 2 * 8);
    c.m = c.high = 0;
#if defined(TYPE_MXFP4)
    c.d = load_byte(row, block);
#else
    c.d = load_short(row, block);
#endif
#if defined(TYPE_Q4_1) || defined(TYPE_Q5_1)
    c.m = load_short(row, block + 2);
#endif
#if defined(TYPE_Q5_0) || defined(TYPE_Q5_1)
    c.high = load_short(row, block + HEAD_BYTES - 4) | load_short(row, block + HEAD_BYTES - 2) << 16;
#endif
    return c;
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
#if defined(TYPE_IQ4_NL) || defined(TYPE_MXFP4)
    [[unroll]] for (int i = 0; i < 8; i++) {
        uint both = bitfieldExtract(c.quants[i / 4], 8 * (i % 4), 8);
        q[i] = codebook[both & 15u];
        q[i + 8] = codebook[both >> 4];
    }
    const float added = 0;
#else
    uint high = c.high >> (chunk % 2 * 8);
    [[unroll]] for (int i = 0; i < 2; i++) {
#if defined(TYPE_Q5_0) || defined(TYPE_Q5_1)
        vec4 first = bits_floats((c.quants[i] & 0x0f0f0f0fu) | spread_bits(high >> (4 * i)) << 4, 0, 5);
        vec4 second = bits_floats((c.quants[i] >> 4 & 0x0f0f0f0fu) | spread_bits(high >> (4 * i + 16)) << 4, 0, 5);
#else
        vec4 first = bits_floats(c.quants[i], 0, 4), second = bits_floats(c.quants[i], 4, 4);
#endif
        [[unroll]] for (int j = 0; j < 4; j++) {
            q[4 * i + j] = first[j];
            q[4 * i + j + 8] = second[j];
        }
    }
#if defined(TYPE_Q5_0) || defined(TYPE_Q5_1)
    const float added = 32;
#else
    const float added = 16;
#endif
#endif
#if defined(TYPE_MXFP4)
    // The codebook has twice the values, so the scale is 2^(e - 128); its two least values are subnormal, and 0 where the
    // device has none.
    scale[0] = uintBitsToFloat(c.d < 2 ? 0x00200000u << c.d : (c.d - 1) << 23);
#else
    scale[0] = half_float(c.d);
#endif
#if defined(TYPE_Q4_0)
    minimum[0] = scale[0] * (8 + added);
#elif defined(TYPE_Q5_0)
    minimum[0] = scale[0] * (16 + added);
#else
    minimum[0] = fma(scale[0], added, -half_float(c.m));
#endif
    scale[1] = scale[0];
    minimum[1] = minimum[0];
}

// ---- super-blocks of 256

#elif defined(TYPE_Q4_K) || defined(TYPE_Q5_K)
// Sixteen bytes, their low halves one part of 32's, their high halves the next part's.
struct Chunk {
    uvec4 head, quants;
#if defined(TYPE_Q5_K)
    uvec4 high;
#define ADDED 32.0
#else
#define ADDED 16.0
#endif
};

Chunk chunk_fetch(uint64_t row, uint chunk)
{
#if defined(TYPE_Q5_K)
    Uvec4s block = Uvec4s(row + chunk / 8 * 176);
    return Chunk(block.v[0], block.v[3 + chunk % 8], block.v[1 + chunk % 2]);
#else
    Uvec4s block = Uvec4s(row + chunk / 8 * 144);
    return Chunk(block.v[0], block.v[1 + chunk % 8]);
#endif
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
    uint part = chunk % 8 / 2, shift = part % 2 * 16;
    uint a = c.head.y >> shift, b = c.head.z >> shift, low = c.head.w >> shift;
    uint scales = part < 2 ? a & 0x3f3fu : (low & 0x0f0fu) | (a >> 2 & 0x3030u);
    uint minima = part < 2 ? b & 0x3f3fu : (low >> 4 & 0x0f0fu) | (b >> 2 & 0x3030u);
    vec2 d = unpackHalf2x16(c.head.x);
    [[unroll]] for (int r = 0; r < 2; r++) {
        scale[r] = d.x * float(scales >> (8 * r) & 255u);
        minimum[r] = fma(scale[r], ADDED, d.y * float(minima >> (8 * r) & 255u));
    }
    [[unroll]] for (int i = 0; i < 4; i++) {
#if defined(TYPE_Q5_K)
        uint high = c.high[i] >> (2 * part);
        vec4 first = bits_floats((c.quants[i] & 0x0f0f0f0fu) | (high << 4 & 0x10101010u), 0, 5);
        vec4 second = bits_floats((c.quants[i] >> 4 & 0x0f0f0f0fu) | (high << 3 & 0x10101010u), 0, 5);
#else
        vec4 first = bits_floats(c.quants[i], 0, 4), second = bits_floats(c.quants[i], 4, 4);
#endif
        [[unroll]] for (int j = 0; j < 4; j++) {
            q[4 * i + j] = first[j];
            q[4 * i + j + 16] = second[j];
        }
    }
}

#elif defined(TYPE_IQ4_XS)
// One part of 32: low halves, then high halves.
struct Chunk { uvec4 quants; uint d, high, low; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint block = chunk / 8 * 136, part = chunk % 8;
    Uints words = Uints(row + block);
    Chunk c;
    [[unroll]] for (int i = 0; i < 4; i++)
        c.quants[i] = words.v[2 + 4 * part + i];
    c.d = words.v[0] & 0xffffu;
    c.high = words.v[0] >> 16;
    c.low = words.v[1];
    return c;
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
    uint part = chunk % 8;
    int level = int((c.low >> (4 * part) & 15u) | (c.high >> (2 * part) & 3u) << 4) - 32;
    scale[0] = scale[1] = half_float(c.d) * float(level);
    minimum[0] = minimum[1] = 0;
    [[unroll]] for (int i = 0; i < 16; i++) {
        uint both = bitfieldExtract(c.quants[i / 4], 8 * (i % 4), 8);
        q[i] = codebook[both & 15u];
        q[i + 16] = codebook[both >> 4];
    }
}

#elif defined(TYPE_Q6_K)
// Of one half of the block eight columns of each of its four parts of 32.
struct Chunk { uvec2 low, low_next, high; uint scales[4]; uint d; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint block = chunk / 8 * 210, half_block = chunk % 8 / 4, column = chunk % 4 * 8;
    Chunk c;
    c.low = load_eight(row, block + 64 * half_block + column);
    c.low_next = load_eight(row, block + 64 * half_block + 32 + column);
    c.high = load_eight(row, block + 128 + 32 * half_block + column);
    [[unroll]] for (int p = 0; p < 4; p++)
        c.scales[p] = load_byte(row, block + 192 + 8 * half_block + 2 * p + column / 16);
    c.d = load_short(row, block + 208);
    return c;
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
    float d = half_float(c.d);
    [[unroll]] for (int p = 0; p < 4; p++) {
        scale[p] = d * float(bitfieldExtract(int(c.scales[p]), 0, 8));
        minimum[p] = scale[p] * (32 + 64);
    }
    [[unroll]] for (int i = 0; i < 2; i++) {
        uint low = c.low[i], next = c.low_next[i], high = c.high[i];
        uint parts[4] = {(low & 0x0f0f0f0fu) | (high << 4 & 0x30303030u), (next & 0x0f0f0f0fu) | (high << 2 & 0x30303030u),
                         (low >> 4 & 0x0f0f0f0fu) | (high & 0x30303030u),
                         (next >> 4 & 0x0f0f0f0fu) | (high >> 2 & 0x30303030u)};
        [[unroll]] for (int p = 0; p < 4; p++) {
            vec4 four = bits_floats(parts[p], 0, 6);
            [[unroll]] for (int j = 0; j < 4; j++)
                q[8 * p + 4 * i + j] = four[j];
        }
    }
}

#elif defined(SMALL)
#include "types_small.glsl"

#else
// Q2_K and Q3_K: of one half of the block four columns of each of its four parts of 32.
struct Chunk { uint quants, high, d; uint scales[4]; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    uint half_block = chunk % 16 / 8, column = chunk % 8 * 4;
    Chunk c;
#if defined(TYPE_Q2_K)
    uint block = chunk / 16 * 84;
    Uints words = Uints(row + block);
    c.quants = words.v[4 + 8 * half_block + column / 4];
    c.high = 0;
    c.d = words.v[20];
    [[unroll]] for (int p = 0; p < 4; p++)
        c.scales[p] = load_byte(row, block + 8 * half_block + 2 * p + column / 16);
#else
    uint block = chunk / 16 * 110;
    c.quants = load_four(row, block + 32 + 32 * half_block + column);
    c.high = load_four(row, block + column);
    c.d = load_short(row, block + 108);
    [[unroll]] for (int p = 0; p < 4; p++) {
        uint i = 2 * p + column / 16;
        c.scales[p] = (load_byte(row, block + 96 + i) >> (4 * half_block) & 15u) |
                      (load_byte(row, block + 104 + i % 4) >> (4 * half_block + i / 4 * 2) & 3u) << 4;
    }
#endif
    return c;
}

void chunk_unpack(Chunk c, uint chunk, out float q[CHUNK_ELEMENTS], out float scale[RUNS], out float minimum[RUNS])
{
    [[unroll]] for (int p = 0; p < 4; p++) {
#if defined(TYPE_Q2_K)
        vec4 four = bits_floats(c.quants, 2 * p, 2);
        vec2 d = unpackHalf2x16(c.d);
        scale[p] = d.x * float(c.scales[p] & 15u);
        minimum[p] = fma(scale[p], 4.0, d.y * float(c.scales[p] >> 4));
#else
        uint half_block = chunk % 16 / 8;
        vec4 four = bits_floats((c.quants >> (2 * p) & 0x03030303u) |
                                    (c.high >> (4 * half_block + p) & 0x01010101u) << 2, 0, 3);
        scale[p] = half_float(c.d) * float(int(c.scales[p]) - 32);
        minimum[p] = scale[p] * (4 + 8);
#endif
        [[unroll]] for (int j = 0; j < 4; j++)
            q[4 * p + j] = four[j];
    }
}
#endif

#if defined(CODEBOOK)
#define TYPES_PREPARE(group) copy_codebook(Uints(table), group)
#elif !defined(TYPES_PREPARE)
#define TYPES_PREPARE(group)
#endif

// ---- where a run stands

uint chunk_column(uint chunk, uint run)
{
#if RUNS == 1
    return chunk * LENGTH;
#elif defined(TYPE_NVFP4)
    return chunk * 16 + run * 8;
#elif LENGTH == 8 && RUNS == 2
    return chunk / 2 * 32 + chunk % 2 * 8 + run * 16;
#elif defined(TYPE_IQ4_XS) || (defined(SMALL) && RUNS == 2)
    return chunk * 32 + run * 16;
#elif LENGTH == 16
    return chunk / 2 * 64 + chunk % 2 * 16 + run * 32;
#elif defined(TYPE_Q6_K)
    return chunk / 4 * 128 + chunk % 4 * 8 + run * 32;
#else
    return chunk / 8 * 128 + chunk % 8 * 4 + run * 32;
#endif
}
