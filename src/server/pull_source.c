
#include "server/pull_source.h"

#include "core/json_text.h"
#include "server/fetch.h"
#include "server/registry.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MOST_PARTS 1000

static hypura_status add_part(struct source *source, const char *url, const char *digest, uint64_t bytes,
                              hypura_error *error)
{
    struct source_part part = {.bytes = bytes};
    if ((size_t)snprintf(part.url, sizeof part.url, "%s", url) >= sizeof part.url)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the address %.60s... is too long", url);
    if (digest && strlen(digest) == 64 && strspn(digest, "0123456789abcdef") == 64)
        strcpy(part.digest, digest);
    hypura_status status = memory_resize((void **)&source->parts, source->part_count, source->part_count + 1,
                                         sizeof part, "download", error);
    if (!status)
        source->parts[source->part_count++] = part;
    return status;
}

/* The number of parts of the model whose first file has this name; *of: where "-00001-of-" begins. 1: it is not split;
 * 0: the name is that of a later part. */
static size_t count_parts(const char *name, const char **of)
{
    *of = NULL;
    for (const char *next = name; (next = strstr(next, "-of-")); next++)
        *of = next;
    size_t before = *of ? (size_t)(*of - name) : 0;
    if (before < 6 || strspn(*of - 5, "0123456789") != 5 || (*of)[-6] != '-' || strspn(*of + 4, "0123456789") != 5)
        return 1;
    long count = strtol(*of + 4, NULL, 10);
    *of -= 6;
    return strncmp(*of, "-00001-", 7) == 0 && count > 0 && count <= MOST_PARTS ? (size_t)count : 0;
}

static const char *base_of(const char *variable, const char *otherwise)
{
    const char *chosen = getenv(variable);
    return chosen && *chosen ? chosen : otherwise;
}

/* Where the last segment of a URL's path begins; it ends at *length. */
static size_t last_part(const char *url, size_t *length)
{
    size_t start = *length = strcspn(url, "?#");
    while (start > 0 && url[start - 1] != '/')
        start--;
    return start;
}

/* Makes a model's name from a URL's last segment; invalid characters become dashes. */
static bool name_of_url(const char *url, char *out, size_t room)
{
    char stem[200];
    const char *of;
    size_t length, start = last_part(url, &length);
    size_t parts = count_parts(url + start, &of);
    if (parts > 1)
        length = (size_t)(of - url);
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
    hypura_status result = fetch_text(url, NULL, accept, NULL, NULL, &text, &status, error);
    if (!result && status != 200)
        result = error_set(error, HYPURA_ERROR_IO,
                           status == 404 || status == 401 ? "pull model manifest: file does not exist: %.200s"
                                                          : "%.200s did not answer as expected",
                           url);
    json_error_t where;
    if (!result && !(*out = json_text_read(text.data ? text.data : "", text.size, 0, &where)))
        result = error_set(error, HYPURA_ERROR_FORMAT, "%.200s answered with something that is not JSON: %s", url,
                           where.text);
    buffer_free(&text);
    return result;
}

static bool contains(const char *text, const char *part)
{
    return strcasestr(text, part) != NULL;
}

/* Adds a file of a repository, or all parts of a split model by its first one. */
static hypura_status add_hub_files(struct source *out, const char *base, const char *repository, const json_t *files,
                                   const char *first, hypura_error *error)
{
    const char *of;
    size_t count = count_parts(first, &of);
    hypura_status status = HYPURA_OK;
    for (size_t part = 1; !status && part <= count; part++) {
        char path[1024], url[2048];
        snprintf(path, sizeof path, "%s", first);
        if (count > 1)
            snprintf(path, sizeof path, "%.*s-%05zu%s", (int)(of - first), first, part, of + 6);
        const json_t *file = NULL, *each;
        size_t i;
        json_array_foreach(files, i, each)
        {
            const char *name = json_string_value(json_object_get(each, "path"));
            if (name && strcmp(name, path) == 0)
                file = each;
        }
        if (!file)
            return error_set(error, HYPURA_ERROR_IO, "%s has %zu parts, and %s is missing", first, count, path);
        const json_t *large = json_object_get(file, "lfs");
        json_int_t bytes = json_integer_value(json_object_get(file, "size"));
        snprintf(url, sizeof url, "%s/%s/resolve/main/%s", base, repository, path);
        status = add_part(out, url, json_string_value(json_object_get(large, "oid")), bytes > 0 ? (uint64_t)bytes : 0,
                          error);
    }
    return status;
}

/* hf.co/USER/REPOSITORY[:QUANTISATION]: the repository's list of files has their names and digests. */
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
        const char *of;
        if (length < 5 || strcasecmp(path + length - 5, ".gguf") != 0 || contains(path, "mmproj") ||
            count_parts(path, &of) == 0)
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
    if (!path)
        status = error_set(error, HYPURA_ERROR_IO, "%s has no GGUF file%s%s", repository, wanted ? " for " : "",
                           wanted ? wanted + 1 : "");
    char name[256];
    snprintf(name, sizeof name, "hf.co/%s%s", repository, wanted ? wanted : "");
    if (!status && !model_name_complete(name, out->name, sizeof out->name))
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "invalid model name");
    if (!status)
        status = add_hub_files(out, base, repository, files, path, error);
    json_decref(files);
    return status;
}

/* Adds small layers of a model in Ollama's library: parameters and a system message. */
static hypura_status add_layer(struct source *out, const char *base, const char *type, const char *digest,
                               hypura_error *error)
{
    char url[1024], found[65];
    struct buffer text = {0};
    long answer;
    bool system = contains(type, ".system"), parameters = contains(type, ".params");
    if (!system && !parameters)
        return HYPURA_OK;
    snprintf(url, sizeof url, "%s/blobs/%s", base, digest);
    uint64_t failures = memory_failures();
    hypura_status status = fetch_text(url, NULL, NULL, NULL, NULL, &text, &answer, error);
    if (!status && answer != 200)
        status = error_set(error, HYPURA_ERROR_IO, "%.200s did not answer as expected", url);
    const char *data = text.data ? text.data : "";
    struct sha256 sha;
    sha256_start(&sha);
    sha256_add(&sha, data, text.size);
    sha256_finish(&sha, found);
    if (!status && strcmp(found, digest + 7) != 0)
        status =
            error_set(error, HYPURA_ERROR_FORMAT, "digest mismatch, try again: want %s, got sha256:%s", digest, found);
    if (!status) {
        json_t *value = parameters ? json_text_read(data, text.size, 0, NULL) : json_stringn(data, text.size);
        bool valid = parameters ? json_is_object(value) : value != NULL;
        if (!out->manifest)
            out->manifest = json_object();
        json_object_set_new(out->manifest, parameters ? "parameters" : "system", value);
        status = memory_check(failures, "layer of the model", error);
        if (!status && !valid)
            status = error_set(error, HYPURA_ERROR_FORMAT, "%.200s answered with something that is not %s", url,
                               parameters ? "a JSON object" : "UTF-8");
    }
    buffer_free(&text);
    return status;
}

/* NAME[:TAG] or USER/NAME[:TAG] of Ollama's library: an image manifest whose model layer is the GGUF file. */
static hypura_status find_in_library(struct source *out, const char *reference, hypura_error *error)
{
    char base[512], url[768];
    if (!model_name_complete(model_name_short(reference), out->name, sizeof out->name))
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
            char blob[1024];
            snprintf(blob, sizeof blob, "%s/blobs/%s", base, digest);
            if (!status && out->part_count == 0)
                status = add_part(out, blob, digest + 7, 0, error);
        } else if (!status) {
            status = add_layer(out, base, type, digest, error);
        }
    }
    json_decref(image);
    if (!status && out->part_count == 0)
        status = error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s contains no GGUF file", out->name);
    return status;
}

/* Adds a file, or all parts of a split model by the URL of its first one. */
static hypura_status add_url(struct source *out, const char *url, hypura_error *error)
{
    size_t length, start = last_part(url, &length);
    const char *of;
    size_t count = count_parts(url + start, &of);
    if (count == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "this is a later part of a split model: give the URL of its first part");
    if (count == 1)
        return add_part(out, url, NULL, 0, error);
    hypura_status status = HYPURA_OK;
    for (size_t part = 1; !status && part <= count; part++) {
        char one[2048];
        int size = snprintf(one, sizeof one, "%.*s-%05zu%s", (int)(of - url), url, part, of + 6);
        status = size < (int)sizeof one ? add_part(out, one, NULL, 0, error)
                                        : error_set(error, HYPURA_ERROR_ARGUMENT, "the URL is too long");
    }
    return status;
}

hypura_status source_find(struct source *out, const char *reference, hypura_error *error)
{
    static const char *const hubs[] = {"hf.co/", "huggingface.co/"};
    for (size_t i = 0; i < COUNT_OF(hubs); i++) {
        if (strncmp(reference, hubs[i], strlen(hubs[i])) == 0)
            return find_in_hub(out, reference + strlen(hubs[i]), error);
    }
    if (strncmp(reference, "https://", 8) != 0 && strncmp(reference, "http://", 7) != 0)
        return find_in_library(out, reference, error);
    if (!name_of_url(reference, out->name, sizeof out->name))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the URL must end in the name of a GGUF file");
    return add_url(out, reference, error);
}

void source_free(struct source *source)
{
    memory_free(source->parts);
    json_decref(source->manifest);
    *source = (struct source){0};
}
