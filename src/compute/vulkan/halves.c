/* Halves for matrix units: converts inputs once instead of in each tile, and unpacks weights once for a long batch.
 * Puts both into panels for kernels that read these. */
#include "compute/vulkan/gpu_private.h"

static void launch_elements(struct gpu *gpu, enum gpu_kernel kernel, const uint32_t *constants, size_t constant_count,
                            const void *push, size_t bytes, uint64_t invocations)
{
    uint64_t groups = (invocations + 255) / 256, across = MIN(groups, 32768);
    gpu_launch(gpu, kernel, constants, constant_count, push, bytes, (uint32_t)across,
               across ? (uint32_t)((groups + across - 1) / across) : 0, 1);
}

static void make_halves(struct gpu *gpu, uint32_t kind, struct gpu_range out, struct gpu_range in, struct gpu_range up,
                        uint64_t count, float alpha, float limit)
{
    const struct {
        uint64_t out, in, up;
        uint32_t eights;
        float alpha, limit;
    } push = {gpu_address(out), gpu_address(in), gpu_address(up), (uint32_t)(count / 8), alpha, limit};
    if ((push.out | push.in | push.up) % 16 || count % 8 || count / 8 > UINT32_MAX - 256) {
        gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: %llu elements cannot become halves eight at a time",
                         (unsigned long long)count);
        return;
    }
    launch_elements(gpu, KERNEL_halves, &kind, 1, &push, sizeof push, count / 8);
}

void gpu_halves(struct gpu *gpu, struct gpu_range out, struct gpu_range in, uint64_t count)
{
    make_halves(gpu, 0, out, in, (struct gpu_range){0}, count, 0, 0);
}

void gpu_glu_halves(struct gpu *gpu, enum glu_kind kind, struct gpu_range out, struct gpu_range gate,
                    struct gpu_range up, uint64_t count, float alpha, float limit)
{
    make_halves(gpu, (uint32_t)kind + 1, out, gate, up, count, alpha, limit);
}

bool halves_suit_panels(enum tensor_type type, uint32_t columns)
{
    return columns % GPU_PANEL_COLUMNS == 0 && (type == TENSOR_F16 || gpu_unpacks(type));
}

struct panels_push {
    uint64_t out, in, out_step, in_step, groups;
    uint32_t rows, columns, stride, experts, choices_per_row;
};

/* stride: bytes from row to row of "in". in_rows: how many it has, for the limit of the kernel's numbers. */
static void put_into_panels(struct gpu *gpu, struct panels_push push, uint64_t stride, uint64_t in_rows,
                            uint32_t matrices)
{
    const uint32_t gathered = push.groups != 0;
    push.stride = (uint32_t)(stride / 16);
    if ((push.out | push.in | push.in_step | push.out_step | stride) % 16 || push.columns % GPU_PANEL_COLUMNS ||
        stride / 16 > UINT32_MAX || in_rows * push.stride > UINT32_MAX) {
        gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: %u x %u halves cannot be put into panels", push.rows,
                         push.columns);
        return;
    }
    gpu_launch(gpu, KERNEL_panels, &gathered, 1, &push, sizeof push, (push.columns / 8 + 31) / 32, (push.rows + 7) / 8,
               matrices);
}

void halves_to_panels(struct gpu *gpu, struct gpu_range out, struct gpu_range in, uint32_t rows, uint32_t columns,
                      uint64_t stride)
{
    const struct panels_push push = {.out = gpu_address(out), .in = gpu_address(in), .rows = rows, .columns = columns};
    put_into_panels(gpu, push, stride, rows, 1);
}

void halves_gather_panels(struct gpu *gpu, struct gpu_range out, const struct gpu_expert_matmul *job, uint32_t rows)
{
    const uint64_t stride = (uint64_t)job->weights.columns * 2, choices = (uint64_t)job->tokens * job->used;
    const struct panels_push push = {.out = gpu_address(out),
                                     .in = gpu_address(job->in_halves),
                                     .groups = gpu_address(job->groups),
                                     .rows = rows,
                                     .columns = job->weights.columns,
                                     .experts = job->experts,
                                     .choices_per_row = job->per_choice ? 1 : job->used};
    put_into_panels(gpu, push, stride, choices, 1);
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

#define TYPE(name) [TENSOR_##name] = KERNEL_unpack_##name + 1
static const uint16_t unpack_kernels[TENSOR_TYPE_COUNT] = {
    TYPE(BF16),    TYPE(Q8_0),   TYPE(Q4_0),  TYPE(Q4_1),    TYPE(Q5_0),   TYPE(Q5_1),  TYPE(IQ4_NL), TYPE(Q4_K),
    TYPE(Q5_K),    TYPE(Q6_K),   TYPE(Q2_K),  TYPE(Q3_K),    TYPE(IQ4_XS), TYPE(MXFP4), TYPE(IQ1_S),  TYPE(IQ1_M),
    TYPE(IQ2_XXS), TYPE(IQ2_XS), TYPE(IQ2_S), TYPE(IQ3_XXS), TYPE(IQ3_S),  TYPE(TQ1_0), TYPE(TQ2_0),  TYPE(NVFP4),
};
#undef TYPE

bool gpu_unpacks(enum tensor_type type)
{
    return (unsigned)type < TENSOR_TYPE_COUNT && unpack_kernels[type] != 0;
}

/* count matrices, so many bytes from one to the next. */
static void unpack(struct gpu *gpu, const struct gpu_matrix *weights, struct gpu_range out, bool panels, uint32_t count,
                   uint64_t weights_step, uint64_t out_step)
{
    const struct {
        uint64_t weights, out, codebook, weights_step, out_step;
        uint32_t rows, columns, row_bytes;
    } push = {gpu_address(weights->data),
              gpu_address(out),
              gpu_codebook(gpu, weights->type),
              weights_step,
              out_step,
              weights->rows,
              weights->columns,
              (uint32_t)weights->row_bytes};
    uint32_t chunk = gpu_unpacks(weights->type) ? gpu_weight_chunk(weights->type) : 0;
    uint64_t chunks = chunk ? (uint64_t)weights->rows * (weights->columns / chunk) : 0;
    uint32_t alignment = chunk ? weights->type == TENSOR_BF16 ? 16 : gpu_weight_alignment(weights->type) : 1;
    if (!chunk || weights->columns % chunk || weights->columns % (panels ? GPU_PANEL_COLUMNS : 8) ||
        (push.out | out_step) % 16 || (push.weights | weights_step | weights->row_bytes) % alignment ||
        weights->row_bytes > UINT32_MAX || chunks > UINT32_MAX - 256) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: %u x %u weights cannot be unpacked to halves",
                         weights->rows, weights->columns);
        return;
    }
    const enum gpu_kernel kernel = (enum gpu_kernel)(unpack_kernels[weights->type] - 1);
    const uint32_t constant = panels, row_chunks = weights->columns / chunk;
    if (panels)
        gpu_launch(gpu, kernel, &constant, 1, &push, sizeof push, (row_chunks + 31) / 32, (weights->rows + 7) / 8,
                   count);
    else
        launch_elements(gpu, kernel, &constant, 1, &push, sizeof push, chunks);
}

void gpu_unpack(struct gpu *gpu, const struct gpu_matrix *weights, struct gpu_range out)
{
    unpack(gpu, weights, out, false, 1, 0, 0);
}

void halves_unpack_panels(struct gpu *gpu, const struct gpu_matrix *weights, struct gpu_range out, uint32_t count,
                          uint64_t weights_step, uint64_t out_step)
{
    if (weights->type != TENSOR_F16) {
        unpack(gpu, weights, out, true, count, weights_step, out_step);
        return;
    }
    const struct panels_push push = {.out = gpu_address(out),
                                     .in = gpu_address(weights->data),
                                     .out_step = out_step,
                                     .in_step = weights_step,
                                     .rows = weights->rows,
                                     .columns = weights->columns};
    put_into_panels(gpu, push, weights->row_bytes, weights->rows, count);
}
