// Quantised weights as bytes, for products of integers with inputs of 8 bits. As in types.glsl a chunk is what one
// invocation takes at a time, here CHUNK columns in UNITS units of 16, of which RUN_UNITS are a run with a scale and, with
// HAS_MINIMUM, a minimum: a weight is scale * byte - minimum. The columns are neighbours, except for those of Q6_K.
//
//   chunk_fetch         loads the bytes of a chunk, so that several loads may be under way
//   chunk_unpack        makes bytes of them, four a word
//   bytes_prepare       to be called once, by all invocations of a work group, before chunk_unpack
//
// What is loaded is 16 bytes wide and aligned, and holds some of the row's bytes.

#include "blocks.glsl"

#if defined(TYPE_Q6_K)
#define UNITS 4
#define RUN_UNITS 1
#elif defined(TYPE_Q4_K) || defined(TYPE_Q5_K)
#define UNITS 4
#define RUN_UNITS 2
#define HAS_MINIMUM
#else
#define UNITS 2
#define RUN_UNITS 2
#if !defined(TYPE_Q8_0) && !defined(TYPE_IQ4_NL) && !defined(TYPE_IQ4_XS) && !defined(TYPE_MXFP4)
#define HAS_MINIMUM
#endif
#endif
#define RUNS (UNITS / RUN_UNITS)
#define CHUNK (UNITS * 16)

// Word i of a window shifted right by so many bits, at most 32.
#define SHIFTED(words, i, bits) unpackUint2x32(packUint2x32(uvec2(words[i], words[(i) + 1])) >> (bits)).x

// ---- codebooks

#if defined(TYPE_IQ4_NL) || defined(TYPE_IQ4_XS) || defined(TYPE_MXFP4)
// Both values of a byte, twice in a word: of its low half, which is that of a column, and of its high half, which is
// that of the column 16 further. So inputs stand in that order too. A table for each of COPIES invocations, as many as
// there is room for, lest different entries of one bank be asked for at once.
#define PAIRED
shared uint pairs[256 * COPIES];

void bytes_prepare()
{
    for (uint i = gl_LocalInvocationID.x; i < 256 * COPIES; i += gl_WorkGroupSize.x) {
        uint low = uint(codebook_values[i / COPIES % 16]) & 255u, high = uint(codebook_values[i / COPIES / 16]) & 255u;
        pairs[i] = (low | high << 8) * 0x10001u;
    }
    barrier();
}

uint look_up(uint word)
{
    uint copy = gl_SubgroupInvocationID % COPIES;
    return (pairs[(word & 255u) * COPIES + copy] & 0xffffu) |
           (pairs[(word >> 8 & 255u) * COPIES + copy] & 0xffff0000u);
}

// The quants of 8 columns, of word i of a block's four.
void look_up_columns(uint word, int i, inout uvec4 q[UNITS])
{
    q[i / 2][i % 2 * 2] = look_up(word);
    q[i / 2][i % 2 * 2 + 1] = look_up(word >> 16);
}
#else
void bytes_prepare()
{
}
#endif

#if !defined(TYPE_Q4_K) && !defined(TYPE_Q5_K) && !defined(TYPE_IQ4_XS)
// The words of a window from the one on that holds byte odd of it, odd below 16: count of them.
#define WORDS_FROM(quad_count, window, odd, count, words)                                                              \
    do {                                                                                                               \
        uint all[4 * quad_count + 3];                                                                                  \
        [[unroll]] for (int i = 0; i < 4 * quad_count + 3; i++)                                                        \
            all[i] = i < 4 * quad_count ? window[i / 4][i % 4] : 0u;                                                   \
        [[unroll]] for (int i = 0; i < (count) + 1; i++)                                                               \
            all[i] = ((odd)&8u) != 0 ? all[i + 2] : all[i];                                                            \
        [[unroll]] for (int i = 0; i < (count); i++)                                                                   \
            words[i] = ((odd)&4u) != 0 ? all[i + 1] : all[i];                                                          \
    } while (false)
#endif

// ---- blocks of 32: a head, then quants

#if defined(TYPE_Q8_0) || defined(TYPE_Q4_0) || defined(TYPE_Q4_1) || defined(TYPE_Q5_0) || defined(TYPE_Q5_1) ||      \
    defined(TYPE_IQ4_NL) || defined(TYPE_MXFP4)
// A block starts at any multiple of 2 (MXFP4: 1).
#if defined(TYPE_MXFP4)
#define QUADS 2
#else
#define QUADS ((BLOCK_BYTES + 14 + 15) / 16)
#endif
#define BLOCK_WORDS (BLOCK_BYTES / 4 + 1)
struct Chunk {
    uvec4 quads[QUADS];
    uint odd;
};

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    Chunk c;
    uint64_t from = row + chunk * BLOCK_BYTES;
    c.odd = uint(from) & 15u;
    Uvec4s quads = Uvec4s(from & ~15ul);
    [[unroll]] for (int i = 0; i < QUADS; i++)
        c.quads[i] = quads.v[16 * i < BLOCK_BYTES ? uint(i) : min(uint(i), (c.odd + (BLOCK_BYTES - 1)) / 16)];
    return c;
}

void chunk_unpack(Chunk c, uint chunk, out uvec4 q[UNITS], out float scale[RUNS], out float minimum[RUNS])
{
    uint words[BLOCK_WORDS];
    WORDS_FROM(QUADS, c.quads, c.odd, BLOCK_WORDS, words);
    uint bits = (c.odd & 3u) * 8, head = SHIFTED(words, 0, bits);
#define QUANTS(i) SHIFTED(words, (i) + HEAD_BYTES / 4, bits + HEAD_BYTES % 4 * 8)
#if defined(TYPE_MXFP4)
    // The codebook has twice the values, so the scale is 2^(e - 128); its two least values are subnormal, and 0 where the
    // device has none.
    uint e = head & 255u;
    scale[0] = uintBitsToFloat(e < 2 ? 0x00200000u << e : (e - 1) << 23);
#else
    scale[0] = half_float(head);
#endif
    minimum[0] = 0;
#if defined(TYPE_Q4_0)
    minimum[0] = scale[0] * 8;
#elif defined(TYPE_Q5_0)
    minimum[0] = scale[0] * 16;
#elif defined(TYPE_Q4_1) || defined(TYPE_Q5_1)
    minimum[0] = -unpackHalf2x16(head).y;
#endif
#if defined(TYPE_Q5_0)
    uint next = SHIFTED(words, 1, bits), high = head >> 16 | next << 16;
#elif defined(TYPE_Q5_1)
    uint high = SHIFTED(words, 1, bits);
#endif
#if defined(TYPE_Q8_0)
    [[unroll]] for (int i = 0; i < 8; i++)
        q[i / 4][i % 4] = QUANTS(i);
#else
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint both = QUANTS(i);
#if defined(PAIRED)
        look_up_columns(both, i, q);
#else
        q[0][i] = both & 0x0f0f0f0fu;
        q[1][i] = both >> 4 & 0x0f0f0f0fu;
#endif
#if defined(TYPE_Q5_0) || defined(TYPE_Q5_1)
        q[0][i] |= spread_bits(high >> (4 * i)) << 4;
        q[1][i] |= spread_bits(high >> (4 * i + 16)) << 4;
#endif
    }
#endif
}

// ---- super-blocks of 256

#elif defined(TYPE_Q4_K) || defined(TYPE_Q5_K)
// Two of the block's eight parts: the low halves of 32 bytes, then their high halves.
struct Chunk {
    uvec4 head, quants[2];
#if defined(TYPE_Q5_K)
    uvec4 high[2];
#endif
};

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    Chunk c;
#if defined(TYPE_Q5_K)
    Uvec4s block = Uvec4s(row + chunk / 4 * 176);
    c.high[0] = block.v[1];
    c.high[1] = block.v[2];
    const uint first = 3;
#else
    Uvec4s block = Uvec4s(row + chunk / 4 * 144);
    const uint first = 1;
#endif
    c.head = block.v[0];
    c.quants[0] = block.v[first + chunk % 4 * 2];
    c.quants[1] = block.v[first + chunk % 4 * 2 + 1];
    return c;
}

void chunk_unpack(Chunk c, uint chunk, out uvec4 q[UNITS], out float scale[RUNS], out float minimum[RUNS])
{
    uint part = chunk % 4, shift = part % 2 * 16;
    uint a = c.head.y >> shift, b = c.head.z >> shift, low = c.head.w >> shift;
    uint scales = part < 2 ? a & 0x3f3fu : (low & 0x0f0fu) | (a >> 2 & 0x3030u);
    uint minima = part < 2 ? b & 0x3f3fu : (low >> 4 & 0x0f0fu) | (b >> 2 & 0x3030u);
    vec2 d = unpackHalf2x16(c.head.x);
    [[unroll]] for (int r = 0; r < 2; r++) {
        scale[r] = d.x * float(scales >> (8 * r) & 255u);
        minimum[r] = d.y * float(minima >> (8 * r) & 255u);
    }
    [[unroll]] for (int u = 0; u < 2; u++) {
        q[u] = c.quants[u] & 0x0f0f0f0fu;
        q[u + 2] = c.quants[u] >> 4 & 0x0f0f0f0fu;
#if defined(TYPE_Q5_K)
        uvec4 high = c.high[u] >> (2 * part);
        q[u] |= (high & 0x01010101u) << 4;
        q[u + 2] |= (high & 0x02020202u) << 3;
#endif
    }
}

#elif defined(TYPE_Q6_K)
// 16 bytes of a half of the block's high bits, and of both runs of low bits that belong to them.
struct Chunk {
    uvec4 quads[6];
    uint levels[3], scale, odd;
};

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    Chunk c;
    uint part = chunk % 4;
    uint64_t block = row + chunk / 4 * 210, low = block + (part / 2 * 64 + part % 2 * 16);
    uint64_t pieces[3] = {low, low + 32, block + 128 + part * 16}, levels = block + 192 + part / 2 * 8;
    c.odd = uint(block) & 15u;
    [[unroll]] for (int i = 0; i < 3; i++) {
        Uvec4s quads = Uvec4s(pieces[i] & ~15ul);
        c.quads[2 * i] = quads.v[0];
        c.quads[2 * i + 1] = quads.v[(c.odd + 15) / 16];
    }
    Uints words = Uints(levels & ~3ul);
    [[unroll]] for (uint i = 0; i < 3; i++)
        c.levels[i] = words.v[i < 2 ? i : 1 + (c.odd & 2u) / 2];
    c.scale = Shorts(block + 208).v[0];
    return c;
}

void chunk_unpack(Chunk c, uint chunk, out uvec4 q[UNITS], out float scale[RUNS], out float minimum[RUNS])
{
    uint bits = (c.odd & 2u) * 8, words[3][5];
    [[unroll]] for (int piece = 0; piece < 3; piece++) {
        uvec4 quads[2] = {c.quads[2 * piece], c.quads[2 * piece + 1]};
        WORDS_FROM(2, quads, c.odd, 5, words[piece]);
    }
    float d = half_float(c.scale);
    [[unroll]] for (int u = 0; u < 4; u++) {
        int byte = u % 2 * 2 + int(chunk % 2);
        scale[u] = d * float(bitfieldExtract(int(SHIFTED(c.levels, u / 2, bits)), 8 * byte, 8));
        minimum[u] = 0;
    }
    [[unroll]] for (int i = 0; i < 4; i++) {
        uint a = SHIFTED(words[0], i, bits), b = SHIFTED(words[1], i, bits), high = SHIFTED(words[2], i, bits);
        q[0][i] = (a & 0x0f0f0f0fu) | (high << 4 & 0x30303030u);
        q[1][i] = (b & 0x0f0f0f0fu) | (high << 2 & 0x30303030u);
        q[2][i] = (a >> 4 & 0x0f0f0f0fu) | (high & 0x30303030u);
        q[3][i] = (b >> 4 & 0x0f0f0f0fu) | (high >> 2 & 0x30303030u);
    }
    [[unroll]] for (int u = 0; u < 4; u++) /* 32 less, without a carry from byte to byte */
        q[u] = ((q[u] | 0x80808080u) - 0x20202020u) ^ 0x80808080u;
}

#elif defined(TYPE_IQ4_XS)
struct Chunk {
    uvec2 head, quants[2];
};

layout(buffer_reference, std430, buffer_reference_align = 8) buffer Uvec2s { uvec2 v[]; };

Chunk chunk_fetch(uint64_t row, uint chunk)
{
    Chunk c;
    Uvec2s pairs = Uvec2s(row + chunk / 8 * 136);
    c.head = pairs.v[0];
    [[unroll]] for (int i = 0; i < 2; i++)
        c.quants[i] = pairs.v[1 + chunk % 8 * 2 + i];
    return c;
}

void chunk_unpack(Chunk c, uint chunk, out uvec4 q[UNITS], out float scale[RUNS], out float minimum[RUNS])
{
    uint part = chunk % 8;
    int level = int((c.head.y >> (4 * part) & 15u) | (c.head.x >> (2 * part + 16) & 3u) << 4) - 32;
    scale[0] = half_float(c.head.x) * float(level);
    minimum[0] = 0;
    [[unroll]] for (int i = 0; i < 4; i++)
        look_up_columns(c.quants[i / 2][i % 2], i, q);
}

#endif
