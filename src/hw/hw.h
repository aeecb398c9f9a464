/* hw: what the machine is and how fast: CPU, memory, storage, and where the cgroup draws the line.
 *
 * hardware_detect is quick (no measurement): speeds come from the profile of this machine and drive when one is cached,
 * else they are careful defaults; sizes of memory are read anew at every call. hardware_profile measures, and caches.
 * Profiles are JSON files in the user's cache folder (XDG_CACHE_HOME/hypura), one per machine and drive, replaced as a
 * whole; one that cannot be understood counts as none. Nothing here keeps state; every function may be called from
 * any thread.
 *
 * Only drives are written to here, and only where hardware_profile needs a file to read and was given none.
 */
#ifndef HYPURA_HW_H
#define HYPURA_HW_H

#include "compute/vulkan/gpu.h"
#include "core/core.h"
#include "format/format.h"

/* Every direct read starts, ends and lands at multiples of this. A file system that wants more counts as one without
 * direct I/O. */
#define STORAGE_ALIGNMENT 4096u

/* Bandwidth of reads of one size at one depth. */
struct storage_sample {
    uint32_t block_bytes;
    uint32_t depth; /* reads in flight */
    bool direct;
    bool sequential;
    double bytes_per_second;
};

#define STORAGE_MAX_SAMPLES 256

struct storage {
    char path[1024];         /* that was asked about */
    char file_system[64];    /* "ext4", "tmpfs" ... */
    char device[128];        /* "vda", or empty */
    bool direct_supported;   /* O_DIRECT (F_NOCACHE on macOS) works on this file system */
    bool direct_pays;        /* and is at least as quick */
    uint32_t alignment;      /* that direct reads need at least, of offsets and memory: 512 or 4096 */
    double bytes_per_second; /* seen at the chosen size and half the chosen depth; into huge pages */
    double reading_beside;   /* of that, what is left while all cores compute from memory; at most 1 */
    double computing_beside; /* and of their speed meanwhile; at most 1 */
    double latency_seconds;  /* of one 4 KiB random read at depth 1 */
    uint32_t block_bytes;    /* chosen for the reader */
    uint32_t depth;
    struct storage_sample samples[STORAGE_MAX_SAMPLES];
    size_t sample_count;
};

/* Weights of one type through the matrix-vector kernel, all cores: bytes of weights a second. */
struct kernel_speed {
    enum tensor_type type;
    double bytes_per_second;
};

#define HARDWARE_MAX_KERNELS 16
#define HARDWARE_MAX_GPUS 8

/* What a layer takes on a GPU that was not measured, seen with barriers on a large card: six launches or more, each of
 * which waits for the one before; and more where there is a router. */
#define GPU_LAYER_SECONDS 45e-6
#define GPU_ROUTER_SECONDS 25e-6

/* A device that computes (compute/vulkan/gpu.h), and how fast. */
struct hardware_gpu {
    uint32_t index; /* in gpu_list's order */
    struct gpu_info info;
    double memory_bytes_per_second;
    double upload_bytes_per_second; /* from memory of the host */
    double turn_seconds;            /* to send a batch of commands, and to see that it is done */
    double layer_seconds;           /* what a dense layer takes for one token, but for reading its weights */
    double float_layer_seconds;     /* the same of types that are multiplied as floats */
    double router_seconds;          /* more, of a layer with experts */
    double share_seconds;           /* what a share of the CPU's between two batches takes, but for the work itself */
    double multiply_adds_per_second;
    struct kernel_speed kernels[HARDWARE_MAX_KERNELS];
    size_t kernel_count;
    bool measured; /* else careful defaults */
};

#define HARDWARE_MAX_DRIVES 8
#define HARDWARE_MAX_COPIES 8 /* of a file, itself among them */

/* The drives that a model's files and copies of them are on. */
struct drives {
    uint32_t count, file_count, copy_count;
    struct storage storages[HARDWARE_MAX_DRIVES];
    bool measured[HARDWARE_MAX_DRIVES]; /* by a profile */
    double together;                    /* of the sum of their speeds, what is left while all read; 1 where not known */
    uint64_t *file_bytes;               /* [file_count] */
    struct storage *of_files;           /* [file_count] those that have a file, as one; NULL: there is one drive */
    struct drive_copy {
        char *path; /* NULL: there is no such copy */
        uint32_t drive;
    } * copies; /* [copy_count][file_count]; the first are the model's own files */
};

struct hardware {
    char cpu[128];
    char instructions[64];       /* "AVX2 AVX-512 VNNI BF16" */
    size_t cores;                /* that we may run on and have time on */
    uint64_t cache_l1, cache_l2; /* bytes of data cache a core; 0 unknown */
    uint64_t cache_l3;           /* of all that our cores have */
    uint64_t memory_total;
    uint64_t memory_available;       /* now, page cache that can be dropped counted as available */
    uint64_t cgroup_limit;           /* of the group (ours or one above) with the least room left; UINT64_MAX: none */
    uint64_t cgroup_used;            /* in that group, page cache that can be dropped not counted; 0 without a limit */
    double memory_bytes_per_second;  /* all cores reading */
    double compute_bytes_per_second; /* quantised weights through the matrix-vector kernels, all cores */
    double multiply_adds_per_second; /* of long prompts: quantised weights times many tokens, all cores */
    struct kernel_speed kernels[HARDWARE_MAX_KERNELS];
    size_t kernel_count;
    bool measured;                               /* speeds come from a profile, not from defaults */
    struct storage storage;                      /* where files are on several drives, all of these as one */
    struct drives *drives;                       /* which, where hardware_set_drives was told; else NULL */
    struct hardware_gpu gpus[HARDWARE_MAX_GPUS]; /* those that a profile measured */
    size_t gpu_count;
    bool elsewhere; /* another machine, as it was described: what gpus tells is what it has, and none is opened */
};

/* path: a file or folder on the storage in question. */
hypura_status hardware_detect(struct hardware *out, const char *path, hypura_error *error);

/* The storage part alone, for one file of several: what lies under path and whether direct reads work there. */
hypura_status hardware_detect_storage(struct storage *out, const char *path, hypura_error *error);

/* Finds the drives of files and of copies of them: paths[copies][files], NULL where there is none; the first are the
 * files themselves. Speeds are those of profiles. */
hypura_status hardware_find_drives(struct drives **out, const struct hardware *hardware, const char *const *paths,
                                   uint32_t files, uint32_t copies, hypura_error *error);
void drives_free(struct drives *drives);

/* The part of all bytes of the files that each drive is to bring, when every file is read as often: [drives->count]. */
void drives_shares(double *shares, const struct drives *drives);

/* All drives as one, which reads every file as often: what the planner counts on. */
void drives_as_one(struct storage *out, const struct drives *drives);

/* From here on the hardware's storage is these drives; it owns them until hardware_drop_drives. */
void hardware_set_drives(struct hardware *hardware, struct drives *drives);
void hardware_drop_drives(struct hardware *hardware);

/* Reads of each drive alone, then of all at once, some seconds: alone and together are [drives->count] bytes per
 * second. Sets drives->together, and keeps it with the profiles. */
hypura_status hardware_measure_together(struct drives *drives, double *alone, double *together, hypura_error *error);

/* Bytes a second of the kernel for a type: measured where it was, else compute_bytes_per_second. */
double hardware_kernel_speed(const struct hardware *hardware, enum tensor_type type);

/* ---- other machines
 * --------------------------------------------------------------------------------------------------
 */

/* A machine that others published figures of. */
struct hardware_published {
    const char *name;   /* "m1-max-32gb" */
    const char *title;  /* "Apple M1 Max, 32 GB" */
    const char *source; /* where the figures are from, and which of them are derived: sentences */
};

size_t hardware_published_count(void);
const struct hardware_published *hardware_published_at(size_t index);

/* By name, case ignored; NULL when there is none. */
const struct hardware_published *hardware_published(const char *name);
void hardware_of_published(struct hardware *out, const struct hardware_published *machine);

/* A machine as "hypura profile --json" describes it. what: the name of the text, for errors. */
hypura_status hardware_of_profile(struct hardware *out, const char *text, size_t size, const char *what,
                                  hypura_error *error);

/* What is going on ("storage: direct random reads of 64 KiB") and how much of the whole is done, from 0 to 1. Returns
 * false to stop. */
typedef bool (*hardware_progress)(void *context, const char *what, double done);

/* Which devices compute. choice: "auto" (all cards with memory of their own; where there are none the best device that
 * is no program on the CPU), "none", or numbers ("0,2"; one that stands there twice counts as two); NULL: what
 * HYPURA_GPU in the environment says, else auto. why (room bytes) gets a sentence on what was wanted and is not there,
 * or is empty. The loader of devices is not opened where "auto" would find none. */
struct hardware_choice {
    size_t count; /* 0: none */
    bool listed;  /* by number: the caller wants these and no others */
    struct hardware_gpu gpus[HARDWARE_MAX_GPUS];
};
hypura_status hardware_choose_gpus(const char *choice, struct hardware_choice *out, char *why, size_t room,
                                   hypura_error *error);

/* Fills the speeds of a chosen device from the profile, else with careful defaults. */
void hardware_gpu_speeds(const struct hardware *hardware, struct hardware_gpu *gpu);

/* Measures a device, in some seconds. */
hypura_status hardware_measure_gpu(struct hardware_gpu *gpu, hypura_error *error);

/* Measures the devices of "auto", or those that were chosen, each kind once, and caches that with the profile. */
hypura_status hardware_profile_gpus(struct hardware *hardware, const char *choice, hardware_progress progress,
                                    void *context, hypura_error *error);

/* Bytes of weights a second through the matrix-vector kernel of a type. */
double hardware_gpu_kernel_speed(const struct hardware_gpu *gpu, enum tensor_type type);

/* What a layer with weights of a type takes besides reading them. */
double hardware_gpu_layer_seconds(const struct hardware_gpu *gpu, enum tensor_type type, bool experts);

/* The file in the user's cache folder where a device's compiled kernels are kept; false when there is no such folder.
 */
bool hardware_gpu_cache_path(const struct hardware_gpu *gpu, char *path, size_t room);

/* Bytes per second of reads of one size with "depth" in flight: between the measured samples, or without any by the
 * latency of one read and the best bandwidth. */
double hardware_read_speed(const struct storage *storage, uint64_t block_bytes, uint32_t depth);

/* Seconds that computing and reading take side by side which take so long each alone. While both go on each has the
 * share of its speed that was measured next to the other; what is left of the longer one then has all of its own. */
double hardware_side_by_side(const struct storage *storage, double compute_seconds, double read_seconds);

/* Measures the machine and the drive that path is on, in less than 20 seconds, and caches the result where it can.
 * path: a file of 64 MiB or more is read itself: best the model that is to run, since what a drive gives may be the
 * file's as much as the drive's (a host's cache, compression). For a smaller one, or a folder, the largest file there
 * of 1 GiB or more; without one a nameless temporary file of up to 1 GiB (at most a tenth of what is free) is written
 * next to it, read, and gone at the end, however that comes. */
hypura_status hardware_profile(struct hardware *out, const char *path, hardware_progress progress, void *context,
                               hypura_error *error);

/* Called after every sample of a bench. Returns false to stop. */
typedef bool (*storage_visitor)(void *context, const struct storage_sample *sample, size_t done, size_t total);

/* The storage part at length: every block size from 4 KiB to 4 MiB at every depth from 1 to 64, random and sequential,
 * direct and through the page cache, each for this many seconds (0: 1). Fills everything of *out, and keeps no profile.
 * The file is read only; its pages in the page cache are dropped. */
hypura_status hardware_iobench(struct storage *out, const char *path, double seconds, storage_visitor visit,
                               void *context, hypura_error *error);

/* Random reads of one size with "depth" in flight, for this many seconds. */
hypura_status hardware_iobench_point(double *bytes_per_second, const char *path, uint32_t block_bytes, uint32_t depth,
                                     double seconds, hypura_error *error);

/* Reads memory with so many threads at times that the caller chooses, so that what else was measured between can be
 * compared with it although other users of the machine come and go. Holds some times what the caches do, at most an
 * eighth of the memory that is free when it is opened. */
struct memory_meter;
hypura_status memory_meter_open(struct memory_meter **out, const struct hardware *hardware, size_t threads,
                                hypura_error *error);
void memory_meter_close(struct memory_meter *meter);
double memory_meter_read(struct memory_meter *meter); /* bytes per second, of one pass of some milliseconds */

/* ---- nodes of memory -----------------------------------------------------------------------------------------------
 */

#define HARDWARE_MAX_NODES 8
#define HARDWARE_CPU_WORDS 16 /* of 64 processors each */

/* The nodes (sockets) whose processors this process may run on. With one there is nothing to decide. */
struct hardware_nodes {
    uint32_t count;
    struct hardware_node {
        uint32_t number; /* the system's */
        uint32_t cores;
        uint64_t cpus[HARDWARE_CPU_WORDS];
    } nodes[HARDWARE_MAX_NODES];
    bool place; /* memory may be put on each of them, and nobody else decides where (numactl) */
};

void hardware_find_nodes(struct hardware_nodes *out);

/* The first of so many threads that is on a node: each has as many as its part of the cores, neighbours together. Of
 * nodes->count it is all threads. */
size_t hardware_first_thread(const struct hardware_nodes *nodes, uint32_t node, size_t threads);

/* Where fresh memory comes to lie when it is written to first: on one node if there is room, or on all in turn. Whole
 * pages inside the range; nothing where place is false. */
void hardware_place(const struct hardware_nodes *nodes, uint32_t node, void *memory, size_t bytes);
void hardware_interleave(const struct hardware_nodes *nodes, void *memory, size_t bytes);

/* How fast this many threads read memory now, at best. Takes some tenths of a second, and as much memory as a meter. */
hypura_status hardware_measure_memory(const struct hardware *hardware, size_t threads, double *bytes_per_second,
                                      hypura_error *error);

/* What a process may take by default: the least of free memory and the room in the cgroup, less a head-room. */
uint64_t hardware_default_budget(const struct hardware *hardware);

/* Bytes of code and libraries that this process has in memory now (pages that belong to files). */
uint64_t hardware_code_bytes(void);

#endif
