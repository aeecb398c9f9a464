// A single invocation runs until a word in memory is no longer 0, or for some 50 ms. The host writes the word. Nothing waits for what this kernel does.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = 0) const uint POLLS = 1;

layout(buffer_reference, std430, buffer_reference_align = 4) coherent buffer Word { uint value; };

layout(local_size_x = 1) in;
layout(push_constant) uniform Push
{
    Word word;
};

void main()
{
    for (uint i = 0; i < POLLS && atomicAdd(word.value, 0) == 0; i++)
        ;
}
