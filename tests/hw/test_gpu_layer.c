/* The layer that measures a GPU's speed runs under the validation layers and reads no more weights than it declares.
 * Its times apply to other tensor types. */
#include "../compute/gpu_test.h"

#include "hw/gpu_layer.h"
#include "hw/hw.h"

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

/* All types that are multiplied as bytes take the time measured with Q4_K. */
static void types_take_the_time_of_their_kind(void **state)
{
    (void)state;
    const struct hardware_gpu gpu = {.layer_seconds = 1, .float_layer_seconds = 2, .router_seconds = 4};
    static const struct {
        enum tensor_type type;
        double seconds;
    } expected[] = {{TENSOR_Q4_K, 1}, {TENSOR_Q8_0, 1}, {TENSOR_MXFP4, 1}, {TENSOR_IQ4_XS, 1},
                    {TENSOR_F16, 2},  {TENSOR_F32, 2},  {TENSOR_Q6_K, 1},  {TENSOR_IQ2_S, 2}};
    for (size_t i = 0; i < COUNT_OF(expected); i++)
        for (int experts = 0; experts < 2; experts++)
            assert_float_equal(hardware_gpu_layer_seconds(&gpu, expected[i].type, experts),
                               expected[i].seconds + 4 * experts, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(layers_run),
                                       cmocka_unit_test(types_take_the_time_of_their_kind)};
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
