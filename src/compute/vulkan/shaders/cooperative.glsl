// Matrices of 16 x 16 that a subgroup multiplies together. Rows are first operands of a product and Tokens second ones: the
// constant of their own tells them apart where VK_KHR_cooperative_matrix wants to know (matrices.c).
#extension GL_NV_cooperative_matrix : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require

layout(constant_id = 31) const uint SIXTEEN = 16;
#define Rows fcoopmatNV<16, gl_ScopeSubgroup, 16, 16>
#define Tokens fcoopmatNV<16, gl_ScopeSubgroup, 16, SIXTEEN>
#define Sums fcoopmatNV<32, gl_ScopeSubgroup, 16, 16>
#define LOAD_ROWS(to, from, at, stride) coopMatLoadNV(to, from, at, stride, false)
#define LOAD_TOKENS(to, from, at, stride) coopMatLoadNV(to, from, at, stride, true)
#define STORE_SUMS(from, to, at, stride) coopMatStoreNV(from, to, at, stride, true)
#define STORE_ROWS(from, to, at, stride) coopMatStoreNV(from, to, at, stride, false)
#define MULTIPLY_ADD coopMatMulAddNV

// Two floats as halves; what is beyond their range becomes their greatest.
uint halves_of(vec2 pair)
{
    const f16vec2 most = f16vec2(65504);
    return packFloat2x16(clamp(f16vec2(pair), -most, most));
}
