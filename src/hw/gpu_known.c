/* The speeds of a GPU: as measured on one with the same name and driver, else careful defaults. */
#include "hw/gpu_layer.h"
#include "hw/hw_private.h"

#include <stdio.h>
#include <string.h>

struct hardware_gpu *hw_find_measured_gpu(const struct hardware *hardware, const struct gpu_info *info)
{
    for (size_t i = 0; i < hardware->gpu_count; i++) {
        const struct hardware_gpu *gpu = &hardware->gpus[i];
        if (strcmp(gpu->info.name, info->name) == 0 && gpu->info.driver_version == info->driver_version)
            return (struct hardware_gpu *)gpu;
    }
    return NULL;
}

void hardware_gpu_speeds(const struct hardware *hardware, struct hardware_gpu *gpu)
{
    const struct hardware_gpu *known = hw_find_measured_gpu(hardware, &gpu->info);
    if (known) {
        uint32_t index = gpu->index;
        struct gpu_info info = gpu->info;
        *gpu = *known;
        gpu->index = index;
        gpu->info = info;
        return;
    }
    /* A small card of some years ago; with unified memory, the speed of the host's memory. */
    gpu->memory_bytes_per_second = gpu->info.unified ? hardware->memory_bytes_per_second : 200e9;
    gpu->upload_bytes_per_second = gpu->info.unified ? hardware->memory_bytes_per_second / 2 : 6e9;
    gpu->turn_seconds = gpu->move_seconds = 50e-6;
    gpu->layer_seconds = gpu->float_layer_seconds = GPU_LAYER_SECONDS;
    gpu->router_seconds = GPU_ROUTER_SECONDS;
    gpu->share_seconds = 250e-6;
    gpu->multiply_adds_per_second = 2e12;
}

double hardware_gpu_kernel_speed(const struct hardware_gpu *gpu, enum tensor_type type)
{
    for (size_t i = 0; i < gpu->kernel_count; i++)
        if (gpu->kernels[i].type == type)
            return gpu->kernels[i].bytes_per_second;
    return 0.6 * gpu->memory_bytes_per_second;
}

double hardware_gpu_layer_seconds(const struct hardware_gpu *gpu, enum tensor_type type, bool experts)
{
    double seconds = gpu_multiplies_bytes(type) ? gpu->layer_seconds : gpu->float_layer_seconds;
    return seconds + (experts ? gpu->router_seconds : 0);
}

bool hardware_gpu_cache_path(const struct hardware_gpu *gpu, char *path, size_t room)
{
    char folder[3000];
    if (!hw_cache_folder(folder, sizeof folder))
        return false;
    uint64_t hash = fnv1a(FNV1A_START, gpu->info.name, strlen(gpu->info.name)) ^ gpu->info.driver_version;
    return snprintf(path, room, "%s/gpu-%016llx.cache", folder, (unsigned long long)hash) < (int)room;
}
