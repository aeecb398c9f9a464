/* Weights times activations: chooses the kernel and divides its work. */
#include "compute/vulkan/gpu_private.h"

#include <stddef.h>

/* NULL: the kernels cannot read these weights, and the error is kept. */
static const struct weight_type *find_type(struct gpu *gpu, const struct gpu_matrix *weights, uint64_t stride)
{
    const struct tensor_type_info *info = tensor_type_info(weights->type);
    if (!gpu_supports(gpu, weights->type)) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: there is no kernel for weights of type %s",
                         info ? info->name : "?");
        return NULL;
    }
    const struct weight_type *type = gpu_weight_type(weights->type);
    if (gpu_address(weights->data) % type->alignment || weights->row_bytes % type->alignment ||
        stride % type->alignment) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: weights of type %s must start at a multiple of %u bytes",
                         info->name, type->alignment);
        return NULL;
    }
    if (weights->row_bytes > UINT32_MAX) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: a row of weights has %llu bytes",
                         (unsigned long long)weights->row_bytes);
        return NULL;
    }
    return type;
}

/* Whether the kernels for many tokens can read inputs and weights: wide, and in whole chunks. */
static bool fits_tiles(const struct gpu_matrix *weights, uint64_t slot_stride, uint64_t in, uint32_t in_stride)
{
    return gpu_is_wide(weights, slot_stride, in, in_stride) && weights->columns % gpu_weight_chunk(weights->type) == 0;
}

/* Whether there is a kernel with cooperative matrices. */
static bool is_cooperative(const struct gpu *gpu, const struct weight_type *type)
{
    return gpu->info.cooperative_matrix && type->cooperative != type->tile;
}

bool gpu_takes_halves(const struct gpu *gpu, const struct gpu_matrix *weights, uint64_t slot_stride, uint32_t tokens)
{
    return tokens > GPU_VECTOR_TOKENS && gpu_supports(gpu, weights->type) &&
           is_cooperative(gpu, gpu_weight_type(weights->type)) && weights->columns % 8 == 0 &&
           fits_tiles(weights, slot_stride, 0, 0);
}

/* Whether two jobs can share a dispatch. */
static bool alike(const struct gpu_matmul *a, const struct gpu_matmul *b)
{
    return a->weights.type == b->weights.type && a->weights.columns == b->weights.columns &&
           a->weights.row_bytes == b->weights.row_bytes && gpu_address(a->in) == gpu_address(b->in) &&
           gpu_address(a->norm) == gpu_address(b->norm) && (!a->norm.buffer || a->epsilon == b->epsilon) &&
           a->in_stride == b->in_stride && a->tokens == b->tokens && a->accumulate == b->accumulate;
}

/* ---- matrix times matrix ----------------------------------------------------------------------------------------- */

/* The shape of tiles, with or without cooperative matrices. */
struct tiling {
    enum gpu_kernel kernel, kernel_experts;
    uint32_t rows;
    uint32_t constants[2]; /* tokens; whether inputs are halves */
    size_t constant_count;
};

/* Matrices of floats with up to this many rows, such as routers, have too few tiles for a large device. So sums are
 * sliced, however many tokens there are. */
#define SLICED_ROWS 512u
#define SLICED_GROUP 512u

static bool is_sliced(const struct gpu *gpu, const struct gpu_matrix *weights)
{
    return weights->type == TENSOR_F32 && weights->rows <= SLICED_ROWS && gpu->info.max_group >= SLICED_GROUP;
}

/* halves: inputs are halves. */
static struct tiling choose_tiling(const struct gpu *gpu, const struct weight_type *type, uint32_t tokens, bool halves)
{
    if (is_cooperative(gpu, type))
        return (struct tiling){type->cooperative,
                               type->cooperative_experts,
                               128,
                               {tokens > 64   ? 128
                                : tokens > 32 ? 64
                                              : 32,
                                halves},
                               2};
    return (struct tiling){type->tile, type->tile_experts, 64, {32}, 1};
}

/* Whether the kernel can read inputs that are halves. */
static bool reads_halves(const struct gpu *gpu, const struct gpu_matrix *weights, uint64_t slot_stride,
                         struct gpu_range halves, uint32_t stride, uint32_t tokens)
{
    return halves.buffer && gpu_address(halves) % 16 == 0 && stride % 8 == 0 &&
           gpu_takes_halves(gpu, weights, slot_stride, tokens);
}

struct tile_push {
    uint64_t weights, in, out, bias, codebook;
    uint32_t rows, columns, row_bytes, tokens, in_stride, out_stride, accumulate;
    uint32_t per_choice; /* from here on: for experts only */
    uint64_t slots, groups, slot_stride;
    uint32_t used, experts;
};

static bool job_reads_halves(const struct gpu *gpu, const struct gpu_matmul *job)
{
    return reads_halves(gpu, &job->weights, 0, job->in_halves, job->in_stride, job->tokens);
}

static void matmat(struct gpu *gpu, const struct gpu_matmul *job)
{
    bool halves = job_reads_halves(gpu, job);
    struct tiling tiling = choose_tiling(gpu, gpu_weight_type(job->weights.type), job->tokens, halves);
    if (is_sliced(gpu, &job->weights))
        tiling.kernel = KERNEL_matmat_sliced_F32;
    const struct tile_push push = {.weights = gpu_address(job->weights.data),
                                   .in = gpu_address(halves ? job->in_halves : job->in),
                                   .out = gpu_address(job->out),
                                   .bias = gpu_address(job->bias),
                                   .codebook = gpu_codebook(gpu, job->weights.type),
                                   .rows = job->weights.rows,
                                   .columns = job->weights.columns,
                                   .row_bytes = (uint32_t)job->weights.row_bytes,
                                   .tokens = job->tokens,
                                   .in_stride = job->in_stride,
                                   .out_stride = job->out_stride,
                                   .accumulate = job->accumulate};

    /* Tokens vary fastest, so that tiles that run at the same time read the same weights, once from memory. */
    gpu_launch(gpu, tiling.kernel, tiling.constants, tiling.constant_count, &push,
               offsetof(struct tile_push, per_choice), (job->tokens + tiling.constants[0] - 1) / tiling.constants[0],
               (push.rows + tiling.rows - 1) / tiling.rows, 1);
}

/* From this many tokens on, many tiles would unpack each weight; unpacking in a separate kernel is faster. */
#define UNPACK_TOKENS 256u

/* Rows are unpacked in multiples of this, the rows of a tile. */
#define UNPACK_ROWS 128u

#define UNPACK_PARTS 8

uint64_t gpu_unpacked_bytes(enum tensor_type type, uint32_t rows, uint32_t columns, uint32_t tokens, bool panels)
{
    if (tokens < UNPACK_TOKENS)
        return 0;
    if (panels && halves_suit_panels(type, columns))
        return MIN(panels_bytes(rows, columns), 2 * GPU_UNPACKED_BYTES) + panels_bytes(tokens, columns);
    return gpu_unpacks(type) ? MIN(align_up((uint64_t)rows * columns * 2, GPU_ALIGNMENT), GPU_UNPACKED_BYTES) : 0;
}

/* Whether to unpack weights and inputs into panels. */
static bool should_panel(const struct gpu *gpu, const struct gpu_matmul *job)
{
    return job->tokens >= UNPACK_TOKENS && job->unpacked.buffer && job_reads_halves(gpu, job) && panels_fit(gpu, job) &&
           job->unpacked_bytes >=
               panels_bytes(job->tokens, job->weights.columns) + panels_bytes(PANELS_ROWS, job->weights.columns);
}

uint64_t gpu_kept_bytes(const struct gpu *gpu, const struct gpu_matmul *job)
{
    return should_panel(gpu, job) ? panels_bytes(job->weights.rows, job->weights.columns) : 0;
}

static bool should_unpack(const struct gpu *gpu, const struct gpu_matmul *job)
{
    return is_cooperative(gpu, gpu_weight_type(job->weights.type)) && gpu_unpacks(job->weights.type) &&
           job->tokens >= UNPACK_TOKENS && job->unpacked.buffer && job->weights.columns % 8 == 0 &&
           job->unpacked_bytes >= (uint64_t)UNPACK_ROWS * job->weights.columns * 2;
}

/* inputs: in panels, as the weights are; without a buffer, both are rows. */
static void multiply_parts(struct gpu *gpu, const struct gpu_matmul *parts, size_t count, struct gpu_range inputs)
{
    gpu_barrier(gpu);
    for (size_t i = 0; i < count; i++)
        if (inputs.buffer)
            panels_multiply(gpu, &parts[i], inputs);
        else
            matmat(gpu, &parts[i]);
}

/* Multiplies the parts so far, so that others can take their places and their room. */
static void empty_parts(struct gpu *gpu, const struct gpu_matmul *parts, size_t *count, uint64_t *used,
                        struct gpu_range inputs)
{
    multiply_parts(gpu, parts, *count, inputs);
    gpu_barrier(gpu);
    *used = *count = 0;
}

/* The job with weights from panels that are kept, or will be. */
static struct gpu_matmul kept_part(struct gpu *gpu, const struct gpu_matmul *job)
{
    struct gpu_matmul part = *job;
    const struct gpu_range kept = {job->kept->buffer, 0};
    if (!job->kept->filled)
        halves_unpack_panels(gpu, &job->weights, kept, 1, 0, 0);
    job->kept->filled = true;
    part.weights.data = kept;
    part.weights.type = TENSOR_F16;
    return part;
}

/* Unpacks as many rows as there is room for, multiplies them, and repeats. Jobs have the same inputs. */
static void matmat_unpacked(struct gpu *gpu, const struct gpu_matmul *jobs, size_t count, bool panels)
{
    struct gpu_matmul parts[UNPACK_PARTS];
    size_t part_count = 0;
    const uint64_t begin = panels ? panels_bytes(jobs->tokens, jobs->weights.columns) : 0;
    const struct gpu_range inputs = panels ? jobs->unpacked : (struct gpu_range){0};
    const uint32_t tile = panels ? PANELS_ROWS : UNPACK_ROWS;
    uint64_t used = 0;
    if (panels)
        halves_to_panels(gpu, inputs, jobs->in_halves, jobs->tokens, jobs->weights.columns,
                         (uint64_t)jobs->in_stride * 2);
    for (size_t i = 0; i < count; i++) {
        const struct gpu_matrix *weights = &jobs[i].weights;
        uint64_t row_bytes = (uint64_t)weights->columns * 2, room = jobs[i].unpacked_bytes - begin;
        uint64_t pieces = (row_bytes * weights->rows + room - 1) / room;
        uint32_t rows = (uint32_t)align_up((weights->rows + pieces - 1) / pieces, tile);
        rows = (uint32_t)MIN(rows, room / row_bytes / tile * tile);
        const bool kept = panels && jobs[i].kept;
        if (kept && part_count == UNPACK_PARTS)
            empty_parts(gpu, parts, &part_count, &used, inputs);
        if (kept)
            parts[part_count++] = kept_part(gpu, &jobs[i]);
        for (uint32_t first = 0; first < weights->rows && !kept; first += rows) {
            struct gpu_matmul part = jobs[i];
            part.weights.rows = MIN(rows, weights->rows - first);
            part.weights.data.offset += first * weights->row_bytes;
            part.out.offset += first * sizeof(float);
            part.bias.offset += first * sizeof(float);
            uint64_t bytes = panels ? panels_bytes(part.weights.rows, part.weights.columns)
                                    : align_up(part.weights.rows * row_bytes, GPU_ALIGNMENT);
            if (used + bytes > room || part_count == UNPACK_PARTS)
                empty_parts(gpu, parts, &part_count, &used, inputs);
            struct gpu_range to = {part.unpacked.buffer, part.unpacked.offset + begin + used};
            if (panels)
                halves_unpack_panels(gpu, &part.weights, to, 1, 0, 0);
            else
                gpu_unpack(gpu, &part.weights, to);
            part.weights.data = to;
            part.weights.type = TENSOR_F16;
            part.weights.row_bytes = row_bytes;
            parts[part_count++] = part;
            used += bytes;
        }
    }
    multiply_parts(gpu, parts, part_count, inputs);
}

static void refuse_norm(struct gpu *gpu)
{
    gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: inputs of many tokens are to be normed beforehand");
}

void gpu_matmul(struct gpu *gpu, const struct gpu_matmul *jobs, size_t count)
{
    bool unpacked = false;
    for (size_t first = 0, next; first < count; first = next) {
        const struct weight_type *type = find_type(gpu, &jobs[first].weights, 0);
        if (!type)
            return;
        const size_t most = GPU_VECTOR_JOBS - (gpu_codebook(gpu, jobs[first].weights.type) ? 1 : 0);
        for (next = first + 1; next < count && next - first < most && alike(&jobs[first], &jobs[next]); next++)
            if (!find_type(gpu, &jobs[next].weights, 0))
                return;
        bool tiles = jobs[first].tokens > GPU_VECTOR_TOKENS, unpack = true, panels = true;
        for (size_t i = first; i < next; i++) {
            bool halves = job_reads_halves(gpu, &jobs[i]);
            tiles &= halves ||
                     (jobs[i].in.buffer && fits_tiles(&jobs[i].weights, 0, gpu_address(jobs[i].in), jobs[i].in_stride));
            unpack &= should_unpack(gpu, &jobs[i]);
            panels &=
                should_panel(gpu, &jobs[i]) && gpu_address(jobs[i].in_halves) == gpu_address(jobs[first].in_halves);
        }
        unpack |= panels;
        if (tiles && jobs[first].norm.buffer)
            refuse_norm(gpu);
        if (!tiles && !jobs[first].in.buffer) {
            gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: inputs are there as halves only");
            return;
        }
        if (tiles && unpack && unpacked)
            gpu_barrier(gpu);
        if (tiles && unpack)
            matmat_unpacked(gpu, jobs + first, next - first, panels);
        unpacked |= tiles && unpack;
        for (size_t i = first; i < next && tiles && !unpack; i++)
            matmat(gpu, &jobs[i]);
        for (uint32_t token = 0; token < jobs[first].tokens && !tiles; token += GPU_VECTOR_TOKENS)
            gpu_matvec(gpu, jobs + first, next - first, token, MIN(jobs[first].tokens - token, GPU_VECTOR_TOKENS),
                       NULL);
    }
}

bool gpu_matmul_glu(struct gpu *gpu, const struct gpu_matmul *jobs, const struct gpu_glu_kind *glu)
{
    if (jobs->tokens > GPU_VECTOR_TOKENS || !gpu_supports(gpu, jobs->weights.type) || !alike(&jobs[0], &jobs[1]) ||
        jobs[0].weights.rows != jobs[1].weights.rows || jobs->accumulate)
        return false;
    if (find_type(gpu, &jobs[0].weights, 0) && find_type(gpu, &jobs[1].weights, 0))
        gpu_matvec(gpu, jobs, 2, 0, jobs->tokens, glu);
    return true;
}

void gpu_route(struct gpu *gpu, const struct gpu_matmul *matrix, const struct gpu_router *router)
{
    if (!gpu_matvec_routes(gpu, matrix)) {
        gpu_matmul(gpu, matrix, 1);
        gpu_barrier(gpu);
        gpu_router(gpu, router);
    } else if (find_type(gpu, &matrix->weights, 0) && router_check(gpu, router)) {
        gpu_matvec_route(gpu, matrix, router);
    }
}

/* ---- experts ----------------------------------------------------------------------------------------------------- */

static uint32_t expert_tile(const struct gpu *gpu, uint32_t experts, uint32_t used, uint32_t tokens)
{
    return gpu_expert_tile(gpu->info.cooperative_matrix, (double)tokens * used / MAX(experts, 1));
}

uint64_t gpu_expert_group_bytes(uint32_t experts, uint32_t used, uint32_t tokens)
{
    return sizeof(uint32_t) * (4 + (uint64_t)experts + 1 + (uint64_t)tokens * used +
                               2 * expert_most_tiles(GPU_LEAST_TILE, experts, used, tokens));
}

void gpu_expert_group(struct gpu *gpu, struct gpu_range ids, struct gpu_range groups, uint32_t experts, uint32_t used,
                      uint32_t tokens)
{
    if (experts > GPU_ROUTER_EXPERTS) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: a layer has %u experts; expected at most %u", experts,
                         GPU_ROUTER_EXPERTS);
        return;
    }
    const struct {
        uint64_t ids, groups;
        uint32_t experts, choices;
    } push = {gpu_address(ids), gpu_address(groups), experts, tokens * used};
    const uint32_t tile = expert_tile(gpu, experts, used, tokens);
    gpu_launch(gpu, KERNEL_expert_group, &tile, 1, &push, sizeof push, 1, 1, 1);
}

static bool experts_read_halves(const struct gpu *gpu, const struct gpu_expert_matmul *job)
{
    return reads_halves(gpu, &job->weights, job->slot_stride, job->in_halves, job->weights.columns, job->tokens);
}

static bool should_panel_experts(const struct gpu *gpu, const struct gpu_expert_matmul *job)
{
    return experts_read_halves(gpu, job) && expert_panels_fit(gpu, job);
}

uint64_t gpu_expert_kept_bytes(const struct gpu *gpu, const struct gpu_expert_matmul *job)
{
    return should_panel_experts(gpu, job) ? panels_bytes(job->weights.rows, job->weights.columns) * job->slot_count : 0;
}

static void expert_matmat(struct gpu *gpu, const struct weight_type *type, const struct gpu_expert_matmul *job)
{
    bool halves = experts_read_halves(gpu, job);
    struct tiling tiling = choose_tiling(gpu, type, 0, halves);
    const uint32_t tokens = tiling.constants[0] = expert_tile(gpu, job->experts, job->used, job->tokens);
    const struct tile_push push = {.weights = gpu_address(job->weights.data),
                                   .in = gpu_address(halves ? job->in_halves : job->in),
                                   .out = gpu_address(job->out),
                                   .bias = gpu_address(job->bias),
                                   .codebook = gpu_codebook(gpu, job->weights.type),
                                   .rows = job->weights.rows,
                                   .columns = job->weights.columns,
                                   .row_bytes = (uint32_t)job->weights.row_bytes,
                                   .in_stride = halves ? job->weights.columns : gpu_expert_in_stride(job),
                                   .out_stride = gpu_expert_out_stride(job),
                                   .per_choice = job->per_choice,
                                   .slots = gpu_address(job->slots),
                                   .groups = gpu_address(job->groups),
                                   .slot_stride = job->slot_stride,
                                   .used = job->used,
                                   .experts = job->experts};

    gpu_launch(gpu, tiling.kernel_experts, tiling.constants, tiling.constant_count, &push, sizeof push,
               (uint32_t)expert_most_tiles(tokens, job->experts, job->used, job->tokens),
               (push.rows + tiling.rows - 1) / tiling.rows, 1);
}

/* On a device with cooperative matrices, groups are made for larger tiles than those of kernels without them. */
static bool experts_fit_tiles(const struct gpu *gpu, const struct weight_type *type,
                              const struct gpu_expert_matmul *job)
{
    return job->tokens > GPU_VECTOR_TOKENS && job->groups.buffer &&
           !(gpu->info.cooperative_matrix && type->cooperative == type->tile) &&
           (experts_read_halves(gpu, job) ||
            (job->in.buffer &&
             fits_tiles(&job->weights, job->slot_stride, gpu_address(job->in), gpu_expert_in_stride(job))));
}

static bool experts_alike(const struct gpu_expert_matmul *a, const struct gpu_expert_matmul *b)
{
    return a->weights.type == b->weights.type && a->weights.columns == b->weights.columns &&
           a->weights.rows == b->weights.rows && a->weights.row_bytes == b->weights.row_bytes &&
           a->slot_stride == b->slot_stride && gpu_address(a->slots) == gpu_address(b->slots) &&
           gpu_address(a->ids) == gpu_address(b->ids) && gpu_address(a->in) == gpu_address(b->in) &&
           gpu_address(a->norm) == gpu_address(b->norm) && (!a->norm.buffer || a->epsilon == b->epsilon) &&
           a->used == b->used && a->tokens == b->tokens && a->per_choice == b->per_choice &&
           gpu_expert_in_stride(a) == gpu_expert_in_stride(b) && gpu_expert_out_stride(a) == gpu_expert_out_stride(b);
}

void gpu_expert_matmul(struct gpu *gpu, const struct gpu_expert_matmul *jobs, size_t count)
{
    for (size_t first = 0, next; first < count; first = next) {
        const struct weight_type *type = find_type(gpu, &jobs[first].weights, jobs[first].slot_stride);
        if (!type)
            return;
        for (next = first + 1;
             next < count && next - first < GPU_EXPERT_JOBS && experts_alike(&jobs[first], &jobs[next]); next++)
            if (!find_type(gpu, &jobs[next].weights, jobs[next].slot_stride))
                return;
        bool tiles = true, panels = true;
        for (size_t i = first; i < next; i++) {
            tiles &= experts_fit_tiles(gpu, type, &jobs[i]);
            panels &= should_panel_experts(gpu, &jobs[i]) &&
                      gpu_address(jobs[i].in_halves) == gpu_address(jobs[first].in_halves);
        }
        if (tiles && jobs[first].norm.buffer)
            refuse_norm(gpu);
        if (!tiles && !jobs[first].in.buffer) {
            gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: inputs are there as halves only");
            return;
        }
        if (tiles && panels)
            expert_panels_multiply(gpu, jobs + first, next - first);
        for (size_t i = first; i < next && tiles && !panels; i++)
            expert_matmat(gpu, type, &jobs[i]);
        const uint32_t most = MAX(GPU_MAX_GROUPS / MAX(jobs[first].used, 1u), 1u);
        for (uint32_t token = 0; token < jobs[first].tokens && !tiles; token += most)
            gpu_expert_matvec(gpu, jobs + first, next - first, token, MIN(jobs[first].tokens - token, most), NULL);
    }
}

bool gpu_expert_matmul_glu(struct gpu *gpu, const struct gpu_expert_matmul *jobs, const struct gpu_glu_kind *glu)
{
    if (jobs->tokens > GPU_VECTOR_TOKENS || !gpu_supports(gpu, jobs->weights.type) ||
        !experts_alike(&jobs[0], &jobs[1]) || jobs->tokens * jobs->used > GPU_MAX_GROUPS)
        return false;
    if (find_type(gpu, &jobs[0].weights, jobs->slot_stride) && find_type(gpu, &jobs[1].weights, jobs->slot_stride))
        gpu_expert_matvec(gpu, jobs, 2, 0, jobs->tokens, glu);
    return true;
}
