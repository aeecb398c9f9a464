/* Low-rank adapters (Hu et al., 2021): the product with a matrix W becomes W x + scale * B (A x), where A and B are
 * thin. They stay in memory next to the weights, which may be in any tier and are read unchanged from the model's
 * file. */
#include "engine/engine_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Tokens and columns of the product that are computed at once, which bounds the memory. */
#define ADAPTER_TOKENS 64u
#define ADAPTER_COLUMNS 1024u

#define MAX_RANK 65536u

struct adapters {
    struct gguf **files;
    size_t count;
    uint32_t pair_count;
    uint32_t layers;
    struct thin_pair **pairs; /* [1 + layers][ROLE_COUNT], the model's own first */
    size_t rank;              /* the largest */
    float *low;               /* [ADAPTER_TOKENS][rank] A x */
    float *delta;             /* [ADAPTER_TOKENS][ADAPTER_COLUMNS] */
    struct activation *input; /* holds low */
    uint32_t rows[ADAPTER_TOKENS];
};

/* ---- loading -------------------------------------------------------------------------------------------------------
 */

static struct thin_pair **place(const struct adapters *adapters, int32_t layer, enum tensor_role role)
{
    return &adapters->pairs[(size_t)(layer + 1) * ROLE_COUNT + role];
}

static const struct gguf_tensor *base_tensor(const struct model *model, int32_t layer, enum tensor_role role)
{
    unit_number unit = NO_UNIT;
    if (layer < 0) {
        unit = model_tensor(model, role);
    } else {
        const struct model_layer *l = model_layer(model, (uint32_t)layer);
        bool expert = role >= ROLE_EXPERT_GATE_UP && role <= ROLE_EXPERT_DOWN;
        unit = !l ? NO_UNIT : expert ? l->first_expert : l->tensors[role];
    }
    const struct unit *found = unit == NO_UNIT ? NULL : model_unit(model, unit);
    for (uint32_t i = 0; found && i < found->slice_count; i++)
        if (found->slices[i].role == role)
            return found->slices[i].tensor;
    return NULL;
}

static hypura_status read_tensor(const struct gguf *file, const struct gguf_tensor *tensor, uint8_t **out,
                                 hypura_error *error)
{
    const char *path = gguf_file_path(file, tensor->file);
    TRY(memory_allocate((void **)out, (size_t)tensor->bytes, 1, "adapter", error));
    FILE *stream = fopen(path, "rbe");
    if (!stream)
        return error_set_errno(error, errno, "cannot open %s", path);
    bool whole = fseeko(stream, (off_t)tensor->offset, SEEK_SET) == 0 &&
                 fread(*out, 1, (size_t)tensor->bytes, stream) == tensor->bytes;
    fclose(stream);
    return whole ? HYPURA_OK
                 : error_set(error, HYPURA_ERROR_IO, "cannot read tensor '%s' of %s", tensor->name.data, path);
}

static hypura_status check_shapes(const struct gguf *file, const struct gguf_tensor *base, const struct gguf_tensor *a,
                                  const struct gguf_tensor *b, hypura_error *error)
{
    bool fits = a->dimensions[0] == base->dimensions[0] && b->dimensions[1] == base->dimensions[1] &&
                a->dimensions[1] == b->dimensions[0] && a->dimensions[2] == base->dimensions[2] &&
                b->dimensions[2] == base->dimensions[2] && a->dimensions[3] == 1 && b->dimensions[3] == 1;
    if (!fits || a->dimensions[1] > MAX_RANK)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: adapter tensors '%s' and '%s' of rank %" PRIu64 " do not fit the model's '%s'",
                         gguf_file_path(file, 0), a->name.data, b->name.data, a->dimensions[1], base->name.data);
    if (compute_supports(a->type) && compute_supports(b->type))
        return HYPURA_OK;
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s: '%s' is of a type that this program cannot compute with",
                     gguf_file_path(file, 0), compute_supports(a->type) ? b->name.data : a->name.data);
}

/* Adds a ".lora_a" tensor and its ".lora_b". */
static hypura_status add_pair(struct adapters *adapters, const struct model *model, const struct steps *steps,
                              const struct gguf *file, const struct gguf_tensor *a, float alpha, float scale,
                              hypura_error *error)
{
    static const char ending[] = ".lora_a";
    char name[256];
    size_t length = a->name.size - (sizeof ending - 1);
    const char *path = gguf_file_path(file, 0);
    if (length + sizeof ending > sizeof name)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: a tensor's name is too long", path);
    snprintf(name, sizeof name, "%.*s.lora_b", (int)length, a->name.data);
    const struct gguf_tensor *b = gguf_tensor_find(file, name);
    if (!b)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: tensor '%s' is missing", path, name);
    name[length] = '\0';
    int32_t layer;
    enum tensor_role role;
    const struct gguf_tensor *base =
        model_tensor_role(model, name, &layer, &role) ? base_tensor(model, layer, role) : NULL;
    if (!base)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s adapts '%s', which %s does not have", path, name,
                         model_name(model));
    if (!steps_multiplies(steps, model, layer, role))
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s adapts '%s', which cannot be adapted here: merge it",
                         path, name);
    TRY(check_shapes(file, base, a, b, error));
    struct thin_pair *pair;
    TRY(ALLOCATE(&pair, 1, "adapter", error));
    struct thin_pair **where = place(adapters, layer, role);
    while (*where) /* in the order of the command line, which fixes the order of sums */
        where = &(*where)->next;
    *where = pair;
    pair->number = adapters->pair_count++;
    pair->a = a;
    pair->b = b;
    pair->scale = alpha != 0.0f ? scale * alpha / (float)a->dimensions[1] : scale;
    adapters->rank = MAX(adapters->rank, (size_t)a->dimensions[1]);
    TRY(read_tensor(file, a, &pair->data_a, error));
    return read_tensor(file, b, &pair->data_b, error);
}

static hypura_status check_kind(const struct gguf *file, const struct model *model, hypura_error *error)
{
    static const char *const keys[] = {"general.type", "adapter.type", "general.architecture"};
    const char *const values[] = {"adapter", "lora", model_architecture(model)->name};
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        struct gguf_string found = {"", 0};
        gguf_get_string(file, keys[i], &found);
        if (strcmp(found.data, values[i]) != 0)
            return error_set(error, HYPURA_ERROR_FORMAT, "%s is not an adapter for %s: its '%s' is '%s', not '%s'",
                             gguf_file_path(file, 0), model_name(model), keys[i], found.data, values[i]);
    }
    if (gguf_find(file, "adapter.alora.invocation_tokens"))
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%s is an activated LoRA, which starts in the middle of a text: only plain ones are supported",
                         gguf_file_path(file, 0));
    return HYPURA_OK;
}

static hypura_status add_file(struct adapters *adapters, const struct model *model, const struct steps *steps,
                              const struct engine_adapter *option, hypura_error *error)
{
    struct gguf *file;
    TRY(gguf_open(&file, option->path, error));
    adapters->files[adapters->count++] = file;
    TRY(check_kind(file, model, error));
    float alpha = 0.0f;
    gguf_get_float(file, "adapter.lora.alpha", &alpha);
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        if (text_has_ending(tensor->name.data, ".lora_a"))
            TRY(add_pair(adapters, model, steps, file, tensor, alpha, option->scale, error));
        else if (!text_has_ending(tensor->name.data, ".lora_b"))
            return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s has a tensor '%s', which is not a part of a LoRA",
                             option->path, tensor->name.data);
    }
    return HYPURA_OK;
}

hypura_status adapters_open(struct adapters **out, const struct model *model, const struct steps *steps,
                            const struct engine_adapter *options, size_t count, hypura_error *error)
{
    struct adapters *adapters;
    *out = NULL;
    if (count == 0)
        return HYPURA_OK;
    TRY(ALLOCATE(&adapters, 1, "adapters", error));
    *out = adapters;
    adapters->layers = model_parameters(model)->layers;
    TRY(ALLOCATE(&adapters->files, count, "adapters", error));
    TRY(ALLOCATE(&adapters->pairs, ((size_t)adapters->layers + 1) * ROLE_COUNT, "adapters", error));
    for (size_t i = 0; i < count; i++)
        TRY(add_file(adapters, model, steps, &options[i], error));
    TRY(ALLOCATE(&adapters->low, ADAPTER_TOKENS * adapters->rank, "adapters", error));
    TRY(ALLOCATE(&adapters->delta, ADAPTER_TOKENS * ADAPTER_COLUMNS, "adapters", error));
    /* Touches the memory: the plan subtracts what is resident from the budget. */
    memset(adapters->low, 0, ADAPTER_TOKENS * adapters->rank * sizeof *adapters->low);
    memset(adapters->delta, 0, sizeof(float[ADAPTER_TOKENS][ADAPTER_COLUMNS]));
    return activation_create(&adapters->input, ADAPTER_TOKENS, MAX(adapters->rank, (size_t)1), error);
}

void adapters_close(struct adapters *adapters)
{
    if (!adapters)
        return;
    for (size_t i = 0; adapters->pairs && i < ((size_t)adapters->layers + 1) * ROLE_COUNT; i++)
        while (adapters->pairs[i]) {
            struct thin_pair *pair = adapters->pairs[i];
            adapters->pairs[i] = pair->next;
            memory_free(pair->data_a);
            memory_free(pair->data_b);
            memory_free(pair);
        }
    for (size_t i = 0; i < adapters->count; i++)
        gguf_close(adapters->files[i]);
    activation_destroy(adapters->input);
    memory_free(adapters->files);
    memory_free(adapters->pairs);
    memory_free(adapters->low);
    memory_free(adapters->delta);
    memory_free(adapters);
}

/* ---- looking in ----------------------------------------------------------------------------------------------------
 */

const struct thin_pair *adapters_find(const struct adapters *adapters, int32_t layer, enum tensor_role role)
{
    return *place(adapters, layer, role);
}

uint32_t adapters_pairs(const struct adapters *adapters)
{
    return adapters->pair_count;
}

uint32_t adapters_rank(const struct adapters *adapters)
{
    return (uint32_t)adapters->rank;
}

/* ---- adding --------------------------------------------------------------------------------------------------------
 */

static struct matrix thin_matrix(const struct gguf_tensor *tensor, const uint8_t *data, uint32_t expert)
{
    return matrix_at(data + tensor->bytes / tensor->dimensions[2] * expert, tensor->type, tensor->dimensions[0],
                     tensor->dimensions[1]);
}

/* Adds a pair to some tokens of a job, from the given token on. */
static void add_pair_to(struct batch *batch, const struct thin_pair *pair, const struct matmul *job, uint32_t expert,
                        size_t first, size_t token, size_t tokens)
{
    struct adapters *adapters = batch->open->adapters;
    struct matrix b = thin_matrix(pair->b, pair->data_b, expert);
    for (size_t i = 0; i < tokens; i++)
        adapters->rows[i] = job->input_rows ? job->input_rows[token + i] : (uint32_t)(token + i);
    struct matmul down = {.weights = thin_matrix(pair->a, pair->data_a, expert),
                          .input = job->input,
                          .input_rows = adapters->rows,
                          .tokens = tokens,
                          .output = adapters->low,
                          .output_stride = b.columns};
    compute_matmul(batch->compute, &down, 1);
    compute_scale(batch->compute, adapters->low, adapters->low, pair->scale, tokens * b.columns);
    activation_set(adapters->input, adapters->low, tokens, b.columns, b.columns);
    for (size_t row = 0, rows; row < job->weights.rows; row += rows) {
        rows = MIN(job->weights.rows - row, (size_t)ADAPTER_COLUMNS);
        struct matmul up = {.weights = matrix_rows(&b, first + row, rows),
                            .input = adapters->input,
                            .tokens = tokens,
                            .output = adapters->delta,
                            .output_stride = rows};
        compute_matmul(batch->compute, &up, 1);
        for (size_t i = 0; i < tokens; i++) {
            size_t place_of = job->output_rows ? job->output_rows[token + i] : token + i;
            float *out = job->output + place_of * job->output_stride + row;
            compute_add(batch->compute, out, out, adapters->delta + i * rows, rows);
        }
    }
}

void adapt(struct batch *batch, const struct matmul *job, int32_t layer, enum tensor_role role, uint32_t expert,
           size_t first)
{
    if (!batch->open->adapters)
        return;
    for (const struct thin_pair *pair = *place(batch->open->adapters, layer, role); pair; pair = pair->next)
        for (size_t token = 0; token < job->tokens; token += ADAPTER_TOKENS)
            add_pair_to(batch, pair, job, expert, first, token, MIN(job->tokens - token, (size_t)ADAPTER_TOKENS));
}
