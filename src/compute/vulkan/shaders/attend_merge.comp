#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 256
#include "common.glsl"
#include "cache.glsl"
#include "chain.glsl"

/* The states that attend_few left of a query become its output, where a tile has more than its last work group should
 * read. A work group takes a head of a row; an invocation takes two elements and every PARTS-th span. */
layout(constant_id = 0) const uint VALUE_SIZE = 128;
layout(constant_id = 1) const uint SPAN = 128;

#define PARTS 4u
#define LANES (GROUP / PARTS)
#define AHEAD 8u /* spans of a part that are read before their weights are known */

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    FreshFloats into;
    FreshVec2s states;
    FreshVec2s totals;
    Floats sinks;
    Sequences sequences;
    Progress progress;
    uint heads, most_spans, window, chunk, bidirectional, sequence_count, awaited;
};

#include "attend_range.glsl"

shared float weights[GROUP];
shared vec2 parts[GROUP];

void merge()
{
    uint thread = gl_LocalInvocationID.x, head = gl_WorkGroupID.x, row = gl_WorkGroupID.y;
    uint s = 0;
    while (s < sequence_count && row >= sequences.v[s].first_row + sequences.v[s].rows)
        s++;
    if (s == sequence_count || row < sequences.v[s].first_row)
        return; /* a row of a sequence that another kernel takes */
    Sequence sequence = sequences.v[s];
    Range range = range_of(sequence, row - sequence.first_row);
    uint skipped = range.first / SPAN - range_of(sequence, 0).first / SPAN;
    uint spans = range.last / SPAN - range.first / SPAN + 1;
    const uint pairs = VALUE_SIZE / 2;
    uint64_t first_state = (uint64_t(row) * heads + head) * most_spans + skipped;
    FreshVec2s state = FreshVec2s(uint64_t(states) + first_state * (pairs * 8));
    FreshVec2s total = FreshVec2s(uint64_t(totals) + first_state * 8);

    uint part = thread / LANES, lane = thread % LANES;
    vec2 values[AHEAD];
    [[unroll]] for (uint k = 0; k < AHEAD; k++)
        values[k] = k * PARTS + part < spans && lane < pairs ? state.v[(k * PARTS + part) * pairs + lane] : vec2(0.0);
    vec2 own = thread < spans ? total.v[thread] : vec2(NOTHING, 0.0);
    float sink = uint64_t(sinks) != 0 ? sinks.v[head] : NOTHING;

    float most = max(sink, own.x);
    for (uint i = thread + GROUP; i < spans; i += GROUP)
        most = max(most, total.v[i].x);
    most = group_max(most);
    float sum = own.y * exp(own.x - most);
    for (uint i = thread + GROUP; i < spans; i += GROUP)
        sum = fma(total.v[i].y, exp(total.v[i].x - most), sum);
    sum = group_sum(sum);
    if (uint64_t(sinks) != 0)
        sum += exp(sink - most);
    float factor = sum > 0.0 ? 1.0 / sum : 0.0;

    for (uint pair = lane; pair < pairs + lane; pair += LANES) {
        vec2 value = vec2(0.0);
        for (uint first = 0; first < spans; first += GROUP) {
            barrier();
            float maximum = first == 0 ? own.x : first + thread < spans ? total.v[first + thread].x : NOTHING;
            weights[thread] = first + thread < spans ? exp(maximum - most) : 0.0;
            barrier();
            uint start = part;
            if (first == 0 && pair == lane) {
                [[unroll]] for (uint k = 0; k < AHEAD; k++)
                    value = fma(values[k], vec2(weights[k * PARTS + part]), value);
                start += AHEAD * PARTS;
            }
            if (pair < pairs)
                for (uint i = start; i < min(spans - first, GROUP); i += PARTS)
                    value = fma(state.v[(first + i) * pairs + pair], vec2(weights[i]), value);
        }
        parts[thread] = value;
        barrier();
        if (part == 0 && pair < pairs) {
            for (uint i = 1; i < PARTS; i++)
                value += parts[thread + i * LANES];
            into.v[(row * heads + head) * VALUE_SIZE + 2 * pair] = value.x * factor;
            into.v[(row * heads + head) * VALUE_SIZE + 2 * pair + 1] = value.y * factor;
        }
    }
}

void main()
{
    chain_wait(progress, awaited);
    merge();
    chain_end(progress);
}
