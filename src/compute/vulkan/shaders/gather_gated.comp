#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "functions.glsl"

/* Streams become one row, each element by a gate of its own (compute.h, struct gated_gather): an invocation has one
 * element of the row. */
layout(constant_id = 0) const uint STREAMS = 4;
layout(constant_id = 1) const bool RETURNS = true;

layout(local_size_x = 128) in;
layout(push_constant) uniform Push
{
    Floats streams;
    Floats gates;
    Floats inject;
    Floats coefficients;
    Floats into;
    uint width;
};

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    if (RETURNS && i < STREAMS) {
        coefficients.v[row * 2 * STREAMS + i] = 0.0;
        coefficients.v[(row * 2 + 1) * STREAMS + i] = 2.0 * sigmoid(inject.v[row * STREAMS + i] / float(STREAMS));
    }
    if (i >= width)
        return;
    float sum = 0.0;
    for (uint s = 0; s < STREAMS; s++) {
        uint at = (row * STREAMS + s) * width + i;
        sum = fma(sigmoid(gates.v[at]) * streams.v[at], 1.0 / float(STREAMS), sum);
    }
    into.v[row * width + i] = sum;
}
