#include "engine/cpu/execute.h"

#include "engine/cluster/share.h"

#include <string.h>

/* ---- steps that are one call ---------------------------------------------------------------------------------------
 */

static size_t width_of(const struct batch *batch)
{
    return model_parameters(batch->open->model)->embedding;
}

hypura_status run_norm(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_norm *n = &step->norm;
    const float *weight, *bias, *in = rows_of(batch, n->in);
    float *out = rows_of(batch, n->out);
    size_t rows = batch->rows * n->groups;
    TRY(hold_vector(batch, held, n->weight, &weight, error));
    TRY(hold_vector(batch, held, n->bias, &bias, error));
    if (n->each) { /* a separate weight for each element of a row */
        compute_rms_norm(batch->compute, out, in, NULL, rows, n->width, n->epsilon);
        size_t row = (size_t)n->groups * n->width;
        compute_glu(batch->compute, GLU_PRODUCT, out, row, weight, 0, out, row, batch->rows, row, 0.0f, 0.0f);
    } else if (n->centred) {
        compute_layer_norm(batch->compute, out, in, weight, bias, rows, n->width, n->epsilon);
    } else {
        compute_rms_norm(batch->compute, out, in, weight, rows, n->width, n->epsilon);
        for (size_t r = 0; bias && r < rows; r++)
            compute_add(batch->compute, out + r * n->width, out + r * n->width, bias, n->width);
    }
    if (n->scale != 1.0f)
        compute_scale(batch->compute, out, out, n->scale, rows * n->width);
    return HYPURA_OK;
}

hypura_status run_glu(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_glu *g = &step->glu;
    (void)held, (void)error;
    if (g->gate_per_group) {
        compute_glu_rows(batch->compute, g->kind, rows_of(batch, g->out), rows_of(batch, g->gate.buffer),
                         rows_of(batch, g->up.buffer), batch->rows * g->groups, g->width);
        return HYPURA_OK;
    }
    compute_glu(batch->compute, g->kind, rows_of(batch, g->out), g->width,
                rows_of(batch, g->gate.buffer) + g->gate.offset, g->gate.stride,
                rows_of(batch, g->up.buffer) + g->up.offset, g->up.stride, batch->rows * g->groups, g->width, g->alpha,
                g->limit);
    return HYPURA_OK;
}

hypura_status run_elements(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_function *f = &step->function;
    (void)held, (void)error;
    float *values = rows_of(batch, f->buffer);
    if (f->scale != 0.0f && f->scale != 1.0f)
        compute_scale(batch->compute, values, values, f->scale, batch->rows * f->width);
    compute_function(batch->compute, f->function, values, batch->rows * f->width);
    return HYPURA_OK;
}

hypura_status run_scale_rows(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const float *by = rows_of(batch, step->scale_rows.by);
    float *row = rows_of(batch, step->scale_rows.buffer);
    (void)held, (void)error;
    for (size_t r = 0; r < batch->rows; r++, row += width_of(batch))
        compute_scale(batch->compute, row, row, by[r], width_of(batch));
    return HYPURA_OK;
}

hypura_status run_scale(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    float *rows = rows_of(batch, step->scale.buffer);
    const float *factor = NULL;
    TRY(hold_vector(batch, held, step->scale.factor, &factor, error));
    compute_scale(batch->compute, rows, rows, factor ? *factor : step->scale.by, batch->rows * width_of(batch));
    return HYPURA_OK;
}

hypura_status run_add(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_add *a = &step->add;
    size_t width = a->width ? a->width : width_of(batch), count = batch->rows * width;
    float *to = rows_of(batch, a->to), *from = rows_of(batch, a->from);
    (void)held, (void)error;
    if (a->scale != 1.0f)
        compute_scale(batch->compute, from, from, a->scale, count);
    if (a->copies <= 1) {
        compute_add(batch->compute, to, to, from, count);
        return HYPURA_OK;
    }
    for (size_t r = 0; r < batch->rows; r++, from += width)
        for (uint32_t copy = 0; copy < a->copies; copy++, to += width)
            compute_add(batch->compute, to, to, from, width);
    return HYPURA_OK;
}

hypura_status run_join(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_join *j = &step->join;
    const enum step_buffer in[] = {j->first, j->second};
    const unit_number norms[] = {j->first_norm, j->second_norm};
    float *normed = rows_of(batch, j->normed), *out = rows_of(batch, j->out);
    for (size_t half = 0; half < COUNT_OF(in); half++) {
        const float *weight;
        TRY(hold_vector(batch, held, norms[half], &weight, error));
        compute_rms_norm(batch->compute, normed, rows_of(batch, in[half]), weight, batch->rows, j->width, j->epsilon);
        for (size_t r = 0; r < batch->rows; r++)
            memcpy(out + (2 * r + half) * j->width, normed + r * j->width, j->width * sizeof *out);
    }
    return HYPURA_OK;
}

/* ---- the walk ------------------------------------------------------------------------------------------------------
 */

static step_function *const functions[STEP_KINDS] = {[STEP_EMBED] = run_embed,
                                                     [STEP_LOOK_UP] = run_look_up,
                                                     [STEP_ADD_ROWS] = run_add_rows,
                                                     [STEP_NORM] = run_norm,
                                                     [STEP_MULTIPLY] = run_multiply,
                                                     [STEP_HEADS] = run_heads,
                                                     [STEP_POOL] = run_pool,
                                                     [STEP_INDEX] = run_index,
                                                     [STEP_SPREAD] = run_spread,
                                                     [STEP_ATTEND] = run_attend,
                                                     [STEP_ATTEND_LATENT] = run_attend_latent,
                                                     [STEP_CONVOLVE] = run_convolve,
                                                     [STEP_SCAN] = run_scan,
                                                     [STEP_DELTA_NET] = run_delta_net,
                                                     [STEP_GLU] = run_glu,
                                                     [STEP_FUNCTION] = run_elements,
                                                     [STEP_ROUTE] = run_route,
                                                     [STEP_EXPERTS] = run_experts,
                                                     [STEP_MIX] = run_mix,
                                                     [STEP_SCALE_ROWS] = run_scale_rows,
                                                     [STEP_SCALE] = run_scale,
                                                     [STEP_ADD] = run_add,
                                                     [STEP_COMPRESS] = run_compress,
                                                     [STEP_GATHER] = run_gather,
                                                     [STEP_RECALL] = run_recall,
                                                     [STEP_GATHER_GATED] = run_gather_gated,
                                                     [STEP_AGREE] = run_agree,
                                                     [STEP_SCATTER] = run_scatter,
                                                     [STEP_CHUNK_EXPERTS] = run_chunk_experts,
                                                     [STEP_PREDICT] = run_predict,
                                                     [STEP_CORRECT] = run_correct,
                                                     [STEP_MATCH] = run_match,
                                                     [STEP_SPARSE] = run_sparse,
                                                     [STEP_JOIN] = run_join,
                                                     [STEP_OUTPUT] = run_output};

static hypura_status run_step(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct held held = {0};
    hypura_status status = functions[step->kind](batch, step, &held, error);
    release(batch, &held);
    forget_inputs(batch, step->writes);
    return status;
}

hypura_status execute(struct batch *batch, struct step_list list, hypura_error *error)
{
    const bool keeps = keeps_state_inputs(batch);
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; i < list.count && !status; i++) {
        uint32_t rank;
        const size_t away = batch->share ? share_run(batch, list, i, &rank) : 0;
        if (away) {
            status = share_compute(batch, list, i, away, rank, error);
            i += away - 1;
            continue;
        }
        if (keeps && step_state(&list.steps[i]))
            keep_inputs(batch, &list.steps[i]);
        batch->then = find_next_product(batch, list, i);
        status = run_step(batch, &list.steps[i], error);
    }
    batch->then = NULL;
    if (status)
        forget_experts(batch);
    return status;
}

hypura_status execute_again(struct batch *batch, struct step_list list, hypura_error *error)
{
    for (size_t i = 0; i < list.count; i++)
        if (step_state(&list.steps[i])) {
            bring_inputs(batch, &list.steps[i]);
            TRY(run_step(batch, &list.steps[i], error));
        }
    return HYPURA_OK;
}
