/* OpenAI's /v1/chat/completions. */
#include "core/json_text.h"
#include "server/openai.h"

#include <stdlib.h>
#include <string.h>

static json_t *chunk(const struct generation *generation, json_t *choices)
{
    json_t *json = json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", generation->id, "object", "chat.completion.chunk",
                             "created", (json_int_t)generation->created, "model", generation->model_name,
                             "system_fingerprint", "fp_hypura", "choices", choices);
    if (generation->include_usage)
        json_object_set_new(json, "usage", json_null());
    return json;
}

static void write_choice(struct generation *generation, struct choice *choice, json_t *delta, const char *finish)
{
    json_t *logprobs = fresh_logprobs(choice);
    json_t *one = json_pack(
        "{s:i, s:o, s:o, s:s?}", "index", (int)choice->index, "delta", delta, "logprobs",
        logprobs && json_array_size(logprobs) ? json_pack("{s:O, s:n}", "content", logprobs, "refusal") : json_null(),
        "finish_reason", finish);
    json_decref(logprobs);
    exchange_write_event(generation->job.exchange, NULL, chunk(generation, json_pack("[o]", one)));
}

/* The first chunk of each answer has the role. */
static void begin(struct generation *generation, struct choice *choice)
{
    if (choice->begun)
        return;
    choice->begun = true;
    write_choice(generation, choice, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL);
}

static json_t *call_json(const struct choice *choice, size_t index, bool streamed)
{
    const json_t *call = json_array_get(choice->calls, index);
    char *arguments = json_text_write(json_object_get(call, "arguments"), JSON_COMPACT);
    json_t *json =
        json_pack("{s:O, s:s, s:{s:O, s:s}}", "id", json_object_get(call, "id"), "type", "function", "function", "name",
                  json_object_get(call, "name"), "arguments", arguments ? arguments : "{}");
    if (streamed)
        json_object_set_new(json, "index", json_integer((json_int_t)index));
    free(arguments);
    return json;
}

static void write_delta(struct generation *generation, struct choice *choice, const struct chat_delta *delta)
{
    begin(generation, choice);
    json_t *json = json_object();
    if (delta->kind == CHAT_TOOL_CALL) {
        json_object_set_new(json, "tool_calls",
                            json_pack("[o]", call_json(choice, json_array_size(choice->calls) - 1, true)));
    } else {
        json_t *text = json_stringn(delta->text, delta->size);
        if (!text)
            text = json_string("\xEF\xBF\xBD");
        if (delta->kind == CHAT_REASONING) {
            /* Clients use either name. */
            json_object_set(json, "reasoning_content", text);
            json_object_set(json, "reasoning", text);
        } else {
            json_object_set(json, "content", text);
        }
        json_decref(text);
    }
    write_choice(generation, choice, json, NULL);
}

static const char *finish_reason(const struct choice *choice)
{
    return choice->calls ? "tool_calls" : finish_name(choice);
}

static void end_choice(struct generation *generation, struct choice *choice)
{
    begin(generation, choice);
    write_choice(generation, choice, json_object(), finish_reason(choice));
}

static json_t *whole_choice(struct choice *choice)
{
    bool only_calls = choice->calls && choice->content.size == 0;
    json_t *message = json_pack("{s:s, s:o, s:n, s:[]}", "role", "assistant", "content",
                                only_calls ? json_null() : buffer_json(&choice->content), "refusal", "annotations");
    if (choice->reasoning.size) {
        json_object_set_new(message, "reasoning_content", buffer_json(&choice->reasoning));
        json_object_set_new(message, "reasoning", buffer_json(&choice->reasoning));
    }
    if (choice->calls) {
        json_t *calls = json_array();
        for (size_t i = 0; i < json_array_size(choice->calls); i++)
            json_array_append_new(calls, call_json(choice, i, false));
        json_object_set_new(message, "tool_calls", calls);
    }
    json_t *logprobs = fresh_logprobs(choice);
    return json_pack("{s:i, s:o, s:o, s:s}", "index", (int)choice->index, "message", message, "logprobs",
                     logprobs ? json_pack("{s:o, s:n}", "content", logprobs, "refusal") : json_null(), "finish_reason",
                     finish_reason(choice));
}

static void end(struct generation *generation)
{
    if (generation->stream) {
        openai_end_stream(generation, chunk(generation, json_array()));
        return;
    }
    json_t *choices = json_array();
    for (size_t i = 0; i < generation->count; i++)
        json_array_append_new(choices, whole_choice(&generation->choices[i]));
    exchange_reply_json(generation->job.exchange, 200,
                        json_pack("{s:s, s:s, s:I, s:s, s:s, s:o, s:o}", "id", generation->id, "object",
                                  "chat.completion", "created", (json_int_t)generation->created, "model",
                                  generation->model_name, "system_fingerprint", "fp_hypura", "choices", choices,
                                  "usage", openai_usage(generation)));
}

static const struct dialect dialect = {write_delta, end_choice, end, NULL};

static bool read_tools(struct generation *generation, const json_t *json, hypura_error *error)
{
    const json_t *tools = json_object_get(json, "tools"), *choice = json_object_get(json, "tool_choice");
    if (tools && !json_is_array(tools) && !json_is_null(tools)) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"tools\" must be an array");
        return false;
    }
    if (json_array_size(tools) == 0)
        return true;
    size_t i;
    json_t *tool;
    if (!check_choice(choice, error))
        return false;
    generation->tools = json_array();
    json_array_foreach(tools, i, tool)
    {
        const char *type = json_string_value(json_object_get(tool, "type"));
        if (type && strcmp(type, "function") != 0) {
            leave_out(generation, "a tool", type);
            continue;
        }
        if (!json_is_string(json_object_get(json_object_get(tool, "function"), "name"))) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "tools[%zu] is not a function with a name", i);
            return false;
        }
        json_array_append_new(generation->tools, json_deep_copy(tool));
    }
    const char *name = json_string_value(json_object_get(json_object_get(choice, "function"), "name"));
    const json_t *allowed = json_object_get(choice, "allowed_tools"), *mode = json_object_get(allowed, "mode");
    if (allowed)
        allow_tools(generation, json_object_get(allowed, "tools"));
    return choose_tools(generation,
                        allowed                  ? json_string_value(mode)
                        : json_is_object(choice) ? "required"
                                                 : json_string_value(choice),
                        name, error);
}

static bool read_request(struct generation *generation, json_t *json, hypura_error *error)
{
    const json_t *messages = json_object_get(json, "messages"), *options = json_object_get(json, "stream_options");
    const json_t *extra = json_object_get(json, "chat_template_kwargs");
    const json_t *reasoning = json_object_get(json, "reasoning"); /* in the format of /v1/responses */
    uint32_t top = 0;
    generation->include_usage = generation->stream && json_is_true(json_object_get(options, "include_usage"));
    if (!json_is_array(messages) || json_array_size(messages) == 0) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "[] is too short - 'messages'");
        return false;
    }
    if (!read_openai_sampling(generation, json, error) ||
        !read_limit(json, "max_tokens", &generation->max_tokens, error) ||
        !read_limit(json, "max_completion_tokens", &generation->max_tokens, error) ||
        !read_format(generation, json_object_get(json, "response_format"), error) ||
        !read_effort(generation, json_object_get(reasoning, "effort"), error) ||
        !read_effort(generation, json_object_get(json, "reasoning_effort"), error))
        return false;
    if (json_is_true(json_object_get(json, "logprobs"))) {
        if (!read_count(json, "top_logprobs", &top, error))
            return false;
        if (top > 20) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"top_logprobs\" must be between 0 and 20");
            return false;
        }
        generation->top_logprobs = (int32_t)top;
    }
    read_thinking(generation, json_object_get(json, "thinking"));
    read_thinking(generation, json_object_get(json, "enable_thinking"));
    read_thinking(generation, json_object_get(reasoning, "enabled"));
    if (json_is_object(extra))
        json_object_update(generation->variables, (json_t *)extra);
    generation->messages = json_array();
    bool system = false;
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message)
    {
        if (!add_openai_message(generation, message, error))
            return false;
        system |= has_role(json_array_get(generation->messages, i), "system");
    }
    add_own_messages(generation, system);
    return read_tools(generation, json, error);
}

void handle_openai_chat(struct exchange *exchange)
{
    generation_handle(exchange, &dialect, "chatcmpl-", read_request);
}
