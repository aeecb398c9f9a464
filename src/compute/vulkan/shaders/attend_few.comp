#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "cache.glsl"
#include "chain.glsl"
#include "functions.glsl"

/* Attention of few queries, for the bandwidth of memory: positions are cut into spans that start at multiples of SPAN,
 * and a work group walks one span for a tile: QUERIES queries of one kv head, who share every read. It leaves a state of
 * each: the maximum, the sum and the weighted values. The work group that ends last makes outputs of a tile's states
 * (attend_last.glsl); where there are many, attend_merge does. With one span there are no states.
 *
 * With HEADS, for sequences of one row, queries are still what the projections left, and so are the keys and values of the
 * row: a work group norms and turns its queries, and the one whose span has the row makes its key and value, places them in
 * the tile, and stores them. Those of several tiles store the same.
 *
 * Scores: a thread has two positions and a quarter of the elements of a piece. Values: a thread has a word's elements
 * and half of the positions. The tile holds, in turn, keys, the quarters of the scores, values. The order of all sums is
 * fixed. */
layout(constant_id = 0) const uint KEY_SIZE = 128;
layout(constant_id = 1) const uint VALUE_SIZE = 128;
layout(constant_id = 2) const uint QUERIES = 8; /* a divisor of 8; at most 4 where a size is above 256 */
layout(constant_id = 3) const bool WHOLE = false; /* one span: outputs, not states */
layout(constant_id = 4) const uint SPAN = 128;
layout(constant_id = 5) const bool HEADS = false;
layout(constant_id = 6) const bool ADJACENT = true; /* as in heads.comp, up to VALUE_NORM */
layout(constant_id = 7) const bool NORM_AFTER_ROPE = false;
layout(constant_id = 8) const bool VALUE_NORM = false;
layout(constant_id = 9) const bool NORMS = false; /* any */
layout(constant_id = 10) const bool TURNS = false;
layout(constant_id = 11) const bool SCALES = false; /* of queries */

#define THREADS 128u
#define TILE_WORDS 64u
#define MOST_QUERIES 8u
#define QUERY_FLOATS 2560u
#define MOST_SUMS 40u /* pieces of the values times queries */

/* What HEADS needs besides the push constants; as struct heads_entry of attention.c. */
layout(buffer_reference, std430, buffer_reference_align = 16) buffer Heads
{
    FreshFloats key;
    FreshFloats value;
    Floats query_norm;
    Floats key_norm;
    Floats query_scales;
    Floats table;
    uint query_stride, query_head_stride, key_stride, value_stride;
    uint key_size, value_size, rotary;
    float epsilon;
};

layout(local_size_x = 128) in;
layout(push_constant) uniform Push
{
    FreshFloats query;
    FreshFloats into;
    FreshFloats states; /* the weighted values */
    FreshVec2s totals;  /* the maximum and the sum */
    Floats sinks;
    Sequences sequences;
    Progress progress;
    Heads made;
    FreshUints arrived; /* of each tile: work groups that left their states; 0 before and after. Not given: attend_merge follows */
    uint heads, kv_heads, key_row, value_row;
    float scale, soft_cap;
    uint window, chunk, bidirectional;
    uint most_spans, awaited;
};

#define FRESH_CACHE
#include "attend_range.glsl"
#include "attend_tile.glsl"

#define KEY_PIECES ((KEY_SIZE + PIECE - 1) / PIECE)
#define VALUE_PIECES ((VALUE_SIZE + PIECE - 1) / PIECE)

shared vec2 queries[QUERY_FLOATS / 2];
shared vec4 weights[MOST_QUERIES * BLOCK / 4];
shared float maxima[THREADS];
shared float sums[THREADS];
shared float factors[MOST_QUERIES];

float query_sums[MOST_QUERIES * 2];
vec2 value_sums[MOST_SUMS];

#include "attend_last.glsl"
#include "attend_heads.glsl"

/* Asks for rows "from" to "end" of a piece. The last one is this head of attend_heads.glsl; 0: it is in the cache, too. */
void ask(uint64_t region, uint capacity, uint row_elements, uint index, uint first, uint elements, uint from, uint end,
         uint made_head)
{
    bool makes = HEADS && made_head > 0;
    piece_ask(region, capacity, row_elements, index, first, elements, from, makes ? end - 1 : end);
    if (makes)
        piece_make(region, capacity, row_elements, index, first, elements, end - 1, made_head);
}

uint piece_elements(uint size, uint piece)
{
    return min(size - piece * PIECE, PIECE);
}

/* Adds a quarter of a piece of the keys to the scores of two positions. */
void multiply_keys(uint piece)
{
    uint words = piece_elements(KEY_SIZE, piece) / PER_WORD / 4;
    uint first = gl_LocalInvocationID.x / 32 * words, position = gl_LocalInvocationID.x % 32;
    for (uint k = 0; k < words; k++) {
        uint w = first + k;
        vec2 a = tile_numbers(tile[position * TILE_STRIDE + w]);
        vec2 b = tile_numbers(tile[(position + 32) * TILE_STRIDE + w]);
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
#if CACHE == CACHE_F32 || CACHE == CACHE_BF16
            uint at = q * KEY_SIZE + piece * PIECE + w;
            float e = queries[at / 2][at % 2];
            query_sums[2 * q] = fma(e, a.x, query_sums[2 * q]);
            query_sums[2 * q + 1] = fma(e, b.x, query_sums[2 * q + 1]);
#else
            vec2 e = queries[q * (KEY_SIZE / 2) + piece * TILE_WORDS + w];
            query_sums[2 * q] = fma(e.y, a.y, fma(e.x, a.x, query_sums[2 * q]));
            query_sums[2 * q + 1] = fma(e.y, b.y, fma(e.x, b.x, query_sums[2 * q + 1]));
#endif
        }
    }
}

/* Adds half of the positions to the sums of a word of the values. */
void multiply_values(uint piece)
{
    uint word = gl_LocalInvocationID.x % 64, half_block = gl_LocalInvocationID.x / 64;
    if (word * PER_WORD >= piece_elements(VALUE_SIZE, piece))
        return;
    for (uint j = half_block * 8; j < half_block * 8 + 8; j++) {
        vec2 v[4];
        [[unroll]] for (uint k = 0; k < 4; k++)
            v[k] = tile_numbers(tile[(4 * j + k) * TILE_STRIDE + word]);
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
            vec4 w = weights[q * (BLOCK / 4) + j];
            vec2 sum = value_sums[piece * QUERIES + q];
            [[unroll]] for (uint k = 0; k < 4; k++)
                sum = fma(vec2(w[k]), v[k], sum);
            value_sums[piece * QUERIES + q] = sum;
        }
    }
}

void attend()
{
    uint thread = gl_LocalInvocationID.x;
    Sequence sequence = sequences.v[gl_WorkGroupID.z];
    uint group = heads / kv_heads, kv_head = gl_WorkGroupID.y % kv_heads;
    uint first_query = gl_WorkGroupID.y / kv_heads * QUERIES, query_count = sequence.rows * group;
    if (first_query >= query_count) {
        chain_wait(progress, awaited);
        return;
    }
    uint last_query = min(first_query + QUERIES, query_count) - 1;
    Range range = Range(range_of(sequence, first_query / group).first, range_of(sequence, last_query / group).last);
    uint span = range_of(sequence, 0).first / SPAN + gl_WorkGroupID.x;
    if (span > range.last / SPAN || span < range.first / SPAN) {
        chain_wait(progress, awaited);
        return;
    }
    uint first = max(range.first, span * SPAN), last = min(range.last, span * SPAN + (SPAN - 1));
    uint64_t keys = sequence.keys + kv_head * cache_head_bytes(sequence.capacity, key_row);
    uint64_t values = sequence.values + kv_head * cache_head_bytes(sequence.capacity, value_row);

    uint position = first - first % BLOCK, index = cache_index(sequence, position);
    uint end = min(last - position + 1, BLOCK), from = max(first, position) - position;
    /* The rows of this batch are there only after the wait. */
    uint fresh = max(sequence.first_position, position) - position;
    piece_ask(keys, sequence.capacity, key_row, index, 0, piece_elements(KEY_SIZE, 0), from, min(end, fresh));
    bool makes = HEADS && last == sequence.first_position;
    if (HEADS)
        prepare_heads(sequence.first_row, kv_head, first_query, last_query, makes);
    chain_wait(progress, awaited);
    if (HEADS) {
        make_heads();
        if (makes && position + BLOCK > last)
            piece_make(keys, sequence.capacity, key_row, index, 0, piece_elements(KEY_SIZE, 0), end - 1, KEY_HEAD);
    } else {
        piece_ask_rows(keys, sequence.capacity, key_row, index, 0, piece_elements(KEY_SIZE, 0), max(from, fresh), end);
        for (uint i = thread; i < QUERIES * KEY_SIZE / 2; i += THREADS) {
            uint q = min(first_query + i / (KEY_SIZE / 2), last_query);
            uint at = ((sequence.first_row + q / group) * heads + kv_head * group + q % group) * KEY_SIZE + i % (KEY_SIZE / 2) * 2;
            queries[i] = vec2(query.v[at], query.v[at + 1]);
        }
    }
    [[unroll]] for (uint i = 0; i < VALUE_PIECES * QUERIES; i++)
        value_sums[i] = vec2(0.0);

    /* The softmax of query "mine", kept by 16 threads alike; positions 4 * lane to 4 * lane + 3 of a block. */
    uint mine = thread / 16, lane = thread % 16;
    Range my_range = range_of(sequence, min(first_query + mine, last_query) / group);
    float maximum = NOTHING, sum = 0.0;

    while (true) {
        uint next = position + BLOCK;
        bool more = next <= last;
        bool makes_now = makes && !more, makes_next = makes && next + BLOCK > last;
        uint next_index = more ? cache_index(sequence, next) : 0, next_end = more ? min(last - next + 1, BLOCK) : 0;
        [[unroll]] for (uint i = 0; i < QUERIES * 2; i++)
            query_sums[i] = 0.0;
        [[unroll]] for (uint piece = 0; piece < KEY_PIECES; piece++) {
            piece_place(piece_elements(KEY_SIZE, piece));
            barrier();
            if (piece + 1 < KEY_PIECES)
                ask(keys, sequence.capacity, key_row, index, (piece + 1) * PIECE, piece_elements(KEY_SIZE, piece + 1),
                    from, end, makes_now ? KEY_HEAD : 0);
            else
                ask(values, sequence.capacity, value_row, index, 0, piece_elements(VALUE_SIZE, 0), from, end,
                    makes_now ? VALUE_HEAD : 0);
            multiply_keys(piece);
            barrier();
        }
        [[unroll]] for (uint q = 0; q < QUERIES; q++) {
            uint at = (thread / 32 * QUERIES + q) * BLOCK + thread % 32;
            tile[at] = floatBitsToUint(query_sums[2 * q]);
            tile[at + 32] = floatBitsToUint(query_sums[2 * q + 1]);
        }
        barrier();

        vec4 scores = vec4(NOTHING);
        if (mine < QUERIES) {
            [[unroll]] for (uint k = 0; k < 4; k++) {
                uint at = mine * BLOCK + 4 * lane + k;
                float s = uintBitsToFloat(tile[at]);
                [[unroll]] for (uint quarter = 1; quarter < 4; quarter++)
                    s += uintBitsToFloat(tile[quarter * QUERIES * BLOCK + at]);
                s *= scale;
                if (soft_cap > 0.0)
                    s = tanh_of(s / soft_cap) * soft_cap;
                uint p = position + 4 * lane + k;
                if (p >= max(my_range.first, first) && p <= min(my_range.last, last))
                    scores[k] = s;
            }
        }
        maxima[thread] = max(max(scores.x, scores.y), max(scores.z, scores.w));
        barrier();
        piece_place(piece_elements(VALUE_SIZE, 0));
        float most = maximum;
        [[unroll]] for (uint i = 0; i < 16; i++)
            most = max(most, maxima[mine * 16 + i]);
        float factor = most > maximum ? exp(maximum - most) : 1.0;
        maximum = most;
        vec4 weight;
        [[unroll]] for (uint k = 0; k < 4; k++)
            weight[k] = scores[k] > NOTHING ? exp(scores[k] - most) : 0.0;
        sums[thread] = (weight.x + weight.y) + (weight.z + weight.w);
        if (mine < QUERIES) {
            weights[mine * (BLOCK / 4) + lane] = weight;
            if (lane == 0)
                factors[mine] = factor;
        }
        barrier();
        float block_sum = 0.0;
        [[unroll]] for (uint i = 0; i < 16; i++)
            block_sum += sums[mine * 16 + i];
        sum = fma(sum, factor, block_sum);

        [[unroll]] for (uint piece = 0; piece < VALUE_PIECES; piece++)
            [[unroll]] for (uint q = 0; q < QUERIES; q++)
                value_sums[piece * QUERIES + q] *= factors[q];
        [[unroll]] for (uint piece = 0; piece < VALUE_PIECES; piece++) {
            if (piece > 0) {
                barrier();
                piece_place(piece_elements(VALUE_SIZE, piece));
                barrier();
            }
            if (piece + 1 < VALUE_PIECES)
                ask(values, sequence.capacity, value_row, index, (piece + 1) * PIECE,
                    piece_elements(VALUE_SIZE, piece + 1), from, end, makes_now ? VALUE_HEAD : 0);
            else if (more)
                ask(keys, sequence.capacity, key_row, next_index, 0, piece_elements(KEY_SIZE, 0), 0, next_end,
                    makes_next ? KEY_HEAD : 0);
            multiply_values(piece);
        }
        barrier();
        if (!more)
            break;
        position = next;
        index = next_index;
        end = next_end;
        from = 0;
    }

    /* The halves of the positions meet in the tile's memory. */
    uint word = thread % 64;
    if (thread >= 64)
        [[unroll]] for (uint piece = 0; piece < VALUE_PIECES; piece++)
            if (word * PER_WORD < piece_elements(VALUE_SIZE, piece))
                [[unroll]] for (uint q = 0; q < QUERIES; q++)
                    [[unroll]] for (uint k = 0; k < PER_WORD; k++)
                        tile[q * VALUE_SIZE + piece * PIECE + word * PER_WORD + k] =
                            floatBitsToUint(value_sums[piece * QUERIES + q][k]);
    if (lane == 0 && mine < QUERIES) {
        uint q = min(first_query + mine, last_query), head = kv_head * group + q % group;
        if (WHOLE) {
            /* In the steps of a merge, for the same bits. */
            float most = uint64_t(sinks) != 0 ? max(sinks.v[head], maximum) : maximum;
            factors[mine] = exp(maximum - most);
            sum *= factors[mine];
            if (uint64_t(sinks) != 0)
                sum += exp(sinks.v[head] - most);
            sums[mine] = sum > 0.0 ? 1.0 / sum : 0.0;
        } else if (first_query + mine <= last_query) {
            uint row = sequence.first_row + q / group;
            totals.v[(row * heads + head) * most_spans + gl_WorkGroupID.x] = vec2(maximum, sum);
        }
    }
    barrier();
    if (thread < 64)
        [[unroll]] for (uint piece = 0; piece < VALUE_PIECES; piece++)
            if (word * PER_WORD < piece_elements(VALUE_SIZE, piece))
                [[unroll]] for (uint q = 0; q < QUERIES; q++) {
                    if (first_query + q > last_query)
                        continue;
                    uint head = (sequence.first_row + (first_query + q) / group) * heads + kv_head * group + (first_query + q) % group;
                    [[unroll]] for (uint k = 0; k < PER_WORD; k++) {
                        uint element = piece * PIECE + word * PER_WORD + k;
                        float value = value_sums[piece * QUERIES + q][k] + uintBitsToFloat(tile[q * VALUE_SIZE + element]);
                        if (WHOLE)
                            into.v[head * VALUE_SIZE + element] = (value * factors[q]) * sums[q];
                        else
                            states.v[(head * most_spans + gl_WorkGroupID.x) * VALUE_SIZE + element] = value;
                    }
                }
    uint spans = range.last / SPAN - range.first / SPAN + 1;
    if (!WHOLE && uint64_t(arrived) != 0 && is_last(spans))
        merge(sequence, kv_head, first_query, last_query);
}

void main()
{
    attend();
    chain_end(progress);
}
