#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "cache.glsl"

/* The best blocks of a row, as ids in rising order, of equal ones the earlier: one work group for each set of a row. The
 * border between what is chosen and what is not is found digit by digit, from the highest (compute/cpu/index.c). */
layout(constant_id = 0) const uint CACHE = CACHE_F16;
#include "cache_four.glsl"

#define GROUP 256
#define DIGIT_BITS 8
#define DIGITS 256

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats scores; /* of the rows at work */
    Uints words;
    Sequences sequences;
    uint sequence_count, first_row, sets, every, block, local, most, tail, stride, row_words;
};

shared uint places[DIGITS];
shared uint sums[GROUP];
shared uint border, missing;

/* Rises with the float; -0 and 0 are one. */
uint rank_of(float score)
{
    uint bits = floatBitsToUint(score);
    return bits == 0x80000000u ? 0x80000000u : (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

/* The rank of a block: that of its best key. The last ones are chosen in any case. */
uint rank_of_block(Floats of, uint b, uint blocks, uint keys)
{
    float best = of.v[b * block];
    for (uint i = b * block + 1; i < min((b + 1) * block, keys); i++)
        best = max(best, of.v[i]);
    return b + local >= blocks ? rank_of(uintBitsToFloat(0x7f800000u)) : rank_of(best);
}

void find_border(Floats of, uint blocks, uint keys)
{
    uint thread = gl_LocalInvocationID.x, known = 0;
    if (thread == 0) {
        border = 0;
        missing = most;
    }
    for (int shift = 32 - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        places[thread] = 0;
        barrier();
        for (uint b = thread; b < blocks; b += GROUP) {
            uint rank = rank_of_block(of, b, blocks, keys);
            if ((rank & known) == border)
                atomicAdd(places[rank >> shift & (DIGITS - 1)], 1);
        }
        barrier();
        if (thread == 0) {
            uint digit = DIGITS - 1;
            for (; places[digit] < missing; digit--)
                missing -= places[digit];
            border |= digit << shift;
        }
        known |= uint(DIGITS - 1) << shift;
        barrier();
    }
}

/* Sums of what each invocation has and those before it. */
void add_up(uint value)
{
    uint thread = gl_LocalInvocationID.x;
    barrier();
    sums[thread] = value;
    barrier();
    for (uint step = 1; step < GROUP; step *= 2) {
        uint before = thread >= step ? sums[thread - step] : 0;
        barrier();
        sums[thread] += before;
        barrier();
    }
}

void choose(Floats of, Uints set, uint blocks, uint keys)
{
    uint thread = gl_LocalInvocationID.x, done = 0;
    find_border(of, blocks, keys);
    uint left = missing; /* of those at the border */
    for (uint base = 0; base < blocks; base += GROUP) {
        uint b = base + thread, rank = b < blocks ? rank_of_block(of, b, blocks, keys) : 0;
        uint above = b < blocks && rank > border ? 1 : 0, same = b < blocks && rank == border ? 1 : 0;
        add_up(above | same << 16);
        uint before = sums[thread] - (above | same << 16), all = sums[GROUP - 1];
        uint same_before = min(before >> 16, left);
        if (above != 0 || (same != 0 && same_before < left))
            set.v[1 + done + (before & 0xffffu) + same_before] = b;
        uint taken = min(all >> 16, left);
        done += (all & 0xffffu) + taken;
        left -= taken;
    }
}

void main()
{
    uint thread = gl_LocalInvocationID.x, which = gl_WorkGroupID.x, row = first_row + gl_WorkGroupID.y;
    Sequence sequence = sequence_of(sequences, sequence_count, row);
    uint own = sequence.first_position + row - sequence.first_row, keys = (own + 1) / every;
    uint blocks = (keys + block - 1) / block, count = min(blocks, most);
    if (sequence.rows == 0)
        return;
    Uints set = Uints(uint64_t(words) + (uint64_t(row) * row_words + which * (most + tail + 1)) * 4);
    if (blocks <= most)
        for (uint b = thread; b < blocks; b += GROUP)
            set.v[1 + b] = b;
    else
        choose(Floats(uint64_t(scores) + (uint64_t(gl_WorkGroupID.y) * sets + which) * stride * 4), set, blocks, keys);
    if (thread == 0) {
        bool more = tail != 0 && keys * every <= own;
        set.v[0] = count + (more ? 1 : 0);
        if (more)
            set.v[1 + count] = keys;
    }
}
