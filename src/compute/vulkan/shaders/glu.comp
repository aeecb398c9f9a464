#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "functions.glsl"

/* into[r][c] = activation(w * gate[r][c]) * w * up[r][c], where w is 1 or weights[r]. KIND is enum glu_kind. */
layout(constant_id = 0) const uint KIND = 0;
layout(constant_id = 1) const bool ONE_GATE = false; /* gate[r] for all of a row */

layout(local_size_x = 256) in;
layout(push_constant) uniform Push
{
    Floats into;
    Floats gate;
    Floats up;
    Floats weights;
    uint rows, columns, gate_stride, up_stride;
    float alpha, limit;
};

void main()
{
    uint first = gl_WorkGroupID.x * 1024 + gl_LocalInvocationID.x;
    for (uint row = gl_WorkGroupID.y; row < rows; row += gl_NumWorkGroups.y) {
        float weight = uint64_t(weights) != 0 ? weights.v[row] : 1.0;
        float gates[4], ups[4]; /* all read before the first is written, so that one wait does */
        [[unroll]] for (uint i = 0; i < 4; i++) {
            uint c = min(first + i * 256, columns - 1);
            gates[i] = gate.v[row * gate_stride + (ONE_GATE ? 0 : c)];
            ups[i] = up.v[row * up_stride + c];
        }
        [[unroll]] for (uint i = 0; i < 4; i++)
            if (first + i * 256 < columns)
                into.v[row * columns + first + i * 256] = gated(KIND, gates[i] * weight, ups[i] * weight, alpha, limit);
    }
}
