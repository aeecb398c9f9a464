/* Cached profiles: one JSON file per machine and drive, named by a hash of their properties. A file is only used if all
 * of it is valid, except for its GPUs. */
#include "core/json_text.h"
#include "hw/hw_private.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Raise this when a field is added or is measured differently. Files of other versions are ignored, and left to the
 * programs that wrote them. Version 2: memory and kernels are measured with more data than all last-level caches hold;
 * share_seconds was added. Version 3: the drive is measured next to computing. Version 4: uploads to a GPU come from
 * more memory than caches hold. Version 5: for share_seconds, threads stay awake and read weights. Version 7:
 * move_seconds was added; a mixture has many small experts. */
#define PROFILE_VERSION 7

/* A full set of samples takes some 15 KiB. */
#define LARGEST_PROFILE ((off_t)1 << 20)

static void append(char *text, size_t room, const char *name, const char *value)
{
    size_t used = strlen(text);
    snprintf(text + used, room - used, "%s%s=%s", used ? " " : "", name, value);
}

/* Describes everything that the figures depend on: processor, size of memory, drive, and machine (only a hash of its
 * identity). */
static void fingerprint(const struct hardware *hardware, char *text, size_t room)
{
    char number[64], identity[64];
    text[0] = '\0';
    append(text, room, "cpu", hardware->cpu);
    append(text, room, "instructions", hardware->instructions);
    snprintf(number, sizeof number, "%zu", hardware->cores);
    append(text, room, "cores", number);
    snprintf(number, sizeof number, "%.0f", round((double)hardware->memory_total / (double)(1 << 30)));
    append(text, room, "memory", number);
    append(text, room, "file_system", hardware->storage.file_system);
    append(text, room, "device", hardware->storage.device);
    if (hardware->storage.device[0]) {
        char path[256], model[128];
        snprintf(path, sizeof path, "/sys/class/block/%s/device/model", hardware->storage.device);
        if (hw_read_text(path, model, sizeof model)) {
            model[strcspn(model, "\n")] = '\0';
            append(text, room, "model", model);
        }
    }
    if (!hw_read_text("/etc/machine-id", identity, sizeof identity) && gethostname(identity, sizeof identity))
        identity[0] = '\0';
    identity[sizeof identity - 1] = '\0';
    uint64_t hash = fnv1a(FNV1A_START, identity, strlen(identity));
    snprintf(number, sizeof number, "%08x", (unsigned)(hash ^ hash >> 32));
    append(text, room, "machine", number);
}

bool hw_cache_folder(char *path, size_t room)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int size;
    if (cache && cache[0] == '/') /* the specification says to ignore relative paths */
        size = snprintf(path, room, "%s/hypura", cache);
    else if (home && home[0] == '/')
        size = snprintf(path, room, "%s/.cache/hypura", home);
    else
        return false;
    return size < (int)room;
}

bool hw_profile_path(const struct hardware *hardware, char *path, size_t room)
{
    char folder[3000], text[1024];
    if (!hw_cache_folder(folder, sizeof folder))
        return false;
    fingerprint(hardware, text, sizeof text);
    uint64_t hash = fnv1a(FNV1A_START, text, strlen(text));
    return snprintf(path, room, "%s/profile-%016llx-%d.json", folder, (unsigned long long)hash, PROFILE_VERSION) <
           (int)room;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static bool get_speed(const json_t *object, const char *key, double *out)
{
    const json_t *value = json_object_get(object, key);
    double number = json_number_value(value);
    if (!json_is_number(value) || !isfinite(number) || number <= 0 || number > 1e18)
        return false;
    *out = number;
    return true;
}

static bool get_share(const json_t *object, const char *key, double *out)
{
    return get_speed(object, key, out) && *out <= 1;
}

static bool get_number(const json_t *object, const char *key, uint32_t least, uint32_t most, uint32_t *out)
{
    const json_t *value = json_object_get(object, key);
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < (json_int_t)least || number > (json_int_t)most)
        return false;
    *out = (uint32_t)number;
    return true;
}

static bool get_bool(const json_t *object, const char *key, bool *out)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_boolean(value))
        return false;
    *out = json_is_true(value);
    return true;
}

static bool get_reads(const json_t *object, uint32_t *block_bytes, uint32_t *depth)
{
    return get_number(object, "block_bytes", STORAGE_ALIGNMENT, 64u << 20, block_bytes) &&
           *block_bytes % STORAGE_ALIGNMENT == 0 && get_number(object, "depth", 1, 1024, depth);
}

static bool get_storage(const json_t *object, struct storage *storage)
{
    if (!get_reads(object, &storage->block_bytes, &storage->depth) ||
        !get_bool(object, "direct_pays", &storage->direct_pays) ||
        !get_speed(object, "bytes_per_second", &storage->bytes_per_second) ||
        !get_share(object, "reading_beside", &storage->reading_beside) ||
        !get_share(object, "computing_beside", &storage->computing_beside) ||
        !get_speed(object, "latency_seconds", &storage->latency_seconds))
        return false;
    storage->direct_pays &= storage->direct_supported;
    const json_t *samples = json_object_get(object, "samples");
    if (!json_is_array(samples) || json_array_size(samples) > STORAGE_MAX_SAMPLES)
        return false;
    storage->sample_count = json_array_size(samples);
    for (size_t i = 0; i < storage->sample_count; i++) {
        const json_t *row = json_array_get(samples, i);
        struct storage_sample *sample = &storage->samples[i];
        if (!get_reads(row, &sample->block_bytes, &sample->depth) || !get_bool(row, "direct", &sample->direct) ||
            !get_bool(row, "sequential", &sample->sequential) ||
            !get_speed(row, "bytes_per_second", &sample->bytes_per_second))
            return false;
    }
    return true;
}

static bool get_kernels(const json_t *object, struct kernel_speed *kernels, size_t *count)
{
    if (!json_is_object(object) || json_object_size(object) > HARDWARE_MAX_KERNELS)
        return false;
    *count = 0;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value)
    {
        struct kernel_speed *kernel = &kernels[(*count)++];
        if (!tensor_type_by_name(name, &kernel->type) || !get_speed(object, name, &kernel->bytes_per_second))
            return false;
    }
    return true;
}

/* Profiles of older programs lack these. */
static void get_products(const json_t *object, struct hardware *hardware)
{
    for (size_t i = 0; i < hardware->kernel_count; i++) {
        struct kernel_speed *kernel = &hardware->kernels[i];
        const json_t *row = json_object_get(object, tensor_type_info(kernel->type)->name);
        if (!get_speed(row, "few", &kernel->few_per_second) || !get_speed(row, "many", &kernel->many_per_second))
            kernel->few_per_second = kernel->many_per_second = 0;
    }
}

static json_t *put_products(const struct kernel_speed *kernels, size_t count)
{
    json_t *object = json_object();
    for (size_t i = 0; i < count; i++)
        if (kernels[i].few_per_second > 0 && kernels[i].many_per_second > 0)
            json_object_set_new(
                object, tensor_type_info(kernels[i].type)->name,
                json_pack("{s:f, s:f}", "few", kernels[i].few_per_second, "many", kernels[i].many_per_second));
    return object;
}

/* Skips devices with missing or invalid fields: the rest of the profile is still valid. */
static void get_gpus(const json_t *array, struct hardware *hardware)
{
    hardware->gpu_count = 0;
    for (size_t i = 0; i < json_array_size(array) && hardware->gpu_count < HARDWARE_MAX_GPUS; i++) {
        const json_t *row = json_array_get(array, i);
        const char *name = json_string_value(json_object_get(row, "name"));
        struct hardware_gpu *gpu = &hardware->gpus[hardware->gpu_count];
        *gpu = (struct hardware_gpu){.measured = true};
        if (!name || snprintf(gpu->info.name, sizeof gpu->info.name, "%s", name) >= (int)sizeof gpu->info.name ||
            !(get_number(row, "driver_version", 0, UINT32_MAX, &gpu->info.driver_version) || hardware->elsewhere) ||
            !get_speed(row, "memory_bytes_per_second", &gpu->memory_bytes_per_second) ||
            !get_speed(row, "upload_bytes_per_second", &gpu->upload_bytes_per_second) ||
            !get_speed(row, "turn_seconds", &gpu->turn_seconds) ||
            !get_speed(row, "layer_seconds", &gpu->layer_seconds) ||
            !get_speed(row, "float_layer_seconds", &gpu->float_layer_seconds) ||
            !get_speed(row, "router_seconds", &gpu->router_seconds) ||
            !get_speed(row, "share_seconds", &gpu->share_seconds) ||
            !get_speed(row, "multiply_adds_per_second", &gpu->multiply_adds_per_second) ||
            !get_kernels(json_object_get(row, "kernels"), gpu->kernels, &gpu->kernel_count))
            continue;
        if (!get_speed(row, "move_seconds", &gpu->move_seconds)) /* another version's, of another machine */
            gpu->move_seconds = gpu->turn_seconds;
        gpu->host_bytes = (uint64_t)MAX(json_integer_value(json_object_get(row, "host_bytes")), 0);
        gpu->info.panels = json_is_true(json_object_get(row, "panels"));
        hardware->gpu_count++;
    }
}

bool hw_get_speeds(const json_t *root, struct hardware *hardware)
{
    if (!get_speed(root, "memory_bytes_per_second", &hardware->memory_bytes_per_second) ||
        !get_speed(root, "compute_bytes_per_second", &hardware->compute_bytes_per_second) ||
        !get_speed(root, "multiply_adds_per_second", &hardware->multiply_adds_per_second) ||
        !get_kernels(json_object_get(root, "kernels"), hardware->kernels, &hardware->kernel_count) ||
        !get_storage(json_object_get(root, "storage"), &hardware->storage))
        return false;
    hardware->measured = true;
    get_products(json_object_get(root, "products"), hardware);
    get_gpus(json_object_get(root, "gpus"), hardware);
    return true;
}

static bool get_profile(const json_t *root, const char *text, struct hardware *hardware)
{
    uint32_t version;
    const char *written = json_string_value(json_object_get(root, "fingerprint"));
    return get_number(root, "version", PROFILE_VERSION, PROFILE_VERSION, &version) && written &&
           !strcmp(written, text) && hw_get_speeds(root, hardware);
}

bool hw_load_profile(struct hardware *hardware)
{
    char path[4096], text[1024];
    if (!hw_profile_path(hardware, path, sizeof path))
        return false;
    fingerprint(hardware, text, sizeof text);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    struct stat info;
    json_t *root = NULL;
    if (fstat(fileno(file), &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= LARGEST_PROFILE)
        root = json_text_read_file(file, JSON_REJECT_DUPLICATES, NULL);
    fclose(file);
    struct hardware *loaded = NULL;
    bool good = root && ALLOCATE(&loaded, 1, "profile", NULL) == HYPURA_OK;
    if (good) {
        *loaded = *hardware;
        good = get_profile(root, text, loaded);
        if (good)
            *hardware = *loaded;
    }
    memory_free(loaded);
    json_decref(root);
    return good;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static json_t *put_storage(const struct storage *storage)
{
    json_t *samples = json_array();
    for (size_t i = 0; i < storage->sample_count; i++) {
        const struct storage_sample *sample = &storage->samples[i];
        json_array_append_new(samples, json_pack("{s:i, s:i, s:b, s:b, s:f}", "block_bytes", (int)sample->block_bytes,
                                                 "depth", (int)sample->depth, "direct", sample->direct, "sequential",
                                                 sample->sequential, "bytes_per_second", sample->bytes_per_second));
    }
    return json_pack("{s:i, s:i, s:b, s:f, s:f, s:f, s:f, s:o}", "block_bytes", (int)storage->block_bytes, "depth",
                     (int)storage->depth, "direct_pays", storage->direct_pays, "bytes_per_second",
                     storage->bytes_per_second, "reading_beside", storage->reading_beside, "computing_beside",
                     storage->computing_beside, "latency_seconds", storage->latency_seconds, "samples", samples);
}

static json_t *put_kernels(const struct kernel_speed *kernels, size_t count)
{
    json_t *object = json_object();
    for (size_t i = 0; i < count; i++)
        json_object_set_new(object, tensor_type_info(kernels[i].type)->name, json_real(kernels[i].bytes_per_second));
    return object;
}

static json_t *put_gpus(const struct hardware *hardware)
{
    json_t *gpus = json_array();
    for (size_t i = 0; i < hardware->gpu_count; i++) {
        const struct hardware_gpu *gpu = &hardware->gpus[i];
        json_array_append_new(
            gpus, json_pack("{s:s, s:I, s:I, s:b, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "name",
                            gpu->info.name, "driver_version", (json_int_t)gpu->info.driver_version, "host_bytes",
                            (json_int_t)gpu->host_bytes, "panels", (int)gpu->info.panels, "memory_bytes_per_second",
                            gpu->memory_bytes_per_second, "upload_bytes_per_second", gpu->upload_bytes_per_second,
                            "turn_seconds", gpu->turn_seconds, "move_seconds", gpu->move_seconds, "layer_seconds",
                            gpu->layer_seconds, "float_layer_seconds", gpu->float_layer_seconds, "router_seconds",
                            gpu->router_seconds, "share_seconds", gpu->share_seconds, "multiply_adds_per_second",
                            gpu->multiply_adds_per_second, "kernels", put_kernels(gpu->kernels, gpu->kernel_count)));
    }
    return gpus;
}

static json_t *put_profile(const struct hardware *hardware)
{
    char text[1024];
    fingerprint(hardware, text, sizeof text);
    return json_pack("{s:i, s:s, s:f, s:f, s:f, s:o, s:o, s:o, s:o}", "version", PROFILE_VERSION, "fingerprint", text,
                     "memory_bytes_per_second", hardware->memory_bytes_per_second, "compute_bytes_per_second",
                     hardware->compute_bytes_per_second, "multiply_adds_per_second", hardware->multiply_adds_per_second,
                     "kernels", put_kernels(hardware->kernels, hardware->kernel_count), "products",
                     put_products(hardware->kernels, hardware->kernel_count), "gpus", put_gpus(hardware), "storage",
                     put_storage(&hardware->storage));
}

static hypura_status make_folders(char *path, hypura_error *error)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        bool made = mkdir(path, 0700) == 0 || errno == EEXIST;
        hypura_status status = made ? HYPURA_OK : error_set_errno(error, errno, "cannot create the folder %s", path);
        *slash = '/';
        if (!made)
            return status;
    }
    return HYPURA_OK;
}

hypura_status hw_save_json(char *path, const json_t *root, hypura_error *error)
{
    char partial[4200];
    TRY(make_folders(path, error));
    snprintf(partial, sizeof partial, "%s.XXXXXX", path);
    int file = mkstemp(partial);
    if (file < 0)
        return error_set_errno(error, errno, "cannot write %s", partial);
    bool written = json_dumpfd(root, file, JSON_INDENT(1) | JSON_SORT_KEYS) == 0 && fsync(file) == 0;
    int problem = errno;
    written &= close(file) == 0;
    if (written && rename(partial, path) == 0)
        return HYPURA_OK;
    problem = written ? errno : problem;
    unlink(partial);
    return error_set_errno(error, problem, "cannot write %s", path);
}

hypura_status hw_save_profile(const struct hardware *hardware, hypura_error *error)
{
    char path[4096];
    if (!hw_profile_path(hardware, path, sizeof path))
        return error_set(error, HYPURA_ERROR_IO,
                         "there is no cache folder: neither XDG_CACHE_HOME nor HOME is an absolute path");
    uint64_t failures = memory_failures();
    json_t *root = put_profile(hardware);
    hypura_status status = memory_check(failures, "profile", error);
    if (!status)
        status = hw_save_json(path, root, error);
    json_decref(root);
    return status;
}
