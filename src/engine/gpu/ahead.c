/* The commands of the next token, recorded while the device computes this one. So it starts as soon as the token is
 * chosen, and need not wait for the CPU between layers. The commands read the token, and what depends only on
 * positions, from mapped memory, which is filled in once they are known. */
#include "engine/gpu/pass.h"

/* A token that takes longer is sent in parts, so that a slow device can be told from one that hangs. */
#define MOST_SECONDS 2.0

/* Whether devices compute all of a token, except perhaps the embedding, and it passes each only once. */
bool pass_devices_do_all(const struct batch *batch)
{
    const struct plan_gpu *plan = batch->open->plan->gpu;
    const struct model_parameters *p = model_parameters(batch->open->model);
    for (uint32_t i = 0; i < plan->layer_count; i++)
        if (!plan->layers[i] || (i && plan->devices[i] < plan->devices[i - 1]) ||
            (steps_find(steps_of_layer(batch->open->steps, i), STEP_EXPERTS) && plan->slots[i] < p->experts))
            return false;
    return plan->parts[plan->devices[plan->layer_count - 1]].output;
}

/* Whether a batch has one token of each of a few sequences, and all logits are wanted. */
static bool is_step(const struct batch *batch)
{
    return batch->rows <= GPU_VECTOR_TOKENS && batch->span_count == batch->rows && batch->wanted == batch->rows &&
           batch->wanted <= batch->open->geometry.logits_rows && !batch->trace;
}

void pass_expect(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    const struct scratch *s = &batch->scratch;
    struct ahead *ahead = &pass->ahead;
    bool step = is_step(batch);
    ahead->expected = step && ahead->rows == batch->rows;
    for (uint32_t r = 0; ahead->expected && r < ahead->rows; r++)
        ahead->expected = s->spans[r].sequence == ahead->sequences[r] && s->positions[r] == ahead->positions[r];
    ahead->used = ahead->ready && ahead->expected;
    if (!ahead->used)
        pass_drop_ahead(pass);
    ahead->ready = false;
    ahead->rows = step ? (uint32_t)batch->rows : 0;
    for (uint32_t r = 0; r < ahead->rows; r++) {
        ahead->sequences[r] = s->spans[r].sequence;
        ahead->positions[r] = s->positions[r] + 1;
    }
}

/* Records the current device's part of a token. */
static hypura_status record(struct batch *batch)
{
    const struct gpu_pass *pass = batch->pass;
    bool done;
    if (pass->plan->layers[0])
        TRY(gpu_pass_embed(batch, NULL, &done, NULL)); /* else the CPU embeds */
    for (uint32_t i = 0; i < pass->plan->layer_count; i++)
        if (pass->plan->layers[i])
            TRY(pass_run_layer(batch, i, NULL));
    if (pass->plan->output)
        return pass_record_output(batch, 0, batch->wanted, NULL);
    pass_record_leaving(batch);
    return HYPURA_OK;
}

void pass_record_ahead(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    struct ahead *ahead = &pass->ahead;
    /* An expected batch is likely to be followed by another. */
    if (!ahead->possible || !ahead->expected || ahead->seconds > MOST_SECONDS)
        return;
    for (uint32_t r = 0; r < ahead->rows; r++)
        if (ahead->positions[r] >= batch->open->plan->positions)
            return;
    const struct gpu_pass before = *pass;
    ahead->recording = true;
    pass->on_device = pass->inputs_sent = false;
    for (uint32_t r = 0; r < ahead->rows; r++)
        batch->scratch.positions[r]++;
    hypura_status status = record(batch);
    for (uint32_t r = 0; r < ahead->rows; r++)
        batch->scratch.positions[r]--;
    *pass = before;
    ahead->ready = status == HYPURA_OK && gpu_recorded(pass->gpu) == HYPURA_OK;
    if (!ahead->ready)
        gpu_drop(pass->gpu);
}
