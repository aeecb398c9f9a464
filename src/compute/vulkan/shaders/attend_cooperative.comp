#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
#include "cache.glsl"
#include "functions.glsl"
#include "cooperative.glsl"

/* As attend_many, with the hardware's products of matrices. Subgroups of 32 keep their queries in registers as halves,
 * and weighted values as floats. The scores of a block go through shared memory, where SIDES invocations take a row, an
 * equal part each, and leave weights, as halves, in its place.
 *
 * Four subgroups take 16 queries each. With WIDE there are eight, because the registers of four do not hold values of more
 * than 128 elements: two subgroups share 16 queries, and each computes the scores of half of the positions. Of the values,
 * four share 32 queries, and each takes every fourth 16 columns. */
layout(constant_id = 0) const uint KEY_SIZE = 128;   /* at most 256 */
layout(constant_id = 1) const uint VALUE_SIZE = 128; /* at most 128, or 256 with WIDE */
layout(constant_id = 2) const bool HALVES = false;   /* what is written */

#ifdef WIDE
#define SHARE 2u
#else
#define SHARE 1u
#endif
#define THREADS (128u * SHARE)
#define TILE 64u
#define ROW 17u /* uvec4s of a row of 64 floats, or of 128 halves: odd, so that 16-byte reads of a column meet no bank twice */
#define SIDES (2u * SHARE)
#define RUN (8u / SIDES)            /* neighbouring fours of a row of scores, an invocation's */
#define ACROSS (SHARE * SHARE)      /* subgroups that share the columns of values */
#define KEY_GROUPS (4u / SHARE)     /* of 16 positions, a subgroup's */
#define VALUE_GROUPS SHARE          /* of 16 queries, a subgroup's */
#define PIECE_COLUMNS (8u / ACROSS) /* of 16 elements, a subgroup's in a piece of the values */
#define COLUMNS (PIECE_COLUMNS * SHARE)
#define MOST_KEY_PARTS 16
#define ELEMENTS 8 /* of a matrix, an invocation's */

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

const uint KEY_PARTS = KEY_SIZE / 16, KEY_PIECES = (KEY_SIZE + PIECE - 1) / PIECE;
const uint VALUE_PARTS = VALUE_SIZE / 16, VALUE_PIECES = (VALUE_SIZE + PIECE - 1) / PIECE;

shared uvec4 scores[TILE * ROW]; /* the bits of floats, then of halves */
shared float factors[TILE];

void subgroup_sync()
{
    subgroupMemoryBarrierShared();
    subgroupBarrier();
}

uint piece_elements(uint size, uint piece)
{
    return min(size - piece * PIECE, PIECE);
}

/* Of the fours of a row of scores, the i-th of an invocation: parts of rows interleave so that banks differ. */
uint four_of(uint i, uint side)
{
    return i / RUN * 8 + side * RUN + i % RUN;
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
    Range first_range = range_of(sequence, first_query / group), last_range = range_of(sequence, last_query / group);
    uint first = first_range.first, last = last_range.last;
    uint64_t keys = sequence.keys + kv_head * cache_head_bytes(sequence.capacity, key_row);
    uint64_t values = sequence.values + kv_head * cache_head_bytes(sequence.capacity, value_row);

    /* The subgroup's queries and groups of positions for scores, and its queries and columns of values; the invocation's
     * part of a row of scores. */
    uint mine = gl_SubgroupID / SHARE * 16, first_group = gl_SubgroupID % SHARE * KEY_GROUPS;
    uint weighted = gl_SubgroupID / ACROSS * VALUE_GROUPS * 16, column = gl_SubgroupID % ACROSS;
    uint row = (gl_SubgroupID * 32 + gl_SubgroupInvocationID) / SIDES, side = gl_SubgroupInvocationID % SIDES;
    if (thread < 64)
        scores[thread / 4 * ROW + thread % 4] = floatBitsToUint(vec4(thread / 4));
    Rows queries[MOST_KEY_PARTS];
    [[unroll]] for (uint piece = 0; piece < 2; piece++)
        if (piece < KEY_PIECES) {
            uint quads = piece_elements(KEY_SIZE, piece) / 8;
            for (uint i = thread; i < TILE * quads; i += THREADS) {
                uint q = min(first_query + i / quads, last_query);
                uint at = ((sequence.first_row + q / group) * heads + kv_head * group + q % group) * (KEY_SIZE / 4) +
                          piece * (PIECE / 4) + i % quads * 2;
                vec4 low = query.v[at], high = query.v[at + 1];
                tile[i / quads * ROW + i % quads] =
                    uvec4(halves_of(low.xy), halves_of(low.zw), halves_of(high.xy), halves_of(high.zw));
            }
            barrier();
            [[unroll]] for (uint k = 0; k < 8; k++)
                if (piece * 8 + k < KEY_PARTS)
                    LOAD_ROWS(queries[piece * 8 + k], tile, mine * ROW + k * 2, ROW);
            barrier();
        }
    /* Which rows of a matrix an invocation's elements are in is the driver's choice: it shows in one that holds them. */
    Sums row_matrix;
    LOAD_ROWS(row_matrix, scores, 0, ROW);
    uint element_rows[ELEMENTS];
    [[unroll]] for (uint e = 0; e < ELEMENTS; e++)
        element_rows[e] = weighted + uint(row_matrix[e]);
    Sums value_sums[VALUE_GROUPS * COLUMNS];
    [[unroll]] for (uint i = 0; i < VALUE_GROUPS * COLUMNS; i++)
        value_sums[i] = Sums(0.0);

    Range range = range_of(sequence, min(first_query + row, last_query) / group);
    float maximum = NOTHING, sum = 0.0;
    uint position = first - first % BLOCK, index = cache_index(sequence, position);
    uint end = min(last - position + 1, BLOCK);
    uint from = first - position; /* what no query sees may never have been written */
    piece_ask(keys, sequence.capacity, key_row, index, 0, piece_elements(KEY_SIZE, 0), from, end);
    while (true) {
        uint next = position + BLOCK;
        bool more = next <= last;
        uint next_index = more ? cache_index(sequence, next) : 0;
        Sums score_sums[KEY_GROUPS];
        [[unroll]] for (uint piece = 0; piece < 2; piece++)
            if (piece < KEY_PIECES) {
                bool last_piece = piece + 1 == KEY_PIECES;
                piece_place(piece_elements(KEY_SIZE, piece));
                barrier();
                if (last_piece)
                    piece_ask(values, sequence.capacity, value_row, index, 0, piece_elements(VALUE_SIZE, 0), from, end);
                else
                    piece_ask(keys, sequence.capacity, key_row, index, (piece + 1) * PIECE,
                              piece_elements(KEY_SIZE, piece + 1), from, end);
                [[unroll]] for (uint j = 0; j < KEY_GROUPS; j++) {
                    if (piece == 0)
                        score_sums[j] = Sums(0.0);
                    [[unroll]] for (uint k = 0; k < 8; k++)
                        if (piece * 8 + k < KEY_PARTS) {
                            Tokens part;
                            LOAD_TOKENS(part, tile, (first_group + j) * 16 * ROW + k * 2, ROW);
                            score_sums[j] = MULTIPLY_ADD(queries[piece * 8 + k], part, score_sums[j]);
                        }
                    if (last_piece)
                        STORE_ROWS(score_sums[j], scores, mine * ROW + (first_group + j) * 4, ROW);
                }
                barrier();
            }
        piece_place(piece_elements(VALUE_SIZE, 0));

        vec4 s[16 / SIDES];
        float most = NOTHING;
        /* All queries of the tile see all positions of the block. */
        bool whole = position >= last_range.first && position + BLOCK - 1 <= first_range.last;
        [[unroll]] for (uint i = 0; i < 16 / SIDES; i++) {
            s[i] = uintBitsToFloat(scores[row * ROW + four_of(i, side)]) * scale;
            if (soft_cap > 0.0)
                [[unroll]] for (uint k = 0; k < 4; k++)
                    s[i][k] = tanh_of(s[i][k] / soft_cap) * soft_cap;
            if (!whole)
                [[unroll]] for (uint k = 0; k < 4; k++) {
                    uint p = position + four_of(i, side) * 4 + k;
                    s[i][k] = p >= range.first && p <= range.last ? s[i][k] : NOTHING;
                }
            most = max(most, max(max(s[i].x, s[i].y), max(s[i].z, s[i].w)));
        }
        [[unroll]] for (uint k = 1; k < SIDES; k *= 2)
            most = max(most, subgroupShuffleXor(most, k));
        most = max(maximum, most);
        float factor = most > maximum ? exp(maximum - most) : 1.0, block_sum = 0.0;
        maximum = most;
        [[unroll]] for (uint i = 0; i < 16 / SIDES; i++) {
            [[unroll]] for (uint k = 0; k < 4; k++) {
                s[i][k] = s[i][k] > NOTHING ? exp(s[i][k] - most) : 0.0;
                block_sum += s[i][k];
            }
        }
        subgroup_sync(); /* all of a row was read */
        [[unroll]] for (uint i = 0; i < 16 / SIDES; i += 2)
            scores[row * ROW + four_of(i, side) / 2] = uvec4(packHalf2x16(s[i].xy), packHalf2x16(s[i].zw),
                                                             packHalf2x16(s[i + 1].xy), packHalf2x16(s[i + 1].zw));
        [[unroll]] for (uint k = 1; k < SIDES; k *= 2)
            block_sum += subgroupShuffleXor(block_sum, k);
        if (side == 0)
            factors[row] = factor;
        sum = fma(sum, factor, block_sum);
        barrier();

        [[unroll]] for (uint piece = 0; piece < SHARE; piece++)
            if (piece < VALUE_PIECES) {
                if (piece > 0) {
                    piece_place(piece_elements(VALUE_SIZE, piece));
                    barrier();
                }
                if (piece + 1 < VALUE_PIECES) {
                    piece_ask(values, sequence.capacity, value_row, index, (piece + 1) * PIECE,
                              piece_elements(VALUE_SIZE, piece + 1), from, end);
                } else if (more) {
                    position = next;
                    index = next_index;
                    end = min(last - next + 1, BLOCK);
                    from = 0;
                    piece_ask(keys, sequence.capacity, key_row, index, 0, piece_elements(KEY_SIZE, 0), 0, end);
                }
                const uint first_column = piece * PIECE_COLUMNS;
                [[unroll]] for (uint e = 0; e < ELEMENTS; e++)
                    [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++) {
                        float shrink = factors[element_rows[e] + g * 16];
                        [[unroll]] for (uint d = first_column; d < first_column + PIECE_COLUMNS; d++)
                            if (d * ACROSS < VALUE_PARTS)
                                value_sums[g * COLUMNS + d][e] *= shrink;
                    }
                [[unroll]] for (uint j = 0; j < 4; j++) {
                    Rows weights[VALUE_GROUPS];
                    [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++)
                        LOAD_ROWS(weights[g], scores, (weighted + g * 16) * ROW + j * 2, ROW);
                    /* Columns beyond the last are garbage that nothing reads. */
                    [[unroll]] for (uint d = 0; d < PIECE_COLUMNS; d++)
                        if ((first_column + d) * ACROSS < VALUE_PARTS) {
                            Tokens part;
                            LOAD_ROWS(part, tile, j * 16 * ROW + (d * ACROSS + column) * 2, ROW);
                            [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++) {
                                const uint at = g * COLUMNS + first_column + d;
                                value_sums[at] = MULTIPLY_ADD(weights[g], part, value_sums[at]);
                            }
                        }
                }
                barrier();
            }
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
    barrier();
    [[unroll]] for (uint e = 0; e < ELEMENTS; e++)
        [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++) {
            float share = factors[element_rows[e] + g * 16];
            [[unroll]] for (uint d = 0; d < COLUMNS; d++)
                if (d * ACROSS < VALUE_PARTS)
                    value_sums[g * COLUMNS + d][e] *= share;
        }
    /* A few matrices at a time through this subgroup's part of the scores. */
    const uint at_once = 4 / SHARE, own = mine * ROW + gl_SubgroupID % SHARE * (16 / SHARE);
    [[unroll]] for (uint i = 0; i < VALUE_GROUPS * COLUMNS; i += at_once)
        if (i % COLUMNS * ACROSS < VALUE_PARTS) {
            [[unroll]] for (uint n = 0; n < at_once; n++)
                if ((i % COLUMNS + n) * ACROSS < VALUE_PARTS)
                    STORE_ROWS(value_sums[i + n], scores, own + n * 4, ROW);
            subgroup_sync();
            for (uint k = gl_SubgroupInvocationID; k < 16 * 4 * at_once; k += 32) {
                uint r = k / (4 * at_once), four = k % (4 * at_once);
                uint q = first_query + weighted + i / COLUMNS * 16 + r;
                uint part = (i % COLUMNS + four / 4) * ACROSS + column;
                if (q > last_query || part >= VALUE_PARTS)
                    continue;
                uvec4 bits = scores[own + r * ROW + four];
                uint at = ((sequence.first_row + q / group) * heads + kv_head * group + q % group) * (VALUE_SIZE / 4) +
                          part * 4 + four % 4;
                if (HALVES)
                    Uvec2s(into).v[at] = uvec2(halves_of(uintBitsToFloat(bits.xy)), halves_of(uintBitsToFloat(bits.zw)));
                else
                    Uvec4s(into).v[at] = bits;
            }
            subgroup_sync();
        }
}
