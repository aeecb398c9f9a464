#include "core/core.h"
#include "core/sanitized.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __APPLE__
#include <mach/mach.h>
#endif

#if SANITIZED
size_t __sanitizer_get_current_allocated_bytes(void);
#endif

#define HUGE_PAGE ((size_t)2 << 20)
#define KEPT_BYTES (1 << 20) /* free bytes kept at the end of a heap; larger blocks are mapped and unmapped alone */

static _Thread_local uint64_t failures;

static hypura_status no_memory(hypura_error *error, size_t count, size_t size, const char *what)
{
    if (!error)
        memory_note_failure();
    return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the %s (%zu elements of %zu bytes)", what, count, size);
}

uint64_t memory_failures(void)
{
    return failures;
}

void memory_note_failure(void)
{
    failures++;
}

hypura_status memory_check(uint64_t failures_before, const char *what, hypura_error *error)
{
    return failures == failures_before ? HYPURA_OK
                                       : error_set(error, HYPURA_ERROR_MEMORY, "no memory for the %s", what);
}

hypura_status memory_allocate(void **out, size_t count, size_t size, const char *what, hypura_error *error)
{
    size_t bytes;
    *out = NULL;
    if (count == 0)
        return HYPURA_OK;
    if (!size_multiply(&bytes, count, size))
        return no_memory(error, count, size, what);
    void *memory = calloc(count, size);
    if (!memory)
        return no_memory(error, count, size, what);
    *out = memory;
    return HYPURA_OK;
}

hypura_status memory_resize(void **array, size_t old_count, size_t count, size_t size, const char *what,
                            hypura_error *error)
{
    size_t bytes;
    if (!size_multiply(&bytes, count, size))
        return no_memory(error, count, size, what);
    void *memory = realloc(*array, bytes ? bytes : 1);
    if (!memory)
        return no_memory(error, count, size, what);
    if (count > old_count)
        memset((char *)memory + old_count * size, 0, (count - old_count) * size);
    *array = memory;
    return HYPURA_OK;
}

void memory_free(void *memory)
{
    free(memory);
}

hypura_status string_copy(char **out, const char *text, hypura_error *error)
{
    if (!text) {
        *out = NULL;
        return HYPURA_OK;
    }
    char *copy = strdup(text);
    if (!copy)
        return no_memory(error, strlen(text), 1, "copy of a string");
    *out = copy;
    return HYPURA_OK;
}

size_t memory_page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE); /* makes no system call */
}

hypura_status memory_map(void **out, size_t bytes, bool huge, const char *what, hypura_error *error)
{
    size_t padded;
    if (bytes == 0 || !size_add(&padded, bytes, HUGE_PAGE + memory_page_size()))
        return no_memory(error, bytes, 1, what);
    bytes = (size_t)align_up(bytes, memory_page_size());
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
    flags |= MAP_NORESERVE;
#endif
    char *whole = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (whole == MAP_FAILED)
        return error_set(error, HYPURA_ERROR_MEMORY, "no address space for the %s (%zu bytes): %s", what, bytes,
                         strerror(errno));
    /* mmap only aligns to pages. Unmap the ends so that what remains starts at a huge page. */
    char *start = (char *)align_up((uintptr_t)whole, HUGE_PAGE);
    size_t before = (size_t)(start - whole);
    if (before)
        munmap(whole, before);
    munmap(start + bytes, HUGE_PAGE - before);
    memory_set_huge(start, bytes, huge);
    *out = start;
    return HYPURA_OK;
}

void memory_set_huge(void *address, size_t bytes, bool huge)
{
#ifdef MADV_HUGEPAGE
    madvise(address, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#else
    (void)address;
    (void)bytes;
    (void)huge;
#endif
}

void memory_populate(void *address, size_t bytes)
{
#ifdef MADV_POPULATE_WRITE
    madvise(address, bytes, MADV_POPULATE_WRITE);
#else
    (void)address;
    (void)bytes;
#endif
}

void memory_unmap(void *address, size_t bytes)
{
    if (address)
        munmap(address, (size_t)align_up(bytes, memory_page_size()));
}

uint64_t memory_whole_pages(uint64_t address, uint64_t bytes)
{
    const uint64_t page = memory_page_size();
    const uint64_t start = align_up(address, page), end = align_down(address + bytes, page);
    return end > start ? end - start : 0;
}

void memory_decommit(void *address, size_t bytes)
{
    uintptr_t page = memory_page_size();
    uintptr_t start = (uintptr_t)align_up((uintptr_t)address, page);
    uintptr_t end = (uintptr_t)align_down((uintptr_t)address + bytes, page);
    if (end <= start)
        return;
#ifdef __APPLE__
    /* On macOS, MADV_DONTNEED does not free memory; a new mapping over the old one does. */
    mmap((void *)start, end - start, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
#else
    madvise((void *)start, end - start, MADV_DONTNEED);
#endif
}

void memory_give_back(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

void memory_keep_little(void)
{
#ifdef __GLIBC__
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES);
#endif
}

uint64_t memory_resident_bytes(void)
{
#ifdef __APPLE__
    struct mach_task_basic_info info;
    mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
    if (task_info(mach_task_self(), MACH_TASK_BASIC_INFO, (task_info_t)&info, &count) != KERN_SUCCESS)
        return 0;
    return info.resident_size;
#elif SANITIZED
    return __sanitizer_get_current_allocated_bytes();
#else
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file)
        return 0;
    unsigned long long size, resident;
    int found = fscanf(file, "%llu %llu", &size, &resident);
    fclose(file);
    return found == 2 ? resident * memory_page_size() : 0;
#endif
}

uint64_t memory_peak_resident_bytes(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage))
        return 0;
#ifdef __APPLE__
    return (uint64_t)usage.ru_maxrss;
#else
    /* VmHWM is exact; ru_maxrss may keep a value from before exec. */
    FILE *file = fopen("/proc/self/status", "re");
    if (file) {
        char line[128];
        unsigned long long kib;
        while (fgets(line, sizeof line, file)) {
            if (sscanf(line, "VmHWM: %llu", &kib) == 1) {
                fclose(file);
                return kib * 1024;
            }
        }
        fclose(file);
    }
    return (uint64_t)usage.ru_maxrss * 1024;
#endif
}
