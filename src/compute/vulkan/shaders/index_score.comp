#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "cache.glsl"

/* Scores of the search for positions worth attention (compute.h, struct index_search). A work group takes KEYS keys for
 * ROWS rows: of each key a quarter of the heads is an invocation's. */
layout(constant_id = 0) const uint CACHE = CACHE_F16;
layout(constant_id = 1) const uint SIZE = 128;       /* of a key; a multiple of 4 */
layout(constant_id = 2) const bool BY_HEAD = false;  /* products of each head, else their weighted sum */
layout(constant_id = 3) const bool WEIGHED = true;
layout(constant_id = 4) const uint ROWS = 4; /* at most PARTS */
#include "cache_four.glsl"

#define KEYS 32
#define PARTS 4

layout(local_size_x = 128) in;
layout(push_constant) uniform Push
{
    Vec4s query;
    Floats weights;
    Floats scores; /* of the rows at work */
    Sequences sequences;
    uint sequence_count, first_row, heads, every, key_row, stride, rows;
};

shared vec4 tile[KEYS * (SIZE / 4 + 1)];
shared float sums[ROWS * KEYS * PARTS];

/* Rows begin to end - 1 of those at work, all of one sequence. A key is read once for all of them. */
void score(Sequence sequence, uint begin, uint end, uint first)
{
    uint thread = gl_LocalInvocationID.x, key = thread % KEYS, part = thread / KEYS;
    uint own = sequence.first_position + first_row + begin - sequence.first_row; /* of the first row */
    uint most = (own + end - begin) / every;
    if (first >= most)
        return;
    barrier();
    for (uint i = thread; i < KEYS * (SIZE / 4); i += KEYS * PARTS) {
        uint k = i / (SIZE / 4), c = i % (SIZE / 4);
        tile[k * (SIZE / 4 + 1) + c] =
            first + k < most ? cache_four(sequence.keys, sequence.capacity, key_row, first + k, 4 * c) : vec4(0.0);
    }
    barrier();
    uint set = (BY_HEAD ? heads : 1) * stride;
    float row_sums[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        row_sums[r] = 0.0;
    for (uint h = part; h < heads; h += PARTS) {
        vec4 fours[ROWS];
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            fours[r] = vec4(0.0);
        for (uint c = 0; c < SIZE / 4; c++) {
            vec4 of = tile[key * (SIZE / 4 + 1) + c];
            [[unroll]] for (uint r = 0; r < ROWS; r++) { /* the last one again where there are fewer */
                uint row = first_row + min(begin + r, end - 1);
                fours[r] = fma(query.v[(row * heads + h) * (SIZE / 4) + c], of, fours[r]);
            }
        }
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            uint row = min(begin + r, end - 1);
            float product = (fours[r].x + fours[r].y) + (fours[r].z + fours[r].w);
            if (!BY_HEAD)
                row_sums[r] = fma(WEIGHED ? weights.v[(first_row + row) * heads + h] : 1.0, max(product, 0.0), row_sums[r]);
            else if (begin + r < end && first + key < (own + r + 1) / every)
                scores.v[row * set + h * stride + first + key] = product;
        }
    }
    if (BY_HEAD)
        return;
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        sums[(r * PARTS + part) * KEYS + key] = row_sums[r];
    barrier();
    /* An invocation has a row of its part's number. */
    uint at = part * PARTS * KEYS + key;
    if (begin + part < end && first + key < (own + part + 1) / every)
        scores.v[(begin + part) * set + first + key] =
            (sums[at] + sums[at + KEYS]) + (sums[at + 2 * KEYS] + sums[at + 3 * KEYS]);
}

void main()
{
    uint first = gl_WorkGroupID.x * KEYS, last = min((gl_WorkGroupID.y + 1) * ROWS, rows);
    for (uint begin = gl_WorkGroupID.y * ROWS, end; begin < last; begin = end) {
        Sequence sequence = sequence_of(sequences, sequence_count, first_row + begin);
        end = begin + 1;
        while (end < last && first_row + end - sequence.first_row < sequence.rows)
            end++;
        if (sequence.rows > 0)
            score(sequence, begin, end, first);
    }
}
