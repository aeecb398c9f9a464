/* The device's executor: what each kind of step is in commands, and when one has to wait for another. */
#include "engine/gpu/pass.h"

/* ---- who waits for whom --------------------------------------------------------------------------------------------
 */

void pass_settle(struct gpu_pass *pass)
{
    if (pass->pending_reads | pass->pending_writes)
        gpu_barrier(pass->gpu);
    pass->pending_reads = pass->pending_writes = 0;
}

/* Commands between two barriers run in any order: a step that reads what was written since, or writes what was touched,
 * needs one in front. */
static void wait_for(struct gpu_pass *pass, uint32_t reads, uint32_t writes)
{
    if ((reads & pass->pending_writes) || (writes & (pass->pending_reads | pass->pending_writes)))
        pass_settle(pass);
    pass->pending_reads |= reads;
    pass->pending_writes |= writes;
}

/* ---- rows ----------------------------------------------------------------------------------------------------------
 */

struct gpu_range range_at(struct gpu_range range, uint64_t floats)
{
    range.offset += floats * sizeof(float);
    return range;
}

/* The same rows as halves, where products read those; and whether this batch has them. */
static struct gpu_range halves_of(const struct gpu_pass *pass, enum step_buffer buffer)
{
    switch (buffer) {
    case BUFFER_NORMED:
        return pass->normed_halves;
    case BUFFER_GATE:
        return pass->inner_halves;
    case BUFFER_ATTENDED: /* in place of floats */
        return pass->rows[BUFFER_ATTENDED];
    default:
        return (struct gpu_range){0};
    }
}

static bool takes_halves(const struct batch *batch)
{
    return batch->open->geometry.halves && batch->rows > GPU_VECTOR_TOKENS &&
           batch->rows * model_parameters(batch->open->model)->embedding % 8 == 0;
}

struct gpu_range pass_floats(const struct gpu_pass *pass, enum step_buffer buffer)
{
    return pass->state[buffer] == ROWS_HALVES ? (struct gpu_range){0} : pass->rows[buffer];
}

struct gpu_range pass_halves(const struct gpu_pass *pass, enum step_buffer buffer)
{
    return pass->state[buffer] == ROWS_FLOATS ? (struct gpu_range){0} : halves_of(pass, buffer);
}

/* What was normed, as halves too, for products that read those. */
static void halve_normed(struct batch *batch, enum step_buffer buffer)
{
    struct gpu_pass *pass = batch->pass;
    if (buffer != BUFFER_NORMED || !takes_halves(batch))
        return;
    gpu_barrier(pass->gpu);
    gpu_halves(pass->gpu, pass->normed_halves, pass->rows[buffer],
               batch->rows * (uint64_t)model_parameters(batch->open->model)->embedding);
    pass->state[buffer] = ROWS_BOTH;
}

static hypura_status record_norm(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_norm *n = &step->norm;
    struct gpu_range out = pass->rows[n->out];
    uint32_t rows = (uint32_t)batch->rows * n->groups;
    (void)error;
    (n->centred ? gpu_layer_norm : gpu_rms_norm)(pass->gpu, out, pass->rows[n->in], pass_vector(batch, n->weight),
                                                 pass_vector(batch, n->bias), rows, n->width, n->epsilon);
    if (n->scale != 1.0f) {
        gpu_barrier(pass->gpu);
        gpu_scale(pass->gpu, out, out, n->scale, (uint64_t)rows * n->width);
    }
    halve_normed(batch, n->out);
    return HYPURA_OK;
}

static hypura_status record_glu(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_glu *g = &step->glu;
    (void)error;
    if (g->gate_per_group) {
        gpu_glu_rows(pass->gpu, g->kind, pass->rows[g->out], pass->rows[g->gate.buffer], pass->rows[g->up.buffer],
                     (uint32_t)batch->rows * g->groups, g->width);
        return HYPURA_OK;
    }
    gpu_glu(pass->gpu, g->kind, pass->rows[g->out], range_at(pass->rows[g->gate.buffer], g->gate.offset),
            range_at(pass->rows[g->up.buffer], g->up.offset), (uint32_t)batch->rows * g->groups, g->width,
            g->gate.stride, g->up.stride, OAI_ALPHA, g->limit);
    return HYPURA_OK;
}

static hypura_status record_function_of(struct batch *batch, const struct step *step, hypura_error *error)
{
    (void)error;
    gpu_gelu(batch->pass->gpu, batch->pass->rows[step->function.buffer], batch->rows * (uint64_t)step->function.width);
    return HYPURA_OK;
}

static hypura_status record_residual(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_residual *r = &step->residual;
    bool halves = r->out == BUFFER_NORMED && takes_halves(batch);
    struct gpu_residual residual = {.hidden = pass->rows[r->to],
                                    .branch = pass->rows[r->from],
                                    .post_norm = pass_vector(batch, r->post_norm),
                                    .layer_scale = pass_vector(batch, r->layer_scale),
                                    .norm = pass_vector(batch, r->norm),
                                    .out = pass->rows[r->out == BUFFER_NONE ? BUFFER_NORMED : r->out],
                                    .out_halves = halves ? pass->normed_halves : (struct gpu_range){0},
                                    .scale = r->scale,
                                    .epsilon = r->epsilon,
                                    .rows = (uint32_t)batch->rows,
                                    .columns = model_parameters(batch->open->model)->embedding};
    (void)error;
    if (r->mixes)
        residual.mix = pass_mix(batch, &r->mix);
    gpu_residual(pass->gpu, &residual);
    if (halves)
        pass->state[BUFFER_NORMED] = ROWS_BOTH;
    return HYPURA_OK;
}

/* ---- products ------------------------------------------------------------------------------------------------------
 */

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
    struct gpu_range bias = pass_vector(batch, matrix->bias);
    return (struct pass_product){.role = matrix->role,
                                 .first = matrix->first,
                                 .job = {.weights = rows_of_matrix(&whole, matrix->first, matrix->rows),
                                         .in = pass_floats(pass, m->in),
                                         .in_halves = pass_halves(pass, m->in),
                                         .out = pass->rows[matrix->out],
                                         .bias = bias.buffer ? range_at(bias, matrix->first) : bias,
                                         .norm = pass_vector(batch, m->norm),
                                         .epsilon = m->epsilon,
                                         .unpacked = pass->unpacked_bytes ? pass->unpacked : (struct gpu_range){0},
                                         .unpacked_bytes = pass->unpacked_bytes,
                                         .tokens = (uint32_t)batch->rows,
                                         .in_stride = m->stride,
                                         .out_stride = matrix->rows,
                                         .accumulate = m->adds}};
}

bool pass_glu(struct batch *batch, const struct gpu_glu_kind *glu, const struct gpu_matrix *reader,
              uint64_t slot_stride, uint32_t rows, uint32_t inner, bool may_halve)
{
    struct gpu_pass *pass = batch->pass;
    struct gpu_range gate = pass->rows[BUFFER_GATE], up = pass->rows[BUFFER_UP];
    bool halves = may_halve && batch->open->geometry.halves &&
                  gpu_takes_halves(pass->gpu, reader, slot_stride, (uint32_t)batch->rows);
    if (halves)
        gpu_glu_halves(pass->gpu, glu->kind, pass->inner_halves, gate, up, (uint64_t)rows * inner, glu->alpha,
                       glu->limit);
    else
        gpu_glu(pass->gpu, glu->kind, gate, gate, up, rows, inner, inner, inner, glu->alpha, glu->limit);
    return halves;
}

/* The product that reads a buffer next, if it is the next step, and adapters do not read it too. */
static const struct step_multiply *next_product(const struct batch *batch, const struct step *step,
                                                enum step_buffer buffer)
{
    const struct step_multiply *next = &step[1].multiply;
    bool reads = step[1].kind == STEP_MULTIPLY && next->in == buffer && next->count == 1;
    return reads && !pass_is_adapted(batch, step->layer, next->matrices[0].role) ? next : NULL;
}

static hypura_status record_multiply(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_multiply *m = &step->multiply;
    struct pass_product products[PASS_PRODUCTS] = {0};
    bool adapted = false;
    (void)error;
    for (uint32_t i = 0; i < m->count; i++) {
        products[i] = product_of(batch, m, i);
        adapted = adapted || pass_is_adapted(batch, step->layer, m->matrices[i].role);
    }
    const struct gpu_glu_kind glu = {m->glu, OAI_ALPHA, m->limit};
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

/* ---- the walk ------------------------------------------------------------------------------------------------------
 */

/* What the cache of keys and values is to wait_for. */
#define CACHE (1u << 31)

static const struct {
    record_function *record;
    uint32_t reads; /* besides buffers */
} kinds[STEP_KINDS] = {
    [STEP_NORM] = {record_norm},
    [STEP_MULTIPLY] = {record_multiply},
    [STEP_HEADS] = {pass_record_heads},
    [STEP_SPREAD] = {pass_record_spread},
    [STEP_ATTEND] = {pass_record_attend, .reads = CACHE},
    [STEP_ATTEND_LATENT] = {pass_record_attend_latent, .reads = CACHE},
    [STEP_DELTA_NET] = {pass_record_delta_net},
    [STEP_GLU] = {record_glu},
    [STEP_FUNCTION] = {record_function_of},
    [STEP_ROUTE] = {pass_record_route},
    [STEP_EXPERTS] = {pass_record_experts},
    [STEP_RESIDUAL] = {record_residual},
};

bool pass_records(enum step_kind kind)
{
    return (unsigned)kind < STEP_KINDS && kinds[kind].record;
}

hypura_status pass_record_steps(struct batch *batch, struct step_list list, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    for (size_t i = 0; i < list.count; i++) {
        const struct step *step = &list.steps[i];
        bool mixture = step->kind == STEP_ROUTE || step->kind == STEP_EXPERTS;
        if (!kinds[step->kind].record)
            continue; /* embeddings and logits are recorded by those who have tokens and readers */
        uint32_t writes = step->writes | (step->kind == STEP_HEADS && step->heads.stores ? CACHE : 0);
        if (mixture) /* has parts that wait for each other, and sends */
            pass_settle(pass);
        else
            wait_for(pass, step->reads | kinds[step->kind].reads, writes);
        for (enum step_buffer buffer = 0; buffer < BUFFER_COUNT; buffer++)
            if (step->writes >> buffer & 1)
                pass->state[buffer] = ROWS_FLOATS;
        TRY(kinds[step->kind].record(batch, step, error));
    }
    return HYPURA_OK;
}
