#include "fake_fetch.h"

#include "server/fetch.h"

#include <pthread.h>
#include <string.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static const uint8_t *rest;
static size_t left;

void fake_fetch_set(const uint8_t *data, size_t size)
{
    pthread_mutex_lock(&mutex);
    rest = data;
    left = size;
    pthread_mutex_unlock(&mutex);
}

/* Takes the next answer. Returns false if there is none. */
static bool take_answer(uint8_t *how, const uint8_t **data, size_t *size)
{
    pthread_mutex_lock(&mutex);
    bool any = left >= 3;
    if (any) {
        size_t length = (size_t)rest[1] | (size_t)rest[2] << 8;
        *how = rest[0];
        *data = rest + 3;
        *size = MIN(length, left - 3);
        rest += 3 + *size;
        left -= 3 + *size;
    }
    pthread_mutex_unlock(&mutex);
    return any;
}

hypura_status fetch_run(const struct fetch *fetch, struct fetch_answer *answer, hypura_error *error)
{
    static const long statuses[] = {200, 200, 200, 206, 200, 404, 401, 416};
    const uint8_t *data;
    size_t size;
    uint8_t how;
    *answer = (struct fetch_answer){0};
    if (!take_answer(&how, &data, &size))
        return error_set(error, HYPURA_ERROR_IO, "%.200s: nobody answers", fetch->url);
    bool ranges = how & 8, told = how & 16;
    size_t piece = (size_t)1 << (how >> 5) * 2, at = ranges && fetch->offset < size ? (size_t)fetch->offset : 0;
    answer->status = statuses[how & 7];
    answer->total = told ? size : 0;
    answer->ranged = answer->status == 206 && ranges;
    answer->start = at;
    if (how & 1)
        strcpy(answer->etag, "\"same\"");
    if (fetch->fail_on_error && answer->status >= 400)
        return error_set(error, HYPURA_ERROR_IO, "%.200s: status %ld", fetch->url, answer->status);
    if (fetch->begin && !fetch->begin(fetch->context, answer))
        return error_set(error, HYPURA_ERROR_CANCELLED, "the download was stopped");
    for (; at < size; at += piece) {
        if (fetch->go_on && !fetch->go_on(fetch->context))
            return error_set(error, HYPURA_ERROR_CANCELLED, "the download was stopped");
        if (!fetch->take(fetch->context, data + at, size - at < piece ? size - at : piece))
            return error_set(error, HYPURA_ERROR_CANCELLED, "the download was stopped");
    }
    return HYPURA_OK;
}

static bool keep_text(void *context, const void *data, size_t size)
{
    buffer_append(context, data, size);
    return !((struct buffer *)context)->failed;
}

hypura_status fetch_text(const char *url, const char *method, const char *accept, const char *key, const char *body,
                         struct buffer *out, long *status, hypura_error *error)
{
    struct fetch_answer answer;
    struct fetch fetch = {
        .url = url, .method = method, .accept = accept, .key = key, .body = body, .take = keep_text, .context = out};
    hypura_status result = fetch_run(&fetch, &answer, error);
    *status = answer.status;
    return result;
}
