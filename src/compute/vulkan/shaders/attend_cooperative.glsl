/* What the kernels of attention on matrix units share. A work group of THREADS takes a tile of TILE queries, and passes the
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

#define ELEMENTS 8 /* of a matrix, an invocation's */
#define SIDES (THREADS / TILE) /* invocations that share a row of scores */

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

#include "attend_range.glsl"

const uint KEY_PARTS = KEY_SIZE / 16;
const uint VALUE_PARTS = VALUE_SIZE / 16;

shared float factors[TILE];

void subgroup_sync()
{
    subgroupMemoryBarrierShared();
    subgroupBarrier();
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
