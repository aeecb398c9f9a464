/* The parts of hw, for each other and for their tests. "root" is put before every absolute path that is read, so that
 * tests can show a machine of their own; it is "" otherwise. */
#ifndef HYPURA_HW_PRIVATE_H
#define HYPURA_HW_PRIVATE_H

#include "hw/hw.h"

/* Reads a small text file whole; false when it cannot be opened. text is always terminated. */
bool hw_read_text(const char *path, char *text, size_t room);

void hw_detect_cpu(struct hardware *out);
void hw_detect_memory(struct hardware *out, const char *root);

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

#endif
