#define CURL_DISABLE_TYPECHECK
#include "server/fetch.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static struct {
    void *library;
    __typeof__(curl_global_init) *global_init;
    __typeof__(curl_easy_init) *init;
    __typeof__(curl_easy_setopt) *set;
    __typeof__(curl_easy_perform) *perform;
    __typeof__(curl_easy_getinfo) *info;
    __typeof__(curl_easy_cleanup) *cleanup;
    __typeof__(curl_easy_strerror) *text;
    __typeof__(curl_slist_append) *append;
    __typeof__(curl_slist_free_all) *free_all;
} curl;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static bool find(void *library, const char *name, void *pointer)
{
    void *symbol = dlsym(library, name);
    memcpy(pointer, &symbol, sizeof symbol);
    return symbol != NULL;
}

static hypura_status load(hypura_error *error)
{
    static const char *const names[] = {"libcurl.so.4", "libcurl.4.dylib", "libcurl-gnutls.so.4"};
    hypura_status status = HYPURA_OK;
    pthread_mutex_lock(&mutex);
    void *library = curl.library;
    for (size_t i = 0; !library && i < COUNT_OF(names); i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        status = error_set(error, HYPURA_ERROR_UNSUPPORTED, "downloads need libcurl, which is not installed");
    } else if (!curl.library) {
        if (find(library, "curl_global_init", &curl.global_init) && find(library, "curl_easy_init", &curl.init) &&
            find(library, "curl_easy_setopt", &curl.set) && find(library, "curl_easy_perform", &curl.perform) &&
            find(library, "curl_easy_getinfo", &curl.info) && find(library, "curl_easy_cleanup", &curl.cleanup) &&
            find(library, "curl_easy_strerror", &curl.text) && find(library, "curl_slist_append", &curl.append) &&
            find(library, "curl_slist_free_all", &curl.free_all) && curl.global_init(CURL_GLOBAL_ALL) == CURLE_OK)
            curl.library = library;
        else
            status =
                error_set(error, HYPURA_ERROR_UNSUPPORTED, "the installed libcurl cannot be used: install a newer one");
    }
    pthread_mutex_unlock(&mutex);
    return status;
}

struct running {
    const struct fetch *fetch;
    struct fetch_answer *answer;
    CURL *handle;
    struct curl_slist *headers;
    bool begun, stopped, poor; /* poor: a part of the request found no memory */
};

static void add_header(struct running *running, const char *text)
{
    struct curl_slist *more = curl.append(running->headers, text);
    running->poor |= !more;
    running->headers = more ? more : running->headers;
}

static void set_text(struct running *running, CURLoption option, const char *text)
{
    running->poor |= curl.set(running->handle, option, text) == CURLE_OUT_OF_MEMORY;
}

static size_t on_header(char *data, size_t one, size_t size, void *context)
{
    struct running *running = context;
    fetch_read_header(running->answer, data, size * one);
    return size * one;
}

static bool begin(struct running *running)
{
    const struct fetch *fetch = running->fetch;
    if (running->begun || running->stopped)
        return !running->stopped;
    running->begun = true;
    curl.info(running->handle, CURLINFO_RESPONSE_CODE, &running->answer->status);
    running->stopped = fetch->begin && !fetch->begin(fetch->context, running->answer);
    return !running->stopped;
}

static size_t on_data(char *data, size_t one, size_t size, void *context)
{
    struct running *running = context;
    size *= one;
    running->stopped = !begin(running) || !running->fetch->take(running->fetch->context, data, size);
    return running->stopped ? 0 : size;
}

static int on_progress(void *context, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    struct running *running = context;
    (void)a, (void)b, (void)c, (void)d;
    running->stopped = running->stopped || (running->fetch->go_on && !running->fetch->go_on(running->fetch->context));
    return running->stopped;
}

hypura_status fetch_run(const struct fetch *fetch, struct fetch_answer *answer, hypura_error *error)
{
    *answer = (struct fetch_answer){0};
    hypura_status result = load(error);
    if (result)
        return result;
    struct running running = {.fetch = fetch, .answer = answer, .handle = curl.init()};
    char text[1024], reason[CURL_ERROR_SIZE] = "";
    if (!running.handle)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for a connection");
    if (fetch->accept) {
        snprintf(text, sizeof text, "Accept: %s", fetch->accept);
        add_header(&running, text);
    }
    if (fetch->key) {
        snprintf(text, sizeof text, "Authorization: Bearer %s", fetch->key);
        add_header(&running, text);
    }
    /* As a header of its own: with CURLOPT_RANGE, libcurl refuses an answer that is the whole file. */
    if (fetch->offset || fetch->end) {
        char last[32] = "";
        if (fetch->end)
            snprintf(last, sizeof last, "%llu", (unsigned long long)fetch->end - 1);
        snprintf(text, sizeof text, "Range: bytes=%llu-%s", (unsigned long long)fetch->offset, last);
        add_header(&running, text);
    }
    if (fetch->offset && fetch->unless) {
        snprintf(text, sizeof text, "If-Range: %s", fetch->unless);
        add_header(&running, text);
    }
    if (fetch->body) {
        add_header(&running, "Content-Type: application/json");
        curl.set(running.handle, CURLOPT_POSTFIELDS, fetch->body);
    }
    if (fetch->method)
        set_text(&running, CURLOPT_CUSTOMREQUEST, fetch->method);
    set_text(&running, CURLOPT_URL, fetch->url);
    curl.set(running.handle, CURLOPT_HTTPHEADER, running.headers);
    set_text(&running, CURLOPT_USERAGENT, "hypura/" HYPURA_VERSION);
    set_text(&running, CURLOPT_PROTOCOLS_STR, "http,https");
    set_text(&running, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    curl.set(running.handle, CURLOPT_FOLLOWLOCATION, 1L);
    curl.set(running.handle, CURLOPT_FAILONERROR, fetch->fail_on_error ? 1L : 0L);
    curl.set(running.handle, CURLOPT_MAXREDIRS, 8L);
    curl.set(running.handle, CURLOPT_CONNECTTIMEOUT, 30L);
    curl.set(running.handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl.set(running.handle, CURLOPT_LOW_SPEED_TIME, 60L);
    curl.set(running.handle, CURLOPT_NOSIGNAL, 1L);
    curl.set(running.handle, CURLOPT_ERRORBUFFER, reason);
    curl.set(running.handle, CURLOPT_HEADERFUNCTION, on_header);
    curl.set(running.handle, CURLOPT_HEADERDATA, &running);
    curl.set(running.handle, CURLOPT_WRITEFUNCTION, on_data);
    curl.set(running.handle, CURLOPT_WRITEDATA, &running);
    curl.set(running.handle, CURLOPT_NOPROGRESS, 0L);
    curl.set(running.handle, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl.set(running.handle, CURLOPT_XFERINFODATA, &running);
    CURLcode code = running.poor ? CURLE_OUT_OF_MEMORY : curl.perform(running.handle);
    curl.info(running.handle, CURLINFO_RESPONSE_CODE, &answer->status);
    if (code == CURLE_OK)
        begin(&running); /* in case the body was empty */
    curl.cleanup(running.handle);
    curl.free_all(running.headers);
    if (running.stopped)
        return error_set(error, HYPURA_ERROR_CANCELLED, "the download was stopped");
    if (code != CURLE_OK)
        return error_set(error, code == CURLE_OUT_OF_MEMORY ? HYPURA_ERROR_MEMORY : HYPURA_ERROR_IO, "%.200s: %s",
                         fetch->url, *reason ? reason : curl.text(code));
    return HYPURA_OK;
}

static bool keep_text(void *context, const void *data, size_t size)
{
    struct buffer *out = context;
    buffer_append(out, data, size);
    return !out->failed;
}

hypura_status fetch_text(const char *url, const char *method, const char *accept, const char *key, const char *body,
                         struct buffer *out, long *status, hypura_error *error)
{
    struct fetch_answer answer;
    struct fetch fetch = {
        .url = url, .method = method, .accept = accept, .key = key, .body = body, .take = keep_text, .context = out};
    out->limit = (size_t)16 << 20;
    uint64_t failures = memory_failures();
    hypura_status result = fetch_run(&fetch, &answer, error);
    *status = answer.status;
    hypura_status lack = memory_check(failures, "answer", error);
    return lack ? lack : result;
}
