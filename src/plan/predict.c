/* Predicts the speed of a plan.
 *
 * While the drive reads and the cores compute, both are slower than alone, as the profile measured
 * (hardware_side_by_side). Streamed tensors are read ahead in a known order, so they are read next to computing during
 * the whole pass. Experts are known only after their router, or are foreseen when the layer before is done. So a
 * layer's misses are read while this layer computes. The number of misses is binomial. */
#include "plan/plan_private.h"

#include <math.h>
#include <stdlib.h>

/* Matrix-vector kernels that reach this share of the memory's speed are bound by it. */
#define MEMORY_BOUND_SHARE 0.8

/* A pass that waits for the drive less than this share of its time is not bound by it. */
#define WAITING_SHARE 0.05

/* ---- hit rate ---------------------------------------------------------------------------------------------------- */

struct use {
    uint64_t uses, footprint;
};

static int more_used_first(const void *a, const void *b)
{
    const struct use *left = a, *right = b;
    return (left->uses < right->uses) - (left->uses > right->uses);
}

/* The hit rate of the best fixed content: the experts that were used most. */
static hypura_status hits_from_uses(double *out, const struct plan_table *table, uint64_t cache_bytes,
                                    const uint64_t *uses, hypura_error *error)
{
    struct use *sorted;
    size_t count = 0;
    hypura_status status = ALLOCATE(&sorted, table->count, "statistics of experts", error);
    if (status != HYPURA_OK)
        return status;
    double all = 0, held = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        if (table->units[i].priority != PRIORITY_EXPERT)
            continue;
        sorted[count++] = (struct use){uses[i], table->units[i].footprint};
        all += (double)uses[i];
    }
    if (count)
        qsort(sorted, count, sizeof *sorted, more_used_first);
    for (size_t i = 0; i < count && sorted[i].footprint <= cache_bytes; i++) {
        cache_bytes -= sorted[i].footprint;
        held += (double)sorted[i].uses;
    }
    memory_free(sorted);
    *out = all > 0 ? held / all : 0;
    return HYPURA_OK;
}

/* The hit rate without statistics: the cached share of all experts, to some power. A cache that is smaller than the
 * experts of one token keeps only a part of these until the next token, and its hit rate falls in proportion. */
static double hits_of_share(double share, double used, double exponent)
{
    return share < used ? share / used * pow(used, exponent) : pow(share, exponent);
}

/* Without statistics, the exponent falls with the number of experts per layer, as in real routing:
 *   512 experts: hit rates of 49, 59, 68 and 71 % with 3, 6, 13 and 25 % of them cached by LRU (0.2; flash-moe's notes
 * on a relative of Qwen3-Next) 12, in the embedded model: 35, 48 and 71 % with 20, 30 and 50 % (0.65 to 0.5; measured
 * here) 8, in Mixtral: 40 to 60 % with two to four cached by LRU (0.7; Eliseev and Mazur, 2023) These are figures for
 * typical texts. If routing prefers no expert and does not depend on the last token, the exponent is 1. */
static double usual_exponent(uint32_t experts)
{
    return fmax(0.7 - 0.075 * (log2(MAX(experts, 4u)) - 3), 0.2);
}

static double hits_of_curve(const struct plan_hit_curve *curve, double share)
{
    double at = share * PLAN_CURVE_POINTS;
    uint32_t above = MIN((uint32_t)at, PLAN_CURVE_POINTS - 1);
    double lower = above ? (double)curve->hits[above - 1] : 0;
    return lower + (at - above) * ((double)curve->hits[above] - lower);
}

bool plan_knows_routing(const struct plan_table *table, const struct plan_request *request)
{
    bool known = request->hit_curve.known;
    for (uint32_t i = 0; i < table->count && !known; i++)
        known = table->units[i].priority == PRIORITY_EXPERT && request->uses && request->uses[i];
    return known;
}

void plan_ask_evenly(struct plan_request *request)
{
    request->uses = NULL;
    request->hit_curve.known = true;
    for (uint32_t i = 0; i < PLAN_CURVE_POINTS; i++)
        request->hit_curve.hits[i] = (float)(i + 1) / PLAN_CURVE_POINTS;
}

/* The experts of layers that are not all on devices. */
struct divided {
    double bytes, uses; /* on devices */
    double all_bytes, all_uses;
};

static void add_layer(struct divided *all, const struct divided *layer)
{
    if (layer->bytes >= layer->all_bytes)
        return;
    all->bytes += layer->bytes;
    all->uses += layer->uses;
    all->all_bytes += layer->all_bytes;
    all->all_uses += layer->all_uses;
}

static struct divided find_divided(const struct plan_table *table, const struct plan_request *request)
{
    const uint64_t *uses = request->uses;
    const float *shares = !uses && request->gpu ? request->gpu->used_there : NULL;
    struct divided all = {0}, layer = {0};
    int32_t number = -1;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        const bool there = unit->priority == PRIORITY_GPU;
        if (unit->expert < 0 || (!there && unit->priority != PRIORITY_EXPERT))
            continue;
        if (unit->layer != number) {
            add_layer(&all, &layer);
            layer = (struct divided){0};
            number = unit->layer;
        }
        const double used = uses ? (double)uses[i] : 1;
        layer.bytes += there ? (double)unit->footprint : 0;
        layer.uses += shares ? (double)shares[number] : there ? used : 0;
        layer.all_bytes += (double)unit->footprint;
        layer.all_uses += used;
    }
    add_layer(&all, &layer);
    return all;
}

/* Of the uses of experts on no device, those that hit. */
static double hits_next_to_devices(const struct plan_table *table, double cache_bytes,
                                   const struct plan_request *request)
{
    const struct divided divided = find_divided(table, request);
    const double here =
        divided.all_uses > 0 ? 1 - divided.uses / divided.all_uses : 1 - divided.bytes / divided.all_bytes;
    const double missed = 1 - hits_of_curve(&request->hit_curve, (cache_bytes + divided.bytes) / divided.all_bytes);
    return fmax(1 - missed / fmax(here, 1e-6), 0);
}

hypura_status plan_hit_rate(double *out, const struct plan_table *table, uint64_t cache_bytes,
                            const struct plan_request *request, hypura_error *error)
{
    const uint64_t *uses = request->uses;
    uint64_t all = 0;
    bool devices = false; /* hold experts */
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        all += unit->priority == PRIORITY_EXPERT ? unit->footprint : 0;
        devices = devices || (unit->priority == PRIORITY_GPU && unit->expert >= 0);
    }
    if (cache_bytes >= all) {
        *out = 1;
        return HYPURA_OK;
    }
    double share = (double)cache_bytes / (double)all, used = (double)table->experts_used / MAX(table->experts, 1u);
    if (request->hit_curve.known && devices && !request->hit_curve.apart)
        *out = hits_next_to_devices(table, (double)cache_bytes, request);
    else if (request->hit_curve.known)
        *out = hits_of_curve(&request->hit_curve, share);
    else if (plan_knows_routing(table, request))
        return hits_from_uses(out, table, cache_bytes, uses, error);
    else
        *out = hits_of_share(share, used, usual_exponent(table->experts));
    return HYPURA_OK;
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

enum plan_bound plan_bound_of(double compute_seconds, double seconds, const struct hardware *hardware)
{
    if (compute_seconds < (1 - WAITING_SHARE) * seconds)
        return BOUND_DISK;
    return hardware->compute_bytes_per_second >= MEMORY_BOUND_SHARE * hardware->memory_bytes_per_second ? BOUND_MEMORY
                                                                                                        : BOUND_COMPUTE;
}

/* The speed of reads as large and as deep as the reader's was measured in many rounds. A single short sample that looks
 * faster was lucky, or used bandwidth that a rate-limited drive had saved up. */
static double read_speed(const struct storage *storage, uint64_t block, uint32_t depth)
{
    bool full = block >= storage->block_bytes && 2 * depth >= storage->depth;
    return full ? storage->bytes_per_second
                : fmin(hardware_read_speed(storage, block, depth), storage->bytes_per_second);
}

static double expert_speed(const struct storage *storage, double expert_bytes, uint32_t slices, uint32_t experts,
                           uint32_t depth)
{
    double slice = expert_bytes / MAX(slices, 1u), block = MIN(slice, (double)storage->block_bytes);
    double reads = ceil(slice / MAX(block, 1.0)) * MAX(slices, 1u) * experts;
    return read_speed(storage, (uint64_t)block, (uint32_t)MIN(reads, (double)depth));
}

/* From the router's choice to the first byte, and from the last byte to the thread that waits, threads wake up: 0.07 to
 * 0.34 ms in nine runs on two cores, on top of what the bytes take (docs/notes/2026-11-23-estimates.md). */
#define WAKING_SECONDS 150e-6

double plan_expert_seconds(const struct storage *storage, double expert_bytes, uint32_t slices, double experts)
{
    uint32_t together = (uint32_t)MAX(ceil(experts), 1.0);
    return MIN(experts, 1.0) * WAKING_SECONDS +
           experts * expert_bytes / expert_speed(storage, expert_bytes, slices, together, storage->depth);
}

/* Prefetches have fewer reads in flight (src/store/io.c). */
static double prefetch_speed(const struct storage *storage, double expert_bytes, uint32_t slices, uint32_t experts)
{
    uint64_t block = (uint64_t)MIN(expert_bytes / MAX(slices, 1u), (double)storage->block_bytes);
    return expert_speed(storage, expert_bytes, slices, experts,
                        hardware_prefetch_depth(storage, block, storage->depth));
}

double plan_ring_speed(const struct plan_table *table, const struct plan *plan, const struct storage *storage)
{
    double bytes = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_cut *cut = &table->units[i].cut;
        bytes += (double)plan_streamed_footprint(&table->units[i], plan->streams);
        for (uint32_t piece = 0; piece < cut->count; piece++)
            count += plan->streams[cut->first + piece];
    }
    if (count == 0)
        return storage->bytes_per_second;
    double mean = bytes / count, block = MIN(mean, (double)storage->block_bytes);
    double ahead = MAX((double)plan->ring_bytes - mean, block);
    return read_speed(storage, (uint64_t)block, (uint32_t)MIN(ahead / block, (double)storage->depth));
}

double plan_ring_speed_beside(const struct plan_table *table, const struct plan *plan, const struct storage *storage)
{
    double share = storage->reading_beside > 0 ? storage->reading_beside : 1;
    return plan_ring_speed(table, plan, storage) * share;
}

/* The share of misses whose reads have begun when their layer's router chooses: 0.06 to 0.43 in runs of four mixtures
 * with half and three quarters of the weights in memory (docs/notes/2026-11-23-estimates.md, "Two cores"). */
#define FORESEEN_SHARE 0.25

/* Bytes of experts that are read per needed byte, because some prefetches are wasted: up to 1.15 in the same runs. */
#define READ_FOR_NEEDED 1.1

struct layer_time {
    const struct plan_layer_cost *layer;
    double tensors;
    const struct plan_table *table;
    uint32_t experts;
    const struct storage *storage;
};

/* The time of a layer with so many misses. Those that were foreseen are read while the layer's tensors and its other
 * experts compute; others only after the router, next to the other experts. The last one is computed after its read. */
static double seconds_with(const void *context, uint32_t misses)
{
    const struct layer_time *time = context;
    const struct plan_layer_cost *layer = time->layer;
    const struct plan_table *table = time->table;
    const struct storage *storage = time->storage;
    const double tensors = time->tensors;
    double one_compute = layer->expert_compute / table->experts, one_bytes = layer->expert_bytes / table->experts;
    double others = (time->experts - 1) * one_compute;
    if (misses == 0)
        return tensors + others + one_compute;
    double speed = expert_speed(storage, one_bytes, layer->slices, misses, storage->depth);
    double read = WAKING_SECONDS + READ_FOR_NEEDED * misses * one_bytes / speed;
    struct storage ahead = *storage;
    ahead.reading_beside *= fmin(prefetch_speed(storage, one_bytes, layer->slices, misses) / speed, 1);
    double unforeseen = tensors + hardware_side_by_side(storage, others, read);
    double foreseen = hardware_side_by_side(&ahead, tensors + others, read);
    return FORESEEN_SHARE * foreseen + (1 - FORESEEN_SHARE) * unforeseen + one_compute;
}

double plan_mean_over_misses(uint32_t experts, double miss, double (*seconds)(const void *context, uint32_t misses),
                             const void *context)
{
    bool none = miss > 0.9999; /* no hits at all: the powers below would underflow */
    double mean = 0, probability = none ? 1 : pow(1 - miss, experts);
    for (uint32_t misses = none ? experts : 0; misses <= experts; misses++) {
        mean += probability * seconds(context, misses);
        if (!none)
            probability *= (double)(experts - misses) / (misses + 1) * miss / (1 - miss);
    }
    return mean;
}

double plan_layer_seconds(const struct plan_layer_cost *layer, double tensors, const struct plan_table *table,
                          uint32_t experts, const struct storage *storage, double miss)
{
    const struct layer_time time = {layer, tensors, table, experts, storage};
    return plan_mean_over_misses(experts, miss, seconds_with, &time);
}

void plan_layer_costs(struct plan_layer_cost *layers, const struct plan_table *table)
{
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (unit->layer >= (int32_t)table->layers)
            continue; /* prediction blocks are not part of a token's pass */
        /* Everything outside the layers is in layers[0]. */
        struct plan_layer_cost *layer = &layers[unit->layer + 1];
        if (unit->priority < PRIORITY_EXPERT)
            layer->compute += unit->compute_seconds;
        if (unit->priority != PRIORITY_EXPERT)
            continue;
        layer->expert_compute += unit->compute_seconds;
        layer->expert_bytes += (double)unit->footprint;
        layer->slices = unit->slices;
        layer->file = unit->file;
    }
}

/* Each part of a split model may be on drives of its own. */
static const struct storage *storage_of(const struct hardware *hardware, uint32_t file)
{
    const struct drives *drives = hardware->drives;
    return drives && drives->of_files && file < drives->file_count ? &drives->of_files[file] : &hardware->storage;
}

hypura_status plan_predict(struct plan *plan, const struct plan_table *table, const struct hardware *hardware,
                           const struct plan_request *request, hypura_error *error)
{
    struct plan_layer_cost *layers = NULL;
    double *rests;
    hypura_status status = plan_hit_rate(&plan->predicted_hit_rate, table,
                                         plan->expert_cache_bytes + plan->spare_scratch_bytes, request, error);
    if (plan->expert_cache_bytes == 0)
        plan->predicted_hit_rate = 1;
    if (status == HYPURA_OK)
        status = ALLOCATE(&layers, (size_t)table->layers + 1, "costs of layers", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&rests, (size_t)table->layers + 1, "costs of layers", error);
    if (status != HYPURA_OK) {
        memory_free(layers);
        return status;
    }
    plan_layer_costs(layers, table);

    const struct storage *storage = &hardware->storage;
    double used = table->experts ? (double)table->experts_used / table->experts : 0;
    double miss = 1 - plan->predicted_hit_rate, ring_bytes = 0;
    double compute = 0, with_experts = 0, experts = 0, missed = 0, reads = 0, expert_reads = 0, ring_speed = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        double bytes = (double)plan_streamed_footprint(&table->units[i], plan->streams);
        const struct storage *own = storage_of(hardware, table->units[i].file);
        if (bytes > 0 && (ring_bytes <= 0 || own != storage)) /* consecutive units are mostly in one file */
            ring_speed = plan_ring_speed(table, plan, storage = own);
        ring_bytes += bytes;
        reads += bytes > 0 ? bytes / ring_speed : 0;
    }
    for (uint32_t i = 0; i <= table->layers; i++) {
        double tensors = layers[i].compute + (i ? LAYER_SECONDS : 0);
        const struct storage *own = storage_of(hardware, layers[i].file);
        compute += tensors + layers[i].expert_compute * used;
        with_experts += layers[i].expert_bytes > 0
                            ? plan_layer_seconds(&layers[i], tensors, table, table->experts_used, own, miss)
                            : tensors;
        experts += layers[i].expert_bytes;
        missed += layers[i].expert_bytes * used * miss;
        expert_reads += layers[i].expert_bytes * used * miss / own->bytes_per_second;
        rests[i] = layers[i].expert_compute * used + (i ? LAYER_SECONDS : 0);
    }
    storage = &hardware->storage;
    /* While the ring is full, the drive reads experts. */
    double speed_beside = plan_ring_speed_beside(table, plan, storage);
    double idle = MAX(plan_ring_idle(table, plan, speed_beside, rests) - expert_reads, 0.0);
    memory_free(layers);
    memory_free(rests);
    /* On average, a token attends to half of the context. */
    double looked_back = plan->positions / 2.0 / (double)MAX(plan->kv_positions, (uint64_t)1);
    double cache_reads = (double)plan->kv_bytes * looked_back / hardware->memory_bytes_per_second;
    compute += cache_reads;
    with_experts += cache_reads;

    double token = MAX(idle + hardware_side_by_side(storage, compute - idle, reads + expert_reads), with_experts);
    plan->predicted_bytes_per_token = ring_bytes + missed + (double)table->table_bytes_per_token;
    if (plan->embedding_rows) {
        token += storage->latency_seconds;
        plan->predicted_bytes_per_token += (double)table->embedding_row_bytes;
    }
    plan->expert_bytes = (uint64_t)experts;
    plan->expert_cycle_bytes = plan->expert_cache_bytes ? (uint64_t)(experts * used) : 0;
    plan->predicted_compute_seconds = compute;
    plan->predicted_tokens_per_second = token > 0 ? 1 / token : 0;
    plan->bound = plan_bound_of(compute, token, hardware);
    return HYPURA_OK;
}
