/* Several drives: which of them hold the files, how fast they are together, and whether they share a bus. */
#include "core/json_text.h"
#include "hw/hw_private.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Writes the name of a partition's disk: "vda" for "vda1". */
static void whole_disk(char *out, size_t room, const char *device)
{
    char path[256], link[1024];
    snprintf(out, room, "%.100s", device);
    snprintf(path, sizeof path, "/sys/class/block/%s/partition", device);
    if (!device[0] || access(path, F_OK))
        return;
    snprintf(path, sizeof path, "/sys/class/block/%s", device);
    ssize_t size = readlink(path, link, sizeof link - 1);
    if (size <= 0)
        return;
    link[size] = '\0';
    char *slash = strrchr(link, '/');
    if (!slash)
        return;
    *slash = '\0';
    slash = strrchr(link, '/');
    snprintf(out, room, "%.100s", slash ? slash + 1 : link);
}

/* Writes a drive's identity: the name of its disk, or, without a named device (memory, network), its device number. */
static void identify(char *out, size_t room, const struct storage *storage, const char *path)
{
    struct stat info = {0};
    if (storage->device[0])
        whole_disk(out, room, storage->device);
    else if (stat(path, &info) == 0)
        snprintf(out, room, "#%llx", (unsigned long long)info.st_dev);
}

static hypura_status add_drive(struct drives *drives, uint32_t *drive, char names[][128],
                               const struct hardware *hardware, const char *path, hypura_error *error)
{
    struct hardware *profiled;
    struct storage storage;
    char name[128] = "";
    TRY(hardware_detect_storage(&storage, path, error));
    identify(name, sizeof name, &storage, path);
    for (*drive = 0; *drive < drives->count; ++*drive)
        if (!strcmp(names[*drive], name))
            return HYPURA_OK;
    /* Drives beyond HARDWARE_MAX_DRIVES count as the last one. */
    if (drives->count == HARDWARE_MAX_DRIVES) {
        *drive = drives->count - 1;
        return HYPURA_OK;
    }
    TRY(ALLOCATE(&profiled, 1, "profile", error));
    *profiled = *hardware;
    profiled->storage = storage;
    drives->measured[drives->count] = hw_load_profile(profiled);
    drives->storages[drives->count] = profiled->storage;
    memory_free(profiled);
    snprintf(names[drives->count], 128, "%s", name);
    drives->count++;
    return HYPURA_OK;
}

/* Sorts hashes, so that the same drives in another order give the same file name. */
static int in_order(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

static bool together_path(const struct drives *drives, char *path, size_t room)
{
    char folder[3000];
    uint64_t hashes[HARDWARE_MAX_DRIVES], hash = FNV1A_START;
    if (drives->count < 2 || !hw_cache_folder(folder, sizeof folder))
        return false;
    for (uint32_t i = 0; i < drives->count; i++) {
        const struct storage *storage = &drives->storages[i];
        hashes[i] = fnv1a(FNV1A_START, storage->device, strlen(storage->device));
        hashes[i] = fnv1a(hashes[i], storage->file_system, strlen(storage->file_system));
    }
    qsort(hashes, drives->count, sizeof hashes[0], in_order);
    hash = fnv1a(hash, hashes, drives->count * sizeof hashes[0]);
    return snprintf(path, room, "%s/together-%016llx.json", folder, (unsigned long long)hash) < (int)room;
}

static void load_together(struct drives *drives)
{
    char path[4096];
    if (!together_path(drives, path, sizeof path))
        return;
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    json_t *root = json_text_read_file(file, JSON_REJECT_DUPLICATES, NULL);
    fclose(file);
    double share = json_number_value(json_object_get(root, "share_of_sum"));
    if (share > 0 && share <= 1)
        drives->together = share;
    json_decref(root);
}

static hypura_status join_files(struct drives *drives, hypura_error *error);

hypura_status hardware_find_drives(struct drives **out, const struct hardware *hardware, const char *const *paths,
                                   uint32_t files, uint32_t copies, hypura_error *error)
{
    char names[HARDWARE_MAX_DRIVES][128];
    struct drives *drives;
    TRY(ALLOCATE(&drives, 1, "drives", error));
    drives->file_count = files;
    drives->copy_count = copies;
    drives->together = 1;
    hypura_status status = ALLOCATE(&drives->copies, (size_t)files * copies, "copies of files", error);
    if (!status)
        status = ALLOCATE(&drives->file_bytes, files, "files", error);
    for (uint32_t i = 0; !status && i < files * copies; i++) {
        struct stat info;
        if (!paths[i])
            continue;
        status = add_drive(drives, &drives->copies[i].drive, names, hardware, paths[i], error);
        if (!status)
            status = string_copy(&drives->copies[i].path, paths[i], error);
        if (!status && i < files && stat(paths[i], &info) == 0)
            drives->file_bytes[i] = (uint64_t)info.st_size;
    }
    if (!status) {
        load_together(drives);
        status = join_files(drives, error);
    }
    if (status) {
        drives_free(drives);
        return status;
    }
    *out = drives;
    return HYPURA_OK;
}

void drives_free(struct drives *drives)
{
    if (!drives)
        return;
    for (uint32_t i = 0; drives->copies && i < drives->file_count * drives->copy_count; i++)
        memory_free(drives->copies[i].path);
    memory_free(drives->copies);
    memory_free(drives->file_bytes);
    memory_free(drives->of_files);
    memory_free(drives);
}

/* ---- several drives as one --------------------------------------------------------------------------------------- */

struct file_range {
    uint32_t first, end;
};

/* The sum of the speeds of the drives that have a copy of this file. */
static double speed_of_file(const struct drives *drives, uint32_t file, const double *speeds)
{
    double sum = 0;
    bool counted[HARDWARE_MAX_DRIVES] = {false};
    for (uint32_t c = 0; c < drives->copy_count; c++) {
        const struct drive_copy *copy = &drives->copies[(size_t)c * drives->file_count + file];
        if (!copy->path || counted[copy->drive])
            continue;
        counted[copy->drive] = true;
        sum += speeds[copy->drive];
    }
    return sum;
}

/* The speed of reading one file after the other, each from all of its copies at once. */
static double speed_of_all(const struct drives *drives, struct file_range files, const double *speeds)
{
    double bytes = 0, seconds = 0;
    for (uint32_t f = files.first; f < files.end; f++) {
        double size = (double)MAX(drives->file_bytes[f], (uint64_t)1), speed = speed_of_file(drives, f, speeds);
        bytes += size;
        seconds += size / speed;
    }
    return drives->together * bytes / seconds;
}

static void best_speeds(double *speeds, const struct drives *drives)
{
    for (uint32_t d = 0; d < drives->count; d++)
        speeds[d] = drives->storages[d].bytes_per_second;
}

static void shares_of(double *shares, const struct drives *drives, struct file_range files)
{
    double speeds[HARDWARE_MAX_DRIVES], all = 0;
    best_speeds(speeds, drives);
    for (uint32_t d = 0; d < drives->count; d++)
        shares[d] = 0;
    for (uint32_t f = files.first; f < files.end; f++) {
        double size = (double)drives->file_bytes[f], speed = speed_of_file(drives, f, speeds);
        bool counted[HARDWARE_MAX_DRIVES] = {false};
        all += size;
        for (uint32_t c = 0; c < drives->copy_count; c++) {
            const struct drive_copy *copy = &drives->copies[(size_t)c * drives->file_count + f];
            if (copy->path && !counted[copy->drive])
                shares[copy->drive] += size * speeds[copy->drive] / speed;
            counted[copy->drive] |= copy->path != NULL;
        }
    }
    for (uint32_t d = 0; all > 0 && d < drives->count; d++)
        shares[d] /= all;
}

void drives_shares(double *shares, const struct drives *drives)
{
    shares_of(shares, drives, (struct file_range){0, drives->file_count});
}

/* The speed with "depth" reads in flight. If there are copies, each drive gets its share of these reads. */
static double speed_at(const struct drives *drives, struct file_range files, uint32_t block, uint32_t depth)
{
    double speeds[HARDWARE_MAX_DRIVES], shares[HARDWARE_MAX_DRIVES];
    shares_of(shares, drives, files);
    bool copies = drives->copy_count > 1;
    for (uint32_t d = 0; d < drives->count; d++) {
        double part = copies ? shares[d] * depth : depth;
        /* A part below one means that the drive is idle the rest of the time. */
        speeds[d] = hardware_read_speed(&drives->storages[d], block, (uint32_t)MAX(part + 0.5, 1.0)) * MIN(part, 1.0);
        speeds[d] = MAX(speeds[d], 1.0);
    }
    return speed_of_all(drives, files, speeds);
}

static void as_one(struct storage *out, const struct drives *drives, struct file_range files)
{
    static const uint32_t blocks[] = {4096, 16384, 65536, 262144, 524288, 1u << 20, 2u << 20, 4u << 20};
    static const uint32_t depths[] = {1, 2, 4, 8, 16, 32, 64, 128};
    *out = drives->storages[drives->copies[files.first].drive];
    if (drives->count < 2)
        return;
    double speeds[HARDWARE_MAX_DRIVES], shares[HARDWARE_MAX_DRIVES];
    best_speeds(speeds, drives);
    shares_of(shares, drives, files);
    out->bytes_per_second = speed_of_all(drives, files, speeds);
    out->reading_beside = out->computing_beside = out->latency_seconds = 0;
    out->depth = 0;
    out->sample_count = 0;
    for (uint32_t d = 0; d < drives->count; d++) {
        const struct storage *one = &drives->storages[d];
        if (shares[d] <= 0)
            continue;
        out->direct_supported &= one->direct_supported;
        out->direct_pays &= one->direct_pays;
        out->block_bytes = MIN(out->block_bytes, one->block_bytes);
        out->alignment = MAX(out->alignment, one->alignment);
        out->reading_beside += shares[d] * one->reading_beside;
        out->computing_beside += shares[d] * one->computing_beside;
        out->latency_seconds += shares[d] * one->latency_seconds;
        out->depth = drives->copy_count > 1 ? out->depth + one->depth : MAX(out->depth, one->depth);
    }
    for (size_t b = 0; b < COUNT_OF(blocks); b++)
        for (size_t d = 0; d < COUNT_OF(depths); d++)
            out->samples[out->sample_count++] =
                (struct storage_sample){.block_bytes = blocks[b],
                                        .depth = depths[d],
                                        .direct = out->direct_supported,
                                        .bytes_per_second = speed_at(drives, files, blocks[b], depths[d])};
}

void drives_as_one(struct storage *out, const struct drives *drives)
{
    as_one(out, drives, (struct file_range){0, drives->file_count});
}

static hypura_status join_files(struct drives *drives, hypura_error *error)
{
    if (drives->count < 2)
        return HYPURA_OK;
    TRY(ALLOCATE(&drives->of_files, drives->file_count, "drives of files", error));
    for (uint32_t f = 0; f < drives->file_count; f++)
        as_one(&drives->of_files[f], drives, (struct file_range){f, f + 1});
    return HYPURA_OK;
}

void hardware_set_drives(struct hardware *hardware, struct drives *drives)
{
    hardware_drop_drives(hardware);
    hardware->drives = drives;
    if (drives->count < 2)
        return;
    drives_as_one(&hardware->storage, drives);
    for (uint32_t d = 0; d < drives->count; d++)
        hardware->measured &= drives->measured[d];
}

void hardware_drop_drives(struct hardware *hardware)
{
    drives_free(hardware->drives);
    hardware->drives = NULL;
}

/* ---- all drives at once ------------------------------------------------------------------------------------------ */

#define TOGETHER_SECONDS 1.5

struct together_run {
    struct storage storage;
    char path[1400];
    int file; /* a file without a name, read instead of path; -1: none */
    double speed;
    hypura_status status;
    hypura_error error;
};

static void *read_one(void *context)
{
    struct together_run *run = context;
    struct storage_bench bench = {.storage = &run->storage,
                                  .path = run->path,
                                  .file = run->file,
                                  .block_bytes = run->storage.block_bytes,
                                  .depth = MAX(run->storage.depth, 1u),
                                  .seconds = TOGETHER_SECONDS};
    run->status = hw_bench_storage(&bench, &run->error);
    run->speed = run->status ? 0 : run->storage.samples[0].bytes_per_second;
    return NULL;
}

static hypura_status check_run(const struct together_run *run, hypura_error *error)
{
    return run->status ? error_set(error, run->status, "%s", run->error.message) : HYPURA_OK;
}

hypura_status hardware_measure_together(struct drives *drives, double *alone, double *together, hypura_error *error)
{
    struct together_run *runs;
    pthread_t threads[HARDWARE_MAX_DRIVES];
    TRY(ALLOCATE(&runs, drives->count, "drives", error));
    hypura_status status = HYPURA_OK;
    for (uint32_t i = 0; i < drives->count; i++)
        runs[i].file = -1;
    for (uint32_t i = 0; !status && i < drives->count; i++) {
        const char *path = NULL;
        for (uint32_t c = 0; !path; c++)
            path = drives->copies[c].drive == i ? drives->copies[c].path : NULL;
        runs[i].storage = drives->storages[i];
        status = hw_file_to_read(&runs[i].file, runs[i].path, sizeof runs[i].path, path, error);
    }
    double sum = 0, all = 0;
    for (uint32_t i = 0; !status && i < drives->count; i++) {
        read_one(&runs[i]);
        status = check_run(&runs[i], error);
        alone[i] = runs[i].speed;
        sum += alone[i];
    }
    uint32_t started = 0;
    for (; !status && started < drives->count; started++) {
        int failed = pthread_create(&threads[started], NULL, read_one, &runs[started]);
        if (failed)
            status = error_set_errno(error, failed, "cannot start a thread for reading");
        if (failed)
            break;
    }
    for (uint32_t i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        status = status ? status : check_run(&runs[i], error);
        together[i] = runs[i].speed;
        all += together[i];
    }
    for (uint32_t i = 0; i < drives->count; i++)
        if (runs[i].file >= 0)
            close(runs[i].file);
    memory_free(runs);
    if (status)
        return status;
    drives->together = MIN(all / MAX(sum, 1.0), 1.0);
    hypura_error problem;
    char path[4096];
    json_t *root = json_pack("{s:f}", "share_of_sum", drives->together);
    if (root && together_path(drives, path, sizeof path) && hw_save_json(path, root, &problem))
        log_write(LOG_WARNING, "the combined speed of the drives was not cached: %s", problem.message);
    json_decref(root);
    return HYPURA_OK;
}
