/* Anthropic's /v1/messages. A message is a list of blocks: text, thinking, tool calls. */
#include "server/openai.h"

#include <stdlib.h>
#include <string.h>

static const char *stop_reason(const struct choice *choice)
{
    return choice->calls                            ? "tool_use"
           : choice->result.stop_string             ? "stop_sequence"
           : choice->result.reason == FINISH_LENGTH ? "max_tokens"
                                                    : "end_turn";
}

/* The tokens of the prompt are those read from the cache, those added to it up to the last mark, and input_tokens. The
 * other fields are for services that this server does not have. */
static json_t *usage_json(const struct generation *generation, uint32_t generated, bool whole)
{
    uint32_t cached = generation->choices[0].result.cached_tokens;
    json_int_t created = MAX(generation->marked_tokens, cached) - cached;
    json_t *json = json_pack("{s:I, s:I, s:I, s:I, s:{s:I}, s:n}", "input_tokens",
                             (json_int_t)prompt_tokens(generation) - cached - created, "output_tokens",
                             (json_int_t)generated, "cache_creation_input_tokens", created, "cache_read_input_tokens",
                             (json_int_t)cached, "output_tokens_details", "thinking_tokens",
                             (json_int_t)reasoning_tokens(generation), "server_tool_use");
    if (whole) {
        bool hour = generation->marked_for_hour;
        json_object_set_new(json, "cache_creation",
                            generation->marked
                                ? json_pack("{s:I, s:I}", "ephemeral_5m_input_tokens", hour ? 0 : created,
                                            "ephemeral_1h_input_tokens", hour ? created : 0)
                                : json_null());
        json_object_set_new(json, "service_tier", json_string("standard"));
        json_object_set_new(json, "inference_geo", json_null());
        json_object_set_new(json, "speed", json_null());
    }
    return json;
}

static json_t *message_json(const struct generation *generation, json_t *content, const struct choice *ended)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:s?, s:s?, s:n, s:n, s:o}", "id", generation->id, "type", "message",
                     "role", "assistant", "model", generation->model_name, "content", content, "stop_reason",
                     ended ? stop_reason(ended) : NULL, "stop_sequence", ended ? ended->result.stop_string : NULL,
                     "stop_details", "container", "usage",
                     usage_json(generation, ended ? ended->result.generated_tokens : 0, true));
}

static json_t *call_json(const json_t *call, json_t *input)
{
    return json_pack("{s:s, s:O, s:O, s:o, s:{s:s}}", "type", "tool_use", "id", json_object_get(call, "id"), "name",
                     json_object_get(call, "name"), "input", input, "caller", "type", "direct");
}

static json_t *text_json(json_t *text)
{
    return json_pack("{s:s, s:o, s:n}", "type", "text", "text", text, "citations");
}

/* ---- a stream ------------------------------------------------------------------------------------------------------
 */

static void event(struct generation *generation, const char *type, json_t *json)
{
    json_object_set_new(json, "type", json_string(type));
    exchange_write_event(generation->job.exchange, type, json);
}

static void begin(struct generation *generation)
{
    if (generation->begun)
        return;
    generation->begun = true;
    event(generation, "message_start", json_pack("{s:o}", "message", message_json(generation, json_array(), NULL)));
}

static void close_block(struct generation *generation)
{
    if (generation->block < 0)
        return;
    event(generation, "content_block_stop", json_pack("{s:I}", "index", (json_int_t)generation->block_index++));
    generation->block = -1;
}

static void open_block(struct generation *generation, enum chat_delta_kind kind, json_t *block)
{
    close_block(generation);
    generation->block = (int)kind;
    event(generation, "content_block_start",
          json_pack("{s:I, s:o}", "index", (json_int_t)generation->block_index, "content_block", block));
}

static void block_delta(struct generation *generation, const char *type, const char *key, json_t *value)
{
    event(generation, "content_block_delta",
          json_pack("{s:I, s:{s:s, s:o}}", "index", (json_int_t)generation->block_index, "delta", "type", type, key,
                    value));
}

static void write_delta(struct generation *generation, struct choice *choice, const struct chat_delta *delta)
{
    begin(generation);
    if (delta->kind == CHAT_TOOL_CALL) {
        json_t *call = json_array_get(choice->calls, json_array_size(choice->calls) - 1);
        open_block(generation, delta->kind, call_json(call, json_object()));
        block_delta(generation, "input_json_delta", "partial_json", json_stringn(delta->text, delta->size));
        close_block(generation);
        return;
    }
    bool thinking = delta->kind == CHAT_REASONING;
    if (generation->block != (int)delta->kind)
        open_block(generation, delta->kind,
                   thinking ? json_pack("{s:s, s:s, s:s}", "type", "thinking", "thinking", "", "signature", "")
                            : text_json(json_string("")));
    json_t *text = json_stringn(delta->text, delta->size);
    block_delta(generation, thinking ? "thinking_delta" : "text_delta", thinking ? "thinking" : "text",
                text ? text : json_string("\xEF\xBF\xBD"));
}

static void end_choice(struct generation *generation, struct choice *choice)
{
    begin(generation);
    close_block(generation);
    event(generation, "message_delta",
          json_pack("{s:{s:s, s:s?, s:n, s:n}, s:o}", "delta", "stop_reason", stop_reason(choice), "stop_sequence",
                    choice->result.stop_string, "stop_details", "container", "usage",
                    usage_json(generation, choice->result.generated_tokens, false)));
    event(generation, "message_stop", json_object());
}

/* ---- a whole answer ------------------------------------------------------------------------------------------------
 */

static void end(struct generation *generation)
{
    struct choice *choice = &generation->choices[0];
    if (generation->stream) {
        exchange_end(generation->job.exchange);
        return;
    }
    json_t *content = json_array(), *call;
    size_t i;
    if (choice->reasoning.size)
        json_array_append_new(content, json_pack("{s:s, s:o, s:s}", "type", "thinking", "thinking",
                                                 buffer_json(&choice->reasoning), "signature", ""));
    if (choice->content.size || !choice->calls)
        json_array_append_new(content, text_json(buffer_json(&choice->content)));
    json_array_foreach(choice->calls, i, call)
        json_array_append_new(content, call_json(call, json_incref(json_object_get(call, "arguments"))));
    exchange_reply_json(generation->job.exchange, 200, message_json(generation, content, choice));
}

static const struct dialect dialect = {write_delta, end_choice, end, NULL};

/* ---- reading -------------------------------------------------------------------------------------------------------
 */

/* Merges consecutive turns of the same role, as the API does, since many templates require roles to alternate. Collects
 * their texts in an array, because there may be many; join_turns joins them. */
static bool add_turn(struct generation *generation, const char *role, json_t *content)
{
    size_t count = json_array_size(generation->messages);
    json_t *last = count ? json_array_get(generation->messages, count - 1) : NULL;
    const char *before = json_string_value(json_object_get(last, "role"));
    if (!content)
        return false;
    if (before && strcmp(before, role) == 0 && !json_object_get(last, "tool_calls"))
        return json_array_append_new(json_object_get(last, "content"), content) == 0;
    return add_message(generation, role, json_pack("[o]", content));
}

static void join_turns(struct generation *generation)
{
    size_t i, k;
    json_t *message, *part;
    json_array_foreach(generation->messages, i, message)
    {
        struct buffer text = {0};
        const json_t *parts = json_object_get(message, "content");
        if (!json_is_array(parts))
            continue;
        json_array_foreach(parts, k, part)
        {
            if (text.size && json_string_length(part))
                buffer_append_char(&text, '\n');
            buffer_append(&text, json_string_value(part), json_string_length(part));
        }
        json_object_set_new(message, "content", buffer_json(&text));
        buffer_free(&text);
    }
}

static bool add_result(struct generation *generation, const json_t *block, hypura_error *error)
{
    if (!add_message(generation, "tool", content_text(generation, "tool", json_object_get(block, "content"), error)))
        return false;
    json_t *id = json_object_get(block, "tool_use_id");
    if (json_is_string(id))
        json_object_set(json_array_get(generation->messages, json_array_size(generation->messages) - 1), "tool_call_id",
                        id);
    return true;
}

static bool collect_call(json_t *calls, const json_t *block, hypura_error *error)
{
    json_t *name = json_object_get(block, "name"), *input = json_object_get(block, "input");
    json_t *id = json_object_get(block, "id");
    if (!json_is_string(name)) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "a tool_use block has no name");
        return false;
    }
    json_array_append_new(calls,
                          json_pack("{s:O, s:s, s:{s:O, s:o}}", "id", id ? id : json_null(), "type", "function",
                                    "function", "name", name, "arguments", input ? json_incref(input) : json_object()));
    return true;
}

/* Reads the blocks of a message: text, calls, and results of calls, which become messages of their own. */
static bool read_blocks(struct generation *generation, const char *role, const json_t *blocks, hypura_error *error)
{
    struct buffer text = {0};
    json_t *calls = json_array(), *block;
    size_t i;
    bool fine = true;
    json_array_foreach(blocks, i, block)
    {
        const char *type = json_string_value(json_object_get(block, "type"));
        if (!fine)
            break;
        if (type && strcmp(type, "tool_use") == 0)
            fine = collect_call(calls, block, error);
        else if (type && strcmp(type, "tool_result") == 0)
            fine = add_result(generation, block, error);
        else if (type && text_has_ending(type, "_tool_result")) /* of a tool that a service ran itself */
            leave_out(generation, "a block", type);
        else
            fine = append_part(generation, &text, role, block, error);
    }
    if (fine && (text.size || json_array_size(calls)))
        add_turn(generation, role, buffer_json(&text));
    json_array_foreach(calls, i, block) add_call(generation, json_incref(block));
    json_decref(calls);
    buffer_free(&text);
    return fine;
}

/* ---- cache marks: cache_control of a tool, a block, or the whole request -------------------------------------------
 */

/* Notes the mark of a tool, block or request, if it has one; the last one counts. */
static void note_mark(struct generation *generation, const json_t *owner)
{
    const json_t *mark = json_object_get(owner, "cache_control");
    const char *time = json_string_value(json_object_get(mark, "ttl"));
    if (!json_is_object(mark))
        return;
    generation->marked = true;
    generation->marked_for_hour = time && strcmp(time, "1h") == 0;
    generation->behind_mark =
        json_array_size(generation->messages); /* messages before it; read_prompt turns that into messages after it */
}

/* Blocks may have marks, and so may the blocks within a tool's result. */
static void note_marks(struct generation *generation, const json_t *blocks)
{
    size_t i;
    json_t *block;
    json_array_foreach(blocks, i, block)
    {
        note_mark(generation, block);
        note_marks(generation, json_object_get(block, "content"));
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
        json_t *name = json_object_get(tool, "name"), *schema = json_object_get(tool, "input_schema");
        const char *kind = json_string_value(json_object_get(tool, "type"));
        if (kind && strcmp(kind, "custom") != 0 && !schema) {
            leave_out(generation, "a tool", kind);
            continue;
        }
        if (!json_is_string(name) || !json_is_object(schema)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "tools.%zu: a name and an input_schema are required", i);
            return false;
        }
        add_tool(generation, name, json_object_get(tool, "description"), schema, json_object_get(tool, "strict"));
    }
    const char *type = json_string_value(json_object_get(choice, "type"));
    bool any = type && (strcmp(type, "any") == 0 || strcmp(type, "tool") == 0);
    return choose_tools(generation, any ? "required" : type, json_string_value(json_object_get(choice, "name")), error);
}

/* A system message that is empty without its volatile heads is left out. */
static bool read_system(struct generation *generation, const json_t *system, hypura_error *error)
{
    json_t *text = content_text(generation, "system", system, error);
    if (!text || (json_is_array(system) && !json_string_length(text))) {
        json_decref(text);
        return text != NULL;
    }
    return add_turn(generation, "system", text);
}

static bool read_message(struct generation *generation, size_t i, const json_t *message, hypura_error *error)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *content = json_object_get(message, "content");
    /* System messages are allowed between turns. */
    if (!role || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 && strcmp(role, "system") != 0)) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "messages.%zu.role: expected user, assistant or system", i);
        return false;
    }
    return json_is_array(content) ? read_blocks(generation, role, content, error)
                                  : add_turn(generation, role, content_text(generation, role, content, error));
}

/* Reads the fields that determine the prompt. */
static bool read_prompt(struct generation *generation, json_t *json, hypura_error *error)
{
    const json_t *messages = json_object_get(json, "messages"), *system = json_object_get(json, "system");
    const json_t *output = json_object_get(json, "output_config");
    if (!read_effort(generation, json_object_get(output, "effort"), error))
        return false;
    read_thinking(generation, json_object_get(json, "thinking"));
    if (json_array_size(messages) == 0) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "messages: at least one message is required");
        return false;
    }
    generation->messages = json_array();
    note_marks(generation, json_object_get(json, "tools"));
    if (system && !json_is_null(system) && !read_system(generation, system, error))
        return false;
    note_marks(generation, system);
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message)
    {
        if (!read_message(generation, i, message, error))
            return false;
        note_marks(generation, json_object_get(message, "content"));
    }
    note_mark(generation, json);
    generation->behind_mark = json_array_size(generation->messages) - generation->behind_mark;
    const char *first = json_string_value(json_object_get(json_array_get(generation->messages, 0), "role"));
    join_turns(generation);
    add_own_messages(generation, first && strcmp(first, "system") == 0);
    return read_tools(generation, json, error);
}

static bool read_request(struct generation *generation, json_t *json, hypura_error *error)
{
    const json_t *output = json_object_get(json, "output_config");
    uint32_t most = 0;
    if (!read_openai_sampling(generation, json, error) || !read_count(json, "max_tokens", &most, error) ||
        !read_stops(generation, json_object_get(json, "stop_sequences"), error) ||
        !read_format(generation, json_object_get(output, "format"), error) ||
        !read_format(generation, json_object_get(json, "output_format"), error)) /* its former name */
        return false;
    if (most == 0) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "max_tokens: Field required");
        return false;
    }
    generation->count = 1;
    generation->max_tokens = most;
    return read_prompt(generation, json, error);
}

void handle_messages(struct exchange *exchange)
{
    generation_handle(exchange, &dialect, "msg_", read_request);
}

void handle_count_tokens(struct exchange *exchange)
{
    generation_handle_count(exchange, NULL, read_prompt);
}
