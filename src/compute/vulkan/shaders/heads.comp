#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "cache.glsl"
#include "chain.glsl"

/* Everything between the projections and attention. A work group takes one head of one row: heads of the query first,
 * then of the key, then of the value. A query or key is normed and turned; keys and values go to the cache. */
layout(constant_id = 0) const uint CACHE = CACHE_F16;
layout(constant_id = 1) const bool ADJACENT = true;         /* ROPE_NORMAL */
layout(constant_id = 2) const bool NORM_AFTER_ROPE = false;
layout(constant_id = 3) const bool VALUE_NORM = false;
layout(constant_id = 4) const uint STEPS = 2; /* elements of a head an invocation */
layout(constant_id = 5) const uint NORMED = 0; /* first elements of a query or key that are normed; 0: all */
layout(constant_id = 6) const uint TURNED_FROM = 0; /* the first one that is turned */
layout(constant_id = 7) const bool PLAIN_NORM = false; /* queries and keys are normed once more at the end, unweighted */

layout(constant_id = 8) const bool CENTRED = false;   /* norms take the mean off */
layout(constant_id = 9) const bool NORM_EACH = false; /* with weights of its own for each head */
layout(constant_id = 10) const bool BACK = false;     /* turned the other way round */
layout(constant_id = 11) const uint RING = 0;         /* positions of the cache that keys and values share; 0: all */

#define GROUP 64
#define MOST 640
#define MOST_STEPS 10
#define TEAMS 1
#define HEADS_EACH 1
#define MOST_EACH 1
#define HEAD(which, i) elements[i]
#define TEAM_SUM(i) team_sums[i]
#define NORM(which, i) norms[i]

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    FreshFloats query;
    FreshFloats key;
    FreshFloats value;
    Floats query_norm;
    Floats key_norm;
    Floats query_scales;
    Floats table;
    FreshFloats into;
    Sequences sequences;
    Progress progress;
    uint query_stride, query_head_stride, key_stride, value_stride;
    uint sizes; /* key_size, value_size << 16 */
    uint counts; /* heads, kv_heads << 16 */
    uint rotary_and_sequences; /* rotary, sequence_count << 16 */
    float epsilon;
    uint key_row, value_row; /* elements from one position to the next */
    uint into_head_stride, awaited;
};

shared float elements[MOST];
shared float team_sums[GROUP];

/* What an invocation needs of memory, asked for at once. */
float raw[MOST_STEPS], norms[MOST_STEPS];

#include "heads.glsl"

void store(uint64_t region, uint index, uint capacity, uint size, uint row_elements)
{
    FreshUvec4s to = FreshUvec4s(region + uint64_t(index) * cache_row_bytes(CACHE, row_elements));
    FreshShorts scales = FreshShorts(region + uint64_t(capacity) * cache_row_bytes(CACHE, row_elements) +
                                     uint64_t(index) * (row_elements / 16));
    for (uint i = gl_LocalInvocationID.x; i < size / packed_elements(); i += GROUP) {
        uint scale;
        to.v[i] = packed(0, i * packed_elements(), scale);
        if (CACHE == CACHE_Q8_0 || CACHE == CACHE_Q4_0)
            scales.v[i * packed_elements() / 32] = uint16_t(scale);
    }
}

void take_head()
{
    uint thread = gl_LocalInvocationID.x, row = gl_WorkGroupID.x, which = gl_WorkGroupID.y;
    uint heads = counts & 0xffffu, kv_heads = counts >> 16;
    bool is_query = which < heads, is_value = which >= heads + kv_heads;
    which -= is_query ? 0 : is_value ? heads + kv_heads : heads;
    uint size = is_value ? sizes >> 16 : sizes & 0xffffu;
    FreshFloats source = is_query ? query : is_value ? value : key;
    uint at = is_query   ? row * query_stride + which * query_head_stride
              : is_value ? row * value_stride + which * size
                         : row * key_stride + which * size;
    Floats weight = is_query ? query_norm : key_norm;
    bool weighted = !is_value && uint64_t(weight) != 0;
    uint first_weight = NORM_EACH ? which * (NORMED > 0 ? NORMED : size) : 0;
    bool normed = is_value ? VALUE_NORM : weighted;
    uint normed_size = NORMED > 0 && !is_value ? NORMED : size;
    uint rotary = is_value || uint64_t(table) == 0 ? 0 : rotary_and_sequences & 0xffffu;

    [[unroll]] for (uint i = 0; i < STEPS; i++)
        norms[i] = weighted && thread + i * GROUP < normed_size ? weight.v[first_weight + thread + i * GROUP] : 1.0;
    [[unroll]] for (uint i = 0; i < (STEPS + 1) / 2; i++) {
        uint pair = thread + i * GROUP;
        if (pair < rotary / 2)
            angles[i] = vec2(table.v[row * rotary + 2 * pair], table.v[row * rotary + 2 * pair + 1]);
    }
    float factor = is_query && uint64_t(query_scales) != 0 ? query_scales.v[row] : 1.0;
    Sequence sequence;
    uint index; /* of the row in the cache */
    if (!is_query) {
        uint s = 0, sequence_count = rotary_and_sequences >> 16;
        sequence = sequences.v[0];
        while (s + 1 < sequence_count && row >= sequence.first_row + sequence.rows)
            sequence = sequences.v[++s];
        uint position = sequence.first_position + row - sequence.first_row;
        if (row - sequence.first_row < sequence.rows)
            index = RING > 0 ? position % RING : cache_index(sequence, position);
    }
    chain_wait(progress, awaited);
    if (!is_query && row - sequence.first_row >= sequence.rows)
        return;
    [[unroll]] for (uint i = 0; i < STEPS; i++)
        raw[i] = thread + i * GROUP < size ? source.v[at + thread + i * GROUP] : 0.0;
    [[unroll]] for (uint i = 0; i < STEPS; i++)
        if (thread + i * GROUP < size)
            elements[thread + i * GROUP] = raw[i];
    barrier();
    if (normed && !NORM_AFTER_ROPE)
        norm_heads(uint[1](normed_size), bool[1](weighted));
    if (rotary > 0)
        turn_heads(uint[1](rotary / 2));
    if (normed && NORM_AFTER_ROPE)
        norm_heads(uint[1](normed_size), bool[1](weighted));
    if (PLAIN_NORM && !is_value)
        norm_heads(uint[1](size), bool[1](false));
    if (is_query) {
        for (uint i = thread; i < size; i += GROUP)
            into.v[(row * heads + which) * into_head_stride + i] = elements[i] * factor;
        return;
    }
    uint row_elements = is_value ? value_row : key_row;
    uint64_t head_bytes = uint64_t(sequence.capacity) *
                          (cache_row_bytes(CACHE, row_elements) +
                           (CACHE == CACHE_Q8_0 || CACHE == CACHE_Q4_0 ? row_elements / 16 : 0));
    store((is_value ? sequence.values : sequence.keys) + which * head_bytes, index, sequence.capacity, size,
          row_elements);
}

void main()
{
    take_head();
    chain_end(progress);
}
