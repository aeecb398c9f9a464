/* GET /api/hypura/events: what the machine does, as server-sent events, four times a second (docs/api.md). */
#include "server/server_private.h"
#include "server/worker.h"

#include <stdlib.h>
#include <string.h>

#define MAX_LISTENERS 32
#define MAX_BACKLOG (1 << 20) /* a listener that does not read is dropped */

struct events {
    struct server *server;
    pthread_mutex_t mutex;
    struct exchange *listeners[MAX_LISTENERS];
    bool fresh[MAX_LISTENERS]; /* has not been told of the model yet */
    size_t count;

    /* of the last tick; the ticking thread's */
    char *model;
    struct engine_statistics last;
    uint64_t last_time;
};

/* What one look at the engine gives. */
struct picture {
    struct events *events;
    json_t *model; /* NULL: none is loaded */
    json_t *state;
    bool changed;
};

static char state_letter(enum unit_state state)
{
    switch (state) {
    case UNIT_ON_GPU:
        return 'g';
    case UNIT_PINNED:
        return 'p';
    case UNIT_CACHED:
        return 'c';
    case UNIT_IN_FLIGHT:
        return 'f';
    default:
        return 'd';
    }
}

/* The tensors of a layer in one letter: where most of their bytes are. */
static char layer_letter(struct loaded_model *loaded, const struct model_layer *layer)
{
    struct store *store = engine_store(loaded->engine);
    const struct model *model = engine_model(loaded->engine);
    uint64_t bytes[128] = {0};
    for (int role = 0; role < ROLE_COUNT; role++) {
        unit_number unit = layer->tensors[role];
        if (unit != NO_UNIT)
            bytes[(size_t)state_letter(store_unit_state(store, unit))] += model_unit(model, unit)->bytes;
    }
    char best = 'p';
    for (const char *c = "gcfd"; *c; c++)
        best = bytes[(size_t)*c] > bytes[(size_t)best] ? *c : best;
    return best;
}

static json_t *model_json(struct loaded_model *loaded)
{
    const struct model *model = engine_model(loaded->engine);
    const struct model_parameters *parameters = model_parameters(model);
    const struct plan *plan = engine_plan(loaded->engine);
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "model", loaded->entry.name,
                     "architecture", model_architecture(model)->name, "mode", plan_mode_name(plan->mode), "layers",
                     (json_int_t)parameters->layers, "experts", (json_int_t)parameters->experts, "experts_used",
                     (json_int_t)parameters->experts_used, "context", (json_int_t)plan->positions, "parallel",
                     (json_int_t)plan->sequences, "model_bytes", (json_int_t)model_bytes(model),
                     "smallest_budget_bytes", (json_int_t)plan->smallest_budget, "disk_bytes_per_second",
                     engine_hardware(loaded->engine)->storage.bytes_per_second, "predicted_tokens_per_second",
                     plan->predicted_tokens_per_second);
}

/* One string a layer, a letter an expert. */
static json_t *map_json(struct loaded_model *loaded)
{
    const struct model *model = engine_model(loaded->engine);
    const struct model_parameters *parameters = model_parameters(model);
    struct store *store = engine_store(loaded->engine);
    struct buffer letters = {0};
    json_t *layers = json_array();
    for (uint32_t l = 0; l < parameters->layers; l++) {
        const struct model_layer *layer = model_layer(model, l);
        char tensors[2] = {layer_letter(loaded, layer), 0};
        buffer_clear(&letters);
        if (layer->first_expert != NO_UNIT) {
            for (uint32_t e = 0; e < parameters->experts; e++)
                buffer_append_char(&letters, state_letter(store_unit_state(store, layer->first_expert + e)));
        }
        json_array_append_new(layers, json_pack("{s:s, s:s%}", "tensors", tensors, "experts",
                                                letters.data ? letters.data : "", letters.size));
    }
    buffer_free(&letters);
    return layers;
}

/* The experts that were used since the last picture. */
static json_t *lit_json(struct loaded_model *loaded)
{
    const struct model_parameters *parameters = model_parameters(engine_model(loaded->engine));
    size_t size = (size_t)parameters->layers * parameters->experts;
    json_t *lit = json_array();
    bool *used;
    if (ALLOCATE(&used, size, "picture", NULL))
        return lit;
    engine_take_used(loaded->engine, used);
    for (size_t i = 0; i < size; i++)
        if (used[i])
            json_array_append_new(lit, json_integer((json_int_t)i));
    memory_free(used);
    return lit;
}

static json_t *rates_json(const struct events *events, const struct engine_statistics *now, double seconds)
{
    const struct engine_statistics *last = &events->last;
    double generated = (double)(now->generated_tokens - MIN(last->generated_tokens, now->generated_tokens));
    double prompt = (double)(now->prompt_tokens - MIN(last->prompt_tokens, now->prompt_tokens));
    double read = (double)(now->store.bytes_read - MIN(last->store.bytes_read, now->store.bytes_read));
    double hits = (double)(now->store.expert_hits - MIN(last->store.expert_hits, now->store.expert_hits));
    double misses = (double)(now->store.expert_misses - MIN(last->store.expert_misses, now->store.expert_misses));
    double stalls =
        (double)(now->store.stall_nanoseconds - MIN(last->store.stall_nanoseconds, now->store.stall_nanoseconds));
    return json_pack("{s:f, s:f, s:f, s:o, s:f}", "tokens_per_second", generated / seconds, "prompt_tokens_per_second",
                     prompt / seconds, "disk_bytes_per_second", read / seconds, "hit_rate",
                     hits + misses > 0 ? json_real(hits / (hits + misses)) : json_null(), "stall_share",
                     stalls * 1e-9 / seconds);
}

static void look(void *context, struct loaded_model *loaded)
{
    struct picture *picture = context;
    struct events *events = picture->events;
    uint64_t time = clock_nanoseconds();
    struct engine_statistics now = {0};
    picture->changed =
        (loaded != NULL) != (events->model != NULL) || (loaded && strcmp(loaded->entry.name, events->model) != 0);
    if (loaded) {
        picture->model = model_json(loaded);
        engine_statistics(loaded->engine, &now);
    }
    if (picture->changed) {
        memory_free(events->model);
        events->model = NULL;
        events->last = now;
        if (loaded)
            string_copy(&events->model, loaded->entry.name, NULL);
    }
    double seconds = events->last_time ? (double)(time - events->last_time) * 1e-9 : 0.25;
    picture->state =
        json_pack("{s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "layers",
                  loaded ? map_json(loaded) : json_array(), "lit", loaded ? lit_json(loaded) : json_array(), "rates",
                  rates_json(events, &now, seconds > 0 ? seconds : 0.25), "memory_bytes",
                  (json_int_t)memory_resident_bytes(), "budget_bytes", (json_int_t)now.budget_bytes, "bytes_ram",
                  (json_int_t)now.bytes_ram, "bytes_gpu", (json_int_t)now.bytes_gpu, "bytes_storage",
                  (json_int_t)now.bytes_storage, "pool_bytes", (json_int_t)now.store.pool_bytes, "generated_tokens",
                  (json_int_t)now.generated_tokens, "bytes_read", (json_int_t)now.store.bytes_read);
    events->last = now;
    events->last_time = time;
}

static void drop(struct events *events, size_t i)
{
    exchange_end(events->listeners[i]);
    exchange_release(events->listeners[i]);
    events->count--;
    events->listeners[i] = events->listeners[events->count];
    events->fresh[i] = events->fresh[events->count];
}

void events_tick(struct events *events)
{
    pthread_mutex_lock(&events->mutex);
    if (events->count) {
        struct picture picture = {.events = events};
        struct server *server = events->server;
        worker_look(server->worker, look, &picture);
        json_object_set_new(picture.state, "running", json_integer(worker_running(server->worker)));
        json_object_set_new(picture.state, "waiting", json_integer(worker_waiting(server->worker)));
        for (size_t i = events->count; i-- > 0;) {
            struct exchange *listener = events->listeners[i];
            bool alive = exchange_alive(listener) && exchange_backlog(listener) < MAX_BACKLOG;
            if (alive && (picture.changed || events->fresh[i]))
                alive = exchange_write_event(listener, "model",
                                             picture.model ? json_incref(picture.model) : json_pack("{s:n}", "model"));
            events->fresh[i] = false;
            if (alive)
                alive = exchange_write_event(listener, "state", json_incref(picture.state));
            if (!alive)
                drop(events, i);
        }
        json_decref(picture.model);
        json_decref(picture.state);
    }
    pthread_mutex_unlock(&events->mutex);
}

void handle_events(struct exchange *exchange)
{
    struct events *events = exchange_server(exchange)->events;
    pthread_mutex_lock(&events->mutex);
    bool room = events->count < MAX_LISTENERS;
    if (room) {
        static const char hello[] = ": four times a second\n\n";
        exchange_hold(exchange);
        exchange_write(exchange, TYPE_EVENTS, hello, sizeof hello - 1);
        events->listeners[events->count] = exchange;
        events->fresh[events->count++] = true;
    }
    pthread_mutex_unlock(&events->mutex);
    if (!room)
        exchange_fail(exchange, 503, "server busy, please try again.  too many listeners");
}

hypura_status events_create(struct events **out, struct server *server, hypura_error *error)
{
    struct events *events;
    hypura_status status = ALLOCATE(&events, 1, "events", error);
    if (status)
        return status;
    events->server = server;
    pthread_mutex_init(&events->mutex, NULL);
    *out = events;
    return HYPURA_OK;
}

void events_destroy(struct events *events)
{
    if (!events)
        return;
    pthread_mutex_lock(&events->mutex);
    while (events->count)
        drop(events, events->count - 1);
    pthread_mutex_unlock(&events->mutex);
    pthread_mutex_destroy(&events->mutex);
    memory_free(events->model);
    memory_free(events);
}
