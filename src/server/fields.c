/* Reads fields that the requests of all APIs have in common. */
#include "server/generation.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

json_t *buffer_json(const struct buffer *buffer)
{
    const char *text = buffer->data ? buffer->data : "";
    json_t *json = json_stringn(text, buffer->size);
    /* A single token may be part of a character. */
    return json ? json : json_string("\xEF\xBF\xBD");
}

bool read_float(const json_t *object, const char *key, float *out, hypura_error *error)
{
    const json_t *value = json_object_get(object, key);
    if (!value || json_is_null(value))
        return true;
    if (!json_is_number(value) || !isfinite((float)json_number_value(value))) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "option \"%s\" must be a number", key);
        return false;
    }
    *out = (float)json_number_value(value);
    return true;
}

bool read_count(const json_t *object, const char *key, uint32_t *out, hypura_error *error)
{
    const json_t *value = json_object_get(object, key);
    if (!value || json_is_null(value))
        return true;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= 0 && number <= INT32_MAX) || floor(number) != number) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "option \"%s\" must be a whole number and not negative", key);
        return false;
    }
    *out = (uint32_t)number;
    return true;
}

bool read_limit(const json_t *object, const char *key, uint32_t *out, hypura_error *error)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value) || !(json_number_value(value) < 0))
        return read_count(object, key, out, error);
    *out = 0;
    return true;
}

bool read_stops(struct generation *generation, const json_t *value, hypura_error *error)
{
    if (!value || json_is_null(value))
        return true;
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    if (count > 64) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"stop\" has %zu strings, more than the limit of 64", count);
        return false;
    }
    memory_free(generation->stops);
    generation->stops = NULL;
    generation->stop_count = 0;
    if (ALLOCATE(&generation->stops, count, "stop texts", error))
        return false;
    for (size_t i = 0; i < count; i++) {
        const char *stop = json_string_value(json_is_array(value) ? json_array_get(value, i) : value);
        if (!stop) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"stop\" must be a string or an array of strings");
            return false;
        }
        if (*stop)
            generation->stops[generation->stop_count++] = stop;
    }
    return true;
}

bool read_seed(struct generation *generation, const json_t *value, hypura_error *error)
{
    if (!value || json_is_null(value))
        return true;
    if (!json_is_number(value)) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "option \"seed\" must be a whole number");
        return false;
    }
    if (json_number_value(value) >= 0)
        generation->sampling.seed = (uint64_t)(int64_t)fmin(json_number_value(value), 9e18);
    return true;
}

/* A whole number that may be -1 or -2. */
static bool read_signed(const json_t *options, const char *key, int32_t *out, hypura_error *error)
{
    const json_t *value = json_object_get(options, key);
    if (!value || json_is_null(value))
        return true;
    double number = json_number_value(value);
    if (!json_is_number(value) || floor(number) != number || number < -2 || number > INT32_MAX) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "option \"%s\" must be a whole number", key);
        return false;
    }
    *out = (int32_t)number;
    return true;
}

bool read_model_options(struct generation *generation, const json_t *options, hypura_error *error)
{
    struct sampler_options *s = &generation->sampling;
    int32_t predict = -1;
    uint32_t context = 0;
    bool fine =
        read_float(options, "temperature", &s->temperature, error) && read_limit(options, "top_k", &s->top_k, error) &&
        read_float(options, "top_p", &s->top_p, error) && read_float(options, "min_p", &s->min_p, error) &&
        read_float(options, "typical_p", &s->typical_p, error) &&
        read_float(options, "repeat_penalty", &s->repeat_penalty, error) &&
        read_float(options, "presence_penalty", &s->presence_penalty, error) &&
        read_float(options, "frequency_penalty", &s->frequency_penalty, error) &&
        read_float(options, "mirostat_tau", &s->mirostat_tau, error) &&
        read_float(options, "mirostat_eta", &s->mirostat_eta, error) &&
        read_float(options, "dry_multiplier", &s->dry_multiplier, error) &&
        read_float(options, "dry_base", &s->dry_base, error) &&
        read_count(options, "dry_allowed_length", &s->dry_allowed_length, error) &&
        read_float(options, "top_n_sigma", &s->top_n_sigma, error) &&
        read_float(options, "xtc_probability", &s->xtc_probability, error) &&
        read_float(options, "xtc_threshold", &s->xtc_threshold, error) &&
        read_count(options, "mirostat", &s->mirostat, error) &&
        read_signed(options, "repeat_last_n", &s->repeat_last_n, error) &&
        read_signed(options, "num_predict", &predict, error) && read_limit(options, "num_ctx", &context, error) &&
        read_seed(generation, json_object_get(options, "seed"), error) &&
        read_stops(generation, json_object_get(options, "stop"), error);
    if (!fine)
        return false;
    if (s->mirostat == 1) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "mirostat 1 is not supported: use \"mirostat\": 2");
        return false;
    }
    s->repeat_last_n = MAX(s->repeat_last_n, -1);
    /* 0 gives one token, as in Ollama; to the generator, 0 means no limit. */
    generation->max_tokens = predict < 0 ? 0 : MAX((uint32_t)predict, 1u);
    generation->positions = generation->job.context = context;
    return true;
}

bool check_model_options(const json_t *options, hypura_error *error)
{
    struct generation *scratch;
    if (ALLOCATE(&scratch, 1, "options", error))
        return false;
    bool fine = read_model_options(scratch, options, error);
    memory_free(scratch->stops);
    memory_free(scratch);
    return fine;
}

bool read_format(struct generation *generation, const json_t *value, hypura_error *error)
{
    const char *name = json_string_value(value);
    if (!value || json_is_null(value) || (name && !*name))
        return true;
    if (name && strcmp(name, "json") == 0) {
        generation->any_json = true;
        return true;
    }
    const char *type = json_string_value(json_object_get(value, "type"));
    if (type && strcmp(type, "text") == 0)
        return true;
    if (type && strcmp(type, "json_object") == 0) {
        generation->any_json = true;
        return true;
    }
    if (type && strcmp(type, "json_schema") == 0) {
        const json_t *inner = json_object_get(value, "json_schema"), *outer = json_object_get(value, "schema");
        generation->schema = inner ? json_object_get(inner, "schema") : outer;
        if (!json_is_object(generation->schema)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"json_schema\" has no schema");
            return false;
        }
        return true;
    }
    if (!json_is_object(value)) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "invalid format: expected \"json\" or a JSON schema");
        return false;
    }
    generation->schema = value;
    return true;
}

const char *known_role(const char *said)
{
    static const char *const roles[][2] = {{"system", "system"},       {"developer", "system"}, {"user", "user"},
                                           {"assistant", "assistant"}, {"tool", "tool"},        {"function", "tool"}};
    for (size_t i = 0; said && i < COUNT_OF(roles); i++) {
        if (strcasecmp(said, roles[i][0]) == 0)
            return roles[i][1];
    }
    return NULL;
}

void leave_out(const struct generation *generation, const char *what, const char *type)
{
    char message[96];
    snprintf(message, sizeof message, "%s has an unknown type and is ignored", what);
    /* The type comes from the request: log only harmless characters. */
    server_log("warning", message, "id=%s type=%.*s", exchange_id(generation->job.exchange),
               (int)MIN(strspn(type, "abcdefghijklmnopqrstuvwxyz_0123456789"), (size_t)64), type);
}

/* Appends other parts that contain text: a document, a search result, a summary of the conversation. */
static bool append_texts(struct generation *generation, struct buffer *text, const char *role, const json_t *part,
                         const char *type, bool *known, hypura_error *error)
{
    const json_t *source = json_object_get(part, "source"), *content = json_object_get(part, "content");
    const char *kind = json_string_value(json_object_get(source, "type"));
    const json_t *words = NULL;
    if (strcmp(type, "document") == 0 && kind && strcmp(kind, "text") == 0)
        words = json_object_get(source, "data");
    else if (strcmp(type, "document") == 0 && kind && strcmp(kind, "content") == 0)
        words = json_object_get(source, "content");
    else if (strcmp(type, "search_result") == 0 || strcmp(type, "compaction") == 0)
        words = content;
    *known = words != NULL;
    if (strcmp(type, "search_result") == 0) {
        const char *title = json_string_value(json_object_get(part, "title")), *where = json_string_value(source);
        buffer_append_format(text, "%s\n%s\n", title ? title : "", where ? where : "");
    }
    json_t *whole = words ? content_text(generation, role, words, error) : NULL;
    buffer_append(text, json_string_value(whole), json_string_length(whole));
    json_decref(whole);
    return !words || whole;
}

bool append_part(struct generation *generation, struct buffer *text, const char *role, const json_t *part,
                 hypura_error *error)
{
    static const char *const thoughts[] = {"thinking", "redacted_thinking", "reasoning", "reasoning_text"};
    const char *type = json_string_value(json_object_get(part, "type"));
    const json_t *words = json_object_get(part, "text");
    bool known = false;
    if (!words)
        words = json_object_get(part, "refusal");
    if (json_is_string(part))
        words = part;
    for (size_t i = 0; type && i < COUNT_OF(thoughts); i++) {
        if (strcmp(type, thoughts[i]) == 0)
            return true;
    }
    if (json_is_string(words)) {
        size_t head = volatile_head(generation, role, json_string_value(words));
        buffer_append(text, json_string_value(words) + head, json_string_length(words) - head);
        return true;
    }
    if (type && (!append_texts(generation, text, role, part, type, &known, error) || known))
        return known;
    if (type && strcmp(role, "assistant") == 0) {
        leave_out(generation, "a part of an answer", type);
        return true;
    }
    if (type && strcmp(role, "tool") == 0) {
        /* Clients send the part again with each turn, so an error would end the chat. The model gets a note instead. */
        const char *name = json_string_value(json_object_get(part, "tool_name")); /* found by a search for tools */
        if (name)
            buffer_append_format(text, "%s\n", name);
        else
            buffer_append_format(text, "[%.40s: left out, since only text can be read]\n", type);
        return true;
    }
    error_set(error, HYPURA_ERROR_ARGUMENT, "this server accepts text only: parts of type \"%.40s\" are not supported",
              type ? type : "?");
    return false;
}

json_t *content_text(struct generation *generation, const char *role, const json_t *content, hypura_error *error)
{
    if (!content || json_is_null(content))
        return json_string("");
    if (json_is_string(content)) {
        size_t head = volatile_head(generation, role, json_string_value(content));
        return head ? json_stringn(json_string_value(content) + head, json_string_length(content) - head)
                    : json_incref((json_t *)content);
    }
    if (!json_is_array(content)) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "a message's \"content\" must be a string or an array of parts");
        return NULL;
    }
    struct buffer text = {0};
    size_t i;
    json_t *part;
    bool fine = true;
    json_array_foreach(content, i, part)
    {
        fine = fine && append_part(generation, &text, role, part, error);
    }
    json_t *json = fine ? buffer_json(&text) : NULL;
    buffer_free(&text);
    return json;
}

bool has_role(const json_t *message, const char *role)
{
    const char *own = json_string_value(json_object_get(message, "role"));
    return own && strcmp(own, role) == 0;
}

void add_own_messages(struct generation *generation, bool system)
{
    const json_t *manifest = generation->job.model.manifest, *own = json_object_get(manifest, "system");
    json_t *first = json_array_get(generation->messages, 0), *each;
    size_t at = has_role(first, "system"), i;
    if (!system && json_string_length(own)) {
        json_array_insert_new(generation->messages, 0, json_pack("{s:s, s:O}", "role", "system", "content", own));
        at = 1;
    }
    json_array_foreach(json_object_get(manifest, "messages"), i, each)
        json_array_insert(generation->messages, at + i, each);
}
