// Quantised weights times a few tokens whose inputs are rounded to 8 bits, in blocks of 32 with a scale each: products
// of bytes are four in one instruction. A work group rounds the inputs for itself into shared memory, TILE columns at a
// time. Then teams of LANES neighbours walk through the rows of weights, ROWS at once, each invocation with every
// so-manieth chunk of columns, asked for before the one ahead of it is multiplied, so that the memory never waits. So a
// device wants one large work group for each of its cores. A team is a subgroup, or a part of one where rows have few
// chunks. The order of a sum depends on LANES alone, which depends on the subgroup's size and the columns: neither
// GROUP, ROWS, TOKENS, TILE, COPIES nor the number of work groups change a bit.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_spirv_intrinsics : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
#include "chain.glsl"
#include "functions.glsl"
#include "finish.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP = 256;
layout(constant_id = 1) const uint ROWS = 4;
layout(constant_id = 2) const uint TOKENS = 1;
layout(constant_id = 3) const uint TILE = 4096; // a multiple of 2048
layout(constant_id = 4) const bool NORMED = false;
layout(constant_id = 5) const uint FINISH = 0;
layout(constant_id = 6) const float ALPHA = 0.0;
layout(constant_id = 7) const float LIMIT = 0.0;
layout(constant_id = 8) const float EPSILON = 0.0;
layout(constant_id = 9) const uint columns = 4096;
layout(constant_id = 10) const uint from_stride = 4096;
layout(constant_id = 11) const uint COPIES = 1; // of a codebook's table
layout(constant_id = 12) const uint LANES = 32; // a power of two, at most the subgroup's size

#include "bytes.glsl"

#ifdef EXPERTS
struct Job {
    uint64_t weights, into, bias;
};
layout(push_constant) uniform Push
{
    Job jobs[2];
    uint64_t from;
    Uints slots;
    FreshUints ids;
    uint64_t slot_stride;
    uint rows, row_bytes, sharing, into_stride, awaited_ids, awaited;
    layout(offset = 112) Progress progress; // after a table, as in matvec.comp
    uint64_t norm;
};
#else
struct Job {
    uint64_t weights, into, bias;
    uint rows, into_stride;
};
layout(push_constant) uniform Push
{
    Job jobs[3];
    uint64_t from, norm;
    Progress progress;
    uint awaited, row_bytes;
};
#endif

// The sum of products of four signed bytes each: OpSDot.
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6018, 6019], id = 4450)
int dot_bytes(uint a, uint b, spirv_literal uint packed);

int dot_unit(uvec4 a, uvec4 b)
{
    return dot_bytes(a.x, b.x, 0) + dot_bytes(a.y, b.y, 0) + dot_bytes(a.z, b.z, 0) + dot_bytes(a.w, b.w, 0);
}

// Units of a tile: unit u of chunk c stands at u * STRIDE + c, so that neighbouring invocations read neighbours.
#define STRIDE (TILE / CHUNK + 1)
#define BLOCKS (TILE / 32)
shared uvec4 bytes[TOKENS * UNITS * STRIDE];
shared float scales[TOKENS * BLOCKS];
#ifdef HAS_MINIMUM
shared int totals[TOKENS * BLOCKS]; // of a run's bytes
#endif
shared float squares[NORMED ? TOKENS * BLOCKS : 1]; // of a block's inputs, before the norm's weights
// Eights of inputs that an invocation takes together.
#define AHEAD (TILE > 8 * GROUP ? 2 : 1)
shared float maxima[AHEAD * GROUP];
shared float square_parts[NORMED ? AHEAD * GROUP : 1];

// Where 16 columns are in a tile; and the block of 32 columns to which a run belongs.
uint unit_at(uint sixteen)
{
#ifdef TYPE_Q6_K
    return sixteen % 8 / 2 * STRIDE + sixteen / 8 * 2 + sixteen % 2; // units of a chunk are 32 columns apart
#else
    return sixteen % UNITS * STRIDE + sixteen / UNITS;
#endif
}

uint block_of(uint chunk, uint run)
{
#ifdef TYPE_Q6_K
    return chunk / 2 * 4 + run;
#else
    return chunk * RUNS + run;
#endif
}

struct Eights {
    vec4 x[4]; // of which 2 * AHEAD are used
};

// The four columns that are the first or the second half of an eight.
uint fours(uint eight, uint i)
{
#ifdef PAIRED
    return eight / 4 * 8 + eight % 4 + i * 4; // columns of an invocation are 16 apart
#else
    return 2 * eight + i;
#endif
}

bool inside(uint tile, uint eight)
{
    return eight < TILE / 8 && tile / 8 + eight < columns / 8;
}

// Asks for eights first + i * GROUP of a tile.
Eights fetch_inputs(uint64_t token, uint tile, uint first)
{
    Eights eights;
    [[unroll]] for (uint i = 0; i < 2 * AHEAD; i++) {
        uint eight = first + i / 2 * GROUP + gl_LocalInvocationID.x, at = tile / 4 + fours(eight, i % 2);
        eights.x[i] = vec4(0.0);
        if (inside(tile, eight))
            eights.x[i] = FreshVec4s(token).v[at];
    }
    return eights;
}

// The norm's weights of the same.
Eights fetch_norm(uint tile, uint first)
{
    Eights eights;
    if (NORMED)
        [[unroll]] for (uint i = 0; i < 2 * AHEAD; i++) {
            uint eight = first + i / 2 * GROUP + gl_LocalInvocationID.x, at = tile / 4 + fours(eight, i % 2);
            eights.x[i] = vec4(1.0);
            if (inside(tile, eight))
                eights.x[i] = Vec4s(norm).v[at];
        }
    return eights;
}

float sum_squares(vec4 x, float sum)
{
    return fma(x.w, x.w, fma(x.z, x.z, fma(x.y, x.y, fma(x.x, x.x, sum))));
}

float greatest(vec4 x)
{
    x = abs(x);
    return max(max(x.x, x.y), max(x.z, x.w));
}

uint rounded(vec4 x, float inverse)
{
    // 1.5 * 2^23: the sum's last bits are the integer nearest to the product.
    uvec4 q = floatBitsToUint(fma(x, vec4(inverse), vec4(12582912.0)));
    return (q.x & 255u) | (q.y & 255u) << 8 | (q.z & 255u) << 16 | q.w << 24;
}

// Rounds them.
void round_inputs(Eights eights, Eights weights, uint t, uint tile, uint first)
{
    [[unroll]] for (uint i = 0; i < AHEAD; i++) {
        uint place = i * GROUP + gl_LocalInvocationID.x, eight = first + place;
        if (NORMED) {
            square_parts[place] = sum_squares(eights.x[2 * i + 1], sum_squares(eights.x[2 * i], 0.0));
            eights.x[2 * i] *= weights.x[2 * i];
            eights.x[2 * i + 1] *= weights.x[2 * i + 1];
        }
        maxima[place] = max(greatest(eights.x[2 * i]), greatest(eights.x[2 * i + 1]));
#ifdef HAS_MINIMUM
        if (inside(tile, eight) && eight % 4 == 0)
            totals[t * BLOCKS + eight / 4] = 0;
#endif
    }
    barrier();
    [[unroll]] for (uint i = 0; i < AHEAD; i++) {
        uint place = i * GROUP + gl_LocalInvocationID.x, eight = first + place, block = place & ~3u;
        if (inside(tile, eight)) {
            float most = max(max(maxima[block], maxima[block + 1]), max(maxima[block + 2], maxima[block + 3]));
            float inverse = most > 1e-30 ? 127.0 / most : 0.0;
            vec4 x = eights.x[2 * i], y = eights.x[2 * i + 1];
#ifdef PAIRED
            uint a = rounded(vec4(x.x, y.x, x.y, y.y), inverse), b = rounded(vec4(x.z, y.z, x.w, y.w), inverse);
#else
            uint a = rounded(x, inverse), b = rounded(y, inverse);
#endif
            uint at = t * UNITS * STRIDE + unit_at(eight / 2);
            bytes[at][eight % 2 * 2] = a;
            bytes[at][eight % 2 * 2 + 1] = b;
#ifdef HAS_MINIMUM
            atomicAdd(totals[t * BLOCKS + eight / 4],
                      dot_bytes(a, 0x01010101u, 0) + dot_bytes(b, 0x01010101u, 0));
#endif
            if (eight % 4 == 0) {
                scales[t * BLOCKS + eight / 4] = most / 127.0;
                if (NORMED)
                    squares[t * BLOCKS + eight / 4] = (square_parts[block] + square_parts[block + 1]) +
                                                      (square_parts[block + 2] + square_parts[block + 3]);
            }
        }
    }
}

// All inputs of a tile, of which the first are there. Adds those of an invocation's blocks to square_sums.
void round_tile(Eights eights, Eights weights, uint64_t tokens, uint stride, uint tile, inout float square_sums[TOKENS])
{
    uint count = min(columns - tile, TILE) / 8;
    for (uint t = 0; t < TOKENS; t++)
        for (uint first = 0; first < count; first += AHEAD * GROUP) {
            if (t > 0 || first > 0) {
                eights = fetch_inputs(tokens + uint64_t(t) * stride * 4, tile, first);
                weights = fetch_norm(tile, first);
                barrier();
            }
            round_inputs(eights, weights, t, tile, first);
        }
    barrier();
    if (NORMED)
        [[unroll]] for (uint t = 0; t < TOKENS; t++)
            for (uint block = gl_SubgroupInvocationID; block < count / 4; block += gl_SubgroupSize)
                square_sums[t] += squares[t * BLOCKS + block];
}

// A group is ROWS rows of one matrix, or, for a gated activation, those of the first matrix and then of the second.
#define GLU (FINISH >= FINISH_GLU)
#define PARTS (GLU ? 2 : 1)

#ifdef EXPERTS
#define JOB_COUNT (GLU ? 1 : 2)
uint rows_of(uint j)
{
    return jobs[j].weights != 0 ? rows : 0;
}
#else
#define JOB_COUNT (GLU ? 1 : 3)
uint rows_of(uint j)
{
    return jobs[j].rows;
}
#endif

uint groups_of(uint j)
{
    return (rows_of(j) + ROWS - 1) / ROWS;
}

// The matrix and the first row of a group.
uvec2 find_group(uint group)
{
    uint j = 0;
    [[unroll]] for (uint i = 0; i + 1 < JOB_COUNT; i++)
        if (j == i && group >= groups_of(i)) {
            group -= groups_of(i);
            j++;
        }
    return uvec2(j, group * ROWS);
}

uint64_t row_at(uint group, uint part, uint r, uint64_t slot)
{
    uvec2 found = find_group(group);
    return jobs[found.x + part].weights + slot + uint64_t(min(found.y + r, rows_of(found.x) - 1)) * row_bytes;
}

// Where the result of a row of a token goes, of those of a group.
struct Place {
    FreshFloats into;
    uint job, row, at;
    bool inside;
};

#ifdef EXPERTS
#define EXPERT_ARGUMENTS , choice
Place place_of(uint group, uint mine, uint choice)
#else
#define EXPERT_ARGUMENTS
Place place_of(uint group, uint mine)
#endif
{
    uvec2 found = find_group(group);
    Place place;
    place.job = found.x;
    place.row = found.y + mine / TOKENS;
    place.inside = place.row < rows_of(found.x);
#ifdef EXPERTS
    place.into = FreshFloats(jobs[found.x].into + uint64_t(choice) * into_stride * 4);
    place.at = place.row;
#else
    place.into = FreshFloats(jobs[found.x].into);
    place.at = mine % TOKENS * jobs[found.x].into_stride + place.row;
#endif
    return place;
}

// Over a team; each of it gets the result. All invocations of a subgroup come here.
float team_sum(float sum)
{
    for (uint step = LANES / 2; step > 0; step /= 2)
        sum += subgroupShuffleXor(sum, step);
    return sum;
}

#define FIND_FACTORS                                                                                                   \
    [[unroll]] for (uint t = 0; t < TOKENS; t++)                                                                       \
        factors[t] = inversesqrt(subgroupAdd(square_sums[t]) / float(columns) + EPSILON);

// What an invocation asks for next: rows of a group, and the chunk.
struct Cursor {
    uint group, part, chunk;
};

#define PLACE_ROWS                                                                                                     \
    [[unroll]] for (uint r = 0; r < ROWS; r++)                                                                         \
        rows_at[r] = row_at(cursor.group, cursor.part, r, slot_at);

#define FETCH                                                                                                          \
    if (cursor.group < all)                                                                                            \
        [[unroll]] for (uint r = 0; r < ROWS; r++)                                                                     \
            ahead[r] = chunk_fetch(rows_at[r], cursor.chunk);

#define ADVANCE                                                                                                        \
    cursor.chunk += LANES;                                                                                             \
    if (cursor.chunk >= chunks) {                                                                                      \
        cursor.chunk = lane;                                                                                           \
        cursor.part = (cursor.part + 1) % PARTS;                                                                       \
        if (cursor.part == 0)                                                                                          \
            cursor.group += together;                                                                                  \
        if (cursor.group < all) {                                                                                      \
            PLACE_ROWS                                                                                                 \
        }                                                                                                              \
    }

void multiply()
{
    uint all = 0;
    [[unroll]] for (uint j = 0; j < JOB_COUNT; j++)
        all += groups_of(j);
    const uint teams = GROUP / LANES;
    uint first_group = gl_WorkGroupID.x * teams, together = gl_NumWorkGroups.x * teams;
    if (first_group >= all) {
        chain_wait(progress, awaited);
        return;
    }
    uint64_t slot_at = 0, inputs = from;
    bool waits = uint64_t(progress) != 0; // for the inputs
    Eights eights, norm_weights = fetch_norm(0, 0);
#ifdef EXPERTS
    uint choice = gl_WorkGroupID.z;
    inputs += uint64_t(choice / sharing) * from_stride * 4;
    chain_wait(progress, awaited_ids);
    waits = waits && awaited != awaited_ids;
#endif
    if (!waits)
        eights = fetch_inputs(inputs, 0, 0); // before the weights, which would delay them
#ifdef EXPERTS
    uint expert = ids.v[choice], slot = slots.v[expert];
    if (slot == 0xffffffffu) {
        if (waits)
            chain_wait(progress, awaited);
        return;
    }
    slot_at = slot * slot_stride;
#endif

    const uint lane = gl_SubgroupInvocationID % LANES;
    const uint team = gl_SubgroupID * (gl_SubgroupSize / LANES) + gl_SubgroupInvocationID / LANES;
    uint chunks = columns / CHUNK;
    Cursor cursor = Cursor(first_group + team, 0, lane);
    Chunk ahead[ROWS];
    uint64_t rows_at[ROWS];
    if (lane < chunks && cursor.group < all) {
        PLACE_ROWS
        FETCH
        ADVANCE
    }
    bytes_prepare();
    if (waits) {
        chain_wait(progress, awaited);
        eights = fetch_inputs(inputs, 0, 0);
    }
    float square_sums[TOKENS];
    [[unroll]] for (uint t = 0; t < TOKENS; t++)
        square_sums[t] = 0;
    bool once = columns <= TILE;
    if (once)
        round_tile(eights, norm_weights, inputs, from_stride, 0, square_sums);

    float factors[TOKENS]; // of the norm
    if (once && NORMED)
        FIND_FACTORS
    for (; first_group < all; first_group += together) {
        uint group = first_group + team;
        // What the first results of an invocation are added to, so that the end need not wait for it.
        float before = 0.0;
        if (FINISH == FINISH_ADD && group < all && lane < ROWS * TOKENS) {
            Place place = place_of(group, lane EXPERT_ARGUMENTS);
            if (place.inside)
                before = place.into.v[place.at];
        }
        float all_sums[ROWS][TOKENS], gates[ROWS][TOKENS]; // of the last part, and of the one before it
        [[unroll]] for (uint part = 0; part < PARTS; part++) {
            uint chunk = lane;
            float sums[ROWS][TOKENS];
            [[unroll]] for (uint r = 0; r < ROWS; r++)
                [[unroll]] for (uint t = 0; t < TOKENS; t++)
                    sums[r][t] = 0;
            for (uint tile = 0; tile < columns; tile += TILE) {
                if (!once) {
                    if (tile == 0)
                        [[unroll]] for (uint t = 0; t < TOKENS; t++)
                            square_sums[t] = 0;
                    barrier();
                    eights = fetch_inputs(inputs, tile, 0);
                    norm_weights = fetch_norm(tile, 0);
                    round_tile(eights, norm_weights, inputs, from_stride, tile, square_sums);
                }
                uint end = group < all ? min(chunks, (tile + TILE) / CHUNK) : 0;
                for (; chunk < end; chunk += LANES) {
                    Chunk now[ROWS];
                    [[unroll]] for (uint r = 0; r < ROWS; r++)
                        now[r] = ahead[r];
                    FETCH
                    ADVANCE
                    uvec4 q[ROWS][UNITS];
                    float scale[ROWS][RUNS], minimum[ROWS][RUNS];
                    [[unroll]] for (uint r = 0; r < ROWS; r++)
                        chunk_unpack(now[r], chunk, q[r], scale[r], minimum[r]);
                    uint local = chunk - tile / CHUNK;
                    [[unroll]] for (uint t = 0; t < TOKENS; t++) {
                        [[unroll]] for (uint run = 0; run < RUNS; run++) {
                            uint at = (t * UNITS + RUN_UNITS * run) * STRIDE + local;
                            uint block = t * BLOCKS + block_of(local, run);
                            uvec4 x[RUN_UNITS];
                            [[unroll]] for (uint u = 0; u < RUN_UNITS; u++)
                                x[u] = bytes[at + u * STRIDE];
                            float x_scale = scales[block];
#ifdef HAS_MINIMUM
                            float total = x_scale * float(totals[block]);
#endif
                            [[unroll]] for (uint r = 0; r < ROWS; r++) {
                                int products = 0;
                                [[unroll]] for (uint u = 0; u < RUN_UNITS; u++)
                                    products += dot_unit(q[r][RUN_UNITS * run + u], x[u]);
                                sums[r][t] = fma(scale[r][run] * x_scale, float(products), sums[r][t]);
#ifdef HAS_MINIMUM
                                sums[r][t] = fma(-minimum[r][run], total, sums[r][t]);
#endif
                            }
                        }
                    }
                }
            }
            [[unroll]] for (uint r = 0; r < ROWS; r++)
                [[unroll]] for (uint t = 0; t < TOKENS; t++) {
                    gates[r][t] = part == 0 ? 0.0 : all_sums[r][t];
                    all_sums[r][t] = team_sum(sums[r][t]);
                }
        }
        if (NORMED && !once)
            FIND_FACTORS
        if (group >= all)
            continue;

        // An invocation finishes one row of one token, or of every so-manieth.
        if (NORMED) {
            [[unroll]] for (uint t = 0; t < TOKENS; t++)
                [[unroll]] for (uint r = 0; r < ROWS; r++) {
                    all_sums[r][t] *= factors[t];
                    gates[r][t] *= factors[t];
                }
        }
        for (uint mine = lane; mine < ROWS * TOKENS; mine += LANES) {
            vec2 sum = vec2(0.0);
            [[unroll]] for (uint r = 0; r < ROWS; r++)
                [[unroll]] for (uint t = 0; t < TOKENS; t++)
                    if (mine == r * TOKENS + t)
                        sum = GLU ? vec2(gates[r][t], all_sums[r][t]) : vec2(all_sums[r][t], 0.0);
            Place place = place_of(group, mine EXPERT_ARGUMENTS);
            if (!place.inside)
                break;
#ifdef EXPERTS
            uint bias_row = expert * rows + place.row;
#else
            uint bias_row = place.row;
#endif
            if (jobs[place.job].bias != 0)
                sum.x += Floats(jobs[place.job].bias).v[bias_row];
            if (GLU && jobs[1].bias != 0)
                sum.y += Floats(jobs[1].bias).v[bias_row];
            if (GLU)
                place.into.v[place.at] = gated(FINISH - FINISH_GLU, sum.x, sum.y, ALPHA, LIMIT);
            else if (FINISH == FINISH_ADD)
                place.into.v[place.at] = (mine == lane ? before : place.into.v[place.at]) + sum.x;
            else
                place.into.v[place.at] = sum.x;
        }
    }
}

void main()
{
    multiply();
    chain_end(progress);
}
