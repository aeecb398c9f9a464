#include "core/samples.h"
#include "model/model_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLICE_ALIGNMENT 64u /* in a record: a cache line, and more than GPUs require */
#define SAMPLES 24u
#define SAMPLE_BYTES 4096u

uint64_t expert_record_at(const struct unit *unit, uint32_t slice)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < slice; i++)
        at = align_up(at, SLICE_ALIGNMENT) + unit->slices[i].bytes;
    return align_up(at, slice == unit->slice_count ? EXPERT_FILE_ALIGNMENT : SLICE_ALIGNMENT);
}

bool expert_file_time(const char *path, uint64_t *nanoseconds)
{
    struct stat info;
    if (stat(path, &info))
        return false;
#ifdef __APPLE__
    const struct timespec *time = &info.st_mtimespec;
#else
    const struct timespec *time = &info.st_mtim;
#endif
    *nanoseconds = (uint64_t)time->tv_sec * UINT64_C(1000000000) + (uint64_t)time->tv_nsec;
    return true;
}

static bool is_expert_file(const struct gguf *file)
{
    struct gguf_string type;
    return gguf_get_string(file, "general.type", &type) && strcmp(type.data, EXPERT_FILE_TYPE) == 0;
}

/* Finds the model at its old place, or next to the file. */
static bool find_model(char *out, size_t room, const char *path, const char *model)
{
    const char *slash = strrchr(path, '/'), *name = strrchr(model, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    if (snprintf(out, room, "%.*s%s", folder, path, name ? name + 1 : model) < (int)room && access(out, F_OK) == 0)
        return true;
    return snprintf(out, room, "%s", model) < (int)room && access(out, F_OK) == 0;
}

hypura_status model_find_behind_experts(struct model *model, hypura_error *error)
{
    struct gguf_string source;
    char found[PATH_MAX];
    if (!is_expert_file(model->file))
        return HYPURA_OK;
    const char *path = gguf_file_path(model->file, 0);
    if (!gguf_get_string(model->file, EXPERT_FILE_MODEL, &source))
        return error_set(error, HYPURA_ERROR_FORMAT, "%s has experts, but does not name their model", path);
    if (!find_model(found, sizeof found, path, source.data))
        return error_set(error, HYPURA_ERROR_IO, "%s has only the experts of %s, which does not exist", path,
                         source.data);
    hypura_status status = string_copy(&model->expert_path, path, error);
    if (status)
        return status;
    gguf_close(model->file);
    model->file = NULL;
    if ((status = gguf_open(&model->file, found, error)))
        return status;
    return is_expert_file(model->file)
               ? error_set(error, HYPURA_ERROR_FORMAT, "%s holds experts, not the model that it should be", found)
               : HYPURA_OK;
}

/* ---- whether it belongs to this model -------------------------------------------------------------------------------
 */

static bool number_at(const struct gguf *file, const char *key, uint64_t index, uint64_t *out)
{
    const struct gguf_value *value = gguf_find(file, key);
    return value && gguf_element_uint64(value, index, out);
}

static const char *compare_files(const struct gguf *experts, const struct model *model)
{
    uint64_t then, now, version = 0;
    if (!gguf_get_uint64(experts, EXPERT_FILE_VERSION_KEY, &version) || version != EXPERT_FILE_VERSION)
        return "is from another version of hypura";
    for (size_t i = 0; i < gguf_file_count(model->file); i++) {
        if (!number_at(experts, EXPERT_FILE_SIZES, i, &then) || then != gguf_file_bytes(model->file, i))
            return "was made of another model";
        if (!number_at(experts, EXPERT_FILE_TIMES, i, &then) ||
            !expert_file_time(gguf_file_path(model->file, i), &now) || then != now)
            return "was made before the model was changed, or copied";
    }
    return NULL;
}

/* A layer's tensor in the file, and the record of each expert; NULL: the file has none. */
static const struct gguf_tensor *find_layer(const struct gguf *experts, const struct model *model, uint32_t layer,
                                            uint32_t *order, const char **problem)
{
    char name[64];
    const uint32_t count = model->parameters.experts;
    const struct unit *unit = &model->units[model->layers[layer].first_expert];
    snprintf(name, sizeof name, EXPERT_FILE_TENSOR, layer);
    const struct gguf_tensor *tensor = gguf_tensor_find(experts, name);
    if (!tensor)
        return NULL;
    *problem = "is damaged";
    uint64_t record = expert_record_at(unit, unit->slice_count);
    if (tensor->type != TENSOR_I8 || tensor->dimensions[0] != record || tensor->bytes != record * count ||
        tensor->offset % EXPERT_FILE_ALIGNMENT)
        return NULL;
    snprintf(name, sizeof name, EXPERT_FILE_SLICES, layer);
    for (uint32_t s = 0; s < unit->slice_count; s++) {
        const struct gguf_tensor *slice = unit->slices[s].tensor;
        uint64_t expected[3] = {slice->file, slice->offset, slice->bytes}, found;
        for (uint32_t i = 0; i < 3; i++)
            if (!number_at(experts, name, 3 * s + i, &found) || found != expected[i]) {
                *problem = "was made of another model";
                return NULL;
            }
    }
    for (uint32_t i = 0; i < count; i++)
        order[i] = UINT32_MAX;
    snprintf(name, sizeof name, EXPERT_FILE_ORDER, layer);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t expert;
        if (!number_at(experts, name, i, &expert) || expert >= count || order[expert] != UINT32_MAX)
            return NULL;
        order[expert] = i;
    }
    *problem = NULL;
    return tensor;
}

/* Compares samples of an expert's slice in both files. */
static bool is_same(const struct model *model, const struct unit_slice *slice, uint32_t expert, int experts,
                    uint64_t place, uint64_t at)
{
    uint8_t bytes[2][SAMPLE_BYTES];
    size_t size = (size_t)MIN(slice->bytes, (uint64_t)SAMPLE_BYTES);
    uint64_t offset = slice->tensor->offset + slice->bytes * expert;
    at = slice->bytes > size ? at % (slice->bytes - size) : 0;
    int file = samples_open(gguf_file_path(model->file, slice->tensor->file));
    bool same = file >= 0 && samples_read(file, bytes[0], size, offset + at) &&
                samples_read(experts, bytes[1], size, place + at) && memcmp(bytes[0], bytes[1], size) == 0;
    if (file >= 0)
        close(file);
    return same;
}

/* ---- using it -------------------------------------------------------------------------------------------------------
 */

struct layer_records {
    const struct gguf_tensor *tensor; /* NULL: none */
    uint32_t *order;                  /* [experts] the record of each */
};

static uint64_t record_of(const struct layer_records *records, uint32_t expert)
{
    return records->tensor->offset + records->tensor->dimensions[0] * records->order[expert];
}

static const char *compare_samples(const struct model *model, const struct layer_records *records, const char *path)
{
    struct random random;
    const char *problem = NULL;
    int file = samples_open(path);
    if (file < 0)
        return "cannot be read";
    random_seed(&random, model->bytes);
    for (uint32_t i = 0; !problem && i < SAMPLES; i++) {
        uint32_t layer = (uint32_t)(random_next(&random) % all_layers(model));
        uint32_t expert = (uint32_t)(random_next(&random) % model->parameters.experts);
        if (!records[layer].tensor)
            continue;
        const struct unit *unit = &model->units[model->layers[layer].first_expert];
        uint32_t slice = (uint32_t)(random_next(&random) % unit->slice_count);
        if (!is_same(model, &unit->slices[slice], expert, file,
                     record_of(&records[layer], expert) + expert_record_at(unit, slice), random_next(&random)))
            problem = "has other bytes than the model";
    }
    close(file);
    return problem;
}

static void move_experts(struct model *model, const struct layer_records *records)
{
    const uint32_t file = (uint32_t)gguf_file_count(model->file);
    for (uint32_t layer = 0; layer < all_layers(model); layer++)
        for (uint32_t e = 0; records[layer].tensor && e < model->parameters.experts; e++) {
            struct unit *unit = &model->units[model->layers[layer].first_expert + e];
            for (uint32_t s = 0; s < unit->slice_count; s++) {
                unit->slices[s].file = file;
                unit->slices[s].offset = record_of(&records[layer], e) + expert_record_at(unit, s);
            }
        }
}

/* Makes the model read experts from the file, and returns NULL; else the reason why not. */
static const char *take(struct model *model, const struct gguf *experts)
{
    const uint32_t layers = all_layers(model), count = model->parameters.experts;
    struct layer_records *records = NULL;
    uint32_t *orders = NULL;
    const char *problem = "needs memory that is not there";
    if (count && !ALLOCATE(&records, layers, "experts of a file", NULL) &&
        !ALLOCATE(&orders, (size_t)layers * count, "experts of a file", NULL)) {
        problem = is_expert_file(experts) ? compare_files(experts, model) : "holds no experts";
        for (uint32_t i = 0; !problem && i < layers; i++) {
            records[i].order = orders + (size_t)i * count;
            if (model->layers[i].first_expert != NO_UNIT)
                records[i].tensor = find_layer(experts, model, i, records[i].order, &problem);
        }
        if (!problem)
            problem = compare_samples(model, records, gguf_file_path(experts, 0));
        if (!problem)
            move_experts(model, records);
    }
    memory_free(records);
    memory_free(orders);
    return problem;
}

void model_use_expert_file(struct model *model)
{
    struct gguf *experts = NULL;
    hypura_error error;
    struct stat info;
    if (!model->expert_path) {
        char path[PATH_MAX];
        if (model->parameters.experts == 0 ||
            snprintf(path, sizeof path, "%s" EXPERT_FILE_ENDING, gguf_file_path(model->file, 0)) >= (int)sizeof path ||
            stat(path, &info) || string_copy(&model->expert_path, path, NULL))
            return;
    }
    const char *problem = gguf_open(&experts, model->expert_path, &error) ? error.message : take(model, experts);
    model->expert_path_used = !problem;
    if (experts)
        gguf_close(experts);
    if (problem)
        log_write(LOG_WARNING,
                  "%s %s and is not used: experts are read from the model (\"hypura optimize\" writes a new file)",
                  model->expert_path, problem);
}

const char *model_expert_file(const struct model *model)
{
    return model->expert_path_used ? model->expert_path : NULL;
}

uint32_t model_path_count(const struct model *model)
{
    return (uint32_t)gguf_file_count(model->file) + model->expert_path_used;
}

const char *model_path_at(const struct model *model, uint32_t file)
{
    return file < gguf_file_count(model->file) ? gguf_file_path(model->file, file) : model->expert_path;
}
