// Weights as halves, in rows of columns halves: the values that matmat_cooperative.comp would make of them. A chunk an
// invocation. What chunks hold lies in pieces; it goes through shared memory, so that neighbours write neighbouring bytes.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "types.glsl"

#define THREADS 256
layout(local_size_x = THREADS) in;
layout(push_constant) uniform Push
{
    uint64_t weights, into, table;
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
    if (row < rows) {
        float q[CHUNK_ELEMENTS], scale[RUNS], minimum[RUNS];
        chunk_unpack(chunk_fetch(weights + uint64_t(row) * row_bytes, index), index, q, scale, minimum);
        // Chunks that share columns are in one work group, which begins with the first of them.
        uint to = (gl_LocalInvocationID.x - index) * CHUNK_ELEMENTS;
        [[unroll]] for (uint r = 0; r < RUNS; r++) {
            uint column = to + chunk_column(index, r), words[LENGTH / 2];
            [[unroll]] for (uint j = 0; j < LENGTH; j += 2)
                words[j / 2] = packHalf2x16(
                    fma(vec2(scale[r]), vec2(q[r * LENGTH + j], q[r * LENGTH + j + 1]), vec2(-minimum[r])));
#if LENGTH == 4
            if (column % 8 == 0)
                tile[place(column / 8)].xy = uvec2(words[0], words[1]);
            else
                tile[place(column / 8)].zw = uvec2(words[0], words[1]);
#else
            [[unroll]] for (uint j = 0; j < LENGTH / 2; j += 4)
                tile[place(column / 8 + j / 4)] = uvec4(words[j], words[j + 1], words[j + 2], words[j + 3]);
#endif
        }
    }
    barrier();
    uint64_t left = uint64_t(rows) * row_chunks - min(uint64_t(rows) * row_chunks, uint64_t(first));
    uint eights = uint(min(left, uint64_t(THREADS))) * EIGHTS;
    Uvec4s out_rows = Uvec4s(into + uint64_t(first) * CHUNK_ELEMENTS * 2);
    [[unroll]] for (uint i = 0; i < EIGHTS; i++) {
        uint eight = i * THREADS + gl_LocalInvocationID.x;
        if (eight < eights)
            out_rows.v[eight] = tile[place(eight)];
    }
}
