/* Kernels on rows of floats. */
#include "compute/vulkan/gpu_private.h"

/* Work groups for kernels that step through rows by the size of the grid. */
static uint32_t row_groups(uint32_t rows)
{
    return MIN(rows, GPU_MAX_GROUPS);
}

/* For norm.comp and residual.comp: the most groups of four floats per invocation, and the invocations. */
#define MOST_STEPS 8u
#define ROW_GROUP 256u

uint32_t gpu_row_steps(uint32_t columns, uint64_t addresses)
{
    uint32_t steps = (columns / 4 + ROW_GROUP - 1) / ROW_GROUP;
    return columns % 4 || addresses % 16 || steps > MOST_STEPS ? 0 : steps;
}

static void norm(struct gpu *gpu, bool centred, struct gpu_range out, struct gpu_range in, struct gpu_range weight,
                 struct gpu_range bias, uint32_t rows, uint32_t columns, float epsilon)
{
    const struct {
        uint64_t out, in, weight, bias;
        uint32_t rows, columns;
        float epsilon;
    } push = {gpu_address(out), gpu_address(in), gpu_address(weight), gpu_address(bias), rows, columns, epsilon};
    const uint32_t constants[] = {gpu_row_steps(columns, push.out | push.in | push.weight | push.bias), centred};
    gpu_launch(gpu, KERNEL_norm, constants, COUNT_OF(constants), &push, sizeof push, row_groups(rows), 1, 1);
}

void gpu_rms_norm(struct gpu *gpu, struct gpu_range out, struct gpu_range in, struct gpu_range weight,
                  struct gpu_range bias, uint32_t rows, uint32_t columns, float epsilon)
{
    norm(gpu, false, out, in, weight, bias, rows, columns, epsilon);
}

void gpu_layer_norm(struct gpu *gpu, struct gpu_range out, struct gpu_range in, struct gpu_range weight,
                    struct gpu_range bias, uint32_t rows, uint32_t columns, float epsilon)
{
    norm(gpu, true, out, in, weight, bias, rows, columns, epsilon);
}

/* ---- embeddings -------------------------------------------------------------------------------------------------- */

#define TYPE(name) [TENSOR_##name] = KERNEL_embed_##name + 1
static const uint16_t embed_kernels[TENSOR_TYPE_COUNT] = {
    TYPE(F32),     TYPE(F16),   TYPE(BF16),  TYPE(Q8_0),  TYPE(Q4_0),    TYPE(Q4_1),   TYPE(Q5_0),
    TYPE(Q5_1),    TYPE(Q4_K),  TYPE(Q5_K),  TYPE(Q6_K),  TYPE(Q2_K),    TYPE(Q3_K),   TYPE(IQ4_XS),
    TYPE(IQ4_NL),  TYPE(MXFP4), TYPE(IQ1_S), TYPE(IQ1_M), TYPE(IQ2_XXS), TYPE(IQ2_XS), TYPE(IQ2_S),
    TYPE(IQ3_XXS), TYPE(IQ3_S), TYPE(TQ1_0), TYPE(TQ2_0), TYPE(NVFP4),
};
#undef TYPE

/* The required alignment of a row's first byte. */
static uint32_t embedding_alignment(enum tensor_type type)
{
    bool plain = type == TENSOR_F32 || type == TENSOR_F16 || type == TENSOR_BF16;
    return plain ? 16 : gpu_weight_alignment(type);
}

bool gpu_embed_supports(enum tensor_type type, uint64_t row_bytes)
{
    return (unsigned)type < TENSOR_TYPE_COUNT && embed_kernels[type] != 0 && row_bytes <= UINT32_MAX &&
           row_bytes % embedding_alignment(type) == 0;
}

/* Invocations per work group, and the least columns of each. */
#define EMBED_GROUP 64u
#define EMBED_COLUMNS 4u

void gpu_embed(struct gpu *gpu, const struct gpu_matrix *embedding, struct gpu_range tokens, struct gpu_range out,
               uint32_t rows, float scale)
{
    uint64_t data = gpu_address(embedding->data);
    if (!gpu_embed_supports(embedding->type, embedding->row_bytes) || data % embedding_alignment(embedding->type)) {
        const struct tensor_type_info *info = tensor_type_info(embedding->type);
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: embeddings of type %s in rows of %llu bytes",
                         info && info->name ? info->name : "?", (unsigned long long)embedding->row_bytes);
        return;
    }
    const struct {
        uint64_t data, tokens, out, codebook;
        uint32_t rows, columns, row_bytes;
        float scale;
    } push = {data,
              gpu_address(tokens),
              gpu_address(out),
              gpu_codebook(gpu, embedding->type),
              rows,
              embedding->columns,
              (uint32_t)embedding->row_bytes,
              scale};
    uint32_t groups = embedding->columns / (EMBED_GROUP * EMBED_COLUMNS) + 1;
    gpu_launch(gpu, (enum gpu_kernel)(embed_kernels[embedding->type] - 1), NULL, 0, &push, sizeof push,
               MIN(groups, 64u), row_groups(rows), 1);
}

/* ---- elements ---------------------------------------------------------------------------------------------------- */

/* As in elements.comp. */
enum operation { OPERATION_SCALE, OPERATION_SOFT_CAP, OPERATION_GELU, OPERATION_CLAMP, OPERATION_SILU };

#define ELEMENTS_A_GROUP 1024u

static void elements(struct gpu *gpu, enum operation operation, struct gpu_range out, struct gpu_range in, float factor,
                     uint64_t count)
{
    if (count > UINT32_MAX - ELEMENTS_A_GROUP) {
        gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: %llu elements are more than a kernel counts",
                         (unsigned long long)count);
        return;
    }
    const struct {
        uint64_t out, in;
        uint32_t count;
        float factor;
    } push = {gpu_address(out), gpu_address(in), (uint32_t)count, factor};
    const uint32_t constants[] = {(uint32_t)operation};
    uint32_t groups = ((uint32_t)count + ELEMENTS_A_GROUP - 1) / ELEMENTS_A_GROUP;
    uint32_t across = MIN(groups, 32768u);
    gpu_launch(gpu, KERNEL_elements, constants, COUNT_OF(constants), &push, sizeof push, across,
               across ? (groups + across - 1) / across : 0, 1);
}

void gpu_scale(struct gpu *gpu, struct gpu_range out, struct gpu_range in, float factor, uint64_t count)
{
    elements(gpu, OPERATION_SCALE, out, in, factor, count);
}

void gpu_soft_cap(struct gpu *gpu, struct gpu_range values, uint64_t count, float cap)
{
    elements(gpu, OPERATION_SOFT_CAP, values, values, cap, count);
}

void gpu_clamp(struct gpu *gpu, struct gpu_range values, uint64_t count, float limit)
{
    elements(gpu, OPERATION_CLAMP, values, values, limit, count);
}

void gpu_gelu(struct gpu *gpu, struct gpu_range values, uint64_t count)
{
    elements(gpu, OPERATION_GELU, values, values, 0, count);
}

void gpu_silu(struct gpu *gpu, struct gpu_range values, uint64_t count, float factor)
{
    elements(gpu, OPERATION_SILU, values, values, factor, count);
}

void gpu_add(struct gpu *gpu, struct gpu_range to, struct gpu_range from, uint32_t rows, uint32_t width,
             uint32_t copies, float factor)
{
    const uint64_t count = (uint64_t)rows * width * copies;
    const struct {
        uint64_t to, from;
        uint32_t count, width, copies;
        float factor;
    } push = {gpu_address(to), gpu_address(from), (uint32_t)count, width, copies, factor};
    if (count > UINT32_MAX) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: %u rows of %u x %u are added", rows, copies, width);
        return;
    }
    gpu_launch(gpu, KERNEL_add, NULL, 0, &push, sizeof push, (uint32_t)MIN((count + 255) / 256, 16384u), 1, 1);
}

void gpu_rescale(struct gpu *gpu, const struct gpu_rescale *rescale)
{
    const struct {
        uint64_t rows, scales, bias, ids, slots;
        uint32_t count, columns, stride;
    } push = {gpu_address(rescale->rows),
              gpu_address(rescale->scales),
              gpu_address(rescale->bias),
              gpu_address(rescale->ids),
              gpu_address(rescale->slots),
              rescale->count,
              rescale->columns,
              rescale->stride};
    gpu_launch(gpu, KERNEL_rescale, NULL, 0, &push, sizeof push, MIN((rescale->columns + 255) / 256, 1024u),
               row_groups(rescale->count), 1);
}

static void glu(struct gpu *gpu, enum glu_kind kind, bool one_gate, struct gpu_range out, struct gpu_range gate,
                struct gpu_range up, struct gpu_range weights, uint32_t rows, uint32_t columns, uint32_t gate_stride,
                uint32_t up_stride, float alpha, float limit)
{
    const struct {
        uint64_t out, gate, up, weights;
        uint32_t rows, columns, gate_stride, up_stride;
        float alpha, limit;
    } push = {gpu_address(out),
              gpu_address(gate),
              gpu_address(up),
              gpu_address(weights),
              rows,
              columns,
              gate_stride,
              up_stride,
              alpha,
              limit};
    const uint32_t constants[] = {(uint32_t)kind, one_gate};
    gpu_launch(gpu, KERNEL_glu, constants, COUNT_OF(constants), &push, sizeof push,
               (columns + ELEMENTS_A_GROUP - 1) / ELEMENTS_A_GROUP, row_groups(rows), 1);
}

void gpu_glu_weighed(struct gpu *gpu, enum glu_kind kind, struct gpu_range out, struct gpu_range gate,
                     struct gpu_range up, struct gpu_range weights, uint32_t rows, uint32_t columns,
                     uint32_t gate_stride, uint32_t up_stride, float alpha, float limit)
{
    glu(gpu, kind, false, out, gate, up, weights, rows, columns, gate_stride, up_stride, alpha, limit);
}

void gpu_glu_rows(struct gpu *gpu, enum glu_kind kind, struct gpu_range out, struct gpu_range gates,
                  struct gpu_range up, uint32_t rows, uint32_t columns)
{
    glu(gpu, kind, true, out, gates, up, (struct gpu_range){0}, rows, columns, 1, columns, 0.0f, 0.0f);
}

void gpu_glu(struct gpu *gpu, enum glu_kind kind, struct gpu_range out, struct gpu_range gate, struct gpu_range up,
             uint32_t rows, uint32_t columns, uint32_t gate_stride, uint32_t up_stride, float alpha, float limit)
{
    gpu_glu_weighed(gpu, kind, out, gate, up, (struct gpu_range){0}, rows, columns, gate_stride, up_stride, alpha,
                    limit);
}
