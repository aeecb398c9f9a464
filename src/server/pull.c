/* Downloads of models: the check whether the model would run here, the bytes, their digest. */
#include "server/pull_source.h"

#include "server/fetch.h"
#include "server/loaded.h"
#include "server/server_private.h"
#include "server/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FIRST_CHECK ((uint64_t)4 << 20) /* bytes after which the header is looked at; then four times as many */
#define LAST_CHECK ((uint64_t)256 << 20)
#define MAX_PULLS 4

struct pull {
    struct registry *registry;
    const struct engine_options *options;
    pull_progress progress;
    void *context;
    struct source source;
    size_t part; /* the one in work; the rest is about it */
    char path[PATH_MAX], partial[PATH_MAX];
    int lock; /* the first part's partial file, held from the beginning to the end */
    int file;
    uint64_t have, total, next_check, last_told;
    uint64_t stop_at; /* bytes of a part that are enough for now; 0: all of them */
    bool checked, stopped;
    hypura_error error;  /* of the callback */
    char piece[1 << 16]; /* of a file that is read again */
};

static bool tell(const struct pull *pull, json_t *event)
{
    bool more = pull->progress(pull->context, event);
    json_decref(event);
    return more;
}

static const struct source_part *part_of(const struct pull *pull)
{
    return &pull->source.parts[pull->part];
}

/* ---- the check ------------------------------------------------------------------------------------------------------
 */

/* A file as long as a part will be, with the first bytes of those that are there: enough for whoever reads the header.
 */
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

static hypura_status plan_of(const struct pull *pull, const char *path, hypura_error *error)
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
        char text[160];
        snprintf(text, sizeof text, "checked: %s, about %.1f tokens/s here", plan_mode_name(plan->mode),
                 plan->predicted_tokens_per_second);
        tell(pull, json_pack("{s:s, s:{s:s, s:s, s:f, s:I, s:I}}", "status", text, "hypura", "mode",
                             plan_mode_name(plan->mode), "architecture", model_architecture(model)->name,
                             "predicted_tokens_per_second", plan->predicted_tokens_per_second, "budget_bytes",
                             (json_int_t)plan->budget, "smallest_budget_bytes", (json_int_t)plan->smallest_budget));
    } else {
        /* The file is well formed: this is an answer, not a header that is not whole yet. */
        status = HYPURA_ERROR_UNSUPPORTED;
    }
    plan_free(plan);
    memory_free(hardware);
    model_close(model);
    return status;
}

/* What a check found. A header that is longer than what is there looks damaged: then more is to be fetched. */
static hypura_status judge(struct pull *pull, hypura_status status, const hypura_error *error, bool more)
{
    pull->checked = status == HYPURA_OK;
    pull->next_check *= 4;
    if (!status || (status == HYPURA_ERROR_FORMAT && more && pull->next_check <= LAST_CHECK))
        return HYPURA_OK;
    return error_set(&pull->error, error->status ? error->status : status, "this model cannot run here: %s",
                     error->message);
}

/* Whether the model would run here, as soon as its header is there. False: it would not. */
static bool check_header(struct pull *pull)
{
    char path[PATH_MAX];
    /* A split model was checked before its parts are fetched. */
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
    if (pull->total) { /* known once the first bytes are here */
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
    /* How long the parts of a split model are was found out before the first of them is fetched. */
    for (size_t i = 0; i < pull->source.part_count; i++) {
        const struct source_part *part = &pull->source.parts[i];
        wanted += i != pull->part && part->bytes > part->have ? part->bytes - part->have : 0;
    }
    if (wanted <= left)
        return true;
    error_set(&pull->error, HYPURA_ERROR_IO, "%s are left to download, and only %s are free in %s",
              format_bytes(need, sizeof need, (double)wanted), format_bytes(room, sizeof room, (double)left),
              registry_folder(pull->registry));
    return false;
}

static bool take_bytes(void *context, const void *data, size_t size, uint64_t total, bool restarted)
{
    struct pull *pull = context;
    bool first = pull->total == 0;
    if (restarted) {
        pull->have = 0;
        if (ftruncate(pull->file, 0)) {
            error_set_errno(&pull->error, errno, "cannot write %s", pull->partial);
            return false;
        }
    }
    pull->total = total;
    if (first && !has_room(pull))
        return false;
    if (pull->stop_at && pull->have >= pull->stop_at) {
        pull->stopped = true;
        return false;
    }
    for (const char *at = data; size;) {
        ssize_t written = pwrite(pull->file, at, size, (off_t)pull->have);
        if (written < 0) {
            error_set_errno(&pull->error, errno, "cannot write %s", pull->partial);
            return false;
        }
        pull->have += (uint64_t)written;
        at += written;
        size -= (size_t)written;
    }
    pull->stopped = pull->stop_at && pull->have >= pull->stop_at;
    return !pull->stopped && check_header(pull) && tell_bytes(pull, first);
}

static bool go_on(void *context)
{
    return tell_bytes(context, false);
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
            status = error_set_errno(error, errno, "cannot read %s", pull->partial);
            break;
        }
        sha256_add(&sha, pull->piece, (size_t)got);
        at += (uint64_t)got;
    }
    sha256_finish(&sha, digest);
    if (!status && strcmp(digest, part_of(pull)->digest) != 0) {
        unlink(pull->partial);
        status = error_set(error, HYPURA_ERROR_FORMAT,
                           "digest mismatch, file must be downloaded again: want "
                           "sha256:%s, got sha256:%s",
                           part_of(pull)->digest, digest);
    }
    return status;
}

static hypura_status download(struct pull *pull, hypura_error *error)
{
    struct stat info;
    pull->file = pull->part == 0 ? fcntl(pull->lock, F_DUPFD_CLOEXEC, 0)
                                 : open(pull->partial, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (pull->file < 0)
        return error_set_errno(error, errno, "cannot write %s", pull->partial);
    if (fstat(pull->file, &info) == 0)
        pull->have = (uint64_t)info.st_size;
    struct fetch fetch = {.url = part_of(pull)->url,
                          .offset = pull->have,
                          .fail_on_error = true,
                          .take = take_bytes,
                          .go_on = go_on,
                          .context = pull};
    long status;
    hypura_status result = fetch_run(&fetch, &status, error);
    if (pull->stopped)
        return HYPURA_OK;
    if (pull->error.status) {
        *error = pull->error;
        if (pull->error.status != HYPURA_ERROR_IO)
            unlink(pull->partial);
        return error->status;
    }
    /* 416: there is nothing behind what is here already. */
    if (!result && status != 200 && status != 206 && !(status == 416 && pull->have))
        return error_set(error, HYPURA_ERROR_IO, "%.200s answered with status %ld", part_of(pull)->url, status);
    if (result == HYPURA_ERROR_IO && status == 416 && pull->have) {
        pull->total = pull->have;
        result = HYPURA_OK;
    }
    if (!result && pull->total && pull->have != pull->total)
        result = error_set(error, HYPURA_ERROR_IO, "the download ended after %llu of %llu bytes",
                           (unsigned long long)pull->have, (unsigned long long)pull->total);
    return result;
}

/* The path of a part once it is whole, and while it is not. */
static void set_part(struct pull *pull, size_t part)
{
    size_t count = pull->source.part_count;
    pull->part = part;
    pull->have = pull->total = 0;
    pull->stopped = false;
    registry_path(pull->registry, pull->source.name, "gguf", pull->path, sizeof pull->path);
    if (count > 1) {
        char *ending = strrchr(pull->path, '.');
        snprintf(ending, sizeof pull->path - (size_t)(ending - pull->path), "-%05zu-of-%05zu.gguf", part + 1, count);
    }
    snprintf(pull->partial, sizeof pull->partial, "%.*s.partial", (int)sizeof pull->partial - 16, pull->path);
}

/* Nobody else downloads the same model meanwhile. Whoever had the lock until now may have finished, and then the file
 * that was opened is no partial one any more. */
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

/* The first bytes of each part, up to stop_at; then it is known how long all are. */
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
            unlink(pull->partial);
        close_file(pull);
    }
    return status;
}

/* Of the part in work; parts know one another by their names. */
static void head_path(const struct pull *pull, char *out, size_t room)
{
    const char *slash = strrchr(pull->path, '/');
    snprintf(out, room, "%s/.check.%s", registry_folder(pull->registry), slash + 1);
}

/* The model as it will be, of files that have nothing but their heads. */
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

/* Whether a split model has room and would run here, before more than the heads of its parts are fetched. */
static hypura_status check_split(struct pull *pull, hypura_error *error)
{
    for (size_t i = 0; i < pull->source.part_count; i++) {
        struct stat info;
        set_part(pull, i);
        pull->source.parts[i].have = stat(pull->partial, &info) == 0 ? (uint64_t)info.st_size : 0;
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
            break; /* a server that does not say how long its files are */
        status = check_heads(pull, &problem);
        if (judge(pull, status, &problem, more)) {
            *error = pull->error;
            for (size_t i = 0; error->status != HYPURA_ERROR_IO && i < pull->source.part_count; i++) {
                set_part(pull, i);
                unlink(pull->partial);
            }
            return error->status;
        }
    }
    pull->stop_at = 0;
    return HYPURA_OK;
}

/* One part, up to a whole file that has its digest but not its name yet. */
static hypura_status fetch_part(struct pull *pull, size_t part, hypura_error *error)
{
    struct gguf *file;
    set_part(pull, part);
    hypura_status status = download(pull, error);
    pull->source.parts[part].have = pull->have;
    if (status && pull->have == 0)
        unlink(pull->partial);
    if (!status)
        status = verify(pull, error);
    if (!status && fsync(pull->file))
        status = error_set_errno(error, errno, "cannot write %s", pull->partial);
    /* One that cannot be read is thrown away; of a split model that shows when all have their names. */
    if (!status && pull->source.part_count == 1) {
        status = gguf_open(&file, pull->partial, error);
        if (status)
            unlink(pull->partial);
        else
            gguf_close(file);
    }
    close_file(pull);
    return status;
}

/* Whole files become the model. */
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
    if (!status)
        status = lock_model(pull, error);
    if (!status && pull->source.part_count > 1)
        status = check_split(pull, error);
    for (size_t i = 0; !status && i < pull->source.part_count; i++)
        status = fetch_part(pull, i, error);
    if (!status)
        status = install(pull, error);
    if (!status)
        tell(pull, json_pack("{s:s}", "status", "success"));
    if (pull->lock >= 0)
        close(pull->lock);
    source_free(&pull->source);
    memory_free(pull);
    return status;
}

/* ---- POST /api/pull -------------------------------------------------------------------------------------------------
 */

struct request {
    struct exchange *exchange;
    bool stream;
    char reference[2048];
};

static bool write_progress(void *context, const json_t *event)
{
    struct request *request = context;
    bool last = strcmp(json_string_value(json_object_get(event, "status")), "success") == 0;
    if (atomic_load(&exchange_server(request->exchange)->stopping) || !exchange_alive(request->exchange))
        return false;
    if (request->stream)
        return exchange_write_line(request->exchange, json_incref((json_t *)event));
    if (last)
        exchange_reply_json(request->exchange, 200, json_incref((json_t *)event));
    return true;
}

static void *run(void *context)
{
    struct request *request = context;
    struct server *server = exchange_server(request->exchange);
    hypura_error error = {0};
    struct engine_options options = server->options.engine;
    options.budget = loaded_budget(server->models);
    options.reserved = -(int64_t)loaded_resident(server->models); /* they would make room for this one */
    hypura_status status =
        registry_pull(server->registry, request->reference, &options, write_progress, request, &error);
    if (status) {
        exchange_fail_with(request->exchange, &error);
    } else {
        worker_names_changed(server->worker);
        exchange_end(request->exchange);
    }
    server_log(status ? "error" : "info", status ? error.message : "model pulled", "id=%s",
               exchange_id(request->exchange));
    exchange_release(request->exchange);
    memory_free(request);
    atomic_fetch_sub(&server->pulls, 1);
    return NULL;
}

void handle_pull(struct exchange *exchange)
{
    json_t *json = exchange_json(exchange);
    struct server *server = exchange_server(exchange);
    struct request *request;
    hypura_error error = {0};
    const char *name = json_string_value(json_object_get(json, "model"));
    if (!json)
        return;
    if (!name || !*name)
        name = json_string_value(json_object_get(json, "name"));
    char complete[256];
    bool url = name && (strncmp(name, "http://", 7) == 0 || strncmp(name, "https://", 8) == 0);
    if (!name || strlen(name) >= sizeof request->reference ||
        (!url && !model_name_complete(name, complete, sizeof complete))) {
        exchange_fail(exchange, 400, "invalid model name");
        return;
    }
    if (atomic_fetch_add(&server->pulls, 1) >= MAX_PULLS) {
        atomic_fetch_sub(&server->pulls, 1);
        exchange_fail(exchange, 503, "server busy, please try again.  too many downloads at once");
        return;
    }
    pthread_t thread;
    if (ALLOCATE(&request, 1, "download", &error)) {
        atomic_fetch_sub(&server->pulls, 1);
        exchange_fail_with(exchange, &error);
        return;
    }
    request->exchange = exchange;
    request->stream = !json_is_false(json_object_get(json, "stream"));
    strcpy(request->reference, name);
    exchange_hold(exchange);
    if (pthread_create(&thread, NULL, run, request)) {
        exchange_fail(exchange, 500, "cannot start a thread");
        exchange_release(exchange);
        memory_free(request);
        atomic_fetch_sub(&server->pulls, 1);
        return;
    }
    pthread_detach(thread);
}
