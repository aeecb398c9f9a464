/* The layer that a GPU's speed is measured by: it runs under the validation layers, and on no more weights than it
 * says. */
#include "../compute/gpu_test.h"

#include "hw/gpu_layer.h"

static void layers_run(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct gpu_layer layer;
    assert_ok(gpu_layer_make(&layer, gpu, &test_error));
    for (int mixture = 0; mixture < 2; mixture++) {
        uint64_t bytes = gpu_layer_bytes(TENSOR_Q4_K, mixture);
        uint8_t *zeros = calloc(bytes, 1);
        assert_non_null(zeros);
        struct gpu_range weights = gpu_test_range(gpu, zeros, bytes);
        free(zeros);
        gpu_begin(gpu);
        gpu_layer_record(&layer, gpu, weights.buffer, bytes, TENSOR_Q4_K, mixture, 2);
        gpu_test_run(gpu);
        gpu_buffer_destroy(gpu, weights.buffer);
    }
    gpu_layer_free(&layer, gpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(layers_run)};
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
