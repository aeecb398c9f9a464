/* The whole measurement: memory, kernels, storage. The result is cached. */
#include "hw/hw_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)

/* Smaller files fit in a drive's own cache. */
#define LARGE_FILE (64 * MIB)
#define LARGEST_TEMPORARY (1024 * MIB)
#define SMALLEST_TEMPORARY (16 * MIB)
#define FLUSH_EVERY (32 * MIB)

/* Parts of the 20 seconds: writing a file to read, or reading an existing one once, and the samples. In addition,
 * memory and kernels take 3 seconds at the start and 2 at the end, and reading next to computing takes 3. */
#define WRITE_SECONDS 3.0
#define FIRST_SECONDS 2.0
#define SAMPLE_SECONDS 0.07
#define STORAGE_SECONDS 7.5

/* The progress at the end of each part. */
#define DONE_MEMORY 0.05
#define DONE_KERNELS 0.2
#define DONE_FILE 0.3

struct profiling {
    hardware_progress progress;
    void *context;
};

static bool tell(const struct profiling *profiling, const char *what, double done)
{
    return !profiling->progress || profiling->progress(profiling->context, what, done);
}

static bool tell_sample(void *context, const struct storage_sample *sample, size_t done, size_t total)
{
    char what[96], block[32];
    format_bytes(block, sizeof block, sample->block_bytes);
    snprintf(what, sizeof what, "storage: %s %s reads of %s, %u in flight", sample->direct ? "direct" : "cached",
             sample->sequential ? "sequential" : "random", block, sample->depth);
    return tell(context, what, DONE_FILE + (1 - DONE_FILE) * (double)done / (double)total);
}

/* Opens a file without a name, which disappears however the program ends. */
static int open_nameless(const char *folder)
{
#ifdef O_TMPFILE
    int file = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file >= 0)
        return file;
#endif
    char path[1200];
    if (snprintf(path, sizeof path, "%s/.hypura-profile-XXXXXX", folder) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int named = mkstemp(path);
    if (named >= 0)
        unlink(path);
    return named;
}

/* Writes random bytes, because drives and file systems that compress must not find a pattern. */
static hypura_status fill_file(int file, uint64_t bytes, const char *folder, hypura_error *error)
{
    const size_t piece = 4 * MIB;
    uint64_t *words = NULL;
    hypura_status status = ALLOCATE(&words, piece / sizeof *words, "temporary file", error);
    if (status != HYPURA_OK)
        return status;
    struct random random;
    random_seed(&random, clock_nanoseconds());
    for (size_t i = 0; i < piece / sizeof *words; i++)
        words[i] = random_next(&random);
    uint64_t started = clock_nanoseconds(), written = 0;
    while (written < bytes && (written < SMALLEST_TEMPORARY || clock_seconds_since(started) < WRITE_SECONDS)) {
        /* All pieces differ, because some drives detect copies. */
        for (size_t i = 0; i < piece / sizeof *words; i += 64)
            words[i] = random_next(&random);
        for (size_t done = 0; done < piece;) {
            ssize_t size = write(file, (char *)words + done, piece - done);
            if (size == 0 || (size < 0 && errno != EINTR)) {
                status =
                    error_set_errno(error, size < 0 ? errno : ENOSPC, "cannot write a temporary file in %s", folder);
                memory_free(words);
                return status;
            }
            done += size > 0 ? (size_t)size : 0;
        }
        written += piece;
        /* The time limit is for writing to the drive. Without flushes, data would only reach the page cache. */
        if (written % FLUSH_EVERY == 0 && fsync(file))
            break;
    }
    memory_free(words);
    if (fsync(file))
        return error_set_errno(error, errno, "cannot write a temporary file in %s", folder);
    return HYPURA_OK;
}

static hypura_status make_file(int *out, const char *folder, hypura_error *error)
{
    struct statvfs space;
    if (statvfs(folder, &space))
        return error_set_errno(error, errno, "cannot look at %s", folder);
    uint64_t available = (uint64_t)space.f_bavail * space.f_frsize;
    uint64_t bytes = MIN(available / 10, LARGEST_TEMPORARY) / (4 * MIB) * (4 * MIB);
    if (bytes < SMALLEST_TEMPORARY)
        return error_set(error, HYPURA_ERROR_IO, "%s has no room for a temporary file: name a large file instead",
                         folder);
    int file = open_nameless(folder);
    if (file < 0)
        return error_set_errno(error, errno, "cannot create a temporary file in %s: name a large file instead", folder);
    hypura_status status = fill_file(file, bytes, folder, error);
    if (status != HYPURA_OK) {
        close(file);
        return status;
    }
    *out = file;
    return HYPURA_OK;
}

bool hw_find_large_file(const char *folder, uint64_t least, char *path, size_t room)
{
    DIR *listing = opendir(folder);
    uint64_t largest = least;
    bool found = false;
    if (!listing)
        return false;
    for (const struct dirent *entry; (entry = readdir(listing));) {
        struct stat info;
        char name[1400];
        /* Skip files with holes, which are read at the speed of memory. */
        if (snprintf(name, sizeof name, "%s/%s", folder, entry->d_name) >= (int)MIN(sizeof name, room) ||
            lstat(name, &info) || !S_ISREG(info.st_mode) || (uint64_t)info.st_size < largest ||
            (uint64_t)info.st_blocks * 512 < (uint64_t)info.st_size || access(name, R_OK))
            continue;
        largest = (uint64_t)info.st_size;
        snprintf(path, room, "%s", name);
        found = true;
    }
    closedir(listing);
    return found;
}

hypura_status hw_file_to_read(int *file, char *name, size_t room, const char *path, hypura_error *error)
{
    struct stat info;
    char folder[1024];
    *file = -1;
    if (stat(path, &info))
        return error_set_errno(error, errno, "cannot look at %s", path);
    if (snprintf(name, room, "%s", path) >= (int)room)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path %.100s... is too long", path);
    if (S_ISREG(info.st_mode) && (uint64_t)info.st_size >= LARGE_FILE)
        return HYPURA_OK;
    snprintf(folder, sizeof folder, "%s", path);
    if (!S_ISDIR(info.st_mode)) {
        char *slash = strrchr(folder, '/');
        snprintf(slash ? slash + (slash == folder) : folder, 2, "%s", slash ? "" : ".");
    }
    /* Prefer an existing file: the host of a virtual machine may still cache one that was just written. */
    return hw_find_large_file(folder, LARGEST_TEMPORARY, name, room) ? HYPURA_OK : make_file(file, folder, error);
}

static hypura_status measure_storage(struct hardware *found, const char *path, const struct profiling *profiling,
                                     hypura_error *error)
{
    char name[1400];
    struct storage_bench bench = {.storage = &found->storage,
                                  .path = name,
                                  .file = -1,
                                  .seconds = SAMPLE_SECONDS,
                                  .first_seconds = FIRST_SECONDS,
                                  .limit_seconds = STORAGE_SECONDS,
                                  .beside = found,
                                  .visit = tell_sample,
                                  .context = (void *)profiling};
    if (!tell(profiling, "storage: finding or writing a file to read", DONE_KERNELS))
        return error_set(error, HYPURA_ERROR_CANCELLED, "the measurement was stopped");
    TRY(hw_file_to_read(&bench.file, name, sizeof name, path, error));
    if (bench.file >= 0)
        bench.first_seconds = 0;
    hypura_status status = HYPURA_OK;
    if (bench.file < 0 && !tell(profiling, "storage: reading the file once", DONE_KERNELS))
        status = error_set(error, HYPURA_ERROR_CANCELLED, "the measurement was stopped");
    if (!status)
        status = hw_bench_storage(&bench, error);
    if (bench.file >= 0)
        close(bench.file);
    return status;
}

/* The mean speed of doing the same work once at each of two speeds. */
static double mean_speed(double a, double b)
{
    return 2 * a * b / (a + b);
}

/* Measures the kernels a second time. All types together take about two seconds, in which other programs may have used
 * a core, or no memory bandwidth at all. Both measurements count equally, because a longer run sees both conditions. */
static hypura_status measure_kernels_again(struct hardware *found, hypura_error *error)
{
    struct hardware again = *found;
    hypura_status status = hw_measure_kernels(&again, error);
    if (status != HYPURA_OK)
        return status;
    for (size_t i = 0; i < MIN(found->kernel_count, again.kernel_count); i++) {
        struct kernel_speed *one = &found->kernels[i], *other = &again.kernels[i];
        one->bytes_per_second = mean_speed(one->bytes_per_second, other->bytes_per_second);
        one->few_per_second = mean_speed(one->few_per_second, other->few_per_second);
        one->many_per_second = mean_speed(one->many_per_second, other->many_per_second);
    }
    found->compute_bytes_per_second = mean_speed(found->compute_bytes_per_second, again.compute_bytes_per_second);
    found->multiply_adds_per_second = mean_speed(found->multiply_adds_per_second, again.multiply_adds_per_second);
    found->memory_bytes_per_second = again.memory_bytes_per_second; /* the best so far */
    return HYPURA_OK;
}

hypura_status hardware_profile(struct hardware *out, const char *path, hardware_progress progress, void *context,
                               hypura_error *error)
{
    struct profiling profiling = {progress, context};
    struct hardware found;
    hypura_status status = hardware_detect(&found, path, error);
    if (status != HYPURA_OK)
        return status;
    if (!tell(&profiling, "memory", 0))
        return error_set(error, HYPURA_ERROR_CANCELLED, "the measurement was stopped");
    status = hardware_measure_memory(&found, found.cores, &found.memory_bytes_per_second, error);
    if (status == HYPURA_OK && !tell(&profiling, "kernels", DONE_MEMORY))
        status = error_set(error, HYPURA_ERROR_CANCELLED, "the measurement was stopped");
    if (status == HYPURA_OK)
        status = hw_measure_kernels(&found, error);
    if (status == HYPURA_OK)
        status = measure_storage(&found, path, &profiling, error);
    if (status == HYPURA_OK)
        status = measure_kernels_again(&found, error);
    if (status != HYPURA_OK)
        return status;
    found.measured = true;
    /* The figures are valid even if they cannot be cached. */
    hypura_error problem;
    if (hw_save_profile(&found, &problem) != HYPURA_OK)
        log_write(LOG_WARNING, "the profile was not cached: %s", problem.message);
    tell(&profiling, "done", 1);
    *out = found;
    return HYPURA_OK;
}
