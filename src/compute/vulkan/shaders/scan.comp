#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "functions.glsl"
#include "delta.glsl"

/* A scan of state spaces. An invocation has what one channel keeps in registers, and takes the rows of a sequence one
 * after another, so that how they are cut into batches changes no bit. Channels are those of a head; with rates of each
 * element every head is a channel. */
layout(constant_id = 0) const uint SIZE = 128; /* a multiple of 4 */
layout(constant_id = 1) const uint EACH = 0;

#define GROUP 32
#define MOST 256

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats from;
    Floats write;
    Floats read;
    Floats steps;
    Floats step_bias;
    Floats rates;
    Floats skip;
    Floats into;
    Sequences sequences;
    uint heads, groups, width, from_stride, write_stride, read_stride;
};

shared vec4 written[MOST / 4];
shared vec4 asked[MOST / 4];

void main()
{
    uint channels = EACH != 0 ? heads : width, slices = (channels + GROUP - 1) / GROUP;
    uint thread = gl_LocalInvocationID.x, column = gl_WorkGroupID.x % slices * GROUP + thread;
    uint head = EACH != 0 ? min(column, heads - 1) : gl_WorkGroupID.x / slices, group = head / (heads / groups);
    bool inside = column < channels;
    uint channel = EACH != 0 ? column : head * width + column;
    uint first = EACH != 0 ? column : head * SIZE * width + column;
    Sequence sequence = sequences.v[gl_WorkGroupID.y];
    if (sequence.rows == 0)
        return;
    float bias = uint64_t(step_bias) != 0 ? step_bias.v[head] : 0.0, passed = skip.v[head];
    float state[SIZE];
    [[unroll]] for (uint n = 0; n < SIZE; n++)
        state[n] = 0.0;
    if (inside && sequence.fresh == 0)
        [[unroll]] for (uint n = 0; n < SIZE; n++)
            state[n] = Floats(sequence.state).v[first + n * channels];

    for (uint row = sequence.first_row; row < sequence.first_row + sequence.rows; row++) {
        barrier();
        for (uint i = thread; i < SIZE / 4; i += GROUP)
            [[unroll]] for (uint n = 0; n < 4; n++) {
                written[i][n] = write.v[row * write_stride + group * SIZE + 4 * i + n];
                asked[i][n] = read.v[row * read_stride + group * SIZE + 4 * i + n];
            }
        float x = inside ? from.v[row * from_stride + channel] : 0.0, length = steps.v[row * heads + head] + bias;
        length = length > 20.0 ? length : log_of_one_more(exp(length)); /* softplus */
        float added = x * length, decay = EACH != 0 ? 0.0 : exp(length * rates.v[head]);
        barrier();
        vec4 sums = vec4(0.0);
        [[unroll]] for (uint i = 0; i < SIZE / 4; i++) {
            vec4 four = vec4(state[4 * i], state[4 * i + 1], state[4 * i + 2], state[4 * i + 3]);
            if (EACH != 0) {
                [[unroll]] for (uint n = 0; n < 4; n++)
                    four[n] *= exp(length * rates.v[head * SIZE + 4 * i + n]);
            } else {
                four *= decay;
            }
            four = fma(written[i], vec4(added), four);
            sums = fma(asked[i], four, sums);
            [[unroll]] for (uint n = 0; n < 4; n++)
                state[4 * i + n] = four[n];
        }
        if (inside)
            into.v[row * heads * width + channel] = fma(x, passed, (sums.x + sums.y) + (sums.z + sums.w));
    }
    if (inside)
        [[unroll]] for (uint n = 0; n < SIZE; n++)
            Floats(sequence.next).v[first + n * channels] = state[n];
}
