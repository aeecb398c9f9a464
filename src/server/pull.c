/* Downloads models: checks early whether the model would run here, fetches its files, and verifies their digests. */
#include "server/pull_source.h"

#include "core/durable.h"
#include "server/fetch.h"
#include "server/pull_private.h"
#include "server/server_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FIRST_CHECK ((uint64_t)4 << 20) /* bytes after which the header is checked; then at four times as many */
#define LAST_CHECK ((uint64_t)256 << 20)
#define SYNC_BYTES ((uint64_t)64 << 20) /* at most lost in a power cut */

struct pull {
    struct registry *registry;
    const struct engine_options *options;
    pull_progress progress;
    void *context;
    struct source source;
    size_t part;  /* the current one, which the following fields are about */
    char key[17]; /* identifies the source in file names */
    char partial[PATH_MAX], note_path[PATH_MAX];
    struct pull_note note;
    int lock; /* the first part's partial file, locked until the end */
    int file;
    uint64_t have, total, next_check, last_told;
    bool other;       /* the server's file is no longer the one that was downloaded in part */
    uint64_t stop_at; /* bytes of each part to fetch for now; 0: all */
    bool checked, stopped, untold;
    hypura_error error;  /* of the callback */
    char piece[1 << 16]; /* of a file that is read back */
};

/* A message that finds no memory ends the download; the next try continues it. */
static bool tell(struct pull *pull, json_t *event)
{
    pull->untold |= !event;
    bool more = event && pull->progress(pull->context, event);
    json_decref(event);
    return more;
}

static const struct source_part *part_of(const struct pull *pull)
{
    return &pull->source.parts[pull->part];
}

/* ---- the check ------------------------------------------------------------------------------------------------------
 */

/* Makes a sparse file of a part's final size with its first bytes, from which the header can be read. */
static hypura_status make_sparse(struct pull *pull, const char *path, int file, uint64_t bytes, uint64_t total,
                                 hypura_error *error)
{
    int out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool fine = out >= 0;
    for (uint64_t at = 0; fine && at < bytes;) {
        ssize_t got = pread(file, pull->piece, MIN(sizeof pull->piece, bytes - at), (off_t)at);
        fine = got > 0 && write(out, pull->piece, (size_t)got) == got;
        at += got > 0 ? (uint64_t)got : 0;
    }
    fine = fine && ftruncate(out, (off_t)total) == 0;
    int number = errno;
    if (out >= 0)
        close(out);
    return fine ? HYPURA_OK : error_set_errno(error, number, "cannot write %s", path);
}

static hypura_status plan_of(struct pull *pull, const char *path, hypura_error *error)
{
    struct model *model = NULL;
    struct plan *plan = NULL;
    struct hardware *hardware = NULL;
    hypura_status status = model_open(&model, path, error);
    if (status)
        return status;
    status = ALLOCATE(&hardware, 1, "hardware", error);
    if (!status)
        status = hardware_detect(hardware, registry_folder(pull->registry), error);
    if (!status)
        status = engine_plan_only(&plan, model, hardware, pull->options, error);
    if (!status) {
        char text[160], speed[64];
        format_range(speed, sizeof speed, 1, plan->even_tokens_per_second, plan->predicted_tokens_per_second);
        snprintf(text, sizeof text, "checked: %s, about %s tokens/s here", plan_mode_name(plan->mode), speed);
        tell(pull, json_pack("{s:s, s:{s:s, s:s, s:f, s:f, s:I, s:I}}", "status", text, "hypura", "mode",
                             plan_mode_name(plan->mode), "architecture", model_architecture(model)->name,
                             "predicted_tokens_per_second", plan->predicted_tokens_per_second, "even_tokens_per_second",
                             plan->even_tokens_per_second, "budget_bytes", (json_int_t)plan->budget,
                             "smallest_budget_bytes", (json_int_t)plan->smallest_budget));
    } else {
        /* The header is complete, so this is the verdict. HYPURA_ERROR_FORMAT would mean that more must be fetched. */
        status = HYPURA_ERROR_UNSUPPORTED;
    }
    plan_free(plan);
    memory_free(hardware);
    model_close(model);
    return status;
}

/* Evaluates a check. An incomplete header looks damaged; then more bytes must be fetched. */
static hypura_status judge(struct pull *pull, hypura_status status, const hypura_error *error, bool more)
{
    pull->checked = status == HYPURA_OK;
    pull->next_check *= 4;
    if (!status || (status == HYPURA_ERROR_FORMAT && more && pull->next_check <= LAST_CHECK))
        return HYPURA_OK;
    return error_set(&pull->error, error->status ? error->status : status, "this model cannot run here: %s",
                     error->message);
}

/* Checks whether the model would run here, once its header has arrived. False: it would not. */
static bool check_header(struct pull *pull)
{
    char path[PATH_MAX];
    /* check_split has checked a split model. */
    if (pull->checked || pull->source.part_count > 1 || pull->total == 0 ||
        pull->have < MIN(pull->next_check, pull->total))
        return true;
    snprintf(path, sizeof path, "%.*s.check", (int)sizeof path - 8, pull->partial);
    hypura_error error = {0};
    hypura_status status = make_sparse(pull, path, pull->file, MIN(pull->have, pull->next_check), pull->total, &error);
    if (!status)
        status = plan_of(pull, path, &error);
    unlink(path);
    return judge(pull, status, &error, pull->have < pull->total) == HYPURA_OK;
}

/* ---- the bytes ------------------------------------------------------------------------------------------------------
 */

static bool tell_bytes(struct pull *pull, bool always)
{
    uint64_t now = clock_nanoseconds();
    if (!always && now - pull->last_told < 250000000u)
        return true;
    pull->last_told = now;
    char status[64], digest[80];
    snprintf(status, sizeof status, "pulling %.12s",
             part_of(pull)->digest[0] ? part_of(pull)->digest : pull->source.name);
    snprintf(digest, sizeof digest, "sha256:%s", part_of(pull)->digest);
    json_t *event = json_pack("{s:s}", "status", status);
    if (pull->total) { /* known from the first answer on */
        json_object_set_new(event, "total", json_integer((json_int_t)pull->total));
        json_object_set_new(event, "completed", json_integer((json_int_t)pull->have));
    }
    if (part_of(pull)->digest[0])
        json_object_set_new(event, "digest", json_string(digest));
    return tell(pull, event);
}

static bool has_room(struct pull *pull)
{
    struct statvfs info;
    char need[32], room[32];
    if (pull->total == 0 || fstatvfs(pull->file, &info))
        return true;
    uint64_t left = (uint64_t)info.f_bavail * info.f_frsize, wanted = pull->total - MIN(pull->have, pull->total);
    /* check_split has found out the sizes of all parts. */
    for (size_t i = 0; i < pull->source.part_count; i++) {
        const struct source_part *part = &pull->source.parts[i];
        wanted += i != pull->part && part->bytes > part->have ? part->bytes - part->have : 0;
    }
    if (wanted <= left)
        return true;
    error_set(&pull->error, HYPURA_ERROR_IO, "%s remain to be downloaded, but only %s are free in %s",
              format_bytes(need, sizeof need, (double)wanted), format_bytes(room, sizeof room, (double)left),
              registry_folder(pull->registry));
    return false;
}

/* Makes the bytes durable, then notes how many. */
static hypura_status settle(struct pull *pull, hypura_error *error)
{
    if (pull->note.have == pull->have && pull->note.total == pull->total && pull->have)
        return HYPURA_OK;
    hypura_status status = durable_file(pull->file, pull->partial, error);
    if (status)
        return status;
    pull->note.have = pull->have;
    pull->note.total = pull->total;
    return pull_note_write(pull->note_path, &pull->note, error);
}

static void forget_partial(const struct pull *pull)
{
    unlink(pull->note_path);
    unlink(pull->partial);
}

/* Starts from the first byte, because the partial file is of another version, or of an unknown one. */
static hypura_status start_anew(struct pull *pull, hypura_error *error)
{
    if (unlink(pull->note_path) && errno != ENOENT)
        return error_set_errno(error, errno, "cannot write %s", pull->note_path);
    pull->have = pull->total = 0;
    pull->note = (struct pull_note){0};
    snprintf(pull->note.url, sizeof pull->note.url, "%s", part_of(pull)->url);
    snprintf(pull->note.digest, sizeof pull->note.digest, "%s", part_of(pull)->digest);
    return ftruncate(pull->file, 0) ? error_set_errno(error, errno, "cannot write %s", pull->partial) : HYPURA_OK;
}

/* Continues a partial file of the same source, from as many bytes as its note guarantees. */
static hypura_status take_up(struct pull *pull, hypura_error *error)
{
    struct stat info;
    const struct source_part *part = part_of(pull);
    if (fstat(pull->file, &info))
        return error_set_errno(error, errno, "cannot read %s", pull->partial);
    bool known = pull_note_read(pull->note_path, &pull->note) && strcmp(pull->note.url, part->url) == 0 &&
                 strcmp(pull->note.digest, part->digest) == 0 && pull->note.have <= (uint64_t)info.st_size &&
                 (part->digest[0] || pull_note_version(&pull->note));
    if (!known)
        return start_anew(pull, error);
    pull->have = pull->note.have;
    return ftruncate(pull->file, (off_t)pull->have) ? error_set_errno(error, errno, "cannot write %s", pull->partial)
                                                    : HYPURA_OK;
}

static bool begin_bytes(void *context, const struct fetch_answer *answer)
{
    struct pull *pull = context;
    if (answer->status != 200 && answer->status != 206)
        return false;
    if (answer->status == 200 && pull->have && start_anew(pull, &pull->error))
        return false;
    pull->other = answer->status == 206 &&
                  (!answer->ranged || answer->start != pull->have || !pull_note_fits(&pull->note, answer));
    if (pull->other)
        return false;
    pull->total = answer->total;
    snprintf(pull->note.etag, sizeof pull->note.etag, "%s", answer->etag);
    snprintf(pull->note.modified, sizeof pull->note.modified, "%s", answer->modified);
    pull->stopped = pull->stop_at && pull->have >= pull->stop_at;
    return !pull->stopped && has_room(pull) && tell_bytes(pull, true);
}

static bool take_bytes(void *context, const void *data, size_t size)
{
    struct pull *pull = context;
    for (const char *at = data; size;) {
        ssize_t written = pwrite(pull->file, at, size, (off_t)pull->have);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            error_set_errno(&pull->error, errno, "cannot write %s", pull->partial);
            return false;
        }
        pull->have += (uint64_t)written;
        at += written;
        size -= (size_t)written;
    }
    pull->stopped = pull->stop_at && pull->have >= pull->stop_at;
    if (pull->have - MIN(pull->note.have, pull->have) >= SYNC_BYTES && settle(pull, &pull->error))
        return false;
    return !pull->stopped && check_header(pull) && tell_bytes(pull, false);
}

static bool go_on(void *context)
{
    return tell_bytes(context, false);
}

/* Reports progress while all bytes are read back. */
static bool go_on_checking(void *context)
{
    struct pull *pull = context;
    uint64_t now = clock_nanoseconds();
    if (now - pull->last_told < 250000000u)
        return true;
    pull->last_told = now;
    return tell(pull, json_pack("{s:s}", "status", "verifying the weights"));
}

static hypura_status verify(struct pull *pull, hypura_error *error)
{
    if (!part_of(pull)->digest[0])
        return HYPURA_OK;
    tell(pull, json_pack("{s:s}", "status", "verifying sha256 digest"));
    char digest[65];
    hypura_status status = HYPURA_OK;
    struct sha256 sha;
    sha256_start(&sha);
    for (uint64_t at = 0; !status && at < pull->have;) {
        ssize_t got = pread(pull->file, pull->piece, sizeof pull->piece, (off_t)at);
        if (got <= 0) {
            status = error_set_errno(error, got ? errno : EIO, "cannot read %s", pull->partial);
            break;
        }
        sha256_add(&sha, pull->piece, (size_t)got);
        at += (uint64_t)got;
    }
    sha256_finish(&sha, digest);
    if (!status && strcmp(digest, part_of(pull)->digest) != 0) {
        forget_partial(pull);
        status = error_set(error, HYPURA_ERROR_FORMAT,
                           "digest mismatch, file must be downloaded again: want "
                           "sha256:%s, got sha256:%s",
                           part_of(pull)->digest, digest);
    }
    return status;
}

/* Requests the rest of the part. */
static hypura_status ask_for_rest(struct pull *pull, hypura_error *error)
{
    struct fetch fetch = {.url = part_of(pull)->url,
                          .offset = pull->have,
                          .unless = pull_note_version(&pull->note),
                          .fail_on_error = true,
                          .begin = begin_bytes,
                          .take = take_bytes,
                          .go_on = go_on,
                          .context = pull};
    struct fetch_answer answer;
    pull->other = pull->stopped = false;
    hypura_status result = fetch_run(&fetch, &answer, error);
    if (pull->stopped || pull->other)
        return HYPURA_OK;
    if (pull->error.status) {
        *error = pull->error;
        return error->status;
    }
    /* The server has no bytes after those downloaded, so they must be the whole file. */
    if (answer.status == 416 && fetch.offset) {
        uint64_t whole = answer.total ? answer.total : pull->note.total;
        pull->other = whole != pull->have || !pull_note_fits(&pull->note, &answer);
        pull->total = whole;
        return HYPURA_OK;
    }
    if (answer.status && answer.status != 200 && answer.status != 206 && answer.status < 400)
        return error_set(error, HYPURA_ERROR_IO, "%.200s answered with status %ld", part_of(pull)->url, answer.status);
    if (!result && pull->total && pull->have != pull->total)
        result = error_set(error, HYPURA_ERROR_IO, "the download ended after %llu of %llu bytes",
                           (unsigned long long)pull->have, (unsigned long long)pull->total);
    return result;
}

static hypura_status download(struct pull *pull, hypura_error *error)
{
    hypura_error problem = {0};
    pull->file = pull->part == 0 ? fcntl(pull->lock, F_DUPFD_CLOEXEC, 0)
                                 : open(pull->partial, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (pull->file < 0)
        return error_set_errno(error, errno, "cannot write %s", pull->partial);
    hypura_status status = take_up(pull, error);
    if (!status)
        status = ask_for_rest(pull, error);
    if (!status && pull->other) {
        status = start_anew(pull, error);
        if (!status)
            status = ask_for_rest(pull, error);
        if (!status && pull->other)
            status = error_set(error, HYPURA_ERROR_IO, "%.200s sends other parts of the file than requested",
                               part_of(pull)->url);
    }
    if (pull->error.status && pull->error.status != HYPURA_ERROR_IO)
        forget_partial(pull); /* for example, a model that cannot run here */
    else if (pull->have && settle(pull, &problem) && !status)
        status = error_set(error, problem.status, "%s", problem.message);
    return status;
}

/* Makes a part current: sets the paths of its partial file and note. Partial files of a split model are named as parts
 * are, so that they are found as one model. */
static void set_part(struct pull *pull, size_t part)
{
    char path[PATH_MAX];
    size_t count = pull->source.part_count;
    pull->part = part;
    pull->have = pull->total = 0;
    pull->stopped = false;
    registry_path(pull->registry, pull->source.name, pull->key, path, sizeof path);
    char *name = strrchr(path, '/') + 1;
    if (count > 1)
        snprintf(pull->partial, sizeof pull->partial, "%.*s.%.*s.partial-%05zu-of-%05zu.gguf", (int)(name - path), path,
                 NAME_MAX - 64, name, part + 1, count);
    else
        snprintf(pull->partial, sizeof pull->partial, "%.*s.partial", (int)sizeof pull->partial - 64, path);
    snprintf(pull->note_path, sizeof pull->note_path, "%.*s.source", (int)sizeof pull->note_path - 16, pull->partial);
}

/* Locks the model against other downloads of it. If the previous holder has just finished, the opened file was renamed
 * and a new one must be locked. */
static hypura_status lock_model(struct pull *pull, hypura_error *error)
{
    struct stat opened, there;
    for (;;) {
        set_part(pull, 0);
        pull->lock = open(pull->partial, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (pull->lock < 0)
            return error_set_errno(error, errno, "cannot write %s", pull->partial);
        if (flock(pull->lock, LOCK_EX | LOCK_NB))
            return error_set(error, HYPURA_ERROR_IO, "model '%s' is being downloaded already", pull->source.name);
        if (fstat(pull->lock, &opened) == 0 && stat(pull->partial, &there) == 0 && opened.st_ino == there.st_ino)
            return HYPURA_OK;
        close(pull->lock);
    }
}

static void close_file(struct pull *pull)
{
    if (pull->file >= 0)
        close(pull->file);
    pull->file = -1;
}

/* Fetches the first bytes of each part, up to stop_at, which also reveals the sizes. */
static hypura_status fetch_heads(struct pull *pull, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; !status && i < pull->source.part_count; i++) {
        struct source_part *part = &pull->source.parts[i];
        set_part(pull, i);
        status = download(pull, error);
        part->bytes = pull->total;
        part->have = pull->have;
        if (status && pull->have == 0)
            forget_partial(pull);
        close_file(pull);
    }
    return status;
}

/* The path of the current part's sparse file for the check. Parts are found by their names. */
static void head_path(const struct pull *pull, char *out, size_t room)
{
    const char *slash = strrchr(pull->partial, '/');
    snprintf(out, room, "%s/.check%s", registry_folder(pull->registry), slash + 1);
}

/* Plans the model from sparse files that contain only the first bytes of each part. */
static hypura_status check_heads(struct pull *pull, hypura_error *error)
{
    char path[PATH_MAX];
    hypura_status status = HYPURA_OK;
    for (size_t i = pull->source.part_count; !status && i-- > 0;) {
        const struct source_part *part = &pull->source.parts[i];
        set_part(pull, i);
        head_path(pull, path, sizeof path);
        int file = open(pull->partial, O_RDONLY | O_CLOEXEC);
        status = file < 0 ? error_set_errno(error, errno, "cannot read %s", pull->partial)
                          : make_sparse(pull, path, file, MIN(part->have, pull->stop_at), part->bytes, error);
        if (file >= 0)
            close(file);
    }
    if (!status)
        status = plan_of(pull, path, error);
    for (size_t i = 0; i < pull->source.part_count; i++) {
        set_part(pull, i);
        head_path(pull, path, sizeof path);
        unlink(path);
    }
    return status;
}

/* Checks that there is room for a split model and that it would run here, from the first bytes of its parts. */
static hypura_status check_split(struct pull *pull, hypura_error *error)
{
    for (size_t i = 0; i < pull->source.part_count; i++) {
        struct pull_note note;
        set_part(pull, i);
        pull->source.parts[i].have = pull_note_read(pull->note_path, &note) ? note.have : 0;
    }
    while (!pull->checked) {
        hypura_error problem = {0};
        bool more = false, known = true;
        pull->stop_at = pull->next_check;
        hypura_status status = fetch_heads(pull, error);
        if (status)
            return status;
        for (size_t i = 0; i < pull->source.part_count; i++) {
            more |= pull->source.parts[i].have < pull->source.parts[i].bytes;
            known &= pull->source.parts[i].bytes > 0;
        }
        if (!known)
            break; /* the server does not report sizes */
        status = check_heads(pull, &problem);
        if (judge(pull, status, &problem, more)) {
            *error = pull->error;
            for (size_t i = 0; error->status != HYPURA_ERROR_IO && i < pull->source.part_count; i++) {
                set_part(pull, i);
                forget_partial(pull);
            }
            return error->status;
        }
    }
    pull->stop_at = 0;
    return HYPURA_OK;
}

/* Downloads and verifies one part, which keeps its temporary name. */
static hypura_status fetch_part(struct pull *pull, size_t part, hypura_error *error)
{
    set_part(pull, part);
    hypura_status status = download(pull, error);
    pull->source.parts[part].have = pull->have;
    if (status && pull->have == 0)
        forget_partial(pull);
    if (!status)
        status = verify(pull, error);
    close_file(pull);
    return status;
}

/* Checks the complete files as a model: their weights if there is no digest, and whether they would run here if that
 * was not known before. Deletes files that are not a model. */
static hypura_status check_whole(struct pull *pull, hypura_error *error)
{
    struct gguf *file;
    bool digests = true;
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; i < pull->source.part_count; i++)
        digests &= pull->source.parts[i].digest[0] != 0;
    set_part(pull, 0);
    if (!digests) {
        tell(pull, json_pack("{s:s}", "status", "verifying the weights"));
        status = pull_check_weights(pull->partial, go_on_checking, pull, error);
    } else if (!(status = gguf_open(&file, pull->partial, error))) {
        gguf_close(file);
    }
    if (!status && !pull->checked && judge(pull, plan_of(pull, pull->partial, error), error, false)) {
        *error = pull->error;
        status = error->status;
    }
    for (size_t i = 0; status && status != HYPURA_ERROR_CANCELLED && status != HYPURA_ERROR_IO &&
                       status != HYPURA_ERROR_MEMORY && i < pull->source.part_count;
         i++) {
        set_part(pull, i);
        forget_partial(pull);
    }
    return status;
}

/* Deletes partial files of this name from other sources, or without a note, which nothing will continue. */
static void forget_others(struct pull *pull)
{
    char path[PATH_MAX];
    set_part(pull, 0);
    registry_path(pull->registry, pull->source.name, "", path, sizeof path);
    const char *name = strrchr(path, '/') + 1;
    size_t length = strlen(name);
    DIR *list = opendir(registry_folder(pull->registry));
    for (struct dirent *file; list && (file = readdir(list));) {
        const char *own = file->d_name + (file->d_name[0] == '.'), *rest = own + length;
        if (strncmp(own, name, length) != 0 ||
            !((strspn(rest, "0123456789abcdef") == 16 && strncmp(rest + 16, ".partial", 8) == 0) ||
              strcmp(rest, "gguf.partial") == 0) ||
            strncmp(rest, pull->key, 16) == 0 ||
            snprintf(path, sizeof path, "%s/%s", registry_folder(pull->registry), file->d_name) >= (int)sizeof path)
            continue;
        int opened = open(path, O_RDWR | O_CLOEXEC);
        if (opened >= 0 && flock(opened, LOCK_EX | LOCK_NB) == 0)
            unlink(path);
        if (opened >= 0)
            close(opened);
    }
    if (list)
        closedir(list);
}

/* Turns the complete files into the model. */
static hypura_status install(struct pull *pull, hypura_error *error)
{
    size_t count = pull->source.part_count;
    char **files;
    hypura_status status = ALLOCATE(&files, count, "list of files", error);
    tell(pull, json_pack("{s:s}", "status", "writing manifest"));
    for (size_t i = 0; !status && i < count; i++) {
        set_part(pull, i);
        status = string_copy(&files[i], pull->partial, error);
    }
    struct new_model model = {
        .files = (const char *const *)files, .file_count = count, .manifest = pull->source.manifest};
    if (!status)
        status = registry_create(pull->registry, pull->source.name, &model, error);
    for (size_t i = 0; !status && i < count; i++) {
        set_part(pull, i);
        unlink(pull->note_path);
    }
    for (size_t i = 0; files && i < count; i++)
        memory_free(files[i]);
    memory_free(files);
    return status;
}

hypura_status registry_pull(struct registry *registry, const char *reference, const struct engine_options *options,
                            pull_progress progress, void *context, hypura_error *error)
{
    struct pull *pull;
    hypura_status status = ALLOCATE(&pull, 1, "download", error);
    if (status)
        return status;
    pull->registry = registry;
    pull->options = options;
    pull->progress = progress;
    pull->context = context;
    pull->lock = pull->file = -1;
    pull->next_check = FIRST_CHECK;
    tell(pull, json_pack("{s:s}", "status", "pulling manifest"));
    status = source_find(&pull->source, reference, error);
    if (!status)
        status = registry_make_folder(registry, error);
    if (!status) {
        pull_key(pull->source.parts[0].url, pull->key);
        status = lock_model(pull, error);
    }
    if (!status && pull->source.part_count > 1)
        status = check_split(pull, error);
    for (size_t i = 0; !status && i < pull->source.part_count; i++)
        status = fetch_part(pull, i, error);
    if (!status)
        status = check_whole(pull, error);
    if (!status)
        status = install(pull, error);
    if (!status)
        forget_others(pull);
    if (!status)
        tell(pull, json_pack("{s:s}", "status", "success"));
    if (pull->untold)
        status = error_set(error, HYPURA_ERROR_MEMORY, "no memory to report the progress of the download");
    if (pull->lock >= 0)
        close(pull->lock);
    source_free(&pull->source);
    memory_free(pull);
    return status;
}
