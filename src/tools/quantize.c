#include "tools/quantize_encode.h"
#include "tools/quantize_private.h"

#include "compute/compute.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* Elements of a piece, which is at least one row. Unfinished files depend on it, so it is the same on all machines. */
#define PIECE_ELEMENTS ((uint64_t)256 << 10)

/* Increase this when the bits of an encoder change, so an unfinished file is not continued by another encoder. */
#define ENCODERS 1

/* ---- overrides by name ------------------------------------------------------------------------------------------ */

struct wishes {
    pcre2_code **codes;
    pcre2_match_data *match;
    const struct quantize_override *overrides;
    size_t count;
};

static hypura_status compile(struct wishes *wishes, const struct quantize_options *options, hypura_error *error)
{
    wishes->overrides = options->overrides;
    hypura_status status = ALLOCATE(&wishes->codes, options->override_count, "table of expressions", error);
    for (size_t i = 0; !status && i < options->override_count; i++) {
        const struct quantize_override *wish = &options->overrides[i];
        int number;
        PCRE2_SIZE at;
        if (!encode_supports(wish->type)) {
            const struct tensor_type_info *info = tensor_type_info(wish->type);
            return error_set(error, HYPURA_ERROR_UNSUPPORTED, "tensors cannot be written as %s",
                             info ? info->name : "that type");
        }
        wishes->codes[i] = pcre2_compile((PCRE2_SPTR)wish->expression, PCRE2_ZERO_TERMINATED, 0, &number, &at, NULL);
        if (!wishes->codes[i])
            return error_set(error, HYPURA_ERROR_ARGUMENT,
                             "\"%.200s\" is not a valid regular expression (at character %zu)", wish->expression,
                             (size_t)at);
        wishes->count++;
    }
    wishes->match = pcre2_match_data_create(1, NULL);
    if (!status && !wishes->match)
        status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for regular expressions");
    return status;
}

static void forget(struct wishes *wishes)
{
    for (size_t i = 0; i < wishes->count; i++)
        pcre2_code_free(wishes->codes[i]);
    pcre2_match_data_free(wishes->match);
    memory_free(wishes->codes);
}

static bool asked(void *context, const char *name, enum tensor_type *type)
{
    struct wishes *wishes = context;
    for (size_t i = 0; i < wishes->count; i++)
        if (pcre2_match(wishes->codes[i], (PCRE2_SPTR)name, strlen(name), 0, 0, wishes->match, NULL) >= 0) {
            *type = wishes->overrides[i].type;
            return true;
        }
    return false;
}

/* ---- the plan --------------------------------------------------------------------------------------------------- */

static int compare_tensors(const void *a, const void *b)
{
    return recipe_order(*(const struct gguf_tensor *const *)a, *(const struct gguf_tensor *const *)b);
}

static hypura_status check_importance(const struct quantize *quantize, struct quantize_tensor *tensor,
                                      hypura_error *error)
{
    const struct gguf_tensor *source = tensor->source;
    const char *name = source->name.data;
    uint64_t found = quantize->importance ? importance_size(quantize->importance, name) : 0;
    uint64_t wanted = source->dimensions[0] * source->dimensions[2];
    bool changes = source->type != tensor->type;
    tensor->weighted = changes && found == wanted && tensor_type_info(tensor->type)->block_size > 1;
    if (changes && found && found != wanted && strstr(name, "token_embd") == NULL)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "the importance matrix belongs to another model: it has %" PRIu64
                         " values for \"%.200s\", which "
                         "needs %" PRIu64,
                         found, name, wanted);
    if (changes && !tensor->weighted && recipe_needs_importance(quantize->recipe, source, tensor->type))
        return error_set(
            error, HYPURA_ERROR_ARGUMENT,
            "\"%.200s\" as %s would be useless without an importance matrix: make one with \"hypura imatrix\" "
            "and pass it with --imatrix%s",
            name, tensor_type_info(tensor->type)->name,
            quantize->importance ? " (the given one has no values for this tensor)" : "");
    return HYPURA_OK;
}

static hypura_status plan_tensor(struct quantize *quantize, struct quantize_tensor *tensor,
                                 const struct quantize_options *options, hypura_error *error)
{
    const struct gguf_tensor *source = tensor->source;
    const struct tensor_type_info *from = tensor_type_info(source->type);
    bool changes = source->type != tensor->type;
    if (changes && !compute_supports(source->type))
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "\"%.200s\" has type %s, which hypura cannot decode",
                         source->name.data, from->name);
    if (changes && !encode_supports(tensor->type))
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "tensors cannot be written as %s",
                         tensor_type_info(tensor->type)->name);
    if (changes && from->block_size > 1 && !options->requantize)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "\"%.200s\" is quantised already (%s), and would lose quality twice: start from the F16, BF16 "
                         "or F32 model, or give --allow-requantize",
                         source->name.data, from->name);
    if (!tensor_row_bytes(source->type, source->dimensions[0], &tensor->source_row_bytes) ||
        !tensor_row_bytes(tensor->type, source->dimensions[0], &tensor->row_bytes))
        return error_set(error, HYPURA_ERROR_FORMAT, "\"%.200s\" cannot be of type %s", source->name.data,
                         tensor_type_info(tensor->type)->name);
    tensor->rows = source->dimensions[1] * source->dimensions[2] * source->dimensions[3];
    tensor->bytes = tensor->rows * tensor->row_bytes;
    tensor->piece_rows = MIN(MAX(PIECE_ELEMENTS / source->dimensions[0], 1), tensor->rows);
    tensor->pieces = (tensor->rows + tensor->piece_rows - 1) / tensor->piece_rows;
    tensor->offset = quantize->bytes;
    quantize->bytes += align_up(tensor->bytes, 32);
    quantize->source_bytes += source->bytes;
    quantize->elements += tensor->rows * source->dimensions[0];
    quantize->most_columns = MAX(quantize->most_columns, source->dimensions[0]);
    quantize->most_piece = MAX(quantize->most_piece, tensor->piece_rows * tensor->row_bytes);
    quantize->most_source_piece = MAX(quantize->most_source_piece, tensor->piece_rows * tensor->source_row_bytes);
    hypura_status status = check_importance(quantize, tensor, error);
    if (!status && tensor->weighted)
        quantize->most_importance = MAX(quantize->most_importance, source->dimensions[0] * source->dimensions[2]);
    return status;
}

static hypura_status make_plan(struct quantize *quantize, const struct quantize_options *options, hypura_error *error)
{
    const struct gguf_tensor **sources = NULL;
    enum tensor_type *types = NULL;
    struct wishes wishes = {0};
    quantize->count = gguf_tensor_count(quantize->file);
    hypura_status status = ALLOCATE(&sources, quantize->count, "table of tensors", error);
    if (!status)
        status = ALLOCATE(&types, quantize->count, "table of tensors", error);
    if (!status)
        status = ALLOCATE(&quantize->tensors, quantize->count, "table of tensors", error);
    if (!status)
        status = compile(&wishes, options, error);
    for (size_t i = 0; !status && i < quantize->count; i++)
        sources[i] = gguf_tensor_at(quantize->file, i);
    if (!status) {
        if (quantize->count)
            qsort(sources, quantize->count, sizeof *sources, compare_tensors);
        struct recipe_wish wish = {options->pure, quantize->importance != NULL, asked, &wishes};
        recipe_types(quantize->recipe, quantize->file, sources, quantize->count, &wish, types);
    }
    for (size_t i = 0; !status && i < quantize->count; i++) {
        quantize->tensors[i] = (struct quantize_tensor){.source = sources[i], .type = types[i]};
        status = plan_tensor(quantize, &quantize->tensors[i], options, error);
    }
    forget(&wishes);
    memory_free(sources);
    memory_free(types);
    return status;
}

static uint64_t memory_of_thread(const struct quantize *quantize)
{
    return quantize->most_columns * 4 + quantize->most_piece + quantize->most_source_piece + ((uint64_t)2 << 20);
}

static uint64_t memory_of_all(const struct quantize *quantize)
{
    return ((uint64_t)24 << 20) + quantize->most_importance * 4;
}

uint64_t quantize_memory(const struct quantize *quantize)
{
    return memory_of_all(quantize) + quantize->threads * memory_of_thread(quantize);
}

static hypura_status plan_threads(struct quantize *quantize, const struct quantize_options *options,
                                  hypura_error *error)
{
    uint64_t each = memory_of_thread(quantize), always = memory_of_all(quantize);
    char wanted[32];
    quantize->threads = MIN(options->threads ? options->threads : thread_usable_cores(), 256);
    if (!options->memory)
        return HYPURA_OK;
    if (options->memory < always + each)
        return error_set(error, HYPURA_ERROR_MEMORY, "quantising this model needs at least %s of memory",
                         format_bytes(wanted, sizeof wanted, (double)(always + each)));
    quantize->threads = (size_t)MIN(quantize->threads, (options->memory - always) / each);
    return HYPURA_OK;
}

hypura_status quantize_open(struct quantize **out, const char *model, const struct quantize_options *options,
                            hypura_error *error)
{
    struct quantize *quantize;
    struct gguf_string kind = {"model", 5};
    hypura_status status = ALLOCATE(&quantize, 1, "plan", error);
    if (status)
        return status;
    quantize->recipe = recipe_find(options->type);
    if (!quantize->recipe)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "there is no type \"%.100s\" to quantise to", options->type);
    if (!status && !(status = gguf_open(&quantize->file, model, error)))
        status = sources_open(&quantize->sources, quantize->file, error);
    if (!status)
        gguf_get_string(quantize->file, "general.type", &kind);
    if (!status && strcmp(kind.data, "model") != 0)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "%.200s is not a model but a file of type \"%.50s\"", model,
                           kind.data);
    if (!status && options->importance) {
        status = string_copy(&quantize->importance_path, options->importance, error);
        if (!status)
            status = importance_open(&quantize->importance, options->importance, error);
    }
    if (!status)
        status = make_plan(quantize, options, error);
    if (!status)
        status = plan_threads(quantize, options, error);
    if (status)
        quantize_close(quantize);
    else
        *out = quantize;
    return status;
}

void quantize_close(struct quantize *quantize)
{
    if (!quantize)
        return;
    sources_close(quantize->sources);
    memory_free(quantize->tensors);
    memory_free(quantize->importance_path);
    importance_close(quantize->importance);
    gguf_close(quantize->file);
    memory_free(quantize);
}

size_t quantize_count(const struct quantize *quantize)
{
    return quantize->count;
}

const struct quantize_tensor *quantize_at(const struct quantize *quantize, size_t index)
{
    return &quantize->tensors[index];
}

uint64_t quantize_bytes(const struct quantize *quantize)
{
    return quantize->bytes;
}

uint64_t quantize_source_bytes(const struct quantize *quantize)
{
    return quantize->source_bytes;
}

uint64_t quantize_elements(const struct quantize *quantize)
{
    return quantize->elements;
}

uint64_t quantize_key(const struct quantize *quantize)
{
    uint64_t number = ENCODERS, key = fnv1a(FNV1A_START, &number, sizeof number);
    key = sources_key(quantize->sources, key);
    for (size_t i = 0; i < quantize->count; i++) {
        uint64_t facts[] = {quantize->tensors[i].type, quantize->tensors[i].piece_rows, quantize->tensors[i].weighted};
        key = fnv1a(key, facts, sizeof facts);
    }
    if (quantize->importance_path)
        key = sources_key_of_file(quantize->importance_path, key);
    key = fnv1a(key, &quantize->recipe->file_type, sizeof quantize->recipe->file_type);
    return key;
}
