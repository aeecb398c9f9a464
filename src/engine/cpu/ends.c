/* From tokens to the residual stream, and from it to logits. */
#include "engine/cpu/execute.h"

hypura_status run_embed(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->model);
    const int32_t *tokens = engine->batch->tokens;
    float *hidden = rows_of(engine, BUFFER_HIDDEN);
    unit_number unit = step->embed.unit;
    const struct gguf_tensor *tensor = model_unit(engine->model, unit)->slices[0].tensor;
    struct matrix matrix = matrix_at(NULL, tensor->type, p->embedding, p->vocabulary);
    if (!engine->plan->embedding_rows && store_pieces(engine->store, unit).count == 1)
        TRY(hold_matrix(engine, held, unit, &matrix, error));
    for (size_t r = 0; r < engine->rows; r++) {
        uint64_t offset = (uint64_t)tokens[r] * matrix.row_bytes;
        const uint8_t *row = matrix.data ? matrix.data + offset : engine->scratch.embedding_row;
        if (!matrix.data)
            TRY(store_read(engine->store, unit, offset, matrix.row_bytes, engine->scratch.embedding_row, error));
        compute_dequantize(matrix.type, row, hidden + r * p->embedding, p->embedding);
    }
    if (step->embed.scale != 1.0f)
        compute_scale(engine->compute, hidden, hidden, step->embed.scale, engine->rows * p->embedding);
    return HYPURA_OK;
}

hypura_status run_add_rows(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    size_t width = model_parameters(engine->model)->embedding;
    float *copy = rows_of(engine, BUFFER_BRANCH), *hidden = rows_of(engine, BUFFER_HIDDEN);
    struct matrix matrix;
    TRY(hold_matrix(engine, held, step->add_rows.unit, &matrix, error));
    for (size_t r = 0; r < engine->rows; r++, hidden += width) {
        size_t row = step->add_rows.by_position ? engine->scratch.positions[r] : 0;
        compute_dequantize(matrix.type, matrix.data + row * matrix.row_bytes, copy, width);
        compute_add(engine->compute, hidden, hidden, copy, width);
    }
    return HYPURA_OK;
}

hypura_status run_output(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_output *o = &step->output;
    const struct model_parameters *p = model_parameters(engine->model);
    const struct engine_batch *batch = engine->batch;
    struct scratch *s = &engine->scratch;
    if (engine->wanted == 0)
        return HYPURA_OK;
    /* Who takes them as they come gets them from all memory that the layers left: the matrix, which may stream, is gone
     * through as rarely as can be. */
    float *logits = batch->on_logits ? rows_of(engine, BUFFER_BRANCH) : s->logits;
    size_t room = batch->on_logits ? s->output_rows : engine->geometry.logits_rows;
    struct product product = {.unit = o->unit,
                              .role = ROLE_OUTPUT,
                              .job = {.input = input_of(engine, o->in, p->embedding, p->embedding),
                                      .output = logits,
                                      .output_stride = p->vocabulary}};
    struct matmul *job = &product.job;
    TRY(hold_vector(engine, held, o->bias, &job->bias, error));
    for (size_t first = 0; first < engine->wanted; first += job->tokens) {
        job->tokens = MIN(engine->wanted - first, room);
        job->input_rows = s->wanted + first;
        size_t count = job->tokens * p->vocabulary;
        TRY(multiply(engine, -1, &product, 1, error));
        if (o->scale != 1.0f)
            compute_scale(engine->compute, logits, logits, o->scale, count);
        if (o->soft_cap != 0.0f)
            compute_soft_cap(engine->compute, logits, count, o->soft_cap);
        TRY(give_logits(engine, batch, first, job->tokens, logits, error));
    }
    return HYPURA_OK;
}
