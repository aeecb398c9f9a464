#version 460
#extension GL_GOOGLE_include_directive : require

/* As attend_many, with the hardware's products of matrices. Keys and values pass through shared memory in pieces of up
 * to 128 elements. Queries, as halves, and weighted values, as floats, stay in the registers of eight subgroups: in those
 * of four, 64 queries of 256 elements have no room. Two subgroups share 16 queries, and each computes the scores of half of
 * the positions. Of the values, four share 32 queries, and each takes every fourth 16 columns. The scores of a block go
 * through shared memory, where four invocations take a row and leave weights, as halves, in its place.
 *
 * There is no loop over pieces, which glslc would not unroll. */
#define THREADS 256u
#define TILE 64u
#define ROW 17u /* uvec4s of a row of 64 floats, or of 128 halves: odd, so that 16-byte reads of a column meet no bank twice */
#include "attend_cooperative.glsl"

#define TILE_WORDS 64u
#define TILE_STRIDE (ROW * 4u)
#define TILE_QUADS
#include "attend_tile.glsl"

#define RUN (8u / SIDES) /* neighbouring fours of a row of scores, an invocation's */
#define PIECE_PARTS 8u /* of 16 elements */
#define KEY_GROUPS 2   /* of 16 positions, a subgroup's */
#define VALUE_GROUPS 2 /* of 16 queries, a subgroup's */
#define SHARERS 4u     /* of these queries */
#define PIECE_COLUMNS (PIECE_PARTS / SHARERS) /* of 16 elements of the values, a subgroup's */
#define COLUMNS (2 * PIECE_COLUMNS)

/* Elements of the two pieces. */
const uint KEYS_0 = KEY_SIZE < PIECE ? KEY_SIZE : PIECE, KEYS_1 = KEY_SIZE - KEYS_0;
const uint VALUES_0 = VALUE_SIZE < PIECE ? VALUE_SIZE : PIECE, VALUES_1 = VALUE_SIZE - VALUES_0;

shared uvec4 scores[TILE * ROW]; /* the bits of floats, then of halves */

Rows queries[2 * PIECE_PARTS];
Sums score_sums[KEY_GROUPS];
Sums value_sums[VALUE_GROUPS * COLUMNS];

/* Of the fours of a row of scores, the i-th of an invocation: parts of rows interleave so that banks differ. */
uint four_of(uint i, uint side)
{
    return i / RUN * 8 + side * RUN + i % RUN;
}

/* Takes a piece of the tile's queries to registers. */
void load_queries(const uint piece, uint elements, Sequence sequence, uint group, uint kv_head, uint first_query,
                  uint last_query, uint mine)
{
    uint quads = elements / 8;
    for (uint i = gl_LocalInvocationID.x; i < TILE * quads; i += THREADS) {
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

/* Adds products of queries and the piece of keys in the tile. */
void multiply_keys(const uint piece, uint first_group)
{
    [[unroll]] for (uint j = 0; j < KEY_GROUPS; j++)
        [[unroll]] for (uint k = 0; k < PIECE_PARTS; k++)
            if (piece * PIECE_PARTS + k < KEY_PARTS) {
                Tokens part;
                LOAD_TOKENS(part, tile, (first_group + j) * 16 * ROW + k * 2, ROW);
                score_sums[j] = MULTIPLY_ADD(queries[piece * PIECE_PARTS + k], part, score_sums[j]);
            }
}

/* Adds products of weights and the piece of values in the tile. Columns beyond the last are garbage that nothing reads. */
void multiply_values(const uint piece, uint weighted, uint column)
{
    [[unroll]] for (uint j = 0; j < 4; j++) {
        Rows weights[VALUE_GROUPS];
        [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++)
            LOAD_ROWS(weights[g], scores, (weighted + g * 16) * ROW + j * 2, ROW);
        [[unroll]] for (uint d = 0; d < PIECE_COLUMNS; d++) {
            const bool used = (piece * PIECE_COLUMNS + d) * SHARERS < VALUE_PARTS;
            Tokens part;
            if (used)
                LOAD_ROWS(part, tile, j * 16 * ROW + (d * SHARERS + column) * 2, ROW);
            [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++)
                if (used)
                    value_sums[g * COLUMNS + piece * PIECE_COLUMNS + d] =
                        MULTIPLY_ADD(weights[g], part, value_sums[g * COLUMNS + piece * PIECE_COLUMNS + d]);
        }
    }
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
    load_queries(0, KEYS_0, sequence, group, kv_head, first_query, last_query, mine);
    if (KEYS_1 > 0)
        load_queries(1, KEYS_1, sequence, group, kv_head, first_query, last_query, mine);
    /* Which rows of a matrix an invocation's elements are in is the driver's choice: it shows in one that holds them. */
    Sums row_matrix;
    LOAD_ROWS(row_matrix, scores, 0, ROW);
    uint element_rows[ELEMENTS];
    [[unroll]] for (uint e = 0; e < ELEMENTS; e++)
        element_rows[e] = weighted + uint(row_matrix[e]);
    [[unroll]] for (uint i = 0; i < VALUE_GROUPS * COLUMNS; i++)
        value_sums[i] = Sums(0.0);

    Range range = range_of(sequence, min(first_query + row, last_query) / group);
    float maximum = NOTHING, sum = 0.0;
    uint position = first - first % BLOCK, index = cache_index(sequence, position);
    uint end = min(last - position + 1, BLOCK);
    uint from = first - position; /* what no query sees may never have been written */
    piece_ask(keys, sequence.capacity, key_row, index, 0, KEYS_0, from, end);
    while (true) {
        uint next = position + BLOCK;
        bool more = next <= last;
        uint next_index = more ? cache_index(sequence, next) : 0;
        [[unroll]] for (uint j = 0; j < KEY_GROUPS; j++)
            score_sums[j] = Sums(0.0);
        piece_place(KEYS_0);
        barrier();
        if (KEYS_1 > 0) {
            piece_ask(keys, sequence.capacity, key_row, index, PIECE, KEYS_1, from, end);
            multiply_keys(0, first_group);
            barrier();
            piece_place(KEYS_1);
            barrier();
        }
        piece_ask(values, sequence.capacity, value_row, index, 0, VALUES_0, from, end);
        if (KEYS_1 > 0)
            multiply_keys(1, first_group);
        else
            multiply_keys(0, first_group);
        [[unroll]] for (uint j = 0; j < KEY_GROUPS; j++)
            STORE_ROWS(score_sums[j], scores, mine * ROW + (first_group + j) * 4, ROW);
        barrier();
        piece_place(VALUES_0);

        vec4 s[16 / SIDES];
        float most = NOTHING;
        /* All queries of the tile see all positions of the block. */
        bool whole = position >= last_range.first && position + BLOCK - 1 <= first_range.last;
        [[unroll]] for (uint i = 0; i < 16 / SIDES; i++) {
            s[i] = uintBitsToFloat(scores[row * ROW + four_of(i, side)]) * scale;
            if (soft_cap > 0.0)
                s[i] = capped_scores(s[i]);
            if (!whole)
                s[i] = seen_scores(s[i], position + four_of(i, side) * 4, range);
            most = max(most, max(max(s[i].x, s[i].y), max(s[i].z, s[i].w)));
        }
        most = max(most, subgroupShuffleXor(most, 1));
        most = max(maximum, max(most, subgroupShuffleXor(most, 2)));
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
        block_sum += subgroupShuffleXor(block_sum, 1);
        block_sum += subgroupShuffleXor(block_sum, 2);
        if (side == 0)
            factors[row] = factor;
        sum = fma(sum, factor, block_sum);
        barrier();

        [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++)
            [[unroll]] for (uint e = 0; e < ELEMENTS; e++) {
                float shrink = factors[element_rows[e] + g * 16];
                [[unroll]] for (uint d = 0; d < COLUMNS; d++)
                    if (d * SHARERS < VALUE_PARTS)
                        value_sums[g * COLUMNS + d][e] *= shrink;
            }
        if (VALUES_1 > 0) {
            piece_ask(values, sequence.capacity, value_row, index, PIECE, VALUES_1, from, end);
            multiply_values(0, weighted, column);
            barrier();
            piece_place(VALUES_1);
            barrier();
        }
        if (more) {
            position = next;
            index = next_index;
            end = min(last - next + 1, BLOCK);
            from = 0;
            piece_ask(keys, sequence.capacity, key_row, index, 0, KEYS_0, 0, end);
        }
        if (VALUES_1 > 0)
            multiply_values(1, weighted, column);
        else
            multiply_values(0, weighted, column);
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
    barrier();
    [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++)
        [[unroll]] for (uint e = 0; e < ELEMENTS; e++) {
            float share = factors[element_rows[e] + g * 16];
            [[unroll]] for (uint d = 0; d < COLUMNS; d++)
                if (d * SHARERS < VALUE_PARTS)
                    value_sums[g * COLUMNS + d][e] *= share;
        }
    /* Two matrices at a time through this subgroup's part of the scores. */
    const uint own = mine * ROW + gl_SubgroupID % 2 * 8;
    [[unroll]] for (uint i = 0; i < VALUE_GROUPS * COLUMNS; i += 2) {
        [[unroll]] for (uint n = 0; n < 2; n++)
            if ((i % COLUMNS + n) * SHARERS < VALUE_PARTS)
                STORE_ROWS(value_sums[i + n], scores, own + n * 4, ROW);
        subgroup_sync();
        [[unroll]] for (uint n = 0; n < 4; n++) {
            uint k = n * 32 + gl_SubgroupInvocationID, r = k / 8, four = k % 8;
            uint q = first_query + weighted + i / COLUMNS * 16 + r;
            uint part = (i % COLUMNS + four / 4) * SHARERS + column;
            if (q <= last_query && part < VALUE_PARTS)
                write_four(sequence.first_row + q / group, kv_head * group + q % group, part * 4 + four % 4,
                           scores[own + r * ROW + four]);
        }
        subgroup_sync();
    }
}
