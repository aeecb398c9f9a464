#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 128
#include "common.glsl"
#include "chain.glsl"
#include "functions.glsl"

/* Chooses the experts of a row: one work group a row, everything in shared memory. Ranks come from comparing each with
 * all others, so that ties fall to the lower index and no order of threads matters. */
layout(constant_id = 0) const uint GATE = 0; /* enum router_gate */
layout(constant_id = 1) const bool NORMALISE = true;
layout(constant_id = 3) const bool CHUNKS = false; /* so many experts next to each other share one more */
layout(constant_id = 2) const bool GIVEN = false; /* the token's id says which experts: they are only weighed */
#define SOFTMAX 0
#define SOFTMAX_SELECTED 1
#define SIGMOID 2
#define SQRT_SOFTPLUS 3

#define MOST_EXPERTS 1024
#define MOST_USED 128
#define LEAST_SUM 6.103515625e-5

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
    Uints chunk_ids;
    Floats chunk_weights;
    uint rows, experts, used, groups, groups_used, chunk;
    float scale;
    uint awaited;
    Progress progress;
};

shared float probability[MOST_EXPERTS];
shared uint selection[MOST_EXPERTS];
shared uint group_score[MOST_EXPERTS];
shared uint chosen[MOST_USED];
shared float weight[MOST_USED];

/* Floats in the order of their bits, so that even what is not a number has a place. Zero stands below all. */
uint ordered(float a)
{
    uint bits = floatBitsToUint(a);
    return bits == 0x80000000u ? 0x80000000u : (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

float unordered(uint a)
{
    return uintBitsToFloat((a >> 31) != 0 ? a & 0x7fffffffu : ~a);
}

/* Groups count as much as their two best experts; experts of the others are out. */
void mask_groups(uint thread)
{
    uint size = experts / groups;
    for (uint g = thread; g < groups; g += GROUP) {
        uint first = 0, second = 0;
        for (uint i = 0; i < size; i++) {
            uint s = selection[g * size + i];
            second = max(second, min(first, s));
            first = max(first, s);
        }
        group_score[g] = ordered(size > 1 ? unordered(first) + unordered(second) : unordered(first));
    }
    barrier();
    for (uint g = thread; g < groups; g += GROUP) {
        uint rank = 0;
        for (uint other = 0; other < groups; other++)
            if (group_score[other] > group_score[g] || (group_score[other] == group_score[g] && other < g))
                rank++;
        if (rank >= groups_used)
            for (uint i = 0; i < size; i++)
                selection[g * size + i] = 0;
    }
    barrier();
}

/* The best by rank. */
void choose(uint thread)
{
    for (uint e = thread; e < experts; e += GROUP)
        selection[e] = ordered(probability[e] + (uint64_t(selection_bias) != 0 ? selection_bias.v[e] : 0.0));
    barrier();
    if (groups > 0)
        mask_groups(thread);

    for (uint e = thread; e < experts; e += GROUP) {
        uint own = selection[e], rank = 0;
        for (uint other = 0; other < experts; other++)
            if (selection[other] > own || (selection[other] == own && other < e))
                rank++;
        if (rank < used) {
            chosen[rank] = e;
            weight[rank] = probability[e];
        }
    }
}

/* A choice that depends on the token alone. */
void take_given(uint row, uint thread)
{
    barrier();
    for (uint i = thread; i < used; i += GROUP) {
        chosen[i] = min(uint(table.v[uint(tokens.v[row]) * used + i]), experts - 1);
        weight[i] = probability[chosen[i]];
    }
}

void weigh(uint row, uint thread)
{
    /* Few numbers, in order, by every thread alike. */
    float factor = 1.0, greatest = weight[0], sum = 0.0;
    if (GATE == SOFTMAX_SELECTED) {
        for (uint i = 1; i < used; i++)
            greatest = max(greatest, weight[i]);
        for (uint i = 0; i < used; i++)
            sum += exp(weight[i] - greatest);
        factor = 1.0 / sum;
        sum = 1.0;
    } else {
        for (uint i = 0; i < used; i++)
            sum += weight[i];
    }
    for (uint i = thread; i < used; i += GROUP) {
        float w = GATE == SOFTMAX_SELECTED ? exp(weight[i] - greatest) * factor : weight[i];
        if (NORMALISE)
            w /= max(sum, LEAST_SUM);
        w *= scale;
        if (uint64_t(expert_scales) != 0)
            w *= expert_scales.v[chosen[i]];
        ids.v[row * used + i] = chosen[i];
        weights.v[row * used + i] = w;
    }
}

/* The experts that the chosen ones share: their weights are the router's for the number of the chunk. */
void weigh_chunks(uint row, uint thread)
{
    float sum = 0.0;
    for (uint i = 0; i < used; i++)
        sum += probability[chosen[i] / chunk];
    for (uint i = thread; i < used; i += GROUP) {
        chunk_ids.v[row * used + i] = chosen[i] / chunk;
        chunk_weights.v[row * used + i] = probability[chosen[i] / chunk] / max(sum, LEAST_SUM);
    }
}

void do_row(uint row, uint thread)
{
    float most = uintBitsToFloat(0xff800000u), sum = 0.0;
    for (uint e = thread; e < experts; e += GROUP) {
        probability[e] = logits.v[row * experts + e];
        most = max(most, probability[e]);
    }
    if (GATE == SOFTMAX) {
        most = group_max(most);
        for (uint e = thread; e < experts; e += GROUP) {
            probability[e] = exp(probability[e] - most);
            sum += probability[e];
        }
        sum = group_sum(sum);
        for (uint e = thread; e < experts; e += GROUP)
            probability[e] /= sum;
    } else if (GATE == SIGMOID) {
        for (uint e = thread; e < experts; e += GROUP)
            probability[e] = sigmoid(probability[e]);
    } else if (GATE == SQRT_SOFTPLUS) {
        for (uint e = thread; e < experts; e += GROUP)
            probability[e] = sqrt(max(probability[e], 0.0) + log_of_one_more(exp(-abs(probability[e]))));
    }
    if (GIVEN)
        take_given(row, thread);
    else
        choose(thread);
    barrier();
    weigh(row, thread);
    if (CHUNKS)
        weigh_chunks(row, thread);
}

void main()
{
    chain_wait(progress, awaited);
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x) {
        barrier();
        do_row(row, gl_LocalInvocationID.x);
    }
    chain_end(progress);
}
