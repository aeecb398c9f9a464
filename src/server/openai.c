#include "server/openai.h"
#include "core/json_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ANSWERS 16

static bool read_biases(struct generation *generation, const json_t *value, hypura_error *error)
{
    if (!value || json_is_null(value))
        return true;
    size_t count = json_object_size(value), i = 0;
    if (!json_is_object(value) || count > 1024) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"logit_bias\" must be an object of at most 1024 tokens");
        return false;
    }
    if (ALLOCATE(&generation->biases, count, "biases", error))
        return false;
    const char *key;
    json_t *bias;
    json_object_foreach((json_t *)value, key, bias)
    {
        char *end;
        long token = strtol(key, &end, 10);
        if (end == key || *end || token < 0 || token > INT32_MAX || !json_is_number(bias)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"logit_bias\" must map token ids to numbers");
            return false;
        }
        double number = json_number_value(bias);
        generation->biases[i++] =
            (struct logit_bias){(int32_t)token, number <= -100 ? -INFINITY : (float)fmin(number, 100)};
    }
    generation->sampling.biases = generation->biases;
    generation->sampling.bias_count = count;
    return true;
}

bool read_openai_sampling(struct generation *generation, const json_t *json, hypura_error *error)
{
    struct sampler_options *s = &generation->sampling;
    uint32_t count = 1;
    s->temperature = 1;
    s->top_p = 1;
    s->top_k = 0;
    s->min_p = 0;
    generation->keep_first = UINT32_MAX;
    if (!read_model_options(generation, json_object_get(generation->job.model.manifest, "parameters"), error))
        return false;
    if (!(read_float(json, "temperature", &s->temperature, error) && read_float(json, "top_p", &s->top_p, error) &&
          read_limit(json, "top_k", &s->top_k, error) && read_float(json, "min_p", &s->min_p, error) &&
          read_float(json, "presence_penalty", &s->presence_penalty, error) &&
          read_float(json, "frequency_penalty", &s->frequency_penalty, error) &&
          read_float(json, "repetition_penalty", &s->repeat_penalty, error) && read_count(json, "n", &count, error) &&
          read_seed(generation, json_object_get(json, "seed"), error) &&
          read_stops(generation, json_object_get(json, "stop"), error) &&
          read_biases(generation, json_object_get(json, "logit_bias"), error)))
        return false;
    if (json_is_number(json_object_get(json, "temperature")) && (s->temperature < 0 || s->temperature > 2)) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"temperature\" must be between 0 and 2");
        return false;
    }
    if (count < 1 || count > MAX_ANSWERS) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"n\" must be between 1 and %d", MAX_ANSWERS);
        return false;
    }
    generation->count = count;
    return true;
}

bool add_message(struct generation *generation, const char *role, json_t *content)
{
    if (!content)
        return false;
    json_array_append_new(generation->messages, json_pack("{s:s, s:o}", "role", role, "content", content));
    return true;
}

static json_t *last_message(const struct generation *generation)
{
    size_t count = json_array_size(generation->messages);
    return count ? json_array_get(generation->messages, count - 1) : NULL;
}

bool add_call(struct generation *generation, json_t *call)
{
    json_t *last = last_message(generation);
    const char *role = json_string_value(json_object_get(last, "role"));
    if (!role || strcmp(role, "assistant") != 0) {
        add_message(generation, "assistant", json_string(""));
        last = last_message(generation);
    }
    if (!json_object_get(last, "tool_calls"))
        json_object_set_new(last, "tool_calls", json_array());
    return json_array_append_new(json_object_get(last, "tool_calls"), call) == 0;
}

void add_tool(struct generation *generation, json_t *name, const json_t *description, const json_t *parameters,
              const json_t *strict)
{
    const char *about = json_string_value(description);
    if (!generation->tools)
        generation->tools = json_array();
    json_array_append_new(generation->tools,
                          json_pack("{s:s, s:{s:O, s:s, s:o}}", "type", "function", "function", "name", name,
                                    "description", about ? about : "", "parameters",
                                    json_is_object(parameters) ? json_incref((json_t *)parameters)
                                                               : json_pack("{s:s}", "type", "object")));
    if (json_is_true(strict)) {
        json_t *tool = json_array_get(generation->tools, json_array_size(generation->tools) - 1);
        json_object_set_new(json_object_get(tool, "function"), "strict", json_true());
    }
}

void allow_tools(struct generation *generation, const json_t *allowed)
{
    for (size_t i = json_array_size(generation->tools); i-- > 0;) {
        const json_t *function = json_object_get(json_array_get(generation->tools, i), "function"), *each;
        const char *name = json_string_value(json_object_get(function, "name"));
        bool found = false;
        size_t k;
        json_array_foreach(allowed, k, each)
        {
            const json_t *other = json_object_get(each, "name");
            if (!other)
                other = json_object_get(json_object_get(each, "function"), "name");
            found |= name && json_is_string(other) && strcmp(json_string_value(other), name) == 0;
        }
        if (!found)
            json_array_remove(generation->tools, i);
    }
}

/* Arguments that are not JSON stay a string, as the model once wrote them. */
static json_t *call_for_template(const json_t *call)
{
    json_t *copy = json_deep_copy(call), *function = json_object_get(copy, "function");
    const char *arguments = json_string_value(json_object_get(function, "arguments"));
    json_t *parsed = arguments ? json_text_read_string(*arguments ? arguments : "{}", JSON_ALLOW_NUL, NULL) : NULL;
    if (parsed)
        json_object_set_new(function, "arguments", parsed);
    return copy;
}

bool add_openai_message(struct generation *generation, const json_t *given, hypura_error *error)
{
    const char *said = json_string_value(json_object_get(given, "role")), *role = known_role(said);
    if (!role) {
        error_set(error, HYPURA_ERROR_ARGUMENT,
                  "invalid role: %.40s; expected system, developer, user, assistant or tool", said ? said : "none");
        return false;
    }
    json_t *content = content_text(generation, role, json_object_get(given, "content"), error);
    if (!content)
        return false;
    add_message(generation, role, content);
    json_t *message = json_array_get(generation->messages, json_array_size(generation->messages) - 1);
    static const char *const kept[] = {"name", "tool_call_id", "reasoning_content"};
    for (size_t i = 0; i < COUNT_OF(kept); i++) {
        json_t *value = json_object_get(given, kept[i]);
        if (json_is_string(value))
            json_object_set(message, kept[i], value);
    }
    const json_t *calls = json_object_get(given, "tool_calls");
    if (json_array_size(calls)) {
        json_t *list = json_array();
        size_t i;
        json_t *call;
        json_array_foreach(calls, i, call) json_array_append_new(list, call_for_template(call));
        json_object_set_new(message, "tool_calls", list);
    }
    return true;
}

/* The schema of a tool's parameters. Unless the tool is strict, parts that a grammar cannot enforce are removed. */
static json_t *held_parameters(const struct generation *generation, const json_t *function, size_t index)
{
    const json_t *parameters = json_object_get(function, "parameters");
    struct buffer left_out = {0};
    if (!json_is_object(parameters))
        return json_pack("{s:s}", "type", "object");
    json_t *own = json_deep_copy(parameters);
    if (!json_is_true(json_object_get(function, "strict"))) {
        if (grammar_relax_schema(own, &left_out, NULL) != HYPURA_OK) {
            memory_note_failure(); /* makes generation_is_whole false */
            json_decref(own);
            own = NULL;
        }
        for (char *line = left_out.data, *end; line && (end = strchr(line, '\n')); line = end + 1) {
            *end = 0;
            server_log("warning", "a part of a tool's schema cannot be enforced and is ignored", "id=%s tool=%zu %s",
                       exchange_id(generation->job.exchange), index, line);
        }
        buffer_free(&left_out);
    }
    /* A URI of its own, so that "#/..." in the schema refers to its own parts. */
    if (own && !json_is_string(json_object_get(own, "$id")))
        json_object_set_new(own, "$id", json_sprintf("urn:tool:%zu", index));
    return own;
}

/* A schema for {"name": NAME, "arguments": PARAMETERS} of one tool or, without a name, of any. */
static json_t *forced_schema(const struct generation *generation, const char *name)
{
    json_t *any = json_array();
    size_t i;
    json_t *tool;
    json_array_foreach(generation->tools, i, tool)
    {
        const json_t *function = json_object_get(tool, "function");
        json_t *own = json_object_get(function, "name");
        if (!json_is_string(own) || (name && strcmp(json_string_value(own), name) != 0))
            continue;
        json_array_append_new(
            any, json_pack("{s:s, s:{s:{s:O}, s:o}, s:[s, s]}", "type", "object", "properties", "name", "const", own,
                           "arguments", held_parameters(generation, function, i), "required", "name", "arguments"));
    }
    if (json_array_size(any) == 0) {
        json_decref(any);
        return NULL;
    }
    return json_pack("{s:o}", "anyOf", any);
}

bool check_choice(const json_t *choice, hypura_error *error)
{
    const char *type = json_string_value(json_object_get(choice, "type"));
    if (!type || strcmp(type, "function") == 0 || strcmp(type, "allowed_tools") == 0)
        return true;
    error_set(error, HYPURA_ERROR_ARGUMENT,
              "\"tool_choice\" asks for a tool of type \"%.40s\", which this server does not run", type);
    return false;
}

bool choose_tools(struct generation *generation, const char *choice, const char *name, hypura_error *error)
{
    if ((choice && strcmp(choice, "none") == 0) || json_array_size(generation->tools) == 0) {
        json_decref(generation->tools);
        generation->tools = NULL;
    }
    if (!choice || strcmp(choice, "auto") == 0 || strcmp(choice, "none") == 0)
        return true;
    if (strcmp(choice, "required") != 0 && strcmp(choice, "any") != 0) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"tool_choice\" must be none, auto, required, or name a function");
        return false;
    }
    generation->forced = forced_schema(generation, name);
    if (!generation->forced)
        error_set(error, HYPURA_ERROR_ARGUMENT,
                  name ? "\"tool_choice\" names a function that is not among the tools"
                       : "\"tool_choice\" requires a call, and none of the tools is a function");
    return generation->forced != NULL;
}

/* Templates use either name. */
static void set_thinking(struct generation *generation, bool on)
{
    json_object_set_new(generation->variables, "enable_thinking", json_boolean(on));
    json_object_set_new(generation->variables, "thinking", json_boolean(on));
}

bool read_effort(struct generation *generation, const json_t *effort, hypura_error *error)
{
    const char *text = json_string_value(effort);
    if (!effort || json_is_null(effort))
        return true;
    if (!text) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "the reasoning effort must be a string such as \"low\"");
        return false;
    }
    bool on = strcmp(text, "none") != 0;
    set_thinking(generation, on);
    if (on)
        json_object_set_new(generation->variables, "reasoning_effort", json_string(text));
    return true;
}

void read_thinking(struct generation *generation, const json_t *thinking)
{
    const char *type = json_string_value(json_object_get(thinking, "type"));
    if (type || json_is_boolean(thinking))
        set_thinking(generation, type ? strcmp(type, "disabled") != 0 : json_is_true(thinking));
}

json_t *openai_usage(const struct generation *generation)
{
    uint32_t prompt = prompt_tokens(generation), generated = generated_tokens(generation);
    return json_pack("{s:I, s:I, s:I, s:{s:I}, s:{s:I}}", "prompt_tokens", (json_int_t)prompt, "completion_tokens",
                     (json_int_t)generated, "total_tokens", (json_int_t)prompt + generated, "prompt_tokens_details",
                     "cached_tokens", (json_int_t)generation->choices[0].result.cached_tokens,
                     "completion_tokens_details", "reasoning_tokens", (json_int_t)reasoning_tokens(generation));
}

/* ---- models --------------------------------------------------------------------------------------------------------
 */

/* Leaves out the tag ":latest", so that the name is what users type. */
static json_t *model_json(const char *name, int64_t created)
{
    const size_t tag = text_has_ending(name, ":latest") ? strlen(":latest") : 0;
    return json_pack("{s:s%, s:s, s:I, s:s}", "id", name, strlen(name) - tag, "object", "model", "created",
                     (json_int_t)created, "owned_by", "library");
}

void handle_openai_models(struct exchange *exchange)
{
    hypura_error error = {0};
    json_t *tags = listed_models(exchange), *data, *entry;
    size_t i;
    if (!tags)
        return;
    data = json_array();
    json_array_foreach(json_object_get(tags, "models"), i, entry)
    {
        struct model_entry found;
        const char *name = json_string_value(json_object_get(entry, "name"));
        hypura_error gone = {0};
        if (registry_find(exchange_server(exchange)->registry, name, &found, &gone) == HYPURA_OK) {
            json_array_append_new(data, model_json(found.name, found.modified));
            model_entry_free(&found);
        } else if (gone.status != HYPURA_ERROR_IO) {
            error = gone;
        }
    }
    json_decref(tags);
    if (error.status) {
        json_decref(data);
        exchange_fail_with(exchange, &error);
        return;
    }
    exchange_reply_json(exchange, 200, json_pack("{s:s, s:o}", "object", "list", "data", data));
}

void handle_openai_model(struct exchange *exchange)
{
    struct model_entry found;
    hypura_error error = {0};
    if (registry_find(exchange_server(exchange)->registry, exchange_rest(exchange), &found, &error)) {
        exchange_fail_as(exchange, error.status == HYPURA_ERROR_IO ? 404 : status_of_error(&error), "model_not_found",
                         error.message);
        return;
    }
    exchange_reply_json(exchange, 200, model_json(found.name, found.modified));
    model_entry_free(&found);
}

void openai_end_stream(struct generation *generation, json_t *last)
{
    struct exchange *exchange = generation->job.exchange;
    static const char done[] = "data: [DONE]\n\n";
    if (generation->include_usage) {
        json_object_set_new(last, "usage", openai_usage(generation));
        exchange_write_event(exchange, NULL, json_incref(last));
    }
    json_decref(last);
    exchange_write(exchange, TYPE_EVENTS, done, sizeof done - 1);
    exchange_end(exchange);
}
