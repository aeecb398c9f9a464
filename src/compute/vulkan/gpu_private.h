/* Shared by the files of this folder. */
#ifndef HYPURA_GPU_PRIVATE_H
#define HYPURA_GPU_PRIVATE_H

#include "compute/vulkan/gpu.h"
#include "compute/vulkan/kernels.h" /* made by meson: GPU_KERNELS, the names of all kernels */
#include "compute/vulkan/vk.h"

#include <pthread.h>
#include <stdatomic.h>

enum gpu_kernel {
#define KERNEL(name) KERNEL_##name,
    GPU_KERNELS(KERNEL)
#undef KERNEL
        KERNEL_COUNT
};

/* Limits that every device meets. */
#define GPU_PUSH_BYTES 128u
#define GPU_MAX_GROUPS 65535u
#define GPU_MAX_CONSTANTS 21

/* Bytes in the buffer of counters. Of chains: the work groups that have ended. Of tiles of attention with few queries:
 * those that left their states; 0 between two launches, since the last one sets it back. */
#define GPU_PROGRESS_AT 0u
#define GPU_TILES_AT GPU_ALIGNMENT
#define GPU_TILE_COUNTERS 4096u

/* The most batches in flight. */
#define GPU_BATCHES 32

struct pipeline;

struct gpu_batch {
    VkCommandPool pool;
    VkCommandBuffer commands;
    VkQueryPool queries; /* none if the queue has no timestamps */
    gpu_ticket ticket;
    _Atomic uint64_t sent;        /* nanoseconds: when it could begin */
    VkEvent event;                /* for gpu_await_host; created on first use */
    uint64_t awaited;             /* the value that the batch waits for, if it was not given yet */
    gpu_ticket waiting;           /* the same batch's ticket once it was sent */
    bool idle;                    /* it only keeps the device awake (watch.c) */
    struct gpu_buffer *tables[2]; /* of gpu_table, small and large; created on first use */
    uint32_t tables_at;           /* the one being filled */
    uint64_t tables_used;
    uint64_t last_table, last_table_bytes; /* address and size of the last table */
    uint8_t last_copy[256];                /* its contents, if they fit: mapped memory may be slow to read */
};

/* Parts of the staging ring. */
#define STAGING_PARTS 4
#define STAGING_BYTES ((uint64_t)8 << 20)

struct staging {
    VkCommandPool pool;
    VkCommandBuffer commands;
    gpu_ticket ticket; /* of the copy that last used it */
};

struct gpu {
    struct vk vk;
    struct gpu_info info;
    VkPhysicalDevice physical;
    VkDevice device;
    VkPhysicalDeviceMemoryProperties memory;
    bool memory_budget;
    double timestamp_seconds; /* per tick; 0: no timestamps */
    uint64_t timestamp_mask;

    uint32_t families[2]; /* of the compute and the transfer queue */
    VkQueue compute_queue, transfer_queue;
    pthread_mutex_t queue_lock;

    _Atomic uint64_t messages;
    atomic_bool lost; /* no more calls go to the device */
    atomic_bool hung; /* lost because nothing ended for patience_seconds: it still uses what it was given */
    uint32_t patience_seconds;
    pthread_mutex_t host_lock;
    uint64_t host_given;   /* the last value of gpu_signal_host */
    atomic_bool drained;   /* timelines_drain ran after the loss */
    struct gpu *abandoned; /* next in the list of abandoned devices */

    VkPipelineLayout layout;
    VkPipelineCache cache;
    char *cache_path;
    struct pipeline *pipelines[KERNEL_COUNT];
    bool new_pipelines;

    struct gpu_buffer *codebooks;
    VkCuModuleNVX panels_module; /* none: info.panels is false */
    VkCuFunctionNVX panels_function;

    VkSemaphore compute_timeline, host_timeline, upload_timeline;
    gpu_ticket submitted; /* the last batch */
    gpu_ticket counted;   /* the last batch whose time is in busy_nanoseconds */
    uint64_t counted_end; /* when it ended, in ticks */
    _Atomic uint64_t busy_nanoseconds;
    double alone_seconds; /* time of batches that ran alone and were waited for */
    struct gpu_batch batches[GPU_BATCHES];
    struct gpu_batch *open;
    hypura_error recording;  /* the first error since gpu_begin */
    struct gpu_times *times; /* NULL: not requested */

    struct {
        struct gpu_buffer *words; /* 1: what watches it is to end; NULL: none is used */
        atomic_bool awake;        /* gpu_stay_awake was not told to end */
    } watch;

    struct gpu_buffer *counters; /* words that work groups count in: GPU_PROGRESS_AT, GPU_TILES_AT */
    uint32_t chained;            /* work groups of all chained kernels so far */
    uint32_t chained_before;     /* of these, up to the last gpu_barrier */
    uint32_t chained_barred;     /* up to the last true barrier */
    uint32_t chained_sent;       /* up to the last batch that was sent */
    uint32_t routed;             /* up to the last choice of experts */
    bool barrier_due;            /* no kernel has followed the last gpu_barrier */
    bool unchained;              /* a kernel since the last true barrier is in no chain */

    pthread_mutex_t upload_lock;
    struct gpu_buffer *staging_memory;
    struct thread_pool *copiers; /* NULL: too few cores */
    struct staging staging[STAGING_PARTS];
    size_t staging_next;
    struct gpu_buffer *download_memory; /* of the thread that downloads */
    struct staging download;
    gpu_ticket uploaded; /* the last copy sent */
};

struct gpu_buffer {
    VkBuffer buffer;
    VkDeviceMemory memory;
    VkDeviceAddress address;
    uint64_t bytes;
    void *mapped;
    bool far; /* the host should copy through the staging buffer all the same */
};

/* Where the host copies to or from directly; NULL: nowhere. */
static inline uint8_t *buffer_near(const struct gpu_buffer *buffer)
{
    return buffer->far ? NULL : buffer->mapped;
}

/* Runs a kernel on x * y * z work groups with push constants of bytes, and constants 0, 1, ... specialised. */
void gpu_launch(struct gpu *gpu, enum gpu_kernel kernel, const uint32_t *constants, size_t constant_count,
                const void *push, size_t bytes, uint32_t x, uint32_t y, uint32_t z);

/* Kernels in a chain. At a barrier, a large device runs empty and fills again, which takes as long as reading some MB.
 * Kernels that can wait for each other by themselves (chain.glsl) need no barriers in between. Their work groups start
 * as soon as there is room, prefetch weights, and wait until a counter in memory says that all earlier work groups have
 * ended.
 *
 * The device must start the work groups of a kernel after those of the kernel before it, and must let started ones go
 * on. Vulkan promises neither, so only devices that were seen to do so are trusted (info.chains).
 *
 * Each work group increments the same word, which takes some 3 ns. So kernels of more than GPU_CHAIN_GROUPS, as for a
 * prompt, are launched outside the chain.
 *
 * gpu_chain returns the push constants for such a kernel. gpu_launch_chained must follow at once. progress is 0 if the
 * device has no chains. */
#define GPU_CHAIN_GROUPS 4096u
struct chain_link {
    uint64_t progress;
    uint32_t awaited;
};
struct chain_link gpu_chain(struct gpu *gpu);
void gpu_launch_chained(struct gpu *gpu, enum gpu_kernel kernel, const uint32_t *constants, size_t constant_count,
                        const void *push, size_t bytes, uint32_t x, uint32_t y, uint32_t z);

/* The address of a range for shaders; 0 without a buffer. */
static inline uint64_t gpu_address(struct gpu_range range)
{
    return range.buffer ? range.buffer->address + range.offset : 0;
}

/* Copies a small table for kernels of the open batch, and returns its address on the device. Does not copy a table that
 * equals the last one. 0: an error, which is kept for gpu_submit. */
uint64_t gpu_table(struct gpu *gpu, const void *table, size_t bytes);

/* The address of a type's codebook; 0: it has none. */
uint64_t gpu_codebook(const struct gpu *gpu, enum tensor_type type);

/* The most jobs of a dispatch; one less for types with a codebook. */
#define GPU_VECTOR_JOBS 3u
#define GPU_EXPERT_JOBS 2u

/* matvec.c: matrices times up to GPU_VECTOR_TOKENS tokens from first_token on. glu: NULL, or as in gpu_matmul_glu with
 * two jobs. Weights must meet the rules of gpu_matmul. */
void gpu_matvec(struct gpu *gpu, const struct gpu_matmul *jobs, size_t count, uint32_t first_token, uint32_t tokens,
                const struct gpu_glu_kind *glu);
void gpu_expert_matvec(struct gpu *gpu, const struct gpu_expert_matmul *jobs, size_t count, uint32_t first_token,
                       uint32_t tokens, const struct gpu_glu_kind *glu);

/* A router's matrix and the choice, in one launch: the work group of the matrix that ends last chooses, for one token
 * after the other. routes: whether that is possible, and worthwhile. */
bool gpu_matvec_routes(const struct gpu *gpu, const struct gpu_matmul *job);
void gpu_matvec_route(struct gpu *gpu, const struct gpu_matmul *job, const struct gpu_router *router);

static inline uint32_t gpu_expert_in_stride(const struct gpu_expert_matmul *job)
{
    return job->in_stride ? job->in_stride : job->weights.columns;
}

static inline uint32_t gpu_expert_out_stride(const struct gpu_expert_matmul *job)
{
    return job->out_stride ? job->out_stride : job->weights.rows;
}

/* route.c: what shaders/router.glsl needs. router_check: keeps an error if the kernels cannot make this choice. */
struct router_addresses {
    uint64_t selection_bias, expert_scales, ids, weights, table, tokens, chunk_ids, chunk_weights;
};
#define ROUTER_CONSTANTS 9
bool router_check(struct gpu *gpu, const struct gpu_router *router);
struct router_addresses router_find_addresses(const struct gpu_router *router);
void router_set_constants(const struct gpu_router *router, uint32_t constants[ROUTER_CONSTANTS]);

/* Whether inputs may be read four at a time, and plain weights 16 bytes at a time. */
bool gpu_is_wide(const struct gpu_matrix *weights, uint64_t slot_stride, uint64_t in, uint32_t in_stride);

/* A type of weights that gpu_supports: its kernels for many tokens, and their requirements. */
struct weight_type {
    enum gpu_kernel tile, tile_experts, cooperative, cooperative_experts;
    uint16_t chunk;     /* columns that an invocation takes at a time; 0: the type is not supported */
    uint16_t alignment; /* of a row's first byte */
};
const struct weight_type *gpu_weight_type(enum tensor_type type);

/* The address of each row of weights must be a multiple of this. For types that gpu_supports. */
uint32_t gpu_weight_alignment(enum tensor_type type);

/* The columns that an invocation takes at a time, for types that gpu_supports. A row has a multiple of these. */
uint32_t gpu_weight_chunk(enum tensor_type type);

/* STEPS of norm.comp and residual.comp. addresses: all addresses and strides in bytes, combined with |. */
uint32_t gpu_row_steps(uint32_t columns, uint64_t addresses);

/* Keeps an error for gpu_submit. */
void gpu_record_error(struct gpu *gpu, hypura_status status, const char *format, ...) PRINTF_LIKE(3, 4);

/* Returns the status of a result, and notes if the device was lost. */
hypura_status gpu_check(struct gpu *gpu, VkResult result, const char *doing, hypura_error *error);
hypura_status gpu_lost_error(const struct gpu *gpu, hypura_error *error);

/* ---- the parts of a struct gpu, one per file -------------------------------------------------------------------- */

/* Physical devices of an instance, at most capacity. */
hypura_status gpu_enumerate(struct vk *vk, VkPhysicalDevice *devices, uint32_t capacity, uint32_t *count,
                            hypura_error *error);
void gpu_describe(const struct vk *vk, VkPhysicalDevice physical, struct gpu_info *info);
bool gpu_device_has(const struct vk *vk, VkPhysicalDevice physical, const char *extension);

hypura_status pipelines_create(struct gpu *gpu, const char *cache_path, hypura_error *error);
void pipelines_destroy(struct gpu *gpu);
hypura_status pipeline_get(struct gpu *gpu, enum gpu_kernel kernel, const uint32_t *constants, size_t constant_count,
                           VkPipeline *out, hypura_error *error);

/* The name of a kernel that failed to compile when hypura was built, among those with cooperative matrices or among
 * the others; NULL: none. */
const char *kernel_without_code(bool matrices);
const uint32_t *kernel_code(enum gpu_kernel kernel, size_t *bytes);

hypura_status command_buffer_create(struct gpu *gpu, uint32_t family, VkCommandPool *pool, VkCommandBuffer *commands,
                                    hypura_error *error);
hypura_status command_buffer_begin(struct gpu *gpu, VkCommandPool pool, VkCommandBuffer commands, hypura_error *error);
hypura_status timelines_create(struct gpu *gpu, hypura_error *error);
void timelines_destroy(struct gpu *gpu);
void timelines_drain(struct gpu *gpu); /* waits for all that was sent, as long as the device makes progress */
VkResult timeline_read(struct gpu *gpu, VkSemaphore timeline, uint64_t *value);
hypura_status timeline_wait(struct gpu *gpu, VkSemaphore timeline, uint64_t value, hypura_error *error);
bool timeline_reached(struct gpu *gpu, VkSemaphore timeline, uint64_t value);

#define DEVICE_STAGES (VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT)
#define DEVICE_WRITES (VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT)
#define DEVICE_READS (VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_READ_BIT)

/* All later work sees all earlier writes, of this queue and of the host. */
void barrier_between(struct gpu *gpu, VkPipelineStageFlags from, VkAccessFlags written, VkPipelineStageFlags to,
                     VkAccessFlags used);
void barrier_before_unchained(struct gpu *gpu);

/* host.c: what batches wait for. host_awaited: when a batch is sent; whether it needs a semaphore, and for which value.
 * host_forget: when a batch is recorded anew. host_progress: the last value given, and the first batch that was sent
 * and still waits (0: none). */
bool host_awaited(struct gpu *gpu, struct gpu_batch *batch, gpu_ticket ticket, uint64_t *value);
void host_forget(struct gpu *gpu, struct gpu_batch *batch);
uint64_t host_progress(struct gpu *gpu, gpu_ticket *first);

/* host_write_word: writes a word that a kernel watches; each batch has one, by its index, and WATCH_AWAKE is that of
 * gpu_stay_awake. host_end_watch: before a batch or a copy is sent that should not wait for gpu_stay_awake; any thread
 * may call it. */
#define WATCH_AWAKE GPU_BATCHES
void host_write_word(struct gpu *gpu, size_t number, uint32_t value);
void host_end_watch(struct gpu *gpu);

/* watch.c: whether the device sees what the host writes. watch_create only fails if the device is lost or lacks
 * memory. */
hypura_status watch_create(struct gpu *gpu, hypura_error *error);
void watch_destroy(struct gpu *gpu);

hypura_status commands_create(struct gpu *gpu, hypura_error *error);
void commands_destroy(struct gpu *gpu);

void fault_install(struct gpu *gpu);
void fault_describe(struct gpu_info *info);

void uploads_destroy(struct gpu *gpu);

/* Whether code uses cooperative matrices of NVIDIA's extension; and translates such code to KHR's extension. The caller
 * frees *out. */
bool matrices_used(const uint32_t *code, size_t bytes);
hypura_status matrices_translate(const uint32_t *code, size_t bytes, uint32_t **out, size_t *out_bytes,
                                 hypura_error *error);

/* Rewrites loads so that a driver on a CPU performs them only for invocations that need them. The caller frees *out. */
hypura_status loads_part(const uint32_t *code, size_t bytes, uint32_t **out, size_t *out_bytes, hypura_error *error);

/* halves.c: whether weights can be unpacked into panels (shaders/panels.glsl): columns must be a multiple of
 * GPU_PANEL_COLUMNS. halves_to_panels: puts rows of halves there, stride in bytes. halves_gather_panels: the inputs of
 * experts, tile by tile, to so many rows. halves_unpack_panels: as gpu_unpack, also for F16, and for several matrices,
 * so many bytes from one to the next. The last rows of a matrix's last panel are not written. */
#define GPU_PANEL_ROWS 64u
#define GPU_PANEL_COLUMNS 16u
bool halves_suit_panels(enum tensor_type type, uint32_t columns);
void halves_to_panels(struct gpu *gpu, struct gpu_range out, struct gpu_range in, uint32_t rows, uint32_t columns,
                      uint64_t stride);
void halves_gather_panels(struct gpu *gpu, struct gpu_range out, const struct gpu_expert_matmul *job, uint32_t rows);
void halves_unpack_panels(struct gpu *gpu, const struct gpu_matrix *weights, struct gpu_range out, uint32_t count,
                          uint64_t weights_step, uint64_t out_step);

/* panels.c: products on Hopper's matrix units, beyond what shaders reach. panels_possible: whether to enable the
 * extension. panels_create tries them, and sets info.panels if they work; it only fails if the device is lost. */
#define PANELS_EXTENSION VK_NVX_BINARY_IMPORT_EXTENSION_NAME
bool panels_possible(const struct gpu *gpu);
hypura_status panels_create(struct gpu *gpu, hypura_error *error);
void panels_destroy(struct gpu *gpu);

/* Rows of a tile, of which weights are unpacked in multiples; and its tokens. */
#define PANELS_ROWS 256u
#define PANELS_TOKENS 128u

/* The room for halves in panels; whether a job that reads halves can be multiplied from panels, if there is room; and
 * the product of weights and inputs that are in panels. */
uint64_t panels_bytes(uint32_t rows, uint32_t columns);
bool panels_fit(const struct gpu *gpu, const struct gpu_matmul *job);
void panels_multiply(struct gpu *gpu, const struct gpu_matmul *job, struct gpu_range inputs);

/* The same for the experts in some slots, whose panels follow one another from "weights" on; inputs are gathered. */
void panels_multiply_experts(struct gpu *gpu, const struct gpu_expert_matmul *job, struct gpu_range inputs,
                             struct gpu_range weights, uint32_t first_slot, uint32_t slots);

/* expert_panels.c: whether a job that reads halves can be multiplied from panels; and the products of jobs that can,
 * and that have the same inputs. */
bool expert_panels_fit(const struct gpu *gpu, const struct gpu_expert_matmul *job);
void expert_panels_multiply(struct gpu *gpu, const struct gpu_expert_matmul *jobs, size_t count);

/* The most tiles of experts, since each expert's last tile may be partly filled. */
static inline uint64_t expert_most_tiles(uint32_t tile, uint32_t experts, uint32_t used, uint32_t tokens)
{
    const uint64_t choices = (uint64_t)tokens * used;
    return choices / tile + MIN(choices, experts);
}

hypura_status codebooks_create(struct gpu *gpu, hypura_error *error);
void codebooks_destroy(struct gpu *gpu);

/* times_begin_batch: records the time at which the open batch begins. times_begin: after a batch was opened. times_add:
 * after each kernel. */
hypura_status times_create(struct gpu *gpu, hypura_error *error);
void times_begin_batch(struct gpu *gpu);
void times_begin(struct gpu *gpu);
void times_add(struct gpu *gpu, enum gpu_kernel kernel);
void times_destroy(struct gpu *gpu);

/* Host memory that the device copies from. */
hypura_status gpu_buffer_create_staging(struct gpu *gpu, struct gpu_buffer **out, uint64_t bytes, hypura_error *error);

/* attention.c: the elements from one position of the cache to the next; and the table of a batch's sequences (struct
 * Sequence of shaders/cache.glsl). The table is 0 if there are no sequences, or after an error, which is kept. */
uint32_t gpu_row_elements(enum tensor_type type, uint32_t position_bytes);
uint64_t gpu_sequence_table(struct gpu *gpu, struct gpu_range cache, const struct gpu_sequence *sequences,
                            uint32_t count);

/* As struct Sequence of shaders/delta.glsl. */
struct state_sequence {
    uint64_t state, next;
    uint32_t first_row, rows, fresh, block;
};

static inline struct state_sequence gpu_state_entry(struct gpu_range states, const struct gpu_state_sequence *s)
{
    const uint64_t start = gpu_address(states);
    return (struct state_sequence){start + s->state, start + s->next, s->first_row, s->rows, s->fresh, 0};
}

/* scan.c: the table of sequences for kernels with states. */
uint64_t gpu_state_table(struct gpu *gpu, struct gpu_range states, const struct gpu_state_sequence *sequences,
                         uint32_t count);

#endif
