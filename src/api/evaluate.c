/* Logits, embeddings and scores: one text at a time, with the engine to itself. */
#include "api/api_private.h"

static hypura_status begin(hypura_session *session, size_t tokens, hypura_error *error)
{
    uint32_t context = session->model->plan.context_tokens;
    if (session->started)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "the session's answer still runs: call hypura_next until HYPURA_EVENT_END");
    if (tokens > context)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "a text of %zu tokens does not fit the context of %u: raise options.context_tokens "
                         "(--context N), up to the model's limit",
                         tokens, context);
    return scheduler_begin_alone(session, ALONE_EMPTY, error);
}

static void end(hypura_session *session)
{
    generator_clear(session->model->generator);
    scheduler_end_alone(session);
}

struct rows {
    hypura_on_logits on_logits;
    void *context;
    size_t first; /* index in the text of the batch's first row */
};

static bool pass_row(void *context, size_t index, const float *logits)
{
    const struct rows *rows = context;
    return rows->on_logits(rows->context, rows->first + index, logits);
}

static hypura_status run_batches(struct engine *engine, const int32_t *tokens, size_t count, size_t first,
                                 struct rows *rows, hypura_error *error)
{
    size_t chunk = engine_plan(engine)->chunk;
    uint32_t *positions = NULL;
    bool *want = NULL;
    hypura_status status = ALLOCATE(&positions, chunk, "positions", error);
    if (!status)
        status = ALLOCATE(&want, chunk, "positions", error);
    for (size_t at = 0; !status && at < count; at += chunk) {
        size_t now = MIN(chunk, count - at);
        for (size_t i = 0; i < now; i++) {
            positions[i] = (uint32_t)(at + i);
            want[i] = at + i >= first;
        }
        struct engine_batch batch = {.count = now,
                                     .tokens = tokens + at,
                                     .positions = positions,
                                     .want_logits = want,
                                     .on_logits = pass_row,
                                     .on_logits_context = rows};
        rows->first = MAX(at, first);
        status = engine_forward(engine, &batch, error);
    }
    memory_free(positions);
    memory_free(want);
    return status;
}

hypura_status hypura_logits(hypura_session *session, const int32_t *tokens, size_t count, size_t first,
                            hypura_on_logits on_logits, void *context, hypura_error *error)
{
    struct rows rows = {on_logits, context, 0};
    hypura_status status = begin(session, count, error);
    if (status)
        return status;
    status = run_batches(session->model->engine, tokens, count, first, &rows, error);
    end(session);
    return status;
}

hypura_status hypura_embed(hypura_session *session, const int32_t *tokens, size_t count, float *out,
                           hypura_error *error)
{
    hypura_status status = begin(session, count, error);
    if (status)
        return status;
    status = engine_embed(session->model->engine, tokens, count, out, error);
    end(session);
    return status;
}

hypura_status hypura_judge(hypura_session *session, const char *query, size_t query_size, const char *text,
                           size_t text_size, float *score, hypura_error *error)
{
    hypura_model *model = session->model;
    struct prompt_pair pair = {query, query_size, text, text_size};
    struct token_array tokens = {0};
    hypura_status status = need_vocabulary(model, error);
    if (!status && !model->info.judges)
        status = error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s is not a re-ranker and cannot score texts",
                           model->info.name);
    if (!status)
        status = prompt_tokenize_pair(model->vocabulary, model_file(engine_model(model->engine)), &pair, NULL, &tokens,
                                      error);
    if (!status)
        status = begin(session, tokens.count, error);
    if (!status) {
        status = engine_judge(model->engine, tokens.ids, tokens.count, score, error);
        end(session);
    }
    token_array_free(&tokens);
    return status;
}
