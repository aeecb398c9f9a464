#include "store/mirrors.h"

#include "core/samples.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SAMPLES 64u
#define SAMPLE_BYTES ((size_t)16 << 10)
#define SPLIT_SUFFIX_BYTES 20 /* "-00001-of-00003.gguf" */

/* The path at which a mirror would have file number "file" of "count". */
static bool place_of(char *out, size_t room, const char *mirror, const char *path, uint32_t file, uint32_t count)
{
    struct stat info;
    const char *slash = strrchr(path, '/');
    size_t size = strlen(mirror);
    if (stat(mirror, &info) == 0 && S_ISDIR(info.st_mode))
        return snprintf(out, room, "%s/%s", mirror, slash ? slash + 1 : path) < (int)room;
    if (count == 1)
        return snprintf(out, room, "%s", mirror) < (int)room;
    if (size <= SPLIT_SUFFIX_BYTES)
        return false;
    return snprintf(out, room, "%.*s-%05u-of-%05u.gguf", (int)(size - SPLIT_SUFFIX_BYTES), mirror, file + 1, count) <
           (int)room;
}

/* NULL: the two files have the same size and the same samples; else what differs. */
static const char *compare(int one, int other, uint8_t *memory)
{
    struct stat a, b;
    if (fstat(one, &a) || fstat(other, &b))
        return "cannot be looked at";
    if (!S_ISREG(b.st_mode))
        return "is not a regular file";
    if (a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return "is the model itself";
    if (a.st_size != b.st_size)
        return "has another size than the model";
    uint64_t bytes = (uint64_t)a.st_size;
    size_t sample = (size_t)MIN((uint64_t)SAMPLE_BYTES, bytes);
    struct random random;
    random_seed(&random, bytes);
    for (uint32_t i = 0; sample && i <= SAMPLES; i++) {
        uint64_t step = (bytes - sample) / SAMPLES;
        /* The first sample is the beginning, the last one the end. */
        uint64_t at = i == SAMPLES ? bytes - sample : i * step + (i && step ? random_next(&random) % step : 0);
        if (!samples_read(one, memory, sample, at))
            return NULL; /* the fault is not the mirror's */
        if (!samples_read(other, memory + SAMPLE_BYTES, sample, at))
            return "cannot be read";
        if (memcmp(memory, memory + SAMPLE_BYTES, sample) != 0)
            return "has other bytes than the model";
    }
    return NULL;
}

static void close_samples(int file)
{
#ifdef POSIX_FADV_DONTNEED
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
#endif
    close(file);
}

/* Whether a copy can replace a file; a warning says why not. */
static bool is_a_copy(const char *path, const char *mirror, uint8_t *memory)
{
    int one = samples_open(path);
    if (one < 0)
        return false; /* opening it later returns the error */
    int other = samples_open(mirror);
    if (other < 0) {
        log_write(LOG_WARNING, "the mirror %s cannot be opened and is not used: %s", mirror, strerror(errno));
        close_samples(one);
        return false;
    }
    const char *problem = compare(one, other, memory);
    if (problem)
        log_write(LOG_WARNING, "the mirror %s %s and is not used", mirror, problem);
    close_samples(one);
    close_samples(other);
    return !problem;
}

/* The path of a copy of a file with experts: next to the copy of the model. */
static bool place_of_experts(char *out, size_t room, const char *mirror, const char *path, const char *first,
                             uint32_t parts)
{
    char copy[PATH_MAX];
    const char *ending = strrchr(path, '.');
    struct stat info;
    if (stat(mirror, &info) == 0 && S_ISDIR(info.st_mode))
        return place_of(out, room, mirror, path, 0, 1) && access(out, F_OK) == 0;
    return ending && place_of(copy, sizeof copy, mirror, first, 0, parts) &&
           snprintf(out, room, "%s%s", copy, ending) < (int)room && access(out, F_OK) == 0;
}

hypura_status mirrors_find(struct drives **out, const struct hardware *hardware, const char *const *paths,
                           uint32_t file_count, uint32_t parts, const char *const *mirrors, size_t mirror_count,
                           hypura_error *error)
{
    if (mirror_count >= HARDWARE_MAX_COPIES)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%zu mirrors were given; expected at most %d", mirror_count,
                         HARDWARE_MAX_COPIES - 1);
    uint32_t copies = 1 + (uint32_t)mirror_count;
    const char **all;
    char *names = NULL;
    uint8_t *memory = NULL;
    hypura_status status = ALLOCATE(&all, (size_t)file_count * copies, "copies of files", error);
    if (status)
        return status;
    if (mirror_count)
        status = ALLOCATE(&names, (size_t)file_count * mirror_count * PATH_MAX, "copies of files", error);
    if (!status && mirror_count)
        status = ALLOCATE(&memory, 2 * SAMPLE_BYTES, "samples of files", error);
    for (uint32_t f = 0; !status && f < file_count; f++) {
        all[f] = paths[f];
        for (uint32_t m = 0; m < mirror_count; m++) {
            char *name = names + ((size_t)m * file_count + f) * PATH_MAX;
            if (f >= parts) {
                if (place_of_experts(name, PATH_MAX, mirrors[m], paths[f], paths[0], parts) &&
                    is_a_copy(paths[f], name, memory))
                    all[(size_t)(m + 1) * file_count + f] = name;
            } else if (!place_of(name, PATH_MAX, mirrors[m], paths[f], f, parts))
                log_write(LOG_WARNING, "the mirror %s is not part of a split model with %u parts and is not used",
                          mirrors[m], parts);
            else if (is_a_copy(paths[f], name, memory))
                all[(size_t)(m + 1) * file_count + f] = name;
        }
    }
    if (!status)
        status = hardware_find_drives(out, hardware, all, file_count, copies, error);
    memory_free(memory);
    memory_free(names);
    memory_free(all);
    return status;
}
