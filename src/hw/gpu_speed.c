/* Measures how fast a GPU reads its memory, receives data from the host, and multiplies. */
#include "hw/gpu_layer.h"
#include "hw/hw_private.h"

#include <stdatomic.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)
#define COLUMNS 4096u
#define PROMPT_TOKENS 512u
#define LONG_PROMPT_TOKENS 2048u /* fewer do not keep a device with panels busy */
#define PROMPT_ROWS 4096u

/* A GPU that was idle runs at a low clock first. So a batch is repeated for this long, and the quarter of the fastest
 * runs tells the usual speed. A software device needs seconds for one run. */
#define BATCH_SECONDS 30e-3
#define LEAST_RUNS 5u
#define MOST_RUNS 1024u

/* Weights, much larger than the caches of any GPU. They are uploaded from memory that is larger than a processor's
 * caches, in pieces as small as an expert's slices. */
#define WEIGHT_BYTES (512 * MIB)
#define WEIGHT_BYTES_SOFTWARE (16 * MIB)
#define HOST_BYTES (256 * MIB)
#define PIECE_BYTES MIB

static const enum tensor_type kernel_types[] = {TENSOR_F16,  TENSOR_BF16, TENSOR_Q8_0,   TENSOR_Q4_0,  TENSOR_Q4_K,
                                                TENSOR_Q5_K, TENSOR_Q6_K, TENSOR_IQ4_XS, TENSOR_MXFP4, TENSOR_F32};
#define KERNELS COUNT_OF(kernel_types)

/* What is measured, in this order: seconds per byte, for kernels also; per layer; and per multiply-add. When turns are
 * measured, the clock is as high as while a model runs. */
enum { UPLOAD, COPY, KERNEL, DENSE = KERNEL + KERNELS, FLOATS, MIXTURE, TURN, MOVE, SHARE, PROMPT, FIGURES };

struct gpu_test {
    struct gpu *gpu;
    struct gpu_buffer *weights, *rows; /* rows has inputs and outputs */
    struct gpu_buffer *back;           /* what the host reads */
    struct gpu_layer layer;            /* empty: there is too little room for weights beyond the caches */
    uint64_t *signals;                 /* the last value that the host gave */
    void *host;
    uint64_t bytes, host_bytes;
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
    double times[MOST_RUNS];
    size_t count = 0;
    /* The first run compiles the kernels. */
    hypura_status status = time_once(test, record, what, &times[0], error);
    uint64_t start = clock_nanoseconds();
    while (!status && count < MOST_RUNS && (count < LEAST_RUNS || clock_seconds_since(start) < BATCH_SECONDS))
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
                                 uint64_t most_rows, double *seconds_per_weight, hypura_error *error)
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
    if (gpu_takes_halves(test->gpu, &job.weights, 0, tokens)) {
        job.in_halves = job.in;
        job.unpacked_bytes = gpu_unpacked_bytes(type, rows, COLUMNS, tokens, gpu_get_info(test->gpu)->panels);
    }
    hypura_status status =
        job.unpacked_bytes ? gpu_buffer_create(test->gpu, &unpacked, job.unpacked_bytes, GPU_DEVICE, error) : HYPURA_OK;
    double seconds = 0;
    job.unpacked.buffer = unpacked;
    if (!status)
        status = time_batch(test, record_matmul, &job, &seconds, error);
    gpu_buffer_destroy(test->gpu, unpacked);
    *seconds_per_weight = seconds / ((double)rows * COLUMNS);
    return status;
}

/* The first pass does not count: it may touch the staging ring's memory for the first time. */
static hypura_status time_upload(const struct gpu_test *test, double *seconds, hypura_error *error)
{
    struct gpu_piece pieces[WEIGHT_BYTES / PIECE_BYTES];
    const size_t count = (size_t)(test->bytes / PIECE_BYTES);
    gpu_ticket ticket = 0;
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; i < count; i++)
        pieces[i] = (struct gpu_piece){.to = {test->weights, i * PIECE_BYTES},
                                       .host = (const uint8_t *)test->host + i * PIECE_BYTES % test->host_bytes,
                                       .bytes = PIECE_BYTES};
    for (int pass = 0; pass < 2 && !status; pass++) {
        uint64_t start = clock_nanoseconds();
        status = gpu_upload_many(test->gpu, pieces, count, &ticket, error);
        if (!status)
            status = gpu_upload_wait(test->gpu, ticket, error);
        *seconds = clock_seconds_since(start) / (double)test->bytes;
    }
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

/* A batch that waits for the host, and copies a row from the host's memory and back, as at a change between devices. */
static hypura_status send_move(const struct gpu_test *test, uint64_t signal, gpu_ticket *ticket, hypura_error *error)
{
    const struct gpu_range row = {test->rows, 0}, back = {test->back, 0};
    const uint64_t bytes = COLUMNS * sizeof(float);
    gpu_begin(test->gpu);
    gpu_await_host(test->gpu, signal);
    gpu_copy(test->gpu, row, (struct gpu_range){test->back, bytes}, bytes);
    gpu_barrier(test->gpu);
    gpu_copy(test->gpu, back, row, bytes);
    return gpu_submit(test->gpu, ticket, 0, error);
}

/* Two batches take turns, of which one is always sent ahead. */
static hypura_status time_move(const struct gpu_test *test, double *seconds, hypura_error *error)
{
    double times[64];
    gpu_ticket tickets[2];
    hypura_status status = send_move(test, *test->signals + 1, &tickets[0], error);
    for (size_t i = 0; i < COUNT_OF(times) && !status; i++) {
        status = send_move(test, *test->signals + 2, &tickets[(i + 1) % 2], error);
        const uint64_t start = clock_nanoseconds();
        const hypura_status given = gpu_signal_host(test->gpu, ++*test->signals, status ? NULL : error);
        status = status ? status : given ? given : gpu_wait(test->gpu, tickets[i % 2], error);
        times[i] = clock_seconds_since(start);
    }
    const hypura_status given = gpu_signal_host(test->gpu, ++*test->signals, status ? NULL : error);
    if (status || given)
        return status ? status : given;
    hw_sort(times, COUNT_OF(times));
    *seconds = times[COUNT_OF(times) / 2];
    return gpu_wait(test->gpu, tickets[0], error);
}

/* Some drivers copy slower than kernels read. */
static double memory_speed(const struct hw_figure figures[FIGURES])
{
    double best = figures[COPY].best;
    for (size_t i = 0; i < KERNELS; i++)
        best = figures[KERNEL + i].rounds ? MIN(best, figures[KERNEL + i].best) : best;
    return 1 / best;
}

/* Simulates layers whose experts are split between GPU and CPU: the CPU waits for a batch, runs some parallel sections
 * that read weights, and sends the signal that the next batch waits for. That batch is a layer and what the CPU needs
 * of it; a second one is sent for the device's experts. Workers wait as they would there. Reading begins anew each
 * time, so it takes longer than the same bytes in one go. Without a layer to measure, a copy takes about as long as
 * one. */
#define SHARE_BATCH_SECONDS 100e-6
#define SHARE_SECTIONS 4 /* of a mixture of experts: gate and up, activation, quantising its output, down */
#define SHARE_BYTES (8 * MIB)
#define SHARE_PAGE 4096u

struct share_reading {
    const uint8_t *memory;
    atomic_uint_fast64_t sum; /* so that nothing is left out */
};

static void read_pages(void *context, size_t first, size_t count, size_t worker)
{
    struct share_reading *reading = context;
    const uint64_t *words = (const uint64_t *)(const void *)(reading->memory + first * SHARE_PAGE);
    (void)worker;
    atomic_fetch_add_explicit(&reading->sum, hw_sum(words, count * SHARE_PAGE / sizeof *words), memory_order_relaxed);
}

static void read_bytes(struct thread_pool *pool, const uint8_t *memory, uint64_t bytes)
{
    struct share_reading reading = {.memory = memory};
    thread_pool_run_shares(pool, read_pages, &reading, (size_t)(bytes / SHARE_PAGE));
}

static void do_nothing(void *context, size_t index, size_t worker)
{
    (void)context, (void)index, (void)worker;
}

static uint64_t share_bytes(const struct gpu_test *test)
{
    return MIN(SHARE_BYTES, test->host_bytes);
}

/* The first and the last section read half of the weights each, other ones than the last time. */
static void compute_share(const struct gpu_test *test, struct thread_pool *pool, uint64_t turn)
{
    const uint64_t bytes = share_bytes(test), first = turn * bytes % (test->host_bytes - bytes + SHARE_PAGE);
    const uint8_t *weights = (const uint8_t *)test->host + first;
    read_bytes(pool, weights, bytes / 2);
    for (int i = 0; i < SHARE_SECTIONS - 2; i++)
        thread_pool_run(pool, do_nothing, NULL, thread_pool_threads(pool));
    read_bytes(pool, weights + bytes / 2, bytes / 2);
}

/* A layer, and then the choices, their weights and a row, which go to the host. */
static void record_share(const struct gpu_test *test)
{
    static const uint64_t bytes[] = {64, 64, COLUMNS * sizeof(float)};
    uint64_t at = 0;
    gpu_layer_record(&test->layer, test->gpu, test->weights, test->bytes, TENSOR_Q4_K, true, 1);
    gpu_barrier(test->gpu);
    for (size_t i = 0; i < COUNT_OF(bytes); at += bytes[i++])
        gpu_copy(test->gpu, (struct gpu_range){test->back, at}, (struct gpu_range){test->rows, at}, bytes[i]);
}

/* Sends a batch that waits for the host, and another one after it. *last: the last one. */
static hypura_status send_share(const struct gpu_test *test, uint64_t bytes, uint64_t signal, gpu_ticket *ticket,
                                gpu_ticket *last, hypura_error *error)
{
    const struct gpu_range first = {test->weights, 0}, second = {test->weights, test->bytes / 2};
    gpu_begin(test->gpu);
    gpu_await_host(test->gpu, signal);
    if (!test->layer.all) {
        gpu_copy(test->gpu, first, second, bytes);
    } else {
        record_share(test);
    }
    hypura_status status = gpu_submit(test->gpu, ticket, 0, error);
    if (status)
        return status;
    *last = *ticket;
    if (!test->layer.all)
        return HYPURA_OK;
    gpu_begin(test->gpu);
    gpu_copy(test->gpu, first, second, GPU_ALIGNMENT);
    return gpu_submit(test->gpu, last, 0, error);
}

static hypura_status share_once(const struct gpu_test *test, struct thread_pool *pool, uint64_t bytes, uint64_t signal,
                                gpu_ticket *ticket, gpu_ticket *last, hypura_error *error)
{
    gpu_ticket before = *ticket;
    hypura_status status = send_share(test, bytes, signal, ticket, last, error);
    if (!status)
        status = gpu_wait(test->gpu, before, error);
    if (!status)
        compute_share(test, pool, signal);
    /* Also after an error: otherwise the batch would never end. */
    hypura_status given = gpu_signal_host(test->gpu, signal, status ? NULL : error);
    return status ? status : given;
}

/* What the estimate counts for the layer apart from share_seconds. */
static double batch_seconds(const struct gpu_test *test, const struct hw_figure figures[FIGURES], gpu_ticket copy)
{
    const double measured = test->layer.all ? figures[MIXTURE].best : gpu_batch_seconds(test->gpu, copy);
    return measured > 0 ? measured : SHARE_BATCH_SECONDS;
}

/* Measures share_seconds. The memory's speed is needed for the length of a batch. */
static hypura_status time_share(const struct gpu_test *test, const struct hw_figure figures[FIGURES], double *seconds,
                                hypura_error *error)
{
    double times[64];
    struct thread_pool *pool;
    gpu_ticket ticket = 0, last = 0;
    uint64_t bytes = MIN((uint64_t)(SHARE_BATCH_SECONDS * memory_speed(figures) / 2), test->bytes / 2);
    bytes = MAX(align_down(bytes, GPU_ALIGNMENT), (uint64_t)GPU_ALIGNMENT);
    size_t cores = MIN(thread_usable_cores(), hw_cgroup_cores(""));
    hypura_status status = thread_pool_create(&pool, MIN(cores, (size_t)256), error);
    if (status)
        return status;
    thread_pool_spin(pool, GPU_SHARE_SPIN_NANOSECONDS);
    uint64_t start = 0;
    for (int i = 0; i < 2; i++) { /* the first time, caches may hold less of it */
        start = clock_nanoseconds();
        read_bytes(pool, test->host, test->host_bytes);
    }
    const double reading = clock_seconds_since(start) * (double)share_bytes(test) / (double)test->host_bytes;
    /* The first two rounds fill the pipeline and do not count. */
    for (uint64_t i = 0; i < COUNT_OF(times) + 2 && !status; i++) {
        start = clock_nanoseconds();
        status = share_once(test, pool, bytes, ++*test->signals, &ticket, &last, error);
        if (i >= 2)
            times[i - 2] = clock_seconds_since(start) - batch_seconds(test, figures, ticket - 1) - reading;
    }
    hypura_status done = gpu_wait(test->gpu, last, status ? NULL : error);
    thread_pool_destroy(pool);
    if (status || done)
        return status ? status : done;
    hw_sort(times, COUNT_OF(times));
    *seconds = MAX(times[COUNT_OF(times) / 2], 1e-9);
    return HYPURA_OK;
}

#define LAYERS 8u /* per batch */

struct layers {
    enum tensor_type type;
    bool mixture;
};

static void record_layers(const struct gpu_test *test, const void *what)
{
    const struct layers *layers = what;
    gpu_layer_record(&test->layer, test->gpu, test->weights, test->bytes, layers->type, layers->mixture, LAYERS);
}

static hypura_status time_layers(const struct gpu_test *test, enum tensor_type type, bool mixture, double *seconds,
                                 hypura_error *error)
{
    const struct layers layers = {type, mixture};
    hypura_status status = time_batch(test, record_layers, &layers, seconds, error);
    *seconds /= LAYERS;
    return status;
}

static double bytes_per_weight(enum tensor_type type)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    return (double)info->block_bytes / (double)info->block_size;
}

static bool has_figure(const struct gpu_test *test, size_t figure)
{
    if (figure >= KERNEL && figure < KERNEL + KERNELS)
        return gpu_supports(test->gpu, kernel_types[figure - KERNEL]);
    return figure < DENSE || figure > MIXTURE || test->layer.all;
}

static hypura_status time_figure(const struct gpu_test *test, size_t figure, const struct hw_figure figures[FIGURES],
                                 double *seconds, hypura_error *error)
{
    hypura_status status;
    switch (figure) {
    case UPLOAD:
        return time_upload(test, seconds, error);
    case COPY:
        status = time_batch(test, record_copy, NULL, seconds, error);
        *seconds /= (double)test->bytes; /* half is read, half written */
        return status;
    case DENSE:
        return time_layers(test, TENSOR_Q4_K, false, seconds, error);
    case FLOATS:
        return time_layers(test, TENSOR_F16, false, seconds, error);
    case MIXTURE:
        return time_layers(test, TENSOR_Q4_K, true, seconds, error);
    case TURN:
        return time_turn(test, seconds, error);
    case MOVE:
        return time_move(test, seconds, error);
    case SHARE:
        return time_share(test, figures, seconds, error);
    case PROMPT:
        status = time_matmul(test, TENSOR_Q4_K, test->prompt_tokens, PROMPT_ROWS, seconds, error);
        *seconds /= test->prompt_tokens;
        return status;
    default:
        status = time_matmul(test, kernel_types[figure - KERNEL], 1, UINT32_MAX, seconds, error);
        *seconds /= bytes_per_weight(kernel_types[figure - KERNEL]);
        return status;
    }
}

/* The time of a layer, less that of reading its weights at the kernels' speed. */
static double rest_of(const struct hw_figure *layer, const struct hardware_gpu *speeds, enum tensor_type type,
                      bool mixture)
{
    const double router = mixture ? (double)gpu_layer_router_bytes() : 0;
    return MAX(layer->best - (double)gpu_layer_bytes(type, mixture) / hardware_gpu_kernel_speed(speeds, type) -
                   router / hardware_gpu_kernel_speed(speeds, TENSOR_F32),
               1e-9);
}

static void set_speeds(struct hardware_gpu *out, const struct hw_figure figures[FIGURES])
{
    out->upload_bytes_per_second = 1 / figures[UPLOAD].best;
    out->memory_bytes_per_second = memory_speed(figures);
    out->kernel_count = 0;
    for (size_t i = 0; i < KERNELS; i++)
        if (figures[KERNEL + i].rounds)
            out->kernels[out->kernel_count++] = (struct kernel_speed){kernel_types[i], 1 / figures[KERNEL + i].best};
    out->layer_seconds = out->float_layer_seconds = GPU_LAYER_SECONDS;
    out->router_seconds = GPU_ROUTER_SECONDS;
    if (figures[DENSE].rounds) {
        out->layer_seconds = rest_of(&figures[DENSE], out, TENSOR_Q4_K, false);
        out->float_layer_seconds = rest_of(&figures[FLOATS], out, TENSOR_F16, false);
        out->router_seconds = MAX(rest_of(&figures[MIXTURE], out, TENSOR_Q4_K, true) - out->layer_seconds, 1e-9);
    }
    out->turn_seconds = figures[TURN].best;
    out->move_seconds = figures[MOVE].best;
    out->share_seconds = figures[SHARE].best;
    out->multiply_adds_per_second = 1 / figures[PROMPT].best;
    out->measured = true;
}

/* A round has all figures that are not settled yet, so that some time passes between two rounds of one. */
static hypura_status measure(const struct gpu_test *test, struct hardware_gpu *out, uint32_t most_rounds,
                             hypura_error *error)
{
    struct hw_figure figures[FIGURES] = {0};
    for (uint32_t round = 0; round < most_rounds; round++)
        for (size_t i = 0; i < FIGURES; i++) {
            double seconds = 0;
            if (!has_figure(test, i) || hw_is_settled(&figures[i]))
                continue;
            hypura_status status = time_figure(test, i, figures, &seconds, error);
            if (status)
                return status;
            hw_note_round(&figures[i], seconds);
        }
    set_speeds(out, figures);
    return HYPURA_OK;
}

static hypura_status make_test(struct gpu_test *test, const struct hardware_gpu *gpu, hypura_error *error)
{
    struct hardware now = {0};
    const uint64_t most = gpu->info.kind == GPU_CPU ? WEIGHT_BYTES_SOFTWARE : WEIGHT_BYTES;
    hw_detect_memory(&now, "");
    test->bytes = align_down(MIN(most, gpu_free_bytes(test->gpu) / 4), 2 * MIB);
    test->host_bytes = MIN(MIN(test->bytes, HOST_BYTES), MAX(hw_memory_room(&now) / 8, PIECE_BYTES));
    test->host_bytes = align_down(test->host_bytes, PIECE_BYTES);
    test->prompt_tokens = gpu->info.panels ? LONG_PROMPT_TOKENS : PROMPT_TOKENS;
    test->row_floats = MAX((uint64_t)test->prompt_tokens * PROMPT_ROWS, test->bytes / 1024);
    TRY(gpu_buffer_create(test->gpu, &test->weights, test->bytes, GPU_DEVICE, error));
    TRY(gpu_buffer_create(test->gpu, &test->rows,
                          ((uint64_t)test->prompt_tokens * COLUMNS + test->row_floats) * sizeof(float), GPU_DEVICE,
                          error));
    TRY(gpu_buffer_create(test->gpu, &test->back, 2 * COLUMNS * sizeof(float), GPU_READBACK, error));
    TRY(memory_map(&test->host, test->host_bytes, true, "GPU test", error));
    memset(test->host, 0x2a, test->host_bytes); /* neither infinite nor denormal in any format */
    return test->bytes < 2 * gpu_layer_bytes(TENSOR_F16, false) ? HYPURA_OK
                                                                : gpu_layer_make(&test->layer, test->gpu, error);
}

static void free_test(struct gpu_test *test)
{
    gpu_layer_free(&test->layer, test->gpu);
    gpu_buffer_destroy(test->gpu, test->weights);
    gpu_buffer_destroy(test->gpu, test->rows);
    gpu_buffer_destroy(test->gpu, test->back);
}

hypura_status hardware_measure_gpu(struct hardware_gpu *gpu, hypura_error *error)
{
    uint64_t signals = 0;
    struct gpu_test test = {.signals = &signals};
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
    status = make_test(&test, gpu, error);
    if (!status)
        status = measure(&test, gpu, software ? 1 : HW_MOST_ROUNDS, error);
    if (test.host)
        memory_unmap(test.host, test.host_bytes);
    /* A driver takes more memory once it has compiled and run kernels. A software device's own memory would count too.
     */
    uint64_t at_work = memory_resident_bytes();
    if (!software && !gpu->info.unified)
        gpu->host_bytes = MAX(gpu->host_bytes, at_work - MIN(before, at_work));
    free_test(&test);
    gpu_close(test.gpu);
    return status;
}
