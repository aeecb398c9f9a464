#include "cli/batch.h"

#include <stdlib.h>
#include <string.h>

static const char *const paths[] = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"};

/* ---- requests ---- */

/* A member; null counts as absent, as in the APIs. */
static json_t *member(const json_t *json, const char *name)
{
    json_t *value = json_object_get(json, name);
    return json_is_null(value) ? NULL : value;
}

/* {"custom_id", "method", "url", "body"}: a line of an OpenAI batch. */
static json_t *read_request(struct batch_line *line, const json_t *json, hypura_error *error)
{
    const char *url = json_string_value(json_object_get(json, "url"));
    const char *method = json_string_value(json_object_get(json, "method"));
    const json_t *body = json_object_get(json, "body");
    for (size_t i = 0; url && i < COUNT_OF(paths); i++) {
        if (strcmp(url, paths[i]) == 0)
            line->path = paths[i];
    }
    if (!line->path)
        set_error(error, HYPURA_ERROR_ARGUMENT,
                  "\"url\": expected /v1/chat/completions, /v1/completions, /v1/embeddings or /v1/responses");
    else if (method && strcmp(method, "POST") != 0)
        set_error(error, HYPURA_ERROR_ARGUMENT, "\"method\": expected POST");
    else if (!json_is_object(body))
        set_error(error, HYPURA_ERROR_ARGUMENT, "\"body\" is missing or is not an object");
    else
        return json_deep_copy(body);
    return NULL;
}

/* {"prompt": TEXT} or {"messages": [...]}, with further fields of a chat request. */
static json_t *read_plain(struct batch_line *line, const json_t *json, const char *system, hypura_error *error)
{
    const json_t *prompt = member(json, "prompt"), *own = member(json, "system"), *messages = member(json, "messages");
    line->path = paths[0];
    if (!messages == !json_is_string(prompt)) {
        set_error(error, HYPURA_ERROR_ARGUMENT,
                  "expected a \"prompt\" that is a string, or \"messages\", or \"url\" and \"body\"");
        return NULL;
    }
    if ((own && !json_is_string(own)) || (own && messages)) {
        set_error(error, HYPURA_ERROR_ARGUMENT, "\"system\" must be a string, and needs a \"prompt\"");
        return NULL;
    }
    json_t *body = json_deep_copy(json);
    json_object_del(body, "prompt");
    json_object_del(body, "system");
    if (messages)
        return body;
    json_t *array = json_pack("[{s:s, s:O}]", "role", "user", "content", prompt);
    const char *first = own ? json_string_value(own) : system;
    if (first && *first)
        json_array_insert_new(array, 0, json_pack("{s:s, s:o}", "role", "system", "content", json_text(first)));
    json_object_set_new(body, "messages", array);
    return body;
}

static void add_defaults(const struct batch_line *line, json_t *body, const struct batch_defaults *defaults)
{
    bool chat = line->path == paths[0];
    const char *most = line->path == paths[3] ? "max_output_tokens" : "max_tokens", *name;
    json_t *value;
    json_object_foreach((json_t *)defaults->fields, name, value)
    {
        if (!member(body, name))
            json_object_set(body, name, value);
    }
    if (defaults->max_tokens && line->path != paths[2] && !member(body, most) &&
        !(chat && member(body, "max_completion_tokens")))
        json_object_set_new(body, most, json_integer((json_int_t)defaults->max_tokens));
}

json_t *batch_read_line(struct batch_line *line, const char *text, size_t size, const struct batch_defaults *defaults,
                        hypura_error *error)
{
    json_error_t where;
    line->plain = true;
    if (!text) {
        set_error(error, HYPURA_ERROR_ARGUMENT, "the line is longer than %llu bytes",
                  (unsigned long long)BATCH_LINE_LIMIT);
        return NULL;
    }
    json_t *json = read_json(text, size, 0, &where);
    if (!json_is_object(json)) {
        if (json)
            set_error(error, HYPURA_ERROR_ARGUMENT,
                      "the line is JSON, but not an object such as {\"prompt\": \"Why?\"}");
        else
            set_error(error, HYPURA_ERROR_ARGUMENT, "the line is not valid JSON: column %d: %s", where.column,
                      where.text);
        json_decref(json);
        return NULL;
    }
    line->id = json_incref(json_object_get(json, "custom_id"));
    line->plain = !member(json, "url") && !member(json, "body");
    json_t *body = line->plain ? read_plain(line, json, defaults->system, error) : read_request(line, json, error);
    json_decref(json);
    if (!body)
        return NULL;
    add_defaults(line, body, defaults);
    if (line->plain && member(body, "n") && json_number_value(member(body, "n")) != 1) {
        set_error(error, HYPURA_ERROR_ARGUMENT, "several answers (\"n\") need \"url\" and \"body\"");
        json_decref(body);
        return NULL;
    }
    json_object_del(body, "stream");
    json_object_del(body, "stream_options");
    return body;
}

/* ---- answers ---- */

static json_t *begin(const struct batch_line *line)
{
    json_t *json = json_pack("{s:I, s:s}", "line", (json_int_t)line->number, "digest", line->digest);
    if (line->id)
        json_object_set(json, "custom_id", line->id);
    return json;
}

json_t *batch_error(const struct batch_line *line, const char *message)
{
    json_t *json = begin(line), *text = json_text(message);
    if (line->plain) {
        json_object_set_new(json, "error", text);
        return json;
    }
    json_object_set_new(json, "response", json_null());
    json_object_set_new(json, "error", json_pack("{s:s, s:o}", "code", "invalid_request", "message", text));
    return json;
}

/* The output line for the reply to a chat request. */
static json_t *plain_answer(const struct batch_line *line, const json_t *body)
{
    const json_t *choice = json_array_get(json_object_get(body, "choices"), 0), *usage = json_object_get(body, "usage");
    const json_t *message = json_object_get(choice, "message");
    static const char *const kept[] = {"reasoning", "tool_calls"};
    json_t *json = begin(line), *content = json_object_get(message, "content");
    json_object_set(json, "answer", content ? content : json_null());
    for (size_t i = 0; i < COUNT_OF(kept); i++) {
        if (json_object_get(message, kept[i]))
            json_object_set(json, kept[i], json_object_get(message, kept[i]));
    }
    if (!json_is_null(json_object_get(choice, "logprobs")))
        json_object_set(json, "logprobs", json_object_get(choice, "logprobs"));
    json_object_set(json, "finish_reason", json_object_get(choice, "finish_reason"));
    json_object_set(json, "prompt_tokens", json_object_get(usage, "prompt_tokens"));
    json_object_set(json, "completion_tokens", json_object_get(usage, "completion_tokens"));
    return json;
}

json_t *batch_answer(const struct batch_line *line, unsigned status, const char *text, size_t size)
{
    json_t *body = read_json(text, size, JSON_ALLOW_NUL, NULL), *json; /* a model may write a NUL */
    const char *message = json_string_value(json_object_get(json_object_get(body, "error"), "message"));
    if (line->plain && status == 200) {
        json = plain_answer(line, body);
    } else if (line->plain) {
        json = batch_error(line, message ? message : "the request was refused");
    } else {
        json = begin(line);
        json_object_set_new(
            json, "response",
            json_pack("{s:i, s:o}", "status_code", (int)status, "body", body ? json_incref(body) : json_null()));
        json_object_set_new(json, "error", json_null());
    }
    json_decref(body);
    return json;
}
