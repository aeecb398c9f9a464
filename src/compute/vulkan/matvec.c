/* Weights times few tokens: chooses the kernel and divides its work. */
#include "compute/vulkan/gpu_private.h"

#include <string.h>

/* The kernels of each type. chunk: the columns that an invocation takes at a time, as in shaders/types.glsl.
 * bytes_chunk: the same for shaders/bytes.glsl, 0 if the type has no such kernel; its rows start at multiples of
 * bytes_alignment. */
#define FLOATS(name, columns)                                                                                          \
    [TENSOR_##name] = {.floats = KERNEL_matvec_##name, .floats_experts = KERNEL_matvec_experts_##name, .chunk = columns}
#define ROUTER(name, columns)                                                                                          \
    [TENSOR_##name] = {.floats = KERNEL_matvec_##name,                                                                 \
                       .floats_experts = KERNEL_matvec_experts_##name,                                                 \
                       .router = KERNEL_matvec_router_##name,                                                          \
                       .chunk = columns}
#define BYTES(name, chunk_columns, bytes_columns, alignment)                                                           \
    [TENSOR_##name] = {.floats = KERNEL_matvec_##name,                                                                 \
                       .floats_experts = KERNEL_matvec_experts_##name,                                                 \
                       .bytes = KERNEL_matvec_bytes_##name,                                                            \
                       .bytes_experts = KERNEL_matvec_bytes_experts_##name,                                            \
                       .chunk = chunk_columns,                                                                         \
                       .bytes_chunk = bytes_columns,                                                                   \
                       .bytes_alignment = alignment}
static const struct vector_type {
    enum gpu_kernel floats, floats_experts, bytes, bytes_experts, router;
    uint16_t chunk, bytes_chunk, bytes_alignment;
} vector_types[TENSOR_TYPE_COUNT] = {
    ROUTER(F32, 4),          ROUTER(F16, 8),           ROUTER(BF16, 8),         FLOATS(Q2_K, 16),
    FLOATS(Q3_K, 16),        BYTES(Q6_K, 32, 64, 2),   BYTES(Q8_0, 8, 32, 2),   BYTES(Q4_0, 16, 32, 2),
    BYTES(Q4_1, 16, 32, 2),  BYTES(Q5_0, 16, 32, 2),   BYTES(Q5_1, 16, 32, 2),  BYTES(IQ4_NL, 16, 32, 2),
    BYTES(MXFP4, 16, 32, 1), BYTES(IQ4_XS, 32, 32, 8), BYTES(Q4_K, 32, 64, 16), BYTES(Q5_K, 32, 64, 16),
    FLOATS(IQ1_S, 32),       FLOATS(IQ1_M, 32),        FLOATS(IQ2_XXS, 32),     FLOATS(IQ2_XS, 32),
    FLOATS(IQ2_S, 32),       FLOATS(IQ3_XXS, 32),      FLOATS(IQ3_S, 32),       FLOATS(TQ1_0, 32),
    FLOATS(TQ2_0, 16),       FLOATS(NVFP4, 16),
};
#undef FLOATS
#undef ROUTER
#undef BYTES

static bool is_float(enum tensor_type type)
{
    return type == TENSOR_F32 || type == TENSOR_F16 || type == TENSOR_BF16;
}

bool gpu_is_wide(const struct gpu_matrix *weights, uint64_t slot_stride, uint64_t in, uint32_t in_stride)
{
    if (in % 16 || in_stride % 4)
        return false;
    return !is_float(weights->type) || !((gpu_address(weights->data) | weights->row_bytes | slot_stride) % 16);
}

/* As in shaders/finish.glsl. */
enum finish { FINISH_STORE, FINISH_ADD, FINISH_GLU };

/* As shaders/bytes.glsl defines PAIRED. */
static bool makes_pairs(enum tensor_type type)
{
    return type == TENSOR_IQ4_NL || type == TENSOR_IQ4_XS || type == TENSOR_MXFP4;
}

#define CUT_CONSTANTS 13

/* In shaders/matvec_router.comp. */
#define ROUTER_FIRST_CONSTANT 12

/* How the work of a dispatch is divided. */
struct cut {
    enum gpu_kernel kernel;
    uint32_t constants[MAX(CUT_CONSTANTS, ROUTER_FIRST_CONSTANT + ROUTER_CONSTANTS)];
    uint32_t constant_count;
    uint32_t job_rows; /* rows of one matrix per work group; per team if several take turns */
    uint32_t most;     /* the most work groups; 0: as many as rows need */
    uint32_t teams;    /* of a work group, that take job_rows each */
};

/* The properties that struct cut depends on. */
struct shape {
    const struct vector_type *type;
    uint64_t rows; /* of all matrices and choices */
    uint32_t columns, tokens, choices;
    bool wide, bytes, experts, normed, accumulate;
    bool paired; /* a codebook makes the bytes */
    const struct gpu_glu_kind *glu;
};

/* Rows of weights per invocation: with many, inputs read once are reused; with few, small matrices use the whole
 * device. */
static uint32_t rows_together(uint64_t rows, uint32_t least)
{
    uint32_t together = 4;
    while (together > least && rows / together < 512)
        together /= 2;
    return together;
}

/* Invocations per work group. Depends on the columns only, because it determines the order of sums. */
static uint32_t float_group(const struct vector_type *type, uint32_t columns)
{
    uint32_t chunks = (columns + type->chunk - 1) / type->chunk, group = 32;
    while (group < 128 && group < chunks)
        group *= 2;
    return group;
}

/* The shared memory that matvec_bytes.comp needs, without tables of codebooks. */
static uint32_t bytes_shared(uint32_t group, uint32_t tile, uint32_t tokens, bool normed)
{
    uint32_t blocks = tokens * tile / 32, parts = (tile > 8 * group ? 2 : 1) * group;
    return tokens * (tile + 64) + (blocks * (normed ? 4 : 3) + parts * (normed ? 2 : 1) + 16) * 4;
}

#define TABLE_BYTES 1024u /* a table with the values of each byte */

/* Columns of inputs in shared memory at once: all if they fit. */
static uint32_t bytes_tile(const struct gpu *gpu, uint32_t group, const struct shape *shape)
{
    uint32_t tile = (shape->columns + 2047) / 2048 * 2048, table = shape->paired ? TABLE_BYTES : 0;
    while (tile > 2048 && bytes_shared(group, tile, shape->tokens, shape->normed) + table > gpu->info.shared_bytes)
        tile -= 2048;
    return tile;
}

/* Copies of a codebook's table: one per invocation that reads at the same time, or fewer. */
static uint32_t table_copies(const struct gpu *gpu, uint32_t used)
{
    uint32_t copies = 32;
    while (copies > 1 && used + copies * TABLE_BYTES > gpu->info.shared_bytes)
        copies /= 2;
    return copies;
}

#define BYTES_GROUP 1024u /* at most */

/* Invocations that share a row: the most of which no more than a quarter have nothing to do. Depends on the columns
 * only, because it determines the order of sums. */
static uint32_t team_lanes(const struct gpu *gpu, const struct shape *shape)
{
    const uint32_t chunks = shape->columns / shape->type->bytes_chunk;
    uint32_t lanes = gpu->info.subgroup_min;
    while (chunks * 4 < (uint32_t)align_up(chunks, lanes) * 3)
        lanes /= 2;
    return lanes;
}

/* The most work groups at a time. For one token, each core gets one, so that as many invocations as possible share the
 * rounded inputs. But each choice gets equally many: if that left more than a tenth of the cores without work, a core
 * gets more and smaller ones. */
static uint32_t bytes_groups(const struct gpu *gpu, const struct shape *shape)
{
    const uint32_t cores = gpu->info.cores ? gpu->info.cores : 64, choices = shape->choices;
    uint32_t groups = shape->tokens > 1 ? 3 * cores : cores;
    while (groups < 4 * cores && groups / choices * choices * 10 < groups * 9)
        groups *= 2;
    return groups;
}

/* Invocations per work group: no more than needed for all to end together after the same number of turns. */
static uint32_t bytes_group(const struct gpu *gpu, const struct shape *shape, uint32_t lanes, uint32_t groups)
{
    uint32_t most = MIN(BYTES_GROUP, gpu->info.max_group);
    if (shape->tokens > 1 || !gpu->info.cores)
        return MIN(most, 256);
    most = MAX(most * gpu->info.cores / groups, 256);
    const uint64_t rows = shape->rows / shape->choices / (shape->glu ? 2 : 1);
    const uint32_t across = MAX(groups / shape->choices, 1), share = (uint32_t)((rows + across - 1) / across);
    const uint32_t turns = MAX((share * lanes + most - 1) / most, 1u), teams = (share + turns - 1) / turns;
    return MAX((uint32_t)align_up(teams * lanes, gpu->info.subgroup_min), MIN(most, 256));
}

static struct cut choose_cut(const struct gpu *gpu, const struct shape *shape)
{
    struct cut cut = {.constant_count = CUT_CONSTANTS, .teams = 1};
    uint32_t rows = rows_together(shape->rows, shape->glu ? 2 : 1), finish = shape->accumulate;
    float numbers[2] = {0, 0};
    if (shape->glu) {
        finish = FINISH_GLU + (uint32_t)shape->glu->kind;
        numbers[0] = shape->glu->alpha;
        numbers[1] = shape->glu->limit;
    }
    if (shape->bytes) {
        const uint32_t lanes = team_lanes(gpu, shape), few = shape->tokens > 1 ? 4 : 1;
        cut.most = bytes_groups(gpu, shape);
        const uint32_t group = bytes_group(gpu, shape, lanes, cut.most);
        cut.kernel = shape->experts ? shape->type->bytes_experts : shape->type->bytes;
        rows = MIN(few, rows_together(shape->rows * lanes / gpu->info.subgroup_min, 1));
        cut.constants[0] = group;
        cut.constants[3] = bytes_tile(gpu, group, shape);
        if (shape->paired)
            cut.constants[11] = table_copies(gpu, bytes_shared(group, cut.constants[3], shape->tokens, shape->normed));
        cut.constants[12] = lanes;
        cut.job_rows = rows;
        cut.teams = group / lanes;
    } else {
        cut.kernel = shape->experts ? shape->type->floats_experts : shape->type->floats;
        cut.constants[0] = float_group(shape->type, shape->columns);
        cut.constants[3] = shape->wide;
        cut.job_rows = shape->glu ? rows / 2 : rows;
    }
    cut.constants[1] = rows;
    cut.constants[2] = shape->tokens;
    cut.constants[4] = shape->normed;
    cut.constants[5] = finish;
    memcpy(&cut.constants[6], numbers, sizeof numbers);
    cut.constants[9] = shape->columns;
    return cut;
}

/* The work groups for so many times job_rows, for each of depth choices. */
static uint64_t cut_groups(const struct cut *cut, uint64_t jobs, uint32_t depth)
{
    const uint64_t groups = (jobs + cut->teams - 1) / cut->teams;
    return cut->most ? MIN(groups, MAX(cut->most / depth, 1)) : groups;
}

/* Work groups are in two dimensions, because the limit of one is low. */
static void launch_cut(struct gpu *gpu, const struct cut *cut, const void *push, size_t bytes, uint64_t groups,
                       uint32_t depth, bool chained)
{
    uint32_t width = (uint32_t)MIN(groups, 16384);
    (chained ? gpu_launch_chained : gpu_launch)(gpu, cut->kernel, cut->constants, cut->constant_count, push, bytes,
                                                width, (uint32_t)((groups + width - 1) / width), depth);
}

bool gpu_multiplies_bytes(enum tensor_type type)
{
    return (unsigned)type < TENSOR_TYPE_COUNT && vector_types[type].bytes_chunk != 0;
}

/* Whether the kernel that multiplies bytes can read these weights. */
static bool takes_bytes(const struct gpu *gpu, const struct gpu_matrix *weights, uint64_t slot_stride)
{
    const struct vector_type *type = &vector_types[weights->type];
    return gpu->info.int8_dot && gpu->info.subgroup_min == gpu->info.subgroup_max && type->bytes_chunk &&
           weights->columns % type->bytes_chunk == 0 &&
           (gpu_address(weights->data) | weights->row_bytes | slot_stride) % type->bytes_alignment == 0;
}

/* Matrices of floats with up to so many work groups, such as routers, are in chains. Those of more share inputs in the
 * caches of a core, which a chain goes past. */
#define CHAINED_GROUPS 512u

static void multiply(struct gpu *gpu, const struct gpu_matmul *jobs, size_t count, uint32_t first_token,
                     uint32_t tokens, const struct gpu_glu_kind *glu, const struct gpu_router *router)
{
    struct {
        struct {
            uint64_t weights, out, bias;
            uint32_t rows, out_stride;
        } jobs[GPU_VECTOR_JOBS];
        uint64_t in, norm, progress;
        uint32_t awaited, row_bytes;
    } push = {.in = gpu_address(jobs->in) + (uint64_t)first_token * jobs->in_stride * sizeof(float),
              .norm = gpu_address(jobs->norm),
              .row_bytes = (uint32_t)jobs->weights.row_bytes};
    struct shape shape = {.type = &vector_types[jobs->weights.type],
                          .columns = jobs->weights.columns,
                          .tokens = tokens,
                          .choices = 1,
                          .wide = push.norm % 16 == 0,
                          .bytes = true,
                          .paired = makes_pairs(jobs->weights.type),
                          .normed = push.norm != 0,
                          .accumulate = jobs->accumulate,
                          .glu = glu};
    for (size_t i = 0; i < count; i++) {
        push.jobs[i].weights = gpu_address(jobs[i].weights.data);
        push.jobs[i].out = gpu_address(jobs[i].out) + (uint64_t)first_token * jobs[i].out_stride * sizeof(float);
        push.jobs[i].bias = gpu_address(jobs[i].bias);
        push.jobs[i].rows = jobs[i].weights.rows;
        push.jobs[i].out_stride = jobs[i].out_stride;
        shape.rows += jobs[i].weights.rows;
        shape.wide &= gpu_is_wide(&jobs[i].weights, 0, push.in, jobs->in_stride);
        shape.bytes &= shape.wide && takes_bytes(gpu, &jobs[i].weights, 0);
    }
    uint64_t codebook = gpu_codebook(gpu, jobs->weights.type);
    if (codebook) /* takes the place of the last job, which is then unused */
        push.jobs[GPU_VECTOR_JOBS - 1].weights = codebook;
    struct cut cut = choose_cut(gpu, &shape);
    memcpy(&cut.constants[8], &jobs->epsilon, sizeof jobs->epsilon);
    cut.constants[10] = tokens > 1 ? jobs->in_stride : 0;
    uint64_t groups = 0;
    for (size_t i = 0; i < (glu ? 1 : count); i++)
        groups += (jobs[i].weights.rows + cut.job_rows - 1) / cut.job_rows;
    groups = cut_groups(&cut, groups, 1);
    const bool chained = shape.bytes || router || (gpu->info.chains && groups <= CHAINED_GROUPS);
    if (router) {
        const struct router_addresses addresses = router_find_addresses(router);
        _Static_assert(sizeof addresses == 2 * sizeof push.jobs[0], "they take the place of the other jobs");
        memcpy(&push.jobs[1], &addresses, sizeof addresses);
        cut.kernel = shape.type->router;
        router_set_constants(router, &cut.constants[ROUTER_FIRST_CONSTANT]);
        cut.constant_count = ROUTER_FIRST_CONSTANT + ROUTER_CONSTANTS;
        gpu_barrier(gpu); /* the count of work groups that have ended is to tell which is the last */
    }
    const struct chain_link link = chained ? gpu_chain(gpu) : (struct chain_link){0};
    push.progress = link.progress;
    push.awaited = link.awaited;
    if (!shape.bytes)
        cut.constants[11] = chained;
    launch_cut(gpu, &cut, &push, sizeof push, groups, 1, chained);
    if (router) /* the choice counts as a work group */
        gpu->routed = ++gpu->chained;
}

void gpu_matvec(struct gpu *gpu, const struct gpu_matmul *jobs, size_t count, uint32_t first_token, uint32_t tokens,
                const struct gpu_glu_kind *glu)
{
    multiply(gpu, jobs, count, first_token, tokens, glu, NULL);
}

/* One after another, more choices would take longer than another kernel. */
#define ROUTED_TOKENS 2u

bool gpu_matvec_routes(const struct gpu *gpu, const struct gpu_matmul *job)
{
    return gpu->info.chains && job->tokens <= ROUTED_TOKENS && is_float(job->weights.type) &&
           job->weights.columns % vector_types[job->weights.type].chunk == 0 &&
           gpu_is_wide(&job->weights, 0, gpu_address(job->in) | gpu_address(job->norm), job->in_stride);
}

void gpu_matvec_route(struct gpu *gpu, const struct gpu_matmul *job, const struct gpu_router *router)
{
    multiply(gpu, job, 1, 0, job->tokens, NULL, router);
}

void gpu_expert_matvec(struct gpu *gpu, const struct gpu_expert_matmul *jobs, size_t count, uint32_t first_token,
                       uint32_t tokens, const struct gpu_glu_kind *glu)
{
    const uint64_t first_choice = (uint64_t)first_token * jobs->used;
    const uint32_t in_stride = gpu_expert_in_stride(jobs), out_stride = gpu_expert_out_stride(jobs);
    struct {
        struct {
            uint64_t weights, out, bias;
        } jobs[GPU_EXPERT_JOBS];
        uint64_t in, slots, ids, slot_stride;
        uint32_t rows, row_bytes, sharing, out_stride, awaited_ids, awaited;
        uint64_t codebook, progress, norm;
    } push = {.in = gpu_address(jobs->in) + (jobs->per_choice ? first_choice : first_token) * in_stride * sizeof(float),
              .slots = gpu_address(jobs->slots),
              .ids = gpu_address(jobs->ids) + first_choice * sizeof(uint32_t),
              .slot_stride = jobs->slot_stride,
              .rows = jobs->weights.rows,
              .row_bytes = (uint32_t)jobs->weights.row_bytes,
              .sharing = jobs->per_choice ? 1 : jobs->used,
              .out_stride = out_stride,
              .awaited_ids = gpu->routed,
              .codebook = gpu_codebook(gpu, jobs->weights.type),
              .norm = gpu_address(jobs->norm)};
    const uint32_t choices = tokens * jobs->used;
    if (choices == 0)
        return;
    struct shape shape = {.type = &vector_types[jobs->weights.type],
                          .rows = (uint64_t)push.rows * choices * count,
                          .columns = jobs->weights.columns,
                          .tokens = 1,
                          .choices = choices,
                          .wide = push.norm % 16 == 0,
                          .bytes = true,
                          .paired = makes_pairs(jobs->weights.type),
                          .experts = true,
                          .normed = push.norm != 0,
                          .glu = glu};
    for (size_t i = 0; i < count; i++) {
        push.jobs[i].weights = gpu_address(jobs[i].weights.data);
        push.jobs[i].out = gpu_address(jobs[i].out) + first_choice * out_stride * sizeof(float);
        push.jobs[i].bias = gpu_address(jobs[i].bias);
        shape.wide &= gpu_is_wide(&jobs[i].weights, jobs->slot_stride, push.in, in_stride);
        shape.bytes &= shape.wide && takes_bytes(gpu, &jobs[i].weights, jobs->slot_stride);
    }
    struct cut cut = choose_cut(gpu, &shape);
    const uint64_t groups =
        cut_groups(&cut, (uint64_t)((push.rows + cut.job_rows - 1) / cut.job_rows) * (glu ? 1 : count), choices);
    const bool chained = shape.bytes && jobs->routed && groups * choices <= GPU_CHAIN_GROUPS;
    const struct chain_link link = chained ? gpu_chain(gpu) : (struct chain_link){0};
    push.progress = link.progress;
    push.awaited = link.awaited;
    memcpy(&cut.constants[8], &jobs->epsilon, sizeof jobs->epsilon);
    cut.constants[10] = in_stride;
    launch_cut(gpu, &cut, &push, sizeof push, groups, choices, chained);
}
