#include "engine/cpu/execute.h"

/* The most matrices, or pieces of them, per parallel section. */
#define PARTS_MAX 32u

/* The most bytes of pieces per section: while some are held, the ring has no room for the next ones. */
#define PARTS_BYTES ((uint64_t)32 << 20)

struct parts {
    unit_number units[PARTS_MAX];
    struct matmul jobs[PARTS_MAX];
    uint32_t unit_count, job_count;
    uint64_t bytes; /* of pieces only */
};

static void put_parts(struct batch *batch, struct parts *parts)
{
    for (uint32_t i = 0; i < parts->unit_count; i++)
        store_put(batch->open->store, parts->units[i]);
    parts->unit_count = parts->job_count = 0;
    parts->bytes = 0;
}

static void compute_parts(struct batch *batch, struct parts *parts)
{
    if (parts->job_count) {
        expect_next(batch);
        compute_matmul(batch->compute, parts->jobs, parts->job_count);
    }
    put_parts(batch, parts);
}

/* Gets a unit. Before it waits for one, it computes and releases all that it has: that takes the time of the read, and
 * frees room for it. */
static hypura_status get_part(struct batch *batch, struct parts *parts, unit_number unit, struct store_view *view,
                              hypura_error *error)
{
    if (!store_get_ready(batch->open->store, unit, view)) {
        compute_parts(batch, parts);
        TRY(store_get(batch->open->store, unit, view, error));
    }
    parts->units[parts->unit_count++] = unit;
    return HYPURA_OK;
}

/* Adds jobs for rows of a tensor, from "from" on, which several products may read. */
static void add_rows(struct parts *parts, const struct product *products, size_t count, unit_number unit,
                     const struct matrix *rows, size_t from)
{
    for (size_t i = 0; i < count; i++) {
        const struct product *product = &products[i];
        size_t first = MAX(from, product->first);
        size_t end = MIN(from + rows->rows, product->first + product->job.weights.rows);
        if (product->unit != unit || first >= end)
            continue;
        struct matmul *job = &parts->jobs[parts->job_count++];
        *job = product->job;
        job->weights = matrix_rows(rows, first - from, end - first);
        job->output += first - product->first;
        job->bias = job->bias ? job->bias + (first - product->first) : NULL;
    }
}

/* Whether a product reads any of this many rows of a tensor from "from" on. */
static bool wanted_rows(const struct product *products, size_t count, unit_number unit, size_t from, size_t rows)
{
    for (size_t i = 0; i < count; i++)
        if (products[i].unit == unit && products[i].first < from + rows &&
            from < products[i].first + products[i].job.weights.rows)
            return true;
    return false;
}

static hypura_status multiply_unit(struct batch *batch, struct parts *parts, const struct product *products,
                                   size_t count, unit_number unit, hypura_error *error)
{
    struct matrix whole = unit_matrix(batch, unit, NULL);
    struct store_pieces pieces = store_pieces(batch->open->store, unit);
    size_t rows = pieces.count > 1 ? (size_t)(pieces.bytes / whole.row_bytes) : whole.rows;
    for (uint32_t piece = 0; piece < pieces.count; piece++) {
        struct store_view view;
        if (!wanted_rows(products, count, unit, piece * rows, rows))
            continue;
        bool full = pieces.count > 1 && parts->bytes + pieces.bytes > PARTS_BYTES;
        if (full || parts->unit_count == PARTS_MAX || parts->job_count + count > PARTS_MAX)
            compute_parts(batch, parts);
        TRY(get_part(batch, parts, pieces.first + piece, &view, error));
        parts->bytes += pieces.count > 1 ? pieces.bytes : 0;
        size_t from = piece * rows;
        struct matrix part = unit_matrix(batch, unit, view.slices[0]);
        part.rows = MIN(rows, whole.rows - from);
        add_rows(parts, products, count, unit, &part, from);
    }
    return HYPURA_OK;
}

static bool is_first_of_unit(const struct product *products, size_t index)
{
    for (size_t i = 0; i < index; i++)
        if (products[i].unit == products[index].unit)
            return false;
    return true;
}

/* Whether a product reads another tensor or other rows than those before it. */
static bool reads_anew(const struct product *products, size_t index)
{
    for (size_t i = 0; i < index; i++)
        if (products[i].unit == products[index].unit && products[i].job.input == products[index].job.input &&
            products[i].job.input_rows == products[index].job.input_rows)
            return false;
    return true;
}

/* ---- scales of matrices ---------------------------------------------------------------------------------------------
 */

/* A parallel section costs about as much as this many elements. */
#define PARALLEL_ELEMENTS ((size_t)16 << 10)

struct scaling {
    const struct matmul *job;
    const float *bias;
    float scale;
};

static void scale_row(void *context, size_t row, size_t worker)
{
    const struct scaling *scaling = context;
    const struct matmul *job = scaling->job;
    float *out = job->output + (job->output_rows ? job->output_rows[row] : row) * job->output_stride;
    (void)worker;
    for (size_t c = 0; c < job->weights.rows; c++)
        out[c] *= scaling->scale;
    for (size_t c = 0; scaling->bias && c < job->weights.rows; c++)
        out[c] += scaling->bias[c];
}

void scale_job(struct batch *batch, const struct matmul *job, float scale, const float *bias)
{
    struct scaling scaling = {job, bias, scale};
    if (job->tokens * job->weights.rows < PARALLEL_ELEMENTS)
        for (size_t row = 0; row < job->tokens; row++)
            scale_row(&scaling, row, 0);
    else
        thread_pool_run(compute_pool(batch->compute), scale_row, &scaling, job->tokens);
}

/* ---- products ------------------------------------------------------------------------------------------------------
 */

hypura_status multiply(struct batch *batch, int32_t layer, struct product *products, size_t count, hypura_error *error)
{
    struct parts parts = {.unit_count = 0};
    const float *biases[MAX((size_t)STEP_GROUPS, (size_t)STEP_MATRICES)];
    for (size_t i = 0; i < count; i++) {
        biases[i] = products[i].job.bias;
        if (products[i].scale)
            products[i].job.bias = NULL;
    }
    for (size_t i = 0; i < count; i++) {
        struct matrix *weights = &products[i].job.weights;
        *weights = unit_matrix(batch, products[i].unit, NULL);
        weights->rows = products[i].rows ? products[i].rows : weights->rows;
        if (!products[i].job.output_stride)
            products[i].job.output_stride = weights->rows;
    }
    for (size_t i = 0; i < count; i++) {
        hypura_status status = HYPURA_OK;
        if (is_first_of_unit(products, i))
            status = multiply_unit(batch, &parts, products, count, products[i].unit, error);
        if (status) {
            put_parts(batch, &parts);
            return status;
        }
    }
    compute_parts(batch, &parts);
    for (size_t i = 0; i < count; i++) {
        if (products[i].scale)
            scale_job(batch, &products[i].job, *products[i].scale, biases[i]);
        adapt(batch, &products[i].job, layer, products[i].role, 0, products[i].first);
        if (reads_anew(products, i))
            watch_inputs(batch, &model_unit(batch->open->model, products[i].unit)->slices[0], 0, &products[i].job);
    }
    return HYPURA_OK;
}

/* Multiplies each group of the input's columns with a group of the matrix's rows. The input is taken as rows of one
 * group each. */
static hypura_status multiply_groups(struct batch *batch, const struct step *step, struct held *held,
                                     hypura_error *error)
{
    const struct step_multiply *m = &step->multiply;
    const struct step_matrix *matrix = &m->matrices[0];
    struct scratch *s = &batch->scratch;
    struct product products[STEP_GROUPS] = {0};
    const uint32_t groups = m->groups, rows = matrix->rows / groups;
    const float *scale;
    TRY(hold_vector(batch, held, matrix->scale, &scale, error));
    activation_set(s->group_input, rows_of(batch, m->in), batch->rows * groups, m->columns, m->columns);
    for (uint32_t g = 0; g < groups; g++) {
        uint32_t *numbers = s->group_rows + g * batch->rows;
        for (uint32_t r = 0; r < batch->rows; r++)
            numbers[r] = r * groups + g;
        products[g] = (struct product){.unit = matrix->unit,
                                       .role = matrix->role,
                                       .first = g * rows,
                                       .rows = rows,
                                       .scale = scale,
                                       .job = {.input = s->group_input,
                                               .input_rows = numbers,
                                               .tokens = batch->rows,
                                               .output = rows_of(batch, matrix->out),
                                               .output_stride = rows,
                                               .output_rows = numbers}};
    }
    return multiply(batch, step->layer, products, groups, error);
}

hypura_status run_multiply(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_multiply *m = &step->multiply;
    struct product products[STEP_MATRICES] = {0};
    if (m->groups > 1)
        return multiply_groups(batch, step, held, error);
    struct activation *input = input_of(batch, m->in, m->columns, m->stride, m->offset);
    for (uint32_t i = 0; i < m->count; i++) {
        const struct step_matrix *matrix = &m->matrices[i];
        const float *bias, *scale;
        TRY(hold_vector(batch, held, matrix->bias, &bias, error));
        TRY(hold_vector(batch, held, matrix->scale, &scale, error));
        products[i] = (struct product){.unit = matrix->unit,
                                       .role = matrix->role,
                                       .first = matrix->first,
                                       .rows = matrix->rows,
                                       .scale = scale,
                                       .job = {.input = input,
                                               .tokens = batch->rows,
                                               .output = rows_of(batch, matrix->out),
                                               .output_stride = matrix->rows,
                                               .bias = bias ? bias + matrix->first : NULL}};
    }
    return multiply(batch, step->layer, products, m->count, error);
}
