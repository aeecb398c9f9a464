/* Embeddings of texts: by encoders (BERT and its kin), and by the hidden states of any model. */
#include "engine/engine_private.h"

#include <math.h>
#include <stdio.h>

enum engine_pooling engine_pooling(const struct engine *engine)
{
    uint32_t type = 0;
    char key[128];
    snprintf(key, sizeof key, "%s.pooling_type", model_architecture(engine->open.model)->name);
    gguf_get_uint32(model_file(engine->open.model), key, &type);
    return type == 2 ? POOLING_FIRST : type == 3 ? POOLING_LAST : POOLING_MEAN;
}

static hypura_status pool(struct engine *engine, const int32_t *tokens, size_t count, uint32_t *positions, double *sum,
                          hypura_error *error)
{
    enum engine_pooling pooling = engine_pooling(engine);
    size_t chunk = engine->open.plan->chunk, width = model_parameters(engine->open.model)->embedding;
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
    size_t width = model_parameters(engine->open.model)->embedding;
    double *sum = NULL, length = 0;
    uint32_t *positions = NULL;
    engine_truncate(engine, 0, 0);
    hypura_status status = ALLOCATE(&sum, width, "embedding", error);
    if (!status)
        status = ALLOCATE(&positions, engine->open.plan->chunk, "positions", error);
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
