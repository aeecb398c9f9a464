#version 460
#extension GL_GOOGLE_include_directive : require

/* As attend_cooperative, for keys or values of up to 256 elements, which pass through shared memory in pieces of 128. The
 * registers of four subgroups do not hold such queries and values, so there are eight. Two share 16 queries, and each
 * computes the scores of half of the positions. Of the values, four share 32 queries, and each takes every fourth 16
 * columns. */
#define THREADS 256u
#include "attend_cooperative.glsl"

#define PIECES 2       /* the most, of keys or values */
#define PIECE_PARTS 8u /* of 16 elements */
#define KEY_GROUPS 2   /* of 16 positions, a subgroup's */
#define VALUE_GROUPS 2 /* of 16 queries, a subgroup's */
#define SHARERS 4u     /* of these queries */
#define PIECE_COLUMNS (PIECE_PARTS / SHARERS) /* of 16 elements of the values, a subgroup's in a piece */
#define COLUMNS (PIECES * PIECE_COLUMNS)

const uint KEY_PIECES = (KEY_SIZE + PIECE - 1) / PIECE, VALUE_PIECES = (VALUE_SIZE + PIECE - 1) / PIECE;

uint piece_elements(uint size, uint piece)
{
    return min(size - piece * PIECE, PIECE);
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
    uint mine = gl_SubgroupID / 2 * 16, first_group = gl_SubgroupID % 2 * KEY_GROUPS;
    uint weighted = gl_SubgroupID / SHARERS * VALUE_GROUPS * 16, column = gl_SubgroupID % SHARERS;
    uint row = (gl_SubgroupID * 32 + gl_SubgroupInvocationID) / SIDES, side = gl_SubgroupInvocationID % SIDES;
    if (thread < 64)
        scores[thread / 4 * ROW + thread % 4] = floatBitsToUint(vec4(thread / 4));
    Rows queries[PIECES * PIECE_PARTS];
    [[unroll]] for (uint piece = 0; piece < PIECES; piece++)
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
            [[unroll]] for (uint k = 0; k < PIECE_PARTS; k++)
                if (piece * PIECE_PARTS + k < KEY_PARTS)
                    LOAD_ROWS(queries[piece * PIECE_PARTS + k], tile, mine * ROW + k * 2, ROW);
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
        [[unroll]] for (uint piece = 0; piece < PIECES; piece++)
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
                    [[unroll]] for (uint k = 0; k < PIECE_PARTS; k++)
                        if (piece * PIECE_PARTS + k < KEY_PARTS) {
                            Tokens part;
                            LOAD_TOKENS(part, tile, (first_group + j) * 16 * ROW + k * 2, ROW);
                            score_sums[j] = MULTIPLY_ADD(queries[piece * PIECE_PARTS + k], part, score_sums[j]);
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

        [[unroll]] for (uint piece = 0; piece < PIECES; piece++)
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
                            if (d * SHARERS < VALUE_PARTS)
                                value_sums[g * COLUMNS + d][e] *= shrink;
                    }
                [[unroll]] for (uint j = 0; j < 4; j++) {
                    Rows weights[VALUE_GROUPS];
                    [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++)
                        LOAD_ROWS(weights[g], scores, (weighted + g * 16) * ROW + j * 2, ROW);
                    /* Columns beyond the last are garbage that nothing reads. */
                    [[unroll]] for (uint d = 0; d < PIECE_COLUMNS; d++)
                        if ((first_column + d) * SHARERS < VALUE_PARTS) {
                            Tokens part;
                            LOAD_ROWS(part, tile, j * 16 * ROW + (d * SHARERS + column) * 2, ROW);
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
                if (d * SHARERS < VALUE_PARTS)
                    value_sums[g * COLUMNS + d][e] *= share;
        }
    /* Two matrices at a time through this subgroup's part of the scores. */
    const uint own = mine * ROW + gl_SubgroupID % 2 * 8;
    [[unroll]] for (uint i = 0; i < VALUE_GROUPS * COLUMNS; i += 2)
        if (i % COLUMNS * SHARERS < VALUE_PARTS) {
            [[unroll]] for (uint n = 0; n < 2; n++)
                if ((i % COLUMNS + n) * SHARERS < VALUE_PARTS)
                    STORE_ROWS(value_sums[i + n], scores, own + n * 4, ROW);
            subgroup_sync();
            for (uint k = gl_SubgroupInvocationID; k < 16 * 8; k += 32) {
                uint r = k / 8, four = k % 8;
                uint q = first_query + weighted + i / COLUMNS * 16 + r;
                uint part = (i % COLUMNS + four / 4) * SHARERS + column;
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
