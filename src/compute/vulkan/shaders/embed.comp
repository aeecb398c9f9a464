#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "types.glsl"

layout(local_size_x = 64) in;
layout(push_constant) uniform Push
{
    uint64_t weights;
    Ints tokens;
    Floats into;
    uint64_t table;
    uint rows, columns, row_bytes;
    float scale;
};

// Rows of the embedding as floats, times scale.
void main()
{
    TYPES_PREPARE(64);
    for (uint row = gl_WorkGroupID.y; row < rows; row += gl_NumWorkGroups.y) {
        uint64_t from = weights + uint64_t(tokens.v[row]) * row_bytes;
        Floats to = Floats(uint64_t(into) + uint64_t(row) * columns * 4);
        for (uint chunk = gl_GlobalInvocationID.x; chunk < columns / CHUNK_ELEMENTS; chunk += gl_NumWorkGroups.x * 64) {
            float q[CHUNK_ELEMENTS], scales[RUNS], minima[RUNS];
            chunk_unpack(chunk_fetch(from, chunk), chunk, q, scales, minima);
            [[unroll]] for (uint r = 0; r < RUNS; r++)
                [[unroll]] for (uint i = 0; i < LENGTH; i++)
                    to.v[chunk_column(chunk, r) + i] = (scales[r] * q[r * LENGTH + i] - minima[r]) * scale;
        }
    }
}
