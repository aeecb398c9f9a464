// Weights as halves, in rows of columns halves: the values that matmat_cooperative.comp would make of them. A chunk an
// invocation.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "types.glsl"

layout(local_size_x = 256) in;
layout(buffer_reference, std430, buffer_reference_align = 8) buffer Uvec2s { uvec2 v[]; };
layout(push_constant) uniform Push
{
    uint64_t weights, into, table;
    uint rows, columns, row_bytes;
};

void main()
{
    TYPES_PREPARE(256);
    uint row_chunks = columns / CHUNK_ELEMENTS;
    uint at = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * 256 + gl_LocalInvocationID.x;
    uint row = at / row_chunks, index = at % row_chunks;
    if (row >= rows)
        return;
    float q[CHUNK_ELEMENTS], scale[RUNS], minimum[RUNS];
    chunk_unpack(chunk_fetch(weights + uint64_t(row) * row_bytes, index), index, q, scale, minimum);
    uint64_t to = into + uint64_t(row) * columns * 2;
    [[unroll]] for (uint r = 0; r < RUNS; r++) {
        uint column = chunk_column(index, r), words[LENGTH / 2];
        [[unroll]] for (uint j = 0; j < LENGTH; j += 2)
            words[j / 2] =
                packHalf2x16(fma(vec2(scale[r]), vec2(q[r * LENGTH + j], q[r * LENGTH + j + 1]), vec2(-minimum[r])));
#if LENGTH == 4
        Uvec2s(to).v[column / 4] = uvec2(words[0], words[1]);
#else
        [[unroll]] for (uint j = 0; j < LENGTH / 2; j += 4)
            Uvec4s(to).v[column / 8 + j / 4] = uvec4(words[j], words[j + 1], words[j + 2], words[j + 3]);
#endif
    }
}
