/* hw: what the machine is and how fast: CPU, memory, storage, and where the cgroup draws the line.
 *
 * hardware_detect is quick (no measurement) and fills speeds with those of the cached profile of this machine and drive
 * when there is one, else with careful defaults. hardware_profile measures.
 */
#ifndef HYPURA_HW_H
#define HYPURA_HW_H

#include "core/core.h"

/* Bandwidth of reads of one size at one depth. */
struct storage_sample {
    uint32_t block_bytes;
    uint32_t depth;
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
    uint32_t alignment;      /* of offsets and memory for direct reads; 512 or 4096 */
    double bytes_per_second; /* best seen at the chosen size and depth */
    double latency_seconds;  /* of one 4 KiB random read at depth 1 */
    uint32_t block_bytes;    /* chosen for the reader */
    uint32_t depth;
    struct storage_sample samples[STORAGE_MAX_SAMPLES];
    size_t sample_count;
};

struct hardware {
    char cpu[128];
    char instructions[64];                 /* "AVX-512 VNNI BF16" */
    size_t cores;                          /* usable */
    uint64_t cache_l1, cache_l2, cache_l3; /* bytes of data cache a core (l1, l2) and in all (l3); 0 unknown */
    uint64_t memory_total;
    uint64_t memory_available;       /* now, page cache that can be dropped counted as available */
    uint64_t cgroup_limit;           /* UINT64_MAX: none */
    uint64_t cgroup_used;            /* 0 without a limit; page cache of the group that can be dropped is not counted */
    double memory_bytes_per_second;  /* all cores reading */
    double compute_bytes_per_second; /* quantised weights through the matrix-vector kernels, all cores */
    bool measured;                   /* speeds come from a profile, not from defaults */
    struct storage storage;
};

/* path: a file or folder on the storage in question. */
hypura_status hardware_detect(struct hardware *out, const char *path, hypura_error *error);

/* What a process may take by default: the least of free memory and the cgroup's limit, less a head-room. */
uint64_t hardware_default_budget(const struct hardware *hardware);

#endif
