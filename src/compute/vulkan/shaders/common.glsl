// What every kernel includes. Types of addresses: a push constant of one of these types is a 64-bit address, and
// address.v[i] an element. uint64_t(address) == 0: not given.
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference2 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int16 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_8bit_storage : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require

layout(buffer_reference, std430, buffer_reference_align = 4) buffer Floats { float v[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) buffer Vec4s { vec4 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Uints { uint v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Ints { int v[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) buffer Uvec4s { uvec4 v[]; };
layout(buffer_reference, std430, buffer_reference_align = 2) buffer Shorts { uint16_t v[]; };
layout(buffer_reference, std430, buffer_reference_align = 1) buffer Bytes { uint8_t v[]; };

// The bits of a half as a float.
float half_float(uint bits)
{
    return unpackHalf2x16(bits & 0xffffu).x;
}

// The bits of a bfloat16 as a float.
float bfloat_float(uint bits)
{
    return uintBitsToFloat(bits << 16);
}

#ifdef GROUP
// Over all invocations of a work group of GROUP; each gets the result. Every invocation must come here. The order is
// that of the device's subgroups, then theirs by number.
shared float group_parts[GROUP];

float group_sum(float value)
{
    value = subgroupAdd(value);
    barrier();
    if (subgroupElect())
        group_parts[gl_SubgroupID] = value;
    barrier();
    float sum = 0;
    for (uint i = 0; i < gl_NumSubgroups; i++)
        sum += group_parts[i];
    return sum;
}

float group_max(float value)
{
    value = subgroupMax(value);
    barrier();
    if (subgroupElect())
        group_parts[gl_SubgroupID] = value;
    barrier();
    float greatest = group_parts[0];
    for (uint i = 1; i < gl_NumSubgroups; i++)
        greatest = max(greatest, group_parts[i]);
    return greatest;
}
#endif
