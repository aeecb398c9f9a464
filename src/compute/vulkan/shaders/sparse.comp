#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 128
#include "common.glsl"

/* As compute_sparse, a work group a row: of each element what it is above the mean and so many standard deviations. */
layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats values;
    uint rows, width;
    float deviations;
};

void do_row(Floats mine)
{
    uint thread = gl_LocalInvocationID.x;
    float sum = 0.0, squares = 0.0;
    for (uint i = thread; i < width; i += GROUP)
        sum += mine.v[i];
    float mean = group_sum(sum) / float(width);
    for (uint i = thread; i < width; i += GROUP)
        squares = fma(mine.v[i] - mean, mine.v[i] - mean, squares);
    float least = mean + deviations * sqrt(group_sum(squares) / float(max(width, 2) - 1));
    for (uint i = thread; i < width; i += GROUP)
        mine.v[i] = max(mine.v[i] - least, 0.0);
}

void main()
{
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x)
        do_row(Floats(uint64_t(values) + uint64_t(row) * width * 4));
}
