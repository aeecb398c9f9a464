#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 128
#include "common.glsl"
#include "chain.glsl"
#include "functions.glsl"

/* Chooses the experts of each row, a work group a row. */
layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    FreshFloats logits;
    Floats selection_bias;
    Floats expert_scales;
    FreshUints ids;
    FreshFloats weights;
    Ints table;
    Ints tokens;
    FreshUints chunk_ids;
    FreshFloats chunk_weights;
    Progress progress;
    uint awaited, rows;
};

#define ROUTER_CONSTANTS 0
#include "router.glsl"

void main()
{
    chain_wait(progress, awaited);
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
        barrier();
        choose_experts(logits, row, gl_LocalInvocationID.x);
    }
    chain_end(progress);
}
