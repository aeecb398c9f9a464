/* The codebooks of the IQ types in device memory, in one buffer that exists as long as the device is open. */
#include "compute/vulkan/gpu_private.h"

#include "compute/cpu/grids.h"

#include <string.h>

#define MOST_CODEBOOKS 7

struct codebook {
    enum tensor_type type;
    const uint16_t *entries;
    uint32_t count;
};

static const struct codebook codebooks[MOST_CODEBOOKS] = {
    {TENSOR_IQ2_XXS, packed_iq2_xxs, 256}, {TENSOR_IQ2_XS, packed_iq2_xs, 512},   {TENSOR_IQ2_S, packed_iq2_s, 1024},
    {TENSOR_IQ3_S, packed_iq3_s, 512},     {TENSOR_IQ3_XXS, packed_iq3_xxs, 256}, {TENSOR_IQ1_S, packed_iq1, 2048},
    {TENSOR_IQ1_M, packed_iq1, 2048},
};

/* The offset of a type's codebook; for a type without one, the size of all. */
static uint64_t offset_of(enum tensor_type type)
{
    uint64_t offset = 0;
    for (size_t i = 0; i < COUNT_OF(codebooks) && codebooks[i].type != type; i++)
        offset += codebooks[i].count * sizeof *codebooks[i].entries;
    return offset;
}

/* Does not use gpu_upload: its staging ring is for weights, and is not allocated before they are planned. */
hypura_status codebooks_create(struct gpu *gpu, hypura_error *error)
{
    const uint64_t bytes = offset_of(TENSOR_TYPE_COUNT);
    struct gpu_buffer *written = NULL;
    gpu_ticket copied = 0;
    hypura_status status = gpu_buffer_create(gpu, &gpu->codebooks, bytes, GPU_DEVICE, error);
    if (!status)
        status = gpu_buffer_create(gpu, &written, bytes, GPU_UPLOAD, error);
    if (status)
        return status;
    for (size_t i = 0; i < COUNT_OF(codebooks); i++)
        memcpy((uint8_t *)written->mapped + offset_of(codebooks[i].type), codebooks[i].entries,
               codebooks[i].count * sizeof *codebooks[i].entries);
    gpu_begin(gpu);
    gpu_copy(gpu, (struct gpu_range){gpu->codebooks, 0}, (struct gpu_range){written, 0}, bytes);
    status = gpu_submit(gpu, &copied, 0, error);
    if (!status)
        status = gpu_wait(gpu, copied, error);
    gpu_buffer_destroy(gpu, written);
    return status;
}

void codebooks_destroy(struct gpu *gpu)
{
    if (gpu->codebooks)
        gpu_buffer_destroy(gpu, gpu->codebooks);
    gpu->codebooks = NULL;
}

uint64_t gpu_codebook(const struct gpu *gpu, enum tensor_type type)
{
    const uint64_t offset = offset_of(type);
    return offset < offset_of(TENSOR_TYPE_COUNT) ? gpu->codebooks->address + offset : 0;
}
