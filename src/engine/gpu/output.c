/* Logits of the wanted rows, if the output matrix is on the GPU. */
#include "engine/gpu/pass.h"

const struct step_output *pass_output_step(const struct batch *batch)
{
    return &steps_find(steps_after(batch->open->steps), STEP_OUTPUT)->output;
}

/* Wanted rows first to first + count, contiguous. */
static struct gpu_range pick_rows(struct batch *batch, size_t first, size_t count)
{
    struct gpu_pass *pass = batch->pass;
    const uint32_t *wanted = batch->scratch.wanted + first;
    uint64_t width = model_parameters(batch->open->model)->embedding;
    struct gpu_range from = pass->rows[pass_output_step(batch)->in];
    if (wanted[count - 1] - wanted[0] + 1 == count && wanted[0] * width * sizeof(float) % GPU_ALIGNMENT == 0)
        return range_at(from, wanted[0] * width);
    for (size_t i = 0; i < count; i++)
        gpu_copy(pass->gpu, range_at(pass->picked, i * width), range_at(from, wanted[i] * width),
                 width * sizeof(float));
    gpu_barrier(pass->gpu);
    return pass->picked;
}

/* Records the logits of contiguous rows, for some rows of the matrix or for all. */
static void record_rows(struct batch *batch, const struct step_output *o, const struct gpu_matrix *matrix,
                        uint32_t first, struct gpu_range rows, size_t count)
{
    struct gpu_pass *pass = batch->pass;
    const struct model_parameters *p = model_parameters(batch->open->model);
    const uint64_t elements = count * (uint64_t)matrix->rows;
    const struct gpu_range none = {0}, bias = pass_vector(batch, o->bias);
    const bool scaled = o->matrix_scale != NO_UNIT;
    struct pass_product product = {.role = ROLE_OUTPUT,
                                   .first = first,
                                   .scale = pass_vector(batch, o->matrix_scale),
                                   .scaled_bias = scaled ? bias : none,
                                   .job = {.weights = *matrix,
                                           .in = rows,
                                           .out = pass->logits,
                                           .bias = scaled ? none : bias,
                                           .tokens = (uint32_t)count,
                                           .in_stride = p->embedding,
                                           .out_stride = matrix->rows}};
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
}

void pass_record_logits(struct batch *batch, const struct step_output *o, struct gpu_range rows, size_t count)
{
    struct gpu_pass *pass = batch->pass;
    const struct gpu_matrix matrix = pass_matrix(batch, o->unit);
    record_rows(batch, o, &matrix, 0, rows, count);
    gpu_copy(pass->gpu, pass->back_parts.logits.range, pass->logits, count * (uint64_t)matrix.rows * sizeof(float));
}

void pass_record_some_logits(struct batch *batch, const struct gpu_matrix *matrix, uint32_t first,
                             struct gpu_range rows, size_t count)
{
    struct gpu_pass *pass = batch->pass;
    const uint64_t all = model_parameters(batch->open->model)->vocabulary;
    record_rows(batch, pass_output_step(batch), matrix, first, rows, count);
    for (size_t i = 0; i < count; i++)
        gpu_copy(pass->gpu, range_at(pass->divided.logits.range, i * all + first),
                 range_at(pass->logits, i * matrix->rows), matrix->rows * sizeof(float));
}

/* As the output's norm leaves them. */
hypura_status pass_record_normed(struct batch *batch, struct gpu_range to, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    pass_record(pass);
    TRY(pass_record_steps(batch, pass_steps_after(batch), error));
    pass_settle(pass);
    gpu_copy(pass->gpu, to, pass->rows[pass_output_step(batch)->in],
             batch->rows * model_parameters(batch->open->model)->embedding * sizeof(float));
    return HYPURA_OK;
}

hypura_status pass_record_output(struct batch *batch, size_t first, size_t count, hypura_error *error)
{
    pass_record(batch->pass);
    if (first == 0)
        TRY(pass_record_normed(batch, batch->pass->back_parts.hidden.range, error));
    if (count)
        pass_record_logits(batch, pass_output_step(batch), pick_rows(batch, first, count), count);
    return HYPURA_OK;
}
