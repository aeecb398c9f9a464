/* Helpers for the libFuzzer targets, which need -Dfuzz=true and clang. CONTRIBUTING.md says how to build them. */
#ifndef HYPURA_FUZZ_H
#define HYPURA_FUZZ_H

#include "core/core.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Aborts unless the condition holds. */
static inline void must(bool condition)
{
    if (!condition)
        __builtin_trap();
}

/* An error must have a message. */
static inline void must_explain(hypura_status status, const hypura_error *error)
{
    must(status == HYPURA_OK || (error->status == status && error->message[0]));
}

/* Returns a file in memory, which the first call opens. Its path is always the same. */
__attribute__((unused)) static int memory_file(const char **path)
{
    static int file = -1;
    static char name[64];
    if (file < 0)
        file = memfd_create("fuzz", MFD_CLOEXEC);
    must(file >= 0);
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    *path = name;
    return file;
}

/* Returns the path of a file with these bytes. */
__attribute__((unused)) static const char *as_file(const uint8_t *data, size_t size)
{
    const char *path;
    int file = memory_file(&path);
    must(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size);
    return path;
}

#endif
