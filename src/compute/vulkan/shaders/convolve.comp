#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 64
#include "common.glsl"
#include "functions.glsl"
#include "delta.glsl"

/* A short causal convolution: an invocation takes one channel of one row. The last row of a sequence leaves the inputs
 * that the next ones look back on. */
layout(constant_id = 0) const uint TAPS = 4;
layout(constant_id = 1) const uint SILU = 1;
layout(constant_id = 2) const uint DILATION = 1; /* rows from tap to tap */
#define BACK ((TAPS - 1) * DILATION)

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats weights;
    Floats bias;
    Floats from;
    Floats into;
    Sequences sequences;
    uint sequence_count, channels, width, group_stride, stride;
};

/* Input "index" of a channel, counted from BACK rows before the sequence's first. */
float input_at(Sequence sequence, uint index, uint channel)
{
    if (index >= BACK)
        return from.v[(sequence.first_row + index - BACK) * stride + channel / width * group_stride +
                      channel % width];
    return sequence.fresh != 0 ? 0.0 : Floats(sequence.state).v[index * channels + channel];
}

void main()
{
    uint row = gl_WorkGroupID.x, channel = gl_WorkGroupID.y * GROUP + gl_LocalInvocationID.x, s = 0;
    Sequence sequence = sequences.v[0];
    while (s + 1 < sequence_count && row >= sequence.first_row + sequence.rows)
        sequence = sequences.v[++s];
    uint index = row - sequence.first_row;
    if (index >= sequence.rows || channel >= channels)
        return;
    float sum = 0.0;
    [[unroll]] for (uint tap = 0; tap < TAPS; tap++)
        sum = fma(input_at(sequence, index + tap * DILATION, channel), weights.v[channel * TAPS + tap], sum);
    if (uint64_t(bias) != 0)
        sum += bias.v[channel];
    into.v[row * channels + channel] = SILU != 0 ? sum * sigmoid(sum) : sum;
    if (index + 1 == sequence.rows)
        for (uint back = 0; back < BACK; back++)
            Floats(sequence.next).v[back * channels + channel] = input_at(sequence, sequence.rows + back, channel);
}
