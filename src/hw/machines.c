/* Other machines: described by their profiles, or by published figures. */
#include "core/json_text.h"
#include "hw/hw_private.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define GIB ((uint64_t)1 << 30)

/* The system and other programs usually take one part in OTHERS_SHARE of a machine's memory. */
#define OTHERS_SHARE 8u

struct machine {
    struct hardware_published published;
    const char *cpu;
    size_t cores;
    uint64_t memory;
    double memory_speed, kernels, multiply_adds; /* per second */
    double drive, drive_alone;                   /* bytes per second of large random reads: many in flight, one */
    double latency;
    const char *gpu; /* with memory of its own; NULL: none */
    uint64_t gpu_memory;
    double gpu_speed, upload, gpu_multiply_adds;
};

#define MAC_ASSUMED                                                                                                    \
    " Assumed: 8 GB/s of quantised weights and 40 billion multiply-adds/s per core; half of the drive's speed with "   \
    "one read in flight, unless given above. The GPU is not counted, since hypura has not been run on a Mac."
#define MAC_CPU_SHARE " Derived: the CPU reads at 61 % of that, as AnandTech measured on the M1 Max (243 of 400 GB/s)."

/* clang-format off */
static const struct machine machines[] = {
    {{"m1-max-32gb", "Apple M1 Max, 32 GB",
      "Drive 5.09 GB/s: benchmarks/results of github.com/t8/hypura. Memory 243 GB/s from the CPU: AnandTech's "
      "review of the M1 Max." MAC_ASSUMED},
     "Apple M1 Max", 10, 32 * GIB, 243e9, 80e9, 400e9, 5.09e9, 2.55e9, 80e-6, NULL, 0, 0, 0, 0},
    {{"m5-pro-24gb", "Apple M5 Pro, 24 GB",
      "Drive 12.8 GB/s: waste's figure for an M5 Pro with 64 GB; a small drive may be slower. Memory 307 GB/s: Apple."
      MAC_CPU_SHARE MAC_ASSUMED},
     "Apple M5 Pro", 15, 24 * GIB, 187e9, 120e9, 600e9, 12.8e9, 6.4e9, 54e-6, NULL, 0, 0, 0, 0},
    {{"m5-pro-48gb", "Apple M5 Pro, 48 GB",
      "Drive 17.3 GB/s with 8 reads of 2.8 MB in flight, 9.46 GB/s with one, 53.6 us for 4 KiB; memory 235 GB/s: "
      "MEASUREMENTS.md of github.com/carloslfu/slotstream." MAC_ASSUMED},
     "Apple M5 Pro", 18, 48 * GIB, 235e9, 144e9, 720e9, 17.3e9, 9.46e9, 54e-6, NULL, 0, 0, 0, 0},
    {{"m3-max-48gb", "Apple M3 Max, 48 GB",
      "Drive 17.5 GB/s: github.com/danveloper/flash-moe. Memory 400 GB/s: Apple." MAC_CPU_SHARE MAC_ASSUMED},
     "Apple M3 Max", 16, 48 * GIB, 243e9, 128e9, 640e9, 17.5e9, 8.75e9, 60e-6, NULL, 0, 0, 0, 0},
    {{"m5-max-128gb", "Apple M5 Max, 128 GB",
      "Drive 13.6 GB/s: sustained reads in tests of the MacBook Pro of 2026. Memory 614 GB/s: Apple."
      MAC_CPU_SHARE MAC_ASSUMED},
     "Apple M5 Max", 18, 128 * GIB, 374e9, 144e9, 720e9, 13.6e9, 6.8e9, 54e-6, NULL, 0, 0, 0, 0},
    {{"pc-64gb-24gb", "PC, 64 GB and a GPU of 24 GB",
      "Drive 7 GB/s, RTX 4090 and 64 GB: the PC in the second row of github.com/danveloper/flash-moe. GPU 1008 GB/s: "
      "NVIDIA. Assumed: 16 cores, two channels of DDR5-6000 (75 of 96 GB/s in practice), 8 GB/s per core up to that, "
      "PCIe 4.0 x16 at 25 GB/s, 30 trillion multiply-adds/s, half of the drive's speed with one read in flight."},
     "16 cores, DDR5-6000", 16, 64 * GIB, 75e9, 64e9, 1200e9, 7.0e9, 3.5e9, 80e-6, "NVIDIA GeForce RTX 4090", 24 * GIB,
     1008e9, 25e9, 30e12},
};
/* clang-format on */

size_t hardware_published_count(void)
{
    return COUNT_OF(machines);
}

const struct hardware_published *hardware_published_at(size_t index)
{
    return &machines[index].published;
}

const struct hardware_published *hardware_published(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(machines); i++)
        if (strcasecmp(machines[i].published.name, name) == 0)
            return &machines[i].published;
    return NULL;
}

static void add_gpu(struct hardware *out, const struct machine *machine)
{
    struct hardware_gpu *gpu = &out->gpus[out->gpu_count];
    snprintf(gpu->info.name, sizeof gpu->info.name, "%s", machine->gpu);
    gpu->info.kind = GPU_DISCRETE;
    gpu->info.memory_bytes = machine->gpu_memory;
    gpu->info.free_bytes = machine->gpu_memory;
    gpu->info.max_allocation = UINT32_MAX;
    gpu->info.fp16 = gpu->info.cooperative_matrix = gpu->info.khr_matrix = gpu->info.int8_dot = true;
    hardware_gpu_speeds(out, gpu); /* defaults for figures that were not published */
    gpu->memory_bytes_per_second = machine->gpu_speed;
    gpu->upload_bytes_per_second = machine->upload;
    gpu->multiply_adds_per_second = machine->gpu_multiply_adds;
    gpu->measured = true;
    out->gpu_count++;
}

void hardware_of_published(struct hardware *out, const struct hardware_published *published)
{
    const struct machine *machine = (const struct machine *)published; /* its first member */
    *out = (struct hardware){.cores = machine->cores,
                             .memory_total = machine->memory,
                             .memory_available = machine->memory - machine->memory / OTHERS_SHARE,
                             .cgroup_limit = UINT64_MAX,
                             .memory_bytes_per_second = machine->memory_speed,
                             .compute_bytes_per_second = machine->kernels,
                             .multiply_adds_per_second = machine->multiply_adds,
                             .measured = true,
                             .elsewhere = true};
    snprintf(out->cpu, sizeof out->cpu, "%s", machine->cpu);
    struct storage *drive = &out->storage;
    drive->direct_supported = drive->direct_pays = true;
    drive->alignment = STORAGE_ALIGNMENT;
    drive->bytes_per_second = machine->drive;
    drive->reading_beside = drive->computing_beside = 1; /* this memory is fast enough for both */
    drive->latency_seconds = machine->latency;
    drive->block_bytes = 1 << 20;
    drive->depth = 16;
    drive->samples[drive->sample_count++] = (struct storage_sample){1 << 20, 1, true, false, machine->drive_alone};
    drive->samples[drive->sample_count++] = (struct storage_sample){1 << 20, 8, true, false, machine->drive};
    if (machine->gpu)
        add_gpu(out, machine);
}

/* ---- a profile in a file ----------------------------------------------------------------------------------------- */

static uint64_t whole(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) && json_integer_value(value) > 0 ? (uint64_t)json_integer_value(value) : 0;
}

static bool is_true(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

static void copy_text(char *out, size_t room, const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    snprintf(out, room, "%s", text ? text : "");
}

/* Adds the properties of devices to their speeds. Drops devices that cannot be planned for: those on the CPU, and those
 * whose memory the profile does not give. */
static void describe_gpus(struct hardware *hardware, const json_t *gpus, const char *what)
{
    size_t kept = 0;
    for (size_t i = 0; i < hardware->gpu_count; i++) {
        struct hardware_gpu gpu = hardware->gpus[i];
        const json_t *row, *found = NULL;
        size_t n;
        json_array_foreach(gpus, n, row)
        {
            const char *name = json_string_value(json_object_get(row, "name"));
            if (name && strcmp(name, gpu.info.name) == 0)
                found = row;
        }
        const char *kind = json_string_value(json_object_get(found, "kind"));
        gpu.info.memory_bytes = gpu.info.free_bytes = whole(found, "memory_bytes");
        if (kind && strcmp(kind, "program") == 0) /* on the CPU */
            continue;
        if (gpu.info.memory_bytes == 0) {
            log_write(LOG_WARNING, "%s does not give the memory of %s: the estimate leaves this GPU out", what,
                      gpu.info.name);
            continue;
        }
        gpu.info.kind = kind && strcmp(kind, "integrated") == 0 ? GPU_INTEGRATED : GPU_DISCRETE;
        gpu.info.unified = is_true(found, "unified");
        gpu.info.cooperative_matrix = is_true(found, "cooperative_matrix");
        gpu.info.panels = is_true(found, "panels");
        gpu.info.max_allocation = whole(found, "max_allocation_bytes");
        if (gpu.info.max_allocation == 0)
            gpu.info.max_allocation = UINT32_MAX;
        hardware->gpus[kept++] = gpu;
    }
    hardware->gpu_count = kept;
}

hypura_status hardware_of_profile(struct hardware *out, const char *text, size_t size, const char *what,
                                  hypura_error *error)
{
    json_error_t where;
    json_t *root = json_text_read(text, size, JSON_REJECT_DUPLICATES, &where);
    if (!root)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s is not JSON (line %d: %s): expected the output of \"hypura profile --json\"", what,
                         where.line, where.text);
    const json_t *storage = json_object_get(root, "storage");
    struct hardware *found;
    hypura_status status = ALLOCATE(&found, 1, "profile", error);
    if (!status) {
        found->elsewhere = true;
        found->storage.direct_supported = is_true(storage, "direct_supported");
        found->storage.alignment = (uint32_t)MIN(whole(storage, "alignment"), (uint64_t)STORAGE_ALIGNMENT);
        found->cores = (size_t)MIN(whole(root, "cores"), (uint64_t)4096);
        found->cache_l1 = whole(root, "cache_l1_bytes");
        found->cache_l2 = whole(root, "cache_l2_bytes");
        found->cache_l3 = whole(root, "cache_l3_bytes");
        found->memory_total = whole(root, "memory_bytes");
        found->memory_available = whole(root, "memory_available_bytes");
        found->cgroup_limit = whole(root, "cgroup_limit_bytes");
        found->cgroup_limit = found->cgroup_limit ? found->cgroup_limit : UINT64_MAX;
        copy_text(found->cpu, sizeof found->cpu, root, "cpu");
        copy_text(found->instructions, sizeof found->instructions, root, "instructions");
        copy_text(found->storage.device, sizeof found->storage.device, storage, "device");
        copy_text(found->storage.file_system, sizeof found->storage.file_system, storage, "file_system");
        if (!hw_get_speeds(root, found) || !found->cores || !found->memory_total)
            status = error_set(
                error, HYPURA_ERROR_FORMAT,
                "%s is not a complete profile of a machine: expected the output of \"hypura profile --json\"", what);
    }
    if (!status) {
        found->memory_available = found->memory_available ? found->memory_available : found->memory_total;
        describe_gpus(found, json_object_get(root, "gpus"), what);
        *out = *found;
    }
    memory_free(found);
    json_decref(root);
    return status;
}
