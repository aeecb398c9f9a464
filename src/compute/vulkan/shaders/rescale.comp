#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

/* rows[r][c] = rows[r][c] * scales[e] + biases[e][c], where e is ids[r], or 0 without ids. Rows of what has no slot stay
 * as they are. */
layout(local_size_x = 256) in;
layout(push_constant) uniform Push
{
    Floats rows;
    Floats scales;
    Floats biases;
    Uints ids;
    Uints slots;
    uint count, columns, stride;
};

#define NO_SLOT 0xffffffffu

void main()
{
    for (uint row = gl_WorkGroupID.y; row < count; row += gl_NumWorkGroups.y) {
        uint id = uint64_t(ids) != 0 ? ids.v[row] : 0;
        if (uint64_t(slots) != 0 && slots.v[id] == NO_SLOT)
            continue;
        float scale = scales.v[id];
        for (uint c = gl_GlobalInvocationID.x; c < columns; c += gl_NumWorkGroups.x * 256) {
            float bias = uint64_t(biases) != 0 ? biases.v[id * columns + c] : 0.0;
            rows.v[row * stride + c] = rows.v[row * stride + c] * scale + bias;
        }
    }
}
