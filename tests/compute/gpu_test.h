/* Helpers for the tests of GPU kernels: a device with the validation layers, and buffers of floats. Without a device,
 * or without the layers, the tests are skipped. */
#ifndef HYPURA_GPU_TEST_H
#define HYPURA_GPU_TEST_H

#include "test.h"

#include "compute/vulkan/gpu.h"
#include "format/format.h"

#include <math.h>
#include <string.h>

#define UNUSED __attribute__((unused))

static void gpu_test_print(void *context, enum log_level level, const char *message)
{
    (void)context;
    if (level >= LOG_WARNING)
        fprintf(stderr, "# %s\n", message);
}

/* Whether the validation layers are present. Set when the group's device is opened. */
static bool gpu_test_layers UNUSED = true;

/* Opens the device with the number in HYPURA_GPU_TEST, or the first usable one. *state is NULL if there is none. If the
 * layers are missing, a device that is not the CPU is tested without them. */
UNUSED static int gpu_test_open(void **state)
{
    struct gpu_info infos[8];
    size_t count;
    char why[512];
    const char *number = getenv("HYPURA_GPU_TEST");
    log_set_sink(gpu_test_print, NULL);
    *state = NULL;
    assert_ok(gpu_list(infos, COUNT_OF(infos), &count, why, &test_error));
    for (uint32_t i = 0; i < count && i < COUNT_OF(infos); i++) {
        if (number ? (uint32_t)atoi(number) != i : infos[i].lacks[0] != '\0')
            continue;
        struct gpu *gpu;
        hypura_status status = gpu_open(&gpu, &(struct gpu_options){.index = i, .validate = true}, &test_error);
        if (status == HYPURA_ERROR_UNSUPPORTED && infos[i].kind != GPU_CPU) {
            gpu_test_layers = false;
            status = gpu_open(&gpu, &(struct gpu_options){.index = i}, &test_error);
        }
        if (status == HYPURA_OK) {
            *state = gpu;
            return 0;
        }
        snprintf(why, sizeof why, "%s", test_error.message);
        if (status != HYPURA_ERROR_UNSUPPORTED)
            fail_msg("%s", why);
    }
    fprintf(stderr, "# no GPU to test: %s\n", why);
    return 0;
}

UNUSED static int gpu_test_close(void **state)
{
    if (!*state)
        return 0;
    uint64_t messages = gpu_validation_messages(*state);
    gpu_close(*state);
    assert_int_equal(messages, 0);
    return 0;
}

#define gpu_or_skip(state)                                                                                             \
    ({                                                                                                                 \
        if (!*(state))                                                                                                 \
            skip();                                                                                                    \
        (struct gpu *)*(state);                                                                                        \
    })

/* Makes a device buffer with these bytes. values may be NULL. */
UNUSED static struct gpu_range gpu_test_range(struct gpu *gpu, const void *values, size_t bytes)
{
    struct gpu_range range = {0};
    assert_ok(gpu_buffer_create(gpu, &range.buffer, bytes, GPU_DEVICE, &test_error));
    if (values) {
        gpu_ticket ticket;
        assert_ok(gpu_upload(gpu, range, values, bytes, &ticket, &test_error));
        assert_ok(gpu_upload_wait(gpu, ticket, &test_error));
    }
    return range;
}

/* Submits the open batch and waits for it. */
UNUSED static void gpu_test_run(struct gpu *gpu)
{
    gpu_ticket ticket;
    assert_ok(gpu_submit(gpu, &ticket, 0, &test_error));
    assert_ok(gpu_wait(gpu, ticket, &test_error));
}

/* Reads the range after all batches submitted so far. */
UNUSED static void gpu_test_download(struct gpu *gpu, struct gpu_range range, void *values, size_t bytes)
{
    struct gpu_range seen = {0};
    assert_ok(gpu_buffer_create(gpu, &seen.buffer, bytes, GPU_READBACK, &test_error));
    gpu_begin(gpu);
    gpu_copy(gpu, seen, range, bytes);
    gpu_test_run(gpu);
    memcpy(values, gpu_buffer_mapped(seen.buffer), bytes);
    gpu_buffer_destroy(gpu, seen.buffer);
}

/* Copies the range to memory that the caller frees, and destroys the buffer. */
UNUSED static void *gpu_test_take(struct gpu *gpu, struct gpu_range range, size_t bytes)
{
    void *values = malloc(bytes);
    assert_non_null(values);
    gpu_test_download(gpu, range, values, bytes);
    gpu_buffer_destroy(gpu, range.buffer);
    return values;
}

/* The relative error: the Euclidean norm of the differences over that of the expected values. NaN if any is NaN. */
UNUSED static double gpu_test_error(const float *values, const float *expected, size_t count)
{
    double difference = 0, length = 0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)values[i] - (double)expected[i]) * ((double)values[i] - (double)expected[i]);
        length += (double)expected[i] * (double)expected[i];
    }
    return sqrt(difference / (length > 0 ? length : 1));
}

UNUSED static float *gpu_test_floats(struct random *random, size_t count)
{
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)random_normal(random);
    return values;
}

/* Random blocks whose values are finite and of similar magnitude. */
UNUSED static uint8_t *gpu_test_weights(struct random *random, enum tensor_type type, size_t rows, size_t columns)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    size_t blocks = rows * columns / info->block_size;
    uint8_t *data = malloc(blocks * info->block_bytes);
    assert_non_null(data);
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *block = data + b * info->block_bytes;
        float values[256], greatest;
        do {
            for (size_t i = 0; i < info->block_bytes; i++)
                block[i] = (uint8_t)(random_next(random) >> 32);
            compute_dequantize(type, block, values, info->block_size);
            greatest = 0;
            for (size_t i = 0; i < info->block_size; i++)
                greatest = fabsf(values[i]) <= greatest ? greatest : fabsf(values[i]);
        } while (!(greatest < 1e3f && greatest > 1e-3f));
    }
    return data;
}

#endif
