#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 128
#include "common.glsl"
#include "cache.glsl"
#include "functions.glsl"

/* As attend_chosen.comp, for many rows: a work group takes HEADS heads of a row that see the same rows of the cache, so
 * that each of those is read once for all. Its keys pass through shared memory, PLACES of them and CHUNK elements of each
 * at a time, in the order in which they lie. An invocation adds up a part of the products of one key with all heads, and
 * then has four elements of the values of all heads. */
layout(constant_id = 0) const uint CACHE = CACHE_F16;
layout(constant_id = 1) const uint KEY_SIZE = 576;
layout(constant_id = 2) const uint VALUE_SIZE = 512;
layout(constant_id = 3) const bool CHOSEN = true;
layout(constant_id = 4) const bool SINKS = false;
layout(constant_id = 5) const uint HEADS = 8; /* 1 to 8 */
#include "cache_four.glsl"

#define NOTHING (-3.4028234e38)
#define FOURS ((VALUE_SIZE / 4 + GROUP - 1) / GROUP)
#define PLACES 32
#define PARTS 4  /* of a chunk */
#define CHUNK 16 /* fours of elements */
#define LANES 16 /* invocations that weigh a head's scores */
#define MOST_HEADS 8

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Vec4s query;
    Floats into;
    Floats sinks;
    Uints words;
    Sequences sequences;
    uint sequence_count, heads, kv_heads, key_row, value_row;
    float scale, soft_cap;
    uint sets, most, block; /* of a row's words */
    uint ring, window, every;
};

shared vec4 keys[PLACES * (CHUNK + 1)];
shared vec4 asked[MOST_HEADS * CHUNK];
shared float products[PARTS * MOST_HEADS * PLACES];
shared float weights[PLACES * MOST_HEADS];
shared float lanes[MOST_HEADS * LANES], factors[MOST_HEADS];
shared uint places[PLACES]; /* rows of the cache */

#include "chosen.glsl"

void main()
{
    uint thread = gl_LocalInvocationID.x, first_head = gl_WorkGroupID.x * HEADS, row = gl_WorkGroupID.y;
    uint kv_head = first_head / (heads / kv_heads);
    Sequence sequence = sequence_of(sequences, sequence_count, row);
    if (sequence.rows == 0)
        return;
    uint own = sequence.first_position + row - sequence.first_row;
    Uints set = Uints(uint64_t(words) + (uint64_t(row) * sets + (sets > 1 ? kv_head : 0)) * (most + 1) * 4);
    uint64_t key_rows = sequence.keys + kv_head * cache_head_bytes(sequence.capacity, key_row);
    uint64_t value_rows = sequence.values + kv_head * cache_head_bytes(sequence.capacity, value_row);
    uint count = seen(set, own), place = thread % PLACES, part = thread / PLACES;
    uint head = thread / LANES, lane = thread % LANES; /* whose scores this one weighs */
    float maximum = NOTHING, sum = 0.0;
    vec4 out_sums[HEADS * FOURS];
    [[unroll]] for (uint k = 0; k < HEADS * FOURS; k++)
        out_sums[k] = vec4(0.0);

    for (uint first = 0; first < count; first += PLACES) {
        uint there = min(count - first, PLACES);
        barrier();
        if (thread < there)
            places[thread] = place_of(set, own, sequence.capacity, first + thread);
        vec4 fours[HEADS];
        [[unroll]] for (uint h = 0; h < HEADS; h++)
            fours[h] = vec4(0.0);
        for (uint begin = 0; begin < KEY_SIZE / 4; begin += CHUNK) {
            barrier();
            [[unroll]] for (uint i = thread; i < PLACES * CHUNK; i += GROUP) {
                uint p = i / CHUNK, c = begin + i % CHUNK;
                keys[p * (CHUNK + 1) + i % CHUNK] =
                    p < there && c < KEY_SIZE / 4
                        ? cache_four(key_rows, sequence.capacity, key_row, places[p], 4 * c)
                        : vec4(0.0);
            }
            for (uint i = thread; i < HEADS * CHUNK; i += GROUP) {
                uint c = begin + i % CHUNK;
                asked[i] = c < KEY_SIZE / 4 ? query.v[(row * heads + first_head + i / CHUNK) * (KEY_SIZE / 4) + c]
                                            : vec4(0.0);
            }
            barrier();
            [[unroll]] for (uint i = 0; i < CHUNK / PARTS; i++) {
                uint c = part * (CHUNK / PARTS) + i;
                vec4 key = keys[place * (CHUNK + 1) + c];
                [[unroll]] for (uint h = 0; h < HEADS; h++)
                    fours[h] = fma(asked[h * CHUNK + c], key, fours[h]);
            }
        }
        [[unroll]] for (uint h = 0; h < HEADS; h++)
            products[(h * PARTS + part) * PLACES + place] = (fours[h].x + fours[h].y) + (fours[h].z + fours[h].w);
        barrier();
        float scores[PLACES / LANES];
        float greatest = NOTHING;
        if (head < HEADS) {
            [[unroll]] for (uint n = 0; n < PLACES / LANES; n++) {
                uint p = lane + n * LANES, at = head * PARTS * PLACES + p;
                float score = ((products[at] + products[at + PLACES]) +
                               (products[at + 2 * PLACES] + products[at + 3 * PLACES])) *
                              scale;
                if (soft_cap > 0.0)
                    score = tanh_of(score / soft_cap) * soft_cap;
                scores[n] = p < there ? score : NOTHING;
                greatest = max(greatest, scores[n]);
            }
            lanes[head * LANES + lane] = greatest;
        }
        barrier();
        float own_sum = 0.0;
        if (head < HEADS) {
            greatest = maximum;
            [[unroll]] for (uint n = 0; n < LANES; n++)
                greatest = max(greatest, lanes[head * LANES + n]);
            [[unroll]] for (uint n = 0; n < PLACES / LANES; n++) {
                uint p = lane + n * LANES;
                float weight = p < there ? exp(scores[n] - greatest) : 0.0;
                weights[p * MOST_HEADS + head] = weight;
                own_sum += weight;
            }
            float factor = exp(maximum - greatest);
            if (lane == 0)
                factors[head] = factor;
            sum *= factor;
            maximum = greatest;
        }
        barrier();
        if (head < HEADS)
            lanes[head * LANES + lane] = own_sum;
        [[unroll]] for (uint h = 0; h < HEADS; h++)
            [[unroll]] for (uint k = 0; k < FOURS; k++)
                out_sums[h * FOURS + k] *= factors[h];
        for (uint i = 0; i < there; i++)
            [[unroll]] for (uint k = 0; k < FOURS; k++) {
                uint c = thread + k * GROUP;
                if (c < VALUE_SIZE / 4) {
                    vec4 value = cache_four(value_rows, sequence.capacity, value_row, places[i], 4 * c);
                    [[unroll]] for (uint h = 0; h < HEADS; h++)
                        out_sums[h * FOURS + k] =
                            fma(vec4(weights[i * MOST_HEADS + h]), value, out_sums[h * FOURS + k]);
                }
            }
        barrier();
        if (head < HEADS)
            [[unroll]] for (uint n = 0; n < LANES; n++)
                sum += lanes[head * LANES + n];
    }
    if (head < HEADS && lane == 0) {
        float factor = 1.0;
        if (SINKS) {
            float sink = sinks.v[first_head + head], greatest = max(maximum, sink);
            factor = exp(maximum - greatest);
            sum = fma(sum, factor, exp(sink - greatest));
        }
        factors[head] = sum > 0.0 ? factor / sum : 0.0;
    }
    barrier();
    [[unroll]] for (uint h = 0; h < HEADS; h++)
        [[unroll]] for (uint k = 0; k < FOURS; k++) {
            uint c = thread + k * GROUP;
            if (c < VALUE_SIZE / 4)
                [[unroll]] for (uint n = 0; n < 4; n++)
                    into.v[(row * heads + first_head + h) * VALUE_SIZE + 4 * c + n] =
                        out_sums[h * FOURS + k][n] * factors[h];
        }
}
