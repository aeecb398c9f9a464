#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "mix.glsl"

layout(local_size_x = 256) in;
layout(push_constant) uniform Push
{
    Floats into;
    MIX_MEMBERS
    uint rows, columns;
};

void main()
{
    uint c = gl_GlobalInvocationID.x;
    if (c >= columns)
        return;
    for (uint row = gl_WorkGroupID.y; row < rows; row += gl_NumWorkGroups.y) {
        float sum;
        MIX_ELEMENT(row, columns, c, sum);
        into.v[row * columns + c] = sum;
    }
}
