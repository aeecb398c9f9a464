#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 256
#include "common.glsl"
#include "mix.glsl"

/* What stands between two layers' matrices, a work group a row:
 *   branch = the mix of experts, or what is in branch; normed by post_norm
 *   hidden = (hidden + scale * branch) * layer_scale
 *   into = norm of hidden */
layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats hidden;
    Floats branch;
    Floats post_norm;
    Floats layer_scale;
    Floats norm;
    Floats into;
    MIX_MEMBERS
    uint columns;
    float scale, epsilon;
    uint rows;
};

void do_row(uint row)
{
    uint64_t first = uint64_t(row) * columns * 4;
    Floats hidden_row = Floats(uint64_t(hidden) + first), branch_row = Floats(uint64_t(branch) + first);
    Floats into_row = Floats(uint64_t(into) + first);
    float factor = scale;
    if (uint64_t(post_norm) != 0) {
        float sum = 0.0;
        for (uint c = gl_LocalInvocationID.x; c < columns; c += GROUP) {
            float a;
            if (used > 0)
                MIX_ELEMENT(row, columns, c, a);
            else
                a = branch_row.v[c];
            sum = fma(a, a, sum);
        }
        factor *= inversesqrt(group_sum(sum) / float(columns) + epsilon);
    }
    float layer = uint64_t(layer_scale) != 0 ? layer_scale.v[0] : 1.0;
    float sum = 0.0;
    for (uint c = gl_LocalInvocationID.x; c < columns; c += GROUP) {
        float a;
        if (used > 0)
            MIX_ELEMENT(row, columns, c, a);
        else
            a = branch_row.v[c];
        if (uint64_t(post_norm) != 0)
            a *= post_norm.v[c];
        a = fma(a, factor, hidden_row.v[c]) * layer;
        hidden_row.v[c] = a;
        sum = fma(a, a, sum);
    }
    if (uint64_t(norm) == 0)
        return;
    factor = inversesqrt(group_sum(sum) / float(columns) + epsilon);
    for (uint c = gl_LocalInvocationID.x; c < columns; c += GROUP)
        into_row.v[c] = hidden_row.v[c] * factor * norm.v[c];
}

void main()
{
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x)
        do_row(row);
}
