#include "core/json_text.h"
#include "core/account.h"
#include "core/core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define READ_AT_ONCE 1024 /* jansson asks for as many */
#define FIRST_BYTES 64    /* at least what jansson's first buffer takes (16) */

/* Where the next byte is. Outside a string, a token is a run of bytes other than white space and punctuation. */
enum place { IN_TEXT, IN_STRING, IN_ESCAPE };

/* Gives jansson the text. jansson collects the bytes of each token in one buffer, doubles it when a byte and a
 * terminator no longer fit, and keeps it for the next tokens. */
struct feed {
    json_load_callback_t read;
    void *context;
    char bytes[READ_AT_ONCE];
    size_t at, end;
    struct memory_advance advance; /* the memory for jansson's next buffer */
    enum place place;
    size_t length; /* bytes of the current token that jansson has */
};

static void step_over(struct feed *feed, char c)
{
    feed->length++;
    if (feed->place == IN_ESCAPE) {
        feed->place = IN_STRING;
    } else if (feed->place == IN_STRING) {
        if (c == '\\')
            feed->place = IN_ESCAPE;
        if (c == '"') {
            feed->place = IN_TEXT;
            feed->length = 0;
        }
    } else if (c == '"') {
        feed->place = IN_STRING;
        feed->length = 1;
    } else if (c && strchr(" \t\r\n{}[],:", c)) {
        feed->length = 0;
    }
}

/* Stops before a byte for which jansson's buffer has no room, which may be the one after a number. When jansson asks
 * again, it has used all bytes before: its next allocation is the larger buffer, and takes the memory advanced here. */
static size_t feed_bytes(void *out, size_t room, void *context)
{
    struct feed *feed = context;
    if (feed->at == feed->end) {
        size_t size = feed->read(feed->bytes, MIN(room, sizeof feed->bytes), feed->context);
        if (size == 0 || size > sizeof feed->bytes)
            return size;
        feed->at = 0;
        feed->end = size;
    }
    size_t holds = feed->advance.used ? feed->advance.used : SIZE_MAX;
    if (feed->length + 1 >= holds) {
        if (!memory_advance(&feed->advance, holds * 2))
            return (size_t)-1;
        holds *= 2;
    }
    char *to = out;
    size_t size = 0;
    do {
        to[size] = feed->bytes[feed->at++];
        step_over(feed, to[size++]);
    } while (size < room && feed->at < feed->end && feed->length + 1 < holds);
    return size;
}

json_t *json_text_read_from(json_load_callback_t read, void *context, size_t flags, json_error_t *error)
{
    struct feed feed = {.read = read, .context = context};
    uint64_t failures = memory_failures();
    json_t *json = NULL;
    /* jansson's first allocation is its buffer for tokens. That it uses this memory tells the buffer's size. */
    if (memory_advance(&feed.advance, FIRST_BYTES))
        json = json_load_callback(feed_bytes, &feed, flags, error);
    memory_end_advance(&feed.advance);
    if (memory_failures() == failures)
        return json;
    json_decref(json);
    if (error) {
        *error = (json_error_t){.line = -1, .column = -1, .text = "not enough memory"};
        error->text[sizeof error->text - 1] = json_error_out_of_memory; /* where json_error_code finds it */
    }
    return NULL;
}

struct view {
    const char *text;
    size_t size;
};

static size_t read_view(void *out, size_t room, void *context)
{
    struct view *view = context;
    size_t size = MIN(room, view->size);
    memcpy(out, view->text, size);
    view->text += size;
    view->size -= size;
    return size;
}

json_t *json_text_read(const char *text, size_t size, size_t flags, json_error_t *error)
{
    return json_text_read_from(read_view, &(struct view){text, size}, flags, error);
}

json_t *json_text_read_string(const char *text, size_t flags, json_error_t *error)
{
    return json_text_read(text, strlen(text), flags, error);
}

struct source {
    FILE *file;
    int problem; /* errno of the read that failed, or 0 */
};

static size_t read_file(void *out, size_t room, void *context)
{
    struct source *source = context;
    errno = 0;
    size_t size = fread(out, 1, room, source->file);
    if (ferror(source->file) && !source->problem)
        source->problem = errno ? errno : EIO;
    return size;
}

/* For jansson, a read that fails is the end of the text, which may be valid up to there. */
json_t *json_text_read_file(FILE *file, size_t flags, json_error_t *error)
{
    struct source source = {.file = file};
    json_error_t own;
    error = error ? error : &own;
    json_t *json = json_text_read_from(read_file, &source, flags, error);
    if (!source.problem || (!json && json_error_code(error) == json_error_out_of_memory))
        return json;
    json_decref(json);
    *error = (json_error_t){.line = -1, .column = -1};
    snprintf(error->text, sizeof error->text - 1, "%s", strerror(source.problem));
    return NULL;
}

char *json_text_write(const json_t *json, size_t flags)
{
    uint64_t failures = memory_failures();
    char *text = json_dumps(json, flags);
    if (memory_failures() == failures)
        return text;
    free(text);
    return NULL;
}

/* Before the program has threads. Values made before have memory of malloc, too. */
__attribute__((constructor)) static void count_json(void)
{
    json_malloc_t take;
    json_free_t give;
    json_get_alloc_funcs(&take, &give);
    if (take == malloc && give == free)
        json_set_alloc_funcs(memory_take, memory_give);
}

/* The shared library may be unloaded before jansson. */
__attribute__((destructor)) static void stop_counting_json(void)
{
    json_malloc_t take;
    json_get_alloc_funcs(&take, NULL);
    if (take == memory_take)
        json_set_alloc_funcs(malloc, free);
}
