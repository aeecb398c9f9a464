/* /v1/rerank, as Jina, Cohere and llama.cpp have it: a reranking model scores how well documents answer a query. */
#include "engine/prompt.h"
#include "server/generation.h"
#include "server/text_job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DOCUMENTS 2048

struct ranked {
    uint32_t index;
    float score;
};

struct ranking {
    struct text_job texts;           /* first */
    const json_t *query, *documents; /* owned by the exchange */
    uint32_t top;                    /* 0: all */
    bool shows;                      /* the answer includes the documents */
    struct ranked *ranked;
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

static void reply(struct text_job *texts)
{
    struct ranking *ranking = (struct ranking *)texts;
    struct exchange *exchange = texts->job.exchange;
    uint64_t failures = memory_failures();
    hypura_error error = {0};
    json_t *results = json_array();
    qsort(ranking->ranked, texts->count, sizeof *ranking->ranked, compare_ranked);
    for (size_t i = 0; i < texts->count && (!ranking->top || i < ranking->top); i++)
        json_array_append_new(results, result_of(ranking, &ranking->ranked[i]));
    json_t *json = json_pack("{s:s, s:s, s:{s:I, s:I}, s:o}", "model", texts->model_name, "object", "list", "usage",
                             "prompt_tokens", (json_int_t)texts->tokens, "total_tokens", (json_int_t)texts->tokens,
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

static void free_results(struct text_job *texts)
{
    memory_free(((struct ranking *)texts)->ranked);
}

static hypura_status tokenize(struct text_job *texts, struct loaded_model *loaded, size_t index,
                              struct token_array *tokens, hypura_error *error)
{
    const struct ranking *ranking = (struct ranking *)texts;
    const json_t *text = text_of(json_array_get(ranking->documents, index));
    struct work_watch watch = {exchange_is_awaited, exchange_lend_until_end, texts->job.exchange};
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

static hypura_status begin(struct text_job *texts, struct loaded_model *loaded, hypura_error *error)
{
    (void)loaded;
    return ALLOCATE(&((struct ranking *)texts)->ranked, texts->count, "scores", error);
}

static hypura_status judge(struct text_job *texts, struct loaded_model *loaded, const struct token_array *tokens,
                           hypura_error *error)
{
    struct ranked *ranked = &((struct ranking *)texts)->ranked[texts->done];
    ranked->index = (uint32_t)texts->done;
    return engine_judge(loaded->engine, tokens->ids, tokens->count, &ranked->score, error);
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
    ranking->texts.count = json_array_size(documents);
    return HYPURA_OK;
}

static hypura_status read_fields(struct text_job *texts, const json_t *json, hypura_error *error)
{
    struct ranking *ranking = (struct ranking *)texts;
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
    static const struct text_job_kind kind = {.size = sizeof(struct ranking),
                                              .read = read_fields,
                                              .tokenize = tokenize,
                                              .begin = begin,
                                              .evaluate = judge,
                                              .reply = reply,
                                              .free_results = free_results};
    struct text_job *texts = text_job_create(exchange, &kind);
    if (texts)
        text_job_submit(texts);
}
