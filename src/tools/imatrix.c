#include "tools/imatrix.h"

#include "format/format.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sums {
    const struct gguf_tensor *tensor;
    uint64_t columns, matrices;
    float *squares; /* [matrices][columns] */
    float *counts;  /* [matrices] */
};

struct imatrix {
    struct engine_watch watch;
    struct sums *sums;
    size_t count, room, last; /* last: index of the last matrix that was seen */
    uint32_t window;
    uint64_t windows;
    hypura_error error;
    bool failed;
};

static bool is_collected(const struct gguf_tensor *tensor)
{
    return strncmp(tensor->name.data, "blk.", 4) == 0 && tensor->dimensions[1] * tensor->dimensions[2] > 1;
}

hypura_status imatrix_bytes(uint64_t *bytes, const char *model, hypura_error *error)
{
    struct gguf *file;
    hypura_status status = gguf_open(&file, model, error);
    if (status)
        return status;
    uint64_t sum = 0;
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        if (is_collected(tensor))
            sum += (tensor->dimensions[0] + 1) * tensor->dimensions[2] * sizeof(float) + 256;
    }
    *bytes = sum;
    gguf_close(file);
    return HYPURA_OK;
}

static struct sums *find(struct imatrix *imatrix, const struct gguf_tensor *tensor, size_t columns)
{
    if (imatrix->last < imatrix->count && imatrix->sums[imatrix->last].tensor == tensor)
        return &imatrix->sums[imatrix->last];
    for (imatrix->last = 0; imatrix->last < imatrix->count; imatrix->last++)
        if (imatrix->sums[imatrix->last].tensor == tensor)
            return &imatrix->sums[imatrix->last];
    hypura_status status = HYPURA_OK;
    if (imatrix->count == imatrix->room) {
        size_t room = imatrix->room ? 2 * imatrix->room : 64;
        status = memory_resize((void **)&imatrix->sums, imatrix->count, room, sizeof *imatrix->sums, "table of sums",
                               &imatrix->error);
        imatrix->room = status ? imatrix->room : room;
    }
    struct sums sums = {.tensor = tensor, .columns = columns, .matrices = tensor->dimensions[2]};
    if (!status)
        status = ALLOCATE(&sums.counts, (size_t)sums.matrices, "counts", &imatrix->error);
    if (!status)
        status = ALLOCATE(&sums.squares, (size_t)(sums.matrices * columns), "sums of squares", &imatrix->error);
    if (status) {
        memory_free(sums.counts);
        imatrix->failed = true;
        return NULL;
    }
    imatrix->sums[imatrix->count] = sums;
    return &imatrix->sums[imatrix->count++];
}

static void see(void *context, const struct gguf_tensor *tensor, uint32_t matrix, const float *row, size_t columns)
{
    struct imatrix *imatrix = context;
    if (imatrix->failed || !is_collected(tensor) || columns != tensor->dimensions[0])
        return;
    struct sums *sums = find(imatrix, tensor, columns);
    if (!sums || matrix >= sums->matrices)
        return;
    float *squares = sums->squares + matrix * columns;
    for (size_t i = 0; i < columns; i++)
        squares[i] += row[i] * row[i];
    sums->counts[matrix]++;
}

static hypura_status read_window(struct imatrix *imatrix, struct engine *engine, int32_t *window, hypura_error *error)
{
    uint32_t chunk = engine_plan(engine)->chunk, positions[512];
    static const bool none[512];
    chunk = MIN(chunk, (uint32_t)COUNT_OF(positions));
    engine_truncate(engine, 0, 0);
    for (uint32_t first = 0; first < imatrix->window; first += chunk) {
        uint32_t now = MIN(chunk, imatrix->window - first);
        for (uint32_t i = 0; i < now; i++)
            positions[i] = first + i;
        struct engine_batch batch = {
            .count = now, .tokens = window + first, .positions = positions, .want_logits = none};
        hypura_status status = engine_forward(engine, &batch, error);
        if (!status && imatrix->failed)
            status = imatrix->error.status;
        if (status)
            return status;
    }
    return HYPURA_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct sums *)a)->tensor->name.data, ((const struct sums *)b)->tensor->name.data);
}

hypura_status imatrix_collect(struct imatrix **out, struct engine *engine, const int32_t *tokens, size_t count,
                              uint32_t window, int32_t bos, imatrix_progress progress, void *context,
                              hypura_error *error)
{
    struct imatrix *imatrix;
    int32_t *copy = NULL;
    if (window < 4 || window > engine_plan(engine)->positions)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "windows of %u tokens: expected 4 to %u, the context", window,
                         engine_plan(engine)->positions);
    if (count < window)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the text has %zu tokens: at least one window of %u is needed",
                         count, window);
    hypura_status status = ALLOCATE(&imatrix, 1, "importance matrix", error);
    if (status)
        return status;
    imatrix->window = window;
    imatrix->watch = (struct engine_watch){see, imatrix};
    status = ALLOCATE(&copy, window, "window", error);
    engine_watch_inputs(engine, &imatrix->watch);
    size_t windows = count / window;
    for (size_t w = 0; !status && w < windows; w++) {
        memcpy(copy, tokens + w * window, window * sizeof *copy);
        if (bos >= 0)
            copy[0] = bos;
        if ((status = read_window(imatrix, engine, copy, error)))
            break;
        imatrix->windows++;
        if (progress && !progress(context, imatrix->windows, windows))
            status = error_set(error, HYPURA_ERROR_CANCELLED, "stopped after %zu of %zu windows", w + 1, windows);
    }
    engine_watch_inputs(engine, NULL);
    memory_free(copy);
    if (status && imatrix->failed && error)
        *error = imatrix->error;
    if (status) {
        imatrix_free(imatrix);
        return status;
    }
    if (imatrix->count)
        qsort(imatrix->sums, imatrix->count, sizeof *imatrix->sums, by_name);
    *out = imatrix;
    return HYPURA_OK;
}

void imatrix_free(struct imatrix *imatrix)
{
    for (size_t i = 0; imatrix && i < imatrix->count; i++) {
        memory_free(imatrix->sums[i].squares);
        memory_free(imatrix->sums[i].counts);
    }
    if (imatrix)
        memory_free(imatrix->sums);
    memory_free(imatrix);
}

void imatrix_summary(const struct imatrix *imatrix, struct imatrix_summary *out)
{
    *out = (struct imatrix_summary){.matrices = imatrix->count, .windows = imatrix->windows};
    for (size_t i = 0; i < imatrix->count; i++)
        for (uint64_t m = 0; m < imatrix->sums[i].matrices; m++) {
            out->experts++;
            out->unused += imatrix->sums[i].counts[m] == 0;
        }
}

static hypura_status add_sums(struct gguf_writer *writer, const struct sums *sums, hypura_error *error)
{
    char name[512];
    uint64_t squares[2] = {sums->columns, sums->matrices}, counts[2] = {1, sums->matrices};
    snprintf(name, sizeof name, "%.400s.in_sum2", sums->tensor->name.data);
    hypura_status status = gguf_writer_add_tensor(writer, name, TENSOR_F32, 2, squares, error);
    snprintf(name, sizeof name, "%.400s.counts", sums->tensor->name.data);
    return status ? status : gguf_writer_add_tensor(writer, name, TENSOR_F32, 2, counts, error);
}

hypura_status imatrix_write(const struct imatrix *imatrix, const char *path, const char *text, hypura_error *error)
{
    struct gguf_writer *writer;
    struct gguf_string dataset = {text, strlen(text)};
    hypura_status status = gguf_writer_create(&writer, path, 0, error);
    if (status)
        return status;
    if (!(status = gguf_writer_add_string(writer, "general.type", "imatrix", error)) &&
        !(status = gguf_writer_add(writer, "imatrix.datasets", GGUF_STRING, &dataset, 1, true, error)) &&
        !(status = gguf_writer_add_uint32(writer, "imatrix.chunk_count", (uint32_t)imatrix->windows, error)))
        status = gguf_writer_add_uint32(writer, "imatrix.chunk_size", imatrix->window, error);
    for (size_t i = 0; !status && i < imatrix->count; i++)
        status = add_sums(writer, &imatrix->sums[i], error);
    for (size_t i = 0; !status && i < imatrix->count; i++) {
        const struct sums *sums = &imatrix->sums[i];
        for (uint64_t e = 0; !status && e < sums->matrices * sums->columns; e++)
            if (!isfinite(sums->squares[e]))
                status = error_set(error, HYPURA_ERROR_FORMAT, "an input of \"%.200s\" is not a finite number",
                                   sums->tensor->name.data);
        if (!status)
            status = gguf_writer_write(writer, sums->squares, sums->matrices * sums->columns * sizeof(float), error);
        if (!status)
            status = gguf_writer_write(writer, sums->counts, sums->matrices * sizeof(float), error);
    }
    if (!status)
        status = gguf_writer_finish(writer, error);
    gguf_writer_destroy(writer);
    return status;
}
