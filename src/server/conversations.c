/* The answers that /v1/responses keeps, so that a request can continue an earlier one: the newest ones, in memory. */
#include "core/json_text.h"
#include "server/server_private.h"

#include <stdlib.h>
#include <string.h>

#define MOST_CONVERSATIONS 1024u
/* Small next to a model. */
#define MOST_BYTES ((size_t)4 << 20)

struct conversation {
    char id[48];
    /* JSON as text: as objects, many small messages would take many times what MOST_BYTES counts. */
    char *response; /* as it was sent */
    char *messages; /* the chat with the answer, without the instructions */
    size_t bytes;
};

struct conversations {
    pthread_mutex_t mutex;
    struct conversation ring[MOST_CONVERSATIONS]; /* begins at index first, with the oldest */
    size_t first, count, bytes;
};

static struct conversation *at(struct conversations *all, size_t i)
{
    return &all->ring[(all->first + i) % MOST_CONVERSATIONS];
}

static struct conversation *find(struct conversations *all, const char *id)
{
    for (size_t i = all->count; i-- > 0;) {
        if (strcmp(at(all, i)->id, id) == 0)
            return at(all, i);
    }
    return NULL;
}

/* A deleted conversation leaves an empty element in the ring. */
static void empty(struct conversations *all, struct conversation *one)
{
    all->bytes -= one->bytes;
    free(one->response);
    free(one->messages);
    *one = (struct conversation){0};
}

static void drop_oldest(struct conversations *all)
{
    empty(all, at(all, 0));
    all->first = (all->first + 1) % MOST_CONVERSATIONS;
    all->count--;
}

void conversations_keep(struct conversations *all, const char *id, const json_t *response, const json_t *messages)
{
    if (exchange_check_work(NULL))
        return;
    struct conversation fresh = {.response = json_text_write(response, JSON_COMPACT),
                                 .messages = json_text_write(messages, JSON_COMPACT)};
    fresh.bytes = (fresh.response ? strlen(fresh.response) : 0) + (fresh.messages ? strlen(fresh.messages) : 0);
    snprintf(fresh.id, sizeof fresh.id, "%s", id);
    if (!fresh.response || !fresh.messages || fresh.bytes > MOST_BYTES) {
        free(fresh.response);
        free(fresh.messages);
        return;
    }
    pthread_mutex_lock(&all->mutex);
    all->bytes += fresh.bytes;
    while (all->count && (all->count == MOST_CONVERSATIONS || all->bytes > MOST_BYTES))
        drop_oldest(all);
    *at(all, all->count) = fresh;
    all->count++;
    pthread_mutex_unlock(&all->mutex);
}

static json_t *read_text(const char *text)
{
    return text ? json_text_read_string(text, JSON_ALLOW_NUL, NULL) : NULL;
}

json_t *conversations_messages(struct conversations *all, const char *id)
{
    pthread_mutex_lock(&all->mutex);
    const struct conversation *one = find(all, id);
    json_t *messages = read_text(one ? one->messages : NULL);
    pthread_mutex_unlock(&all->mutex);
    return messages;
}

json_t *conversations_response(struct conversations *all, const char *id)
{
    pthread_mutex_lock(&all->mutex);
    const struct conversation *one = find(all, id);
    json_t *response = read_text(one ? one->response : NULL);
    pthread_mutex_unlock(&all->mutex);
    return response;
}

json_t *conversations_item(struct conversations *all, const char *id)
{
    json_t *found = NULL;
    pthread_mutex_lock(&all->mutex);
    for (size_t i = all->count; id && *id && !found && i-- > 0;) {
        const char *text = at(all, i)->response;
        if (!text || !strstr(text, id))
            continue;
        json_t *response = read_text(text), *item;
        size_t k;
        json_array_foreach(json_object_get(response, "output"), k, item)
        {
            const char *own = json_string_value(json_object_get(item, "id"));
            if (!found && own && strcmp(own, id) == 0)
                found = json_incref(item);
        }
        json_decref(response);
    }
    pthread_mutex_unlock(&all->mutex);
    return found;
}

bool conversations_forget(struct conversations *all, const char *id)
{
    pthread_mutex_lock(&all->mutex);
    struct conversation *one = *id ? find(all, id) : NULL;
    bool found = one != NULL;
    if (found)
        empty(all, one);
    pthread_mutex_unlock(&all->mutex);
    return found;
}

void conversations_clear(struct conversations *all)
{
    pthread_mutex_lock(&all->mutex);
    while (all->count)
        drop_oldest(all);
    pthread_mutex_unlock(&all->mutex);
}

hypura_status conversations_create(struct conversations **out, hypura_error *error)
{
    struct conversations *all;
    hypura_status status = ALLOCATE(&all, 1, "conversations", error);
    if (status)
        return status;
    pthread_mutex_init(&all->mutex, NULL);
    *out = all;
    return HYPURA_OK;
}

void conversations_destroy(struct conversations *all)
{
    if (!all)
        return;
    conversations_clear(all);
    pthread_mutex_destroy(&all->mutex);
    memory_free(all);
}
