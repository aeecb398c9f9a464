/* Finds the file system and drive of a path, and whether direct reads work there. */
#include "hw/hw_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/sysmacros.h>
#endif
#ifdef __APPLE__
#include <sys/mount.h>
#include <sys/param.h>
#endif

#ifdef __linux__
struct mount_match {
    const char *path;
    size_t length;
    struct mount_row row;
};

/* Finds the longest mount point above the path. Among equal ones, the last hides the others. A search by device number
 * would miss btrfs and overlayfs, whose files have device numbers of their own. */
static bool match_mount(void *context, const struct mount_row *row)
{
    struct mount_match *match = context;
    size_t length = strcmp(row->point, "/") ? strlen(row->point) : 0;
    if (strncmp(match->path, row->point, length) == 0 && (match->path[length] == '/' || match->path[length] == '\0') &&
        length >= match->length) {
        match->length = length;
        match->row = *row;
    }
    return true;
}

static void detect_file_system(struct storage *out, const char *path, const struct stat *info)
{
    char *real = realpath(path, NULL);
    struct mount_match match = {.path = real ? real : path};
    hw_walk_mounts("", match_mount, &match);
    free(real);
    snprintf(out->file_system, sizeof out->file_system, "%s", match.row.type[0] ? match.row.type : "unknown");

    char link[64], target[1024];
    snprintf(link, sizeof link, "/sys/dev/block/%u:%u", major(info->st_dev), minor(info->st_dev));
    ssize_t size = readlink(link, target, sizeof target - 1);
    const char *name = NULL;
    if (size > 0) {
        target[size] = '\0';
        name = target;
    } else if (!strncmp(match.row.source, "/dev/", 5)) {
        name = match.row.source;
    }
    const char *slash = name ? strrchr(name, '/') : NULL;
    snprintf(out->device, sizeof out->device, "%s", slash ? slash + 1 : "");
}

/* Opens a file for direct reads: the path itself, or, in a folder, a temporary file without a name. */
static int open_direct(const char *path, const struct stat *info)
{
    if (S_ISDIR(info->st_mode))
        return open(path, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    return open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
}

static void detect_direct(struct storage *out, const char *path, const struct stat *info)
{
    out->direct_supported = false;
    out->alignment = STORAGE_ALIGNMENT;
    /* Memory file systems accept O_DIRECT since Linux 6.6, but have no drive to read from. */
    if (!strcmp(out->file_system, "tmpfs") || !strcmp(out->file_system, "ramfs"))
        return;
    int file = open_direct(path, info);
    if (file < 0) {
        /* A file system that lacks direct I/O fails with EINVAL. Other errors, in a folder, only mean that this process
         * may not write there. */
        out->direct_supported = S_ISDIR(info->st_mode) && errno != EINVAL;
        return;
    }
    uint32_t alignment = 0;
#ifdef STATX_DIOALIGN
    struct statx extended;
    if (statx(file, "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 && (extended.stx_mask & STATX_DIOALIGN)) {
        alignment = MAX(extended.stx_dio_mem_align, extended.stx_dio_offset_align);
        if (alignment == 0) { /* the kernel reports that direct I/O is not supported */
            close(file);
            return;
        }
    }
#endif
    if (alignment == 0) {
        /* On older kernels, find the smallest size that a read accepts. A read at the end of an empty file returns 0,
         * but most file systems still check its alignment. */
        void *memory = NULL;
        if (posix_memalign(&memory, STORAGE_ALIGNMENT, STORAGE_ALIGNMENT) == 0) {
            for (uint32_t size = 512; size <= STORAGE_ALIGNMENT && alignment == 0; size *= 2) {
                if (pread(file, memory, size, size == STORAGE_ALIGNMENT ? 0 : size) >= 0)
                    alignment = size;
            }
        }
        free(memory);
    }
    close(file);
    out->direct_supported = alignment != 0 && alignment <= STORAGE_ALIGNMENT;
    if (out->direct_supported)
        out->alignment = alignment;
}
#elif defined(__APPLE__)
static void detect_file_system(struct storage *out, const char *path, const struct stat *info)
{
    (void)info;
    struct statfs system;
    if (statfs(path, &system)) {
        snprintf(out->file_system, sizeof out->file_system, "unknown");
        return;
    }
    snprintf(out->file_system, sizeof out->file_system, "%s", system.f_fstypename);
    if (!strncmp(system.f_mntfromname, "/dev/", 5))
        snprintf(out->device, sizeof out->device, "%s", system.f_mntfromname + 5);
}

/* F_NOCACHE requires no alignment, but only page-aligned reads really bypass the cache. */
static void detect_direct(struct storage *out, const char *path, const struct stat *info)
{
    out->alignment = STORAGE_ALIGNMENT;
    out->direct_supported = true;
    if (S_ISDIR(info->st_mode))
        return;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    out->direct_supported = file >= 0 && fcntl(file, F_NOCACHE, 1) != -1;
    if (file >= 0)
        close(file);
}
#else
static void detect_file_system(struct storage *out, const char *path, const struct stat *info)
{
    (void)path;
    (void)info;
    snprintf(out->file_system, sizeof out->file_system, "unknown");
}

static void detect_direct(struct storage *out, const char *path, const struct stat *info)
{
    (void)path;
    (void)info;
    out->alignment = STORAGE_ALIGNMENT;
}
#endif

hypura_status hardware_detect_storage(struct storage *out, const char *path, hypura_error *error)
{
    struct stat info;
    if (stat(path, &info))
        return error_set_errno(error, errno, "cannot look at %s", path);
    struct storage found = {0};
    snprintf(found.path, sizeof found.path, "%s", path);
    detect_file_system(&found, path, &info);
    detect_direct(&found, path, &info);
    found.direct_pays = found.direct_supported;
    /* The speeds of a plain SATA drive, until a profile is loaded. */
    found.bytes_per_second = 500e6;
    found.reading_beside = 0.9;
    found.computing_beside = 0.9;
    found.latency_seconds = 150e-6;
    found.block_bytes = (uint32_t)1 << 20;
    found.depth = 16;
    *out = found;
    return HYPURA_OK;
}
