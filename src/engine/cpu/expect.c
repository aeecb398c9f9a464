/* Which matrices are multiplied next: compute has waiting threads ask for them. */
#include "engine/cpu/execute.h"
#include "engine/gpu/pass.h"

static bool multiplies(const struct step *step)
{
    return step->kind == STEP_MULTIPLY || step->kind == STEP_ROUTE || step->kind == STEP_EXPERTS ||
           step->kind == STEP_CHUNK_EXPERTS || step->kind == STEP_ATTEND_LATENT || step->kind == STEP_OUTPUT;
}

static const struct step *find_product(struct step_list list, size_t first)
{
    for (size_t i = first; i < list.count; i++)
        if (multiplies(&list.steps[i]))
            return &list.steps[i];
    return NULL;
}

const struct step *find_next_product(const struct batch *batch, struct step_list list, size_t i)
{
    if (!multiplies(&list.steps[i]))
        return NULL;
    const struct step *next = find_product(list, i + 1);
    const uint32_t layer = (uint32_t)(list.steps[i].layer + 1);
    if (!next && list.steps[i].layer >= 0 && layer < model_parameters(batch->open->model)->layers &&
        !gpu_pass_has(batch, layer))
        next = find_product(steps_of_layer(batch->open->steps, layer), 0);
    return next && (next->kind == STEP_MULTIPLY || next->kind == STEP_ROUTE) ? next : NULL;
}

/* Adds rows of a matrix that is in memory and stays there. */
static void add(const struct batch *batch, unit_number unit, uint32_t first, uint32_t rows, struct matrix *out,
                size_t *count)
{
    struct store_view view;
    if (!store_get_ready(batch->open->store, unit, &view))
        return;
    const struct matrix whole = unit_matrix(batch, unit, view.slices[0]);
    out[(*count)++] = matrix_rows(&whole, first, rows ? rows : whole.rows);
    store_put(batch->open->store, unit);
}

void expect_next(struct batch *batch)
{
    const struct step *step = batch->then;
    struct matrix weights[STEP_MATRICES];
    size_t count = 0;
    /* If the drive reads, its buffers and threads need the time, and units come and go. */
    if (step && batch->open->plan->mode == PLAN_FULL_RESIDENT) {
        if (step->kind == STEP_ROUTE)
            add(batch, step->route.router, 0, 0, weights, &count);
        for (uint32_t i = 0; step->kind == STEP_MULTIPLY && i < step->multiply.count; i++)
            add(batch, step->multiply.matrices[i].unit, step->multiply.matrices[i].first,
                step->multiply.matrices[i].rows, weights, &count);
    }
    compute_expect(batch->compute, weights, count, batch->rows);
}
