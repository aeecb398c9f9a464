/* One turn of a conversation: the question becomes tokens, the answer is shown as it comes. */
#include "cli/conversation.h"

#include <string.h>

static bool show_token(void *context, const struct generated_token *token)
{
    struct conversation *chat = context;
    prompt_line_stop();
    show_answer(token->text, token->size);
    buffer_append(&chat->answer, token->text, token->size);
    return !interrupted() && !ferror(stdout);
}

static void note_done(void *context, const struct generation_result *result)
{
    struct conversation *chat = context;
    chat->result = *result;
    chat->done = true;
}

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

/* An answer wants some room too. */
static bool fits(const struct conversation *chat, size_t tokens)
{
    uint32_t positions = engine_plan(chat->engine)->positions;
    return tokens <= positions - MIN(positions / 8, chat->max_tokens ? chat->max_tokens : UINT32_MAX);
}

/* Tokens of the whole conversation, of which the engine's cache holds most. When they are too many, the oldest
 * question that is not the last is left out with its answer. */
static hypura_status chat_tokens(struct conversation *chat, struct token_array *tokens, hypura_error *error)
{
    bool shortened = false;
    for (;;) {
        struct chat_input input = {.messages = chat->messages,
                                   .variables = chat->variables,
                                   .add_generation_prompt = true,
                                   .now = prompt_now()};
        hypura_status status = prompt_from_chat(chat->template, chat->vocabulary, &input, tokens, NULL, error);
        size_t first = has_system(chat);
        if (status || fits(chat, tokens->count) || json_array_size(chat->messages) < first + 3)
            break;
        json_array_remove(chat->messages, first);
        json_array_remove(chat->messages, first);
        token_array_free(tokens);
        *tokens = (struct token_array){0};
        shortened = true;
    }
    if (shortened)
        fprintf(stderr,
                "hypura: the conversation no longer fits the context of %u tokens: its oldest part is left out "
                "(--context makes room)\n",
                engine_plan(chat->engine)->positions);
    return error->status;
}

static hypura_status turn_tokens(struct conversation *chat, const char *text, size_t size, struct token_array *tokens,
                                 hypura_error *error)
{
    uint32_t positions = engine_plan(chat->engine)->positions;
    if (size == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the prompt is empty");
    *error = (hypura_error){0};
    hypura_status status = chat->template
                               ? chat_tokens(chat, tokens, error)
                               : vocabulary_tokenize(chat->vocabulary, text, size,
                                                     TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, tokens, error);
    if (!status && tokens->count >= positions)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "the prompt has %zu tokens, which leaves no room for an answer in a context of %u: --context "
                         "%zu would make room; the model was trained for %u",
                         tokens->count, positions, tokens->count + 1024,
                         model_parameters(engine_model(chat->engine))->context);
    return status;
}

static void say_figures(const struct generation_result *result)
{
    double prompt = (double)result->prompt_nanoseconds * 1e-9, decode = (double)result->decode_nanoseconds * 1e-9;
    uint32_t fresh = result->prompt_tokens - result->cached_tokens;
    fprintf(stderr,
            "(prompt: %u tokens, %u of them known, %.2f s, %.1f tokens/s; answer: %u tokens, %.2f s, %.1f "
            "tokens/s)\n",
            result->prompt_tokens, result->cached_tokens, prompt, prompt > 0 ? fresh / prompt : 0,
            result->generated_tokens, decode, decode > 0 ? result->generated_tokens / decode : 0);
}

static hypura_status answer(struct conversation *chat, const struct token_array *tokens, hypura_error *error)
{
    struct generation_request request = {.tokens = tokens->ids,
                                         .count = tokens->count,
                                         .max_tokens = chat->max_tokens,
                                         .sampler = chat->sampling.sampler,
                                         .stops = chat->stops.items,
                                         .stop_count = chat->stops.count,
                                         .ignore_end = chat->ignore_end,
                                         .on_token = show_token,
                                         .on_done = note_done,
                                         .context = chat};
    sampling_start(&chat->sampling);
    buffer_clear(&chat->answer);
    chat->done = false;
    hypura_status status = generator_submit(chat->generator, &request, NULL, error);
    if (status)
        return status;
    answer_starts();
    progress_pause(false);
    engine_prompt_line_start(chat->engine, (uint32_t)(tokens->count - MIN(tokens->count, engine_positions(chat->engine, 0))));
    while (!chat->done)
        generator_step(chat->generator);
    prompt_line_stop();
    progress_pause(true);
    answer_ends();
    if (chat->result.reason == FINISH_ERROR) {
        *error = chat->result.error;
        return error->status;
    }
    if (chat->result.reason == FINISH_LENGTH && (!chat->max_tokens || chat->result.generated_tokens < chat->max_tokens))
        fprintf(stderr,
                "hypura: the answer ends here because the context of %u tokens is full (--context makes room)\n",
                engine_plan(chat->engine)->positions);
    if (chat->verbose)
        say_figures(&chat->result);
    return HYPURA_OK;
}

static hypura_status append_answer(struct conversation *chat, hypura_error *error)
{
    uint64_t failures = memory_failures();
    const char *text = chat->answer.data ? chat->answer.data : "";
    json_t *content = json_stringn(text, chat->answer.size);
    json_array_append_new(chat->messages,
                          json_pack("{s:s, s:o}", "role", "assistant", "content", content ? content : json_text(text)));
    if (chat->answer.failed)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory to keep the answer");
    return memory_check(failures, "answer", error);
}

hypura_status conversation_turn(struct conversation *chat, const char *text, size_t size, hypura_error *error)
{
    struct token_array tokens = {0};
    uint64_t failures = memory_failures();
    json_t *content = json_stringn(text, size);
    bool is_text = content != NULL;
    if (chat->template && is_text)
        json_array_append_new(chat->messages, json_pack("{s:s, s:O}", "role", "user", "content", content));
    json_decref(content);
    if (memory_check(failures, "prompt", error))
        return error->status;
    if (!is_text && chat->template)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the prompt is not UTF-8 text");
    hypura_status status = turn_tokens(chat, text, size, &tokens, error);
    if (!status)
        status = answer(chat, &tokens, error);
    token_array_free(&tokens);
    if (!chat->template)
        return status;
    size_t said = json_array_size(chat->messages);
    if (!status)
        status = append_answer(chat, error);
    while (status && json_array_size(chat->messages) >= said)
        json_array_remove(chat->messages, json_array_size(chat->messages) - 1);
    chat->changed |= !status;
    return status;
}
