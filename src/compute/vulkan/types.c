#include "compute/vulkan/gpu_private.h"

/* The kernels and requirements of each type; chunk as in shaders/types.glsl. */
#define TYPE_KERNELS(name, cooperative)                                                                                \
    KERNEL_matmat_##name, KERNEL_matmat_experts_##name, KERNEL_##cooperative##_##name,                                 \
        KERNEL_##cooperative##_experts_##name
#define TYPE(name, chunk, align) [TENSOR_##name] = {TYPE_KERNELS(name, matmat_cooperative), chunk, align}
static const struct weight_type weight_types[TENSOR_TYPE_COUNT] = {
    TYPE(F16, 8, 2),      TYPE(BF16, 8, 2),
    TYPE(Q8_0, 8, 2),     TYPE(Q4_0, 16, 2),
    TYPE(Q4_1, 16, 2),    TYPE(Q5_0, 16, 2),
    TYPE(Q5_1, 16, 2),    TYPE(Q4_K, 32, 16),
    TYPE(Q5_K, 32, 16),   TYPE(Q6_K, 32, 2),
    TYPE(Q2_K, 16, 4),    TYPE(Q3_K, 16, 2),
    TYPE(IQ4_XS, 32, 4),  TYPE(IQ4_NL, 16, 2),
    TYPE(MXFP4, 16, 1),   TYPE(IQ1_S, 32, 2),
    TYPE(IQ1_M, 32, 2),   TYPE(IQ2_XXS, 32, 2),
    TYPE(IQ2_XS, 32, 2),  TYPE(IQ2_S, 32, 2),
    TYPE(IQ3_XXS, 32, 2), TYPE(IQ3_S, 32, 2),
    TYPE(TQ1_0, 32, 2),   TYPE(TQ2_0, 16, 2),
    TYPE(NVFP4, 16, 4),   [TENSOR_F32] = {TYPE_KERNELS(F32, matmat), 4, 4},
};
#undef TYPE
#undef TYPE_KERNELS

const struct weight_type *gpu_weight_type(enum tensor_type type)
{
    return &weight_types[type];
}

bool gpu_supports(const struct gpu *gpu, enum tensor_type type)
{
    (void)gpu;
    return (unsigned)type < TENSOR_TYPE_COUNT && weight_types[type].chunk != 0;
}

uint32_t gpu_weight_alignment(enum tensor_type type)
{
    return weight_types[type].alignment;
}

uint32_t gpu_weight_chunk(enum tensor_type type)
{
    return weight_types[type].chunk;
}
