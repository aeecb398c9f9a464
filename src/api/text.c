/* Converts text to tokens and back, and chats to prompts. */
#include "api/api_private.h"
#include "core/json_text.h"

#include <string.h>

hypura_status need_vocabulary(const hypura_model *model, hypura_error *error)
{
    if (model->vocabulary)
        return HYPURA_OK;
    if (error)
        *error = model->no_vocabulary;
    return model->no_vocabulary.status;
}

static uint32_t own_flags(uint32_t flags)
{
    return (flags & HYPURA_ADD_SPECIAL ? TOKENIZE_ADD_SPECIAL : 0u) |
           (flags & HYPURA_PARSE_SPECIAL ? TOKENIZE_PARSE_SPECIAL : 0u);
}

hypura_status hypura_tokenize(const hypura_model *model, const char *text, size_t size, uint32_t flags,
                              int32_t **tokens, size_t *count, hypura_error *error)
{
    struct token_array array = {0};
    hypura_status status = need_vocabulary(model, error);
    if (!status)
        status = vocabulary_tokenize(model->vocabulary, text, size, own_flags(flags), &array, error);
    if (status) {
        token_array_free(&array);
        return status;
    }
    *tokens = array.ids;
    *count = array.count;
    return HYPURA_OK;
}

hypura_status hypura_count_tokens(const hypura_model *model, const char *text, size_t size, uint32_t flags,
                                  size_t *count, hypura_error *error)
{
    int32_t *tokens = NULL;
    hypura_status status = hypura_tokenize(model, text, size, flags, &tokens, count, error);
    memory_free(tokens);
    return status;
}

/* Moves a buffer's bytes to the program. An empty text is not NULL. */
static hypura_status hand_over(struct buffer *buffer, char **text, size_t *size, const char *what, hypura_error *error)
{
    buffer_append(buffer, "", 0);
    if (!buffer->failed && !buffer->data) {
        buffer_append_char(buffer, '\0');
        buffer->size = 0;
    }
    if (buffer->failed) {
        buffer_free(buffer);
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the %s", what);
    }
    *text = buffer->data;
    *size = buffer->size;
    return HYPURA_OK;
}

hypura_status hypura_detokenize(const hypura_model *model, const int32_t *tokens, size_t count, bool show_special,
                                char **text, size_t *size, hypura_error *error)
{
    struct buffer buffer = {0};
    hypura_status status = need_vocabulary(model, error);
    for (size_t i = 0; !status && i < count; i++) {
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocabulary_size(model->vocabulary))
            status = error_set(error, HYPURA_ERROR_ARGUMENT, "element %zu is not a token id below %u", i,
                               vocabulary_size(model->vocabulary));
    }
    if (status)
        return status;
    vocabulary_detokenize(model->vocabulary, tokens, count, show_special ? DETOKENIZE_SHOW_SPECIAL : 0, &buffer);
    return hand_over(&buffer, text, size, "text of the tokens", error);
}

bool hypura_is_end(const hypura_model *model, int32_t token)
{
    return model->vocabulary && vocabulary_is_end_of_generation(model->vocabulary, token);
}

int32_t hypura_begin_token(const hypura_model *model)
{
    bool adds = model->vocabulary && vocabulary_adds_bos(model->vocabulary);
    return adds ? vocabulary_special(model->vocabulary, SPECIAL_BOS) : HYPURA_NO_TOKEN;
}

const char *hypura_template_source(const hypura_model *model)
{
    return model->template_source.data;
}

/* ---- chats ----------------------------------------------------------------------------------------------------------
 */

/* Parses a text as a JSON array or object. *out stays as it is if text is NULL. */
static hypura_status read_json(json_t **out, const char *text, bool array, const char *what, hypura_error *error)
{
    json_error_t problem;
    if (!text)
        return HYPURA_OK;
    uint64_t failures = memory_failures();
    json_t *json = json_text_read_string(text, JSON_ALLOW_NUL, &problem);
    hypura_status status = memory_check(failures, what, error);
    if (!status && !json)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "the %s are not valid JSON: line %d, column %d: %s", what,
                           problem.line, problem.column, problem.text);
    else if (!status && !(array ? json_is_array(json) : json_is_object(json)))
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "the %s are not a JSON %s", what, array ? "array" : "object");
    if (status)
        json_decref(json);
    else
        *out = json;
    return status;
}

struct read_chat {
    struct chat_input input;
    json_t *messages, *tools, *variables;
    const struct chat_template *template;
};

static void close_chat(struct read_chat *chat)
{
    json_decref(chat->messages);
    json_decref(chat->tools);
    json_decref(chat->variables);
}

static hypura_status open_chat(struct read_chat *out, const hypura_model *model, const hypura_chat *given,
                               hypura_error *error)
{
    hypura_chat chat;
    *out = (struct read_chat){0};
    hypura_status status = take_struct(&chat, sizeof chat, given, "hypura_chat", error);
    if (!status)
        status = need_vocabulary(model, error);
    if (!status && !model->template) {
        status = model->no_template.status;
        if (error)
            *error = model->no_template;
    }
    if (!status && !chat.messages)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "the chat has no messages");
    if (!status)
        status = read_json(&out->messages, chat.messages, true, "messages", error);
    if (!status)
        status = read_json(&out->tools, chat.tools, true, "tools", error);
    if (!status)
        status = read_json(&out->variables, chat.variables, false, "variables", error);
    out->template = out->tools && model->tool_template ? model->tool_template : model->template;
    out->input = (struct chat_input){.messages = out->messages,
                                     .tools = out->tools,
                                     .variables = out->variables,
                                     .add_generation_prompt = !chat.whole,
                                     .close_last_answer = chat.whole,
                                     .adapt = !chat.exact,
                                     .now = prompt_now()};
    return status;
}

/* The template itself is valid, so an error in rendering is one of this chat: an argument. */
static hypura_status blame_chat(hypura_status status, hypura_error *error)
{
    if (status != HYPURA_ERROR_FORMAT && status != HYPURA_ERROR_UNSUPPORTED)
        return status;
    if (error)
        error->status = HYPURA_ERROR_ARGUMENT;
    return HYPURA_ERROR_ARGUMENT;
}

hypura_status hypura_render_chat(const hypura_model *model, const hypura_chat *given, char **text, size_t *size,
                                 hypura_error *error)
{
    struct read_chat chat;
    struct rendered_text rendered = {0};
    struct buffer buffer = {0};
    hypura_status status = open_chat(&chat, model, given, error);
    if (!status)
        status = blame_chat(prompt_render_chat(chat.template, model->vocabulary, &chat.input, &rendered, error), error);
    if (!status) {
        buffer_append(&buffer, rendered.text, rendered.size);
        status = hand_over(&buffer, text, size, "prompt", error);
    }
    rendered_text_free(&rendered);
    close_chat(&chat);
    return status;
}

hypura_status make_chat_prompt(const hypura_model *model, const hypura_chat *given, struct token_array *tokens,
                               json_t **tools, struct chat_format *format, hypura_error *error)
{
    struct read_chat chat;
    struct rendered_text rendered = {0};
    hypura_status status = open_chat(&chat, model, given, error);
    if (!status)
        status = blame_chat(prompt_from_chat(chat.template, model->vocabulary, &chat.input, tokens, &rendered, error),
                            error);
    if (!status && format)
        chat_format_detect(format, chat.template, &rendered);
    if (!status && tools)
        *tools = json_incref(chat.tools);
    rendered_text_free(&rendered);
    close_chat(&chat);
    return status;
}

hypura_status hypura_tokenize_chat(const hypura_model *model, const hypura_chat *chat, int32_t **tokens, size_t *count,
                                   hypura_error *error)
{
    struct token_array array = {0};
    hypura_status status = make_chat_prompt(model, chat, &array, NULL, NULL, error);
    if (status) {
        token_array_free(&array);
        return status;
    }
    *tokens = array.ids;
    *count = array.count;
    return HYPURA_OK;
}
