#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 128
#include "common.glsl"
#include "functions.glsl"

/* Residual streams become one row (compute.h, struct stream_mixer), a work group a row: what the product gave becomes
 * the coefficients first. */
layout(constant_id = 0) const uint STREAMS = 4;
layout(constant_id = 1) const bool RETURNS = true;
layout(constant_id = 2) const bool BALANCED = true;

#define MOST 16
#define MATRIX (2 * STREAMS) /* where it begins; from is its row, to its column */
#define COEFFICIENTS (RETURNS ? (BALANCED ? (2 + STREAMS) * STREAMS : 2 * STREAMS) : STREAMS)

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats streams;
    Floats coefficients;
    Floats scale;
    Floats base;
    Floats into;
    uint rows, width, rounds;
    float norm_epsilon, epsilon, back_epsilon, magnitude;
};

shared float c[(2 + MOST) * MOST];

/* Each invocation one row, or one column: the sum of it becomes 1. */
void divide(bool columns)
{
    uint thread = gl_LocalInvocationID.x, first = MATRIX + (columns ? thread : thread * STREAMS);
    uint stride = columns ? STREAMS : 1;
    if (thread < STREAMS) {
        float sum = 0.0;
        for (uint i = 0; i < STREAMS; i++)
            sum += c[first + i * stride];
        for (uint i = 0; i < STREAMS; i++)
            c[first + i * stride] /= sum + epsilon;
    }
    barrier();
}

void balance()
{
    uint thread = gl_LocalInvocationID.x, first = MATRIX + thread * STREAMS;
    if (thread < STREAMS) {
        float most = c[first], sum = 0.0;
        for (uint to = 1; to < STREAMS; to++)
            most = max(most, c[first + to]);
        for (uint to = 0; to < STREAMS; to++) {
            c[first + to] = exp(c[first + to] - most);
            sum += c[first + to];
        }
        for (uint to = 0; to < STREAMS; to++)
            c[first + to] = c[first + to] / sum + epsilon;
    }
    barrier();
    divide(true);
    for (uint round = 1; round < rounds; round++) {
        divide(false);
        divide(true);
    }
}

void gather_row(uint row)
{
    uint thread = gl_LocalInvocationID.x, flat_width = STREAMS * width;
    Floats from = Floats(uint64_t(streams) + uint64_t(row) * flat_width * 4);
    Floats own = Floats(uint64_t(coefficients) + uint64_t(row) * COEFFICIENTS * 4);
    float squares = 0.0;
    for (uint i = thread; i < flat_width; i += GROUP)
        squares = fma(from.v[i], from.v[i], squares);
    float factor = 1.0 / sqrt(group_sum(squares) / float(flat_width) + norm_epsilon);
    for (uint i = thread; i < COEFFICIENTS; i += GROUP) {
        float a = own.v[i] * factor * scale.v[min(i / STREAMS, 2)] + base.v[i];
        c[i] = i < STREAMS ? sigmoid(a) + epsilon : i < MATRIX ? magnitude * sigmoid(a) + back_epsilon : a;
    }
    barrier();
    if (RETURNS && BALANCED)
        balance();
    for (uint i = thread; i < COEFFICIENTS; i += GROUP)
        own.v[i] = c[i];
    for (uint i = thread; i < width; i += GROUP) {
        float sum = 0.0;
        for (uint s = 0; s < STREAMS; s++)
            sum = fma(from.v[s * width + i], c[s], sum);
        into.v[row * width + i] = sum;
    }
    barrier();
}

void main()
{
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x)
        gather_row(row);
}
