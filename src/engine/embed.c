/* Embeddings and scores of texts, from encoders (BERT and its kin) or from the hidden states of any model. */
#include "engine/engine_private.h"

#include <math.h>

bool engine_judges(const struct engine *engine)
{
    return model_parameters(engine->open.model)->judges;
}

static hypura_status pool(struct engine *engine, const int32_t *tokens, size_t count, uint32_t *positions, double *sum,
                          hypura_error *error)
{
    const enum pooling pooling = model_parameters(engine->open.model)->pooling;
    size_t chunk = engine->open.plan->chunk, width = model_parameters(engine->open.model)->embedding;
    for (size_t at = 0, now; at < count; at += now) {
        now = MIN(chunk, count - at);
        for (size_t i = 0; i < now; i++)
            positions[i] = (uint32_t)(at + i);
        struct engine_batch batch = {.count = now, .tokens = tokens + at, .positions = positions, .want_hidden = true};
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

/* Computes the pooled row and its final form: out[embedding]. */
static hypura_status pool_text(struct engine *engine, const int32_t *tokens, size_t count, float *out,
                               hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->open.model);
    const size_t width = p->embedding;
    const double shares = p->pooling == POOLING_MEAN ? (double)count : 1;
    double *sum = NULL;
    uint32_t *positions = NULL;
    engine_truncate(engine, 0, 0);
    hypura_status status = ALLOCATE(&sum, width, "embedding", error);
    if (!status)
        status = ALLOCATE(&positions, engine->open.plan->chunk, "positions", error);
    if (!status)
        status = pool(engine, tokens, count, positions, sum, error);
    engine_truncate(engine, 0, 0);
    for (size_t d = 0; !status && d < width; d++)
        out[d] = (float)(sum[d] / (shares > 0 ? shares : 1));
    if (!status && count > 0)
        status = engine_pass_row(engine, out, error);
    memory_free(sum);
    memory_free(positions);
    return status;
}

hypura_status engine_embed(struct engine *engine, const int32_t *tokens, size_t count, float *out, hypura_error *error)
{
    size_t width = model_parameters(engine->open.model)->embedding;
    double length = 0;
    if (engine_judges(engine))
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%s is a re-ranker (/v1/rerank): it gives scores, no embeddings",
                         model_name(engine->open.model));
    TRY(pool_text(engine, tokens, count, out, error));
    for (size_t d = 0; d < width; d++)
        length += (double)out[d] * (double)out[d];
    for (size_t d = 0; d < width; d++)
        out[d] = (float)((double)out[d] / (length > 0 ? sqrt(length) : 1));
    return HYPURA_OK;
}

/* The first value of the softmax of the scores. */
static float first_share(const float *scores, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += exp((double)scores[i] - (double)scores[0]);
    return (float)(1 / sum);
}

hypura_status engine_judge(struct engine *engine, const int32_t *tokens, size_t count, float *score,
                           hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->open.model);
    float *row;
    if (!engine_judges(engine))
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s is not a re-ranker: it has no classifier of texts",
                         model_name(engine->open.model));
    TRY(ALLOCATE(&row, p->embedding, "scores", error));
    hypura_status status = pool_text(engine, tokens, count, row, error);
    bool encoder = model_architecture(engine->open.model)->flags & ARCHITECTURE_ENCODER;
    if (!status)
        *score = encoder || count == 0 ? row[0] : first_share(row, p->labels);
    memory_free(row);
    return status;
}
