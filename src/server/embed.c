/* Embeddings, by Ollama's two requests and OpenAI's. */
#include "server/server_private.h"
#include "server/worker.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_INPUTS 2048

enum embed_style { EMBED_OLLAMA, EMBED_OLLAMA_OLD, EMBED_OPENAI };

struct embedding {
    struct job job; /* first */
    enum embed_style style;
    const char *model_name;
    const json_t *inputs; /* the exchange's: one or an array */
    size_t count;
    uint32_t dimensions; /* 0: all */
    bool truncate, base64;
    uint64_t start;
};

static void embedding_free(struct embedding *embedding)
{
    model_entry_free(&embedding->job.model);
    exchange_release(embedding->job.exchange);
    memory_free(embedding);
}

static void refuse(struct job *job, unsigned status, const char *message)
{
    exchange_fail(job->exchange, status, message);
    embedding_free((struct embedding *)job);
}

static json_t *vector_json(const struct embedding *embedding, const float *vector, size_t width)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    double length = 0;
    if (embedding->dimensions && embedding->dimensions < width)
        width = embedding->dimensions;
    for (size_t d = 0; d < width; d++)
        length += (double)vector[d] * (double)vector[d];
    length = length > 0 ? sqrt(length) : 1;
    if (!embedding->base64) {
        json_t *array = json_array();
        for (size_t d = 0; d < width; d++)
            json_array_append_new(array, json_real((double)(float)((double)vector[d] / length)));
        return array;
    }
    /* Little-endian floats, as OpenAI gives them. */
    struct buffer text = {0};
    uint32_t bits = 0;
    int held = 0;
    for (size_t i = 0; i < width * 4; i++) {
        float value = (float)((double)vector[i / 4] / length);
        uint32_t word;
        memcpy(&word, &value, sizeof word);
        bits = bits << 8 | (word >> (8 * (i % 4)) & 255);
        for (held += 8; held >= 6; held -= 6)
            buffer_append_char(&text, digits[bits >> (held - 6) & 63]);
    }
    if (held)
        buffer_append_char(&text, digits[bits << (6 - held) & 63]);
    while (text.size % 4)
        buffer_append_char(&text, '=');
    json_t *json = json_stringn(text.data ? text.data : "", text.size);
    buffer_free(&text);
    return json;
}

static hypura_status tokens_of(const struct embedding *embedding, struct loaded_model *loaded, size_t index,
                               struct token_array *tokens, hypura_error *error)
{
    const json_t *input = json_is_array(embedding->inputs) && !json_is_integer(json_array_get(embedding->inputs, 0))
                              ? json_array_get(embedding->inputs, index)
                              : embedding->inputs;
    hypura_status status = HYPURA_OK;
    uint32_t positions = engine_plan(loaded->engine)->positions, vocabulary = vocabulary_size(loaded->vocabulary);
    if (json_is_string(input)) {
        status = vocabulary_tokenize(loaded->vocabulary, json_string_value(input), json_string_length(input),
                                     TOKENIZE_ADD_SPECIAL, tokens, error);
    } else {
        size_t i;
        json_t *id;
        json_array_foreach(input, i, id)
        {
            if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocabulary)
                return error_set(error, HYPURA_ERROR_ARGUMENT, "invalid input type");
            if ((status = token_array_append(tokens, (int32_t)json_integer_value(id), error)))
                return status;
        }
    }
    if (!status && tokens->count > positions) {
        if (!embedding->truncate)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "the input length exceeds the context length");
        tokens->count = positions;
    }
    return status;
}

static json_t *reply_json(const struct embedding *embedding, json_t *vectors, uint64_t tokens, uint64_t load)
{
    if (embedding->style == EMBED_OLLAMA_OLD)
        return json_pack("{s:O}", "embedding", json_array_get(vectors, 0));
    if (embedding->style == EMBED_OLLAMA)
        return json_pack("{s:s, s:O, s:I, s:I, s:I}", "model", embedding->model_name, "embeddings", vectors,
                         "total_duration", (json_int_t)(clock_nanoseconds() - embedding->start), "load_duration",
                         (json_int_t)load, "prompt_eval_count", (json_int_t)tokens);
    json_t *data = json_array();
    size_t i;
    json_t *vector;
    json_array_foreach(vectors, i, vector) json_array_append_new(
        data, json_pack("{s:s, s:O, s:I}", "object", "embedding", "embedding", vector, "index", (json_int_t)i));
    return json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data, "model", embedding->model_name,
                     "usage", "prompt_tokens", (json_int_t)tokens, "total_tokens", (json_int_t)tokens);
}

static void start(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds)
{
    struct embedding *embedding = (struct embedding *)job;
    size_t width = model_parameters(engine_model(loaded->engine))->embedding;
    hypura_error error = {0};
    float *vector = NULL;
    uint64_t all_tokens = 0;
    json_t *vectors = json_array();
    hypura_status status = worker_clear_sequences(loaded, &error);
    if (!status)
        status = ALLOCATE(&vector, width, "embedding", &error);
    for (size_t i = 0; !status && i < embedding->count; i++) {
        struct token_array tokens = {0};
        status = tokens_of(embedding, loaded, i, &tokens, &error);
        if (!status && !exchange_alive(job->exchange))
            status = error_set(&error, HYPURA_ERROR_CANCELLED, "the client went away");
        if (!status)
            status = engine_embed(loaded->engine, tokens.ids, tokens.count, vector, &error);
        all_tokens += tokens.count;
        if (!status)
            json_array_append_new(vectors, vector_json(embedding, vector, width));
        token_array_free(&tokens);
    }
    if (status)
        exchange_fail_with(job->exchange, &error);
    else
        exchange_reply_json(job->exchange, 200, reply_json(embedding, vectors, all_tokens, load_nanoseconds));
    atomic_fetch_add(&exchange_server(job->exchange)->counters.prompt_tokens, all_tokens);
    json_decref(vectors);
    memory_free(vector);
    embedding_free(embedding);
}

/* One text, texts, token ids, or arrays of token ids. */
static bool check_inputs(struct embedding *embedding, const json_t *inputs)
{
    bool one = json_is_string(inputs);
    embedding->inputs = inputs;
    embedding->count = 1;
    if (one)
        return true;
    if (!json_is_array(inputs))
        return false;
    if (json_is_integer(json_array_get(inputs, 0)))
        return true;
    embedding->count = json_array_size(inputs);
    if (embedding->count > MAX_INPUTS)
        return false;
    size_t i;
    json_t *each;
    json_array_foreach(inputs, i, each)
    {
        if (!json_is_string(each) && !(json_is_array(each) && embedding->style == EMBED_OPENAI))
            return false;
    }
    return true;
}

static void handle(struct exchange *exchange, enum embed_style style)
{
    json_t *json = exchange_json(exchange);
    hypura_error error = {0};
    struct embedding *embedding;
    if (!json)
        return;
    const char *model = json_string_value(json_object_get(json, "model"));
    if (!model || !*model) {
        exchange_fail(exchange, 400, "model is required");
        return;
    }
    if (ALLOCATE(&embedding, 1, "request", &error)) {
        exchange_fail_with(exchange, &error);
        return;
    }
    const json_t *inputs = json_object_get(json, style == EMBED_OLLAMA_OLD ? "prompt" : "input");
    const json_t *keep_alive = json_object_get(json, "keep_alive"), *size = json_object_get(json, "dimensions");
    const char *encoding = json_string_value(json_object_get(json, "encoding_format"));
    embedding->job =
        (struct job){.exchange = exchange, .needs_model = true, .alone = true, .start = start, .refuse = refuse};
    exchange_hold(exchange);
    embedding->style = style;
    embedding->model_name = model;
    embedding->start = clock_nanoseconds();
    embedding->truncate = style != EMBED_OPENAI && !json_is_false(json_object_get(json, "truncate"));
    embedding->base64 = encoding && strcmp(encoding, "base64") == 0;
    embedding->dimensions = (uint32_t)MIN(MAX(json_integer_value(size), 0), INT32_MAX);
    embedding->job.keep_alive_given = keep_alive && duration_of_json(keep_alive, &embedding->job.keep_alive);
    if (!check_inputs(embedding, inputs)) {
        refuse(&embedding->job, 400, "invalid input type");
        return;
    }
    hypura_status status = registry_find(exchange_server(exchange)->registry, model, &embedding->job.model, &error);
    if (status)
        refuse(&embedding->job, status == HYPURA_ERROR_IO ? 404 : 400, error.message);
    else
        worker_submit(exchange_server(exchange)->worker, &embedding->job);
}

void handle_embed(struct exchange *exchange)
{
    handle(exchange, EMBED_OLLAMA);
}

void handle_embeddings_old(struct exchange *exchange)
{
    handle(exchange, EMBED_OLLAMA_OLD);
}

void handle_openai_embeddings(struct exchange *exchange)
{
    handle(exchange, EMBED_OPENAI);
}
