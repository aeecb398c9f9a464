#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "functions.glsl"

/* into[r][c] = activation(gate[r][c]) * up[r][c]. KIND is enum glu_kind. */
layout(constant_id = 0) const uint KIND = 0;

layout(local_size_x = 256) in;
layout(push_constant) uniform Push
{
    Floats into;
    Floats gate;
    Floats up;
    uint rows, columns, gate_stride, up_stride;
    float alpha, limit;
};

void main()
{
    uint first = gl_WorkGroupID.x * 1024 + gl_LocalInvocationID.x;
    for (uint row = gl_WorkGroupID.y; row < rows; row += gl_NumWorkGroups.y)
        for (uint c = first; c < min(columns, first + 1024); c += 256) {
            float g = gate.v[row * gate_stride + c];
            float u = up.v[row * up_stride + c];
            switch (KIND) {
            case 0:
                g *= sigmoid(g);
                break;
            case 1:
                g = gelu(g);
                break;
            case 2:
                g = gelu_erf(g);
                break;
            case 3:
                g = max(g, 0.0);
                break;
            case 4:
                g = min(g, limit);
                u = clamp(u, -limit, limit) + 1.0;
                g *= sigmoid(alpha * g);
                break;
            }
            into.v[row * columns + c] = g * u;
        }
}
