// Matrices of 16 x 16 that a subgroup multiplies together.
#extension GL_NV_cooperative_matrix : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require

#define Rows fcoopmatNV<16, gl_ScopeSubgroup, 16, 16>
#define Tokens fcoopmatNV<16, gl_ScopeSubgroup, 16, 16>
#define Sums fcoopmatNV<32, gl_ScopeSubgroup, 16, 16>
#define LOAD_ROWS(to, from, at, stride) coopMatLoadNV(to, from, at, stride, false)
#define LOAD_TOKENS(to, from, at, stride) coopMatLoadNV(to, from, at, stride, true)
#define STORE_SUMS(from, to, at, stride) coopMatStoreNV(from, to, at, stride, true)
#define MULTIPLY_ADD coopMatMulAddNV
