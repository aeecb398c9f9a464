/* Passes the residual stream through the device's layers, and between host and device. */
#include "engine/gpu/pass.h"

/* The most layers per batch of commands: the device computes one batch while the next is recorded. Drivers reset a
 * device that takes some seconds for a batch, so a long prompt on a slow device gets fewer layers. */
#define LAYERS_A_BATCH 4u
#define BATCH_SECONDS 1.0

const enum step_buffer pass_carried[PASS_CARRIED] = {BUFFER_HIDDEN, BUFFER_BANK, BUFFER_CHOSEN, BUFFER_SIDES,
                                                     BUFFER_TOKEN};

/* ---- between host and device ---------------------------------------------------------------------------------------
 */

hypura_status pass_finish(struct batch *batch, hypura_error *error)
{
    TRY(pass_send(batch->pass, error));
    TRY(pass_host_share(batch, error));
    TRY(gpu_wait(batch->pass->gpu, batch->pass->last, error));
    return pass_let_go(batch, error);
}

static void fill_scales(const struct batch *batch, float *out)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    for (size_t r = 0; r < batch->rows; r++) {
        out[r] = query_sharpness(p, batch->scratch.positions[r]);
    }
}

/* Whether the current run's commands were recorded ahead, so that only what they read must be filled in. */
static bool runs_ahead(const struct gpu_pass *pass)
{
    return pass->ahead.used && !pass->ahead.recording;
}

/* Long batches are copied by several threads: one does not keep up with two cards. */
#define PIECE_BYTES ((size_t)1 << 20)

static void copy_bytes(const struct batch *batch, void *to, const void *from, size_t bytes)
{
    thread_pool_copy(compute_pool(batch->compute), to, from, bytes, PIECE_BYTES);
}

/* Where rows of the current part begin in memory that both sides see. Each part of a prompt has its own rows there. */
static struct shared_part at_first_row(const struct gpu_pass *pass, const struct shared_part *part, size_t row_bytes)
{
    struct shared_part at = *part;
    at.range.offset += pass->first_row * row_bytes;
    at.host = (uint8_t *)at.host + pass->first_row * row_bytes;
    return at;
}

static void send_part(const struct batch *batch, struct gpu_range to, const struct shared_part *part, const void *bytes,
                      size_t row_bytes)
{
    struct gpu_pass *pass = batch->pass;
    const struct shared_part from = at_first_row(pass, part, row_bytes);
    if (row_bytes == 0)
        return;
    if (!pass->ahead.recording)
        copy_bytes(batch, from.host, bytes, batch->rows * row_bytes);
    if (!runs_ahead(pass))
        gpu_copy(pass->gpu, to, from.range, batch->rows * row_bytes);
}

/* Whether some layer's experts follow from the token ids. */
static bool reads_tokens(const struct batch *batch)
{
    const struct step_list all = steps_all(batch->open->steps);
    for (size_t i = 0; i < all.count; i++)
        if (all.steps[i].kind == STEP_ROUTE && all.steps[i].route.table != NO_UNIT)
            return true;
    return false;
}

/* Sends the angles of the first positions of blocks that end in this batch. */
static void send_blocks(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    uint32_t every[PASS_BLOCKS];
    for (uint32_t i = MIN(pass_find_blocks(&batch->open->geometry, every), PASS_BLOCKS); i-- > 0;) {
        const struct shared_part *from = &pass->up_parts.block_rope[i];
        const uint32_t count = pass_fill_blocks(batch, every[i], pass->ahead.recording ? NULL : from->host);
        if (count && !runs_ahead(pass))
            gpu_copy(pass->gpu, pass->block_rope[i], from->range,
                     (uint64_t)count * model_parameters(batch->open->model)->rotary * sizeof(float));
    }
}

/* Sends what depends on the positions and tokens of the batch. */
static void send_inputs(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    const struct model_parameters *p = model_parameters(batch->open->model);
    const struct scratch *s = &batch->scratch;
    if (pass->inputs_sent)
        return;
    send_part(batch, pass->rope[0], &pass->up_parts.rope[0], s->rope[0], p->rotary * sizeof(float));
    if (batch->open->rope_local.half)
        send_part(batch, pass->rope[1], &pass->up_parts.rope[1], s->rope[1], p->rotary_local * sizeof(float));
    if (reads_tokens(batch))
        send_part(batch, pass->tokens, &pass->up_parts.tokens, batch->asked->tokens, sizeof(int32_t));
    send_blocks(batch);
    if (p->attention_temperature_scale != 0.0f) {
        const struct shared_part scales = at_first_row(pass, &pass->up_parts.scales, sizeof(float));
        if (!pass->ahead.recording)
            fill_scales(batch, scales.host);
        if (!runs_ahead(pass))
            gpu_copy(pass->gpu, pass->scales, scales.range, batch->rows * sizeof(float));
    }
    pass->inputs_sent = true;
}

/* Bytes per row. */
static size_t carried_bytes(const struct batch *batch, size_t number)
{
    return batch->open->geometry.widths[pass_carried[number]] * sizeof(float);
}

void pass_to_device(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    if (!runs_ahead(pass))
        pass_record(pass);
    if (pass->on_device && pass->inputs_sent)
        return;
    send_inputs(batch);
    for (size_t i = 0; i < PASS_CARRIED && !pass->on_device; i++)
        send_part(batch, pass->rows[pass_carried[i]], &pass->up_parts.carried[i],
                  batch->scratch.buffers[pass_carried[i]], carried_bytes(batch, i));
    gpu_barrier(pass->gpu);
    pass->on_device = true;
}

void pass_record_leaving(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    if (runs_ahead(pass))
        return; /* it was recorded ahead */
    pass_record(pass);
    pass_settle(pass);
    for (size_t i = 0; i < PASS_CARRIED; i++)
        gpu_copy(pass->gpu, at_first_row(pass, &pass->back_parts.carried[i], carried_bytes(batch, i)).range,
                 pass->rows[pass_carried[i]], batch->rows * carried_bytes(batch, i));
}

const void *pass_left(const struct batch *batch, size_t number)
{
    return at_first_row(batch->pass, &batch->pass->back_parts.carried[number], carried_bytes(batch, number)).host;
}

void pass_take_leaving(struct batch *batch)
{
    for (size_t i = 0; i < PASS_CARRIED; i++)
        if (carried_bytes(batch, i))
            copy_bytes(batch, batch->scratch.buffers[pass_carried[i]], pass_left(batch, i),
                       batch->rows * carried_bytes(batch, i));
    batch->pass->on_device = false;
}

hypura_status gpu_pass_to_host(struct batch *batch, hypura_error *error)
{
    if (!batch->pass || !batch->pass->on_device)
        return HYPURA_OK;
    pass_record_leaving(batch);
    TRY(pass_finish(batch, error));
    pass_take_leaving(batch);
    return HYPURA_OK;
}

/* ---- from tokens to the last layer ---------------------------------------------------------------------------------
 */

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
    if (runs_ahead(pass)) {
        send_part(batch, pass->tokens, &pass->up_parts.tokens, tokens, sizeof *tokens);
        return HYPURA_OK;
    }
    pass_record(pass);
    send_part(batch, pass->tokens, &pass->up_parts.tokens, tokens, sizeof *tokens);
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

hypura_status pass_run_layer(struct batch *batch, uint32_t number, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    if (runs_ahead(pass)) {
        pass->open = !pass->on_device || !pass->inputs_sent;
        if (pass->open) {
            TRY(pass_fill_table(batch, number, plan_gpu_run_end(batch->open->plan->gpu, number), error));
            pass_to_device(batch);
        }
        return pass_send(pass, error);
    }
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
