#version 460
#extension GL_GOOGLE_include_directive : require
#define GROUP 128
#include "common.glsl"
#include "functions.glsl"

/* A hidden row and those next to it foresee and correct each other (compute.h, struct side_streams), a work group a row.
 */
layout(constant_id = 0) const uint COUNT = 4; /* of all streams */
layout(constant_id = 1) const bool CORRECTS = false;

#define MOST 8

layout(local_size_x = GROUP) in;
layout(push_constant) uniform Push
{
    Floats hidden;
    Floats sides;
    Floats branch;
    Floats into;
    Floats norm;
    Floats router;
    Floats coefficients;
    Floats scale;
    uint rows, width;
    float epsilon;
};

shared float modalities[MOST];
shared float weights[MOST * MOST];

/* tanh(router (x / rms(x) * norm / width)), one number for each stream. */
void find_modalities(Floats from, uint row)
{
    uint thread = gl_LocalInvocationID.x;
    float squares = 0.0;
    for (uint i = thread; i < width; i += GROUP)
        squares = fma(from.v[row * width + i], from.v[row * width + i], squares);
    float factor = 1.0 / (sqrt(group_sum(squares) / float(width) + epsilon) * float(width));
    for (uint k = 0; k < COUNT; k++) {
        float sum = 0.0;
        for (uint i = thread; i < width; i += GROUP)
            sum = fma(router.v[k * width + i], from.v[row * width + i] * norm.v[i], sum);
        sum = group_sum(sum);
        if (thread == 0)
            modalities[k] = tanh_of(sum * factor);
    }
    barrier();
}

void find_weights()
{
    uint count = CORRECTS ? COUNT : COUNT * COUNT;
    for (uint i = gl_LocalInvocationID.x; i < count; i += GROUP) {
        float sum = CORRECTS || i % (COUNT + 1) == 0 ? 1.0 : 0.0;
        for (uint k = 0; k < COUNT; k++)
            sum = fma(coefficients.v[i * COUNT + k], modalities[k], sum);
        weights[i] = sum;
    }
    barrier();
}

void do_row(uint row)
{
    if (CORRECTS)
        find_modalities(branch, row);
    else
        find_modalities(hidden, row);
    find_weights();
    for (uint i = gl_LocalInvocationID.x; i < width; i += GROUP) {
        uint first = row * width + i, others = row * (COUNT - 1) * width + i;
        float old[COUNT];
        old[0] = hidden.v[first];
        for (uint a = 1; a < COUNT; a++)
            old[a] = sides.v[others + (a - 1) * width];
        float difference = CORRECTS ? branch.v[first] - old[0] : 0.0;
        for (uint a = 0; a < COUNT; a++) {
            float sum = CORRECTS ? fma(difference, weights[a], old[a]) : 0.0;
            if (!CORRECTS)
                for (uint b = 0; b < COUNT; b++)
                    sum = fma(weights[a * COUNT + b], old[b], sum);
            if (a > 0)
                sides.v[others + (a - 1) * width] = sum;
            else
                hidden.v[first] = sum;
            if (CORRECTS && a == 0)
                into.v[first] = sum * scale.v[i];
        }
    }
    barrier();
}

void main()
{
    for (uint row = gl_WorkGroupID.x; row < rows; row += gl_NumWorkGroups.x)
        do_row(row);
}
