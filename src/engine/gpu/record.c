/* The device's executor: the commands of each kind of step, and the barriers between steps. */
#include "engine/gpu/pass.h"

/* ---- barriers ------------------------------------------------------------------------------------------------------
 */

/* Records a barrier if a step needs one. Commands between two barriers run in any order, so a step needs one if it
 * reads what was written since the last, or writes what was read or written since. */
static void wait_for(struct gpu_pass *pass, uint32_t reads, uint32_t writes)
{
    if ((reads & pass->pending_writes) || (writes & (pass->pending_reads | pass->pending_writes)))
        pass_settle(pass);
    pass->pending_reads |= reads;
    pass->pending_writes |= writes;
}

/* ---- steps of few commands ------------------------------------------------------------------------------------------
 */

/* Also makes halves of normed rows, for products that read those. */
static void halve_normed(struct batch *batch, enum step_buffer buffer)
{
    struct gpu_pass *pass = batch->pass;
    if (buffer != BUFFER_NORMED || !pass_takes_halves(batch))
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
    if (n->each) { /* a separate weight for each element of a row */
        const uint32_t row = n->groups * n->width;
        gpu_rms_norm(pass->gpu, out, pass->rows[n->in], (struct gpu_range){0}, (struct gpu_range){0}, rows, n->width,
                     n->epsilon);
        gpu_barrier(pass->gpu);
        gpu_glu(pass->gpu, GLU_PRODUCT, out, pass_vector(batch, n->weight), out, (uint32_t)batch->rows, row, 0, row,
                0.0f, 0.0f);
        return HYPURA_OK;
    }
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
            g->gate.stride, g->up.stride, g->alpha, g->limit);
    return HYPURA_OK;
}

static hypura_status record_function_of(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct step_function *f = &step->function;
    const struct gpu_range values = batch->pass->rows[f->buffer];
    const uint64_t count = batch->rows * (uint64_t)f->width;
    (void)error;
    if (f->function == FUNCTION_SILU)
        gpu_silu(batch->pass->gpu, values, count, f->scale != 0.0f ? f->scale : 1.0f);
    else
        gpu_gelu(batch->pass->gpu, values, count);
    return HYPURA_OK;
}

static hypura_status record_scale(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct step_scale *s = &step->scale;
    const struct gpu_range rows = batch->pass->rows[s->buffer];
    (void)error;
    gpu_scale(batch->pass->gpu, rows, rows, s->by,
              batch->rows * (uint64_t)model_parameters(batch->open->model)->embedding);
    return HYPURA_OK;
}

static hypura_status record_add(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step_add *a = &step->add;
    const uint32_t width = a->width ? a->width : model_parameters(batch->open->model)->embedding;
    (void)error;
    gpu_add(pass->gpu, pass->rows[a->to], pass->rows[a->from], (uint32_t)batch->rows, width, MAX(a->copies, 1u),
            a->scale);
    return HYPURA_OK;
}

static hypura_status record_residual(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_residual *r = &step->residual;
    bool halves = r->out == BUFFER_NORMED && pass_takes_halves(batch);
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

/* A sum of experts that does not go to the residual stream. */
static hypura_status record_mix(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_mix *m = &step->mix;
    (void)error;
    gpu_residual(pass->gpu, &(struct gpu_residual){.hidden = pass->rows[m->out],
                                                   .branch = pass->rows[m->out],
                                                   .out = pass->rows[m->out],
                                                   .scale = 1.0f,
                                                   .rows = (uint32_t)batch->rows,
                                                   .columns = m->width,
                                                   .fresh = true,
                                                   .mix = pass_mix(batch, m)});
    return HYPURA_OK;
}

static hypura_status record_recall(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step_recall *r = &step->recall;
    (void)error;
    gpu_recall(pass->gpu, &(struct gpu_recall){.bank = pass->rows[r->bank],
                                               .in = pass->rows[r->row],
                                               .weight = pass_vector(batch, r->weight),
                                               .out = pass->rows[r->out],
                                               .rows = (uint32_t)batch->rows,
                                               .kept = r->kept,
                                               .room = r->room,
                                               .width = r->width,
                                               .epsilon = r->epsilon});
    return HYPURA_OK;
}

/* ---- the walk ------------------------------------------------------------------------------------------------------
 */

/* The KV cache, as wait_for sees it. */
#define CACHE (1u << 31)

static const struct {
    record_function *record;
    uint32_t reads; /* besides the step's buffers */
} kinds[STEP_KINDS] = {
    [STEP_NORM] = {record_norm},
    [STEP_MULTIPLY] = {pass_record_multiply},
    [STEP_HEADS] = {pass_record_heads},
    [STEP_LOOK_UP] = {pass_record_look_up},
    [STEP_POOL] = {pass_record_pool},
    [STEP_INDEX] = {pass_record_index, .reads = CACHE},
    [STEP_SPREAD] = {pass_record_spread},
    [STEP_ATTEND] = {pass_record_attend, .reads = CACHE},
    [STEP_ATTEND_LATENT] = {pass_record_attend_latent, .reads = CACHE},
    [STEP_CONVOLVE] = {pass_record_convolve},
    [STEP_SCAN] = {pass_record_scan},
    [STEP_COMPRESS] = {pass_record_compress},
    [STEP_DELTA_NET] = {pass_record_delta_net},
    [STEP_GLU] = {record_glu},
    [STEP_FUNCTION] = {record_function_of},
    [STEP_ROUTE] = {pass_record_route},
    [STEP_EXPERTS] = {pass_record_experts},
    [STEP_MIX] = {record_mix},
    [STEP_CHUNK_EXPERTS] = {pass_record_chunk_experts},
    [STEP_RESIDUAL] = {record_residual},
    [STEP_RECALL] = {record_recall},
    [STEP_GATHER] = {pass_record_gather},
    [STEP_SCATTER] = {pass_record_scatter},
    [STEP_GATHER_GATED] = {pass_record_gather_gated},
    [STEP_AGREE] = {pass_record_agree},
    [STEP_PREDICT] = {pass_record_predict},
    [STEP_CORRECT] = {pass_record_correct},
    [STEP_MATCH] = {pass_record_match},
    [STEP_SPARSE] = {pass_record_sparse},
    [STEP_SCALE] = {record_scale},
    [STEP_ADD] = {record_add},
};

/* Whether a step changes the cache. */
static bool stores(const struct step *step)
{
    return (step->kind == STEP_HEADS && step->heads.stores) || step->kind == STEP_COMPRESS || step->kind == STEP_POOL;
}

static void leave_floats(struct gpu_pass *pass, uint32_t writes)
{
    for (enum step_buffer buffer = 0; buffer < BUFFER_COUNT; buffer++)
        if (writes >> buffer & 1)
            pass->state[buffer] = ROWS_FLOATS;
}

bool pass_records(enum step_kind kind)
{
    return (unsigned)kind < STEP_KINDS && kinds[kind].record;
}

hypura_status pass_record_steps(struct batch *batch, struct step_list list, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const bool keeps = !pass->again && keeps_state_inputs(batch);
    for (size_t i = 0; i < list.count; i++) {
        const struct step *step = &list.steps[i];
        bool mixture = step->kind == STEP_ROUTE || step->kind == STEP_EXPERTS;
        if (!kinds[step->kind].record)
            continue; /* layers.c records embeddings, and output.c records logits */
        struct gpu_heads made;
        struct gpu_attention attention;
        if (i + 1 < list.count && pass_join_heads(batch, step, step + 1, &made, &attention)) {
            const struct step *attend = &list.steps[++i];
            wait_for(pass, step->reads | attend->reads | CACHE, step->writes | attend->writes | CACHE);
            leave_floats(pass, step->writes | attend->writes);
            gpu_attention(pass->gpu, &attention);
            continue;
        }
        uint32_t writes = step->writes | (stores(step) ? CACHE : 0);
        if (mixture) /* it has barriers of its own, and sends commands */
            pass_settle(pass);
        else
            wait_for(pass, step->reads | kinds[step->kind].reads, writes);
        leave_floats(pass, step->writes);
        if (keeps && step_state(step))
            pass_move_inputs(batch, step, false);
        TRY(kinds[step->kind].record(batch, step, error));
    }
    return HYPURA_OK;
}
