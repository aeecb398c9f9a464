/* Functions that the files of hw share with each other and with their tests. "root" is a prefix of every absolute path
 * that is read, so that tests can present a machine of their own. Elsewhere it is "". */
#ifndef HYPURA_HW_PRIVATE_H
#define HYPURA_HW_PRIVATE_H

#include "hw/hw.h"

#include <jansson.h>

/* Reads a small text file, as far as there is room. false: it cannot be opened. text is always NUL-terminated. */
bool hw_read_text(const char *path, char *text, size_t room);

void hw_detect_cpu(struct hardware *out);
void hw_detect_memory(struct hardware *out, const char *root);

/* Free memory in bytes: of the machine or of the control group, whichever is less. */
uint64_t hw_memory_room(const struct hardware *hardware);

/* One row of /proc/self/mountinfo (man 5 proc_pid_mountinfo). */
struct mount_row {
    char root[1024]; /* the mounted folder of the file system */
    char point[1024];
    char type[64];
    char source[256];
    char options[512]; /* of the file system */
};

/* Calls visit for every mount, oldest first, until it returns false. */
typedef bool (*mount_visitor)(void *context, const struct mount_row *row);
void hw_walk_mounts(const char *root, mount_visitor visit, void *context);

/* Finds the control group with the least room, among this process's group and those above it: its memory limit, and the
 * bytes that it uses. No limit: UINT64_MAX and 0. */
void hw_cgroup_memory(const char *root, uint64_t *limit, uint64_t *used);

/* policy: the memory policy that this process was started with. bound: for HW_POLICY_BIND, the set of its nodes. */
enum hw_policy { HW_POLICY_NONE, HW_POLICY_BIND, HW_POLICY_OTHER };
void hw_find_nodes(struct hardware_nodes *out, const char *root, enum hw_policy policy, uint64_t bound);

/* The number of cores that this process may use. A core may have several processors (hyper-threads), but threads that
 * share a core compete for its units and gain next to nothing. If the system does not report cores: the processors. */
size_t hw_physical_cores(const char *root);

/* The processor time that this process's control group and those above it allow, in cores, rounded up. SIZE_MAX: no
 * limit. */
size_t hw_cgroup_cores(const char *root);

/* Chooses from a list of at least one device as "auto" does: all discrete cards; without any, the best other device
 * that is not a program on the CPU. If none can be used, out->count is 0 and why[room] gets the reason. */
void hw_choose_gpus(const struct gpu_info *gpus, size_t count, struct hardware_choice *out, char *why, size_t room);

/* The entry of hardware->gpus with this device's name and driver. NULL: none was measured. */
struct hardware_gpu *hw_find_measured_gpu(const struct hardware *hardware, const struct gpu_info *info);

/* ---- measuring --------------------------------------------------------------------------------------------------- */

/* One run of reads. The data is not used. */
struct read_run {
    int file;
    uint64_t file_bytes; /* at least one block */
    uint32_t block_bytes, depth;
    bool sequential;
    bool once;           /* read no block twice: the page cache would return it at the speed of memory */
    bool threads;        /* use threads even if io_uring is available */
    uint64_t seed;       /* determines where random reads start */
    double seconds;      /* the least duration; with "once", the run may end sooner */
    void *memory;        /* aligned for direct reads */
    size_t memory_bytes; /* at least one block; with less than depth blocks, reads in flight share memory */
};

/* Performs the run. *bytes_per_second counts complete reads only. */
hypura_status hw_run_reads(const struct read_run *run, double *bytes_per_second, hypura_error *error);

/* The block that the read with this number reads. Random reads take every block once, in an order without a pattern,
 * before they repeat one. */
uint64_t hw_read_block(const struct read_run *run, uint64_t number);

/* Takes samples of a file, and chooses the reader's block size and depth by them. */
struct storage_bench {
    struct storage *storage; /* in: as detected; out: with samples, choice and speeds */
    const char *path;        /* the file to read */
    int file;      /* a file without a name, read instead of path and opened again by /proc/self/fd; -1: none */
    bool thorough; /* all depths, rather than every second one */
    uint32_t block_bytes,
        depth;            /* take one sample only: random reads of this size and depth, direct if possible; 0: many */
    double seconds;       /* per sample */
    double first_seconds; /* before the samples, read the file once in order, for at most this long */
    double limit_seconds; /* start no sample after this time; 0: no limit */
    const struct hardware *beside; /* also measure the chosen reads while these cores compute; NULL: do not */
    storage_visitor visit;         /* may be NULL */
    void *context;
};
hypura_status hw_bench_storage(const struct storage_bench *bench, hypura_error *error);

/* Finds or writes a file for measuring the drive of a path. For a large file that exists, name[room] gets its path, and
 * *file is -1. Otherwise, *file is a temporary file without a name, which the caller closes. */
hypura_status hw_file_to_read(int *file, char *name, size_t room, const char *path, hypura_error *error);

/* Finds the largest readable file of a folder that has at least this many bytes and no holes. false: there is none. */
bool hw_find_large_file(const char *folder, uint64_t least, char *path, size_t room);

/* Chooses block size and depth by the samples. Among the random direct reads within a few percent of the best, it takes
 * the one with the fewest bytes in flight (at least 4 deep, if there is one), and doubles its depth. Sets block_bytes,
 * depth, bytes_per_second, latency_seconds and direct_pays. */
void hw_choose_reads(struct storage *storage);

/* How many bytes to read for measuring the memory's speed: several times the caches, if there is enough free memory. */
size_t hw_test_bytes(const struct hardware *hardware);

/* Sorts times or speeds, the smallest first. */
void hw_sort(double *values, size_t count);

/* Reads words, a multiple of eight, as fast as memory gives them, and returns their sum. */
uint64_t hw_sum(const uint64_t *words, size_t count);

/* A figure in seconds (per byte, per layer ...) that is measured in rounds: again until two rounds agree within a tenth
 * or there were HW_MOST_ROUNDS. */
#define HW_MOST_ROUNDS 4u
struct hw_figure {
    double best;
    uint32_t rounds, agreeing; /* agreeing: with the best, itself included */
};
void hw_note_round(struct hw_figure *figure, double seconds);
bool hw_is_settled(const struct hw_figure *figure);

/* Measures the kernels. Call it after measuring the memory: it raises memory_bytes_per_second if a kernel reads faster.
 */
hypura_status hw_measure_kernels(struct hardware *out, hypura_error *error);

/* The memory load of decoding. From start to stop, all cores run the matrix-vector kernel over Q4_K weights, controlled
 * by a separate thread. stop returns the bytes of weights per second. */
struct hw_decoding;
hypura_status hw_decoding_open(struct hw_decoding **out, const struct hardware *hardware, hypura_error *error);
void hw_decoding_start(struct hw_decoding *decoding);
double hw_decoding_stop(struct hw_decoding *decoding);
void hw_decoding_close(struct hw_decoding *decoding);

/* Speeds of the drive and of the cores, in bytes per second: each alone, and next to the other.
 *
 * hw_choose_beside sets reading_beside and computing_beside to the medians of the rounds' ratios, at most 1, and
 * bytes_per_second to the median speed of the drive alone. */
struct beside_round {
    double reading_alone, reading_beside;
    double computing_alone, computing_beside;
};
void hw_choose_beside(struct storage *storage, const struct beside_round *rounds, size_t count);

/* ---- cached profiles --------------------------------------------------------------------------------------------- */

/* Sets the speeds from the cached profile of this machine and drive. Without one, returns false and leaves *hardware
 * unchanged. */
bool hw_load_profile(struct hardware *hardware);

/* Writes the profile. Fails if the cache folder cannot be created or written. */
hypura_status hw_save_profile(const struct hardware *hardware, hypura_error *error);

/* Writes or replaces a file of the cache folder atomically, and creates missing folders. */
hypura_status hw_save_json(char *path, const json_t *root, hypura_error *error);

/* The path of this program's cache folder, which may not exist yet. false: there is none, or no room for its path. */
bool hw_cache_folder(char *path, size_t room);

/* The path of this machine and drive's profile. false: as for hw_cache_folder. */
bool hw_profile_path(const struct hardware *hardware, char *path, size_t room);

/* Reads the speeds of memory, kernels, drive and GPUs from a profile. false: the profile is incomplete or invalid, and
 * *hardware is partly filled. */
bool hw_get_speeds(const json_t *root, struct hardware *hardware);

#endif
