#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 128
#include "common.glsl"
#include "cache.glsl"
#include "functions.glsl"

/* Attention of rows that do not see everything (compute.h, struct attention_choice): one work group for each head of a
 * row. An invocation has the score of one position of GROUP, then four elements of the values of all of them. */
layout(constant_id = 0) const uint CACHE = CACHE_F16;
layout(constant_id = 1) const uint KEY_SIZE = 576;
layout(constant_id = 2) const uint VALUE_SIZE = 512;
layout(constant_id = 3) const bool CHOSEN = true; /* positions, or what stands compressed, come from a set */
layout(constant_id = 4) const bool SINKS = false;
#include "cache_four.glsl"

#define NOTHING (-3.4028234e38)
#define FOURS ((VALUE_SIZE / 4 + GROUP - 1) / GROUP)

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats query;
    Floats into;
    Floats sinks;
    Uints words;
    Sequences sequences;
    uint sequence_count, heads, kv_heads, key_row, value_row;
    float scale, soft_cap;
    uint sets, most, block; /* of a row's words */
    uint ring, window, every;
};

shared vec4 asked[KEY_SIZE / 4];
shared uint places[GROUP]; /* rows of the cache */
shared float weights[GROUP];

#include "chosen.glsl"

void main()
{
    uint thread = gl_LocalInvocationID.x, head = gl_WorkGroupID.x, row = gl_WorkGroupID.y;
    uint kv_head = head / (heads / kv_heads);
    Sequence sequence = sequence_of(sequences, sequence_count, row);
    if (sequence.rows == 0)
        return;
    uint own = sequence.first_position + row - sequence.first_row;
    Uints set = Uints(uint64_t(words) + (uint64_t(row) * sets + (sets > 1 ? kv_head : 0)) * (most + 1) * 4);
    uint64_t keys = sequence.keys + kv_head * cache_head_bytes(sequence.capacity, key_row);
    uint64_t values = sequence.values + kv_head * cache_head_bytes(sequence.capacity, value_row);
    for (uint c = thread; c < KEY_SIZE / 4; c += GROUP) {
        uint at = (row * heads + head) * KEY_SIZE + 4 * c;
        asked[c] = vec4(query.v[at], query.v[at + 1], query.v[at + 2], query.v[at + 3]);
    }
    uint count = seen(set, own);
    float maximum = NOTHING, sum = 0.0;
    vec4 out_sums[FOURS];
    [[unroll]] for (uint k = 0; k < FOURS; k++)
        out_sums[k] = vec4(0.0);

    for (uint first = 0; first < count; first += GROUP) {
        barrier();
        float score = NOTHING;
        if (first + thread < count) {
            uint place = place_of(set, own, sequence.capacity, first + thread);
            vec4 four = vec4(0.0);
            for (uint c = 0; c < KEY_SIZE / 4; c++)
                four = fma(asked[c], cache_four(keys, sequence.capacity, key_row, place, 4 * c), four);
            score = ((four.x + four.y) + (four.z + four.w)) * scale;
            if (soft_cap > 0.0)
                score = tanh_of(score / soft_cap) * soft_cap;
            places[thread] = place;
        }
        float greatest = max(maximum, group_max(score)), factor = exp(maximum - greatest);
        float weight = first + thread < count ? exp(score - greatest) : 0.0;
        weights[thread] = weight;
        sum = fma(sum, factor, group_sum(weight));
        maximum = greatest;
        [[unroll]] for (uint k = 0; k < FOURS; k++) {
            uint c = thread + k * GROUP;
            out_sums[k] *= factor;
            if (c < VALUE_SIZE / 4)
                for (uint i = 0; i < min(count - first, GROUP); i++)
                    out_sums[k] = fma(vec4(weights[i]),
                                      cache_four(values, sequence.capacity, value_row, places[i], 4 * c), out_sums[k]);
        }
    }
    float factor = 1.0;
    if (SINKS) {
        float greatest = max(maximum, sinks.v[head]);
        factor = exp(maximum - greatest);
        sum = fma(sum, factor, exp(sinks.v[head] - greatest));
    }
    factor = sum > 0.0 ? factor / sum : 0.0;
    [[unroll]] for (uint k = 0; k < FOURS; k++) {
        uint c = thread + k * GROUP;
        if (c < VALUE_SIZE / 4)
            [[unroll]] for (uint n = 0; n < 4; n++)
                into.v[(row * heads + head) * VALUE_SIZE + 4 * c + n] = out_sums[k][n] * factor;
    }
}
