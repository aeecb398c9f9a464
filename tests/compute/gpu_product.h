/* Matrices of every type that the GPU multiplies, with their values as plain C decodes them. */
#ifndef HYPURA_GPU_PRODUCT_H
#define HYPURA_GPU_PRODUCT_H

#include "gpu_test.h"

struct product {
    uint8_t *weights;
    struct gpu_matrix matrix;
    float *values; /* the decoded weights */
};

UNUSED static struct product product_create(struct gpu *gpu, struct random *random, enum tensor_type type,
                                            uint32_t rows, uint32_t columns)
{
    struct product product = {.weights = gpu_test_weights(random, type, rows, columns)};
    uint64_t row_bytes;
    assert_true(tensor_row_bytes(type, columns, &row_bytes));
    product.matrix =
        (struct gpu_matrix){gpu_test_range(gpu, product.weights, rows * row_bytes), type, rows, columns, row_bytes};
    product.values = malloc((size_t)rows * columns * sizeof(float));
    assert_non_null(product.values);
    for (uint32_t r = 0; r < rows; r++)
        compute_dequantize(type, product.weights + r * row_bytes, product.values + (size_t)r * columns, columns);
    return product;
}

UNUSED static void product_destroy(struct gpu *gpu, struct product *product)
{
    gpu_buffer_destroy(gpu, product->matrix.data.buffer);
    free(product->weights);
    free(product->values);
}

UNUSED static double dot(const float *a, const float *b, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static const enum tensor_type types[] = {
    TENSOR_F32,     TENSOR_F16,    TENSOR_BF16,  TENSOR_Q8_0,  TENSOR_Q4_0,    TENSOR_Q4_1,   TENSOR_Q5_0,
    TENSOR_Q5_1,    TENSOR_IQ4_NL, TENSOR_MXFP4, TENSOR_Q4_K,  TENSOR_Q5_K,    TENSOR_Q6_K,   TENSOR_Q2_K,
    TENSOR_Q3_K,    TENSOR_IQ4_XS, TENSOR_IQ1_S, TENSOR_IQ1_M, TENSOR_IQ2_XXS, TENSOR_IQ2_XS, TENSOR_IQ2_S,
    TENSOR_IQ3_XXS, TENSOR_IQ3_S,  TENSOR_TQ1_0, TENSOR_TQ2_0, TENSOR_NVFP4};

#endif
