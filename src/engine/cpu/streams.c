/* Residual streams (compute.h says how they mix). */
#include "engine/cpu/execute.h"

hypura_status run_gather(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_gather *g = &step->gather;
    struct stream_mixer mixer = {.streams = g->count,
                                 .width = g->width,
                                 .returns = g->returns,
                                 .sinkhorn = g->sinkhorn,
                                 .norm_epsilon = g->norm_epsilon,
                                 .epsilon = g->epsilon,
                                 .back_epsilon = g->back_epsilon,
                                 .magnitude = g->magnitude};
    TRY(hold_vector(batch, held, g->scale, &mixer.scale, error));
    TRY(hold_vector(batch, held, g->base, &mixer.base, error));
    compute_gather_streams(batch->compute, &mixer, rows_of(batch, g->streams), rows_of(batch, g->coefficients),
                           rows_of(batch, g->out), batch->rows);
    return HYPURA_OK;
}

hypura_status run_gather_gated(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_gather_gated *g = &step->gather_gated;
    const bool returns = g->inject != BUFFER_NONE;
    const struct gated_gather gather = {.streams = g->count,
                                        .width = g->width,
                                        .values = rows_of(batch, g->streams),
                                        .gates = rows_of(batch, g->gates),
                                        .inject = returns ? rows_of(batch, g->inject) : NULL,
                                        .coefficients = returns ? rows_of(batch, g->coefficients) : NULL,
                                        .out = rows_of(batch, g->out)};
    (void)held, (void)error;
    compute_gather_gated(batch->compute, &gather, batch->rows);
    return HYPURA_OK;
}

hypura_status run_agree(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_agree *m = &step->agree;
    const struct stream_match match = {.streams = m->count,
                                       .width = m->width,
                                       .keys = rows_of(batch, m->keys),
                                       .queries = rows_of(batch, m->queries),
                                       .values = rows_of(batch, m->values),
                                       .out = rows_of(batch, m->out)};
    (void)held, (void)error;
    compute_match_streams(batch->compute, &match, batch->rows);
    return HYPURA_OK;
}

hypura_status run_scatter(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_scatter *s = &step->scatter;
    const struct stream_mixer mixer = {
        .streams = s->count, .width = s->width, .returns = true, .sinkhorn = s->sinkhorn};
    (void)held, (void)error;
    compute_scatter_streams(batch->compute, &mixer, rows_of(batch, s->streams), rows_of(batch, s->coefficients),
                            rows_of(batch, s->from), batch->rows);
    return HYPURA_OK;
}

hypura_status run_recall(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_recall *r = &step->recall;
    const float *weight;
    TRY(hold_vector(batch, held, r->weight, &weight, error));
    compute_recall(batch->compute, rows_of(batch, r->bank), (size_t)r->room * r->width, r->kept, rows_of(batch, r->row),
                   weight, r->epsilon, rows_of(batch, r->out), batch->rows, r->width);
    return HYPURA_OK;
}
