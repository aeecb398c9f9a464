#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "cache.glsl"

/* Scores of the search for positions worth attention (compute.h, struct index_search). A work group takes KEYS keys for
 * one row: of each key a quarter of the heads is an invocation's. */
layout(constant_id = 0) const uint CACHE = CACHE_F16;
layout(constant_id = 1) const uint SIZE = 128;       /* of a key; a multiple of 4 */
layout(constant_id = 2) const bool BY_HEAD = false;  /* products of each head, else their weighted sum */
layout(constant_id = 3) const bool WEIGHED = true;
#include "cache_four.glsl"

#define KEYS 32
#define PARTS 4

layout(local_size_x = 128) in;
layout(push_constant) uniform Push
{
    Floats query;
    Floats weights;
    Floats scores; /* of the rows at work */
    Sequences sequences;
    uint sequence_count, first_row, heads, every, key_row, stride;
};

shared vec4 tile[KEYS * (SIZE / 4 + 1)];
shared float sums[KEYS * PARTS];

void main()
{
    uint thread = gl_LocalInvocationID.x, row = first_row + gl_WorkGroupID.y, first = gl_WorkGroupID.x * KEYS;
    Sequence sequence = sequence_of(sequences, sequence_count, row);
    uint own = sequence.first_position + row - sequence.first_row, keys = (own + 1) / every;
    if (sequence.rows == 0 || first >= keys)
        return;
    for (uint i = thread; i < KEYS * (SIZE / 4); i += KEYS * PARTS) {
        uint key = i / (SIZE / 4), c = i % (SIZE / 4);
        tile[key * (SIZE / 4 + 1) + c] =
            first + key < keys ? cache_four(sequence.keys, sequence.capacity, key_row, first + key, 4 * c) : vec4(0.0);
    }
    barrier();
    uint key = thread % KEYS, part = thread / KEYS;
    Floats into = Floats(uint64_t(scores) + uint64_t(gl_WorkGroupID.y) * (BY_HEAD ? heads : 1) * stride * 4);
    float sum = 0.0;
    for (uint h = part; h < heads; h += PARTS) {
        vec4 four = vec4(0.0);
        for (uint c = 0; c < SIZE / 4; c++) {
            uint at = (row * heads + h) * SIZE + 4 * c;
            four = fma(vec4(query.v[at], query.v[at + 1], query.v[at + 2], query.v[at + 3]),
                       tile[key * (SIZE / 4 + 1) + c], four);
        }
        float product = (four.x + four.y) + (four.z + four.w);
        if (!BY_HEAD)
            sum = fma(WEIGHED ? weights.v[row * heads + h] : 1.0, max(product, 0.0), sum);
        else if (first + key < keys)
            into.v[h * stride + first + key] = product;
    }
    if (BY_HEAD)
        return;
    sums[part * KEYS + key] = sum;
    barrier();
    if (part == 0 && first + key < keys)
        into.v[first + key] = (sums[key] + sums[KEYS + key]) + (sums[2 * KEYS + key] + sums[3 * KEYS + key]);
}
