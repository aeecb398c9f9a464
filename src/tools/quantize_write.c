/* Writes the new file: reads rows, encodes them and passes them to pieces.h. */
#include "tools/pieces.h"
#include "tools/quantize_encode.h"
#include "tools/quantize_private.h"

#include "compute/compute.h"

#include <inttypes.h>
#include <math.h>

struct worker {
    struct encode_scratch *scratch;
    uint8_t *source;
    float *row;
};

struct job {
    struct quantize *quantize;
    struct worker *workers;
    uint64_t *starts;  /* [tensors + 1] the number of each tensor's first piece */
    float *importance; /* that of the current tensor */
};

/* ---- pieces ----------------------------------------------------------------------------------------------------- */

struct place {
    const struct quantize_tensor *tensor;
    uint64_t first, rows;
};

static size_t tensor_of(const struct job *job, uint64_t piece)
{
    size_t low = 0, high = job->quantize->count - 1;
    while (low < high) {
        size_t middle = (low + high + 1) / 2;
        if (job->starts[middle] <= piece)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static struct place find(const struct job *job, uint64_t piece)
{
    size_t i = tensor_of(job, piece);
    const struct quantize_tensor *tensor = &job->quantize->tensors[i];
    uint64_t first = (piece - job->starts[i]) * tensor->piece_rows;
    return (struct place){tensor, first, MIN(tensor->piece_rows, tensor->rows - first)};
}

static void where(void *context, uint64_t piece, uint64_t *offset, uint64_t *bytes)
{
    struct place place = find(context, piece);
    *offset = place.tensor->offset + place.first * place.tensor->row_bytes;
    *bytes = place.rows * place.tensor->row_bytes;
}

static hypura_status encode(const struct job *job, struct worker *worker, const struct place *place, uint8_t *out,
                            hypura_error *error)
{
    const struct quantize_tensor *tensor = place->tensor;
    const struct gguf_tensor *source = tensor->source;
    uint64_t columns = source->dimensions[0], height = source->dimensions[1];
    for (uint64_t r = 0; r < place->rows; r++) {
        const float *importance =
            tensor->weighted ? job->importance + (place->first + r) / height % source->dimensions[2] * columns : NULL;
        compute_dequantize(source->type, worker->source + r * tensor->source_row_bytes, worker->row, (size_t)columns);
        bool finite = true;
        for (uint64_t i = 0; i < columns; i++)
            finite &= fabsf(worker->row[i]) < INFINITY;
        if (!finite)
            return error_set(error, HYPURA_ERROR_FORMAT,
                             "row %" PRIu64 " of \"%.200s\" has a value that is not a finite number", place->first + r,
                             source->name.data);
        encode_row(worker->scratch, tensor->type, worker->row, columns, importance, out + r * tensor->row_bytes);
    }
    return HYPURA_OK;
}

static hypura_status make(void *context, uint64_t piece, size_t number, uint8_t *out, const uint8_t **made,
                          hypura_error *error)
{
    struct job *job = context;
    struct worker *worker = &job->workers[number];
    struct place place = find(job, piece);
    const struct quantize_tensor *tensor = place.tensor;
    const struct gguf_tensor *source = tensor->source;
    hypura_status status =
        sources_read(job->quantize->sources, source->file, source->offset + place.first * tensor->source_row_bytes,
                     worker->source, place.rows * tensor->source_row_bytes, error);
    *made = tensor->type == source->type ? worker->source : out;
    return status || tensor->type == source->type ? status : encode(job, worker, &place, out, error);
}

/* ---- batches ---------------------------------------------------------------------------------------------------- */

static hypura_status begin(void *context, uint64_t piece, bool making, uint64_t *end, hypura_error *error)
{
    struct job *job = context;
    size_t i = tensor_of(job, piece);
    const struct quantize_tensor *tensor = &job->quantize->tensors[i];
    *end = MIN(*end, job->starts[i + 1]);
    if (!making || !tensor->weighted)
        return HYPURA_OK;
    return importance_read(job->quantize->importance, tensor->source->name.data, job->importance, error);
}

static void written(void *context, uint64_t piece, uint64_t count)
{
    struct job *job = context;
    struct place first = find(job, piece), last = find(job, piece + count - 1);
    const struct gguf_tensor *source = first.tensor->source;
    uint64_t each = first.tensor->source_row_bytes;
    sources_drop(job->quantize->sources, source->file, source->offset + first.first * each,
                 (last.first + last.rows - first.first) * each);
}

static hypura_status header(void *context, int descriptor, hypura_error *error)
{
    const struct job *job = context;
    return quantize_header(job->quantize, descriptor, error);
}

/* ---- the job ---------------------------------------------------------------------------------------------------- */

static hypura_status make_workers(struct job *job, hypura_error *error)
{
    const struct quantize *quantize = job->quantize;
    hypura_status status = ALLOCATE(&job->workers, quantize->threads, "buffers", error);
    if (!status)
        status = ALLOCATE(&job->starts, quantize->count + 1, "table of tensors", error);
    if (!status)
        status = ALLOCATE(&job->importance, (size_t)quantize->most_importance, "importance of a tensor", error);
    for (size_t i = 0; !status && i < quantize->count; i++)
        job->starts[i + 1] = job->starts[i] + quantize->tensors[i].pieces;
    for (size_t i = 0; !status && i < quantize->threads; i++) {
        struct worker *worker = &job->workers[i];
        if (!(status = encode_scratch_create(&worker->scratch, error)) &&
            !(status = ALLOCATE(&worker->source, (size_t)quantize->most_source_piece, "buffers", error)))
            status = ALLOCATE(&worker->row, (size_t)quantize->most_columns, "buffers", error);
    }
    return status;
}

static void free_job(struct job *job)
{
    for (size_t i = 0; job->workers && i < job->quantize->threads; i++) {
        encode_scratch_destroy(job->workers[i].scratch);
        memory_free(job->workers[i].source);
        memory_free(job->workers[i].row);
    }
    memory_free(job->workers);
    memory_free(job->starts);
    memory_free(job->importance);
}

hypura_status quantize_write(struct quantize *quantize, const char *path, pieces_progress progress, void *context,
                             hypura_error *error)
{
    struct job job = {.quantize = quantize};
    hypura_status status = make_workers(&job, error);
    if (!status) {
        const struct pieces_work work = {.sources = quantize->sources,
                                         .context = &job,
                                         .count = job.starts[quantize->count],
                                         .bytes = quantize->bytes,
                                         .most = quantize->most_piece,
                                         .key = quantize_key(quantize),
                                         .threads = quantize->threads,
                                         .header = header,
                                         .where = where,
                                         .begin = begin,
                                         .make = make,
                                         .written = written};
        status = pieces_write(&work, path, progress, context, error);
    }
    free_job(&job);
    return status;
}
