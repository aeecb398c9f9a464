// Choices of experts, sorted by expert, and tiles of TILE choices of one expert each. One work group does it all; which
// order the choices of an expert come in changes no result.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

#define GROUP 256
#define MAX_EXPERTS 1024
layout(local_size_x = GROUP) in;
layout(constant_id = 0) const uint TILE = 64;
layout(push_constant) uniform Push
{
    Uints ids, groups; // groups: as matmat.comp says
    uint experts, choices;
};

shared uint counts[MAX_EXPERTS];

void main()
{
    uint self = gl_LocalInvocationID.x;
    for (uint e = self; e < experts; e += GROUP)
        counts[e] = 0;
    barrier();
    for (uint i = self; i < choices; i += GROUP)
        atomicAdd(counts[ids.v[i]], 1);
    barrier();
    if (self == 0) {
        uint at = 0, tiles = 0;
        for (uint e = 0; e < experts; e++) {
            uint count = counts[e];
            groups.v[4 + e] = at;
            counts[e] = at;
            for (uint first = 0; first < count; first += TILE) {
                groups.v[4 + experts + 1 + choices + 2 * tiles] = e;
                groups.v[4 + experts + 1 + choices + 2 * tiles + 1] = at + first;
                tiles++;
            }
            at += count;
        }
        groups.v[4 + experts] = at;
        groups.v[0] = tiles;
    }
    barrier();
    for (uint i = self; i < choices; i += GROUP)
        groups.v[4 + experts + 1 + atomicAdd(counts[ids.v[i]], 1)] = i;
}
