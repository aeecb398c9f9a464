/* Checks the options, writes the metadata, fills the tensors piece by piece and hands them to the writer. */
#include "tools/nameless.h"
#include "tools/synth_private.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define DEFAULT_SKEW 0.5f
#define DEFAULT_STICKINESS 0.7f

/* Rows are made in pieces of about this size. Each piece has its own random sequence, so the bytes do not depend on the
 * number of threads. */
#define PIECE_BYTES ((uint64_t)512 << 10)
#define PIECES_AT_ONCE 32

/* ---- options ----------------------------------------------------------------------------------------------------- */

static hypura_status check_number(const char *what, uint64_t value, uint64_t least, uint64_t most, uint32_t multiple,
                                  hypura_error *error)
{
    if (value >= least && value <= most && value % multiple == 0)
        return HYPURA_OK;
    if (multiple > 1)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%s is %llu; expected a multiple of %u from %llu to %llu", what,
                         (unsigned long long)value, multiple, (unsigned long long)least, (unsigned long long)most);
    return error_set(error, HYPURA_ERROR_ARGUMENT, "%s is %llu; expected %llu to %llu", what, (unsigned long long)value,
                     (unsigned long long)least, (unsigned long long)most);
}

static hypura_status check_architecture(const struct synth_geometry *g, hypura_error *error)
{
    static const struct {
        const char *name;
        bool dense, experts;
    } known[] = {{"llama", true, true},
                 {"qwen2", true, false},
                 {"qwen3", true, false},
                 {"qwen3moe", false, true},
                 {"gpt-oss", false, true}};
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        if (strcmp(known[i].name, g->architecture) != 0)
            continue;
        if (g->experts ? known[i].experts : known[i].dense)
            return HYPURA_OK;
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the architecture %s %s experts", known[i].name,
                         g->experts ? "has no" : "needs");
    }
    return error_set(error, HYPURA_ERROR_ARGUMENT,
                     "\"%.40s\" is not a supported architecture; expected llama (with experts: Mixtral), qwen2, "
                     "qwen3, qwen3moe or gpt-oss",
                     g->architecture);
}

static hypura_status check_experts(struct synth_options *options, hypura_error *error)
{
    const struct synth_geometry *g = &options->geometry;
    bool room = g->experts_used * 2 < g->experts;
    if (options->skew < 0)
        options->skew = room ? DEFAULT_SKEW : 0;
    if (options->stickiness < 0)
        options->stickiness = DEFAULT_STICKINESS;
    hypura_status status = check_number("the number of experts used", g->experts_used, 1, g->experts, 1, error);
    if (status || (status = check_number("the number of experts", g->experts, 2, 4096, 1, error)) ||
        (status = check_number("the embedding size of a mixture of experts", g->embedding, 256, 65536, 32, error)))
        return status;
    if (!isfinite(options->skew) || options->skew > 4 || (options->skew > 0 && !room))
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "a skew of %g with %u of %u experts used; expected 0 to 4, and above 0 only if less than half "
                         "of the experts are used",
                         (double)options->skew, g->experts_used, g->experts);
    if (!(options->stickiness <= 1))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a stickiness of %g; expected 0 to 1",
                         (double)options->stickiness);
    return HYPURA_OK;
}

/* Checks the options and sets defaults. */
static hypura_status check_options(struct synth_options *options, hypura_error *error)
{
    struct synth_geometry *g = &options->geometry;
    if (options->recipe)
        return check_number("the number of layers", g->layers, 1, 1000, 1, error);
    hypura_status status = check_architecture(g, error);
    if (status || (status = check_number("the number of layers", g->layers, 1, 1000, 1, error)) ||
        (status = check_number("the embedding size", g->embedding, 64, 65536, 32, error)) ||
        (status = check_number("the number of KV heads", g->kv_heads, 1, 1024, 1, error)) ||
        (status = check_number("the number of heads", g->heads, g->kv_heads, 1024, g->kv_heads, error)) ||
        (status = check_number("the head size", g->head_size, 32, 1024, 32, error)) ||
        (status = check_number("the feed-forward size", g->feed_forward, 32, 1 << 20, 32, error)) ||
        (status = check_number("the context length", g->context, 1, INT32_MAX, 1, error)))
        return status;
    if (!(g->rope_base > 1) || !isfinite(g->rope_base))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a rope base of %g; expected more than 1", (double)g->rope_base);
    if (!(g->norm_epsilon > 0) || !(g->norm_epsilon < 1))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a norm epsilon of %g; expected a small number above 0",
                         (double)g->norm_epsilon);
    return g->experts ? check_experts(options, error) : HYPURA_OK;
}

static enum synth_tokenizer tokenizer_of(const struct synth_geometry *g)
{
    if (strcmp(g->architecture, "gpt-oss") == 0)
        return SYNTH_GPT_OSS;
    if (strncmp(g->architecture, "qwen", 4) == 0)
        return SYNTH_QWEN;
    return g->vocabulary > 65536 ? SYNTH_LLAMA3 : SYNTH_SENTENCEPIECE;
}

/* ---- metadata ---------------------------------------------------------------------------------------------------- */

struct metadata {
    struct gguf_writer *writer;
    const char *architecture;
    hypura_status status;
    hypura_error *error;
};

/* Adds "ARCHITECTURE.KEY", unless an earlier call failed. */
static void add_number(struct metadata *m, const char *key, uint32_t value)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", m->architecture, key);
    if (!m->status)
        m->status = gguf_writer_add_uint32(m->writer, name, value, m->error);
}

static void add_float(struct metadata *m, const char *key, float value)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", m->architecture, key);
    if (!m->status)
        m->status = gguf_writer_add_float(m->writer, name, value, m->error);
}

static hypura_status write_tensors(struct gguf_writer *writer, const struct synth_list *list, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; i < list->count && !status; i++) {
        const struct synth_tensor *tensor = &list->tensors[i];
        status = gguf_writer_add_tensor(writer, tensor->name, tensor->type, tensor->dimensions, tensor->shape, error);
    }
    return status;
}

static hypura_status write_metadata(struct gguf_writer *writer, const struct synth_list *list, hypura_error *error)
{
    const struct synth_geometry *g = &list->options.geometry;
    char name[64];
    snprintf(name, sizeof name, "synthetic %s", list->options.name ? list->options.name : g->architecture);
    hypura_status status;
    if ((status = gguf_writer_add_string(writer, "general.architecture", g->architecture, error)) ||
        (status = gguf_writer_add_string(writer, "general.type", "model", error)) ||
        (status = gguf_writer_add_string(writer, "general.name", name, error)) ||
        (status = gguf_writer_add_uint32(writer, "general.file_type", list->type.file_type, error)) ||
        (status = gguf_writer_add_uint32(writer, "general.quantization_version", 2, error)))
        return status;
    struct metadata m = {writer, g->architecture, HYPURA_OK, error};
    add_number(&m, "vocab_size", g->vocabulary);
    add_number(&m, "context_length", g->context);
    add_number(&m, "embedding_length", g->embedding);
    add_number(&m, "block_count", g->layers);
    if (list->options.recipe) {
        add_number(&m, "expert_count", g->experts);
        add_number(&m, "expert_used_count", g->experts_used);
        if (!m.status)
            m.status = synth_recipe_metadata(writer, list, error);
        return m.status ? m.status : write_tensors(writer, list, error);
    }
    add_number(&m, "feed_forward_length", g->feed_forward);
    add_number(&m, "attention.head_count", g->heads);
    add_number(&m, "attention.head_count_kv", g->kv_heads);
    add_number(&m, "attention.key_length", g->head_size);
    add_number(&m, "attention.value_length", g->head_size);
    add_number(&m, "rope.dimension_count", g->head_size);
    add_float(&m, "rope.freq_base", g->rope_base);
    add_float(&m, "attention.layer_norm_rms_epsilon", g->norm_epsilon);
    if (g->experts) {
        add_number(&m, "expert_count", g->experts);
        add_number(&m, "expert_used_count", g->experts_used);
        if (strcmp(g->architecture, "llama") != 0)
            add_number(&m, "expert_feed_forward_length", g->feed_forward);
    }
    if (strcmp(g->architecture, "gpt-oss") == 0) {
        add_number(&m, "attention.sliding_window", 128);
        add_float(&m, "rope.scaling.factor", 32);
        add_number(&m, "rope.scaling.original_context_length", 4096);
        if (!m.status)
            m.status = gguf_writer_add_string(writer, "gpt-oss.rope.scaling.type", "yarn", error);
    }
    return m.status ? m.status : write_tensors(writer, list, error);
}

/* ---- data -------------------------------------------------------------------------------------------------------- */

struct batch {
    const struct synth_list *list;
    const struct synth_tensor *tensor;
    size_t tensor_index;
    uint64_t piece_rows;
    uint64_t first_piece;
    unsigned char *out;
    float *scratch; /* [workers][scratch_columns] */
    size_t scratch_columns;
};

static double deviation_of(const struct synth_tensor *tensor, uint64_t row)
{
    return row % tensor->period - tensor->band_first < tensor->band_count ? tensor->band_deviation : tensor->deviation;
}

static void fill_random(const struct synth_tensor *tensor, struct random *random, uint64_t first, uint64_t rows,
                        unsigned char *out)
{
    uint64_t blocks = tensor->shape[0] / tensor_type_info(tensor->type)->block_size;
    for (uint64_t row = first; row < first + rows;) {
        double deviation = deviation_of(tensor, row);
        uint64_t run = 1;
        while (row + run < first + rows && deviation_of(tensor, row + run) == deviation)
            run++;
        synth_random_blocks(random, tensor->type, out, run * blocks, (float)deviation);
        for (uint64_t i = 0; i < run && tensor->constant_tail; i++)
            synth_constant_tail(tensor->type, out + i * tensor->row_bytes, tensor->shape[0], (float)deviation);
        out += run * tensor->row_bytes;
        row += run;
    }
}

static void fill_row(const struct synth_list *list, const struct synth_tensor *tensor, struct random *random,
                     uint64_t row, float *values)
{
    const struct synth_options *options = &list->options;
    uint64_t columns = tensor->shape[0];
    switch (tensor->fill) {
    case SYNTH_FILL_ROUTER:
        synth_router_row(&list->router, options, tensor->layer, (uint32_t)row, random, values);
        return;
    case SYNTH_FILL_POSITION:
        synth_position_row(&list->router, options, (uint32_t)(row % options->geometry.head_size), values);
        return;
    case SYNTH_FILL_POSITION_NORM:
        synth_position_norm(&list->router, options, values);
        return;
    case SYNTH_FILL_SLOW_VALUE:
        synth_slow_value_row(options, random, values);
        return;
    case SYNTH_FILL_SLOW_OUTPUT:
        synth_slow_output_row(&list->router, options, (uint32_t)row, random, values);
        return;
    default:
        break;
    }
    if (tensor->fill == SYNTH_FILL_MEAN || tensor->fill == SYNTH_FILL_UNEVEN) {
        /* Row lengths are spread evenly and shuffled by a hash of the row. */
        double length = 1.5 - (double)(row * 2654435761u % 1024) / 1024;
        double deviation = tensor->deviation * (tensor->fill == SYNTH_FILL_UNEVEN ? length : 1);
        for (uint64_t i = 0; i < columns; i++)
            values[i] = (float)(tensor->mean + deviation * random_normal(random));
        return;
    }
    double mean = tensor->fill == SYNTH_FILL_BIAS ? 0 : tensor->fill == SYNTH_FILL_QUERY_NORM ? tensor->deviation : 1;
    double deviation = tensor->fill == SYNTH_FILL_BIAS  ? tensor->deviation
                       : tensor->fill == SYNTH_FILL_ONE ? 0
                                                        : 0.1 * mean;
    for (uint64_t i = 0; i < columns; i++)
        values[i] = (float)(mean + deviation * random_normal(random));
}

/* Chooses distinct experts for each row. */
static void fill_experts(const struct synth_tensor *tensor, uint32_t experts, struct random *random, uint64_t rows,
                         unsigned char *out)
{
    for (uint64_t row = 0; row < rows; row++, out += tensor->row_bytes) {
        uint32_t first = (uint32_t)(random_next(random) % experts), step = experts / (uint32_t)tensor->shape[0];
        for (uint32_t i = 0; i < tensor->shape[0]; i++) {
            uint32_t expert = (first + i * MAX(step, 1u)) % experts;
            memcpy(out + i * sizeof expert, &expert, sizeof expert);
        }
    }
}

static void fill_piece(void *context, size_t index, size_t worker)
{
    const struct batch *batch = context;
    const struct synth_tensor *tensor = batch->tensor;
    uint64_t piece = batch->first_piece + index, first = piece * batch->piece_rows;
    uint64_t rows = MIN(batch->piece_rows, tensor->rows - first);
    unsigned char *out = batch->out + index * batch->piece_rows * tensor->row_bytes;
    struct random random;
    random_seed(&random, batch->list->options.seed);
    random_seed(&random, random_next(&random) ^ ((uint64_t)batch->tensor_index << 32 | piece));
    if (tensor->fill == SYNTH_FILL_RANDOM) {
        fill_random(tensor, &random, first, rows, out);
        return;
    }
    if (tensor->fill == SYNTH_FILL_EXPERT_IDS) {
        fill_experts(tensor, batch->list->options.geometry.experts, &random, rows, out);
        return;
    }
    float *values = batch->scratch + worker * batch->scratch_columns;
    for (uint64_t row = first; row < first + rows; row++, out += tensor->row_bytes) {
        fill_row(batch->list, tensor, &random, row, values);
        synth_encode(tensor->type, out, values, tensor->shape[0]);
    }
}

static uint64_t rows_of_piece(const struct synth_tensor *tensor)
{
    return MAX(1, MIN(tensor->rows, PIECE_BYTES / tensor->row_bytes));
}

static hypura_status write_data(struct gguf_writer *writer, const struct synth_list *list, struct thread_pool *pool,
                                synth_progress progress, void *progress_context, hypura_error *error)
{
    size_t columns = 1, buffer = 1;
    for (size_t i = 0; i < list->count; i++) {
        const struct synth_tensor *tensor = &list->tensors[i];
        columns = MAX(columns, (size_t)tensor->shape[0]);
        buffer = MAX(buffer, (size_t)(rows_of_piece(tensor) * tensor->row_bytes));
    }
    struct batch batch = {.list = list, .scratch_columns = columns};
    hypura_status status = ALLOCATE(&batch.out, buffer * PIECES_AT_ONCE, "weights in work", error);
    if (!status)
        status = ALLOCATE(&batch.scratch, columns * thread_pool_threads(pool), "rows in work", error);
    uint64_t done = 0, total = synth_list_bytes(list);
    for (size_t i = 0; i < list->count && !status; i++) {
        const struct synth_tensor *tensor = &list->tensors[i];
        batch.tensor = tensor;
        batch.tensor_index = i;
        batch.piece_rows = rows_of_piece(tensor);
        uint64_t pieces = (tensor->rows + batch.piece_rows - 1) / batch.piece_rows;
        for (uint64_t first = 0; first < pieces && !status; first += PIECES_AT_ONCE) {
            batch.first_piece = first;
            thread_pool_run(pool, fill_piece, &batch, (size_t)MIN(pieces - first, PIECES_AT_ONCE));
            uint64_t rows = MIN(tensor->rows - first * batch.piece_rows, PIECES_AT_ONCE * batch.piece_rows);
            status = gguf_writer_write(writer, batch.out, rows * tensor->row_bytes, error);
            done += rows * tensor->row_bytes;
            if (!status && progress && !progress(progress_context, done, total))
                status = error_set(error, HYPURA_ERROR_CANCELLED, "stopped after %llu of %llu bytes",
                                   (unsigned long long)done, (unsigned long long)total);
        }
    }
    memory_free(batch.out);
    memory_free(batch.scratch);
    return status;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static hypura_status check_room(const char *path, uint64_t bytes, hypura_error *error)
{
    char folder[4096];
    if (snprintf(folder, sizeof folder, "%s", path) >= (int)sizeof folder)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path of the file is longer than %zu bytes", sizeof folder);
    char *slash = strrchr(folder, '/');
    if (slash == folder)
        slash++;
    if (slash)
        *slash = 0;
    struct statvfs info;
    if (statvfs(slash ? folder : ".", &info))
        return HYPURA_OK; /* the writer will report a problem with the folder */
    uint64_t room = (uint64_t)info.f_bavail * info.f_frsize;
    char wanted[32], found[32];
    if (room < bytes)
        return error_set(error, HYPURA_ERROR_IO, "%.200s: the file needs %s, but the disk has only %s free", path,
                         format_bytes(wanted, sizeof wanted, (double)bytes),
                         format_bytes(found, sizeof found, (double)room));
    return HYPURA_OK;
}

static hypura_status write_file(const char *path, const struct synth_list *list,
                                const struct synth_vocabulary *vocabulary, struct thread_pool *pool,
                                synth_progress progress, void *progress_context, hypura_error *error)
{
    struct gguf_writer *writer;
    hypura_status status = gguf_writer_create(&writer, path, 0, error);
    if (status)
        return status;
    if (!(status = write_metadata(writer, list, error)) &&
        !(status = synth_vocabulary_write(vocabulary, writer, error)) &&
        !(status = write_data(writer, list, pool, progress, progress_context, error)))
        status = gguf_writer_finish(writer, error);
    gguf_writer_destroy(writer);
    return status;
}

static hypura_status prepare(struct synth_list *list, struct synth_vocabulary **vocabulary,
                             const struct synth_options *options, hypura_error *error)
{
    struct synth_options complete = *options;
    hypura_status status = check_options(&complete, error);
    if (status || (status = synth_vocabulary_make(vocabulary, tokenizer_of(&complete.geometry),
                                                  complete.geometry.vocabulary, error)))
        return status;
    if ((status = synth_list_make(list, &complete, *vocabulary, error)))
        synth_vocabulary_free(*vocabulary);
    return status;
}

hypura_status synth_bytes(uint64_t *bytes, const struct synth_options *options, hypura_error *error)
{
    struct synth_list list;
    struct synth_vocabulary *vocabulary;
    hypura_status status = prepare(&list, &vocabulary, options, error);
    if (status)
        return status;
    *bytes = synth_list_bytes(&list);
    synth_list_free(&list);
    synth_vocabulary_free(vocabulary);
    return HYPURA_OK;
}

static hypura_status write_header(int descriptor, const struct synth_list *list,
                                  const struct synth_vocabulary *vocabulary, hypura_error *error)
{
    struct gguf_writer *writer;
    hypura_status status = gguf_writer_create_header(&writer, descriptor, 0, error);
    if (status)
        return status;
    if (!(status = write_metadata(writer, list, error)) &&
        !(status = synth_vocabulary_write(vocabulary, writer, error)))
        status = gguf_writer_finish_header(writer, error);
    gguf_writer_destroy(writer);
    return status;
}

hypura_status synth_header(int *descriptor, char *path, size_t room, const struct synth_options *options,
                           hypura_error *error)
{
    struct synth_list list;
    struct synth_vocabulary *vocabulary;
    hypura_status status = prepare(&list, &vocabulary, options, error);
    if (status)
        return status;
    *descriptor = file_nameless();
    if (*descriptor < 0)
        status = error_set_errno(error, errno, "cannot create the header of a model");
    if (!status)
        status = write_header(*descriptor, &list, vocabulary, error);
    if (status && *descriptor >= 0)
        close(*descriptor);
    snprintf(path, room, "/dev/fd/%d", *descriptor);
    synth_list_free(&list);
    synth_vocabulary_free(vocabulary);
    return status;
}

hypura_status synth_write(const char *path, const struct synth_options *options, synth_progress progress,
                          void *progress_context, hypura_error *error)
{
    struct synth_list list;
    struct synth_vocabulary *vocabulary;
    hypura_status status = prepare(&list, &vocabulary, options, error);
    if (status)
        return status;
    struct thread_pool *pool = NULL;
    if (!(status = check_room(path, synth_list_bytes(&list), error)) &&
        !(status = thread_pool_create(&pool, options->threads ? options->threads : thread_usable_cores(), error)))
        status = write_file(path, &list, vocabulary, pool, progress, progress_context, error);
    thread_pool_destroy(pool);
    synth_list_free(&list);
    synth_vocabulary_free(vocabulary);
    return status;
}
