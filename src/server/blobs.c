/* Ollama's /api/blobs: files that a client uploads under their SHA-256, from which POST /api/create makes models. They
 * stay in the subfolder "blobs" of the model folder until they are used, or for a day. */
#include "core/durable.h"
#include "server/registry.h"
#include "server/server_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define KEPT_SECONDS (24 * 3600)

/* A blob that is being uploaded. */
struct upload {
    char path[PATH_MAX], partial[PATH_MAX + 32];
    char digest[65];
    int file; /* -1: none is being written */
    bool there;
    struct sha256 sha;
    hypura_error error;
};

/* "sha256:" or "sha256-", and 64 hexadecimal digits. */
bool registry_blob(const struct registry *registry, const char *name, char *out, size_t room)
{
    if (!name || strncmp(name, "sha256", 6) != 0 || (name[6] != ':' && name[6] != '-') || strlen(name) != 71 ||
        strspn(name + 7, "0123456789abcdef") != 64)
        return false;
    int length = snprintf(out, room, "%s/blobs/sha256-%s", registry_folder(registry), name + 7);
    return length > 0 && (size_t)length < room;
}

void registry_forget_blobs(const struct registry *registry)
{
    char folder[PATH_MAX], path[PATH_MAX];
    snprintf(folder, sizeof folder, "%s/blobs", registry_folder(registry));
    DIR *list = opendir(folder);
    for (struct dirent *file; list && (file = readdir(list));) {
        struct stat info;
        int length = snprintf(path, sizeof path, "%s/%s", folder, file->d_name);
        if (length > 0 && (size_t)length < sizeof path &&
            (strncmp(file->d_name, "sha256-", 7) == 0 ||
             strncmp(file->d_name, QUANTIZED_PREFIX, strlen(QUANTIZED_PREFIX)) == 0) &&
            stat(path, &info) == 0 && info.st_mtime < time(NULL) - KEPT_SECONDS)
            unlink(path);
    }
    if (list)
        closedir(list);
}

/* ---- uploading ----------------------------------------------------------------------------------------------------
 */

static void drop_file(struct upload *upload)
{
    if (upload->file < 0)
        return;
    close(upload->file);
    unlink(upload->partial);
    upload->file = -1;
}

static void end_upload(void *context)
{
    drop_file(context);
    memory_free(context);
}

static struct upload *start_upload(struct exchange *exchange)
{
    struct registry *registry = exchange_server(exchange)->registry;
    struct upload *upload;
    if (ALLOCATE(&upload, 1, "upload", NULL))
        return NULL;
    upload->file = -1;
    sha256_start(&upload->sha);
    exchange_keep(exchange, upload, end_upload);
    if (!registry_blob(registry, exchange_rest(exchange), upload->path, sizeof upload->path)) {
        error_set(&upload->error, HYPURA_ERROR_ARGUMENT, "invalid digest format");
        return upload;
    }
    snprintf(upload->digest, sizeof upload->digest, "%s", exchange_rest(exchange) + 7);
    if ((upload->there = access(upload->path, F_OK) == 0))
        return upload;
    snprintf(upload->partial, sizeof upload->partial, "%s.%s", upload->path, exchange_id(exchange));
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(upload->path, '/') - upload->path), upload->path);
    if (durable_make_folder(folder, &upload->error))
        return upload;
    registry_forget_blobs(registry);
    upload->file = open(upload->partial, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (upload->file < 0)
        error_set_errno(&upload->error, errno, "cannot write %s", upload->partial);
    return upload;
}

static struct upload *upload_of(struct exchange *exchange)
{
    struct upload *upload = exchange_kept(exchange);
    return upload ? upload : start_upload(exchange);
}

bool take_blob(struct exchange *exchange, const char *data, size_t size)
{
    struct upload *upload = upload_of(exchange);
    if (!upload || upload->there || upload->error.status)
        return upload != NULL; /* discards the rest, which the client sends before it reads the answer */
    sha256_add(&upload->sha, data, size);
    while (size) {
        ssize_t written = write(upload->file, data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            error_set_errno(&upload->error, errno, "cannot write %s", upload->partial);
            drop_file(upload);
            break;
        }
        data += written;
        size -= (size_t)written;
    }
    return true;
}

/* Runs on its own thread, since flushing to a drive may take seconds. */
static void bring_to_disk(struct exchange *exchange)
{
    struct upload *upload = exchange_kept(exchange);
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(upload->path, '/') - upload->path), upload->path);
    hypura_status status = durable_file(upload->file, upload->partial, &upload->error);
    if (!status && rename(upload->partial, upload->path))
        status = error_set_errno(&upload->error, errno, "cannot create %s", upload->path);
    if (!status)
        status = durable_folder(folder, &upload->error);
    if (status) {
        exchange_fail_with(exchange, &upload->error);
    } else {
        close(upload->file);
        upload->file = -1;
        exchange_reply(exchange, 201, TYPE_JSON, "", 0);
    }
}

void handle_blob_sent(struct exchange *exchange)
{
    struct upload *upload = upload_of(exchange);
    char digest[65], message[256];
    if (!upload) {
        exchange_fail(exchange, 503, "server busy, please try again.  out of memory");
        return;
    }
    if (upload->error.status) {
        exchange_fail_with(exchange, &upload->error);
        return;
    }
    if (upload->there) {
        exchange_reply(exchange, 200, TYPE_JSON, "", 0);
        return;
    }
    sha256_finish(&upload->sha, digest);
    if (strcmp(digest, upload->digest) != 0) {
        drop_file(upload);
        snprintf(message, sizeof message, "digest mismatch, expected \"sha256:%s\", got \"sha256:%s\"", upload->digest,
                 digest);
        exchange_fail(exchange, 400, message);
        return;
    }
    exchange_aside(exchange, bring_to_disk);
}

void handle_blob_there(struct exchange *exchange)
{
    char path[PATH_MAX], message[256];
    if (!registry_blob(exchange_server(exchange)->registry, exchange_rest(exchange), path, sizeof path)) {
        exchange_fail(exchange, 400, "invalid digest format");
    } else if (access(path, F_OK)) {
        snprintf(message, sizeof message, "blob \"%.80s\" not found", exchange_rest(exchange));
        exchange_fail(exchange, 404, message);
    } else {
        exchange_reply(exchange, 200, NULL, "", 0);
    }
}
