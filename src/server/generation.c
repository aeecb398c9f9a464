#include "server/generation.h"
#include "core/json_text.h"
#include "grammar/grammar.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* ---- creating ------------------------------------------------------------------------------------------------------
 */

static void prepare_job(struct job *job, struct loaded_model *loaded);
static void start_job(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds);
static void cancel_job(struct job *job, struct loaded_model *loaded);

struct generation *generation_create(struct exchange *exchange, const struct dialect *dialect, bool stream_default)
{
    json_t *json = exchange_json(exchange);
    hypura_error error = {0};
    struct generation *generation;
    if (!json)
        return NULL;
    const json_t *model = json_object_get(json, "model"), *stream = json_object_get(json, "stream");
    if (!json_is_string(model) || !*json_string_value(model)) {
        exchange_fail(exchange, 400, "model is required");
        return NULL;
    }
    if (stream && !json_is_boolean(stream) && !json_is_null(stream)) {
        exchange_fail(exchange, 400, "\"stream\" must be true or false");
        return NULL;
    }
    if (ALLOCATE(&generation, 1, "request", &error)) {
        exchange_fail_with(exchange, &error);
        return NULL;
    }
    generation->job.exchange = exchange;
    exchange_hold(exchange);
    generation->job.needs_model = true;
    generation->job.prepare = prepare_job;
    generation->job.start = start_job;
    generation->job.cancel = cancel_job;
    generation->job.refuse = generation_refuse_job;
    generation->dialect = dialect;
    generation->model_name = json_string_value(model);
    generation->stream = stream && !json_is_null(stream) ? json_is_true(stream) : stream_default;
    generation->count = 1;
    generation->block = -1;
    generation->top_logprobs = -1;
    generation->start = clock_nanoseconds();
    generation->created = (int64_t)time(NULL);
    generation->variables = json_object();
    sampler_default_options(&generation->sampling);
    if (getentropy(&generation->sampling.seed, sizeof generation->sampling.seed))
        generation->sampling.seed = generation->start;
    hypura_status status =
        registry_find(exchange_server(exchange)->registry, generation->model_name, &generation->job.model, &error);
    if (status) {
        exchange_fail_as(exchange, status == HYPURA_ERROR_IO ? 404 : status_of_error(&error), "model_not_found",
                         error.message);
        generation_free(generation);
        return NULL;
    }
    return generation;
}

void generation_submit(struct generation *generation)
{
    if (!generation_is_whole(generation))
        return;
    if (exchange_server(generation->job.exchange)->options.log_prompts) {
        char *text = generation->messages ? json_text_write(generation->messages, JSON_COMPACT) : NULL;
        server_log("info",
                   text               ? text
                   : generation->text ? generation->text
                                      : "",
                   "id=%s prompt=true", exchange_id(generation->job.exchange));
        free(text);
    }
    worker_submit(exchange_server(generation->job.exchange)->worker, &generation->job);
}

static struct generation *create_and_read(struct exchange *exchange, const struct dialect *dialect, request_reader read)
{
    hypura_error error = {0};
    struct generation *generation = generation_create(exchange, dialect, false);
    if (!generation || read(generation, exchange_json(exchange), &error))
        return generation;
    generation_refuse_with(generation, &error);
    return NULL;
}

void generation_handle(struct exchange *exchange, const struct dialect *dialect, const char *id_prefix,
                       request_reader read)
{
    struct generation *generation = create_and_read(exchange, dialect, read);
    char id[25];
    if (!generation)
        return;
    random_hex(id, 24);
    snprintf(generation->id, sizeof generation->id, "%s%s", id_prefix, id);
    generation_submit(generation);
}

void generation_handle_count(struct exchange *exchange, const char *object, request_reader read)
{
    struct generation *generation = create_and_read(exchange, NULL, read);
    if (generation)
        generation_submit_count(generation, object);
}

/* ---- the answer ----------------------------------------------------------------------------------------------------
 */

/* A malformed grammar is an error of the request, not of a file. */
static void blame_request(struct generation *generation, hypura_error *error)
{
    bool constrained = generation->schema || generation->any_json;
    if (constrained && error->status == HYPURA_ERROR_FORMAT)
        error->status = HYPURA_ERROR_ARGUMENT;
}

static hypura_status make_grammar(struct generation *generation, hypura_error *error)
{
    if (generation->forced)
        generation->schema = generation->forced;
    if ((!generation->schema && !generation->any_json) || generation->grammar)
        return HYPURA_OK;
    hypura_status status = generation->schema ? grammar_from_schema(&generation->grammar, generation->schema, error)
                                              : grammar_json(&generation->grammar, error);
    if (!status)
        return HYPURA_OK;
    blame_request(generation, error);
    return error->status;
}

static void prepare_job(struct job *job, struct loaded_model *loaded)
{
    struct generation *generation = (struct generation *)job;
    generation->loaded = loaded;
    generation->error = (hypura_error){0};
    generation->prepared = generation_make_prompt(generation, &generation->error);
    if (!generation->prepared)
        generation->prepared = make_grammar(generation, &generation->error);
    if (exchange_check_work(&generation->error))
        generation->prepared = generation->error.status;
    if (!generation->prepared)
        generation->prepared = keep_tokens(job->exchange, &generation->prompt, &generation->error);
}

/* Stores a piece of an answer and, in a stream, writes it. */
static void take_delta(void *context, const struct chat_delta *delta)
{
    struct choice *choice = context;
    struct generation *generation = choice->generation;
    choice->last = delta->kind;
    switch (delta->kind) {
    case CHAT_CONTENT:
        buffer_append(&choice->content, delta->text, delta->size);
        break;
    case CHAT_REASONING:
        buffer_append(&choice->reasoning, delta->text, delta->size);
        break;
    case CHAT_TOOL_CALL: {
        json_t *arguments = json_text_read(delta->text, delta->size, JSON_ALLOW_NUL, NULL);
        if (!choice->calls)
            choice->calls = json_array();
        char id[16];
        random_hex(id, 12);
        json_t *call = json_pack("{s:s, s:o, s:o}", "name", delta->name, "arguments",
                                 arguments ? arguments : json_object(), "id", json_sprintf("call_%s", id));
        json_array_append_new(choice->calls, call);
        break;
    }
    }
    if (generation->stream && !(generation->forced && delta->kind == CHAT_CONTENT))
        generation->dialect->delta(generation, choice, delta);
}

static json_t *logprob_json(const struct vocabulary *vocabulary, int32_t token, float logprob)
{
    struct buffer piece = {0};
    vocabulary_piece(vocabulary, token, true, &piece);
    json_t *bytes = json_array();
    for (size_t i = 0; i < piece.size; i++)
        json_array_append_new(bytes, json_integer((unsigned char)piece.data[i]));
    json_t *text = buffer_json(&piece);
    buffer_free(&piece);
    return json_pack("{s:o, s:f, s:o}", "token", text, "logprob", isfinite(logprob) ? (double)logprob : -9999.0,
                     "bytes", bytes);
}

static void note_logprobs(struct choice *choice, const struct generated_token *token)
{
    struct generation *generation = choice->generation;
    const struct vocabulary *vocabulary = generation->loaded->vocabulary;
    struct token_logprob top[20];
    size_t count = (size_t)generation->top_logprobs;
    float own = logits_logprobs(token->logits, vocabulary_size(vocabulary), token->id, top, count);
    json_t *entry = logprob_json(vocabulary, token->id, own), *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, logprob_json(vocabulary, top[i].token, top[i].logprob));
    json_object_set_new(entry, "top_logprobs", list);
    json_array_append_new(choice->logprobs, entry);
}

static bool on_token(void *context, const struct generated_token *token)
{
    struct choice *choice = context;
    struct generation *generation = choice->generation;
    const struct vocabulary *vocabulary = generation->loaded->vocabulary;
    size_t size = token->size;
    choice->result.cached_tokens = token->cached_tokens; /* the first event of a stream has it */
    exchange_start_work();
    bool end = token->id != NO_TOKEN && vocabulary_is_end_of_generation(vocabulary, token->id);
    choice->ended = choice->ended || end;
    if (choice->ended && choice->parser && size) {
        /* The parser sees control tokens as text. The text of the token that ends the answer is not part of it. */
        struct buffer piece = {0};
        for (int32_t id = end ? token->id : choice->result.stop_token; id != NO_TOKEN; id = NO_TOKEN)
            vocabulary_piece(vocabulary, id, true, &piece);
        if (piece.size && size >= piece.size && memcmp(token->text + size - piece.size, piece.data, piece.size) == 0)
            size -= piece.size;
        buffer_free(&piece);
    }
    if (end)
        choice->result.stop_token = token->id;
    if (token->id != NO_TOKEN && !end) {
        if (choice->logprobs)
            note_logprobs(choice, token);
        if (choice->ids)
            json_array_append_new(choice->ids, json_integer(token->id));
    }
    if (size && choice->parser)
        choice->torn |= chat_parser_push(choice->parser, token->text, size, NULL) != HYPURA_OK;
    else if (size)
        take_delta(choice, &(struct chat_delta){.kind = CHAT_CONTENT, .text = token->text, .size = size});
    choice->reasoning_tokens += token->id != NO_TOKEN && choice->last == CHAT_REASONING;
    choice->torn |= exchange_check_work(NULL) != HYPURA_OK;
    return !choice->torn && exchange_alive(generation->job.exchange);
}

static void finish_generation(struct generation *generation)
{
    struct server *server = exchange_server(generation->job.exchange);
    hypura_error *failed = NULL;
    bool cancelled = false, torn = false;
    for (size_t i = 0; i < generation->count; i++) {
        struct choice *choice = &generation->choices[i];
        if (choice->result.reason == FINISH_ERROR)
            failed = &choice->result.error;
        cancelled |= choice->result.reason == FINISH_CANCELLED;
        atomic_fetch_add(&server->counters.generated_tokens, choice->result.generated_tokens);
        atomic_fetch_add(&server->counters.prompt_tokens, choice->result.prompt_tokens);
        atomic_fetch_add(&server->counters.cached_tokens, choice->result.cached_tokens);
        torn |= choice->torn;
    }
    if (failed)
        blame_request(generation, failed);
    else
        prompt_note_say(generation);
    if (torn)
        exchange_fail_for_memory(generation->job.exchange);
    else if (failed && generation->dialect->fail && exchange_begun(generation->job.exchange))
        generation->dialect->fail(generation, failed->message);
    else if (failed)
        exchange_fail_with(generation->job.exchange, failed);
    else if (cancelled)
        exchange_fail(generation->job.exchange, atomic_load(&server->stopping) ? 503 : 499,
                      atomic_load(&server->stopping) ? "the server is shutting down" : "the client went away");
    else
        generation->dialect->end(generation);
    atomic_fetch_add(cancelled && !torn ? &server->counters.cancelled : &server->counters.answers, 1);
    worker_done(server->worker, &generation->job);
    generation_free(generation);
}

/* Turns content that was written under the grammar of a forced call into that call. */
static void take_forced_call(struct choice *choice)
{
    json_t *call =
        json_text_read(choice->content.data ? choice->content.data : "", choice->content.size, JSON_ALLOW_NUL, NULL);
    const char *name = json_string_value(json_object_get(call, "name"));
    char *arguments = json_text_write(json_object_get(call, "arguments"), JSON_COMPACT);
    if (name && arguments) {
        buffer_clear(&choice->content);
        take_delta(choice, &(struct chat_delta){
                               .kind = CHAT_TOOL_CALL, .text = arguments, .size = strlen(arguments), .name = name});
    }
    free(arguments);
    json_decref(call);
}

static void on_done(void *context, const struct generation_result *result)
{
    struct choice *choice = context;
    struct generation *generation = choice->generation;
    bool whole = !choice->torn && (result->reason == FINISH_STOP || result->reason == FINISH_LENGTH);
    exchange_start_work();
    choice->result = *result;
    choice->done = true;
    if (choice->parser && whole)
        choice->torn |= chat_parser_finish(choice->parser, NULL) != HYPURA_OK;
    if (generation->forced && whole)
        take_forced_call(choice);
    if (generation->stream && whole)
        generation->dialect->end_choice(generation, choice);
    choice->torn |= exchange_check_work(NULL) != HYPURA_OK;
    if (--generation->remaining == 0)
        finish_generation(generation);
}

static hypura_status make_choice(struct generation *generation, struct choice *choice, hypura_error *error)
{
    struct loaded_model *loaded = generation->loaded;
    struct sampler_options options = generation->sampling;
    options.seed += choice->index;
    choice->generation = generation;
    choice->result.stop_token = NO_TOKEN;
    hypura_status status = sampler_create(&choice->sampler, &options, vocabulary_size(loaded->vocabulary), error);
    if (!status && generation->grammar) {
        status = grammar_matcher_create(&choice->matcher, generation->grammar, loaded->grammar, error);
        if (!status) {
            struct token_constraint constraint = grammar_matcher_constraint(choice->matcher);
            sampler_set_constraint(choice->sampler, &constraint);
        }
    }
    /* An answer under a grammar is taken literally, not parsed. */
    bool marks = generation->messages && !generation->grammar &&
                 (generation->format.think_start || generation->format.channels || generation->tools);
    if (!status && marks)
        status = chat_parser_create(&choice->parser, &generation->format, generation->tools, take_delta, choice, error);
    if (generation->top_logprobs >= 0)
        choice->logprobs = json_array();
    if (generation->want_ids)
        choice->ids = json_array();
    return status ? status : exchange_check_work(error);
}

static hypura_status begin(struct generation *generation, hypura_error *error)
{
    hypura_status status = generation->prepared;
    if (status)
        *error = generation->error;
    if (!status && generation->grammar)
        status = loaded_grammar_vocabulary(generation->loaded, error);
    if (!status)
        status = ALLOCATE(&generation->choices, generation->count, "answers", error);
    for (size_t i = 0; !status && i < generation->count; i++) {
        generation->choices[i].index = i;
        status = make_choice(generation, &generation->choices[i], error);
    }
    return status;
}

static bool is_awaited(void *context)
{
    const struct choice *choice = context;
    return exchange_alive(choice->generation->job.exchange);
}

static void start_job(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds)
{
    struct generation *generation = (struct generation *)job;
    struct worker *worker = exchange_server(job->exchange)->worker;
    hypura_error error = {0};
    generation->load_nanoseconds = load_nanoseconds;
    hypura_status status = begin(generation, &error);
    size_t submitted = 0;
    generation->remaining = generation->count;
    if (!status)
        prompt_note_find(generation);
    for (; !status && submitted < generation->count; submitted++) {
        struct choice *choice = &generation->choices[submitted];
        struct generation_request request = {.tokens = generation->prompt.ids,
                                             .count = generation->prompt.count,
                                             .max_tokens = generation->max_tokens,
                                             .positions = generation->positions,
                                             .shift = generation->shift,
                                             .shift_keep =
                                                 MIN(generation->shift_keep, (uint32_t)generation->prompt.count),
                                             .sampler = choice->sampler,
                                             .stops = generation->stops,
                                             .stop_count = generation->stop_count,
                                             .show_special = choice->parser != NULL,
                                             .on_token = on_token,
                                             .on_done = on_done,
                                             .is_awaited = is_awaited,
                                             .context = choice};
        status = generator_submit(loaded->generator, &request, &choice->number, &error);
        if (status)
            break;
    }
    if (status && submitted == 0) {
        generation_fail(generation, &error);
        generation_free(generation);
        return;
    }
    worker_keep(worker, job, loaded);
    if (status) {
        /* Cancels the answers already submitted, since the request fails without the others. */
        for (size_t i = submitted; i < generation->count; i++) {
            generation->choices[i].result = (struct generation_result){.reason = FINISH_ERROR, .error = error};
            generation->remaining--;
        }
        cancel_job(job, loaded);
    }
}

static void cancel_job(struct job *job, struct loaded_model *loaded)
{
    struct generation *generation = (struct generation *)job;
    for (size_t i = 0; i < generation->count; i++) {
        if (!generation->choices[i].done && generation->choices[i].number)
            generator_cancel(loaded->generator, generation->choices[i].number);
    }
}

/* ---- for dialects --------------------------------------------------------------------------------------------------
 */

const char *finish_name(const struct choice *choice)
{
    return choice->result.reason == FINISH_LENGTH ? "length" : "stop";
}

json_t *fresh_logprobs(struct choice *choice)
{
    if (!choice->logprobs)
        return NULL;
    json_t *fresh = json_array();
    for (; choice->logprobs_given < json_array_size(choice->logprobs); choice->logprobs_given++)
        json_array_append(fresh, json_array_get(choice->logprobs, choice->logprobs_given));
    return fresh;
}

uint32_t prompt_tokens(const struct generation *generation)
{
    return (uint32_t)generation->prompt.count;
}

uint32_t generated_tokens(const struct generation *generation)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < generation->count; i++)
        sum += generation->choices[i].result.generated_tokens;
    return sum;
}

uint32_t reasoning_tokens(const struct generation *generation)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < generation->count; i++)
        sum += generation->choices[i].reasoning_tokens;
    return sum;
}
