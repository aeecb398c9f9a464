/* All threads make pieces. A file next to the new one lists their digests, and the result is read back at the end. */
#include "tools/pieces.h"

#include "core/core.h"
#include "core/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PIECES_EACH 4 /* pieces per thread in a batch */

static const char list_magic[] = "HYPIECE1";

struct job {
    const struct pieces_work *work;
    int file, list;
    char *partial, *list_path;
    uint64_t data;  /* offset of the tensor data */
    uint8_t **room; /* [threads] a buffer for a piece each */
    struct thread_pool *pool;
    uint64_t have; /* number of finished pieces, which are the first ones */
    struct pieces_moment moment;
    pieces_progress progress;
    void *context;

    /* the current batch */
    uint64_t first;
    uint64_t *digests; /* [threads * PIECES_EACH] */
    pthread_mutex_t mutex;
    hypura_error error; /* the first one */
    bool failed;
};

/* Returns the digest of a piece: four lanes mix words of eight bytes in turn. */
static uint64_t digest(const uint8_t *data, uint64_t bytes)
{
    uint64_t lanes[4] = {1, 2, 3, 4}, i = 0, result = bytes;
    for (; i + 32 <= bytes; i += 32)
        for (int l = 0; l < 4; l++) {
            uint64_t word;
            memcpy(&word, data + i + 8 * (uint64_t)l, 8);
            lanes[l] = (lanes[l] ^ word) * UINT64_C(0x9e3779b97f4a7c15);
            lanes[l] ^= lanes[l] >> 29;
        }
    for (int l = 0; l < 4; l++)
        result = (result ^ lanes[l]) * UINT64_C(0xbf58476d1ce4e5b9) + (result >> 31);
    return fnv1a(result, data + i, (size_t)(bytes - i));
}

static hypura_status write_all(int file, const char *path, uint64_t offset, const uint8_t *data, uint64_t bytes,
                               hypura_error *error)
{
    while (bytes) {
        ssize_t done = pwrite(file, data, (size_t)bytes, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return error_set_errno(
                error, errno, "cannot write %.200s (finished pieces are kept; the same command continues from there)",
                path);
        data += done;
        offset += (uint64_t)done;
        bytes -= (uint64_t)done;
    }
    return HYPURA_OK;
}

/* ---- pieces --------------------------------------------------------------------------------------------------------
 */

static void take_error(struct job *job, const hypura_error *error)
{
    pthread_mutex_lock(&job->mutex);
    if (!job->failed)
        job->error = *error;
    job->failed = true;
    pthread_mutex_unlock(&job->mutex);
}

static void make_piece(void *context, size_t index, size_t number)
{
    struct job *job = context;
    const struct pieces_work *work = job->work;
    const uint8_t *made = job->room[number];
    uint64_t offset, bytes;
    hypura_error error = {0};
    work->where(work->context, job->first + index, &offset, &bytes);
    hypura_status status = work->make(work->context, job->first + index, number, job->room[number], &made, &error);
    if (!status)
        status = write_all(job->file, job->partial, job->data + offset, made, bytes, &error);
    if (status)
        take_error(job, &error);
    else
        job->digests[index] = digest(made, bytes);
}

/* Computes the digest of a piece in the file. */
static void look_at_piece(void *context, size_t index, size_t number)
{
    struct job *job = context;
    uint64_t offset, bytes;
    hypura_error error = {0};
    job->work->where(job->work->context, job->first + index, &offset, &bytes);
    if (sources_read_exactly(job->file, job->partial, job->data + offset, job->room[number], bytes, &error))
        take_error(job, &error);
    else
        job->digests[index] = digest(job->room[number], bytes);
}

/* ---- batches -------------------------------------------------------------------------------------------------------
 */

static hypura_status tell(struct job *job, hypura_error *error)
{
    if (!job->progress || job->progress(job->context, &job->moment))
        return HYPURA_OK;
    return error_set(error, HYPURA_ERROR_CANCELLED, "stopped; the same command continues from %.0f %%",
                     100.0 * (double)job->have / (double)MAX(job->work->count, 1));
}

/* Starts writing the batch to the drive, so the end need not wait for all of it, and drops finished pages of both files
 * from the page cache. */
static void let_go(const struct job *job, uint64_t count)
{
    uint64_t offset, end, last, bytes;
    job->work->where(job->work->context, job->first, &offset, &bytes);
    job->work->where(job->work->context, job->first + count - 1, &last, &bytes);
    offset += job->data;
    end = job->data + last + bytes;
#ifdef SYNC_FILE_RANGE_WRITE
    sync_file_range(job->file, (off_t)offset, (off_t)(end - offset), SYNC_FILE_RANGE_WRITE);
#endif
#ifdef POSIX_FADV_DONTNEED
    posix_fadvise(job->file, 0, (off_t)offset, POSIX_FADV_DONTNEED);
#endif
    (void)end;
    if (job->work->written)
        job->work->written(job->work->context, job->first, count);
}

/* Runs a task for the pieces from first to end, and passes the digests of each batch to "use". */
typedef hypura_status (*digests_use)(struct job *job, uint64_t piece, size_t count, hypura_error *error);

static hypura_status walk(struct job *job, uint64_t first, uint64_t end, thread_task task, digests_use use,
                          hypura_error *error)
{
    const struct pieces_work *work = job->work;
    bool making = task == make_piece;
    uint64_t until = first; /* the first piece that must not be in the batch */
    while (first < end) {
        uint64_t offset, bytes;
        hypura_status status = HYPURA_OK;
        if (first == until) {
            until = end;
            if (work->begin && (status = work->begin(work->context, first, making, &until, error)))
                return status;
        }
        size_t count = (size_t)MIN(work->threads * PIECES_EACH, MIN(until, end) - first);
        job->first = first;
        thread_pool_run(job->pool, task, job, count);
        if (job->failed) {
            if (error)
                *error = job->error;
            return job->error.status;
        }
        if (making)
            let_go(job, count);
        work->where(work->context, first + count - 1, &offset, &bytes);
        job->moment.done = offset + bytes;
        if ((status = use(job, first, count, error)) || (status = tell(job, error)))
            return status;
        first += count;
    }
    return HYPURA_OK;
}

static hypura_status note_pieces(struct job *job, uint64_t piece, size_t count, hypura_error *error)
{
    hypura_status status = sources_check(job->work->sources, error);
    if (!status)
        status = write_all(job->list, job->list_path, 16 + 8 * piece, (const uint8_t *)job->digests, 8 * count, error);
    if (!status)
        job->have = piece + count;
    return status;
}

/* Counts the listed pieces that are intact in the file, up to the first that differs. */
static hypura_status find_same(struct job *job, uint64_t piece, size_t count, hypura_error *error)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t noted;
        hypura_status status =
            sources_read_exactly(job->list, job->list_path, 16 + 8 * (piece + i), (uint8_t *)&noted, 8, error);
        if (status)
            return status;
        if (noted != job->digests[i])
            return error_set(error, HYPURA_ERROR_FORMAT,
                             "%.200s: a part of the file differs from what was written: the drive, or another program, "
                             "changed it",
                             job->partial);
        job->have = piece + i + 1;
    }
    return HYPURA_OK;
}

/* ---- the files -----------------------------------------------------------------------------------------------------
 */

static hypura_status check_target(const struct pieces_work *work, const char *path, hypura_error *error)
{
    struct stat there;
    if (stat(path, &there))
        return HYPURA_OK;
    if (sources_are(work->sources, &there))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%.200s is the model itself, which must not be overwritten",
                         path);
    return durable_may_replace(path, error);
}

static hypura_status check_room(const struct job *job, uint64_t bytes, hypura_error *error)
{
    struct statvfs room;
    struct stat info;
    if (fstatvfs(job->file, &room) || fstat(job->file, &info))
        return HYPURA_OK;
    uint64_t free_bytes = (uint64_t)room.f_bavail * room.f_frsize, taken = (uint64_t)info.st_blocks * 512;
    char wanted[32], found[32];
    uint64_t missing = bytes + 8 * job->work->count > taken ? bytes + 8 * job->work->count - taken : 0;
    if (missing > free_bytes)
        return error_set(error, HYPURA_ERROR_IO, "%.200s: the file needs %s more, but the disk has only %s free",
                         job->partial, format_bytes(wanted, sizeof wanted, (double)missing),
                         format_bytes(found, sizeof found, (double)free_bytes));
    return HYPURA_OK;
}

static hypura_status open_written(int *file, const char *path, hypura_error *error)
{
    *file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    return *file < 0 ? error_set_errno(error, errno, "cannot write %.200s", path) : HYPURA_OK;
}

static hypura_status join(char **out, const char *path, const char *ending, hypura_error *error)
{
    size_t room = strlen(path) + strlen(ending) + 1;
    hypura_status status = ALLOCATE(out, room, "file name", error);
    if (!status)
        snprintf(*out, room, "%s%s", path, ending);
    return status;
}

/* Returns how many pieces the list of an earlier run of the same work names. */
static uint64_t listed_pieces(const struct job *job, uint64_t key)
{
    struct {
        char magic[8];
        uint64_t key;
    } head;
    struct stat info;
    if (pread(job->list, &head, sizeof head, 0) != (ssize_t)sizeof head || fstat(job->list, &info) ||
        memcmp(head.magic, list_magic, sizeof head.magic) != 0 || head.key != key)
        return 0;
    return MIN(((uint64_t)info.st_size - 16) / 8, job->work->count);
}

static hypura_status start_list(struct job *job, uint64_t key, hypura_error *error)
{
    uint8_t head[16];
    memcpy(head, list_magic, 8);
    memcpy(head + 8, &key, 8);
    if (ftruncate(job->list, 0) || ftruncate(job->file, 0))
        return error_set_errno(error, errno, "cannot write %.200s", job->partial);
    return write_all(job->list, job->list_path, 0, head, sizeof head, error);
}

static hypura_status open_files(struct job *job, const char *path, hypura_error *error)
{
    uint64_t key = job->work->key;
    struct stat info;
    hypura_status status = check_target(job->work, path, error);
    if (status || (status = join(&job->partial, path, ".partial", error)) ||
        (status = join(&job->list_path, path, ".partial.pieces", error)) ||
        (status = open_written(&job->file, job->partial, error)))
        return status;
    if (fstat(job->file, &info) || sources_are(job->work->sources, &info))
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "%.200s is the model itself, which must not be overwritten: choose another name",
                         job->partial);
    if (flock(job->file, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%.200s is being written by another process", job->partial);
    if ((status = open_written(&job->list, job->list_path, error)))
        return status;
    job->have = listed_pieces(job, key);
    if (job->have == 0 && (status = start_list(job, key, error)))
        return status;
    if ((status = check_room(job, job->work->bytes, error)))
        return status;
    if (lseek(job->file, 0, SEEK_SET) < 0)
        return error_set_errno(error, errno, "cannot write %.200s", job->partial);
    if ((status = job->work->header(job->work->context, job->file, error)))
        return error_prefix(error, "%.200s", job->partial);
    if (fstat(job->file, &info))
        return error_set_errno(error, errno, "cannot write %.200s", job->partial);
    job->data = (uint64_t)info.st_size - job->work->bytes;
    return HYPURA_OK;
}

/* Keeps the pieces of an earlier run that match its list. */
static hypura_status keep_earlier(struct job *job, hypura_error *error)
{
    uint64_t listed = job->have;
    job->have = 0;
    if (listed == 0)
        return HYPURA_OK;
    job->moment.verifying = true;
    hypura_status status = walk(job, 0, listed, look_at_piece, find_same, error);
    if (status == HYPURA_ERROR_FORMAT)
        status = HYPURA_OK; /* the rest is made again */
    job->moment.verifying = false;
    if (job->have) {
        uint64_t offset, bytes;
        job->work->where(job->work->context, job->have - 1, &offset, &bytes);
        job->moment.kept = offset + bytes;
    }
    return status;
}

static hypura_status finish(struct job *job, const char *path, hypura_error *error)
{
    hypura_status status = durable_file(job->file, job->partial, error);
    if (status)
        return status;
#ifdef POSIX_FADV_DONTNEED
    posix_fadvise(job->file, 0, 0, POSIX_FADV_DONTNEED);
#endif
    job->moment.verifying = true;
    if ((status = walk(job, 0, job->work->count, look_at_piece, find_same, error)) ||
        (status = sources_check(job->work->sources, error)))
        return status;
    if (rename(job->partial, path))
        return error_set_errno(error, errno, "cannot rename %.200s to its final name", job->partial);
    unlink(job->list_path);
    return durable_folder_of(path, error);
}

/* ---- the job -------------------------------------------------------------------------------------------------------
 */

static hypura_status make_room(struct job *job, hypura_error *error)
{
    const struct pieces_work *work = job->work;
    hypura_status status = thread_pool_create(&job->pool, work->threads, error);
    if (!status)
        status = ALLOCATE(&job->digests, work->threads * PIECES_EACH, "buffers", error);
    if (!status)
        status = ALLOCATE(&job->room, work->threads, "buffers", error);
    for (size_t i = 0; !status && i < work->threads; i++)
        status = ALLOCATE(&job->room[i], (size_t)work->most, "buffers", error);
    return status;
}

static void free_job(struct job *job)
{
    for (size_t i = 0; job->room && i < job->work->threads; i++)
        memory_free(job->room[i]);
    memory_free(job->room);
    memory_free(job->digests);
    thread_pool_destroy(job->pool);
    if (job->file >= 0)
        close(job->file);
    if (job->list >= 0)
        close(job->list);
    memory_free(job->partial);
    memory_free(job->list_path);
    pthread_mutex_destroy(&job->mutex);
}

hypura_status pieces_write(const struct pieces_work *work, const char *path, pieces_progress progress, void *context,
                           hypura_error *error)
{
    struct job job = {.work = work, .file = -1, .list = -1, .progress = progress, .context = context};
    hypura_error own = {0};
    pthread_mutex_init(&job.mutex, NULL);
    job.moment.total = work->bytes;
    hypura_status status = open_files(&job, path, &own);
    bool ours = !status;
    if (!status && !(status = make_room(&job, &own)) && !(status = keep_earlier(&job, &own)) &&
        !(status = walk(&job, job.have, work->count, make_piece, note_pieces, &own)))
        status = finish(&job, path, &own);
    /* If the model changed, or cannot be converted, the finished pieces are useless. */
    if (ours && (status == HYPURA_ERROR_ARGUMENT || status == HYPURA_ERROR_FORMAT)) {
        unlink(job.partial);
        unlink(job.list_path);
    }
    free_job(&job);
    if (status && error)
        *error = own;
    return status;
}
