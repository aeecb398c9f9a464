/* hosts_file: reads a file that describes hosts, to plan for them without access to them.
 *
 * The file is JSON: {"hosts": [{...}, ...]}. The first host is the one where the program is started. Keys of a host:
 * - "name", and "count": the number of identical hosts;
 * - "memory": the budget of the process there, in bytes or as text such as "64G";
 * - "link_bits_per_second", and "link_seconds": the round trip of a short message;
 * - its speed: "cores", "memory_bytes_per_second", "drive_bytes_per_second", and "compute_bytes_per_second" (quantised
 *   weights through the kernels; by default as fast as memory);
 * - or, instead of its speed, "profile": the output of "hypura profile --json" on that host, or a path to it.
 * Keys next to "hosts" are defaults for all hosts. Unknown keys, missing keys and invalid values are errors. */
#ifndef HYPURA_HOSTS_FILE_H
#define HYPURA_HOSTS_FILE_H

#include "engine/engine.h"
#include "plan/hosts.h"

/* Hosts from the same entry of the list share their hardware. */
struct hosts_file {
    uint32_t count;
    struct engine_host *hosts;
    size_t line_count;
    struct hardware *lines;
};

hypura_status hosts_file_read(struct hosts_file *out, const char *path, hypura_error *error);
void hosts_file_free(struct hosts_file *file);

#endif
