/* /v1/rerank, as Jina, Cohere and llama.cpp have it: a reranking model scores how well documents answer a query. */
#include "engine/prompt.h"
#include "server/generation.h"
#include "server/worker.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DOCUMENTS 2048

struct ranked {
    uint32_t index;
    float score;
};

struct ranking {
    struct job job; /* first */
    const char *model_name;
    const json_t *query, *documents; /* owned by the exchange */
    size_t count;
    uint32_t top; /* 0: all */
    bool shows;   /* the answer includes the documents */
    uint64_t tokens;
    struct token_array *prompts; /* of each document */
    hypura_status prepared;
    hypura_error error; /* of preparing them */
    struct ranked *ranked;
    size_t done;
};

/* ---- the answer ----------------------------------------------------------------------------------------------------
 */

/* Sorts by falling score, then by rising index. */
static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *one = a, *other = b;
    if (one->score != other->score)
        return one->score < other->score ? 1 : -1;
    return one->index < other->index ? -1 : one->index > other->index;
}

static const json_t *text_of(const json_t *document)
{
    return json_is_object(document) ? json_object_get(document, "text") : document;
}

static json_t *result_of(const struct ranking *ranking, const struct ranked *ranked)
{
    json_t *result = json_pack("{s:I, s:f}", "index", (json_int_t)ranked->index, "relevance_score",
                               isfinite(ranked->score) ? (double)ranked->score : 0.0);
    const json_t *text = text_of(json_array_get(ranking->documents, ranked->index));
    if (result && ranking->shows)
        json_object_set_new(result, "document",
                            json_pack("{s:s%}", "text", json_string_value(text), json_string_length(text)));
    return result;
}

static void reply(struct ranking *ranking)
{
    struct exchange *exchange = ranking->job.exchange;
    uint64_t failures = memory_failures();
    hypura_error error = {0};
    json_t *results = json_array();
    qsort(ranking->ranked, ranking->count, sizeof *ranking->ranked, compare_ranked);
    for (size_t i = 0; i < ranking->count && (!ranking->top || i < ranking->top); i++)
        json_array_append_new(results, result_of(ranking, &ranking->ranked[i]));
    json_t *json = json_pack("{s:s, s:s, s:{s:I, s:I}, s:o}", "model", ranking->model_name, "object", "list", "usage",
                             "prompt_tokens", (json_int_t)ranking->tokens, "total_tokens", (json_int_t)ranking->tokens,
                             "results", results);
    if (!json || memory_check(failures, "scores", &error)) {
        json_decref(json);
        exchange_fail_for_memory(exchange);
        return;
    }
    exchange_reply_json(exchange, 200, json);
}

/* ---- the job --------------------------------------------------------------------------------------------------------
 */

static void ranking_free(struct ranking *ranking)
{
    for (size_t i = 0; ranking->prompts && i < ranking->count; i++)
        token_array_free(&ranking->prompts[i]);
    memory_free(ranking->prompts);
    memory_free(ranking->ranked);
    model_entry_free(&ranking->job.model);
    exchange_release(ranking->job.exchange);
    memory_free(ranking);
}

static void refuse(struct job *job, unsigned status, const char *message)
{
    exchange_fail(job->exchange, status, message);
    ranking_free((struct ranking *)job);
}

static bool is_awaited(void *context)
{
    return exchange_is_awaited(context);
}

static hypura_status tokens_of(struct ranking *ranking, struct loaded_model *loaded, size_t index,
                               struct token_array *tokens, hypura_error *error)
{
    const json_t *text = text_of(json_array_get(ranking->documents, index));
    struct work_watch watch = {is_awaited, exchange_lend_until_end, ranking->job.exchange};
    const struct prompt_pair pair = {json_string_value(ranking->query), json_string_length(ranking->query),
                                     json_string_value(text), json_string_length(text)};
    hypura_status status = prompt_tokenize_pair(loaded->vocabulary, model_file(engine_model(loaded->engine)), &pair,
                                                &watch, tokens, error);
    if (!status && tokens->count > engine_plan(loaded->engine)->positions)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "the query and document %zu have %zu tokens together, more than the context of %u", index,
                         tokens->count, engine_plan(loaded->engine)->positions);
    return status;
}

static void prepare(struct job *job, struct loaded_model *loaded)
{
    struct ranking *ranking = (struct ranking *)job;
    hypura_error *error = &ranking->error;
    *error = (hypura_error){0};
    hypura_status status =
        ranking->prompts ? HYPURA_OK : ALLOCATE(&ranking->prompts, ranking->count, "tokens of the texts", error);
    for (size_t i = 0; i < ranking->count && !status; i++) {
        ranking->prompts[i].count = 0;
        status = tokens_of(ranking, loaded, i, &ranking->prompts[i], error);
        if (!status)
            status = keep_tokens(job->exchange, &ranking->prompts[i], error);
    }
    if (exchange_check_work(error))
        status = error->status;
    ranking->prepared = status;
}

static hypura_status begin(struct ranking *ranking, struct loaded_model *loaded, hypura_error *error)
{
    hypura_status status = ranking->prepared;
    if (status)
        *error = ranking->error;
    if (!status)
        status = ALLOCATE(&ranking->ranked, ranking->count, "scores", error);
    return status ? status : loaded_clear_sequences(exchange_server(ranking->job.exchange)->models, loaded, error);
}

static hypura_status judge_next(struct ranking *ranking, struct loaded_model *loaded, hypura_error *error)
{
    struct token_array *tokens = &ranking->prompts[ranking->done];
    struct ranked *ranked = &ranking->ranked[ranking->done];
    hypura_status status = HYPURA_OK;
    ranked->index = (uint32_t)ranking->done;
    if (!exchange_alive(ranking->job.exchange))
        status = error_set(error, HYPURA_ERROR_CANCELLED, "the client went away");
    if (!status)
        status = engine_judge(loaded->engine, tokens->ids, tokens->count, &ranked->score, error);
    if (!status) {
        ranking->tokens += tokens->count;
        ranking->done++;
    }
    token_array_free(tokens);
    return status;
}

static void end_with(struct ranking *ranking, const hypura_error *error)
{
    if (exchange_lacks_room(ranking->job.exchange))
        exchange_fail_for_room(ranking->job.exchange);
    else if (error->status)
        exchange_fail_with(ranking->job.exchange, error);
    else
        reply(ranking);
    atomic_fetch_add(&exchange_server(ranking->job.exchange)->counters.prompt_tokens, ranking->tokens);
    ranking_free(ranking);
}

/* Scores one document, so that answers of other models continue in between. */
static void step(struct job *job, struct loaded_model *loaded)
{
    struct ranking *ranking = (struct ranking *)job;
    hypura_error error = {0};
    if (judge_next(ranking, loaded, &error) == HYPURA_OK && ranking->done < ranking->count)
        return;
    worker_done(exchange_server(job->exchange)->worker, job);
    end_with(ranking, &error);
}

static void start(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds)
{
    struct ranking *ranking = (struct ranking *)job;
    hypura_error error = {0};
    (void)load_nanoseconds;
    if (begin(ranking, loaded, &error))
        end_with(ranking, &error);
    else
        worker_keep(exchange_server(job->exchange)->worker, job, loaded);
}

/* ---- the request ----------------------------------------------------------------------------------------------------
 */

static hypura_status read_documents(struct ranking *ranking, const json_t *documents, hypura_error *error)
{
    size_t i;
    json_t *each;
    if (!json_is_array(documents) || json_array_size(documents) == 0 || json_array_size(documents) > MAX_DOCUMENTS)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "\"documents\" must be an array of 1 to %d documents",
                         MAX_DOCUMENTS);
    json_array_foreach(documents, i, each) if (!json_is_string(text_of(each))) return error_set(
        error, HYPURA_ERROR_ARGUMENT, "document %zu is neither a string nor an object with a \"text\"", i);
    ranking->documents = documents;
    ranking->count = json_array_size(documents);
    return HYPURA_OK;
}

static hypura_status read_fields(struct ranking *ranking, const json_t *json, hypura_error *error)
{
    const json_t *top = json_object_get(json, "top_n"), *shows = json_object_get(json, "return_documents");
    ranking->query = json_object_get(json, "query");
    if (!json_is_string(ranking->query) || json_string_length(ranking->query) == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "\"query\" is required: a string that is not empty");
    if (top && !json_is_null(top)) {
        if (!read_count(json, "top_n", &ranking->top, error))
            return error->status;
        if (ranking->top == 0)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "\"top_n\" must be at least 1");
    }
    if (shows && !json_is_null(shows) && !json_is_boolean(shows))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "\"return_documents\" must be true or false");
    ranking->shows = json_is_true(shows);
    return read_documents(ranking, json_object_get(json, "documents"), error);
}

void handle_rerank(struct exchange *exchange)
{
    json_t *json = exchange_json(exchange);
    hypura_error error = {0};
    struct ranking *ranking;
    if (!json)
        return;
    const char *model = json_string_value(json_object_get(json, "model"));
    if (!model || !*model) {
        exchange_fail(exchange, 400, "model is required");
        return;
    }
    if (ALLOCATE(&ranking, 1, "request", &error)) {
        exchange_fail_with(exchange, &error);
        return;
    }
    ranking->job = (struct job){.exchange = exchange,
                                .needs_model = true,
                                .alone = true,
                                .prepare = prepare,
                                .start = start,
                                .step = step,
                                .refuse = refuse};
    exchange_hold(exchange);
    ranking->model_name = model;
    if (read_fields(ranking, json, &error)) {
        refuse(&ranking->job, 400, error.message);
        return;
    }
    if (registry_find(exchange_server(exchange)->registry, model, &ranking->job.model, &error)) {
        exchange_fail_as(exchange, error.status == HYPURA_ERROR_IO ? 404 : status_of_error(&error), "model_not_found",
                         error.message);
        ranking_free(ranking);
        return;
    }
    worker_submit(exchange_server(exchange)->worker, &ranking->job);
}
