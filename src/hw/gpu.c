/* Which GPU computes, of those that are there. */
#include "hw/hw_private.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Opening the loader costs time and memory (a software device alone some 100 MiB of libraries), so it is not opened
 * where the system shows no device that it could be for. */
static bool may_have_gpu(void)
{
#ifdef __linux__
    static const char *const nodes[] = {"/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/kgsl-3d0", "/dev/mali0"};
    for (size_t i = 0; i < COUNT_OF(nodes); i++)
        if (access(nodes[i], F_OK) == 0)
            return true;
    glob_t found = {0};
    bool any = glob("/dev/dri/renderD*", GLOB_NOSORT, NULL, &found) == 0 && found.gl_pathc > 0;
    globfree(&found);
    return any;
#else
    return true;
#endif
}

static bool better(const struct gpu_info *a, const struct gpu_info *b)
{
    if (a->kind != b->kind)
        return a->kind < b->kind; /* discrete, integrated, virtual */
    return a->memory_bytes > b->memory_bytes;
}

bool hw_choose_gpu(const struct gpu_info *gpus, size_t count, struct hardware_gpu *out, char *why, size_t room)
{
    size_t best = count;
    why[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        if (gpus[i].lacks[0])
            snprintf(why, room, "%s lacks %s", gpus[i].name, gpus[i].lacks);
        else if (gpus[i].kind != GPU_CPU && (best == count || better(&gpus[i], &gpus[best])))
            best = i;
    }
    if (best == count && !why[0])
        snprintf(why, room, "the only device is a program on the CPU (%s); --gpu 0 takes it all the same",
                 gpus[0].name);
    if (best < count)
        *out = (struct hardware_gpu){.index = (uint32_t)best, .info = gpus[best]};
    return best < count;
}

static hypura_status choose_number(const struct gpu_info *gpus, size_t count, uint32_t number, const char *why_none,
                                   struct hardware_gpu *out, bool *found, char *why, size_t room)
{
    if (count == 0)
        snprintf(why, room, "%s", why_none);
    else if (number >= count)
        snprintf(why, room, "there is no GPU %u: \"hypura profile\" lists those that are there", number);
    else if (gpus[number].lacks[0])
        snprintf(why, room, "%s lacks %s", gpus[number].name, gpus[number].lacks);
    else
        *found = true;
    if (*found)
        *out = (struct hardware_gpu){.index = number, .info = gpus[number]};
    return HYPURA_OK;
}

hypura_status hardware_choose_gpu(const char *choice, struct hardware_gpu *out, bool *found, char *why, size_t room,
                                  hypura_error *error)
{
    const char *environment = getenv("HYPURA_GPU");
    if (!choice)
        choice = environment && *environment ? environment : "auto";
    *found = false;
    why[0] = '\0';
    char *end;
    unsigned long number = strtoul(choice, &end, 10);
    bool is_auto = strcmp(choice, "auto") == 0, is_number = *choice >= '0' && *choice <= '9' && !*end && number < 1024;
    if (strcmp(choice, "none") == 0) {
        snprintf(why, room, "no GPU is wanted");
        return HYPURA_OK;
    }
    if (!is_auto && !is_number)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "GPU \"%s\": expected auto, none or a device's number", choice);
    if (is_auto && !may_have_gpu()) {
        snprintf(why, room, "the system shows no GPU");
        return HYPURA_OK;
    }
    struct gpu_info *gpus;
    size_t count = 0;
    char none[512] = "";
    hypura_error problem = {0};
    hypura_status status = ALLOCATE(&gpus, HARDWARE_MAX_GPUS, "list of GPUs", error);
    if (status)
        return status;
    /* A driver that fails is as good as none. */
    if (gpu_list(gpus, HARDWARE_MAX_GPUS, &count, none, &problem)) {
        snprintf(none, sizeof none, "%s", problem.message);
        count = 0;
    }
    count = MIN(count, (size_t)HARDWARE_MAX_GPUS);
    if (is_number)
        status = choose_number(gpus, count, (uint32_t)number, none, out, found, why, room);
    else if (count == 0)
        snprintf(why, room, "%s", none);
    else
        *found = hw_choose_gpu(gpus, count, out, why, room);
    memory_free(gpus);
    return status;
}

/* ---- speeds ------------------------------------------------------------------------------------------------------ */

static struct hardware_gpu *find_measured(const struct hardware *hardware, const struct gpu_info *info)
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
    const struct hardware_gpu *known = find_measured(hardware, &gpu->info);
    if (known) {
        uint32_t index = gpu->index;
        struct gpu_info info = gpu->info;
        *gpu = *known;
        gpu->index = index;
        gpu->info = info;
        return;
    }
    /* A small card of some years ago; on unified memory, the memory's own speed. */
    gpu->memory_bytes_per_second = gpu->info.unified ? hardware->memory_bytes_per_second : 200e9;
    gpu->upload_bytes_per_second = gpu->info.unified ? hardware->memory_bytes_per_second / 2 : 6e9;
    gpu->turn_seconds = 50e-6;
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

hypura_status hardware_profile_gpus(struct hardware *hardware, const char *choice, hardware_progress progress,
                                    void *context, hypura_error *error)
{
    struct hardware_gpu gpu;
    bool found;
    char why[512], what[320];
    hypura_status status = hardware_choose_gpu(choice, &gpu, &found, why, sizeof why, error);
    if (status || !found)
        return status;
    snprintf(what, sizeof what, "GPU: %s", gpu.info.name);
    if (progress && !progress(context, what, 0.95))
        return error_set(error, HYPURA_ERROR_CANCELLED, "stopped");
    status = hardware_measure_gpu(&gpu, error);
    if (status)
        return status;
    struct hardware_gpu *known = find_measured(hardware, &gpu.info);
    if (!known)
        known = &hardware->gpus[hardware->gpu_count < HARDWARE_MAX_GPUS ? hardware->gpu_count++ : 0];
    *known = gpu;
    hypura_error problem;
    if (hw_save_profile(hardware, &problem) != HYPURA_OK)
        log_write(LOG_WARNING, "the profile was not kept: %s", problem.message);
    return HYPURA_OK;
}
