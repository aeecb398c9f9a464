/* A device that fails at its first batch is one that the model is opened without. So before anybody asks, one row of
 * zeros goes through a layer of each kind, as far as the device computes it alone, and through the output matrix.
 * Nothing of it is kept. */
#include "engine/gpu/pass.h"

#include <string.h>

static bool is_whole(const struct engine *engine, uint32_t number)
{
    return !model_layer(engine->model, number)->moe ||
           engine->pass->slots[number].count == model_parameters(engine->model)->experts;
}

/* Whether a layer before it is like it. */
static bool is_known(const struct engine *engine, uint32_t number)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    for (uint32_t i = 0; i < number; i++) {
        const struct model_layer *other = model_layer(engine->model, i);
        if (gpu_pass_has(engine, i) && other->kind == layer->kind && other->moe == layer->moe &&
            is_whole(engine, i) == is_whole(engine, number))
            return true;
    }
    return false;
}

static hypura_status run(struct engine *engine, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    for (uint32_t i = 0; i < model_parameters(engine->model)->layers; i++) {
        if (!gpu_pass_has(engine, i) || is_known(engine, i))
            continue;
        if (is_whole(engine, i))
            TRY(gpu_pass_layer(engine, i, error));
        else
            pass_attend(engine, i, false);
        pass_record(pass);
        pass_norm_hidden(engine, pass_next_norm(engine, i));
        pass->norm_left = false;
    }
    if (pass->plan->output)
        pass_record_output(engine, 0, 1);
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
