/* Passes the residual stream through the device's layers. */
#include "engine/gpu/pass.h"

/* The most layers per batch of commands: the device computes one batch while the next is recorded. Drivers reset a
 * device that takes some seconds for a batch, so a long prompt on a slow device gets fewer layers. */
#define LAYERS_A_BATCH 4u
#define BATCH_SECONDS 1.0

hypura_status gpu_pass_embed(struct batch *batch, const int32_t *tokens, bool *done, hypura_error *error)
{
    const struct step_embed *embed = &steps_before(batch->open->steps).steps->embed;
    unit_number unit = embed->unit;
    (void)error;
    *done = false;
    if (!batch->pass || steps_before(batch->open->steps).count > 1)
        return HYPURA_OK;
    const uint8_t there = batch->open->plan->gpu->units[unit];
    struct gpu_pass *pass = there ? batch->passes[there - 1] : NULL;
    if (!pass || !pass->plan->layers[0]) /* tied to the output of a later device */
        return HYPURA_OK;
    batch->pass = pass;
    struct gpu_matrix matrix = pass_matrix(batch, unit);
    *done = gpu_embed_supports(matrix.type, matrix.row_bytes);
    if (!*done)
        return HYPURA_OK;
    pass->on_device = true;
    if (pass_runs_ahead(pass)) {
        pass_send_part(batch, pass->tokens, &pass->up_parts.tokens, tokens, sizeof *tokens);
        return HYPURA_OK;
    }
    pass_record(pass);
    pass_send_part(batch, pass->tokens, &pass->up_parts.tokens, tokens, sizeof *tokens);
    gpu_barrier(pass->gpu);
    gpu_embed(pass->gpu, &matrix, pass->tokens, pass->rows[BUFFER_HIDDEN], (uint32_t)batch->rows, embed->scale);
    gpu_barrier(pass->gpu);
    return HYPURA_OK;
}

static uint32_t layers_a_batch(const struct batch *batch)
{
    double seconds =
        (double)batch->rows * batch->pass->layer_work / MAX(batch->pass->device->multiply_adds_per_second, 1.0);
    return seconds * LAYERS_A_BATCH > BATCH_SECONDS ? MAX((uint32_t)(BATCH_SECONDS / seconds), 1u) : LAYERS_A_BATCH;
}

static hypura_status record_layer(struct batch *batch, uint32_t number, hypura_error *error)
{
    const struct step_list list = pass_steps(batch, number);
    const struct step *route = steps_find(list, STEP_ROUTE);
    const size_t before = route ? (size_t)(route - list.steps) : list.count;
    TRY(pass_record_steps(batch, (struct step_list){list.steps, before}, error));
    if (!route)
        return HYPURA_OK;
    TRY(pass_ask_routers(batch, number, error));
    return pass_record_steps(batch, (struct step_list){route, list.count - before}, error);
}

/* Starts a run whose commands were recorded ahead. */
static hypura_status start_ahead(struct batch *batch, uint32_t first, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    struct ahead *ahead = &pass->ahead;
    pass->open = !ahead->sent;
    if (pass->open)
        TRY(pass_fill_table(batch, first, plan_gpu_run_end(batch->open->plan->gpu, first), error));
    pass_to_device(batch);
    if (ahead->value)
        TRY(gpu_signal_host(pass->gpu, ahead->value, error));
    ahead->sent = false;
    return pass_send(pass, error);
}

hypura_status pass_run_layer(struct batch *batch, uint32_t number, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    if (pass_runs_ahead(pass))
        return pass->on_device && pass->inputs_sent ? HYPURA_OK : start_ahead(batch, number, error);
    pass_to_device(batch);
    if (number == batch->narrowing.layer)
        TRY(pass_record_narrowing(batch, pass_steps(batch, number), error));
    else
        TRY(record_layer(batch, number, error));
    /* The first layer is sent alone, so that the device starts early. */
    uint32_t most = pass->sent == 0 ? 1 : layers_a_batch(batch);
    return ++pass->recorded >= most && !pass->ahead.recording ? pass_send(pass, error) : HYPURA_OK;
}

hypura_status gpu_pass_again(struct batch *batch, uint32_t number, hypura_error *error)
{
    pass_choose(batch, number);
    struct gpu_pass *pass = batch->pass;
    const struct step_list list = pass_steps(batch, number);
    pass->again = true;
    for (size_t i = 0; i < list.count; i++) {
        if (!step_state(&list.steps[i]))
            continue;
        pass_record(pass);
        pass_settle(pass); /* the previous step reads the buffers that are restored */
        pass_move_inputs(batch, &list.steps[i], true);
        TRY(pass_record_steps(batch, (struct step_list){&list.steps[i], 1}, error));
    }
    return HYPURA_OK;
}

hypura_status gpu_pass_end_again(struct batch *batch, hypura_error *error)
{
    for (size_t d = 0; d < COUNT_OF(batch->passes); d++) {
        struct gpu_pass *pass = batch->passes[d];
        if (!pass || !pass->again)
            continue;
        pass->again = false;
        TRY(pass_send(pass, error));
        TRY(gpu_wait(pass->gpu, pass->last, error));
    }
    return HYPURA_OK;
}
