/* hypura profile: measures this machine and shows the results; hypura iobench: measures a drive in more detail. */
#include "cli/engine_cli.h"

#include <math.h>
#include <string.h>

static bool force, as_json, bench_json;
static const char *gpu_choice;
static float bench_seconds = 1;
static uint64_t bench_block;
static uint32_t bench_depth;

static const struct option_row profile_rows[] = {
    {"force", NULL, OPTION_FLAG, &force, "measure again, even if a profile is cached"},
    {"gpu", "WHICH", OPTION_TEXT, &gpu_choice,
     "which GPU to measure: auto, none, or its number (default: $HYPURA_GPU, else auto)"},
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object instead"},
    {0},
};

static const struct option_row iobench_rows[] = {
    {"seconds", "X", OPTION_NUMBER, &bench_seconds, "time per combination (default: 1)"},
    {"block", "SIZE", OPTION_BYTES, &bench_block,
     "only random reads of this size, a multiple of 4K (default: many sizes)"},
    {"depth", "N", OPTION_COUNT, &bench_depth, "with --block: reads in flight (default: 8)"},
    {"json", NULL, OPTION_FLAG, &bench_json, "print one JSON object instead"},
    {0},
};

static bool show_progress(void *context, const char *what, double done)
{
    (void)context;
    show_line("%3.0f %%  %s", 100 * done, what);
    return true;
}

static const struct storage_sample *find_sample(const struct storage *storage, uint32_t block, uint32_t depth,
                                                bool direct, bool sequential)
{
    for (size_t i = 0; i < storage->sample_count; i++) {
        const struct storage_sample *s = &storage->samples[i];
        if (s->block_bytes == block && s->depth == depth && s->direct == direct && s->sequential == sequential)
            return s;
    }
    return NULL;
}

#define TABLE_WIDTH 80

/* Draws a table with a row per block size, a column per measured depth, and a bar for the best of each row. */
static void draw_table(const struct storage *storage, bool direct, bool sequential, double best)
{
    static const uint32_t depths[] = {1, 2, 4, 8, 16, 32, 64};
    bool measured[COUNT_OF(depths)] = {0};
    char text[32];
    int columns = 0;
    for (size_t i = 0; i < storage->sample_count; i++) {
        const struct storage_sample *s = &storage->samples[i];
        for (size_t d = 0; d < COUNT_OF(depths); d++)
            measured[d] |= s->depth == depths[d] && s->direct == direct && s->sequential == sequential;
    }
    for (size_t d = 0; d < COUNT_OF(depths); d++)
        columns += measured[d];
    if (!columns)
        return;
    int bar = MIN(TABLE_WIDTH - 14 - 7 * columns, 40);
    printf("\n  %s %s reads, MB/s\n   in flight", direct ? "Direct" : "Buffered", sequential ? "sequential" : "random");
    for (size_t d = 0; d < COUNT_OF(depths); d++)
        if (measured[d])
            printf(" %6u", depths[d]);
    putchar('\n');
    for (uint32_t block = 4096; block <= (4u << 20); block *= 2) {
        double row_best = 0;
        for (size_t d = 0; d < COUNT_OF(depths); d++) {
            const struct storage_sample *sample = find_sample(storage, block, depths[d], direct, sequential);
            if (sample)
                row_best = fmax(row_best, sample->bytes_per_second);
        }
        if (row_best <= 0)
            continue;
        printf("  %10s", format_bytes(text, sizeof text, block));
        for (size_t d = 0; d < COUNT_OF(depths); d++) {
            const struct storage_sample *sample = find_sample(storage, block, depths[d], direct, sequential);
            if (sample)
                printf(" %6.0f", sample->bytes_per_second / 1e6);
            else if (measured[d])
                printf(" %6s", "");
        }
        printf("  ");
        draw_bar(stdout, row_best / best, bar);
        printf("\n");
    }
}

static void print_storage(const struct storage *storage)
{
    char text[32];
    double best = 1;
    for (size_t i = 0; i < storage->sample_count; i++)
        best = fmax(best, storage->samples[i].bytes_per_second);
    printf("\nDrive of %s: %s%s%s\n", storage->path, storage->file_system, storage->device[0] ? " on " : "",
           storage->device);
    for (int direct = 1; direct >= 0; direct--) {
        for (int sequential = 0; sequential < 2; sequential++)
            draw_table(storage, direct, sequential, best);
    }
    printf("\n  Chosen for reading weights: blocks of %s, %u in flight: %.2f GB/s.",
           format_bytes(text, sizeof text, storage->block_bytes), storage->depth, storage->bytes_per_second / 1e9);
    if (storage->latency_seconds > 0)
        printf(" One 4 KiB read takes %.0f us.", storage->latency_seconds * 1e6);
    printf("\n  %s\n",
           !storage->direct_supported
               ? "This file system has no direct I/O: reads go through the page cache, which is dropped afterwards."
           : storage->direct_pays ? "Direct I/O is faster on this drive."
                                  : "Direct I/O is no faster on this drive than the page cache, but uses no memory.");
}

/* How much reading and computing slow each other down. */
static void print_beside(const struct hardware *h)
{
    double kernel = hardware_kernel_speed(h, TENSOR_Q4_K) / 1e9, drive = h->storage.bytes_per_second / 1e9;
    double reading = h->storage.reading_beside, computing = h->storage.computing_beside;
    printf("\nReading and computing at once, GB/s       alone  together\n");
    printf("  the drive                             %7.2f %7.2f  ", drive, drive * reading);
    draw_bar(stdout, reading, 20);
    printf(" %3.0f %%\n  weights (Q4_K) through the kernels    %7.1f %7.1f  ", 100 * reading, kernel,
           kernel * computing);
    draw_bar(stdout, computing, 20);
    printf(" %3.0f %%\n", 100 * computing);
}

static json_t *storage_json(const struct storage *storage)
{
    json_t *samples = json_array();
    for (size_t i = 0; i < storage->sample_count; i++) {
        const struct storage_sample *s = &storage->samples[i];
        json_array_append_new(samples, json_pack("{s:i, s:i, s:b, s:b, s:f}", "block_bytes", (int)s->block_bytes,
                                                 "depth", (int)s->depth, "direct", s->direct, "sequential",
                                                 s->sequential, "bytes_per_second", s->bytes_per_second));
    }
    return json_pack("{s:o, s:s, s:s, s:b, s:b, s:i, s:i, s:i, s:f, s:f, s:o}", "path", json_text(storage->path),
                     "file_system", storage->file_system, "device", storage->device, "direct_supported",
                     storage->direct_supported, "direct_pays", storage->direct_pays, "alignment",
                     (int)storage->alignment, "block_bytes", (int)storage->block_bytes, "depth", (int)storage->depth,
                     "bytes_per_second", storage->bytes_per_second, "latency_seconds", storage->latency_seconds,
                     "samples", samples);
}

static void print_machine(const struct hardware *h)
{
    char a[32], b[32];
    printf("CPU      %s, %zu %s, %s\n", h->cpu, h->cores, h->cores == 1 ? "core" : "cores", h->instructions);
    printf("         caches: %s L1 and %s L2 per core,", format_bytes(a, sizeof a, (double)h->cache_l1),
           format_bytes(b, sizeof b, (double)h->cache_l2));
    printf(" %s L3\n", format_bytes(a, sizeof a, (double)h->cache_l3));
    printf("Memory   %s, %s free, read at %.1f GB/s\n", format_bytes(a, sizeof a, (double)h->memory_total),
           format_bytes(b, sizeof b, (double)h->memory_available), h->memory_bytes_per_second / 1e9);
    if (h->cgroup_limit != UINT64_MAX)
        printf("         control group: limit %s, %s in use\n", format_bytes(a, sizeof a, (double)h->cgroup_limit),
               format_bytes(b, sizeof b, (double)h->cgroup_used));
    if (h->kernel_count)
        printf("\nWeights through the kernels of decoding, GB/s\n");
    for (size_t i = 0; i < h->kernel_count; i++) {
        printf("  %-8s %6.1f  ", tensor_type_info(h->kernels[i].type)->name, h->kernels[i].bytes_per_second / 1e9);
        draw_bar(stdout, fmin(1, h->kernels[i].bytes_per_second / h->memory_bytes_per_second), 40);
        printf(" %3.0f %% of the memory\n", 100 * h->kernels[i].bytes_per_second / h->memory_bytes_per_second);
    }
    if (h->multiply_adds_per_second > 0)
        printf("Prompts: %.2f trillion multiply-adds/s\n", h->multiply_adds_per_second / 1e12);
}

static const struct hardware_gpu *measured(const struct hardware *h, const struct gpu_info *info)
{
    for (size_t i = 0; i < h->gpu_count; i++)
        if (strcmp(h->gpus[i].info.name, info->name) == 0 && h->gpus[i].info.driver_version == info->driver_version)
            return &h->gpus[i];
    return NULL;
}

static void print_speeds(const struct hardware_gpu *gpu)
{
    printf("         memory read at %.1f GB/s, uploads at %.1f GB/s\n", gpu->memory_bytes_per_second / 1e9,
           gpu->upload_bytes_per_second / 1e9);
    printf("         round trip of a batch %.0f us, with work on the CPU in between %.0f us; move to another GPU %.0f "
           "us\n",
           gpu->turn_seconds * 1e6, gpu->share_seconds * 1e6, gpu->move_seconds * 1e6);
    printf("         per layer, besides its weights: %.0f us, %.0f us with float weights, %.0f us more with experts\n",
           gpu->layer_seconds * 1e6, gpu->float_layer_seconds * 1e6, gpu->router_seconds * 1e6);
    for (size_t i = 0; i < gpu->kernel_count; i++) {
        printf("  %-8s %6.1f  ", tensor_type_info(gpu->kernels[i].type)->name, gpu->kernels[i].bytes_per_second / 1e9);
        draw_bar(stdout, fmin(1, gpu->kernels[i].bytes_per_second / gpu->memory_bytes_per_second), 40);
        printf(" %3.0f %% of its memory\n", 100 * gpu->kernels[i].bytes_per_second / gpu->memory_bytes_per_second);
    }
    printf("         prompts: %.2f trillion multiply-adds/s\n", gpu->multiply_adds_per_second / 1e12);
}

static const char *const gpu_kinds[] = {"discrete", "integrated", "virtual", "software on the CPU"};

/* Looks for GPUs only if they may be used: the search loads Vulkan and its drivers. */
static void print_gpus(const struct hardware *h)
{
    struct hardware_choice chosen;
    struct gpu_info gpus[HARDWARE_MAX_GPUS];
    size_t count = 0;
    char why[512], text[32];
    if (hardware_choose_gpus(gpu_choice, &chosen, why, sizeof why, NULL))
        return;
    if (chosen.count == 0) {
        printf("\nGPU      none: %s\n", why);
        return;
    }
    if (gpu_list(gpus, HARDWARE_MAX_GPUS, &count, why, NULL))
        return;
    printf("\n");
    for (size_t i = 0; i < MIN(count, (size_t)HARDWARE_MAX_GPUS); i++) {
        printf("GPU %zu    %s, %s, %s of memory%s%s%s\n", i, gpus[i].name, gpu_kinds[gpus[i].kind],
               format_bytes(text, sizeof text, (double)gpus[i].memory_bytes),
               gpus[i].unified ? ", shared with the CPU" : "", gpus[i].lacks[0] ? "; cannot be used: it lacks " : "",
               gpus[i].lacks);
        const struct hardware_gpu *speeds = measured(h, &gpus[i]);
        if (speeds)
            print_speeds(speeds);
    }
}

static const char *const kind_names[] = {"discrete", "integrated", "virtual", "program"};

/* Adds facts about a present device, for planning with this profile on another machine. */
static void add_what_it_is(json_t *row, const struct gpu_info *measured_one)
{
    struct gpu_info gpus[HARDWARE_MAX_GPUS];
    size_t count = 0;
    char why[512];
    if (gpu_list(gpus, HARDWARE_MAX_GPUS, &count, why, NULL))
        return;
    for (size_t i = 0; i < MIN(count, (size_t)HARDWARE_MAX_GPUS); i++) {
        const struct gpu_info *info = &gpus[i];
        if (strcmp(info->name, measured_one->name) != 0 || info->driver_version != measured_one->driver_version)
            continue;
        json_object_set_new(row, "kind", json_string(kind_names[info->kind]));
        json_object_set_new(row, "memory_bytes", json_integer((json_int_t)info->memory_bytes));
        json_object_set_new(row, "max_allocation_bytes",
                            json_integer((json_int_t)MIN(info->max_allocation, (uint64_t)INT64_MAX)));
        json_object_set_new(row, "unified", json_boolean(info->unified));
        json_object_set_new(row, "cooperative_matrix", json_boolean(info->cooperative_matrix));
        return;
    }
}

static json_t *gpus_json(const struct hardware *h)
{
    json_t *array = json_array();
    for (size_t i = 0; i < h->gpu_count; i++) {
        const struct hardware_gpu *gpu = &h->gpus[i];
        json_t *kernels = json_object();
        for (size_t k = 0; k < gpu->kernel_count; k++)
            json_object_set_new(kernels, tensor_type_info(gpu->kernels[k].type)->name,
                                json_real(gpu->kernels[k].bytes_per_second));
        json_t *row = json_pack(
            "{s:s, s:I, s:b, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "name", gpu->info.name, "host_bytes",
            (json_int_t)gpu->host_bytes, "panels", (int)gpu->info.panels, "memory_bytes_per_second",
            gpu->memory_bytes_per_second, "upload_bytes_per_second", gpu->upload_bytes_per_second, "turn_seconds",
            gpu->turn_seconds, "move_seconds", gpu->move_seconds, "layer_seconds", gpu->layer_seconds,
            "float_layer_seconds", gpu->float_layer_seconds, "router_seconds", gpu->router_seconds, "share_seconds",
            gpu->share_seconds, "multiply_adds_per_second", gpu->multiply_adds_per_second, "kernels", kernels);
        add_what_it_is(row, &gpu->info);
        json_array_append_new(array, row);
    }
    return array;
}

static json_t *machine_json(const struct hardware *h)
{
    json_t *kernels = json_object(), *products = json_object();
    for (size_t i = 0; i < h->kernel_count; i++) {
        const struct kernel_speed *kernel = &h->kernels[i];
        const char *name = tensor_type_info(kernel->type)->name;
        json_object_set_new(kernels, name, json_real(kernel->bytes_per_second));
        if (kernel->many_per_second > 0)
            json_object_set_new(
                products, name,
                json_pack("{s:f, s:f}", "few", kernel->few_per_second, "many", kernel->many_per_second));
    }
    json_t *storage = storage_json(&h->storage);
    json_object_set_new(storage, "reading_beside", json_real(h->storage.reading_beside));
    json_object_set_new(storage, "computing_beside", json_real(h->storage.computing_beside));
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:f, s:f, s:f, s:o, s:o, s:b, s:o, s:o}", "cpu",
                     h->cpu, "instructions", h->instructions, "cores", (json_int_t)h->cores, "cache_l1_bytes",
                     (json_int_t)h->cache_l1, "cache_l2_bytes", (json_int_t)h->cache_l2, "cache_l3_bytes",
                     (json_int_t)h->cache_l3, "memory_bytes", (json_int_t)h->memory_total, "memory_available_bytes",
                     (json_int_t)h->memory_available, "cgroup_limit_bytes",
                     h->cgroup_limit == UINT64_MAX ? json_null() : json_integer((json_int_t)h->cgroup_limit),
                     "memory_bytes_per_second", h->memory_bytes_per_second, "compute_bytes_per_second",
                     h->compute_bytes_per_second, "multiply_adds_per_second", h->multiply_adds_per_second, "kernels",
                     kernels, "products", products, "measured", h->measured, "gpus", gpus_json(h), "storage", storage);
}

/* Whether a chosen device is not in the profile, since it was missing or not chosen when that was made. */
static bool needs_gpu(const struct hardware *h)
{
    struct hardware_choice chosen;
    char why[512];
    bool needs = false;
    if (hardware_choose_gpus(gpu_choice, &chosen, why, sizeof why, NULL))
        return false;
    for (size_t i = 0; i < chosen.count; i++)
        needs |= !measured(h, &chosen.gpus[i].info);
    return needs;
}

static hypura_status measure_drive(const struct hardware *known, const char *path, hypura_error *error)
{
    struct hardware *hardware;
    hypura_status status = ALLOCATE(&hardware, 1, "profile", error);
    if (status)
        return status;
    *hardware = *known;
    status = hardware_detect(hardware, path, error);
    if (!status && (force || !hardware->measured))
        status = hardware_profile(hardware, path, show_progress, NULL, error);
    clear_line();
    memory_free(hardware);
    return status;
}

static json_t *together_json(const struct drives *drives, const double *alone, const double *together)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < drives->count; i++)
        json_array_append_new(array, json_pack("{s:o, s:o, s:f, s:f, s:o}", "path", json_text(drives->storages[i].path),
                                               "device", json_text(drives->storages[i].device),
                                               "alone_bytes_per_second", alone[i], "together_bytes_per_second",
                                               together[i], "storage", storage_json(&drives->storages[i])));
    return json_pack("{s:o, s:f}", "drives", array, "together_share", drives->together);
}

static void print_together(const struct drives *drives, const double *alone, const double *together)
{
    double sum[2] = {0};
    printf("%-40s    alone together, MB/s\n", "Drives");
    for (uint32_t i = 0; i < drives->count; i++) {
        const struct storage *storage = &drives->storages[i];
        char name[200];
        snprintf(name, sizeof name, "%s (%s)", storage->path,
                 storage->device[0] ? storage->device : storage->file_system);
        printf("  %-38s %8.0f %8.0f\n", name, alone[i] / 1e6, together[i] / 1e6);
        sum[0] += alone[i];
        sum[1] += together[i];
    }
    printf("  %-38s %8.0f %8.0f, %.0f %%\n", "all", sum[0] / 1e6, sum[1] / 1e6, 100 * drives->together);
    if (drives->together < 0.9)
        printf("  They share a bus, a controller or a host: plans use the speed that they reach together.\n");
}

/* Measures each drive alone, then all at once. */
static int profile_together(size_t count, char **paths)
{
    hypura_error error = {0};
    struct hardware hardware;
    struct drives *drives = NULL;
    double alone[HARDWARE_MAX_DRIVES], together[HARDWARE_MAX_DRIVES];
    hypura_status status = hardware_detect(&hardware, paths[0], &error);
    if (!status)
        status = hardware_find_drives(&drives, &hardware, (const char *const *)paths, (uint32_t)count, 1, &error);
    if (!status && drives->count < count)
        status = error_set(&error, HYPURA_ERROR_ARGUMENT, "these %zu paths are on %u %s: name one path per drive",
                           count, drives->count, drives->count == 1 ? "drive" : "drives");
    for (size_t i = 0; !status && i < count; i++)
        status = measure_drive(&hardware, paths[i], &error);
    drives_free(drives);
    drives = NULL;
    if (!status) /* again, with the new profiles */
        status = hardware_find_drives(&drives, &hardware, (const char *const *)paths, (uint32_t)count, 1, &error);
    if (!status) {
        show_progress(NULL, "storage: all drives at once", 0.9);
        status = hardware_measure_together(drives, alone, together, &error);
        clear_line();
    }
    if (!status && as_json) {
        json_t *json = together_json(drives, alone, together);
        print_json(json);
        json_decref(json);
    } else if (!status) {
        print_together(drives, alone, together);
    }
    drives_free(drives);
    return status ? report_error(&error) : EXIT_OK;
}

static int run_profile(size_t count, char **arguments)
{
    if (count > 1)
        return profile_together(count, arguments);

    hypura_error error = {0};
    struct hardware hardware;
    const char *path = count ? arguments[0] : ".";
    hypura_status status = hardware_detect(&hardware, path, &error);
    if (!status && (force || !hardware.measured)) {
        status = hardware_profile(&hardware, path, show_progress, NULL, &error);
        if (!status)
            status = hardware_profile_gpus(&hardware, gpu_choice, show_progress, NULL, &error);
        clear_line();
    } else if (!status && needs_gpu(&hardware)) {
        status = hardware_profile_gpus(&hardware, gpu_choice, show_progress, NULL, &error);
        clear_line();
    }
    if (status)
        return report_error(&error);
    if (as_json) {
        json_t *json = machine_json(&hardware);
        print_json(json);
        json_decref(json);
        return EXIT_OK;
    }
    print_machine(&hardware);
    print_gpus(&hardware);
    print_storage(&hardware.storage);
    print_beside(&hardware);
    printf("\nReading 1 GB of weights takes %.0f ms from this drive and %.0f ms from memory. What this means for a "
           "model:\n"
           "  hypura inspect MODEL --memory 8G\n",
           1e12 / hardware.storage.bytes_per_second, 1e12 / hardware.memory_bytes_per_second);
    return EXIT_OK;
}

static bool show_sample(void *context, const struct storage_sample *sample, size_t done, size_t total)
{
    (void)context;
    char text[32];
    show_line("%zu of %zu: %s %s reads of %s, %u in flight: %.0f MB/s", done, total,
              sample->direct ? "direct" : "buffered", sample->sequential ? "sequential" : "random",
              format_bytes(text, sizeof text, sample->block_bytes), sample->depth, sample->bytes_per_second / 1e6);
    return true;
}

static int run_point(const char *path)
{
    hypura_error error = {0};
    double speed;
    uint32_t depth = bench_depth ? bench_depth : 8;
    if (hardware_iobench_point(&speed, path, (uint32_t)MIN(bench_block, (uint64_t)UINT32_MAX), depth, bench_seconds,
                               &error))
        return report_error(&error);
    if (bench_json)
        printf("{\"bytes_per_second\": %.0f}\n", speed);
    else
        printf("%.0f MB/s\n", speed / 1e6);
    return EXIT_OK;
}

static int run_iobench(size_t count, char **arguments)
{
    (void)count;
    hypura_error error = {0};
    struct storage storage;
    if (bench_seconds <= 0)
        return report_usage(&command_iobench, "--seconds must be above 0");
    if (bench_depth && !bench_block)
        return report_usage(&command_iobench, "--depth needs --block");
    if (bench_block)
        return run_point(arguments[0]);
    hypura_status status = hardware_iobench(&storage, arguments[0], bench_seconds, show_sample, NULL, &error);
    clear_line();
    if (status)
        return report_error(&error);
    if (bench_json) {
        json_t *json = storage_json(&storage);
        print_json(json);
        json_decref(json);
        return EXIT_OK;
    }
    print_storage(&storage);
    return EXIT_OK;
}

const struct command command_profile = {
    .name = "profile",
    .arguments = "[PATH]...",
    .summary = "measure this machine: memory, kernels, and the drive of a path",
    .details =
        "Takes less than 20 seconds. The result is cached per machine and drive, and plans use it from then on. PATH "
        "is "
        "a model or a folder (default: the current folder). hypura reads PATH itself if it is a large file, or the "
        "largest file of at least 1 GiB in a folder. Otherwise it writes a temporary file, which may be faster to "
        "read than older files. Several paths are measured one by one and then together, since their drives may share "
        "a bus. Do this for a model with --mirror, or with parts on several drives.",
    .options = {profile_rows},
    .most = HARDWARE_MAX_DRIVES,
    .run = run_profile,
};

const struct command command_iobench = {
    .name = "iobench",
    .arguments = "FILE",
    .summary = "measure a drive in detail: each block size at each queue depth",
    .options = {iobench_rows},
    .least = 1,
    .most = 1,
    .run = run_iobench,
};
