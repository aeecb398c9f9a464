#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "functions.glsl"

/* into[i] = operation(from[i], second[i]), four elements an invocation. Numbers from FIRST_FUNCTION on are those of
 * enum activation_function. */
layout(constant_id = 0) const uint OPERATION = 0;
#define ADD 0
#define SCALE 1
#define SOFT_CAP 2
#define FIRST_FUNCTION 16

layout(local_size_x = 256) in;
layout(push_constant) uniform Push
{
    Floats into;
    Floats from;
    Floats second;
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
        case ADD:
            a = fma(factor, second.v[i], a);
            break;
        case SCALE:
            a *= factor;
            break;
        case SOFT_CAP:
            a = tanh_of(a / factor) * factor;
            break;
        case FIRST_FUNCTION:
            a *= sigmoid(a);
            break;
        case FIRST_FUNCTION + 1:
            a = gelu(a);
            break;
        case FIRST_FUNCTION + 2:
            a = gelu_erf(a);
            break;
        case FIRST_FUNCTION + 3:
            a = max(a, 0.0);
            break;
        case FIRST_FUNCTION + 4:
            a = max(a, 0.0) * max(a, 0.0);
            break;
        case FIRST_FUNCTION + 5:
            a = sigmoid(a);
            break;
        case FIRST_FUNCTION + 6:
            a = softplus(a);
            break;
        }
        into.v[i] = a;
    }
}
