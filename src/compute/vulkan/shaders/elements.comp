#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "functions.glsl"

/* into[i] = operation(from[i]), four elements an invocation. */
layout(constant_id = 0) const uint OPERATION = 0;
#define SCALE 0
#define SOFT_CAP 1
#define GELU 2
#define CLAMP 3
#define SILU 4

layout(local_size_x = 256) in;
layout(push_constant) uniform Push
{
    Floats into;
    Floats from;
    uint count;
    float factor;
};

void main()
{
    uint first = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * 1024 + gl_LocalInvocationID.x;
    for (uint step = 0; step < 4; step++) {
        uint i = first + step * 256;
        if (i >= count)
            return;
        float a = from.v[i];
        switch (OPERATION) {
        case SCALE:
            a *= factor;
            break;
        case SOFT_CAP:
            a = tanh_of(a / factor) * factor;
            break;
        case GELU:
            a = gelu(a);
            break;
        case SILU:
            a *= factor;
            a *= sigmoid(a);
            break;
        case CLAMP:
            a = clamp(a, -factor, factor);
            break;
        }
        into.v[i] = a;
    }
}
