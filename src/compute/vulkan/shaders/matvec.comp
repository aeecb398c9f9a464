// Weights times a few tokens. A work group has ROWS rows of weights and all their columns: each invocation takes every
// GROUP-th chunk of columns, reads the inputs for it once and uses them for all its rows, and the sums of the invocations
// are added at the end. The order of a sum depends on GROUP alone, so that neither ROWS nor TOKENS change a bit.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "types.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint GROUP = 128;
layout(constant_id = 1) const uint ROWS = 4;
layout(constant_id = 2) const uint TOKENS = 1;
// Inputs may be read as vec4: strides and columns are multiples of 4. Weights of plain types may be read 16 bytes at once.
layout(constant_id = 3) const bool WIDE = true;

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
    uint rows, columns, row_bytes, used, per_choice;
};
#else
struct Job {
    uint64_t weights, into, bias;
    uint rows, into_stride;
};
layout(push_constant) uniform Push
{
    Job jobs[3];
    uint64_t from;
    uint columns, row_bytes, from_stride, accumulate;
};
#endif

// Subgroups have at least 4 invocations.
shared float parts[ROWS * TOKENS * (GROUP / 4)];

// LENGTH inputs of a token from a column on.
void load_inputs(uint64_t token, uint column, out float x[LENGTH])
{
    if (WIDE) {
        Vec4s values = Vec4s(token);
        [[unroll]] for (int i = 0; i < LENGTH / 4; i++) {
            vec4 four = values.v[column / 4 + i];
            [[unroll]] for (int j = 0; j < 4; j++)
                x[4 * i + j] = four[j];
        }
    } else {
        Floats values = Floats(token);
        [[unroll]] for (int i = 0; i < LENGTH; i++)
            x[i] = column + i < columns ? values.v[column + i] : 0.0;
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

void main()
{
    uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
#ifdef EXPERTS
    uint choice = gl_WorkGroupID.z, groups = (rows + ROWS - 1) / ROWS;
    uint expert = ids.v[choice], slot = slots.v[expert];
    Job job = jobs[0];
    if (group >= groups) {
        group -= groups;
        job = jobs[1];
    }
    if (slot == 0xffffffffu || job.weights == 0)
        return;
    job.weights += slot * slot_stride;
    uint job_rows = rows, into_stride = rows, bias_row = expert * rows;
    uint64_t input_row = from + uint64_t(per_choice != 0 ? choice : choice / used) * columns * 4;
    uint64_t output_row = job.into + uint64_t(choice) * rows * 4;
    uint from_stride = columns, accumulate = 0;
#else
    Job job = jobs[0];
    uint groups = (job.rows + ROWS - 1) / ROWS;
    if (group >= groups) {
        group -= groups;
        job = jobs[1];
        groups = (job.rows + ROWS - 1) / ROWS;
        if (group >= groups) {
            group -= groups;
            job = jobs[2];
        }
    }
    uint job_rows = job.rows, into_stride = job.into_stride, bias_row = 0;
    uint64_t input_row = from, output_row = job.into;
#endif
    uint first = group * ROWS;
    if (first >= job_rows)
        return;
    types_prepare();

    float sums[ROWS][TOKENS];
    uint64_t rows_at[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        rows_at[r] = job.weights + uint64_t(min(first + r, job_rows - 1)) * row_bytes;
        [[unroll]] for (uint t = 0; t < TOKENS; t++)
            sums[r][t] = 0;
    }
    uint chunks = (columns + CHUNK_ELEMENTS - 1) / CHUNK_ELEMENTS;
    for (uint chunk = gl_LocalInvocationID.x; chunk < chunks; chunk += GROUP) {
        Chunk fetched[ROWS];
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            if (WIDE)
                fetched[r] = chunk_fetch(rows_at[r], chunk);
            else
                fetched[r] = fetch_narrow(rows_at[r], chunk);
        float q[ROWS][CHUNK_ELEMENTS], scale[ROWS][RUNS], minimum[ROWS][RUNS];
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            chunk_unpack(fetched[r], chunk, q[r], scale[r], minimum[r]);
        [[unroll]] for (uint run = 0; run < RUNS; run++) {
            [[unroll]] for (uint t = 0; t < TOKENS; t++) {
                float x[LENGTH];
                load_inputs(input_row + uint64_t(t) * from_stride * 4, chunk_column(chunk, run), x);
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
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < ROWS * TOKENS; i += GROUP) {
        uint row = first + i / TOKENS, t = i % TOKENS;
        if (row >= job_rows)
            break;
        float sum = 0;
        for (uint s = 0; s < gl_NumSubgroups; s++)
            sum += parts[i * gl_NumSubgroups + s];
        if (job.bias != 0)
            sum += Floats(job.bias).v[bias_row + row];
        Floats into = Floats(output_row);
        uint at = t * into_stride + row;
        into.v[at] = accumulate != 0 ? into.v[at] + sum : sum;
    }
}
