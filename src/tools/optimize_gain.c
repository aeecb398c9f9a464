#include "tools/optimize.h"

#include <math.h>

/* The reads for an expert, cut into blocks like those of the I/O thread. */
struct reads {
    uint64_t blocks, bytes;
};

static void add_range(struct reads *reads, uint64_t offset, uint64_t bytes, const struct storage *storage)
{
    uint64_t start = align_down(offset, STORAGE_ALIGNMENT), end = align_up(offset + bytes, STORAGE_ALIGNMENT);
    uint64_t most = storage->block_bytes ? storage->block_bytes : (uint64_t)1 << 20;
    reads->blocks += (end - start + most - 1) / most;
    reads->bytes += end - start;
}

/* The reads for one expert from the model's own file. */
static struct reads reads_before(const struct unit *unit, uint32_t experts, const struct storage *storage)
{
    struct reads reads = {0};
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        const struct gguf_tensor *tensor = unit->slices[i].tensor;
        uint64_t each = tensor->bytes / experts;
        add_range(&reads, tensor->offset + each * (uint64_t)unit->expert, each, storage);
    }
    return reads;
}

static struct reads reads_after(const struct unit *unit, const struct storage *storage)
{
    struct reads reads = {0};
    add_range(&reads, 0, expert_record_at(unit, unit->slice_count), storage);
    return reads;
}

/* When a router has chosen, its reads wait for a prefetch in progress: half of one, on average. A single range is a
 * longer read than each of three, so prefetching reduces the gain. */
#define HALF_WAY 0.5

/* Adds a layer. The experts that a token uses there are read together, at the drive's queue depth. */
static void add_layer(struct optimize_reads *out, const struct reads *expert, uint32_t used,
                      const struct storage *storage)
{
    uint64_t blocks = expert->blocks * used, bytes = expert->bytes * used;
    uint32_t depth = (uint32_t)MIN(blocks, (uint64_t)(storage->depth ? storage->depth : 8));
    double speed = hardware_read_speed(storage, bytes / MAX(blocks, 1), MAX(depth, 1));
    out->reads += blocks;
    out->bytes += bytes;
    double seconds = speed > 0 ? (double)bytes / speed : 0;
    out->seconds += seconds;
    out->waits += HALF_WAY * seconds / (double)MAX(blocks, (uint64_t)1);
}

bool optimize_gain(struct optimize_gain *out, const struct model *model, const struct storage *storage,
                   double token_seconds, double missing)
{
    const struct model_parameters *p = model_parameters(model);
    *out = (struct optimize_gain){0};
    if (p->experts == 0)
        return false;
    for (uint32_t i = 0; i < p->layers; i++) {
        unit_number first = model_layer(model, i)->first_expert;
        if (first == NO_UNIT)
            continue;
        /* Take an expert in the middle: the first one may begin at a page by chance. */
        const struct unit *unit = model_unit(model, first + p->experts / 2);
        struct reads before = reads_before(unit, p->experts, storage), after = reads_after(unit, storage);
        add_layer(&out->before, &before, p->experts_used, storage);
        add_layer(&out->after, &after, p->experts_used, storage);
    }
    if (out->before.bytes == 0 || out->before.seconds <= 0)
        return false;
    /* Only layers with a miss wait. */
    const double waiting = 1 - pow(1 - missing, p->experts_used);
    double before = missing * out->before.seconds + waiting * out->before.waits;
    double after = missing * out->after.seconds + waiting * out->after.waits;
    token_seconds = fmax(token_seconds, before);
    out->faster = token_seconds / (token_seconds - before + after) - 1;
    return true;
}

bool optimize_gain_of_plan(struct optimize_gain *out, const struct model *model, const struct hardware *hardware,
                           const struct plan *plan)
{
    double seconds = plan->predicted_tokens_per_second > 0 ? 1 / plan->predicted_tokens_per_second : 0;
    return plan->mode != PLAN_FULL_RESIDENT && hardware->measured && plan->predicted_hit_rate < 1 && seconds > 0 &&
           !model_expert_file(model) &&
           optimize_gain(out, model, &hardware->storage, seconds, 1 - plan->predicted_hit_rate);
}
