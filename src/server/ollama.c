/* Ollama's /api/generate and /api/chat (docs/api.md of that project): NDJSON, durations in nanoseconds. */
#include "server/generation.h"

#include <string.h>
#include <time.h>

/* ---- writing -------------------------------------------------------------------------------------------------------
 */

static json_t *chunk(const struct generation *generation, bool done)
{
    char now[40];
    now_text(now, sizeof now);
    return json_pack("{s:s, s:s, s:b}", "model", generation->model_name, "created_at", now, "done", (int)done);
}

/* The calls from index first on. */
static json_t *calls_json(const struct choice *choice, size_t first)
{
    json_t *calls = json_array();
    for (size_t i = first; i < json_array_size(choice->calls); i++) {
        const json_t *call = json_array_get(choice->calls, i);
        json_array_append_new(calls, json_pack("{s:O, s:{s:i, s:O, s:O}}", "id", json_object_get(call, "id"),
                                               "function", "index", (int)i, "name", json_object_get(call, "name"),
                                               "arguments", json_object_get(call, "arguments")));
    }
    return calls;
}

static void set_text(json_t *object, const char *key, const char *text, size_t size)
{
    json_t *value = json_stringn(text, size);
    json_object_set_new(object, key, value ? value : json_string("\xEF\xBF\xBD"));
}

static void add_logprobs(json_t *line, struct choice *choice)
{
    json_t *logprobs = fresh_logprobs(choice);
    if (logprobs && json_array_size(logprobs))
        json_object_set(line, "logprobs", logprobs);
    json_decref(logprobs);
}

static void write_delta(struct generation *generation, struct choice *choice, const struct chat_delta *delta)
{
    json_t *line = chunk(generation, false);
    bool chat = json_is_true(json_object_get(generation->state, "chat"));
    if (chat) {
        json_t *message = json_pack("{s:s, s:s}", "role", "assistant", "content", "");
        if (delta->kind == CHAT_TOOL_CALL)
            json_object_set_new(message, "tool_calls", calls_json(choice, json_array_size(choice->calls) - 1));
        else
            set_text(message, delta->kind == CHAT_REASONING ? "thinking" : "content", delta->text, delta->size);
        json_object_set_new(line, "message", message);
    } else {
        json_object_set_new(line, "response", json_string(""));
        set_text(line, delta->kind == CHAT_REASONING ? "thinking" : "response", delta->text, delta->size);
    }
    add_logprobs(line, choice);
    exchange_write_line(generation->job.exchange, line);
}

static void end_choice(struct generation *generation, struct choice *choice)
{
    (void)generation;
    (void)choice;
}

static void add_figures(json_t *line, const struct generation *generation)
{
    const struct generation_result *result = &generation->choices[0].result;
    json_object_set_new(line, "total_duration", json_integer((json_int_t)(clock_nanoseconds() - generation->start)));
    json_object_set_new(line, "load_duration", json_integer((json_int_t)generation->load_nanoseconds));
    json_object_set_new(line, "prompt_eval_count", json_integer(result->prompt_tokens));
    json_object_set_new(line, "prompt_cached_count", json_integer(result->cached_tokens));
    json_object_set_new(line, "prompt_eval_duration", json_integer((json_int_t)result->prompt_nanoseconds));
    json_object_set_new(line, "eval_count", json_integer(result->generated_tokens));
    json_object_set_new(line, "eval_duration", json_integer((json_int_t)result->decode_nanoseconds));
}

static void end(struct generation *generation)
{
    struct choice *choice = &generation->choices[0];
    json_t *line = chunk(generation, true);
    bool chat = json_is_true(json_object_get(generation->state, "chat"));
    json_t *text = generation->stream ? json_string("") : buffer_json(&choice->content);
    json_t *thinking = !generation->stream && choice->reasoning.size ? buffer_json(&choice->reasoning) : NULL;
    json_t *target = line;
    if (chat) {
        target = json_pack("{s:s, s:o}", "role", "assistant", "content", text);
        json_object_set_new(line, "message", target);
        if (!generation->stream && choice->calls)
            json_object_set_new(target, "tool_calls", calls_json(choice, 0));
    } else {
        json_object_set_new(line, "response", text);
    }
    if (thinking)
        json_object_set_new(target, "thinking", thinking);
    add_logprobs(line, choice);
    json_object_set_new(line, "done_reason", json_string(finish_name(choice)));
    if (choice->ids) {
        json_t *context = json_array();
        for (size_t i = 0; i < generation->prompt.count; i++)
            json_array_append_new(context, json_integer(generation->prompt.ids[i]));
        json_array_extend(context, choice->ids);
        json_object_set_new(line, "context", context);
    }
    add_figures(line, generation);
    if (generation->stream) {
        exchange_write_line(generation->job.exchange, line);
        exchange_end(generation->job.exchange);
    } else {
        exchange_reply_json(generation->job.exchange, 200, line);
    }
}

static const struct dialect dialect = {write_delta, end_choice, end, NULL};

/* ---- reading -------------------------------------------------------------------------------------------------------
 */

static const char *const known_options[] = {"num_keep",
                                            "seed",
                                            "num_predict",
                                            "top_k",
                                            "top_p",
                                            "min_p",
                                            "typical_p",
                                            "repeat_last_n",
                                            "temperature",
                                            "repeat_penalty",
                                            "presence_penalty",
                                            "frequency_penalty",
                                            "stop",
                                            "num_ctx",
                                            "mirostat",
                                            "mirostat_tau",
                                            "mirostat_eta",
                                            "dry_multiplier",
                                            "dry_base",
                                            "dry_allowed_length",
                                            "top_n_sigma",
                                            "xtc_probability",
                                            "xtc_threshold"};

static void warn_of_unknown(const struct generation *generation, json_t *options)
{
    const char *key;
    json_t *value;
    json_object_foreach(options, key, value)
    {
        size_t i = 0;
        while (i < COUNT_OF(known_options) && strcmp(known_options[i], key) != 0)
            i++;
        /* The name comes from the request: log only harmless characters. */
        if (i == COUNT_OF(known_options))
            server_log("warning", "an unknown option is ignored", "id=%s option=%.*s",
                       exchange_id(generation->job.exchange), (int)strspn(key, "abcdefghijklmnopqrstuvwxyz_0123456789"),
                       key);
    }
}

static bool read_options(struct generation *generation, json_t *options, hypura_error *error)
{
    struct sampler_options *s = &generation->sampling;
    s->top_p = 0.9f;
    s->min_p = 0;
    s->repeat_penalty = 1.1f;
    bool keep_all = json_number_value(json_object_get(options, "num_keep")) < 0; /* as much of the prompt as possible */
    generation->keep_first = keep_all ? INT32_MAX : 4;
    if (!read_model_options(generation, options, error) ||
        !(keep_all || read_count(options, "num_keep", &generation->keep_first, error)))
        return false;
    generation->shift_keep = generation->keep_first;
    return true;
}

static bool read_think(struct generation *generation, const json_t *think, hypura_error *error)
{
    if (!think || json_is_null(think))
        return true;
    const char *effort = json_string_value(think);
    if (!json_is_boolean(think) &&
        !(effort && (strcmp(effort, "low") == 0 || strcmp(effort, "medium") == 0 || strcmp(effort, "high") == 0))) {
        error_set(error, HYPURA_ERROR_ARGUMENT,
                  "invalid think value: expected true, false, \"high\", \"medium\" or "
                  "\"low\"");
        return false;
    }
    bool on = effort || json_is_true(think);
    json_object_set_new(generation->variables, "enable_thinking", json_boolean(on));
    json_object_set_new(generation->variables, "thinking", json_boolean(on));
    if (effort)
        json_object_set_new(generation->variables, "reasoning_effort", json_string(effort));
    return true;
}

static bool read_common(struct generation *generation, json_t *json, hypura_error *error)
{
    const json_t *own = json_object_get(generation->job.model.manifest, "parameters");
    json_t *given = json_object_get(json, "options"), *options = own ? json_deep_copy(own) : json_object();
    if (given && !json_is_object(given) && !json_is_null(given)) {
        json_decref(options);
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"options\" must be an object");
        return false;
    }
    if (json_is_object(given))
        json_object_update(options, given);
    warn_of_unknown(generation, given);
    generation->state = json_pack("{s:o}", "options", options); /* keeps the stop strings alive */
    const json_t *keep_alive = json_object_get(json, "keep_alive");
    if (keep_alive && !json_is_null(keep_alive)) {
        if (!duration_of_json(keep_alive, &generation->job.keep_alive)) {
            error_set(error, HYPURA_ERROR_ARGUMENT,
                      "invalid keep_alive: expected a duration such as \"5m\", or seconds");
            return false;
        }
        generation->job.keep_alive_given = true;
    }
    if (json_is_true(json_object_get(json, "logprobs"))) {
        uint32_t top = 0;
        if (!read_count(json, "top_logprobs", &top, error))
            return false;
        if (top > 20) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "top_logprobs must be between 0 and 20");
            return false;
        }
        generation->top_logprobs = (int32_t)top;
    }
    if (!read_options(generation, options, error))
        return false;
    const json_t *shift = json_object_get(json, "shift");
    if (shift && !json_is_boolean(shift) && !json_is_null(shift)) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "\"shift\" must be true or false");
        return false;
    }
    generation->shift = !json_is_false(shift);
    if (json_is_false(json_object_get(json, "truncate")))
        generation->keep_first = UINT32_MAX;
    return read_format(generation, json_object_get(json, "format"), error) &&
           read_think(generation, json_object_get(json, "think"), error);
}

static bool has_images(const json_t *object, hypura_error *error)
{
    if (json_array_size(json_object_get(object, "images")) == 0)
        return false;
    error_set(error, HYPURA_ERROR_ARGUMENT, "this server accepts text only: \"images\" is not supported");
    return true;
}

/* ---- loading and unloading without a prompt ------------------------------------------------------------------------
 */

static void start_load(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds)
{
    struct generation *generation = (struct generation *)job;
    bool chat = json_is_true(json_object_get(generation->state, "chat"));
    bool unload = job->keep_alive_given && job->keep_alive == 0;
    json_t *line = chunk(generation, true);
    (void)load_nanoseconds;
    struct loaded_models *models = exchange_server(job->exchange)->models;
    struct loaded_model *other = unload ? loaded_find_file(models, &job->model) : NULL;
    (void)loaded;
    if (other) {
        loaded_unload(models, other);
        loaded_spread(models);
    }
    if (chat)
        json_object_set_new(line, "message", json_pack("{s:s, s:s}", "role", "assistant", "content", ""));
    else
        json_object_set_new(line, "response", json_string(""));
    json_object_set_new(line, "done_reason", json_string(unload ? "unload" : "load"));
    exchange_reply_json(job->exchange, 200, line);
    generation_free(generation);
}

static void submit_load(struct generation *generation)
{
    if (!generation_is_whole(generation))
        return;
    generation->job.prepare = NULL;
    generation->job.start = start_load;
    if (generation->job.keep_alive_given && generation->job.keep_alive == 0) {
        generation->job.needs_model = false;
        generation->job.alone = true;
    }
    worker_submit(exchange_server(generation->job.exchange)->worker, &generation->job);
}

/* ---- the two requests ----------------------------------------------------------------------------------------------
 */

static json_t *message(const char *role, const char *text)
{
    return json_pack("{s:s, s:s}", "role", role, "content", text);
}

bool template_is_plain(const char *text)
{
    char bare[32];
    size_t length = 0;
    for (; *text && length < sizeof bare - 1; text++) {
        if (*text != ' ' && *text != '\n' && *text != '\r' && *text != '\t')
            bare[length++] = *text;
    }
    bare[length] = 0;
    return strcmp(bare, "{{.Prompt}}") == 0;
}

void handle_ollama_generate(struct exchange *exchange)
{
    hypura_error error = {0};
    struct generation *generation = generation_create(exchange, &dialect, true);
    if (!generation)
        return;
    json_t *json = exchange_json(exchange);
    const json_t *prompt = json_object_get(json, "prompt"), *suffix = json_object_get(json, "suffix");
    const char *system = json_string_value(json_object_get(json, "system"));
    const char *template = json_string_value(json_object_get(json, "template"));
    bool raw = json_is_true(json_object_get(json, "raw"));
    if ((prompt && !json_is_string(prompt) && !json_is_null(prompt)) ||
        (suffix && !json_is_string(suffix) && !json_is_null(suffix))) {
        generation_refuse(generation, "\"prompt\" and \"suffix\" must be strings");
        return;
    }
    if (!read_common(generation, json, &error) || has_images(json, &error)) {
        generation_refuse_with(generation, &error);
        return;
    }
    const char *text = json_is_string(prompt) ? json_string_value(prompt) : "";
    if (system)
        system += volatile_head(generation, "system", system);
    const char *own_template = json_string_value(json_object_get(generation->job.model.manifest, "template"));
    if (template && *template && !template_is_plain(template)) {
        generation_refuse(
            generation,
            "\"template\" is a Go template, which this server cannot run: leave it out to use the model's own "
            "chat template, or send \"raw\": true to use none");
        return;
    }
    raw |= (template && *template) || (own_template && !(template && *template));
    const json_t *context = json_object_get(json, "context");
    if (raw && json_is_true(json_object_get(json, "raw")) && (json_array_size(context) || (system && *system))) {
        generation_refuse(generation, "raw mode does not support template, system, or context");
        return;
    }
    json_object_set_new(generation->state, "chat", json_false());
    if (!*text && !(json_string_length(suffix))) {
        submit_load(generation);
        return;
    }
    if (json_string_length(suffix))
        generation->suffix = json_string_value(suffix);
    if (raw || generation->suffix) {
        generation->text = text;
    } else {
        generation->messages = json_array();
        if (system && *system)
            json_array_append_new(generation->messages, message("system", system));
        json_array_append_new(generation->messages, message("user", text));
        add_own_messages(generation, system && *system);
    }
    generation->tokens_before = json_array_size(context) ? context : NULL;
    generation->want_ids = !raw && !generation->suffix;
    generation_submit(generation);
}

static json_t *one_message(struct generation *generation, const json_t *given, hypura_error *error)
{
    const char *said = json_string_value(json_object_get(given, "role")), *role = known_role(said);
    if (!role) {
        error_set(error, HYPURA_ERROR_ARGUMENT, "invalid role: %.40s; expected system, user, assistant or tool",
                  said ? said : "none");
        return NULL;
    }
    if (has_images(given, error))
        return NULL;
    json_t *content = content_text(generation, role, json_object_get(given, "content"), error);
    if (!content)
        return NULL;
    json_t *copy = json_copy((json_t *)given);
    json_object_set_new(copy, "role", json_string(role));
    json_object_set_new(copy, "content", content);
    json_object_del(copy, "images");
    json_t *thinking = json_object_get(copy, "thinking"), *name = json_object_get(copy, "tool_name");
    if (json_is_string(thinking))
        json_object_set(copy, "reasoning_content", thinking);
    if (json_is_string(name) && !json_object_get(copy, "name"))
        json_object_set(copy, "name", name);
    if (json_array_size(json_object_get(copy, "tool_calls")) == 0)
        json_object_del(copy, "tool_calls");
    return copy;
}

void handle_ollama_chat(struct exchange *exchange)
{
    hypura_error error = {0};
    struct generation *generation = generation_create(exchange, &dialect, true);
    if (!generation)
        return;
    json_t *json = exchange_json(exchange), *given = json_object_get(json, "messages");
    const json_t *tools = json_object_get(json, "tools");
    if (!read_common(generation, json, &error)) {
        generation_refuse_with(generation, &error);
        return;
    }
    json_object_set_new(generation->state, "chat", json_true());
    if ((given && !json_is_array(given) && !json_is_null(given)) ||
        (tools && !json_is_array(tools) && !json_is_null(tools))) {
        generation_refuse(generation, "\"messages\" and \"tools\" must be arrays");
        return;
    }
    generation->messages = json_array();
    bool system = false;
    size_t i;
    json_t *each;
    json_array_foreach(given, i, each)
    {
        json_t *copy = one_message(generation, each, &error);
        if (!copy) {
            generation_refuse_with(generation, &error);
            return;
        }
        system |= has_role(copy, "system");
        json_array_append_new(generation->messages, copy);
    }
    if (json_array_size(generation->messages) == 0) {
        submit_load(generation);
        return;
    }
    add_own_messages(generation, system);
    if (json_array_size(tools))
        generation->tools = json_deep_copy(tools);
    generation_submit(generation);
}
