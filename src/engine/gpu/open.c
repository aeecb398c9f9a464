/* Which device computes, and what goes there. */
#include "engine/gpu/pass.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the memory that is free on a GPU, this part is left alone: the driver's own, and other programs'. */
#define GPU_HEADROOM_SHARE 16u

/* Where memory is shared with the host, what the GPU holds is a part of the budget for memory. */
static uint64_t gpu_budget(struct gpu *gpu, const struct hardware *hardware, const struct engine_options *options)
{
    uint64_t memory = options->budget ? options->budget : hardware_default_budget(hardware), free = gpu_free_bytes(gpu);
    uint64_t room = free - free / GPU_HEADROOM_SHARE;
    if (gpu_get_info(gpu)->unified)
        room = MIN(room, memory / 4 * 3);
    /* A driver may have put others' memory elsewhere by then, so more than what is free can be asked of a card. */
    else if (options->gpu_budget)
        room = gpu_get_info(gpu)->memory_bytes;
    return options->gpu_budget ? MIN(room, options->gpu_budget) : room;
}

/* What goes to the GPU, before the rest is planned. *out stays NULL when nothing does. */
hypura_status gpu_pass_plan(struct plan_gpu **out, struct geometry *geometry, struct gpu *gpu,
                            const struct hardware_gpu *device, const struct hardware *hardware,
                            const struct engine_options *options, hypura_error *error)
{
    uint8_t *abilities;
    uint64_t memory = options->budget ? options->budget : hardware_default_budget(hardware);
    uint32_t longest = geometry->windows ? WINDOW_SLACK : 0;
    struct asked asked;
    engine_ask(&asked, geometry, options);
    struct plan_gpu_request request = {.budget = gpu_budget(gpu, hardware, options),
                                       .positions = asked.positions,
                                       .sequences = geometry->sequences,
                                       .chunk = asked.chunk,
                                       .longest_chunk = longest,
                                       .whole_chunk = !steps_find(steps_after(geometry->steps), STEP_OUTPUT),
                                       .moves = !options->gpu_fixed,
                                       .hardware = hardware,
                                       .device = device};
    request.memory = gpu_get_info(gpu)->unified ? memory - MIN(memory, request.budget) : memory;
    geometry->halves = gpu_get_info(gpu)->cooperative_matrix;
    geometry->largest_buffer = gpu_get_info(gpu)->max_allocation;
    request.in_place = pass_can_read_in_place(gpu, geometry->model);
    TRY(ALLOCATE(&abilities, model_parameters(geometry->model)->layers, "table of layers", error));
    gpu_pass_request(&request, abilities, geometry, gpu, asked.kv_type);
    geometry->foreign = true;
    for (uint32_t i = 0; i < model_parameters(geometry->model)->layers; i++)
        geometry->foreign = geometry->foreign && abilities[i] == GPU_CANNOT;
    uint64_t *uses = NULL;
    char path[4096];
    if (options->remember_usage && store_usage_path(geometry->model, path, sizeof path))
        uses = store_usage_read(geometry->model, path, NULL);
    request.uses = uses;
    hypura_status status = plan_gpu_make(out, geometry->model, geometry->steps, &request, error);
    if (!status && *out && (*out)->chunk < asked.chunk)
        log_write(LOG_WARNING, "batches have %u tokens instead of %u: the GPU's driver gives no larger buffers",
                  (*out)->chunk, asked.chunk);
    memory_free(uses);
    memory_free(abilities);
    return status;
}

/* No device is no error: everything is then computed here, and whoever asked for one hears why. */
hypura_status gpu_pass_open_device(struct gpu **out, struct hardware_gpu *device, const struct hardware *hardware,
                                   const struct engine_options *options, hypura_error *error)
{
    char why[512], cache[4096];
    bool found = false;
    *out = NULL;
    TRY(hardware_choose_gpu(options->gpu, device, &found, why, sizeof why, error));
    if (!found) {
        if (options->gpu && strcmp(options->gpu, "none") != 0)
            log_write(LOG_WARNING, "computing on the CPU: %s", why);
        return HYPURA_OK;
    }
    hardware_gpu_speeds(hardware, device);
    struct gpu_options how = {.index = device->index, .separate = getenv("HYPURA_GPU_SEPARATE") != NULL};
    if (hardware_gpu_cache_path(device, cache, sizeof cache))
        how.pipeline_cache = cache;
    hypura_error problem;
    device->info.unified = device->info.unified && !how.separate;
    if (gpu_open(out, &how, &problem))
        log_write(LOG_WARNING, "computing on the CPU: %s", problem.message);
    return HYPURA_OK;
}

void gpu_pass_close_device(struct gpu *gpu)
{
    gpu_close(gpu);
}
