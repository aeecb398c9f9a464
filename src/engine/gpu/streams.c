/* Residual streams as commands. */
#include "engine/gpu/pass.h"

hypura_status pass_record_gather(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step_gather *g = &step->gather;
    (void)error;
    gpu_gather(pass->gpu, &(struct gpu_streams){.streams = pass->rows[g->streams],
                                                .coefficients = pass->rows[g->coefficients],
                                                .row = pass->rows[g->out],
                                                .scale = pass_vector(batch, g->scale),
                                                .base = pass_vector(batch, g->base),
                                                .rows = (uint32_t)batch->rows,
                                                .count = g->count,
                                                .width = g->width,
                                                .sinkhorn = g->sinkhorn,
                                                .returns = g->returns,
                                                .norm_epsilon = g->norm_epsilon,
                                                .epsilon = g->epsilon,
                                                .back_epsilon = g->back_epsilon,
                                                .magnitude = g->magnitude});
    return HYPURA_OK;
}

hypura_status pass_record_scatter(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step_scatter *s = &step->scatter;
    (void)error;
    gpu_scatter(pass->gpu, &(struct gpu_streams){.streams = pass->rows[s->streams],
                                                 .coefficients = pass->rows[s->coefficients],
                                                 .row = pass->rows[s->from],
                                                 .rows = (uint32_t)batch->rows,
                                                 .count = s->count,
                                                 .width = s->width,
                                                 .sinkhorn = s->sinkhorn});
    return HYPURA_OK;
}

hypura_status pass_record_gather_gated(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step_gather_gated *g = &step->gather_gated;
    (void)error;
    gpu_gather_gated(pass->gpu, &(struct gpu_gated_gather){.streams = pass->rows[g->streams],
                                                           .gates = pass->rows[g->gates],
                                                           .inject = g->inject == BUFFER_NONE ? (struct gpu_range){0}
                                                                                              : pass->rows[g->inject],
                                                           .coefficients = pass->rows[g->coefficients],
                                                           .out = pass->rows[g->out],
                                                           .rows = (uint32_t)batch->rows,
                                                           .count = g->count,
                                                           .width = g->width});
    return HYPURA_OK;
}

hypura_status pass_record_agree(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step_agree *a = &step->agree;
    (void)error;
    gpu_agree(pass->gpu, &(struct gpu_agreement){.keys = pass->rows[a->keys],
                                                 .queries = pass->rows[a->queries],
                                                 .values = pass->rows[a->values],
                                                 .out = pass->rows[a->out],
                                                 .rows = (uint32_t)batch->rows,
                                                 .count = a->count,
                                                 .width = a->width});
    return HYPURA_OK;
}
