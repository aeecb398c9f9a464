#version 460
#extension GL_GOOGLE_include_directive : require

/* As attend_many, with the hardware's products of matrices, for keys and values of up to 128 elements. Four subgroups of
 * 32 take 16 queries each; the queries stay in registers as halves, and so do the weighted values as floats. The scores of
 * a block go through shared memory, where two invocations take a row, half of it each, and leave weights, as halves, in
 * its place. */
#define THREADS 128u
#define MOST_PARTS 8
#include "attend_cooperative.glsl"

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

    uint mine = gl_SubgroupID * 16, row = mine + gl_SubgroupInvocationID / 2, side = gl_SubgroupInvocationID % 2;
    for (uint i = thread; i < TILE * (KEY_SIZE / 8); i += THREADS) {
        uint q = min(first_query + i / (KEY_SIZE / 8), last_query);
        uint at = ((sequence.first_row + q / group) * heads + kv_head * group + q % group) * (KEY_SIZE / 4) +
                  i % (KEY_SIZE / 8) * 2;
        vec4 low = query.v[at], high = query.v[at + 1];
        tile[i / (KEY_SIZE / 8) * ROW + i % (KEY_SIZE / 8)] =
            uvec4(halves_of(low.xy), halves_of(low.zw), halves_of(high.xy), halves_of(high.zw));
    }
    for (uint i = gl_SubgroupInvocationID; i < 64; i += 32)
        scores[(mine + i / 4) * ROW + i % 4] = floatBitsToUint(vec4(i / 4));
    barrier();
    Rows queries[MOST_PARTS];
    [[unroll]] for (uint k = 0; k < MOST_PARTS; k++)
        if (k < KEY_PARTS)
            LOAD_ROWS(queries[k], tile, mine * ROW + k * 2, ROW);
    /* Which rows of a matrix an invocation's elements are in is the driver's choice: it shows in one that holds them. */
    Sums row_matrix;
    LOAD_ROWS(row_matrix, scores, mine * ROW, ROW);
    uint element_rows[ELEMENTS];
    [[unroll]] for (uint e = 0; e < ELEMENTS; e++)
        element_rows[e] = mine + uint(row_matrix[e]);
    Sums value_sums[MOST_PARTS];
    [[unroll]] for (uint d = 0; d < MOST_PARTS; d++)
        value_sums[d] = Sums(0.0);

    Range range = range_of(sequence, min(first_query + row, last_query) / group);
    float maximum = NOTHING, sum = 0.0;
    uint position = first - first % BLOCK, index = cache_index(sequence, position);
    uint end = min(last - position + 1, BLOCK);
    uint from = first - position; /* what no query sees may never have been written */
    piece_ask(keys, sequence.capacity, key_row, index, 0, KEY_SIZE, from, end);
    barrier();
    while (true) {
        uint next = position + BLOCK;
        bool more = next <= last;
        uint next_index = more ? cache_index(sequence, next) : 0;
        piece_place(KEY_SIZE);
        barrier();
        piece_ask(values, sequence.capacity, value_row, index, 0, VALUE_SIZE, from, end);
        [[unroll]] for (uint j = 0; j < 4; j++) {
            Sums part_sums = Sums(0.0);
            [[unroll]] for (uint k = 0; k < MOST_PARTS; k++)
                if (k < KEY_PARTS) {
                    Tokens part;
                    LOAD_TOKENS(part, tile, j * 16 * ROW + k * 2, ROW);
                    part_sums = MULTIPLY_ADD(queries[k], part, part_sums);
                }
            STORE_ROWS(part_sums, scores, mine * ROW + j * 4, ROW);
        }
        barrier();
        piece_place(VALUE_SIZE);

        vec4 s[8];
        float most = NOTHING;
        /* All queries of the tile see all positions of the block. */
        bool whole = position >= last_range.first && position + BLOCK - 1 <= first_range.last;
        [[unroll]] for (uint i = 0; i < 8; i++) {
            s[i] = uintBitsToFloat(scores[row * ROW + four_of(i, side)]) * scale;
            if (soft_cap > 0.0)
                s[i] = capped_scores(s[i]);
            if (!whole)
                s[i] = seen_scores(s[i], position + four_of(i, side) * 4, range);
            most = max(most, max(max(s[i].x, s[i].y), max(s[i].z, s[i].w)));
        }
        most = max(maximum, max(most, subgroupShuffleXor(most, 1)));
        float factor = most > maximum ? exp(maximum - most) : 1.0, block_sum = 0.0;
        maximum = most;
        [[unroll]] for (uint i = 0; i < 8; i++) {
            [[unroll]] for (uint k = 0; k < 4; k++) {
                s[i][k] = s[i][k] > NOTHING ? exp(s[i][k] - most) : 0.0;
                block_sum += s[i][k];
            }
        }
        subgroup_sync(); /* both halves of a row were read */
        [[unroll]] for (uint i = 0; i < 8; i += 2)
            scores[row * ROW + four_of(i, side) / 2] = uvec4(packHalf2x16(s[i].xy), packHalf2x16(s[i].zw),
                                                             packHalf2x16(s[i + 1].xy), packHalf2x16(s[i + 1].zw));
        float other = subgroupShuffleXor(block_sum, 1);
        if (side == 0)
            factors[row] = factor;
        sum = fma(sum, factor, side == 0 ? block_sum + other : other + block_sum);
        barrier();

        if (more) {
            position = next;
            index = next_index;
            end = min(last - next + 1, BLOCK);
            from = 0;
            piece_ask(keys, sequence.capacity, key_row, index, 0, KEY_SIZE, 0, end);
        }
        [[unroll]] for (uint e = 0; e < ELEMENTS; e++) {
            float shrink = factors[element_rows[e]];
            [[unroll]] for (uint d = 0; d < MOST_PARTS; d++)
                if (d < VALUE_PARTS)
                    value_sums[d][e] *= shrink;
        }
        [[unroll]] for (uint j = 0; j < 4; j++) {
            Rows weights;
            LOAD_ROWS(weights, scores, mine * ROW + j * 2, ROW);
            [[unroll]] for (uint d = 0; d < MOST_PARTS; d++)
                if (d < VALUE_PARTS) {
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
    [[unroll]] for (uint e = 0; e < ELEMENTS; e++) {
        float share = factors[element_rows[e]];
        [[unroll]] for (uint d = 0; d < MOST_PARTS; d++)
            if (d < VALUE_PARTS)
                value_sums[d][e] *= share;
    }
    /* Four matrices at a time through this subgroup's rows of the scores. */
    [[unroll]] for (uint d = 0; d < MOST_PARTS; d += 4) {
        [[unroll]] for (uint n = 0; n < 4; n++)
            if (d + n < VALUE_PARTS)
                STORE_ROWS(value_sums[d + n], scores, mine * ROW + n * 4, ROW);
        subgroup_sync();
        [[unroll]] for (uint n = 0; n < 8; n++) {
            uint i = n * 32 + gl_SubgroupInvocationID, r = mine + i / 16, four = i % 16, q = first_query + r;
            if (q <= last_query && d + four / 4 < VALUE_PARTS)
                write_four(sequence.first_row + q / group, kv_head * group + q % group, d * 4 + four,
                           scores[r * ROW + four]);
        }
        subgroup_sync();
    }
}
