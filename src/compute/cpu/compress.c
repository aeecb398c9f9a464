#include "compute/cpu/compress.h"

/* Channels per task. */
#define TASK_CHANNELS ((size_t)64)

size_t compression_state_floats(size_t size, bool overlaps)
{
    return 3 * size * (overlaps ? 2 : 1);
}

size_t compressed_rows(size_t position, size_t rows, size_t every)
{
    return (position + rows) / every - position / every;
}

static const struct compress_kernels *kernels_of(const struct compute *compute)
{
    switch (compute_instructions(compute)) {
#if defined(__x86_64__)
    case INSTRUCTIONS_AVX2:
    case INSTRUCTIONS_AVX_VNNI:
        return &compress_kernels_avx2;
    case INSTRUCTIONS_AVX512:
    case INSTRUCTIONS_AMX:
        return &compress_kernels_avx512;
#elif defined(__aarch64__)
    case INSTRUCTIONS_NEON:
        return &compress_kernels_neon;
#endif
    default:
        return &compress_kernels_plain;
    }
}

struct job {
    const struct compression *compression;
    const struct compress_kernels *kernels;
};

static void compress_channels(void *context, size_t index, size_t worker)
{
    const struct job *job = context;
    (void)worker;
    size_t first = index * TASK_CHANNELS;
    job->kernels->compress(job->compression, first, MIN(first + TASK_CHANNELS, job->compression->size));
}

void compute_compression(struct compute *compute, const struct compression *compression)
{
    struct job job = {compression, kernels_of(compute)};
    size_t tasks = (compression->size + TASK_CHANNELS - 1) / TASK_CHANNELS;
    if (compression->rows == 1)
        for (size_t task = 0; task < tasks; task++)
            compress_channels(&job, task, 0);
    else
        thread_pool_run(compute_pool(compute), compress_channels, &job, tasks);
}
