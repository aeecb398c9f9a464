#include "compute/cpu/gemm_panels_avx512.h"

panel_maker *const panel_makers_avx512[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q4_0] = panel_q4_0_avx512,       [TENSOR_Q4_1] = panel_q4_1_avx512,
    [TENSOR_Q5_0] = panel_q5_0_avx512,       [TENSOR_Q5_1] = panel_q5_1_avx512,
    [TENSOR_Q8_0] = panel_q8_0_avx512,       [TENSOR_IQ4_NL] = panel_iq4_nl_avx512,
    [TENSOR_MXFP4] = panel_mxfp4_avx512,     [TENSOR_Q2_K] = panel_q2_k_avx512,
    [TENSOR_Q3_K] = panel_q3_k_avx512,       [TENSOR_Q4_K] = panel_q4_k_avx512,
    [TENSOR_Q5_K] = panel_q5_k_avx512,       [TENSOR_Q6_K] = panel_q6_k_avx512,
    [TENSOR_IQ1_S] = panel_iq1_s_avx512,     [TENSOR_IQ1_M] = panel_iq1_m_avx512,
    [TENSOR_IQ2_XXS] = panel_iq2_xxs_avx512, [TENSOR_IQ2_XS] = panel_iq2_xs_avx512,
    [TENSOR_IQ2_S] = panel_iq2_s_avx512,     [TENSOR_IQ3_XXS] = panel_iq3_xxs_avx512,
    [TENSOR_IQ3_S] = panel_iq3_s_avx512,     [TENSOR_IQ4_XS] = panel_iq4_xs_avx512,
    [TENSOR_TQ1_0] = panel_tq1_0_avx512,     [TENSOR_TQ2_0] = panel_tq2_0_avx512,
    [TENSOR_NVFP4] = panel_nvfp4_avx512,
};
