/* The commands of the next token, recorded while the device computes this one: so it starts as soon as the token is
 * chosen, and need not wait for the CPU between layers. What the token is, and what depends on positions alone, is read
 * from mapped memory, which is filled when it is known; all else is as if it had been recorded then. */
#include "engine/gpu/pass.h"

/* A token that takes longer is sent in parts, so that a device which hangs is told from one that is slow. */
#define MOST_SECONDS 2.0

/* Whether the device computes all of a token, but perhaps the embedding. */
bool pass_can_record_ahead(const struct batch *batch)
{
    const struct gpu_pass *pass = batch->pass;
    const struct model_parameters *p = model_parameters(batch->open->model);
    if (!pass->plan->output)
        return false;
    for (uint32_t i = 0; i < p->layers; i++)
        if (!pass->plan->layers[i] ||
            (steps_find(steps_of_layer(batch->open->steps, i), STEP_EXPERTS) && pass->slots[i].count < p->experts))
            return false;
    return true;
}

/* Whether a batch is one token of each of a few sequences, with logits of all. */
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
    if (ahead->ready && !ahead->used)
        gpu_drop(pass->gpu);
    ahead->ready = false;
    ahead->rows = step ? (uint32_t)batch->rows : 0;
    for (uint32_t r = 0; r < ahead->rows; r++) {
        ahead->sequences[r] = s->spans[r].sequence;
        ahead->positions[r] = s->positions[r] + 1;
    }
}

static hypura_status record(struct batch *batch)
{
    bool done;
    TRY(gpu_pass_embed(batch, NULL, &done, NULL)); /* or the CPU does it */
    for (uint32_t i = 0; i < model_parameters(batch->open->model)->layers; i++)
        TRY(gpu_pass_layer(batch, i, NULL));
    return pass_record_output(batch, 0, batch->wanted, NULL);
}

void pass_record_ahead(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    struct ahead *ahead = &pass->ahead;
    /* One that was expected is likely to be followed by another. */
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
