/* A digest of everything that a sequence's data depends on: if two engines have the same one, the data means the same
 * in both. */
#include "engine/cluster/share.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* The version of the data's layout (kv_state.c). */
#define STATE_VERSION 1u

/* The number of samples of the weights, spread over all tensors: files with the same header may differ in only some
 * tensors. */
#define SAMPLES 1024u
#define SAMPLE_BYTES 512u

static uint64_t add_number(uint64_t hash, uint64_t number)
{
    return fnv1a(hash, &number, sizeof number);
}

static uint64_t add_string(uint64_t hash, struct gguf_string text)
{
    return fnv1a(add_number(hash, text.size), text.data, text.size);
}

static size_t element_bytes(enum gguf_value_type type)
{
    static const uint8_t bytes[] = {
        [GGUF_UINT8] = 1,   [GGUF_INT8] = 1, [GGUF_UINT16] = 2, [GGUF_INT16] = 2, [GGUF_UINT32] = 4, [GGUF_INT32] = 4,
        [GGUF_FLOAT32] = 4, [GGUF_BOOL] = 1, [GGUF_UINT64] = 8, [GGUF_INT64] = 8, [GGUF_FLOAT64] = 8};
    return (size_t)type < COUNT_OF(bytes) ? bytes[type] : 0;
}

static uint64_t add_header(uint64_t hash, const struct gguf *file)
{
    for (size_t i = 0; i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        const enum gguf_value_type type = value->type == GGUF_ARRAY ? value->element_type : value->type;
        const struct gguf_string *strings = value->data;
        hash = add_number(add_string(hash, value->key), (uint64_t)type);
        hash = add_number(hash, value->count);
        for (uint64_t s = 0; type == GGUF_STRING && s < value->count; s++)
            hash = add_string(hash, strings[s]);
        if (type != GGUF_STRING)
            hash = fnv1a(hash, value->data, value->count * element_bytes(type));
    }
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        hash = add_number(add_string(hash, t->name), (uint64_t)t->type);
        hash = fnv1a(hash, t->dimensions, sizeof t->dimensions);
        hash = add_number(add_number(hash, t->file), t->offset);
    }
    return hash;
}

/* Adds a sample of a tensor; its number chooses the offset. */
static hypura_status add_sample(uint64_t *hash, const struct gguf_tensor *tensor, size_t number, int descriptor,
                                const char *path, hypura_error *error)
{
    uint8_t bytes[SAMPLE_BYTES];
    size_t size = (size_t)MIN(tensor->bytes, (uint64_t)sizeof bytes), done = 0;
    uint64_t free = tensor->bytes - size, start = tensor->offset + (free ? fnv1a(FNV1A_START, &number, 8) % free : 0);
    while (done < size) {
        ssize_t now = pread(descriptor, bytes + done, size - done, (off_t)(start + done));
        if (now < 0 && errno == EINTR)
            continue;
        if (now < 0)
            return error_set_errno(error, errno, "%s", path);
        if (now == 0)
            return error_set(error, HYPURA_ERROR_IO, "%s is truncated: it ends within a tensor", path);
        done += (size_t)now;
    }
    *hash = fnv1a(*hash, bytes, size);
    return HYPURA_OK;
}

static hypura_status add_samples(uint64_t *hash, const struct gguf *file, hypura_error *error)
{
    const size_t count = gguf_tensor_count(file), samples = MIN(count, (size_t)SAMPLES);
    hypura_status status = HYPURA_OK;
    for (uint32_t f = 0; !status && f < gguf_file_count(file); f++) {
        const char *path = gguf_file_path(file, f);
        int descriptor = open(path, O_RDONLY | O_CLOEXEC);
        if (descriptor < 0)
            return error_set_errno(error, errno, "%s", path);
#ifdef POSIX_FADV_RANDOM
        posix_fadvise(descriptor, 0, 0, POSIX_FADV_RANDOM);
#endif
        for (size_t i = 0; !status && i < samples; i++) {
            const struct gguf_tensor *tensor = gguf_tensor_at(file, i * count / samples);
            if (tensor->file == f)
                status = add_sample(hash, tensor, i, descriptor, path, error);
        }
        close(descriptor);
    }
    return status;
}

static uint64_t add_adapters(uint64_t hash, const struct opened *open)
{
    const int32_t layers = (int32_t)model_parameters(open->model)->layers;
    for (int32_t layer = -1; open->adapters && layer < layers; layer++)
        for (int role = 0; role < ROLE_COUNT; role++) {
            const struct thin_pair *pair = adapters_find(open->adapters, layer, (enum tensor_role)role);
            for (; pair; pair = pair->next) {
                const struct gguf_tensor *tensors[] = {pair->a, pair->b};
                const uint8_t *data[] = {pair->data_a, pair->data_b};
                hash = add_number(hash, (uint64_t)(uint32_t)layer << 32 | (uint32_t)role);
                hash = fnv1a(hash, &pair->scale, sizeof pair->scale);
                for (size_t i = 0; i < COUNT_OF(tensors); i++) {
                    hash = fnv1a(hash, tensors[i]->dimensions, sizeof tensors[i]->dimensions);
                    hash = fnv1a(hash, data[i], (size_t)MIN(tensors[i]->bytes, (uint64_t)SAMPLE_BYTES));
                }
            }
        }
    return hash;
}

/* Adds the layout of the data. The length of the context decides which layers are rings and which rope factors
 * apply. */
static uint64_t add_caches(uint64_t hash, const struct engine *engine)
{
    const struct kv_cache *kv = &engine->batch.kv;
    hash = add_number(hash, (uint64_t)kv->type);
    for (uint32_t i = 0; i < kv->layer_count; i++) {
        const struct kv_layer *l = &kv->layers[i];
        const uint64_t shape[] = {l->heads,          l->key_position_bytes,   l->value_position_bytes,
                                  l->values_in_keys, kv_cache_is_ring(kv, i), l->window,
                                  l->every,          l->state_floats,         l->on_gpu};
        hash = fnv1a(hash, shape, sizeof shape);
        for (size_t p = 0; p < KV_PLANES; p++)
            hash = add_number(add_number(hash, l->planes[p].row_bytes), l->planes[p].every);
    }
    const struct rope_table *tables[] = {&engine->open.rope, &engine->open.rope_local};
    for (size_t i = 0; i < COUNT_OF(tables); i++) {
        hash = fnv1a(hash, tables[i]->frequency, tables[i]->half * sizeof *tables[i]->frequency);
        hash = fnv1a(hash, &tables[i]->magnitude, sizeof tables[i]->magnitude);
    }
    return hash;
}

/* Adds what computes: all of it sums in the same order, but some of it rounds differently. */
static uint64_t add_machine(uint64_t hash, const struct engine *engine)
{
    const char *set = compute_instructions_name(compute_best_instructions());
    hash = fnv1a(hash, set, strlen(set));
    if (!engine->batch.pass)
        return hash;
    const struct gpu_info *info;
    for (uint32_t i = 0; (info = engine_gpu_at(engine, i)); i++) {
        hash = fnv1a(hash, info->name, strlen(info->name));
        hash = fnv1a(hash, info->driver, strlen(info->driver));
        hash = add_number(hash, info->driver_version);
    }
    const struct plan_gpu *plan = engine->open.plan->gpu;
    return engine_gpu_at(engine, 1) ? fnv1a(hash, plan->devices, plan->layer_count) : hash;
}

hypura_status engine_weights_digest(uint64_t *out, const struct model *model, hypura_error *error)
{
    *out = add_header(add_number(FNV1A_START, STATE_VERSION), model_file(model));
    return add_samples(out, model_file(model), error);
}

hypura_status digest_of_model(uint64_t *out, const struct opened *open, const struct parts *parts, hypura_error *error)
{
    uint64_t hash = parts ? parts->weights : 0;
    if (!parts)
        TRY(engine_weights_digest(&hash, open->model, error));
    *out = add_adapters(add_number(hash, model_unit_count(open->model)), open);
    return HYPURA_OK;
}

hypura_status engine_state_digest(uint64_t *out, const struct engine *engine, hypura_error *error)
{
    const struct gguf *file = model_file(engine->open.model);
    uint64_t hash = add_header(add_number(FNV1A_START, STATE_VERSION), file);
    TRY(add_samples(&hash, file, error));
    hash = add_adapters(hash, &engine->open);
    hash = add_machine(add_caches(hash, engine), engine);
    *out = hash;
    return HYPURA_OK;
}
