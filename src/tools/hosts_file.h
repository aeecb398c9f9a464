/* hosts_file: hosts that are described in a file, for plans without them.
 *
 * JSON: {"hosts": [{...}, ...]}, the first one is where the program is started. Of each: "name", "count" (so many of
 * these), "memory" (what the process there may hold: bytes, or text such as "64G"), "link_bits_per_second",
 * "link_seconds" (a short message there and back), and how fast it is: "cores", "memory_bytes_per_second",
 * "compute_bytes_per_second" (quantised weights through the kernels; else as fast as memory), "drive_bytes_per_second",
 * or instead of these "profile": the path of what "hypura profile --json" wrote there, or that object itself. Keys next
 * to "hosts" are of all hosts that do not say otherwise. What is unknown, missing or makes no sense is refused with a
 * sentence. */
#ifndef HYPURA_HOSTS_FILE_H
#define HYPURA_HOSTS_FILE_H

#include "engine/engine.h"
#include "plan/hosts.h"

/* Hosts of one line share their hardware. */
struct hosts_file {
    uint32_t count;
    struct engine_host *hosts;
    size_t line_count;
    struct hardware *lines;
};

hypura_status hosts_file_read(struct hosts_file *out, const char *path, hypura_error *error);
void hosts_file_free(struct hosts_file *file);

#endif
