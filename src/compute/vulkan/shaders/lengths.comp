#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 128
#include "common.glsl"

/* Each part of a row gets the length of another row, a work group a part. */
layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats values;
    Floats by;
    uint parts, width;
};

void main()
{
    uint thread = gl_LocalInvocationID.x, row = gl_WorkGroupID.y, first = (row * parts + gl_WorkGroupID.x) * width;
    float wanted = 0.0, own = 0.0;
    for (uint i = thread; i < width; i += GROUP) {
        wanted = fma(by.v[row * width + i], by.v[row * width + i], wanted);
        own = fma(values.v[first + i], values.v[first + i], own);
    }
    wanted = group_sum(wanted);
    own = group_sum(own);
    float factor = own > 0.0 ? sqrt(wanted / own) : 0.0;
    for (uint i = thread; i < width; i += GROUP)
        values.v[first + i] *= factor;
}
