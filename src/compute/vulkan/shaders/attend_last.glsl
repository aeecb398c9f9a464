/* The work group of attend_few that ends last for a tile makes outputs of its states, by the sums of attend_merge and in
 * their order. */
#define PARTS 4u /* as in attend_merge */
#define LANES (THREADS / PARTS)
#define AHEAD 2u /* spans of a part: all of MERGED_SPANS in attention.c */
#define FOURS (VALUE_SIZE / 4)

/* Words of the tile: four numbers of every thread, for two rounds in turn; a number of every subgroup and query, twice. */
#define NUMBERS (THREADS * 4)
#define MAXIMA (2 * NUMBERS)
#define TOTALS (MAXIMA + MOST_QUERIES * THREADS / 2)

vec4 ahead[AHEAD];

/* Whether the states of all spans of a tile are there. */
bool is_last(uint spans)
{
    uint counter = gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y;
    ordered_barrier();
    if (gl_LocalInvocationID.x == 0) {
        tile[0] = count_up(uint64_t(arrived) + counter * 4);
        if (tile[0] == spans - 1)
            arrived.v[counter] = 0;
    }
    ordered_barrier();
    bool last = tile[0] == spans - 1;
    barrier();
    return last;
}

/* A query's states: the number of the first one, how many. */
uvec2 states_of(Sequence sequence, uint kv_head, uint query)
{
    uint group = heads / kv_heads, row = query / group, head = kv_head * group + query % group;
    Range range = range_of(sequence, row);
    uint first = range.first / SPAN, skipped = first - range_of(sequence, 0).first / SPAN;
    return uvec2(((sequence.first_row + row) * heads + head) * most_spans + skipped, range.last / SPAN - first + 1);
}

/* The same for the query of four outputs of the tile; none where it has no more. */
uvec2 states_of_four(Sequence sequence, uint kv_head, uint first_query, uint last_query, uint four)
{
    return four < QUERIES * FOURS ? states_of(sequence, kv_head, min(first_query + four / FOURS, last_query)) : uvec2(0);
}

/* Asks for four values of every PARTS-th of a query's states. */
void ask_values(uvec2 own, uint four)
{
    FreshVec4s from = FreshVec4s(uint64_t(states) + uint64_t(own.x) * (VALUE_SIZE * 4));
    [[unroll]] for (uint k = 0; k < AHEAD; k++) {
        uint state = k * PARTS + gl_LocalInvocationID.x / LANES;
        ahead[k] = state < own.y ? from.v[state * FOURS + four % FOURS] : vec4(0.0);
    }
}

/* Of at most PARTS * AHEAD spans. */
void merge(Sequence sequence, uint kv_head, uint first_query, uint last_query)
{
    uint thread = gl_LocalInvocationID.x, part = thread / LANES, lane = thread % LANES;
    uint group = heads / kv_heads;
    uint four = lane;
    uvec2 own = states_of_four(sequence, kv_head, first_query, last_query, four);
    ask_values(own, four);

    /* A thread has one state of each query. */
    vec2 total[MOST_QUERIES];
    float sink[MOST_QUERIES], most[MOST_QUERIES];
    [[unroll]] for (uint i = 0; i < QUERIES; i++) {
        uint query = min(first_query + i, last_query);
        uvec2 all = states_of(sequence, kv_head, query);
        total[i] = thread < all.y ? totals.v[all.x + thread] : vec2(NOTHING, 0.0);
        sink[i] = uint64_t(sinks) != 0 ? sinks.v[kv_head * group + query % group] : NOTHING;
    }
    [[unroll]] for (uint i = 0; i < QUERIES; i++) {
        float greatest = subgroupMax(total[i].x);
        if (subgroupElect())
            tile[MAXIMA + i * gl_NumSubgroups + gl_SubgroupID] = floatBitsToUint(greatest);
    }
    barrier();
    [[unroll]] for (uint i = 0; i < QUERIES; i++) {
        most[i] = sink[i];
        for (uint s = 0; s < gl_NumSubgroups; s++)
            most[i] = max(most[i], uintBitsToFloat(tile[MAXIMA + i * gl_NumSubgroups + s]));
        float weight = exp(total[i].x - most[i]);
        if (thread < BLOCK)
            weights[(i * BLOCK + thread) / 4][thread % 4] = weight;
        float sum = subgroupAdd(total[i].y * weight);
        if (subgroupElect())
            tile[TOTALS + i * gl_NumSubgroups + gl_SubgroupID] = floatBitsToUint(sum);
    }
    barrier();
    [[unroll]] for (uint i = 0; i < QUERIES; i++) {
        float sum = 0.0;
        for (uint s = 0; s < gl_NumSubgroups; s++)
            sum += uintBitsToFloat(tile[TOTALS + i * gl_NumSubgroups + s]);
        if (uint64_t(sinks) != 0)
            sum += exp(sink[i] - most[i]);
        if (thread == 0)
            factors[i] = sum > 0.0 ? 1.0 / sum : 0.0;
    }

    for (uint round = 0; round * LANES < QUERIES * FOURS; round++) {
        vec4 value = vec4(0.0);
        uint weight = min(four / FOURS, QUERIES - 1) * (BLOCK / 4);
        vec4 now[AHEAD];
        [[unroll]] for (uint k = 0; k < AHEAD; k++)
            now[k] = ahead[k];
        four += LANES;
        own = states_of_four(sequence, kv_head, first_query, last_query, four);
        ask_values(own, four);
        [[unroll]] for (uint k = 0; k < AHEAD; k++)
            value = fma(now[k], vec4(weights[weight + k][part]), value);
        uint numbers = round % 2 * NUMBERS;
        [[unroll]] for (uint k = 0; k < 4; k++)
            tile[numbers + thread * 4 + k] = floatBitsToUint(value[k]);
        barrier();
        /* The parts meet; a thread has one element of the tile's outputs. */
        uint element = round * THREADS + thread, query = first_query + element / VALUE_SIZE;
        float sum = uintBitsToFloat(tile[numbers + thread]);
        [[unroll]] for (uint p = 1; p < PARTS; p++)
            sum += uintBitsToFloat(tile[numbers + p * THREADS + thread]);
        if (element < QUERIES * VALUE_SIZE && query <= last_query) {
            uint head = (sequence.first_row + query / group) * heads + kv_head * group + query % group;
            into.v[head * VALUE_SIZE + element % VALUE_SIZE] = sum * factors[element / VALUE_SIZE];
        }
    }
}
