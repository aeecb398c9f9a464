/* An answer while it is written. All of this runs on the model's thread. */
#include "api/api_private.h"

#include <string.h>

static bool is_stopped(const struct hypura_session *session)
{
    return atomic_load(&session->stopped) || atomic_load(&session->cancelled);
}

/* From any thread. */
static bool is_awaited(void *context)
{
    return !is_stopped(context);
}

static void tell_token(struct hypura_session *session, const struct generated_token *token)
{
    struct token_logprob top[20];
    size_t count = session->asked.top;
    float own = logits_logprobs(token->logits, vocabulary_size(session->model->vocabulary), token->id, top, count);
    events_token(session, token->id, own, top, count);
}

/* The parser needs the text of control tokens, so it is shown. Returns the size of a piece without the text of the end
 * token, which is not part of the answer. */
static size_t without_end(struct hypura_session *session, const struct generated_token *token)
{
    struct buffer piece = {0};
    size_t size = token->size;
    if (session->result.end_token != HYPURA_NO_TOKEN)
        vocabulary_piece(session->model->vocabulary, session->result.end_token, true, &piece);
    if (piece.size && size >= piece.size && memcmp(token->text + size - piece.size, piece.data, piece.size) == 0)
        size -= piece.size;
    buffer_free(&piece);
    return size;
}

static bool on_token(void *context, const struct generated_token *token)
{
    struct hypura_session *session = context;
    const struct asked *asked = &session->asked;
    const struct vocabulary *vocabulary = session->model->vocabulary;
    bool end = token->id != NO_TOKEN && !asked->ignore_end && vocabulary_is_end_of_generation(vocabulary, token->id);
    size_t size = token->size;
    if (end) {
        session->ended = true;
        session->result.end_token = token->id;
    }
    if (session->ended && asked->parser && size)
        size = without_end(session, token);
    if (size && asked->parser) {
        session->torn |= chat_parser_push(asked->parser, token->text, size, NULL) != HYPURA_OK;
    } else if (size) {
        session->last_kind = CHAT_CONTENT;
        events_text(session, HYPURA_EVENT_CONTENT, token->text, size);
    }
    if (token->id != NO_TOKEN && !end) {
        session->torn |= token_array_append(&session->held, token->id, NULL) != HYPURA_OK;
        session->result.reasoning_tokens += session->last_kind == CHAT_REASONING;
        if (asked->want_tokens)
            tell_token(session, token);
    }
    return !session->torn && !is_stopped(session);
}

static hypura_finish finish_of(const struct hypura_session *session, const struct generation_result *result)
{
    switch (result->reason) {
    case FINISH_STOP:
        return result->stop_string ? HYPURA_FINISH_STOP : session->calls ? HYPURA_FINISH_TOOL_CALLS : HYPURA_FINISH_END;
    case FINISH_LENGTH:
        return session->asked.max_tokens && result->generated_tokens >= session->asked.max_tokens
                   ? HYPURA_FINISH_MAX_TOKENS
                   : HYPURA_FINISH_CONTEXT;
    default:
        return HYPURA_FINISH_CANCELLED;
    }
}

static void end_running(hypura_model *model)
{
    pthread_mutex_lock(&model->mutex);
    model->running--;
    pthread_mutex_unlock(&model->mutex);
}

static void on_done(void *context, const struct generation_result *result)
{
    struct hypura_session *session = context;
    hypura_result *out = &session->result;
    bool failed = result->reason == FINISH_ERROR;
    bool whole = result->reason == FINISH_STOP || result->reason == FINISH_LENGTH;
    if (session->asked.parser && whole && !session->torn)
        session->torn |= chat_parser_finish(session->asked.parser, NULL) != HYPURA_OK;
    out->finish = finish_of(session, result);
    out->stop = result->stop_string;
    out->prompt_tokens = result->prompt_tokens;
    out->cached_tokens = result->cached_tokens;
    out->answer_tokens = result->generated_tokens;
    out->prompt_seconds = (double)result->prompt_nanoseconds * 1e-9;
    out->answer_seconds = (double)result->decode_nanoseconds * 1e-9;
    /* The engine, not the program, cancelled it: its error says why. */
    bool cut = result->reason == FINISH_CANCELLED && !is_stopped(session) && result->error.status;
    end_running(session->model);
    events_end(session, failed || cut ? &result->error : NULL);
}

void answer_submit(struct hypura_session *session)
{
    const struct asked *asked = &session->asked;
    hypura_error error = {0};
    uint64_t number = 0;
    struct generation_request request = {.tokens = asked->prompt.ids,
                                         .count = asked->prompt.count,
                                         .max_tokens = asked->max_tokens,
                                         .positions = asked->context,
                                         .shift = asked->shift,
                                         .shift_keep = MIN(asked->shift_keep, (uint32_t)asked->prompt.count),
                                         .sampler = asked->sampler,
                                         .stops = (const char *const *)asked->stops,
                                         .stop_count = asked->stop_count,
                                         .ignore_end = asked->ignore_end,
                                         .show_special = asked->show_special,
                                         .on_token = on_token,
                                         .on_done = on_done,
                                         .is_awaited = is_awaited,
                                         .context = session};
    hypura_status status = HYPURA_OK;
    pthread_mutex_lock(&session->mutex); /* so either hypura_stop sees the number, or this sees the stop */
    bool stopped = is_stopped(session);
    if (!stopped) {
        status = generator_submit(session->model->generator, &request, &number, &error);
        session->number = number;
    }
    pthread_mutex_unlock(&session->mutex);
    if (!stopped && !status)
        return;
    session->result.finish = HYPURA_FINISH_CANCELLED;
    session->result.prompt_tokens = (uint32_t)asked->prompt.count;
    end_running(session->model);
    events_end(session, status ? &error : NULL);
}
