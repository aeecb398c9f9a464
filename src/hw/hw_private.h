/* The parts of hw, for each other and for their tests. "root" is put before every absolute path that is read, so that
 * tests can show a machine of their own; it is "" otherwise. */
#ifndef HYPURA_HW_PRIVATE_H
#define HYPURA_HW_PRIVATE_H

#include "hw/hw.h"

#include <jansson.h>

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        hypura_status try_status = (call);                                                                             \
        if (try_status)                                                                                                \
            return try_status;                                                                                         \
    } while (0)

/* Reads a small text file whole; false when it cannot be opened. text is always terminated. */
bool hw_read_text(const char *path, char *text, size_t room);

void hw_detect_cpu(struct hardware *out);
void hw_detect_memory(struct hardware *out, const char *root);

/* What is free, of the machine and of the group. */
uint64_t hw_memory_room(const struct hardware *hardware);

/* One row of /proc/self/mountinfo (man 5 proc_pid_mountinfo). */
struct mount_row {
    char root[1024]; /* of the file system, what is mounted */
    char point[1024];
    char type[64];
    char source[256];
    char options[512]; /* of the file system */
};

/* Calls visit for every mount, in the order in which they were made, until it returns false. */
typedef bool (*mount_visitor)(void *context, const struct mount_row *row);
void hw_walk_mounts(const char *root, mount_visitor visit, void *context);

/* The tightest memory limit on the way from this process's cgroup to the top, and what that group uses. */
void hw_cgroup_memory(const char *root, uint64_t *limit, uint64_t *used);

/* policy: the memory policy that this process was started with (enum hw_policy), bound: of HW_POLICY_BIND its nodes. */
enum hw_policy { HW_POLICY_NONE, HW_POLICY_BIND, HW_POLICY_OTHER };
void hw_find_nodes(struct hardware_nodes *out, const char *root, enum hw_policy policy, uint64_t bound);

/* Cores of the processors that this process may use, of which a core may have several (hyper-threads): threads that
 * share one compete for its units and bring next to nothing. The processors where the system does not tell. */
size_t hw_physical_cores(const char *root);

/* Cores whose time the groups on that way allow, rounded up; SIZE_MAX without a limit. */
size_t hw_cgroup_cores(const char *root);

/* The best of the devices (count is not 0) that can be used and are no program on the CPU; false, and why, when there
 * is none. */
void hw_choose_gpus(const struct gpu_info *gpus, size_t count, struct hardware_choice *out, char *why, size_t room);

/* The one of hardware->gpus that is of this model and driver, NULL: none was measured. */
struct hardware_gpu *hw_find_measured_gpu(const struct hardware *hardware, const struct gpu_info *info);

/* ---- measuring ----------------------------------------------------------------------------------------------------
 */

/* One run of reads, into memory that nobody looks at. */
struct read_run {
    int file;
    uint64_t file_bytes; /* at least one block */
    uint32_t block_bytes, depth;
    bool sequential;
    bool once;           /* no block twice: through the page cache the second time would be memory's speed */
    bool threads;        /* without io_uring even where there is one */
    uint64_t seed;       /* where random reads go */
    double seconds;      /* at least this long and some rounds of the queue, or until the file is used up */
    void *memory;        /* aligned for direct reads */
    size_t memory_bytes; /* at least one block; reads in flight share it when it is less than depth blocks */
};

/* Runs it. bytes_per_second counts whole reads only. */
hypura_status hw_run_reads(const struct read_run *run, double *bytes_per_second, hypura_error *error);

/* The block that read number lands on: all of them once, in an order without a pattern, when random. */
uint64_t hw_read_block(const struct read_run *run, uint64_t number);

/* Samples of an opened file, and block size and depth chosen by them. */
struct storage_bench {
    struct storage *storage; /* detected; samples, choice and speeds are filled in */
    const char *path;        /* that is read */
    int file;      /* instead of path when not -1: a file without a name. It is opened again by /proc/self/fd */
    bool thorough; /* every depth, not every second */
    uint32_t block_bytes,
        depth;            /* only random reads of this size and depth, past the page cache if that can be; 0: many */
    double seconds;       /* a sample */
    double first_seconds; /* before all of them the file is read in order, as far as that goes in this time */
    double limit_seconds; /* no more samples after this; 0: none */
    const struct hardware *beside; /* the chosen reads are also measured beside this machine's cores; NULL: not */
    storage_visitor visit;         /* may be NULL */
    void *context;
};
hypura_status hw_bench_storage(const struct storage_bench *bench, hypura_error *error);

/* What is read to measure the drive of a path: a large file, into name, or one that was written for it and has no name,
 * into *file, which is to be closed; else *file is -1. */
hypura_status hw_file_to_read(int *file, char *name, size_t room, const char *path, hypura_error *error);

/* The largest file of a folder that has at least this many bytes, all of them on the drive, and may be read. */
bool hw_find_large_file(const char *folder, uint64_t least, char *path, size_t room);

/* From samples to block size and depth: of those that come within a few percent of the best random direct read the one
 * with the least in flight (at least 4 deep if there is one), then twice its depth. Fills block_bytes, depth,
 * bytes_per_second, latency_seconds and direct_pays. */
void hw_choose_reads(struct storage *storage);

/* Of memory to read when its speed is measured: several times what the caches hold, as far as a small machine has that.
 */
size_t hw_test_bytes(const struct hardware *hardware);

/* Times or speeds, the smallest first. */
void hw_sort(double *values, size_t count);

/* After the memory: kernels may correct its speed upwards. */
hypura_status hw_measure_kernels(struct hardware *out, hypura_error *error);

/* All cores decoding: weights of the usual type through the matrix-vector kernel, in a thread of their own from start
 * to stop, which gives the bytes per second that they reached. */
struct hw_decoding;
hypura_status hw_decoding_open(struct hw_decoding **out, const struct hardware *hardware, hypura_error *error);
void hw_decoding_start(struct hw_decoding *decoding);
double hw_decoding_stop(struct hw_decoding *decoding);
void hw_decoding_close(struct hw_decoding *decoding);

/* What is left of the drive's and of the cores' speed while both are at work, from rounds in which each was measured
 * alone and both at once: the middle of the rounds' ratios. Speeds alone are set to the middle one as well. */
struct beside_round {
    double reading_alone, reading_beside;
    double computing_alone, computing_beside;
};
void hw_choose_beside(struct storage *storage, const struct beside_round *rounds, size_t count);

/* ---- cached profiles ----------------------------------------------------------------------------------------------
 */

/* Fills the speeds from the cached profile of this machine and drive; false, with *hardware untouched, without one. */
bool hw_load_profile(struct hardware *hardware);

/* Errors when the cache folder cannot be made or written. */
hypura_status hw_save_profile(const struct hardware *hardware, hypura_error *error);

/* Replaces a file of the cache folder as a whole. */
hypura_status hw_save_json(char *path, const json_t *root, hypura_error *error);

/* The user's cache folder of this program; it need not exist. */
bool hw_cache_folder(char *path, size_t room);

/* Where that profile is; false when there is no place for it. */
bool hw_profile_path(const struct hardware *hardware, char *path, size_t room);

/* Speeds, kernels, drive and GPUs of a profile, into what is known of the machine. */
bool hw_get_speeds(const json_t *root, struct hardware *hardware);

#endif
