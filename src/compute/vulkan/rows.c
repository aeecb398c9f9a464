/* Kernels on rows of floats. */
#include "compute/vulkan/gpu_private.h"

/* Groups for rows that kernels walk in steps of the grid. */
static uint32_t row_groups(uint32_t rows)
{
    return MIN(rows, GPU_MAX_GROUPS);
}

/* Fours of floats that an invocation of norm.comp or residual.comp may hold, and invocations. */
#define MOST_STEPS 8u
#define ROW_GROUP 256u

uint32_t gpu_row_steps(uint32_t columns, uint64_t addresses)
{
    uint32_t steps = (columns / 4 + ROW_GROUP - 1) / ROW_GROUP;
    return columns % 4 || addresses % 16 || steps > MOST_STEPS ? 0 : steps;
}

static void norm(struct gpu *gpu, bool layer, struct gpu_range out, uint32_t out_stride, struct gpu_range in,
                 uint32_t in_stride, struct gpu_range weight, struct gpu_range bias, uint32_t rows, uint32_t columns,
                 float epsilon)
{
    const struct {
        uint64_t out, in, weight, bias;
        uint32_t rows, columns, out_stride, in_stride;
        float epsilon;
    } push = {gpu_address(out), gpu_address(in), gpu_address(weight), gpu_address(bias), rows, columns, out_stride,
              in_stride,        epsilon};
    uint64_t together = push.out | push.in | push.weight | push.bias | (out_stride | in_stride) * sizeof(float);
    const uint32_t constants[] = {layer, gpu_row_steps(columns, together)};
    gpu_launch(gpu, KERNEL_norm, constants, COUNT_OF(constants), &push, sizeof push, row_groups(rows), 1, 1);
}

void gpu_rms_norm(struct gpu *gpu, struct gpu_range out, struct gpu_range in, struct gpu_range weight, uint32_t rows,
                  uint32_t columns, float epsilon)
{
    norm(gpu, false, out, columns, in, columns, weight, (struct gpu_range){0}, rows, columns, epsilon);
}

void gpu_rms_norm_strided(struct gpu *gpu, struct gpu_range out, uint32_t out_stride, struct gpu_range in,
                          uint32_t in_stride, struct gpu_range weight, uint32_t rows, uint32_t columns, float epsilon)
{
    norm(gpu, false, out, out_stride, in, in_stride, weight, (struct gpu_range){0}, rows, columns, epsilon);
}

void gpu_layer_norm(struct gpu *gpu, struct gpu_range out, struct gpu_range in, struct gpu_range weight,
                    struct gpu_range bias, uint32_t rows, uint32_t columns, float epsilon)
{
    norm(gpu, true, out, columns, in, columns, weight, bias, rows, columns, epsilon);
}

/* ---- embeddings -------------------------------------------------------------------------------------------------- */

#define TYPE(name) [TENSOR_##name] = KERNEL_embed_##name + 1
static const uint16_t embed_kernels[TENSOR_TYPE_COUNT] = {
    TYPE(F32),  TYPE(F16),  TYPE(BF16), TYPE(Q8_0), TYPE(Q4_0), TYPE(Q4_1),   TYPE(Q5_0),   TYPE(Q5_1),
    TYPE(Q4_K), TYPE(Q5_K), TYPE(Q6_K), TYPE(Q2_K), TYPE(Q3_K), TYPE(IQ4_XS), TYPE(IQ4_NL), TYPE(MXFP4),
};
#undef TYPE

bool gpu_embed_supports(enum tensor_type type)
{
    return (unsigned)type < TENSOR_TYPE_COUNT && embed_kernels[type] != 0;
}

/* Invocations of a work group, and the fewest columns that one takes. */
#define EMBED_GROUP 64u
#define EMBED_COLUMNS 4u

void gpu_embed(struct gpu *gpu, const struct gpu_matrix *embedding, struct gpu_range tokens, struct gpu_range out,
               uint32_t rows, float scale)
{
    uint64_t data = gpu_address(embedding->data);
    bool plain = embedding->type == TENSOR_F32 || embedding->type == TENSOR_F16 || embedding->type == TENSOR_BF16;
    if (!gpu_embed_supports(embedding->type) || embedding->row_bytes > UINT32_MAX ||
        (data | embedding->row_bytes) % (plain ? 16 : gpu_weight_alignment(embedding->type))) {
        const struct tensor_type_info *info = tensor_type_info(embedding->type);
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: embeddings of type %s in rows of %llu bytes",
                         info && info->name ? info->name : "?", (unsigned long long)embedding->row_bytes);
        return;
    }
    const struct {
        uint64_t data, tokens, out;
        uint32_t rows, columns, row_bytes;
        float scale;
    } push = {data, gpu_address(tokens), gpu_address(out), rows, embedding->columns, (uint32_t)embedding->row_bytes,
              scale};
    uint32_t groups = embedding->columns / (EMBED_GROUP * EMBED_COLUMNS) + 1;
    gpu_launch(gpu, (enum gpu_kernel)(embed_kernels[embedding->type] - 1), NULL, 0, &push, sizeof push,
               MIN(groups, 64u), row_groups(rows), 1);
}

/* ---- elements ---------------------------------------------------------------------------------------------------- */

/* As in elements.comp. */
enum operation { OPERATION_ADD, OPERATION_SCALE, OPERATION_SOFT_CAP, OPERATION_FUNCTION = 16 };

#define ELEMENTS_A_GROUP 1024u

static void elements(struct gpu *gpu, uint32_t operation, struct gpu_range out, struct gpu_range in,
                     struct gpu_range second, float factor, uint64_t count)
{
    if (count > UINT32_MAX - ELEMENTS_A_GROUP) {
        gpu_record_error(gpu, HYPURA_ERROR_ARGUMENT, "GPU: %llu elements are more than a kernel counts",
                         (unsigned long long)count);
        return;
    }
    const struct {
        uint64_t out, in, second;
        uint32_t count;
        float factor;
    } push = {gpu_address(out), gpu_address(in), gpu_address(second), (uint32_t)count, factor};
    uint32_t groups = ((uint32_t)count + ELEMENTS_A_GROUP - 1) / ELEMENTS_A_GROUP;
    uint32_t across = MIN(groups, 32768u);
    gpu_launch(gpu, KERNEL_elements, &operation, 1, &push, sizeof push, across,
               across ? (groups + across - 1) / across : 0, 1);
}

void gpu_add(struct gpu *gpu, struct gpu_range out, struct gpu_range a, struct gpu_range b, float scale_b,
             uint64_t count)
{
    elements(gpu, OPERATION_ADD, out, a, b, scale_b, count);
}

void gpu_scale(struct gpu *gpu, struct gpu_range out, struct gpu_range in, float factor, uint64_t count)
{
    elements(gpu, OPERATION_SCALE, out, in, (struct gpu_range){0}, factor, count);
}

void gpu_soft_cap(struct gpu *gpu, struct gpu_range values, uint64_t count, float cap)
{
    elements(gpu, OPERATION_SOFT_CAP, values, values, (struct gpu_range){0}, cap, count);
}

void gpu_function(struct gpu *gpu, enum activation_function function, struct gpu_range values, uint64_t count)
{
    elements(gpu, OPERATION_FUNCTION + (uint32_t)function, values, values, (struct gpu_range){0}, 0, count);
}

void gpu_glu(struct gpu *gpu, enum glu_kind kind, struct gpu_range out, struct gpu_range gate, struct gpu_range up,
             uint32_t rows, uint32_t columns, uint32_t gate_stride, uint32_t up_stride, float alpha, float limit)
{
    const struct {
        uint64_t out, gate, up;
        uint32_t rows, columns, gate_stride, up_stride;
        float alpha, limit;
    } push = {gpu_address(out), gpu_address(gate), gpu_address(up), rows, columns,
              gate_stride,      up_stride,         alpha,           limit};
    const uint32_t constants[] = {(uint32_t)kind};
    gpu_launch(gpu, KERNEL_glu, constants, COUNT_OF(constants), &push, sizeof push,
               (columns + ELEMENTS_A_GROUP - 1) / ELEMENTS_A_GROUP, row_groups(rows), 1);
}

void gpu_gate(struct gpu *gpu, struct gpu_range values, struct gpu_range gates, uint32_t rows, uint32_t heads,
              uint32_t size, uint32_t stride, uint32_t head_stride)
{
    const struct {
        uint64_t values, gates;
        uint32_t rows, heads, size, stride, head_stride;
    } push = {gpu_address(values), gpu_address(gates), rows, heads, size, stride, head_stride};
    gpu_launch(gpu, KERNEL_gate, NULL, 0, &push, sizeof push, (heads * size + 255) / 256, row_groups(rows), 1);
}

void gpu_rope(struct gpu *gpu, enum rope_layout layout, struct gpu_range values, uint32_t rows, uint32_t row_stride,
              uint32_t heads, uint32_t head_size, uint32_t rotary, struct gpu_range table)
{
    const struct {
        uint64_t values, table;
        uint32_t rows, row_stride, heads, head_size, rotary;
    } push = {gpu_address(values), gpu_address(table), rows, row_stride, heads, head_size, rotary};
    const uint32_t constants[] = {layout == ROPE_NORMAL};
    gpu_launch(gpu, KERNEL_rope, constants, COUNT_OF(constants), &push, sizeof push, (heads * (rotary / 2) + 63) / 64,
               row_groups(rows), 1);
}
