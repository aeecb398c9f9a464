/* What the benchmarks of weights on a GPU share. */
#ifndef HYPURA_BENCH_GPU_WEIGHTS_H
#define HYPURA_BENCH_GPU_WEIGHTS_H

#include "compute/vulkan/gpu.h"

#include <string.h>
#include <strings.h>

/* Whether a name is in a comma-separated list; NULL lists all. */
static inline bool listed(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncasecmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    return list == NULL;
}

/* Submits the open batch and returns its time on the device. */
static inline hypura_status run(struct gpu *gpu, double *seconds, hypura_error *error)
{
    gpu_ticket ticket;
    hypura_status status = gpu_submit(gpu, &ticket, 0, error);
    if (!status)
        status = gpu_wait(gpu, ticket, error);
    if (!status)
        *seconds = gpu_batch_seconds(gpu, ticket);
    return status;
}

/* Fills the data with random bytes in which every half-precision or float value is finite, as in weights. */
static inline hypura_status fill(struct gpu *gpu, struct gpu_buffer *buffer, uint64_t bytes, hypura_error *error)
{
    const uint64_t part = MIN(bytes, (uint64_t)32 << 20);
    uint8_t *data;
    hypura_status status = ALLOCATE(&data, part, "weights", error);
    struct random random;
    random_seed(&random, 1);
    for (uint64_t i = 0; i < part && !status; i++)
        data[i] = (uint8_t)(random_next(&random) >> 32) & (i % 2 ? 0x3f : 0xff);
    gpu_ticket ticket = 0;
    for (uint64_t at = 0; at < bytes && !status; at += part)
        status = gpu_upload(gpu, (struct gpu_range){buffer, at}, data, MIN(part, bytes - at), &ticket, error);
    if (!status)
        status = gpu_upload_wait(gpu, ticket, error);
    memory_free(data);
    return status;
}

#endif
