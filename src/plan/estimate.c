#include "plan/plan_private.h"

#include <math.h>

/* ---- expert cache: least recently used goes first ------------------------------------------------------------------
 */

#define NOBODY UINT32_MAX

struct cache_entry {
    uint32_t older, newer;
    bool present;
};

struct cache {
    struct cache_entry *entries; /* by unit number */
    uint32_t oldest, newest;
    uint64_t used, capacity;
};

static void cache_unlink(struct cache *cache, uint32_t unit)
{
    struct cache_entry *entry = &cache->entries[unit];
    if (entry->older == NOBODY)
        cache->oldest = entry->newer;
    else
        cache->entries[entry->older].newer = entry->newer;
    if (entry->newer == NOBODY)
        cache->newest = entry->older;
    else
        cache->entries[entry->newer].older = entry->older;
}

static void cache_append(struct cache *cache, uint32_t unit)
{
    struct cache_entry *entry = &cache->entries[unit];
    entry->older = cache->newest;
    entry->newer = NOBODY;
    if (cache->newest == NOBODY)
        cache->oldest = unit;
    else
        cache->entries[cache->newest].newer = unit;
    cache->newest = unit;
}

/* True for a hit; a miss comes in. */
static bool cache_use(struct cache *cache, const struct plan_table *table, uint32_t unit)
{
    bool hit = cache->entries[unit].present;
    if (hit) {
        cache_unlink(cache, unit);
    } else {
        uint64_t bytes = table->units[unit].footprint;
        while (cache->oldest != NOBODY && cache->used + bytes > cache->capacity) {
            uint32_t victim = cache->oldest;
            cache_unlink(cache, victim);
            cache->entries[victim].present = false;
            cache->used -= table->units[victim].footprint;
        }
        cache->used += bytes;
        cache->entries[unit].present = true;
    }
    cache_append(cache, unit);
    return hit;
}

/* ---- the machine ----------------------------------------------------------------------------------------------------
 */

/* A streamed tensor's way through the ring. The reader takes them in order, over and over: number n of this count is
 * tensor n modulo their number. */
struct ring {
    uint32_t *units; /* streamed, in order of use */
    uint32_t count;
    uint64_t started, used; /* how many reads were begun, and tensors put back */
    double left;            /* bytes of the tensor that is being read; 0: none */
    uint64_t in_memory, capacity;
};

struct simulation {
    const struct plan *plan;
    const struct plan_table *table;
    const struct hardware *hardware;
    struct estimate_part *part;

    double now;  /* of the processor */
    double disk; /* until when the drive's time is spent; behind now: it was idle */
    double ring_speed;
    struct ring ring;
    struct cache cache;
    struct estimate_cache other_cache;
    uint32_t *moe_layers; /* first expert's unit of each MoE layer, in order */
    uint32_t moe_layer_count;
    uint32_t *layer_of;  /* [layers] index into moe_layers; NOBODY */
    uint32_t *tokens_of; /* [experts] of a layer in this pass */
    uint32_t *waiting;   /* [experts] misses of a layer */
    double *arrival;     /* [experts] when they are there */
};

static const struct plan_unit *unit_at(const struct simulation *s, uint32_t unit)
{
    return &s->table->units[unit];
}

static void read_bytes(struct simulation *s, double bytes, double speed)
{
    double seconds = bytes / speed;
    s->disk += seconds;
    s->part->disk_seconds += seconds;
    s->part->bytes_read += bytes;
}

/* Lets the drive read ahead until a time, or until so many tensors are there, whichever is first. */
static void read_ahead(struct simulation *s, double until, uint64_t wanted)
{
    struct ring *ring = &s->ring;
    const struct storage *storage = &s->hardware->storage;
    double most = (double)storage->block_bytes * storage->depth;
    while (ring->count) {
        if (ring->left <= 0) {
            if (ring->started >= wanted)
                return;
            uint64_t bytes = unit_at(s, ring->units[ring->started % ring->count])->footprint;
            /* A whole cycle ahead is enough: then all of it is in memory. */
            if (ring->in_memory + bytes > ring->capacity || ring->started - ring->used >= ring->count)
                return;
            ring->started++;
            ring->in_memory += bytes;
            ring->left = (double)bytes;
        }
        if (s->disk >= until)
            return;
        /* In pieces of what is in flight at once, so that a demand need not wait for more. */
        double piece = fmin(ring->left, most);
        read_bytes(s, piece, s->ring_speed);
        ring->left -= piece;
        if (ring->left < 1)
            ring->left = 0;
    }
}

/* The drive has been idle since its time was spent, and starts now. */
static void wake_drive(struct simulation *s)
{
    if (s->disk < s->now)
        s->disk = s->now;
}

static void compute(struct simulation *s, double seconds)
{
    s->part->compute_seconds += seconds;
    s->now += seconds;
}

static double unit_seconds(const struct simulation *s, uint32_t unit, uint32_t tokens)
{
    const struct plan_unit *row = unit_at(s, unit);
    double many = tokens > 1 && s->hardware->multiply_adds_per_second > 0
                      ? (double)tokens * (double)row->elements / s->hardware->multiply_adds_per_second
                      : 0;
    return fmax(row->compute_seconds, many);
}

static void use_tensor(struct simulation *s, uint32_t unit, uint32_t tokens)
{
    struct ring *ring = &s->ring;
    if (!s->plan->in_ring[unit]) {
        compute(s, unit_seconds(s, unit, tokens));
        return;
    }
    read_ahead(s, s->now, UINT64_MAX);
    uint64_t wanted = ring->used + 1;
    if (ring->started < wanted || (ring->started == wanted && ring->left > 0)) {
        wake_drive(s);
        read_ahead(s, INFINITY, wanted);
        s->now = fmax(s->now, s->disk);
    }
    compute(s, unit_seconds(s, unit, tokens));
    /* While it was computed the next ones were read; it leaves its place only now. */
    read_ahead(s, s->now, UINT64_MAX);
    ring->used++;
    ring->in_memory -= unit_at(s, unit)->footprint;
    /* The drive stood still when the ring was full: room that comes now was not there before. */
    if (ring->left <= 0)
        wake_drive(s);
}

/* True for a hit; a miss comes in. */
static bool find_expert(struct simulation *s, uint32_t unit)
{
    if (s->other_cache.use)
        return s->other_cache.use(s->other_cache.context, unit);
    return cache_use(&s->cache, s->table, unit);
}

static void use_experts(struct simulation *s, const struct estimate_pass *pass, uint32_t number)
{
    const struct plan_table *table = s->table;
    uint32_t first = s->moe_layers[number], misses = 0;
    const uint16_t *chosen = pass->experts + (size_t)number * pass->tokens * table->experts_used;
    for (uint32_t i = 0; i < table->experts; i++)
        s->tokens_of[i] = 0;
    for (size_t i = 0; i < (size_t)pass->tokens * table->experts_used; i++)
        s->tokens_of[chosen[i]]++;

    read_ahead(s, s->now, UINT64_MAX);
    double hits = 0, bytes = 0;
    for (uint32_t i = 0; i < table->experts; i++) {
        uint32_t unit = first + i;
        if (!s->tokens_of[i])
            continue;
        bool cached = s->plan->tiers[unit] == TIER_STORAGE;
        if (!cached || find_expert(s, unit)) {
            s->part->expert_hits += cached;
            hits += unit_seconds(s, unit, s->tokens_of[i]);
            continue;
        }
        s->part->expert_misses++;
        bytes += (double)unit_at(s, unit)->footprint;
        s->waiting[misses++] = unit;
    }
    if (misses) {
        /* One batch; its experts arrive one after the other. */
        double speed = plan_expert_speed(&s->hardware->storage, bytes / misses, unit_at(s, first)->slices, misses);
        wake_drive(s);
        for (uint32_t i = 0; i < misses; i++) {
            read_bytes(s, (double)unit_at(s, s->waiting[i])->footprint, speed);
            s->arrival[i] = s->disk;
        }
    }
    compute(s, hits);
    for (uint32_t i = 0; i < misses; i++) {
        s->now = fmax(s->now, s->arrival[i]);
        compute(s, unit_seconds(s, s->waiting[i], s->tokens_of[s->waiting[i] - first]));
    }
}

static void run_pass(struct simulation *s, const struct estimate_pass *pass)
{
    const struct plan_table *table = s->table;
    double started = s->now;
    double key_bytes = (double)s->plan->kv_bytes / (double)MAX(s->plan->kv_positions, (uint64_t)1) *
                       ((double)pass->positions + pass->tokens);
    if (s->plan->embedding_rows) {
        wake_drive(s);
        read_bytes(s, (double)table->embedding_row_bytes * pass->tokens,
                   hardware_read_speed(&s->hardware->storage, table->embedding_row_bytes, pass->tokens));
        s->now = fmax(s->now, s->disk);
    }
    int32_t layer = -1;
    uint32_t tied = table->tied_output ? table->embedding_unit : NO_UNIT;
    for (uint32_t unit = 0; unit <= table->count; unit++) {
        const struct plan_unit *row = unit < table->count ? unit_at(s, unit) : NULL;
        bool tensor = row && row->priority < PRIORITY_EXPERT && unit != tied;
        if (row && !tensor)
            continue;
        /* A layer ends with its experts. */
        if (layer >= 0 && (!row || row->layer != layer)) {
            if (s->layer_of[layer] != NOBODY)
                use_experts(s, pass, s->layer_of[layer]);
            compute(s, LAYER_SECONDS + key_bytes / table->layers / s->hardware->memory_bytes_per_second);
        }
        layer = row ? row->layer : -1;
        if (row)
            use_tensor(s, unit, row->priority == PRIORITY_OUTPUT ? 1 : pass->tokens);
    }
    if (tied != NO_UNIT)
        use_tensor(s, tied, 1);
    s->part->passes++;
    s->part->tokens += pass->tokens;
    s->part->seconds += s->now - started;
}

/* ---- setting up
 * ------------------------------------------------------------------------------------------------------ */

static void simulation_free(struct simulation *s)
{
    memory_free(s->ring.units);
    memory_free(s->cache.entries);
    memory_free(s->moe_layers);
    memory_free(s->layer_of);
    memory_free(s->tokens_of);
    memory_free(s->waiting);
    memory_free(s->arrival);
}

static hypura_status simulation_make(struct simulation *s, hypura_error *error)
{
    const struct plan_table *table = s->table;
    size_t experts = MAX(table->experts, 1u);
    hypura_status status = ALLOCATE(&s->ring.units, table->count, "simulation", error);
    if (!status)
        status = ALLOCATE(&s->cache.entries, table->count, "simulation", error);
    if (!status)
        status = ALLOCATE(&s->moe_layers, (size_t)table->layers + 1, "simulation", error);
    if (!status)
        status = ALLOCATE(&s->layer_of, (size_t)table->layers + 1, "simulation", error);
    if (!status)
        status = ALLOCATE(&s->tokens_of, experts, "simulation", error);
    if (!status)
        status = ALLOCATE(&s->waiting, experts, "simulation", error);
    if (!status)
        status = ALLOCATE(&s->arrival, experts, "simulation", error);
    if (status)
        return status;

    s->ring.capacity = s->plan->ring_bytes;
    s->cache.capacity = s->plan->expert_cache_bytes;
    s->cache.oldest = s->cache.newest = NOBODY;
    for (uint32_t i = 0; i <= table->layers; i++)
        s->layer_of[i] = NOBODY;
    /* A tied embedding has the first number and is used last. */
    uint32_t tied = table->tied_output ? table->embedding_unit : NO_UNIT;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = unit_at(s, i);
        if (s->plan->in_ring[i] && i != tied)
            s->ring.units[s->ring.count++] = i;
        if (unit->priority == PRIORITY_EXPERT && unit->expert == 0) {
            s->layer_of[unit->layer] = s->moe_layer_count;
            s->moe_layers[s->moe_layer_count++] = i;
        }
    }
    if (tied != NO_UNIT && s->plan->in_ring[tied])
        s->ring.units[s->ring.count++] = tied;
    return HYPURA_OK;
}

static hypura_status check_pass(const struct simulation *s, const struct estimate_pass *pass, hypura_error *error)
{
    const struct plan_table *table = s->table;
    if (pass->tokens == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a pass of no tokens cannot be simulated");
    if (s->moe_layer_count == 0)
        return HYPURA_OK;
    if (!pass->experts)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the routing of a model with experts is missing");
    for (size_t i = 0; i < (size_t)s->moe_layer_count * pass->tokens * table->experts_used; i++) {
        if (pass->experts[i] >= table->experts)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "the routing names expert %u, and a layer has %u",
                             pass->experts[i], table->experts);
    }
    return HYPURA_OK;
}

static void conclude(struct estimate *out, const struct hardware *hardware)
{
    const struct estimate_part *decode = out->decode.tokens ? &out->decode : &out->prompt;
    if (decode->seconds <= 0)
        return;
    double busiest = fmax(decode->compute_seconds, decode->disk_seconds);
    out->tokens_per_second = (double)decode->tokens / decode->seconds;
    /* Reading ahead for the pass that follows the last may put more into the drive's time than has passed. */
    out->share_of_limit = fmin(1, busiest / decode->seconds);
    out->bound = plan_bound_of(decode->compute_seconds, decode->seconds, hardware);
}

hypura_status estimate_units(struct estimate *out, const struct plan *plan, const struct plan_table *table,
                             const struct hardware *hardware, const struct estimate_source *source,
                             uint32_t warm_passes, hypura_error *error)
{
    struct estimate result = {0};
    struct estimate_part ignored = {0};
    struct simulation simulation = {.plan = plan,
                                    .table = table,
                                    .hardware = hardware,
                                    .part = &ignored,
                                    .other_cache = source->cache,
                                    .ring_speed = plan_ring_speed(table, plan, &hardware->storage)};
    hypura_status status = simulation_make(&simulation, error);
    struct estimate_pass pass;
    for (uint64_t number = 0; status == HYPURA_OK && source->next(source->context, &pass); number++) {
        status = check_pass(&simulation, &pass, error);
        if (status != HYPURA_OK)
            break;
        simulation.part = number < warm_passes ? &ignored : pass.tokens == 1 ? &result.decode : &result.prompt;
        run_pass(&simulation, &pass);
    }
    simulation_free(&simulation);
    if (status != HYPURA_OK)
        return status;
    conclude(&result, hardware);
    *out = result;
    return HYPURA_OK;
}
