#include "compute/cpu/scan.h"

static const struct scan_kernels *kernels_of(const struct compute *compute)
{
    switch (compute_instructions(compute)) {
#if defined(__x86_64__)
    case INSTRUCTIONS_AVX2:
    case INSTRUCTIONS_AVX_VNNI:
        return &scan_kernels_avx2;
    case INSTRUCTIONS_AVX512:
    case INSTRUCTIONS_AMX:
        return &scan_kernels_avx512;
#elif defined(__aarch64__)
    case INSTRUCTIONS_NEON:
        return &scan_kernels_neon;
#endif
    default:
        return &scan_kernels_plain;
    }
}

struct job {
    const struct scan *scan;
    const struct scan_kernels *kernels;
    size_t channels, tasks; /* per head; if each element has a rate: of all heads */
};

static void run_channels(void *context, size_t index, size_t worker)
{
    const struct job *job = context;
    size_t first = index % job->tasks * SCAN_CHANNELS;
    (void)worker;
    job->kernels->run(job->scan, index / job->tasks, first, MIN((size_t)SCAN_CHANNELS, job->channels - first));
}

size_t scan_state_floats(size_t heads, size_t width, size_t size)
{
    return heads * width * size;
}

void compute_scan(struct compute *compute, const struct scan *scan)
{
    struct job job = {.scan = scan, .kernels = kernels_of(compute), .channels = scan->each ? scan->heads : scan->width};
    job.tasks = (job.channels + SCAN_CHANNELS - 1) / SCAN_CHANNELS;
    thread_pool_run(compute_pool(compute), run_channels, &job, (scan->each ? 1 : scan->heads) * job.tasks);
}
