/* OpenAI's /v1/responses. An answer is a list of items: reasoning, a message, function calls. Answers are kept for a
 * while (conversations.c), so that a request can continue one by its id. */
#include "core/json_text.h"
#include "server/openai.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static json_t *or_null(const json_t *value)
{
    return value ? json_incref((json_t *)value) : json_null();
}

static bool is_kept(const json_t *request)
{
    return !json_is_false(json_object_get(request, "store"));
}

/* Whether the oldest messages of a conversation that does not fit are dropped; otherwise it is refused. */
static bool is_truncated(const json_t *request)
{
    const char *how = json_string_value(json_object_get(request, "truncation"));
    return how && strcmp(how, "auto") == 0;
}

/* The settings as the response has them, with defaults. */
static json_t *text_settings(const json_t *text)
{
    json_t *settings = json_is_object(text) ? json_copy((json_t *)text) : json_object();
    if (!json_object_get(settings, "format"))
        json_object_set_new(settings, "format", json_pack("{s:s}", "type", "text"));
    return settings;
}

static json_t *tool_list(const json_t *tools)
{
    json_t *list = json_array(), *tool;
    size_t i;
    json_array_foreach(tools, i, tool)
    {
        static const char *const fields[] = {"description", "parameters", "strict"};
        json_t *copy = json_copy(tool);
        for (size_t f = 0; f < COUNT_OF(fields); f++) {
            if (!json_object_get(copy, fields[f]))
                json_object_set_new(copy, fields[f], json_null());
        }
        json_array_append_new(list, copy);
    }
    return list;
}

/* The response object. Takes the references to output and usage; usage may be NULL. */
static json_t *response_json(const struct generation *generation, const char *status, json_t *output, json_t *usage)
{
    const json_t *request = exchange_json(generation->job.exchange);
    json_t *tools = json_object_get(request, "tools"), *text = json_object_get(request, "text");
    json_t *metadata = json_object_get(request, "metadata"), *choice = json_object_get(request, "tool_choice");
    const json_t *before = json_object_get(request, "previous_response_id");
    bool cut = strcmp(status, "incomplete") == 0;
    json_t *json = json_pack(
        "{s:s, s:s, s:I, s:s, s:n, s:o, s:o, s:o, s:s, s:o, s:b, s:o, s:{s:o, s:n}, s:b, s:f, s:f, s:s}", "id",
        generation->id, "object", "response", "created_at", (json_int_t)generation->created, "status", status, "error",
        "incomplete_details", cut ? json_pack("{s:s}", "reason", "max_output_tokens") : json_null(), "instructions",
        or_null(json_object_get(request, "instructions")), "max_output_tokens",
        or_null(json_object_get(request, "max_output_tokens")), "model", generation->model_name, "output", output,
        "parallel_tool_calls", 1, "previous_response_id", or_null(before), "reasoning", "effort",
        or_null(json_object_get(json_object_get(request, "reasoning"), "effort")), "summary", "store",
        (int)is_kept(request), "temperature", (double)generation->sampling.temperature, "top_p",
        (double)generation->sampling.top_p, "truncation", is_truncated(request) ? "auto" : "disabled");
    json_object_set_new(json, "text", text_settings(text));
    json_object_set_new(json, "tools", tool_list(tools));
    json_object_set_new(json, "background", json_false());
    json_object_set_new(json, "completed_at", usage && !cut ? json_integer((json_int_t)time(NULL)) : json_null());
    json_object_set_new(json, "service_tier", json_string("default"));
    json_object_set_new(json, "top_logprobs", json_integer(0));
    json_object_set_new(json, "tool_choice", choice ? json_incref(choice) : json_string("auto"));
    json_object_set_new(json, "metadata", json_is_object(metadata) ? json_incref(metadata) : json_object());
    json_object_set_new(json, "usage", usage ? usage : json_null());
    json_object_set_new(json, "user", json_null());
    return json;
}

static json_t *usage_json(const struct generation *generation)
{
    uint32_t prompt = prompt_tokens(generation), generated = generated_tokens(generation);
    return json_pack("{s:I, s:{s:I}, s:I, s:{s:I}, s:I}", "input_tokens", (json_int_t)prompt, "input_tokens_details",
                     "cached_tokens", (json_int_t)generation->choices[0].result.cached_tokens, "output_tokens",
                     (json_int_t)generated, "output_tokens_details", "reasoning_tokens",
                     (json_int_t)reasoning_tokens(generation), "total_tokens", (json_int_t)prompt + generated);
}

/* ---- items ---------------------------------------------------------------------------------------------------------
 */

static json_t *part_json(const struct buffer *text)
{
    return json_pack("{s:s, s:o, s:[], s:[]}", "type", "output_text", "text", buffer_json(text), "annotations",
                     "logprobs");
}

static json_t *message_json(const struct generation *generation, const struct choice *choice, bool done)
{
    json_t *content = done ? json_pack("[o]", part_json(&choice->content)) : json_array();
    return json_pack("{s:s, s:o, s:s, s:s, s:o}", "type", "message", "id", json_sprintf("msg_%s", generation->id + 5),
                     "status",
                     !done                                    ? "in_progress"
                     : choice->result.reason == FINISH_LENGTH ? "incomplete"
                                                              : "completed",
                     "role", "assistant", "content", content);
}

static json_t *reasoning_part_json(const struct buffer *text)
{
    return json_pack("{s:s, s:o}", "type", "reasoning_text", "text", buffer_json(text));
}

static json_t *reasoning_json(const struct generation *generation, const struct choice *choice, bool done)
{
    json_t *content = done ? json_pack("[o]", reasoning_part_json(&choice->reasoning)) : json_array();
    return json_pack("{s:s, s:o, s:[], s:o, s:s}", "type", "reasoning", "id", json_sprintf("rs_%s", generation->id + 5),
                     "summary", "content", content, "status", done ? "completed" : "in_progress");
}

static json_t *call_json(const struct generation *generation, const json_t *call, bool done)
{
    char *arguments = json_text_write(json_object_get(call, "arguments"), JSON_COMPACT);
    const char *id = json_string_value(json_object_get(call, "id"));
    json_t *name = json_object_get(call, "name");
    json_t *inside = json_object_get(json_object_get(generation->state, "namespaces"), json_string_value(name));
    json_t *json = json_pack("{s:s, s:o, s:s, s:s, s:O, s:s}", "type", "function_call", "id",
                             json_sprintf("fc_%s", id + 5), "call_id", id, "status", done ? "completed" : "in_progress",
                             "name", name, "arguments", done && arguments ? arguments : "");
    json_object_update(json, inside);
    free(arguments);
    return json;
}

/* ---- a stream ------------------------------------------------------------------------------------------------------
 */

static void event(struct generation *generation, const char *type, json_t *json)
{
    json_object_set_new(json, "type", json_string(type));
    json_object_set_new(json, "sequence_number", json_integer((json_int_t)generation->sequence++));
    exchange_write_event(generation->job.exchange, type, json);
}

/* Writes an event about the current item. */
static void item_event(struct generation *generation, const char *type, json_t *item, json_t *json)
{
    json_object_set_new(json, "output_index", json_integer((json_int_t)generation->block_index));
    if (item)
        json_object_set_new(json, "item", item);
    event(generation, type, json);
}

static json_t *about(const struct generation *generation, const char *kind, bool content)
{
    json_t *json = json_pack("{s:o}", "item_id", json_sprintf("%s_%s", kind, generation->id + 5));
    if (content)
        json_object_set_new(json, "content_index", json_integer(0));
    return json;
}

static void begin(struct generation *generation)
{
    if (generation->begun)
        return;
    generation->begun = true;
    event(generation, "response.created",
          json_pack("{s:o}", "response", response_json(generation, "in_progress", json_array(), NULL)));
    event(generation, "response.in_progress",
          json_pack("{s:o}", "response", response_json(generation, "in_progress", json_array(), NULL)));
}

static void close_item(struct generation *generation, struct choice *choice)
{
    json_t *json;
    if (generation->block == CHAT_CONTENT) {
        json = about(generation, "msg", true);
        json_object_set_new(json, "text", buffer_json(&choice->content));
        json_object_set_new(json, "logprobs", json_array());
        item_event(generation, "response.output_text.done", NULL, json);
        json = about(generation, "msg", true);
        json_object_set_new(json, "part", part_json(&choice->content));
        item_event(generation, "response.content_part.done", NULL, json);
        item_event(generation, "response.output_item.done", message_json(generation, choice, true), json_object());
    } else if (generation->block == CHAT_REASONING) {
        json = about(generation, "rs", true);
        json_object_set_new(json, "text", buffer_json(&choice->reasoning));
        item_event(generation, "response.reasoning_text.done", NULL, json);
        json = about(generation, "rs", true);
        json_object_set_new(json, "part", reasoning_part_json(&choice->reasoning));
        item_event(generation, "response.content_part.done", NULL, json);
        item_event(generation, "response.output_item.done", reasoning_json(generation, choice, true), json_object());
    }
    if (generation->block >= 0)
        generation->block_index++;
    generation->block = -1;
}

static void open_item(struct generation *generation, struct choice *choice, enum chat_delta_kind kind)
{
    close_item(generation, choice);
    generation->block = (int)kind;
    bool thinking = kind == CHAT_REASONING;
    struct buffer none = {0};
    item_event(generation, "response.output_item.added",
               thinking ? reasoning_json(generation, choice, false) : message_json(generation, choice, false),
               json_object());
    json_t *json = about(generation, thinking ? "rs" : "msg", true);
    json_object_set_new(json, "part", thinking ? reasoning_part_json(&none) : part_json(&none));
    item_event(generation, "response.content_part.added", NULL, json);
}

static void write_call(struct generation *generation, struct choice *choice)
{
    const json_t *call = json_array_get(choice->calls, json_array_size(choice->calls) - 1);
    json_t *done = call_json(generation, call, true);
    close_item(generation, choice);
    item_event(generation, "response.output_item.added", call_json(generation, call, false), json_object());
    item_event(
        generation, "response.function_call_arguments.delta", NULL,
        json_pack("{s:O, s:O}", "item_id", json_object_get(done, "id"), "delta", json_object_get(done, "arguments")));
    item_event(generation, "response.function_call_arguments.done", NULL,
               json_pack("{s:O, s:O, s:O}", "item_id", json_object_get(done, "id"), "name",
                         json_object_get(done, "name"), "arguments", json_object_get(done, "arguments")));
    item_event(generation, "response.output_item.done", done, json_object());
    generation->block_index++;
}

static void write_delta(struct generation *generation, struct choice *choice, const struct chat_delta *delta)
{
    begin(generation);
    if (delta->kind == CHAT_TOOL_CALL) {
        write_call(generation, choice);
        return;
    }
    bool thinking = delta->kind == CHAT_REASONING;
    if (generation->block != (int)delta->kind)
        open_item(generation, choice, delta->kind);
    json_t *json = about(generation, thinking ? "rs" : "msg", true), *text = json_stringn(delta->text, delta->size);
    json_object_set_new(json, "delta", text ? text : json_string("\xEF\xBF\xBD"));
    if (!thinking)
        json_object_set_new(json, "logprobs", json_array());
    item_event(generation, thinking ? "response.reasoning_text.delta" : "response.output_text.delta", NULL, json);
}

static void end_choice(struct generation *generation, struct choice *choice)
{
    begin(generation);
    if (choice->content.size == 0 && !choice->calls)
        open_item(generation, choice, CHAT_CONTENT);
    close_item(generation, choice);
}

/* The chat with this answer, for requests that continue it. */
static void keep(const struct generation *generation, const struct choice *choice, const json_t *response)
{
    if (!is_kept(exchange_json(generation->job.exchange)))
        return;
    json_t *messages = json_object_get(generation->state, "messages"), *call;
    json_t *answer = json_pack("{s:s, s:o}", "role", "assistant", "content", buffer_json(&choice->content));
    json_t *calls = json_array();
    size_t i;
    json_array_foreach(choice->calls, i, call) json_array_append_new(
        calls, json_pack("{s:O, s:s, s:{s:O, s:O}}", "id", json_object_get(call, "id"), "type", "function", "function",
                         "name", json_object_get(call, "name"), "arguments", json_object_get(call, "arguments")));
    if (i)
        json_object_set(answer, "tool_calls", calls);
    json_decref(calls);
    json_array_append_new(messages, answer);
    conversations_keep(exchange_server(generation->job.exchange)->conversations, generation->id, response, messages);
}

static void end(struct generation *generation)
{
    struct choice *choice = &generation->choices[0];
    json_t *output = json_array(), *call;
    size_t i;
    if (choice->reasoning.size)
        json_array_append_new(output, reasoning_json(generation, choice, true));
    if (choice->content.size || !choice->calls)
        json_array_append_new(output, message_json(generation, choice, true));
    json_array_foreach(choice->calls, i, call) json_array_append_new(output, call_json(generation, call, true));
    bool cut = choice->result.reason == FINISH_LENGTH;
    json_t *json = response_json(generation, cut ? "incomplete" : "completed", output, usage_json(generation));
    keep(generation, choice, json);
    if (!generation->stream) {
        exchange_reply_json(generation->job.exchange, 200, json);
        return;
    }
    event(generation, cut ? "response.incomplete" : "response.completed", json_pack("{s:o}", "response", json));
    exchange_end(generation->job.exchange);
}

/* Ends a stream with an error. The output already written is not repeated. */
static void fail(struct generation *generation, const char *message)
{
    json_t *json = response_json(generation, "failed", json_array(), NULL), *text = json_string(message);
    json_object_set_new(json, "error",
                        json_pack("{s:s, s:o}", "code", "server_error", "message",
                                  text ? text : json_string("an error whose message is not UTF-8 text")));
    event(generation, "response.failed", json_pack("{s:o}", "response", json));
    exchange_end(generation->job.exchange);
}

static const struct dialect dialect = {write_delta, end_choice, end, fail};

/* ---- reading -------------------------------------------------------------------------------------------------------
 */

/* The name under which the model sees a function of a namespace; a new reference, or NULL. */
static json_t *whole_name(const json_t *namespace, const json_t *name)
{
    const char *outer = json_string_value(namespace), *inner = json_string_value(name);
    size_t length = outer ? strlen(outer) : 0;
    if (!inner || length == 0)
        return inner ? json_incref((json_t *)name) : NULL;
    return json_sprintf("%s%s%s", outer, outer[length - 1] == '_' ? "" : "__", inner);
}

/* Adds a call that the model made: of a function, of a tool with text input, or of a tool that the client runs, whose
 * action is the argument. */
static bool add_item_call(struct generation *generation, const json_t *item, const char *type)
{
    json_t *name = whole_name(json_object_get(item, "namespace"), json_object_get(item, "name"));
    json_t *action = json_object_get(item, "action");
    const char *text = json_string_value(json_object_get(item, "arguments"));
    const json_t *input = json_object_get(item, "input");
    json_t *arguments = text ? json_text_read_string(text, JSON_ALLOW_NUL, NULL) : NULL;
    if (!arguments && input)
        arguments = json_pack("{s:O}", "input", input);
    if (!arguments)
        arguments = json_is_object(action) ? json_incref(action) : json_object();
    return add_call(generation, json_pack("{s:o, s:s, s:{s:o, s:o}}", "id", or_null(json_object_get(item, "call_id")),
                                          "type", "function", "function", "name",
                                          name ? name : json_stringn(type, strlen(type) - (sizeof "_call" - 1)),
                                          "arguments", arguments));
}

/* The result of a call: text, parts, or a tool's own objects, which the model gets as JSON. */
static json_t *output_text(struct generation *generation, json_t *output, hypura_error *error)
{
    json_t *parts = json_is_object(output) ? json_pack("[O]", output) : json_incref(output), *part;
    struct buffer text = {0};
    size_t i;
    bool fine = true;
    if (json_is_array(parts)) {
        json_array_foreach(parts, i, part)
        {
            char *whole = json_object_get(part, "type") ? NULL : json_text_write(part, JSON_COMPACT | JSON_ENCODE_ANY);
            if (whole)
                buffer_append_string(&text, whole);
            else
                fine = fine && append_part(generation, &text, "tool", part, error);
            free(whole);
        }
    }
    json_t *json = !fine                  ? NULL
                   : json_is_array(parts) ? buffer_json(&text)
                                          : content_text(generation, "tool", parts, error);
    buffer_free(&text);
    json_decref(parts);
    return json;
}

static bool add_item(struct generation *generation, const json_t *item, hypura_error *error)
{
    const char *type = json_string_value(json_object_get(item, "type"));
    json_t *id = json_object_get(item, "call_id");
    if (!type || strcmp(type, "message") == 0)
        return add_openai_message(generation, item, error);
    if (strcmp(type, "item_reference") == 0) {
        const char *which = json_string_value(json_object_get(item, "id"));
        json_t *kept = conversations_item(exchange_server(generation->job.exchange)->conversations, which);
        bool fine = kept && add_item(generation, kept, error);
        if (!kept)
            error_set(error, HYPURA_ERROR_ARGUMENT, "Item with id '%.60s' not found.", which ? which : "");
        json_decref(kept);
        return fine;
    }
    /* Calls without an id are of tools that a service ran itself. */
    if (json_is_string(id) && text_has_ending(type, "_call"))
        return add_item_call(generation, item, type);
    if (text_has_ending(type, "_call_output")) {
        if (!add_message(generation, "tool", output_text(generation, json_object_get(item, "output"), error)))
            return false;
        if (json_is_string(id))
            json_object_set(json_array_get(generation->messages, json_array_size(generation->messages) - 1),
                            "tool_call_id", id);
        return true;
    }
    if (strncmp(type, "input_", sizeof "input_" - 1) == 0) {
        struct buffer text = {0};
        bool fine =
            append_part(generation, &text, "user", item, error) && add_message(generation, "user", buffer_json(&text));
        buffer_free(&text);
        return fine;
    }
    if (strcmp(type, "reasoning") != 0)
        leave_out(generation, "an item", type);
    return true;
}

/* Adds the functions of a namespace, such as an MCP server's, under whole names that call_json translates back. */
static void add_namespace(struct generation *generation, const json_t *namespace)
{
    json_t *outer = json_object_get(namespace, "name"), *known = json_object_get(generation->state, "namespaces"),
           *tool;
    size_t i;
    if (!known) {
        known = json_object();
        json_object_set_new(generation->state, "namespaces", known);
    }
    json_array_foreach(json_object_get(namespace, "tools"), i, tool)
    {
        const char *type = json_string_value(json_object_get(tool, "type"));
        json_t *inner = json_object_get(tool, "name"), *name = whole_name(outer, inner);
        if (!name || !json_is_string(outer) || (type && strcmp(type, "function") != 0)) {
            leave_out(generation, "a tool of a namespace", type ? type : "");
        } else {
            add_tool(generation, name, json_object_get(tool, "description"), json_object_get(tool, "parameters"),
                     json_object_get(tool, "strict"));
            json_object_set_new(known, json_string_value(name),
                                json_pack("{s:O, s:O}", "namespace", outer, "name", inner));
        }
        json_decref(name);
    }
}

static bool read_tools(struct generation *generation, const json_t *json, hypura_error *error)
{
    const json_t *tools = json_object_get(json, "tools"), *choice = json_object_get(json, "tool_choice");
    size_t i;
    json_t *tool;
    if (json_array_size(tools) == 0)
        return true;
    json_array_foreach(tools, i, tool)
    {
        const char *type = json_string_value(json_object_get(tool, "type"));
        json_t *name = json_object_get(tool, "name");
        if (type && strcmp(type, "namespace") == 0) {
            add_namespace(generation, tool);
            continue;
        }
        if (type && strcmp(type, "function") != 0) {
            leave_out(generation, "a tool", type);
            continue;
        }
        if (!type || !json_is_string(name)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "tools[%zu] is not a function with a name", i);
            return false;
        }
        add_tool(generation, name, json_object_get(tool, "description"), json_object_get(tool, "parameters"),
                 json_object_get(tool, "strict"));
    }
    if (!check_choice(choice, error))
        return false;
    const char *kind = json_string_value(json_object_get(choice, "type"));
    bool allowed = kind && strcmp(kind, "allowed_tools") == 0;
    if (allowed)
        allow_tools(generation, json_object_get(choice, "tools"));
    json_t *name = whole_name(json_object_get(choice, "namespace"), json_object_get(choice, "name"));
    bool fine = choose_tools(generation,
                             allowed                  ? json_string_value(json_object_get(choice, "mode"))
                             : json_is_object(choice) ? "required"
                                                      : json_string_value(choice),
                             json_string_value(name), error);
    json_decref(name);
    return fine;
}

/* Refuses fields that cannot be ignored without changing the meaning of the request. */
static bool check_fields(const json_t *json, hypura_error *error)
{
    static const char *const fields[] = {"conversation", "prompt"};
    for (size_t i = 0; i < COUNT_OF(fields); i++) {
        const json_t *value = json_object_get(json, fields[i]);
        if (value && !json_is_null(value)) {
            error_set(error, HYPURA_ERROR_ARGUMENT,
                      "\"%s\" is not supported: use \"input\" or \"previous_response_id\" instead", fields[i]);
            return false;
        }
    }
    if (json_is_true(json_object_get(json, "background"))) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"background\" is not supported: the client must wait for the answer");
        return false;
    }
    return true;
}

static bool read_input(struct generation *generation, const json_t *input, hypura_error *error)
{
    if (json_is_string(input))
        return add_message(generation, "user", json_incref((json_t *)input));
    size_t i;
    json_t *item;
    json_array_foreach(input, i, item)
    {
        if (!add_item(generation, item, error))
            return false;
    }
    if (json_array_size(input) == 0)
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"input\" is required: a string or an array of items");
    return json_array_size(input) > 0;
}

/* Reads the fields that determine the prompt. */
static bool read_prompt(struct generation *generation, json_t *json, hypura_error *error)
{
    const json_t *before = json_object_get(json, "previous_response_id");
    const char *instructions = json_string_value(json_object_get(json, "instructions"));
    if (!check_fields(json, error) ||
        !read_effort(generation, json_object_get(json_object_get(json, "reasoning"), "effort"), error))
        return false;
    struct conversations *conversations = exchange_server(generation->job.exchange)->conversations;
    generation->messages =
        json_is_string(before) ? conversations_messages(conversations, json_string_value(before)) : json_array();
    if (!generation->messages) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "Previous response with id '%.60s' not found.",
                  json_string_value(before));
        return false;
    }
    if (!read_input(generation, json_object_get(json, "input"), error))
        return false;
    /* Instructions are not kept: a request that continues this one has its own. */
    generation->state = json_pack("{s:o}", "messages", json_copy(generation->messages));
    if (instructions)
        json_array_insert_new(generation->messages, 0,
                              json_pack("{s:s, s:s}", "role", "system", "content",
                                        instructions + volatile_head(generation, "system", instructions)));
    bool system = false;
    size_t i;
    json_t *message;
    json_array_foreach(generation->messages, i, message) system |= has_role(message, "system");
    add_own_messages(generation, system);
    return read_tools(generation, json, error);
}

static bool read_request(struct generation *generation, json_t *json, hypura_error *error)
{
    if (!read_openai_sampling(generation, json, error) ||
        !read_limit(json, "max_output_tokens", &generation->max_tokens, error) ||
        !read_format(generation, json_object_get(json_object_get(json, "text"), "format"), error))
        return false;
    generation->count = 1;
    if (is_truncated(json))
        generation->keep_first = 0;
    return read_prompt(generation, json, error);
}

void handle_openai_input_tokens(struct exchange *exchange)
{
    generation_handle_count(exchange, "response.input_tokens", read_prompt);
}

void handle_openai_responses(struct exchange *exchange)
{
    generation_handle(exchange, &dialect, "resp_", read_request);
}

static void fail_missing(struct exchange *exchange)
{
    char message[128];
    snprintf(message, sizeof message, "Response with id '%.60s' not found.", exchange_rest(exchange));
    exchange_fail(exchange, 404, message);
}

void handle_openai_response(struct exchange *exchange)
{
    json_t *response = conversations_response(exchange_server(exchange)->conversations, exchange_rest(exchange));
    if (response)
        exchange_reply_json(exchange, 200, response);
    else
        fail_missing(exchange);
}

void handle_openai_response_delete(struct exchange *exchange)
{
    const char *id = exchange_rest(exchange);
    if (conversations_forget(exchange_server(exchange)->conversations, id))
        exchange_reply_json(exchange, 200, json_pack("{s:s, s:s, s:b}", "id", id, "object", "response", "deleted", 1));
    else
        fail_missing(exchange);
}
