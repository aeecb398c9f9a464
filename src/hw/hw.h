/* hw: what the machine is and how fast: CPU, memory, storage, and where the cgroup draws the line.
 *
 * hardware_detect is quick (no measurement) and fills speeds with careful defaults. Sizes of memory are read anew at
 * every call. Nothing here keeps state; every function may be called from any thread.
 */
#ifndef HYPURA_HW_H
#define HYPURA_HW_H

#include "core/core.h"

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

#define STORAGE_MAX_SAMPLES 128

struct storage {
    char path[1024];         /* that was asked about */
    char file_system[64];    /* "ext4", "tmpfs" ... */
    char device[128];        /* "vda", or empty */
    bool direct_supported;   /* O_DIRECT (F_NOCACHE on macOS) works on this file system */
    bool direct_pays;        /* and is at least as quick */
    uint32_t alignment;      /* that direct reads need at least, of offsets and memory: 512 or 4096 */
    double bytes_per_second; /* best seen at the chosen size and depth */
    double latency_seconds;  /* of one 4 KiB random read at depth 1 */
    uint32_t block_bytes;    /* chosen for the reader */
    uint32_t depth;
    struct storage_sample samples[STORAGE_MAX_SAMPLES];
    size_t sample_count;
};

struct hardware {
    char cpu[128];
    char instructions[64];                 /* "AVX2 AVX-512 VNNI BF16" */
    size_t cores;                          /* usable */
    uint64_t cache_l1, cache_l2, cache_l3; /* bytes of data cache a core (l1, l2) and in all (l3); 0 unknown */
    uint64_t memory_total;
    uint64_t memory_available;       /* now, page cache that can be dropped counted as available */
    uint64_t cgroup_limit;           /* of the group (ours or one above) with the least room left; UINT64_MAX: none */
    uint64_t cgroup_used;            /* in that group, page cache that can be dropped not counted; 0 without a limit */
    double memory_bytes_per_second;  /* all cores reading */
    double compute_bytes_per_second; /* quantised weights through the matrix-vector kernels, all cores */
    bool measured;                   /* speeds come from a profile, not from defaults */
    struct storage storage;
};

/* path: a file or folder on the storage in question. */
hypura_status hardware_detect(struct hardware *out, const char *path, hypura_error *error);

/* The storage part alone, for one file of several: what lies under path and whether direct reads work there. */
hypura_status hardware_detect_storage(struct storage *out, const char *path, hypura_error *error);

/* What a process may take by default: the least of free memory and the room in the cgroup, less a head-room. */
uint64_t hardware_default_budget(const struct hardware *hardware);

/* Bytes of code and libraries that this process has in memory now (pages that belong to files). */
uint64_t hardware_code_bytes(void);

#endif
