#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 64
#include "common.glsl"
#include "functions.glsl"
#include "delta.glsl"

/* The inputs of a gated delta net: a work group takes one head of up to ROWS rows, of the queries, then of the keys, then
 * of the values. Channels are convolved over the last TAPS inputs, and pass a SiLU; queries and keys are brought to length 1,
 * queries divided by the root of their size besides. The last row of a sequence leaves the inputs that the next ones look
 * back on. */
layout(constant_id = 0) const uint TAPS = 4;
layout(constant_id = 1) const uint ROWS = 1; /* at most MOST_ROWS */

#define MOST_ROWS 8
#define MOST_TAPS 64

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats query_filters, key_filters, value_filters;
    Floats queries, keys, values;
    Floats into;
    Sequences sequences;
    uint query_stride, key_stride, value_stride;
    uint sequence_count, key_heads, key_size, value_size, channels, matrix_floats;
    float epsilon;
    uint root_epsilon;
};

/* What a head is a part of: queries, keys or values. */
struct Part
{
    Floats filters, from;
    uint stride, first; /* the part's first channel of all */
};

Part part_of(uint head)
{
    if (head < key_heads)
        return Part(query_filters, queries, query_stride, 0);
    if (head < 2 * key_heads)
        return Part(key_filters, keys, key_stride, key_heads * key_size);
    return Part(value_filters, values, value_stride, 2 * key_heads * key_size);
}

/* Input "index" of a channel, counted from TAPS - 1 rows before the sequence's first. */
float input_at(Sequence sequence, Part part, uint index, uint channel)
{
    if (index >= TAPS - 1)
        return part.from.v[(sequence.first_row + index - (TAPS - 1)) * part.stride + channel - part.first];
    return sequence.fresh != 0 ? 0.0 : Floats(sequence.state).v[matrix_floats + index * channels + channel];
}

void main()
{
    uint number = gl_WorkGroupID.x, head = gl_WorkGroupID.y, s = 0;
    Sequence sequence = sequences.v[0];
    while (s + 1 < sequence_count && number >= sequences.v[s + 1].block)
        sequence = sequences.v[++s];
    bool is_value = head >= 2 * key_heads;
    uint size = is_value ? value_size : key_size, index = (number - sequence.block) * ROWS;
    uint first = is_value ? 2 * key_heads * key_size + (head - 2 * key_heads) * value_size : head * key_size;
    uint rows = min(sequence.rows - index, ROWS), to = (sequence.first_row + index) * channels + first;
    Part part = part_of(head);
    float squares[MOST_ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        squares[r] = 0.0;
    for (uint i = gl_LocalInvocationID.x; i < size; i += GROUP) {
        uint channel = first + i;
        float inputs[MOST_ROWS + MOST_TAPS], filters[MOST_TAPS];
        [[unroll]] for (uint n = 0; n + 1 < ROWS + TAPS; n++)
            inputs[n] = input_at(sequence, part, index + min(n, rows + TAPS - 2), channel);
        [[unroll]] for (uint tap = 0; tap < TAPS; tap++)
            filters[tap] = part.filters.v[(channel - part.first) * TAPS + tap];
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            float sum = 0.0;
            [[unroll]] for (uint tap = 0; tap < TAPS; tap++)
                sum = fma(inputs[r + tap], filters[tap], sum);
            sum *= sigmoid(sum);
            if (r < rows)
                into.v[to + r * channels + i] = sum;
            squares[r] = fma(sum, sum, squares[r]);
        }
    }
    if (index + rows == sequence.rows) {
        Floats kept = Floats(sequence.next);
        for (uint i = gl_LocalInvocationID.x; i < size * (TAPS - 1); i += GROUP) {
            uint back = i / size, channel = first + i % size;
            kept.v[matrix_floats + back * channels + channel] = input_at(sequence, part, sequence.rows + back, channel);
        }
    }
    if (is_value)
        return;
    float factors[MOST_ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        float all = group_sum(squares[r]);
        factors[r] = 1.0 / (root_epsilon != 0 ? sqrt(all + epsilon) : max(sqrt(all), epsilon));
        if (head < key_heads)
            factors[r] /= sqrt(float(size));
    }
    for (uint i = gl_LocalInvocationID.x; i < size; i += GROUP)
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            if (r < rows)
                into.v[to + r * channels + i] *= factors[r];
}
