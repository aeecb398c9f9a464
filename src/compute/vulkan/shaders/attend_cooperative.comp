#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "cache.glsl"
#include "functions.glsl"
#include "cooperative.glsl"

/* As attend_many, with the hardware's products of matrices. Four subgroups of 32 take 16 queries each; the queries stay
 * in registers as halves, and so do the weighted values as floats. The scores of a block go through shared memory, where
 * two invocations take a row each half of it and make weights, as halves, in its place. */
layout(constant_id = 0) const uint KEY_SIZE = 128;
layout(constant_id = 1) const uint VALUE_SIZE = 128; /* both at most 128 */

#define THREADS 128u
#define TILE 64u
#define ROW 17u /* uvec4s of a row of 64 floats, or of 128 halves: odd, so that 16-byte reads of a column meet no bank twice */
#define MOST_PARTS 8
#define ELEMENTS 8 /* of a matrix, an invocation's */

layout(local_size_x = 128) in;
layout(push_constant) uniform Push
{
    Floats query;
    Vec4s into;
    Floats sinks;
    Sequences sequences;
    uint heads, kv_heads, key_row, value_row;
    float scale, soft_cap;
    uint window, chunk, bidirectional;
};

#define TILE_WORDS 64u
#define TILE_STRIDE (ROW * 4u)
#define TILE_QUADS
#include "attend_range.glsl"
#include "attend_tile.glsl"

const uint KEY_PARTS = KEY_SIZE / 16;
const uint VALUE_PARTS = VALUE_SIZE / 16;

shared uvec4 scores[TILE * ROW]; /* the bits of floats, then of halves */
shared float maxima[THREADS], sums[THREADS], factors[TILE];

void subgroup_sync()
{
    subgroupMemoryBarrierShared();
    subgroupBarrier();
}

void main()
{
    uint thread = gl_LocalInvocationID.x;
    Sequence sequence = sequences.v[gl_WorkGroupID.z];
    uint group = heads / kv_heads, kv_head = gl_WorkGroupID.y, query_count = sequence.rows * group;
    uint tiles = (query_count + TILE - 1) / TILE;
    if (gl_WorkGroupID.x >= tiles)
        return;
    uint first_query = (tiles - 1 - gl_WorkGroupID.x) * TILE; /* the longest walks first */
    uint last_query = min(first_query + TILE, query_count) - 1;
    uint first = range_of(sequence, first_query / group).first, last = range_of(sequence, last_query / group).last;
    uint64_t keys = sequence.keys + kv_head * cache_head_bytes(sequence.capacity, key_row);
    uint64_t values = sequence.values + kv_head * cache_head_bytes(sequence.capacity, value_row);

    uint mine = gl_SubgroupID * 16, row = mine + gl_SubgroupInvocationID / 2, side = gl_SubgroupInvocationID % 2;
    for (uint i = thread; i < TILE * (KEY_SIZE / 8); i += THREADS) {
        uint q = min(first_query + i / (KEY_SIZE / 8), last_query);
        uint at = ((sequence.first_row + q / group) * heads + kv_head * group + q % group) * KEY_SIZE + i % (KEY_SIZE / 8) * 8;
        uvec4 halves;
        [[unroll]] for (uint k = 0; k < 4; k++)
            halves[k] = packHalf2x16(clamp(vec2(query.v[at + 2 * k], query.v[at + 2 * k + 1]), vec2(-65504), vec2(65504)));
        tile[i / (KEY_SIZE / 8) * ROW + i % (KEY_SIZE / 8)] = halves;
    }
    for (uint i = gl_SubgroupInvocationID; i < 64; i += 32)
        scores[(mine + i / 4) * ROW + i % 4] = floatBitsToUint(vec4(i / 4));
    barrier();
    Rows queries[MOST_PARTS];
    [[unroll]] for (uint k = 0; k < KEY_PARTS; k++)
        LOAD_ROWS(queries[k], tile, mine * ROW + k * 2, ROW);
    /* Which rows of a matrix an invocation's elements are in is the driver's choice: it shows in one that holds them. */
    Sums row_matrix;
    LOAD_ROWS(row_matrix, scores, mine * ROW, ROW);
    uint element_rows[ELEMENTS];
    [[unroll]] for (uint e = 0; e < ELEMENTS; e++)
        element_rows[e] = mine + uint(row_matrix[e]);
    Sums value_sums[MOST_PARTS];
    [[unroll]] for (uint d = 0; d < VALUE_PARTS; d++)
        value_sums[d] = Sums(0.0);

    Range range = range_of(sequence, min(first_query + row, last_query) / group);
    float maximum = NOTHING, sum = 0.0;
    uint position = first - first % BLOCK, index = position % sequence.capacity;
    uint end = min(last - position + 1, BLOCK);
    piece_ask(keys, sequence.capacity, key_row, index, 0, KEY_SIZE, 0, end);
    barrier();
    while (true) {
        piece_place(KEY_SIZE);
        barrier();
        piece_ask(values, sequence.capacity, value_row, index, 0, VALUE_SIZE, 0, end);
        Sums score_parts[4];
        [[unroll]] for (uint j = 0; j < 4; j++) {
            score_parts[j] = Sums(0.0);
            [[unroll]] for (uint k = 0; k < KEY_PARTS; k++) {
                Tokens part;
                LOAD_TOKENS(part, tile, j * 16 * ROW + k * 2, ROW);
                score_parts[j] = MULTIPLY_ADD(queries[k], part, score_parts[j]);
            }
            STORE_ROWS(score_parts[j], scores, mine * ROW + j * 4, ROW);
        }
        barrier();
        piece_place(VALUE_SIZE);

        vec4 s[8];
        float most = NOTHING;
        [[unroll]] for (uint i = 0; i < 8; i++) {
            s[i] = uintBitsToFloat(scores[row * ROW + side * 8 + i]) * scale;
            [[unroll]] for (uint k = 0; k < 4; k++) {
                if (soft_cap > 0.0)
                    s[i][k] = tanh_of(s[i][k] / soft_cap) * soft_cap;
                uint p = position + side * 32 + i * 4 + k;
                s[i][k] = p >= range.first && p <= range.last ? s[i][k] : NOTHING;
            }
            most = max(most, max(max(s[i].x, s[i].y), max(s[i].z, s[i].w)));
        }
        maxima[row * 2 + side] = most;
        subgroup_sync();
        most = max(maximum, max(maxima[row * 2], maxima[row * 2 + 1]));
        float factor = most > maximum ? exp(maximum - most) : 1.0, block_sum = 0.0;
        maximum = most;
        [[unroll]] for (uint i = 0; i < 8; i += 2) {
            [[unroll]] for (uint n = i; n < i + 2; n++)
                [[unroll]] for (uint k = 0; k < 4; k++) {
                    s[n][k] = s[n][k] > NOTHING ? exp(s[n][k] - most) : 0.0;
                    block_sum += s[n][k];
                }
            scores[row * ROW + side * 4 + i / 2] = uvec4(packHalf2x16(s[i].xy), packHalf2x16(s[i].zw),
                                                              packHalf2x16(s[i + 1].xy), packHalf2x16(s[i + 1].zw));
        }
        sums[row * 2 + side] = block_sum;
        if (side == 0)
            factors[row] = factor;
        barrier();
        sum = fma(sum, factor, sums[row * 2] + sums[row * 2 + 1]);

        uint next = position + BLOCK;
        bool more = next <= last;
        if (more) {
            position = next;
            index = next % sequence.capacity;
            end = min(last - next + 1, BLOCK);
            piece_ask(keys, sequence.capacity, key_row, index, 0, KEY_SIZE, 0, end);
        }
        float shrink[ELEMENTS];
        [[unroll]] for (uint e = 0; e < ELEMENTS; e++)
            shrink[e] = factors[element_rows[e]];
        [[unroll]] for (uint d = 0; d < VALUE_PARTS; d++)
            [[unroll]] for (uint e = 0; e < ELEMENTS; e++)
                value_sums[d][e] *= shrink[e];
        [[unroll]] for (uint j = 0; j < 4; j++) {
            Rows weights;
            LOAD_ROWS(weights, scores, mine * ROW + j * 2, ROW);
            [[unroll]] for (uint d = 0; d < VALUE_PARTS; d++) {
                Tokens part;
                LOAD_ROWS(part, tile, j * 16 * ROW + d * 2, ROW);
                value_sums[d] = MULTIPLY_ADD(weights, part, value_sums[d]);
            }
        }
        barrier();
        if (!more)
            break;
    }

    uint query_number = min(first_query + row, last_query), head = kv_head * group + query_number % group;
    float factor = 1.0;
    if (uint64_t(sinks) != 0) {
        float most = max(sinks.v[head], maximum);
        factor = exp(maximum - most);
        sum = fma(sum, factor, exp(sinks.v[head] - most));
    }
    if (side == 0)
        factors[row] = sum > 0.0 ? factor / sum : 0.0;
    subgroup_sync();
    [[unroll]] for (uint d = 0; d < VALUE_PARTS; d += 4) {
        uint parts = min(VALUE_PARTS - d, 4);
        [[unroll]] for (uint n = 0; n < parts; n++) {
            [[unroll]] for (uint e = 0; e < ELEMENTS; e++)
                value_sums[d + n][e] *= factors[element_rows[e]];
            STORE_ROWS(value_sums[d + n], scores, mine * ROW + n * 4, ROW);
        }
        subgroup_sync();
        for (uint i = gl_SubgroupInvocationID; i < 16 * parts * 4; i += 32) {
            uint r = mine + i / (parts * 4), four = i % (parts * 4), q = first_query + r;
            if (q <= last_query)
                into.v[((sequence.first_row + q / group) * heads + kv_head * group + q % group) * (VALUE_SIZE / 4) + d * 4 + four] =
                    uintBitsToFloat(scores[r * ROW + four]);
        }
        subgroup_sync();
    }
}
