/* How fast a plan should be.
 *
 * Tensors that stream are read ahead in a known order, so reading and computing them overlap for the whole pass: it
 * takes the longer of the two. Experts are known only when their router has spoken: a layer's misses overlap with its
 * hits, and the last one that arrives is computed after it. How many of a layer's experts miss is binomial. Guesses let
 * misses overlap with the layers before as well, as far as they are right and the drive has time. */
#include "plan/plan_private.h"

#include <math.h>
#include <stdlib.h>

/* Matrix-vector kernels that come this near to the memory's speed are bound by it. */
#define MEMORY_BOUND_SHARE 0.8

/* A pass that waits for the disk less than this share of its time is not bound by it. */
#define WAITING_SHARE 0.05

/* ---- hit rate ------------------------------------------------------------------------------------------------------
 */

struct use {
    uint64_t uses, footprint;
};

static int more_used_first(const void *a, const void *b)
{
    const struct use *left = a, *right = b;
    return (left->uses < right->uses) - (left->uses > right->uses);
}

/* The best fixed content: those that were used most. */
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

/* Without statistics: share ^ exponent, where the exponent falls with the number of experts. Published hit rates lie on
 * such curves (512 experts a layer: 49, 59, 68, 71 % with 3, 6, 13, 25 % of them cached: exponent 0.2; the eight of
 * Mixtral are used almost evenly: 0.9). This one is drawn a little lower. */
static double usual_hits(double share, uint32_t experts)
{
    double exponent = 1 - 0.1 * log2(MAX(experts, 4u) / 4.0);
    return pow(share, MAX(exponent, 0.3));
}

/* As an earlier run showed. A cache that is smaller than what one token uses keeps nothing from a token to the next but
 * the part of its experts that it holds. */
static double known_hits(double share, double used, double exponent)
{
    return share < used ? share / used * pow(used, exponent) : pow(share, exponent);
}

hypura_status plan_hit_rate(double *out, const struct plan_table *table, uint64_t cache_bytes,
                            const struct plan_request *request, hypura_error *error)
{
    const uint64_t *uses = request->uses;
    uint64_t all = 0;
    bool known = false;
    for (uint32_t i = 0; i < table->count; i++) {
        if (table->units[i].priority != PRIORITY_EXPERT)
            continue;
        all += table->units[i].footprint;
        known |= uses && uses[i];
    }
    if (cache_bytes >= all) {
        *out = 1;
        return HYPURA_OK;
    }
    double share = (double)cache_bytes / (double)all;
    if (request->hit_exponent > 0)
        *out = known_hits(share, (double)table->experts_used / table->experts, (double)request->hit_exponent);
    else if (known)
        return hits_from_uses(out, table, cache_bytes, uses, error);
    else
        *out = usual_hits(share, table->experts);
    return HYPURA_OK;
}

/* ---- time ----------------------------------------------------------------------------------------------------------
 */

enum plan_bound plan_bound_of(double compute_seconds, double seconds, const struct hardware *hardware)
{
    if (compute_seconds < (1 - WAITING_SHARE) * seconds)
        return BOUND_DISK;
    return hardware->compute_bytes_per_second >= MEMORY_BOUND_SHARE * hardware->memory_bytes_per_second ? BOUND_MEMORY
                                                                                                        : BOUND_COMPUTE;
}

/* What the reader was set up for is what it was seen to give, whatever other samples say of more in flight. */
static double read_speed(const struct storage *storage, uint64_t block, uint32_t depth)
{
    double speed = hardware_read_speed(storage, block, depth);
    bool full = block >= storage->block_bytes && 2 * depth >= storage->depth;
    return full ? fmax(speed, storage->bytes_per_second) : speed;
}

double plan_expert_speed(const struct storage *storage, double expert_bytes, uint32_t slices, uint32_t experts)
{
    double slice = expert_bytes / MAX(slices, 1u), block = MIN(slice, (double)storage->block_bytes);
    double reads = ceil(slice / MAX(block, 1.0)) * MAX(slices, 1u) * experts;
    return read_speed(storage, (uint64_t)block, (uint32_t)MIN(reads, (double)storage->depth));
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

/* Between the longer of the two (every miss was guessed in time) and their sum (none was); what it is between was seen
 * with mixtures of large and of small experts where reading took from a half to three times as long as computing. */
#define OVERLAP_POWER 1.7

static double partly_overlapped(double compute, double reads)
{
    double longer = fmax(compute, reads), shorter = fmin(compute, reads);
    return longer > 0 ? longer * pow(1 + pow(shorter / longer, OVERLAP_POWER), 1 / OVERLAP_POWER) : 0;
}

struct layer_cost {
    double compute;        /* of tensors */
    double expert_compute; /* of all experts together */
    double expert_bytes;
    uint32_t slices; /* of an expert */
};

/* The mean time of a layer's experts, when each of `used` misses with probability miss. */
static double experts_seconds(const struct layer_cost *layer, const struct plan_table *table,
                              const struct storage *storage, double miss)
{
    double one_compute = layer->expert_compute / table->experts, one_bytes = layer->expert_bytes / table->experts;
    uint32_t used = table->experts_used;
    double mean = 0, probability = pow(1 - miss, used);
    if (miss >= 1)
        return used * one_bytes / plan_expert_speed(storage, one_bytes, layer->slices, used) + one_compute;
    for (uint32_t misses = 0; misses <= used; misses++) {
        double compute = (used - misses) * one_compute, seconds = compute;
        if (misses) {
            /* All but the last miss are computed while the next ones arrive. */
            double reads = misses * one_bytes / plan_expert_speed(storage, one_bytes, layer->slices, misses);
            seconds = MAX(compute + (misses - 1) * one_compute, reads) + one_compute;
        }
        mean += probability * seconds;
        probability *= (double)(used - misses) / (misses + 1) * miss / (1 - miss);
    }
    return mean;
}

static void add_up(struct layer_cost *layers, const struct plan_table *table)
{
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        /* What belongs to no layer counts as one of its own, the first. */
        struct layer_cost *layer = &layers[unit->layer + 1];
        if (unit->priority < PRIORITY_EXPERT)
            layer->compute += unit->compute_seconds;
        if (unit->priority != PRIORITY_EXPERT)
            continue;
        layer->expert_compute += unit->compute_seconds;
        layer->expert_bytes += (double)unit->footprint;
        layer->slices = unit->slices;
    }
}

hypura_status plan_predict(struct plan *plan, const struct plan_table *table, const struct hardware *hardware,
                           const struct plan_request *request, hypura_error *error)
{
    struct layer_cost *layers;
    hypura_status status = plan_hit_rate(&plan->predicted_hit_rate, table, plan->expert_cache_bytes, request, error);
    if (plan->expert_cache_bytes == 0)
        plan->predicted_hit_rate = 1;
    if (status == HYPURA_OK)
        status = ALLOCATE(&layers, (size_t)table->layers + 1, "costs of layers", error);
    if (status != HYPURA_OK)
        return status;
    add_up(layers, table);

    const struct storage *storage = &hardware->storage;
    double used = table->experts ? (double)table->experts_used / table->experts : 0;
    double miss = 1 - plan->predicted_hit_rate, ring_bytes = 0;
    double compute = 0, with_experts = 0, experts = 0, missed = 0;
    for (uint32_t i = 0; i < table->count; i++)
        ring_bytes += (double)plan_streamed_footprint(&table->units[i], plan->streams);
    for (uint32_t i = 0; i <= table->layers; i++) {
        double tensors = layers[i].compute + (i ? LAYER_SECONDS : 0);
        compute += tensors + layers[i].expert_compute * used;
        with_experts += tensors;
        if (layers[i].expert_bytes > 0)
            with_experts += experts_seconds(&layers[i], table, storage, miss);
        experts += layers[i].expert_bytes;
        missed += layers[i].expert_bytes * used * miss;
    }
    memory_free(layers);
    /* Half the context is what a token looks back on, on the average. */
    double looked_back = plan->positions / 2.0 / (double)MAX(plan->kv_positions, (uint64_t)1);
    double cache_reads = (double)plan->kv_bytes * looked_back / hardware->memory_bytes_per_second;
    compute += cache_reads;
    with_experts += cache_reads;

    double reads = ring_bytes / plan_ring_speed(table, plan, storage) + missed / storage->bytes_per_second;
    double token =
        missed > 0 ? fmin(MAX(with_experts, reads), partly_overlapped(compute, reads)) : MAX(with_experts, reads);
    plan->predicted_bytes_per_token = ring_bytes + missed;
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
