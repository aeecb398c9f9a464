/* Predicts the speed of a plan with a GPU: layer by layer, the longest of everything that runs at the same time.
 *
 * A layer's attention and router come first, on the layer's side. Then the GPU computes its experts, while the CPU
 * computes those in memory, and the drive reads those that are in neither place. The sum waits for all of them. The
 * time for handing the layer over and back, and for waking the CPU's threads, was measured with the device
 * (share_seconds). */
#include "plan/plan_private.h"

#include <math.h>

struct work {
    double gpu_dense, cpu_dense; /* seconds for tensors */
    double gpu_expert;           /* seconds per expert on the GPU */
    double cpu_expert;           /* seconds per expert on the CPU */
    double expert_bytes;         /* per expert */
    double own;                  /* the share of expert uses that no other host computes */
    double share;                /* the GPU's share of these */
    double ring_bytes;           /* of tensors that stream */
    uint32_t slices;
};

static double gpu_seconds(const struct unit *unit, const struct hardware_gpu *device)
{
    double seconds = 0;
    for (uint32_t i = 0; i < unit->slice_count; i++)
        seconds += (double)unit->slices[i].bytes / hardware_gpu_kernel_speed(device, unit->slices[i].tensor->type);
    return seconds;
}

/* Finds who computes how much of a layer's experts, by their uses if these are known, else as if all were used alike.
 * false: no use is known. */
static bool weigh_experts(struct work *work, const struct plan_gpu *gpu, uint32_t experts, unit_number first,
                          const struct plan_request *request, bool by_uses)
{
    double there = 0, own = 0, all = 0;
    for (unit_number u = first; u < first + experts; u++) {
        const double uses = !by_uses ? 1 : request->uses ? (double)request->uses[u] : 0;
        all += uses;
        own += request->elsewhere && request->elsewhere[u] ? 0 : uses;
        there += gpu->units[u] ? uses : 0;
    }
    work->own = all > 0 ? own / all : 0;
    work->share = own > 0 ? there / own : 0;
    return all > 0;
}

/* Sums up the work per layer. works[0] is for everything outside the layers. */
static void add_up(struct work *works, const struct plan *plan, const struct plan_table *table,
                   const struct model *model, const struct steps *steps, const struct plan_request *request)
{
    const struct plan_gpu *gpu = request->gpu;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *row = &table->units[i];
        const struct unit *unit = model_unit(model, i);
        if (row->layer >= (int32_t)gpu->layer_count) /* in a prediction block */
            continue;
        struct work *work = &works[row->layer + 1];
        if (row->expert >= 0) {
            if (work->expert_bytes == 0) {
                work->gpu_expert = gpu_seconds(unit, &request->devices[gpu->devices[row->layer]]);
                work->cpu_expert = row->compute_seconds;
                work->expert_bytes = (double)row->footprint;
                work->slices = row->slices;
            }
            continue;
        }
        if (gpu->units[i])
            work->gpu_dense += row->layer < 0 && unit->role == ROLE_TOKEN_EMBEDDING && !table->tied_output
                                   ? 0
                                   : gpu_seconds(unit, &request->devices[gpu->units[i] - 1]);
        else if (row->priority < PRIORITY_EXPERT)
            work->cpu_dense += row->compute_seconds;
        work->ring_bytes += (double)plan_streamed_footprint(row, plan->streams);
    }
    for (uint32_t l = 0; l < gpu->layer_count; l++) {
        unit_number first = plan_first_expert(steps, l);
        if (first != NO_UNIT && !weigh_experts(&works[l + 1], gpu, table->experts, first, request, true)) {
            weigh_experts(&works[l + 1], gpu, table->experts, first, request, false);
            if (gpu->used_there && !request->elsewhere)
                works[l + 1].share = (double)gpu->used_there[l];
        }
    }
}

struct sides {
    double gpu, cpu, disk;
};

/* The means for a layer's experts, on both sides and the drive. */
static struct sides experts(const struct work *work, const struct plan *plan, const struct plan_table *table,
                            const struct hardware *hardware, bool in_place)
{
    double used = table->experts_used * work->own, here = used * (1 - work->share),
           missed = here * (1 - plan->predicted_hit_rate);
    struct sides sides = {.gpu = used * work->share * work->gpu_expert, .cpu = here * work->cpu_expert};
    if (in_place)
        sides = (struct sides){.gpu = used * work->gpu_expert};
    if (missed > 0)
        sides.disk = plan_expert_seconds(&hardware->storage, work->expert_bytes, work->slices, missed) +
                     MIN(missed, 1.0) * (in_place ? work->gpu_expert : work->cpu_expert);
    return sides;
}

struct experts_time {
    const struct work *work;
    const struct sides *sides;
    const struct storage *storage;
    double last; /* the last missing expert is computed after its read */
};

static double seconds_with(const void *context, uint32_t misses)
{
    const struct experts_time *time = context;
    const struct work *work = time->work;
    const double read =
        misses ? plan_expert_seconds(time->storage, work->expert_bytes, work->slices, misses) + time->last : 0;
    return MAX(time->sides->gpu, hardware_side_by_side(time->storage, time->sides->cpu, read));
}

/* The mean time for these, which run at once. */
static double experts_seconds(const struct work *work, const struct sides *sides, const struct plan *plan,
                              const struct plan_table *table, const struct storage *storage, bool in_place)
{
    const double here = table->experts_used * work->own * (1 - work->share);
    const uint32_t most = (uint32_t)MAX(lround(here), 1L);
    const double miss = MIN(here * (1 - plan->predicted_hit_rate) / most, 1.0);
    const struct experts_time time = {work, sides, storage, in_place ? work->gpu_expert : work->cpu_expert};
    return plan_mean_over_misses(most, miss, seconds_with, &time);
}

/* The steps of the layers that the profile measures (src/hw/gpu_layer.c). */
#define MEASURED_STEPS 6.0
#define MEASURED_STEPS_OF_MIXTURE 7.0

/* The steps of a layer on a device, where each costs about the same time in addition to reading weights. */
static hypura_status count_steps(double *out, struct step_list layer, hypura_error *error)
{
    struct step *fused;
    size_t count;
    hypura_status status = steps_fuse(layer, true, &fused, &count, error);
    if (status)
        return status;
    *out = (double)count;
    for (size_t i = 0; i < count; i++)
        *out += fused[i].kind == STEP_DELTA_NET ? 1 : 0; /* the convolution, then the recurrence */
    memory_free(fused);
    return HYPURA_OK;
}

/* The time per layer on the device in addition to its weights. It depends on the type of the attention's output matrix,
 * which nearly every layer has, and on the number of launches. */
static hypura_status layer_seconds(double *out, const struct model *model, const struct steps *steps, uint32_t number,
                                   const struct hardware_gpu *device, hypura_error *error)
{
    enum tensor_type type = TENSOR_F16;
    struct step_list list = steps_of_layer(steps, number);
    bool mixture = plan_first_expert(steps, number) != NO_UNIT;
    double count;
    for (size_t i = 0; i < list.count; i++) {
        struct step_unit units[STEP_UNITS];
        size_t unit_count = step_units(&list.steps[i], units);
        for (size_t u = 0; u < unit_count; u++)
            if (units[u].role == ROLE_ATTENTION_OUTPUT)
                type = model_unit(model, units[u].unit)->slices[0].tensor->type;
    }
    hypura_status status = count_steps(&count, list, error);
    if (!status)
        *out = hardware_gpu_layer_seconds(device, type, mixture) * count /
               (mixture ? MEASURED_STEPS_OF_MIXTURE : MEASURED_STEPS);
    return status;
}

hypura_status plan_gpu_predict(struct plan *plan, const struct plan_table *table, const struct model *model,
                               const struct steps *steps, const struct hardware *hardware,
                               const struct plan_request *request, hypura_error *error)
{
    const struct plan_gpu *gpu = request->gpu;
    struct work *works = NULL;
    double *rests;
    hypura_status status = ALLOCATE(&works, (size_t)gpu->layer_count + 1, "costs of layers", error);
    if (!status)
        status = ALLOCATE(&rests, (size_t)gpu->layer_count + 1, "costs of layers", error);
    if (status) {
        memory_free(works);
        return status;
    }
    add_up(works, plan, table, model, steps, request);
    double kv_there = 0;
    for (uint32_t d = 0; d < gpu->part_count; d++)
        kv_there += (double)gpu->parts[d].kv_bytes / request->devices[d].memory_bytes_per_second;
    kv_there *= plan->positions / 2.0 / (double)MAX(gpu->kv_positions, (uint64_t)1);
    double kv_here = (double)plan->kv_bytes * plan->positions / 2.0 / (double)MAX(plan->kv_positions, (uint64_t)1);
    double seconds = kv_there + kv_here / hardware->memory_bytes_per_second + works[0].gpu_dense + works[0].cpu_dense -
                     gpu->output_saves;
    struct sides sum = {.gpu = works[0].gpu_dense, .cpu = works[0].cpu_dense};
    double ring = works[0].ring_bytes, missed = 0;
    bool there = false;
    const struct hardware_gpu *device = request->devices, *last = device;
    for (uint32_t l = 0; l < gpu->layer_count; l++) {
        const struct work *work = &works[l + 1];
        bool now = gpu->layers[l], divided = now && work->expert_bytes > 0 && work->share < 1;
        const bool in_place = gpu->in_place && gpu->layers[l] == GPU_CAN;
        struct sides parts = {0};
        double launches = 0, of_experts = 0, before = seconds;
        if (now)
            device = &request->devices[gpu->devices[l]];
        if (work->expert_bytes > 0) {
            parts = experts(work, plan, table, hardware, in_place);
            of_experts = experts_seconds(work, &parts, plan, table, &hardware->storage, in_place);
        }
        if (now && !status)
            status = layer_seconds(&launches, model, steps, l, device, error);
        double fixed = work->gpu_dense + work->cpu_dense + (now ? launches : LAYER_SECONDS);
        seconds += fixed + of_experts;
        bool shared = divided && !in_place;
        if (shared)
            seconds += device->share_seconds;
        else if (divided || now != there)
            seconds += device->turn_seconds;
        if (now && there && device != last)
            seconds += device->move_seconds;
        last = device;
        there = now;
        rests[l + 1] = seconds - before - work->cpu_dense;
        sum.gpu += parts.gpu + work->gpu_dense + launches;
        sum.cpu += parts.cpu + work->cpu_dense + (now ? 0 : LAYER_SECONDS);
        sum.disk += parts.disk;
        ring += work->ring_bytes;
        missed +=
            table->experts_used * work->own * (1 - work->share) * (1 - plan->predicted_hit_rate) * work->expert_bytes;
    }
    seconds += device->turn_seconds; /* for the logits */
    rests[0] = works[0].gpu_dense + device->turn_seconds;
    /* While the ring is full, the drive reads experts. */
    double speed_beside = plan_ring_speed_beside(table, plan, &hardware->storage);
    double idle = MAX(plan_ring_idle(table, plan, speed_beside, rests) - sum.disk, 0.0);
    memory_free(works);
    memory_free(rests);
    if (status)
        return status;
    double reads = ring / plan_ring_speed(table, plan, &hardware->storage);
    sum.disk += reads;
    seconds = MAX(seconds, idle + reads);
    plan->predicted_tokens_per_second = seconds > 0 ? 1 / seconds : 0;
    plan->predicted_compute_seconds = MAX(sum.gpu, sum.cpu);
    plan->predicted_bytes_per_token = ring + missed + (double)table->table_bytes_per_token +
                                      (plan->embedding_rows ? (double)table->embedding_row_bytes : 0);
    plan->bound = sum.disk > MAX(sum.gpu, sum.cpu) ? BOUND_DISK
                  : sum.gpu > sum.cpu              ? BOUND_GPU
                                                   : plan_bound_of(sum.cpu, sum.cpu, hardware);
    return HYPURA_OK;
}
