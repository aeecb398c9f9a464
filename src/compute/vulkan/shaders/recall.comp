#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 256
#include "common.glsl"

/* As compute_recall, a work group a row: it becomes number "kept" of its bank; into is the sum of it and those before it,
 * weighed by the softmax of their scores. An element of all rows is one invocation's. */
#define MOST_ROWS 256

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats bank;
    Floats from;
    Floats weight;
    Floats into;
    uint rows, kept, room, width;
    float epsilon;
};

shared float scores[MOST_ROWS];

void recall_row(uint row)
{
    Floats mine = Floats(uint64_t(bank) + uint64_t(row) * room * width * 4);
    for (uint c = gl_LocalInvocationID.x; c < width; c += GROUP)
        mine.v[kept * width + c] = from.v[row * width + c];
    for (uint i = 0; i <= kept; i++) {
        float dots = 0.0, squares = 0.0;
        for (uint c = gl_LocalInvocationID.x; c < width; c += GROUP) {
            float a = mine.v[i * width + c];
            dots = fma(a, weight.v[c], dots);
            squares = fma(a, a, squares);
        }
        dots = group_sum(dots);
        squares = group_sum(squares);
        if (gl_LocalInvocationID.x == 0)
            scores[i] = dots / sqrt(squares / float(width) + epsilon);
    }
    barrier();
    float most = scores[0], sum = 0.0;
    for (uint i = 1; i <= kept; i++)
        most = max(most, scores[i]);
    for (uint i = 0; i <= kept; i++)
        sum += exp(scores[i] - most);
    for (uint c = gl_LocalInvocationID.x; c < width; c += GROUP) {
        float a = 0.0;
        for (uint i = 0; i <= kept; i++)
            a = fma(mine.v[i * width + c], exp(scores[i] - most) / sum, a);
        into.v[row * width + c] = a;
    }
    barrier();
}

void main()
{
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x)
        recall_row(row);
}
