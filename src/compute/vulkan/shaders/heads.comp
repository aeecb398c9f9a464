#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 64
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

#define MOST 640
#define MOST_STEPS 10

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

shared float head[MOST];
shared float scales[MOST / 32];

/* Round to nearest even, as core/half.h: what packHalf2x16 does is the driver's choice. */
uint half_bits(float a)
{
    uint bits = floatBitsToUint(a), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return sign | 0x7e00u;
    if (magnitude >= 0x477ff000u)
        return sign | 0x7c00u;
    if (magnitude < 0x38800000u) {
        /* Subnormal: a multiple of 2^-24. Adding 1/2 puts its bits last, rounded. */
        return sign | (floatBitsToUint(uintBitsToFloat(magnitude) + 0.5) - 0x3f000000u);
    }
    return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13);
}

uint bfloat_bits(float a)
{
    uint bits = floatBitsToUint(a);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return bits >> 16 | 0x40u;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

/* What an invocation needs of memory, asked for at once. */
float raw[MOST_STEPS], norms[MOST_STEPS];
vec2 angles[MOST_STEPS]; /* cosine and sine of pairs */

void norm_head(uint size, bool weighted)
{
    uint thread = gl_LocalInvocationID.x;
    float sum = 0.0;
    if (CENTRED && weighted) {
        for (uint i = thread; i < size; i += GROUP)
            sum += head[i];
        float mean = group_sum(sum) / float(size);
        for (uint i = thread; i < size; i += GROUP)
            head[i] -= mean;
        sum = 0.0;
    }
    for (uint i = thread; i < size; i += GROUP)
        sum = fma(head[i], head[i], sum);
    float factor = inversesqrt(group_sum(sum) / float(size) + epsilon);
    [[unroll]] for (uint i = 0; i < STEPS; i++)
        if (thread + i * GROUP < size)
            head[thread + i * GROUP] *= weighted ? factor * norms[i] : factor;
    barrier();
}

void turn_head(uint pairs)
{
    [[unroll]] for (uint i = 0; i < (STEPS + 1) / 2; i++) {
        uint pair = gl_LocalInvocationID.x + i * GROUP;
        if (pair < pairs) {
            uint first = TURNED_FROM + (ADJACENT ? 2 * pair : pair), second = first + (ADJACENT ? 1 : pairs);
            float a = head[first], b = head[second];
            float sine = BACK ? -angles[i].y : angles[i].y;
            head[first] = a * angles[i].x - b * sine;
            head[second] = a * sine + b * angles[i].x;
        }
    }
    barrier();
}

/* The element of greatest magnitude of a block, the first of equals. */
float greatest(uint block)
{
    float most = 0.0;
    for (uint i = 0; i < 32; i++)
        if (abs(head[block * 32 + i]) > abs(most))
            most = head[block * 32 + i];
    return most;
}

void store_blocks(uint64_t region, uint index, uint capacity, uint size, uint row_elements)
{
    uint thread = gl_LocalInvocationID.x, blocks = size / 32;
    FreshShorts to = FreshShorts(region + uint64_t(capacity) * cache_row_bytes(CACHE, row_elements) +
                                 uint64_t(index) * (row_elements / 16));
    for (uint b = thread; b < blocks; b += GROUP) {
        float most = greatest(b);
        float scale = CACHE == CACHE_Q8_0 ? abs(most) / 127.0 : most / -8.0;
        to.v[b] = uint16_t(half_bits(scale));
        scales[b] = scale != 0.0 ? 1.0 / scale : 0.0;
    }
    barrier();
    FreshUints quants = FreshUints(region + uint64_t(index) * cache_row_bytes(CACHE, row_elements));
    if (CACHE == CACHE_Q8_0) {
        for (uint w = thread; w < size / 4; w += GROUP) {
            uint word = 0;
            for (uint i = 0; i < 4; i++)
                word |= (uint(int(roundEven(head[w * 4 + i] * scales[w / 8]))) & 0xffu) << (8 * i);
            quants.v[w] = word;
        }
    } else {
        for (uint w = thread; w < size / 8; w += GROUP) {
            uint word = 0, block = w / 4;
            for (uint i = 0; i < 4; i++) {
                uint at = block * 32 + (w % 4) * 4 + i;
                uint low = uint(min(floor(head[at] * scales[block] + 8.5), 15.0));
                uint high = uint(min(floor(head[at + 16] * scales[block] + 8.5), 15.0));
                word |= (low | high << 4) << (8 * i);
            }
            quants.v[w] = word;
        }
    }
}

void store(uint64_t region, uint index, uint capacity, uint size, uint row_elements)
{
    uint thread = gl_LocalInvocationID.x;
    if (CACHE == CACHE_Q8_0 || CACHE == CACHE_Q4_0) {
        store_blocks(region, index, capacity, size, row_elements);
        return;
    }
    FreshUints to = FreshUints(region + uint64_t(index) * cache_row_bytes(CACHE, row_elements));
    if (CACHE == CACHE_F32)
        for (uint i = thread; i < size; i += GROUP)
            to.v[i] = floatBitsToUint(head[i]);
    else
        for (uint i = thread; i < size / 2; i += GROUP)
            to.v[i] = CACHE == CACHE_F16 ? half_bits(head[2 * i]) | half_bits(head[2 * i + 1]) << 16
                                         : bfloat_bits(head[2 * i]) | bfloat_bits(head[2 * i + 1]) << 16;
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
            head[thread + i * GROUP] = raw[i];
    barrier();
    if (normed && !NORM_AFTER_ROPE)
        norm_head(normed_size, weighted);
    if (rotary > 0)
        turn_head(rotary / 2);
    if (normed && NORM_AFTER_ROPE)
        norm_head(normed_size, weighted);
    if (PLAIN_NORM && !is_value)
        norm_head(size, false);
    if (is_query) {
        for (uint i = thread; i < size; i += GROUP)
            into.v[(row * heads + which) * into_head_stride + i] = head[i] * factor;
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
