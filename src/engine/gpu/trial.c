/* A device that fails at its first batch is one that the model is opened without. So before anybody asks, one row of
 * zeros goes through a layer of each kind, as far as the device computes it alone, and through the output matrix.
 * Nothing of it is kept. */
#include "engine/gpu/pass.h"

#include <string.h>

static bool is_whole(const struct engine *engine, uint32_t number)
{
    return !steps_find(steps_of_layer(engine->steps, number), STEP_EXPERTS) ||
           engine->pass->slots[number].count == model_parameters(engine->model)->experts;
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

/* Whether a layer before it is like it. */
static bool is_known(const struct engine *engine, uint32_t number)
{
    for (uint32_t i = 0; i < number; i++)
        if (gpu_pass_has(engine, i) && is_whole(engine, i) == is_whole(engine, number) &&
            same_steps(pass_steps(engine, i), pass_steps(engine, number)))
            return true;
    return false;
}

/* Of a layer whose experts are divided what comes before the router. */
static struct step_list up_to_router(struct step_list list)
{
    const struct step *route = steps_find(list, STEP_ROUTE);
    return (struct step_list){list.steps, route ? (size_t)(route - list.steps) : list.count};
}

static hypura_status run(struct engine *engine, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    for (uint32_t i = 0; i < model_parameters(engine->model)->layers; i++) {
        if (!gpu_pass_has(engine, i) || is_known(engine, i))
            continue;
        if (is_whole(engine, i)) {
            TRY(gpu_pass_layer(engine, i, error));
        } else {
            pass_to_device(engine);
            TRY(pass_record_steps(engine, up_to_router(pass_steps(engine, i)), error));
        }
    }
    if (pass->plan->output)
        TRY(pass_record_output(engine, 0, 1, error));
    return pass_finish(engine, error);
}

hypura_status pass_try(struct engine *engine, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    struct trace_writer *trace = engine->trace;
    hypura_error problem;
    engine->trace = NULL;
    engine->rows = engine->span_count = 1;
    engine->wanted = 0;
    s->spans[0] = (struct span){.rows = 1};
    s->positions[0] = s->wanted[0] = 0;
    memset(s->buffers[BUFFER_HIDDEN], 0, p->embedding * sizeof(float));
    if (s->rope[0])
        memset(s->rope[0], 0, p->rotary * sizeof *s->rope[0]);
    if (s->rope[1])
        memset(s->rope[1], 0, p->rotary_local * sizeof *s->rope[1]);
    gpu_pass_begin(engine);
    hypura_status status = run(engine, &problem);
    if (status)
        gpu_pass_abandon(engine);
    engine->rows = engine->span_count = 0;
    engine->trace = trace;
    return status ? error_set(error, HYPURA_ERROR_DEVICE, "%s", problem.message) : HYPURA_OK;
}
