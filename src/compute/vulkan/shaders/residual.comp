#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 256
#include "common.glsl"
#include "chain.glsl"
#include "mix.glsl"
#include "to_halves.glsl"

/* What stands between two layers' matrices, a work group a row:
 *   branch = the mix of experts, or what is in branch; normed by post_norm
 *   hidden = (hidden + scale * branch) * layer_scale
 *   into = norm of hidden
 * One token is one row, whose time is that of waiting for memory. So a row of up to STEPS fours of floats an invocation
 * stays in registers, and everything that is read is asked for at once. With STEPS 0 a row may have any length. */
layout(constant_id = 0) const uint STEPS = 0;
layout(constant_id = 1) const uint FIRST = 0; /* what hidden holds does not count */
layout(constant_id = 2) const uint columns = 4096;
layout(constant_id = 3) const float scale = 1.0;
layout(constant_id = 4) const float epsilon = 0.0;

#define MOST_STEPS 8
#define MOST_USED 128
const uint AHEAD = STEPS > 2 ? 4 : 8; /* experts whose rows are read at once */

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    FreshFloats hidden;
    FreshFloats branch;
    Floats post_norm;
    Floats layer_scale;
    Floats norm;
    FreshFloats into;
    MIX_MEMBERS
    uint rows;
    uint halves; /* units of 16 bytes from into to where the same goes as halves; 0: nowhere; only with STEPS */
    uint awaited;
    Progress progress;
};

layout(buffer_reference, std430, buffer_reference_align = 8) buffer Uvec2s { uvec2 v[]; };

shared uvec2 source_rows[MOST_USED];

void row_in_memory(uint row)
{
    uint64_t first = uint64_t(row) * columns * 4;
    FreshFloats hidden_row = FreshFloats(uint64_t(hidden) + first), branch_row = FreshFloats(uint64_t(branch) + first);
    FreshFloats into_row = FreshFloats(uint64_t(into) + first);
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
        a = fma(a, factor, FIRST != 0 ? 0.0 : hidden_row.v[c]) * layer;
        hidden_row.v[c] = a;
        sum = fma(a, a, sum);
    }
    if (uint64_t(norm) == 0)
        return;
    factor = inversesqrt(group_sum(sum) / float(columns) + epsilon);
    for (uint c = gl_LocalInvocationID.x; c < columns; c += GROUP)
        into_row.v[c] = hidden_row.v[c] * factor * norm.v[c];
}

vec4 held[MOST_STEPS]; /* the branch */

bool inside(uint i)
{
    return (gl_LocalInvocationID.x + i * GROUP) * 4 < columns;
}

vec4 four_of(uint64_t row, uint i)
{
    return inside(i) ? FreshVec4s(row).v[gl_LocalInvocationID.x + i * GROUP] : vec4(0.0);
}

vec4 weights_of(Floats row, uint i)
{
    return inside(i) ? Vec4s(uint64_t(row)).v[gl_LocalInvocationID.x + i * GROUP] : vec4(0.0);
}

void mix_row(uint row)
{
    const bool all_here = uint64_t(slots) == 0;
    vec4 side[MOST_STEPS];
    float gate = 1.0;
    if (uint64_t(shared_rows) != 0) {
        [[unroll]] for (uint i = 0; i < STEPS; i++)
            side[i] = four_of(uint64_t(shared_rows) + uint64_t(row) * columns * 4, i);
        if (uint64_t(shared_gates) != 0)
            gate = shared_gates.v[row];
    }
    if (!all_here) {
        barrier();
        for (uint n = gl_LocalInvocationID.x; n < used; n += GROUP) {
            uint choice = row * used + n;
            bool here = slots.v[ids.v[choice]] != NO_SLOT;
            source_rows[n] = unpackUint2x32((here ? uint64_t(device_rows) : uint64_t(host_rows)) +
                                            uint64_t(choice) * columns * 4);
        }
        barrier();
    }
    [[unroll]] for (uint i = 0; i < STEPS; i++)
        held[i] = vec4(0.0);
    for (uint n = 0; n < used; n += AHEAD) {
        vec4 values[AHEAD * (STEPS > 0 ? STEPS : 1)];
        float shares[AHEAD];
        [[unroll]] for (uint k = 0; k < AHEAD; k++) {
            uint expert = min(n + k, used - 1), choice = row * used + expert;
            uint64_t from = all_here ? uint64_t(device_rows) + uint64_t(choice) * columns * 4
                                     : packUint2x32(source_rows[expert]);
            shares[k] = uint64_t(weights) != 0 ? weights.v[choice] : 1.0;
            [[unroll]] for (uint i = 0; i < STEPS; i++)
                values[k * STEPS + i] = four_of(from, i);
        }
        [[unroll]] for (uint k = 0; k < AHEAD; k++)
            if (n + k < used)
                [[unroll]] for (uint i = 0; i < STEPS; i++)
                    held[i] = fma(vec4(shares[k]), values[k * STEPS + i], held[i]);
    }
    if (uint64_t(shared_rows) != 0) {
        if (uint64_t(shared_gates) != 0)
            gate = 1.0 / (1.0 + exp(-gate));
        [[unroll]] for (uint i = 0; i < STEPS; i++)
            held[i] = fma(side[i], vec4(gate), held[i]);
    }
}

/* waits: the work group has not waited yet for the kernels before. */
void row_in_registers(uint row, bool waits)
{
    uint64_t first = uint64_t(row) * columns * 4;
    vec4 before[MOST_STEPS], post[MOST_STEPS], after[MOST_STEPS];
    float layer = uint64_t(layer_scale) != 0 ? layer_scale.v[0] : 1.0;
    [[unroll]] for (uint i = 0; i < STEPS; i++) {
        if (uint64_t(norm) != 0)
            after[i] = weights_of(norm, i);
        if (uint64_t(post_norm) != 0)
            post[i] = weights_of(post_norm, i);
    }
    if (waits)
        chain_wait(progress, awaited);
    [[unroll]] for (uint i = 0; i < STEPS; i++) {
        before[i] = FIRST != 0 ? vec4(0.0) : four_of(uint64_t(hidden) + first, i);
        if (used == 0)
            held[i] = four_of(uint64_t(branch) + first, i);
    }
    if (used > 0)
        mix_row(row);
    float factor = scale;
    if (uint64_t(post_norm) != 0) {
        float sum = 0.0;
        [[unroll]] for (uint i = 0; i < STEPS; i++)
            sum += dot(held[i], held[i]);
        factor *= inversesqrt(group_sum(sum) / float(columns) + epsilon);
        [[unroll]] for (uint i = 0; i < STEPS; i++)
            held[i] *= post[i];
    }
    float sum = 0.0;
    [[unroll]] for (uint i = 0; i < STEPS; i++) {
        before[i] = fma(held[i], vec4(factor), before[i]) * layer;
        sum += dot(before[i], before[i]);
        if (inside(i))
            FreshVec4s(uint64_t(hidden) + first).v[gl_LocalInvocationID.x + i * GROUP] = before[i];
    }
    if (uint64_t(norm) == 0)
        return;
    factor = inversesqrt(group_sum(sum) / float(columns) + epsilon);
    [[unroll]] for (uint i = 0; i < STEPS; i++)
        if (inside(i)) {
            uint at = gl_LocalInvocationID.x + i * GROUP;
            vec4 normed = before[i] * factor * after[i];
            FreshVec4s(uint64_t(into) + first).v[at] = normed;
            if (halves != 0)
                Uvec2s(uint64_t(into) + uint64_t(halves) * 16 + first / 2).v[at] = halves_of(normed);
        }
}

void main()
{
    if (STEPS == 0)
        chain_wait(progress, awaited);
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
        if (STEPS > 0)
            row_in_registers(row, row == gl_WorkGroupID.x);
        else
            row_in_memory(row);
    }
    chain_end(progress);
}
