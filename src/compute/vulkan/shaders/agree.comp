#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 128
#include "common.glsl"
#include "functions.glsl"

/* A value enters a stream by how well a key matches a query (compute.h, struct stream_match), a work group a stream of a
 * row. */
layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats keys;
    Floats queries;
    Floats values;
    Floats into;
    uint streams, width;
};

void main()
{
    uint thread = gl_LocalInvocationID.x, row = gl_WorkGroupID.y;
    uint first = (row * streams + gl_WorkGroupID.x) * width;
    float sum = 0.0;
    for (uint i = thread; i < width; i += GROUP)
        sum = fma(keys.v[first + i], queries.v[first + i], sum);
    float match = group_sum(sum) / sqrt(float(width));
    float gate = sigmoid(sign(match) * sqrt(max(abs(match), 1e-6)));
    for (uint i = thread; i < width; i += GROUP)
        into.v[first + i] = gate * values.v[row * width + i];
}
