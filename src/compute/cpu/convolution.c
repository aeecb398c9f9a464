#include "compute/cpu/convolution.h"

#include <string.h>

static const struct convolution_kernels *kernels_of(const struct compute *compute)
{
    switch (compute_instructions(compute)) {
#if defined(__x86_64__)
    case INSTRUCTIONS_AVX2:
    case INSTRUCTIONS_AVX_VNNI:
        return &convolution_kernels_avx2;
    case INSTRUCTIONS_AVX512:
    case INSTRUCTIONS_AMX:
        return &convolution_kernels_avx512;
#elif defined(__aarch64__)
    case INSTRUCTIONS_NEON:
        return &convolution_kernels_neon;
#endif
    default:
        return &convolution_kernels_plain;
    }
}

struct job {
    const struct convolution *convolution;
    const struct convolution_kernels *kernels;
    size_t tasks; /* per group */
};

static void run_channels(void *context, size_t index, size_t worker)
{
    const struct job *job = context;
    size_t first = index % job->tasks * CONVOLUTION_CHANNELS;
    (void)worker;
    job->kernels->convolve(job->convolution, index / job->tasks, first,
                           MIN((size_t)CONVOLUTION_CHANNELS, job->convolution->width - first));
}

/* Keeps the inputs that the next rows need: the last ones of the old and new inputs together. */
static void keep_inputs(const struct convolution *c)
{
    size_t back = (c->taps - 1) * MAX(c->dilation, (size_t)1);
    for (size_t i = 0; i < back; i++) {
        size_t index = c->rows + i;
        float *to = c->after + i * c->channels;
        if (index < back) {
            memcpy(to, c->before + index * c->channels, c->channels * sizeof *to);
            continue;
        }
        const float *from = c->input + (index - back) * c->stride;
        for (size_t done = 0; done < c->channels; done += c->width, from += c->group_stride)
            memcpy(to + done, from, c->width * sizeof *to);
    }
}

void compute_convolution(struct compute *compute, const struct convolution *convolution)
{
    struct job job = {.convolution = convolution, .kernels = kernels_of(compute)};
    job.tasks = (convolution->width + CONVOLUTION_CHANNELS - 1) / CONVOLUTION_CHANNELS;
    thread_pool_run(compute_pool(compute), run_channels, &job, convolution->channels / convolution->width * job.tasks);
    keep_inputs(convolution);
}
