/* Logits of the wanted rows, if the output matrix is on the GPU. */
#include "engine/gpu/pass.h"

static const struct step_output *output_of(const struct batch *batch)
{
    return &steps_find(steps_after(batch->open->steps), STEP_OUTPUT)->output;
}

/* Wanted rows first to first + count, contiguous. */
static struct gpu_range pick_rows(struct batch *batch, size_t first, size_t count)
{
    struct gpu_pass *pass = batch->pass;
    const uint32_t *wanted = batch->scratch.wanted + first;
    uint64_t width = model_parameters(batch->open->model)->embedding;
    struct gpu_range from = pass->rows[output_of(batch)->in];
    if (wanted[count - 1] - wanted[0] + 1 == count && wanted[0] * width * sizeof(float) % GPU_ALIGNMENT == 0)
        return range_at(from, wanted[0] * width);
    for (size_t i = 0; i < count; i++)
        gpu_copy(pass->gpu, range_at(pass->picked, i * width), range_at(from, wanted[i] * width),
                 width * sizeof(float));
    gpu_barrier(pass->gpu);
    return pass->picked;
}

void pass_record_logits(struct batch *batch, const struct step_output *o, struct gpu_range rows, size_t count)
{
    struct gpu_pass *pass = batch->pass;
    const struct model_parameters *p = model_parameters(batch->open->model);
    uint64_t elements = count * (uint64_t)p->vocabulary;
    const struct gpu_range none = {0}, bias = pass_vector(batch, o->bias);
    const bool scaled = o->matrix_scale != NO_UNIT;
    struct pass_product product = {.role = ROLE_OUTPUT,
                                   .scale = pass_vector(batch, o->matrix_scale),
                                   .scaled_bias = scaled ? bias : none,
                                   .job = {.weights = pass_matrix(batch, o->unit),
                                           .in = rows,
                                           .out = pass->logits,
                                           .bias = scaled ? none : bias,
                                           .tokens = (uint32_t)count,
                                           .in_stride = p->embedding,
                                           .out_stride = p->vocabulary}};
    pass_multiply(batch, -1, &product, 1);
    gpu_barrier(pass->gpu);
    if (o->scale != 1.0f) {
        gpu_scale(pass->gpu, pass->logits, pass->logits, o->scale, elements);
        gpu_barrier(pass->gpu);
    }
    if (o->soft_cap != 0.0f) {
        gpu_soft_cap(pass->gpu, pass->logits, elements, o->soft_cap);
        gpu_barrier(pass->gpu);
    }
    gpu_copy(pass->gpu, pass->back_parts.logits.range, pass->logits, elements * sizeof(float));
}

/* First copies the residual stream to the host, as the output's norm leaves it. */
hypura_status pass_record_output(struct batch *batch, size_t first, size_t count, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    pass_record(pass);
    if (first == 0) {
        TRY(pass_record_steps(batch, pass_steps_after(batch), error));
        pass_settle(pass);
        gpu_copy(pass->gpu, pass->back_parts.hidden.range, pass->rows[output_of(batch)->in],
                 batch->rows * model_parameters(batch->open->model)->embedding * sizeof(float));
    }
    if (count)
        pass_record_logits(batch, output_of(batch), pick_rows(batch, first, count), count);
    return HYPURA_OK;
}
