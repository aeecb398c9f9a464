// Weights times a few tokens. A work group has ROWS rows of weights and all their columns: each invocation takes every
// GROUP-th chunk of columns, reads the inputs for it once and uses them for all its rows, and the sums of the invocations
// are added at the end. The order of a sum depends on GROUP alone, so that neither ROWS nor TOKENS change a bit. Of two
// matrices for a gated activation a work group has half of its rows each.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "chain.glsl"
#include "types.glsl"
#include "functions.glsl"
#include "finish.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP = 128;
layout(constant_id = 1) const uint ROWS = 4;
layout(constant_id = 2) const uint TOKENS = 1;
// Inputs may be read as vec4: strides and columns are multiples of 4. Weights of plain types may be read 16 bytes at once.
layout(constant_id = 3) const bool WIDE = true;
layout(constant_id = 4) const bool NORMED = false;
layout(constant_id = 5) const uint FINISH = 0;
layout(constant_id = 6) const float ALPHA = 0.0;
layout(constant_id = 7) const float LIMIT = 0.0;
layout(constant_id = 8) const float EPSILON = 0.0;
layout(constant_id = 9) const uint columns = 4096;
layout(constant_id = 10) const uint from_stride = 4096;
layout(constant_id = 11) const bool CHAINED = false; // then inputs are read past the caches of a core

#ifdef EXPERTS
struct Job {
    uint64_t weights, into, bias;
};
layout(push_constant) uniform Push
{
    Job jobs[2];
    uint64_t from;
    Uints slots, ids;
    uint64_t slot_stride;
    uint rows, row_bytes, sharing, into_stride;
    layout(offset = 104) uint64_t table; // what lies between is for chains
    layout(offset = 120) uint64_t norm;
};
#else
struct Job {
    uint64_t weights, into, bias;
    uint rows, into_stride;
};
layout(push_constant) uniform Push
{
#ifdef CODEBOOK
    Job jobs[2];
    uint64_t table, unused[3];
#else
    Job jobs[3];
#endif
    uint64_t from, norm;
    Progress progress;
    uint awaited, row_bytes;
};
#endif

// Subgroups have at least 4 invocations.
shared float parts[ROWS * TOKENS * (GROUP / 4)];
shared float squares_parts[TOKENS * (GROUP / 4)];

// LENGTH floats of a token's inputs, or of a norm's weights, from a column on.
void load_floats(uint64_t row, uint column, bool fresh, out float x[LENGTH])
{
    if (WIDE) {
        [[unroll]] for (int i = 0; i < LENGTH / 4; i++) {
            vec4 four = fresh ? FreshVec4s(row).v[column / 4 + i] : Vec4s(row).v[column / 4 + i];
            [[unroll]] for (int j = 0; j < 4; j++)
                x[4 * i + j] = four[j];
        }
    } else {
        [[unroll]] for (int i = 0; i < LENGTH; i++)
            x[i] = column + i >= columns ? 0.0 : fresh ? FreshFloats(row).v[column + i] : Floats(row).v[column + i];
    }
}

#if defined(TYPE_F32) || defined(TYPE_F16) || defined(TYPE_BF16)
// As chunk_fetch, element by element, for rows that are not whole chunks or not aligned.
Chunk fetch_narrow(uint64_t row, uint chunk)
{
    Chunk c;
    [[unroll]] for (int i = 0; i < 4; i++) {
#if defined(TYPE_F32)
        uint column = chunk * 4 + i;
        c.values[i] = column < columns ? Floats(row).v[column] : 0.0;
#else
        uint column = chunk * 8 + 2 * i;
        c.bits[i] = column < columns ? uint(Shorts(row).v[column]) : 0u;
        c.bits[i] |= column + 1 < columns ? uint(Shorts(row).v[column + 1]) << 16 : 0u;
#endif
    }
    return c;
}
#else
Chunk fetch_narrow(uint64_t row, uint chunk)
{
    return chunk_fetch(row, chunk);
}
#endif

#define FETCH                                                                                                          \
    [[unroll]] for (uint r = 0; r < ROWS; r++)                                                                         \
        if (WIDE)                                                                                                      \
            fetched[r] = chunk_fetch(rows_at[r], chunk);                                                               \
        else                                                                                                           \
            fetched[r] = fetch_narrow(rows_at[r], chunk);

void wait_for_inputs()
{
#ifndef EXPERTS
    if (CHAINED)
        chain_wait(progress, awaited);
#endif
}

void multiply()
{
    uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    const uint job_rows_a_group = FINISH >= FINISH_GLU ? ROWS / 2 : ROWS;
#ifdef EXPERTS
    uint choice = gl_WorkGroupID.z, groups = (rows + job_rows_a_group - 1) / job_rows_a_group;
    uint expert = ids.v[choice], slot = slots.v[expert];
    Job job = jobs[0], other = jobs[1];
    if (FINISH < FINISH_GLU && group >= groups) {
        group -= groups;
        job = jobs[1];
    }
    if (slot == 0xffffffffu || job.weights == 0)
        return;
    job.weights += slot * slot_stride;
    other.weights += slot * slot_stride;
    uint job_rows = rows, bias_row = expert * rows;
    uint64_t input_row = from + uint64_t(choice / sharing) * from_stride * 4;
    uint64_t output_row = job.into + uint64_t(choice) * into_stride * 4;
#else
    Job job = jobs[0], other = jobs[1];
    uint groups = (job.rows + job_rows_a_group - 1) / job_rows_a_group;
    if (FINISH < FINISH_GLU && group >= groups) {
        group -= groups;
        job = jobs[1];
#ifndef CODEBOOK
        groups = (job.rows + job_rows_a_group - 1) / job_rows_a_group;
        if (group >= groups) {
            group -= groups;
            job = jobs[2];
        }
#endif
    }
    uint job_rows = job.rows, bias_row = 0;
    uint64_t input_row = from, output_row = job.into;
#endif
    uint first = group * job_rows_a_group;
    if (first >= job_rows) {
        wait_for_inputs();
        return;
    }
    TYPES_PREPARE(GROUP);

    float sums[ROWS][TOKENS];
    uint64_t rows_at[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        bool second = r >= job_rows_a_group;
        uint row = min(first + r - (second ? job_rows_a_group : 0), job_rows - 1);
        rows_at[r] = (second ? other.weights : job.weights) + uint64_t(row) * row_bytes;
        [[unroll]] for (uint t = 0; t < TOKENS; t++)
            sums[r][t] = 0;
    }
    float squares[TOKENS];
    [[unroll]] for (uint t = 0; t < TOKENS; t++)
        squares[t] = 0;
    uint chunk = gl_LocalInvocationID.x, chunks = (columns + CHUNK_ELEMENTS - 1) / CHUNK_ELEMENTS;
    Chunk fetched[ROWS];
    if (CHAINED && chunk < chunks)
        FETCH
    wait_for_inputs();
    // What an invocation's first result is added to, so that the end need not wait for it.
    float before = 0.0;
#ifndef EXPERTS
    if (FINISH == FINISH_ADD) {
        uint mine = gl_LocalInvocationID.x;
        if (mine < job_rows_a_group * TOKENS && first + mine / TOKENS < job_rows)
            before = FreshFloats(output_row).v[mine % TOKENS * job.into_stride + first + mine / TOKENS];
    }
#endif

    for (; chunk < chunks; chunk += GROUP) {
        if (!CHAINED || chunk != gl_LocalInvocationID.x)
            FETCH
        float q[ROWS][CHUNK_ELEMENTS], scale[ROWS][RUNS], minimum[ROWS][RUNS];
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            chunk_unpack(fetched[r], chunk, q[r], scale[r], minimum[r]);
        [[unroll]] for (uint run = 0; run < RUNS; run++) {
            [[unroll]] for (uint t = 0; t < TOKENS; t++) {
                float x[LENGTH];
                load_floats(input_row + uint64_t(t) * from_stride * 4, chunk_column(chunk, run), CHAINED, x);
                if (NORMED) {
                    float weights[LENGTH];
                    load_floats(norm, chunk_column(chunk, run), false, weights);
                    [[unroll]] for (uint i = 0; i < LENGTH; i++) {
                        squares[t] = fma(x[i], x[i], squares[t]);
                        x[i] *= weights[i];
                    }
                }
                float total = 0;
                [[unroll]] for (uint i = 0; i < LENGTH; i++)
                    total += x[i];
                [[unroll]] for (uint r = 0; r < ROWS; r++) {
                    float sum = 0;
                    [[unroll]] for (uint i = 0; i < LENGTH; i++)
                        sum = fma(q[r][run * LENGTH + i], x[i], sum);
                    sums[r][t] = fma(scale[r][run], sum, fma(-minimum[r][run], total, sums[r][t]));
                }
            }
        }
    }

    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        [[unroll]] for (uint t = 0; t < TOKENS; t++) {
            float sum = subgroupAdd(sums[r][t]);
            if (subgroupElect())
                parts[(r * TOKENS + t) * gl_NumSubgroups + gl_SubgroupID] = sum;
        }
    }
    if (NORMED)
        [[unroll]] for (uint t = 0; t < TOKENS; t++) {
            float sum = subgroupAdd(squares[t]);
            if (subgroupElect())
                squares_parts[t * gl_NumSubgroups + gl_SubgroupID] = sum;
        }
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < job_rows_a_group * TOKENS; i += GROUP) {
        uint row = first + i / TOKENS, t = i % TOKENS;
        if (row >= job_rows)
            break;
        vec2 sum = vec2(0.0);
        for (uint s = 0; s < gl_NumSubgroups; s++)
            sum.x += parts[i * gl_NumSubgroups + s];
        if (FINISH >= FINISH_GLU)
            for (uint s = 0; s < gl_NumSubgroups; s++)
                sum.y += parts[(i + job_rows_a_group * TOKENS) * gl_NumSubgroups + s];
        if (NORMED) {
            float total = 0;
            for (uint s = 0; s < gl_NumSubgroups; s++)
                total += squares_parts[t * gl_NumSubgroups + s];
            sum *= inversesqrt(total / float(columns) + EPSILON);
        }
        if (job.bias != 0)
            sum.x += Floats(job.bias).v[bias_row + row];
        if (FINISH >= FINISH_GLU && other.bias != 0)
            sum.y += Floats(other.bias).v[bias_row + row];
        FreshFloats into = FreshFloats(output_row);
#ifdef EXPERTS
        uint at = row;
#else
        uint at = t * job.into_stride + row;
#endif
        if (FINISH >= FINISH_GLU)
            into.v[at] = gated(FINISH - FINISH_GLU, sum.x, sum.y, ALPHA, LIMIT);
        else if (FINISH == FINISH_ADD)
            into.v[at] = (i == gl_LocalInvocationID.x ? before : into.v[at]) + sum.x;
        else
            into.v[at] = sum.x;
    }
}

void main()
{
    multiply();
#ifndef EXPERTS
    if (CHAINED)
        chain_end(progress);
#endif
}
