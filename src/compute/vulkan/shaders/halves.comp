#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "functions.glsl"
#include "to_halves.glsl"

/* into[i] = from[i] as a half or, with KIND, activation(from[i]) * up[i], KIND less one being enum glu_kind; what is beyond
 * the range of halves becomes their greatest. Eight elements an invocation. */
layout(constant_id = 0) const uint KIND = 0;

layout(local_size_x = 256) in;
layout(push_constant) uniform Push
{
    Uvec4s into;
    Vec4s from;
    Vec4s up;
    uint eights;
    float alpha, limit;
};

uvec2 result(vec4 a, vec4 b)
{
    if (KIND != 0)
        [[unroll]] for (uint i = 0; i < 4; i++)
            a[i] = gated(KIND - 1, a[i], b[i], alpha, limit);
    return halves_of(a);
}

void main()
{
    uint at = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * 256 + gl_LocalInvocationID.x;
    if (at >= eights)
        return;
    vec4 low = from.v[2 * at], high = from.v[2 * at + 1], up_low = vec4(0), up_high = vec4(0);
    if (KIND != 0) {
        up_low = up.v[2 * at];
        up_high = up.v[2 * at + 1];
    }
    into.v[at] = uvec4(result(low, up_low), result(high, up_high));
}
