/* One turn of a conversation: makes the prompt, and shows the answer while it is written. */
#include "cli/conversation.h"

#include <stdlib.h>
#include <string.h>

static bool has_system(const struct conversation *chat)
{
    const char *role = json_string_value(json_object_get(json_array_get(chat->messages, 0), "role"));
    return role && strcmp(role, "system") == 0;
}

void conversation_set_system(struct conversation *chat, const char *text)
{
    if (has_system(chat))
        json_array_remove(chat->messages, 0);
    if (text && *text)
        json_array_insert_new(chat->messages, 0, json_pack("{s:s, s:o}", "role", "system", "content", json_text(text)));
    chat->changed = true;
}

/* Whether a prompt of this many tokens leaves room for an answer. */
static bool fits(const struct conversation *chat, size_t tokens)
{
    uint32_t context = hypura_get_plan(chat->model)->context_tokens;
    return tokens <= context - MIN(context / 8, chat->max_tokens ? chat->max_tokens : UINT32_MAX);
}

struct prompt {
    int32_t *tokens; /* hypura_free */
    size_t count;
};

static hypura_status chat_prompt(const struct conversation *chat, struct prompt *out, hypura_error *error)
{
    uint64_t failures = lost_memory();
    char *messages = json_dumps(chat->messages, JSON_COMPACT);
    char *variables = chat->variables ? json_dumps(chat->variables, JSON_COMPACT) : NULL;
    hypura_chat input = {.struct_size = sizeof input, .messages = messages, .variables = variables, .exact = true};
    hypura_status status = check_memory(failures, "conversation", error);
    if (!status)
        status = hypura_tokenize_chat(chat->model, &input, &out->tokens, &out->count, error);
    free(messages);
    free(variables);
    return status;
}

/* The prompt of the whole conversation. While it is too long, the oldest question is removed with its answer, but never
 * the last question. */
static hypura_status fitting_prompt(struct conversation *chat, struct prompt *out, hypura_error *error)
{
    bool shortened = false;
    hypura_status status;
    for (;;) {
        status = chat_prompt(chat, out, error);
        size_t first = has_system(chat);
        if (status || fits(chat, out->count) || json_array_size(chat->messages) < first + 3)
            break;
        json_array_remove(chat->messages, first);
        json_array_remove(chat->messages, first);
        hypura_free(out->tokens);
        *out = (struct prompt){0};
        shortened = true;
    }
    if (shortened)
        fprintf(stderr,
                "hypura: the conversation exceeds the context of %u tokens: its oldest part is left out "
                "(--context allows more)\n",
                hypura_get_plan(chat->model)->context_tokens);
    return status;
}

static hypura_status turn_prompt(struct conversation *chat, const char *text, size_t size, struct prompt *out,
                                 hypura_error *error)
{
    uint32_t context = hypura_get_plan(chat->model)->context_tokens;
    if (size == 0)
        return set_error(error, HYPURA_ERROR_ARGUMENT, "the prompt is empty");
    hypura_status status = chat->raw
                               ? hypura_tokenize(chat->model, text, size, HYPURA_ADD_SPECIAL | HYPURA_PARSE_SPECIAL,
                                                 &out->tokens, &out->count, error)
                               : fitting_prompt(chat, out, error);
    if (!status && out->count >= context)
        return set_error(
            error, HYPURA_ERROR_ARGUMENT,
            "the prompt has %zu tokens, which leaves no room for an answer in a context of %u: use --context "
            "%zu or more; the model was trained for %u",
            out->count, context, out->count + 1024, hypura_get_info(chat->model)->trained_tokens);
    return status;
}

static void say_figures(const hypura_result *result)
{
    double prompt = result->prompt_seconds, answer = result->answer_seconds;
    uint32_t fresh = result->prompt_tokens - result->cached_tokens;
    fprintf(stderr,
            "(prompt: %u tokens, %u of them cached, %.2f s, %.1f tokens/s; answer: %u tokens, %.2f s, %.1f "
            "tokens/s)\n",
            result->prompt_tokens, result->cached_tokens, prompt, prompt > 0 ? fresh / prompt : 0,
            result->answer_tokens, answer, answer > 0 ? result->answer_tokens / answer : 0);
}

/* How many tokens of the prompt the session does not hold. */
static uint32_t new_tokens(const struct conversation *chat, const struct prompt *prompt)
{
    size_t held, same = 0;
    const int32_t *tokens = hypura_session_tokens(chat->session, &held);
    while (same < held && same < prompt->count && tokens[same] == prompt->tokens[same])
        same++;
    return (uint32_t)(prompt->count - same);
}

/* Shows the answer. An interrupted answer is no error. */
static hypura_status show_events(struct conversation *chat, hypura_error *error)
{
    const hypura_event *event;
    hypura_status status;
    while (!(status = hypura_next(chat->session, -1, &event, error)) && event->kind != HYPURA_EVENT_END) {
        if (event->kind != HYPURA_EVENT_CONTENT)
            continue;
        prompt_line_stop();
        show_answer(event->text, event->size);
        text_add(&chat->answer, event->text, event->size);
        if (interrupted() || ferror(stdout))
            hypura_stop(chat->session);
    }
    return status;
}

static hypura_status answer(struct conversation *chat, const struct prompt *prompt, hypura_error *error)
{
    hypura_request request = {.struct_size = sizeof request,
                              .tokens = prompt->tokens,
                              .token_count = prompt->count,
                              .max_tokens = chat->max_tokens,
                              .stops = chat->stops.items,
                              .stop_count = chat->stops.count,
                              .ignore_end = chat->ignore_end};
    uint32_t fresh = new_tokens(chat, prompt);
    sampling_fill(&chat->sampling, &request);
    text_clear(&chat->answer);
    hypura_status status = hypura_start(chat->session, &request, error);
    if (status == HYPURA_ERROR_CANCELLED && interrupted())
        return HYPURA_OK;
    if (status)
        return status;
    answer_starts();
    progress_pause(false);
    prompt_line_start(chat->model, fresh);
    status = show_events(chat, error);
    prompt_line_stop();
    progress_pause(true);
    answer_ends();
    if (status)
        return status;
    const hypura_result *result = hypura_session_result(chat->session);
    if (result->finish == HYPURA_FINISH_CONTEXT)
        fprintf(stderr,
                "hypura: the answer ends here because the context of %u tokens is full (--context allows more)\n",
                hypura_get_plan(chat->model)->context_tokens);
    if (chat->verbose)
        say_figures(result);
    return HYPURA_OK;
}

static hypura_status append_answer(struct conversation *chat, hypura_error *error)
{
    uint64_t failures = lost_memory();
    const char *text = chat->answer.data ? chat->answer.data : "";
    json_t *content = json_stringn(text, chat->answer.size);
    json_array_append_new(chat->messages,
                          json_pack("{s:s, s:o}", "role", "assistant", "content", content ? content : json_text(text)));
    if (chat->answer.failed)
        return set_error(error, HYPURA_ERROR_MEMORY, "no memory to keep the answer");
    return check_memory(failures, "answer", error);
}

hypura_status conversation_turn(struct conversation *chat, const char *text, size_t size, hypura_error *error)
{
    struct prompt prompt = {0};
    uint64_t failures = lost_memory();
    json_t *content = json_stringn(text, size);
    bool is_text = content != NULL;
    if (!chat->raw && is_text)
        json_array_append_new(chat->messages, json_pack("{s:s, s:O}", "role", "user", "content", content));
    json_decref(content);
    if (check_memory(failures, "prompt", error))
        return error->status;
    if (!is_text && !chat->raw)
        return set_error(error, HYPURA_ERROR_ARGUMENT, "the prompt is not UTF-8 text");
    hypura_status status = turn_prompt(chat, text, size, &prompt, error);
    if (!status)
        status = answer(chat, &prompt, error);
    hypura_free(prompt.tokens);
    if (chat->raw)
        return status;
    size_t said = json_array_size(chat->messages);
    if (!status)
        status = append_answer(chat, error);
    while (status && json_array_size(chat->messages) >= said)
        json_array_remove(chat->messages, json_array_size(chat->messages) - 1);
    chat->changed |= !status;
    return status;
}
