#include "compute/cpu/delta_net.h"

#include <string.h>

static const struct delta_net_kernels *kernels_of(const struct compute *compute)
{
    switch (compute_instructions(compute)) {
#if defined(__x86_64__)
    case INSTRUCTIONS_AVX2:
        return &delta_net_kernels_avx2;
    case INSTRUCTIONS_AVX512:
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
};

static size_t channels_of(const struct delta_net *net)
{
    return 2 * net->heads_k * net->key_size + net->heads_v * net->value_size;
}

size_t delta_net_state_floats(size_t heads_k, size_t heads_v, size_t key_size, size_t value_size, size_t taps)
{
    return heads_v * key_size * value_size + (taps - 1) * (2 * heads_k * key_size + heads_v * value_size);
}

static void convolve_channels(void *context, size_t index, size_t worker)
{
    const struct job *job = context;
    (void)worker;
    size_t first = index * DELTA_CHANNELS;
    job->kernels->convolve(job->net, first, MIN((size_t)DELTA_CHANNELS, job->channels - first));
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

/* The inputs that the next rows' convolution looks back on: the last of those that were there and the new ones. */
static void keep_inputs(const struct job *job)
{
    const struct delta_net *net = job->net;
    size_t matrices = net->heads_v * net->key_size * net->value_size, back = net->taps - 1;
    for (size_t i = 0; i < back; i++) {
        size_t index = net->rows + i;
        const float *from =
            index < back ? net->state + matrices + index * job->channels : net->input + (index - back) * job->channels;
        memcpy(net->next + matrices + i * job->channels, from, job->channels * sizeof *from);
    }
}

void compute_delta_net(struct compute *compute, const struct delta_net *net)
{
    struct job job = {.net = net, .kernels = kernels_of(compute), .channels = channels_of(net)};
    struct thread_pool *pool = compute_pool(compute);
    job.column_tasks = (net->value_size + DELTA_COLUMNS - 1) / DELTA_COLUMNS;
    thread_pool_run(pool, convolve_channels, &job, (job.channels + DELTA_CHANNELS - 1) / DELTA_CHANNELS);
    keep_inputs(&job);
    compute_function(compute, FUNCTION_SILU, net->convolved, net->rows * job.channels);
    thread_pool_run(pool, normalise_row, &job, net->rows);
    thread_pool_run(pool, run_columns, &job, net->heads_v * job.column_tasks);
}
