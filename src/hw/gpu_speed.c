/* Measures how fast a GPU reads its memory, receives data from the host, and multiplies. */
#include "hw/gpu_layer.h"
#include "hw/hw_private.h"

#include <string.h>

#define MIB ((uint64_t)1 << 20)
#define COLUMNS 4096u
#define PROMPT_TOKENS 512u
#define LONG_PROMPT_TOKENS 2048u /* fewer do not keep a device with panels busy */
#define PROMPT_ROWS 4096u

/* A GPU that was idle runs at a low clock first. So a batch is repeated for this long, and the quarter of the fastest
 * runs tells the usual speed. A software device needs seconds for one run. */
#define BATCH_SECONDS 60e-3
#define LEAST_ROUNDS 5u
#define MOST_ROUNDS 1024u

struct gpu_test {
    struct gpu *gpu;
    struct gpu_buffer *weights, *rows; /* rows has inputs and outputs */
    uint64_t bytes;
    uint64_t row_floats;
    uint32_t prompt_tokens;
};

static hypura_status time_once(const struct gpu_test *test, void (*record)(const struct gpu_test *test, const void *),
                               const void *what, double *seconds, hypura_error *error)
{
    gpu_ticket ticket = 0;
    gpu_begin(test->gpu);
    record(test, what);
    uint64_t start = clock_nanoseconds();
    hypura_status status = gpu_submit(test->gpu, &ticket, 0, error);
    if (!status)
        status = gpu_wait(test->gpu, ticket, error);
    if (status)
        return status;
    double device = gpu_batch_seconds(test->gpu, ticket);
    *seconds = device > 0 ? device : clock_seconds_since(start);
    return HYPURA_OK;
}

/* The lower quartile of a batch's times. record adds its commands. */
static hypura_status time_batch(const struct gpu_test *test, void (*record)(const struct gpu_test *test, const void *),
                                const void *what, double *seconds, hypura_error *error)
{
    double times[MOST_ROUNDS];
    size_t count = 0;
    /* The first run compiles the kernels. */
    hypura_status status = time_once(test, record, what, &times[0], error);
    uint64_t start = clock_nanoseconds();
    while (!status && count < MOST_ROUNDS && (count < LEAST_ROUNDS || clock_seconds_since(start) < BATCH_SECONDS))
        status = time_once(test, record, what, &times[count++], error);
    if (!status) {
        hw_sort(times, count);
        *seconds = MAX(times[count / 4], 1e-9);
    }
    return status;
}

static void record_copy(const struct gpu_test *test, const void *unused)
{
    (void)unused;
    gpu_copy(test->gpu, (struct gpu_range){test->weights, 0}, (struct gpu_range){test->weights, test->bytes / 2},
             test->bytes / 2);
}

static void record_matmul(const struct gpu_test *test, const void *job)
{
    (void)test;
    gpu_matmul(test->gpu, job, 1);
}

/* As in a model, a prompt's inputs exist as halves and there is room to unpack weights, if the device uses these. */
static hypura_status time_matmul(const struct gpu_test *test, enum tensor_type type, uint32_t tokens,
                                 uint64_t most_rows, uint64_t *bytes, double *seconds, hypura_error *error)
{
    uint64_t row_bytes = 0;
    tensor_row_bytes(type, COLUMNS, &row_bytes);
    uint32_t rows = (uint32_t)MIN(MIN(test->bytes / row_bytes, most_rows), test->row_floats / tokens);
    struct gpu_buffer *unpacked = NULL;
    struct gpu_matmul job = {
        .weights = {.data = {test->weights, 0}, .type = type, .rows = rows, .columns = COLUMNS, .row_bytes = row_bytes},
        .in = {test->rows, 0},
        .out = {test->rows, (uint64_t)test->prompt_tokens * COLUMNS * sizeof(float)},
        .tokens = tokens,
        .in_stride = COLUMNS,
        .out_stride = rows};
    *bytes = rows * row_bytes;
    if (gpu_takes_halves(test->gpu, &job.weights, 0, tokens)) {
        job.in_halves = job.in;
        job.unpacked_bytes = gpu_unpacked_bytes(type, rows, COLUMNS, tokens, gpu_get_info(test->gpu)->panels);
    }
    hypura_status status =
        job.unpacked_bytes ? gpu_buffer_create(test->gpu, &unpacked, job.unpacked_bytes, GPU_DEVICE, error) : HYPURA_OK;
    job.unpacked.buffer = unpacked;
    if (!status)
        status = time_batch(test, record_matmul, &job, seconds, error);
    gpu_buffer_destroy(test->gpu, unpacked);
    return status;
}

/* The time of the second round counts: the first one touches the staging ring's memory for the first time. */
static hypura_status time_upload(const struct gpu_test *test, double *bytes_per_second, hypura_error *error)
{
    uint8_t *bytes;
    size_t piece = (size_t)MIN(16 * MIB, test->bytes);
    hypura_status status = ALLOCATE(&bytes, piece, "GPU test", error);
    if (status)
        return status;
    memset(bytes, 0x2a, piece); /* neither infinite nor denormal in any format */
    for (int round = 0; round < 2 && !status; round++) {
        uint64_t start = clock_nanoseconds();
        gpu_ticket ticket = 0;
        for (uint64_t at = 0; at + piece <= test->bytes && !status; at += piece)
            status = gpu_upload(test->gpu, (struct gpu_range){test->weights, at}, bytes, piece, &ticket, error);
        if (!status)
            status = gpu_upload_wait(test->gpu, ticket, error);
        *bytes_per_second = (double)(test->bytes / piece * piece) / MAX(clock_seconds_since(start), 1e-9);
    }
    memory_free(bytes);
    return status;
}

static hypura_status time_turn(const struct gpu_test *test, double *seconds, hypura_error *error)
{
    double times[64];
    for (size_t i = 0; i < COUNT_OF(times); i++) {
        gpu_ticket ticket;
        uint64_t start = clock_nanoseconds();
        gpu_begin(test->gpu);
        gpu_copy(test->gpu, (struct gpu_range){test->rows, 0}, (struct gpu_range){test->rows, 4096}, 256);
        hypura_status status = gpu_submit(test->gpu, &ticket, 0, error);
        if (!status)
            status = gpu_wait(test->gpu, ticket, error);
        if (status)
            return status;
        times[i] = clock_seconds_since(start);
    }
    hw_sort(times, COUNT_OF(times));
    *seconds = times[COUNT_OF(times) / 2];
    return HYPURA_OK;
}

/* Simulates layers whose experts are split between GPU and CPU: the CPU waits for a batch, runs some parallel sections,
 * and sends the signal that the next batch waits for. A batch takes as long as in such a layer, so that the waiting
 * workers fall asleep as they would there. */
#define SHARE_BATCH_SECONDS 100e-6
#define SHARE_SECTIONS 4 /* of a mixture of experts: gate and up, activation, quantising its output, down */

static void do_nothing(void *context, size_t index, size_t worker)
{
    (void)context, (void)index, (void)worker;
}

static hypura_status share_once(const struct gpu_test *test, struct thread_pool *pool, uint64_t bytes, uint64_t signal,
                                gpu_ticket *ticket, hypura_error *error)
{
    gpu_ticket before = *ticket;
    gpu_begin(test->gpu);
    gpu_await_host(test->gpu, signal);
    gpu_copy(test->gpu, (struct gpu_range){test->weights, 0}, (struct gpu_range){test->weights, test->bytes / 2},
             bytes);
    hypura_status status = gpu_submit(test->gpu, ticket, 0, error);
    if (!status)
        status = gpu_wait(test->gpu, before, error);
    for (int i = 0; i < SHARE_SECTIONS && !status; i++)
        thread_pool_run(pool, do_nothing, NULL, thread_pool_threads(pool));
    /* Also after an error: otherwise the batch would never end. */
    hypura_status given = gpu_signal_host(test->gpu, signal, status ? NULL : error);
    return status ? status : given;
}

/* Measures share_seconds. memory_speed is needed for the length of a batch. */
static hypura_status time_share(const struct gpu_test *test, double memory_speed, double *seconds, hypura_error *error)
{
    double times[64];
    struct thread_pool *pool;
    gpu_ticket ticket = 0;
    uint64_t bytes = MIN((uint64_t)(SHARE_BATCH_SECONDS * memory_speed / 2), test->bytes / 2);
    bytes = MAX(align_down(bytes, GPU_ALIGNMENT), (uint64_t)GPU_ALIGNMENT);
    size_t cores = MIN(thread_usable_cores(), hw_cgroup_cores(""));
    hypura_status status = thread_pool_create(&pool, MIN(cores, (size_t)256), error);
    if (status)
        return status;
    /* The first two rounds fill the pipeline and do not count. */
    for (uint64_t i = 0; i < COUNT_OF(times) + 2 && !status; i++) {
        uint64_t start = clock_nanoseconds();
        status = share_once(test, pool, bytes, i + 1, &ticket, error);
        double batch = gpu_batch_seconds(test->gpu, ticket - 1);
        if (i >= 2)
            times[i - 2] = clock_seconds_since(start) - (batch > 0 ? batch : SHARE_BATCH_SECONDS);
    }
    hypura_status done = gpu_wait(test->gpu, ticket, status ? NULL : error);
    thread_pool_destroy(pool);
    if (status || done)
        return status ? status : done;
    hw_sort(times, COUNT_OF(times));
    *seconds = MAX(times[COUNT_OF(times) / 2], 1e-9);
    return HYPURA_OK;
}

#define LAYERS 8u /* per batch */

struct layers {
    struct gpu_layer buffers;
    enum tensor_type type;
    bool mixture;
};

static void record_layers(const struct gpu_test *test, const void *what)
{
    const struct layers *layers = what;
    gpu_layer_record(&layers->buffers, test->gpu, test->weights, test->bytes, layers->type, layers->mixture, LAYERS);
}

/* The time per layer, less the time of reading its weights at the kernels' speed. */
static hypura_status time_rest(const struct gpu_test *test, const struct hardware_gpu *speeds, struct layers *layers,
                               enum tensor_type type, bool mixture, double *rest, hypura_error *error)
{
    double seconds;
    layers->type = type;
    layers->mixture = mixture;
    hypura_status status = time_batch(test, record_layers, layers, &seconds, error);
    if (!status)
        *rest = MAX(seconds / LAYERS - (double)gpu_layer_bytes(type, mixture) / hardware_gpu_kernel_speed(speeds, type),
                    1e-9);
    return status;
}

/* Needs the kernels' speeds. If there is too little room for weights beyond the caches, sets the usual times. */
static hypura_status time_layers(const struct gpu_test *test, struct hardware_gpu *out, hypura_error *error)
{
    out->layer_seconds = out->float_layer_seconds = GPU_LAYER_SECONDS;
    out->router_seconds = GPU_ROUTER_SECONDS;
    if (test->bytes < 2 * gpu_layer_bytes(TENSOR_F16, false))
        return HYPURA_OK;
    struct layers layers;
    double with_experts = 0;
    hypura_status status = gpu_layer_make(&layers.buffers, test->gpu, error);
    if (!status)
        status = time_rest(test, out, &layers, TENSOR_Q4_K, false, &out->layer_seconds, error);
    if (!status)
        status = time_rest(test, out, &layers, TENSOR_F16, false, &out->float_layer_seconds, error);
    if (!status)
        status = time_rest(test, out, &layers, TENSOR_Q4_K, true, &with_experts, error);
    if (!status)
        out->router_seconds = MAX(with_experts - out->layer_seconds, 1e-9);
    gpu_layer_free(&layers.buffers, test->gpu);
    return status;
}

static hypura_status measure(struct gpu_test *test, struct hardware_gpu *out, hypura_error *error)
{
    static const enum tensor_type types[] = {TENSOR_F16,  TENSOR_BF16, TENSOR_Q8_0,   TENSOR_Q4_0,  TENSOR_Q4_K,
                                             TENSOR_Q5_K, TENSOR_Q6_K, TENSOR_IQ4_XS, TENSOR_MXFP4, TENSOR_F32};
    double seconds;
    uint64_t bytes;
    hypura_status status = time_upload(test, &out->upload_bytes_per_second, error);
    if (!status)
        status = time_batch(test, record_copy, NULL, &seconds, error);
    if (status)
        return status;
    out->memory_bytes_per_second = (double)test->bytes / seconds; /* half is read, half written */
    out->kernel_count = 0;
    for (size_t i = 0; i < COUNT_OF(types) && !status; i++) {
        if (!gpu_supports(test->gpu, types[i]))
            continue;
        status = time_matmul(test, types[i], 1, UINT32_MAX, &bytes, &seconds, error);
        if (!status)
            out->kernels[out->kernel_count++] = (struct kernel_speed){types[i], (double)bytes / seconds};
        /* Some drivers copy slower than kernels read. */
        if (!status)
            out->memory_bytes_per_second = MAX(out->memory_bytes_per_second, (double)bytes / seconds);
    }
    if (!status)
        status = time_layers(test, out, error);
    if (!status) /* now the clock is as high as while a model runs */
        status = time_turn(test, &out->turn_seconds, error);
    if (!status)
        status = time_share(test, out->memory_bytes_per_second, &out->share_seconds, error);
    if (!status)
        status = time_matmul(test, TENSOR_Q4_K, test->prompt_tokens, PROMPT_ROWS, &bytes, &seconds, error);
    if (status)
        return status;
    uint64_t row_bytes = 1;
    tensor_row_bytes(TENSOR_Q4_K, COLUMNS, &row_bytes);
    out->multiply_adds_per_second = (double)(bytes / row_bytes) * COLUMNS * test->prompt_tokens / seconds;
    out->measured = true;
    return HYPURA_OK;
}

hypura_status hardware_measure_gpu(struct hardware_gpu *gpu, hypura_error *error)
{
    struct gpu_test test = {0};
    bool software = gpu->info.kind == GPU_CPU;
    char cache[4096];
    struct gpu_options options = {.index = gpu->index};
    if (hardware_gpu_cache_path(gpu, cache, sizeof cache))
        options.pipeline_cache = cache;
    uint64_t before = memory_resident_bytes();
    hypura_status status = gpu_open(&test.gpu, &options, error);
    if (status)
        return status;
    gpu->info.panels = gpu_get_info(test.gpu)->panels;
    gpu->host_bytes = memory_resident_bytes();
    gpu->host_bytes -= MIN(before, gpu->host_bytes);
    /* Much larger than the caches of any GPU. */
    test.bytes = align_down(MIN((software ? 16 : 512) * MIB, gpu_free_bytes(test.gpu) / 4), 2 * MIB);
    test.prompt_tokens = gpu->info.panels ? LONG_PROMPT_TOKENS : PROMPT_TOKENS;
    test.row_floats = MAX((uint64_t)test.prompt_tokens * PROMPT_ROWS, test.bytes / 1024);
    status = gpu_buffer_create(test.gpu, &test.weights, test.bytes, GPU_DEVICE, error);
    if (!status)
        status = gpu_buffer_create(test.gpu, &test.rows,
                                   ((uint64_t)test.prompt_tokens * COLUMNS + test.row_floats) * sizeof(float),
                                   GPU_DEVICE, error);
    if (!status)
        status = measure(&test, gpu, error);
    /* A driver takes more memory once it has compiled and run kernels. A software device's own memory would count too.
     */
    uint64_t at_work = memory_resident_bytes();
    if (!software && !gpu->info.unified)
        gpu->host_bytes = MAX(gpu->host_bytes, at_work - MIN(before, at_work));
    if (test.weights)
        gpu_buffer_destroy(test.gpu, test.weights);
    if (test.rows)
        gpu_buffer_destroy(test.gpu, test.rows);
    gpu_close(test.gpu);
    return status;
}
