/* From tokens to the residual stream, and from it to logits. */
#include "engine/cpu/execute.h"

#include <string.h>

/* Reads the embeddings of all rows to the end of the buffer of their floats. A row's floats are at least as long as its
 * data, so converting in order overwrites only rows that were already converted, and the row itself. */
static hypura_status read_embeddings(struct batch *batch, unit_number unit, size_t row_bytes, size_t width,
                                     uint8_t **out, hypura_error *error)
{
    size_t bytes = batch->rows * width * sizeof(float);
    *out = (uint8_t *)rows_of(batch, BUFFER_HIDDEN) + (bytes - batch->rows * row_bytes);
    struct store_rows rows = {
        .rows = (const uint32_t *)(const void *)batch->asked->tokens, .count = batch->rows, .out = *out};
    TRY(store_want_rows(batch->open->store, unit, &rows, error));
    return store_get_rows(batch->open->store, unit, error);
}

hypura_status run_embed(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    const int32_t *tokens = batch->asked->tokens;
    float *hidden = rows_of(batch, BUFFER_HIDDEN);
    unit_number unit = step->embed.unit;
    const struct gguf_tensor *tensor = model_unit(batch->open->model, unit)->slices[0].tensor;
    struct matrix matrix = matrix_at(NULL, tensor->type, p->embedding, p->vocabulary);
    bool rows = batch->open->plan->embedding_rows && unit == model_tensor(batch->open->model, ROLE_TOKEN_EMBEDDING);
    if (!rows && store_pieces(batch->open->store, unit).count == 1)
        TRY(hold_matrix(batch, held, unit, &matrix, error));
    const size_t width = step->embed.copies * (size_t)p->embedding;
    uint8_t *there = NULL;
    if (!matrix.data)
        TRY(read_embeddings(batch, unit, matrix.row_bytes, width, &there, error));
    for (size_t r = 0; r < batch->rows; r++, hidden += width) {
        const uint8_t *row =
            matrix.data ? matrix.data + (size_t)tokens[r] * matrix.row_bytes : batch->scratch.embedding_row;
        if (there)
            memcpy(batch->scratch.embedding_row, there + r * matrix.row_bytes, matrix.row_bytes);
        compute_dequantize(matrix.type, row, hidden, p->embedding);
        if (step->embed.scale != 1.0f)
            compute_scale(batch->compute, hidden, hidden, step->embed.scale, p->embedding);
        for (size_t copy = p->embedding; copy < width; copy += p->embedding)
            memcpy(hidden + copy, hidden, p->embedding * sizeof *hidden);
    }
    return HYPURA_OK;
}

hypura_status run_add_rows(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    size_t width = model_parameters(batch->open->model)->embedding;
    float *copy = rows_of(batch, BUFFER_BRANCH), *hidden = rows_of(batch, BUFFER_HIDDEN);
    struct matrix matrix;
    TRY(hold_matrix(batch, held, step->add_rows.unit, &matrix, error));
    for (size_t r = 0; r < batch->rows; r++, hidden += width) {
        size_t row = step->add_rows.by_position ? batch->scratch.positions[r] : 0;
        compute_dequantize(matrix.type, matrix.data + row * matrix.row_bytes, copy, width);
        compute_add(batch->compute, hidden, hidden, copy, width);
    }
    return HYPURA_OK;
}

hypura_status run_output(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_output *o = &step->output;
    const struct model_parameters *p = model_parameters(batch->open->model);
    const struct engine_batch *asked = batch->asked;
    struct scratch *s = &batch->scratch;
    if (batch->wanted == 0)
        return HYPURA_OK;
    /* A caller that takes many logits piecewise (on_logits) gets them in all memory that the layers have left: a matrix
     * that streams is then read as few times as possible. */
    const bool many = gives_many_logits(batch);
    float *logits = many ? rows_of(batch, BUFFER_BRANCH) : s->logits;
    size_t room = many ? s->output_rows : batch->open->geometry.logits_rows;
    struct product product = {.unit = o->unit,
                              .role = ROLE_OUTPUT,
                              .job = {.input = input_of(batch, o->in, p->embedding, p->embedding, 0),
                                      .output = logits,
                                      .output_stride = p->vocabulary}};
    struct matmul *job = &product.job;
    const float *bias;
    TRY(hold_vector(batch, held, o->bias, &bias, error));
    TRY(hold_vector(batch, held, o->matrix_scale, &product.scale, error));
    for (size_t first = 0; first < batch->wanted; first += job->tokens) {
        job->tokens = MIN(batch->wanted - first, room);
        job->bias = bias;
        job->input_rows = s->wanted + first;
        size_t count = job->tokens * p->vocabulary;
        TRY(multiply(batch, -1, &product, 1, error));
        if (o->scale != 1.0f)
            compute_scale(batch->compute, logits, logits, o->scale, count);
        if (o->soft_cap != 0.0f)
            compute_soft_cap(batch->compute, logits, count, o->soft_cap);
        TRY(give_logits(batch, asked, first, job->tokens, logits, error));
    }
    return HYPURA_OK;
}
