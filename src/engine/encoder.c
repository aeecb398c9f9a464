/* Encoders (BERT and its kin), and embeddings of texts: by encoders, and by the hidden states of any model.
 *
 * In an encoder a token sees all of its text, the later part too. So a text passes as one batch, from position 0. */
#include "engine/engine_private.h"

#include <math.h>
#include <stdio.h>

bool is_encoder(const struct engine *engine)
{
    return model_architecture(engine->model)->flags & ARCHITECTURE_ENCODER;
}

hypura_status check_encoder_batch(const struct engine *engine, const struct engine_batch *batch, hypura_error *error)
{
    if (batch->want_logits || batch->on_logits)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%s is an encoder: it gives embeddings (hypura embed), no tokens", model_name(engine->model));
    for (uint32_t i = 0; i < engine->span_count; i++)
        if (engine->scratch.positions[engine->scratch.spans[i].first_row] != 0)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "%s is an encoder: a text must pass as one batch",
                             model_name(engine->model));
    return HYPURA_OK;
}

/* ---- embeddings of texts -------------------------------------------------------------------------------------------
 */

enum engine_pooling engine_pooling(const struct engine *engine)
{
    uint32_t type = 0;
    char key[128];
    snprintf(key, sizeof key, "%s.pooling_type", model_architecture(engine->model)->name);
    gguf_get_uint32(model_file(engine->model), key, &type);
    return type == 2 ? POOLING_FIRST : type == 3 ? POOLING_LAST : POOLING_MEAN;
}

static hypura_status pool(struct engine *engine, const int32_t *tokens, size_t count, uint32_t *positions, double *sum,
                          hypura_error *error)
{
    enum engine_pooling pooling = engine_pooling(engine);
    size_t chunk = engine->plan->chunk, width = model_parameters(engine->model)->embedding;
    for (size_t at = 0, now; at < count; at += now) {
        now = MIN(chunk, count - at);
        for (size_t i = 0; i < now; i++)
            positions[i] = (uint32_t)(at + i);
        struct engine_batch batch = {.count = now, .tokens = tokens + at, .positions = positions};
        TRY(engine_forward(engine, &batch, error));
        for (size_t i = 0; i < now; i++) {
            const float *hidden = engine_hidden(engine) + i * width;
            bool counts = pooling == POOLING_FIRST ? at + i == 0 : pooling == POOLING_LAST ? at + i + 1 == count : true;
            for (size_t d = 0; counts && d < width; d++)
                sum[d] += (double)hidden[d];
        }
    }
    return HYPURA_OK;
}

hypura_status engine_embed(struct engine *engine, const int32_t *tokens, size_t count, float *out, hypura_error *error)
{
    size_t width = model_parameters(engine->model)->embedding;
    double *sum = NULL, length = 0;
    uint32_t *positions = NULL;
    engine_truncate(engine, 0, 0);
    hypura_status status = ALLOCATE(&sum, width, "embedding", error);
    if (!status)
        status = ALLOCATE(&positions, engine->plan->chunk, "positions", error);
    if (!status)
        status = pool(engine, tokens, count, positions, sum, error);
    engine_truncate(engine, 0, 0);
    for (size_t d = 0; !status && d < width; d++)
        length += sum[d] * sum[d];
    for (size_t d = 0; !status && d < width; d++)
        out[d] = (float)(sum[d] / (length > 0 ? sqrt(length) : 1));
    memory_free(sum);
    memory_free(positions);
    return status;
}
