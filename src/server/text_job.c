#include "server/text_job.h"
#include "server/generation.h"

static void text_job_free(struct text_job *texts)
{
    texts->kind->free_results(texts);
    for (size_t i = 0; texts->prompts && i < texts->count; i++)
        token_array_free(&texts->prompts[i]);
    memory_free(texts->prompts);
    model_entry_free(&texts->job.model);
    exchange_release(texts->job.exchange);
    memory_free(texts);
}

static void refuse(struct job *job, unsigned status, const char *message)
{
    exchange_fail(job->exchange, status, message);
    text_job_free((struct text_job *)job);
}

static void prepare(struct job *job, struct loaded_model *loaded)
{
    struct text_job *texts = (struct text_job *)job;
    hypura_error *error = &texts->error;
    *error = (hypura_error){0};
    hypura_status status =
        texts->prompts ? HYPURA_OK : ALLOCATE(&texts->prompts, texts->count, "tokens of the texts", error);
    for (size_t i = 0; i < texts->count && !status; i++) {
        texts->prompts[i].count = 0;
        status = texts->kind->tokenize(texts, loaded, i, &texts->prompts[i], error);
        if (!status)
            status = keep_tokens(job->exchange, &texts->prompts[i], error);
    }
    if (exchange_check_work(error))
        status = error->status;
    texts->prepared = status;
}

static hypura_status begin(struct text_job *texts, struct loaded_model *loaded, hypura_error *error)
{
    hypura_status status = texts->prepared;
    if (status)
        *error = texts->error;
    if (!status)
        status = texts->kind->begin(texts, loaded, error);
    return status ? status : loaded_clear_sequences(exchange_server(texts->job.exchange)->models, loaded, error);
}

static hypura_status evaluate_next(struct text_job *texts, struct loaded_model *loaded, hypura_error *error)
{
    struct token_array *tokens = &texts->prompts[texts->done];
    hypura_status status = HYPURA_OK;
    if (!exchange_alive(texts->job.exchange))
        status = error_set(error, HYPURA_ERROR_CANCELLED, "the client went away");
    if (!status)
        status = texts->kind->evaluate(texts, loaded, tokens, error);
    if (!status) {
        texts->tokens += tokens->count;
        texts->done++;
    }
    token_array_free(tokens);
    return status;
}

static void end_with(struct text_job *texts, const hypura_error *error)
{
    if (exchange_lacks_room(texts->job.exchange))
        exchange_fail_for_room(texts->job.exchange);
    else if (error->status)
        exchange_fail_with(texts->job.exchange, error);
    else
        texts->kind->reply(texts);
    atomic_fetch_add(&exchange_server(texts->job.exchange)->counters.prompt_tokens, texts->tokens);
    text_job_free(texts);
}

/* Evaluates one text, so that answers of other models continue in between. */
static void step(struct job *job, struct loaded_model *loaded)
{
    struct text_job *texts = (struct text_job *)job;
    hypura_error error = {0};
    if (evaluate_next(texts, loaded, &error) == HYPURA_OK && texts->done < texts->count)
        return;
    worker_done(exchange_server(job->exchange)->worker, job);
    end_with(texts, &error);
}

static void start(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds)
{
    struct text_job *texts = (struct text_job *)job;
    hypura_error error = {0};
    texts->load_nanoseconds = load_nanoseconds;
    if (begin(texts, loaded, &error) || texts->count == 0)
        end_with(texts, &error);
    else
        worker_keep(exchange_server(job->exchange)->worker, job, loaded);
}

struct text_job *text_job_create(struct exchange *exchange, const struct text_job_kind *kind)
{
    const json_t *json = exchange_json(exchange);
    hypura_error error = {0};
    struct text_job *texts;
    if (!json)
        return NULL;
    const char *model = json_string_value(json_object_get(json, "model"));
    if (!model || !*model) {
        exchange_fail(exchange, 400, "model is required");
        return NULL;
    }
    if (memory_allocate((void **)&texts, 1, kind->size, "request", &error)) {
        exchange_fail_with(exchange, &error);
        return NULL;
    }
    *texts = (struct text_job){.job = {.exchange = exchange,
                                       .needs_model = true,
                                       .alone = true,
                                       .prepare = prepare,
                                       .start = start,
                                       .step = step,
                                       .refuse = refuse},
                               .kind = kind,
                               .model_name = model};
    exchange_hold(exchange);
    return texts;
}

void text_job_submit(struct text_job *texts)
{
    struct exchange *exchange = texts->job.exchange;
    struct server *server = exchange_server(exchange);
    hypura_error error = {0};
    if (texts->kind->read(texts, exchange_json(exchange), &error)) {
        refuse(&texts->job, 400, error.message);
    } else if (registry_find(server->registry, texts->model_name, &texts->job.model, &error)) {
        exchange_fail_as(exchange, error.status == HYPURA_ERROR_IO ? 404 : status_of_error(&error), "model_not_found",
                         error.message);
        text_job_free(texts);
    } else {
        worker_submit(server->worker, &texts->job);
    }
}
