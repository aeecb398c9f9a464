#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

/* Turns the first rotary elements of each head in place. table: [rows][rotary / 2] of cosine, sine. */
layout(constant_id = 0) const bool ADJACENT = true; /* ROPE_NORMAL */

layout(local_size_x = 64) in;
layout(push_constant) uniform Push
{
    Floats values;
    Floats table;
    uint rows, row_stride, heads, head_size, rotary;
};

void main()
{
    uint pairs = rotary / 2, pair = gl_GlobalInvocationID.x % pairs, head = gl_GlobalInvocationID.x / pairs;
    if (head >= heads)
        return;
    for (uint row = gl_WorkGroupID.y; row < rows; row += gl_NumWorkGroups.y) {
        float cosine = table.v[row * rotary + 2 * pair], sine = table.v[row * rotary + 2 * pair + 1];
        uint first = row * row_stride + head * head_size + (ADJACENT ? 2 * pair : pair);
        uint second = first + (ADJACENT ? 1 : pairs);
        float a = values.v[first], b = values.v[second];
        values.v[first] = a * cosine - b * sine;
        values.v[second] = a * sine + b * cosine;
    }
}
