#include "compute/cpu/delta_net.h"

#include <string.h>

static const struct delta_net_kernels *kernels_of(const struct compute *compute)
{
    switch (compute_instructions(compute)) {
#if defined(__x86_64__)
    case INSTRUCTIONS_AVX2:
    case INSTRUCTIONS_AVX_VNNI:
        return &delta_net_kernels_avx2;
    case INSTRUCTIONS_AVX512:
    case INSTRUCTIONS_AMX:
        return &delta_net_kernels_avx512;
#elif defined(__aarch64__)
    case INSTRUCTIONS_NEON:
        return &delta_net_kernels_neon;
#endif
    default:
        return &delta_net_kernels_plain;
    }
}

struct job {
    const struct delta_net *net;
    const struct delta_net_kernels *kernels;
    size_t channels, column_tasks;
    size_t part_tasks[DELTA_PARTS];
};

size_t delta_net_state_floats(size_t heads_k, size_t heads_v, size_t key_size, size_t value_size, size_t taps)
{
    return heads_v * key_size * value_size + (taps - 1) * (2 * heads_k * key_size + heads_v * value_size);
}

static void convolve_channels(void *context, size_t index, size_t worker)
{
    const struct job *job = context;
    size_t part = 0;
    (void)worker;
    for (; index >= job->part_tasks[part]; part++)
        index -= job->part_tasks[part];
    size_t first = index * DELTA_CHANNELS, channels = delta_part_channels(job->net, part);
    job->kernels->convolve(job->net, part, first, MIN((size_t)DELTA_CHANNELS, channels - first));
}

static void normalise_row(void *context, size_t row, size_t worker)
{
    const struct job *job = context;
    (void)worker;
    job->kernels->normalise(job->net, row);
}

static void run_columns(void *context, size_t index, size_t worker)
{
    const struct job *job = context;
    (void)worker;
    size_t first = index % job->column_tasks * DELTA_COLUMNS;
    job->kernels->run(job->net, index / job->column_tasks, first,
                      MIN((size_t)DELTA_COLUMNS, job->net->value_size - first));
}

/* Keeps the inputs that the convolution of the next rows needs: the last ones of the old and new inputs together. */
static void keep_inputs(const struct job *job)
{
    const struct delta_net *net = job->net;
    size_t matrices = net->heads_v * net->key_size * net->value_size, back = net->taps - 1;
    for (size_t i = 0; i < back; i++) {
        size_t index = net->rows + i, first = matrices;
        for (size_t part = 0; part < DELTA_PARTS; part++) {
            const float *from = index < back ? net->state + first + index * job->channels
                                             : net->input[part] + (index - back) * net->input_stride[part];
            memcpy(net->next + first + i * job->channels, from, delta_part_channels(net, part) * sizeof *from);
            first += delta_part_channels(net, part);
        }
    }
}

void compute_delta_net(struct compute *compute, const struct delta_net *net)
{
    struct job job = {.net = net, .kernels = kernels_of(compute), .channels = delta_channels(net)};
    struct thread_pool *pool = compute_pool(compute);
    size_t convolutions = 0;
    for (size_t part = 0; part < DELTA_PARTS; part++) {
        job.part_tasks[part] = (delta_part_channels(net, part) + DELTA_CHANNELS - 1) / DELTA_CHANNELS;
        convolutions += job.part_tasks[part];
    }
    job.column_tasks = (net->value_size + DELTA_COLUMNS - 1) / DELTA_COLUMNS;
    thread_pool_run(pool, convolve_channels, &job, convolutions);
    keep_inputs(&job);
    compute_function(compute, FUNCTION_SILU, net->convolved, net->rows * job.channels);
    thread_pool_run(pool, normalise_row, &job, net->rows);
    thread_pool_run(pool, run_columns, &job, net->heads_v * job.column_tasks);
}

struct decay_job {
    const struct delta_decay *decay;
    const struct delta_net_kernels *kernels;
};

static void decay_row(void *context, size_t row, size_t worker)
{
    const struct decay_job *job = context;
    (void)worker;
    job->kernels->decay(job->decay, row);
}

void compute_delta_decay(struct compute *compute, const struct delta_decay *decay)
{
    struct decay_job job = {decay, kernels_of(compute)};
    thread_pool_run(compute_pool(compute), decay_row, &job, decay->rows);
}
