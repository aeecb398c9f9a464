#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = 0) const bool WORDS = false; /* four bytes at a time, not sixteen */

layout(local_size_x = 256) in;
layout(push_constant) uniform Push
{
    Uvec4s into, from;
    uint count;
};

void main()
{
    for (uint i = gl_GlobalInvocationID.x; i < count; i += gl_NumWorkGroups.x * 256)
        if (WORDS)
            Uints(uint64_t(into)).v[i] = Uints(uint64_t(from)).v[i];
        else
            into.v[i] = from.v[i];
}
