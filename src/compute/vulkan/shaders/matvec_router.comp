// A router's matrix times a few tokens, and the choice of experts, which the work group that ends last makes. The sums have
// the order of those of matvec.comp. A work group has so few weights that it asks for all of them, up to MOST_AHEAD chunks
// an invocation at a time, while the kernels before still run.
#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 128
#include "common.glsl"
#include "chain.glsl"
#include "types.glsl"
#include "functions.glsl"

layout(local_size_x = GROUP) in;
// The numbers of matvec.comp.
layout(constant_id = 1) const uint ROWS = 1;
layout(constant_id = 2) const uint TOKENS = 1;
layout(constant_id = 4) const bool NORMED = false;
layout(constant_id = 8) const float EPSILON = 0.0;
layout(constant_id = 9) const uint columns = 4096;
layout(constant_id = 10) const uint from_stride = 4096;

layout(push_constant) uniform Push
{
    uint64_t matrix;
    FreshFloats logits;
    Floats bias;
    uint rows, logits_stride;
    Floats selection_bias;
    Floats expert_scales;
    FreshUints ids;
    FreshFloats weights;
    Ints table;
    Ints tokens;
    FreshUints chunk_ids;
    FreshFloats chunk_weights;
    uint64_t from, norm;
    Progress progress;
    uint awaited, row_bytes;
};

#define ROUTER_CONSTANTS 12
#include "router.glsl"

// Chunks of a row; those of an invocation, and how many of these are asked for together.
#define MOST_AHEAD 8
const uint CHUNKS = columns / LENGTH;
const uint STEPS = (CHUNKS + GROUP - 1) / GROUP;
const uint AHEAD = STEPS < MOST_AHEAD ? STEPS : MOST_AHEAD;

// Subgroups have at least 4 invocations.
shared float parts[ROWS * TOKENS * (GROUP / 4)];
shared float squares_parts[TOKENS * (GROUP / 4)];
shared bool is_last;

struct Eight {
    vec4 v[2]; // of which LENGTH / 4 are used
};

#define LOAD_FLOATS(type, row, chunk, out)                                                                             \
    [[unroll]] for (uint i = 0; i < LENGTH / 4; i++)                                                                   \
        out.v[i] = type(row).v[(chunk) * (LENGTH / 4) + i];

void multiply()
{
    const uint first = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * ROWS, own = gl_LocalInvocationID.x;
    float sums[ROWS][TOKENS], squares[TOKENS];
    [[unroll]] for (uint t = 0; t < TOKENS; t++) {
        squares[t] = 0;
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            sums[r][t] = 0;
    }
    for (uint begin = 0; begin < STEPS; begin += AHEAD) {
        Chunk fetched[AHEAD * ROWS];
        Eight norms[AHEAD], inputs[AHEAD * TOKENS];
        [[unroll]] for (uint a = 0; a < AHEAD; a++) {
            const uint chunk = (begin + a) * GROUP + own;
            if (chunk < CHUNKS) {
                [[unroll]] for (uint r = 0; r < ROWS; r++)
                    fetched[a * ROWS + r] = chunk_fetch(matrix + uint64_t(min(first + r, rows - 1)) * row_bytes, chunk);
                if (NORMED)
                    LOAD_FLOATS(Vec4s, norm, chunk, norms[a])
            }
        }
        if (begin == 0)
            chain_wait(progress, awaited);
        [[unroll]] for (uint a = 0; a < AHEAD; a++) {
            const uint chunk = (begin + a) * GROUP + own;
            if (chunk < CHUNKS)
                [[unroll]] for (uint t = 0; t < TOKENS; t++)
                    LOAD_FLOATS(FreshVec4s, from + uint64_t(t) * from_stride * 4, chunk, inputs[a * TOKENS + t])
        }
        [[unroll]] for (uint a = 0; a < AHEAD; a++)
            if ((begin + a) * GROUP + own < CHUNKS)
                [[unroll]] for (uint t = 0; t < TOKENS; t++) {
                    float x[LENGTH];
                    [[unroll]] for (uint i = 0; i < LENGTH; i++) {
                        x[i] = inputs[a * TOKENS + t].v[i / 4][i % 4];
                        if (NORMED) {
                            squares[t] = fma(x[i], x[i], squares[t]);
                            x[i] *= norms[a].v[i / 4][i % 4];
                        }
                    }
                    [[unroll]] for (uint r = 0; r < ROWS; r++) {
                        float q[LENGTH], scales[RUNS], minima[RUNS], sum = 0;
                        chunk_unpack(fetched[a * ROWS + r], 0, q, scales, minima);
                        [[unroll]] for (uint i = 0; i < LENGTH; i++)
                            sum = fma(q[i], x[i], sum);
                        sums[r][t] += sum;
                    }
                }
    }

    [[unroll]] for (uint t = 0; t < TOKENS; t++) {
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            float sum = subgroupAdd(sums[r][t]);
            if (subgroupElect())
                parts[(r * TOKENS + t) * gl_NumSubgroups + gl_SubgroupID] = sum;
        }
        float sum = NORMED ? subgroupAdd(squares[t]) : 0.0;
        if (NORMED && subgroupElect())
            squares_parts[t * gl_NumSubgroups + gl_SubgroupID] = sum;
    }
    barrier();
    if (own >= ROWS * TOKENS || first + own / TOKENS >= rows)
        return;
    const uint row = first + own / TOKENS, t = own % TOKENS;
    float sum = 0, total = 0;
    for (uint s = 0; s < gl_NumSubgroups; s++) {
        sum += parts[own * gl_NumSubgroups + s];
        total += NORMED ? squares_parts[t * gl_NumSubgroups + s] : 0.0;
    }
    if (NORMED)
        sum *= inversesqrt(total / float(columns) + EPSILON);
    if (uint64_t(bias) != 0)
        sum += bias.v[row];
    logits.v[t * logits_stride + row] = sum;
}

// As chain_end, and whether this work group is the kernel's last. No other kernel runs at the same time.
bool end_last()
{
    const uint others = gl_NumWorkGroups.x * gl_NumWorkGroups.y * gl_NumWorkGroups.z - 1;
    ordered_barrier();
    if (gl_LocalInvocationIndex == 0)
        is_last = count_up(uint64_t(progress)) - awaited == others;
    ordered_barrier();
    return is_last;
}

// The kernels after this one wait for one work group more: the choice.
void main()
{
    multiply();
    if (!end_last())
        return;
    for (uint t = 0; t < TOKENS; t++) {
        barrier();
        choose_experts(logits, t, gl_LocalInvocationID.x);
    }
    chain_end(progress);
}
