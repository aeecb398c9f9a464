// Weights as halves, in rows of columns halves or in panels (panels.glsl): the values that matmat_cooperative.comp would make
// of them. A chunk per invocation; work groups along z are for several matrices. What chunks hold lies in pieces; it goes through
// shared memory, so that neighbours write neighbouring bytes.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "types.glsl"
#include "panels.glsl"

#define THREADS 256
layout(local_size_x = THREADS) in;
layout(constant_id = 0) const bool PANELS = false;
layout(push_constant) uniform Push
{
    uint64_t weights, into, table, weights_step, into_step; // the latter two from one matrix to the next
    uint rows, columns, row_bytes;
};

#define EIGHTS (CHUNK_ELEMENTS / 8)
shared uvec4 tile[THREADS * EIGHTS];

// Where eight halves are, such that invocations which write at the same time use different banks.
uint place(uint eight)
{
    return eight ^ (eight >> 3 & 1u | eight >> 2 & 4u);
}

void main()
{
    TYPES_PREPARE(THREADS);
    uint row_chunks = columns / CHUNK_ELEMENTS;
    uint first = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * THREADS;
    uint at = first + gl_LocalInvocationID.x, row = at / row_chunks, index = at % row_chunks;
    // Chunks that share columns are in one work group, which begins with the first of them.
    uint begin = index - gl_LocalInvocationID.x, rows_at_once = 1, own_row = 0;
    if (PANELS) {
        begin = gl_WorkGroupID.x * (THREADS / 8);
        index = begin + gl_LocalInvocationID.x / 8;
        rows_at_once = 8;
        own_row = gl_LocalInvocationID.x % 8;
        row = gl_WorkGroupID.y * 8 + own_row;
    }
    if (row < rows && index < row_chunks) {
        float q[CHUNK_ELEMENTS], scale[RUNS], minimum[RUNS];
        uint64_t from = weights + gl_WorkGroupID.z * weights_step + uint64_t(row) * row_bytes;
        chunk_unpack(chunk_fetch(from, index), index, q, scale, minimum);
        [[unroll]] for (uint r = 0; r < RUNS; r++) {
            uint column = chunk_column(index, r) - begin * CHUNK_ELEMENTS, words[LENGTH / 2];
            uint to = column / 8 * rows_at_once + own_row;
            [[unroll]] for (uint j = 0; j < LENGTH; j += 2)
                words[j / 2] = packHalf2x16(
                    fma(vec2(scale[r]), vec2(q[r * LENGTH + j], q[r * LENGTH + j + 1]), vec2(-minimum[r])));
#if LENGTH == 4
            if (column % 8 == 0)
                tile[place(to)].xy = uvec2(words[0], words[1]);
            else
                tile[place(to)].zw = uvec2(words[0], words[1]);
#else
            [[unroll]] for (uint j = 0; j < LENGTH / 2; j += 4)
                tile[place(to + j / 4 * rows_at_once)] = uvec4(words[j], words[j + 1], words[j + 2], words[j + 3]);
#endif
        }
    }
    barrier();
    if (PANELS) {
        Uvec4s panels = Uvec4s(into + gl_WorkGroupID.z * into_step);
        [[unroll]] for (uint i = 0; i < EIGHTS; i++) {
            uint eight = i * THREADS + gl_LocalInvocationID.x;
            uint to_row = gl_WorkGroupID.y * 8 + eight % 8, to_eight = begin * EIGHTS + eight / 8;
            if (to_row < rows && to_eight < columns / 8)
                panels.v[panel_place(to_row, to_eight, columns)] = tile[place(eight)];
        }
        return;
    }
    uint64_t left = uint64_t(rows) * row_chunks - min(uint64_t(rows) * row_chunks, uint64_t(first));
    uint eights = uint(min(left, uint64_t(THREADS))) * EIGHTS;
    Uvec4s out_rows = Uvec4s(into + uint64_t(first) * CHUNK_ELEMENTS * 2);
    [[unroll]] for (uint i = 0; i < EIGHTS; i++) {
        uint eight = i * THREADS + gl_LocalInvocationID.x;
        if (eight < eights)
            out_rows.v[eight] = tile[place(eight)];
    }
}
