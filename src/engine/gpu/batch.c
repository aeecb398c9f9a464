/* A batch from its beginning to its logits. */
#include "engine/gpu/pass.h"

#include <string.h>

void pass_begin_rows(struct gpu_pass *pass, uint32_t first_row)
{
    pass->sent = 0;
    pass->first_row = first_row;
    pass->latent.grouped = 0;
    memset(pass->state, 0, sizeof pass->state); /* ROWS_FLOATS */
    pass->on_device = pass->inputs_sent = false;
    pass->logits_at = pass->hidden_at = NULL;
}

void gpu_pass_begin(struct batch *batch)
{
    for (size_t d = 0; d < COUNT_OF(batch->passes); d++) {
        struct gpu_pass *pass = batch->passes[d];
        if (!pass)
            continue;
        batch->pass = pass;
        pass_begin_rows(pass, 0);
        pass->again = false;
        pass_expect(batch);
        pass->ahead.begun = clock_nanoseconds();
    }
}

/* Ends all work of a device. Without its signal, batches that wait for the CPU would wait forever. */
static void abandon(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    if (pass->open) {
        pass_send(pass, NULL); /* nothing reads what it writes */
    }
    gpu_release(pass->gpu);
    pass->ahead.sent = pass->host_share.waiting = false;
    /* Drops commands that were recorded ahead for this batch and not sent; otherwise the next ones would be added to
     * them. */
    gpu_drop(pass->gpu);
    pass->ahead.ready = false;
    gpu_wait(pass->gpu, pass->last, NULL);
    gpu_upload_wait(pass->gpu, pass->wait_upload, NULL);
    pass->wait_upload = 0;
    pass_let_go(batch, NULL);
}

void gpu_pass_abandon(struct batch *batch)
{
    for (size_t d = 0; d < COUNT_OF(batch->passes); d++) {
        if (!batch->passes[d])
            continue;
        batch->pass = batch->passes[d];
        abandon(batch);
    }
}

/* next: the layer with which the next run begins, 0 for the next token; NO_LAYER: there is none. */
static hypura_status finish(struct batch *batch, uint32_t next, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    TRY(pass_send(pass, error));
    if (next != NO_LAYER)
        pass_record_ahead(batch, next);
    if (next != NO_LAYER && next > 0)
        TRY(pass_send_early(batch, next, error));
    TRY(pass_finish(batch, error));
    pass->ahead.seconds = clock_seconds_since(pass->ahead.begun);
    return HYPURA_OK;
}

/* If the next layer is on another device, hands on what the last layer left. */
static hypura_status hand_on(struct batch *batch, uint32_t layer, hypura_error *error)
{
    struct gpu_pass *from = batch->pass;
    const bool leaves = from->on_device && batch->open->plan->gpu->devices[layer] != from->number;
    if (leaves) {
        pass_record_leaving(batch);
        TRY(finish(batch, layer, error));
        from->on_device = false;
    }
    pass_choose(batch, layer);
    if (!leaves)
        return HYPURA_OK;
    pass_hand_on(batch, from);
    struct ahead *ahead = &batch->pass->ahead;
    batch->pass->handed_on = true;
    if (plan_gpu_comes_back(batch->open->plan->gpu) && !ahead->sent) { /* otherwise, pass_expect knows */
        ahead->used = ahead->ready;
        ahead->ready = false;
    }
    return HYPURA_OK;
}

hypura_status gpu_pass_layer(struct batch *batch, uint32_t number, hypura_error *error)
{
    TRY(hand_on(batch, number, error));
    return pass_run_layer(batch, number, error);
}

hypura_status gpu_pass_output(struct batch *batch, const struct engine_batch *asked, bool *done, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    *done = pass && pass->plan->output && pass->on_device; /* the last layer is on its device */
    if (!*done)
        return HYPURA_OK;
    const bool divides = pass_divides_output(batch);
    pass->hidden_at = divides ? pass->divided.rows.host : pass->back_parts.hidden.host;
    pass->logits_at = divides ? pass->divided.logits.host : pass->back_parts.logits.host;
    if (divides) {
        TRY(pass_end_divided(batch, error));
        pass->ahead.seconds = clock_seconds_since(pass->ahead.begun);
        return give_logits(batch, asked, 0, batch->wanted, pass->logits_at, error);
    }
    size_t first = 0;
    do {
        size_t count = MIN(batch->wanted - first, (size_t)batch->open->geometry.logits_rows);
        if (!pass->ahead.used)
            TRY(pass_record_output(batch, first, count, error));
        TRY(finish(batch, first + count == batch->wanted ? 0 : NO_LAYER, error));
        TRY(give_logits(batch, asked, first, count, pass->logits_at, error));
        first += count;
    } while (first < batch->wanted);
    return HYPURA_OK;
}

hypura_status gpu_pass_end(struct batch *batch, hypura_error *error)
{
    return batch->pass && batch->pass->on_device ? finish(batch, NO_LAYER, error) : HYPURA_OK;
}

hypura_status gpu_pass_predict(struct batch *batch, const struct step_output *output, const float *row, float *logits,
                               bool *done, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    struct gpu_pass *pass = pass_with_output(batch);
    *done = pass && pass->plan->units[output->unit];
    if (!*done)
        return HYPURA_OK;
    batch->pass = pass;
    pass_drop_ahead(pass);
    memcpy(pass->up_parts.carried[0].host, row, p->embedding * sizeof *row);
    pass_record(pass);
    gpu_copy(pass->gpu, pass->picked, pass->up_parts.carried[0].range, p->embedding * sizeof *row);
    gpu_barrier(pass->gpu);
    pass_record_logits(batch, output, pass->picked, 1);
    TRY(pass_finish(batch, error));
    memcpy(logits, pass->back_parts.logits.host, p->vocabulary * sizeof *logits);
    return HYPURA_OK;
}

const float *gpu_pass_logits(const struct batch *batch)
{
    const struct gpu_pass *pass = pass_with_output(batch);
    return pass ? pass->logits_at : NULL;
}

const float *gpu_pass_hidden(const struct batch *batch)
{
    const struct gpu_pass *pass = pass_with_output(batch);
    return pass ? pass->hidden_at : NULL;
}
