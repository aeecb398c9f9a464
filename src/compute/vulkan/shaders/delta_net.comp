#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "functions.glsl"
#include "delta.glsl"
#include "decay.glsl"

/* The rule of a gated delta net. An invocation has one column of a head's matrix in registers and takes the rows of a
 * sequence one after another, so that how they are cut into batches changes no bit; columns do not depend on each other.
 *   S = decay S;  S += k (beta (v - k S));  output = q S */
layout(constant_id = 0) const uint KEY_SIZE = 128; /* a multiple of 4 */

#define GROUP 32
#define MOST_KEYS 256

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats from; /* queries, keys and values of a row */
    Floats beta;
    Floats alpha;
    Floats step_bias;
    Floats decay_rate;
    Floats into;
    Sequences sequences;
    uint key_heads, value_heads, value_size, channels, gate_stride, gate_group;
    uint tiled;
    uint decay_kind;
    float bound;
};

shared vec4 query[MOST_KEYS / 4];
shared vec4 key[MOST_KEYS / 4];
shared vec4 decays[MOST_KEYS / 4];

void main()
{
    uint slices = (value_size + GROUP - 1) / GROUP, head = gl_WorkGroupID.x / slices;
    uint thread = gl_LocalInvocationID.x, column = gl_WorkGroupID.x % slices * GROUP + thread;
    bool inside = column < value_size;
    Sequence sequence = sequences.v[gl_WorkGroupID.y];
    if (sequence.rows == 0)
        return;
    uint shared_head = tiled != 0 ? head % key_heads : head / (value_heads / key_heads);
    uint gate = gate_group > 0 ? head / gate_group * 2 * gate_group + head % gate_group : head;
    uint first = head * KEY_SIZE * value_size + column;
    float bias = step_bias.v[head], rate = decay_rate.v[head];
    uint gates = decay_kind != 0 ? value_heads * KEY_SIZE : gate_stride;
    float matrix[KEY_SIZE];
    [[unroll]] for (uint k = 0; k < KEY_SIZE; k++)
        matrix[k] = 0.0;
    if (inside && sequence.fresh == 0)
        [[unroll]] for (uint k = 0; k < KEY_SIZE; k++)
            matrix[k] = Floats(sequence.state).v[first + k * value_size];

    for (uint row = sequence.first_row; row < sequence.first_row + sequence.rows; row++) {
        uint at = row * channels + shared_head * KEY_SIZE;
        barrier();
        float decay = decay_kind == 0 ? decay_of(0, alpha.v[row * gates + gate] + bias, rate, bound) : 0.0;
        for (uint i = thread; i < KEY_SIZE / 4; i += GROUP) {
            [[unroll]] for (uint n = 0; n < 4; n++) {
                uint channel = head * KEY_SIZE + 4 * i + n;
                float f = decay_kind == 0 ? 0.0 : alpha.v[row * gates + channel] + step_bias.v[channel];
                decays[i][n] = decay_kind == 0 ? decay : decay_of(decay_kind, f, rate, bound);
                query[i][n] = from.v[at + 4 * i + n];
                key[i][n] = from.v[at + key_heads * KEY_SIZE + 4 * i + n];
            }
        }
        float value = inside ? from.v[row * channels + 2 * key_heads * KEY_SIZE + head * value_size + column] : 0.0;
        float share = sigmoid(beta.v[row * gate_stride + gate]);
        barrier();
        vec4 sums = vec4(0.0);
        [[unroll]] for (uint i = 0; i < KEY_SIZE / 4; i++) {
            vec4 four = vec4(matrix[4 * i], matrix[4 * i + 1], matrix[4 * i + 2], matrix[4 * i + 3]) * decays[i];
            sums = fma(four, key[i], sums);
            [[unroll]] for (uint n = 0; n < 4; n++)
                matrix[4 * i + n] = four[n];
        }
        float delta = (value - ((sums.x + sums.y) + (sums.z + sums.w))) * share;
        sums = vec4(0.0);
        [[unroll]] for (uint i = 0; i < KEY_SIZE / 4; i++) {
            vec4 four = vec4(matrix[4 * i], matrix[4 * i + 1], matrix[4 * i + 2], matrix[4 * i + 3]);
            four = fma(key[i], vec4(delta), four);
            sums = fma(query[i], four, sums);
            [[unroll]] for (uint n = 0; n < 4; n++)
                matrix[4 * i + n] = four[n];
        }
        if (inside)
            into.v[(row * value_heads + head) * value_size + column] = (sums.x + sums.y) + (sums.z + sums.w);
    }
    if (inside)
        [[unroll]] for (uint k = 0; k < KEY_SIZE; k++)
            Floats(sequence.next).v[first + k * value_size] = matrix[k];
}
