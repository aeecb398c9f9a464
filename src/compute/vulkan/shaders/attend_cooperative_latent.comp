#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_vote : require

/* As attend_cooperative, for latent attention: keys of up to 576 elements, the first of which, up to 512, are the values. Rows
 * of the tile are queries of all heads. A block of positions is brought to shared memory once, whole, as keys and as values.
 *
 * Eight subgroups keep queries and sums in registers. For scores, a subgroup has 16 queries, 16 positions, and every other 16
 * elements of the keys, so a score is the sum of two. Of the values, it has all queries and an eighth of the columns. */
#define THREADS 256u
#define TILE 32u
#define BLOCK 32u
#define MOST_KEYS 576u
/* uvec4s of a row: of 32 scores, of keys, and of 64 results. They are odd, so that 16-byte reads of a column meet no bank
 * twice. */
#define ROW 9u
#define TILE_ROW (MOST_KEYS / 8 + 1)
#define OUT_ROW 17u
#include "attend_cooperative.glsl"
#include "cache_words.glsl"

#define QUERIES 18 /* matrices of 16 elements, half of a key's */
#define CHAINS 2   /* sums of a score that do not wait for each other */
#define VALUE_GROUPS 2 /* of 16 queries */
#define MOST_COLUMNS 4 /* of 16 elements of the values, a subgroup's */
#define SUBGROUPS (THREADS / 32u)
#define ACROSS (THREADS / BLOCK) /* invocations that bring a row */
#define READS ((MOST_KEYS / PER_READ + ACROSS - 1) / ACROSS)
/* A row's maximum may be exceeded by this much before its sums are rescaled, which most blocks then need not do. */
#define SLACK 4.0

const uint COLUMNS = (VALUE_PARTS + SUBGROUPS - 1) / SUBGROUPS;

shared uvec4 tile[BLOCK * TILE_ROW];
shared uvec4 scores[2 * TILE * ROW]; /* the bits of floats, of either half of the keys; then halves in the place of the first */

Rows queries[QUERIES];
Sums value_sums[VALUE_GROUPS * MOST_COLUMNS];
uvec4 asked[READS];
#if QUANTS
uint asked_scales[READS];
#endif

/* Takes the queries to the tile, as halves. */
void place_queries(Sequence sequence, uint group, uint kv_head, uint first_query, uint last_query)
{
    uint row = gl_LocalInvocationID.x / ACROSS, side = gl_LocalInvocationID.x % ACROSS;
    uint q = min(first_query + row, last_query);
    uint at = ((sequence.first_row + q / group) * heads + kv_head * group + q % group) * (KEY_SIZE / 4);
    for (uint column = side; column < KEY_SIZE / 8; column += ACROSS) {
        vec4 low = query.v[at + 2 * column], high = query.v[at + 2 * column + 1];
        tile[row * TILE_ROW + column] =
            uvec4(halves_of(low.xy), halves_of(low.zw), halves_of(high.xy), halves_of(high.zw));
    }
}

/* Asks for the rows index to index + BLOCK of the cache, from "from" up to "end" within the block; the others are zero. */
void ask(uint64_t keys, uint capacity, uint index, uint from, uint end)
{
    uint row = gl_LocalInvocationID.x / ACROSS, side = gl_LocalInvocationID.x % ACROSS;
    CACHE_QUADS quads = cache_quads(keys, key_row, index + row);
#if QUANTS
    CACHE_SCALES scales = cache_scales(keys, capacity, key_row, index + row);
#endif
    bool seen = row >= from && row < end;
    [[unroll]] for (uint i = 0; i < READS; i++) {
        uint column = i * ACROSS + side;
        asked[i] = uvec4(0);
#if QUANTS
        asked_scales[i] = 0;
#endif
        if (seen && column < KEY_SIZE / PER_READ) {
            asked[i] = quads.v[column];
#if QUANTS
            asked_scales[i] = uint(scales.v[column * PER_READ / 32]);
#endif
        }
    }
}

void place()
{
    uint row = gl_LocalInvocationID.x / ACROSS, side = gl_LocalInvocationID.x % ACROSS;
    [[unroll]] for (uint i = 0; i < READS; i++) {
        uint column = i * ACROSS + side;
        [[unroll]] for (uint k = 0; k < READ_FOURS; k++)
            if (column < KEY_SIZE / PER_READ) {
#if QUANTS
                uvec4 words = read_words(asked[i], asked_scales[i], k);
#else
                uvec4 words = read_words(asked[i], 0, k);
#endif
                tile[row * TILE_ROW + column * READ_FOURS + k] = words;
            }
    }
}

/* The subgroup's part of the scores. */
void multiply_keys(uint depth, uint mine, uint positions)
{
    Sums sums[CHAINS];
    [[unroll]] for (uint c = 0; c < CHAINS; c++)
        sums[c] = Sums(0.0);
    [[unroll]] for (uint i = 0; i < QUERIES; i++)
        if (i < KEY_PARTS / 2) {
            Tokens part;
            LOAD_TOKENS(part, tile, positions * TILE_ROW + (2 * i + depth) * 2, TILE_ROW);
            sums[i % CHAINS] = MULTIPLY_ADD(queries[i], part, sums[i % CHAINS]);
        }
    [[unroll]] for (uint e = 0; e < ELEMENTS; e++)
        sums[0][e] += sums[1][e];
    STORE_ROWS(sums[0], scores, (depth * TILE + mine) * ROW + positions / 4, ROW);
}

/* Adds products of weights and the subgroup's columns of the values. Columns beyond the last are garbage that nothing reads. */
void multiply_values(uint first_column)
{
    [[unroll]] for (uint j = 0; j < BLOCK / 16; j++) {
        Rows weights[VALUE_GROUPS];
        [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++)
            LOAD_ROWS(weights[g], scores, g * 16 * ROW + j * 2, ROW);
        [[unroll]] for (uint d = 0; d < MOST_COLUMNS; d++) {
            Tokens part;
            if (d < COLUMNS)
                LOAD_ROWS(part, tile, j * 16 * TILE_ROW + (first_column + d) * 2, TILE_ROW);
            [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++)
                if (d < COLUMNS)
                    value_sums[g * MOST_COLUMNS + d] = MULTIPLY_ADD(weights[g], part, value_sums[g * MOST_COLUMNS + d]);
        }
    }
}

/* Multiplies each row by its factor. */
void multiply_sums(uint element_rows[ELEMENTS])
{
    [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++)
        [[unroll]] for (uint e = 0; e < ELEMENTS; e++) {
            float factor = factors[g * 16 + element_rows[e]];
            [[unroll]] for (uint d = 0; d < MOST_COLUMNS; d++)
                if (d < COLUMNS)
                    value_sums[g * MOST_COLUMNS + d][e] *= factor;
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

    /* The subgroup's half of the keys' elements, its queries and positions, and its columns of values; the invocation's
     * part of a row of scores. */
    uint depth = gl_SubgroupID % 2, mine = gl_SubgroupID / 2 % 2 * 16, positions = gl_SubgroupID / 4 * 16;
    uint first_column = gl_SubgroupID * COLUMNS;
    uint row = (gl_SubgroupID * 32 + gl_SubgroupInvocationID) / SIDES, side = gl_SubgroupInvocationID % SIDES;
    if (thread < 64)
        scores[thread / 4 * ROW + thread % 4] = floatBitsToUint(vec4(thread / 4));
    place_queries(sequence, group, kv_head, first_query, last_query);
    barrier();
    [[unroll]] for (uint i = 0; i < QUERIES; i++)
        if (i < KEY_PARTS / 2)
            LOAD_ROWS(queries[i], tile, mine * TILE_ROW + (2 * i + depth) * 2, TILE_ROW);
    /* Which rows of a matrix an invocation's elements are in is the driver's choice: it shows in one that holds them. */
    Sums row_matrix;
    LOAD_ROWS(row_matrix, scores, 0, ROW);
    uint element_rows[ELEMENTS];
    [[unroll]] for (uint e = 0; e < ELEMENTS; e++)
        element_rows[e] = uint(row_matrix[e]);
    [[unroll]] for (uint i = 0; i < VALUE_GROUPS * MOST_COLUMNS; i++)
        value_sums[i] = Sums(0.0);

    Range range = range_of(sequence, min(first_query + row, last_query) / group);
    float maximum = NOTHING, sum = 0.0;
    uint position = first - first % BLOCK, index = cache_index(sequence, position);
    /* What no query sees may never have been written. */
    ask(keys, sequence.capacity, index, first - position, min(last - position + 1, BLOCK));
    barrier();
    while (true) {
        uint next = position + BLOCK;
        bool more = next <= last;
        index = more ? cache_index(sequence, next) : 0;
        place();
        barrier();
        multiply_keys(depth, mine, positions);
        if (more)
            ask(keys, sequence.capacity, index, 0, min(last - next + 1, BLOCK));
        barrier();

        vec4 s = (uintBitsToFloat(scores[row * ROW + side]) + uintBitsToFloat(scores[(TILE + row) * ROW + side])) * scale;
        if (soft_cap > 0.0)
            s = capped_scores(s);
        /* Unless all queries of the tile see all positions of the block. */
        if (position < last_range.first || position + BLOCK - 1 > first_range.last)
            s = seen_scores(s, position + side * 4, range);
        float most = max(max(s.x, s.y), max(s.z, s.w)), factor = 1.0;
        most = max(most, subgroupShuffleXor(most, 1));
        most = max(most, subgroupShuffleXor(most, 2));
        most = max(most, subgroupShuffleXor(most, 4));
        if (most > maximum + SLACK) {
            factor = exp(maximum - most);
            maximum = most;
        }
        [[unroll]] for (uint k = 0; k < 4; k++)
            s[k] = s[k] > NOTHING ? exp(s[k] - maximum) : 0.0;
        subgroup_sync(); /* all of a row was read */
        uvec2 weights = uvec2(packHalf2x16(s.xy), packHalf2x16(s.zw));
        if (side % 2 == 0)
            scores[row * ROW + side / 2].xy = weights;
        else
            scores[row * ROW + side / 2].zw = weights;
        if (side == 0)
            factors[row] = factor;
        sum = fma(sum, factor, (s.x + s.y) + (s.z + s.w));
        barrier();

        if (subgroupAny(factors[gl_SubgroupInvocationID] < 1.0))
            multiply_sums(element_rows);
        multiply_values(first_column);
        barrier();
        if (!more)
            break;
        position = next;
    }

    uint query_number = min(first_query + row, last_query), head = kv_head * group + query_number % group;
    float factor = 1.0;
    sum += subgroupShuffleXor(sum, 1);
    sum += subgroupShuffleXor(sum, 2);
    sum += subgroupShuffleXor(sum, 4);
    if (uint64_t(sinks) != 0) {
        float most = max(sinks.v[head], maximum);
        factor = exp(maximum - most);
        sum = fma(sum, factor, exp(sinks.v[head] - most));
    }
    if (side == 0)
        factors[row] = sum > 0.0 ? factor / sum : 0.0;
    barrier();
    multiply_sums(element_rows);
    /* A row of matrices at a time through this subgroup's part of the tile. */
    const uint own = gl_SubgroupID * (16 * OUT_ROW);
    [[unroll]] for (uint g = 0; g < VALUE_GROUPS; g++) {
        [[unroll]] for (uint d = 0; d < MOST_COLUMNS; d++)
            if (d < COLUMNS)
                STORE_ROWS(value_sums[g * MOST_COLUMNS + d], tile, own + d * 4, OUT_ROW);
        subgroup_sync();
        [[unroll]] for (uint n = 0; n < 8; n++) {
            uint k = n * 32 + gl_SubgroupInvocationID, r = k / 16, four = k % 16;
            uint q = first_query + g * 16 + r, part = first_column + four / 4;
            if (q <= last_query && four / 4 < COLUMNS && part < VALUE_PARTS)
                write_four(sequence.first_row + q / group, kv_head * group + q % group, part * 4 + four % 4,
                           tile[own + r * OUT_ROW + four]);
        }
        subgroup_sync();
    }
}
