/* Opens devices, and plans what goes to them. */
#include "engine/gpu/pass.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The part of a GPU's free memory that is left to the driver and to other programs. */
#define GPU_HEADROOM_SHARE 16u

/* Panels of experts may take this part of a GPU's budget. */
#define PANELS_SHARE 16u

/* The memory that a device may use. If it shares the host's memory, that is an even part of the budget for memory. The
 * ranks on a host share what is free. */
static uint64_t gpu_budget(const struct devices *devices, uint32_t number, const struct hardware *hardware,
                           const struct engine_options *options)
{
    struct gpu *gpu = devices->gpus[number];
    uint64_t memory = options->budget ? options->budget : hardware_default_budget(hardware), free = gpu_free_bytes(gpu);
    uint64_t room = free - free / GPU_HEADROOM_SHARE, asked = options->gpu_budgets[devices->order[number]];
    const uint32_t ranks = MAX(hardware->sharers, 1u);
    uint32_t sharing = 0, same = 0;
    for (uint32_t d = 0; d < devices->count; d++) {
        sharing += gpu_get_info(devices->gpus[d])->unified;
        same += devices->infos[d].index == devices->infos[number].index; /* it may be listed twice */
    }
    asked = asked ? asked : options->gpu_budget;
    if (gpu_get_info(gpu)->unified)
        room = MIN(room / same / ranks, memory / 4 * 3 / sharing);
    /* The driver can move other programs' memory elsewhere, so a request may exceed what is free now. */
    else if (asked)
        room = gpu_get_info(gpu)->memory_bytes / same;
    else
        room /= same * ranks;
    return asked ? MIN(room, asked) : room;
}

void gpu_pass_keep_budgets(struct engine_options *options, const struct devices *devices,
                           const struct hardware *hardware)
{
    for (uint32_t d = 0; d < devices->count; d++)
        options->gpu_budgets[devices->order[d]] = MAX(gpu_budget(devices, d, hardware, options), (uint64_t)1);
}

/* The number of groups of layers that the environment requests, for tests and measurements; 0: no request. */
static uint32_t asked_groups(void)
{
    const char *asked = getenv("HYPURA_GPU_GROUPS");
    return asked ? (uint32_t)MIN(strtoul(asked, NULL, 10), (unsigned long)PLAN_MOST_GROUPS) : 0;
}

/* The same for the output matrix: 1: devices divide it, 0: they do not. */
static enum plan_division asked_division(const struct geometry *geometry)
{
    const char *asked = getenv("HYPURA_GPU_OUTPUT");
    if (geometry->adapters && adapters_find(geometry->adapters, -1, ROLE_OUTPUT))
        return DIVIDE_NEVER; /* only the last device has what they add */
    return !asked ? DIVIDE_IF_QUICKER : strcmp(asked, "0") == 0 ? DIVIDE_NEVER : DIVIDE_ALWAYS;
}

hypura_status gpu_pass_plan(struct plan_gpu **out, struct geometry *geometry, const struct devices *devices,
                            const struct hardware *hardware, const struct engine_options *options, uint32_t longest,
                            hypura_error *error)
{
    uint8_t *abilities;
    uint64_t memory = options->budget ? options->budget : hardware_default_budget(hardware);
    struct asked asked;
    if (geometry->windows)
        longest = longest ? MIN(longest, WINDOW_SLACK) : WINDOW_SLACK;
    engine_ask(&asked, geometry, options);
    struct plan_gpu_request request = {.device_count = devices->count,
                                       .spread = devices->listed,
                                       .positions = asked.positions,
                                       .sequences = geometry->sequences,
                                       .chunk = asked.chunk,
                                       .shares_room = options->shared_context && model_writes_text(geometry->model) &&
                                                      geometry->plain_rows &&
                                                      kv_cache_can_share(geometry, asked.kv_type),
                                       .longest_chunk = longest,
                                       .whole_chunk = !steps_find(steps_after(geometry->steps), STEP_OUTPUT),
                                       .moves = !options->gpu_fixed,
                                       .groups = asked_groups(),
                                       .output_division = asked_division(geometry),
                                       .hardware = hardware,
                                       .devices = devices->infos,
                                       .memory = memory - MIN(memory, engine_held_bytes(options, memory))};
    if (geometry->experts_only) { /* as in the plan for memory */
        request.positions = EXPERT_POSITIONS;
        request.chunk = 0;
        request.shares_room = request.whole_chunk = false;
    }
    for (uint32_t d = 0; d < devices->count; d++) {
        const struct gpu_info *info = gpu_get_info(devices->gpus[d]);
        request.budgets[d] = gpu_budget(devices, d, hardware, options);
        if (info->unified)
            request.memory -= MIN(request.memory, request.budgets[d]);
        geometry->halves |= info->cooperative_matrix;
        geometry->panels |= info->panels;
        geometry->panels_room = MIN(d ? geometry->panels_room : UINT64_MAX, request.budgets[d] / PANELS_SHARE);
        geometry->visible = info->visible && (d == 0 || geometry->visible);
        geometry->largest_buffer = d ? MIN(geometry->largest_buffer, info->max_allocation) : info->max_allocation;
    }
    request.elsewhere = options->elsewhere;
    request.in_place =
        devices->count == 1 && !options->elsewhere && pass_can_read_in_place(devices->gpus[0], geometry->model);
    TRY(ALLOCATE(&abilities, model_parameters(geometry->model)->layers, "table of layers", error));
    gpu_pass_request(&request, abilities, geometry, devices, asked.kv_type);
    geometry->foreign = true;
    for (uint32_t i = 0; i < model_parameters(geometry->model)->layers; i++)
        geometry->foreign = geometry->foreign && abilities[i] == GPU_CANNOT;
    uint64_t *uses = NULL;
    char path[4096];
    if (!options->uses && options->remember_usage && store_usage_path(geometry->model, path, sizeof path))
        uses = store_usage_read(geometry->model, path, NULL);
    request.uses = options->uses ? options->uses : uses;
    hypura_status status = plan_gpu_make(out, geometry->model, geometry->steps, &request, error);
    if (!status && *out && (*out)->chunk < request.chunk)
        log_write(LOG_WARNING, "batches have %u tokens instead of %u: the GPU's driver allows no larger buffers",
                  (*out)->chunk, request.chunk);
    memory_free(uses);
    memory_free(abilities);
    return status;
}

static hypura_status open_device(struct devices *out, struct hardware_gpu *device, uint32_t order,
                                 const struct hardware *hardware, hypura_error *error)
{
    char cache[4096];
    const uint32_t number = out->count;
    hardware_gpu_speeds(hardware, device);
    struct gpu_options how = {.index = device->index, .separate = getenv("HYPURA_GPU_SEPARATE") != NULL};
    if (hardware_gpu_cache_path(device, cache, sizeof cache))
        how.pipeline_cache = cache;
    hypura_status status = gpu_open(&out->gpus[number], &how, error);
    if (status)
        return status;
    out->infos[number] = *device;
    /* What is known only once a device is open. */
    out->infos[number].info.unified = gpu_get_info(out->gpus[number])->unified;
    out->infos[number].info.panels = gpu_get_info(out->gpus[number])->panels;
    out->order[number] = order;
    out->count++;
    return HYPURA_OK;
}

/* Describes the devices of another machine. Whether they could read host memory in place is unknown, so assume that
 * they cannot. */
static hypura_status imagine_devices(struct devices *out, const struct hardware *hardware, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; !status && i < hardware->gpu_count; i++) {
        struct gpu_info info = hardware->gpus[i].info;
        info.host_import = false;
        out->infos[out->count] = hardware->gpus[i];
        out->order[out->count] = out->count;
        status = gpu_imagine(&out->gpus[out->count], &info, error);
        out->count += !status;
    }
    return status;
}

/* The most host memory that opening devices took in this process. Drivers keep it when they are closed, so that a later
 * opening takes little more. */
static _Atomic uint64_t most_taken;

/* Sets what the drivers will still take. How much a software device takes as it computes is unknown. */
static void expect_more(struct devices *devices, uint64_t before)
{
    uint64_t now = memory_resident_bytes(), taken = now - MIN(before, now), most = atomic_load(&most_taken),
             expected = 0;
    while (taken > most && !atomic_compare_exchange_weak(&most_taken, &most, taken))
        ;
    for (uint32_t d = 0; d < devices->count; d++)
        expected += devices->infos[d].info.kind == GPU_CPU ? 0 : devices->infos[d].host_bytes;
    taken = MAX(taken, most);
    devices->still_to_take = expected - MIN(expected, taken);
}

hypura_status gpu_pass_open_devices(struct devices *out, const struct hardware *hardware,
                                    const struct engine_options *options, hypura_error *error)
{
    const uint64_t before = memory_resident_bytes();
    struct hardware_choice *choice;
    char why[512];
    bool said = false;
    *out = (struct devices){0};
    if (hardware->elsewhere)
        return options->gpu && strcmp(options->gpu, "none") == 0 ? HYPURA_OK : imagine_devices(out, hardware, error);
    TRY(ALLOCATE(&choice, 1, "list of GPUs", error));
    hypura_status status = hardware_choose_gpus(options->gpu, choice, why, sizeof why, error);
    for (size_t i = 0; !status && i < choice->count; i++) {
        hypura_error problem;
        if (options->gpus_left_out >> i & 1)
            continue;
        if (open_device(out, &choice->gpus[i], (uint32_t)i, hardware, &problem))
            snprintf(why, sizeof why, "%s", problem.message);
        else
            continue;
        if (choice->count > 1)
            log_write(LOG_WARNING, "computing without %s: %s", choice->gpus[i].info.name, problem.message);
        said = choice->count > 1;
    }
    out->listed = choice->listed;
    expect_more(out, before);
    bool asked = (choice->count && !options->gpus_left_out) || (options->gpu && strcmp(options->gpu, "none") != 0);
    memory_free(choice);
    if (!status && out->count == 0 && asked)
        log_write(LOG_WARNING, "computing on the CPU: %s", why);
    else if (!status && out->count && why[0] && !said)
        log_write(LOG_WARNING, "%s", why);
    return status;
}

void gpu_pass_close_devices(struct devices *devices)
{
    for (uint32_t d = 0; d < devices->count; d++)
        gpu_close(devices->gpus[d]);
    devices->count = 0;
}
