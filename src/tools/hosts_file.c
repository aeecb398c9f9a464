#include "tools/hosts_file.h"
#include "core/json_text.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LARGEST_FILE ((off_t)1 << 20)

/* Typical properties of a drive that was not measured. */
#define USUAL_BLOCK (1u << 20)
#define USUAL_DEPTH 16u
#define USUAL_LATENCY 100e-6

static hypura_status load(json_t **out, const char *path, hypura_error *error)
{
    struct stat info;
    json_error_t where;
    FILE *file = fopen(path, "re");
    if (!file)
        return error_set_errno(error, errno, "cannot read %s", path);
    if (fstat(fileno(file), &info) || !S_ISREG(info.st_mode) || info.st_size > LARGEST_FILE) {
        fclose(file);
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s is not a hosts file or a profile: expected a regular file of at most 1 MiB", path);
    }
    *out = json_text_read_file(file, JSON_REJECT_DUPLICATES, &where);
    fclose(file);
    return *out ? HYPURA_OK
                : error_set(error, HYPURA_ERROR_FORMAT, "%s is not JSON: line %d: %s", path, where.line, where.text);
}

struct reading {
    const char *path;
    const json_t *all; /* the object that contains "hosts" */
};

static hypura_status refuse(const struct reading *reading, const char *name, const char *key, const char *what,
                            hypura_error *error)
{
    return error_set(error, HYPURA_ERROR_FORMAT, "%s: %s: \"%s\" %s", reading->path, name, key, what);
}

static hypura_status check_keys(const struct reading *reading, const json_t *object, const char *name,
                                const char *const *keys, hypura_error *error)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        size_t k = 0;
        while (keys[k] && strcmp(keys[k], key) != 0)
            k++;
        if (!keys[k])
            return error_set(error, HYPURA_ERROR_FORMAT, "%s: %s: unknown key \"%.60s\"", reading->path, name, key);
    }
    return HYPURA_OK;
}

/* Finds a key of a host, or the default for all hosts. */
static const json_t *find(const struct reading *reading, const json_t *host, const char *key)
{
    const json_t *own = json_object_get(host, key);
    return own ? own : json_object_get(reading->all, key);
}

static hypura_status get_number(const struct reading *reading, const json_t *host, const char *name, const char *key,
                                bool needed, double most, double *out, hypura_error *error)
{
    const json_t *value = find(reading, host, key);
    if (!value)
        return needed ? refuse(reading, name, key, "is missing", error) : HYPURA_OK;
    const double number = json_number_value(value);
    if (!json_is_number(value))
        return refuse(reading, name, key, "must be a number", error);
    if (!(number > 0) || !isfinite(number) || number > most)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: %s: \"%s\" is %g; expected more than 0 and at most %g",
                         reading->path, name, key, number, most);
    *out = number;
    return HYPURA_OK;
}

static hypura_status get_memory(const struct reading *reading, const json_t *host, const char *name, bool needed,
                                uint64_t *out, hypura_error *error)
{
    const json_t *value = find(reading, host, "memory");
    hypura_error why;
    if (json_is_string(value)) {
        if (parse_bytes(json_string_value(value), out, &why) || *out == 0)
            return refuse(reading, name, "memory", "must be a size: a number of bytes, or a string such as \"64G\"",
                          error);
        return HYPURA_OK;
    }
    double bytes = 0;
    TRY(get_number(reading, host, name, "memory", needed, 1e18, &bytes, error));
    *out = (uint64_t)bytes;
    return HYPURA_OK;
}

/* Describes a host's hardware by its figures. */
static hypura_status describe(struct hardware *out, const struct reading *reading, const json_t *host, const char *name,
                              hypura_error *error)
{
    double cores = 16;
    struct storage *drive = &out->storage;
    *out = (struct hardware){.cgroup_limit = UINT64_MAX, .measured = true};
    drive->latency_seconds = USUAL_LATENCY;
    TRY(get_number(reading, host, name, "memory_bytes_per_second", true, 1e15, &out->memory_bytes_per_second, error));
    TRY(get_number(reading, host, name, "drive_bytes_per_second", true, 1e13, &drive->bytes_per_second, error));
    TRY(get_number(reading, host, name, "cores", false, 4096, &cores, error));
    out->cores = (size_t)MAX(cores, 1.0);
    out->compute_bytes_per_second = out->memory_bytes_per_second;
    TRY(get_number(reading, host, name, "compute_bytes_per_second", false, 1e15, &out->compute_bytes_per_second,
                   error));
    /* A rough figure, since quantised weights take half a byte or more. It matters for prompts only, which plans for
     * hosts ignore. */
    out->multiply_adds_per_second = 8 * out->compute_bytes_per_second;
    drive->direct_supported = drive->direct_pays = true;
    drive->alignment = STORAGE_ALIGNMENT;
    drive->block_bytes = USUAL_BLOCK;
    drive->depth = USUAL_DEPTH;
    drive->reading_beside = drive->computing_beside = 1;
    return HYPURA_OK;
}

/* Reads the output of "hypura profile --json": an object, or a path relative to the folder of the hosts file. */
static hypura_status take_profile(struct hardware *out, const struct reading *reading, const json_t *host,
                                  const char *name, hypura_error *error)
{
    const json_t *profile = json_object_get(host, "profile");
    const char *path = json_string_value(profile), *slash = strrchr(reading->path, '/');
    char what[1400];
    char *text = NULL;
    if (path) {
        const bool beside = path[0] != '/' && slash;
        if (snprintf(what, sizeof what, "%.*s%s", beside ? (int)(slash + 1 - reading->path) : 0, reading->path, path) >=
            (int)sizeof what)
            return refuse(reading, name, "profile", "is too long", error);
        json_t *read;
        TRY(load(&read, what, error));
        text = json_text_write(read, JSON_COMPACT);
        json_decref(read);
    } else {
        if (!json_is_object(profile))
            return refuse(reading, name, "profile", "must be a path, or the output of \"hypura profile --json\"",
                          error);
        snprintf(what, sizeof what, "%.600s: the profile of %s", reading->path, name);
        text = json_text_write(profile, JSON_COMPACT);
    }
    if (!text)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for %s", what);
    hypura_status status = hardware_of_profile(out, text, strlen(text), what, error);
    free(text);
    return status;
}

/* Describes a host's hardware by its profile, and refuses figures next to it, which could contradict it. */
static hypura_status describe_by_profile(struct hardware *out, const struct reading *reading, const json_t *host,
                                         const char *name, hypura_error *error)
{
    static const char *const figures[] = {"cores", "memory_bytes_per_second", "compute_bytes_per_second",
                                          "drive_bytes_per_second"};
    for (size_t i = 0; i < COUNT_OF(figures); i++)
        if (json_object_get(host, figures[i]))
            return refuse(reading, name, figures[i], "and \"profile\" exclude each other", error);
    return take_profile(out, reading, host, name, error);
}

static hypura_status read_host(struct engine_host *out, struct hardware *hardware, uint32_t *count,
                               const struct reading *reading, const json_t *host, size_t number, hypura_error *error)
{
    static const char *const keys[] = {"name",
                                       "count",
                                       "memory",
                                       "link_bits_per_second",
                                       "link_seconds",
                                       "cores",
                                       "memory_bytes_per_second",
                                       "compute_bytes_per_second",
                                       "drive_bytes_per_second",
                                       "profile",
                                       NULL};
    char name[sizeof out->name];
    double many = 1, bits = 0;
    snprintf(name, sizeof name, "host %zu", number + 1);
    if (!json_is_object(host))
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: %s must be an object", reading->path, name);
    const json_t *called = json_object_get(host, "name");
    if (called &&
        (!json_is_string(called) || json_string_length(called) == 0 || json_string_length(called) >= sizeof name - 12))
        return refuse(reading, name, "name", "must be a string of up to 50 bytes", error);
    if (called)
        snprintf(name, sizeof name, "%s", json_string_value(called));
    *out = (struct engine_host){.hardware = hardware};
    memcpy(out->name, name, sizeof name);
    TRY(check_keys(reading, host, name, keys, error));
    TRY(get_number(reading, host, name, "count", false, PLAN_MOST_HOSTS, &many, error));
    if (many != floor(many) || json_object_get(reading->all, "count"))
        return refuse(reading, name, "count", "must be a whole number, and cannot have a default", error);
    *count = (uint32_t)many;
    const bool profiled = json_object_get(host, "profile");
    TRY(profiled ? describe_by_profile(hardware, reading, host, name, error)
                 : describe(hardware, reading, host, name, error));
    TRY(get_memory(reading, host, name, !profiled, &out->memory, error));
    if (out->memory == 0)
        out->memory = hardware_default_budget(hardware);
    if (!profiled)
        hardware->memory_total = hardware->memory_available = out->memory;
    TRY(get_number(reading, host, name, "link_bits_per_second", false, 1e14, &bits, error));
    TRY(get_number(reading, host, name, "link_seconds", false, 1, &out->link_seconds, error));
    out->link_bytes_per_second = bits / 8;
    return HYPURA_OK;
}

static hypura_status read_all(struct hosts_file *out, const struct reading *reading, hypura_error *error)
{
    static const char *const keys[] = {"hosts",
                                       "memory",
                                       "link_bits_per_second",
                                       "link_seconds",
                                       "cores",
                                       "memory_bytes_per_second",
                                       "compute_bytes_per_second",
                                       "drive_bytes_per_second",
                                       NULL};
    const json_t *hosts = json_object_get(reading->all, "hosts");
    const size_t lines = json_array_size(hosts);
    if (!json_is_array(hosts) || lines == 0)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: \"hosts\" must be a list of at least one host",
                         reading->path);
    if (lines > PLAN_MOST_HOSTS)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: more than %u hosts", reading->path, PLAN_MOST_HOSTS);
    TRY(check_keys(reading, reading->all, "the file", keys, error));
    TRY(ALLOCATE(&out->hosts, PLAN_MOST_HOSTS, "hosts", error));
    TRY(ALLOCATE(&out->lines, lines, "hosts", error));
    for (size_t i = 0; i < lines; i++) {
        struct engine_host host;
        uint32_t count = 0;
        TRY(read_host(&host, &out->lines[i], &count, reading, json_array_get(hosts, i), i, error));
        if (count > PLAN_MOST_HOSTS - out->count)
            return error_set(error, HYPURA_ERROR_FORMAT, "%s: more than %u hosts", reading->path, PLAN_MOST_HOSTS);
        for (uint32_t n = 0; n < count; n++) {
            struct engine_host *copy = &out->hosts[out->count++];
            *copy = host;
            if (count > 1)
                snprintf(copy->name, sizeof copy->name, "%.50s %u", host.name, n + 1);
        }
    }
    out->line_count = lines;
    for (uint32_t h = 1; h < out->count; h++)
        if (out->hosts[h].link_bytes_per_second <= 0)
            return refuse(reading, out->hosts[h].name, "link_bits_per_second", "is missing", error);
    return HYPURA_OK;
}

hypura_status hosts_file_read(struct hosts_file *out, const char *path, hypura_error *error)
{
    json_t *root;
    *out = (struct hosts_file){0};
    TRY(load(&root, path, error));
    const struct reading reading = {path, root};
    hypura_status status = json_is_object(root) ? read_all(out, &reading, error)
                                                : error_set(error, HYPURA_ERROR_FORMAT,
                                                            "%s must be an object with a list of \"hosts\"", path);
    json_decref(root);
    if (status)
        hosts_file_free(out);
    return status;
}

void hosts_file_free(struct hosts_file *file)
{
    memory_free(file->hosts);
    memory_free(file->lines);
    *file = (struct hosts_file){0};
}
