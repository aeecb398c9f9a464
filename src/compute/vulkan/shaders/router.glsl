/* The choice of a row's experts by a work group of GROUP, everything in shared memory. Ranks come from comparing each
 * with all others, so that ties fall to the lower index and no order of threads matters. The includer has struct
 * router_addresses of gpu_private.h in its push constants, and defines ROUTER_CONSTANTS, the first of these numbers. */
layout(constant_id = ROUTER_CONSTANTS) const uint GATE = 0; /* enum router_gate */
layout(constant_id = ROUTER_CONSTANTS + 1) const bool NORMALISE = true;
layout(constant_id = ROUTER_CONSTANTS + 2) const bool GIVEN = false; /* the token's id says which: they are only weighed */
layout(constant_id = ROUTER_CONSTANTS + 3) const float scale = 1.0;
layout(constant_id = ROUTER_CONSTANTS + 4) const uint experts = 128;
layout(constant_id = ROUTER_CONSTANTS + 5) const uint used = 8;
layout(constant_id = ROUTER_CONSTANTS + 6) const uint groups = 0;
layout(constant_id = ROUTER_CONSTANTS + 7) const uint groups_used = 0;
layout(constant_id = ROUTER_CONSTANTS + 8) const uint chunk = 0; /* neighbouring experts that share one more; 0: none */
#define SOFTMAX 0
#define SOFTMAX_SELECTED 1
#define SIGMOID 2
#define SQRT_SOFTPLUS 3

#define LEAST_SUM 6.103515625e-5

shared float probability[experts];
shared uvec4 selection[(experts + 3) / 4]; /* those beyond the last expert are 0 */
shared uint group_score[groups > 0 ? groups : 1];
shared uint chosen[used];
shared float weight[used];

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
    uint size = experts / (groups > 0 ? groups : 1);
    for (uint g = thread; g < groups; g += GROUP) {
        uint first = 0, second = 0;
        for (uint i = 0; i < size; i++) {
            uint e = g * size + i, s = selection[e / 4][e % 4];
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
            for (uint e = g * size; e < (g + 1) * size; e++)
                selection[e / 4][e % 4] = 0;
    }
    barrier();
}

/* The best by rank. What is added for choosing stands in selection. */
void choose(uint thread)
{
    for (uint e = thread; e < (experts + 3) / 4 * 4; e += GROUP)
        selection[e / 4][e % 4] = e < experts ? ordered(probability[e] + uintBitsToFloat(selection[e / 4][e % 4])) : 0;
    barrier();
    if (groups > 0)
        mask_groups(thread);

    for (uint e = thread; e < experts; e += GROUP) {
        uint own = selection[e / 4][e % 4], rank = 0;
        for (uint four = 0; four < (experts + 3) / 4; four++) {
            uvec4 others = selection[four];
            [[unroll]] for (uint i = 0; i < 4; i++)
                if (others[i] > own || (others[i] == own && four * 4 + i < e))
                    rank++;
        }
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

/* row: of the batch, and of all tables. All invocations come here, with a barrier between two rows. */
void choose_experts(FreshFloats logits, uint row, uint thread)
{
    float most = uintBitsToFloat(0xff800000u), sum = 0.0;
    for (uint e = thread; e < experts; e += GROUP) {
        probability[e] = logits.v[row * experts + e];
        selection[e / 4][e % 4] = uint64_t(selection_bias) != 0 ? floatBitsToUint(selection_bias.v[e]) : 0;
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
    if (chunk > 0)
        weigh_chunks(row, thread);
}
