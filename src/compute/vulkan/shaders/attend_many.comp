#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "cache.glsl"
#include "functions.glsl"

/* Attention of a prompt. A work group takes TILE queries of one kv head and walks the blocks of positions that they
 * see. Each invocation computes the scores of eight queries and four positions of a block, and of each piece of the values
 * eight queries by two or four elements. Everything but the cache is a float: halves would be quicker only on matrix
 * units, and what they lose makes other blocks and experts chosen in later layers. The answer to a query depends on
 * nothing but the query: blocks start at multiples of BLOCK, and a block that a query does not see changes nothing. */
layout(constant_id = 0) const uint KEY_SIZE = 128;
layout(constant_id = 1) const uint VALUE_SIZE = 128; /* both at most 256 */

#define THREADS 128u
#define TILE 64u
#define TILE_WORDS 32u /* pieces of 64 elements, of 32 where a word is one */
#define LEFT_STRIDE 33u

layout(local_size_x = 128) in;
layout(push_constant) uniform Push
{
    Floats query;
    Floats into;
    Floats sinks;
    Sequences sequences;
    uint heads, kv_heads, key_row, value_row;
    float scale, soft_cap;
    uint window, chunk, bidirectional;
};

#include "attend_range.glsl"
#include "attend_tile.glsl"

#define PAIRS (PIECE / 32u)         /* of elements of a piece of the values, per invocation */
#define PIECE_SUMS (16u * PAIRS)    /* of an invocation: two elements per pair by eight queries */
#define MOST_SUMS (256u / PIECE * PIECE_SUMS)

shared vec2 left[TILE * LEFT_STRIDE]; /* a piece of the queries, then the weights: two per word */
shared float reduced[16 * TILE];

float scores[32];
float value_sums[MOST_SUMS];

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
    uint first = range_of(sequence, first_query / group).first, last = range_of(sequence, last_query / group).last;
    uint64_t keys = sequence.keys + kv_head * cache_head_bytes(sequence.capacity, key_row);
    uint64_t values = sequence.values + kv_head * cache_head_bytes(sequence.capacity, value_row);

    /* Queries 8 * down to 8 * down + 7; positions and elements across + 16 * i. */
    uint down = thread / 16, across = thread % 16;
    const uint key_pieces = (KEY_SIZE + PIECE - 1) / PIECE, value_pieces = (VALUE_SIZE + PIECE - 1) / PIECE;
    [[unroll]] for (uint i = 0; i < value_pieces * PIECE_SUMS; i++)
        value_sums[i] = 0.0;
    /* Every invocation of a row of 16 keeps the softmax of its eight queries. */
    float maximum[8], sum[8];
    uint from_position[8], to_position[8];
    [[unroll]] for (uint q = 0; q < 8; q++) {
        Range range = range_of(sequence, min(first_query + down * 8 + q, last_query) / group);
        from_position[q] = range.first;
        to_position[q] = range.last;
        maximum[q] = NOTHING;
        sum[q] = 0.0;
    }

    for (uint position = first - first % BLOCK; position <= last; position += BLOCK) {
        uint index = cache_index(sequence, position), end = min(last - position + 1, BLOCK);
        uint from = max(first, position) - position; /* what no query sees may never have been written */
        [[unroll]] for (uint i = 0; i < 32; i++)
            scores[i] = 0.0;
        [[unroll]] for (uint piece = 0; piece < key_pieces; piece++) {
            uint elements = piece_elements(KEY_SIZE, piece), words = elements / 2;
            piece_ask(keys, sequence.capacity, key_row, index, piece * PIECE, elements, from, end);
            barrier();
            piece_place(elements);
            for (uint i = thread; i < TILE * words; i += THREADS) {
                uint q = min(first_query + i / words, last_query);
                uint at = ((sequence.first_row + q / group) * heads + kv_head * group + q % group) * KEY_SIZE +
                          piece * PIECE + i % words * 2;
                left[i / words * LEFT_STRIDE + i % words] = vec2(query.v[at], query.v[at + 1]);
            }
            barrier();
            for (uint w = 0; w < words; w++) {
                vec2 k[4];
                [[unroll]] for (uint j = 0; j < 4; j++)
                    k[j] = tile_pair(across + 16 * j, w);
                [[unroll]] for (uint q = 0; q < 8; q++) {
                    vec2 e = left[(down * 8 + q) * LEFT_STRIDE + w];
                    [[unroll]] for (uint j = 0; j < 4; j++)
                        scores[q * 4 + j] = fma(e.y, k[j].y, fma(e.x, k[j].x, scores[q * 4 + j]));
                }
            }
        }
        piece_ask(values, sequence.capacity, value_row, index, 0, piece_elements(VALUE_SIZE, 0), from, end);
        [[unroll]] for (uint q = 0; q < 8; q++) {
            float most = NOTHING;
            [[unroll]] for (uint j = 0; j < 4; j++) {
                float s = scores[q * 4 + j] * scale;
                if (soft_cap > 0.0)
                    s = tanh_of(s / soft_cap) * soft_cap;
                uint p = position + across + 16 * j;
                s = p >= from_position[q] && p <= to_position[q] ? s : NOTHING;
                scores[q * 4 + j] = s;
                most = max(most, s);
            }
            reduced[across * TILE + down * 8 + q] = most;
        }
        barrier();
        [[unroll]] for (uint q = 0; q < 8; q++) {
            float most = maximum[q];
            [[unroll]] for (uint i = 0; i < 16; i++)
                most = max(most, reduced[i * TILE + down * 8 + q]);
            float factor = most > maximum[q] ? exp(maximum[q] - most) : 1.0;
            maximum[q] = most;
            sum[q] *= factor;
            [[unroll]] for (uint i = 0; i < value_pieces * PIECE_SUMS / 8; i++)
                value_sums[i * 8 + q] *= factor;
        }
        piece_place(piece_elements(VALUE_SIZE, 0));
        barrier();
        [[unroll]] for (uint q = 0; q < 8; q++) {
            /* Positions 2 i and 2 i + 1 share a word: here across + 16 j and across + 16 (j + 1) do, which only
             * renumbers positions within the block, in the values' rows too. */
            float block_sum = 0.0;
            [[unroll]] for (uint j = 0; j < 4; j++) {
                scores[q * 4 + j] = scores[q * 4 + j] > NOTHING ? exp(scores[q * 4 + j] - maximum[q]) : 0.0;
                block_sum += scores[q * 4 + j];
            }
            reduced[across * TILE + down * 8 + q] = block_sum;
            left[(down * 8 + q) * LEFT_STRIDE + across] = vec2(scores[q * 4], scores[q * 4 + 1]);
            left[(down * 8 + q) * LEFT_STRIDE + 16 + across] = vec2(scores[q * 4 + 2], scores[q * 4 + 3]);
        }
        barrier();
        [[unroll]] for (uint q = 0; q < 8; q++) {
            float block_sum = 0.0;
            [[unroll]] for (uint i = 0; i < 16; i++)
                block_sum += reduced[i * TILE + down * 8 + q];
            sum[q] += block_sum;
        }
        [[unroll]] for (uint piece = 0; piece < value_pieces; piece++) {
            uint elements = piece_elements(VALUE_SIZE, piece);
            if (piece > 0) {
                piece_ask(values, sequence.capacity, value_row, index, piece * PIECE, elements, from, end);
                barrier();
                piece_place(elements);
                barrier();
            }
            /* Elements 2 * across and 2 * across + 1, and those 32 further if there is a second pair. */
            for (uint w = 0; w < 32; w++) {
                uint row = w / 16 * 32 + w % 16;
                vec2 a[PAIRS], b[PAIRS];
                [[unroll]] for (uint k = 0; k < PAIRS; k++) {
                    a[k] = tile_pair(row, across + 16 * k);
                    b[k] = tile_pair(row + 16, across + 16 * k);
                }
                [[unroll]] for (uint q = 0; q < 8; q++) {
                    vec2 e = left[(down * 8 + q) * LEFT_STRIDE + w];
                    [[unroll]] for (uint k = 0; k < PAIRS; k++) {
                        uint at = piece * PIECE_SUMS + k * 16 + q;
                        value_sums[at] = fma(e.y, b[k].x, fma(e.x, a[k].x, value_sums[at]));
                        value_sums[at + 8] = fma(e.y, b[k].y, fma(e.x, a[k].y, value_sums[at + 8]));
                    }
                }
            }
        }
        barrier();
    }

    [[unroll]] for (uint q = 0; q < 8; q++) {
        uint query_number = first_query + down * 8 + q;
        if (query_number > last_query)
            continue;
        uint head = kv_head * group + query_number % group;
        float factor = 1.0, total = sum[q];
        if (uint64_t(sinks) != 0) {
            float most = max(sinks.v[head], maximum[q]);
            factor = exp(maximum[q] - most);
            total = fma(total, factor, exp(sinks.v[head] - most));
        }
        factor = total > 0.0 ? factor / total : 0.0;
        uint at = ((sequence.first_row + query_number / group) * heads + head) * VALUE_SIZE;
        [[unroll]] for (uint piece = 0; piece < value_pieces; piece++)
            [[unroll]] for (uint k = 0; k < 2 * PAIRS; k++) {
                uint element = 2 * across + k % 2 + k / 2 * 32;
                if (element < piece_elements(VALUE_SIZE, piece))
                    into.v[at + piece * PIECE + element] = value_sums[piece * PIECE_SUMS + k * 8 + q] * factor;
            }
    }
}
