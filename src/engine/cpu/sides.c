/* Residual streams next to the first one (compute.h describes them). */
#include "engine/cpu/execute.h"

static hypura_status hold_sides(struct batch *batch, const struct step_sides *s, struct held *held,
                                struct side_streams *out, hypura_error *error)
{
    *out = (struct side_streams){.sides = s->count, .width = s->width, .epsilon = s->epsilon};
    TRY(hold_vector(batch, held, s->norm, &out->norm, error));
    TRY(hold_vector(batch, held, s->router, &out->router, error));
    TRY(hold_vector(batch, held, s->coefficients, &out->coefficients, error));
    return hold_vector(batch, held, s->scale, &out->scale, error);
}

hypura_status run_predict(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_sides *s = &step->sides;
    struct side_streams streams;
    TRY(hold_sides(batch, s, held, &streams, error));
    compute_predict_sides(batch->compute, &streams, rows_of(batch, BUFFER_HIDDEN), rows_of(batch, s->sides),
                          batch->rows);
    return HYPURA_OK;
}

hypura_status run_correct(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_sides *s = &step->sides;
    struct side_streams streams;
    TRY(hold_sides(batch, s, held, &streams, error));
    compute_correct_sides(batch->compute, &streams, rows_of(batch, BUFFER_HIDDEN), rows_of(batch, s->sides),
                          rows_of(batch, s->from), rows_of(batch, s->out), batch->rows);
    return HYPURA_OK;
}

hypura_status run_match(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_match *m = &step->match;
    (void)held, (void)error;
    compute_match_lengths(batch->compute, rows_of(batch, m->rows), rows_of(batch, m->by), batch->rows, m->parts,
                          m->width);
    return HYPURA_OK;
}

hypura_status run_sparse(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_sparse *s = &step->sparse;
    (void)held, (void)error;
    compute_sparse(batch->compute, rows_of(batch, s->buffer), batch->rows, s->width, s->deviations);
    return HYPURA_OK;
}
