/* Embeddings: Ollama's /api/embed and /api/embeddings, and OpenAI's /v1/embeddings. */
#include "core/json_text.h"
#include "server/generation.h"
#include "server/text_job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_INPUTS 2048
#define SMALL_ANSWER ((size_t)64 << 10) /* answers with at most this many numbers are written at once */
#define PIECE_BYTES ((size_t)16 << 10)

enum embed_style { EMBED_OLLAMA, EMBED_OLLAMA_OLD, EMBED_OPENAI };

/* The vectors of an answer. Text takes several times their memory, so they become text only when they are sent. */
struct answer {
    enum embed_style style;
    bool base64;
    size_t count, width;
    float *values; /* [count][width], each of length 1 */
    size_t next;   /* index of the next number to write */
    bool begun;
    char *begin, *end; /* JSON before and after the vectors */
};

struct embedding {
    struct text_job texts; /* first */
    enum embed_style style;
    const json_t *inputs; /* owned by the exchange: one, or an array */
    uint32_t dimensions;  /* 0: all */
    bool truncate, base64;
    uint64_t start; /* when the request came */
    float *vector;  /* output of the model */
    struct answer *answer;
};

/* ---- the answer ----------------------------------------------------------------------------------------------------
 */

static void answer_free(void *context)
{
    struct answer *answer = context;
    if (!answer)
        return;
    memory_free(answer->values);
    free(answer->begin);
    free(answer->end);
    memory_free(answer);
}

/* Writes little-endian floats in Base64, as OpenAI does. */
static void write_base64(struct buffer *out, const float *values, size_t width)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0, word = 0;
    int held = 0;
    size_t written = 0;
    for (size_t i = 0; i < width * 4; i++) {
        memcpy(&word, &values[i / 4], sizeof word);
        bits = bits << 8 | (word >> (8 * (i % 4)) & 255);
        for (held += 8; held >= 6; held -= 6, written++)
            buffer_append_char(out, digits[bits >> (held - 6) & 63]);
    }
    if (held) {
        buffer_append_char(out, digits[bits << (6 - held) & 63]);
        written++;
    }
    for (; written % 4; written++)
        buffer_append_char(out, '=');
}

static void begin_vector(const struct answer *answer, struct buffer *out, size_t index)
{
    if (index)
        buffer_append_char(out, ',');
    if (answer->style == EMBED_OPENAI)
        buffer_append_format(out, "{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", index);
    buffer_append_char(out, answer->base64 ? '"' : '[');
}

static void end_vector(const struct answer *answer, struct buffer *out)
{
    buffer_append_char(out, answer->base64 ? '"' : ']');
    if (answer->style == EMBED_OPENAI)
        buffer_append_char(out, '}');
}

/* Nine significant digits identify a float exactly. */
static bool write_piece(void *context, struct buffer *out)
{
    struct answer *answer = context;
    size_t all = answer->count * answer->width, start = out->size;
    if (!answer->begun)
        buffer_append_string(out, answer->begin);
    answer->begun = true;
    while (answer->next < all && out->size - start < PIECE_BYTES) {
        size_t at = answer->next % answer->width;
        float value = answer->values[answer->next];
        if (at == 0)
            begin_vector(answer, out, answer->next / answer->width);
        if (answer->base64) {
            write_base64(out, answer->values + answer->next, answer->width);
            answer->next += answer->width;
        } else {
            buffer_append_format(out, at ? ",%.9g" : "%.9g", isfinite(value) ? (double)value : 0.0);
            answer->next++;
        }
        if (answer->next % answer->width == 0)
            end_vector(answer, out);
    }
    if (answer->next < all)
        return true;
    buffer_append_string(out, answer->end);
    return false;
}

/* Makes the JSON around the vectors, with the model's name and the figures. */
static bool write_frame(struct embedding *embedding)
{
    struct answer *answer = embedding->answer;
    json_t *name = json_string(embedding->texts.model_name);
    char *model = name ? json_text_write(name, JSON_ENCODE_ANY) : NULL;
    struct buffer begin = {0}, end = {0};
    unsigned long long tokens = embedding->texts.tokens;
    if (embedding->style == EMBED_OLLAMA_OLD) {
        buffer_append_string(&begin, "{\"embedding\":");
        buffer_append_string(&end, answer->count ? "}" : "[]}");
    } else if (embedding->style == EMBED_OLLAMA) {
        buffer_append_format(&begin, "{\"model\":%s,\"embeddings\":[", model ? model : "null");
        buffer_append_format(&end, "],\"total_duration\":%llu,\"load_duration\":%llu,\"prompt_eval_count\":%llu}",
                             (unsigned long long)(clock_nanoseconds() - embedding->start),
                             (unsigned long long)embedding->texts.load_nanoseconds, tokens);
    } else {
        buffer_append_string(&begin, "{\"object\":\"list\",\"data\":[");
        buffer_append_format(&end, "],\"model\":%s,\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}}",
                             model ? model : "null", tokens, tokens);
    }
    json_decref(name);
    free(model);
    answer->begin = begin.data;
    answer->end = end.data;
    return !begin.failed && !end.failed;
}

static void reply(struct text_job *texts)
{
    struct embedding *embedding = (struct embedding *)texts;
    struct exchange *exchange = texts->job.exchange;
    struct answer *answer = embedding->answer;
    if (!write_frame(embedding)) {
        exchange_fail_for_memory(exchange);
        return;
    }
    if (answer->count * answer->width > SMALL_ANSWER) {
        embedding->answer = NULL;
        exchange_reply_pieces(exchange, TYPE_JSON, write_piece, answer_free, answer);
        return;
    }
    struct buffer text = {0};
    while (write_piece(answer, &text))
        ;
    if (text.failed)
        exchange_fail_for_memory(exchange);
    else
        exchange_reply(exchange, 200, TYPE_JSON, text.data, text.size);
    buffer_free(&text);
}

/* ---- the job --------------------------------------------------------------------------------------------------------
 */

static void free_results(struct text_job *texts)
{
    struct embedding *embedding = (struct embedding *)texts;
    answer_free(embedding->answer);
    memory_free(embedding->vector);
}

static hypura_status tokenize(struct text_job *texts, struct loaded_model *loaded, size_t index,
                              struct token_array *tokens, hypura_error *error)
{
    const struct embedding *embedding = (struct embedding *)texts;
    const json_t *input = json_is_array(embedding->inputs) && !json_is_integer(json_array_get(embedding->inputs, 0))
                              ? json_array_get(embedding->inputs, index)
                              : embedding->inputs;
    hypura_status status = HYPURA_OK;
    uint32_t positions = engine_plan(loaded->engine)->positions, vocabulary = vocabulary_size(loaded->vocabulary);
    if (json_is_string(input)) {
        struct work_watch watch = {exchange_is_awaited, exchange_lend_until_end, texts->job.exchange};
        status = vocabulary_tokenize_watched(loaded->vocabulary, json_string_value(input), json_string_length(input),
                                             TOKENIZE_ADD_SPECIAL, &watch, tokens, error);
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

static hypura_status begin(struct text_job *texts, struct loaded_model *loaded, hypura_error *error)
{
    struct embedding *embedding = (struct embedding *)texts;
    struct exchange *exchange = texts->job.exchange;
    size_t width = model_parameters(engine_model(loaded->engine))->embedding, count = texts->count, values;
    uint64_t limit = exchange_server(exchange)->options.body_limit;
    hypura_status status = ALLOCATE(&embedding->vector, width, "embedding", error);
    if (!status)
        status = ALLOCATE(&embedding->answer, 1, "embeddings", error);
    if (status)
        return status;
    if (embedding->dimensions && embedding->dimensions < width)
        width = embedding->dimensions;
    if (!size_multiply(&values, count, width) || values > limit / sizeof(float))
        return error_set(
            error, HYPURA_ERROR_ARGUMENT,
            "%zu vectors of %zu numbers exceed the limit of an answer (%llu bytes, as --body-limit sets it): "
            "send fewer inputs at once",
            count, width, (unsigned long long)limit);
    if (!exchange_reserve(exchange, values * sizeof(float)))
        return error_set(error, HYPURA_ERROR_MEMORY, "server busy, please try again.  too many large answers at once");
    *embedding->answer =
        (struct answer){.style = embedding->style, .base64 = embedding->base64, .count = count, .width = width};
    return ALLOCATE(&embedding->answer->values, values, "embeddings", error);
}

/* Stores the vector, truncated to the requested width and normalised to length 1. */
static void keep_vector(struct embedding *embedding)
{
    const struct answer *answer = embedding->answer;
    float *out = answer->values + embedding->texts.done * answer->width;
    double length = 0;
    for (size_t d = 0; d < answer->width; d++)
        length += (double)embedding->vector[d] * (double)embedding->vector[d];
    length = length > 0 ? sqrt(length) : 1;
    for (size_t d = 0; d < answer->width; d++)
        out[d] = (float)((double)embedding->vector[d] / length);
}

static hypura_status embed(struct text_job *texts, struct loaded_model *loaded, const struct token_array *tokens,
                           hypura_error *error)
{
    struct embedding *embedding = (struct embedding *)texts;
    hypura_status status = engine_embed(loaded->engine, tokens->ids, tokens->count, embedding->vector, error);
    if (!status)
        keep_vector(embedding);
    return status;
}

/* ---- the requests ---------------------------------------------------------------------------------------------------
 */

/* Accepts a text, texts, token ids or, from OpenAI's clients, arrays of token ids. No input is an error in OpenAI's
 * API; Ollama's only loads the model. */
static bool check_inputs(struct embedding *embedding, const json_t *inputs)
{
    bool openai = embedding->style == EMBED_OPENAI;
    embedding->inputs = inputs;
    embedding->texts.count = 1;
    if (!openai && (!inputs || json_is_null(inputs) || (json_is_string(inputs) && !json_string_length(inputs)))) {
        embedding->texts.count = 0;
        return true;
    }
    if (json_is_string(inputs))
        return json_string_length(inputs);
    if (!json_is_array(inputs) || (openai && json_array_size(inputs) == 0))
        return false;
    if (json_is_integer(json_array_get(inputs, 0)))
        return true;
    embedding->texts.count = json_array_size(inputs);
    if (embedding->texts.count > MAX_INPUTS)
        return false;
    size_t i;
    json_t *each;
    json_array_foreach(inputs, i, each)
    {
        if (!json_is_string(each) && !(json_is_array(each) && openai))
            return false;
    }
    return true;
}

static hypura_status read_fields(struct text_job *texts, const json_t *json, hypura_error *error)
{
    struct embedding *embedding = (struct embedding *)texts;
    const json_t *keep_alive = json_object_get(json, "keep_alive"),
                 *encoding = json_object_get(json, "encoding_format");
    const json_t *dimensions = json_object_get(json, "dimensions");
    const char *name = json_string_value(encoding);
    bool old = embedding->style == EMBED_OLLAMA_OLD;
    if (embedding->style == EMBED_OPENAI && encoding && !json_is_null(encoding)) {
        if (!name || (strcmp(name, "float") != 0 && strcmp(name, "base64") != 0))
            return error_set(error, HYPURA_ERROR_ARGUMENT, "\"encoding_format\" must be \"float\" or \"base64\"");
        embedding->base64 = strcmp(name, "base64") == 0;
    }
    if (!old && dimensions && !json_is_null(dimensions)) {
        if (!read_count(json, "dimensions", &embedding->dimensions, error))
            return error->status;
        if (embedding->dimensions == 0)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "\"dimensions\" must be at least 1");
    }
    if (keep_alive && !json_is_null(keep_alive)) {
        if (!duration_of_json(keep_alive, &texts->job.keep_alive))
            return error_set(error, HYPURA_ERROR_ARGUMENT,
                             "invalid keep_alive: expected a duration such as \"5m\", or seconds");
        texts->job.keep_alive_given = true;
    }
    if (!read_count(json_object_get(json, "options"), "num_ctx", &texts->job.context, error))
        return error->status;
    embedding->truncate = embedding->style != EMBED_OPENAI && !json_is_false(json_object_get(json, "truncate"));
    if (!check_inputs(embedding, json_object_get(json, old ? "prompt" : "input")))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "invalid input type");
    return HYPURA_OK;
}

static void handle(struct exchange *exchange, enum embed_style style)
{
    static const struct text_job_kind kind = {.size = sizeof(struct embedding),
                                              .read = read_fields,
                                              .tokenize = tokenize,
                                              .begin = begin,
                                              .evaluate = embed,
                                              .reply = reply,
                                              .free_results = free_results};
    struct text_job *texts = text_job_create(exchange, &kind);
    struct embedding *embedding = (struct embedding *)texts;
    if (!texts)
        return;
    embedding->style = style;
    embedding->start = clock_nanoseconds();
    text_job_submit(texts);
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
