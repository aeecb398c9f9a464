/* Logits of the rows that are wanted, where the output matrix is on the GPU. */
#include "engine/gpu/pass.h"

static const struct step_output *output_of(const struct engine *engine)
{
    return &steps_find(steps_after(engine->steps), STEP_OUTPUT)->output;
}

/* Rows first to first + count of those whose logits are wanted, as one block. */
static struct gpu_range pick_rows(struct engine *engine, size_t first, size_t count)
{
    struct gpu_pass *pass = engine->pass;
    const uint32_t *wanted = engine->scratch.wanted + first;
    uint64_t width = model_parameters(engine->model)->embedding;
    struct gpu_range from = pass->rows[output_of(engine)->in];
    if (wanted[count - 1] - wanted[0] + 1 == count && wanted[0] * width * sizeof(float) % GPU_ALIGNMENT == 0)
        return range_at(from, wanted[0] * width);
    for (size_t i = 0; i < count; i++)
        gpu_copy(pass->gpu, range_at(pass->picked, i * width), range_at(from, wanted[i] * width),
                 width * sizeof(float));
    gpu_barrier(pass->gpu);
    return pass->picked;
}

static void record_logits(struct engine *engine, size_t first, size_t count)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    const struct step_output *o = output_of(engine);
    uint64_t elements = count * (uint64_t)p->vocabulary;
    struct pass_product product = {.role = ROLE_OUTPUT,
                                   .job = {.weights = pass_matrix(engine, o->unit),
                                           .in = pick_rows(engine, first, count),
                                           .out = pass->logits,
                                           .bias = pass_vector(engine, o->bias),
                                           .tokens = (uint32_t)count,
                                           .in_stride = p->embedding,
                                           .out_stride = p->vocabulary}};
    pass_multiply(engine, -1, &product, 1);
    gpu_barrier(pass->gpu);
    if (o->scale != 1.0f) {
        gpu_scale(pass->gpu, pass->logits, pass->logits, o->scale, elements);
        gpu_barrier(pass->gpu);
    }
    if (o->soft_cap != 0.0f) {
        gpu_soft_cap(pass->gpu, pass->logits, elements, o->soft_cap);
        gpu_barrier(pass->gpu);
    }
    gpu_copy(pass->gpu, pass->back_parts.logits.range, pass->logits, elements * sizeof(float));
}

/* The residual stream as the output's norm leaves it goes back first. */
hypura_status pass_record_output(struct engine *engine, size_t first, size_t count, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    pass_record(pass);
    if (first == 0) {
        TRY(pass_record_steps(engine, pass_steps_after(engine), error));
        pass_settle(pass);
        gpu_copy(pass->gpu, pass->back_parts.hidden.range, pass->rows[output_of(engine)->in],
                 engine->rows * model_parameters(engine->model)->embedding * sizeof(float));
    }
    if (count)
        record_logits(engine, first, count);
    return HYPURA_OK;
}

static hypura_status finish(struct engine *engine, bool last, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    TRY(pass_send(pass, error));
    if (last)
        pass_record_ahead(engine);
    TRY(pass_finish(engine, error));
    pass->ahead.seconds = clock_seconds_since(pass->ahead.begun);
    return HYPURA_OK;
}

hypura_status gpu_pass_output(struct engine *engine, const struct engine_batch *batch, bool *done, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    *done = pass && pass->plan->output && pass->on_device;
    if (!*done)
        return HYPURA_OK;
    pass->hidden_on_device = true;
    size_t first = 0;
    do {
        size_t count = MIN(engine->wanted - first, (size_t)engine->geometry.logits_rows);
        if (!pass->ahead.used)
            TRY(pass_record_output(engine, first, count, error));
        TRY(finish(engine, first + count == engine->wanted, error));
        TRY(give_logits(engine, batch, first, count, pass->back_parts.logits.host, error));
        first += count;
    } while (first < engine->wanted);
    return HYPURA_OK;
}

const float *gpu_pass_logits(const struct engine *engine)
{
    return engine->pass && engine->pass->hidden_on_device ? engine->pass->back_parts.logits.host : NULL;
}

const float *gpu_pass_hidden(const struct engine *engine)
{
    return engine->pass && engine->pass->hidden_on_device ? engine->pass->back_parts.hidden.host : NULL;
}
