/* Products with matrices, and the gate that may follow. */
#include "engine/gpu/pass.h"

static struct gpu_matrix rows_of_matrix(const struct gpu_matrix *matrix, uint64_t first, uint64_t rows)
{
    struct gpu_matrix part = *matrix;
    part.data.offset += first * matrix->row_bytes;
    part.rows = (uint32_t)rows;
    return part;
}

static struct pass_product product_of(const struct batch *batch, const struct step_multiply *m, uint32_t index)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step_matrix *matrix = &m->matrices[index];
    const struct gpu_matrix whole = pass_matrix(batch, matrix->unit);
    struct pass_product product;
    const struct gpu_range none = {0}, biases = pass_vector(batch, matrix->bias);
    const struct gpu_range bias = biases.buffer ? range_at(biases, matrix->first) : none;
    const bool scaled = matrix->scale != NO_UNIT;
    product = (struct pass_product){.role = matrix->role,
                                    .first = matrix->first,
                                    .scale = pass_vector(batch, matrix->scale),
                                    .scaled_bias = scaled ? bias : none,
                                    .job = {.weights = rows_of_matrix(&whole, matrix->first, matrix->rows),
                                            .in = range_at(pass_floats(pass, m->in), m->offset),
                                            .in_halves = m->offset ? (struct gpu_range){0} : pass_halves(pass, m->in),
                                            .out = pass->rows[matrix->out],
                                            .bias = scaled ? none : bias,
                                            .norm = pass_vector(batch, m->norm.weight),
                                            .epsilon = m->norm.epsilon,
                                            .unpacked = pass->unpacked_bytes ? pass->unpacked : (struct gpu_range){0},
                                            .unpacked_bytes = pass->unpacked_bytes,
                                            .tokens = (uint32_t)batch->rows,
                                            .in_stride = m->stride,
                                            .out_stride = matrix->rows,
                                            .accumulate = m->adds}};
    if (matrix->rows == whole.rows)
        product.job.kept = pass_keep(pass, matrix->unit, &product.job);
    return product;
}

bool pass_glu(struct batch *batch, const struct gpu_glu_kind *glu, const struct gpu_matrix *reader,
              uint64_t slot_stride, uint32_t rows, uint32_t inner, bool may_halve)
{
    struct gpu_pass *pass = batch->pass;
    struct gpu_range gate = pass->rows[BUFFER_GATE], up = pass->rows[BUFFER_UP];
    bool halves =
        may_halve && batch->pass->halves && gpu_takes_halves(pass->gpu, reader, slot_stride, (uint32_t)batch->rows);
    if (halves)
        gpu_glu_halves(pass->gpu, glu->kind, pass->inner_halves, gate, up, (uint64_t)rows * inner, glu->alpha,
                       glu->limit);
    else
        gpu_glu(pass->gpu, glu->kind, gate, gate, up, rows, inner, inner, inner, glu->alpha, glu->limit);
    return halves;
}

/* The next step, if it is a product that reads this buffer, and no adapter reads it, too; else NULL. */
static const struct step_multiply *next_product(const struct batch *batch, const struct step *step,
                                                enum step_buffer buffer)
{
    const struct step_multiply *next = &step[1].multiply;
    bool reads = step[1].kind == STEP_MULTIPLY && next->in == buffer && next->count == 1 && next->groups == 1;
    return reads && !pass_is_adapted(batch, step->layer, next->matrices[0].role) ? next : NULL;
}

/* Multiplies each group of the input's columns with a group of the matrix's rows. */
static void multiply_groups(struct batch *batch, const struct step_multiply *m)
{
    const struct pass_product whole = product_of(batch, m, 0);
    const uint32_t rows = whole.job.weights.rows / m->groups;
    struct gpu_matmul jobs[STEP_GROUPS];
    for (uint32_t g = 0; g < m->groups; g++) {
        jobs[g] = whole.job;
        jobs[g].weights = rows_of_matrix(&whole.job.weights, (uint64_t)g * rows, rows);
        jobs[g].in = range_at(batch->pass->rows[m->in], (uint64_t)g * m->columns);
        jobs[g].in_halves = jobs[g].unpacked = (struct gpu_range){0};
        jobs[g].kept = NULL;
        jobs[g].out = range_at(whole.job.out, (uint64_t)g * rows);
        if (jobs[g].bias.buffer)
            jobs[g].bias = range_at(jobs[g].bias, (uint64_t)g * rows);
    }
    gpu_matmul(batch->pass->gpu, jobs, m->groups);
    pass_scale(batch, &whole, 1);
}

hypura_status pass_record_multiply(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_multiply *m = &step->multiply;
    struct pass_product products[PASS_PRODUCTS] = {0};
    bool adapted = false;
    (void)error;
    if (m->groups > 1) {
        multiply_groups(batch, m);
        return HYPURA_OK;
    }
    for (uint32_t i = 0; i < m->count; i++) {
        products[i] = product_of(batch, m, i);
        adapted = adapted || pass_is_adapted(batch, step->layer, m->matrices[i].role);
    }
    const struct gpu_glu_kind glu = {m->glu, m->alpha, m->limit};
    if (m->gates && !adapted) {
        const struct gpu_matmul jobs[2] = {products[0].job, products[1].job};
        if (gpu_matmul_glu(pass->gpu, jobs, &glu))
            return HYPURA_OK;
    }
    pass_multiply(batch, step->layer, products, m->count);
    if (!m->gates)
        return HYPURA_OK;
    const struct step_multiply *next = next_product(batch, step, BUFFER_GATE);
    struct gpu_matrix reader = next ? pass_matrix(batch, next->matrices[0].unit) : (struct gpu_matrix){0};
    gpu_barrier(pass->gpu);
    if (pass_glu(batch, &glu, &reader, 0, (uint32_t)batch->rows, m->matrices[0].rows, next))
        pass->state[BUFFER_GATE] = ROWS_HALVES;
    return HYPURA_OK;
}

bool pass_may_give_halves(const struct batch *batch, const struct step *step, enum step_buffer buffer)
{
    const struct step_multiply *next = next_product(batch, step, buffer);
    if (!next)
        return false;
    struct gpu_matrix reader = pass_matrix(batch, next->matrices[0].unit);
    return gpu_takes_halves(batch->pass->gpu, &reader, 0, (uint32_t)batch->rows);
}
