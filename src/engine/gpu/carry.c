/* Rows on their way between host and devices, and what depends on the positions of a batch. */
#include "engine/gpu/pass.h"

const enum step_buffer pass_carried[PASS_CARRIED] = {BUFFER_HIDDEN, BUFFER_BANK, BUFFER_CHOSEN, BUFFER_SIDES,
                                                     BUFFER_TOKEN};

static void fill_scales(const struct batch *batch, float *out)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    for (size_t r = 0; r < batch->rows; r++) {
        out[r] = query_sharpness(p, batch->scratch.positions[r]);
    }
}

bool pass_runs_ahead(const struct gpu_pass *pass)
{
    return pass->ahead.used && !pass->ahead.recording;
}

/* Long batches are copied by several threads: one does not keep up with two cards. */
#define PIECE_BYTES ((size_t)1 << 20)

static void copy_bytes(const struct batch *batch, void *to, const void *from, size_t bytes)
{
    if (to != from) /* devices may share the memory */
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

void pass_send_part(const struct batch *batch, struct gpu_range to, const struct shared_part *part, const void *bytes,
                    size_t row_bytes)
{
    struct gpu_pass *pass = batch->pass;
    const struct shared_part from = at_first_row(pass, part, row_bytes);
    if (row_bytes == 0)
        return;
    if (!pass->ahead.recording && bytes)
        copy_bytes(batch, from.host, bytes, batch->rows * row_bytes);
    if (!pass_runs_ahead(pass))
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
        if (count && !pass_runs_ahead(pass))
            gpu_copy(pass->gpu, pass->block_rope[i], from->range,
                     (uint64_t)count * model_parameters(batch->open->model)->rotary * sizeof(float));
    }
}

void pass_send_inputs(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    const struct model_parameters *p = model_parameters(batch->open->model);
    const struct scratch *s = &batch->scratch;
    if (pass->inputs_sent)
        return;
    pass_send_part(batch, pass->rope[0], &pass->up_parts.rope[0], s->rope[0], p->rotary * sizeof(float));
    if (batch->open->rope_local.half)
        pass_send_part(batch, pass->rope[1], &pass->up_parts.rope[1], s->rope[1], p->rotary_local * sizeof(float));
    if (reads_tokens(batch))
        pass_send_part(batch, pass->tokens, &pass->up_parts.tokens, batch->asked->tokens, sizeof(int32_t));
    send_blocks(batch);
    if (p->attention_temperature_scale != 0.0f) {
        const struct shared_part scales = at_first_row(pass, &pass->up_parts.scales, sizeof(float));
        if (!pass->ahead.recording)
            fill_scales(batch, scales.host);
        if (!pass_runs_ahead(pass))
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
    if (!pass_runs_ahead(pass))
        pass_record(pass);
    if (pass->on_device && pass->inputs_sent)
        return;
    pass_send_inputs(batch);
    for (size_t i = 0; i < PASS_CARRIED && !pass->on_device; i++)
        pass_send_part(batch, pass->rows[pass_carried[i]], &pass->up_parts.carried[i],
                       pass->handed_on ? NULL : batch->scratch.buffers[pass_carried[i]], carried_bytes(batch, i));
    gpu_barrier(pass->gpu);
    pass->on_device = true;
    pass->handed_on = false;
}

void pass_record_leaving(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    if (pass_runs_ahead(pass))
        return; /* it was recorded ahead */
    pass_record(pass);
    pass_settle(pass);
    for (size_t i = 0; i < PASS_CARRIED; i++)
        gpu_copy(pass->gpu, at_first_row(pass, &pass->back_parts.carried[i], carried_bytes(batch, i)).range,
                 pass->rows[pass_carried[i]], batch->rows * carried_bytes(batch, i));
}

void pass_hand_on(const struct batch *batch, const struct gpu_pass *from)
{
    for (size_t i = 0; i < PASS_CARRIED; i++) {
        const size_t bytes = carried_bytes(batch, i);
        copy_bytes(batch, at_first_row(batch->pass, &batch->pass->up_parts.carried[i], bytes).host,
                   at_first_row(batch->pass, &from->back_parts.carried[i], bytes).host, batch->rows * bytes);
    }
}

/* Copies what the device left to the scratch. */
static void take_leaving(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    for (size_t i = 0; i < PASS_CARRIED; i++) {
        const size_t bytes = carried_bytes(batch, i);
        if (bytes)
            copy_bytes(batch, batch->scratch.buffers[pass_carried[i]],
                       at_first_row(pass, &pass->back_parts.carried[i], bytes).host, batch->rows * bytes);
    }
    pass->on_device = false;
}

hypura_status gpu_pass_to_host(struct batch *batch, hypura_error *error)
{
    if (!batch->pass || !batch->pass->on_device)
        return HYPURA_OK;
    pass_record_leaving(batch);
    TRY(pass_finish(batch, error));
    take_leaving(batch);
    return HYPURA_OK;
}
