/* GET /api/hypura/events: the state of models and memory as server-sent events, four times a second (docs/api.md). */
#include "server/server_private.h"
#include "server/worker.h"

#include <stdlib.h>
#include <string.h>

#define MAX_LISTENERS 32
#define MAX_BACKLOG (1 << 20) /* a listener that does not read is dropped */

/* A client of the event stream. */
struct listener {
    struct exchange *exchange;
    char *model;       /* the requested one; NULL: the most recently used */
    uint64_t told;     /* number of the model last reported */
    uint64_t told_all; /* sum of all numbers at that time */
    bool begun;
};

/* A model's statistics at the previous tick. */
struct before {
    uint64_t number, time;
    struct engine_statistics statistics;
};

struct events {
    struct server *server;
    pthread_mutex_t mutex;
    struct listener listeners[MAX_LISTENERS];
    size_t count;
    struct before before[SERVER_MOST_LOADED]; /* used by the ticking thread only */
};

/* A snapshot of a model. */
struct picture {
    uint64_t number;
    char *name;
    json_t *model, *state;
};

struct pictures {
    struct events *events;
    struct picture items[SERVER_MOST_LOADED];
    struct before before[SERVER_MOST_LOADED];
    size_t count;
    uint64_t all; /* sum of the models' numbers: changes when a model is loaded or unloaded */
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

/* Returns a letter for where most bytes of a layer's tensors are; *in_memory: their share that is in memory. */
static char look_at_layer(struct loaded_model *loaded, const struct model_layer *layer, double *in_memory)
{
    struct store *store = engine_store(loaded->engine);
    uint64_t bytes[UNIT_STATES] = {0}, all = 0;
    for (int role = 0; role < ROLE_COUNT; role++) {
        if (layer->tensors[role] != NO_UNIT)
            store_count_bytes(store, layer->tensors[role], bytes);
    }
    enum unit_state best = UNIT_PINNED;
    for (enum unit_state state = 0; state < UNIT_STATES; state++) {
        best = bytes[state] > bytes[best] ? state : best;
        all += bytes[state];
    }
    *in_memory = all ? (double)(bytes[UNIT_PINNED] + bytes[UNIT_CACHED] + bytes[UNIT_ON_GPU]) / (double)all : 1;
    return state_letter(best);
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

/* One string per layer, one letter per expert. */
static json_t *map_json(struct loaded_model *loaded)
{
    const struct model *model = engine_model(loaded->engine);
    const struct model_parameters *parameters = model_parameters(model);
    struct store *store = engine_store(loaded->engine);
    struct buffer letters = {0};
    json_t *layers = json_array();
    for (uint32_t l = 0; l < parameters->layers; l++) {
        const struct model_layer *layer = model_layer(model, l);
        double in_memory;
        char tensors[2] = {look_at_layer(loaded, layer, &in_memory), 0};
        buffer_clear(&letters);
        if (layer->first_expert != NO_UNIT) {
            for (uint32_t e = 0; e < parameters->experts; e++)
                buffer_append_char(&letters, state_letter(store_unit_state(store, layer->first_expert + e)));
        }
        json_array_append_new(layers, json_pack("{s:s, s:f, s:s%}", "tensors", tensors, "in_memory", in_memory,
                                                "experts", letters.data ? letters.data : "", letters.size));
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

/* What each drive delivered and how fast it is, if the model's files are on several. */
static json_t *drives_json(const struct engine_statistics *now)
{
    json_t *array = json_array();
    for (uint32_t i = 0; now->store.drive_count > 1 && i < now->store.drive_count; i++) {
        const struct store_drive *drive = &now->store.drives[i];
        json_array_append_new(array, json_pack("{s:s, s:I, s:f, s:b}", "device", drive->name, "bytes_read",
                                               (json_int_t)drive->bytes_read, "bytes_per_second",
                                               drive->bytes_per_second, "left", drive->copies_left > 0));
    }
    return array;
}

static json_t *rates_json(const struct engine_statistics *last, const struct engine_statistics *now, double seconds)
{
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

static json_t *state_json(struct loaded_model *loaded, const struct engine_statistics *now, json_t *rates)
{
    return json_pack("{s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "layers",
                     loaded ? map_json(loaded) : json_array(), "lit", loaded ? lit_json(loaded) : json_array(), "rates",
                     rates, "model_budget_bytes", (json_int_t)(loaded ? loaded->bytes : 0), "bytes_ram",
                     (json_int_t)now->bytes_ram, "bytes_gpu", (json_int_t)now->bytes_gpu, "bytes_storage",
                     (json_int_t)now->bytes_storage, "pool_bytes", (json_int_t)now->store.pool_bytes,
                     "generated_tokens", (json_int_t)now->generated_tokens, "bytes_read",
                     (json_int_t)now->store.bytes_read, "drives", drives_json(now));
}

static void look(void *context, struct loaded_model *loaded)
{
    struct pictures *pictures = context;
    struct picture *picture = &pictures->items[pictures->count];
    struct before *now = &pictures->before[pictures->count];
    const struct before *last = NULL;
    if (string_copy(&picture->name, loaded->entry.name, NULL))
        return;
    for (size_t i = 0; i < SERVER_MOST_LOADED; i++)
        last = pictures->events->before[i].number == loaded->number ? &pictures->events->before[i] : last;
    now->number = picture->number = loaded->number;
    now->time = clock_nanoseconds();
    engine_statistics(loaded->engine, &now->statistics);
    double seconds = last ? (double)(now->time - last->time) * 1e-9 : 0.25;
    picture->model = model_json(loaded);
    picture->state = state_json(
        loaded, &now->statistics,
        rates_json(last ? &last->statistics : &now->statistics, &now->statistics, seconds > 0 ? seconds : 0.25));
    pictures->all += loaded->number;
    pictures->count++;
}

static void drop(struct events *events, size_t i)
{
    exchange_end(events->listeners[i].exchange);
    exchange_release(events->listeners[i].exchange);
    memory_free(events->listeners[i].model);
    events->listeners[i] = events->listeners[--events->count];
}

/* The picture that a listener gets; NULL: its model is not loaded. */
static const struct picture *picture_for(const struct pictures *pictures, const struct listener *listener)
{
    for (size_t i = 0; i < pictures->count; i++) {
        if (!listener->model || strcmp(listener->model, pictures->items[i].name) == 0)
            return &pictures->items[i];
    }
    return NULL;
}

static bool tell(const struct pictures *pictures, struct listener *listener, const json_t *loaded, json_t *none)
{
    const struct picture *picture = picture_for(pictures, listener);
    uint64_t number = picture ? picture->number : 0;
    struct exchange *exchange = listener->exchange;
    if (!exchange_alive(exchange) || exchange_backlog(exchange) >= MAX_BACKLOG)
        return false;
    if (!listener->begun || listener->told != number || listener->told_all != pictures->all) {
        json_t *model = picture ? json_copy(picture->model) : json_pack("{s:n}", "model");
        json_object_set(model, "loaded", (json_t *)loaded);
        if (!exchange_write_event(exchange, "model", model))
            return false;
        listener->begun = true;
        listener->told = number;
        listener->told_all = pictures->all;
    }
    return exchange_write_event(exchange, "state", json_incref(picture ? picture->state : none));
}

/* Adds what is the same for all models. */
static void add_common(struct server *server, json_t *state)
{
    json_object_set_new(state, "memory_bytes", json_integer((json_int_t)memory_resident_bytes()));
    json_object_set_new(state, "budget_bytes", json_integer((json_int_t)loaded_budget(server->models)));
    json_object_set_new(state, "running", json_integer(worker_running(server->worker)));
    json_object_set_new(state, "waiting", json_integer(worker_waiting(server->worker)));
}

void events_tick(struct events *events)
{
    pthread_mutex_lock(&events->mutex);
    exchange_start_work();
    struct pictures *pictures;
    if (events->count && ALLOCATE(&pictures, 1, "pictures", NULL) == HYPURA_OK) {
        struct engine_statistics nothing = {0};
        pictures->events = events;
        loaded_each(events->server->models, look, pictures);
        memcpy(events->before, pictures->before, sizeof events->before);
        json_t *loaded = json_array(), *none = state_json(NULL, &nothing, rates_json(&nothing, &nothing, 0.25));
        add_common(events->server, none);
        for (size_t i = 0; i < pictures->count; i++) {
            json_array_append_new(loaded, json_string(pictures->items[i].name));
            add_common(events->server, pictures->items[i].state);
        }
        for (size_t i = events->count; i-- > 0;) {
            if (!tell(pictures, &events->listeners[i], loaded, none))
                drop(events, i);
        }
        for (size_t i = 0; i < pictures->count; i++) {
            json_decref(pictures->items[i].model);
            json_decref(pictures->items[i].state);
            memory_free(pictures->items[i].name);
        }
        json_decref(loaded);
        json_decref(none);
        memory_free(pictures);
    }
    pthread_mutex_unlock(&events->mutex);
}

/* ?model=NAME selects a model instead of the most recently used one. */
void handle_events(struct exchange *exchange)
{
    struct events *events = exchange_server(exchange)->events;
    const char *asked = exchange_argument(exchange, "model");
    char name[256];
    struct listener fresh = {.exchange = exchange};
    if (asked && *asked && !model_name_complete(asked, name, sizeof name)) {
        exchange_fail(exchange, 400, "invalid model name");
        return;
    }
    if (asked && *asked && string_copy(&fresh.model, name, NULL)) {
        exchange_fail_for_memory(exchange);
        return;
    }
    pthread_mutex_lock(&events->mutex);
    bool room = events->count < MAX_LISTENERS;
    if (room) {
        static const char hello[] = ": four times a second\n\n";
        exchange_hold(exchange);
        exchange_write(exchange, TYPE_EVENTS, hello, sizeof hello - 1);
        events->listeners[events->count++] = fresh;
    }
    pthread_mutex_unlock(&events->mutex);
    if (!room) {
        memory_free(fresh.model);
        exchange_fail(exchange, 503, "server busy, please try again.  too many listeners");
    }
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
    memory_free(events);
}
