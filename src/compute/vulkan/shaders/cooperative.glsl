// Matrices of 16 x 16 that a subgroup multiplies together: Rows are first operands of a product and Tokens second ones. By
// VK_KHR_cooperative_matrix where the compiler knows it. Else by NVIDIA's older extension, which does not tell operands apart:
// the constant of Tokens does, for matrices.c.
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require

#ifdef KHR_MATRICES
#extension GL_KHR_cooperative_matrix : require
#define Rows coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>
#define Tokens coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB>
#define Sums coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>
#define BY_ROWS gl_CooperativeMatrixLayoutRowMajor
#define BY_COLUMNS gl_CooperativeMatrixLayoutColumnMajor
#define MATRIX_LOAD coopMatLoad
#define MATRIX_STORE coopMatStore
#define MULTIPLY_ADD coopMatMulAdd
#else
#extension GL_NV_cooperative_matrix : require
layout(constant_id = 31) const uint SIXTEEN = 16;
#define Rows fcoopmatNV<16, gl_ScopeSubgroup, 16, 16>
#define Tokens fcoopmatNV<16, gl_ScopeSubgroup, 16, SIXTEEN>
#define Sums fcoopmatNV<32, gl_ScopeSubgroup, 16, 16>
#define BY_ROWS false
#define BY_COLUMNS true
#define MATRIX_LOAD coopMatLoadNV
#define MATRIX_STORE coopMatStoreNV
#define MULTIPLY_ADD coopMatMulAddNV
#endif
#define LOAD_ROWS(to, from, at, stride) MATRIX_LOAD(to, from, at, stride, BY_ROWS)
#define LOAD_TOKENS(to, from, at, stride) MATRIX_LOAD(to, from, at, stride, BY_COLUMNS)
#define STORE_SUMS(from, to, at, stride) MATRIX_STORE(from, to, at, stride, BY_COLUMNS)
#define STORE_ROWS(from, to, at, stride) MATRIX_STORE(from, to, at, stride, BY_ROWS)

// Two floats as halves; what is beyond their range becomes their greatest.
uint halves_of(vec2 pair)
{
    const f16vec2 most = f16vec2(65504);
    return packFloat2x16(clamp(f16vec2(pair), -most, most));
}
