/* Refuses, fails and frees generations. */
#include "server/generation.h"

static void free_generation(struct generation *generation)
{
    for (size_t i = 0; generation->choices && i < generation->count; i++) {
        struct choice *choice = &generation->choices[i];
        sampler_destroy(choice->sampler);
        grammar_matcher_free(choice->matcher);
        chat_parser_free(choice->parser);
        buffer_free(&choice->content);
        buffer_free(&choice->reasoning);
        json_decref(choice->calls);
        json_decref(choice->logprobs);
        json_decref(choice->ids);
    }
    memory_free(generation->choices);
    grammar_free(generation->grammar);
    token_array_free(&generation->prompt);
    memory_free(generation->biases);
    memory_free(generation->stops);
    json_decref(generation->messages);
    json_decref(generation->tools);
    json_decref(generation->variables);
    json_decref(generation->state);
    json_decref(generation->forced);
    model_entry_free(&generation->job.model);
    exchange_release(generation->job.exchange);
    memory_free(generation);
}

static void free_at_desk(struct desk_task *task)
{
    free_generation((struct generation *)((char *)task - offsetof(struct generation, job.task)));
}

void generation_free(struct generation *generation)
{
    if (!generation)
        return;
    if (!exchange_is_large(generation->job.exchange)) {
        free_generation(generation);
        return;
    }
    generation->job.task = (struct desk_task){.work = free_at_desk, .bytes = SIZE_MAX};
    desk_submit(exchange_server(generation->job.exchange)->desk, &generation->job.task);
}

void generation_refuse_job(struct job *job, unsigned status, const char *message)
{
    struct server_counters *counters = &exchange_server(job->exchange)->counters;
    if (status == 503 || status == 499)
        atomic_fetch_add(status == 503 ? &counters->refused : &counters->cancelled, 1);
    exchange_fail(job->exchange, status, message);
    generation_free((struct generation *)job);
}

void generation_refuse(struct generation *generation, const char *message)
{
    generation_refuse_job(&generation->job, 400, message);
}

void generation_refuse_with(struct generation *generation, const hypura_error *error)
{
    generation_refuse_job(&generation->job, error->status == HYPURA_ERROR_MEMORY ? 503 : 400, error->message);
}

bool generation_is_whole(struct generation *generation)
{
    hypura_error error = {0};
    if (exchange_check_work(&error))
        generation_refuse_with(generation, &error);
    return error.status == HYPURA_OK;
}

void generation_fail(struct generation *generation, const hypura_error *error)
{
    struct exchange *exchange = generation->job.exchange;
    bool cancelled = error->status == HYPURA_ERROR_CANCELLED,
         stopping = atomic_load(&exchange_server(exchange)->stopping);
    if (cancelled)
        atomic_fetch_add(&exchange_server(exchange)->counters.cancelled, 1);
    if (exchange_lacks_room(exchange))
        exchange_fail_for_room(exchange);
    else if (cancelled && stopping)
        exchange_fail(exchange, 503, "the server is shutting down");
    else
        exchange_fail_as(exchange, status_of_error(error), generation->too_long ? "context_length_exceeded" : NULL,
                         cancelled ? "the client went away" : error->message);
}
