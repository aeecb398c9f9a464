/* What the kernels of attention on matrix units share. A work group of THREADS takes a tile of queries, and passes the
 * positions that they see in blocks.
 *
 * Arrays, such as those of matrices, are sure to be registers only if glslc makes all indices literal. It unrolls no loop
 * that has another one under a condition, or one that it cannot unroll. */
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
#include "cache.glsl"
#include "functions.glsl"
#include "cooperative.glsl"

layout(constant_id = 0) const uint KEY_SIZE = 128;
layout(constant_id = 1) const uint VALUE_SIZE = 128;
layout(constant_id = 2) const bool HALVES = false; /* what is written */

#define TILE 64u
#define ROW 17u /* uvec4s of a row of 64 floats, or of 128 halves: odd, so that 16-byte reads of a column meet no bank twice */
#define ELEMENTS 8 /* of a matrix, an invocation's */
#define SIDES (THREADS / TILE) /* invocations that share a row of scores */
#define RUN (8u / SIDES)       /* neighbouring fours of a row, an invocation's */

layout(local_size_x = THREADS) in;
layout(push_constant) uniform Push
{
    Vec4s query;
    uint64_t into;
    Floats sinks;
    Sequences sequences;
    uint heads, kv_heads, key_row, value_row;
    float scale, soft_cap;
    uint window, chunk, bidirectional;
};

layout(buffer_reference, std430, buffer_reference_align = 8) buffer Uvec2s { uvec2 v[]; };

#define TILE_WORDS 64u
#define TILE_STRIDE (ROW * 4u)
#define TILE_QUADS
#include "attend_range.glsl"
#include "attend_tile.glsl"

const uint KEY_PARTS = KEY_SIZE / 16;
const uint VALUE_PARTS = VALUE_SIZE / 16;

shared uvec4 scores[TILE * ROW]; /* the bits of floats, then of halves */
shared float factors[TILE];

void subgroup_sync()
{
    subgroupMemoryBarrierShared();
    subgroupBarrier();
}

/* Of the fours of a row of scores, the i-th of an invocation: parts of rows interleave so that banks differ. */
uint four_of(uint i, uint side)
{
    return i / RUN * 8 + side * RUN + i % RUN;
}

vec4 capped_scores(vec4 s)
{
    s /= soft_cap;
    return vec4(tanh_of(s.x), tanh_of(s.y), tanh_of(s.z), tanh_of(s.w)) * soft_cap;
}

/* Scores of a position and the next three, as far as a query sees them. */
vec4 seen_scores(vec4 s, uint position, Range range)
{
    uvec4 positions = position + uvec4(0, 1, 2, 3);
    s = mix(vec4(NOTHING), s, greaterThanEqual(positions, uvec4(range.first)));
    return mix(vec4(NOTHING), s, lessThanEqual(positions, uvec4(range.last)));
}

/* Writes four elements of what a row's head becomes. */
void write_four(uint row, uint head, uint four, uvec4 bits)
{
    uint at = (row * heads + head) * (VALUE_SIZE / 4) + four;
    if (HALVES)
        Uvec2s(into).v[at] = uvec2(halves_of(uintBitsToFloat(bits.xy)), halves_of(uintBitsToFloat(bits.zw)));
    else
        Uvec4s(into).v[at] = bits;
}
