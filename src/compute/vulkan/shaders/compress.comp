#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

/* Blocks of positions become rows (compute.h, struct compression; or the plain mean of each block): an invocation has
 * one channel and takes the rows of a sequence one after another, so that how they are cut into batches changes no bit.
 */
layout(constant_id = 0) const bool POOLS = false; /* the plain mean: the state is the sum */
layout(constant_id = 1) const bool OVERLAPS = false;
layout(constant_id = 2) const bool GATED = true;
layout(constant_id = 3) const bool BIASED = true;

#define NOTHING (-3.4028234e38)

/* As struct block_sequence of compress.c. */
struct Sequence
{
    uint64_t state, next;
    uint first_row, rows, position, first_block; /* the first row that it writes */
};
layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Sequences
{
    Sequence v[];
};

layout(local_size_x = 64) in;
layout(push_constant) uniform Push
{
    Floats values;
    Floats gates;
    Floats bias;
    Floats into;
    Sequences sequences;
    uint size, every;
};

struct Mean
{
    float most, sum, values;
};

Mean load_mean(Floats state, uint channel)
{
    return Mean(state.v[channel], state.v[size + channel], state.v[2 * size + channel]);
}

void store_mean(Floats state, uint channel, Mean mean)
{
    state.v[channel] = mean.most;
    state.v[size + channel] = mean.sum;
    state.v[2 * size + channel] = mean.values;
}

Mean take(Mean mean, uint row, uint phase, uint at)
{
    uint stride = OVERLAPS ? 2 * size : size;
    float gate = (GATED ? gates.v[row * stride + at] : 0.0) + (BIASED ? bias.v[phase * stride + at] : 0.0);
    float most = max(mean.most, gate), keep = exp(mean.most - most), weight = exp(gate - most);
    return Mean(most, fma(mean.sum, keep, weight), fma(mean.values, keep, weight * values.v[row * stride + at]));
}

void pool(Sequence s, uint channel)
{
    float sum = s.position > 0 ? Floats(s.state).v[channel] : 0.0;
    uint block = s.first_block;
    for (uint r = 0; r < s.rows; r++) {
        uint phase = (s.position + r) % every;
        float value = values.v[(s.first_row + r) * size + channel];
        sum = phase == 0 ? value : sum + value;
        if (phase + 1 == every)
            into.v[block++ * size + channel] = sum / float(every);
    }
    Floats(s.next).v[channel] = sum;
}

void compress(Sequence s, uint channel)
{
    const Mean nothing = Mean(NOTHING, 0.0, 0.0);
    Floats state = Floats(s.state), next_state = Floats(s.next);
    const uint second = 3 * size * 4; /* bytes to the state of the block after */
    Mean mean = nothing, next = nothing;
    if (s.position > 0) {
        mean = load_mean(state, channel);
        if (OVERLAPS)
            next = load_mean(Floats(s.state + second), channel);
    }
    uint block = s.first_block;
    for (uint r = 0; r < s.rows; r++) {
        uint phase = (s.position + r) % every;
        mean = take(mean, s.first_row + r, phase, (OVERLAPS ? size : 0) + channel);
        if (OVERLAPS)
            next = take(next, s.first_row + r, phase, channel);
        if (phase + 1 == every) {
            into.v[block++ * size + channel] = mean.values / mean.sum;
            mean = next;
            next = nothing;
        }
    }
    store_mean(next_state, channel, mean);
    if (OVERLAPS)
        store_mean(Floats(s.next + second), channel, next);
}

void main()
{
    uint channel = gl_GlobalInvocationID.x;
    Sequence s = sequences.v[gl_WorkGroupID.y];
    if (channel >= size || s.rows == 0)
        return;
    if (POOLS)
        pool(s, channel);
    else
        compress(s, channel);
}
