/* OpenAI's older /v1/completions, which continues a text. */
#include "server/openai.h"

#include <string.h>

static json_t *answer(const struct generation *generation, json_t *choices)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", generation->id, "object", "text_completion", "created",
                     (json_int_t)generation->created, "model", generation->model_name, "system_fingerprint",
                     "fp_hypura", "choices", choices);
}

/* The older format: parallel lists. */
static json_t *logprobs_json(struct choice *choice)
{
    json_t *entries = fresh_logprobs(choice);
    if (!entries || json_array_size(entries) == 0) {
        json_decref(entries);
        return json_null();
    }
    json_t *tokens = json_array(), *logprobs = json_array(), *top = json_array(), *offsets = json_array();
    size_t i, k;
    json_t *entry, *other;
    json_array_foreach(entries, i, entry)
    {
        json_t *best = json_object(), *token = json_object_get(entry, "token");
        json_array_append(tokens, token);
        json_array_append(logprobs, json_object_get(entry, "logprob"));
        json_array_append_new(offsets, json_integer((json_int_t)choice->text_offset));
        choice->text_offset += json_string_length(token);
        json_array_foreach(json_object_get(entry, "top_logprobs"), k, other) json_object_set(
            best, json_string_value(json_object_get(other, "token")), json_object_get(other, "logprob"));
        json_array_append_new(top, best);
    }
    json_decref(entries);
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", logprobs, "top_logprobs", top,
                     "text_offset", offsets);
}

static void write_piece(struct generation *generation, struct choice *choice, json_t *text, const char *finish)
{
    json_t *one = json_pack("{s:o, s:i, s:o, s:s?}", "text", text, "index", (int)choice->index, "logprobs",
                            logprobs_json(choice), "finish_reason", finish);
    json_t *json = answer(generation, json_pack("[o]", one));
    if (generation->include_usage)
        json_object_set_new(json, "usage", json_null());
    exchange_write_event(generation->job.exchange, NULL, json);
}

static void begin(struct generation *generation, struct choice *choice)
{
    if (!choice->begun && generation->echo)
        write_piece(generation, choice, json_string(generation->text), NULL);
    choice->begun = true;
}

static void write_delta(struct generation *generation, struct choice *choice, const struct chat_delta *delta)
{
    begin(generation, choice);
    json_t *text = json_stringn(delta->text, delta->size);
    write_piece(generation, choice, text ? text : json_string("\xEF\xBF\xBD"), NULL);
}

static void end_choice(struct generation *generation, struct choice *choice)
{
    begin(generation, choice);
    write_piece(generation, choice, json_string(""), finish_name(choice));
}

static void end(struct generation *generation)
{
    if (generation->stream) {
        openai_end_stream(generation, answer(generation, json_array()));
        return;
    }
    json_t *choices = json_array();
    for (size_t i = 0; i < generation->count; i++) {
        struct choice *choice = &generation->choices[i];
        struct buffer text = {0};
        if (generation->echo)
            buffer_append_string(&text, generation->text);
        buffer_append(&text, choice->content.data, choice->content.size);
        json_array_append_new(choices,
                              json_pack("{s:o, s:i, s:o, s:s}", "text", buffer_json(&text), "index", (int)i, "logprobs",
                                        logprobs_json(choice), "finish_reason", finish_name(choice)));
        buffer_free(&text);
    }
    json_t *json = answer(generation, choices);
    json_object_set_new(json, "usage", openai_usage(generation));
    exchange_reply_json(generation->job.exchange, 200, json);
}

static const struct dialect dialect = {write_delta, end_choice, end, NULL};

static bool read_prompt(struct generation *generation, const json_t *prompt, hypura_error *error)
{
    if (json_array_size(prompt) == 1 && !json_is_integer(json_array_get(prompt, 0)))
        prompt = json_array_get(prompt, 0);
    if (json_is_string(prompt)) {
        generation->text = json_string_value(prompt);
        return true;
    }
    if (json_array_size(prompt) && json_is_integer(json_array_get(prompt, 0))) {
        generation->tokens = prompt;
        return true;
    }
    error_set(error, HYPURA_ERROR_ARGUMENT,
              json_is_array(prompt) ? "a request has one prompt: a string, or an array of token ids"
                                    : "\"prompt\" is required: a string, or an array of token ids");
    return false;
}

static bool read_request(struct generation *generation, json_t *json, hypura_error *error)
{
    const json_t *options = json_object_get(json, "stream_options"), *suffix = json_object_get(json, "suffix");
    uint32_t top = 0, best = 0;
    generation->include_usage = generation->stream && json_is_true(json_object_get(options, "include_usage"));
    if (!read_prompt(generation, json_object_get(json, "prompt"), error) ||
        !read_openai_sampling(generation, json, error))
        return false;
    uint32_t most = generation->max_tokens ? generation->max_tokens : 16;
    if (!read_limit(json, "max_tokens", &most, error) || !read_count(json, "logprobs", &top, error) ||
        !read_count(json, "best_of", &best, error))
        return false;
    if (top > 20 || best > generation->count) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"logprobs\" must be at most 20, and \"best_of\" at most \"n\"");
        return false;
    }
    bool endless = json_number_value(json_object_get(json, "max_tokens")) < 0;
    generation->max_tokens = endless ? 0 : MAX(most, 1u);
    generation->echo = json_is_true(json_object_get(json, "echo"));
    if (generation->echo && !generation->text) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"echo\" requires a prompt that is a string");
        return false;
    }
    if (json_is_integer(json_object_get(json, "logprobs")))
        generation->top_logprobs = (int32_t)top;
    if (json_string_length(suffix))
        generation->suffix = json_string_value(suffix);
    return true;
}

void handle_openai_completions(struct exchange *exchange)
{
    generation_handle(exchange, &dialect, "cmpl-", read_request);
}
