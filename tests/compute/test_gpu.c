/* The device layer: buffers, uploads, batches, tickets, the pipeline cache, errors, and the first kernels. */
#include "gpu_test.h"

#include "compute/vulkan/gpu_private.h"

#include <pthread.h>
#include <unistd.h>

/* The build tolerates a failing shader compiler, but this test does not. */
static void every_kernel_was_compiled(void **state)
{
    (void)state;
    const char *scalar = kernel_without_code(false), *matrices = kernel_without_code(true);
    if (scalar || (matrices && GPU_MATRICES != GPU_MATRICES_NONE))
        fail_msg("no code for %s", scalar ? scalar : matrices);
}

/* Opcodes of SPIR-V, and the storage class of addresses. */
enum { TYPE_POINTER = 32, LOAD = 61, U_CONVERT = 113, U_TO_POINTER = 120, ADD = 128, ADDRESSES = 5349 };

/* Each load adds a value of the invocation to its address. Devices that are a CPU need this. */
static void every_address_depends_on_its_invocation(void **state)
{
    (void)state;
    size_t loads = 0;
    for (int kernel = 0; kernel < KERNEL_COUNT; kernel++) {
        size_t bytes;
        const uint32_t *before = kernel_code((enum gpu_kernel)kernel, &bytes);
        if (bytes == sizeof *before)
            continue;
        uint32_t *code;
        assert_ok(loads_part(before, bytes, &code, &bytes, &test_error));
        uint32_t *types = calloc(code[3], sizeof *types); /* per id; UINT32_MAX for a type of addresses */
        const uint32_t **made = calloc(code[3], sizeof *made);
        assert_true(types && made);
        for (size_t at = 5; at < bytes / sizeof *code; at += code[at] >> 16) {
            const uint32_t *words = code + at, op = words[0] & 0xffff;
            assert_true(words[0] >> 16 > 0);
            if (op == TYPE_POINTER && words[2] == ADDRESSES)
                types[words[1]] = UINT32_MAX;
            if (op == TYPE_POINTER || words[0] >> 16 < 4 || words[1] >= code[3] || words[2] >= code[3])
                continue;
            if (types[words[1]] == UINT32_MAX || op == ADD || op == U_CONVERT) {
                types[words[2]] = words[1];
                made[words[2]] = words;
            }
            const uint32_t *address = op == LOAD ? made[words[3]] : NULL;
            if (!address || types[address[1]] != UINT32_MAX)
                continue;
            loads++;
            const uint32_t *sum = (address[0] & 0xffff) == U_TO_POINTER ? made[address[3]] : NULL;
            const uint32_t *zero = sum && (sum[0] & 0xffff) == ADD ? made[sum[4]] : NULL;
            if (!zero || (zero[0] & 0xffff) != U_CONVERT)
                fail_msg("kernel %d loads from an address that a whole subgroup may share", kernel);
        }
        free(types);
        free(made);
        free(code);
    }
    assert_true(loads > 1000);
}

static void lists_usable_devices(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    const struct gpu_info *info = gpu_get_info(gpu);
    assert_true(info->name[0] && info->memory_bytes > 0 && info->max_allocation > 0 && info->shared_bytes >= 16384);
    assert_true(info->subgroup_min >= 1 && info->subgroup_min <= info->subgroup_max);
    assert_string_equal(info->lacks, "");
    assert_true(gpu_free_bytes(gpu) > 0);
    struct gpu *other;
    assert_int_equal(gpu_open(&other, &(struct gpu_options){.index = 99}, &test_error), HYPURA_ERROR_ARGUMENT);
}

static void copies_there_and_back(struct gpu *gpu, size_t bytes)
{
    uint8_t *values = malloc(bytes);
    assert_non_null(values);
    struct random random;
    random_seed(&random, bytes);
    for (size_t i = 0; i < bytes; i++)
        values[i] = (uint8_t)(random_next(&random) >> 40);
    struct gpu_range first = gpu_test_range(gpu, values, bytes), second = gpu_test_range(gpu, NULL, bytes);
    gpu_begin(gpu);
    gpu_copy(gpu, second, first, bytes);
    gpu_test_run(gpu);
    uint8_t *back = gpu_test_take(gpu, second, bytes);
    assert_memory_equal(back, values, bytes);
    gpu_buffer_destroy(gpu, first.buffer);
    free(back);
    free(values);
}

static void uploads_and_downloads(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    copies_there_and_back(gpu, 4);
    copies_there_and_back(gpu, 1 << 20);
}

/* As on a discrete GPU. */
static struct gpu *open_separate(void)
{
    struct gpu *gpu;
    assert_ok(gpu_open(&gpu, &(struct gpu_options){.separate = true, .validate = gpu_test_layers}, &test_error));
    return gpu;
}

/* Copies more than the staging ring holds. */
static void stages_copies_if_memory_is_not_shared(void **state)
{
    (void)gpu_or_skip(state);
    struct gpu *gpu = open_separate();
    copies_there_and_back(gpu, 4);
    copies_there_and_back(gpu, ((size_t)50 << 20) + 4);
    assert_int_equal(gpu_validation_messages(gpu), 0);
    gpu_close(gpu);
}

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

#define PART ((uint64_t)8 << 20) /* of the staging ring */
#define SMALL_PIECES 300u        /* more than a part takes */
#define GAP 3u                   /* bytes between pieces that stay as they were */

static const uint64_t piece_sizes[] = {1, 3, 255, 256, 257, 0, PART - 1, PART, PART + 5, 4096, 3 * PART + 77, 900001};
#define PIECES (COUNT_OF(piece_sizes) + SMALL_PIECES)

static uint64_t size_of_piece(size_t i)
{
    return i < COUNT_OF(piece_sizes) ? piece_sizes[i] : 1 + i % 19;
}

/* Uploads pieces from anywhere in "host" to two buffers in turn, and checks these. */
static void *upload_pieces(void *context)
{
    struct gpu *gpu = context;
    struct gpu_range to[2];
    struct gpu_piece pieces[PIECES];
    uint64_t used[2] = {0}, from = 0;
    for (size_t i = 0; i < PIECES; i++)
        from += size_of_piece(i) + GAP;
    uint8_t *host = malloc(from), *expected[2] = {calloc(from, 1), calloc(from, 1)};
    struct random random;
    random_seed(&random, from);
    for (uint64_t i = 0; i < from; i++)
        host[i] = (uint8_t)(random_next(&random) >> 40);
    for (int b = 0; b < 2; b++)
        to[b] = gpu_test_range(gpu, expected[b], from);
    from = 0;
    for (size_t i = 0; i < PIECES; i++) {
        const uint64_t bytes = size_of_piece(i);
        const size_t b = i % 2;
        pieces[i] = (struct gpu_piece){{to[b].buffer, used[b]}, host + from, bytes};
        memcpy(expected[b] + used[b], host + from, bytes);
        used[b] += bytes + GAP;
        from += bytes + GAP;
    }
    gpu_ticket ticket = 0;
    hypura_status status = gpu_upload_many(gpu, pieces, PIECES, &ticket, NULL);
    if (!status)
        status = gpu_upload_wait(gpu, ticket, NULL);
    memset(host, 0, from);
    for (int b = 0; b < 2 && !status; b++) {
        pthread_mutex_lock(&one_at_a_time);
        gpu_test_download(gpu, to[b], host, from);
        pthread_mutex_unlock(&one_at_a_time);
        status = memcmp(host, expected[b], from) ? HYPURA_ERROR_DEVICE : HYPURA_OK;
        gpu_buffer_destroy(gpu, to[b].buffer);
        free(expected[b]);
    }
    free(host);
    return status ? NULL : gpu;
}

/* Sizes that share, fill and exceed parts of the ring; alone and next to another thread's; with and without threads
 * that copy. */
static void uploads_pieces_of_any_size(void **state)
{
    (void)gpu_or_skip(state);
    for (int threads = 0; threads < 2; threads++) {
        struct gpu *gpu = open_separate();
        pthread_t other;
        void *there;
        assert_ptr_equal(upload_pieces(gpu), gpu);
        if (threads && !gpu->copiers)
            assert_ok(thread_pool_create(&gpu->copiers, 3, &test_error));
        assert_int_equal(pthread_create(&other, NULL, upload_pieces, gpu), 0);
        void *here = upload_pieces(gpu);
        pthread_join(other, &there);
        assert_ptr_equal(here, gpu);
        assert_ptr_equal(there, gpu);
        assert_int_equal(gpu_validation_messages(gpu), 0);
        gpu_close(gpu);
    }
}

/* Pieces for memory that the host sees need no ring; a piece that does not fit keeps all from being copied. */
static void uploads_pieces_to_mapped_memory(void **state)
{
    (void)gpu_or_skip(state);
    struct gpu *gpu = open_separate();
    const uint8_t zeros[16] = {0}, bytes[16] = "sixteen letters";
    uint8_t back[16];
    struct gpu_range there = gpu_test_range(gpu, zeros, sizeof zeros), seen = {0};
    assert_ok(gpu_buffer_create(gpu, &seen.buffer, 16, GPU_UPLOAD, &test_error));
    memset(gpu_buffer_mapped(seen.buffer), 0, 16);
    struct gpu_piece pieces[] = {{seen, bytes, 5}, {there, bytes + 5, 4}, {{there.buffer, 4}, bytes + 9, 13}};
    gpu_ticket ticket;
    assert_int_equal(gpu_upload_many(gpu, pieces, 3, &ticket, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_memory_equal(gpu_buffer_mapped(seen.buffer), zeros, 16);
    assert_ok(gpu_upload_many(gpu, pieces, 1, &ticket, &test_error));
    assert_int_equal(ticket, 0);
    pieces[2].bytes = 7;
    assert_ok(gpu_upload_many(gpu, pieces, 3, &ticket, &test_error));
    assert_ok(gpu_upload_wait(gpu, ticket, &test_error));
    gpu_test_download(gpu, there, back, 16);
    assert_memory_equal(gpu_buffer_mapped(seen.buffer), bytes, 5);
    assert_memory_equal(back, bytes + 5, 11);
    gpu_buffer_destroy(gpu, there.buffer);
    gpu_buffer_destroy(gpu, seen.buffer);
    gpu_close(gpu);
}

/* The host writes to device memory itself, next to what it copies there through the staging ring. */
static void writes_to_visible_memory(void **state)
{
    (void)gpu_or_skip(state);
    struct gpu *gpu = open_separate();
    const uint8_t zeros[16] = {0}, bytes[16] = "sixteen letters";
    uint8_t back[16];
    struct gpu_range visible = {0}, there = gpu_test_range(gpu, zeros, sizeof zeros);
    gpu_ticket ticket;
    if (!gpu_get_info(gpu)->visible) {
        gpu_buffer_destroy(gpu, there.buffer);
        gpu_close(gpu);
        skip();
    }
    assert_ok(gpu_buffer_create(gpu, &visible.buffer, 16, GPU_VISIBLE, &test_error));
    memcpy(gpu_buffer_mapped(visible.buffer), bytes, 8);
    assert_ok(gpu_upload(gpu, (struct gpu_range){visible.buffer, 8}, bytes + 8, 8, &ticket, &test_error));
    assert_true(ticket > 0);
    assert_ok(gpu_upload_wait(gpu, ticket, &test_error));
    gpu_begin(gpu);
    gpu_copy(gpu, there, visible, 16);
    gpu_test_run(gpu);
    gpu_test_download(gpu, there, back, 16);
    assert_memory_equal(back, bytes, 16);
    memset(back, 0, 16);
    assert_ok(gpu_download(gpu, back, visible, 16, &test_error));
    assert_memory_equal(back, bytes, 16);
    assert_int_equal(gpu_validation_messages(gpu), 0);
    gpu_buffer_destroy(gpu, there.buffer);
    gpu_buffer_destroy(gpu, visible.buffer);
    gpu_close(gpu);
}

/* What was sent before a copy is refused arrives, and the device goes on. */
static void an_upload_is_refused_in_between(void **state)
{
    (void)gpu_or_skip(state);
    setenv("HYPURA_GPU_FAULT", "copy:4", 1);
    struct gpu *gpu = open_separate();
    unsetenv("HYPURA_GPU_FAULT");
    const uint64_t bytes = 5 * PART;
    uint8_t *host = malloc(bytes), *back = malloc(bytes);
    memset(host, 0x5a, bytes);
    memset(back, 0, bytes);
    struct gpu_range there = gpu_test_range(gpu, back, PART); /* the first copy */
    gpu_buffer_destroy(gpu, there.buffer);
    there = gpu_test_range(gpu, NULL, bytes);
    struct gpu_piece pieces[10];
    for (size_t i = 0; i < COUNT_OF(pieces); i++)
        pieces[i] = (struct gpu_piece){{there.buffer, i * PART / 2}, host + i * PART / 2, PART / 2};
    gpu_ticket ticket = 0;
    assert_int_equal(gpu_upload_many(gpu, pieces, COUNT_OF(pieces), &ticket, &test_error), HYPURA_ERROR_MEMORY);
    assert_false(gpu_is_lost(gpu));
    assert_ok(gpu_upload_wait(gpu, ticket, &test_error));
    gpu_test_download(gpu, there, back, 2 * PART); /* parts two and three of the copies */
    assert_memory_equal(back, host, 2 * PART);
    gpu_buffer_destroy(gpu, there.buffer);
    assert_int_equal(gpu_validation_messages(gpu), 0);
    gpu_close(gpu);
    free(host);
    free(back);
}

static void refuses_buffers_that_do_not_fit(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct gpu_buffer *buffer = NULL;
    assert_int_equal(gpu_buffer_create(gpu, &buffer, (uint64_t)1 << 60, GPU_DEVICE, &test_error), HYPURA_ERROR_MEMORY);
    assert_int_equal(gpu_buffer_create(gpu, &buffer, 0, GPU_DEVICE, &test_error), HYPURA_ERROR_MEMORY);
    assert_null(buffer);
    struct gpu_range range = gpu_test_range(gpu, NULL, 64);
    gpu_ticket ticket;
    uint8_t bytes[128] = {0};
    assert_int_equal(gpu_upload(gpu, range, bytes, 128, &ticket, &test_error), HYPURA_ERROR_ARGUMENT);
    gpu_begin(gpu);
    gpu_rms_norm(gpu, range, range, (struct gpu_range){0}, (struct gpu_range){0}, 0, 64, 1e-5f);
    gpu_test_run(gpu);
    assert_int_equal(gpu_submit(gpu, &ticket, 0, &test_error), HYPURA_ERROR_ARGUMENT);
    gpu_rms_norm(gpu, range, range, (struct gpu_range){0}, (struct gpu_range){0}, 1, 64, 1e-5f);
    assert_int_equal(gpu_submit(gpu, &ticket, 0, &test_error), HYPURA_ERROR_ARGUMENT);
    gpu_buffer_destroy(gpu, range.buffer);
}

struct signaller {
    struct gpu *gpu;
    float *written;
};

static void *signal_later(void *context)
{
    struct signaller *signaller = context;
    usleep(20000);
    signaller->written[0] = 3;
    signaller->written[1] = 4;
    return gpu_signal_host(signaller->gpu, 1, NULL) == HYPURA_OK ? context : NULL;
}

/* Devices wait for the host by a semaphore or at an event, with or without a kernel that watches a word before it. */
static const struct way {
    const char *events, *watches;
} waits[] = {{"0", "0"}, {"1", "0"}, {"1", "1"}};

static struct gpu *open_waiting(struct way way, bool separate)
{
    struct gpu *gpu;
    setenv("HYPURA_GPU_EVENTS", way.events, 1);
    setenv("HYPURA_GPU_AWAKE", way.watches, 1);
    hypura_status status =
        gpu_open(&gpu, &(struct gpu_options){.separate = separate, .validate = gpu_test_layers}, &test_error);
    unsetenv("HYPURA_GPU_EVENTS");
    unsetenv("HYPURA_GPU_AWAKE");
    assert_ok(status);
    return gpu;
}

static void close_checked(struct gpu *gpu)
{
    assert_int_equal(gpu_validation_messages(gpu), 0);
    gpu_close(gpu);
}

static void wait_for_signaller(struct gpu *gpu)
{
    struct gpu_range in = {0}, out = {0};
    assert_ok(gpu_buffer_create(gpu, &in.buffer, 8, GPU_UPLOAD, &test_error));
    assert_ok(gpu_buffer_create(gpu, &out.buffer, 8, GPU_READBACK, &test_error));
    float *result = gpu_buffer_mapped(out.buffer);
    gpu_ticket first, second;
    gpu_begin(gpu);
    gpu_await_host(gpu, 1);
    gpu_rms_norm(gpu, out, in, (struct gpu_range){0}, (struct gpu_range){0}, 1, 2, 0);
    assert_ok(gpu_submit(gpu, &first, 0, &test_error));
    gpu_begin(gpu);
    gpu_rms_norm(gpu, out, out, (struct gpu_range){0}, (struct gpu_range){0}, 2, 1, 0);
    assert_ok(gpu_submit(gpu, &second, 0, &test_error));
    assert_true(second > first);
    assert_false(gpu_done(gpu, first));
    struct signaller signaller = {gpu, gpu_buffer_mapped(in.buffer)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, signal_later, &signaller), 0);
    assert_ok(gpu_wait(gpu, second, &test_error));
    assert_true(gpu_done(gpu, first));
    assert_true(fabsf(result[0] - 1) < 1e-5f && fabsf(result[1] - 1) < 1e-5f);
    assert_true(gpu_batch_seconds(gpu, second) >= 0);
    void *ok;
    pthread_join(thread, &ok);
    assert_ptr_equal(ok, &signaller);
    gpu_buffer_destroy(gpu, in.buffer);
    gpu_buffer_destroy(gpu, out.buffer);
}

/* A batch submitted before the host writes its input waits for the host. Later batches see its results. */
static void batches_wait_for_the_host(void **state)
{
    (void)gpu_or_skip(state);
    for (size_t i = 0; i < COUNT_OF(waits); i++) {
        struct gpu *gpu = open_waiting(waits[i], false);
        wait_for_signaller(gpu);
        close_checked(gpu);
    }
}

/* A value that was given before is not awaited, and gpu_release gives all that are. */
static void batches_that_wait_can_be_released(void **state)
{
    (void)gpu_or_skip(state);
    for (size_t i = 0; i < COUNT_OF(waits); i++) {
        struct gpu *gpu = open_waiting(waits[i], false);
        gpu_ticket tickets[3];
        assert_ok(gpu_signal_host(gpu, 1, &test_error));
        for (uint64_t value = 1; value <= 3; value++) {
            gpu_begin(gpu);
            gpu_await_host(gpu, value);
            assert_ok(gpu_submit(gpu, &tickets[value - 1], 0, &test_error));
        }
        assert_ok(gpu_wait(gpu, tickets[0], &test_error));
        assert_false(gpu_done(gpu, tickets[1]));
        gpu_release(gpu);
        assert_ok(gpu_wait(gpu, tickets[2], &test_error));
        close_checked(gpu);
    }
}

/* A device that is kept awake takes the next batch at once, and can be closed. */
static void stays_awake_until_there_is_work(void **state)
{
    (void)gpu_or_skip(state);
    struct gpu *gpu;
    setenv("HYPURA_GPU_AWAKE", "1", 1);
    hypura_status status = gpu_open(&gpu, &(struct gpu_options){.validate = gpu_test_layers}, &test_error);
    unsetenv("HYPURA_GPU_AWAKE");
    assert_ok(status);
    if (!gpu_get_info(gpu)->watches) { /* a busy machine writes too late */
        gpu_close(gpu);
        skip();
    }
    struct gpu_range out = {0};
    assert_ok(gpu_buffer_create(gpu, &out.buffer, 8, GPU_READBACK, &test_error));
    float *values = gpu_buffer_mapped(out.buffer);
    for (int i = 0; i < 40; i++) {
        gpu_ticket ticket;
        values[0] = values[1] = (float)(1 + i);
        gpu_stay_awake(gpu);
        gpu_stay_awake(gpu); /* it is awake already */
        gpu_begin(gpu);
        gpu_rms_norm(gpu, out, out, (struct gpu_range){0}, (struct gpu_range){0}, 1, 2, 0);
        assert_ok(gpu_submit(gpu, &ticket, 0, &test_error));
        assert_ok(gpu_wait(gpu, ticket, &test_error));
        assert_true(fabsf(values[0] - 1) < 1e-5f && fabsf(values[1] - 1) < 1e-5f);
    }
    gpu_buffer_destroy(gpu, out.buffer);
    gpu_stay_awake(gpu);
    close_checked(gpu);
}

static void *upload_one(void *context)
{
    struct gpu *gpu = context;
    float value = 5;
    struct gpu_range range = gpu_test_range(gpu, NULL, sizeof value);
    gpu_ticket ticket = 0;
    hypura_status status = gpu_upload(gpu, range, &value, sizeof value, &ticket, NULL);
    if (!status)
        status = gpu_upload_wait(gpu, ticket, NULL);
    gpu_buffer_destroy(gpu, range.buffer);
    return status ? NULL : context;
}

static void wait_longer_than_patience(struct gpu *gpu)
{
    gpu->patience_seconds = 1;
    struct gpu_range range = gpu_test_range(gpu, NULL, 8);
    gpu_ticket ticket;
    gpu_begin(gpu);
    gpu_await_host(gpu, 1);
    gpu_rms_norm(gpu, range, range, (struct gpu_range){0}, (struct gpu_range){0}, 1, 2, 0);
    assert_ok(gpu_submit(gpu, &ticket, 0, &test_error));
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, upload_one, gpu), 0);
    usleep(1300000);
    assert_false(gpu_done(gpu, ticket));
    assert_ok(gpu_signal_host(gpu, 1, &test_error));
    void *ok;
    pthread_join(thread, &ok);
    assert_ptr_equal(ok, gpu);
    assert_ok(gpu_wait(gpu, ticket, &test_error));
    gpu_buffer_destroy(gpu, range.buffer);
}

/* With a single queue, an upload waits behind a batch that waits for the CPU's share, however long that takes. */
static void waiting_for_the_host_is_not_a_hang(void **state)
{
    (void)gpu_or_skip(state);
    for (size_t i = 0; i < COUNT_OF(waits); i++) {
        struct gpu *gpu = open_waiting(waits[i], true);
        wait_longer_than_patience(gpu);
        close_checked(gpu);
    }
}

/* If an earlier batch does not end either, the device hangs. */
static void a_hang_before_a_wait_for_the_host_is_detected(void **state)
{
    (void)gpu_or_skip(state);
    struct gpu *gpu;
    hypura_status status = HYPURA_ERROR_DEVICE;
    for (int first = 1; status && first < 10; first++) { /* opening submits some batches, which must end */
        char fault[16];
        snprintf(fault, sizeof fault, "hang:%d", first);
        setenv("HYPURA_GPU_FAULT", fault, 1);
        status = gpu_open(&gpu, &(struct gpu_options){.validate = gpu_test_layers}, &test_error);
    }
    unsetenv("HYPURA_GPU_FAULT");
    assert_ok(status);
    gpu_ticket tickets[2];
    for (uint64_t i = 0; i < 2; i++) {
        gpu_begin(gpu);
        gpu_await_host(gpu, i); /* only the second waits for the host */
        assert_ok(gpu_submit(gpu, &tickets[i], 0, &test_error));
    }
    assert_int_equal(gpu_wait(gpu, tickets[0], &test_error), HYPURA_ERROR_DEVICE);
    assert_non_null(strstr(test_error.message, "hangs"));
    gpu_close(gpu);
}

static PFN_vkCmdPipelineBarrier record_barrier;
static uint32_t barriers;

static void VKAPI_PTR count_barrier(VkCommandBuffer commands, VkPipelineStageFlags from, VkPipelineStageFlags to,
                                    VkDependencyFlags flags, uint32_t count, const VkMemoryBarrier *memory,
                                    uint32_t buffer_count, const VkBufferMemoryBarrier *buffers, uint32_t image_count,
                                    const VkImageMemoryBarrier *images)
{
    barriers++;
    record_barrier(commands, from, to, flags, count, memory, buffer_count, buffers, image_count, images);
}

static void chained(struct gpu *gpu)
{
    const uint32_t steps = 0;
    const uint8_t push[44] = {0};
    gpu_chain(gpu);
    gpu_launch_chained(gpu, KERNEL_norm, &steps, 1, push, sizeof push, 1, 1, 1);
}

/* Only chained kernels omit a barrier. A kernel outside a chain has a barrier after all that it waits for, even if a
 * chained kernel before it waits for the same. */
static void kernels_outside_chains_get_barriers(void **state)
{
    (void)gpu_or_skip(state);
    struct gpu *gpu;
    setenv("HYPURA_GPU_CHAINS", "1", 1);
    assert_ok(gpu_open(&gpu, &(struct gpu_options){.validate = gpu_test_layers}, &test_error));
    unsetenv("HYPURA_GPU_CHAINS");
    struct gpu_range range = gpu_test_range(gpu, NULL, 8);
    gpu_begin(gpu);
    record_barrier = gpu->vk.vkCmdPipelineBarrier;
    gpu->vk.vkCmdPipelineBarrier = count_barrier;
    barriers = 0;
    for (uint32_t i = 0; i < 3; i++) {
        chained(gpu);
        gpu_barrier(gpu);
    }
    chained(gpu);
    assert_int_equal(barriers, 0);
    gpu_rms_norm(gpu, range, range, (struct gpu_range){0}, (struct gpu_range){0}, 1, 2, 0);
    assert_int_equal(barriers, 1);
    gpu_copy(gpu, range, (struct gpu_range){range.buffer, 4}, 3);
    assert_int_equal(barriers, 1); /* nothing new to wait for */
    gpu_barrier(gpu);
    chained(gpu);
    assert_int_equal(barriers, 2);
    gpu_barrier(gpu);
    chained(gpu);
    assert_int_equal(barriers, 2);
    gpu_copy(gpu, range, (struct gpu_range){range.buffer, 4}, 3);
    assert_int_equal(barriers, 3);
    gpu_drop(gpu);
    gpu_buffer_destroy(gpu, range.buffer);
    assert_int_equal(gpu_validation_messages(gpu), 0);
    gpu_close(gpu);
}

/* More batches than the GPU object keeps, each using the result of the one before. */
static void many_batches_run_in_order(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    float values[64];
    for (size_t i = 0; i < 64; i++)
        values[i] = (float)i;
    struct gpu_range range = gpu_test_range(gpu, values, sizeof values);
    float two[64];
    for (size_t i = 0; i < 64; i++)
        two[i] = 2;
    struct gpu_range weight = gpu_test_range(gpu, two, sizeof two);
    gpu_ticket ticket = 0;
    for (int i = 0; i < 100; i++) {
        gpu_begin(gpu);
        gpu_rms_norm(gpu, range, range, weight, (struct gpu_range){0}, 1, 64, 0);
        gpu_barrier(gpu);
        gpu_rms_norm(gpu, range, range, weight, (struct gpu_range){0}, 1, 64, 0);
        assert_ok(gpu_submit(gpu, &ticket, 0, &test_error));
    }
    float *out = gpu_test_take(gpu, range, sizeof values);
    double squares = 0;
    for (size_t i = 0; i < 64; i++)
        squares += (double)out[i] * (double)out[i] / 64;
    assert_true(fabs(squares - 4) < 1e-3);
    assert_true(fabsf(out[63] / out[21] - 3) < 1e-4f);
    gpu_buffer_destroy(gpu, weight.buffer);
    free(out);
}

static void reads_imported_memory_in_place(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    const struct gpu_info *info = gpu_get_info(gpu);
    if (!info->host_import)
        skip();
    size_t bytes = align_up(8192, info->import_alignment);
    void *host;
    assert_ok(memory_map(&host, bytes, false, "test memory", &test_error));
    struct gpu_range in = {0}, out = gpu_test_range(gpu, NULL, 16);
    hypura_status status = gpu_buffer_import(gpu, &in.buffer, host, bytes, &test_error);
    assert_int_equal(gpu_buffer_import(gpu, &in.buffer, (uint8_t *)host + 1, bytes, &test_error),
                     HYPURA_ERROR_ARGUMENT);
    if (status == HYPURA_OK) { /* a driver may reject this kind of memory */
        float *values = host;
        for (size_t i = 0; i < 4; i++)
            values[i] = 2;
        gpu_begin(gpu);
        gpu_rms_norm(gpu, out, in, (struct gpu_range){0}, (struct gpu_range){0}, 1, 4, 0);
        gpu_test_run(gpu);
        gpu_buffer_destroy(gpu, in.buffer);
        float *result = gpu_test_take(gpu, out, 16);
        for (size_t i = 0; i < 4; i++)
            assert_true(fabsf(result[i] - 1) < 1e-5f);
        free(result);
    }
    memory_unmap(host, bytes);
}

static void norms_rows(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct compute *compute;
    assert_ok(compute_create(&compute, 1, INSTRUCTIONS_PLAIN, &test_error));
    struct random random;
    random_seed(&random, 11);
    const struct {
        uint32_t rows, columns;
    } shapes[] = {{1, 4096}, {5, 24}, {3, 1000}, {2, 1}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        uint32_t rows = shapes[i].rows, columns = shapes[i].columns;
        size_t bytes = (size_t)rows * columns * sizeof(float);
        float *in = gpu_test_floats(&random, (size_t)rows * columns), *weight = gpu_test_floats(&random, columns);
        float *expected = malloc(bytes);
        assert_non_null(expected);
        for (int with_weight = 0; with_weight < 2; with_weight++) {
            compute_rms_norm(compute, expected, in, with_weight ? weight : NULL, rows, columns, 1e-5f);
            struct gpu_range values = gpu_test_range(gpu, in, bytes);
            struct gpu_range weights = gpu_test_range(gpu, weight, columns * sizeof(float));
            gpu_begin(gpu);
            gpu_rms_norm(gpu, values, values, with_weight ? weights : (struct gpu_range){0}, (struct gpu_range){0},
                         rows, columns, 1e-5f);
            gpu_test_run(gpu);
            float *out = gpu_test_take(gpu, values, bytes);
            assert_true(gpu_test_error(out, expected, (size_t)rows * columns) < 1e-6);
            gpu_buffer_destroy(gpu, weights.buffer);
            free(out);
        }
        free(in);
        free(weight);
        free(expected);
    }
    compute_destroy(compute);
}

static void keeps_compiled_kernels(void **state)
{
    (void)gpu_or_skip(state);
    char path[] = "/tmp/hypura-gpu-cache-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(write(file, "not a cache of any driver's, which must not be handed to one", 60), 60);
    close(file);
    for (int round = 0; round < 2; round++) {
        struct gpu *gpu;
        assert_ok(
            gpu_open(&gpu, &(struct gpu_options){.pipeline_cache = path, .validate = gpu_test_layers}, &test_error));
        float values[] = {1, 2, 3, 4};
        struct gpu_range range = gpu_test_range(gpu, values, sizeof values);
        gpu_begin(gpu);
        gpu_rms_norm(gpu, range, range, (struct gpu_range){0}, (struct gpu_range){0}, 1, 4, 0);
        gpu_test_run(gpu);
        gpu_buffer_destroy(gpu, range.buffer);
        assert_int_equal(gpu_validation_messages(gpu), 0);
        gpu_close(gpu);
        uint32_t size = 0;
        FILE *cache = fopen(path, "rb");
        assert_non_null(cache);
        assert_int_equal(fread(&size, 4, 1, cache), 1);
        fclose(cache);
        assert_int_equal(size, 32); /* the size of Vulkan's header */
    }
    unlink(path);
}

/* A batch's tables stay in place, even if more tables come than the first buffer holds. */
static void many_tables_find_room(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    enum { TABLES = 60, WORDS = 256 };
    uint32_t table[WORDS], *large = calloc(2, (size_t)1 << 20);
    uint64_t addresses[TABLES];
    assert_non_null(large);
    gpu_begin(gpu);
    for (uint32_t i = 0; i < TABLES; i++) {
        for (uint32_t w = 0; w < WORDS; w++)
            table[w] = i * WORDS + w;
        addresses[i] = gpu_table(gpu, table, sizeof table);
    }
    const struct gpu_batch *batch = gpu->open;
    uint64_t few = gpu_table(gpu, table, 16);
    assert_int_equal(gpu_table(gpu, table, 16), few);
    for (uint32_t i = 0; i < TABLES; i++) {
        const uint32_t *found = NULL;
        for (size_t t = 0; t < COUNT_OF(batch->tables); t++) {
            const struct gpu_buffer *buffer = batch->tables[t];
            assert_non_null(buffer);
            if (addresses[i] >= buffer->address && addresses[i] < buffer->address + buffer->bytes)
                found = (const uint32_t *)(const void *)((const uint8_t *)buffer->mapped +
                                                         (addresses[i] - buffer->address));
        }
        assert_non_null(found);
        assert_int_equal(found[0], i * WORDS);
        assert_int_equal(found[WORDS - 1], i * WORDS + WORDS - 1);
    }
    assert_int_equal(gpu_table(gpu, large, (size_t)1 << 20), 0);
    assert_int_equal(gpu_submit(gpu, NULL, 0, &test_error), HYPURA_ERROR_ARGUMENT);
    free(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_was_compiled),
        cmocka_unit_test(every_address_depends_on_its_invocation),
        cmocka_unit_test(lists_usable_devices),
        cmocka_unit_test(uploads_and_downloads),
        cmocka_unit_test(stages_copies_if_memory_is_not_shared),
        cmocka_unit_test(uploads_pieces_of_any_size),
        cmocka_unit_test(uploads_pieces_to_mapped_memory),
        cmocka_unit_test(writes_to_visible_memory),
        cmocka_unit_test(an_upload_is_refused_in_between),
        cmocka_unit_test(refuses_buffers_that_do_not_fit),
        cmocka_unit_test(batches_wait_for_the_host),
        cmocka_unit_test(batches_that_wait_can_be_released),
        cmocka_unit_test(stays_awake_until_there_is_work),
        cmocka_unit_test(waiting_for_the_host_is_not_a_hang),
        cmocka_unit_test(a_hang_before_a_wait_for_the_host_is_detected),
        cmocka_unit_test(kernels_outside_chains_get_barriers),
        cmocka_unit_test(many_batches_run_in_order),
        cmocka_unit_test(reads_imported_memory_in_place),
        cmocka_unit_test(many_tables_find_room),
        cmocka_unit_test(norms_rows),
        cmocka_unit_test(keeps_compiled_kernels),
    };
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
