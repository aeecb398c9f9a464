#include "api/limit.h"

#include <math.h>

/* Kernels that come so near to the memory's speed are bound by it. */
#define BY_MEMORY 0.8

/* A token takes some rows of it, which is next to nothing. */
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

/* With all weights in memory, through kernels as fast as they were measured. */
static double compute_seconds(const struct engine *engine, uint64_t passes)
{
    const struct model *model = engine_model(engine);
    const struct model_parameters *p = model_parameters(model);
    double seconds = 0;
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        double uses = unit->kind == UNIT_EXPERT      ? (double)p->experts_used / p->experts
                      : is_read_by_rows(model, unit) ? 0
                                                     : 1;
        for (uint32_t i = 0; i < unit->slice_count; i++)
            seconds += uses * (double)unit->slices[i].bytes /
                       hardware_kernel_speed(engine_hardware(engine), unit->slices[i].tensor->type);
    }
    return seconds * (double)passes;
}

/* Parts of a model on several drives can be read at once: what the busiest one takes. */
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
    if (!hardware->measured || s->decode_seconds <= 0 || engine_gpu(engine))
        return (struct limit){.share = -1, .side_share = -1, .bound = engine_plan(engine)->bound};
    double disk = disk_seconds(hardware, s);
    double compute = compute_seconds(engine, s->decode_passes);
    double share = MAX(disk, compute) / s->decode_seconds;
    double side_share = hardware_side_by_side(&hardware->storage, compute, disk) / s->decode_seconds;
    bool by_memory = hardware->compute_bytes_per_second > BY_MEMORY * hardware->memory_bytes_per_second;
    return (struct limit){.share = fmin(share, 1),
                          .side_share = fmin(side_share, 1),
                          .over_profile = share,
                          .bound = disk > compute ? BOUND_DISK
                                   : by_memory    ? BOUND_MEMORY
                                                  : BOUND_COMPUTE};
}
