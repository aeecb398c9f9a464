// Puts rows of halves into panels. A work group moves eight rows by 256 columns, so that neighbours write neighbouring bytes.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "panels.glsl"

layout(local_size_x = 256) in;
layout(push_constant) uniform Push
{
    Uvec4s into, from;
    uint rows, columns, stride; // the latter in units of 16 bytes
};

void main()
{
    uint row = gl_WorkGroupID.y * 8 + gl_LocalInvocationID.x % 8;
    uint eight = gl_WorkGroupID.x * 32 + gl_LocalInvocationID.x / 8;
    if (row < rows && eight < columns / 8)
        into.v[panel_place(row, eight, columns)] = from.v[row * stride + eight];
}
