#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 256
#include "common.glsl"

/* into[r] = from[r] * weight / rms(from[r]) + bias, with CENTRED of what is left without the mean. A work group takes a row at a time, STEPS fours of floats an
 * invocation at once; with STEPS 0 a row may have any length. */
layout(constant_id = 0) const uint STEPS = 0;
layout(constant_id = 1) const bool CENTRED = false;

#define MOST_STEPS 8

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats into, from, weight, bias;
    uint rows, columns;
    float epsilon;
};

void row_in_memory(Floats into_row, Floats from_row)
{
    float sum = 0.0, mean = 0.0;
    if (CENTRED) {
        for (uint c = gl_LocalInvocationID.x; c < columns; c += GROUP)
            mean += from_row.v[c];
        mean = group_sum(mean) / float(columns);
    }
    for (uint c = gl_LocalInvocationID.x; c < columns; c += GROUP) {
        float a = from_row.v[c] - mean;
        sum = fma(a, a, sum);
    }
    float factor = inversesqrt(group_sum(sum) / float(columns) + epsilon);
    for (uint c = gl_LocalInvocationID.x; c < columns; c += GROUP) {
        float a = (from_row.v[c] - mean) * factor;
        if (uint64_t(weight) != 0)
            a *= weight.v[c];
        into_row.v[c] = uint64_t(bias) != 0 ? a + bias.v[c] : a;
    }
}

bool inside(uint i)
{
    return (gl_LocalInvocationID.x + i * GROUP) * 4 < columns;
}

vec4 four_of(uint64_t row, uint i)
{
    return inside(i) ? Vec4s(row).v[gl_LocalInvocationID.x + i * GROUP] : vec4(0.0);
}

void row_in_registers(Floats into_row, Floats from_row)
{
    vec4 a[MOST_STEPS], weights[MOST_STEPS], biases[MOST_STEPS];
    float sum = 0.0;
    [[unroll]] for (uint i = 0; i < STEPS; i++) {
        a[i] = four_of(uint64_t(from_row), i);
        weights[i] = uint64_t(weight) != 0 ? four_of(uint64_t(weight), i) : vec4(1.0);
        biases[i] = uint64_t(bias) != 0 ? four_of(uint64_t(bias), i) : vec4(0.0);
    }
    if (CENTRED) {
        [[unroll]] for (uint i = 0; i < STEPS; i++)
            sum += dot(a[i], vec4(1.0));
        float mean = group_sum(sum) / float(columns);
        sum = 0.0;
        [[unroll]] for (uint i = 0; i < STEPS; i++)
            a[i] = inside(i) ? a[i] - mean : vec4(0.0);
    }
    [[unroll]] for (uint i = 0; i < STEPS; i++)
        sum += dot(a[i], a[i]);
    float factor = inversesqrt(group_sum(sum) / float(columns) + epsilon);
    [[unroll]] for (uint i = 0; i < STEPS; i++)
        if (inside(i))
            Vec4s(uint64_t(into_row)).v[gl_LocalInvocationID.x + i * GROUP] = a[i] * factor * weights[i] + biases[i];
}

void main()
{
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
        Floats from_row = Floats(uint64_t(from) + uint64_t(row) * columns * 4);
        Floats into_row = Floats(uint64_t(into) + uint64_t(row) * columns * 4);
        if (STEPS > 0)
            row_in_registers(into_row, from_row);
        else
            row_in_memory(into_row, from_row);
    }
}
