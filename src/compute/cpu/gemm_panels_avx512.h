/* Makers of panels by AVX-512, for gemm_avx512.c. */
#ifndef HYPURA_COMPUTE_GEMM_PANELS_AVX512_H
#define HYPURA_COMPUTE_GEMM_PANELS_AVX512_H

#include "compute/cpu/gemm.h"

extern const struct panel_type panel_types_avx512[TENSOR_TYPE_COUNT];

#endif
