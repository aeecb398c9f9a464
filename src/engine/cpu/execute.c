#include "engine/cpu/execute.h"

#include <string.h>

float *rows_of(struct engine *engine, enum step_buffer buffer)
{
    return engine->scratch.buffers[buffer];
}

/* Inner rows of a feed forward have an activation of their own: what it read is wanted again by the experts. */
static struct input *place_of(struct engine *engine, enum step_buffer buffer)
{
    return &engine->scratch.inputs[buffer == BUFFER_GATE];
}

struct activation *input_of(struct engine *engine, enum step_buffer buffer, size_t columns, size_t stride)
{
    struct input *input = place_of(engine, buffer);
    if (input->buffer != buffer || input->columns != columns || input->stride != stride) {
        activation_set(input->activation, rows_of(engine, buffer), engine->rows, columns, stride);
        input->buffer = buffer;
        input->columns = columns;
        input->stride = stride;
    }
    return input->activation;
}

void forget_inputs(struct engine *engine, uint32_t written)
{
    for (size_t i = 0; i < COUNT_OF(engine->scratch.inputs); i++)
        if (written >> engine->scratch.inputs[i].buffer & 1)
            engine->scratch.inputs[i].buffer = BUFFER_NONE;
}

/* ---- steps that are one call ---------------------------------------------------------------------------------------
 */

static size_t width_of(const struct engine *engine)
{
    return model_parameters(engine->model)->embedding;
}

hypura_status run_norm(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_norm *n = &step->norm;
    const float *weight, *bias, *in = rows_of(engine, n->in);
    float *out = rows_of(engine, n->out);
    size_t rows = engine->rows * n->groups;
    TRY(hold_vector(engine, held, n->weight, &weight, error));
    TRY(hold_vector(engine, held, n->bias, &bias, error));
    if (n->centred) {
        compute_layer_norm(engine->compute, out, in, weight, bias, rows, n->width, n->epsilon);
    } else {
        compute_rms_norm(engine->compute, out, in, weight, rows, n->width, n->epsilon);
        for (size_t r = 0; bias && r < rows; r++)
            compute_add(engine->compute, out + r * n->width, out + r * n->width, bias, n->width);
    }
    if (n->scale != 1.0f)
        compute_scale(engine->compute, out, out, n->scale, rows * n->width);
    return HYPURA_OK;
}

hypura_status run_glu(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_glu *g = &step->glu;
    (void)held, (void)error;
    compute_glu(engine->compute, g->kind, rows_of(engine, g->out), g->width,
                rows_of(engine, g->gate.buffer) + g->gate.offset, g->gate.stride,
                rows_of(engine, g->up.buffer) + g->up.offset, g->up.stride, engine->rows * g->groups, g->width,
                OAI_ALPHA, OAI_LIMIT);
    return HYPURA_OK;
}

hypura_status run_elements(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_function *f = &step->function;
    (void)held, (void)error;
    compute_function(engine->compute, f->function, rows_of(engine, f->buffer), engine->rows * f->width);
    return HYPURA_OK;
}

hypura_status run_scale_rows(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    const float *by = rows_of(engine, step->scale_rows.by);
    float *row = rows_of(engine, step->scale_rows.buffer);
    (void)held, (void)error;
    for (size_t r = 0; r < engine->rows; r++, row += width_of(engine))
        compute_scale(engine->compute, row, row, by[r], width_of(engine));
    return HYPURA_OK;
}

hypura_status run_scale(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    float *rows = rows_of(engine, step->scale.buffer);
    const float *factor;
    TRY(hold_vector(engine, held, step->scale.factor, &factor, error));
    compute_scale(engine->compute, rows, rows, *factor, engine->rows * width_of(engine));
    return HYPURA_OK;
}

hypura_status run_add(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_add *a = &step->add;
    size_t count = engine->rows * width_of(engine);
    float *to = rows_of(engine, a->to), *from = rows_of(engine, a->from);
    (void)held, (void)error;
    if (a->scale != 1.0f)
        compute_scale(engine->compute, from, from, a->scale, count);
    compute_add(engine->compute, to, to, from, count);
    return HYPURA_OK;
}

/* ---- the walk ------------------------------------------------------------------------------------------------------
 */

static step_function *const functions[STEP_KINDS] = {[STEP_EMBED] = run_embed,
                                                     [STEP_ADD_ROWS] = run_add_rows,
                                                     [STEP_NORM] = run_norm,
                                                     [STEP_MULTIPLY] = run_multiply,
                                                     [STEP_HEADS] = run_heads,
                                                     [STEP_SPREAD] = run_spread,
                                                     [STEP_ATTEND] = run_attend,
                                                     [STEP_ATTEND_LATENT] = run_attend_latent,
                                                     [STEP_DELTA_NET] = run_delta_net,
                                                     [STEP_GLU] = run_glu,
                                                     [STEP_FUNCTION] = run_elements,
                                                     [STEP_ROUTE] = run_route,
                                                     [STEP_EXPERTS] = run_experts,
                                                     [STEP_MIX] = run_mix,
                                                     [STEP_SCALE_ROWS] = run_scale_rows,
                                                     [STEP_SCALE] = run_scale,
                                                     [STEP_ADD] = run_add,
                                                     [STEP_OUTPUT] = run_output};

hypura_status execute(struct engine *engine, struct step_list list, hypura_error *error)
{
    struct held held = {0};
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; i < list.count && !status; i++) {
        const struct step *step = &list.steps[i];
        status = functions[step->kind](engine, step, &held, error);
        release(engine, &held);
        forget_inputs(engine, step->writes);
    }
    if (status)
        forget_experts(engine);
    return status;
}
