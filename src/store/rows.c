/* Parts of tensors that are never held whole: small reads past the page cache, by the calling thread. */
#include "store/store_private.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* One aligned range through the bounce buffer. */
static hypura_status read_copy(struct store *store, uint32_t file, uint64_t offset, size_t bytes, uint8_t *out,
                               hypura_error *error)
{
    const struct store_file *opened = &store->files[file];
    uint64_t start = align_down(offset, IO_ALIGNMENT);
    size_t wanted = (size_t)(offset - start) + bytes, whole = (size_t)align_up(wanted, IO_ALIGNMENT), have = 0;
    for (unsigned attempts = 0; have < wanted;) {
        ssize_t got = pread(opened->descriptor, store->bounce + have, whole - have, (off_t)(start + have));
        if (got < 0 && errno != EINTR && (errno != EAGAIN || ++attempts > 1000))
            return error_set_errno(error, errno, "cannot read %zu bytes at offset %llu of %s", bytes,
                                   (unsigned long long)offset, opened->path);
        if (got < 0)
            continue;
        if ((size_t)got + have >= wanted) {
            have += (size_t)got;
            break;
        }
        size_t progress = (size_t)align_down((uint64_t)got, IO_ALIGNMENT);
        if (progress == 0)
            return failure_error(&(struct failure){.kind = FAILURE_TRUNCATED,
                                                   .file = file,
                                                   .offset = offset,
                                                   .expected = bytes,
                                                   .found = start + have + (size_t)got > offset
                                                                ? start + have + (size_t)got - offset
                                                                : 0},
                                 store->files, error);
        have += progress;
    }
    memcpy(out, store->bounce + (offset - start), bytes);
#ifdef POSIX_FADV_DONTNEED
    if (!opened->direct)
        posix_fadvise(opened->descriptor, (off_t)start, (off_t)whole, POSIX_FADV_DONTNEED);
#endif
    pthread_mutex_lock(store->mutex);
    store->rows_read += have;
    pthread_mutex_unlock(store->mutex);
    return HYPURA_OK;
}

/* Reads from the file or, if that fails, from a copy. */
static hypura_status read_range(struct store *store, uint32_t file, uint64_t offset, size_t bytes, uint8_t *out,
                                hypura_error *error)
{
    hypura_status status = HYPURA_ERROR_IO;
    bool tried = false;
    for (uint32_t c = 0; status && c < store->copy_count; c++) {
        uint32_t number = c * store->file_count + file;
        pthread_mutex_lock(store->mutex);
        bool left = store->files[number].left;
        pthread_mutex_unlock(store->mutex);
        if (left || (c && store_file_changed(&store->files[number])))
            continue;
        tried = true;
        status = read_copy(store, number, offset, bytes, out, error);
        if (!status && c && store_file_changed(&store->files[number]))
            status = error_set(error, HYPURA_ERROR_IO, "%s was written to, or touched, while it was in use",
                               store->files[number].path);
    }
    return tried ? status : read_copy(store, file, offset, bytes, out, error);
}

bool rows_copy_pinned(const struct store *store, unit_number number, uint64_t offset, uint64_t bytes, void *out)
{
    struct store_pieces pieces = store_pieces(store, number);
    if (pieces.count > 1) {
        if (bytes == 0 || bytes > pieces.bytes - offset % pieces.bytes)
            return false;
        number = pieces.first + (unit_number)(offset / pieces.bytes);
        offset %= pieces.bytes;
    }
    if (store->units[number].place != PLACE_PINNED || !atomic_load(&store->pinned.complete))
        return false;
    memcpy(out, store->pinned.slices[store->units[number].item] + offset, bytes);
    return true;
}

hypura_status store_read(struct store *store, unit_number number, uint64_t offset, uint64_t bytes, void *out,
                         hypura_error *error)
{
    hypura_status status = store_check_unit(store, number, error);
    if (status)
        return status;
    const struct unit *unit = store_unit(store, number);
    const struct unit_slice *slice = &unit->slices[0];
    if (unit->slice_count != 1 || offset > slice->bytes || bytes > slice->bytes - offset)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "%llu bytes at %llu of unit %u, which has %llu bytes in %u slices: expected a part of one",
                         (unsigned long long)bytes, (unsigned long long)offset, number,
                         (unsigned long long)slice->bytes, unit->slice_count);
    if (rows_copy_pinned(store, number, offset, bytes, out))
        return HYPURA_OK;
    uint8_t *to = out;
    while (bytes > 0) {
        if (atomic_load(&store->cancelled))
            return store_cancelled_error(error);
        size_t part = (size_t)MIN(bytes, (uint64_t)(BOUNCE_BYTES - TABLE_READ_BYTES - IO_ALIGNMENT));
        status = read_range(store, slice->file, slice->offset + offset, part, to, error);
        if (status)
            return status;
        to += part;
        offset += part;
        bytes -= part;
    }
    return HYPURA_OK;
}
