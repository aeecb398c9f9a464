#include "api/figures.h"

#include <math.h>

/* Kernels that reach this share of the memory bandwidth are bound by it. */
#define BY_MEMORY 0.8

/* A token reads only a few rows of it, which do not count. */
static bool is_read_by_rows(const struct model *model, const struct unit *unit)
{
    return unit->role == ROLE_TABLE || (unit->role == ROLE_TOKEN_EMBEDDING && !model_tied_output(model));
}

double bytes_per_token(const struct model *model)
{
    const struct model_parameters *p = model_parameters(model);
    double bytes = 0;
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        if (unit->kind == UNIT_EXPERT)
            bytes += (double)unit->bytes * p->experts_used / p->experts;
        else if (!is_read_by_rows(model, unit))
            bytes += (double)unit->bytes;
    }
    return bytes;
}

/* The device that holds a unit; NULL: the CPU computes it. */
static const struct hardware_gpu *device_of(const struct engine *engine, unit_number number)
{
    const struct plan_gpu *gpu = engine_plan(engine)->gpu;
    const int32_t layer = model_unit(engine_model(engine), number)->layer;
    if (!gpu || !gpu->units[number])
        return NULL;
    return engine_device_at(engine, layer >= 0 && (uint32_t)layer < gpu->layer_count ? gpu->devices[layer]
                                                                                     : gpu->part_count - 1);
}

/* The time that kernels need for the weights where they are, in memory or on a device, at the measured speeds. The CPU
 * and the device compute weights that all tokens use one after the other, and a layer's experts at the same time. */
static double compute_seconds(const struct engine *engine, uint64_t passes)
{
    const struct model *model = engine_model(engine);
    const struct model_parameters *p = model_parameters(model);
    double seconds = 0, experts_here = 0, experts_there = 0;
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        const struct hardware_gpu *device = device_of(engine, u);
        double uses = unit->kind == UNIT_EXPERT      ? (double)p->experts_used / p->experts
                      : is_read_by_rows(model, unit) ? 0
                                                     : 1;
        double taken = 0;
        for (uint32_t i = 0; i < unit->slice_count; i++)
            taken += uses * (double)unit->slices[i].bytes /
                     (device ? device->memory_bytes_per_second
                             : hardware_kernel_speed(engine_hardware(engine), unit->slices[i].tensor->type));
        *(unit->kind != UNIT_EXPERT ? &seconds : device ? &experts_there : &experts_here) += taken;
    }
    return (seconds + fmax(experts_here, experts_there)) * (double)passes;
}

/* Whether the CPU, and each GPU in use, was measured. */
static bool is_measured(const struct engine *engine)
{
    const struct plan_gpu *gpu = engine_plan(engine)->gpu;
    for (uint32_t d = 0; gpu && d < gpu->part_count; d++)
        if (!engine_device_at(engine, d) || !engine_device_at(engine, d)->measured)
            return false;
    return engine_hardware(engine)->measured;
}

/* The time that the drive needs for the bytes of decoding; if parts of the model are on several drives, which read at
 * the same time, that of the busiest one. */
static double disk_seconds(const struct hardware *hardware, const struct engine_statistics *s)
{
    double bytes = (double)s->decode_bytes_read, most = 0;
    const struct drives *drives = hardware->drives;
    if (!drives || drives->count < 2 || drives->copy_count > 1 || !s->store.bytes_read)
        return bytes / hardware->storage.bytes_per_second;
    for (uint32_t i = 0; i < MIN(s->store.drive_count, drives->count); i++)
        most = fmax(most, bytes * (double)s->store.drives[i].bytes_read / (double)s->store.bytes_read /
                              drives->storages[i].bytes_per_second);
    return most;
}

struct limit find_limit(const struct engine *engine, const struct engine_statistics *s)
{
    const struct hardware *hardware = engine_hardware(engine);
    if (!is_measured(engine) || s->decode_seconds <= 0)
        return (struct limit){.share = -1, .side_share = -1, .bound = engine_plan(engine)->bound};
    double disk = disk_seconds(hardware, s);
    double compute = compute_seconds(engine, s->decode_passes);
    double share = MAX(disk, compute) / s->decode_seconds;
    double side_share = hardware_side_by_side(&hardware->storage, compute, disk) / s->decode_seconds;
    bool by_memory = hardware->compute_bytes_per_second > BY_MEMORY * hardware->memory_bytes_per_second;
    return (struct limit){.share = fmin(share, 1),
                          .side_share = fmin(side_share, 1),
                          .over_profile = share,
                          .bound = disk > compute             ? BOUND_DISK
                                   : engine_plan(engine)->gpu ? BOUND_GPU
                                   : by_memory                ? BOUND_MEMORY
                                                              : BOUND_COMPUTE};
}
