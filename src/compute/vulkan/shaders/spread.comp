#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

/* Keys and values of heads: a work group copies those of one head of one row. */
layout(local_size_x = 64) in;
layout(push_constant) uniform Push
{
    Floats projected;
    Floats latents;
    Floats key;
    Floats value;
    uint heads, key_size, value_size, rotary, latent_size;
};

void main()
{
    uint row = gl_WorkGroupID.x, head = row * heads + gl_WorkGroupID.y, plain = key_size - rotary;
    uint from = head * (plain + value_size), own = (row + 1) * latent_size - key_size;
    for (uint i = gl_LocalInvocationID.x; i < key_size; i += 64)
        key.v[head * key_size + i] = i < plain ? projected.v[from + i] : latents.v[own + i];
    for (uint i = gl_LocalInvocationID.x; i < value_size; i += 64)
        value.v[head * value_size + i] = projected.v[from + plain + i];
}
