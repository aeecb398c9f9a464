/* Heads between the projections and attention, in shared memory: norms, rope, rounding to the cache's type. A team of TEAM
 * invocations, whole subgroups, takes every TEAMS-th head, HEADS_EACH of them (arrays have MOST_EACH). heads.comp and
 * attend_few.comp give the same bits: so a size is a constant in neither, and what a compiler may contract is precise.
 *
 * The includer declares CACHE, STEPS (elements of a head an invocation has; at most MOST_STEPS), CENTRED, BACK, ADJACENT,
 * TURNED_FROM and epsilon; in shared memory HEAD(head, i), an element, and TEAM_SUM(i), of which there is one for each
 * subgroup and head of a team; and NORM(head, i), the weight for an invocation's i-th element. */
#define TEAM 64u

vec2 angles[(MOST_STEPS + 1) / 2]; /* cosine and sine of an invocation's pairs */

uint team_lane()
{
    return gl_LocalInvocationID.x % TEAM;
}

/* The number of the n-th head of the team. */
uint team_head(uint n)
{
    return n * TEAMS + gl_LocalInvocationID.x / TEAM;
}

/* Sums over the team, of each of its heads. All invocations of the work group must come here. */
void sum_team(inout float sums[MOST_EACH])
{
    [[unroll]] for (uint n = 0; n < HEADS_EACH; n++)
        sums[n] = subgroupAdd(sums[n]);
    barrier();
    [[unroll]] for (uint n = 0; n < HEADS_EACH; n++)
        if (subgroupElect())
            TEAM_SUM(n * gl_NumSubgroups + gl_SubgroupID) = sums[n];
    barrier();
    uint subgroups = gl_NumSubgroups / TEAMS, first = gl_LocalInvocationID.x / TEAM * subgroups;
    [[unroll]] for (uint n = 0; n < HEADS_EACH; n++) {
        sums[n] = 0.0;
        for (uint i = 0; i < subgroups; i++)
            sums[n] += TEAM_SUM(n * gl_NumSubgroups + first + i);
    }
}

/* sizes: the first elements of each head that are normed. */
void norm_heads(uint sizes[MOST_EACH], bool weighted[MOST_EACH])
{
    uint lane = team_lane();
    float sums[MOST_EACH];
    if (CENTRED) {
        [[unroll]] for (uint n = 0; n < HEADS_EACH; n++) {
            sums[n] = 0.0;
            [[unroll]] for (uint i = 0; i < STEPS; i++)
                if (lane + i * TEAM < sizes[n])
                    sums[n] += HEAD(team_head(n), lane + i * TEAM);
        }
        sum_team(sums);
        [[unroll]] for (uint n = 0; n < HEADS_EACH; n++)
            [[unroll]] for (uint i = 0; i < STEPS; i++)
                if (weighted[n] && lane + i * TEAM < sizes[n])
                    HEAD(team_head(n), lane + i * TEAM) -= sums[n] / float(sizes[n]);
    }
    [[unroll]] for (uint n = 0; n < HEADS_EACH; n++) {
        sums[n] = 0.0;
        [[unroll]] for (uint i = 0; i < STEPS; i++)
            if (lane + i * TEAM < sizes[n]) {
                float element = HEAD(team_head(n), lane + i * TEAM);
                sums[n] = fma(element, element, sums[n]);
            }
    }
    sum_team(sums);
    [[unroll]] for (uint n = 0; n < HEADS_EACH; n++) {
        precise float mean = sums[n] / float(sizes[n]);
        precise float square = mean + epsilon;
        float factor = inversesqrt(square);
        [[unroll]] for (uint i = 0; i < STEPS; i++)
            if (lane + i * TEAM < sizes[n])
                HEAD(team_head(n), lane + i * TEAM) *= weighted[n] ? factor * NORM(team_head(n), i) : factor;
    }
    barrier();
}

/* pairs: how many of each head are turned. */
void turn_heads(uint pairs[MOST_EACH])
{
    [[unroll]] for (uint n = 0; n < HEADS_EACH; n++)
        [[unroll]] for (uint i = 0; i < (STEPS + 1) / 2; i++) {
            uint pair = team_lane() + i * TEAM;
            if (pair < pairs[n]) {
                uint first = TURNED_FROM + (ADJACENT ? 2 * pair : pair), second = first + (ADJACENT ? 1 : pairs[n]);
                float a = HEAD(team_head(n), first), b = HEAD(team_head(n), second);
                float sine = BACK ? -angles[i].y : angles[i].y;
                precise float turned_a = a * angles[i].x - b * sine;
                precise float turned_b = a * sine + b * angles[i].x;
                HEAD(team_head(n), first) = turned_a;
                HEAD(team_head(n), second) = turned_b;
            }
        }
    barrier();
}

/* Round to nearest even, as core/half.h: what packHalf2x16 does is the driver's choice. */
uint half_bits(float a)
{
    uint bits = floatBitsToUint(a), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return sign | 0x7e00u;
    if (magnitude >= 0x477ff000u)
        return sign | 0x7c00u;
    if (magnitude < 0x38800000u) {
        /* Subnormal: a multiple of 2^-24. Adding 1/2 puts its bits last, rounded. */
        return sign | (floatBitsToUint(uintBitsToFloat(magnitude) + 0.5) - 0x3f000000u);
    }
    return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13);
}

uint bfloat_bits(float a)
{
    uint bits = floatBitsToUint(a);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return bits >> 16 | 0x40u;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

/* The element of greatest magnitude of a block, the first of equals. */
float greatest(uint head, uint block)
{
    float most = 0.0;
    for (uint i = 0; i < 32; i++)
        if (abs(HEAD(head, block * 32 + i)) > abs(most))
            most = HEAD(head, block * 32 + i);
    return most;
}

/* Elements of 16 bytes of the cache. */
uint packed_elements()
{
    return CACHE == CACHE_F32 ? 4 : CACHE == CACHE_Q8_0 ? 16 : CACHE == CACHE_Q4_0 ? 32 : 8;
}

/* So many elements of a head as the cache has them. scale: the bits of a half, for quants. */
uvec4 packed(uint head, uint first, out uint scale)
{
    uvec4 words = uvec4(0);
    scale = 0;
    if (CACHE == CACHE_Q8_0 || CACHE == CACHE_Q4_0) {
        float most = greatest(head, first / 32);
        float step = CACHE == CACHE_Q8_0 ? abs(most) / 127.0 : most / -8.0, inverse = step != 0.0 ? 1.0 / step : 0.0;
        scale = half_bits(step);
        [[unroll]] for (uint i = 0; i < 16; i++) {
            float low = HEAD(head, first + i) * inverse;
            if (CACHE == CACHE_Q8_0) {
                words[i / 4] |= (uint(int(roundEven(low))) & 0xffu) << (8 * (i % 4));
            } else {
                precise float a = low + 8.5, b = HEAD(head, first + i + 16) * inverse + 8.5;
                words[i / 4] |= (uint(min(floor(a), 15.0)) | uint(min(floor(b), 15.0)) << 4) << (8 * (i % 4));
            }
        }
        return words;
    }
    [[unroll]] for (uint i = 0; i < 4; i++) {
        if (CACHE == CACHE_F32)
            words[i] = floatBitsToUint(HEAD(head, first + i));
        else if (CACHE == CACHE_F16)
            words[i] = half_bits(HEAD(head, first + 2 * i)) | half_bits(HEAD(head, first + 2 * i + 1)) << 16;
        else
            words[i] = bfloat_bits(HEAD(head, first + 2 * i)) | bfloat_bits(HEAD(head, first + 2 * i + 1)) << 16;
    }
    return words;
}
