#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 256
#include "common.glsl"

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats into, from, weight;
    uint rows, columns;
    float epsilon;
};

// A work group takes a row at a time.
void main()
{
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
        uint start = row * columns;
        float sum = 0;
        for (uint c = gl_LocalInvocationID.x; c < columns; c += GROUP)
            sum = fma(from.v[start + c], from.v[start + c], sum);
        float factor = inversesqrt(group_sum(sum) / float(columns) + epsilon);
        for (uint c = gl_LocalInvocationID.x; c < columns; c += GROUP)
            into.v[start + c] = from.v[start + c] * factor * (uint64_t(weight) != 0 ? weight.v[c] : 1.0);
    }
}
