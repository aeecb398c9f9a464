#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

/* A branch goes back into the streams (compute.h, struct stream_mixer): an invocation has one element of all of them. */
layout(constant_id = 0) const uint STREAMS = 4;
layout(constant_id = 1) const bool BALANCED = true;

layout(local_size_x = 128) in;
layout(push_constant) uniform Push
{
    Floats streams;
    Floats coefficients;
    Floats branch;
    uint width;
};

void main()
{
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    uint count = BALANCED ? (2 + STREAMS) * STREAMS : 2 * STREAMS;
    if (i >= width)
        return;
    Floats to = Floats(uint64_t(streams) + uint64_t(row) * STREAMS * width * 4);
    Floats c = Floats(uint64_t(coefficients) + uint64_t(row) * count * 4);
    float added = branch.v[row * width + i], old[STREAMS];
    for (uint s = 0; s < STREAMS; s++)
        old[s] = to.v[s * width + i];
    for (uint t = 0; t < STREAMS; t++) {
        float sum = BALANCED ? 0.0 : old[t];
        if (BALANCED)
            for (uint s = 0; s < STREAMS; s++)
                sum = fma(c.v[(2 + s) * STREAMS + t], old[s], sum);
        to.v[t * width + i] = fma(c.v[STREAMS + t], added, sum);
    }
}
