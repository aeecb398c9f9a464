/* Which instruction sets multiply matrices by panels, and from how many tokens on. */
#include "compute/cpu/gemm.h"

/* Making panels in plain C takes as long as multiplying about this many tokens one by one. */
#define PLAIN_LEAST_TOKENS 20

static void fill(struct kernel_table *table, gemm_kernel *gemm, const uint8_t *least_tokens)
{
    for (unsigned type = 0; type < TENSOR_TYPE_COUNT; type++) {
        if (panel_kind(type) == PANEL_NONE)
            continue;
        struct kernel *kernel = &table->types[type];
        kernel->gemm = gemm;
        kernel->gemm_least_tokens = least_tokens ? least_tokens[type] : PLAIN_LEAST_TOKENS;
        kernel->gemm_task_rows = GEMM_TASK_ROWS;
    }
}

#define GEMM(name, multiplier, makers)                                                                                 \
    static void name(const struct matmul *job, size_t first_row, size_t rows, size_t first_token, size_t tokens,       \
                     void *scratch)                                                                                    \
    {                                                                                                                  \
        gemm_by_panels(&multiplier, makers, job, first_row, rows, first_token, tokens, scratch);                       \
    }

#if defined(__x86_64__)

/* The least tokens, by measurement. Fewer are faster one by one, or with the kernels for a few tokens (FEW). */
#define FEW (FEW_MOST_TOKENS + 1)
static const uint8_t least_avx512[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q4_0] = FEW,   [TENSOR_Q4_1] = FEW,  [TENSOR_Q5_0] = FEW,   [TENSOR_Q5_1] = FEW, [TENSOR_Q8_0] = FEW,
    [TENSOR_IQ4_NL] = FEW, [TENSOR_MXFP4] = FEW, [TENSOR_Q2_K] = 2,     [TENSOR_Q3_K] = 2,   [TENSOR_Q4_K] = FEW,
    [TENSOR_Q5_K] = FEW,   [TENSOR_Q6_K] = FEW,  [TENSOR_IQ1_S] = 7,    [TENSOR_IQ1_M] = 6,  [TENSOR_IQ2_XXS] = 13,
    [TENSOR_IQ2_XS] = 10,  [TENSOR_IQ2_S] = 8,   [TENSOR_IQ3_XXS] = 16, [TENSOR_IQ3_S] = 14, [TENSOR_IQ4_XS] = FEW,
    [TENSOR_TQ1_0] = 7,    [TENSOR_TQ2_0] = 3,   [TENSOR_NVFP4] = FEW,
};

static const uint8_t least_avx2[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q4_0] = FEW,   [TENSOR_Q4_1] = FEW,  [TENSOR_Q5_0] = FEW,  [TENSOR_Q5_1] = FEW, [TENSOR_Q8_0] = FEW,
    [TENSOR_IQ4_NL] = FEW, [TENSOR_MXFP4] = FEW, [TENSOR_Q2_K] = 4,    [TENSOR_Q3_K] = 3,   [TENSOR_Q4_K] = FEW,
    [TENSOR_Q5_K] = FEW,   [TENSOR_Q6_K] = FEW,  [TENSOR_IQ1_S] = 4,   [TENSOR_IQ1_M] = 4,  [TENSOR_IQ2_XXS] = 4,
    [TENSOR_IQ2_XS] = 3,   [TENSOR_IQ2_S] = 4,   [TENSOR_IQ3_XXS] = 5, [TENSOR_IQ3_S] = 6,  [TENSOR_IQ4_XS] = FEW,
    [TENSOR_TQ1_0] = 4,    [TENSOR_TQ2_0] = 4,   [TENSOR_NVFP4] = FEW,
};

GEMM(gemm_avx2, panel_multiplier_avx2, panel_makers_avx2)
GEMM(gemm_avx_vnni, panel_multiplier_avx_vnni, panel_makers_avx_vnni)
GEMM(gemm_avx512, panel_multiplier_avx512, panel_makers_avx512)

void gemm_panels_avx2(struct kernel_table *table)
{
    fill(table, gemm_avx2, least_avx2);
}

void gemm_panels_avx_vnni(struct kernel_table *table)
{
    fill(table, gemm_avx_vnni, least_avx2);
}

void gemm_panels_avx512(struct kernel_table *table)
{
    fill(table, gemm_avx512, least_avx512);
}

#elif defined(__aarch64__)

GEMM(gemm_neon, panel_multiplier_neon, NULL)
GEMM(gemm_i8mm, panel_multiplier_i8mm, NULL)

void gemm_panels_neon(struct kernel_table *table)
{
    fill(table, gemm_neon, NULL);
}

void gemm_panels_i8mm(struct kernel_table *table)
{
    fill(table, gemm_i8mm, NULL);
}

#endif
