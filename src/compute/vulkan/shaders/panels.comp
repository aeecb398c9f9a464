// Puts rows of halves into panels. A work group moves eight rows by 256 columns, so that neighbours write neighbouring bytes.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "panels.glsl"

#define TILE 128
layout(local_size_x = 256) in;
// Rows are gathered by expert, each of whose tiles begins with a panel: the inputs of groups (expert_group.comp).
layout(constant_id = 0) const bool GATHERED = false;
layout(push_constant) uniform Push
{
    uint64_t into, from, into_step, from_step; // the latter two from one of several matrices to the next
    Uints groups;
    uint rows, columns, stride; // stride in units of 16 bytes
    uint experts, choices_per_row;
};

void main()
{
    uint row = gl_WorkGroupID.y * 8 + gl_LocalInvocationID.x % 8, source = row;
    uint eight = gl_WorkGroupID.x * 32 + gl_LocalInvocationID.x / 8;
    bool there = row < rows && eight < columns / 8;
    if (GATHERED) {
        uint tile = row / TILE, list = 4 + experts + 1;
        if (tile >= groups.v[0])
            return;
        uint at = list + groups.v[list - 1] + 2 * tile, choice = groups.v[at + 1] + row % TILE;
        there = there && choice < groups.v[4 + groups.v[at] + 1];
        if (there)
            source = groups.v[list + choice] / choices_per_row;
    }
    uint64_t matrix = gl_WorkGroupID.z;
    if (there)
        Uvec4s(into + matrix * into_step).v[panel_place(row, eight, columns)] =
            Uvec4s(from + matrix * from_step).v[source * stride + eight];
}
