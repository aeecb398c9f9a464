#include "tools/optimize.h"

#include "core/core.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The size of a piece: large enough for the drive, small enough for many threads. */
#define PIECE_BYTES ((uint64_t)1 << 20)

struct layer {
    uint32_t number;
    unit_number first;
    uint64_t offset, record; /* in the new file's data */
    uint32_t *order;         /* [experts] the expert in each record */
};

struct optimize {
    struct model *model;
    struct sources *sources;
    struct layer *layers;
    uint32_t layer_count, experts;
    uint32_t *orders; /* the memory of all layers' order */
    size_t threads;
    uint64_t bytes, pieces;
};

/* ---- the plan --------------------------------------------------------------------------------------------------- */

struct use {
    uint64_t count;
    uint32_t expert;
};

static int most_first(const void *a, const void *b)
{
    const struct use *left = a, *right = b;
    if (left->count != right->count)
        return left->count > right->count ? -1 : 1;
    return left->expert < right->expert ? -1 : 1;
}

static hypura_status order_by_use(struct optimize *optimize, const char *path, hypura_error *error)
{
    struct trace *trace = NULL;
    struct use *uses = NULL;
    hypura_status status = trace_read(&trace, path, error);
    if (!status && trace->shape.experts != optimize->experts)
        status = error_set(error, HYPURA_ERROR_ARGUMENT,
                           "%.200s belongs to another model, with %u experts per layer; this one has %u", path,
                           trace->shape.experts, optimize->experts);
    if (!status)
        status = ALLOCATE(&uses, optimize->experts, "counts of experts", error);
    for (uint32_t l = 0; !status && l < trace->shape.layer_count; l++) {
        struct layer *layer = NULL;
        for (uint32_t i = 0; i < optimize->layer_count; i++)
            if (optimize->layers[i].number == trace->shape.layers[l].layer)
                layer = &optimize->layers[i];
        if (!layer) {
            status = error_set(error, HYPURA_ERROR_ARGUMENT,
                               "%.200s belongs to another model: layer %u has experts there, but none here", path,
                               trace->shape.layers[l].layer);
            break;
        }
        for (uint32_t e = 0; e < optimize->experts; e++)
            uses[e] = (struct use){0, e};
        for (size_t p = 0; p < trace->pass_count; p++) {
            size_t count = (size_t)trace->passes[p].tokens * trace->shape.used;
            for (size_t i = 0; i < count; i++)
                uses[trace->passes[p].experts[l * count + i]].count++;
        }
        qsort(uses, optimize->experts, sizeof *uses, most_first);
        for (uint32_t e = 0; e < optimize->experts; e++)
            layer->order[e] = uses[e].expert;
    }
    memory_free(uses);
    trace_free(trace);
    return status;
}

static hypura_status find_layers(struct optimize *optimize, hypura_error *error)
{
    const struct model *model = optimize->model;
    const struct model_parameters *p = model_parameters(model);
    const uint32_t all = p->layers + p->predicting;
    optimize->experts = p->experts;
    if (p->experts == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "%s has no experts: its matrices are read whole, so there is nothing to gain",
                         model_name(model));
    hypura_status status = ALLOCATE(&optimize->layers, all, "table of layers", error);
    if (!status)
        status = ALLOCATE(&optimize->orders, (size_t)all * p->experts, "order of experts", error);
    for (uint32_t i = 0; !status && i < all; i++) {
        const struct model_layer *of_model = model_layer(model, i);
        if (of_model->first_expert == NO_UNIT)
            continue;
        struct layer *layer = &optimize->layers[optimize->layer_count++];
        const struct unit *unit = model_unit(model, of_model->first_expert);
        *layer = (struct layer){.number = i,
                                .first = of_model->first_expert,
                                .offset = optimize->bytes,
                                .record = expert_record_at(unit, unit->slice_count),
                                .order = optimize->orders + (size_t)i * p->experts};
        for (uint32_t e = 0; e < p->experts; e++)
            layer->order[e] = e;
        optimize->bytes += layer->record * p->experts;
    }
    optimize->pieces = (optimize->bytes + PIECE_BYTES - 1) / PIECE_BYTES;
    return status;
}

hypura_status optimize_open(struct optimize **out, const char *model, const struct optimize_options *options,
                            hypura_error *error)
{
    struct optimize *optimize;
    hypura_status status = ALLOCATE(&optimize, 1, "plan", error);
    if (status)
        return status;
    optimize->threads = MIN(options->threads ? options->threads : thread_usable_cores(), 64);
    if (!(status = model_open_predicting(&optimize->model, model, error)) &&
        !(status = sources_open(&optimize->sources, model_file(optimize->model), error)) &&
        !(status = find_layers(optimize, error)) && options->trace)
        status = order_by_use(optimize, options->trace, error);
    if (status)
        optimize_close(optimize);
    else
        *out = optimize;
    return status;
}

void optimize_close(struct optimize *optimize)
{
    if (!optimize)
        return;
    sources_close(optimize->sources);
    model_close(optimize->model);
    memory_free(optimize->layers);
    memory_free(optimize->orders);
    memory_free(optimize);
}

uint64_t optimize_bytes(const struct optimize *optimize)
{
    return optimize->bytes;
}

uint32_t optimize_experts(const struct optimize *optimize)
{
    return optimize->layer_count * optimize->experts;
}

const struct model *optimize_model(const struct optimize *optimize)
{
    return optimize->model;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static hypura_status add_layer(const struct optimize *optimize, const struct layer *layer, struct gguf_writer *writer,
                               hypura_error *error)
{
    char name[64];
    uint64_t slices[3 * UNIT_MAX_SLICES], dimensions[] = {layer->record, optimize->experts};
    const struct unit *unit = model_unit(optimize->model, layer->first);
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        const struct gguf_tensor *tensor = unit->slices[i].tensor;
        slices[3 * i] = tensor->file;
        slices[3 * i + 1] = tensor->offset;
        slices[3 * i + 2] = tensor->bytes;
    }
    snprintf(name, sizeof name, EXPERT_FILE_SLICES, layer->number);
    hypura_status status = gguf_writer_add(writer, name, GGUF_UINT64, slices, 3 * unit->slice_count, true, error);
    snprintf(name, sizeof name, EXPERT_FILE_ORDER, layer->number);
    if (!status)
        status = gguf_writer_add(writer, name, GGUF_UINT32, layer->order, optimize->experts, true, error);
    snprintf(name, sizeof name, EXPERT_FILE_TENSOR, layer->number);
    return status ? status : gguf_writer_add_tensor(writer, name, TENSOR_I8, 2, dimensions, error);
}

static hypura_status add_model(const struct optimize *optimize, struct gguf_writer *writer, hypura_error *error)
{
    const struct gguf *file = model_file(optimize->model);
    const size_t count = gguf_file_count(file);
    const char *path = gguf_file_path(file, 0);
    char absolute[PATH_MAX];
    uint64_t *numbers;
    hypura_status status = ALLOCATE(&numbers, 2 * count, "table of files", error);
    for (size_t i = 0; !status && i < count; i++) {
        numbers[i] = gguf_file_bytes(file, i);
        if (!expert_file_time(gguf_file_path(file, i), &numbers[count + i]))
            status = error_set(error, HYPURA_ERROR_IO, "%.200s no longer exists", gguf_file_path(file, i));
    }
    if (!status && !(status = gguf_writer_add_string(writer, "general.type", EXPERT_FILE_TYPE, error)) &&
        !(status = gguf_writer_add_string(writer, "general.architecture", model_architecture(optimize->model)->name,
                                          error)) &&
        !(status = gguf_writer_add_string(writer, "general.name", model_name(optimize->model), error)) &&
        !(status = gguf_writer_add_uint32(writer, EXPERT_FILE_VERSION_KEY, EXPERT_FILE_VERSION, error)) &&
        !(status =
              gguf_writer_add_string(writer, EXPERT_FILE_MODEL, realpath(path, absolute) ? absolute : path, error)) &&
        !(status = gguf_writer_add(writer, EXPERT_FILE_SIZES, GGUF_UINT64, numbers, count, true, error)))
        status = gguf_writer_add(writer, EXPERT_FILE_TIMES, GGUF_UINT64, numbers + count, count, true, error);
    memory_free(numbers);
    return status;
}

static hypura_status header(void *context, int descriptor, hypura_error *error)
{
    const struct optimize *optimize = context;
    struct gguf_writer *writer;
    hypura_status status = gguf_writer_create_header(&writer, descriptor, EXPERT_FILE_ALIGNMENT, error);
    if (status)
        return status;
    status = add_model(optimize, writer, error);
    for (uint32_t i = 0; !status && i < optimize->layer_count; i++)
        status = add_layer(optimize, &optimize->layers[i], writer, error);
    if (!status)
        status = gguf_writer_finish_header(writer, error);
    gguf_writer_destroy(writer);
    return status;
}

static void where(void *context, uint64_t piece, uint64_t *offset, uint64_t *bytes)
{
    const struct optimize *optimize = context;
    *offset = piece * PIECE_BYTES;
    *bytes = MIN(PIECE_BYTES, optimize->bytes - *offset);
}

/* A part of an expert's slice within a piece. */
struct part {
    uint32_t file;
    uint64_t source, at, bytes; /* source: offset in the file; at: offset in the piece */
};

typedef hypura_status (*part_use)(const struct optimize *optimize, const struct part *part, uint8_t *out,
                                  hypura_error *error);

static const struct layer *layer_at(const struct optimize *optimize, uint64_t offset)
{
    uint32_t i = 0;
    while (i + 1 < optimize->layer_count && optimize->layers[i + 1].offset <= offset)
        i++;
    return &optimize->layers[i];
}

static hypura_status for_parts(const struct optimize *optimize, uint64_t start, uint64_t end, part_use use,
                               uint8_t *out, hypura_error *error)
{
    for (uint64_t at = start; at < end;) {
        const struct layer *layer = layer_at(optimize, at);
        uint64_t number = (at - layer->offset) / layer->record, record = layer->offset + number * layer->record;
        uint32_t expert = layer->order[number];
        const struct unit *unit = model_unit(optimize->model, layer->first + expert);
        for (uint32_t s = 0; s < unit->slice_count; s++) {
            const struct unit_slice *slice = &unit->slices[s];
            uint64_t first = record + expert_record_at(unit, s), from = MAX(first, at),
                     to = MIN(first + slice->bytes, end);
            const struct part part = {slice->file, slice->offset + (from - first), from - start, to - from};
            hypura_status status = from < to ? use(optimize, &part, out, error) : HYPURA_OK;
            if (status)
                return status;
        }
        at = MIN(record + layer->record, end);
    }
    return HYPURA_OK;
}

static hypura_status read_part(const struct optimize *optimize, const struct part *part, uint8_t *out,
                               hypura_error *error)
{
    return sources_read(optimize->sources, part->file, part->source, out + part->at, part->bytes, error);
}

static hypura_status drop_part(const struct optimize *optimize, const struct part *part, uint8_t *out,
                               hypura_error *error)
{
    (void)out, (void)error;
    sources_drop(optimize->sources, part->file, part->source, part->bytes);
    return HYPURA_OK;
}

static hypura_status make(void *context, uint64_t piece, size_t worker, uint8_t *out, const uint8_t **made,
                          hypura_error *error)
{
    uint64_t offset, bytes;
    (void)worker;
    where(context, piece, &offset, &bytes);
    memset(out, 0, (size_t)bytes);
    *made = out;
    return for_parts(context, offset, offset + bytes, read_part, out, error);
}

static void written(void *context, uint64_t piece, uint64_t count)
{
    uint64_t first, last, bytes;
    where(context, piece, &first, &bytes);
    where(context, piece + count - 1, &last, &bytes);
    for_parts(context, first, last + bytes, drop_part, NULL, NULL);
}

static uint64_t key_of(const struct optimize *optimize)
{
    uint64_t facts[] = {EXPERT_FILE_VERSION, PIECE_BYTES, optimize->bytes};
    uint64_t key = sources_key(optimize->sources, fnv1a(FNV1A_START, facts, sizeof facts));
    for (uint32_t i = 0; i < optimize->layer_count; i++)
        key = fnv1a(key, optimize->layers[i].order, optimize->experts * sizeof *optimize->layers[i].order);
    return key;
}

hypura_status optimize_write(struct optimize *optimize, const char *path, pieces_progress progress, void *context,
                             hypura_error *error)
{
    const struct pieces_work work = {.sources = optimize->sources,
                                     .context = optimize,
                                     .count = optimize->pieces,
                                     .bytes = optimize->bytes,
                                     .most = PIECE_BYTES,
                                     .key = key_of(optimize),
                                     .threads = optimize->threads,
                                     .header = header,
                                     .where = where,
                                     .make = make,
                                     .written = written};
    return pieces_write(&work, path, progress, context, error);
}
