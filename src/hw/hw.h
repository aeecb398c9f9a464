/* hw: what the machine has and how fast it is: CPU, memory, GPUs, storage, and the limits of control groups.
 *
 * hardware_detect measures nothing. Speeds come from the cached profile of this machine and drive; without one they are
 * careful defaults. Sizes of memory are read at every call. hardware_profile measures, and caches the result. Profiles
 * are JSON files in the user's cache folder (XDG_CACHE_HOME/hypura), one per machine and drive, and replaced as a
 * whole. An invalid one is ignored. Nothing here keeps state; any thread may call every function.
 *
 * Nothing here writes to a drive, except profiles, and hardware_profile if it needs a file to read and was given none.
 */
#ifndef HYPURA_HW_H
#define HYPURA_HW_H

#include "compute/vulkan/gpu.h"
#include "core/core.h"
#include "format/format.h"

/* The alignment of every direct read, in file and memory. A file system that needs more counts as one without direct
 * I/O.
 */
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
    char path[1024];         /* in question */
    char file_system[64];    /* "ext4", "tmpfs" ... */
    char device[128];        /* "vda", or empty */
    bool direct_supported;   /* O_DIRECT (F_NOCACHE on macOS) works on this file system */
    bool direct_pays;        /* direct reads are at least as fast */
    uint32_t alignment;      /* of offsets and memory that direct reads need: 512 or 4096 */
    double bytes_per_second; /* at the chosen size and depth, into huge pages */
    double reading_beside;   /* the share of it that is left while all cores compute from memory; at most 1 */
    double computing_beside; /* the share of their speed that is left meanwhile; at most 1 */
    double latency_seconds;  /* of one 4 KiB random read at depth 1 */
    uint32_t block_bytes;    /* chosen for the reader */
    uint32_t depth;
    struct storage_sample samples[STORAGE_MAX_SAMPLES];
    size_t sample_count;
};

/* Tokens of a prompt that a matrix was measured with: those that one of many experts gets, and those of a batch. */
#define KERNEL_FEW 32u
#define KERNEL_MANY 512u

/* The speed of the kernels for one type, all cores: bytes of weights per second for one token, and multiply-adds per
 * second for few tokens and for many (0: not measured). */
struct kernel_speed {
    enum tensor_type type;
    double bytes_per_second;
    double few_per_second, many_per_second;
};

#define HARDWARE_MAX_KERNELS 16
#define HARDWARE_MAX_GPUS 8

/* The time per layer in addition to reading weights, on a GPU that was not measured. It was measured on a large card
 * with barriers: six launches or more, each of which waits for the one before, and more for a router. */
#define GPU_LAYER_SECONDS 45e-6
#define GPU_ROUTER_SECONDS 25e-6

/* How long the CPU's threads spin if GPU and CPU share layers: for longer than a device needs from one share to the
 * next, because waking threads takes half as long as a share. */
#define GPU_SHARE_SPIN_NANOSECONDS 300000u

/* A device that computes (compute/vulkan/gpu.h), and how fast. */
struct hardware_gpu {
    uint32_t index; /* in gpu_list's order */
    struct gpu_info info;
    double memory_bytes_per_second;
    double upload_bytes_per_second; /* from host memory */
    double turn_seconds;            /* to submit a batch of commands and to notice its end */
    double move_seconds;  /* to notice a batch's end, and to let one begin on another device that waits for its rows */
    double layer_seconds; /* per dense layer and token, in addition to reading weights */
    double float_layer_seconds; /* the same for types that are multiplied as floats */
    double router_seconds;      /* in addition, for a layer with experts */
    double share_seconds;       /* overhead of a CPU share between two batches */
    double multiply_adds_per_second;
    uint64_t host_bytes; /* host memory that its driver takes, at the latest once it computes; 0: not known */
    struct kernel_speed kernels[HARDWARE_MAX_KERNELS];
    size_t kernel_count;
    bool measured; /* else careful defaults */
};

#define HARDWARE_MAX_DRIVES 8
#define HARDWARE_MAX_COPIES 8 /* of a file, including itself */

/* The drives that hold a model's files and their copies. */
struct drives {
    uint32_t count, file_count, copy_count;
    struct storage storages[HARDWARE_MAX_DRIVES];
    bool measured[HARDWARE_MAX_DRIVES]; /* by a profile */
    double together;                    /* the share of their summed speeds that is left while all read; 1: unknown */
    uint64_t *file_bytes;               /* [file_count] */
    struct storage *of_files;           /* [file_count] the drives that have a file, as one; NULL: there is one drive */
    struct drive_copy {
        char *path; /* NULL: there is no such copy */
        uint32_t drive;
    } * copies; /* [copy_count][file_count]; the first are the model's own files */
};

struct hardware {
    char cpu[128];
    char instructions[64];       /* "AVX2 AVX-512 VNNI BF16" */
    size_t cores;                /* that this process may use */
    uint64_t cache_l1, cache_l2; /* bytes of data cache per core; 0: unknown */
    uint64_t cache_l3;           /* of all of these cores */
    uint64_t memory_total;
    uint64_t memory_available;       /* now, including page cache that can be dropped */
    uint64_t cgroup_limit;           /* of the control group (ours or a parent) with the least room; UINT64_MAX: none */
    uint64_t cgroup_used;            /* in that group, without page cache that can be dropped; 0 without a limit */
    double memory_bytes_per_second;  /* all cores reading */
    double compute_bytes_per_second; /* quantised weights through the matrix-vector kernels, all cores */
    double multiply_adds_per_second; /* for long prompts: quantised weights times many tokens, all cores */
    struct kernel_speed kernels[HARDWARE_MAX_KERNELS];
    size_t kernel_count;
    bool measured;                               /* speeds come from a profile, not from defaults */
    struct storage storage;                      /* several drives as one */
    struct drives *drives;                       /* set by hardware_set_drives; else NULL */
    struct hardware_gpu gpus[HARDWARE_MAX_GPUS]; /* those in the profile */
    size_t gpu_count;
    uint32_t sharers; /* how many processes divide this machine's speeds (hardware_share); 0: not set */
    bool elsewhere;   /* a description of another machine: it has exactly these gpus, and none is opened */
};

/* path: a file or folder on the storage in question. */
hypura_status hardware_detect(struct hardware *out, const char *path, hypura_error *error);

/* Only the storage part: what is under path, and whether direct reads work there. */
hypura_status hardware_detect_storage(struct storage *out, const char *path, hypura_error *error);

/* Finds the drives of files and of their copies: paths[copies][files], NULL for a missing copy; the first are the files
 * themselves. Speeds come from profiles. */
hypura_status hardware_find_drives(struct drives **out, const struct hardware *hardware, const char *const *paths,
                                   uint32_t files, uint32_t copies, hypura_error *error);
void drives_free(struct drives *drives);

/* The share of all bytes that each drive should read if all files are read equally often: [drives->count]. */
void drives_shares(double *shares, const struct drives *drives);

/* All drives as one, for the planner, if all files are read equally often. */
void drives_as_one(struct storage *out, const struct drives *drives);

/* Makes these drives the hardware's storage, which owns them until hardware_drop_drives. */
void hardware_set_drives(struct hardware *hardware, struct drives *drives);
void hardware_drop_drives(struct hardware *hardware);

/* Reads from each drive alone, then from all at once, for some seconds. alone and together: [drives->count] bytes per
 * second. Sets drives->together, and caches it with the profiles. */
hypura_status hardware_measure_together(struct drives *drives, double *alone, double *together, hypura_error *error);

/* Divides the speeds of processors, memory and drive by the number of processes that compute on this machine at once. A
 * later call replaces the number. */
void hardware_share(struct hardware *hardware, uint32_t sharers);

/* The speed of the kernel for a type in bytes per second: as measured, else compute_bytes_per_second. */
double hardware_kernel_speed(const struct hardware *hardware, enum tensor_type type);

/* The time to multiply weights in memory by a batch of t tokens: start + t * each seconds, but at least the time of one
 * token. */
struct product_cost {
    double start, each;
};
struct product_cost hardware_product_cost(const struct hardware *hardware, enum tensor_type type, double bytes,
                                          double elements);

/* ---- other machines ---------------------------------------------------------------------------------------------- */

/* A machine with published figures. */
struct hardware_published {
    const char *name;   /* "m1-max-32gb" */
    const char *title;  /* "Apple M1 Max, 32 GB" */
    const char *source; /* sentences: where the figures are from, and which are derived */
};

size_t hardware_published_count(void);
const struct hardware_published *hardware_published_at(size_t index);

/* By name, ignoring case; NULL: there is none. */
const struct hardware_published *hardware_published(const char *name);
void hardware_of_published(struct hardware *out, const struct hardware_published *machine);

/* A machine as "hypura profile --json" describes it. what: the text's name in errors. */
hypura_status hardware_of_profile(struct hardware *out, const char *text, size_t size, const char *what,
                                  hypura_error *error);

/* The current activity ("storage: direct random reads of 64 KiB") and the part of the whole that is done, from 0 to 1.
 * Returns false to stop. */
typedef bool (*hardware_progress)(void *context, const char *what, double done);

/* Chooses the devices that compute. choice: "auto" (all cards with their own memory; without any, the best device that
 * is not a CPU), "none", or numbers ("0,2"; a number that is given twice counts as two devices). NULL: HYPURA_GPU in
 * the environment, else auto. why[room] gets a sentence about a requested device that is missing, or is empty. Vulkan's
 * loader is not opened if "auto" would find nothing. */
struct hardware_choice {
    size_t count; /* 0: none */
    bool listed;  /* by number: these devices and no others */
    struct hardware_gpu gpus[HARDWARE_MAX_GPUS];
};
hypura_status hardware_choose_gpus(const char *choice, struct hardware_choice *out, char *why, size_t room,
                                   hypura_error *error);

/* Fills in the speeds of a chosen device, from the profile or with careful defaults. */
void hardware_gpu_speeds(const struct hardware *hardware, struct hardware_gpu *gpu);

/* Measures a device, which takes some seconds. */
hypura_status hardware_measure_gpu(struct hardware_gpu *gpu, hypura_error *error);

/* Measures the devices of "auto" or of a choice, each kind once, and caches the result with the profile. */
hypura_status hardware_profile_gpus(struct hardware *hardware, const char *choice, hardware_progress progress,
                                    void *context, hypura_error *error);

/* The speed of a device's matrix-vector kernel for a type, in bytes of weights per second. */
double hardware_gpu_kernel_speed(const struct hardware_gpu *gpu, enum tensor_type type);

/* The time per layer with weights of a type, in addition to reading them. */
double hardware_gpu_layer_seconds(const struct hardware_gpu *gpu, enum tensor_type type, bool experts);

/* The file in the user's cache folder that keeps a device's compiled kernels; false: there is no such folder. */
bool hardware_gpu_cache_path(const struct hardware_gpu *gpu, char *path, size_t room);

/* Bytes per second of reads of one size with "depth" in flight: interpolated between samples, or, without any, from the
 * latency of one read and the best bandwidth. */
double hardware_read_speed(const struct storage *storage, uint64_t block_bytes, uint32_t depth);

/* How many reads of this size prefetches may have in flight, if the reader has "depth". A demand waits for all of them,
 * so they are no more than the drive needs to be nearly at full speed: at least 2, and at most a quarter of depth. */
uint32_t hardware_prefetch_depth(const struct storage *storage, uint64_t block_bytes, uint32_t depth);

/* The time for computing and reading at the same time, given the time of each alone. While both run, each has the share
 * of its speed that was measured next to the other; the rest of the longer one then runs at full speed. */
double hardware_side_by_side(const struct storage *storage, double compute_seconds, double read_seconds);

/* Measures the machine and the drive of path in less than 20 seconds, and caches the result if possible. If path is a
 * file of 64 MiB or more, it is read. The model to be run is best, because the speed may depend on the file as much as
 * on the drive (a host's cache, compression). Otherwise the largest file of 1 GiB or more in the folder is read.
 * Without one, a temporary file without a name of up to 1 GiB (at most a tenth of the free space) is written there and
 * read; it disappears however the program ends. */
hypura_status hardware_profile(struct hardware *out, const char *path, hardware_progress progress, void *context,
                               hypura_error *error);

/* Called after every sample. Returns false to stop. */
typedef bool (*storage_visitor)(void *context, const struct storage_sample *sample, size_t done, size_t total);

/* Measures storage thoroughly: every block size from 4 KiB to 4 MiB at every depth from 1 to 64, random and sequential,
 * direct and through the page cache, each for this many seconds (0: 1). Fills in all of *out; caches no profile. Only
 * reads the file; drops its pages from the page cache. */
hypura_status hardware_iobench(struct storage *out, const char *path, double seconds, storage_visitor visit,
                               void *context, hypura_error *error);

/* Measures random reads of one size with "depth" in flight, for this many seconds. */
hypura_status hardware_iobench_point(double *bytes_per_second, const char *path, uint32_t block_bytes, uint32_t depth,
                                     double seconds, hypura_error *error);

/* Reads memory with this many threads whenever the caller asks. So other measurements can be compared with memory's
 * speed at the same moment, although other users of the machine come and go. It holds several times the size of the
 * caches, at most an eighth of the free memory. */
struct memory_meter;
hypura_status memory_meter_open(struct memory_meter **out, const struct hardware *hardware, size_t threads,
                                hypura_error *error);
void memory_meter_close(struct memory_meter *meter);
double memory_meter_read(struct memory_meter *meter); /* bytes per second, in one pass of some milliseconds */

/* ---- nodes of memory --------------------------------------------------------------------------------------------- */

#define HARDWARE_MAX_NODES 8
#define HARDWARE_CPU_WORDS 16 /* for 64 processors each */

/* The nodes (sockets) whose processors this process may use. */
struct hardware_nodes {
    uint32_t count;
    struct hardware_node {
        uint32_t number; /* the system's */
        uint32_t cores;
        uint64_t cpus[HARDWARE_CPU_WORDS];
    } nodes[HARDWARE_MAX_NODES];
    bool place; /* memory may be placed on each of them, and no policy (numactl) was set before */
};

void hardware_find_nodes(struct hardware_nodes *out);

/* The first of this many threads that runs on a node. Each node has consecutive threads, in proportion to its cores.
 * For node nodes->count, it is the number of threads. */
size_t hardware_first_thread(const struct hardware_nodes *nodes, uint32_t node, size_t threads);

/* Sets where untouched memory will be: on one node if it has room, or on all nodes in turn. For whole pages inside the
 * range; does nothing if place is false. */
void hardware_place(const struct hardware_nodes *nodes, uint32_t node, void *memory, size_t bytes);
void hardware_interleave(const struct hardware_nodes *nodes, void *memory, size_t bytes);

/* The best speed at which this many threads read memory now. Takes some tenths of a second, and the memory of a meter.
 */
hypura_status hardware_measure_memory(const struct hardware *hardware, size_t threads, double *bytes_per_second,
                                      hypura_error *error);

/* The default budget: free memory or the room in the control group, whichever is less, less some headroom. */
uint64_t hardware_default_budget(const struct hardware *hardware);

/* The bytes of code and libraries of this process that are in memory now (pages that belong to files). */
uint64_t hardware_code_bytes(void);

#endif
