#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

/* Each of so many rows next to each other gets the same row, times a factor. */
layout(local_size_x = 256) in;
layout(push_constant) uniform Push
{
    Floats to;
    Floats from;
    uint count, width, copies; /* elements of "to"; of a row */
    float factor;
};

void main()
{
    for (uint i = gl_GlobalInvocationID.x; i < count; i += gl_NumWorkGroups.x * 256)
        to.v[i] = fma(from.v[i / (width * copies) * width + i % width], factor, to.v[i]);
}
