#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

/* values[r][h][i] *= sigmoid(gate), where gates lie at r * stride + h * head_stride + i. */
layout(local_size_x = 256) in;
layout(push_constant) uniform Push
{
    Floats values;
    Floats gates;
    uint rows, heads, size, stride, head_stride;
};

void main()
{
    uint i = gl_GlobalInvocationID.x;
    if (i >= heads * size)
        return;
    for (uint row = gl_WorkGroupID.y; row < rows; row += gl_NumWorkGroups.y) {
        float gate = gates.v[row * stride + i / size * head_stride + i % size];
        values.v[row * heads * size + i] /= 1.0 + exp(-gate);
    }
}
