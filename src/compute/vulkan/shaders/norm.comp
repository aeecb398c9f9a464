#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 256
#include "common.glsl"

/* into[r] = from[r] * weight / rms(from[r]), or, of a layer norm, (from[r] - mean) * weight / deviation + bias. */
layout(constant_id = 0) const bool LAYER = false;

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats into, from, weight, bias;
    uint rows, columns, into_stride, from_stride;
    float epsilon;
};

// A work group takes a row at a time.
void main()
{
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
        Floats from_row = Floats(uint64_t(from) + uint64_t(row) * from_stride * 4);
        Floats into_row = Floats(uint64_t(into) + uint64_t(row) * into_stride * 4);
        float mean = 0, sum = 0;
        if (LAYER) {
            for (uint c = gl_LocalInvocationID.x; c < columns; c += GROUP)
                mean += from_row.v[c];
            mean = group_sum(mean) / float(columns);
        }
        for (uint c = gl_LocalInvocationID.x; c < columns; c += GROUP) {
            float a = from_row.v[c] - mean;
            sum = fma(a, a, sum);
        }
        float factor = inversesqrt(group_sum(sum) / float(columns) + epsilon);
        for (uint c = gl_LocalInvocationID.x; c < columns; c += GROUP) {
            float a = (from_row.v[c] - mean) * factor;
            if (uint64_t(weight) != 0)
                a *= weight.v[c];
            if (uint64_t(bias) != 0)
                a += bias.v[c];
            into_row.v[c] = a;
        }
    }
}
