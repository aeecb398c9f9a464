/* Tests a device while the model is opened, since the model can still be opened without it then. One row of zeros
 * passes a layer of each kind, as far as the device computes it alone, and the output matrix. No result is kept. */
#include "engine/gpu/pass.h"

#include <string.h>

static bool is_whole(const struct batch *batch, uint32_t number)
{
    return !steps_find(steps_of_layer(batch->open->steps, number), STEP_EXPERTS) ||
           batch->pass->slots[number].count == model_parameters(batch->open->model)->experts;
}

static bool same_steps(struct step_list a, struct step_list b)
{
    if (a.count != b.count)
        return false;
    for (size_t i = 0; i < a.count; i++)
        if (a.steps[i].kind != b.steps[i].kind)
            return false;
    return true;
}

/* Whether an earlier layer is of the same kind. */
static bool is_known(const struct batch *batch, uint32_t number)
{
    for (uint32_t i = 0; i < number; i++)
        if (batch->pass->plan->layers[i] && is_whole(batch, i) == is_whole(batch, number) &&
            same_steps(pass_steps(batch, i), pass_steps(batch, number)))
            return true;
    return false;
}

/* The steps before the router, for a layer whose experts are divided. */
static struct step_list up_to_router(struct step_list list)
{
    const struct step *route = steps_find(list, STEP_ROUTE);
    return (struct step_list){list.steps, route ? (size_t)(route - list.steps) : list.count};
}

static hypura_status run(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    for (uint32_t i = 0; i < model_parameters(batch->open->model)->layers; i++) {
        if (!pass->plan->layers[i] || is_known(batch, i))
            continue;
        if (is_whole(batch, i)) {
            TRY(pass_run_layer(batch, i, error));
        } else {
            pass_to_device(batch);
            TRY(pass_record_steps(batch, up_to_router(pass_steps(batch, i)), error));
        }
    }
    if (pass->plan->output)
        TRY(pass_record_output(batch, 0, 1, error));
    return pass_finish(batch, error);
}

hypura_status pass_try(struct batch *batch, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    const struct engine_batch one = {.tokens = &(int32_t){0}, .count = 1};
    struct scratch *s = &batch->scratch;
    struct trace_writer *trace = batch->trace;
    hypura_error problem;
    batch->trace = NULL;
    batch->asked = &one;
    batch->rows = batch->span_count = 1;
    batch->wanted = 0;
    s->spans[0] = (struct span){.rows = 1};
    s->positions[0] = s->wanted[0] = 0;
    for (size_t i = 0; i < PASS_CARRIED; i++)
        if (s->buffers[pass_carried[i]])
            memset(s->buffers[pass_carried[i]], 0, batch->open->geometry.widths[pass_carried[i]] * sizeof(float));
    if (s->rope[0])
        memset(s->rope[0], 0, p->rotary * sizeof *s->rope[0]);
    if (s->rope[1])
        memset(s->rope[1], 0, p->rotary_local * sizeof *s->rope[1]);
    gpu_pass_begin(batch);
    hypura_status status = run(batch, &problem);
    if (status)
        gpu_pass_abandon(batch);
    batch->rows = batch->span_count = 0;
    batch->trace = trace;
    batch->asked = NULL;
    return status ? error_set(error, HYPURA_ERROR_DEVICE, "%s", problem.message) : HYPURA_OK;
}
