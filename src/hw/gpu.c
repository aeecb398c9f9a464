/* Chooses the GPUs that compute, and measures them. */
#include "hw/hw_private.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Opening Vulkan's loader costs time and memory (a software device alone loads some 100 MiB of libraries). So it is
 * only opened if the system has a device node of a GPU. */
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

static void take(struct hardware_choice *out, const struct gpu_info *gpus, size_t number)
{
    out->gpus[out->count++] = (struct hardware_gpu){.index = (uint32_t)number, .info = gpus[number]};
}

/* Whether the card is already chosen: two drivers may list the same one. */
static bool has(const struct hardware_choice *choice, const struct gpu_info *info)
{
    static const uint8_t unknown[sizeof info->uuid];
    for (size_t i = 0; i < choice->count && memcmp(info->uuid, unknown, sizeof unknown) != 0; i++)
        if (memcmp(choice->gpus[i].info.uuid, info->uuid, sizeof unknown) == 0)
            return true;
    return false;
}

void hw_choose_gpus(const struct gpu_info *gpus, size_t count, struct hardware_choice *out, char *why, size_t room)
{
    size_t best = count;
    *out = (struct hardware_choice){0};
    why[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        if (gpus[i].lacks[0])
            snprintf(why, room, "%s lacks %s", gpus[i].name, gpus[i].lacks);
        else if (gpus[i].kind != GPU_CPU && (best == count || better(&gpus[i], &gpus[best])))
            best = i;
    }
    if (best == count && !why[0])
        snprintf(why, room, "the only device is a program on the CPU (%s); --gpu 0 uses it anyway", gpus[0].name);
    if (best == count)
        return;
    for (size_t i = 0; gpus[best].kind == GPU_DISCRETE && i < count && out->count < HARDWARE_MAX_GPUS; i++)
        if (!gpus[i].lacks[0] && gpus[i].kind == GPU_DISCRETE && !has(out, &gpus[i]))
            take(out, gpus, i);
    if (out->count == 0)
        take(out, gpus, best);
    why[0] = '\0';
}

static void choose_number(const struct gpu_info *gpus, size_t count, uint32_t number, const char *why_none,
                          struct hardware_choice *out, char *why, size_t room)
{
    if (count == 0)
        snprintf(why, room, "%s", why_none);
    else if (number >= count)
        snprintf(why, room, "there is no GPU %u: \"hypura profile\" lists the available ones", number);
    else if (gpus[number].lacks[0])
        snprintf(why, room, "%s lacks %s", gpus[number].name, gpus[number].lacks);
    else
        take(out, gpus, number);
}

/* Parses a list such as "0,2". Returns the count of its numbers; 0: it is not such a list. */
static size_t read_numbers(const char *choice, uint32_t numbers[HARDWARE_MAX_GPUS])
{
    size_t count = 0;
    for (const char *at = choice;; at++) {
        char *end;
        unsigned long number = strtoul(at, &end, 10);
        if (*at < '0' || *at > '9' || (*end && *end != ',') || number >= 1024 || count == HARDWARE_MAX_GPUS)
            return 0;
        numbers[count++] = (uint32_t)number;
        at = end;
        if (!*at)
            return count;
    }
}

hypura_status hardware_choose_gpus(const char *choice, struct hardware_choice *out, char *why, size_t room,
                                   hypura_error *error)
{
    const char *environment = getenv("HYPURA_GPU");
    if (!choice)
        choice = environment && *environment ? environment : "auto";
    *out = (struct hardware_choice){0};
    why[0] = '\0';
    uint32_t numbers[HARDWARE_MAX_GPUS];
    size_t listed = read_numbers(choice, numbers);
    bool is_auto = strcmp(choice, "auto") == 0;
    if (strcmp(choice, "none") == 0) {
        snprintf(why, room, "GPUs are turned off");
        return HYPURA_OK;
    }
    if (!is_auto && listed == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "GPU \"%s\": expected auto, none, or device numbers such as 0 or 0,2 (at most %d)", choice,
                         HARDWARE_MAX_GPUS);
    if (is_auto && !may_have_gpu()) {
        snprintf(why, room, "the system has no GPU");
        return HYPURA_OK;
    }
    struct gpu_info *gpus;
    size_t count = 0;
    char none[512] = "";
    hypura_error problem = {0};
    hypura_status status = ALLOCATE(&gpus, HARDWARE_MAX_GPUS, "list of GPUs", error);
    if (status)
        return status;
    /* If listing fails, there are no devices. */
    if (gpu_list(gpus, HARDWARE_MAX_GPUS, &count, none, &problem)) {
        snprintf(none, sizeof none, "%s", problem.message);
        count = 0;
    }
    count = MIN(count, (size_t)HARDWARE_MAX_GPUS);
    for (size_t i = 0; i < listed; i++)
        choose_number(gpus, count, numbers[i], none, out, why, room);
    out->listed = listed > 0;
    if (is_auto && count == 0)
        snprintf(why, room, "%s", none);
    else if (is_auto)
        hw_choose_gpus(gpus, count, out, why, room);
    memory_free(gpus);
    return HYPURA_OK;
}

/* ---- measuring --------------------------------------------------------------------------------------------------- */

static hypura_status profile_one(struct hardware *hardware, const struct hardware_gpu *chosen, uint64_t listed_bytes,
                                 hardware_progress progress, void *context, hypura_error *error)
{
    struct hardware_gpu gpu = *chosen;
    char what[320];
    snprintf(what, sizeof what, "GPU: %s", gpu.info.name);
    if (progress && !progress(context, what, 0.95))
        return error_set(error, HYPURA_ERROR_CANCELLED, "the measurement was stopped");
    hypura_status status = hardware_measure_gpu(&gpu, error);
    if (status)
        return status;
    gpu.host_bytes += listed_bytes;
    struct hardware_gpu *known = hw_find_measured_gpu(hardware, &gpu.info);
    if (!known)
        known = &hardware->gpus[hardware->gpu_count < HARDWARE_MAX_GPUS ? hardware->gpu_count++ : 0];
    *known = gpu;
    return HYPURA_OK;
}

/* Whether an earlier device has the same name and driver: the profile has one entry for both. */
static bool is_repeated(const struct hardware_choice *choice, size_t number)
{
    const struct gpu_info *info = &choice->gpus[number].info;
    for (size_t i = 0; i < number; i++)
        if (strcmp(choice->gpus[i].info.name, info->name) == 0 &&
            choice->gpus[i].info.driver_version == info->driver_version)
            return true;
    return false;
}

hypura_status hardware_profile_gpus(struct hardware *hardware, const char *choice, hardware_progress progress,
                                    void *context, hypura_error *error)
{
    struct hardware_choice chosen;
    char why[512];
    uint64_t before = memory_resident_bytes();
    hypura_status status = hardware_choose_gpus(choice, &chosen, why, sizeof why, error);
    if (status || chosen.count == 0)
        return status;
    /* The memory that the loader keeps for drivers after listing devices. */
    uint64_t listed = memory_resident_bytes();
    listed -= MIN(before, listed);
    for (size_t i = 0; !status && i < chosen.count; i++)
        if (!is_repeated(&chosen, i))
            status = profile_one(hardware, &chosen.gpus[i], i == 0 ? listed : 0, progress, context, error);
    if (status)
        return status;
    hypura_error problem;
    if (hw_save_profile(hardware, &problem) != HYPURA_OK)
        log_write(LOG_WARNING, "the profile was not cached: %s", problem.message);
    return HYPURA_OK;
}
