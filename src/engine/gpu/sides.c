/* Residual streams next to the first one, and sparse gates, as commands. */
#include "engine/gpu/pass.h"

static void record(struct batch *batch, const struct step_sides *s, bool corrects)
{
    const struct gpu_pass *pass = batch->pass;
    const struct gpu_range none = {0};
    gpu_sides(pass->gpu, &(struct gpu_sides){.hidden = pass->rows[BUFFER_HIDDEN],
                                             .side_rows = pass->rows[s->sides],
                                             .branch = corrects ? pass->rows[s->from] : none,
                                             .out = corrects ? pass->rows[s->out] : none,
                                             .norm = pass_vector(batch, s->norm),
                                             .router = pass_vector(batch, s->router),
                                             .coefficients = pass_vector(batch, s->coefficients),
                                             .scale = pass_vector(batch, s->scale),
                                             .rows = (uint32_t)batch->rows,
                                             .sides = s->count,
                                             .width = s->width,
                                             .epsilon = s->epsilon});
}

hypura_status pass_record_predict(struct batch *batch, const struct step *step, hypura_error *error)
{
    (void)error;
    record(batch, &step->sides, false);
    return HYPURA_OK;
}

hypura_status pass_record_correct(struct batch *batch, const struct step *step, hypura_error *error)
{
    (void)error;
    record(batch, &step->sides, true);
    return HYPURA_OK;
}

hypura_status pass_record_sparse(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step_sparse *s = &step->sparse;
    (void)error;
    gpu_sparse(pass->gpu, pass->rows[s->buffer], (uint32_t)batch->rows, s->width, s->deviations);
    return HYPURA_OK;
}

hypura_status pass_record_match(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step_match *m = &step->match;
    (void)error;
    gpu_match_lengths(pass->gpu, pass->rows[m->rows], pass->rows[m->by], (uint32_t)batch->rows, m->parts, m->width);
    return HYPURA_OK;
}
