/* Downloads of models: where a reference leads, the check whether the model would run here, the bytes, their digest. */
#include "server/fetch.h"
#include "server/server_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FIRST_CHECK ((uint64_t)4 << 20) /* bytes after which the header is looked at; then four times as many */
#define LAST_CHECK ((uint64_t)256 << 20)
#define MAX_PULLS 4

/* Where the bytes are. */
struct source {
    char url[2048];
    char name[256];   /* complete */
    char digest[65];  /* SHA-256 in hexadecimal, or empty */
    json_t *manifest; /* what came with it, or NULL */
};

struct pull {
    struct registry *registry;
    const struct engine_options *options;
    pull_progress progress;
    void *context;
    struct source source;
    char path[PATH_MAX], partial[PATH_MAX];
    int file;
    uint64_t have, total, next_check, last_told;
    bool checked;
    hypura_error error; /* of the callback */
};

static bool tell(const struct pull *pull, json_t *event)
{
    bool more = pull->progress(pull->context, event);
    json_decref(event);
    return more;
}

/* ---- references ----------------------------------------------------------------------------------------------------
 */

static const char *base_of(const char *variable, const char *otherwise)
{
    const char *chosen = getenv(variable);
    return chosen && *chosen ? chosen : otherwise;
}

/* A name out of a URL's last part; what no name can hold becomes a dash. */
static bool name_of_url(const char *url, char *out, size_t room)
{
    char stem[200];
    size_t length = strcspn(url, "?#"), start = length;
    while (start > 0 && url[start - 1] != '/')
        start--;
    snprintf(stem, sizeof stem, "%.*s", (int)MIN(length - start, sizeof stem - 1), url + start);
    char *dot = strrchr(stem, '.');
    if (dot && strcasecmp(dot, ".gguf") == 0)
        *dot = 0;
    for (char *c = stem; *c; c++) {
        bool plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || *c == '_' ||
                     (c > stem && (*c == '.' || *c == '-'));
        *c = plain ? *c : c > stem ? '-' : 'x';
    }
    return model_name_complete(stem, out, room);
}

static hypura_status get_json(const char *url, const char *accept, json_t **out, hypura_error *error)
{
    struct buffer text = {0};
    long status;
    hypura_status result = fetch_text(url, accept, NULL, NULL, &text, &status, error);
    if (!result && status != 200)
        result = error_set(error, HYPURA_ERROR_IO,
                           status == 404 || status == 401 ? "pull model manifest: file does not exist: %.200s"
                                                          : "%.200s did not answer as expected",
                           url);
    json_error_t where;
    if (!result && !(*out = json_loadb(text.data ? text.data : "", text.size, 0, &where)))
        result = error_set(error, HYPURA_ERROR_FORMAT, "%.200s answered with what is no JSON: %s", url, where.text);
    buffer_free(&text);
    return result;
}

static bool contains(const char *text, const char *part)
{
    return strcasestr(text, part) != NULL;
}

/* hf.co/USER/REPOSITORY[:QUANTISATION]: the list of its files says which there are, and their digests. */
static hypura_status find_in_hub(struct source *out, const char *reference, hypura_error *error)
{
    char repository[200], url[512];
    const char *base = base_of("HYPURA_HUB", "https://huggingface.co"), *wanted = strchr(reference, ':');
    snprintf(repository, sizeof repository, "%.*s", (int)strcspn(reference, ":"), reference);
    const char *slash = strchr(repository, '/');
    if (!slash || strchr(slash + 1, '/') || strstr(repository, ".."))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "expected hf.co/USER/REPOSITORY or hf.co/USER/REPOSITORY:FILE");
    snprintf(url, sizeof url, "%s/api/models/%s/tree/main?recursive=true", base, repository);
    json_t *files = NULL, *file, *chosen = NULL;
    hypura_status status = get_json(url, NULL, &files, error);
    if (status)
        return status;
    size_t i;
    int best = -1;
    json_array_foreach(files, i, file)
    {
        const char *path = json_string_value(json_object_get(file, "path"));
        size_t length = path ? strlen(path) : 0;
        if (length < 5 || strcasecmp(path + length - 5, ".gguf") != 0 || contains(path, "mmproj"))
            continue;
        int rank = wanted                     ? (contains(path, wanted + 1) ? 2 : -1)
                   : contains(path, "Q4_K_M") ? 2
                   : contains(path, "Q4")     ? 1
                                              : 0;
        if (rank > best) {
            best = rank;
            chosen = file;
        }
    }
    const char *path = json_string_value(json_object_get(chosen, "path"));
    const char *digest = json_string_value(json_object_get(json_object_get(chosen, "lfs"), "oid"));
    if (!path)
        status = error_set(error, HYPURA_ERROR_IO, "%s has no GGUF file%s%s", repository, wanted ? " for " : "",
                           wanted ? wanted + 1 : "");
    else if (strstr(path, "-of-"))
        status = error_set(error, HYPURA_ERROR_UNSUPPORTED,
                           "%s is split into several files: download all of them into the model folder", path);
    char name[256];
    snprintf(name, sizeof name, "hf.co/%s%s", repository, wanted ? wanted : "");
    if (!status && !model_name_complete(name, out->name, sizeof out->name))
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "invalid model name");
    if (!status) {
        snprintf(out->url, sizeof out->url, "%s/%s/resolve/main/%s", base, repository, path);
        snprintf(out->digest, sizeof out->digest, "%s", digest && strlen(digest) == 64 ? digest : "");
    }
    json_decref(files);
    return status;
}

/* Small layers of a model in Ollama's library: parameters and a system message. */
static void add_layer(struct source *out, const char *base, const char *type, const char *digest)
{
    char url[1024];
    struct buffer text = {0};
    long status;
    snprintf(url, sizeof url, "%s/blobs/%s", base, digest);
    bool system = contains(type, ".system"), parameters = contains(type, ".params");
    if ((system || parameters) && fetch_text(url, NULL, NULL, NULL, &text, &status, NULL) == HYPURA_OK &&
        status == 200) {
        if (!out->manifest)
            out->manifest = json_object();
        json_t *value = parameters ? json_loadb(text.data ? text.data : "", text.size, 0, NULL)
                                   : json_stringn(text.data ? text.data : "", text.size);
        if (value)
            json_object_set_new(out->manifest, parameters ? "parameters" : "system", value);
    }
    buffer_free(&text);
}

/* NAME[:TAG] or USER/NAME[:TAG] of Ollama's library: an image manifest whose model layer is the GGUF file. */
static hypura_status find_in_library(struct source *out, const char *reference, hypura_error *error)
{
    char base[512], url[768];
    if (!model_name_complete(reference, out->name, sizeof out->name))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "invalid model name");
    size_t length = strcspn(out->name, ":");
    snprintf(base, sizeof base, "%s/v2/%s%.*s", base_of("HYPURA_LIBRARY", "https://registry.ollama.ai"),
             memchr(out->name, '/', length) ? "" : "library/", (int)length, out->name);
    snprintf(url, sizeof url, "%s/manifests/%s", base, out->name + length + 1);
    json_t *image = NULL, *layer;
    hypura_status status = get_json(url, "application/vnd.docker.distribution.manifest.v2+json", &image, error);
    size_t i;
    json_array_foreach(json_object_get(image, "layers"), i, layer)
    {
        const char *type = json_string_value(json_object_get(layer, "mediaType"));
        const char *digest = json_string_value(json_object_get(layer, "digest"));
        if (!type || !digest || strncmp(digest, "sha256:", 7) != 0 || strlen(digest) != 71 ||
            strspn(digest + 7, "0123456789abcdef") != 64)
            continue;
        if (strcmp(type, "application/vnd.ollama.image.model") == 0) {
            snprintf(out->url, sizeof out->url, "%s/blobs/%s", base, digest);
            strcpy(out->digest, digest + 7);
        } else {
            add_layer(out, base, type, digest);
        }
    }
    json_decref(image);
    if (!status && !out->url[0])
        status = error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s holds no GGUF file", out->name);
    return status;
}

static hypura_status find_source(struct source *out, const char *reference, hypura_error *error)
{
    static const char *const hubs[] = {"hf.co/", "huggingface.co/"};
    for (size_t i = 0; i < COUNT_OF(hubs); i++) {
        if (strncmp(reference, hubs[i], strlen(hubs[i])) == 0)
            return find_in_hub(out, reference + strlen(hubs[i]), error);
    }
    if (strncmp(reference, "https://", 8) != 0 && strncmp(reference, "http://", 7) != 0)
        return find_in_library(out, reference, error);
    if (strlen(reference) >= sizeof out->url || !name_of_url(reference, out->name, sizeof out->name))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the URL must end in the name of a GGUF file");
    strcpy(out->url, reference);
    return HYPURA_OK;
}

/* ---- the check -----------------------------------------------------------------------------------------------------
 */

/* A file as long as the model will be, with the bytes that are there: enough for whoever reads the header only. */
static hypura_status make_sparse(const struct pull *pull, const char *path, hypura_error *error)
{
    char piece[65536];
    int out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool fine = out >= 0;
    for (uint64_t at = 0; fine && at < pull->have;) {
        ssize_t got = pread(pull->file, piece, MIN(sizeof piece, pull->have - at), (off_t)at);
        fine = got > 0 && write(out, piece, (size_t)got) == got;
        at += got > 0 ? (uint64_t)got : 0;
    }
    fine = fine && ftruncate(out, (off_t)pull->total) == 0;
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

/* Whether the model would run here, as soon as its header is there. False: it would not. */
static bool check_header(struct pull *pull)
{
    char path[PATH_MAX];
    if (pull->checked || pull->total == 0 || pull->have < MIN(pull->next_check, pull->total))
        return true;
    snprintf(path, sizeof path, "%.*s.check", (int)sizeof path - 8, pull->partial);
    hypura_error error = {0};
    hypura_status status = make_sparse(pull, path, &error);
    if (!status)
        status = plan_of(pull, path, &error);
    unlink(path);
    pull->checked = status == HYPURA_OK;
    pull->next_check *= 4;
    /* A header that is longer than what is there looks damaged. */
    if (status == HYPURA_ERROR_FORMAT && pull->have < pull->total && pull->next_check <= LAST_CHECK)
        return true;
    if (status)
        error_set(&pull->error, error.status ? error.status : status, "this model cannot run here: %s", error.message);
    return status == HYPURA_OK;
}

/* ---- the bytes -----------------------------------------------------------------------------------------------------
 */

static bool tell_bytes(struct pull *pull, bool always)
{
    uint64_t now = clock_nanoseconds();
    if (!always && now - pull->last_told < 250000000u)
        return true;
    pull->last_told = now;
    char status[64], digest[80];
    snprintf(status, sizeof status, "pulling %.12s", pull->source.digest[0] ? pull->source.digest : pull->source.name);
    snprintf(digest, sizeof digest, "sha256:%s", pull->source.digest);
    json_t *event = json_pack("{s:s, s:I, s:I}", "status", status, "total", (json_int_t)pull->total, "completed",
                              (json_int_t)pull->have);
    if (pull->source.digest[0])
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
    return check_header(pull) && tell_bytes(pull, first);
}

static bool go_on(void *context)
{
    return tell_bytes(context, false);
}

static hypura_status verify(struct pull *pull, hypura_error *error)
{
    if (!pull->source.digest[0])
        return HYPURA_OK;
    tell(pull, json_pack("{s:s}", "status", "verifying sha256 digest"));
    char *piece, digest[65];
    const size_t room = 1 << 20;
    hypura_status status = ALLOCATE(&piece, room, "buffer", error);
    struct sha256 sha;
    sha256_start(&sha);
    for (uint64_t at = 0; !status && at < pull->have;) {
        ssize_t got = pread(pull->file, piece, room, (off_t)at);
        if (got <= 0) {
            status = error_set_errno(error, errno, "cannot read %s", pull->partial);
            break;
        }
        sha256_add(&sha, piece, (size_t)got);
        at += (uint64_t)got;
    }
    sha256_finish(&sha, digest);
    memory_free(piece);
    if (!status && strcmp(digest, pull->source.digest) != 0) {
        unlink(pull->partial);
        status = error_set(error, HYPURA_ERROR_FORMAT,
                           "digest mismatch, file must be downloaded again: want sha256:%s, got sha256:%s",
                           pull->source.digest, digest);
    }
    return status;
}

static hypura_status download(struct pull *pull, hypura_error *error)
{
    struct stat info;
    pull->file = open(pull->partial, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (pull->file < 0)
        return error_set_errno(error, errno, "cannot write %s", pull->partial);
    if (flock(pull->file, LOCK_EX | LOCK_NB))
        return error_set(error, HYPURA_ERROR_IO, "model '%s' is being downloaded already", pull->source.name);
    if (fstat(pull->file, &info) == 0)
        pull->have = (uint64_t)info.st_size;
    pull->next_check = FIRST_CHECK;
    struct fetch fetch = {.url = pull->source.url,
                          .offset = pull->have,
                          .fail_on_error = true,
                          .take = take_bytes,
                          .go_on = go_on,
                          .context = pull};
    long status;
    hypura_status result = fetch_run(&fetch, &status, error);
    if (pull->error.status) {
        *error = pull->error;
        if (pull->error.status != HYPURA_ERROR_IO)
            unlink(pull->partial);
        return error->status;
    }
    /* 416: there is nothing behind what is here already. */
    if (!result && status != 200 && status != 206 && !(status == 416 && pull->have))
        return error_set(error, HYPURA_ERROR_IO, "%.200s answered with status %ld", pull->source.url, status);
    if (result == HYPURA_ERROR_IO && status == 416 && pull->have)
        result = HYPURA_OK;
    if (!result && pull->total && pull->have != pull->total)
        result = error_set(error, HYPURA_ERROR_IO, "the download ended after %llu of %llu bytes",
                           (unsigned long long)pull->have, (unsigned long long)pull->total);
    return result;
}

/* A file that is whole becomes the model; one that cannot be read is thrown away. */
static hypura_status install(struct pull *pull, hypura_error *error)
{
    struct gguf *file;
    char checked[PATH_MAX + 16];
    hypura_status status = verify(pull, error);
    if (status)
        return status;
    snprintf(checked, sizeof checked, "%s", pull->partial);
    status = gguf_open(&file, checked, error);
    if (status) {
        unlink(pull->partial);
        return status;
    }
    gguf_close(file);
    tell(pull, json_pack("{s:s}", "status", "writing manifest"));
    if (fsync(pull->file) || rename(pull->partial, pull->path))
        return error_set_errno(error, errno, "cannot make %s", pull->path);
    char manifest[PATH_MAX];
    registry_path(pull->registry, pull->source.name, "json", manifest, sizeof manifest);
    if (pull->source.manifest && json_dump_file(pull->source.manifest, manifest, JSON_INDENT(2)))
        return error_set_errno(error, errno, "cannot write %s", manifest);
    tell(pull, json_pack("{s:s}", "status", "success"));
    return HYPURA_OK;
}

hypura_status registry_pull(struct registry *registry, const char *reference, const struct engine_options *options,
                            pull_progress progress, void *context, hypura_error *error)
{
    struct pull *pull;
    hypura_status status = ALLOCATE(&pull, 1, "download", error);
    if (status)
        return status;
    *pull =
        (struct pull){.registry = registry, .options = options, .progress = progress, .context = context, .file = -1};
    tell(pull, json_pack("{s:s}", "status", "pulling manifest"));
    status = find_source(&pull->source, reference, error);
    if (!status)
        status = registry_make_folder(registry, error);
    if (!status) {
        registry_path(registry, pull->source.name, "gguf", pull->path, sizeof pull->path);
        registry_path(registry, pull->source.name, "gguf.partial", pull->partial, sizeof pull->partial);
        status = download(pull, error);
    }
    if (!status)
        status = install(pull, error);
    if (status && pull->file >= 0 && pull->have == 0)
        unlink(pull->partial);
    if (pull->file >= 0)
        close(pull->file);
    json_decref(pull->source.manifest);
    memory_free(pull);
    return status;
}

/* ---- POST /api/pull ------------------------------------------------------------------------------------------------
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
    hypura_status status =
        registry_pull(server->registry, request->reference, &server->options.engine, write_progress, request, &error);
    if (status)
        exchange_fail_with(request->exchange, &error);
    else
        exchange_end(request->exchange);
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
    if (!name)
        name = json_string_value(json_object_get(json, "name"));
    if (!name || !*name || strlen(name) >= sizeof request->reference) {
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
