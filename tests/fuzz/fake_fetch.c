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

/* The next answer; false: there is none. */
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

hypura_status fetch_run(const struct fetch *fetch, long *status, hypura_error *error)
{
    static const long statuses[] = {200, 200, 200, 206, 200, 404, 401, 416};
    const uint8_t *data;
    size_t size;
    uint8_t how;
    *status = 0;
    if (!take_answer(&how, &data, &size))
        return error_set(error, HYPURA_ERROR_IO, "%.200s: nobody answers", fetch->url);
    *status = statuses[how & 7];
    if (fetch->fail_on_error && *status >= 400)
        return error_set(error, HYPURA_ERROR_IO, "%.200s: status %ld", fetch->url, *status);
    bool ranges = how & 8, told = how & 16;
    size_t piece = (size_t)1 << (how >> 5) * 2, at = ranges && fetch->offset < size ? (size_t)fetch->offset : 0;
    bool restarted = fetch->offset > 0 && !ranges;
    for (; at < size; at += piece, restarted = false) {
        if (fetch->go_on && !fetch->go_on(fetch->context))
            return error_set(error, HYPURA_ERROR_CANCELLED, "the download was stopped");
        if (!fetch->take(fetch->context, data + at, size - at < piece ? size - at : piece, told ? size : 0, restarted))
            return error_set(error, HYPURA_ERROR_CANCELLED, "the download was stopped");
    }
    return HYPURA_OK;
}

static bool keep_text(void *context, const void *data, size_t size, uint64_t total, bool restarted)
{
    (void)total, (void)restarted;
    buffer_append(context, data, size);
    return !((struct buffer *)context)->failed;
}

hypura_status fetch_text(const char *url, const char *method, const char *accept, const char *key, const char *body,
                         struct buffer *out, long *status, hypura_error *error)
{
    struct fetch fetch = {
        .url = url, .method = method, .accept = accept, .key = key, .body = body, .take = keep_text, .context = out};
    return fetch_run(&fetch, status, error);
}
